/* SPDX-License-Identifier: MIT
 *
 * See identity.h. Reads /proc only: needs no library call that allocates.
 */
#include "agent/core/identity.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "agent/core/config.h"
#include "agent/core/encode.h"

/* Returns how much of the file was read, 0 when it cannot be. */
static size_t read_file(const char *path, char *out, size_t out_bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	size_t used = 0;

	if (fd < 0)
		return 0;
	while (used < out_bytes) {
		ssize_t n = read(fd, out + used, out_bytes - used);

		if (n <= 0)
			break;
		used += (size_t)n;
	}
	close(fd);
	return used;
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts = { 0 };

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void identity_clocks(uint64_t *mono_ns, uint64_t *unix_ns)
{
	uint64_t best = UINT64_MAX;

	/* A preemption between the readings would shift every time we tell: keep the tightest of a few. */
	for (int i = 0; i < 5; i++) {
		uint64_t before = clock_ns(CLOCK_MONOTONIC);
		uint64_t wall = clock_ns(CLOCK_REALTIME);
		uint64_t after = clock_ns(CLOCK_MONOTONIC);

		if (after - before >= best)
			continue;
		best = after - before;
		*mono_ns = before + best / 2;
		*unix_ns = wall;
	}
}

/* Field 22 of /proc/self/stat. The name in field 2 may hold blanks and parentheses: count from its end. */
static uint64_t start_ns(void)
{
	char stat[1024];
	size_t length = read_file("/proc/self/stat", stat, sizeof(stat) - 1);
	long ticks_per_second = sysconf(_SC_CLK_TCK);
	uint64_t ticks = 0;
	const char *at;

	stat[length] = 0;
	at = strrchr(stat, ')');
	for (int field = 2; at && field < 22; field++) {
		at = strchr(at, ' ');
		if (at)
			at++;
	}
	if (!at || ticks_per_second <= 0)
		return 0;
	for (; *at >= '0' && *at <= '9'; at++)
		ticks = ticks * 10 + (uint64_t)(*at - '0');
	return ticks * (1000000000u / (uint64_t)ticks_per_second);
}

static uint64_t random_instance(void)
{
	uint64_t instance = 0;

	/* Early in boot the pool may be empty, and we must not wait: then time and pid have to do. */
	if (getrandom(&instance, sizeof(instance), GRND_NONBLOCK) != sizeof(instance) || !instance)
		instance = (clock_ns(CLOCK_REALTIME) * 0x9e3779b97f4a7c15u) ^
			   ((uint64_t)getpid() << 32) ^ (uint64_t)(uintptr_t)&instance;
	return instance ? instance : 1;
}

void identity_fill(struct identity *self, const struct config *c)
{
	char bytes[IDENTITY_COMMAND_MAX * 2];
	struct utsname names;
	size_t length;
	ssize_t link;

	memset(self, 0, sizeof(*self));
	self->instance = random_instance();
	self->pid = (uint32_t)getpid();
	self->parent_pid = (uint32_t)getppid();
	self->start_ns = start_ns();
	self->hz = c->hz;
	encode_text(self->service, sizeof(self->service), c->service,
		    strnlen(c->service, sizeof(c->service)));
	if (uname(&names) == 0)
		encode_text(self->host, sizeof(self->host), names.nodename,
			    strnlen(names.nodename, sizeof(names.nodename)));

	length = read_file("/proc/sys/kernel/random/boot_id", bytes, 36);
	encode_text(self->boot_id, sizeof(self->boot_id), bytes, length);

	link = readlink("/proc/self/exe", bytes, sizeof(bytes));
	encode_text(self->exe, sizeof(self->exe), bytes, link > 0 ? (size_t)link : 0);

	length = read_file("/proc/self/cmdline", bytes, sizeof(bytes));
	while (length > 0 && bytes[length - 1] == 0)
		length--;
	for (size_t i = 0; i < length; i++)
		if (bytes[i] == 0 || bytes[i] == '\t' || bytes[i] == '\n')
			bytes[i] = ' ';
	encode_text(self->command, sizeof(self->command), bytes, length);
}
