/* SPDX-License-Identifier: MIT
 *
 * The one formatter of numbers and names for the terminal, so that every command prints them alike.
 * Numbers carry three significant digits and always their unit. Names come from the network and may hold anything:
 * units_text() makes them harmless. Pure; context: server, any thread.
 */
#ifndef SERVER_UNITS_H
#define SERVER_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	UNITS_MAX = 32
};

/** A number as text, by value, so that several fit into one printf: units_ns(x).text. */
struct units {
	char text[UNITS_MAX];
};

/** "0 ns", "940 ns", "1.21 ms", "12.4 s", "20.7 min", "3.05 h". */
struct units units_ns(uint64_t ns);

/** As units_ns() with a sign, "+" included; 0 has none. For differences. */
struct units units_ns_signed(int64_t ns);

/** "0", "5,001", "999,999", "1.23 M", "4.56 G". */
struct units units_count(uint64_t count);

/** "83.4/s", "0.05/s", "12,345/s", "0/s". */
struct units units_rate(double per_second);

/** @share 1.0 is "100 %"; "91 %", "6.2 %", "0.21 %", "<0.01 %", "0 %". */
struct units units_percent(double share);

/** As units_percent() with a sign; from "+1000 %" on as a factor, "x 12". */
struct units units_percent_signed(double share);

/** "12 B", "1.21 kB", "34.0 MB". */
struct units units_bytes(uint64_t bytes);

/** Columns that @text takes in a terminal. Invalid UTF-8 takes one column per byte, as units_text() shows it. */
size_t units_width(const char *text);

/**
 * @text made fit for a terminal, at most @columns wide, into @out of @size bytes, always terminated: control characters,
 * direction marks and invalid UTF-8 become "?", what is too wide ends in an ellipsis. @pad: fill up with spaces.
 * @size of 4 bytes per column and one more is always enough. Returns the columns used.
 */
size_t units_text(char *out, size_t size, const char *text, size_t columns, bool pad);

#endif
