/* SPDX-License-Identifier: MIT
 *
 * Validates and stores what one agent sends; see session.h.
 */
#include "server/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/arena.h"
#include "server/counters.h"
#include "server/flame.h"
#include "server/window.h"
#include "sonde_hist.h"

/* Which ids of one kind this connection has introduced. */
struct id_set {
	uint8_t *bits;
	uint32_t cap; /* ids that fit into `bits` now */
	uint32_t max;
};

/* What a rolled back transaction takes back. The sets of ids need not: introducing an id again is allowed. */
struct session_state {
	bool hello, ended;
	uint64_t first_seen_unix_ns, last_seen_unix_ns, stored_seq, lost_windows;
	uint64_t name_bytes;                 /* of the dictionary */
	uint64_t windows, duplicates, marks; /* since the last commit, for the counters */
};

struct session {
	struct store *store;
	struct arena arena;
	struct store_instance instance; /* its strings, pid, …; the rest is in `now` */
	struct session_state now, committed;
	struct id_set modules, functions, stacks, routes, threads, objects;
};

struct session *session_create(struct store *store)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->store = store;
	arena_init(&s->arena, SESSION_UNPACK_MAX);
	s->modules.max = SESSION_MODULES_MAX;
	s->functions.max = SESSION_FUNCTIONS_MAX;
	s->stacks.max = SESSION_STACKS_MAX;
	s->routes.max = SESSION_ROUTES_MAX;
	s->threads.max = SESSION_THREADS_MAX;
	s->objects.max = SESSION_OBJECTS_MAX;
	return s;
}

void session_destroy(struct session *s)
{
	if (!s)
		return;
	store_instance_fini(&s->instance);
	free(s->modules.bits);
	free(s->functions.bits);
	free(s->stacks.bits);
	free(s->routes.bits);
	free(s->threads.bits);
	free(s->objects.bits);
	arena_fini(&s->arena);
	free(s);
}

uint64_t session_instance(const struct session *s)
{
	return s->now.hello ? s->instance.id : 0;
}

const char *session_service(const struct session *s)
{
	return s->now.hello ? s->instance.service : "";
}

void session_committed(struct session *s)
{
	count_add(windows_total, s->now.windows);
	count_add(windows_duplicate_total, s->now.duplicates);
	count_add(marks_total, s->now.marks);
	s->now.windows = s->now.duplicates = s->now.marks = 0;
	s->committed = s->now;
}

void session_rolled_back(struct session *s)
{
	if (s->now.hello && !s->committed.hello)
		store_instance_fini(&s->instance);
	s->now = s->committed;
}

/* ---- Ids ---- */

static bool id_known(const struct id_set *set, uint32_t id)
{
	return id < set->cap && (set->bits[id / 8] >> (id % 8) & 1);
}

static bool id_known_or_none(const struct id_set *set, uint32_t id)
{
	return id == 0 || id_known(set, id);
}

/* 0, -EPROTO past the cap, -ENOMEM. */
static int id_add(struct id_set *set, uint32_t id)
{
	if (id == 0 || id >= set->max)
		return -EPROTO;
	if (id >= set->cap) {
		uint32_t cap = set->cap ? set->cap : 1024;
		uint8_t *bits;

		while (cap <= id)
			cap *= 2;
		bits = realloc(set->bits, cap / 8);
		if (!bits)
			return -ENOMEM;
		memset(bits + set->cap / 8, 0, (cap - set->cap) / 8);
		set->bits = bits;
		set->cap = cap;
	}
	set->bits[id / 8] = (uint8_t)(set->bits[id / 8] | 1u << (id % 8));
	return 0;
}

/* ---- Checks: NULL when good, else what is wrong ---- */

static const char *check_text(const char *text, size_t max)
{
	size_t len = strnlen(text, max + 1);

	if (len > max)
		return "a string that is too long";
	return utf8_valid(text, len) ? NULL : "a string that is not UTF-8";
}

static const char *check_hello(const Sonde__Hello *h)
{
	const char *texts[] = { h->host, h->boot_id, h->exe, h->command, h->version };
	const char *why = NULL;

	if (h->protocol != SESSION_PROTOCOL)
		return "another protocol version: use the agent and the collector of one release";
	if (h->instance == 0)
		return "a Hello without an instance";
	if (h->service[0] == 0)
		return "a Hello without a service";
	if (h->unix_ns > INT64_MAX || h->start_ns > INT64_MAX)
		return "a time out of range";
	why = check_text(h->service, SESSION_NAME_MAX);
	for (size_t i = 0; !why && i < sizeof(texts) / sizeof(texts[0]); i++)
		why = check_text(texts[i], SESSION_TEXT_MAX);
	return why;
}

