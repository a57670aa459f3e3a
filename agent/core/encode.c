/* SPDX-License-Identifier: MIT
 *
 * See encode.h. Runs on the agent's thread only; encode_text() is pure and runs anywhere.
 */
#include "agent/core/encode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/identity.h"

struct encode_chunk {
	struct encode_chunk *older;
	max_align_t bytes[];
};

int encode_reserve(struct encode_buffer *buffer, size_t more)
{
	size_t room = buffer->room ? buffer->room : 4096;
	uint8_t *bytes;

	if (buffer->room - buffer->used >= more)
		return 0;
	while (room - buffer->used < more)
		room *= 2;
	bytes = realloc(buffer->bytes, room);
	if (!bytes)
		return -ENOMEM;
	buffer->bytes = bytes;
	buffer->room = room;
	return 0;
}

void encode_buffer_fini(struct encode_buffer *buffer)
{
	free(buffer->bytes);
	*buffer = (struct encode_buffer){ 0 };
}

void *encode_alloc(struct encode_arena *arena, size_t count, size_t bytes)
{
	const size_t align = _Alignof(max_align_t);
	struct encode_chunk *chunk;
	uint8_t *start;
	size_t total;

	if (__builtin_mul_overflow(count, bytes, &total) || total > SIZE_MAX / 2)
		return NULL;
	total = (total + align - 1) / align * align;
	if (!arena->chunk || arena->room - arena->used < total) {
		size_t room = total > ENCODE_ARENA_CHUNK ? total : ENCODE_ARENA_CHUNK;

		chunk = malloc(sizeof(*chunk) + room);
		if (!chunk)
			return NULL;
		chunk->older = arena->chunk;
		*arena = (struct encode_arena){ .chunk = chunk, .room = room };
	}
	start = (uint8_t *)arena->chunk->bytes + arena->used;
	arena->used += total;
	return memset(start, 0, total);
}

void *encode_alloc_messages(struct encode_arena *arena, size_t count, size_t bytes)
{
	void **pointers = encode_alloc(arena, count, sizeof(*pointers));
	uint8_t *messages = encode_alloc(arena, count, bytes);

	if (!pointers || !messages)
		return NULL;
	for (size_t i = 0; i < count; i++)
		pointers[i] = messages + i * bytes;
	return pointers;
}

void encode_arena_fini(struct encode_arena *arena)
{
	struct encode_chunk *chunk = arena->chunk, *older;

	for (; chunk; chunk = older) {
		older = chunk->older;
		free(chunk);
	}
	*arena = (struct encode_arena){ 0 };
}

