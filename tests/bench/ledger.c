/* SPDX-License-Identifier: MIT
 *
 * What a request costs the thread that serves it, without the system calls: its parts one by one, best of several runs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/hook/conn.h"
#include "agent/hook/real.h"
#include "agent/hook/thread.h"
#include "agent/hook/wait.h"

/* What hook/thread.c defines in the agent; it interposes libc and so is not linked here. */
__thread struct thread_local_state tls;
struct shared *shared;
struct thread_setup thread_setup;

enum {
	SLOTS = 1024,
	RUNS = 25,
	COLD_ROUNDS = 4000,
	ROUNDS = 256 /* requests between two visits of the agent's thread */
};

static struct shared memory;
static struct request requests[SLOTS];
static struct conn conns[4];
static struct thread threads[1];
static struct thread *const t = &threads[0];
static char ring[ENDED_RING_BYTES];
static int fd;

static const char ask[] = "GET /file.txt HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
static const char answer[] =
	"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Fri, 20 Nov 2026 06:40:24 GMT\r\n"
	"Content-Type: text/plain\r\nContent-Length: 17\r\nLast-Modified: Fri, 20 Nov 2026 "
	"05:00:00 GMT\r\n"
	"Connection: keep-alive\r\nETag: \"6560f2c0-400\"\r\nAccept-Ranges: bytes\r\n\r\n"
	"{\"answer\":   42}\n";

static uint64_t sink;

static void one_clock(void)
{
	sink += clock_ns();
}

static void one_wait(void)
{
	struct wait w;

	WAIT_BEGIN(&w, t, IO, WAIT_BRIEF, fd, 0);
	sink += wait_end(&w);
}

static void read_head(void)
{
	static struct http_request_parser p;
	static struct http_head head;
	enum http_event event;
	size_t at = 0;

	do {
		at += http_request_feed(&p, &head, ask + at, sizeof ask - 1 - at, &event);
	} while (http_more(event));
}

static void read_answer(void)
{
	static struct http_response_parser p;
	enum http_event event;
	size_t at = 0;

	do {
		at += http_response_feed(&p, answer + at, sizeof answer - 1 - at, &event);
	} while (http_more(event));
}

static void ledger_only(void)
{
	uint64_t now = clock_ns();
	request_id id = request_open(t, now);

	request_start(t, id, now);
	request_end(t, id, now, 200, false);
}

static void whole(void)
{
	struct conn *c = conn_get(fd);
	struct iovec iov = { (void *)(uintptr_t)ask, sizeof ask - 1 };
	struct wait w;
	uint64_t now;

	if (conn_still(fd, c))
		conn_received(t, c, &iov, 1, iov.iov_len, 0, clock_ns());
	iov = (struct iovec){ (void *)(uintptr_t)answer, sizeof answer - 1 };
	conn_sending(t, c);
	WAIT_BEGIN(&w, t, IO, WAIT_BRIEF, fd, 0);
	now = wait_end(&w);
	if (conn_still(fd, c))
		conn_sent(t, c, &iov, 1, (ssize_t)iov.iov_len, iov.iov_len, now);
}

/* As the agent's thread does it. */
static void take_records(void)
{
	uint32_t len;

	while (ring_peek(&t->ended, &len))
		ring_pop(&t->ended, len);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* The host's own work between two calls has taken the first cache: the median, less what reading the counter takes. */
static double cold(void (*run)(void))
{
	static volatile char others[96 << 10];
	static uint64_t ticks[COLD_ROUNDS], none[COLD_ROUNDS];
	uint64_t from_ns = clock_read(CLOCK_MONOTONIC), from = clock_ticks();

	for (int i = 0; i < COLD_ROUNDS; i++) {
		uint64_t start;

		for (size_t at = 0; at < sizeof others; at += 64)
			others[at]++;
		start = clock_ticks();
		none[i] = clock_ticks() - start;
		for (size_t at = 0; at < sizeof others; at += 64)
			others[at]++;
		start = clock_ticks();
		run();
		ticks[i] = clock_ticks() - start;
		take_records();
	}
	qsort(ticks, COLD_ROUNDS, sizeof *ticks, by_size);
	qsort(none, COLD_ROUNDS, sizeof *none, by_size);
	return (double)(ticks[COLD_ROUNDS / 2] - none[COLD_ROUNDS / 2]) *
	       (double)(clock_read(CLOCK_MONOTONIC) - from_ns) / (double)(clock_ticks() - from);
}

static void measure(const char *what, void (*run)(void))
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < RUNS; i++) {
		uint64_t start = clock_read(CLOCK_MONOTONIC), ns;

		for (int n = 0; n < ROUNDS; n++)
			run();
		ns = clock_read(CLOCK_MONOTONIC) - start;
		best = ns < best ? ns : best;
		take_records();
	}
	printf("%-48s %7.1f ns   %7.1f ns\n", what, (double)best / ROUNDS, cold(run));
}

int main(void)
{
	int pair[2];

	shared = &memory;
	memory.runq.tokens_at_ns = UINT64_MAX / 2;
	pool_init(&memory.requests, requests, SLOTS, sizeof *requests);
	pool_init(&memory.connections, conns, 4, sizeof *conns);
	pool_init(&memory.threads, threads, 1, sizeof *threads);
	t->index = 1;
	t->tid = getpid();
	t->ended.bytes = ring;
	t->ended.size = sizeof ring;
	tls.self = t;
	thread_setup.http = true;
	clock_start();
	if (real_start() || conn_start() || socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return 1;
	fd = pair[0];
	conn_accepted(fd, false);
	for (int i = 0; i < 3; i++) { /* draw the clock's line */
		clock_renew();
		usleep(12000);
	}
	printf("%-48s %10s   %10s\n", "", "warm", "L1 cold");
	measure("the time", one_clock);
	measure("a call that could wait, and did not", one_wait);
	measure("request head", read_head);
	measure("response head and body", read_answer);
	measure("a ledger, opened and closed", ledger_only);
	measure("a request on its connection, all of the above", whole);
	return 0;
}
