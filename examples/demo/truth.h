/* SPDX-License-Identifier: MIT
 *
 * What really happened: the demo's own account of each request, from its own clocks, for tests to hold the profile
 * against. A request's time is split over the same states as sonde's ledger, so that they do not overlap:
 *
 *	sent --queue--> begin --cpu, runq, sleep, io, lock, loop, and a small rest--> end
 *
 * cpu and runq are read from the thread that works on the request; of a wait, only what neither ran nor stood in the run
 * queue counts as waiting. One thread works on a struct truth at a time. Without --log nothing is measured.
 */
#ifndef DEMO_TRUTH_H
#define DEMO_TRUTH_H

#include <stdint.h>

/** Clocks of the calling thread in ns: monotonic time, its CPU time, its time in the run queue. */
struct clocks {
	uint64_t wall;
	uint64_t cpu;
	uint64_t runq;
};

enum wait {
	WAIT_SLEEP,
	WAIT_IO,
	WAIT_LOCK,
	WAIT_KINDS
};

struct truth {
	uint64_t sent_ns;  /* when the client says it sent the request, 0 unknown */
	uint64_t begin_ns; /* its first line was read */
	uint64_t end_ns;   /* 0: not yet */
	uint64_t cpu_ns;
	uint64_t runq_ns;
	uint64_t loop_ns;
	uint64_t wait_ns[WAIT_KINDS];
	struct clocks since; /* when this thread took it up */

	/* while its event loop is elsewhere: since when, waiting for what, and the loop's turns then */
	uint64_t left_ns;
	enum wait left_for;
	uint64_t left_idle_ns, left_runq_ns;
};

/* What an event loop did so far. */
struct turns {
	struct clocks mark; /* when it last turned from one thing to the next */
	uint64_t idle_ns;   /* in its event wait: asleep */
	uint64_t runq_ns;   /* in its event wait: woken, but without a CPU */
};

uint64_t monotonic_ns(void);
uint64_t thread_cpu_ns(void);

/** Open the log at @path; returns 0 or a negative errno. */
int truth_open(const char *path);
/** Write out what is buffered. */
void truth_flush(void);
/** Flush and close; returns 0, or a negative errno when a write failed. */
int truth_close(void);

/** All clocks of this thread; zeros without a log, which makes every difference below zero, too. */
struct clocks truth_clocks(void);

/** Of the time between two readings on one thread, what it neither ran nor stood in the run queue. */
uint64_t truth_blocked_ns(const struct clocks *since, const struct clocks *now);

/** The request begins, on this thread. */
void truth_begin(struct truth *truth);
/** This thread leaves the request: what it ran and queued for the CPU is the request's. Returns the time. */
uint64_t truth_pause(struct truth *truth);
/** This thread takes the request up (again). */
void truth_resume(struct truth *truth);
/** This thread waited for the request from @since until now. */
void truth_waited(struct truth *truth, enum wait kind, const struct clocks *since);
/** Nobody worked on the request since this time: it waited for this thread to take it up. */
void truth_handed_over(struct truth *truth, uint64_t since_ns);

/** An event loop, this thread, slept in its event wait since @before. */
void truth_loop_waited(struct turns *turns, const struct clocks *before);
/** It leaves the request, which goes on once @kind of wait is over and the loop has time for it. */
void truth_loop_leave(struct truth *truth, struct turns *turns, enum wait kind);
/** It has come back, at turns->mark: what it idled until then was the wait, what it did for others `loop`. */
void truth_loop_return(struct truth *truth, const struct turns *turns);
/** What it did since turns->mark was to send the answer, which is its end. */
void truth_loop_sent(struct truth *truth, struct turns *turns);

/** One line in the log for the request, which ends now, on this thread, if it has not before. */
void truth_end(struct truth *truth, const char *method, const char *path, unsigned status);

#endif
