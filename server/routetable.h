/* SPDX-License-Identifier: MIT
 *
 * The table of routes that `sonde top` shows: the collector's answers as rows, and rows as lines of text that fit a
 * terminal. Pure but for the stream it prints to; context: server, one thread per table.
 */
#ifndef SERVER_ROUTETABLE_H
#define SERVER_ROUTETABLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "server/flame.h"

/* Strings belong to the table. Times in ns per request. */
struct routetable_row {
	char *service, *route;
	uint64_t count, errors, in_flight;
	double rate; /* per second */
	uint64_t mean_ns, p50_ns, p90_ns, p99_ns, max_ns;
	uint64_t ledger_ns[STATE_COUNT];
};

struct routetable {
	struct routetable_row
		*rows; /* as the collector sorted them: by total time, largest first */
	size_t count;
	double span_s;               /* of the selection */
	size_t services, live, gone; /* processes that report, and that do not any more */
	double cores;                /* that the agents of all live processes take together */
	uint64_t lost_windows, drops;
	char *drop_cause; /* of most drops, may be NULL */
};

struct routetable_style {
	size_t columns;  /* width; 0: as wide as it gets */
	size_t rows_max; /* 0: all */
	bool color, explain;
};

/**
 * Take the answers of /api/v1/routes and /api/v1/processes. What is missing or of another type counts as zero.
 * Returns 0 or -ENOMEM; the caller frees with routetable_fini() either way.
 */
int routetable_init(struct routetable *table, const json_t *routes, const json_t *processes);
void routetable_fini(struct routetable *table);

/** One line on processes, overhead and losses. */
void routetable_print_header(FILE *to, const struct routetable *table,
			     const struct routetable_style *style);

/** Column heads, rows, the legend of the bars; with style->explain one sentence per route. */
void routetable_print(FILE *to, const struct routetable *table,
		      const struct routetable_style *style);

#endif
