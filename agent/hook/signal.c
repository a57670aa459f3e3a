/* SPDX-License-Identifier: MIT
 *
 * The host's signal masks and actions. Our sampling signal is hidden from whoever means "all signals": it is never blocked
 * for long (Apache blocks everything in its threads: no samples), never returned by sigwait. A host that means just this
 * number, with a handler, or a mask that has it and not its neighbours, gets it: sampling moves to another one.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/hook/exports.h"
#include "agent/hook/guard.h"
#include "agent/hook/thread.h"
#include "agent/hook/wait.h"
#include "agent/sig/handler.h"

static int ours(void)
{
	return tls.outside || tls.in_vfork ? 0 : thread_setup.signal;
}

static void masks_move(int from, int to);

/* Sampling leaves @number to the host. */
static void yield(int number)
{
	static atomic_flag moving = ATOMIC_FLAG_INIT;
	int saved = errno;

	if (!atomic_flag_test_and_set_explicit(&moving, memory_order_acquire)) {
		if (thread_setup.signal == number) {
			thread_move_timers(handler_install(number + 1));
			masks_move(number, thread_setup.signal);
			atomic_store_explicit(&handler_host, SIG_DFL, memory_order_relaxed);
		}
		atomic_flag_clear_explicit(&moving, memory_order_release);
	}
	errno = saved;
}

static bool has(const sigset_t *set, int number)
{
	return sigismember(set, number) == 1;
}

/* Whether @set has our signal among others like it. When it has ours alone, that is for the host from now on. */
static bool by_the_way(const sigset_t *set)
{
	int number = ours();

	if (!number || (uintptr_t)set < 4096 || !has(set, number))
		return false;
	if (has(set, number - 1) && (number == SIGRTMAX || has(set, number + 1)))
		return true;
	yield(number);
	return false;
}

static const sigset_t *without_ours(const sigset_t *set, sigset_t *copy)
{
	if (!by_the_way(set))
		return set;
	*copy = *set;
	sigdelset(copy, thread_setup.signal);
	return copy;
}

/* What the host believes about our signal in its mask, after @how with @set; @old is told what it believed before. */
static void believe(int number, int how, const sigset_t *set, bool had, sigset_t *old)
{
	if (old) {
		if (tls.blocks)
			sigaddset(old, number);
		else
			sigdelset(old, number);
	}
	if (!set)
		return;
	if (how == SIG_SETMASK)
		tls.blocks = had;
	else if (had)
		tls.blocks = how == SIG_BLOCK;
}

static bool in_altstack(uintptr_t sp)
{
	return sp - tls.alt_low < tls.alt_bytes;
}

static bool on_altstack(void)
{
	return in_altstack((uintptr_t)__builtin_frame_address(0));
}

/* What the kernel is told for @set: @hidden says whether our signal, if it is in there, is not. See sigaltstack() below. */
static const sigset_t *mask_for(int how, const sigset_t *set, sigset_t *copy, bool *hidden)
{
	const sigset_t *wanted = how == SIG_UNBLOCK ? set : without_ours(set, copy);

	*hidden = how == SIG_UNBLOCK || wanted != set;
	if (likely(!on_altstack()) || !ours() || (uintptr_t)set < 4096)
		return wanted;
	*copy = *wanted;
	if (how == SIG_SETMASK)
		sigaddset(copy, ours());
	else if (how == SIG_UNBLOCK)
		sigdelset(copy, ours());
	return copy;
}

/* @set may be the same memory as @old. */
#define MASKING(function)                                                                          \
  sigset_t copy;                                                                                   \
  bool had = ours() && (uintptr_t)set >= 4096 && has(set, ours()), hidden;                         \
  const sigset_t *wanted = mask_for(how, set, &copy, &hidden);                                     \
  int number, r;                                                                                   \
                                                                                                   \
  r = REAL(function)(how, wanted, old);                                                            \
  number = ours();                                                                                 \
  if (r == 0 && number)                                                                            \
    believe(number, how, set, had &&hidden, old);                                                  \
  return r

EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	MASKING(pthread_sigmask);
}

EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	MASKING(sigprocmask);
}

EXPORT int sigwait(const sigset_t *set, int *number)
{
	sigset_t copy;

	return REAL(sigwait)(without_ours(set, &copy), number);
}

