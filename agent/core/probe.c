/* SPDX-License-Identifier: MIT
 *
 * See probe.h. A filter cannot be asked what it does: the calls are made, with arguments that make each of them fail, by a
 * child of clone() without a signal, for which no wait() of the host's looks. When it is killed, we would have been.
 */
#include "agent/core/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/core/life.h"

enum {
	STATUS_BYTES = 4096,
	ROOM_SHARE = 16, /* our part of a limited address space, at most */
};

/* A table reads best as one. */
/* clang-format off */
#if defined(__x86_64__)
#define LEGACY(X) X(poll) X(readlink) X(fstat)
#else
#define LEGACY(X)
#endif
#define CALLED(X) \
	LEGACY(X) X(rt_sigtimedwait) X(rt_sigprocmask) X(rt_sigaction) X(timer_create) X(timer_settime) X(timer_delete) \
	X(futex) X(clone3) X(set_robust_list) X(rseq) X(mprotect) X(munmap) X(madvise) X(gettid) X(getpid) X(getppid) \
	X(prctl) X(close_range) X(pidfd_open) X(pidfd_getfd) X(process_vm_readv) X(openat) X(newfstatat) X(readlinkat) \
	X(getdents64) X(read) X(pread64) X(lseek) X(fcntl) X(socket) X(connect) X(setsockopt) X(getsockopt) \
	X(getpeername) X(sendto) X(recvfrom) X(recvmsg) X(uname) X(getrandom) X(clock_gettime) X(getrusage)
/* clang-format on */

static const struct {
	const char *name;
	int number;
} calls[] = {
#define CALL(name) { #name, SYS_##name },
	CALLED(CALL)
};

enum {
	CALLS = sizeof calls / sizeof *calls
};

static bool filtered(void)
{
	char text[STATUS_BYTES];
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, text, sizeof text - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	return strstr(text, "\nSeccomp:\t2") != NULL;
}

/* Part of config_write(). */
static bool speech(int number)
{
#if defined(__x86_64__)
	if (number == SYS_poll)
		return true;
#endif
	return number == SYS_rt_sigtimedwait || number == SYS_rt_sigprocmask;
}

static __attribute__((noreturn)) void try_all(volatile int *at)
{
	/* It shares no memory with the host: nobody's core is dumped for it. */
	syscall(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	for (int i = 0; i < CALLS; i++) {
		*at = i;
		syscall(calls[i].number, -1, 0, 0, 0, 0, 0); /* wrong for all of them */
	}
	*at = CALLS;
	for (;;)
		syscall(SYS_exit_group, 0);
}

const char *probe_filter(void)
{
	const char *killed = NULL;
	int saved = errno;
	volatile int *at;
	pid_t pid;

	if (!filtered())
		goto out;
	at = mmap(NULL, sizeof *at, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED) {
		killed = "mmap";
		goto out;
	}
	*at = 0;
	pid = (pid_t)syscall(SYS_clone, 0, 0, 0, 0, 0);
	if (pid == 0)
		try_all(at);
	if (pid < 0)
		killed = "clone";
	else
		while (syscall(SYS_wait4, pid, NULL, __WALL, NULL) < 0 && errno == EINTR)
			;
	if (pid > 0 && *at < CALLS)
		killed = speech(calls[*at].number) ? "" : calls[*at].name;
	munmap((void *)(uintptr_t)at, sizeof *at);
out:
	errno = saved;
	return killed;
}

bool probe_room(size_t bytes)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY ||
	       bytes < limit.rlim_cur / ROOM_SHARE;
}

static __attribute__((format(printf, 3, 4))) void add(char *out, size_t out_bytes,
						      const char *format, ...)
{
	size_t used = strlen(out);
	va_list args;

	if (used && used + 2 < out_bytes) {
		strcpy(out + used, "; ");
		used += 2;
	}
	va_start(args, format);
	vsnprintf(out + used, out_bytes - used, format, args);
	va_end(args);
}

void probe_abilities(const struct life *l, char *out, size_t out_bytes)
{
	char byte = 0, copy;
	struct iovec from = { &byte, 1 }, to = { &copy, 1 };
	int fd;

	out[0] = '\0';
	if (!l->own_files)
		add(out, out_bytes,
		    "no descriptor table of our own (close_range): ours are among the program's");
	if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != 1)
		add(out, out_bytes, "process_vm_readv: %s: waits show their caller only",
		    strerror(errno));
	if (l->own_files) {
		fd = (int)syscall(SYS_pidfd_getfd, l->pidfd, -1, 0);
		if (l->pidfd < 0 || (fd < 0 && errno != EBADF))
			add(out, out_bytes, "no pidfd_getfd: peers have no names");
	}
	if (access("/proc/self/task", F_OK))
		add(out, out_bytes,
		    "/proc: %s: threads made by a raw clone are not seen, code is not named",
		    strerror(errno));
}
