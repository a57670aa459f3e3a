/* SPDX-License-Identifier: MIT
 *
 * The offline report: the viewer's template with the data inside, in the place of one `null`. The data are the API's own
 * answers, asked for through api_answer(), so the report shows what the page would, and there is one writer of each.
 *
 *	{"report": 1, "generated": unix seconds, "version", "selection": {service, route, from, to}, "omitted": 0,
 *	 "processes": GET /processes, "routes": GET /routes,
 *	 "latency": {route: GET /latency, ...}, "flames": {route: GET /flame, ...}}
 *
 * The route "" is work outside any request. "omitted": routes that have a row but no details, because of the caps below;
 * those with most time come first. Nothing in the data can end the script element that holds them: no '<' is left.
 * Context: server, any thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/api.h"
#include "server/assets.h"
#include "server/export.h"

enum {
	HTML_ROUTES_MAX = 500,
	HTML_BYTES_MAX = 64 << 20, /* of data; a browser opens that in seconds */
	TIME_TEXT_BYTES = 32,
};

struct report {
	struct store *store;
	const struct selection *sel;
	uint64_t now_unix_ns;
	struct buffer data;
	char from[TIME_TEXT_BYTES], to[TIME_TEXT_BYTES];
	int err; /* the first failure */
};

static void put_string(struct report *r, const char *text)
{
	struct json j = { .out = r->data };

	json_text(&j, NULL, text);
	r->data = j.out;
}

static void ask_for(struct api_request *request, const char *name, const char *value)
{
	if (value && request->parameter_count < API_PARAMETERS_MAX)
		request->parameters[request->parameter_count++] =
			(struct api_parameter){ name, value };
}

/* Which states, as the API takes them. */
static void states_text(uint32_t states, char text[64])
{
	*text = '\0';
	for (unsigned s = 0; s < STATE_COUNT; s++)
		if (states & 1u << s) {
			strcat(text, *text ? "," : "");
			strcat(text, state_names[s]);
		}
}

/* Add the API's answer at @path for @route (NULL: as selected). */
static void put_answer(struct report *r, const char *path, const char *route)
{
	struct api_request request = { .store = r->store,
				       .path = path,
				       .now_unix_ns = r->now_unix_ns };
	char states[64], least[TIME_TEXT_BYTES], most[TIME_TEXT_BYTES];
	struct api_reply reply;

	if (r->err)
		return;
	ask_for(&request, "from", r->from);
	ask_for(&request, "to", r->to);
	ask_for(&request, "service", r->sel->service);
	ask_for(&request, "process", r->sel->process);
	ask_for(&request, "route", route ? route : r->sel->route);
	if (strcmp(path, "/api/v1/flame") == 0) {
		states_text(r->sel->states, states);
		snprintf(least, sizeof(least), "%llu", (unsigned long long)r->sel->latency_min_ns);
		snprintf(most, sizeof(most), "%llu", (unsigned long long)r->sel->latency_max_ns);
		ask_for(&request, "format", "lines");
		ask_for(&request, "state", *states ? states : NULL);
		ask_for(&request, "latency_min", least);
		ask_for(&request, "latency_max", most);
		ask_for(&request, "thread", r->sel->thread);
	}
	api_answer(&request, &reply);
	if (reply.status == 200)
		buffer_add(&r->data, reply.body.bytes, reply.body.len);
	else
		r->err = reply.status == 400 ? -E2BIG : reply.status == 503 ? -ECANCELED : -EIO;
	buffer_fini(&reply.body);
}

/* One route of "latency" or "flames". */
static void put_route(struct report *r, const char *path, const char *route, bool first)
{
	buffer_text(&r->data, first ? "" : ",");
	put_string(r, route);
	buffer_text(&r->data, ":");
	put_answer(r, path, route);
}

/* The names of the routes to show: those of @routes, each once though services share it, and the work outside. */
static size_t list_routes(const struct routes_result *routes, const struct selection *sel,
			  const char *names[HTML_ROUTES_MAX], size_t *omitted)
{
	size_t count = 0;

	*omitted = 0;
	if (!sel->route || !*sel->route)
		names[count++] = "";
	for (size_t i = 0; i < routes->count; i++) {
		bool known = false;

		for (size_t k = 0; k < count && !known; k++)
			known = strcmp(names[k], routes->routes[i].route) == 0;
		if (known)
			continue;
		if (count < HTML_ROUTES_MAX)
			names[count++] = routes->routes[i].route;
		else
			++*omitted;
	}
	return count;
}

