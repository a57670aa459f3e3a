/* SPDX-License-Identifier: MIT
 *
 * See config.h. One table; a new variable is one field there and one row here.
 */
#include "agent/core/config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "agent/core/encode.h"

#define COLLECTOR_DEFAULT "tcp:127.0.0.1:7071"

enum {
	CONFIG_NAME_MAX = 32, /* a longer SONDE_ name is unknown for sure */
	CONFIG_WRITE_WAIT_MS = 1000,
};

struct row {
	const char *name; /* after SONDE_ */
	enum kind {
		NUMBER,
		FLAG,
		TEXT,
		ADDRESS,
		CHOICE
	} kind;
	const char *unit; /* for texts: what to write; for choices: the words, default first */
	const char *text;
	unsigned value, low, high;
	size_t offset, bytes;
	const char *help;
};

#define AT(field)                                                                                  \
  .offset = offsetof(struct config, field), .bytes = sizeof(((struct config *)0)->field)

/* A table reads best as one. */
/* clang-format off */
static const struct row table[] = {
	{ "COLLECTOR",   ADDRESS, "unix:PATH or tcp:ADDRESS:PORT", .text = COLLECTOR_DEFAULT, AT(collector),
	  .help = "where the collector listens" },
	{ "SERVICE",     TEXT, "name", .text = "name of the program", AT(service),
	  .help = "the service this process is part of" },
	{ "OUTPUT",      TEXT, "path", .text = "", AT(output),
	  .help = "write to this file (a further process: .PID added) in place of a collector" },
	{ "HZ",          NUMBER, "per second", .value = 99, .low = 1, .high = 1000, AT(hz),
	  .help = "samples of each thread that is on a CPU" },
	{ "LOOK_HZ",     NUMBER, "per second", .value = 50, .low = 1, .high = 1000, AT(look_hz),
	  .help = "how often waiting threads are looked at" },
	{ "WINDOW_MS",   NUMBER, "ms", .value = 1000, .low = 100, .high = 60000, AT(window_ms),
	  .help = "interval between two reports" },
	{ "STACK_DEPTH", NUMBER, "frames", .value = 128, .low = 8, .high = 256, AT(stack_depth),
	  .help = "deepest stack that is kept whole" },
	{ "SPOOL_KIB",   NUMBER, "KiB", .value = 1024, .low = 64, .high = 65536, AT(spool_kib),
	  .help = "reports kept while no collector answers" },
	{ "RING_KIB",    NUMBER, "KiB", .value = 32, .low = 16, .high = 4096, AT(ring_kib),
	  .help = "buffer of each thread for CPU samples" },
	{ "REQUESTS",    NUMBER, "", .value = 4096, .low = 16, .high = 65536, AT(requests),
	  .help = "requests in progress at one time" },
	{ "CONNECTIONS", NUMBER, "", .value = 16384, .low = 16, .high = 1048576, AT(connections),
	  .help = "connections watched at one time" },
	{ "ROUTES",      NUMBER, "", .value = 200, .low = 1, .high = 4000, AT(routes),
	  .help = "routes told apart; the rest is (other)" },
	{ "BUDGET",      NUMBER, "permille", .value = 5, .low = 1, .high = 1000, AT(budget_permille),
	  .help = "of the process's CPU time, or of a core: sampling takes no more, its rates drop" },
	{ "HTTP",        FLAG, "", .value = 1, AT(http), .help = "find HTTP/1 requests on sockets" },
	{ "LOCKS",       FLAG, "", .value = 1, AT(locks), .help = "time waits for locks" },
	{ "TIMESTAMPS",  FLAG, "", .value = 1, AT(timestamps),
	  .help = "take arrival times from the kernel" },
	{ "CHILDREN",    CHOICE, "same, all, none", .text = "same", AT(children),
	  .help = "programs it starts that get the agent; same: itself anew, and all while it serves nobody" },
	{ "DISABLE",     FLAG, "", .value = 0, AT(disable), .help = "do nothing at all" },
	{ "LOG",         FLAG, "", .value = 0, AT(log),
	  .help = "say on stderr when the agent cannot work" },
	{ "HELP",        FLAG, "", .value = 0, AT(help), .help = "print this table and run on, without the agent" },
};
/* clang-format on */

