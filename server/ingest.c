/* SPDX-License-Identifier: MIT
 *
 * Agent connections; see ingest.h. A connection's input buffer:
 *
 *	in[0 .. start)      stored and acknowledged
 *	in[start .. parsed) given to the session in the transaction under way; given again when that fails
 *	in[parsed .. len)   not looked at: the beginning of a message, or a whole one
 *
 * Threads: everything below belongs to the ingest thread once it runs; `stop_fd` is written by ingest_destroy().
 */
#include "server/ingest.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "server/counters.h"
#include "server/log.h"
#include "server/session.h"

enum {
	READ_ROUND_BYTES =
		256 << 10, /* per connection and round: one busy agent does not starve the others */
	READ_ROOM_BYTES = 64 << 10,
	KEEP_BUFFER_BYTES = 1 << 20, /* larger ones are given back when empty */
	OUT_MAX_BYTES = 64 << 10,    /* answers an agent does not read */
	EVENTS = 256,
	HELLO_SECONDS = 10,   /* to say Hello */
	MESSAGE_SECONDS = 30, /* for a message that has begun */
	TICK_MS = 1000,
	BACKLOG = 256,
};

struct conn {
	int fd;
	struct session *session;
	uint8_t *in;
	size_t start, parsed, len, cap;
	struct buffer staged; /* answers that wait for the commit */
	struct buffer out;    /* answers on their way */
	uint64_t opened_s, progress_s;
	bool dirty; /* on the round's list */
	bool announced;
	bool finished; /* the agent will send no more */
	bool dead;     /* to be closed at the end of the round */
	char peer[128];
	struct conn *next, *prev, *next_dirty;
};

struct ingest {
	/* constant after start */
	struct store *store;
	int epoll_fd, stop_fd;
	struct listener {
		int fd;
		struct address address;
		bool paused;
	} listeners[INGEST_LISTENERS_MAX];
	size_t listener_count;
	pthread_t thread;
	bool running;

	/* ingest thread */
	struct conn *conns, *dirty;
	size_t conn_count, memory;
	uint64_t now_s, swept_s;
	bool stalled; /* the store could not take the last round */
};

static uint64_t monotonic_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec;
}

/* ---- Listening ---- */

struct ingest *ingest_create(struct store *store)
{
	struct ingest *in = calloc(1, sizeof(*in));

	if (!in)
		return NULL;
	in->store = store;
	in->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	in->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (in->epoll_fd < 0 || in->stop_fd < 0) {
		ingest_destroy(in);
		return NULL;
	}
	return in;
}

/* Whether the socket file at @address was left behind by someone who is gone; then it is removed. */
static int clear_stale(const struct address *address)
{
	struct stat st;
	int fd, err = 0;

	if (lstat(address->sock.un.sun_path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, &address->sock.any, address->len) == 0 || errno == EAGAIN)
		err = -EADDRINUSE;
	else if (errno != ECONNREFUSED)
		err = -errno;
	else if (unlink(address->sock.un.sun_path) < 0)
		err = -errno;
	close(fd);
	return err;
}

