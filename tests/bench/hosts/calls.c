/* SPDX-License-Identifier: MIT
 *
 * How long the calls take that the agent wraps, when none of them blocks. calls.py runs this program in turns with and
 * without the agent and prints the difference.
 *
 *	calls BATCHES [REGEX]    one line per case: name <tab> ns per operation <tab> ns of other threads per operation
 *
 * A batch is about a millisecond: short enough to pass undisturbed on a shared machine, long enough to hold what the agent does
 * once in a while (its own clock readings). The figure is what an eighth of the batches stay below. The client's half of a
 * connection uses raw system calls, so that the agent sees only the server's half, as in life.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <regex.h>
#include <sched.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "sonde.h"

enum {
	BATCHES_MAX = 1000,
	BATCH_NS = 1000000,
	/* The agent collects ended requests every 20 ms from a table of 4096. */
	REQUESTS_UNCOLLECTED_MAX = 3000,
	COLLECT_US = 60000,
	PIECE = 64,
	PIECES = 64
};

#define MUST(call)                                                                                 \
  do {                                                                                             \
    if (!(call)) {                                                                                 \
      fprintf(stderr, "calls:%d: %s: %s\n", __LINE__, #call, strerror(errno));                     \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

/* A connection, both ends of it in this process: ours, and that of whoever is out there. */
struct pair {
	int server, client;
};

static const char head[] =
	"GET /api/users/4711 HTTP/1.1\r\nHost: shop.example.org\r\nAccept: */*\r\n"
	"User-Agent: curl/7.88.1\r\n\r\n";
static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 17\r\n"
			     "Connection: keep-alive\r\n\r\n0123456789abcdef\n";
static const char answer_head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
				  "Content-Length: 17\r\nConnection: keep-alive\r\n\r\n";
static const char answer_body[] = "0123456789abcdef\n";

enum {
	HEAD = sizeof(head) - 1,
	ANSWER = sizeof(answer) - 1
};

static struct pair tcp, local, busy, looped, upstream;
static struct sockaddr_storage listening; /* for accept_close */
static socklen_t listening_len = sizeof(listening);
static int listener, zero, null, pipe_fds[2], quiet_epoll, ready_epoll, loop_epoll;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static sem_t semaphore;
static char buffer[PIECE * PIECES];

/* ---- The client's half ---- */

static void client_send(int fd, const void *bytes, size_t len)
{
	MUST(syscall(SYS_sendto, fd, bytes, len, 0, NULL, 0) == (long)len);
}

static void client_receive(int fd, size_t len)
{
	MUST(syscall(SYS_recvfrom, fd, buffer, sizeof(buffer), 0, NULL, NULL) == (long)len);
}

/* As a server gets them: its half from accept(). @outgoing: as a client of a database does: its half from connect(). */
static struct pair connect_pair(int family, int outgoing)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct sockaddr_storage address = { 0 };
	socklen_t len = family == AF_INET ? sizeof(in) : sizeof(sa_family_t);
	int waiting = socket(family, SOCK_STREAM, 0), one = 1;
	struct pair p;

	memcpy(&address, family == AF_INET ? (void *)&in : (void *)&un, len);
	MUST(!bind(waiting, (struct sockaddr *)&address, len) && !listen(waiting, 1));
	len = sizeof(address);
	MUST(!getsockname(waiting, (struct sockaddr *)&address, &len));
	if (outgoing) {
		p.server = socket(family, SOCK_STREAM, 0);
		MUST(!connect(p.server, (struct sockaddr *)&address, len));
		p.client = (int)syscall(SYS_accept4, waiting, NULL, NULL, 0);
	} else {
		p.client = (int)syscall(SYS_socket, family, SOCK_STREAM, 0);
		MUST(!syscall(SYS_connect, p.client, &address, len));
		p.server = accept(waiting, NULL, NULL);
	}
	MUST(p.server >= 0 && p.client >= 0);
	if (family == AF_INET)
		MUST(!setsockopt(p.server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) &&
		     !setsockopt(p.client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
	close(waiting);
	return p;
}

/* ---- The cases: @n operations each ---- */

static void read_zero(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		MUST(read(zero, buffer, 64) == 64);
}

static void write_null(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		MUST(write(null, buffer, 64) == 64);
}

/* One write feeds PIECES reads, so that the reads are what is measured; @n is a multiple of PIECES. */
static void read_pipe(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (i % PIECES == 0)
			MUST(syscall(SYS_write, pipe_fds[1], buffer, sizeof(buffer)) ==
			     sizeof(buffer));
		MUST(read(pipe_fds[0], buffer, PIECE) == PIECE);
	}
}

static void read_upstream(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (i % PIECES == 0)
			client_send(upstream.client, buffer, sizeof(buffer));
		MUST(read(upstream.server, buffer, PIECE) == PIECE);
	}
}

static void read_empty(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		MUST(read(looped.server, buffer, sizeof(buffer)) < 0 && errno == EAGAIN);
}

static void lock_mutex(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		pthread_mutex_lock(&mutex);
		pthread_mutex_unlock(&mutex);
	}
}

static void lock_shared(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		pthread_rwlock_rdlock(&rwlock);
		pthread_rwlock_unlock(&rwlock);
	}
}

