/* SPDX-License-Identifier: MIT
 *
 * libunwind as a debugger uses it: it asks us for memory, registers and tables. It gets the stack from the same copy as
 * our walk does.
 */
#include <libunwind.h>

#include "step.h"

/* Exported by libunwind for this purpose, and declared nowhere: perf uses it, too. */
extern int _Ux86_64_dwarf_search_unwind_table(unw_addr_space_t as, unw_word_t ip,
					      unw_dyn_info_t *di, unw_proc_info_t *pi,
					      int need_unwind_info, void *arg);

struct asked {
	struct target *target;
	const struct user_regs_struct *regs;
};

/* ---- What libunwind asks ---- */

static int access_mem(unw_addr_space_t as, unw_word_t address, unw_word_t *value, int write,
		      void *arg)
{
	struct target *t = ((struct asked *)arg)->target;
	uintptr_t word = 0;

	(void)as;
	if (write)
		return -UNW_EINVAL;
	if (address - t->copy_low < t->copy_bytes ? !target_word(t, address, &word)
						  : !target_text(t, address, &word))
		return -UNW_EINVAL;
	*value = word;
	return 0;
}

static int access_reg(unw_addr_space_t as, unw_regnum_t reg, unw_word_t *value, int write,
		      void *arg)
{
	const struct user_regs_struct *r = ((struct asked *)arg)->regs;
	const unsigned long long all[] = { r->rax, r->rdx, r->rcx, r->rbx, r->rsi, r->rdi,
					   r->rbp, r->rsp, r->r8,  r->r9,  r->r10, r->r11,
					   r->r12, r->r13, r->r14, r->r15, r->rip };

	(void)as;
	if (write || reg < 0 || (size_t)reg >= sizeof(all) / sizeof(all[0]))
		return -UNW_EBADREG;
	*value = all[reg];
	return 0;
}

static int find_proc_info(unw_addr_space_t as, unw_word_t ip, unw_proc_info_t *pi, int need,
			  void *arg)
{
	struct target *t = ((struct asked *)arg)->target;
	struct object *o = target_object(t, ip);
	unw_dyn_info_t di = { .format = UNW_INFO_FORMAT_REMOTE_TABLE };
	uintptr_t head, count;

	if (!o || !o->eh_frame_hdr || !target_text(t, o->eh_frame_hdr, &head) ||
	    !target_text(t, o->eh_frame_hdr + 8, &count))
		return -UNW_ENOINFO;
	if ((head >> 8 & 0xffffff) != 0x3b031b) /* encodings of every linker's table */
		return -UNW_ENOINFO;
	di.start_ip = o->code_start;
	di.end_ip = o->code_end;
	di.u.rti.segbase = o->eh_frame_hdr;
	di.u.rti.table_data = o->eh_frame_hdr + 12;
	di.u.rti.table_len = (count & 0xffffffff) * 8 / sizeof(unw_word_t);
	return _Ux86_64_dwarf_search_unwind_table(as, ip, &di, pi, need, arg);
}

static void put_unwind_info(unw_addr_space_t as, unw_proc_info_t *pi, void *arg)
{
	(void)as, (void)pi, (void)arg;
}

static int no_list(unw_addr_space_t as, unw_word_t *address, void *arg)
{
	(void)as, (void)address, (void)arg;
	return -UNW_ENOINFO;
}

static int no_fpreg(unw_addr_space_t as, unw_regnum_t reg, unw_fpreg_t *value, int write, void *arg)
{
	(void)as, (void)reg, (void)value, (void)write, (void)arg;
	return -UNW_EINVAL;
}

static int no_resume(unw_addr_space_t as, unw_cursor_t *cursor, void *arg)
{
	(void)as, (void)cursor, (void)arg;
	return -UNW_EINVAL;
}

static int no_name(unw_addr_space_t as, unw_word_t address, char *name, size_t n,
		   unw_word_t *offset, void *arg)
{
	(void)as, (void)address, (void)name, (void)n, (void)offset, (void)arg;
	return -UNW_ENOINFO;
}

static unw_addr_space_t oracle_space(struct target *t)
{
	static unw_accessors_t accessors = { find_proc_info, put_unwind_info, no_list,   access_mem,
					     access_reg,     no_fpreg,        no_resume, no_name };
	static unw_addr_space_t as;
	static unsigned generation;

	if (!as) {
		as = unw_create_addr_space(&accessors, 0);
		unw_set_caching_policy(as, UNW_CACHE_GLOBAL);
	}
	if (generation != t->generation) {
		unw_flush_cache(as, 0, 0);
		generation = t->generation;
	}
	return as;
}

bool oracle_describes(struct target *t, uintptr_t pc)
{
	struct asked asked = { t, NULL };
	unw_proc_info_t pi;

	return !find_proc_info(oracle_space(t), pc, &pi, 0, &asked);
}

void oracle_walk(struct target *t, const struct user_regs_struct *regs, struct frames *f,
		 uintptr_t *slots)
{
	struct asked asked = { t, regs };
	unw_cursor_t cursor;
	int exact = 1, more;

	f->pc[0] = regs->rip;
	f->n = 1;
	if (unw_init_remote(&cursor, oracle_space(t), &asked))
		return;
	f->n = 0;
	do {
		unw_word_t ip, sp;

		unw_get_reg(&cursor, UNW_REG_IP, &ip);
		if (!ip)
			break;
		f->pc[f->n++] = ip - !exact;
		more = unw_step(&cursor);
		if (more > 0 && slots && !unw_get_reg(&cursor, UNW_REG_SP, &sp))
			slots[f->n - 1] = sp - 8;
		/* it says so of the frame that the signal interrupted, once it has left the signal's own */
		exact = unw_is_signal_frame(&cursor) > 0;
	} while (f->n < STEP_FRAMES_MAX && more > 0);
}

void oracle_walk_afresh(struct target *t, const struct user_regs_struct *regs, struct frames *f)
{
	unw_flush_cache(oracle_space(t), 0, 0);
	oracle_walk(t, regs, f, NULL);
}
