/* SPDX-License-Identifier: MIT
 *
 * `sonde top`: a live table of the routes in the terminal.
 */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/client.h"
#include "server/cmd.h"
#include "server/options.h"
#include "server/routetable.h"
#include "server/screen.h"
#include "server/units.h"

#define TOP_WINDOW      "-10s" /* what the live table shows, unless --from says otherwise */
#define TOP_ONCE_WINDOW "-5m"
enum {
	TOP_TIMEOUT_S = 10,
	TOP_LINES_AROUND = 7, /* title, header, blanks, column heads, legend, the line for more */
};

struct top {
	struct options selection;
	bool once, plain, explain;
	double interval_s;
	bool color, full; /* full: redraw in place */
	bool paused;
	struct client client;
	struct routetable table; /* the last good answer */
	bool has_table, trouble;
};

static const struct argp_option top_options[] = {
	{ "once", '1', NULL, 0,
	  "Print one table, of the last five minutes unless --from says otherwise, and end", 0 },
	{ "plain", 'p', NULL, 0, "Print tables one below the other, without colours", 0 },
	{ "explain", 'e', NULL, 0, "Add a sentence per route: where its time went", 0 },
	{ "interval", 'i', "S", 0, "Seconds between two tables (default 1)", 0 },
	{ 0 },
};

