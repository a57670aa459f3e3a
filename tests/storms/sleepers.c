/* SPDX-License-Identifier: MIT
 *
 * Whoever waits is left alone. "Still" threads sit in one blocking call each for the whole storm, beside threads that burn:
 * the kernel's own counters say that they were neither woken nor signalled. "Brief" threads burn a little and wait a
 * little, over and over, in every call that SA_RESTART does not restart: none returns EINTR, and none early. The burning
 * is what makes a timer expire just before, or on the way into, the call.
 */
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "include/sonde.h"
#include "tests/storms/storm.h"

/* ---- Still ---- */

static struct {
	int pipe[2], pair[2], timed_pair[2], listener, full_pipe[2], event, epoll, msg, sem,
		locked[2];
	sem_t semaphore;
	pthread_mutex_t mutex, cond_mutex;
	pthread_cond_t cond;
	bool told;
	uint32_t word;
	aio_context_t aio;
	pthread_t joined;
	pid_t child;
	mqd_t queue;
	struct sockaddr_in address;
} it;

static long raw_futex(uint32_t *word, int op, uint32_t value, const struct timespec *timeout)
{
	return syscall(SYS_futex, word, op, value, timeout, NULL, 0);
}

/* For waits that nothing ends but time: until a little after the storm. */
static struct timespec until_end(void)
{
	uint64_t end = storm_until_ns + 300000000, now = storm_clock_ns(),
		 ns = end > now ? end - now : 0;

	return (struct timespec){ (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
}

static bool still_read(void)
{
	char b;

	return read(it.pipe[0], &b, 1) == 1 && b == 'r';
}

static bool still_poll(void)
{
	struct pollfd p = { .fd = it.event, .events = POLLIN };

	return poll(&p, 1, -1) == 1 && p.revents == POLLIN;
}

static bool still_ppoll(void)
{
	struct pollfd p = { .fd = it.event, .events = POLLIN };
	struct timespec long_ago = { .tv_sec = 3600 };

	return ppoll(&p, 1, &long_ago, NULL) == 1 && p.revents == POLLIN;
}

static bool still_select(void)
{
	struct timeval hour = { .tv_sec = 3600 };
	fd_set set;

	FD_ZERO(&set);
	FD_SET(it.event, &set);
	return select(it.event + 1, &set, NULL, NULL, &hour) == 1 && FD_ISSET(it.event, &set);
}

static bool still_pselect(void)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(it.event, &set);
	return pselect(it.event + 1, &set, NULL, NULL, NULL, NULL) == 1;
}

static bool still_epoll_wait(void)
{
	struct epoll_event e;

	return epoll_wait(it.epoll, &e, 1, -1) == 1 && e.data.fd == it.event;
}

static bool still_epoll_pwait(void)
{
	struct epoll_event e;

	return epoll_pwait(it.epoll, &e, 1, 3600000, NULL) == 1 && e.data.fd == it.event;
}

static bool still_write(void)
{
	return write(it.full_pipe[1], "w", 1) == 1;
}

static bool still_recv(void)
{
	char b;

	return recv(it.pair[0], &b, 1, MSG_WAITALL) == 1 && b == 's';
}

static bool still_recv_timeout(void)
{
	char b;

	return recv(it.timed_pair[0], &b, 1, 0) == 1 && b == 't';
}

static bool still_accept(void)
{
	int fd = accept(it.listener, NULL, NULL);

	return fd >= 0 && close(fd) == 0;
}

static bool still_sem_wait(void)
{
	return sem_wait(&it.semaphore) == 0;
}

static bool still_sem_clockwait(void)
{
	struct timespec hour = storm_in_us(CLOCK_MONOTONIC, 3600000000l);

	return sem_clockwait(&it.semaphore, CLOCK_MONOTONIC, &hour) == 0;
}

static bool still_mutex(void)
{
	return pthread_mutex_lock(&it.mutex) == 0 && pthread_mutex_unlock(&it.mutex) == 0;
}

static bool still_cond(void)
{
	bool ok = pthread_mutex_lock(&it.cond_mutex) == 0;

	while (ok && !it.told)
		ok = pthread_cond_wait(&it.cond, &it.cond_mutex) == 0 && it.told;
	return pthread_mutex_unlock(&it.cond_mutex) == 0 && ok;
}

static bool still_futex(void)
{
	return raw_futex(&it.word, FUTEX_WAIT_PRIVATE, 0, NULL) == 0;
}

static bool still_join(void)
{
	void *value;

	return pthread_join(it.joined, &value) == 0 && value == &it;
}

static bool still_waitpid(void)
{
	int status;

	return waitpid(it.child, &status, 0) == it.child && WIFEXITED(status) &&
	       WEXITSTATUS(status) == 7;
}

static bool still_fcntl(void)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };

	return fcntl(it.locked[1], F_OFD_SETLKW, &lock) == 0;
}

