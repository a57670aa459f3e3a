/* SPDX-License-Identifier: MIT
 *
 * Exports of call trees made by hand: what is in the files, down to the fields. tests/e2e/test_export.py shows them to
 * the programs that people open them with.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "server/export.h"
#include "server/profile.h"
#include "tests/unit/unit.h"

static const struct selection minute = { .from_unix_ns = 1763600000000000000u,
					 .to_unix_ns = 1763600060000000000u,
					 .states = STATES_ALL };

/* ---- Trees ---- */

static struct flame_function in_shop(const char *name, uint32_t line)
{
	return (struct flame_function){ .name = name,
					.module = "shop",
					.module_path = "/usr/bin/shop",
					.build_id = "0011aabb",
					.file = "/src/shop.c",
					.line = line,
					.address = 0x1000 + line };
}

static struct flame_function in_libc(const char *name)
{
	return (struct flame_function){ .name = name,
					.module = "libc.so.6",
					.module_path = "/lib/libc.so.6",
					.build_id = "c0ffee",
					.address = 0x88000 };
}

static uint32_t grow(struct flame *flame, uint32_t parent, struct flame_function f)
{
	int64_t function = flame_function(flame, &f), node;

	assert_true(function >= 0);
	node = flame_child(flame, parent, (uint32_t)function);
	assert_true(node >= 0);
	return (uint32_t)node;
}

/* Two routes and work outside: [0] cpu below an inlined function, a lock, a queue; [1] io; [2] no request. */
static void make_flames(struct route_flame flames[3])
{
	static char service[] = "shop", routes[][32] = { "GET /x/{n};y", "GET /io", "" };
	struct flame_function inlined = in_shop("helper", 31), marker = { .name = "[queue]" };
	uint32_t start, handler, node;

	memset(flames, 0, 3 * sizeof(*flames));
	for (int i = 0; i < 3; i++) {
		flames[i].service = service;
		flames[i].route = routes[i];
		flames[i].requests = i < 2 ? 10u + (unsigned)i : 0;
		flames[i].flame = flame_create();
		assert_non_null(flames[i].flame);
	}
	inlined.inlined = true;
	inlined.address = 0x1000 + 12; /* where it was inlined */
	start = grow(flames[0].flame, 0, in_libc("start_thread"));
	handler = grow(flames[0].flame, start, in_shop("handler", 12));
	node = grow(flames[0].flame, handler, inlined);
	node = grow(flames[0].flame, node, in_shop("fib", 7));
	flame_add(flames[0].flame, node, STATE_CPU, 5000000, 5);
	flame_add(flames[0].flame, handler, STATE_CPU, 1000400, 1);
	node = grow(flames[0].flame, grow(flames[0].flame, start, in_shop("handler", 14)),
		    in_libc("pthread_mutex_lock"));
	flame_add(flames[0].flame, node, STATE_LOCK, 3000000, 3);
	flame_add(flames[0].flame, grow(flames[0].flame, 0, marker), STATE_QUEUE, 7, 0);
	node = grow(flames[1].flame, grow(flames[1].flame, 0, in_shop("main", 1)), in_libc("read"));
	flame_add(flames[1].flame, node, STATE_IO, 2000000, 2);
	flame_add(flames[1].flame, node, STATE_CPU, 500000, 0);
	node = grow(flames[2].flame, 0, in_shop("clean;up\nnow", 90));
	flame_add(flames[2].flame, node, STATE_CPU, 42000, 1);
	for (int i = 0; i < 3; i++)
		assert_int_equal(flame_finish(flames[i].flame), 0);
}

static void free_flames(struct route_flame flames[3])
{
	for (int i = 0; i < 3; i++)
		flame_destroy(flames[i].flame);
}

/* ---- A reader of protobuf ---- */

struct message {
	const unsigned char *at, *end;
};

struct field {
	uint32_t number;
	uint64_t value;
	struct message bytes;
};

static uint64_t varint(struct message *m)
{
	uint64_t value = 0;

	for (unsigned shift = 0;; shift += 7) {
		assert_true(m->at < m->end && shift < 70);
		value |= (uint64_t)(*m->at & 0x7f) << shift;
		if (!(*m->at++ & 0x80))
			return value;
	}
}

static bool next(struct message *m, struct field *field)
{
	uint64_t key, length;

	if (m->at == m->end)
		return false;
	key = varint(m);
	*field = (struct field){ .number = (uint32_t)(key >> 3) };
	if ((key & 7) == 0) {
		field->value = varint(m);
		return true;
	}
	assert_int_equal(key & 7, 2);
	length = varint(m);
	assert_true(length <= (uint64_t)(m->end - m->at));
	field->bytes = (struct message){ m->at, m->at + length };
	m->at += length;
	return true;
}

