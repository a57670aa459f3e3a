/* SPDX-License-Identifier: MIT
 *
 * Many threads fight over locks of every kind, in and out of requests: what a lock protects is never seen half done, counts
 * come out even, and every odd answer (EBUSY, EDEADLK, EPERM, ETIMEDOUT, EOWNERDEAD, EINVAL) is given as ever.
 */
#include <semaphore.h>

#include "include/sonde.h"
#include "tests/storms/storm.h"

enum {
	THREADS = 8,
	MUTEXES = 6,
	QUEUE = 16
};

static struct tally exclusive = TALLY("a mutex lets in one at a time"),
		    shared_too = TALLY("a rwlock lets in readers or a writer"),
		    queued = TALLY("what is queued arrives once, in order"),
		    counted = TALLY("a semaphore counts right"),
		    odd = TALLY("odd answers are given as ever"),
		    robust = TALLY("a robust mutex outlives its owner"),
		    timed = TALLY("timed waits end in time, not before"),
		    met = TALLY("barriers and joins meet"), even = TALLY("the sums are even");

/* Two words that are always the same to whoever holds the lock. */
struct guarded {
	volatile unsigned long a, b;
};

static pthread_mutex_t mutexes[MUTEXES];
static struct guarded under_mutex[MUTEXES], under_rwlock;
static pthread_rwlock_t rwlock, writer_first;
static unsigned long added[MUTEXES], written;
static sem_t tokens;
static int holders;

static struct {
	pthread_mutex_t mutex;
	pthread_cond_t filled, emptied;
	unsigned long items[QUEUE], head, tail, taken_sum, put_sum;
	bool closed;
} queue = { .mutex = PTHREAD_MUTEX_INITIALIZER,
	    .filled = PTHREAD_COND_INITIALIZER,
	    .emptied = PTHREAD_COND_INITIALIZER };

static void change(struct guarded *g, bool writes, struct tally *t)
{
	unsigned long a = g->a, b;

	if (writes)
		g->a = a + 1;
	storm_burn(5);
	b = g->b;
	if (writes)
		g->b = b + 1;
	tally(t, a == b, "%lu and %lu", a, b);
}

static int lock_somehow(pthread_mutex_t *m, uint32_t *random)
{
	struct timespec until;
	int r;

	switch (storm_random(random) % 4) {
	case 0:
		until = storm_in_us(CLOCK_REALTIME, 60000000);
		return pthread_mutex_timedlock(m, &until);
	case 1:
		until = storm_in_us(CLOCK_MONOTONIC, 60000000);
		return pthread_mutex_clocklock(m, CLOCK_MONOTONIC, &until);
	case 2:
		r = pthread_mutex_trylock(m);
		return r == EBUSY ? pthread_mutex_lock(m) : r;
	default:
		return pthread_mutex_lock(m);
	}
}

static void mutex_turn(uint32_t *random)
{
	unsigned which = storm_random(random) % MUTEXES;
	pthread_mutex_t *m = &mutexes[which];
	int kind = (int)which % 3, r;

	r = lock_somehow(m, random);
	tally(&exclusive, r == 0, "lock: %s", strerror(r));
	if (r)
		return;
	change(&under_mutex[which], true, &exclusive);
	added[which]++;
	if (kind == 1) { /* recursive */
		r = pthread_mutex_lock(m);
		tally(&odd, r == 0 && pthread_mutex_unlock(m) == 0, "recursive: %s", strerror(r));
	} else if (kind == 2) { /* error-checking */
		r = pthread_mutex_lock(m);
		tally(&odd, r == EDEADLK, "lock twice: %s", strerror(r));
		r = pthread_mutex_trylock(m);
		tally(&odd, r == (which < 3 ? EBUSY : EDEADLK), "try twice: %s", strerror(r));
	}
	r = pthread_mutex_unlock(m);
	tally(&exclusive, r == 0, "unlock: %s", strerror(r));
	if (kind == 2 && which >= 3) {
		r = pthread_mutex_unlock(m);
		tally(&odd, r == EPERM, "unlock twice: %s", strerror(r));
	}
}

