/* SPDX-License-Identifier: MIT
 *
 * All state that host threads and the agent's thread share: one struct thread per host thread, one struct shared for
 * the process. It lies in memory that is mapped once, touched only when used, never unmapped, and wiped by the kernel
 * in a fork's child (MADV_WIPEONFORK): a child, however it was made, finds zeros, and starts a life of its own.
 */
#ifndef AGENT_THREAD_H
#define AGENT_THREAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/clock.h"
#include "agent/hook/pool.h"
#include "agent/sig/ring.h"

/* The order of sonde.proto's State. */
enum state {
	QUEUE,
	CPU,
	RUNQ,
	IO,
	LOCK,
	SLEEP,
	LOOP,
	OTHER,
	STATES
};
/* Only in samples: waited in an event loop for a parked request; which state that was is known when it ends. */
enum {
	EVENT_WAIT = STATES
};

/* A request's name between threads: generation << 32 | index into the pool; 0 is none. */
typedef uint64_t request_id;

/*
 * A wait in progress. The owner writes the fields, then makes seq odd; the agent's thread reads seq, the fields, the
 * stack, and seq again: the same odd number means that all it read belongs to this wait.
 */
struct wait_slot {
	_Atomic uint32_t seq;
	int fd;           /* -1: none */
	uintptr_t object; /* lock address, 0: none */
	request_id request;
	uintptr_t pc, sp, fp; /* where the wrapper stands */
	uint8_t state;
};

/* The states of timed waits are neighbours. */
enum {
	SLICE_WAITS = SLEEP - IO + 1
};

/*
 * How long a thread has waited in all, by place: who called the wrapper, how deep in the stack, in which state, with a
 * request or without. That is nearly the stack, for the price of two loads. Where the agent's looks find out which stack it
 * is, the sum tells exactly how much (core/peek.c). A thread that waits at more places than there is room for goes by looks
 * alone at the others.
 */
enum {
	WAIT_PLACES = 32
};
struct wait_place {
	/* owner stores, caller last (release); agent thread loads (acquire); then constant */
	_Atomic uintptr_t caller; /* return address, 0: free */
	uint32_t sp;              /* its low half */
	uint8_t state;
	bool request;
	/* owner stores, agent thread loads */
	_Atomic uint64_t ns;
	_Atomic uint64_t last; /* request_id that waited here last */
};

/*
 * What a thread has been doing since its last boundary: from taking up a piece of work to laying it down. When the owner
 * becomes known, even afterwards, the whole slice is charged to it.
 */
struct slice {
	request_id owner;
	uint64_t start_ns;
	uint64_t
		cpu_ns; /* the thread's CPU clock at the start, as far as known; 0: nobody could ask */
	uint64_t wait_ns[SLICE_WAITS]; /* io, lock, sleep since then */
	uint64_t runq_ns; /* run-queue delay found inside those waits, already taken off them */
	bool ask; /* it has calls of which only the CPU clock knows whether they waited or worked */
	uint32_t waits; /* how many those were */
	uint64_t
		sched_ns; /* run-queue delay of the thread as last read before the start: at most what it was then */
};

enum thread_life {
	THREAD_FREE,
	THREAD_LIVE,
	THREAD_ENDED
};

struct thread {
	struct pool_link link;

	/* constant while live */
	pid_t tid;
	uint32_t index;
	int timer; /* kernel timer id, -1: none */
	uint32_t timer_period_ns;

	/* bounds of the stack, [low, high), 0: not known yet, the agent fills them in */
	_Atomic uintptr_t stack_low, stack_high;

	_Atomic uintptr_t
		stack_seen; /* an address on it, by the owner or its signal handler; 0: none */

	/* the owner, before it is live */
	_Atomic bool called; /* it has called us: not only found by the agent's scan */
	uintptr_t start;     /* its function, 0: not known */
	/* the owner, before it has ended */
	char name[16]; /* empty: ask the kernel */
	/* whoever arms the timer or ends the thread adds, the agent takes: CPU time that no signal told of */
	_Atomic uint64_t unsampled_ns;

	/* owner thread */
	uint32_t locks; /* held or being tried, and where the first was: see hook/owned.h */
	uintptr_t locks_frame;
	struct slice slice;
	uint64_t cpu_read_ns;   /* what its CPU clock said when it was last read */
	uint32_t cpu_trust_ns;  /* so much running is believed without reading it, see request.c */
	uint32_t cpu_waits;     /* waits since then */
	uint32_t wait_cpu_ns;   /* what going to sleep and waking up takes of it, as learned */
	uint64_t busy_ns;       /* total time outside event waits, up to event_exit_ns */
	uint64_t event_exit_ns; /* when the last event wait returned */
	uint64_t event_runq_ns; /* run-queue delay found inside event waits so far */
	uint64_t sched_last_ns; /* run-queue delay as read last, and when, see hook/runq.c */
	uint64_t sched_read_ns;

	_Atomic uint32_t
		parked; /* requests that parked here and were not taken up again; any thread */

	/* owner thread stores, its own signal handler and the agent thread load */
	_Atomic uint64_t current; /* request_id */

	/*
	 * What the agent's thread reads at every look, for every thread: one cache line that tells whether anything is new.
	 * life: owner stores (release), agent thread loads (acquire); the agent alone goes from ENDED to FREE.
	 * news: grows when there is more for the agent to take: samples (the signal handler stores, release), ended requests (the
	 * owner adds: its handler may come in between).
	 */
	_Alignas(64) _Atomic uint32_t life;
	_Atomic uint32_t news;
	struct wait_slot wait;

