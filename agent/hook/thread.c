/* SPDX-License-Identifier: MIT
 *
 * See thread.h. A thread made by pthread_create runs through our trampoline, which knows its stack; any other one gets
 * its record at its first wrapped call, or from the agent's scan of /proc/self/task.
 */
#include "agent/hook/thread.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent/hook/conn.h"
#include "agent/hook/exports.h"
#include "agent/hook/guard.h"
#include "agent/hook/request.h"

__thread struct thread_local_state tls;
struct shared *shared;
struct thread_setup thread_setup;

static pthread_key_t exit_key;
static bool exit_key_made;

/* Kept by the loader: the stack pointer at the program's entry. */
extern void *__libc_stack_end;

/* Where a thread's start function and argument wait for it. */
struct start {
	struct pool_link link;
	void *(*function)(void *);
	void *argument;
	size_t stack_bytes;
	bool blocks; /* as its creator's mask, see signal.c */
};

/* The CPU clock of another thread, as the kernel numbers them: see clock_getcpuclockid(3). */
static clockid_t clock_of(pid_t tid)
{
	return (clockid_t)(~(unsigned)tid << 3 | 6);
}

/* 0: it is gone. */
static uint64_t cpu_of(pid_t tid)
{
	struct timespec t;

	if (clock_gettime(clock_of(tid), &t))
		return 0;
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Every bit of the result depends on every bit of @x: the finalizer of MurmurHash3. */
static uint64_t mixed(uint64_t x)
{
	x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
	x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53u;
	return x ^ x >> 33;
}

/*
 * The timer of @t is off now, at @cpu_ns of its CPU time. The kernel looks at CPU timers on its ticks only: what expired
 * since the last one, half a tick on average, was not delivered and will not be. A thread of 5 ms would lose two fifths.
 */
static void missed(struct thread *t, uint64_t cpu_ns)
{
	uint64_t due = atomic_exchange_explicit(&t->due_ns, 0, memory_order_relaxed);

	if (due && cpu_ns >= due)
		atomic_fetch_add_explicit(&t->unsampled_ns,
					  ((cpu_ns - due) / t->timer_period_ns + 1) *
						  t->timer_period_ns,
					  memory_order_relaxed);
}

/* What a thread used before it had a timer; below a period it is its start, and worth no word. */
static void used_before(struct thread *t)
{
	uint64_t cpu = cpu_of(t->tid);

	if (cpu > thread_setup.period_ns)
		atomic_fetch_add_explicit(&t->unsampled_ns, cpu, memory_order_relaxed);
}

static void timer_delete_of(struct thread *t)
{
	if (t->timer >= 0)
		syscall(SYS_timer_delete, t->timer);
	t->timer = -1;
	missed(t, cpu_of(t->tid));
}

static void timer_make(struct thread *t)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID,
				  .sigev_signo = thread_setup.signal };

	t->timer = -1;
	if (!thread_setup.signal)
		return;
	event.sigev_value.sival_ptr = t;
	event._sigev_un._tid = t->tid;
	if (syscall(SYS_timer_create, clock_of(t->tid), &event, &t->timer)) {
		t->timer = -1;
		drop(DROP_TIMERS);
		return;
	}
	thread_timer_start(t);
}

void thread_move_timers(int number)
{
	uint32_t threads = atomic_load_explicit(&shared->threads.fresh, memory_order_acquire);

	thread_setup.signal = number;
	for (uint32_t i = 1; i <= threads; i++) {
		struct thread *t = pool_at(&shared->threads, i);

		if (atomic_load_explicit(&t->life, memory_order_acquire) != THREAD_LIVE)
			continue;
		timer_delete_of(t);
		timer_make(t);
	}
}

/* Expiries from @after_ns of its CPU time on. */
static void timer_arm(struct thread *t, uint64_t after_ns)
{
	uint32_t period = thread_setup.period_ns;
	uint64_t now = cpu_of(t->tid), first = now + after_ns;
	struct itimerspec spec = { .it_interval = { period / 1000000000u, period % 1000000000u } };

	if (t->timer < 0 || !now)
		return;
	missed(t, now);
	spec.it_value.tv_sec = (time_t)(first / 1000000000u);
	spec.it_value.tv_nsec = (long)(first % 1000000000u);
	t->timer_period_ns = period;
	atomic_store_explicit(&t->due_ns, first, memory_order_relaxed);
	syscall(SYS_timer_settime, t->timer, TIMER_ABSTIME, &spec, NULL);
}