/* The value of the field @number, or the bytes when @bytes is given; 0 when missing. @skip: not the first such. */
static uint64_t get(struct message m, uint32_t number, unsigned skip, struct message *bytes)
{
	struct field field;

	while (next(&m, &field))
		if (field.number == number && skip-- == 0) {
			if (bytes)
				*bytes = field.bytes;
			return bytes ? 1 : field.value;
		}
	return 0;
}

static unsigned count(struct message m, uint32_t number)
{
	struct field field;
	unsigned n = 0;

	while (next(&m, &field))
		n += field.number == number;
	return n;
}

static const char *text(struct message profile, uint64_t index)
{
	static char strings[8][256];
	static unsigned turn;
	char *string = strings[turn++ % 8];
	struct message bytes = { 0 };

	assert_true(get(profile, 6, (unsigned)index, &bytes));
	assert_true(bytes.end - bytes.at < 256);
	memcpy(string, bytes.at, (size_t)(bytes.end - bytes.at));
	string[bytes.end - bytes.at] = '\0';
	return string;
}

/* The message in field @number whose own field 1 is @id. */
static struct message with_id(struct message profile, uint32_t number, uint64_t id)
{
	struct field field;

	while (next(&profile, &field))
		if (field.number == number && get(field.bytes, 1, 0, NULL) == id)
			return field.bytes;
	fail_msg("no message %u with id %llu", number, (unsigned long long)id);
	return profile;
}

/* Name and line of line @n of location @id. */
static const char *line_name(struct message profile, uint64_t id, unsigned n, uint64_t *number)
{
	struct message line = { 0 };

	assert_true(get(with_id(profile, 4, id), 4, n, &line));
	*number = get(line, 2, 0, NULL);
	return text(profile, get(with_id(profile, 5, get(line, 1, 0, NULL)), 2, 0, NULL));
}

static struct message unpack(const struct buffer *out, unsigned char *bytes, size_t size)
{
	z_stream z = { .next_in = (Bytef *)out->bytes,
		       .avail_in = (uInt)out->len,
		       .next_out = bytes,
		       .avail_out = (uInt)size };

	assert_int_equal(inflateInit2(&z, 16 + MAX_WBITS), Z_OK); /* gzip and nothing else */
	assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
	inflateEnd(&z);
	return (struct message){ bytes, z.next_out };
}

/* ---- pprof ---- */

static unsigned char unpacked[1 << 16];

static struct message make_pprof(void)
{
	struct route_flame flames[3];
	struct buffer out = { 0 };
	struct message profile;

	make_flames(flames);
	assert_int_equal(export_pprof_flames(flames, 3, &minute, &out), 0);
	profile = unpack(&out, unpacked, sizeof(unpacked));
	buffer_fini(&out);
	free_flames(flames);
	return profile;
}

static void pprof_has_types_times_and_comments(void **state)
{
	static const char *const names[] = { "samples", "queue", "cpu",  "runq",  "io",
					     "lock",    "sleep", "loop", "other", "wall" };
	struct message profile = make_pprof(), type;

	(void)state;
	assert_int_equal(count(profile, 1), 10);
	for (unsigned i = 0; i < 10; i++) {
		get(profile, 1, i, &type);
		assert_string_equal(text(profile, get(type, 1, 0, NULL)), names[i]);
		assert_string_equal(text(profile, get(type, 2, 0, NULL)),
				    i ? "nanoseconds" : "count");
	}
	assert_string_equal(text(profile, 0), "");
	assert_string_equal(text(profile, get(profile, 14, 0, NULL)), "wall");
	assert_true(get(profile, 9, 0, NULL) == minute.from_unix_ns);
	assert_true(get(profile, 10, 0, NULL) == 60000000000u);
	get(profile, 13, 0, &type);
	assert_string_equal(text(profile, varint(&type)), "sonde " SONDE_VERSION);
	assert_string_equal(text(profile, varint(&type)), "sonde.requests 10 GET /x/{n};y");
	assert_string_equal(text(profile, varint(&type)), "sonde.requests 11 GET /io");
	assert_true(type.at == type.end);
}

