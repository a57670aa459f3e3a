/* SPDX-License-Identifier: MIT
 *
 * sonde-demo: a small HTTP server that misbehaves on purpose. Options, the listening socket, and the order in which
 * things start and stop.
 */
#include <argp.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "examples/demo/peer.h"
#include "examples/demo/server.h"

enum {
	WORKERS_MAX = 1024
};

const char *argp_program_version = "sonde-demo " SONDE_VERSION;

static const struct argp_option option_table[] = {
	{ "listen", 'l', "HOST:PORT", 0, "Where to listen (127.0.0.1:8080); port 0: any free one",
	  0 },
	{ "mode", 'm', "threads|loop", 0, "Blocking workers (default), or one event loop", 0 },
	{ "workers", 'w', "N", 0, "Threads of mode threads (8)", 0 },
	{ "log", 'L', "FILE", 0, "Write there what each request's time really went to", 0 },
	{ 0 },
};

static struct options options = { .listen = "127.0.0.1:8080", .workers = 8 };
static int listen_fd = -1;

static error_t parse(int key, char *value, struct argp_state *state)
{
	char *end;

	switch (key) {
	case 'l':
		options.listen = value;
		return 0;
	case 'm':
		if (strcmp(value, "threads") != 0 && strcmp(value, "loop") != 0)
			argp_error(state, "--mode is threads or loop, not %s", value);
		options.loop = value[0] == 'l';
		return 0;
	case 'w':
		options.workers = (unsigned)strtoul(value, &end, 10);
		if (*value < '1' || *value > '9' || *end || options.workers > WORKERS_MAX)
			argp_error(state, "--workers is a number from 1 to %d, not %s", WORKERS_MAX,
				   value);
		return 0;
	case 'L':
		options.log = value;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_table,
	.parser = parse,
	.doc = "A small HTTP server that misbehaves on purpose, to be profiled.\vIts page / lists "
	       "the routes. "
	       "SIGTERM or Ctrl-C stops it, SIGUSR1 flushes the log.",
};

/* "127.0.0.1:8080", "[::1]:8080", "localhost:8080" */
static struct addrinfo *resolve(const char *address)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE },
			*found = NULL;
	char *host = strdup(address), *name = host, *colon = host ? strrchr(host, ':') : NULL;

	if (colon) {
		*colon = '\0';
		if (*name == '[' && colon[-1] == ']') {
			colon[-1] = '\0';
			name++;
		}
		if (getaddrinfo(*name ? name : NULL, colon + 1, &hints, &found) != 0)
			found = NULL;
	}
	free(host);
	return found;
}

/* Returns a listening socket, or -1 when it has said why not. */
static int open_listener(const char *address)
{
	struct addrinfo *found = resolve(address);
	int fd, on = 1;

	if (!found) {
		fprintf(stderr, "sonde-demo: --listen is HOST:PORT, not %s\n", address);
		return -1;
	}
	fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) < 0 ||
	    listen(fd, SOMAXCONN) < 0) {
		fprintf(stderr, "sonde-demo: cannot listen on %s: %m\n", address);
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(found);
	return fd;
}

static void say_ready(void)
{
	char host[64] = "?", port[16] = "?";
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);

	if (getsockname(listen_fd, (struct sockaddr *)&address, &length) == 0)
		getnameinfo((struct sockaddr *)&address, length, host, sizeof(host), port,
			    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
	if (options.loop)
		printf("sonde-demo: one event loop on http://%s:%s/\n", host, port);
	else
		printf("sonde-demo: %u threads on http://%s:%s/\n", options.workers, host, port);
	fflush(stdout);
}

static int run(const sigset_t *signals)
{
	int error = options.log ? truth_open(options.log) : 0;

	if (error < 0) {
		fprintf(stderr, "sonde-demo: cannot write %s: %s\n", options.log, strerror(-error));
		close(listen_fd);
		return 1;
	}
	error = (options.loop ? loop_run : threads_run)(&options, listen_fd, signals, say_ready);
	if (error < 0)
		fprintf(stderr, "sonde-demo: cannot serve: %s\n", strerror(-error));
	else if ((error = truth_close()) < 0)
		fprintf(stderr, "sonde-demo: cannot write %s: %s\n", options.log, strerror(-error));
	return error < 0;
}

int main(int argc, char **argv)
{
	sigset_t signals;
	int error, status = 1;

	argp_err_exit_status = 2;
	argp_parse(&argp, argc, argv, 0, NULL, NULL);

	/* Before any thread, so that all have them blocked; the peer, too, which ends when we do. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGUSR1);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);

	error = peer_start();
	if (error < 0) {
		fprintf(stderr, "sonde-demo: cannot start its peer: %s\n", strerror(-error));
		return 1;
	}
	listen_fd = open_listener(options.listen);
	if (listen_fd >= 0)
		status = run(&signals);
	peer_stop();
	return status;
}
