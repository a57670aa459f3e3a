/* SPDX-License-Identifier: MIT
 *
 * For the tests of the collector: a store in a directory of its own, and an agent's messages made in a few lines.
 */
#ifndef TESTS_COLLECTOR_H
#define TESTS_COLLECTOR_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/flame.h"
#include "server/session.h"
#include "server/store.h"
#include "sonde_hist.h"
#include "tests/unit/unit.h"

#define T0 1763600000000000000u /* when the tests take place */
#define S  1000000000u

struct fixture {
	char dir[64];
	struct store *store;
	struct session *session;
	struct buffer out;
	const char *why;
};

static inline void store_reopen(struct fixture *f, uint64_t max_bytes)
{
	char error[512];

	store_close(f->store);
	if (store_open(f->dir, max_bytes, &f->store, error, sizeof(error)))
		fail_msg("%s", error);
}

static inline int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/sonde-unit-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	store_reopen(f, 1ull << 40);
	f->session = session_create(f->store);
	*state = f;
	return 0;
}

static inline int fixture_teardown(void **state)
{
	struct fixture *f = *state;
	DIR *dir;

	session_destroy(f->session);
	store_close(f->store);
	dir = opendir(f->dir);
	for (struct dirent *e; dir && (e = readdir(dir));)
		unlinkat(dirfd(dir), e->d_name, 0);
	if (dir)
		closedir(dir);
	rmdir(f->dir);
	buffer_fini(&f->out);
	free(f);
	return 0;
}

/* Give the session a message in a transaction of its own, which is committed when all is well. */
static inline int give(struct fixture *f, Sonde__Frame *frame)
{
	size_t len = sonde__frame__get_packed_size(frame);
	uint8_t *bytes = malloc(len + 1);
	int err;

	sonde__frame__pack(frame, bytes);
	assert_int_equal(store_begin(f->store), 0);
	err = session_frame(f->session, bytes, len, &f->out, &f->why);
	free(bytes);
	if (err) {
		store_rollback(f->store);
		session_rolled_back(f->session);
	} else {
		assert_int_equal(store_commit(f->store), 0);
		session_committed(f->session);
	}
	return err;
}

static inline int give_hello(struct fixture *f, uint64_t instance, const char *service)
{
	Sonde__Frame frame = SONDE__FRAME__INIT;
	Sonde__Hello hello = SONDE__HELLO__INIT;

	hello.protocol = 1;
	hello.instance = instance;
	hello.service = (char *)(uintptr_t)service;
	hello.pid = 42;
	hello.unix_ns = T0;
	frame.body_case = SONDE__FRAME__BODY_HELLO;
	frame.hello = &hello;
	return give(f, &frame);
}

static inline int give_dict(struct fixture *f, Sonde__Dict *dict)
{
	Sonde__Frame frame = SONDE__FRAME__INIT;

	frame.body_case = SONDE__FRAME__BODY_DICT;
	frame.dict = dict;
	return give(f, &frame);
}

static inline int give_mark(struct fixture *f, uint64_t unix_ns, const char *name)
{
	Sonde__Frame frame = SONDE__FRAME__INIT;
	Sonde__Event event = SONDE__EVENT__INIT;

	event.unix_ns = unix_ns;
	event.name = (char *)(uintptr_t)name;
	frame.body_case = SONDE__FRAME__BODY_EVENT;
	frame.event = &event;
	return give(f, &frame);
}

static inline int give_window(struct fixture *f, Sonde__Window *window)
{
	Sonde__Frame frame = SONDE__FRAME__INIT;

	frame.body_case = SONDE__FRAME__BODY_WINDOW;
	frame.window = window;
	return give(f, &frame);
}

/* Routes 1 "GET /a", 2 "GET /b"; threads 1 "one", 2 "two"; functions 1 main, 2 work, 3 wait;
 * stacks 1 main, 2 main;work, 3 main;wait. */
