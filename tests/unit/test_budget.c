/* SPDX-License-Identifier: MIT
 *
 * The governor's steps, and whose time a sample is.
 */
#include "agent/core/budget.h"
#include "agent/core/cost.h"
#include "tests/unit/unit.h"

#define S 1000000000ull

/* A second of a process that uses ten CPUs; @cost as at the full rate, in permille. */
static bool second(struct budget *b, uint64_t cost_permille)
{
	const struct budget_window w = { .cost_ns = (S / 100 * cost_permille) >> b->step,
					 .process_cpu_ns = 10 * S,
					 .wall_ns = S };

	return budget_close(b, &w);
}

static void the_rate_stays_inside_the_budget(void **state)
{
	(void)state;
	struct budget b = { .permille = 5 };

	for (unsigned i = 0; i < 100; i++)
		assert_false(second(&b, 4));
	assert_int_equal(b.step, 0);
}

static void the_rate_drops_as_far_as_it_must_and_no_further(void **state)
{
	(void)state;
	struct budget b = { .permille = 1 };

	assert_true(second(&b, 7)); /* 7 permille: 3.5, 1.8, 0.9 */
	assert_int_equal(b.step, 3);
	for (unsigned i = 0; i < 100; i++)
		assert_false(second(&b, 7));
	assert_true(second(&b, 1000));
	assert_int_equal(b.step, BUDGET_STEPS);
	for (unsigned i = 0; i < 100; i++)
		assert_false(second(&b, 1000));
}

static void the_rate_rises_again_step_by_step(void **state)
{
	(void)state;
	struct budget b = { .permille = 1 };
	unsigned seconds = 0, changes = 0;

	second(&b, 15);
	assert_int_equal(b.step, 4);
	for (; b.step > 0 && seconds < 100; seconds++)
		changes += second(&b, 0);
	assert_int_equal(changes, 4);
	assert_in_range(seconds, 4 * BUDGET_CALM_WINDOWS, 4 * BUDGET_CALM_WINDOWS + 8);
}

static void the_rate_does_not_swing(void **state)
{
	(void)state;

	for (uint64_t cost = 0; cost < 40; cost++) {
		struct budget b = { .permille = 1 };
		unsigned changes = 0;

		for (unsigned i = 0; i < 1000; i++)
			changes += second(&b, cost);
		assert_in_range(changes, 0, 2);
	}
}

static void one_dear_second_passes(void **state)
{
	(void)state;
	struct budget b = { .permille = 5 };

	for (unsigned i = 0; i < 10; i++)
		second(&b, 2);
	assert_false(second(&b, 7)); /* loading a library, say */
	assert_false(second(&b, 2));
	assert_int_equal(b.step, 0);
}

static void a_process_counts_as_one_core_at_least(void **state)
{
	(void)state;
	struct budget b = { .permille = 1 };
	struct budget_window w = { .cost_ns = S / 1000 - 1, .wall_ns = S };

	for (unsigned i = 0; i < 10; i++)
		assert_false(budget_close(&b, &w));
	w.cost_ns *= 2;
	assert_true(budget_close(&b, &w));
}

/* ---- Whose time ---- */

static const struct cost_map *map(void)
{
	static struct cost_map m;

	m = (struct cost_map){ .own = { 0x10000, 0x20000 },
			       .vdso = { 0x90000, 0x91000 },
			       .libc = { 0x40000, 0x80000 } };
	cost_add(&m, 0x51000, true);  /* read */
	cost_add(&m, 0x50000, false); /* syscall */
	cost_add(&m, 0x52000, true);  /* write */
	cost_add(&m, 0, true);        /* one that this libc lacks */
	cost_sort(&m);
	return &m;
}

static void assert_ours(bool ours, unsigned depth, const uintptr_t *pcs)
{
	if (cost_is_ours(map(), pcs, depth) != ours)
		fail_msg("leaf %lx of %u frames is%s counted as ours", (unsigned long)pcs[0], depth,
			 ours ? " not" : "");
}

static void own_code_and_what_it_calls_for_itself_are_ours(void **state)
{
	(void)state;
	assert_ours(true, 2, (uintptr_t[]){ 0x10100, 0x1000 });
	assert_ours(true, 3, (uintptr_t[]){ 0x90010, 0x10100, 0x1000 });          /* vDSO */
	assert_ours(true, 3, (uintptr_t[]){ 0x50020, 0x10100, 0x1000 });          /* syscall */
	assert_ours(true, 4, (uintptr_t[]){ 0x90010, 0x50020, 0x10100, 0x1000 }); /* through libc */
	assert_ours(true, 3, (uintptr_t[]){ 0x70000, 0x10100, 0x1000 });          /* memcpy */
}

static void the_hosts_calls_through_us_are_the_hosts(void **state)
{
	(void)state;
	assert_ours(false, 3, (uintptr_t[]){ 0x51010, 0x10100, 0x1000 });          /* read */
	assert_ours(false, 4, (uintptr_t[]){ 0x70000, 0x52010, 0x10100, 0x1000 }); /* in write */
	assert_ours(false, 2, (uintptr_t[]){ 0x1000, 0x1100 });
	assert_ours(false, 2,
		    (uintptr_t[]){ 0x1000, 0x10100 }); /* a thread's function, started by us */
	assert_ours(false, 5,
		    (uintptr_t[]){ 0x70000, 0x70100, 0x70200, 0x10100, 0x1000 }); /* deep in libc */
	assert_ours(false, 2, (uintptr_t[]){ 0x90010, 0x1000 }); /* the host's own clock */
	assert_ours(false, 0, (uintptr_t[]){ 0x10100 });
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_rate_stays_inside_the_budget),
		cmocka_unit_test(the_rate_drops_as_far_as_it_must_and_no_further),
		cmocka_unit_test(the_rate_rises_again_step_by_step),
		cmocka_unit_test(the_rate_does_not_swing),
		cmocka_unit_test(one_dear_second_passes),
		cmocka_unit_test(a_process_counts_as_one_core_at_least),
		cmocka_unit_test(own_code_and_what_it_calls_for_itself_are_ours),
		cmocka_unit_test(the_hosts_calls_through_us_are_the_hosts),
	};

	return RUN(tests);
}
