/* SPDX-License-Identifier: MIT
 *
 * Calls on descriptors. Four shapes, one function each way:
 *
 *	taking bytes in    before: is this the first byte of a request? then ask for its receive timestamp too
 *	                   after:  the connection's parser, or the request that owns the descriptor
 *	giving bytes out   before: the request answered here becomes current;   after: the parser, perhaps the request's end
 *	waiting for events the thread lays its request down, and begins a new slice when it returns
 *	making descriptors what the new number is
 *
 * A call on something that is no stream connection (a file, a pipe, an eventfd) is timed only inside a request.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/errqueue.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/hook/conn.h"
#include "agent/hook/exports.h"
#include "agent/hook/guard.h"
#include "agent/hook/request.h"
#include "agent/hook/runq.h"
#include "agent/hook/wait.h"

/* ---- Bytes in ---- */

/* Our share of the ancillary data: one SCM_TIMESTAMPING message. */
enum {
	STAMP_BYTES = CMSG_SPACE(sizeof(struct scm_timestamping)),
	HOST_CONTROL_MAX = 1024
};

/*
 * Kernel stamps are wall time; ours is monotonic. What lies between the two changes only when someone sets the clock: an age
 * that could come from that is asked for again. 0 when the stamp makes no sense.
 */
static uint64_t stamp_to_monotonic(const struct timespec *stamp, uint64_t now_ns)
{
	const int64_t sure_ns = 10000000, believable_ns = 3600ll * 1000000000;
	int64_t stamp_ns = (int64_t)stamp->tv_sec * 1000000000 + stamp->tv_nsec;
	int64_t age = (int64_t)now_ns + clock_wall_ns() - stamp_ns;

	if (unlikely(age > sure_ns || age < -sure_ns))
		age = (int64_t)clock_read(CLOCK_REALTIME) - stamp_ns;
	if (age < 0)
		age = 0;
	return age < believable_ns && age < (int64_t)now_ns ? now_ns - (uint64_t)age : 0;
}

static bool is_stamp(const struct cmsghdr *m)
{
	return m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_TIMESTAMPING;
}

/* Take our message out of @msg's control data, which moves up; the stamp goes to @stamp. */
static void strip_stamp(struct msghdr *msg, struct timespec *stamp)
{
	char *control = msg->msg_control;
	size_t len = msg->msg_controllen, at = 0;

	while (at + sizeof(struct cmsghdr) <= len) {
		struct cmsghdr *m = (struct cmsghdr *)(void *)(control + at);
		size_t space = CMSG_ALIGN(m->cmsg_len);

		if (m->cmsg_len < sizeof *m || space > len - at)
			space = len - at;
		if (is_stamp(m)) {
			if (m->cmsg_len >= CMSG_LEN(sizeof(struct timespec)))
				memcpy(stamp, CMSG_DATA(m), sizeof *stamp);
			memmove(control + at, control + at + space, len - at - space);
			len -= space;
		} else {
			at += space;
		}
	}
	msg->msg_controllen = len;
}

/* As receive_stamped(), for a host that wants control data of its own. */
static __attribute__((noinline)) ssize_t receive_stamped_beside(int fd, struct msghdr *host,
								int flags, struct timespec *stamp)
{
	_Alignas(struct cmsghdr) char control[HOST_CONTROL_MAX + STAMP_BYTES];
	struct msghdr msg = *host;
	size_t room = host->msg_controllen;
	ssize_t n;

	if (room > HOST_CONTROL_MAX) { /* rare and large: the kernel writes into the host's own */
		n = REAL(recvmsg)(fd, host, flags);
		if (n >= 0)
			strip_stamp(host, stamp);
		return n;
	}
	msg.msg_control = control;
	msg.msg_controllen = room + STAMP_BYTES;
	n = REAL(recvmsg)(fd, &msg, flags);
	if (n < 0)
		return n;
	strip_stamp(&msg, stamp);
	if (msg.msg_controllen > room) {
		msg.msg_controllen = room;
		msg.msg_flags |= MSG_CTRUNC;
	}
	memcpy(host->msg_control, control, msg.msg_controllen);
	host->msg_controllen = msg.msg_controllen;
	host->msg_namelen = msg.msg_namelen;
	host->msg_flags = msg.msg_flags;
	return n;
}

/* As recvmsg(fd, host, flags), and the receive timestamp, without the host seeing anything of it. */
static inline ssize_t receive_stamped(int fd, struct msghdr *host, int flags,
				      struct timespec *stamp)
{
	_Alignas(struct cmsghdr) char control[STAMP_BYTES];
	struct msghdr msg =
		*host; /* the host's own stays as it is: the call may fail, or be cancelled */
	ssize_t n;

