/* SPDX-License-Identifier: MIT
 *
 * See conn.h. The table holds one word per descriptor: kind << 32 | index of the connection record.
 */
#include "agent/hook/conn.h"

#include <errno.h>
#include <linux/net_tstamp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/hook/children.h"
#include "agent/hook/owned.h"
#include "agent/hook/real.h"
#include "agent/hook/thread.h"
#include "agent/sig/arch.h"

enum fd_kind {
	FD_UNKNOWN,
	FD_PLAIN,
	FD_STREAM,
	FD_LISTENING,
	FD_LISTENING_STAMPED
};
enum {
	LOCK_SPINS = 200
};

/*
 * SYS_HARDWARE is "deprecated and ignored" by the kernel: here it says that the stamps are ours, to a fork's child, a
 * program after exec, or whoever else gets the socket.
 */
enum {
	STAMP_FLAGS = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE |
		      SOF_TIMESTAMPING_SYS_HARDWARE
};

static _Atomic uint64_t *table; /* constant after start */
static _Atomic int highest;     /* descriptor ever entered */

static void end_all(struct thread *t, struct conn *c, uint64_t now_ns, bool cancel_newest);
static bool unread(const struct conn *c);

int conn_start(void)
{
	void *memory;

	if (table)
		return 0;
	memory = mmap(NULL, FD_TABLE * sizeof *table, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return -ENOMEM;
	madvise(memory, FD_TABLE * sizeof *table, MADV_WIPEONFORK);
	table = memory;
	return 0;
}

static bool lock_try(struct conn *c)
{
	return owned_try(&c->lock);
}

static void leave_http(struct thread *t, struct conn *c, uint64_t now_ns)
{
	end_all(t, c, now_ns, unread(c));
	c->role = CONN_OTHER;
}

/* Who does not get the lock has bytes that nobody parses: the connection has lost its place. */
static bool lock(struct thread *t, struct conn *c)
{
	for (unsigned i = 0; i < LOCK_SPINS; i++) {
		if (lock_try(c)) {
			if (unlikely(atomic_exchange_explicit(&c->lost, 0, memory_order_relaxed)))
				leave_http(t, c, clock_ns());
			return true;
		}
		ARCH_PAUSE();
	}
	atomic_store_explicit(&c->lost, 1, memory_order_relaxed);
	drop(DROP_RACED);
	return false;
}

/* The record of a connection whose last descriptor is gone; requests without an answer end. Under lock. */
static void bury(struct thread *t, struct conn *c)
{
	if (c->count && t)
		end_all(t, c, clock_ns(), unread(c));
	atomic_store_explicit(&c->dead, 0, memory_order_relaxed);
	owned_unlock(&c->lock, memory_order_release);
	pool_give(&shared->connections, pool_index(&shared->connections, c));
}

/* Either the one who unlocks or the one who marks it dead sees the other's store, and buries it. */
static void unlock(struct thread *t, struct conn *c)
{
	owned_unlock(&c->lock, memory_order_seq_cst);
	if (unlikely(atomic_load_explicit(&c->dead, memory_order_seq_cst)) && lock_try(c)) {
		if (atomic_load_explicit(&c->dead, memory_order_relaxed))
			bury(t, c);
		else
			owned_unlock(&c->lock, memory_order_release);
	}
}

static bool in_table(int fd)
{
	return fd >= 0 && fd < FD_TABLE;
}

static uint64_t entry_of(enum fd_kind kind, uint32_t index)
{
	return (uint64_t)kind << 32 | index;
}

static enum fd_kind kind_of(int fd)
{
	return in_table(fd) ? (enum fd_kind)(
				      atomic_load_explicit(&table[fd], memory_order_acquire) >> 32)
			    : FD_PLAIN;
}

static void release(uint32_t index)
{
	struct conn *c = pool_at(&shared->connections, index);

	if (atomic_fetch_sub_explicit(&c->references, 1, memory_order_acq_rel) != 1)
		return;
	atomic_store_explicit(&c->dead, 1, memory_order_seq_cst);
	if (lock_try(c)) {
		if (atomic_load_explicit(&c->dead, memory_order_relaxed))
			bury(tls.self, c);
		else
			owned_unlock(&c->lock, memory_order_release);
	}
}

/* Set what @fd is and let go of what it was. */
static void entry_set(int fd, uint64_t entry)
{
	uint64_t old;

	if (!in_table(fd))
		return;
	if (fd > atomic_load_explicit(&highest, memory_order_relaxed))
		atomic_store_explicit(&highest, fd, memory_order_relaxed);
	old = atomic_exchange_explicit(&table[fd], entry, memory_order_acq_rel);
	if (old >> 32 == FD_STREAM)
		release((uint32_t)old);
}

static struct conn *conn_new(int fd, enum conn_role role)
{
	uint32_t index;
	struct conn *c;

	if (!in_table(fd)) {
		drop(DROP_DESCRIPTORS);
		return NULL;
	}
	index = pool_take(&shared->connections);
	if (index == POOL_NONE) {
		drop(DROP_CONNECTIONS);
		entry_set(fd, entry_of(FD_PLAIN, 0));
		return NULL;
	}
	c = pool_at(&shared->connections, index);
	c->role = (uint8_t)(thread_setup.http || role == CONN_CLIENT ? role : CONN_OTHER);
	c->stamps = c->reading = c->headed = c->deaf = c->connecting = false;
	c->short_write = c->saw_response = false;
	c->first = c->count = 0;
	http_request_init(&c->in);
	http_response_init(&c->out);
	atomic_store_explicit(&c->owner, 0, memory_order_relaxed);
	atomic_store_explicit(&c->lost, 0, memory_order_relaxed);
	atomic_store_explicit(&c->references, 1, memory_order_release);
	entry_set(fd, entry_of(FD_STREAM, index));
	return c;
}

static int stamp_flags(int fd)
{
	int flags = 0;
	socklen_t len = sizeof flags;

	return real.getsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &flags, &len) ? -1 : flags;
}

