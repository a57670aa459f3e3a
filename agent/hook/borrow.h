/* SPDX-License-Identifier: MIT
 *
 * A descriptor of the host's table, for the microseconds in which we read a file: no signal handler of the host's may jump
 * away meanwhile and leave it open, and no fork may copy it into a child that knows nothing of it.
 */
#ifndef AGENT_BORROW_H
#define AGENT_BORROW_H

#include <stdbool.h>
#include <stdint.h>

struct borrow {
	uint64_t mask; /* as the host had it */
	bool counted;
};

/**
 * From here on one may open, and must close before borrow_end(). Keeps errno. Context: hook; not nested.
 * @insist: wait for a fork in progress, a little. Otherwise false is returned then: nothing has begun.
 */
bool borrow_begin(struct borrow *b, bool insist);
void borrow_end(const struct borrow *b);

/** The calling thread is about to fork: it waits until nothing is borrowed, and nobody begins. Context: hook. */
void borrow_fork_begin(void);

/** It has forked; in the parent only, the child finds zeros. Context: hook. */
void borrow_fork_end(void);

#endif
