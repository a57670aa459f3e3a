/* SPDX-License-Identifier: MIT
 *
 * Coroutines on stacks of 8 KiB, with a page behind that kills whoever goes further: they compute, call libc, and serve HTTP
 * over sockets, while samples land on their stacks on top of all that (there is no alternate one). The kernel alone takes
 * 3.4 KiB of it for a signal where AVX-512 is. How much of a stack was left at the end is said on stderr.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <ucontext.h>

#include "include/sonde.h"
#include "tests/storms/storm.h"

enum {
	STACK = 8192,
	PAGE = 4096,
	COROUTINES = 24,
	SERVERS = 4,
	THREADS = 2,
	PAINT = 0xa5
};

static struct tally whole = TALLY("what lies on a coroutine's stack stays"),
		    calls = TALLY("calls on a coroutine answer right"),
		    served = TALLY("a coroutine serves HTTP"),
		    asked = TALLY("its client gets what it asked for"),
		    ordered = TALLY("coroutines take turns in order");

struct coroutine {
	ucontext_t context;
	char *stack;
	struct scheduler *scheduler;
	unsigned number, turns;
	int fd; /* of a server, or -1 */
	bool over;
};

struct scheduler {
	ucontext_t context;
	struct coroutine all[COROUTINES];
	int pipe[2], listener;
	struct sockaddr_in address;
	unsigned long requests;
};

static void yield(struct coroutine *c)
{
	unsigned turns = c->turns;

	swapcontext(&c->context, &c->scheduler->context);
	tally(&ordered, c->turns == turns + 1, "%u after %u", c->turns, turns);
}

static __attribute__((noinline)) unsigned long descend(unsigned depth, unsigned seed)
{
	volatile unsigned char frame[48];
	unsigned long sum;

	for (unsigned i = 0; i < sizeof frame; i++)
		frame[i] = (unsigned char)(seed + i);
	sum = depth ? descend(depth - 1, seed + 1) : storm_burn(30) * 0;
	for (unsigned i = 0; i < sizeof frame; i++)
		sum += frame[i] != (unsigned char)(seed + i);
	return sum;
}

static __attribute__((noinline)) bool call_libc(struct coroutine *c)
{
	struct timespec none = { 0 };
	char byte = (char)c->number, back = 0;

	errno = 0;
	return write(c->scheduler->pipe[1], &byte, 1) == 1 && poll(NULL, 0, 0) == 0 &&
	       read(c->scheduler->pipe[0], &back, 1) == 1 && back == byte &&
	       nanosleep(&none, NULL) == 0 && read(-1, &byte, 1) == -1 && errno == EBADF;
}

static __attribute__((noinline)) void serve(struct coroutine *c)
{
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
	char text[128];
	ssize_t n;

	n = recv(c->fd, text, sizeof text, MSG_DONTWAIT);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n == 0) {
		close(c->fd);
		c->fd = -1;
		return;
	}
	tally(&served, n > 20 && memcmp(text, "GET /coroutine/", 15) == 0, "%zd: %s", n,
	      n < 0 ? strerror(errno) : "");
	descend(6, c->number);
	n = send(c->fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
	tally(&served, n == sizeof answer - 1, "sent %zd", n);
	c->scheduler->requests++;
}

static void coroutine_main(unsigned low, unsigned high)
{
	struct coroutine *c = (struct coroutine *)((uintptr_t)high << 32 | low);
	volatile unsigned char mine[64];

	memset((void *)(uintptr_t)mine, (int)c->number, sizeof mine);
	while (storm_on()) {
		unsigned long wrong = descend(c->number % 12, c->number);

		if (c->number < SERVERS) {
			if (c->fd < 0)
				c->fd = accept4(c->scheduler->listener, NULL, NULL, SOCK_CLOEXEC);
			if (c->fd >= 0)
				serve(c);
		} else {
			tally(&calls, call_libc(c), "%s", strerror(errno));
		}
		yield(c);
		for (unsigned i = 0; i < sizeof mine; i++)
			wrong += mine[i] != (unsigned char)c->number;
		tally(&whole, wrong == 0, "%lu bytes", wrong);
	}
	if (c->fd >= 0)
		close(c->fd);
	c->over = true;
}

