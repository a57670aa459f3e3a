/* SPDX-License-Identifier: MIT
 *
 * See aggregate.h. Runs on the agent's thread only.
 *
 * A request's end is the hot path: at 100,000 a second it may cost well under a microsecond. So histograms and exact rows are
 * reached by index, not by hash, and are sparse: a route points at blocks of one octave, taken from a pool when first
 * needed (a full histogram of 1408 counters times nine per route would be ten times the memory).
 */
#include "agent/core/aggregate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/config.h"
#include "agent/core/table.h"
#include "sonde_hist.h"

enum {
	HISTOGRAMS = AGGREGATE_STATES + 1, /* one per state, and the latency's last */
	LATENCY = AGGREGATE_STATES,
	OTHER = SONDE__STATE__OTHER,
	ROW_WIRE_BYTES = 24, /* a row on the wire, generously */
};

/*
 * A request that took longer counts as this long: 3 days, so that a window of thousands of them does not overflow. One that
 * took NONSENSE is an arrival after its end, seen by another clock, and counts as 0.
 */
#define LATENCY_MAX      ((uint64_t)1 << 48)
#define LATENCY_NONSENSE ((uint64_t)1 << 60)

/* Things taken one by one during a window and given back all at once. Index 0 is none. */
struct pool {
	uint8_t *items;
	size_t item_bytes;
	uint32_t used, room, max;
	uint64_t refused;
};

struct cell {
	uint64_t ns[AGGREGATE_STATES];
	uint32_t requests[AGGREGATE_STATES]; /* those that were in the state at all */
};

struct status {
	uint32_t status;
	uint64_t count;
};

struct route {
	bool active; /* in this window */
	uint32_t in_flight;
	uint32_t in_flight_told; /* in the window before */
	uint32_t status_count;
	uint64_t count, errors;
	uint64_t sum_ns, max_ns;
	uint64_t ledger_ns[AGGREGATE_STATES];
	struct status statuses[AGGREGATE_STATUSES];
	uint16_t block[HISTOGRAMS][HIST_OCTAVES];
	uint16_t cell[HIST_COARSE_BUCKETS];
};

struct row_key {
	uint32_t route, stack, thread, object;
	uint8_t state, latency;
};

struct row {
	struct row_key key;
	uint64_t count, ns;
};

struct pending {
	uint64_t request;
	uint64_t count, ns;
	uint32_t stack, thread, object;
	uint32_t next; /* of the same request */
	uint8_t state;
};

/* A request that has pending samples. */
struct owner {
	uint64_t request;
	uint32_t first;
	uint32_t window; /* in which it was last seen */
};

/* A request that ended: direct-mapped by its hash. */
struct ended {
	uint64_t request[AGGREGATE_ENDED];
	uint32_t route[AGGREGATE_ENDED];
	uint8_t latency[AGGREGATE_ENDED], event_state[AGGREGATE_ENDED];
};

/* What a window leaves out when it would be too large for the spool. Sums, counts and latencies are never left out. */
enum detail {
	ALL,
	NO_STATE_HISTOGRAMS,
	NO_SAMPLES
};

struct aggregate {
	size_t frame_max;      /* bytes of an encoded window before it leaves something out */
	struct route **routes; /* by id, made when first seen */
	uint32_t route_room;
	uint32_t *active; /* ids of the routes of this window; room as routes */
	uint32_t active_count;
	struct pool blocks, cells;
	struct table rows, pending, owners;
	struct ended *ended;
	uint32_t window, swept; /* counts windows; when stale owners were last looked for */
	uint64_t rows_refused, pending_refused, forgotten, mismatches, routes_refused;
	uint64_t statuses_refused, windows_cut, windows_failed;
};

static void *pool_item(const struct pool *p, uint32_t index)
{
	return p->items + (size_t)index * p->item_bytes;
}

static uint16_t pool_take(struct pool *p)
{
	if (p->used >= p->room) {
		uint32_t room = p->room ? p->room * 2 : 64;
		uint8_t *items = NULL;

		if (room > p->max)
			room = p->max;
		if (p->room < room)
			items = realloc(p->items, ((size_t)room + 1) * p->item_bytes);
		if (!items) {
			p->refused++;
			return 0;
		}
		p->items = items;
		p->room = room;
	}
	p->used++;
	memset(pool_item(p, p->used), 0, p->item_bytes);
	return (uint16_t)p->used;
}

