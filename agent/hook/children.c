/* SPDX-License-Identifier: MIT
 *
 * See children.h. System calls are made directly: what the host does in an exec must not look like more calls of its own.
 */
#include "agent/hook/children.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/hook/borrow.h"
#include "agent/thread.h"

#define PRELOAD "LD_PRELOAD="
#define OURS    "SONDE_"

enum {
	PRELOAD_BYTES = sizeof PRELOAD - 1,
	OURS_BYTES = sizeof OURS - 1,
	OWN_VARIABLES = 32,
	OWN_BYTES = 4096,
	ENVIRONMENT_MAX = 1 << 16, /* more variables than any exec takes: the host's problem */
	SCRIPTS_MAX = 4,           /* the kernel follows as many */
	HEADERS_MAX = 64,
	HEAD_BYTES = 256,
	LINK_BYTES = 32,
	CHILDREN_PATH_MAX = 1024, /* a few of them on the host's stack; what is longer is foreign */
	/* A program that wipes its environment and starts anew does so at once; one that is upgraded has run a while. */
	AGAIN_NS = 1000000000,
};

/* Constant after start, but for the flags. */
static struct {
	enum children mode;
	char name[64]; /* base name of the agent; empty: not preloaded, nothing is ours to edit */
	char entry[CHILDREN_PATH_MAX]; /* our entry, as it stood in LD_PRELOAD */
	char path[CHILDREN_PATH_MAX];  /* of this program */
	dev_t device;
	ino_t inode;
	uint64_t start_ns;
	char own[OWN_BYTES]; /* SONDE_ variables, and what LD_PRELOAD is when there is nothing else in it */
	uint16_t own_at[OWN_VARIABLES];
	unsigned own_count;
	_Atomic bool serves, forbidden, blanked;
} self;

/* ---- LD_PRELOAD ---- */

static bool is_preload(const char *variable)
{
	return strncmp(variable, PRELOAD, PRELOAD_BYTES) == 0;
}

/* The next entry at or after @at; its length, 0 at the end. As ld.so splits them. */
static size_t next_entry(const char **at)
{
	*at += strspn(*at, " :");
	return strcspn(*at, " :");
}

/* By its base name: an entry may have $LIB in it, or none of its directories. */
static bool is_ours(const char *entry, size_t length)
{
	size_t name = strlen(self.name);

	return length >= name && memcmp(entry + length - name, self.name, name) == 0 &&
	       (length == name || entry[length - name - 1] == '/');
}

static const char *find_ours(const char *variable, size_t *length)
{
	const char *at = variable + PRELOAD_BYTES;

	while ((*length = next_entry(&at)) != 0) {
		if (is_ours(at, *length))
			return at;
		at += *length;
	}
	return NULL;
}

/* @variable without our entry, and with it again at the end when @give. Returns whether anything is left. */
static bool rewrite(char *to, const char *variable, bool give)
{
	const char *at = variable + PRELOAD_BYTES;
	char *start = to + PRELOAD_BYTES;
	size_t length;

	memcpy(to, PRELOAD, PRELOAD_BYTES);
	to = start;
	while ((length = next_entry(&at)) != 0) {
		if (!is_ours(at, length)) {
			if (to > start)
				*to++ = ':';
			memcpy(to, at, length);
			to += length;
		}
		at += length;
	}
	if (give) {
		if (to > start)
			*to++ = ':';
		to = stpcpy(to, self.entry);
	}
	*to = '\0';
	return to > start;
}

/* ---- Which program is it? ---- */

static bool same_file(const struct stat *st)
{
	return st->st_dev == self.device && st->st_ino == self.inode;
}

static int file_of(int dir, const char *path, struct stat *st)
{
	return path ? fstatat(dir, path, st, 0) : fstat(dir, st);
}

/* No snprintf() in a vfork's child. */
static void link_of(char link[LINK_BYTES], int fd)
{
	char digits[12], *at = digits + sizeof digits;

	*--at = '\0';
	do
		*--at = (char)('0' + fd % 10);
	while ((fd /= 10) > 0);
	strcpy(stpcpy(link, "/proc/self/fd/"), at);
}

