/* SPDX-License-Identifier: MIT
 *
 * What one captured stack costs in a signal handler: our tables beside libunwind's unw_backtrace() and glibc's
 * backtrace(), on the same stacks in the same run. 256 functions of different frames call each other, without frame
 * pointers.
 *
 *	new:     as a profiler meets it: another path for every capture, and interrupted where it never was before
 *	diverse: another path, but every program counter in it was seen before
 *	hot:     the very same stack again and again
 *
 * Medians. libunwind remembers every program counter it has seen, per thread.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define UNW_LOCAL_ONLY
#include <libunwind.h>
#include <x86intrin.h>

#include "agent/core/modules.h"
#include "agent/sig/unwind.h"

#define DEPTH_MAX 256
#define ROUNDS    400

enum how {
	NEW,
	DIVERSE,
	HOT,
	HOWS
};

typedef unsigned (*function)(unsigned depth, const unsigned char *path);
extern const function functions[256];

/* ---- The stack to be captured ---- */

#define CLOBBER_0
#define CLOBBER_1 , "rbx"
#define CLOBBER_2 , "rbx", "r12"
#define CLOBBER_3 , "rbx", "r12", "r13", "r14", "r15"

/* Frames of 16 sizes and 4 sets of saved registers; an early way out gives each function a second region of rules. */
#define FUNCTION(id, clobber)                                                                      \
  __attribute__((noinline, noclone)) static unsigned f_##id(unsigned depth,                        \
							    const unsigned char *path)             \
  {                                                                                                \
    volatile unsigned char b[8 + (0x##id % 16) * 24];                                              \
    unsigned r;                                                                                    \
                                                                                                   \
    b[0] = (unsigned char)depth;                                                                   \
    __asm__ volatile("" ::: "memory" clobber);                                                     \
    if (__builtin_expect(depth > 100000 + 0x##id, 0))                                              \
      return b[0];                                                                                 \
    if (depth)                                                                                     \
      r = functions[path[depth]](depth - 1, path);                                                 \
    else                                                                                           \
      r = capture_here();                                                                          \
    __asm__ volatile("" ::: "memory" clobber);                                                     \
    return r + b[sizeof(b) - 1];                                                                   \
  }

/* A place to be interrupted at, PLACES times. */
#define PLACES 16384
unsigned place(void);
__asm__(".text\n.type place, @function\nplace:\n.cfi_startproc\n.rept "
	"16384\nint3\nret\n.endr\n.cfi_endproc\n.size place, .-place");

static unsigned at_place;

static unsigned capture_here(void)
{
	return ((unsigned (*)(void))((uintptr_t)place + 2 * (at_place % PLACES)))();
}

#define ROW(x)                                                                                     \
  FUNCTION(x##0, CLOBBER_0)                                                                        \
  FUNCTION(x##1, CLOBBER_1)                                                                        \
  FUNCTION(x##2, CLOBBER_2)                                                                        \
  FUNCTION(x##3, CLOBBER_3)                                                                        \
  FUNCTION(x##4, CLOBBER_0)                                                                        \
  FUNCTION(x##5, CLOBBER_1)                                                                        \
  FUNCTION(x##6, CLOBBER_2)                                                                        \
  FUNCTION(x##7, CLOBBER_3)                                                                        \
  FUNCTION(x##8, CLOBBER_0)                                                                        \
  FUNCTION(x##9, CLOBBER_1)                                                                        \
  FUNCTION(x##a, CLOBBER_2)                                                                        \
  FUNCTION(x##b, CLOBBER_3)                                                                        \
  FUNCTION(x##c, CLOBBER_0)                                                                        \
  FUNCTION(x##d, CLOBBER_1)                                                                        \
  FUNCTION(x##e, CLOBBER_2)                                                                        \
  FUNCTION(x##f, CLOBBER_3)
#define NAMES(x)                                                                                   \
  f_##x##0, f_##x##1, f_##x##2, f_##x##3, f_##x##4, f_##x##5, f_##x##6, f_##x##7, f_##x##8,        \
	  f_##x##9, f_##x##a, f_##x##b, f_##x##c, f_##x##d, f_##x##e, f_##x##f

/* clang-format off */
ROW(0) ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) ROW(6) ROW(7) ROW(8) ROW(9) ROW(a) ROW(b) ROW(c) ROW(d) ROW(e) ROW(f)

const function functions[256] = {
	NAMES(0), NAMES(1), NAMES(2), NAMES(3), NAMES(4), NAMES(5), NAMES(6), NAMES(7),
	NAMES(8), NAMES(9), NAMES(a), NAMES(b), NAMES(c), NAMES(d), NAMES(e), NAMES(f),
};
/* clang-format on */

/* ---- Capturing ---- */

static uintptr_t pcs[DEPTH_MAX];
static struct unwind_stack stack;
static int (*glibc_backtrace)(void **, int);

static unsigned capture_nothing(const ucontext_t *context)
{
	pcs[0] = (uintptr_t)context;
	return 1;
}

static unsigned capture_ours(const ucontext_t *context)
{
	struct unwind_regs regs;
	enum unwind_end end;
	unsigned n;

	unwind_regs_from(&regs, context);
	n = unwind_walk(&regs, &stack, pcs, DEPTH_MAX, &end);
	return end == UNWIND_COMPLETE ? n : 0;
}

static unsigned capture_libunwind(const ucontext_t *context)
{
	(void)context;
	return (unsigned)unw_backtrace((void **)pcs, DEPTH_MAX);
}

static unsigned capture_glibc(const ucontext_t *context)
{
	(void)context;
	return (unsigned)glibc_backtrace((void **)pcs, DEPTH_MAX);
}

static unsigned (*capture)(const ucontext_t *);
static unsigned repeat, frames;
static uint64_t ticks;

static void on_trap(int sig, siginfo_t *info, void *context)
{
	unsigned aux;
	uint64_t start;

	(void)sig, (void)info;
	_mm_lfence();
	start = __rdtsc();
	for (unsigned i = 0; i < repeat; i++)
		frames = capture(context);
	ticks = __rdtscp(&aux) - start;
}

static double ticks_per_ns(void)
{
	struct timespec a, b;
	uint64_t start = __rdtsc();
	double ns;

	clock_gettime(CLOCK_MONOTONIC, &a);
	do {
		clock_gettime(CLOCK_MONOTONIC, &b);
		ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
	} while (ns < 5e7);
	return (double)(__rdtsc() - start) / ns;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void new_path(unsigned char *path, unsigned depth)
{
	for (unsigned i = 0; i <= depth; i++)
		path[i] = (unsigned char)(random() >> 5);
}

/* The median ns of one capture, @depth functions deep; its frames are left in frames. */
static double measure(unsigned (*what)(const ucontext_t *), unsigned depth, enum how how,
		      double per_ns)
{
	static double ns[ROUNDS];
	unsigned char path[DEPTH_MAX];

	srandom(1);
	capture = what;
	repeat = how == HOT ? 64 : 1;
	new_path(path, depth);
	for (unsigned i = 0; i < ROUNDS; i++) {
		if (how != HOT)
			new_path(path, depth);
		at_place += how == NEW;
		functions[path[depth]](depth - 1, path);
		ns[i] = (double)ticks / repeat / per_ns;
	}
	qsort(ns, ROUNDS, sizeof(ns[0]), by_value);
	return ns[ROUNDS / 2];
}

static void find_stack(void)
{
	pthread_attr_t attr;
	size_t size;
	void *low;

	pthread_getattr_np(pthread_self(), &attr);
	pthread_attr_getstack(&attr, &low, &size);
	pthread_attr_destroy(&attr);
	stack = (struct unwind_stack){ .low = (uintptr_t)low, .high = (uintptr_t)low + size };
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		unsigned (*capture)(const ucontext_t *);
	} engines[] = {
		{ "sonde unwind_walk()", capture_ours },
		{ "libunwind unw_backtrace()", capture_libunwind },
		{ "glibc backtrace()", capture_glibc },
	};
	static const unsigned depths[] = { 30, 60 };
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
	struct modules *modules = modules_create();
	struct timespec a, b;
	/* libunwind defines backtrace(), too */
	void *libc = dlopen("libc.so.6", RTLD_NOW);
	double per_ns = ticks_per_ns(), worst = 0;

	clock_gettime(CLOCK_MONOTONIC, &a);
	if (!modules || !libc || modules_refresh(modules) != 1)
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &b);
	*(void **)&glibc_backtrace = dlsym(libc, "backtrace");
	find_stack();
	sigaction(SIGTRAP, &action, NULL);
	printf("$ %s\n%u modules digested in %.1f ms, %zu KiB; ns per captured stack / per "
	       "frame\n\n",
	       argc ? argv[0] : "", modules_stats(modules)->mapped,
	       (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6,
	       modules_memory_bytes(modules) >> 10);
	printf("%-26s %18s %18s %18s %18s %18s %18s\n", "", "new, 30 deep", "diverse, 30 deep",
	       "hot, 30 deep", "new, 60 deep", "diverse, 60 deep", "hot, 60 deep");
	for (unsigned e = 0; e < sizeof(engines) / sizeof(engines[0]); e++) {
		printf("%-26s", engines[e].name);
		for (unsigned k = 0; k < 2 * HOWS; k++) {
			unsigned depth = depths[k / HOWS];
			double base = measure(capture_nothing, depth, (enum how)(k % HOWS), per_ns);
			double ns =
				measure(engines[e].capture, depth, (enum how)(k % HOWS), per_ns) -
				base;

			if (!frames) {
				printf("  a walk was not complete\n");
				return 1;
			}
			if (!e && ns / frames > worst)
				worst = ns / frames;
			printf(" %9.0f / %6.1f", ns, ns / frames);
		}
		printf("\n");
	}
	modules_destroy(modules);
	if (worst > 100) {
		printf("more than 100 ns per frame: something is wrong\n");
		return 1;
	}
	return 0;
}
