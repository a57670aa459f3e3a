/* SPDX-License-Identifier: MIT
 *
 * The peer's client side, used by any thread; its other side runs peer_main() in the child.
 */
#include "examples/demo/peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "examples/demo/peer_main.h"

enum {
	IDLE_MAX = 64
};

static struct {
	pid_t pid;
	int lifeline; /* the child ends when its other end reports that this one is closed */
	struct sockaddr_in address;
	pthread_mutex_t lock; /* protects what follows; no other lock is taken under it */
	int idle[IDLE_MAX];
	size_t idle_count;
} peer = { .lifeline = -1, .lock = PTHREAD_MUTEX_INITIALIZER };

static int listen_on_loopback(void)
{
	socklen_t length = sizeof(peer.address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	peer.address.sin_family = AF_INET;
	peer.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	peer.address.sin_port = 0; /* any */
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&peer.address, length) < 0 || listen(fd, SOMAXCONN) < 0 ||
	    getsockname(fd, (struct sockaddr *)&peer.address, &length) < 0) {
		int error = -errno;

		close(fd);
		return error;
	}
	return fd;
}

int peer_start(void)
{
	int ends[2], listener = listen_on_loopback();

	if (listener < 0)
		return listener;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
		int error = -errno;

		close(listener);
		return error;
	}
	peer.pid = fork();
	if (peer.pid == 0) {
		close(ends[0]);
		_exit(peer_main(listener, ends[1]));
	}
	close(listener);
	close(ends[1]);
	if (peer.pid < 0) {
		close(ends[0]);
		return -EAGAIN;
	}
	peer.lifeline = ends[0];
	return 0;
}

void peer_stop(void)
{
	if (peer.lifeline < 0)
		return;
	while (peer.idle_count > 0)
		close(peer.idle[--peer.idle_count]);
	close(peer.lifeline);
	peer.lifeline = -1;
	waitpid(peer.pid, NULL, 0);
}

int peer_take(void)
{
	int fd = -1, on = 1;

	pthread_mutex_lock(&peer.lock);
	if (peer.idle_count > 0)
		fd = peer.idle[--peer.idle_count];
	pthread_mutex_unlock(&peer.lock);
	if (fd >= 0)
		return fd;
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, (struct sockaddr *)&peer.address, sizeof(peer.address)) < 0) {
		int error = -errno;

		close(fd);
		return error;
	}
	return fd;
}

void peer_give(int fd, bool usable)
{
	pthread_mutex_lock(&peer.lock);
	if (usable && peer.idle_count < IDLE_MAX) {
		peer.idle[peer.idle_count++] = fd;
		fd = -1;
	}
	pthread_mutex_unlock(&peer.lock);
	if (fd >= 0)
		close(fd);
}

void peer_ask(int fd, unsigned delay_ms)
{
	char line[16];
	int length = snprintf(line, sizeof(line), "%u\n", delay_ms);

	(void)!send(fd, line, (size_t)length, MSG_NOSIGNAL);
}

int peer_answer(int fd)
{
	char answer[16];
	ssize_t length;

	do {
		length = read(fd, answer, sizeof(answer));
	} while (length < 0 && errno == EINTR);
	if (length < 0)
		return -errno;
	return length > 0 && answer[length - 1] == '\n';
}
