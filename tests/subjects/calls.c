/* SPDX-License-Identifier: MIT
 *
 * Makes the calls that the agent wraps, with every odd argument that has a defined answer, and prints what came back:
 * result, errno, buffers, control data. tests/e2e/test_calls.py runs it with and without the agent: not a byte may differ.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wnonnull" /* that is what is tested */
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#pragma GCC diagnostic ignored "-Wstringop-overread"

/* What the fortified headers call. */
ssize_t __read_chk(int, void *, size_t, size_t);
ssize_t __recv_chk(int, void *, size_t, size_t, int);
ssize_t __pread_chk(int, void *, size_t, off_t, size_t);
int __poll_chk(struct pollfd *, nfds_t, int, size_t);

#define SHOW(call)                                                                                 \
  do {                                                                                             \
    long long r_;                                                                                  \
                                                                                                   \
    errno = 77;                                                                                    \
    r_ = (long long)(call);                                                                        \
    printf("%d %s = %lld %s\n", __LINE__, #call, r_, errno == 77 ? "-" : strerrorname_np(errno));  \
  } while (0)
/* A call that returns an error number, or whose number says nothing. */
#define MUST(call)                                                                                 \
  do {                                                                                             \
    if ((call) < 0) {                                                                              \
      printf("%d %s: %s\n", __LINE__, #call, strerror(errno));                                     \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

static char buffer[4096];
static int client, server, listener;
static struct sockaddr_in address;

static struct timespec in_ms(clockid_t clock, long ms)
{
	struct timespec t;

	clock_gettime(clock, &t);
	t.tv_nsec += ms * 1000000;
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	return t;
}

static void open_pair(void)
{
	socklen_t len = sizeof address;

	MUST(listener = socket(AF_INET, SOCK_STREAM, 0));
	memset(&address, 0, sizeof address);
	address.sin_family = AF_INET;
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	MUST(bind(listener, (struct sockaddr *)&address, sizeof address));
	MUST(getsockname(listener, (struct sockaddr *)&address, &len));
	MUST(listen(listener, 16));
	MUST(client = socket(AF_INET, SOCK_STREAM, 0));
	MUST(connect(client, (struct sockaddr *)&address, sizeof address));
	MUST(server = accept(listener, NULL, NULL));
}

static void close_pair(void)
{
	close(client);
	close(server);
	close(listener);
}

/* Put @text on the wire and wait until it is there. */
static void arrive(const char *text)
{
	struct pollfd p = { .fd = server, .events = POLLIN };

	MUST(write(client, text, strlen(text)));
	MUST(poll(&p, 1, 2000));
}

static void show_msg(const char *what, ssize_t n, const struct msghdr *msg)
{
	printf("%s = %zd %s flags %x name %u control %zu:", what, n,
	       n < 0 ? strerrorname_np(errno) : "-", (unsigned)msg->msg_flags, msg->msg_namelen,
	       msg->msg_controllen);
	for (struct cmsghdr *m = n < 0 ? NULL : CMSG_FIRSTHDR(msg); m;
	     m = CMSG_NXTHDR((struct msghdr *)(uintptr_t)msg, m))
		printf(" [%d %d %zu]", m->cmsg_level, m->cmsg_type, (size_t)m->cmsg_len);
	printf("\n");
}

static void receive(const char *what, int fd, int flags, void *control, size_t room, void *name,
		    socklen_t name_room)
{
	struct iovec iov = { buffer, 64 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control,
			      .msg_controllen = room,
			      .msg_name = name,
			      .msg_namelen = name_room,
			      .msg_flags = 0x5555 };
	ssize_t n = recvmsg(fd, &msg, flags);

	show_msg(what, n, &msg);
	if (n > 0)
		printf("  %.*s\n", (int)(n > 64 ? 64 : n), buffer);
}

/* ---- Reads, each as the first one of a connection and in the middle of one ---- */

static void reads(void)
{
	struct iovec two[2] = { { buffer, 3 }, { buffer + 100, 5 } }, none = { buffer, 0 };
	struct timeval brief = { .tv_usec = 20000 };
	char control[256];
	struct sockaddr_in from;
	socklen_t from_len = sizeof from;

	open_pair();
	SHOW(read(server, buffer, 0)); /* of nothing, with nothing there: at once */
	SHOW(readv(server, &none, 1));
	SHOW(readv(server, two, 0));
	SHOW(readv(server, two, -1));
	SHOW(readv(server, two, 1025));
	SHOW(readv(server, NULL, 1));
	SHOW(recv(server, buffer, 10, MSG_DONTWAIT));
	SHOW(recvfrom(server, buffer, 10, MSG_DONTWAIT, (struct sockaddr *)&from, &from_len));
	SHOW(from_len);
	SHOW(recvmsg(server, NULL, MSG_DONTWAIT));
	SHOW(setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &brief, sizeof brief));
	SHOW(read(server, buffer, 10));
	arrive("GET /calls HTTP/1.1\r\n");
	SHOW(recv(server, buffer, 10, MSG_PEEK));
	SHOW(recv(server, NULL, 4, MSG_TRUNC));
	SHOW(read(server, NULL, 5));
	SHOW(readv(server, two, 2));
	printf("%.3s|%.5s\n", buffer, buffer + 100);
	SHOW(recv(server, buffer, 100, MSG_DONTWAIT));
	arrive("abcdef");
	SHOW(__read_chk(server, buffer, 2, sizeof buffer));
	SHOW(__recv_chk(server, buffer, 2, sizeof buffer, 0));
	SHOW(preadv2(server, two, 1, -1, RWF_NOWAIT));
	SHOW(preadv(server, two, 1, 0));
	SHOW(pread(server, buffer, 1, 0));
	arrive("GET /x HTTP/1.1\r\n\r\n");
	memset(buffer, 0, sizeof buffer);
	receive("no control", server, 0, NULL, 0, NULL, 0);
	arrive("GET /y HTTP/1.1\r\n\r\n");
	receive("control", server, 0, control, sizeof control, NULL, 0);
	arrive("GET /z HTTP/1.1\r\n\r\n");
	receive("little control", server, 0, control, 8, &from, sizeof from);
	receive("nothing there", server, MSG_DONTWAIT, control, sizeof control, NULL, 0);
	receive("error queue", server, MSG_ERRQUEUE, control, sizeof control, NULL, 0);
	arrive("much");
	receive("large control", server, 0, buffer + 1024, 2048, NULL, 0);
	arrive("12345678");
	SHOW(recv(server, buffer, 8, MSG_WAITALL));
	shutdown(client, SHUT_WR);
	SHOW(read(server, buffer, 10));
	SHOW(read(server, buffer, 0));
	receive("end", server, 0, control, sizeof control, NULL, 0);
	close_pair();
	SHOW(read(server, buffer, 1));
	SHOW(read(-1, buffer, 1));
	SHOW(read(1 << 20, buffer, 1));
	SHOW(recv(listener, buffer, 1, 0));
}

static void many_messages(void)
{
	struct iovec iov[2] = { { buffer, 4 }, { buffer + 16, 4 } };
	char control[2][128];
	struct mmsghdr msgs[2] = { { .msg_hdr = { .msg_iov = &iov[0],
						  .msg_iovlen = 1,
						  .msg_control = control[0],
						  .msg_controllen = 128 } },
				   { .msg_hdr = { .msg_iov = &iov[1], .msg_iovlen = 1 } } };

	open_pair();
	arrive("12345678");
	SHOW(recvmmsg(server, msgs, 2, 0, NULL));
	for (int i = 0; i < 2; i++)
		show_msg("mmsg", msgs[i].msg_len, &msgs[i].msg_hdr);
	SHOW(recvmmsg(server, msgs, 2, MSG_DONTWAIT, NULL));
	SHOW(sendmmsg(server, msgs, 2, 0));
	SHOW(read(client, buffer, 100));
	close_pair();
}

/* ---- A host with timestamps of its own ---- */

static int stamp_option(int fd, int option)
{
	int value = -1;
	socklen_t len = sizeof value;

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) ? -errno : value * 100 + (int)len;
}

static void stamps(int option, int value, bool before)
{
	int fd;
	char control[512];

	printf("option %d = %d, %s\n", option, value, before ? "before" : "after");
	MUST(listener = socket(AF_INET, SOCK_STREAM, 0));
	address.sin_port = 0;
	MUST(bind(listener, (struct sockaddr *)&address, sizeof address));
	if (before)
		SHOW(setsockopt(listener, SOL_SOCKET, option, &value, sizeof value));
	SHOW(listen(listener, 4));
	SHOW(stamp_option(listener, SO_TIMESTAMPING));
	SHOW(stamp_option(listener, SO_TIMESTAMP));
	SHOW(stamp_option(listener, SO_TIMESTAMPNS));
	MUST(getsockname(listener, (struct sockaddr *)&address, &(socklen_t){ sizeof address }));
	MUST(client = socket(AF_INET, SOCK_STREAM, 0));
	MUST(connect(client, (struct sockaddr *)&address, sizeof address));
	MUST(fd = server = accept(listener, NULL, NULL));
	SHOW(stamp_option(fd, SO_TIMESTAMPING));
	SHOW(stamp_option(fd, SO_TIMESTAMPNS));
	arrive("first");
	receive("as inherited", fd, 0, control, sizeof control, NULL, 0);
	if (!before)
		SHOW(setsockopt(fd, SOL_SOCKET, option, &value, sizeof value));
	SHOW(stamp_option(fd, SO_TIMESTAMPING));
	arrive("second");
	receive("stamped", fd, 0, control, sizeof control, NULL, 0);
	arrive("third");
	receive("no room", fd, 0, control, 0, NULL, 0);
	arrive("fourth");
	receive("little room", fd, 0, control, 40, NULL, 0);
	close_pair();
}

/* In a child, made by @how: what it inherits must not show our stamps either. */
static void inherited(pid_t (*how)(void))
{
	char control[256];
	pid_t pid;

	open_pair();
	arrive("GET /child HTTP/1.1\r\n\r\n");
	fflush(stdout);
	pid = how();
	if (pid == 0) {
		receive("child", server, 0, control, sizeof control, NULL, 0);
		SHOW(stamp_option(server, SO_TIMESTAMPING));
		MUST(write(client, "again", 5));
		MUST(poll(&(struct pollfd){ .fd = server, .events = POLLIN }, 1, 2000));
		receive("child without control", server, 0, NULL, 0, NULL, 0);
		fflush(stdout);
		_exit(5);
	}
	{
		int status;

		MUST(waitpid(pid, &status, 0));
		printf("child: %d\n", status);
	}
	close_pair();
}

static pid_t raw_fork(void)
{
	return (pid_t)syscall(SYS_fork);
}

/* ---- Writes ---- */

static void writes(void)
{
	struct iovec two[2] = { { (char[]){ "abc" }, 3 }, { (char[]){ "defgh" }, 5 } };
	struct msghdr msg = { .msg_iov = two, .msg_iovlen = 2 };
	int file = memfd_create("calls", 0), fds[2];
	off_t at = 1;

	open_pair();
	SHOW(write(server, "x", 0));
	SHOW(write(server, NULL, 3));
	SHOW(write(server, NULL, 0));
	SHOW(writev(server, NULL, 1));
	SHOW(writev(server, two, 0));
	SHOW(writev(server, two, -1));
	SHOW(writev(server, two, 1025));
	SHOW(sendmsg(server, NULL, 0));
	SHOW(writev(server, two, 2));
	SHOW(sendmsg(server, &msg, 0));
	SHOW(send(server, "0123456789", 10, MSG_NOSIGNAL));
	SHOW(sendto(server, "x", 1, 0, (struct sockaddr *)&address, sizeof address));
	SHOW(pwritev2(server, two, 1, -1, 0));
	SHOW(pwrite(server, "x", 1, 0));
	SHOW(write(file, "contents", 8));
	SHOW(pwritev(file, two, 2, 8));
	SHOW(sendfile(server, file, &at, 4));
	SHOW(at);
	SHOW(sendfile(server, -1, &at, 4));
	SHOW(fsync(file));
	SHOW(fdatasync(-1));
	SHOW(fsync(server));
	MUST(pipe(fds));
	SHOW(write(fds[1], "through", 7));
	SHOW(splice(fds[0], NULL, server, NULL, 7, 0));
	SHOW(splice(-1, NULL, server, NULL, 7, 0));
	SHOW(recv(client, buffer, 200, MSG_WAITALL | MSG_DONTWAIT));
	SHOW(__pread_chk(file, buffer, 4, 2, sizeof buffer));
	SHOW(shutdown(server, SHUT_WR));
	signal(SIGPIPE, SIG_IGN);
	SHOW(write(server, "x", 1));
	SHOW(shutdown(server, 99));
	SHOW(shutdown(file, SHUT_RD));
	close(file);
	close(fds[0]);
	close(fds[1]);
	close_pair();
	SHOW(write(server, "x", 1));
}

/* ---- Other kinds of sockets, and descriptors passed on ---- */

static void others(void)
{
	int pair[2], datagram, file = memfd_create("passed", 0);
	union {
		char bytes[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { (char[]){ "fd" }, 2 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = sizeof control.bytes };
	struct cmsghdr *m = CMSG_FIRSTHDR(&msg);
	int fds[2] = { file, file };

	SHOW(socketpair(AF_UNIX, SOCK_STREAM, 0, NULL));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	m->cmsg_level = SOL_SOCKET;
	m->cmsg_type = SCM_RIGHTS;
	m->cmsg_len = CMSG_LEN(sizeof fds);
	memcpy(CMSG_DATA(m), fds, sizeof fds);
	SHOW(sendmsg(pair[0], &msg, 0));
	receive("rights", pair[1], 0, control.bytes, sizeof control.bytes, NULL, 0);
	m->cmsg_level = SOL_SOCKET;
	m->cmsg_type = SCM_RIGHTS;
	m->cmsg_len = CMSG_LEN(sizeof fds);
	memcpy(CMSG_DATA(m), fds, sizeof fds);
	SHOW(sendmsg(pair[0], &msg, 0));
	receive("rights without room", pair[1], 0, control.bytes, 4, NULL, 0);
	SHOW(sendmsg(pair[0], &msg, MSG_DONTWAIT));
	receive("room for one", pair[1], 0, control.bytes, CMSG_LEN(sizeof(int)), NULL, 0);
	SHOW(dup2(-1, pair[0]));
	SHOW(write(pair[0], "still there", 11));
	SHOW(read(pair[1], buffer, 100));
	MUST(datagram = socket(AF_INET, SOCK_DGRAM, 0));
	address.sin_port = 0;
	MUST(bind(datagram, (struct sockaddr *)&address, sizeof address));
	MUST(getsockname(datagram, (struct sockaddr *)&address, &(socklen_t){ sizeof address }));
	SHOW(sendto(datagram, "datagram", 8, 0, (struct sockaddr *)&address, sizeof address));
	SHOW(recv(datagram, buffer, 3, MSG_TRUNC));
	SHOW(sendto(datagram, "", 0, 0, (struct sockaddr *)&address, sizeof address));
	SHOW(read(datagram, buffer, 10));
	SHOW(accept(datagram, NULL, NULL));
	SHOW(accept4(-1, NULL, NULL, 0));
	SHOW(connect(file, (struct sockaddr *)&address, sizeof address));
	SHOW(connect(datagram, (struct sockaddr *)&address, sizeof address));
	SHOW(listen(datagram, 1));
	SHOW(close(12345));
	SHOW(close(-1));
	SHOW(dup(-1));
	SHOW(dup2(file, file));
	SHOW(dup3(file, file, 0));
	SHOW(fcntl(-1, F_DUPFD, 10));
	SHOW(fcntl(file, F_DUPFD_CLOEXEC, 200));
	SHOW(fcntl(200, F_GETFD));
	SHOW(close_range(199, 201, 0));
	SHOW(fcntl(200, F_GETFD));
	SHOW(close_range(5, 4, 0));
	close(pair[0]);
	close(pair[1]);
	close(datagram);
	close(file);
}

/* A live connection is closed by dup2, by close_range and by a system call of which the agent knows nothing. */
static void reused(void)
{
	for (int how = 0; how < 3; how++) {
		int file = memfd_create("file", 0), number;

		open_pair();
		arrive("GET /reused HTTP/1.1\r\n\r\n");
		MUST(read(server, buffer, 100));
		number = server;
		if (how == 0) {
			MUST(dup2(file, number));
		} else {
			if (how == 1)
				MUST(close_range((unsigned)number, (unsigned)number, 0));
			else
				syscall(SYS_close, number);
			MUST(fcntl(file, F_DUPFD, number));
		}
		SHOW(write(number, "HTTP/1.1 200 OK\r\n\r\n", 19));
		SHOW(pread(number, buffer, 100, 0));
		SHOW(lseek(number, 0, SEEK_SET));
		SHOW(read(number, buffer, 100));
		SHOW(recv(number, buffer, 100, 0));
		close(file);
		close_pair();
	}
}

/* ---- Events ---- */

static void events(void)
{
	struct epoll_event e = { .events = EPOLLIN }, got[2];
	struct timespec zero = { 0 }, brief = { .tv_nsec = 10000000 }, bad = { .tv_nsec = -1 };
	struct timeval tbrief = { .tv_usec = 10000 };
	struct pollfd p[2];
	int fds[2], ep = epoll_create1(0);
	sigset_t all;
	fd_set set;

	sigfillset(&all);
	MUST(pipe(fds));
	MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fds[0], &e));
	SHOW(epoll_wait(ep, got, 2, 0));
	SHOW(epoll_wait(ep, got, 2, 10));
	SHOW(epoll_wait(ep, got, 0, 0));
	SHOW(epoll_wait(-1, got, 2, 0));
	SHOW(epoll_wait(fds[0], got, 2, 0));
	SHOW(epoll_pwait(ep, got, 2, 5, &all));
	SHOW(epoll_pwait2(ep, got, 2, &brief, NULL));
	SHOW(epoll_pwait2(ep, got, 2, &bad, NULL));
	SHOW(poll(NULL, 0, 5));
	SHOW(poll(NULL, 1, 0));
	p[0] = (struct pollfd){ .fd = fds[0], .events = POLLIN };
	p[1] = (struct pollfd){ .fd = 12345, .events = POLLIN };
	SHOW(poll(p, 1, 0));
	SHOW(poll(p, 2, 10));
	SHOW(p[1].revents);
	SHOW(__poll_chk(p, 1, 0, sizeof p));
	SHOW(ppoll(p, 1, &zero, &all));
	SHOW(ppoll(p, 1, &bad, NULL));
	SHOW(ppoll(p, 1, &brief, NULL));
	SHOW(brief.tv_nsec);
	FD_ZERO(&set);
	SHOW(select(0, NULL, NULL, NULL, &tbrief));
	SHOW(tbrief.tv_usec);
	SHOW(select(-1, NULL, NULL, NULL, NULL));
	tbrief.tv_usec = 0;
	SHOW(select(1 << 20, NULL, NULL, NULL, &tbrief));
	FD_SET(fds[0], &set);
	SHOW(pselect(fds[0] + 1, &set, NULL, NULL, &brief, &all));
	MUST(write(fds[1], "x", 1));
	SHOW(epoll_wait(ep, got, 2, -1));
	FD_SET(fds[0], &set);
	SHOW(select(fds[0] + 1, &set, NULL, NULL, NULL));
	SHOW(poll(p, 1, -1));
	close(ep);
	close(fds[0]);
	close(fds[1]);
}

/* ---- Interruptions ---- */

static void on_alarm(int number)
{
	(void)number;
}

static void *poke(void *thread)
{
	for (int i = 0; i < 3; i++) {
		usleep(15000);
		pthread_kill(*(pthread_t *)thread, SIGUSR1);
	}
	return NULL;
}

static pthread_t poked(void)
{
	static pthread_t self;
	pthread_t thread;

	self = pthread_self();
	MUST(-pthread_create(&thread, NULL, poke, &self));
	return thread;
}

#define POKED(call)                                                                                \
  do {                                                                                             \
    pthread_t thread_ = poked();                                                                   \
                                                                                                   \
    SHOW(call);                                                                                    \
    pthread_join(thread_, NULL);                                                                   \
  } while (0)

static sigjmp_buf jump;

static void on_jump(int number)
{
	(void)number;
	siglongjmp(jump, 3);
}

static void interruptions(void)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct timespec second = { .tv_sec = 1 }, left;
	struct epoll_event got;
	int ep = epoll_create1(0), n;
	sem_t sem;

	open_pair();
	sem_init(&sem, 0, 0);
	sigaction(SIGUSR1, &action, NULL);
	POKED(read(server, buffer, 10));
	POKED(recv(server, buffer, 10, 0));
	POKED(accept(listener, NULL, NULL));
	POKED(poll(NULL, 0, -1));
	POKED(select(0, NULL, NULL, NULL, NULL));
	POKED(epoll_wait(ep, &got, 1, -1));
	POKED(nanosleep(&second, &left));
	SHOW(left.tv_sec == 0 && left.tv_nsec > 0);
	POKED(clock_nanosleep(CLOCK_MONOTONIC, 0, &second, NULL));
	POKED(usleep(999999));
	POKED(sleep(1));
	POKED(sem_wait(&sem));
	second = in_ms(CLOCK_REALTIME, 1000);
	POKED(sem_timedwait(&sem, &second));
	for (int i = 0; i < 3; i++) {
		static pthread_t thread;

		action.sa_handler = on_jump;
		sigaction(SIGUSR1, &action, NULL);
		n = sigsetjmp(jump, 1);
		if (n == 0) {
			thread = poked();
			SHOW(poll(NULL, 0, -1));
		}
		printf("jumped %d\n", n);
		action.sa_handler = on_alarm;
		sigaction(SIGUSR1, &action, NULL);
		pthread_join(thread, NULL);
	}
	close(ep);
	close_pair();
}

/* ---- Sleeps ---- */

static void sleeps(void)
{
	struct timespec none = { 0 }, bad = { .tv_nsec = 1000000000 }, past = { .tv_sec = 1 };

	SHOW(nanosleep(&none, NULL));
	SHOW(nanosleep(&bad, NULL));
	SHOW(nanosleep(NULL, NULL));
	SHOW(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &past, NULL));
	SHOW(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &past, NULL));
	SHOW(clock_nanosleep(99, 0, &past, NULL));
	SHOW(usleep(0));
	SHOW(sleep(0));
}

