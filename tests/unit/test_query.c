/* SPDX-License-Identifier: MIT
 *
 * Answers are sums of what was stored, and call trees add up to the ledger to the nanosecond.
 */
#include "server/query.h"
#include "tests/unit/collector.h"

static const struct selection everything = { .from_unix_ns = T0,
					     .to_unix_ns = T0 + 1000 * S,
					     .states = STATES_ALL,
					     .latency_max_ns = UINT64_MAX };

static void start_as(struct fixture *f, uint64_t instance, const char *service)
{
	session_destroy(f->session);
	f->session = session_create(f->store);
	assert_int_equal(give_hello(f, instance, service), 0);
	assert_int_equal(give_names(f), 0);
}

static void start(struct fixture *f)
{
	start_as(f, 0xabc, "shop");
}

static void routes_are_merged_across_windows_and_instances(void **state)
{
	struct fixture *f = *state;
	struct selection sel = everything;
	struct routes_result r;
	struct maker m;

	for (uint64_t instance = 1; instance <= 2; instance++) {
		start_as(f, instance, "shop");
		for (uint64_t seq = 1; seq <= 2; seq++) {
			make(&m, seq);
			make_route(&m, 1, 3, STATE_CPU, 1000);
			make_route(&m, 2, 1, STATE_IO, 50000)->errors = 1;
			assert_int_equal(give_window(f, &m.window), 0);
		}
	}
	start_as(f, 3, "other shop");
	make(&m, 1);
	make_route(&m, 1, 7, STATE_CPU, 10);
	assert_int_equal(give_window(f, &m.window), 0);

	sel.service = "shop";
	assert_int_equal(query_routes(f->store, &sel, &r), 0);
	assert_int_equal(r.count, 2);
	assert_string_equal(r.routes[0].route, "GET /b"); /* the one with more time in all */
	assert_int_equal(r.routes[0].count, 4);
	assert_int_equal(r.routes[0].errors, 4);
	assert_int_equal(r.routes[0].ledger_ns[STATE_IO], 200000);
	assert_int_equal(r.routes[1].count, 12);
	assert_int_equal(r.routes[1].latency.sum_ns, 12000);
	/* both instances speak of the same two seconds */
	assert_true(r.routes[1].rate > 5.999 && r.routes[1].rate < 6.001);
	routes_result_free(&r);

	sel.service = NULL;
	sel.route = "GET /a";
	assert_int_equal(query_routes(f->store, &sel, &r), 0);
	assert_int_equal(r.count, 2); /* one for each service */
	routes_result_free(&r);
	sel.process = "0000000000000003";
	assert_int_equal(query_routes(f->store, &sel, &r), 0);
	assert_int_equal(r.count, 1);
	assert_int_equal(r.routes[0].count, 7);
	routes_result_free(&r);
	sel.process = "0000000000000009";
	assert_int_equal(query_routes(f->store, &sel, &r), 0);
	assert_int_equal(r.count, 0);
	routes_result_free(&r);
}

static void routes_in_flight_are_those_of_the_newest_window_of_the_living(void **state)
{
	struct fixture *f = *state;
	struct routes_result r;
	struct maker m;

	start(f);
	for (uint64_t seq = 1; seq <= 2; seq++) {
		make(&m, seq);
		make_route(&m, 1, 1, STATE_CPU, 1000)->in_flight = (uint32_t)(10 * seq);
		assert_int_equal(give_window(f, &m.window), 0);
	}
	assert_int_equal(query_routes(f->store, &everything, &r), 0);
	assert_int_equal(r.routes[0].in_flight, 0);
	routes_result_free(&r);
	store_set_connected(f->store, 0xabc, true);
	assert_int_equal(query_routes(f->store, &everything, &r), 0);
	assert_int_equal(r.routes[0].in_flight, 20);
	routes_result_free(&r);
}

