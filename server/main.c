/* SPDX-License-Identifier: MIT
 *
 * `sonde COMMAND`: finds the command and leaves the rest to its cmd_*.c.
 */
#include <argp.h>
#include <stdio.h>
#include <string.h>

#include "server/cmd.h"

const char *argp_program_version = "sonde " SONDE_VERSION;

static const struct command {
	const char *name, *shown, *help;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "run", "sonde run", "start a program under the agent", cmd_run },
	{ "serve", "sonde serve", "collect, store and show what agents report", cmd_serve },
	{ "top", "sonde top", "a live table of the routes, in the terminal", cmd_top },
	{ "export", "sonde export", "write a profile: pprof, folded or html", cmd_export },
	{ "diff", "sonde diff", "compare two profiles, ns per request", cmd_diff },
	{ "doctor", "sonde doctor", "what this machine allows, what is missing, what that costs",
	  cmd_doctor },
};
enum {
	COMMANDS = sizeof(commands) / sizeof(commands[0])
};

static void help(FILE *to)
{
	fputs("Usage: sonde COMMAND [OPTION...]\n\nWhere a server's time goes, route by route.\n\n",
	      to);
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(to, "  %-8s %s\n", commands[i].name, commands[i].help);
	fputs("\n`sonde COMMAND --help` says more; `sonde --version` prints the version.\n", to);
}

int main(int argc, char **argv)
{
	argp_err_exit_status = 2;
	if (argc < 2) {
		help(stderr);
		return 2;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0 ||
	    strcmp(argv[1], "help") == 0) {
		help(stdout);
		return 0;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		puts(argp_program_version);
		return 0;
	}
	for (size_t i = 0; i < COMMANDS; i++) {
		if (strcmp(argv[1], commands[i].name) == 0) {
			char shown[32];

			snprintf(shown, sizeof(shown), "%s", commands[i].shown);
			argv[1] = shown; /* argp takes its messages' name from here */
			return commands[i].run(argc - 1, argv + 1);
		}
	}
	fprintf(stderr, "sonde: there is no command '%s'; `sonde --help` lists them\n", argv[1]);
	return 2;
}
