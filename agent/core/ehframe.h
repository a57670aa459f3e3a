/* SPDX-License-Identifier: MIT
 *
 * Digests the .eh_frame of one module into the rows that sig/unwind.h walks with. Pure: bytes in, rows out. The bytes may
 * be anything; nothing outside of them is read.
 *
 * Threads: the agent's own; no state is kept.
 */
#ifndef AGENT_CORE_EHFRAME_H
#define AGENT_CORE_EHFRAME_H

#include "agent/sig/unwind.h"

#define EHFRAME_ROWS_MAX  (4u << 20) /* of one module: 32 MiB, 400 MiB of code or so */
#define EHFRAME_WIDE_MAX  (1u << 16) /* different wide rules of one module */
#define EHFRAME_FDES_MAX  (2u << 20) /* functions of one module */
#define EHFRAME_BYTES_MAX (128u << 20)

/* A piece of the module and the address where it is mapped. */
struct ehframe_bytes {
	const uint8_t *data;
	size_t size;
	uintptr_t address;
};

/* What was digested, and what could not be. */
struct ehframe_counts {
	uint64_t functions; /* descriptions digested */
	uint64_t
		malformed; /* descriptions skipped or cut short: not as the format says, or out of range */
	uint64_t exotic; /* rows whose rule a table cannot express: UNWIND_NONE */
	uint64_t
		refused; /* descriptions beyond EHFRAME_FDES_MAX, EHFRAME_ROWS_MAX or EHFRAME_WIDE_MAX */
};

struct ehframe_rows {
	struct unwind_row *row;
	uint32_t *page; /* as struct unwind_span */
	struct unwind_wide *wide;
	struct unwind_row *bx;
	uint32_t n_rows, n_wide, n_bx;
	size_t bytes; /* memory of the four */
	struct ehframe_counts counts;
};

/**
 * The address of .eh_frame, as @hdr (what PT_GNU_EH_FRAME covers) gives it.
 *
 * Context: any. Returns 0, or -EINVAL.
 */
int ehframe_locate(const struct ehframe_bytes *hdr, uintptr_t *address);

/**
 * Digest @frames, which begins with .eh_frame and may go on after it, for code in [@low, @high).
 *
 * @hdr: its search table says where the descriptions are; without one (size 0 allowed) .eh_frame is read in order.
 * @out is filled for ehframe_fini(); on failure it is empty.
 * Context: agent.
 * Returns 0, -EINVAL when nothing in it makes sense or the range is empty or 4 GiB, -ENOMEM.
 */
int ehframe_digest(const struct ehframe_bytes *hdr, const struct ehframe_bytes *frames,
		   uintptr_t low, uintptr_t high, struct ehframe_rows *out);

void ehframe_fini(struct ehframe_rows *rows);

#endif
