/* SPDX-License-Identifier: MIT
 *
 * One ELF file and its functions. libelf reads sections with pread as they are asked for; it trusts the section count of
 * the header enough to allocate for it, so the header is checked here first. Context: server, one thread at a time.
 */
#include "server/elfsyms.h"

#include <elfutils/libdwelf.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Opening ---- */

/* Section headers lie inside the @bytes of the file whose head is @head, and are of the size their class has. */
static bool header_is_sane(const unsigned char *head, uint64_t bytes)
{
	bool wide = head[EI_CLASS] == ELFCLASS64;
	uint64_t offset, count, entry;

	if (memcmp(head, ELFMAG, SELFMAG) != 0 || head[EI_DATA] != ELFDATA2LSB)
		return false; /* big-endian agents do not exist */
	if (wide) {
		Elf64_Ehdr h;

		memcpy(&h, head, sizeof(h));
		offset = h.e_shoff;
		count = h.e_shnum;
		entry = h.e_shentsize;
		if (h.e_type != ET_EXEC && h.e_type != ET_DYN)
			return false;
	} else {
		Elf32_Ehdr h;

		memcpy(&h, head, sizeof(h));
		offset = h.e_shoff;
		count = h.e_shnum;
		entry = h.e_shentsize;
		if (head[EI_CLASS] != ELFCLASS32 || (h.e_type != ET_EXEC && h.e_type != ET_DYN))
			return false;
	}
	if (offset == 0)
		return count == 0; /* no sections: a core of a program, PT_NOTE only */
	/* count 0 would mean 65280 sections or more, told elsewhere: no real program has them */
	return count > 0 && entry == (wide ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr)) &&
	       offset < bytes && count * entry <= bytes - offset;
}

static void read_build_id(struct elfsyms_file *file)
{
	static const char digits[] = "0123456789abcdef";
	const void *id = NULL;
	ssize_t length = dwelf_elf_gnu_build_id(file->elf, &id);

	if (length <= 0 || length > ELFSYMS_BUILD_ID_MAX)
		return;
	for (ssize_t i = 0; i < length; i++) {
		unsigned char byte = ((const unsigned char *)id)[i];

		file->build_id[2 * i] = digits[byte >> 4];
		file->build_id[2 * i + 1] = digits[byte & 15];
	}
	file->build_id[2 * length] = '\0';
}

/* The part of opening that files on disk and in memory share; closes on failure. */
static int adopt(struct elfsyms_file *file)
{
	if (!file->elf || elf_kind(file->elf) != ELF_K_ELF) {
		elfsyms_close(file);
		return -ENOEXEC;
	}
	read_build_id(file);
	return 0;
}

