/* SPDX-License-Identifier: MIT
 *
 * Connections: which request do these bytes belong to, whoever reads, writes and closes them. On real socket pairs; the
 * bytes are handed over by the test, in place of the wrappers.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/hook/conn.h"
#include "agent/hook/real.h"
#include "agent/hook/thread.h"
#include "tests/unit/unit.h"

/* What hook/thread.c defines in the agent; it interposes libc and so is not linked here. */
__thread struct thread_local_state tls;
struct shared *shared;
struct thread_setup thread_setup;

enum {
	SLOTS = 32
};

static struct shared memory;
static struct request requests[SLOTS];
static struct conn conns[SLOTS];
static struct thread threads[2];
static struct thread *const t = &threads[0];
static int pair[2];

static int fresh(void **state)
{
	(void)state;
	memset(&memory, 0, sizeof memory);
	memset(requests, 0, sizeof requests);
	memset(conns, 0, sizeof conns);
	memset(threads, 0, sizeof threads);
	shared = &memory;
	memory.runq.tokens_at_ns = UINT64_MAX / 2;
	pool_init(&memory.requests, requests, SLOTS, sizeof *requests);
	pool_init(&memory.connections, conns, SLOTS, sizeof *conns);
	pool_init(&memory.threads, threads, 2, sizeof *threads);
	for (uint32_t i = 0; i < 2; i++) {
		threads[i].index = i + 1;
		threads[i].tid = (pid_t)(100 + i);
	}
	tls.self = t;
	thread_setup.http = true;
	if (real_start() || conn_start() || socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return -1;
	conn_accepted(pair[0], false);
	return 0;
}

static int done(void **state)
{
	(void)state;
	conn_forget(pair[0]);
	conn_forget(pair[1]);
	return close(pair[0]) || close(pair[1]);
}

static void reads(int fd, const char *text)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text) };

	conn_received(t, conn_get(fd), &iov, 1, iov.iov_len, 0, clock_ns());
}

static void writes(int fd, const char *text)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text) };
	struct conn *c = conn_get(fd);

	conn_sending(t, c);
	conn_sent(t, c, &iov, 1, (ssize_t)iov.iov_len, iov.iov_len, clock_ns());
}

static unsigned active(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SLOTS; i++)
		n += requests[i].life == REQUEST_ACTIVE;
	return n;
}

/* What the agent's thread would find: how many requests ended, and the last one. */
static unsigned ended(struct request **last)
{
	uint32_t index = pool_take_all(&t->done);
	unsigned n = 0;

	if (last)
		*last = index ? &requests[index - 1] : NULL;
	for (; index; index = requests[index - 1].link.next)
		n++;
	return n;
}

