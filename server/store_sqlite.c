/* SPDX-License-Identifier: MIT
 *
 * The store in one SQLite file, DIR/sonde.db, in WAL mode.
 *
 * Durability: synchronous=NORMAL. What was committed is in the operating system's hands, so kill -9 at any time loses and
 * breaks nothing that was acknowledged. A power cut may take the last seconds (never the file's integrity): the agents'
 * next windows then show a gap in their sequence, which is counted as lost. An fsync per commit (FULL) would close that
 * gap at the price of one disk flush per second and process.
 *
 * Threads: the writer connection belongs to the ingest thread; readers come from a small pool under `lock`, each used by
 * one thread at a time. `lock` also guards the set of connected instances; nothing is called while it is held.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/log.h"
#include "server/store.h"
#include "server/window.h"

enum {
	SCHEMA_VERSION = 2,
	APPLICATION_ID = 0x736f6e64, /* "sond" */
	READERS_MAX = 16,            /* kept open for the next question */
	READ_ARENA_MAX = 256 << 20,  /* one window unpacked */
	CHECK_MAX_BYTES = 256 << 20, /* a larger file is not checked page by page at start */
	RETAIN_WINDOWS = 512,        /* dropped in one go */
};

/* self and routes before rows: SQLite reads a row's bytes in order, and most questions need no rows. */
static const char schema[] =
	"CREATE TABLE instance(id INTEGER PRIMARY KEY, service TEXT, host TEXT, boot_id TEXT, pid "
	"INT,"
	" start_ns INT, exe TEXT, command TEXT, version TEXT, parent_pid INT, hz INT, first_seen "
	"INT,"
	" last_seen INT, ended INT, stored_seq INT, lost_windows INT);"
	"CREATE TABLE module(instance INT, id INT, path TEXT, build_id TEXT, start INT, end INT,"
	" bias INT, PRIMARY KEY(instance, id)) WITHOUT ROWID;"
	"CREATE TABLE function(instance INT, id INT, name TEXT, file TEXT, line INT,"
	" PRIMARY KEY(instance, id)) WITHOUT ROWID;"
	"CREATE TABLE stack(instance INT, id INT, parent INT, module INT, address INT,"
	" PRIMARY KEY(instance, id)) WITHOUT ROWID;"
	"CREATE TABLE route(instance INT, id INT, name TEXT, source TEXT,"
	" PRIMARY KEY(instance, id)) WITHOUT ROWID;"
	"CREATE TABLE thread(instance INT, id INT, tid INT, name TEXT,"
	" PRIMARY KEY(instance, id)) WITHOUT ROWID;"
	"CREATE TABLE object(instance INT, id INT, kind INT, name TEXT,"
	" PRIMARY KEY(instance, id)) WITHOUT ROWID;"
	"CREATE TABLE window(n INTEGER PRIMARY KEY AUTOINCREMENT, instance INT, seq INT,"
	" start_unix_ns INT, end_unix_ns INT, self BLOB, routes BLOB, rows BLOB,"
	" UNIQUE(instance, seq));"
	"CREATE INDEX window_time ON window(end_unix_ns);"
	"CREATE INDEX window_instance_time ON window(instance, end_unix_ns);"
	"PRAGMA application_id=1936682596;";

/* What came with version 2. */
static const char schema_marks[] = "CREATE TABLE mark(n INTEGER PRIMARY KEY AUTOINCREMENT, "
				   "instance INT, unix_ns INT, name TEXT,"
				   " UNIQUE(instance, unix_ns, name));"
				   "CREATE INDEX mark_time ON mark(unix_ns);"
				   "PRAGMA user_version=2;";

enum write_statement {
	W_BEGIN,
	W_COMMIT,
	W_ROLLBACK,
	W_FIND,
	W_INSTANCE,
	W_MODULE,
	W_FUNCTION,
	W_STACK,
	W_ROUTE,
	W_THREAD,
	W_OBJECT,
	W_WINDOW,
	W_MARK,
	W_MARKS_OVER,
	W_SIZE,
	W_RETAIN,
	W_EMPTY,
	W_COUNT
};

