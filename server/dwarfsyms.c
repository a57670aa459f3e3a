/* SPDX-License-Identifier: MIT
 *
 * What DWARF says about an address. libdw parses entries; which of them to look at is decided here, because its own
 * search (dwarf_getscopes) walks a whole unit for every address, and because it follows links that a file contains to
 * other files: split units and supplementary files are opened here with care, or not at all.
 * Context: server, one thread at a time.
 */
#include "server/dwarfsyms.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwelf.h>
#include <errno.h>
#include <gelf.h>
#include <limits.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct range {
	uint64_t low, high; /* [low, high) */
	Dwarf_Off entry;    /* the unit's or function's entry */
};

struct ranges {
	struct range *list; /* sorted by low once complete */
	size_t count, capacity;
};

struct unit {
	Dwarf_Off entry;
	struct ranges functions;
};

struct dwarfsyms {
	Dwarf *dwarf, *supplement;
	struct elfsyms_file supplement_file;
	uint64_t bytes, refused;
	uint64_t deadline_ns; /* of this thread's CPU time; past it the file counts as broken */
	bool broken;
	struct ranges units;
	struct unit *indexed; /* units whose functions are known, sorted by entry */
	size_t indexed_count, indexed_capacity;
};

/* Where to go when libdw has no memory: it would end the process otherwise. Set while we are inside libdw. */
static _Thread_local jmp_buf *way_out;

__attribute__((noreturn)) static void out_of_memory(void)
{
	longjmp(*way_out, 1);
}

static uint64_t cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Tables that refer to one another can make a small file cost hours. One that took too long is not asked again. */
static bool out_of_time(struct dwarfsyms *d)
{
	if (!d->broken && cpu_ns() > d->deadline_ns) {
		d->broken = true;
		d->refused++;
	}
	return d->broken;
}

/* ---- Ranges ---- */

static int ranges_add(struct dwarfsyms *d, struct ranges *ranges, const struct range *range)
{
	if (ranges->count >= DWARFSYMS_RANGES_MAX) {
		d->refused++;
		return 0;
	}
	if (ranges->count == ranges->capacity) {
		size_t wanted = ranges->capacity ? ranges->capacity * 2 : 64;
		struct range *bigger = reallocarray(ranges->list, wanted, sizeof(*ranges->list));

		if (!bigger)
			return -ENOMEM;
		ranges->list = bigger;
		ranges->capacity = wanted;
	}
	ranges->list[ranges->count++] = *range;
	return 0;
}

/* Add every range of @die. Entries without any, or left at 0 by the linker, add none. */
static int ranges_add_die(struct dwarfsyms *d, struct ranges *ranges, Dwarf_Die *die)
{
	struct range range = { .entry = dwarf_dieoffset(die) };
	Dwarf_Addr base;
	ptrdiff_t at = 0;

	for (size_t n = 0; n < DWARFSYMS_RANGES_MAX; n++) {
		int err = 0;

		at = dwarf_ranges(die, at, &base, &range.low, &range.high);
		if (at <= 0)
			return 0;
		if (range.low != 0 && range.low < range.high)
			err = ranges_add(d, ranges, &range);
		if (err)
			return err;
	}
	d->refused++;
	return 0;
}

static int compare_ranges(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	if (x->low != y->low)
		return x->low < y->low ? -1 : 1;
	return (x->high < y->high) - (x->high > y->high);
}

static void ranges_sort(struct ranges *ranges)
{
	if (ranges->count)
		qsort(ranges->list, ranges->count, sizeof(*ranges->list), compare_ranges);
}

/* The innermost range around @address; looks past a few that lie inside a larger one. */
static const struct range *ranges_find(const struct ranges *ranges, uint64_t address)
{
	enum {
		LOOK_BACK = 16
	};
	size_t low = 0, high = ranges->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (ranges->list[middle].low <= address)
			low = middle + 1;
		else
			high = middle;
	}
	for (size_t i = low; i > 0 && low - i < LOOK_BACK; i--)
		if (address < ranges->list[i - 1].high)
			return &ranges->list[i - 1];
	return NULL;
}

