/* SPDX-License-Identifier: MIT
 *
 * Unwind rows of hand-made .eh_frame bytes. Code lies at CODE, the bytes at FRAMES, as if mapped there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/ehframe.h"
#include "unit.h"

#define CODE   0x10000u
#define FRAMES 0x40000u
#define HDR    0x3f000u

/* ---- Making bytes ---- */

static struct {
	uint8_t data[4096];
	size_t n;
} made, hdr;

static size_t open_entry;

static void u8(unsigned v)
{
	assert_true(made.n < sizeof(made.data));
	made.data[made.n++] = (uint8_t)v;
}

static void bytes(const void *data, size_t n)
{
	for (size_t i = 0; i < n; i++)
		u8(((const uint8_t *)data)[i]);
}

static void u32(uint32_t v)
{
	bytes(&v, 4);
}

static void begin(void)
{
	open_entry = made.n;
	u32(0);
}

static void end(void)
{
	uint32_t length;

	while (made.n % 4)
		u8(0); /* DW_CFA_nop */
	length = (uint32_t)(made.n - open_entry - 4);
	memcpy(made.data + open_entry, &length, 4);
}

/* Starts a CIE with @augmentation and its data; then come its instructions and end(). */
static size_t cie(const char *augmentation, const void *data, size_t n)
{
	size_t at = made.n;

	begin();
	u32(0);
	u8(1);
	bytes(augmentation, strlen(augmentation) + 1);
	u8(1);    /* code alignment */
	u8(0x78); /* data alignment -8 */
	u8(16);   /* the return address's column */
	if (*augmentation) {
		u8((unsigned)n);
		bytes(data, n);
	}
	return at;
}

#define DEF_CFA_SP_8   0x0c, 7, 8
#define RA_AT_CFA_8    0x90, 1
#define FP_AT_CFA_16   0x86, 2
#define DEF_CFA_OFFSET 0x0e
#define DEF_CFA_REG    0x0d
#define ADVANCE(n)     (0x40 | (n))
#define REMEMBER       0x0a
#define RESTORE        0x0b

#define CODE_BYTES(...)                                                                            \
  do {                                                                                             \
    const uint8_t list[] = { __VA_ARGS__ };                                                        \
    bytes(list, sizeof(list));                                                                     \
  } while (0)

/* What every compiler writes: "zR", pointers pc relative in four bytes, CFA = sp + 8, return address there. */
static size_t usual_cie(void)
{
	size_t at = cie("zR", "\x1b", 1);

	CODE_BYTES(DEF_CFA_SP_8, RA_AT_CFA_8);
	end();
	return at;
}

/* Starts an FDE of @cie_at for code [@start, @start + @size); then come its instructions and end(). */
static size_t fde(size_t cie_at, uint32_t start, uint32_t size)
{
	size_t at = made.n;

	begin();
	u32((uint32_t)(made.n - cie_at));
	u32(CODE + start - (uint32_t)(FRAMES + made.n));
	u32(size);
	u8(0); /* no augmentation data */
	return at;
}

static struct ehframe_rows rows;

static int digest_to(size_t n)
{
	const struct ehframe_bytes h = { hdr.data, hdr.n, HDR };
	/* a copy of its exact size, so that a sanitizer sees a read behind it */
	uint8_t *exact = malloc(n ? n : 1);
	const struct ehframe_bytes f = { exact, n, FRAMES };
	int err;

	assert_non_null(exact);
	memcpy(exact, made.data, n);
	ehframe_fini(&rows);
	err = ehframe_digest(&h, &f, CODE, CODE + 0x1000, &rows);
	free(exact);
	return err;
}

static void digest(void)
{
	u32(0);
	assert_int_equal(digest_to(made.n), 0);
}

static uint32_t rule_at(uint32_t pc)
{
	uint32_t rule = UNWIND_NONE;

	for (uint32_t i = 0; i < rows.n_rows && rows.row[i].pc <= pc; i++)
		rule = rows.row[i].rule;
	return rule;
}

static const struct unwind_wide *wide_at(uint32_t pc)
{
	uint32_t rule = rule_at(pc);

	assert_int_equal(rule & UNWIND_KIND_MASK, UNWIND_WIDE);
	assert_true(rule >> UNWIND_ARG_SHIFT < rows.n_wide);
	return &rows.wide[rule >> UNWIND_ARG_SHIFT];
}

