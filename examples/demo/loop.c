/* SPDX-License-Identifier: MIT
 *
 * Mode `loop`: one thread, one epoll. It holds MHD's own epoll descriptor, the connections to the late peer, the signals
 * and the helper's eventfd; sleeps are timers, by its timeout. A route that waits is suspended; a route that works, or
 * takes the lock, holds up everybody: that is the point.
 *
 * Everything here runs on that thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "examples/demo/blocking.h"
#include "examples/demo/helper.h"
#include "examples/demo/peer.h"
#include "examples/demo/routes.h"
#include "examples/demo/server.h"
#include "examples/demo/timers.h"

enum {
	EVENTS = 64
};

static struct {
	struct MHD_Daemon *daemon;
	int epoll_fd;
	int signal_fd;
	int helper_fd;
	struct timers timers;
	unsigned parked;          /* requests */
	struct request *answered; /* whose answer MHD is sending */
	bool stopping;
	struct turns turns;
} loop = { .epoll_fd = -1, .signal_fd = -1, .helper_fd = -1 };

static int watch(int fd, void *owner)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = owner };

	return epoll_ctl(loop.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static void park(struct request *request, enum wait kind)
{
	request->waits_for = kind;
	loop.parked++;
	MHD_suspend_connection(request->connection);
}

/* MHD_run() will call the request's next step. */
static void unpark(struct request *request)
{
	loop.parked--;
	MHD_resume_connection(request->connection);
}

/* MHD calls us for the request again. */
static void come_back(struct request *request)
{
	if (!request->helped) {
		truth_loop_return(&request->truth, &loop.turns);
		return;
	}
	sonde_attach(request->handed);
	request->helped = false;
	truth_handed_over(&request->truth, request->truth.left_ns);
	truth_resume(&request->truth);
}

static void leave(struct request *request)
{
	truth_loop_leave(&request->truth, &loop.turns, request->waits_for);
	request->waits_for = WAIT_IO; /* for its client, unless it asks for something else */
	if (request->status != 0)
		loop.answered = request;
	if (request->helped)
		helper_submit(request);
}

/* MHD sends an answer as soon as it has it, but may tell us a turn later: it was sent when the next thing begins. */
static void settle_answer(void)
{
	if (loop.answered)
		truth_loop_sent(&loop.answered->truth, &loop.turns);
	loop.answered = NULL;
}

static enum progress loop_sleep(struct request *request, uint64_t ns)
{
	if (timers_add(&loop.timers, monotonic_ns() + ns, request) < 0)
		return GIVE_UP;
	park(request, WAIT_SLEEP);
	return PARKED;
}

static enum progress loop_ask_peer(struct request *request, unsigned delay_ms)
{
	int fd = peer_take();

	if (fd < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0 || watch(fd, request) < 0) {
		if (fd >= 0)
			peer_give(fd, false);
		request->failed = true;
		return GO_ON;
	}
	request->peer_fd = fd;
	peer_ask(fd, delay_ms);
	park(request, WAIT_IO);
	return PARKED;
}

static void peer_readable(struct request *request)
{
	int got = peer_answer(request->peer_fd);

	if (got == -EAGAIN)
		return;
	request->failed = got <= 0;
	epoll_ctl(loop.epoll_fd, EPOLL_CTL_DEL, request->peer_fd, NULL);
	peer_give(request->peer_fd, !request->failed);
	request->peer_fd = -1;
	unpark(request);
}

static enum progress loop_hold_lock(struct request *request, uint64_t ns)
{
	request->hold_ns = ns;
	request->helped = true;
	park(request, WAIT_LOCK);
	return PARKED;
}

static const struct mode loop_mode = {
	.sleep = loop_sleep,
	.ask_peer = loop_ask_peer,
	.hold_lock = loop_hold_lock,
};

static void *loop_begin(void *closure, const char *uri, struct MHD_Connection *connection)
{
	struct request *request;

	settle_answer();
	request = request_begin(closure, uri, connection);
	if (request) {
		request->waits_for = WAIT_IO;
		leave(request);
	}
	return request;
}

static enum MHD_Result loop_serve(void *closure, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *version, const char *upload,
				  size_t *upload_size, void **pointer)
{
	struct request *request = *pointer;
	enum MHD_Result result;

	settle_answer();
	if (request)
		come_back(request);
	result = request_serve(closure, connection, url, method, version, upload, upload_size,
			       pointer);
	if (request)
		leave(request);
	return result;
}

static void loop_end(void *closure, struct MHD_Connection *connection, void **pointer,
		     enum MHD_RequestTerminationCode how)
{
	struct request *request = *pointer;

	settle_answer();
	if (request && request->truth.end_ns == 0)
		come_back(request);
	request_end(closure, connection, pointer, how);
	loop.turns.mark = truth_clocks();
}

static void signal_readable(void)
{
	struct signalfd_siginfo info;

	while (read(loop.signal_fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGUSR1)
			truth_flush();
		else
			loop.stopping = true;
	}
}

/* How long the loop may sleep: until its next timer or MHD's. */
static int timeout_ms(void)
{
	int own = timers_timeout_ms(&loop.timers, monotonic_ns());
	MHD_UNSIGNED_LONG_LONG mhd;

	if (MHD_get_timeout(loop.daemon, &mhd) != MHD_YES || (own >= 0 && mhd > (unsigned)own))
		return own;
	return (int)mhd;
}

static void turn(void)
{
	struct epoll_event events[EVENTS];
	int timeout = timeout_ms(), count;
	struct clocks before = truth_clocks();
	struct request *request;

	count = epoll_wait(loop.epoll_fd, events, EVENTS, timeout);
	truth_loop_waited(&loop.turns, &before);

	for (int i = 0; i < count; i++) {
		if (events[i].data.ptr == &loop.signal_fd) {
			signal_readable();
		} else if (events[i].data.ptr == &loop.helper_fd) {
			struct request *next;

			for (request = helper_take_done(); request; request = next) {
				next = request->next;
				unpark(request);
			}
		} else if (events[i].data.ptr != &loop) {
			peer_readable(events[i].data.ptr);
		}
	}
	while ((request = timers_take_due(&loop.timers, monotonic_ns())) != NULL)
		unpark(request);
	MHD_run(loop.daemon);
	settle_answer();
}

static int loop_init(int listen_fd, const sigset_t *signals)
{
	const union MHD_DaemonInfo *info;
	int error = routes_init(&loop_mode);

	if (error < 0)
		return error;
	loop.daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG,
				       0, NULL, NULL, loop_serve, NULL, MHD_OPTION_LISTEN_SOCKET,
				       listen_fd, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
				       MHD_OPTION_URI_LOG_CALLBACK, loop_begin, NULL,
				       MHD_OPTION_NOTIFY_COMPLETED, loop_end, NULL, MHD_OPTION_END);
	if (!loop.daemon)
		return errno ? -errno : -EIO;
	info = MHD_get_daemon_info(loop.daemon, MHD_DAEMON_INFO_EPOLL_FD);
	loop.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop.signal_fd = signalfd(-1, signals, SFD_NONBLOCK | SFD_CLOEXEC);
	if (!info || loop.epoll_fd < 0 || loop.signal_fd < 0)
		return -errno;
	loop.helper_fd = helper_start();
	if (loop.helper_fd < 0)
		return loop.helper_fd;
	error = watch(info->epoll_fd, &loop);
	if (error == 0)
		error = watch(loop.signal_fd, &loop.signal_fd);
	if (error == 0)
		error = watch(loop.helper_fd, &loop.helper_fd);
	return error;
}

int loop_run(const struct options *options, int listen_fd, const sigset_t *signals,
	     void (*ready)(void))
{
	int error = loop_init(listen_fd, signals);

	(void)options;
	if (error == 0) {
		ready();
		while (!loop.stopping || loop.parked > 0)
			turn();
	}
	helper_stop();
	if (loop.daemon)
		MHD_stop_daemon(loop.daemon); /* closes the socket */
	routes_fini();
	timers_fini(&loop.timers);
	if (loop.signal_fd >= 0)
		close(loop.signal_fd);
	if (loop.epoll_fd >= 0)
		close(loop.epoll_fd);
	return error;
}
