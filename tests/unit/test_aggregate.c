/* SPDX-License-Identifier: MIT
 *
 * The window: exact sums, ledgers that add up, samples that find their request's route, caps that count. The last test
 * holds thousands of random requests and samples against a model that only knows lists.
 */
#include <stdlib.h>
#include <string.h>

#include "agent/core/aggregate.h"
#include "agent/core/config.h"
#include "sonde_hist.h"
#include "tests/unit/unit.h"

enum {
	QUEUE,
	CPU,
	RUNQ,
	IO,
	LOCK,
	SLEEP,
	LOOP,
	OTHER
};

static struct aggregate *create(void)
{
	const struct config c = { .spool_kib = 4096 };
	struct aggregate *a = aggregate_create(&c);

	assert_non_null(a);
	return a;
}

static Sonde__Frame *close_window(struct aggregate *a)
{
	const struct aggregate_window window = { .seq = 1, .start_ns = 10, .end_ns = 20 };
	struct encode_buffer b = { 0 };
	Sonde__Frame *f;

	assert_int_equal(aggregate_window_encode(a, &window, NULL, &b), 0);
	f = sonde__frame__unpack(NULL, b.used - ENCODE_PREFIX_BYTES, b.bytes + ENCODE_PREFIX_BYTES);
	assert_non_null(f);
	assert_int_equal(f->body_case, SONDE__FRAME__BODY_WINDOW);
	encode_buffer_fini(&b);
	return f;
}

static uint64_t drop(const struct aggregate *a, const char *cause)
{
	struct self_drop drops[AGGREGATE_DROPS];

	assert_int_equal(aggregate_drops(a, drops), AGGREGATE_DROPS);
	for (unsigned i = 0; i < AGGREGATE_DROPS; i++)
		if (strcmp(drops[i].cause, cause) == 0)
			return drops[i].count;
	fail_msg("no drop called %s", cause);
	return 0;
}

static struct done done_of(uint64_t request, uint32_t route, uint64_t cpu, uint64_t io)
{
	struct done d = { .request = request, .route = route, .status = 200, .event_state = IO };

	d.ledger_ns[CPU] = cpu;
	d.ledger_ns[IO] = io;
	d.latency_ns = cpu + io;
	return d;
}

static const Sonde__RouteStats *route_of(const Sonde__Frame *f, uint32_t id)
{
	for (size_t i = 0; i < f->window->n_routes; i++)
		if (f->window->routes[i]->route == id)
			return f->window->routes[i];
	return NULL;
}

static uint64_t rows_ns(const Sonde__Frame *f, uint32_t route, uint32_t state, bool exact)
{
	const Sonde__Rows *r = f->window->rows;
	uint64_t ns = 0;

	for (size_t i = 0; r && i < r->n_route; i++)
		if (r->route[i] == route && r->state[i] == state && (r->stack[i] == 0) == exact)
			ns += r->ns[i];
	return ns;
}

static void aggregate_window_of_nothing_is_empty(void **state)
{
	struct aggregate *a = create();
	Sonde__Frame *f = close_window(a);

	(void)state;
	assert_int_equal(f->window->seq, 1);
	assert_int_equal(f->window->start_ns, 10);
	assert_int_equal(f->window->rows->n_route, 0);
	assert_int_equal(f->window->n_routes, 0);
	sonde__frame__free_unpacked(f, NULL);
	aggregate_destroy(a);
}