/* A descriptor we did not see being made: ask once. */
static struct conn *classify(int fd)
{
	int saved = errno, value = 0;
	socklen_t len = sizeof value;
	struct conn *c = NULL;

	if (real.getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &len)) {
		if (errno != EBADF)
			entry_set(fd, entry_of(FD_PLAIN, 0));
	} else if (value != SOCK_STREAM) {
		entry_set(fd, entry_of(FD_PLAIN, 0));
	} else {
		len = sizeof value;
		if (real.getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &len) == 0 && value)
			conn_set_listening(fd, stamp_flags(fd) == STAMP_FLAGS);
		else if ((c = conn_new(fd, CONN_UNKNOWN)) != NULL)
			c->stamps = stamp_flags(fd) == STAMP_FLAGS;
	}
	errno = saved;
	return c;
}

struct conn *conn_get(int fd)
{
	uint64_t entry;

	if (!in_table(fd))
		return NULL;
	entry = atomic_load_explicit(&table[fd], memory_order_acquire);
	if (likely(entry >> 32 == FD_STREAM))
		return pool_at(&shared->connections, (uint32_t)entry);
	return entry >> 32 == FD_UNKNOWN ? classify(fd) : NULL;
}

bool conn_still(int fd, const struct conn *c)
{
	return in_table(fd) && atomic_load_explicit(&table[fd], memory_order_acquire) ==
				       entry_of(FD_STREAM, pool_index(&shared->connections, c));
}

void conn_forget(int fd)
{
	entry_set(fd, entry_of(FD_UNKNOWN, 0));
}

void conn_forget_range(struct thread *t, unsigned first, unsigned last)
{
	unsigned end = (unsigned)atomic_load_explicit(&highest, memory_order_relaxed);

	for (unsigned fd = first; fd <= last && fd <= end; fd++)
		conn_closing(t, (int)fd, false);
}

static void unstamp(int fd)
{
	int saved = errno, off = 0;

	real.setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &off, sizeof off);
	errno = saved;
}

