/* SPDX-License-Identifier: MIT
 *
 * What every question to the store begins with: the instances of a selection, their windows, and which (service, route)
 * group a window's route id belongs to. Used by query*.c only. Context: server, one thread per scan.
 */
#ifndef SERVER_SCAN_H
#define SERVER_SCAN_H

#include "server/map.h"
#include "server/query.h"
#include "server/store.h"

struct scan_instance {
	struct store_instance info; /* strings of our own */
	uint32_t service;           /* number of its service */
	bool routes_loaded;
	struct map groups; /* route id -> group */
};

struct scan_group {
	char *service, *route;
};

struct scan {
	const struct selection *sel;
	struct store_read *read;
	struct scan_instance *instances;
	uint32_t instance_count, instance_cap;
	struct map by_id; /* instance id -> index */
	struct scan_group *groups;
	uint32_t group_count, group_cap;
	struct map by_name; /* hash of service and route -> group */
	struct map services;
	uint32_t service_count;
};

/** Begin reading and list the instances of @sel. scan_end() in any case. */
int scan_begin(struct scan *scan, struct store *store, const struct selection *sel);
void scan_end(struct scan *scan);

typedef int scan_window_fn(void *context, uint32_t instance, const struct store_window *window);

/** Call @fn for every window of the selection. */
int scan_windows(struct scan *scan, unsigned what, scan_window_fn *fn, void *context);

/** The group of @route of @instance; MAP_NONE when the selection leaves it out; < 0: an error. */
int64_t scan_group(struct scan *scan, uint32_t instance, uint32_t route);

/** Room for one more element of @array, doubling. False when out of memory. */
bool scan_room(void **array, uint32_t count, uint32_t *cap, size_t element_bytes);

#endif
