/* SPDX-License-Identifier: MIT
 *
 * The HTTP server: libmicrohttpd around api.c and the page. Decides who may ask (loopback and names of it only, against DNS
 * rebinding), what may be asked (GET and HEAD), and how answers travel (headers, gzip).
 */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include <stddef.h>

#include "server/address.h"
#include "server/store.h"

enum {
	HTTP_CONNECTIONS_MAX = 256, /* a thread each */
	HTTP_HEAVY_MAX = 4,         /* call trees in the making; who asks for one more waits */
	HTTP_TIMEOUT_SECONDS = 30
};

struct http;

/**
 * Serve @store at @address; port 0 becomes the one that was free. On failure a negative errno value, and @error is one
 * line for people.
 */
int http_start(struct store *store, struct address *address, struct http **out, char *error,
	       size_t error_bytes);

/** Stop answering and free; NULL is fine. Call store_cancel() before, so that no long question holds it up. */
void http_stop(struct http *http);

#endif
