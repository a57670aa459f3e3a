/* SPDX-License-Identifier: MIT
 *
 * What one captured stack costs in a signal handler: our tables beside libunwind, glibc and frame pointers, and a whole
 * CPU sample. 256 functions of different frames call each other, without frame pointers but for the walk that needs them.
 * The ways take turns, so that noise hits all alike; a thread's first stack is taken in threads that are made for it.
 *
 * The libraries keep what they learnt per thread, we per process: a first stack costs us cold caches and, in a whole sample,
 * the fault of a ring's first page.
 *
 * What was tried for ours: ns per frame, 30 deep, least of 8 runs that took turns on an AMD EPYC with other load.
 *
 *	                                                      same   new leaf   cold
 *	page index and rows for every frame                    9.3       11.7   30.7
 *	+ rules of callers remembered, by low bits of pc       3.5        4.7   16.6   <- what is
 *	... by a hash of pc                                    3.9        4.9   20.0   dearer
 *	... leaves remembered, too                             3.5        4.8   20.6   no gain, and they push callers out
 *	... the saved frame pointer without a branch           3.6        4.5   20.2   within the noise
 *
 * Remembering per thread instead cost a thread's first stack 67 us of page faults, and each thread its own memory.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define UNW_LOCAL_ONLY
#include <libunwind.h>
#include <x86intrin.h>

#include "agent/core/modules.h"
#include "agent/hook/real.h"
#include "agent/sig/handler.h"
#include "agent/sig/unwind.h"
#include "agent/thread.h"

#define DEPTH_MAX 256
#define COLD_MIB  8

enum how {
	SAME,
	PATHS,
	LEAF,
	COLD,
	FIRST,
	HOWS
};
static const char *const how_names[HOWS] = {
	[SAME] = "the same stack again",   [PATHS] = "another path",
	[LEAF] = "another path, new leaf", [COLD] = "the same, caches cold",
	[FIRST] = "first of a thread",
};
static const unsigned depths[] = { 30, 60 };
enum {
	DEPTHS = 2,
	ROUNDS = 40, /* and in each of them so many stacks: */
	BATCH = 32,
	BATCH_COLD = 3,
	RING_BYTES = 65536,
};

typedef unsigned (*function)(unsigned depth, const unsigned char *path);
extern const function f_functions[256], fp_functions[256];

/* ---- The stack to be captured ---- */

#define CLOBBER_0 "memory"
#define CLOBBER_1 "memory", "rbx"
#define CLOBBER_2 "memory", "rbx", "r12"
#define CLOBBER_3 "memory", "rbx", "r12", "r13", "r14", "r15"

/*
 * Frames of 16 sizes and 4 sets of saved registers; an early way out gives each function a second region of rules. Each
 * exists twice, the second with a frame pointer, because it asks for its frame's address.
 */
