/* SPDX-License-Identifier: MIT
 *
 * Hosts that block all signals: by libc's calls, for which the sampling signal stays open underneath and the host is told
 * what it wants to hear; in the masks of handlers; at birth, by attribute; and by raw system calls, behind the agent's back:
 * then no sample comes, one stays pending, and it hurts nobody when the mask is lifted, when the thread ends, or across
 * fork and exec. Waiting for signals finds the host's own, and no other.
 */
#include <sys/signalfd.h>

#include "include/sonde.h"
#include "tests/storms/storm.h"

static struct tally told = TALLY("the host is told the mask it set"),
		    inherited = TALLY("threads inherit the mask they should"),
		    taken = TALLY("sigwait and its like take the host's signals only"),
		    nothing = TALLY("waiting for all signals in vain finds none"),
		    suspended = TALLY("sigsuspend returns for the host's signals only"),
		    pending = TALLY("nothing is pending that nobody sent"),
		    raw = TALLY("a raw mask is as it was set"),
		    children = TALLY("children of a thread with a raw mask live"),
		    in_handler = TALLY("a handler that blocks all runs whole");

/* SIGKILL and SIGSTOP cannot be blocked, and the two of glibc's own are not to be seen. */
static bool full(const sigset_t *set)
{
	for (int s = 1; s < NSIG; s++)
		if (s != SIGKILL && s != SIGSTOP && s != 32 && s != 33 && sigismember(set, s) != 1)
			return false;
	return true;
}

static bool empty(const sigset_t *set)
{
	for (int s = 1; s < NSIG; s++)
		if (sigismember(set, s) == 1)
			return false;
	return true;
}

static unsigned long raw_mask(int how, const unsigned long *set)
{
	unsigned long old = 0;

	MUST(syscall(SYS_rt_sigprocmask, how, set, &old, sizeof old));
	return old;
}

static void *reports(void *set)
{
	sigset_t *mine = set;

	storm_burn(1000);
	pthread_sigmask(SIG_SETMASK, NULL, mine);
	return mine;
}

/* What a thread made now believes about its mask. */
static bool born_with(const pthread_attr_t *attributes, bool (*as)(const sigset_t *))
{
	pthread_t thread;
	sigset_t set;
	void *value;

	MUST_0(pthread_create(&thread, attributes, reports, &set));
	MUST_0(pthread_join(thread, &value));
	return value == &set && as(&set);
}

static void *blocks(void *seed)
{
	uint32_t random = (uint32_t)(uintptr_t)seed;
	sonde_request request = sonde_begin("blocks");
	sigset_t all, none, old, now, awaited;
	pthread_attr_t attributes;

	sigfillset(&all);
	awaited = all;
	sigdelset(&awaited, SIGCHLD); /* of the children below, for whichever thread comes first */
	sigemptyset(&none);
	MUST_0(pthread_attr_init(&attributes));
	MUST_0(pthread_attr_setsigmask_np(&attributes, &all));
	while (storm_on()) {
		struct timespec brief = { .tv_nsec = 200000 };
		int n = 0, fd;
		struct signalfd_siginfo got;
		siginfo_t info;

		tally(&told, pthread_sigmask(SIG_SETMASK, &all, &old) == 0 && empty(&old),
		      "not empty");
		storm_burn(storm_random(&random) % 5000);
		tally(&told, sigprocmask(SIG_BLOCK, NULL, &now) == 0 && full(&now), "not full");
		tally(&inherited, born_with(NULL, full), "of a full mask");
		/* burning in between: a sample, if one were blocked, would be found here */
		storm_burn(2000);
		errno = 0;
		tally(&nothing, sigtimedwait(&awaited, &info, &brief) == -1 && errno == EAGAIN,
		      "%s", strerror(errno));
		MUST(fd = signalfd(-1, &awaited, SFD_NONBLOCK | SFD_CLOEXEC));
		storm_burn(1000);
		got.ssi_signo = 0;
		errno = 0;
		tally(&nothing, read(fd, &got, sizeof got) == -1 && errno == EAGAIN, "signalfd: %u",
		      got.ssi_signo);
		MUST(close(fd));
		tally(&pending,
		      sigpending(&now) == 0 && sigdelset(&now, SIGCHLD) == 0 && empty(&now),
		      "with all blocked");
		MUST_0(pthread_kill(pthread_self(), SIGUSR1));
		tally(&taken, sigwait(&awaited, &n) == 0 && n == SIGUSR1, "signal %d", n);
		MUST_0(pthread_kill(pthread_self(), SIGRTMAX));
		tally(&taken, sigwaitinfo(&awaited, &info) == SIGRTMAX && info.si_code == SI_USER,
		      "signal %d", info.si_signo);
		tally(&told, sigprocmask(SIG_UNBLOCK, &all, &old) == 0 && full(&old),
		      "was not full");
		tally(&told, pthread_sigmask(SIG_BLOCK, &none, &old) == 0 && empty(&old),
		      "not empty");
		tally(&inherited, born_with(NULL, empty), "of an empty mask");
		tally(&inherited, born_with(&attributes, full), "of an attribute");
	}
	pthread_attr_destroy(&attributes);
	sonde_end(request, 0);
	return NULL;
}