/* ---- Locks ---- */

static pthread_mutex_t of_type(int type, int protocol, bool robust)
{
	pthread_mutexattr_t a;
	pthread_mutex_t m;

	pthread_mutexattr_init(&a);
	pthread_mutexattr_settype(&a, type);
	pthread_mutexattr_setprotocol(&a, protocol);
	if (robust)
		pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&m, &a);
	return m;
}

static void *lock_it(void *m)
{
	pthread_mutex_lock(m);
	return NULL;
}

static void *hold_it(void *m)
{
	pthread_mutex_lock(m);
	usleep(30000);
	pthread_mutex_unlock(m);
	return NULL;
}

static void mutexes(void)
{
	struct timespec past = { .tv_sec = 1 }, bad = { .tv_sec = 1, .tv_nsec = -1 }, soon;
	static pthread_mutex_t m;
	pthread_t thread;

	m = of_type(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_NONE, false);
	SHOW(pthread_mutex_lock(&m));
	SHOW(pthread_mutex_lock(&m));
	SHOW(pthread_mutex_timedlock(&m, &past));
	SHOW(pthread_mutex_unlock(&m));
	SHOW(pthread_mutex_unlock(&m));
	SHOW(pthread_mutex_timedlock(&m, &bad));
	SHOW(pthread_mutex_unlock(&m));
	SHOW(pthread_mutex_clocklock(&m, CLOCK_PROCESS_CPUTIME_ID, &past));
	SHOW(pthread_mutex_clocklock(&m, CLOCK_MONOTONIC, &past));
	SHOW(pthread_mutex_unlock(&m));
	m = of_type(PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_NONE, false);
	SHOW(pthread_mutex_lock(&m));
	SHOW(pthread_mutex_lock(&m));
	SHOW(pthread_mutex_timedlock(&m, &past));
	SHOW(pthread_mutex_unlock(&m));
	SHOW(pthread_mutex_unlock(&m));
	SHOW(pthread_mutex_unlock(&m));
	SHOW(pthread_mutex_unlock(&m));
	m = of_type(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, false);
	SHOW(pthread_mutex_lock(&m));
	SHOW(pthread_mutex_timedlock(&m, &past));
	SHOW(pthread_mutex_timedlock(&m, &bad));
	soon = in_ms(CLOCK_REALTIME, 20);
	SHOW(pthread_mutex_timedlock(&m, &soon));
	SHOW(pthread_mutex_unlock(&m));
	MUST(-pthread_create(&thread, NULL, hold_it, &m));
	usleep(10000);
	SHOW(pthread_mutex_lock(&m));
	SHOW(pthread_mutex_unlock(&m));
	SHOW(pthread_join(thread, NULL));
	for (int type = 0; type < 3; type++) {
		m = of_type(type, PTHREAD_PRIO_NONE, true);
		MUST(-pthread_create(&thread, NULL, lock_it, &m));
		pthread_join(thread, NULL);
		SHOW(pthread_mutex_lock(&m));
		SHOW(pthread_mutex_unlock(&m));
		SHOW(pthread_mutex_lock(&m));
		m = of_type(type, PTHREAD_PRIO_NONE, true);
		MUST(-pthread_create(&thread, NULL, lock_it, &m));
		pthread_join(thread, NULL);
		SHOW(pthread_mutex_lock(&m));
		SHOW(pthread_mutex_consistent(&m));
		SHOW(pthread_mutex_unlock(&m));
		SHOW(pthread_mutex_lock(&m));
		SHOW(pthread_mutex_unlock(&m));
	}
	m = of_type(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_INHERIT, false);
	SHOW(pthread_mutex_lock(&m));
	SHOW(pthread_mutex_lock(&m));
	SHOW(pthread_mutex_unlock(&m));
	m = of_type(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_PROTECT, false);
	SHOW(pthread_mutex_lock(&m));
}

