/* SPDX-License-Identifier: MIT
 *
 * Walks of stacks whose callers are known, because each wrote down where it returns to. Needs nothing but libc, so that it
 * also runs linked statically for another processor under an emulator: make aarch64.
 */
#include <alloca.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/core/ehframe.h"
#include "agent/sig/unwind.h"

#define NOINLINE  __attribute__((noinline, noclone))
#define BARRIER() __asm__ volatile("" ::: "memory")
#define DEPTH_MAX 128
#define SPANS_MAX 256

/* ---- Results ---- */

static unsigned tests_done;
static bool failed, any_failed;

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      printf("# line %d: %s\n", __LINE__, #condition);                                             \
      failed = true;                                                                               \
    }                                                                                              \
  } while (0)

static void end_test(const char *name)
{
	printf("%s %u - %s\n", failed ? "not ok" : "ok", ++tests_done, name);
	any_failed |= failed;
	failed = false;
}

/* ---- Tables of everything that is mapped ---- */

static struct unwind_table *table;
static struct ehframe_rows rows_of[SPANS_MAX];

static void no_release(struct unwind_table *t)
{
	(void)t;
}

static int digest(struct dl_phdr_info *info, size_t size, void *data)
{
	struct ehframe_bytes hdr = { 0 }, frames = { 0 };
	uintptr_t low = UINTPTR_MAX, high = 0;
	struct ehframe_rows *rows = &rows_of[table->n_spans];

	(void)size, (void)data;
	for (unsigned i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t at = info->dlpi_addr + p->p_vaddr;

		if (p->p_type == PT_GNU_EH_FRAME)
			hdr = (struct ehframe_bytes){ (const uint8_t *)at, p->p_memsz, at };
		if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
			continue;
		low = at < low ? at : low;
		high = at + p->p_memsz > high ? at + p->p_memsz : high;
	}
	if (!hdr.data || !high || table->n_spans == SPANS_MAX - 1 ||
	    ehframe_locate(&hdr, &frames.address))
		return 0;
	for (unsigned i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t at = info->dlpi_addr + p->p_vaddr;

		if (p->p_type == PT_LOAD && frames.address - at < p->p_memsz)
			frames.size = at + p->p_memsz - frames.address;
	}
	frames.data = (const uint8_t *)frames.address;
	if (ehframe_digest(&hdr, &frames, low, high, rows))
		return 0;
	table->span[table->n_spans++] = (struct unwind_span){
		.low = low,
		.high = high,
		.row = rows->row,
		.page = rows->page,
		.wide = rows->wide,
		.n_rows = rows->n_rows,
		.n_wide = rows->n_wide,
		.n_bx = rows->n_bx,
		.bx = rows->bx,
	};
	return 0;
}

static int by_address(const void *a, const void *b)
{
	const struct unwind_span *x = a, *y = b;

	return (x->low > y->low) - (x->low < y->low);
}

static void publish(void)
{
	qsort(table->span, table->n_spans, sizeof(table->span[0]), by_address);
	if (unwind_publish(NULL) || unwind_publish(table))
		exit(2);
}

/* ---- A walk and what it should have found ---- */

static __thread struct unwind_stack stack;
static uintptr_t returns[DEPTH_MAX]; /* outermost first */
static unsigned n_returns;
static struct {
	uintptr_t pcs[DEPTH_MAX], pc;
	unsigned n;
	enum unwind_end end;
} found;

static void find_stack(void)
{
	pthread_attr_t attr;
	size_t size;
	void *low;

	if (pthread_getattr_np(pthread_self(), &attr) || pthread_attr_getstack(&attr, &low, &size))
		exit(2);
	pthread_attr_destroy(&attr);
	stack = (struct unwind_stack){ .low = (uintptr_t)low, .high = (uintptr_t)low + size };
}

/* At the head of every function of a chain. */
#define I_RETURN() (returns[n_returns++] = (uintptr_t)__builtin_return_address(0))

static void walk(const struct unwind_regs *regs)
{
	found.pc = regs->pc;
	found.n = unwind_walk(regs, &stack, found.pcs, DEPTH_MAX, &found.end);
}

/* Every caller that wrote itself down is there, in this order; between them may be those of libc. @skip: innermost frames
 * that did not. */
static void check_chain(unsigned skip, bool gaps)
{
	unsigned at = 1 + skip;

	CHECK(found.n > 1 && found.pcs[0] == found.pc);
	CHECK(found.end == UNWIND_COMPLETE);
	for (unsigned i = n_returns; i-- > 0; at++) {
		while (gaps && at < found.n && found.pcs[at] != returns[i] - 1)
			at++;
		if (at >= found.n || found.pcs[at] != returns[i] - 1) {
			printf("# caller %u of %u: found %#lx (%u of %u, %s), returns to %#lx\n", i,
			       n_returns, at < found.n ? (long)found.pcs[at] + 1 : 0, at, found.n,
			       unwind_end_names[found.end], (long)returns[i]);
			failed = true;
			return;
		}
	}
}

/* ---- Interrupting ---- */

static volatile int *forbidden; /* touching it is a fault, once */
static uintptr_t page_bytes;
static void (*when_interrupted)(void *context);

static void on_fault(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)info;
	mprotect((void *)(uintptr_t)forbidden, page_bytes, PROT_READ | PROT_WRITE);
	when_interrupted(context);
}

static void walk_interrupted(void *context)
{
	struct unwind_regs regs;

	unwind_regs_from(&regs, context);
	walk(&regs);
}

static void forbid(void (*then)(void *))
{
	when_interrupted = then;
	mprotect((void *)(uintptr_t)forbidden, page_bytes, PROT_NONE);
}

/* On some processors its return address is in a register only, unless it asks for it: the one that does not write itself down. */
NOINLINE static int leaf(int n)
{
	return *forbidden + n;
}

