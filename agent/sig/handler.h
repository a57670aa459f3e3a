/* SPDX-License-Identifier: MIT
 *
 * The sampling signal: one CPU sample per expiry of a thread's CPU timer.
 */
#ifndef AGENT_HANDLER_H
#define AGENT_HANDLER_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Where thread records lie, to tell our own signals by their cookie, and how deep to walk. Context: agent start. */
void handler_start(const void *threads, uint32_t count, uint32_t stride, unsigned depth);

/**
 * Install on a real-time signal that nobody uses, scanning up from @from, 0: from SIGRTMIN + 5. Returns its number, or 0
 * when there is none. Context: agent start, hook.
 */
int handler_install(int from);

/** What an alternate stack must have for one sample to fit: the kernel's frame and ours. Context: any. */
size_t handler_stack_bytes(void);

/**
 * Run on the threads' own stacks from now on: the host has set an alternate one that @number, which is ours, does not fit
 * on. Context: hook.
 */
void handler_leave_altstacks(int number);

/** What the host believes our signal's action to be: SIG_DFL or SIG_IGN. */
extern sighandler_t _Atomic handler_host;

/**
 * A host that ignores our signal hands that on to what it execs: !@ours, just before that; @ours, when the exec has failed.
 * Context: hook, vfork's child.
 */
void handler_show(int number, bool ours);

/** Whether @action, as the kernel has it, is ours. Context: any. */
bool handler_is_ours(const struct sigaction *action);

#endif
