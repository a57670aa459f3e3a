/* SPDX-License-Identifier: MIT
 *
 * Probes of `sonde doctor`: the agent itself, loaded into a real program, and one running process.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "server/doctor.h"
#include "server/preload.h"

enum {
	AGENT_PATIENCE_MS = 5000
};

static const char agent_cost[] = "without the agent nothing is measured";

/* The child: becomes cat over its own maps, with the agent in it, reporting to a file. */
static void agent_child(int out, const char *agent, const char *report)
{
	int null = open("/dev/null", O_RDWR);

	dup2(null, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	setenv("LD_PRELOAD", agent, 1);
	setenv("SONDE_OUTPUT", report, 1);
	setenv("SONDE_SERVICE", "sonde-doctor", 1);
	unsetenv("SONDE_DISABLE");
	execlp("cat", "cat", "/proc/self/maps", (char *)NULL);
	_exit(127);
}

/* All that comes from @fd, cut to @size, until it ends or patience does. */
static void agent_listen(int fd, char *text, size_t size)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	size_t used = 0;

	while (used + 1 < size && poll(&p, 1, AGENT_PATIENCE_MS) == 1) {
		ssize_t got = read(fd, text + used, size - used - 1);

		if (got <= 0)
			break;
		used += (size_t)got;
	}
	text[used] = '\0';
}

/* Wait for @pid, which may still have a report to write; one that hangs is ended. */
static int agent_reap(pid_t pid)
{
	int status = 0;

	for (int ms = 0; ms < AGENT_PATIENCE_MS; ms += 5) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
	}
	kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/*
 * Run cat with the agent. @text gets what it printed. Returns its wait status, or a negative errno value; *@reported is
 * the size of what the agent wrote: to a file that is not there before, as it never writes into another's.
 */
static int agent_try(const char *agent, char *text, size_t size, off_t *reported)
{
	char directory[] = "/tmp/sonde-doctor.XXXXXX", report[sizeof(directory) + 8];
	int ends[2], status = 0;
	struct stat st;
	pid_t pid;

	if (!mkdtemp(directory))
		return -errno;
	snprintf(report, sizeof(report), "%s/report", directory);
	if (pipe2(ends, O_CLOEXEC) < 0) {
		status = -errno;
		goto out;
	}
	pid = fork();
	if (pid == 0)
		agent_child(ends[1], agent, report);
	close(ends[1]);
	if (pid > 0) {
		agent_listen(ends[0], text, size);
		status = agent_reap(pid);
	} else {
		status = -EAGAIN;
	}
	*reported = stat(report, &st) == 0 ? st.st_size : 0;
	close(ends[0]);
	unlink(report);
out:
	rmdir(directory);
	return status;
}

/* Whether a line of /proc/self/maps ends in @agent. A complaint of the loader names it too, but not at a line's end. */
static bool agent_is_mapped(const char *text, const char *agent)
{
	size_t length = strlen(agent);

	for (const char *at = text; (at = strstr(at, agent)); at += length)
		if (at > text && at[-1] == ' ' && at[length] == '\n')
			return true;
	return false;
}

void doctor_agent(struct doctor *d)
{
	char looked[2 * PATH_MAX + 32], *agent = NULL, *text;
	size_t size = 1 << 18;
	off_t reported = 0;
	int status = preload_find_agent(NULL, &agent, looked, sizeof(looked));

	if (status < 0) {
		doctor_say(d, DOCTOR_BAD, "agent", agent_cost,
			   "no libsonde.so at %s; set SONDE_AGENT to its path", looked);
		return;
	}
	text = calloc(1, size);
	if (!text) {
		free(agent);
		return;
	}
	status = preload_can_carry(agent) ? agent_try(agent, text, size, &reported) : 0;
	if (!preload_can_carry(agent))
		doctor_say(d, DOCTOR_BAD, "agent", agent_cost,
			   "LD_PRELOAD cannot carry a path with a space or colon: %s", agent);
	else if (status < 0)
		doctor_say(d, DOCTOR_BAD, "agent", agent_cost,
			   "cannot start a program to try it: %s", strerror(-status));
	else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		doctor_say(d, DOCTOR_BAD, "agent", agent_cost, "a program does not end with it");
	else if (WIFSIGNALED(status))
		doctor_say(d, DOCTOR_BAD, "agent", agent_cost, "a program died with it: %s",
			   strsignal(WTERMSIG(status)));
	else if (!agent_is_mapped(text, agent))
		doctor_say(d, DOCTOR_BAD, "agent", agent_cost, "does not load: %.*s",
			   (int)strcspn(text, "\n"), text);
	else if (reported == 0)
		doctor_say(d, DOCTOR_LIMIT, "agent",
			   "a program that lives only a moment reports nothing",
			   "%s loads, but reported nothing from a short program", agent);
	else
		doctor_say(d, DOCTOR_GOOD, "agent", NULL, "%s loads and reports", agent);
	free(text);
	free(agent);
}

/* ---- One process ---- */

static void process_path(char *out, size_t size, pid_t pid, const char *file)
{
	snprintf(out, size, "/proc/%d/%s", (int)pid, file);
}

/* What lies in its memory map: a line that contains @what. -1 when the map cannot be read. */
static int process_maps(pid_t pid, const char *what, uintptr_t *readable)
{
	char path[64], line[PATH_MAX + 128], permissions[8];
	unsigned long long start;
	int found = 0;
	FILE *f;

	process_path(path, sizeof(path), pid, "maps");
	f = fopen(path, "re");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		if (readable && !*readable &&
		    sscanf(line, "%llx-%*x %7s", &start, permissions) == 2 && permissions[0] == 'r')
			*readable = (uintptr_t)start;
		found = found || strstr(line, what);
	}
	if (found == 0 && readable && !*readable)
		found = -1; /* an empty map: a kernel thread or a zombie */
	fclose(f);
	return found;
}

