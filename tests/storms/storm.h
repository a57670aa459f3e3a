/* SPDX-License-Identifier: MIT
 *
 * A storm is a program that does one dangerous thing at full rate, for as many seconds as its first argument says, and
 * judges every result itself. tests/e2e/test_storms.py runs it alone and under the agent at its highest rates: exit status
 * and standard output must be the same, so nothing is printed there that depends on time or on chance. Anything else goes
 * to note(), which writes to stderr behind a "# "; whatever else appears on stderr was written by somebody who should not.
 *
 *	static struct tally reads = TALLY("read answers what was written");
 *
 *	int main(int argc, char **argv)
 *	{
 *		storm_begin(argc, argv);
 *		while (storm_on())
 *			tally(&reads, read(fd, b, 1) == 1, "%d", errno);
 *		return storm_end();
 *	}
 *
 * storm_end() also finds descriptors, threads, children and signal masks that are not as they were. It prints "right",
 * "WRONG" or "NEVER" for each tally: a storm in which the thing never happened proves nothing.
 */
#ifndef STORM_H
#define STORM_H

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What is counted together; wrong ones are described on stderr, the first few. */
struct tally {
	const char *what;
	unsigned long right, wrong;
	struct tally *next;
	int listed;
};
#define TALLY(what)                                                                                \
  {                                                                                                \
    what, 0, 0, NULL, 0                                                                            \
  }

static struct tally *storm_tallies;
static uint64_t storm_until_ns;
static int storm_descriptors;
static sigset_t storm_mask;

static inline uint64_t storm_clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline bool storm_on(void)
{
	return storm_clock_ns() < storm_until_ns;
}

/* For people: counts, rates, whatever differs from run to run. One write, so that threads do not mix. */
static inline __attribute__((format(printf, 1, 2))) void note(const char *format, ...)
{
	char text[512] = "# ";
	int saved = errno, n;
	va_list list;

	va_start(list, format);
	n = vsnprintf(text + 2, sizeof text - 3, format, list);
	va_end(list);
	if (n > (int)sizeof text - 4)
		n = (int)sizeof text - 4;
	text[n + 2] = '\n';
	if (write(STDERR_FILENO, text, (size_t)n + 3) < 0)
		abort();
	errno = saved;
}

