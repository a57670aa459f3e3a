/* SPDX-License-Identifier: MIT
 *
 * The walk itself, and the hand-over of tables from the agent's thread to walks on any thread.
 *
 * Threads: unwind_walk() on any, many at a time, in signal handlers; publishing on one.
 */
#include "agent/sig/unwind.h"

#include <errno.h>
#include <stdatomic.h>

#include "agent/sig/poison.h"

#define unlikely(x) __builtin_expect(!!(x), 0)

/* The walk reads other functions' frames, redzones too: not for a sanitizer to judge. */
#define UNWIND_RAW __attribute__((no_sanitize("address", "undefined", "thread")))

const char *const unwind_end_names[UNWIND_END_COUNT] = {
	[UNWIND_COMPLETE] = "complete",
	[UNWIND_TRUNCATED] = "truncated",
	[UNWIND_NO_RULE] = "no rule",
	[UNWIND_FOREIGN_STACK] = "foreign stack",
};

/* ---- Hand-over ---- */

/*
 * A walk counts itself in before it loads the table. So once a counter has been seen at zero after a table was taken
 * down, no walk counted there holds it, and one seen zero in both counters is held by nobody. New walks use the counter of
 * the epoch's parity; turning the epoch lets the other one run empty, however busy the process is.
 */
static struct {
	/* publisher exchanges, walks load; both seq_cst, as are the counters: each side must see the other's store */
	_Atomic(struct unwind_table *) table;
	atomic_uint epoch;
	struct {
		_Alignas(64) atomic_uint walks;
	} reader[2];
	/* publishing thread */
	struct {
		struct unwind_table *table;
		unsigned drained; /* bit per reader counter seen at zero since it was taken down */
	} retired[UNWIND_RETIRED_MAX];
	unsigned n_retired;
	struct unwind_table *inherited; /* a fork's parent made it: never released */
} handover;

unsigned unwind_reclaim(void)
{
	unsigned kept = 0, zero = 0;

	if (!handover.n_retired)
		return 0;
	for (unsigned i = 0; i < 2; i++)
		if (!atomic_load_explicit(&handover.reader[i].walks, memory_order_seq_cst))
			zero |= 1u << i;
	for (unsigned i = 0; i < handover.n_retired; i++) {
		handover.retired[i].drained |= zero;
		if (handover.retired[i].drained == 3)
			handover.retired[i].table->release(handover.retired[i].table);
		else
			handover.retired[kept++] = handover.retired[i];
	}
	handover.n_retired = kept;
	if (kept)
		atomic_fetch_add_explicit(&handover.epoch, 1, memory_order_relaxed);
	return kept;
}

int unwind_publish(struct unwind_table *table)
{
	struct unwind_table *old;

	if (unwind_reclaim() == UNWIND_RETIRED_MAX)
		return -EBUSY;
	if (table) /* which also maps its pages: a walk that meets an untouched one takes a fault, 0.5 us */
		for (unsigned i = 0; i < 1u << UNWIND_CACHE_BITS; i++)
			atomic_store_explicit(&table->cache[i], 0, memory_order_relaxed);
	old = atomic_exchange_explicit(&handover.table, table, memory_order_seq_cst);
	if (old && old != handover.inherited) {
		handover.retired[handover.n_retired].table = old;
		handover.retired[handover.n_retired++].drained = 0;
		unwind_reclaim();
	}
	return 0;
}

void unwind_after_fork(void)
{
	for (unsigned i = 0; i < 2; i++)
		atomic_store_explicit(&handover.reader[i].walks, 0, memory_order_relaxed);
	handover.n_retired = 0;
	handover.inherited = atomic_load_explicit(&handover.table, memory_order_relaxed);
}

/* ---- Registers ---- */

/* A load of any alignment, of memory that is of any type. */
struct any_word {
	uintptr_t value;
} __attribute__((packed, may_alias));

static inline uintptr_t word_at(const void *base, size_t offset)
{
	return ((const struct any_word *)((uintptr_t)base + offset))->value;
}

