/* SPDX-License-Identifier: MIT
 *
 * Fuzzes the digest of .eh_frame (agent/core/ehframe.c), and walks a stack of garbage with what came out of it.
 *
 * Input: four little-endian u32 {address of .eh_frame_hdr, its size, address of .eh_frame, address of the code}, then the
 * bytes of .eh_frame_hdr, then those of .eh_frame.
 */
#include "agent/core/ehframe.h"
#include "tests/fuzz/replay.h"

#define CODE_BYTES 0x20000u

static void no_release(struct unwind_table *table)
{
	(void)table;
}

/* What sig/unwind.h relies on. */
static void check_rows(const struct ehframe_rows *r)
{
	FUZZ_CHECK(r->n_rows >= 1 && r->row[0].pc == 0);
	for (uint32_t i = 0; i < r->n_rows; i++) {
		uint32_t kind = r->row[i].rule & UNWIND_KIND_MASK;

		FUZZ_CHECK(i == 0 || (r->row[i].pc > r->row[i - 1].pc &&
				      r->row[i].rule != r->row[i - 1].rule));
		FUZZ_CHECK(r->row[i].pc <= CODE_BYTES && kind <= UNWIND_NONE);
		FUZZ_CHECK(kind != UNWIND_WIDE || r->row[i].rule >> UNWIND_ARG_SHIFT < r->n_wide);
	}
	for (uint32_t i = 0; i < (CODE_BYTES >> UNWIND_PAGE_SHIFT) + 2; i++)
		FUZZ_CHECK(r->page[i] < r->n_rows && (i == 0 || r->page[i] >= r->page[i - 1]));
}

/* Every return address on the stack is somewhere in the code, every frame pointer somewhere on the stack. */
static void walk_garbage(const struct ehframe_rows *r, uintptr_t code, const uint8_t *data,
			 size_t size)
{
	struct unwind_table *table = calloc(1, sizeof(*table) + sizeof(table->span[0]));
	uintptr_t words[128], pcs[64];
	struct unwind_stack stack = { (uintptr_t)words, (uintptr_t)(words + 128), NULL, 0, 0 };
	greg_t all[NGREG];
	enum unwind_end end;

	FUZZ_CHECK(table);
	table->release = no_release;
	table->n_spans = 1;
	table->span[0] =
		(struct unwind_span){ code,      code + CODE_BYTES, r->row,  r->page, r->wide,
				      r->n_rows, r->n_wide,         r->n_bx, r->bx };
	FUZZ_CHECK(unwind_publish(table) == 0);
	for (uint32_t pc = 0; pc < CODE_BYTES; pc += 977) {
		struct unwind_regs regs = { .pc = code + pc,
					    .sp = (uintptr_t)words + pc % 1024,
					    .fp = (uintptr_t)words + pc % 900,
					    .all = all };
		unsigned n;

		for (size_t i = 0; i < 128; i++) {
			uint32_t v = (uint32_t)i * 2654435761u + data[(pc + i) % size];

			words[i] =
				i % 2 ? code + v % CODE_BYTES : (uintptr_t)words + v % 1024 / 8 * 8;
			if (i < NGREG)
				all[i] = (greg_t)words[i];
		}
		n = unwind_walk(&regs, &stack, pcs, 64, &end);
		FUZZ_CHECK(n >= 1 && n <= 64 && (unsigned)end < UNWIND_END_COUNT);
	}
	FUZZ_CHECK(unwind_publish(NULL) == 0);
	while (unwind_reclaim())
		;
	free(table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ehframe_bytes hdr, frames;
	struct ehframe_rows rows;
	uint32_t head[4];
	uintptr_t address;

	if (size < sizeof(head))
		return 0;
	memcpy(head, data, sizeof(head));
	size -= sizeof(head);
	hdr = (struct ehframe_bytes){ data + sizeof(head), head[1] < size ? head[1] : size,
				      head[0] };
	frames = (struct ehframe_bytes){ hdr.data + hdr.size, size - hdr.size, head[2] };
	ehframe_locate(&hdr, &address);
	if (ehframe_digest(&hdr, &frames, head[3], (uintptr_t)head[3] + CODE_BYTES, &rows))
		return 0;
	check_rows(&rows);
	walk_garbage(&rows, head[3], data, size + sizeof(head));
	ehframe_fini(&rows);
	return 0;
}
