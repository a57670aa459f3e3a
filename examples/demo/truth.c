/* SPDX-License-Identifier: MIT
 *
 * The clocks, and the log: tab-separated, one header line, one line per request. stdio's lock keeps lines of several
 * threads whole.
 */
#include "examples/demo/truth.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static FILE *log_file; /* constant while requests are served */

uint64_t monotonic_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t thread_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Second number of schedstat. The descriptor stays open as long as the thread may live: as long as the demo. */
static uint64_t thread_runq_ns(void)
{
	static _Thread_local int fd;
	char text[64], *second;
	ssize_t length;

	if (fd == 0)
		fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	length = pread(fd, text, sizeof(text) - 1, 0);
	if (length <= 0)
		return 0;
	text[length] = '\0';
	strtoull(text, &second, 10);
	return strtoull(second, NULL, 10);
}

int truth_open(const char *path)
{
	log_file = fopen(path, "we");
	if (!log_file)
		return -errno;
	setvbuf(log_file, NULL, _IOFBF, 1 << 20);
	fputs("method\tpath\tstatus\tsent_ns\tbegin_ns\tend_ns\tcpu_ns\trunq_ns\tio_ns\tlock_"
	      "ns\tsleep_ns\t"
	      "loop_ns\n",
	      log_file);
	return 0;
}

void truth_flush(void)
{
	if (log_file)
		fflush(log_file);
}

int truth_close(void)
{
	FILE *file = log_file;
	int failed;

	if (!file)
		return 0;
	log_file = NULL;
	failed = ferror(file);
	if (fclose(file) != 0)
		return -errno;
	return failed ? -EIO : 0;
}

struct clocks truth_clocks(void)
{
	struct clocks now = { 0, 0, 0 };

	if (log_file) {
		now.wall = monotonic_ns();
		now.cpu = thread_cpu_ns();
		now.runq = thread_runq_ns();
	}
	return now;
}

void truth_begin(struct truth *truth)
{
	truth_resume(truth);
	truth->begin_ns = truth->since.wall;
}

void truth_resume(struct truth *truth)
{
	truth->since = truth_clocks();
}

uint64_t truth_pause(struct truth *truth)
{
	struct clocks now = truth_clocks();

	truth->cpu_ns += now.cpu - truth->since.cpu;
	truth->runq_ns += now.runq - truth->since.runq;
	return now.wall;
}

uint64_t truth_blocked_ns(const struct clocks *since, const struct clocks *now)
{
	uint64_t passed = now->wall - since->wall;
	uint64_t not_blocked = (now->cpu - since->cpu) + (now->runq - since->runq);

	/* The clocks are read one after the other: a wait that was none may come out below zero. */
	return passed > not_blocked ? passed - not_blocked : 0;
}

void truth_waited(struct truth *truth, enum wait kind, const struct clocks *since)
{
	struct clocks now = truth_clocks();

	truth->wait_ns[kind] += truth_blocked_ns(since, &now);
}

void truth_handed_over(struct truth *truth, uint64_t since_ns)
{
	if (log_file)
		truth->wait_ns[WAIT_LOCK] += monotonic_ns() - since_ns;
}

void truth_loop_waited(struct turns *turns, const struct clocks *before)
{
	turns->mark = truth_clocks();
	turns->runq_ns += turns->mark.runq - before->runq;
	turns->idle_ns += truth_blocked_ns(before, &turns->mark);
}

void truth_loop_leave(struct truth *truth, struct turns *turns, enum wait kind)
{
	turns->mark = truth_clocks();
	truth->cpu_ns += turns->mark.cpu - truth->since.cpu;
	truth->runq_ns += turns->mark.runq - truth->since.runq;
	truth->left_ns = turns->mark.wall;
	truth->left_for = kind;
	truth->left_idle_ns = turns->idle_ns;
	truth->left_runq_ns = turns->runq_ns;
}

void truth_loop_return(struct truth *truth, const struct turns *turns)
{
	uint64_t away_ns = turns->mark.wall - truth->left_ns;
	uint64_t idle_ns = turns->idle_ns - truth->left_idle_ns;
	uint64_t runq_ns = turns->runq_ns - truth->left_runq_ns;

	truth->wait_ns[truth->left_for] += idle_ns;
	truth->runq_ns += runq_ns;
	if (away_ns > idle_ns + runq_ns)
		truth->loop_ns += away_ns - idle_ns - runq_ns;
	truth->since = turns->mark;
}

void truth_loop_sent(struct truth *truth, struct turns *turns)
{
	truth->since = turns->mark;
	truth->end_ns = truth_pause(truth);
	turns->mark = truth_clocks();
}

void truth_end(struct truth *truth, const char *method, const char *path, unsigned status)
{
	if (!log_file)
		return;
	if (truth->end_ns == 0)
		truth->end_ns = truth_pause(truth);
	fprintf(log_file, "%s\t%s\t%u\t%lu\t%lu\t%lu\t%lu\t%lu\t%lu\t%lu\t%lu\t%lu\n", method, path,
		status, truth->sent_ns, truth->begin_ns, truth->end_ns, truth->cpu_ns,
		truth->runq_ns, truth->wait_ns[WAIT_IO], truth->wait_ns[WAIT_LOCK],
		truth->wait_ns[WAIT_SLEEP], truth->loop_ns);
}
