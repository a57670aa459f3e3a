/* SPDX-License-Identifier: MIT
 *
 * Routes, processes and histograms; see query.h. Call trees are in query_flame.c. Windows come in any order, so all that
 * depends on "the newest" compares times.
 */
#include "server/query.h"

#include <errno.h>
#include <string.h>

#include "server/scan.h"
#include "server/window.h"

/* ---- Routes ---- */

struct interval {
	uint32_t service;
	uint64_t start, end;
};

/* Requests in flight of one route in one instance, as of the newest window that speaks of it. */
struct flight {
	uint64_t end_unix_ns;
	uint32_t instance, group, count;
};

struct route_query {
	struct scan *scan;
	struct route_summary *routes; /* by group */
	uint32_t count, cap;
	struct interval *intervals;
	uint32_t interval_count, interval_cap;
	struct flight *flights;
	uint32_t flight_count, flight_cap;
	struct map flight_of;
	uint64_t *newest; /* by instance */
	uint64_t background_ns[STATE_COUNT];
};

static int add_status(struct route_summary *r, uint32_t status, uint64_t count)
{
	struct status_count *bigger;

	if (status > QUERY_STATUS_MAX)
		status = 0;
	for (size_t i = 0; i < r->status_count; i++) {
		if (r->statuses[i].status == status) {
			r->statuses[i].count += count;
			return 0;
		}
	}
	bigger = reallocarray(r->statuses, r->status_count + 1, sizeof(*bigger));
	if (!bigger)
		return -ENOMEM;
	r->statuses = bigger;
	r->statuses[r->status_count++] = (struct status_count){ status, count };
	return 0;
}

static int add_flight(struct route_query *q, uint32_t instance, uint32_t group,
		      uint64_t end_unix_ns, uint32_t count)
{
	uint64_t key = (uint64_t)instance << 32 | group;
	uint32_t index = map_get(&q->flight_of, key);

	if (index == MAP_NONE) {
		if (count == 0)
			return 0;
		if (!scan_room((void **)&q->flights, q->flight_count, &q->flight_cap,
			       sizeof(*q->flights)) ||
		    !map_set(&q->flight_of, key, q->flight_count))
			return -ENOMEM;
		index = q->flight_count++;
		q->flights[index] = (struct flight){ .instance = instance, .group = group };
	}
	if (end_unix_ns > q->flights[index].end_unix_ns) {
		q->flights[index].end_unix_ns = end_unix_ns;
		q->flights[index].count = 0;
	}
	if (end_unix_ns == q->flights[index].end_unix_ns)
		q->flights[index].count += count;
	return 0;
}

static struct route_summary *summary_of(struct route_query *q, uint32_t group)
{
	while (q->count <= group) {
		if (!scan_room((void **)&q->routes, q->count, &q->cap, sizeof(*q->routes)))
			return NULL;
		memset(&q->routes[q->count++], 0, sizeof(*q->routes));
	}
	return &q->routes[group];
}

static int add_route(struct route_query *q, uint32_t instance, const struct store_window *w,
		     const Sonde__RouteStats *stats)
{
	int64_t group = scan_group(q->scan, instance, stats->route);
	struct route_summary *r;
	int err = 0;

	if (group < 0 || group == MAP_NONE)
		return group < 0 ? (int)group : 0;
	r = summary_of(q, (uint32_t)group);
	if (!r)
		return -ENOMEM;
	r->count += stats->count;
	r->errors += stats->errors;
	for (size_t i = 0; i < stats->n_ledger_ns && i < STATE_COUNT; i++)
		r->ledger_ns[i] += stats->ledger_ns[i];
	r->latency.count += stats->count;
	r->latency.sum_ns += stats->latency_sum_ns;
	if (stats->latency_max_ns > r->latency.max_ns)
		r->latency.max_ns = stats->latency_max_ns;
	window_add_histogram(r->latency.bucket, stats->latency);
	for (size_t i = 0; !err && i < stats->n_statuses; i++)
		err = add_status(r, stats->statuses[i]->status, stats->statuses[i]->count);
	return err ? err
		   : add_flight(q, instance, (uint32_t)group, w->end_unix_ns, stats->in_flight);
}

