/* SPDX-License-Identifier: MIT
 *
 * The merged call tree that the page and every export share: functions, and nodes with ns per state.
 * Built with flame_add(), finished once with flame_finish(), then read only. Context: server, one thread at a time.
 */
#ifndef SERVER_FLAME_H
#define SERVER_FLAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	STATE_QUEUE,
	STATE_CPU,
	STATE_RUNQ,
	STATE_IO,
	STATE_LOCK,
	STATE_SLEEP,
	STATE_LOOP,
	STATE_OTHER,
	STATE_COUNT
};
#define STATES_ALL ((1u << STATE_COUNT) - 1)

/* At about 150 bytes each. Past it time stays with the caller, and flame->refused counts. */
#define FLAME_NODES_MAX 4000000

/** "queue", "cpu", "runq", "io", "lock", "sleep", "loop", "other". */
extern const char *const state_names[STATE_COUNT];

/* Strings belong to the flame. */
struct flame_function {
	const char *name;        /* demangled; "libc.so.6+0x1234" without a symbol; never NULL */
	const char *system_name; /* as in the symbol table; same as name when not mangled */
	const char *module;      /* base name of the file, "" for markers such as "[queue]" */
	const char *module_path; /* "" for markers */
	const char *build_id;    /* hex, "" when unknown */
	const char *file;        /* source file, "" when unknown */
	uint32_t line;           /* of the call or sample, 0 when unknown */
	bool inlined;            /* inlined into its caller */
	uint64_t address;        /* in the module's ELF file, 0 for markers */
};

struct flame_node {
	uint32_t function; /* index into functions */
	uint32_t parent;   /* index into nodes; the root is its own parent */
	uint32_t depth;    /* root 0 */
	uint64_t self_ns[STATE_COUNT];
	uint64_t total_ns; /* self and below, all states; valid after flame_finish() */
	uint64_t samples;
};

struct flame {
	struct flame_function *functions; /* [0] is "all" */
	uint32_t function_count;
	/* After flame_finish(): depth-first pre-order, children by total, largest first. */
	struct flame_node *nodes;
	uint32_t node_count;
	uint64_t total_ns[STATE_COUNT];
	uint64_t requests, samples;
	uint64_t refused;          /* flame_child() calls past FLAME_NODES_MAX */
	struct flame_index *index; /* private to flame.c */
};

/** A tree with its root only, or NULL when out of memory. */
struct flame *flame_create(void);

/** Free @flame; NULL is fine. */
void flame_destroy(struct flame *flame);

/** The index of a function equal to @f (name, module, file, line, inlined), added when new; strings are copied. -ENOMEM. */
int64_t flame_function(struct flame *flame, const struct flame_function *f);

/** The child of node @parent that shows @function, added when new; @parent itself past FLAME_NODES_MAX. -ENOMEM. */
int64_t flame_child(struct flame *flame, uint32_t parent, uint32_t function);

/** Add time and samples to node @node. Sums stop at UINT64_MAX instead of wrapping. */
void flame_add(struct flame *flame, uint32_t node, unsigned state, uint64_t ns, uint64_t samples);

/** Sum totals and sort. Returns 0 or -ENOMEM. After this only reading is allowed. */
int flame_finish(struct flame *flame);

/**
 * A finished tree like @flame, finished, in which one function is one node however many of its lines were seen; its line
 * is then the one with most time at or below it. NULL when out of memory.
 */
struct flame *flame_without_lines(const struct flame *flame);

#endif