struct aggregate *aggregate_create(const struct config *c)
{
	struct aggregate *a = calloc(1, sizeof(*a));
	uint32_t spool = c->spool_kib * 1024u, rows = spool / 4 / ROW_WIRE_BYTES;

	if (!a)
		return NULL;
	/* A window that the spool cannot hold would be made for nothing. */
	a->frame_max = spool / 4 * 3;
	if (rows > AGGREGATE_ROWS)
		rows = AGGREGATE_ROWS;
	table_init(&a->rows, sizeof(struct row), rows);
	table_init(&a->pending, sizeof(struct pending), AGGREGATE_PENDING);
	table_init(&a->owners, sizeof(struct owner), AGGREGATE_PENDING);
	a->blocks = (struct pool){ .item_bytes = HIST_PER_OCTAVE * sizeof(uint32_t),
				   .max = AGGREGATE_BLOCKS };
	a->cells = (struct pool){ .item_bytes = sizeof(struct cell), .max = AGGREGATE_CELLS };
	a->ended = calloc(1, sizeof(*a->ended));
	if (!a->ended) {
		free(a);
		return NULL;
	}
	return a;
}

void aggregate_destroy(struct aggregate *a)
{
	if (!a)
		return;
	for (uint32_t i = 0; i < a->route_room; i++)
		free(a->routes[i]);
	free(a->routes);
	free(a->active);
	free(a->blocks.items);
	free(a->cells.items);
	table_fini(&a->rows);
	table_fini(&a->pending);
	table_fini(&a->owners);
	free(a->ended);
	free(a);
}

/* ---- Routes ---- */

static bool routes_grow(struct aggregate *a, uint32_t id)
{
	uint32_t room = a->route_room ? a->route_room : 64;
	struct route **routes;
	uint32_t *active;

	while (room <= id)
		room *= 2;
	active = realloc(a->active, room * sizeof(*active));
	if (!active)
		return false;
	a->active = active;
	routes = realloc(a->routes, room * sizeof(struct route *));
	if (!routes)
		return false;
	memset(routes + a->route_room, 0, (room - a->route_room) * sizeof(struct route *));
	a->routes = routes;
	a->route_room = room;
	return true;
}

/* The route @id in this window. NULL: no room, counted. */
static struct route *route_active(struct aggregate *a, uint32_t id)
{
	struct route *r;

	if (id == 0 || id > AGGREGATE_ROUTES || (id >= a->route_room && !routes_grow(a, id))) {
		a->routes_refused++;
		return NULL;
	}
	r = a->routes[id];
	if (!r) {
		r = a->routes[id] = calloc(1, sizeof(*r));
		if (!r) {
			a->routes_refused++;
			return NULL;
		}
	}
	if (!r->active) {
		r->active = true;
		a->active[a->active_count++] = id;
	}
	return r;
}

static void count_status(struct aggregate *a, struct route *r, uint32_t status)
{
	uint32_t i;

	for (i = 0; i < r->status_count; i++) {
		if (r->statuses[i].status == status) {
			r->statuses[i].count++;
			return;
		}
	}
	if (i == AGGREGATE_STATUSES) {
		a->statuses_refused++;
		i--; /* the last place is the rest's */
		r->statuses[i].status = 0;
		r->statuses[i].count++;
		return;
	}
	r->statuses[i] = (struct status){ status, 1 };
	r->status_count++;
}

static bool count_ns(struct aggregate *a, struct route *r, unsigned histogram, uint64_t ns)
{
	uint32_t index = hist_index(ns), octave = index / HIST_PER_OCTAVE;
	uint16_t *block = &r->block[histogram][octave];

	if (!*block)
		*block = pool_take(&a->blocks);
	if (!*block)
		return false;
	((uint32_t *)pool_item(&a->blocks, *block))[index % HIST_PER_OCTAVE]++;
	return true;
}

