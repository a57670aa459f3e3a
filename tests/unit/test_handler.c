/* SPDX-License-Identifier: MIT
 *
 * The sampling signal's handler, called as the kernel would call it, with the registers of a real interruption: what it
 * writes into the ring, and what it takes of the host's stack.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "agent/core/modules.h"
#include "agent/hook/real.h"
#include "agent/sig/handler.h"
#include "agent/sig/unwind.h"
#include "agent/thread.h"
#include "unit.h"

#define NOINLINE __attribute__((noinline, noclone))
#define DEPTH    128
#define STACK_BYTES                                                                                \
  1024 /* of the host's that one sample may take, the kernel's own frame excluded */

struct shared *shared;

static struct shared memory;
static struct thread threads[4];
static char ring_bytes[65536];
static struct modules *modules;
static void (*handler)(int, siginfo_t *, void *);
static int number;

/* ---- A call of the handler ---- */

static siginfo_t info_of(const struct thread *t, int overrun)
{
	siginfo_t info = { .si_code = SI_TIMER };

	info.si_overrun = overrun;
	info.si_value.sival_ptr = (void *)(uintptr_t)t;
	return info;
}

static siginfo_t given;
static void (*when_trapped)(void *context);

static void on_trap(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)info;
	when_trapped(context);
}

static void call(void *context)
{
	handler(number, &given, context);
}

NOINLINE static unsigned long deep(unsigned depth)
{
	unsigned long r = depth;

	if (depth)
		r += deep(depth - 1);
	else
		__asm__ volatile("int3" ::: "memory");
	__asm__ volatile("" ::: "memory");
	return r;
}

/* Frames whose rules do not fit a row. */
NOINLINE static unsigned long deep_aligned(unsigned depth)
{
	_Alignas(64) volatile unsigned long array[4];

	array[depth % 4] = depth;
	return array[depth % 4] + (depth ? deep_aligned(depth - 1) : deep(3));
}

static void trap(void (*then)(void *), unsigned long (*in)(unsigned), unsigned depth)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };

	when_trapped = then;
	assert_int_equal(sigaction(SIGTRAP, &action, NULL), 0);
	in(depth);
}

static const struct sample_record *sample(void)
{
	uint32_t len;
	const struct sample_record *record = ring_peek(&threads[1].ring, &len);

	if (record) {
		assert_int_equal(record->record.kind, RECORD_SAMPLE);
		assert_int_equal(len, sizeof *record + record->depth * sizeof record->pcs[0]);
	}
	return record;
}

static int fresh(void **state)
{
	struct thread *t = &threads[1];
	pthread_attr_t attr;
	size_t size;
	void *low;

	(void)state;
	memset(&memory, 0, sizeof memory);
	memset(threads, 0, sizeof threads);
	shared = &memory;
	assert_int_equal(pthread_getattr_np(pthread_self(), &attr), 0);
	assert_int_equal(pthread_attr_getstack(&attr, &low, &size), 0);
	pthread_attr_destroy(&attr);
	t->life = THREAD_LIVE;
	t->stack_low = (uintptr_t)low;
	t->stack_high = (uintptr_t)low + size;
	t->timer_period_ns = 1000;
	t->ring.bytes = ring_bytes;
	t->ring.size = sizeof ring_bytes;
	given = info_of(t, 0);
	return 0;
}

/* ThreadSanitizer delivers signals late, with registers that are long gone. */
static void needs_signals_at_once(void)
{
#ifdef __SANITIZE_THREAD__
	skip();
#endif
}

/* ---- What it writes ---- */

static void a_sample_has_stack_request_and_weight(void **state)
{
	const struct sample_record *record;
	struct thread *t = &threads[1];

	(void)state;
	needs_signals_at_once();
	t->current = 77;
	errno = ENOTTY;
	trap(call, deep, 20);
	assert_int_equal(errno, ENOTTY);
	record = sample();
	assert_non_null(record);
	assert_int_equal(record->request, 77);
	assert_int_equal(record->weight_ns, 1000);
	assert_int_equal(record->end, UNWIND_COMPLETE);
	assert_in_range(record->depth, 22, 60);
	for (unsigned i = 1; i < 20; i++)
		assert_int_equal(record->pcs[i], record->pcs[1]);
	assert_int_equal(t->news, 1);
	assert_true(t->handler_ns > 0);
}

/* The kernel counts the expiries that it could not deliver one by one. */
static void overruns_are_weight(void **state)
{
	(void)state;
	needs_signals_at_once();
	given = info_of(&threads[1], 3);
	trap(call, deep, 5);
	assert_int_equal(sample()->weight_ns, 4000);
	assert_int_equal(threads[1].news, 1);
}

