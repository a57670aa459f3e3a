/* SPDX-License-Identifier: MIT
 *
 * What DWARF says about an address: source line and inlined functions. Indices are made as they are needed: units by
 * address when a file is opened, a unit's functions when the first address inside it is asked for.
 * Context: server, one thread at a time.
 */
#ifndef SERVER_DWARFSYMS_H
#define SERVER_DWARFSYMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/elfsyms.h"

/* Caps; dwarfsyms_refused() counts what they cost. */
#define DWARFSYMS_SECTIONS_MAX_BYTES (1ull << 30) /* of all debug sections, uncompressed */
#define DWARFSYMS_RANGES_MAX         4000000 /* address ranges of units, and of one unit's functions */
#define DWARFSYMS_ENTRIES_MAX        4000000 /* entries looked at for one unit, or for one address */
#define DWARFSYMS_INLINED_MAX        64      /* inlined calls inside one another */
#define DWARFSYMS_NESTING_MAX        128     /* namespaces and blocks inside one another */
#define DWARFSYMS_OPEN_MAX_NS        10000000000ull /* CPU time for the addresses of all units */
#define DWARFSYMS_FIND_MAX_NS        2000000000ull  /* for one address; past it a file is broken */

struct dwarfsyms;

/* Strings live until the file is closed. */
struct dwarfsyms_frame {
	const char *name; /* the linker's when there is one, else the source's; NULL unknown */
	const char *file; /* NULL when unknown */
	uint32_t line;    /* where execution is in this function; 0 unknown */
	bool inlined;     /* into the next frame */
};

/**
 * Read the units of @file, the debug file or the program itself, which must outlive the result.
 * Returns 0 or a negative errno value: -ENOENT no DWARF, or half of it in a file that is missing, -EFBIG too much,
 * -ETIME too entangled, -EINVAL broken.
 */
int dwarfsyms_open(struct dwarfsyms **out, const struct elfsyms_file *file);

void dwarfsyms_close(struct dwarfsyms *d);

/** Bytes of debug sections, uncompressed: about what keeping @d open costs. */
uint64_t dwarfsyms_bytes(const struct dwarfsyms *d);

/** How often a cap cut something. */
uint64_t dwarfsyms_refused(const struct dwarfsyms *d);

/**
 * What lies at @address: innermost first, at most @max frames, where @max is at least 1. When only the line is known
 * there is one frame without a name. Returns the number of frames, 0 when nothing is known.
 */
size_t dwarfsyms_find(struct dwarfsyms *d, uint64_t address, struct dwarfsyms_frame *frames,
		      size_t max);

#endif
