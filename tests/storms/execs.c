/* SPDX-License-Identifier: MIT
 *
 * Programs that become other programs, again and again, with every signal blocked and a profiler's timer running: a signal
 * of ours that is pending then outlives the exec, and kills the new program as soon as it unblocks. Blocked by a system
 * call that nobody wraps, or by sigprocmask, when the new program must find that mask. (Since Linux 6.13 the signals of a
 * timer go with it, and none is killed whatever we do: what an exec that fails leaves pending shows our part.)
 */
#include <spawn.h>
#include <sys/wait.h>

#include "tests/storms/storm.h"

enum {
	HOPS = 5,
	BURN_US = 2500,
	RIGHT = 7
};

static struct tally raw = TALLY("blocked behind libc's back: none is killed"),
		    known = TALLY("blocked through libc: none is killed"),
		    vforked = TALLY("after vfork, too"), spawned = TALLY("after posix_spawn, too"),
		    threaded = TALLY("from another thread than the first, too"),
		    failed = TALLY("an exec that fails leaves nothing pending");

static long raw_mask(int how, const uint64_t *set, uint64_t *old)
{
	return syscall(SYS_rt_sigprocmask, how, set, old, sizeof *set);
}

static const uint64_t all = ~0ull, rest = ~(1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1));

static void block(bool through_libc)
{
	sigset_t set;

	if (through_libc) {
		sigfillset(&set);
		MUST_0(pthread_sigmask(SIG_SETMASK, &set, NULL));
	} else {
		MUST(raw_mask(SIG_SETMASK, &all, NULL));
	}
}

static char file[] = "/proc/self/exe", hopping[] = "hop", libc[] = "libc", kernel[] = "raw",
	    any[] = "any", thread[] = "thread";

static void hop(char *how, char *method, int left)
{
	char number[12];
	char *argv[] = { file, hopping, how, method, number, NULL };

	snprintf(number, sizeof number, "%d", left);
	block(*how == 'l');
	storm_burn(BURN_US);
	execv(file, argv);
	_exit(3);
}

static void *hop_from_thread(void *how)
{
	hop(how, thread, 0);
	return NULL;
}

/* One program of the chain: what it finds pending or unblocked, it should not. */
static int landed(char **argv)
{
	int left = atoi(argv[4]);
	uint64_t pending = 0;
	sigset_t mask;

	MUST(syscall(SYS_rt_sigpending, &pending, sizeof pending));
	if (pending)
		return 4;
	/* the mask as the host sees it is what its forerunner asked for: glibc keeps 32 and 33 out when asked through it */
	MUST_0(pthread_sigmask(SIG_SETMASK, NULL, &mask));
	for (int s = 1; s < NSIG; s++)
		if ((rest >> (s - 1) & 1) && s != 32 && s != 33 && sigismember(&mask, s) != 1)
			return 5;
	MUST(raw_mask(SIG_UNBLOCK, &all, NULL));
	if (!left)
		return RIGHT;
	if (argv[3][0] == 't') {
		pthread_t t;

		MUST_0(pthread_create(&t, NULL, hop_from_thread, argv[2]));
		pthread_join(t, NULL);
	}
	hop(argv[2], argv[3], left - 1);
	return 3;
}

static void ended(struct tally *t, pid_t pid)
{
	int status = 0;

	MUST(waitpid(pid, &status, 0));
	tally(t, WIFEXITED(status) && WEXITSTATUS(status) == RIGHT, "status %x", status);
}

static void forked(struct tally *t, char *how, char *method)
{
	pid_t pid = fork();

	MUST(pid);
	if (pid == 0) {
		storm_burn(BURN_US);
		hop(how, method, *method == 't' ? 1 : HOPS);
	}
	ended(t, pid);
}

static void vforks_and_spawns(void)
{
	char two[] = "2", *argv[] = { file, hopping, libc, any, two, NULL };
	sigset_t set, before;
	pid_t pid;

	sigfillset(&set);
	MUST_0(pthread_sigmask(SIG_SETMASK, &set, &before));
	storm_burn(BURN_US);
	pid = vfork();
	if (pid == 0) {
		execv(argv[0], argv);
		_exit(3);
	}
	MUST(pid);
	ended(&vforked, pid);
	MUST_0(posix_spawn(&pid, argv[0], NULL, NULL, argv, environ));
	ended(&spawned, pid);
	MUST_0(pthread_sigmask(SIG_SETMASK, &before, NULL));
}

static void fails(void)
{
	uint64_t before, pending = 0;
	int r, error;

	MUST(raw_mask(SIG_SETMASK, &all, &before));
	storm_burn(3 * BURN_US);
	r = execl("/no/such", "such", (char *)NULL);
	error = errno;
	MUST(syscall(SYS_rt_sigpending, &pending, sizeof pending));
	MUST(raw_mask(SIG_SETMASK, &before, NULL));
	tally(&failed, r == -1 && error == ENOENT && !pending, "%d, error %d, pending %lx", r,
	      error, (unsigned long)pending);
}

int main(int argc, char **argv)
{
	struct tally *tallies[] = { &raw, &known, &vforked, &spawned, &threaded, &failed };
	pthread_t burner;

	if (argc == 5)
		return landed(argv);
	storm_begin(argc, argv);
	for (unsigned i = 0; i < sizeof tallies / sizeof *tallies; i++)
		tally_list(tallies[i]);
	MUST_0(pthread_create(&burner, NULL, storm_burner, NULL));
	do {
		forked(&raw, kernel, any);
		forked(&known, libc, any);
		forked(&threaded, kernel, thread);
		vforks_and_spawns();
		fails();
	} while (storm_on());
	pthread_join(burner, NULL);
	return storm_end();
}
