/* SPDX-License-Identifier: MIT
 *
 * /metrics in Prometheus' text format. Counters are sums over every window ever stored since this collector started
 * reading: each scrape adds the windows that are new since the last one, so that counters only grow, also when old
 * windows age out; the first scrape reads the whole store.
 *
 * Histogram edges are powers of two in ns, where our buckets end exactly: a bucket's count is never a guess.
 * Threads: any; `lock` protects the sums and is held for the whole scrape.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/counters.h"
#include "server/map.h"
#include "server/query.h"
#include "server/scan.h"
#include "server/window.h"

enum {
	SERIES_MAX = 4096,
	PROCESSES_MAX = 10000,
	CAUSES_MAX = 128
};

/* Upper edges: 2^edge ns, from 16 µs to 69 s. */
static const uint8_t edges[] = { 14, 16, 18, 20, 21, 22, 23, 24, 25, 26, 27, 28, 30, 32, 34, 36 };
enum {
	EDGES = sizeof(edges) / sizeof(edges[0])
};

struct series {
	char *service, *route;
	uint64_t count, errors, sum_ns;
	uint64_t ledger_ns[STATE_COUNT];
	uint64_t below[EDGES]; /* requests up to this edge and above the one before */
};

struct process {
	uint64_t id;
	char *service;
	uint64_t agent_cpu_ns, newest_unix_ns;
	uint64_t drops[CAUSES_MAX]; /* by cause, as of its newest window */
	struct map series;          /* route id -> series */
};

static struct {
	pthread_mutex_t lock;
	/* under lock */
	uint64_t order; /* of the newest window seen */
	struct series *series;
	uint32_t series_count, series_cap;
	struct process *processes;
	uint32_t process_count, process_cap;
	struct map process_of;
	char *causes[CAUSES_MAX];
	uint32_t cause_count;
	struct store_read *read; /* of the scrape under way */
	struct process *naming;  /* whose routes are being read */
} m = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- Sums ---- */

static int64_t find_series(const char *service, const char *route)
{
	struct series *s;

	for (uint32_t i = 0; i < m.series_count; i++) {
		if (strcmp(m.series[i].route, route) == 0 &&
		    strcmp(m.series[i].service, service) == 0)
			return i;
	}
	if (m.series_count >= SERIES_MAX && strcmp(route, "(other)") != 0) {
		count_add(metrics_series_refused_total, 1);
		return find_series(service, "(other)");
	}
	if (!scan_room((void **)&m.series, m.series_count, &m.series_cap, sizeof(*m.series)))
		return -ENOMEM;
	s = &m.series[m.series_count];
	*s = (struct series){ .service = strdup(service), .route = strdup(route) };
	if (!s->service || !s->route) {
		free(s->service);
		free(s->route);
		return -ENOMEM;
	}
	return m.series_count++;
}

static int add_route_name(void *context, const struct store_entry *entry)
{
	struct process *p = context;
	int64_t series;

	if (map_get(&p->series, entry->id) != MAP_NONE)
		return 0;
	series = find_series(p->service, entry->name);
	if (series < 0)
		return (int)series;
	return map_set(&p->series, entry->id, (uint32_t)series) ? 0 : -ENOMEM;
}

static int add_stats(struct process *p, const Sonde__RouteStats *stats)
{
	uint32_t series = map_get(&p->series, stats->route);
	uint64_t index = 0;
	struct series *s;
	int err;

	if (series == MAP_NONE) {
		err = store_read_dict(m.read, STORE_ROUTE_NAMES, p->id, add_route_name, p);
		if (err)
			return err;
		series = map_get(&p->series, stats->route);
		if (series == MAP_NONE)
			return 0;
	}
	s = &m.series[series];
	s->count += stats->count;
	s->errors += stats->errors;
	s->sum_ns += stats->latency_sum_ns;
	for (size_t i = 0; i < stats->n_ledger_ns && i < STATE_COUNT; i++)
		s->ledger_ns[i] += stats->ledger_ns[i];
	for (size_t i = 0; stats->latency && i < stats->latency->n_delta; i++) {
		index += stats->latency->delta[i];
		for (size_t e = 0; e < EDGES; e++) {
			if (index < (uint64_t)edges[e] * HIST_PER_OCTAVE) {
				s->below[e] += stats->latency->count[i];
				break;
			}
		}
	}
	return 0;
}

