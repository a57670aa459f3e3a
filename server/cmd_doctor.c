/* SPDX-License-Identifier: MIT
 *
 * `sonde doctor`: what this machine allows the agent to do, what is missing, and what that costs.
 */
#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/cmd.h"
#include "server/doctor.h"
#include "server/options.h"
#include "server/units.h"

enum {
	DOCTOR_NAME_COLUMNS = 20,
	DOCTOR_TEXT_COLUMNS = 200,
	COST_COLUMNS = 512
};

void doctor_say(struct doctor *d, enum doctor_mark mark, const char *name, const char *cost,
		const char *format, ...)
{
	static const struct {
		const char *sign, *color;
	} marks[] = {
		{ "✓", "\033[32m" }, { "!", "\033[33m" }, { "✗", "\033[1;31m" }, { " ", "" }
	};
	char text[1024], shown[4 * DOCTOR_TEXT_COLUMNS + 1];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	units_text(shown, sizeof(shown), text, DOCTOR_TEXT_COLUMNS, false);
	printf("  %s%s%s %-*s %s\n", d->color ? marks[mark].color : "", marks[mark].sign,
	       d->color ? "\033[0m" : "", DOCTOR_NAME_COLUMNS, name, shown);
	if (cost) { /* it may be another process's words */
		char safe[4 * COST_COLUMNS + 1];

		units_text(safe, sizeof(safe), cost, COST_COLUMNS, false);
		printf("    %-*s %s\n", DOCTOR_NAME_COLUMNS, "", safe);
	}
	d->limits += mark == DOCTOR_LIMIT;
	d->bad += mark == DOCTOR_BAD;
	fflush(stdout); /* the probes fork */
}

bool doctor_read(const char *path, const char *key, char *out, size_t size)
{
	FILE *f = fopen(path, "re");
	char line[512];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f)) {
		const char *value = line;
		size_t length = key ? strlen(key) : 0;

		if (key && (strncmp(line, key, length) != 0 || line[length] != ':'))
			continue;
		value += key ? length + 1 : 0;
		value += strspn(value, " \t");
		snprintf(out, size, "%.*s", (int)strcspn(value, "\n"), value);
		found = true;
	}
	if (f)
		fclose(f);
	return found;
}

struct question {
	pid_t pid;
	const char *http;
};

static error_t doctor_parse(int key, char *arg, struct argp_state *state)
{
	struct question *question = state->input;
	pid_t *pid = &question->pid;
	char *end;
	long value;

	if (key == 'H') {
		question->http = arg;
		return 0;
	}
	if (key != ARGP_KEY_ARG)
		return ARGP_ERR_UNKNOWN;
	errno = 0;
	value = strtol(arg, &end, 10);
	if (*pid)
		argp_error(state, "only one process at a time");
	else if (*end || errno || value <= 0 || value > INT32_MAX)
		argp_error(state, "%s is no process id", arg);
	*pid = (pid_t)value;
	return 0;
}

int cmd_doctor(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "http", 'H', "ADDRESS", 0,
		  "Where the collector answers, " OPTIONS_HTTP_DEFAULT " if not given", 0 },
		{ 0 }
	};
	static const struct argp argp = {
		.options = options,
		.parser = doctor_parse,
		.args_doc = "[PID]",
		.doc = "Try what the agent needs on this machine, and with PID in that process: "
		       "what works, what does not, what "
		       "that costs, and what the agent in it is doing.\vExit status: 1 when the "
		       "agent could not work.",
	};
	struct doctor d = { .color = isatty(STDOUT_FILENO) && !getenv("NO_COLOR") };
	struct question question = { .http = OPTIONS_HTTP_DEFAULT };
	pid_t pid;

	argp_parse(&argp, argc, argv, 0, NULL, &question);
	pid = question.pid;
	if (pid && kill(pid, 0) < 0 && errno == ESRCH) {
		fprintf(stderr, "sonde doctor: there is no process %d\n", (int)pid);
		return 1;
	}
	printf("What this machine allows\n\n");
	doctor_agent(&d);
	doctor_timers(&d);
	doctor_measures(&d);
	doctor_limits(&d);
	if (pid) {
		doctor_process(&d, pid);
		doctor_inside(&d, pid, question.http);
	}
	if (d.bad)
		printf("\nThe agent cannot work here: mend what is marked ✗.\n");
	else if (d.limits)
		printf("\nThe agent works here, with %u %s: see what is marked !.\n", d.limits,
		       d.limits == 1 ? "limit" : "limits");
	else
		printf("\nThe agent works here; nothing is missing.\n");
	return d.bad ? 1 : 0;
}
