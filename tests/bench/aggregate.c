/* SPDX-License-Identifier: MIT
 *
 * What the end of one request costs the agent's thread, and what a window costs to encode.
 *
 * 100,000 requests/s must stay well under a tenth of a core: 1000 ns each is the limit, and exceeding it fails.
 */
#include "agent/core/aggregate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/core/config.h"
#include "agent/core/dict.h"

enum {
	ROUTES = 50,
	PER_WINDOW = 100000,
	WINDOWS = 20,
	STACKS = 400,
	DEPTH = 40
};

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t chance(void)
{
	static uint64_t x = 88172645463325252u;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

static void make_done(struct done *d, uint64_t request)
{
	static const uint8_t states[] = { SONDE__STATE__QUEUE, SONDE__STATE__CPU,
					  SONDE__STATE__RUNQ, SONDE__STATE__IO,
					  SONDE__STATE__OTHER };

	*d = (struct done){ .request = request, .status = 200, .event_state = SONDE__STATE__IO };
	d->route = 1 + (uint32_t)(chance() % ROUTES);
	for (unsigned i = 0; i < sizeof(states); i++) {
		uint64_t ns = (chance() & 0xfffff) >> (chance() % 10);

		d->ledger_ns[states[i]] = ns;
		d->latency_ns += ns;
	}
}

/* Ends of requests, @samples_per_1000 of which had a sample pending. */
static double measure(struct aggregate *a, unsigned samples_per_1000, uint64_t *encode_ns,
		      size_t *bytes)
{
	struct done *done = calloc(PER_WINDOW, sizeof(*done));
	uint64_t request = chance() >> 16, spent = 0;

	if (!done)
		exit(1);
	*encode_ns = *bytes = 0;
	for (unsigned w = 0; w < WINDOWS; w++) {
		struct aggregate_window window = { .seq = w + 1 };
		struct encode_buffer out = { 0 };
		uint64_t start;

		for (unsigned i = 0; i < PER_WINDOW; i++)
			make_done(&done[i], ++request);
		for (unsigned i = 0; i < PER_WINDOW; i++) {
			struct sample s = { .request = done[i].request,
					    .ns = 10101010,
					    .count = 1 };

			s.stack = 1 + (uint32_t)(chance() % STACKS);
			s.state = SONDE__STATE__CPU;
			if (chance() % 1000 < samples_per_1000)
				aggregate_sample(a, &s);
		}
		start = cpu_ns();
		for (unsigned i = 0; i < PER_WINDOW; i++)
			aggregate_done(a, &done[i]);
		if (w > 0) /* the first one warms up */
			spent += cpu_ns() - start;
		start = cpu_ns();
		if (aggregate_window_encode(a, &window, NULL, &out))
			exit(1);
		*encode_ns += (cpu_ns() - start) / WINDOWS;
		*bytes += out.used / WINDOWS;
		encode_buffer_fini(&out);
	}
	free(done);
	return (double)spent / ((WINDOWS - 1) * (double)PER_WINDOW);
}

static double measure_stacks(void)
{
	static struct dict_frame frames[STACKS][DEPTH];
	struct dict *d = dict_create();
	uint64_t start, rounds = 200;

	if (!d)
		exit(1);
	for (unsigned s = 0; s < STACKS; s++)
		for (unsigned i = 0; i < DEPTH; i++)
			frames[s][i] = (struct dict_frame){ 1, i > 20 ? i : chance() & 0xffffff };
	for (unsigned s = 0; s < STACKS; s++)
		dict_stack(d, frames[s], DEPTH);
	start = cpu_ns();
	for (unsigned r = 0; r < rounds; r++)
		for (unsigned s = 0; s < STACKS; s++)
			dict_stack(d, frames[s], DEPTH);
	start = cpu_ns() - start;
	dict_destroy(d);
	return (double)start / (double)(rounds * STACKS);
}

int main(void)
{
	static const unsigned per_1000[] = { 0, 10, 200 };
	const struct config c = { .spool_kib = 1024 };
	double worst = 0;

	for (unsigned i = 0; i < sizeof(per_1000) / sizeof(per_1000[0]); i++) {
		struct aggregate *a = aggregate_create(&c);
		uint64_t encode_ns;
		size_t bytes;
		double ns;

		if (!a)
			return 1;
		ns = measure(a, per_1000[i], &encode_ns, &bytes);
		printf("aggregate_done, %3u of 1000 requests sampled: %4.0f ns, %.1f %% of a core "
		       "at 100,000/s; "
		       "window of %d requests: %.2f ms to encode, %zu KiB; memory %zu KiB\n",
		       per_1000[i], ns, ns / 100, PER_WINDOW, (double)encode_ns / 1e6, bytes / 1024,
		       aggregate_bytes(a) / 1024);
		worst = ns > worst ? ns : worst;
		aggregate_destroy(a);
	}
	printf("dict_stack, %d frames, seen before: %.0f ns\n", DEPTH, measure_stacks());
	if (worst >= 1000) {
		printf("aggregate_done is slower than 1000 ns\n");
		return 1;
	}
	return 0;
}