static int cause_number(const char *cause)
{
	uint32_t i = 0;

	while (i < m.cause_count && strcmp(m.causes[i], cause) != 0)
		i++;
	if (i == CAUSES_MAX) {
		count_add(metrics_series_refused_total, 1);
		return -1;
	}
	if (i == m.cause_count) {
		m.causes[i] = strdup(cause);
		if (!m.causes[i])
			return -1;
		m.cause_count++;
	}
	return (int)i;
}

static void add_self(struct process *p, const struct store_window *w)
{
	p->agent_cpu_ns += w->self->agent_cpu_ns + w->self->handler_ns + w->self->signal_ns +
			   w->self->hooks_ns;
	for (size_t i = 0; i < w->self->n_drops; i++) {
		int cause = cause_number(w->self->drops[i]->cause);

		if (cause >= 0 && w->self->drops[i]->count > p->drops[cause])
			p->drops[cause] = w->self->drops[i]->count;
	}
	if (w->end_unix_ns > p->newest_unix_ns)
		p->newest_unix_ns = w->end_unix_ns;
}

static int add_service(void *context, const struct store_instance *instance)
{
	struct process *p = context;

	free(p->service);
	p->service = strdup(instance->service);
	return p->service ? 0 : -ENOMEM;
}

/* The process @id, added when new; -E2BIG past the cap: its windows are counted as refused and nothing else. */
static int64_t find_process(uint64_t id)
{
	uint32_t index = map_get(&m.process_of, id);
	struct process *p;
	int err;

	if (index != MAP_NONE)
		return index;
	if (m.process_count == PROCESSES_MAX)
		return -E2BIG;
	if (!scan_room((void **)&m.processes, m.process_count, &m.process_cap,
		       sizeof(*m.processes)))
		return -ENOMEM;
	p = &m.processes[m.process_count];
	*p = (struct process){ .id = id };
	err = store_read_instances(m.read, NULL, id, 0, INT64_MAX, add_service, p);
	if (!err && !p->service)
		err = -ENOENT;
	if (!err && !map_set(&m.process_of, id, m.process_count))
		err = -ENOMEM;
	if (err) {
		free(p->service);
		return err;
	}
	return m.process_count++;
}

static int add_window(void *context, const struct store_window *w)
{
	int64_t index = find_process(w->instance);
	int err = 0;

	(void)context;
	if (index >= 0) {
		add_self(&m.processes[index], w);
		for (size_t i = 0; !err && i < w->route_count; i++) {
			if (w->routes[i]->route != 0)
				err = add_stats(&m.processes[index], w->routes[i]);
		}
	} else if (index == -E2BIG) {
		count_add(metrics_windows_refused_total, 1);
	} else if (index != -ENOENT) {
		err = (int)index;
	}
	if (!err && w->order > m.order)
		m.order = w->order;
	return err;
}

/* ---- Text ---- */

static void label(struct buffer *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '\\' || *text == '"')
			buffer_print(out, "\\%c", *text);
		else if (*text == '\n')
			buffer_text(out, "\\n");
		else
			buffer_add(out, text, 1);
	}
}