void conn_accepted(int fd, bool stamped)
{
	struct conn *c;

	if (agent_off()) /* while this thread waited for the connection */
		return;
	c = conn_new(fd, CONN_UNKNOWN);
	children_serve();
	if (c)
		c->stamps = stamped || conn_stamp(fd);
	else if (stamped || stamp_flags(fd) == STAMP_FLAGS)
		unstamp(fd); /* nobody would take the stamps out again */
}

void conn_connecting(int fd, request_id owner)
{
	struct conn *c;

	if (kind_of(fd) == FD_STREAM) {
		c = conn_get(fd);
	} else {
		int saved = errno, type = 0;
		socklen_t len = sizeof type;

		if (real.getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) || type != SOCK_STREAM) {
			errno = saved;
			return;
		}
		c = conn_new(fd, CONN_CLIENT);
	}
	if (!c)
		return;
	c->role = CONN_CLIENT;
	c->connecting = false;
	if (owner)
		atomic_store_explicit(&c->owner, owner, memory_order_relaxed);
}

static struct conn *conn_known(int fd)
{
	return kind_of(fd) == FD_STREAM ? conn_get(fd) : NULL;
}

void conn_in_progress(int fd)
{
	struct conn *c = conn_known(fd);

	if (c)
		c->connecting = true;
}

void conn_asked(struct thread *t, int fd)
{
	struct conn *c = conn_known(fd);
	request_id owner = c && c->role == CONN_CLIENT && c->connecting
				   ? atomic_load_explicit(&c->owner, memory_order_relaxed)
				   : 0;

	if (owner && owner != t->slice.owner && request_get(owner))
		request_resume(t, owner, clock_ns(), RESUME_IO);
}

void conn_opaque(struct thread *t, int fd)
{
	struct conn *c = conn_known(fd);

	if (!c || !lock(t, c))
		return;
	if (c->stamps)
		unstamp(fd);
	c->stamps = false;
	if (c->role != CONN_CLIENT)
		leave_http(t, c, clock_ns());
	unlock(t, c);
}

void conn_duplicated(int fd, int copy)
{
	uint64_t entry = in_table(fd) ? atomic_load_explicit(&table[fd], memory_order_acquire) : 0;

	if (entry >> 32 == FD_STREAM) {
		struct conn *c = pool_at(&shared->connections, (uint32_t)entry);

		atomic_fetch_add_explicit(&c->references, 1, memory_order_relaxed);
	}
	entry_set(copy, entry);
}

bool conn_own_stamps(int flags)
{
	return flags == STAMP_FLAGS;
}

bool conn_stamp(int fd)
{
	int saved = errno, domain = 0, flags = STAMP_FLAGS;
	socklen_t len = sizeof domain;
	bool done = false;

	if (!thread_setup.timestamps || !thread_setup.http)
		return false;
	if (real.getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 &&
	    (domain == AF_INET || domain == AF_INET6)) {
		int before = stamp_flags(fd);

		done = before == STAMP_FLAGS || /* since before a fork or exec */
		       (before == 0 && real.setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &flags,
						       sizeof flags) == 0);
	}
	errno = saved;
	return done;
}

void conn_unstamp_all(void)
{
	int last = atomic_load_explicit(&highest, memory_order_relaxed), saved = errno;

	for (int fd = 0; thread_setup.timestamps && fd <= last; fd++)
		if (stamp_flags(fd) == STAMP_FLAGS)
			unstamp(fd);
	errno = saved;
}

bool conn_listening(int fd)
{
	return kind_of(fd) == FD_LISTENING_STAMPED;
}

void conn_set_listening(int fd, bool stamped)
{
	entry_set(fd, entry_of(stamped ? FD_LISTENING_STAMPED : FD_LISTENING, 0));
}

void conn_host_stamps(int fd)
{
	int saved = errno;
	struct conn *c = conn_known(fd);

	if (kind_of(fd) == FD_LISTENING_STAMPED)
		conn_set_listening(fd, false);
	if (c)
		c->stamps = false;
	if (stamp_flags(fd) == STAMP_FLAGS)
		unstamp(fd);
	errno = saved;
}