/* Make the ledger add up to the latency: what is missing is `other`, what is too much goes off there, then off the largest. */
static void balance(struct aggregate *a, uint64_t *ledger, uint64_t latency)
{
	uint64_t sum = 0;
	bool clipped = false;

	for (unsigned i = 0; i < AGGREGATE_STATES; i++) {
		if (ledger[i] > latency) { /* also keeps the sum from overflowing */
			clipped = true;
			ledger[i] = latency;
		}
		sum += ledger[i];
	}
	a->mismatches += clipped || sum != latency;
	if (sum < latency) {
		ledger[OTHER] += latency - sum;
		return;
	}
	for (uint64_t excess = sum - latency; excess > 0;) {
		unsigned from = OTHER;
		uint64_t part;

		for (unsigned i = 0; ledger[OTHER] == 0 && i < AGGREGATE_STATES; i++)
			if (ledger[i] > ledger[from])
				from = i;
		part = ledger[from] < excess ? ledger[from] : excess;
		ledger[from] -= part;
		excess -= part;
	}
}

/* ---- Samples ---- */

static void row_add(struct aggregate *a, const struct row_key *key, uint64_t count, uint64_t ns)
{
	uint64_t hash = table_mix(table_mix(table_mix(0, (uint64_t)key->route << 32 | key->stack),
					    (uint64_t)key->thread << 32 | key->object),
				  (uint64_t)key->state << 8 | key->latency);
	uint32_t i;
	struct row *row;

	for (i = table_first(&a->rows, (uint32_t)hash); i; i = table_next(&a->rows, i)) {
		row = table_entry(&a->rows, i);
		if (row->key.route == key->route && row->key.stack == key->stack &&
		    row->key.thread == key->thread && row->key.object == key->object &&
		    row->key.state == key->state && row->key.latency == key->latency)
			break;
	}
	if (!i)
		i = table_add(&a->rows, (uint32_t)hash);
	if (!i) {
		a->rows_refused += count;
		return;
	}
	row = table_entry(&a->rows, i);
	row->key = *key;
	row->count += count;
	row->ns += ns < LATENCY_MAX ? ns : LATENCY_MAX;
}

static uint32_t request_hash(uint64_t request)
{
	return (uint32_t)table_mix(0, request);
}

static uint32_t owner_find(const struct aggregate *a, uint64_t request)
{
	uint32_t i = table_first(&a->owners, request_hash(request));

	while (i && ((struct owner *)table_entry(&a->owners, i))->request != request)
		i = table_next(&a->owners, i);
	return i;
}

/* Take an owner and its samples out, giving them to rows when @route is not 0. Returns the samples taken out. */
static uint64_t owner_release(struct aggregate *a, uint32_t number, const struct row_key *as,
			      uint8_t event_state)
{
	uint32_t i = ((struct owner *)table_entry(&a->owners, number))->first;
	uint64_t count = 0;

	while (i) {
		const struct pending *p = table_entry(&a->pending, i);
		uint32_t next = p->next;

		count += p->count;
		if (as) {
			struct row_key key = *as;

			key.stack = p->stack;
			key.thread = p->thread;
			key.object = p->object;
			key.state = p->state == AGGREGATE_EVENT_WAIT ? event_state : p->state;
			row_add(a, &key, p->count, p->ns);
		}
		table_remove(&a->pending, i);
		i = next;
	}
	table_remove(&a->owners, number);
	return count;
}

/* Requests whose end was never told would fill the table for good: drop those unseen for long. Once per window. */
static void sweep_stale(struct aggregate *a)
{
	if (a->swept == a->window)
		return;
	a->swept = a->window;
	for (uint32_t i = 1; i <= a->owners.used; i++) {
		const struct owner *o = table_entry(&a->owners, i);

		/* A removed entry keeps its bytes: only one that is still found by its own key is alive. */
		if (a->window - o->window > AGGREGATE_STALE_WINDOWS &&
		    owner_find(a, o->request) == i)
			a->forgotten += owner_release(a, i, NULL, 0);
	}
}

static uint32_t owner_get(struct aggregate *a, uint64_t request)
{
	uint32_t i = owner_find(a, request);

	if (!i)
		i = table_add(&a->owners, request_hash(request));
	if (i) {
		struct owner *o = table_entry(&a->owners, i);

		o->request = request;
		o->window = a->window;
	}
	return i;
}