	if (host->msg_control && host->msg_controllen)
		return receive_stamped_beside(fd, host, flags, stamp);
	msg.msg_control = control;
	msg.msg_controllen = sizeof control;
	n = REAL(recvmsg)(fd, &msg, flags);
	if (n < 0)
		return n;
	strip_stamp(&msg, stamp);
	host->msg_flags = msg.msg_flags | (msg.msg_controllen ? MSG_CTRUNC : 0);
	host->msg_controllen = 0;
	host->msg_namelen = msg.msg_namelen;
	return n;
}

/*
 * A read that took as long outside of a request was idleness, not work; but in a turn of an event loop, where descriptors do
 * not block, it copied much.
 */
enum {
	IDLE_MIN_NS = 5000,
	TURN_NS = 1000000
};

/* @idle_ns: when the thread began to read without a request in hand, 0: it had one. */
static void received(struct thread *t, struct conn *c, const struct iovec *iov, int iovs, ssize_t n,
		     int flags, const struct timespec *stamp, uint64_t idle_ns)
{
	int saved = errno;
	uint64_t now = clock_ns(), arrival = 0;

	if (idle_ns && now >= idle_ns + IDLE_MIN_NS && idle_ns - t->event_exit_ns > TURN_NS)
		slice_begin(t, idle_ns, now);
	errno = saved;
	if (n < 0 || flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE))
		return;
	if (stamp->tv_sec)
		arrival = stamp_to_monotonic(stamp, now);
	if (flags &
	    MSG_TRUNC) /* a stream's bytes are thrown away: the buffer need not even be there */
		iov = NULL;
	conn_received(t, c, iov, iovs, (size_t)n, arrival, now);
	errno = saved;
}

/* Where the kernel says EFAULT, we must not look. */
static bool readable(const void *p)
{
	return (uintptr_t)p >= 4096;
}

/* A read of nothing returns at once, where recvmsg would wait; what is no vector fails differently. */
static bool may_stamp_iov(const struct iovec *iov, int iovs)
{
	if (iovs <= 0 || iovs > IOV_MAX || !readable(iov))
		return false;
	for (int i = 0; i < iovs; i++)
		if (iov[i].iov_len)
			return true;
	return false;
}

/*
 * @host describes what the caller wants; @call is the call itself, done when no timestamp is wanted. A read that blocks
 * without a request in hand is idle time, and what follows begins a new slice.
 */
#define TAKING_IN(fd, host, flags, may_stamp, call)                                                \
  struct thread *t = hook_enter();                                                                 \
  struct timespec stamp = { 0 };                                                                   \
  struct conn *c;                                                                                  \
  struct wait w;                                                                                   \
  uint64_t idle = 0;                                                                               \
  bool busy, stamped;                                                                              \
  ssize_t n;                                                                                       \
                                                                                                   \
  if (!t)                                                                                          \
    return call;                                                                                   \
  c = conn_get(fd);                                                                                \
  busy = thread_current(t) != 0;                                                                   \
  if (!c && !busy)                                                                                 \
    return call;                                                                                   \
  stamped = c && conn_wants_stamp(c) && (may_stamp) &&                                             \
	    !((flags) & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE | MSG_TRUNC));                          \
  if (busy)                                                                                        \
    WAIT_BEGIN(&w, t, IO, WAIT_LONG, fd, 0);                                                       \
  else                                                                                             \
    idle = clock_ns();                                                                             \
  n = stamped ? receive_stamped(fd, (host), (flags), &stamp) : call;                               \
  if (busy)                                                                                        \
    wait_end(&w);                                                                                  \
  if (stamped && n < 0 && errno == ENOTSOCK) { /* the number was reused behind our back */         \
    conn_forget(fd);                                                                               \
    return call;                                                                                   \
  }                                                                                                \
  if (c && conn_still(fd, c))                                                                      \
    received(t, c, (host)->msg_iov, (int)(host)->msg_iovlen, n, (flags), &stamp, idle);            \
  return n

#define ONE_BUFFER(buffer, bytes)                                                                  \
  struct iovec iov_ = { .iov_base = (buffer), .iov_len = (bytes) };                                \
  struct msghdr host_ = { .msg_iov = &iov_, .msg_iovlen = 1 }

EXPORT ssize_t read(int fd, void *buffer, size_t bytes)
{
	ONE_BUFFER(buffer, bytes);
	TAKING_IN(fd, &host_, 0, bytes > 0, REAL(read)(fd, buffer, bytes));
}
EXPORT_ALIAS(read, __read);

EXPORT ssize_t recv(int fd, void *buffer, size_t bytes, int flags)
{
	ONE_BUFFER(buffer, bytes);
	TAKING_IN(fd, &host_, flags, true, REAL(recv)(fd, buffer, bytes, flags));
}
EXPORT_ALIAS(recv, __recv);

