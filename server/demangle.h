/* SPDX-License-Identifier: MIT
 *
 * Names as people wrote them, from names as linkers see them. Context: any thread, no state.
 */
#ifndef SERVER_DEMANGLE_H
#define SERVER_DEMANGLE_H

#include <stddef.h>

/* Longer names are not demangled, only cut. */
#define DEMANGLE_INPUT_MAX 4096

/**
 * What the author calls the symbol @name: C++ and Rust demangled, without the symbol's version ("@@GLIBC_2.34") and
 * without the suffixes of a compiler's copies (".isra.0", ".part.1", ".cold"), so that all copies count as one function.
 *
 * @out always gets a string, at most @size - 1 bytes; one that was too long ends in "...". @size is at least 4.
 * Bounded time, whatever @name holds.
 */
void demangle(const char *name, char *out, size_t size);

#endif