/* ---- Opening ---- */

/* The bytes of all debug sections, as large as they will be in memory. 0 when there is no .debug_info. */
static uint64_t debug_bytes(const struct elfsyms_file *file)
{
	Elf_Scn *section = NULL;
	uint64_t sum = 0;
	bool info = false;
	size_t names;

	if (elf_getshdrstrndx(file->elf, &names))
		return 0;
	while ((section = elf_nextscn(file->elf, section))) {
		GElf_Shdr header;
		GElf_Chdr compressed;
		const char *name;

		if (!gelf_getshdr(section, &header) || header.sh_type == SHT_NOBITS)
			continue;
		name = elf_strptr(file->elf, names, header.sh_name);
		if (!name || (strncmp(name, ".debug_", 7) && strncmp(name, ".zdebug_", 8)))
			continue;
		if (name[1] ==
		    'z') /* the old way of compressing says its size inside; assume much */
			header.sh_size =
				header.sh_size > UINT32_MAX ? header.sh_size : header.sh_size * 16;
		else if (header.sh_flags & SHF_COMPRESSED && gelf_getchdr(section, &compressed))
			header.sh_size = compressed.ch_size;
		info |= strcmp(name, ".debug_info") == 0 || strcmp(name, ".zdebug_info") == 0;
		if (__builtin_add_overflow(sum, header.sh_size, &sum))
			return UINT64_MAX;
	}
	return info ? sum : 0;
}

/*
 * libdw believes that every string ends inside its section. Where the last one does not, it would read on behind. (What
 * was compressed is not any more, after dwarf_begin_elf().)
 */
static bool strings_end(const struct elfsyms_file *file)
{
	static const char *const names[] = { ".debug_str", ".debug_line_str", ".zdebug_str",
					     ".zdebug_line_str" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		Elf_Scn *section = elfsyms_section(file, names[i]);
		Elf_Data *data = section ? elf_rawdata(section, NULL) : NULL;

		if (section && (!data || !data->d_buf || !data->d_size ||
				((const char *)data->d_buf)[data->d_size - 1] != '\0'))
			return false;
	}
	return true;
}

/*
 * Debian's debug files keep what several have in common in one more file. Without it half the names are missing, and
 * libdw would go and open whatever path it finds in the link: then the file counts as without DWARF.
 */
static int open_supplement(struct dwarfsyms *d, const char *path)
{
	const char *link = NULL, *slash = path ? strrchr(path, '/') : NULL;
	char full[PATH_MAX], id[2 * ELFSYMS_BUILD_ID_MAX + 1] = "";
	const void *build_id = NULL;
	ssize_t length = dwelf_dwarf_gnu_debugaltlink(d->dwarf, &link, &build_id);
	int written, err;

	if (length == 0)
		return 0;
	if (length < 0 || length > ELFSYMS_BUILD_ID_MAX)
		return -EINVAL;
	for (ssize_t i = 0; i < length; i++)
		snprintf(id + 2 * i, 3, "%02x", ((const unsigned char *)build_id)[i]);
	written = snprintf(full, sizeof(full), "%.*s%s",
			   *link == '/' || !slash ? 0 : (int)(slash - path + 1), path, link);
	if (written < 0 || written >= (int)sizeof(full))
		return -ENAMETOOLONG;
	err = elfsyms_open(&d->supplement_file, full);
	if (err)
		return err;
	if (strcmp(d->supplement_file.build_id, id) != 0 ||
	    debug_bytes(&d->supplement_file) > DWARFSYMS_SECTIONS_MAX_BYTES)
		return -ENOENT;
	d->supplement = dwarf_begin_elf(d->supplement_file.elf, DWARF_C_READ, NULL);
	if (!d->supplement || !strings_end(&d->supplement_file))
		return -EINVAL;
	dwarf_new_oom_handler(d->supplement, out_of_memory);
	dwarf_setalt(d->dwarf, d->supplement);
	return 0;
}