static void put_routes(struct report *r)
{
	const char *names[HTML_ROUTES_MAX];
	struct routes_result routes = { 0 };
	size_t count, omitted, shown = 0;

	if (r->err)
		return;
	r->err = query_routes(r->store, r->sel, &routes);
	if (r->err)
		return;
	count = list_routes(&routes, r->sel, names, &omitted);
	buffer_text(&r->data, ",\"flames\":{");
	for (; shown < count && !r->err && r->data.len < HTML_BYTES_MAX; shown++)
		put_route(r, "/api/v1/flame", names[shown], shown == 0);
	buffer_text(&r->data, "},\"latency\":{");
	for (size_t i = 0; i < shown && !r->err; i++)
		put_route(r, "/api/v1/latency", names[i], i == 0);
	buffer_print(&r->data, "},\"omitted\":%zu", omitted + count - shown);
	routes_result_free(&routes);
}

static void put_selection(struct report *r)
{
	const struct selection *sel = r->sel;

	buffer_text(&r->data, ",\"selection\":{\"service\":");
	put_string(r, sel->service);
	buffer_text(&r->data, ",\"route\":");
	put_string(r, sel->route);
	buffer_print(&r->data, ",\"from\":%s,\"to\":%s}", r->from, r->to);
}

static void time_text(uint64_t unix_ns, char text[TIME_TEXT_BYTES])
{
	snprintf(text, TIME_TEXT_BYTES, "%llu.%09llu", (unsigned long long)(unix_ns / 1000000000u),
		 (unsigned long long)(unix_ns % 1000000000u));
}

/* Everything, as JSON. */
static void put_report(struct report *r)
{
	time_text(r->sel->from_unix_ns, r->from);
	time_text(r->sel->to_unix_ns, r->to);
	buffer_print(&r->data, "{\"report\":1,\"generated\":%llu,\"version\":\"%s\"",
		     (unsigned long long)(r->now_unix_ns / 1000000000u), SONDE_VERSION);
	put_selection(r);
	buffer_text(&r->data, ",\"processes\":");
	put_answer(r, "/api/v1/processes", NULL);
	buffer_text(&r->data, ",\"routes\":");
	put_answer(r, "/api/v1/routes", NULL);
	put_routes(r);
	buffer_text(&r->data, "}");
	if (!r->err && r->data.failed)
		r->err = -ENOMEM;
}

int export_html_fill(const char *template, size_t template_bytes, const struct buffer *data,
		     struct buffer *out)
{
	static const char place[] = "<script type=\"application/json\" id=\"sonde-data\">";
	const char *at = memmem(template, template_bytes, place, sizeof(place) - 1);
	const char *end = template + template_bytes;

	if (!at || end - (at += sizeof(place) - 1) < 4 || memcmp(at, "null", 4) != 0)
		return -EINVAL; /* the build made a wrong template */
	buffer_add(out, template, (size_t)(at - template));
	for (size_t i = 0; i < data->len;) {
		const char *bracket = memchr(data->bytes + i, '<', data->len - i);
		size_t length = bracket ? (size_t)(bracket - data->bytes) - i : data->len - i;

		buffer_add(out, data->bytes + i, length);
		if (bracket) /* only ever inside a string */
			buffer_text(out, "\\u003c");
		i += length + !!bracket;
	}
	buffer_add(out, at + 4, (size_t)(end - at) - 4);
	return out->failed ? -ENOMEM : 0;
}

static int write_html(struct store *store, const struct selection *sel, char **bytes, size_t *len)
{
	struct report report = { .store = store, .sel = sel };
	struct buffer out = { 0 };
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	report.now_unix_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	put_report(&report);
	if (!report.err)
		report.err = export_html_fill(assets_report_html, assets_report_html_bytes,
					      &report.data, &out);
	buffer_fini(&report.data);
	if (report.err) {
		buffer_fini(&out);
		return report.err;
	}
	*bytes = out.bytes;
	*len = out.len;
	return 0;
}

const struct export_format export_html = {
	.name = "html",
	.content_type = "text/html; charset=utf-8",
	.suffix = ".html",
	.write = write_html,
};
