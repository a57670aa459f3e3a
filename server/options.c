/* SPDX-License-Identifier: MIT
 *
 * The selection on the command line: see options.h.
 */
#include "server/options.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/flame.h"

enum {
	OPT_HTTP = 0x100,
	OPT_SERVICE,
	OPT_ROUTE,
	OPT_PROCESS,
	OPT_FROM,
	OPT_TO,
	OPT_STATE,
	OPT_MIN,
	OPT_MAX
};

bool options_is_time(const char *text)
{
	char *end;
	double value;

	if (strcmp(text, "now") == 0)
		return true;
	if ((text[0] != '-' && (text[0] < '0' || text[0] > '9')) || strpbrk(text, "xXpPeEiInN"))
		return false;
	errno = 0;
	value = strtod(text, &end);
	if (errno || end == text || !isfinite(value))
		return false;
	if (text[0] == '-')
		return *end && strchr("smhd", *end) && end[1] == '\0';
	return *end == '\0';
}

int options_duration(const char *text, uint64_t *ns)
{
	static const struct {
		const char *unit;
		double ns;
	} units[] = { { "", 1 },     { "ns", 1 },  { "us", 1e3 }, { "µs", 1e3 },
		      { "ms", 1e6 }, { "s", 1e9 }, { "m", 60e9 } };
	char *end;
	double value;

	if (text[0] < '0' || text[0] > '9' || strpbrk(text, "xX"))
		return -EINVAL;
	errno = 0;
	value = strtod(text, &end);
	if (errno)
		return -EINVAL;
	while (*end == ' ')
		end++;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (strcmp(end, units[i].unit) == 0 && value * units[i].ns < 9e18) {
			*ns = (uint64_t)llround(value * units[i].ns);
			return 0;
		}
	return -EINVAL;
}

int options_states(const char *text, uint32_t *mask)
{
	*mask = 0;
	while (*text) {
		size_t length = strcspn(text, ",");
		unsigned s = 0;

		while (s < STATE_COUNT && (strlen(state_names[s]) != length ||
					   memcmp(state_names[s], text, length) != 0))
			s++;
		if (s == STATE_COUNT)
			return -EINVAL;
		*mask |= 1u << s;
		text += length + (text[length] == ',');
	}
	return *mask ? 0 : -EINVAL;
}

static void options_duration_or_usage(struct argp_state *state, const char *name, const char *text,
				      uint64_t *ns)
{
	if (options_duration(text, ns) < 0)
		argp_error(state, "%s=%s is no duration; write 250us, 1.5ms or 2s", name, text);
}

static error_t options_parse(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		*o = (struct options){ .http = OPTIONS_HTTP_DEFAULT, .state_mask = STATES_ALL };
		break;
	case OPT_HTTP:
		if (*arg == '\0')
			argp_error(state, "--http= needs an address such as " OPTIONS_HTTP_DEFAULT);
		o->http = arg;
		break;
	case OPT_SERVICE:
		o->service = arg;
		break;
	case OPT_ROUTE:
		o->route = arg;
		break;
	case OPT_PROCESS:
		o->process = arg;
		break;
	case OPT_FROM:
	case OPT_TO:
		if (!options_is_time(arg))
			argp_error(state,
				   "--%s=%s is no time; write -5m, -30s, unix seconds or now",
				   key == OPT_FROM ? "from" : "to", arg);
		*(key == OPT_FROM ? &o->from : &o->to) = arg;
		break;
	case OPT_STATE:
		if (options_states(arg, &o->state_mask) < 0)
			argp_error(state,
				   "--state=%s: the states are queue, cpu, runq, io, lock, sleep, "
				   "loop and other",
				   arg);
		o->states = arg;
		break;
	case OPT_MIN:
		options_duration_or_usage(state, "--latency-min", arg, &o->latency_min_ns);
		o->has_latency_min = true;
		break;
	case OPT_MAX:
		options_duration_or_usage(state, "--latency-max", arg, &o->latency_max_ns);
		o->has_latency_max = true;
		break;
	case ARGP_KEY_END:
		if (o->has_latency_min && o->has_latency_max &&
		    o->latency_min_ns > o->latency_max_ns)
			argp_error(state, "--latency-min lies above --latency-max");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

/* clang-format off: one option per line */
#define OPTIONS_COMMON                                                                                  \
  { "http", OPT_HTTP, "ADDR", 0, "The collector (default " OPTIONS_HTTP_DEFAULT ")", 0 },               \
	  { "service", OPT_SERVICE, "NAME", 0, "Only this service", 0 },                                \
	  { "route", OPT_ROUTE, "NAME", 0, "Only this route, such as 'GET /users/{id}'", 0 },           \
	  { "process", OPT_PROCESS, "ID", 0, "Only this process, 16 hex digits as the page shows", 0 }, \
	  { "from", OPT_FROM, "TIME", 0, "Begin: -5m, -30s, -2h, -1d, unix seconds or now", 0 },        \
  {                                                                                                     \
    "to", OPT_TO, "TIME", 0, "End, as --from (default now)", 0                                          \
  }

static const struct argp_option options_common[] = { OPTIONS_COMMON, { 0 } };
static const struct argp_option options_flame[] = {
	OPTIONS_COMMON,
	{ "state", OPT_STATE, "LIST", 0,
	  "Only these states: cpu,io,lock,sleep,runq,loop,queue,other", 0 },
	{ "latency-min", OPT_MIN, "TIME", 0,
	  "Only requests that took at least this long, such as 10ms", 0 },
	{ "latency-max", OPT_MAX, "TIME", 0, "Only requests that took at most this long", 0 },
	{ 0 },
};
/* clang-format on */

const struct argp options_argp = { .options = options_common, .parser = options_parse };
const struct argp options_flame_argp = { .options = options_flame, .parser = options_parse };

/* Append NAME=VALUE, the value percent-encoded. */
static void options_put(FILE *f, const char *name, const char *value)
{
	static const char plain[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~,";

	if (!value)
		return;
	fprintf(f, "%c%s=", ftell(f) == 0 ? '?' : '&', name);
	for (; *value; value++) {
		if (strchr(plain, *value))
			fputc(*value, f);
		else
			fprintf(f, "%%%02X", (unsigned char)*value);
	}
}

static void options_put_ns(FILE *f, const char *name, bool given, uint64_t ns)
{
	if (given)
		fprintf(f, "%c%s=%" PRIu64, ftell(f) == 0 ? '?' : '&', name, ns);
}

char *options_query(const struct options *o, const char *extra)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	if (extra)
		fprintf(f, "?%s", extra);
	options_put(f, "service", o->service);
	options_put(f, "route", o->route);
	options_put(f, "process", o->process);
	options_put(f, "from", o->from);
	options_put(f, "to", o->to);
	options_put(f, "state", o->states);
	options_put_ns(f, "latency_min", o->has_latency_min, o->latency_min_ns);
	options_put_ns(f, "latency_max", o->has_latency_max, o->latency_max_ns);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}