#define SP(cfa, fp)                                                                                \
  (UNWIND_SP | (cfa) / 8 << UNWIND_CFA_SHIFT | (uint32_t)(fp) / 8 << UNWIND_WORDS_SHIFT)
#define FP(cfa, fp)                                                                                \
  (UNWIND_FP | (cfa) / 8 << UNWIND_CFA_SHIFT | (uint32_t)(fp) / 8 << UNWIND_WORDS_SHIFT)

static int fresh(void **state)
{
	(void)state;
	made.n = hdr.n = 0;
	memset(&rows, 0, sizeof(rows));
	return 0;
}

static int clean(void **state)
{
	(void)state;
	ehframe_fini(&rows);
	return 0;
}

/* ---- Tests ---- */

static void a_frame_pointer_function_has_its_four_rows(void **state)
{
	(void)state;
	fde(usual_cie(), 0x100, 0x40);
	CODE_BYTES(ADVANCE(1), DEF_CFA_OFFSET, 16, FP_AT_CFA_16, ADVANCE(3), DEF_CFA_REG, 6);
	CODE_BYTES(ADVANCE(0x30), 0x0c, 7, 8);
	end();
	digest();
	assert_int_equal(rule_at(0), UNWIND_NONE);
	assert_int_equal(rule_at(0xff), UNWIND_NONE);
	assert_int_equal(rule_at(0x100), SP(8, 0));
	assert_int_equal(rule_at(0x101), SP(16, 16));
	assert_int_equal(rule_at(0x103), SP(16, 16));
	assert_int_equal(rule_at(0x104), FP(16, 16));
	assert_int_equal(rule_at(0x133), FP(16, 16));
	assert_int_equal(rule_at(0x134), SP(8, 16));
	assert_int_equal(rule_at(0x13f), SP(8, 16));
	assert_int_equal(rule_at(0x140), UNWIND_NONE);
	assert_int_equal(rows.n_rows, 6);
	assert_int_equal(rows.counts.functions, 1);
	assert_int_equal(rows.counts.malformed, 0);
}

static void every_advance_has_its_size(void **state)
{
	(void)state;
	fde(usual_cie(), 0, 0x1000);
	CODE_BYTES(ADVANCE(0x3f), DEF_CFA_OFFSET, 16);
	CODE_BYTES(0x02, 0x41, DEF_CFA_OFFSET, 24);
	CODE_BYTES(0x03, 0x80, 0x01, DEF_CFA_OFFSET, 32);
	CODE_BYTES(0x04, 0x00, 0x02, 0, 0, DEF_CFA_OFFSET, 40);
	CODE_BYTES(0x01); /* set_loc, in the CIE's encoding: pc relative */
	u32(CODE + 0x800 - (uint32_t)(FRAMES + made.n));
	CODE_BYTES(DEF_CFA_OFFSET, 48);
	end();
	digest();
	assert_int_equal(rule_at(0x3e), SP(8, 0));
	assert_int_equal(rule_at(0x3f), SP(16, 0));
	assert_int_equal(rule_at(0x7f), SP(16, 0));
	assert_int_equal(rule_at(0x80), SP(24, 0));
	assert_int_equal(rule_at(0x1ff), SP(24, 0));
	assert_int_equal(rule_at(0x200), SP(32, 0));
	assert_int_equal(rule_at(0x3ff), SP(32, 0));
	assert_int_equal(rule_at(0x400), SP(40, 0));
	assert_int_equal(rule_at(0x7ff), SP(40, 0));
	assert_int_equal(rule_at(0x800), SP(48, 0));
}

static void advances_are_multiplied_by_the_code_alignment(void **state)
{
	size_t at = made.n;

	(void)state;
	begin();
	u32(0);
	CODE_BYTES(1, 'z', 'R', 0, 4, 0x78, 16, 1, 0x1b, DEF_CFA_SP_8, RA_AT_CFA_8);
	end();
	fde(at, 0, 0x100);
	CODE_BYTES(ADVANCE(2), DEF_CFA_OFFSET, 16);
	end();
	digest();
	assert_int_equal(rule_at(7), SP(8, 0));
	assert_int_equal(rule_at(8), SP(16, 0));
}

