/* SPDX-License-Identifier: MIT
 *
 * Instances, windows and groups of a selection; see scan.h.
 */
#include "server/scan.h"

#include <errno.h>
#include <string.h>

bool scan_room(void **array, uint32_t count, uint32_t *cap, size_t element_bytes)
{
	uint32_t bigger = *cap ? *cap * 2 : 16;
	void *bytes;

	if (count < *cap)
		return true;
	bytes = bigger > *cap ? reallocarray(*array, bigger, element_bytes) : NULL;
	if (!bytes)
		return false;
	*array = bytes;
	*cap = bigger;
	return true;
}

static int add_instance(void *context, const struct store_instance *info)
{
	struct scan *scan = context;
	struct scan_instance instance = { .info = *info };
	uint64_t hash = map_hash(info->service, 0);

	if (scan->instance_count == QUERY_INSTANCES_MAX)
		return -E2BIG;
	if (!scan_room((void **)&scan->instances, scan->instance_count, &scan->instance_cap,
		       sizeof(*scan->instances)))
		return -ENOMEM;
	instance.service = map_get(&scan->services, hash);
	if (instance.service == MAP_NONE) {
		instance.service = scan->service_count++;
		if (!map_set(&scan->services, hash, instance.service))
			return -ENOMEM;
	}
	if (store_instance_own_strings(&instance.info))
		return -ENOMEM;
	scan->instances[scan->instance_count++] = instance;
	return map_set(&scan->by_id, info->id, scan->instance_count - 1) ? 0 : -ENOMEM;
}

static int process_id(const struct selection *sel, uint64_t *id)
{
	char *end;

	*id = 0;
	if (!sel->process)
		return 0;
	*id = strtoull(sel->process, &end, 16);
	return *end || *id == 0 ? -ENOENT : 0;
}

int scan_begin(struct scan *scan, struct store *store, const struct selection *sel)
{
	uint64_t id;
	int err;

	*scan = (struct scan){ .sel = sel };
	if (process_id(sel, &id))
		return 0; /* a name that matches nothing is an empty answer */
	err = store_read_begin(store, &scan->read);
	if (err)
		return err;
	return store_read_instances(scan->read, sel->service, id, sel->from_unix_ns,
				    sel->to_unix_ns, add_instance, scan);
}

void scan_end(struct scan *scan)
{
	for (uint32_t i = 0; i < scan->instance_count; i++) {
		store_instance_fini(&scan->instances[i].info);
		map_fini(&scan->instances[i].groups);
	}
	for (uint32_t i = 0; i < scan->group_count; i++) {
		free(scan->groups[i].service);
		free(scan->groups[i].route);
	}
	free(scan->instances);
	free(scan->groups);
	map_fini(&scan->by_id);
	map_fini(&scan->by_name);
	map_fini(&scan->services);
	store_read_end(scan->read);
	*scan = (struct scan){ 0 };
}

struct window_context {
	struct scan *scan;
	scan_window_fn *fn;
	void *context;
};

static int one_window(void *context, const struct store_window *window)
{
	struct window_context *c = context;
	uint32_t instance = map_get(&c->scan->by_id, window->instance);

	return instance == MAP_NONE ? 0 : c->fn(c->context, instance, window);
}

int scan_windows(struct scan *scan, unsigned what, scan_window_fn *fn, void *context)
{
	struct window_context c = { scan, fn, context };
	struct store_filter filter = {
		.from_unix_ns = scan->sel->from_unix_ns,
		.to_unix_ns = scan->sel->to_unix_ns,
		.instance = scan->instance_count == 1 ? scan->instances[0].info.id : 0,
		.max_windows = QUERY_WINDOWS_MAX,
	};

	if (scan->instance_count == 0)
		return 0;
	return store_read_windows(scan->read, &filter, what, one_window, &c);
}

/* ---- Groups ---- */

static int64_t find_group(struct scan *scan, const char *service, const char *route)
{
	uint64_t hash = map_hash(route, map_hash(service, 0));
	uint32_t index;
	struct scan_group *group;

	while ((index = map_get(&scan->by_name, hash)) != MAP_NONE) {
		group = &scan->groups[index];
		if (strcmp(group->service, service) == 0 && strcmp(group->route, route) == 0)
			return index;
		hash++;
	}
	if (scan->group_count >= QUERY_GROUPS_MAX && strcmp(route, "(other)") != 0)
		return find_group(scan, service, "(other)");
	if (!scan_room((void **)&scan->groups, scan->group_count, &scan->group_cap,
		       sizeof(*scan->groups)))
		return -ENOMEM;
	group = &scan->groups[scan->group_count];
	group->service = strdup(service);
	group->route = strdup(route);
	if (!group->service || !group->route || !map_set(&scan->by_name, hash, scan->group_count)) {
		free(group->service);
		free(group->route);
		return -ENOMEM;
	}
	return scan->group_count++;
}

struct route_context {
	struct scan *scan;
	struct scan_instance *instance;
};

static int add_route(void *context, const struct store_entry *entry)
{
	struct route_context *c = context;
	const char *wanted = c->scan->sel->route;
	int64_t group;

	if (wanted && strcmp(wanted, entry->name) != 0)
		return 0;
	group = find_group(c->scan, c->instance->info.service, entry->name);
	if (group < 0)
		return (int)group;
	return map_set(&c->instance->groups, entry->id, (uint32_t)group) ? 0 : -ENOMEM;
}

int64_t scan_group(struct scan *scan, uint32_t instance, uint32_t route)
{
	struct scan_instance *i = &scan->instances[instance];
	struct route_context c = { scan, i };
	int err;

	if (route == 0)
		return scan->sel->route && !scan->sel->route[0]
			       ? find_group(scan, i->info.service, "")
			       : (int64_t)MAP_NONE;
	if (!i->routes_loaded) {
		err = store_read_dict(scan->read, STORE_ROUTE_NAMES, i->info.id, add_route, &c);
		if (err)
			return err;
		i->routes_loaded = true;
	}
	return map_get(&i->groups, route);
}
