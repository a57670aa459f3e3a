/* SPDX-License-Identifier: MIT
 *
 * The process: start, fork, exec, exit.
 *
 * Our sampling signal must not be pending across an exec, where its default action would kill the new program: hence timers
 * are stopped first; what is pending is delivered on the way back from that call, or taken when it is blocked after all (by a
 * system call we do not see). tests/storms/exec.c
 */
#include <alloca.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/core/agent.h"
#include "agent/hook/borrow.h"
#include "agent/hook/children.h"
#include "agent/hook/conn.h"
#include "agent/hook/exports.h"
#include "agent/hook/guard.h"
#include "agent/hook/thread.h"
#include "agent/sig/handler.h"

/*
 * Libc is whole in the first process, and in what its fork() makes. In a child made behind its back (a raw clone, _Fork)
 * malloc's lock may be held for good, by a thread of ours that the child does not have: the agent stays off there. The mark
 * is wiped in every child; no system call is made, for there may be a filter.
 */
static void note_whole(void)
{
	atomic_store_explicit(&shared->whole, 1, memory_order_relaxed);
}

static __attribute__((constructor)) void process_start(int argc, char **argv, char **envp)
{
	(void)argc;
	(void)argv;
	agent_boot(envp);
	if (shared) {
		note_whole();
		pthread_atfork(NULL, NULL, note_whole);
	}
}

static __attribute__((destructor)) void process_end(void)
{
	/* By whichever thread: main may be gone, and the last one past its end. But not by a vfork's child. */
	if (shared && !tls.in_vfork &&
	    atomic_load_explicit(&shared->life, memory_order_acquire) == AGENT_ON &&
	    (pid_t)syscall(SYS_gettid) != shared->agent_tid)
		agent_flush();
}

struct thread *hook_enter_slow(void)
{
	int saved = errno;
	struct thread *t = NULL;
	bool child;

	if (tls.outside || tls.in_vfork || !shared)
		return NULL;
	/* wiped: a fork's child, with or without a record before; else the scan took us for dead */
	child = atomic_load_explicit(&shared->life, memory_order_acquire) == AGENT_OFF;
	if (child && !atomic_load_explicit(&shared->whole, memory_order_relaxed))
		atomic_store_explicit(&shared->life, AGENT_DISABLED, memory_order_release);
	else if (child && tls.self) /* it did not come through our fork */
		agent_forked();
	tls.self = NULL;
	if (agent_begin())
		t = tls.self ? tls.self : thread_register();
	else if (atomic_load_explicit(&shared->life, memory_order_acquire) == AGENT_DISABLED &&
		 unlikely(!atomic_exchange_explicit(&shared->unstamped, 1, memory_order_relaxed)))
		conn_unstamp_all();
	errno = saved;
	return t;
}

/* ---- fork ---- */

EXPORT pid_t fork(void)
{
	pid_t pid;

	children_before_fork();
	borrow_fork_begin();
	pid = REAL(fork)();
	if (pid != 0)
		borrow_fork_end();

	/* unless a call of someone's atfork handler has begun its life already */
	if (pid == 0 && shared && !tls.outside &&
	    atomic_load_explicit(&shared->life, memory_order_acquire) == AGENT_OFF) {
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

/* Our signal in the calling thread's mask, by the kernel's own call: ours hides it. */
static void mask_own(int how)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, thread_setup.signal);
	syscall(SYS_rt_sigprocmask, how, &set, NULL, NSIG / 8);
}

/*
 * What a child inherits is what the host believes: our signal blocked, if it has blocked it. Returns whether anything was
 * done, to be undone by mask_seen().
 */
static bool mask_believed(void)
{
	if (!tls.blocks || tls.outside || !thread_setup.signal)
		return false;
	mask_own(SIG_BLOCK);
	return true;
}

static void mask_seen(bool believed)
{
	int saved = errno;

	if (believed)
		mask_own(SIG_UNBLOCK);
	errno = saved;
}

