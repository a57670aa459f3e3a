/* SPDX-License-Identifier: MIT
 *
 * burner THREADS DEPTH BUSY_S CALM_S: that many threads compute below that many frames for a while, then one of them does a
 * little now and then; in the end it says how much CPU time all its threads took, in ns.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
	THREADS_MAX = 64
};

static uint64_t busy_ns;
static unsigned depth;
static _Atomic uint64_t cpu_ns;
static volatile unsigned sink;

static uint64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void spin(uint64_t until_ns)
{
	do
		for (unsigned i = 0; i < 50000; i++)
			sink += i;
	while (now(CLOCK_MONOTONIC) < until_ns);
}

/* Not a tail call, and the path differs, so that stacks do. */
__attribute__((noinline)) static void dig(unsigned left, unsigned way, uint64_t until_ns)
{
	if (left == 0)
		spin(until_ns);
	else if (way & 1)
		dig(left - 1, way >> 1 | way << 31, until_ns);
	else
		dig(left - 1, way >> 1 | way << 31, until_ns);
	sink++;
}

static void *burn(void *way)
{
	uint64_t end_ns = now(CLOCK_MONOTONIC) + busy_ns;

	for (unsigned i = 0; now(CLOCK_MONOTONIC) < end_ns; i++)
		dig(depth, (unsigned)(uintptr_t)way * 2654435761u + i * 40503u,
		    now(CLOCK_MONOTONIC) + 5000000);
	cpu_ns += now(CLOCK_THREAD_CPUTIME_ID);
	return NULL;
}

int main(int argc, char **argv)
{
	unsigned threads = argc == 5 ? (unsigned)atoi(argv[1]) : 0;
	pthread_t thread[THREADS_MAX];
	uint64_t end_ns;

	if (threads < 1 || threads > THREADS_MAX)
		return 2;
	depth = (unsigned)atoi(argv[2]);
	busy_ns = (uint64_t)(atof(argv[3]) * 1e9);
	for (uintptr_t i = 0; i < threads; i++)
		if (pthread_create(&thread[i], NULL, burn, (void *)i))
			return 1;
	for (unsigned i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	puts("calm");
	fflush(stdout);
	end_ns = now(CLOCK_MONOTONIC) + (uint64_t)(atof(argv[4]) * 1e9);
	while (now(CLOCK_MONOTONIC) < end_ns) {
		spin(now(CLOCK_MONOTONIC) + 2000000);
		nanosleep(&(struct timespec){ .tv_nsec = 48000000 }, NULL);
	}
	printf("%llu\n", (unsigned long long)(cpu_ns + now(CLOCK_THREAD_CPUTIME_ID)));
	return 0;
}
