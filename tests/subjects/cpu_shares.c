/* SPDX-License-Identifier: MIT
 *
 * A program that knows what it spent its CPU time on: cpu_shares SECONDS. Every call of a burn_ function is timed by its
 * thread's own CPU clock, so that the truth is the same on a busy machine as on an idle one. At the end it prints
 *
 *	thread function stretches ns      what each function took on the threads of that name, in how many stretches of their
 *	                                  CPU time
 *	total - 1 ns                      the whole process, as getrusage(2) says
 *
 *	steady   always on: three functions in turn, in blocks of 20 to 60 ms, six, three and one tenth of the time
 *	duty     3 ms on, 7 ms asleep
 *	short    a new thread each time, 50 ms long, then a pause of 30 ms
 *	cloned   made by a raw clone(), 4 ms on, 4 ms asleep; it calls nothing of libc and shares its creator's thread-local
 *	         storage, as such threads do
 */
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000u

enum {
	CLONED_STACK_BYTES = 256 << 10
};

struct spent {
	const char *thread, *function;
	bool alone; /* its thread does nothing else: one stretch */
	_Atomic uint64_t calls, ns;
};

static struct spent six = { .thread = "steady", .function = "burn_six" };
static struct spent three = { .thread = "steady", .function = "burn_three" };
static struct spent one = { .thread = "steady", .function = "burn_one" };
static struct spent duty = { .thread = "duty", .function = "burn_duty", .alone = true };
static struct spent brief = { .thread = "short", .function = "burn_short" };
static struct spent cloned = { .thread = "cloned", .function = "burn_cloned", .alone = true };

static uint64_t end_ns; /* CLOCK_MONOTONIC */

/* System calls without libc: the raw thread has no errno of its own. */
static long raw(long number, long a, long b, long c, long d)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
#else
	return syscall(number, a, b, c, d);
#endif
}

static uint64_t clock_of(clockid_t clock)
{
	struct timespec t;

	raw(SYS_clock_gettime, clock, (long)&t, 0, 0);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void nap(uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / 1000000000u),
			      .tv_nsec = (long)(ns % 1000000000u) };

	raw(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, (long)&t, 0);
}

/*
 * A burn_ function: spins until its thread has used @ns more, or the wall clock says @until_ns. Its name in the assembly
 * keeps the compiler from folding them into one.
 */
#define BURN(name)                                                                                 \
  static __attribute__((noinline)) void burn_##name(struct spent *to, uint64_t ns,                 \
						    uint64_t until_ns)                             \
  {                                                                                                \
    uint64_t start = clock_of(CLOCK_THREAD_CPUTIME_ID), now = start;                               \
                                                                                                   \
    while (now - start < ns && clock_of(CLOCK_MONOTONIC) < until_ns) {                             \
      for (volatile unsigned i = 0; i < 50000; i++)                                                \
	__asm__ volatile("/* " #name " */");                                                       \
      now = clock_of(CLOCK_THREAD_CPUTIME_ID);                                                     \
    }                                                                                              \
    atomic_fetch_add(&to->ns, now - start);                                                        \
    atomic_fetch_add(&to->calls, 1);                                                               \
  }
BURN(six)
BURN(three)
BURN(one)
BURN(duty)
BURN(short)
BURN(cloned)

static uint64_t block(unsigned *seed)
{
	return (20 + (unsigned)rand_r(seed) % 41) * (uint64_t)MS;
}

static void *be_steady(void *unused)
{
	unsigned seed = (unsigned)getpid();

	prctl(PR_SET_NAME, "steady");
	while (clock_of(CLOCK_MONOTONIC) < end_ns)
		switch (rand_r(&seed) % 10) {
		case 0:
			burn_one(&one, block(&seed), end_ns);
			break;
		case 1:
		case 2:
		case 3:
			burn_three(&three, block(&seed), end_ns);
			break;
		default:
			burn_six(&six, block(&seed), end_ns);
		}
	return unused;
}

static void *be_on_duty(void *unused)
{
	prctl(PR_SET_NAME, "duty");
	while (clock_of(CLOCK_MONOTONIC) < end_ns) {
		burn_duty(&duty, 3 * MS, end_ns);
		nap(7 * MS);
	}
	return unused;
}

static void *be_short(void *unused)
{
	prctl(PR_SET_NAME, "short");
	burn_short(&brief, UINT64_MAX, clock_of(CLOCK_MONOTONIC) + 50 * MS);
	return unused;
}

static void *make_short_ones(void *unused)
{
	pthread_t thread;

	prctl(PR_SET_NAME, "maker");
	while (clock_of(CLOCK_MONOTONIC) < end_ns) {
		if (pthread_create(&thread, NULL, be_short, NULL) == 0)
			pthread_join(thread, NULL);
		nap(30 * MS);
	}
	return unused;
}

/* Cleared, and woken, by the kernel when the cloned thread is gone. */
static volatile pid_t cloned_tid = 1;

static int be_cloned(void *unused)
{
	(void)unused;
	raw(SYS_prctl, PR_SET_NAME, (long)"cloned", 0, 0);
	while (clock_of(CLOCK_MONOTONIC) < end_ns) {
		burn_cloned(&cloned, 4 * MS, end_ns);
		nap(4 * MS);
	}
	raw(SYS_exit, 0, 0, 0, 0);
	return 0;
}

static void make_cloned(void)
{
	char *stack = mmap(NULL, CLONED_STACK_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);

	if (stack == MAP_FAILED ||
	    clone(be_cloned, stack + CLONED_STACK_BYTES,
		  CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
			  CLONE_CHILD_CLEARTID,
		  NULL, NULL, NULL, (pid_t *)(uintptr_t)&cloned_tid) < 0) {
		perror("clone");
		exit(1);
	}
}

static void show(const struct spent *s)
{
	printf("%s %s %llu %llu\n", s->thread, s->function,
	       s->alone ? 1 : (unsigned long long)s->calls, (unsigned long long)s->ns);
}

int main(int argc, char **argv)
{
	static void *(*const roles[])(void *) = { be_steady, be_on_duty, make_short_ones };
	pthread_t thread[3];
	struct rusage usage;

	end_ns = clock_of(CLOCK_MONOTONIC) +
		 strtoull(argc > 1 ? argv[1] : "5", NULL, 10) * 1000 * MS;
	for (unsigned i = 0; i < 3; i++)
		if (pthread_create(&thread[i], NULL, roles[i], NULL))
			return 1;
	make_cloned();
	for (unsigned i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	while (cloned_tid)
		nap(MS);
	show(&six);
	show(&three);
	show(&one);
	show(&duty);
	show(&brief);
	show(&cloned);
	getrusage(RUSAGE_SELF, &usage);
	printf("total - 1 %llu\n",
	       1000ull * (unsigned long long)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) +
		       1000000000ull *
			       (unsigned long long)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec));
	fflush(stdout);
	nap(2000 *
	    MS); /* so that the last window is on its way, however busy the machine, before we are gone */
	return 0;
}
