/* SPDX-License-Identifier: MIT
 *
 * How much of a wait was spent runnable without a processor. The kernel knows, in /proc/thread-self/schedstat, but asking
 * costs 5 us. So the process as a whole asks so many times a second; what that says of waits of a kind and length stands
 * for the others of that kind and length.
 */
#ifndef AGENT_RUNQ_H
#define AGENT_RUNQ_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/thread.h"

/* A shorter wait hardly met the run queue, or is too short to tell. */
enum {
	RUNQ_MIN_NS = 100000
};

/* Whether and what was read before a wait. */
struct runq {
	bool known;
	uint64_t before_ns;
};

/**
 * The calling thread's run-queue delay so far, in ns. Keeps errno. Context: hook.
 * Returns false when that has been asked too often, or cannot be read.
 */
bool runq_read(struct thread *t, uint64_t now_ns, uint64_t *runq_ns);

/** The calling thread is about to wait, and it would be good to know how much of that will be delay. Context: hook. */
void runq_before(struct thread *t, uint64_t now_ns, struct runq *r);

/** How much of the wait, which lasted @waited_ns until @now_ns, was delay; at most that. Keeps errno. Context: hook. */
uint64_t runq_within(struct thread *t, const struct runq *r, enum runq_wait kind,
		     uint64_t waited_ns, uint64_t now_ns);

#endif
