/* SPDX-License-Identifier: MIT
 *
 * Walks of this program's own stacks, from a signal handler, against libunwind's on the very same registers: at every
 * single instruction (the processor's trap flag) and at random moments (a timer).
 */
#include <alloca.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "agent/sig/unwind.h"

#define UNW_LOCAL_ONLY
#include <libunwind.h>

#include "agent/core/modules.h"
#include "unit.h"

#define RAW        __attribute__((no_sanitize("address", "undefined", "thread")))
#define NOINLINE   __attribute__((noinline, noclone))
#define BARRIER()  __asm__ volatile("" ::: "memory")
#define DEPTH_MAX  256
#define STACK_COPY (512 << 10)

static struct modules *modules;
static struct module binder; /* the dynamic linker */

/* The calling thread's stack. */
static __thread struct unwind_stack stack;

static void find_stack(void)
{
	pthread_attr_t attr;
	size_t size;
	void *low;

	assert_int_equal(pthread_getattr_np(pthread_self(), &attr), 0);
	assert_int_equal(pthread_attr_getstack(&attr, &low, &size), 0);
	pthread_attr_destroy(&attr);
	stack = (struct unwind_stack){ (uintptr_t)low, (uintptr_t)low + size, NULL, 0, 0 };
}

/* ---- One comparison, in a signal handler ---- */

struct walked {
	uintptr_t pcs[DEPTH_MAX];
	unsigned n;
	enum unwind_end end;
};

static struct {
	unsigned walks, differ, copies_differ, binding, lost, deepest, across_signals;
	struct walked ours, theirs; /* of the first that differs */
} seen;

static uintptr_t stack_copy[STACK_COPY / sizeof(uintptr_t)];

/* Walks a copy of the first @max_bytes of the stack. */
RAW static void walk_copy(const struct unwind_regs *regs, size_t max_bytes, struct walked *w)
{
	uintptr_t low = (regs->sp - 128) & ~(uintptr_t)15;
	struct unwind_stack s = stack;

	s.copy = stack_copy;
	s.copy_low = low;
	s.copy_bytes = stack.high - low < max_bytes ? stack.high - low : max_bytes;
	for (size_t i = 0; i < s.copy_bytes / sizeof(uintptr_t); i++)
		stack_copy[i] = ((const volatile uintptr_t *)low)[i];
	w->n = unwind_walk(regs, &s, w->pcs, DEPTH_MAX, &w->end);
}

static void walk_libunwind(void *context, struct walked *w)
{
	unw_cursor_t cursor;
	int exact = 1, more;

	w->n = 0;
	w->end = UNWIND_NO_RULE;
	if (unw_init_local2(&cursor, context, UNW_INIT_SIGNAL_FRAME))
		return;
	do {
		unw_word_t ip;

		unw_get_reg(&cursor, UNW_REG_IP, &ip);
		if (!ip)
			break;
		w->pcs[w->n++] = ip - !exact;
		more = unw_step(&cursor);
		/* it says so of the frame that the signal interrupted, once it has left the signal's own */
		exact = unw_is_signal_frame(&cursor) > 0;
		seen.across_signals += exact != 0;
	} while (w->n < DEPTH_MAX && more > 0);
	w->end = UNWIND_COMPLETE;
}

static int same(const struct walked *a, const struct walked *b)
{
	return a->n == b->n && !memcmp(a->pcs, b->pcs, a->n * sizeof(a->pcs[0]));
}

/* Inside of what the dynamic linker's entry for lazy binding calls: that entry keeps its frame's address in rbx. */
static int is_binding(const struct walked *w)
{
	for (unsigned i = 1; i < w->n; i++)
		if (w->pcs[i] - binder.start < binder.end - binder.start)
			return 1;
	return 0;
}

/*
 * gcc's description of an over-aligned frame is wrong after its `leave`: libunwind believes it and loses its way, or, among
 * frames that have a frame pointer, leaves one out.
 */
static int lost_theirs(const struct walked *ours, const struct walked *theirs)
{
	unsigned found = 0;

	for (unsigned i = 0; i < ours->n && found < theirs->n; i++)
		found += ours->pcs[i] == theirs->pcs[found];
	return ours->end == UNWIND_COMPLETE && theirs->n < ours->n && found == theirs->n;
}

static void compare(void *context)
{
	static struct walked ours, copied, theirs;
	struct unwind_regs regs;

	unwind_regs_from(&regs, context);
	ours.n = unwind_walk(&regs, &stack, ours.pcs, DEPTH_MAX, &ours.end);
	walk_libunwind(context, &theirs);
	walk_copy(&regs, STACK_COPY, &copied);
	seen.walks++;
	seen.copies_differ += !same(&ours, &copied) || ours.end != copied.end;
	if (ours.n > seen.deepest)
		seen.deepest = ours.n;
	seen.binding += is_binding(&ours) != 0;
	if (lost_theirs(&ours, &theirs))
		seen.lost++;
	else if ((!same(&ours, &theirs) || ours.end != UNWIND_COMPLETE) && !seen.differ++) {
		seen.ours = ours;
		seen.theirs = theirs;
	}
}

