/* SPDX-License-Identifier: MIT
 *
 * The comparison of two profiles (server/diff.c), on profiles read from folded stacks.
 */
#include <string.h>

#include "server/diff.h"
#include "tests/unit/unit.h"

static struct profile *read_folded(const char *text)
{
	char error[PROFILE_ERROR_MAX];
	struct profile *p = NULL;

	if (profile_read(text, strlen(text), NULL, &p, error) < 0)
		fail_msg("%s", error);
	return p;
}

static struct diff *compare(struct profile *a, struct profile *b)
{
	struct diff *diff = NULL;

	assert_int_equal(diff_compare(a, b, &diff), 0);
	return diff;
}

static void assert_pair(struct diff_pair pair, uint64_t a, uint64_t b)
{
	assert_int_equal(pair.a, a);
	assert_int_equal(pair.b, b);
}

static const struct diff_function *function_of(const struct diff *diff, const char *name)
{
	for (size_t i = 0; i < diff->function_count; i++)
		if (strcmp(diff->functions[i].function, name) == 0)
			return &diff->functions[i];
	fail_msg("no function %s", name);
	return NULL;
}

static void times_are_per_request(void **state)
{
	struct profile *a = read_folded("# sonde.requests 10 GET /a\nGET /a;[cpu];main;fib 1000\n");
	struct profile *b = read_folded("# sonde.requests 30 GET /a\nGET /a;[cpu];main;fib 1500\n");
	struct diff *d = compare(a, b);

	(void)state;
	assert_int_equal(d->worst, DIFF_PER_REQUEST);
	assert_int_equal(d->route_count, 1);
	assert_pair(d->routes[0].total, 100000, 50000);
	assert_pair(d->routes[0].states[STATE_CPU], 100000, 50000);
	assert_pair(d->routes[0].requests, 10, 30);
	assert_pair(function_of(d, "fib")->self, 100000, 50000);
	assert_pair(function_of(d, "main")->self, 0, 0);
	assert_pair(function_of(d, "main")->total, 100000, 50000);
	assert_int_equal(diff_change(d->routes[0].total), -50000);
	diff_destroy(d);
	profile_destroy(a);
	profile_destroy(b);
}

static void the_largest_change_comes_first(void **state)
{
	static const char text_a[] =
		"# sonde.requests 1 A\n# sonde.requests 1 B\n# sonde.requests 1 C\n"
		"A;[cpu];f 10\nB;[io];g 500\nC;[cpu];h 7\n";
	static const char text_b[] =
		"# sonde.requests 1 A\n# sonde.requests 1 B\n# sonde.requests 1 C\n"
		"A;[cpu];f 30\nB;[io];g 100\nC;[cpu];h 7\n";
	struct profile *a = read_folded(text_a), *b = read_folded(text_b);
	struct diff *d = compare(a, b);

	(void)state;
	assert_string_equal(d->routes[0].route, "B");
	assert_string_equal(d->routes[1].route, "A");
	assert_string_equal(d->routes[2].route, "C");
	assert_string_equal(d->functions[0].function, "g");
	assert_string_equal(d->functions[1].function, "f");
	assert_string_equal(d->functions[2].function, "h");
	diff_destroy(d);
	profile_destroy(a);
	profile_destroy(b);
}

static void routes_and_functions_of_one_side_are_kept(void **state)
{
	struct profile *a = read_folded("# sonde.requests 1 A\nA;[cpu];gone 5\n");
	struct profile *b = read_folded("# sonde.requests 2 B\nB;[cpu];new 6\n");
	struct diff *d = compare(a, b);

	(void)state;
	assert_int_equal(d->route_count, 2);
	assert_int_equal(d->worst, DIFF_PER_REQUEST);
	assert_pair(function_of(d, "gone")->self, 5000, 0);
	assert_pair(function_of(d, "new")->self, 0, 3000);
	assert_pair(d->requests, 1, 2);
	diff_destroy(d);
	profile_destroy(a);
	profile_destroy(b);
}

static void one_function_under_two_routes_is_two_rows(void **state)
{
	static const char text[] =
		"# sonde.requests 1 A\n# sonde.requests 1 B\nA;[cpu];f 1\nB;[cpu];f 2\n";
	struct profile *a = read_folded(text), *b = read_folded(text);
	struct diff *d = compare(a, b);

	(void)state;
	assert_int_equal(d->function_count, 2);
	assert_string_equal(d->functions[0].route, "A");
	assert_pair(d->functions[0].self, 1000, 1000);
	assert_pair(d->functions[1].self, 2000, 2000);
	diff_destroy(d);
	profile_destroy(a);
	profile_destroy(b);
}

static void without_request_counts_totals_are_compared(void **state)
{
	struct profile *a = read_folded("main;f 10\n"), *b = read_folded("main;f 30\nmain;g 1\n");
	struct diff *d = compare(a, b);

	(void)state;
	assert_int_equal(d->worst, DIFF_TOTAL);
	assert_pair(function_of(d, "f")->self, 10000, 30000);
	assert_pair(function_of(d, "main")->total, 10000, 31000);
	diff_destroy(d);

	a->duration_ns = 2000000000;
	b->duration_ns = 1000000000;
	d = compare(a, b);
	assert_int_equal(d->worst, DIFF_PER_SECOND);
	assert_pair(function_of(d, "f")->self, 5000, 30000);
	diff_destroy(d);
	profile_destroy(a);
	profile_destroy(b);
}

static void empty_profiles_compare_to_nothing(void **state)
{
	struct profile *a = read_folded("# nothing\n"), *b = read_folded("# nothing\n");
	struct diff *d = compare(a, b);

	(void)state;
	assert_int_equal(d->route_count, 0);
	assert_int_equal(d->function_count, 0);
	diff_destroy(d);
	diff_destroy(NULL);
	profile_destroy(a);
	profile_destroy(b);
}

static void huge_times_do_not_turn_over(void **state)
{
	struct profile *a =
		read_folded("A;[cpu];f 18446744073709551615\nA;[io];f 18446744073709551615\n");
	struct profile *b = read_folded("A;[cpu];f 1\n");
	struct diff *d = compare(a, b);

	(void)state;
	assert_pair(d->routes[0].total, INT64_MAX, 1000);
	assert_true(diff_change(d->routes[0].total) < 0);
	diff_destroy(d);
	profile_destroy(a);
	profile_destroy(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(times_are_per_request),
		cmocka_unit_test(the_largest_change_comes_first),
		cmocka_unit_test(routes_and_functions_of_one_side_are_kept),
		cmocka_unit_test(one_function_under_two_routes_is_two_rows),
		cmocka_unit_test(without_request_counts_totals_are_compared),
		cmocka_unit_test(empty_profiles_compare_to_nothing),
		cmocka_unit_test(huge_times_do_not_turn_over),
	};

	return RUN(tests);
}