static void remembered_states_come_back_with_their_cfa(void **state)
{
	(void)state;
	fde(usual_cie(), 0, 0x100);
	CODE_BYTES(ADVANCE(1), DEF_CFA_OFFSET, 16, FP_AT_CFA_16, ADVANCE(1), DEF_CFA_OFFSET, 64);
	CODE_BYTES(REMEMBER, ADVANCE(1), REMEMBER, 0xc6, DEF_CFA_OFFSET, 8, ADVANCE(1), RESTORE,
		   ADVANCE(1), RESTORE);
	end();
	digest();
	assert_int_equal(rule_at(2), SP(64, 16));
	assert_int_equal(rule_at(3), SP(8, 0));
	assert_int_equal(rule_at(4), SP(64, 16));
	assert_int_equal(rule_at(5), SP(64, 16));
}

static void restore_without_remember_ends_what_is_known(void **state)
{
	(void)state;
	fde(usual_cie(), 0, 0x100);
	CODE_BYTES(ADVANCE(4), RESTORE, ADVANCE(4), DEF_CFA_OFFSET, 16);
	end();
	digest();
	assert_int_equal(rule_at(3), SP(8, 0));
	assert_int_equal(rule_at(4), UNWIND_NONE);
	assert_int_equal(rule_at(0xff), UNWIND_NONE);
	assert_int_equal(rows.counts.malformed, 1);
}

static void every_way_to_save_the_frame_pointer_is_read(void **state)
{
	static const struct {
		uint8_t code[4], n;
		uint8_t how, reg;
		int32_t offset;
	} ways[] = {
		{ { 0x05, 6, 2 }, 3, UNWIND_FP_AT_CFA, 0, -16 },   /* offset_extended */
		{ { 0x11, 6, 2 }, 3, UNWIND_FP_AT_CFA, 0, -16 },   /* offset_extended_sf */
		{ { 0x11, 6, 0x7e }, 3, UNWIND_FP_AT_CFA, 0, 16 }, /* the same, above the CFA */
		{ { 0x2f, 6, 2 }, 3, UNWIND_FP_AT_CFA, 0, 16 }, /* GNU_negative_offset_extended */
		{ { 0x07, 6 }, 2, UNWIND_FP_UNKNOWN, 0, 0 },    /* undefined */
		{ { 0x08, 6 }, 2, UNWIND_FP_KEPT, 0, 0 },       /* same_value */
		{ { 0x09, 6, 8 }, 3, UNWIND_FP_IN_REG, 8, 0 },  /* register r8 */
		{ { 0x14, 6, 2 }, 3, UNWIND_FP_UNKNOWN, 0, 0 }, /* val_offset */
		{ { 0x15, 6, 2 }, 3, UNWIND_FP_UNKNOWN, 0, 0 }, /* val_offset_sf */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		made.n = 0;
		fde(usual_cie(), 0, 0x100);
		/* a CFA in rax, so that the rule is always a wide one */
		CODE_BYTES(ADVANCE(1), 0x0c, 0, 8);
		bytes(ways[i].code, ways[i].n);
		CODE_BYTES(ADVANCE(1), 0x06, 6); /* restore_extended */
		end();
		digest();
		assert_int_equal(wide_at(1)->cfa_reg, 0);
		assert_int_equal(wide_at(1)->cfa_offset, 8);
		assert_int_equal(wide_at(1)->cfa_deref, 0);
		assert_int_equal(wide_at(1)->fp_how, ways[i].how);
		assert_int_equal(wide_at(1)->fp_reg, ways[i].reg);
		assert_int_equal(wide_at(1)->fp_offset, ways[i].offset);
		assert_int_equal(wide_at(2)->fp_how, UNWIND_FP_KEPT);
	}
}

static void signed_cfa_definitions_are_read(void **state)
{
	(void)state;
	fde(usual_cie(), 0, 0x100);
	CODE_BYTES(ADVANCE(1), 0x12, 6, 0x7e);            /* def_cfa_sf: fp, -2 * -8 */
	CODE_BYTES(ADVANCE(1), 0x13, 0x7d);               /* def_cfa_offset_sf: -3 * -8 */
	CODE_BYTES(ADVANCE(1), 0x13, 1);                  /* -8: below the register */
	CODE_BYTES(ADVANCE(1), 0x2e, 16, 0, 0x0c, 7, 32); /* GNU_args_size and nop mean nothing */
	end();
	digest();
	assert_int_equal(rule_at(1), FP(16, 0));
	assert_int_equal(rule_at(2), FP(24, 0));
	assert_int_equal(wide_at(3)->cfa_reg, 6);
	assert_int_equal(wide_at(3)->cfa_offset, -8);
	assert_int_equal(rule_at(4), SP(32, 0));
}