static void rwlocks(void)
{
	struct timespec past = { .tv_sec = 1 }, bad = { .tv_sec = 1, .tv_nsec = -1 };
	pthread_rwlock_t l = PTHREAD_RWLOCK_INITIALIZER;

	SHOW(pthread_rwlock_timedwrlock(&l, &bad)); /* checked though it is free */
	SHOW(pthread_rwlock_timedrdlock(&l, &bad));
	SHOW(pthread_rwlock_clockwrlock(&l, CLOCK_PROCESS_CPUTIME_ID, &past));
	SHOW(pthread_rwlock_clockrdlock(&l, CLOCK_PROCESS_CPUTIME_ID, &past));
	SHOW(pthread_rwlock_rdlock(&l));
	SHOW(pthread_rwlock_rdlock(&l));
	SHOW(pthread_rwlock_timedwrlock(&l, &past));
	SHOW(pthread_rwlock_unlock(&l));
	SHOW(pthread_rwlock_unlock(&l));
	SHOW(pthread_rwlock_wrlock(&l));
	SHOW(pthread_rwlock_wrlock(&l));
	SHOW(pthread_rwlock_rdlock(&l));
	SHOW(pthread_rwlock_timedrdlock(&l, &past));
	SHOW(pthread_rwlock_clockwrlock(&l, CLOCK_MONOTONIC, &past));
	SHOW(pthread_rwlock_unlock(&l));
}

