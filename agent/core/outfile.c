/* SPDX-License-Identifier: MIT
 *
 * See outfile.h. Runs on the agent's thread only.
 */
#include "agent/core/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/core/encode.h"

/*
 * Where the last whole frame of a file of ours ends: a run that was killed may have left a part of one. Returns -EINVAL for
 * a file that is not ours: ours begin with a Hello, and every frame is one field of a Frame, length-delimited.
 */
static int64_t last_boundary(int fd, uint64_t size)
{
	const uint8_t hello = 1 << 3 | 2;
	uint64_t at = 0;

	while (at < size) {
		uint8_t start[ENCODE_PREFIX_BYTES + 1];
		uint32_t length = 0;
		ssize_t n = pread(fd, start, sizeof(start), (off_t)at);

		if (n < (ssize_t)sizeof(start))
			return at > 0 ? (int64_t)at : -EINVAL;
		for (unsigned i = 0; i < ENCODE_PREFIX_BYTES; i++)
			length |= (uint32_t)start[i] << (8 * i);
		if (length > ENCODE_FRAME_MAX || (start[4] & 7) != 2 ||
		    (at == 0 && start[4] != hello))
			return -EINVAL;
		if (at + ENCODE_PREFIX_BYTES + length > size)
			return (int64_t)at;
		at += ENCODE_PREFIX_BYTES + length;
	}
	return (int64_t)at;
}

static int open_one(struct outfile *f, const char *path)
{
	/* Not through a link: a privileged host's file name may point into a directory that others write to. */
	int fd = open(path,
		      O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW | O_NONBLOCK,
		      0600);
	struct stat st;
	int64_t end;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		return -EINVAL;
	}
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		close(fd);
		return -EWOULDBLOCK;
	}
	end = last_boundary(fd, (uint64_t)st.st_size);
	if (end < 0 || (end < st.st_size && ftruncate(fd, (off_t)end))) {
		close(fd);
		return -EINVAL;
	}
	f->bytes = (uint64_t)end;
	return fd_own(&f->fd, fd);
}

int outfile_open(struct outfile *f, const char *path, uint64_t bytes_max)
{
	char own[512];
	int error;

	*f = (struct outfile){ .fd.number = -1, .bytes_max = bytes_max };
	error = open_one(f, path);
	if (error != -EWOULDBLOCK)
		return error;
	snprintf(own, sizeof(own), "%s.%d", path, (int)getpid());
	return open_one(f, own);
}

void outfile_close(struct outfile *f)
{
	fd_close(&f->fd);
}

int outfile_append(struct outfile *f, const uint8_t *frame, size_t length)
{
	struct rlimit limit;
	size_t done = 0;

	if (!fd_ours(&f->fd))
		return -EBADF;
	if (f->bytes + length > f->bytes_max)
		return -EFBIG;
	/* The kernel would raise SIGXFSZ, whose default is to kill the host. */
	if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && f->bytes + length > limit.rlim_cur)
		return -EFBIG;
	while (done < length) {
		ssize_t n = write(f->fd.number, frame + done, length - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			int error = n < 0 ? -errno : -EIO;

			if (done > 0 && ftruncate(f->fd.number, (off_t)f->bytes))
				fd_close(&f->fd); /* opening it again finds the last whole frame */
			return error;
		}
		done += (size_t)n;
	}
	f->bytes += length;
	return 0;
}
