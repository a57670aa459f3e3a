/* SPDX-License-Identifier: MIT
 *
 * Who this process is, for Hello: one identity per life of the agent. A fork's child makes a new one.
 */
#ifndef AGENT_CORE_IDENTITY_H
#define AGENT_CORE_IDENTITY_H

#include <stdint.h>

struct config;

enum {
	IDENTITY_COMMAND_MAX = 256, /* bytes of the command line that are told */
};

struct identity {
	uint64_t instance; /* random, never 0 */
	uint32_t pid, parent_pid;
	uint64_t start_ns; /* process start, ns since boot; 0 unknown */
	uint32_t hz;
	char service[64];
	char host[65];
	char boot_id[40];
	char exe[512];
	char command[IDENTITY_COMMAND_MAX +
		     1]; /* argv only: the environment is never read, it holds secrets */
};

/** Fill @self; what cannot be read stays empty. Never fails. Context: agent, or a constructor: does not allocate. */
void identity_fill(struct identity *self, const struct config *c);

/** CLOCK_MONOTONIC and CLOCK_REALTIME of one instant, as close as a few tries get. Context: any. */
void identity_clocks(uint64_t *mono_ns, uint64_t *unix_ns);

#endif