static void assert_all_same(unsigned at_least)
{
	assert_true(seen.walks >= at_least);
	if (seen.differ) {
		print_message("# ours %u (%s), libunwind's %u:\n", seen.ours.n,
			      unwind_end_names[seen.ours.end], seen.theirs.n);
		for (unsigned i = 0; i < seen.ours.n || i < seen.theirs.n; i++) {
			const struct module *m = modules_find(modules, seen.theirs.pcs[i]);

			print_message("# %2u %#14lx %#14lx  %s+%#lx\n", i,
				      i < seen.ours.n ? seen.ours.pcs[i] : 0,
				      i < seen.theirs.n ? seen.theirs.pcs[i] : 0, m ? m->path : "?",
				      m ? seen.theirs.pcs[i] - m->bias : 0);
		}
	}
	assert_int_equal(seen.differ, 0);
	assert_int_equal(seen.copies_differ, 0);
	assert_true(seen.lost <= 4 + seen.walks / 200);
}

/* ---- Code to be interrupted in ---- */

static volatile unsigned long sink;

NOINLINE static unsigned long leaf(unsigned long n)
{
	for (unsigned i = 0; i < 4; i++)
		n = n * 31 + sink;
	sink = n;
	return n;
}

static int by_value(const void *a, const void *b)
{
	unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;

	leaf(x);
	return (x > y) - (x < y);
}

NOINLINE static unsigned long through_qsort(unsigned long n)
{
	unsigned long array[8];

	for (unsigned i = 0; i < 8; i++)
		array[i] = (n + i) * 2654435761u % 97;
	qsort(array, 8, sizeof(array[0]), by_value);
	return array[3];
}

NOINLINE static unsigned long through_alloca(unsigned long n)
{
	unsigned long *p = alloca((n % 7 + 1) * 40);

	p[0] = n;
	BARRIER();
	leaf(n);
	return p[0] + leaf((unsigned long)p & 7);
}

NOINLINE static unsigned long through_over_aligned(unsigned long n)
{
	_Alignas(64) volatile unsigned long array[16];

	array[n % 16] = n;
	leaf(n);
	return array[n % 16] + leaf((unsigned long)array % 64);
}

/* The frame's address is in a register that nobody expects, and its size is known only when it runs. */
NOINLINE static unsigned long through_both(unsigned long n)
{
	_Alignas(32) volatile unsigned long array[8];
	unsigned long *p = alloca((n % 5 + 1) * 16);

	p[0] = n;
	array[n % 8] = n;
	leaf(n);
	return array[n % 8] + p[0] + leaf(n);
}

NOINLINE static unsigned long through_large_frame(unsigned long n)
{
	volatile char large[70000];

	large[n % sizeof(large)] = 1;
	return leaf(n) + (unsigned long)large[n % sizeof(large)];
}

NOINLINE static unsigned long through_clock(unsigned long n)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return n + (unsigned long)now.tv_nsec;
}

NOINLINE static unsigned long through_libc(unsigned long n)
{
	char text[64], *end;

	snprintf(text, sizeof(text), "%lu/%d", n, 7);
	return strtoul(text, &end, 10);
}

static unsigned long (*const ways[])(unsigned long) = {
	through_qsort,       through_alloca, through_over_aligned, through_both,
	through_large_frame, through_clock,  through_libc,
};

#define N_WAYS (sizeof(ways) / sizeof(ways[0]))

/* Deep, with a different mix of frames below each depth. */
NOINLINE static unsigned long deep(unsigned long n, unsigned depth)
{
	unsigned long r;

	if (!depth)
		return ways[n % N_WAYS](n);
	r = deep(n * 31 + depth, depth - 1);
	BARRIER();
	return r + leaf(n);
}

NOINLINE static unsigned long aligned_deep(unsigned long n, unsigned depth)
{
	_Alignas(32) volatile unsigned long array[4];

	array[n % 4] = n;
	if (!depth)
		return deep(n, 3);
	return aligned_deep(n + 1, depth - 1) + array[n % 4];
}

/* ---- At every instruction ---- */

static void on_step(int sig, siginfo_t *info, void *context)
{
	int keep = errno;

	(void)sig, (void)info;
	compare(context);
	errno = keep;
}

/* Sets or clears the trap flag. */
void step_on(void);
void step_off(void);
#define STEP(name, instruction)                                                                    \
  __asm__(".text\n.type " name ", @function\n" name ":\n.cfi_startproc\n"                          \
	  "pushfq\n.cfi_adjust_cfa_offset 8\n" instruction                                         \
	  "\npopfq\n.cfi_adjust_cfa_offset -8\nret\n.cfi_endproc\n.size " name ", .-" name)