/* What is pending and blocked would outlive the exec: take it, but not what somebody else has sent. */
static void take_pending(void)
{
	static const struct timespec at_once;
	siginfo_t info;
	sigset_t set;

	if (!thread_setup.signal)
		return;
	sigemptyset(&set);
	sigaddset(&set, thread_setup.signal);
	while (syscall(SYS_rt_sigtimedwait, &set, &info, &at_once, NSIG / 8) > 0)
		if (info.si_code != SI_TIMER) {
			syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid),
				thread_setup.signal, &info);
			break;
		}
}

struct exec {
	struct thread *thread;
	bool believed;
};

/* Everything this process has measured goes out, and no signal of ours outlives it. Undone when the exec fails. */
static struct exec exec_begin(void)
{
	struct exec e = { .thread = hook_entered() };
	int saved = errno;

	/* A thread that has never called us may have a timer all the same: the agent's scan made it. */
	if (!e.thread && shared && !tls.in_vfork && !tls.outside &&
	    atomic_load_explicit(&shared->life, memory_order_acquire) == AGENT_ON)
		e.thread = thread_find((pid_t)syscall(SYS_gettid));
	if (e.thread) {
		agent_flush();
		thread_timer_stop(e.thread);
		take_pending();
	}
	e.believed = mask_believed();
	handler_show(thread_setup.signal, false);
	errno = saved;
	return e;
}

static int exec_failed(struct exec e)
{
	int saved = errno;

	handler_show(thread_setup.signal, true);
	mask_seen(e.believed);
	if (e.thread)
		thread_timer_start(e.thread);
	errno = saved;
	return -1;
}

/* @environment names what is run, and the variable that holds its environment, which it replaces by what goes along. */
#define EDITED(envp, ...)                                                                          \
  const struct children_program program_ = { __VA_ARGS__ };                                        \
  enum children_verdict verdict_ = children_judge(&program_, envp);                                \
  size_t room_ = children_room(verdict_, envp);                                                    \
  char *const *edited = room_ ? children_edit(verdict_, envp, alloca(room_)) : (envp)

#define EXEC(call)                                                                                 \
  struct exec exec_ = exec_begin();                                                                \
                                                                                                   \
  call;                                                                                            \
  return exec_failed(exec_)

EXPORT int execve(const char *path, char *const *argv, char *const *envp)
{
	EDITED(envp, AT_FDCWD, path, false);
	EXEC(REAL(execve)(path, argv, edited));
}

EXPORT int execv(const char *path, char *const *argv)
{
	return execve(path, argv, environ);
}

EXPORT int execvpe(const char *file, char *const *argv, char *const *envp)
{
	EDITED(envp, AT_FDCWD, file, true);
	EXEC(REAL(execvpe)(file, argv, edited));
}

EXPORT int execvp(const char *file, char *const *argv)
{
	return execvpe(file, argv, environ);
}

EXPORT int execveat(int dir, const char *path, char *const *argv, char *const *envp, int flags)
{
	bool itself = (flags & AT_EMPTY_PATH) && (uintptr_t)path >= 4096 && !*path;
	EDITED(envp, dir, itself ? NULL : path, false);
	EXEC(REAL(execveat)(dir, path, argv, edited, flags));
}

EXPORT int fexecve(int fd, char *const *argv, char *const *envp)
{
	EDITED(envp, fd, NULL, false);
	EXEC(REAL(fexecve)(fd, argv, edited));
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

/* ---- Children that libc itself starts ---- */

#define SPAWN(function, search)                                                                    \
  EDITED(envp, AT_FDCWD, path, search);                                                            \
  bool believed = mask_believed();                                                                 \
  int r = REAL(function)(pid, path, actions, attributes, argv, edited);                            \
                                                                                                   \
  mask_seen(believed);                                                                             \
  return r

EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attributes, char *const *argv, char *const *envp)
{
	SPAWN(posix_spawn, false);
}

EXPORT int posix_spawnp(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
			const posix_spawnattr_t *attributes, char *const *argv, char *const *envp)
{
	SPAWN(posix_spawnp, true);
}

EXPORT FILE *popen(const char *command, const char *type)
{
	bool believed;
	FILE *r;

	children_before_shell();
	believed = mask_believed();
	r = REAL(popen)(command, type);
	mask_seen(believed);
	return r;
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
