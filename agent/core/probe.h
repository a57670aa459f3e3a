/* SPDX-License-Identifier: MIT
 *
 * What this kernel, and whoever has restricted this process before it began, let the agent do.
 */
#ifndef AGENT_CORE_PROBE_H
#define AGENT_CORE_PROBE_H

#include <stdbool.h>
#include <stddef.h>

struct life;

/**
 * Whether a seccomp filter that this process was born with (a service manager's, say) kills for a system call of ours: tried
 * out by a child that nobody else sees, where there is such a filter. Context: agent start, host thread; keeps errno.
 * Returns NULL, or the call's name; "" when it is one that saying so would take.
 */
const char *probe_filter(void);

/** Whether @bytes of address space are a small part of what this process may have. Context: agent start. */
bool probe_room(size_t bytes);

/** In words, what is missing and what that costs; "" when all is there. Context: agent. */
void probe_abilities(const struct life *l, char *out, size_t out_bytes);

#endif
