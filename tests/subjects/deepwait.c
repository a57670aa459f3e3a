/* SPDX-License-Identifier: MIT
 *
 * deepwait THREADS SECONDS: that many threads wait for a lock that nobody gives up, each 40 frames of half a KiB down.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile char sink;

__attribute__((noinline)) static void down(unsigned left)
{
	char frame[512];

	memset(frame, (int)left, sizeof frame);
	if (left)
		down(left - 1);
	else
		pthread_mutex_lock(&lock);
	sink = frame[left];
}

__attribute__((noinline)) static void *outermost(void *argument)
{
	down(40);
	sink++;
	return argument;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	if (argc != 3)
		return 2;
	pthread_mutex_lock(&lock);
	for (int i = atoi(argv[1]); i > 0; i--)
		if (pthread_create(&thread, NULL, outermost, NULL))
			return 1;
	sleep((unsigned)atoi(argv[2]));
	puts("done");
	fflush(stdout);
	_exit(0);
}