#if defined(__x86_64__)
/* What programs from before 2003 call: another structure under the same name. */
extern int old_cond_timedwait(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
extern int old_cond_wait(pthread_cond_t *, pthread_mutex_t *);
extern int old_cond_signal(pthread_cond_t *);
extern int old_cond_init(pthread_cond_t *, const pthread_condattr_t *);
__asm__(".symver old_cond_timedwait, pthread_cond_timedwait@GLIBC_2.2.5\n"
	".symver old_cond_wait, pthread_cond_wait@GLIBC_2.2.5\n"
	".symver old_cond_signal, pthread_cond_signal@GLIBC_2.2.5\n"
	".symver old_cond_init, pthread_cond_init@GLIBC_2.2.5\n");

static struct old {
	pthread_cond_t *cond; /* all there is of the old structure that matters */
	char beyond[64];
} old;
static pthread_mutex_t old_mutex = PTHREAD_MUTEX_INITIALIZER;

static void *signal_old(void *unused)
{
	(void)unused;
	usleep(20000);
	pthread_mutex_lock(&old_mutex);
	old_cond_signal((pthread_cond_t *)(void *)&old);
	pthread_mutex_unlock(&old_mutex);
	return NULL;
}

static void old_conditions(void)
{
	struct timespec past = { .tv_sec = 1 };
	pthread_t thread;

	memset(old.beyond, 7, sizeof old.beyond);
	SHOW(old_cond_init((pthread_cond_t *)(void *)&old, NULL));
	SHOW(pthread_mutex_lock(&old_mutex));
	SHOW(old_cond_timedwait((pthread_cond_t *)(void *)&old, &old_mutex, &past));
	MUST(-pthread_create(&thread, NULL, signal_old, NULL));
	SHOW(old_cond_wait((pthread_cond_t *)(void *)&old, &old_mutex));
	SHOW(pthread_mutex_unlock(&old_mutex));
	pthread_join(thread, NULL);
	for (size_t i = 0; i < sizeof old.beyond; i++)
		if (old.beyond[i] != 7)
			printf("byte %zu beyond is %d\n", i, old.beyond[i]);
}
#else
static void old_conditions(void)
{
}
#endif

static void *give_back(void *value)
{
	return value;
}

static void conditions(void)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t c = PTHREAD_COND_INITIALIZER;
	struct timespec past = { .tv_sec = 1 }, bad = { .tv_nsec = -1 }, soon;
	pthread_t thread;
	void *value;
	sem_t sem;

	pthread_mutex_lock(&m);
	SHOW(pthread_cond_timedwait(&c, &m, &past));
	SHOW(pthread_cond_timedwait(&c, &m, &bad));
	SHOW(pthread_cond_clockwait(&c, &m, CLOCK_MONOTONIC, &past));
	SHOW(pthread_cond_clockwait(&c, &m, CLOCK_PROCESS_CPUTIME_ID, &past));
	soon = in_ms(CLOCK_MONOTONIC, 20);
	SHOW(pthread_cond_clockwait(&c, &m, CLOCK_MONOTONIC, &soon));
	pthread_mutex_unlock(&m);
	sem_init(&sem, 0, 1);
	SHOW(sem_wait(&sem));
	SHOW(sem_timedwait(&sem, &past));
	SHOW(sem_timedwait(&sem, &bad));
	SHOW(sem_clockwait(&sem, CLOCK_PROCESS_CPUTIME_ID, &past));
	SHOW(sem_clockwait(&sem, CLOCK_MONOTONIC, &past));
	SHOW(sem_post(&sem));
	SHOW(sem_timedwait(&sem, &bad));
	SHOW(pthread_join(pthread_self(), NULL));
	MUST(-pthread_create(&thread, NULL, give_back, &sem));
	SHOW(pthread_join(thread, &value));
	SHOW(value == &sem);
	MUST(-pthread_create(&thread, NULL, give_back, &sem));
	soon = in_ms(CLOCK_REALTIME, 2000);
	SHOW(pthread_timedjoin_np(thread, NULL, &soon));
	SHOW(pthread_clockjoin_np(pthread_self(), NULL, CLOCK_PROCESS_CPUTIME_ID, &past));
	SHOW(pthread_create(&thread, &(pthread_attr_t){ 0 }, give_back, NULL) == 0);
}