static int read_units(struct dwarfsyms *d)
{
	Dwarf_Off at = 0, next;
	size_t header;

	for (size_t n = 0; n < DWARFSYMS_RANGES_MAX; n++, at = next) {
		Dwarf_Die die;
		int err = 0;

		if (dwarf_next_unit(d->dwarf, at, &next, &header, NULL, NULL, NULL, NULL, NULL,
				    NULL) != 0 ||
		    next <= at)
			break;
		if (out_of_time(d))
			return -ETIME;
		/* A split unit's skeleton has lines but no functions. */
		if (dwarf_offdie(d->dwarf, at + header, &die) &&
		    (dwarf_tag(&die) == DW_TAG_compile_unit ||
		     dwarf_tag(&die) == DW_TAG_skeleton_unit))
			err = ranges_add_die(d, &d->units, &die);
		if (err)
			return err;
	}
	ranges_sort(&d->units);
	return 0;
}

static int read_file(struct dwarfsyms *d, const struct elfsyms_file *file)
{
	jmp_buf here;
	int err;

	d->dwarf = dwarf_begin_elf(file->elf, DWARF_C_READ, NULL);
	if (!d->dwarf || !strings_end(file))
		return -EINVAL;
	dwarf_new_oom_handler(d->dwarf, out_of_memory);
	way_out = &here;
	if (setjmp(here)) {
		err = -ENOMEM;
	} else {
		err = open_supplement(d, file->path);
		if (!err)
			err = read_units(d);
	}
	way_out = NULL;
	return err;
}

int dwarfsyms_open(struct dwarfsyms **out, const struct elfsyms_file *file)
{
	uint64_t bytes = file->elf ? debug_bytes(file) : 0;
	struct dwarfsyms *d;
	int err;

	*out = NULL;
	if (bytes == 0)
		return -ENOENT;
	if (bytes > DWARFSYMS_SECTIONS_MAX_BYTES)
		return -EFBIG;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->supplement_file.fd = -1;
	d->bytes = bytes;
	d->deadline_ns = cpu_ns() + DWARFSYMS_OPEN_MAX_NS;
	err = read_file(d, file);
	if (err)
		dwarfsyms_close(d);
	else
		*out = d;
	return err;
}

void dwarfsyms_close(struct dwarfsyms *d)
{
	if (!d)
		return;
	for (size_t i = 0; i < d->indexed_count; i++)
		free(d->indexed[i].functions.list);
	free(d->indexed);
	free(d->units.list);
	if (d->dwarf)
		dwarf_end(d->dwarf);
	if (d->supplement)
		dwarf_end(d->supplement);
	elfsyms_close(&d->supplement_file);
	free(d);
}

uint64_t dwarfsyms_bytes(const struct dwarfsyms *d)
{
	return d->bytes;
}

uint64_t dwarfsyms_refused(const struct dwarfsyms *d)
{
	return d->refused;
}

/* ---- Functions of a unit ---- */

static bool may_hold_functions(int tag)
{
	switch (tag) {
	case DW_TAG_namespace:
	case DW_TAG_module:
	case DW_TAG_structure_type:
	case DW_TAG_class_type:
	case DW_TAG_union_type:
	case DW_TAG_enumeration_type: /* Rust's have methods */
		return true;
	default:
		return false;
	}
}

/* A walk over entries: an explicit stack, and a budget that ends any walk a hostile file leads in circles. */
struct walk {
	Dwarf_Die stack[DWARFSYMS_NESTING_MAX]; /* [depth] is the current entry */
	size_t depth;
	size_t budget;
	struct dwarfsyms *d;
};