/* The length of the character that starts at @in, 0 when it is not valid UTF-8 or a control character. */
static size_t character_bytes(const uint8_t *in, size_t left)
{
	static const uint32_t smallest[5] = { 0, 0, 0x80, 0x800, 0x10000 };
	uint32_t code = in[0];
	size_t length;

	if (code < 0x80)
		return code >= 0x20 && code != 0x7f;
	length = code >= 0xf0 && code < 0xf8 ? 4 : code >= 0xe0 && code < 0xf0 ? 3 : 2;
	if (code < 0xc0 || code >= 0xf8 || length > left)
		return 0;
	code &= 0x7fu >> length;
	for (size_t i = 1; i < length; i++) {
		if ((in[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (in[i] & 0x3fu);
	}
	/* 0x80..0x9f are control characters, too */
	if (code < smallest[length] || code < 0xa0 || code > 0x10ffff ||
	    (code >= 0xd800 && code < 0xe000))
		return 0;
	return length;
}

size_t encode_text(char *out, size_t out_bytes, const char *in, size_t in_bytes)
{
	size_t used = 0;

	if (out_bytes == 0)
		return 0;
	for (size_t i = 0; i < in_bytes;) {
		size_t length = character_bytes((const uint8_t *)in + i, in_bytes - i);

		if (used + (length ? length : 1) >= out_bytes)
			break;
		if (length == 0) {
			out[used++] = '?';
			i++;
			continue;
		}
		memcpy(out + used, in + i, length);
		used += length;
		i += length;
	}
	out[used] = 0;
	return used;
}

int encode_frame(struct encode_buffer *buffer, const Sonde__Frame *frame)
{
	size_t length = sonde__frame__get_packed_size(frame);
	uint8_t *start;

	if (length > ENCODE_FRAME_MAX)
		return -EMSGSIZE;
	if (encode_reserve(buffer, ENCODE_PREFIX_BYTES + length))
		return -ENOMEM;
	start = buffer->bytes + buffer->used;
	for (unsigned i = 0; i < ENCODE_PREFIX_BYTES; i++)
		start[i] = (uint8_t)(length >> (8 * i));
	sonde__frame__pack(frame, start + ENCODE_PREFIX_BYTES);
	buffer->used += ENCODE_PREFIX_BYTES + length;
	return 0;
}

int encode_hello(struct encode_buffer *buffer, const struct identity *self)
{
	Sonde__Frame frame = SONDE__FRAME__INIT;
	Sonde__Hello hello = SONDE__HELLO__INIT;

	hello.protocol = ENCODE_PROTOCOL;
	hello.instance = self->instance;
	hello.service = encode_string(self->service);
	hello.host = encode_string(self->host);
	hello.boot_id = encode_string(self->boot_id);
	hello.pid = self->pid;
	hello.parent_pid = self->parent_pid;
	hello.start_ns = self->start_ns;
	hello.exe = encode_string(self->exe);
	hello.command = encode_string(self->command);
	hello.version = encode_string(SONDE_VERSION);
	hello.hz = self->hz;
	identity_clocks(&hello.mono_ns, &hello.unix_ns);
	frame.body_case = SONDE__FRAME__BODY_HELLO;
	frame.hello = &hello;
	return encode_frame(buffer, &frame);
}

int encode_event(struct encode_buffer *buffer, const char *name, uint64_t unix_ns)
{
	Sonde__Frame frame = SONDE__FRAME__INIT;
	Sonde__Event event = SONDE__EVENT__INIT;
	char text[ENCODE_EVENT_MAX];

	encode_text(text, sizeof(text), name, strnlen(name, sizeof(text)));
	event.name = text;
	event.unix_ns = unix_ns;
	frame.body_case = SONDE__FRAME__BODY_EVENT;
	frame.event = &event;
	return encode_frame(buffer, &frame);
}

static uint64_t *encode_words(struct encode_arena *arena, const uint64_t *words, size_t count)
{
	uint64_t *copy = encode_alloc(arena, count, sizeof(*copy));

	return copy ? memcpy(copy, words, count * sizeof(*copy)) : NULL;
}

static Sonde__Self *self_message(struct encode_arena *arena, const struct self_report *from)
{
	Sonde__Self *self = encode_alloc(arena, 1, sizeof(*self));
	Sonde__Drop **drops = encode_alloc_messages(arena, from->drop_count, sizeof(**drops));
	Sonde__StackEnd **ends = encode_alloc_messages(arena, from->end_count, sizeof(**ends));

	if (!self || !drops || !ends)
		return NULL;
	sonde__self__init(self);
	self->process_cpu_ns = from->process_cpu_ns;
	self->agent_cpu_ns = from->agent_cpu_ns;
	self->handler_ns = from->handler_ns;
	self->samples = from->samples;
	self->waits = from->waits;
	self->threads = from->threads;
	self->hz = from->hz;
	self->signal_ns = from->signal_ns;
	self->hooks_ns = from->hooks_ns;
	self->sampling_ns = from->sampling_ns;
	self->step = from->step;
	self->budget_permille = from->budget_permille;
	self->look_hz = from->look_hz;
	self->wire_bytes = from->wire_bytes;
	self->n_memory = self->n_memory_max = ENCODE_MEMORY_PARTS;
	self->memory = encode_words(arena, from->memory, ENCODE_MEMORY_PARTS);
	self->memory_max = encode_words(arena, from->memory_max, ENCODE_MEMORY_PARTS);
	if (!self->memory || !self->memory_max)
		return NULL;
	for (unsigned i = 0; i < ENCODE_MEMORY_PARTS; i++)
		self->memory_bytes += from->memory[i];
	/* What has not happened need not be said every second: a cause costs more bytes than ten rows. */
	for (unsigned i = 0; i < from->drop_count; i++) {
		Sonde__Drop *drop = drops[self->n_drops];

		if (from->drops[i].count == 0)
			continue;
		sonde__drop__init(drop);
		drop->cause = encode_string(from->drops[i].cause);
		drop->count = from->drops[i].count;
		self->n_drops++;
	}
	self->drops = drops;
	for (unsigned i = 0; i < from->end_count; i++) {
		Sonde__StackEnd *end = ends[self->n_ends];

		if (from->ends[i].count == 0)
			continue;
		sonde__stack_end__init(end);
		end->how = encode_string(from->ends[i].how);
		end->count = from->ends[i].count;
		self->n_ends++;
	}
	self->ends = ends;
	return self;
}

int encode_window(struct encode_buffer *buffer, struct encode_arena *arena, Sonde__Window *window,
		  const struct self_report *self)
{
	Sonde__Frame frame = SONDE__FRAME__INIT;

	if (self) {
		window->self = self_message(arena, self);
		if (!window->self)
			return -ENOMEM;
	}
	frame.body_case = SONDE__FRAME__BODY_WINDOW;
	frame.window = window;
	return encode_frame(buffer, &frame);
}
