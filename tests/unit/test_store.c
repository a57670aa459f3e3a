/* SPDX-License-Identifier: MIT
 *
 * The store keeps what it has, refuses files it must not touch, and stays within its size.
 */
#include <fcntl.h>
#include <sqlite3.h>

#include "tests/unit/collector.h"

static void start(struct fixture *f)
{
	assert_int_equal(give_hello(f, 0xabc, "shop"), 0);
	assert_int_equal(give_names(f), 0);
}

static int collect(void *context, const struct store_window *w)
{
	uint64_t *seen = context; /* [0]: how many, [1]: set of numbers, [2]: highest order */

	seen[0]++;
	seen[1] |= w->seq < 64 ? 1ull << w->seq : 0;
	if (w->order > seen[2])
		seen[2] = w->order;
	return 0;
}

static int read_windows(struct fixture *f, const struct store_filter *filter, uint64_t seen[3])
{
	struct store_read *read;
	int err;

	seen[0] = seen[1] = seen[2] = 0;
	assert_int_equal(store_read_begin(f->store, &read), 0);
	err = store_read_windows(read, filter, STORE_ROWS | STORE_ROUTES | STORE_SELF, collect,
				 seen);
	store_read_end(read);
	return err;
}

static void give_seconds(struct fixture *f, uint64_t from, uint64_t to)
{
	struct maker m;

	for (uint64_t seq = from; seq <= to; seq++) {
		make(&m, seq);
		make_route(&m, 1, 2, STATE_CPU, 1000);
		assert_int_equal(give_window(f, &m.window), 0);
	}
}

static void store_keeps_windows_when_opened_again(void **state)
{
	struct fixture *f = *state;
	struct store_filter all = { .to_unix_ns = UINT64_MAX };
	uint64_t seen[3];

	start(f);
	give_seconds(f, 1, 5);
	session_destroy(f->session);
	f->session = NULL;
	store_reopen(f, 1ull << 40);
	assert_int_equal(read_windows(f, &all, seen), 0);
	assert_int_equal(seen[0], 5);
}

static void store_selects_windows_by_their_end(void **state)
{
	struct fixture *f = *state;
	struct store_filter range = { .from_unix_ns = T0 + 2 * S, .to_unix_ns = T0 + 4 * S };
	uint64_t seen[3];

	start(f);
	give_seconds(f, 1, 5);
	assert_int_equal(read_windows(f, &range, seen), 0);
	assert_int_equal(seen[1], 1 << 2 | 1 << 3); /* from is in, to is out */
	range.instance = 0xabd;
	assert_int_equal(read_windows(f, &range, seen), 0);
	assert_int_equal(seen[0], 0);
	range.instance = 0xabc;
	assert_int_equal(read_windows(f, &range, seen), 0);
	assert_int_equal(seen[0], 2);
}

static void store_reads_only_what_is_new(void **state)
{
	struct fixture *f = *state;
	struct store_filter filter = { .to_unix_ns = UINT64_MAX };
	uint64_t seen[3];

	start(f);
	give_seconds(f, 1, 3);
	assert_int_equal(read_windows(f, &filter, seen), 0);
	filter.after_order = seen[2];
	give_seconds(f, 4, 5);
	assert_int_equal(read_windows(f, &filter, seen), 0);
	assert_int_equal(seen[1], 1 << 4 | 1 << 5);
}

static void store_refuses_to_read_more_than_asked(void **state)
{
	struct fixture *f = *state;
	struct store_filter filter = { .to_unix_ns = UINT64_MAX, .max_windows = 3 };
	uint64_t seen[3];

	start(f);
	give_seconds(f, 1, 3);
	assert_int_equal(read_windows(f, &filter, seen), 0);
	give_seconds(f, 4, 4);
	assert_int_equal(read_windows(f, &filter, seen), -E2BIG);
	store_cancel(f->store);
	assert_int_equal(read_windows(f, &filter, seen), -ECANCELED);
}

static void store_read_does_not_see_what_comes_later(void **state)
{
	struct fixture *f = *state;
	struct store_filter all = { .to_unix_ns = UINT64_MAX };
	struct store_read *read;
	uint64_t seen[3] = { 0 };

	start(f);
	give_seconds(f, 1, 2);
	assert_int_equal(store_read_begin(f->store, &read), 0);
	assert_int_equal(store_read_windows(read, &all, 0, collect, seen), 0);
	give_seconds(f, 3, 3); /* a reader does not hold up the writer */
	assert_int_equal(store_read_windows(read, &all, 0, collect, seen), 0);
	store_read_end(read);
	assert_int_equal(seen[0], 4);
}

