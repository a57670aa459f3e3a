/* SPDX-License-Identifier: MIT
 *
 * Frames: what was packed is what protobuf-c unpacks, bounded, and always valid UTF-8.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/config.h"
#include "agent/core/encode.h"
#include "agent/core/identity.h"
#include "tests/unit/unit.h"

static Sonde__Frame *unpack(const struct encode_buffer *b, size_t at)
{
	uint32_t length;

	assert_true(b->used >= at + ENCODE_PREFIX_BYTES);
	memcpy(&length, b->bytes + at,
	       sizeof(length)); /* the tests run on little-endian machines */
	assert_true(at + ENCODE_PREFIX_BYTES + length <= b->used);
	return sonde__frame__unpack(NULL, length, b->bytes + at + ENCODE_PREFIX_BYTES);
}

static void encode_hello_round_trips(void **state)
{
	struct encode_buffer b = { 0 };
	struct identity self = {
		.instance = 0xfedcba9876543210, .pid = 7, .parent_pid = 6, .hz = 99
	};
	Sonde__Frame *f;

	(void)state;
	self.start_ns = 123456789;
	strcpy(self.service, "shop");
	strcpy(self.host, "web1");
	strcpy(self.boot_id, "b");
	strcpy(self.exe, "/bin/shop");
	strcpy(self.command, "shop --port 80");
	assert_int_equal(encode_hello(&b, &self), 0);
	f = unpack(&b, 0);
	assert_non_null(f);
	assert_int_equal(f->body_case, SONDE__FRAME__BODY_HELLO);
	assert_int_equal(f->hello->protocol, 1);
	assert_true(f->hello->instance == self.instance);
	assert_string_equal(f->hello->service, "shop");
	assert_string_equal(f->hello->command, "shop --port 80");
	assert_string_equal(f->hello->version, SONDE_VERSION);
	assert_int_equal(f->hello->parent_pid, 6);
	assert_true(f->hello->mono_ns > 0 && f->hello->unix_ns > f->hello->mono_ns);
	sonde__frame__free_unpacked(f, NULL);
	encode_buffer_fini(&b);
}

static void encode_event_round_trips_and_is_bounded(void **state)
{
	struct encode_buffer b = { 0 };
	char *name = malloc(100001);
	Sonde__Frame *f;

	(void)state;
	assert_non_null(name);
	memset(name, 'x', 100000);
	name[100000] = 0;
	assert_int_equal(encode_event(&b, "deploy 1.7", 42), 0);
	assert_int_equal(encode_event(&b, name, 43), 0);
	f = unpack(&b, 0);
	assert_string_equal(f->event->name, "deploy 1.7");
	assert_int_equal(f->event->unix_ns, 42);
	sonde__frame__free_unpacked(f, NULL);
	f = unpack(&b, b.used - (b.used - ENCODE_PREFIX_BYTES - b.bytes[0]));
	assert_non_null(f);
	assert_int_equal(strlen(f->event->name), ENCODE_EVENT_MAX - 1);
	sonde__frame__free_unpacked(f, NULL);
	encode_buffer_fini(&b);
	free(name);
}

static void encode_window_carries_the_agents_own_report(void **state)
{
	const struct self_drop drops[] = { { "ring full", 3 }, { "window rows", 0 } };
	const struct self_end ends[] = { { "complete", 100 } };
	const struct self_report self = { .process_cpu_ns = 1,
					  .agent_cpu_ns = 2,
					  .handler_ns = 3,
					  .samples = 4,
					  .waits = 5,
					  .hooks_ns = 61,
					  .signal_ns = 62,
					  .memory = { 1, 2, 3 },
					  .memory_max = { 10, 20, 30 },
					  .threads = 7,
					  .hz = 8,
					  .drops = drops,
					  .drop_count = 2,
					  .ends = ends,
					  .end_count = 1 };
	Sonde__Window window = SONDE__WINDOW__INIT;
	struct encode_arena arena = { 0 };
	struct encode_buffer b = { 0 };
	Sonde__Frame *f;

	(void)state;
	window.seq = 9;
	window.last = true;
	assert_int_equal(encode_window(&b, &arena, &window, &self), 0);
	encode_arena_fini(&arena);
	f = unpack(&b, 0);
	assert_non_null(f);
	assert_int_equal(f->window->seq, 9);
	assert_true(f->window->last);
	assert_int_equal(f->window->self->process_cpu_ns, 1);
	assert_int_equal(f->window->self->memory_bytes, 6);
	assert_int_equal(f->window->self->hz, 8);
	assert_int_equal(f->window->self->hooks_ns, 61);
	assert_int_equal(f->window->self->signal_ns, 62);
	assert_int_equal(f->window->self->n_memory, ENCODE_MEMORY_PARTS);
	assert_int_equal(f->window->self->memory[2], 3);
	assert_int_equal(f->window->self->memory_max[1], 20);
	assert_int_equal(f->window->self->n_drops, 1); /* what has not happened is not said */
	assert_string_equal(f->window->self->drops[0]->cause, "ring full");
	assert_int_equal(f->window->self->drops[0]->count, 3);
	assert_string_equal(f->window->self->ends[0]->how, "complete");
	sonde__frame__free_unpacked(f, NULL);
	encode_buffer_fini(&b);
}

