/* SPDX-License-Identifier: MIT
 *
 * One ELF file: opened with care, its build-id, and its functions as a table sorted by address. Nothing is mapped: a file
 * that is rewritten while we read it gives wrong names, never SIGBUS. Context: server, one thread at a time.
 */
#ifndef SERVER_ELFSYMS_H
#define SERVER_ELFSYMS_H

#include <libelf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ELFSYMS_FILE_MAX_BYTES (4ull << 30)
#define ELFSYMS_SYMBOLS_MAX    4000000
#define ELFSYMS_BUILD_ID_MAX   64 /* bytes; GNU's have 20 */

struct elfsyms_file {
	int fd; /* -1: none */
	Elf *elf;
	char *path;  /* as opened, NULL for a file in memory */
	char *image; /* of a file in memory, else NULL */
	uint64_t bytes;
	char build_id[2 * ELFSYMS_BUILD_ID_MAX + 1]; /* hex, "" without one */
};

struct elfsym {
	uint64_t address, size;
	const char *name; /* as in the file, owned by libelf until the file is closed */
	uint32_t rank;    /* which name to show among several of one address: the smallest */
	bool plt;         /* a stub that jumps to the function called name */
};

/* Functions sorted by address, one name per address; or their beginnings only, with the name "". */
struct elfsyms {
	struct elfsym *symbols;
	size_t count;
	uint64_t refused; /* past ELFSYMS_SYMBOLS_MAX */
};

/**
 * Open the ELF program or library at @path. Only a regular file with a sound header is opened, never a device or FIFO.
 * Returns 0 or a negative errno value: -ENOEXEC not such a file, -EFBIG larger than ELFSYMS_FILE_MAX_BYTES.
 */
int elfsyms_open(struct elfsyms_file *file, const char *path);

/** As elfsyms_open() for the @size bytes at @image, which are copied. */
int elfsyms_open_memory(struct elfsyms_file *file, const void *image, size_t size);

/** Close @file; one that is zeroed with fd -1, or closed already, is fine. */
void elfsyms_close(struct elfsyms_file *file);

/** The section called @name, NULL when there is none, or when it has no bytes in the file. */
Elf_Scn *elfsyms_section(const struct elfsyms_file *file, const char *name);

/**
 * Add the functions of @file's table of @type (SHT_SYMTAB or SHT_DYNSYM) to @table, which begins zeroed.
 * Returns how many were added, or -ENOMEM. Call elfsyms_sort() after the last.
 */
int64_t elfsyms_load(struct elfsyms *table, const struct elfsyms_file *file, uint32_t type);

/** Add the entries of the procedure linkage table under the names they lead to. Same returns. x86-64 only. */
int64_t elfsyms_load_plt(struct elfsyms *table, const struct elfsyms_file *file);

/**
 * Add where functions begin, after the unwind table that even stripped programs have: nameless, each as long as the way to
 * the next. Same returns.
 */
int64_t elfsyms_load_starts(struct elfsyms *table, const struct elfsyms_file *file);

/** Sort by address and keep the best name of each. */
void elfsyms_sort(struct elfsyms *table);

/** The function that holds @address, NULL when none does. */
const struct elfsym *elfsyms_find(const struct elfsyms *table, uint64_t address);

void elfsyms_fini(struct elfsyms *table);

#endif
