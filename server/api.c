/* SPDX-License-Identifier: MIT
 *
 * Parameters in, JSON out; see api.h. Every parameter is checked and an unknown one is an error, so that a typing mistake
 * never looks like an answer.
 */
#include "server/api.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/export.h"
#include "server/query.h"

static const uint64_t second = 1000000000u;

enum parameter_set {
	P_SERVICE = 1 << 0,
	P_PROCESS = 1 << 1,
	P_ROUTE = 1 << 2,
	P_FROM = 1 << 3,
	P_TO = 1 << 4,
	P_COMMON = P_SERVICE | P_PROCESS | P_ROUTE | P_FROM | P_TO,
	P_WHAT = 1 << 5,
	P_STEP = 1 << 6,
	P_STATE = 1 << 7,
	P_LATENCY_MIN = 1 << 8,
	P_LATENCY_MAX = 1 << 9,
	P_THREAD = 1 << 10,
	P_FORMAT = 1 << 11,
	P_FLAME = P_COMMON | P_STATE | P_LATENCY_MIN | P_LATENCY_MAX | P_THREAD | P_FORMAT,
};

static const char *const parameter_names[] = { "service",     "process",     "route",  "from",
					       "to",          "what",        "step",   "state",
					       "latency_min", "latency_max", "thread", "format" };
enum {
	PARAMETERS = sizeof(parameter_names) / sizeof(parameter_names[0])
};

/* What an endpoint is asked, checked. */
struct question {
	struct selection sel;
	unsigned what;
	uint64_t step_ns;
	const char *format; /* NULL: the default */
};

struct endpoint {
	const char *path;
	unsigned allowed; /* parameter_set */
	void (*answer)(const struct api_request *request, const struct question *q,
		       struct api_reply *reply);
};

void api_error(struct api_reply *reply, unsigned status, const char *format, ...)
{
	struct json j = { 0 };
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	buffer_fini(&reply->body);
	json_object_begin(&j, NULL);
	json_text(&j, "error", text);
	json_object_end(&j);
	buffer_text(&j.out, "\n");
	reply->status = status;
	reply->content_type = "application/json";
	reply->file_name[0] = 0;
	reply->body = j.out;
}

static void query_failed(struct api_reply *reply, int err)
{
	switch (err) {
	case -E2BIG:
		api_error(reply, 400,
			  "the selection holds more than can be answered at once (%d windows, %d "
			  "steps): "
			  "choose a shorter time, one process, or a longer step",
			  QUERY_WINDOWS_MAX, QUERY_STEPS_MAX);
		break;
	case -EFBIG:
		api_error(reply, 400,
			  "the profile would be too large: choose a shorter time or one route");
		break;
	case -ECANCELED:
		api_error(reply, 503, "the collector is stopping");
		break;
	case -ENOMEM:
		api_error(reply, 503, "out of memory: choose a shorter time or one process");
		break;
	default:
		api_error(reply, 500, "the store cannot be read: the collector's log says why");
	}
}

static void reply_json(struct api_reply *reply, struct json *j)
{
	buffer_text(&j->out, "\n");
	reply->status = 200;
	reply->content_type = "application/json";
	reply->body = j->out;
}

/* ---- Parameters ---- */

/* "12.5" as 12500000000; -EINVAL when it is no such number or too large. */
static int parse_seconds(const char *text, uint64_t *ns)
{
	uint64_t whole = 0, part = 0, unit = second / 10;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	for (; isdigit((unsigned char)*text); text++) {
		whole = whole * 10 + (uint64_t)(*text - '0');
		if (whole > INT64_MAX / second - 1)
			return -EINVAL;
	}
	if (*text == '.') {
		for (text++; isdigit((unsigned char)*text); text++, unit /= 10)
			part += (uint64_t)(*text - '0') * unit;
	}
	*ns = whole * second + part;
	return *text ? -EINVAL : 0;
}