/* Port 0 of @address becomes the one we got. */
static int open_listener(struct address *address)
{
	int family = address->sock.any.sa_family, one = 1, err = 0;
	mode_t mask;
	int fd;

	if (family == AF_UNIX) {
		err = clear_stale(address);
		if (err)
			return err;
	}
	fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (family != AF_UNIX)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	mask = umask(0177);
	if (bind(fd, &address->sock.any, address->len) < 0 || listen(fd, BACKLOG) < 0 ||
	    (family != AF_UNIX && getsockname(fd, &address->sock.any, &address->len) < 0))
		err = -errno;
	umask(mask);
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

int ingest_listen(struct ingest *in, struct address *address, char *error, size_t error_bytes)
{
	struct listener *listener = &in->listeners[in->listener_count];
	struct epoll_event event = { .events = EPOLLIN };
	char text[160];
	int fd;

	address_format(address, false, text, sizeof(text));
	if (in->listener_count == INGEST_LISTENERS_MAX) {
		snprintf(error, error_bytes, "more than %d --listen addresses",
			 INGEST_LISTENERS_MAX);
		return -E2BIG;
	}
	if (!address_is_local(address)) {
		snprintf(error, error_bytes,
			 "refuses to listen at %s: other machines could reach it and this version "
			 "has no "
			 "token to keep them out; use 127.0.0.1 and an SSH tunnel",
			 text);
		return -EPERM;
	}
	fd = open_listener(address);
	if (fd < 0) {
		snprintf(error, error_bytes, "cannot listen at %s: %s; %s", text, strerror(-fd),
			 fd == -EADDRINUSE
				 ? "stop whoever does (another `sonde serve`?) or choose another "
				   "with --listen"
				 : "choose another with --listen");
		return fd;
	}
	*listener = (struct listener){ .fd = fd, .address = *address };
	event.data.ptr = listener;
	if (epoll_ctl(in->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		snprintf(error, error_bytes, "cannot watch %s: %s", text, strerror(errno));
		close(fd);
		return -EIO;
	}
	in->listener_count++;
	return 0;
}

static void listener_pause(struct ingest *in, struct listener *listener, bool pause)
{
	struct epoll_event event = { .events = pause ? 0 : EPOLLIN, .data.ptr = listener };

	if (listener->paused != pause)
		epoll_ctl(in->epoll_fd, EPOLL_CTL_MOD, listener->fd, &event);
	listener->paused = pause;
}

/* ---- Connections ---- */

static void name_peer(struct conn *conn, struct address *from)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (from->sock.any.sa_family != AF_UNIX)
		address_format(from, false, conn->peer, sizeof(conn->peer));
	else if (getsockopt(conn->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0)
		snprintf(conn->peer, sizeof(conn->peer), "pid %d", (int)cred.pid);
	else
		snprintf(conn->peer, sizeof(conn->peer), "a Unix socket");
}

static void conn_destroy(struct ingest *in, struct conn *conn)
{
	if (conn->prev)
		conn->prev->next = conn->next;
	else
		in->conns = conn->next;
	if (conn->next)
		conn->next->prev = conn->prev;
	in->conn_count--;
	in->memory -= conn->cap;
	count_sub(connections, 1);
	close(conn->fd);
	session_destroy(conn->session);
	buffer_fini(&conn->staged);
	buffer_fini(&conn->out);
	free(conn->in);
	free(conn);
}

static struct conn *conn_create(struct ingest *in, int fd, struct address *from)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct conn *conn = calloc(1, sizeof(*conn));
	int one = 1;

	if (!conn)
		return NULL;
	conn->fd = fd;
	conn->session = session_create(in->store);
	event.data.ptr = conn;
	if (!conn->session || epoll_ctl(in->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		session_destroy(conn->session);
		free(conn);
		return NULL;
	}
	if (from->sock.any.sa_family != AF_UNIX) {
		setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	}
	name_peer(conn, from);
	conn->opened_s = conn->progress_s = in->now_s;
	conn->next = in->conns;
	if (conn->next)
		conn->next->prev = conn;
	in->conns = conn;
	in->conn_count++;
	count_add(connections, 1);
	count_add(connections_total, 1);
	return conn;
}

static void accept_all(struct ingest *in, struct listener *listener)
{
	for (;;) {
		struct address from = { 0 };
		int fd;

		from.len = sizeof(from.sock);
		fd = accept4(listener->fd, &from.sock.any, &from.len, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0) {
			if (errno != EAGAIN) {
				log_limited("cannot accept an agent: %s", strerror(errno));
				listener_pause(in, listener, true); /* until the next sweep */
			}
			return;
		}
		if (in->conn_count >= INGEST_CONNECTIONS_MAX) {
			count_add(connections_refused_total, 1);
			log_limited("refused an agent: %d are connected already",
				    INGEST_CONNECTIONS_MAX);
			close(fd);
		} else if (!conn_create(in, fd, &from)) {
			log_limited("refused an agent: out of memory");
			close(fd);
		}
	}
}

static void conn_fail(struct conn *conn, const char *why)
{
	const char *service = session_service(conn->session);

	if (conn->dead)
		return;
	conn->dead = true;
	count_add(protocol_errors_total, 1);
	log_limited("closed the connection of %s%s%.64s: it sent %s", conn->peer,
		    *service ? ", service " : "", service, why);
}

static void mark_dirty(struct ingest *in, struct conn *conn)
{
	if (conn->dirty)
		return;
	conn->dirty = true;
	conn->next_dirty = in->dirty;
	in->dirty = conn;
}

static bool conn_grow(struct ingest *in, struct conn *conn)
{
	size_t cap = conn->cap ? conn->cap * 2 : 2 * READ_ROOM_BYTES;
	uint8_t *bytes;

	if (in->memory + (cap - conn->cap) > INGEST_MEMORY_MAX) {
		count_add(memory_refused_total, 1);
		log_limited(
			"closed the connection of %s: agents have sent more than %d MiB that wait "
			"to be stored",
			conn->peer, INGEST_MEMORY_MAX >> 20);
		return false;
	}
	bytes = realloc(conn->in, cap);
	if (!bytes)
		return false;
	in->memory += cap - conn->cap;
	conn->in = bytes;
	conn->cap = cap;
	return true;
}

static void conn_read(struct ingest *in, struct conn *conn)
{
	size_t budget = READ_ROUND_BYTES;

	while (budget > 0 && !conn->finished && !conn->dead) {
		size_t room;
		ssize_t n;

		if (conn->cap - conn->len < READ_ROOM_BYTES && !conn_grow(in, conn)) {
			conn->dead = true;
			break;
		}
		room = conn->cap - conn->len;
		n = read(conn->fd, conn->in + conn->len, room < budget ? room : budget);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0) {
			conn->finished = true;
			break;
		}
		conn->len += (size_t)n;
		budget -= (size_t)n;
		count_add(received_bytes_total, (uint64_t)n);
	}
	mark_dirty(in, conn);
}

static void conn_watch(struct ingest *in, struct conn *conn)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = conn };

	if (conn->out.len)
		event.events |= EPOLLOUT;
	epoll_ctl(in->epoll_fd, EPOLL_CTL_MOD, conn->fd, &event);
}

