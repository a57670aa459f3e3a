/* SPDX-License-Identifier: MIT
 *
 * Line by line over /proc/self/maps, in a buffer that is refilled. Mappings come by address, so an object is a mapping
 * of offset 0 and what follows of the same file; anonymous ones right behind belong to it, too: .bss, and code that
 * the program moved to huge pages. An object without code is forgotten when the next one starts.
 *
 * Threads: the agent's own.
 */
#include "agent/core/maps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_BYTES                                                                               \
  32768 /* more than the longest line, whose path is at most 4 * PATH_MAX, escaped */

static uint64_t number(const char **p, unsigned base)
{
	uint64_t v = 0;

	for (;; (*p)++) {
		unsigned c = (unsigned char)**p, digit;

		if (c >= '0' && c <= '9')
			digit = c - '0';
		else if (c >= 'a' && c <= 'f')
			digit = c - 'a' + 10;
		else
			return v;
		if (digit >= base)
			return v;
		v = v * base + digit;
	}
}

static bool expect(const char **p, char c)
{
	if (**p != c)
		return false;
	(*p)++;
	return true;
}

struct line {
	struct maps_range range;
	uint64_t device, inode;
	const char *path;
};

/* 7f0012345000-7f0012346000 r-xp 00001000 fe:00 123456      /usr/lib/libx.so */
static bool line_parse(const char *p, struct line *l)
{
	uint64_t major;

	l->range.start = number(&p, 16);
	if (!expect(&p, '-'))
		return false;
	l->range.end = number(&p, 16);
	if (!expect(&p, ' ') || strnlen(p, 5) < 5)
		return false;
	l->range.executable = p[2] == 'x';
	p += 4;
	if (!expect(&p, ' '))
		return false;
	l->range.offset = number(&p, 16);
	if (!expect(&p, ' '))
		return false;
	major = number(&p, 16);
	if (!expect(&p, ':'))
		return false;
	l->device = major << 32 | number(&p, 16);
	if (!expect(&p, ' '))
		return false;
	l->inode = number(&p, 10);
	l->range.anonymous = !l->inode;
	while (*p == ' ')
		p++;
	l->path = p;
	return l->range.start < l->range.end;
}

static void path_copy(char *to, const char *from)
{
	static const char deleted[] = " (deleted)";
	size_t n = strlen(from);

	if (n > sizeof(deleted) - 1 && !strcmp(from + n - (sizeof(deleted) - 1), deleted))
		n -= sizeof(deleted) - 1;
	if (n > MAPS_PATH_MAX - 1)
		n = MAPS_PATH_MAX - 1;
	memcpy(to, from, n);
	to[n] = 0;
}

/* The object that the last line belonged to is at n_objects: it counts only once it is known to have code. */
static struct maps_object *current(struct maps *maps)
{
	return maps->n_objects < maps->room ? &maps->object[maps->n_objects] : NULL;
}

static void current_end(struct maps *maps)
{
	struct maps_object *o = current(maps);

	if (!o || !o->n_ranges)
		return;
	if (!o->executable)
		o->n_ranges = 0;
	else if (maps->n_objects < MAPS_OBJECTS_MAX)
		maps->n_objects++;
	else {
		maps->refused++;
		o->n_ranges = 0;
	}
}

static int current_begin(struct maps *maps, const struct line *l)
{
	struct maps_object *o;

	current_end(maps);
	if (maps->n_objects == maps->room) {
		unsigned room = maps->room ? maps->room * 2 : 32;
		struct maps_object *bigger = realloc(maps->object, room * sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		maps->object = bigger;
		maps->room = room;
	}
	o = current(maps);
	o->device = l->device;
	o->inode = l->inode;
	o->n_ranges = 0;
	o->executable = false;
	path_copy(o->path, l->path);
	return 0;
}

static void current_add(struct maps *maps, const struct line *l)
{
	struct maps_object *o = current(maps);

	if (o->n_ranges == MAPS_RANGES_MAX) {
		maps->refused++;
		return;
	}
	o->range[o->n_ranges++] = l->range;
	o->executable |= l->range.executable;
}

/* Does @l go on with the object that ends in @last? */
static bool continues(const struct maps_object *o, const struct line *l)
{
	const struct maps_range *last = &o->range[o->n_ranges - 1];

	if (!l->inode)
		return !*l->path && l->range.start == last->end;
	if (l->inode != o->inode || l->device != o->device)
		return false;
	/*
	 * Offset 0 begins an object, but the segments of a tiny one all map its first page. (Not so a program that maps
	 * a whole library to look into it, right below where the library is loaded.)
	 */
	return l->range.offset || (l->range.start == last->end && !last->anonymous &&
				   !last->offset && last->end - last->start == 4096);
}

int maps_line(struct maps *maps, const char *text)
{
	struct maps_object *o = current(maps);
	struct line l;
	int err;

	if (!line_parse(text, &l))
		return 0;
	if (!o || !o->n_ranges || !continues(o, &l)) {
		if (strcmp(l.path, "[vdso]") && (!l.inode || l.range.offset))
			return 0;
		err = current_begin(maps, &l);
		if (err)
			return err;
	}
	current_add(maps, &l);
	return 0;
}

void maps_reset(struct maps *maps)
{
	maps->n_objects = 0;
	maps->refused = 0;
	if (maps->room)
		maps->object[0].n_ranges = 0;
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
	return hash ^ hash >> 29;
}

void maps_end(struct maps *maps)
{
	uint64_t hash = 1;

	current_end(maps);
	for (unsigned i = 0; i < maps->n_objects; i++) {
		const struct maps_object *o = &maps->object[i];

		hash = mix(mix(mix(hash, o->device), o->inode), o->range[0].start);
		for (unsigned k = 0; k < o->n_ranges; k++)
			if (o->range[k].executable)
				hash = mix(mix(hash, o->range[k].start), o->range[k].end);
	}
	maps->signature = hash;
}

/* Hand over the whole lines in @buffer and keep the rest. */
static int take_lines(struct maps *maps, char *buffer, size_t *n)
{
	char *line = buffer, *end;
	int err = 0;

	while (!err && (end = memchr(line, '\n', *n - (size_t)(line - buffer)))) {
		*end = 0;
		err = maps_line(maps, line);
		line = end + 1;
	}
	*n -= (size_t)(line - buffer);
	memmove(buffer, line, *n);
	return err;
}

int maps_read(struct maps *maps)
{
	char *buffer = malloc(BUFFER_BYTES);
	size_t n = 0;
	ssize_t got;
	int fd = -1, err = -ENOMEM;

	maps_reset(maps);
	if (!buffer)
		return err;
	fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		err = -errno;
		goto out;
	}
	err = 0;
	do {
		got = read(fd, buffer + n, BUFFER_BYTES - n);
		if (got < 0 && errno == EINTR)
			continue;
		err = got < 0 ? -errno : 0;
		if (got > 0) {
			n += (size_t)got;
			err = take_lines(maps, buffer, &n);
		}
		if (n == BUFFER_BYTES)
			err = -E2BIG;
	} while (!err && got);
	maps_end(maps);
out:
	if (fd >= 0)
		close(fd);
	free(buffer);
	return err;
}

void maps_fini(struct maps *maps)
{
	if (!maps)
		return;
	free(maps->object);
	memset(maps, 0, sizeof(*maps));
}

const struct maps_range *maps_range_at(const struct maps_object *object, uintptr_t address)
{
	for (unsigned i = 0; i < object->n_ranges; i++)
		if (address - object->range[i].start <
		    object->range[i].end - object->range[i].start)
			return &object->range[i];
	return NULL;
}