static const char *const write_sql[W_COUNT] = {
	[W_BEGIN] = "BEGIN IMMEDIATE",
	[W_COMMIT] = "COMMIT",
	[W_ROLLBACK] = "ROLLBACK",
	[W_FIND] = "SELECT * FROM instance WHERE id=?1",
	[W_INSTANCE] =
		"INSERT OR REPLACE INTO instance VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,"
		"?13,?14,?15,?16)",
	[W_MODULE] = "INSERT OR REPLACE INTO module VALUES(?1,?2,?3,?4,?5,?6,?7)",
	[W_FUNCTION] = "INSERT OR REPLACE INTO function VALUES(?1,?2,?3,?4,?5)",
	[W_STACK] = "INSERT OR IGNORE INTO stack VALUES(?1,?2,?3,?4,?5)",
	[W_ROUTE] = "INSERT OR REPLACE INTO route VALUES(?1,?2,?3,?4)",
	[W_THREAD] = "INSERT OR REPLACE INTO thread VALUES(?1,?2,?3,?4)",
	[W_OBJECT] = "INSERT OR REPLACE INTO object VALUES(?1,?2,?3,?4)",
	[W_WINDOW] =
		"INSERT OR IGNORE INTO window(instance,seq,start_unix_ns,end_unix_ns,self,routes,"
		"rows) VALUES(?1,?2,?3,?4,?5,?6,?7)",
	[W_MARK] = "INSERT OR IGNORE INTO mark(instance,unix_ns,name) VALUES(?1,?2,?3)",
	[W_MARKS_OVER] = "DELETE FROM mark WHERE n<=(SELECT max(n) FROM mark)-?1",
	[W_SIZE] = "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, "
		   "pragma_freelist_count, pragma_page_size",
	[W_RETAIN] = "DELETE FROM window WHERE n IN (SELECT n FROM window ORDER BY end_unix_ns "
		     "LIMIT ?1)",
	[W_EMPTY] = "SELECT id FROM instance WHERE NOT EXISTS (SELECT 1 FROM window WHERE "
		    "window.instance=instance.id) LIMIT 64",
};

enum read_statement {
	R_BEGIN,
	R_END,
	R_WINDOWS,
	R_WINDOWS_OF,
	R_WINDOWS_AFTER,
	R_INSTANCES,
	R_INSTANCE,
	R_STACK,
	R_MARKS,
	R_DICT, /* and one for each store_kind from here on */
	R_COUNT = R_DICT + STORE_KINDS
};

#define WINDOW_COLUMNS                                                                             \
  "SELECT n,instance,seq,start_unix_ns,end_unix_ns,self,routes,rows FROM window "

static const char *const read_sql[R_COUNT] = {
	[R_BEGIN] = "BEGIN",
	[R_END] = "ROLLBACK",
	[R_WINDOWS] = WINDOW_COLUMNS "WHERE end_unix_ns>=?1 AND end_unix_ns<?2",
	[R_WINDOWS_OF] = WINDOW_COLUMNS "WHERE instance=?3 AND end_unix_ns>=?1 AND end_unix_ns<?2",
	[R_WINDOWS_AFTER] =
		WINDOW_COLUMNS "WHERE n>?4 AND end_unix_ns>=?1 AND end_unix_ns<?2 ORDER BY n",
	[R_INSTANCES] = "SELECT * FROM instance WHERE last_seen>=?1 AND first_seen<=?2",
	[R_INSTANCE] = "SELECT * FROM instance WHERE id=?3 AND last_seen>=?1 AND first_seen<=?2",
	[R_STACK] = "SELECT parent,module,address FROM stack WHERE instance=?1 AND id=?2",
	[R_MARKS] =
		"SELECT mark.instance,unix_ns,service,name FROM mark JOIN instance ON "
		"instance.id=mark.instance WHERE unix_ns>=?1 AND unix_ns<?2 AND (?3 IS NULL OR "
		"service=?3) AND (?4=0 OR mark.instance=?4) ORDER BY unix_ns DESC, n DESC LIMIT ?5",
	[R_DICT + STORE_MODULES] = "SELECT id,path,'',0,build_id FROM module WHERE instance=?1",
	[R_DICT + STORE_FUNCTIONS] = "SELECT id,name,file,line,'' FROM function WHERE instance=?1",
	[R_DICT + STORE_ROUTE_NAMES] = "SELECT id,name,'',0,'' FROM route WHERE instance=?1",
	[R_DICT + STORE_THREADS] = "SELECT id,name,'',0,'' FROM thread WHERE instance=?1",
};

struct store_read {
	struct store *store;
	sqlite3 *db;
	sqlite3_stmt *statements[R_COUNT];
	struct arena arena;
	struct store_read *next;
};

struct store {
	/* constant after open */
	char *dir, *path;
	uint64_t max_bytes;
	int lock_fd;

	/* writer thread */
	sqlite3 *db;
	sqlite3_stmt *statements[W_COUNT];
	bool dropped; /* and said so */

	_Atomic bool cancelled; /* relaxed: readers look once per window */

	pthread_mutex_t lock;
	/* under lock */
	struct store_read *idle;
	unsigned idle_count;
	uint64_t *connected;
	size_t connected_count, connected_cap;
};

void store_instance_fini(struct store_instance *i)
{
	free(i->service);
	free(i->host);
	free(i->boot_id);
	free(i->exe);
	free(i->command);
	free(i->version);
	*i = (struct store_instance){ 0 };
}

int store_instance_own_strings(struct store_instance *i)
{
	i->service = strdup(i->service);
	i->host = strdup(i->host);
	i->boot_id = strdup(i->boot_id);
	i->exe = strdup(i->exe);
	i->command = strdup(i->command);
	i->version = strdup(i->version);
	if (i->service && i->host && i->boot_id && i->exe && i->command && i->version)
		return 0;
	store_instance_fini(i);
	return -ENOMEM;
}

