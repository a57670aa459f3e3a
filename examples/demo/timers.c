/* SPDX-License-Identifier: MIT
 *
 * The heap: the children of i are 2 i + 1 and 2 i + 2, none is due before its parent.
 */
#include "examples/demo/timers.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

static void swap(struct timer *a, struct timer *b)
{
	struct timer old = *a;

	*a = *b;
	*b = old;
}

int timers_add(struct timers *timers, uint64_t due_ns, void *owner)
{
	size_t i = timers->count;

	if (i == timers->room) {
		size_t room = i ? 2 * i : 64;
		struct timer *heap = reallocarray(timers->heap, room, sizeof(*heap));

		if (!heap)
			return -ENOMEM;
		timers->heap = heap;
		timers->room = room;
	}
	timers->heap[i] = (struct timer){ .due_ns = due_ns, .owner = owner };
	timers->count++;
	for (; i > 0 && timers->heap[i].due_ns < timers->heap[(i - 1) / 2].due_ns; i = (i - 1) / 2)
		swap(&timers->heap[i], &timers->heap[(i - 1) / 2]);
	return 0;
}

void *timers_take_due(struct timers *timers, uint64_t now_ns)
{
	struct timer *heap = timers->heap;
	size_t i = 0;
	void *owner;

	if (timers->count == 0 || heap[0].due_ns > now_ns)
		return NULL;
	owner = heap[0].owner;
	heap[0] = heap[--timers->count];
	for (;;) {
		size_t child = 2 * i + 1;

		if (child + 1 < timers->count && heap[child + 1].due_ns < heap[child].due_ns)
			child++;
		if (child >= timers->count || heap[i].due_ns <= heap[child].due_ns)
			return owner;
		swap(&heap[i], &heap[child]);
		i = child;
	}
}

int timers_timeout_ms(const struct timers *timers, uint64_t now_ns)
{
	uint64_t ms;

	if (timers->count == 0)
		return -1;
	if (timers->heap[0].due_ns <= now_ns)
		return 0;
	ms = (timers->heap[0].due_ns - now_ns + 999999) / 1000000;
	return ms > INT_MAX ? INT_MAX : (int)ms;
}

void timers_fini(struct timers *timers)
{
	free(timers->heap);
	*timers = (struct timers){ 0 };
}
