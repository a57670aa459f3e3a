/* SPDX-License-Identifier: MIT
 *
 * The table of routes as text: see routetable.h.
 */
#include "server/routetable.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/explain.h"
#include "server/units.h"

enum {
	ROUTE_COLUMNS_MIN = 16,
	ROUTE_COLUMNS_MAX = 60,
	BAR_COLUMNS_MIN = 16,
	BAR_COLUMNS_MAX = 40,
	BAR_COLUMNS_PLAIN = 24,
	LINE_BYTES_MAX = 2048,
};

/* How a state looks in a bar: near the page's palette among the 256 colours, and its letter. */
static const struct {
	int color;
	char letter;
	const char *name;
} looks[STATE_COUNT] = {
	[STATE_QUEUE] = { 185, 'q', "queue" },    [STATE_CPU] = { 208, 'c', "CPU" },
	[STATE_RUNQ] = { 160, 'r', "run queue" }, [STATE_IO] = { 33, 'i', "IO" },
	[STATE_LOCK] = { 133, 'l', "lock" },      [STATE_SLEEP] = { 45, 's', "sleep" },
	[STATE_LOOP] = { 65, 'o', "loop" },       [STATE_OTHER] = { 250, '.', "other" },
};

/* ---- From JSON ---- */

static uint64_t number_of(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);
	double real = json_number_value(value);

	if (json_is_integer(value))
		return json_integer_value(value) < 0 ? 0 : (uint64_t)json_integer_value(value);
	return real > 0 && real < 9e18 ? (uint64_t)real : 0;
}

