/* SPDX-License-Identifier: MIT
 *
 * Exported files read back (server/profile*.c): what they say, and that damaged ones are refused.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "server/profile.h"
#include "tests/unit/unit.h"

/* A protobuf message being written. */
struct message {
	uint8_t data[4096];
	size_t size;
};

static void put_varint(struct message *m, uint64_t value)
{
	for (; value >= 0x80; value >>= 7)
		m->data[m->size++] = (uint8_t)(value | 0x80);
	m->data[m->size++] = (uint8_t)value;
}

static void put_number(struct message *m, uint32_t field, uint64_t value)
{
	put_varint(m, field << 3);
	put_varint(m, value);
}

static void put_bytes(struct message *m, uint32_t field, const void *bytes, size_t size)
{
	put_varint(m, field << 3 | 2);
	put_varint(m, size);
	memcpy(m->data + m->size, bytes, size);
	m->size += size;
}

static void put_message(struct message *m, uint32_t field, const struct message *inner)
{
	put_bytes(m, field, inner->data, inner->size);
}

static void put_pair(struct message *m, uint32_t field, uint64_t one, uint64_t two)
{
	struct message inner = { .size = 0 };

	put_number(&inner, 1, one);
	put_number(&inner, 2, two);
	put_message(m, field, &inner);
}

enum {
	S_EMPTY,
	S_CPU,
	S_LOCK,
	S_NS,
	S_ROUTE,
	S_LOCK_ROUTE,
	S_MAIN,
	S_WORK,
	S_INNER,
	S_COMMENT,
	S_SERVICE,
	S_SHOP
};
static const char *const strings[] = {
	"",          "cpu",  "lock", "nanoseconds", "route",
	"GET /lock", "main", "work", "inner",       "sonde.requests 4 GET /lock",
	"service",   "shop"
};

/*
 * Two sample types, cpu and lock; one stack main > work (> inner inlined) with 100 and 300 ns on GET /lock, and main alone with
 * 7 ns on no route. The samples come before the strings, as some writers do.
 */
static void write_pprof(struct message *m)
{
	struct message sample = { .size = 0 }, packed = { .size = 0 }, location = { .size = 0 };

	put_pair(m, 1, S_CPU, S_NS);
	put_pair(m, 1, S_LOCK, S_NS);
	put_varint(&packed, 2);
	put_varint(&packed, 1);
	put_message(&sample, 1, &packed); /* packed ids, loose values: both are legal */
	put_number(&sample, 2, 100);
	put_number(&sample, 2, 300);
	put_pair(&sample, 3, S_ROUTE, S_LOCK_ROUTE);
	put_pair(&sample, 3, S_SERVICE, S_SHOP);
	put_message(m, 2, &sample);
	sample.size = 0;
	put_number(&sample, 1, 1);
	put_number(&sample, 2, 7);
	put_message(m, 2, &sample);
	put_number(&location, 1, 1);
	put_pair(&location, 4, 11, 10);
	put_message(m, 4, &location);
	location.size = 0;
	put_number(&location, 1, 2);
	put_pair(&location, 4, 13, 30);
	put_pair(&location, 4, 12, 20);
	put_message(m, 4, &location);
	put_pair(m, 5, 11, S_MAIN);
	put_pair(m, 5, 12, S_WORK);
	put_pair(m, 5, 13, S_INNER);
	for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++)
		put_bytes(m, 6, strings[i], strlen(strings[i]));
	put_number(m, 10, 5000000000);
	put_number(m, 13, S_COMMENT);
}

static struct profile *read_good(const void *data, size_t size, const struct profile_filter *filter)
{
	char error[PROFILE_ERROR_MAX];
	struct profile *p = NULL;

	if (profile_read(data, size, filter, &p, error) < 0)
		fail_msg("%s", error);
	return p;
}

static struct profile *read_text(const char *text)
{
	return read_good(text, strlen(text), NULL);
}

static void assert_refused(const void *data, size_t size, int status, const char *because)
{
	char error[PROFILE_ERROR_MAX];
	struct profile *p = NULL;

	assert_int_equal(profile_read(data, size, NULL, &p, error), status);
	if (!strstr(error, because))
		fail_msg("\"%s\" does not say \"%s\"", error, because);
}

static const struct profile_route *route_of(const struct profile *p, const char *name)
{
	for (size_t i = 0; i < p->route_count; i++)
		if (strcmp(p->routes[i].name, name) == 0)
			return &p->routes[i];
	fail_msg("no route %s", name);
	return NULL;
}

static void assert_row(const struct profile *p, const char *route, const char *function,
		       uint64_t self_ns, uint64_t total_ns)
{
	for (size_t i = 0; i < p->row_count; i++) {
		const struct profile_row *row = &p->rows[i];

		if (strcmp(p->routes[row->route].name, route) == 0 &&
		    strcmp(p->functions[row->function], function) == 0) {
			assert_int_equal(row->self_ns, self_ns);
			assert_int_equal(row->total_ns, total_ns);
			return;
		}
	}
	fail_msg("no row %s of %s", function, route);
}

