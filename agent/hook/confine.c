/* SPDX-License-Identifier: MIT
 *
 * A program that allows itself fewer system calls (seccomp) would be killed for ours. So before it does, the agent retires,
 * for good: timers, stamps on sockets and the agent's thread are gone when the filter comes, and the wrappers that remain
 * make no call but the host's. A fork's child stays so, and a program that it becomes, which inherits the filter, starts
 * without us. Filters come by prctl(), or by syscall(): libseccomp uses both. tests/storms/seccomp.c
 */
#include <dlfcn.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/core/agent.h"
#include "agent/hook/exports.h"
#include "agent/hook/guard.h"

/* ---- chroot: what /proc has to say is read before it is gone ---- */

EXPORT int chroot(const char *path)
{
	if (hook_enter())
		agent_settle();
	return REAL(chroot)(path);
}

/* ---- seccomp ---- */

/* Those who only ask whether the kernel knows filters give it no program. */
static void before_filter(unsigned long mode, unsigned long flags, unsigned long program)
{
	/* For a thread that has lost the processor in the middle of a call of ours: the filter is for that one, too. */
	static const struct timespec grace = { .tv_nsec = 20000000 };
	bool strict = mode == SECCOMP_SET_MODE_STRICT && !flags && !program;

	if ((!strict && (mode != SECCOMP_SET_MODE_FILTER || !program)) || tls.in_vfork)
		return;
	if (agent_retire("this program installs a seccomp filter: the agent is off from here on") &&
	    flags & SECCOMP_FILTER_FLAG_TSYNC)
		syscall(SYS_nanosleep, &grace, NULL);
}

static void before_prctl(unsigned long option, unsigned long mode, unsigned long program)
{
	if (option == PR_SET_TSC && mode == PR_TSC_SIGSEGV && !tls.in_vfork)
		agent_retire("this program forbids itself the counter of time (PR_SET_TSC): the "
			     "agent is off from here on");
	if (option != PR_SET_SECCOMP)
		return;
	if (mode == SECCOMP_MODE_STRICT)
		before_filter(SECCOMP_SET_MODE_STRICT, 0, 0);
	else if (mode == SECCOMP_MODE_FILTER)
		before_filter(SECCOMP_SET_MODE_FILTER, 0, program);
}

EXPORT int prctl(int option, ...)
{
	unsigned long a, b, c, d;
	va_list list;

	va_start(list, option);
	a = va_arg(list, unsigned long);
	b = va_arg(list, unsigned long);
	c = va_arg(list, unsigned long);
	d = va_arg(list, unsigned long);
	va_end(list);
	before_prctl((unsigned long)option, a, b);
	return REAL(prctl)(option, a, b, c, d);
}

/*
 * syscall() itself must leave the stack as it is: its caller may be asking for clone or vfork. So it looks at the number,
 * and jumps on.
 */
void *confine_next; /* libc's syscall() */
void confine_before(unsigned long number, unsigned long a, unsigned long b, unsigned long c);

void confine_before(unsigned long number, unsigned long a, unsigned long b, unsigned long c)
{
	if (!confine_next)
		confine_next = dlsym(RTLD_NEXT, "syscall");
	if (number == SYS_seccomp)
		before_filter(a, b, c);
	else if (number == SYS_prctl)
		before_prctl(a, b, c);
}

#if defined(__x86_64__)
__asm__(".pushsection .text\n"
	".globl syscall\n"
	".type syscall, @function\n"
	"syscall:\n"
	"	.cfi_startproc\n"
	"	endbr64\n"
	"	cmpq $317, %rdi\n" /* SYS_seccomp */
	"	je 1f\n"
	"	cmpq $157, %rdi\n" /* SYS_prctl */
	"	je 1f\n"
	"	cmpq $0, confine_next(%rip)\n"
	"	je 1f\n"
	"	jmp *confine_next(%rip)\n"
	"1:	pushq %rdi\n"
	"	pushq %rsi\n"
	"	pushq %rdx\n"
	"	pushq %rcx\n"
	"	pushq %r8\n"
	"	pushq %r9\n"
	"	subq $8, %rsp\n"
	"	.cfi_adjust_cfa_offset 56\n"
	"	call confine_before\n"
	"	addq $8, %rsp\n"
	"	popq %r9\n"
	"	popq %r8\n"
	"	popq %rcx\n"
	"	popq %rdx\n"
	"	popq %rsi\n"
	"	popq %rdi\n"
	"	.cfi_adjust_cfa_offset -56\n"
	"	jmp *confine_next(%rip)\n"
	"	.cfi_endproc\n"
	".size syscall, . - syscall\n"
	".popsection\n");
_Static_assert(SYS_seccomp == 317 && SYS_prctl == 157, "the assembly above knows the numbers");
#else
EXPORT long syscall(long number, ...)
{
	long a[6];
	va_list list;

	va_start(list, number);
	for (unsigned i = 0; i < 6; i++)
		a[i] = va_arg(list, long);
	va_end(list);
	confine_before((unsigned long)number, (unsigned long)a[0], (unsigned long)a[1],
		       (unsigned long)a[2]);
	return ((long (*)(long, ...))confine_next)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
#endif
