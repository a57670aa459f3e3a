/* SPDX-License-Identifier: MIT
 *
 * What the hooks cost, told by our own CPU samples. Timing every hook would cost more than most hooks; a sample whose
 * thread was running our code, or code that our code had called for its own purposes, says the same for nothing: such
 * samples' weights add up to the hooks' CPU time.
 *
 * Ours: our library's code, the vDSO and libc's clock_gettime(), syscall() and string functions called from there. Not
 * ours: what a wrapper calls because the host did (the real read(), the real pthread_mutex_lock()).
 *
 * Not seen: nanoseconds that the kernel adds to a host's call on our account (a receive timestamp: 100 ns per read).
 */
#ifndef AGENT_CORE_COST_H
#define AGENT_CORE_COST_H

#include <stdbool.h>
#include <stdint.h>

enum {
	COST_FUNCTIONS = 128,
	COST_REACH =
		8192,  /* a libc function that far behind the nearest known one is another one */
	COST_DEPTH = 3 /* frames between a leaf and our code */
};

struct cost_range {
	uintptr_t low, high;
};

/* Addresses that tell whose time a sample is. */
struct cost_map {
	struct cost_range own, vdso, libc;
	unsigned count;
	struct cost_function {
		uintptr_t at;
		bool hosts;         /* called for the host, else for us */
	} function[COST_FUNCTIONS]; /* by address, after cost_sort() */
};

void cost_add(struct cost_map *map, uintptr_t at, bool hosts);
void cost_sort(struct cost_map *map);

/** Whether a sample with @depth addresses in @pcs, leaf first, is time of our hooks. Pure. Context: agent. */
bool cost_is_ours(const struct cost_map *map, const uintptr_t *pcs, unsigned depth);

#endif