STEP("step_on", "orq $0x100, (%rsp)");
STEP("step_off", "andq $~0x100, (%rsp)");

static void on_signal(int sig)
{
	(void)sig;
	step_on();
	leaf(1);
	through_over_aligned(2);
	step_off();
}

static void handle(int sig, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART };

	sigfillset(&action.sa_mask);
	sigdelset(&action.sa_mask, SIGTRAP);
	sigdelset(&action.sa_mask, SIGSEGV);
	assert_int_equal(sigaction(sig, &action, NULL), 0);
}

/* ThreadSanitizer delivers signals late, with registers that are long gone. */
static void needs_signals_at_once(void)
{
#ifdef __SANITIZE_THREAD__
	skip();
#endif
}

static int fresh(void **state)
{
	(void)state;
	memset(&seen, 0, sizeof(seen));
	find_stack();
	assert_true(modules_refresh(modules) >= 0);
	return 0;
}

static void same_as_libunwind_at_every_instruction(void **state)
{
	(void)state;
	needs_signals_at_once();
	handle(SIGTRAP, on_step);
	for (unsigned long i = 0; i < N_WAYS; i++) {
		ways[i](i); /* binds what it calls */
		step_on();
		ways[i](i);
		step_off();
	}
	step_on();
	aligned_deep(3, 3);
	step_off();
	assert_all_same(2000);
	assert_int_equal(seen.binding, 0);
}

static void same_while_the_linker_binds_a_symbol(void **state)
{
	unsigned before;

	(void)state;
	needs_signals_at_once();
	handle(SIGTRAP, on_step);
	step_on();
	sink = (unsigned long)
		drand48(); /* nothing else calls it: the first call goes through the lazy entry */
	before = seen.walks;
	sink = (unsigned long)drand48();
	step_off();
	assert_all_same(50);
	if (!seen.binding)
		skip(); /* this program was linked to be bound at start */
	assert_true(seen.walks - before < before);
	assert_in_range(seen.binding, 50, before);
}

static void same_across_a_signal_frame(void **state)
{
	struct sigaction action = { .sa_handler = on_signal };

	(void)state;
	needs_signals_at_once();
	handle(SIGTRAP, on_step);
	assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
	step_on();
	raise(SIGUSR1);
	step_off();
	assert_all_same(100);
	assert_true(seen.across_signals > 50);
}

static void *stepped_thread(void *arg)
{
	(void)arg;
	find_stack();
	step_on();
	deep(5, 20);
	step_off();
	return NULL;
}

static void same_in_a_thread_down_to_clone(void **state)
{
	pthread_t thread;

	(void)state;
	needs_signals_at_once();
	handle(SIGTRAP, on_step);
	assert_int_equal(pthread_create(&thread, NULL, stepped_thread, NULL), 0);
	pthread_join(thread, NULL);
	assert_all_same(300);
	assert_true(seen.deepest > 22);
}

/* ---- At random moments ---- */

static __thread timer_t timer;
static __thread unsigned random_state;

static unsigned random_next(void)
{
	random_state = random_state * 1664525 + 1013904223;
	return random_state >> 8;
}

static void timer_again(void)
{
	const struct itimerspec when = { .it_value = { 0, 20000 + random_next() % 300000 } };

	timer_settime(timer, 0, &when, NULL);
}

static void on_timer(int sig, siginfo_t *info, void *context)
{
	int keep = errno;

	(void)sig, (void)info;
	compare(context);
	timer_again();
	errno = keep;
}

static void *interrupted_thread(void *arg)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF };
	unsigned walks = *(const unsigned *)arg;
	time_t until = time(NULL) + 20;

	find_stack();
	random_state = 7;
	event._sigev_un._tid = (int)syscall(SYS_gettid);
	assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
	timer_again();
	for (unsigned long i = 0; *(volatile unsigned *)&seen.walks < walks && time(NULL) < until;
	     i++) {
		deep(i, (unsigned)i % 60);
		aligned_deep(i, (unsigned)i % 9);
	}
	timer_delete(timer);
	return NULL;
}

static void same_at_random_moments(void **state)
{
	unsigned walks = 1500;
	pthread_t thread;

	(void)state;
	needs_signals_at_once();
	handle(SIGPROF, on_timer);
	assert_int_equal(pthread_create(&thread, NULL, interrupted_thread, &walks), 0);
	pthread_join(thread, NULL);
	assert_all_same(walks);
	assert_true(seen.deepest > 50);
}

/* ---- Ends ---- */

static struct walked here;
static unsigned here_max;
static struct unwind_stack here_stack;

static size_t here_copy; /* not 0: walk a copy of so many bytes */

static void on_here(int sig, siginfo_t *info, void *context)
{
	struct unwind_regs regs;

	(void)sig, (void)info;
	unwind_regs_from(&regs, context);
	if (here_copy)
		walk_copy(&regs, here_copy, &here);
	else
		here.n = unwind_walk(&regs, &here_stack, here.pcs, here_max, &here.end);
}