static void lock_exclusive(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		pthread_rwlock_wrlock(&rwlock);
		pthread_rwlock_unlock(&rwlock);
	}
}

static void signal_cond(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		pthread_cond_signal(&cond);
}

static void post_semaphore(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		sem_post(&semaphore);
		sem_wait(&semaphore);
	}
}

static void wait_epoll(unsigned n)
{
	struct epoll_event events[8];

	for (unsigned i = 0; i < n; i++)
		MUST(epoll_wait(quiet_epoll, events, 8, 0) == 0);
}

static void wait_epoll_ready(unsigned n)
{
	struct epoll_event events[8];

	for (unsigned i = 0; i < n; i++)
		MUST(epoll_wait(ready_epoll, events, 8, -1) == 1);
}

static void wait_poll_ready(unsigned n)
{
	struct pollfd p = { .fd = null, .events = POLLOUT };

	for (unsigned i = 0; i < n; i++)
		MUST(poll(&p, 1, -1) == 1);
}

/* A connection comes and goes. */
static void accept_close(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		int client = (int)syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0);
		int server;

		MUST(!syscall(SYS_connect, client, &listening, listening_len));
		server = accept(listener, NULL, NULL);
		MUST(server >= 0 && !close(server));
		syscall(SYS_close, client);
	}
}

static void open_close(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		int fd = open("/dev/null", O_RDONLY);

		MUST(fd >= 0 && !close(fd));
	}
}

static void begin_end(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		sonde_end(sonde_begin("JOB nothing"), 0);
}

static void *nothing(void *arg)
{
	return arg;
}

static void start_thread(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		pthread_t thread;

		MUST(!pthread_create(&thread, NULL, nothing, NULL) && !pthread_join(thread, NULL));
	}
}

static void serve_blocking(const struct pair *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		client_send(p->client, head, HEAD);
		MUST(recv(p->server, buffer, sizeof(buffer), 0) == HEAD);
		MUST(send(p->server, answer, ANSWER, 0) == ANSWER);
		client_receive(p->client, ANSWER);
	}
}

static void serve_tcp(unsigned n)
{
	serve_blocking(&tcp, n);
}

static void serve_local(unsigned n)
{
	serve_blocking(&local, n);
}

