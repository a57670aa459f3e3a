/* SPDX-License-Identifier: MIT
 *
 * A selection written as a file that other tools open: one struct and one export_<format>.c per format.
 *
 * pprof   gzip'd protobuf for `go tool pprof` and everything that reads its format. One sample per stack and state, with
 *         labels route, state and service; the values are the sample count, ns of each state, and last `wall`, their
 *         sum, which tools show unless told otherwise. Comments say how many requests each route had.
 * folded  `route;[state];main;f 1234`: one line per stack and state, root first, microseconds (rounded, at least 1), for
 *         flamegraph.pl and its kin. In names ';' becomes ',' and a control character a space.
 * html    one offline file: the viewer with the data inside.
 *
 * Work outside any request has the route "(no request)". Context: server, any thread.
 */
#ifndef SERVER_EXPORT_H
#define SERVER_EXPORT_H

#include <stddef.h>

#include "server/json.h"
#include "server/query.h"

/* A larger file is refused with -EFBIG. */
#define EXPORT_BYTES_MAX ((size_t)1 << 30)

struct export_format {
	const char *name, *content_type;
	const char *suffix; /* of a file's name, with its dot: ".pb.gz" */
	/**
	 * Write what @sel selects. *@bytes is the caller's to free(). Returns 0 or a negative errno value: -EFBIG past
	 * EXPORT_BYTES_MAX, -ENOMEM, and those of query.h.
	 */
	int (*write)(struct store *store, const struct selection *sel, char **bytes, size_t *len);
};

extern const struct export_format export_pprof, export_folded, export_html;

/** The format called @name, NULL when there is none. */
const struct export_format *export_find(const char *name);

/** "pprof, folded, html" */
const char *export_names(void);

/* ---- For export_*.c and tests ---- */

/** The two formats that are made of call trees only, into @out. Returns 0, -ENOMEM or -EFBIG. */
int export_pprof_flames(const struct route_flame *flames, size_t count, const struct selection *sel,
			struct buffer *out);
int export_folded_flames(const struct route_flame *flames, size_t count, struct buffer *out);

/**
 * Put @data, JSON, into a report's template in place of its `null`, without any '<'. Returns 0, -ENOMEM, or -EINVAL when
 * the template has no such place.
 */
int export_html_fill(const char *template, size_t template_bytes, const struct buffer *data,
		     struct buffer *out);

/** What work on @route is called in a file. */
const char *export_route(const char *route);

/** Append @text as valid UTF-8: a control character becomes a space, @separator (unless 0) a comma. */
void export_text(struct buffer *out, const char *text, char separator);

/** Query the trees of @sel, write them with @write, hand the result to the caller of export_format.write. */
int export_trees(struct store *store, const struct selection *sel,
		 int (*write)(const struct route_flame *flames, size_t count,
			      const struct selection *sel, struct buffer *out),
		 char **bytes, size_t *len);

#endif
