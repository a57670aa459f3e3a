/* SPDX-License-Identifier: MIT
 *
 * Brings windows to the collector, or into a file: a state machine that never blocks, driven by the agent's loop.
 *
 *	down ──connect──► connecting ──► greeting ──Welcome──► streaming
 *	  ▲ back-off         │  refused     │ wrong answer         │ broken, garbage, stalled
 *	  └──────────────────┴──────────────┴──────────────────────┘
 *
 * A window stays in the spool until the collector says that it is stored, and goes out again on the next connection
 * when it did not say so. The spool is bounded: the oldest goes first, and is counted. Our socket's number is checked
 * before each use, for hosts close and reuse descriptors they do not know. Single thread (the agent's).
 */
#ifndef AGENT_CORE_TRANSPORT_H
#define AGENT_CORE_TRANSPORT_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/core/encode.h"

struct config;
struct dict;
struct identity;
struct transport;

enum {
	TRANSPORT_STEP_BYTES = 256 << 10, /* written per step */
	TRANSPORT_ANSWER_MAX = 4096,      /* a longer frame from the collector is wrong */
	TRANSPORT_BACKOFF_MS = 100,       /* first, doubling */
	TRANSPORT_BACKOFF_MAX_MS = 5000,
	TRANSPORT_ANSWER_MS = 5000, /* for connecting, and for the Welcome */
	TRANSPORT_STALL_MS = 30000, /* something is out and nothing comes back */
	TRANSPORT_TRIES = 5, /* connections that may break on one window before it is given up */
	TRANSPORT_FLUSH_MS = 200, /* what agents give transport_flush() at exit */
};

#define TRANSPORT_FILE_MAX ((uint64_t)1 << 30) /* bytes of SONDE_OUTPUT */

/** @c and @self are copied. Returns NULL only when out of memory. Context: agent. */
struct transport *transport_create(const struct config *c, const struct identity *self);
void transport_destroy(struct transport *t);

/**
 * In a fork's child: close the child's copy of the parent's descriptor. The memory stays as it is, because the fork may have
 * caught the parent's thread halfway; the connection goes on working for the parent. @t must not be used again.
 */
void transport_abandon(struct transport *t);

/**
 * Hand over one encoded window, or with @seq 0 another frame (Event, Slow) that is sent once and not acknowledged.
 *
 * @bytes: from malloc; belongs to the transport from here on, whatever happens. Older windows make room.
 * Context: agent. Returns 0; -ENOSPC when it alone is larger than the spool, or -ENOMEM: then it is lost and counted.
 */
int transport_queue(struct transport *t, uint8_t *bytes, size_t length, uint64_t seq);

/** Windows of this instance that no collector will ever get. Never shrinks. Context: agent. */
uint64_t transport_lost(const struct transport *t);

/** Do what can be done without waiting: connect, read, write. Context: agent. */
void transport_step(struct transport *t, struct dict *d, uint64_t now_ns);

/**
 * What to wait for before the next step: @out for poll() (its fd is -1 when there is nothing to watch) and the time, in ns
 * of CLOCK_MONOTONIC, at which to step in any case (UINT64_MAX: none). Context: agent.
 */
void transport_poll(const struct transport *t, struct pollfd *out, uint64_t *deadline_ns);

/**
 * Before the process ends: send what is there and wait for its acknowledgement, until @deadline_ns of CLOCK_MONOTONIC.
 *
 * Gives up at once when no collector can be reached. Context: agent, or the exiting thread when the agent's is stopped.
 * Returns whether everything is stored.
 */
bool transport_flush(struct transport *t, struct dict *d, uint64_t deadline_ns);

struct transport_state {
	bool connected;       /* streaming, or the file is open */
	uint64_t connections; /* greeted so far */
	uint64_t robbed;      /* times that the host took our descriptor */
	uint64_t rejected;    /* times that the answer was wrong */
	uint64_t sent_bytes;  /* to collectors and into the file, all in all */
	size_t spool_bytes;
	unsigned spool_frames;
};

struct transport_state transport_state(const struct transport *t);

enum {
	TRANSPORT_DROPS = 4,
};

/** Fill what was refused since the start, lost windows aside. Returns TRANSPORT_DROPS. Context: agent. */
unsigned transport_drops(const struct transport *t, struct self_drop out[TRANSPORT_DROPS]);

/** Bytes of memory held. Context: agent. */
size_t transport_bytes(const struct transport *t);

#endif
