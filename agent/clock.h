/* SPDX-License-Identifier: MIT
 *
 * The time. CLOCK_MONOTONIC read off the processor's counter: 8 ns instead of the vDSO's 25 to 40, seven times a request.
 *
 * The agent's thread draws a line through two readings of both clocks and renews it every second (core/clock.c); between
 * two renewals it is off by well under a microsecond. Where the kernel itself does not trust the counter, or until there is
 * a line, the time is the vDSO's.
 */
#ifndef AGENT_CLOCK_H
#define AGENT_CLOCK_H

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

struct clock_line {
	_Atomic uint32_t seq;       /* odd: no line, or being written */
	_Atomic uint64_t ticks, ns; /* a point on it */
	_Atomic uint64_t slope;     /* ns per tick << CLOCK_SLOPE_SHIFT */
	_Atomic int64_t
		wall_ns; /* CLOCK_REALTIME - CLOCK_MONOTONIC; the kernel moves it only in steps */
};
extern struct clock_line clock_line;

enum {
	CLOCK_SLOPE_SHIFT = 32
};

static inline uint64_t clock_read(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t clock_ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#else
	return 0;
#endif
}

/** CLOCK_MONOTONIC in ns. Context: any. */
static inline uint64_t clock_ns(void)
{
	uint32_t seq = atomic_load_explicit(&clock_line.seq, memory_order_acquire);

	if (__builtin_expect(!(seq & 1), 1)) {
		uint64_t ticks = atomic_load_explicit(&clock_line.ticks, memory_order_relaxed);
		uint64_t ns = atomic_load_explicit(&clock_line.ns, memory_order_relaxed);
		uint64_t slope = atomic_load_explicit(&clock_line.slope, memory_order_relaxed);
		int64_t since = (int64_t)(clock_ticks() - ticks);

		atomic_thread_fence(memory_order_acquire);
		if (__builtin_expect(
			    atomic_load_explicit(&clock_line.seq, memory_order_relaxed) == seq, 1))
			return ns +
			       (uint64_t)((__int128)since * (int64_t)slope >> CLOCK_SLOPE_SHIFT);
	}
	return clock_read(CLOCK_MONOTONIC);
}

/** CPU time of the calling thread in ns. Context: any. A system call: 0.36 us. */
static inline uint64_t clock_cpu_ns(void)
{
	return clock_read(CLOCK_THREAD_CPUTIME_ID);
}

/** What to subtract from a wall time to get CLOCK_MONOTONIC, in ns; after a step of the wall clock, up to a second late. */
static inline int64_t clock_wall_ns(void)
{
	if (__builtin_expect(!(atomic_load_explicit(&clock_line.seq, memory_order_relaxed) & 1), 1))
		return atomic_load_explicit(&clock_line.wall_ns, memory_order_relaxed);
	return (int64_t)(clock_read(CLOCK_REALTIME) - clock_read(CLOCK_MONOTONIC));
}

/** Note where the counter stands, for the line to begin. Context: start of the process. */
void clock_start(void);

/** Draw the line anew when it is time; cheap when it is not. Context: agent. */
void clock_renew(void);

#endif
