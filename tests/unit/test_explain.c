/* SPDX-License-Identifier: MIT
 *
 * The sentence per route (server/explain.c).
 */
#include <string.h>

#include "server/explain.h"
#include "tests/unit/unit.h"

static void largest_share_comes_first(void **state)
{
	const uint64_t ledger[STATE_COUNT] = {
		[STATE_CPU] = 744000, [STATE_LOCK] = 11284000, [STATE_OTHER] = 100000
	};
	char out[256];
	size_t length = explain_route(out, sizeof(out), "GET /lock", 10, 12400000, ledger);

	(void)state;
	assert_string_equal(out, "GET /lock takes 12.4 ms on average: 91 % waiting for a lock, 6 % "
				 "on the CPU, 1 % unexplained.");
	assert_int_equal(length, strlen(out));
}

static void states_under_a_percent_are_left_out(void **state)
{
	const uint64_t ledger[STATE_COUNT] = { [STATE_QUEUE] = 4, [STATE_CPU] = 996 };
	char out[256];

	(void)state;
	explain_route(out, sizeof(out), "GET /fast", 1, 1000, ledger);
	assert_string_equal(out, "GET /fast takes 1.00 µs on average: 100 % on the CPU.");
}

static void no_request_and_no_time_are_said(void **state)
{
	const uint64_t ledger[STATE_COUNT] = { 0 };
	char out[256];

	(void)state;
	explain_route(out, sizeof(out), "GET /x", 0, 0, ledger);
	assert_string_equal(out, "GET /x: no request ended.");
	explain_route(out, sizeof(out), "GET /x", 1, 0, ledger);
	assert_string_equal(out, "GET /x takes 0 ns on average.");
}

static void a_hostile_route_is_made_harmless(void **state)
{
	const uint64_t ledger[STATE_COUNT] = { [STATE_IO] = 5 };
	char out[256];

	(void)state;
	explain_route(out, sizeof(out), "GET /\033]0;x\a", 1, 5, ledger);
	assert_string_equal(out, "GET /?]0;x? takes 5 ns on average: 100 % waiting for IO.");
}

static void a_small_buffer_cuts_and_terminates(void **state)
{
	const uint64_t ledger[STATE_COUNT] = { [STATE_SLEEP] = 5 };
	char out[256];

	(void)state;
	for (size_t size = 1; size < 40; size++) {
		memset(out, 'x', sizeof(out));
		assert_int_equal(explain_route(out, size, "GET /a", 1, 5, ledger), size - 1);
		assert_int_equal(strlen(out), size - 1);
		assert_int_equal(out[size], 'x');
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(largest_share_comes_first),
		cmocka_unit_test(states_under_a_percent_are_left_out),
		cmocka_unit_test(no_request_and_no_time_are_said),
		cmocka_unit_test(a_hostile_route_is_made_harmless),
		cmocka_unit_test(a_small_buffer_cuts_and_terminates),
	};

	return RUN(tests);
}
