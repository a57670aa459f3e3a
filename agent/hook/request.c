/* SPDX-License-Identifier: MIT
 *
 * See request.h. Charging a slice of a thread (wall time from start to end on one thread):
 *
 *	wall = cpu + waits + rest          cpu: thread CPU clock, waits: wrapped calls that blocked
 *
 * A wait's time contains the CPU time of its own system call, so cpu + waits may exceed wall: then the waits give way,
 * io first, because its calls are the ones that work. What is left over was spent runnable without a processor, as far
 * as the kernel's run-queue delay says so; beyond that it is `other`.
 */
#include "agent/hook/request.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/hook/ended.h"
#include "agent/hook/owned.h"
#include "agent/hook/runq.h"
#include "agent/sig/arch.h"

/* Ended requests that no ring had room for and that are worth waking the agent for: far below the number of slots. */
enum {
	DONE_BELL = 256
};

/*
 * A CPU clock costs a system call, 0.36 us. So it is read once per millisecond of running, and in between a thread that does
 * not wait is taken to run. Where that was wrong (it was preempted, or blocked in a call we do not see), the next reading says
 * so: the time that was too much is taken off the slices that follow, so that sums are right; and a thread that was wrongly
 * believed for more than an eighth of its time is believed no longer, until it deserves it again. What the kernel works to put a
 * thread to sleep and to wake it is learned on the way, or the next slice with a reading would pay for all of it.
 */
enum {
	CPU_TRUST_MAX_NS = 1000000,
	CPU_TRUST_MIN_NS = 50000,
	CPU_DOUBT_NS = 5000,
	WAIT_CPU_MAX_NS = 50000,
	WAIT_CPU_LEARN = 4
};

/* Tries before a thread goes without a lock that another one holds for some 100 ns; a request's end comes only once. */
enum {
	LOCK_SPINS = 200,
	LOCK_SPINS_LAST = 5000
};

static struct request *slot_of(request_id id)
{
	return pool_at(&shared->requests, (uint32_t)id);
}

struct request *request_get(request_id id)
{
	struct request *r;

	if (id == 0 || (uint32_t)id > shared->requests.cap)
		return NULL;
	r = slot_of(id);
	if (atomic_load_explicit(&r->generation, memory_order_acquire) != (uint32_t)(id >> 32))
		return NULL;
	return atomic_load_explicit(&r->life, memory_order_acquire) == REQUEST_ACTIVE ? r : NULL;
}

static bool lock(struct request *r, unsigned spins)
{
	for (unsigned i = 0; i < spins; i++) {
		if (owned_try(&r->lock))
			return true;
		ARCH_PAUSE();
	}
	drop(DROP_RACED);
	return false;
}

static void unlock(struct request *r)
{
	owned_unlock(&r->lock, memory_order_release);
}

static struct request *lock_get_within(request_id id, unsigned spins)
{
	struct request *r = request_get(id);

	if (!r || !lock(r, spins))
		return NULL;
	if (request_get(id) == r)
		return r;
	unlock(r);
	return NULL;
}

/* Locked and still the one called @id, or NULL. */
static struct request *lock_get(request_id id)
{
	return lock_get_within(id, LOCK_SPINS);
}

static uint64_t take(uint64_t *from, uint64_t ns)
{
	uint64_t taken = *from < ns ? *from : ns;

	*from -= taken;
	return taken;
}

/* What the kernel says of the run queue about a slice with much time unaccounted for; asked before a lock is held. */
static bool ask_runq(struct thread *t, uint64_t now_ns, uint64_t cpu_now_ns, uint64_t *runq_ns)
{
	const struct slice *s = &t->slice;
	uint64_t known = s->wait_ns[0] + s->wait_ns[1] + s->wait_ns[2] + s->runq_ns +
			 (cpu_now_ns > s->cpu_ns ? cpu_now_ns - s->cpu_ns : 0);

	return s->cpu_ns && now_ns > s->start_ns + known + RUNQ_MIN_NS &&
	       runq_read(t, now_ns, runq_ns);
}

/*
 * Charge the slice of @t, which ends at @now_ns, to @r. @runq_ns: the thread's run-queue delay so far, NULL when it was not
 * asked for. Under lock.
 */
