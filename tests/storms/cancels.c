/* SPDX-License-Identifier: MIT
 *
 * Threads are cancelled in every call that the agent wraps, just before it and just after, deferred and at any instruction.
 * Each ends as cancelled, its cleanup runs once, and finds the mutex of a condition locked. What is no cancellation point
 * must not become one, and a call with cancellation switched off does its work.
 */
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "include/sonde.h"
#include "tests/storms/storm.h"

static struct tally ended = TALLY("a cancelled thread ends as cancelled"),
		    cleaned = TALLY("its cleanup runs once"),
		    locked = TALLY("a cancelled wait has its mutex"),
		    passed = TALLY("what is no cancellation point does not cancel"),
		    shielded = TALLY("with cancellation off, calls do their work"),
		    computing = TALLY("a computing thread is cancelled anywhere"),
		    free_again = TALLY("locks are free after all that");

struct place {
	int pair[2], pipe[2], epoll;
	sem_t semaphore, never;
	pthread_mutex_t mutex, busy;
	pthread_rwlock_t rwlock;
	pthread_cond_t cond;
	pthread_t other;
	/* of this turn */
	unsigned way;
	bool asynchronous, with_request;
	int ready, cleanups, wrong, reached;
};

static void ready(struct place *p)
{
	__atomic_store_n(&p->ready, 1, __ATOMIC_RELEASE);
}

static void on_cleanup(void *argument)
{
	struct place *p = argument;

	p->cleanups++;
}

/* As after every wait for a condition, the mutex is ours: an error-checking one tells. */
static void on_cleanup_locked(void *argument)
{
	struct place *p = argument;

	p->cleanups++;
	p->wrong += pthread_mutex_unlock(&p->mutex) != 0;
}

static void *sleeps(void *semaphore)
{
	sem_wait(semaphore);
	return NULL;
}

