/* SPDX-License-Identifier: MIT
 *
 * Servers that lock themselves in: a filter that kills for any system call which the program does not make itself. By
 * prctl() and by syscall(), for this thread and for all; then connections, locks, threads, children and an exit as usual.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "include/sonde.h"
#include "tests/storms/storm.h"

enum {
	RIGHT = 7,
	HOWS = 4
};

static struct tally by[HOWS] = { TALLY("a filter by prctl kills nobody"),
				 TALLY("a filter by syscall kills nobody"),
				 TALLY("a filter for all threads kills nobody"),
				 TALLY("a child of one that is locked in lives") },
		    waiting = TALLY("threads that wait when the filter comes wake up"),
		    strict = TALLY("strict mode kills nobody"),
		    asked = TALLY("asking for filters is no filter");

/* What this program does after the filter has come, and what libc does for that. */
static const int allowed[] = { SYS_read, SYS_write, SYS_close, SYS_sendto, SYS_recvfrom,
			       SYS_recvmsg, SYS_accept, SYS_exit, SYS_exit_group, SYS_futex,
			       /* threads: their stacks, and their start */
			       SYS_mmap, SYS_mprotect, SYS_munmap, SYS_madvise, SYS_brk, SYS_clone,
			       SYS_clone3, SYS_set_robust_list, SYS_rseq, SYS_rt_sigprocmask,
			       SYS_rt_sigreturn,
			       /* children */
			       SYS_wait4,
			       /* note() of what went wrong; the clock where there is no vdso */
			       SYS_clock_gettime };

static int lock_in(int how)
{
	enum {
		COUNT = sizeof allowed / sizeof *allowed
	};
	struct sock_filter program[COUNT + 3];
	struct sock_fprog fprog = { .len = COUNT + 3, .filter = program };

	program[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						  offsetof(struct seccomp_data, nr));
	for (unsigned i = 0; i < COUNT; i++)
		program[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							      (unsigned)allowed[i],
							      (unsigned char)(COUNT - i), 0);
	program[COUNT + 1] =
		(struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	program[COUNT + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	if (how == 0)
		return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &fprog);
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			    how == 2 ? SECCOMP_FILTER_FLAG_TSYNC : 0, &fprog);
}

struct ends {
	int listener, client, server;
};

static struct ends connected(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof a;
	struct ends e;

	MUST(e.listener = socket(AF_INET, SOCK_STREAM, 0));
	MUST(bind(e.listener, (struct sockaddr *)&a, sizeof a));
	MUST(getsockname(e.listener, (struct sockaddr *)&a, &len));
	MUST(listen(e.listener, 8));
	MUST(e.client = socket(AF_INET, SOCK_STREAM, 0));
	MUST(connect(e.client, (struct sockaddr *)&a, sizeof a));
	MUST(e.server = accept(e.listener, NULL, NULL));
	return e;
}

static const char request[] = "GET /locked HTTP/1.1\r\n\r\n",
		  answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

static bool exchange(const struct ends *e, bool message)
{
	char bytes[256], control[256];
	struct iovec iov = { .iov_base = bytes, .iov_len = sizeof bytes };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof control };
	bool good = send(e->client, request, sizeof request - 1, 0) == sizeof request - 1;

	if (message) /* nothing comes along that was not asked for */
		good &= recvmsg(e->server, &m, 0) == sizeof request - 1 && m.msg_controllen == 0 &&
			m.msg_flags == 0;
	else
		good &= recv(e->server, bytes, sizeof bytes, 0) == sizeof request - 1;
	good &= write(e->server, answer, sizeof answer - 1) == sizeof answer - 1;
	good &= read(e->client, bytes, sizeof bytes) == sizeof answer - 1;
	return good;
}

static pthread_mutex_t contended = PTHREAD_MUTEX_INITIALIZER;
static unsigned long counted;

static void *counts(void *unused)
{
	for (int i = 0; i < 2000; i++) {
		pthread_mutex_lock(&contended);
		counted++;
		pthread_mutex_unlock(&contended);
	}
	return unused;
}

static void *burns_on(void *unused)
{
	storm_burn(3000);
	counts(NULL);
	return unused;
}

/* Ends with RIGHT, or is killed. */
static void locked_in(int how, const struct ends *e)
{
	pthread_t before, after[2];
	bool good;

	MUST_0(pthread_create(&before, NULL, burns_on, NULL));
	storm_burn(2000);
	good = exchange(e, false) && exchange(e, true);
	MUST(lock_in(how));
	for (int i = 0; i < 20; i++)
		good &= exchange(e, i & 1);
	for (int i = 0; i < 2; i++)
		MUST_0(pthread_create(&after[i], NULL, counts, NULL));
	pthread_join(before, NULL);
	for (int i = 0; i < 2; i++)
		pthread_join(after[i], NULL);
	storm_burn(6000);
	good &= counted == 6000;
	if (how == 3) {
		int status = 0;
		pid_t pid = fork();

		MUST(pid);
		if (pid == 0) {
			storm_burn(3000);
			exit(exchange(e, false) && exchange(e, true) ? RIGHT : 4);
		}
		MUST(waitpid(pid, &status, 0));
		good &= WIFEXITED(status) && WEXITSTATUS(status) == RIGHT;
	}
	exit(good ? RIGHT : 3);
}