static void charge(struct thread *t, struct request *r, uint64_t now_ns, uint64_t cpu_now_ns,
		   const uint64_t *runq_ns)
{
	struct slice *s = &t->slice;
	uint64_t from = s->start_ns > r->accounted_ns ? s->start_ns : r->accounted_ns;
	uint64_t wall = now_ns > from ? now_ns - from : 0;
	uint64_t io = s->wait_ns[0], lck = s->wait_ns[LOCK - IO], sleep = s->wait_ns[SLEEP - IO],
		 runq = s->runq_ns;
	uint64_t waits = io + lck + sleep + runq;
	uint64_t cpu = s->cpu_ns && cpu_now_ns > s->cpu_ns ? cpu_now_ns - s->cpu_ns : 0;
	uint64_t rest, delay;

	if (!s->cpu_ns) /* nobody had read the clock at the boundary: what did not wait, ran */
		cpu = wall > waits ? wall - waits : 0;
	if (cpu > wall)
		cpu = wall;
	if (cpu + waits > wall) {
		uint64_t excess = cpu + waits - wall;

		excess -= take(&io, excess);
		excess -= take(&lck, excess);
		excess -= take(&sleep, excess);
		take(&runq, excess);
	}
	rest = wall - cpu - io - lck - sleep - runq;
	delay = rest;
	/* Without a reading before the slice, all that the thread has met in its life is the bound. */
	if (runq_ns) {
		delay = *runq_ns - s->sched_ns - s->runq_ns;
		if ((int64_t)delay < 0)
			delay = 0;
		if (delay > rest)
			delay = rest;
	}
	if (s->start_ns > r->accounted_ns) /* a race lost, a thread gone without a word */
		r->ledger_ns[OTHER] += s->start_ns - r->accounted_ns;
	r->ledger_ns[CPU] += cpu;
	r->ledger_ns[IO] += io;
	r->ledger_ns[LOCK] += lck;
	r->ledger_ns[SLEEP] += sleep;
	r->ledger_ns[RUNQ] += runq + delay;
	r->ledger_ns[OTHER] += rest - delay;
	if (now_ns > r->accounted_ns)
		r->accounted_ns = now_ns;
}

static void slice_reset(struct thread *t, request_id owner, uint64_t now_ns, uint64_t cpu_ns)
{
	t->slice = (struct slice){
		.owner = owner, .start_ns = now_ns, .cpu_ns = cpu_ns, .sched_ns = t->sched_last_ns
	};
	atomic_store_explicit(&t->current, owner, memory_order_relaxed);
}

static void learn_wait(struct thread *t, int64_t missed_ns)
{
	int64_t ns = t->wait_cpu_ns + missed_ns / t->cpu_waits / WAIT_CPU_LEARN;

	t->wait_cpu_ns = (uint32_t)(ns < 0 ? 0 : ns > WAIT_CPU_MAX_NS ? WAIT_CPU_MAX_NS : ns);
}

/* The CPU clock of @t, which ran, but for its slice's waits, until @until_ns and has been idle since, if @idle. */
static uint64_t cpu_at(struct thread *t, uint64_t until_ns, bool idle)
{
	const struct slice *s = &t->slice;
	uint64_t slept = s->wait_ns[0] + s->wait_ns[1] + s->wait_ns[2] + s->runq_ns;
	uint64_t ran = until_ns > s->start_ns + slept ? until_ns - s->start_ns - slept : 0;
	uint32_t waits = s->waits + idle;
	uint64_t believed = s->cpu_ns + ran + (uint64_t)waits * t->wait_cpu_ns, real;

	t->cpu_waits += waits;
	if (likely(s->cpu_ns && !s->ask && believed - t->cpu_read_ns < t->cpu_trust_ns))
		return believed;
	if (unlikely(
		    agent_off())) /* while this thread was in a call: no system call of ours may follow */
		return believed;
	real = clock_cpu_ns();
	if (s->cpu_ns && !s->ask && t->cpu_waits)
		learn_wait(t, (int64_t)(real - believed));
	t->cpu_waits = 0;
	if (believed > real && believed - real > (believed - t->cpu_read_ns) / 8 + CPU_DOUBT_NS)
		t->cpu_trust_ns = 0;
	else if (t->cpu_trust_ns < CPU_TRUST_MAX_NS)
		t->cpu_trust_ns = t->cpu_trust_ns ? t->cpu_trust_ns * 2 : CPU_TRUST_MIN_NS;
	t->cpu_read_ns = real < s->cpu_ns ? s->cpu_ns : real;
	return t->cpu_read_ns;
}