NOINLINE static unsigned long deep_and_raise(unsigned depth)
{
	unsigned long r = depth;

	if (depth)
		r += deep_and_raise(depth - 1);
	else
		__asm__ volatile("int3" ::: "memory");
	BARRIER();
	return r;
}

#define SAME 20 /* frames that all walks from walk_here() have in common */

static void walk_here(unsigned max, const struct unwind_stack *s)
{
	handle(SIGTRAP, on_here);
	here_max = max;
	here_stack = *s;
	deep_and_raise(20);
}

static void a_walk_without_room_is_truncated(void **state)
{
	struct walked whole;

	(void)state;
	needs_signals_at_once();
	walk_here(DEPTH_MAX, &stack);
	whole = here;
	assert_int_equal(whole.end, UNWIND_COMPLETE);
	for (unsigned max = 1; max <= whole.n; max++) {
		walk_here(max, &stack);
		assert_int_equal(here.n, max);
		assert_int_equal(here.end, max == whole.n ? UNWIND_COMPLETE : UNWIND_TRUNCATED);
		/* the outermost frames stand at another call of walk_here() */
		assert_memory_equal(here.pcs, whole.pcs,
				    (max < 20 ? max : 20) * sizeof(here.pcs[0]));
	}
	walk_here(0, &stack);
	assert_int_equal(here.n, 0);
}

static void nothing_outside_of_the_bounds_is_read(void **state)
{
	struct unwind_stack s = stack;
	struct walked whole;

	(void)state;
	needs_signals_at_once();
	walk_here(DEPTH_MAX, &stack);
	whole = here;
	/* a stack that ends in the middle of the recursion */
	s.high = (uintptr_t)__builtin_frame_address(0) - 200;
	walk_here(DEPTH_MAX, &s);
	assert_in_range(here.n, 2, whole.n - 4);
	assert_int_equal(here.end, UNWIND_FOREIGN_STACK);
	assert_memory_equal(here.pcs, whole.pcs,
			    (here.n < SAME ? here.n : SAME) * sizeof(here.pcs[0]));
	/* another thread's */
	s = (struct unwind_stack){ stack.high, stack.high + 65536, NULL, 0, 0 };
	walk_here(DEPTH_MAX, &s);
	assert_int_equal(here.n, 1);
	assert_int_equal(here.end, UNWIND_FOREIGN_STACK);
}

static void a_copy_too_short_truncates(void **state)
{
	struct walked whole;
	unsigned before = 1;

	(void)state;
	needs_signals_at_once();
	walk_here(DEPTH_MAX, &stack);
	whole = here;
	for (here_copy = 100; here_copy < STACK_COPY; here_copy += 40) {
		walk_here(DEPTH_MAX, &stack);
		assert_in_range(here.n, before, whole.n);
		assert_memory_equal(here.pcs, whole.pcs,
				    (here.n < SAME ? here.n : SAME) * sizeof(here.pcs[0]));
		if (here.end == UNWIND_COMPLETE)
			break;
		assert_int_equal(here.end, UNWIND_TRUNCATED);
		before = here.n;
	}
	here_copy = 0;
	assert_int_equal(here.end, UNWIND_COMPLETE);
	assert_int_equal(here.n, whole.n);
}

static ucontext_t main_context, coroutine_context;

static void coroutine(void)
{
	walk_here(DEPTH_MAX, &stack);
	swapcontext(&coroutine_context, &main_context);
}

static void a_coroutine_is_a_foreign_stack(void **state)
{
	static char coroutine_stack[65536];

	(void)state;
	needs_signals_at_once();
	getcontext(&coroutine_context);
	coroutine_context.uc_stack.ss_sp = coroutine_stack;
	coroutine_context.uc_stack.ss_size = sizeof(coroutine_stack);
	makecontext(&coroutine_context, coroutine, 0);
	swapcontext(&main_context, &coroutine_context);
	assert_int_equal(here.n, 1);
	assert_int_equal(here.end, UNWIND_FOREIGN_STACK);
}

static void code_that_no_table_describes_has_no_rule(void **state)
{
	struct unwind_regs regs = { .pc = (uintptr_t)&sink,
				    .sp = (uintptr_t)__builtin_frame_address(0) };
	struct walked w;

	(void)state;
	w.n = unwind_walk(&regs, &stack, w.pcs, DEPTH_MAX, &w.end);
	assert_int_equal(w.n, 1);
	assert_int_equal(w.end, UNWIND_NO_RULE);
	assert_string_equal(unwind_end_names[w.end], "no rule");
}

/* ---- Garbage ---- */

