/* SPDX-License-Identifier: MIT
 *
 * A request's life as MHD tells it: its line is read, it is complete, (its wait is over,) it is answered. On the thread
 * that serves the connection.
 */
#include <stdlib.h>
#include <string.h>

#include "examples/demo/routes.h"
#include "examples/demo/server.h"

void *request_begin(void *closure, const char *uri, struct MHD_Connection *connection)
{
	struct request *request = calloc(1, sizeof(*request));

	(void)closure;
	if (!request)
		return NULL;
	truth_begin(&request->truth);
	request->connection = connection;
	request->peer_fd = -1;
	request->path = strdup(uri);
	if (!request->path) {
		free(request);
		return NULL;
	}
	for (char *c = request->path; *c; c++) /* it becomes a field of the log */
		if (*c <= ' ' || *c == 127)
			*c = '?';
	return request;
}

static void read_head(struct request *request, const char *url, const char *method)
{
	const char *sent =
		MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, "X-Sent-Ns");

	strncpy(request->method, method, sizeof(request->method) - 1);
	request->route = routes_find(url, &request->number);
	request->truth.sent_ns = sent ? strtoull(sent, NULL, 10) : 0;
}

enum MHD_Result request_serve(void *closure, struct MHD_Connection *connection, const char *url,
			      const char *method, const char *version, const char *upload,
			      size_t *upload_size, void **pointer)
{
	struct request *request = *pointer;
	enum progress progress;

	(void)closure, (void)connection, (void)version, (void)upload;
	if (!request)
		return MHD_NO;
	if (!request->head_done) {
		request->head_done = true;
		read_head(request, url, method);
		return MHD_YES;
	}
	if (*upload_size > 0) { /* a body is read and forgotten */
		*upload_size = 0;
		return MHD_YES;
	}
	do {
		progress = routes_step(request);
	} while (progress == GO_ON);
	return progress == GIVE_UP ? MHD_NO : MHD_YES;
}

void request_end(void *closure, struct MHD_Connection *connection, void **pointer,
		 enum MHD_RequestTerminationCode how)
{
	struct request *request = *pointer;

	(void)closure, (void)connection, (void)how;
	if (!request)
		return;
	truth_end(&request->truth, request->head_done ? request->method : "?", request->path,
		  request->status);
	free(request->path);
	free(request);
}