void slice_begin(struct thread *t, uint64_t idle_ns, uint64_t now_ns)
{
	/* who never served a request need not know */
	bool useful = atomic_load_explicit(&shared->serving, memory_order_relaxed);

	slice_reset(t, 0, now_ns, useful ? cpu_at(t, idle_ns, true) : 0);
}

/* Total time the thread has spent outside event waits, at @now_ns. */
static uint64_t busy_at(const struct thread *t, uint64_t now_ns)
{
	return t->busy_ns + (now_ns > t->event_exit_ns ? now_ns - t->event_exit_ns : 0);
}

/* The agent naps longer than its slots last at a high rate; one system call per DONE_BELL requests at the most. */
static void wake_agent(void)
{
	int saved = errno;

	if (agent_off())
		return;
	atomic_fetch_add_explicit(&shared->wake, 1, memory_order_release);
	syscall(SYS_futex, &shared->wake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	errno = saved;
}

/* The slot that this thread kept, or one of all. */
static uint32_t take_slot(struct thread *t)
{
	uint32_t index = atomic_exchange_explicit(&t->spare, 0, memory_order_relaxed), fresh;

	if (likely(index != POOL_NONE))
		return index;
	fresh = atomic_load_explicit(&shared->requests.fresh, memory_order_relaxed);
	index = pool_take(&shared->requests);
	/* So many were never in use before: perhaps they are ended ones that the agent has not seen yet. */
	if (unlikely(index > fresh && index % DONE_BELL == 0))
		wake_agent();
	return index;
}

request_id request_open(struct thread *t, uint64_t arrival_ns)
{
	uint32_t index = take_slot(t);
	struct request *r;
	uint32_t generation;

	if (index == POOL_NONE) {
		drop(DROP_REQUESTS);
		return 0;
	}
	r = pool_at(&shared->requests, index);
	generation = atomic_load_explicit(&r->generation, memory_order_relaxed) + 1;
	if (generation == 0)
		generation = 1;
	memset(r->ledger_ns, 0, sizeof r->ledger_ns);
	r->arrival_ns = r->accounted_ns = arrival_ns;
	r->thread = 0;
	r->parked = true;
	r->was_parked = r->detached = r->pipelined = r->failed = false;
	r->named = NOT_NAMED;
	r->status = 0;
	r->head.method[0] = r->head.path[0] = '\0';
	atomic_store_explicit(&r->labels, 0, memory_order_relaxed);
	atomic_store_explicit(&r->generation, generation, memory_order_relaxed);
	atomic_store_explicit(&r->life, REQUEST_ACTIVE, memory_order_release);
	if (unlikely(!atomic_load_explicit(&shared->serving, memory_order_relaxed)))
		atomic_store_explicit(&shared->serving, 1, memory_order_relaxed);
	return (uint64_t)generation << 32 | index;
}

/* Whether @r was last on @t: neither on another thread, nor on a former user of @t's record. */
static bool was_on(const struct request *r, const struct thread *t)
{
	return r->thread == t->index && r->tid == t->tid;
}

/* @r is no longer parked where it was. Under its lock. */
static void unpark(struct request *r)
{
	if (r->parked && r->thread) {
		struct thread *where = pool_at(&shared->threads, r->thread);
		uint32_t parked = atomic_load_explicit(&where->parked, memory_order_relaxed);

		while (parked && !atomic_compare_exchange_weak_explicit(
					 &where->parked, &parked, parked - 1, memory_order_relaxed,
					 memory_order_relaxed))
			;
	}
	r->parked = false;
}

/* @t works on @r from now on. Under lock. */
static void taken_up(const struct thread *t, struct request *r)
{
	unpark(r);
	r->thread = t->index;
	r->tid = t->tid;
}

void request_start(struct thread *t, request_id id, uint64_t now_ns)
{
	uint64_t cpu;
	struct request *r;

	if (t->slice.owner && t->slice.owner != id)
		request_park(t, now_ns);
	cpu = cpu_at(t, now_ns, false);
	r = lock_get(id);
	if (!r)
		return;
	if (now_ns > r->accounted_ns) {
		r->ledger_ns[QUEUE] += now_ns - r->accounted_ns;
		r->accounted_ns = now_ns;
	}
	r->pipelined = false;
	taken_up(t, r);
	unlock(r);
	slice_reset(t, id, now_ns, cpu);
}

/* What [accounted, until] was, for a request that comes back to @t. Under lock. */
static void charge_parked(struct thread *t, struct request *r, uint64_t until_ns, enum resume why)
{
	static const enum state state_of[] = {
		[RESUME_IO] = IO, [RESUME_TIMER] = SLEEP, [RESUME_HANDOVER] = LOCK
	};
	uint64_t parked, loop = 0, runq = 0;

	if (until_ns <= r->accounted_ns)
		return;
	parked = until_ns - r->accounted_ns;
	if (was_on(r, t) && r->parked && !r->detached && !r->pipelined) {
		uint64_t busy = busy_at(t, until_ns);

		loop = busy > r->parked_busy_ns ? busy - r->parked_busy_ns : 0;
		if (loop > parked)
			loop = parked;
		runq = t->event_runq_ns - r->parked_runq_ns;
		if (runq > parked - loop)
			runq = parked - loop;
	} else if (!r->pipelined && why != RESUME_IO) {
		why = RESUME_HANDOVER; /* another thread takes it up */
	}
	parked -= loop + runq;
	r->ledger_ns[LOOP] += loop;
	r->ledger_ns[RUNQ] += runq;
	r->ledger_ns[state_of[why]] += parked;
	if (!r->pipelined)
		r->event_wait_ns[state_of[why] - IO] += parked;
	r->accounted_ns = until_ns;
}

void request_resume(struct thread *t, request_id id, uint64_t now_ns, enum resume why)
{
	struct request *r;

	if (t->slice.owner == id)
		return;
	if (t->slice.owner) /* the thread turns from one request to another: the new one begins here */
		request_park(t, now_ns);
	r = lock_get(id);
	if (!r)
		return;
	if (r->parked || !was_on(r, t)) {
		charge_parked(t, r, t->slice.start_ns, why);
		r->detached = r->pipelined = false;
		taken_up(t, r);
	}
	unlock(r);
	t->slice.owner = id;
	atomic_store_explicit(&t->current, id, memory_order_relaxed);
}

request_id request_park(struct thread *t, uint64_t now_ns)
{
	request_id id = t->slice.owner;
	uint64_t cpu, runq;
	struct request *r;
	bool asked;

	if (!id)
		return 0;
	cpu = cpu_at(t, now_ns, false);
	asked = ask_runq(t, now_ns, cpu, &runq);
	r = lock_get(id);
	if (r) {
		if (was_on(r, t)) { /* else another thread has it by now */
			charge(t, r, now_ns, cpu, asked ? &runq : NULL);
			r->parked = true;
			if (!r->was_parked)
				memset(r->event_wait_ns, 0, sizeof r->event_wait_ns);
			r->was_parked = true;
			r->parked_busy_ns = busy_at(t, now_ns);
			r->parked_runq_ns = t->event_runq_ns;
			atomic_fetch_add_explicit(&t->parked, 1, memory_order_relaxed);
		}
		unlock(r);
	}
	slice_reset(t, 0, now_ns, cpu);
	return r ? id : 0;
}

const struct told *request_told(const struct request *r)
{
	uint32_t index = atomic_load_explicit(&r->told, memory_order_acquire);

	return index ? pool_at(&shared->told, index) : NULL;
}

struct told *request_tell(struct request *r)
{
	uint32_t index = atomic_load_explicit(&r->told, memory_order_relaxed);

	if (!index) {
		index = pool_take(&shared->told);
		if (index == POOL_NONE) {
			drop(DROP_MARKS);
			return NULL;
		}
		atomic_store_explicit(&r->told, index, memory_order_release);
	}
	return pool_at(&shared->told, index);
}

void request_clear(struct request *r)
{
	uint32_t index = atomic_load_explicit(&r->told, memory_order_relaxed);

	if (likely(!index))
		return;
	atomic_store_explicit(&r->told, 0, memory_order_relaxed);
	pool_give(&shared->told, index);
}

/* A slot that was just used is warm: the thread keeps one for its next request. */
static void give_back(struct thread *t, uint32_t index)
{
	uint32_t none = 0,
		 threads = atomic_load_explicit(&shared->threads.fresh, memory_order_relaxed);

	/* not so many that they are missed by those who begin requests and never end one */
	if (threads > shared->requests.cap / 4 ||
	    !atomic_compare_exchange_strong_explicit(&t->spare, &none, index, memory_order_relaxed,
						     memory_order_relaxed))
		pool_give(&shared->requests, index);
}

/* One instruction, for this thread's own signal handler adds, too; no other thread does, so it need not lock the bus. */
static inline void tell_news(struct thread *t)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
	__asm__ volatile("incl %0" : "+m"(t->news) : : "cc", "memory");
#else
	atomic_fetch_add_explicit(&t->news, 1, memory_order_release);
#endif
}