EXPORT ssize_t readv(int fd, const struct iovec *iov, int iovs)
{
	struct msghdr host = { .msg_iov = (struct iovec *)(uintptr_t)iov,
			       .msg_iovlen = (size_t)iovs };

	TAKING_IN(fd, &host, 0, may_stamp_iov(iov, iovs), REAL(readv)(fd, iov, iovs));
}

/* With an offset of -1 these work on sockets, too, as readv and writev with flags. */
EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int iovs, off_t at, int flags)
{
	struct msghdr host = { .msg_iov = (struct iovec *)(uintptr_t)iov,
			       .msg_iovlen = (size_t)iovs };

	TAKING_IN(fd, &host, 0, false, REAL(preadv2)(fd, iov, iovs, at, flags));
}
EXPORT_ALIAS(preadv2, preadv64v2);

EXPORT ssize_t recvfrom(int fd, void *buffer, size_t bytes, int flags, struct sockaddr *from,
			socklen_t *from_len)
{
	ONE_BUFFER(buffer, bytes);
	TAKING_IN(fd, &host_, flags, !from,
		  REAL(recvfrom)(fd, buffer, bytes, flags, from, from_len));
}

/* Descriptors that came in a message are new in this process, whatever their numbers were before. */
static void learn_passed(const struct msghdr *msg)
{
	size_t at = 0;

	while (msg->msg_control && at + sizeof(struct cmsghdr) <= msg->msg_controllen) {
		const struct cmsghdr *m =
			(const struct cmsghdr *)(const void *)((const char *)msg->msg_control + at);

		if (m->cmsg_len < sizeof *m || m->cmsg_len > msg->msg_controllen - at)
			return;
		if (m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_RIGHTS)
			for (size_t i = 0; i < (m->cmsg_len - sizeof *m) / sizeof(int); i++) {
				int fd;

				memcpy(&fd, CMSG_DATA(m) + i * sizeof fd, sizeof fd);
				conn_forget(fd);
			}
		at += CMSG_ALIGN(m->cmsg_len);
	}
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
	struct thread *t = hook_enter();
	struct timespec stamp = { 0 };
	struct conn *c;
	struct wait w;
	uint64_t idle = 0;
	bool busy;
	ssize_t n;

	if (!t || !readable(msg))
		return REAL(recvmsg)(fd, msg, flags);
	c = conn_get(fd);
	busy = thread_current(t) != 0;
	if (busy)
		WAIT_BEGIN(&w, t, IO, WAIT_LONG, fd, 0);
	else
		idle = clock_ns();
	n = c && c->stamps ? receive_stamped(fd, msg, flags, &stamp)
			   : REAL(recvmsg)(fd, msg, flags);
	if (busy)
		wait_end(&w);
	if (n >= 0)
		learn_passed(msg);
	if (c && conn_still(fd, c))
		received(t, c, msg->msg_iov, (int)msg->msg_iovlen, n, flags, &stamp, idle);
	return n;
}

EXPORT int recvmmsg(int fd, struct mmsghdr *msgs, unsigned count, int flags,
		    struct timespec *timeout)
{
	struct thread *t = hook_enter();
	struct timespec stamp = { 0 };
	struct conn *c;
	struct wait w;
	int n;

	if (!t)
		return REAL(recvmmsg)(fd, msgs, count, flags, timeout);
	c = conn_get(fd);
	if (c &&
	    c->stamps) { /* rare on streams: no stamps, then, for the host must not find ours */
		conn_host_stamps(fd);
		c->stamps = false;
	}
	WAIT_BEGIN(&w, t, IO, WAIT_LONG, fd, 0);
	n = REAL(recvmmsg)(fd, msgs, count, flags, timeout);
	wait_end(&w);
	for (int i = 0; i < n; i++) {
		const struct msghdr *msg = &msgs[i].msg_hdr;

		learn_passed(msg);
		if (c && conn_still(fd, c))
			received(t, c, msg->msg_iov, (int)msg->msg_iovlen, msgs[i].msg_len, flags,
				 &stamp, 0);
	}
	return n;
}

/* The checked variants: the check itself is libc's own, which ends the program. */
void __chk_fail(void) __attribute__((noreturn));
ssize_t __read_chk(int fd, void *buffer, size_t bytes, size_t room);
ssize_t __recv_chk(int fd, void *buffer, size_t bytes, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *buffer, size_t bytes, size_t room, int flags,
		       struct sockaddr *from, socklen_t *from_len);
ssize_t __pread_chk(int fd, void *buffer, size_t bytes, off_t at, size_t room);
int __poll_chk(struct pollfd *fds, nfds_t count, int timeout_ms, size_t room);
int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
		const sigset_t *mask, size_t room);

