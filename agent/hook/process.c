/* SPDX-License-Identifier: MIT
 *
 * The process: start, fork, exec, exit.
 *
 * Our sampling signal must not be pending across an exec, where its default action would kill the new program: hence timers
 * are stopped first, and what is pending is delivered on the way back from that call.
 */
#include <alloca.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/core/agent.h"
#include "agent/hook/exports.h"
#include "agent/hook/guard.h"
#include "agent/hook/thread.h"

static __attribute__((constructor)) void process_start(int argc, char **argv, char **envp)
{
	(void)argc;
	(void)argv;
	agent_boot(envp);
}

static __attribute__((destructor)) void process_end(void)
{
	/* By whichever thread: main may be gone, and the last one past its end. But not by a vfork's child. */
	if (shared && !tls.in_vfork && (pid_t)syscall(SYS_gettid) != shared->agent_tid)
		agent_flush();
}

struct thread *hook_enter_slow(void)
{
	int saved = errno;
	struct thread *t = NULL;

	if (tls.outside || tls.in_vfork || !shared)
		return NULL;
	if (tls.self) { /* our record is gone */
		tls.self = NULL;
		/* wiped: a fork's child that did not come through our fork; else the scan took us for dead */
		if (atomic_load_explicit(&shared->life, memory_order_acquire) == AGENT_OFF)
			agent_forked();
	}
	if (agent_begin())
		t = tls.self ? tls.self : thread_register();
	errno = saved;
	return t;
}

/* ---- fork ---- */

EXPORT pid_t fork(void)
{
	pid_t pid = REAL(fork)();

	if (pid == 0 && shared && !tls.outside) {
		int saved = errno;

		tls.self = NULL;
		agent_forked();
		errno = saved;
	}
	return pid;
}
EXPORT_ALIAS(fork, __fork);

/*
 * A vfork's child runs in the parent's memory, on the parent's stack: its calls would look like the parent's own. The flag
 * keeps our hands off until the parent is back. The return address waits in a register, because the child overwrites
 * the stack. tests/e2e/test_life.py
 */
#if defined(__x86_64__)
__asm__(".pushsection .text\n"
	".globl vfork\n"
	".globl __vfork\n"
	".type vfork, @function\n"
	"vfork:\n"
	"__vfork:\n"
	"	.cfi_startproc\n"
	"	endbr64\n"
	"	movq tls@gottpoff(%rip), %rdx\n"
	"	incl %fs:12(%rdx)\n" /* tls.in_vfork */
	"	popq %rdi\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	.cfi_register %rip, %rdi\n"
	"	movl $58, %eax\n"
	"	syscall\n"
	"	pushq %rdi\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	.cfi_offset %rip, -8\n"
	"	testl %eax, %eax\n"
	"	jz 1f\n"
	"	decl %fs:12(%rdx)\n"
	"	cmpl $-4095, %eax\n"
	"	jae 2f\n"
	"1:	ret\n"
	"2:	pushq %rax\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	call __errno_location@PLT\n"
	"	popq %rdx\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	negl %edx\n"
	"	movl %edx, (%rax)\n"
	"	movl $-1, %eax\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size vfork, . - vfork\n"
	".popsection\n");
_Static_assert(offsetof(struct thread_local_state, in_vfork) == 12,
	       "the assembly above knows the offset");
#else
EXPORT pid_t vfork(void)
{
	return fork();
}
#endif

/* ---- exec ---- */

/* Everything this process has measured goes out, and no signal of ours outlives it. Undone when the exec fails. */
static struct thread *exec_begin(void)
{
	struct thread *t = hook_entered();

	if (t) {
		agent_flush();
		thread_timer_stop(t);
	}
	return t;
}

static int exec_failed(struct thread *t)
{
	int saved = errno;

	if (t)
		thread_timer_start(t);
	errno = saved;
	return -1;
}

#define EXEC(call)                                                                                 \
  struct thread *t = exec_begin();                                                                 \
                                                                                                   \
  call;                                                                                            \
  return exec_failed(t)

EXPORT int execve(const char *path, char *const *argv, char *const *envp)
{
	EXEC(REAL(execve)(path, argv, envp));
}

EXPORT int execv(const char *path, char *const *argv)
{
	EXEC(REAL(execve)(path, argv, environ));
}

EXPORT int execvp(const char *file, char *const *argv)
{
	EXEC(REAL(execvpe)(file, argv, environ));
}

EXPORT int execvpe(const char *file, char *const *argv, char *const *envp)
{
	EXEC(REAL(execvpe)(file, argv, envp));
}

EXPORT int execveat(int dir, const char *path, char *const *argv, char *const *envp, int flags)
{
	EXEC(REAL(execveat)(dir, path, argv, envp, flags));
}

EXPORT int fexecve(int fd, char *const *argv, char *const *envp)
{
	EXEC(REAL(fexecve)(fd, argv, envp));
}

/* The arguments of execl and its kin as an array on the stack; @envp gets what follows them, when asked for. */
#define COLLECT(first, list, argv)                                                                 \
  size_t count_ = 1;                                                                               \
  va_list again_;                                                                                  \
  char **argv;                                                                                     \
                                                                                                   \
  va_start(list, first);                                                                           \
  va_copy(again_, list);                                                                           \
  while (va_arg(again_, char *))                                                                   \
    count_++;                                                                                      \
  va_end(again_);                                                                                  \
  argv = alloca((count_ + 1) * sizeof *argv);                                                      \
  argv[0] = (char *)(uintptr_t)(first);                                                            \
  for (size_t i_ = 1; i_ <= count_; i_++)                                                          \
  argv[i_] = va_arg(list, char *)

EXPORT int execl(const char *path, const char *arg, ...)
{
	va_list list;
	COLLECT(arg, list, argv);

	va_end(list);
	return execv(path, argv);
}

EXPORT int execlp(const char *file, const char *arg, ...)
{
	va_list list;
	COLLECT(arg, list, argv);

	va_end(list);
	return execvp(file, argv);
}

EXPORT int execle(const char *path, const char *arg, ...)
{
	va_list list;
	char *const *envp;
	COLLECT(arg, list, argv);

	envp = va_arg(list, char *const *);
	va_end(list);
	return execve(path, argv, envp);
}

/* ---- exit: exit() runs our destructor, these do not ---- */

EXPORT __attribute__((noreturn)) void _exit(int status)
{
	if (hook_entered())
		agent_flush();
	if (real.exit_now)
		real.exit_now(status);
	for (;;)
		syscall(SYS_exit_group, status);
}
EXPORT_ALIAS(_exit, _Exit);

EXPORT __attribute__((noreturn)) void quick_exit(int status)
{
	if (hook_entered())
		agent_flush();
	REAL(quick_exit)(status);
	__builtin_unreachable();
}