/* Take a string of the dictionary and its id. */
static int take_name(struct session *s, struct id_set *set, uint32_t id, const char *a,
		     const char *b, const char **why)
{
	int err;

	*why = check_text(a, SESSION_TEXT_MAX);
	if (!*why)
		*why = check_text(b, SESSION_TEXT_MAX);
	if (*why)
		return -EPROTO;
	s->now.name_bytes += strlen(a) + strlen(b);
	if (s->now.name_bytes > SESSION_NAMES_MAX_BYTES) {
		*why = "more names than fit";
		return -EPROTO;
	}
	err = id_add(set, id);
	if (err == -EPROTO)
		*why = "a dictionary id out of range";
	return err;
}

static int take_names(struct session *s, const Sonde__Dict *d, const char **why)
{
	int err = 0;

	for (size_t i = 0; !err && i < d->n_modules; i++)
		err = take_name(s, &s->modules, d->modules[i]->id, d->modules[i]->path, "", why);
	for (size_t i = 0; !err && i < d->n_functions; i++)
		err = take_name(s, &s->functions, d->functions[i]->id, d->functions[i]->name,
				d->functions[i]->file, why);
	for (size_t i = 0; !err && i < d->n_routes; i++) {
		if (d->routes[i]->name[0] == 0) {
			*why = "a route without a name";
			return -EPROTO;
		}
		err = take_name(s, &s->routes, d->routes[i]->id, d->routes[i]->name,
				d->routes[i]->source, why);
	}
	for (size_t i = 0; !err && i < d->n_threads; i++)
		err = take_name(s, &s->threads, d->threads[i]->id, d->threads[i]->name, "", why);
	for (size_t i = 0; !err && i < d->n_objects; i++)
		err = take_name(s, &s->objects, d->objects[i]->id, d->objects[i]->name, "", why);
	return err;
}

/* Stacks after modules and functions, each after its parent. */
static int take_stacks(struct session *s, const Sonde__Stacks *stacks, const char **why)
{
	size_t n = stacks ? stacks->n_id : 0;
	int err;

	if (stacks && (stacks->n_parent != n || stacks->n_module != n || stacks->n_address != n)) {
		*why = "stack columns of different length";
		return -EPROTO;
	}
	for (size_t i = 0; i < n; i++) {
		bool frame_known =
			stacks->module[i]
				? id_known(&s->modules, stacks->module[i])
				: stacks->address[i] <= UINT32_MAX &&
					  id_known(&s->functions, (uint32_t)stacks->address[i]);

		if (!frame_known || !id_known_or_none(&s->stacks, stacks->parent[i]) ||
		    stacks->parent[i] == stacks->id[i]) {
			*why = "a stack whose frame or parent is not known";
			return -EPROTO;
		}
		err = id_add(&s->stacks, stacks->id[i]);
		if (err == -EPROTO)
			*why = "a stack id out of range";
		if (err)
			return err;
	}
	return 0;
}

static const char *check_rows(const struct session *s, const Sonde__Rows *rows)
{
	int64_t n = window_row_count(rows);

	if (n < 0)
		return "row columns of different length";
	for (int64_t i = 0; i < n; i++) {
		if (rows->state[i] >= STATE_COUNT)
			return "a row whose state is out of range";
		if (rows->latency[i] >= HIST_COARSE_BUCKETS)
			return "a row whose latency bucket is out of range";
		if (!id_known_or_none(&s->routes, rows->route[i]) ||
		    !id_known_or_none(&s->stacks, rows->stack[i]) ||
		    !id_known_or_none(&s->threads, rows->thread[i]) ||
		    !id_known_or_none(&s->objects, rows->object[i]))
			return "a row with an id that is not known";
		if (rows->ns[i] >> 62 || rows->count[i] >> 62)
			return "a row whose time or count is out of range";
	}
	return NULL;
}

static const char *check_route(const struct session *s, const Sonde__RouteStats *r)
{
	uint64_t sum = 0, total;
	const char *why;

	if (!id_known(&s->routes, r->route))
		return "statistics of a route that is not known";
	if (r->n_ledger_ns != STATE_COUNT && (r->n_ledger_ns || r->count))
		return "a ledger that has not 8 states";
	for (size_t i = 0; i < r->n_ledger_ns; i++) {
		if (__builtin_add_overflow(sum, r->ledger_ns[i], &sum) || sum >> 62)
			return "a ledger that overflows";
	}
	if (sum != r->latency_sum_ns)
		return "a ledger that does not add up to the latency";
	if (r->n_statuses > SESSION_LIST_MAX || r->n_states > SESSION_LIST_MAX)
		return "a list that is too long";
	if (r->count >> 62 || r->errors > r->count)
		return "a request count out of range";
	why = window_check_histogram(r->latency, &total);
	if (why)
		return why;
	if (total != r->count)
		return "a latency histogram that does not add up to the requests";
	for (size_t i = 0; i < r->n_states; i++) {
		if (r->states[i]->state >= STATE_COUNT)
			return "a state histogram whose state is out of range";
		why = window_check_histogram(r->states[i]->histogram, &total);
		if (why)
			return why;
	}
	return NULL;
}

