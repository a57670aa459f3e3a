/* SPDX-License-Identifier: MIT
 *
 * The ring between a signal handler and the agent: order, wrapping, fullness, and two threads at once.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sig/ring.h"
#include "tests/unit/unit.h"

struct record {
	struct ring_record record;
	uint64_t number;
	uint64_t filler[30];
};

static bool put(struct ring *ring, uint64_t number, uint32_t words)
{
	struct record *r = ring_reserve(ring, (uint32_t)(16 + 8 * words));

	if (!r)
		return false;
	r->record.kind = 1;
	r->number = number;
	for (uint32_t i = 0; i < words; i++)
		r->filler[i] = number + i;
	ring_commit(ring, (uint32_t)(16 + 8 * words));
	return true;
}

static struct ring make(uint32_t size)
{
	return (struct ring){ .bytes = calloc(1, size), .size = size };
}

static void ring_keeps_order_over_many_wraps(void **state)
{
	struct ring ring = make(1024);
	uint64_t in = 0, out = 0;
	uint32_t len;

	(void)state;
	while (out < 10000) {
		const struct record *r;

		while (put(&ring, in, (uint32_t)(in % 7)))
			in++;
		while ((r = ring_peek(&ring, &len)) != NULL) {
			assert_int_equal(r->number, out);
			assert_int_equal(len, 16 + 8 * (out % 7));
			for (uint32_t i = 0; i < out % 7; i++)
				assert_int_equal(r->filler[i], out + i);
			ring_pop(&ring, len);
			out++;
		}
	}
	free(ring.bytes);
}

static void ring_counts_what_it_refuses_and_keeps_what_it_has(void **state)
{
	struct ring ring = make(256);
	uint64_t kept = 0;
	uint32_t len;
	const struct record *r;

	(void)state;
	while (put(&ring, kept, 2))
		kept++;
	assert_int_equal(kept, 256 / 32);
	assert_false(put(&ring, 99, 2));
	assert_int_equal(ring.lost, 2);
	r = ring_peek(&ring, &len);
	assert_non_null(r);
	assert_int_equal(r->number, 0);
	free(ring.bytes);
}

static void ring_shorter_commit_than_reserve_leaves_no_gap(void **state)
{
	struct ring ring = make(1024);
	uint32_t len;

	(void)state;
	for (uint64_t i = 0; i < 500; i++) {
		struct record *r = ring_reserve(&ring, 256);
		const struct record *got;

		assert_non_null(r);
		r->record.kind = 1;
		r->number = i;
		ring_commit(&ring, 16);
		got = ring_peek(&ring, &len);
		assert_non_null(got);
		assert_int_equal(got->number, i);
		assert_int_equal(len, 16);
		ring_pop(&ring, len);
	}
	free(ring.bytes);
}

enum {
	MANY = 200000
};

static void *produce(void *argument)
{
	for (uint64_t i = 0; i < MANY;)
		if (put(argument, i, (uint32_t)(i % 5)))
			i++;
	return NULL;
}

static void ring_passes_everything_between_two_threads(void **state)
{
	struct ring ring = make(4096);
	pthread_t producer;
	uint32_t len;

	(void)state;
	assert_int_equal(pthread_create(&producer, NULL, produce, &ring), 0);
	for (uint64_t i = 0; i < MANY;) {
		const struct record *r = ring_peek(&ring, &len);

		if (!r)
			continue;
		assert_int_equal(r->number, i);
		ring_pop(&ring, len);
		i++;
	}
	pthread_join(producer, NULL);
	free(ring.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ring_keeps_order_over_many_wraps),
		cmocka_unit_test(ring_counts_what_it_refuses_and_keeps_what_it_has),
		cmocka_unit_test(ring_shorter_commit_than_reserve_leaves_no_gap),
		cmocka_unit_test(ring_passes_everything_between_two_threads),
	};

	return RUN(tests);
}