static void aggregate_done_counts_exactly_and_the_next_window_starts_empty(void **state)
{
	struct aggregate *a = create();
	struct done d = done_of(1, 3, 1000, 500);
	const Sonde__RouteStats *r;
	Sonde__Frame *f;

	(void)state;
	aggregate_done(a, &d);
	d = done_of(2, 3, 2000, 0);
	d.status = 503;
	aggregate_done(a, &d);
	d = done_of(3, 3, 10, 0);
	d.failed = true;
	aggregate_done(a, &d);
	aggregate_in_flight(a, 3, 4);
	f = close_window(a);
	r = route_of(f, 3);
	assert_non_null(r);
	assert_int_equal(r->count, 3);
	assert_int_equal(r->errors, 2);
	assert_int_equal(r->latency_sum_ns, 3510);
	assert_int_equal(r->latency_max_ns, 2000);
	assert_int_equal(r->n_ledger_ns, 8);
	assert_int_equal(r->ledger_ns[CPU], 3010);
	assert_int_equal(r->ledger_ns[IO], 500);
	assert_int_equal(r->in_flight, 4);
	assert_int_equal(r->n_states, 2); /* only states that took time */
	assert_int_equal(r->n_statuses, 2);
	assert_int_equal(rows_ns(f, 3, CPU, true), 3010);
	assert_int_equal(rows_ns(f, 3, IO, true), 500);
	sonde__frame__free_unpacked(f, NULL);

	f = close_window(a);
	r = route_of(f, 3); /* told once more that none is in flight, then no longer */
	assert_non_null(r);
	assert_int_equal(r->count, 0);
	assert_int_equal(r->in_flight, 0);
	assert_int_equal(f->window->rows->n_route, 0);
	sonde__frame__free_unpacked(f, NULL);
	f = close_window(a);
	assert_null(route_of(f, 3));
	sonde__frame__free_unpacked(f, NULL);
	aggregate_destroy(a);
}

static void aggregate_ledger_is_made_to_add_up(void **state)
{
	static const struct {
		uint64_t latency, given[8], wanted[8];
	} cases[] = {
		{ 100, { 10, 50, 0, 40 }, { 10, 50, 0, 40 } },
		{ 100, { 10, 50 }, { 10, 50, 0, 0, 0, 0, 0, 40 } },
		{ 100, { 10, 90, 0, 0, 0, 0, 0, 20 }, { 10, 90, 0, 0, 0, 0, 0, 0 } },
		{ 100, { 10, 95, 0, 0, 0, 0, 0, 3 }, { 10, 90, 0, 0, 0, 0, 0, 0 } },
		{ 100, { 0, 101 }, { 0, 100 } },
		{ 100, { UINT64_MAX, UINT64_MAX, 7 }, { 0, 93, 7 } },
		{ 0, { 5, 5 }, { 0 } },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct aggregate *a = create();
		struct done d = { .request = 1, .route = 1, .latency_ns = cases[i].latency };
		const Sonde__RouteStats *r;
		uint64_t sum = 0;
		Sonde__Frame *f;

		memcpy(d.ledger_ns, cases[i].given, sizeof(d.ledger_ns));
		aggregate_done(a, &d);
		assert_int_equal(drop(a, "ledger mismatch"), i != 0);
		f = close_window(a);
		r = route_of(f, 1);
		for (unsigned s = 0; s < 8; s++) {
			if (i != 5) /* which of the two largest gives is not said */
				assert_int_equal(r->ledger_ns[s], cases[i].wanted[s]);
			sum += r->ledger_ns[s];
		}
		assert_int_equal(sum, cases[i].latency);
		assert_int_equal(r->latency_sum_ns, cases[i].latency);
		sonde__frame__free_unpacked(f, NULL);
		aggregate_destroy(a);
	}
}

static void aggregate_sample_without_request_is_route_0_and_its_event_waits_are_idle(void **state)
{
	struct aggregate *a = create();
	struct sample s = { .stack = 5, .thread = 2, .state = CPU, .ns = 10, .count = 1 };
	const Sonde__Rows *r;
	Sonde__Frame *f;

	(void)state;
	aggregate_sample(a, &s);
	aggregate_sample(a, &s);
	s.state = AGGREGATE_EVENT_WAIT;
	aggregate_sample(a, &s);
	s.state = 77;
	aggregate_sample(a, &s);
	f = close_window(a);
	r = f->window->rows;
	assert_int_equal(r->n_route, 1);
	assert_int_equal(r->route[0], 0);
	assert_int_equal(r->latency[0], 0);
	assert_int_equal(r->stack[0], 5);
	assert_int_equal(r->thread[0], 2);
	assert_int_equal(r->count[0], 2);
	assert_int_equal(r->ns[0], 20);
	sonde__frame__free_unpacked(f, NULL);
	aggregate_destroy(a);
}

