/* SPDX-License-Identifier: MIT
 *
 * Windows survive being packed, and bad bytes cost themselves only.
 */
#include <zstd.h>

#include "server/window.h"
#include "tests/unit/collector.h"

static void window_comes_back_as_it_was(void **state)
{
	struct window_blobs blobs;
	struct arena arena;
	struct maker m;
	Sonde__Rows *rows;
	Sonde__Window *routes;
	Sonde__Self *self;

	(void)state;
	make(&m, 7);
	make_route(&m, 1, 3, STATE_IO, 5000);
	make_row(&m, 1, STATE_IO, 24, 9, 2, 14000);
	m.self.agent_cpu_ns = 77;
	arena_init(&arena, 1 << 20);
	assert_int_equal(window_pack(&m.window, &blobs), 0);
	assert_int_equal(window_unpack_rows(&arena, blobs.rows.bytes, blobs.rows.len, &rows), 0);
	assert_int_equal(
		window_unpack_routes(&arena, blobs.routes.bytes, blobs.routes.len, &routes), 0);
	assert_int_equal(window_unpack_self(&arena, blobs.self.bytes, blobs.self.len, &self), 0);
	assert_int_equal(window_row_count(rows), 2);
	assert_int_equal(rows->stack[1], 9);
	assert_int_equal(rows->ns[1], 14000);
	assert_int_equal(routes->n_routes, 2); /* the work outside requests, and route 1 */
	assert_int_equal(routes->routes[1]->latency_sum_ns, 15000);
	assert_int_equal(self->agent_cpu_ns, 77);
	window_blobs_fini(&blobs);
	arena_fini(&arena);
}

static void window_pack_sums_work_outside_requests(void **state)
{
	struct window_blobs blobs;
	struct arena arena;
	struct maker m;
	Sonde__Window *routes;

	(void)state;
	make(&m, 1);
	make_row(&m, 0, STATE_CPU, 0, 1, 1, 10);
	make_row(&m, 0, STATE_CPU, 0, 2, 1, 20);
	make_row(&m, 0, STATE_LOCK, 0, 2, 1, 5);
	make_row(&m, 1, STATE_CPU, 0, 2, 1, 1000);
	arena_init(&arena, 1 << 20);
	assert_int_equal(window_pack(&m.window, &blobs), 0);
	assert_int_equal(
		window_unpack_routes(&arena, blobs.routes.bytes, blobs.routes.len, &routes), 0);
	assert_int_equal(routes->routes[0]->route, 0);
	assert_int_equal(routes->routes[0]->ledger_ns[STATE_CPU], 30);
	assert_int_equal(routes->routes[0]->ledger_ns[STATE_LOCK], 5);
	window_blobs_fini(&blobs);
	arena_fini(&arena);
}

static void window_unpack_refuses_garbage_and_bombs(void **state)
{
	size_t size = (size_t)WINDOW_MAX_BYTES + 1, len;
	char *zeros = calloc(1, size), *bomb = malloc(ZSTD_compressBound(size));
	struct arena arena;
	Sonde__Rows *rows;

	(void)state;
	arena_init(&arena, (size_t)1 << 30);
	assert_int_equal(window_unpack_rows(&arena, "no zstd", 7, &rows), -EIO);
	assert_int_equal(window_unpack_rows(&arena, "", 0, &rows), -EIO);
	len = ZSTD_compress(bomb, ZSTD_compressBound(size), zeros, size, 1);
	assert_int_equal(window_unpack_rows(&arena, bomb, len, &rows), -EIO);
	len = ZSTD_compress(bomb, 1 << 20, "\xff\xff\xff", 3, 1);
	assert_int_equal(window_unpack_rows(&arena, bomb, len, &rows), -EIO);
	arena_fini(&arena);
	free(zeros);
	free(bomb);
}

static void window_check_histogram_finds_what_is_wrong(void **state)
{
	uint32_t delta[] = { 5, 1400 };
	uint64_t count[] = { UINT64_MAX, 1 }, total;
	Sonde__Histogram h = SONDE__HISTOGRAM__INIT;

	(void)state;
	h.delta = delta;
	h.count = count;
	h.n_delta = 1;
	assert_non_null(window_check_histogram(&h, &total)); /* lengths differ */
	h.n_count = 1;
	assert_null(window_check_histogram(&h, &total));
	assert_true(total == UINT64_MAX);
	h.n_delta = h.n_count = 2;
	assert_non_null(window_check_histogram(&h, &total)); /* overflow */
	count[0] = 1;
	assert_null(window_check_histogram(&h, &total));
	delta[1] = HIST_BUCKETS - 5;
	assert_non_null(window_check_histogram(&h, &total)); /* out of range */
	assert_null(window_check_histogram(NULL, &total));
}

static void arena_stays_within_its_cap(void **state)
{
	struct arena arena;

	(void)state;
	arena_init(&arena, 1000);
	assert_non_null(arena_alloc(&arena, 600));
	assert_null(arena_alloc(&arena, 600));
	assert_null(arena_alloc(&arena, SIZE_MAX));
	arena_reset(&arena);
	assert_non_null(arena_alloc(&arena, 600));
	arena_fini(&arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(window_comes_back_as_it_was),
		cmocka_unit_test(window_pack_sums_work_outside_requests),
		cmocka_unit_test(window_unpack_refuses_garbage_and_bombs),
		cmocka_unit_test(window_check_histogram_finds_what_is_wrong),
		cmocka_unit_test(arena_stays_within_its_cap),
	};

	return RUN(tests);
}