static void pprof_puts_the_program_first_and_has_it_all(void **state)
{
	struct message profile = make_pprof(), mapping;

	(void)state;
	assert_int_equal(count(profile, 3), 2);
	get(profile, 3, 0, &mapping);
	assert_int_equal(get(mapping, 1, 0, NULL), 1);
	assert_string_equal(text(profile, get(mapping, 5, 0, NULL)), "/usr/bin/shop");
	assert_string_equal(text(profile, get(mapping, 6, 0, NULL)), "0011aabb");
	for (uint32_t has = 7; has <= 10; has++)
		assert_int_equal(get(mapping, has, 0, NULL), 1);
	get(profile, 3, 1, &mapping);
	assert_int_equal(get(mapping, 1, 0, NULL), 2);
	assert_string_equal(text(profile, get(mapping, 5, 0, NULL)), "/lib/libc.so.6");
	assert_true(get(mapping, 3, 0, NULL) > 0x88000);
}

/* fib was called by helper, which was inlined into handler: three locations, the middle one with two lines. */
static void pprof_samples_have_inlined_lines_innermost_first(void **state)
{
	struct message profile = make_pprof(), sample = { 0 }, values, list, label;
	uint64_t ids[3], line;
	struct field field;
	bool found = false;

	(void)state;
	for (struct message m = profile; !found && next(&m, &field);) {
		if (field.number != 2)
			continue;
		sample = field.bytes;
		get(sample, 1, 0, &list);
		found = strcmp(line_name(profile, varint(&list), 0, &line), "fib") == 0;
	}
	assert_true(found);
	get(sample, 1, 0, &list);
	for (int i = 0; i < 3; i++)
		ids[i] = varint(&list);
	assert_true(list.at == list.end);
	assert_int_equal(count(with_id(profile, 4, ids[0]), 4), 1);
	assert_int_equal(count(with_id(profile, 4, ids[1]), 4), 2);
	assert_string_equal(line_name(profile, ids[1], 0, &line), "helper");
	assert_int_equal(line, 31);
	assert_string_equal(line_name(profile, ids[1], 1, &line), "handler");
	assert_int_equal(line, 12);
	assert_int_equal(get(with_id(profile, 4, ids[1]), 2, 0, NULL), 1);
	assert_int_equal(get(with_id(profile, 4, ids[1]), 3, 0, NULL), 0x1000 + 12);
	assert_string_equal(line_name(profile, ids[2], 0, &line), "start_thread");
	assert_int_equal(get(with_id(profile, 4, ids[2]), 2, 0, NULL), 2);
	get(sample, 2, 0, &values);
	for (unsigned v = 0; v < 10; v++)
		assert_int_equal(varint(&values), v == 0 ? 5 : v == 2 || v == 9 ? 5000000 : 0);
	for (unsigned i = 0; i < 3; i++) {
		static const char *const labels[][2] = { { "route", "GET /x/{n};y" },
							 { "state", "cpu" },
							 { "service", "shop" } };

		get(sample, 3, i, &label);
		assert_string_equal(text(profile, get(label, 1, 0, NULL)), labels[i][0]);
		assert_string_equal(text(profile, get(label, 2, 0, NULL)), labels[i][1]);
	}
}

static void pprof_marks_work_outside_requests_and_cleans_names(void **state)
{
	struct message profile = make_pprof(), string;
	bool route = false, name = false;

	(void)state;
	for (unsigned i = 0; get(profile, 6, i, &string); i++) {
		route |= strcmp(text(profile, i), "(no request)") == 0;
		name |= strcmp(text(profile, i), "clean;up now") == 0;
	}
	assert_true(route && name);
}

/* ---- Both, through the reader of sonde diff ---- */

static void assert_reads_back(const struct buffer *out)
{
	char error[PROFILE_ERROR_MAX] = "";
	struct profile *profile;
	uint64_t cpu = 0, lock = 0, io = 0, fib = 0;

	if (profile_read(out->bytes, out->len, NULL, &profile, error))
		fail_msg("%s", error);
	assert_true(profile->has_states);
	assert_int_equal(profile->route_count, 3);
	for (size_t i = 0; i < profile->route_count; i++) {
		cpu += profile->routes[i].state_ns[STATE_CPU];
		lock += profile->routes[i].state_ns[STATE_LOCK];
		io += profile->routes[i].state_ns[STATE_IO];
	}
	for (size_t i = 0; i < profile->row_count; i++)
		if (strcmp(profile->functions[profile->rows[i].function], "fib") == 0)
			fib += profile->rows[i].self_ns;
	assert_true(cpu / 1000 == 6542);
	assert_int_equal(lock, 3000000);
	assert_int_equal(io, 2000000);
	assert_int_equal(fib, 5000000);
	profile_destroy(profile);
}

