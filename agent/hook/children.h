/* SPDX-License-Identifier: MIT
 *
 * What a program that this process becomes or starts is told to load: LD_PRELOAD in the environment that goes with an exec.
 *
 * By default (SONDE_CHILDREN=same) the agent goes on into the same program, so that servers which start themselves anew or
 * are upgraded in place stay under it, and into everything that a launcher starts (sh, env, npm, a wrapper in Python): a
 * launcher is whoever has not yet taken a connection or a request. What a server starts besides is its tool, and starts
 * without us. A program that the agent cannot live in, with another C library or word size, never gets it. Other entries
 * of LD_PRELOAD stay, in their order.
 *
 * Everything here may run in a vfork's child, whose memory is its parent's: it uses the stack, and writes nothing else.
 */
#ifndef AGENT_HOOK_CHILDREN_H
#define AGENT_HOOK_CHILDREN_H

#include <stdbool.h>
#include <stddef.h>

/* The order of SONDE_CHILDREN's words in core/config.c. */
enum children {
	CHILDREN_SAME,
	CHILDREN_ALL,
	CHILDREN_NONE
};

/** Learn from @envp how we came to be here. Context: the library's constructor. */
void children_start(char *const *envp, enum children mode);

/** Which program this is, to know it again. Asks the kernel: after probe_filter(). Context: agent start. */
void children_know_self(void);

/** This process has taken a connection: it is no launcher. Context: hook. */
void children_serve(void);

/** fork() is about to be called: what this process is, its child is too. Context: hook. */
void children_before_fork(void);

/** From now on no child gets the agent, and nothing is asked of the kernel to find that out. Context: hook. */
void children_forbid(void);

/* What is about to be run: @path as execve() would find it from directory @dir; @path NULL: what @dir is open for. */
struct children_program {
	int dir;
	const char *path;
	bool search; /* @path along PATH, as execvp() does */
};

enum children_verdict {
	CHILDREN_AS_IS,
	CHILDREN_DROP,
	CHILDREN_GIVE
};

/** Judge @program, which is to get @envp. Keeps errno. Context: hook, vfork's child. */
enum children_verdict children_judge(const struct children_program *program, char *const *envp);

/** Bytes that children_edit() needs for @verdict; 0: @envp goes as it is. */
size_t children_room(enum children_verdict verdict, char *const *envp);

/** @envp as @verdict wants it, in @room; its strings but for LD_PRELOAD are @envp's own. Context: hook, vfork's child. */
char **children_edit(enum children_verdict verdict, char *const *envp, void *room);

/**
 * The C library itself is about to start a shell with the process's own environment (system, popen): when that child is
 * not to have the agent, our entry is blanked out there, in place. Keeps errno. Context: hook.
 */
void children_before_shell(void);

#endif
