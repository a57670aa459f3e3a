/* SPDX-License-Identifier: MIT
 *
 * The selection on the command line, shared by top, export and diff: an argp child that fills struct options, and the
 * query string it becomes. What is wrong is said as a usage error before anything is asked. Context: one thread.
 */
#ifndef SERVER_OPTIONS_H
#define SERVER_OPTIONS_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#define OPTIONS_HTTP_DEFAULT "127.0.0.1:7070"

/* Strings point into argv. NULL: not given. */
struct options {
	const char *http; /* never NULL after parsing */
	const char *service, *route, *process, *from, *to;
	const char *states;  /* "cpu,io", checked */
	uint32_t state_mask; /* the same as a set, STATES_ALL when not given */
	bool has_latency_min, has_latency_max;
	uint64_t latency_min_ns, latency_max_ns;
};

/** --http --service --route --process --from --to. Input: struct options, which is cleared first. */
extern const struct argp options_argp;

/** The same with --state --latency-min --latency-max, for what shows stacks. */
extern const struct argp options_flame_argp;

/**
 * The query string of @o, "?from=-5m&route=GET%20%2Fa", with @extra ("format=pprof", may be NULL) in front.
 * The caller frees it. NULL when out of memory.
 */
char *options_query(const struct options *o, const char *extra);

/** Whether @text is a time as the API takes it: unix seconds, "-5m" (s, m, h, d) or "now". */
bool options_is_time(const char *text);

/** "250us", "1.5ms", "2s", or ns without a unit. Returns 0 or -EINVAL. */
int options_duration(const char *text, uint64_t *ns);

/** The set of states named by "cpu,io". Returns 0 or -EINVAL. */
int options_states(const char *text, uint32_t *mask);

#endif
