/* SPDX-License-Identifier: MIT
 *
 * What the kernel takes for a receive timestamp, on a TCP connection over loopback: by the call that reads, and by the
 * packets, which are stamped for everyone as soon as one socket wants it. Nothing of sonde is in it.
 */
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	ROUNDS = 20000,
	ASK = 48,
	ANSWER = 1024
};

enum step {
	SEND,
	RECEIVE,
	REPLY,
	AGAIN, /* nothing is there */
	STEPS
};

static const struct way {
	const char *name;
	int message; /* recvmsg() with room for a stamp, in place of recv() */
	int option;  /* of the socket, 0: none */
} ways[] = {
	{ "recv", 0, 0 },
	{ "recvmsg", 1, 0 },
	{ "recvmsg, SO_TIMESTAMPNS", 1, SO_TIMESTAMPNS },
	{ "recvmsg, SO_TIMESTAMPING", 1, SO_TIMESTAMPING },
	{ "recv, SO_TIMESTAMPING unread", 0, SO_TIMESTAMPING },
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void must(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

static void connect_pair(int ends[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

	must(listener >= 0 && !bind(listener, (struct sockaddr *)&a, sizeof(a)) &&
		     !getsockname(listener, (struct sockaddr *)&a, &len) && !listen(listener, 1),
	     "listen");
	ends[0] = socket(AF_INET, SOCK_STREAM, 0);
	must(ends[0] >= 0 && !connect(ends[0], (struct sockaddr *)&a, sizeof(a)), "connect");
	ends[1] = accept(listener, NULL, NULL);
	must(ends[1] >= 0, "accept");
	close(listener);
	for (int i = 0; i < 2; i++)
		must(!setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), "nodelay");
}

static void want_stamps(int fd, int option)
{
	int value = option == SO_TIMESTAMPING
			    ? SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE
			    : 1;

	must(!setsockopt(fd, SOL_SOCKET, option, &value, sizeof(value)), "stamps");
}

static void receive(const struct way *w, int fd, int flags)
{
	static char bytes[4096];
	char control[128];
	struct iovec iov = { bytes, sizeof(bytes) };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control) };

	if (w->message)
		recvmsg(fd, &m, flags);
	else
		recv(fd, bytes, sizeof(bytes), flags);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void measure(const struct way *w)
{
	static uint64_t took[STEPS][ROUNDS];
	static char bytes[ANSWER];
	int ends[2];

	connect_pair(ends);
	if (w->option)
		want_stamps(ends[1], w->option);
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t at[STEPS + 1];

		at[SEND] = now_ns();
		must(send(ends[0], bytes, ASK, 0) == ASK, "send");
		at[RECEIVE] = now_ns();
		receive(w, ends[1], 0);
		at[REPLY] = now_ns();
		must(send(ends[1], bytes, ANSWER, 0) == ANSWER, "reply");
		at[AGAIN] = now_ns();
		receive(w, ends[1], MSG_DONTWAIT);
		at[STEPS] = now_ns();
		must(recv(ends[0], bytes, ANSWER, MSG_WAITALL) == ANSWER, "answer");
		for (int s = 0; s < STEPS; s++)
			took[s][i] = at[s + 1] - at[s];
	}
	printf("%-30s", w->name);
	for (int s = 0; s < STEPS; s++) {
		qsort(took[s], ROUNDS, sizeof(took[s][0]), by_size);
		printf(" %10.0f", (double)took[s][ROUNDS / 10]);
	}
	putchar('\n');
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)sched_getcpu(), &set);
	sched_setaffinity(0, sizeof(set), &set); /* a wish */
	printf("ns per call, p10 of %d    %10s %10s %10s %10s\n", ROUNDS, "send", "receive",
	       "reply", "read again");
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++)
		measure(&ways[i]);
	return 0;
}
