/* SPDX-License-Identifier: MIT
 *
 * A request that ended, on its way to the agent's thread: one record of the ring of the thread that ended it. So the slot
 * of a request stays with the core that uses it; what crosses over is a line and a half, written once and in order.
 */
#ifndef AGENT_ENDED_H
#define AGENT_ENDED_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/hook/request.h"

enum {
	RECORD_ENDED = 1
};

_Static_assert((int)REQUEST_NAME_BYTES == (int)HTTP_PATH_MAX, "a name lies where a path does");

struct ended_record {
	struct ring_record record;
	request_id id;
	uint64_t end_ns, latency_ns;
	uint16_t status;
	uint8_t states; /* a bit for each state that is not 0 */
	uint8_t event_state;
	uint8_t failed, named;
	uint8_t labels;
	uint64_t ledger_ns
		[STATES]; /* of those alone; then strings: method, path or name, and per label key and value */
};

/* The longest: every state, every string at its longest. */
#define ENDED_BYTES_MAX                                                                            \
  ((uint32_t)(sizeof(struct ended_record) + HTTP_METHOD_MAX + 1 + REQUEST_NAME_BYTES +             \
	      REQUEST_LABELS * (LABEL_KEY_BYTES + LABEL_VALUE_BYTES) + 7) /                        \
   8 * 8)

/** Write @r, called @id, into @to, which has room for ENDED_BYTES_MAX. Context: hook. Returns the bytes used. */
uint32_t ended_write(struct ended_record *to, const struct request *r, request_id id);

/* A record unpacked; the strings lie in the record. */
struct ended {
	request_id id;
	uint64_t end_ns, latency_ns;
	uint64_t ledger_ns[STATES];
	uint32_t status;
	enum state event_state;
	bool failed, named;
	unsigned labels;
	const char *method, *path; /* named: the name is in path */
	const char *label_key[REQUEST_LABELS], *label_value[REQUEST_LABELS];
};

/** Context: agent. */
void ended_read(const struct ended_record *from, struct ended *to);

#endif