/* Set by `sonde run` for itself; no business of ours. */
static const char *const allowed[] = { "AGENT" };

#define ROWS (sizeof(table) / sizeof(table[0]))

struct message {
	char *text;
	size_t used, room;
};

static void __attribute__((format(printf, 2, 3)))
complain(struct message *to, const char *format, ...)
{
	va_list args;
	int n;

	if (to->room == 0)
		return;
	if (to->used > 0 && to->room - to->used > 3) {
		memcpy(to->text + to->used, "; ", 3);
		to->used += 2;
	}
	va_start(args, format);
	n = vsnprintf(to->text + to->used, to->room - to->used, format, args);
	va_end(args);
	if (n < 0)
		return;
	to->used += (size_t)n;
	if (to->used > to->room - 1)
		to->used = to->room - 1;
}

/* Decimal digits only: no blanks, sign or locale. */
static bool parse_number(const char *text, unsigned *out)
{
	uint64_t value = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		value = value * 10 + (uint64_t)(*text - '0');
		if (value > UINT32_MAX)
			return false;
	}
	*out = (unsigned)value;
	return true;
}

static bool parse_flag(const char *text, bool *out)
{
	static const char *const no[] = { "0", "no", "off", "false" };
	static const char *const yes[] = { "1", "yes", "on", "true" };

	for (unsigned i = 0; i < 4; i++) {
		if (strcmp(text, no[i]) == 0 || strcmp(text, yes[i]) == 0) {
			*out = strcmp(text, yes[i]) == 0;
			return true;
		}
	}
	return false;
}