static void background_is_apart_from_routes(void **state)
{
	struct fixture *f = *state;
	struct selection sel = everything;
	struct routes_result r;
	struct maker m;

	start(f);
	make(&m, 1);
	make_route(&m, 1, 1, STATE_CPU, 1000);
	make_row(&m, 0, STATE_CPU, 0, 2, 1, 555);
	assert_int_equal(give_window(f, &m.window), 0);
	assert_int_equal(query_routes(f->store, &sel, &r), 0);
	assert_int_equal(r.count, 1);
	assert_int_equal(r.background_ns[STATE_CPU], 555);
	routes_result_free(&r);
	sel.route = "";
	assert_int_equal(query_routes(f->store, &sel, &r), 0);
	assert_int_equal(r.count, 0);
	assert_int_equal(r.background_ns[STATE_CPU], 555);
	routes_result_free(&r);
}

/* Self time of the node of @name in @flame, all of them added up. */
static uint64_t self_of(const struct flame *flame, const char *name, unsigned state)
{
	uint64_t ns = 0;

	for (uint32_t i = 0; i < flame->node_count; i++) {
		if (strcmp(flame->functions[flame->nodes[i].function].name, name) == 0)
			ns += flame->nodes[i].self_ns[state];
	}
	return ns;
}

static struct flame *flame_of(struct fixture *f, const struct selection *sel)
{
	struct flame *flame;

	assert_int_equal(query_flame(f->store, sel, &flame), 0);
	return flame;
}

static void flame_is_scaled_to_the_ledger_exactly(void **state)
{
	struct fixture *f = *state;
	struct flame *flame;
	struct maker m;

	start(f);
	make(&m, 1);
	make_route(&m, 1, 1, STATE_CPU, 1000); /* exact: 1000 */
	make_row(&m, 1, STATE_CPU, hist_coarse(1000), 1, 1, 7);
	make_row(&m, 1, STATE_CPU, hist_coarse(1000), 2, 1, 7);
	make_row(&m, 1, STATE_CPU, hist_coarse(1000), 3, 1, 7);
	assert_int_equal(give_window(f, &m.window), 0);
	flame = flame_of(f, &everything);
	assert_int_equal(flame->total_ns[STATE_CPU], 1000);
	assert_int_equal(flame->requests, 1);
	assert_int_equal(flame->samples, 3);
	/* 333 each, and the one that is left over goes to one of them */
	assert_int_equal(self_of(flame, "main", STATE_CPU) + self_of(flame, "work", STATE_CPU) +
				 self_of(flame, "wait", STATE_CPU),
			 1000);
	assert_true(self_of(flame, "work", STATE_CPU) >= 333);
	assert_true(self_of(flame, "work", STATE_CPU) <= 334);
	flame_destroy(flame);
}

static void flame_names_time_without_samples(void **state)
{
	struct fixture *f = *state;
	struct flame *flame;
	struct maker m;

	start(f);
	make(&m, 1);
	make_route(&m, 1, 1, STATE_QUEUE, 400);
	make_route(&m, 2, 1, STATE_CPU, 800);
	make_row(&m, 2, STATE_CPU, hist_coarse(800), 2, 1, 10000);
	make_route(&m, 1, 1, STATE_LOCK, 90);
	assert_int_equal(give_window(f, &m.window), 0);
	flame = flame_of(f, &everything);
	assert_int_equal(self_of(flame, "[queue]", STATE_QUEUE), 400);
	assert_int_equal(self_of(flame, "[not sampled]", STATE_LOCK), 90);
	assert_int_equal(self_of(flame, "work", STATE_CPU), 800);
	assert_int_equal(self_of(flame, "[not sampled]", STATE_CPU), 0);
	flame_destroy(flame);
}