static void conn_flush(struct ingest *in, struct conn *conn)
{
	size_t before = conn->out.len, sent = 0;

	while (sent < conn->out.len) {
		ssize_t n =
			send(conn->fd, conn->out.bytes + sent, conn->out.len - sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			if (errno != EAGAIN)
				conn->dead = true;
			break;
		}
		sent += (size_t)n;
	}
	if (sent) {
		memmove(conn->out.bytes, conn->out.bytes + sent, conn->out.len - sent);
		conn->out.len -= sent;
	}
	if (conn->out.len > OUT_MAX_BYTES) {
		conn_fail(conn, "much and reads no answer");
	} else if ((before != 0) != (conn->out.len != 0) || conn->out.len) {
		conn_watch(in, conn);
	}
}

/* ---- A round: what was read becomes one transaction ---- */

/* A new connection of an instance replaces the old one: that one is dead, only its end has not been seen yet. */
static void take_over(struct ingest *in, const struct conn *conn)
{
	uint64_t id = session_instance(conn->session);

	for (struct conn *other = in->conns; other; other = other->next) {
		if (other != conn && session_instance(other->session) == id) {
			other->dead = true;
			mark_dirty(in, other);
		}
	}
}

/* Give the session every whole message that is there. Returns 0, or -EIO when the store cannot take them. */
static int conn_process(struct ingest *in, struct conn *conn, bool *began)
{
	while (!conn->dead && conn->len - conn->parsed >= 4) {
		const uint8_t *head = conn->in + conn->parsed;
		uint32_t len = (uint32_t)head[0] | (uint32_t)head[1] << 8 |
			       (uint32_t)head[2] << 16 | (uint32_t)head[3] << 24;
		bool greeted = session_instance(conn->session) != 0;
		const char *why;
		int err;

		if (len > SESSION_FRAME_MAX) {
			conn_fail(conn, "a message that is too long");
			return 0;
		}
		if (conn->len - conn->parsed - 4 < len)
			return 0;
		if (!*began) {
			err = store_begin(in->store);
			if (err)
				return -EIO;
			*began = true;
		}
		err = session_frame(conn->session, head + 4, len, &conn->staged, &why);
		if (err == -EIO)
			return err;
		conn->parsed += 4 + (size_t)len;
		conn->progress_s = in->now_s;
		if (err)
			conn_fail(conn, why ? why : strerror(-err));
		else if (!greeted && session_instance(conn->session))
			take_over(in, conn);
	}
	return 0;
}

static void conn_committed(struct ingest *in, struct conn *conn)
{
	session_committed(conn->session);
	conn->start = conn->parsed;
	if (conn->start == conn->len && conn->cap > KEEP_BUFFER_BYTES) {
		in->memory -= conn->cap;
		free(conn->in);
		conn->in = NULL;
		conn->cap = 0;
	}
	if (conn->start) {
		if (conn->len > conn->start)
			memmove(conn->in, conn->in + conn->start, conn->len - conn->start);
		conn->len -= conn->start;
		conn->start = conn->parsed = 0;
	}
	if (!conn->announced && session_instance(conn->session)) {
		conn->announced = true;
		store_set_connected(in->store, session_instance(conn->session), true);
	}
	buffer_add(&conn->out, conn->staged.bytes, conn->staged.len);
	conn->staged.len = 0;
	if (conn->out.failed || conn->staged.failed)
		conn->dead = true;
	conn_flush(in, conn);
}

static void conn_rolled_back(struct conn *conn)
{
	session_rolled_back(conn->session);
	conn->parsed = conn->start;
	conn->staged.len = 0;
}

static void conn_close(struct ingest *in, struct conn *conn)
{
	uint64_t id = session_instance(conn->session);
	bool again = false;

	for (struct conn *other = in->conns; other && !again; other = other->next)
		again = other != conn && !other->dead && session_instance(other->session) == id;
	if (conn->announced && !again)
		store_set_connected(in->store, id, false);
	conn_destroy(in, conn);
}

