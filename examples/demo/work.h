/* SPDX-License-Identifier: MIT
 *
 * Work for the CPU, with names to look for in a flame graph.
 */
#ifndef DEMO_WORK_H
#define DEMO_WORK_H

#include <stddef.h>
#include <stdint.h>

/** The slow way: about 1.6^n calls, 4 ms for 30. */
uint64_t fib(unsigned n);

/** Add up a table of 64 KiB: some 20 µs. */
uint64_t tally(void);

#endif