static void aggregate_sample_waits_for_its_requests_end(void **state)
{
	struct aggregate *a = create();
	struct sample s = { .request = 9, .stack = 5, .state = CPU, .ns = 10, .count = 1 };
	struct done d = done_of(9, 4, 1000000, 2000);
	Sonde__Frame *f;

	(void)state;
	aggregate_sample(a, &s);
	s.state = AGGREGATE_EVENT_WAIT;
	aggregate_sample(a, &s);
	f = close_window(a);
	assert_int_equal(f->window->rows->n_route, 0);
	sonde__frame__free_unpacked(f, NULL);
	d.event_state = LOOP;
	aggregate_done(a, &d);
	f = close_window(a);
	assert_int_equal(rows_ns(f, 4, CPU, false), 10);
	assert_int_equal(rows_ns(f, 4, LOOP, false), 10);
	for (size_t i = 0; i < f->window->rows->n_route; i++)
		assert_int_equal(f->window->rows->latency[i], hist_coarse(1002000));
	sonde__frame__free_unpacked(f, NULL);
	aggregate_destroy(a);
}

static void aggregate_sample_that_comes_late_still_finds_its_request(void **state)
{
	struct aggregate *a = create();
	struct sample s = { .request = 9, .stack = 5, .state = AGGREGATE_EVENT_WAIT, .ns = 10 };
	struct done d = done_of(9, 4, 1000, 0);
	Sonde__Frame *f;

	(void)state;
	s.count = 1;
	aggregate_done(a, &d);
	aggregate_sample(a, &s);
	f = close_window(a);
	assert_int_equal(rows_ns(f, 4, IO, false), 10);
	sonde__frame__free_unpacked(f, NULL);
	aggregate_destroy(a);
}

static void aggregate_forget_drops_what_was_pending(void **state)
{
	struct aggregate *a = create();
	struct sample s = { .request = 9, .stack = 5, .state = CPU, .ns = 10, .count = 3 };
	struct done d = done_of(9, 4, 1000, 0);
	Sonde__Frame *f;

	(void)state;
	aggregate_sample(a, &s);
	aggregate_forget(a, 9);
	aggregate_forget(a, 9);
	aggregate_forget(a, 10);
	assert_int_equal(drop(a, "samples of requests that never ended"), 3);
	aggregate_done(a, &d);
	f = close_window(a);
	assert_int_equal(rows_ns(f, 4, CPU, false), 0);
	sonde__frame__free_unpacked(f, NULL);
	aggregate_destroy(a);
}

static void aggregate_pending_is_bounded_and_gets_rid_of_requests_that_never_end(void **state)
{
	struct aggregate *a = create();
	struct sample s = { .stack = 5, .state = CPU, .ns = 10, .count = 1 };

	(void)state;
	for (uint64_t i = 1; i <= AGGREGATE_PENDING + 10; i++) {
		s.request = i;
		aggregate_sample(a, &s);
	}
	assert_int_equal(drop(a, "pending samples"), 10);
	s.request = 5; /* merges with what is there */
	aggregate_sample(a, &s);
	assert_int_equal(drop(a, "pending samples"), 10);
	for (unsigned i = 0; i <= AGGREGATE_STALE_WINDOWS; i++)
		sonde__frame__free_unpacked(close_window(a), NULL);
	s.request = 5; /* still alive: seen again */
	aggregate_sample(a, &s);
	s.request = AGGREGATE_PENDING + 10;
	aggregate_sample(a, &s);
	assert_int_equal(drop(a, "pending samples"), 10);
	assert_int_equal(drop(a, "samples of requests that never ended"), AGGREGATE_PENDING - 1);
	aggregate_forget(a, 5);
	assert_int_equal(drop(a, "samples of requests that never ended"), AGGREGATE_PENDING + 2);
	aggregate_destroy(a);
}

