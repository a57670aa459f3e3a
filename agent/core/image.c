/* SPDX-License-Identifier: MIT
 *
 * ELF header and program headers, notes, .eh_frame_hdr, .eh_frame: read in this order, each through peek(), into memory of
 * ours. What the loader has not mapped yet where the headers say it belongs is not read: a half mapped library shows
 * other bytes there.
 *
 * Threads: the agent's own.
 */
#include "agent/core/image.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PHDRS_MAX      64
#define NOTE_BYTES_MAX 4096
#define HDR_BYTES_MAX  (8 * EHFRAME_FDES_MAX + 64)

#if defined(__x86_64__)
#  define MACHINE EM_X86_64
#elif defined(__aarch64__)
#  define MACHINE EM_AARCH64
#else
#  define MACHINE EM_NONE
#endif

struct reader {
	const struct maps_object *object;
	int fd; /* -1: read memory */
	ElfW(Phdr) phdr[PHDRS_MAX];
	unsigned n_phdrs;
};

static int peek_memory(uintptr_t address, void *to, size_t n)
{
	while (n) {
		struct iovec mine = { to, n }, there = { (void *)address, n };
		ssize_t got = process_vm_readv(getpid(), &mine, 1, &there, 1, 0);

		if (got <= 0)
			return got < 0 && errno != EFAULT ? -errno : -EAGAIN;
		to = (char *)to + got;
		address += (size_t)got;
		n -= (size_t)got;
	}
	return 0;
}

