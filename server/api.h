/* SPDX-License-Identifier: MIT
 *
 * The endpoints, one function each, as server/README.md lists them. Knows parameters and answers, but not how they travel.
 * Context: server, any thread.
 */
#ifndef SERVER_API_H
#define SERVER_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/json.h"
#include "server/store.h"

enum {
	API_PARAMETERS_MAX = 16
};

struct api_parameter {
	const char *name, *value; /* decoded; UTF-8 */
};

struct api_request {
	struct store *store;
	const char *path;
	struct api_parameter parameters[API_PARAMETERS_MAX];
	size_t parameter_count;
	uint64_t now_unix_ns;
};

struct api_reply {
	unsigned status;          /* of HTTP */
	const char *content_type; /* constant */
	char file_name[128];      /* not "": an attachment */
	struct buffer body;       /* buffer_fini() */
};

/** Answer @request; errors are answers, too. */
void api_answer(const struct api_request *request, struct api_reply *reply);

/** Whether the answer at @path is a call tree, which may take hundreds of megabytes while it is made. */
bool api_heavy(const char *path);

/** Make @reply an error: {"error": …}. */
__attribute__((format(printf, 3, 4))) void api_error(struct api_reply *reply, unsigned status,
						     const char *format, ...);

/** Check the parameters of /api/v1/live. 0: *@service is what was asked for or NULL. Else @reply says what is wrong. */
int api_live_parameters(const struct api_request *request, const char **service,
			struct api_reply *reply);

/** What /api/v1/live sends once a second: the JSON of one tick. 0 or a negative errno value. */
int api_live_tick(struct store *store, const char *service, uint64_t now_unix_ns,
		  struct buffer *out);

/** metrics.c: the answer of /metrics, added to @out. */
int metrics_write(struct store *store, struct buffer *out);
/** Forget what was summed up (for tests, and at the end). */
void metrics_reset(void);

#endif