bool conn_wants_stamp(const struct conn *c)
{
	return c->stamps && !c->reading && !c->deaf && c->role <= CONN_SERVER;
}

/* Whether the newest request was only begun: of no interest when no more comes. Under lock. */
static bool unread(const struct conn *c)
{
	return c->reading && !c->headed;
}

static request_id oldest(const struct conn *c)
{
	return c->count ? c->queue[c->first] : 0;
}

static request_id newest(const struct conn *c)
{
	return c->count ? c->queue[(c->first + c->count - 1) % CONN_PIPELINE] : 0;
}

/* Everything this connection was asked and did not answer. Under lock. */
static void end_all(struct thread *t, struct conn *c, uint64_t now_ns, bool cancel_newest)
{
	while (c->count) {
		request_id id = oldest(c);

		if (cancel_newest && c->count == 1)
			request_cancel(t, id, now_ns);
		else if (id)
			request_end(t, id, now_ns, 0, true);
		c->first = (uint8_t)((c->first + 1) % CONN_PIPELINE);
		c->count--;
	}
	c->reading = false;
}

/* The oldest request is answered: it ends, the next one of a pipeline begins. Under lock. */
static void answered(struct thread *t, struct conn *c, uint64_t now_ns)
{
	request_id next;

	if (oldest(c))
		request_end(t, oldest(c), now_ns, c->out.status, c->out.status >= 500);
	c->first = (uint8_t)((c->first + 1) % CONN_PIPELINE);
	c->count--;
	c->saw_response = c->short_write = false;
	next = oldest(c);
	if (next)
		request_start(t, next, now_ns);
}

/* The first byte of a request. Under lock. */
static void opened(struct thread *t, struct conn *c, uint64_t arrival_ns, uint64_t now_ns)
{
	request_id id;

	c->reading = true;
	c->headed = false;
	if (c->count == CONN_PIPELINE) {
		drop(DROP_PIPELINE);
		c->role = CONN_OTHER; /* answers can no longer be told apart */
		end_all(t, c, now_ns, false);
		return;
	}
	id = request_open(t, arrival_ns);
	if (!c->count)
		c->first = 0; /* the place that is warm */
	c->queue[(c->first + c->count) % CONN_PIPELINE] = id;
	c->asked_for[(c->first + c->count) % CONN_PIPELINE] = 0;
	c->count++;
	if (!id)
		return;
	if (c->count == 1)
		request_start(t, id, now_ns);
	else
		request_get(id)->pipelined = true;
}

static struct http_head *head_of(struct conn *c)
{
	struct request *r = c->reading ? request_get(newest(c)) : NULL;

	return r ? &r->head : &c->head;
}

/* The peer sends no HTTP any more: what it asked before is still to be answered. Under lock. */
static void not_http(struct thread *t, struct conn *c, uint64_t now_ns)
{
	if (http_request_lost(&c->in))
		drop(DROP_LOST);
	if (unread(c) && c->count) {
		request_cancel(t, newest(c), now_ns);
		c->count--;
	}
	c->reading = false;
	c->deaf = true;
	if (!c->count)
		c->role = CONN_OTHER;
}

static void parse_in(struct thread *t, struct conn *c, const char *data, size_t len,
		     uint64_t arrival_ns, uint64_t now_ns)
{
	struct http_head begun = {
		0
	}; /* the first byte's: then it is known whose head this will be */
	struct http_head *head = c->reading ? head_of(c) : &begun;
	enum http_event event;

	do {
		size_t used = http_request_feed(&c->in, head, data, len, &event);

		if (data)
			data += used;
		len -= used;
		switch (event) {
		case HTTP_REQUEST_BEGIN:
			opened(t, c, arrival_ns, now_ns);
			if (c->role == CONN_OTHER)
				return;
			head = head_of(c);
			http_head_begun(head, begun.method[0]);
			break;
		case HTTP_REQUEST_HEAD:
			c->role = CONN_SERVER;
			c->headed = true;
			if (c->count)
				c->asked_for[(c->first + c->count - 1) % CONN_PIPELINE] =
					(uint8_t)((head->is_head ? ASKED_HEAD : 0) |
						  (head->is_connect ? ASKED_CONNECT : 0));
			break;
		case HTTP_REQUEST_END:
			c->reading = false;
			head = &begun;
			break;
		case HTTP_NOT_HTTP:
			not_http(t, c, now_ns);
			break;
		case HTTP_UPGRADED:
			c->role = CONN_OTHER;
			break;
		default:
			break;
		}
	} while (http_more(event));
}

