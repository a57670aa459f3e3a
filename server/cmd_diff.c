/* SPDX-License-Identifier: MIT
 *
 * `sonde diff A B`: what changed between two profiles, by route and by function.
 */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/client.h"
#include "server/cmd.h"
#include "server/diff.h"
#include "server/options.h"
#include "server/profile.h"
#include "server/units.h"

enum {
	DIFF_LIMIT_DEFAULT = 20,
	DIFF_NAME_COLUMNS = 100
};

/* One side: a file, or a selection of the running collector. */
struct side {
	const char *source; /* as given */
	bool live;
	char from[64], to[64]; /* of live:FROM..TO, "" where --from and --to hold */
	struct profile *profile;
};

struct diff_command {
	struct options selection;
	struct side sides[2];
	unsigned given;
	size_t limit; /* SIZE_MAX: all */
	bool limited, json, color;
};

static const struct argp_option diff_options[] = {
	{ "limit", 'n', "N", 0, "Show at most N routes and N functions, 0 for all (default 20)",
	  0 },
	{ "json", 'j', NULL, 0, "JSON for programs; all rows unless --limit is given", 0 },
	{ 0 },
};

/* "live", "live:FROM..TO" with either end left out, or a file. Returns whether it is well formed. */
static bool diff_parse_side(struct side *side, const char *text)
{
	const char *from, *dots;

	side->source = text;
	side->live = strcmp(text, "live") == 0 || strncmp(text, "live:", 5) == 0;
	if (!side->live || text[4] == '\0')
		return true;
	from = text + 5;
	dots = strstr(from, "..");
	if (!dots || (size_t)(dots - from) >= sizeof(side->from) ||
	    strlen(dots + 2) >= sizeof(side->to))
		return false;
	memcpy(side->from, from, (size_t)(dots - from));
	strcpy(side->to, dots + 2);
	return (!side->from[0] || options_is_time(side->from)) &&
	       (!side->to[0] || options_is_time(side->to));
}

static void diff_parse_end(const struct diff_command *d, struct argp_state *state)
{
	const struct options *o = &d->selection;

	if (d->given < 2)
		argp_error(state,
			   "two profiles are needed: files, or `live` for the running collector");
	else if (!d->sides[0].live && !d->sides[1].live &&
		 (o->from || o->to || o->process || o->has_latency_min || o->has_latency_max))
		argp_error(state, "--from, --to, --process and --latency-... need a side that is "
				  "live; files are what they are");
}