/* "-5m" and its like, "now", or unix seconds. */
static int parse_time(const char *text, uint64_t now_unix_ns, uint64_t *out)
{
	static const struct {
		char unit;
		uint64_t seconds;
	} units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 } };
	size_t len = strlen(text);
	char number[32];
	uint64_t ago;

	if (strcmp(text, "now") == 0) {
		*out = now_unix_ns;
		return 0;
	}
	if (text[0] != '-')
		return parse_seconds(text, out);
	if (len < 3 || len >= sizeof(number))
		return -EINVAL;
	memcpy(number, text + 1, len - 2);
	number[len - 2] = 0;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (text[len - 1] != units[i].unit)
			continue;
		if (parse_seconds(number, &ago) || ago / second > 10000000000u / units[i].seconds)
			return -EINVAL;
		ago = ago / second * units[i].seconds * second + ago % second * units[i].seconds;
		*out = now_unix_ns > ago ? now_unix_ns - ago : 0;
		return 0;
	}
	return -EINVAL;
}

static int parse_u64(const char *text, uint64_t *out)
{
	uint64_t value = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (!isdigit((unsigned char)*text) || __builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
			return -EINVAL;
	}
	*out = value;
	return 0;
}

static int state_number(const char *name, size_t len)
{
	for (int i = 0; i < STATE_COUNT; i++) {
		if (strlen(state_names[i]) == len && memcmp(state_names[i], name, len) == 0)
			return i;
	}
	return -EINVAL;
}

/* "cpu,io" as a set. */
static int parse_states(const char *text, uint32_t *states)
{
	*states = 0;
	for (;;) {
		size_t len = strcspn(text, ",");
		int state = state_number(text, len);

		if (state < 0)
			return state;
		*states |= 1u << state;
		if (!text[len])
			return 0;
		text += len + 1;
	}
}

static int parse_process(const char *text)
{
	return strlen(text) == 16 && strspn(text, "0123456789abcdef") == 16 ? 0 : -EINVAL;
}

static int parse_step(const char *text, uint64_t *step_ns)
{
	int err = parse_seconds(text, step_ns);

	return !err && *step_ns < second / 10 ? -EINVAL : err;
}

static int parse_what(const char *text, unsigned *what)
{
	int state = state_number(text, strlen(text));

	*what = state < 0 ? QUERY_WHAT_LATENCY : (unsigned)state;
	return state < 0 && strcmp(text, "latency") != 0 ? -EINVAL : 0;
}

#define STATES_TEXT "queue, cpu, runq, io, lock, sleep, loop, other"

/* Take one parameter. NULL, or what its value should have been. */
static const char *take_parameter(unsigned which, const char *value, uint64_t now_unix_ns,
				  struct question *q)
{
	switch (which) {
	case P_SERVICE:
		q->sel.service = value;
		return NULL;
	case P_PROCESS:
		q->sel.process = value;
		return parse_process(value) ? "the 16 hex digits that /api/v1/processes lists"
					    : NULL;
	case P_ROUTE:
		q->sel.route = value;
		return NULL;
	case P_FROM:
		return parse_time(value, now_unix_ns, &q->sel.from_unix_ns)
			       ? "unix seconds, or before now: -30s, -5m, -2h, -1d"
			       : NULL;
	case P_TO:
		return parse_time(value, now_unix_ns, &q->sel.to_unix_ns)
			       ? "unix seconds, now, or before now: -30s, -5m, -2h, -1d"
			       : NULL;
	case P_WHAT:
		return parse_what(value, &q->what) ? "latency, or one of " STATES_TEXT : NULL;
	case P_STEP:
		return parse_step(value, &q->step_ns) ? "seconds, at least 0.1" : NULL;
	case P_STATE:
		return parse_states(value, &q->sel.states) ? "some of " STATES_TEXT ", with commas"
							   : NULL;
	case P_LATENCY_MIN:
		return parse_u64(value, &q->sel.latency_min_ns) ? "whole ns" : NULL;
	case P_LATENCY_MAX:
		return parse_u64(value, &q->sel.latency_max_ns) ? "whole ns" : NULL;
	case P_THREAD:
		q->sel.thread = value;
		return NULL;
	default:
		q->format = value;
		return NULL;
	}
}

static void list_parameters(unsigned allowed, char *text, size_t text_bytes)
{
	size_t len = 0;

	text[0] = 0;
	for (unsigned i = 0; i < PARAMETERS && len < text_bytes; i++) {
		if (allowed & 1u << i)
			len += (size_t)snprintf(text + len, text_bytes - len, "%s%s",
						len ? ", " : "", parameter_names[i]);
	}
}

