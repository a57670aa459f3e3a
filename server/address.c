/* SPDX-License-Identifier: MIT
 *
 * Parses and prints addresses; see address.h.
 */
#include "server/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int parse_unix(const char *path, struct address *out)
{
	size_t len = strlen(path);

	if (len == 0)
		return -EINVAL;
	if (len >= sizeof(out->sock.un.sun_path))
		return -ENAMETOOLONG;
	out->sock.un.sun_family = AF_UNIX;
	memcpy(out->sock.un.sun_path, path, len + 1);
	out->len = sizeof(out->sock.un);
	return 0;
}

static int parse_port(const char *text, in_port_t *port)
{
	char *end;
	long value;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	value = strtol(text, &end, 10);
	if (*end || errno || value < 0 || value > 65535)
		return -EINVAL;
	*port = htons((uint16_t)value);
	return 0;
}

int address_parse(const char *text, struct address *out)
{
	char host[INET6_ADDRSTRLEN];
	const char *colon, *start;
	size_t len;

	memset(out, 0, sizeof(*out));
	if (strncmp(text, "unix:", 5) == 0)
		return parse_unix(text + 5, out);
	if (strncmp(text, "tcp:", 4) == 0)
		text += 4;
	colon = strrchr(text, ':');
	if (!colon)
		return -EINVAL;
	start = text;
	len = (size_t)(colon - text);
	if (len >= 2 && start[0] == '[' && start[len - 1] == ']') {
		start++;
		len -= 2;
	}
	if (len >= sizeof(host))
		return -EINVAL;
	memcpy(host, start, len);
	host[len] = 0;
	if (strcmp(host, "localhost") == 0)
		strcpy(host, "127.0.0.1");
	if (inet_pton(AF_INET, host, &out->sock.in.sin_addr) == 1) {
		out->sock.in.sin_family = AF_INET;
		out->len = sizeof(out->sock.in);
		return parse_port(colon + 1, &out->sock.in.sin_port);
	}
	if (start != text && inet_pton(AF_INET6, host, &out->sock.in6.sin6_addr) == 1) {
		out->sock.in6.sin6_family = AF_INET6;
		out->len = sizeof(out->sock.in6);
		return parse_port(colon + 1, &out->sock.in6.sin6_port);
	}
	return -EINVAL;
}

bool address_is_local(const struct address *address)
{
	switch (address->sock.any.sa_family) {
	case AF_UNIX:
		return true;
	case AF_INET:
		return ntohl(address->sock.in.sin_addr.s_addr) >> 24 == 127;
	case AF_INET6:
		return IN6_IS_ADDR_LOOPBACK(&address->sock.in6.sin6_addr);
	default:
		return false;
	}
}

char *address_format(const struct address *address, bool plain, char *text, size_t text_bytes)
{
	char host[INET6_ADDRSTRLEN] = "?";
	const char *prefix = plain ? "" : "tcp:";

	switch (address->sock.any.sa_family) {
	case AF_UNIX:
		snprintf(text, text_bytes, "unix:%s", address->sock.un.sun_path);
		break;
	case AF_INET:
		inet_ntop(AF_INET, &address->sock.in.sin_addr, host, sizeof(host));
		snprintf(text, text_bytes, "%s%s:%u", prefix, host,
			 ntohs(address->sock.in.sin_port));
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &address->sock.in6.sin6_addr, host, sizeof(host));
		snprintf(text, text_bytes, "%s[%s]:%u", prefix, host,
			 ntohs(address->sock.in6.sin6_port));
		break;
	default:
		snprintf(text, text_bytes, "?");
	}
	return text;
}

char *address_default_unix(char *text, size_t text_bytes)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");

	/* Set but missing is common: su, containers, cron. */
	if (runtime && runtime[0] == '/' && access(runtime, W_OK | X_OK) == 0)
		snprintf(text, text_bytes, "unix:%s/sonde.sock", runtime);
	else
		snprintf(text, text_bytes, "unix:/tmp/sonde-%u/sonde.sock", (unsigned)getuid());
	return text;
}
