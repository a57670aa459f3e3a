/* SPDX-License-Identifier: MIT
 *
 * Threads by the thousand a second: they return, exit, are cancelled, are detached, have the smallest stacks there are,
 * stacks of their own, destructors that call libc once more, and die with a request in hand. What they were given comes
 * back, every destructor runs once, and their memory and descriptors go with them.
 */
#include <limits.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "include/sonde.h"
#include "tests/storms/storm.h"

enum {
	MAKERS = 3,
	BATCH = 8,
	OWN_STACK = 64 << 10
};

static struct tally returned = TALLY("threads end as told"),
		    destroyed = TALLY("destructors run once for each"),
		    refused = TALLY("a stack too small is refused as ever"),
		    attributes_kept = TALLY("a thread has the stack it was given"),
		    memory = TALLY("memory stays");

static pthread_key_t key;
static unsigned long made, ended;

static void on_end(void *value)
{
	struct timespec none = { 0 };
	int fds[2];

	/* past the end of the agent's own record of this thread, or before it */
	if (value && nanosleep(&none, NULL) == 0 && pipe(fds) == 0) {
		close(fds[0]);
		close(fds[1]);
		__atomic_fetch_add(&ended, 1, __ATOMIC_RELAXED);
	}
}

struct job {
	unsigned way;
	void *stack;
};

static void *job_main(void *argument)
{
	struct job *job = argument;
	pthread_attr_t attributes;
	void *low;
	size_t bytes;

	__atomic_fetch_add(&made, 1, __ATOMIC_RELAXED);
	pthread_setspecific(key, job);
	storm_burn(100);
	switch (job->way) {
	case 0:
		return job;
	case 1:
		pthread_exit(job);
	case 2:
		for (;;)
			sleep(3600); /* to be cancelled */
	case 3:
		sonde_begin("never ended");
		return job;
	default:
		MUST_0(pthread_getattr_np(pthread_self(), &attributes));
		MUST_0(pthread_attr_getstack(&attributes, &low, &bytes));
		pthread_attr_destroy(&attributes);
		tally(&attributes_kept,
		      job->way == 4 ? low == job->stack && bytes == OWN_STACK
				    : bytes == (size_t)sysconf(_SC_THREAD_STACK_MIN),
		      "%p, %zu bytes", low, bytes);
		return job;
	}
}

static unsigned long detached_ended;

static void *detached_main(void *argument)
{
	__atomic_fetch_add(&made, 1, __ATOMIC_RELAXED);
	pthread_setspecific(key, argument);
	storm_burn(50);
	__atomic_fetch_add(&detached_ended, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void start(pthread_t *thread, struct job *job)
{
	pthread_attr_t attributes;

	MUST_0(pthread_attr_init(&attributes));
	if (job->way == 4)
		MUST_0(pthread_attr_setstack(&attributes, job->stack, OWN_STACK));
	if (job->way == 5)
		MUST_0(pthread_attr_setstacksize(&attributes,
						 (size_t)sysconf(_SC_THREAD_STACK_MIN)));
	MUST_0(pthread_create(thread, &attributes, job_main, job));
	pthread_attr_destroy(&attributes);
}

static void *makes(void *seed)
{
	uint32_t random = (uint32_t)(uintptr_t)seed;
	unsigned long detached = 0;
	pthread_attr_t attributes;
	char *stacks = mmap(NULL, BATCH * OWN_STACK, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST_0(pthread_attr_init(&attributes));
	MUST_0(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED));
	while (storm_on()) {
		struct job jobs[BATCH];
		pthread_t threads[BATCH], thread;
		void *value;

		for (int i = 0; i < BATCH; i++) {
			jobs[i] = (struct job){ storm_random(&random) % 6, stacks + i * OWN_STACK };
			start(&threads[i], &jobs[i]);
		}
		if (storm_random(&random) % 4 == 0) {
			MUST_0(pthread_create(&thread, &attributes, detached_main, &detached));
			detached++;
		}
		tally(&refused, pthread_attr_setstacksize(&attributes, 1000) == EINVAL,
		      "1000 bytes");
		for (int i = 0; i < BATCH; i++) {
			if (jobs[i].way == 2)
				MUST_0(pthread_cancel(threads[i]));
			MUST_0(pthread_join(threads[i], &value));
			tally(&returned,
			      jobs[i].way == 2 ? value == PTHREAD_CANCELED : value == &jobs[i],
			      "way %u: %p", jobs[i].way, value);
		}
	}
	pthread_attr_destroy(&attributes);
	munmap(stacks, BATCH * OWN_STACK);
	return (void *)detached;
}

static long kib(const char *name)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];
	long value = -1;

	while (f && fgets(line, sizeof line, f))
		if (strncmp(line, name, strlen(name)) == 0)
			value = strtol(line + strlen(name), NULL, 10);
	if (f)
		fclose(f);
	return value;
}

int main(int argc, char **argv)
{
	pthread_t threads[MAKERS];
	unsigned long detached = 0;
	long before, after;
	uint64_t start_ns;

	storm_begin(argc, argv);
	tally_list(&returned);
	tally_list(&destroyed);
	tally_list(&attributes_kept);
	tally_list(&refused);
	tally_list(&memory);
	MUST_0(pthread_key_create(&key, on_end));
	start_ns = storm_clock_ns();
	for (uintptr_t i = 0; i < MAKERS; i++)
		MUST_0(pthread_create(&threads[i], NULL, makes, (void *)(i + 1)));
	/* by then all pools and caches have been used as far as they go */
	while (storm_clock_ns() < start_ns + (storm_until_ns - start_ns) / 2)
		usleep(10000);
	before = kib("VmRSS:");
	for (int i = 0; i < MAKERS; i++) {
		void *value;

		MUST_0(pthread_join(threads[i], &value));
		detached += (unsigned long)value;
	}
	while (__atomic_load_n(&detached_ended, __ATOMIC_ACQUIRE) < detached || storm_threads() > 1)
		usleep(1000);
	after = kib("VmRSS:");
	tally(&destroyed, ended == made, "%lu of %lu", ended, made);
	tally(&memory, after < before + 8192, "%ld KiB, then %ld KiB", before, after);
	note("%.0f threads a second", (double)made * 1e9 / (double)(storm_clock_ns() - start_ns));
	return storm_end();
}