static void aggregate_rows_statuses_and_routes_are_bounded(void **state)
{
	const struct config c = { .spool_kib = 64 };
	struct aggregate *a = aggregate_create(&c);
	struct sample s = { .state = CPU, .ns = 10, .count = 2 };
	struct done d = done_of(0, 1, 10, 10);
	uint64_t total = 0;
	Sonde__Frame *f;

	(void)state;
	assert_non_null(a);
	for (uint32_t i = 1; i <= AGGREGATE_ROWS; i++) {
		s.stack = i;
		aggregate_sample(a, &s);
	}
	for (uint32_t i = 0; i < 2 * AGGREGATE_STATUSES; i++) {
		d.status = 200 + i;
		aggregate_done(a, &d);
	}
	d.route = 0;
	aggregate_done(a, &d);
	d.route = AGGREGATE_ROUTES + 1;
	aggregate_done(a, &d);
	assert_int_equal(drop(a, "requests without a route"), 2);
	assert_int_equal(drop(a, "status counts"), AGGREGATE_STATUSES);
	f = close_window(a);
	assert_true(sonde__frame__get_packed_size(f) < 64 * 1024 / 2);
	assert_int_equal(drop(a, "window rows"),
			 2 * (AGGREGATE_ROWS - (f->window->rows->n_route - 2)));
	for (size_t i = 0; i < f->window->routes[0]->n_statuses; i++)
		total += f->window->routes[0]->statuses[i]->count;
	assert_int_equal(f->window->routes[0]->n_statuses, AGGREGATE_STATUSES);
	assert_int_equal(total, 2 * AGGREGATE_STATUSES);
	sonde__frame__free_unpacked(f, NULL);
	aggregate_destroy(a);
}

static void aggregate_window_too_large_for_the_spool_keeps_what_is_exact(void **state)
{
	const struct config c = { .spool_kib = 64 };
	struct aggregate *a = aggregate_create(&c);
	struct sample s = { .stack = 1, .state = CPU, .ns = 10, .count = 1 };
	uint64_t sum = 0, told = 0;
	Sonde__Frame *f;

	(void)state;
	assert_non_null(a);
	aggregate_sample(a, &s);
	for (unsigned i = 0; i < 35000; i++) {
		struct done d = done_of(0, 1 + i % 35, 1000 + i * 50, 500 + i * 7);

		aggregate_done(a, &d);
		sum += d.latency_ns;
	}
	f = close_window(a);
	assert_true(sonde__frame__get_packed_size(f) < 48 * 1024);
	assert_int_equal(drop(a, "windows cut to fit"), 1);
	for (uint32_t i = 1; i <= 35; i++) {
		assert_int_equal(route_of(f, i)->n_states, 0);
		assert_int_equal(route_of(f, i)->count, 1000);
		told += route_of(f, i)->latency_sum_ns;
	}
	assert_int_equal(told, sum);
	assert_int_equal(rows_ns(f, 0, CPU, false), 10); /* the samples had room */
	sonde__frame__free_unpacked(f, NULL);
	sonde__frame__free_unpacked(close_window(a), NULL);
	assert_int_equal(drop(a, "windows cut to fit"), 1);
	aggregate_destroy(a);
}

static void aggregate_latency_that_cannot_be_is_bounded(void **state)
{
	struct aggregate *a = create();
	struct done d = { .request = 1,
			  .route = 1,
			  .latency_ns = UINT64_MAX - 5 }; /* ended before it came */
	const Sonde__RouteStats *r;
	Sonde__Frame *f;

	(void)state;
	aggregate_done(a, &d);
	d.ledger_ns[CPU] = d.latency_ns = (uint64_t)1 << 50;
	for (unsigned i = 0; i < 1000; i++)
		aggregate_done(a, &d);
	f = close_window(a);
	r = route_of(f, 1);
	assert_int_equal(r->count, 1001);
	assert_int_equal(r->latency_max_ns, (uint64_t)1 << 48);
	assert_int_equal(r->latency_sum_ns, 1000 * ((uint64_t)1 << 48));
	assert_int_equal(r->ledger_ns[CPU], r->latency_sum_ns);
	sonde__frame__free_unpacked(f, NULL);
	aggregate_destroy(a);
}

