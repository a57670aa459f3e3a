/* SPDX-License-Identifier: MIT
 *
 * The late peer's own side.
 */
#ifndef DEMO_PEER_MAIN_H
#define DEMO_PEER_MAIN_H

/** Serve connections of @listener until the other end of @lifeline closes. Returns the process's exit status. */
int peer_main(int listener, int lifeline);

#endif