static int routes_window(void *context, uint32_t instance, const struct store_window *w)
{
	struct route_query *q = context;
	const char *wanted = q->scan->sel->route;
	int err = 0;

	if (!scan_room((void **)&q->intervals, q->interval_count, &q->interval_cap,
		       sizeof(*q->intervals)))
		return -ENOMEM;
	q->intervals[q->interval_count++] = (struct interval){ q->scan->instances[instance].service,
							       w->start_unix_ns, w->end_unix_ns };
	if (w->end_unix_ns > q->newest[instance])
		q->newest[instance] = w->end_unix_ns;
	for (size_t i = 0; !err && i < w->route_count; i++) {
		const Sonde__RouteStats *stats = w->routes[i];

		if (stats->route != 0)
			err = add_route(q, instance, w, stats);
		else if (!wanted || !wanted[0])
			for (size_t k = 0; k < stats->n_ledger_ns && k < STATE_COUNT; k++)
				q->background_ns[k] += stats->ledger_ns[k];
	}
	return err;
}

static int compare_intervals(const void *a, const void *b)
{
	const struct interval *x = a, *y = b;

	if (x->service != y->service)
		return x->service < y->service ? -1 : 1;
	return x->start < y->start ? -1 : x->start > y->start;
}

/* How long each service has data for: the union of its windows. */
static void add_coverage(struct route_query *q, uint64_t *covered_ns)
{
	uint64_t end = 0;

	if (q->interval_count == 0)
		return;
	qsort(q->intervals, q->interval_count, sizeof(*q->intervals), compare_intervals);
	for (uint32_t i = 0; i < q->interval_count; i++) {
		const struct interval *v = &q->intervals[i];

		if (i == 0 || v->service != v[-1].service)
			end = 0;
		if (v->end > end) {
			covered_ns[v->service] += v->end - (v->start > end ? v->start : end);
			end = v->end;
		}
	}
}

static int compare_routes(const void *a, const void *b)
{
	const struct route_summary *x = a, *y = b;
	int order;

	if (x->latency.sum_ns != y->latency.sum_ns)
		return x->latency.sum_ns > y->latency.sum_ns ? -1 : 1;
	order = strcmp(x->service, y->service);
	return order ? order : strcmp(x->route, y->route);
}

static void route_summary_fini(struct route_summary *r)
{
	free(r->service);
	free(r->route);
	free(r->statuses);
}

static int finish_routes(struct route_query *q, struct routes_result *out)
{
	struct scan *scan = q->scan;
	uint64_t *covered_ns = calloc(scan->service_count + 1, sizeof(*covered_ns));
	uint32_t kept = 0;
	int err = covered_ns ? 0 : -ENOMEM;

	if (!err)
		add_coverage(q, covered_ns);
	for (uint32_t i = 0; !err && i < q->flight_count; i++) {
		const struct flight *f = &q->flights[i];

		/* A process that is gone has nothing in flight. */
		if (scan->instances[f->instance].info.connected &&
		    f->end_unix_ns == q->newest[f->instance])
			q->routes[f->group].in_flight += f->count;
	}
	for (uint32_t i = 0; !err && i < q->count; i++) {
		struct route_summary *r = &q->routes[i];
		uint64_t ns = 0, hash = map_hash(scan->groups[i].service, 0);

		ns = covered_ns[map_get(&scan->services, hash)];
		r->rate = ns ? (double)r->count * 1e9 / (double)ns : 0;
		r->service = strdup(scan->groups[i].service);
		r->route = strdup(scan->groups[i].route);
		if (!r->service || !r->route)
			err = -ENOMEM;
	}
	free(covered_ns);
	if (err)
		return err;
	for (uint32_t i = 0; i < q->count; i++) {
		if (q->routes[i].count || q->routes[i].in_flight)
			q->routes[kept++] = q->routes[i];
		else
			route_summary_fini(&q->routes[i]);
	}
	if (kept)
		qsort(q->routes, kept, sizeof(*q->routes), compare_routes);
	*out = (struct routes_result){ .routes = q->routes, .count = kept };
	memcpy(out->background_ns, q->background_ns, sizeof(out->background_ns));
	q->routes = NULL;
	q->count = 0;
	return 0;
}

