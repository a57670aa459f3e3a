/* SPDX-License-Identifier: MIT
 *
 * From rings and ended requests to samples and sums. A thread's samples are taken before its ended requests; one that comes
 * after its request, from another thread or in between, still finds it for a while (aggregate.h).
 */
#include <stdio.h>
#include <string.h>

#include "agent/core/life.h"
#include "agent/hook/ended.h"
#include "agent/hook/request.h"

enum {
	STACK_FRAMES = 256
};

/* The address of a frame in its module's file, or a marker's id. */
static struct dict_frame frame_of(struct life *l, uintptr_t pc)
{
	const struct module *m = modules_find(l->modules, pc);

	if (!m) {
		l->unknown_code = true;
		return (struct dict_frame){ .address = dict_function(l->dict, "[unknown code]",
								     NULL, 0) };
	}
	dict_module(l->dict, &(struct dict_module){ .id = m->id,
						    .path = m->path,
						    .build_id = m->build_id,
						    .build_id_bytes = m->build_id_len,
						    .start = m->start,
						    .end = m->end,
						    .bias = m->bias });
	return (struct dict_frame){ .module = m->id, .address = pc - m->bias };
}

/*
 * A wrapper is known by the name that the host called. What it calls inside our library, and the trampoline that threads
 * start through, are our own affair.
 */
uint32_t life_stack(struct life *l, const uintptr_t *pcs, unsigned depth)
{
	const struct module *own = modules_find(l->modules, (uintptr_t)life_stack);
	struct dict_frame frames[STACK_FRAMES];
	unsigned kept = 0;
	bool leaf = true; /* nothing of the host's yet */

	for (unsigned i = 0; i < depth && kept < STACK_FRAMES; i++) {
		bool ours = own && pcs[i] >= own->start && pcs[i] < own->end;

		if (ours &&
		    (!leaf || (i + 1 < depth && pcs[i + 1] >= own->start && pcs[i + 1] < own->end)))
			continue;
		frames[kept++] = frame_of(l, pcs[i]);
		leaf = leaf && ours;
	}
	return dict_stack(l->dict, frames, kept);
}

uint32_t life_thread(struct life *l, const struct thread *t)
{
	struct known *k = &l->known[t->index];
	char path[64], name[32] = "";
	FILE *f = NULL;

	if (k->tid != t->tid)
		*k = (struct known){ .tid = t->tid,
				     .ring_bytes = k->ring_bytes,
				     .waited = k->waited };
	if (k->dict)
		return k->dict;
	if (atomic_load_explicit(&t->life, memory_order_acquire) == THREAD_ENDED)
		snprintf(name, sizeof name, "%s", t->name);
	snprintf(path, sizeof path, "/proc/self/task/%d/comm", (int)t->tid);
	if (!name[0])
		f = fopen(path, "re");
	if (f) {
		if (fgets(name, sizeof name, f))
			name[strcspn(name, "\n")] = '\0';
		fclose(f);
	}
	k->dict = dict_thread(l->dict, (uint32_t)t->tid, name);
	return k->dict;
}

uint32_t life_unsampled(struct life *l, uintptr_t pc)
{
	struct dict_frame frames[2] = { 0 };

	frames[0].address = dict_function(
		l->dict, pc ? "[not sampled]" : "[before the thread was found]", NULL, 0);
	if (pc)
		frames[1] = frame_of(l, pc);
	return dict_stack(l->dict, frames, pc ? 2 : 1);
}

static struct sibling *sibling_of(struct life *l, const struct thread *t)
{
	return &l->siblings[(t->start >> 4) % LIFE_SIBLINGS];
}

/*
 * CPU time of which no signal told goes where the thread was last seen; when it was too short to be seen at all, where
 * another one that began with the same function was. What a thread used before we knew of it has a name of its own.
 */
static uint32_t unsampled_stack(struct life *l, const struct thread *t, const struct known *k)
{
	const struct sibling *sibling = sibling_of(l, t);

	if (k->cpu_stack)
		return k->cpu_stack;
	if (t->start && sibling->start == t->start)
		return sibling->cpu_stack;
	return life_unsampled(l, t->start);
}

