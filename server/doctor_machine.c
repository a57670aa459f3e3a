/* SPDX-License-Identifier: MIT
 *
 * Probes of `sonde doctor`: what the kernel and the machine allow.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "server/doctor.h"
#include "server/units.h"

enum {
	TIMER_BURN_MS = 120,
	TIMER_HZ = 1000,
	SAMPLE_HZ = 99,   /* the agent's default */
	STAMP_TRIES = 40, /* the kernel switches stamping on in the background */
	CLOCK_READS = 200000,
	CLOCK_SLOW_NS = 200,
	PENDING_FEW = 1000,
};

static uint64_t now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* ---- Timers ---- */

static volatile sig_atomic_t timer_signals, timer_overruns;

static void timer_handler(int number, siginfo_t *info, void *context)
{
	(void)number, (void)context;
	timer_signals++;
	timer_overruns += info->si_overrun;
}

static void timer_burn(void)
{
	uint64_t end = now_ns(CLOCK_THREAD_CPUTIME_ID) + TIMER_BURN_MS * UINT64_C(1000000);

	while (now_ns(CLOCK_THREAD_CPUTIME_ID) < end)
		;
}

/* A timer on this thread's CPU clock, as the agent makes one per thread. Returns 0 or a negative errno value. */
static int timer_try(void)
{
	struct sigaction action = { .sa_sigaction = timer_handler,
				    .sa_flags = SA_SIGINFO | SA_RESTART },
			 before;
	struct itimerspec every = { .it_interval.tv_nsec = 1000000000 / TIMER_HZ,
				    .it_value.tv_nsec = 1000000000 / TIMER_HZ };
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 5 };
	clockid_t clock;
	timer_t timer;

	event._sigev_un._tid = gettid();
	if (pthread_getcpuclockid(pthread_self(), &clock) != 0)
		return -ENOSYS;
	if (timer_create(clock, &event, &timer) < 0)
		return -errno;
	sigaction(event.sigev_signo, &action, &before);
	timer_settime(timer, 0, &every, NULL);
	timer_burn();
	timer_delete(timer);
	sigaction(event.sigev_signo, &before, NULL);
	return 0;
}

static void timers_tick(struct doctor *d)
{
	struct timespec tick = { 0 };
	long hz;

	if (clock_getres(CLOCK_MONOTONIC_COARSE, &tick) < 0 || tick.tv_nsec == 0)
		return;
	hz = 1000000000 / tick.tv_nsec;
	if (hz > 2 * SAMPLE_HZ)
		doctor_say(d, DOCTOR_GOOD, "kernel tick", NULL,
			   "%ld Hz: sampling at %d Hz loses nothing", hz, SAMPLE_HZ);
	else
		doctor_say(d, DOCTOR_LIMIT, "kernel tick",
			   "CPU samples come in steps of the tick; what falls between is counted, "
			   "not seen",
			   "%ld Hz, sampling at %d Hz", hz, SAMPLE_HZ);
}

static void timers_pending(struct doctor *d)
{
	char queue[64] = "";
	unsigned long used = 0;
	unsigned long long limit = 0;

	if (!doctor_read("/proc/self/status", "SigQ", queue, sizeof(queue)) ||
	    sscanf(queue, "%lu/%llu", &used, &limit) != 2)
		return;
	if (limit >= used + PENDING_FEW)
		doctor_say(d, DOCTOR_GOOD, "pending signals", NULL,
			   "%lu of %llu used; each sampled thread takes one", used, limit);
	else
		doctor_say(d, DOCTOR_LIMIT, "pending signals",
			   "threads beyond the limit get no CPU samples; raise `ulimit -i`",
			   "%lu of %llu used; each sampled thread takes one", used, limit);
}

void doctor_timers(struct doctor *d)
{
	static const char cost[] =
		"without CPU timers: no CPU samples, so no flame graph of running code";
	int status = timer_try();

	if (status < 0)
		doctor_say(d, DOCTOR_BAD, "CPU timers", cost,
			   "timer_create on a thread's CPU clock: %s", strerror(-status));
	else if (timer_signals == 0)
		doctor_say(d, DOCTOR_BAD, "CPU timers", cost, "no signal came in %d ms of CPU time",
			   TIMER_BURN_MS);
	else
		doctor_say(d, DOCTOR_GOOD, "CPU timers", NULL,
			   "one per thread; %d asked, %d signals and %d overruns came in %d ms of "
			   "CPU time",
			   TIMER_BURN_MS * TIMER_HZ / 1000, (int)timer_signals, (int)timer_overruns,
			   TIMER_BURN_MS);
	timers_tick(d);
	timers_pending(d);
	doctor_say(d, DOCTOR_GOOD, "real-time signals", NULL,
		   "%d for programs; the agent takes one that is free", SIGRTMAX - SIGRTMIN + 1);
}