static bool child_lives(bool executes)
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0) {
		storm_burn(3000);
		if (executes)
			execl("/bin/sh", "sh", "-c",
			      "i=0; while [ $i -lt 500 ]; do i=$((i+1)); done", (char *)NULL);
		_exit(executes ? 111 : 0);
	}
	return waitpid(pid, &status, 0) == pid && status == 0;
}

static void *blocks_raw(void *seed)
{
	const unsigned long all = ~0ul, none = 0;
	uint32_t random = (uint32_t)(uintptr_t)seed;
	bool lives;

	while (storm_on()) {
		unsigned long was = raw_mask(SIG_SETMASK, &all), now;

		tally(&raw, was == 0, "%lx was blocked", was);
		storm_burn(storm_random(&random) % 12000);
		if (storm_random(&random) % 4 == 0) {
			lives = child_lives(storm_random(&random) % 2);
			tally(&children, lives, "killed");
		}
		now = raw_mask(SIG_SETMASK, &none);
		tally(&raw, ~now == (1ul << (SIGKILL - 1) | 1ul << (SIGSTOP - 1)), "%lx blocked",
		      now);
		storm_burn(storm_random(&random) % 2000);
	}
	return NULL;
}

/* A thread that dies with a raw mask, a sample pending. */
static void *dies_blocked(void *unused)
{
	const unsigned long all = ~0ul;

	(void)unused;
	raw_mask(SIG_SETMASK, &all);
	storm_burn(6000);
	return NULL;
}

static void *makes_dying(void *unused)
{
	while (storm_on()) {
		pthread_t thread;

		MUST_0(pthread_create(&thread, NULL, dies_blocked, NULL));
		MUST_0(pthread_join(thread, NULL));
	}
	return unused;
}

static volatile sig_atomic_t usr2_runs;

static void on_usr2(int number)
{
	storm_burn(1500);
	usr2_runs += number == SIGUSR2;
}

static void *suspends(void *unused)
{
	sigset_t usr2, none, mask;

	(void)unused;
	sigemptyset(&none);
	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	MUST_0(pthread_sigmask(SIG_BLOCK, &usr2, NULL));
	while (storm_on()) {
		int before = usr2_runs;

		storm_burn(2000);
		MUST_0(pthread_kill(pthread_self(), SIGUSR2));
		storm_burn(1000);
		errno = 0;
		tally(&suspended,
		      sigsuspend(&none) == -1 && errno == EINTR && usr2_runs == before + 1,
		      "%d after %d, %s", (int)usr2_runs, before, strerror(errno));
		pthread_sigmask(SIG_SETMASK, NULL, &mask);
		tally(&in_handler,
		      sigismember(&mask, SIGUSR2) == 1 && sigismember(&mask, SIGUSR1) == 0,
		      "another mask");
	}
	MUST_0(pthread_sigmask(SIG_UNBLOCK, &usr2, NULL));
	return NULL;
}

int main(int argc, char **argv)
{
	void *(*work[])(void *) = { blocks, blocks, blocks_raw, makes_dying, suspends };
	enum {
		COUNT = sizeof work / sizeof *work
	};
	struct sigaction action = { .sa_handler = on_usr2 };
	pthread_t threads[COUNT];

	storm_begin(argc, argv);
	tally_list(&told);
	tally_list(&inherited);
	tally_list(&nothing);
	tally_list(&taken);
	tally_list(&pending);
	tally_list(&raw);
	tally_list(&children);
	tally_list(&suspended);
	tally_list(&in_handler);
	sigfillset(&action.sa_mask);
	MUST(sigaction(SIGUSR2, &action, NULL));
	for (uintptr_t i = 0; i < COUNT; i++)
		MUST_0(pthread_create(&threads[i], NULL, work[i], (void *)(i + 1)));
	for (unsigned i = 0; i < COUNT; i++)
		MUST_0(pthread_join(threads[i], NULL));
	return storm_end();
}