static inline int give_names(struct fixture *f)
{
	static char function_names[][8] = { "main", "work", "wait" };
	static char route_names[][8] = { "GET /a", "GET /b" };
	static char thread_names[][8] = { "one", "two" };
	static uint32_t id[] = { 1, 2, 3 }, parent[] = { 0, 1, 1 }, module[] = { 0, 0, 0 };
	static uint64_t address[] = { 1, 2, 3 };
	Sonde__Dict dict = SONDE__DICT__INIT;
	Sonde__Stacks stacks = SONDE__STACKS__INIT;
	Sonde__Function functions[3], *function[3];
	Sonde__Route routes[2], *route[2];
	Sonde__Thread threads[2], *thread[2];

	for (uint32_t i = 0; i < 3; i++) {
		sonde__function__init(&functions[i]);
		functions[i].id = i + 1;
		functions[i].name = function_names[i];
		function[i] = &functions[i];
	}
	for (uint32_t i = 0; i < 2; i++) {
		sonde__route__init(&routes[i]);
		sonde__thread__init(&threads[i]);
		routes[i].id = threads[i].id = i + 1;
		routes[i].name = route_names[i];
		threads[i].name = thread_names[i];
		route[i] = &routes[i];
		thread[i] = &threads[i];
	}
	stacks.n_id = stacks.n_parent = stacks.n_module = stacks.n_address = 3;
	stacks.id = id;
	stacks.parent = parent;
	stacks.module = module;
	stacks.address = address;
	dict.n_functions = 3;
	dict.functions = function;
	dict.n_routes = dict.n_threads = 2;
	dict.routes = route;
	dict.threads = thread;
	dict.stacks = &stacks;
	return give_dict(f, &dict);
}

/* A window under construction; all of it in place, so that it can lie on the stack. */
struct maker {
	Sonde__Window window;
	Sonde__Rows rows;
	Sonde__Self self;
	uint32_t route[64], state[64], latency[64], stack[64], thread[64], object[64];
	uint64_t count[64], ns[64];
	Sonde__RouteStats stats[4], *stats_list[4];
	Sonde__Histogram hist[4];
	uint32_t delta[4];
	uint64_t hist_count[4], ledger[4][STATE_COUNT];
};

/* An empty window number @seq, of one second, that ends @seq seconds after T0. */
static inline void make(struct maker *m, uint64_t seq)
{
	memset(m, 0, sizeof(*m));
	sonde__window__init(&m->window);
	sonde__rows__init(&m->rows);
	sonde__self__init(&m->self);
	m->window.seq = seq;
	m->window.start_unix_ns = T0 + (seq - 1) * S;
	m->window.end_unix_ns = T0 + seq * S;
	m->window.rows = &m->rows;
	m->window.self = &m->self;
	m->window.routes = m->stats_list;
	m->rows.route = m->route;
	m->rows.state = m->state;
	m->rows.latency = m->latency;
	m->rows.stack = m->stack;
	m->rows.thread = m->thread;
	m->rows.object = m->object;
	m->rows.count = m->count;
	m->rows.ns = m->ns;
}

static inline void make_row(struct maker *m, uint32_t route, uint32_t state, uint32_t latency,
			    uint32_t stack, uint32_t thread, uint64_t ns)
{
	size_t i = m->rows.n_route++;

	m->rows.n_state = m->rows.n_latency = m->rows.n_stack = m->rows.n_thread = i + 1;
	m->rows.n_object = m->rows.n_count = m->rows.n_ns = i + 1;
	m->route[i] = route;
	m->state[i] = state;
	m->latency[i] = latency;
	m->stack[i] = stack;
	m->thread[i] = thread;
	m->count[i] = 1;
	m->ns[i] = ns;
}

/* @count requests of @route, each of @ns, spent in @state. */
static inline Sonde__RouteStats *make_route(struct maker *m, uint32_t route, uint64_t count,
					    uint32_t state, uint64_t ns)
{
	size_t i = m->window.n_routes++;
	Sonde__RouteStats *r = &m->stats[i];

	sonde__route_stats__init(r);
	sonde__histogram__init(&m->hist[i]);
	m->stats_list[i] = r;
	m->delta[i] = hist_index(ns);
	m->hist_count[i] = count;
	m->hist[i].n_delta = m->hist[i].n_count = count ? 1 : 0;
	m->hist[i].delta = &m->delta[i];
	m->hist[i].count = &m->hist_count[i];
	m->ledger[i][state] = count * ns;
	r->route = route;
	r->count = count;
	r->n_ledger_ns = STATE_COUNT;
	r->ledger_ns = m->ledger[i];
	r->latency_sum_ns = count * ns;
	r->latency_max_ns = ns;
	r->latency = &m->hist[i];
	if (count)
		make_row(m, route, state, hist_coarse(ns), 0, 0, count * ns);
	return r;
}

#endif
