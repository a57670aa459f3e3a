/* SPDX-License-Identifier: MIT
 *
 * The collector's log: stderr, one line per event. What a client sent is printed with its control characters replaced, so
 * that nobody writes into somebody's terminal. Context: server, any thread.
 */
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

__attribute__((format(printf, 1, 2))) static inline void log_line(const char *format, ...)
{
	char line[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	for (char *c = line; *c; c++) {
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
	}
	fprintf(stderr, "sonde serve: %s\n", line);
}

struct log_limit {
	_Atomic uint64_t next_s; /* relaxed: a line too many does no harm */
	_Atomic unsigned held_back;
};

/* Whether this second's line is still free; *@held_back lines were not printed since the last one. */
static inline bool log_allow(struct log_limit *limit, unsigned *held_back)
{
	struct timespec now;
	uint64_t next = atomic_load_explicit(&limit->next_s, memory_order_relaxed);

	clock_gettime(CLOCK_MONOTONIC, &now);
	if ((uint64_t)now.tv_sec < next ||
	    !atomic_compare_exchange_strong(&limit->next_s, &next, (uint64_t)now.tv_sec + 1)) {
		atomic_fetch_add_explicit(&limit->held_back, 1, memory_order_relaxed);
		return false;
	}
	*held_back = atomic_exchange_explicit(&limit->held_back, 0, memory_order_relaxed);
	return true;
}

/** As log_line(), at most once a second for each place in the code; the next line says how many were held back. */
#define log_limited(format, ...)                                                                   \
  do {                                                                                             \
    static struct log_limit limit_;                                                                \
    unsigned held_back_;                                                                           \
    if (log_allow(&limit_, &held_back_)) {                                                         \
      if (held_back_)                                                                              \
	log_line(format " (and %u more like this)", ##__VA_ARGS__, held_back_);                    \
      else                                                                                         \
	log_line(format, ##__VA_ARGS__);                                                           \
    }                                                                                              \
  } while (0)

#endif
