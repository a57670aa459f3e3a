/* SPDX-License-Identifier: MIT
 *
 * Addresses as people write them: "tcp:HOST:PORT", "HOST:PORT", "unix:PATH". HOST is a literal address or "localhost"; names
 * are not looked up, so parsing never blocks. Context: server, any thread.
 */
#ifndef SERVER_ADDRESS_H
#define SERVER_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

struct address {
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
	} sock;
	socklen_t len;
};

/** 0; -EINVAL when @text is no address; -ENAMETOOLONG when a path does not fit a Unix socket's name. */
int address_parse(const char *text, struct address *out);

/** Whether only this machine can reach it: 127.0.0.0/8, ::1, or a Unix socket. */
bool address_is_local(const struct address *address);

/** @address as "tcp:127.0.0.1:7071" or "unix:/path"; @plain: without "tcp:". Cut to fit. Returns @text. */
char *address_format(const struct address *address, bool plain, char *text, size_t text_bytes);

/**
 * Where agents of this user find the collector: "unix:$XDG_RUNTIME_DIR/sonde.sock", or "unix:/tmp/sonde-UID/sonde.sock" when
 * that directory is not there.
 */
char *address_default_unix(char *text, size_t text_bytes);

#endif