/* A stack between two pages that nobody may touch, full of values that lead somewhere. */
static void garbage_never_faults(void **state)
{
	const size_t size = 16384;
	char *area = mmap(NULL, size + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uintptr_t low = (uintptr_t)area + 4096, ends[UNWIND_END_COUNT] = { 0 };
	const struct module *libc = modules_find(modules, (uintptr_t)&strtoul),
			    *self = modules_find(modules, (uintptr_t)&garbage_never_faults);
	struct walked w;

	(void)state;
	assert_true(area != MAP_FAILED && libc && self);
	assert_int_equal(mprotect(area + 4096, size, PROT_READ | PROT_WRITE), 0);
	random_state = 11;
	for (unsigned round = 0; round < 60000; round++) {
		uintptr_t *word = (uintptr_t *)low, any[4];
		struct unwind_stack s = { low + random_next() % 16, low + size - random_next() % 16,
					  NULL, 0, 0 };
		greg_t all[NGREG];
		struct unwind_regs regs = { .all = round % 3 ? all : NULL };

		for (unsigned i = 0; i < 64; i++) {
			const struct module *m = random_next() % 2 ? libc : self;

			any[0] = m->code_start + (random_next() << 8 | random_next() % 256) %
							 (m->code_end - m->code_start);
			any[1] = low + random_next() % size;
			any[2] = low + 8 * (random_next() % (size / 8));
			any[3] = (uintptr_t)random_next() << 40 | random_next();
			word[random_next() % (size / 8)] = any[random_next() % 4];
			if (i < NGREG)
				all[i] = (greg_t)any[random_next() % 4];
		}
		regs.pc = any[0];
		regs.sp = any[1 + random_next() % 2];
		regs.fp = any[1 + random_next() % 3];
		memset(&w, 0, sizeof(w));
		w.n = unwind_walk(&regs, &s, w.pcs, 64, &w.end);
		assert_in_range(w.n, 1, 64);
		assert_true((unsigned)w.end < UNWIND_END_COUNT);
		assert_int_equal(w.pcs[w.n], 0);
		ends[w.end]++;
	}
	munmap(area, size + 8192);
	/* the garbage was good enough to lead everywhere */
	assert_true(ends[UNWIND_NO_RULE] > 100 && ends[UNWIND_FOREIGN_STACK] > 100 &&
		    ends[UNWIND_COMPLETE] > 0);
}

/* ---- Hand-over of tables ---- */

static const struct unwind_row one_row[] = { { 0, UNWIND_SP | 1 << UNWIND_CFA_SHIFT } };
static const uint32_t one_page[4];

struct counted {
	atomic_int *released;
	uint32_t live;
	struct unwind_table table;
	struct unwind_span span[1];
};

static void counted_release(struct unwind_table *table)
{
	struct counted *c = (struct counted *)((char *)table - offsetof(struct counted, table));

	(*c->released)++;
	c->table.n_spans = 1u << 30; /* who still walks with it runs away */
	free(c);
}

/* Every address from 0x10000 on for a page or two: one word up. */
static struct unwind_table *counted_create(atomic_int *released)
{
	struct counted *c = calloc(1, sizeof(*c));

	assert_non_null(c);
	c->released = released;
	c->table.release = counted_release;
	c->table.n_spans = 1;
	c->table.span[0] =
		(struct unwind_span){ 0x10000, 0x10200, one_row, one_page, NULL, 1, 0, 0, NULL };
	return &c->table;
}

static atomic_int released;
static char *trap_page;
static int released_during_walk;

/* In the middle of a walk: the table is replaced, more than once. */
static void on_fault(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)info, (void)context;
	for (int i = 0; i < 5; i++) {
		assert_int_equal(unwind_publish(counted_create(&released)), 0);
		unwind_reclaim();
	}
	released_during_walk = released;
	mprotect(trap_page, 4096, PROT_READ | PROT_WRITE);
}

static void a_table_lives_as_long_as_a_walk_with_it(void **state)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO }, old;
	struct unwind_regs regs = { .pc = 0x10010 };
	struct unwind_stack s;
	struct walked w;

	(void)state;
	needs_signals_at_once();
	released = 0;
	trap_page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(trap_page != MAP_FAILED);
	assert_int_equal(unwind_publish(counted_create(&released)), 0);
	s = (struct unwind_stack){ (uintptr_t)trap_page, (uintptr_t)trap_page + 4096, NULL, 0, 0 };
	regs.sp = s.low;
	assert_int_equal(sigaction(SIGSEGV, &action, &old), 0);
	w.n = unwind_walk(&regs, &s, w.pcs, DEPTH_MAX, &w.end);
	sigaction(SIGSEGV, &old, NULL);
	/* of the six, the first is held by the walk, the last is published; those between nobody has ever seen */
	assert_in_range(released_during_walk, 0, 4);
	assert_int_equal(w.n, 1);
	assert_int_equal(w.end, UNWIND_COMPLETE);
	assert_int_equal(unwind_publish(NULL), 0);
	for (int i = 0; i < 3; i++)
		unwind_reclaim();
	assert_int_equal(unwind_reclaim(), 0);
	assert_int_equal(released, 6);
	munmap(trap_page, 4096);
}

