/* SPDX-License-Identifier: MIT
 *
 * See spool.h. Runs on the agent's thread only.
 */
#include "agent/core/spool.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static size_t frame_bytes(size_t length)
{
	return length + sizeof(struct spool_frame);
}

void spool_init(struct spool *s, size_t bytes_max)
{
	*s = (struct spool){ .bytes_max = bytes_max };
}

/* Unlink the frame after @before (NULL: the head) and free it. */
static void release(struct spool *s, struct spool_frame *before)
{
	struct spool_frame **link = before ? &before->next : &s->head;
	struct spool_frame *frame = *link;

	*link = frame->next;
	if (s->tail == frame)
		s->tail = before;
	if (s->unsent == frame)
		s->unsent = frame->next;
	s->bytes -= frame_bytes(frame->length);
	s->frames--;
	free(frame->bytes);
	free(frame);
}

void spool_drop(struct spool *s)
{
	uint64_t *remembered = &s->dropped_sent[s->dropped_next % SPOOL_DROPPED_SENT];

	if (s->head->seq == 0) {
		s->lost_other++;
	} else if (s->head == s->unsent) {
		s->lost++;
	} else {
		s->lost += *remembered != 0;
		*remembered = s->head->seq;
		s->dropped_next++;
	}
	release(s, NULL);
}

void spool_drop_all(struct spool *s)
{
	while (s->head)
		spool_drop(s);
}

void spool_fini(struct spool *s)
{
	spool_drop_all(s);
}

int spool_add(struct spool *s, uint8_t *bytes, size_t length, uint64_t seq)
{
	bool fits = frame_bytes(length) <= s->bytes_max;
	struct spool_frame *frame = fits ? malloc(sizeof(*frame)) : NULL;

	if (!frame) {
		free(bytes);
		if (seq)
			s->lost++;
		else
			s->lost_other++;
		return fits ? -ENOMEM : -ENOSPC;
	}
	while (s->bytes + frame_bytes(length) > s->bytes_max)
		spool_drop(s);
	*frame = (struct spool_frame){ .bytes = bytes, .length = length, .seq = seq };
	if (s->tail)
		s->tail->next = frame;
	else
		s->head = frame;
	s->tail = frame;
	if (!s->unsent)
		s->unsent = frame;
	s->bytes += frame_bytes(length);
	s->frames++;
	return 0;
}

void spool_sent(struct spool *s)
{
	struct spool_frame *frame = s->unsent, *before = NULL;

	if (frame->seq > s->sent_seq)
		s->sent_seq = frame->seq;
	if (frame->seq) {
		s->unsent = frame->next;
		return;
	}
	if (frame != s->head)
		for (before = s->head; before->next != frame;)
			before = before->next;
	release(s, before);
}

void spool_stored(struct spool *s, uint64_t seq)
{
	struct spool_frame *before = NULL, *frame = s->head;

	for (; frame && frame->seq != seq; frame = frame->next)
		before = frame;
	if (frame)
		release(s, before);
	for (unsigned i = 0; !frame && i < SPOOL_DROPPED_SENT; i++)
		if (s->dropped_sent[i] == seq)
			s->dropped_sent[i] = 0;
}

void spool_restart(struct spool *s, uint64_t stored_seq)
{
	struct spool_frame *before = NULL, *frame, *next;

	for (frame = s->head; frame; frame = next) {
		next = frame->next;
		if (frame->seq && frame->seq <= stored_seq)
			release(s, before);
		else
			before = frame;
	}
	for (unsigned i = 0; i < SPOOL_DROPPED_SENT; i++)
		s->lost += s->dropped_sent[i] > stored_seq;
	memset(s->dropped_sent, 0, sizeof(s->dropped_sent));
	s->unsent = s->head;
}
