/* SPDX-License-Identifier: MIT
 *
 * One agent's stream: checks every message completely before anything of it reaches the store, then stores it and says
 * what to answer. Knows no sockets. Ids are checked against what this connection has introduced, so a stack's parent is
 * always known before the stack: the tree in the store has no cycles.
 * Context: server, the ingest thread.
 */
#ifndef SERVER_SESSION_H
#define SERVER_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/json.h"
#include "server/store.h"

enum {
	SESSION_PROTOCOL = 1,
	SESSION_FRAME_MAX = 16 << 20,       /* bytes of one message */
	SESSION_UNPACK_MAX = 256 << 20,     /* memory of one message, unpacked */
	SESSION_TEXT_MAX = 16 << 10,        /* bytes of one string */
	SESSION_NAME_MAX = 256,             /* bytes of a service's name */
	SESSION_NAMES_MAX_BYTES = 64 << 20, /* of one connection's dictionary */
	SESSION_LIST_MAX = 1024,       /* drops, stack ends, statuses of a route in one window */
	SESSION_MARK_MAX = 1024,       /* bytes of a mark's name */
	SESSION_MODULES_MAX = 1 << 16, /* ids are below these */
	SESSION_FUNCTIONS_MAX = 1 << 20,
	SESSION_STACKS_MAX = 1 << 22,
	SESSION_ROUTES_MAX = 1 << 14,
	SESSION_THREADS_MAX = 1 << 20,
	SESSION_OBJECTS_MAX = 1 << 20,
};

struct session;

/** NULL when out of memory. */
struct session *session_create(struct store *store);
void session_destroy(struct session *session);

/**
 * Take one message (without its length). The caller has begun a transaction of the store. The answer is added to @out, to
 * be sent only after the transaction was committed and session_committed() called.
 *
 * Returns 0; -EPROTO for bad input, *@why says what is wrong; -EIO when the store cannot take it now: roll back, call
 * session_rolled_back() and give the same messages again later; other errors cost the connection.
 */
int session_frame(struct session *session, const uint8_t *bytes, size_t len, struct buffer *out,
		  const char **why);

/** The transaction that took the messages since the last of these two calls was committed, or not. */
void session_committed(struct session *session);
void session_rolled_back(struct session *session);

/** The instance, or 0 before its Hello. */
uint64_t session_instance(const struct session *session);
/** The service's name, "" before its Hello. */
const char *session_service(const struct session *session);

#endif
