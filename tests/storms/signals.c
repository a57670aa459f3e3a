/* SPDX-License-Identifier: MIT
 *
 * A host that uses every real-time signal and the profiling timer itself, after the agent has chosen one: each handler is
 * called for what was sent to it, with its value, as often as it was sent, and for nothing else.
 */
#include <sys/time.h>

#include "tests/storms/storm.h"

enum {
	RIGHT = 7,
	ROUNDS = 100
};

static struct tally taken = TALLY("a host with all real-time signals gets its own"),
		    threads = TALLY("so do its threads"),
		    timers = TALLY("its timers tick in their signals"),
		    profiled = TALLY("its profiling timer ticks"),
		    reset = TALLY("signals set back are as they were");

static volatile sig_atomic_t got[NSIG], wrong;
static volatile sig_atomic_t ticks;

static void on_signal(int number, siginfo_t *info, void *context)
{
	(void)context;
	if (info->si_code == SI_QUEUE && info->si_value.sival_int == number * 3)
		got[number] = got[number] + 1;
	else if (info->si_code == SI_TIMER && info->si_value.sival_int == number * 5)
		got[number] = got[number] + 1;
	else
		wrong = number;
}

static void on_tick(int number)
{
	(void)number;
	ticks = ticks + 1;
}

static bool take_all(void)
{
	struct sigaction action = { .sa_sigaction = on_signal,
				    .sa_flags = SA_SIGINFO | SA_RESTART },
			 old;

	for (int s = SIGRTMIN; s <= SIGRTMAX; s++) {
		if (sigaction(s, &action, &old) || old.sa_handler != SIG_DFL)
			return false;
		if (sigaction(s, NULL, &old) || old.sa_sigaction != on_signal)
			return false;
	}
	return true;
}

static bool counted(int each)
{
	for (int s = SIGRTMIN; s <= SIGRTMAX; s++)
		if (got[s] != each)
			return false;
	return !wrong;
}

static bool all_taken(void)
{
	storm_burn(3000);
	if (!take_all())
		return false;
	for (int i = 0; i < ROUNDS; i++) {
		for (int s = SIGRTMIN; s <= SIGRTMAX; s++)
			if (sigqueue(getpid(), s, (union sigval){ .sival_int = s * 3 }))
				return false;
		storm_burn(50);
	}
	return counted(ROUNDS);
}

static void *sends_itself(void *unused)
{
	(void)unused;
	for (int s = SIGRTMIN; s <= SIGRTMAX; s++)
		if (pthread_sigqueue(pthread_self(), s, (union sigval){ .sival_int = s * 3 }))
			wrong = s;
	storm_burn(1000);
	return NULL;
}

static bool in_threads(void)
{
	storm_burn(1000);
	if (!take_all())
		return false;
	for (int i = 1; i <= 20; i++) {
		pthread_t t;

		MUST_0(pthread_create(&t, NULL, sends_itself, NULL));
		pthread_join(t, NULL);
		if (!counted(i))
			return false;
	}
	return true;
}

/* One expiry of a timer of each. */
static bool by_timers(void)
{
	struct itimerspec in_1_ms = { .it_value = { .tv_nsec = 1000000 } };
	uint64_t until = storm_clock_ns() + 5000000000ull;

	if (!take_all())
		return false;
	for (int s = SIGRTMIN; s <= SIGRTMAX; s++) {
		struct sigevent event = { .sigev_notify = SIGEV_SIGNAL,
					  .sigev_signo = s,
					  .sigev_value.sival_int = s * 5 };
		timer_t timer;

		if (timer_create(CLOCK_MONOTONIC, &event, &timer) ||
		    timer_settime(timer, 0, &in_1_ms, NULL))
			return false;
	}
	while (!counted(1) && !wrong && storm_clock_ns() < until)
		storm_burn(500);
	return counted(1);
}

static bool by_itimer(void)
{
	struct itimerval every = { { 0, 1000 }, { 0, 1000 } }, off = { { 0, 0 }, { 0, 0 } }, old;
	uint64_t until = storm_clock_ns() + 10000000000ull;

	if (signal(SIGPROF, on_tick) != SIG_DFL || setitimer(ITIMER_PROF, &every, NULL))
		return false;
	while (ticks < 10 && storm_clock_ns() < until)
		storm_burn(500);
	return ticks >= 10 && setitimer(ITIMER_PROF, &off, &old) == 0 &&
	       old.it_interval.tv_usec >= 1000 && signal(SIGPROF, SIG_DFL) == on_tick;
}

static bool set_back(void)
{
	struct sigaction old, plain = { .sa_handler = SIG_DFL },
			      ignored = { .sa_handler = SIG_IGN };

	for (int i = 0; i < 20; i++) {
		for (int s = SIGRTMIN; s <= SIGRTMAX; s++)
			if (sigaction(s, &ignored, &old) || old.sa_handler != SIG_DFL)
				return false;
		storm_burn(1000);
		for (int s = SIGRTMIN; s <= SIGRTMAX; s++) {
			if (sigqueue(getpid(), s, (union sigval){ .sival_int = 1 })) /* ignored */
				return false;
			if (sigaction(s, &plain, &old) || old.sa_handler != SIG_IGN)
				return false;
			if (signal(s, SIG_DFL) != SIG_DFL)
				return false;
		}
	}
	return true;
}

static void child(struct tally *t, bool (*work)(void))
{
	int status = 0;
	pid_t pid = fork();

	MUST(pid);
	if (pid == 0)
		exit(work() ? RIGHT : 3);
	MUST(waitpid(pid, &status, 0));
	tally(t, WIFEXITED(status) && WEXITSTATUS(status) == RIGHT, "status %x", status);
}

int main(int argc, char **argv)
{
	struct tally *tallies[] = { &taken, &threads, &timers, &profiled, &reset };
	pthread_t burner;

	storm_begin(argc, argv);
	for (unsigned i = 0; i < sizeof tallies / sizeof *tallies; i++)
		tally_list(tallies[i]);
	MUST_0(pthread_create(&burner, NULL, storm_burner, NULL));
	do {
		child(&taken, all_taken);
		child(&threads, in_threads);
		child(&timers, by_timers);
		child(&profiled, by_itimer);
		child(&reset, set_back);
	} while (storm_on());
	pthread_join(burner, NULL);
	return storm_end();
}
