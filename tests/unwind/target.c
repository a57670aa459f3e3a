/* SPDX-License-Identifier: MIT
 *
 * The agent's own code, image.c and ehframe.c and unwind.c, over another process: what is mapped comes from its
 * /proc/PID/maps, the modules from their files, the stack from a copy.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/uio.h>
#include <unistd.h>

#include "step.h"

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static bool read_target(const struct target *t, uintptr_t address, void *to, size_t n)
{
	struct iovec mine = { to, n }, there = { (void *)address, n };

	return process_vm_readv(t->pid, &mine, 1, &there, 1, 0) == (ssize_t)n;
}

/* ---- Modules ---- */

static void find_eh_frame_hdr(const struct target *t, struct object *o)
{
	uintptr_t base = o->maps.range[0].start;
	Elf64_Ehdr e;
	Elf64_Phdr p;

	if (!read_target(t, base, &e, sizeof(e)))
		return;
	for (unsigned i = 0; i < e.e_phnum; i++)
		if (read_target(t, base + e.e_phoff + i * sizeof(p), &p, sizeof(p)) &&
		    p.p_type == PT_GNU_EH_FRAME)
			o->eh_frame_hdr = o->image.bias + o->delta + p.p_vaddr;
}

/* Every process has the same vdso, elsewhere: read our own. */
static void move_vdso(struct object *o, struct maps_object *here)
{
	*here = o->maps;
	if (strcmp(here->path, "[vdso]"))
		return;
	o->delta = here->range[0].start - getauxval(AT_SYSINFO_EHDR);
	for (unsigned i = 0; i < here->n_ranges; i++) {
		here->range[i].start -= o->delta;
		here->range[i].end -= o->delta;
	}
}

static void object_add(struct target *t, const struct maps_object *maps)
{
	struct object *o = &t->object[t->n_objects];
	struct maps_object here;
	int err;

	if (t->n_objects == STEP_OBJECTS_MAX) {
		fprintf(stderr, "more than %d modules\n", STEP_OBJECTS_MAX);
		exit(2);
	}
	memset(o, 0, sizeof(*o));
	o->maps = *maps;
	move_vdso(o, &here);
	err = image_read(&here, true, &o->image);
	if (err) /* just being mapped: it is looked at again after the next system call */
		return;
	o->code_start = o->image.code_start + o->delta;
	o->code_end = o->image.code_end + o->delta;
	o->mapped = true;
	find_eh_frame_hdr(t, o);
	t->n_objects++;
}

static bool same_object(const struct object *o, const struct maps_object *m)
{
	return o->maps.range[0].start == m->range[0].start && o->maps.inode == m->inode &&
	       !strcmp(o->maps.path, m->path);
}

static int by_code(const void *a, const void *b)
{
	const struct unwind_span *x = a, *y = b;

	return (x->low > y->low) - (x->low < y->low);
}

static void table_release(struct unwind_table *table)
{
	free(table);
}

static void publish(struct target *t)
{
	struct unwind_table *table =
		calloc(1, sizeof(*table) + t->n_objects * sizeof(table->span[0]));

	if (!table)
		die("calloc");
	table->release = table_release;
	for (unsigned i = 0; i < t->n_objects; i++) {
		const struct object *o = &t->object[i];
		const struct ehframe_rows *r = &o->image.rows;

		if (o->mapped && r->n_rows)
			table->span[table->n_spans++] =
				(struct unwind_span){ o->code_start, o->code_end, r->row,
						      r->page,       r->wide,     r->n_rows,
						      r->n_wide,     r->n_bx,     r->bx };
	}
	qsort(table->span, table->n_spans, sizeof(table->span[0]), by_code);
	if (unwind_publish(table))
		die("unwind_publish");
}

/* Each line of the target's maps that @line likes. */
static void each_line(const struct target *t, void (*line)(void *arg, const char *text), void *arg)
{
	char path[64], text[8192];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", t->pid);
	f = fopen(path, "re");
	if (!f)
		return;
	while (fgets(text, sizeof(text), f)) {
		text[strcspn(text, "\n")] = 0;
		line(arg, text);
	}
	fclose(f);
}

static void to_maps(void *maps, const char *text)
{
	if (maps_line(maps, text))
		die("maps");
}

void target_refresh(struct target *t)
{
	uint64_t before = t->maps.signature;

	maps_reset(&t->maps);
	each_line(t, to_maps, &t->maps);
	maps_end(&t->maps);
	if (t->maps.signature == before)
		return;
	for (unsigned k = 0; k < t->n_objects; k++)
		t->object[k].mapped = false;
	for (unsigned i = 0; i < t->maps.n_objects; i++) {
		unsigned k = 0;

		while (k < t->n_objects && !same_object(&t->object[k], &t->maps.object[i]))
			k++;
		if (k < t->n_objects)
			t->object[k].mapped = true;
		else
			object_add(t, &t->maps.object[i]);
	}
	t->generation++;
	publish(t);
}

