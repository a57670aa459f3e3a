/* SPDX-License-Identifier: MIT
 *
 * .eh_frame is a list of CIEs (what a group of functions has in common) and FDEs (one per function), each with a small
 * program that says, address by address, where the caller's registers are. We run every program once and write down
 * what sig/unwind.h needs of it: the frame's address (CFA), the caller's frame pointer, the return address. Whatever it
 * cannot express becomes UNWIND_NONE and is counted.
 *
 *	.eh_frame_hdr table ─┐
 *	                     ├► struct fde[], sorted ─► run CIE's and FDE's program ─► rows, equal neighbours merged
 *	.eh_frame in order  ─┘
 *
 * Threads: pure.
 */
#include "agent/core/ehframe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Pointer encodings: low four bits the form, then what it is relative to. */
enum {
	PE_ABSOLUTE = 0x00,
	PE_ULEB = 0x01,
	PE_UDATA2 = 0x02,
	PE_UDATA4 = 0x03,
	PE_UDATA8 = 0x04,
	PE_SLEB = 0x09,
	PE_SDATA2 = 0x0a,
	PE_SDATA4 = 0x0b,
	PE_SDATA8 = 0x0c,
	PE_FORM = 0x0f,
	PE_PCREL = 0x10,
	PE_DATAREL = 0x30,
	PE_BASE = 0x70,
	PE_INDIRECT = 0x80,
	PE_OMIT = 0xff,
};

enum {
	CFA_NOP = 0x00,
	CFA_SET_LOC = 0x01,
	CFA_ADVANCE_LOC1 = 0x02,
	CFA_ADVANCE_LOC2 = 0x03,
	CFA_ADVANCE_LOC4 = 0x04,
	CFA_OFFSET_EXTENDED = 0x05,
	CFA_RESTORE_EXTENDED = 0x06,
	CFA_UNDEFINED = 0x07,
	CFA_SAME_VALUE = 0x08,
	CFA_REGISTER = 0x09,
	CFA_REMEMBER_STATE = 0x0a,
	CFA_RESTORE_STATE = 0x0b,
	CFA_DEF_CFA = 0x0c,
	CFA_DEF_CFA_REGISTER = 0x0d,
	CFA_DEF_CFA_OFFSET = 0x0e,
	CFA_DEF_CFA_EXPRESSION = 0x0f,
	CFA_EXPRESSION = 0x10,
	CFA_OFFSET_EXTENDED_SF = 0x11,
	CFA_DEF_CFA_SF = 0x12,
	CFA_DEF_CFA_OFFSET_SF = 0x13,
	CFA_VAL_OFFSET = 0x14,
	CFA_VAL_OFFSET_SF = 0x15,
	CFA_VAL_EXPRESSION = 0x16,
	CFA_AARCH64_NEGATE_RA_STATE = 0x2d,
	CFA_GNU_ARGS_SIZE = 0x2e,
	CFA_GNU_NEGATIVE_OFFSET_EXTENDED = 0x2f,
	CFA_ADVANCE_LOC = 0x40, /* these three: the operand is in the low six bits */
	CFA_OFFSET = 0x80,
	CFA_RESTORE = 0xc0,
};

enum {
	OP_DEREF = 0x06,
	OP_AND = 0x1a,
	OP_PLUS = 0x22,
	OP_PLUS_UCONST = 0x23,
	OP_SHL = 0x24,
	OP_GE = 0x2a,
	OP_LIT0 = 0x30,
	OP_LIT31 = 0x4f,
	OP_BREG0 = 0x70,
};

#define REMEMBER_MAX 32  /* compilers nest one or two */
#define WIDE_LOOK    256 /* how far back an equal wide rule is looked for */

/* ---- Reading: a cursor that sticks at the end ---- */

struct cursor {
	const uint8_t *p, *end;
	uintptr_t delta; /* from p to its address in the module */
	bool bad;
};

static bool cursor_init(struct cursor *c, const struct ehframe_bytes *b, uintptr_t address)
{
	uintptr_t at = address - b->address;

	*c = (struct cursor){ b->data, b->data, b->address - (uintptr_t)b->data, at >= b->size };
	if (c->bad)
		return false;
	c->p = b->data + at;
	c->end = b->data + b->size;
	return true;
}

static const uint8_t *cursor_take(struct cursor *c, uint64_t n)
{
	const uint8_t *p = c->p;

	if (n > (uint64_t)(c->end - p)) {
		c->bad = true;
		c->p = c->end;
		return NULL;
	}
	c->p += n;
	return p;
}

/* A little-endian unsigned number of @n <= 8 bytes. */
static uint64_t cursor_fixed(struct cursor *c, unsigned n)
{
	const uint8_t *p = cursor_take(c, n);
	uint64_t v = 0;

	for (unsigned i = 0; p && i < n; i++)
		v |= (uint64_t)p[i] << 8 * i;
	return v;
}

static uint8_t cursor_u8(struct cursor *c)
{
	return (uint8_t)cursor_fixed(c, 1);
}