/* Log what SQLite said, with what a person can do about it, and turn it into an errno value. */
static int failed(const struct store *store, sqlite3 *db, const char *what)
{
	int code = sqlite3_errcode(db);

	switch (code & 0xff) {
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_FULL:
		log_limited("cannot %s: the disk of %s is full; free some space (or use a smaller "
			    "--max-bytes): until then windows wait in the agents",
			    what, store->dir);
		return -EIO;
	case SQLITE_CONSTRAINT:
	case SQLITE_TOOBIG:
	case SQLITE_MISMATCH:
		log_limited("cannot %s: %s", what, sqlite3_errmsg(db));
		return -EINVAL;
	default:
		log_limited("cannot %s in %s: %s", what, store->path, sqlite3_errmsg(db));
		return -EIO;
	}
}

static sqlite3_stmt *statement(sqlite3 *db, sqlite3_stmt **cache, const char *const *sql,
			       unsigned which)
{
	if (!cache[which])
		sqlite3_prepare_v3(db, sql[which], -1, SQLITE_PREPARE_PERSISTENT, &cache[which],
				   NULL);
	return cache[which];
}

static sqlite3_stmt *write_statement(struct store *store, enum write_statement which)
{
	return statement(store->db, store->statements, write_sql, which);
}

/* Run a statement that answers no rows. */
static int run(struct store *store, sqlite3_stmt *stmt, const char *what)
{
	int err = 0;

	if (!stmt)
		return failed(store, store->db, what);
	if (sqlite3_step(stmt) != SQLITE_DONE)
		err = failed(store, store->db, what);
	sqlite3_reset(stmt);
	return err;
}

static void bind_u64(sqlite3_stmt *stmt, int column, uint64_t value)
{
	sqlite3_bind_int64(stmt, column, (sqlite3_int64)value);
}

static void bind_text(sqlite3_stmt *stmt, int column, const char *text)
{
	sqlite3_bind_text(stmt, column, text, -1, SQLITE_STATIC);
}

static uint64_t column_u64(sqlite3_stmt *stmt, int column)
{
	return (uint64_t)sqlite3_column_int64(stmt, column);
}

static const char *column_text(sqlite3_stmt *stmt, int column)
{
	const unsigned char *text = sqlite3_column_text(stmt, column);

	return text ? (const char *)text : "";
}

/* ---- Open and close ---- */

static int64_t pragma_int(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *stmt = NULL;
	int64_t value = -1;

	if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK &&
	    sqlite3_step(stmt) == SQLITE_ROW)
		value = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	return value;
}

static bool pragma_is(sqlite3 *db, const char *sql, const char *wanted)
{
	sqlite3_stmt *stmt = NULL;
	bool is = false;

	if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK &&
	    sqlite3_step(stmt) == SQLITE_ROW)
		is = strcmp(column_text(stmt, 0), wanted) == 0;
	sqlite3_finalize(stmt);
	return is;
}