static const char *check_self(const Sonde__Self *self)
{
	const char *why = NULL;

	if (self && (self->n_drops > SESSION_LIST_MAX || self->n_ends > SESSION_LIST_MAX))
		return "a list that is too long";
	for (size_t i = 0; !why && self && i < self->n_drops; i++)
		why = check_text(self->drops[i]->cause, SESSION_NAME_MAX);
	for (size_t i = 0; !why && self && i < self->n_ends; i++)
		why = check_text(self->ends[i]->how, SESSION_NAME_MAX);
	return why;
}

static const char *check_window(const struct session *s, const Sonde__Window *w)
{
	const char *why;

	if (w->seq == 0 || w->seq > INT64_MAX)
		return "a window number out of range";
	if (w->start_unix_ns > w->end_unix_ns || w->end_unix_ns > INT64_MAX)
		return "a window whose times are out of range";
	why = check_rows(s, w->rows);
	for (size_t i = 0; !why && i < w->n_routes; i++)
		why = check_route(s, w->routes[i]);
	return why ? why : check_self(w->self);
}

/* ---- Answers ---- */

static int answer(struct buffer *out, const Sonde__Frame *frame)
{
	uint8_t bytes[4 + 256];
	size_t len = sonde__frame__get_packed_size(frame);

	if (len > sizeof(bytes) - 4)
		return -ENOMEM;
	sonde__frame__pack(frame, bytes + 4);
	for (int i = 0; i < 4; i++)
		bytes[i] = (uint8_t)(len >> (8 * i));
	buffer_add(out, bytes, len + 4);
	return out->failed ? -ENOMEM : 0;
}

static int answer_welcome(struct session *s, struct buffer *out)
{
	Sonde__Frame frame = SONDE__FRAME__INIT;
	Sonde__Welcome welcome = SONDE__WELCOME__INIT;
	char version[] = SONDE_VERSION;

	welcome.protocol = SESSION_PROTOCOL;
	welcome.stored_seq = s->now.stored_seq;
	welcome.version = version;
	frame.body_case = SONDE__FRAME__BODY_WELCOME;
	frame.welcome = &welcome;
	return answer(out, &frame);
}

static int answer_ack(uint64_t seq, struct buffer *out)
{
	Sonde__Frame frame = SONDE__FRAME__INIT;
	Sonde__Ack ack = SONDE__ACK__INIT;

	ack.seq = seq;
	frame.body_case = SONDE__FRAME__BODY_ACK;
	frame.ack = &ack;
	return answer(out, &frame);
}

/* ---- Messages ---- */

static int put_instance(struct session *s)
{
	struct store_instance i = s->instance;

	i.first_seen_unix_ns = s->now.first_seen_unix_ns;
	i.last_seen_unix_ns = s->now.last_seen_unix_ns;
	i.stored_seq = s->now.stored_seq;
	i.lost_windows = s->now.lost_windows;
	i.ended = s->now.ended;
	return store_put_instance(s->store, &i);
}

/* What an earlier connection of the same instance has left in the store. */
static int resume(struct session *s, const Sonde__Hello *h, const char **why)
{
	struct store_instance before;
	int err = store_find_instance(s->store, h->instance, &before);

	if (err == -ENOENT)
		return 0;
	if (err)
		return err;
	if (before.pid != h->pid || strcmp(before.boot_id, h->boot_id) != 0 ||
	    before.start_ns != h->start_ns) {
		*why = "an instance that belongs to another process";
		err = -EPROTO;
	} else {
		s->now.first_seen_unix_ns = before.first_seen_unix_ns;
		if (s->now.last_seen_unix_ns < before.last_seen_unix_ns)
			s->now.last_seen_unix_ns = before.last_seen_unix_ns;
		s->now.stored_seq = before.stored_seq;
		s->now.lost_windows = before.lost_windows;
		s->now.ended = before.ended;
	}
	store_instance_fini(&before);
	return err;
}