void unwind_regs_from(struct unwind_regs *regs, const void *context)
{
	regs->pc = word_at(context, ARCH_UC_PC);
	regs->sp = word_at(context, ARCH_UC_SP);
	regs->fp = word_at(context, ARCH_UC_FP);
	regs->lr = ARCH_LINK_REGISTER ? word_at(context, ARCH_UC_LR) : 0;
	regs->all = (const greg_t *)((uintptr_t)context + ARCH_UC_ALL);
}

/* ---- Reading the stack ---- */

struct view {
	uintptr_t low, words; /* what may be read: aligned words from low on */
	uintptr_t delta;      /* from a stack address to where the word is */
	bool cut;             /* the copy ends before the stack does */
};

struct frame {
	uintptr_t sp, fp;
	/* of the first frame and of one that a signal interrupted, else 0 and NULL */
	uintptr_t lr;
	const greg_t *all;
};

/* Turning the low bits to the top makes a misaligned distance a huge one: one comparison checks both. */
UNWIND_RAW static inline bool view_load(const struct view *v, uintptr_t addr, uintptr_t *value)
{
	uintptr_t at = addr - v->low;

	if (__builtin_expect((at >> 3 | at << 61) >= v->words, 0))
		return false;
	*value = word_at((const void *)addr, v->delta);
	return true;
}

/*
 * Nothing below the stack pointer is anybody's but the red zone, where a frame pointer just popped still lies while the
 * tables say that it is there. The kernel stepped over it to deliver our signal, so it is mapped.
 */
static bool view_init(struct view *v, const struct unwind_stack *s, uintptr_t sp,
		      enum unwind_end *end)
{
	uintptr_t low = s->low, high = s->high;

	*end = UNWIND_FOREIGN_STACK;
	if (sp < low || sp >= high)
		return false;
	if (sp - low > ARCH_RED_ZONE)
		low = sp - ARCH_RED_ZONE;
	v->delta = 0;
	v->cut = false;
	if (s->copy) {
		v->delta = (uintptr_t)s->copy - s->copy_low;
		if (low < s->copy_low)
			low = s->copy_low;
		if (high - s->copy_low > s->copy_bytes) {
			high = s->copy_low + s->copy_bytes;
			v->cut = true;
		}
		*end = UNWIND_TRUNCATED;
		if (sp < s->copy_low || sp >= high)
			return false;
	}
	v->low = (low + 7) & ~(uintptr_t)7;
	v->words = high > v->low ? (high - v->low) / 8 : 0;
	return true;
}

/* ---- Finding the rule ---- */

UNWIND_RAW static inline bool span_has(const struct unwind_span *span, uintptr_t pc)
{
	return pc - span->low < span->high - span->low;
}

UNWIND_RAW static const struct unwind_span *span_find(const struct unwind_table *table,
						      uintptr_t pc)
{
	const struct unwind_span *span = table->span;
	unsigned n = table->n_spans;

	if (!n)
		return NULL;
	while (n > 1) {
		unsigned half = n / 2;

		span = span[half].low <= pc ? span + half : span;
		n -= half;
	}
	return span_has(span, pc) ? span : NULL;
}

UNWIND_RAW static inline uint32_t span_rule(const struct unwind_span *span, uintptr_t pc)
{
	uint32_t at = (uint32_t)(pc - span->low);
	const uint32_t *page = span->page + (at >> UNWIND_PAGE_SHIFT);
	const struct unwind_row *row = span->row + page[0];
	uint32_t n = page[1] - page[0] + 1;

	while (n > 1) {
		uint32_t half = n / 2;

		row = row[half].pc <= at ? row + half : row;
		n -= half;
	}
	return row->rule;
}

/* Most callers are in the module of their callee: @span is the one before, and becomes @pc's. */
UNWIND_RAW static inline uint32_t rule_find(const struct unwind_table *table,
					    const struct unwind_span **span, uintptr_t pc)
{
	if (!*span || !span_has(*span, pc))
		*span = span_find(table, pc);
	return *span ? span_rule(*span, pc) : UNWIND_NONE;
}

/* ---- Remembering rules: words of unwind_table.cache ---- */

#define CACHE_RA_ALONE    (UNWIND_RA_ALONE >> UNWIND_CFA_SHIFT)
#define CACHE_WORDS_SHIFT (UNWIND_WORDS_SHIFT - UNWIND_CFA_SHIFT)
#define CACHE_BY_FP       (1u << 29)
#define CACHE_PC_SHIFT    30 /* leaves room for 47 bits of pc, 49 on aarch64 */

