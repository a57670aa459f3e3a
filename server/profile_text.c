/* SPDX-License-Identifier: MIT
 *
 * Reads folded stacks and the offline HTML report: see profile.h.
 *
 * Folded, as we write it: `route;[state];main;f 1234`, microseconds, the root first. Anything else in that form is read as
 * stacks without a route or a state. Lines that begin with # are comments.
 */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/profile_build.h"

/* The number that ends a line, in ns; *@length is cut back to the stack before it. */
static int folded_value(const char *line, size_t *length, uint64_t *ns)
{
	size_t at = *length;
	uint64_t value = 0;

	while (at > 0 && line[at - 1] >= '0' && line[at - 1] <= '9')
		at--;
	if (at == *length || at == 0 || line[at - 1] != ' ')
		return -EINVAL;
	for (size_t i = at; i < *length; i++)
		value = value > INT64_MAX / 16 ? INT64_MAX / 16
					       : 10 * value + (uint64_t)(line[i] - '0');
	while (at > 0 && line[at - 1] == ' ')
		at--;
	*length = at;
	*ns = value > INT64_MAX / 1000 ? INT64_MAX : 1000 * value;
	return 0;
}

/* Whether @line is `route;[state];...` or `route;[state]`; then *@route is the route's length, *@rest where frames begin. */
static bool folded_is_ours(const char *line, size_t length, size_t *route, unsigned *state,
			   size_t *rest)
{
	const char *semicolon = memchr(line, ';', length);
	size_t begin, end;
	int found;

	if (!semicolon)
		return false;
	begin = (size_t)(semicolon - line) + 1;
	semicolon = memchr(line + begin, ';', length - begin);
	end = semicolon ? (size_t)(semicolon - line) : length;
	if (end < begin + 2 || line[begin] != '[' || line[end - 1] != ']')
		return false;
	found = profile_state(line + begin + 1, end - begin - 2);
	if (found < 0)
		return false;
	*route = begin - 1;
	*state = (unsigned)found;
	*rest = end < length ? end + 1 : length;
	return true;
}

static int folded_line(struct profile_reader *r, const char *line, size_t length, size_t number)
{
	size_t route_length = 0, rest = 0;
	unsigned state = STATE_OTHER;
	uint64_t ns;
	int64_t route;

	if (folded_value(line, &length, &ns) < 0)
		return profile_fail(
			r, -EINVAL,
			"it is no profile: line %zu does not end in a space and a number", number);
	if (folded_is_ours(line, length, &route_length, &state, &rest))
		r->profile->has_states = true;
	if (!profile_wants_route(r, line, route_length) || !profile_wants_state(r, state))
		return 0;
	route = profile_route(r, line, route_length);
	if (route < 0)
		return (int)route;
	profile_stack_begin(r);
	while (length > rest) {
		const char *semicolon = memrchr(line + rest, ';', length - rest);
		size_t begin = semicolon ? (size_t)(semicolon - line) + 1 : rest;
		int64_t function = profile_function(r, line + begin, length - begin);
		int status =
			function < 0 ? (int)function : profile_stack_push(r, (uint32_t)function);

		if (status < 0)
			return status;
		length = semicolon ? begin - 1 : rest;
	}
	return profile_stack_count(r, (uint32_t)route, state, ns);
}

int profile_read_folded(struct profile_reader *r, const char *text, size_t size)
{
	size_t number = 1;

	for (const char *line = text, *end = text + size, *next; line < end;
	     line = next, number++) {
		const char *newline = memchr(line, '\n', (size_t)(end - line));
		size_t length = (size_t)((newline ? newline : end) - line);
		int status = 0;

		next = newline ? newline + 1 : end;
		if (length > 0 && line[length - 1] == '\r')
			length--;
		if (length > 2 && line[0] == '#')
			status = profile_comment(r, line + 2, length - 2);
		else if (length > 0 && line[0] != '#')
			status = folded_line(r, line, length, number);
		if (status < 0)
			return status;
	}
	return 0;
}

/* A number of JSON that should be ns or a count. */
static uint64_t html_number(const json_t *value)
{
	double number = json_number_value(value);

	if (json_is_integer(value))
		return json_integer_value(value) < 0 ? 0 : (uint64_t)json_integer_value(value);
	return !(number > 0) ? 0 : number >= 9e18 ? INT64_MAX : (uint64_t)llround(number);
}

/* The frames of one tree: which function each depth shows at the moment. */
struct html_path {
	uint32_t *functions;
	size_t depth, capacity;
};

static int html_path_set(struct profile_reader *r, struct html_path *path, uint64_t depth,
			 uint32_t function)
{
	if (depth > path->depth || depth >= PROFILE_DEPTH_MAX)
		return profile_fail(r, -EINVAL, "its call tree is damaged");
	if (depth >= path->capacity) {
		size_t capacity = 2 * (size_t)depth + 64;
		uint32_t *larger = reallocarray(path->functions, capacity, sizeof(*larger));

		if (!larger)
			return profile_fail(r, -ENOMEM, "out of memory");
		path->functions = larger;
		path->capacity = capacity;
	}
	path->functions[depth] = function;
	path->depth = (size_t)depth + 1;
	return 0;
}