static int open_file(int dir, const char *path)
{
	char link[LINK_BYTES];

	if (!path) {
		link_of(link, dir);
		dir = AT_FDCWD;
		path = link;
	}
	return (int)syscall(SYS_openat, dir, path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
}

/* The value of a variable of this process; not getenv(), which may be the host's own. */
static const char *variable(const char *name)
{
	size_t length = strlen(name);

	for (char **e = environ; e && *e; e++)
		if (strncmp(*e, name, length) == 0 && (*e)[length] == '=')
			return *e + length + 1;
	return NULL;
}

/* Where along PATH @name is; false when nowhere. */
static bool search(const char *name, char found[CHILDREN_PATH_MAX])
{
	const char *path = variable("PATH");
	size_t length = strlen(name);

	if (!path)
		path = "/bin:/usr/bin";
	for (;; path++) {
		size_t directory = strcspn(path, ":");
		struct stat st;

		if (directory + length + 2 <= CHILDREN_PATH_MAX) {
			memcpy(found, path, directory);
			found[directory] = '/';
			memcpy(found + directory + (directory != 0), name, length + 1);
			if (fstatat(AT_FDCWD, found, &st, 0) == 0 && S_ISREG(st.st_mode) &&
			    syscall(SYS_faccessat, AT_FDCWD, found, X_OK) == 0)
				return true;
		}
		path += directory;
		if (!*path)
			return false;
	}
}

enum kind {
	FOREIGN,
	SAME,
	UNFIT /* the agent would keep it from starting, or make the loader complain */
};

/* Its loader is not the one that the agent was made for. One without a loader takes no notice of LD_PRELOAD. */
static bool unfit(int fd, const ElfW(Ehdr) * elf)
{
	ElfW(Phdr) header;
	char loader[256] = "";

	if (elf->e_ident[EI_CLASS] != (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32))
		return true;
#if defined(__x86_64__)
	if (elf->e_machine != EM_X86_64)
		return true;
#elif defined(__aarch64__)
	if (elf->e_machine != EM_AARCH64)
		return true;
#endif
	for (unsigned i = 0; i < elf->e_phnum && i < HEADERS_MAX; i++) {
		off_t at = (off_t)(elf->e_phoff + (uint64_t)i * elf->e_phentsize);

		if (syscall(SYS_pread64, fd, &header, sizeof header, at) != sizeof header)
			return false;
		if (header.p_type == PT_INTERP)
			return syscall(SYS_pread64, fd, loader, sizeof loader - 1,
				       (off_t)header.p_offset) <= 0 ||
			       !strstr(loader, "/ld-linux");
	}
	return false;
}

/* "#! /usr/bin/env python3 -u" -> the interpreter, and what env would run, both as paths. */
static bool interpreter(char *line, char path[CHILDREN_PATH_MAX])
{
	char *at = line + 2 + strspn(line + 2, " \t"), *name, *rest;

	at[strcspn(at, "\r\n")] = '\0';
	rest = at + strcspn(at, " \t");
	if (*rest)
		*rest++ = '\0';
	if (!*at || strlen(at) >= CHILDREN_PATH_MAX)
		return false;
	strcpy(path, at);
	name = strrchr(at, '/');
	if (strcmp(name ? name + 1 : at, "env") != 0)
		return true;
	at = rest + strspn(rest, " \t");
	if (strncmp(at, "-S", 2) == 0)
		at += 2 + strspn(at + 2, " \t");
	at[strcspn(at, " \t")] = '\0';
	if (*at && *at != '-' && !strchr(at, '/') && !strchr(at, '='))
		search(at, path);
	return true;
}

/*
 * An upgraded program is another file under the old name. /proc tells the one real path of what is open: this process's
 * own, as it was at its start, is compared.
 */
static bool same_path(int fd)
{
	char link[LINK_BYTES], path[CHILDREN_PATH_MAX];
	ssize_t length;

	link_of(link, fd);
	length = readlink(link, path, sizeof path - 1);
	if (length <= 0)
		return false;
	path[length] = '\0';
	return strcmp(path, self.path) == 0;
}

/* One step: a script is looked at in its interpreter's place, which goes to @next. */
static enum kind look(int dir, const char *path, char next[CHILDREN_PATH_MAX], bool *script)
{
	union {
		ElfW(Ehdr) elf;
		char text[HEAD_BYTES + 1];
	} head = { .text = "" };
	enum kind kind = FOREIGN;
	struct borrow b;
	struct stat st;
	int fd;

	*script = false;
	if (file_of(dir, path, &st) || !S_ISREG(st.st_mode))
		return FOREIGN;
	if (same_file(&st))
		return SAME;
	borrow_begin(&b, true);
	fd = open_file(dir, path);
	if (fd < 0)
		kind = FOREIGN;
	else if (syscall(SYS_pread64, fd, head.text, HEAD_BYTES, (off_t)0) < 4)
		kind = FOREIGN;
	else if (memcmp(head.text, "#!", 2) == 0)
		*script = interpreter(head.text, next);
	else if (memcmp(head.text, ELFMAG, SELFMAG) == 0)
		kind = unfit(fd, &head.elf) ? UNFIT : same_path(fd) ? SAME : FOREIGN;
	if (fd >= 0)
		syscall(SYS_close, fd);
	borrow_end(&b);
	return kind;
}

static enum kind kind_of(const struct children_program *program)
{
	char path[CHILDREN_PATH_MAX];
	const char *at = program->path;
	int dir = program->dir;

	if (program->search && !strchr(at, '/')) {
		if (!search(at, path))
			return FOREIGN;
		at = path;
	}
	for (unsigned i = 0; i <= SCRIPTS_MAX; i++) {
		bool script;
		enum kind kind = look(dir, at, path, &script);

		if (!script)
			return kind;
		at = path;
		dir = AT_FDCWD;
	}
	return FOREIGN;
}

/* ---- Judging ---- */

static bool serves(void)
{
	return atomic_load_explicit(&self.serves, memory_order_relaxed) ||
	       (shared && atomic_load_explicit(&shared->requests.fresh, memory_order_relaxed));
}

/* What an environment has of ours. */
struct had {
	bool entry, preload, variables;
	unsigned count;
	size_t preload_bytes;
};

static struct had had(char *const *envp)
{
	struct had h = { 0 };
	size_t length;

	for (; (uintptr_t)envp >= 4096 && *envp && h.count < ENVIRONMENT_MAX; envp++, h.count++) {
		if (is_preload(*envp)) {
			h.preload = true;
			h.preload_bytes += strlen(*envp) + strlen(self.entry) + 2;
			h.entry |= find_ours(*envp, &length) != NULL;
		} else if (strncmp(*envp, OURS, OURS_BYTES) == 0) {
			h.variables = true;
		}
	}
	return h;
}

static bool wanted(enum kind kind)
{
	if (kind == UNFIT || self.mode == CHILDREN_NONE)
		return false;
	return self.mode == CHILDREN_ALL || kind == SAME || !serves();
}

/* An environment that the host made from nothing, for this program upgraded; or one that we have blanked. */
static bool lost(const struct had *h)
{
	if (atomic_load_explicit(&self.blanked, memory_order_relaxed))
		return h->preload || !h->variables;
	return !h->preload && !h->variables && clock_ns() - self.start_ns >= AGAIN_NS;
}

enum children_verdict children_judge(const struct children_program *program, char *const *envp)
{
	enum children_verdict verdict = CHILDREN_AS_IS;
	int saved = errno;
	struct had h;

	if (!*self.name)
		return CHILDREN_AS_IS;
	h = had(envp);
	if (h.count == ENVIRONMENT_MAX)
		verdict = CHILDREN_AS_IS;
	else if (atomic_load_explicit(&self.forbidden, memory_order_relaxed))
		verdict = h.entry ? CHILDREN_DROP : CHILDREN_AS_IS;
	else if (h.entry)
		verdict = wanted(kind_of(program)) ? CHILDREN_AS_IS : CHILDREN_DROP;
	else if (self.mode != CHILDREN_NONE && lost(&h) && kind_of(program) == SAME)
		verdict = CHILDREN_GIVE;
	errno = saved;
	return verdict;
}

size_t children_room(enum children_verdict verdict, char *const *envp)
{
	struct had h;

	if (verdict == CHILDREN_AS_IS)
		return 0;
	h = had(envp);
	return (h.count + 2 + self.own_count) * sizeof *envp + h.preload_bytes;
}

char **children_edit(enum children_verdict verdict, char *const *envp, void *room)
{
	struct had h = had(envp);
	char **to = room, *strings = (char *)(to + h.count + 2 + self.own_count);
	bool give = verdict == CHILDREN_GIVE;

	for (; envp && *envp; envp++) {
		if (!is_preload(*envp)) {
			*to++ = *envp;
		} else if (rewrite(strings, *envp, give)) {
			*to++ = strings;
			strings += strlen(strings) + 1;
		}
	}
	/* The first of our own strings is an LD_PRELOAD with nothing else in it. */
	for (unsigned i = h.preload; give && i < (h.variables ? 1 : self.own_count); i++)
		*to++ = self.own + self.own_at[i];
	*to = NULL;
	return room;
}

void children_before_shell(void)
{
	const struct children_program shell = { AT_FDCWD, "/bin/sh", false };
	size_t length;

	if (!*self.name || !environ || children_judge(&shell, environ) != CHILDREN_DROP)
		return;
	atomic_store_explicit(&self.blanked, true, memory_order_relaxed);
	for (char **e = environ; *e; e++) {
		const char *at;

		while (is_preload(*e) && (at = find_ours(*e, &length)) != NULL)
			memset(*e + (at - *e), ':', length);
	}
}

/* ---- State ---- */

void children_serve(void)
{
	if (!atomic_load_explicit(&self.serves, memory_order_relaxed))
		atomic_store_explicit(&self.serves, true, memory_order_relaxed);
}

void children_before_fork(void)
{
	if (serves())
		children_serve();
}

void children_forbid(void)
{
	atomic_store_explicit(&self.forbidden, true, memory_order_relaxed);
}

/* Into our own memory: the host may use what it was given for its title in ps. */
static void keep(size_t *used, const char *text, size_t length)
{
	if (self.own_count == OWN_VARIABLES || *used + length + 1 > OWN_BYTES)
		return;
	self.own_at[self.own_count++] = (uint16_t)*used;
	memcpy(self.own + *used, text, length);
	*used += length;
	self.own[(*used)++] = '\0';
}

static void keep_own(char *const *envp)
{
	size_t used = 0;

	memcpy(self.own, PRELOAD, PRELOAD_BYTES);
	used = PRELOAD_BYTES;
	keep(&used, self.entry, strlen(self.entry));
	self.own_at[0] = 0;
	for (; *envp; envp++)
		if (strncmp(*envp, OURS, OURS_BYTES) == 0)
			keep(&used, *envp, strlen(*envp));
}

void children_start(char *const *envp, enum children mode)
{
	const char *slash, *entry = NULL;
	size_t length = 0;
	Dl_info info;

	self.mode = mode;
	self.start_ns = clock_ns();
	if (!envp || !dladdr((const void *)children_start, &info) || !info.dli_fname)
		return;
	slash = strrchr(info.dli_fname, '/');
	snprintf(self.name, sizeof self.name, "%s", slash ? slash + 1 : info.dli_fname);
	for (char *const *e = envp; *e && !entry; e++)
		if (is_preload(*e))
			entry = find_ours(*e, &length);
	if (!entry || length >= sizeof self.entry) {
		self.name[0] = '\0'; /* linked in, or loaded otherwise */
		return;
	}
	memcpy(self.entry, entry, length);
	keep_own(envp);
}

void children_know_self(void)
{
	ssize_t n = readlink("/proc/self/exe", self.path, sizeof self.path - 1);
	struct stat st;

	self.path[n > 0 ? n : 0] = '\0';
	if (stat("/proc/self/exe", &st) == 0) {
		self.device = st.st_dev;
		self.inode = st.st_ino;
	}
}
