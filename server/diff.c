/* SPDX-License-Identifier: MIT
 *
 * Two profiles compared: see diff.h.
 */
#include "server/diff.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t diff_change(struct diff_pair pair)
{
	/* Values never exceed INT64_MAX: profile_sum() sees to that. */
	return (int64_t)pair.b - (int64_t)pair.a;
}

static uint64_t diff_size(struct diff_pair pair)
{
	return pair.a > pair.b ? pair.a - pair.b : pair.b - pair.a;
}

const char *diff_per_name(enum diff_per per)
{
	static const char *const names[] = { "request", "second", "total" };

	return names[per];
}

static int diff_by_name(const void *x, const void *y)
{
	const struct profile_route *const *a = x, *const *b = y;

	return strcmp((*a)->name, (*b)->name);
}

static int diff_by_change(const void *x, const void *y)
{
	const struct diff_route *a = x, *b = y;
	uint64_t of_a = diff_size(a->total), of_b = diff_size(b->total);

	return of_a != of_b ? (of_a < of_b ? 1 : -1) : strcmp(a->route, b->route);
}

static int diff_functions_by_name(const void *x, const void *y)
{
	const struct diff_function *a = x, *b = y;
	int order = strcmp(a->route, b->route);

	return order ? order : strcmp(a->function, b->function);
}

static int diff_functions_by_change(const void *x, const void *y)
{
	const struct diff_function *a = x, *b = y;
	uint64_t of_a = diff_size(a->self), of_b = diff_size(b->self);

	if (of_a == of_b) {
		of_a = diff_size(a->total);
		of_b = diff_size(b->total);
	}
	return of_a != of_b ? (of_a < of_b ? 1 : -1) : diff_functions_by_name(x, y);
}

/* The routes of @p by name, ended by NULL. */
static const struct profile_route **diff_sorted(const struct profile *p)
{
	const struct profile_route **routes = calloc(p->route_count + 1, sizeof(*routes));

	for (size_t i = 0; routes && i < p->route_count; i++)
		routes[i] = &p->routes[i];
	if (routes)
		qsort(routes, p->route_count, sizeof(*routes), diff_by_name);
	return routes;
}

/* A side without the route is no obstacle: its zero is zero in every unit. */
static enum diff_per diff_choose(const struct profile *p, const struct profile_route *pr,
				 const struct profile *q, const struct profile_route *qr)
{
	if ((!pr || pr->requests) && (!qr || qr->requests) && p->has_requests && q->has_requests)
		return DIFF_PER_REQUEST;
	return p->duration_ns && q->duration_ns ? DIFF_PER_SECOND : DIFF_TOTAL;
}

static uint64_t diff_divide(uint64_t ns, enum diff_per per, const struct profile *p,
			    uint64_t requests)
{
	if (per == DIFF_PER_REQUEST)
		return requests ? (ns + requests / 2) / requests : 0;
	if (per == DIFF_PER_SECOND)
		return (uint64_t)llround((double)ns * 1e9 / (double)p->duration_ns);
	return ns;
}

static void diff_fill_route(struct diff_route *row, const char *name, const struct profile *a,
			    const struct profile_route *ra, const struct profile *b,
			    const struct profile_route *rb)
{
	uint64_t total_a = 0, total_b = 0;

	*row = (struct diff_route){ .route = name, .per = diff_choose(a, ra, b, rb) };
	row->requests = (struct diff_pair){ ra ? ra->requests : 0, rb ? rb->requests : 0 };
	for (unsigned s = 0; s < STATE_COUNT; s++) {
		uint64_t ns_a = ra ? ra->state_ns[s] : 0, ns_b = rb ? rb->state_ns[s] : 0;

		row->states[s].a = diff_divide(ns_a, row->per, a, row->requests.a);
		row->states[s].b = diff_divide(ns_b, row->per, b, row->requests.b);
		total_a += row->states[s].a;
		total_b += row->states[s].b;
	}
	row->total = (struct diff_pair){ total_a < INT64_MAX ? total_a : INT64_MAX,
					 total_b < INT64_MAX ? total_b : INT64_MAX };
}

