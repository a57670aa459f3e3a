/* SPDX-License-Identifier: MIT
 *
 * The terminal while `sonde top` lives in it: the alternate screen, single keys, signals, and everything put back in the
 * end. One at a time; context: main thread.
 */
#ifndef SERVER_SCREEN_H
#define SERVER_SCREEN_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

/** Not 0 once SIGINT, SIGTERM or SIGHUP came. */
extern volatile sig_atomic_t screen_stop;

/** Catch the signals that end a program, and with @full take the terminal over. Returns 0 or a negative errno value. */
int screen_open(bool full);

/** Put the terminal back. Nothing happens when it was not taken. */
void screen_close(void);

/** Width and height of the terminal on standard output; 80 by 24 when it does not say. */
void screen_size(size_t *columns, size_t *rows);

/** Show @text of lines as the whole screen: what was there before is overwritten, not cleared, so nothing flickers. */
void screen_show(const char *text);

/**
 * Wait until @ms have passed, a key is there (returned), the window changed or a signal came (0).
 */
int screen_wait(int ms);

#endif
