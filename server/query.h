/* SPDX-License-Identifier: MIT
 *
 * Questions to the store. A selection in, plain result structs out; nothing here knows HTTP or a file format.
 * Every result belongs to the caller, who frees it with its _free. Functions return 0 or a negative errno value
 * (-ENOMEM, -EIO with the store's own message logged). Context: server, any thread.
 */
#ifndef SERVER_QUERY_H
#define SERVER_QUERY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/flame.h"
#include "sonde_hist.h"

struct store;

/* What is asked for. Strings belong to the asker and live as long as the call. */
struct selection {
	const char *service; /* NULL: all */
	const char *process; /* 16 hex digits, NULL: all */
	const char *route;   /* NULL: all routes; "": work outside any request */
	const char *thread;  /* thread name, NULL: all */
	uint64_t from_unix_ns, to_unix_ns; /* [from, to) */
	uint32_t states;                   /* set of 1u << state */
	uint64_t latency_min_ns, latency_max_ns; /* 0 and UINT64_MAX: all */
};

struct route_summary {
	char *service, *route;
	uint64_t count, errors;
	uint32_t in_flight;
	double rate; /* per second */
	uint64_t ledger_ns[STATE_COUNT]; /* sums over the selection, they add up to latency.sum_ns */
	struct hist latency;
	struct status_count {
		uint32_t status;
		uint64_t count;
	} *statuses;
	size_t status_count;
};

struct routes_result {
	struct route_summary *routes; /* by total time, largest first */
	size_t count;
	uint64_t background_ns[STATE_COUNT];
};

int query_routes(struct store *store, const struct selection *sel, struct routes_result *out);
void routes_result_free(struct routes_result *result);

/** The merged call tree of @sel, symbolised and scaled to the exact ledger. The caller frees it with flame_destroy(). */
int query_flame(struct store *store, const struct selection *sel, struct flame **out);

/** As query_flame(), one tree per (service, route) in @sel, for exports that keep routes apart. */
struct route_flame {
	char *service, *route;
	uint64_t requests;
	struct flame *flame;
};
int query_flames(struct store *store, const struct selection *sel, struct route_flame **out, size_t *count);
void route_flames_free(struct route_flame *flames, size_t count);

#endif