/* The turn of an event loop, call by call as nginx makes them: events, head, answer in pieces, nothing more to read. */
static void serve_loop(unsigned n)
{
	struct iovec iov[2] = { { (void *)(uintptr_t)answer_head, sizeof(answer_head) - 1 },
				{ (void *)(uintptr_t)answer_body, sizeof(answer_body) - 1 } };
	struct epoll_event events[8];

	for (unsigned i = 0; i < n; i++) {
		client_send(looped.client, head, HEAD);
		MUST(epoll_wait(loop_epoll, events, 8, -1) == 1);
		MUST(recv(looped.server, buffer, sizeof(buffer), 0) == HEAD);
		MUST(writev(looped.server, iov, 2) == ANSWER);
		MUST(recv(looped.server, buffer, sizeof(buffer), 0) < 0);
		client_receive(looped.client, ANSWER);
	}
}

static void request_begin(void)
{
	client_send(busy.client, head, HEAD);
	MUST(recv(busy.server, buffer, sizeof(buffer), 0) == HEAD);
}

static void request_end(void)
{
	MUST(send(busy.server, answer, ANSWER, 0) == ANSWER);
	client_receive(busy.client, ANSWER);
}

static const struct {
	const char *name;
	void (*run)(unsigned n);
	enum {
		IDLE,
		IN_REQUEST, /* the calling thread has a request in hand */
		REQUESTS    /* each operation is one */
	} how;
} cases[] = {
	{ "read /dev/zero", read_zero, IDLE },
	{ "read /dev/zero, in a request", read_zero, IN_REQUEST },
	{ "write /dev/null", write_null, IDLE },
	{ "write /dev/null, in a request", write_null, IN_REQUEST },
	{ "read a pipe", read_pipe, IDLE },
	{ "read a pipe, in a request", read_pipe, IN_REQUEST },
	{ "read a connection to a peer", read_upstream, IDLE },
	{ "read a connection to a peer, in a request", read_upstream, IN_REQUEST },
	{ "read of nothing, keep-alive", read_empty, IDLE },
	{ "mutex lock + unlock", lock_mutex, IDLE },
	{ "mutex lock + unlock, in a request", lock_mutex, IN_REQUEST },
	{ "rwlock shared + unlock", lock_shared, IDLE },
	{ "rwlock exclusive + unlock", lock_exclusive, IDLE },
	{ "cond_signal, nobody waits", signal_cond, IDLE },
	{ "sem_post + sem_wait", post_semaphore, IDLE },
	{ "epoll_wait, nothing, timeout 0", wait_epoll, IDLE },
	{ "epoll_wait, ready", wait_epoll_ready, IDLE },
	{ "poll, ready", wait_poll_ready, IDLE },
	{ "poll, ready, in a request", wait_poll_ready, IN_REQUEST },
	{ "open + close a file", open_close, IDLE },
	{ "open + close a file, in a request", open_close, IN_REQUEST },
	{ "accept + close, local socket", accept_close, IDLE },
	{ "pthread_create + join", start_thread, IDLE },
	{ "request: TCP, recv + send", serve_tcp, REQUESTS },
	{ "request: local socket, recv + send", serve_local, REQUESTS },
	{ "request: sonde_begin + sonde_end", begin_end, REQUESTS },
	{ "request: TCP, event loop like nginx's", serve_loop, REQUESTS },
};

/* ---- Measuring ---- */

