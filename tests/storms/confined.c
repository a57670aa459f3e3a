/* SPDX-License-Identifier: MIT
 *
 * Servers that leave behind what they were born with: every descriptor (three ways), the terminal, the uid, /proc, the right
 * to be looked at; and servers that live at their limits. Then they serve, with threads, and what they are told is what a
 * process like that is told.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "tests/storms/storm.h"

enum {
	RIGHT = 7,
	NOBODY = 65534
};

static struct tally closed = TALLY("who closes all descriptors gets the lowest again"),
		    daemons = TALLY("daemons serve"),
		    dropped = TALLY("who drops its privileges serves"),
		    jailed = TALLY("in a chroot without /proc, too"),
		    few_files = TALLY("at the limit of descriptors, too"),
		    little_space = TALLY("at the limit of address space, too"),
		    no_signals = TALLY("without pending signals, too"),
		    no_threads = TALLY("where no thread can be made, too");

static char empty[] = "/tmp/sonde-storm-XXXXXX";

static const char request[] = "GET /confined HTTP/1.1\r\n\r\n",
		  answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

struct ends {
	int listener, client, server;
};

static bool connected(struct ends *e)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof a;

	return (e->listener = socket(AF_INET, SOCK_STREAM, 0)) >= 0 &&
	       bind(e->listener, (struct sockaddr *)&a, sizeof a) == 0 &&
	       getsockname(e->listener, (struct sockaddr *)&a, &len) == 0 &&
	       listen(e->listener, 8) == 0 && (e->client = socket(AF_INET, SOCK_STREAM, 0)) >= 0 &&
	       connect(e->client, (struct sockaddr *)&a, sizeof a) == 0 &&
	       (e->server = accept(e->listener, NULL, NULL)) >= 0;
}

static void *clients(void *argument)
{
	const struct ends *e = argument;
	char bytes[256];
	bool good = true;

	for (int i = 0; i < 20; i++) {
		usleep(200); /* the server waits for it */
		good &= send(e->client, request, sizeof request - 1, 0) == sizeof request - 1;
		good &= recv(e->client, bytes, sizeof bytes, 0) == sizeof answer - 1;
	}
	return good ? argument : NULL;
}

static bool serve(const struct ends *e)
{
	char bytes[256];
	bool good = true;

	for (int i = 0; i < 20; i++) {
		good &= recv(e->server, bytes, sizeof bytes, 0) == sizeof request - 1;
		storm_burn(100);
		good &= write(e->server, answer, sizeof answer - 1) == sizeof answer - 1;
	}
	return good;
}

static bool served(void)
{
	struct ends e;
	pthread_t t;
	void *client = NULL;
	bool good;

	if (!connected(&e) || pthread_create(&t, NULL, clients, &e))
		return false;
	good = serve(&e);
	pthread_join(t, &client);
	return good && client && close(e.client) == 0 && close(e.server) == 0 &&
	       close(e.listener) == 0;
}

/* Whether a child that does @work in a process of its own ends well. */
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

static bool all_closed(void)
{
	for (int round = 0; round < 6; round++) {
		storm_burn(500);
		if (round % 3 == 0 && close_range(3, ~0u, 0))
			return false;
		if (round % 3 == 1)
			closefrom(3);
		for (int fd = 3; round % 3 == 2 && fd < 1024; fd++)
			close(fd);
		for (int fd = 3; fd < 6; fd++)
			if (open("/dev/null", O_RDONLY) != fd)
				return false;
		for (int fd = 3; fd < 6; fd++)
			if (close(fd))
				return false;
		if (!served())
			return false;
	}
	return true;
}

/* Its parent is gone: it tells through memory. */
static void daemonised(void)
{
	int *told =
		mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = 0;
	pid_t pid;

	MUST(told == MAP_FAILED ? -1 : 0);
	MUST(pid = fork());
	if (pid == 0) {
		setsid();
		if (fork())
			_exit(0);
		if (chdir("/"))
			_exit(3);
		umask(0);
		for (int fd = 0; fd < 1024; fd++)
			close(fd);
		__atomic_store_n(told,
				 open("/dev/null", O_RDWR) == 0 && dup(0) == 1 && dup(0) == 2 &&
						 served()
					 ? RIGHT
					 : 3,
				 __ATOMIC_RELEASE);
		_exit(0);
	}
	MUST(waitpid(pid, &status, 0));
	for (int i = 0; i < 1000 && !__atomic_load_n(told, __ATOMIC_ACQUIRE); i++)
		usleep(10000);
	tally(&daemons, WIFEXITED(status) && *told == RIGHT, "status %x, told %d", status, *told);
	munmap(told, sizeof *told);
}

