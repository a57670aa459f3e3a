/* SPDX-License-Identifier: MIT
 *
 * `sonde run`: sets the environment that loads the agent and becomes the program. It does not stay around: pid, signals,
 * terminal and exit status are the program's own.
 */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/address.h"
#include "server/cmd.h"
#include "server/preload.h"

#define RUN_TCP_DEFAULT "tcp:127.0.0.1:7071"
enum {
	RUN_PROBE_MS = 300,
	RUN_NOT_EXECUTABLE = 126,
	RUN_NOT_FOUND = 127
};

struct run {
	const char *service, *collector, *agent;
	char **command;
};

static const struct argp_option run_options[] = {
	{ "service", 's', "NAME", 0, "Name of the service (default: the program's name)", 0 },
	{ "collector", 'c', "ADDR", 0,
	  "Where the collector listens: unix:PATH or tcp:HOST:PORT (default: its Unix socket, "
	  "else " RUN_TCP_DEFAULT ")",
	  0 },
	{ "agent", 'a', "PATH", 0,
	  "The agent (default: $SONDE_AGENT, else libsonde.so beside sonde or in ../lib)", 0 },
	{ 0 },
};

static error_t run_parse(int key, char *arg, struct argp_state *state)
{
	struct run *run = state->input;
	struct address address;

	switch (key) {
	case 's':
		if (!*arg)
			argp_error(state, "--service needs a name");
		run->service = arg;
		break;
	case 'c':
		if (address_parse(arg, &address) < 0)
			argp_error(state,
				   "--collector=%s is no address; write unix:PATH or tcp:HOST:PORT",
				   arg);
		run->collector = arg;
		break;
	case 'a':
		run->agent = arg;
		break;
	case ARGP_KEY_ARG: /* the rest is the program's, its options included */
		run->command = &state->argv[state->next - 1];
		state->next = state->argc;
		break;
	case ARGP_KEY_END:
		if (!run->command)
			argp_error(state,
				   "no program given; write `sonde run -- PROGRAM ARGUMENTS`");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

/* Whether somebody listens at @address: a connect that succeeds within RUN_PROBE_MS. */
static bool run_probe(const struct address *address)
{
	int fd = socket(address->sock.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int failure = 0;
	socklen_t size = sizeof(failure);
	bool answers = false;

	if (fd < 0)
		return false;
	if (connect(fd, &address->sock.any, address->len) == 0) {
		answers = true;
	} else if (errno == EINPROGRESS) {
		struct pollfd p = { .fd = fd, .events = POLLOUT };

		answers = poll(&p, 1, RUN_PROBE_MS) == 1 &&
			  getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) == 0 &&
			  failure == 0;
	}
	close(fd);
	return answers;
}

/* A socket in /tmp may be anybody's: ours or root's only, or it would get to hear what this program does. */
static bool run_trusts(const struct address *address)
{
	struct stat st;

	return stat(address->sock.un.sun_path, &st) == 0 &&
	       (st.st_uid == geteuid() || st.st_uid == 0);
}

/* The agent's process may have another directory by the time it connects. */
static void run_make_absolute(struct address *address)
{
	char *path = address->sock.un.sun_path, absolute[2 * PATH_MAX], cwd[PATH_MAX];

	if (address->sock.any.sa_family != AF_UNIX || path[0] == '/' || !getcwd(cwd, sizeof(cwd)))
		return;
	snprintf(absolute, sizeof(absolute), "%s/%s", cwd, path);
	if (strlen(absolute) < sizeof(address->sock.un.sun_path))
		strcpy(path, absolute);
}

/*
 * Choose the collector's address, into @text, and whether it answers. An address in the environment that we cannot read is
 * left as it is: the agent has the last word on it.
 */
static bool run_choose_collector(const struct run *run, char *text, size_t size)
{
	const char *given = run->collector ? run->collector : getenv("SONDE_COLLECTOR");
	struct address address;

	if (given && *given) {
		snprintf(text, size, "%s", given);
		if (address_parse(given, &address) < 0)
			return false;
		run_make_absolute(&address);
		address_format(&address, false, text, size);
		return run_probe(&address);
	}
	address_default_unix(text, size);
	if (address_parse(text, &address) == 0 && run_trusts(&address) && run_probe(&address))
		return true;
	snprintf(text, size, "%s", RUN_TCP_DEFAULT);
	return address_parse(text, &address) == 0 && run_probe(&address);
}

/* Say why the agent will not come along, if so. Returns whether preloading it does no harm. */
static bool run_warn(const char *program, const char *path)
{
	switch (preload_inspect(path)) {
	case PRELOAD_STATIC:
		fprintf(stderr,
			"sonde run: %s is linked statically, which no agent can be loaded into; "
			"running it without\n",
			program);
		return true; /* what it starts may be dynamic */
	case PRELOAD_PRIVILEGED:
		fprintf(stderr,
			"sonde run: %s is setuid, setgid or has capabilities, so the system "
			"ignores the agent; running it without\n",
			program);
		return true;
	case PRELOAD_OTHER_CLASS:
		fprintf(stderr,
			"sonde run: %s is built for another kind of processor than the agent; "
			"running it without\n",
			program);
		return false;
	case PRELOAD_OTHER_LIBC:
		fprintf(stderr,
			"sonde run: %s does not use glibc, which the agent needs; running it "
			"without\n",
			program);
		return false;
	default:
		return true;
	}
}

static int run_set_environment(const struct run *run, const char *agent, const char *collector)
{
	const char *service = run->service ? run->service : getenv("SONDE_SERVICE");
	const char *slash = strrchr(run->command[0], '/');
	char *preload = preload_join(getenv("LD_PRELOAD"), agent);
	int status = 0;

	if (!service || !*service)
		service = slash ? slash + 1 : run->command[0];
	if (!preload || setenv("LD_PRELOAD", preload, 1) < 0 ||
	    setenv("SONDE_COLLECTOR", collector, 1) < 0 || setenv("SONDE_SERVICE", service, 1) < 0)
		status = -ENOMEM;
	free(preload);
	return status;
}

/* Find the agent and prepare everything. Returns 0, or the exit status after having said why not. */
static int run_prepare(const struct run *run, const char *path)
{
	char looked[2 * PATH_MAX + 32], collector[PATH_MAX];
	char *agent = NULL;
	int status = preload_find_agent(run->agent, &agent, looked, sizeof(looked));

	if (status < 0) {
		fprintf(stderr,
			"sonde run: no agent at %s; say where libsonde.so is with --agent PATH\n",
			looked);
		return 1;
	}
	if (!preload_can_carry(agent)) {
		fprintf(stderr,
			"sonde run: LD_PRELOAD cannot carry a path with a space or colon: %s; move "
			"it\n",
			agent);
		free(agent);
		return 1;
	}
	if (run_warn(run->command[0], path)) {
		if (!run_choose_collector(run, collector, sizeof(collector)))
			fprintf(stderr,
				"sonde run: no collector answers at %s; running all the same, "
				"start one with `sonde serve`\n",
				collector);
		status = run_set_environment(run, agent, collector);
	}
	free(agent);
	if (status < 0)
		fprintf(stderr, "sonde run: out of memory\n");
	return status < 0 ? 1 : 0;
}

int cmd_run(int argc, char **argv)
{
	static const struct argp argp = {
		.options = run_options,
		.parser = run_parse,
		.args_doc = "[--] PROGRAM [ARGUMENT...]",
		.doc = "Run PROGRAM with the agent inside, which reports to the collector where "
		       "its time goes. "
		       "Signals, terminal and exit status are PROGRAM's own.\v"
		       "Exit status: PROGRAM's; 127 when it is not found, 126 when it cannot be "
		       "run, 1 without an agent.\n"
		       "More about the agent: SONDE_HELP=1 sonde run true",
	};
	struct run run = { 0 };
	char *path = NULL;
	int status;

	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &run);
	status = preload_which(run.command[0], &path);
	if (status < 0) {
		fprintf(stderr, "sonde run: %s: %s\n", run.command[0],
			status == -ENOENT ? "no such program" : strerror(-status));
		return status == -ENOENT ? RUN_NOT_FOUND : RUN_NOT_EXECUTABLE;
	}
	status = run_prepare(&run, path);
	free(path);
	if (status)
		return status;
	execvp(run.command[0], run.command);
	status = errno;
	fprintf(stderr, "sonde run: %s: %s\n", run.command[0], strerror(status));
	return status == ENOENT ? RUN_NOT_FOUND : RUN_NOT_EXECUTABLE;
}
