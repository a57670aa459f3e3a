/* SPDX-License-Identifier: MIT
 *
 * See transport.h. Runs on the agent's thread; transport_abandon() in a fork's child, transport_flush() also at exit.
 *
 * At most one frame at a time is in `out`, copied there, so that the spool may drop anything at any time without tearing
 * the stream. A window goes only when the dictionary has nothing new: whatever it refers to was known when it was made.
 */
#include "agent/core/transport.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "agent/core/config.h"
#include "agent/core/dict.h"
#include "agent/core/fd.h"
#include "agent/core/identity.h"
#include "agent/core/outfile.h"
#include "agent/core/spool.h"

enum phase {
	DOWN,
	CONNECTING,
	GREETING,
	STREAMING
};

#define MS_NS ((uint64_t)1000000)

struct transport {
	/* constant */
	struct identity self;
	struct sockaddr_storage address;
	socklen_t address_bytes;
	char path[256]; /* of the file; empty: a collector */

	enum phase phase;
	struct fd fd;
	uint64_t retry_ns;  /* DOWN: when to try again */
	uint64_t answer_ns; /* CONNECTING, GREETING: give up then */
	uint64_t heard_ns;  /* STREAMING: last time that nothing was owed, or something came */
	unsigned backoff_ms;
	uint64_t random;

	struct encode_buffer out;
	size_t out_at; /* sent of it */
	uint8_t in[ENCODE_PREFIX_BYTES + TRANSPORT_ANSWER_MAX];
	size_t in_used;

	struct spool spool;
	struct outfile file;

	uint64_t suspect_seq;   /* the oldest window that was out when the connection broke */
	unsigned suspect_times; /* in a row */

	uint64_t connections, robbed, rejected, refused, file_errors, sent_bytes;
};

struct transport *transport_create(const struct config *c, const struct identity *self)
{
	struct transport *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->self = *self;
	t->random = self->instance | 1;
	t->fd.number = t->file.fd.number = -1;
	t->backoff_ms = TRANSPORT_BACKOFF_MS;
	memcpy(t->path, c->output, sizeof(t->path));
	spool_init(&t->spool, (size_t)c->spool_kib * 1024);
	/* The configuration has checked it. */
	if (config_address(c->collector, &t->address, &t->address_bytes))
		t->address_bytes = 0;
	return t;
}

void transport_destroy(struct transport *t)
{
	if (!t)
		return;
	fd_close(&t->fd);
	outfile_close(&t->file);
	encode_buffer_fini(&t->out);
	spool_fini(&t->spool);
	free(t);
}

void transport_abandon(struct transport *t)
{
	if (!t)
		return;
	fd_close(&t->fd);
	outfile_close(&t->file);
}

int transport_queue(struct transport *t, uint8_t *bytes, size_t length, uint64_t seq)
{
	return spool_add(&t->spool, bytes, length, seq);
}

uint64_t transport_lost(const struct transport *t)
{
	return t->spool.lost;
}

/* ---- Connecting ---- */

/* Try again later, a little earlier or later than others that lost the same collector. */
static void back_off(struct transport *t, uint64_t now_ns)
{
	uint64_t delay_ns = t->backoff_ms * MS_NS;

	t->random ^= t->random << 13;
	t->random ^= t->random >> 7;
	t->random ^= t->random << 17;
	t->retry_ns = now_ns + delay_ns * 4 / 5 + t->random % (delay_ns * 2 / 5);
	t->backoff_ms *= 2;
	if (t->backoff_ms > TRANSPORT_BACKOFF_MAX_MS)
		t->backoff_ms = TRANSPORT_BACKOFF_MAX_MS;
}

static void disconnect(struct transport *t, uint64_t now_ns)
{
	fd_close(&t->fd);
	t->phase = DOWN;
	t->in_used = 0;
	t->out_at = 0;
	encode_buffer_fini(&t->out);
	back_off(t, now_ns);
}

static void greet(struct transport *t, uint64_t now_ns)
{
	t->out.used = t->out_at = 0;
	if (encode_hello(&t->out, &t->self)) {
		disconnect(t, now_ns);
		return;
	}
	t->phase = GREETING;
	t->answer_ns = now_ns + TRANSPORT_ANSWER_MS * MS_NS;
}