static void flame_of_all_routes_is_the_sum_of_the_routes(void **state)
{
	struct fixture *f = *state;
	struct route_flame *flames;
	struct flame *flame;
	uint64_t work = 0;
	size_t count;
	struct maker m;

	start(f);
	make(&m, 1);
	make_route(&m, 1, 1, STATE_CPU, 1000003);
	make_row(&m, 1, STATE_CPU, hist_coarse(1000003), 2, 1, 1000);
	make_row(&m, 1, STATE_CPU, hist_coarse(1000003), 3, 1, 3000);
	make_route(&m, 2, 1, STATE_CPU, 77);
	make_row(&m, 2, STATE_CPU, hist_coarse(77), 2, 1, 10000000);
	assert_int_equal(give_window(f, &m.window), 0);
	flame = flame_of(f, &everything);
	assert_int_equal(query_flames(f->store, &everything, &flames, &count), 0);
	assert_int_equal(count, 2);
	for (size_t i = 0; i < count; i++)
		work += self_of(flames[i].flame, "work", STATE_CPU);
	assert_int_equal(self_of(flame, "work", STATE_CPU), work);
	assert_int_equal(work, 250000 + 77);
	assert_int_equal(flame->total_ns[STATE_CPU], 1000080);
	route_flames_free(flames, count);
	flame_destroy(flame);
}

static void flame_filters_by_state_latency_and_thread(void **state)
{
	struct fixture *f = *state;
	struct selection sel = everything;
	struct flame *flame;
	struct maker m;

	start(f);
	make(&m, 1);
	make_route(&m, 1, 4, STATE_CPU, 1000);
	make_row(&m, 1, STATE_CPU, hist_coarse(1000), 2, 1, 10);
	make_route(&m, 1, 2, STATE_CPU, 9000000);
	make_row(&m, 1, STATE_CPU, hist_coarse(9000000), 3, 2, 10);
	make_route(&m, 1, 1, STATE_IO, 500);
	assert_int_equal(give_window(f, &m.window), 0);

	sel.states = 1u << STATE_IO;
	flame = flame_of(f, &sel);
	assert_int_equal(flame->total_ns[STATE_CPU], 0);
	assert_int_equal(flame->total_ns[STATE_IO], 500);
	flame_destroy(flame);

	sel = everything;
	sel.latency_min_ns = 5000000;
	flame = flame_of(f, &sel);
	assert_int_equal(flame->requests, 2);
	assert_int_equal(flame->total_ns[STATE_CPU], 18000000);
	assert_int_equal(self_of(flame, "work", STATE_CPU), 0);
	flame_destroy(flame);

	sel = everything;
	sel.thread = "two"; /* samples' own weights: the ledger knows no threads */
	flame = flame_of(f, &sel);
	assert_int_equal(flame->total_ns[STATE_CPU], 10);
	assert_int_equal(self_of(flame, "wait", STATE_CPU), 10);
	flame_destroy(flame);
}

static void flame_outside_requests_has_the_samples_own_weights(void **state)
{
	struct fixture *f = *state;
	struct selection sel = everything;
	struct flame *flame;
	struct maker m;

	start(f);
	make(&m, 1);
	make_route(&m, 1, 4, STATE_CPU, 1000);
	make_row(&m, 0, STATE_CPU, 0, 2, 1, 123);
	assert_int_equal(give_window(f, &m.window), 0);
	sel.route = "";
	flame = flame_of(f, &sel);
	assert_int_equal(flame->total_ns[STATE_CPU], 123);
	assert_int_equal(self_of(flame, "work", STATE_CPU), 123);
	flame_destroy(flame);
	sel.route = "no such route";
	flame = flame_of(f, &sel);
	assert_int_equal(flame->node_count, 1);
	flame_destroy(flame);
}

