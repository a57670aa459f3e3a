/* SPDX-License-Identifier: MIT
 *
 * A call puts a return address into memory and goes elsewhere: push where it lies. When the stack pointer is above that
 * place the call is over, whether it returned, threw or jumped: pop. That needs no description of any function, so it
 * holds in prologues, epilogues, assembly and the linker's stubs. What would be returned to is read when it is asked
 * for, since exceptions are landed by changing it.
 *
 * Each stack that the thread runs on has its own list; a signal's frame says on which one it interrupted.
 */
#include <stdlib.h>
#include <string.h>

#include "step.h"

enum kind {
	CALL,
	SIGNAL, /* pc is where it interrupted, on the stack `region` */
};

struct entry {
	uintptr_t slot; /* the entry is gone when the stack pointer is above */
	enum kind kind;
	uintptr_t pc;
	unsigned region;
};

struct shadow {
	struct list {
		struct entry entry[STEP_FRAMES_MAX];
		unsigned n;
	} * list[STEP_REGIONS_MAX];
	unsigned region;
	bool started;
};

struct shadow *shadow_create(void)
{
	return calloc(1, sizeof(struct shadow));
}

void shadow_destroy(struct shadow *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < STEP_REGIONS_MAX; i++)
		free(s->list[i]);
	free(s);
}

static struct list *list_of(struct shadow *s, unsigned region)
{
	if (!s->list[region])
		s->list[region] = calloc(1, sizeof(struct list));
	if (!s->list[region])
		abort();
	return s->list[region];
}

static void push(struct list *l, uintptr_t slot, enum kind kind, uintptr_t pc, unsigned region)
{
	if (l->n < STEP_FRAMES_MAX)
		l->entry[l->n++] = (struct entry){ slot, kind, pc, region };
}

static void drop_to(struct list *l, uintptr_t sp)
{
	while (l->n && l->entry[l->n - 1].slot < sp)
		l->n--;
}

void shadow_seed(struct shadow *s, struct target *t, uintptr_t sp, const uintptr_t *slots,
		 unsigned n)
{
	struct list *l;

	s->region = target_region(t, sp);
	s->started = true;
	l = list_of(s, s->region);
	for (unsigned i = n; i-- > 0;)
		push(l, slots[i], CALL, 0, 0);
}

void shadow_step(struct shadow *s, struct target *t, const struct user_regs_struct *before,
		 const struct user_regs_struct *after, bool signalled)
{
	unsigned region = target_region(t, after->rsp), from = s->region;
	bool moved = s->started && region != from, fresh = moved && !s->list[region];
	struct list *l = list_of(s, region);
	uintptr_t top = 0;

	s->region = region;
	s->started = true;
	if (signalled) {
		if (!moved)
			drop_to(l, before->rsp);
		else
			l->n = 0;
		push(l, after->rsp + 8, SIGNAL, before->rip, from);
		push(l, after->rsp, CALL, 0, 0);
		return;
	}
	drop_to(l, after->rsp);
	if (fresh) /* a coroutine's first function finds what it returns to */
		push(l, after->rsp, CALL, 0, 0);
	else if (after->rsp == before->rsp - 8 && target_word(t, after->rsp, &top) &&
		 top - before->rip - 2 < 7 && after->rip != top)
		push(l, after->rsp, CALL, 0, 0);
}

void shadow_frames(struct shadow *s, struct target *t, uintptr_t pc, struct frames *f,
		   unsigned *crosses)
{
	unsigned region = s->region;
	struct list *l = list_of(s, region);

	f->n = 0;
	f->pc[f->n++] = pc;
	*crosses = STEP_FRAMES_MAX;
	for (unsigned i = l->n; i-- > 0 && f->n < STEP_FRAMES_MAX;) {
		const struct entry *e = &l->entry[i];
		uintptr_t to;

		if (e->kind == CALL) {
			if (!target_word(t, e->slot, &to))
				break;
			if (to)
				f->pc[f->n++] = to - 1;
			continue;
		}
		if (e->region != region && *crosses == STEP_FRAMES_MAX)
			*crosses = f->n;
		f->pc[f->n++] = e->pc;
		if (e->region != region) {
			region = e->region;
			l = list_of(s, region);
			i = l->n;
		}
	}
}
