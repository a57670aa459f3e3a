/* SPDX-License-Identifier: MIT
 *
 * Where windows are kept: the whole interface between the collector and a database.
 *
 * One thread writes (ingest), any number read. A read sees one moment of the store from begin to end, and never holds up
 * the writer. A window is stored when store_commit() has returned 0, and survives the death of the collector from then on.
 * Functions return 0 or a negative errno value: -EIO: the store cannot be written or read now, and said why in the log;
 * -ECANCELED after store_cancel(). Context: server.
 */
#ifndef SERVER_STORE_H
#define SERVER_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sonde.pb-c.h"

struct store;
struct store_read;

enum {
	STORE_MARKS_MAX = 10000
};

/* Strings belong to the struct: store_instance_fini(). Never NULL. */
struct store_instance {
	uint64_t id; /* Hello.instance, shown as 16 hex digits */
	char *service, *host, *boot_id, *exe, *command, *version;
	uint32_t pid, parent_pid, hz;
	uint64_t start_ns;
	uint64_t first_seen_unix_ns, last_seen_unix_ns;
	uint64_t stored_seq;   /* newest window stored; kept when windows age out */
	uint64_t lost_windows; /* dropped by the agent or missing in the sequence */
	bool ended;            /* said good-bye */
	bool connected;        /* to this collector, now; only reads fill it */
};
void store_instance_fini(struct store_instance *instance);
/** Replace borrowed strings by copies. 0, or -ENOMEM: then @instance holds nothing. */
int store_instance_own_strings(struct store_instance *instance);

/**
 * Open the store in directory @dir, made when missing. @max_bytes: oldest windows go when it grows past this.
 * On failure @error is one line for people: what is wrong and what to do.
 */
int store_open(const char *dir, uint64_t max_bytes, struct store **out, char *error,
	       size_t error_bytes);
void store_close(struct store *store);

/** Make reads under way and later ones fail with -ECANCELED, for a quick stop. Any thread. */
void store_cancel(struct store *store);

/* ---- Writing: the one writer thread; between begin and commit or rollback ---- */

int store_begin(struct store *store);
int store_commit(struct store *store);
void store_rollback(struct store *store);

/** -ENOENT when @id was never seen. */
int store_find_instance(struct store *store, uint64_t id, struct store_instance *out);
/** Add or replace. */
int store_put_instance(struct store *store, const struct store_instance *instance);
/** Stacks that are there already stay as they are, names are replaced. */
int store_put_dict(struct store *store, uint64_t instance, const Sonde__Dict *dict);
/** A window that is there already stays as it is. */
int store_put_window(struct store *store, uint64_t instance, const Sonde__Window *window);
/** A mark that is there already stays one. Past STORE_MARKS_MAX the oldest go. */
int store_put_mark(struct store *store, uint64_t instance, uint64_t unix_ns, const char *name);
/** Drop the oldest windows past the cap. Outside a transaction. Bounded work: call it now and then. */
int store_retain(struct store *store);

/* ---- Who is connected: any thread ---- */

/** Note that @id is connected or not. Not part of a transaction. */
int store_set_connected(struct store *store, uint64_t id, bool connected);

/* ---- Reading: any thread; one thread per store_read ---- */

int store_read_begin(struct store *store, struct store_read **out);
void store_read_end(struct store_read *read);

struct store_filter {
	uint64_t instance;                 /* 0: all */
	uint64_t from_unix_ns, to_unix_ns; /* windows that end in [from, to) */
	uint64_t after_order; /* windows stored after this one, see store_window.order */
	uint64_t max_windows; /* 0: no limit; past it: -E2BIG */
};

enum {
	STORE_ROWS = 1,
	STORE_ROUTES = 2,
	STORE_SELF = 4
};

/* What it points to lives until the callback returns. */
struct store_window {
	uint64_t instance, seq;
	uint64_t order; /* grows with every window stored */
	uint64_t start_unix_ns, end_unix_ns;
	const Sonde__Rows *rows; /* NULL unless STORE_ROWS; columns of one length */
	Sonde__RouteStats *const *
		routes; /* STORE_ROUTES; route 0: only ledger_ns, the samples' ns of work outside requests */
	size_t route_count;
	const Sonde__Self *self; /* NULL unless STORE_SELF */
};
typedef int store_window_fn(void *context, const struct store_window *window);
typedef int store_instance_fn(void *context, const struct store_instance *instance);

/** Windows in no special order. A callback that returns other than 0 ends it with that value. */
int store_read_windows(struct store_read *read, const struct store_filter *filter, unsigned what,
		       store_window_fn *fn, void *context);
/** Instances of @service (NULL: all) seen in [from, to]; @id not 0: that one only. */
int store_read_instances(struct store_read *read, const char *service, uint64_t id,
			 uint64_t from_unix_ns, uint64_t to_unix_ns, store_instance_fn *fn,
			 void *context);

/* Strings live until the callback returns. */
struct store_mark {
	uint64_t instance, unix_ns;
	const char *service, *name;
};
typedef int store_mark_fn(void *context, const struct store_mark *mark);

/** Marks of @service (NULL: all) and @instance (0: all) in [from, to), the newest first, at most @max. */
int store_read_marks(struct store_read *read, const char *service, uint64_t instance,
		     uint64_t from_unix_ns, uint64_t to_unix_ns, unsigned max, store_mark_fn *fn,
		     void *context);

struct store_stack {
	uint32_t parent, module;
	uint64_t address;
};
/** -ENOENT when there is no such stack. */
int store_read_stack(struct store_read *read, uint64_t instance, uint32_t id,
		     struct store_stack *out);

/* One dictionary entry; strings live until the callback returns. Unused fields are "" and 0. */
struct store_entry {
	uint32_t id;
	const char *name;     /* path of a module */
	const char *file;     /* of a function */
	uint32_t line;        /* of a function */
	const char *build_id; /* hex, of a module */
};
typedef int store_entry_fn(void *context, const struct store_entry *entry);
enum store_kind {
	STORE_MODULES,
	STORE_FUNCTIONS,
	STORE_ROUTE_NAMES,
	STORE_THREADS,
	STORE_KINDS
};

/** All entries of @kind of @instance. */
int store_read_dict(struct store_read *read, enum store_kind kind, uint64_t instance,
		    store_entry_fn *fn, void *context);

#endif