static struct unwind_table *pinned[UNWIND_RETIRED_MAX + 6];
static unsigned n_pinned;

static void on_fault_fill(int sig, siginfo_t *info, void *context)
{
	int err = 0;

	(void)sig, (void)info, (void)context;
	for (int i = 0; i < UNWIND_RETIRED_MAX + 5 && !err; i++) {
		struct unwind_table *table = counted_create(&released);

		err = unwind_publish(table);
		if (err)
			table->release(table);
		else
			pinned[n_pinned++] = table;
	}
	released_during_walk = err;
	mprotect(trap_page, 4096, PROT_READ | PROT_WRITE);
}

/* A walk that never ends pins one counter: tables pile up to the cap, and no further. After fork they must not. */
static void a_stuck_walk_pins_a_bounded_number_of_tables(void **state)
{
	struct sigaction action = { .sa_sigaction = on_fault_fill, .sa_flags = SA_SIGINFO }, old;
	struct unwind_regs regs = { .pc = 0x10010 };
	struct unwind_stack s;
	struct walked w;

	(void)state;
	needs_signals_at_once();
	released = 0;
	trap_page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	s = (struct unwind_stack){ (uintptr_t)trap_page, (uintptr_t)trap_page + 4096, NULL, 0, 0 };
	regs.sp = s.low;
	pinned[n_pinned++] = counted_create(&released);
	assert_int_equal(unwind_publish(pinned[0]), 0);
	assert_int_equal(sigaction(SIGSEGV, &action, &old), 0);
	w.n = unwind_walk(&regs, &s, w.pcs, DEPTH_MAX, &w.end);
	sigaction(SIGSEGV, &old, NULL);
	assert_int_equal(released_during_walk, -EBUSY);
	unwind_after_fork();
	assert_int_equal(unwind_reclaim(), 0);
	assert_int_equal(unwind_publish(NULL), 0);
	unwind_after_fork(); /* forget them: nobody else frees them now */
	for (; n_pinned; n_pinned--)
		pinned[n_pinned - 1]->release(pinned[n_pinned - 1]);
	munmap(trap_page, 4096);
}

/* The parent's thread may have been about to release them, or have just done so: malloc aborted one child in 10,000. */
static void a_forks_child_releases_no_table_of_its_parents(void **state)
{
	struct unwind_table *parents, *own;

	(void)state;
	released = 0;
	parents = counted_create(&released);
	assert_int_equal(unwind_publish(parents), 0);
	unwind_after_fork();
	own = counted_create(&released);
	assert_int_equal(unwind_publish(own), 0);
	unwind_reclaim();
	assert_int_equal(unwind_reclaim(), 0);
	assert_int_equal(released, 0);
	assert_int_equal(unwind_publish(NULL), 0);
	unwind_reclaim();
	assert_int_equal(unwind_reclaim(), 0);
	assert_int_equal(released, 1);
	unwind_after_fork(); /* forget it */
	parents->release(parents);
}

static atomic_int stop;

static void *walking_thread(void *arg)
{
	static uintptr_t words[64];
	struct unwind_regs regs = { .pc = 0x10010, .sp = (uintptr_t)words };
	struct unwind_stack s = { (uintptr_t)words, (uintptr_t)(words + 64), NULL, 0, 0 };
	atomic_uint *walks = arg;
	struct walked w;

	while (!stop) {
		w.n = unwind_walk(&regs, &s, w.pcs, DEPTH_MAX, &w.end);
		*walks += w.n == 1;
	}
	return NULL;
}

static void tables_change_under_walking_threads(void **state)
{
	atomic_uint walks[2] = { 0, 0 };
	int published = 0, created = 0;
	time_t until = time(NULL) + 30;
	pthread_t thread[2];

	(void)state;
	released = 0;
	stop = 0;
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, walking_thread, &walks[i]), 0);
	while ((published < 5000 || walks[0] < 5000 || walks[1] < 5000) && time(NULL) < until) {
		struct unwind_table *table = counted_create(&released);

		created++;
		if (unwind_publish(table)) {
			table->release(table);
			sched_yield();
		} else {
			published++;
		}
	}
	stop = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(unwind_publish(NULL), 0);
	while (unwind_reclaim())
		;
	assert_int_equal(released, created);
	assert_true(published >= 5000 && walks[0] >= 5000 && walks[1] >= 5000);
}

/* ---- Remembered rules ---- */

/*
 * 16 KiB of code, all of it up by so many words. Two of its addresses meet in every place where a rule is remembered. The
 * stack is full of return addresses into it: how many frames a walk finds, and which, tells whose rules it followed.
 */
