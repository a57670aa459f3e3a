/* SPDX-License-Identifier: MIT
 *
 * Descriptor -> connection. What a descriptor is, is learned when it is made (accept, connect, socket, dup) or, for one we
 * did not see being made, by asking the kernel once. A stream socket gets a connection record: a server connection
 * carries HTTP parsers for both directions and the queue of its requests; a client connection belongs to the request
 * that last wrote to it, so that reading the answer makes that request current again.
 *
 * A connection is changed only under its try-lock. Who does not get it leaves the bytes unparsed, which is counted and
 * takes the connection out of HTTP. Every function here: Context: hook. None changes errno.
 */
#ifndef AGENT_CONN_H
#define AGENT_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "agent/hook/http.h"
#include "agent/hook/request.h"
#include "agent/thread.h"

enum {
	CONN_PIPELINE = 16,
	FD_TABLE = 1 << 16
};

enum conn_asked {
	ASKED_HEAD = 1,
	ASKED_CONNECT = 2
};

enum conn_role {
	CONN_UNKNOWN,
	CONN_SERVER,
	CONN_CLIENT,
	CONN_OTHER
};

struct conn {
	struct pool_link link;
	_Atomic uint32_t references; /* descriptors that lead here */
	_Atomic uint32_t lock;
	_Atomic uint32_t lost; /* bytes passed unparsed: whoever locks next takes it out of HTTP */
	_Atomic uint32_t
		dead; /* the last descriptor is gone: whoever unlocks gives the record back */
	_Atomic uint64_t owner; /* client: the request_id that last wrote here */

	/* under lock */
	uint8_t role;         /* enum conn_role */
	bool stamps;          /* the kernel gives us receive timestamps */
	bool reading;         /* the newest request's head or body is not complete */
	bool headed;          /* the newest request's head is complete */
	bool deaf;            /* what the peer sends is no HTTP any more; answers are still due */
	bool connecting;      /* client: nothing was written since connect() said EINPROGRESS */
	bool short_write;     /* the last write did not take everything */
	bool saw_response;    /* bytes of the answer have been written */
	uint8_t first, count; /* queue of requests, oldest first */
	uint8_t asked_for[CONN_PIPELINE]; /* enum conn_asked */
	struct http_request_parser in;
	struct http_response_parser out;
	request_id queue[CONN_PIPELINE]; /* 0: no slot was free for it, but its place is kept */
	struct http_head head;           /* of a request that could not be opened */
};

/** Map the descriptor table. Context: agent start. Returns 0 or -ENOMEM. */
int conn_start(void);

/** The stream connection behind @fd, or NULL: not one, not tracked, or no longer a socket. */
struct conn *conn_get(int fd);

/** Whether @fd still leads to @c: another thread may have closed it while this one was in a call on it. */
bool conn_still(int fd, const struct conn *c);

/** @fd is new in this process: forget what it was. */
void conn_forget(int fd);

/** Every descriptor in [first, last] was closed. */
void conn_forget_range(struct thread *t, unsigned first, unsigned last);

/** @fd was accepted; @stamped: its listening socket asked for timestamps, which it inherited. */
void conn_accepted(int fd, bool stamped);

/** @fd connects to a peer, for request @owner (or 0). */
void conn_connecting(int fd, request_id owner);

/** connect() on @fd goes on in the background. */
void conn_in_progress(int fd);

/** The host asks how its connecting to a peer went: for its owner, whose request becomes current. */
void conn_asked(struct thread *t, int fd);

/** @copy is a duplicate of @fd. */
void conn_duplicated(int fd, int copy);

/** @fd is about to be closed, or shut down for writing: requests not answered end here. */
void conn_closing(struct thread *t, int fd, bool only_shutdown);

/** Ask the kernel to stamp what listening or accepted socket @fd receives. Returns whether it does. */
bool conn_stamp(int fd);

/** Take our stamps off every socket of this process. Context: hook, when the agent retires. */
void conn_unstamp_all(void);

/** Whether @fd was stamped by us as a listening socket. */
bool conn_listening(int fd);
void conn_set_listening(int fd, bool stamped);

/** The host sets timestamp options on @fd itself: take ours off, for good. */
void conn_host_stamps(int fd);

/** Whether @flags, as getsockopt(SO_TIMESTAMPING) gives them, are ours. */
bool conn_own_stamps(int flags);

/** From here on the bytes of @fd are not what the host sees (TLS in the kernel): leave it alone. */
void conn_opaque(struct thread *t, int fd);

/** Whether a read now would begin a new request, so that its receive timestamp is wanted. */
bool conn_wants_stamp(const struct conn *c);

/**
 * @len bytes were read into @iov; @iov NULL: bytes that passed unseen; @len 0: the peer has closed. @arrival_ns: when they
 * arrived, 0 not known.
 */
void conn_received(struct thread *t, struct conn *c, const struct iovec *iov, int iovs, size_t len,
		   uint64_t arrival_ns, uint64_t now_ns);

/** The host is about to write to @c: its request becomes current. */
void conn_sending(struct thread *t, struct conn *c);

/** @len of @wanted bytes of @iov were written; @iov NULL: bytes that passed unseen. @len < 0: failed, -errno. */
void conn_sent(struct thread *t, struct conn *c, const struct iovec *iov, int iovs, ssize_t len,
	       size_t wanted, uint64_t now_ns);

/** @t has left our code in the middle: let go of what it holds. Those connections have lost their place. Context: hook. */
void conn_abandon(struct thread *t);

/** Whether waiting for @fd is @id's own affair: not so for listeners, other clients, and other requests' peers. */
bool conn_belongs(int fd, request_id id);

#endif