/* Hand each of the first @len bytes of @iov to @parse, piece by piece. */
#define FOR_EACH_PIECE(iov, iovs, len, data, piece)                                                \
  for (size_t left_ = (len), i_ = 0, piece; i_ < (size_t)(iovs) && left_; i_++, left_ -= piece)    \
    if ((piece = (iov)[i_].iov_len < left_ ? (iov)[i_].iov_len : left_) != 0)                      \
      for (const char *data = (iov)[i_].iov_base; data; data = NULL)

void conn_received(struct thread *t, struct conn *c, const struct iovec *iov, int iovs, size_t len,
		   uint64_t arrival_ns, uint64_t now_ns)
{
	if (c->role == CONN_CLIENT) {
		request_id owner = atomic_load_explicit(&c->owner, memory_order_relaxed);

		c->connecting = false;
		if (owner && owner != t->slice.owner && request_get(owner))
			request_resume(t, owner, now_ns, RESUME_IO);
		else if (t->slice.owner)
			atomic_store_explicit(&c->owner, t->slice.owner, memory_order_relaxed);
		return;
	}
	if (!len || c->role == CONN_OTHER || !lock(t, c))
		return;
	arrival_ns = arrival_ns ? arrival_ns : now_ns;
	if (c->role != CONN_OTHER && !c->deaf) {
		if (c->reading && newest(c) == oldest(c) && oldest(c))
			request_resume(t, oldest(c), now_ns, RESUME_IO);
		if (!iov)
			parse_in(t, c, NULL, len, arrival_ns, now_ns);
		else
			FOR_EACH_PIECE(iov, iovs, len, data, piece)
		if (!c->deaf && c->role != CONN_OTHER)
			parse_in(t, c, data, piece, arrival_ns, now_ns);
	}
	unlock(t, c);
}

void conn_sending(struct thread *t, struct conn *c)
{
	request_id id;

	if (c->role == CONN_CLIENT) {
		bool waited = c->connecting || c->short_write;

		/* What could not be sent before is still its owner's, whatever this turn of the loop began with. */
		id = atomic_load_explicit(&c->owner, memory_order_relaxed);
		if (t->slice.owner && !(waited && request_get(id)))
			atomic_store_explicit(&c->owner, t->slice.owner, memory_order_relaxed);
		else if (id != t->slice.owner && request_get(id))
			request_resume(t, id, clock_ns(), waited ? RESUME_IO : RESUME_TIMER);
		c->connecting = false;
		return;
	}
	if (c->role != CONN_SERVER || !c->count)
		return;
	id = oldest(c);
	if (id && id != t->slice.owner)
		request_resume(t, id, clock_ns(), c->short_write ? RESUME_IO : RESUME_TIMER);
}

/* Another protocol from here on, both ways. Under lock. */
static void upgraded(struct thread *t, struct conn *c, uint64_t now_ns)
{
	http_request_upgrade(&c->in);
	leave_http(t, c, now_ns);
}

static void parse_out(struct thread *t, struct conn *c, const char *data, size_t len,
		      uint64_t now_ns)
{
	enum http_event event;

	do {
		size_t used;

		if (!c->saw_response) {
			unsigned asked = c->asked_for[c->first];

			if (!c->count)
				return;
			http_response_expect(&c->out, asked & ASKED_HEAD, asked & ASKED_CONNECT);
			c->saw_response = true;
		}
		used = http_response_feed(&c->out, data, len, &event);
		if (data)
			data += used;
		len -= used;
		switch (event) {
		case HTTP_RESPONSE_END:
			if (c->reading && c->count == 1 && http_request_abandon(&c->in))
				c->reading = false;
			answered(t, c, now_ns);
			if (c->count)
				break;
			http_response_feed(&c->out, "", 0, &event);
			if (event == HTTP_UPGRADED)
				upgraded(t, c, now_ns);
			else if (c->deaf)
				c->role = CONN_OTHER;
			return;
		case HTTP_UPGRADED:
			upgraded(t, c, now_ns);
			break;
		case HTTP_NOT_HTTP:
			drop(DROP_LOST);
			leave_http(t, c, now_ns);
			break;
		default:
			break;
		}
	} while (http_more(event));
}

