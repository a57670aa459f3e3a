/* SPDX-License-Identifier: MIT
 *
 * What the parts of the demo share: a request in hand, and the two ways to wait for something.
 *
 * A route's function is called in steps. When it has to wait it asks the mode to; `threads` does the wait there and
 * then, `loop` suspends the connection and lets the function be called again when the wait is over.
 */
#ifndef DEMO_SERVER_H
#define DEMO_SERVER_H

#include <microhttpd.h>
#include <signal.h>
#include <sonde.h>
#include <stdbool.h>
#include <stdint.h>

#include "examples/demo/truth.h"

enum {
	NS_PER_MS = 1000000
};

struct route;

struct request {
	struct MHD_Connection *connection;
	char *path; /* as the client wrote it */
	char method[8];
	const struct route *route;
	unsigned number; /* in the path: n, or milliseconds */
	unsigned step;
	unsigned status; /* answered, 0 not yet */
	bool head_done;
	bool failed; /* the wait ended in an error */
	struct truth truth;

	/* loop mode only */
	enum wait waits_for;
	int peer_fd;
	bool helped; /* the helper has it */
	uint64_t hold_ns;
	sonde_request handed;
	struct request *next;
};

enum progress {
	GO_ON,    /* the wait is over: take the next step */
	PARKED,   /* the next step comes later */
	ANSWERED, /* a response is queued */
	GIVE_UP,  /* close the connection */
};

struct mode {
	enum progress (*sleep)(struct request *request, uint64_t ns);
	enum progress (*ask_peer)(struct request *request, unsigned delay_ms);
	enum progress (*hold_lock)(struct request *request, uint64_t ns);
};

struct options {
	const char *listen;
	const char *log;
	bool loop;
	unsigned workers;
};

/* What both modes tell MHD: who is called when a request's line is read, when it is complete, when it is over. */
void *request_begin(void *closure, const char *uri, struct MHD_Connection *connection);
enum MHD_Result request_serve(void *closure, struct MHD_Connection *connection, const char *url,
			      const char *method, const char *version, const char *upload,
			      size_t *upload_size, void **request);
void request_end(void *closure, struct MHD_Connection *connection, void **request,
		 enum MHD_RequestTerminationCode how);

/**
 * Serve connections from @listen_fd, which is closed in the end, until a signal of @signals other than SIGUSR1 comes
 * (SIGUSR1 flushes the log); what is in hand then is finished first. Returns 0 or a negative errno.
 * @ready is called once connections are served.
 */
int threads_run(const struct options *options, int listen_fd, const sigset_t *signals,
		void (*ready)(void));
int loop_run(const struct options *options, int listen_fd, const sigset_t *signals,
	     void (*ready)(void));

#endif