/* Count what node @node itself spent, in each state. The root frame, "all", is none of the program's functions. */
static int html_node(struct profile_reader *r, uint32_t route, const struct html_path *path,
		     json_t *const self[STATE_COUNT], size_t node)
{
	for (unsigned s = 0; s < STATE_COUNT; s++) {
		uint64_t ns = html_number(json_array_get(self[s], node));
		int status = 0;

		if (ns == 0 || !profile_wants_state(r, s))
			continue;
		profile_stack_begin(r);
		for (size_t d = path->depth; status == 0 && d > 1; d--)
			status = profile_stack_push(r, path->functions[d - 1]);
		if (status == 0)
			status = profile_stack_count(r, route, s, ns);
		if (status < 0)
			return status;
	}
	return 0;
}

static int html_tree(struct profile_reader *r, uint32_t route, const json_t *nodes,
		     const uint32_t *functions, size_t function_count)
{
	const json_t *function = json_object_get(nodes, "function"),
		     *depth = json_object_get(nodes, "depth");
	const json_t *selves = json_object_get(nodes, "self");
	json_t *self[STATE_COUNT];
	struct html_path path = { 0 };
	int status = 0;

	for (unsigned s = 0; s < STATE_COUNT; s++)
		self[s] = json_object_get(selves, state_names[s]);
	if (json_array_size(function) != json_array_size(depth))
		return profile_fail(r, -EINVAL, "its call tree is damaged");
	for (size_t i = 0; status == 0 && i < json_array_size(function); i++) {
		uint64_t f = html_number(json_array_get(function, i));

		if (f >= function_count) {
			status = profile_fail(r, -EINVAL, "its call tree is damaged");
			break;
		}
		status = html_path_set(r, &path, html_number(json_array_get(depth, i)),
				       functions[f]);
		if (status == 0)
			status = html_node(r, route, &path, self, i);
	}
	free(path.functions);
	return status;
}

static int html_flame(struct profile_reader *r, const char *name, const json_t *flame)
{
	const json_t *names = json_object_get(json_object_get(flame, "functions"), "name");
	size_t count = json_array_size(names);
	uint32_t *functions = calloc(count + 1, sizeof(*functions));
	int64_t route = profile_route(r, name, strlen(name));
	int status = route < 0 ? (int)route : 0;

	if (!functions)
		return profile_fail(r, -ENOMEM, "out of memory");
	for (size_t i = 0; status == 0 && i < count; i++) {
		const char *function = json_string_value(json_array_get(names, i));
		int64_t id = profile_function(r, function ? function : "?",
					      function ? strlen(function) : 1);

		if (id < 0)
			status = (int)id;
		else
			functions[i] = (uint32_t)id;
	}
	if (status == 0)
		status = html_tree(r, (uint32_t)route, json_object_get(flame, "nodes"), functions,
				   count);
	if (status == 0 && r->profile->routes[route].requests == 0)
		r->profile->routes[route].requests =
			profile_sum(0, html_number(json_object_get(flame, "requests")));
	free(functions);
	return status;
}

/* Whether the report shows @route under @service. */
static bool html_has_service(const json_t *report, const char *route, const char *service)
{
	json_t *rows = json_object_get(json_object_get(report, "routes"), "routes"), *row;
	size_t i;

	json_array_foreach(rows, i, row)
	{
		const char *of = json_string_value(json_object_get(row, "service"));
		const char *name = json_string_value(json_object_get(row, "route"));

		if (of && name && strcmp(of, service) == 0 && strcmp(name, route) == 0)
			return true;
	}
	return false;
}

static int html_report(struct profile_reader *r, json_t *report)
{
	const char *service = r->filter ? r->filter->service : NULL, *name;
	json_t *routes = json_object_get(report, "routes"), *flame;
	double from = json_number_value(json_object_get(routes, "from"));
	double to = json_number_value(json_object_get(routes, "to"));

	if (!json_is_object(json_object_get(report, "flames")))
		return profile_fail(r, -EINVAL, "it is an HTML page, but no report of sonde");
	r->profile->has_requests = r->profile->has_states = true;
	if (to > from && to - from < 9e9)
		r->profile->duration_ns = (uint64_t)llround((to - from) * 1e9);
	json_object_foreach(json_object_get(report, "flames"), name, flame)
	{
		int status = 0;

		/* All routes: without the work outside requests, as everywhere, unless there is nothing else. */
		if (!*name && !(r->filter && r->filter->route) &&
		    json_object_size(json_object_get(report, "flames")) > 1)
			continue;
		if (profile_wants_route(r, name, strlen(name)) &&
		    (!service || html_has_service(report, name, service)))
			status = html_flame(r, name, flame);
		if (status < 0)
			return status;
	}
	return 0;
}

int profile_read_html(struct profile_reader *r, const char *text, size_t size)
{
	static const char mark[] = "id=\"sonde-data\"", close[] = "</script";
	const char *at = memmem(text, size, mark, sizeof(mark) - 1), *end = text + size, *stop;
	json_t *report;
	int status;

	if (at)
		at = memchr(at, '>', (size_t)(end - at));
	stop = at ? memmem(at, (size_t)(end - at), close, sizeof(close) - 1) : NULL;
	if (!stop)
		return profile_fail(r, -EINVAL, "it is an HTML page, but no report of sonde");
	report = json_loadb(at + 1, (size_t)(stop - at) - 1, 0, NULL);
	if (!report)
		return profile_fail(r, -EINVAL, "the data in the report are damaged");
	status = html_report(r, report);
	json_decref(report);
	return status;
}
