/* SPDX-License-Identifier: MIT
 *
 * Mode `threads`: MHD's thread pool. Each worker has an epoll of its own over the connections it accepted and serves
 * them one after the other; while a route's function blocks, the worker's other connections wait in the kernel.
 */
#include <errno.h>

#include "examples/demo/blocking.h"
#include "examples/demo/routes.h"
#include "examples/demo/server.h"

static const struct mode threads_mode = {
	.sleep = blocking_sleep,
	.ask_peer = blocking_ask_peer,
	.hold_lock = blocking_hold_lock,
};

int threads_run(const struct options *options, int listen_fd, const sigset_t *signals,
		void (*ready)(void))
{
	struct MHD_Daemon *daemon;
	int error = routes_init(&threads_mode), signal;

	if (error < 0)
		return error;
	daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ERROR_LOG, 0, NULL, NULL,
				  request_serve, NULL, MHD_OPTION_LISTEN_SOCKET, listen_fd,
				  MHD_OPTION_THREAD_POOL_SIZE, options->workers,
				  MHD_OPTION_URI_LOG_CALLBACK, request_begin, NULL,
				  MHD_OPTION_NOTIFY_COMPLETED, request_end, NULL, MHD_OPTION_END);
	if (!daemon) {
		routes_fini();
		return errno ? -errno : -EIO;
	}
	ready();
	while (sigwait(signals, &signal) == 0 && signal == SIGUSR1)
		truth_flush();
	MHD_stop_daemon(daemon); /* waits for the workers, closes the socket */
	routes_fini();
	return 0;
}