/* 0, or @reply says what is wrong. */
static int take_parameters(const struct api_request *request, unsigned allowed, struct question *q,
			   struct api_reply *reply)
{
	unsigned seen = 0;
	char list[256];

	*q = (struct question){ .what = QUERY_WHAT_LATENCY };
	q->sel.from_unix_ns = request->now_unix_ns - 300 * second;
	q->sel.to_unix_ns = request->now_unix_ns;
	q->sel.states = STATES_ALL;
	q->sel.latency_max_ns = UINT64_MAX;
	for (size_t i = 0; i < request->parameter_count; i++) {
		const struct api_parameter *p = &request->parameters[i];
		const char *wanted;
		unsigned which = 0;

		while (which < PARAMETERS && strcmp(parameter_names[which], p->name) != 0)
			which++;
		if (which == PARAMETERS || !(allowed & 1u << which)) {
			list_parameters(allowed, list, sizeof(list));
			api_error(reply, 400, "unknown parameter '%.64s': %s knows %s", p->name,
				  request->path, *list ? list : "none");
			return -EINVAL;
		}
		if (seen & 1u << which) {
			api_error(reply, 400, "parameter '%s' is given twice", p->name);
			return -EINVAL;
		}
		seen |= 1u << which;
		wanted = take_parameter(1u << which, p->value, request->now_unix_ns, q);
		if (wanted) {
			api_error(reply, 400, "bad value '%.64s' of parameter '%s': give %s",
				  p->value, p->name, wanted);
			return -EINVAL;
		}
	}
	if (q->sel.from_unix_ns > q->sel.to_unix_ns) {
		api_error(reply, 400, "'from' lies after 'to'");
		return -EINVAL;
	}
	if (q->sel.latency_min_ns > q->sel.latency_max_ns) {
		api_error(reply, 400, "'latency_min' is more than 'latency_max'");
		return -EINVAL;
	}
	return 0;
}

/* ---- /processes ---- */

static void write_named(struct json *j, const char *key, const char *name,
			const struct named_count *list, size_t count)
{
	json_array_begin(j, key);
	for (size_t i = 0; i < count; i++) {
		json_object_begin(j, NULL);
		json_text(j, name, list[i].name);
		json_u64(j, "count", list[i].count);
		json_object_end(j);
	}
	json_array_end(j);
}

static void write_id(struct json *j, const char *key, uint64_t id)
{
	char text[17];

	snprintf(text, sizeof(text), "%016llx", (unsigned long long)id);
	json_text(j, key, text);
}

static void write_memory(struct json *j, const struct process_summary *p)
{
	json_array_begin(j, "memory");
	for (size_t i = 0; i < QUERY_MEMORY_PARTS; i++) {
		json_object_begin(j, NULL);
		json_text(j, "part", query_memory_names[i]);
		json_u64(j, "bytes", p->memory[i]);
		json_u64(j, "max_bytes", p->memory_max[i]);
		json_object_end(j);
	}
	json_array_end(j);
}

static void write_process(struct json *j, const struct process_summary *p)
{
	uint64_t own_ns = p->agent_cpu_ns + p->handler_ns + p->signal_ns + p->hooks_ns;

	json_object_begin(j, NULL);
	write_id(j, "id", p->id);
	json_text(j, "service", p->service);
	json_text(j, "host", p->host);
	json_u64(j, "pid", p->pid);
	json_text(j, "exe", p->exe);
	json_text(j, "command", p->command);
	json_text(j, "version", p->version);
	json_text(j, "state", p->state);
	json_seconds(j, "first_seen", p->first_seen_unix_ns);
	json_seconds(j, "last_seen", p->last_seen_unix_ns);
	json_u64(j, "hz", p->hz);
	json_u64(j, "look_hz", p->look_hz);
	json_u64(j, "threads", p->threads);
	json_object_begin(j, "overhead");
	json_double(j, "cores", p->wall_ns ? (double)own_ns / (double)p->wall_ns : 0, 6);
	json_double(j, "cpu_share",
		    p->process_cpu_ns ? (double)own_ns / (double)p->process_cpu_ns : 0, 6);
	json_u64(j, "handler_ns", p->handler_ns);
	json_u64(j, "agent_cpu_ns", p->agent_cpu_ns);
	json_u64(j, "memory_bytes", p->memory_bytes);
	json_u64(j, "signal_ns", p->signal_ns);
	json_u64(j, "hooks_ns", p->hooks_ns);
	json_u64(j, "sampling_ns", p->sampling_ns);
	json_u64(j, "process_cpu_ns", p->process_cpu_ns);
	json_u64(j, "wall_ns", p->wall_ns);
	json_u64(j, "wire_bytes", p->wire_bytes);
	json_u64(j, "budget_permille", p->budget_permille);
	json_u64(j, "step", p->step);
	write_memory(j, p);
	json_object_end(j);
	json_u64(j, "samples", p->samples);
	json_u64(j, "lost_windows", p->lost_windows);
	write_named(j, "drops", "cause", p->drops, p->drop_count);
	write_named(j, "stack_ends", "how", p->ends, p->end_count);
	json_object_end(j);
}