static bool still_msgrcv(void)
{
	struct {
		long type;
		char text[8];
	} m;

	return msgrcv(it.msg, &m, sizeof m.text, 1, 0) == 2 && m.text[0] == 'm';
}

static bool still_semop(void)
{
	struct sembuf down = { .sem_op = -1 };

	return semop(it.sem, &down, 1) == 0;
}

static bool still_mq(void)
{
	char text[16];

	return mq_receive(it.queue, text, sizeof text, NULL) == 3;
}

static bool still_io_getevents(void)
{
	struct timespec t = until_end();
	struct io_event e;

	return syscall(SYS_io_getevents, it.aio, 1, 1, &e, &t) == 0; /* nothing is ever done */
}

static bool still_sigwait(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	return sigwaitinfo(&set, NULL) == SIGUSR1;
}

static volatile sig_atomic_t usr2;

static void on_usr2(int number)
{
	usr2 = number;
}

/* The one call that is meant to return EINTR, and only for the host's own signal. */
static bool still_sigsuspend(void)
{
	sigset_t set;

	sigemptyset(&set);
	return sigsuspend(&set) == -1 && errno == EINTR && usr2 == SIGUSR2;
}

static bool still_nanosleep(void)
{
	struct timespec t = until_end();

	return nanosleep(&t, NULL) == 0 && !storm_on();
}

static bool still_clock_nanosleep(void)
{
	uint64_t end = storm_until_ns + 300000000;
	struct timespec t = { (time_t)(end / 1000000000u), (long)(end % 1000000000u) };

	return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == 0 && !storm_on();
}

static struct still {
	const char *name;
	bool (*wait)(void);
	pthread_t thread;
	pid_t tid;
	bool ended, request; /* half of them wait with a request in hand */
} stills[] = {
	{ .name = "read", .wait = still_read },
	{ .name = "poll", .wait = still_poll },
	{ .name = "ppoll", .wait = still_ppoll },
	{ .name = "select", .wait = still_select },
	{ .name = "pselect", .wait = still_pselect },
	{ .name = "epoll_wait", .wait = still_epoll_wait },
	{ .name = "epoll_pwait", .wait = still_epoll_pwait },
	{ .name = "write", .wait = still_write },
	{ .name = "recv", .wait = still_recv },
	{ .name = "recv with a timeout", .wait = still_recv_timeout },
	{ .name = "accept", .wait = still_accept },
	{ .name = "sem_wait", .wait = still_sem_wait },
	{ .name = "sem_clockwait", .wait = still_sem_clockwait },
	{ .name = "mutex", .wait = still_mutex },
	{ .name = "cond_wait", .wait = still_cond },
	{ .name = "futex", .wait = still_futex },
	{ .name = "join", .wait = still_join },
	{ .name = "waitpid", .wait = still_waitpid },
	{ .name = "fcntl", .wait = still_fcntl },
	{ .name = "msgrcv", .wait = still_msgrcv },
	{ .name = "semop", .wait = still_semop },
	{ .name = "mq_receive", .wait = still_mq },
	{ .name = "io_getevents", .wait = still_io_getevents },
	{ .name = "sigwaitinfo", .wait = still_sigwait },
	{ .name = "sigsuspend", .wait = still_sigsuspend },
	{ .name = "nanosleep", .wait = still_nanosleep },
	{ .name = "clock_nanosleep", .wait = still_clock_nanosleep },
};
enum {
	STILLS = sizeof stills / sizeof *stills
};