static void aggregate_window_of_a_clock_set_back_keeps_its_length(void **state)
{
	const struct aggregate_window window = { .seq = 1,
						 .start_ns = 1000,
						 .end_ns = 1300,
						 .start_unix_ns = 90000,
						 .end_unix_ns = 50000 };
	struct aggregate *a = create();
	struct encode_buffer b = { 0 };
	Sonde__Frame *f;

	(void)state;
	assert_int_equal(aggregate_window_encode(a, &window, NULL, &b), 0);
	f = sonde__frame__unpack(NULL, b.used - ENCODE_PREFIX_BYTES, b.bytes + ENCODE_PREFIX_BYTES);
	assert_int_equal(f->window->start_unix_ns, 49700);
	assert_int_equal(f->window->end_unix_ns, 50000);
	sonde__frame__free_unpacked(f, NULL);
	encode_buffer_fini(&b);
	aggregate_destroy(a);
}

static void aggregate_histograms_without_room_still_agree_with_the_counts(void **state)
{
	struct aggregate *a = create();
	uint64_t counted = 0, asked = 0;
	Sonde__Frame *f;

	(void)state;
	for (uint32_t route = 1; route <= 4000; route++) {
		for (unsigned octave = 2; octave < 14; octave++) {
			struct done d = done_of(0, route, (uint64_t)3 << octave, 0);

			aggregate_done(a, &d);
			asked++;
		}
	}
	assert_true(drop(a, "histogram blocks") > 0);
	f = close_window(a);
	for (size_t i = 0; i < f->window->n_routes; i++) {
		const Sonde__RouteStats *r = f->window->routes[i];
		uint64_t total = 0;

		for (size_t j = 0; r->latency && j < r->latency->n_count; j++)
			total += r->latency->count[j];
		assert_int_equal(total, r->count);
		counted += r->count;
	}
	assert_true(counted > asked / 2 && counted < asked);
	sonde__frame__free_unpacked(f, NULL);
	aggregate_destroy(a);
}

static void aggregate_memory_is_steady_from_window_to_window(void **state)
{
	struct aggregate *a = create();
	size_t warm = 0;

	(void)state;
	for (unsigned window = 0; window < 30; window++) {
		for (uint64_t i = 0; i < 2000; i++) {
			struct done d = done_of(window * 10000 + i + 1, 1 + (uint32_t)(i % 20),
						1 + i * i, i);
			struct sample s = { .request = d.request,
					    .stack = 1 + (uint32_t)(i % 50),
					    .count = 1 };

			aggregate_sample(a, &s);
			aggregate_done(a, &d);
		}
		sonde__frame__free_unpacked(close_window(a), NULL);
		if (window == 1)
			warm = aggregate_bytes(a);
		if (window > 1)
			assert_int_equal(aggregate_bytes(a), warm);
	}
	aggregate_destroy(a);
}

/* ---- A model that only knows lists ---- */

enum {
	MODEL_ROUTES = 5,
	MODEL_ROWS = 8192,
	MODEL_OPEN = 50
};

struct model_row {
	uint32_t route, state, latency, stack, thread, object;
	uint64_t count, ns;
};

struct model {
	struct model_row rows[MODEL_ROWS];
	size_t row_count;
	struct hist hist[MODEL_ROUTES + 1][9];
	uint64_t errors[MODEL_ROUTES + 1];
	struct sample pending[MODEL_ROWS];
	size_t pending_count;
	uint64_t open[MODEL_OPEN], next_request, last_ended;
	struct done last;
};

static void model_row(struct model *m, const struct model_row *row)
{
	for (size_t i = 0; i < m->row_count; i++) {
		struct model_row *r = &m->rows[i];

		if (memcmp(r, row, offsetof(struct model_row, count)) == 0) {
			r->count += row->count;
			r->ns += row->ns;
			return;
		}
	}
	assert_true(m->row_count < MODEL_ROWS);
	m->rows[m->row_count++] = *row;
}

