/* SPDX-License-Identifier: MIT
 *
 * See table.h. Runs on the agent's thread only.
 */
#include "agent/core/table.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
	TABLE_FIRST_ROOM = 64,
};

void table_init(struct table *t, size_t entry_bytes, uint32_t max)
{
	*t = (struct table){ .entry_bytes = entry_bytes, .max = max };
}

void table_fini(struct table *t)
{
	free(t->entries);
	free(t->links);
	free(t->heads);
	table_init(t, t->entry_bytes, t->max);
}

static bool table_grow(struct table *t)
{
	uint32_t room = t->room ? t->room * 2 : TABLE_FIRST_ROOM;
	uint32_t head_count = t->head_count ? t->head_count * 2 : TABLE_FIRST_ROOM;
	struct table_link *links;
	uint32_t *heads;
	uint8_t *entries;

	if (t->room >= t->max)
		return false;
	if (room > t->max)
		room = t->max;
	entries = realloc(t->entries, ((size_t)room + 1) * t->entry_bytes);
	if (!entries)
		return false;
	t->entries = entries;
	links = realloc(t->links, ((size_t)room + 1) * sizeof(*links));
	if (!links)
		return false;
	t->links = links;
	heads = calloc(head_count, sizeof(*heads));
	if (!heads)
		return false;
	for (uint32_t i = 0; i < t->head_count; i++) {
		uint32_t number = t->heads[i], next;

		for (; number; number = next) {
			uint32_t *head = &heads[links[number].hash & (head_count - 1)];

			next = links[number].next;
			links[number].next = *head;
			*head = number;
		}
	}
	free(t->heads);
	t->heads = heads;
	t->head_count = head_count;
	t->room = room;
	return true;
}

uint32_t table_add(struct table *t, uint32_t hash)
{
	uint32_t number = t->free, *head;

	if (number)
		t->free = t->links[number].next;
	else if (t->used < t->room || table_grow(t))
		number = ++t->used;
	else
		return 0;
	head = &t->heads[hash & (t->head_count - 1)];
	t->links[number] = (struct table_link){ .hash = hash, .next = *head };
	*head = number;
	t->live++;
	memset(table_entry(t, number), 0, t->entry_bytes);
	return number;
}

void table_remove(struct table *t, uint32_t number)
{
	uint32_t *at = &t->heads[t->links[number].hash & (t->head_count - 1)];

	while (*at != number)
		at = &t->links[*at].next;
	*at = t->links[number].next;
	t->links[number].next = t->free;
	t->free = number;
	t->live--;
}

void table_clear(struct table *t)
{
	if (t->used > 0)
		memset(t->heads, 0, t->head_count * sizeof(*t->heads));
	t->used = t->live = t->free = 0;
}

size_t table_bytes(const struct table *t)
{
	if (t->room == 0)
		return 0;
	return (t->room + 1) * (t->entry_bytes + sizeof(*t->links)) +
	       t->head_count * sizeof(*t->heads);
}
