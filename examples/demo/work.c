/* SPDX-License-Identifier: MIT
 *
 * Work for the CPU, which the compiler must not spare us. Any thread.
 */
#include "examples/demo/work.h"

/* gcc makes a loop of one of the two calls when it may: KEEP hides from it that their sum is all we want. */
#define KEEP(value) __asm__ volatile("" : "+r"(value))

__attribute__((noinline)) uint64_t fib(unsigned n)
{
	uint64_t before, before_that;

	if (n < 2)
		return n;
	before = fib(n - 1);
	KEEP(before);
	before_that = fib(n - 2);
	KEEP(before_that);
	return before + before_that;
}

__attribute__((noinline)) uint64_t tally(void)
{
	static const uint8_t table[64 * 1024] = { 1 };
	uint64_t sum = 0;

	for (size_t i = 0; i < sizeof(table); i++) {
		sum += table[i];
		KEEP(sum);
	}
	return sum;
}