/* Merge both sides' routes, each sorted by name. */
static void diff_fill_routes(struct diff *diff, const struct profile *a,
			     const struct profile_route **of_a, const struct profile *b,
			     const struct profile_route **of_b)
{
	while (*of_a || *of_b) {
		int order = !*of_a ? 1 : !*of_b ? -1 : strcmp((*of_a)->name, (*of_b)->name);
		struct diff_route *row = &diff->routes[diff->route_count++];

		diff_fill_route(row, order <= 0 ? (*of_a)->name : (*of_b)->name, a,
				order <= 0 ? *of_a : NULL, b, order >= 0 ? *of_b : NULL);
		if (row->per > diff->worst && (*row->route || !a->has_requests || !b->has_requests))
			diff->worst = row->per;
		diff->requests.a += row->requests.a;
		diff->requests.b += row->requests.b;
		of_a += order <= 0;
		of_b += order >= 0;
	}
}

static const struct diff_route *diff_find(const struct diff *diff, const char *route)
{
	size_t low = 0, high = diff->route_count;

	while (low < high) { /* still sorted by name */
		size_t middle = (low + high) / 2;
		int order = strcmp(diff->routes[middle].route, route);

		if (order == 0)
			return &diff->routes[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* Each row of @p as one of ours, with the other side empty. */
static void diff_add_functions(struct diff *diff, const struct profile *p, bool is_b)
{
	for (size_t i = 0; i < p->row_count; i++) {
		const struct profile_row *row = &p->rows[i];
		const char *route = p->routes[row->route].name;
		const struct diff_route *of = diff_find(diff, route);
		struct diff_function *f = &diff->functions[diff->function_count++];
		uint64_t requests = is_b ? of->requests.b : of->requests.a;
		uint64_t self = diff_divide(row->self_ns, of->per, p, requests);
		uint64_t total = diff_divide(row->total_ns, of->per, p, requests);

		*f = (struct diff_function){ .route = route,
					     .function = p->functions[row->function],
					     .per = of->per };
		*(is_b ? &f->self.b : &f->self.a) = self;
		*(is_b ? &f->total.b : &f->total.a) = total;
	}
}

/* Put the two halves of a function together. */
static void diff_join_functions(struct diff *diff)
{
	struct diff_function *f = diff->functions;
	size_t kept = 0;

	qsort(f, diff->function_count, sizeof(*f), diff_functions_by_name);
	for (size_t i = 0; i < diff->function_count; i++) {
		if (kept > 0 && diff_functions_by_name(&f[kept - 1], &f[i]) == 0) {
			f[kept - 1].self.a += f[i].self.a;
			f[kept - 1].self.b += f[i].self.b;
			f[kept - 1].total.a += f[i].total.a;
			f[kept - 1].total.b += f[i].total.b;
		} else {
			f[kept++] = f[i];
		}
	}
	diff->function_count = kept;
}

int diff_compare(const struct profile *a, const struct profile *b, struct diff **out)
{
	const struct profile_route **of_a = diff_sorted(a), **of_b = diff_sorted(b);
	struct diff *diff = calloc(1, sizeof(*diff));
	int status = -ENOMEM;

	if (!of_a || !of_b || !diff)
		goto out;
	diff->routes = calloc(a->route_count + b->route_count + 1, sizeof(*diff->routes));
	diff->functions = calloc(a->row_count + b->row_count + 1, sizeof(*diff->functions));
	if (!diff->routes || !diff->functions)
		goto out;
	diff_fill_routes(diff, a, of_a, b, of_b);
	diff_add_functions(diff, a, false);
	diff_add_functions(diff, b, true);
	diff_join_functions(diff);
	qsort(diff->routes, diff->route_count, sizeof(*diff->routes), diff_by_change);
	qsort(diff->functions, diff->function_count, sizeof(*diff->functions),
	      diff_functions_by_change);
	*out = diff;
	diff = NULL;
	status = 0;
out:
	diff_destroy(diff);
	free(of_a);
	free(of_b);
	return status;
}

void diff_destroy(struct diff *diff)
{
	if (!diff)
		return;
	free(diff->routes);
	free(diff->functions);
	free(diff);
}