static struct pending *pending_find(const struct aggregate *a, const struct sample *s,
				    uint32_t hash)
{
	for (uint32_t i = table_first(&a->pending, hash); i; i = table_next(&a->pending, i)) {
		struct pending *p = table_entry(&a->pending, i);

		if (p->request == s->request && p->stack == s->stack && p->thread == s->thread &&
		    p->object == s->object && p->state == s->state)
			return p;
	}
	return NULL;
}

static void pending_add(struct aggregate *a, const struct sample *s)
{
	uint32_t hash = (uint32_t)table_mix(
		table_mix(table_mix(0, s->request), (uint64_t)s->stack << 32 | s->thread),
		(uint64_t)s->object << 8 | s->state);
	struct pending *p = pending_find(a, s, hash);
	uint32_t owner, i;

	if (!p && a->pending.live >= AGGREGATE_PENDING)
		sweep_stale(a);
	owner = owner_get(a, s->request);
	if (!p && owner) {
		struct owner *o = table_entry(&a->owners, owner);

		i = table_add(&a->pending, hash);
		if (i) {
			p = table_entry(&a->pending, i);
			*p = (struct pending){ .request = s->request,
					       .stack = s->stack,
					       .thread = s->thread,
					       .object = s->object,
					       .state = s->state,
					       .next = o->first };
			o->first = i;
		} else if (!o->first) {
			table_remove(&a->owners, owner);
		}
	}
	if (!p) {
		a->pending_refused += s->count;
		return;
	}
	p->count += s->count;
	p->ns += s->ns;
}

bool aggregate_knows(const struct aggregate *a, uint64_t request)
{
	return a->ended->request[request_hash(request) % AGGREGATE_ENDED] == request ||
	       owner_find(a, request);
}

void aggregate_sample(struct aggregate *a, const struct sample *s)
{
	struct row_key key = {
		.stack = s->stack, .thread = s->thread, .object = s->object, .state = s->state
	};
	uint32_t slot = request_hash(s->request) % AGGREGATE_ENDED;

	if (s->state > AGGREGATE_EVENT_WAIT)
		return;
	if (s->request == 0) {
		if (s->state != AGGREGATE_EVENT_WAIT)
			row_add(a, &key, s->count, s->ns);
		return;
	}
	if (a->ended->request[slot] == s->request) {
		key.route = a->ended->route[slot];
		key.latency = a->ended->latency[slot];
		if (s->state == AGGREGATE_EVENT_WAIT)
			key.state = a->ended->event_state[slot];
		row_add(a, &key, s->count, s->ns);
		return;
	}
	pending_add(a, s);
}

void aggregate_forget(struct aggregate *a, uint64_t request)
{
	uint32_t owner = owner_find(a, request);

	if (owner)
		a->forgotten += owner_release(a, owner, NULL, 0);
}

/* ---- Requests ---- */

static void count_cell(struct aggregate *a, struct route *r, uint32_t coarse,
		       const uint64_t *ledger)
{
	struct cell *cell;

	if (!r->cell[coarse])
		r->cell[coarse] = pool_take(&a->cells);
	if (!r->cell[coarse])
		return; /* the route's own sums still have it */
	cell = pool_item(&a->cells, r->cell[coarse]);
	for (unsigned i = 0; i < AGGREGATE_STATES; i++) {
		cell->ns[i] += ledger[i];
		cell->requests[i] += ledger[i] > 0;
	}
}

/* What every sample of the request becomes, also one that comes late. */
static void end_samples(struct aggregate *a, const struct done *d, uint8_t coarse)
{
	uint8_t event_state = d->event_state < AGGREGATE_STATES ? d->event_state : OTHER;
	const struct row_key as = { .route = d->route, .latency = coarse };
	uint32_t slot = request_hash(d->request) % AGGREGATE_ENDED, owner;

	if (d->request == 0)
		return;
	a->ended->request[slot] = d->request;
	a->ended->route[slot] = d->route;
	a->ended->latency[slot] = coarse;
	a->ended->event_state[slot] = event_state;
	owner = owner_find(a, d->request);
	if (owner)
		owner_release(a, owner, &as, event_state);
}