static struct tally still_right = TALLY("a long wait returns what it was woken with"),
		    still_sleeps = TALLY("a long wait goes on to its end"),
		    still_switches = TALLY("no context switch of a thread that waits"),
		    still_signals = TALLY("no signal pending on a thread that waits");

static void *still_main(void *argument)
{
	struct still *s = argument;
	sonde_request request = s->request ? sonde_begin(s->name) : 0;
	bool ok;

	storm_burn(3000);
	__atomic_store_n(&s->tid, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	errno = 0;
	ok = s->wait();
	tally(&still_right, ok, "%s: %s", s->name, strerror(errno));
	__atomic_store_n(&s->ended, true, __ATOMIC_RELEASE);
	sonde_end(request, 0);
	return NULL;
}

/* Of /proc/self/task/TID/status. */
struct counters {
	unsigned long voluntary, forced, pending;
	char state;
};

static struct counters counters_of(pid_t tid)
{
	struct counters c = { .voluntary = (unsigned long)-1 };
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof path, "/proc/self/task/%d/status", (int)tid);
	f = fopen(path, "re");
	if (!f)
		return c;
	while (fgets(line, sizeof line, f)) {
		sscanf(line, "State: %c", &c.state);
		sscanf(line, "SigPnd: %lx", &c.pending);
		sscanf(line, "voluntary_ctxt_switches: %lu", &c.voluntary);
		sscanf(line, "nonvoluntary_ctxt_switches: %lu", &c.forced);
	}
	fclose(f);
	return c;
}

static void *waits_for_pipe(void *end)
{
	char b;

	return read(*(int *)end, &b, 1) == 1 ? &it : NULL;
}

static int to_join[2];

static void prepare(void)
{
	struct timeval hour = { .tv_sec = 3600 };
	struct mq_attr attributes = { .mq_maxmsg = 4, .mq_msgsize = 16 };
	struct epoll_event e = { .events = EPOLLIN };
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };
	struct sigaction action = { .sa_handler = on_usr2, .sa_flags = SA_RESTART };
	char name[] = "/tmp/storm-XXXXXX", mq_name[64];
	sigset_t set;

	MUST(pipe(it.pipe));
	MUST(pipe2(it.full_pipe, O_NONBLOCK));
	while (write(it.full_pipe[1], name, sizeof name) > 0 || write(it.full_pipe[1], name, 1) > 0)
		;
	MUST(fcntl(it.full_pipe[1], F_SETFL, 0));
	MUST(pipe(to_join));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, it.pair));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, it.timed_pair));
	MUST(setsockopt(it.timed_pair[0], SOL_SOCKET, SO_RCVTIMEO, &hour, sizeof hour));
	MUST(it.listener = socket(AF_INET, SOCK_STREAM, 0));
	it.address = (struct sockaddr_in){ .sin_family = AF_INET,
					   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	MUST(bind(it.listener, (struct sockaddr *)&it.address, sizeof it.address));
	MUST(listen(it.listener, 1));
	MUST(getsockname(it.listener, (struct sockaddr *)&it.address,
			 &(socklen_t){ sizeof it.address }));
	MUST(it.event = eventfd(0, 0));
	MUST(it.epoll = epoll_create1(0));
	e.data.fd = it.event;
	MUST(epoll_ctl(it.epoll, EPOLL_CTL_ADD, it.event, &e));
	MUST(it.msg = msgget(IPC_PRIVATE, 0600));
	MUST(it.sem = semget(IPC_PRIVATE, 1, 0600));
	MUST(sem_init(&it.semaphore, 0, 0));
	MUST(syscall(SYS_io_setup, 4, &it.aio));
	snprintf(mq_name, sizeof mq_name, "/storm-%d", (int)getpid());
	MUST(it.queue = mq_open(mq_name, O_CREAT | O_EXCL | O_RDWR, 0600, &attributes));
	MUST(mq_unlink(mq_name));
	MUST(it.locked[0] = mkstemp(name));
	MUST(it.locked[1] = open(name, O_RDWR));
	MUST(unlink(name));
	MUST(fcntl(it.locked[0], F_OFD_SETLK, &lock));
	MUST_0(pthread_mutex_init(&it.mutex, NULL));
	MUST_0(pthread_mutex_init(&it.cond_mutex, NULL));
	MUST_0(pthread_cond_init(&it.cond, NULL));
	pthread_mutex_lock(&it.mutex);
	MUST(it.child = fork());
	if (it.child == 0) {
		char b;

		close(to_join[1]);
		while (read(to_join[0], &b, 1) < 0)
			;
		_exit(b == 'c' ? 7 : 1);
	}
	MUST_0(pthread_create(&it.joined, NULL, waits_for_pipe, &to_join[0]));
	MUST(sigaction(SIGUSR2, &action, NULL));
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	MUST_0(pthread_sigmask(SIG_BLOCK, &set, NULL));
}