static int write_processes(struct json *j, struct store *store, const struct selection *sel)
{
	struct processes_result result;
	int err = query_processes(store, sel, &result);

	if (err)
		return err;
	json_array_begin(j, "processes");
	for (size_t i = 0; i < result.count; i++)
		write_process(j, &result.processes[i]);
	json_array_end(j);
	processes_result_free(&result);
	return 0;
}

static void answer_processes(const struct api_request *request, const struct question *q,
			     struct api_reply *reply)
{
	struct json j = { 0 };
	int err;

	json_object_begin(&j, NULL);
	err = write_processes(&j, request->store, &q->sel);
	json_object_end(&j);
	reply_json(reply, &j);
	if (err)
		query_failed(reply, err);
}

/* ---- /routes ---- */

static void write_range(struct json *j, const struct selection *sel)
{
	json_seconds(j, "from", sel->from_unix_ns);
	json_seconds(j, "to", sel->to_unix_ns);
}

static void write_quantiles(struct json *j, const struct hist *h)
{
	json_u64(j, "p50", hist_quantile(h, 0.5));
	json_u64(j, "p90", hist_quantile(h, 0.9));
	json_u64(j, "p99", hist_quantile(h, 0.99));
	json_u64(j, "p999", hist_quantile(h, 0.999));
}

/* The states per request, made to add up to @mean: the rounding goes to the largest. */
static void write_ledger(struct json *j, const uint64_t *ledger_ns, uint64_t count, uint64_t mean)
{
	uint64_t each[STATE_COUNT], sum = 0;
	unsigned largest = 0;

	for (unsigned i = 0; i < STATE_COUNT; i++) {
		each[i] = count ? ledger_ns[i] / count : 0;
		sum += each[i];
		if (ledger_ns[i] > ledger_ns[largest])
			largest = i;
	}
	each[largest] += mean - sum; /* floors: never more than the mean */
	json_object_begin(j, "ledger");
	for (unsigned i = 0; i < STATE_COUNT; i++)
		json_u64(j, state_names[i], each[i]);
	json_object_end(j);
}

static void write_route(struct json *j, const struct route_summary *r)
{
	uint64_t mean = r->count ? r->latency.sum_ns / r->count : 0;
	char status[16];

	json_object_begin(j, NULL);
	json_text(j, "service", r->service);
	json_text(j, "route", r->route);
	json_u64(j, "count", r->count);
	json_u64(j, "errors", r->errors);
	json_double(j, "rate", r->rate, 3);
	json_u64(j, "in_flight", r->in_flight);
	json_object_begin(j, "latency");
	json_u64(j, "mean", mean);
	write_quantiles(j, &r->latency);
	json_u64(j, "max", r->latency.max_ns);
	json_object_end(j);
	write_ledger(j, r->ledger_ns, r->count, mean);
	json_object_begin(j, "statuses");
	for (size_t i = 0; i < r->status_count; i++) {
		snprintf(status, sizeof(status), "%u", r->statuses[i].status);
		json_u64(j, status, r->statuses[i].count);
	}
	json_object_end(j);
	json_object_end(j);
}

static void write_marks(struct json *j, const struct routes_result *result)
{
	json_array_begin(j, "marks");
	for (size_t i = 0; i < result->mark_count; i++) {
		json_object_begin(j, NULL);
		json_seconds(j, "time", result->marks[i].unix_ns);
		json_text(j, "service", result->marks[i].service);
		write_id(j, "process", result->marks[i].process);
		json_text(j, "name", result->marks[i].name);
		json_object_end(j);
	}
	json_array_end(j);
}

