/* SPDX-License-Identifier: MIT
 *
 * Templates, and who gets into the table.
 */
#include <stdio.h>
#include <string.h>

#include "agent/core/route.h"
#include "agent/hook/http.h"
#include "tests/unit/unit.h"

static uint32_t get(struct route_table *t, const char *path, unsigned status)
{
	return route_from_http(t, "GET", path, status);
}

static void assert_route(const char *method, const char *path, const char *expected)
{
	struct route_table *t = route_table_create(ROUTE_CAP);

	assert_non_null(t);
	assert_string_equal(route_name(t, route_from_http(t, method, path, 200)), expected);
	route_table_destroy(t);
}

static void assert_path(const char *path, const char *expected)
{
	char name[2 * ROUTE_NAME_MAX];

	snprintf(name, sizeof(name), "GET %s", expected);
	assert_route("GET", path, name);
}

/* ---- Templates ---- */

static void words_stay_as_they_are(void **state)
{
	static const char *const paths[] = {
		"/%E4%BD%A0%E5%A5%BD%E4%B8%96%E7%95%8C",
		"/x%2",
		"/",
		"/a",
		"/users/me",
		"/api/v1/users",
		"/fib2",
		"/a/",
		"//a//b",
		"/index.html",
		"/a.b.c",
		"/oauth2/x1y2",
		"/deadbeef",
		"/caf%C3%A9/x",
		"/café",
		"/hello-world",
		"/a@b.c",
		"/-",
		"/.env",
		"/x264",
		"/1password",
		"/get-users-by-id-v2-endpoint",
		"/GetUserProfileByIdentifier2",
		"/top-10-things-to-do-in-paris",
		"/conference2024-schedule-list",
		"/abc1234",
		"/...",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		assert_path(paths[i], paths[i]);
}

static void numbers_become_n(void **state)
{
	(void)state;
	assert_path("/fib/35", "/fib/{n}");
	assert_path("/35", "/{n}");
	assert_path("/a/1/b/22/", "/a/{n}/b/{n}/");
	assert_path("/t/-5", "/t/{n}");
	assert_path("/t/3.14", "/t/{n}");
	assert_path("/t/1,2,3", "/t/{n}");
	assert_path("/t/12:30", "/t/{n}");
	assert_path("/t/10.0.0.1", "/t/{n}");
	assert_path("/t/2-", "/t/2-");
	assert_path("/t/12345678901234567890123456789", "/t/{n}");
}

static void identifiers_become_their_kind(void **state)
{
	(void)state;
	assert_path("/u/123e4567-e89b-12d3-a456-426614174000/x", "/u/{uuid}/x");
	assert_path("/u/123E4567-E89B-12D3-A456-426614174000", "/u/{uuid}");
	assert_path("/c/3f2a9c1b", "/c/{hex}");
	assert_path("/c/da39a3ee5e6b4b0d3255bfef95601890afd80709", "/c/{hex}");
	assert_path("/c/0x1F", "/c/{hex}");
	assert_path("/c/3f2a9c1", "/c/3f2a9c1");
	assert_path("/t/abc123def456ghi789jkl0", "/t/{token}");
	assert_path("/t/dGhpcyBpcyBhIHRlc3Q0Mg==", "/t/{token}");
	assert_path("/t/Zx81-kQ_9vB2mTn4Rp7sLw", "/t/{token}");
	assert_path("/t/order-12345678-final-copy", "/t/{token}");
	assert_path("/t/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3", "/t/{token}");
	assert_path("/t/abc123def456ghi789j", "/t/abc123def456ghi789j");
}

static void dates_become_date(void **state)
{
	(void)state;
	assert_path("/d/2026-11-20", "/d/{date}");
	assert_path("/d/2026-11", "/d/{date}");
	assert_path("/d/2026-11-20T06:40:24Z", "/d/{date}");
	assert_path("/d/2026-11-20T06%3A40%3A24Z/x", "/d/{date}/x");
	assert_path("/d/2026-13-20", "/d/{n}");
	assert_path("/d/2026-12-40", "/d/{n}");
	assert_path("/d/2026-11-20.log", "/d/{date}.log");
}

static void files_keep_their_extension(void **state)
{
	(void)state;
	assert_path("/img/12345.png", "/img/{n}.png");
	assert_path("/img/3f2a9c1b.webp", "/img/{hex}.webp");
	assert_path("/js/app.3f2a9c1b.js", "/js/app.{hex}.js");
	assert_path("/js/main-8d8d9c7e.css", "/js/main-{hex}.css");
	assert_path("/js/jquery-3.6.0.min.js", "/js/jquery-3.6.0.min.js");
	assert_path("/v1.txt", "/v1.txt");
	assert_path("/a/12345.", "/a/12345.");
	assert_path("/a/12.verylongextension", "/a/12.verylongextension");
}

static void what_comes_after_ten_segments_is_cut(void **state)
{
	(void)state;
	assert_path("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g/h/i/j");
	assert_path("/a/b/c/d/e/f/g/h/i/j/k", "/a/b/c/d/e/f/g/h/i/j/**");
	assert_path("/a/b/c/d/e/f/g/h/i/j/k/l/m", "/a/b/c/d/e/f/g/h/i/j/**");
}

static void a_path_that_was_cut_off_says_so(void **state)
{
	char path[2 * HTTP_PATH_MAX];

	(void)state;
	memset(path, 'x', sizeof(path));
	memcpy(path, "/files/", 7);
	path[HTTP_PATH_MAX - 1] = '\0';
	assert_path(path, "/files/**");
	path[HTTP_PATH_MAX - 1] = 'x';
	path[sizeof(path) - 1] = '\0';
	assert_path(path, "/files/**");
	path[HTTP_PATH_MAX - 2] = '\0';
	assert_path(path, path);
}

static void star_authority_and_nothing_have_a_name(void **state)
{
	(void)state;
	assert_route("OPTIONS", "*", "OPTIONS *");
	assert_route("CONNECT", "db.example:443", "CONNECT db.example:443");
	assert_route("GET", "", "GET /");
}

static void methods_keep_their_token_characters_only(void **state)
{
	(void)state;
	assert_route("M-SEARCH", "/a", "M-SEARCH /a");
	assert_route("G<E>\x01T \xff", "/a", "GET /a");
	assert_route("", "/a", "- /a");
	assert_route("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "/a", "ABCDEFGHIJKLMNOP /a");
}

static void what_cannot_be_shown_is_escaped(void **state)
{
	(void)state;
	assert_path("/a\x01\x7f b", "/a%01%7F%20b");
	assert_path("/a\xff\xc3", "/a%FF%C3");
	assert_path("/\xc0\xaf", "/%C0%AF");
	assert_path("/\xed\xa0\x80", "/%ED%A0%80");
	assert_path("/\xf4\x90\x80\x80", "/%F4%90%80%80");
	assert_path("/\xe2\x80\xae"
		    "gpj",
		    "/%E2%80%AEgpj");
	assert_path("/\xc2\x85", "/%C2%85");
	assert_path("/\xf0\x9f\x8e\x88", "/\xf0\x9f\x8e\x88");
	assert_path("/{n}/{*}", "/%7Bn%7D/%7B*%7D");
}

static void a_name_never_grows_too_long(void **state)
{
	char path[HTTP_PATH_MAX];
	struct route_table *t = route_table_create(ROUTE_CAP);

	(void)state;
	for (size_t len = 1; len < sizeof(path) - 1; len++) {
		const char *name;

		memset(path, '\xff', len);
		path[0] = '/';
		if (len > 40)
			path[40] = '/';
		path[len] = '\0';
		name = route_name(t, get(t, path, 200));
		assert_true(strlen(name) < ROUTE_NAME_MAX);
		if (len > 100) /* 40 fit, 60 escaped ones do not */
			assert_string_equal(name + strlen(name) - 3, "/**");
	}
	route_table_destroy(t);
}

/* ---- The table ---- */

static void one_template_has_one_id(void **state)
{
	struct route_table *t = route_table_create(ROUTE_CAP);
	uint32_t id = get(t, "/fib/1", 200);

	(void)state;
	assert_int_equal(get(t, "/fib/2", 500), id);
	assert_int_not_equal(route_from_http(t, "POST", "/fib/2", 200), id);
	assert_int_equal(route_count(t), 4);
	assert_string_equal(route_name(t, id), "GET /fib/{n}");
	assert_string_equal(route_source(t, id), "http");
	assert_null(route_name(t, 0));
	assert_null(route_name(t, 5));
	assert_null(route_source(t, 5));
	route_table_destroy(t);
	route_table_destroy(NULL);
}

static void given_ids_are_named(void **state)
{
	struct route_table *t = route_table_create(1);

	(void)state;
	assert_string_equal(route_name(t, ROUTE_OTHER), "(other)");
	assert_string_equal(route_name(t, ROUTE_UNMATCHED), "(unmatched 404)");
	assert_int_equal(route_from_name(t, "(other)"), ROUTE_OTHER);
	assert_int_equal(get(t, "/a", 200), 3);
	assert_int_equal(get(t, "/b", 200), ROUTE_OTHER);
	assert_int_equal(route_refused(t), 1);
	route_table_destroy(t);
}

static void names_of_the_api_are_taken_as_they_are(void **state)
{
	struct route_table *t = route_table_create(ROUTE_CAP);
	uint32_t id = route_from_name(t, "JOB resize 12345");
	char longer[2 * ROUTE_NAME_MAX];

	(void)state;
	assert_string_equal(route_name(t, id), "JOB resize 12345");
	assert_string_equal(route_source(t, id), "api");
	assert_int_equal(route_from_name(t, "JOB resize 12345"), id);
	assert_string_equal(route_name(t, route_from_name(t, "GET /users/{id}")),
			    "GET /users/{id}");
	assert_string_equal(route_name(t, route_from_name(t, "a\nb\xff")), "a%0Ab%FF");
	assert_string_equal(route_name(t, route_from_name(t, "")), "(unnamed)");
	memset(longer, '\x01', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	assert_true(strlen(route_name(t, route_from_name(t, longer))) < ROUTE_NAME_MAX);
	route_table_destroy(t);
}

static void a_route_is_admitted_by_its_first_answer_that_is_not_404(void **state)
{
	struct route_table *t = route_table_create(ROUTE_CAP);
	uint32_t id;

	(void)state;
	assert_int_equal(get(t, "/users/1", 404), ROUTE_UNMATCHED);
	assert_int_equal(route_count(t), 2);
	id = get(t, "/users/1", 200);
	assert_int_equal(get(t, "/users/2", 404), id);
	assert_int_equal(route_refused(t), 0);
	route_table_destroy(t);
}

static void a_scan_leaves_no_trace(void **state)
{
	struct route_table *t = route_table_create(ROUTE_CAP);
	char path[64];

	(void)state;
	for (int i = 0; i < 100000; i++) {
		snprintf(path, sizeof(path), "/x%d/wp-login%d.php", i, i);
		assert_int_equal(get(t, path, 404), ROUTE_UNMATCHED);
	}
	assert_int_equal(route_count(t), 2);
	assert_string_equal(route_name(t, get(t, "/real", 200)), "GET /real");
	route_table_destroy(t);
}

static void many_names_under_one_parent_become_a_star(void **state)
{
	struct route_table *t = route_table_create(ROUTE_CAP);
	uint32_t first, star = 0;
	char path[64];

	(void)state;
	first = get(t, "/user/name0/posts", 200);
	for (int i = 1; i < 1000; i++) {
		snprintf(path, sizeof(path), "/user/name%d/posts", i);
		star = get(t, path, 200);
		assert_int_equal(strcmp(route_name(t, star), "GET /user/{*}/posts") == 0,
				 i >= ROUTE_SIBLINGS_MAX);
	}
	assert_int_equal(route_count(t), 2 + ROUTE_SIBLINGS_MAX + 1);
	assert_int_equal(get(t, "/user/name0/posts", 200), first);
	assert_int_equal(get(t, "/user/other/posts", 404), star);
	/* numbers, other positions, other parents and other methods are as before */
	assert_string_equal(route_name(t, get(t, "/user/7/posts", 200)), "GET /user/{n}/posts");
	assert_string_equal(route_name(t, get(t, "/user/bob/likes", 200)), "GET /user/{*}/likes");
	assert_string_equal(route_name(t, get(t, "/team/bob/posts", 200)), "GET /team/bob/posts");
	assert_string_equal(route_name(t, route_from_http(t, "PUT", "/user/bob/posts", 200)),
			    "PUT /user/bob/posts");
	route_table_destroy(t);
}

static void names_below_a_star_are_counted_together(void **state)
{
	struct route_table *t = route_table_create(ROUTE_CAP);
	char path[64];

	(void)state;
	for (int i = 0; i < 1000; i++) {
		snprintf(path, sizeof(path), "/u/name%d/album%d", i, i);
		get(t, path, 200);
	}
	assert_string_equal(route_name(t, get(t, "/u/x/y", 200)), "GET /u/{*}/{*}");
	assert_int_equal(route_count(t), 2 + ROUTE_SIBLINGS_MAX + ROUTE_SIBLINGS_MAX + 1);
	route_table_destroy(t);
}

static void a_flat_service_keeps_its_routes(void **state)
{
	struct route_table *t = route_table_create(ROUTE_CAP);
	char path[64], name[80];

	(void)state;
	for (int i = 0; i < 2 * ROUTE_TOP_MAX; i++) {
		snprintf(path, sizeof(path), "/route%d", i);
		snprintf(name, sizeof(name), "GET %s", i < ROUTE_TOP_MAX ? path : "/{*}");
		assert_string_equal(route_name(t, get(t, path, 200)), name);
	}
	route_table_destroy(t);
}

static void stars_do_not_make_a_name_too_long(void **state)
{
	struct route_table *t = route_table_create(ROUTE_CAP);
	char path[HTTP_PATH_MAX];
	const char *name;

	(void)state;
	for (int i = 0; i < 2 * ROUTE_TOP_MAX; i++) {
		/* one letter becomes {*}, the rest is as long as it may be */
		snprintf(path, sizeof(path), "/%c%c/", 'a' + i / 26, 'a' + i % 26);
		strncat(path,
			"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
			"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
			"\xff\xff\xff\xff\xff\xff\xff\xff/aaaaaaaaaaaaaaa",
			sizeof(path) - strlen(path) - 1);
		name = route_name(t, get(t, path, 200));
		assert_true(strlen(name) < ROUTE_NAME_MAX);
	}
	assert_string_equal(name + strlen(name) - 3, "/**");
	assert_non_null(strstr(name, "GET /{*}/"));
	route_table_destroy(t);
}

/* Fill @t with /cold0 .. , each asked for @times. Different parents, so that nothing becomes a star. */
static void fill(struct route_table *t, int routes, int times)
{
	char path[64];

	for (int i = 0; i < routes * times; i++) {
		snprintf(path, sizeof(path), "/a%d/cold%d", i % routes / 20, i % routes);
		assert_int_not_equal(get(t, path, 200), ROUTE_OTHER);
	}
}

static void past_the_cap_requests_are_other(void **state)
{
	struct route_table *t = route_table_create(10);

	(void)state;
	fill(t, 10, 3);
	assert_int_equal(get(t, "/new", 200), ROUTE_OTHER);
	assert_int_equal(get(t, "/b/new", 200), ROUTE_OTHER);
	assert_int_equal(route_from_name(t, "JOB new"), ROUTE_OTHER);
	assert_int_equal(route_refused(t), 3);
	assert_int_equal(route_count(t), 12);
	route_table_destroy(t);
}

static void a_hot_newcomer_takes_the_place_of_the_coldest(void **state)
{
	struct route_table *t = route_table_create(10);
	uint32_t id = 0, cold = 0;
	int needed = 0;

	(void)state;
	fill(t, 10, 20);
	for (int i = 0; i < 100; i++) { /* all but /a0/cold3 are in use */
		char path[64];

		for (int j = 0; j < 10; j++) {
			snprintf(path, sizeof(path), "/a0/cold%d", j);
			if (j != 3)
				get(t, path, 200);
		}
		route_table_tick(t);
	}
	for (; id <= ROUTE_OTHER; needed++)
		id = get(t, "/hot/1", 200);
	assert_int_equal(needed, ROUTE_HOT_MIN);
	assert_int_equal(id, 13);
	assert_string_equal(route_name(t, id), "GET /hot/{n}");
	assert_int_equal(get(t, "/hot/2", 404), id);
	/* the cold one is gone, but keeps its name, and comes back as itself */
	assert_int_equal(get(t, "/a0/cold3", 200), ROUTE_OTHER);
	assert_string_equal(route_name(t, 3 + 3), "GET /a0/cold3");
	for (int i = 0; i < 100 && cold <= ROUTE_OTHER; i++) {
		cold = get(t, "/a0/cold3", 200);
		for (int j = 0; j < 10; j++)
			get(t, "/a0/cold4", 200);
	}
	assert_int_equal(cold, 3 + 3);
	assert_int_equal(route_count(t), 13);
	route_table_destroy(t);
}

static void a_retired_route_is_no_scan(void **state)
{
	struct route_table *t = route_table_create(1);

	(void)state;
	get(t, "/old", 200);
	for (int i = 0; i < 100; i++)
		route_table_tick(t);
	for (int i = 0; i < ROUTE_HOT_MIN; i++)
		get(t, "/hot", 200);
	assert_int_equal(get(t, "/hot", 200), 4);
	assert_int_equal(get(t, "/old", 404), ROUTE_OTHER);
	assert_int_equal(get(t, "/older", 404), ROUTE_UNMATCHED);
	route_table_destroy(t);
}

static void a_candidate_that_comes_seldom_stays_one(void **state)
{
	struct route_table *t = route_table_create(1);

	(void)state;
	get(t, "/old", 200);
	for (int i = 0; i < 1000; i++) {
		if (i % 4 == 0)
			assert_int_equal(get(t, "/seldom", 200), ROUTE_OTHER);
		route_table_tick(t);
	}
	route_table_destroy(t);
}

static void a_newcomer_no_hotter_than_the_coldest_stays_out(void **state)
{
	struct route_table *t = route_table_create(10);

	(void)state;
	fill(t, 10, 50);
	for (int i = 0; i < 50; i++)
		assert_int_equal(get(t, "/new", 200), ROUTE_OTHER);
	assert_int_not_equal(get(t, "/new", 200), ROUTE_OTHER);
	route_table_destroy(t);
}

static void a_flood_of_names_seen_once_retires_nobody(void **state)
{
	struct route_table *t = route_table_create(100);
	char name[64];

	(void)state;
	fill(t, 100, 2);
	for (int i = 0; i < 100; i++)
		route_table_tick(t); /* all cold */
	for (int i = 0; i < 20000; i++) {
		snprintf(name, sizeof(name), "JOB %d", i);
		assert_int_equal(route_from_name(t, name), ROUTE_OTHER);
	}
	assert_int_equal(route_refused(t), 20000);
	assert_int_equal(route_count(t), 102);
	route_table_destroy(t);
}

static void a_flood_of_paths_ends_in_a_few_stars(void **state)
{
	struct route_table *t = route_table_create(100);
	char path[64];

	(void)state;
	fill(t, 100, 2);
	for (int i = 0; i < 100; i++)
		route_table_tick(t);
	for (int i = 0; i < 20000; i++) {
		snprintf(path, sizeof(path), "/junk%d/junk%d", i % 20, i);
		get(t, path, 200);
	}
	assert_string_equal(route_name(t, get(t, "/junk7/more", 200)), "GET /junk7/{*}");
	assert_int_equal(route_count(t), 102 + 20);
	route_table_destroy(t);
}

static void a_route_gets_in_through_a_flood(void **state)
{
	struct route_table *t = route_table_create(100);
	char path[64];
	int until = 0;

	(void)state;
	fill(t, 100, 2);
	for (int i = 0; i < 50; i++)
		route_table_tick(t);
	for (; until < 20000; until++) {
		snprintf(path, sizeof(path), "/%d/junk%d", until % 50, until);
		get(t, path, 200);
		if (until % 20 == 0 && get(t, "/real/thing", 200) > ROUTE_OTHER)
			break;
		if (until % 1000 == 0)
			route_table_tick(t);
	}
	assert_true(until < 1000);
	route_table_destroy(t);
}

static void ids_run_out_and_are_not_reused(void **state)
{
	struct route_table *t = route_table_create(10);
	char path[64];
	uint32_t last = 2;

	(void)state;
	for (int i = 0; i < ROUTE_IDS_MAX + 100; i++) {
		snprintf(path, sizeof(path), "/api/v%d/x", i);
		for (int j = 0; j < 2 * ROUTE_HOT_MIN; j++) {
			uint32_t id = route_from_name(t, path);

			assert_true(id <= last + 1);
			last = id > last ? id : last;
		}
		for (int j = 0; j < 10; j++)
			route_table_tick(t);
	}
	assert_int_equal(last, ROUTE_IDS_MAX);
	assert_int_equal(route_count(t), ROUTE_IDS_MAX);
	assert_int_equal(route_from_name(t, "one more"), ROUTE_OTHER);
	assert_string_equal(route_name(t, 3), "/api/v0/x");
	route_table_destroy(t);
}

static void a_full_tree_is_begun_anew(void **state)
{
	struct route_table *t = route_table_create(50);
	char path[64];

	(void)state;
	fill(t, 50, 2);
	for (int i = 0; i < 20000; i++) { /* candidates' prefixes fill the tree */
		snprintf(path, sizeof(path), "/%d/%d/p%d/q%d/r", i % 7, i, i % 29, i % 23);
		get(t, path, 200);
		snprintf(path, sizeof(path), "/z%d/%d/z%d", i % 90, i, i % 29);
		route_from_http(t, i % 2 ? "PUT" : "POST", path, 200);
		if (i % 100 == 0)
			route_table_tick(t);
	}
	for (int i = 0; i < 200; i++)
		route_table_tick(t);
	for (int i = 0; i < 400; i++) { /* the star is found again, and is hot */
		snprintf(path, sizeof(path), "/blog/post-%c%c", 'a' + i / 26, 'a' + i % 26);
		get(t, path, 200);
	}
	assert_string_equal(route_name(t, get(t, "/blog/post-zz", 200)), "GET /blog/{*}");
	for (int i = 0; i < 20000; i++) { /* once more: a parent with a star keeps it */
		snprintf(path, sizeof(path), "/z%d/%d/z%d", i % 90, i, i % 29);
		route_from_http(t, i % 2 ? "PUT" : "POST", path, 200);
		get(t, "/blog/post-zz", 200);
		if (i % 100 == 0)
			route_table_tick(t);
	}
	assert_string_equal(route_name(t, get(t, "/blog/new", 200)), "GET /blog/{*}");
	route_table_destroy(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_stay_as_they_are),
		cmocka_unit_test(numbers_become_n),
		cmocka_unit_test(identifiers_become_their_kind),
		cmocka_unit_test(dates_become_date),
		cmocka_unit_test(files_keep_their_extension),
		cmocka_unit_test(what_comes_after_ten_segments_is_cut),
		cmocka_unit_test(a_path_that_was_cut_off_says_so),
		cmocka_unit_test(star_authority_and_nothing_have_a_name),
		cmocka_unit_test(methods_keep_their_token_characters_only),
		cmocka_unit_test(what_cannot_be_shown_is_escaped),
		cmocka_unit_test(a_name_never_grows_too_long),
		cmocka_unit_test(one_template_has_one_id),
		cmocka_unit_test(given_ids_are_named),
		cmocka_unit_test(names_of_the_api_are_taken_as_they_are),
		cmocka_unit_test(a_route_is_admitted_by_its_first_answer_that_is_not_404),
		cmocka_unit_test(a_scan_leaves_no_trace),
		cmocka_unit_test(many_names_under_one_parent_become_a_star),
		cmocka_unit_test(names_below_a_star_are_counted_together),
		cmocka_unit_test(a_flat_service_keeps_its_routes),
		cmocka_unit_test(stars_do_not_make_a_name_too_long),
		cmocka_unit_test(past_the_cap_requests_are_other),
		cmocka_unit_test(a_hot_newcomer_takes_the_place_of_the_coldest),
		cmocka_unit_test(a_retired_route_is_no_scan),
		cmocka_unit_test(a_candidate_that_comes_seldom_stays_one),
		cmocka_unit_test(a_newcomer_no_hotter_than_the_coldest_stays_out),
		cmocka_unit_test(a_flood_of_names_seen_once_retires_nobody),
		cmocka_unit_test(a_flood_of_paths_ends_in_a_few_stars),
		cmocka_unit_test(a_route_gets_in_through_a_flood),
		cmocka_unit_test(ids_run_out_and_are_not_reused),
		cmocka_unit_test(a_full_tree_is_begun_anew),
	};

	return RUN(tests);
}
