/* SPDX-License-Identifier: MIT
 *
 * What one must know about LD_PRELOAD: see preload.h.
 */
#include "server/preload.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum {
	PRELOAD_SCRIPTS_MAX = 4, /* the kernel follows as many */
	PRELOAD_HEADERS_MAX = 64,
};

static bool preload_is_file(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, R_OK) == 0;
}

int preload_find_agent(const char *given, char **out, char *looked, size_t size)
{
	static const char *const places[] = { "libsonde.so", "../lib/libsonde.so" };
	char self[PATH_MAX], path[PATH_MAX + 32];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (!given)
		given = getenv("SONDE_AGENT");
	if (given && *given) {
		snprintf(looked, size, "%s", given);
		*out = preload_is_file(given) ? realpath(given, NULL) : NULL;
		return *out ? 0 : -ENOENT;
	}
	self[length < 0 ? 0 : length] = '\0';
	if (strrchr(self, '/'))
		strrchr(self, '/')[1] = '\0';
	snprintf(looked, size, "%s and %s../lib", self, self);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", self, places[i]);
		if (!preload_is_file(path))
			continue;
		*out = realpath(path, NULL);
		return *out ? 0 : -errno;
	}
	return -ENOENT;
}

bool preload_can_carry(const char *path)
{
	return !strpbrk(path, " :");
}

char *preload_join(const char *already, const char *agent)
{
	char *joined;

	for (const char *at = already; at && *at;) {
		size_t length = strcspn(at, " :");

		if (length == strlen(agent) && memcmp(at, agent, length) == 0)
			return strdup(already);
		at += length + (at[length] != '\0');
	}
	if (!already || !*already)
		return strdup(agent);
	return asprintf(&joined, "%s:%s", already, agent) < 0 ? NULL : joined;
}

int preload_which(const char *name, char **out)
{
	const char *path = getenv("PATH");
	int status = -ENOENT;

	if (strchr(name, '/') || !*name) {
		struct stat st;

		if (!*name || stat(name, &st) < 0)
			return -ENOENT;
		if (access(name, X_OK) < 0 || S_ISDIR(st.st_mode))
			return -EACCES;
		*out = strdup(name);
		return *out ? 0 : -ENOMEM;
	}
	for (const char *at = path ? path : "/bin:/usr/bin";; at++) {
		size_t length = strcspn(at, ":");
		struct stat st;
		char *candidate;

		if (asprintf(&candidate, "%.*s%s%s", (int)length, at, length ? "/" : "./", name) <
		    0)
			return -ENOMEM;
		if (stat(candidate, &st) == 0 && S_ISREG(st.st_mode)) {
			if (access(candidate, X_OK) == 0) {
				*out = candidate;
				return 0;
			}
			status = -EACCES;
		}
		free(candidate);
		at += length;
		if (!*at)
			return status;
	}
}

static bool preload_is_privileged(int fd, const struct stat *st)
{
	char capability[64];

	if ((st->st_mode & S_ISUID) && st->st_uid != geteuid())
		return true;
	if ((st->st_mode & S_ISGID) && st->st_gid != getegid())
		return true;
	/* Root has every capability already: the loader then sees nothing gained. */
	return geteuid() != 0 &&
	       fgetxattr(fd, "security.capability", capability, sizeof(capability)) > 0;
}

/* The loader that the program headers name. */
static enum preload_fit preload_loader(int fd, const ElfW(Ehdr) * elf)
{
	ElfW(Phdr) header;
	char name[256] = "";

	for (unsigned i = 0; i < elf->e_phnum && i < PRELOAD_HEADERS_MAX; i++) {
		off_t at = (off_t)(elf->e_phoff + (uint64_t)i * elf->e_phentsize);

		if (pread(fd, &header, sizeof(header), at) != sizeof(header))
			return PRELOAD_UNKNOWN;
		if (header.p_type != PT_INTERP)
			continue;
		if (pread(fd, name, sizeof(name) - 1, (off_t)header.p_offset) <= 0)
			return PRELOAD_UNKNOWN;
		return strstr(name, "/ld-linux") ? PRELOAD_FITS : PRELOAD_OTHER_LIBC;
	}
	return PRELOAD_STATIC;
}

/* The program after #!, into @path of PATH_MAX bytes. */
static bool preload_interpreter(const char *line, char *path)
{
	size_t length;

	line += 2;
	line += strspn(line, " \t");
	length = strcspn(line, " \t\r\n");
	if (length == 0 || length >= PATH_MAX)
		return false;
	memcpy(path, line, length);
	path[length] = '\0';
	return true;
}

/* One step: the judgement, or PRELOAD_UNKNOWN with another @path to look at, when *@script. */
static enum preload_fit preload_look(char *path, bool *script)
{
	union {
		ElfW(Ehdr) elf;
		char text[256 + 1];
	} head = { .text = "" };
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	enum preload_fit fit = PRELOAD_UNKNOWN;
	struct stat st;

	*script = false;
	if (fd < 0)
		return PRELOAD_UNKNOWN;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    read(fd, head.text, sizeof(head.text) - 1) < 4)
		goto out;
	if (memcmp(head.text, "#!", 2) == 0) {
		*script = preload_interpreter(head.text, path);
		goto out;
	}
	if (memcmp(head.text, ELFMAG, SELFMAG) != 0)
		goto out;
	if (preload_is_privileged(fd, &st))
		fit = PRELOAD_PRIVILEGED;
	else if (head.elf.e_ident[EI_CLASS] != (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32))
		fit = PRELOAD_OTHER_CLASS;
#ifdef __x86_64__
	else if (head.elf.e_machine != EM_X86_64)
		fit = PRELOAD_OTHER_CLASS;
#endif
	else
		fit = preload_loader(fd, &head.elf);
out:
	close(fd);
	return fit;
}

enum preload_fit preload_inspect(const char *path)
{
	char at[PATH_MAX];

	if (strlen(path) >= sizeof(at))
		return PRELOAD_UNKNOWN;
	strcpy(at, path);
	for (int i = 0; i <= PRELOAD_SCRIPTS_MAX; i++) {
		bool script;
		enum preload_fit fit = preload_look(at, &script);

		if (!script)
			return fit;
	}
	return PRELOAD_UNKNOWN;
}
