/* SPDX-License-Identifier: MIT
 *
 * Two profiles compared: time per request by route, and by function within its route, largest change first. Functions are
 * kept apart by route, because what is common to both sides is a request of that route: the mix of routes may change, the
 * numbers then do not. Pure; context: server, any thread.
 */
#ifndef SERVER_DIFF_H
#define SERVER_DIFF_H

#include <stddef.h>
#include <stdint.h>

#include "server/profile.h"

/* What the times of a row are divided by, the best that both sides know. */
enum diff_per {
	DIFF_PER_REQUEST,
	DIFF_PER_SECOND,
	DIFF_TOTAL
};

/* Values of one quantity on both sides, in ns per unit of the row. */
struct diff_pair {
	uint64_t a, b;
};

struct diff_route {
	const char *route; /* of a profile; "": outside any request */
	enum diff_per per;
	struct diff_pair requests, total, states[STATE_COUNT];
};

struct diff_function {
	const char *route, *function;
	enum diff_per per;
	struct diff_pair self, total;
};

struct diff {
	struct diff_route *routes;       /* by |total.b - total.a| */
	struct diff_function *functions; /* by |self.b - self.a|, then |total.b - total.a| */
	size_t route_count, function_count;
	struct diff_pair requests; /* of all routes */
	enum diff_per
		worst; /* the least telling of all rows' units; work outside requests never has any */
};

/**
 * Compare @a, before, with @b, after. *@out keeps pointing into both: destroy it first. Returns 0 or -ENOMEM.
 */
int diff_compare(const struct profile *a, const struct profile *b, struct diff **out);

/** NULL is fine. */
void diff_destroy(struct diff *diff);

/** pair.b - pair.a. */
int64_t diff_change(struct diff_pair pair);

/** "request", "second", "total". */
const char *diff_per_name(enum diff_per per);

#endif