static void drain_unsampled(struct life *l, struct thread *t)
{
	const struct known *k = &l->known[t->index];
	uint64_t ns;
	uint32_t thread;

	if (!atomic_load_explicit(&t->unsampled_ns, memory_order_relaxed))
		return;
	ns = atomic_exchange_explicit(&t->unsampled_ns, 0, memory_order_relaxed);
	thread = life_thread(l, t);
	aggregate_sample(l->aggregate, &(struct sample){ .request = k->cpu_request,
							 .stack = unsampled_stack(l, t, k),
							 .thread = thread,
							 .state = CPU,
							 .ns = ns,
							 .count = 1 });
}

void drain_ring(struct life *l, struct thread *t)
{
	bool ended = atomic_load_explicit(&t->life, memory_order_acquire) == THREAD_ENDED;
	const struct sample_record *s;
	uint64_t before;
	uint32_t len;

	if (!ended) /* from before it had a timer, or this timer */
		drain_unsampled(l, t);
	before = ring_peek(&t->ring, &len) ? clock_cpu_ns() : 0;
	while ((s = ring_peek(&t->ring, &len)) != NULL) {
		uint32_t thread = life_thread(l, t), stack = life_stack(l, s->pcs, s->depth);

		l->known[t->index].cpu_stack = stack;
		l->known[t->index].cpu_request = s->request;
		if (t->start)
			*sibling_of(l, t) = (struct sibling){ t->start, stack };
		aggregate_sample(l->aggregate, &(struct sample){ .request = s->request,
								 .stack = stack,
								 .thread = thread,
								 .state = CPU,
								 .ns = s->weight_ns,
								 .count = 1 });
		l->samples++;
		if (cost_is_ours(&l->cost_map, s->pcs, s->depth))
			l->hooks_ns += s->weight_ns;
		if (s->end < UNWIND_END_COUNT)
			l->ends[s->end]++;
		ring_pop(&t->ring, len);
	}
	if (before)
		l->sampling_ns += clock_cpu_ns() - before;
	if (ended) /* from after the last sample */
		drain_unsampled(l, t);
}

void drain_free(struct life *l, struct thread *t)
{
	l->handler_ns_gone += atomic_load_explicit(&t->handler_ns, memory_order_relaxed);
	l->ring_lost_gone += atomic_load_explicit(&t->ring.lost, memory_order_relaxed);
	if (atomic_load_explicit(&t->spare, memory_order_relaxed))
		pool_give(&shared->requests, atomic_load_explicit(&t->spare, memory_order_relaxed));
	l->waits_gone += atomic_load_explicit(&t->waits, memory_order_relaxed);
	l->known[t->index] = (struct known){ .ring_bytes = l->known[t->index].ring_bytes };
	atomic_store_explicit(&t->life, THREAD_FREE, memory_order_release);
	pool_give(&shared->threads, t->index);
}

/* The route of a request as far as it is known, 0 when not. */
static uint32_t route_of(struct life *l, bool named, const char *method, const char *path,
			 uint32_t status)
{
	uint32_t id;

	if (named)
		id = route_from_name(l->routes, path);
	else if (path[0])
		id = route_from_http(l->routes, method, path, status);
	else
		return 0;
	if (!l->route_told[id])
		l->route_told[id] = dict_route(l->dict, id, route_name(l->routes, id),
					       route_source(l->routes, id)) == 0;
	return id;
}

uint32_t life_route(struct life *l, const struct request *r)
{
	/* one in progress must not make a route: a 404 does not */
	const char *name = request_name(r);
	uint32_t id = name ? route_of(l, true, NULL, name, 0)
			   : route_of(l, false, r->head.method, r->head.path, 404);

	return id == ROUTE_UNMATCHED ? 0 : id;
}