static uint64_t cursor_leb(struct cursor *c, bool is_signed)
{
	uint64_t v = 0;
	unsigned shift = 0;
	uint8_t byte;

	do {
		byte = cursor_u8(c);
		if (shift < 64)
			v |= (uint64_t)(byte & 0x7f) << shift;
		shift += 7;
	} while (byte & 0x80 && !c->bad);
	if (is_signed && byte & 0x40 && shift < 64)
		v |= ~(uint64_t)0 << shift;
	return v;
}

static uint64_t cursor_uleb(struct cursor *c)
{
	return cursor_leb(c, false);
}

static int64_t cursor_sleb(struct cursor *c)
{
	return (int64_t)cursor_leb(c, true);
}

/* A pointer in @encoding; @data_base is what "data relative" means: .eh_frame_hdr's address. */
static uintptr_t cursor_pointer(struct cursor *c, uint8_t encoding, uintptr_t data_base)
{
	uintptr_t here = (uintptr_t)c->p + c->delta;
	uint64_t v;

	switch (encoding & PE_FORM) {
	case PE_ABSOLUTE:
	case PE_UDATA8:
	case PE_SDATA8:
		v = cursor_fixed(c, 8);
		break;
	case PE_ULEB:
		v = cursor_uleb(c);
		break;
	case PE_SLEB:
		v = (uint64_t)cursor_sleb(c);
		break;
	case PE_UDATA2:
		v = cursor_fixed(c, 2);
		break;
	case PE_SDATA2:
		v = (uint64_t)(int16_t)cursor_fixed(c, 2);
		break;
	case PE_UDATA4:
		v = cursor_fixed(c, 4);
		break;
	case PE_SDATA4:
		v = (uint64_t)(int32_t)cursor_fixed(c, 4);
		break;
	default:
		c->bad = true;
		return 0;
	}
	switch (encoding & PE_BASE) {
	case PE_ABSOLUTE:
		return (uintptr_t)v;
	case PE_PCREL:
		return here + (uintptr_t)v;
	case PE_DATAREL:
		return data_base + (uintptr_t)v;
	default:
		c->bad = true;
		return 0;
	}
}

/* ---- The state that a program builds up ---- */

enum saved_how {
	SAVED_SAME, /* still in its register; also what nothing was said about */
	SAVED_AT_CFA,
	SAVED_AT_REG,
	SAVED_IN_REG,
	SAVED_UNDEFINED,
	SAVED_OTHER,
};

struct saved {
	enum saved_how how;
	uint8_t reg;
	int64_t offset;
};

enum cfa_how {
	CFA_UNKNOWN,
	CFA_REG,   /* reg + offset */
	CFA_DEREF, /* *(reg + offset) + add */
	CFA_PLT,   /* the linker's expression; offset is the threshold */
};

struct state {
	enum cfa_how how;
	uint8_t reg;
	int64_t offset, add;
	struct saved fp, ra; /* the registers we follow */
	struct saved sp;     /* only to see that it is the CFA, as always */
	struct saved bx;     /* only where the walk needs it, see rule_of_bx() */
};

struct cie {
	bool known; /* else the rest means nothing */
	uintptr_t address;
	uint64_t code_align;
	int64_t data_align;
	uint8_t encoding;
	bool has_augmentation, is_signal_frame;
	struct cursor program;
	struct state initial;
};

static struct saved *state_saved(struct state *s, uint64_t reg)
{
	switch (reg) {
	case ARCH_FP:
		return &s->fp;
	case ARCH_SP:
		return &s->sp;
	case ARCH_RA:
		return &s->ra;
	case ARCH_BX:
		return &s->bx;
	default:
		return NULL;
	}
}

static void state_save(struct state *s, uint64_t reg, enum saved_how how, uint8_t in,
		       int64_t offset)
{
	struct saved *saved = state_saved(s, reg);

	if (saved)
		*saved = (struct saved){ how, in, offset };
}

static void state_restore(struct state *s, const struct state *initial, uint64_t reg)
{
	struct state first = *initial;
	struct saved *saved = state_saved(s, reg);

	if (saved)
		*saved = *state_saved(&first, reg);
}

static void state_cfa(struct state *s, uint64_t reg, int64_t offset)
{
	s->how = reg < ARCH_REGS ? CFA_REG : CFA_UNKNOWN;
	s->reg = (uint8_t)(reg < ARCH_REGS ? reg : ARCH_REGS);
	s->offset = offset;
}

/* The numbers come from the file: wrap, do not overflow. */
static int64_t scaled(uint64_t factor, int64_t align)
{
	return (int64_t)(factor * (uint64_t)align);
}

/* ---- Expressions: the few forms that occur ---- */