static void model_sample_ended(struct model *m, const struct sample *s, const struct done *d)
{
	struct model_row row = { .route = d->route,
				 .state = s->state == AGGREGATE_EVENT_WAIT ? d->event_state
									   : s->state,
				 .latency = hist_coarse(d->latency_ns),
				 .stack = s->stack,
				 .thread = s->thread,
				 .object = s->object,
				 .count = s->count,
				 .ns = s->ns };

	model_row(m, &row);
}

static void model_done(struct model *m, const struct done *d)
{
	size_t kept = 0;

	hist_record(&m->hist[d->route][8], d->latency_ns);
	m->errors[d->route] += d->failed || d->status >= 500;
	for (uint32_t s = 0; s < 8; s++) {
		struct model_row row = { .route = d->route, .state = s };

		if (d->ledger_ns[s] == 0)
			continue;
		hist_record(&m->hist[d->route][s], d->ledger_ns[s]);
		row.latency = hist_coarse(d->latency_ns);
		row.count = 1;
		row.ns = d->ledger_ns[s];
		model_row(m, &row);
	}
	for (size_t i = 0; i < m->pending_count; i++) {
		if (m->pending[i].request == d->request)
			model_sample_ended(m, &m->pending[i], d);
		else
			m->pending[kept++] = m->pending[i];
	}
	m->pending_count = kept;
	m->last = *d;
}

static void random_sample(struct model *m, struct aggregate *a)
{
	struct sample s = { .stack = 1 + (uint32_t)rand() % 6,
			    .thread = (uint32_t)rand() % 3,
			    .object = (uint32_t)rand() % 2,
			    .state = (uint8_t)(rand() % 9),
			    .ns = (uint64_t)rand() % 100000,
			    .count = 1 + (uint64_t)rand() % 3 };
	unsigned which = (unsigned)rand() % 10;

	if (which == 0) {
		const struct done background = { .event_state = 0 };

		if (s.state < AGGREGATE_EVENT_WAIT)
			model_sample_ended(m, &s, &background);
	} else if (which == 1 && m->last.request) {
		s.request = m->last.request;
		model_sample_ended(m, &s, &m->last);
	} else {
		s.request = m->open[rand() % MODEL_OPEN];
		assert_true(m->pending_count < MODEL_ROWS);
		m->pending[m->pending_count++] = s;
	}
	aggregate_sample(a, &s);
}

static void random_done(struct model *m, struct aggregate *a)
{
	unsigned slot = (unsigned)rand() % MODEL_OPEN;
	struct done d = { .request = m->open[slot],
			  .route = 1 + (uint32_t)rand() % MODEL_ROUTES,
			  .status = rand() % 10 ? 200 : 500,
			  .failed = rand() % 20 == 0,
			  .event_state = (uint8_t)(rand() % 8) };

	for (unsigned i = 0; i < 8; i++) {
		d.ledger_ns[i] = rand() % 2 ? 0 : (uint64_t)rand() >> (rand() % 31);
		d.latency_ns += d.ledger_ns[i];
	}
	m->open[slot] = ++m->next_request;
	model_done(m, &d);
	aggregate_done(a, &d);
}

static void same_histogram(const Sonde__Histogram *h, const struct hist *wanted)
{
	uint32_t index = 0;
	uint64_t count = 0;

	assert_int_equal(h->n_delta, h->n_count);
	for (size_t i = 0; i < h->n_delta; i++) {
		index += h->delta[i];
		assert_true(index < HIST_BUCKETS && h->count[i] > 0);
		assert_int_equal(h->count[i], wanted->bucket[index]);
		count += h->count[i];
	}
	assert_int_equal(count, wanted->count);
}

