/* SPDX-License-Identifier: MIT
 *
 * A program that knows how long it waited, and where: offcpu SECONDS. Every wait is timed by the program itself, from
 * 100 us to half of its life long. At the end it prints
 *
 *	route place state waits ns runq_ns
 *
 * where runq_ns is the part of ns in which the wait was over and the thread waited for a processor, as the kernel says.
 * Route "-" is none: a thread without a request. Only what is timed goes through libc; whatever else has to wait asks the
 * kernel directly, where the agent does not look.
 *
 *	mix (two threads)   requests that do one of these: sleeps of 100 us and of 100 ms, reads of 1 to 8 ms, locks that another
 *	                    thread holds for 3 ms; the sleep of 100 us is called from two places
 *	long                a request that sleeps for half of the time
 *	quick, slow         no request: locks held for 100 us and for 50 ms
 *	stuck               no request: one lock, held from the first second to the last
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "sonde.h"

#define US ((uint64_t)1000)
#define MS (1000 * US)
#define S  (1000 * MS)

struct place {
	const char *route, *name, *state;
	_Atomic uint64_t waits, ns, runq_ns;
};

static uint64_t start_ns, end_ns, seconds;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * S + (uint64_t)t.tv_nsec;
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){ .tv_sec = (time_t)(ns / S), .tv_nsec = (long)(ns % S) };
}

static void raw_nap(uint64_t ns)
{
	struct timespec t = timespec_of(ns);

	syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, NULL);
}

/* ---- The log ---- */

/* Run-queue delay of the calling thread so far. */
static uint64_t runq_ns(void)
{
	static __thread int fd = -1;
	char text[96], *end;
	ssize_t n;

	if (fd < 0)
		fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/thread-self/schedstat",
				  O_RDONLY | O_CLOEXEC, 0);
	n = syscall(SYS_pread64, fd, text, sizeof text - 1, 0);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	strtoull(text, &end, 10);
	return strtoull(end, NULL, 10);
}

#define TIMED(place, call)                                                                         \
  do {                                                                                             \
    uint64_t runq_ = runq_ns(), start_ = now_ns();                                                 \
                                                                                                   \
    call;                                                                                          \
    atomic_fetch_add(&(place)->ns, now_ns() - start_);                                             \
    atomic_fetch_add(&(place)->runq_ns, runq_ns() - runq_);                                        \
    atomic_fetch_add(&(place)->waits, 1);                                                          \
  } while (0)

/* ---- Places to wait at: each is a function, and the function is the place's name ---- */

#define PLACE(r, n, s)                                                                             \
  {                                                                                                \
    .route = r, .name = n, .state = s                                                              \
  }
static struct place places[] = {
	PLACE("mix", "nap_brief", "sleep"),   PLACE("mix", "nap_again", "sleep"),
	PLACE("mix", "nap_long", "sleep"),    PLACE("mix", "wait_for_bytes", "io"),
	PLACE("mix", "lock_request", "lock"), PLACE("long", "nap_half", "sleep"),
	PLACE("-", "lock_quick", "lock"),     PLACE("-", "lock_slow", "lock"),
	PLACE("-", "lock_stuck", "lock"),
};

static __attribute__((noinline)) void nap_100us(struct place *place)
{
	struct timespec t = timespec_of(100 * US);

	TIMED(place, nanosleep(&t, NULL));
}

/* Two ways to the same call: only the stack tells one from the other. */
static __attribute__((noinline)) void nap_brief(void)
{
	for (int i = 0; i < 20; i++)
		nap_100us(&places[0]);
	__asm__ volatile("");
}

static __attribute__((noinline)) void nap_again(void)
{
	volatile char more[64] = { 0 };

	for (int i = 0; i < 5; i++)
		nap_100us(&places[1]);
	(void)more[0];
}

static __attribute__((noinline)) void nap_long(void)
{
	struct timespec t = timespec_of(100 * MS);

	TIMED(&places[2], nanosleep(&t, NULL));
}

static __attribute__((noinline)) void nap_half(void)
{
	struct timespec t = timespec_of(seconds * S / 2);

	TIMED(&places[5], nanosleep(&t, NULL));
}

static __attribute__((noinline)) void wait_for_bytes(int fd, unsigned ms)
{
	struct timeval t = { .tv_usec = (suseconds_t)ms * 1000 };
	char byte;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
	TIMED(&places[3], recv(fd, &byte, 1, 0));
}

