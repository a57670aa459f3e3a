/* SPDX-License-Identifier: MIT
 *
 * The routes. Each misbehaves in one way, so that one can see what it looks like.
 */
#include "examples/demo/routes.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "examples/demo/blocking.h"
#include "examples/demo/work.h"

enum {
	FIB_MAX = 45,
	WAIT_MAX_MS = 10000,
	FILE_BYTES = 64 * 1024
};

struct route {
	const char *path; /* without the number */
	const char *help;
	enum progress (*serve)(struct request *request);
	unsigned max;      /* of the number in the path, 0: there is none */
	unsigned fallback; /* when it is left out, 0: it must not be */
};

/* constant while requests are served */
static const struct mode *mode;
static struct MHD_Response *index_response, *fast_response, *file_response;

static enum progress answer(struct request *request, unsigned status, struct MHD_Response *response)
{
	if (!response || MHD_queue_response(request->connection, status, response) != MHD_YES)
		return GIVE_UP;
	request->status = status;
	return ANSWERED;
}

static __attribute__((format(printf, 3, 4))) enum progress
answer_text(struct request *request, unsigned status, const char *format, ...)
{
	struct MHD_Response *response;
	enum progress progress;
	char text[128];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_COPY);
	if (response)
		MHD_add_response_header(response, "Content-Type", "text/plain");
	progress = answer(request, status, response);
	if (response)
		MHD_destroy_response(response);
	return progress;
}

static enum progress serve_index(struct request *request)
{
	return answer(request, MHD_HTTP_OK, index_response);
}

static enum progress serve_fast(struct request *request)
{
	return answer(request, MHD_HTTP_OK, fast_response);
}

static enum progress serve_fib(struct request *request)
{
	return answer_text(request, MHD_HTTP_OK, "fib(%u) = %lu\n", request->number,
			   fib(request->number));
}

static enum progress serve_sleep(struct request *request)
{
	if (request->step++ == 0)
		return mode->sleep(request, (uint64_t)request->number * NS_PER_MS);
	return answer_text(request, MHD_HTTP_OK, "slept %u ms\n", request->number);
}

static enum progress serve_fibo_sleep(struct request *request)
{
	if (request->step++ == 0) {
		uint64_t start_ns = thread_cpu_ns();

		fib(request->number);
		return mode->sleep(request, thread_cpu_ns() - start_ns);
	}
	return answer_text(request, MHD_HTTP_OK, "worked and slept\n");
}

static enum progress serve_lock(struct request *request)
{
	blocking_use_lock(request);
	return answer_text(request, MHD_HTTP_OK, "had the lock\n");
}

static enum progress serve_hog(struct request *request)
{
	if (request->step++ == 0)
		return mode->hold_lock(request, (uint64_t)request->number * NS_PER_MS);
	return answer_text(request, MHD_HTTP_OK, "held the lock for %u ms\n", request->number);
}

static enum progress serve_io(struct request *request)
{
	if (request->step++ == 0)
		return mode->ask_peer(request, request->number);
	if (request->failed)
		return answer_text(request, MHD_HTTP_BAD_GATEWAY, "the peer failed\n");
	return answer_text(request, MHD_HTTP_OK, "the peer answered after %u ms\n",
			   request->number);
}

static enum progress serve_file(struct request *request)
{
	return answer(request, MHD_HTTP_OK, file_response);
}

static enum progress serve_error(struct request *request)
{
	return answer_text(request, MHD_HTTP_INTERNAL_SERVER_ERROR, "on purpose\n");
}

static const struct route routes[] = {
	{ "/", "this page", serve_index, 0, 0 },
	{ "/fast", "a constant", serve_fast, 0, 0 },
	{ "/fib/", "n: the CPU works", serve_fib, FIB_MAX, 0 },
	{ "/sleep/", "ms: sleeps", serve_sleep, WAIT_MAX_MS, 0 },
	{ "/fibo_sleep/", "n: the CPU works, then as long a sleep", serve_fibo_sleep, FIB_MAX, 0 },
	{ "/lock", "needs the lock that /hog holds", serve_lock, 0, 0 },
	{ "/hog", "ms: sleeps with the lock held, 20 when left out", serve_hog, WAIT_MAX_MS, 20 },
	{ "/io", "ms: asks a peer that answers so late, 15 when left out", serve_io, WAIT_MAX_MS,
	  15 },
	{ "/file", "64 KiB by sendfile", serve_file, 0, 0 },
	{ "/error", "500", serve_error, 0, 0 },
};

enum {
	ROUTES = sizeof(routes) / sizeof(*routes)
};

enum progress routes_step(struct request *request)
{
	if (!request->route)
		return answer_text(request, MHD_HTTP_NOT_FOUND, "no such route, see /\n");
	return request->route->serve(request);
}

/* Digits and nothing else, at most @max. */
static bool parse_number(const char *text, unsigned max, unsigned *number)
{
	unsigned long value;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	value = strtoul(text, &end, 10);
	*number = (unsigned)value;
	return *end == '\0' && value <= max;
}

const struct route *routes_find(const char *url, unsigned *number)
{
	for (size_t i = 0; i < ROUTES; i++) {
		const struct route *route = &routes[i];
		size_t length = strlen(route->path);
		const char *rest = url + length;

		if (strncmp(url, route->path, length) != 0)
			continue;
		if (*rest == '\0' && (route->max == 0 || route->fallback != 0)) {
			*number = route->fallback;
			return route;
		}
		if (route->fallback != 0 && *rest == '/')
			rest++;
		else if (route->path[length - 1] != '/')
			continue;
		if (route->max != 0 && parse_number(rest, route->max, number))
			return route;
	}
	return NULL;
}

static struct MHD_Response *make_index(void)
{
	struct MHD_Response *response;
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	fputs("sonde-demo: a server that misbehaves on purpose\n\n", out);
	for (size_t i = 0; i < ROUTES; i++)
		fprintf(out, "  %-14s %s\n", routes[i].path, routes[i].help);
	if (fclose(out) != 0) {
		free(text);
		return NULL;
	}
	response = MHD_create_response_from_buffer(size, text, MHD_RESPMEM_MUST_FREE);
	if (response)
		MHD_add_response_header(response, "Content-Type", "text/plain");
	return response;
}

/* A file with a descriptor and no name: nothing to clean up. */
static struct MHD_Response *make_file(void)
{
	char block[1024];
	int fd = memfd_create("sonde-demo-file", MFD_CLOEXEC);

	memset(block, '.', sizeof(block));
	block[sizeof(block) - 1] = '\n';
	for (size_t done = 0; fd >= 0 && done < FILE_BYTES; done += sizeof(block)) {
		if (write(fd, block, sizeof(block)) != (ssize_t)sizeof(block)) {
			close(fd);
			fd = -1;
		}
	}
	return fd < 0 ? NULL : MHD_create_response_from_fd(FILE_BYTES, fd);
}

int routes_init(const struct mode *how)
{
	static char fast[] = "fast\n";

	mode = how;
	index_response = make_index();
	fast_response = MHD_create_response_from_buffer(strlen(fast), fast, MHD_RESPMEM_PERSISTENT);
	file_response = make_file();
	if (index_response && fast_response && file_response)
		return 0;
	routes_fini();
	return -ENOMEM;
}

void routes_fini(void)
{
	struct MHD_Response **all[] = { &index_response, &fast_response, &file_response };

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		if (*all[i])
			MHD_destroy_response(*all[i]);
		*all[i] = NULL;
	}
}
