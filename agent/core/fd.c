/* SPDX-License-Identifier: MIT
 *
 * See fd.h. Runs on the agent's thread, and in a fork's child.
 */
#include "agent/core/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

int fd_own(struct fd *fd, int number)
{
	int high = fcntl(number, F_DUPFD_CLOEXEC, FD_FLOOR);
	struct stat st;

	if (high >= 0) {
		close(number);
		number = high;
	}
	if (fstat(number, &st)) {
		int error = -errno;

		close(number);
		fd->number = -1;
		return error;
	}
	*fd = (struct fd){ .number = number, .device = st.st_dev, .inode = st.st_ino };
	return 0;
}

bool fd_ours(const struct fd *fd)
{
	struct stat st;

	return fd->number >= 0 && fstat(fd->number, &st) == 0 && st.st_dev == fd->device &&
	       st.st_ino == fd->inode;
}

void fd_close(struct fd *fd)
{
	if (fd_ours(fd))
		close(fd->number);
	fd->number = -1;
}