/* ---- What is measured ---- */

static void measure_schedstat(struct doctor *d)
{
	static const char cost[] = "without schedstat: waiting for a processor is part of `other`";
	char line[128] = "";
	unsigned long long ran[2] = { 0 }, waited = 0, slices[2] = { 0 };

	for (int i = 0; i < 2; i++) {
		if (!doctor_read("/proc/thread-self/schedstat", NULL, line, sizeof(line)) ||
		    sscanf(line, "%llu %llu %llu", &ran[i], &waited, &slices[i]) != 3) {
			doctor_say(d, DOCTOR_LIMIT, "run-queue delay", cost,
				   "/proc/thread-self/schedstat cannot be read");
			return;
		}
		if (i == 0)
			nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
	}
	if (ran[1] > ran[0] && slices[1] > slices[0])
		doctor_say(d, DOCTOR_GOOD, "run-queue delay", NULL,
			   "schedstat counts; this thread has waited %s for a processor",
			   units_ns(waited).text);
	else
		doctor_say(d, DOCTOR_LIMIT, "run-queue delay", cost, "schedstat stands still");
}

/* A connected pair over loopback, stamps asked for on the listening socket as the agent does. 0 or negative errno. */
static int stamp_pair(int pair[2])
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	int flags = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE, status = 0;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || pair[0] < 0 || bind(listener, (struct sockaddr *)&address, size) < 0 ||
	    listen(listener, 1) < 0 ||
	    setsockopt(listener, SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof(flags)) < 0 ||
	    getsockname(listener, (struct sockaddr *)&address, &size) < 0 ||
	    connect(pair[0], (struct sockaddr *)&address, size) < 0 ||
	    (pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
		status = -errno;
	if (listener >= 0)
		close(listener);
	return status;
}

/* Send a byte and read it with its stamp. Returns the stamp's unix ns, 0 without one. */
static uint64_t stamp_read(const int pair[2])
{
	char byte = 'x', control[512] __attribute__((aligned(8)));
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data,
				  .msg_iovlen = 1,
				  .msg_control = control,
				  .msg_controllen = sizeof(control) };

	if (write(pair[0], &byte, 1) != 1 || recvmsg(pair[1], &message, 0) != 1)
		return 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		struct scm_timestamping stamps;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_TIMESTAMPING)
			continue;
		memcpy(&stamps, CMSG_DATA(c), sizeof(stamps));
		return (uint64_t)stamps.ts[0].tv_sec * 1000000000 + (uint64_t)stamps.ts[0].tv_nsec;
	}
	return 0;
}

static void measure_stamps(struct doctor *d)
{
	static const char cost[] =
		"without receive timestamps: time before the first read is not seen as queue";
	int pair[2] = { -1, -1 }, status = stamp_pair(pair);
	uint64_t stamp = 0, before = 0, after = 0;

	for (int i = 0; status == 0 && i < STAMP_TRIES && stamp == 0; i++) {
		if (i > 0)
			nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
		before = now_ns(CLOCK_REALTIME);
		stamp = stamp_read(pair);
		after = now_ns(CLOCK_REALTIME);
	}
	for (int i = 0; i < 2; i++)
		if (pair[i] >= 0)
			close(pair[i]);
	if (status < 0)
		doctor_say(d, DOCTOR_LIMIT, "receive timestamps", cost,
			   "no TCP pair over loopback: %s", strerror(-status));
	else if (stamp == 0)
		doctor_say(d, DOCTOR_LIMIT, "receive timestamps", cost, "the kernel returns none");
	else if (stamp < before || stamp > after)
		doctor_say(d, DOCTOR_LIMIT, "receive timestamps", cost,
			   "the kernel's stamp is wrong by %s",
			   units_ns(stamp < before ? before - stamp : stamp - after).text);
	else
		doctor_say(d, DOCTOR_GOOD, "receive timestamps", NULL,
			   "accepted TCP sockets have them; read %s after arrival",
			   units_ns(after - stamp).text);
}