void aggregate_done(struct aggregate *a, const struct done *d)
{
	struct route *r = route_active(a, d->route);
	uint64_t latency = d->latency_ns < LATENCY_MAX ? d->latency_ns : LATENCY_MAX;
	uint64_t ledger[AGGREGATE_STATES];
	uint8_t coarse;

	if (d->latency_ns >= LATENCY_NONSENSE)
		latency = 0;
	/* The histogram first: it has to agree with the count, or the collector refuses the window. */
	if (!r || !count_ns(a, r, LATENCY, latency)) {
		aggregate_forget(a, d->request);
		return;
	}
	memcpy(ledger, d->ledger_ns, sizeof(ledger));
	balance(a, ledger, latency);
	r->count++;
	r->errors += d->failed || d->status >= 500;
	count_status(a, r, d->status);
	r->sum_ns += latency;
	if (latency > r->max_ns)
		r->max_ns = latency;
	for (unsigned i = 0; i < AGGREGATE_STATES; i++) {
		if (ledger[i] == 0)
			continue;
		r->ledger_ns[i] += ledger[i];
		count_ns(a, r, i, ledger[i]);
	}
	coarse = (uint8_t)hist_coarse(latency);
	count_cell(a, r, coarse, ledger);
	end_samples(a, d, coarse);
}

void aggregate_in_flight(struct aggregate *a, uint32_t route, uint32_t count)
{
	struct route *r;

	/* A route that has none is told about only when it had some: see tell_in_flight_ended(). */
	if (count == 0 && (route >= a->route_room || !a->routes[route]))
		return;
	r = count ? route_active(a, route) : a->routes[route];
	if (r)
		r->in_flight = count;
}

/* Readers keep the last number they were told: a route whose requests are gone must say 0 once. */
static void tell_in_flight_ended(struct aggregate *a)
{
	for (uint32_t id = 1; id < a->route_room; id++)
		if (a->routes[id] && a->routes[id]->in_flight_told > 0)
			route_active(a, id);
}

/* ---- The window as a message ---- */

/* The columns of all rows: the sampled ones, then the exact ones. NULL: out of memory. */
static Sonde__Rows *rows_alloc(struct encode_arena *arena, size_t count)
{
	Sonde__Rows *rows = encode_alloc(arena, 1, sizeof(*rows));

	if (!rows)
		return NULL;
	sonde__rows__init(rows);
	rows->route = encode_alloc(arena, count, sizeof(uint32_t));
	rows->state = encode_alloc(arena, count, sizeof(uint32_t));
	rows->latency = encode_alloc(arena, count, sizeof(uint32_t));
	rows->stack = encode_alloc(arena, count, sizeof(uint32_t));
	rows->thread = encode_alloc(arena, count, sizeof(uint32_t));
	rows->object = encode_alloc(arena, count, sizeof(uint32_t));
	rows->count = encode_alloc(arena, count, sizeof(uint64_t));
	rows->ns = encode_alloc(arena, count, sizeof(uint64_t));
	if (!rows->route || !rows->state || !rows->latency || !rows->stack || !rows->thread ||
	    !rows->object || !rows->count || !rows->ns)
		return NULL;
	return rows;
}

static void rows_append(Sonde__Rows *rows, const struct row *row)
{
	size_t i = rows->n_route++;

	rows->route[i] = row->key.route;
	rows->state[i] = row->key.state;
	rows->latency[i] = row->key.latency;
	rows->stack[i] = row->key.stack;
	rows->thread[i] = row->key.thread;
	rows->object[i] = row->key.object;
	rows->count[i] = row->count;
	rows->ns[i] = row->ns;
}

static void rows_append_exact(const struct aggregate *a, Sonde__Rows *rows, uint32_t id)
{
	const struct route *r = a->routes[id];

	for (uint32_t coarse = 0; coarse < HIST_COARSE_BUCKETS; coarse++) {
		const struct cell *cell = pool_item(&a->cells, r->cell[coarse]);

		for (unsigned state = 0; r->cell[coarse] && state < AGGREGATE_STATES; state++) {
			struct row row = { .key = { .route = id, .latency = (uint8_t)coarse } };

			if (cell->ns[state] == 0)
				continue;
			row.key.state = (uint8_t)state;
			row.count = cell->requests[state];
			row.ns = cell->ns[state];
			rows_append(rows, &row);
		}
	}
}

