/* SPDX-License-Identifier: MIT
 *
 * step [-n STEPS] [-i EVERY] [-s] [-v] PROGRAM [ARG...]
 *
 * Steps PROGRAM and its threads from its entry point on (-s: from the dynamic linker's, -a MS: from where it is after so
 * long), at most STEPS instructions, and compares at every one. -i delivers a SIGURG after each EVERY instructions.
 * One core for both: they take turns anyway, and waking another core is what costs most.
 */
#include "step.h"

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 64

struct thread {
	pid_t tid;
	struct user_regs_struct regs; /* before the step that it takes now */
	struct shadow *shadow;
	int signal; /* that it was sent with it */
	bool begun; /* regs are set */
};

static struct target target;
static struct thread thread[THREADS_MAX];
static unsigned n_threads;
static struct verdict verdict;
static uint64_t steps_max = UINT64_MAX, inject_every;

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static struct thread *thread_of(pid_t tid)
{
	struct thread *t;

	for (unsigned i = 0; i < n_threads; i++)
		if (thread[i].tid == tid)
			return &thread[i];
	if (n_threads == THREADS_MAX) {
		fprintf(stderr, "more than %d threads\n", THREADS_MAX);
		exit(2);
	}
	t = &thread[n_threads++];
	*t = (struct thread){ .tid = tid, .shadow = shadow_create() };
	return t;
}

static void thread_end(pid_t tid)
{
	struct thread *t = thread_of(tid);

	shadow_destroy(t->shadow);
	*t = thread[--n_threads];
}

/* ---- Start ---- */

static void pin(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((unsigned)sched_getcpu(), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static pid_t start(char **argv)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		die("fork");
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		execvp(argv[0], argv);
		perror(argv[0]);
		_exit(2);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		exit(2);
	if (ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL))
		die("PTRACE_SETOPTIONS");
	return pid;
}

static uintptr_t entry_point(pid_t pid)
{
	char path[64];
	ElfW(auxv_t) a;
	uintptr_t entry = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/auxv", pid);
	f = fopen(path, "re");
	if (!f)
		die(path);
	while (fread(&a, sizeof(a), 1, f) == 1)
		if (a.a_type == AT_ENTRY)
			entry = a.a_un.a_val;
	fclose(f);
	return entry;
}

static void run_to(pid_t pid, uintptr_t address)
{
	struct user_regs_struct regs;
	long was = ptrace(PTRACE_PEEKTEXT, pid, address, NULL);
	int status;

	ptrace(PTRACE_POKETEXT, pid, address, (was & ~0xffl) | 0xcc);
	ptrace(PTRACE_CONT, pid, NULL, NULL);
	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
		exit(2);
	ptrace(PTRACE_POKETEXT, pid, address, was);
	ptrace(PTRACE_GETREGS, pid, NULL, &regs);
	regs.rip = address;
	ptrace(PTRACE_SETREGS, pid, NULL, &regs);
}

/* Its first thread is somewhere: believe libunwind how it got there. */
static void run_for(pid_t pid, unsigned ms)
{
	const struct timespec time = { ms / 1000, ms % 1000 * 1000000l };
	static uintptr_t slots[STEP_FRAMES_MAX];
	static struct frames frames;
	struct user_regs_struct regs;
	int status;

	ptrace(PTRACE_CONT, pid, NULL, NULL);
	nanosleep(&time, NULL);
	kill(pid, SIGSTOP);
	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		exit(2);
	target_refresh(&target);
	ptrace(PTRACE_GETREGS, pid, NULL, &regs);
	target_copy(&target, regs.rsp);
	oracle_walk(&target, &regs, &frames, slots);
	shadow_seed(thread_of(pid)->shadow, &target, regs.rsp, slots, frames.n - 1);
}

/* ---- Steps ---- */

static bool maps_changed(const struct user_regs_struct *before,
			 const struct user_regs_struct *after)
{
	/* after a system call, rcx is where it returned to; one of mmap, mprotect, munmap, or unknown by now */
	return after->rcx == after->rip && after->rip - before->rip == 2;
}