static pthread_t thread_in(bool (*wait)(void))
{
	for (int i = 0; i < STILLS; i++)
		if (stills[i].wait == wait)
			return stills[i].thread;
	abort();
}

static void wake_all(void)
{
	struct {
		long type;
		char text[2];
	} m = { 1, "m" };
	struct sembuf up = { .sem_op = 1 };
	struct flock unlock = { .l_type = F_UNLCK, .l_whence = SEEK_SET, .l_len = 1 };
	char much[4096];
	int fd;

	MUST(write(it.pipe[1], "r", 1));
	MUST(write(it.pair[1], "s", 1));
	MUST(write(it.timed_pair[1], "t", 1));
	MUST(read(it.full_pipe[0], much, sizeof much));
	MUST(fd = socket(AF_INET, SOCK_STREAM, 0));
	MUST(connect(fd, (struct sockaddr *)&it.address, sizeof it.address));
	MUST(write(it.event, &(uint64_t){ 1 }, 8));
	MUST(msgsnd(it.msg, &m, sizeof m.text, 0));
	MUST(semop(it.sem, &up, 1));
	MUST(mq_send(it.queue, "mq", 3, 0));
	MUST(sem_post(&it.semaphore));
	MUST(sem_post(&it.semaphore));
	MUST(fcntl(it.locked[0], F_OFD_SETLK, &unlock));
	MUST(write(to_join[1], "cc", 2));
	MUST_0(pthread_mutex_unlock(&it.mutex));
	pthread_mutex_lock(&it.cond_mutex);
	it.told = true;
	MUST_0(pthread_cond_signal(&it.cond));
	pthread_mutex_unlock(&it.cond_mutex);
	it.word = 1;
	MUST(raw_futex(&it.word, FUTEX_WAKE_PRIVATE, 1, NULL));
	MUST_0(pthread_kill(thread_in(still_sigwait), SIGUSR1));
	MUST_0(pthread_kill(thread_in(still_sigsuspend), SIGUSR2));
	for (int i = 0; i < STILLS; i++)
		MUST_0(pthread_join(stills[i].thread, NULL));
	close(fd);
}

static void clear_away(void)
{
	const int fds[] = { it.pipe[0],       it.pipe[1],       it.pair[0],  it.pair[1],
			    it.timed_pair[0], it.timed_pair[1], it.listener, it.full_pipe[0],
			    it.full_pipe[1],  it.event,         it.epoll,    it.locked[0],
			    it.locked[1],     to_join[0],       to_join[1] };
	sigset_t set;

	for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++)
		MUST(close(fds[i]));
	MUST(mq_close(it.queue));
	MUST(msgctl(it.msg, IPC_RMID, NULL));
	MUST(semctl(it.sem, 0, IPC_RMID));
	MUST(syscall(SYS_io_destroy, it.aio));
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	MUST_0(pthread_sigmask(SIG_UNBLOCK, &set, NULL));
}

/* ---- Brief: each call waits @us for nothing; how it says so, 0 for right, else errno or what it returned ---- */

struct brief {
	int pair[2], listener, epoll, pipe[2], sem, msg;
	aio_context_t aio;
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	sem_t semaphore, end;
	uint32_t word;
	mqd_t queue;
	pthread_t other;
};

static int timed_out(long r, long wanted, int error)
{
	if (r == wanted && (r >= 0 || errno == error))
		return 0;
	return r < 0 ? errno : (int)r + 1000;
}

