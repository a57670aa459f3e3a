/* SPDX-License-Identifier: MIT
 *
 * A program that only computes, 30 frames deep. Reads a number of seconds per line, computes for so long, answers with
 *
 *	units of work <tab> ns of wall time <tab> ns of CPU of the whole process
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>

enum {
	DEPTH = 30,
	TABLE = 1 << 15, /* of 8 bytes: larger than the first-level cache */
	ROUNDS = 20000
};

static uint64_t table[TABLE];

static __attribute__((noinline)) uint64_t compute(uint64_t x)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		table[x % TABLE] += x;
	}
	return x;
}

/* The addition after the call keeps every frame. */
static __attribute__((noinline)) uint64_t descend(uint64_t x, unsigned depth)
{
	volatile uint64_t kept = x;

	kept += depth ? descend(x * 3 + depth, depth - 1) : compute(x | 1);
	return kept;
}

static uint64_t ns_of(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(void)
{
	double seconds;

	while (scanf("%lf", &seconds) == 1) {
		uint64_t start = ns_of(CLOCK_MONOTONIC), cpu = ns_of(CLOCK_PROCESS_CPUTIME_ID);
		uint64_t units = 0, end = start + (uint64_t)(seconds * 1e9);

		while (ns_of(CLOCK_MONOTONIC) < end) {
			descend(units, DEPTH);
			units++;
		}
		printf("%llu\t%llu\t%llu\n", (unsigned long long)units,
		       (unsigned long long)(ns_of(CLOCK_MONOTONIC) - start),
		       (unsigned long long)(ns_of(CLOCK_PROCESS_CPUTIME_ID) - cpu));
		fflush(stdout);
	}
	return 0;
}
