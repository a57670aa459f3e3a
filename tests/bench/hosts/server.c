/* SPDX-License-Identifier: MIT
 *
 * A server that gives a profiler everything to do: short requests on a thread per connection, with CPU in deep stacks, a
 * contended lock, many uncontended ones, sleeps, and waits for another thread. Under load it saturates the machine.
 *
 *	server PORT
 *
 *	/fast   one uncontended lock         /cpu    CPU, 24 frames deep
 *	/lock   CPU under one global lock    /locks  1,000 uncontended locks
 *	/sleep  a timer, 2 ms                /ask    reads from a pipe what a helper writes 1 ms later
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	HELPERS = 16,
	DEPTH = 24,
	HEAD_MAX = 4096,
	CPU_ROUNDS = 30000, /* about 50 us */
	LOCK_ROUNDS = 3000,
	LOCKS = 1000,
	LOCK_TABLE = 64
};

static pthread_mutex_t global = PTHREAD_MUTEX_INITIALIZER, counting = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t locks[LOCK_TABLE];
static uint64_t served, counters[LOCK_TABLE];
static int questions[2]; /* a pipe of descriptors to answer on */

static __attribute__((noinline)) uint64_t compute(uint64_t x, unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	return x;
}

/* The addition after the call keeps every frame. */
static __attribute__((noinline)) uint64_t descend(uint64_t x, unsigned depth)
{
	volatile uint64_t kept = x;

	kept += depth ? descend(x * 3 + depth, depth - 1) : compute(x | 1, CPU_ROUNDS);
	return kept;
}

static uint64_t fast(void)
{
	return 1;
}

static uint64_t cpu(void)
{
	return descend(7, DEPTH);
}

static uint64_t lock(void)
{
	uint64_t x;

	pthread_mutex_lock(&global);
	x = compute(9, LOCK_ROUNDS);
	pthread_mutex_unlock(&global);
	return x;
}

static uint64_t many_locks(void)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < LOCKS; i++) {
		pthread_mutex_lock(&locks[i % LOCK_TABLE]);
		sum += counters[i % LOCK_TABLE]++;
		pthread_mutex_unlock(&locks[i % LOCK_TABLE]);
	}
	return sum;
}

static uint64_t snooze(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
	return 1;
}

static uint64_t ask(void)
{
	uint64_t reply = 0;
	int fds[2];

	if (pipe(fds))
		return 0;
	if (write(questions[1], &fds[1], sizeof(fds[1])) == sizeof(fds[1]) &&
	    read(fds[0], &reply, sizeof(reply)) != sizeof(reply))
		reply = 0;
	close(fds[0]);
	close(fds[1]);
	return reply;
}

static const struct {
	const char *path;
	uint64_t (*serve)(void);
} routes[] = {
	{ "/fast ", fast },        { "/cpu ", cpu },      { "/lock ", lock },
	{ "/locks ", many_locks }, { "/sleep ", snooze }, { "/ask ", ask },
};

static void *help(void *arg)
{
	const uint64_t reply = 42;
	int fd;

	while (read(questions[0], &fd, sizeof(fd)) == sizeof(fd)) {
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
		if (write(fd, &reply, sizeof(reply)) != sizeof(reply))
			break;
	}
	return arg;
}

/* Answer one request; false when the client is gone. */
static int answer(int fd, const char *path)
{
	uint64_t result = 0;
	char text[256];
	int len;

	for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++)
		if (!strncmp(path, routes[i].path, strlen(routes[i].path)))
			result = routes[i].serve();
	pthread_mutex_lock(&counting);
	served++;
	pthread_mutex_unlock(&counting);
	len = snprintf(text, sizeof(text),
		       "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: "
		       "17\r\n\r\n%016llx\n",
		       (unsigned long long)result);
	return send(fd, text, (size_t)len, MSG_NOSIGNAL) == len;
}

static void *serve(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char head[HEAD_MAX + 1];
	size_t have = 0;

	for (;;) {
		ssize_t n = recv(fd, head + have, HEAD_MAX - have, 0);
		char *end;

		if (n <= 0)
			break;
		have += (size_t)n;
		head[have] = 0;
		while ((end = strstr(head, "\r\n\r\n"))) {
			if (strncmp(head, "GET ", 4) || !answer(fd, head + 4))
				goto out;
			have -= (size_t)(end + 4 - head);
			memmove(head, end + 4, have + 1);
		}
	}
out:
	close(fd);
	return NULL;
}

/* A profiler that works at exit gets to. */
static void leave(int sig)
{
	(void)sig;
	exit(0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	pthread_attr_t small;
	pthread_t thread;

	if (argc != 2 || pipe(questions))
		return 2;
	address.sin_port = htons((uint16_t)atoi(argv[1]));
	signal(SIGTERM, leave);
	signal(SIGINT, leave);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 256 << 10);
	pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
	for (unsigned i = 0; i < LOCK_TABLE; i++)
		pthread_mutex_init(&locks[i], NULL);
	for (unsigned i = 0; i < HELPERS; i++)
		if (pthread_create(&thread, &small, help, NULL))
			return 1;
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 256)) {
		perror("server");
		return 1;
	}
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			continue;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (pthread_create(&thread, &small, serve, (void *)(intptr_t)fd))
			close(fd);
	}
}
