/* SPDX-License-Identifier: MIT
 *
 * The try-lock of requests and connections. Its word names the owner, and the owner counts what it holds: when the host
 * jumps out of our code from a signal handler, or a thread is cancelled there, whatever is still held is found and let go.
 * Never waits; a handler of the host's that comes in between goes without, like any other thread.
 */
#ifndef AGENT_OWNED_H
#define AGENT_OWNED_H

#include "agent/thread.h"

/* The owner's name when it has no record: the agent's thread, or one past its end. */
#define OWNED_UNNAMED UINT32_MAX

/** Forget one: it was not got, or has been let go. Context: hook, agent. */
static inline void owned_left(void)
{
	struct thread *t = tls.self;

	atomic_signal_fence(memory_order_seq_cst);
	if (likely(t && t->locks))
		t->locks--;
}

/** Context: hook, agent. */
static inline bool owned_try(_Atomic uint32_t *lock)
{
	struct thread *t = tls.self;
	uint32_t nobody = 0;

	if (likely(t != NULL) && t->locks++ == 0)
		t->locks_frame = (uintptr_t)__builtin_frame_address(0);
	atomic_signal_fence(memory_order_seq_cst);
	if (likely(atomic_compare_exchange_strong_explicit(
		    lock, &nobody, t ? t->index : OWNED_UNNAMED, memory_order_acquire,
		    memory_order_relaxed)))
		return true;
	owned_left();
	return false;
}

/** @order: release at least. Context: hook, agent. */
static inline void owned_unlock(_Atomic uint32_t *lock, memory_order order)
{
	atomic_store_explicit(lock, 0, order);
	owned_left();
}

#endif