/* Go to the current entry's first child, when @down and there is one, else to what follows it. False at the end. */
static bool walk_on(struct walk *walk, bool down)
{
	if (walk->budget == 0 || (walk->budget % 64 == 0 && out_of_time(walk->d)))
		return false;
	walk->budget--;
	if (down && walk->depth + 1 < DWARFSYMS_NESTING_MAX &&
	    dwarf_child(&walk->stack[walk->depth], &walk->stack[walk->depth + 1]) == 0) {
		walk->depth++;
		return true;
	}
	for (; walk->depth > 0; walk->depth--)
		if (dwarf_siblingof(&walk->stack[walk->depth], &walk->stack[walk->depth]) == 0)
			return true;
	return false;
}

static int read_functions(struct dwarfsyms *d, Dwarf_Die *unit, struct ranges *functions)
{
	struct walk walk = { .stack[0] = *unit, .budget = DWARFSYMS_ENTRIES_MAX, .d = d };
	bool down = true;
	int err = 0;

	while (!err && walk_on(&walk, down)) {
		Dwarf_Die *die = &walk.stack[walk.depth];
		int tag = dwarf_tag(die);

		down = may_hold_functions(tag);
		if (tag == DW_TAG_subprogram)
			err = ranges_add_die(d, functions, die);
	}
	d->refused += walk.budget == 0;
	ranges_sort(functions);
	return err;
}

/* The functions of the unit at @entry, read on first use; NULL when out of memory. */
static const struct ranges *functions_of(struct dwarfsyms *d, Dwarf_Off entry, Dwarf_Die *unit)
{
	struct unit fresh = { .entry = entry };
	size_t low = 0, high = d->indexed_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (d->indexed[middle].entry == entry)
			return &d->indexed[middle].functions;
		if (d->indexed[middle].entry < entry)
			low = middle + 1;
		else
			high = middle;
	}
	if (d->indexed_count == d->indexed_capacity) {
		size_t wanted = d->indexed_capacity ? d->indexed_capacity * 2 : 16;
		struct unit *bigger = reallocarray(d->indexed, wanted, sizeof(*d->indexed));

		if (!bigger)
			return NULL;
		d->indexed = bigger;
		d->indexed_capacity = wanted;
	}
	if (read_functions(d, unit, &fresh.functions)) {
		free(fresh.functions.list);
		return NULL;
	}
	memmove(&d->indexed[low + 1], &d->indexed[low],
		(d->indexed_count - low) * sizeof(*d->indexed));
	d->indexed[low] = fresh;
	d->indexed_count++;
	return &d->indexed[low].functions;
}

/* ---- One address ---- */

/* Append to @chain, outermost first, the calls inlined into @function around @address. Returns the chain's new length. */
static size_t inlined_calls(struct dwarfsyms *d, Dwarf_Die *function, uint64_t address,
			    Dwarf_Die *chain, size_t count, size_t max)
{
	struct walk walk = { .stack[0] = *function, .budget = DWARFSYMS_ENTRIES_MAX, .d = d };
	bool down = true;

	while (count < max && walk_on(&walk, down)) {
		Dwarf_Die *die = &walk.stack[walk.depth];
		int tag = dwarf_tag(die), inside;

		down = false;
		if (tag != DW_TAG_inlined_subroutine && tag != DW_TAG_lexical_block)
			continue;
		inside = dwarf_haspc(die, address);
		if (tag == DW_TAG_inlined_subroutine && inside > 0) {
			chain[count++] = *die;
			walk.stack[0] = *die; /* nothing beside it can hold the address */
			walk.depth = 0;
			down = true;
		} else {
			/* Blocks without addresses of their own occur. */
			down = tag == DW_TAG_lexical_block &&
			       (inside > 0 || (!dwarf_hasattr(die, DW_AT_ranges) &&
					       !dwarf_hasattr(die, DW_AT_low_pc)));
		}
	}
	d->refused += walk.budget == 0 || count == max;
	return count;
}

