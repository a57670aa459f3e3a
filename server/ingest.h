/* SPDX-License-Identifier: MIT
 *
 * Accepts agents and moves their bytes: one epoll thread for all connections. What one round of epoll brings in is stored
 * in one transaction and acknowledged after its commit. When the store cannot take it (a full disk), nothing is
 * acknowledged and nothing more is read until it can: what does not fit waits in the agents' spools.
 */
#ifndef SERVER_INGEST_H
#define SERVER_INGEST_H

#include <stddef.h>

#include "server/address.h"
#include "server/store.h"

enum {
	INGEST_LISTENERS_MAX = 16,
	INGEST_CONNECTIONS_MAX = 1024,
	INGEST_MEMORY_MAX = 512 << 20, /* bytes received and not yet stored, all connections */
};

struct ingest;

/** The only writer of @store from ingest_start() on. NULL when out of memory. */
struct ingest *ingest_create(struct store *store);

/**
 * Listen at @address; port 0 becomes the one that was free, and a Unix socket that nobody answers is replaced. On failure a
 * negative errno value, and @error is one line for people. Before ingest_start().
 */
int ingest_listen(struct ingest *ingest, struct address *address, char *error, size_t error_bytes);

/** Start the thread. 0 or a negative errno value. */
int ingest_start(struct ingest *ingest);

/** Stop the thread, close everything, remove the Unix sockets; NULL is fine. */
void ingest_destroy(struct ingest *ingest);

#endif
