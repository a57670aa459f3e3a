/* SPDX-License-Identifier: MIT
 *
 * See ring.h.
 */
#include "agent/sig/ring.h"

#include <stddef.h>

static struct ring_record *record_at(const struct ring *ring, uint64_t position)
{
	return (struct ring_record *)(void *)(ring->bytes + (position & (ring->size - 1)));
}

void *ring_reserve(struct ring *ring, uint32_t len)
{
	uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
	uint32_t to_end = ring->size - (uint32_t)(head & (ring->size - 1));
	uint32_t pad = to_end < len ? to_end : 0;

	if (head + pad + len - tail > ring->size) {
		atomic_store_explicit(&ring->lost,
				      atomic_load_explicit(&ring->lost, memory_order_relaxed) + 1,
				      memory_order_relaxed);
		return NULL;
	}
	if (pad) {
		*record_at(ring, head) = (struct ring_record){ .len = pad, .kind = RING_PAD };
		atomic_store_explicit(&ring->head, head + pad, memory_order_release);
	}
	return record_at(ring, head + pad);
}

void ring_commit(struct ring *ring, uint32_t len)
{
	uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);

	record_at(ring, head)->len = len;
	atomic_store_explicit(&ring->head, head + len, memory_order_release);
}

const void *ring_peek(struct ring *ring, uint32_t *len)
{
	uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

	for (;;) {
		uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
		const struct ring_record *record;

		if (head == tail)
			return NULL;
		record = record_at(ring, tail);
		if (record->kind != RING_PAD) {
			*len = record->len;
			return record;
		}
		tail += record->len;
		atomic_store_explicit(&ring->tail, tail, memory_order_release);
	}
}

void ring_pop(struct ring *ring, uint32_t len)
{
	uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

	atomic_store_explicit(&ring->tail, tail + len, memory_order_release);
}
