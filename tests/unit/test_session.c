/* SPDX-License-Identifier: MIT
 *
 * What an agent may say, what it may not, and what is kept of it.
 */
#include "tests/unit/collector.h"

static uint64_t stored_windows(struct fixture *f);

static int count_window(void *context, const struct store_window *w)
{
	(void)w;
	++*(uint64_t *)context;
	return 0;
}

static uint64_t stored_windows(struct fixture *f)
{
	struct store_filter filter = { .to_unix_ns = UINT64_MAX };
	struct store_read *read;
	uint64_t count = 0;

	assert_int_equal(store_read_begin(f->store, &read), 0);
	assert_int_equal(store_read_windows(read, &filter, STORE_ROWS, count_window, &count), 0);
	store_read_end(read);
	return count;
}

static int count_mark(void *context, const struct store_mark *mark)
{
	(void)mark;
	++*(uint64_t *)context;
	return 0;
}

static uint64_t stored_marks(struct fixture *f)
{
	struct store_read *read;
	uint64_t count = 0;

	assert_int_equal(store_read_begin(f->store, &read), 0);
	assert_int_equal(store_read_marks(read, NULL, 0, 0, UINT64_MAX, 100, count_mark, &count),
			 0);
	store_read_end(read);
	return count;
}

/* The last answer: its Welcome's or Ack's number; -1 when there is none. */
static int64_t last_answer(struct fixture *f, Sonde__Frame__BodyCase kind)
{
	size_t at = 0, last = 0, len = 0;
	Sonde__Frame *frame;
	int64_t number;

	if (f->out.len == 0)
		return -1;
	while (at < f->out.len) {
		last = at + 4;
		len = (uint8_t)f->out.bytes[at]; /* answers are short */
		at = last + len;
	}
	frame = sonde__frame__unpack(NULL, len, (uint8_t *)f->out.bytes + last);
	assert_non_null(frame);
	assert_int_equal(frame->body_case, kind);
	number = (int64_t)(kind == SONDE__FRAME__BODY_ACK ? frame->ack->seq
							  : frame->welcome->stored_seq);
	sonde__frame__free_unpacked(frame, NULL);
	f->out.len = 0;
	return number;
}

static void start(struct fixture *f)
{
	assert_int_equal(give_hello(f, 0xabc, "shop"), 0);
	assert_int_equal(give_names(f), 0);
}

/* Begin again, as an agent does that has lost its connection. */
static void reconnect(struct fixture *f)
{
	session_destroy(f->session);
	f->session = session_create(f->store);
	start(f);
}

static void session_wants_a_hello_first(void **state)
{
	struct fixture *f = *state;
	struct maker m;

	make(&m, 1);
	assert_int_equal(give_window(f, &m.window), -EPROTO);
	assert_int_equal(give_names(f), -EPROTO);
	assert_int_equal(give_hello(f, 0xabc, "shop"), 0);
	assert_int_equal(last_answer(f, SONDE__FRAME__BODY_WELCOME), 0);
	assert_int_equal(give_hello(f, 0xabc, "shop"), -EPROTO);
	assert_string_equal(f->why, "a second Hello");
}

static void session_refuses_bad_hellos(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(give_hello(f, 0, "shop"), -EPROTO);
	assert_int_equal(give_hello(f, 1, ""), -EPROTO);
	assert_int_equal(give_hello(f, 1, "sh\xffop"), -EPROTO);
	assert_int_equal(session_instance(f->session), 0);
}

static void session_acknowledges_a_window_once_it_is_stored(void **state)
{
	struct fixture *f = *state;
	struct maker m;

	start(f);
	f->out.len = 0;
	make(&m, 1);
	make_route(&m, 1, 2, STATE_CPU, 1000);
	assert_int_equal(give_window(f, &m.window), 0);
	assert_int_equal(last_answer(f, SONDE__FRAME__BODY_ACK), 1);
	assert_int_equal(stored_windows(f), 1);
}

