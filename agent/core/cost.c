/* SPDX-License-Identifier: MIT
 *
 * See cost.h.
 */
#include "agent/core/cost.h"

#include <stdlib.h>

static bool in(const struct cost_range *range, uintptr_t pc)
{
	return pc >= range->low && pc < range->high;
}

void cost_add(struct cost_map *map, uintptr_t at, bool hosts)
{
	if (at && map->count < COST_FUNCTIONS)
		map->function[map->count++] = (struct cost_function){ at, hosts };
}

static int by_address(const void *a, const void *b)
{
	const struct cost_function *x = a, *y = b;

	return (x->at > y->at) - (x->at < y->at);
}

void cost_sort(struct cost_map *map)
{
	qsort(map->function, map->count, sizeof *map->function, by_address);
}

/* The function around @pc, as far as we know functions; NULL when none begins near. */
static const struct cost_function *function_of(const struct cost_map *map, uintptr_t pc)
{
	const struct cost_function *found = NULL;

	for (unsigned i = 0; i < map->count && map->function[i].at <= pc; i++)
		found = &map->function[i];
	return found && pc - found->at < COST_REACH ? found : NULL;
}

bool cost_is_ours(const struct cost_map *map, const uintptr_t *pcs, unsigned depth)
{
	const struct cost_function *callee;
	unsigned i = 0;

	while (i < depth && i < COST_DEPTH && !in(&map->own, pcs[i]))
		i++;
	if (i == depth || i == COST_DEPTH)
		return false;
	if (i == 0 || in(&map->vdso, pcs[i - 1]))
		return true;
	callee = function_of(map, pcs[i - 1]);
	if (callee)
		return !callee->hosts;
	return in(&map->libc, pcs[i - 1]);
}