/* ---- Threads: cancelled in each wait, ended in every way ---- */

static const char *waiting_in;
static char notes[256]; /* of the thread, printed when it has ended */
static int wait_fd;
static sem_t never;
static pthread_mutex_t wait_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wait_cond = PTHREAD_COND_INITIALIZER;

static void cleaned(void *what)
{
	strcat(strcat(notes, " cleaned up "), what);
}

static void unlock_it(void *m)
{
	strcat(notes, pthread_mutex_unlock(m) ? " not unlocked" : " unlocked");
}

static void *wait_in(void *which)
{
	pthread_cleanup_push(cleaned, (void *)(uintptr_t)waiting_in);
	switch ((int)(intptr_t)which) {
	case 0:
		read(wait_fd, buffer, 1);
		break;
	case 1:
		poll(NULL, 0, -1);
		break;
	case 2:
		sem_wait(&never);
		break;
	case 3:
		sleep(100);
		break;
	case 4:
		pthread_mutex_lock(&wait_mutex);
		pthread_cleanup_push(unlock_it, &wait_mutex);
		pthread_cond_wait(&wait_cond, &wait_mutex);
		pthread_cleanup_pop(1);
		break;
	case 5:
		accept(wait_fd, NULL, NULL);
		break;
	case 6:
		select(0, NULL, NULL, NULL, NULL);
		break;
	default:
		pthread_exit((void *)(uintptr_t) "exited");
	}
	pthread_cleanup_pop(0);
	return (void *)(uintptr_t) "returned";
}

