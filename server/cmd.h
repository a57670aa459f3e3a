/* SPDX-License-Identifier: MIT
 *
 * The commands of `sonde`, one cmd_*.c each. argv[0] is "sonde NAME", as argp shows it in its messages.
 * Each returns the exit status: 0 good, 1 failed, 2 usage.
 */
#ifndef SERVER_CMD_H
#define SERVER_CMD_H

int cmd_run(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_diff(int argc, char **argv);
int cmd_doctor(int argc, char **argv);

#endif