#define STEP_LOW   ((uintptr_t)0x40000)
#define STEP_HIGH  ((uintptr_t)0x44000)
#define STEP_WORDS 240 /* which 1, 2, 3 divide */

struct step_table {
	struct unwind_row row[2];
	uint32_t page[((0x4000 >> UNWIND_PAGE_SHIFT) + 2)];
	atomic_int released;
	struct unwind_table *
		table; /* its span's rows are above: up by words[0] in the lower half, words[1] in the upper */
};

static uintptr_t step_stack[STEP_WORDS];

static void step_release(struct unwind_table *table)
{
	struct step_table *s = (struct step_table *)(uintptr_t)table->span[0].wide;

	s->released++;
}

static struct step_table *step_create(void)
{
	struct step_table *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	s->table = malloc(sizeof(*s->table) + sizeof(s->table->span[0]));
	assert_non_null(s->table);
	/* as it may come from malloc */
	memset((void *)s->table, 0xff, sizeof(*s->table));
	s->table->release = step_release;
	s->table->n_spans = 1;
	s->table->span[0] = (struct unwind_span){
		STEP_LOW, STEP_HIGH, s->row, s->page, (const struct unwind_wide *)(void *)s,
		2,        0,         0,      NULL
	};
	return s;
}

static void step_free(struct step_table *s)
{
	free(s->table);
	free(s);
}

static void step_set(struct step_table *s, uint32_t lower, uint32_t upper)
{
	s->row[0] = (struct unwind_row){ 0, UNWIND_SP | lower << UNWIND_CFA_SHIFT };
	s->row[1] = (struct unwind_row){ 0x2000, UNWIND_SP | upper << UNWIND_CFA_SHIFT };
	for (unsigned i = 0; i < sizeof(s->page) / sizeof(s->page[0]); i++)
		s->page[i] = i << UNWIND_PAGE_SHIFT >= 0x2000;
}

/* The stack's words: the same address again and again, or a number of different ones, in the lower half or in both. */
static void step_fill(unsigned different, bool both)
{
	for (unsigned i = 0; i < STEP_WORDS; i++)
		step_stack[i] = STEP_LOW + 1 + i % different * 16 + (both && i % 2 ? 0x2000 : 0);
}

static unsigned step_walk(void)
{
	const struct unwind_regs regs = { .pc = STEP_LOW + 8, .sp = (uintptr_t)step_stack };
	const struct unwind_stack s = { .low = (uintptr_t)step_stack,
					.high = (uintptr_t)(step_stack + STEP_WORDS) };
	struct walked w;

	w.n = unwind_walk(&regs, &s, w.pcs, DEPTH_MAX, &w.end);
	return w.end == UNWIND_FOREIGN_STACK ? w.n : 0; /* beyond the last word */
}

static void step_forget(void)
{
	assert_int_equal(unwind_publish(NULL), 0);
	for (int i = 0; i < 4 && unwind_reclaim(); i++)
		;
	assert_int_equal(unwind_reclaim(), 0);
}

static unsigned words_in_use(const struct unwind_table *table)
{
	unsigned n = 0;

	for (unsigned i = 0; i < 1u << UNWIND_CACHE_BITS; i++)
		n += table->cache[i] != 0;
	return n;
}

static void rules_of_callers_are_remembered(void **state)
{
	struct step_table *s = step_create();

	(void)state;
	step_set(s, 1, 1);
	step_fill(10, false);
	assert_int_equal(unwind_publish(s->table), 0);
	assert_int_equal(words_in_use(s->table), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(step_walk(), 1 + STEP_WORDS);
		assert_int_equal(words_in_use(s->table), 10);
	}
	/* so that only the first frame looks at the rows now */
	step_set(s, 2, 2);
	assert_int_equal(step_walk(), 1 + STEP_WORDS - 1);
	step_forget();
	step_free(s);
}