static int c11_thread(void *value)
{
	return *(int *)value;
}

static void threads(void)
{
	static const char *const names[] = { "read",      "poll",   "sem_wait", "sleep",
					     "cond_wait", "accept", "select",   "exit" };
	int fds[2], forty = 40, result;
	thrd_t c11;

	MUST(pipe(fds));
	open_pair();
	sem_init(&never, 0, 0);
	for (int i = 0; i < 8; i++) {
		pthread_t thread;
		void *value;

		notes[0] = '\0';
		waiting_in = names[i];
		wait_fd = i == 5 ? listener : fds[0];
		MUST(-pthread_create(&thread, NULL, wait_in, (void *)(intptr_t)i));
		usleep(10000);
		if (i < 7)
			SHOW(pthread_cancel(thread));
		SHOW(pthread_join(thread, &value));
		printf("%s:", names[i]);
		printf("%s ", notes);
		printf("%s\n", value == PTHREAD_CANCELED ? "cancelled" : (const char *)value);
	}
	SHOW(thrd_create(&c11, c11_thread, &forty));
	SHOW(thrd_join(c11, &result));
	SHOW(result);
	close(fds[0]);
	close(fds[1]);
	close_pair();
}

/* ---- Signals ---- */

static void show_mask(const char *what, const sigset_t *set)
{
	printf("%s:", what);
	for (int i = 1; i <= SIGRTMAX; i++)
		if (sigismember(set, i) == 1)
			printf(" %d", i);
	printf("\n");
}

