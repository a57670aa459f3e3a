/* SPDX-License-Identifier: MIT
 *
 * `sonde doctor PID`: what the agent in that process is doing. Whether it is on, and why not, it says itself, in a section
 * of its own that is read from outside (agent/core/agent.c); what it costs and what it lost, it has told the collector.
 */
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "server/client.h"
#include "server/doctor.h"
#include "server/units.h"

enum {
	INSIDE_SECONDS = 60,
	INSIDE_TIMEOUT_S = 5,
	INSIDE_SAMPLES_LEAST = 20
};

/* As agent/core/agent.c has it. */
struct status {
	char magic[8];
	int32_t pid;
	char state[12];
	char said[488];
};

/* ---- Its own words ---- */

/* The address of the section in the file, 0: none. */
static uint64_t section_address(const char *path, const char *wanted)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t address = 0;
	Elf_Scn *section = NULL;
	size_t names;
	Elf *elf;

	if (fd < 0)
		return 0;
	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ, NULL);
	if (elf && elf_getshdrstrndx(elf, &names) == 0) {
		while ((section = elf_nextscn(elf, section)) != NULL) {
			GElf_Shdr header;
			const char *name = gelf_getshdr(section, &header)
						   ? elf_strptr(elf, names, header.sh_name)
						   : NULL;

			if (name && strcmp(name, wanted) == 0 &&
			    header.sh_size >= sizeof(struct status))
				address = header.sh_addr;
		}
	}
	elf_end(elf);
	close(fd);
	return address;
}

/* Where the agent's library begins in @pid, and its path as seen from here. False: it is not there, or not to be seen. */
static bool find_agent(pid_t pid, uint64_t *base, char *path, size_t size)
{
	char maps[64], line[PATH_MAX + 128];
	bool found = false;
	FILE *f;

	snprintf(maps, sizeof(maps), "/proc/%d/maps", (int)pid);
	f = fopen(maps, "re");
	while (f && !found && fgets(line, sizeof(line), f)) {
		char *name = strchr(line, '/');

		line[strcspn(line, "\n")] = '\0';
		if (!name || strlen(name) < 12 ||
		    strcmp(name + strlen(name) - 12, "/libsonde.so") != 0)
			continue;
		*base = strtoull(line, NULL, 16);
		snprintf(path, size, "/proc/%d/root%s", (int)pid, name);
		found = true;
	}
	if (f)
		fclose(f);
	return found;
}

static int read_status(pid_t pid, struct status *out)
{
	char path[PATH_MAX + 64];
	struct iovec local = { out, sizeof(*out) }, remote = { .iov_len = sizeof(*out) };
	uint64_t base, address;

	if (!find_agent(pid, &base, path, sizeof(path)))
		return -ENOENT;
	address = section_address(path, "sonde_status");
	if (!address)
		return -ENOEXEC;
	address += base;
	memcpy(&remote.iov_base, &address, sizeof(address));
	if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != (ssize_t)sizeof(*out))
		return -errno;
	if (memcmp(out->magic, "sonde 1", 8) != 0)
		return -ENOEXEC;
	out->state[sizeof(out->state) - 1] = out->said[sizeof(out->said) - 1] = '\0';
	return 0;
}

/* Returns false when the agent is surely off: then nobody has anything to tell. */
static bool say_state(struct doctor *d, pid_t pid)
{
	struct status status = { 0 };
	int err = read_status(pid, &status);

	if (err == -ENOENT)
		return false;
	if (err) {
		doctor_say(d, DOCTOR_FACT, "state", NULL, "cannot be asked: %s",
			   err == -ENOEXEC ? "an agent of another version" : strerror(-err));
		return true;
	}
	if (strcmp(status.state, "on") == 0 && status.pid == (int32_t)pid)
		doctor_say(d, status.said[0] ? DOCTOR_LIMIT : DOCTOR_GOOD, "state",
			   status.said[0] ? status.said : NULL, "on");
	else if (strcmp(status.state, "on") == 0)
		doctor_say(d, DOCTOR_FACT, "state", NULL,
			   "not begun: this child of process %d has done nothing to measure",
			   (int)status.pid);
	else
		doctor_say(d, DOCTOR_LIMIT, "state", "nothing is measured in this process",
			   "off: %s", status.said[0] ? status.said : "it has not said why");
	return strcmp(status.state, "on") == 0;
}

/* ---- What the collector knows ---- */

static uint64_t number(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	return json_is_integer(value) && json_integer_value(value) > 0
		       ? (uint64_t)json_integer_value(value)
		       : 0;
}

static const char *text(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? value : "";
}

