/* SPDX-License-Identifier: MIT
 *
 * The life of the agent in one process: off → starting → on, and off again in a fork's child, which finds the shared
 * memory wiped and begins anew at its first call that matters.
 */
#ifndef AGENT_CORE_AGENT_H
#define AGENT_CORE_AGENT_H

#include <stdbool.h>

/** From the library's constructor: read the configuration and start, unless it says not to. */
void agent_boot(char *const *envp);

/** Start in this process if it is off. Returns whether it is on now. Context: hook, a thread's slow first call; keeps errno. */
bool agent_begin(void);

/** In a fork's child, before anything else: let go of what belongs to the parent. Context: hook. */
void agent_forked(void);

/** The process is about to end: send what there is, waiting at most 0.2 s, and not at all when there is nothing. */
void agent_flush(void);

/** The agent reads what this process has mapped, now. Waits for that as agent_flush(). Context: hook; keeps errno. */
void agent_settle(void);

/**
 * For good, in this process and its children: timers, stamps and the agent's thread go, and with them every system call of
 * ours. Waits for that at most a second. @why is told to the collector. Context: hook; keeps errno.
 * Returns whether it was on.
 */
bool agent_retire(const char *why);

#endif
