/* SPDX-License-Identifier: MIT
 *
 * See agent.h. The agent's thread: looks, drains, closes windows, sends them, and sleeps in between, 20 ms at a time, on
 * a futex that an exiting host thread can ring. All signals are blocked in it.
 */
#include "agent/core/agent.h"

#include <errno.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/core/life.h"
#include "agent/core/probe.h"
#include "agent/hook/children.h"
#include "agent/hook/conn.h"
#include "agent/hook/guard.h"
#include "agent/hook/request.h"
#include "agent/hook/thread.h"
#include "agent/sig/handler.h"

enum {
	START_SLOTS = 1024, /* threads between pthread_create and their first instruction */
	AGENT_STACK_BYTES = 512 << 10,
	AGENT_SPACE_BYTES = 130 << 20, /* its stack, and an arena of malloc's */
	RETIRE_S = 1,
	AGENT_STACK_USED = 32 << 10, /* seen in practice */
	PAGE_BYTES = 4096,
	FLUSH_MS = 200, /* what an exiting process waits at most */
	MODULES_NS = 2000000000,
	MODULES_SHARE = 5000, /* part of its time that reading the map may take */
	CPU_READ_THREADS =
		256, /* the CPU clock of the process adds up all threads: every so many, a window less often */
	BEGIN_NS = 100000000,
	DRAIN_BUSY = 256,     /* requests per drain that call for the next one soon */
	BUSY_NS = 1000000000, /* so long after a request it looks on as if there were one */
	IDLE_NS = 100000000,  /* nap without a request in progress; a ring that runs full ends it */
	DRAIN_BUSY_NS = 2000000,
};

#define MODULES_NS_MAX 30000000000u
#define ASTRAY_NS      60000000000u /* nothing is planned so far ahead */

static struct config config; /* constant after boot, but for a fork's child */
static char remarks[1024];   /* told when there is a collector to tell */
static struct life *life;    /* of this process's agent thread */
static _Atomic bool retired; /* for good: fork's children, too */
static const char *retired_why;
static pthread_t agent_thread;
static _Atomic bool thread_made;
static unsigned life_number; /* forks between the first process and this one */

static const char *const drop_names[DROPS] = {
	[DROP_THREADS] = "thread table full",
	[DROP_REQUESTS] = "request table full",
	[DROP_CONNECTIONS] = "connection table full",
	[DROP_DESCRIPTORS] = "descriptor number too high",
	[DROP_PIPELINE] = "too many pipelined requests",
	[DROP_LOST] = "lost the thread of an HTTP connection",
	[DROP_RACED] = "raced on a connection or request",
	[DROP_TIMERS] = "no timer for a thread",
	[DROP_RING] = "sample ring full",
	[DROP_REENTRY] = "signal without a thread",
	[DROP_MARKS] = "marks and labelled requests not told",
};

/*
 * For `sonde doctor PID`, which finds this by the section's name and reads it from outside: the process it is about, a state,
 * and all that was said so far. A fork's child that has not begun has its parent's.
 */
static struct {
	char magic[8];
	int32_t pid;
	char state[12];
	char said[488];
} status __attribute__((section("sonde_status"), used, aligned(64))) = { "sonde 1", 0, "off", "" };

static void status_is(const char *state)
{
	status.pid = (int32_t)getpid();
	strncpy(status.state, state, sizeof status.state - 1);
}

static void say(const char *what)
{
	size_t used = strnlen(status.said, sizeof status.said);

	if (used + 3 < sizeof status.said)
		snprintf(status.said + used, sizeof status.said - used, "%s%s", used ? "; " : "",
			 what);
	if (config.log) {
		config_write(STDERR_FILENO, "sonde: ");
		config_write(STDERR_FILENO, what);
		config_write(STDERR_FILENO, "\n");
	}
}

/* Something that whoever reads the profile should know. */
static void remark(const char *what)
{
	size_t used = strlen(remarks);

	say(what);
	if (used + 3 < sizeof remarks)
		snprintf(remarks + used, sizeof remarks - used, "%s%s", used ? "; " : "", what);
}

/* ---- Memory shared with host threads ---- */

static void *map(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	if (madvise(memory, bytes, MADV_WIPEONFORK)) {
		munmap(memory, bytes);
		return NULL;
	}
	return memory;
}