/* Lazy binding entries push a word on the way, which the linker describes by the place in the 16-byte entry. */
static bool expr_is_plt(struct cursor c, int64_t *threshold)
{
	uint8_t lit;

	if (cursor_u8(&c) != OP_BREG0 + ARCH_SP || cursor_sleb(&c) != 8 ||
	    cursor_u8(&c) != OP_BREG0 + ARCH_RA || cursor_sleb(&c) != 0 ||
	    cursor_u8(&c) != OP_LIT0 + 15 || cursor_u8(&c) != OP_AND)
		return false;
	lit = cursor_u8(&c);
	*threshold = lit - OP_LIT0;
	return lit >= OP_LIT0 && lit < OP_LIT0 + 16 && cursor_u8(&c) == OP_GE &&
	       cursor_u8(&c) == OP_LIT0 + 3 && cursor_u8(&c) == OP_SHL &&
	       cursor_u8(&c) == OP_PLUS && !c.bad && c.p == c.end;
}

/* reg + offset, or with *deref what lies there, + add. */
static bool expr_is_address(struct cursor c, uint8_t *reg, int64_t *offset, bool *deref,
			    int64_t *add)
{
	uint8_t op = cursor_u8(&c);

	if (c.bad || op < OP_BREG0 || op >= OP_BREG0 + ARCH_REGS)
		return false;
	*reg = (uint8_t)(op - OP_BREG0);
	*offset = cursor_sleb(&c);
	*deref = false;
	*add = 0;
	if (c.p < c.end && *c.p == OP_DEREF) {
		cursor_u8(&c);
		*deref = true;
		if (c.p < c.end && *c.p == OP_PLUS_UCONST) {
			cursor_u8(&c);
			*add = (int64_t)cursor_uleb(&c);
		} else if (c.p < c.end && *c.p >= OP_LIT0 && *c.p <= OP_LIT31) {
			*add = cursor_u8(&c) - OP_LIT0;
			if (cursor_u8(&c) != OP_PLUS)
				return false;
		}
	}
	return !c.bad && c.p == c.end;
}

static void state_cfa_expression(struct state *s, struct cursor expr)
{
	bool deref;

	s->how = CFA_UNKNOWN;
	if (expr_is_plt(expr, &s->offset))
		s->how = CFA_PLT;
	else if (expr_is_address(expr, &s->reg, &s->offset, &deref, &s->add))
		s->how = deref ? CFA_DEREF : CFA_REG;
}

static void state_save_expression(struct state *s, uint64_t reg, struct cursor expr)
{
	uint8_t base = 0;
	int64_t offset = 0, add;
	bool deref;

	if (expr_is_address(expr, &base, &offset, &deref, &add) && !deref)
		state_save(s, reg, SAVED_AT_REG, base, offset);
	else
		state_save(s, reg, SAVED_OTHER, 0, 0);
}

/* ---- From a state to a rule ---- */

struct builder {
	struct ehframe_rows *rows;
	uint32_t room, wide_room;
	uintptr_t low, high;
	bool failed;  /* out of memory */
	bool bx_asks; /* some frame's address is in rbx */
	bool of_bx;   /* this pass is about rbx */
};

static bool fits32(int64_t v)
{
	return v == (int32_t)v;
}

/* The index of @wide among the module's, -1 when there is no room. */
static int64_t wide_index(struct builder *b, const struct unwind_wide *wide)
{
	struct ehframe_rows *r = b->rows;

	for (uint32_t i = r->n_wide; i-- > 0 && r->n_wide - i <= WIDE_LOOK;)
		if (!memcmp(&r->wide[i], wide, sizeof(*wide)))
			return i;
	if (r->n_wide == EHFRAME_WIDE_MAX)
		return -1;
	if (r->n_wide == b->wide_room) {
		uint32_t room = b->wide_room ? b->wide_room * 2 : 16;
		struct unwind_wide *bigger = realloc(r->wide, room * sizeof(*bigger));

		if (!bigger) {
			b->failed = true;
			return -1;
		}
		r->wide = bigger;
		b->wide_room = room;
	}
	r->wide[r->n_wide] = *wide;
	return r->n_wide++;
}

static bool wide_from(const struct state *s, struct unwind_wide *w)
{
	static const uint8_t how[] = {
		[SAVED_SAME] = UNWIND_FP_KEPT,         [SAVED_AT_CFA] = UNWIND_FP_AT_CFA,
		[SAVED_AT_REG] = UNWIND_FP_AT_REG,     [SAVED_IN_REG] = UNWIND_FP_IN_REG,
		[SAVED_UNDEFINED] = UNWIND_FP_UNKNOWN, [SAVED_OTHER] = UNWIND_FP_UNKNOWN,
	};

	if (!fits32(s->offset) || !fits32(s->add) || !fits32(s->fp.offset) || !fits32(s->ra.offset))
		return false;
	memset(w, 0, sizeof(*w));
	w->cfa_reg = s->reg;
	w->cfa_offset = (int32_t)s->offset;
	if (s->how == CFA_DEREF) {
		w->cfa_deref = 1;
		w->cfa_add = (int32_t)s->add;
	}
	w->fp_how = how[s->fp.how];
	w->fp_reg = s->fp.reg;
	w->fp_offset = (int32_t)s->fp.offset;
	w->ra_offset = s->ra.how == SAVED_AT_CFA ? (int32_t)s->ra.offset : 0;
	return true;
}

