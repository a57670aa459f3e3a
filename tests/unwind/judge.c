/* SPDX-License-Identifier: MIT
 *
 * Compares the truth, ours and libunwind's, and keeps what differs by who was wrong, how, and in which function: the one
 * whose caller was not found. The list of explanations is here: what it has is known and why, what it has not fails.
 */
#include <elfutils/libdwfl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "step.h"

enum who {
	OURS,
	THEIRS,
	BOTH, /* and the same: is the shadow wrong? */
};
static const char *const who_names[] = { "sonde", "libunwind", "both alike" };

enum how {
	WRONG,       /* a caller that is none */
	NO_CALLERS,  /* ended too early, as it said */
	UNDESCRIBED, /* the same, of code that comes without a description */
	FOREIGN,
	CUT,
	TOO_SHORT, /* libunwind's: it does not say why */
	TOO_LONG,
};
static const char *const how_names[] = { "wrong caller",  "no rule",   "undescribed",
					 "foreign stack", "truncated", "too short",
					 "too long" };

/* ---- What was seen ---- */

#define PLACES_MAX 32768

struct place {
	enum who who;
	enum how how;
	unsigned at;                 /* the frame whose caller is wrong */
	uintptr_t pc;                /* there */
	const struct object *object; /* that has it, or NULL */
	uintptr_t inner;             /* the program counter: elsewhere it may have another reason */
	uint64_t n;
	struct frames *truth, *said; /* the first time */
	/* for the report */
	char *name;
	const struct known *known;
};

static struct place place[PLACES_MAX];
static unsigned n_places;

static struct frames *keep(const struct frames *f)
{
	size_t bytes = offsetof(struct frames, pc) + f->n * sizeof(f->pc[0]);
	struct frames *copy = malloc(bytes);

	if (!copy)
		abort();
	memcpy(copy, f, bytes);
	return copy;
}

static unsigned in_common(const struct frames *a, const struct frames *b)
{
	unsigned i = 0;

	while (i < a->n && i < b->n && a->pc[i] == b->pc[i])
		i++;
	return i;
}

static bool same(const struct frames *a, const struct frames *b)
{
	return a->n == b->n && in_common(a, b) == a->n;
}

static void note(struct target *t, enum who who, enum how how, const struct frames *truth,
		 const struct frames *said)
{
	unsigned common = in_common(truth, said); /* at least the first: all start at the same */
	uintptr_t pc = truth->pc[common - 1];
	const struct object *object = target_object(t, pc);

	for (unsigned i = 0; i < n_places; i++)
		if (place[i].who == who && place[i].how == how && place[i].pc == pc &&
		    place[i].inner == truth->pc[0]) {
			place[i].n++;
			return;
		}
	if (n_places == PLACES_MAX) {
		fprintf(stderr, "more than %d places where walks differ\n", PLACES_MAX);
		exit(2);
	}
	place[n_places++] = (struct place){ .who = who,
					    .how = how,
					    .at = common - 1,
					    .pc = pc,
					    .object = object,
					    .inner = truth->pc[0],
					    .n = 1,
					    .truth = keep(truth),
					    .said = keep(said) };
}

static enum how how_ours(struct target *t, const struct frames *truth, const struct frames *ours,
			 enum unwind_end end)
{
	if (in_common(truth, ours) < ours->n)
		return WRONG;
	switch (end) {
	case UNWIND_NO_RULE:
		return oracle_describes(t, ours->pc[ours->n - 1]) ? NO_CALLERS : UNDESCRIBED;
	case UNWIND_FOREIGN_STACK:
		return FOREIGN;
	case UNWIND_TRUNCATED:
		return CUT;
	default:
		return WRONG; /* complete, it said */
	}
}

static enum how how_theirs(struct target *t, const struct frames *truth,
			   const struct frames *theirs)
{
	unsigned common = in_common(truth, theirs);

	if (common && !oracle_describes(t, truth->pc[common - 1]))
		return UNDESCRIBED;
	return common == theirs->n ? TOO_SHORT : common == truth->n ? TOO_LONG : WRONG;
}

void judge(struct target *t, const struct user_regs_struct *regs, struct shadow *s,
	   struct verdict *v)
{
	static struct frames truth, ours, theirs;
	struct object *o = target_object(t, regs->rip);
	unsigned crosses;
	enum unwind_end end;