static void pprof_says_times_by_route_state_and_function(void **state)
{
	struct message m = { .size = 0 };
	struct profile *p;

	(void)state;
	write_pprof(&m);
	p = read_good(m.data, m.size, NULL);
	assert_int_equal(p->format, PROFILE_PPROF);
	assert_true(p->has_requests);
	assert_true(p->has_states);
	assert_int_equal(p->duration_ns, 5000000000);
	assert_int_equal(route_of(p, "GET /lock")->requests, 4);
	assert_int_equal(route_of(p, "GET /lock")->state_ns[STATE_CPU], 100);
	assert_int_equal(route_of(p, "GET /lock")->state_ns[STATE_LOCK], 300);
	assert_int_equal(route_of(p, "")->state_ns[STATE_CPU], 7);
	assert_row(p, "GET /lock", "inner", 400, 400);
	assert_row(p, "GET /lock", "work", 0, 400);
	assert_row(p, "GET /lock", "main", 0, 400);
	assert_row(p, "", "main", 7, 7);
	assert_int_equal(profile_total_ns(p), 407);
	profile_destroy(p);
}

static void gzip_is_unpacked(void **state)
{
	struct message m = { .size = 0 };
	z_stream z = { 0 };
	uint8_t packed[8192];
	struct profile *p;

	(void)state;
	write_pprof(&m);
	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY),
			 Z_OK);
	z.next_in = m.data;
	z.avail_in = (uInt)m.size;
	z.next_out = packed;
	z.avail_out = sizeof(packed);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	p = read_good(packed, z.total_out, NULL);
	assert_int_equal(profile_total_ns(p), 407);
	profile_destroy(p);
	assert_refused(packed, z.total_out - 5, -EINVAL, "cut short");
	packed[20] ^= 0x55;
	packed[30] ^= 0x55;
	assert_refused(packed, z.total_out, -EINVAL, "damaged");
	deflateEnd(&z);
}

static void filters_choose_route_service_and_state(void **state)
{
	struct profile_filter filter = { .route = "GET /lock", .states = 1u << STATE_LOCK };
	struct message m = { .size = 0 };
	struct profile *p;

	(void)state;
	write_pprof(&m);
	p = read_good(m.data, m.size, &filter);
	assert_int_equal(p->route_count, 1);
	assert_int_equal(profile_total_ns(p), 300);
	assert_int_equal(p->routes[0].requests, 4);
	profile_destroy(p);
	filter = (struct profile_filter){ .service = "bank", .states = STATES_ALL };
	p = read_good(m.data, m.size, &filter);
	assert_int_equal(profile_total_ns(p), 7); /* without a label it may be anybody's */
	profile_destroy(p);
}

static void a_foreign_pprof_counts_as_one_state(void **state)
{
	struct message m = { .size = 0 }, sample = { .size = 0 };
	struct profile *p;

	(void)state;
	put_pair(&m, 1, 1, 2);
	put_pair(&m, 1, 3, 4);
	put_number(&sample, 2, 9);
	put_number(&sample, 2, 3);
	put_message(&m, 2, &sample);
	put_bytes(&m, 6, "", 0);
	put_bytes(&m, 6, "samples", 7);
	put_bytes(&m, 6, "count", 5);
	put_bytes(&m, 6, "wall", 4);
	put_bytes(&m, 6, "microseconds", 12);
	p = read_good(m.data, m.size, NULL);
	assert_false(p->has_states);
	assert_false(p->has_requests);
	assert_int_equal(route_of(p, "")->state_ns[STATE_OTHER], 3000);
	profile_destroy(p);
}

static void every_shortened_pprof_is_refused_or_shorter(void **state)
{
	struct message m = { .size = 0 };

	(void)state;
	write_pprof(&m);
	for (size_t size = 1; size < m.size; size++) {
		char error[PROFILE_ERROR_MAX];
		uint8_t *exact = malloc(size); /* so that a sanitizer sees a step too far */
		struct profile *p = NULL;

		assert_non_null(exact);
		memcpy(exact, m.data, size);
		if (profile_read(exact, size, NULL, &p, error) == 0)
			profile_destroy(p);
		else
			assert_true(error[0]);
		free(exact);
	}
}

static void folded_says_route_state_and_stack(void **state)
{
	struct profile *p = read_text("# sonde.requests 5 GET /a b\n"
				      "GET /a b;[cpu];main;fib;fib 10\r\n"
				      "GET /a b;[queue] 3\n"
				      "(no request);[io];main;read 4");

	(void)state;
	assert_int_equal(p->format, PROFILE_FOLDED);
	assert_true(p->has_states);
	assert_int_equal(route_of(p, "GET /a b")->requests, 5);
	assert_int_equal(route_of(p, "GET /a b")->state_ns[STATE_CPU], 10000);
	assert_int_equal(route_of(p, "GET /a b")->state_ns[STATE_QUEUE], 3000);
	assert_int_equal(route_of(p, "")->state_ns[STATE_IO], 4000);
	assert_row(p, "GET /a b", "fib", 10000, 10000); /* recursion counts once */
	assert_row(p, "GET /a b", "main", 0, 10000);
	profile_destroy(p);
}