static void latency_is_cut_into_steps(void **state)
{
	struct fixture *f = *state;
	struct selection sel = everything;
	struct latency_result *r = malloc(sizeof(*r));
	struct maker m;

	start(f);
	for (uint64_t seq = 1; seq <= 3; seq++) {
		make(&m, seq);
		make_route(&m, 1, seq, STATE_CPU, 1000);
		assert_int_equal(give_window(f, &m.window), 0);
	}
	sel.to_unix_ns = T0 + 4 * S;
	assert_int_equal(query_latency(f->store, &sel, QUERY_WHAT_LATENCY, 2 * S, r), 0);
	assert_int_equal(r->hist.count, 6);
	assert_int_equal(r->hist.max_ns, 1000);
	assert_int_equal(r->steps, 2);
	assert_int_equal(r->heat[0][hist_index(1000)],
			 1); /* the window that ends in the first two seconds */
	assert_int_equal(r->heat[1][hist_index(1000)], 5);
	latency_result_free(r);
	assert_int_equal(query_latency(f->store, &sel, QUERY_WHAT_LATENCY, 1000, r), -E2BIG);
	free(r);
}

static void processes_show_sums_and_the_newest_window(void **state)
{
	struct fixture *f = *state;
	struct processes_result r;
	Sonde__Drop drop = SONDE__DROP__INIT, *drops = &drop;
	char cause[] = "ring full";
	struct maker m;

	start(f);
	for (uint64_t seq = 1; seq <= 2; seq++) {
		make(&m, seq);
		m.self.agent_cpu_ns = 100;
		m.self.handler_ns = 20;
		m.self.memory_bytes = seq * 1000;
		drop.cause = cause;
		drop.count = seq;
		m.self.n_drops = 1;
		m.self.drops = &drops;
		m.window.last = seq == 2;
		assert_int_equal(give_window(f, &m.window), 0);
	}
	assert_int_equal(query_processes(f->store, &everything, &r), 0);
	assert_int_equal(r.count, 1);
	assert_string_equal(r.processes[0].state, "ended");
	assert_int_equal(r.processes[0].agent_cpu_ns, 200);
	assert_int_equal(r.processes[0].handler_ns, 40);
	assert_int_equal(r.processes[0].wall_ns, 2 * S);
	assert_int_equal(r.processes[0].memory_bytes, 2000);
	assert_int_equal(r.processes[0].drop_count, 1);
	assert_int_equal(r.processes[0].drops[0].count, 2); /* since the start, not a sum */
	processes_result_free(&r);
}

static void processes_keep_so_many_names(void **state)
{
	struct fixture *f = *state;
	Sonde__StackEnd ends[SESSION_LIST_MAX], *list[SESSION_LIST_MAX];
	char how[SESSION_LIST_MAX][8];
	struct processes_result r;
	uint64_t sum = 0;
	struct maker m;

	start(f);
	make(&m, 1);
	for (size_t i = 0; i < SESSION_LIST_MAX; i++) {
		sonde__stack_end__init(&ends[i]);
		snprintf(how[i], sizeof(how[i]), "%zu", i);
		ends[i].how = how[i];
		ends[i].count = 1;
		list[i] = &ends[i];
	}
	m.self.ends = list;
	m.self.n_ends = SESSION_LIST_MAX;
	assert_int_equal(give_window(f, &m.window), 0);
	assert_int_equal(query_processes(f->store, &everything, &r), 0);
	assert_int_equal(r.processes[0].end_count, QUERY_NAMES_MAX + 1);
	assert_string_equal(r.processes[0].ends[QUERY_NAMES_MAX].name, "(other)");
	for (size_t i = 0; i < r.processes[0].end_count; i++)
		sum += r.processes[0].ends[i].count;
	assert_int_equal(sum, SESSION_LIST_MAX);
	processes_result_free(&r);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(routes_are_merged_across_windows_and_instances),
		TEST(routes_in_flight_are_those_of_the_newest_window_of_the_living),
		TEST(background_is_apart_from_routes),
		TEST(flame_is_scaled_to_the_ledger_exactly),
		TEST(flame_names_time_without_samples),
		TEST(flame_of_all_routes_is_the_sum_of_the_routes),
		TEST(flame_filters_by_state_latency_and_thread),
		TEST(flame_outside_requests_has_the_samples_own_weights),
		TEST(latency_is_cut_into_steps),
		TEST(processes_show_sums_and_the_newest_window),
		TEST(processes_keep_so_many_names),
	};

	return RUN(tests);
}