	shadow_frames(s, t, regs->rip, &truth, &crosses);
	end = target_walk(t, regs, &ours);
	oracle_walk(t, regs, &theirs, NULL);
	v->compared++;
	v->ends[end]++;
	if (o)
		o->steps++;
	if (truth.n > v->deepest)
		v->deepest = truth.n;
	/* another stack than the thread's own is where our walks end, by design */
	if (crosses < truth.n && end == UNWIND_FOREIGN_STACK && ours.n == crosses)
		truth.n = crosses;
	else if (same(&truth, &ours) && end == UNWIND_COMPLETE)
		;
	else if (same(&ours, &theirs))
		note(t, BOTH, how_ours(t, &truth, &ours, end), &truth, &ours);
	else
		note(t, OURS, how_ours(t, &truth, &ours, end), &truth, &ours);
	if (!same(&truth, &theirs) &&
	    same(&truth, &ours)) /* its cache may be what is wrong, see there */
		oracle_walk_afresh(t, regs, &theirs);
	if (!same(&truth, &theirs) && !same(&ours, &theirs) && truth.n < crosses)
		note(t, THEIRS, how_theirs(t, &truth, &theirs), &truth, &theirs);
}

/* ---- The table ---- */

static Dwfl *dwfl;

static void names_open(struct target *t)
{
	static const Dwfl_Callbacks callbacks = {
		.find_elf = dwfl_build_id_find_elf,
		.find_debuginfo = dwfl_standard_find_debuginfo,
		.section_address = dwfl_offline_section_address,
	};

	unsetenv("DEBUGINFOD_URLS");
	dwfl = dwfl_begin(&callbacks);
	for (unsigned i = 0; dwfl && i < t->n_objects; i++)
		if (t->object[i].maps.path[0] == '/' && t->object[i].mapped)
			dwfl_report_elf(dwfl, t->object[i].maps.path, t->object[i].maps.path, -1,
					t->object[i].image.bias, false);
	if (dwfl)
		dwfl_report_end(dwfl, NULL, NULL);
}

static const char *name_of(uintptr_t pc)
{
	Dwfl_Module *m = dwfl ? dwfl_addrmodule(dwfl, pc) : NULL;
	const char *name = m ? dwfl_module_addrname(m, pc) : NULL;

	return name ? name : "?";
}

static bool is_in(uintptr_t pc, const char *const *names)
{
	for (const char *name = name_of(pc); *names; names++)
		if (!strcmp(name, *names))
			return true;
	return false;
}

/* ---- What is known ---- */

static const char *const landing[] = { "_Unwind_RaiseException", "_Unwind_Resume",
				       "_Unwind_Resume_or_Rethrow", "_Unwind_ForcedUnwind", NULL };
static const char *const jumping[] = { "__longjmp", "__longjmp_cancel", NULL };
static const char *const switching[] = { "swapcontext", "setcontext", "__start_context", NULL };
static const char *const starting[] = { "__clone3", "clone3", "__clone", "clone", NULL };

static bool is_landing(struct target *t, const struct place *p)
{
	for (unsigned i = 0; i < 2 && i <= p->at; i++)
		if (is_in(p->truth->pc[i], landing) &&
		    (!i ||
		     target_object(t, p->truth->pc[i]) == target_object(t, p->truth->pc[i - 1])))
			return true;
	return false;
}

static bool is_before_context(struct target *t, const struct place *p)
{
	(void)t;
	return is_in(p->pc + 1, switching);
}

static bool is_jumping(struct target *t, const struct place *p)
{
	(void)t;
	return is_in(p->pc, jumping);
}

static bool is_switching(struct target *t, const struct place *p)
{
	(void)t;
	return is_in(p->pc, switching);
}

static bool is_starting(struct target *t, const struct place *p)
{
	(void)t;
	return is_in(p->pc, starting);
}

/* ret, or lea -8(%any), %rsp before it */
static bool is_after_leave(struct target *t, const struct place *p)
{
	uintptr_t word = 0;

	return target_text(t, p->pc, &word) &&
	       ((word & 0xff) == 0xc3 || (word & 0xf838fffe) == 0xf8208d48);
}

/* In a module that was digested, so that the rest of it is described. */
static bool is_in_module(struct target *t, const struct place *p)
{
	(void)t;
	return p->object && p->object->image.rows.n_rows;
}

#define BIT(x) (1u << (x))

