/* SPDX-License-Identifier: MIT
 *
 * See thread.h. A thread made by pthread_create runs through our trampoline, which knows its stack; any other one gets
 * its record at its first wrapped call, or from the agent's scan of /proc/self/task.
 */
#include "agent/hook/thread.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

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

static void timer_make(struct thread *t, clockid_t clock)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID,
				  .sigev_signo = thread_setup.signal };

	t->timer = -1;
	if (!thread_setup.signal)
		return;
	event.sigev_value.sival_ptr = t;
	event._sigev_un._tid = t->tid;
	if (syscall(SYS_timer_create, clock, &event, &t->timer)) {
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
		if (t->timer >= 0)
			syscall(SYS_timer_delete, t->timer);
		timer_make(t, clock_of(t->tid));
	}
}

void thread_timer_start(struct thread *t)
{
	uint32_t period = thread_setup.period_ns;
	/* A random phase, so that threads that start together are not sampled together. */
	uint32_t first = 1 + (uint32_t)(((uint64_t)t->tid * 2654435761u + clock_ns()) % period);
	struct itimerspec spec = { .it_interval = { period / 1000000000u, period % 1000000000u },
				   .it_value = { first / 1000000000u, first % 1000000000u } };

	t->timer_period_ns = period;
	if (t->timer >= 0)
		syscall(SYS_timer_settime, t->timer, 0, &spec, NULL);
}

void thread_timer_stop(struct thread *t)
{
	struct itimerspec off = { 0 };

	if (t->timer >= 0)
		syscall(SYS_timer_settime, t->timer, 0, &off, NULL);
}

/* A fresh record: whatever its last user left is gone, but for its ring, which the agent has emptied. */
static struct thread *thread_new(pid_t tid)
{
	uint32_t index = pool_take(&shared->threads);
	struct thread *t;

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

static struct thread *register_with_stack(size_t stack_bytes)
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
	t->stack_seen = (uintptr_t)__builtin_frame_address(0);
	if (exit_key_made)
		pthread_setspecific(exit_key, t);
	t->event_exit_ns = clock_ns();
	slice_begin(t, t->event_exit_ns, t->event_exit_ns);
	atomic_store_explicit(&t->life, THREAD_LIVE, memory_order_release);
	tls.self = t;
	unblock_signal();
	if (!scanned)
		timer_make(t, CLOCK_THREAD_CPUTIME_ID);
	return t;
}

struct thread *thread_register(void)
{
	return register_with_stack(0);
}

struct thread *thread_register_other(pid_t tid)
{
	struct thread *t = thread_new(tid);

	if (!t)
		return NULL;
	atomic_store_explicit(&t->life, THREAD_LIVE, memory_order_release);
	timer_make(t, clock_of(tid));
	return t;
}

void thread_gone(struct thread *t)
{
	if (t->timer >= 0)
		syscall(SYS_timer_delete, t->timer);
	t->timer = -1;
	atomic_store_explicit(&t->life, THREAD_ENDED, memory_order_release);
}

/* The end of a thread, however it ends: normally, by pthread_exit or by cancellation. */
static void on_exit_of(void *record)
{
	struct thread *t = record;

	if (tls.self != t)
		return;
	if (thread_current(t))
		request_park(t, clock_ns());
	tls.outside = 1;
	tls.self = NULL;
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
	if (!tls.self)
		register_with_stack(bytes);
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
