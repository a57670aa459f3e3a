/* SPDX-License-Identifier: MIT
 *
 * Routes: a method and a path become a template, "GET /users/{id}" as far as it can be guessed, and a template an id. The table is
 * bounded, and stays useful when clients send junk. Agent's thread only.
 *
 * A path's segment becomes
 *
 *	{n}      a number, also with sign, '.', ',', ':' and '-' between digits
 *	{uuid}   8-4-4-4-12 hexadecimal digits
 *	{date}   2026-11-20, with or without a time behind, or 2026-11
 *	{hex}    8 or more hexadecimal digits, one of them a number (or 0x and any)
 *	{token}  20 or more letters and digits well mixed, as random ones are; a JWT
 *	{*}      anything: its parent has had ROUTE_SIBLINGS_MAX names already (ROUTE_TOP_MAX for the first segment)
 *
 * and a file's name likewise before its extension: {n}.png, app.{hex}.js. "v1" and "fib2" stay, as does percent-encoding.
 * What comes after ROUTE_SEGMENTS_MAX segments is "/" and "**", and so is what a cut path ended in. What cannot be printed, and { and }, is
 * percent-encoded, so a name is always valid and visible UTF-8.
 *
 * Admission: a template gets an id by its first answer that is not 404; until then it is "(unmatched 404)", so that scanners do
 * not fill the table. Past the table's cap it is "(other)", but counted among ROUTE_CANDIDATES in the manner of Space-Saving:
 * one that is surely hotter than the coldest route takes that one's place. A retired route keeps its id and name, and
 * gets them back when it is hot again.
 */
#ifndef SONDE_CORE_ROUTE_H
#define SONDE_CORE_ROUTE_H

#include <stdint.h>

enum {
	ROUTE_CAP = 200,         /* routes with a name of their own at a time */
	ROUTE_IDS_MAX = 4096,    /* ids ever given by one table; then "(other)" for good */
	ROUTE_NAME_MAX = 160,    /* bytes, the closing NUL included */
	ROUTE_SEGMENTS_MAX = 10, /* segments kept */
	ROUTE_SIBLINGS_MAX = 30, /* different names under one parent */
	ROUTE_TOP_MAX =
		100, /* ... as a path's first segment: flat services have many, and each is a route */
	ROUTE_CANDIDATES = 64,
	ROUTE_HOT_MIN =
		8, /* requests within some 16 ticks, before a candidate may take a route's place */
};

/* Ids that every table has. */
enum {
	ROUTE_OTHER = 1,
	ROUTE_UNMATCHED = 2, /* "(unmatched 404)" */
};

struct route_table;

/**
 * A table of at most @cap routes at a time, besides the two it always has, and never more than ROUTE_IDS_MAX. Context: agent.
 * Returns NULL when out of memory.
 */
struct route_table *route_table_create(unsigned cap);
void route_table_destroy(struct route_table *t);

/**
 * The route of an HTTP request that was answered with @status (0: never answered): counts as one request of it.
 *
 * @path has no query; one of HTTP_PATH_MAX - 1 bytes is taken for cut off. Neither string need be printable. Context: agent.
 * Returns its id, never 0.
 */
uint32_t route_from_http(struct route_table *t, const char *method, const char *path,
			 unsigned status);

/** The route that the program named itself: taken as it is, but printable and not too long. Context: agent. */
uint32_t route_from_name(struct route_table *t, const char *name);

/** A window has passed: old counts fade, by a sixteenth. Context: agent. */
void route_table_tick(struct route_table *t);

/** The name of @id, and who gave it, "http" or "api"; valid as long as the table. NULL for no such id. Context: agent. */
const char *route_name(const struct route_table *t, uint32_t id);
const char *route_source(const struct route_table *t, uint32_t id);

/** How many ids were given: they are 1 .. count, retired ones included. Context: agent. */
unsigned route_count(const struct route_table *t);

/** How many requests were counted as "(other)". Context: agent. */
uint64_t route_refused(const struct route_table *t);

#endif