/* Never comes back but by cancellation. */
static void wait_for_ever(struct place *p)
{
	struct pollfd pollfd = { .fd = p->pipe[0], .events = POLLIN };
	struct iovec iov = { (char[8]){ 0 }, 8 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct timespec hour = { .tv_sec = 3600 }, until;
	struct timeval hour_too = { .tv_sec = 3600 };
	struct epoll_event event;
	fd_set set;
	char byte;

	switch (p->way) {
	case 0:
		read(p->pipe[0], &byte, 1);
		break;
	case 1:
		poll(&pollfd, 1, -1);
		break;
	case 2:
		nanosleep(&hour, NULL);
		break;
	case 3:
		FD_ZERO(&set);
		FD_SET(p->pipe[0], &set);
		select(p->pipe[0] + 1, &set, NULL, NULL, &hour_too);
		break;
	case 4:
		epoll_wait(p->epoll, &event, 1, -1);
		break;
	case 5:
		recv(p->pair[0], &byte, 1, 0);
		break;
	case 6:
		recvmsg(p->pair[0], &msg, 0);
		break;
	case 7:
		readv(p->pair[0], &iov, 1);
		break;
	case 8:
		sem_wait(&p->never);
		break;
	case 9:
		clock_nanosleep(CLOCK_MONOTONIC, 0, &hour, NULL);
		break;
	case 10:
		ppoll(&pollfd, 1, &hour, NULL);
		break;
	case 11:
		sleep(3600);
		break;
	case 12:
		pthread_join(p->other, NULL);
		break;
	case 13:
		until = storm_in_us(CLOCK_REALTIME, 3600000000l);
		sem_timedwait(&p->never, &until);
		break;
	case 14: /* in and out all the time */
		for (;;)
			nanosleep(&(struct timespec){ 0 }, NULL);
	case 15:
		for (;;)
			poll(NULL, 0, 0);
	case 16:
		pthread_cond_wait(&p->cond, &p->mutex);
		break;
	case 17:
		until = storm_in_us(CLOCK_REALTIME, 3600000000l);
		pthread_cond_timedwait(&p->cond, &p->mutex, &until);
		break;
	default:
		until = storm_in_us(CLOCK_MONOTONIC, 3600000000l);
		pthread_cond_clockwait(&p->cond, &p->mutex, CLOCK_MONOTONIC, &until);
	}
}
enum {
	WAYS = 19,
	LOCKED_FROM = 16
};

static void *cancelled_main(void *argument)
{
	struct place *p = argument;

	if (p->with_request)
		sonde_begin(
			"cancelled"); /* in hand when the thread ends: parked, and never taken up again */
	if (p->way >= LOCKED_FROM) {
		pthread_mutex_lock(&p->mutex);
		pthread_cleanup_push(on_cleanup_locked, p);
		ready(p);
		wait_for_ever(p);
		pthread_cleanup_pop(0);
	} else {
		pthread_cleanup_push(on_cleanup, p);
		if (p->asynchronous)
			pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
		ready(p);
		wait_for_ever(p);
		pthread_cleanup_pop(0);
	}
	return p;
}

static void *computing_main(void *argument)
{
	struct place *p = argument;

	pthread_cleanup_push(on_cleanup, p);
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	ready(p);
	for (volatile unsigned long x = 1;;)
		x = x * 3 + 1;
	pthread_cleanup_pop(0);
	return p;
}

/* Cancelled while it does all this: not before the end. */
static void *passing_main(void *argument)
{
	struct place *p = argument;
	struct timespec past = { 0 };
	int one = 1, fd, old;
	sigset_t set;

	if (p->with_request)
		sonde_begin("passing");
	pthread_cleanup_push(on_cleanup, p);
	ready(p);
	for (int i = 0; i < 20; i++) {
		p->wrong += pthread_mutex_lock(&p->busy) != 0;
		storm_burn(20);
		p->wrong += pthread_mutex_unlock(&p->busy) != 0;
		p->wrong += pthread_rwlock_wrlock(&p->rwlock) != 0;
		p->wrong += pthread_rwlock_unlock(&p->rwlock) != 0;
		p->wrong += pthread_rwlock_rdlock(&p->rwlock) != 0;
		p->wrong += pthread_rwlock_unlock(&p->rwlock) != 0;
		p->wrong += pthread_mutex_trylock(&p->mutex) != 0;
		p->wrong += pthread_mutex_unlock(&p->mutex) != 0;
		p->wrong += pthread_mutex_timedlock(&p->mutex, &past) != 0;
		p->wrong += pthread_mutex_unlock(&p->mutex) != 0;
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		p->wrong += fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		p->wrong += dup2(fd, fd) != fd;
		p->wrong += shutdown(fd, SHUT_RDWR) != -1;
		p->wrong += listen(fd, 1) != 0;
		p->wrong += pthread_sigmask(SIG_BLOCK, NULL, &set) != 0;
		p->wrong += sigaction(SIGUSR1, NULL, NULL) != 0;
		/* close is a cancellation point itself */
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
		p->wrong += close(fd) != 0;
		pthread_setcancelstate(old, NULL);
	}
	p->reached = 1;
	for (;;)
		pthread_testcancel();
	pthread_cleanup_pop(0);
	return p;
}

static void *shielded_main(void *argument)
{
	struct place *p = argument;
	struct timespec brief = { .tv_nsec = 50000 };
	struct pollfd pollfd = { .fd = p->pipe[0], .events = POLLIN };
	char byte = 0;
	int old;

	if (p->with_request)
		sonde_begin("shielded");
	pthread_cleanup_push(on_cleanup, p);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
	ready(p);
	for (int i = 0; i < 10; i++) {
		p->wrong += nanosleep(&brief, NULL) != 0;
		p->wrong += poll(&pollfd, 1, 0) != 0;
		p->wrong += write(p->pipe[1], "s", 1) != 1;
		p->wrong += read(p->pipe[0], &byte, 1) != 1 || byte != 's';
		p->wrong += send(p->pair[1], "t", 1, 0) != 1;
		p->wrong += recv(p->pair[0], &byte, 1, 0) != 1 || byte != 't';
		p->wrong += sem_post(&p->semaphore) != 0 || sem_wait(&p->semaphore) != 0;
	}
	p->reached = 1;
	pthread_setcancelstate(old, NULL);
	for (;;)
		pthread_testcancel();
	pthread_cleanup_pop(0);
	return p;
}

/* Someone else who wants the locks. */
static void *contends(void *argument)
{
	struct place *p = argument;

	while (storm_on()) {
		pthread_mutex_lock(&p->busy);
		storm_burn(30);
		pthread_mutex_unlock(&p->busy);
		pthread_rwlock_wrlock(&p->rwlock);
		pthread_rwlock_unlock(&p->rwlock);
		usleep(10);
	}
	return NULL;
}

static void turn(struct place *p, void *(*run)(void *), unsigned delay_us, struct tally *t)
{
	pthread_t thread;
	void *value;

	p->ready = p->cleanups = p->wrong = p->reached = 0;
	MUST_0(pthread_create(&thread, NULL, run, p));
	while (!__atomic_load_n(&p->ready, __ATOMIC_ACQUIRE))
		sched_yield();
	if (delay_us)
		storm_burn(delay_us);
	MUST_0(pthread_cancel(thread));
	MUST_0(pthread_join(thread, &value));
	tally(&ended, value == PTHREAD_CANCELED, "way %u: %p", p->way, value);
	tally(&cleaned, p->cleanups == 1, "way %u: %d", p->way, p->cleanups);
	if (t)
		tally(t, p->wrong == 0 && (p->reached || t == &locked || t == &computing),
		      "way %u: %d wrong, %d reached", p->way, p->wrong, p->reached);
}

static void *cancels(void *seed)
{
	uint32_t random = (uint32_t)(uintptr_t)seed;
	struct epoll_event none = { .events = EPOLLIN };
	pthread_mutexattr_t checking;
	pthread_t contender;
	struct place p;

	memset(&p, 0, sizeof p);
	MUST(pipe(p.pipe));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, p.pair));
	MUST(p.epoll = epoll_create1(0));
	MUST(epoll_ctl(p.epoll, EPOLL_CTL_ADD, p.pipe[0], &none));
	MUST(sem_init(&p.semaphore, 0, 0));
	MUST(sem_init(&p.never, 0, 0));
	MUST_0(pthread_mutexattr_init(&checking));
	MUST_0(pthread_mutexattr_settype(&checking, PTHREAD_MUTEX_ERRORCHECK));
	MUST_0(pthread_mutex_init(&p.mutex, &checking));
	MUST_0(pthread_mutex_init(&p.busy, NULL));
	MUST_0(pthread_rwlock_init(&p.rwlock, NULL));
	MUST_0(pthread_cond_init(&p.cond, NULL));
	MUST_0(pthread_create(&p.other, NULL, sleeps, &p.semaphore));
	MUST_0(pthread_create(&contender, NULL, contends, &p));
	/* every way once at least, however slow the machine */
	for (unsigned i = 0; storm_on() || i < 2 * WAYS; i++) {
		unsigned delay = storm_random(&random) % 2 ? storm_random(&random) % 300 : 0;

		p.with_request = storm_random(&random) % 2;
		p.asynchronous = storm_random(&random) % 2;
		p.way = i % WAYS;
		turn(&p, cancelled_main, delay, p.way >= LOCKED_FROM ? &locked : NULL);
		if (i % 8 == 0)
			turn(&p, computing_main, delay, &computing);
		if (i % 8 == 4)
			turn(&p, passing_main, delay, &passed);
		if (i % 8 == 6 && p.way != 12) {
			MUST(sem_post(
				&p.semaphore)); /* the sleeper goes: the semaphore is to be counted */
			MUST_0(pthread_join(p.other, NULL));
			turn(&p, shielded_main, delay, &shielded);
			MUST_0(pthread_create(&p.other, NULL, sleeps, &p.semaphore));
		}
		tally(&free_again,
		      pthread_mutex_trylock(&p.mutex) == 0 && pthread_mutex_unlock(&p.mutex) == 0,
		      "after way %u", p.way);
	}
	MUST(sem_post(&p.semaphore));
	MUST_0(pthread_join(p.other, NULL));
	MUST_0(pthread_join(contender, NULL));
	for (int i = 0; i < 2; i++) {
		MUST(close(p.pipe[i]));
		MUST(close(p.pair[i]));
	}
	MUST(close(p.epoll));
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[2];

	storm_begin(argc, argv);
	tally_list(&ended);
	tally_list(&cleaned);
	tally_list(&locked);
	tally_list(&passed);
	tally_list(&shielded);
	tally_list(&computing);
	tally_list(&free_again);
	for (uintptr_t i = 0; i < 2; i++)
		MUST_0(pthread_create(&threads[i], NULL, cancels, (void *)(i + 1)));
	for (int i = 0; i < 2; i++)
		MUST_0(pthread_join(threads[i], NULL));
	return storm_end();
}
