/* SPDX-License-Identifier: MIT
 *
 * What a look at a blocked thread costs the agent's thread, while the wait is the same as before: for 10 to 4,000 threads, with
 * their records in the caches and, as for a program that has worked since the last look, with none of them there.
 *
 *	tests/bench/peek          30 ns per look is the limit, and exceeding it fails (the least of many passes; cold: at 1,000)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/life.h"

/* What hook/thread.c defines in the agent; it interposes libc and so is not linked here. */
__thread struct thread_local_state tls;
struct shared *shared;

enum {
	PASSES = 400,
	EVICT_BYTES = 64 << 20,
	LIMIT_NS = 30
};

static struct shared memory;
static char *evict;

static void make_threads(struct thread *threads, uint32_t count)
{
	memset(&memory, 0, sizeof memory);
	shared = &memory;
	pool_init(&memory.threads, threads, LIFE_THREADS, sizeof *threads);
	for (uint32_t i = 1; i <= count; i++) {
		struct thread *t = pool_at(&memory.threads, pool_take(&memory.threads));

		t->index = i;
		t->tid = (pid_t)i;
		t->wait.seq = 1 + 2 * i; /* in a wait, of an idle thread */
		t->wait.state = IO;
		t->wait.fd = -1;
		t->life = THREAD_LIVE;
	}
}

static void evict_all(const struct life *l)
{
#if defined(__x86_64__)
	for (size_t i = 0; i < LIFE_THREADS * sizeof(struct thread); i += 64)
		__builtin_ia32_clflush(memory.threads.elements + i);
	for (size_t i = 0; i < sizeof l->seen; i += 64)
		__builtin_ia32_clflush((const char *)l->seen + i);
#else
	(void)l;
#endif
	for (size_t i = 0; i < EVICT_BYTES; i += 64) /* and the tables of the pages */
		evict[i]++;
}

/* The least time of a pass over all threads, per thread. */
static double measure(struct life *l, uint32_t count, bool cold)
{
	uint64_t least = UINT64_MAX, now = 1000000000;

	for (unsigned i = 0; i < (cold ? PASSES / 8 : PASSES); i++) {
		uint64_t start, took;

		if (cold)
			evict_all(l);
		now += 20000000;
		start = clock_ns();
		peek(l, now);
		took = clock_ns() - start;
		if (took < least)
			least = took;
	}
	return (double)least / count;
}

int main(void)
{
	static const uint32_t counts[] = { 10, 100, 1000, 4000 };
	struct thread *threads = aligned_alloc(4096, LIFE_THREADS * sizeof *threads);
	struct life *l = calloc(1, sizeof *l);
	bool bad = false;

	evict = calloc(1, EVICT_BYTES);
	if (!threads || !l || !evict)
		return 1;
	printf("ns per look at an unchanged wait    in the caches    not there\n");
	for (unsigned i = 0; i < sizeof counts / sizeof *counts; i++) {
		double warm, cold;

		memset(threads, 0, LIFE_THREADS * sizeof *threads);
		memset(l, 0, sizeof *l);
		make_threads(threads, counts[i]);
		warm = measure(l, counts[i], false);
		cold = measure(l, counts[i], true);
		printf("%21u threads %19.1f %12.1f\n", counts[i], warm, cold);
		bad |= warm > LIMIT_NS || (counts[i] == 1000 && cold > LIMIT_NS);
	}
	return bad;
}