static void frames_too_large_for_a_row_are_wide(void **state)
{
	(void)state;
	fde(usual_cie(), 0, 0x100);
	CODE_BYTES(ADVANCE(1), DEF_CFA_OFFSET, 0x88, 0x80, 0x20); /* 512 KiB + 8 */
	CODE_BYTES(ADVANCE(1), DEF_CFA_OFFSET, 0xf8, 0xff, 0x1f); /* 512 KiB - 8 */
	CODE_BYTES(ADVANCE(1), 0x86, 0x80, 0x20);                 /* fp 32 KiB below the CFA */
	CODE_BYTES(ADVANCE(1), 0x86, 0xff, 0x1f);                 /* and one word less */
	end();
	digest();
	assert_int_equal(wide_at(1)->cfa_offset, (512 << 10) + 8);
	assert_int_equal(rule_at(2), SP((512u << 10) - 8, 0));
	assert_int_equal(wide_at(3)->fp_offset, -32768);
	assert_int_equal(rule_at(4), SP((512u << 10) - 8, 32760));
}

static void plt_entries_have_their_rule(void **state)
{
	(void)state;
	fde(usual_cie(), 0x20, 0x100);
	CODE_BYTES(ADVANCE(6), DEF_CFA_OFFSET, 24, ADVANCE(10));
	CODE_BYTES(0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22);
	end();
	digest();
	assert_int_equal(rule_at(0x20), SP(8, 0));
	assert_int_equal(rule_at(0x26), SP(24, 0));
	assert_int_equal(rule_at(0x30), UNWIND_PLT | 11 << UNWIND_ARG_SHIFT);
	assert_int_equal(rule_at(0x11f), UNWIND_PLT | 11 << UNWIND_ARG_SHIFT);
}

static void over_aligned_frames_load_their_cfa(void **state)
{
	(void)state;
	/* as gcc does: CFA in r10, then at fp - 8; fp saved where fp points */
	fde(usual_cie(), 0, 0x100);
	CODE_BYTES(ADVANCE(5), 0x0c, 10, 0, ADVANCE(9), 0x10, 6, 2, 0x76, 0);
	CODE_BYTES(ADVANCE(2), 0x0f, 3, 0x76, 0x78, 0x06, ADVANCE(0x20), 0x0c, 10, 0, ADVANCE(4),
		   0x0c, 7, 8);
	end();
	digest();
	assert_int_equal(wide_at(5)->cfa_reg, 10);
	assert_int_equal(wide_at(5)->fp_how, UNWIND_FP_KEPT);
	assert_int_equal(wide_at(14)->fp_how, UNWIND_FP_AT_REG);
	assert_int_equal(wide_at(16)->cfa_reg, 6);
	assert_int_equal(wide_at(16)->cfa_offset, -8);
	assert_int_equal(wide_at(16)->cfa_deref, 1);
	assert_int_equal(wide_at(16)->cfa_add, 0);
	assert_int_equal(wide_at(16)->fp_how, UNWIND_FP_AT_REG);
	assert_int_equal(wide_at(16)->fp_reg, 6);
	assert_int_equal(wide_at(16)->fp_offset, 0);
	assert_int_equal(rows.counts.exotic, 0);
	/* equal wide rules are kept once */
	assert_int_equal(rows.n_wide, 4);
}

static void assembly_that_keeps_its_stack_pointer_in_memory_is_expressed(void **state)
{
	(void)state;
	fde(usual_cie(), 0, 0x100);
	CODE_BYTES(ADVANCE(1), 0x0f, 6, 0x77, 0x98, 0x01, 0x06, 0x23, 8);
	CODE_BYTES(ADVANCE(1), 0x0f, 5, 0x77, 16, 0x06, 0x38, 0x22);
	CODE_BYTES(ADVANCE(1), 0x0f, 2, 0x77, 16);
	end();
	digest();
	assert_int_equal(wide_at(1)->cfa_reg, 7);
	assert_int_equal(wide_at(1)->cfa_offset, 152);
	assert_int_equal(wide_at(1)->cfa_add, 8);
	assert_int_equal(wide_at(2)->cfa_offset, 16);
	assert_int_equal(wide_at(2)->cfa_add, 8);
	assert_int_equal(rule_at(3), SP(16, 0));
}