static void head(struct buffer *out, const char *name, const char *type, const char *help)
{
	buffer_print(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* `name{service="…",route="…"`, left open. */
static void begin(struct buffer *out, const char *name, const char *service, const char *route)
{
	buffer_print(out, "%s{service=\"", name);
	label(out, service);
	buffer_text(out, "\",route=\"");
	label(out, route);
	buffer_text(out, "\"");
}

/* ns as seconds, exactly. */
static void seconds(struct buffer *out, uint64_t ns)
{
	buffer_print(out, "%llu.%09llu", (unsigned long long)(ns / 1000000000u),
		     (unsigned long long)(ns % 1000000000u));
}

static void write_counter(struct buffer *out, const char *name, const char *help, size_t offset)
{
	head(out, name, "counter", help);
	for (uint32_t i = 0; i < m.series_count; i++) {
		const struct series *s = &m.series[i];
		uint64_t value;

		memcpy(&value, (const char *)s + offset, sizeof(value));
		begin(out, name, s->service, s->route);
		buffer_print(out, "} %llu\n", (unsigned long long)value);
	}
}

static void write_histogram(struct buffer *out)
{
	head(out, "sonde_latency_seconds", "histogram",
	     "Latency of requests, from the arrival of the first byte to the send of the last.");
	for (uint32_t i = 0; i < m.series_count; i++) {
		const struct series *s = &m.series[i];
		uint64_t below = 0;

		for (size_t e = 0; e < EDGES; e++) {
			below += s->below[e];
			begin(out, "sonde_latency_seconds_bucket", s->service, s->route);
			buffer_text(out, ",le=\"");
			seconds(out, 1ull << edges[e]);
			buffer_print(out, "\"} %llu\n", (unsigned long long)below);
		}
		begin(out, "sonde_latency_seconds_bucket", s->service, s->route);
		buffer_print(out, ",le=\"+Inf\"} %llu\n", (unsigned long long)s->count);
		begin(out, "sonde_latency_seconds_sum", s->service, s->route);
		buffer_text(out, "} ");
		seconds(out, s->sum_ns);
		buffer_text(out, "\n");
		begin(out, "sonde_latency_seconds_count", s->service, s->route);
		buffer_print(out, "} %llu\n", (unsigned long long)s->count);
	}
}

static void write_states(struct buffer *out)
{
	head(out, "sonde_state_seconds_total", "counter", "Time of requests by state.");
	for (uint32_t i = 0; i < m.series_count; i++) {
		for (unsigned state = 0; state < STATE_COUNT; state++) {
			begin(out, "sonde_state_seconds_total", m.series[i].service,
			      m.series[i].route);
			buffer_print(out, ",state=\"%s\"} ", state_names[state]);
			seconds(out, m.series[i].ledger_ns[state]);
			buffer_text(out, "\n");
		}
	}
}

static void write_in_flight(struct buffer *out, const struct routes_result *now)
{
	head(out, "sonde_in_flight", "gauge", "Requests in progress.");
	for (uint32_t i = 0; i < m.series_count; i++) {
		uint32_t in_flight = 0;

		for (size_t k = 0; k < now->count; k++) {
			if (strcmp(now->routes[k].route, m.series[i].route) == 0 &&
			    strcmp(now->routes[k].service, m.series[i].service) == 0)
				in_flight = now->routes[k].in_flight;
		}
		begin(out, "sonde_in_flight", m.series[i].service, m.series[i].route);
		buffer_print(out, "} %u\n", in_flight);
	}
}

static int write_lost(void *context, const struct store_instance *instance)
{
	struct buffer *out = context;

	buffer_text(out, "sonde_lost_windows_total{service=\"");
	label(out, instance->service);
	buffer_print(out, "\",process=\"%016llx\"} %llu\n", (unsigned long long)instance->id,
		     (unsigned long long)instance->lost_windows);
	return 0;
}

static int write_processes(struct buffer *out)
{
	int err;

	head(out, "sonde_agent_cpu_seconds_total", "counter", "CPU time of the agent itself.");
	for (uint32_t i = 0; i < m.process_count; i++) {
		buffer_text(out, "sonde_agent_cpu_seconds_total{service=\"");
		label(out, m.processes[i].service);
		buffer_print(out, "\",process=\"%016llx\"} ",
			     (unsigned long long)m.processes[i].id);
		seconds(out, m.processes[i].agent_cpu_ns);
		buffer_text(out, "\n");
	}
	head(out, "sonde_lost_windows_total", "counter", "Windows that never arrived.");
	err = store_read_instances(m.read, NULL, 0, 0, INT64_MAX, write_lost, out);
	head(out, "sonde_drops_total", "counter", "What agents had to drop, by cause.");
	for (uint32_t cause = 0; cause < m.cause_count; cause++) {
		uint64_t sum = 0;

		for (uint32_t i = 0; i < m.process_count; i++)
			sum += m.processes[i].drops[cause];
		buffer_text(out, "sonde_drops_total{cause=\"");
		label(out, m.causes[cause]);
		buffer_print(out, "\"} %llu\n", (unsigned long long)sum);
	}
	return err;
}

static void write_own(struct buffer *out)
{
#define WRITE_COUNTER(name, type, help)                                                            \
  head(out, "sonde_collector_" #name, type, "Collector: " help ".");                               \
  buffer_print(out, "sonde_collector_" #name " %llu\n",                                            \
	       (unsigned long long)atomic_load_explicit(&counters.name, memory_order_relaxed));
	COUNTERS(WRITE_COUNTER)
#undef WRITE_COUNTER
	head(out, "sonde_collector_symbols_refused_total", "counter",
	     "Collector: symbols, files and frames past a cap.");
	buffer_print(out, "sonde_collector_symbols_refused_total %llu\n",
		     (unsigned long long)query_symbols_refused());
}

/* Requests in flight are in the newest windows; a minute holds them all. */
static int read_in_flight(struct store *store, struct routes_result *out)
{
	struct selection sel = { .states = STATES_ALL, .latency_max_ns = UINT64_MAX };
	uint64_t newest = 0;

	for (uint32_t i = 0; i < m.process_count; i++) {
		if (m.processes[i].newest_unix_ns > newest)
			newest = m.processes[i].newest_unix_ns;
	}
	sel.from_unix_ns = newest > 60000000000u ? newest - 60000000000u : 0;
	sel.to_unix_ns = newest + 1;
	return query_routes(store, &sel, out);
}

int metrics_write(struct store *store, struct buffer *out)
{
	struct routes_result now = { 0 };
	struct store_filter filter = { .to_unix_ns = INT64_MAX };
	int err;

	pthread_mutex_lock(&m.lock);
	filter.after_order = m.order;
	err = store_read_begin(store, &m.read);
	if (!err)
		err = store_read_windows(m.read, &filter, STORE_ROUTES | STORE_SELF, add_window,
					 NULL);
	if (!err)
		err = read_in_flight(store, &now);
	if (!err) {
		write_counter(out, "sonde_requests_total", "Requests answered.",
			      offsetof(struct series, count));
		write_counter(out, "sonde_errors_total", "Requests that failed.",
			      offsetof(struct series, errors));
		write_histogram(out);
		write_states(out);
		write_in_flight(out, &now);
		err = write_processes(out);
		write_own(out);
	}
	routes_result_free(&now);
	store_read_end(m.read);
	m.read = NULL;
	pthread_mutex_unlock(&m.lock);
	return err ? err : out->failed ? -ENOMEM : 0;
}

void metrics_reset(void)
{
	pthread_mutex_lock(&m.lock);
	for (uint32_t i = 0; i < m.series_count; i++) {
		free(m.series[i].service);
		free(m.series[i].route);
	}
	for (uint32_t i = 0; i < m.process_count; i++) {
		free(m.processes[i].service);
		map_fini(&m.processes[i].series);
	}
	for (uint32_t i = 0; i < m.cause_count; i++)
		free(m.causes[i]);
	free(m.series);
	free(m.processes);
	map_fini(&m.process_of);
	m.order = m.series_count = m.series_cap = m.process_count = m.process_cap = m.cause_count =
		0;
	m.series = NULL;
	m.processes = NULL;
	pthread_mutex_unlock(&m.lock);
}
