/* SPDX-License-Identifier: MIT
 *
 * Module + address -> names. This file finds the right files on disk, keeps what was found, and decides which of two
 * names to show: the symbol table's for the function itself (it has the name callers use: "pthread_mutex_lock", where
 * DWARF says "___pthread_mutex_lock"), DWARF's for what was inlined into it.
 *
 * Answers live as long as the symbolizer: in arenas, strings once each, all under the caps of symbolize.h. Open files do
 * not: the least recently used one is closed and opened again when an address new to us needs it.
 * Context: server, any thread; everything is under one lock.
 */
#include "server/symbolize.h"

#include <elf.h>
#include <elfutils/libdwelf.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/auxv.h>
#include <unistd.h>
#include <zlib.h>

#include "server/demangle.h"
#include "server/dwarfsyms.h"
#include "server/elfsyms.h"

#define DEBUG_DIRECTORY "/usr/lib/debug"

enum {
	CHUNK_BYTES = 64 << 10,
	MODULE_SLOTS = 2 * SYMBOLIZE_MODULES_MAX,
	OPEN_TRIES_MAX = 8, /* processes through whose roots an absent module is looked for */
};

/* Memory that is freed all at once. */
struct arena {
	struct chunk {
		struct chunk *next;
		char bytes[];
	} * chunks;
	size_t left; /* in the first chunk */
};

struct module {
	char *path, *build_id; /* as asked for */
	const char *base; /* file name without directories, what a nameless address is shown in */
	struct symbol nameless;
	uint32_t index;
	enum {
		MODULE_ABSENT,
		MODULE_CLOSED,
		MODULE_OPEN
	} state;
	uint32_t tried_pid; /* when absent: the last process whose root was looked in, */
	unsigned tries;     /* and how many were */
	uint64_t used;
	/* While open. @file may be missing when the debug file alone was found. */
	struct elfsyms_file file, debug;
	struct elfsyms functions;
	struct elfsyms starts; /* of functions that may have no name */
	struct dwarfsyms *dwarf;
};

struct address {
	const struct symbol *symbols; /* NULL: free slot */
	uint64_t address;
	uint32_t module, count : 31, absent : 1; /* absent: looked up while the module was */
};

struct symbolizer {
	pthread_mutex_t lock; /* protects all below; nests in none and takes none */
	struct arena arena;
	uint64_t string_bytes;
	const char **strings; /* open addressing */
	size_t string_slots, string_count;
	struct address *addresses; /* open addressing */
	size_t address_slots, address_count;
	struct module *modules[SYMBOLIZE_MODULES_MAX];
	uint32_t module_count;
	uint32_t module_slots[MODULE_SLOTS]; /* open addressing: index + 1 */
	unsigned open_count;
	uint64_t open_bytes, clock, refused;
};

static const struct symbol no_room = { .name = "[no room]",
				       .system_name = "[no room]",
				       .file = "" };

/* ---- Memory ---- */

static void *arena_take(struct arena *arena, size_t bytes)
{
	bytes = (bytes + 7) & ~(size_t)7;
	if (!arena->chunks || arena->left < bytes) {
		size_t wanted = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
		struct chunk *chunk = malloc(sizeof(*chunk) + wanted);

		if (!chunk)
			return NULL;
		chunk->next = arena->chunks;
		arena->chunks = chunk;
		arena->left = wanted;
	}
	arena->left -= bytes;
	return arena->chunks->bytes + arena->left; /* from the end down */
}

static void arena_fini(struct arena *arena)
{
	while (arena->chunks) {
		struct chunk *chunk = arena->chunks;

		arena->chunks = chunk->next;
		free(chunk);
	}
}

static uint64_t hash_string(const char *s)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3u;
	return h ^ h >> 32;
}

static uint64_t hash_address(uint32_t module, uint64_t address)
{
	uint64_t h = (address ^ (uint64_t)module << 44) * 0x9e3779b97f4a7c15u;

	return h ^ h >> 32;
}

static int strings_grow(struct symbolizer *s)
{
	size_t slots = s->string_slots ? s->string_slots * 2 : 1024;
	const char **bigger = calloc(slots, sizeof(*bigger));

	if (!bigger)
		return -ENOMEM;
	for (size_t i = 0; i < s->string_slots; i++)
		if (s->strings[i]) {
			size_t at = hash_string(s->strings[i]) & (slots - 1);

			while (bigger[at])
				at = (at + 1) & (slots - 1);
			bigger[at] = s->strings[i];
		}
	free(s->strings);
	s->strings = bigger;
	s->string_slots = slots;
	return 0;
}