static void foreign_folded_has_no_route(void **state)
{
	struct profile *p = read_text("nginx;main;ngx_worker [cpu] 12\nnginx;main 1\n");

	(void)state;
	assert_false(p->has_states);
	assert_false(p->has_requests);
	assert_int_equal(p->route_count, 1);
	assert_row(p, "", "nginx", 0, 13000);
	assert_row(p, "", "ngx_worker [cpu]", 12000, 12000);
	profile_destroy(p);
}

#define REPORT(data)                                                                               \
  "<!doctype html><html><body><script id=\"sonde-data\" type=\"application/json\">" data           \
  "</script></body></html>"

static void a_report_says_its_call_trees(void **state)
{
	struct profile *p =
		read_text(REPORT("{\"report\":1,\"routes\":{\"from\":100,\"to\":102.5,\"routes\":[{"
				 "\"service\":\"s\",\"route\":\"GET /x\"}]},"
				 "\"flames\":{\"GET "
				 "/x\":{\"requests\":3,\"functions\":{\"name\":[\"all\",\"main\","
				 "\"a<\\/script>\",\"b\"]},"
				 "\"nodes\":{\"function\":[0,1,2,3],\"depth\":[0,1,2,2],"
				 "\"self\":{\"cpu\":[0,1,20,0],\"io\":[0,0,5,300]}}}}}"));

	(void)state;
	assert_int_equal(p->format, PROFILE_HTML);
	assert_int_equal(p->duration_ns, 2500000000);
	assert_int_equal(route_of(p, "GET /x")->requests, 3);
	assert_int_equal(route_of(p, "GET /x")->state_ns[STATE_IO], 305);
	assert_row(p, "GET /x", "main", 1, 326);
	assert_row(p, "GET /x", "a</script>", 25, 25);
	assert_row(p, "GET /x", "b", 300, 300);
	profile_destroy(p);
}

static void bad_files_are_refused_with_a_reason(void **state)
{
	static const char tree[] =
		REPORT("{\"flames\":{\"x\":{\"functions\":{\"name\":[\"all\"]},"
		       "\"nodes\":{\"function\":[0,0],\"depth\":[0,2],\"self\":{}}}}}");
	static const char function[] =
		REPORT("{\"flames\":{\"x\":{\"functions\":{\"name\":[\"all\"]},"
		       "\"nodes\":{\"function\":[7],\"depth\":[0],\"self\":{}}}}}");

	(void)state;
	assert_refused("", 0, -EINVAL, "empty");
	assert_refused("hello world\n", 12, -EINVAL, "line 1");
	assert_refused("a 1\nb\n", 6, -EINVAL, "line 2");
	assert_refused("<html></html>", 13, -EINVAL, "no report");
	assert_refused(REPORT("{]"), sizeof(REPORT("{]")) - 1, -EINVAL, "damaged");
	assert_refused(REPORT("[]"), sizeof(REPORT("[]")) - 1, -EINVAL, "no report");
	assert_refused(tree, sizeof(tree) - 1, -EINVAL, "damaged");
	assert_refused(function, sizeof(function) - 1, -EINVAL, "damaged");
	assert_refused("\x7f"
		       "ELF\2\1\1\0\0\0\0\0",
		       12, -EINVAL, "no profile");
}

static void a_missing_file_is_named_by_the_system(void **state)
{
	char error[PROFILE_ERROR_MAX];
	struct profile *p = NULL;

	(void)state;
	assert_int_equal(profile_read_file("/nonexistent/x", NULL, &p, error), -ENOENT);
	assert_string_equal(error, "No such file or directory");
	assert_int_equal(profile_read_file("/", NULL, &p, error), -EISDIR);
}

static void many_names_are_told_apart(void **state)
{
	size_t size = 0, count = 20000;
	char *text = malloc(count * 40);
	struct profile *p;

	(void)state;
	assert_non_null(text);
	for (size_t i = 0; i < count; i++)
		size += (size_t)sprintf(text + size, "r%zu;[cpu];f%zu %zu\n", i % 7, i, i);
	p = read_good(text, size, NULL);
	assert_int_equal(p->function_count, count);
	assert_int_equal(p->route_count, 7);
	assert_int_equal(p->row_count, count);
	assert_row(p, "r0", "f19999", 19999000, 19999000);
	profile_destroy(p);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pprof_says_times_by_route_state_and_function),
		cmocka_unit_test(gzip_is_unpacked),
		cmocka_unit_test(filters_choose_route_service_and_state),
		cmocka_unit_test(a_foreign_pprof_counts_as_one_state),
		cmocka_unit_test(every_shortened_pprof_is_refused_or_shorter),
		cmocka_unit_test(folded_says_route_state_and_stack),
		cmocka_unit_test(foreign_folded_has_no_route),
		cmocka_unit_test(a_report_says_its_call_trees),
		cmocka_unit_test(bad_files_are_refused_with_a_reason),
		cmocka_unit_test(a_missing_file_is_named_by_the_system),
		cmocka_unit_test(many_names_are_told_apart),
	};

	return RUN(tests);
}