static void *show_own_mask(void *unused)
{
	sigset_t now;

	(void)unused;
	pthread_sigmask(SIG_BLOCK, NULL, &now);
	show_mask("thread", &now);
	return NULL;
}

static volatile sig_atomic_t caught;

static void on_any(int number)
{
	caught = number;
}

static void signals(void)
{
	struct timespec zero = { 0 };
	sigset_t all, before, now, one;
	siginfo_t info;
	pthread_t thread;
	int fd, dispositions = 0;

	sigfillset(&all);
	SHOW(pthread_sigmask(SIG_SETMASK, &all, &before));
	show_mask("before", &before);
	SHOW(pthread_sigmask(SIG_BLOCK, NULL, &now));
	show_mask("all", &now);
	MUST(-pthread_create(&thread, NULL, show_own_mask, NULL));
	pthread_join(thread, NULL);
	for (double x = 1; x < 3e7; x++) /* work: samples are due */
		__asm__ volatile("" : : "x"(x));
	SHOW(sigtimedwait(&all, &info, &zero));
	fd = signalfd(-1, &all, SFD_NONBLOCK);
	SHOW(read(fd, buffer, 200));
	close(fd);
	raise(SIGUSR2);
	SHOW(sigwait(&all, &(int){ 0 }));
	raise(SIGRTMAX);
	SHOW(sigwaitinfo(&all, &info));
	SHOW(sigprocmask(SIG_SETMASK, &before, &now));
	show_mask("was", &now);
	SHOW(sigprocmask(99, &all, NULL));
	for (int i = 1; i <= 64; i++) {
		struct sigaction a;

		errno = 0;
		if (sigaction(i, NULL, &a))
			printf("sigaction %d: %s\n", i, strerrorname_np(errno));
		else if (a.sa_handler != SIG_DFL)
			printf("sigaction %d: %x %s\n", i, (unsigned)a.sa_flags,
			       a.sa_handler == SIG_IGN ? "ignored" : "handled");
		else
			dispositions++;
	}
	printf("%d default\n", dispositions);
	/* each real-time signal is the host's to use, in each way there is */
	for (int i = SIGRTMIN; i <= SIGRTMAX; i++) {
		struct sigaction a = { .sa_handler = on_any }, was;

		caught = 0;
		sigaction(i, &a, &was);
		raise(i);
		printf("%d: %d caught %d", i, was.sa_handler == SIG_DFL, caught);
		sigaction(i, NULL, &was);
		printf(" %d", was.sa_handler == on_any);
		caught = 0;
		printf(" %d", signal(i, SIG_DFL) == on_any);
		printf(" %d", signal(i, on_any) == SIG_DFL);
		raise(i);
		printf(" caught %d", caught);
		signal(i, SIG_IGN);
		raise(i);
		sigemptyset(&one);
		sigaddset(&one, i);
		signal(i, SIG_DFL);
		sigprocmask(SIG_BLOCK, &one, NULL);
		raise(i);
		printf(" waited %d", sigtimedwait(&one, &info, &zero));
		sigprocmask(SIG_UNBLOCK, &one, NULL);
		printf("\n");
	}
}