/* The storm itself cannot go on: neither right nor wrong. */
#define MUST(call)                                                                                 \
  do {                                                                                             \
    long r_ = (long)(call);                                                                        \
                                                                                                   \
    if (r_ < 0) {                                                                                  \
      note("%s:%d: %s: %s", __FILE__, __LINE__, #call, strerror(errno));                           \
      abort();                                                                                     \
    }                                                                                              \
  } while (0)
/* As MUST, for calls that return an error number. */
#define MUST_0(call)                                                                               \
  do {                                                                                             \
    int r_ = (call);                                                                               \
                                                                                                   \
    if (r_) {                                                                                      \
      note("%s:%d: %s: %s", __FILE__, __LINE__, #call, strerror(r_));                              \
      abort();                                                                                     \
    }                                                                                              \
  } while (0)

/* List a tally in the order in which the digest shows it; those that are not, come as they first count. */
static inline void tally_list(struct tally *t)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct tally **end = &storm_tallies;

	pthread_mutex_lock(&lock);
	if (!t->listed) {
		while (*end)
			end = &(*end)->next;
		*end = t;
		__atomic_store_n(&t->listed, 1, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&lock);
}

/* One more, right or wrong, and then @... says how wrong. Any thread; from a signal handler only when listed. Keeps errno. */
#define tally(t, ok, ...)                                                                          \
  do {                                                                                             \
    int errno_ = errno;                                                                            \
                                                                                                   \
    if (ok) {                                                                                      \
      __atomic_fetch_add(&(t)->right, 1, __ATOMIC_RELAXED);                                        \
    } else {                                                                                       \
      errno = errno_;                                                                              \
      if (__atomic_fetch_add(&(t)->wrong, 1, __ATOMIC_RELAXED) < 5)                                \
	note("WRONG: " __VA_ARGS__);                                                               \
    }                                                                                              \
    errno = errno_;                                                                                \
  } while (0)

/* How many entries of a directory of /proc/self, less the one that looking takes. */
static inline int storm_count(const char *directory)
{
	DIR *d = opendir(directory);
	int n = 0;

	if (!d)
		return -1;
	for (struct dirent *e = readdir(d); e; e = readdir(d))
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

/* Threads of the storm itself: the agent's own is known by its name. */
static inline int storm_threads(void)
{
	DIR *d = opendir("/proc/self/task");
	char path[64], name[32];
	int n = 0;

	if (!d)
		return -1;
	for (struct dirent *e = readdir(d); e; e = readdir(d)) {
		FILE *f;

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "/proc/self/task/%.16s/comm", e->d_name);
		f = fopen(path, "re");
		if (!f)
			continue; /* it has just ended */
		if (fgets(name, sizeof name, f) && strcmp(name, "sonde\n"))
			n++;
		fclose(f);
	}
	closedir(d);
	return n;
}

/* The storm lasts argv[1] seconds, 2 when there is none. */
static inline void storm_begin(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 2;

	storm_descriptors = storm_count("/proc/self/fd");
	pthread_sigmask(SIG_SETMASK, NULL, &storm_mask);
	storm_until_ns = storm_clock_ns() + (uint64_t)(seconds * 1e9);
}

/* The digest, and the exit status. Every thread and child of the storm has ended and every descriptor is closed. */
static inline int storm_end(void)
{
	static struct tally descriptors = TALLY("descriptors as before"),
			    threads = TALLY("threads as before"), children = TALLY("no child left"),
			    mask = TALLY("signal mask as before");
	sigset_t now;
	bool bad = false;
	int n;

	tally_list(&descriptors);
	tally_list(&threads);
	tally_list(&children);
	tally_list(&mask);
	n = storm_count("/proc/self/fd");
	tally(&descriptors, n == storm_descriptors, "%d descriptors were %d", n, storm_descriptors);
	/* a joined thread is for a moment still to be seen */
	for (int i = 0; (n = storm_threads()) != 1 && i < 200; i++)
		usleep(10000);
	tally(&threads, n == 1, "%d threads", n);
	n = (int)waitpid(-1, NULL, WNOHANG);
	tally(&children, n == -1 && errno == ECHILD, "waitpid: %d, %s", n, strerror(errno));
	memset(&now, 0, sizeof now);
	pthread_sigmask(SIG_SETMASK, NULL, &now);
	n = 0;
	for (int s = 1; s < NSIG; s++)
		if (sigismember(&now, s) != sigismember(&storm_mask, s))
			n = s;
	tally(&mask, n == 0, "signal %d", n);
	for (struct tally *t = storm_tallies; t; t = t->next) {
		const char *how = t->wrong ? "WRONG" : t->right ? "right" : "NEVER";

		bad = bad || t->wrong || !t->right;
		note("%-45s %10lu right %6lu wrong", t->what, t->right, t->wrong);
		printf("%s: %s\n", t->what, how);
	}
	return bad;
}

/* Burn about @us of CPU, in a few frames of our own. */
static __attribute__((noinline, unused)) uint64_t storm_burn(unsigned us)
{
	uint64_t end = storm_clock_ns() + us * 1000ull, x = end;

	do
		for (int i = 0; i < 200; i++)
			x = x * 6364136223846793005u + 1442695040888963407u;
	while (storm_clock_ns() < end);
	return x;
}

/* A thread that only burns, so that there is something to sample whatever the others do. Until the storm ends. */
static inline void *storm_burner(void *unused)
{
	(void)unused;
	while (storm_on())
		storm_burn(500);
	return NULL;
}

static inline struct timespec storm_in_us(clockid_t clock, long us)
{
	struct timespec t;

	clock_gettime(clock, &t);
	t.tv_nsec += us % 1000000 * 1000;
	t.tv_sec += us / 1000000 + t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	return t;
}

static inline uint32_t storm_random(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

#ifdef __cplusplus
}
#endif

#endif
