/* SPDX-License-Identifier: MIT
 *
 * A timer of the host interrupts its own threads a thousand times a second, wherever they are, and its handler jumps out:
 * of every call that the agent wraps, of the agent's own code before and after it. What is left must work: the next call on
 * the same thread, the descriptors, the request in hand, the mask.
 */
#include <netinet/in.h>
#include <poll.h>
#include <semaphore.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "include/sonde.h"
#include "tests/storms/storm.h"

enum {
	THREADS = 3,
	WAYS = 18,
	HTTP_WAY = 16
};

static struct tally jumped = TALLY("the jump lands"), works = TALLY("calls work after a jump"),
		    request = TALLY("the request stays in hand"),
		    unblocked = TALLY("the mask is back after a jump"),
		    inside = TALLY("a wait inside the handler of a wait"),
		    fds = TALLY("no descriptor too many after a jump");

static __thread sigjmp_buf out;
static __thread volatile sig_atomic_t armed, sent;
static __thread volatile unsigned interruptions;

/* Every fourth time the handler waits itself, and every eighth it does not jump. */
static void on_alarm(int number)
{
	int saved = errno;

	(void)number;
	interruptions++;
	if (interruptions % 4 == 0) {
		struct timespec brief = { .tv_nsec = 20000 };
		int r = nanosleep(&brief, NULL);

		tally(&inside, r == 0 && poll(NULL, 0, 0) == 0, "%d, %s", r, strerror(errno));
	}
	if (armed && interruptions % 8) {
		armed = 0;
		sent = (int)(interruptions % 100) + 1;
		siglongjmp(out, sent);
	}
	errno = saved;
}

struct place {
	int pair[2], pipe[2], http[2], epoll;
	sem_t semaphore;
	pthread_mutex_t mutex;
};

