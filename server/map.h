/* SPDX-License-Identifier: MIT
 *
 * A hash map from uint64_t to uint32_t, open addressing, grows by doubling; nothing is ever removed. For the many small
 * indexes of a query. Context: server, one thread at a time.
 */
#ifndef SERVER_MAP_H
#define SERVER_MAP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

enum {
	MAP_NONE = UINT32_MAX
};

struct map {
	struct map_entry {
		uint64_t key;
		uint32_t value; /* MAP_NONE: free */
	} * entries;
	uint32_t size, count; /* size: a power of two or 0 */
};

static inline struct map_entry *map_slot(const struct map *map, uint64_t key)
{
	uint64_t hash = key * 0x9e3779b97f4a7c15u;
	uint32_t i = (uint32_t)(hash >> 32) & (map->size - 1);

	while (map->entries[i].value != MAP_NONE && map->entries[i].key != key)
		i = (i + 1) & (map->size - 1);
	return &map->entries[i];
}

/** The value of @key, or MAP_NONE. */
static inline uint32_t map_get(const struct map *map, uint64_t key)
{
	return map->size ? map_slot(map, key)->value : (uint32_t)MAP_NONE;
}

/** Sets @key to @value (not MAP_NONE). False when out of memory. */
static inline bool map_set(struct map *map, uint64_t key, uint32_t value)
{
	struct map_entry *slot;

	if (map->count >= map->size / 2) {
		struct map bigger = { .size = map->size ? map->size * 2 : 64 };

		if (bigger.size == 0)
			return false;
		bigger.entries = malloc(bigger.size * sizeof(*bigger.entries));
		if (!bigger.entries)
			return false;
		for (uint32_t i = 0; i < bigger.size; i++)
			bigger.entries[i] = (struct map_entry){ 0, MAP_NONE };
		for (uint32_t i = 0; i < map->size; i++) {
			if (map->entries[i].value != MAP_NONE)
				*map_slot(&bigger, map->entries[i].key) = map->entries[i];
		}
		bigger.count = map->count;
		free(map->entries);
		*map = bigger;
	}
	slot = map_slot(map, key);
	map->count += slot->value == MAP_NONE;
	*slot = (struct map_entry){ key, value };
	return true;
}

static inline void map_fini(struct map *map)
{
	free(map->entries);
	*map = (struct map){ 0 };
}

/** FNV-1a of a string, to chain: start with map_hash("", 0). */
static inline uint64_t map_hash(const char *text, uint64_t seed)
{
	uint64_t hash = seed ? seed : 0xcbf29ce484222325u;

	do
		hash = (hash ^ (uint8_t)*text) * 0x100000001b3u;
	while (*text++);
	return hash;
}

#endif