/* The plain @rule of any pc as the low bits of a word. */
static inline uint64_t cache_rule(uint32_t rule)
{
	return rule >> UNWIND_CFA_SHIFT |
	       ((rule & UNWIND_KIND_MASK) == UNWIND_FP ? CACHE_BY_FP : 0);
}

static inline uint64_t cache_pc(uintptr_t pc)
{
	return (uint64_t)pc >> (UNWIND_CACHE_BITS + ARCH_PC_SHIFT) << CACHE_PC_SHIFT;
}

/* Exactly: what the word leaves out of a pc is its place, or is 0 in every address that has a rule. */
static inline bool cache_is_of(uint64_t word, uintptr_t pc)
{
	return word >> CACHE_PC_SHIFT == pc >> (UNWIND_CACHE_BITS + ARCH_PC_SHIFT);
}

UNWIND_RAW static inline _Atomic uint64_t *cache_slot(struct unwind_table *table, uintptr_t pc)
{
	return &table->cache[pc >> ARCH_PC_SHIFT & ((1u << UNWIND_CACHE_BITS) - 1)];
}

/* ---- Rules ---- */

UNWIND_RAW static bool reg_get(const struct frame *f, unsigned reg, uintptr_t *value)
{
	if (reg == ARCH_SP)
		*value = f->sp;
	else if (reg == ARCH_FP)
		*value = f->fp;
	else if (f->all && reg < ARCH_REGS)
		*value = word_at(f->all, arch_register(reg) * sizeof(uintptr_t));
	else
		return false;
	return true;
}

/* What a frame called, pc 0 if nothing: the only one whose copy of a register we look for. */
struct callee {
	uintptr_t pc;
	const greg_t *all;
};

/* rbx as it was when @callee was called, which put it below its CFA, or has not touched it yet. */
UNWIND_RAW static bool bx_of_caller(const struct unwind_span *span, const struct callee *callee,
				    const struct view *v, const struct frame *f, uintptr_t *value)
{
	const struct unwind_row *row = span->bx;
	uint32_t n = span->n_bx, at = (uint32_t)(callee->pc - span->low);

	if (!n || !callee->pc || !span_has(span, callee->pc))
		return false;
	while (n > 1) {
		uint32_t half = n / 2;

		row = row[half].pc <= at ? row + half : row;
		n -= half;
	}
	if (row->rule == UNWIND_BX_KEPT && callee->all) {
		*value = word_at(callee->all, arch_register(ARCH_BX) * sizeof(uintptr_t));
		return true;
	}
	return row->rule != UNWIND_BX_KEPT && row->rule != UNWIND_BX_UNKNOWN &&
	       view_load(v, f->sp - row->rule * sizeof(uintptr_t), value);
}

/* The CFA and the caller's fp by a wide rule; false when the stack or the registers do not say. */
UNWIND_RAW static bool wide_apply(const struct unwind_span *span, uint32_t index,
				  const struct callee *callee, const struct view *v,
				  const struct frame *f, uintptr_t *cfa, uintptr_t *fp)
{
	const struct unwind_wide *w = &span->wide[index];
	uintptr_t base;

	if (!reg_get(f, w->cfa_reg, &base) &&
	    (w->cfa_reg != ARCH_BX || !bx_of_caller(span, callee, v, f, &base)))
		return false;
	*cfa = base + (uintptr_t)(intptr_t)w->cfa_offset;
	if (w->cfa_deref) {
		if (!view_load(v, *cfa, cfa))
			return false;
		*cfa += (uintptr_t)(intptr_t)w->cfa_add;
	}
	switch (w->fp_how) {
	case UNWIND_FP_KEPT:
		return true;
	case UNWIND_FP_AT_CFA:
		return view_load(v, *cfa + (uintptr_t)(intptr_t)w->fp_offset, fp);
	case UNWIND_FP_AT_REG:
		if (!reg_get(f, w->fp_reg, &base))
			return false;
		base += (uintptr_t)(intptr_t)w->fp_offset;
		/* gcc goes on to say so after `leave`, when fp is the caller's again and points out of this frame */
		return base < f->sp || base >= *cfa || view_load(v, base, fp);
	case UNWIND_FP_IN_REG:
		return reg_get(f, w->fp_reg, fp);
	default:
		*fp = 0;
		return true;
	}
}