#define FUNCTION_OF(id, set, frame, ...)                                                           \
  __attribute__((noinline, noclone)) static unsigned set##_##id(unsigned depth,                    \
								const unsigned char *path)         \
  {                                                                                                \
    volatile unsigned char b[8 + (0x##id % 16) * 24];                                              \
    unsigned r;                                                                                    \
                                                                                                   \
    b[0] = (unsigned char)depth;                                                                   \
    frame;                                                                                         \
    __asm__ volatile("" ::: __VA_ARGS__);                                                          \
    if (__builtin_expect(depth > 100000 + 0x##id, 0))                                              \
      return b[0];                                                                                 \
    if (depth)                                                                                     \
      r = set##_functions[path[depth]](depth - 1, path);                                           \
    else                                                                                           \
      r = capture_here();                                                                          \
    __asm__ volatile("" ::: __VA_ARGS__);                                                          \
    return r + b[sizeof(b) - 1];                                                                   \
  }

#define FUNCTION(id, ...)                                                                          \
  FUNCTION_OF(id, f, , __VA_ARGS__)                                                                \
  FUNCTION_OF(id, fp, __asm__ volatile("" ::"r"(__builtin_frame_address(0))), __VA_ARGS__)

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
#define NAMES(set, x)                                                                              \
  set##_##x##0, set##_##x##1, set##_##x##2, set##_##x##3, set##_##x##4, set##_##x##5,              \
	  set##_##x##6, set##_##x##7, set##_##x##8, set##_##x##9, set##_##x##a, set##_##x##b,      \
	  set##_##x##c, set##_##x##d, set##_##x##e, set##_##x##f
#define ALL(set)                                                                                   \
  NAMES(set, 0), NAMES(set, 1), NAMES(set, 2), NAMES(set, 3), NAMES(set, 4), NAMES(set, 5),        \
	  NAMES(set, 6), NAMES(set, 7), NAMES(set, 8), NAMES(set, 9), NAMES(set, a),               \
	  NAMES(set, b), NAMES(set, c), NAMES(set, d), NAMES(set, e), NAMES(set, f)

/* clang-format off */
ROW(0) ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) ROW(6) ROW(7) ROW(8) ROW(9) ROW(a) ROW(b) ROW(c) ROW(d) ROW(e) ROW(f)

	/* clang-format on */

	const function f_functions[256] = { ALL(f) },
		       fp_functions[256] = { ALL(fp) };

/* ---- Capturing ---- */

static uintptr_t pcs[DEPTH_MAX];
static struct unwind_stack stack;
static int (*glibc_backtrace)(void **, int);

static unsigned capture_nothing(void *context)
{
	pcs[0] = (uintptr_t)context;
	return 1;
}

static unsigned capture_ours(void *context)
{
	struct unwind_regs regs;
	enum unwind_end end;
	unsigned n;

	unwind_regs_from(&regs, context);
	n = unwind_walk(&regs, &stack, pcs, DEPTH_MAX, &end);
	return end == UNWIND_COMPLETE ? n : 0;
}

static unsigned capture_libunwind(void *context)
{
	(void)context;
	return (unsigned)unw_backtrace((void **)pcs, DEPTH_MAX);
}

static unsigned capture_glibc(void *context)
{
	(void)context;
	return (unsigned)glibc_backtrace((void **)pcs, DEPTH_MAX);
}

/* It misses the leaf's caller, and ends where code without frame pointers begins. */
static unsigned capture_frame_pointers(void *context)
{
	const greg_t *r = ((const ucontext_t *)context)->uc_mcontext.gregs;
	uintptr_t fp = (uintptr_t)r[REG_RBP], low = (uintptr_t)r[REG_RSP];
	unsigned n = 0;

	pcs[n++] = (uintptr_t)r[REG_RIP];
	while (n < DEPTH_MAX && fp >= low && fp < stack.high - 8 && fp % 8 == 0) {
		const uintptr_t *frame = (const uintptr_t *)fp;

		pcs[n++] = frame[1];
		low = fp + 16;
		fp = frame[0];
	}
	return n;
}

/* The handler itself, as the kernel would call it. */
struct shared *shared;
static struct shared shared_memory;
static struct thread records[2], *thread; /* of the main thread, of another */
static void (*handler)(int, siginfo_t *, void *);
static int number;
static siginfo_t info;

static unsigned capture_sample(void *context)
{
	handler(number, &info, context);
	return 0; /* drain() knows */
}

/* What the agent's thread does with samples; how deep the last one was. */
static unsigned drain(void)
{
	const struct sample_record *record;
	unsigned n = 0;
	uint32_t len;

	while ((record = ring_peek(&thread->ring, &len))) {
		n = record->end == UNWIND_COMPLETE ? record->depth : 0;
		ring_pop(&thread->ring, len);
	}
	return n;
}

static const struct way {
	const char *name;
	unsigned (*capture)(void *context);
	const function *functions;
} ways[] = {
	{ "sonde: unwind_walk()", capture_ours, f_functions },
	{ "sonde: a whole CPU sample, into its ring", capture_sample, f_functions },
	{ "libunwind: unw_backtrace()", capture_libunwind, f_functions },
	{ "glibc: backtrace()", capture_glibc, f_functions },
	{ "frame pointers, where code has them", capture_frame_pointers, fp_functions },
	{ NULL, capture_nothing, f_functions },
};
enum {
	WAYS = 5,
	NOTHING = WAYS
};

static unsigned (*capture)(void *);
static unsigned repeat, frames;
static double per_ns, took_ns;

static void on_trap(int sig, siginfo_t *trap, void *context)
{
	uint64_t start, ticks;
	unsigned aux;

	(void)sig, (void)trap;
	_mm_lfence();
	start = __rdtsc();
	for (unsigned i = 0; i < repeat; i++)
		frames = capture(context);
	ticks = __rdtscp(&aux) - start;
	took_ns = (double)ticks / repeat / per_ns;
	if (capture == capture_sample)
		frames = drain();
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

/* A record for the calling thread, as the agent has it: mapped, and its ring never written to. */
static void *record_create(struct thread *t)
{
	void *ring =
		mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (ring == MAP_FAILED)
		exit(1);
	memset(t, 0, sizeof(*t));
	t->life = THREAD_LIVE;
	t->stack_low = stack.low;
	t->stack_high = stack.high;
	t->timer_period_ns = 10000000;
	t->ring.bytes = ring;
	t->ring.size = RING_BYTES;
	thread = t;
	info.si_code = SI_TIMER;
	info.si_value.sival_ptr = t;
	return ring;
}

/* ---- Measuring ---- */

static volatile unsigned char other_memory[COLD_MIB << 20];

static void make_cold(void)
{
	for (size_t i = 0; i < sizeof(other_memory); i += 64)
		other_memory[i]++;
}

static void new_path(unsigned char *path, unsigned depth)
{
	for (unsigned i = 0; i <= depth; i++)
		path[i] = (unsigned char)(random() >> 5);
}

static unsigned frames_of[WAYS + 1][DEPTHS];
static double found_ns[WAYS + 1][HOWS][DEPTHS][ROUNDS];

/* ns per stack: the mean of a few. */
static double measure(const struct way *way, unsigned d, enum how how)
{
	unsigned batch = how == SAME ? 1 : how == COLD ? BATCH_COLD : BATCH;
	unsigned before = how == SAME   ? 1
			  : how == COLD ? 0
					: 2 * BATCH; /* so that caches are what they say */
	unsigned char path[DEPTH_MAX];
	double sum = 0;

	capture = way->capture;
	repeat = how == SAME ? BATCH : 1;
	new_path(path, depths[d]);
	for (unsigned i = 0; i < before + batch; i++) {
		if (how != SAME)
			new_path(path, depths[d]);
		at_place += how >= LEAF;
		if (how == COLD)
			make_cold();
		way->functions[path[depths[d]]](depths[d] - 1, path);
		if (i >= before)
			sum += took_ns;
	}
	frames_of[way - ways][d] = frames;
	return sum / batch;
}

struct first {
	const struct way *way;
	unsigned d;
	double ns;
};

static void *first_of_thread(void *arg)
{
	struct first *f = arg;
	void *ring;

	find_stack();
	ring = record_create(&records[1]);
	capture = f->way->capture;
	repeat = 1;
	{
		unsigned char path[DEPTH_MAX];

		new_path(path, depths[f->d]);
		f->way->functions[path[depths[f->d]]](depths[f->d] - 1, path);
	}
	f->ns = took_ns;
	munmap(ring, RING_BYTES);
	return NULL;
}

static double measure_first(const struct way *way, unsigned d)
{
	struct first f = { .way = way, .d = d };
	struct unwind_stack own = stack;
	pthread_t id;

	if (pthread_create(&id, NULL, first_of_thread, &f))
		exit(1);
	pthread_join(id, NULL);
	stack = own;
	thread = info.si_value.sival_ptr = &records[0];
	return f.ns;
}

static void measure_all(void)
{
	for (unsigned round = 0; round < ROUNDS; round++)
		for (unsigned how = 0; how < HOWS; how++)
			for (unsigned d = 0; d < DEPTHS; d++)
				for (unsigned w = 0; w <= WAYS; w++)
					found_ns[w][how][d][round] =
						how == FIRST ? measure_first(&ways[w], d)
							     : measure(&ways[w], d, (enum how)how);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void print_row(const struct way *way, enum how how)
{
	printf("  %-28s", how_names[how]);
	for (unsigned d = 0; d < DEPTHS; d++) {
		const double *ns = found_ns[way - ways][how][d], *none = found_ns[NOTHING][how][d];
		double least = ns[0] - none[0], median = ns[ROUNDS / 2] - none[ROUNDS / 2];

		if (how == FIRST)
			printf("%11.0f %8.0f %9s", least, median, "");
		else
			printf("%11.0f %8.0f %9.1f", least, median,
			       median / frames_of[way - ways][d]);
	}
	printf("\n");
}

static int print_all(void)
{
	int bad = 0;

	for (unsigned w = 0; w <= WAYS; w++)
		for (unsigned how = 0; how < HOWS; how++)
			for (unsigned d = 0; d < DEPTHS; d++)
				qsort(found_ns[w][how][d], ROUNDS, sizeof(double), by_value);
	printf("%-30s%15u functions deep%14u functions deep\n", "ns per stack", depths[0],
	       depths[1]);
	printf("%-30s%11s %8s %9s%11s %8s %9s\n", "", "least", "median", "/frame", "least",
	       "median", "/frame");
	for (unsigned w = 0; w < WAYS; w++) {
		printf("\n%s\n", ways[w].name);
		for (unsigned how = 0; how < HOWS; how++)
			print_row(&ways[w], (enum how)how);
		for (unsigned d = 0; d < DEPTHS; d++)
			if (frames_of[w][d] < depths[d]) {
				printf("  found only %u frames of %u\n", frames_of[w][d],
				       depths[d]);
				bad = 1;
			}
	}
	return bad;
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
	struct modules *modules = modules_create();
	struct timespec a, b;
	void *libc = dlopen("libc.so.6", RTLD_NOW); /* libunwind defines backtrace(), too */
	int bad;

	clock_gettime(CLOCK_MONOTONIC, &a);
	if (!modules || !libc || modules_refresh(modules) != 1 || real_start())
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &b);
	*(void **)&glibc_backtrace = dlsym(libc, "backtrace");
	per_ns = ticks_per_ns();
	shared = &shared_memory;
	find_stack();
	record_create(&records[0]);
	handler_start(records, 2, sizeof(records[0]), 128);
	number = handler_install(0);
	sigaction(number, NULL, &action);
	handler = action.sa_sigaction;
	action = (struct sigaction){ .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
	sigaction(SIGTRAP, &action, NULL);
	printf("%u modules digested beforehand, in %.1f ms, into %zu KiB. Caches cold: %d MiB of "
	       "other memory\n"
	       "written before. Least and median of %d rounds.\n\n",
	       modules_stats(modules)->mapped,
	       (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6,
	       modules_memory_bytes(modules) >> 10, COLD_MIB, ROUNDS);
	measure_all();
	bad = print_all();
	modules_destroy(modules);
	return bad;
}