static uint32_t power_of_two(uint32_t n)
{
	uint32_t p = 4096;

	while (p < n)
		p *= 2;
	return p;
}

/* Where the pools' elements lie: the same in every fork's child. */
static struct {
	void *threads, *requests, *told, *connections, *starts, *rings, *ended_rings, *shared;
} memory;

/* Returns NULL, or why not. */
static const char *map_all(void)
{
	uint32_t ring = power_of_two(config.ring_kib << 10);
	struct {
		void **at;
		size_t bytes;
	} parts[] = {
		{ &memory.threads, LIFE_THREADS * sizeof(struct thread) },
		{ &memory.requests, config.requests * sizeof(struct request) },
		{ &memory.told, TOLD_SLOTS * sizeof(struct told) },
		{ &memory.connections, config.connections * sizeof(struct conn) },
		{ &memory.starts, (size_t)START_SLOTS * 64 },
		{ &memory.rings, (size_t)LIFE_THREADS * ring },
		{ &memory.ended_rings, (size_t)LIFE_THREADS * ENDED_RING_BYTES },
		{ &memory.shared, sizeof *shared },
	};
	enum {
		PARTS = sizeof parts / sizeof *parts
	};
	size_t sum = AGENT_SPACE_BYTES;
	unsigned n = 0;

	for (unsigned i = 0; i < PARTS; i++)
		sum += parts[i].bytes;
	if (!probe_room(sum))
		return "the address space is limited (ulimit -v): the agent stays off";
	while (n < PARTS && (*parts[n].at = map(parts[n].bytes)) != NULL)
		n++;
	if (n < PARTS || conn_start()) {
		while (n--)
			munmap(*parts[n].at, parts[n].bytes);
		return "memory that is wiped on fork cannot be mapped: the agent stays off";
	}
	thread_setup.rings = memory.rings;
	thread_setup.ended_rings = memory.ended_rings;
	thread_setup.ring_bytes = ring;
	shared = memory.shared;
	return NULL;
}

/* ---- One window ---- */

static void count_in_flight(struct life *l)
{
	uint32_t *count = calloc(ROUTE_IDS_MAX + 1, sizeof *count);
	uint32_t fresh = atomic_load_explicit(&shared->requests.fresh, memory_order_acquire);

	if (!count)
		return;
	for (uint32_t i = 1; i <= fresh; i++) {
		const struct request *r = pool_at(&shared->requests, i);
		uint32_t route;

		if (atomic_load_explicit(&r->life, memory_order_acquire) != REQUEST_ACTIVE)
			continue;
		route = life_route(l, r);
		if (route && route <= ROUTE_IDS_MAX)
			count[route]++;
	}
	for (uint32_t i = 1; i <= ROUTE_IDS_MAX; i++)
		if (count[i])
			aggregate_in_flight(l->aggregate, i, count[i]);
	free(count);
}

static uint64_t delta(uint64_t now, uint64_t *told)
{
	uint64_t d = now - *told;

	*told = now;
	return d;
}

/* Since it was last told; 0 in windows in between, when the process has very many threads. */
static uint64_t process_cpu(struct life *l, uint32_t threads, bool last)
{
	if (l->seq % (1 + threads / CPU_READ_THREADS) && !last)
		return 0;
	return delta(clock_read(CLOCK_PROCESS_CPUTIME_ID), &l->process_cpu_told);
}

struct thread_totals {
	uint64_t handler_ns, ring_lost, waits;
	uint32_t live;
};

static struct thread_totals total_threads(const struct life *l)
{
	struct thread_totals sum = { .handler_ns = l->handler_ns_gone,
				     .ring_lost = l->ring_lost_gone,
				     .waits = l->waits_gone };
	uint32_t threads = atomic_load_explicit(&shared->threads.fresh, memory_order_acquire);

	for (uint32_t i = 1; i <= threads; i++) {
		struct thread *t = pool_at(&shared->threads, i);
		uint32_t state = atomic_load_explicit(&t->life, memory_order_acquire);

		if (life ==
		    THREAD_FREE) /* one that has ended is in the totals of those gone only when it is free */
			continue;
		sum.handler_ns += atomic_load_explicit(&t->handler_ns, memory_order_relaxed);
		sum.ring_lost += atomic_load_explicit(&t->ring.lost, memory_order_relaxed);
		sum.waits += atomic_load_explicit(&t->waits, memory_order_relaxed);
		sum.live += state == THREAD_LIVE;
	}
	return sum;
}