static void store_drops_the_oldest_windows_first(void **state)
{
	struct fixture *f = *state;
	struct store_filter all = { .to_unix_ns = UINT64_MAX };
	uint64_t seen[3], before;

	start(f);
	give_seconds(f, 1, 600);
	assert_int_equal(read_windows(f, &all, seen), 0);
	before = seen[0];
	store_reopen(f, 1); /* everything is too much: one bounded step drops 512 */
	session_destroy(f->session);
	f->session = session_create(f->store);
	assert_int_equal(store_retain(f->store), 0);
	assert_int_equal(read_windows(f, &all, seen), 0);
	assert_int_equal(before, 600);
	assert_int_equal(seen[0], 600 - 512);
	all.to_unix_ns = T0 + 513 * S;
	assert_int_equal(read_windows(f, &all, seen), 0);
	assert_int_equal(seen[0], 0);
}

static void store_remembers_numbers_of_windows_it_dropped(void **state)
{
	struct fixture *f = *state;
	struct store_instance i;

	start(f);
	give_seconds(f, 1, 20);
	store_set_connected(f->store, 0xabc, true);
	store_reopen(f, 1);
	store_set_connected(f->store, 0xabc, true);
	assert_int_equal(store_retain(f->store), 0);
	assert_int_equal(store_find_instance(f->store, 0xabc, &i), 0);
	assert_int_equal(i.stored_seq, 20);
	store_instance_fini(&i);
	store_set_connected(f->store, 0xabc, false);
	assert_int_equal(store_retain(f->store), 0); /* gone, and nothing left of it */
	assert_int_equal(store_find_instance(f->store, 0xabc, &i), -ENOENT);
}

struct marks {
	size_t count;
	char text[256]; /* their names, with spaces */
};

static int take_mark(void *context, const struct store_mark *mark)
{
	struct marks *m = context;

	m->count++;
	if (strlen(m->text) + strlen(mark->name) + 2 < sizeof(m->text))
		strcat(strcat(m->text, mark->name), " ");
	return 0;
}

static struct marks marks_in(struct fixture *f, const char *service, uint64_t instance,
			     uint64_t from, uint64_t to, unsigned max)
{
	struct marks m = { 0 };
	struct store_read *read;

	assert_int_equal(store_read_begin(f->store, &read), 0);
	assert_int_equal(store_read_marks(read, service, instance, from, to, max, take_mark, &m),
			 0);
	store_read_end(read);
	return m;
}

static void store_keeps_marks_once_and_finds_the_newest(void **state)
{
	struct fixture *f = *state;

	start(f);
	for (int twice = 0; twice < 2; twice++) {
		assert_int_equal(give_mark(f, T0 + 1, "one"), 0);
		assert_int_equal(give_mark(f, T0 + 2, "two"), 0);
		assert_int_equal(give_mark(f, T0 + 3, "three"), 0);
	}
	assert_string_equal(marks_in(f, NULL, 0, 0, UINT64_MAX, 9).text, "three two one ");
	assert_string_equal(marks_in(f, NULL, 0, 0, UINT64_MAX, 2).text, "three two ");
	assert_string_equal(marks_in(f, "shop", 0xabc, T0 + 1, T0 + 3, 9).text, "two one ");
	assert_string_equal(marks_in(f, "other", 0, 0, UINT64_MAX, 9).text, "");
	assert_string_equal(marks_in(f, NULL, 0xdef, 0, UINT64_MAX, 9).text, "");
}

static void store_keeps_so_many_marks(void **state)
{
	struct fixture *f = *state;
	struct marks m;

	start(f);
	assert_int_equal(store_begin(f->store), 0);
	for (uint64_t i = 0; i < STORE_MARKS_MAX + 5; i++)
		assert_int_equal(store_put_mark(f->store, 0xabc, T0 + i, "again"), 0);
	assert_int_equal(store_commit(f->store), 0);
	m = marks_in(f, NULL, 0, 0, UINT64_MAX, 2 * STORE_MARKS_MAX);
	assert_int_equal(m.count, STORE_MARKS_MAX);
	assert_int_equal(marks_in(f, NULL, 0, 0, T0 + 5, 9).count, 0);
}