static bool as_nobody(void)
{
	if (geteuid() == 0 && (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
			       setresuid(NOBODY, NOBODY, NOBODY)))
		return false;
	return prctl(PR_SET_DUMPABLE, 0) == 0 && served() && prctl(PR_GET_DUMPABLE) == 0 &&
	       served();
}

static bool in_jail(void)
{
	struct stat st;

	if (geteuid() == 0) {
		if (chroot(empty) || chdir("/"))
			return false;
		errno = 0;
		if (stat("/proc/self", &st) != -1 || errno != ENOENT)
			return false;
	}
	return served() && as_nobody();
}

static bool limit(int what, rlim_t value)
{
	struct rlimit l;

	if (getrlimit(what, &l))
		return false;
	l.rlim_cur = value;
	return setrlimit(what, &l) == 0;
}

/* Three for the server and none to spare. */
static bool files_limited(void)
{
	struct ends e;
	pthread_t t;
	void *client = NULL;
	bool good;

	closefrom(3);
	if (!connected(&e) || !limit(RLIMIT_NOFILE, 6) || pthread_create(&t, NULL, clients, &e))
		return false;
	good = open("/dev/null", O_RDONLY) == -1 && errno == EMFILE && dup(0) == -1 &&
	       errno == EMFILE;
	good &= serve(&e);
	pthread_join(t, &client);
	for (int i = 0; i < 100; i++) /* nobody takes the one that was free for a moment */
		good &= close(e.listener) == 0 && (e.listener = open("/dev/null", O_RDONLY)) == 3;
	return good && client;
}

static bool space_limited(void)
{
	unsigned long pages = 0;
	bool good = served();
	FILE *f;
	void *p;

	usleep(200000); /* an agent's thread has its share by now: this is about what comes later */
	f = fopen("/proc/self/statm", "re");

	if (!f || fscanf(f, "%lu", &pages) != 1 || fclose(f))
		return false;
	if (!limit(RLIMIT_AS, pages * 4096 + (24u << 20)))
		return false;
	p = mmap(NULL, 32u << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	good &= p == MAP_FAILED && errno == ENOMEM;
	p = malloc(32u << 20);
	good &= !p && errno == ENOMEM;
	return good && served();
}

static bool signals_limited(void)
{
	return limit(RLIMIT_SIGPENDING, 0) && served() && served();
}

static bool threads_limited(void)
{
	struct ends e;
	pthread_t t;

	if (!connected(&e))
		return false;
	if (geteuid() == 0 && (setgroups(0, NULL) || setresgid(54321, 54321, 54321) ||
			       setresuid(54321, 54321, 54321)))
		return false;
	if (!limit(RLIMIT_NPROC, 0))
		return false;
	if (pthread_create(&t, NULL, clients, &e) != EAGAIN || fork() != -1 || errno != EAGAIN)
		return geteuid() == 0;
	for (int i = 0; i < 20; i++) {
		char bytes[256];

		if (send(e.client, request, sizeof request - 1, 0) != sizeof request - 1 ||
		    recv(e.server, bytes, sizeof bytes, 0) != sizeof request - 1 ||
		    send(e.server, answer, sizeof answer - 1, 0) != sizeof answer - 1 ||
		    recv(e.client, bytes, sizeof bytes, 0) != sizeof answer - 1)
			return false;
		storm_burn(200);
	}
	return true;
}

int main(int argc, char **argv)
{
	struct tally *tallies[] = { &closed,    &daemons,      &dropped,    &jailed,
				    &few_files, &little_space, &no_signals, &no_threads };
	pthread_t burner;

	storm_begin(argc, argv);
	for (unsigned i = 0; i < sizeof tallies / sizeof *tallies; i++)
		tally_list(tallies[i]);
	MUST(mkdtemp(empty) ? 0 : -1);
	chmod(empty, 0755);
	MUST_0(pthread_create(&burner, NULL, storm_burner, NULL));
	do {
		child(&closed, all_closed);
		daemonised();
		child(&dropped, as_nobody);
		child(&jailed, in_jail);
		child(&few_files, files_limited);
		child(&little_space, space_limited);
		child(&no_signals, signals_limited);
		child(&no_threads, threads_limited);
	} while (storm_on());
	pthread_join(burner, NULL);
	rmdir(empty);
	return storm_end();
}