static void rwlock_turn(uint32_t *random)
{
	pthread_rwlock_t *l = storm_random(random) % 2 ? &rwlock : &writer_first;
	struct timespec until = storm_in_us(CLOCK_REALTIME, 60000000);
	unsigned way = storm_random(random) % 8;
	bool writes = way < 2 && l == &rwlock;
	int r;

	if (l == &writer_first &&
	    way < 2) { /* one at a time each, on nothing shared with the other lock */
		r = pthread_rwlock_wrlock(l);
		tally(&shared_too, r == 0 && pthread_rwlock_unlock(l) == 0, "%s", strerror(r));
		return;
	}
	if (way == 0)
		r = pthread_rwlock_timedwrlock(l, &until);
	else if (way == 1)
		r = pthread_rwlock_wrlock(l);
	else if (way == 2)
		r = pthread_rwlock_timedrdlock(l, &until);
	else
		r = pthread_rwlock_rdlock(l);
	tally(&shared_too, r == 0, "%s", strerror(r));
	if (l == &rwlock)
		change(&under_rwlock, writes, &shared_too);
	if (writes) {
		written++;
		r = pthread_rwlock_wrlock(l);
		tally(&odd, r == EDEADLK, "wrlock twice: %s", strerror(r));
		r = pthread_rwlock_tryrdlock(l);
		tally(&odd, r == EBUSY, "tryrdlock of a writer: %s", strerror(r));
	}
	r = pthread_rwlock_unlock(l);
	tally(&shared_too, r == 0, "unlock: %s", strerror(r));
}

static void semaphore_turn(uint32_t *random)
{
	struct timespec until = storm_in_us(CLOCK_MONOTONIC, 60000000);
	int r = storm_random(random) % 2 ? sem_wait(&tokens)
					 : sem_clockwait(&tokens, CLOCK_MONOTONIC, &until);
	int now = __atomic_add_fetch(&holders, 1, __ATOMIC_ACQ_REL);

	tally(&counted, r == 0 && now <= 3, "%d, %d holders", r, now);
	storm_burn(10);
	__atomic_sub_fetch(&holders, 1, __ATOMIC_ACQ_REL);
	r = sem_post(&tokens);
	tally(&counted, r == 0, "sem_post: %s", strerror(errno));
}

static void odd_turn(void)
{
	pthread_mutex_t mine = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	struct timespec wrong = { .tv_nsec = 1000000000 }, soon;
	sem_t none;
	int r;

	MUST(sem_init(&none, 0, 0));
	pthread_mutex_lock(&mine);
	soon = storm_in_us(CLOCK_REALTIME, 300);
	r = pthread_mutex_timedlock(&mine, &soon);
	tally(&timed, r == ETIMEDOUT, "timedlock: %s", strerror(r));
	r = pthread_mutex_timedlock(&mine, &wrong);
	tally(&odd, r == EINVAL, "timedlock: %s", strerror(r));
	r = pthread_mutex_clocklock(&mine, CLOCK_PROCESS_CPUTIME_ID, &soon);
	tally(&odd, r == EINVAL, "clocklock: %s", strerror(r));
	soon = storm_in_us(CLOCK_MONOTONIC, 300);
	r = pthread_cond_clockwait(&cond, &mine, CLOCK_MONOTONIC, &soon);
	tally(&timed,
	      r == ETIMEDOUT && storm_clock_ns() >= (uint64_t)soon.tv_sec * 1000000000u +
							    (uint64_t)soon.tv_nsec,
	      "clockwait: %s", strerror(r));
	r = pthread_cond_timedwait(&cond, &mine, &wrong);
	tally(&odd, r == EINVAL, "timedwait: %s", strerror(r));
	pthread_mutex_unlock(&mine);
	errno = 0;
	r = sem_trywait(&none);
	tally(&odd, r == -1 && errno == EAGAIN, "sem_trywait: %s", strerror(errno));
	errno = 0;
	r = sem_timedwait(&none, &wrong);
	tally(&odd, r == -1 && errno == EINVAL, "sem_timedwait: %s", strerror(errno));
	soon = storm_in_us(CLOCK_MONOTONIC, 200);
	errno = 0;
	r = sem_clockwait(&none, CLOCK_MONOTONIC, &soon);
	tally(&timed, r == -1 && errno == ETIMEDOUT, "sem_clockwait: %s", strerror(errno));
}

static void *dies_with_it(void *mutex)
{
	return pthread_mutex_lock(mutex) ? NULL : mutex;
}

static void robust_turn(void)
{
	pthread_mutexattr_t attributes;
	pthread_mutex_t m;
	pthread_t thread;
	void *value;
	int r;

	MUST_0(pthread_mutexattr_init(&attributes));
	MUST_0(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST));
	MUST_0(pthread_mutex_init(&m, &attributes));
	MUST_0(pthread_create(&thread, NULL, dies_with_it, &m));
	MUST_0(pthread_join(thread, &value));
	tally(&met, value == &m, "%p", value);
	r = pthread_mutex_lock(&m);
	tally(&robust,
	      r == EOWNERDEAD && pthread_mutex_consistent(&m) == 0 &&
		      pthread_mutex_unlock(&m) == 0 && pthread_mutex_lock(&m) == 0 &&
		      pthread_mutex_unlock(&m) == 0,
	      "%s", strerror(r));
	pthread_mutex_destroy(&m);
}