/* A server and its client, for one turn: what a jump leaves of their conversation nobody knows. */
static void open_http(struct place *p)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener;

	MUST(listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	MUST(bind(listener, (struct sockaddr *)&a, sizeof a));
	MUST(listen(listener, 1));
	MUST(getsockname(listener, (struct sockaddr *)&a, &(socklen_t){ sizeof a }));
	MUST(p->http[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	MUST(connect(p->http[1], (struct sockaddr *)&a, sizeof a));
	MUST(p->http[0] = accept(listener, NULL, NULL));
	MUST(close(listener));
}

static void close_http(struct place *p)
{
	MUST(close(p->http[0]));
	MUST(close(p->http[1]));
}

/* Every call that begins, continues and ends a request, all the time. */
static void serve_for_ever(struct place *p)
{
	static const char question[] = "GET /jump HTTP/1.1\r\n\r\n",
			  answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
	struct pollfd server = { .fd = p->http[0], .events = POLLIN };
	char text[128];

	for (;;) {
		send(p->http[1], question, sizeof question - 1, MSG_NOSIGNAL);
		poll(&server, 1, 1);
		recv(p->http[0], text, sizeof text, MSG_DONTWAIT);
		send(p->http[0], answer, sizeof answer - 1, MSG_NOSIGNAL);
		recv(p->http[1], text, sizeof text, MSG_DONTWAIT);
	}
}

/* Waits for what never comes. */
static void wait_for_ever(struct place *p, unsigned how)
{
	struct pollfd pollfd = { .fd = p->pipe[0], .events = POLLIN };
	struct iovec iov = { (char[8]){ 0 }, 8 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct timespec hour = { .tv_sec = 3600 };
	struct timeval hour_too = { .tv_sec = 3600 };
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	struct epoll_event event;
	struct timespec until;
	fd_set set;
	char byte;

	switch (how % WAYS) {
	case 0:
		read(p->pipe[0], &byte, 1);
		break;
	case 1:
		poll(&pollfd, 1, -1);
		break;
	case 2:
		nanosleep(&hour, NULL);
		break;
	case 3: /* a condition and a mutex of this very turn: what a jump leaves of them is lost */
		pthread_mutex_init(&p->mutex, NULL);
		until = storm_in_us(CLOCK_REALTIME, 3600000000l);
		pthread_mutex_lock(&p->mutex);
		pthread_cond_timedwait(&cond, &p->mutex, &until);
		break;
	case 4:
		FD_ZERO(&set);
		FD_SET(p->pipe[0], &set);
		select(p->pipe[0] + 1, &set, NULL, NULL, &hour_too);
		break;
	case 5:
		epoll_wait(p->epoll, &event, 1, -1);
		break;
	case 6:
		recv(p->pair[0], &byte, 1, 0);
		break;
	case 7:
		recvmsg(p->pair[0], &msg, 0);
		break;
	case 8:
		readv(p->pair[0], &iov, 1);
		break;
	case 9:
		sem_wait(&p->semaphore);
		break;
	case 10:
		ppoll(&pollfd, 1, NULL, NULL);
		break;
	case 11:
		clock_nanosleep(CLOCK_MONOTONIC, 0, &hour, NULL);
		break;
	case 12:
		sleep(3600);
		break;
	case 13: /* in and out all the time: the jump comes anywhere, in the agent's code, too */
		for (;;)
			poll(NULL, 0, 0);
	case 14:
		for (;;)
			recv(p->pair[0], &byte, 1, MSG_DONTWAIT);
	case 15:
		for (;;) {
			struct timespec none = { 0 };

			nanosleep(&none, NULL);
		}
	case HTTP_WAY:
		serve_for_ever(p);
		break;
	default:
		storm_burn(1000000);
	}
}

static bool all_work(struct place *p)
{
	struct pollfd pollfd = { .fd = p->pipe[0], .events = POLLIN };
	struct timespec brief = { .tv_nsec = 1000 };
	char byte = 0;

	if (poll(&pollfd, 1, 0) != 0 || write(p->pipe[1], "a", 1) != 1 ||
	    poll(&pollfd, 1, -1) != 1 || read(p->pipe[0], &byte, 1) != 1 || byte != 'a')
		return false;
	if (send(p->pair[1], "b", 1, 0) != 1 || recv(p->pair[0], &byte, 1, 0) != 1 || byte != 'b')
		return false;
	if (sem_post(&p->semaphore) || sem_wait(&p->semaphore) || nanosleep(&brief, NULL))
		return false;
	errno = 0;
	return read(-1, &byte, 1) == -1 && errno == EBADF;
}

static void *jumps(void *number)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1 };
	struct epoll_event none = { .events = EPOLLIN };
	sonde_request mine = (uintptr_t)number % 2 ? sonde_begin("jumps") : 0;
	volatile unsigned turn = (unsigned)(uintptr_t)number;
	static __thread struct place p;
	sigset_t usr1;
	timer_t timer;

	MUST(pipe(p.pipe));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, p.pair));
	MUST(p.epoll = epoll_create1(0));
	MUST(epoll_ctl(p.epoll, EPOLL_CTL_ADD, p.pipe[0], &none));
	MUST(sem_init(&p.semaphore, 0, 0));
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
	MUST(timer_settime(timer, 0,
			   &(struct itimerspec){ .it_interval = { .tv_nsec = 1000000 },
						 .it_value = { .tv_nsec = 1000000 } },
			   NULL));
	for (; storm_on(); turn++) {
		volatile int landed;
		sigset_t mask;

		pthread_sigmask(SIG_BLOCK, &usr1, NULL);
		if (turn % WAYS == HTTP_WAY)
			open_http(&p);
		pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
		landed = sigsetjmp(out, 1);
		if (!landed) {
			armed = 1;
			for (;;) /* what does not jump, returns EINTR: wait on */
				wait_for_ever(&p, turn);
		}
		tally(&jumped, landed == sent, "%d is not %d", landed, sent);
		pthread_sigmask(SIG_BLOCK, &usr1, &mask);
		tally(&unblocked, !sigismember(&mask, SIGUSR1), "after a jump");
		if (turn % WAYS == HTTP_WAY)
			close_http(&p);
		tally(&works, all_work(&p), "way %u: %s", turn % WAYS, strerror(errno));
		/* every call that waits for events lays the request down, with a jump or without */
		sonde_attach(mine);
		tally(&request, sonde_current() == mine, "lost");
		pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
	}
	MUST(timer_delete(timer));
	sonde_end(mine, 0);
	for (int i = 0; i < 2; i++) {
		MUST(close(p.pipe[i]));
		MUST(close(p.pair[i]));
	}
	MUST(close(p.epoll));
	return NULL;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_alarm };
	pthread_t threads[THREADS], burner;
	int most = 0, n;

	storm_begin(argc, argv);
	tally_list(&jumped);
	tally_list(&works);
	tally_list(&request);
	tally_list(&unblocked);
	tally_list(&inside);
	tally_list(&fds);
	MUST(sigaction(SIGUSR1, &action, NULL));
	MUST_0(pthread_create(&burner, NULL, storm_burner, NULL));
	for (uintptr_t i = 0; i < THREADS; i++)
		MUST_0(pthread_create(&threads[i], NULL, jumps, (void *)(i * 5)));
	while (storm_on()) {
		usleep(100000);
		n = storm_count("/proc/self/fd");
		if (n > most)
			most = n;
	}
	for (int i = 0; i < THREADS; i++)
		MUST_0(pthread_join(threads[i], NULL));
	MUST_0(pthread_join(burner, NULL));
	tally(&fds, most <= storm_descriptors + THREADS * 8, "%d descriptors", most);
	return storm_end();
}
