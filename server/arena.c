/* SPDX-License-Identifier: MIT
 *
 * A bounded bump allocator; see arena.h.
 */
#include "server/arena.h"

#include <stdlib.h>

enum {
	CHUNK_BYTES = 64 * 1024
};

struct arena_chunk {
	struct arena_chunk *next;
	size_t size, used;
	_Alignas(16) uint8_t bytes[];
};

static void *allocator_alloc(void *arena, size_t bytes)
{
	return arena_alloc(arena, bytes);
}

static void allocator_free(void *arena, void *pointer)
{
	(void)arena;
	(void)pointer;
}

void arena_init(struct arena *arena, size_t cap_bytes)
{
	*arena = (struct arena){ .cap_bytes = cap_bytes };
	arena->allocator = (ProtobufCAllocator){ allocator_alloc, allocator_free, arena };
}

void arena_fini(struct arena *arena)
{
	while (arena->chunks) {
		struct arena_chunk *next = arena->chunks->next;

		free(arena->chunks);
		arena->chunks = next;
	}
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
	struct arena_chunk *chunk = arena->chunks;
	size_t size;
	void *result;

	if (bytes > arena->cap_bytes - arena->used_bytes)
		return NULL;
	bytes = (bytes + 15) & ~(size_t)15;
	if (!chunk || bytes > chunk->size - chunk->used) {
		size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
		chunk = malloc(sizeof(*chunk) + size);
		if (!chunk)
			return NULL;
		*chunk = (struct arena_chunk){ .next = arena->chunks, .size = size };
		arena->chunks = chunk;
	}
	result = chunk->bytes + chunk->used;
	chunk->used += bytes;
	arena->used_bytes += bytes;
	if (arena->used_bytes > arena->cap_bytes)
		arena->used_bytes = arena->cap_bytes;
	return result;
}

void arena_reset(struct arena *arena)
{
	struct arena_chunk *keep = NULL;

	while (arena->chunks) {
		struct arena_chunk *chunk = arena->chunks;

		arena->chunks = chunk->next;
		if (!keep && chunk->size == CHUNK_BYTES) {
			keep = chunk;
			continue;
		}
		free(chunk);
	}
	if (keep) {
		keep->next = NULL;
		keep->used = 0;
	}
	arena->chunks = keep;
	arena->used_bytes = 0;
}