/* A thread that holds a mutex for its master: take_for(), then a lock of the mutex waits about so long. */
struct holder {
	pthread_mutex_t mutex;
	_Atomic uint64_t hold_ns; /* asked for; 0: let go */
	_Atomic bool held;
};

static void *hold(void *argument)
{
	struct holder *h = argument;

	prctl(PR_SET_NAME, "holder");
	for (;;) {
		uint64_t ns = atomic_load(&h->hold_ns);

		if (!ns) {
			raw_nap(50 * US);
			continue;
		}
		pthread_mutex_lock(&h->mutex);
		atomic_store(&h->held, true);
		raw_nap(ns);
		atomic_store(&h->hold_ns, 0);
		pthread_mutex_unlock(&h->mutex);
	}
	return NULL;
}

static struct holder *holder(void)
{
	struct holder *h = calloc(1, sizeof *h);
	pthread_t thread;

	if (!h || pthread_create(&thread, NULL, hold, h))
		abort();
	pthread_detach(thread);
	return h;
}

static void take_for(struct holder *h, uint64_t ns)
{
	atomic_store(&h->held, false);
	atomic_store(&h->hold_ns, ns);
	while (!atomic_load(&h->held))
		raw_nap(20 * US);
}

#define LOCK_AT(name, place)                                                                       \
  static __attribute__((noinline)) void name(struct holder *h, uint64_t ns)                        \
  {                                                                                                \
    take_for(h, ns);                                                                               \
    TIMED(place, pthread_mutex_lock(&h->mutex));                                                   \
    pthread_mutex_unlock(&h->mutex);                                                               \
  }
LOCK_AT(lock_request, &places[4])
LOCK_AT(lock_quick, &places[6])
LOCK_AT(lock_slow, &places[7])
LOCK_AT(lock_stuck, &places[8])

/* ---- Threads ---- */

static void *mix(void *argument)
{
	struct holder *h = holder();
	unsigned seed = (unsigned)(uintptr_t)argument;
	int fds[2];

	prctl(PR_SET_NAME, "mix");
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		abort();
	while (now_ns() < end_ns) {
		sonde_request r = sonde_begin("mix");
		int what = rand_r(&seed) % 20;

		if (what < 9)
			nap_brief();
		else if (what < 12)
			nap_again();
		else if (what < 16)
			wait_for_bytes(fds[0], 1 + (unsigned)rand_r(&seed) % 8);
		else if (what < 19)
			lock_request(h, 3 * MS);
		else
			nap_long();
		sonde_end(r, 0);
	}
	return NULL;
}

static void *be_long(void *unused)
{
	sonde_request r = sonde_begin("long");

	prctl(PR_SET_NAME, "long");
	nap_half();
	sonde_end(r, 0);
	return unused;
}

static void *be_quick(void *unused)
{
	struct holder *h = holder();

	prctl(PR_SET_NAME, "quick");
	while (now_ns() < end_ns)
		lock_quick(h, 200 * US); /* some of which passes before we are there */
	return unused;
}

static void *be_slow(void *unused)
{
	struct holder *h = holder();

	prctl(PR_SET_NAME, "slow");
	while (now_ns() < end_ns) {
		lock_slow(h, 50 * MS);
		raw_nap(30 * MS);
	}
	return unused;
}

static void *be_stuck(void *unused)
{
	prctl(PR_SET_NAME, "stuck");
	raw_nap(start_ns + S - now_ns());
	lock_stuck(holder(), end_ns - now_ns());
	return unused;
}

int main(int argc, char **argv)
{
	static void *(*const roles[])(void *) = { mix, mix, be_long, be_quick, be_slow, be_stuck };
	pthread_t thread[sizeof roles / sizeof *roles];

	seconds = strtoull(argc > 1 ? argv[1] : "5", NULL, 10);
	start_ns = now_ns();
	end_ns = start_ns + seconds * S;
	for (uintptr_t i = 0; i < sizeof roles / sizeof *roles; i++)
		if (pthread_create(&thread[i], NULL, roles[i], (void *)(i + 1)))
			return 1;
	for (unsigned i = 0; i < sizeof roles / sizeof *roles; i++)
		pthread_join(thread[i], NULL);
	for (unsigned i = 0; i < sizeof places / sizeof *places; i++)
		printf("%s %s %s %llu %llu %llu\n", places[i].route, places[i].name,
		       places[i].state, (unsigned long long)places[i].waits,
		       (unsigned long long)places[i].ns, (unsigned long long)places[i].runq_ns);
	fflush(stdout);
	raw_nap(2 *
		S); /* so that the last window is on its way, however busy the machine, before we are gone */
	return 0;
}