static struct timespec span(long us)
{
	return (struct timespec){ .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
}

static int brief_poll(struct brief *b, long us)
{
	struct pollfd p = { .fd = b->pipe[0], .events = POLLIN };

	return timed_out(poll(&p, 1, (int)(us + 999) / 1000), 0, 0);
}

static int brief_ppoll(struct brief *b, long us)
{
	struct pollfd p = { .fd = b->pipe[0], .events = POLLIN };
	struct timespec t = span(us);

	return timed_out(ppoll(&p, 1, &t, NULL), 0, 0);
}

static int brief_select(struct brief *b, long us)
{
	struct timeval t = { .tv_usec = us };
	fd_set set;

	FD_ZERO(&set);
	FD_SET(b->pipe[0], &set);
	return timed_out(select(b->pipe[0] + 1, &set, NULL, NULL, &t), 0, 0);
}

static int brief_pselect(struct brief *b, long us)
{
	struct timespec t = span(us);
	fd_set set;

	FD_ZERO(&set);
	FD_SET(b->pipe[0], &set);
	return timed_out(pselect(b->pipe[0] + 1, &set, NULL, NULL, &t, NULL), 0, 0);
}

static int brief_epoll_wait(struct brief *b, long us)
{
	struct epoll_event e;

	return timed_out(epoll_wait(b->epoll, &e, 1, (int)(us + 999) / 1000), 0, 0);
}

static int brief_epoll_pwait(struct brief *b, long us)
{
	struct epoll_event e;

	return timed_out(epoll_pwait(b->epoll, &e, 1, (int)(us + 999) / 1000, NULL), 0, 0);
}

static int brief_nanosleep(struct brief *b, long us)
{
	struct timespec t = span(us), left = { 0 };

	(void)b;
	return timed_out(nanosleep(&t, &left), 0, 0);
}

static int brief_clock_nanosleep(struct brief *b, long us)
{
	struct timespec t = span(us);

	(void)b;
	return clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

static int brief_sleep_until(struct brief *b, long us)
{
	struct timespec t = storm_in_us(CLOCK_MONOTONIC, us);

	(void)b;
	return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static int brief_usleep(struct brief *b, long us)
{
	(void)b;
	return timed_out(usleep((useconds_t)us), 0, 0);
}

static int brief_sem(struct brief *b, long us)
{
	struct timespec t = storm_in_us(CLOCK_MONOTONIC, us);

	return timed_out(sem_clockwait(&b->semaphore, CLOCK_MONOTONIC, &t), -1, ETIMEDOUT);
}

static int brief_cond(struct brief *b, long us)
{
	struct timespec t = storm_in_us(CLOCK_MONOTONIC, us);
	int r = pthread_mutex_lock(&b->mutex);

	if (r)
		return r;
	r = pthread_cond_clockwait(&b->cond, &b->mutex, CLOCK_MONOTONIC, &t);
	return pthread_mutex_unlock(&b->mutex) ? 2000 : r == ETIMEDOUT ? 0 : r ? r : 3000;
}

static int brief_join(struct brief *b, long us)
{
	struct timespec t = storm_in_us(CLOCK_MONOTONIC, us);
	int r = pthread_clockjoin_np(b->other, NULL, CLOCK_MONOTONIC, &t);

	return r == ETIMEDOUT ? 0 : r ? r : 3000;
}

static int brief_futex(struct brief *b, long us)
{
	struct timespec t = span(us);

	return timed_out(raw_futex(&b->word, FUTEX_WAIT_PRIVATE, 0, &t), -1, ETIMEDOUT);
}

/* These keep their time to the kernel's ticks: a storm of them is slower, 4 ms is the least. */
static int set_timeout(int fd, long us)
{
	struct timeval t = { .tv_usec = us };

	return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

static int brief_recv(struct brief *b, long us)
{
	char byte;

	return set_timeout(b->pair[0], us) ? errno
					   : timed_out(recv(b->pair[0], &byte, 1, 0), -1, EAGAIN);
}

static int brief_read(struct brief *b, long us)
{
	char byte;

	return set_timeout(b->pair[0], us) ? errno
					   : timed_out(read(b->pair[0], &byte, 1), -1, EAGAIN);
}

static int brief_accept(struct brief *b, long us)
{
	return set_timeout(b->listener, us)
		       ? errno
		       : timed_out(accept(b->listener, NULL, NULL), -1, EAGAIN);
}

static int brief_sigtimedwait(struct brief *b, long us)
{
	struct timespec t = span(us);
	sigset_t set;

	(void)b;
	sigfillset(&set);
	return timed_out(sigtimedwait(&set, NULL, &t), -1, EAGAIN);
}

static int brief_semtimedop(struct brief *b, long us)
{
	struct timespec t = span(us);
	struct sembuf down = { .sem_op = -1 };

	return timed_out(semtimedop(b->sem, &down, 1, &t), -1, EAGAIN);
}

static int brief_mq(struct brief *b, long us)
{
	struct timespec t = storm_in_us(CLOCK_REALTIME, us);
	char text[16];

	return timed_out(mq_timedreceive(b->queue, text, sizeof text, NULL, &t), -1, ETIMEDOUT);
}

static int brief_io_getevents(struct brief *b, long us)
{
	struct timespec t = span(us);
	struct io_event e;

	return timed_out(syscall(SYS_io_getevents, b->aio, 1, 1, &e, &t), 0, 0);
}

/* @us: what the call is asked to wait at least; SO_RCVTIMEO counts in ticks, of which the first may be cut short. */
static struct {
	const char *name;
	int (*wait)(struct brief *, long us);
	long slack_us;
} briefs[] = {
	{ "poll", brief_poll, 0 },
	{ "ppoll", brief_ppoll, 0 },
	{ "select", brief_select, 0 },
	{ "pselect", brief_pselect, 0 },
	{ "epoll_wait", brief_epoll_wait, 0 },
	{ "epoll_pwait", brief_epoll_pwait, 0 },
	{ "nanosleep", brief_nanosleep, 0 },
	{ "clock_nanosleep", brief_clock_nanosleep, 0 },
	{ "clock_nanosleep until", brief_sleep_until, 0 },
	{ "usleep", brief_usleep, 0 },
	{ "sem_clockwait", brief_sem, 0 },
	{ "cond_clockwait", brief_cond, 0 },
	{ "clockjoin", brief_join, 0 },
	{ "futex", brief_futex, 0 },
	{ "recv", brief_recv, 10000 },
	{ "read", brief_read, 10000 },
	{ "accept", brief_accept, 10000 },
	{ "sigtimedwait", brief_sigtimedwait, 0 },
	{ "semtimedop", brief_semtimedop, 0 },
	{ "mq_timedreceive", brief_mq, 1000 },
	{ "io_getevents", brief_io_getevents, 0 },
};
enum {
	BRIEFS = sizeof briefs / sizeof *briefs,
	BRIEF_THREADS = 6
};

static struct tally brief_right[BRIEFS], brief_early = TALLY("no brief wait returns early");
static char brief_names[BRIEFS][64];

static void *idle(void *brief)
{
	sem_wait(&((struct brief *)brief)->end);
	return NULL;
}

static void brief_open(struct brief *b)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct mq_attr attributes = { .mq_maxmsg = 4, .mq_msgsize = 16 };
	char name[64];

	memset(b, 0, sizeof *b);
	MUST(pipe(b->pipe));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, b->pair));
	MUST(b->listener = socket(AF_INET, SOCK_STREAM, 0));
	MUST(bind(b->listener, (struct sockaddr *)&a, sizeof a));
	MUST(listen(b->listener, 1));
	MUST(b->epoll = epoll_create1(0));
	MUST(b->sem = semget(IPC_PRIVATE, 1, 0600));
	MUST(sem_init(&b->semaphore, 0, 0));
	MUST(syscall(SYS_io_setup, 4, &b->aio));
	MUST_0(pthread_mutex_init(&b->mutex, NULL));
	MUST_0(pthread_cond_init(&b->cond, NULL));
	snprintf(name, sizeof name, "/storm-%ld", syscall(SYS_gettid));
	MUST(b->queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attributes));
	MUST(mq_unlink(name));
	MUST(sem_init(&b->end, 0, 0));
	MUST_0(pthread_create(&b->other, NULL, idle, b));
}

