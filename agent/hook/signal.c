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

/* Sampling leaves @number to the host. */
static void yield(int number)
{
	static atomic_flag moving = ATOMIC_FLAG_INIT;
	int saved = errno;

	if (!atomic_flag_test_and_set_explicit(&moving, memory_order_acquire)) {
		if (thread_setup.signal == number)
			thread_move_timers(handler_install(number + 1));
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

/* @set may be the same memory as @old. */
#define MASKING(function)                                                                          \
  sigset_t copy;                                                                                   \
  bool had = ours() && (uintptr_t)set >= 4096 && has(set, ours());                                 \
  const sigset_t *wanted = how == SIG_UNBLOCK ? set : without_ours(set, &copy);                    \
  int number, r;                                                                                   \
                                                                                                   \
  r = REAL(function)(how, wanted, old);                                                            \
  number = ours();                                                                                 \
  if (r == 0 && number)                                                                            \
    believe(number, how, set, had && (how == SIG_UNBLOCK || wanted != set), old);                  \
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

static bool is_handler(const struct sigaction *action)
{
	return (action->sa_flags & SA_SIGINFO) ||
	       (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN);
}

/* The host finds our signal as it was before us, and resetting it has no effect. */
EXPORT int sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
	static void (*_Atomic host)(int) = SIG_DFL;
	int r;

	if (unlikely(ours() && number == ours()) && action) {
		if (is_handler(action)) {
			yield(number);
		} else {
			void (*before)(int) = atomic_exchange_explicit(&host, action->sa_handler,
								       memory_order_relaxed);

			if (old)
				*old = (struct sigaction){ .sa_handler = before };
			return 0;
		}
	}
	r = REAL(sigaction)(number, action, old);
	if (r == 0 && old && handler_is_ours(old))
		*old = (struct sigaction){ .sa_handler = atomic_load_explicit(
						   &host, memory_order_relaxed) };
	return r;
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

#define JUMPING(function)                                                                          \
  struct thread *t = hook_entered();                                                               \
                                                                                                   \
  if (t)                                                                                           \
    wait_jumped(t);                                                                                \
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