static double real_of(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static int routetable_row(struct routetable_row *row, const json_t *json)
{
	const json_t *latency = json_object_get(json, "latency"),
		     *ledger = json_object_get(json, "ledger");

	*row = (struct routetable_row){
		.service = strdup(text_of(json, "service")),
		.route = strdup(text_of(json, "route")),
		.count = number_of(json, "count"),
		.errors = number_of(json, "errors"),
		.in_flight = number_of(json, "in_flight"),
		.rate = real_of(json, "rate"),
		.mean_ns = number_of(latency, "mean"),
		.p50_ns = number_of(latency, "p50"),
		.p90_ns = number_of(latency, "p90"),
		.p99_ns = number_of(latency, "p99"),
		.max_ns = number_of(latency, "max"),
	};
	for (unsigned s = 0; s < STATE_COUNT; s++)
		row->ledger_ns[s] = number_of(ledger, state_names[s]);
	return row->service && row->route ? 0 : -ENOMEM;
}

static int routetable_drops(struct routetable *table, const json_t *process, uint64_t *most)
{
	json_t *drop;
	size_t i;

	json_array_foreach(json_object_get(process, "drops"), i, drop)
	{
		uint64_t count = number_of(drop, "count");

		table->drops += count;
		if (count <= *most)
			continue;
		*most = count;
		free(table->drop_cause);
		table->drop_cause = strdup(text_of(drop, "cause"));
		if (!table->drop_cause)
			return -ENOMEM;
	}
	return 0;
}

static int routetable_processes(struct routetable *table, json_t *processes)
{
	uint64_t most = 0;
	json_t *process, *earlier;
	size_t i, k;

	json_array_foreach(processes, i, process)
	{
		const json_t *overhead = json_object_get(process, "overhead");
		bool live = strcmp(text_of(process, "state"), "live") == 0, seen = false;

		table->live += live;
		table->gone += !live;
		table->lost_windows += number_of(process, "lost_windows");
		/* Not the share of the process's CPU: of an idle one that is much of nothing. */
		table->cores += live ? real_of(overhead, "cores") : 0;
		json_array_foreach(processes, k, earlier)
		{
			if (k >= i)
				break;
			seen = seen || strcmp(text_of(earlier, "service"),
					      text_of(process, "service")) == 0;
		}
		table->services += !seen;
		if (routetable_drops(table, process, &most) < 0)
			return -ENOMEM;
	}
	return 0;
}

int routetable_init(struct routetable *table, const json_t *routes, const json_t *processes)
{
	json_t *rows = json_object_get(routes, "routes"), *row;
	size_t i;

	*table = (struct routetable){ .span_s = real_of(routes, "to") - real_of(routes, "from") };
	table->rows = calloc(json_array_size(rows) + 1, sizeof(*table->rows));
	if (!table->rows)
		return -ENOMEM;
	json_array_foreach(rows, i, row)
	{
		if (routetable_row(&table->rows[table->count++], row) < 0)
			return -ENOMEM;
	}
	return routetable_processes(table, json_object_get(processes, "processes"));
}

void routetable_fini(struct routetable *table)
{
	for (size_t i = 0; i < table->count; i++) {
		free(table->rows[i].service);
		free(table->rows[i].route);
	}
	free(table->rows);
	free(table->drop_cause);
	*table = (struct routetable){ 0 };
}

/* ---- To text ---- */

static void print_cut(FILE *to, const char *line, const struct routetable_style *style)
{
	char cut[LINE_BYTES_MAX];

	units_text(cut, sizeof(cut), line, style->columns ? style->columns : LINE_BYTES_MAX / 4,
		   false);
	fputs(cut, to);
}

static const char *plural(uint64_t count, const char *one, const char *many)
{
	return count == 1 ? one : many;
}

void routetable_print_header(FILE *to, const struct routetable *table,
			     const struct routetable_style *style)
{
	char line[LINE_BYTES_MAX];
	size_t at;

	if (table->live + table->gone == 0) {
		print_cut(to, "no process has reported yet; start one with `sonde run -- PROGRAM`",
			  style);
		fputc('\n', to);
		return;
	}
	at = (size_t)snprintf(line, sizeof(line), "%s %s", units_count(table->live).text,
			      plural(table->live, "process", "processes"));
	if (table->services > 1)
		at += (size_t)snprintf(line + at, sizeof(line) - at, " of %zu services",
				       table->services);
	if (table->gone)
		at += (size_t)snprintf(line + at, sizeof(line) - at, ", %s gone",
				       units_count(table->gone).text);
	if (table->live)
		at += (size_t)snprintf(line + at, sizeof(line) - at, "  |  %s %s of a core",
				       plural(table->live, "agent", "agents"),
				       units_percent(table->cores).text);
	if (table->lost_windows || table->drops)
		snprintf(line + at, sizeof(line) - at, "  |  lost: %s %s, %s %s%s%.100s%s",
			 units_count(table->lost_windows).text,
			 plural(table->lost_windows, "window", "windows"),
			 units_count(table->drops).text, plural(table->drops, "record", "records"),
			 table->drop_cause ? " (" : "", table->drop_cause ? table->drop_cause : "",
			 table->drop_cause ? ")" : "");
	else
		snprintf(line + at, sizeof(line) - at, "  |  nothing lost");
	print_cut(to, line, style);
	fputc('\n', to);
}

static struct units cell_count(const struct routetable_row *row)
{
	return units_count(row->count);
}
static struct units cell_rate(const struct routetable_row *row)
{
	return units_rate(row->rate);
}
static struct units cell_errors(const struct routetable_row *row)
{
	return units_count(row->errors);
}
static struct units cell_in_flight(const struct routetable_row *row)
{
	return units_count(row->in_flight);
}
static struct units cell_p50(const struct routetable_row *row)
{
	return units_ns(row->p50_ns);
}
static struct units cell_p90(const struct routetable_row *row)
{
	return units_ns(row->p90_ns);
}
static struct units cell_p99(const struct routetable_row *row)
{
	return units_ns(row->p99_ns);
}
static struct units cell_max(const struct routetable_row *row)
{
	return units_ns(row->max_ns);
}
static struct units cell_mean(const struct routetable_row *row)
{
	return units_ns(row->mean_ns);
}

/* Columns of numbers, in order. Those of a higher drop go first when the terminal is narrow. */
static const struct column {
	const char *head;
	size_t width;
	int drop;
	bool latency; /* means nothing without a request */
	struct units (*cell)(const struct routetable_row *row);
} columns[] = {
	{ "COUNT", 9, 9, false, cell_count },   { "RATE", 10, 2, false, cell_rate },
	{ "ERRORS", 8, 3, false, cell_errors }, { "IN FLIGHT", 11, 8, false, cell_in_flight },
	{ "P50", 9, 5, true, cell_p50 },        { "P90", 9, 7, true, cell_p90 },
	{ "P99", 9, 4, true, cell_p99 },        { "MAX", 9, 6, true, cell_max },
	{ "MEAN", 9, 1, true, cell_mean },
};
enum {
	COLUMN_COUNT = sizeof(columns) / sizeof(columns[0])
};

struct layout {
	size_t route, bar;
	int drop; /* columns of this and above are left out */
	bool services;
};

static void row_name(char *out, size_t size, const struct routetable_row *row, bool services)
{
	const char *route = *row->route ? row->route : "(outside requests)";

	if (services)
		snprintf(out, size, "%s: %s", row->service, route);
	else
		snprintf(out, size, "%s", route);
}

static struct layout layout_of(const struct routetable *table, const struct routetable_style *style)
{
	struct layout l = { .route = sizeof("ROUTE") - 1, .bar = BAR_COLUMNS_PLAIN, .drop = 10 };
	char name[LINE_BYTES_MAX];
	size_t numbers, rest;

	for (size_t i = 1; i < table->count; i++)
		l.services =
			l.services || strcmp(table->rows[i].service, table->rows[0].service) != 0;
	for (size_t i = 0; i < table->count; i++) {
		row_name(name, sizeof(name), &table->rows[i], l.services);
		if (units_width(name) > l.route)
			l.route = units_width(name);
	}
	if (l.route > ROUTE_COLUMNS_MAX)
		l.route = ROUTE_COLUMNS_MAX;
	if (style->columns == 0)
		return l;
	do { /* as many columns as leave room for a name and a bar */
		numbers = 0;
		for (size_t c = 0; c < COLUMN_COUNT; c++)
			numbers += columns[c].drop < l.drop ? columns[c].width : 0;
	} while (numbers + ROUTE_COLUMNS_MIN + 2 + BAR_COLUMNS_MIN > style->columns &&
		 l.drop-- > 1);
	rest = style->columns > numbers + 2 ? style->columns - numbers - 2 : 0;
	if (l.route + BAR_COLUMNS_MIN > rest)
		l.route = rest > BAR_COLUMNS_MIN + ROUTE_COLUMNS_MIN ? rest - BAR_COLUMNS_MIN
								     : rest / 2;
	l.bar = rest - l.route < BAR_COLUMNS_MAX ? rest - l.route : BAR_COLUMNS_MAX;
	return l;
}

/* Which state lies at @part of @parts of the ledger, with each state's share rounded at its ends. */
static unsigned state_at(const uint64_t ledger_ns[STATE_COUNT], uint64_t total, size_t part,
			 size_t parts)
{
	double sum = 0, at = ((double)part + 0.5) / (double)parts * (double)total;

	for (unsigned s = 0; s < STATE_COUNT; s++) {
		sum += (double)ledger_ns[s];
		if (at < sum)
			return s;
	}
	return STATE_OTHER;
}

/* One cell of eight parts: the first state from the left, and behind it the one at the right end. */
static void print_color_cell(FILE *to, const uint64_t ledger_ns[STATE_COUNT], uint64_t total,
			     size_t cell, size_t cells)
{
	static const char *const left[] = { " ", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█" };
	unsigned first = state_at(ledger_ns, total, 8 * cell, 8 * cells);
	unsigned last = state_at(ledger_ns, total, 8 * cell + 7, 8 * cells);
	size_t eighths = 1;

	while (eighths < 8 && state_at(ledger_ns, total, 8 * cell + eighths, 8 * cells) == first)
		eighths++;
	if (eighths == 8)
		fprintf(to, "\033[38;5;%dm█\033[0m", looks[first].color);
	else
		fprintf(to, "\033[38;5;%d;48;5;%dm%s\033[0m", looks[first].color, looks[last].color,
			left[eighths]);
}

static void print_bar(FILE *to, const struct routetable_row *row, size_t cells, bool color)
{
	uint64_t total = 0;

	for (unsigned s = 0; s < STATE_COUNT; s++)
		total += row->ledger_ns[s];
	for (size_t i = 0; total > 0 && i < cells; i++) {
		if (color)
			print_color_cell(to, row->ledger_ns, total, i, cells);
		else
			fputc(looks[state_at(row->ledger_ns, total, i, cells)].letter, to);
	}
}

static void print_row(FILE *to, const struct routetable_row *row, const struct layout *l,
		      bool color)
{
	char name[LINE_BYTES_MAX], shown[4 * ROUTE_COLUMNS_MAX + 1];

	row_name(name, sizeof(name), row, l->services);
	units_text(shown, sizeof(shown), name, l->route, true);
	fputs(shown, to);
	for (size_t c = 0; c < COLUMN_COUNT; c++) {
		struct units cell = { .text = "-" };
		bool alarm = color && row->errors > 0 && columns[c].cell == cell_errors;

		if (columns[c].drop >= l->drop)
			continue;
		if (!columns[c].latency || row->count > 0)
			cell = columns[c].cell(row);
		fprintf(to, "%*s%s%s%s", (int)(columns[c].width - units_width(cell.text)), "",
			alarm ? "\033[1;31m" : "", cell.text, alarm ? "\033[0m" : "");
	}
	fputs("  ", to);
	print_bar(to, row, l->bar, color);
	fputc('\n', to);
}

static void print_heads(FILE *to, const struct layout *l, bool color)
{
	char head[4 * ROUTE_COLUMNS_MAX + 1];

	units_text(head, sizeof(head), "ROUTE", l->route, true);
	fprintf(to, "%s%s", color ? "\033[1m" : "", head);
	for (size_t c = 0; c < COLUMN_COUNT; c++)
		if (columns[c].drop < l->drop)
			fprintf(to, "%*s", (int)columns[c].width, columns[c].head);
	units_text(head, sizeof(head), l->bar < 19 ? "TIME SPENT" : "WHERE THE TIME GOES", l->bar,
		   false);
	fprintf(to, "  %s%s\n", head, color ? "\033[0m" : "");
}

/* What the bars' colours or letters mean, of the states that occur. */
static void print_legend(FILE *to, const struct routetable *table,
			 const struct routetable_style *style)
{
	const char *space = "";
	size_t used = 0;

	for (unsigned s = 0; s < STATE_COUNT; s++) {
		bool occurs = false;

		for (size_t i = 0; i < table->count; i++)
			occurs = occurs || table->rows[i].ledger_ns[s] > 0;
		used += occurs ? strlen(looks[s].name) + 4 : 0;
		if (!occurs || (style->columns && used > style->columns))
			continue;
		if (style->color)
			fprintf(to, "%s\033[38;5;%dm█\033[0m %s", space, looks[s].color,
				looks[s].name);
		else
			fprintf(to, "%s%c %s", space, looks[s].letter, looks[s].name);
		space = "  ";
	}
	fputc('\n', to);
}

static void print_sentences(FILE *to, const struct routetable *table,
			    const struct routetable_style *style, size_t rows)
{
	char sentence[LINE_BYTES_MAX];

	fputc('\n', to);
	for (size_t i = 0; i < rows; i++) {
		const struct routetable_row *row = &table->rows[i];

		explain_route(sentence, sizeof(sentence),
			      *row->route ? row->route : "(outside requests)", row->count,
			      row->mean_ns, row->ledger_ns);
		print_cut(to, sentence, style);
		fputc('\n', to);
	}
}

void routetable_print(FILE *to, const struct routetable *table,
		      const struct routetable_style *style)
{
	struct layout l = layout_of(table, style);
	size_t rows =
		style->rows_max && style->rows_max < table->count ? style->rows_max : table->count;

	if (table->count == 0) {
		fputs("no request in this time\n", to);
		return;
	}
	print_heads(to, &l, style->color);
	for (size_t i = 0; i < rows; i++)
		print_row(to, &table->rows[i], &l, style->color);
	if (rows < table->count)
		fprintf(to, "… %zu more %s\n", table->count - rows,
			plural(table->count - rows, "route", "routes"));
	fputc('\n', to);
	print_legend(to, table, style);
	if (style->explain)
		print_sentences(to, table, style, rows);
}