/* Was the signal handled, and not ignored? Its frame is large, or on another stack; and no other instruction jumps, too. */
static bool is_delivery(const struct user_regs_struct *before, const struct user_regs_struct *after)
{
	return after->rip - before->rip > 15 &&
	       (target_region(&target, before->rsp) != target_region(&target, after->rsp) ||
		(before->rsp > after->rsp && before->rsp - after->rsp > 500));
}

static void step(struct thread *t)
{
	if (inject_every && !t->signal && verdict.compared % inject_every == inject_every - 1)
		t->signal = SIGURG;
	if (ptrace(PTRACE_SINGLESTEP, t->tid, NULL, t->signal) && errno != ESRCH)
		die("PTRACE_SINGLESTEP");
}

static void stepped(struct thread *t)
{
	struct user_regs_struct now;

	if (ptrace(PTRACE_GETREGS, t->tid, NULL, &now))
		return;
	if (!t->begun || maps_changed(&t->regs, &now))
		target_refresh(&target);
	target_copy(&target, now.rsp);
	if (t->begun)
		shadow_step(t->shadow, &target, &t->regs, &now,
			    t->signal && is_delivery(&t->regs, &now));
	t->signal = 0;
	/* a string instruction stops at each of its rounds */
	if (!t->begun || now.rip != t->regs.rip || now.rsp != t->regs.rsp)
		judge(&target, &now, t->shadow, &verdict);
	t->begun = true;
	t->regs = now;
}

/* Returns the status the program ended with, or -1 when it was ended after enough steps. */
static int step_all(void)
{
	int status = 0, result = 0;
	pid_t tid;

	stepped(thread_of(target.pid));
	step(thread_of(target.pid));
	while (verdict.compared < steps_max && (tid = waitpid(-1, &status, __WALL)) > 0) {
		if (!WIFSTOPPED(status)) {
			thread_end(tid);
			if (tid == target.pid)
				return WIFEXITED(status) ? WEXITSTATUS(status)
							 : 128 + WTERMSIG(status);
			continue;
		}
		if (status >> 16) /* a clone event; the step it took is reported as well */
			;
		else if (WSTOPSIG(status) == SIGTRAP)
			stepped(thread_of(tid));
		else if (!thread_of(tid)->begun && WSTOPSIG(status) == SIGSTOP)
			stepped(thread_of(tid)); /* a new thread */
		else
			thread_of(tid)->signal = WSTOPSIG(status);
		step(thread_of(tid));
		result = -1;
	}
	kill(target.pid, SIGKILL);
	return result;
}

int main(int argc, char **argv)
{
	bool from_start = false, verbose = false;
	unsigned after_ms = 0;
	uint64_t unexplained;
	struct timespec begin, end;
	double seconds;
	int option, status;

	while ((option = getopt(argc, argv, "+n:i:a:sv")) != -1) {
		switch (option) {
		case 'n':
			steps_max = strtoull(optarg, NULL, 0);
			break;
		case 'i':
			inject_every = strtoull(optarg, NULL, 0);
			break;
		case 'a':
			after_ms = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 's':
			from_start = true;
			break;
		case 'v':
			verbose = true;
			break;
		default:
			return 2;
		}
	}
	if (optind >= argc)
		return 2;
	pin();
	target.pid = start(argv + optind);
	if (after_ms)
		run_for(target.pid, after_ms);
	else if (!from_start)
		run_to(target.pid, entry_point(target.pid));
	clock_gettime(CLOCK_MONOTONIC, &begin);
	status = step_all();
	clock_gettime(CLOCK_MONOTONIC, &end);
	seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
	unexplained = judge_report(&target, verbose);
	for (unsigned i = 0; i < UNWIND_END_COUNT; i++)
		printf("# = walks that ended %s | %lu\n", unwind_end_names[i], verdict.ends[i]);
	for (unsigned i = 0; i < target.n_objects; i++) {
		const char *base = strrchr(target.object[i].maps.path, '/');

		printf("# = instructions in %s | %lu\n",
		       base ? base + 1 : target.object[i].maps.path, target.object[i].steps);
	}
	printf("# %lu instructions in %.1f s, at most %u frames deep, exit status %d\n",
	       verdict.compared, seconds, verdict.deepest, status);
	if (status > 0)
		return 2;
	return unexplained ? 1 : 0;
}