static int write_routes(struct json *j, struct store *store, const struct selection *sel)
{
	static const unsigned shown[] = { STATE_CPU, STATE_IO, STATE_LOCK, STATE_SLEEP };
	struct routes_result result;
	int err = query_routes(store, sel, &result);

	if (err)
		return err;
	json_array_begin(j, "routes");
	for (size_t i = 0; i < result.count; i++)
		write_route(j, &result.routes[i]);
	json_array_end(j);
	json_object_begin(j, "background");
	for (size_t i = 0; i < sizeof(shown) / sizeof(shown[0]); i++)
		json_u64(j, state_names[shown[i]], result.background_ns[shown[i]]);
	json_object_end(j);
	write_marks(j, &result);
	routes_result_free(&result);
	return 0;
}

static void answer_routes(const struct api_request *request, const struct question *q,
			  struct api_reply *reply)
{
	struct json j = { 0 };
	int err;

	json_object_begin(&j, NULL);
	write_range(&j, &q->sel);
	err = write_routes(&j, request->store, &q->sel);
	json_object_end(&j);
	reply_json(reply, &j);
	if (err)
		query_failed(reply, err);
}

/* ---- /latency ---- */

static void write_buckets(struct json *j, const struct hist *h)
{
	json_array_begin(j, "buckets");
	for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
		if (!h->bucket[i])
			continue;
		json_object_begin(j, NULL);
		json_u64(j, "index", i);
		json_u64(j, "lower", i ? (uint64_t)hist_upper_ns(i - 1) : 0);
		json_u64(j, "upper", (uint64_t)hist_upper_ns(i));
		json_u64(j, "count", h->bucket[i]);
		json_object_end(j);
	}
	json_array_end(j);
}

static void write_heat(struct json *j, const struct latency_result *r, uint64_t from_unix_ns)
{
	json_array_begin(j, "times");
	for (size_t t = 0; t < r->steps; t++)
		json_seconds(j, NULL, from_unix_ns + t * r->step_ns);
	json_array_end(j);
	json_array_begin(j, "heat");
	for (size_t t = 0; t < r->steps; t++) {
		for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
			if (!r->heat[t][i])
				continue;
			json_array_begin(j, NULL);
			json_u64(j, NULL, t);
			json_u64(j, NULL, i);
			json_u64(j, NULL, r->heat[t][i]);
			json_array_end(j);
		}
	}
	json_array_end(j);
}

static void answer_latency(const struct api_request *request, const struct question *q,
			   struct api_reply *reply)
{
	struct latency_result *r = malloc(sizeof(*r)); /* 11 KiB */
	struct json j = { 0 };
	int err = r ? query_latency(request->store, &q->sel, q->what, q->step_ns, r) : -ENOMEM;

	if (err) {
		query_failed(reply, err);
		free(r);
		return;
	}
	json_object_begin(&j, NULL);
	write_range(&j, &q->sel);
	json_text(&j, "route", q->sel.route);
	json_text(&j, "what", q->what == QUERY_WHAT_LATENCY ? "latency" : state_names[q->what]);
	json_u64(&j, "scale", HIST_SCALE);
	json_u64(&j, "count", r->hist.count);
	json_u64(&j, "sum", r->hist.sum_ns);
	json_u64(&j, "max", r->hist.max_ns);
	json_object_begin(&j, "percentiles");
	write_quantiles(&j, &r->hist);
	json_object_end(&j);
	write_buckets(&j, &r->hist);
	if (q->step_ns)
		write_heat(&j, r, q->sel.from_unix_ns);
	json_object_end(&j);
	reply_json(reply, &j);
	latency_result_free(r);
	free(r);
}

/* ---- /flame ---- */

enum function_column {
	F_NAME,
	F_MODULE,
	F_FILE,
	F_LINE,
	F_INLINED,
	F_COLUMNS
};

