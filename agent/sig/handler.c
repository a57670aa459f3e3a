/* SPDX-License-Identifier: MIT
 *
 * See handler.h. Runs on the host thread whose timer expired, at any instruction of the host, of libc or of our own
 * hooks. The thread's record comes with the signal (sival_ptr), not from thread-local storage, because a thread made by
 * a raw clone may share another one's. Uses 0.5 KiB of the host's stack beside what the kernel puts there: the walk writes
 * straight into the ring.
 */
#include "agent/sig/handler.h"

#include <errno.h>
#include <stddef.h>
#include <sys/auxv.h>

#include "agent/hook/real.h"
#include "agent/sig/ring.h"
#include "agent/sig/unwind.h"
#include "agent/thread.h"

#include "agent/sig/poison.h"

/* Constant after start. */
static struct {
	uintptr_t threads;
	uint32_t count, stride;
	unsigned depth;
} setup;

void handler_start(const void *threads, uint32_t count, uint32_t stride, unsigned depth)
{
	setup.threads = (uintptr_t)threads;
	setup.count = count;
	setup.stride = stride;
	setup.depth = depth;
}

static bool ours(const siginfo_t *info)
{
	uintptr_t offset = (uintptr_t)info->si_value.sival_ptr - setup.threads;

	return info->si_code == SI_TIMER && offset % setup.stride == 0 &&
	       offset / setup.stride < setup.count;
}

sighandler_t _Atomic handler_host = SIG_DFL;

/* Somebody sends our signal, which the host does not handle: unless it ignores it, that ends it, as it would without us. */
static __attribute__((noinline, cold)) void die(int number)
{
	struct sigaction action = { .sa_handler = SIG_DFL };

	if (atomic_load_explicit(&handler_host, memory_order_relaxed) == SIG_IGN)
		return;
	real.sigaction(number, &action, NULL);
	raise(number); /* blocked until we return */
}

static struct thread *thread_of(const siginfo_t *info)
{
	struct thread *t = info->si_value.sival_ptr;

	return atomic_load_explicit(&t->life, memory_order_acquire) == THREAD_LIVE ? t : NULL;
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	int saved = errno;
	struct thread *t = ours(info) ? thread_of(info) : NULL;
	uint64_t start = clock_ns(), end_ns, due;
	struct sample_record *record;
	struct unwind_stack stack = { 0 };
	struct unwind_regs regs;
	enum unwind_end end;

	if (!t) {
		if (info->si_code == SI_TIMER) /* perhaps of a thread that is gone */
			drop(DROP_REENTRY);
		else
			die(number);
		errno = saved;
		return;
	}
	record = ring_reserve(&t->ring,
			      (uint32_t)(sizeof *record + setup.depth * sizeof record->pcs[0]));
	if (!record) {
		drop(DROP_RING);
		errno = saved;
		return;
	}
	unwind_regs_from(&regs, context);
	stack.low = atomic_load_explicit(&t->stack_low, memory_order_relaxed);
	stack.high = atomic_load_explicit(&t->stack_high, memory_order_relaxed);
	record->record.kind = RECORD_SAMPLE;
	record->request = atomic_load_explicit(&t->current, memory_order_relaxed);
	record->weight_ns = (uint64_t)t->timer_period_ns * (1 + (uint64_t)info->si_overrun);
	due = atomic_load_explicit(&t->due_ns, memory_order_relaxed);
	if (due)
		atomic_store_explicit(&t->due_ns, due + record->weight_ns, memory_order_relaxed);
	if (unlikely(!stack.high)) /* nobody told: the agent looks it up */
		atomic_store_explicit(&t->stack_seen, regs.sp, memory_order_relaxed);
	record->depth = unwind_walk(&regs, &stack, record->pcs, setup.depth, &end);
	record->end = end;
	ring_commit(&t->ring, (uint32_t)(sizeof *record + record->depth * sizeof record->pcs[0]));
	atomic_store_explicit(&t->news, atomic_load_explicit(&t->news, memory_order_relaxed) + 1,
			      memory_order_release); /* after the commit: the agent's cue */
	end_ns = clock_ns();
	atomic_store_explicit(&t->handler_ns,
			      atomic_load_explicit(&t->handler_ns, memory_order_relaxed) +
				      (end_ns > start ? end_ns - start : 0),
			      memory_order_relaxed);
	errno = saved;
}

bool handler_is_ours(const struct sigaction *action)
{
	return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == on_signal;
}

/*
 * Everything waits for the microsecond that we take, glibc's own signals too (sigfillset() leaves them out): a handler of
 * the host's on top of ours would deepen the stack, and might jump or be cancelled out of a walk, which must not be. But
 * for faults: one that we were to cause should reach the host's crash handler rather than be a silent death.
 */
static void mask_fill(sigset_t *mask)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT };

	for (size_t i = 0; i < sizeof mask->__val / sizeof *mask->__val; i++)
		mask->__val[i] = ~0ul;
	for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
		sigdelset(mask, faults[i]);
}

/*
 * SA_ONSTACK: a host with coroutines on stacks of a few KiB, or with Go in it, has given its threads an alternate stack for
 * every signal; on the others it changes nothing. But a crash handler's may be of 2 KiB, and never used: there the kernel
 * would find no room for its frame, and kill the host. Such a host has no stacks that are smaller still: off it, then.
 */
static atomic_int on_altstack = SA_ONSTACK;

enum {
	OUR_STACK_BYTES = 1536,    /* tests/unit/test_handler.c: 1 KiB at most */
	KERNEL_FRAME_BYTES = 4096, /* where the kernel does not say */
};

size_t handler_stack_bytes(void)
{
	unsigned long frame = getauxval(AT_MINSIGSTKSZ);

	return (frame ? frame : KERNEL_FRAME_BYTES) + OUR_STACK_BYTES;
}

static struct sigaction action_of(void)
{
	struct sigaction action = { .sa_sigaction = on_signal,
				    .sa_flags = SA_SIGINFO | SA_RESTART |
						atomic_load_explicit(&on_altstack,
								     memory_order_relaxed) };

	mask_fill(&action.sa_mask);
	return action;
}

void handler_leave_altstacks(int number)
{
	struct sigaction action;

	if (!atomic_exchange_explicit(&on_altstack, 0, memory_order_relaxed))
		return;
	action = action_of();
	real.sigaction(number, &action, NULL);
}

void handler_show(int number, bool ours)
{
	struct sigaction action = action_of();

	if (!number || atomic_load_explicit(&handler_host, memory_order_relaxed) != SIG_IGN)
		return;
	if (!ours)
		action = (struct sigaction){ .sa_handler = SIG_IGN };
	real.sigaction(number, &action, NULL);
}

int handler_install(int from)
{
	struct sigaction action = action_of();

	for (int number = from ? from : SIGRTMIN + 5; number <= SIGRTMAX; number++) {
		struct sigaction now;

		if (real.sigaction(number, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
		    now.sa_handler == SIG_DFL && real.sigaction(number, &action, NULL) == 0)
			return number;
	}
	return 0;
}