void conn_sent(struct thread *t, struct conn *c, const struct iovec *iov, int iovs, ssize_t len,
	       size_t wanted, uint64_t now_ns)
{
	if (c->role == CONN_UNKNOWN && len > 0 && !c->reading) {
		c->role =
			CONN_CLIENT; /* who speaks first on a connection we did not see being made */
		atomic_store_explicit(&c->owner, t->slice.owner, memory_order_relaxed);
	}
	if (c->role == CONN_CLIENT)
		c->short_write = len == -EAGAIN || (len >= 0 && (size_t)len < wanted);
	if (c->role != CONN_SERVER || !c->count || !lock(t, c))
		return;
	if (c->role != CONN_SERVER || !c->count) {
		unlock(t, c);
		return;
	}
	c->short_write = len == -EAGAIN || (len >= 0 && (size_t)len < wanted);
	if (len > 0 && iov) {
		FOR_EACH_PIECE(iov, iovs, (size_t)len, data, piece)
		if (c->count)
			parse_out(t, c, data, piece, now_ns);
	} else if (len > 0) {
		parse_out(t, c, NULL, (size_t)len, now_ns);
	} else if (len == -EPIPE || len == -ECONNRESET || len == -ETIMEDOUT) {
		leave_http(t, c, now_ns);
	}
	unlock(t, c);
}

/* The host will send nothing more on @c. Under lock. */
static void finish(struct thread *t, struct conn *c)
{
	uint64_t now = clock_ns();

	if (c->saw_response && http_response_close(&c->out) == HTTP_CLOSE_END)
		answered(t, c, now);
	leave_http(t, c, now);
}

void conn_closing(struct thread *t, int fd, bool only_shutdown)
{
	uint64_t entry = in_table(fd) ? atomic_load_explicit(&table[fd], memory_order_acquire) : 0;

	if (entry >> 32 == FD_STREAM) {
		struct conn *c = pool_at(&shared->connections, (uint32_t)entry);

		if ((only_shutdown ||
		     atomic_load_explicit(&c->references, memory_order_relaxed) == 1) &&
		    c->count && lock(t, c)) {
			if (c->count)
				finish(t, c);
			unlock(t, c);
		}
	}
	if (!only_shutdown && entry)
		entry_set(fd, entry_of(FD_UNKNOWN, 0));
}

bool conn_belongs(int fd, request_id id)
{
	const struct conn *c;
	request_id owner;

	switch (kind_of(fd)) {
	case FD_LISTENING:
	case FD_LISTENING_STAMPED:
		return false;
	case FD_STREAM:
		c = conn_get(fd);
		break;
	default:
		return true; /* a pipe, a datagram socket: nobody's client */
	}
	if (!c)
		return false;
	if (c->role == CONN_CLIENT) {
		owner = atomic_load_explicit(&c->owner, memory_order_relaxed);
		return !owner || owner == id || !request_get(owner);
	}
	return c->count && oldest(c) == id;
}

void conn_abandon(struct thread *t)
{
	uint32_t connections =
		atomic_load_explicit(&shared->connections.fresh, memory_order_acquire);

	for (uint32_t i = 1; i <= connections; i++) {
		struct conn *c = pool_at(&shared->connections, i);

		if (atomic_load_explicit(&c->lock, memory_order_relaxed) != t->index)
			continue;
		atomic_store_explicit(&c->lost, 1, memory_order_relaxed);
		atomic_store_explicit(&c->lock, 0, memory_order_release);
		drop(DROP_RACED);
	}
}
