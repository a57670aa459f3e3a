/* SPDX-License-Identifier: MIT
 *
 * Mode `threads`: this thread accepts connections and deals them out to MHD's thread pool. Each worker has an epoll of its
 * own over the connections it was given and serves them one after the other; while a route's function blocks, the
 * worker's other connections wait in the kernel.
 */
#include <errno.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "examples/demo/blocking.h"
#include "examples/demo/routes.h"
#include "examples/demo/server.h"

static const struct mode threads_mode = {
	.sleep = blocking_sleep,
	.ask_peer = blocking_ask_peer,
	.hold_lock = blocking_hold_lock,
};

/* MHD deals by descriptor number: even enough. Workers that accept by themselves take all they can get, so that one
 * has ten connections and its neighbours none. */
static void deal_out(struct MHD_Daemon *daemon, int listen_fd)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);
	int fd = accept4(listen_fd, (struct sockaddr *)&address, &length,
			 SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd >= 0)
		MHD_add_connection(daemon, fd, (struct sockaddr *)&address,
				   length); /* closes it on failure */
	else if (errno == EMFILE || errno == ENFILE)
		poll(NULL, 0, 10); /* until a connection closes */
}

static void accept_until_signal(struct MHD_Daemon *daemon, int listen_fd, int signal_fd)
{
	struct pollfd ready[] = { { .fd = signal_fd, .events = POLLIN },
				  { .fd = listen_fd, .events = POLLIN } };
	struct signalfd_siginfo info;

	for (;;) {
		if (poll(ready, 2, -1) < 0 && errno != EINTR)
			return;
		if (ready[1].revents)
			deal_out(daemon, listen_fd);
		if (ready[0].revents && read(signal_fd, &info, sizeof(info)) == sizeof(info)) {
			if (info.ssi_signo != SIGUSR1)
				return;
			truth_flush();
		}
	}
}

int threads_run(const struct options *options, int listen_fd, const sigset_t *signals,
		void (*ready)(void))
{
	struct MHD_Daemon *daemon = NULL;
	int error = routes_init(&threads_mode), signal_fd = signalfd(-1, signals, SFD_CLOEXEC);

	if (error == 0 && signal_fd < 0)
		error = -errno;
	if (error < 0)
		goto out;
	daemon =
		MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC |
					 MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG,
				 0, NULL, NULL, request_serve, NULL, MHD_OPTION_THREAD_POOL_SIZE,
				 options->workers, MHD_OPTION_URI_LOG_CALLBACK, request_begin, NULL,
				 MHD_OPTION_NOTIFY_COMPLETED, request_end, NULL, MHD_OPTION_END);
	if (!daemon) {
		error = errno ? -errno : -EIO;
		goto out;
	}
	ready();
	accept_until_signal(daemon, listen_fd, signal_fd);
	MHD_stop_daemon(daemon); /* waits for the workers */
out:
	routes_fini();
	if (signal_fd >= 0)
		close(signal_fd);
	close(listen_fd);
	return error;
}
