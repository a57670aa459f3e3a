/* SPDX-License-Identifier: MIT
 *
 * Module + address -> what a person calls it, through elfutils' libdw: functions, demangled names, source lines, inlined
 * frames. Each module is opened once and each address looked up once; both caches are bounded. Thread-safe: one lock
 * inside, nested in none. A hostile or broken ELF file costs its own symbols only. Context: server.
 */
#ifndef SERVER_SYMBOLIZE_H
#define SERVER_SYMBOLIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Caps; symbolizer_refused() counts what they cost. */
#define SYMBOLIZE_MODULES_MAX       4096
#define SYMBOLIZE_ADDRESSES_MAX     1000000      /* past it a new address gets its module's name */
#define SYMBOLIZE_STRINGS_MAX_BYTES (256u << 20) /* names and files, each kept once */
#define SYMBOLIZE_NAME_MAX          1024         /* longer names end in "..." */
#define SYMBOLIZE_OPEN_MAX          128 /* modules open; the least recently used is closed */
#define SYMBOLIZE_OPEN_MAX_BYTES    (2ull << 30) /* of their debug information */

struct symbolizer;

struct symbol {
	/* Demangled; without a symbol "libfoo.so+0x1234", where the function begins, if that is known. Never NULL. */
	const char *name;
	const char *system_name; /* as in the symbol table */
	const char *file;        /* "" when unknown */
	uint32_t line;           /* 0 when unknown */
	bool inlined;            /* inlined into the next entry */
};

struct symbolizer *symbolizer_create(void);
void symbolizer_destroy(struct symbolizer *s);

/**
 * What lies at @address (as in the ELF file) of the module at @path with @build_id (hex, "" unknown; a file on disk whose
 * build-id differs is not used). @pid: when not 0, /proc/PID/root is tried for the path as well.
 * *@out: innermost first, one or more entries, owned by @s and valid until symbolizer_destroy(). Returns their number.
 */
size_t symbolizer_lookup(struct symbolizer *s, const char *path, const char *build_id, uint32_t pid,
			 uint64_t address, const struct symbol **out);

/** How often a cap refused something, of any file, so far. */
uint64_t symbolizer_refused(struct symbolizer *s);

#endif