static void put(unsigned long item)
{
	pthread_mutex_lock(&queue.mutex);
	while (queue.tail - queue.head == QUEUE && !queue.closed)
		pthread_cond_wait(&queue.emptied, &queue.mutex);
	if (!queue.closed) {
		queue.items[queue.tail++ % QUEUE] = item;
		queue.put_sum += item;
		pthread_cond_signal(&queue.filled);
	}
	pthread_mutex_unlock(&queue.mutex);
}

static void *takes(void *unused)
{
	unsigned long last = 0;

	(void)unused;
	for (;;) {
		unsigned long item;

		pthread_mutex_lock(&queue.mutex);
		while (queue.tail == queue.head && !queue.closed)
			pthread_cond_wait(&queue.filled, &queue.mutex);
		if (queue.tail == queue.head)
			break;
		item = queue.items[queue.head++ % QUEUE];
		queue.taken_sum += item;
		pthread_cond_signal(&queue.emptied);
		pthread_mutex_unlock(&queue.mutex);
		tally(&queued, item > last, "%lu after %lu", item, last);
		last = item;
	}
	pthread_mutex_unlock(&queue.mutex);
	return NULL;
}

static void *puts_in(void *unused)
{
	(void)unused;
	for (unsigned long item = 1; storm_on(); item++)
		put(item);
	pthread_mutex_lock(&queue.mutex);
	queue.closed = true;
	pthread_cond_broadcast(&queue.filled);
	pthread_mutex_unlock(&queue.mutex);
	return NULL;
}

static pthread_barrier_t barrier;

static void *fights(void *seed)
{
	uint32_t random = (uint32_t)(uintptr_t)seed;

	/* each of them once at least, however slow the machine */
	for (unsigned i = 0; storm_on() || i < 60; i++) {
		sonde_request request = storm_random(&random) % 2 ? sonde_begin("fight") : 0;

		mutex_turn(&random);
		rwlock_turn(&random);
		semaphore_turn(&random);
		if (i % 20 == 10)
			odd_turn();
		if (i % 20 == 15)
			robust_turn();
		sonde_end(request, 0);
	}
	pthread_barrier_wait(&barrier);
	return NULL;
}

int main(int argc, char **argv)
{
	static const int kinds[] = { PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_RECURSIVE,
				     PTHREAD_MUTEX_ERRORCHECK };
	pthread_t threads[THREADS], putter, takers[1];
	pthread_rwlockattr_t first;

	storm_begin(argc, argv);
	tally_list(&exclusive);
	tally_list(&shared_too);
	tally_list(&counted);
	tally_list(&queued);
	tally_list(&odd);
	tally_list(&timed);
	tally_list(&robust);
	tally_list(&met);
	tally_list(&even);
	for (int i = 0; i < MUTEXES; i++) { /* the last three inherit priority */
		pthread_mutexattr_t attributes;

		MUST_0(pthread_mutexattr_init(&attributes));
		MUST_0(pthread_mutexattr_settype(&attributes, kinds[i % 3]));
		MUST_0(pthread_mutexattr_setprotocol(&attributes, i < 3 ? PTHREAD_PRIO_NONE
									: PTHREAD_PRIO_INHERIT));
		MUST_0(pthread_mutex_init(&mutexes[i], &attributes));
	}
	MUST_0(pthread_rwlockattr_init(&first));
	MUST_0(pthread_rwlockattr_setkind_np(&first, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP));
	MUST_0(pthread_rwlock_init(&writer_first, &first));
	MUST_0(pthread_rwlock_init(&rwlock, NULL));
	MUST(sem_init(&tokens, 0, 3));
	MUST_0(pthread_barrier_init(&barrier, NULL, THREADS + 1));
	for (uintptr_t i = 0; i < THREADS; i++)
		MUST_0(pthread_create(&threads[i], NULL, fights, (void *)(i + 1)));
	MUST_0(pthread_create(&takers[0], NULL, takes, NULL));
	MUST_0(pthread_create(&putter, NULL, puts_in, NULL));
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < THREADS; i++) {
		int r = pthread_join(threads[i], NULL);

		tally(&met, r == 0, "%s", strerror(r));
	}
	MUST_0(pthread_join(putter, NULL));
	MUST_0(pthread_join(takers[0], NULL));
	for (int i = 0; i < MUTEXES; i++)
		tally(&even, under_mutex[i].a == added[i] && under_mutex[i].b == added[i],
		      "%lu, %lu, %lu", under_mutex[i].a, under_mutex[i].b, added[i]);
	tally(&even, under_rwlock.a == written && under_rwlock.b == written, "%lu, %lu, %lu",
	      under_rwlock.a, under_rwlock.b, written);
	tally(&even, queue.put_sum == queue.taken_sum, "%lu, %lu", queue.put_sum, queue.taken_sum);
	return storm_end();
}