#define CHECK(bytes, room)                                                                         \
  do {                                                                                             \
    if ((bytes) > (room))                                                                          \
      __chk_fail();                                                                                \
  } while (0)

EXPORT ssize_t __read_chk(int fd, void *buffer, size_t bytes, size_t room)
{
	CHECK(bytes, room);
	return read(fd, buffer, bytes);
}

EXPORT ssize_t __recv_chk(int fd, void *buffer, size_t bytes, size_t room, int flags)
{
	CHECK(bytes, room);
	return recv(fd, buffer, bytes, flags);
}

EXPORT ssize_t __recvfrom_chk(int fd, void *buffer, size_t bytes, size_t room, int flags,
			      struct sockaddr *from, socklen_t *from_len)
{
	CHECK(bytes, room);
	return recvfrom(fd, buffer, bytes, flags, from, from_len);
}

/* Files by position, and what waits for the disk. */
#define TIMED_IN_REQUEST(result, fd, kind, call)                                                   \
  struct thread *t = hook_enter();                                                                 \
  struct wait w;                                                                                   \
  result n;                                                                                        \
                                                                                                   \
  if (!t || !thread_current(t))                                                                    \
    return call;                                                                                   \
  WAIT_BEGIN(&w, t, IO, kind, fd, 0);                                                              \
  n = call;                                                                                        \
  wait_end(&w);                                                                                    \
  return n

EXPORT ssize_t pread(int fd, void *buffer, size_t bytes, off_t at)
{
	TIMED_IN_REQUEST(ssize_t, fd, WAIT_BRIEF, REAL(pread)(fd, buffer, bytes, at));
}
EXPORT_ALIAS(pread, pread64);
EXPORT_ALIAS(pread, __pread64);

EXPORT ssize_t preadv(int fd, const struct iovec *iov, int iovs, off_t at)
{
	TIMED_IN_REQUEST(ssize_t, fd, WAIT_BRIEF, REAL(preadv)(fd, iov, iovs, at));
}
EXPORT_ALIAS(preadv, preadv64);

EXPORT ssize_t pwritev(int fd, const struct iovec *iov, int iovs, off_t at)
{
	TIMED_IN_REQUEST(ssize_t, fd, WAIT_BRIEF, REAL(pwritev)(fd, iov, iovs, at));
}
EXPORT_ALIAS(pwritev, pwritev64);

EXPORT ssize_t __pread_chk(int fd, void *buffer, size_t bytes, off_t at, size_t room)
{
	CHECK(bytes, room);
	return pread(fd, buffer, bytes, at);
}
EXPORT_ALIAS(__pread_chk, __pread64_chk);

EXPORT ssize_t pwrite(int fd, const void *buffer, size_t bytes, off_t at)
{
	TIMED_IN_REQUEST(ssize_t, fd, WAIT_BRIEF, REAL(pwrite)(fd, buffer, bytes, at));
}
EXPORT_ALIAS(pwrite, pwrite64);
EXPORT_ALIAS(pwrite, __pwrite64);

EXPORT int fsync(int fd)
{
	TIMED_IN_REQUEST(int, fd, WAIT_LONG, REAL(fsync)(fd));
}

EXPORT int fdatasync(int fd)
{
	TIMED_IN_REQUEST(int, fd, WAIT_LONG, REAL(fdatasync)(fd));
}

/* The resolver's own calls are out of sight inside libc. */
EXPORT int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
		       struct addrinfo **found)
{
	TIMED_IN_REQUEST(int, -1, WAIT_LONG, REAL(getaddrinfo)(node, service, hints, found));
}

EXPORT int getnameinfo(const struct sockaddr *address, socklen_t len, char *host,
		       socklen_t host_len, char *service, socklen_t service_len, int flags)
{
	TIMED_IN_REQUEST(
		int, -1, WAIT_LONG,
		REAL(getnameinfo)(address, len, host, host_len, service, service_len, flags));
}

/* ---- Bytes out ---- */

static size_t total(const struct iovec *iov, size_t iovs)
{
	size_t sum = 0;

	for (size_t i = 0; i < iovs; i++)
		sum += iov[i].iov_len;
	return sum;
}

/* @iov is looked at only when the kernel has found it good. NULL: bytes that nobody saw, @wanted says how many. */
static void sent(struct thread *t, struct conn *c, const struct iovec *iov, size_t iovs, ssize_t n,
		 size_t wanted, uint64_t now)
{
	int saved = errno;

	if (iov)
		wanted = n >= 0 ? total(iov, iovs) : 0;
	conn_sent(t, c, iov, (int)iovs, n < 0 ? -saved : n, wanted, now);
	errno = saved;
}

