/* SPDX-License-Identifier: MIT
 *
 * Threads of the host: how they get a record, a timer and known stack bounds, and lose them again.
 */
#ifndef AGENT_HOOK_THREAD_H
#define AGENT_HOOK_THREAD_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/thread.h"

enum {
	ENDED_RING_BYTES = 32 << 10 /* some 350 ended requests */
};

/* Set once by the agent's start, constant after. */
struct thread_setup {
	int signal;         /* 0: no free one, no CPU samples */
	uint32_t period_ns; /* of the sampling timer */
	char *rings;
	uint32_t ring_bytes;
	char *ended_rings; /* of ENDED_RING_BYTES */
	size_t default_stack_bytes;
	bool http, locks, timestamps; /* what is asked for */
};
extern struct thread_setup thread_setup;

/** Prepare what all threads share. Context: agent start. Returns 0 or -errno. */
int thread_start(void);

/** A record for the calling thread, with its timer armed, or NULL (counted). Context: hook. */
struct thread *thread_register(void);

/** A record for thread @tid, which has not called us; its stack bounds are found later. Context: agent. */
struct thread *thread_register_other(pid_t tid);

/** The record of live thread @tid, or NULL. Context: hook. */
struct thread *thread_find(pid_t tid);

/** The record of a thread that is gone without a word: its timer is deleted. Context: agent. */
void thread_gone(struct thread *t);

/** @t leaves our code by a jump, or ends there: no lock stays locked. Context: hook. */
void thread_abandon(struct thread *t);

/** From now on the timers of all threads send @number; 0: they are gone. Context: hook. */
void thread_move_timers(int number);

/** No expiry of the calling thread's sampling timer for a whole period. Context: hook. */
void thread_timer_delay(struct thread *t);

/** No thread has a record or a timer from here on. Context: hook, when the agent retires. */
void thread_retire(void);

/** Stop the calling thread's sampling timer, and start it again. Context: hook. */
void thread_timer_stop(struct thread *t);
void thread_timer_start(struct thread *t);

#endif