static void nothing_is_written_for_a_thread_that_is_gone(void **state)
{
	(void)state;
	needs_signals_at_once();
	threads[1].life = THREAD_ENDED;
	trap(call, deep, 5);
	given = info_of(&threads[3] + 1, 0); /* no record of ours at all */
	trap(call, deep, 5);
	assert_null(sample());
	assert_int_equal(memory.drops[DROP_REENTRY], 2);
}

static void what_does_not_fit_the_ring_is_counted(void **state)
{
	(void)state;
	needs_signals_at_once();
	threads[1].ring.size = 2048;
	for (int i = 0; i < 20; i++)
		trap(call, deep, 20);
	assert_true(memory.drops[DROP_RING] > 0);
	assert_int_equal(threads[1].news + memory.drops[DROP_RING], 20);
}

/* ---- What it takes of the host ---- */

/* A host's handler on top of ours could jump out of a walk. */
static void no_other_handler_runs_on_top_of_it(void **state)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT };
	struct sigaction action;

	(void)state;
	assert_int_equal(sigaction(number, NULL, &action), 0);
	for (int i = 1; i <= SIGRTMAX; i++) {
		bool fault = false;

		for (unsigned k = 0; k < sizeof faults / sizeof *faults; k++)
			fault |= i == faults[k];
		if (i != SIGKILL && i != SIGSTOP) /* which the kernel takes out of every mask */
			assert_int_equal(sigismember(&action.sa_mask, i), !fault);
	}
	assert_true(action.sa_flags & SA_RESTART);
	assert_true(action.sa_flags & SA_ONSTACK);
}

#define PAINT 0x5aa55aa5f00dcafeull

static uint64_t painted[8192];
static ucontext_t trapped, painter;
static void *interrupted;
static size_t used_bytes;

/* Runs on the painted stack: below this frame it is clean before the call, and after it tells how deep the call went. */
NOINLINE static void paint_and_call(void)
{
	volatile uint64_t *below, *end;

	handler(number, &given, interrupted); /* binds what it calls */
	__asm__ volatile("mov %%rsp, %0" : "=r"(end));
	for (below = painted; below < end; below++)
		*below = PAINT;
	handler(number, &given, interrupted);
	for (below = painted; below < end && *below == PAINT; below++)
		;
	used_bytes = (size_t)((char *)(uintptr_t)end - (char *)(uintptr_t)below);
}

static void on_painted_stack(void)
{
	paint_and_call();
	swapcontext(&painter, &trapped);
}

static void call_on_painted_stack(void *context)
{
	interrupted = context;
	getcontext(&painter);
	painter.uc_stack.ss_sp = painted;
	painter.uc_stack.ss_size = sizeof painted;
	makecontext(&painter, on_painted_stack, 0);
	swapcontext(&trapped, &painter);
}

static void a_sample_takes_at_most_1_kib_of_stack(void **state)
{
	(void)state;
	needs_signals_at_once();
	trap(call_on_painted_stack, deep, 60);
	assert_int_equal(threads[1].news, 2);
	assert_int_equal(sample()->end, UNWIND_COMPLETE);
	print_message("# %zu bytes of stack\n", used_bytes);
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
	assert_in_range(used_bytes, 100, STACK_BYTES);
#endif
	trap(call_on_painted_stack, deep_aligned, 20);
	assert_int_equal(threads[1].news, 4);
	print_message("# %zu bytes with rules that do not fit a row\n", used_bytes);
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
	assert_in_range(used_bytes, 100, STACK_BYTES);
#endif
}

static int start(void **state)
{
	struct sigaction action;

	(void)state;
	modules = modules_create();
	if (!modules || modules_refresh(modules) != 1 || real_start())
		return -1;
	handler_start(threads, sizeof threads / sizeof *threads, sizeof threads[0], DEPTH);
	number = handler_install(0);
	if (!number || sigaction(number, NULL, &action) || !handler_is_ours(&action))
		return -1;
	handler = action.sa_sigaction;
	return 0;
}

static int stop(void **state)
{
	(void)state;
	modules_destroy(modules);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(no_other_handler_runs_on_top_of_it, fresh),
#if defined(__x86_64__)
		cmocka_unit_test_setup(a_sample_has_stack_request_and_weight, fresh),
		cmocka_unit_test_setup(overruns_are_weight, fresh),
		cmocka_unit_test_setup(nothing_is_written_for_a_thread_that_is_gone, fresh),
		cmocka_unit_test_setup(what_does_not_fit_the_ring_is_counted, fresh),
		cmocka_unit_test_setup(a_sample_takes_at_most_1_kib_of_stack, fresh),
#endif
	};

	return cmocka_run_group_tests_name(__FILE__, tests, start, stop);
}
