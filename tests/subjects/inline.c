/* SPDX-License-Identifier: MIT
 *
 * A program whose inlined functions are known, for the symbolizer. Each "here_" label is a symbol at the address of the
 * statement on its line; tests/unit/test_symbolize.c finds the lines by their "line:" comments.
 */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv);
int outer(int x);

/* Not inlined: a function of its own, with a name as C++ would give it. */
__attribute__((noinline)) static int
plain(int x) __asm__("_ZN4shop5Order5totalERKSt6vectorIiSaIiEE");

/* One alias with underscores and one without, as libc has them. */
int __counter(int x);
extern int counter(int x) __attribute__((weak, alias("__counter")));

static volatile int sink;

static inline __attribute__((always_inline)) int innermost(int x)
{
	__asm__ volatile(".globl here_innermost\nhere_innermost: nop"); /* line: innermost */
	return x * 3 + sink;
}

static inline __attribute__((always_inline)) int middle(int x)
{
	int sum = 0;

	for (int i = 0; i < x; i++) {
		int y = innermost(i); /* line: middle */

		sum += y;
	}
	return sum;
}

__attribute__((noinline)) int outer(int x)
{
	sink = middle(x); /* line: outer */
	return sink;
}

static int plain(int x)
{
	__asm__ volatile(".globl here_plain\nhere_plain: nop"); /* line: plain */
	return x + sink;
}

int __counter(int x)
{
	__asm__ volatile(".globl here_counter\nhere_counter: nop");
	return x ^ sink;
}

int main(int argc, char **argv)
{
	printf("%d\n", outer(argc) + plain(argc) + counter(argc) + atoi(argv[0]));
	return 0;
}