static error_t top_parse(int key, char *arg, struct argp_state *state)
{
	struct top *top = state->input;
	char *end;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &top->selection;
		break;
	case '1':
		top->once = true;
		break;
	case 'p':
		top->plain = true;
		break;
	case 'e':
		top->explain = true;
		break;
	case 'i':
		top->interval_s = strtod(arg, &end);
		if (end == arg || *end || !(top->interval_s >= 0.1 && top->interval_s <= 3600))
			argp_error(state, "--interval=%s: write seconds, from 0.1 to 3600", arg);
		break;
	case ARGP_KEY_ARG:
		argp_error(state, "what is '%s'? See `sonde top --help`", arg);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

/* Only the processes in the selection; the routes' own parameters mean nothing to them. */
static int top_ask_processes(struct top *top, json_t **out)
{
	struct options selection = { .service = top->selection.service,
				     .process = top->selection.process };
	char *query = options_query(&selection, NULL);
	int status = query ? client_json(&top->client, "/api/v1/processes", query, out) : -ENOMEM;

	free(query);
	return status;
}

/* Ask for a new table; the old one stays when that fails. */
static int top_ask(struct top *top)
{
	json_t *routes = NULL, *processes = NULL;
	char *query = options_query(&top->selection, NULL);
	struct routetable table;
	int status = -ENOMEM;

	if (query)
		status = client_json(&top->client, "/api/v1/routes", query, &routes);
	if (status == 0)
		status = top_ask_processes(top, &processes);
	if (status == 0) {
		status = routetable_init(&table, routes, processes);
		if (status < 0) {
			routetable_fini(&table);
			snprintf(top->client.error, sizeof(top->client.error), "out of memory");
		} else {
			routetable_fini(&top->table);
			top->table = table;
			top->has_table = true;
		}
	}
	json_decref(routes);
	json_decref(processes);
	free(query);
	top->trouble = status < 0;
	return status;
}

/* "sonde top   127.0.0.1:7070   the last 10.0 s   12:34:56". */
static void top_print_title(const struct top *top, FILE *to, size_t columns)
{
	char line[512], cut[1024], clock[16] = "";
	time_t now = time(NULL);
	struct tm tm;

	if (localtime_r(&now, &tm))
		strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
	snprintf(line, sizeof(line), "sonde top   %s   %s%s   %s%s", top->selection.http,
		 top->selection.to ? "" : "the last ",
		 units_ns((uint64_t)llround(fmax(0, fmin(top->table.span_s, 1e9)) * 1e9)).text,
		 clock, top->paused ? "   paused" : "");
	units_text(cut, sizeof(cut), line, columns ? columns : 200, false);
	fprintf(to, "%s%s%s\n", top->color ? "\033[1m" : "", cut, top->color ? "\033[0m" : "");
}

/* The whole frame as text. */
static char *top_frame(const struct top *top)
{
	struct routetable_style style = { .color = top->color, .explain = top->explain };
	size_t rows = 0, size;
	char *text = NULL;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	if (isatty(STDOUT_FILENO))
		screen_size(&style.columns, &rows);
	if (top->full) {
		style.rows_max = rows > TOP_LINES_AROUND + 1 ? rows - TOP_LINES_AROUND - 1 : 1;
		if (top->explain)
			style.rows_max = style.rows_max > 3 ? (style.rows_max - 1) / 2 : 1;
	}
	top_print_title(top, f, style.columns);
	if (top->trouble)
		fprintf(f, "%s%s%s; trying again\n", top->color ? "\033[1;31m" : "",
			top->client.error, top->color ? "\033[0m" : "");
	else
		routetable_print_header(f, &top->table, &style);
	fputc('\n', f);
	routetable_print(f, &top->table, &style);
	if (top->full)
		fputs("q quit   e explain   space pause", f);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static void top_show(const struct top *top)
{
	char *frame = top_frame(top);

	if (frame && top->full) {
		screen_show(frame);
	} else if (frame) {
		fputs(frame, stdout);
		if (!top->once)
			putchar('\n');
		fflush(stdout);
	}
	free(frame);
}

static int64_t top_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Wait for the next turn at @due_ms; keys and a changed window redraw at once. */
static void top_wait(struct top *top, int64_t due_ms)
{
	int64_t left;

	while (!screen_stop && (left = due_ms - top_now_ms()) > 0) {
		switch (screen_wait((int)left)) {
		case 'q':
		case 'Q':
		case 4: /* Ctrl-D */
			screen_stop = 1;
			return;
		case 'e':
			top->explain = !top->explain;
			break;
		case ' ':
		case 'p':
			top->paused = !top->paused;
			break;
		default:
			break;
		}
		if (top->full && !screen_stop)
			top_show(top);
	}
}

static int top_live(struct top *top)
{
	int64_t due_ms = top_now_ms();
	bool told = false;
	int status = screen_open(top->full);

	if (status < 0) {
		fprintf(stderr, "sonde top: %s\n", strerror(-status));
		return 1;
	}
	top->client.cancel = &screen_stop;
	while (!screen_stop) {
		if (top->full || !top->trouble)
			top_show(top);
		else if (!told)
			fprintf(stderr, "sonde top: %s; trying again\n", top->client.error);
		told = top->trouble;
		due_ms += (int64_t)(top->interval_s * 1000);
		if (due_ms < top_now_ms())
			due_ms = top_now_ms();
		top_wait(top, due_ms);
		if (!screen_stop && !top->paused)
			top_ask(top);
	}
	screen_close();
	return 0;
}

int cmd_top(int argc, char **argv)
{
	static const struct argp_child children[] = { { &options_argp, 0, "Selection:", 2 },
						      { 0 } };
	static const struct argp argp = {
		.options = top_options,
		.parser = top_parse,
		.doc = "A live table of the routes that a running collector sees: the one that "
		       "took most time first, each with a "
		       "bar that shows where a request's time goes.\v"
		       "In the terminal q or Ctrl-C ends it, e explains, space pauses. NO_COLOR in "
		       "the environment is honoured.",
		.children = children,
	};
	struct top top = { .interval_s = 1 };
	int status = 1;

	argp_parse(&argp, argc, argv, 0, NULL, &top);
	top.plain = top.plain || !isatty(STDOUT_FILENO);
	top.color = !top.plain && !(getenv("NO_COLOR") && *getenv("NO_COLOR"));
	top.full = !top.plain && !top.once && isatty(STDIN_FILENO);
	top.client = (struct client){ .address = top.selection.http, .timeout_s = TOP_TIMEOUT_S };
	if (!top.selection.from)
		top.selection.from = top.once ? TOP_ONCE_WINDOW : TOP_WINDOW;
	if (top_ask(&top) < 0) {
		fprintf(stderr, "sonde top: %s\n", top.client.error);
	} else if (top.once) {
		top_show(&top);
		status = 0;
	} else {
		status = top_live(&top);
	}
	routetable_fini(&top.table);
	return status;
}
