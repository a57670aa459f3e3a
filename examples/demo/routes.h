/* SPDX-License-Identifier: MIT
 *
 * The routes and what they do.
 */
#ifndef DEMO_ROUTES_H
#define DEMO_ROUTES_H

#include "examples/demo/server.h"

/** Make what routes send again and again. @mode: how they wait. Returns 0 or a negative errno. */
int routes_init(const struct mode *mode);
void routes_fini(void);

/** The route of path @url, with the number in it; NULL when there is none. */
const struct route *routes_find(const char *url, unsigned *number);

/** Take the request's next step; a request without a route is answered 404. */
enum progress routes_step(struct request *request);

#endif