/* Walks from where it stands, as a wrapper that is about to wait does. */
NOINLINE static int here(int n)
{
	struct unwind_regs regs = { .lr = 0 };

	I_RETURN();
	ARCH_HERE(regs.pc, regs.sp, regs.fp);
	walk(&regs);
	return n + (int)found.n;
}

/* ---- Frames of all kinds ---- */

static int (*innermost)(int);

NOINLINE static int small(int n)
{
	int r;

	I_RETURN();
	r = innermost(n);
	BARRIER();
	return r + 1;
}

NOINLINE static int sized(int n)
{
	char *p;
	int r;

	I_RETURN();
	p = alloca((size_t)(n % 7 + 1) * 48);
	p[0] = (char)n;
	BARRIER();
	r = small(n);
	BARRIER();
	return r + p[0];
}

NOINLINE static int aligned(int n)
{
	_Alignas(64) volatile int array[16];
	int r;

	I_RETURN();
	array[n % 16] = n;
	r = sized(n);
	return r + array[n % 16];
}

NOINLINE static int large(int n)
{
	volatile char array[600000];
	int r;

	I_RETURN();
	array[n] = (char)n;
	r = aligned(n);
	return r + array[n];
}

/* Much to keep in registers over a call. */
NOINLINE static int busy(int n)
{
	int a = n * 3, b = n * 5, c = n * 7, d = n * 11, e = n * 13, f = n * 17, r;

	I_RETURN();
	__asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f));
	r = large(n);
	__asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f));
	return r + a + b + c + d + e + f;
}

NOINLINE static int deep(int n)
{
	int r;

	I_RETURN();
	r = n ? deep(n - 1) : busy(5);
	BARRIER();
	return r + n;
}

static volatile int sink;

static void chain(int (*last)(int), int depth)
{
	n_returns = 0;
	innermost = last;
	memset(&found, 0, sizeof(found));
	if (last != here)
		forbid(walk_interrupted);
	sink = deep(depth);
}

/* ---- The tests ---- */

static void from_a_leaf(void)
{
	for (int i = 0; i < 3; i++) {
		chain(leaf, 40);
		CHECK(n_returns == 40 + 1 + 5);
		check_chain(1, false);
	}
	end_test("callers_of_an_interrupted_leaf_are_found");
}

static void from_here(void)
{
	chain(here, 20);
	check_chain(0, false);
	end_test("callers_are_found_from_where_a_wrapper_stands");
}

static int compare(const void *a, const void *b)
{
	if (!n_returns) {
		I_RETURN();
		sink = leaf(1);
	}
	return *(const int *)a - *(const int *)b;
}

static void through_libc(void)
{
	int array[] = { 3, 1, 2 };

	n_returns = 0;
	memset(&found, 0, sizeof(found));
	forbid(walk_interrupted);
	qsort(array, 3, sizeof(array[0]), compare);
	CHECK(n_returns == 1);
	check_chain(0, true);
	CHECK(found.n >= 5);
	end_test("frames_of_libc_are_walked_through");
}

static void *thread_main(void *arg)
{
	(void)arg;
	find_stack();
	I_RETURN();
	chain(leaf, 10);
	return NULL;
}

static void in_a_thread(void)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, thread_main, NULL) == 0);
	pthread_join(thread, NULL);
	check_chain(1, false);
	end_test("a_thread_is_walked_down_to_its_first_function");
}

/* In a signal handler: a chain from here on, and on from where the signal interrupted. */
static uintptr_t handler_returns;

static void on_signal(int sig)
{
	(void)sig;
	handler_returns = (uintptr_t)__builtin_return_address(0);
	sink = leaf(2);
}

/* The return from a signal handler, of which Linux says nothing on aarch64, nor does an emulator. */
static void teach_signal_return(void)
{
	static const struct unwind_row row = { 0, UNWIND_SIGNAL };
	static const uint32_t page[4];

	for (unsigned i = 0; i < table->n_spans; i++)
		if (handler_returns - 1 - table->span[i].low <
		    table->span[i].high - table->span[i].low)
			return;
	table->span[table->n_spans++] = (struct unwind_span){
		.low = handler_returns - 4,
		.high = handler_returns + 8,
		.row = &row,
		.page = page,
		.n_rows = 1,
	};
	publish();
}

static int raise_it(int n)
{
	I_RETURN();
	return n + raise(SIGUSR1);
}

static void across_a_signal(void)
{
	unsigned interrupted = 0;

	sigaction(SIGUSR1, &(struct sigaction){ .sa_handler = on_signal }, NULL);
	for (int i = 0; i < 2; i++) {
		chain(raise_it, 10);
		if (!i)
			teach_signal_return();
	}
	check_chain(0, true);
	for (unsigned i = 0; i < found.n; i++)
		interrupted += found.pcs[i] == handler_returns - 1;
	CHECK(interrupted == 1);
	end_test("a_signal_frame_leads_to_what_it_interrupted");
}

int main(void)
{
	struct sigaction fault = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

#ifdef __SANITIZE_THREAD__
	printf("ok 1 - chains # SKIP signals come late\n1..1\n");
	return 0;
#endif
	page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
	forbidden = mmap(NULL, page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	table = calloc(1, sizeof(*table) + SPANS_MAX * sizeof(table->span[0]));
	if (forbidden == MAP_FAILED || !table)
		return 2;
	table->release = no_release;
	dl_iterate_phdr(digest, NULL);
	publish();
	sigaction(SIGSEGV, &fault, NULL);
	find_stack();
	from_a_leaf();
	from_here();
	through_libc();
	in_a_thread();
	across_a_signal();
	printf("1..%u\n", tests_done);
	return any_failed;
}