static void a_remembered_rule_is_of_exactly_its_pc(void **state)
{
	struct step_table *s = step_create();

	(void)state;
	step_set(s, 1, 3);
	for (int i = 0; i < STEP_WORDS; i++)
		step_stack[i] = STEP_LOW + 0x2001; /* the same low bits, the other rule */
	step_stack[0] = step_stack[1] = STEP_LOW + 1;
	assert_int_equal(unwind_publish(s->table), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(step_walk(), 1 + 3 + (STEP_WORDS - 3) / 3);
	/* and beyond the bits that a word keeps */
	{
		const struct unwind_regs regs = { .pc = STEP_LOW + 8, .sp = (uintptr_t)step_stack };
		const struct unwind_stack stack_of = {
			.low = (uintptr_t)step_stack, .high = (uintptr_t)(step_stack + STEP_WORDS)
		};
		uintptr_t pcs[8];
		enum unwind_end end;

		step_stack[2] = step_stack[1] | (uintptr_t)1 << 47;
		assert_int_equal(unwind_walk(&regs, &stack_of, pcs, 8, &end), 4);
		assert_int_equal(end, UNWIND_NO_RULE);
	}
	step_forget();
	step_free(s);
}

/* A module goes, another comes to its place, even the table's memory is the same: nothing may be left of the old rules. */
static void new_rules_hold_at_once(void **state)
{
	struct step_table *s = step_create(), *other = step_create();

	(void)state;
	step_fill(7, true);
	for (uint32_t words = 1; words <= 3; words++) {
		step_set(s, words, words);
		assert_int_equal(unwind_publish(s->table), 0);
		for (int i = 0; i < 3; i++)
			assert_int_equal(step_walk(), 1 + STEP_WORDS / words);
		step_set(other, 4 - words, 4 - words);
		assert_int_equal(unwind_publish(other->table), 0);
		for (int i = 0; i < 3; i++)
			assert_int_equal(step_walk(), 1 + STEP_WORDS / (4 - words));
		step_forget();
		assert_int_equal(s->released, words);
		assert_int_equal(other->released, words);
	}
	step_free(s);
	step_free(other);
}

static atomic_uint mixed;

static void *stepping_thread(void *arg)
{
	atomic_uint *walks = arg;

	while (!stop) {
		unsigned n = step_walk();

		/* one table's rules from the first frame to the last */
		mixed += n != 1 + STEP_WORDS && n != 1 + STEP_WORDS / 2 && n != 1 + STEP_WORDS / 3;
		++*walks;
	}
	return NULL;
}

static void no_walk_mixes_the_rules_of_two_tables(void **state)
{
	struct step_table *s[3];
	atomic_uint walks[2] = { 0, 0 };
	time_t until = time(NULL) + 10; /* a busy machine may not get far */
	unsigned published = 0;
	pthread_t thread[2];

	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		s[i] = step_create();
		step_set(s[i], i + 1, i + 1);
	}
	step_fill(60, true);
	assert_int_equal(unwind_publish(s[0]->table), 0);
	stop = 0;
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, stepping_thread, &walks[i]), 0);
	while ((published < 1000 || walks[0] < 1000 || walks[1] < 1000) && time(NULL) < until) {
		/* published again in the same memory, as soon as nobody holds it */
		struct step_table *next = s[(published + 1) % 3];

		unwind_reclaim();
		if (next->released != (int)(published + 1) / 3) {
			sched_yield();
			continue;
		}
		assert_int_equal(unwind_publish(next->table), 0);
		published++;
		assert_int_equal(step_walk(), 1 + STEP_WORDS / (published % 3 + 1));
	}
	stop = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	step_forget();
	assert_int_equal(mixed, 0);
	assert_true(published > 3 && walks[0] + walks[1] > 3);
	for (int i = 0; i < 3; i++)
		step_free(s[i]);
}

static int open_modules(void **state)
{
	(void)state;
	modules = modules_create();
	if (!modules || modules_refresh(modules) != 1)
		return -1;
	for (uint32_t id = 1; id <= modules_count(modules); id++)
		if (strstr(modules_get(modules, id)->path, "/ld-linux"))
			binder = *modules_get(modules, id);
	return 0;
}

static int close_modules(void **state)
{
	(void)state;
	modules_destroy(modules);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#if defined(__x86_64__)
		cmocka_unit_test_setup(same_as_libunwind_at_every_instruction, fresh),
		cmocka_unit_test_setup(same_while_the_linker_binds_a_symbol, fresh),
		cmocka_unit_test_setup(same_across_a_signal_frame, fresh),
		cmocka_unit_test_setup(same_in_a_thread_down_to_clone, fresh),
		cmocka_unit_test_setup(same_at_random_moments, fresh),
		cmocka_unit_test_setup(a_walk_without_room_is_truncated, fresh),
		cmocka_unit_test_setup(nothing_outside_of_the_bounds_is_read, fresh),
		cmocka_unit_test_setup(a_copy_too_short_truncates, fresh),
		cmocka_unit_test_setup(a_coroutine_is_a_foreign_stack, fresh),
		cmocka_unit_test_setup(code_that_no_table_describes_has_no_rule, fresh),
		cmocka_unit_test_setup(garbage_never_faults, fresh),
#endif
		/* these publish tables of their own: last */
		cmocka_unit_test(a_table_lives_as_long_as_a_walk_with_it),
		cmocka_unit_test(a_stuck_walk_pins_a_bounded_number_of_tables),
		cmocka_unit_test(a_forks_child_releases_no_table_of_its_parents),
		cmocka_unit_test(tables_change_under_walking_threads),
		cmocka_unit_test(rules_of_callers_are_remembered),
		cmocka_unit_test(a_remembered_rule_is_of_exactly_its_pc),
		cmocka_unit_test(new_rules_hold_at_once),
		cmocka_unit_test(no_walk_mixes_the_rules_of_two_tables),
	};

	return cmocka_run_group_tests_name(__FILE__, tests, open_modules, close_modules);
}
