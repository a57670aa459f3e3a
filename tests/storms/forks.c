/* SPDX-License-Identifier: MIT
 *
 * fork, vfork and posix_spawn from several threads at once, beside busy ones. Children of fork use what a child may use
 * and a bit more: they read, sleep, lock, make threads, have children of their own; every status comes back.
 */
#include <fcntl.h>
#include <spawn.h>

#include "include/sonde.h"
#include "tests/storms/storm.h"

extern char **environ;

static struct tally forked = TALLY("children of fork end as told"),
		    vforked = TALLY("children of vfork end as told"),
		    spawned = TALLY("children of posix_spawn end as told"),
		    failed = TALLY("a spawn of nothing fails as ever"),
		    execed = TALLY("fork and exec ends as told"),
		    kept = TALLY("what the parent had is untouched");

static bool ended(pid_t pid, int status)
{
	static unsigned odd;
	int got = -1;
	pid_t who = waitpid(pid, &got, 0);

	if (who == pid && WIFEXITED(got) && WEXITSTATUS(got) == status)
		return true;
	if (++odd < 20)
		note("process %d: status %x in place of %d", (int)who, (unsigned)got, status);
	return false;
}

static void *value_of(void *argument)
{
	storm_burn(200);
	return argument;
}

/* The parent opens no descriptor, so its children have those that it began with. Bit per number; /proc would take one. */
static uint64_t descriptors(void)
{
	uint64_t set = 0;

	for (int fd = 0; fd < 64; fd++)
		set |= (uint64_t)(fcntl(fd, F_GETFD) >= 0) << fd;
	return set;
}

static uint64_t inherited;

/* In the child. Its own status, or 111 when something was wrong. */
static int child(int status, int depth)
{
	struct timespec brief = { .tv_nsec = 100000 };
	pthread_t thread;
	void *value;
	char byte;
	int fds[2];

	storm_burn(100);
	if (nanosleep(&brief, NULL) || pipe(fds) || write(fds[1], "x", 1) != 1 ||
	    read(fds[0], &byte, 1) != 1 || byte != 'x' || close(fds[0]) || close(fds[1]))
		return 111;
	if (pthread_create(&thread, NULL, value_of, &fds) || pthread_join(thread, &value) ||
	    value != &fds)
		return 111;
	if (depth > 0) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(child(status, depth - 1));
		if (!ended(pid, status))
			return 111;
	}
	return status;
}

static void *forks(void *seed)
{
	uint32_t random = (uint32_t)(uintptr_t)seed;

	while (storm_on()) {
		int status = (int)(storm_random(&random) % 100);
		bool quick = storm_random(&random) % 4;
		pid_t pid = fork();

		if (pid == 0)
			_exit(descriptors() != inherited ? 112
			      : quick                    ? status
				      : child(status, (int)(storm_random(&random) % 2)));
		tally(&forked, ended(pid, status), "fork: %d", (int)pid);
	}
	return NULL;
}

/* The child of a vfork borrows this frame: it sets only what is volatile. */
static void *vforks(void *seed)
{
	volatile uint32_t random = (uint32_t)(uintptr_t)seed;

	while (storm_on()) {
		volatile int status = (int)(random % 100), mine = status;
		pid_t pid = vfork();

		if (pid == 0) {
			int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

			close(fd);
			if (status % 3 == 0)
				execl("/bin/false", "false", (char *)NULL);
			_exit(status);
		}
		tally(&vforked, ended(pid, status % 3 ? status : 1), "vfork: %d", (int)pid);
		tally(&kept, mine == status, "%d became %d", status, mine);
		random = random * 1664525u + 1013904223u;
	}
	return NULL;
}

static void *spawns(void *seed)
{
	char *yes[] = { (char[]){ "true" }, NULL }, *no[] = { (char[]){ "false" }, NULL };
	uint32_t random = (uint32_t)(uintptr_t)seed;
	pid_t pid;

	while (storm_on()) {
		bool which = storm_random(&random) % 2;

		MUST_0(posix_spawn(&pid, which ? "/bin/true" : "/bin/false", NULL, NULL,
				   which ? yes : no, environ));
		tally(&spawned, ended(pid, which ? 0 : 1), "spawn: %d", (int)pid);
		tally(&failed, posix_spawn(&pid, "/no/such", NULL, NULL, yes, environ) == ENOENT,
		      "spawn of nothing");
	}
	return NULL;
}

/* Waits with a request in hand are what the agent reads /proc for. */
static void *waits(void *unused)
{
	struct timespec brief = { .tv_nsec = 300000 };

	while (storm_on()) {
		sonde_request request = sonde_begin("waits");

		for (int i = 0; i < 10; i++)
			nanosleep(&brief, NULL);
		sonde_end(request, 0);
	}
	return unused;
}

static void *execs(void *unused)
{
	(void)unused;
	while (storm_on()) {
		pid_t pid = fork();

		if (pid == 0) {
			execl("/no/such", "such", (char *)NULL);
			if (errno == ENOENT)
				execl("/bin/true", "true", (char *)NULL);
			_exit(111);
		}
		tally(&execed, ended(pid, 0), "exec: %d", (int)pid);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	void *(*work[])(void *) = { forks, forks, vforks, vforks,      spawns,
				    execs, waits, waits,  storm_burner };
	enum {
		COUNT = sizeof work / sizeof *work
	};
	pthread_t threads[COUNT];

	storm_begin(argc, argv);
	inherited = descriptors();
	tally_list(&forked);
	tally_list(&vforked);
	tally_list(&spawned);
	tally_list(&failed);
	tally_list(&execed);
	tally_list(&kept);
	for (uintptr_t i = 0; i < COUNT; i++)
		MUST_0(pthread_create(&threads[i], NULL, work[i], (void *)(i + 1)));
	for (unsigned i = 0; i < COUNT; i++)
		MUST_0(pthread_join(threads[i], NULL));
	return storm_end();
}