static void write_functions(struct json *j, const struct flame *f)
{
	static const char *const names[F_COLUMNS] = { "name", "module", "file", "line", "inlined" };

	json_object_begin(j, "functions");
	for (int column = 0; column < F_COLUMNS; column++) {
		json_array_begin(j, names[column]);
		for (uint32_t i = 0; i < f->function_count; i++) {
			const struct flame_function *fn = &f->functions[i];

			if (column == F_LINE)
				json_u64(j, NULL, fn->line);
			else if (column == F_INLINED)
				json_u64(j, NULL, fn->inlined);
			else
				json_text(j, NULL,
					  column == F_NAME     ? fn->name
					  : column == F_MODULE ? fn->module
							       : fn->file);
		}
		json_array_end(j);
	}
	json_object_end(j);
}

static void write_nodes(struct json *j, const struct flame *f, uint32_t states)
{
	json_object_begin(j, "nodes");
	json_array_begin(j, "function");
	for (uint32_t i = 0; i < f->node_count; i++)
		json_u64(j, NULL, f->nodes[i].function);
	json_array_end(j);
	json_array_begin(j, "depth");
	for (uint32_t i = 0; i < f->node_count; i++)
		json_u64(j, NULL, f->nodes[i].depth);
	json_array_end(j);
	json_object_begin(j, "self");
	for (unsigned s = 0; s < STATE_COUNT; s++) {
		if (!(states & 1u << s))
			continue;
		json_array_begin(j, state_names[s]);
		for (uint32_t i = 0; i < f->node_count; i++)
			json_u64(j, NULL, f->nodes[i].self_ns[s]);
		json_array_end(j);
	}
	json_object_end(j);
	json_object_end(j);
}

static void write_columns(struct json *j, const struct flame *f, uint32_t states)
{
	json_u64(j, "requests", f->requests);
	json_u64(j, "samples", f->samples);
	json_object_begin(j, "total");
	for (unsigned s = 0; s < STATE_COUNT; s++) {
		if (states & 1u << s)
			json_u64(j, state_names[s], f->total_ns[s]);
	}
	json_object_end(j);
	write_functions(j, f);
	write_nodes(j, f, states);
}

/* Pre-order with depths: a node's subtree ends where the depth does not grow. */
static void write_nested(struct json *j, const struct flame *f)
{
	uint32_t open = 0;

	for (uint32_t i = 0; i < f->node_count; i++) {
		const struct flame_node *n = &f->nodes[i];
		bool leaf = i + 1 == f->node_count || f->nodes[i + 1].depth <= n->depth;

		for (; open > n->depth; open--) {
			json_array_end(j);
			json_object_end(j);
		}
		json_object_begin(j, i ? NULL : "flame");
		json_text(j, "name", f->functions[n->function].name);
		json_u64(j, "value", n->total_ns);
		if (leaf) {
			json_object_end(j);
		} else {
			json_array_begin(j, "children");
			open++;
		}
	}
	for (; open > 0; open--) {
		json_array_end(j);
		json_object_end(j);
	}
}

static void answer_flame(const struct api_request *request, const struct question *q,
			 struct api_reply *reply)
{
	const char *format = q->format ? q->format : "columns";
	bool nested = strcmp(format, "json") == 0, lines = strcmp(format, "lines") == 0;
	struct json j = { 0 };
	struct flame *flame;
	int err;

	if (!nested && !lines && strcmp(format, "columns") != 0) {
		api_error(reply, 400,
			  "bad value '%.64s' of parameter 'format': give columns, lines or json",
			  format);
		return;
	}
	err = query_flame(request->store, &q->sel, &flame);
	if (!err && !lines) {
		struct flame *merged = flame_without_lines(flame);

		flame_destroy(flame);
		flame = merged;
		err = merged ? 0 : -ENOMEM;
	}
	if (err) {
		query_failed(reply, err);
		return;
	}
	json_object_begin(&j, NULL);
	write_range(&j, &q->sel);
	json_text(&j, "route", q->sel.route);
	if (nested)
		write_nested(&j, flame);
	else
		write_columns(&j, flame, q->sel.states);
	json_object_end(&j);
	flame_destroy(flame);
	reply_json(reply, &j);
}

/* ---- /profile ---- */

