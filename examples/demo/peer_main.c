/* SPDX-License-Identifier: MIT
 *
 * The late peer: one thread, one epoll loop. A line with a number is answered that many ms later.
 */
#include "examples/demo/peer_main.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "examples/demo/timers.h"
#include "examples/demo/truth.h"

enum {
	LINE_MAX_BYTES = 16,
	DELAY_MAX_MS = 10000
};

struct client {
	int fd;
	bool waiting; /* a timer owns it, too */
	bool gone;
	char line[LINE_MAX_BYTES];
	size_t length;
};

static void client_close(struct client *client)
{
	if (client->fd >= 0)
		close(client->fd); /* epoll forgets it */
	client->fd = -1;
	client->gone = true;
	if (!client->waiting)
		free(client);
}

static void client_answer(struct client *client)
{
	client->waiting = false;
	if (client->gone)
		client_close(client);
	else
		(void)!send(client->fd, "here\n", 5, MSG_NOSIGNAL);
}

static void accept_client(int epoll_fd, int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
	struct client *client = fd < 0 ? NULL : calloc(1, sizeof(*client));
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = client };

	if (!client) {
		if (fd >= 0)
			close(fd);
		return;
	}
	client->fd = fd;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		client_close(client);
}

static void client_readable(struct client *client, struct timers *timers)
{
	ssize_t length =
		read(client->fd, client->line + client->length, LINE_MAX_BYTES - client->length);
	unsigned long delay_ms;

	if (length < 0 && errno == EAGAIN)
		return;
	/* One question at a time: what comes while one is open is a client gone wrong, as is too long a line. */
	if (length <= 0 || client->waiting) {
		client_close(client);
		return;
	}
	client->length += (size_t)length;
	if (client->line[client->length - 1] != '\n') {
		if (client->length == LINE_MAX_BYTES)
			client_close(client);
		return;
	}
	client->length = 0;
	delay_ms = strtoul(client->line, NULL, 10);
	if (delay_ms > DELAY_MAX_MS)
		delay_ms = DELAY_MAX_MS;
	client->waiting = true;
	if (timers_add(timers, monotonic_ns() + delay_ms * 1000000, client) < 0)
		client_answer(client);
}

int peer_main(int listener, int lifeline)
{
	struct epoll_event on_listener = { .events = EPOLLIN, .data.ptr = &listener };
	struct epoll_event on_lifeline = { .events = EPOLLIN, .data.ptr = &lifeline };
	struct epoll_event events[64];
	struct timers timers = { 0 };
	struct client *due;
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC), count;

	if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &on_listener) < 0 ||
	    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, lifeline, &on_lifeline) < 0)
		return 1;
	for (;;) {
		count = epoll_wait(epoll_fd, events, 64,
				   timers_timeout_ms(&timers, monotonic_ns()));
		for (int i = 0; i < count; i++) {
			if (events[i].data.ptr == &lifeline)
				goto out;
			if (events[i].data.ptr == &listener)
				accept_client(epoll_fd, listener);
			else
				client_readable(events[i].data.ptr, &timers);
		}
		while ((due = timers_take_due(&timers, monotonic_ns())) != NULL)
			client_answer(due);
	}
out:
	timers_fini(&timers);
	close(epoll_fd);
	return 0;
}
