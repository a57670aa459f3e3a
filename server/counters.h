/* SPDX-License-Identifier: MIT
 *
 * What the collector counts about itself, shown by /metrics as sonde_collector_*. Only ever added to (connections
 * excepted), relaxed: nothing is decided by them. Context: server, any thread.
 */
#ifndef SERVER_COUNTERS_H
#define SERVER_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

#define COUNTERS(X)                                                                                \
  X(connections, "gauge", "agents connected")                                                      \
  X(connections_total, "counter", "connections accepted")                                          \
  X(connections_refused_total, "counter", "connections past the cap")                              \
  X(memory_refused_total, "counter", "connections closed for want of buffer memory")               \
  X(received_bytes_total, "counter", "bytes received from agents")                                 \
  X(frames_total, "counter", "messages received")                                                  \
  X(frames_skipped_total, "counter", "messages and marks left out")                                \
  X(protocol_errors_total, "counter", "connections closed for bad input")                          \
  X(windows_total, "counter", "windows stored")                                                    \
  X(windows_duplicate_total, "counter", "windows received again")                                  \
  X(marks_total, "counter", "marks of programs and agents stored")                                 \
  X(store_failures_total, "counter", "transactions the store refused")                             \
  X(http_requests_total, "counter", "HTTP requests answered")                                      \
  X(live_clients, "gauge", "clients of /api/v1/live")                                              \
  X(live_refused_total, "counter", "clients of /api/v1/live past the cap")                         \
  X(metrics_series_refused_total, "counter", "routes and causes past the cap of series")           \
  X(metrics_windows_refused_total, "counter", "windows of processes past the cap of /metrics")

struct counters {
#define COUNTER_FIELD(name, type, help) _Atomic uint64_t name;
	COUNTERS(COUNTER_FIELD)
#undef COUNTER_FIELD
};
extern struct counters counters;

#define count_add(name, n) atomic_fetch_add_explicit(&counters.name, n, memory_order_relaxed)
#define count_sub(name, n) atomic_fetch_sub_explicit(&counters.name, n, memory_order_relaxed)

#endif