/* A client for every server of this thread, one request at a time. */
static void *asks(void *argument)
{
	struct scheduler *s = argument;
	unsigned n = 0;

	while (storm_on()) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
		char text[128];

		MUST(fd);
		MUST(connect(fd, (struct sockaddr *)&s->address, sizeof s->address));
		MUST(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
		for (int i = 0; i < 20 && storm_on(); i++) {
			int len = snprintf(text, sizeof text, "GET /coroutine/%u HTTP/1.1\r\n\r\n",
					   n++);
			struct pollfd p = { .fd = fd, .events = POLLIN };
			ssize_t got = 0;

			MUST(send(fd, text, (size_t)len, MSG_NOSIGNAL));
			while (storm_on() && poll(&p, 1, 20) == 0)
				;
			if (!storm_on())
				break;
			got = recv(fd, text, sizeof text, 0);
			tally(&asked,
			      (got > 2 && memcmp(text + got - 2, "ok", 2) == 0) ||
				      (got <= 0 && !storm_on()),
			      "%zd bytes", got);
		}
		close(fd);
	}
	return NULL;
}

static size_t untouched(const struct coroutine *c)
{
	size_t n = 0;

	while (n < STACK && (unsigned char)c->stack[n] == PAINT)
		n++;
	return n;
}

static void open_all(struct scheduler *s)
{
	MUST(pipe(s->pipe));
	MUST(s->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	s->address = (struct sockaddr_in){ .sin_family = AF_INET,
					   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	MUST(bind(s->listener, (struct sockaddr *)&s->address, sizeof s->address));
	MUST(listen(s->listener, 16));
	MUST(getsockname(s->listener, (struct sockaddr *)&s->address,
			 &(socklen_t){ sizeof s->address }));
	for (unsigned i = 0; i < COROUTINES; i++) {
		struct coroutine *c = &s->all[i];
		char *p = mmap(NULL, STACK + PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		MUST(mprotect(p, PAGE, PROT_NONE));
		*c = (struct coroutine){ .number = i, .fd = -1, .stack = p + PAGE, .scheduler = s };
		memset(c->stack, PAINT, STACK);
		MUST(getcontext(&c->context));
		c->context.uc_stack.ss_sp = c->stack;
		c->context.uc_stack.ss_size = STACK;
		c->context.uc_link = &s->context;
		makecontext(&c->context, (void (*)(void))coroutine_main, 2, (unsigned)(uintptr_t)c,
			    (unsigned)((uintptr_t)c >> 32));
	}
}

static void close_all(struct scheduler *s)
{
	size_t least = STACK;

	for (unsigned i = 0; i < COROUTINES; i++) {
		size_t n = untouched(&s->all[i]);

		if (n < least)
			least = n;
		MUST(munmap(s->all[i].stack - PAGE, STACK + PAGE));
	}
	note("%lu requests; of %d bytes of stack %zu were never used; a signal frame takes %lu",
	     s->requests, STACK, least, getauxval(AT_MINSIGSTKSZ));
	MUST(close(s->pipe[0]));
	MUST(close(s->pipe[1]));
	MUST(close(s->listener));
}

/* One turn of each that goes on; how many did. */
static unsigned turn_of_all(struct scheduler *s)
{
	unsigned live = 0;

	for (unsigned i = 0; i < COROUTINES; i++) {
		struct coroutine *c = &s->all[i];

		if (c->over)
			continue;
		live++;
		c->turns++;
		swapcontext(&s->context, &c->context);
	}
	return live;
}

static void *schedules(void *argument)
{
	struct scheduler *s = argument;
	pthread_t client;

	open_all(s);
	MUST_0(pthread_create(&client, NULL, asks, s));
	while (turn_of_all(s))
		;
	MUST_0(pthread_join(client, NULL));
	close_all(s);
	return NULL;
}

int main(int argc, char **argv)
{
	static struct scheduler schedulers[THREADS];
	pthread_t threads[THREADS];

	storm_begin(argc, argv);
	tally_list(&whole);
	tally_list(&calls);
	tally_list(&served);
	tally_list(&asked);
	tally_list(&ordered);
	for (int i = 0; i < THREADS; i++)
		MUST_0(pthread_create(&threads[i], NULL, schedules, &schedulers[i]));
	for (int i = 0; i < THREADS; i++)
		MUST_0(pthread_join(threads[i], NULL));
	return storm_end();
}
