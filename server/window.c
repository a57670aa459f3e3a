/* SPDX-License-Identifier: MIT
 *
 * Packs and unpacks windows; see window.h.
 */
#include "server/window.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum {
	ZSTD_LEVEL = 1
}; /* measured: level 3 saves 4 % more for twice the time */

static int compress(const uint8_t *bytes, size_t len, struct blob *out)
{
	size_t bound = ZSTD_compressBound(len), n;

	out->bytes = malloc(bound);
	if (!out->bytes)
		return -ENOMEM;
	n = ZSTD_compress(out->bytes, bound, bytes, len, ZSTD_LEVEL);
	if (ZSTD_isError(n))
		return -ENOMEM; /* the only way this can fail with room for the bound */
	out->len = n;
	return 0;
}

static int pack_message(const ProtobufCMessage *message, bool squeeze, struct blob *out)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	uint8_t *bytes = malloc(len ? len : 1);
	int err = 0;

	if (!bytes)
		return -ENOMEM;
	protobuf_c_message_pack(message, bytes);
	if (squeeze) {
		err = compress(bytes, len, out);
		free(bytes);
	} else {
		*out = (struct blob){ bytes, len };
	}
	return err;
}

int64_t window_row_count(const Sonde__Rows *rows)
{
	size_t n;

	if (!rows)
		return 0;
	n = rows->n_route;
	if (rows->n_state != n || rows->n_latency != n || rows->n_stack != n ||
	    rows->n_thread != n || rows->n_object != n || rows->n_count != n || rows->n_ns != n)
		return -1;
	return (int64_t)n;
}

static void sum_background(const Sonde__Rows *rows, uint64_t ledger[STATE_COUNT])
{
	for (size_t i = 0; rows && i < rows->n_route; i++) {
		if (rows->route[i] == 0)
			ledger[rows->state[i]] += rows->ns[i];
	}
}

/* The window's routes, with the work outside requests as route 0 in front. */
static int pack_routes(const Sonde__Window *window, struct blob *out)
{
	Sonde__Window routes = SONDE__WINDOW__INIT;
	Sonde__RouteStats background = SONDE__ROUTE_STATS__INIT;
	uint64_t ledger[STATE_COUNT] = { 0 };
	int err;

	routes.routes = calloc(window->n_routes + 1, sizeof(*routes.routes));
	if (!routes.routes)
		return -ENOMEM;
	sum_background(window->rows, ledger);
	background.n_ledger_ns = STATE_COUNT;
	background.ledger_ns = ledger;
	routes.routes[routes.n_routes++] = &background;
	for (size_t i = 0; i < window->n_routes; i++) {
		if (window->routes[i]->route != 0)
			routes.routes[routes.n_routes++] = window->routes[i];
	}
	err = pack_message(&routes.base, true, out);
	free(routes.routes);
	return err;
}

int window_pack(const Sonde__Window *window, struct window_blobs *out)
{
	Sonde__Rows no_rows = SONDE__ROWS__INIT;
	Sonde__Self no_self = SONDE__SELF__INIT;
	int err;

	*out = (struct window_blobs){ 0 };
	err = pack_message(window->rows ? &window->rows->base : &no_rows.base, true, &out->rows);
	if (!err)
		err = pack_routes(window, &out->routes);
	if (!err)
		err = pack_message(window->self ? &window->self->base : &no_self.base, false,
				   &out->self);
	if (err)
		window_blobs_fini(out);
	return err;
}

void window_blobs_fini(struct window_blobs *blobs)
{
	free(blobs->rows.bytes);
	free(blobs->routes.bytes);
	free(blobs->self.bytes);
	*blobs = (struct window_blobs){ 0 };
}

static int unpack(struct arena *arena, const ProtobufCMessageDescriptor *type, const void *bytes,
		  size_t len, bool squeezed, void *out)
{
	ProtobufCMessage *message;

	if (squeezed) {
		unsigned long long size = ZSTD_getFrameContentSize(bytes, len);
		void *plain;

		if (size > WINDOW_MAX_BYTES) /* the error codes are larger, too */
			return -EIO;
		plain = arena_alloc(arena, size ? (size_t)size : 1);
		if (!plain)
			return -ENOMEM;
		if (ZSTD_decompress(plain, (size_t)size, bytes, len) != size)
			return -EIO;
		bytes = plain;
		len = (size_t)size;
	}
	message = protobuf_c_message_unpack(type, &arena->allocator, len, bytes);
	if (!message)
		return -EIO;
	memcpy(out, &message, sizeof(message));
	return 0;
}

int window_unpack_rows(struct arena *arena, const void *bytes, size_t len, Sonde__Rows **out)
{
	int err = unpack(arena, &sonde__rows__descriptor, bytes, len, true, out);

	return err ? err : window_row_count(*out) < 0 ? -EIO : 0;
}

int window_unpack_routes(struct arena *arena, const void *bytes, size_t len, Sonde__Window **out)
{
	return unpack(arena, &sonde__window__descriptor, bytes, len, true, out);
}

int window_unpack_self(struct arena *arena, const void *bytes, size_t len, Sonde__Self **out)
{
	return unpack(arena, &sonde__self__descriptor, bytes, len, false, out);
}

const char *window_check_histogram(const Sonde__Histogram *h, uint64_t *total)
{
	uint64_t index = 0;

	*total = 0;
	if (!h)
		return NULL;
	if (h->n_delta != h->n_count)
		return "a histogram with columns of different length";
	for (size_t i = 0; i < h->n_delta; i++) {
		index += h->delta[i];
		if (index >= HIST_BUCKETS)
			return "a histogram bucket out of range";
		if (__builtin_add_overflow(*total, h->count[i], total))
			return "a histogram that overflows";
	}
	return NULL;
}

void window_add_histogram(uint64_t *bucket, const Sonde__Histogram *h)
{
	uint64_t index = 0;

	for (size_t i = 0; h && i < h->n_delta && i < h->n_count; i++) {
		index += h->delta[i];
		if (index < HIST_BUCKETS)
			bucket[index] += h->count[i];
	}
}
