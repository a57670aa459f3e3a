/* SPDX-License-Identifier: MIT
 *
 * The selection on the command line and the query it becomes (server/options.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/flame.h"
#include "server/options.h"
#include "tests/unit/unit.h"

static void assert_query(const struct options *o, const char *extra, const char *expected)
{
	char *query = options_query(o, extra);

	assert_string_equal(query, expected);
	free(query);
}

static void times_are_those_of_the_api(void **state)
{
	static const char *const good[] = { "now",   "-5m",        "-30s",          "-2h", "-1d",
					    "-1.5m", "1763600000", "1763600000.25", "0" };
	static const char *const bad[] = { "",          "5m",          "-5",   "-5w", "-m",
					   "yesterday", "1763600000s", "-5m ", "nan", "-inf",
					   "0x10",      "1e9",         "--5m" };

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		if (!options_is_time(good[i]))
			fail_msg("%s refused", good[i]);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (options_is_time(bad[i]))
			fail_msg("%s taken", bad[i]);
}

static void assert_duration(const char *text, uint64_t expected)
{
	uint64_t ns = 0;

	assert_int_equal(options_duration(text, &ns), 0);
	assert_int_equal(ns, expected);
}

static void durations_have_units(void **state)
{
	static const char *const bad[] = { "",     "-1ms", "ms",     "1 parsec",
					   "1msx", "0x1",  "1e300s", "inf" };
	uint64_t ns;

	(void)state;
	assert_duration("250", 250);
	assert_duration("250us", 250000);
	assert_duration("250 µs", 250000);
	assert_duration("1.5ms", 1500000);
	assert_duration("2s", 2000000000);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (options_duration(bad[i], &ns) != -EINVAL)
			fail_msg("%s taken", bad[i]);
}

static void states_are_a_set(void **state)
{
	uint32_t mask;

	(void)state;
	assert_int_equal(options_states("cpu", &mask), 0);
	assert_int_equal(mask, 1u << STATE_CPU);
	assert_int_equal(options_states("io,lock,io", &mask), 0);
	assert_int_equal(mask, 1u << STATE_IO | 1u << STATE_LOCK);
	assert_int_equal(options_states("", &mask), -EINVAL);
	assert_int_equal(options_states("cpux", &mask), -EINVAL);
	assert_int_equal(options_states("cpu,,io", &mask), -EINVAL);
	assert_int_equal(options_states("CPU", &mask), -EINVAL);
}

static void an_empty_selection_asks_nothing(void **state)
{
	struct options o = { 0 };

	(void)state;
	assert_query(&o, NULL, "");
	assert_query(&o, "format=pprof", "?format=pprof");
}

static void values_are_encoded(void **state)
{
	struct options o = {
		.service = "a&b=c", .route = "GET /users/{id}", .from = "-5m", .states = "cpu,io"
	};

	(void)state;
	assert_query(&o, "format=html",
		     "?format=html&service=a%26b%3Dc&route=GET%20%2Fusers%2F%7Bid%7D&from=-5m&"
		     "state=cpu,io");
	o = (struct options){ .route = "",
			      .has_latency_min = true,
			      .latency_min_ns = 7,
			      .has_latency_max = true,
			      .latency_max_ns = 9 };
	assert_query(&o, NULL,
		     "?route=&latency_min=7&latency_max=9"); /* empty: work outside requests */
	o = (struct options){ .route = "ü%\n" };
	assert_query(&o, NULL, "?route=%C3%BC%25%0A");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(times_are_those_of_the_api),
		cmocka_unit_test(durations_have_units),
		cmocka_unit_test(states_are_a_set),
		cmocka_unit_test(an_empty_selection_asks_nothing),
		cmocka_unit_test(values_are_encoded),
	};

	return RUN(tests);
}