static const char *name_of(Dwarf_Die *die)
{
	Dwarf_Attribute attribute;
	const char *name = NULL;

	if (dwarf_attr_integrate(die, DW_AT_linkage_name, &attribute) ||
	    dwarf_attr_integrate(die, DW_AT_MIPS_linkage_name, &attribute))
		name = dwarf_formstring(&attribute);
	if (!name)
		name = dwarf_diename(die);
	return name && *name ? name : NULL;
}

static uint32_t line_number(uint64_t line)
{
	return line <= INT32_MAX ? (uint32_t)line : 0;
}

/* Where @call, an inlined call, was made from. */
static void call_place(Dwarf_Die *unit, Dwarf_Die *call, struct dwarfsyms_frame *frame)
{
	Dwarf_Attribute attribute;
	Dwarf_Word value;
	Dwarf_Files *files;
	size_t count;

	if (dwarf_attr(call, DW_AT_call_line, &attribute) &&
	    dwarf_formudata(&attribute, &value) == 0)
		frame->line = line_number(value);
	if (dwarf_attr(call, DW_AT_call_file, &attribute) &&
	    dwarf_formudata(&attribute, &value) == 0 &&
	    dwarf_getsrcfiles(unit, &files, &count) == 0 && value < count)
		frame->file = dwarf_filesrc(files, value, NULL, NULL);
}

static void line_place(Dwarf_Die *unit, uint64_t address, struct dwarfsyms_frame *frame)
{
	Dwarf_Line *line = dwarf_getsrc_die(unit, address);
	int number;

	if (!line)
		return;
	frame->file = dwarf_linesrc(line, NULL, NULL);
	if (dwarf_lineno(line, &number) == 0 && number > 0)
		frame->line = (uint32_t)number;
}

static size_t find(struct dwarfsyms *d, uint64_t address, struct dwarfsyms_frame *frames,
		   size_t max)
{
	const struct range *unit_range = ranges_find(&d->units, address), *function_range = NULL;
	Dwarf_Die unit,
		chain[DWARFSYMS_INLINED_MAX]; /* the function and the calls, outermost first */
	const struct ranges *functions;
	size_t count = 0;

	if (!unit_range || !dwarf_offdie(d->dwarf, unit_range->entry, &unit))
		return 0;
	functions = functions_of(d, unit_range->entry, &unit);
	if (functions)
		function_range = ranges_find(functions, address);
	if (max > DWARFSYMS_INLINED_MAX)
		max = DWARFSYMS_INLINED_MAX;
	if (function_range && dwarf_offdie(d->dwarf, function_range->entry, &chain[0]))
		count = inlined_calls(d, &chain[0], address, chain, 1, max);
	memset(frames, 0, (count ? count : 1) * sizeof(*frames));
	for (size_t i = 0; i < count; i++) {
		struct dwarfsyms_frame *frame = &frames[count - 1 - i];

		frame->name = name_of(&chain[i]);
		frame->inlined = i > 0;
		if (i + 1 < count)
			call_place(&unit, &chain[i + 1], frame);
	}
	line_place(&unit, address, &frames[0]);
	if (count == 0 && frames[0].file)
		count = 1;
	return count;
}

size_t dwarfsyms_find(struct dwarfsyms *d, uint64_t address, struct dwarfsyms_frame *frames,
		      size_t max)
{
	size_t count = 0;
	jmp_buf here;

	if (d->broken)
		return 0;
	d->deadline_ns = cpu_ns() + DWARFSYMS_FIND_MAX_NS;
	way_out = &here;
	if (setjmp(here)) {
		d->broken = true; /* what libdw left half done is not to be touched again */
		d->refused++;
		way_out = NULL;
		return 0;
	}
	count = find(d, address, frames, max);
	way_out = NULL;
	return count;
}