/* The common rules, which fit in the row itself; UNWIND_NONE when it is another. */
static uint32_t narrow_rule(const struct state *s)
{
	uint64_t cfa = (uint64_t)s->offset, down = 0;
	uint32_t alone = 0;

	if (s->how != CFA_REG || (s->reg != ARCH_SP && s->reg != ARCH_FP) || cfa % 8 ||
	    cfa / 8 > UNWIND_CFA_WORDS)
		return UNWIND_NONE;
	if (s->fp.how == SAVED_AT_CFA) {
		down = 0 - (uint64_t)s->fp.offset;
		if (!down || (ARCH_LINK_REGISTER &&
			      (s->ra.how != SAVED_AT_CFA || s->ra.offset != s->fp.offset + 8)))
			return UNWIND_NONE;
	} else if (s->fp.how != SAVED_SAME) {
		return UNWIND_NONE;
	} else if (ARCH_LINK_REGISTER && s->ra.how == SAVED_AT_CFA) {
		down = 0 - (uint64_t)s->ra.offset;
		alone = UNWIND_RA_ALONE;
	}
	if (down % 8 || down / 8 > UNWIND_WORDS)
		return UNWIND_NONE;
	return (s->reg == ARCH_SP ? UNWIND_SP : UNWIND_FP) | alone |
	       (uint32_t)(cfa / 8) << UNWIND_CFA_SHIFT | (uint32_t)(down / 8) << UNWIND_WORDS_SHIFT;
}

/* Whether the return address is where the walk looks for it, or where a rule can say it is. */
static bool ra_is_found(const struct saved *ra)
{
	if (ARCH_LINK_REGISTER)
		return ra->how == SAVED_SAME || (ra->how == SAVED_AT_CFA && ra->offset);
	return ra->how == SAVED_AT_CFA && ra->offset == -8;
}

static uint32_t state_rule(struct builder *b, const struct cie *cie, const struct state *s)
{
	struct unwind_wide wide;
	uint32_t rule;
	int64_t index;

	/*
	 * The kernel's signal frame. On x86_64 its CFA is the interrupted stack pointer, kept in the ucontext at sp; on
	 * aarch64 the description knows two registers of it only, the walk all.
	 */
	if (cie->is_signal_frame &&
	    (ARCH_LINK_REGISTER || (s->how == CFA_DEREF && s->reg == ARCH_SP &&
				    s->offset == ARCH_SIGNAL_CONTEXT + ARCH_UC_SP)))
		return UNWIND_SIGNAL;
	if (s->ra.how == SAVED_UNDEFINED)
		return UNWIND_ROOT;
	if (s->how == CFA_UNKNOWN || !ra_is_found(&s->ra) || s->sp.how != SAVED_SAME)
		goto exotic;
	if (s->how == CFA_PLT && s->fp.how == SAVED_SAME)
		return UNWIND_PLT | (uint32_t)s->offset << UNWIND_ARG_SHIFT;
	rule = narrow_rule(s);
	if (rule != UNWIND_NONE)
		return rule;
	if (s->how == CFA_PLT || !wide_from(s, &wide))
		goto exotic;
	index = wide_index(b, &wide);
	b->bx_asks |= s->how != CFA_PLT && s->reg == ARCH_BX;
	if (index >= 0)
		return UNWIND_WIDE | (uint32_t)index << UNWIND_ARG_SHIFT;
	b->rows->counts.refused++;
	return UNWIND_NONE;
exotic:
	b->rows->counts.exotic++;
	return UNWIND_NONE;
}

/*
 * The dynamic linker's entry for lazy binding keeps its frame's address in rbx, which whom it calls saves: a module with
 * such frames gets rows of where rbx is, too.
 */
static uint32_t rule_of_bx(const struct state *s)
{
	uint64_t words = (0 - (uint64_t)s->bx.offset) / 8;

	if (s->bx.how == SAVED_SAME)
		return UNWIND_BX_KEPT;
	return s->bx.how == SAVED_AT_CFA && s->bx.offset % 8 == 0 && words < UNWIND_BX_UNKNOWN
		       ? (uint32_t)words
		       : UNWIND_BX_UNKNOWN;
}

/* ---- Rows ---- */

static uint32_t unknown(const struct builder *b)
{
	return b->of_bx ? UNWIND_BX_UNKNOWN : UNWIND_NONE;
}

/* From @pc on @rule holds. @pc never goes back. */
static void row_add(struct builder *b, uint32_t pc, uint32_t rule)
{
	struct ehframe_rows *r = b->rows;

	if (r->n_rows >= EHFRAME_ROWS_MAX - 1)
		rule = unknown(b);
	if (r->n_rows && r->row[r->n_rows - 1].pc == pc)
		r->n_rows--;
	if (r->n_rows && r->row[r->n_rows - 1].rule == rule)
		return;
	if (r->n_rows == b->room) {
		uint32_t room = b->room ? b->room * 2 : 1024;
		struct unwind_row *bigger = realloc(r->row, room * sizeof(*bigger));

		if (!bigger) {
			b->failed = true;
			return;
		}
		r->row = bigger;
		b->room = room;
	}
	r->row[r->n_rows++] = (struct unwind_row){ pc, rule };
}