static int peek_file(int fd, uint64_t offset, void *to, size_t n)
{
	while (n) {
		ssize_t got = pread(fd, to, n, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EAGAIN;
		to = (char *)to + got;
		offset += (size_t)got;
		n -= (size_t)got;
	}
	return 0;
}

static int peek(const struct reader *r, uintptr_t address, void *to, size_t n)
{
	const struct maps_range *range = maps_range_at(r->object, address);

	if (!range || n > range->end - address)
		return -EAGAIN;
	if (r->fd >= 0 && range->anonymous)
		return -EAGAIN;
	if (r->fd >= 0)
		return peek_file(r->fd, range->offset + (address - range->start), to, n);
	if (!r->object->inode && r->object->path[0] == '[') {
		/* the vdso has no file, is never unmapped, and is not always readable for process_vm_readv */
		memcpy(to, (const void *)address, n);
		return 0;
	}
	return peek_memory(address, to, n);
}

/* Is what the headers promise at @p's place mapped there, up to now? */
static bool mapped_as_promised(const struct reader *r, const struct image *image, uintptr_t address)
{
	const struct maps_range *range = maps_range_at(r->object, address);
	uintptr_t vaddr = address - image->bias;

	for (unsigned i = 0; range && i < r->n_phdrs; i++) {
		const ElfW(Phdr) *p = &r->phdr[i];

		if (p->p_type == PT_LOAD && vaddr - p->p_vaddr < p->p_filesz)
			return range->offset + (address - range->start) ==
			       p->p_offset + (vaddr - p->p_vaddr);
	}
	return false;
}

/* How many bytes of the file's there are from @address on, in its segment. */
static size_t room_at(const struct reader *r, const struct image *image, uintptr_t address)
{
	const struct maps_range *range = maps_range_at(r->object, address);
	uintptr_t vaddr = address - image->bias;

	for (unsigned i = 0; range && i < r->n_phdrs; i++) {
		const ElfW(Phdr) *p = &r->phdr[i];

		if (p->p_type == PT_LOAD && vaddr - p->p_vaddr < p->p_filesz) {
			size_t segment = p->p_filesz - (vaddr - p->p_vaddr),
			       mapped = range->end - address;

			return segment < mapped ? segment : mapped;
		}
	}
	return 0;
}

static int read_headers(struct reader *r)
{
	uintptr_t base = r->object->range[0].start;
	ElfW(Ehdr) ehdr;
	int err = peek(r, base, &ehdr, sizeof(ehdr));

	if (err)
		return err;
	if (memcmp(ehdr.e_ident, ELFMAG, SELFMAG) || ehdr.e_ident[EI_CLASS] != ELFCLASS64 ||
	    ehdr.e_ident[EI_DATA] != ELFDATA2LSB || ehdr.e_machine != MACHINE ||
	    (ehdr.e_type != ET_DYN && ehdr.e_type != ET_EXEC) ||
	    ehdr.e_phentsize != sizeof(ElfW(Phdr)) || ehdr.e_phnum == 0 || ehdr.e_phnum > PHDRS_MAX)
		return -ENOEXEC;
	r->n_phdrs = ehdr.e_phnum;
	if (ehdr.e_phoff > r->object->range[0].end - base)
		return -ENOEXEC;
	return peek(r, base + ehdr.e_phoff, r->phdr, r->n_phdrs * sizeof(r->phdr[0]));
}

static int locate(const struct reader *r, struct image *image)
{
	uintptr_t base = r->object->range[0].start, page = (uintptr_t)sysconf(_SC_PAGESIZE);
	bool based = false;

	image->start = image->code_start = UINTPTR_MAX;
	for (unsigned i = 0; i < r->n_phdrs; i++) {
		const ElfW(Phdr) *p = &r->phdr[i];

		if (p->p_type == PT_LOAD && p->p_offset < page && !based) {
			image->bias = base - (p->p_vaddr - p->p_offset);
			based = true;
		}
	}
	for (unsigned i = 0; i < r->n_phdrs && based; i++) {
		const ElfW(Phdr) *p = &r->phdr[i];
		uintptr_t start = image->bias + p->p_vaddr, end = start + p->p_memsz;

		if (p->p_type != PT_LOAD)
			continue;
		if (end < start)
			return -ENOEXEC;
		image->start = start < image->start ? start & ~(page - 1) : image->start;
		image->end = end > image->end ? (end + page - 1) & ~(page - 1) : image->end;
		if (p->p_flags & PF_X) {
			image->code_start = start < image->code_start ? start : image->code_start;
			image->code_end = end > image->code_end ? end : image->code_end;
		}
	}
	return based && image->start < image->end && image->code_start < image->code_end ? 0
											 : -ENOEXEC;
}

static bool note_find_build_id(const uint8_t *note, size_t n, struct image *image)
{
	ElfW(Nhdr) h;

	while (n >= sizeof(h)) {
		size_t name, desc;

		memcpy(&h, note, sizeof(h));
		name = ((size_t)h.n_namesz + 3) & ~(size_t)3;
		desc = ((size_t)h.n_descsz + 3) & ~(size_t)3;
		note += sizeof(h);
		n -= sizeof(h);
		if (name > n || h.n_descsz > n - name)
			return false;
		if (h.n_type == NT_GNU_BUILD_ID && h.n_namesz == 4 && !memcmp(note, "GNU", 4)) {
			image->build_id_len =
				(uint8_t)(h.n_descsz < IMAGE_BUILD_ID_MAX ? h.n_descsz
									  : IMAGE_BUILD_ID_MAX);
			memcpy(image->build_id, note + name, image->build_id_len);
			return true;
		}
		if (desc > n - name)
			return false;
		note += name + desc;
		n -= name + desc;
	}
	return false;
}

static int read_build_id(const struct reader *r, struct image *image)
{
	uint8_t note[NOTE_BYTES_MAX];

	for (unsigned i = 0; i < r->n_phdrs; i++) {
		uintptr_t at = image->bias + r->phdr[i].p_vaddr;
		size_t n = r->phdr[i].p_filesz < sizeof(note) ? r->phdr[i].p_filesz : sizeof(note);
		int err;

		if (r->phdr[i].p_type != PT_NOTE)
			continue;
		if (!mapped_as_promised(r, image, at) || n > room_at(r, image, at))
			return -EAGAIN;
		err = peek(r, at, note, n);
		if (err)
			return err;
		if (note_find_build_id(note, n, image))
			break;
	}
	return 0;
}

/* A copy of what is mapped at @address, at most @n bytes and not beyond its segment. */
static int read_bytes(const struct reader *r, const struct image *image, uintptr_t address,
		      size_t n, struct ehframe_bytes *bytes)
{
	size_t room = room_at(r, image, address);
	uint8_t *data;
	int err;

	*bytes = (struct ehframe_bytes){ NULL, 0, address };
	if (!mapped_as_promised(r, image, address))
		return -EAGAIN;
	n = n < room ? n : room;
	data = malloc(n);
	if (!data)
		return -ENOMEM;
	err = peek(r, address, data, n);
	if (err) {
		free(data);
		return err;
	}
	bytes->data = data;
	bytes->size = n;
	return 0;
}

static void free_bytes(struct ehframe_bytes *bytes)
{
	free((void *)(uintptr_t)bytes->data);
}

static int read_rows(const struct reader *r, struct image *image)
{
	struct ehframe_bytes hdr = { 0 }, frames = { 0 };
	const ElfW(Phdr) *p = NULL;
	uintptr_t address;
	int err;

	for (unsigned i = 0; i < r->n_phdrs; i++)
		if (r->phdr[i].p_type == PT_GNU_EH_FRAME)
			p = &r->phdr[i];
	if (!p)
		return 0;
	err = read_bytes(r, image, image->bias + p->p_vaddr,
			 p->p_filesz < HDR_BYTES_MAX ? p->p_filesz : HDR_BYTES_MAX, &hdr);
	if (!err && !ehframe_locate(&hdr, &address)) {
		err = read_bytes(r, image, address, EHFRAME_BYTES_MAX, &frames);
		if (!err)
			err = ehframe_digest(&hdr, &frames, image->code_start, image->code_end,
					     &image->rows);
		/* a module without rows that make sense is still a module */
		if (err == -EINVAL)
			err = 0;
	}
	free_bytes(&hdr);
	free_bytes(&frames);
	return err;
}

/* The path may lead to another file by now: a package was upgraded under the running program. */
static int open_file(const struct maps_object *object, int *fd)
{
	struct stat st;

	*fd = open(object->path, O_RDONLY | O_CLOEXEC);
	if (*fd < 0 || fstat(*fd, &st))
		return -errno;
	return st.st_ino == object->inode ? 0 : -ESTALE;
}

int image_read(const struct maps_object *object, bool from_file, struct image *image)
{
	struct reader r = { .object = object, .fd = -1 };
	int err;

	memset(image, 0, sizeof(*image));
	err = from_file && object->inode ? open_file(object, &r.fd) : 0;
	if (!err)
		err = read_headers(&r);
	if (!err)
		err = locate(&r, image);
	if (!err)
		err = read_build_id(&r, image);
	if (!err)
		err = read_rows(&r, image);
	if (err)
		image_fini(image);
	if (r.fd >= 0)
		close(r.fd);
	return err;
}

void image_fini(struct image *image)
{
	if (image)
		ehframe_fini(&image->rows);
}
