/* SPDX-License-Identifier: MIT
 *
 * See ended.h.
 */
#include "agent/hook/ended.h"

#include <string.h>

static enum state longest(const uint64_t ns[SLICE_WAITS])
{
	unsigned best = 0;

	for (unsigned i = 1; i < SLICE_WAITS; i++)
		if (ns[i] > ns[best])
			best = i;
	return (enum state)(IO + best);
}

static char *put(char *to, const char *text, size_t room)
{
	size_t len = strnlen(text, room - 1);

	memcpy(to, text, len);
	to[len] = '\0';
	return to + len + 1;
}

uint32_t ended_write(struct ended_record *to, const struct request *r, request_id id)
{
	unsigned labels = atomic_load_explicit(&r->labels, memory_order_relaxed), states = 0, n = 0;
	const struct told *told = request_told(r);
	const char *name = request_name(r);
	char *text;
	uint32_t len;

	for (unsigned i = 0; i < STATES; i++) {
		if (!r->ledger_ns[i])
			continue;
		states |= 1u << i;
		to->ledger_ns[n++] = r->ledger_ns[i];
	}
	to->id = id;
	to->end_ns = r->end_ns;
	to->latency_ns = r->end_ns - r->arrival_ns;
	to->status = (uint16_t)r->status;
	to->states = (uint8_t)states;
	to->event_state = (uint8_t)(r->was_parked ? longest(r->event_wait_ns) : IO);
	to->failed = r->failed;
	to->named = name != NULL;
	to->labels = (uint8_t)(told ? labels : 0);
	text = put((char *)&to->ledger_ns[n], r->head.method, sizeof r->head.method);
	text = put(text, name ? name : r->head.path, REQUEST_NAME_BYTES);
	for (unsigned i = 0; i < to->labels; i++) {
		text = put(text, told->label_key[i], LABEL_KEY_BYTES);
		text = put(text, told->label_value[i], LABEL_VALUE_BYTES);
	}
	len = (uint32_t)(text - (char *)to + 7) / 8 * 8;
	to->record = (struct ring_record){ .len = len, .kind = RECORD_ENDED };
	return len;
}

static const char *next(const char **text)
{
	const char *at = *text;

	*text += strlen(at) + 1;
	return at;
}

void ended_read(const struct ended_record *from, struct ended *to)
{
	unsigned n = 0;
	const char *text;

	*to = (struct ended){ .id = from->id,
			      .end_ns = from->end_ns,
			      .latency_ns = from->latency_ns,
			      .status = from->status,
			      .event_state = from->event_state,
			      .failed = from->failed,
			      .named = from->named,
			      .labels = from->labels };
	for (unsigned i = 0; i < STATES; i++)
		if (from->states >> i & 1)
			to->ledger_ns[i] = from->ledger_ns[n++];
	text = (const char *)&from->ledger_ns[n];
	to->method = next(&text);
	to->path = next(&text);
	for (unsigned i = 0; i < to->labels; i++) {
		to->label_key[i] = next(&text);
		to->label_value[i] = next(&text);
	}
}