EXPORT int sigwaitinfo(const sigset_t *set, siginfo_t *info)
{
	sigset_t copy;

	return REAL(sigwaitinfo)(without_ours(set, &copy), info);
}

EXPORT int sigtimedwait(const sigset_t *set, siginfo_t *info, const struct timespec *timeout)
{
	sigset_t copy;

	return REAL(sigtimedwait)(without_ours(set, &copy), info, timeout);
}

EXPORT int signalfd(int fd, const sigset_t *mask, int flags)
{
	sigset_t copy;

	return REAL(signalfd)(fd, without_ours(mask, &copy), flags);
}

/* ---- Alternate stacks ---- */

/*
 * The host's handlers may use an alternate stack up to its end: a sampling signal on top of one would not fit, and the kernel
 * would kill the host. So while one runs, ours is blocked: it is added to the mask of each such handler, and what the host
 * asks about that mask is answered without it. The sample comes when the handler returns.
 */
static bool is_handler(const struct sigaction *action)
{
	return (action->sa_flags & SA_SIGINFO) ||
	       (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN);
}

/* Bit per signal: its handler's mask has ours, by us. */
static _Atomic uint64_t masked;

static uint64_t bit(int number)
{
	return 1ull << (number - 1);
}

static const struct sigaction *masking_ours(int number, const struct sigaction *action,
					    struct sigaction *copy)
{
	if (number < 1 || number > SIGRTMAX || !ours())
		return action;
	if (!(action->sa_flags & SA_ONSTACK) || !is_handler(action) ||
	    has(&action->sa_mask, ours())) {
		atomic_fetch_and_explicit(&masked, ~bit(number), memory_order_relaxed);
		return action;
	}
	atomic_fetch_or_explicit(&masked, bit(number), memory_order_relaxed);
	*copy = *action;
	sigaddset(&copy->sa_mask, ours());
	return copy;
}

/* Sampling has moved from signal @from: the masks follow it. */
static void masks_move(int from, int to)
{
	uint64_t set = atomic_load_explicit(&masked, memory_order_relaxed);

	for (int number = 1; number <= SIGRTMAX; number++) {
		struct sigaction action;

		if (!(set & bit(number)) || real.sigaction(number, NULL, &action) ||
		    !has(&action.sa_mask, from))
			continue;
		sigdelset(&action.sa_mask, from);
		if (to)
			sigaddset(&action.sa_mask, to);
		real.sigaction(number, &action, NULL);
	}
}

EXPORT int sigaltstack(const stack_t *stack, stack_t *old)
{
	bool sets = ours() && (uintptr_t)stack >= 4096 && !(stack->ss_flags & SS_DISABLE);
	stack_t now = { 0 };
	int r;

	if (sets) {
		now = *stack; /* @old may be the same memory */
		if (now.ss_size < handler_stack_bytes())
			handler_leave_altstacks(ours());
	}
	r = REAL(sigaltstack)(stack, old);
	if (r == 0 && stack && ours()) {
		tls.alt_low = (uintptr_t)now.ss_sp;
		tls.alt_bytes = now.ss_size;
	}
	return r;
}

/* ---- Actions ---- */

/* The host finds our signal as it was before us, and resetting it has no effect. */
EXPORT int sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
	const struct sigaction *wanted = action;
	struct sigaction copy;
	bool by_us;
	int r;

	if (unlikely(ours() && number == ours()) && action) {
		if (is_handler(action)) {
			yield(number);
		} else {
			void (*before)(int) = atomic_exchange_explicit(
				&handler_host, action->sa_handler, memory_order_relaxed);

			if (old)
				*old = (struct sigaction){ .sa_handler = before };
			return 0;
		}
	}
	by_us = number > 0 && number <= SIGRTMAX &&
		atomic_load_explicit(&masked, memory_order_relaxed) & bit(number);
	if ((uintptr_t)action >= 4096)
		wanted = masking_ours(number, action, &copy);
	r = REAL(sigaction)(number, wanted, old);
	if (r || !old)
		return r;
	if (handler_is_ours(old))
		*old = (struct sigaction){ .sa_handler = atomic_load_explicit(
						   &handler_host, memory_order_relaxed) };
	else if (by_us && ours())
		sigdelset(&old->sa_mask, ours());
	return 0;
}
EXPORT_ALIAS(sigaction, __sigaction);

