/* SPDX-License-Identifier: MIT
 *
 * See borrow.h. Nobody waits for ever: who borrows needs microseconds, unless it has lost its processor.
 */
#include "agent/hook/borrow.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent/thread.h"

/* 5 us as a rule; a borrower without a processor gets one in some ms even when ten want it. At most 0.2 s. */
enum {
	YIELDS = 50,
	NAPS = 2000,
	NAP_NS = 50000
};

/* Whether @count comes down to zero soon. */
static bool falls_to_zero(const _Atomic uint32_t *count)
{
	const struct timespec nap = { .tv_nsec = NAP_NS };
	int saved = errno;
	unsigned i = 0;

	while (atomic_load_explicit(count, memory_order_seq_cst) && i++ < YIELDS + NAPS)
		if (i <= YIELDS)
			syscall(SYS_sched_yield);
		else
			syscall(SYS_nanosleep, &nap, NULL);
	errno = saved;
	return i <= YIELDS + NAPS;
}

/* Either we see that someone forks, or they see that we borrow: both sides store first, then look. */
static bool count_in(void)
{
	atomic_fetch_add_explicit(&shared->borrow.borrowed, 1, memory_order_seq_cst);
	if (!atomic_load_explicit(&shared->borrow.forking, memory_order_seq_cst))
		return true;
	atomic_fetch_sub_explicit(&shared->borrow.borrowed, 1, memory_order_release);
	return false;
}

bool borrow_begin(struct borrow *b, bool insist)
{
	const uint64_t all = ~0ull;
	int saved = errno;

	/* Raw: glibc's own signals, too, of which cancellation is one. */
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &b->mask, sizeof b->mask);
	/* a vfork's child has a table of its own, but counts in its parent's memory, and may die any time */
	b->counted = shared && !tls.in_vfork;
	if (b->counted)
		b->counted = count_in() ||
			     (insist && falls_to_zero(&shared->borrow.forking) && count_in());
	if (!b->counted && !insist)
		borrow_end(b);
	errno = saved;
	return b->counted || insist;
}

void borrow_end(const struct borrow *b)
{
	int saved = errno;

	if (b->counted)
		atomic_fetch_sub_explicit(&shared->borrow.borrowed, 1, memory_order_release);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &b->mask, NULL, sizeof b->mask);
	errno = saved;
}

void borrow_fork_begin(void)
{
	if (!shared || tls.in_vfork)
		return;
	atomic_fetch_add_explicit(&shared->borrow.forking, 1, memory_order_seq_cst);
	falls_to_zero(&shared->borrow.borrowed);
}

void borrow_fork_end(void)
{
	if (shared && !tls.in_vfork)
		atomic_fetch_sub_explicit(&shared->borrow.forking, 1, memory_order_release);
}
