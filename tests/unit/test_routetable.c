/* SPDX-License-Identifier: MIT
 *
 * The table of `sonde top` as text (server/routetable.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/routetable.h"
#include "server/units.h"
#include "tests/unit/unit.h"

static const char two_routes[] =
	"{\"from\": 100.0, \"to\": 110.0, \"routes\": ["
	"{\"service\": \"shop\", \"route\": \"GET /lock\", \"count\": 812, \"errors\": 3, "
	"\"rate\": 81.2, \"in_flight\": 7,"
	" \"latency\": {\"mean\": 12400000, \"p50\": 11000000, \"p90\": 17000000, \"p99\": "
	"27000000, \"max\": 86800000},"
	" \"ledger\": {\"queue\": 0, \"cpu\": 3100000, \"lock\": 9300000}},"
	"{\"service\": \"shop\", \"route\": \"GET /idle\", \"count\": 0}]}";
static const char one_process[] = "{\"processes\": [{\"service\": \"shop\", \"state\": \"live\", "
				  "\"overhead\": {\"cores\": 0.0021, \"cpu_share\": 0.4},"
				  " \"lost_windows\": 2, \"drops\": [{\"cause\": \"spool full\", "
				  "\"count\": 1}, {\"cause\": \"ring full\", \"count\": 11}]},"
				  "{\"service\": \"bank\", \"state\": \"ended\"}]}";

static void load(struct routetable *table, const char *routes, const char *processes)
{
	json_t *of_routes = json_loads(routes, 0, NULL),
	       *of_processes = json_loads(processes, 0, NULL);

	assert_non_null(of_routes);
	assert_non_null(of_processes);
	assert_int_equal(routetable_init(table, of_routes, of_processes), 0);
	json_decref(of_routes);
	json_decref(of_processes);
}

static char *print(const struct routetable *table, struct routetable_style style, bool header)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	assert_non_null(f);
	(header ? routetable_print_header : routetable_print)(f, table, &style);
	fclose(f);
	return text;
}

static void assert_contains(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("\"%s\" is not in:\n%s", part, text);
}

static void rows_show_every_number_with_its_unit(void **state)
{
	struct routetable table;
	char *text;

	(void)state;
	load(&table, two_routes, one_process);
	text = print(&table, (struct routetable_style){ 0 }, false);
	assert_contains(text, "GET /lock      812    81.2/s       3          7  11.0 ms  17.0 ms  "
			      "27.0 ms  86.8 ms  12.4 ms  "
			      "ccccccllllllllllllllllll\n");
	assert_contains(text, "GET /idle        0       0/s       0          0        -        -   "
			      "     -        -        -  \n");
	assert_contains(text, "c CPU  l lock\n");
	free(text);
	routetable_fini(&table);
}

static void the_header_sums_processes_and_losses(void **state)
{
	struct routetable table;
	char *text;

	(void)state;
	load(&table, two_routes, one_process);
	text = print(&table, (struct routetable_style){ 0 }, true);
	assert_string_equal(text, "1 process of 2 services, 1 gone  |  agent 0.21 % of a core  |  "
				  "lost: 2 windows, 12 records (ring full)\n");
	free(text);
	routetable_fini(&table);
	load(&table, "{}", "{}");
	text = print(&table, (struct routetable_style){ 0 }, true);
	assert_contains(text, "no process has reported yet");
	free(text);
	text = print(&table, (struct routetable_style){ 0 }, false);
	assert_string_equal(text, "no request in this time\n");
	free(text);
	routetable_fini(&table);
}

static void overhead_is_the_sum_over_live_processes(void **state)
{
	struct routetable table;

	(void)state;
	load(&table, "{}",
	     "{\"processes\": [{\"state\": \"live\", \"overhead\": {\"cores\": 0.0012}},"
	     "{\"state\": \"live\", \"overhead\": {\"cores\": 0.0030}},"
	     "{\"state\": \"lost\", \"overhead\": {\"cores\": 0.9}}]}");
	assert_true(table.cores > 0.004199 && table.cores < 0.004201);
	routetable_fini(&table);
}

static void lines_never_exceed_the_width(void **state)
{
	struct routetable table;

	(void)state;
	load(&table, two_routes, one_process);
	for (size_t columns = 44; columns < 200; columns++) {
		struct routetable_style style = { .columns = columns, .explain = true };
		char *text = print(&table, style, false), *at = text;

		for (char *line; (line = strsep(&at, "\n"));)
			if (units_width(line) > columns)
				fail_msg("%zu columns: %s", columns, line);
		free(text);
	}
	routetable_fini(&table);
}

static void rows_past_the_limit_are_counted(void **state)
{
	struct routetable table;
	char *text;

	(void)state;
	load(&table, two_routes, one_process);
	text = print(&table, (struct routetable_style){ .rows_max = 1 }, false);
	assert_contains(text, "… 1 more route\n");
	assert_null(strstr(text, "/idle"));
	free(text);
	routetable_fini(&table);
}

static void explain_adds_a_sentence_per_route(void **state)
{
	struct routetable table;
	char *text;

	(void)state;
	load(&table, two_routes, one_process);
	text = print(&table, (struct routetable_style){ .explain = true }, false);
	assert_contains(text, "\n\nGET /lock takes 12.4 ms on average: 75 % waiting for a lock, 25 "
			      "% on the CPU.\n"
			      "GET /idle: no request ended.\n");
	free(text);
	routetable_fini(&table);
}

static void services_are_named_when_there_are_several(void **state)
{
	struct routetable table;
	char *text;

	(void)state;
	load(&table,
	     "{\"routes\": [{\"service\": \"a\", \"route\": \"/x\"}, {\"service\": \"b\", "
	     "\"route\": \"/x\"}]}",
	     "{}");
	text = print(&table, (struct routetable_style){ 0 }, false);
	assert_contains(text, "a: /x");
	assert_contains(text, "b: /x");
	free(text);
	routetable_fini(&table);
}

static void answers_of_another_shape_do_no_harm(void **state)
{
	struct routetable table;
	char *text;

	(void)state;
	load(&table,
	     "{\"from\": \"x\", \"routes\": [7, null, {\"route\": 3, \"count\": -5, \"rate\": "
	     "\"fast\", \"latency\": [], "
	     "\"ledger\": {\"cpu\": 1e300, \"io\": -1}}, {\"route\": \"\\u001b[31m\"}]}",
	     "{\"processes\": [null, {\"state\": 1, \"drops\": {}}]}");
	text = print(&table, (struct routetable_style){ .explain = true, .columns = 100 }, false);
	assert_null(strchr(text, '\033'));
	free(text);
	routetable_fini(&table);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_show_every_number_with_its_unit),
		cmocka_unit_test(the_header_sums_processes_and_losses),
		cmocka_unit_test(overhead_is_the_sum_over_live_processes),
		cmocka_unit_test(lines_never_exceed_the_width),
		cmocka_unit_test(rows_past_the_limit_are_counted),
		cmocka_unit_test(explain_adds_a_sentence_per_route),
		cmocka_unit_test(services_are_named_when_there_are_several),
		cmocka_unit_test(answers_of_another_shape_do_no_harm),
	};

	return RUN(tests);
}