static void other_expressions_are_no_rule_and_counted(void **state)
{
	(void)state;
	fde(usual_cie(), 0, 0x100);
	CODE_BYTES(ADVANCE(1), 0x0f, 3, 0x77, 8, 0x1f);           /* breg7 8; neg */
	CODE_BYTES(ADVANCE(1), 0x0c, 7, 8, 0x10, 16, 2, 0x77, 0); /* return address by expression */
	CODE_BYTES(ADVANCE(1), 0xc0 | 16, 0x09, 16, 2);           /* return address in rcx */
	CODE_BYTES(ADVANCE(1), 0xc0 | 16, 0x87, 2);               /* stack pointer in memory */
	CODE_BYTES(ADVANCE(1), 0x06, 7, 0x0c, 17, 8);             /* CFA in xmm0 */
	CODE_BYTES(ADVANCE(1), DEF_CFA_OFFSET, 16);               /* still */
	CODE_BYTES(ADVANCE(1), DEF_CFA_REG, 7, 0x16, 6, 1,
		   0x30); /* fp by value: unknown, but the walk goes on */
	end();
	digest();
	for (uint32_t pc = 1; pc < 7; pc++)
		assert_int_equal(rule_at(pc), UNWIND_NONE);
	assert_int_equal(rows.counts.exotic, 6);
	assert_int_equal(wide_at(7)->cfa_reg, 7);
	assert_int_equal(wide_at(7)->fp_how, UNWIND_FP_UNKNOWN);
}

static void an_undefined_return_address_is_the_root(void **state)
{
	(void)state;
	fde(usual_cie(), 0, 0x100);
	CODE_BYTES(0x07, 16);
	end();
	digest();
	assert_int_equal(rule_at(0x50), UNWIND_ROOT);
}

static void the_signal_frame_is_recognised_by_its_augmentation(void **state)
{
	size_t at;

	(void)state;
	/* as glibc's __restore_rt: CFA = *(sp + 160) */
	at = cie("zRS", "\x1b", 1);
	end();
	fde(at, 0x10, 0x20);
	CODE_BYTES(0x0f, 4, 0x77, 0xa0, 0x01, 0x06, 0x10, 16, 3, 0x77, 0xa8, 0x01);
	end();
	fde(at, 0x100, 0x20); /* another layout is not the kernel's */
	CODE_BYTES(0x0f, 4, 0x77, 0xa8, 0x01, 0x06);
	end();
	digest();
	assert_int_equal(rule_at(0x10), UNWIND_SIGNAL);
	assert_int_equal(rule_at(0x100), UNWIND_NONE);
}

static void augmentations_are_skipped_by_their_size(void **state)
{
	size_t at;

	(void)state;
	/* personality (indirect, pc relative), language data, pointers, and a letter that nobody knows */
	at = cie("zPLR", "\x9b\x01\x02\x03\x04\x1b\x1b", 7);
	CODE_BYTES(DEF_CFA_SP_8, RA_AT_CFA_8);
	end();
	begin();
	u32((uint32_t)(made.n - at));
	u32(CODE + 0x10 - (uint32_t)(FRAMES + made.n));
	u32(0x20);
	CODE_BYTES(4, 0xaa, 0xbb, 0xcc, 0xdd, ADVANCE(4), DEF_CFA_OFFSET, 16);
	end();
	at = cie("zRXY", "\x1b\x55\x66", 3);
	CODE_BYTES(DEF_CFA_SP_8, RA_AT_CFA_8);
	end();
	fde(at, 0x40, 0x20);
	CODE_BYTES(ADVANCE(4), DEF_CFA_OFFSET, 24);
	end();
	digest();
	assert_int_equal(rule_at(0x14), SP(16, 0));
	assert_int_equal(rule_at(0x44), SP(24, 0));
	assert_int_equal(rows.counts.malformed, 0);
}