static int add_mark(void *context, const struct store_mark *mark)
{
	struct routes_result *out = context;
	struct mark *m = &out->marks[out->mark_count++];

	*m = (struct mark){ mark->unix_ns, mark->instance, strdup(mark->service),
			    strdup(mark->name) };
	return m->service && m->name ? 0 : -ENOMEM;
}

static int add_marks(const struct scan *scan, struct routes_result *out)
{
	const struct selection *sel = scan->sel;
	uint64_t id = sel->process && scan->instance_count ? scan->instances[0].info.id : 0;

	if (!scan->read || (sel->process && !id))
		return 0;
	out->marks = calloc(QUERY_MARKS_MAX, sizeof(*out->marks));
	if (!out->marks)
		return -ENOMEM;
	return store_read_marks(scan->read, sel->service, id, sel->from_unix_ns, sel->to_unix_ns,
				QUERY_MARKS_MAX, add_mark, out);
}

int query_routes(struct store *store, const struct selection *sel, struct routes_result *out)
{
	struct scan scan;
	struct route_query q = { .scan = &scan };
	int err;

	*out = (struct routes_result){ 0 };
	err = scan_begin(&scan, store, sel);
	if (!err) {
		q.newest = calloc(scan.instance_count + 1, sizeof(*q.newest));
		err = q.newest ? 0 : -ENOMEM;
	}
	if (!err)
		err = scan_windows(&scan, STORE_ROUTES, routes_window, &q);
	if (!err)
		err = finish_routes(&q, out);
	if (!err)
		err = add_marks(&scan, out);
	if (err)
		routes_result_free(out);
	for (uint32_t i = 0; i < q.count; i++)
		route_summary_fini(&q.routes[i]);
	free(q.routes);
	free(q.intervals);
	free(q.flights);
	free(q.newest);
	map_fini(&q.flight_of);
	scan_end(&scan);
	return err;
}

void routes_result_free(struct routes_result *result)
{
	for (size_t i = 0; i < result->count; i++)
		route_summary_fini(&result->routes[i]);
	free(result->routes);
	for (size_t i = 0; i < result->mark_count; i++) {
		free(result->marks[i].service);
		free(result->marks[i].name);
	}
	free(result->marks);
	*result = (struct routes_result){ 0 };
}

/* ---- Processes ---- */

static int add_named(struct named_count **list, size_t *count, const char *name, uint64_t n)
{
	struct named_count *bigger;

	for (size_t i = 0; i < *count; i++) {
		if (strcmp((*list)[i].name, name) == 0) {
			(*list)[i].count += n;
			return 0;
		}
	}
	if (*count >= QUERY_NAMES_MAX && strcmp(name, "(other)") != 0)
		return add_named(list, count, "(other)", n);
	bigger = reallocarray(*list, *count + 1, sizeof(*bigger));
	if (!bigger)
		return -ENOMEM;
	*list = bigger;
	bigger[*count].name = strdup(name);
	bigger[*count].count = n;
	if (!bigger[*count].name)
		return -ENOMEM;
	++*count;
	return 0;
}

static void clear_named(struct named_count **list, size_t *count)
{
	for (size_t i = 0; i < *count; i++)
		free((*list)[i].name);
	free(*list);
	*list = NULL;
	*count = 0;
}

