/* SPDX-License-Identifier: MIT
 *
 * deny HOW NUMBER... -- PROGRAM ARGUMENT...: becomes PROGRAM under a filter that answers system calls NUMBER... with errno
 * HOW, or kills for them when HOW is 0. A stand-in for old kernels and strict service managers. test_hostile.py
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	NUMBERS_MAX = 64
};

int main(int argc, char **argv)
{
	struct sock_filter program[NUMBERS_MAX + 3];
	struct sock_fprog fprog = { .filter = program };
	unsigned how = argc > 1 ? (unsigned)atoi(argv[1]) : 0;
	int at = 2, count = 0;

	program[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						  offsetof(struct seccomp_data, nr));
	while (at + count < argc && strcmp(argv[at + count], "--"))
		count++;
	if (at + count + 1 >= argc || count > NUMBERS_MAX)
		return 125;
	for (int i = 0; i < count; i++)
		program[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							      (unsigned)atoi(argv[at + i]),
							      (unsigned char)(count - i), 0);
	program[count + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	program[count + 2] = (struct sock_filter)BPF_STMT(
		BPF_RET | BPF_K, how ? SECCOMP_RET_ERRNO | how : SECCOMP_RET_KILL_PROCESS);
	fprog.len = (unsigned short)(count + 3);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &fprog))
		return 125;
	execvp(argv[at + count + 1], argv + at + count + 1);
	return 125;
}
