/* SPDX-License-Identifier: MIT
 *
 * Reads /proc/self/maps and keeps the mappings that belong to executable objects: the program, its libraries, [vdso].
 * Never the loader's list, whose lock a host thread may hold for long.
 *
 * Threads: the agent's own. Reads are torn when the host maps at the same time: callers read again.
 */
#ifndef AGENT_CORE_MAPS_H
#define AGENT_CORE_MAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAPS_OBJECTS_MAX 2048
#define MAPS_RANGES_MAX  16  /* mappings of one object: usually five */
#define MAPS_PATH_MAX    256 /* with the 0; the front of a longer one */

struct maps_range {
	uintptr_t start, end;
	uint64_t offset; /* in the file */
	bool executable, anonymous;
};

/* One mapped object: a mapping of its file from offset 0, and those that follow. */
struct maps_object {
	uint64_t device, inode;
	unsigned n_ranges;
	bool executable; /* one of its ranges is */
	struct maps_range range[MAPS_RANGES_MAX];
	char path[MAPS_PATH_MAX];
};

struct maps {
	struct maps_object *object; /* by address */
	unsigned n_objects, room;
	uint64_t signature; /* equal when the same objects are mapped at the same places */
	uint64_t refused;   /* objects beyond MAPS_OBJECTS_MAX, ranges beyond MAPS_RANGES_MAX */
};

/**
 * Fill @maps, which is zeroed or was filled before, from /proc/self/maps.
 *
 * Context: agent; holds a descriptor only while it runs. Returns 0 or -errno; @maps is then incomplete.
 */
int maps_read(struct maps *maps);

/** One line without its newline, and before the first line maps_reset(), after the last maps_end(). -ENOMEM or 0. */
int maps_line(struct maps *maps, const char *line);
void maps_reset(struct maps *maps);
void maps_end(struct maps *maps);

void maps_fini(struct maps *maps);

/** The range of @object that has @address, or NULL. */
const struct maps_range *maps_range_at(const struct maps_object *object, uintptr_t address);

#endif