static void absolute_pointers_and_long_lengths_are_read(void **state)
{
	uint64_t start = CODE + 0x10, size = 0x20, length;
	size_t at, from;

	(void)state;
	at = cie("", NULL, 0); /* no augmentation: absolute pointers */
	CODE_BYTES(DEF_CFA_SP_8, RA_AT_CFA_8);
	end();
	u32(0xffffffff);
	from = made.n;
	length = 4 + 16 + 4;
	bytes(&length, 8);
	u32((uint32_t)(made.n - at));
	bytes(&start, 8);
	bytes(&size, 8);
	CODE_BYTES(ADVANCE(1), DEF_CFA_OFFSET, 16, 0);
	assert_int_equal(made.n - from, length + 8);
	digest();
	assert_int_equal(rule_at(0x10), SP(8, 0));
	assert_int_equal(rule_at(0x11), SP(16, 0));
	assert_int_equal(rule_at(0x30), UNWIND_NONE);
}

static void what_is_not_ours_is_refused(void **state)
{
	size_t at;

	(void)state;
	at = cie("zR", "\x9b", 1); /* indirect function addresses: nobody writes them */
	CODE_BYTES(DEF_CFA_SP_8, RA_AT_CFA_8);
	end();
	fde(at, 0x10, 0x10);
	end();
	at = cie("eh", NULL, 0); /* gcc 2 */
	end();
	fde(at, 0x20, 0x10);
	end();
	at = usual_cie();
	fde(at, 0x40, 0); /* empty */
	end();
	fde(at, 0xff0, 0x20); /* goes beyond the code */
	end();
	fde(at, (uint32_t)-0x100, 0x20); /* before it */
	end();
	u32(0);
	assert_int_equal(digest_to(made.n), -EINVAL);
	assert_int_equal(rows.counts.malformed, 5);
	assert_null(rows.row);
}

static void functions_out_of_order_are_sorted_and_cut_at_the_next(void **state)
{
	size_t at = usual_cie();

	(void)state;
	fde(at, 0x200, 0x40);
	CODE_BYTES(DEF_CFA_OFFSET, 32);
	end();
	fde(at, 0x100, 0x180); /* overlaps the one above */
	CODE_BYTES(DEF_CFA_OFFSET, 24);
	end();
	fde(at, 0x240, 0x10);
	CODE_BYTES(DEF_CFA_OFFSET, 40);
	end();
	digest();
	assert_int_equal(rule_at(0x100), SP(24, 0));
	assert_int_equal(rule_at(0x1ff), SP(24, 0));
	assert_int_equal(rule_at(0x200), SP(32, 0));
	assert_int_equal(rule_at(0x240), SP(40, 0));
}

/* makecontext() lets a function return to the start of another: what is before that is no caller. */
static void between_functions_is_no_rule(void **state)
{
	size_t at = usual_cie();

	(void)state;
	fde(at, 0x000, 0x31);
	end();
	fde(at, 0x040, 0x20);
	end();
	fde(at, 0x060, 0x11);
	end();
	fde(at, 0x200, 0x31);
	end();
	digest();
	assert_int_equal(rule_at(0x30), SP(8, 0));
	assert_int_equal(rule_at(0x31), UNWIND_NONE);
	assert_int_equal(rule_at(0x3f), UNWIND_NONE);
	assert_int_equal(rule_at(0x40), SP(8, 0));
	assert_int_equal(rule_at(0x5f), SP(8, 0));
	assert_int_equal(rule_at(0x70), SP(8, 0));
	assert_int_equal(rule_at(0x71), UNWIND_NONE);
	assert_int_equal(rule_at(0x200), SP(8, 0));
	assert_int_equal(rows.n_rows, 6);
}

static uint32_t bx_at(uint32_t pc)
{
	uint32_t rule = UNWIND_NONE;

	for (uint32_t i = 0; i < rows.n_bx && rows.bx[i].pc <= pc; i++)
		rule = rows.bx[i].rule;
	return rule;
}