/* ---- Running a program ---- */

struct run {
	struct builder *b; /* NULL for a CIE's program: no rows */
	const struct cie *cie;
	struct state state;
	uintptr_t at, end; /* the function's address reached so far, and its end */
	uintptr_t data_base;
	struct state *kept; /* room for REMEMBER_MAX, elsewhere: this here is cleared every time */
	unsigned n_kept;
};

/* The state so far holds from run->at up to @to. */
static void run_advance(struct run *run, struct cursor *c, uintptr_t to)
{
	if (to < run->at) {
		c->bad = true;
		return;
	}
	if (to > run->at && run->b && run->at < run->end)
		row_add(run->b, (uint32_t)(run->at - run->b->low),
			run->b->of_bx ? rule_of_bx(&run->state)
				      : state_rule(run->b, run->cie, &run->state));
	run->at = to;
}

static void run_keep(struct run *run, struct cursor *c, bool restore)
{
	if (restore && run->n_kept)
		run->state = run->kept[--run->n_kept];
	else if (!restore && run->n_kept < REMEMBER_MAX)
		run->kept[run->n_kept++] = run->state;
	else
		c->bad = true;
}

static struct cursor take_block(struct cursor *c)
{
	struct cursor block = *c;
	uint64_t n = cursor_uleb(c);

	block.p = c->p;
	block.end = cursor_take(c, n) ? c->p : block.p;
	block.bad = c->bad;
	return block;
}

/* Instructions that say where a register of the caller is. */
static void run_save(struct run *run, struct cursor *c, uint8_t op)
{
	int64_t align = run->cie->data_align;
	struct state *s = &run->state;
	uint64_t reg = cursor_uleb(c), other;

	switch (op) {
	case CFA_OFFSET_EXTENDED:
		state_save(s, reg, SAVED_AT_CFA, 0, scaled(cursor_uleb(c), align));
		break;
	case CFA_OFFSET_EXTENDED_SF:
		state_save(s, reg, SAVED_AT_CFA, 0, scaled((uint64_t)cursor_sleb(c), align));
		break;
	case CFA_GNU_NEGATIVE_OFFSET_EXTENDED:
		state_save(s, reg, SAVED_AT_CFA, 0, scaled(0 - cursor_uleb(c), align));
		break;
	case CFA_RESTORE_EXTENDED:
		state_restore(s, &run->cie->initial, reg);
		break;
	case CFA_UNDEFINED:
		state_save(s, reg, SAVED_UNDEFINED, 0, 0);
		break;
	case CFA_SAME_VALUE:
		state_save(s, reg, SAVED_SAME, 0, 0);
		break;
	case CFA_REGISTER:
		other = cursor_uleb(c);
		state_save(s, reg, other < ARCH_REGS ? SAVED_IN_REG : SAVED_OTHER, (uint8_t)other,
			   0);
		break;
	case CFA_EXPRESSION:
		state_save_expression(s, reg, take_block(c));
		break;
	case CFA_VAL_OFFSET:
	case CFA_VAL_OFFSET_SF:
		/* the caller's sp is the CFA + 0 anyway */
		other = cursor_leb(c, op == CFA_VAL_OFFSET_SF);
		state_save(s, reg, reg == ARCH_SP && !other ? SAVED_SAME : SAVED_OTHER, 0, 0);
		break;
	default: /* CFA_VAL_EXPRESSION */
		take_block(c);
		state_save(s, reg, SAVED_OTHER, 0, 0);
	}
}

/* Instructions that say where the frame is. */
static void run_cfa(struct run *run, struct cursor *c, uint8_t op)
{
	int64_t align = run->cie->data_align;
	struct state *s = &run->state;
	uint64_t reg;

	switch (op) {
	case CFA_DEF_CFA:
		reg = cursor_uleb(c);
		state_cfa(s, reg, (int64_t)cursor_uleb(c));
		break;
	case CFA_DEF_CFA_SF:
		reg = cursor_uleb(c);
		state_cfa(s, reg, scaled((uint64_t)cursor_sleb(c), align));
		break;
	case CFA_DEF_CFA_REGISTER:
		state_cfa(s, cursor_uleb(c), s->offset);
		break;
	case CFA_DEF_CFA_OFFSET:
		state_cfa(s, s->reg, (int64_t)cursor_uleb(c));
		break;
	case CFA_DEF_CFA_OFFSET_SF:
		state_cfa(s, s->reg, scaled((uint64_t)cursor_sleb(c), align));
		break;
	default: /* CFA_DEF_CFA_EXPRESSION */
		state_cfa_expression(s, take_block(c));
	}
}

