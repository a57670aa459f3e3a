/* SPDX-License-Identifier: MIT
 *
 * sonde.h: tell the sonde agent what it cannot see by itself.
 *
 * Nothing here is needed to profile a server: HTTP/1.x requests are found without it. Use it for other protocols, for
 * requests handed from thread to thread, and to name routes after your router's own patterns.
 *
 * A program that includes this header links against nothing: every function is a weak symbol that the agent defines when
 * it is loaded. Without the agent each call is a test of a pointer and a branch that is always taken the same way.
 * Every function may be called from any thread at any time, never blocks, allocates or fails, and keeps errno. None may
 * be called from a signal handler.
 *
 *	sonde_request r = sonde_begin("JOB resize");
 *	...
 *	sonde_end(r, 0);
 */
#ifndef SONDE_H
#define SONDE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** One request in progress. A plain value, to be copied and stored freely; 0 is no request, accepted everywhere. */
typedef uint64_t sonde_request;

#define SONDE_WEAK __attribute__((weak, visibility("default")))

SONDE_WEAK sonde_request sonde_agent_begin(const char *route, uint64_t arrival_ns);
SONDE_WEAK void sonde_agent_end(sonde_request request, int failed);
SONDE_WEAK sonde_request sonde_agent_detach(void);
SONDE_WEAK void sonde_agent_attach(sonde_request request);
SONDE_WEAK sonde_request sonde_agent_current(void);
SONDE_WEAK void sonde_agent_route(const char *route);
SONDE_WEAK void sonde_agent_label(const char *key, const char *value);
SONDE_WEAK void sonde_agent_mark(const char *name);

/**
 * Begin a request on the calling thread, which works on it from now on.
 *
 * @route: its route, for example "JOB resize"; copied, at most 127 bytes count.
 * Returns the request, or 0 without an agent or when too many are in progress (the agent counts that).
 */
static inline sonde_request sonde_begin(const char *route)
{
	return sonde_agent_begin ? sonde_agent_begin(route, 0) : 0;
}

/**
 * As sonde_begin(), for a request that has been waiting: @arrival_ns is when it came in, in ns of CLOCK_MONOTONIC, not
 * in the future. The time until now becomes its state `queue`.
 */
static inline sonde_request sonde_begin_at(const char *route, uint64_t arrival_ns)
{
	return sonde_agent_begin ? sonde_agent_begin(route, arrival_ns) : 0;
}

/** End @request, on any thread. @failed: not 0 counts it as an error. Ending a request twice does nothing. */
static inline void sonde_end(sonde_request request, int failed)
{
	if (sonde_agent_end)
		sonde_agent_end(request, failed);
}

/**
 * Take the calling thread off its request, to hand it on; until someone attaches it, its time counts as `lock`: it waits
 * for another thread. Returns the request, or 0 when the thread had none.
 */
static inline sonde_request sonde_detach(void)
{
	return sonde_agent_detach ? sonde_agent_detach() : 0;
}

/** The calling thread works on @request from now on. A thread works on one request at a time: the last one given. */
static inline void sonde_attach(sonde_request request)
{
	if (sonde_agent_attach)
		sonde_agent_attach(request);
}

/** The request that the calling thread works on, 0 when none. Works for requests found by the agent, too. */
static inline sonde_request sonde_current(void)
{
	return sonde_agent_current ? sonde_agent_current() : 0;
}

/** Name the route of the calling thread's request, in place of the one guessed from its path. Copied, 127 bytes count. */
static inline void sonde_route(const char *route)
{
	if (sonde_agent_route)
		sonde_agent_route(route);
}

/**
 * Put a label on the calling thread's request, told with it when it fails, and when it is slower than any labelled one before:
 * the page shows "JOB resize took 81 ms: image=42" among the marks. Copied, 31 + 63 bytes count, up to four labels.
 */
static inline void sonde_label(const char *key, const char *value)
{
	if (sonde_agent_label)
		sonde_agent_label(key, value);
}

/** Mark this moment, for example "deploy 1.7" or "cache cleared"; the page shows when. Copied, 127 bytes count. */
static inline void sonde_mark(const char *name)
{
	if (sonde_agent_mark)
		sonde_agent_mark(name);
}

#ifdef __cplusplus
}
#endif

#endif