static Sonde__Rows *rows_message(const struct aggregate *a, struct encode_arena *arena,
				 uint32_t samples)
{
	size_t most = samples + (size_t)a->cells.used * AGGREGATE_STATES;
	Sonde__Rows *rows = rows_alloc(arena, most);

	if (!rows)
		return NULL;
	for (uint32_t i = 1; i <= samples; i++)
		rows_append(rows, table_entry(&a->rows, i));
	for (uint32_t i = 0; i < a->active_count && a->cells.used > 0; i++)
		rows_append_exact(a, rows, a->active[i]);
	rows->n_state = rows->n_latency = rows->n_stack = rows->n_thread = rows->n_object =
		rows->n_count = rows->n_ns = rows->n_route;
	return rows;
}

/* NULL: out of memory. */
static Sonde__Histogram *histogram_message(const struct aggregate *a, struct encode_arena *arena,
					   const uint16_t block[HIST_OCTAVES])
{
	Sonde__Histogram *h = encode_alloc(arena, 1, sizeof(*h));
	uint32_t last = 0, blocks = 0;

	for (uint32_t octave = 0; octave < HIST_OCTAVES; octave++)
		blocks += block[octave] != 0;
	if (!h)
		return NULL;
	sonde__histogram__init(h);
	h->delta = encode_alloc(arena, blocks * HIST_PER_OCTAVE, sizeof(uint32_t));
	h->count = encode_alloc(arena, blocks * HIST_PER_OCTAVE, sizeof(uint64_t));
	if (!h->delta || !h->count)
		return NULL;
	for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
		uint16_t at = block[i / HIST_PER_OCTAVE];
		uint32_t count =
			at ? ((uint32_t *)pool_item(&a->blocks, at))[i % HIST_PER_OCTAVE] : 0;

		if (count == 0)
			continue;
		h->delta[h->n_delta++] = i - last;
		h->count[h->n_count++] = count;
		last = i;
	}
	return h;
}

static int state_histograms(const struct aggregate *a, struct encode_arena *arena,
			    const struct route *r, Sonde__RouteStats *to)
{
	to->states = encode_alloc_messages(arena, AGGREGATE_STATES, sizeof(**to->states));
	if (!to->states)
		return -ENOMEM;
	for (uint32_t state = 0; state < AGGREGATE_STATES; state++) {
		Sonde__StateHistogram *s = to->states[to->n_states];

		if (r->ledger_ns[state] == 0)
			continue;
		sonde__state_histogram__init(s);
		s->state = state;
		s->histogram = histogram_message(a, arena, r->block[state]);
		if (!s->histogram)
			return -ENOMEM;
		to->n_states++;
	}
	return 0;
}

static int route_message(const struct aggregate *a, struct encode_arena *arena, enum detail detail,
			 uint32_t id, Sonde__RouteStats *to)
{
	struct route *r = a->routes[id];

	sonde__route_stats__init(to);
	to->route = id;
	to->count = r->count;
	to->errors = r->errors;
	to->in_flight = r->in_flight;
	if (r->count == 0)
		return 0;
	to->n_ledger_ns = AGGREGATE_STATES;
	to->ledger_ns = r->ledger_ns;
	to->latency_sum_ns = r->sum_ns;
	to->latency_max_ns = r->max_ns;
	to->latency = histogram_message(a, arena, r->block[LATENCY]);
	to->statuses = encode_alloc_messages(arena, r->status_count, sizeof(**to->statuses));
	if (!to->latency || !to->statuses)
		return -ENOMEM;
	for (uint32_t i = 0; i < r->status_count; i++) {
		sonde__status_count__init(to->statuses[i]);
		to->statuses[i]->status = r->statuses[i].status;
		to->statuses[i]->count = r->statuses[i].count;
	}
	to->n_statuses = r->status_count;
	return detail == ALL ? state_histograms(a, arena, r, to) : 0;
}

static int window_message(const struct aggregate *a, struct encode_arena *arena, enum detail detail,
			  Sonde__Window *window)
{
	window->rows = rows_message(a, arena, detail == NO_SAMPLES ? 0 : a->rows.used);
	window->routes = encode_alloc_messages(arena, a->active_count, sizeof(**window->routes));
	if (!window->rows || !window->routes)
		return -ENOMEM;
	window->n_routes = a->active_count;
	for (uint32_t i = 0; i < a->active_count; i++)
		if (route_message(a, arena, detail, a->active[i], window->routes[i]))
			return -ENOMEM;
	return 0;
}

