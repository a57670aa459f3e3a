/* SPDX-License-Identifier: MIT
 *
 * Exported files read back: the part that all formats share. See profile.h.
 */
#include "server/profile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#define ZLIB_CONST
#include <zlib.h>

#include "server/profile_build.h"

struct profile_index {
	struct map functions, routes, rows;
	size_t functions_capacity, routes_capacity, rows_capacity;
};

static uint64_t profile_hash(const char *text, size_t length)
{
	uint64_t hash = 0xcbf29ce484222325u;

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3u;
	return hash;
}

int profile_fail(struct profile_reader *r, int status, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(r->error, PROFILE_ERROR_MAX, format, arguments);
	va_end(arguments);
	return status;
}

uint64_t profile_sum(uint64_t a, uint64_t b)
{
	uint64_t sum;

	/* The largest int64_t, so that differences fit one. */
	return __builtin_add_overflow(a, b, &sum) || sum > INT64_MAX ? INT64_MAX : sum;
}

int profile_state(const char *name, size_t length)
{
	for (int s = 0; s < STATE_COUNT; s++)
		if (strlen(state_names[s]) == length && memcmp(state_names[s], name, length) == 0)
			return s;
	return -1;
}

/* @array with room for one more element, or NULL; then it is as before and *@status says why. */
static void *profile_room(struct profile_reader *r, void *array, size_t *capacity, size_t count,
			  size_t element_bytes, int *status)
{
	size_t wanted = *capacity ? 2 * *capacity : 64;
	void *larger;

	if (count < *capacity)
		return array;
	if (count >= PROFILE_NAMES_MAX) {
		*status = profile_fail(r, -E2BIG, "it has more than %d functions or routes",
				       PROFILE_NAMES_MAX);
		return NULL;
	}
	larger = reallocarray(array, wanted, element_bytes);
	if (larger)
		*capacity = wanted;
	else
		*status = profile_fail(r, -ENOMEM, "out of memory");
	return larger;
}

static bool profile_equal(const char *known, const char *name, size_t length)
{
	return strlen(known) == length && memcmp(known, name, length) == 0;
}

int64_t profile_function(struct profile_reader *r, const char *name, size_t length)
{
	struct profile *p = r->profile;
	uint64_t key = profile_hash(name, length = strnlen(name, length));
	char **functions, *copy;
	uint32_t found;
	int status = 0;

	/* Two names of one hash: the later one goes by the next free key. */
	for (; (found = map_get(&p->index->functions, key)) != MAP_NONE; key++)
		if (profile_equal(p->functions[found], name, length))
			return found;
	functions = profile_room(r, p->functions, &p->index->functions_capacity, p->function_count,
				 sizeof(*functions), &status);
	if (!functions)
		return status;
	p->functions = functions;
	copy = strndup(name, length);
	if (!copy || !map_set(&p->index->functions, key, (uint32_t)p->function_count)) {
		free(copy);
		return profile_fail(r, -ENOMEM, "out of memory");
	}
	functions[p->function_count] = copy;
	return (int64_t)p->function_count++;
}

/* Our exports that must name everything name work outside any request so. */
static size_t profile_route_length(const char *name, size_t length)
{
	static const char none[] = "(no request)";

	length = strnlen(name, length);
	return length == sizeof(none) - 1 && memcmp(name, none, length) == 0 ? 0 : length;
}

int64_t profile_route(struct profile_reader *r, const char *name, size_t length)
{
	struct profile *p = r->profile;
	struct profile_route *routes;
	uint64_t key;
	uint32_t found;
	char *copy;
	int status = 0;

	length = profile_route_length(name, length);
	key = profile_hash(name, length);
	for (; (found = map_get(&p->index->routes, key)) != MAP_NONE; key++)
		if (profile_equal(p->routes[found].name, name, length))
			return found;
	routes = profile_room(r, p->routes, &p->index->routes_capacity, p->route_count,
			      sizeof(*routes), &status);
	if (!routes)
		return status;
	p->routes = routes;
	copy = strndup(name, length);
	if (!copy || !map_set(&p->index->routes, key, (uint32_t)p->route_count)) {
		free(copy);
		return profile_fail(r, -ENOMEM, "out of memory");
	}
	routes[p->route_count] = (struct profile_route){ .name = copy };
	return (int64_t)p->route_count++;
}

bool profile_wants_route(const struct profile_reader *r, const char *route, size_t length)
{
	return !r->filter || !r->filter->route ||
	       profile_equal(r->filter->route, route, profile_route_length(route, length));
}

bool profile_wants_state(const struct profile_reader *r, unsigned state)
{
	return !r->filter || (r->filter->states & (1u << state));
}

void profile_stack_begin(struct profile_reader *r)
{
	r->depth = 0;
}