const char *const query_memory_names[QUERY_MEMORY_PARTS] = {
	[SONDE__MEMORY_PART__MEMORY_THREADS] = "threads",
	[SONDE__MEMORY_PART__MEMORY_REQUESTS] = "requests",
	[SONDE__MEMORY_PART__MEMORY_CONNECTIONS] = "connections",
	[SONDE__MEMORY_PART__MEMORY_TABLES] = "tables",
	[SONDE__MEMORY_PART__MEMORY_DICTIONARY] = "dictionary",
	[SONDE__MEMORY_PART__MEMORY_WINDOW] = "window",
	[SONDE__MEMORY_PART__MEMORY_SPOOL] = "spool",
	[SONDE__MEMORY_PART__MEMORY_AGENT] = "agent",
};

_Static_assert(QUERY_MEMORY_PARTS == SONDE__MEMORY_PART__MEMORY_AGENT + 1, "one name for each");

static int processes_window(void *context, uint32_t instance, const struct store_window *w)
{
	struct processes_result *result = context;
	struct process_summary *p = &result->processes[instance];
	const Sonde__Self *self = w->self;
	int err = 0;

	p->wall_ns += w->end_unix_ns - w->start_unix_ns;
	p->process_cpu_ns += self->process_cpu_ns;
	p->agent_cpu_ns += self->agent_cpu_ns;
	p->handler_ns += self->handler_ns;
	p->signal_ns += self->signal_ns;
	p->hooks_ns += self->hooks_ns;
	p->sampling_ns += self->sampling_ns;
	p->samples += self->samples;
	p->wire_bytes += self->wire_bytes;
	for (size_t i = 0; !err && i < self->n_ends; i++)
		err = add_named(&p->ends, &p->end_count, self->ends[i]->how, self->ends[i]->count);
	if (err || w->end_unix_ns < p->newest_unix_ns)
		return err;
	p->newest_unix_ns = w->end_unix_ns;
	p->memory_bytes = self->memory_bytes;
	p->threads = self->threads;
	p->step = self->step;
	p->budget_permille = self->budget_permille;
	p->look_hz = self->look_hz;
	for (size_t i = 0; i < QUERY_MEMORY_PARTS; i++) {
		p->memory[i] = i < self->n_memory ? self->memory[i] : 0;
		p->memory_max[i] = i < self->n_memory_max ? self->memory_max[i] : 0;
	}
	if (self->hz)
		p->hz = self->hz;
	clear_named(&p->drops, &p->drop_count);
	for (size_t i = 0; !err && i < self->n_drops; i++)
		err = add_named(&p->drops, &p->drop_count, self->drops[i]->cause,
				self->drops[i]->count);
	return err;
}

static int compare_processes(const void *a, const void *b)
{
	const struct process_summary *x = a, *y = b;
	int order = strcmp(x->service, y->service);

	if (order)
		return order;
	return x->first_seen_unix_ns < y->first_seen_unix_ns
		       ? -1
		       : x->first_seen_unix_ns > y->first_seen_unix_ns;
}

static int start_processes(struct scan *scan, struct processes_result *out)
{
	out->processes = calloc(scan->instance_count + 1, sizeof(*out->processes));
	if (!out->processes)
		return -ENOMEM;
	for (uint32_t i = 0; i < scan->instance_count; i++) {
		const struct store_instance *info = &scan->instances[i].info;
		struct process_summary *p = &out->processes[out->count++];

		*p = (struct process_summary){
			.id = info->id,
			.service = strdup(info->service),
			.host = strdup(info->host),
			.exe = strdup(info->exe),
			.command = strdup(info->command),
			.version = strdup(info->version),
			.state = info->connected ? "live"
				 : info->ended   ? "ended"
						 : "lost",
			.pid = info->pid,
			.hz = info->hz,
			.first_seen_unix_ns = info->first_seen_unix_ns,
			.last_seen_unix_ns = info->last_seen_unix_ns,
			.lost_windows = info->lost_windows,
		};
		if (!p->service || !p->host || !p->exe || !p->command || !p->version)
			return -ENOMEM;
	}
	return 0;
}

