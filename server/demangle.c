/* SPDX-License-Identifier: MIT
 *
 * Names as people wrote them. libiberty does the work through its callback interface: it allocates nothing for the
 * text, and when the output is full we jump out of it. That bounds the time, too: a mangled name of 100 bytes can refer
 * back to itself and stand for gigabytes of text. Context: any thread, no state.
 */
#include "server/demangle.h"

#include <libiberty/demangle.h>
#include <setjmp.h>
#include <string.h>

struct sink {
	char *out;
	size_t size, length;
	jmp_buf full;
};

static void sink_take(const char *text, size_t length, void *opaque)
{
	struct sink *sink = opaque;
	size_t room = sink->size - 1 - sink->length;

	if (length > room) {
		memcpy(sink->out + sink->length, text, room);
		memcpy(sink->out + sink->size - 4, "...", 4);
		longjmp(sink->full, 1);
	}
	memcpy(sink->out + sink->length, text, length);
	sink->length += length;
	sink->out[sink->length] = '\0';
}

/*
 * Cut @name at the version and at suffixes that compilers add to copies of a function. Most have a number, which matters:
 * in Go, "bytes.part" is a function of its own.
 */
static void cut_suffixes(char *name)
{
	static const char *const numbered[] = { "constprop", "isra", "part",      "lto_priv",
						"llvm",      "cold", "localalias" };
	static const char *const bare[] = { "cold", "localalias" };
	char *version = strchr(name + 1, '@');

	if (version)
		*version = '\0';
	for (;;) {
		char *word = strrchr(name, '.');
		const char *const *words = bare;
		size_t count = sizeof(bare) / sizeof(*bare), i = 0, length;

		if (!word || word == name)
			return;
		length = strlen(word + 1);
		if (length && strspn(word + 1, "0123456789") == length) {
			char *number = word;

			word = memrchr(name, '.', (size_t)(number - name));
			if (!word || word == name)
				return;
			length = (size_t)(number - word) - 1;
			words = numbered;
			count = sizeof(numbered) / sizeof(*numbered);
		}
		while (i < count &&
		       (strlen(words[i]) != length || memcmp(words[i], word + 1, length) != 0))
			i++;
		if (i == count)
			return;
		*word = '\0';
	}
}

static void copy_cut(const char *name, char *out, size_t size)
{
	size_t length = strnlen(name, size);

	memcpy(out, name, length < size ? length : size - 1);
	if (length < size)
		out[length] = '\0';
	else
		memcpy(out + size - 4, "...", 4);
}

void demangle(const char *name, char *out, size_t size)
{
	char plain[DEMANGLE_INPUT_MAX];
	struct sink sink = { .out = out, .size = size };
	size_t length = strnlen(name, sizeof(plain));

	if (length == 0 || length == sizeof(plain)) {
		copy_cut(name, out, size);
		return;
	}
	memcpy(plain, name, length + 1);
	cut_suffixes(plain);
	if (strncmp(plain, "_Z", 2) == 0 || strncmp(plain, "_R", 2) == 0 ||
	    strncmp(plain, "_GLOBAL_", 8) == 0) {
		if (setjmp(sink.full))
			return;
		/* Old Rust names are C++ names with a hash at the end: Rust goes first. */
		if (rust_demangle_callback(plain, DMGL_NO_OPTS, sink_take, &sink) && sink.length)
			return;
		sink.length = 0;
		if (cplus_demangle_v3_callback(plain, DMGL_PARAMS | DMGL_ANSI, sink_take, &sink) &&
		    sink.length)
			return;
	}
	copy_cut(plain, out, size);
}