/* One process per signal: dies of it as it would without the agent. */
static void deaths(void)
{
	for (int i = SIGRTMIN; i <= SIGRTMAX; i++) {
		pid_t pid;
		int status;

		fflush(stdout);
		pid = fork();
		if (pid == 0) {
			poll(NULL, 0, 0);
			kill(getpid(), i);
			for (;;)
				pause();
		}
		MUST(waitpid(pid, &status, 0));
		if (status != i)
			printf("%d: %x\n", i, (unsigned)status);
	}
}

/* ---- Processes ---- */

static void processes(void)
{
	char *const nothing[] = { (char[]){ "nothing" }, NULL };
	int status;
	pid_t pid;

	fflush(stdout);
	SHOW(execve("/does/not/exist", nothing, environ));
	SHOW(execvp("does-not-exist-anywhere", nothing));
	SHOW(execl("/etc/passwd", "passwd", (char *)NULL));
	SHOW(fexecve(-1, nothing, environ));
	fflush(stdout);
	pid = vfork();
	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", "exit 7", (char *)NULL);
		_exit(1);
	}
	MUST(waitpid(pid, &status, 0));
	printf("vfork: %x\n", (unsigned)status);
	pid = vfork();
	if (pid == 0)
		_exit(9);
	MUST(waitpid(pid, &status, 0));
	printf("vfork: %x\n", (unsigned)status);
	pid = fork();
	if (pid == 0)
		quick_exit(11);
	MUST(waitpid(pid, &status, 0));
	printf("quick: %x\n", (unsigned)status);
	SHOW(system("exit 3"));
}

/* The kernel begins to stamp a while after the first socket asks: here, once and for all. */
static void start_stamps(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1;
	char control[256];
	struct iovec iov = { buffer, 8 };
	struct msghdr msg;

	address = (struct sockaddr_in){ .sin_family = AF_INET,
					.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
	MUST(getsockname(fd, (struct sockaddr *)&address, &(socklen_t){ sizeof address }));
	MUST(setsockopt(fd, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on));
	do {
		msg = (struct msghdr){ .msg_iov = &iov,
				       .msg_iovlen = 1,
				       .msg_control = control,
				       .msg_controllen = sizeof control };
		usleep(20000);
		MUST(sendto(fd, "stamp", 5, 0, (struct sockaddr *)&address, sizeof address));
		MUST(recvmsg(fd, &msg, 0));
	} while (msg.msg_controllen == 0);
	usleep(20000);
}

int main(void)
{
	static void (*const parts[])(
		void) = { reads,          many_messages, writes,        events,   sleeps,
			  others,         reused,        mutexes,       rwlocks,  conditions,
			  old_conditions, threads,       interruptions, processes };
	const int mine = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;

	start_stamps();
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
		parts[i]();
	for (int before = 0; before < 2; before++) {
		stamps(SO_TIMESTAMP, 1, before);
		stamps(SO_TIMESTAMPNS, 1, before);
		stamps(SO_TIMESTAMPING, mine, before);
		stamps(SO_TIMESTAMPING, 0, before);
		stamps(SO_RCVBUF, 65536, before);
	}
	inherited(fork);
	inherited(raw_fork);
	inherited(_Fork);
	deaths();
	signals();
	processes();
	return 0;
}