/* The newest of that pid on this host. */
static const json_t *choose(const json_t *answer, pid_t pid)
{
	char host[256] = "";
	const json_t *chosen = NULL, *process;
	double newest = -1;
	size_t i;

	gethostname(host, sizeof(host) - 1);
	json_array_foreach(json_object_get(answer, "processes"), i, process)
	{
		double seen = json_number_value(json_object_get(process, "last_seen"));

		if (number(process, "pid") == (uint64_t)pid &&
		    strcmp(text(process, "host"), host) == 0 && seen > newest) {
			chosen = process;
			newest = seen;
		}
	}
	return chosen;
}

static double share(uint64_t part, uint64_t whole)
{
	return whole ? (double)part / (double)whole : 0;
}

static void say_rates(struct doctor *d, const json_t *process, const json_t *overhead)
{
	uint64_t step = number(overhead, "step"), budget = number(overhead, "budget_permille");
	uint64_t hz = number(process, "hz"), look_hz = number(process, "look_hz");

	if (step)
		doctor_say(d, DOCTOR_LIMIT, "rates",
			   "to keep the budget; sums stay right, but small things show later; "
			   "SONDE_BUDGET sets it",
			   "%" PRIu64 " samples a second of CPU, %" PRIu64
			   " looks at waits: 1/%u of what was asked for",
			   hz, look_hz, 1u << (step < 16 ? step : 16));
	else
		doctor_say(d, DOCTOR_GOOD, "rates", NULL,
			   "%" PRIu64 " samples a second of CPU, %" PRIu64
			   " looks at waits, as asked for",
			   hz, look_hz);
	doctor_say(d, DOCTOR_FACT, "budget", NULL,
		   "sampling may take %s of the CPU time of the process, or of one core "
		   "(SONDE_BUDGET)",
		   units_percent((double)budget / 1000).text);
}

static void say_part(const char *name, uint64_t ns, uint64_t process_ns, const char *what)
{
	printf("    %-20s   %-8s %s\n", name, units_percent(share(ns, process_ns)).text, what);
}

/* Hooks past the budget, by more than a few samples' word, and more than what is granted to all. */
static bool hooks_over_budget(const json_t *process, const json_t *overhead)
{
	uint64_t hooks = number(overhead, "hooks_ns");

	return hooks / 1000000 * number(process, "hz") >= INSIDE_SAMPLES_LEAST * 1000 &&
	       hooks > number(overhead, "wall_ns") / 1000 * number(overhead, "budget_permille") &&
	       hooks > number(overhead, "process_cpu_ns") / 1000 *
			       number(overhead, "budget_permille");
}

static void say_cost(struct doctor *d, const json_t *process_object, const json_t *overhead)
{
	uint64_t process = number(overhead, "process_cpu_ns"), wall = number(overhead, "wall_ns");
	uint64_t handler = number(overhead, "handler_ns"), signals = number(overhead, "signal_ns");
	uint64_t hooks = number(overhead, "hooks_ns"), agent = number(overhead, "agent_cpu_ns");
	uint64_t own = handler + signals + hooks + agent;
	bool over = hooks_over_budget(process_object, overhead);

	doctor_say(
		d, over ? DOCTOR_LIMIT : DOCTOR_GOOD, "CPU time",
		over ? "wrapped calls alone take more than the budget, and no lower rate changes "
		       "that; without SONDE_LOCKS or SONDE_HTTP they take less"
		     : NULL,
		"%s of a core; %s of the CPU time of the process, in the last minute:",
		units_percent(share(own, wall)).text, units_percent(share(own, process)).text);
	say_part("", hooks, process, "wrapped calls, estimated from its own samples");
	say_part("", handler, process, "sampling: the handler");
	say_part("", signals, process, "sampling: the kernel's part of the signals, estimated");
	say_part("", number(overhead, "sampling_ns"), process,
		 "the agent's thread, over samples and waits");
	say_part("", agent - number(overhead, "sampling_ns"), process,
		 "the agent's thread, over requests and reports");
}

static void say_memory(struct doctor *d, const json_t *process, const json_t *overhead)
{
	static const struct {
		const char *part, *words;
	} parts[] = {
		{ "threads", "records and rings of threads" },
		{ "requests", "requests in progress" },
		{ "connections", "connections" },
		{ "tables", "unwind tables of the code that is mapped" },
		{ "dictionary", "stacks, routes, names" },
		{ "window", "the report in the making" },
		{ "spool", "reports on their way" },
		{ "agent", "the agent itself" },
	};
	const json_t *part;
	size_t i;

	doctor_say(d, DOCTOR_GOOD, "memory", NULL,
		   "%s for %" PRIu64 " %s:", units_bytes(number(overhead, "memory_bytes")).text,
		   number(process, "threads"),
		   number(process, "threads") == 1 ? "thread" : "threads");
	json_array_foreach(json_object_get(overhead, "memory"), i, part)
	{
		const char *words = text(part, "part");

		for (size_t k = 0; k < sizeof(parts) / sizeof(parts[0]); k++)
			if (strcmp(words, parts[k].part) == 0)
				words = parts[k].words;
		printf("    %-20s   %-8s %s, at most %s\n", "",
		       units_bytes(number(part, "bytes")).text, words,
		       units_bytes(number(part, "max_bytes")).text);
	}
}

