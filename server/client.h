/* SPDX-License-Identifier: MIT
 *
 * A small HTTP client for the collector's API, on libcurl, with jansson for the answers. One call, one request; what goes
 * wrong comes back as a sentence for the user. It asks the collector directly and never a proxy: the numbers of a server
 * are nobody else's. Context: server, any thread.
 */
#ifndef SERVER_CLIENT_H
#define SERVER_CLIENT_H

#include <jansson.h>
#include <signal.h>
#include <stddef.h>

enum {
	CLIENT_ERROR_MAX = 512,
	CLIENT_CONNECT_MS = 3000,
	CLIENT_TIMEOUT_S = 120,
};
#define CLIENT_ANSWER_MAX_BYTES ((size_t)512 << 20) /* a larger answer fails with -EFBIG */

struct client {
	const char *address; /* "127.0.0.1:7070", "[::1]:7070" or "http://host:port" */
	const volatile sig_atomic_t *cancel; /* not 0 ends a call with -ECANCELED; may be NULL */
	long timeout_s;                      /* of a whole call, 0: CLIENT_TIMEOUT_S */
	char error[CLIENT_ERROR_MAX];        /* after a failure: why, and what to do */
};

/**
 * GET @path ("/api/v1/routes") with @query ("?from=-5m", may be NULL). The body goes to *@body, to be freed, terminated
 * by a zero that *@size does not count. Returns 0, or: -ECONNREFUSED nobody answers, -EINVAL the collector refuses the
 * question (4xx), -EPROTO something else answers, -EIO the collector failed, -EFBIG, -ETIMEDOUT, -ECANCELED, -ENOMEM;
 * @client->error says it in words.
 */
int client_get(struct client *client, const char *path, const char *query, char **body,
	       size_t *size);

/** client_get() for a JSON object: to be dropped with json_decref(). -EPROTO when the answer is none. */
int client_json(struct client *client, const char *path, const char *query, json_t **out);

#endif