static void exports_are_read_back_by_our_own_reader(void **state)
{
	struct route_flame flames[3];
	struct buffer out = { 0 };

	(void)state;
	make_flames(flames);
	assert_int_equal(export_pprof_flames(flames, 3, &minute, &out), 0);
	assert_reads_back(&out);
	out.len = 0;
	assert_int_equal(export_folded_flames(flames, 3, &out), 0);
	assert_reads_back(&out);
	buffer_fini(&out);
	free_flames(flames);
}

/* ---- folded ---- */

static void folded_is_one_line_per_stack_and_state(void **state)
{
	static const char expected[] =
		"GET /x/{n},y;[cpu];start_thread;handler 1000\n"
		"GET /x/{n},y;[cpu];start_thread;handler;helper;fib 5000\n"
		"GET /x/{n},y;[lock];start_thread;handler;pthread_mutex_lock 3000\n"
		"GET /x/{n},y;[queue];[queue] 1\n"
		"GET /io;[cpu];main;read 500\n"
		"GET /io;[io];main;read 2000\n"
		"(no request);[cpu];clean,up now 42\n";
	struct route_flame flames[3];
	struct buffer out = { 0 };

	(void)state;
	make_flames(flames);
	assert_int_equal(export_folded_flames(flames, 3, &out), 0);
	buffer_add(&out, "", 1);
	assert_string_equal(out.bytes, expected);
	buffer_fini(&out);
	free_flames(flames);
}

static void export_of_nothing_is_an_empty_file(void **state)
{
	struct buffer out = { 0 };
	struct message profile;

	(void)state;
	assert_int_equal(export_folded_flames(NULL, 0, &out), 0);
	assert_int_equal(out.len, 0);
	assert_int_equal(export_pprof_flames(NULL, 0, &minute, &out), 0);
	profile = unpack(&out, unpacked, sizeof(unpacked));
	assert_int_equal(count(profile, 1), 10);
	assert_int_equal(count(profile, 2), 0);
	buffer_fini(&out);
}

static void export_text_is_always_clean(void **state)
{
	static const char *const texts[][2] = {
		{ "plain", "plain" },
		{ "a;b", "a,b" },
		{ "a\nb\tc\x1b[31m", "a b c [31m" },
		{ "gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f" },
		{ "\xff\xfe", "\xef\xbf\xbd\xef\xbf\xbd" },
		{ "\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd" },
		{ "\xf0\x9f\x8e\x88!", "\xf0\x9f\x8e\x88!" },
		{ "", "" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		struct buffer out = { 0 };

		export_text(&out, texts[i][0], ';');
		buffer_add(&out, "", 1);
		assert_string_equal(out.bytes, texts[i][1]);
		buffer_fini(&out);
	}
}

static void html_data_cannot_break_out_of_its_element(void **state)
{
	static const char template[] = "<a><script type=\"application/json\" id=\"sonde-data\">"
				       "null</script><b>null</b>";
	char json[] = "{\"x\":\"</script><!--\"}";
	struct buffer data = { .bytes = json, .len = sizeof(json) - 1 }, out = { 0 };

	(void)state;
	assert_int_equal(export_html_fill(template, sizeof(template) - 1, &data, &out), 0);
	buffer_add(&out, "", 1);
	assert_string_equal(out.bytes, "<a><script type=\"application/json\" id=\"sonde-data\">"
				       "{\"x\":\"\\u003c/script>\\u003c!--\"}</script><b>null</b>");
	out.len = 0;
	assert_int_equal(export_html_fill("<a>null", 7, &data, &out), -EINVAL);
	assert_int_equal(export_html_fill(template, sizeof(template) - 35, &data, &out), -EINVAL);
	buffer_fini(&out);
}

static void export_formats_are_found_by_name(void **state)
{
	(void)state;
	assert_ptr_equal(export_find("pprof"), &export_pprof);
	assert_ptr_equal(export_find("folded"), &export_folded);
	assert_ptr_equal(export_find("html"), &export_html);
	assert_null(export_find("svg"));
	assert_null(export_find(""));
	assert_string_equal(export_names(), "pprof, folded, html");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pprof_has_types_times_and_comments),
		cmocka_unit_test(pprof_puts_the_program_first_and_has_it_all),
		cmocka_unit_test(pprof_samples_have_inlined_lines_innermost_first),
		cmocka_unit_test(pprof_marks_work_outside_requests_and_cleans_names),
		cmocka_unit_test(exports_are_read_back_by_our_own_reader),
		cmocka_unit_test(folded_is_one_line_per_stack_and_state),
		cmocka_unit_test(export_of_nothing_is_an_empty_file),
		cmocka_unit_test(export_text_is_always_clean),
		cmocka_unit_test(html_data_cannot_break_out_of_its_element),
		cmocka_unit_test(export_formats_are_found_by_name),
	};

	return RUN(tests);
}