/* The one kept copy of @string; "" for NULL; @otherwise when there is no room. */
static const char *intern(struct symbolizer *s, const char *string, const char *otherwise)
{
	size_t at, bytes;
	char *copy;

	if (!string || !*string)
		return "";
	if (s->string_count >= s->string_slots / 2 && strings_grow(s))
		return otherwise;
	for (at = hash_string(string) & (s->string_slots - 1); s->strings[at];
	     at = (at + 1) & (s->string_slots - 1))
		if (strcmp(s->strings[at], string) == 0)
			return s->strings[at];
	bytes = strlen(string) + 1;
	copy = NULL;
	if (s->string_bytes + bytes <= SYMBOLIZE_STRINGS_MAX_BYTES)
		copy = arena_take(&s->arena, bytes);
	if (!copy) {
		s->refused++;
		return otherwise;
	}
	s->string_bytes += bytes;
	s->string_count++;
	s->strings[at] = memcpy(copy, string, bytes);
	return copy;
}

/* The slot of (@module, @address): used, or free for it. NULL when there is no room. */
static struct address *address_slot(struct symbolizer *s, uint32_t module, uint64_t address)
{
	size_t at;

	if (s->address_count >= s->address_slots / 2) {
		size_t slots = s->address_slots ? s->address_slots * 2 : 1024;
		struct address *bigger = calloc(slots, sizeof(*bigger));

		if (!bigger)
			return NULL;
		for (size_t i = 0; i < s->address_slots; i++) {
			const struct address *old = &s->addresses[i];

			if (!old->symbols)
				continue;
			at = hash_address(old->module, old->address) & (slots - 1);
			while (bigger[at].symbols)
				at = (at + 1) & (slots - 1);
			bigger[at] = *old;
		}
		free(s->addresses);
		s->addresses = bigger;
		s->address_slots = slots;
	}
	at = hash_address(module, address) & (s->address_slots - 1);
	while (s->addresses[at].symbols &&
	       (s->addresses[at].module != module || s->addresses[at].address != address))
		at = (at + 1) & (s->address_slots - 1);
	return &s->addresses[at];
}

/* ---- Modules: finding and opening the files ---- */

/* Our own vDSO: the same as every process's under this kernel, and the build-id tells when not. */
static int open_vdso(struct elfsyms_file *file)
{
	union {
		unsigned long number;
		const void *image;
	} vdso = { .number = getauxval(AT_SYSINFO_EHDR) };
	Elf64_Ehdr header;
	size_t end;

	if (!vdso.image || sizeof(void *) != 8)
		return -ENOENT;
	memcpy(&header, vdso.image, sizeof(header));
	end = header.e_shoff +
	      (size_t)header.e_shnum * header.e_shentsize; /* the last thing in it */
	return end < (1 << 20) ? elfsyms_open_memory(file, vdso.image, end) : -ENOEXEC;
}

static bool build_id_matches(const struct elfsyms_file *file, const char *build_id)
{
	return !*build_id || strcasecmp(file->build_id, build_id) == 0;
}

/* Open @root/@path when its build-id is @build_id ("": any). */
static int open_matching(struct elfsyms_file *file, const char *root, const char *path,
			 const char *build_id)
{
	char full[PATH_MAX];
	int length = snprintf(full, sizeof(full), "%s%s", root, path), err;

	if (length < 0 || length >= (int)sizeof(full))
		return -ENAMETOOLONG;
	err = elfsyms_open(file, full);
	if (!err && !build_id_matches(file, build_id)) {
		elfsyms_close(file);
		err = -ESTALE;
	}
	return err;
}

/* The checksum that a debug link carries, of the whole file. */
static bool crc_matches(const struct elfsyms_file *file, uint32_t wanted)
{
	unsigned char *buffer = malloc(CHUNK_BYTES);
	unsigned long crc = crc32(0, NULL, 0);
	off_t at = 0;
	ssize_t got = 0;

	if (!buffer)
		return false;
	while ((got = pread(file->fd, buffer, CHUNK_BYTES, at)) > 0) {
		crc = crc32(crc, buffer, (uInt)got);
		at += got;
	}
	free(buffer);
	return got == 0 && crc == wanted;
}