int config_address(const char *text, struct sockaddr_storage *address, socklen_t *address_bytes)
{
	struct sockaddr_un *local = (struct sockaddr_un *)address;
	struct sockaddr_in *v4 = (struct sockaddr_in *)address;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
	const char *host, *colon;
	char name[64];
	unsigned port;
	size_t length;

	memset(address, 0, sizeof(*address));
	if (strncmp(text, "unix:", 5) == 0) {
		length = strlen(text + 5);
		if (length < 1 || length >= sizeof(local->sun_path))
			return -EINVAL;
		local->sun_family = AF_UNIX;
		memcpy(local->sun_path, text + 5, length);
		*address_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
		if (local->sun_path[0] == '@') {
			local->sun_path[0] = 0;
			*address_bytes -= 1; /* an abstract name has no end mark */
		}
		return 0;
	}
	if (strncmp(text, "tcp:", 4) != 0)
		return -EINVAL;
	host = text + 4;
	colon = strrchr(host, ':');
	if (!colon || !parse_number(colon + 1, &port) || port < 1 || port > 65535)
		return -EINVAL;
	length = (size_t)(colon - host);
	if (length >= 2 && host[0] == '[' && colon[-1] == ']') {
		host++;
		length -= 2;
	} else if (memchr(host, ':', length)) {
		return -EINVAL; /* IPv6 without brackets: which colon is the port's? */
	}
	if (length >= sizeof(name))
		return -EINVAL;
	memcpy(name, host, length);
	name[length] = 0;
	if (strcmp(name, "localhost") == 0)
		memcpy(name, "127.0.0.1", 10);
	if (inet_pton(AF_INET, name, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		*address_bytes = sizeof(*v4);
		return 0;
	}
	memset(address, 0, sizeof(*address));
	if (inet_pton(AF_INET6, name, &v6->sin6_addr) != 1)
		return -EINVAL;
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons((uint16_t)port);
	*address_bytes = sizeof(*v6);
	return 0;
}

void config_name_service(struct config *c)
{
	static const char deleted[] = " (deleted)";
	char path[512];
	ssize_t length = c->service[0] ? 0 : readlink("/proc/self/exe", path, sizeof(path) - 1);
	const char *name;
	size_t bytes;

	if (c->service[0])
		return;
	path[length > 0 ? length : 0] = 0;
	name = strrchr(path, '/');
	name = name ? name + 1 : path;
	bytes = strlen(name);
	if (bytes > sizeof(deleted) - 1 &&
	    strcmp(name + bytes - (sizeof(deleted) - 1), deleted) == 0)
		bytes -= sizeof(deleted) - 1;
	if (encode_text(c->service, sizeof(c->service), name, bytes) == 0)
		memcpy(c->service, "unknown", 8);
}

/* Which of the words in @words, separated by ", ". */
static bool parse_choice(const char *text, const char *words, unsigned *out)
{
	size_t length = strlen(text);

	for (unsigned i = 0; *words; i++) {
		size_t word = strcspn(words, ",");

		if (word == length && memcmp(words, text, word) == 0) {
			*out = i;
			return true;
		}
		words += word + strspn(words + word, ", ");
	}
	return false;
}

/* Give @row its value from @text, or say why not. */
static bool set(struct config *c, const struct row *row, const char *text, struct message *errors)
{
	char *field = (char *)c + row->offset;
	struct sockaddr_storage address;
	socklen_t address_bytes;
	unsigned number;
	size_t length = strlen(text);
	bool flag;

	switch (row->kind) {
	case NUMBER:
		if (parse_number(text, &number) && number >= row->low && number <= row->high) {
			memcpy(field, &number, sizeof(number));
			return true;
		}
		complain(errors, "SONDE_%s=%.40s is not a number from %u to %u%s%s: using %u",
			 row->name, text, row->low, row->high, *row->unit ? " " : "", row->unit,
			 row->value);
		return false;
	case FLAG:
		if (parse_flag(text, &flag)) {
			memcpy(field, &flag, sizeof(flag));
			return true;
		}
		complain(errors, "SONDE_%s=%.40s is not 0 or 1: using %u", row->name, text,
			 row->value);
		return false;
	case CHOICE:
		if (parse_choice(text, row->unit, &number)) {
			memcpy(field, &number, sizeof(number));
			return true;
		}
		complain(errors, "SONDE_%s=%.40s is not one of %s: using %s", row->name, text,
			 row->unit, row->text);
		return false;
	case ADDRESS:
		if (length < row->bytes && config_address(text, &address, &address_bytes) == 0) {
			memcpy(field, text, length + 1);
			return true;
		}
		complain(errors, "SONDE_%s=%.120s is not %s with a numeric address: using %s",
			 row->name, text, row->unit, row->text);
		return false;
	case TEXT:
		if (length < row->bytes) {
			memcpy(field, text, length + 1);
			return true;
		}
		complain(errors, "SONDE_%s is longer than %zu bytes: using %s", row->name,
			 row->bytes - 1, *row->text ? row->text : "none");
		return false;
	}
	return false;
}

static unsigned least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

/* Edits that turn @a, of @length bytes, into @b. Both are shorter than CONFIG_NAME_MAX. */
static unsigned distance(const char *a, size_t length, const char *b)
{
	unsigned row[CONFIG_NAME_MAX + 1], columns = (unsigned)strlen(b);

	for (unsigned j = 0; j <= columns; j++)
		row[j] = j;
	for (unsigned i = 1; i <= length; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= columns; j++) {
			unsigned change = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			row[j] = least(change, least(row[j], row[j - 1]) + 1);
		}
	}
	return row[columns];
}

static void unknown(const char *name, size_t length, struct message *errors)
{
	const char *near = NULL;
	unsigned best = 3; /* more edits than that is no typo */

	for (size_t i = 0; i < ROWS && length < CONFIG_NAME_MAX; i++) {
		unsigned edits = distance(name, length, table[i].name);

		if (edits < best && edits < length) {
			best = edits;
			near = table[i].name;
		}
	}
	if (near)
		complain(errors, "SONDE_%.*s is not known: did you mean SONDE_%s?", (int)length,
			 name, near);
	else
		complain(errors, "SONDE_%.*s is not known: SONDE_HELP=1 lists what is",
			 (int)(length < 60 ? length : 60), name);
}

