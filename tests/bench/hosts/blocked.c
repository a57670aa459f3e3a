/* SPDX-License-Identifier: MIT
 *
 * Threads that wait for a condition, each with a request in hand, and what happens to them meanwhile.
 *
 *	blocked THREADS SECONDS
 *
 * prints CPU ns of the process and context switches of the threads, both over SECONDS, and the process's private memory in KiB.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "sonde.h"

enum {
	THREADS_MAX = 10000
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static pid_t tids[THREADS_MAX];
static atomic_int waiting;

static void *wait(void *arg)
{
	*(pid_t *)arg = (pid_t)syscall(SYS_gettid);
	sonde_begin("JOB wait");
	pthread_mutex_lock(&mutex);
	waiting++;
	for (;;)
		pthread_cond_wait(&never, &mutex);
	return NULL;
}

/* The sum of the numbers on the lines of @path that hold @key. */
static unsigned long sum(const char *path, const char *key)
{
	FILE *f = fopen(path, "re");
	unsigned long total = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, key))
			total += strtoul(strchr(line, ':') + 1, NULL, 10);
	if (f)
		fclose(f);
	return total;
}

static unsigned long switches(int threads)
{
	unsigned long total = 0;
	char path[64];

	for (int i = 0; i < threads; i++) {
		snprintf(path, sizeof(path), "/proc/self/task/%d/status", tids[i]);
		total += sum(path, "ctxt_switches:");
	}
	return total;
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
	int threads = argc == 3 ? atoi(argv[1]) : 0;
	unsigned seconds = argc == 3 ? (unsigned)atoi(argv[2]) : 0;
	unsigned long before, after;
	pthread_attr_t small;
	pthread_t thread;
	uint64_t cpu;

	if (threads < 1 || threads > THREADS_MAX || seconds < 1)
		return 2;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 64 << 10);
	for (int i = 0; i < threads; i++)
		if (pthread_create(&thread, &small, wait, &tids[i]))
			return 1;
	while (waiting < threads)
		usleep(1000);
	sleep(2); /* the agent has met them all, and looked twice */
	before = switches(threads);
	cpu = cpu_ns();
	sleep(seconds);
	cpu = cpu_ns() - cpu;
	after = switches(threads);
	printf("%llu\t%lu\t%lu\n", (unsigned long long)cpu, after - before,
	       sum("/proc/self/smaps_rollup", "Private_"));
	return 0;
}