/* "sonde-shop-get-fib-n.pb.gz": only what is safe in a header and a file system. */
static void name_file(const struct selection *sel, const char *suffix, char *out, size_t out_bytes)
{
	const char *parts[] = { "sonde", sel->service, sel->route };
	size_t len = 0, max = out_bytes - 1 - strlen(suffix);
	bool dash = false;

	for (size_t i = 0; i < 3; i++) {
		dash = len > 0;
		for (const char *c = parts[i] ? parts[i] : ""; *c && len + 2 < max; c++) {
			if (!isalnum((unsigned char)*c)) {
				dash = true;
				continue;
			}
			if (dash && len)
				out[len++] = '-';
			dash = false;
			out[len++] = (char)tolower((unsigned char)*c);
		}
	}
	snprintf(out + len, out_bytes - len, "%s", suffix);
}

static void answer_profile(const struct api_request *request, const struct question *q,
			   struct api_reply *reply)
{
	const struct export_format *format = q->format ? export_find(q->format) : NULL;
	char *bytes = NULL;
	size_t len = 0;
	int err;

	if (!format) {
		api_error(reply, 400, "%s 'format': give one of %s",
			  q->format ? "bad value of parameter" : "missing parameter",
			  export_names());
		return;
	}
	err = format->write(request->store, &q->sel, &bytes, &len);
	if (err) {
		free(bytes);
		query_failed(reply, err);
		return;
	}
	reply->status = 200;
	reply->content_type = format->content_type;
	name_file(&q->sel, format->suffix, reply->file_name, sizeof(reply->file_name));
	reply->body = (struct buffer){ .bytes = bytes, .len = len, .cap = len };
}

/* ---- /metrics and /live ---- */

static void answer_metrics(const struct api_request *request, const struct question *q,
			   struct api_reply *reply)
{
	int err = metrics_write(request->store, &reply->body);

	(void)q;
	reply->status = 200;
	reply->content_type = "text/plain; version=0.0.4; charset=utf-8";
	if (err)
		query_failed(reply, err);
}

int api_live_parameters(const struct api_request *request, const char **service,
			struct api_reply *reply)
{
	struct question q;
	int err = take_parameters(request, P_SERVICE, &q, reply);

	*service = q.sel.service;
	return err;
}

int api_live_tick(struct store *store, const char *service, uint64_t now_unix_ns,
		  struct buffer *out)
{
	struct selection sel = {
		.service = service,
		.from_unix_ns = now_unix_ns - 10 * second,
		.to_unix_ns = now_unix_ns,
		.states = STATES_ALL,
		.latency_max_ns = UINT64_MAX,
	};
	struct selection longer = sel;
	struct json j = { .out = *out };
	int err;

	longer.from_unix_ns = now_unix_ns - 60 * second;
	json_object_begin(&j, NULL);
	json_seconds(&j, "time", now_unix_ns);
	err = write_processes(&j, store, &longer);
	if (!err)
		err = write_routes(&j, store, &sel);
	json_object_end(&j);
	*out = j.out;
	return err ? err : j.out.failed ? -ENOMEM : 0;
}

/* ---- All of them ---- */

static const struct endpoint endpoints[] = {
	{ "/api/v1/processes", P_COMMON, answer_processes },
	{ "/api/v1/routes", P_COMMON, answer_routes },
	{ "/api/v1/latency", P_COMMON | P_WHAT | P_STEP, answer_latency },
	{ "/api/v1/flame", P_FLAME, answer_flame },
	{ "/api/v1/profile", P_FLAME, answer_profile },
	{ "/metrics", 0, answer_metrics },
};

bool api_heavy(const char *path)
{
	return strcmp(path, "/api/v1/flame") == 0 || strcmp(path, "/api/v1/profile") == 0;
}

void api_answer(const struct api_request *request, struct api_reply *reply)
{
	struct question q;

	*reply = (struct api_reply){ .status = 404 };
	for (size_t i = 0; i < sizeof(endpoints) / sizeof(endpoints[0]); i++) {
		if (strcmp(endpoints[i].path, request->path) != 0)
			continue;
		if (take_parameters(request, endpoints[i].allowed, &q, reply) == 0)
			endpoints[i].answer(request, &q, reply);
		if (reply->body.failed)
			query_failed(reply, -ENOMEM);
		return;
	}
	api_error(reply, 404,
		  "nothing at %.100s: the API is /api/v1/{processes,routes,latency,flame,"
		  "profile,live} and /metrics",
		  request->path);
}
