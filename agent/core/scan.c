/* SPDX-License-Identifier: MIT
 *
 * Now and then, and soon when the kernel counts other threads than we do: threads that were made behind our back get a
 * record and a timer, records of threads that went without a word are closed, and stacks that nobody described get bounds
 * from the memory map.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/core/life.h"
#include "agent/hook/thread.h"

enum {
	SCAN_TIDS = LIFE_THREADS,
	SCAN_S = 8, /* the names are read at the latest after */
	SCAN_LEAST_NS =
		50000000, /* between looks at the number, or at the names when it does not fit */
	SCAN_MOST_NS = 1000000000,
	CHECK_COST = 10000, /* else, the one may cost this part of a core, */
	SCAN_COST = 1000    /* and the other that one */
};

struct tids {
	pid_t tid[SCAN_TIDS];
	unsigned count;
};

static int by_number(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

	return (x > y) - (x < y);
}

static bool has(const struct tids *set, pid_t tid)
{
	return bsearch(&tid, set->tid, set->count, sizeof tid, by_number) != NULL;
}

static bool read_tids(struct tids *out)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *e;

	out->count = 0;
	if (!d)
		return false;
	while ((e = readdir(d)) != NULL && out->count < SCAN_TIDS)
		if (e->d_name[0] != '.')
			out->tid[out->count++] = (pid_t)strtol(e->d_name, NULL, 10);
	closedir(d);
	qsort(out->tid, out->count, sizeof *out->tid, by_number);
	return true;
}

/*
 * Whether there are as many threads as we know, and we ourselves: the directory's links count them, for 7 us where its
 * names cost 1 us each. One that went while another came is found some seconds later.
 */
static bool as_many_as_known(void)
{
	uint32_t threads = atomic_load_explicit(&shared->threads.fresh, memory_order_acquire);
	uint32_t live = 0;
	struct stat st;

	if (stat("/proc/self/task", &st))
		return false;
	for (uint32_t i = 1; i <= threads; i++) {
		struct thread *t = pool_at(&shared->threads, i);

		live += atomic_load_explicit(&t->life, memory_order_relaxed) == THREAD_LIVE &&
			atomic_load_explicit(&t->stack_high, memory_order_relaxed);
	}
	return st.st_nlink == live + 3; /* ., .. and this thread */
}

/* Where a thread that never called us stands: the last but one number of its syscall file, when it is blocked. */
static uintptr_t stack_pointer_of(pid_t tid)
{
	char path[64], text[256], *last, *sp;
	ssize_t n;
	int fd;

	snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof text - 1);
	close(fd);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	last = strrchr(text, ' ');
	if (!last)
		return 0;
	*last = '\0';
	sp = strrchr(text, ' ');
	return sp ? strtoul(sp + 1, NULL, 0) : 0;
}

/* The mapping around an address of the thread's stack: what can be read there without a fault. */
static void find_stack(struct thread *t)
{
	uintptr_t noted = atomic_load_explicit(&t->stack_seen, memory_order_relaxed);
	uintptr_t seen = noted ? noted : stack_pointer_of(t->tid);
	FILE *maps = seen ? fopen("/proc/self/maps", "re") : NULL;
	char line[512];

	if (!maps)
		return;
	while (fgets(line, sizeof line, maps)) {
		char *dash;
		uintptr_t low = strtoul(line, &dash, 16),
			  high = *dash == '-' ? strtoul(dash + 1, NULL, 16) : 0;

		if (low <= seen && seen < high) {
			atomic_store_explicit(&t->stack_low, low, memory_order_relaxed);
			atomic_store_explicit(&t->stack_high, high, memory_order_release);
			break;
		}
	}
	fclose(maps);
}

/* A thread that was found called us for the first time at the same moment, and has two records: one is too many. */
static void retire_doubles(struct tids *callers)
{
	uint32_t threads = atomic_load_explicit(&shared->threads.fresh, memory_order_acquire);

	qsort(callers->tid, callers->count, sizeof *callers->tid, by_number);
	for (uint32_t i = 1; i <= threads; i++) {
		struct thread *t = pool_at(&shared->threads, i);

		if (atomic_load_explicit(&t->life, memory_order_acquire) == THREAD_LIVE &&
		    !atomic_load_explicit(&t->called, memory_order_relaxed) && has(callers, t->tid))
			thread_gone(t);
	}
}

static void look_for_threads(struct life *l)
{
	static struct tids now, before, known,
		callers; /* the agent's thread is the only one here */
	uint32_t threads = atomic_load_explicit(&shared->threads.fresh, memory_order_acquire);

	before = now;
	if (!read_tids(&now))
		return;
	known.count = callers.count = 0;
	for (uint32_t i = 1; i <= threads; i++) {
		struct thread *t = pool_at(&shared->threads, i);
		struct known *k = &l->known[i];

		if (atomic_load_explicit(&t->life, memory_order_acquire) != THREAD_LIVE)
			continue;
		if (!atomic_load_explicit(&t->stack_high, memory_order_relaxed))
			find_stack(t);
		if (has(&now, t->tid))
			k->missed = false;
		else if (k->missed && now.count < SCAN_TIDS)
			thread_gone(t);
		else
			k->missed = true;
		known.tid[known.count++] = t->tid;
		if (atomic_load_explicit(&t->called, memory_order_relaxed))
			callers.tid[callers.count++] = t->tid;
	}
	retire_doubles(&callers);
	qsort(known.tid, known.count, sizeof *known.tid, by_number);
	/* Two scans in a row: a thread that is just starting registers itself. */
	for (unsigned i = 0; i < now.count; i++)
		if (now.tid[i] != shared->agent_tid && has(&before, now.tid[i]) &&
		    !has(&known, now.tid[i]))
			thread_register_other(now.tid[i]);
}

void scan(struct life *l, uint64_t now_ns)
{
	uint64_t start, pause;

	if (now_ns < l->next_scan_ns)
		return;
	start = clock_cpu_ns();
	if (now_ns < l->scan_due_ns && as_many_as_known()) {
		pause = (clock_cpu_ns() - start) * CHECK_COST;
	} else {
		look_for_threads(l);
		l->scan_due_ns = now_ns + SCAN_S * 1000000000ull;
		pause = (clock_cpu_ns() - start) * SCAN_COST;
	}
	if (pause < SCAN_LEAST_NS)
		pause = SCAN_LEAST_NS;
	l->next_scan_ns = now_ns + (pause < SCAN_MOST_NS ? pause : SCAN_MOST_NS);
}
