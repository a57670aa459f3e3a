/* SPDX-License-Identifier: MIT
 *
 * Memory for one message: handed out by moving a pointer, given back all at once, never more than a cap. The cap is what
 * stops a small hostile message from unpacking into gigabytes: the unpacker just sees malloc fail.
 * Context: server, one thread at a time.
 */
#ifndef SERVER_ARENA_H
#define SERVER_ARENA_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

struct arena_chunk;

struct arena {
	struct arena_chunk *chunks; /* newest first */
	size_t used_bytes, cap_bytes;
	ProtobufCAllocator
		allocator; /* for the unpack functions; what it gives is freed by arena_reset() only */
};

void arena_init(struct arena *arena, size_t cap_bytes);
void arena_fini(struct arena *arena);

/** @bytes, 16-aligned, not zeroed; NULL past the cap or when out of memory. */
void *arena_alloc(struct arena *arena, size_t bytes);

/** Give back all; keeps one small chunk for the next message. */
void arena_reset(struct arena *arena);

#endif