/* Go on where a signal interrupted: on this stack and further up, or we would not know that the walk ends. */
UNWIND_RAW static bool signal_apply(const struct view *v, struct frame *f, uintptr_t *pc)
{
	uintptr_t uc = f->sp + ARCH_SIGNAL_CONTEXT, sp, last;

	if (!view_load(v, uc + ARCH_UC_SP, &sp) || !view_load(v, uc + ARCH_UC_FP, &f->fp) ||
	    !view_load(v, uc + ARCH_UC_PC, pc) || !view_load(v, uc + ARCH_UC_LR, &f->lr) ||
	    !view_load(v, uc + ARCH_UC_END - sizeof(last), &last))
		return false;
	if (sp <= f->sp || sp - v->low >= v->words * 8)
		return false;
	f->sp = sp;
	f->all = (const greg_t *)(uc + ARCH_UC_ALL + v->delta);
	return true;
}

/* Why a walk ended that wanted the frame at @cfa. */
static enum unwind_end end_of(const struct view *v, const struct unwind_stack *s, uintptr_t sp,
			      uintptr_t cfa)
{
	if (cfa < s->low || cfa > s->high)
		return UNWIND_FOREIGN_STACK;
	return v->cut && cfa > sp && cfa - v->low > v->words * 8 ? UNWIND_TRUNCATED
								 : UNWIND_NO_RULE;
}

struct frame_at {
	uintptr_t cfa;
	uintptr_t ra; /* where the return address is; with a link register, 0: there */
};

enum rare {
	RARE_CFA,    /* *at says where the frame is, frame->fp is the caller's */
	RARE_CALLER, /* *frame and *pc are the caller's already */
	RARE_END,
};

/* One frame whose rule is not the plain one. */
UNWIND_RAW static __attribute__((noinline)) enum rare
rare_apply(const struct unwind_span *span, uint32_t rule, const struct callee *callee,
	   const struct view *v, struct frame *f, uintptr_t *pc, struct frame_at *at,
	   enum unwind_end *end)
{
	uint32_t arg = rule >> UNWIND_ARG_SHIFT;
	const struct unwind_wide *w;
	uintptr_t fp = f->fp;

	*end = UNWIND_NO_RULE;
	switch (rule & UNWIND_KIND_MASK) {
	case UNWIND_PLT:
		at->cfa = f->sp + 8 + ((*pc & 15) >= arg ? 8 : 0);
		at->ra = at->cfa - 8;
		return RARE_CFA;
	case UNWIND_WIDE:
		w = &span->wide[arg];
		if (!wide_apply(span, arg, callee, v, f, &at->cfa, &fp))
			return RARE_END;
		f->fp = fp;
		at->ra = w->ra_offset ? at->cfa + (uintptr_t)(intptr_t)w->ra_offset : 0;
		return RARE_CFA;
	case UNWIND_SIGNAL:
		if (signal_apply(v, f, pc))
			return RARE_CALLER;
		*end = v->cut ? UNWIND_TRUNCATED : UNWIND_FOREIGN_STACK;
		return RARE_END;
	case UNWIND_ROOT:
		*end = UNWIND_COMPLETE;
		return RARE_END;
	default:
		return RARE_END;
	}
}

/* By a plain rule, as it lies in the cache: where the frame is, and the caller's fp. */
UNWIND_RAW static inline bool plain_apply(uint64_t word, const struct view *v, struct frame *f,
					  struct frame_at *at)
{
	uintptr_t saved = (word >> CACHE_WORDS_SHIFT & UNWIND_WORDS) * 8;
	uintptr_t base = f->sp;

	if (unlikely(word & CACHE_BY_FP)) {
		base = f->fp;
		__asm__(""
			: "+r"(base)); /* a branch: choosing by cmov waits for both, 0.2 ns a frame */
	}
	at->cfa = base + (word & UNWIND_CFA_WORDS) * 8;
	at->ra = at->cfa - 8;
	if (ARCH_LINK_REGISTER) {
		at->ra = saved ? at->cfa - saved : 0;
		if (word & CACHE_RA_ALONE || !saved)
			return true;
		at->ra += 8;
	}
	return !saved || view_load(v, at->cfa - saved, &f->fp);
}