static void session_does_not_count_a_window_twice(void **state)
{
	struct fixture *f = *state;
	struct store_instance i;
	struct maker m;

	start(f);
	for (uint64_t seq = 1; seq <= 3; seq++) {
		make(&m, seq);
		assert_int_equal(give_window(f, &m.window), 0);
	}
	f->out.len = 0;
	session_destroy(f->session);
	f->session = session_create(f->store);
	assert_int_equal(give_hello(f, 0xabc, "shop"), 0);
	assert_int_equal(last_answer(f, SONDE__FRAME__BODY_WELCOME), 3);
	make(&m, 2);
	assert_int_equal(give_window(f, &m.window), 0);
	assert_int_equal(last_answer(f, SONDE__FRAME__BODY_ACK), 2);
	assert_int_equal(stored_windows(f), 3);
	assert_int_equal(store_find_instance(f->store, 0xabc, &i), 0);
	assert_int_equal(i.stored_seq, 3);
	store_instance_fini(&i);
}

static uint64_t lost(struct fixture *f)
{
	struct store_instance i;
	uint64_t n;

	assert_int_equal(store_find_instance(f->store, 0xabc, &i), 0);
	n = i.lost_windows;
	store_instance_fini(&i);
	return n;
}

static void session_counts_gaps_and_what_the_agent_lost_once(void **state)
{
	struct fixture *f = *state;
	struct maker m;

	start(f);
	make(&m, 5); /* the collector came late: 1 to 4 are only lost if the agent says so */
	assert_int_equal(give_window(f, &m.window), 0);
	assert_int_equal(lost(f), 0);
	make(&m, 6);
	m.window.lost_windows = 4;
	assert_int_equal(give_window(f, &m.window), 0);
	assert_int_equal(lost(f), 4);
	reconnect(f);
	make(&m, 9); /* 7 and 8 are missing, and the agent knows */
	m.window.lost_windows = 6;
	assert_int_equal(give_window(f, &m.window), 0);
	assert_int_equal(lost(f), 6);
}

static void session_refuses_an_instance_of_another_process(void **state)
{
	struct fixture *f = *state;
	Sonde__Frame frame = SONDE__FRAME__INIT;
	Sonde__Hello hello = SONDE__HELLO__INIT;
	char service[] = "shop";

	start(f);
	session_destroy(f->session);
	f->session = session_create(f->store);
	hello.protocol = 1;
	hello.instance = 0xabc;
	hello.service = service;
	hello.pid = 43;
	frame.body_case = SONDE__FRAME__BODY_HELLO;
	frame.hello = &hello;
	assert_int_equal(give(f, &frame), -EPROTO);
}