int profile_stack_push(struct profile_reader *r, uint32_t function)
{
	if (r->depth >= PROFILE_DEPTH_MAX)
		return profile_fail(r, -E2BIG, "it has a stack of more than %d frames",
				    PROFILE_DEPTH_MAX);
	if (r->depth == r->capacity) {
		size_t capacity = r->capacity ? 2 * r->capacity : 256;
		uint32_t *larger = realloc(r->stack, capacity * sizeof(*larger));

		if (!larger)
			return profile_fail(r, -ENOMEM, "out of memory");
		r->stack = larger;
		r->capacity = capacity;
	}
	r->stack[r->depth++] = function;
	return 0;
}

/* The row of @function under @route, added when new. */
static int64_t profile_row(struct profile_reader *r, uint32_t route, uint32_t function)
{
	struct profile *p = r->profile;
	uint64_t key = (uint64_t)route << 32 | function;
	uint32_t found = map_get(&p->index->rows, key);
	struct profile_row *rows;
	int status = 0;

	if (found != MAP_NONE)
		return found;
	rows = profile_room(r, p->rows, &p->index->rows_capacity, p->row_count, sizeof(*rows),
			    &status);
	if (!rows)
		return status;
	p->rows = rows;
	if (!map_set(&p->index->rows, key, (uint32_t)p->row_count))
		return profile_fail(r, -ENOMEM, "out of memory");
	rows[p->row_count] = (struct profile_row){ .route = route, .function = function };
	return (int64_t)p->row_count++;
}

int profile_stack_count(struct profile_reader *r, uint32_t route, unsigned state, uint64_t ns)
{
	uint64_t *of_state = &r->profile->routes[route].state_ns[state];

	*of_state = profile_sum(*of_state, ns);
	r->stacks++;
	for (size_t i = 0; i < r->depth; i++) {
		int64_t index = profile_row(r, route, r->stack[i]);
		struct profile_row *row;

		if (index < 0)
			return (int)index;
		row = &r->profile->rows[index];
		if (i == 0)
			row->self_ns = profile_sum(row->self_ns, ns);
		if (row->stamp != r->stacks)
			row->total_ns = profile_sum(row->total_ns, ns);
		row->stamp = r->stacks;
	}
	return 0;
}

int profile_comment(struct profile_reader *r, const char *text, size_t length)
{
	static const char mark[] = "sonde.requests ";
	const char *at = text + sizeof(mark) - 1, *end = text + length;
	uint64_t requests = 0;
	int64_t route;

	if (length < sizeof(mark) || memcmp(text, mark, sizeof(mark) - 1) != 0 || *at < '0' ||
	    *at > '9')
		return 0;
	for (; at < end && *at >= '0' && *at <= '9'; at++)
		requests = requests > INT64_MAX / 16 ? INT64_MAX / 16
						     : 10 * requests + (uint64_t)(*at - '0');
	if (at < end && *at == ' ')
		at++;
	r->profile->has_requests = true;
	if (!profile_wants_route(r, at, (size_t)(end - at)))
		return 0;
	route = profile_route(r, at, (size_t)(end - at));
	if (route < 0)
		return (int)route;
	r->profile->routes[route].requests =
		profile_sum(r->profile->routes[route].requests, requests);
	return 0;
}

/* Unpack gzip, up to PROFILE_BYTES_MAX. */
static int profile_unpack(struct profile_reader *r, const uint8_t *data, size_t size, uint8_t **out,
			  size_t *out_size)
{
	z_stream z = { .next_in = data, .avail_in = (uInt)size };
	size_t capacity = 4 * size + 4096, used = 0;
	uint8_t *buffer = malloc(capacity);
	int status = Z_OK;

	if (!buffer || inflateInit2(&z, 16 + MAX_WBITS) != Z_OK) {
		free(buffer);
		return profile_fail(r, -ENOMEM, "out of memory");
	}
	while (status == Z_OK && used < PROFILE_BYTES_MAX) {
		if (used == capacity) {
			uint8_t *larger = realloc(buffer, 2 * capacity);

			if (!larger)
				break;
			buffer = larger;
			capacity *= 2;
		}
		z.next_out = buffer + used;
		z.avail_out =
			(uInt)(capacity - used < UINT32_MAX / 2 ? capacity - used : UINT32_MAX / 2);
		status = inflate(&z, Z_NO_FLUSH);
		used = (size_t)(z.next_out - buffer);
		if (status == Z_BUF_ERROR && z.avail_in > 0 && z.avail_out == 0)
			status = Z_OK;
	}
	inflateEnd(&z);
	if (status == Z_STREAM_END) {
		*out = buffer;
		*out_size = used;
		return 0;
	}
	free(buffer);
	if (used >= PROFILE_BYTES_MAX)
		return profile_fail(r, -EFBIG, "it unpacks to more than %zu MB",
				    PROFILE_BYTES_MAX >> 20);
	if (status == Z_OK || status == Z_MEM_ERROR)
		return profile_fail(r, -ENOMEM, "out of memory");
	return profile_fail(r, -EINVAL, "its gzip data are damaged or cut short");
}

