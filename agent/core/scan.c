/* SPDX-License-Identifier: MIT
 *
 * Once a second: threads that were made behind our back get a record and a timer, records of threads that went without a
 * word are closed, and stacks that nobody described get bounds from the memory map.
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
	SCAN_SKIPS =
		8 /* scans that may do with a number that fits, before one reads the names again */
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
 * names cost 1 us each. One that went while another came is found a few seconds later.
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
	uintptr_t seen = t->stack_seen ? t->stack_seen : stack_pointer_of(t->tid);
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

void scan(struct life *l)
{
	static struct tids now, before, known; /* the agent's thread is the only one here */
	static unsigned skipped;
	uint32_t threads = atomic_load_explicit(&shared->threads.fresh, memory_order_acquire);

	if (skipped < SCAN_SKIPS && as_many_as_known()) {
		skipped++;
		return;
	}
	skipped = 0;
	before = now;
	if (!read_tids(&now))
		return;
	known.count = 0;
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
		if (known.count < SCAN_TIDS)
			known.tid[known.count++] = t->tid;
	}
	qsort(known.tid, known.count, sizeof *known.tid, by_number);
	/* Two scans in a row: a thread that is just starting registers itself. */
	for (unsigned i = 0; i < now.count; i++)
		if (now.tid[i] != shared->agent_tid && has(&before, now.tid[i]) &&
		    !has(&known, now.tid[i]))
			thread_register_other(now.tid[i]);
}
