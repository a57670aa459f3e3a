/* SPDX-License-Identifier: MIT
 *
 * The pool of fixed elements: every element is somebody's exactly once, whatever the threads do.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "agent/hook/pool.h"
#include "tests/unit/unit.h"

struct element {
	struct pool_link link;
	_Atomic uint32_t owner;
	uint64_t more[4];
};

enum {
	CAP = 64,
	THREADS = 4,
	TURNS = 100000
};

static struct element elements[CAP];
static struct pool pool;
static _Atomic uint64_t done;
static _Atomic uint32_t wrong;

static int fresh_pool(void **state)
{
	(void)state;
	for (unsigned i = 0; i < CAP; i++)
		elements[i] = (struct element){ 0 };
	pool = (struct pool){ 0 };
	done = wrong = 0;
	pool_init(&pool, elements, CAP, sizeof *elements);
	return 0;
}

static void pool_gives_each_element_once_and_counts_refusals(void **state)
{
	bool seen[CAP + 1] = { false };

	(void)state;
	for (unsigned i = 0; i < CAP; i++) {
		uint32_t index = pool_take(&pool);

		assert_in_range(index, 1, CAP);
		assert_false(seen[index]);
		seen[index] = true;
		assert_int_equal(pool_index(&pool, pool_at(&pool, index)), index);
	}
	assert_int_equal(pool_take(&pool), POOL_NONE);
	assert_int_equal(pool.refused, 1);
}

static void pool_reuses_the_last_one_first_and_touches_no_more(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		uint32_t a = pool_take(&pool), b = pool_take(&pool);

		pool_give(&pool, a);
		pool_give(&pool, b);
	}
	assert_int_equal(pool.fresh, 2);
}

static void *churn(void *argument)
{
	uint32_t me = (uint32_t)(uintptr_t)argument;

	for (unsigned i = 0; i < TURNS; i++) {
		uint32_t index = pool_take(&pool);
		struct element *e;

		if (index == POOL_NONE)
			continue;
		e = pool_at(&pool, index);
		if (atomic_exchange(&e->owner, me) != 0)
			wrong++;
		if (atomic_exchange(&e->owner, 0) != me)
			wrong++;
		if (i % 2)
			pool_give(&pool, index);
		else
			pool_push(&pool, &done, index);
	}
	return NULL;
}

static void pool_survives_threads_that_take_give_and_pass_on(void **state)
{
	pthread_t threads[THREADS];
	unsigned back = 0;

	(void)state;
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)), 0);
	for (unsigned i = 0; i < 20000; i++) {
		uint32_t index = pool_take_all(&done);

		while (index != POOL_NONE) {
			uint32_t next = ((struct pool_link *)pool_at(&pool, index))->next;

			pool_give(&pool, index);
			index = next;
		}
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (uint32_t index = pool_take_all(&done); index != POOL_NONE;) {
		uint32_t next = ((struct pool_link *)pool_at(&pool, index))->next;

		pool_give(&pool, index);
		index = next;
	}
	assert_int_equal(wrong, 0);
	while (pool_take(&pool) != POOL_NONE)
		back++;
	assert_int_equal(back, CAP); /* nothing was lost */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(pool_gives_each_element_once_and_counts_refusals,
				       fresh_pool),
		cmocka_unit_test_setup(pool_reuses_the_last_one_first_and_touches_no_more,
				       fresh_pool),
		cmocka_unit_test_setup(pool_survives_threads_that_take_give_and_pass_on,
				       fresh_pool),
	};

	return RUN(tests);
}