static void a_frame_in_rbx_makes_rows_of_rbx(void **state)
{
	size_t at = usual_cie();

	(void)state;
	fde(at, 0x100, 0x40); /* saves rbx as everybody does */
	CODE_BYTES(ADVANCE(1), DEF_CFA_OFFSET, 16, FP_AT_CFA_16, ADVANCE(1), DEF_CFA_OFFSET, 24);
	CODE_BYTES(0x83, 3, ADVANCE(0x30), DEF_CFA_OFFSET, 16, 0xc3);
	end();
	digest();
	assert_int_equal(rows.n_bx, 0);
	assert_null(rows.bx);
	made.n -= 4;          /* the end mark */
	fde(at, 0x200, 0x40); /* as the dynamic linker's entry: CFA = rbx + 32 */
	CODE_BYTES(DEF_CFA_OFFSET, 24, ADVANCE(1), DEF_CFA_OFFSET, 32, 0x83, 4);
	CODE_BYTES(ADVANCE(3), DEF_CFA_REG, 3);
	end();
	fde(at, 0x300, 0x40); /* where nobody finds it */
	CODE_BYTES(ADVANCE(1), 0x09, 3, 0, ADVANCE(1), 0x07, 3, ADVANCE(1), 0x11, 3, 0x7f);
	end();
	digest();
	assert_int_equal(wide_at(0x204)->cfa_reg, 3);
	assert_int_equal(bx_at(0x101), UNWIND_BX_KEPT);
	assert_int_equal(bx_at(0x102), 3);
	assert_int_equal(bx_at(0x131), 3);
	assert_int_equal(bx_at(0x132), UNWIND_BX_KEPT);
	assert_int_equal(bx_at(0x204), 4);
	assert_int_equal(bx_at(0x140), UNWIND_BX_UNKNOWN);
	assert_int_equal(bx_at(0x300), UNWIND_BX_KEPT);
	assert_int_equal(bx_at(0x301), UNWIND_BX_UNKNOWN);
	assert_int_equal(bx_at(0x302), UNWIND_BX_UNKNOWN);
	assert_int_equal(bx_at(0x303), UNWIND_BX_UNKNOWN);
	assert_int_equal(rows.counts.functions, 3);
}

static void h32(uint32_t v)
{
	memcpy(hdr.data + hdr.n, &v, 4);
	hdr.n += 4;
}

static void the_search_table_is_used_when_there_is_one(void **state)
{
	static const uint8_t head[] = { 1, 0x1b, 0x03, 0x3b };
	uintptr_t address;
	size_t a, b, at;
	const struct ehframe_bytes h = { hdr.data, 28, HDR };

	(void)state;
	u32(0); /* an end mark: a reader in order sees nothing */
	at = usual_cie();
	a = fde(at, 0x100, 0x10);
	end();
	b = fde(at, 0x200, 0x10);
	CODE_BYTES(DEF_CFA_OFFSET, 16);
	end();
	memcpy(hdr.data, head, 4);
	hdr.n = 4;
	h32(FRAMES - (HDR + 4));
	h32(2);
	h32(CODE + 0x100 - HDR);
	h32((uint32_t)(FRAMES + a - HDR));
	h32(CODE + 0x200 - HDR);
	h32((uint32_t)(FRAMES + b - HDR));
	assert_int_equal(ehframe_locate(&h, &address), 0);
	assert_int_equal(address, FRAMES);
	assert_int_equal(digest_to(made.n), 0);
	assert_int_equal(rows.counts.functions, 2);
	assert_int_equal(rule_at(0x200), SP(16, 0));
	/* a count that lies */
	hdr.data[8] = 200;
	assert_int_equal(digest_to(made.n), 0);
	assert_int_equal(rows.counts.functions, 2);
	assert_int_equal(rows.counts.malformed, 1);
	hdr.n = 0;
	assert_int_equal(digest_to(made.n), -EINVAL);
}

static void a_program_may_not_go_back(void **state)
{
	(void)state;
	fde(usual_cie(), 0x100, 0x100);
	CODE_BYTES(ADVANCE(0x10), DEF_CFA_OFFSET, 16, 0x01);
	u32(CODE - (uint32_t)(FRAMES + made.n));
	CODE_BYTES(DEF_CFA_OFFSET, 24);
	end();
	digest();
	assert_int_equal(rule_at(0x100), SP(8, 0));
	assert_int_equal(rule_at(0x110), UNWIND_NONE);
	assert_int_equal(rows.counts.malformed, 1);
}