#define GIVING_OUT(fd, iov, iovs, wanted, call)                                                    \
  struct thread *t = hook_entered();                                                               \
  struct conn *c;                                                                                  \
  struct wait w;                                                                                   \
  uint64_t now;                                                                                    \
  ssize_t n;                                                                                       \
                                                                                                   \
  if (!t)                                                                                          \
    return call;                                                                                   \
  c = conn_get(fd);                                                                                \
  if (c)                                                                                           \
    conn_sending(t, c);                                                                            \
  if (!thread_current(t) && !(c && c->count))                                                      \
    return call;                                                                                   \
  WAIT_BEGIN(&w, t, IO, WAIT_BRIEF, fd, 0);                                                        \
  n = call;                                                                                        \
  now = wait_end(&w);                                                                              \
  if (c && conn_still(fd, c))                                                                      \
    sent(t, c, iov, iovs, n, wanted, now);                                                         \
  return n

EXPORT ssize_t write(int fd, const void *buffer, size_t bytes)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)buffer, .iov_len = bytes };

	GIVING_OUT(fd, &iov, 1, bytes, REAL(write)(fd, buffer, bytes));
}
EXPORT_ALIAS(write, __write);

EXPORT ssize_t send(int fd, const void *buffer, size_t bytes, int flags)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)buffer, .iov_len = bytes };

	GIVING_OUT(fd, &iov, 1, bytes, REAL(send)(fd, buffer, bytes, flags));
}
EXPORT_ALIAS(send, __send);

EXPORT ssize_t sendto(int fd, const void *buffer, size_t bytes, int flags,
		      const struct sockaddr *to, socklen_t to_len)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)buffer, .iov_len = bytes };

	GIVING_OUT(fd, &iov, 1, bytes, REAL(sendto)(fd, buffer, bytes, flags, to, to_len));
}

EXPORT ssize_t writev(int fd, const struct iovec *iov, int iovs)
{
	GIVING_OUT(fd, iov, (size_t)iovs, 0, REAL(writev)(fd, iov, iovs));
}

EXPORT ssize_t pwritev2(int fd, const struct iovec *iov, int iovs, off_t at, int flags)
{
	GIVING_OUT(fd, iov, (size_t)iovs, 0, REAL(pwritev2)(fd, iov, iovs, at, flags));
}
EXPORT_ALIAS(pwritev2, pwritev64v2);

EXPORT ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	static const struct msghdr nothing;
	const struct msghdr *m = readable(msg) ? msg : &nothing;

	GIVING_OUT(fd, n >= 0 ? m->msg_iov : NULL, n >= 0 ? m->msg_iovlen : 0, 0,
		   REAL(sendmsg)(fd, msg, flags));
}

EXPORT int sendmmsg(int fd, struct mmsghdr *msgs, unsigned count, int flags)
{
	struct thread *t = hook_entered();
	struct conn *c;
	struct wait w;
	uint64_t now;
	int n;

	if (!t)
		return REAL(sendmmsg)(fd, msgs, count, flags);
	c = conn_get(fd);
	if (c)
		conn_sending(t, c);
	WAIT_BEGIN(&w, t, IO, WAIT_BRIEF, fd, 0);
	n = REAL(sendmmsg)(fd, msgs, count, flags);
	now = wait_end(&w);
	for (int i = 0; c && conn_still(fd, c) && i < n; i++)
		sent(t, c, msgs[i].msg_hdr.msg_iov, msgs[i].msg_hdr.msg_iovlen, msgs[i].msg_len, 0,
		     now);
	return n;
}

EXPORT ssize_t sendfile(int fd, int from, off_t *at, size_t bytes)
{
	GIVING_OUT(fd, NULL, 0, bytes, REAL(sendfile)(fd, from, at, bytes));
}
EXPORT_ALIAS(sendfile, sendfile64);

/* Bytes pass unseen out of one descriptor into another. */
EXPORT ssize_t splice(int from, off64_t *from_at, int to, off64_t *to_at, size_t bytes,
		      unsigned flags)
{
	static const struct timespec no_stamp;
	struct thread *t = hook_entered();
	struct conn *in, *out;
	struct wait w;
	uint64_t now;
	ssize_t n;

	if (!t)
		return REAL(splice)(from, from_at, to, to_at, bytes, flags);
	in = conn_get(from);
	out = conn_get(to);
	if (out)
		conn_sending(t, out);
	WAIT_BEGIN(&w, t, IO, WAIT_LONG, in ? from : to, 0);
	n = REAL(splice)(from, from_at, to, to_at, bytes, flags);
	now = wait_end(&w);
	if (in && conn_still(from, in))
		received(t, in, NULL, 0, n, 0, &no_stamp, 0);
	if (out && conn_still(to, out))
		sent(t, out, NULL, 0, n, bytes, now);
	return n;
}