static uint64_t ns_of(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* CPU time of every thread but this one; a little off, because the clocks are read one after the other. */
static int64_t others_ns(void)
{
	return (int64_t)(ns_of(CLOCK_PROCESS_CPUTIME_ID) - ns_of(CLOCK_THREAD_CPUTIME_ID));
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static uint64_t elapsed_ns(void (*run)(unsigned n), unsigned n)
{
	uint64_t start = ns_of(CLOCK_MONOTONIC);

	run(n);
	return ns_of(CLOCK_MONOTONIC) - start;
}

/* Operations that fill a batch, a multiple of PIECES. */
static unsigned batch_of(void (*run)(unsigned n), int requests)
{
	for (unsigned n = PIECES;; n *= 2) {
		uint64_t ns = elapsed_ns(run, n);

		for (int i = 0; i < 3 && ns >= BATCH_NS / 2; i++) { /* or was it disturbed? */
			uint64_t again = elapsed_ns(run, n);

			ns = again < ns ? again : ns;
		}
		if (ns >= BATCH_NS / 2 || (requests && n >= REQUESTS_UNCOLLECTED_MAX / 4))
			return n;
	}
}

static void measure(const char *name, void (*run)(unsigned n), unsigned batches, int requests)
{
	static double ns[BATCHES_MAX];
	unsigned n = batch_of(run, requests), uncollected = 0;
	int64_t others = others_ns();

	usleep(requests ? COLLECT_US : 0);
	for (unsigned i = 0; i < batches; i++) {
		ns[i] = (double)elapsed_ns(run, n) / n;
		uncollected += n;
		if (requests && uncollected + n > REQUESTS_UNCOLLECTED_MAX) {
			usleep(COLLECT_US);
			uncollected = 0;
		}
	}
	others = others_ns() - others;
	qsort(ns, batches, sizeof(ns[0]), by_value);
	printf("%s\t%.2f\t%.2f\n", name, ns[batches / 8], (double)others / batches / n);
}

static void *idle(void *arg)
{
	for (;;)
		syscall(SYS_pause);
	return arg;
}

/* One CPU for us, whichever we stand on; the agent's thread was there before us and stays free. */
static void pin(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)sched_getcpu(), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static int epoll_of(int fd)
{
	struct epoll_event e = { .events = EPOLLIN, .data = { .fd = fd } };
	int epoll = epoll_create1(0);

	MUST(epoll >= 0 && !epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e));
	return epoll;
}

static void set_up(void)
{
	struct pair ready = connect_pair(AF_UNIX, 0);
	pthread_t thread;

	zero = open("/dev/zero", O_RDONLY);
	null = open("/dev/null", O_WRONLY);
	MUST(zero >= 0 && null >= 0 && !pipe(pipe_fds) && !sem_init(&semaphore, 0, 0));
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	MUST(!bind(listener, &(struct sockaddr){ .sa_family = AF_UNIX }, sizeof(sa_family_t)) &&
	     !listen(listener, 1) &&
	     !getsockname(listener, (struct sockaddr *)&listening, &listening_len));
	tcp = connect_pair(AF_INET, 0);
	local = connect_pair(AF_UNIX, 0);
	busy = connect_pair(AF_UNIX, 0);
	looped = connect_pair(AF_INET, 0);
	MUST(!fcntl(looped.server, F_SETFL, O_NONBLOCK));
	upstream = connect_pair(AF_UNIX, 1);
	quiet_epoll = epoll_of(pipe_fds[0]);
	loop_epoll = epoll_of(looped.server);
	client_send(ready.client, buffer, 1);
	ready_epoll = epoll_of(ready.server);
	/* Alone, a process locks without atomics; with the agent it never is. */
	MUST(!pthread_create(&thread, NULL, idle, NULL));
	pin();
}

int main(int argc, char **argv)
{
	unsigned batches = argc > 1 ? (unsigned)atoi(argv[1]) : 0;
	regex_t only;

	if (batches < 1 || batches > BATCHES_MAX ||
	    regcomp(&only, argc > 2 ? argv[2] : "", REG_EXTENDED | REG_NOSUB)) {
		fprintf(stderr, "calls BATCHES [REGEX]\n");
		return 2;
	}
	set_up();
	/* A first request of each kind: the agent learns what it will see again. */
	serve_tcp(100);
	serve_local(100);
	serve_loop(100);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (regexec(&only, cases[i].name, 0, NULL, 0))
			continue;
		if (cases[i].how == IN_REQUEST)
			request_begin();
		measure(cases[i].name, cases[i].run, batches, cases[i].how == REQUESTS);
		if (cases[i].how == IN_REQUEST)
			request_end();
	}
	regfree(&only);
	return 0;
}
