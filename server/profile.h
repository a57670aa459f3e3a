/* SPDX-License-Identifier: MIT
 *
 * Exported files read back, for `sonde diff`: pprof (gzipped or not), folded stacks, and our offline HTML report by its
 * embedded JSON, told apart by their content. What a profile says is reduced while it is read to what a comparison needs:
 * time per route and state, self and total time per route and function.
 *
 * Files are hostile input: every size is checked, a bad file costs one sentence. Context: server, any thread.
 */
#ifndef SERVER_PROFILE_H
#define SERVER_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/flame.h"

enum profile_format {
	PROFILE_PPROF,
	PROFILE_FOLDED,
	PROFILE_HTML
};

enum {
	PROFILE_ERROR_MAX = 256,
	PROFILE_DEPTH_MAX = 65536,   /* frames of one stack, inlined ones included */
	PROFILE_NAMES_MAX = 1 << 24, /* functions, routes, and pairs of both */
};
/* A larger file is refused with -EFBIG; so is one that unpacks to more. */
#define PROFILE_BYTES_MAX ((size_t)1 << 30)

struct profile_route {
	char *name;        /* "" : work outside any request */
	uint64_t requests; /* 0 when the file does not say */
	uint64_t state_ns[STATE_COUNT];
};

/* One function under one route. Recursion counts once in the total. */
struct profile_row {
	uint32_t route, function; /* indices */
	uint64_t self_ns, total_ns;
	uint64_t stamp; /* private: the last stack that counted here */
};

struct profile {
	enum profile_format format;
	bool has_requests;    /* the file says how many requests each route had */
	bool has_states;      /* its times are split by state; otherwise all is "other" */
	uint64_t duration_ns; /* wall time covered, 0 unknown */
	struct profile_route *routes;
	size_t route_count;
	char **functions;
	size_t function_count;
	struct profile_row *rows;
	size_t row_count;
	struct profile_index *index; /* private */
};

/* What to take from a file. */
struct profile_filter {
	const char *route;   /* NULL: all */
	const char *service; /* NULL: all; folded stacks do not name it */
	uint32_t states;     /* set of 1u << state */
};

/**
 * Read @size bytes at @data. *@out is to be destroyed by the caller. @filter may be NULL. Returns 0, -EINVAL for what is no
 * profile, -EFBIG, -E2BIG above a cap, -ENOMEM; @error then says why.
 */
int profile_read(const void *data, size_t size, const struct profile_filter *filter,
		 struct profile **out, char error[PROFILE_ERROR_MAX]);

/** profile_read() of the file at @path, and its errors besides. */
int profile_read_file(const char *path, const struct profile_filter *filter, struct profile **out,
		      char error[PROFILE_ERROR_MAX]);

/** NULL is fine. */
void profile_destroy(struct profile *profile);

/** All time in it, every route and state. */
uint64_t profile_total_ns(const struct profile *profile);

/** "pprof", "folded", "html". */
const char *profile_format_name(enum profile_format format);

#endif
