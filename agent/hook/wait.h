/* SPDX-License-Identifier: MIT
 *
 * Timing one call that may block, and showing it to the agent's thread while it does.
 *
 *	struct wait w;
 *	WAIT_BEGIN(&w, t, IO, WAIT_LONG, fd, 0);
 *	result = real.read(fd, ...);
 *	wait_end(&w);
 *
 * WAIT_BEGIN is a macro because it notes where the calling wrapper itself stands: the stack as the agent will unwind it.
 */
#ifndef AGENT_WAIT_H
#define AGENT_WAIT_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/hook/runq.h"
#include "agent/sig/arch.h"
#include "agent/thread.h"

/* BRIEF: mostly answered at once (a write); LONG: worth asking the kernel how much of it was run-queue delay. */
enum wait_kind {
	WAIT_BRIEF,
	WAIT_LONG,
	WAIT_POLL /* as LONG, and it blocks even when its descriptor does not */
};

struct wait {
	struct thread *t;
	uint64_t start_ns;
	bool split; /* worth knowing how much of it is run-queue delay */
	struct runq runq;
	bool polls;
	bool nested;      /* inside another wait: a signal handler of the host ran in it */
	uint32_t min_ns;  /* less than this is no wait */
	uint32_t seq;     /* of the slot while it is ours */
	uintptr_t caller; /* of the wrapper: return address */
	enum state state;
};

/** The frame of the caller, for WAIT_BEGIN. */
#define WAIT_WHERE(slot) ARCH_HERE((slot)->pc, (slot)->sp, (slot)->fp)

#define WAIT_BEGIN(w, thread, state_, kind_, fd_, object_)                                         \
  do {                                                                                             \
    if (wait_enter((w), (thread), (state_), (kind_), (fd_), (uintptr_t)(object_))) {               \
      WAIT_WHERE(&(w)->t->wait);                                                                   \
      (w)->caller = (uintptr_t)__builtin_return_address(0);                                        \
      (w)->seq = wait_publish((w)->t);                                                             \
    }                                                                                              \
  } while (0)

/** First half of WAIT_BEGIN: false when nested, then the slot stays the outer wait's. */
bool wait_enter(struct wait *w, struct thread *t, enum state state, enum wait_kind kind, int fd,
		uintptr_t object);

static inline uint32_t wait_publish(struct thread *t)
{
	uint32_t seq = atomic_load_explicit(&t->wait.seq, memory_order_relaxed) + 1;

	atomic_store_explicit(&t->wait.seq, seq, memory_order_release);
	return seq;
}

/**
 * The place of @t's waits that this is, by what tells places apart; NULL: not there. @make: then it is made, by the owner
 * only, and NULL says that there is no room. Context: hook | agent.
 */
struct wait_place *wait_place(struct thread *t, const struct wait_place *like, bool make);

/** The host jumps out of whatever it waits in: the wait's own end will not come. Context: hook. */
void wait_jumped(struct thread *t);

/**
 * The call returned: charge its time to the thread's slice. Keeps errno. Returns the time now.
 */
uint64_t wait_end(struct wait *w);

/** As wait_end(), but the time is nobody's or is charged elsewhere: idle threads and event loops. */
uint64_t wait_end_idle(struct wait *w);

#endif