/* Follow the .gnu_debuglink of @m's file at @path below @root. */
static int open_debuglink(struct module *m, const char *root, const char *path)
{
	const char *slash = strrchr(path, '/');
	int directory = slash ? (int)(slash - path) : 0;
	const char *name;
	GElf_Word crc;

	name = m->file.elf ? dwelf_elf_gnu_debuglink(m->file.elf, &crc) : NULL;
	if (!name || !*name || strchr(name, '/'))
		return -ENOENT;
	for (int i = 0; i < 3; i++) {
		static const char *const before[] = { "", "", DEBUG_DIRECTORY };
		static const char *const between[] = { "/", "/.debug/", "/" };
		char full[PATH_MAX];
		int length = snprintf(full, sizeof(full), "%s%.*s%s%s", before[i], directory, path,
				      between[i], name);

		if (length < 0 || length >= (int)sizeof(full) || strcmp(full, path) == 0)
			continue;
		if (open_matching(&m->debug, root, full, m->file.build_id))
			continue;
		if (*m->file.build_id || crc_matches(&m->debug, crc))
			return 0;
		elfsyms_close(&m->debug);
	}
	return -ENOENT;
}

/* Find the separate file with @m's debug information. */
static int open_debug(struct module *m, const char *root, const char *path)
{
	const char *id = *m->build_id ? m->build_id : m->file.build_id;
	char by_id[sizeof(DEBUG_DIRECTORY) + 2 * ELFSYMS_BUILD_ID_MAX + 32];

	/* The build-id comes from the network: it must not lead out of the directory. */
	if (strlen(id) > 2 && strlen(id) <= 2 * ELFSYMS_BUILD_ID_MAX &&
	    strspn(id, "0123456789abcdef") == strlen(id)) {
		snprintf(by_id, sizeof(by_id), DEBUG_DIRECTORY "/.build-id/%.2s/%s.debug", id,
			 id + 2);
		if (open_matching(&m->debug, root, by_id, id) == 0)
			return 0;
	}
	return open_debuglink(m, root, path);
}

static bool has_dwarf(const struct elfsyms_file *file)
{
	return elfsyms_section(file, ".debug_info") || elfsyms_section(file, ".zdebug_info");
}

/* Close what is open of @m, whatever its state says. */
static void close_files(struct module *m)
{
	dwarfsyms_close(m->dwarf);
	m->dwarf = NULL;
	elfsyms_fini(&m->functions);
	elfsyms_fini(&m->starts);
	elfsyms_close(&m->file);
	elfsyms_close(&m->debug);
}

/* Read the tables of the files that were found. */
static int load(struct module *m)
{
	const struct elfsyms_file *with_dwarf = has_dwarf(&m->file) ? &m->file : &m->debug;
	int64_t count = elfsyms_load(&m->functions, &m->file, SHT_SYMTAB);

	if (count == 0)
		count = elfsyms_load(&m->functions, &m->debug, SHT_SYMTAB);
	if (count == 0)
		count = elfsyms_load(&m->functions, &m->file, SHT_DYNSYM);
	if (count >= 0)
		count = elfsyms_load_plt(&m->functions, &m->file);
	if (count < 0)
		return -ENOMEM;
	elfsyms_sort(&m->functions);
	if (elfsyms_load_starts(&m->starts, &m->file) < 0)
		return -ENOMEM;
	elfsyms_sort(&m->starts);
	return dwarfsyms_open(&m->dwarf, with_dwarf) == -ENOMEM ? -ENOMEM : 0;
}

/* Look for @m below @root ("" or a process's): true when something was found. */
static bool open_below(struct module *m, const char *root, const char *path)
{
	if (strcmp(path, "[vdso]") == 0) {
		if (open_vdso(&m->file) == 0 && !build_id_matches(&m->file, m->build_id))
			elfsyms_close(&m->file);
	} else if (*path == '/') {
		open_matching(&m->file, root, path, m->build_id);
		if (!has_dwarf(&m->file) || !elfsyms_section(&m->file, ".symtab"))
			open_debug(m, root, path);
	}
	if (!m->file.elf && !m->debug.elf)
		return false;
	if (load(m) == 0)
		return true;
	close_files(m);
	return false;
}

static void module_close(struct symbolizer *s, struct module *m)
{
	if (m->state != MODULE_OPEN)
		return;
	s->refused += m->functions.refused + m->starts.refused;
	if (m->dwarf) {
		s->refused += dwarfsyms_refused(m->dwarf);
		s->open_bytes -= dwarfsyms_bytes(m->dwarf);
	}
	close_files(m);
	s->open_count--;
	m->state = MODULE_CLOSED;
}

