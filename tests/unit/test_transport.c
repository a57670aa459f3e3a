/* SPDX-License-Identifier: MIT
 *
 * The transport against a collector made of real sockets, played by the test itself: it steps the transport with times of
 * its own, so nothing here sleeps. Only flushing needs a second thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/core/config.h"
#include "agent/core/dict.h"
#include "agent/core/fd.h"
#include "agent/core/identity.h"
#include "agent/core/spool.h"
#include "agent/core/transport.h"
#include "tests/unit/unit.h"

#define SECOND ((uint64_t)1000000000)

enum {
	SEEN = 4096
};

/* The collector. */
struct peer {
	char address[100];
	int listener, fd;
	struct encode_buffer in;
	unsigned hellos, dicts, events;
	uint64_t instance;
	bool dict_after_window; /* since the last Hello */
	uint64_t seen[SEEN];    /* windows in the order of arrival, all connections */
	unsigned seen_count;
};

struct bench {
	struct config config;
	struct identity self;
	struct transport *t;
	struct dict *d;
	struct peer peer;
	uint64_t now;
};

static void peer_listen(struct peer *p, bool tcp)
{
	static int number;
	struct sockaddr_storage address;
	socklen_t bytes;
	int on = 1;

	p->fd = -1;
	if (!p->address[0] && !tcp)
		snprintf(p->address, sizeof(p->address), "unix:@sonde-test-%d-%d", (int)getpid(),
			 number++);
	assert_int_equal(config_address(tcp ? "tcp:127.0.0.1:1" : p->address, &address, &bytes), 0);
	if (tcp)
		((struct sockaddr_in *)&address)->sin_port = 0;
	p->listener = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_true(p->listener >= 0);
	setsockopt(p->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	assert_int_equal(bind(p->listener, (struct sockaddr *)&address, bytes), 0);
	assert_int_equal(listen(p->listener, 4), 0);
	if (tcp) {
		bytes = sizeof(address);
		getsockname(p->listener, (struct sockaddr *)&address, &bytes);
		snprintf(p->address, sizeof(p->address), "tcp:127.0.0.1:%u",
			 ntohs(((struct sockaddr_in *)&address)->sin_port));
	}
}

static void peer_close(struct peer *p)
{
	if (p->fd >= 0)
		close(p->fd);
	if (p->listener >= 0)
		close(p->listener);
	p->fd = p->listener = -1;
	p->in.used = 0;
}

static void peer_hang_up(struct peer *p)
{
	close(p->fd);
	p->fd = -1;
	p->in.used = 0;
}

static void setup(struct bench *b, bool tcp)
{
	char error[200];

	memset(b, 0, sizeof(*b));
	peer_listen(&b->peer, tcp);
	config_load(&b->config, NULL, error, sizeof(error));
	b->config.spool_kib = 64;
	snprintf(b->config.collector, sizeof(b->config.collector), "%s", b->peer.address);
	identity_fill(&b->self, &b->config);
	b->t = transport_create(&b->config, &b->self);
	b->d = dict_create();
	assert_true(b->t && b->d);
	b->now = 1000 * SECOND;
}

static void teardown(struct bench *b)
{
	transport_destroy(b->t);
	dict_destroy(b->d);
	peer_close(&b->peer);
	encode_buffer_fini(&b->peer.in);
}

static void step(struct bench *b)
{
	transport_step(b->t, b->d, b->now);
}

/* A window of about @bytes. */
static int queue(struct bench *b, uint64_t seq, size_t bytes)
{
	Sonde__Window window = SONDE__WINDOW__INIT;
	Sonde__RouteStats stats = SONDE__ROUTE_STATS__INIT, *routes[] = { &stats };
	struct encode_buffer out = { 0 };
	struct encode_arena arena = { 0 };

	window.seq = seq;
	window.routes = routes;
	window.n_routes = 1;
	stats.ledger_ns = encode_alloc(&arena, bytes + 1, sizeof(uint64_t)); /* a zero is a byte */
	assert_non_null(stats.ledger_ns);
	stats.n_ledger_ns = bytes;
	assert_int_equal(encode_window(&out, &arena, &window, NULL), 0);
	encode_arena_fini(&arena);
	return transport_queue(b->t, out.bytes, out.used, seq);
}

static void peer_take(struct peer *p, const Sonde__Frame *f)
{
	switch (f->body_case) {
	case SONDE__FRAME__BODY_HELLO:
		p->hellos++;
		p->instance = f->hello->instance;
		p->dicts = 0;
		break;
	case SONDE__FRAME__BODY_DICT:
		p->dicts++;
		break;
	case SONDE__FRAME__BODY_WINDOW:
		assert_true(p->dicts > 0); /* never a window before what explains it */
		assert_true(p->seen_count < SEEN);
		p->seen[p->seen_count++] = f->window->seq;
		break;
	case SONDE__FRAME__BODY_EVENT:
		p->events++;
		break;
	default:
		fail_msg("the agent sent a frame %d", f->body_case);
	}
}

/* Take every whole frame out of @in. */
static void peer_parse(struct peer *p)
{
	size_t at = 0;

	while (p->in.used - at >= 4) {
		Sonde__Frame *f;
		uint32_t length;

		memcpy(&length, p->in.bytes + at, 4);
		assert_true(length < ENCODE_FRAME_MAX);
		if (p->in.used - at - 4 < length)
			break;
		f = sonde__frame__unpack(NULL, length, p->in.bytes + at + 4);
		assert_non_null(f);
		peer_take(p, f);
		sonde__frame__free_unpacked(f, NULL);
		at += 4 + length;
	}
	p->in.used -= at;
	memmove(p->in.bytes, p->in.bytes + at, p->in.used);
}

/* Accept if nobody is there, read what there is. Returns whether anything came. */
static bool peer_read(struct peer *p)
{
	bool any = false;

	if (p->fd < 0)
		p->fd = accept4(p->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	while (p->fd >= 0) {
		ssize_t n;

		assert_int_equal(encode_reserve(&p->in, 65536), 0);
		n = recv(p->fd, p->in.bytes + p->in.used, 65536, MSG_DONTWAIT);
		if (n <= 0)
			break;
		any = true;
		p->in.used += (size_t)n;
		peer_parse(p);
	}
	return any;
}

static void peer_send_bytes(struct peer *p, const void *bytes, size_t length)
{
	assert_int_equal(send(p->fd, bytes, length, MSG_NOSIGNAL), (ssize_t)length);
}

static void peer_send(struct peer *p, const Sonde__Frame *f)
{
	struct encode_buffer b = { 0 };

	assert_int_equal(encode_frame(&b, f), 0);
	peer_send_bytes(p, b.bytes, b.used);
	encode_buffer_fini(&b);
}

static void peer_welcome(struct peer *p, uint32_t protocol, uint64_t stored_seq)
{
	Sonde__Frame f = SONDE__FRAME__INIT;
	Sonde__Welcome welcome = SONDE__WELCOME__INIT;

	welcome.protocol = protocol;
	welcome.stored_seq = stored_seq;
	f.body_case = SONDE__FRAME__BODY_WELCOME;
	f.welcome = &welcome;
	peer_send(p, &f);
}

static void peer_ack(struct peer *p, uint64_t seq)
{
	Sonde__Frame f = SONDE__FRAME__INIT;
	Sonde__Ack ack = SONDE__ACK__INIT;

	ack.seq = seq;
	f.body_case = SONDE__FRAME__BODY_ACK;
	f.ack = &ack;
	peer_send(p, &f);
}

/* Let both sides work until the agent is silent. */
static void settle(struct bench *b)
{
	do
		step(b);
	while (peer_read(&b->peer));
}

/* Up to and with the Welcome. */
static void connect_peer(struct bench *b, uint64_t stored_seq)
{
	unsigned hellos = b->peer.hellos;

	b->now += 10 * SECOND; /* past any back-off */
	for (int i = 0; i < 20 && b->peer.hellos == hellos; i++)
		settle(b);
	assert_int_equal(b->peer.hellos, hellos + 1);
	peer_welcome(&b->peer, 1, stored_seq);
	settle(b);
	assert_true(transport_state(b->t).connected);
}

static void seen(const struct bench *b, const char *wanted)
{
	char text[1024] = "";

	for (unsigned i = 0; i < b->peer.seen_count; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%u", i ? " " : "",
			 (unsigned)b->peer.seen[i]);
	assert_string_equal(text, wanted);
}

static unsigned open_descriptors(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static int our_descriptor(const struct bench *b)
{
	struct pollfd wait;
	uint64_t deadline;

	transport_poll(b->t, &wait, &deadline);
	return wait.fd;
}

/* ---- Tests ---- */

static void transport_sends_hello_dictionary_and_windows_in_order(void **state)
{
	struct bench b;

	(void)state;
	setup(&b, false);
	queue(&b, 1, 100);
	queue(&b, 2, 100);
	connect_peer(&b, 0);
	assert_true(b.peer.instance == b.self.instance);
	assert_int_equal(b.peer.dicts, 1);
	seen(&b, "1 2");
	dict_object(b.d, SONDE__OBJECT__KIND__PEER, "new");
	queue(&b, 3, 100);
	settle(&b);
	assert_int_equal(b.peer.dicts, 2);
	seen(&b, "1 2 3");
	teardown(&b);
}

static void transport_works_over_tcp(void **state)
{
	struct bench b;

	(void)state;
	setup(&b, true);
	queue(&b, 1, 100);
	connect_peer(&b, 0);
	for (int i = 0; i < 100 && b.peer.seen_count == 0; i++)
		settle(&b);
	seen(&b, "1");
	teardown(&b);
}

static void transport_keeps_windows_until_they_are_acknowledged(void **state)
{
	struct bench b;

	(void)state;
	setup(&b, false);
	queue(&b, 1, 100);
	queue(&b, 2, 100);
	connect_peer(&b, 0);
	assert_int_equal(transport_state(b.t).spool_frames, 2);
	peer_ack(&b.peer, 1);
	settle(&b);
	assert_int_equal(transport_state(b.t).spool_frames, 1);
	peer_ack(&b.peer, 2);
	peer_ack(&b.peer, 2);
	settle(&b);
	assert_int_equal(transport_state(b.t).spool_frames, 0);
	assert_int_equal(transport_state(b.t).spool_bytes, 0);
	assert_true(transport_state(b.t).connected);
	assert_int_equal(transport_lost(b.t), 0);
	teardown(&b);
}

static void transport_sends_again_only_what_a_restarted_collector_has_not_stored(void **state)
{
	struct bench b;

	(void)state;
	setup(&b, false);
	for (uint64_t seq = 1; seq <= 4; seq++)
		queue(&b, seq, 100);
	connect_peer(&b, 0);
	peer_ack(&b.peer, 1);
	settle(&b);
	peer_close(&b.peer); /* it had stored 2 and 3, too, but could not say so */
	step(&b);
	assert_false(transport_state(b.t).connected);
	queue(&b, 5, 100);
	b.now += 10 * SECOND;
	step(&b); /* nobody listens */
	assert_false(transport_state(b.t).connected);
	peer_listen(&b.peer, false);
	b.peer.seen_count = 0;
	connect_peer(&b, 3);
	seen(&b, "4 5");
	assert_int_equal(b.peer.dicts, 1); /* the new connection got the whole dictionary */
	assert_int_equal(transport_lost(b.t), 0);
	assert_int_equal(transport_state(b.t).connections, 2);
	teardown(&b);
}

static void transport_without_collector_drops_the_oldest_and_counts(void **state)
{
	struct bench b;

	(void)state;
	setup(&b, false);
	peer_close(&b.peer);
	for (uint64_t seq = 1; seq <= 100; seq++) {
		assert_int_equal(queue(&b, seq, 1000), 0);
		assert_true(transport_state(b.t).spool_bytes <= 64 * 1024);
		b.now += SECOND;
		step(&b);
	}
	assert_int_equal(transport_lost(b.t), 100 - transport_state(b.t).spool_frames);
	assert_in_range(transport_state(b.t).spool_frames, 60, 65);
	assert_int_equal(queue(&b, 101, 70000), -ENOSPC);
	peer_listen(&b.peer, false);
	connect_peer(&b, 0);
	assert_int_equal(b.peer.seen_count, transport_state(b.t).spool_frames);
	assert_int_equal(b.peer.seen[0], transport_lost(b.t)); /* 101 was lost, too */
	assert_int_equal(b.peer.seen[b.peer.seen_count - 1], 100);
	teardown(&b);
}

static void transport_counts_a_dropped_window_as_lost_only_when_it_was_not_stored(void **state)
{
	struct bench b;

	(void)state;
	for (uint64_t stored = 0; stored <= 2; stored++) {
		setup(&b, false);
		queue(&b, 1, 30000);
		queue(&b, 2, 30000);
		connect_peer(&b, 0);
		queue(&b, 3, 30000); /* 1 and 2 are out, and may be stored */
		queue(&b, 4, 30000);
		assert_int_equal(transport_lost(b.t), 0);
		if (stored == 1)
			peer_ack(&b.peer, 1);
		settle(&b);
		peer_hang_up(&b.peer);
		step(&b);
		connect_peer(&b, stored);
		assert_int_equal(transport_lost(b.t), 2 - stored);
		teardown(&b);
	}
}

static void transport_gives_up_a_window_that_the_collector_always_hangs_up_on(void **state)
{
	struct bench b;

	(void)state;
	setup(&b, false);
	queue(&b, 1, 10);
	queue(&b, 2, 10);
	for (int i = 0; i < TRANSPORT_TRIES; i++) {
		assert_int_equal(transport_state(b.t).spool_frames, 2);
		connect_peer(&b, 0);
		peer_hang_up(&b.peer);
		step(&b);
	}
	assert_int_equal(transport_state(b.t).spool_frames, 1);
	b.peer.seen_count = 0;
	connect_peer(&b, 0);
	seen(&b, "2");
	assert_int_equal(transport_lost(b.t), 1);
	teardown(&b);
}

static void transport_survives_a_collector_that_never_reads(void **state)
{
	struct bench b;
	uint64_t deadline;
	struct pollfd wait;

	(void)state;
	setup(&b, false);
	connect_peer(&b, 0);
	alarm(20); /* the failure is to hang */
	for (uint64_t seq = 1; seq <= 200; seq++) {
		queue(&b, seq, 20000);
		step(&b);
		assert_true(transport_state(b.t).spool_bytes <= 64 * 1024);
		assert_true(transport_bytes(b.t) < 512 * 1024);
	}
	alarm(0);
	assert_true(transport_lost(b.t) > 100);
	assert_true(transport_state(b.t).connected);
	transport_poll(b.t, &wait, &deadline);
	assert_int_equal(wait.events, POLLIN | POLLOUT);
	assert_in_range(deadline, b.now, b.now + TRANSPORT_STALL_MS * 1000000ull);

	/* It wakes up: what it reads is whole, in order, and nothing comes twice. */
	settle(&b);
	assert_int_equal(b.peer.seen[b.peer.seen_count - 1], 200);
	for (unsigned i = 1; i < b.peer.seen_count; i++)
		assert_true(b.peer.seen[i] > b.peer.seen[i - 1]);
	for (unsigned i = 0; i < b.peer.seen_count; i++)
		peer_ack(&b.peer, b.peer.seen[i]);
	settle(&b);
	assert_int_equal(transport_state(b.t).spool_frames, 0);
	assert_int_equal(transport_lost(b.t) + b.peer.seen_count, 200);

	/* It reads and says nothing for good: another connection may find it better. */
	queue(&b, 201, 100);
	settle(&b);
	b.now += (TRANSPORT_STALL_MS + 1000) * 1000000ull;
	step(&b);
	assert_false(transport_state(b.t).connected);
	teardown(&b);
}

static void transport_closes_on_a_wrong_answer(void **state)
{
	static const struct {
		const char *bytes;
		size_t length;
	} garbage[] = {
		{ "HTTP/1.1 400 Bad Request\r\n\r\n", 28 },
		{ "\xff\xff\xff\xff", 4 },
		{ "\x03\0\0\0\x32\x7f\x01", 7 },     /* a Welcome longer than its frame */
		{ "\x02\0\0\0\x0a\x00", 6 },         /* a Hello: our own, come back */
		{ "\x02\0\0\0\x1a\x00", 6 },         /* a Window */
		{ "\x04\0\0\0\x3a\x02\x08\x01", 8 }, /* an Ack before the Welcome */
		{ "\x02\0\0\0\x32\x00", 6 },         /* a Welcome of protocol 0 */
	};
	struct bench b;

	(void)state;
	for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
		setup(&b, false);
		queue(&b, 1, 100);
		b.now += SECOND;
		settle(&b);
		assert_int_equal(b.peer.hellos, 1);
		peer_send_bytes(&b.peer, garbage[i].bytes, garbage[i].length);
		step(&b);
		assert_int_equal(our_descriptor(&b), -1);
		assert_int_equal(transport_state(b.t).rejected, 1);
		peer_hang_up(&b.peer);
		connect_peer(&b, 0); /* and it is none the worse for it */
		seen(&b, "1");
		peer_ack(&b.peer, 77); /* a window it never got */
		step(&b);
		assert_int_equal(our_descriptor(&b), -1);
		assert_int_equal(transport_lost(b.t), 0);
		teardown(&b);
	}
}

static void transport_survives_any_bytes_from_the_collector(void **state)
{
	struct bench b;

	(void)state;
	srand(4);
	setup(&b, false);
	for (unsigned round = 0; round < 300; round++) {
		uint8_t bytes[300];

		connect_peer(&b, 0);
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)(rand() % 3 ? rand() : rand() % 8);
		bytes[0] = (uint8_t)(rand() % 40); /* mostly a length that is believed */
		bytes[1] = bytes[2] = bytes[3] = 0;
		bytes[4] = (uint8_t)(rand() % 9 << 3 | 2);
		peer_send_bytes(&b.peer, bytes, 4 + (size_t)rand() % 290);
		step(&b);
		peer_hang_up(&b.peer);
		step(&b);
		assert_int_equal(our_descriptor(&b), -1);
	}
	connect_peer(&b, 0);
	teardown(&b);
}

static void transport_skips_frames_it_does_not_know(void **state)
{
	struct bench b;

	(void)state;
	setup(&b, false);
	connect_peer(&b, 0);
	queue(&b, 1, 10);
	settle(&b);
	peer_send_bytes(&b.peer, "\x05\0\0\0\xa2\x06\x02hi", 9); /* field 100 */
	peer_send_bytes(&b.peer, "\0\0\0\0", 4);
	peer_ack(&b.peer, 1);
	settle(&b);
	assert_true(transport_state(b.t).connected);
	assert_int_equal(transport_state(b.t).spool_frames, 0);
	teardown(&b);
}

static void transport_reads_answers_cut_anywhere(void **state)
{
	struct bench b;
	const char bytes[] = "\x04\0\0\0\x3a\x02\x08\x01\x04\0\0\0\x3a\x02\x08\x02";

	(void)state;
	setup(&b, false);
	connect_peer(&b, 0);
	queue(&b, 1, 10);
	queue(&b, 2, 10);
	settle(&b);
	for (size_t i = 0; i < sizeof(bytes) - 1; i++) {
		peer_send_bytes(&b.peer, bytes + i, 1);
		step(&b);
	}
	assert_true(transport_state(b.t).connected);
	assert_int_equal(transport_state(b.t).spool_frames, 0);
	teardown(&b);
}

static void transport_backs_off_doubling_up_to_5_s(void **state)
{
	uint64_t wanted = 100, deadline;
	struct pollfd wait;
	struct bench b;

	(void)state;
	setup(&b, false);
	peer_close(&b.peer);
	for (int i = 0; i < 12; i++) {
		step(&b);
		transport_poll(b.t, &wait, &deadline);
		assert_int_equal(wait.fd, -1);
		assert_in_range(deadline - b.now, wanted * 800000, wanted * 1200000);
		b.now = deadline - 1;
		step(&b); /* not yet */
		transport_poll(b.t, &wait, &deadline);
		assert_int_equal(deadline, b.now + 1);
		b.now = deadline;
		wanted = wanted * 2 > 5000 ? 5000 : wanted * 2;
	}
	teardown(&b);
}

static void transport_gives_up_on_a_collector_that_does_not_welcome(void **state)
{
	struct bench b;

	(void)state;
	setup(&b, false);
	settle(&b);
	assert_int_equal(b.peer.hellos, 1);
	b.now += TRANSPORT_ANSWER_MS * 1000000ull;
	step(&b);
	assert_int_equal(our_descriptor(&b), -1);
	teardown(&b);
}

static void transport_sends_an_event_once_and_does_not_wait_for_its_ack(void **state)
{
	struct encode_buffer event = { 0 };
	struct bench b;

	(void)state;
	setup(&b, false);
	queue(&b, 1, 10);
	assert_int_equal(encode_event(&event, "deploy", 1), 0);
	assert_int_equal(transport_queue(b.t, event.bytes, event.used, 0), 0);
	queue(&b, 2, 10);
	connect_peer(&b, 0);
	seen(&b, "1 2");
	assert_int_equal(b.peer.events, 1);
	assert_int_equal(transport_state(b.t).spool_frames, 2);
	peer_hang_up(&b.peer);
	step(&b);
	connect_peer(&b, 0);
	seen(&b, "1 2 1 2");
	assert_int_equal(b.peer.events, 1);
	teardown(&b);
}

static void transport_descriptor_is_high_and_closed_on_exec(void **state)
{
	unsigned before = open_descriptors();
	struct bench b;

	(void)state;
	setup(&b, false);
	connect_peer(&b, 0);
	assert_true(our_descriptor(&b) >= FD_FLOOR);
	assert_true(fcntl(our_descriptor(&b), F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(our_descriptor(&b), F_GETFL) & O_NONBLOCK);
	teardown(&b);
	assert_int_equal(open_descriptors(), before);
}

static void transport_reconnects_when_the_host_closed_its_descriptor(void **state)
{
	struct bench b;

	(void)state;
	setup(&b, false);
	queue(&b, 1, 10);
	connect_peer(&b, 0);
	close(our_descriptor(&b));
	step(&b);
	assert_int_equal(transport_state(b.t).robbed, 1);
	peer_hang_up(&b.peer);
	connect_peer(&b, 0);
	seen(&b, "1 1");
	teardown(&b);
}

static void transport_leaves_a_descriptor_alone_that_the_host_put_in_its_place(void **state)
{
	char byte = 0;
	struct bench b;
	int pipes[2], fd;

	(void)state;
	setup(&b, false);
	queue(&b, 1, 10);
	connect_peer(&b, 0);
	fd = our_descriptor(&b);
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(dup2(pipes[1], fd), fd);
	queue(&b, 2, 10);
	step(&b);
	assert_int_equal(transport_state(b.t).robbed, 1);
	transport_destroy(b.t);
	assert_int_equal(write(fd, "x", 1), 1); /* still the host's, and nothing of ours is in it */
	assert_int_equal(read(pipes[0], &byte, 1), 1);
	assert_int_equal(byte, 'x');
	close(fd);
	close(pipes[0]);
	close(pipes[1]);
	b.t = NULL;
	teardown(&b);
}

static void transport_abandon_in_a_child_leaves_the_parents_connection(void **state)
{
	struct bench b;
	int status = 1;
	pid_t child;

	(void)state;
	setup(&b, false);
	queue(&b, 1, 10);
	connect_peer(&b, 0);
	child = fork();
	if (child == 0) {
		unsigned before = open_descriptors();

		transport_abandon(b.t);
		_exit(open_descriptors() == before - 1 ? 0 : 1);
	}
	waitpid(child, &status, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	queue(&b, 2, 10);
	settle(&b);
	seen(&b, "1 2");
	teardown(&b);
}

static void transport_raises_no_signal_when_the_collector_is_gone(void **state)
{
	struct bench b;

	(void)state;
	signal(SIGPIPE, SIG_DFL); /* would end this test program */
	setup(&b, false);
	connect_peer(&b, 0);
	queue(&b, 1, 10);
	shutdown(b.peer.fd, SHUT_RD);
	for (int i = 0; i < 5; i++) {
		step(&b);
		b.now += SECOND;
	}
	peer_hang_up(&b.peer);
	step(&b);
	teardown(&b);
}

/* ---- Flushing ---- */

static uint64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

/* A collector on a thread of its own: welcomes, and acknowledges every window. */
static void *serve(void *argument)
{
	struct peer *p = argument;
	unsigned hellos = 0, acked = 0;

	for (uint64_t end = monotonic_ns() + 5 * SECOND; monotonic_ns() < end;) {
		struct pollfd wait = { .fd = p->fd >= 0 ? p->fd : p->listener, .events = POLLIN };

		if (poll(&wait, 1, 50) <= 0)
			continue;
		if (!peer_read(p) && p->fd >= 0 && p->hellos > 0)
			break;
		if (p->hellos > hellos)
			peer_welcome(p, 1, 0);
		hellos = p->hellos;
		for (; acked < p->seen_count; acked++)
			peer_ack(p, p->seen[acked]);
	}
	return NULL;
}

static void transport_flush_gets_everything_acknowledged(void **state)
{
	pthread_t thread;
	struct bench b;

	(void)state;
	setup(&b, true);
	for (uint64_t seq = 1; seq <= 6; seq++)
		queue(&b, seq, 10000);
	assert_int_equal(pthread_create(&thread, NULL, serve, &b.peer), 0);
	assert_true(transport_flush(b.t, b.d, monotonic_ns() + 3 * SECOND));
	assert_int_equal(transport_state(b.t).spool_frames, 0);
	transport_destroy(b.t);
	b.t = NULL;
	pthread_join(thread, NULL);
	seen(&b, "1 2 3 4 5 6");
	teardown(&b);
}

static void transport_flush_without_collector_returns_at_once(void **state)
{
	uint64_t start;
	struct bench b;

	(void)state;
	setup(&b, false);
	peer_close(&b.peer);
	queue(&b, 1, 10);
	start = monotonic_ns();
	assert_false(transport_flush(b.t, b.d, start + 5 * SECOND));
	assert_true(monotonic_ns() - start < SECOND);
	teardown(&b);
}

static void transport_flush_keeps_its_deadline(void **state)
{
	uint64_t start, took;
	struct bench b;

	(void)state;
	setup(&b, false); /* the kernel takes the connection, and nobody answers */
	queue(&b, 1, 10);
	start = monotonic_ns();
	assert_false(transport_flush(b.t, b.d, start + SECOND / 10));
	took = monotonic_ns() - start;
	assert_in_range(took, SECOND / 10, SECOND);
	teardown(&b);
}

static void transport_flush_of_nothing_is_done(void **state)
{
	struct bench b;

	(void)state;
	setup(&b, false);
	connect_peer(&b, 0);
	assert_true(transport_flush(b.t, b.d, monotonic_ns()));
	teardown(&b);
}

/* ---- The file ---- */

static char directory[] = "/tmp/sonde-test-XXXXXX";

static void setup_file(struct bench *b, const char *name)
{
	setup(b, false);
	snprintf(b->config.output, sizeof(b->config.output), "%s/%s", directory, name);
	transport_destroy(b->t);
	b->t = transport_create(&b->config, &b->self);
	assert_non_null(b->t);
}

/* Read a file of ours as a collector would. */
static void read_back(struct peer *p, const char *path)
{
	int fd = open(path, O_RDONLY);
	ssize_t n;

	assert_true(fd >= 0);
	p->in.used = 0;
	do {
		assert_int_equal(encode_reserve(&p->in, 65536), 0);
		n = read(fd, p->in.bytes + p->in.used, 65536);
		p->in.used += n > 0 ? (size_t)n : 0;
		peer_parse(p);
	} while (n > 0);
	assert_int_equal(p->in.used, 0); /* no part of a frame */
	close(fd);
}

static void transport_output_is_the_same_stream_in_a_file(void **state)
{
	struct stat st;
	struct bench b;

	(void)state;
	setup_file(&b, "a.sonde");
	queue(&b, 1, 100);
	queue(&b, 2, 100);
	step(&b);
	assert_true(transport_state(b.t).connected);
	assert_int_equal(transport_state(b.t).spool_frames, 0); /* written is stored */
	queue(&b, 3, 100);
	assert_true(transport_flush(b.t, b.d, monotonic_ns() + SECOND));
	assert_int_equal(stat(b.config.output, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	read_back(&b.peer, b.config.output);
	assert_int_equal(b.peer.hellos, 1);
	seen(&b, "1 2 3");
	teardown(&b);
}

static void transport_output_continues_after_a_torn_frame(void **state)
{
	struct bench b;
	struct stat st;

	(void)state;
	setup_file(&b, "torn.sonde");
	queue(&b, 1, 100);
	queue(&b, 2, 100);
	step(&b);
	assert_int_equal(stat(b.config.output, &st), 0);
	assert_int_equal(truncate(b.config.output, st.st_size - 30), 0); /* as a kill would */
	transport_destroy(b.t);
	b.t = transport_create(&b.config, &b.self);
	queue(&b, 3, 100);
	step(&b);
	read_back(&b.peer, b.config.output);
	assert_int_equal(b.peer.hellos, 2);
	seen(&b, "1 3");
	teardown(&b);
}

static void transport_output_of_a_second_process_goes_beside(void **state)
{
	struct bench b, other;
	char beside[300];

	(void)state;
	setup_file(&b, "both.sonde");
	setup_file(&other, "both.sonde");
	queue(&b, 1, 10);
	step(&b);
	queue(&other, 2, 10);
	step(&other);
	read_back(&b.peer, b.config.output);
	seen(&b, "1");
	snprintf(beside, sizeof(beside), "%s.%d", b.config.output, (int)getpid());
	read_back(&other.peer, beside);
	seen(&other, "2");
	teardown(&b);
	teardown(&other);
}

static void transport_output_never_touches_what_is_not_its_own(void **state)
{
	static const char text[] = "dear diary, today was a long day";
	char path[300], back[100] = "", link_path[300];
	struct bench b;
	int fd;

	(void)state;
	setup_file(&b, "diary.txt");
	snprintf(path, sizeof(path), "%s", b.config.output);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write(fd, text, sizeof(text)), sizeof(text));
	close(fd);
	queue(&b, 1, 10);
	step(&b);
	assert_false(transport_state(b.t).connected);
	fd = open(path, O_RDONLY);
	assert_int_equal(read(fd, back, sizeof(back)), sizeof(text));
	assert_string_equal(back, text);
	close(fd);
	teardown(&b);

	setup_file(&b, "link.sonde");
	snprintf(link_path, sizeof(link_path), "%s", b.config.output);
	snprintf(path, sizeof(path), "%s/new.sonde", directory);
	assert_int_equal(symlink(path, link_path), 0);
	step(&b);
	assert_false(transport_state(b.t).connected);
	assert_int_equal(access(path, F_OK), -1);
	teardown(&b);
	setup_file(&b, "fifo");
	assert_int_equal(mkfifo(b.config.output, 0600), 0);
	alarm(5); /* the failure is to hang */
	step(&b);
	alarm(0);
	assert_false(transport_state(b.t).connected);
	teardown(&b);
}

static void transport_output_stops_at_the_file_size_limit(void **state)
{
	int status = 1;
	pid_t child;

	(void)state;
	child = fork();
	if (child == 0) {
		const struct rlimit limit = { 100000, 100000 };
		struct bench b;
		struct stat st;
		bool good;

		signal(SIGXFSZ, SIG_DFL); /* would end the child */
		setup_file(&b, "limit.sonde");
		setrlimit(RLIMIT_FSIZE, &limit);
		for (uint64_t seq = 1; seq <= 20; seq++) {
			queue(&b, seq, 10000);
			b.now += 10 * SECOND;
			step(&b);
		}
		stat(b.config.output, &st);
		good = st.st_size <= 100000 && st.st_size > 80000 && transport_lost(b.t) >= 10 &&
		       transport_lost(b.t) < 15;
		_exit(good ? 0 : 1);
	}
	waitpid(child, &status, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void transport_output_whose_descriptor_was_robbed_is_opened_again(void **state)
{
	struct bench b;
	int fd;

	(void)state;
	setup_file(&b, "robbed.sonde");
	queue(&b, 1, 10);
	step(&b);
	for (fd = FD_FLOOR; fcntl(fd, F_GETFD) < 0; fd++)
		;
	close(fd);
	queue(&b, 2, 10);
	step(&b);
	assert_int_equal(transport_state(b.t).robbed, 1);
	b.now += SECOND;
	step(&b);
	read_back(&b.peer, b.config.output);
	assert_int_equal(b.peer.hellos, 2);
	seen(&b, "1 2");
	teardown(&b);
}

/* ---- The spool by itself, against chance ---- */

static void spool_never_loses_count(void **state)
{
	struct spool s;
	uint64_t next = 1, stored = 0;

	(void)state;
	srand(3);
	spool_init(&s, 2000);
	for (unsigned i = 0; i < 50000; i++) {
		unsigned what = (unsigned)rand() % 10;

		if (what < 4) {
			size_t length = 1 + (size_t)rand() % 300;

			spool_add(&s, malloc(length), length, rand() % 8 ? next++ : 0);
		} else if (what < 7) {
			if (s.unsent)
				spool_sent(&s);
		} else if (what < 9) {
			struct spool_frame *f = s.head;

			if (f && f != s.unsent) {
				stored++;
				spool_stored(&s, f->seq);
			}
		} else if (rand() % 20 == 0) {
			spool_restart(&s, 0);
		}
		unsigned frames = 0, windows = 0;
		size_t bytes = 0;

		for (struct spool_frame *f = s.head; f; f = f->next) {
			assert_true(f->next || f == s.tail);
			frames++;
			windows += f->seq != 0;
			bytes += f->length + sizeof(*f);
		}
		assert_int_equal(frames, s.frames);
		assert_int_equal(bytes, s.bytes);
		assert_true(bytes <= 2000);
		for (unsigned k = 0; k < SPOOL_DROPPED_SENT; k++)
			windows += s.dropped_sent[k] != 0;
		assert_int_equal(windows + s.lost + stored, next - 1);
	}
	spool_fini(&s);
	assert_int_equal(s.frames + s.bytes, 0);
}

static int make_directory(void **state)
{
	(void)state;
	return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
	char command[100];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", directory);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(transport_sends_hello_dictionary_and_windows_in_order),
		cmocka_unit_test(transport_works_over_tcp),
		cmocka_unit_test(transport_keeps_windows_until_they_are_acknowledged),
		cmocka_unit_test(
			transport_sends_again_only_what_a_restarted_collector_has_not_stored),
		cmocka_unit_test(transport_without_collector_drops_the_oldest_and_counts),
		cmocka_unit_test(
			transport_counts_a_dropped_window_as_lost_only_when_it_was_not_stored),
		cmocka_unit_test(transport_gives_up_a_window_that_the_collector_always_hangs_up_on),
		cmocka_unit_test(transport_survives_a_collector_that_never_reads),
		cmocka_unit_test(transport_closes_on_a_wrong_answer),
		cmocka_unit_test(transport_survives_any_bytes_from_the_collector),
		cmocka_unit_test(transport_skips_frames_it_does_not_know),
		cmocka_unit_test(transport_reads_answers_cut_anywhere),
		cmocka_unit_test(transport_backs_off_doubling_up_to_5_s),
		cmocka_unit_test(transport_gives_up_on_a_collector_that_does_not_welcome),
		cmocka_unit_test(transport_sends_an_event_once_and_does_not_wait_for_its_ack),
		cmocka_unit_test(transport_descriptor_is_high_and_closed_on_exec),
		cmocka_unit_test(transport_reconnects_when_the_host_closed_its_descriptor),
		cmocka_unit_test(
			transport_leaves_a_descriptor_alone_that_the_host_put_in_its_place),
		cmocka_unit_test(transport_abandon_in_a_child_leaves_the_parents_connection),
		cmocka_unit_test(transport_raises_no_signal_when_the_collector_is_gone),
		cmocka_unit_test(transport_flush_gets_everything_acknowledged),
		cmocka_unit_test(transport_flush_without_collector_returns_at_once),
		cmocka_unit_test(transport_flush_keeps_its_deadline),
		cmocka_unit_test(transport_flush_of_nothing_is_done),
		cmocka_unit_test(transport_output_is_the_same_stream_in_a_file),
		cmocka_unit_test(transport_output_continues_after_a_torn_frame),
		cmocka_unit_test(transport_output_of_a_second_process_goes_beside),
		cmocka_unit_test(transport_output_never_touches_what_is_not_its_own),
		cmocka_unit_test(transport_output_stops_at_the_file_size_limit),
		cmocka_unit_test(transport_output_whose_descriptor_was_robbed_is_opened_again),
		cmocka_unit_test(spool_never_loses_count),
	};

	return cmocka_run_group_tests_name(__FILE__, tests, make_directory, remove_directory);
}