static void measure_memory(struct doctor *d)
{
	uint64_t from = 0x736f6e6465, to = 0;
	struct iovec local = { &to, sizeof(to) }, remote = { &from, sizeof(from) };

	if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == sizeof(to) && to == from)
		doctor_say(d, DOCTOR_GOOD, "process_vm_readv", NULL, "works on the own process");
	else
		doctor_say(d, DOCTOR_LIMIT, "process_vm_readv",
			   "without it: waits are timed, but have no stacks", "%s",
			   strerror(errno));
}

static void measure_clock(struct doctor *d)
{
	char source[64] = "unknown clock source";
	uint64_t begin = now_ns(CLOCK_MONOTONIC), each;

	for (int i = 0; i < CLOCK_READS; i++)
		now_ns(CLOCK_MONOTONIC);
	each = (now_ns(CLOCK_MONOTONIC) - begin) / CLOCK_READS;
	doctor_read("/sys/devices/system/clocksource/clocksource0/current_clocksource", NULL,
		    source, sizeof(source));
	if (each <= CLOCK_SLOW_NS)
		doctor_say(d, DOCTOR_GOOD, "clock", NULL, "%s, %s a reading", source,
			   units_ns(each).text);
	else
		doctor_say(d, DOCTOR_LIMIT, "clock",
			   "each timed wait costs two readings: the agent slows the server more "
			   "than usual",
			   "%s, %s a reading", source, units_ns(each).text);
}

void doctor_measures(struct doctor *d)
{
	measure_schedstat(d);
	measure_stamps(d);
	measure_memory(d);
	measure_clock(d);
}

/* ---- Limits ---- */

/* Whether a process that is no child may be traced: a child of ours tries it on us. Its exit lets us go. */
static int limit_trace_parent(void)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0)
		_exit(ptrace(PTRACE_SEIZE, getppid(), 0, 0) == 0 ? 0 : errno < 255 ? errno : 255);
	if (pid < 0)
		return -errno;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EPERM;
}

static void limit_trace(struct doctor *d)
{
	char scope[16] = "";
	bool yama = doctor_read("/proc/sys/kernel/yama/ptrace_scope", NULL, scope, sizeof(scope));
	int status = limit_trace_parent();

	if (status == 0)
		doctor_say(d, DOCTOR_GOOD, "ptrace", NULL, "running processes can be traced%s%s",
			   yama ? "; Yama ptrace_scope " : "", scope);
	else
		doctor_say(d, DOCTOR_LIMIT, "ptrace",
			   "programs must be started with `sonde run`; attaching to a running one "
			   "needs ptrace",
			   "%s%s%s", strerror(-status), yama ? "; Yama ptrace_scope " : "", scope);
}

static void limit_information(struct doctor *d)
{
	char paranoid[16] = "", seccomp[16] = "0";
	struct rlimit lock = { 0 };

	if (doctor_read("/proc/sys/kernel/perf_event_paranoid", NULL, paranoid, sizeof(paranoid)))
		doctor_say(d, DOCTOR_GOOD, "perf events", NULL, "paranoid %s; the agent uses none",
			   paranoid);
	else
		doctor_say(d, DOCTOR_GOOD, "perf events", NULL,
			   "none in this kernel; the agent uses none");
	doctor_read("/proc/self/status", "Seccomp", seccomp, sizeof(seccomp));
	if (strcmp(seccomp, "0") == 0)
		doctor_say(d, DOCTOR_GOOD, "seccomp", NULL, "no filter on this shell");
	else
		doctor_say(d, DOCTOR_GOOD, "seccomp", NULL,
			   "mode %s; what it forbids shows in the other lines", seccomp);
	getrlimit(RLIMIT_MEMLOCK, &lock);
	doctor_say(d, DOCTOR_GOOD, "locked memory", NULL, "%s allowed; the agent locks none",
		   lock.rlim_cur == RLIM_INFINITY ? "any amount" : units_bytes(lock.rlim_cur).text);
}

void doctor_limits(struct doctor *d)
{
	limit_trace(d);
	limit_information(d);
	doctor_say(d, DOCTOR_GOOD, "glibc", NULL, "%s", gnu_get_libc_version());
}
