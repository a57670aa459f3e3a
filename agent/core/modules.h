/* SPDX-License-Identifier: MIT
 *
 * What code is mapped in this process: the program, its libraries, [vdso], each with an id that samples can name, and
 * with unwind rows in the table that sig/unwind.h walks with. Modules that were unmapped are remembered, because samples
 * taken before are still on their way.
 *
 * Threads: the agent's own, one at a time. The host may dlopen and dlclose meanwhile: no loader lock is taken, nothing
 * of the host's is read but through the kernel.
 */
#ifndef AGENT_CORE_MODULES_H
#define AGENT_CORE_MODULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODULES_MAX           4096 /* remembered, mapped or not; then the one unmapped longest is forgotten */
#define MODULES_ROW_BYTES_MAX (96u << 20) /* of unwind rows: 0.7 GiB of code or so */
#define MODULES_PATH_MAX      256
#define MODULES_BUILD_ID_MAX  32

struct module_rows;

struct module {
	uint32_t id;          /* from 1, never reused */
	uintptr_t start, end; /* addresses [start, end) */
	uintptr_t bias;       /* an address minus this is the file's own (st_value, DWARF) */
	char path[MODULES_PATH_MAX];
	uint8_t build_id[MODULES_BUILD_ID_MAX];
	uint8_t build_id_len; /* 0: it has none */
	bool mapped;
	/* modules.c only */
	uintptr_t base, code_start, code_end;
	uint64_t device, inode;
	struct module_rows *rows; /* NULL: none, or unmapped */
};

struct modules_stats {
	/* now */
	uint32_t mapped;
	uint64_t
		refused; /* mapped, but beyond MODULES_MAX or the caps of maps.h: their frames have no module */
	uint64_t unreadable; /* mapped as code, but not an object that could be read */
	/* ever */
	uint64_t forgotten; /* unmapped ones dropped for MODULES_MAX */
	uint64_t
		rows_refused; /* modules without rows for MODULES_ROW_BYTES_MAX, functions for the caps of ehframe.h */
	uint64_t exotic;    /* rules that rows cannot express: walks end there with "no rule" */
	uint64_t malformed; /* functions whose unwind description made no sense */
};

struct modules;

/** Returns NULL when out of memory. Call modules_refresh() next. */
struct modules *modules_create(void);

/** Takes the published table down, too. Waits up to 0.1 s for walks to end; a table still held then is leaked. */
void modules_destroy(struct modules *modules);

/**
 * Look again at what is mapped, digest what is new, publish a table. When nothing changed it costs one read of
 * /proc/self/maps.
 *
 * Context: agent. Holds no descriptor when it returns. Pointers to modules that were unmapped before this call may be gone.
 * Returns 1 when something changed, 0 when not, or -errno: what was known before still stands; call it again later.
 */
int modules_refresh(struct modules *modules);

/** The module that has @pc, or else the last that had; NULL when there is none. */
const struct module *modules_find(const struct modules *modules, uintptr_t pc);

/** The module of @id; NULL when it was never given, or forgotten. */
const struct module *modules_get(const struct modules *modules, uint32_t id);

/** The highest id given so far: ids are 1 to this. */
uint32_t modules_count(const struct modules *modules);

/** Memory of modules and unwind rows, retired tables not yet freed included. */
size_t modules_memory_bytes(const struct modules *modules);

const struct modules_stats *modules_stats(const struct modules *modules);

#endif