static void session_refuses_windows_that_make_no_sense(void **state)
{
	struct fixture *f = *state;
	struct maker m;

	start(f);
#define REFUSED(change)                                                                            \
  do {                                                                                             \
    make(&m, 1);                                                                                   \
    make_route(&m, 1, 2, STATE_CPU, 1000);                                                         \
    make_row(&m, 1, STATE_CPU, 3, 2, 1, 1000);                                                     \
    change;                                                                                        \
    if (give_window(f, &m.window) != -EPROTO)                                                      \
      fail_msg("accepted: %s", #change);                                                           \
  } while (0)
	REFUSED(m.window.seq = 0);
	REFUSED(m.window.start_unix_ns = m.window.end_unix_ns + 1);
	REFUSED(m.window.end_unix_ns = UINT64_MAX);
	REFUSED(m.rows.n_ns--);
	REFUSED(m.route[1] = 3);
	REFUSED(m.route[1] = UINT32_MAX);
	REFUSED(m.stack[1] = 4);
	REFUSED(m.thread[1] = 3);
	REFUSED(m.object[1] = 1);
	REFUSED(m.state[1] = STATE_COUNT);
	REFUSED(m.latency[1] = HIST_COARSE_BUCKETS);
	REFUSED(m.ns[1] = UINT64_MAX);
	REFUSED(m.stats[0].route = 9);
	REFUSED(m.stats[0].route = 0);
	REFUSED(m.stats[0].n_ledger_ns = 7);
	REFUSED(m.stats[0].latency_sum_ns++);
	REFUSED(m.stats[0].errors = 3);
	REFUSED(m.hist_count[0] = 3);
	REFUSED(m.delta[0] = HIST_BUCKETS);
#undef REFUSED
	assert_int_equal(stored_windows(f), 0);
	make(&m, 1);
	assert_int_equal(give_window(f, &m.window), 0); /* the session is as good as before */
}

static int give_stacks(struct fixture *f, uint32_t id, uint32_t parent, uint32_t module,
		       uint64_t address, size_t addresses)
{
	Sonde__Dict dict = SONDE__DICT__INIT;
	Sonde__Stacks stacks = SONDE__STACKS__INIT;
	uint64_t two[2] = { address, address };

	stacks.n_id = stacks.n_parent = stacks.n_module = 1;
	stacks.n_address = addresses;
	stacks.id = &id;
	stacks.parent = &parent;
	stacks.module = &module;
	stacks.address = two;
	dict.stacks = &stacks;
	return give_dict(f, &dict);
}

static void session_refuses_stacks_that_could_loop_or_lead_nowhere(void **state)
{
	struct fixture *f = *state;

	start(f);
	assert_int_equal(give_stacks(f, 9, 3, 0, 1, 1), 0);
	assert_int_equal(give_stacks(f, 10, 10, 0, 1, 1), -EPROTO); /* its own parent */
	assert_int_equal(give_stacks(f, 9, 9, 0, 1, 1), -EPROTO);   /* … also when known */
	assert_int_equal(give_stacks(f, 10, 11, 0, 1, 1), -EPROTO); /* unknown parent */
	assert_int_equal(give_stacks(f, 10, 1, 5, 1, 1), -EPROTO);  /* unknown module */
	assert_int_equal(give_stacks(f, 10, 1, 0, 99, 1), -EPROTO); /* unknown function */
	assert_int_equal(give_stacks(f, 10, 1, 0, 1ull << 32 | 1, 1), -EPROTO);
	assert_int_equal(give_stacks(f, 10, 1, 0, 1, 2), -EPROTO); /* lengths differ */
	assert_int_equal(give_stacks(f, 0, 1, 0, 1, 1), -EPROTO);
	assert_int_equal(give_stacks(f, SESSION_STACKS_MAX, 1, 0, 1, 1), -EPROTO);
}

static void session_refuses_strings_that_are_not_utf8(void **state)
{
	struct fixture *f = *state;
	Sonde__Dict dict = SONDE__DICT__INIT;
	Sonde__Route route = SONDE__ROUTE__INIT, *routes = &route;
	char bad[] = "GET /\xc0\xaf", empty[] = "";
	struct maker m;
	Sonde__Drop drop = SONDE__DROP__INIT, *drops = &drop;

	start(f);
	route.id = 7;
	route.name = bad;
	dict.n_routes = 1;
	dict.routes = &routes;
	assert_int_equal(give_dict(f, &dict), -EPROTO);
	route.name = empty;
	assert_int_equal(give_dict(f, &dict), -EPROTO);
	make(&m, 1);
	drop.cause = bad;
	m.self.n_drops = 1;
	m.self.drops = &drops;
	assert_int_equal(give_window(f, &m.window), -EPROTO);
}

static void session_survives_any_cut_of_its_messages(void **state)
{
	struct fixture *f = *state;
	Sonde__Frame frame = SONDE__FRAME__INIT;
	uint8_t bytes[4096];
	struct maker m;
	size_t len;

	start(f);
	make(&m, 1);
	make_route(&m, 1, 2, STATE_CPU, 1000);
	frame.body_case = SONDE__FRAME__BODY_WINDOW;
	frame.window = &m.window;
	len = sonde__frame__pack(&frame, bytes);
	for (size_t cut = 0; cut < len; cut++) {
		struct buffer out = { 0 };
		const char *why;

		assert_int_equal(store_begin(f->store), 0);
		session_frame(f->session, bytes, cut, &out, &why);
		store_rollback(f->store);
		session_rolled_back(f->session);
		buffer_fini(&out);
	}
	assert_int_equal(give_window(f, &m.window), 0);
}

static void session_forgets_what_was_rolled_back(void **state)
{
	struct fixture *f = *state;
	Sonde__Frame frame = SONDE__FRAME__INIT;
	uint8_t bytes[4096];
	struct maker m;
	size_t len;

	start(f);
	make(&m, 1);
	frame.body_case = SONDE__FRAME__BODY_WINDOW;
	frame.window = &m.window;
	len = sonde__frame__pack(&frame, bytes);
	assert_int_equal(store_begin(f->store), 0);
	assert_int_equal(session_frame(f->session, bytes, len, &f->out, &f->why), 0);
	store_rollback(f->store); /* the disk was full */
	session_rolled_back(f->session);
	assert_int_equal(stored_windows(f), 0);
	assert_int_equal(give_window(f, &m.window),
			 0); /* the same again, and not taken for a duplicate */
	assert_int_equal(stored_windows(f), 1);
}

/* What answers walk through for every name must not grow with what an agent sends. */
static void session_bounds_lists_and_names(void **state)
{
	struct fixture *f = *state;
	Sonde__Dict dict = SONDE__DICT__INIT;
	Sonde__StackEnd end = SONDE__STACK_END__INIT, *ends[SESSION_LIST_MAX + 1];
	Sonde__StatusCount status = SONDE__STATUS_COUNT__INIT, *statuses[SESSION_LIST_MAX + 1];
	Sonde__Function functions[512], *function[512];
	char how[] = "complete", name[SESSION_TEXT_MAX + 1];
	uint64_t given = 0;
	struct maker m;

	start(f);
	end.how = how;
	for (size_t i = 0; i <= SESSION_LIST_MAX; i++) {
		ends[i] = &end;
		statuses[i] = &status;
	}
	make(&m, 1);
	m.self.ends = ends;
	m.self.n_ends = SESSION_LIST_MAX + 1;
	assert_int_equal(give_window(f, &m.window), -EPROTO);
	m.self.n_ends = SESSION_LIST_MAX;
	assert_int_equal(give_window(f, &m.window), 0);
	make(&m, 2);
	make_route(&m, 1, 2, STATE_CPU, 1000);
	m.stats[0].statuses = statuses;
	m.stats[0].n_statuses = SESSION_LIST_MAX + 1;
	assert_int_equal(give_window(f, &m.window), -EPROTO);

	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	for (size_t i = 0; i < 512; i++) {
		sonde__function__init(&functions[i]);
		functions[i].id = (uint32_t)i + 1;
		functions[i].name = name;
		function[i] = &functions[i];
	}
	dict.functions = function;
	dict.n_functions = 512;
	while (given < SESSION_NAMES_MAX_BYTES && give_dict(f, &dict) == 0)
		given += 512 * (sizeof(name) - 1);
	assert_true(given + 512 * sizeof(name) > SESSION_NAMES_MAX_BYTES);
	assert_true(given <= SESSION_NAMES_MAX_BYTES);
	assert_int_equal(give_dict(f, &dict), -EPROTO);
	assert_string_equal(f->why, "more names than fit");
}

/* Marks are the host's own words: a bad one costs itself only. */
static void session_leaves_bad_marks_out(void **state)
{
	struct fixture *f = *state;
	char longest[SESSION_MARK_MAX + 2];
	struct maker m;

	start(f);
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	assert_int_equal(give_mark(f, T0, ""), 0);
	assert_int_equal(give_mark(f, T0, "not \xff UTF-8"), 0);
	assert_int_equal(give_mark(f, UINT64_MAX, "the end of time"), 0);
	assert_int_equal(give_mark(f, T0, longest), 0);
	assert_int_equal(give_mark(f, T0, longest + 1), 0);
	assert_int_equal(stored_marks(f), 1);
	make(&m, 1);
	assert_int_equal(give_window(f, &m.window), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(session_wants_a_hello_first),
		TEST(session_refuses_bad_hellos),
		TEST(session_acknowledges_a_window_once_it_is_stored),
		TEST(session_does_not_count_a_window_twice),
		TEST(session_counts_gaps_and_what_the_agent_lost_once),
		TEST(session_refuses_an_instance_of_another_process),
		TEST(session_refuses_windows_that_make_no_sense),
		TEST(session_refuses_stacks_that_could_loop_or_lead_nowhere),
		TEST(session_refuses_strings_that_are_not_utf8),
		TEST(session_survives_any_cut_of_its_messages),
		TEST(session_forgets_what_was_rolled_back),
		TEST(session_bounds_lists_and_names),
		TEST(session_leaves_bad_marks_out),
	};

	return RUN(tests);
}