/* ---- Events ---- */

/* The thread lays down what it has: from here on it waits for whatever comes first. */
static void events_begin(struct thread *t)
{
	uint64_t now = clock_ns();

	request_park(t, now);
	t->busy_ns += now > t->event_exit_ns && t->event_exit_ns ? now - t->event_exit_ns : 0;
	t->event_exit_ns = now;
}

static void events_end(struct thread *t, uint64_t now_ns)
{
	int saved = errno;

	slice_begin(t, t->event_exit_ns, now_ns);
	t->event_exit_ns = now_ns;
	errno = saved;
}

/*
 * What a request that waits here is recorded under: its state is known when someone takes it up again. While requests
 * are parked here, the delay between the event and our running again is theirs.
 */
#define EVENTS(t, fd, at_once, call)                                                               \
  do {                                                                                             \
    struct wait events_;                                                                           \
    request_id parked_ = thread_current(t);                                                        \
    struct runq runq_;                                                                             \
    uint64_t then_;                                                                                \
    bool split_;                                                                                   \
                                                                                                   \
    events_begin(t);                                                                               \
    split_ = (t)->parked && !(at_once);                                                            \
    if (split_)                                                                                    \
      runq_before((t), (t)->event_exit_ns, &runq_);                                                \
    if (wait_enter(&events_, (t), (enum state)EVENT_WAIT, WAIT_BRIEF, (fd), 0)) {                  \
      (t)->wait.request = parked_;                                                                 \
      WAIT_WHERE(&(t)->wait);                                                                      \
      events_.seq = wait_publish(t);                                                               \
    }                                                                                              \
    n = call;                                                                                      \
    then_ = wait_end_idle(&events_);                                                               \
    if (split_)                                                                                    \
      (t)->event_runq_ns +=                                                                        \
	      runq_within((t), &runq_, RUNQ_EVENT, then_ - (t)->event_exit_ns, then_);             \
    events_end(t, then_);                                                                          \
  } while (0)

EXPORT int epoll_wait(int fd, struct epoll_event *events, int max, int timeout_ms)
{
	struct thread *t = hook_enter();
	int n;

	if (!t)
		return REAL(epoll_wait)(fd, events, max, timeout_ms);
	EVENTS(t, fd, timeout_ms == 0, REAL(epoll_wait)(fd, events, max, timeout_ms));
	return n;
}

EXPORT int epoll_pwait(int fd, struct epoll_event *events, int max, int timeout_ms,
		       const sigset_t *mask)
{
	struct thread *t = hook_enter();
	int n;

	if (!t)
		return REAL(epoll_pwait)(fd, events, max, timeout_ms, mask);
	EVENTS(t, fd, timeout_ms == 0, REAL(epoll_pwait)(fd, events, max, timeout_ms, mask));
	return n;
}

EXPORT int epoll_pwait2(int fd, struct epoll_event *events, int max, const struct timespec *timeout,
			const sigset_t *mask)
{
	struct thread *t = hook_enter();
	int n;

	if (!t)
		return REAL(epoll_pwait2)(fd, events, max, timeout, mask);
	EVENTS(t, fd, false, REAL(epoll_pwait2)(fd, events, max, timeout, mask));
	return n;
}

/*
 * poll and select are event loops, too, unless a request waits for its own descriptors only, or for nothing but time. Who
 * only asks (@at_once) does not wait, and does not lay its request down.
 */
static bool all_own(const struct thread *t, const struct pollfd *fds, nfds_t count, bool at_once)
{
	request_id id = thread_current(t);

	if (id && at_once)
		return true;
	if (!id || count > 4 || (count && !readable(fds)))
		return false;
	for (nfds_t i = 0; i < count; i++)
		if (fds[i].fd >= 0 && !conn_belongs(fds[i].fd, id))
			return false;
	return true;
}

#define POLLING(fds, count, at_once, call)                                                         \
  struct thread *t = hook_enter();                                                                 \
  struct wait w;                                                                                   \
  int n;                                                                                           \
                                                                                                   \
  if (!t)                                                                                          \
    return call;                                                                                   \
  if (all_own(t, fds, count, at_once)) {                                                           \
    WAIT_BEGIN(&w, t, (count) ? IO : SLEEP, (at_once) ? WAIT_BRIEF : WAIT_POLL,                    \
	       (count) && !(at_once) ? (fds)[0].fd : -1, 0);                                       \
    n = call;                                                                                      \
    wait_end(&w);                                                                                  \
  } else {                                                                                         \
    EVENTS(t, -1, at_once, call);                                                                  \
  }                                                                                                \
  return n

EXPORT int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
	POLLING(fds, count, timeout_ms == 0, REAL(poll)(fds, count, timeout_ms));
}
EXPORT_ALIAS(poll, __poll);