static void module_destroy(struct symbolizer *s, struct module *m)
{
	if (!m)
		return;
	module_close(s, m);
	free(m->path);
	free(m->build_id);
	free(m);
}

/* Close the modules that were not used for longest, until @keep fits under the caps. */
static void close_others(struct symbolizer *s, const struct module *keep)
{
	while (s->open_count > 1 &&
	       (s->open_count > SYMBOLIZE_OPEN_MAX || s->open_bytes > SYMBOLIZE_OPEN_MAX_BYTES)) {
		struct module *oldest = NULL;

		for (uint32_t i = 0; i < s->module_count; i++) {
			struct module *m = s->modules[i];

			if (m != keep && m->state == MODULE_OPEN &&
			    (!oldest || m->used < oldest->used))
				oldest = m;
		}
		if (!oldest)
			return;
		module_close(s, oldest);
	}
}

/* Open @m if it is not; @pid says through whose eyes to look as well. */
static bool module_open(struct symbolizer *s, struct module *m, uint32_t pid)
{
	static const char deleted[] = " (deleted)";
	char path[PATH_MAX], root[32];
	size_t length = strlen(m->path);

	m->used = ++s->clock;
	if (m->state == MODULE_OPEN)
		return true;
	if (m->state == MODULE_ABSENT &&
	    (m->tries >= OPEN_TRIES_MAX || (m->tries > 0 && m->tried_pid == pid)))
		return false;
	m->tries++;
	m->tried_pid = pid;
	if (length >= sizeof(path))
		return false;
	memcpy(path, m->path, length + 1);
	/* The file of this name may be a new one: only a build-id can tell. */
	if (*m->build_id && length > sizeof(deleted) &&
	    strcmp(path + length - (sizeof(deleted) - 1), deleted) == 0)
		path[length - (sizeof(deleted) - 1)] = '\0';
	snprintf(root, sizeof(root), "/proc/%u/root", pid);
	m->state = MODULE_ABSENT;
	if (!open_below(m, "", path) && (pid == 0 || !open_below(m, root, path)))
		return false;
	m->state = MODULE_OPEN;
	s->open_count++;
	s->open_bytes += m->dwarf ? dwarfsyms_bytes(m->dwarf) : 0;
	close_others(s, m);
	return true;
}

static struct module *module_create(const char *path, const char *build_id)
{
	struct module *m = calloc(1, sizeof(*m));
	const char *slash;

	if (!m)
		return NULL;
	m->file.fd = m->debug.fd = -1;
	m->path = strdup(path);
	m->build_id = strdup(build_id);
	if (!m->path || !m->build_id) {
		free(m->path);
		free(m->build_id);
		free(m);
		return NULL;
	}
	slash = strrchr(m->path, '/');
	m->base = slash && slash[1] ? slash + 1 : *m->path ? m->path : "[unknown]";
	m->nameless = (struct symbol){ .name = m->base, .system_name = m->base, .file = "" };
	return m;
}

/* The module of that path and build-id, new ones included; NULL when there is no room. */
static struct module *module_get(struct symbolizer *s, const char *path, const char *build_id)
{
	uint64_t hash = hash_string(path) ^ hash_string(build_id) * 3;
	size_t at = hash % MODULE_SLOTS;
	struct module *m;

	for (; s->module_slots[at]; at = (at + 1) % MODULE_SLOTS) {
		m = s->modules[s->module_slots[at] - 1];
		if (strcmp(m->path, path) == 0 && strcmp(m->build_id, build_id) == 0)
			return m;
	}
	if (s->module_count == SYMBOLIZE_MODULES_MAX || strlen(path) >= PATH_MAX) {
		s->refused++;
		return NULL;
	}
	m = module_create(path, build_id);
	if (!m)
		return NULL;
	m->index = s->module_count;
	s->modules[s->module_count++] = m;
	s->module_slots[at] = s->module_count;
	return m;
}

/* ---- Addresses ---- */

/* Fill in the names of @symbol from the linker's @name. */
static void set_name(struct symbolizer *s, const struct module *m, struct symbol *symbol,
		     const char *name, bool plt)
{
	char text[SYMBOLIZE_NAME_MAX];

	symbol->system_name = intern(s, name, m->base);
	demangle(name, text, sizeof(text) - sizeof("@plt"));
	if (plt)
		strcat(text, "@plt");
	symbol->name = intern(s, text, m->base);
}