/* What a ring has touched: all of it once it has gone round. */
static uint32_t touched(const struct ring *ring)
{
	uint64_t bytes = atomic_load_explicit(&ring->head, memory_order_relaxed) + PAGE_BYTES - 1;

	return bytes < ring->size ? (uint32_t)(bytes / PAGE_BYTES * PAGE_BYTES) : ring->size;
}

/* Of the rings of a record; they stay when its thread is gone. */
static uint64_t ring_bytes(struct life *l, uint32_t index)
{
	const struct thread *t = pool_at(&shared->threads, index);
	uint32_t bytes = touched(&t->ring) + touched(&t->ended);

	if (l->known[index].ring_bytes < bytes)
		l->known[index].ring_bytes = bytes;
	return l->known[index].ring_bytes;
}

static uint64_t pool_bytes(const struct pool *pool)
{
	return (uint64_t)atomic_load_explicit(&pool->fresh, memory_order_relaxed) * pool->stride;
}

static uint64_t pool_bytes_max(const struct pool *pool)
{
	return (uint64_t)pool->cap * pool->stride;
}

/* Resident bytes and caps, by part. What is mapped lazily counts as far as it was handed out. */
static void measure_memory(struct life *l, uint64_t *bytes, uint64_t *max)
{
	uint32_t threads = atomic_load_explicit(&shared->threads.fresh, memory_order_acquire);

	bytes[SONDE__MEMORY_PART__MEMORY_THREADS] = pool_bytes(&shared->threads);
	for (uint32_t i = 1; i <= threads; i++)
		bytes[SONDE__MEMORY_PART__MEMORY_THREADS] += ring_bytes(l, i);
	max[SONDE__MEMORY_PART__MEMORY_THREADS] =
		pool_bytes_max(&shared->threads) +
		(uint64_t)LIFE_THREADS * (thread_setup.ring_bytes + ENDED_RING_BYTES);
	bytes[SONDE__MEMORY_PART__MEMORY_REQUESTS] =
		pool_bytes(&shared->requests) + pool_bytes(&shared->told);
	max[SONDE__MEMORY_PART__MEMORY_REQUESTS] =
		pool_bytes_max(&shared->requests) + pool_bytes_max(&shared->told);
	bytes[SONDE__MEMORY_PART__MEMORY_CONNECTIONS] = pool_bytes(&shared->connections);
	max[SONDE__MEMORY_PART__MEMORY_CONNECTIONS] = pool_bytes_max(&shared->connections);
	bytes[SONDE__MEMORY_PART__MEMORY_TABLES] = modules_memory_bytes(l->modules);
	max[SONDE__MEMORY_PART__MEMORY_TABLES] = MODULES_ROW_BYTES_MAX;
	bytes[SONDE__MEMORY_PART__MEMORY_DICTIONARY] = dict_bytes(l->dict);
	max[SONDE__MEMORY_PART__MEMORY_DICTIONARY] = dict_bytes_max(l->dict);
	bytes[SONDE__MEMORY_PART__MEMORY_WINDOW] = aggregate_bytes(l->aggregate);
	max[SONDE__MEMORY_PART__MEMORY_WINDOW] = aggregate_bytes_max(l->aggregate, config.routes);
	bytes[SONDE__MEMORY_PART__MEMORY_SPOOL] = transport_bytes(l->transport);
	max[SONDE__MEMORY_PART__MEMORY_SPOOL] = (uint64_t)config.spool_kib
						<< 11; /* and one on its way */
	bytes[SONDE__MEMORY_PART__MEMORY_AGENT] = sizeof *shared + AGENT_STACK_USED +
						  offsetof(struct life, known) +
						  threads * (sizeof *l->known + sizeof *l->seen);
	max[SONDE__MEMORY_PART__MEMORY_AGENT] = sizeof *shared + AGENT_STACK_BYTES + sizeof *l;
}