EXPORT int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
		 const sigset_t *mask)
{
	POLLING(fds, count, readable(timeout) && !timeout->tv_sec && !timeout->tv_nsec,
		REAL(ppoll)(fds, count, timeout, mask));
}

EXPORT int __poll_chk(struct pollfd *fds, nfds_t count, int timeout_ms, size_t room)
{
	CHECK(count, room / sizeof *fds);
	return poll(fds, count, timeout_ms);
}

EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
		       const sigset_t *mask, size_t room)
{
	CHECK(count, room / sizeof *fds);
	return ppoll(fds, count, timeout, mask);
}

/* The descriptors of a select as a poll would name them, when they are few. */
static nfds_t select_to_poll(int count, const fd_set *in, const fd_set *out, const fd_set *except,
			     struct pollfd *fds, nfds_t max)
{
	nfds_t found = 0;

	if ((in && !readable(in)) || (out && !readable(out)) || (except && !readable(except)))
		return max + 1;

	for (int fd = 0; fd < count && fd < FD_SETSIZE; fd++) {
		if (!(in && FD_ISSET(fd, in)) && !(out && FD_ISSET(fd, out)) &&
		    !(except && FD_ISSET(fd, except)))
			continue;
		if (found == max)
			return max + 1; /* more than anyone waits for in a request */
		fds[found++] = (struct pollfd){ .fd = fd };
	}
	return found;
}

#define SELECTING(count, in, out, except, at_once, call)                                           \
  struct pollfd fds_[4];                                                                           \
  nfds_t found_ = tls.self && thread_current(tls.self)                                             \
			  ? select_to_poll(count, in, out, except, fds_, 4)                        \
			  : 5;                                                                     \
                                                                                                   \
  POLLING(fds_, found_, at_once, call)

EXPORT int select(int count, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout)
{
	SELECTING(count, in, out, except,
		  readable(timeout) && !timeout->tv_sec && !timeout->tv_usec,
		  REAL(select)(count, in, out, except, timeout));
}
EXPORT_ALIAS(select, __select);

EXPORT int pselect(int count, fd_set *in, fd_set *out, fd_set *except,
		   const struct timespec *timeout, const sigset_t *mask)
{
	SELECTING(count, in, out, except,
		  readable(timeout) && !timeout->tv_sec && !timeout->tv_nsec,
		  REAL(pselect)(count, in, out, except, timeout, mask));
}

/* ---- Descriptors ---- */

/* A thread that takes a connection lays down what it had; the time it waits for one is idle. */
#define ACCEPTING(fd, call)                                                                        \
  struct thread *t = hook_enter();                                                                 \
  uint64_t entered;                                                                                \
  int n, saved;                                                                                    \
                                                                                                   \
  if (!t)                                                                                          \
    return call;                                                                                   \
  saved = errno;                                                                                   \
  entered = clock_ns();                                                                            \
  request_park(t, entered);                                                                        \
  errno = saved;                                                                                   \
  n = call;                                                                                        \
  saved = errno;                                                                                   \
  if (n >= 0)                                                                                      \
    conn_accepted(n, conn_listening(fd));                                                          \
  slice_begin(t, entered, clock_ns());                                                             \
  errno = saved;                                                                                   \
  return n

EXPORT int accept(int fd, struct sockaddr *from, socklen_t *len)
{
	ACCEPTING(fd, REAL(accept)(fd, from, len));
}

EXPORT int accept4(int fd, struct sockaddr *from, socklen_t *len, int flags)
{
	ACCEPTING(fd, REAL(accept4)(fd, from, len, flags));
}

EXPORT int connect(int fd, const struct sockaddr *to, socklen_t len)
{
	struct thread *t = hook_enter();
	struct wait w;
	int n;

	if (!t)
		return REAL(connect)(fd, to, len);
	conn_connecting(fd, thread_current(t));
	if (!thread_current(t))
		return REAL(connect)(fd, to, len);
	WAIT_BEGIN(&w, t, IO, WAIT_LONG, fd, 0);
	n = REAL(connect)(fd, to, len);
	wait_end(&w);
	if (n < 0 && errno == EINPROGRESS)
		conn_in_progress(fd);
	return n;
}
EXPORT_ALIAS(connect, __connect);

EXPORT int socket(int domain, int type, int protocol)
{
	int fd = REAL(socket)(domain, type, protocol);

	if (fd >= 0 && hook_entered())
		conn_forget(fd);
	return fd;
}

EXPORT int socketpair(int domain, int type, int protocol, int pair[2])
{
	int n = REAL(socketpair)(domain, type, protocol, pair);

	if (n == 0 && hook_entered()) {
		conn_forget(pair[0]);
		conn_forget(pair[1]);
	}
	return n;
}