static bool is_allowed(const char *name, size_t length)
{
	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
		if (strlen(allowed[i]) == length && memcmp(name, allowed[i], length) == 0)
			return true;
	return false;
}

static void set_defaults(struct config *c)
{
	memset(c, 0, sizeof(*c));
	for (size_t i = 0; i < ROWS; i++) {
		char *field = (char *)c + table[i].offset;
		bool flag = table[i].value != 0;

		if (table[i].kind == NUMBER)
			memcpy(field, &table[i].value, sizeof(unsigned));
		else if (table[i].kind == FLAG)
			memcpy(field, &flag, sizeof(flag));
		else if (table[i].kind == ADDRESS)
			memcpy(field, table[i].text, strlen(table[i].text) + 1);
	}
}

int config_load(struct config *c, char *const *envp, char *error, size_t error_bytes)
{
	struct message errors = { .text = error, .room = error_bytes };
	bool seen[ROWS] = { false }, good = true;

	if (error_bytes > 0)
		error[0] = 0;
	set_defaults(c);
	for (; envp && *envp; envp++) {
		const char *name = *envp + 6, *value = strchr(*envp, '=');
		size_t length, i;

		if (strncmp(*envp, "SONDE_", 6) != 0 || !value || value < name)
			continue;
		length = (size_t)(value++ - name);
		for (i = 0; i < ROWS; i++)
			if (strlen(table[i].name) == length &&
			    memcmp(name, table[i].name, length) == 0)
				break;
		if (i < ROWS && !seen[i]) { /* the first one counts, as with getenv() */
			seen[i] = true;
			good &= !*value || set(c, &table[i], value, &errors);
		} else if (i == ROWS && !is_allowed(name, length)) {
			good = false;
			unknown(name, length, &errors);
		}
	}
	if (*c->service) {
		char clean[sizeof(c->service)];

		encode_text(clean, sizeof(clean), c->service, strlen(c->service));
		memcpy(c->service, clean, sizeof(clean));
	}
	return good ? 0 : -EINVAL;
}

void config_write(int fd, const char *text)
{
	struct pollfd out = { .fd = fd, .events = POLLOUT };
	struct timespec at_once = { 0 };
	sigset_t pipe_signal, before, pending;
	size_t left = strlen(text);

	sigemptyset(&pipe_signal);
	sigaddset(&pipe_signal, SIGPIPE);
	sigemptyset(&pending);
	sigpending(&pending);
	if (pthread_sigmask(SIG_BLOCK, &pipe_signal, &before))
		return;
	while (left > 0 && poll(&out, 1, CONFIG_WRITE_WAIT_MS) > 0) {
		/* What POLLOUT promises a pipe is room for PIPE_BUF bytes; more may block. */
		ssize_t n = write(fd, text, left < 4096 ? left : 4096);

		if (n < 0 && errno == EPIPE && !sigismember(&pending, SIGPIPE))
			sigtimedwait(&pipe_signal, NULL, &at_once);
		if (n <= 0)
			break;
		text += n;
		left -= (size_t)n;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void config_print(int fd)
{
	char line[256];

	config_write(fd, "sonde " SONDE_VERSION ": what the environment can set\n"
			 "  variable           default              range, unit\n");
	for (size_t i = 0; i < ROWS; i++) {
		const struct row *row = &table[i];
		char value[24], range[48];

		snprintf(value, sizeof(value), "%u", row->value);
		if (row->kind == NUMBER)
			snprintf(range, sizeof(range), "%u..%u%s%s", row->low, row->high,
				 *row->unit ? " " : "", row->unit);
		else
			snprintf(range, sizeof(range), "%s",
				 row->kind == FLAG ? "0, 1" : row->unit);
		snprintf(line, sizeof(line), "  SONDE_%-12s %-20s %s\n%21s%s\n", row->name,
			 row->text ? row->text : value, range, "", row->help);
		config_write(fd, line);
	}
}