static void run_extended(struct run *run, struct cursor *c, uint8_t op)
{
	uint64_t unit = run->cie->code_align;

	switch (op) {
	case CFA_NOP:
	case CFA_AARCH64_NEGATE_RA_STATE: /* signed or not: arch_pc() takes it */
		break;
	case CFA_SET_LOC:
		run_advance(run, c, cursor_pointer(c, run->cie->encoding, run->data_base));
		break;
	case CFA_ADVANCE_LOC1:
		run_advance(run, c, run->at + cursor_fixed(c, 1) * unit);
		break;
	case CFA_ADVANCE_LOC2:
		run_advance(run, c, run->at + cursor_fixed(c, 2) * unit);
		break;
	case CFA_ADVANCE_LOC4:
		run_advance(run, c, run->at + cursor_fixed(c, 4) * unit);
		break;
	case CFA_REMEMBER_STATE:
	case CFA_RESTORE_STATE:
		run_keep(run, c, op == CFA_RESTORE_STATE);
		break;
	case CFA_DEF_CFA:
	case CFA_DEF_CFA_SF:
	case CFA_DEF_CFA_REGISTER:
	case CFA_DEF_CFA_OFFSET:
	case CFA_DEF_CFA_OFFSET_SF:
	case CFA_DEF_CFA_EXPRESSION:
		run_cfa(run, c, op);
		break;
	case CFA_GNU_ARGS_SIZE:
		cursor_uleb(c);
		break;
	case CFA_OFFSET_EXTENDED:
	case CFA_RESTORE_EXTENDED:
	case CFA_UNDEFINED:
	case CFA_SAME_VALUE:
	case CFA_REGISTER:
	case CFA_EXPRESSION:
	case CFA_OFFSET_EXTENDED_SF:
	case CFA_VAL_OFFSET:
	case CFA_VAL_OFFSET_SF:
	case CFA_VAL_EXPRESSION:
	case CFA_GNU_NEGATIVE_OFFSET_EXTENDED:
		run_save(run, c, op);
		break;
	default:
		c->bad = true;
	}
}

/* Returns whether the whole of @c made sense. */
static bool run_program(struct run *run, struct cursor c)
{
	while (c.p < c.end && !c.bad) {
		uint8_t op = cursor_u8(&c), low = op & 0x3f;

		switch (op & 0xc0) {
		case CFA_ADVANCE_LOC:
			run_advance(run, &c, run->at + low * run->cie->code_align);
			break;
		case CFA_OFFSET:
			state_save(&run->state, low, SAVED_AT_CFA, 0,
				   scaled(cursor_uleb(&c), run->cie->data_align));
			break;
		case CFA_RESTORE:
			state_restore(&run->state, &run->cie->initial, low);
			break;
		default:
			run_extended(run, &c, op);
		}
	}
	return !c.bad;
}

/* ---- CIEs and FDEs ---- */

/* The entry at @address without its length: *id_address is where its id is. 0 length, the end mark, is -ENOENT. */
static int entry_open(const struct ehframe_bytes *frames, uintptr_t address, struct cursor *c,
		      uintptr_t *id_address)
{
	uint64_t length;

	if (!cursor_init(c, frames, address))
		return -EINVAL;
	length = cursor_fixed(c, 4);
	if (length == 0xffffffff)
		length = cursor_fixed(c, 8);
	if (c->bad || length > (uint64_t)(c->end - c->p))
		return -EINVAL;
	if (!length)
		return -ENOENT;
	c->end = c->p + length;
	*id_address = (uintptr_t)c->p + c->delta;
	return 0;
}

/* What the augmentation string announces, in the order of its letters. */
static bool cie_augmentation(struct cie *cie, struct cursor *c, const uint8_t *letters)
{
	struct cursor data = take_block(c);

	cie->has_augmentation = true;
	for (letters++; *letters; letters++) {
		switch (*letters) {
		case 'R':
			cie->encoding = cursor_u8(&data);
			break;
		case 'P': {
			uint8_t personality = cursor_u8(&data);

			/* it may be indirect and relative to anything; only its size counts */
			cursor_pointer(&data, personality & PE_FORM, 0);
			break;
		}
		case 'L':
			cursor_u8(&data);
			break;
		case 'S':
			cie->is_signal_frame = true;
			break;
		case 'B': /* aarch64: which key signs */
			break;
		default: /* unknown, but the data after it is skipped by its length */
			return !data.bad;
		}
	}
	return !data.bad;
}

static bool cie_read(const struct ehframe_bytes *frames, uintptr_t address, uintptr_t data_base,
		     struct cie *cie)
{
	struct state kept[REMEMBER_MAX];
	struct run run = { .cie = cie, .data_base = data_base, .kept = kept };
	const uint8_t *letters;
	uintptr_t id_address;
	struct cursor c;
	uint8_t version;

	memset(cie, 0, sizeof(*cie));
	if (entry_open(frames, address, &c, &id_address) || cursor_fixed(&c, 4) != 0)
		return false;
	version = cursor_u8(&c);
	letters = c.p;
	while (cursor_u8(&c))
		;
	if (c.bad || (version != 1 && version != 3) || (*letters && *letters != 'z'))
		return false;
	cie->code_align = cursor_uleb(&c);
	cie->data_align = cursor_sleb(&c);
	if ((version == 1 ? cursor_u8(&c) : cursor_uleb(&c)) != ARCH_RA)
		return false;
	if (*letters && !cie_augmentation(cie, &c, letters))
		return false;
	if (cie->encoding & PE_INDIRECT || c.bad)
		return false;
	cie->program = c;
	if (!run_program(&run, c))
		return false;
	cie->initial = run.state;
	cie->address = address;
	cie->known = true;
	return true;
}

