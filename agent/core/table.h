/* SPDX-License-Identifier: MIT
 *
 * A hash table whose entries have small numbers: 1, 2, 3, ... in the order of their making, 0 is none.
 *
 * The entries lie in one array that grows by doubling up to a cap, so that a table that is warm never allocates. Keys are
 * the user's business: walk the chain of a hash and compare. Adding moves the entries: hold numbers, not pointers.
 * Single thread (the agent's).
 */
#ifndef AGENT_CORE_TABLE_H
#define AGENT_CORE_TABLE_H

#include <stddef.h>
#include <stdint.h>

struct table_link {
	uint32_t hash;
	uint32_t next;
};

struct table {
	uint8_t *entries;
	struct table_link *links;
	uint32_t *heads; /* head_count is a power of two */
	size_t entry_bytes;
	uint32_t head_count;
	uint32_t room, max; /* entries: allocated, allowed */
	uint32_t used;      /* highest number handed out since the last clear */
	uint32_t live;      /* used without the removed ones */
	uint32_t free;      /* removed entries, chained by links */
};

/** @max: cap on the number of entries. Allocates nothing yet. Context: agent. */
void table_init(struct table *t, size_t entry_bytes, uint32_t max);
void table_fini(struct table *t);

/** A new zeroed entry under @hash. Context: agent. Returns its number, 0: cap reached or out of memory. */
uint32_t table_add(struct table *t, uint32_t hash);

/** Take entry @number out; its number may come again. Context: agent. */
void table_remove(struct table *t, uint32_t number);

/** Forget all entries, keep the memory. Context: agent. */
void table_clear(struct table *t);

/** Bytes allocated. */
size_t table_bytes(const struct table *t);

static inline void *table_entry(const struct table *t, uint32_t number)
{
	return t->entries + (size_t)number * t->entry_bytes;
}

/* The next entry under @hash from @number on. */
static inline uint32_t table_same(const struct table *t, uint32_t number, uint32_t hash)
{
	while (number && t->links[number].hash != hash)
		number = t->links[number].next;
	return number;
}

/** The first entry under @hash, 0: none. */
static inline uint32_t table_first(const struct table *t, uint32_t hash)
{
	return t->head_count ? table_same(t, t->heads[hash & (t->head_count - 1)], hash) : 0;
}

/** The entry after @number under the same hash, 0: none. */
static inline uint32_t table_next(const struct table *t, uint32_t number)
{
	return table_same(t, t->links[number].next, t->links[number].hash);
}

/** Stir one more word into a hash; begin with 0. */
static inline uint64_t table_mix(uint64_t hash, uint64_t word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
	return hash ^ hash >> 32;
}

#endif