static void begin_connecting(struct transport *t, uint64_t now_ns)
{
	int family = t->address.ss_family, on = 1, silent_ms = TRANSPORT_STALL_MS;
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || fd_own(&t->fd, fd)) {
		back_off(t, now_ns);
		return;
	}
	if (family != AF_UNIX) {
		setsockopt(t->fd.number, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		/* A host that vanished would otherwise be believed for a quarter of an hour. */
		setsockopt(t->fd.number, IPPROTO_TCP, TCP_USER_TIMEOUT, &silent_ms,
			   sizeof(silent_ms));
		setsockopt(t->fd.number, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	}
	if (connect(t->fd.number, (struct sockaddr *)&t->address, t->address_bytes) == 0) {
		greet(t, now_ns);
	} else if (errno == EINPROGRESS) {
		t->phase = CONNECTING;
		t->answer_ns = now_ns + TRANSPORT_ANSWER_MS * MS_NS;
	} else {
		disconnect(t, now_ns);
	}
}

static void end_connecting(struct transport *t, uint64_t now_ns)
{
	struct pollfd out = { .fd = t->fd.number, .events = POLLOUT };
	socklen_t bytes = sizeof(int);
	int error = 0;

	if (poll(&out, 1, 0) <= 0) {
		if (now_ns >= t->answer_ns)
			disconnect(t, now_ns);
		return;
	}
	if (getsockopt(t->fd.number, SOL_SOCKET, SO_ERROR, &error, &bytes) || error)
		disconnect(t, now_ns);
	else
		greet(t, now_ns);
}

/* ---- Reading ---- */

static int take_answer(struct transport *t, struct dict *d, const Sonde__Frame *frame)
{
	switch (frame->body_case) {
	case SONDE__FRAME__BODY_WELCOME:
		if (t->phase != GREETING || frame->welcome->protocol != ENCODE_PROTOCOL)
			return -EPROTO;
		spool_restart(&t->spool, frame->welcome->stored_seq);
		dict_forget_sent(d);
		t->phase = STREAMING;
		t->connections++;
		return 0;
	case SONDE__FRAME__BODY_ACK:
		if (t->phase != STREAMING || frame->ack->seq > t->spool.sent_seq)
			return -EPROTO;
		spool_stored(&t->spool, frame->ack->seq);
		t->backoff_ms = TRANSPORT_BACKOFF_MS; /* it really works: not at Welcome */
		return 0;
	case SONDE__FRAME__BODY__NOT_SET:
		return 0; /* from a newer collector */
	default:
		return -EPROTO;
	}
}

static int take_answers(struct transport *t, struct dict *d)
{
	size_t at = 0;

	while (t->in_used - at >= ENCODE_PREFIX_BYTES) {
		const uint8_t *start = t->in + at;
		uint32_t length = 0;
		Sonde__Frame *frame;
		int error;

		for (unsigned i = 0; i < ENCODE_PREFIX_BYTES; i++)
			length |= (uint32_t)start[i] << (8 * i);
		if (length > TRANSPORT_ANSWER_MAX)
			return -EPROTO;
		if (t->in_used - at < ENCODE_PREFIX_BYTES + length)
			break;
		frame = sonde__frame__unpack(NULL, length, start + ENCODE_PREFIX_BYTES);
		if (!frame)
			return -EPROTO;
		error = take_answer(t, d, frame);
		sonde__frame__free_unpacked(frame, NULL);
		if (error)
			return error;
		at += ENCODE_PREFIX_BYTES + length;
	}
	t->in_used -= at;
	memmove(t->in, t->in + at, t->in_used);
	return 0;
}

/* Returns 0 when all was read for now, or -errno: -EPROTO for a wrong answer. */
static int receive(struct transport *t, struct dict *d, uint64_t now_ns)
{
	for (int reads = 0; reads < 16; reads++) {
		ssize_t n = recv(t->fd.number, t->in + t->in_used, sizeof(t->in) - t->in_used,
				 MSG_DONTWAIT);
		int error;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		if (n == 0)
			return -ECONNRESET;
		t->in_used += (size_t)n;
		t->heard_ns = now_ns;
		error = take_answers(t, d);
		if (error)
			return error;
	}
	return 0;
}

/* ---- Writing ---- */

/* Put the next frame into the empty `out`. Returns false when there is none, or no memory for it. */
static bool refill(struct transport *t, struct dict *d)
{
	const struct spool_frame *frame = t->spool.unsent;
	int more;

	t->out.used = t->out_at = 0;
	if (t->out.room > DICT_FRAME_MAX)
		encode_buffer_fini(&t->out);
	if (!frame || t->phase != STREAMING)
		return false;
	more = dict_encode_new(d, &t->out);
	if (more)
		return more > 0;
	if (encode_reserve(&t->out, frame->length))
		return false;
	memcpy(t->out.bytes, frame->bytes, frame->length);
	t->out.used = frame->length;
	spool_sent(&t->spool);
	return true;
}

static int write_some(struct transport *t, struct dict *d)
{
	size_t budget = TRANSPORT_STEP_BYTES;

	while (budget > 0 && (t->out_at < t->out.used || refill(t, d))) {
		size_t left = t->out.used - t->out_at;
		ssize_t n = send(t->fd.number, t->out.bytes + t->out_at,
				 left < budget ? left : budget, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		t->out_at += (size_t)n;
		t->sent_bytes += (size_t)n;
		budget -= (size_t)n;
	}
	return 0;
}

/* Something is out that has to be answered. */
static bool owed(const struct transport *t)
{
	return t->out_at < t->out.used || t->spool.head != t->spool.unsent;
}

/*
 * A window that makes the collector hang up each time would hold up all that follow, for good: give it up after some
 * tries. A collector that restarts never hangs up so often on the same one.
 */
static void suspect_oldest(struct transport *t)
{
	const struct spool_frame *oldest = t->spool.head;

	if (t->phase != STREAMING || oldest == t->spool.unsent || !oldest->seq)
		return;
	t->suspect_times = oldest->seq == t->suspect_seq ? t->suspect_times + 1 : 1;
	t->suspect_seq = oldest->seq;
	if (t->suspect_times < TRANSPORT_TRIES)
		return;
	t->suspect_times = 0;
	t->refused++;
	spool_drop(&t->spool);
}

static void step_socket(struct transport *t, struct dict *d, uint64_t now_ns)
{
	int error;

	if (t->phase != DOWN && !fd_ours(&t->fd)) {
		t->robbed++;
		disconnect(t, now_ns);
		return;
	}
	if (t->phase == DOWN && now_ns >= t->retry_ns && t->address_bytes > 0)
		begin_connecting(t, now_ns);
	if (t->phase == CONNECTING)
		end_connecting(t, now_ns);
	if (t->phase < GREETING)
		return;
	error = receive(t, d, now_ns);
	if (!error)
		error = write_some(t, d);
	if (error == -EPROTO)
		t->rejected++;
	else if (error)
		suspect_oldest(t);
	if (!owed(t))
		t->heard_ns = now_ns;
	if (error || (t->phase == GREETING && now_ns >= t->answer_ns) ||
	    (t->phase == STREAMING && now_ns >= t->heard_ns + TRANSPORT_STALL_MS * MS_NS))
		disconnect(t, now_ns);
}

/* ---- The file ---- */

static int file_append(struct transport *t, const uint8_t *bytes, size_t length)
{
	int error = outfile_append(&t->file, bytes, length);

	t->sent_bytes += error ? 0 : length;
	return error;
}

static int file_begin(struct transport *t, struct dict *d)
{
	int error = outfile_open(&t->file, t->path, TRANSPORT_FILE_MAX);

	if (error)
		return error;
	dict_forget_sent(d);
	t->out.used = 0;
	error = encode_hello(&t->out, &t->self);
	if (!error)
		error = file_append(t, t->out.bytes, t->out.used);
	if (error) {
		outfile_close(&t->file);
		return error;
	}
	t->phase = STREAMING;
	t->connections++;
	return 0;
}

/* Everything new in the dictionary, then the next frame of the spool. */
static int file_write_next(struct transport *t, struct dict *d)
{
	const struct spool_frame *frame = t->spool.unsent;
	uint64_t seq = frame->seq;
	int more, error;

	t->out.used = 0;
	while ((more = dict_encode_new(d, &t->out)) > 0) {
		error = file_append(t, t->out.bytes, t->out.used);
		t->out.used = 0;
		if (error) {
			dict_forget_sent(
				d); /* rare: write all of it again rather than keep count */
			return error;
		}
	}
	error = more ? more : file_append(t, frame->bytes, frame->length);
	if (error)
		return error;
	spool_sent(&t->spool);
	if (seq)
		spool_stored(&t->spool, seq);
	return 0;
}

static void step_file(struct transport *t, struct dict *d, uint64_t now_ns)
{
	uint64_t start = t->file.bytes;
	int error = 0;

	if (now_ns < t->retry_ns)
		return;
	if (t->phase == DOWN)
		error = file_begin(t, d);
	while (!error && t->spool.unsent && t->file.bytes - start < TRANSPORT_STEP_BYTES)
		error = file_write_next(t, d);
	if (!error) {
		t->backoff_ms = TRANSPORT_BACKOFF_MS;
		return;
	}
	if (error == -EBADF)
		t->robbed++;
	else
		t->file_errors++;
	if (error == -EFBIG)
		spool_drop_all(&t->spool); /* it will not get smaller */
	if (t->file.fd.number < 0 || error == -EBADF) {
		t->file.fd.number = -1;
		t->phase = DOWN;
	}
	back_off(t, now_ns);
}

/* ---- For the agent's loop ---- */

void transport_step(struct transport *t, struct dict *d, uint64_t now_ns)
{
	if (t->path[0])
		step_file(t, d, now_ns);
	else
		step_socket(t, d, now_ns);
}

void transport_poll(const struct transport *t, struct pollfd *out, uint64_t *deadline_ns)
{
	*out = (struct pollfd){ .fd = -1 };
	*deadline_ns = UINT64_MAX;
	if (t->path[0]) {
		if (t->phase == DOWN || t->spool.unsent)
			*deadline_ns = t->retry_ns;
		return;
	}
	if (t->phase == DOWN) {
		if (t->address_bytes > 0)
			*deadline_ns = t->retry_ns;
		return;
	}
	out->fd = t->fd.number;
	out->events = t->phase == CONNECTING ? POLLOUT : POLLIN;
	if (t->phase != STREAMING) {
		*deadline_ns = t->answer_ns;
		if (t->out_at < t->out.used)
			out->events |= POLLOUT;
		return;
	}
	if (t->out_at < t->out.used || t->spool.unsent)
		out->events |= POLLOUT;
	if (owed(t))
		*deadline_ns = t->heard_ns + TRANSPORT_STALL_MS * MS_NS;
}

static uint64_t monotonic_ns(void)
{
	struct timespec ts = { 0 };

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static bool flush_file(struct transport *t, struct dict *d, uint64_t deadline_ns)
{
	t->retry_ns = 0;
	while (t->spool.unsent && t->retry_ns == 0 && monotonic_ns() < deadline_ns)
		transport_step(t, d, monotonic_ns());
	return !t->spool.head;
}

bool transport_flush(struct transport *t, struct dict *d, uint64_t deadline_ns)
{
	bool tried = false;

	if (t->path[0])
		return flush_file(t, d, deadline_ns);
	for (;;) {
		uint64_t now_ns = monotonic_ns(), wake_ns;
		struct pollfd wait;

		if (t->phase == DOWN) {
			/* Now or never: one try, without waiting for the back-off. */
			t->retry_ns = 0;
			if (tried)
				return !t->spool.head;
			tried = true;
		}
		transport_step(t, d, now_ns);
		if (!t->spool.head && t->out_at >= t->out.used)
			return true;
		if (now_ns >= deadline_ns)
			return false;
		if (t->phase == DOWN)
			continue;
		transport_poll(t, &wait, &wake_ns);
		if (wake_ns > deadline_ns)
			wake_ns = deadline_ns;
		if (wake_ns > now_ns)
			poll(&wait, 1, (int)((wake_ns - now_ns) / MS_NS) + 1);
	}
}

struct transport_state transport_state(const struct transport *t)
{
	return (struct transport_state){
		.connected = t->phase == STREAMING,
		.connections = t->connections,
		.robbed = t->robbed,
		.rejected = t->rejected,
		.sent_bytes = t->sent_bytes,
		.spool_bytes = t->spool.bytes,
		.spool_frames = t->spool.frames,
	};
}

unsigned transport_drops(const struct transport *t, struct self_drop out[TRANSPORT_DROPS])
{
	out[0] = (struct self_drop){ "events and slow requests not sent", t->spool.lost_other };
	out[1] = (struct self_drop){ "wrong answers of the collector", t->rejected };
	out[2] = (struct self_drop){ "windows the collector hung up on", t->refused };
	out[3] = (struct self_drop){ "errors of the output file", t->file_errors };
	return TRANSPORT_DROPS;
}

size_t transport_bytes(const struct transport *t)
{
	return sizeof(*t) + t->out.room + t->spool.bytes;
}