static const char GET[] = "GET /x HTTP/1.1\r\n\r\n",
		  OK[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

static void a_request_ends_with_the_last_byte_of_its_answer(void **state)
{
	struct request *r;

	(void)state;
	reads(pair[0], GET);
	assert_int_not_equal(t->slice.owner, 0);
	writes(pair[0], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
	assert_int_equal(ended(NULL), 0);
	writes(pair[0], "b");
	assert_int_equal(ended(&r), 1);
	assert_int_equal(r->status, 200);
	assert_string_equal(r->head.path, "/x");
	assert_int_equal(active(), 0);
}

static void requests_end_when_the_descriptor_goes_unseen(void **state)
{
	struct request *r;

	(void)state;
	reads(pair[0], GET);
	conn_accepted(pair[0], false); /* the number comes again, and nobody saw it close */
	assert_int_equal(ended(&r), 1);
	assert_true(r->failed);
	assert_int_equal(r->status, 0);
	assert_int_equal(active(), 0);
}

static void a_duplicate_keeps_the_connection(void **state)
{
	int copy = dup(pair[0]);

	(void)state;
	conn_duplicated(pair[0], copy);
	reads(pair[0], GET);
	conn_closing(t, pair[0], false);
	assert_int_equal(ended(NULL), 0);
	writes(copy, OK);
	assert_int_equal(ended(NULL), 1);
	conn_closing(t, copy, false);
	close(copy);
}

static void a_range_of_descriptors_closes_at_once(void **state)
{
	(void)state;
	reads(pair[0], GET);
	conn_forget_range(t, (unsigned)pair[0], ~0u);
	assert_int_equal(ended(NULL), 1);
	assert_int_equal(active(), 0);
}

static void what_is_begun_and_never_finished_is_no_request(void **state)
{
	(void)state;
	reads(pair[0], "GET /hal");
	conn_closing(t, pair[0], false);
	assert_int_equal(ended(NULL), 0);
	assert_int_equal(active(), 0);
}

static void good_requests_before_bad_bytes_are_answered(void **state)
{
	struct request *r;

	(void)state;
	reads(pair[0], "GET /x HTTP/1.1\r\n\r\n\x16\x03\x01");
	assert_int_equal(memory.drops[DROP_LOST], 1);
	writes(pair[0], OK);
	assert_int_equal(ended(&r), 1);
	assert_int_equal(r->status, 200);
	writes(pair[0], "HTTP/1.1 400 Bad Request\r\n\r\n");
	assert_int_equal(ended(NULL), 0);
}

static void who_loses_the_race_takes_the_connection_out_of_http(void **state)
{
	struct conn *c = conn_get(pair[0]);

	(void)state;
	reads(pair[0], GET);
	c->lock = 1; /* another thread is at it, for long */
	writes(pair[0], OK);
	assert_int_equal(memory.drops[DROP_RACED], 1);
	assert_int_equal(ended(NULL), 0);
	c->lock = 0;
	reads(pair[0], GET);
	assert_int_equal(ended(NULL), 1);
	assert_int_equal(c->role, CONN_OTHER);
	assert_int_equal(active(), 0);
}

static void a_connection_closed_in_the_middle_of_a_race_is_not_given_away(void **state)
{
	struct conn *c = conn_get(pair[0]);

	(void)state;
	reads(pair[0], GET);
	c->lock = 1;
	conn_forget(pair[0]);
	assert_int_equal((uint32_t)memory.connections.head, POOL_NONE);
	assert_int_equal(c->dead, 1);
	c->lock = 0;
}

static void bytes_that_pass_unseen_count_inside_a_body_only(void **state)
{
	struct request *r;

	(void)state;
	reads(pair[0], "POST /x HTTP/1.1\r\nContent-Length: 10\r\n\r\n");
	conn_received(t, conn_get(pair[0]), NULL, 0, 10, 0, clock_ns());
	reads(pair[0], GET);
	assert_int_equal(active(), 2);
	writes(pair[0], "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n");
	conn_sent(t, conn_get(pair[0]), NULL, 0, 7, 7, clock_ns());
	assert_int_equal(ended(&r), 1);
	assert_string_equal(r->head.method, "POST");
	conn_sent(t, conn_get(pair[0]), NULL, 0, 7, 7, clock_ns()); /* in place of a head */
	assert_int_equal(memory.drops[DROP_LOST], 1);
	assert_int_equal(active(), 0);
}

static void after_connect_and_upgrade_http_is_over(void **state)
{
	(void)state;
	reads(pair[0], "CONNECT a:1 HTTP/1.1\r\n\r\n");
	writes(pair[0], "HTTP/1.1 200 OK\r\n\r\n");
	assert_int_equal(ended(NULL), 1);
	reads(pair[0], GET);
	assert_int_equal(active(), 0);
}

static void a_request_without_a_slot_keeps_its_place(void **state)
{
	struct request *r;

	(void)state;
	for (unsigned i = 0; i < SLOTS - 1; i++)
		assert_int_not_equal(request_open(t, 1), 0);
	reads(pair[0], GET);
	reads(pair[0], "HEAD /no/slot HTTP/1.1\r\n\r\n");
	assert_int_equal(memory.drops[DROP_REQUESTS], 1);
	writes(pair[0], OK);
	assert_int_equal(ended(&r), 1);
	pool_give(&memory.requests, pool_index(&memory.requests, r));
	writes(pair[0], "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
	assert_int_equal(ended(NULL), 0);
	reads(pair[0], "GET /after HTTP/1.1\r\n\r\n");
	writes(pair[0], OK);
	assert_int_equal(ended(&r), 1);
	assert_string_equal(r->head.path, "/after");
	assert_int_equal(r->status, 200);
}

/* A turn of an event loop that begins with one request and goes on with another one's peer. */
static void a_peer_being_connected_belongs_to_who_connected(void **state)
{
	int other[2];
	request_id first, second;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, other), 0);
	reads(pair[0], GET);
	first = t->slice.owner;
	conn_connecting(pair[1], first);
	conn_in_progress(pair[1]);
	conn_accepted(other[0], false);
	reads(other[0], GET);
	second = t->slice.owner;
	assert_int_not_equal(first, second);
	conn_asked(t, pair[1]); /* getsockopt(SO_ERROR) */
	assert_int_equal(t->slice.owner, first);
	reads(other[0], GET);
	writes(other[0], OK);
	assert_int_not_equal(t->slice.owner, first);
	writes(pair[1], GET); /* without having asked */
	assert_int_equal(t->slice.owner, first);
	writes(pair[0], OK);
	conn_closing(t, other[0], false);
	assert_int_equal(active(), 0);
	close(other[0]);
	close(other[1]);
}

static void the_answer_of_a_peer_makes_its_request_current(void **state)
{
	request_id id;

	(void)state;
	reads(pair[0], GET);
	id = t->slice.owner;
	conn_connecting(pair[1], id);
	writes(pair[1], GET);
	request_park(t, clock_ns());
	conn_received(t, conn_get(pair[1]), NULL, 0, 0, 0,
		      clock_ns()); /* it closed: an answer, too */
	assert_int_equal(t->slice.owner, id);
	assert_true(conn_belongs(pair[1], id));
	assert_true(conn_belongs(pair[0], id));
	writes(pair[0], OK);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fresh, done)
	const struct CMUnitTest tests[] = {
		T(a_request_ends_with_the_last_byte_of_its_answer),
		T(requests_end_when_the_descriptor_goes_unseen),
		T(a_duplicate_keeps_the_connection),
		T(a_range_of_descriptors_closes_at_once),
		T(what_is_begun_and_never_finished_is_no_request),
		T(good_requests_before_bad_bytes_are_answered),
		T(who_loses_the_race_takes_the_connection_out_of_http),
		T(a_connection_closed_in_the_middle_of_a_race_is_not_given_away),
		T(bytes_that_pass_unseen_count_inside_a_body_only),
		T(after_connect_and_upgrade_http_is_over),
		T(a_request_without_a_slot_keeps_its_place),
		T(a_peer_being_connected_belongs_to_who_connected),
		T(the_answer_of_a_peer_makes_its_request_current),
	};

	return RUN(tests);
}
