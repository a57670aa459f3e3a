/* SPDX-License-Identifier: MIT
 *
 * Everything the agent's thread owns in one life of the agent, and the steps of its loop, one file each.
 */
#ifndef AGENT_CORE_LIFE_H
#define AGENT_CORE_LIFE_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/core/aggregate.h"
#include "agent/core/budget.h"
#include "agent/core/config.h"
#include "agent/core/cost.h"
#include "agent/core/dict.h"
#include "agent/core/identity.h"
#include "agent/core/modules.h"
#include "agent/core/route.h"
#include "agent/core/transport.h"
#include "agent/sig/unwind.h"
#include "agent/thread.h"

enum {
	LIFE_THREADS = 4096,
	LIFE_SIBLINGS = 64, /* a second function in the same slot takes it over */
	LIFE_PLACES = 1024, /* as well */
	LIFE_LABELLED = 4   /* labelled requests told per window */
};

/* What was last seen of a host thread's record, small and apart: at most looks nothing else is touched. */
struct seen {
	uint32_t life, news, seq;
};

/* What a look has found out about one of a thread's places to wait at. */
struct seen_place {
	uint32_t stack, object; /* at the last look that found it waiting here */
	uint64_t counted_ns;    /* of the place's time */
};

/* What the agent knows of a host thread, by the index of its record. */
struct known {
	pid_t tid;           /* whose this is, to notice that the record has a new user */
	uint32_t dict;       /* id in the dictionary, 0: not told yet */
	bool missed;         /* a scan did not find the thread */
	uint32_t ring_bytes; /* that the record's ring has touched, whoever used it */

	/* the wait seen at the last look: counted from here to there when it is over, and when a window closes */
	bool waits;
	uint8_t state;
	uint32_t stack, object;
	request_id request;
	uint64_t counted_ns; /* a look's time: up to here it has been counted */
	uint64_t counted_looks;
	uint64_t counted_before_ns; /* of this wait, as windows closed */
	uint64_t
		unsure_ns; /* it began in this time before the first look that saw it: left to its place to say */
	uintptr_t caller; /* with sp: its place; 0: not known */
	uint32_t sp;

	bool waited;          /* since the last window closed */
	uint32_t places_seen; /* bit per place */
	struct seen_place places[WAIT_PLACES];

	uint32_t cpu_stack;     /* of its last CPU sample, 0: none yet */
	request_id cpu_request; /* and what it worked on */
};

/* Where the threads that begin with one function were last seen on a CPU; direct-mapped. */
struct sibling {
	uintptr_t start;
	uint32_t cpu_stack;
};

/* The stack seen last at a place, by what it has in common with other threads' places; direct-mapped. */
struct place_stack {
	uintptr_t caller, depth; /* depth: of the stack pointer below the stack's upper end */
	uint32_t stack;
};

struct life {
	const struct config *config;
	struct identity identity;
	struct transport *transport;
	struct dict *dict;
	struct aggregate *aggregate;
	struct modules *modules;
	struct route_table *routes;
	bool route_told[ROUTE_IDS_MAX + 1]; /* the dictionary knows it; ids keep their names */

	bool no_proc;   /* ... to read any more, and that was told */
	bool own_files; /* this thread has a descriptor table of its own */
	int pidfd;      /* of this process, to borrow the host's descriptors; -1: cannot */

	struct sibling siblings[LIFE_SIBLINGS];
	struct place_stack place_stacks[LIFE_PLACES];
	uint64_t seq;
	uint64_t window_ns, window_unix_ns; /* start of the one in the making */
	uint64_t looked_ns, looks;          /* last look at the waits; looks so far */
	uint64_t next_scan_ns, scan_due_ns; /* of threads: not before, at the latest */
	uint64_t refreshed_ns, refresh_ns;  /* last look at the modules; time to the next one */
	bool unknown_code;                  /* an address without a module was seen: look again */
	unsigned drained;                   /* requests that the last drain found */
	unsigned waiting;                   /* requests that the last look saw wait */

	unsigned labelled_told;       /* in this window */
	uint64_t slowest_labelled_ns; /* of all so far */

	/* totals, and what the last window has told of them */
	uint64_t samples, samples_told, waits_told;
	uint64_t process_cpu_told, agent_cpu_told;
	uint64_t handler_ns_gone, handler_ns_told; /* of threads that have ended */
	uint64_t ring_lost_gone, waits_gone;
	uint64_t ends[UNWIND_END_COUNT];        /* in this window */
	uint64_t hooks_ns, hooks_ns_told;       /* CPU of our hooks, by samples */
	uint64_t sampling_ns, sampling_ns_told; /* CPU of this thread over samples and waits */
	uint64_t wire_bytes_told;

	struct budget budget;
	uint64_t budget_ns, budget_at_ns; /* cost since then */
	uint32_t period_ns;               /* sampling period in force */
	struct cost_map cost_map;

	/* last, and touched only as far as there are threads */
	struct known known[LIFE_THREADS + 1];
	struct seen seen[LIFE_THREADS + 1];
};

/** Take what host threads have left: ended requests, CPU samples, marks. With @look_ns, now, also look at their waits. */
void drain(struct life *l, uint64_t look_ns);

/**
 * Go once over all threads: take new CPU samples and ended requests, close waits that are over, free records of ended threads. @look_ns not
 * 0: also look at the waits in progress; each stands for the time since the last look.
 */
void peek(struct life *l, uint64_t look_ns);

/** Count the waits in progress up to the last look, into the window that is about to close. */
void peek_settle(struct life *l);

/** Take @t's CPU samples. */
void drain_ring(struct life *l, struct thread *t);

/** Take the requests that @t has ended. */
void drain_requests(struct life *l, struct thread *t);

/** @t has ended and nothing of it is left: its record is free. */
void drain_free(struct life *l, struct thread *t);

/** When it is time, find threads that never called us and those that are gone; fill in stack bounds. */
void scan(struct life *l, uint64_t now_ns);

/** The dictionary id of @t, telling the dictionary when it is new. */
uint32_t life_thread(struct life *l, const struct thread *t);

/** The stack of what is known only by an address in the function it lies under, 0: not even that. */
uint32_t life_unsampled(struct life *l, uintptr_t pc);

/** @depth addresses as unwind_walk() gives them, leaf first -> stack id. */
uint32_t life_stack(struct life *l, const uintptr_t *pcs, unsigned depth);

/** The route of @r, which is in progress, as far as it is known, 0 when not. */
struct request;
uint32_t life_route(struct life *l, const struct request *r);

#endif