static error_t diff_parse(int key, char *arg, struct argp_state *state)
{
	struct diff_command *d = state->input;
	unsigned long limit;
	char *end;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &d->selection;
		break;
	case 'n':
		errno = 0;
		limit = strtoul(arg, &end, 10);
		if (*arg < '0' || *arg > '9' || *end || errno)
			argp_error(state, "--limit=%s is no number", arg);
		d->limit = limit ? limit : SIZE_MAX;
		d->limited = true;
		break;
	case 'j':
		d->json = true;
		break;
	case ARGP_KEY_ARG:
		if (d->given == 2)
			argp_error(state, "only two profiles can be compared");
		else if (!diff_parse_side(&d->sides[d->given++], arg))
			argp_error(state, "%s: write live:FROM..TO, such as live:-10m..-5m", arg);
		break;
	case ARGP_KEY_END:
		diff_parse_end(d, state);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static int diff_fetch(const struct diff_command *d, struct side *side)
{
	struct options selection = d->selection;
	struct client client = { .address = selection.http };
	char *query, *body = NULL, error[PROFILE_ERROR_MAX];
	size_t size = 0;
	int status;

	if (side->from[0])
		selection.from = side->from;
	if (side->to[0])
		selection.to = side->to;
	query = options_query(&selection, "format=pprof");
	if (!query) {
		fprintf(stderr, "sonde diff: out of memory\n");
		return -ENOMEM;
	}
	status = client_get(&client, "/api/v1/profile", query, &body, &size);
	free(query);
	if (status < 0) {
		fprintf(stderr, "sonde diff: %s\n", client.error);
		return status;
	}
	status = profile_read(body, size, NULL, &side->profile, error);
	if (status < 0)
		fprintf(stderr, "sonde diff: %s: the collector's answer is no profile: %s\n",
			side->source, error);
	free(body);
	return status;
}

static int diff_load(const struct diff_command *d, struct side *side)
{
	const struct profile_filter filter = { .route = d->selection.route,
					       .service = d->selection.service,
					       .states = d->selection.state_mask };
	char error[PROFILE_ERROR_MAX];
	int status;

	if (side->live)
		return diff_fetch(d, side);
	status = profile_read_file(side->source, &filter, &side->profile, error);
	if (status < 0)
		fprintf(stderr, "sonde diff: %s: %s\n", side->source, error);
	return status;
}

/* ---- As a table ---- */

static const char *diff_paint(const struct diff_command *d, int64_t change)
{
	return !d->color || change == 0 ? "" : change > 0 ? "\033[38;5;209m" : "\033[38;5;74m";
}

static const char *diff_plain(const struct diff_command *d)
{
	return d->color ? "\033[0m" : "";
}

/* Print @text right-aligned: printf counts bytes, of which µ has two. */
static void diff_right(size_t columns, const char *text)
{
	size_t width = units_width(text);

	printf("%*s%s", width < columns ? (int)(columns - width) : 0, "", text);
}

static const char *diff_share(struct diff_pair pair, struct units *u)
{
	if (pair.a == 0)
		return pair.b ? "new" : "";
	if (pair.b == 0)
		return "gone";
	*u = units_percent_signed((double)diff_change(pair) / (double)pair.a);
	return u->text;
}

/* CHANGE, percent, BEFORE, AFTER. */
static void diff_print_pair(const struct diff_command *d, struct diff_pair pair)
{
	struct units u = { .text = "" };

	if (pair.a == 0 && pair.b == 0) {
		printf("%10s%8s%10s%10s", "-", "", "-", "-");
		return;
	}
	fputs(diff_paint(d, diff_change(pair)), stdout);
	diff_right(10, units_ns_signed(diff_change(pair)).text);
	diff_right(8, diff_share(pair, &u));
	fputs(diff_plain(d), stdout);
	diff_right(10, units_ns(pair.a).text);
	diff_right(10, units_ns(pair.b).text);
}

static void diff_print_name(const char *name)
{
	char text[4 * DIFF_NAME_COLUMNS + 1];

	units_text(text, sizeof(text), *name ? name : "(no route)", DIFF_NAME_COLUMNS, false);
	fputs(text, stdout);
}

/* The state that changed most, when it explains at least a tenth of the change. */
static void diff_print_mostly(const struct diff_route *row)
{
	unsigned most = 0;
	char text[UNITS_MAX + 16] = "";

	for (unsigned s = 1; s < STATE_COUNT; s++)
		if (llabs(diff_change(row->states[s])) > llabs(diff_change(row->states[most])))
			most = s;
	if (diff_change(row->states[most]) != 0)
		snprintf(text, sizeof(text), "%s %s", state_names[most],
			 units_ns_signed(diff_change(row->states[most])).text);
	printf("  %s%*s", text, (int)(15 - units_width(text) % 16), "");
}

static const char *diff_time(const struct diff *diff)
{
	return diff->worst == DIFF_PER_REQUEST  ? "time per request"
	       : diff->worst == DIFF_PER_SECOND ? "time per second"
						: "total time";
}

static void diff_print_routes(const struct diff_command *d, const struct diff *diff, bool states)
{
	size_t shown = diff->route_count < d->limit ? diff->route_count : d->limit;

	printf("\nRoutes, %s, largest change first\n\n", diff_time(diff));
	printf("%10s%8s%10s%10s%19s  %s%s\n", "CHANGE", "", "BEFORE", "AFTER", "REQUESTS",
	       states ? "MOSTLY         " : "", "ROUTE");
	for (size_t i = 0; i < shown; i++) {
		const struct diff_route *row = &diff->routes[i];
		char requests[2 * UNITS_MAX + 8] = "-";

		diff_print_pair(d, row->total);
		if (row->requests.a || row->requests.b)
			snprintf(requests, sizeof(requests), "%s → %s",
				 d->sides[0].profile->has_requests
					 ? units_count(row->requests.a).text
					 : "?",
				 d->sides[1].profile->has_requests
					 ? units_count(row->requests.b).text
					 : "?");
		diff_right(19, requests);
		if (states)
			diff_print_mostly(row);
		else
			fputs("  ", stdout);
		diff_print_name(row->route);
		if (row->per != diff->worst)
			printf("  (%s)", row->per == DIFF_TOTAL ? "in all" : "per second");
		putchar('\n');
	}
	if (shown < diff->route_count)
		printf("%10s %zu more; --limit 0 shows all\n", "…", diff->route_count - shown);
}

static void diff_print_functions(const struct diff_command *d, const struct diff *diff)
{
	size_t changed = 0, shown;

	while (changed < diff->function_count && (diff_change(diff->functions[changed].self) != 0 ||
						  diff_change(diff->functions[changed].total) != 0))
		changed++;
	shown = changed < d->limit ? changed : d->limit;
	if (changed == 0) {
		printf("\nNo function changed.\n");
		return;
	}
	printf("\nFunctions, %s, largest change of their own time first\n\n", diff_time(diff));
	diff_right(38, "──────────── own time ────────────");
	diff_right(40, "──── with what it calls ──────────");
	putchar('\n');
	printf("%10s%8s%10s%10s  %10s%8s%10s%10s  %s\n", "CHANGE", "", "BEFORE", "AFTER", "CHANGE",
	       "", "BEFORE", "AFTER", "FUNCTION");
	for (size_t i = 0; i < shown; i++) {
		const struct diff_function *row = &diff->functions[i];

		diff_print_pair(d, row->self);
		fputs("  ", stdout);
		diff_print_pair(d, row->total);
		fputs("  ", stdout);
		diff_print_name(row->function);
		if (*row->route && diff->route_count > 1) {
			fputs("  in ", stdout);
			diff_print_name(row->route);
		}
		putchar('\n');
	}
	if (shown < changed)
		printf("%10s %zu more; --limit 0 shows all\n", "…", changed - shown);
}

static void diff_print_side(const char *label, const struct side *side, uint64_t requests)
{
	const struct profile *p = side->profile;

	printf("%s  ", label);
	diff_print_name(side->source);
	printf(" (%s): %s", side->live ? "live" : profile_format_name(p->format),
	       units_ns(profile_total_ns(p)).text);
	if (p->has_requests)
		printf(" in %s requests", units_count(requests).text);
	if (p->duration_ns)
		printf(", over %s", units_ns(p->duration_ns).text);
	putchar('\n');
}

static void diff_print(const struct diff_command *d, const struct diff *diff)
{
	const struct profile *a = d->sides[0].profile, *b = d->sides[1].profile;

	diff_print_side("before", &d->sides[0], diff->requests.a);
	diff_print_side("after ", &d->sides[1], diff->requests.b);
	for (int i = 0; i < 2 && diff->worst != DIFF_PER_REQUEST; i++)
		if (!d->sides[i].profile->has_requests)
			printf("%s does not say how many requests it covers.\n",
			       i ? "after " : "before");
	if (diff->worst == DIFF_PER_SECOND)
		printf("So times are per second of the time covered: a change of load shows as a "
		       "change of time.\n");
	else if (diff->worst == DIFF_TOTAL)
		printf("So times are totals: they compare only when both sides saw the same "
		       "work.\n");
	diff_print_routes(d, diff, a->has_states && b->has_states);
	diff_print_functions(d, diff);
}

/*
 * ---- As JSON ----
 *
 * Never by jansson's json_object(), json_array() or json_string(): server/json.c has functions of these names, and the
 * linker takes those.
 */

/* A name that is no UTF-8 is shown as in the terminal. */
static json_t *diff_json_name(const char *name)
{
	char text[4 * DIFF_NAME_COLUMNS + 1];
	json_t *json = json_stringn(name, strlen(name));

	if (json)
		return json;
	units_text(text, sizeof(text), name, DIFF_NAME_COLUMNS, false);
	return json_stringn(text, strlen(text));
}

static json_t *diff_json_pair(struct diff_pair pair)
{
	return json_pack("{s:I, s:I, s:I}", "before", (json_int_t)pair.a, "after",
			 (json_int_t)pair.b, "change", (json_int_t)diff_change(pair));
}

static json_t *diff_json_side(const struct side *side, uint64_t requests)
{
	const struct profile *p = side->profile;

	return json_pack("{s:o, s:s, s:I, s:o, s:I}", "source", diff_json_name(side->source),
			 "format", side->live ? "live" : profile_format_name(p->format), "total_ns",
			 (json_int_t)profile_total_ns(p), "requests",
			 p->has_requests ? json_integer((json_int_t)requests) : json_null(),
			 "duration_ns", (json_int_t)p->duration_ns);
}

static json_t *diff_json_route(const struct diff_route *row)
{
	json_t *states = json_pack("{}");

	for (unsigned s = 0; s < STATE_COUNT; s++)
		if (row->states[s].a || row->states[s].b)
			json_object_set_new(states, state_names[s], diff_json_pair(row->states[s]));
	return json_pack("{s:o, s:s, s:o, s:o, s:o}", "route", diff_json_name(row->route), "per",
			 diff_per_name(row->per), "requests", diff_json_pair(row->requests),
			 "total_ns", diff_json_pair(row->total), "states_ns", states);
}

static json_t *diff_json_function(const struct diff_function *row)
{
	return json_pack("{s:o, s:o, s:s, s:o, s:o}", "function", diff_json_name(row->function),
			 "route", diff_json_name(row->route), "per", diff_per_name(row->per),
			 "self_ns", diff_json_pair(row->self), "total_ns",
			 diff_json_pair(row->total));
}

static int diff_print_json(const struct diff_command *d, const struct diff *diff)
{
	size_t limit = d->limited ? d->limit : SIZE_MAX;
	json_t *routes = json_pack("[]"), *functions = json_pack("[]"), *root;
	int status;

	for (size_t i = 0; i < diff->route_count && i < limit; i++)
		json_array_append_new(routes, diff_json_route(&diff->routes[i]));
	for (size_t i = 0; i < diff->function_count && i < limit; i++)
		json_array_append_new(functions, diff_json_function(&diff->functions[i]));
	root = json_pack("{s:o, s:o, s:s, s:o, s:o}", "before",
			 diff_json_side(&d->sides[0], diff->requests.a), "after",
			 diff_json_side(&d->sides[1], diff->requests.b), "per",
			 diff_per_name(diff->worst), "routes", routes, "functions", functions);
	status = root ? json_dumpf(root, stdout, JSON_INDENT(1)) : -1;
	json_decref(root);
	putchar('\n');
	return status < 0 ? -EIO : 0;
}

static int diff_run(struct diff_command *d)
{
	struct diff *diff = NULL;
	int status = diff_load(d, &d->sides[0]);

	if (status == 0)
		status = diff_load(d, &d->sides[1]);
	if (status < 0)
		return status;
	if (profile_total_ns(d->sides[0].profile) == 0 &&
	    profile_total_ns(d->sides[1].profile) == 0) {
		fprintf(stderr, "sonde diff: neither side holds any time%s\n",
			d->selection.route || d->selection.service || d->selection.states
				? " of this selection; widen it"
				: "");
		return -ENODATA;
	}
	status = diff_compare(d->sides[0].profile, d->sides[1].profile, &diff);
	if (status < 0) {
		fprintf(stderr, "sonde diff: out of memory\n");
		return status;
	}
	if (d->json)
		status = diff_print_json(d, diff);
	else
		diff_print(d, diff);
	if (fflush(stdout) != 0 || status < 0) {
		fprintf(stderr, "sonde diff: cannot write: %s\n", strerror(errno));
		status = -EIO;
	}
	diff_destroy(diff);
	return status;
}

int cmd_diff(int argc, char **argv)
{
	static const struct argp_child children[] = { { &options_flame_argp, 0, "Selection:", 2 },
						      { 0 } };
	static const struct argp argp = {
		.options = diff_options,
		.parser = diff_parse,
		.args_doc = "BEFORE AFTER",
		.doc = "Compare two profiles: time per request, by route and by function, largest "
		       "change first. Each is a file "
		       "that `sonde export` wrote (pprof, folded or html), or `live` for the "
		       "running collector; "
		       "live:-10m..-5m chooses a time of its own.",
		.children = children,
	};
	struct diff_command d = { .limit = DIFF_LIMIT_DEFAULT };
	int status;

	argp_parse(&argp, argc, argv, 0, NULL, &d);
	d.color = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
	status = diff_run(&d);
	profile_destroy(d.sides[0].profile);
	profile_destroy(d.sides[1].profile);
	return status < 0 ? 1 : 0;
}
