/* SPDX-License-Identifier: MIT
 *
 * A peer that answers late, like a database on a bad day: a child process on a loopback port. It answers a line "15"
 * after 15 ms. Connections to it are kept and used again, each for one question at a time.
 */
#ifndef DEMO_PEER_H
#define DEMO_PEER_H

#include <stdbool.h>

/** Start the child, before any thread. Returns 0 or a negative errno. */
int peer_start(void);
/** Close the connections and wait for the child to end, which it also does when this process is killed. */
void peer_stop(void);

/** A connection of one's own, blocking: a descriptor or a negative errno. */
int peer_take(void);
/** Hand it back; not @usable: close it. */
void peer_give(int fd, bool usable);

/** Send the question; an error shows up in the answer. */
void peer_ask(int fd, unsigned delay_ms);
/** Read the answer: 1 it came, 0 or a negative errno when the peer failed. */
int peer_answer(int fd);

#endif
