/* SPDX-License-Identifier: MIT
 *
 * The bounded queue of frames between the windows' making and the collector's word that they are stored.
 *
 *	head ── sent, not acknowledged ── ... ── unsent ── ... ── tail
 *
 * When room is short the oldest goes. One that had been sent may be stored all the same: it counts as lost only when the
 * next connection's Welcome does not know it. So `lost` never overstates and never shrinks. Single thread (the agent's).
 */
#ifndef AGENT_CORE_SPOOL_H
#define AGENT_CORE_SPOOL_H

#include <stddef.h>
#include <stdint.h>

enum {
	SPOOL_DROPPED_SENT = 256, /* numbers remembered; an older one is taken for lost */
};

struct spool_frame {
	struct spool_frame *next;
	uint64_t seq; /* of a window; 0: a frame that is not acknowledged */
	uint8_t *bytes;
	size_t length;
};

struct spool {
	struct spool_frame *head, *tail, *unsent;
	size_t bytes, bytes_max; /* with the frames' own heads */
	unsigned frames;
	uint64_t sent_seq;   /* highest ever sent */
	uint64_t lost;       /* windows */
	uint64_t lost_other; /* frames that are no windows */
	uint64_t dropped_sent[SPOOL_DROPPED_SENT];
	unsigned dropped_next;
};

void spool_init(struct spool *s, size_t bytes_max);
void spool_fini(struct spool *s);

/** @bytes: from malloc, ours from now on. Returns 0, -ENOSPC when it can never fit, -ENOMEM; then it is lost and counted. */
int spool_add(struct spool *s, uint8_t *bytes, size_t length, uint64_t seq);

/** The frame at s->unsent has gone out. One without a number is done with. */
void spool_sent(struct spool *s);

/** Window @seq is stored. */
void spool_stored(struct spool *s, uint64_t seq);

/** A new connection: windows up to @stored_seq are stored, all others have to go out again. */
void spool_restart(struct spool *s, uint64_t stored_seq);

/** Drop the oldest frame. */
void spool_drop(struct spool *s);

/** Drop everything, counted as lost. */
void spool_drop_all(struct spool *s);

#endif
