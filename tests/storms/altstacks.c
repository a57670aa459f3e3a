/* SPDX-License-Identifier: MIT
 *
 * Alternate signal stacks with little to spare. The host's handlers run on them and use them up nearly to the end; a
 * sampling signal that came on top would not fit, and the kernel would kill the host. Others are smaller than any signal
 * frame of this machine (MINSIGSTKSZ was 2 KiB when AVX-512 was not), and never used: a crash handler's. And a host that
 * outgrows its stack is brought back from its altstack by siglongjmp, or by longjmp with the mask mended by hand.
 */
#include <alloca.h>
#include <setjmp.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "include/sonde.h"
#include "tests/storms/storm.h"

enum {
	PAGE = 4096,
	CANARY = 0x5a,
	RECOVERY_STACK = 64 << 10,
};

static struct tally handled = TALLY("handlers run on their stack, to the end of it"),
		    kept = TALLY("the handler's own memory is untouched"),
		    told = TALLY("sigaltstack tells what was set"),
		    idle = TALLY("a stack too small for any signal does no harm"),
		    recovered = TALLY("a host recovers from the end of its stack"),
		    unblocked = TALLY("nothing is left blocked"),
		    asked = TALLY("the handler's mask is as the host made it");

static __thread stack_t mine;
static __thread volatile sig_atomic_t runs;

/* What the kernel says is blocked here. */
static unsigned long blocked(void)
{
	unsigned long mask = 0, none = 0;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, &none, NULL, sizeof none);
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, sizeof mask);
	return mask;
}

static __attribute__((noinline)) bool use_up(size_t bytes)
{
	volatile unsigned char *room = alloca(bytes);
	size_t wrong = 0;

	for (size_t i = 0; i < bytes; i++)
		room[i] = CANARY;
	storm_burn(300);
	for (size_t i = 0; i < bytes; i++)
		wrong += room[i] != CANARY;
	return wrong == 0;
}

/* Leaves some 600 bytes: what storm_burn() and a libc call may need. */
static void on_stack(int number)
{
	char here;
	uintptr_t left = (uintptr_t)&here - (uintptr_t)mine.ss_sp;
	stack_t now;
	sigset_t mask;

	(void)number;
	sigaltstack(NULL, &now);
	tally(&handled,
	      left < mine.ss_size && now.ss_flags == SS_ONSTACK && now.ss_sp == mine.ss_sp,
	      "%zu left, flags %x", (size_t)left, (unsigned)now.ss_flags);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	for (int s = 1; s < NSIG; s++)
		tally(&asked, sigismember(&mask, s) == (s == SIGUSR1 || s == SIGHUP), "%d", s);
	tally(&kept, use_up(left > 1400 ? left - 1400 : 0), "the stack changed");
	runs = runs + 1;
}

static stack_t stack_of(size_t bytes)
{
	size_t whole = (bytes + PAGE - 1) / PAGE * PAGE + PAGE;
	char *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		abort();
	MUST(mprotect(p, PAGE, PROT_NONE));
	return (stack_t){ .ss_sp = p + PAGE, .ss_size = bytes };
}

static void stack_free(const stack_t *s)
{
	MUST(munmap((char *)s->ss_sp - PAGE, (s->ss_size + PAGE - 1) / PAGE * PAGE + PAGE));
}

static void *works(void *argument)
{
	sonde_request request = sonde_begin("works");
	stack_t off = { .ss_flags = SS_DISABLE }, old;

	mine = stack_of((size_t)(uintptr_t)argument);
	for (unsigned turn = 0; storm_on(); turn++) {
		MUST(sigaltstack(&mine, NULL));
		for (int i = 0; i < 20; i++) {
			MUST_0(pthread_kill(pthread_self(), SIGUSR1));
			storm_burn(200);
		}
		tally(&unblocked, blocked() == 0, "%lx", blocked());
		MUST(sigaltstack(&off, &old));
		tally(&told,
		      old.ss_sp == mine.ss_sp && old.ss_size == mine.ss_size && !old.ss_flags,
		      "%p %zu %x", old.ss_sp, old.ss_size, (unsigned)old.ss_flags);
		storm_burn(200);
	}
	stack_free(&mine);
	sonde_end(request, 0);
	return NULL;
}

static void *has_one(void *argument)
{
	stack_t off = { .ss_flags = SS_DISABLE }, old;
	unsigned long samples = 0;

	mine = stack_of((size_t)(uintptr_t)argument);
	while (storm_on()) {
		int r = sigaltstack(&mine, NULL);

		if (r) { /* this kernel is strict: nothing to be seen here */
			tally(&idle, errno == ENOMEM, "sigaltstack: %s", strerror(errno));
			storm_burn(10000);
			continue;
		}
		storm_burn(10000);
		samples++;
		MUST(sigaltstack(&off, &old));
		tally(&idle, old.ss_sp == mine.ss_sp && old.ss_size == mine.ss_size, "%p %zu",
		      old.ss_sp, old.ss_size);
	}
	stack_free(&mine);
	return NULL;
}