/* One function's description. */
struct fde {
	uintptr_t start, end;
	struct cursor program;
};

/* Fills @fde, and @cie with the CIE it names, unless it is there already. -ENOENT: not an FDE. */
static int fde_read(const struct ehframe_bytes *frames, uintptr_t address, uintptr_t data_base,
		    struct cie *cie, struct fde *fde, uintptr_t *next)
{
	uintptr_t id_address, cie_address;
	struct cursor c;
	uint64_t back;
	int err = entry_open(frames, address, &c, &id_address);

	*next = 0;
	if (err)
		return err;
	*next = (uintptr_t)c.end + c.delta;
	back = cursor_fixed(&c, 4);
	if (!back && !c.bad)
		return -ENOENT;
	cie_address = id_address - (uintptr_t)back;
	if ((!cie->known || cie->address != cie_address) &&
	    !cie_read(frames, cie_address, data_base, cie))
		return -EINVAL;
	fde->start = cursor_pointer(&c, cie->encoding, data_base);
	fde->end = fde->start + cursor_pointer(&c, cie->encoding & PE_FORM, 0);
	if (cie->has_augmentation)
		take_block(&c);
	fde->program = c;
	return c.bad || fde->end <= fde->start ? -EINVAL : 0;
}

/* ---- All descriptions of a module ---- */

struct list {
	struct list_item {
		uintptr_t start, fde;
	} * item;
	size_t n, room;
	bool unsorted;
};