static void same_routes(const struct model *m, const Sonde__Window *w)
{
	size_t expected = 0;

	for (uint32_t id = 1; id <= MODEL_ROUTES; id++)
		expected += m->hist[id][8].count > 0;
	assert_int_equal(w->n_routes, expected);
	for (size_t i = 0; i < w->n_routes; i++) {
		const Sonde__RouteStats *r = w->routes[i];
		const struct hist *h = m->hist[r->route];
		uint64_t sum = 0;

		assert_int_equal(r->count, h[8].count);
		assert_int_equal(r->errors, m->errors[r->route]);
		assert_int_equal(r->latency_sum_ns, h[8].sum_ns);
		assert_int_equal(r->latency_max_ns, h[8].max_ns);
		same_histogram(r->latency, &h[8]);
		for (unsigned s = 0; s < 8; s++) {
			assert_int_equal(r->ledger_ns[s], h[s].sum_ns);
			sum += r->ledger_ns[s];
		}
		assert_int_equal(sum, r->latency_sum_ns);
		for (size_t s = 0; s < r->n_states; s++)
			same_histogram(r->states[s]->histogram, &h[r->states[s]->state]);
	}
}

static void same_rows(const struct model *m, const Sonde__Rows *r)
{
	assert_int_equal(r->n_route, m->row_count);
	for (size_t i = 0; i < r->n_route; i++) {
		const struct model_row row = { .route = r->route[i],
					       .state = r->state[i],
					       .latency = r->latency[i],
					       .stack = r->stack[i],
					       .thread = r->thread[i],
					       .object = r->object[i] };
		size_t j;

		for (j = 0; j < m->row_count; j++)
			if (memcmp(&m->rows[j], &row, offsetof(struct model_row, count)) == 0)
				break;
		if (j == m->row_count)
			fail_msg("a row that should not be: route %u state %u stack %u", row.route,
				 row.state, row.stack);
		assert_int_equal(m->rows[j].count, r->count[i]);
		assert_int_equal(m->rows[j].ns, r->ns[i]);
	}
}

static void aggregate_agrees_with_a_naive_model(void **state)
{
	struct model *m = calloc(1, sizeof(*m));
	struct aggregate *a = create();

	(void)state;
	assert_non_null(m);
	srand(20);
	for (unsigned i = 0; i < MODEL_OPEN; i++)
		m->open[i] = ++m->next_request;
	for (unsigned window = 0; window < 30; window++) {
		unsigned steps = (unsigned)rand() % 600;
		Sonde__Frame *f;

		for (unsigned i = 0; i < steps; i++) {
			if (rand() % 4)
				random_sample(m, a);
			else
				random_done(m, a);
		}
		f = close_window(a);
		same_routes(m, f->window);
		same_rows(m, f->window->rows);
		sonde__frame__free_unpacked(f, NULL);
		m->row_count = 0;
		memset(m->hist, 0, sizeof(m->hist));
		memset(m->errors, 0, sizeof(m->errors));
	}
	assert_int_equal(drop(a, "ledger mismatch"), 0);
	assert_true(aggregate_bytes(a) > 0);
	aggregate_destroy(a);
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(aggregate_window_of_nothing_is_empty),
		cmocka_unit_test(aggregate_done_counts_exactly_and_the_next_window_starts_empty),
		cmocka_unit_test(aggregate_ledger_is_made_to_add_up),
		cmocka_unit_test(
			aggregate_sample_without_request_is_route_0_and_its_event_waits_are_idle),
		cmocka_unit_test(aggregate_sample_waits_for_its_requests_end),
		cmocka_unit_test(aggregate_sample_that_comes_late_still_finds_its_request),
		cmocka_unit_test(aggregate_forget_drops_what_was_pending),
		cmocka_unit_test(
			aggregate_pending_is_bounded_and_gets_rid_of_requests_that_never_end),
		cmocka_unit_test(aggregate_rows_statuses_and_routes_are_bounded),
		cmocka_unit_test(aggregate_window_too_large_for_the_spool_keeps_what_is_exact),
		cmocka_unit_test(aggregate_latency_that_cannot_be_is_bounded),
		cmocka_unit_test(aggregate_window_of_a_clock_set_back_keeps_its_length),
		cmocka_unit_test(aggregate_histograms_without_room_still_agree_with_the_counts),
		cmocka_unit_test(aggregate_memory_is_steady_from_window_to_window),
		cmocka_unit_test(aggregate_agrees_with_a_naive_model),
	};

	return RUN(tests);
}
