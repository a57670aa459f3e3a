/* SPDX-License-Identifier: MIT
 *
 * What `sonde run` and `sonde doctor` must know about LD_PRELOAD: where the agent lies, how it joins what the user preloads
 * already, and whether a program will load it at all. Context: one thread.
 */
#ifndef SERVER_PRELOAD_H
#define SERVER_PRELOAD_H

#include <stdbool.h>
#include <stddef.h>

/**
 * The agent's absolute path: @given if not NULL, else $SONDE_AGENT, else libsonde.so beside this executable, else in ../lib
 * of it. *@out is to be freed. Returns 0, -ENOENT when there is none, -ENOMEM; @looked (size bytes) then names where it was
 * sought.
 */
int preload_find_agent(const char *given, char **out, char *looked, size_t size);

/**
 * The value of LD_PRELOAD with @agent behind what @already has (may be NULL); unchanged when it is in there. To be freed;
 * NULL when out of memory.
 */
char *preload_join(const char *already, const char *agent);

/** Whether LD_PRELOAD can carry @path: it knows no way to quote a space or a colon. */
bool preload_can_carry(const char *path);

/* What the dynamic loader will make of a program. */
enum preload_fit {
	PRELOAD_FITS,
	PRELOAD_STATIC,     /* no dynamic loader: LD_PRELOAD has no effect */
	PRELOAD_PRIVILEGED, /* setuid, setgid or with capabilities: the loader ignores LD_PRELOAD */
	PRELOAD_OTHER_CLASS, /* other word size or machine than the agent */
	PRELOAD_OTHER_LIBC,  /* a loader that is not glibc's: it would fail on the agent */
	PRELOAD_UNKNOWN,     /* not readable, or no ELF file */
};

/** How @path takes a preload; a script is judged by its interpreter. */
enum preload_fit preload_inspect(const char *path);

/**
 * What execvp() would run for @name, to be freed. Returns 0, -ENOENT, -EACCES for what is there but not executable,
 * -ENOMEM.
 */
int preload_which(const char *name, char **out);

#endif