static void window_reset(struct aggregate *a)
{
	for (uint32_t i = 0; i < a->active_count; i++) {
		struct route *r = a->routes[a->active[i]];
		uint32_t told = r->in_flight;

		memset(r, 0, sizeof(*r));
		r->in_flight_told = told;
	}
	a->active_count = 0;
	a->blocks.used = a->cells.used = 0;
	table_clear(&a->rows);
	a->window++;
}

static int window_encode(struct aggregate *a, const struct aggregate_window *window,
			 enum detail detail, const struct self_report *self,
			 struct encode_buffer *buffer)
{
	struct encode_arena arena = { 0 };
	Sonde__Window message = SONDE__WINDOW__INIT;
	int error;

	message.seq = window->seq;
	message.start_ns = window->start_ns;
	message.end_ns = window->end_ns;
	message.start_unix_ns = window->start_unix_ns;
	/* The wall clock may have been set back in between: the length is the monotonic clock's. */
	if (message.start_unix_ns > window->end_unix_ns)
		message.start_unix_ns = window->end_unix_ns - (window->end_ns - window->start_ns);
	message.end_unix_ns = window->end_unix_ns;
	message.lost_windows = window->lost_windows;
	message.last = window->last;
	error = window_message(a, &arena, detail, &message);
	if (!error)
		error = encode_window(buffer, &arena, &message, self);
	encode_arena_fini(&arena);
	return error;
}

int aggregate_window_encode(struct aggregate *a, const struct aggregate_window *window,
			    const struct self_report *self, struct encode_buffer *buffer)
{
	size_t before = buffer->used;
	int error;

	tell_in_flight_ended(a);
	for (enum detail detail = ALL;; detail++) {
		error = window_encode(a, window, detail, self, buffer);
		if (error != -EMSGSIZE && (error || buffer->used - before <= a->frame_max))
			break;
		a->windows_cut += detail == ALL;
		if (detail == NO_SAMPLES)
			break;
		buffer->used = before;
	}
	if (error)
		a->windows_failed++;
	window_reset(a);
	return error;
}

unsigned aggregate_drops(const struct aggregate *a, struct self_drop out[AGGREGATE_DROPS])
{
	out[0] = (struct self_drop){ "window rows", a->rows_refused };
	out[1] = (struct self_drop){ "pending samples", a->pending_refused };
	out[2] = (struct self_drop){ "samples of requests that never ended", a->forgotten };
	out[3] = (struct self_drop){ "ledger mismatch", a->mismatches };
	out[4] = (struct self_drop){ "requests without a route", a->routes_refused };
	out[5] = (struct self_drop){ "status counts", a->statuses_refused };
	out[6] = (struct self_drop){ "histogram blocks", a->blocks.refused };
	out[7] = (struct self_drop){ "exact rows", a->cells.refused };
	out[8] = (struct self_drop){ "windows cut to fit", a->windows_cut };
	out[9] = (struct self_drop){ "windows not encoded", a->windows_failed };
	return AGGREGATE_DROPS;
}

size_t aggregate_bytes(const struct aggregate *a)
{
	size_t bytes = sizeof(*a) + sizeof(*a->ended);

	bytes += a->route_room * (sizeof(*a->routes) + sizeof(*a->active));
	for (uint32_t i = 0; i < a->route_room; i++)
		bytes += a->routes[i] ? sizeof(struct route) : 0;
	bytes += (size_t)a->blocks.room * a->blocks.item_bytes;
	bytes += (size_t)a->cells.room * a->cells.item_bytes;
	return bytes + table_bytes(&a->rows) + table_bytes(&a->pending) + table_bytes(&a->owners);
}

static size_t table_bytes_max(const struct table *t)
{
	return t->max * (t->entry_bytes + sizeof(*t->links) + sizeof(*t->heads));
}

size_t aggregate_bytes_max(const struct aggregate *a, uint32_t routes)
{
	return sizeof(*a) + sizeof(*a->ended) +
	       routes * (sizeof(struct route) + sizeof(*a->routes) + sizeof(*a->active)) +
	       (size_t)a->blocks.max * a->blocks.item_bytes +
	       (size_t)a->cells.max * a->cells.item_bytes + table_bytes_max(&a->rows) +
	       table_bytes_max(&a->pending) + table_bytes_max(&a->owners);
}