static __thread sigjmp_buf out;
static __thread bool saves_mask;

static void on_overflow(int number)
{
	storm_burn(300);
	if (!saves_mask) {
		sigset_t set;

		sigemptyset(&set);
		sigaddset(&set, number);
		pthread_sigmask(SIG_UNBLOCK, &set, NULL);
		storm_burn(300);
	}
	siglongjmp(out, 1);
}

/* Tail calls would not grow the stack. */
static __attribute__((noinline)) unsigned grow(unsigned depth)
{
	volatile unsigned char frame[256];

	frame[0] = (unsigned char)depth;
	return depth + (depth < 1u << 30 ? grow(depth + 1) : 0) + frame[0];
}

static void *outgrows(void *argument)
{
	sonde_request request = sonde_begin("outgrows");
	stack_t off = { .ss_flags = SS_DISABLE };
	volatile unsigned turn = 0;

	mine = stack_of((size_t)(uintptr_t)argument);
	MUST(sigaltstack(&mine, NULL));
	for (; storm_on(); turn++) {
		volatile unsigned deep = 0;

		saves_mask = turn % 2;
		if (sigsetjmp(out, turn % 2) == 0)
			deep = grow(1);
		tally(&recovered, deep == 0, "it never overflowed");
		tally(&unblocked, blocked() == 0, "%lx after a jump", blocked());
		storm_burn(200);
	}
	MUST(sigaltstack(&off, NULL));
	stack_free(&mine);
	sonde_end(request, 0);
	return NULL;
}

/* The mask of @number's handler as the kernel has it. */
static unsigned long mask_of(int number)
{
	struct {
		void *handler;
		unsigned long flags;
		void *restorer;
		unsigned long mask;
	} action;

	MUST(syscall(SYS_rt_sigaction, number, NULL, &action, sizeof action.mask));
	return action.mask;
}

static void ignore(int number)
{
	(void)number;
}

/* A host that takes every real-time signal for itself: none is left for sampling, nor in the masks of its handlers. */
static void take_all_signals(void)
{
	struct sigaction action = { .sa_handler = ignore, .sa_flags = SA_ONSTACK };

	for (int s = SIGRTMIN; s <= SIGRTMAX; s++)
		MUST(sigaction(s, &action, NULL));
	for (int s = SIGRTMIN; s <= SIGRTMAX; s++)
		tally(&asked, mask_of(s) == 0, "of signal %d: %lx", s, mask_of(s));
	tally(&asked, mask_of(SIGUSR1) == 1ul << (SIGHUP - 1), "of SIGUSR1: %lx", mask_of(SIGUSR1));
}

int main(int argc, char **argv)
{
	size_t frame = getauxval(AT_MINSIGSTKSZ) ? getauxval(AT_MINSIGSTKSZ) : 2048;
	struct {
		void *(*run)(void *);
		size_t bytes;
		pthread_t thread;
	} all[] = { { .run = works, .bytes = frame + 2048 },   { .run = works, .bytes = 8192 },
		    { .run = works, .bytes = 16384 },          { .run = has_one, .bytes = 2048 },
		    { .run = has_one, .bytes = frame + 16 },   { .run = outgrows, .bytes = 8192 },
		    { .run = outgrows, .bytes = frame + 2048 } };
	struct sigaction action = { .sa_handler = on_stack, .sa_flags = SA_ONSTACK | SA_RESTART },
			 old;
	pthread_attr_t small;

	storm_begin(argc, argv);
	tally_list(&handled);
	tally_list(&kept);
	tally_list(&told);
	tally_list(&idle);
	tally_list(&recovered);
	tally_list(&unblocked);
	tally_list(&asked);
	sigaddset(&action.sa_mask, SIGHUP);
	MUST(sigaction(SIGUSR1, &action, NULL));
	MUST(sigaction(SIGUSR1, &action, &old));
	for (int s = 1; s < NSIG; s++)
		tally(&asked, sigismember(&old.sa_mask, s) == (s == SIGHUP), "sigaction: %d", s);
	action.sa_handler = on_overflow;
	sigemptyset(&action.sa_mask);
	MUST(sigaction(SIGSEGV, &action, NULL));
	MUST_0(pthread_attr_init(&small));
	MUST_0(pthread_attr_setstacksize(&small, RECOVERY_STACK));
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		MUST_0(pthread_create(&all[i].thread, &small, all[i].run,
				      (void *)(uintptr_t)all[i].bytes));
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		MUST_0(pthread_join(all[i].thread, NULL));
	pthread_attr_destroy(&small);
	take_all_signals();
	return storm_end();
}