static int open_directory(struct store *store, char *error, size_t error_bytes)
{
	char path[4096];

	if (mkdir(store->dir, 0700) < 0 && errno != EEXIST) {
		snprintf(error, error_bytes,
			 "cannot make the data directory %s: %s; choose another with --data",
			 store->dir, strerror(errno));
		return -errno;
	}
	snprintf(path, sizeof(path), "%s/lock", store->dir);
	store->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (store->lock_fd < 0) {
		snprintf(error, error_bytes,
			 "cannot write in the data directory %s: %s; make it writable or choose "
			 "another with --data",
			 store->dir, strerror(errno));
		return -errno;
	}
	if (flock(store->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		snprintf(error, error_bytes,
			 "the data directory %s is in use by another `sonde serve`; stop that one "
			 "or choose another with --data",
			 store->dir);
		return -EBUSY;
	}
	return 0;
}

/* The file's own checks: is it ours, whole, and of a version we know? */
static int check_file(struct store *store, char *error, size_t error_bytes)
{
	int64_t tables = pragma_int(store->db, "SELECT count(*) FROM sqlite_schema");
	int64_t version = pragma_int(store->db, "PRAGMA user_version");
	struct stat st;

	if (tables < 0) {
		snprintf(error, error_bytes,
			 "cannot read the store %s: %s; move it away and start again, or choose "
			 "another directory with --data",
			 store->path, sqlite3_errmsg(store->db));
		return -EIO;
	}
	if (tables > 0 && pragma_int(store->db, "PRAGMA application_id") != APPLICATION_ID) {
		snprintf(error, error_bytes,
			 "%s is a database, but not one of sonde; choose another directory with "
			 "--data",
			 store->path);
		return -EINVAL;
	}
	if (version > SCHEMA_VERSION) {
		snprintf(error, error_bytes,
			 "the store %s is of a newer version (%lld, this sonde knows %d); use the "
			 "newer sonde or another directory with --data",
			 store->path, (long long)version, SCHEMA_VERSION);
		return -EINVAL;
	}
	if (stat(store->path, &st) == 0 && st.st_size <= CHECK_MAX_BYTES &&
	    !pragma_is(store->db, "PRAGMA quick_check(1)", "ok")) {
		snprintf(error, error_bytes,
			 "the store %s is damaged; move it away and start again (`sqlite3 FILE "
			 ".recover` may save some of it)",
			 store->path);
		return -EIO;
	}
	return 0;
}

/* Bring a new or an older store to this version. *@message: what SQLite said, or NULL. */
static int make_tables(sqlite3 *db, char **message)
{
	int64_t version = pragma_int(db, "PRAGMA user_version");

	if (version == SCHEMA_VERSION)
		return 0;
	if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK ||
	    (version == 0 && sqlite3_exec(db, schema, NULL, NULL, message) != SQLITE_OK) ||
	    sqlite3_exec(db, schema_marks, NULL, NULL, message) != SQLITE_OK ||
	    sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
		return -EIO;
	return 0;
}

static int open_database(struct store *store, char *error, size_t error_bytes)
{
	char *message = NULL;
	int err;

	if (sqlite3_open_v2(store->path, &store->db,
			    SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
			    NULL) != SQLITE_OK) {
		snprintf(error, error_bytes,
			 "cannot open the store %s: %s; choose another directory with --data",
			 store->path, sqlite3_errmsg(store->db));
		return -EIO;
	}
	sqlite3_busy_timeout(store->db, 5000);
	err = check_file(store, error, error_bytes);
	if (err)
		return err;
	if (!pragma_is(store->db, "PRAGMA journal_mode=WAL", "wal") ||
	    sqlite3_exec(store->db,
			 "PRAGMA synchronous=NORMAL; PRAGMA journal_size_limit=67108864;", NULL,
			 NULL, NULL) != SQLITE_OK ||
	    make_tables(store->db, &message)) {
		snprintf(error, error_bytes,
			 "cannot write the store %s: %s; make room, make it writable, or choose "
			 "another directory with --data",
			 store->path, message ? message : sqlite3_errmsg(store->db));
		sqlite3_free(message);
		return -EIO;
	}
	return 0;
}

int store_open(const char *dir, uint64_t max_bytes, struct store **out, char *error,
	       size_t error_bytes)
{
	struct store *store = calloc(1, sizeof(*store));
	int err = -ENOMEM;

	snprintf(error, error_bytes, "out of memory");
	if (!store)
		return err;
	store->lock_fd = -1;
	store->max_bytes = max_bytes;
	pthread_mutex_init(&store->lock, NULL);
	store->dir = strdup(dir);
	if (!store->dir || asprintf(&store->path, "%s/sonde.db", dir) < 0)
		goto out;
	err = open_directory(store, error, error_bytes);
	if (!err)
		err = open_database(store, error, error_bytes);
out:
	if (err) {
		store_close(store);
		store = NULL;
	}
	*out = store;
	return err;
}

static void reader_destroy(struct store_read *read)
{
	for (unsigned i = 0; i < R_COUNT; i++)
		sqlite3_finalize(read->statements[i]);
	sqlite3_close(read->db);
	arena_fini(&read->arena);
	free(read);
}

void store_close(struct store *store)
{
	if (!store)
		return;
	while (store->idle) {
		struct store_read *next = store->idle->next;

		reader_destroy(store->idle);
		store->idle = next;
	}
	for (unsigned i = 0; i < W_COUNT; i++)
		sqlite3_finalize(store->statements[i]);
	sqlite3_close(store->db); /* the last one writes the WAL back and removes it */
	if (store->lock_fd >= 0)
		close(store->lock_fd);
	pthread_mutex_destroy(&store->lock);
	free(store->connected);
	free(store->dir);
	free(store->path);
	free(store);
}

void store_cancel(struct store *store)
{
	atomic_store_explicit(&store->cancelled, true, memory_order_relaxed);
}

/* ---- Writing ---- */

int store_begin(struct store *store)
{
	return run(store, write_statement(store, W_BEGIN), "write");
}

int store_commit(struct store *store)
{
	return run(store, write_statement(store, W_COMMIT), "store what agents sent");
}

void store_rollback(struct store *store)
{
	/* A full disk has often rolled back by itself already. */
	if (!sqlite3_get_autocommit(store->db))
		run(store, write_statement(store, W_ROLLBACK), "roll back");
}

/* The columns of `instance`; strings are SQLite's own. */
static void instance_columns(sqlite3_stmt *stmt, struct store_instance *out)
{
	static const int columns[] = { 1, 2, 3, 6, 7, 8 };
	char *text[6];

	for (int i = 0; i < 6; i++)
		text[i] = (char *)(uintptr_t)column_text(stmt, columns[i]);
	*out = (struct store_instance){
		.id = column_u64(stmt, 0),
		.service = text[0],
		.host = text[1],
		.boot_id = text[2],
		.exe = text[3],
		.command = text[4],
		.version = text[5],
		.pid = (uint32_t)column_u64(stmt, 4),
		.start_ns = column_u64(stmt, 5),
		.parent_pid = (uint32_t)column_u64(stmt, 9),
		.hz = (uint32_t)column_u64(stmt, 10),
		.first_seen_unix_ns = column_u64(stmt, 11),
		.last_seen_unix_ns = column_u64(stmt, 12),
		.ended = column_u64(stmt, 13) != 0,
		.stored_seq = column_u64(stmt, 14),
		.lost_windows = column_u64(stmt, 15),
	};
}

int store_find_instance(struct store *store, uint64_t id, struct store_instance *out)
{
	sqlite3_stmt *stmt = write_statement(store, W_FIND);
	int err, step;

	if (!stmt)
		return failed(store, store->db, "read");
	bind_u64(stmt, 1, id);
	step = sqlite3_step(stmt);
	if (step == SQLITE_ROW) {
		instance_columns(stmt, out);
		err = store_instance_own_strings(out);
	} else {
		err = step == SQLITE_DONE ? -ENOENT : failed(store, store->db, "read");
	}
	sqlite3_reset(stmt);
	return err;
}

int store_put_instance(struct store *store, const struct store_instance *i)
{
	sqlite3_stmt *stmt = write_statement(store, W_INSTANCE);

	if (!stmt)
		return failed(store, store->db, "store a process");
	bind_u64(stmt, 1, i->id);
	bind_text(stmt, 2, i->service);
	bind_text(stmt, 3, i->host);
	bind_text(stmt, 4, i->boot_id);
	bind_u64(stmt, 5, i->pid);
	bind_u64(stmt, 6, i->start_ns);
	bind_text(stmt, 7, i->exe);
	bind_text(stmt, 8, i->command);
	bind_text(stmt, 9, i->version);
	bind_u64(stmt, 10, i->parent_pid);
	bind_u64(stmt, 11, i->hz);
	bind_u64(stmt, 12, i->first_seen_unix_ns);
	bind_u64(stmt, 13, i->last_seen_unix_ns);
	bind_u64(stmt, 14, i->ended);
	bind_u64(stmt, 15, i->stored_seq);
	bind_u64(stmt, 16, i->lost_windows);
	return run(store, stmt, "store a process");
}

/* A dictionary entry is an instance, an id and up to five more columns; this binds the first two. */
static sqlite3_stmt *dict_statement(struct store *store, enum write_statement which,
				    uint64_t instance, uint32_t id)
{
	sqlite3_stmt *stmt = write_statement(store, which);

	if (stmt) {
		bind_u64(stmt, 1, instance);
		bind_u64(stmt, 2, id);
	}
	return stmt;
}

static int put_modules(struct store *store, uint64_t instance, const Sonde__Dict *dict)
{
	int err = 0;

	for (size_t i = 0; !err && i < dict->n_modules; i++) {
		const Sonde__Module *m = dict->modules[i];
		sqlite3_stmt *stmt = dict_statement(store, W_MODULE, instance, m->id);
		char hex[129];
		size_t n = m->build_id.len < 64 ? m->build_id.len : 64;

		hex[0] = 0;
		for (size_t k = 0; k < n; k++)
			snprintf(hex + 2 * k, 3, "%02x", m->build_id.data[k]);
		bind_text(stmt, 3, m->path);
		bind_text(stmt, 4, hex);
		bind_u64(stmt, 5, m->start);
		bind_u64(stmt, 6, m->end);
		bind_u64(stmt, 7, m->bias);
		err = run(store, stmt, "store a module");
	}
	return err;
}

static int put_functions(struct store *store, uint64_t instance, const Sonde__Dict *dict)
{
	int err = 0;

	for (size_t i = 0; !err && i < dict->n_functions; i++) {
		const Sonde__Function *f = dict->functions[i];
		sqlite3_stmt *stmt = dict_statement(store, W_FUNCTION, instance, f->id);

		bind_text(stmt, 3, f->name);
		bind_text(stmt, 4, f->file);
		bind_u64(stmt, 5, f->line);
		err = run(store, stmt, "store a function");
	}
	return err;
}

static int put_stacks(struct store *store, uint64_t instance, const Sonde__Stacks *stacks)
{
	int err = 0;

	for (size_t i = 0; !err && stacks && i < stacks->n_id; i++) {
		sqlite3_stmt *stmt = dict_statement(store, W_STACK, instance, stacks->id[i]);

		bind_u64(stmt, 3, stacks->parent[i]);
		bind_u64(stmt, 4, stacks->module[i]);
		bind_u64(stmt, 5, stacks->address[i]);
		err = run(store, stmt, "store a stack");
	}
	return err;
}

static int put_names(struct store *store, uint64_t instance, const Sonde__Dict *dict)
{
	int err = 0;

	for (size_t i = 0; !err && i < dict->n_routes; i++) {
		sqlite3_stmt *stmt = dict_statement(store, W_ROUTE, instance, dict->routes[i]->id);

		bind_text(stmt, 3, dict->routes[i]->name);
		bind_text(stmt, 4, dict->routes[i]->source);
		err = run(store, stmt, "store a route");
	}
	for (size_t i = 0; !err && i < dict->n_threads; i++) {
		sqlite3_stmt *stmt =
			dict_statement(store, W_THREAD, instance, dict->threads[i]->id);

		bind_u64(stmt, 3, dict->threads[i]->tid);
		bind_text(stmt, 4, dict->threads[i]->name);
		err = run(store, stmt, "store a thread");
	}
	for (size_t i = 0; !err && i < dict->n_objects; i++) {
		sqlite3_stmt *stmt =
			dict_statement(store, W_OBJECT, instance, dict->objects[i]->id);

		bind_u64(stmt, 3, (uint64_t)dict->objects[i]->kind);
		bind_text(stmt, 4, dict->objects[i]->name);
		err = run(store, stmt, "store an object");
	}
	return err;
}

int store_put_dict(struct store *store, uint64_t instance, const Sonde__Dict *dict)
{
	int err = put_modules(store, instance, dict);

	if (!err)
		err = put_functions(store, instance, dict);
	if (!err)
		err = put_stacks(store, instance, dict->stacks);
	if (!err)
		err = put_names(store, instance, dict);
	return err;
}

static void bind_blob(sqlite3_stmt *stmt, int column, const struct blob *blob)
{
	sqlite3_bind_blob64(stmt, column, blob->bytes, blob->len, SQLITE_STATIC);
}

int store_put_window(struct store *store, uint64_t instance, const Sonde__Window *window)
{
	sqlite3_stmt *stmt = write_statement(store, W_WINDOW);
	struct window_blobs blobs;
	int err;

	if (!stmt)
		return failed(store, store->db, "store a window");
	err = window_pack(window, &blobs);
	if (err)
		return err;
	bind_u64(stmt, 1, instance);
	bind_u64(stmt, 2, window->seq);
	bind_u64(stmt, 3, window->start_unix_ns);
	bind_u64(stmt, 4, window->end_unix_ns);
	bind_blob(stmt, 5, &blobs.self);
	bind_blob(stmt, 6, &blobs.routes);
	bind_blob(stmt, 7, &blobs.rows);
	err = run(store, stmt, "store a window");
	sqlite3_clear_bindings(stmt);
	window_blobs_fini(&blobs);
	return err;
}

int store_put_mark(struct store *store, uint64_t instance, uint64_t unix_ns, const char *name)
{
	sqlite3_stmt *stmt = write_statement(store, W_MARK);
	int err;

	if (!stmt)
		return failed(store, store->db, "store a mark");
	bind_u64(stmt, 1, instance);
	bind_u64(stmt, 2, unix_ns);
	bind_text(stmt, 3, name);
	err = run(store, stmt, "store a mark");
	if (err)
		return err;
	stmt = write_statement(store, W_MARKS_OVER);
	if (stmt)
		bind_u64(stmt, 1, STORE_MARKS_MAX);
	return run(store, stmt, "drop old marks");
}

static bool is_connected(struct store *store, uint64_t id)
{
	bool found = false;

	pthread_mutex_lock(&store->lock);
	for (size_t i = 0; i < store->connected_count && !found; i++)
		found = store->connected[i] == id;
	pthread_mutex_unlock(&store->lock);
	return found;
}

/* Processes that are gone and whose windows have all aged out need no dictionary. */
static int forget_empty(struct store *store)
{
	static const char *const tables[] = { "module", "function", "stack", "route",
					      "thread", "object",   "mark" };
	sqlite3_stmt *stmt = write_statement(store, W_EMPTY);
	uint64_t ids[64];
	size_t count = 0;

	if (!stmt)
		return failed(store, store->db, "clean up");
	while (count < 64 && sqlite3_step(stmt) == SQLITE_ROW)
		ids[count++] = column_u64(stmt, 0);
	sqlite3_reset(stmt);
	for (size_t i = 0; i < count; i++) {
		char sql[128];

		if (is_connected(store, ids[i]))
			continue;
		for (size_t t = 0; t <= sizeof(tables) / sizeof(tables[0]); t++) {
			bool last = t == sizeof(tables) / sizeof(tables[0]);

			snprintf(sql, sizeof(sql), "DELETE FROM %s WHERE %s=%lld",
				 last ? "instance" : tables[t], last ? "id" : "instance",
				 (long long)ids[i]);
			if (sqlite3_exec(store->db, sql, NULL, NULL, NULL) != SQLITE_OK)
				return failed(store, store->db, "clean up");
		}
	}
	return 0;
}

int store_retain(struct store *store)
{
	sqlite3_stmt *stmt = write_statement(store, W_SIZE);
	uint64_t used = 0;
	int err;

	if (!stmt)
		return failed(store, store->db, "measure the store");
	if (sqlite3_step(stmt) == SQLITE_ROW)
		used = column_u64(stmt, 0);
	sqlite3_reset(stmt);
	if (used <= store->max_bytes)
		return 0;
	err = store_begin(store);
	if (err)
		return err;
	stmt = write_statement(store, W_RETAIN);
	if (stmt)
		bind_u64(stmt, 1, RETAIN_WINDOWS);
	err = run(store, stmt, "drop old windows");
	if (!err)
		err = forget_empty(store);
	if (!err)
		err = store_commit(store);
	if (err) {
		store_rollback(store);
	} else if (!store->dropped) {
		store->dropped = true;
		log_line("the store in %s has grown to --max-bytes (%llu MiB): from now on the "
			 "oldest "
			 "windows go",
			 store->dir, (unsigned long long)(store->max_bytes >> 20));
	}
	return err;
}

int store_set_connected(struct store *store, uint64_t id, bool connected)
{
	size_t i = 0;
	int err = 0;

	pthread_mutex_lock(&store->lock);
	while (i < store->connected_count && store->connected[i] != id)
		i++;
	if (i < store->connected_count) {
		if (!connected)
			store->connected[i] = store->connected[--store->connected_count];
	} else if (connected) {
		if (store->connected_count == store->connected_cap) {
			size_t cap = store->connected_cap ? 2 * store->connected_cap : 64;
			uint64_t *bigger = realloc(store->connected, cap * sizeof(*bigger));

			if (bigger) {
				store->connected = bigger;
				store->connected_cap = cap;
			}
		}
		if (store->connected_count < store->connected_cap)
			store->connected[store->connected_count++] = id;
		else
			err = -ENOMEM;
	}
	pthread_mutex_unlock(&store->lock);
	return err;
}

/* ---- Reading ---- */

static sqlite3_stmt *read_statement(struct store_read *read, unsigned which)
{
	return statement(read->db, read->statements, read_sql, which);
}

static int read_simple(struct store_read *read, enum read_statement which)
{
	sqlite3_stmt *stmt = read_statement(read, which);
	int step = stmt ? sqlite3_step(stmt) : SQLITE_ERROR;

	sqlite3_reset(stmt);
	return step == SQLITE_DONE ? 0 : failed(read->store, read->db, "read");
}

int store_read_begin(struct store *store, struct store_read **out)
{
	struct store_read *read;
	int err;

	*out = NULL;
	pthread_mutex_lock(&store->lock);
	read = store->idle;
	if (read) {
		store->idle = read->next;
		store->idle_count--;
	}
	pthread_mutex_unlock(&store->lock);
	if (!read) {
		read = calloc(1, sizeof(*read));
		if (!read)
			return -ENOMEM;
		read->store = store;
		arena_init(&read->arena, READ_ARENA_MAX);
		if (sqlite3_open_v2(store->path, &read->db,
				    SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX,
				    NULL) != SQLITE_OK) {
			err = read->db ? failed(store, read->db, "open") : -ENOMEM;
			reader_destroy(read);
			return err;
		}
		sqlite3_busy_timeout(read->db, 5000);
		sqlite3_exec(read->db, "PRAGMA query_only=1", NULL, NULL, NULL);
	}
	err = read_simple(read, R_BEGIN);
	if (err)
		reader_destroy(read);
	else
		*out = read;
	return err;
}

void store_read_end(struct store_read *read)
{
	struct store *store;

	if (!read)
		return;
	store = read->store;
	arena_reset(&read->arena);
	if (read_simple(read, R_END) == 0) {
		pthread_mutex_lock(&store->lock);
		if (store->idle_count < READERS_MAX) {
			read->next = store->idle;
			store->idle = read;
			store->idle_count++;
			read = NULL;
		}
		pthread_mutex_unlock(&store->lock);
	}
	if (read)
		reader_destroy(read);
}

/* How a row with uint64 times is asked for when the column is a signed integer. */
static uint64_t clamp_time(uint64_t ns)
{
	return ns > INT64_MAX ? INT64_MAX : ns;
}

static int unpack_window(struct store_read *read, sqlite3_stmt *stmt, unsigned what,
			 struct store_window *out)
{
	Sonde__Window *routes;
	Sonde__Rows *rows;
	Sonde__Self *self;
	int err = 0;

	arena_reset(&read->arena);
	*out = (struct store_window){
		.order = column_u64(stmt, 0),
		.instance = column_u64(stmt, 1),
		.seq = column_u64(stmt, 2),
		.start_unix_ns = column_u64(stmt, 3),
		.end_unix_ns = column_u64(stmt, 4),
	};
	if (what & STORE_SELF) {
		err = window_unpack_self(&read->arena, sqlite3_column_blob(stmt, 5),
					 (size_t)sqlite3_column_bytes(stmt, 5), &self);
		out->self = err ? NULL : self;
	}
	if (!err && (what & STORE_ROUTES)) {
		err = window_unpack_routes(&read->arena, sqlite3_column_blob(stmt, 6),
					   (size_t)sqlite3_column_bytes(stmt, 6), &routes);
		out->routes = err ? NULL : routes->routes;
		out->route_count = err ? 0 : routes->n_routes;
	}
	if (!err && (what & STORE_ROWS)) {
		err = window_unpack_rows(&read->arena, sqlite3_column_blob(stmt, 7),
					 (size_t)sqlite3_column_bytes(stmt, 7), &rows);
		out->rows = err ? NULL : rows;
	}
	return err;
}

static sqlite3_stmt *windows_statement(struct store_read *read, const struct store_filter *filter)
{
	sqlite3_stmt *stmt = read_statement(read, filter->after_order ? R_WINDOWS_AFTER
						  : filter->instance  ? R_WINDOWS_OF
								      : R_WINDOWS);

	if (stmt) {
		bind_u64(stmt, 1, clamp_time(filter->from_unix_ns));
		bind_u64(stmt, 2, clamp_time(filter->to_unix_ns));
		if (filter->after_order)
			bind_u64(stmt, 4, filter->after_order);
		else if (filter->instance)
			bind_u64(stmt, 3, filter->instance);
	}
	return stmt;
}

int store_read_windows(struct store_read *read, const struct store_filter *filter, unsigned what,
		       store_window_fn *fn, void *context)
{
	sqlite3_stmt *stmt = windows_statement(read, filter);
	struct store *store = read->store;
	struct store_window window;
	uint64_t seen = 0;
	int err = 0, step;

	if (!stmt)
		return failed(store, read->db, "read");
	while ((step = sqlite3_step(stmt)) == SQLITE_ROW) {
		if (atomic_load_explicit(&store->cancelled, memory_order_relaxed))
			err = -ECANCELED;
		else if (filter->max_windows && ++seen > filter->max_windows)
			err = -E2BIG;
		if (err)
			break;
		if (filter->after_order && filter->instance &&
		    column_u64(stmt, 1) != filter->instance)
			continue;
		err = unpack_window(read, stmt, what, &window);
		if (err == -EIO) { /* one bad window must not hide the others */
			log_limited("window %llu of the store %s cannot be read: left out",
				    (unsigned long long)window.order, store->path);
			err = 0;
			continue;
		}
		if (!err)
			err = fn(context, &window);
		if (err)
			break;
	}
	if (!err && step != SQLITE_DONE)
		err = failed(store, read->db, "read");
	sqlite3_reset(stmt);
	return err;
}

int store_read_instances(struct store_read *read, const char *service, uint64_t id,
			 uint64_t from_unix_ns, uint64_t to_unix_ns, store_instance_fn *fn,
			 void *context)
{
	sqlite3_stmt *stmt = read_statement(read, id ? R_INSTANCE : R_INSTANCES);
	int err = 0, step = SQLITE_DONE;

	if (!stmt)
		return failed(read->store, read->db, "read");
	bind_u64(stmt, 1, clamp_time(from_unix_ns));
	bind_u64(stmt, 2, clamp_time(to_unix_ns));
	if (id)
		bind_u64(stmt, 3, id);
	while (!err && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct store_instance instance;

		instance_columns(stmt, &instance);
		if (service && strcmp(service, instance.service) != 0)
			continue;
		instance.connected = is_connected(read->store, instance.id);
		err = fn(context, &instance);
	}
	if (!err && step != SQLITE_DONE)
		err = failed(read->store, read->db, "read");
	sqlite3_reset(stmt);
	return err;
}

int store_read_marks(struct store_read *read, const char *service, uint64_t instance,
		     uint64_t from_unix_ns, uint64_t to_unix_ns, unsigned max, store_mark_fn *fn,
		     void *context)
{
	sqlite3_stmt *stmt = read_statement(read, R_MARKS);
	int err = 0, step = SQLITE_DONE;

	if (!stmt)
		return failed(read->store, read->db, "read");
	bind_u64(stmt, 1, clamp_time(from_unix_ns));
	bind_u64(stmt, 2, clamp_time(to_unix_ns));
	sqlite3_bind_text(stmt, 3, service, -1, SQLITE_STATIC); /* NULL binds NULL */
	bind_u64(stmt, 4, instance);
	bind_u64(stmt, 5, max);
	while (!err && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct store_mark mark = {
			.instance = column_u64(stmt, 0),
			.unix_ns = column_u64(stmt, 1),
			.service = column_text(stmt, 2),
			.name = column_text(stmt, 3),
		};

		err = fn(context, &mark);
	}
	if (!err && step != SQLITE_DONE)
		err = failed(read->store, read->db, "read");
	sqlite3_reset(stmt);
	return err;
}

int store_read_stack(struct store_read *read, uint64_t instance, uint32_t id,
		     struct store_stack *out)
{
	sqlite3_stmt *stmt = read_statement(read, R_STACK);
	int err = 0, step;

	if (!stmt)
		return failed(read->store, read->db, "read");
	bind_u64(stmt, 1, instance);
	bind_u64(stmt, 2, id);
	step = sqlite3_step(stmt);
	if (step == SQLITE_ROW)
		*out = (struct store_stack){ .parent = (uint32_t)column_u64(stmt, 0),
					     .module = (uint32_t)column_u64(stmt, 1),
					     .address = column_u64(stmt, 2) };
	else
		err = step == SQLITE_DONE ? -ENOENT : failed(read->store, read->db, "read");
	sqlite3_reset(stmt);
	return err;
}

int store_read_dict(struct store_read *read, enum store_kind kind, uint64_t instance,
		    store_entry_fn *fn, void *context)
{
	sqlite3_stmt *stmt = read_statement(read, R_DICT + (unsigned)kind);
	int err = 0, step = SQLITE_DONE;

	if (!stmt)
		return failed(read->store, read->db, "read");
	bind_u64(stmt, 1, instance);
	while (!err && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct store_entry entry = {
			.id = (uint32_t)column_u64(stmt, 0),
			.name = column_text(stmt, 1),
			.file = column_text(stmt, 2),
			.line = (uint32_t)column_u64(stmt, 3),
			.build_id = column_text(stmt, 4),
		};

		err = fn(context, &entry);
	}
	if (!err && step != SQLITE_DONE)
		err = failed(read->store, read->db, "read");
	sqlite3_reset(stmt);
	return err;
}
