/* SPDX-License-Identifier: MIT
 *
 * See wait.h. The slot belongs to the thread; nothing here locks or allocates.
 */
#include "agent/hook/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/hook/request.h"
#include "agent/hook/runq.h"

/*
 * A shorter call did not wait but work, or next to nothing: a sleep and a wake-up alone take some us. A write to a socket of
 * the same machine does the receiver's part of the work, too, and takes longer.
 */
enum {
	WAIT_MIN_NS = 5000,
	WAIT_MIN_BRIEF_NS = 20000
};

/* Shorter calls are not worth a question about their descriptor: the CPU clock tells what they were. */
enum {
	WAIT_ASK_MIN_NS = 20000
};

enum {
	PLACE_TRIES = 4
};

static bool never_blocks(int fd)
{
	long flags = fd < 0 ? -1 : syscall(SYS_fcntl, fd, F_GETFL);

	return flags >= 0 && flags & O_NONBLOCK;
}

static bool slot_busy(const struct thread *t)
{
	return atomic_load_explicit(&t->wait.seq, memory_order_relaxed) & 1;
}

bool wait_enter(struct wait *w, struct thread *t, enum state state, enum wait_kind kind, int fd,
		uintptr_t object)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);

	w->t = t;
	w->state = state;
	/*
	 * A busy slot is an outer wait when we are deeper on the same stack; otherwise the host left it unseen (cancellation)
	 * or runs on another stack: then it is stale, and ours from now on.
	 */
	w->nested = slot_busy(t) && here < t->wait.sp && t->wait.sp - here < 1u << 20;
	if (w->nested)
		return false;
	if (slot_busy(t))
		wait_publish(t);
	count(&t->waits);
	w->start_ns = clock_ns();
	w->polls = kind == WAIT_POLL;
	w->min_ns = kind == WAIT_BRIEF ? WAIT_MIN_BRIEF_NS : WAIT_MIN_NS;
	w->split = kind != WAIT_BRIEF && state <= SLEEP &&
		   atomic_load_explicit(&t->current, memory_order_relaxed) != 0;
	if (w->split)
		runq_before(t, w->start_ns, &w->runq);
	t->wait.state = (uint8_t)state;
	t->wait.fd = fd;
	t->wait.object = object;
	t->wait.request = atomic_load_explicit(&t->current, memory_order_relaxed);
	return true;
}

/* Close the slot if it is still ours. */
static void slot_close(const struct wait *w)
{
	if (!w->nested && atomic_load_explicit(&w->t->wait.seq, memory_order_relaxed) == w->seq)
		wait_publish(w->t);
}

void wait_jumped(struct thread *t)
{
	if (slot_busy(t))
		wait_publish(t);
}

struct wait_place *wait_place(struct thread *t, const struct wait_place *like, bool make)
{
	uintptr_t caller = atomic_load_explicit(&like->caller, memory_order_relaxed);
	uint32_t hash = ((uint32_t)caller ^ like->sp >> 3) * 2654435761u;

	for (unsigned i = 0; i < PLACE_TRIES; i++) {
		struct wait_place *p = &t->places[((hash >> 16) + i) % WAIT_PLACES];
		uintptr_t found = atomic_load_explicit(&p->caller, memory_order_acquire);

		if (found == caller && p->sp == like->sp && p->state == like->state &&
		    p->request == like->request)
			return p;
		if (found)
			continue;
		if (!make)
			return NULL;
		p->sp = like->sp;
		p->state = like->state;
		p->request = like->request;
		atomic_store_explicit(&p->caller, caller, memory_order_release);
		return p;
	}
	return NULL;
}

/* Before the slot closes: who sees that the wait is over sees how long it was. */
static void count_at_place(const struct wait *w, uint64_t waited_ns)
{
	const struct wait_place like = { .caller = w->caller,
					 .sp = (uint32_t)w->t->wait.sp,
					 .state = (uint8_t)w->state,
					 .request = w->t->wait.request != 0 };
	struct wait_place *p = wait_place(w->t, &like, true);

	if (!p)
		return;
	atomic_store_explicit(&p->ns,
			      atomic_load_explicit(&p->ns, memory_order_relaxed) + waited_ns,
			      memory_order_relaxed);
	atomic_store_explicit(&p->last, w->t->wait.request, memory_order_relaxed);
}

uint64_t wait_end(struct wait *w)
{
	int saved;
	struct thread *t = w->t;
	uint64_t now = clock_ns(), waited;

	if (w->nested)
		return now;
	waited = now > w->start_ns ? now - w->start_ns
				   : 0; /* the clock may be set right meanwhile */
	if (likely(waited < w->min_ns)) {
		slot_close(w);
		return now;
	}
	saved = errno;
	if (w->state == IO && !w->polls) {
		t->slice.ask = true;
		/* then the call worked, or lost its processor: the CPU clock tells how much of which */
		if (waited >= WAIT_ASK_MIN_NS && thread_live(t) && never_blocks(t->wait.fd))
			waited = 0;
	}
	if (w->split) {
		uint64_t delay =
			runq_within(t, &w->runq, (enum runq_wait)(w->state - IO), waited, now);

		waited -= delay;
		t->slice.runq_ns += delay;
	}
	if (w->state < STATES) {
		slice_wait(t, w->state, waited);
		count_at_place(w, waited);
	}
	slot_close(w);
	errno = saved;
	return now;
}

uint64_t wait_end_idle(struct wait *w)
{
	slot_close(w);
	return clock_ns();
}
