/* SPDX-License-Identifier: MIT
 *
 * One plain sentence per route: where its time went. Pure; context: server, any thread.
 */
#ifndef SERVER_EXPLAIN_H
#define SERVER_EXPLAIN_H

#include <stddef.h>
#include <stdint.h>

#include "server/flame.h"

/** "waiting for a lock" and so on, by state. */
extern const char *const explain_words[STATE_COUNT];

/**
 * Write the sentence for @route, whose @count requests took @mean_ns on average, split into @ledger_ns per request, to
 * @out of @size bytes: "GET /lock takes 12.4 ms on average: 91 % waiting for a lock, 6 % on the CPU."
 * States under one percent are left out. Returns its length, cut to @size - 1.
 */
size_t explain_route(char *out, size_t size, const char *route, uint64_t count, uint64_t mean_ns,
		     const uint64_t ledger_ns[STATE_COUNT]);

#endif