void thread_timer_start(struct thread *t)
{
	/*
	 * A random phase, evenly over the period: threads that start together are not sampled together, and one that lives
	 * for less than a period is sampled with a chance proportional to its CPU time.
	 */
	timer_arm(t, 1 + mixed((uint64_t)t->tid << 32 ^ clock_ns()) % thread_setup.period_ns);
}

void thread_timer_delay(struct thread *t)
{
	timer_arm(t, thread_setup.period_ns);
}

void thread_timer_stop(struct thread *t)
{
	struct itimerspec off = { 0 };

	if (t->timer < 0)
		return;
	syscall(SYS_timer_settime, t->timer, 0, &off, NULL);
	missed(t, cpu_of(t->tid));
}

/* A fresh record: whatever its last user left is gone, but for its rings, which the agent has emptied. */
static struct thread *thread_new(pid_t tid)
{
	struct thread *t;
	uint32_t index;

	/* Retired: a record that its owner does not know to be gone must not come to life again. */
	if (atomic_load_explicit(&shared->life, memory_order_acquire) != AGENT_ON)
		return NULL;
	index = pool_take(&shared->threads);
	if (index == POOL_NONE) {
		drop(DROP_THREADS);
		return NULL;
	}
	t = pool_at(&shared->threads, index);
	memset((char *)t + sizeof t->link, 0, sizeof *t - sizeof t->link);
	t->tid = tid;
	t->index = index;
	t->timer = -1;
	t->ring.bytes = thread_setup.rings + (size_t)(index - 1) * thread_setup.ring_bytes;
	t->ring.size = thread_setup.ring_bytes;
	t->ended.bytes = thread_setup.ended_rings + (size_t)(index - 1) * ENDED_RING_BYTES;
	t->ended.size = ENDED_RING_BYTES;
	return t;
}

static void unblock_signal(void)
{
	sigset_t set, before;

	if (!thread_setup.signal)
		return;
	sigemptyset(&set);
	sigaddset(&set, thread_setup.signal);
	/* Blocked by whoever made this thread or started this program: the host may go on believing so. */
	if (real.pthread_sigmask(SIG_UNBLOCK, &set, &before) == 0 &&
	    sigismember(&before, thread_setup.signal) == 1)
		tls.blocks = true;
}

static void main_stack(struct thread *t)
{
	uintptr_t top = (uintptr_t)__libc_stack_end;
	struct rlimit limit;
	size_t bytes = 64u << 20;

	if (getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
	    limit.rlim_cur < bytes)
		bytes = limit.rlim_cur;
	atomic_store_explicit(&t->stack_low, top - bytes, memory_order_relaxed);
	atomic_store_explicit(&t->stack_high, top + 64, memory_order_relaxed);
}

/* @bytes: the size of the stack as created, 0 unknown. glibc puts the thread's own descriptor at its upper end. */
static void pthread_stack(struct thread *t, size_t bytes)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0), top = (uintptr_t)pthread_self();

	if (!bytes || top < here || top - here > bytes)
		return;
	atomic_store_explicit(&t->stack_low,
			      here - (bytes - (top - here)) + 32768 < here
				      ? here - (bytes - (top - here)) + 32768
				      : here - 4096,
			      memory_order_relaxed);
	atomic_store_explicit(&t->stack_high, top, memory_order_relaxed);
}

struct thread *thread_find(pid_t tid)
{
	uint32_t threads = atomic_load_explicit(&shared->threads.fresh, memory_order_acquire);

	for (uint32_t i = 1; i <= threads; i++) {
		struct thread *t = pool_at(&shared->threads, i);

		if (atomic_load_explicit(&t->life, memory_order_acquire) == THREAD_LIVE &&
		    t->tid == tid)
			return t;
	}
	return NULL;
}

static struct thread *register_with_stack(size_t stack_bytes, uintptr_t start)
{
	pid_t tid = (pid_t)syscall(SYS_gettid);
	struct thread *t = thread_find(tid); /* made by the agent's scan before this first call */
	bool scanned = t != NULL;

