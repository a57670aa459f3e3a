/* SPDX-License-Identifier: MIT
 *
 * /api/v1/live: server-sent events, one tick a second to everybody who listens. A tick is made once for each service
 * asked for, by one thread of its own, and only while somebody listens. A client's own thread waits for the next one. Who
 * cannot follow misses ticks, and is dropped after ten seconds without reading.
 */
#ifndef SERVER_LIVE_H
#define SERVER_LIVE_H

#include <microhttpd.h>

#include "server/store.h"

enum {
	LIVE_CLIENTS_MAX = 64,
	LIVE_SERVICES_MAX = 64,
	LIVE_PATIENCE_SECONDS = 10
};

struct live;

/** Starts the thread; NULL when that fails. */
struct live *live_create(struct store *store);

/** End all streams, so that the daemon can stop; then live_destroy(). Context: any thread. */
void live_stop(struct live *live);
void live_destroy(struct live *live);

/**
 * A response that streams ticks of @service (NULL: all) to @connection. NULL: past LIVE_CLIENTS_MAX or out of memory.
 * Context: a handler of the daemon, which queues it right away.
 */
struct MHD_Response *live_response(struct live *live, struct MHD_Connection *connection,
				   const char *service);

#endif
