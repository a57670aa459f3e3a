/* SPDX-License-Identifier: MIT
 *
 * Questions to the store. A selection in, plain result structs out; nothing here knows HTTP or a file format.
 * Every result belongs to the caller, who frees it with its _free. Functions return 0 or a negative errno value
 * (-ENOMEM, -EIO with the store's own message logged, -E2BIG when the selection holds more than QUERY_WINDOWS_MAX windows,
 * -ECANCELED when the collector stops). Context: server, any thread.
 */
#ifndef SERVER_QUERY_H
#define SERVER_QUERY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/flame.h"
#include "sonde_hist.h"

struct store;

enum {
	QUERY_WINDOWS_MAX = 100000,
	QUERY_INSTANCES_MAX = 100000,
	QUERY_GROUPS_MAX = 4096,  /* (service, route) pairs; the rest is added up as "(other)" */
	QUERY_NODES_MAX = 500000, /* of a tree; the rest is added up as "[more]" */
	QUERY_DEPTH_MAX = 4096,   /* frames of a stack */
	QUERY_STEPS_MAX = 2000,   /* of a heat map */
	QUERY_MARKS_MAX = 100,    /* the newest */
	QUERY_NAMES_MAX = 256,  /* drop causes or stack ends of a process; the rest is "(other)" */
	QUERY_STATUS_MAX = 999, /* what is more counts as 0, unknown */
};

/* What is asked for. Strings belong to the asker and live as long as the call. */
struct selection {
	const char *service;               /* NULL: all */
	const char *process;               /* 16 hex digits, NULL: all */
	const char *route;                 /* NULL: all routes; "": work outside any request */
	const char *thread;                /* thread name, NULL: all */
	uint64_t from_unix_ns, to_unix_ns; /* [from, to) */
	uint32_t states;                   /* set of 1u << state */
	uint64_t latency_min_ns, latency_max_ns; /* 0 and UINT64_MAX: all */
};

struct route_summary {
	char *service, *route;
	uint64_t count, errors;
	uint32_t in_flight;
	double rate; /* per second */
	uint64_t
		ledger_ns[STATE_COUNT]; /* sums over the selection, they add up to latency.sum_ns */
	struct hist latency;
	struct status_count {
		uint32_t status;
		uint64_t count;
	} * statuses;
	size_t status_count;
};

/* Something that happened: what a program told its agent, or the agent wants said. */
struct mark {
	uint64_t unix_ns, process;
	char *service, *name;
};

struct routes_result {
	struct route_summary *routes; /* by total time, largest first */
	size_t count;
	uint64_t background_ns[STATE_COUNT];
	struct mark *marks; /* the newest first */
	size_t mark_count;
};

int query_routes(struct store *store, const struct selection *sel, struct routes_result *out);
void routes_result_free(struct routes_result *result);

/** The merged call tree of @sel, symbolised and scaled to the exact ledger. The caller frees it with flame_destroy(). */
int query_flame(struct store *store, const struct selection *sel, struct flame **out);

/** How often a cap of the symbols' cache refused something. */
uint64_t query_symbols_refused(void);

/** As query_flame(), one tree per (service, route) in @sel, for exports that keep routes apart. */
struct route_flame {
	char *service, *route;
	uint64_t requests;
	struct flame *flame;
};
int query_flames(struct store *store, const struct selection *sel, struct route_flame **out,
		 size_t *count);
void route_flames_free(struct route_flame *flames, size_t count);

enum {
	QUERY_MEMORY_PARTS = 8 /* of the proto's MemoryPart */
};
extern const char *const query_memory_names[QUERY_MEMORY_PARTS];

/* One process (instance) of the selection. */
struct process_summary {
	uint64_t id;
	char *service, *host, *exe, *command, *version;
	const char *state; /* "live", "ended", "lost" */
	uint32_t pid, hz, threads;
	uint64_t first_seen_unix_ns, last_seen_unix_ns, lost_windows;
	/* sums over the selection */
	uint64_t wall_ns; /* of its windows */
	uint64_t process_cpu_ns, agent_cpu_ns, handler_ns, signal_ns, hooks_ns, sampling_ns;
	uint64_t samples, wire_bytes;
	/* as of its newest window */
	uint64_t memory_bytes, newest_unix_ns;
	uint64_t memory[QUERY_MEMORY_PARTS], memory_max[QUERY_MEMORY_PARTS]; /* by MemoryPart */
	uint32_t step, budget_permille, look_hz;
	struct named_count {
		char *name;
		uint64_t count;
	} * drops, *ends; /* ends: sums over the selection */
	size_t drop_count, end_count;
};

struct processes_result {
	struct process_summary *processes; /* by service, then first seen */
	size_t count;
};

int query_processes(struct store *store, const struct selection *sel, struct processes_result *out);
void processes_result_free(struct processes_result *result);

enum {
	QUERY_WHAT_LATENCY = STATE_COUNT
}; /* or a state */

struct latency_result {
	struct hist hist; /* max_ns of a state: the middle of its last bucket */
	uint64_t step_ns;
	size_t steps; /* 0 without a time axis */
	uint64_t (*heat)[HIST_BUCKETS];
};

/** The histogram of @what in @sel, with @step_ns != 0 also cut into steps from sel->from_unix_ns on (-E2BIG: too many). */
int query_latency(struct store *store, const struct selection *sel, unsigned what, uint64_t step_ns,
		  struct latency_result *out);
void latency_result_free(struct latency_result *result);

#endif
