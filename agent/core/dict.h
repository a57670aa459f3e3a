/* SPDX-License-Identifier: MIT
 *
 * What the ids on the wire mean: modules, named functions, stacks, routes, objects, threads.
 *
 * Ids are given once and never taken back, so the dictionary only grows, each part up to its cap. Per connection it
 * remembers how far each part has been sent. Single thread (the agent's).
 */
#ifndef AGENT_CORE_DICT_H
#define AGENT_CORE_DICT_H

#include <stddef.h>
#include <stdint.h>

#include "agent/core/encode.h"

enum {
	DICT_STACKS = 65536, /* nodes of the tree, the marker stack included */
	DICT_FUNCTIONS = 16384,
	DICT_MODULES = 4096,
	DICT_MODULE_ID_MAX = 65535,
	DICT_ROUTES = 16383,
	DICT_ROUTE_ID_MAX = 16383,
	DICT_OBJECTS = 4096,
	DICT_THREADS = 4096,
	DICT_NAME_MAX = 255,        /* bytes of a name; what is longer is cut */
	DICT_BUILD_ID_MAX = 64,     /* bytes; what is longer is left out */
	DICT_FRAME_MAX = 256 << 10, /* bytes of one Dict frame */
};

/* How a stack, a function or a frame of a module that found no room is shown. */
#define DICT_STACK_FULL     "[stack table full]"
#define DICT_FUNCTION_FULL  "[function table full]"
#define DICT_MODULE_UNKNOWN "[unknown module]"

struct dict;

/** Returns NULL only when out of memory. Context: agent. */
struct dict *dict_create(void);
void dict_destroy(struct dict *d);

struct dict_frame {
	uint32_t module;  /* 0: @address is a function's id */
	uint64_t address; /* in the module's ELF file, already one less than a return address */
};

/**
 * The id of a stack of @depth frames, leaf first.
 *
 * A module must have been told by dict_module() before, or its frames become DICT_MODULE_UNKNOWN.
 * Returns 0 for depth 0, and the id of the stack DICT_STACK_FULL, counted, when there is no room. Context: agent.
 */
uint32_t dict_stack(struct dict *d, const struct dict_frame *frames_leaf_first, unsigned depth);

/** The id of a frame that the agent names itself, DICT_FUNCTION_FULL's when there is no room. @file may be NULL. */
uint32_t dict_function(struct dict *d, const char *name, const char *file, uint32_t line);

/** @kind as in the proto. 0 when there is no room. Context: agent. */
uint32_t dict_object(struct dict *d, Sonde__Object__Kind kind, const char *name);

/** The id of a thread; another name for the same tid is another thread. 0 when there is no room. Context: agent. */
uint32_t dict_thread(struct dict *d, uint32_t tid, const char *name);

/** Tell what a route's id means, as given by route.h. Telling it again is free. Returns 0, -ENOSPC or -ENOMEM. */
int dict_route(struct dict *d, uint32_t id, const char *name, const char *source);

struct dict_module {
	uint32_t id; /* as given by modules.h */
	const char *path;
	const uint8_t *build_id;
	size_t build_id_bytes;
	uint64_t start, end, bias;
};

/** Tell what a module's id means. Telling it again is free. Returns 0, -ENOSPC or -ENOMEM. */
int dict_module(struct dict *d, const struct dict_module *module);

/**
 * Append one Dict frame, of at most DICT_FRAME_MAX bytes, with what this connection has not been sent yet.
 *
 * Call until it returns 0. A stack's parents, functions and modules never come after it.
 * Context: agent. Returns 1 when a frame was appended, 0 when all has been sent, or -ENOMEM.
 */
int dict_encode_new(struct dict *d, struct encode_buffer *buffer);

/** A new connection knows nothing. Context: agent. */
void dict_forget_sent(struct dict *d);

enum {
	DICT_DROPS = 6,
};

/** Fill what the caps refused since the start. Returns DICT_DROPS. Context: agent. */
unsigned dict_drops(const struct dict *d, struct self_drop out[DICT_DROPS]);

/** Bytes of memory held. Context: agent. */
size_t dict_bytes(const struct dict *d);

/** The most that its caps allow, every name as long as can be. */
size_t dict_bytes_max(const struct dict *d);

#endif
