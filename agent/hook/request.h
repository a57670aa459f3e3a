/* SPDX-License-Identifier: MIT
 *
 * Requests and their ledgers. A request's time is charged along one line: accounted_ns is the moment up to which its
 * ledger is complete, and every step charges [accounted_ns, now] to some state and moves it on. So the states add up to
 * the latency by construction, whatever happens in between.
 *
 *	arrival        read          parked        taken up          last byte sent
 *	|---- queue ----|-- a slice --|-- parked ----|-- a slice --------|
 *	                 cpu+waits     loop + io|sleep|lock
 *
 * A request is worked on by the thread whose slice it owns, or it is parked. Everything here is called on host threads
 * inside hooks; a request is changed only under its try-lock, and who does not get it goes without.
 */
#ifndef AGENT_REQUEST_H
#define AGENT_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/hook/http.h"
#include "agent/thread.h"

enum {
	REQUEST_NAME_BYTES = 128,
	REQUEST_LABELS = 4,
	LABEL_KEY_BYTES = 32,
	LABEL_VALUE_BYTES = 64
};

enum request_life {
	REQUEST_FREE,
	REQUEST_ACTIVE,
	REQUEST_DONE
};

/* Why a request came back to a thread, which says what its parked time was spent on. */
enum resume {
	RESUME_IO,
	RESUME_TIMER,
	RESUME_HANDOVER
};

/* A request that never parks touches the first three lines, and as many more as its path is long. */
struct request {
	struct pool_link link;
	_Atomic uint32_t
		generation; /* grows when the slot is taken; with the index it makes the request_id */
	_Atomic uint32_t life;
	_Atomic uint32_t lock;

	/* under lock */
	pid_t tid; /* of the thread that works on it or parked it: its record may have a new user */
	uint32_t thread; /* index of that record */
	uint32_t status;
	bool parked;
	bool was_parked; /* ever: the times of parking below are set */
	bool detached;
	bool pipelined; /* read, but behind another one of its connection */
	bool failed;
	uint8_t named; /* enum named */
	_Atomic uint8_t labels;
	_Atomic uint32_t told; /* index of what the host told about it, 0: nothing */
	uint64_t arrival_ns;
	uint64_t accounted_ns;
	uint64_t end_ns;

	_Alignas(64) uint64_t ledger_ns[STATES];
	struct http_head head;

	uint64_t parked_busy_ns; /* of the thread it parked on, when it did */
	uint64_t parked_runq_ns; /* likewise, its run-queue delay in event waits */
	uint64_t event_wait_ns
		[SLICE_WAITS]; /* parked time by state: what EVENT_WAIT samples become */
};

/* Where the name is that the host gave. */
enum named {
	NOT_NAMED,
	NAMED_IN_HEAD, /* it began by the API: in the place of a path */
	NAMED_APART    /* it is an HTTP request, with a path of its own */
};

/* What the host told about a request by the API: few do, so these have a pool of their own. */
struct told {
	struct pool_link link;
	char name[REQUEST_NAME_BYTES];
	char label_key[REQUEST_LABELS][LABEL_KEY_BYTES];
	char label_value[REQUEST_LABELS][LABEL_VALUE_BYTES];
};
enum {
	TOLD_SLOTS = 512
};

/** What was told about @r, or NULL. */
const struct told *request_told(const struct request *r);

/** A place for what is told about @r, or NULL when all are taken (counted). */
struct told *request_tell(struct request *r);

/** The name that the host gave @r, or NULL. */
static inline const char *request_name(const struct request *r)
{
	const struct told *told = r->named == NAMED_APART ? request_told(r) : NULL;

	return told ? told->name : r->named == NAMED_IN_HEAD ? r->head.path : NULL;
}

/** The slot of @r, which is nobody's now, is about to go back: what was told about it does. */
void request_clear(struct request *r);

/** The active request called @id, or NULL when it has ended. */
struct request *request_get(request_id id);

/** Take a slot for a request that arrived at @arrival_ns. 0 when none is free (counted). It is parked nowhere yet. */
request_id request_open(struct thread *t, uint64_t arrival_ns);

/** @t works on @id from @now_ns on; its time until now was `queue`. */
void request_start(struct thread *t, request_id id, uint64_t now_ns);

/** @t is found to work on @id: what it did since its last boundary was for it, too. No effect when it already does. */
void request_resume(struct thread *t, request_id id, uint64_t now_ns, enum resume why);

/** @t lays its request down, if it has one: it is parked from @now_ns on. Returns it, or 0. */
request_id request_park(struct thread *t, uint64_t now_ns);

/** The request ends at @now_ns; it goes to the agent's thread. Ending a request that has ended does nothing. */
void request_end(struct thread *t, request_id id, uint64_t now_ns, uint32_t status, bool failed);

/** @id was no request after all: as if it had never been. */
void request_cancel(struct thread *t, request_id id, uint64_t now_ns);

/** @t has left our code in the middle: let go of what it holds. The requests lose a little time. Context: hook. */
void request_abandon(struct thread *t);

/** A boundary without an owner: what @t did before @now_ns belongs to nobody. It was idle from @idle_ns on. */
void slice_begin(struct thread *t, uint64_t idle_ns, uint64_t now_ns);

/** Time @t waited inside its slice, for io, a lock or in sleep. */
static inline void slice_wait(struct thread *t, enum state state, uint64_t ns)
{
	t->slice.wait_ns[state - IO] += ns;
	t->slice.waits++;
}

#endif
