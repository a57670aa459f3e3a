/* SPDX-License-Identifier: MIT
 *
 * Walks a stack with tables digested beforehand (core/ehframe.h), so that it can run in a signal handler at any
 * instruction: it takes no lock, calls nothing, allocates nothing, and loads only from inside the stack's own bounds, so
 * that neither a wrong table nor a smashed stack can make it fault or run forever (the frame address strictly grows).
 *
 * A table's rules are never changed. The agent's thread publishes a new one and frees the old one when no walk can still hold it:
 *
 *	unwind_table ─► unwind_span[] by address ─► rows {pc, rule} by pc, with an index every UNWIND_PAGE bytes
 *	                                         └► wide[] for the few rules that do not fit a row
 */
#ifndef AGENT_SIG_UNWIND_H
#define AGENT_SIG_UNWIND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/sig/arch.h"

/* ---- Rules: how to get from a frame to its caller ---- */

/*
 * A rule is 32 bits: kind, then by kind
 *
 *	UNWIND_SP, UNWIND_FP   31      20  19  18        3 2  0
 *	                       +---------+----+-----------+----+
 *	                       |  words  | ra | CFA words |kind|   CFA = sp or fp + 8 * CFA words
 *	                       +---------+----+-----------+----+
 *	                         x86_64: the return address is at CFA - 8, the caller's fp at CFA - 8 * words
 *	                         (0: fp is still the caller's)
 *	                         aarch64: the caller's fp is at CFA - 8 * words, the return address 8 above it; with ra
 *	                         the return address is there, and fp is still the caller's; 0: both are in their registers
 *	UNWIND_WIDE            index into the span's wide[]
 *	UNWIND_PLT             CFA = sp + 8, and 8 more from this byte of the 16-byte entry on
 *	UNWIND_SIGNAL          the kernel's signal frame lies at sp
 *	UNWIND_ROOT            the first function of a thread: the walk is complete
 *	UNWIND_NONE            nothing known
 */
enum unwind_kind {
	UNWIND_SP,
	UNWIND_FP,
	UNWIND_WIDE,
	UNWIND_PLT,
	UNWIND_SIGNAL,
	UNWIND_ROOT,
	UNWIND_NONE,
};

#define UNWIND_KIND_MASK   7u
#define UNWIND_CFA_SHIFT   3
#define UNWIND_CFA_WORDS   0xffffu
#define UNWIND_RA_ALONE    (1u << 19)
#define UNWIND_WORDS_SHIFT 20
#define UNWIND_WORDS       0xfffu
#define UNWIND_ARG_SHIFT   3 /* of UNWIND_WIDE and UNWIND_PLT */

struct unwind_row {
	uint32_t pc; /* offset from the span's low; holds until the next row's */
	uint32_t rule;
};

/* Where the caller's fp is, in a wide rule. */
enum unwind_wide_fp {
	UNWIND_FP_KEPT,   /* still in its register */
	UNWIND_FP_AT_CFA, /* in memory at CFA + fp_offset */
	UNWIND_FP_AT_REG, /* in memory at register fp_reg + fp_offset */
	UNWIND_FP_IN_REG, /* in register fp_reg */
	UNWIND_FP_UNKNOWN,
};

/* Over-aligned frames and hand-written assembly: CFA = register + offset, or what lies in memory there, + add. */
struct unwind_wide {
	int32_t cfa_offset;
	int32_t cfa_add; /* only with cfa_deref */
	int32_t fp_offset;
	int32_t ra_offset; /* the return address is at CFA + this; 0: in its register */
	uint8_t cfa_reg;   /* DWARF's number */
	uint8_t cfa_deref; /* 1: load the word at register + offset */
	uint8_t fp_how;    /* enum unwind_wide_fp */
	uint8_t fp_reg;
};

/*
 * Where rbx is, row by row, in a module of which a function keeps its frame's address there and calls others: the dynamic
 * linker, binding a symbol. The rule is the number of words that it lies below the CFA, or one of these.
 */
#define UNWIND_BX_KEPT    0u
#define UNWIND_BX_UNKNOWN 0xffffu

#define UNWIND_PAGE_SHIFT                                                                          \
  6 /* 64 bytes of code: a row or two to search; 256 took 14.5 ns a frame, this 12 */

