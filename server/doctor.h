/* SPDX-License-Identifier: MIT
 *
 * Between cmd_doctor.c and its probes. Every probe tries the real thing and says what came of it; none guesses from a
 * version number. Context: one thread; probes fork and take signals.
 */
#ifndef SERVER_DOCTOR_H
#define SERVER_DOCTOR_H

#include <stdbool.h>
#include <sys/types.h>

enum doctor_mark {
	DOCTOR_GOOD,
	DOCTOR_LIMIT,
	DOCTOR_BAD,
	DOCTOR_FACT /* no judgement */
};

struct doctor {
	bool color;
	unsigned limits, bad; /* how many lines of each mark */
};

/**
 * Print one line: mark, @name, the text of @format. @cost is what a mark other than good costs the user, on a line below;
 * NULL for none.
 */
__attribute__((format(printf, 5, 6))) void doctor_say(struct doctor *d, enum doctor_mark mark,
						      const char *name, const char *cost,
						      const char *format, ...);

/** A first line or "key: value" of a small file of /proc or /sys, into @out of @size. False when it is not there. */
bool doctor_read(const char *path, const char *key, char *out, size_t size);

/** The agent: found, loadable, reporting. */
void doctor_agent(struct doctor *d);

/** CPU timers, kernel tick, pending signals, real-time signals. */
void doctor_timers(struct doctor *d);

/** Run-queue delay, receive timestamps, reading another thread's memory, the clock. */
void doctor_measures(struct doctor *d);

/** ptrace, perf events, seccomp, locked memory, glibc. */
void doctor_limits(struct doctor *d);

/** What the agent in process @pid is doing, as it says itself, and as the collector at @http knows it. */
void doctor_inside(struct doctor *d, pid_t pid, const char *http);

/** Whether the agent fits into process @pid, or is in it already. */
void doctor_process(struct doctor *d, pid_t pid);

#endif