	_Atomic uint64_t waits; /* so far; owner thread stores, agent thread loads */

	struct ring ended; /* requests that it ended, see hook/ended.h */
	bool telling; /* owner thread: in the middle of a record; a handler of the host must not begin another */
	_Atomic uint32_t spare; /* owner thread: slot of the request that ended last, 0: none */
	_Atomic uint64_t
		done; /* slots of ended requests for which the ring had no room, for the agent to take */

	/* signal handler stores, who arms the timer too: the thread's CPU time when the next sample is due, 0: no timer */
	_Atomic uint64_t due_ns;

	struct wait_place places[WAIT_PLACES];

	/* signal handler stores, agent thread loads */
	_Atomic uint64_t handler_ns;

	struct ring ring; /* CPU samples, from the signal handler */
};

_Static_assert(offsetof(struct thread, life) / 64 ==
		       (offsetof(struct thread, wait) + sizeof(struct wait_slot) - 1) / 64,
	       "a look reads one cache line");

/* What the handler writes into the ring. */
enum {
	RECORD_SAMPLE = 1
};
struct sample_record {
	struct ring_record record;
	request_id request;
	uint64_t weight_ns;
	uint32_t depth;
	uint32_t end; /* enum unwind_end */
	uintptr_t pcs[];
};

/* Why something was not counted or not seen; names in core/agent.c. */
enum drop {
	DROP_THREADS,     /* no free slot for a thread */
	DROP_REQUESTS,    /* no free slot for a request */
	DROP_CONNECTIONS, /* no free slot for a connection */
	DROP_DESCRIPTORS, /* descriptor beyond the table */
	DROP_PIPELINE,    /* more pipelined requests than a connection keeps */
	DROP_LOST,        /* HTTP connections whose bytes stopped making sense, or passed unseen */
	DROP_RACED,       /* two threads used one connection or request at the same moment */
	DROP_TIMERS,      /* timer_create refused: this thread's CPU is not sampled */
	DROP_RING,        /* CPU samples: ring full */
	DROP_REENTRY,     /* sampling signal without a thread record */
	DROP_MARKS,       /* marks and labels */
	DROPS
};

/* What is learned about run-queue delay in waits, by kind and by octave of their length from 65 us. */
enum runq_wait {
	RUNQ_IO,
	RUNQ_LOCK,
	RUNQ_SLEEP,
	RUNQ_EVENT,
	RUNQ_WAITS
};
enum {
	RUNQ_OCTAVES = 16
};

enum agent_life {
	AGENT_OFF,
	AGENT_STARTING,
	AGENT_ON,
	AGENT_DISABLED
};

enum {
	MARKS = 16,
	MARK_BYTES = 128
};

struct shared {
	_Atomic uint32_t life; /* enum agent_life; 0 in a fresh fork's child */
	pid_t pid;
	pid_t agent_tid;

	_Atomic uint32_t serving; /* 1 once there was a request */
	_Atomic uint32_t whole;   /* 1: this process, or the child it is, was made by libc */

	struct pool threads, requests, told, connections, starts;
	_Atomic uint64_t drops[DROPS];
	struct {
		_Atomic uint64_t tokens_at_ns;
		_Atomic uint32_t share[RUNQ_WAITS][RUNQ_OCTAVES];
	} runq;
	struct {
		_Atomic uint32_t borrowed, forking; /* see hook/borrow.h */
	} borrow;

	/* the agent sleeps on wake; whoever wants it to hurry makes it grow and wakes it */
	_Atomic uint32_t wake;
	_Atomic uint32_t flush_asked, flush_done;
	_Atomic uint32_t settle;    /* before the next flush is answered: look at the modules */
	_Atomic uint32_t unstamped; /* off: no socket has our stamps any more */
	_Atomic uint32_t retiring;  /* the agent's thread is to end */

	struct mark {
		_Atomic uint32_t ready; /* 0 free, 1 being written, 2 to be read */
		uint64_t mono_ns;
		char name[MARK_BYTES];
	} marks[MARKS];
};

/* Thread-local: initial-exec, so that reading it never allocates. */
struct thread_local_state {
	struct thread *self;
	uint32_t
		outside; /* never to be touched: the agent's own thread, a thread past its end, a vfork child */
	uint32_t
		in_vfork; /* the parent of a vfork sees its child's calls as its own: set by the stub */
	bool blocks;      /* the host believes that our signal is blocked here */
	uintptr_t alt_low, alt_bytes; /* the alternate signal stack that the host has set */
};
extern __thread struct thread_local_state tls;

extern struct shared *shared; /* NULL until the agent has started */

/** Whether @t is still followed. Asked before a system call of ours in the middle of the host's: the agent may have retired. */
/** Whether the agent has retired in this process: it makes no system call any more. Context: hook. */
static inline bool agent_off(void)
{
	return atomic_load_explicit(&shared->life, memory_order_acquire) == AGENT_DISABLED;
}

static inline bool thread_live(const struct thread *t)
{
	return atomic_load_explicit(&t->life, memory_order_relaxed) == THREAD_LIVE;
}

static inline void drop(enum drop cause)
{
	atomic_fetch_add_explicit(&shared->drops[cause], 1, memory_order_relaxed);
}

/** Add to a counter that only the calling thread changes. Context: hook. */
static inline void count(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#endif