/* The governor's step is in force from here on. */
static void take_step(struct life *l)
{
	uint32_t threads = atomic_load_explicit(&shared->threads.fresh, memory_order_acquire);
	uint64_t period_ns = (uint64_t)(1000000000u / config.hz) << l->budget.step;

	l->period_ns = thread_setup.period_ns =
		period_ns < UINT32_MAX ? (uint32_t)period_ns : UINT32_MAX;
	for (uint32_t i = 1; i <= threads; i++) {
		struct thread *t = pool_at(&shared->threads, i);

		if (atomic_load_explicit(&t->life, memory_order_acquire) == THREAD_LIVE)
			thread_timer_start(t);
	}
}

static void keep_budget(struct life *l, const struct self_report *self, uint64_t now_ns)
{
	struct budget_window window;

	l->budget_ns += self->handler_ns + self->signal_ns + self->sampling_ns;
	if (!self->process_cpu_ns) /* not read in this window */
		return;
	if (l->seq == 1) { /* all is new in it, and read for the first time */
		l->budget_ns = 0;
		l->budget_at_ns = now_ns;
		return;
	}
	window = (struct budget_window){ .cost_ns = l->budget_ns,
					 .process_cpu_ns = self->process_cpu_ns,
					 .wall_ns = now_ns - l->budget_at_ns };
	l->budget_ns = 0;
	l->budget_at_ns = now_ns;
	if (budget_close(&l->budget, &window))
		take_step(l);
}

enum {
	DROP_CAUSES_MAX = DROPS + AGGREGATE_DROPS + DICT_DROPS + TRANSPORT_DROPS + 4
};

static unsigned all_drops(const struct life *l, struct self_drop *out)
{
	const struct modules_stats *m = modules_stats(l->modules);
	unsigned n = 0;

	for (unsigned i = 0; i < DROPS; i++)
		out[n++] = (struct self_drop){
			drop_names[i], atomic_load_explicit(&shared->drops[i], memory_order_relaxed)
		};
	n += aggregate_drops(l->aggregate, out + n);
	n += dict_drops(l->dict, out + n);
	n += transport_drops(l->transport, out + n);
	out[n++] = (struct self_drop){ "routes counted as (other)", route_refused(l->routes) };
	out[n++] = (struct self_drop){ "modules refused", m->refused + m->unreadable };
	out[n++] = (struct self_drop){ "unwind rows refused", m->rows_refused };
	return n;
}

static void close_window(struct life *l, bool last)
{
	struct self_drop drops[DROP_CAUSES_MAX];
	struct self_end ends[UNWIND_END_COUNT];
	struct encode_buffer buffer = { 0 };
	struct aggregate_window window = { .seq = ++l->seq,
					   .start_ns = l->window_ns,
					   .last = last };
	struct thread_totals threads = total_threads(l);
	struct self_report self = {
		.process_cpu_ns = process_cpu(l, threads.live, last),
		.agent_cpu_ns = delta(clock_read(CLOCK_THREAD_CPUTIME_ID), &l->agent_cpu_told),
		.handler_ns = delta(threads.handler_ns, &l->handler_ns_told),
		.samples = delta(l->samples, &l->samples_told),
		.waits = delta(threads.waits, &l->waits_told),
		.hooks_ns = delta(l->hooks_ns, &l->hooks_ns_told),
		.sampling_ns = delta(l->sampling_ns, &l->sampling_ns_told),
		.wire_bytes = delta(transport_state(l->transport).sent_bytes, &l->wire_bytes_told),
		.threads = threads.live,
		.hz = 1000000000u / l->period_ns,
		.look_hz = config.look_hz >> l->budget.step ? config.look_hz >> l->budget.step : 1,
		.step = l->budget.step,
		.budget_permille = config.budget_permille,
		.drops = drops,
		.drop_count = all_drops(l, drops),
		.ends = ends,
		.end_count = UNWIND_END_COUNT,
	};

	for (unsigned i = 0; i < UNWIND_END_COUNT; i++)
		ends[i] = (struct self_end){ unwind_end_names[i], l->ends[i] };
	self.signal_ns = self.samples * BUDGET_SIGNAL_NS;
	measure_memory(l, self.memory, self.memory_max);
	peek_settle(l);
	count_in_flight(l);
	window.start_unix_ns = l->window_unix_ns;
	identity_clocks(&window.end_ns, &window.end_unix_ns);
	window.lost_windows = transport_lost(l->transport);
	l->window_ns = window.end_ns;
	l->window_unix_ns = window.end_unix_ns;
	if (aggregate_window_encode(l->aggregate, &window, &self, &buffer) == 0)
		transport_queue(l->transport, buffer.bytes, buffer.used, window.seq);
	else
		encode_buffer_fini(&buffer);
	route_table_tick(l->routes);
	l->labelled_told = 0;
	memset(l->ends, 0, sizeof l->ends);
	keep_budget(l, &self, window.end_ns);
}