static int take_hello(struct session *s, const Sonde__Hello *h, struct buffer *out,
		      const char **why)
{
	struct store_instance *i = &s->instance;
	int err;

	*why = s->now.hello ? "a second Hello" : check_hello(h);
	if (*why)
		return -EPROTO;
	s->now = (struct session_state){ .first_seen_unix_ns = h->unix_ns,
					 .last_seen_unix_ns = h->unix_ns };
	err = resume(s, h, why);
	if (err)
		return err;
	*i = (struct store_instance){
		.id = h->instance,
		.service = strdup(h->service),
		.host = strdup(h->host),
		.boot_id = strdup(h->boot_id),
		.exe = strdup(h->exe),
		.command = strdup(h->command),
		.version = strdup(h->version),
		.pid = h->pid,
		.parent_pid = h->parent_pid,
		.hz = h->hz,
		.start_ns = h->start_ns,
	};
	if (!i->service || !i->host || !i->boot_id || !i->exe || !i->command || !i->version)
		err = -ENOMEM;
	if (!err)
		err = put_instance(s);
	if (!err)
		err = answer_welcome(s, out);
	if (err)
		store_instance_fini(i);
	else
		s->now.hello = true;
	return err;
}

static int take_dict(struct session *s, const Sonde__Dict *d, const char **why)
{
	int err = take_names(s, d, why);

	if (!err)
		err = take_stacks(s, d->stacks, why);
	if (!err)
		err = store_put_dict(s->store, s->instance.id, d);
	return err;
}

static int take_window(struct session *s, const Sonde__Window *w, struct buffer *out,
		       const char **why)
{
	uint64_t gap;
	int err;

	*why = check_window(s, w);
	if (*why)
		return -EPROTO;
	if (w->seq <= s->now.stored_seq) {
		s->now.duplicates++;
		return answer_ack(w->seq, out);
	}
	err = store_put_window(s->store, s->instance.id, w);
	if (err)
		return err;
	/* A store that starts in the middle of a life (moved away, say) has lost nothing by that. */
	gap = s->now.stored_seq ? w->seq - s->now.stored_seq - 1 : 0;
	if (s->now.lost_windows < INT64_MAX - gap)
		s->now.lost_windows += gap;
	if (w->lost_windows > s->now.lost_windows && w->lost_windows <= INT64_MAX)
		s->now.lost_windows = w->lost_windows;
	s->now.stored_seq = w->seq;
	s->now.ended = s->now.ended || w->last;
	if (w->end_unix_ns > s->now.last_seen_unix_ns)
		s->now.last_seen_unix_ns = w->end_unix_ns;
	if (w->start_unix_ns < s->now.first_seen_unix_ns)
		s->now.first_seen_unix_ns = w->start_unix_ns;
	err = put_instance(s);
	if (err)
		return err;
	s->now.windows++;
	return answer_ack(w->seq, out);
}

/* The program's own words, which the agent passes on as they are: a bad one is left out, it must not cost the connection. */
static int take_event(struct session *s, const Sonde__Event *event)
{
	if (event->unix_ns > INT64_MAX || !event->name[0] ||
	    check_text(event->name, SESSION_MARK_MAX)) {
		count_add(frames_skipped_total, 1);
		return 0;
	}
	s->now.marks++;
	return store_put_mark(s->store, s->instance.id, event->unix_ns, event->name);
}

int session_frame(struct session *s, const uint8_t *bytes, size_t len, struct buffer *out,
		  const char **why)
{
	Sonde__Frame *frame;
	int err = 0;

	*why = NULL;
	frame = len <= SESSION_FRAME_MAX ? sonde__frame__unpack(&s->arena.allocator, len, bytes)
					 : NULL;
	if (!frame) {
		*why = "bytes that are no message";
		err = -EPROTO;
	} else if (!s->now.hello && frame->body_case != SONDE__FRAME__BODY_HELLO) {
		*why = "something else than a Hello at the start";
		err = -EPROTO;
	} else {
		switch (frame->body_case) {
		case SONDE__FRAME__BODY_HELLO:
			err = take_hello(s, frame->hello, out, why);
			break;
		case SONDE__FRAME__BODY_DICT:
			err = take_dict(s, frame->dict, why);
			break;
		case SONDE__FRAME__BODY_WINDOW:
			err = take_window(s, frame->window, out, why);
			break;
		case SONDE__FRAME__BODY_EVENT:
			err = take_event(s, frame->event);
			break;
		case SONDE__FRAME__BODY_WELCOME:
		case SONDE__FRAME__BODY_ACK:
			*why = "a message only a collector sends";
			err = -EPROTO;
			break;
		default: /* Slow, and what a newer agent may know */
			count_add(frames_skipped_total, 1);
		}
	}
	arena_reset(&s->arena);
	count_add(frames_total, 1);
	return err;
}