/* ---- Who waits in a call when the filter comes makes none of our system calls on the way back ---- */

static const struct timespec while_ns = { .tv_nsec = 30000000 };

static void *naps(void *unused)
{
	sonde_request r = sonde_begin("JOB nap");

	nanosleep(&while_ns, NULL);
	sonde_end(r, 0);
	return unused;
}

static void *waits_for_events(void *epoll)
{
	struct epoll_event event;

	sonde_end(sonde_begin("JOB brief"), 0);
	storm_burn(3000); /* longer than its CPU clock is believed */
	epoll_wait(*(int *)epoll, &event, 1, 30);
	return NULL;
}

static void *accepts(void *listener)
{
	return (void *)(intptr_t)accept(*(int *)listener, NULL, NULL);
}

/* For every thread: kills for what the agent would ask in wrapped calls. Ends with RIGHT, or is killed. */
static void filtered_while_waiting(void)
{
	static const int denied[] = { SYS_openat,     SYS_clock_gettime, SYS_getsockopt,
				      SYS_setsockopt, SYS_fcntl,         SYS_getpid };
	enum {
		COUNT = sizeof denied / sizeof *denied
	};
	struct sock_filter program[COUNT + 3];
	struct sock_fprog fprog = { .len = COUNT + 3, .filter = program };
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int listener, client, epoll;
	pthread_t thread[3];
	void *accepted;

	/* an abstract name of this process's own */
	snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "sonde-storm-%d", (int)getpid());
	MUST(listener = socket(AF_UNIX, SOCK_STREAM, 0));
	MUST(bind(listener, (struct sockaddr *)&a, sizeof a));
	MUST(listen(listener, 1));
	MUST(client = socket(AF_UNIX, SOCK_STREAM, 0));
	MUST(epoll = epoll_create1(0));
	program[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						  offsetof(struct seccomp_data, nr));
	for (unsigned i = 0; i < COUNT; i++)
		program[1 + i] =
			(struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)denied[i],
						     (unsigned char)(COUNT - i), 0);
	program[COUNT + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	program[COUNT + 2] =
		(struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	MUST_0(pthread_create(&thread[0], NULL, naps, NULL));
	MUST_0(pthread_create(&thread[1], NULL, waits_for_events, &epoll));
	MUST_0(pthread_create(&thread[2], NULL, accepts, &listener));
	storm_burn(8000);
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	MUST((int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &fprog));
	MUST(connect(client, (struct sockaddr *)&a, sizeof a));
	pthread_join(thread[0], NULL);
	pthread_join(thread[1], NULL);
	pthread_join(thread[2], &accepted);
	exit((intptr_t)accepted >= 0 ? RIGHT : 3);
}

static void ended(struct tally *t, pid_t pid)
{
	int status = 0;

	MUST(waitpid(pid, &status, 0));
	tally(t, WIFEXITED(status) && WEXITSTATUS(status) == RIGHT, "status %x", status);
}

/* read, write and exit of this thread are all that is left. */
static void strictly(void)
{
	int ends[2];
	char byte = 0;

	MUST(pipe(ends));
	storm_burn(2000);
	MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
	for (int i = 0; i < 50; i++)
		if (write(ends[1], "x", 1) != 1 || read(ends[0], &byte, 1) != 1 || byte != 'x')
			syscall(SYS_exit, 3);
	/* without a clock: strict mode forbids the instruction that it reads */
	for (volatile int i = 0; i < 10000000;)
		i = i + 1;
	syscall(SYS_exit, RIGHT);
}

int main(int argc, char **argv)
{
	pthread_t burner;

	storm_begin(argc, argv);
	for (int how = 0; how < HOWS; how++)
		tally_list(&by[how]);
	tally_list(&waiting);
	tally_list(&strict);
	tally_list(&asked);
	MUST_0(pthread_create(&burner, NULL, storm_burner, NULL));
	do {
		pid_t pid;

		for (int how = 0; how < HOWS; how++) {
			MUST(pid = fork());
			if (pid == 0) {
				struct ends e = connected();

				locked_in(how, &e);
			}
			ended(&by[how], pid);
		}
		MUST(pid = fork());
		if (pid == 0)
			filtered_while_waiting();
		ended(&waiting, pid);
		MUST(pid = fork());
		if (pid == 0)
			strictly();
		ended(&strict, pid);
		/* the parent stays under the agent: it only asks */
		errno = 0;
		tally(&asked,
		      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL) == -1 && errno == EFAULT,
		      "%d", errno);
		errno = 0;
		tally(&asked,
		      syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, NULL) == -1 &&
			      errno == EINVAL,
		      "%d", errno);
	} while (storm_on());
	pthread_join(burner, NULL);
	return storm_end();
}