struct object *target_object(struct target *t, uintptr_t pc)
{
	static unsigned last;

	if (last < t->n_objects && t->object[last].mapped &&
	    pc - t->object[last].code_start < t->object[last].code_end - t->object[last].code_start)
		return &t->object[last];
	for (unsigned i = 0; i < t->n_objects; i++)
		if (t->object[i].mapped &&
		    pc - t->object[i].code_start < t->object[i].code_end - t->object[i].code_start)
			return &t->object[last = i];
	return NULL;
}

/* ---- Stacks ---- */

struct look {
	uintptr_t sp;
	struct region found;
};

static void to_region(void *arg, const char *text)
{
	struct look *look = arg;
	unsigned long low, high;

	if (sscanf(text, "%lx-%lx", &low, &high) == 2 && look->sp >= low && look->sp < high)
		look->found = (struct region){ low, high };
}

unsigned target_region(struct target *t, uintptr_t sp)
{
	struct look look = { sp, { 0, 0 } };

	for (unsigned i = 0; i < t->n_regions; i++)
		if (sp - t->region[i].low < t->region[i].high - t->region[i].low)
			return i;
	each_line(t, to_region, &look);
	if (!look.found.high) {
		fprintf(stderr, "no stack at %#lx\n", sp);
		exit(2);
	}
	for (unsigned i = 0; i < t->n_regions; i++)
		if (t->region[i].high == look.found.high) {
			t->region[i] = look.found;
			return i;
		}
	if (t->n_regions == STEP_REGIONS_MAX) {
		fprintf(stderr, "more than %d stacks\n", STEP_REGIONS_MAX);
		exit(2);
	}
	t->region[t->n_regions] = look.found;
	return t->n_regions++;
}

void target_copy(struct target *t, uintptr_t sp)
{
	const struct region *r = &t->region[target_region(t, sp)];
	uintptr_t low = (sp - 128) & ~(uintptr_t)15;

	if (low < r->low)
		low = r->low;
	t->copy_low = low;
	t->copy_bytes = r->high - low < STEP_COPY_MAX ? r->high - low : STEP_COPY_MAX;
	if (!read_target(t, low, t->copy, t->copy_bytes))
		die("process_vm_readv");
}

bool target_word(struct target *t, uintptr_t address, uintptr_t *value)
{
	uintptr_t at = address - t->copy_low;

	if (at < t->copy_bytes && t->copy_bytes - at >= sizeof(*value)) {
		memcpy(value, t->copy + at, sizeof(*value));
		return true;
	}
	return read_target(t, address, value, sizeof(*value));
}

/* ---- Modules' bytes, page by page ---- */

#define PAGE  4096u
#define PAGES 4096

bool target_text(struct target *t, uintptr_t address, uintptr_t *value)
{
	static struct {
		uintptr_t address; /* 0: nothing yet */
		unsigned generation;
		uint8_t data[PAGE];
	} page[PAGES];
	uintptr_t at = address & ~(uintptr_t)(PAGE - 1), n = address / PAGE % PAGES;

	if (address - at > PAGE - sizeof(*value))
		return target_word(t, address, value);
	if (page[n].address != at || page[n].generation != t->generation) {
		page[n].address = 0;
		if (!read_target(t, at, page[n].data, PAGE))
			return false;
		page[n].address = at;
		page[n].generation = t->generation;
	}
	memcpy(value, page[n].data + (address - at), sizeof(*value));
	return true;
}

/* ---- Walks ---- */

static void to_gregs(const struct user_regs_struct *r, greg_t *g)
{
	const unsigned long long value[] = {
		[REG_R8] = r->r8,   [REG_R9] = r->r9,   [REG_R10] = r->r10, [REG_R11] = r->r11,
		[REG_R12] = r->r12, [REG_R13] = r->r13, [REG_R14] = r->r14, [REG_R15] = r->r15,
		[REG_RDI] = r->rdi, [REG_RSI] = r->rsi, [REG_RBP] = r->rbp, [REG_RBX] = r->rbx,
		[REG_RDX] = r->rdx, [REG_RAX] = r->rax, [REG_RCX] = r->rcx, [REG_RSP] = r->rsp,
		[REG_RIP] = r->rip,
	};

	for (unsigned i = 0; i < sizeof(value) / sizeof(value[0]); i++)
		g[i] = (greg_t)value[i];
}

enum unwind_end target_walk(struct target *t, const struct user_regs_struct *regs, struct frames *f)
{
	const struct region *r = &t->region[target_region(t, regs->rsp)];
	greg_t all[NGREG] = { 0 };
	struct unwind_regs from = { .pc = regs->rip, .sp = regs->rsp, .fp = regs->rbp, .all = all };
	const struct unwind_stack stack = { r->low, r->high, t->copy, t->copy_low, t->copy_bytes };
	enum unwind_end end;

	to_gregs(regs, all);
	f->n = unwind_walk(&from, &stack, f->pc, STEP_FRAMES_MAX, &end);
	return end;
}
