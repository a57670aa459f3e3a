/* SPDX-License-Identifier: MIT
 *
 * `sonde serve`: opens the store, the listeners and the page, and waits for SIGINT or SIGTERM. Signals are blocked in all
 * threads and taken by sigwait() here, so no handler runs anywhere.
 */
#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/address.h"
#include "server/api.h"
#include "server/cmd.h"
#include "server/http.h"
#include "server/ingest.h"
#include "server/log.h"
#include "server/store.h"

#define DEFAULT_HTTP     "127.0.0.1:7070"
#define DEFAULT_LISTEN   "tcp:127.0.0.1:7071"
#define DEFAULT_DATA     "./sonde-data"
#define DEFAULT_MAX_TEXT "2G"

enum {
	KEY_MAX_BYTES = 256,
	MIN_BYTES = 1 << 20
};

struct serve_options {
	const char *http, *data;
	const char *listen[INGEST_LISTENERS_MAX];
	size_t listen_count;
	uint64_t max_bytes;
};

static const struct argp_option options[] = {
	{ "http", 'H', "ADDR", 0, "Serve the page and the API here (" DEFAULT_HTTP ")", 0 },
	{ "listen", 'l', "ADDR", 0,
	  "Take agents here: tcp:HOST:PORT or unix:PATH; may be given again (" DEFAULT_LISTEN
	  " and unix:$XDG_RUNTIME_DIR/sonde.sock)",
	  0 },
	{ "data", 'd', "DIR", 0, "Keep the store here (" DEFAULT_DATA ")", 0 },
	{ "max-bytes", KEY_MAX_BYTES, "SIZE", 0,
	  "Drop the oldest windows when the store grows past this; K, M and G are known "
	  "(" DEFAULT_MAX_TEXT ")",
	  0 },
	{ 0 },
};

/* "512M" in bytes; 0 when it is no size. */
static uint64_t parse_size(const char *text)
{
	static const char units[] = "KMGT";
	unsigned long long value;
	const char *unit;
	char *end;

	if (*text < '0' || *text > '9')
		return 0;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno)
		return 0;
	if (*end) {
		unit = strchr(units, *end);
		if (!unit || end[1] || value >> 20)
			return 0;
		value <<= 10 * (unit - units + 1);
	}
	return value;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct serve_options *o = state->input;

	switch (key) {
	case 'H':
		o->http = arg;
		return 0;
	case 'd':
		o->data = arg;
		return 0;
	case 'l':
		if (o->listen_count == INGEST_LISTENERS_MAX)
			argp_error(state, "more than %d --listen", INGEST_LISTENERS_MAX);
		o->listen[o->listen_count++] = arg;
		return 0;
	case KEY_MAX_BYTES:
		o->max_bytes = parse_size(arg);
		if (o->max_bytes < MIN_BYTES)
			argp_error(state, "--max-bytes takes a size of at least 1M, not '%s'", arg);
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "serve takes no argument: '%s'", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int fail(const char *why)
{
	log_line("%s", why);
	return 1;
}

/* The directory of the default socket under /tmp: ours alone, or somebody could put his own socket there. */
static int own_directory(const char *path, char *error, size_t error_bytes)
{
	char dir[64];
	struct stat st;

	snprintf(dir, sizeof(dir), "/tmp/sonde-%u", (unsigned)getuid());
	if (strncmp(path, dir, strlen(dir)) != 0 || path[strlen(dir)] != '/')
		return 0;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
		snprintf(error, error_bytes, "cannot make %s: %s; choose addresses with --listen",
			 dir, strerror(errno));
		return -EIO;
	}
	if (lstat(dir, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != getuid() ||
	    (st.st_mode & 077)) {
		snprintf(error, error_bytes,
			 "%s must be a directory of yours that others cannot enter; remove it or "
			 "choose "
			 "addresses with --listen",
			 dir);
		return -EPERM;
	}
	return 0;
}

static int listen_all(struct ingest *ingest, struct serve_options *o, char *text, size_t text_bytes,
		      char *error, size_t error_bytes)
{
	char standard[160], at[160];
	struct address address;
	size_t len = 0;
	int err;

	if (o->listen_count == 0) {
		address_default_unix(standard, sizeof(standard));
		o->listen[o->listen_count++] = DEFAULT_LISTEN;
		o->listen[o->listen_count++] = standard;
		err = own_directory(standard + strlen("unix:"), error, error_bytes);
		if (err)
			return err;
	}
	for (size_t i = 0; i < o->listen_count; i++) {
		err = address_parse(o->listen[i], &address);
		if (err) {
			snprintf(error, error_bytes,
				 "'%s' is no address to listen at; give tcp:127.0.0.1:PORT or "
				 "unix:PATH",
				 o->listen[i]);
			return err;
		}
		err = ingest_listen(ingest, &address, error, error_bytes);
		if (err)
			return err;
		if (len < text_bytes)
			len += (size_t)snprintf(text + len, text_bytes - len, "%s%s", i ? ", " : "",
						address_format(&address, false, at, sizeof(at)));
	}
	return 0;
}

/* 1024 agents and as many files as they need. */
static void raise_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int serve(struct serve_options *o, struct address *http_address, const sigset_t *stop)
{
	char error[512], agents[1024] = "", url[160];
	struct ingest *ingest = NULL;
	struct store *store = NULL;
	struct http *http = NULL;
	int err, signal_number;

	err = store_open(o->data, o->max_bytes, &store, error, sizeof(error));
	if (!err) {
		snprintf(error, sizeof(error), "out of memory or descriptors");
		ingest = ingest_create(store);
		err = ingest ? 0 : -ENOMEM;
	}
	if (!err)
		err = listen_all(ingest, o, agents, sizeof(agents), error, sizeof(error));
	if (!err)
		err = http_start(store, http_address, &http, error, sizeof(error));
	if (!err) {
		snprintf(error, sizeof(error), "cannot start a thread");
		err = ingest_start(ingest);
	}
	if (err) {
		fail(error);
	} else {
		printf("sonde: http://%s  agents: %s  data: %s\n",
		       address_format(http_address, true, url, sizeof(url)), agents, o->data);
		fflush(stdout);
		sigwait(stop, &signal_number);
	}
	if (store)
		store_cancel(store);
	http_stop(http);
	ingest_destroy(ingest);
	metrics_reset();
	store_close(store);
	return err ? 1 : 0;
}

int cmd_serve(int argc, char **argv)
{
	static const struct argp argp = {
		.options = options,
		.parser = parse,
		.doc = "Collect what agents report, keep it, and show it as a page and an API.",
	};
	struct serve_options o = { .http = DEFAULT_HTTP,
				   .data = DEFAULT_DATA,
				   .max_bytes = 2ull << 30 };
	struct address http_address;
	sigset_t stop;

	argp_err_exit_status = 2;
	argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (address_parse(o.http, &http_address)) {
		log_line("'%s' is no address to serve HTTP at; give 127.0.0.1:PORT", o.http);
		return 2;
	}
	umask(077); /* profiles name code, paths and peers: nobody else's to read */
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&stop);
	sigaddset(&stop, SIGINT);
	sigaddset(&stop, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &stop, NULL);
	raise_files();
	return serve(&o, &http_address, &stop);
}
