/* SPDX-License-Identifier: MIT
 *
 * A fixed pool of equal elements with a lock-free stack of the free ones. Elements lie in memory that is mapped once and
 * touched only when used: fresh ones are handed out in order, freed ones are reused last-in first-out, so a program with
 * ten connections touches ten elements however large the cap is. Any thread; never waits, never allocates.
 *
 * The stack's head carries a tag that grows with every change, so a slow thread cannot mistake a reused element for the
 * one it saw (the ABA problem). Every element begins with a struct pool_link.
 */
#ifndef AGENT_POOL_H
#define AGENT_POOL_H

#include <stdatomic.h>
#include <stdint.h>

enum {
	POOL_NONE = 0
}; /* indices count from 1 */

struct pool_link {
	_Atomic uint32_t next;
};

struct pool {
	/* constant after start */
	uint32_t cap, stride;
	char *elements;

	/* any thread; on a line of its own, for who only looks an element up */
	_Atomic uint64_t head
		__attribute__((aligned(64))); /* tag << 32 | index of the first free element */
	_Atomic uint32_t fresh;               /* elements handed out at least once */
	_Atomic uint64_t refused;
};

/** Use @elements, zeroed memory for @cap elements of @stride bytes. Context: agent start, one thread. */
void pool_init(struct pool *pool, void *elements, uint32_t cap, uint32_t stride);

/** The index of a free element, or POOL_NONE and pool->refused grows. Its content is what its last user left. */
uint32_t pool_take(struct pool *pool);

/** Give @index back. */
void pool_give(struct pool *pool, uint32_t index);

/** Give back @first and all that its links lead to, up to @last, in one go. */
void pool_give_chain(struct pool *pool, uint32_t first, uint32_t last);

/** Push @index on a stack of its own kind, @head, for another thread to take whole. */
void pool_push(const struct pool *pool, _Atomic uint64_t *head, uint32_t index);

/** Empty the stack @head: the index pushed last, whose links lead to the others. */
uint32_t pool_take_all(_Atomic uint64_t *head);

static inline void *pool_at(const struct pool *pool, uint32_t index)
{
	return pool->elements + (uint64_t)(index - 1) * pool->stride;
}

static inline uint32_t pool_index(const struct pool *pool, const void *element)
{
	return (uint32_t)((uint64_t)((const char *)element - pool->elements) / pool->stride) + 1;
}

#endif