/* ---- The loop ---- */

/* @seen: shared->wake before looking for work, so that no bell rung since then is slept through. */
static void nap(uint64_t ns, uint32_t seen)
{
	struct timespec t = { .tv_sec = (time_t)(ns / 1000000000u),
			      .tv_nsec = (long)(ns % 1000000000u) };

	if (atomic_load_explicit(&shared->flush_asked, memory_order_acquire) ==
		    atomic_load_explicit(&shared->flush_done, memory_order_relaxed) &&
	    !atomic_load_explicit(&shared->retiring, memory_order_acquire))
		syscall(SYS_futex, &shared->wake, FUTEX_WAIT_PRIVATE, seen, &t, NULL, 0);
}

static void ring_bell(_Atomic uint32_t *bell)
{
	atomic_fetch_add_explicit(bell, 1, memory_order_release);
	syscall(SYS_futex, bell, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void answer_flush(struct life *l, uint32_t asked)
{
	drain(l, 0);
	close_window(l, true);
	transport_flush(l->transport, l->dict, clock_ns() + FLUSH_MS * 1000000ull);
	atomic_store_explicit(&shared->flush_done, asked, memory_order_release);
	syscall(SYS_futex, &shared->flush_done, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* A map of thousands of lines takes a millisecond to read: such a one is read the less often, unless code is missing in it. */
static void refresh_modules(struct life *l, uint64_t now)
{
	uint64_t before = clock_cpu_ns();

	modules_refresh(l->modules);
	unwind_reclaim();
	l->unknown_code = false;
	l->refreshed_ns = now;
	l->refresh_ns = (clock_cpu_ns() - before) * MODULES_SHARE;
	if (l->refresh_ns < MODULES_NS)
		l->refresh_ns = MODULES_NS;
	if (l->refresh_ns > MODULES_NS_MAX)
		l->refresh_ns = MODULES_NS_MAX;
}

/* One line in the collector. */
static void tell(struct life *l, const char *what)
{
	struct encode_buffer buffer = { 0 };
	uint64_t mono_ns, unix_ns;

	identity_clocks(&mono_ns, &unix_ns);
	if (encode_event(&buffer, what, unix_ns) == 0)
		transport_queue(l->transport, buffer.bytes, buffer.used, 0);
}

/* A chroot takes it away. What was read before still counts. */
static void look_for_proc(struct life *l)
{
	if (l->no_proc || access("/proc/self/task", F_OK) == 0)
		return;
	l->no_proc = true;
	tell(l, "/proc is gone (chroot): threads that do not call us and code loaded from here on "
		"stay unknown");
}

/* Between three and five quarters of the period: waits that beat in time with us must not hide. */
static uint64_t jittered(uint64_t ns, uint32_t *random)
{
	*random = *random * 1664525u + 1013904223u;
	return ns * 3 / 4 + (ns / 2 * (*random >> 16) >> 16);
}

/* No longer than a ring holds the deepest stacks of a thread that never waits. */
static uint64_t idle_ns(const struct life *l)
{
	uint64_t held = thread_setup.ring_bytes /
			(sizeof(struct sample_record) + config.stack_depth * sizeof(uintptr_t)) *
			(uint64_t)l->period_ns * 3 / 4;

	return held < IDLE_NS ? held : IDLE_NS;
}

static void run(struct life *l)
{
	uint64_t next_look = 0, next_window = l->window_ns + config.window_ms * 1000000ull,
		 busy_ns = 0;
	uint32_t random = (uint32_t)l->identity.instance;

	while (!atomic_load_explicit(&shared->retiring, memory_order_acquire)) {
		uint64_t now;
		uint32_t seen = atomic_load_explicit(&shared->wake, memory_order_acquire);
		uint32_t asked = atomic_load_explicit(&shared->flush_asked, memory_order_acquire);

		clock_renew();
		now = clock_ns();
		if (next_look > now + ASTRAY_NS) /* the clock was far ahead */
			next_look = next_window = now;
		drain(l, now >= next_look ? now : 0);
		if (now >= next_look)
			next_look =
				now + jittered((1000000000ull / config.look_hz) << l->budget.step,
					       &random);
		scan(l, now);
		if (now - l->refreshed_ns > l->refresh_ns / (l->unknown_code ? 10 : 1))
			refresh_modules(l, now);
		if (now >= next_window) {
			close_window(l, false);
			look_for_proc(l);
			next_window += config.window_ms * 1000000ull;
			if (next_window < now)
				next_window = now + config.window_ms * 1000000ull;
		}
		transport_step(l->transport, l->dict, now);
		if (asked != atomic_load_explicit(&shared->flush_done, memory_order_relaxed)) {
			if (atomic_exchange_explicit(&shared->settle, 0, memory_order_acquire))
				refresh_modules(l, now);
			answer_flush(l, asked);
		}
		if (l->drained || l->waiting)
			busy_ns = now;
		if (l->drained > DRAIN_BUSY)
			nap(DRAIN_BUSY_NS, seen);
		else
			nap(now - busy_ns >= BUSY_NS ? jittered(idle_ns(l), &random)
						     : next_look - now,
			    seen);
	}
}

static bool life_fill(struct life *l)
{
	l->config = &config;
	l->period_ns = thread_setup.period_ns = 1000000000u / config.hz;
	l->budget.permille = config.budget_permille;
	identity_fill(&l->identity, &config);
	l->transport = transport_create(&config, &l->identity);
	l->dict = dict_create();
	l->aggregate = aggregate_create(&config);
	l->modules = modules_create();
	l->routes = route_table_create(config.routes);
	return l->transport && l->dict && l->aggregate && l->modules && l->routes;
}

/*
 * Our descriptors are none of the host's: it may close(0) and count on the next one being 0, close them all, or count them.
 * So this thread leaves the table that it shares with the host for one of its own, empty, which no fork or exec copies.
 * Before Linux 5.9 it stays; then core/fd.c looks after our few.
 */
static void leave_files(struct life *l)
{
	l->pidfd = -1;
	l->own_files = syscall(SYS_close_range, 0, UINT_MAX, CLOSE_RANGE_UNSHARE) == 0;
	if (l->own_files)
		l->pidfd = (int)syscall(SYS_pidfd_open, shared->pid, 0);
}

static bool anything(void)
{
	if (atomic_load_explicit(&shared->serving, memory_order_relaxed) ||
	    atomic_load_explicit(&shared->marks[0].ready, memory_order_relaxed))
		return true;
	for (uint32_t i = 1;
	     i <= atomic_load_explicit(&shared->threads.fresh, memory_order_acquire); i++) {
		struct thread *t = pool_at(&shared->threads, i);

		if (atomic_load_explicit(&t->ring.head, memory_order_relaxed))
			return true;
	}
	return false;
}

/*
 * Programs that a server runs for a moment have nothing to tell, and reading what they have mapped takes some ms of CPU,
 * more than they do: it can wait until they have done something, or lived a while.
 */
static void wait_for_something(void)
{
	uint64_t until = clock_ns() + BEGIN_NS;

	while (clock_ns() < until && !anything() &&
	       !atomic_load_explicit(&shared->settle, memory_order_acquire) &&
	       !atomic_load_explicit(&shared->retiring, memory_order_acquire)) {
		uint32_t seen = atomic_load_explicit(&shared->wake, memory_order_acquire);
		uint32_t asked = atomic_load_explicit(&shared->flush_asked, memory_order_acquire);

		if (asked != atomic_load_explicit(&shared->flush_done, memory_order_relaxed) &&
		    !atomic_load_explicit(&shared->settle, memory_order_acquire)) {
			atomic_store_explicit(&shared->flush_done, asked, memory_order_release);
			syscall(SYS_futex, &shared->flush_done, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL,
				NULL, 0);
		}
		nap(BEGIN_NS / 5, seen);
	}
}

/* What is whose among the functions of libc that hooks call. */
static void fill_cost_map(struct life *l)
{
	const struct module *own = modules_find(l->modules, (uintptr_t)fill_cost_map);
	const struct module *libc = modules_find(l->modules, (uintptr_t)real.read);
	struct cost_map *map = &l->cost_map;

	if (own)
		map->own = (struct cost_range){ own->start, own->end };
	if (libc)
		map->libc = (struct cost_range){ libc->start, libc->end };
	for (uint32_t id = 1; id <= modules_count(l->modules); id++) {
		const struct module *m = modules_get(l->modules, id);

		if (m && strcmp(m->path, "[vdso]") == 0)
			map->vdso = (struct cost_range){ m->start, m->end };
	}
#define X(result, name, parameters) cost_add(map, (uintptr_t)real.name, true);
	REAL_FUNCTIONS(X)
#undef X
	cost_add(map, (uintptr_t)syscall, false);
	cost_add(map, (uintptr_t)clock_gettime, false);
	cost_sort(map);
}

/* From here on, as if we had not come. The stamps on sockets go with the next call of the host's, see hook_enter_slow(). */
static bool off(const char *why)
{
	say(why);
	status_is("off");
	atomic_store_explicit(&shared->life, AGENT_DISABLED, memory_order_release);
	thread_retire();
	return false;
}

static void *agent_main(void *argument)
{
	struct life *l = argument;
	char missing[512];

	tls.outside = 1;
	prctl(PR_SET_NAME, "sonde");
	leave_files(l);
	shared->agent_tid = (pid_t)syscall(SYS_gettid);
	if (!life_fill(l)) {
		off("out of memory: the agent is off");
		return NULL;
	}
	identity_clocks(&l->window_ns, &l->window_unix_ns);
	if (!config.output[0]) /* a file is for this program's own sake */
		wait_for_something();
	refresh_modules(l, l->window_ns);
	l->looked_ns = l->budget_at_ns = l->window_ns;
	fill_cost_map(l);
	if (remarks[0])
		tell(l, remarks);
	probe_abilities(l, missing, sizeof missing);
	if (missing[0])
		tell(l, missing);
	run(l);
	tell(l, retired_why);
	answer_flush(l, atomic_load_explicit(&shared->flush_asked, memory_order_acquire));
	transport_destroy(l->transport); /* the rest stays: there is no second life */
	l->transport = NULL;
	return NULL;
}

/* ---- Life ---- */

static int start_thread(struct life *l)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	int r = pthread_attr_init(&attributes);

	if (r)
		return -r;
	pthread_attr_setstacksize(&attributes, AGENT_STACK_BYTES);
	sigfillset(&all);
	real.pthread_sigmask(SIG_SETMASK, &all, &before);
	r = real.pthread_create(&agent_thread, &attributes, agent_main, l);
	real.pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	atomic_store_explicit(&thread_made, r == 0, memory_order_release);
	return -r;
}

bool agent_begin(void)
{
	uint32_t was = AGENT_OFF;
	int saved = errno;

	if (atomic_load_explicit(&retired, memory_order_acquire))
		return false;
	if (!atomic_compare_exchange_strong_explicit(&shared->life, &was, AGENT_STARTING,
						     memory_order_acquire, memory_order_acquire))
		return was == AGENT_ON;
	shared->pid = getpid();
	pool_init(&shared->threads, memory.threads, LIFE_THREADS, sizeof(struct thread));
	pool_init(&shared->requests, memory.requests, config.requests, sizeof(struct request));
	pool_init(&shared->told, memory.told, TOLD_SLOTS, sizeof(struct told));
	pool_init(&shared->connections, memory.connections, config.connections,
		  sizeof(struct conn));
	pool_init(&shared->starts, memory.starts, START_SLOTS, 64);
	if (thread_start())
		return off("no thread-specific key is left: the agent stays off");
	life = calloc(1, sizeof *life);
	if (!life)
		return off("out of memory: the agent stays off");
	atomic_store_explicit(&shared->life, AGENT_ON, memory_order_release);
	status_is("on"); /* its thread may know better */
	if (start_thread(life))
		return off("its thread cannot be created: the agent stays off");
	errno = saved;
	return true;
}

/* A child's stream is one of its own: FILE.PID beside the parent's FILE. */
static void rename_output(void)
{
	size_t len = strlen(config.output);
	char *dot = strrchr(config.output, '.');

	if (!len)
		return;
	if (life_number++ && dot) /* a child's child */
		len = (size_t)(dot - config.output);
	snprintf(config.output + len, sizeof config.output - len, ".%d", (int)getpid());
}

void agent_forked(void)
{
	if (atomic_load_explicit(&retired, memory_order_acquire))
		return;
	rename_output();
	if (life && life->transport)
		transport_abandon(life->transport);
	thread_made = false;
	life = NULL; /* leaked: the parent's thread may have been in the middle of changing it */
	unwind_after_fork();
}

void agent_flush(void)
{
	struct timespec until = { .tv_nsec = (FLUSH_MS + 50) * 1000000L };
	uint32_t asked, done;

	if (atomic_load_explicit(&shared->life, memory_order_acquire) != AGENT_ON ||
	    shared->pid != getpid())
		return;
	asked = atomic_fetch_add_explicit(&shared->flush_asked, 1, memory_order_acq_rel) + 1;
	ring_bell(&shared->wake);
	while ((int32_t)((done = atomic_load_explicit(&shared->flush_done, memory_order_acquire)) -
			 asked) < 0)
		if (syscall(SYS_futex, &shared->flush_done, FUTEX_WAIT_PRIVATE, done, &until, NULL,
			    0) &&
		    errno == ETIMEDOUT)
			break;
}

void agent_settle(void)
{
	int saved = errno;

	atomic_store_explicit(&shared->settle, 1, memory_order_release);
	agent_flush();
	errno = saved;
}

bool agent_retire(const char *why)
{
	struct timespec until;
	int saved = errno, state;
	bool on;

	if (atomic_exchange_explicit(&retired, true, memory_order_acq_rel))
		return false;
	children_forbid();
	if (!shared)
		return false;
	say(why);
	status_is("off");
	conn_unstamp_all();
	atomic_store_explicit(&shared->unstamped, 1, memory_order_relaxed);
	on = atomic_exchange_explicit(&shared->life, AGENT_DISABLED, memory_order_acq_rel) ==
	     AGENT_ON;
	if (on) {
		thread_retire();
		retired_why = why;
		atomic_store_explicit(&shared->retiring, 1, memory_order_release);
		ring_bell(&shared->wake);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += RETIRE_S;
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
		if (atomic_load_explicit(&thread_made, memory_order_acquire))
			real.pthread_timedjoin_np(agent_thread, NULL, &until);
		pthread_setcancelstate(state, NULL);
		thread_retire(); /* who was just registering */
	}
	errno = saved;
	return on;
}

void agent_boot(char *const *envp)
{
	char wrong[512];
	const char *missing, *killed, *why;

	config_load(&config, envp, wrong, sizeof wrong);
	if (config.help) {
		config_name_service(&config);
		config_print(STDERR_FILENO);
	}
	if (*wrong)
		remark(wrong);
	children_start(envp, config.children);
	status_is("off");
	if (config.disable || config.help) {
		say(config.disable ? "SONDE_DISABLE is set" : "SONDE_HELP is set");
		return;
	}
	missing = real_start();
	if (missing) {
		say("this C library lacks a function that the agent wraps; it stays off:");
		say(missing);
		return;
	}
	killed = probe_filter();
	if (killed && *killed) {
		say("a seccomp filter kills for this call, which the agent needs; it stays off:");
		say(killed);
	}
	if (killed)
		return;
	config_name_service(&config);
	children_know_self();
	why = map_all();
	if (why) {
		say(why);
		return;
	}
	thread_setup.period_ns = 1000000000u / config.hz;
	thread_setup.http = config.http;
	thread_setup.locks = config.locks;
	thread_setup.timestamps = config.timestamps;
	thread_setup.signal = 0;
	clock_start();
	handler_start(memory.threads, LIFE_THREADS, sizeof(struct thread), config.stack_depth);
	thread_setup.signal = handler_install(0);
	if (!thread_setup.signal)
		remark("no real-time signal is free: CPU is not sampled");
	if (agent_begin())
		thread_register();
}
