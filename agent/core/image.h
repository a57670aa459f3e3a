/* SPDX-License-Identifier: MIT
 *
 * Reads one mapped ELF object: where it lies, its build-id, and its unwind rows. The host may unmap it at any moment, so
 * its memory is read through the kernel (process_vm_readv on ourselves: an error, not a fault), or from the file where a
 * sandbox refuses that.
 *
 * Threads: the agent's own.
 */
#ifndef AGENT_CORE_IMAGE_H
#define AGENT_CORE_IMAGE_H

#include "agent/core/ehframe.h"
#include "agent/core/maps.h"

#define IMAGE_BUILD_ID_MAX 32

struct image {
	uintptr_t start, end; /* all of it */
	uintptr_t bias;       /* add to the file's addresses */
	uintptr_t code_start, code_end;
	uint8_t build_id[IMAGE_BUILD_ID_MAX]; /* the front of a longer one */
	uint8_t build_id_len;                 /* 0: it has none */
	struct ehframe_rows rows;             /* n_rows 0: it has no .eh_frame that makes sense */
};

/**
 * Read @object into @image, for image_fini(). Reads from the file, by @object's path, when @from_file.
 *
 * Context: agent.
 * Returns 0; -EAGAIN when it is just being mapped, or went away; -ENOEXEC when it is no ELF object with code of this
 * machine; -EPERM, -ENOSYS when reading memory is refused: try from the file; -ENOMEM, or why the file cannot be read.
 */
int image_read(const struct maps_object *object, bool from_file, struct image *image);

void image_fini(struct image *image);

#endif