static void the_page_index_leads_to_the_row(void **state)
{
	size_t at = usual_cie();

	(void)state;
	for (uint32_t i = 0; i < 12; i++) {
		fde(at, i * 0x155, 0x155);
		CODE_BYTES(DEF_CFA_OFFSET, (uint8_t)(8 + 8 * i), ADVANCE(7), DEF_CFA_OFFSET, 120);
		end();
	}
	digest();
	for (uint32_t pc = 0; pc < 0x1000; pc++) {
		uint32_t first = rows.page[pc >> UNWIND_PAGE_SHIFT],
			 last = rows.page[(pc >> UNWIND_PAGE_SHIFT) + 1];

		assert_true(first <= last && last < rows.n_rows);
		assert_true(rows.row[first].pc <= pc);
		assert_true(last + 1 == rows.n_rows || rows.row[last + 1].pc > pc);
	}
}

static void every_truncation_is_survived(void **state)
{
	size_t at = usual_cie(), whole;

	(void)state;
	fde(at, 0x100, 0x40);
	CODE_BYTES(ADVANCE(1), 0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24,
		   0x22);
	end();
	fde(at, 0x200, 0x40);
	CODE_BYTES(0x04, 1, 0, 0, 0, 0x10, 6, 2, 0x76, 0, 0x11, 6, 0x7e);
	end();
	whole = made.n;
	for (size_t n = 0; n < whole; n++)
		digest_to(n);
	assert_int_equal(digest_to(whole), 0);
	assert_int_equal(rows.counts.functions, 2);
}

static void garbage_is_survived(void **state)
{
	uint32_t random = 1;
	size_t at = usual_cie(), whole;
	uint8_t original[sizeof(made.data)];

	(void)state;
	for (uint32_t i = 0; i < 8; i++) {
		fde(at, i * 0x40, 0x40);
		CODE_BYTES(ADVANCE(1), DEF_CFA_OFFSET, 16, REMEMBER, 0x0f, 3, 0x76, 0x78, 0x06,
			   ADVANCE(3), RESTORE);
		end();
	}
	whole = made.n;
	memcpy(original, made.data, whole);
	for (int round = 0; round < 20000; round++) {
		memcpy(made.data, original, whole);
		for (int k = 0; k < 3; k++) {
			random = random * 1664525 + 1013904223;
			made.data[(random >> 8) % whole] = (uint8_t)(random >> 24);
		}
		if (digest_to(whole))
			continue;
		for (uint32_t i = 0; i < rows.n_rows; i++) {
			assert_true(i == 0 ? rows.row[i].pc == 0
					   : rows.row[i].pc > rows.row[i - 1].pc);
			assert_true((rows.row[i].rule & UNWIND_KIND_MASK) <= UNWIND_NONE);
		}
	}
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fresh, clean)
	const struct CMUnitTest tests[] = {
		CASE(a_frame_pointer_function_has_its_four_rows),
		CASE(every_advance_has_its_size),
		CASE(advances_are_multiplied_by_the_code_alignment),
		CASE(remembered_states_come_back_with_their_cfa),
		CASE(restore_without_remember_ends_what_is_known),
		CASE(every_way_to_save_the_frame_pointer_is_read),
		CASE(signed_cfa_definitions_are_read),
		CASE(frames_too_large_for_a_row_are_wide),
		CASE(plt_entries_have_their_rule),
		CASE(over_aligned_frames_load_their_cfa),
		CASE(assembly_that_keeps_its_stack_pointer_in_memory_is_expressed),
		CASE(other_expressions_are_no_rule_and_counted),
		CASE(an_undefined_return_address_is_the_root),
		CASE(the_signal_frame_is_recognised_by_its_augmentation),
		CASE(augmentations_are_skipped_by_their_size),
		CASE(absolute_pointers_and_long_lengths_are_read),
		CASE(what_is_not_ours_is_refused),
		CASE(functions_out_of_order_are_sorted_and_cut_at_the_next),
		CASE(between_functions_is_no_rule),
		CASE(a_frame_in_rbx_makes_rows_of_rbx),
		CASE(the_search_table_is_used_when_there_is_one),
		CASE(a_program_may_not_go_back),
		CASE(the_page_index_leads_to_the_row),
		CASE(every_truncation_is_survived),
		CASE(garbage_is_survived),
	};

	return RUN(tests);
}