/* The code of one module. All its arrays belong to the table's owner. */
struct unwind_span {
	uintptr_t low, high;          /* code addresses [low, high), less than 4 GiB */
	const struct unwind_row *row; /* n_rows >= 1, row[0].pc is 0, pcs strictly grow */
	const uint32_t *
		page; /* ((high - low) >> UNWIND_PAGE_SHIFT) + 2 of: last row at or before each page */
	const struct unwind_wide *wide;
	uint32_t n_rows, n_wide, n_bx;
	const struct unwind_row *bx; /* n_bx 0: none, no wide rule of this module asks for rbx */
};

/*
 * Rules of callers met before, by the low bits of their pc. One word each, so that any number of walks may read and write
 * it at once: what a word says is true whoever wrote it. It belongs to one table and comes and goes with it, so that it
 * cannot outlive the rules.
 *
 *	63              30  29  28    17  16  15        0
 *	+-----------------+----+--------+----+-----------+
 *	| pc >> 13 (or 15)| FP | words  | ra | CFA words |   as in a rule; 0: empty, for there is no code in page 0
 *	+-----------------+----+--------+----+-----------+
 */
#define UNWIND_CACHE_BITS 13 /* 64 KiB */

struct unwind_table {
	void (*release)(
		struct unwind_table
			*table); /* called on the publishing thread when nobody can hold it */
	unsigned n_spans;
	_Atomic uint64_t cache[1 << UNWIND_CACHE_BITS]; /* unwind_publish() clears it */
	struct unwind_span span[];                      /* by address, not overlapping */
};

/* ---- Walking ---- */

/* How a walk ended. */
enum unwind_end {
	UNWIND_COMPLETE,      /* at the thread's first function */
	UNWIND_TRUNCATED,     /* no more room, or the copy of the stack was too short */
	UNWIND_NO_RULE,       /* at code that no table describes */
	UNWIND_FOREIGN_STACK, /* the frame is, or its caller would be, outside of the thread's stack */
	UNWIND_END_COUNT
};
extern const char *const unwind_end_names[UNWIND_END_COUNT];

/* Where to start. Zero it, or fill it by unwind_regs_from(): members may be added. */
struct unwind_regs {
	uintptr_t pc, sp, fp;
	uintptr_t lr; /* aarch64: x30, 0: unknown */
	const greg_t *
		all; /* every register as at ARCH_UC_ALL, or NULL: only some rules of the first frame need them */
};

/* The stack to walk. Only words inside [low, high) are ever read. */
struct unwind_stack {
	uintptr_t low, high;
	const void *
		copy; /* not NULL: read from this copy of memory [copy_low, copy_low + copy_bytes) instead */
	uintptr_t copy_low;
	size_t copy_bytes;
};

/** The registers of an interrupted thread. @context is the third argument of its signal handler, and must outlive @regs. */
void unwind_regs_from(struct unwind_regs *regs, const void *context);

/**
 * Walk the stack that starts at @regs.
 *
 * @pcs gets at most @max addresses, innermost first: regs->pc as it is, then for each caller the address to look up, which
 * is its return address - 1, or exactly where a signal interrupted it. @end gets how the walk ended.
 * Context: any, signal handlers too; wait-free, 0.3 KiB of stack. It must not be left by longjmp: tables would never
 * be freed again.
 * Returns how many addresses there are: at least 1, unless @max is 0.
 */
unsigned unwind_walk(const struct unwind_regs *regs, const struct unwind_stack *stack,
		     uintptr_t *pcs, unsigned max, enum unwind_end *end);

/* ---- Publishing, on one thread only ---- */

#define UNWIND_RETIRED_MAX 16 /* tables that wait for walks to end */

/**
 * Walks that begin from now on use @table (NULL: none). The one before is released as soon as no walk can hold it, at the
 * latest by a later unwind_reclaim().
 *
 * Context: agent; one thread at a time.
 * Returns 0, or -EBUSY when UNWIND_RETIRED_MAX tables are still held: nothing changed, @table is still the caller's.
 */
int unwind_publish(struct unwind_table *table);

/**
 * Release retired tables that no walk can hold any more; never waits. Call it now and then.
 *
 * Context: agent. Returns how many tables are still retired.
 */
unsigned unwind_reclaim(void);

/**
 * In the child after fork(): forget walks of threads that exist no more. Without it a thread that was walking while
 * another forked would pin the child's tables forever. And leave the parent's tables alone, for good: its publishing
 * thread may have been in the middle of releasing them, or what they share.
 *
 * Context: the child's only thread, not inside a walk.
 */
void unwind_after_fork(void);

#endif
