/* SPDX-License-Identifier: MIT
 *
 * Between profile.c and its readers of one format each: what they fill a profile with. Not for others.
 */
#ifndef SERVER_PROFILE_BUILD_H
#define SERVER_PROFILE_BUILD_H

#include "server/map.h"
#include "server/profile.h"

/* What a reader carries. */
struct profile_reader {
	struct profile *profile;
	const struct profile_filter *filter;
	char *error;     /* PROFILE_ERROR_MAX */
	uint32_t *stack; /* of the stack being read, innermost first: indices of functions */
	size_t depth, capacity;
	uint64_t stacks;
};

/** Write the sentence for the user and return @status. */
__attribute__((format(printf, 3, 4))) int profile_fail(struct profile_reader *r, int status,
						       const char *format, ...);

/** The index of function or route @name of @length bytes, added when new. -ENOMEM, -E2BIG. */
int64_t profile_function(struct profile_reader *r, const char *name, size_t length);
int64_t profile_route(struct profile_reader *r, const char *name, size_t length);

/** Whether the filter lets this through. */
bool profile_wants_route(const struct profile_reader *r, const char *route, size_t length);
bool profile_wants_state(const struct profile_reader *r, unsigned state);

/** Begin a stack; push its functions, innermost first; count @ns of @state for it under @route. 0, -ENOMEM, -E2BIG. */
void profile_stack_begin(struct profile_reader *r);
int profile_stack_push(struct profile_reader *r, uint32_t function);
int profile_stack_count(struct profile_reader *r, uint32_t route, unsigned state, uint64_t ns);

/** Take "sonde.requests COUNT ROUTE", as our exports write it into comments. Returns 0 also for any other text. */
int profile_comment(struct profile_reader *r, const char *text, size_t length);

/** The state called @name of @length bytes, or -1. */
int profile_state(const char *name, size_t length);

/** Sum that stays at the top instead of turning over: a hostile file may not make nonsense of the rest. */
uint64_t profile_sum(uint64_t a, uint64_t b);

int profile_read_pprof(struct profile_reader *r, const uint8_t *data, size_t size);
int profile_read_folded(struct profile_reader *r, const char *text, size_t size);
int profile_read_html(struct profile_reader *r, const char *text, size_t size);

#endif