UNWIND_RAW static inline bool load_ra(const struct view *v, const struct frame *f,
				      const struct frame_at *at, uintptr_t *ra)
{
	/* a leaf may have no frame; only once, for there is no lr after it */
	if (ARCH_LINK_REGISTER && !at->ra) {
		*ra = f->lr;
		return at->cfa >= f->sp && f->lr;
	}
	return at->cfa > f->sp && view_load(v, at->ra, ra);
}

UNWIND_RAW static unsigned walk(struct unwind_table *table, const struct unwind_regs *regs,
				const struct unwind_stack *stack, uintptr_t *pcs, unsigned max,
				enum unwind_end *end)
{
	struct frame f = { regs->sp, regs->fp, regs->lr, regs->all };
	const struct unwind_span *span = NULL;
	uintptr_t pc = regs->pc;
	struct view v;
	unsigned n = 1, interrupted = 0; /* the last frame whose registers are all known */
	const greg_t *interrupted_all = regs->all;

	pcs[0] = pc;
	if (!view_init(&v, stack, f.sp, end))
		return n;
	*end = UNWIND_NO_RULE;
	if (!table)
		return n;
	for (;; pcs[n++] = pc) {
		_Atomic uint64_t *slot = cache_slot(table, pc);
		uint64_t word = atomic_load_explicit(slot, memory_order_relaxed);
		struct frame_at at;
		uintptr_t ra;

		if (unlikely(!cache_is_of(word, pc))) {
			uint32_t rule = rule_find(table, &span, pc);

			if (unlikely((rule & UNWIND_KIND_MASK) > UNWIND_FP)) {
				/* a copy, so that the plain rules keep theirs in registers */
				struct frame rare = f;
				struct frame_at rare_at = { 0, 0 };
				uintptr_t rare_pc = pc;
				const struct callee callee = {
					n > 1 ? pcs[n - 2] : 0,
					n == interrupted + 2 ? interrupted_all : NULL,
				};
				enum rare how = rare_apply(span, rule, &callee, &v, &rare, &rare_pc,
							   &rare_at, end);

				if (how == RARE_END)
					return n;
				f.fp = rare.fp;
				at = rare_at;
				if (how == RARE_CFA)
					goto ra;
				f = rare;
				pc = rare_pc;
				interrupted = n;
				interrupted_all = f.all;
				goto caller;
			}
			word = cache_rule(rule);
			/* where a thread is interrupted is seldom the same place again */
			if (n > 1 && cache_is_of(cache_pc(pc), pc))
				atomic_store_explicit(slot, cache_pc(pc) | word,
						      memory_order_relaxed);
		}
		if (!plain_apply(word, &v, &f, &at))
			goto out_of_stack;
	ra:
		if (!load_ra(&v, &f, &at, &ra)) {
		out_of_stack:
			*end = end_of(&v, stack, f.sp, at.cfa);
			return n;
		}
		ra = arch_pc(ra);
		f = (struct frame){ at.cfa, f.fp, 0, NULL };
		if (!ra) {
			*end = UNWIND_COMPLETE;
			return n;
		}
		pc = ra - 1;
	caller:
		if (n == max) {
			*end = UNWIND_TRUNCATED;
			return n;
		}
	}
}

unsigned unwind_walk(const struct unwind_regs *regs, const struct unwind_stack *stack,
		     uintptr_t *pcs, unsigned max, enum unwind_end *end)
{
	struct unwind_table *table;
	atomic_uint *walks;
	unsigned n;

	*end = UNWIND_TRUNCATED;
	if (!max)
		return 0;
	walks = &handover.reader[atomic_load_explicit(&handover.epoch, memory_order_relaxed) & 1]
			 .walks;
	atomic_fetch_add_explicit(walks, 1, memory_order_seq_cst);
	table = atomic_load_explicit(&handover.table, memory_order_seq_cst);
	n = walk(table, regs, stack, pcs, max, end);
	/* pairs with the load in unwind_reclaim(): the walk's reads come before the table's end */
	atomic_fetch_sub_explicit(walks, 1, memory_order_release);
	return n;
}
