/* SPDX-License-Identifier: MIT
 *
 * The agent's configuration: SONDE_* variables only, all of them in the one table of config.c.
 *
 * Constant after config_load(). It runs in a constructor, before the C library is fully up: nothing here allocates, and
 * the environment is the one that is handed in.
 */
#ifndef AGENT_CORE_CONFIG_H
#define AGENT_CORE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

struct config {
	char service[64];        /* default: base name of the program */
	char collector[108 + 8]; /* unix:PATH, unix:@NAME (abstract) or tcp:ADDRESS:PORT */
	char output[256];        /* a file in place of the collector; empty: none */
	unsigned hz;
	unsigned window_ms;
	unsigned look_hz;
	unsigned stack_depth;
	unsigned spool_kib;
	unsigned ring_kib;
	unsigned requests;
	unsigned connections;
	unsigned routes;
	unsigned budget_permille;
	unsigned children; /* enum children */
	bool http;
	bool locks;
	bool timestamps;
	bool disable;
	bool log;
	bool help;
};

/**
 * Fill @c from @envp (as main's, may be NULL).
 *
 * What is missing, empty or wrong gets its default. @error gets one sentence for each wrong value and each SONDE_*
 * variable that nobody knows, as many as fit, joined by "; ", or "".
 * Context: any, also a constructor; does not allocate.
 * Returns 0, or -EINVAL when @error says something.
 */
int config_load(struct config *c, char *const *envp, char *error, size_t error_bytes);

/** A service without a name gets that of the program. Asks the kernel for it: after probe_filter(). Context: agent start. */
void config_name_service(struct config *c);

/** Print the table to @fd. Context: as config_write(). */
void config_print(int fd);

/**
 * Write @text to @fd, without raising SIGPIPE and without waiting more than a second for a reader; what cannot be
 * written is dropped. For SONDE_LOG and SONDE_HELP. Context: agent or constructor; changes errno.
 */
void config_write(int fd, const char *text);

/**
 * Read a collector's address. Never asks a name server: numbers, or "localhost" for 127.0.0.1; IPv6 in brackets.
 * Context: any; pure. Returns 0 or -EINVAL.
 */
int config_address(const char *text, struct sockaddr_storage *address, socklen_t *address_bytes);

#endif
