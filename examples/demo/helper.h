/* SPDX-License-Identifier: MIT
 *
 * A thread that does for the event loop what would block it.
 */
#ifndef DEMO_HELPER_H
#define DEMO_HELPER_H

#include "examples/demo/server.h"

/** Start it. Returns a descriptor that is readable when a request is done, or a negative errno. */
int helper_start(void);
/** End it, once nothing is under way. */
void helper_stop(void);

/** Hold the lock for request->hold_ns on the helper's time. */
void helper_submit(struct request *request);
/** All requests that are done, linked by next; clears the descriptor. */
struct request *helper_take_done(void);

#endif