static int list_add(struct list *l, uintptr_t start, uintptr_t fde)
{
	if (l->n == l->room) {
		size_t room = l->room ? l->room * 2 : 256;
		struct list_item *bigger = realloc(l->item, room * sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		l->item = bigger;
		l->room = room;
	}
	if (l->n && l->item[l->n - 1].start > start)
		l->unsorted = true;
	l->item[l->n++] = (struct list_item){ start, fde };
	return 0;
}

static int by_start(const void *a, const void *b)
{
	const struct list_item *x = a, *y = b;

	return x->start != y->start ? (x->start > y->start) - (x->start < y->start)
				    : (x->fde > y->fde) - (x->fde < y->fde);
}

struct header {
	uintptr_t frames;
	uint64_t count; /* 0: no table */
	uint8_t table_encoding;
	struct cursor table;
};

static int header_read(const struct ehframe_bytes *hdr, struct header *h)
{
	uint8_t frames_encoding, count_encoding;
	struct cursor c;

	memset(h, 0, sizeof(*h));
	if (!hdr->size || !cursor_init(&c, hdr, hdr->address) || cursor_u8(&c) != 1)
		return -EINVAL;
	frames_encoding = cursor_u8(&c);
	count_encoding = cursor_u8(&c);
	h->table_encoding = cursor_u8(&c);
	if (frames_encoding == PE_OMIT || frames_encoding & PE_INDIRECT)
		return -EINVAL;
	h->frames = cursor_pointer(&c, frames_encoding, hdr->address);
	if (c.bad)
		return -EINVAL;
	if (count_encoding == PE_OMIT || h->table_encoding == PE_OMIT ||
	    h->table_encoding & PE_INDIRECT)
		return 0;
	h->count = cursor_pointer(&c, count_encoding, hdr->address);
	h->table = c;
	if (c.bad)
		h->count = 0;
	return 0;
}

int ehframe_locate(const struct ehframe_bytes *hdr, uintptr_t *address)
{
	struct header h;
	int err = header_read(hdr, &h);

	*address = h.frames;
	return err;
}

static int list_from_table(struct list *l, struct header *h, uintptr_t data_base,
			   struct ehframe_counts *counts)
{
	struct cursor *c = &h->table;
	int err = 0;

	for (uint64_t i = 0; i < h->count && !err; i++) {
		uintptr_t start = cursor_pointer(c, h->table_encoding, data_base);
		uintptr_t fde = cursor_pointer(c, h->table_encoding, data_base);

		if (c->bad) {
			counts->malformed++;
			break;
		}
		if (i == EHFRAME_FDES_MAX) {
			counts->refused += h->count - i;
			break;
		}
		err = list_add(l, start, fde);
	}
	return err;
}

static int list_from_order(struct list *l, const struct ehframe_bytes *frames, uintptr_t data_base,
			   struct ehframe_counts *counts)
{
	uintptr_t at = frames->address, next;
	struct cie cie = { 0 };
	struct fde fde;
	int err = 0;

	for (; at; at = next) {
		err = fde_read(frames, at, data_base, &cie, &fde, &next);
		if (!err && l->n == EHFRAME_FDES_MAX)
			counts->refused++;
		else if (!err && list_add(l, fde.start, at))
			return -ENOMEM;
		else if (err == -EINVAL && next)
			counts->malformed++;
	}
	return 0;
}

/* ---- Digesting ---- */

/* Rows of one function, up to where the next one starts. */
static void digest_fde(struct builder *b, const struct cie *cie, const struct fde *fde,
		       uintptr_t end, uintptr_t data_base)
{
	struct state kept[REMEMBER_MAX];
	struct run run = { .b = b,
			   .cie = cie,
			   .state = cie->initial,
			   .at = fde->start,
			   .end = end,
			   .data_base = data_base,
			   .kept = kept };
	struct cursor none = { 0 };

	b->rows->counts.functions++;
	if (!run_program(&run, fde->program)) {
		/* from here on nothing is known; what came before stands */
		b->rows->counts.malformed++;
		run.state.how = CFA_UNKNOWN;
	}
	if (run.at < end)
		run_advance(&run, &none, end);
}

static void digest_list(struct builder *b, const struct list *l, const struct ehframe_bytes *frames,
			uintptr_t data_base)
{
	struct ehframe_counts *counts = &b->rows->counts;
	uintptr_t known = b->low, next;
	struct cie cie = { 0 };
	struct fde fde;

	row_add(b, 0, unknown(b));
	for (size_t i = 0; i < l->n && !b->failed; i++) {
		uintptr_t end;

		if (b->rows->n_rows >= EHFRAME_ROWS_MAX - 1) {
			counts->refused += l->n - i;
			break;
		}
		if (fde_read(frames, l->item[i].fde, data_base, &cie, &fde, &next) ||
		    fde.start < known || fde.end > b->high) {
			counts->malformed++;
			continue;
		}
		/* padding, too: that something returns to the start of a function makes nobody its caller */
		if (fde.start > known)
			row_add(b, (uint32_t)(known - b->low), unknown(b));
		end = fde.end;
		if (i + 1 < l->n && l->item[i + 1].start > fde.start && l->item[i + 1].start < end)
			end = l->item[i + 1].start;
		digest_fde(b, &cie, &fde, end, data_base);
		known = end;
	}
	if (known < b->high)
		row_add(b, (uint32_t)(known - b->low), unknown(b));
}

/* A second pass over all functions, for the one or two modules that ask for it. */
static void digest_bx(struct builder *b, const struct list *l, const struct ehframe_bytes *frames,
		      uintptr_t data_base)
{
	struct ehframe_rows rows = { 0 };
	struct builder of_bx = { .rows = &rows, .low = b->low, .high = b->high, .of_bx = true };

	digest_list(&of_bx, l, frames, data_base);
	b->rows->bx = rows.row;
	b->rows->n_bx = rows.n_rows;
	b->failed |= of_bx.failed;
}

/* Give back what growing took too much, and index the pages. */
static int rows_finish(struct ehframe_rows *r, uintptr_t size)
{
	size_t n_pages = (size >> UNWIND_PAGE_SHIFT) + 2;
	void *smaller = realloc(r->row, r->n_rows * sizeof(*r->row));
	uint32_t row = 0;

	if (smaller)
		r->row = smaller;
	smaller = r->n_wide ? realloc(r->wide, r->n_wide * sizeof(*r->wide)) : NULL;
	if (smaller)
		r->wide = smaller;
	r->page = malloc(n_pages * sizeof(*r->page));
	if (!r->page)
		return -ENOMEM;
	for (size_t i = 0; i < n_pages; i++) {
		while (row + 1 < r->n_rows && r->row[row + 1].pc <= (uint64_t)i
									    << UNWIND_PAGE_SHIFT)
			row++;
		r->page[i] = row;
	}
	r->bytes = (r->n_rows + r->n_bx) * sizeof(*r->row) + r->n_wide * sizeof(*r->wide) +
		   n_pages * sizeof(*r->page);
	return 0;
}

int ehframe_digest(const struct ehframe_bytes *hdr, const struct ehframe_bytes *frames,
		   uintptr_t low, uintptr_t high, struct ehframe_rows *out)
{
	struct builder b = { .rows = out, .low = low, .high = high };
	struct list list = { 0 };
	struct header header;
	int err = -EINVAL;

	memset(out, 0, sizeof(*out));
	if (low >= high || high - low > UINT32_MAX)
		return -EINVAL;
	if (!header_read(hdr, &header) && header.count)
		err = list_from_table(&list, &header, hdr->address, &out->counts);
	else
		err = list_from_order(&list, frames, hdr->address, &out->counts);
	if (err)
		goto out;
	if (list.unsorted)
		qsort(list.item, list.n, sizeof(*list.item), by_start);
	digest_list(&b, &list, frames, hdr->address);
	if (b.bx_asks && !b.failed)
		digest_bx(&b, &list, frames, hdr->address);
	err = b.failed ? -ENOMEM : out->counts.functions ? rows_finish(out, high - low) : -EINVAL;
out:
	free(list.item);
	if (err) {
		struct ehframe_counts counts = out->counts;

		ehframe_fini(out);
		out->counts = counts;
	}
	return err;
}

void ehframe_fini(struct ehframe_rows *rows)
{
	if (!rows)
		return;
	free(rows->row);
	free(rows->page);
	free(rows->wide);
	free(rows->bx);
	memset(rows, 0, sizeof(*rows));
}