int query_processes(struct store *store, const struct selection *sel, struct processes_result *out)
{
	struct scan scan;
	int err;

	*out = (struct processes_result){ 0 };
	err = scan_begin(&scan, store, sel);
	if (!err)
		err = start_processes(&scan, out);
	if (!err)
		err = scan_windows(&scan, STORE_SELF, processes_window, out);
	if (!err && out->count)
		qsort(out->processes, out->count, sizeof(*out->processes), compare_processes);
	if (err)
		processes_result_free(out);
	scan_end(&scan);
	return err;
}

void processes_result_free(struct processes_result *result)
{
	for (size_t i = 0; i < result->count; i++) {
		struct process_summary *p = &result->processes[i];

		free(p->service);
		free(p->host);
		free(p->exe);
		free(p->command);
		free(p->version);
		clear_named(&p->drops, &p->drop_count);
		clear_named(&p->ends, &p->end_count);
	}
	free(result->processes);
	*result = (struct processes_result){ 0 };
}

/* ---- Histograms ---- */

struct latency_query {
	struct scan *scan;
	unsigned what;
	struct latency_result *out;
};

static const Sonde__Histogram *histogram_of(const Sonde__RouteStats *stats, unsigned what)
{
	if (what == QUERY_WHAT_LATENCY)
		return stats->latency;
	for (size_t i = 0; i < stats->n_states; i++) {
		if (stats->states[i]->state == what)
			return stats->states[i]->histogram;
	}
	return NULL;
}

static int latency_window(void *context, uint32_t instance, const struct store_window *w)
{
	struct latency_query *q = context;
	struct latency_result *out = q->out;

	for (size_t i = 0; i < w->route_count; i++) {
		const Sonde__RouteStats *stats = w->routes[i];
		const Sonde__Histogram *h = histogram_of(stats, q->what);
		int64_t group;

		if (stats->route == 0)
			continue;
		group = scan_group(q->scan, instance, stats->route);
		if (group < 0)
			return (int)group;
		if (group == MAP_NONE)
			continue;
		window_add_histogram(out->hist.bucket, h);
		if (out->steps)
			window_add_histogram(
				out->heat[(w->end_unix_ns - q->scan->sel->from_unix_ns) /
					  out->step_ns],
				h);
		if (q->what != QUERY_WHAT_LATENCY) {
			out->hist.sum_ns +=
				stats->n_ledger_ns > q->what ? stats->ledger_ns[q->what] : 0;
			continue;
		}
		out->hist.sum_ns += stats->latency_sum_ns;
		if (stats->latency_max_ns > out->hist.max_ns)
			out->hist.max_ns = stats->latency_max_ns;
	}
	return 0;
}

static void finish_hist(struct hist *h)
{
	for (uint32_t i = 0; i < HIST_BUCKETS; i++)
		h->count += h->bucket[i];
	for (uint32_t i = HIST_BUCKETS; i-- > 0 && h->max_ns == 0;) {
		if (h->bucket[i])
			h->max_ns = (uint64_t)llround(hist_middle_ns(i));
	}
}

int query_latency(struct store *store, const struct selection *sel, unsigned what, uint64_t step_ns,
		  struct latency_result *out)
{
	struct scan scan;
	struct latency_query q = { &scan, what, out };
	uint64_t steps;
	int err = 0;

	memset(out, 0, sizeof(*out));
	if (step_ns) {
		steps = (sel->to_unix_ns - sel->from_unix_ns + step_ns - 1) / step_ns;
		if (steps > QUERY_STEPS_MAX)
			return -E2BIG;
		out->step_ns = step_ns;
		out->heat = calloc(steps + 1, sizeof(*out->heat));
		if (!out->heat)
			return -ENOMEM;
		out->steps = steps;
	}
	err = scan_begin(&scan, store, sel);
	if (!err)
		err = scan_windows(&scan, STORE_ROUTES, latency_window, &q);
	scan_end(&scan);
	finish_hist(&out->hist);
	if (err)
		latency_result_free(out);
	return err;
}

void latency_result_free(struct latency_result *result)
{
	free(result->heat);
	result->heat = NULL;
	result->steps = 0;
}
