/* SPDX-License-Identifier: MIT
 *
 * `sonde export`: fetches a profile of a selection and writes it to a file, whole or not at all.
 */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/client.h"
#include "server/cmd.h"
#include "server/options.h"
#include "server/profile.h"
#include "server/units.h"

struct export
{
	struct options selection;
	const char *format, *output;
};

static const struct argp_option export_options[] = {
	{ "format", 'f', "FORMAT", 0,
	  "pprof, folded or html (default: by the end of FILE: .pb.gz, .folded or .txt, .html)",
	  0 },
	{ "output", 'o', "FILE", 0, "Where to write; - is standard output", 0 },
	{ 0 },
};

/* The format that a file's name promises, or NULL. */
static const char *export_format_of(const char *path)
{
	static const struct {
		const char *end, *format;
	} known[] = { { ".pb.gz", "pprof" },   { ".pprof", "pprof" }, { ".pb", "pprof" },
		      { ".folded", "folded" }, { ".txt", "folded" },  { ".html", "html" },
		      { ".htm", "html" } };
	size_t length = strlen(path);

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		size_t end = strlen(known[i].end);

		if (length > end && strcasecmp(path + length - end, known[i].end) == 0)
			return known[i].format;
	}
	return NULL;
}

static error_t export_parse(int key, char *arg, struct argp_state *state)
{
	struct export *e = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &e->selection;
		break;
	case 'f':
		if (strcmp(arg, "pprof") != 0 && strcmp(arg, "folded") != 0 &&
		    strcmp(arg, "html") != 0)
			argp_error(state, "--format=%s: the formats are pprof, folded and html",
				   arg);
		e->format = arg;
		break;
	case 'o':
		e->output = arg;
		break;
	case ARGP_KEY_ARG:
		argp_error(state, "what is '%s'? The file to write is given by -o FILE", arg);
		break;
	case ARGP_KEY_END:
		if (!e->output || !*e->output)
			argp_error(state,
				   "no file given; write -o FILE, or -o - for standard output");
		else if (!e->format && !(e->format = export_format_of(e->output)))
			argp_error(state, "no format given; write --format pprof, folded or html");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static int export_write(int fd, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t wrote = write(fd, data, size);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote < 0)
			return -errno;
		data += wrote;
		size -= (size_t)wrote;
	}
	return 0;
}

/* Into a file of another name beside @path first, so that a full disk never costs what was there before. */
static int export_replace(const char *path, const char *data, size_t size)
{
	char *copy = strdup(path), *temporary = NULL;
	mode_t mask = umask(0);
	int fd = -1, status = -ENOMEM;

	umask(mask);
	if (!copy || asprintf(&temporary, "%s/.sonde-export.XXXXXX", dirname(copy)) < 0) {
		temporary = NULL;
		goto out;
	}
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0) {
		status = -errno;
		goto out;
	}
	status = export_write(fd, data, size);
	if (status == 0 && (fchmod(fd, 0666 & ~mask) < 0 || fsync(fd) < 0))
		status = -errno;
	if (close(fd) < 0 && status == 0)
		status = -errno;
	if (status == 0 && rename(temporary, path) < 0)
		status = -errno;
	if (status < 0)
		unlink(temporary);
out:
	free(temporary);
	free(copy);
	return status;
}

/* A pipe or device is written as it is; there is nothing to keep whole. */
static int export_save(const char *path, const char *data, size_t size)
{
	bool to_stdout = strcmp(path, "-") == 0;
	struct stat st;
	int fd, status;

	if (!to_stdout && (stat(path, &st) < 0 || S_ISREG(st.st_mode))) {
		char *target = realpath(path, NULL); /* a link stays one */

		status = export_replace(target ? target : path, data, size);
		free(target);
		return status;
	}
	if (!to_stdout && S_ISDIR(st.st_mode))
		return -EISDIR;
	fd = to_stdout ? STDOUT_FILENO : open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	status = export_write(fd, data, size);
	if (!to_stdout && close(fd) < 0 && status == 0)
		status = -errno;
	return status;
}

/*
 * Read the answer as `sonde diff` would: what cannot be read is no profile, and one without time shows nothing. @said gets
 * a line on what it holds.
 */
static int export_check(const char *body, size_t size, char *said, size_t said_size)
{
	char error[PROFILE_ERROR_MAX];
	struct profile *p = NULL;
	uint64_t requests = 0, total;
	int status = size ? profile_read(body, size, NULL, &p, error) : 0;

	said[0] = '\0';
	if (status == -E2BIG || status == -EFBIG || status == -ENOMEM)
		return 0; /* too much for us to look at is not too much to write */
	if (status < 0) {
		fprintf(stderr, "sonde export: the collector's answer is no profile: %s\n", error);
		return status;
	}
	total = p ? profile_total_ns(p) : 0; /* folded stacks of nothing are an empty file */
	for (size_t i = 0; p && i < p->route_count; i++)
		requests += p->routes[i].requests;
	if (total > 0 && p->has_requests)
		snprintf(said, said_size, "%s requests of %zu %s, %s together, ",
			 units_count(requests).text, p->route_count,
			 p->route_count == 1 ? "route" : "routes", units_ns(total).text);
	else if (total > 0)
		snprintf(said, said_size, "%zu %s, %s together, ", p->route_count,
			 p->route_count == 1 ? "route" : "routes", units_ns(total).text);
	profile_destroy(p);
	if (total > 0)
		return 0;
	fprintf(stderr, "sonde export: nothing was measured in this selection; widen it, or see "
			"`sonde top --once` for "
			"what there is\n");
	return -ENODATA;
}

static char *export_query(const struct export *e)
{
	char format[32];

	snprintf(format, sizeof(format), "format=%s", e->format);
	return options_query(&e->selection, format);
}

int cmd_export(int argc, char **argv)
{
	static const struct argp_child children[] = { { &options_flame_argp, 0, "Selection:", 2 },
						      { 0 } };
	static const struct argp argp = {
		.options = export_options,
		.parser = export_parse,
		.doc = "Write the profile of a selection to FILE: pprof for `go tool pprof`, "
		       "folded stacks for flame graph "
		       "tools, html for one page that opens anywhere without a network.",
		.children = children,
	};
	struct export e = { 0 };
	struct client client;
	char *query, *body = NULL, said[160];
	size_t size = 0;
	int status;

	argp_parse(&argp, argc, argv, 0, NULL, &e);
	if (strcmp(e.output, "-") == 0 && strcmp(e.format, "pprof") == 0 && isatty(STDOUT_FILENO)) {
		fprintf(stderr, "sonde export: pprof is binary; write it to a file or a pipe, not "
				"to the terminal\n");
		return 1;
	}
	client = (struct client){ .address = e.selection.http };
	query = export_query(&e);
	if (!query) {
		fprintf(stderr, "sonde export: out of memory\n");
		return 1;
	}
	status = client_get(&client, "/api/v1/profile", query, &body, &size);
	free(query);
	if (status < 0) {
		fprintf(stderr, "sonde export: %s\n", client.error);
		return 1;
	}
	status = export_check(body, size, said, sizeof(said));
	if (status == 0) {
		status = export_save(e.output, body, size);
		if (status < 0)
			fprintf(stderr, "sonde export: cannot write %s: %s\n", e.output,
				strerror(-status));
		else if (strcmp(e.output, "-") != 0)
			fprintf(stderr, "sonde export: %s: %s%s\n", e.output, said,
				units_bytes(size).text);
	}
	free(body);
	return status < 0 ? 1 : 0;
}