int elfsyms_open(struct elfsyms_file *file, const char *path)
{
	unsigned char head[sizeof(Elf64_Ehdr)] = { 0 };
	struct stat st;

	*file = (struct elfsyms_file){ .fd = -1 };
	if (elf_version(EV_CURRENT) == EV_NONE)
		return -ENOEXEC;
	/* Look before opening: only to open some devices changes them. */
	if (stat(path, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -ENOEXEC;
	file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (file->fd < 0)
		return -errno;
	if (fstat(file->fd, &st) || !S_ISREG(st.st_mode) ||
	    pread(file->fd, head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
	    !header_is_sane(head, (uint64_t)st.st_size)) {
		elfsyms_close(file);
		return -ENOEXEC;
	}
	file->bytes = (uint64_t)st.st_size;
	file->path = strdup(path);
	if (!file->path) {
		elfsyms_close(file);
		return -ENOMEM;
	}
	if (file->bytes > ELFSYMS_FILE_MAX_BYTES) {
		elfsyms_close(file);
		return -EFBIG;
	}
	file->elf = elf_begin(file->fd, ELF_C_READ, NULL);
	return adopt(file);
}

int elfsyms_open_memory(struct elfsyms_file *file, const void *image, size_t size)
{
	*file = (struct elfsyms_file){ .fd = -1 };
	if (elf_version(EV_CURRENT) == EV_NONE || size < sizeof(Elf64_Ehdr) ||
	    !header_is_sane(image, size))
		return -ENOEXEC;
	file->image = malloc(size);
	if (!file->image)
		return -ENOMEM;
	memcpy(file->image, image, size);
	file->bytes = size;
	file->elf = elf_memory(file->image, size);
	return adopt(file);
}

void elfsyms_close(struct elfsyms_file *file)
{
	if (file->elf)
		elf_end(file->elf);
	if (file->fd >= 0)
		close(file->fd);
	free(file->path);
	free(file->image);
	*file = (struct elfsyms_file){ .fd = -1 };
}

Elf_Scn *elfsyms_section(const struct elfsyms_file *file, const char *name)
{
	Elf_Scn *section = NULL;
	size_t names;

	if (!file->elf || elf_getshdrstrndx(file->elf, &names))
		return NULL;
	while ((section = elf_nextscn(file->elf, section))) {
		GElf_Shdr header;
		const char *its;

		if (!gelf_getshdr(section, &header) || header.sh_type == SHT_NOBITS)
			continue;
		its = elf_strptr(file->elf, names, header.sh_name);
		if (its && strcmp(its, name) == 0)
			return section;
	}
	return NULL;
}

/* ---- Symbols ---- */

static int append(struct elfsyms *table, size_t *capacity, const struct elfsym *symbol)
{
	if (table->count >= ELFSYMS_SYMBOLS_MAX) {
		table->refused++;
		return 0;
	}
	if (table->count >= *capacity) {
		size_t wanted = table->count < 256 ? 512 : table->count * 2;
		struct elfsym *bigger =
			reallocarray(table->symbols, wanted, sizeof(*table->symbols));

		if (!bigger)
			return -ENOMEM;
		table->symbols = bigger;
		*capacity = wanted;
	}
	table->symbols[table->count++] = *symbol;
	return 0;
}

/* Of the names of one address people know the one that is not private to a file and has no underscores in front. */
static uint32_t rank_of(const char *name, unsigned bind)
{
	uint32_t underscores = (uint32_t)strspn(name, "_");

	if (name[0] == '_' && (name[1] == 'Z' || name[1] == 'R'))
		underscores = 0; /* mangled */
	return (bind == STB_LOCAL ? 1u << 16 : 0u) | (underscores > 255 ? 255u : underscores) << 8 |
	       (bind == STB_WEAK ? 1u : 0u);
}

static bool is_function(const GElf_Sym *symbol)
{
	unsigned type = GELF_ST_TYPE(symbol->st_info);

	return (type == STT_FUNC || type == STT_GNU_IFUNC) && symbol->st_shndx != SHN_UNDEF &&
	       symbol->st_value != 0;
}

/* The first section of @type, with its header and data; false when there is none that can be read. */
static bool section_of_type(const struct elfsyms_file *file, uint32_t type, GElf_Shdr *header,
			    Elf_Data **data)
{
	Elf_Scn *section = NULL;

	while ((section = elf_nextscn(file->elf, section)))
		if (gelf_getshdr(section, header) && header->sh_type == type) {
			*data = elf_getdata(section, NULL);
			return *data && header->sh_entsize;
		}
	return false;
}

int64_t elfsyms_load(struct elfsyms *table, const struct elfsyms_file *file, uint32_t type)
{
	size_t capacity = table->count, entries;
	int64_t added = 0;
	GElf_Shdr header;
	Elf_Data *data;

	if (!file->elf || !section_of_type(file, type, &header, &data))
		return 0;
	entries = data->d_size / header.sh_entsize;
	if (entries > INT32_MAX)
		entries = INT32_MAX;
	for (size_t i = 0; i < entries; i++) {
		struct elfsym symbol = { 0 };
		GElf_Sym sym;

		if (!gelf_getsym(data, (int)i, &sym))
			break;
		if (!is_function(&sym))
			continue;
		symbol.name = elf_strptr(file->elf, header.sh_link, sym.st_name);
		if (!symbol.name || !*symbol.name)
			continue;
		symbol.address = sym.st_value;
		symbol.size = sym.st_size;
		symbol.rank = rank_of(symbol.name, GELF_ST_BIND(sym.st_info));
		if (append(table, &capacity, &symbol))
			return -ENOMEM;
		added++;
	}
	return added;
}

static int compare(const void *a, const void *b)
{
	const struct elfsym *x = a, *y = b;

	if (x->address != y->address)
		return x->address < y->address ? -1 : 1;
	if (!x->size != !y->size)
		return x->size ? -1 : 1;
	if (x->rank != y->rank)
		return x->rank < y->rank ? -1 : 1;
	return strcmp(x->name, y->name);
}

void elfsyms_sort(struct elfsyms *table)
{
	size_t kept = 0;

	if (table->count == 0)
		return;
	qsort(table->symbols, table->count, sizeof(*table->symbols), compare);
	for (size_t i = 0; i < table->count; i++)
		if (i == 0 || table->symbols[i].address != table->symbols[kept - 1].address)
			table->symbols[kept++] = table->symbols[i];
	table->count = kept;
}

const struct elfsym *elfsyms_find(const struct elfsyms *table, uint64_t address)
{
	enum {
		LOOK_BACK = 16
	}; /* past functions that lie inside a larger one */
	size_t low = 0, high = table->count;

	while (low < high) { /* the first symbol behind the address */
		size_t middle = low + (high - low) / 2;

		if (table->symbols[middle].address <= address)
			low = middle + 1;
		else
			high = middle;
	}
	for (size_t i = low; i > 0 && low - i < LOOK_BACK; i--) {
		const struct elfsym *symbol = &table->symbols[i - 1];

		if (address - symbol->address < symbol->size)
			return symbol;
		/* Written in assembler without a size: reaches as far as the next one, within reason. */
		if (i == low && symbol->size == 0 && address - symbol->address < 4096)
			return symbol;
	}
	return NULL;
}

void elfsyms_fini(struct elfsyms *table)
{
	free(table->symbols);
	*table = (struct elfsyms){ 0 };
}

/* ---- Procedure linkage table: stub -> slot of the global offset table -> relocation -> name ---- */

struct slot {
	uint64_t address;
	const char *name;
};

struct slots {
	struct slot *list;
	size_t count, capacity;
};

static int compare_slots(const void *a, const void *b)
{
	const struct slot *x = a, *y = b;

	return (x->address > y->address) - (x->address < y->address);
}

/* Add what the relocations in @section (their header is @header) put into the global offset table. */
static int read_slots(struct slots *slots, const struct elfsyms_file *file, Elf_Scn *section,
		      const GElf_Shdr *header)
{
	Elf_Scn *symbol_section = elf_getscn(file->elf, header->sh_link);
	Elf_Data *data = elf_getdata(section, NULL), *symbols = elf_getdata(symbol_section, NULL);
	GElf_Shdr symbol_header;
	size_t count;

	if (!data || !symbols || !header->sh_entsize ||
	    !gelf_getshdr(symbol_section, &symbol_header))
		return 0;
	count = data->d_size / header->sh_entsize;
	for (size_t i = 0; i < count && i < ELFSYMS_SYMBOLS_MAX; i++) {
		GElf_Rela rela;
		GElf_Sym sym;
		const char *name;

		if (!gelf_getrela(data, (int)i, &rela) ||
		    (GELF_R_TYPE(rela.r_info) != R_X86_64_JUMP_SLOT &&
		     GELF_R_TYPE(rela.r_info) != R_X86_64_GLOB_DAT) ||
		    GELF_R_SYM(rela.r_info) > INT32_MAX ||
		    !gelf_getsym(symbols, (int)GELF_R_SYM(rela.r_info), &sym))
			continue;
		name = elf_strptr(file->elf, symbol_header.sh_link, sym.st_name);
		if (!name || !*name)
			continue;
		if (slots->count == slots->capacity) {
			size_t wanted = slots->capacity ? slots->capacity * 2 : 256;
			struct slot *bigger =
				reallocarray(slots->list, wanted, sizeof(*slots->list));

			if (!bigger)
				return -ENOMEM;
			slots->list = bigger;
			slots->capacity = wanted;
		}
		slots->list[slots->count++] =
			(struct slot){ .address = rela.r_offset, .name = name };
	}
	return 0;
}

/* Add the stubs in @section: all are `jmp *offset(%rip)`, some behind an endbr64 or with a bnd prefix. */
static int read_stubs(struct elfsyms *table, size_t *capacity, Elf_Scn *section,
		      const struct slots *slots)
{
	Elf_Data *data = elf_getdata(section, NULL);
	GElf_Shdr header;
	int err = 0;

	if (!data || !data->d_buf || !gelf_getshdr(section, &header))
		return 0;
	for (size_t at = 0; at + 8 <= data->d_size && !err; at += 8) {
		unsigned char code[16] = { 0 };
		struct slot key = { 0 }, *slot;
		size_t i = 0;
		int32_t offset;

		memcpy(code, (const char *)data->d_buf + at,
		       data->d_size - at < sizeof(code) ? data->d_size - at : sizeof(code));
		if (memcmp(code, "\xf3\x0f\x1e\xfa", 4) == 0)
			i = 4;
		if (code[i] == 0xf2)
			i++;
		if (code[i] != 0xff || code[i + 1] != 0x25)
			continue;
		memcpy(&offset, code + i + 2, sizeof(offset));
		key.address = header.sh_addr + at + i + 6 + (uint64_t)(int64_t)offset;
		slot = bsearch(&key, slots->list, slots->count, sizeof(key), compare_slots);
		if (slot) {
			struct elfsym symbol = { .address = header.sh_addr + at,
						 .size = header.sh_entsize == 8 ? 8 : 16,
						 .name = slot->name,
						 .rank = UINT32_MAX,
						 .plt = true };

			err = append(table, capacity, &symbol);
		}
	}
	return err;
}

int64_t elfsyms_load_plt(struct elfsyms *table, const struct elfsyms_file *file)
{
	static const char *const relocations[] = { ".rela.plt", ".rela.dyn" };
	static const char *const stubs[] = { ".plt", ".plt.sec", ".plt.got" };
	size_t before = table->count, capacity = before;
	struct slots slots = { 0 };
	GElf_Ehdr ehdr;
	int err = 0;

	if (!file->elf || !gelf_getehdr(file->elf, &ehdr) || ehdr.e_machine != EM_X86_64)
		return 0;
	for (size_t i = 0; i < 2 && !err; i++) {
		Elf_Scn *section = elfsyms_section(file, relocations[i]);
		GElf_Shdr header;

		if (section && gelf_getshdr(section, &header) && header.sh_type == SHT_RELA)
			err = read_slots(&slots, file, section, &header);
	}
	if (slots.count)
		qsort(slots.list, slots.count, sizeof(*slots.list), compare_slots);
	for (size_t i = 0; i < 3 && !err && slots.count; i++) {
		Elf_Scn *section = elfsyms_section(file, stubs[i]);

		if (section)
			err = read_stubs(table, &capacity, section, &slots);
	}
	free(slots.list);
	return err ? err : (int64_t)(table->count - before);
}

/* ---- Beginnings of functions ---- */

/*
 * .eh_frame_hdr: four bytes that say how things are encoded, the place of .eh_frame, the number of functions, and for each,
 * sorted, where it begins and where its unwind rules are, both relative to the section. Every linker writes this one form.
 */
int64_t elfsyms_load_starts(struct elfsyms *table, const struct elfsyms_file *file)
{
	static const unsigned char form[4] = { 1, 0x1b, 0x03, 0x3b };
	Elf_Scn *section = elfsyms_section(file, ".eh_frame_hdr");
	Elf_Data *data = section ? elf_rawdata(section, NULL) : NULL;
	size_t capacity = table->count;
	const char *bytes;
	GElf_Shdr header;
	uint32_t count;

	if (!data || !data->d_buf || data->d_size < 12 || !gelf_getshdr(section, &header) ||
	    memcmp(data->d_buf, form, sizeof(form)) != 0)
		return 0;
	bytes = data->d_buf;
	memcpy(&count, bytes + 8, sizeof(count));
	if (count > (data->d_size - 12) / 8)
		count = (uint32_t)((data->d_size - 12) / 8);
	for (uint32_t i = 0; i < count; i++) {
		struct elfsym symbol = { .name = "", .size = 4096 };
		int32_t at, next;

		memcpy(&at, bytes + 12 + (size_t)i * 8, sizeof(at));
		if (i + 1 < count) {
			memcpy(&next, bytes + 20 + (size_t)i * 8, sizeof(next));
			symbol.size = next > at ? (uint64_t)((int64_t)next - at) : 0;
		}
		symbol.address = header.sh_addr + (uint64_t)(int64_t)at;
		if (append(table, &capacity, &symbol))
			return -ENOMEM;
	}
	return count;
}