static void store_takes_over_an_older_version(void **state)
{
	struct fixture *f = *state;
	struct store_filter all = { .to_unix_ns = UINT64_MAX };
	uint64_t seen[3];
	char path[96];
	sqlite3 *db;

	start(f);
	give_seconds(f, 1, 5);
	session_destroy(f->session);
	store_close(f->store);
	f->store = NULL;
	snprintf(path, sizeof(path), "%s/sonde.db", f->dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(
		sqlite3_exec(db, "DROP TABLE mark; PRAGMA user_version=1", NULL, NULL, NULL),
		SQLITE_OK);
	sqlite3_close(db);
	store_reopen(f, 1ull << 40);
	f->session = session_create(f->store);
	start(f);
	assert_int_equal(read_windows(f, &all, seen), 0);
	assert_int_equal(seen[0], 5);
	assert_int_equal(give_mark(f, T0, "new"), 0);
	assert_string_equal(marks_in(f, NULL, 0, 0, UINT64_MAX, 9).text, "new ");
}

static void expect_refusal(struct fixture *f, const char *dir, const char *words)
{
	struct store *store;
	char error[512];

	(void)f;
	assert_true(store_open(dir, 1ull << 40, &store, error, sizeof(error)) < 0);
	assert_null(store);
	if (!strstr(error, words))
		fail_msg("'%s' does not say '%s'", error, words);
}

static void store_refuses_a_second_collector(void **state)
{
	struct fixture *f = *state;

	expect_refusal(f, f->dir, "in use by another");
}

static void store_refuses_what_it_cannot_use(void **state)
{
	struct fixture *f = *state;
	char path[96], page[4096];
	sqlite3 *db;
	int fd;

	session_destroy(f->session);
	f->session = NULL;
	store_close(f->store);
	f->store = NULL;
	expect_refusal(f, "/proc/nowhere", "--data");
	snprintf(path, sizeof(path), "%s/sonde.db", f->dir);

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_exec(db, "PRAGMA user_version=99", NULL, NULL, NULL);
	sqlite3_close(db);
	expect_refusal(f, f->dir, "newer version");

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_exec(db, "PRAGMA user_version=1; PRAGMA application_id=5", NULL, NULL, NULL);
	sqlite3_close(db);
	expect_refusal(f, f->dir, "not one of sonde");

	memset(page, 'x', sizeof(page));
	fd = open(path, O_WRONLY | O_TRUNC);
	assert_int_equal(write(fd, page, sizeof(page)), sizeof(page));
	close(fd);
	expect_refusal(f, f->dir, "cannot read the store");
}

static void store_notices_a_damaged_page(void **state)
{
	struct fixture *f = *state;
	char path[96], page[4096];
	int fd;

	start(f);
	give_seconds(f, 1, 200);
	session_destroy(f->session);
	f->session = NULL;
	store_close(f->store);
	f->store = NULL;
	snprintf(path, sizeof(path), "%s/sonde.db", f->dir);
	memset(page, 0x55, sizeof(page));
	fd = open(path, O_WRONLY);
	assert_true(lseek(fd, 0, SEEK_END) > 12 * 4096);
	for (off_t at = 3; at < 12; at++)
		assert_int_equal(pwrite(fd, page, sizeof(page), at * 4096), sizeof(page));
	close(fd);
	expect_refusal(f, f->dir, "damaged");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(store_keeps_windows_when_opened_again),
		TEST(store_selects_windows_by_their_end),
		TEST(store_reads_only_what_is_new),
		TEST(store_refuses_to_read_more_than_asked),
		TEST(store_read_does_not_see_what_comes_later),
		TEST(store_drops_the_oldest_windows_first),
		TEST(store_remembers_numbers_of_windows_it_dropped),
		TEST(store_keeps_marks_once_and_finds_the_newest),
		TEST(store_keeps_so_many_marks),
		TEST(store_takes_over_an_older_version),
		TEST(store_refuses_a_second_collector),
		TEST(store_refuses_what_it_cannot_use),
		TEST(store_notices_a_damaged_page),
	};

	return RUN(tests);
}
