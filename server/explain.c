/* SPDX-License-Identifier: MIT
 *
 * One plain sentence per route: see explain.h.
 */
#include "server/explain.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "server/units.h"

const char *const explain_words[STATE_COUNT] = {
	[STATE_QUEUE] = "waiting to be read",
	[STATE_CPU] = "on the CPU",
	[STATE_RUNQ] = "waiting for a processor",
	[STATE_IO] = "waiting for IO",
	[STATE_LOCK] = "waiting for a lock",
	[STATE_SLEEP] = "sleeping",
	[STATE_LOOP] = "parked while the event loop ran other work",
	[STATE_OTHER] = "unexplained",
};

enum {
	EXPLAIN_NAME_COLUMNS = 200
};

__attribute__((format(printf, 4, 5))) static size_t explain_add(char *out, size_t size, size_t at,
								const char *format, ...)
{
	va_list arguments;
	int length;

	if (at + 1 >= size)
		return at;
	va_start(arguments, format);
	length = vsnprintf(out + at, size - at, format, arguments);
	va_end(arguments);
	if (length < 0)
		return at;
	return (size_t)length < size - at ? at + (size_t)length : size - 1;
}

size_t explain_route(char *out, size_t size, const char *route, uint64_t count, uint64_t mean_ns,
		     const uint64_t ledger_ns[STATE_COUNT])
{
	char name[4 * EXPLAIN_NAME_COLUMNS + 1];
	const char *before = ": ";
	bool said[STATE_COUNT] = { false };
	size_t at;

	if (size == 0)
		return 0;
	out[0] = '\0';
	units_text(name, sizeof(name), route, EXPLAIN_NAME_COLUMNS, false);
	if (count == 0)
		return explain_add(out, size, 0, "%s: no request ended.", name);
	at = explain_add(out, size, 0, "%s takes %s on average", name, units_ns(mean_ns).text);
	for (;;) {
		unsigned most = STATE_COUNT;
		double percent;

		for (unsigned s = 0; s < STATE_COUNT; s++)
			if (!said[s] && (most == STATE_COUNT || ledger_ns[s] > ledger_ns[most]))
				most = s;
		if (most == STATE_COUNT || mean_ns == 0)
			break;
		said[most] = true;
		percent = round(100.0 * (double)ledger_ns[most] / (double)mean_ns);
		if (percent < 1)
			break;
		at = explain_add(out, size, at, "%s%.0f %% %s", before, percent,
				 explain_words[most]);
		before = ", ";
	}
	return explain_add(out, size, at, ".");
}