/* The first that fits. What fits none fails. */
static const struct known {
	unsigned who, how; /* a bit per enum who, enum how */
	bool (*is)(struct target *t, const struct place *p);
	const char *why;
} known[] = {
	{ ~0u, ~0u, is_landing,
	  "libgcc lands an exception: it has put the catcher's registers where its own callers' "
	  "were saved" },
	{ BIT(OURS) | BIT(BOTH), BIT(UNDESCRIBED), is_before_context,
	  "makecontext makes a function return to the start of __start_context: what is before it "
	  "is no function" },
	{ ~0u, BIT(UNDESCRIBED), is_starting,
	  "clone: the first instructions of a thread are outside of its description" },
	{ BIT(OURS) | BIT(BOTH), BIT(UNDESCRIBED), is_in_module,
	  "no description: the toolchain's _init, _fini and what they call come without" },
	{ BIT(THEIRS), BIT(UNDESCRIBED), is_in_module,
	  "no description, and it guesses by the frame pointer" },
	{ BIT(OURS) | BIT(BOTH), BIT(NO_CALLERS), is_jumping,
	  "longjmp: the return address is in a register, which no row of ours expresses" },
	{ BIT(THEIRS), BIT(WRONG), is_jumping,
	  "longjmp: it takes the address jumped to for a return address" },
	{ ~0u, BIT(NO_CALLERS) | BIT(WRONG) | BIT(TOO_SHORT) | BIT(TOO_LONG), is_switching,
	  "swapcontext: between two stacks; its description is of only one of them" },
	{ BIT(THEIRS), BIT(TOO_SHORT) | BIT(WRONG) | BIT(TOO_LONG), is_after_leave,
	  "gcc's description of an over-aligned frame is wrong after its `leave`" },
};

static const struct known *explain(struct target *t, const struct place *p)
{
	for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].who & BIT(p->who) && known[i].how & BIT(p->how) && known[i].is(t, p))
			return &known[i];
	return NULL;
}

static void print_frame(struct target *t, uintptr_t pc)
{
	struct object *o = target_object(t, pc);
	const char *base = o ? strrchr(o->maps.path, '/') : NULL;

	if (o)
		printf(" %s+%#lx %s", base ? base + 1 : o->maps.path, pc - o->image.bias - o->delta,
		       name_of(pc));
	else
		printf(" %#lx", pc);
}

/* The truth, and what was said instead: up to where they part, and a little more. */
static void print_frames(struct target *t, const struct place *p)
{
	for (unsigned i = 0; i < p->truth->n && i < p->at + 5; i++) {
		printf("#   %3u", i);
		print_frame(t, p->truth->pc[i]);
		if (i >= p->said->n) {
			printf(" / nothing");
		} else if (p->said->pc[i] != p->truth->pc[i]) {
			printf(" /");
			print_frame(t, p->said->pc[i]);
		}
		printf("\n");
	}
}

static int by_row(const void *a, const void *b)
{
	const struct place *x = a, *y = b;
	int c = strcmp(x->name, y->name);

	if (x->known != y->known)
		return x->known < y->known ? -1 : 1;
	if (x->who != y->who)
		return (int)x->who - (int)y->who;
	if (x->how != y->how)
		return (int)x->how - (int)y->how;
	return c ? c : (x->pc > y->pc) - (x->pc < y->pc);
}

static bool same_row(const struct place *x, const struct place *y, bool by_function)
{
	return x->known == y->known && x->who == y->who && x->how == y->how &&
	       (!by_function || !strcmp(x->name, y->name));
}

uint64_t judge_report(struct target *t, bool all)
{
	uint64_t unexplained = 0;

	names_open(t);
	for (unsigned i = 0; i < n_places; i++) {
		place[i].name = strdup(name_of(place[i].pc));
		place[i].known = explain(t, &place[i]);
		if (!place[i].name)
			abort();
	}
	qsort(place, n_places, sizeof(place[0]), by_row);
	for (unsigned i = 0, next; i < n_places; i = next) {
		const struct place *p = &place[i];
		uint64_t n = 0;

		for (next = i; next < n_places && same_row(p, &place[next], all || !p->known);
		     next++)
			n += place[next].n;
		if (!p->known)
			unexplained += n;
		/* tests/unwind/run adds these lines up */
		printf("# | %s | %s | %lu | %s\n", who_names[p->who], how_names[p->how], n,
		       p->known ? p->known->why : "NOT EXPLAINED");
		if (all || !p->known) {
			printf("#   %s (%u places)\n", p->name, next - i);
			print_frames(t, p);
		}
	}
	if (dwfl)
		dwfl_end(dwfl);
	dwfl = NULL;
	return unexplained;
}
