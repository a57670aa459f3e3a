/* SPDX-License-Identifier: MIT
 *
 * A byte ring with one producer (a thread's sampling signal) and one consumer (the agent's thread). Records are
 * contiguous multiples of 8 bytes; where one does not fit before the end, a pad record fills the rest. Wait-free.
 *
 *	+--------+--------------+-----+        head: where the producer writes next, tail: where the consumer reads next;
 *	| record | record       | pad |        both only grow, their low bits are the place
 *	+--------+--------------+-----+
 */
#ifndef AGENT_RING_H
#define AGENT_RING_H

#include <stdatomic.h>
#include <stdint.h>

struct ring {
	/* producer stores (release), consumer loads (acquire) */
	_Atomic uint64_t head;
	_Atomic uint64_t lost; /* records refused because the ring was full */
	/* consumer stores (release), producer loads (acquire) */
	_Atomic uint64_t tail __attribute__((aligned(64)));
	/* constant after start */
	char *bytes;
	uint32_t size; /* power of two */
};

/** Room for a record of at most @len bytes (a multiple of 8), or NULL and ring->lost grows. Context: signal. */
void *ring_reserve(struct ring *ring, uint32_t len);

/** Publish the @len bytes (a multiple of 8, at most what was reserved, at least 8) written there. Context: signal. */
void ring_commit(struct ring *ring, uint32_t len);

/** The oldest record and its length, or NULL when there is none. Context: agent. */
const void *ring_peek(struct ring *ring, uint32_t *len);

/** Done with the record that ring_peek() returned. Context: agent. */
void ring_pop(struct ring *ring, uint32_t len);

/* Every record begins so. */
struct ring_record {
	uint32_t len;  /* of the whole record */
	uint32_t kind; /* RING_PAD or the user's own, from 1 */
};
enum {
	RING_PAD = 0
};

#endif