EXPORT int listen(int fd, int backlog)
{
	int n = REAL(listen)(fd, backlog);

	if (n == 0 && hook_enter())
		conn_set_listening(fd, conn_stamp(fd));
	return n;
}

EXPORT int shutdown(int fd, int how)
{
	struct thread *t = hook_entered();

	if (t && how != SHUT_RD) {
		int saved = errno;

		conn_closing(t, fd, true);
		errno = saved;
	}
	return REAL(shutdown)(fd, how);
}

EXPORT int close(int fd)
{
	struct thread *t = hook_entered();

	if (t) {
		int saved = errno;

		conn_closing(t, fd, false);
		errno = saved;
	}
	return REAL(close)(fd);
}
EXPORT_ALIAS(close, __close);

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	int n = REAL(close_range)(first, last, flags);
	struct thread *t =
		n == 0 && !((unsigned)flags & CLOSE_RANGE_CLOEXEC) ? hook_entered() : NULL;

	if (t) {
		int saved = errno;

		conn_forget_range(t, first, last);
		errno = saved;
	}
	return n;
}

EXPORT void closefrom(int first)
{
	struct thread *t = hook_entered();

	REAL(closefrom)(first);
	if (t)
		conn_forget_range(t, first < 0 ? 0 : (unsigned)first, UINT_MAX);
}

/* The third argument is an int or a pointer, whatever the command wants: it is handed on as the wider one. */
EXPORT int fcntl(int fd, int command, ...)
{
	va_list list;
	void *argument;
	int n;

	va_start(list, command);
	argument = va_arg(list, void *);
	va_end(list);
	n = REAL(fcntl)(fd, command, argument);
	if (unlikely(command == F_DUPFD || command == F_DUPFD_CLOEXEC) && n >= 0 && hook_entered())
		conn_duplicated(fd, n);
	return n;
}
EXPORT_ALIAS(fcntl, fcntl64);
EXPORT_ALIAS(fcntl, __fcntl);

EXPORT int dup(int fd)
{
	int copy = REAL(dup)(fd);

	if (copy >= 0 && hook_entered())
		conn_duplicated(fd, copy);
	return copy;
}

#define DUPLICATING(fd, copy, call)                                                                \
  struct thread *t = hook_entered();                                                               \
  int n;                                                                                           \
                                                                                                   \
  if (!t)                                                                                          \
    return call;                                                                                   \
  n = call;                                                                                        \
  if (n >= 0 && (fd) != (copy)) {                                                                  \
    int saved_ = errno;                                                                            \
                                                                                                   \
    conn_closing(t, copy, false);                                                                  \
    conn_duplicated(fd, copy);                                                                     \
    errno = saved_;                                                                                \
  }                                                                                                \
  return n

EXPORT int dup2(int fd, int copy)
{
	DUPLICATING(fd, copy, REAL(dup2)(fd, copy));
}
EXPORT_ALIAS(dup2, __dup2);

EXPORT int dup3(int fd, int copy, int flags)
{
	DUPLICATING(fd, copy, REAL(dup3)(fd, copy, flags));
}

static bool about_stamps(int level, int option)
{
	return level == SOL_SOCKET &&
	       (option == SO_TIMESTAMP || option == SO_TIMESTAMPNS || option == SO_TIMESTAMPING ||
		option == SO_TIMESTAMP_NEW || option == SO_TIMESTAMPNS_NEW ||
		option == SO_TIMESTAMPING_NEW);
}

EXPORT int setsockopt(int fd, int level, int option, const void *value, socklen_t len)
{
	struct thread *t;

	if (unlikely(about_stamps(level, option)) && hook_entered())
		conn_host_stamps(fd);
	if (unlikely(level == IPPROTO_TCP && option == TCP_ULP) && (t = hook_entered()) != NULL)
		conn_opaque(t, fd);
	return REAL(setsockopt)(fd, level, option, value, len);
}

/* The host does not find the timestamps that it did not ask for. */
EXPORT int getsockopt(int fd, int level, int option, void *value, socklen_t *len)
{
	int n = REAL(getsockopt)(fd, level, option, value, len);
	struct thread *t;
	int flags, saved;

	if (level != SOL_SOCKET || n)
		return n;
	if (unlikely(option == SO_TIMESTAMPING || option == SO_TIMESTAMPING_NEW) &&
	    *len >= sizeof flags) {
		memcpy(&flags, value, sizeof flags);
		if (conn_own_stamps(flags))
			memset(value, 0, sizeof flags);
	} else if (option == SO_ERROR && (t = hook_entered()) != NULL) {
		saved = errno;
		conn_asked(t, fd);
		errno = saved;
	}
	return n;
}