/* Name a function without a name after where it begins, so that all its addresses count as one; else after @address. */
static void set_number(struct symbolizer *s, const struct module *m, struct symbol *symbol,
		       uint64_t address)
{
	const struct elfsym *start = elfsyms_find(&m->starts, address);
	char text[SYMBOLIZE_NAME_MAX];

	snprintf(text, sizeof(text), "%.900s+0x%llx", m->base,
		 (unsigned long long)(start ? start->address : address));
	symbol->name = intern(s, text, m->base);
	symbol->system_name = symbol->name;
}

/* What @m's tables say about @address, innermost first; at least one entry. */
static uint32_t resolve(struct symbolizer *s, struct module *m, uint64_t address,
			struct symbol symbols[DWARFSYMS_INLINED_MAX])
{
	struct dwarfsyms_frame frames[DWARFSYMS_INLINED_MAX] = { { 0 } };
	const struct elfsym *function = NULL;
	size_t count = 0;

	if (m->state == MODULE_OPEN) {
		function = elfsyms_find(&m->functions, address);
		if (m->dwarf)
			count = dwarfsyms_find(m->dwarf, address, frames, DWARFSYMS_INLINED_MAX);
	}
	if (count == 0)
		count = 1;
	for (size_t i = 0; i < count; i++) {
		bool outermost = i == count - 1;

		symbols[i] = (struct symbol){ .file = intern(s, frames[i].file, ""),
					      .line = frames[i].line,
					      .inlined = frames[i].inlined };
		if (outermost && function)
			set_name(s, m, &symbols[i], function->name, function->plt);
		else if (frames[i].name)
			set_name(s, m, &symbols[i], frames[i].name, false);
	}
	for (size_t i = 0; i < count; i++)
		if (!symbols[i].name)
			set_number(s, m, &symbols[i], address);
	return (uint32_t)count;
}

/* Resolve @address and keep the answer in @slot. */
static int address_fill(struct symbolizer *s, struct module *m, uint64_t address,
			struct address *slot)
{
	struct symbol symbols[DWARFSYMS_INLINED_MAX], *kept;
	uint32_t count = resolve(s, m, address, symbols);

	kept = arena_take(&s->arena, count * sizeof(*kept));
	if (!kept)
		return -ENOMEM;
	memcpy(kept, symbols, count * sizeof(*kept));
	s->address_count += !slot->symbols;
	*slot = (struct address){ .symbols = kept,
				  .address = address,
				  .module = m->index,
				  .count = count & INT32_MAX,
				  .absent = m->state != MODULE_OPEN };
	return 0;
}

size_t symbolizer_lookup(struct symbolizer *s, const char *path, const char *build_id, uint32_t pid,
			 uint64_t address, const struct symbol **out)
{
	struct address *slot = NULL;
	struct module *m;
	size_t count = 1;

	*out = &no_room;
	pthread_mutex_lock(&s->lock);
	m = module_get(s, path ? path : "", build_id ? build_id : "");
	if (!m)
		goto out;
	*out = &m->nameless;
	slot = address_slot(s, m->index, address);
	if (!slot)
		goto out;
	if (!slot->symbols || slot->absent) {
		bool open = module_open(s, m, pid);

		if (!slot->symbols && s->address_count >= SYMBOLIZE_ADDRESSES_MAX) {
			s->refused++;
			goto out;
		}
		if ((!slot->symbols || open) && address_fill(s, m, address, slot) && !slot->symbols)
			goto out;
	}
	*out = slot->symbols;
	count = slot->count;
out:
	pthread_mutex_unlock(&s->lock);
	return count;
}

uint64_t symbolizer_refused(struct symbolizer *s)
{
	uint64_t refused;

	pthread_mutex_lock(&s->lock);
	refused = s->refused;
	for (uint32_t i = 0; i < s->module_count; i++) {
		const struct module *m = s->modules[i];

		refused += m->functions.refused + m->starts.refused;
		refused += m->dwarf ? dwarfsyms_refused(m->dwarf) : 0;
	}
	pthread_mutex_unlock(&s->lock);
	return refused;
}

struct symbolizer *symbolizer_create(void)
{
	struct symbolizer *s = calloc(1, sizeof(*s));

	if (s)
		pthread_mutex_init(&s->lock, NULL);
	return s;
}

void symbolizer_destroy(struct symbolizer *s)
{
	if (!s)
		return;
	for (uint32_t i = 0; i < s->module_count; i++)
		module_destroy(s, s->modules[i]);
	arena_fini(&s->arena);
	free(s->addresses);
	free(s->strings);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