/*
 * A record of @r for the agent's thread, which is woken when the ring runs full. False when it is full already, or this is a
 * handler of the host that came in the middle of another record.
 */
static bool tell(struct thread *t, const struct request *r, request_id id)
{
	struct ring *ring = &t->ended;
	struct ended_record *to;
	uint64_t before, used;

	if (t->telling)
		return false;
	t->telling = true;
	atomic_signal_fence(memory_order_seq_cst);
	before = atomic_load_explicit(&ring->head, memory_order_relaxed) -
		 atomic_load_explicit(&ring->tail, memory_order_relaxed);
	to = ring_reserve(ring, ENDED_BYTES_MAX);
	if (to) {
		ring_commit(ring, ended_write(to, r, id));
		used = atomic_load_explicit(&ring->head, memory_order_relaxed) -
		       atomic_load_explicit(&ring->tail, memory_order_relaxed);
		if (unlikely(before < ring->size / 4 * 3 && used >= ring->size / 4 * 3))
			wake_agent();
	}
	atomic_signal_fence(memory_order_seq_cst);
	t->telling = false;
	return to != NULL;
}

void request_end(struct thread *t, request_id id, uint64_t now_ns, uint32_t status, bool failed)
{
	struct request *r;
	uint64_t cpu = 0, runq;
	bool owned, told, asked = false;

	request_resume(t, id, now_ns, RESUME_TIMER);
	owned = t->slice.owner == id;
	if (owned) {
		cpu = cpu_at(t, now_ns, false);
		asked = ask_runq(t, now_ns, cpu, &runq);
	}
	r = lock_get_within(id, LOCK_SPINS_LAST);
	if (r && owned && was_on(r, t))
		charge(t, r, now_ns, cpu, asked ? &runq : NULL);
	if (owned)
		slice_reset(t, 0, now_ns, cpu);
	if (!r)
		return;
	if (r->accounted_ns < now_ns) { /* its slice could not be charged: a race lost */
		r->ledger_ns[OTHER] += now_ns - r->accounted_ns;
		r->accounted_ns = now_ns;
	}
	unpark(r);
	r->end_ns = r->accounted_ns;
	r->status = status;
	r->failed = failed;
	told = tell(t, r, id);
	if (told)
		request_clear(r);
	atomic_store_explicit(&r->life, told ? REQUEST_FREE : REQUEST_DONE, memory_order_release);
	unlock(r);
	if (told)
		give_back(t, (uint32_t)id);
	else
		pool_push(&shared->requests, &t->done, (uint32_t)id);
	tell_news(t);
}

void request_cancel(struct thread *t, request_id id, uint64_t now_ns)
{
	struct request *r = lock_get_within(id, LOCK_SPINS_LAST);

	if (!r)
		return;
	unpark(r);
	request_clear(r);
	atomic_store_explicit(&r->life, REQUEST_FREE, memory_order_release);
	unlock(r);
	pool_give(&shared->requests, (uint32_t)id);
	if (t->slice.owner == id)
		slice_begin(t, now_ns, now_ns);
}

void request_abandon(struct thread *t)
{
	uint32_t requests = atomic_load_explicit(&shared->requests.fresh, memory_order_acquire);

	for (uint32_t i = 1; i <= requests; i++) {
		struct request *r = slot_of(i);

		if (atomic_load_explicit(&r->lock, memory_order_relaxed) != t->index)
			continue;
		atomic_store_explicit(&r->lock, 0, memory_order_release);
		drop(DROP_RACED);
	}
	t->telling = false;
}
