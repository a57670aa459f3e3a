/* SPDX-License-Identifier: MIT
 *
 * A descriptor of ours inside a process that does not know of it. Hosts close every number they did not open, or open
 * something else under ours: before each use we ask the kernel whether it still is what we opened, and never touch it
 * when it is not. Out of the way of hosts that close the low numbers, ours are high.
 */
#ifndef AGENT_CORE_FD_H
#define AGENT_CORE_FD_H

#include <stdbool.h>
#include <sys/types.h>

enum {
	FD_FLOOR = 500, /* where our numbers begin, if the limit allows */
};

struct fd {
	int number; /* -1: none */
	dev_t device;
	ino_t inode;
};

/** Take over @number, just opened: moved up, close-on-exec. Context: agent. Returns 0 or -errno; then it is closed. */
int fd_own(struct fd *fd, int number);

/** Whether it is open and still what we opened. Context: agent. */
bool fd_ours(const struct fd *fd);

/** Close it if it is ours, and forget it. Context: agent, fork's child. */
void fd_close(struct fd *fd);

#endif
