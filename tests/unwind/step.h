/* SPDX-License-Identifier: MIT
 *
 * The stepper runs another program one instruction at a time and asks three after every one: who called?
 *
 *	shadow.c   the truth: every call that was executed and has not returned, kept while stepping
 *	target.c   ours: the agent's digest of the target's modules and its walk over a copy of the target's stack
 *	oracle.c   libunwind, from the same registers and the same copy
 *	judge.c    compares the three, and lists who was wrong, where, how often and why
 *
 * All lists of addresses are innermost first, in the form of unwind_walk(): the program counter, then for each caller
 * the return address - 1, or exactly where a signal interrupted.
 */
#ifndef TESTS_UNWIND_STEP_H
#define TESTS_UNWIND_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "agent/core/image.h"
#include "agent/core/maps.h"
#include "agent/sig/unwind.h"

#define STEP_FRAMES_MAX  1024
#define STEP_OBJECTS_MAX 64
#define STEP_REGIONS_MAX 32
#define STEP_COPY_MAX    (1u << 20)

struct frames {
	unsigned n;
	uintptr_t pc[STEP_FRAMES_MAX];
};

/* ---- The stepped process ---- */

struct object {
	struct maps_object maps;
	struct image image;
	uintptr_t
		delta; /* from the addresses in image to those in the target: only the vdso's differ */
	uintptr_t code_start, code_end;
	uintptr_t eh_frame_hdr;
	bool mapped;
	uint64_t steps;
};

struct region { /* a mapping that has a stack in it */
	uintptr_t low, high;
};

struct target {
	pid_t pid;
	struct maps maps;
	struct object object[STEP_OBJECTS_MAX];
	unsigned n_objects;
	struct region region[STEP_REGIONS_MAX];
	unsigned n_regions;
	/* of the thread that was stepped last, from just below its stack pointer on */
	uint8_t copy[STEP_COPY_MAX];
	uintptr_t copy_low;
	size_t copy_bytes;
	unsigned generation; /* grows when modules change */
};

/* Look at what is mapped, digest what is new, publish a table. */
void target_refresh(struct target *t);

struct object *target_object(struct target *t, uintptr_t pc);

/* The number of the region that has @sp. */
unsigned target_region(struct target *t, uintptr_t sp);

/* Copy the stack from @sp to the end of its region. */
void target_copy(struct target *t, uintptr_t sp);

/* A word, from the copy if it is in there. */
bool target_word(struct target *t, uintptr_t address, uintptr_t *value);

/* A word of a module: its code or its tables. */
bool target_text(struct target *t, uintptr_t address, uintptr_t *value);

enum unwind_end target_walk(struct target *t, const struct user_regs_struct *regs,
			    struct frames *f);

/* ---- The truth ---- */

struct shadow;

/* A new thread, or a process at its first instruction. */
struct shadow *shadow_create(void);
void shadow_destroy(struct shadow *s);

/* What is on the stack of a thread that was not followed from its start, by @slots: where each return address lies. */
void shadow_seed(struct shadow *s, struct target *t, uintptr_t sp, const uintptr_t *slots,
		 unsigned n);

/* An instruction led from @before to @after; @signalled: it was the delivery of a signal. */
void shadow_step(struct shadow *s, struct target *t, const struct user_regs_struct *before,
		 const struct user_regs_struct *after, bool signalled);

/* @crosses: at which frame it leaves the stack that the thread is on, for the one that a signal interrupted. */
void shadow_frames(struct shadow *s, struct target *t, uintptr_t pc, struct frames *f,
		   unsigned *crosses);

/* ---- libunwind ---- */

/* @slots, if not NULL, gets where each return address lies. */
void oracle_walk(struct target *t, const struct user_regs_struct *regs, struct frames *f,
		 uintptr_t *slots);

/* The same without what libunwind remembers: it takes a place returned to and the same place interrupted for one. */
void oracle_walk_afresh(struct target *t, const struct user_regs_struct *regs, struct frames *f);

/* Is there a description of the function at @pc? */
bool oracle_describes(struct target *t, uintptr_t pc);

/* ---- The judgement ---- */

struct verdict {
	uint64_t compared, ends[UNWIND_END_COUNT];
	unsigned deepest;
};

void judge(struct target *t, const struct user_regs_struct *regs, struct shadow *s,
	   struct verdict *v);

/* The table of disagreements, function by function if @all. Returns how many nobody has explained. */
uint64_t judge_report(struct target *t, bool all);

#endif
