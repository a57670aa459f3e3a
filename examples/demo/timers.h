/* SPDX-License-Identifier: MIT
 *
 * Deadlines of an event loop: a binary heap, the next one on top. For one thread.
 */
#ifndef DEMO_TIMERS_H
#define DEMO_TIMERS_H

#include <stddef.h>
#include <stdint.h>

struct timer {
	uint64_t due_ns;
	void *owner;
};

struct timers {
	struct timer *heap;
	size_t count;
	size_t room;
};

/** Add a deadline, in ns of CLOCK_MONOTONIC; returns 0 or -ENOMEM. */
int timers_add(struct timers *timers, uint64_t due_ns, void *owner);
/** Take the owner of a deadline that has passed, NULL when none has. */
void *timers_take_due(struct timers *timers, uint64_t now_ns);
/** What to give epoll_wait(): ms until the next deadline, rounded up, -1 when there is none. */
int timers_timeout_ms(const struct timers *timers, uint64_t now_ns);
void timers_fini(struct timers *timers);

#endif
