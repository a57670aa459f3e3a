/* SPDX-License-Identifier: MIT
 *
 * A window on its way to the store and back. What the store keeps of it are three byte strings:
 *
 *	rows    zstd of a packed Rows message: packed columns, a quarter of the disk and a tenth of the query time of rows
 *	routes  zstd of a Window message with only `routes`; one with route 0 carries the ns of work outside requests in its
 *	        ledger, summed here once so that no question about routes has to read rows
 *	self    a Self message
 *
 * Context: server, any thread.
 */
#ifndef SERVER_WINDOW_H
#define SERVER_WINDOW_H

#include <stddef.h>
#include <stdint.h>

#include "server/arena.h"
#include "server/flame.h"
#include "sonde.pb-c.h"
#include "sonde_hist.h"

enum {
	WINDOW_MAX_BYTES = 64 << 20
}; /* of a blob when unpacked; a frame is at most 16 MiB, ids re-encode no longer */

struct blob {
	uint8_t *bytes;
	size_t len;
};

struct window_blobs {
	struct blob rows, routes, self;
};

/** Pack @window, which session.c has validated. 0 or -ENOMEM; free with window_blobs_fini(). */
int window_pack(const Sonde__Window *window, struct window_blobs *out);
void window_blobs_fini(struct window_blobs *blobs);

/** The messages back, in @arena. -EIO when the bytes are not what window_pack() made; -ENOMEM. */
int window_unpack_rows(struct arena *arena, const void *bytes, size_t len, Sonde__Rows **out);
int window_unpack_routes(struct arena *arena, const void *bytes, size_t len, Sonde__Window **out);
int window_unpack_self(struct arena *arena, const void *bytes, size_t len, Sonde__Self **out);

/** NULL when @h is a histogram of this scale, else what is wrong with it. *@total: its counts added up. */
const char *window_check_histogram(const Sonde__Histogram *h, uint64_t *total);

/** Add a checked histogram's counts to @bucket, HIST_BUCKETS of them. @h may be NULL. */
void window_add_histogram(uint64_t *bucket, const Sonde__Histogram *h);

/** The row count, or -1 when the columns differ in length. @rows may be NULL: 0. */
int64_t window_row_count(const Sonde__Rows *rows);

#endif
