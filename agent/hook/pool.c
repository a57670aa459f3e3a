/* SPDX-License-Identifier: MIT
 *
 * See pool.h. Every compare-and-swap that publishes an element is a release, every one that takes it an acquire.
 */
#include "agent/hook/pool.h"

static struct pool_link *link_of(const struct pool *pool, uint32_t index)
{
	return pool_at(pool, index);
}

static uint64_t next_head(uint64_t head, uint32_t index)
{
	return ((head >> 32) + 1) << 32 | index;
}

void pool_init(struct pool *pool, void *elements, uint32_t cap, uint32_t stride)
{
	pool->elements = elements;
	pool->cap = cap;
	pool->stride = stride;
}

uint32_t pool_take(struct pool *pool)
{
	uint64_t head = atomic_load_explicit(&pool->head, memory_order_acquire);
	uint32_t index;

	while ((index = (uint32_t)head) != POOL_NONE) {
		uint32_t next =
			atomic_load_explicit(&link_of(pool, index)->next, memory_order_relaxed);

		if (atomic_compare_exchange_weak_explicit(&pool->head, &head, next_head(head, next),
							  memory_order_acquire,
							  memory_order_acquire))
			return index;
	}
	index = atomic_load_explicit(&pool->fresh, memory_order_relaxed);
	while (index < pool->cap)
		if (atomic_compare_exchange_weak_explicit(&pool->fresh, &index, index + 1,
							  memory_order_relaxed,
							  memory_order_relaxed))
			return index + 1;
	atomic_fetch_add_explicit(&pool->refused, 1, memory_order_relaxed);
	return POOL_NONE;
}

void pool_give(struct pool *pool, uint32_t index)
{
	pool_push(pool, &pool->head, index);
}

static void push_chain(const struct pool *pool, _Atomic uint64_t *head, uint32_t first,
		       uint32_t last)
{
	uint64_t old = atomic_load_explicit(head, memory_order_relaxed);

	do {
		atomic_store_explicit(&link_of(pool, last)->next, (uint32_t)old,
				      memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(
		head, &old, next_head(old, first), memory_order_release, memory_order_relaxed));
}

void pool_give_chain(struct pool *pool, uint32_t first, uint32_t last)
{
	push_chain(pool, &pool->head, first, last);
}

void pool_push(const struct pool *pool, _Atomic uint64_t *head, uint32_t index)
{
	push_chain(pool, head, index, index);
}

uint32_t pool_take_all(_Atomic uint64_t *head)
{
	uint64_t old = atomic_load_explicit(head, memory_order_acquire);

	while ((uint32_t)old != POOL_NONE)
		if (atomic_compare_exchange_weak_explicit(head, &old, next_head(old, POOL_NONE),
							  memory_order_acquire,
							  memory_order_acquire))
			break;
	return (uint32_t)old;
}