static void process_fit(struct doctor *d, pid_t pid)
{
	static const struct {
		enum doctor_mark mark;
		const char *text;
	} fits[] = {
		[PRELOAD_FITS] = { DOCTOR_GOOD, "dynamic, glibc: the agent fits" },
		[PRELOAD_STATIC] = { DOCTOR_BAD, "linked statically" },
		[PRELOAD_PRIVILEGED] = { DOCTOR_BAD, "setuid, setgid or with capabilities: "
						     "LD_PRELOAD is ignored" },
		[PRELOAD_OTHER_CLASS] = { DOCTOR_BAD, "built for another kind of processor" },
		[PRELOAD_OTHER_LIBC] = { DOCTOR_BAD, "does not use glibc" },
		[PRELOAD_UNKNOWN] = { DOCTOR_LIMIT, "cannot be read; ask as its user or as root" },
	};
	char path[64];
	enum preload_fit fit;

	process_path(path, sizeof(path), pid, "exe");
	fit = preload_inspect(path);
	doctor_say(d, fits[fit].mark, "its program",
		   fits[fit].mark == DOCTOR_BAD ? "no agent can be loaded into it" : NULL, "%s",
		   fits[fit].text);
}

static void process_memory(struct doctor *d, pid_t pid)
{
	uintptr_t at = 0;
	int loaded = process_maps(pid, "/libsonde.so", &at);
	char byte;
	struct iovec local = { &byte, 1 }, remote = { 0 };

	if (loaded > 0)
		doctor_say(d, DOCTOR_GOOD, "agent in it", NULL, "loaded");
	else if (loaded == 0)
		doctor_say(d, DOCTOR_LIMIT, "agent in it",
			   "nothing is measured; start it with `sonde run -- PROGRAM`",
			   "not loaded");
	if (loaded < 0) {
		doctor_say(d, DOCTOR_LIMIT, "its memory", "it cannot be looked into from outside",
			   "not readable by this user");
		return;
	}
	memcpy(&remote.iov_base, &at, sizeof(at)); /* an address there, not here */
	remote.iov_len = 1;
	if (process_vm_readv(pid, &local, 1, &remote, 1, 0) == 1)
		doctor_say(d, DOCTOR_GOOD, "its memory", NULL, "readable by this user");
	else
		doctor_say(d, DOCTOR_LIMIT, "its memory", "it cannot be looked into from outside",
			   "%s", strerror(errno));
}

/* Timers need pending signals, one per thread, and one real-time signal that it does not use. */
static void process_signals(struct doctor *d, pid_t pid)
{
	char path[64], threads[32] = "?", queue[64] = "?", caught[64] = "0";
	unsigned free_signals = 0;
	uint64_t mask;

	process_path(path, sizeof(path), pid, "status");
	doctor_read(path, "Threads", threads, sizeof(threads));
	doctor_read(path, "SigQ", queue, sizeof(queue));
	doctor_read(path, "SigCgt", caught, sizeof(caught));
	mask = strtoull(caught, NULL, 16);
	for (int s = SIGRTMIN; s <= SIGRTMAX; s++)
		free_signals += !(mask >> (s - 1) & 1);
	doctor_say(d, free_signals ? DOCTOR_GOOD : DOCTOR_BAD, "its signals",
		   free_signals ? NULL : "without a free real-time signal: no CPU samples",
		   "%u real-time signals free; %s pending signals used by this user, threads: %s",
		   free_signals, queue, threads);
}

static void process_network(struct doctor *d, pid_t pid)
{
	char path[64], ours[64] = "", theirs[64] = "";

	process_path(path, sizeof(path), pid, "ns/net");
	if (readlink("/proc/self/ns/net", ours, sizeof(ours) - 1) < 0 ||
	    readlink(path, theirs, sizeof(theirs) - 1) < 0)
		return;
	if (strcmp(ours, theirs) == 0)
		doctor_say(d, DOCTOR_GOOD, "its network", NULL,
			   "shared with this shell: 127.0.0.1 is the same");
	else
		doctor_say(d, DOCTOR_LIMIT, "its network",
			   "it does not reach a collector on our 127.0.0.1; share a Unix socket "
			   "with it",
			   "a namespace of its own, such as a container's");
}

void doctor_process(struct doctor *d, pid_t pid)
{
	char path[64], name[64] = "?", seccomp[16] = "0";

	process_path(path, sizeof(path), pid, "comm");
	doctor_read(path, NULL, name, sizeof(name));
	printf("\nProcess %d, %s\n\n", (int)pid, name);
	process_fit(d, pid);
	process_memory(d, pid);
	process_signals(d, pid);
	process_network(d, pid);
	process_path(path, sizeof(path), pid, "status");
	doctor_read(path, "Seccomp", seccomp, sizeof(seccomp));
	if (strcmp(seccomp, "0") == 0)
		doctor_say(d, DOCTOR_GOOD, "its seccomp", NULL, "no filter");
	else
		doctor_say(d, DOCTOR_LIMIT, "its seccomp",
			   "its filter must allow timer_create, process_vm_readv on itself, and a "
			   "socket to the collector",
			   "mode %s", seccomp);
}
