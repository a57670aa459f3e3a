/* SPDX-License-Identifier: MIT
 *
 * SONDE_OUTPUT: the stream as a file, frame by frame, whole frames only.
 *
 * One process writes one file: it holds a lock on it while it lives. A process that finds the file locked (a fork's
 * child, a second worker) writes PATH.PID beside it. A file from an earlier run is continued: each run in it begins with its
 * own Hello. What is not a file of ours is never written to. Single thread (the agent's).
 */
#ifndef AGENT_CORE_OUTFILE_H
#define AGENT_CORE_OUTFILE_H

#include <stddef.h>
#include <stdint.h>

#include "agent/core/fd.h"

struct outfile {
	struct fd fd;
	uint64_t bytes, bytes_max;
};

/** Context: agent. Returns 0 or -errno: -EINVAL when it is no plain file, or has something else in it. */
int outfile_open(struct outfile *f, const char *path, uint64_t bytes_max);
void outfile_close(struct outfile *f);

/** Append one frame, or nothing of it. Context: agent. Returns 0, -EFBIG at the cap, -EBADF when robbed, or -errno. */
int outfile_append(struct outfile *f, const uint8_t *frame, size_t length);

#endif
