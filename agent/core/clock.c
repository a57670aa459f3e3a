/* SPDX-License-Identifier: MIT
 *
 * See agent/clock.h. Draws the line between the processor's counter and CLOCK_MONOTONIC.
 */
#include "agent/clock.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

struct clock_line clock_line = { .seq = 1 };

enum {
	READINGS = 5,        /* the quickest of them counts: nothing came between its clocks */
	FIRST_NS = 10000000, /* 50 ns of doubt in 10 ms: 5 ppm, less than a clock is off */
	RENEW_NS = 1000000000,
	ASTRAY_NS = 50000,
	SMOOTH_NS = 200000, /* more is a step of the clock, not its drift */
	ASK_AGAIN = 64,     /* renewals */
};

struct point {
	uint64_t ticks, ns;
	int64_t wall_ns;
};

static struct point last; /* ticks 0: the counter is not to be used */

/* Both clocks at one moment, as nearly as can be. */
static struct point reading(void)
{
	struct point best = { 0 };
	uint64_t best_took = UINT64_MAX;

	for (unsigned i = 0; i < READINGS; i++) {
		uint64_t before = clock_ticks();
		uint64_t ns = clock_read(CLOCK_MONOTONIC);
		uint64_t after = clock_ticks();
		uint64_t wall = clock_read(CLOCK_REALTIME);
		uint64_t took = clock_ticks() - before;

		if (took >= best_took)
			continue;
		best_took = took;
		best = (struct point){ before + (after - before) / 2, ns, 0 };
		/* the wall clock was read about as long after ns as the counter says */
		best.wall_ns = (int64_t)(wall - ns);
	}
	return best;
}

/* The kernel watches the counter against another clock, and across processors: as long as it counts on it, so may we. */
static bool counter_is_good(void)
{
	char text[16] = "";
	int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource",
		      O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	if (read(fd, text, sizeof text - 1) < 0)
		text[0] = '\0';
	close(fd);
	return strcmp(text, "tsc\n") == 0;
}

static void withdraw(void)
{
	uint32_t seq = atomic_load_explicit(&clock_line.seq, memory_order_relaxed);

	atomic_store_explicit(&clock_line.seq, seq | 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
}

static void publish(const struct point *p, uint64_t slope)
{
	withdraw();
	atomic_store_explicit(&clock_line.ticks, p->ticks, memory_order_relaxed);
	atomic_store_explicit(&clock_line.ns, p->ns, memory_order_relaxed);
	atomic_store_explicit(&clock_line.slope, slope, memory_order_relaxed);
	atomic_store_explicit(&clock_line.wall_ns, p->wall_ns, memory_order_relaxed);
	atomic_store_explicit(&clock_line.seq,
			      atomic_load_explicit(&clock_line.seq, memory_order_relaxed) + 1,
			      memory_order_release);
}

/* A machine that slept, moved or was restored has a counter that jumped: such an interval says nothing about its pace. */
static bool same_pace(uint64_t a, uint64_t b)
{
	uint64_t apart = a > b ? a - b : b - a;

	return apart < b >> 10;
}

void clock_start(void)
{
	if (!last.ticks)
		last = reading();
}

void clock_renew(void)
{
	static bool asked, good;
	uint64_t slope = atomic_load_explicit(&clock_line.slope, memory_order_relaxed), pace;
	static unsigned renewals;
	struct point now;
	uint64_t before;
	int64_t ahead;

	if (asked && !good)
		return;
	if (!asked) {
		asked = true;
		good = counter_is_good();
		return;
	}
	before = clock_read(CLOCK_MONOTONIC);
	if (slope) {
		uint64_t said = clock_ns(), after = clock_read(CLOCK_MONOTONIC);

		/* the clock is being slewed, or the machine slept: the time is the kernel's until there is a new line */
		if (said + ASTRAY_NS < before || said > after + ASTRAY_NS)
			withdraw();
	}
	if (before - last.ns < (slope ? RENEW_NS : FIRST_NS))
		return;
	if (++renewals % ASK_AGAIN == 0 && !(good = counter_is_good())) {
		withdraw();
		return;
	}
	now = reading();
	pace = now.ticks > last.ticks
		       ? (uint64_t)(((unsigned __int128)(now.ns - last.ns) << CLOCK_SLOPE_SHIFT) /
				    (now.ticks - last.ticks))
		       : 0;
	last = now;
	if (!pace || (slope && !same_pace(pace, slope))) {
		/* until a second interval agrees with it the time is the kernel's */
		withdraw();
		atomic_store_explicit(&clock_line.slope, pace, memory_order_relaxed);
		return;
	}
	/* where the old line runs ahead, the new one begins there and meets the clock a second later: time does not step back */
	ahead = (int64_t)(clock_ns() - clock_read(CLOCK_MONOTONIC));
	if (slope && ahead > 0 && ahead < SMOOTH_NS) {
		now.ns += (uint64_t)ahead;
		pace -= pace / RENEW_NS * (uint64_t)ahead;
	}
	publish(&now, pace);
}
