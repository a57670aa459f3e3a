/* SPDX-License-Identifier: MIT
 *
 * One window in the making: what every request and every sample adds up to.
 *
 *	done    ─► route: count, errors, statuses, histograms, ledger sums      exact
 *	         └► cell (route, coarse latency): ns per state                  exact, rows with stack 0
 *	sample  ─► no request: row of route 0
 *	         └► pending, until its request's end says route and latency ─► row (route, state, coarse, stack, thread, object)
 *
 * Every request's ledger adds up to its latency here, whatever it was given. Single thread (the agent's).
 */
#ifndef AGENT_CORE_AGGREGATE_H
#define AGENT_CORE_AGGREGATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/core/encode.h"

struct config;

enum {
	AGGREGATE_STATES = 8, /* of the proto */
	AGGREGATE_EVENT_WAIT =
		8, /* waited in an event loop; which state that was is known when the request ends */

	AGGREGATE_ROWS =
		65536, /* sampled rows per window; fewer with a spool below 6 MiB, a quarter of it */
	AGGREGATE_PENDING = 65536, /* samples of requests in progress, merged */
	AGGREGATE_ROUTES = 16383,  /* highest route id */
	AGGREGATE_STATUSES =
		16, /* different statuses per route and window; the rest counts as 0, unknown */
	AGGREGATE_BLOCKS = 65535, /* octaves of histograms in use per window, 128 bytes each */
	AGGREGATE_CELLS = 32767,  /* (route, coarse latency) in use per window, 96 bytes each */
	AGGREGATE_ENDED = 8192,   /* requests that a late sample still finds */
	AGGREGATE_STALE_WINDOWS =
		60, /* a request unseen for so long loses its samples when room is short */
};

struct sample {
	uint64_t request; /* id, 0: none; never given to a second request */
	uint32_t stack, thread, object;
	uint8_t state; /* or AGGREGATE_EVENT_WAIT */
	uint64_t ns, count;
};

struct done {
	uint64_t request;
	uint32_t route;
	uint32_t status;     /* HTTP, 0 unknown */
	bool failed;         /* an error whatever the status; a status from 500 is one by itself */
	uint8_t event_state; /* what AGGREGATE_EVENT_WAIT was for this request */
	uint64_t latency_ns;
	uint64_t ledger_ns[AGGREGATE_STATES];
	uint64_t end_ns; /* CLOCK_MONOTONIC */
};

struct aggregate;

/** Returns NULL only when out of memory. Context: agent. */
struct aggregate *aggregate_create(const struct config *c);
void aggregate_destroy(struct aggregate *a);

/**
 * Add one sample. Without a request it belongs to route 0, except an event wait, which is idleness and not kept.
 * A request that ended a moment ago still gets it. Context: agent.
 */
void aggregate_sample(struct aggregate *a, const struct sample *s);

/** Whether a sample of @request, which may have ended, would still find it. Context: agent. */
bool aggregate_knows(const struct aggregate *a, uint64_t request);

/** Count one ended request and give its samples their route and latency. Context: agent; allocates only while warming up. */
void aggregate_done(struct aggregate *a, const struct done *d);

/** Drop what is pending for a request that will never end. Context: agent. */
void aggregate_forget(struct aggregate *a, uint64_t request);

/** Set how many requests of @route are in progress now, before the window is encoded. Context: agent. */
void aggregate_in_flight(struct aggregate *a, uint32_t route, uint32_t count);

struct aggregate_window {
	uint64_t seq;
	uint64_t start_ns, end_ns;           /* CLOCK_MONOTONIC */
	uint64_t start_unix_ns, end_unix_ns; /* CLOCK_REALTIME */
	uint64_t lost_windows;               /* transport_lost() */
	bool last;
};

/**
 * Append the window as one frame and begin the next one, empty but for what is pending.
 *
 * @self may be NULL. A window over three quarters of the spool goes without its states' histograms, then without its
 * samples too, and is counted: what is exact stays. Context: agent.
 * Returns 0, -ENOMEM or -EMSGSIZE: then the window is lost, and counted.
 */
int aggregate_window_encode(struct aggregate *a, const struct aggregate_window *window,
			    const struct self_report *self, struct encode_buffer *buffer);

enum {
	AGGREGATE_DROPS = 10,
};

/** Fill what was refused since the start. Returns AGGREGATE_DROPS. Context: agent. */
unsigned aggregate_drops(const struct aggregate *a, struct self_drop out[AGGREGATE_DROPS]);

/** Bytes of memory held. Context: agent. */
size_t aggregate_bytes(const struct aggregate *a);

/** The most that its caps allow, with so many @routes. */
size_t aggregate_bytes_max(const struct aggregate *a, uint32_t routes);

#endif