	if (!t)
		t = thread_new(tid);
	if (!t)
		return NULL;
	if (tid == shared->pid)
		main_stack(t);
	else
		pthread_stack(t, stack_bytes);
	atomic_store_explicit(&t->stack_seen, (uintptr_t)__builtin_frame_address(0),
			      memory_order_relaxed);
	t->start = start;
	atomic_store_explicit(&t->called, true, memory_order_relaxed);
	if (exit_key_made)
		pthread_setspecific(exit_key, t);
	t->event_exit_ns = clock_ns();
	slice_begin(t, t->event_exit_ns, t->event_exit_ns);
	atomic_store_explicit(&t->life, THREAD_LIVE, memory_order_release);
	tls.self = t;
	unblock_signal();
	if (!scanned) {
		used_before(t);
		timer_make(t);
	}
	return t;
}

struct thread *thread_register(void)
{
	return register_with_stack(0, 0);
}

struct thread *thread_register_other(pid_t tid)
{
	struct thread *t = thread_new(tid);

	if (!t)
		return NULL;
	used_before(t);
	atomic_store_explicit(&t->life, THREAD_LIVE, memory_order_release);
	timer_make(t);
	return t;
}

void thread_gone(struct thread *t)
{
	timer_delete_of(t);
	atomic_store_explicit(&t->life, THREAD_ENDED, memory_order_release);
}

void thread_retire(void)
{
	uint32_t threads = atomic_load_explicit(&shared->threads.fresh, memory_order_acquire);

	thread_setup.signal = 0;
	for (uint32_t i = 1; i <= threads; i++) {
		struct thread *t = pool_at(&shared->threads, i);

		if (atomic_load_explicit(&t->life, memory_order_acquire) == THREAD_LIVE)
			thread_gone(t);
	}
}

void thread_abandon(struct thread *t)
{
	t->locks = 0;
	t->telling = false;
	request_abandon(t);
	conn_abandon(t);
}

/* The end of a thread, however it ends: normally, by pthread_exit or by cancellation. */
static void on_exit_of(void *record)
{
	struct thread *t = record;

	if (tls.self != t || !thread_live(t))
		return;
	if (t->locks)
		thread_abandon(t);
	if (thread_current(t))
		request_park(t, clock_ns());
	tls.outside = 1;
	tls.self = NULL;
	/* Nobody can ask for it when the agent gets here. */
	syscall(SYS_prctl, PR_GET_NAME, t->name, 0, 0, 0);
	thread_gone(t);
}

int thread_start(void)
{
	pthread_attr_t attributes;

	if (!exit_key_made)
		exit_key_made = pthread_key_create(&exit_key, on_exit_of) == 0;
	thread_setup.default_stack_bytes = 0;
	if (pthread_attr_init(&attributes) == 0) {
		pthread_attr_getstacksize(&attributes, &thread_setup.default_stack_bytes);
		pthread_attr_destroy(&attributes);
	}
	return exit_key_made ? 0 : -EAGAIN;
}

static void *trampoline(void *argument)
{
	struct start *start = argument;
	void *(*function)(void *) = start->function;
	void *value = start->argument;
	size_t bytes = start->stack_bytes;

	tls.blocks = start->blocks;
	pool_give(&shared->starts, pool_index(&shared->starts, start));
	if (!tls.self && atomic_load_explicit(&shared->life, memory_order_acquire) == AGENT_ON)
		register_with_stack(bytes, (uintptr_t)function);
	return function(value);
}

EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
			  void *(*function)(void *), void *argument)
{
	struct thread *t = hook_enter();
	uint32_t index = t ? pool_take(&shared->starts) : POOL_NONE;
	struct start *start;
	int r;

	if (index == POOL_NONE) /* off, or very many starting at once: found later by the scan */
		return REAL(pthread_create)(thread, attributes, function, argument);
	start = pool_at(&shared->starts, index);
	start->function = function;
	start->argument = argument;
	start->stack_bytes = thread_setup.default_stack_bytes;
	start->blocks = tls.blocks;
	if (attributes)
		pthread_attr_getstacksize(attributes, &start->stack_bytes);
	r = REAL(pthread_create)(thread, attributes, trampoline, start);
	if (r)
		pool_give(&shared->starts, index);
	return r;
}