static void encode_frame_refuses_what_is_too_large(void **state)
{
	Sonde__Frame frame = SONDE__FRAME__INIT;
	Sonde__Event event = SONDE__EVENT__INIT;
	struct encode_buffer b = { 0 };
	char *name = malloc(ENCODE_FRAME_MAX + 1);

	(void)state;
	assert_non_null(name);
	memset(name, 'x', ENCODE_FRAME_MAX);
	name[ENCODE_FRAME_MAX] = 0;
	event.name = name;
	frame.body_case = SONDE__FRAME__BODY_EVENT;
	frame.event = &event;
	assert_int_equal(encode_frame(&b, &frame), -EMSGSIZE);
	assert_int_equal(b.used, 0);
	encode_buffer_fini(&b);
	free(name);
}

static void encode_text_makes_valid_utf8(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{ "plain", "plain" },
		{ "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8e\x88",
		  "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8e\x88" },
		{ "a\tb\nc\x7f", "a?b?c?" },
		{ "\xff\xfe", "??" },
		{ "\xc0\x80", "??" },           /* overlong */
		{ "\xe0\x80\xaf", "???" },      /* overlong */
		{ "\xed\xa0\x80", "???" },      /* surrogate */
		{ "\xf4\x90\x80\x80", "????" }, /* past the last character */
		{ "\xf8\x88\x80\x80\x80", "?????" },
		{ "\xc2\x85", "??" }, /* control character */
		{ "cut \xe2\x82", "cut ??" },
		{ "\x80", "?" },
	};
	char out[64];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t n = encode_text(out, sizeof(out), cases[i].in, strlen(cases[i].in));

		assert_string_equal(out, cases[i].out);
		assert_int_equal(n, strlen(out));
	}
}

static void encode_text_cuts_between_characters(void **state)
{
	char out[8];

	(void)state;
	assert_int_equal(encode_text(out, 6, "\xe2\x82\xac\xe2\x82\xac", 6), 3);
	assert_string_equal(out, "\xe2\x82\xac");
	assert_int_equal(encode_text(out, 1, "abc", 3), 0);
	assert_string_equal(out, "");
	out[0] = '#';
	assert_int_equal(encode_text(out, 0, "abc", 3), 0);
	assert_int_equal(out[0], '#');
}

static void encode_alloc_is_zeroed_and_refuses_overflow(void **state)
{
	struct encode_arena arena = { 0 };

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		uint8_t *bytes = encode_alloc(&arena, i, 7);

		assert_non_null(bytes);
		assert_int_equal((uintptr_t)bytes % _Alignof(max_align_t), 0);
		for (unsigned j = 0; j < i * 7; j++)
			assert_int_equal(bytes[j], 0);
		memset(bytes, 0xff, i * 7);
	}
	assert_non_null(encode_alloc(&arena, 1, ENCODE_ARENA_CHUNK * 3));
	assert_null(encode_alloc(&arena, SIZE_MAX / 4, 8));
	encode_arena_fini(&arena);
	encode_arena_fini(&arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(encode_hello_round_trips),
		cmocka_unit_test(encode_event_round_trips_and_is_bounded),
		cmocka_unit_test(encode_window_carries_the_agents_own_report),
		cmocka_unit_test(encode_frame_refuses_what_is_too_large),
		cmocka_unit_test(encode_text_makes_valid_utf8),
		cmocka_unit_test(encode_text_cuts_between_characters),
		cmocka_unit_test(encode_alloc_is_zeroed_and_refuses_overflow),
	};

	return RUN(tests);
}
