/* SPDX-License-Identifier: MIT
 *
 * A library to preload before the agent: memory runs out for the agent's thread, and at its start for the one that starts
 * it. STARVE=malloc:N or mmap:N lets the N-th such call of theirs fail, and all that follow when there is a + behind it. At
 * the end it says on descriptor 2 how many there were, when STARVE_COUNT is set. test_starved.py
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);

static struct {
	bool read, more, memory, maps;
	long at;
} order;
static _Atomic long seen;
static _Atomic bool in_main; /* main() runs: from here on only the agent's thread starves */
static __thread int agents;  /* 1: this thread is the agent's; -1: it is not */

static void obey(const char *text)
{
	if (!strchr(text, ':'))
		return;
	order.memory = strncmp(text, "malloc", 6) == 0;
	order.maps = strncmp(text, "mmap", 4) == 0;
	order.at = atol(strchr(text, ':') + 1);
	order.more = strchr(text, '+') != NULL;
}

/* The agent starts before there is a getenv(). */
static void read_order(void)
{
	static char text[16384];
	ssize_t n;
	int fd;

	if (order.read)
		return;
	order.read = true;
	fd = open("/proc/self/environ", O_RDONLY | O_CLOEXEC);
	n = read(fd, text, sizeof text - 1);
	close(fd);
	for (char *at = text; n > 0 && at < text + n; at += strlen(at) + 1)
		if (strncmp(at, "STARVE=", 7) == 0)
			obey(at + 7);
}
static bool starves(bool memory)
{
	char name[16] = "";
	long n;

	read_order();
	if (memory ? !order.memory : !order.maps)
		return false;
	if (!agents && !prctl(PR_GET_NAME, name) && strcmp(name, "sonde") == 0)
		agents = 1;
	if (agents < 1 && in_main)
		return false;
	n = ++seen;
	if (n != order.at && !(order.more && n > order.at))
		return false;
	errno = ENOMEM;
	return true;
}

void *malloc(size_t bytes)
{
	return starves(true) ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
	return starves(true) ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
	return starves(true) ? NULL : __libc_realloc(old, bytes);
}

void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
	static void *(*next)(void *, size_t, int, int, int, off_t);

	if (starves(false))
		return MAP_FAILED;
	if (!next)
		next = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
	return next(at, bytes, protection, flags, fd, offset);
}

static __attribute__((constructor)) void begin(void)
{
	in_main = true;
}

static __attribute__((destructor)) void tell(void)
{
	if (getenv("STARVE_COUNT"))
		dprintf(2, "%ld calls\n", (long)seen);
}