/* What a drop means to who reads the profile, and what helps. Causes as agent/core names them. */
static const char *meaning(const char *cause)
{
	static const struct {
		const char *cause, *meaning;
	} known[] = {
		{ "thread table full", "threads beyond 4096 are not measured" },
		{ "request table full", "these requests were not counted; SONDE_REQUESTS" },
		{ "connection table full",
		  "requests on these were not counted; SONDE_CONNECTIONS" },
		{ "descriptor number too high", "requests on these were not counted" },
		{ "too many pipelined requests", "these were not counted" },
		{ "lost the thread of an HTTP connection",
		  "requests on it were no longer counted: not HTTP, or its bytes passed unseen" },
		{ "raced on a connection or request",
		  "two threads used it at one moment; its time may be incomplete" },
		{ "no timer for a thread", "its CPU time is not sampled; RLIMIT_SIGPENDING" },
		{ "sample ring full", "CPU samples of these moments are missing; SONDE_RING_KIB" },
		{ "signal without a thread", "a late signal of a thread that had ended; harmless" },
		{ "routes counted as (other)", "more routes than SONDE_ROUTES" },
		{ "stack table full", "their time shows as [stack table full]" },
		{ "window rows", "these samples are missing; routes and ledgers are whole" },
		{ "pending samples", "these samples are missing; routes and ledgers are whole" },
		{ "unwind rows refused", "stacks through that code end early" },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(cause, known[i].cause) == 0)
			return known[i].meaning;
	return "";
}

static void say_losses(struct doctor *d, const json_t *process)
{
	uint64_t windows = number(process, "lost_windows"), sum = 0;
	const json_t *drop;
	size_t i;

	json_array_foreach(json_object_get(process, "drops"), i, drop)
	{
		uint64_t count = number(drop, "count");
		const char *cause = text(drop, "cause");

		sum += count;
		if (count)
			doctor_say(d, DOCTOR_LIMIT, "dropped",
				   *meaning(cause) ? meaning(cause) : NULL, "%s: %s",
				   units_count(count).text, cause);
	}
	if (windows)
		doctor_say(d, DOCTOR_LIMIT, "lost",
			   "no collector was there in time; SONDE_SPOOL_KIB", "%s %s",
			   units_count(windows).text, windows == 1 ? "report" : "reports");
	if (!windows && !sum)
		doctor_say(d, DOCTOR_GOOD, "lost or dropped", NULL, "nothing");
}

static void say_known(struct doctor *d, const json_t *process)
{
	const json_t *overhead = json_object_get(process, "overhead");
	uint64_t wall = number(overhead, "wall_ns"), bytes = number(overhead, "wire_bytes");

	say_rates(d, process, overhead);
	say_cost(d, process, overhead);
	say_memory(d, process, overhead);
	doctor_say(d, DOCTOR_FACT, "to the collector", NULL, "%s a second, service %s",
		   units_bytes(wall ? (uint64_t)((double)bytes * 1e9 / (double)wall) : 0).text,
		   text(process, "service"));
	say_losses(d, process);
}

void doctor_inside(struct doctor *d, pid_t pid, const char *http)
{
	struct client client = { .address = http, .timeout_s = INSIDE_TIMEOUT_S };
	char path[PATH_MAX + 64], query[64];
	uint64_t base;
	const json_t *process;
	json_t *answer;

	if (!find_agent(pid, &base, path, sizeof(path)))
		return; /* doctor_process() has said so */
	printf("\nThe agent in it\n\n");
	if (!say_state(d, pid))
		return;
	snprintf(query, sizeof(query), "?from=-%ds", INSIDE_SECONDS);
	if (client_json(&client, "/api/v1/processes", query, &answer)) {
		doctor_say(d, DOCTOR_LIMIT, "collector",
			   "rates, cost and losses are told to a collector only; --http says where",
			   "none answers at %s", http);
		return;
	}
	process = choose(answer, pid);
	if (process)
		say_known(d, process);
	else
		doctor_say(d, DOCTOR_LIMIT, "collector",
			   "it reports once a second, perhaps to another collector: --http",
			   "the one at %s has not heard of it in the last minute", http);
	json_decref(answer);
}