/* "JOB resize took 2.31 ms, failed: kind=example" */
static void describe(const struct life *l, const struct ended *e, const struct done *done,
		     char *text, size_t room)
{
	int at = snprintf(text, room, "%s took %.2f ms%s", route_name(l->routes, done->route),
			  (double)done->latency_ns / 1e6, done->failed ? ", failed" : "");

	for (unsigned i = 0; i < e->labels && at > 0 && (size_t)at < room; i++)
		at += snprintf(text + at, room - (size_t)at, "%s%s=%s", i ? ", " : ": ",
			       e->label_key[i], e->label_value[i]);
}

/*
 * The host put labels on this request to find it again: a failed one is told, and one slower than any labelled one before
 * it, as an event among the marks; few per window.
 */
static void tell_labelled(struct life *l, const struct ended *e, const struct done *done)
{
	struct encode_buffer buffer = { 0 };
	char text[ENCODE_EVENT_MAX];
	uint64_t mono, wall;

	if (!e->labels || (!done->failed && done->latency_ns <= l->slowest_labelled_ns))
		return;
	if (done->latency_ns > l->slowest_labelled_ns)
		l->slowest_labelled_ns = done->latency_ns;
	if (l->labelled_told == LIFE_LABELLED) {
		drop(DROP_MARKS);
		return;
	}
	l->labelled_told++;
	describe(l, e, done, text, sizeof text);
	identity_clocks(&mono, &wall);
	if (encode_event(&buffer, text, wall - (mono - done->end_ns)) == 0)
		transport_queue(l->transport, buffer.bytes, buffer.used, 0);
	else
		encode_buffer_fini(&buffer);
}

static void drain_request(struct life *l, const struct ended_record *record)
{
	struct ended e;
	struct done done;

	ended_read(record, &e);
	done = (struct done){ .request = e.id,
			      .route = route_of(l, e.named, e.method, e.path, e.status),
			      .status = e.status,
			      .failed = e.failed,
			      .event_state = (uint8_t)e.event_state,
			      .latency_ns = e.latency_ns,
			      .end_ns = e.end_ns };
	memcpy(done.ledger_ns, e.ledger_ns, sizeof done.ledger_ns);
	aggregate_done(l->aggregate, &done);
	tell_labelled(l, &e, &done);
	l->drained++;
}

static void drain_marks(struct life *l)
{
	for (unsigned i = 0; i < MARKS; i++) {
		struct mark *m = &shared->marks[i];
		struct encode_buffer buffer = { 0 };
		uint64_t mono, wall;

		if (atomic_load_explicit(&m->ready, memory_order_acquire) != 2)
			continue;
		identity_clocks(&mono, &wall);
		if (encode_event(&buffer, m->name, wall - (mono - m->mono_ns)) == 0)
			transport_queue(l->transport, buffer.bytes, buffer.used, 0);
		else
			encode_buffer_fini(&buffer);
		atomic_store_explicit(&m->ready, 0, memory_order_release);
	}
}

/* Those that no ring had room for; the slots are given back in one go. */
static void drain_slots(struct life *l, uint32_t first)
{
	static _Alignas(
		8) char record[ENDED_BYTES_MAX]; /* the agent's thread is the only one here */
	uint32_t last = first;

	for (uint32_t index = first; index != POOL_NONE;) {
		struct request *r = pool_at(&shared->requests, index);
		request_id id = (uint64_t)atomic_load_explicit(&r->generation, memory_order_relaxed)
					<< 32 |
				index;

		ended_write((struct ended_record *)(void *)record, r, id);
		drain_request(l, (const struct ended_record *)(const void *)record);
		request_clear(r);
		atomic_store_explicit(&r->life, REQUEST_FREE, memory_order_release);
		last = index;
		index = atomic_load_explicit(&r->link.next, memory_order_relaxed);
	}
	if (first != POOL_NONE)
		pool_give_chain(&shared->requests, first, last);
}

void drain_requests(struct life *l, struct thread *t)
{
	const struct ended_record *record;
	uint32_t len;

	while ((record = ring_peek(&t->ended, &len)) != NULL) {
		drain_request(l, record);
		ring_pop(&t->ended, len);
	}
	drain_slots(l, pool_take_all(&t->done));
}

void drain(struct life *l, uint64_t look_ns)
{
	l->drained = 0;
	peek(l, look_ns);
	drain_marks(l);
}