static void brief_close(struct brief *b)
{
	MUST(sem_post(&b->end));
	MUST_0(pthread_join(b->other, NULL));
	for (int i = 0; i < 2; i++) {
		MUST(close(b->pipe[i]));
		MUST(close(b->pair[i]));
	}
	MUST(close(b->listener));
	MUST(close(b->epoll));
	MUST(mq_close(b->queue));
	MUST(semctl(b->sem, 0, IPC_RMID));
	MUST(syscall(SYS_io_destroy, b->aio));
}

static void *brief_main(void *seed)
{
	const unsigned first = (unsigned)(uintptr_t)seed;
	uint32_t random = first;
	struct brief b;

	brief_open(&b);
	/* each of them once at least, however slow the machine */
	for (unsigned i = first; storm_on() || i < first + BRIEFS; i++) {
		unsigned which = i % BRIEFS;
		long us = 200 + (long)(storm_random(&random) % 1500);
		sonde_request request = i % 3 ? sonde_begin("brief") : 0;
		uint64_t start, took;
		int r;

		storm_burn(storm_random(&random) % 1500);
		start = storm_clock_ns();
		errno = 0;
		r = briefs[which].wait(&b, us);
		took = (storm_clock_ns() - start) / 1000;
		sonde_end(request, 0);
		tally(&brief_right[which], r == 0, "%s: %s (%d)", briefs[which].name, strerror(r),
		      r);
		tally(&brief_early, (long)took + briefs[which].slack_us >= us,
		      "%s took %ld of %ld us", briefs[which].name, (long)took, us);
	}
	brief_close(&b);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t busy[2], brief[BRIEF_THREADS];
	struct counters before[STILLS];

	storm_begin(argc, argv);
	tally_list(&still_right);
	tally_list(&still_sleeps);
	tally_list(&still_switches);
	tally_list(&still_signals);
	for (int i = 0; i < BRIEFS; i++) {
		snprintf(brief_names[i], sizeof *brief_names, "%s waits to its end",
			 briefs[i].name);
		brief_right[i].what = brief_names[i];
		tally_list(&brief_right[i]);
	}
	tally_list(&brief_early);
	prepare();
	for (int i = 0; i < STILLS; i++) {
		stills[i].request = i % 2;
		MUST_0(pthread_create(&stills[i].thread, NULL, still_main, &stills[i]));
	}
	for (int i = 0; i < STILLS; i++) { /* until it has begun, and sleeps */
		struct counters c = { 0 };

		while (!__atomic_load_n(&stills[i].tid, __ATOMIC_ACQUIRE))
			usleep(1000);
		while ((c = counters_of(stills[i].tid)).state != 'S' &&
		       !__atomic_load_n(&stills[i].ended, __ATOMIC_ACQUIRE))
			usleep(1000);
		usleep(2000); /* the last step is a short one */
		before[i] = counters_of(stills[i].tid);
	}
	for (uintptr_t i = 0; i < 2; i++)
		MUST_0(pthread_create(&busy[i], NULL, storm_burner, NULL));
	for (uintptr_t i = 0; i < BRIEF_THREADS; i++)
		MUST_0(pthread_create(&brief[i], NULL, brief_main, (void *)(i * 4 + 1)));
	/* Some waits end by themselves soon after. */
	while (storm_on())
		usleep(10000);
	for (int i = 0; i < STILLS; i++) {
		struct counters c = counters_of(stills[i].tid);
		bool late = storm_clock_ns() > storm_until_ns + 200000000;

		if (late && __atomic_load_n(&stills[i].ended, __ATOMIC_ACQUIRE))
			continue;
		tally(&still_sleeps, !stills[i].ended, "%s is over", stills[i].name);
		tally(&still_switches,
		      c.voluntary == before[i].voluntary && c.forced == before[i].forced,
		      "%s: %lu and %lu context switches more", stills[i].name,
		      c.voluntary - before[i].voluntary, c.forced - before[i].forced);
		tally(&still_signals, c.pending == 0, "%s: %lx", stills[i].name, c.pending);
	}
	wake_all();
	for (int i = 0; i < 2; i++)
		MUST_0(pthread_join(busy[i], NULL));
	for (int i = 0; i < BRIEF_THREADS; i++)
		MUST_0(pthread_join(brief[i], NULL));
	clear_away();
	return storm_end();
}
