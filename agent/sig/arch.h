/* SPDX-License-Identifier: MIT
 *
 * What differs between processors for everything that deals with registers and stacks. To carry sonde to another one, begin
 * here; the rest is in hook/process.c (vfork), hook/lock.c and hook/real.c (versions of libc's names).
 *
 * x86_64: a call pushes the return address, so that it always lies right below the frame's address (CFA).
 * aarch64: a call leaves it in x30, and a function that calls others saves it, as a rule beside x29, the frame pointer. It
 * may be signed: its upper bits are no address then.
 */
#ifndef AGENT_SIG_ARCH_H
#define AGENT_SIG_ARCH_H

#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

#if defined(__x86_64__)

/* DWARF's register numbers; how many registers a rule may name. */
enum {
	ARCH_FP = 6,
	ARCH_SP = 7,
	ARCH_RA = 16,
	ARCH_BX = 3, /* keeps the address of a frame of the dynamic linker */
	ARCH_REGS = 16
};
enum {
	ARCH_LINK_REGISTER = 0, /* whether a call leaves the return address in a register */
	ARCH_RED_ZONE =
		128,       /* bytes below the stack pointer that are the function's all the same */
	ARCH_PC_SHIFT = 0, /* low bits that code addresses have in common */
	ARCH_SIGNAL_CONTEXT = 0 /* from sp to the ucontext_t, seen by a signal handler's return */
};

/* The address in what a call leaves behind. */
static inline uintptr_t arch_pc(uintptr_t ra)
{
	return ra;
}

/* Registers inside a ucontext_t, as offsets; ARCH_UC_ALL up to ARCH_UC_END is what ARCH_REGISTER() reads. */
#  define ARCH_UC_ALL          offsetof(ucontext_t, uc_mcontext.gregs)
#  define ARCH_UC_REGISTER(at) (ARCH_UC_ALL + (at) * sizeof(greg_t))
#  define ARCH_UC_END          ARCH_UC_REGISTER(NGREG)
#  define ARCH_UC_PC           ARCH_UC_REGISTER(REG_RIP)
#  define ARCH_UC_SP           ARCH_UC_REGISTER(REG_RSP)
#  define ARCH_UC_FP           ARCH_UC_REGISTER(REG_RBP)
#  define ARCH_UC_LR           ARCH_UC_PC /* there is none */

/* The place of DWARF's register @reg among those at ARCH_UC_ALL. */
static inline unsigned arch_register(unsigned reg)
{
	static const uint8_t greg_of_dwarf[ARCH_REGS] = {
		REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP,
		REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
	};

	return greg_of_dwarf[reg];
}

/* Where the current function stands. */
#  define ARCH_HERE(pc, sp, fp)                                                                    \
    __asm__ volatile("lea 0(%%rip), %0\n\tmov %%rsp, %1\n\tmov %%rbp, %2"                          \
		     : "=&r"(pc), "=&r"(sp), "=&r"(fp))

/* Inside of a loop that waits for another processor. */
#  define ARCH_PAUSE() __builtin_ia32_pause()

#elif defined(__aarch64__)

enum {
	ARCH_FP = 29,
	ARCH_SP = 31,
	ARCH_RA = 30,
	ARCH_REGS = 32,
	ARCH_BX = ARCH_REGS /* there is none */
};
enum {
	ARCH_LINK_REGISTER = 1,
	ARCH_RED_ZONE = 0,
	ARCH_PC_SHIFT = 2,
	ARCH_SIGNAL_CONTEXT = 128 /* the siginfo_t comes first */
};

static inline uintptr_t arch_pc(uintptr_t ra)
{
	return ra & (((uintptr_t)1 << 48) - 1);
}

#  define ARCH_UC_ALL offsetof(ucontext_t, uc_mcontext.regs) /* x0 to x30, then sp, then pc */
#  define ARCH_UC_PC  offsetof(ucontext_t, uc_mcontext.pc)
#  define ARCH_UC_SP  offsetof(ucontext_t, uc_mcontext.sp)
#  define ARCH_UC_FP  offsetof(ucontext_t, uc_mcontext.regs[29])
#  define ARCH_UC_LR  offsetof(ucontext_t, uc_mcontext.regs[30])
#  define ARCH_UC_END (ARCH_UC_PC + sizeof(uintptr_t))

static inline unsigned arch_register(unsigned reg)
{
	return reg;
}

#  define ARCH_HERE(pc, sp, fp)                                                                    \
    __asm__ volatile("adr %0, .\n\tmov %1, sp\n\tmov %2, x29" : "=&r"(pc), "=&r"(sp), "=&r"(fp))

#  define ARCH_PAUSE() __asm__ volatile("yield")

#else
#  error "agent/sig/arch.h: which registers has this processor?"
#endif

#endif
