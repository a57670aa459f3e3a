/* SPDX-License-Identifier: MIT
 *
 * Frames of the wire (include/sonde.proto) as bytes: 4 bytes of little-endian length, then one packed Frame.
 *
 * Here live what every sender shares: a growing buffer, an arena whose content dies with the frame that was built in
 * it, text made fit for protobuf, and the messages that belong to no one else (Hello, Event, the window's envelope).
 */
#ifndef AGENT_CORE_ENCODE_H
#define AGENT_CORE_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sonde.pb-c.h"

struct identity;

enum {
	ENCODE_PROTOCOL = 1,
	ENCODE_PREFIX_BYTES = 4,
	ENCODE_FRAME_MAX =
		16 << 20, /* bytes of one frame; what is larger is refused with -EMSGSIZE */
	ENCODE_ARENA_CHUNK = 64 << 10,
	ENCODE_EVENT_MAX = 512, /* bytes of an event's name */
};

struct encode_buffer {
	uint8_t *bytes;
	size_t used, room;
};

/** Make room for @more bytes. Context: agent. Returns 0 or -ENOMEM. */
int encode_reserve(struct encode_buffer *buffer, size_t more);

/** Free what @buffer holds and leave it empty and usable. Context: agent. */
void encode_buffer_fini(struct encode_buffer *buffer);

/** Bump allocator: zero-initialise it, allocate, free all at once. */
struct encode_arena {
	struct encode_chunk *chunk; /* newest first */
	size_t used, room;          /* of the newest */
};

/** Zeroed memory, aligned for any type, until encode_arena_fini(). Context: agent. NULL: out of memory. */
void *encode_alloc(struct encode_arena *arena, size_t count, size_t bytes);

/** @count messages of @bytes each, and the array of pointers to them that protobuf-c wants. NULL: out of memory. */
void *encode_alloc_messages(struct encode_arena *arena, size_t count, size_t bytes);

/** Free everything. Context: agent. */
void encode_arena_fini(struct encode_arena *arena);

/** protobuf-c's strings are not const although it only reads them when it packs. Context: any. */
static inline char *encode_string(const char *text)
{
	return (char *)(uintptr_t)text;
}

/**
 * Copy @in_bytes of text, as valid UTF-8 without control characters, ended by a 0 byte.
 *
 * Each byte that is not allowed becomes '?'. What does not fit in @out_bytes is cut between characters.
 * Context: any; pure. Returns the length written.
 */
size_t encode_text(char *out, size_t out_bytes, const char *in, size_t in_bytes);

/** Append @frame with its length. Context: agent. Returns 0, -ENOMEM or -EMSGSIZE; @buffer is then as before. */
int encode_frame(struct encode_buffer *buffer, const Sonde__Frame *frame);

/** Append a Hello with the clocks as they are now. Context: agent. Returns as encode_frame(). */
int encode_hello(struct encode_buffer *buffer, const struct identity *self);

/** Append an Event; @name may be any bytes, ENCODE_EVENT_MAX of them count. Context: agent. Returns as encode_frame(). */
int encode_event(struct encode_buffer *buffer, const char *name, uint64_t unix_ns);

enum {
	ENCODE_MEMORY_PARTS = SONDE__MEMORY_PART__MEMORY_AGENT + 1
};

struct self_drop {
	const char *cause;
	uint64_t count; /* since the start of the instance */
};

struct self_end {
	const char *how;
	uint64_t count;
};

/* The agent about itself, over one window: message Self. Strings and arrays are the caller's. */
struct self_report {
	uint64_t process_cpu_ns, agent_cpu_ns, handler_ns;
	uint64_t signal_ns, hooks_ns, sampling_ns;
	uint64_t samples, waits, wire_bytes;
	uint64_t memory[ENCODE_MEMORY_PARTS], memory_max[ENCODE_MEMORY_PARTS]; /* by MemoryPart */
	uint32_t threads, hz, look_hz, step, budget_permille;
	const struct self_drop *drops;
	unsigned drop_count;
	const struct self_end *ends;
	unsigned end_count;
};

/**
 * Append Frame{window}. @window has rows and routes set by the caller; @self (may be NULL) is built in @arena.
 * Context: agent. Returns as encode_frame().
 */
int encode_window(struct encode_buffer *buffer, struct encode_arena *arena, Sonde__Window *window,
		  const struct self_report *self);

#endif
