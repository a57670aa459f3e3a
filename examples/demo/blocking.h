/* SPDX-License-Identifier: MIT
 *
 * Waits that block the thread, and say how long they did.
 */
#ifndef DEMO_BLOCKING_H
#define DEMO_BLOCKING_H

#include "examples/demo/server.h"

enum progress blocking_sleep(struct request *request, uint64_t ns);
enum progress blocking_ask_peer(struct request *request, unsigned delay_ms);

/** Hold the lock that everybody wants, asleep, for @ns. */
enum progress blocking_hold_lock(struct request *request, uint64_t ns);

/** Do a little work under that lock. */
void blocking_use_lock(struct request *request);

#endif
