/* SPDX-License-Identifier: MIT
 *
 * The sampling signal: one CPU sample per expiry of a thread's CPU timer.
 */
#ifndef AGENT_HANDLER_H
#define AGENT_HANDLER_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/** Where thread records lie, to tell our own signals by their cookie, and how deep to walk. Context: agent start. */
void handler_start(const void *threads, uint32_t count, uint32_t stride, unsigned depth);

/**
 * Install on a real-time signal that nobody uses, scanning up from @from, 0: from SIGRTMIN + 5. Returns its number, or 0
 * when there is none. Context: agent start, hook.
 */
int handler_install(int from);

/** Whether @action, as the kernel has it, is ours. Context: any. */
bool handler_is_ours(const struct sigaction *action);

#endif