/* Whether @text reads like folded stacks: printable throughout its beginning, and a line of it ends in " NUMBER". */
static bool profile_is_folded(const uint8_t *text, size_t size)
{
	size_t look = size < 4096 ? size : 4096;

	for (size_t i = 0; i < look; i++)
		if (text[i] < 0x20 && text[i] != '\n' && text[i] != '\r' && text[i] != '\t')
			return false;
	return true;
}

static bool profile_is_html(const uint8_t *text, size_t size)
{
	size_t i = 0;

	if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
		i = 3;
	while (i < size &&
	       (text[i] == ' ' || text[i] == '\n' || text[i] == '\r' || text[i] == '\t'))
		i++;
	return i < size && text[i] == '<';
}

static int profile_dispatch(struct profile_reader *r, const uint8_t *data, size_t size)
{
	if (size == 0)
		return profile_fail(r, -EINVAL, "it is empty");
	if (profile_is_html(data, size)) {
		r->profile->format = PROFILE_HTML;
		return profile_read_html(r, (const char *)data, size);
	}
	if (profile_is_folded(data, size)) {
		r->profile->format = PROFILE_FOLDED;
		return profile_read_folded(r, (const char *)data, size);
	}
	r->profile->format = PROFILE_PPROF;
	return profile_read_pprof(r, data, size);
}

int profile_read(const void *data, size_t size, const struct profile_filter *filter,
		 struct profile **out, char error[PROFILE_ERROR_MAX])
{
	struct profile_reader r = { .filter = filter,
				    .error = error,
				    .profile = calloc(1, sizeof(*r.profile)) };
	uint8_t *unpacked = NULL;
	int status = 0;

	error[0] = '\0';
	if (r.profile)
		r.profile->index = calloc(1, sizeof(*r.profile->index));
	if (!r.profile || !r.profile->index)
		status = profile_fail(&r, -ENOMEM, "out of memory");
	else if (size > PROFILE_BYTES_MAX)
		status = profile_fail(&r, -EFBIG, "it is larger than %zu MB",
				      PROFILE_BYTES_MAX >> 20);
	else if (size > 2 && memcmp(data, "\x1f\x8b", 2) == 0)
		status = profile_unpack(&r, data, size, &unpacked, &size);
	if (status == 0)
		status = profile_dispatch(&r, unpacked ? unpacked : data, size);
	free(unpacked);
	free(r.stack);
	if (status < 0) {
		profile_destroy(r.profile);
		return status;
	}
	*out = r.profile;
	return 0;
}

/* The whole file, which may be a pipe. */
static int profile_slurp(int fd, char **out, size_t *out_size)
{
	size_t capacity = 1 << 16, used = 0;
	char *buffer = malloc(capacity);

	while (buffer) {
		ssize_t got = read(fd, buffer + used, capacity - used);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 || used > PROFILE_BYTES_MAX) {
			int status = got < 0 ? -errno : -EFBIG;

			free(buffer);
			return status;
		}
		if (got == 0) {
			*out = buffer;
			*out_size = used;
			return 0;
		}
		used += (size_t)got;
		if (used == capacity) {
			char *larger = realloc(buffer, capacity *= 2);

			if (!larger)
				free(buffer);
			buffer = larger;
		}
	}
	return -ENOMEM;
}

int profile_read_file(const char *path, const struct profile_filter *filter, struct profile **out,
		      char error[PROFILE_ERROR_MAX])
{
	char *data = NULL;
	size_t size = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC), status;

	status = fd < 0 ? -errno : profile_slurp(fd, &data, &size);
	if (fd >= 0)
		close(fd);
	if (status < 0) {
		snprintf(error, PROFILE_ERROR_MAX, "%s", strerror(-status));
		return status;
	}
	status = profile_read(data, size, filter, out, error);
	free(data);
	return status;
}

void profile_destroy(struct profile *profile)
{
	if (!profile)
		return;
	for (size_t i = 0; i < profile->function_count; i++)
		free(profile->functions[i]);
	for (size_t i = 0; i < profile->route_count; i++)
		free(profile->routes[i].name);
	if (profile->index) {
		map_fini(&profile->index->functions);
		map_fini(&profile->index->routes);
		map_fini(&profile->index->rows);
		free(profile->index);
	}
	free(profile->functions);
	free(profile->routes);
	free(profile->rows);
	free(profile);
}

uint64_t profile_total_ns(const struct profile *profile)
{
	uint64_t total = 0;

	for (size_t i = 0; i < profile->route_count; i++)
		for (unsigned s = 0; s < STATE_COUNT; s++)
			total = profile_sum(total, profile->routes[i].state_ns[s]);
	return total;
}

const char *profile_format_name(enum profile_format format)
{
	static const char *const names[] = { "pprof", "folded", "html" };

	return names[format];
}
