/* SPDX-License-Identifier: MIT
 *
 * The first thing in every wrapper: may we look at this call, and as which thread?
 */
#ifndef AGENT_GUARD_H
#define AGENT_GUARD_H

#include "agent/hook/real.h"
#include "agent/thread.h"

/** The slow half of hook_enter(): a thread's first call, a fork's child, a process where the agent is off. */
struct thread *hook_enter_slow(void);

/** The calling thread's record, or NULL: then the wrapper must pass the call on untouched. Keeps errno. Context: hook. */
static inline struct thread *hook_enter(void)
{
	struct thread *t = tls.self;

	/* In a fork's child the record is wiped: it reads as THREAD_FREE. */
	if (likely(t && atomic_load_explicit(&t->life, memory_order_relaxed) == THREAD_LIVE &&
		   !tls.in_vfork))
		return t;
	return hook_enter_slow();
}

/**
 * As hook_enter(), but never begins anything: for calls that a fork's child makes on its way to exec, and for those that
 * matter only to a thread we know.
 */
static inline struct thread *hook_entered(void)
{
	struct thread *t = tls.self;

	return t && atomic_load_explicit(&t->life, memory_order_relaxed) == THREAD_LIVE &&
			       !tls.in_vfork
		       ? t
		       : NULL;
}

static inline request_id thread_current(const struct thread *t)
{
	return t->slice.owner;
}

/* Before our constructor has run, and where libc lacks a function, nothing is resolved. */
#define REAL(name) (likely(real.name != NULL) ? real.name : (real_start(), real.name))

#endif