static void round_end(struct ingest *in)
{
	struct conn *next;

	/* Flushing may kill but never adds to the list. */
	for (struct conn *conn = in->dirty; conn; conn = conn->next_dirty)
		conn_committed(in, conn);
	for (struct conn *conn = in->dirty; conn; conn = next) {
		next = conn->next_dirty;
		conn->dirty = false;
		if (conn->dead || conn->finished)
			conn_close(in, conn);
	}
	in->dirty = NULL;
}

static void stall_over(struct ingest *in)
{
	log_line("the store takes windows again");
	in->stalled = false;
	for (struct conn *conn = in->conns; conn; conn = conn->next)
		conn->progress_s = in->now_s; /* it was us who did not read */
}

static void round_store(struct ingest *in)
{
	bool began = false;
	int err = 0;

	/* take_over() puts in front what is not to be processed any more. */
	for (struct conn *conn = in->dirty; conn && !err; conn = conn->next_dirty)
		err = conn_process(in, conn, &began);
	if (!err && began)
		err = store_commit(in->store);
	if (!err) {
		if (in->stalled)
			stall_over(in);
		round_end(in);
		return;
	}
	if (began)
		store_rollback(in->store);
	count_add(store_failures_total, 1);
	for (struct conn *conn = in->dirty; conn; conn = conn->next_dirty)
		conn_rolled_back(conn);
	in->stalled = true;
}

/* Once a second: who is too slow, and what is too old. */
static void sweep(struct ingest *in)
{
	struct conn *next;

	if (in->now_s == in->swept_s)
		return;
	in->swept_s = in->now_s;
	for (size_t i = 0; i < in->listener_count; i++)
		listener_pause(in, &in->listeners[i], false);
	for (struct conn *conn = in->conns; conn; conn = next) {
		next = conn->next;
		if (!session_instance(conn->session) && in->now_s - conn->opened_s > HELLO_SECONDS)
			conn_fail(conn, "no Hello in time");
		else if (conn->len && in->now_s - conn->progress_s > MESSAGE_SECONDS)
			conn_fail(conn, "half a message and then nothing");
		else if (!conn->len)
			conn->progress_s = in->now_s;
		if (conn->dead)
			conn_close(in, conn);
	}
	store_retain(in->store);
}

static bool is_listener(const struct ingest *in, const void *pointer)
{
	const struct listener *listener = pointer;

	return listener >= in->listeners && listener < in->listeners + in->listener_count;
}

static void *ingest_main(void *argument)
{
	struct ingest *in = argument;
	struct epoll_event events[EVENTS];

	pthread_setname_np(pthread_self(), "ingest");
	for (;;) {
		int n = epoll_wait(in->epoll_fd, events, EVENTS, TICK_MS);

		in->now_s = monotonic_s();
		for (int i = 0; i < n; i++) {
			void *who = events[i].data.ptr;

			if (!who)
				return NULL; /* the stop_fd */
			if (is_listener(in, who))
				accept_all(in, who);
			else if (events[i].events & ~(uint32_t)EPOLLOUT)
				conn_read(in, who);
			else
				mark_dirty(in, who); /* room to send: round_end() flushes */
		}
		round_store(in);
		while (in->stalled) {
			struct pollfd stop = { .fd = in->stop_fd, .events = POLLIN };

			/* Reading on would only move the windows from the agents' bounded spools here. */
			if (poll(&stop, 1, TICK_MS) > 0)
				return NULL;
			in->now_s = monotonic_s();
			round_store(in);
		}
		sweep(in);
	}
}

int ingest_start(struct ingest *in)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = NULL };
	int err;

	in->now_s = in->swept_s = monotonic_s();
	if (epoll_ctl(in->epoll_fd, EPOLL_CTL_ADD, in->stop_fd, &event) < 0)
		return -errno;
	err = pthread_create(&in->thread, NULL, ingest_main, in);
	in->running = err == 0;
	return -err;
}

void ingest_destroy(struct ingest *in)
{
	uint64_t one = 1;

	if (!in)
		return;
	if (in->running && write(in->stop_fd, &one, sizeof(one)) == sizeof(one))
		pthread_join(in->thread, NULL);
	while (in->conns)
		conn_destroy(in, in->conns);
	for (size_t i = 0; i < in->listener_count; i++) {
		const struct address *address = &in->listeners[i].address;

		close(in->listeners[i].fd);
		if (address->sock.any.sa_family == AF_UNIX)
			unlink(address->sock.un.sun_path);
	}
	if (in->stop_fd >= 0)
		close(in->stop_fd);
	if (in->epoll_fd >= 0)
		close(in->epoll_fd);
	free(in);
}