/* signal() and its like never reach our sigaction() from inside libc. */
#define HANDLING(function)                                                                         \
  struct sigaction old;                                                                            \
                                                                                                   \
  if (likely(!ours() || number != ours()))                                                         \
    return REAL(function)(number, handler);                                                        \
  if (handler != SIG_DFL && handler != SIG_IGN) {                                                  \
    yield(number);                                                                                 \
    REAL(function)(number, handler);                                                               \
    return SIG_DFL;                                                                                \
  }                                                                                                \
  sigaction(number, &(struct sigaction){ .sa_handler = handler }, &old);                           \
  return old.sa_handler

EXPORT sighandler_t signal(int number, sighandler_t handler)
{
	HANDLING(signal);
}
EXPORT_ALIAS(signal, bsd_signal);
EXPORT_ALIAS(signal, ssignal);

sighandler_t __sysv_signal(int number, sighandler_t handler);
EXPORT sighandler_t __sysv_signal(int number, sighandler_t handler)
{
	HANDLING(__sysv_signal);
}
EXPORT_ALIAS(__sysv_signal, sysv_signal);

/* ---- Jumps: a wait that the host leaves this way has no end of its own ---- */

/* The stack pointer that @env restores, 0: not known. glibc's PTR_DEMANGLE of JB_RSP. */
static uintptr_t target_of(const struct __jmp_buf_tag *env)
{
#if defined(__x86_64__)
	uintptr_t sp = (uintptr_t)env->__jmpbuf[6];

	__asm__("ror $17, %0\n\txor %%fs:0x30, %0" : "+r"(sp));
	return sp;
#else
	(void)env;
	return 0;
#endif
}

/* Whether a jump to @target, or we know not where, ends the function whose frame is @frame. */
static bool leaves(uintptr_t target, uintptr_t frame)
{
	if (!target || in_altstack(target) != in_altstack(frame))
		return !in_altstack(target);
	return target > frame;
}

static void jumping(struct thread *t, const struct __jmp_buf_tag *env)
{
	wait_jumped(t);
	if (unlikely(t->locks != 0) && leaves(target_of(env), t->locks_frame))
		thread_abandon(t);
}

/*
 * Jumping off an alternate stack, libc sets the mask first: then a sample that has been waiting would come while we are still
 * there. It is thrown away, and none comes before the jump is done. Where the jump keeps the mask, ours alone leaves it.
 */
static __attribute__((noinline)) struct __jmp_buf_tag *
off_altstack(struct thread *t, struct __jmp_buf_tag *env, struct __jmp_buf_tag *copy)
{
	const struct timespec at_once = { 0 };
	sigset_t set;
	int saved = errno;

	if (in_altstack(target_of(env))) /* a handler that jumps about in itself */
		return env;
	sigemptyset(&set);
	sigaddset(&set, thread_setup.signal);
	thread_timer_delay(t);
	/* raw: no place to be cancelled; its time is counted as not sampled */
	syscall(SYS_rt_sigtimedwait, &set, NULL, &at_once, sizeof(uint64_t));
	*copy = *env;
	if (!copy->__mask_was_saved) {
		copy->__mask_was_saved = 1;
		real.pthread_sigmask(SIG_SETMASK, NULL, &copy->__saved_mask);
		sigdelset(&copy->__saved_mask, thread_setup.signal);
	}
	errno = saved;
	return copy;
}

#define JUMPING(function)                                                                          \
  struct thread *t = hook_entered();                                                               \
  struct __jmp_buf_tag copy_;                                                                      \
                                                                                                   \
  if (t) {                                                                                         \
    jumping(t, env);                                                                               \
    if (unlikely(on_altstack()) && thread_setup.signal)                                            \
      env = off_altstack(t, env, &copy_);                                                          \
  }                                                                                                \
  REAL(function)(env, value);                                                                      \
  __builtin_unreachable()

EXPORT __attribute__((noreturn)) void longjmp(jmp_buf env, int value)
{
	JUMPING(longjmp);
}
EXPORT_ALIAS(longjmp, _longjmp);

EXPORT __attribute__((noreturn)) void siglongjmp(sigjmp_buf env, int value)
{
	JUMPING(siglongjmp);
}

void __longjmp_chk(jmp_buf env, int value) __attribute__((noreturn));
EXPORT __attribute__((noreturn)) void __longjmp_chk(jmp_buf env, int value)
{
	JUMPING(__longjmp_chk);
}
