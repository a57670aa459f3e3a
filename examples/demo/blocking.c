/* SPDX-License-Identifier: MIT
 *
 * Waits that block the thread. Any thread.
 */
#include "examples/demo/blocking.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "examples/demo/peer.h"
#include "examples/demo/work.h"

static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;

static void take_lock(struct request *request)
{
	struct clocks before = truth_clocks();

	pthread_mutex_lock(&shared_lock);
	truth_waited(&request->truth, WAIT_LOCK, &before);
}

enum progress blocking_sleep(struct request *request, uint64_t ns)
{
	struct timespec left = { .tv_sec = (time_t)(ns / 1000000000u),
				 .tv_nsec = (long)(ns % 1000000000u) };
	struct clocks before = truth_clocks();

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
	truth_waited(&request->truth, WAIT_SLEEP, &before);
	return GO_ON;
}

enum progress blocking_ask_peer(struct request *request, unsigned delay_ms)
{
	struct clocks before;
	int fd = peer_take();

	if (fd < 0) {
		request->failed = true;
		return GO_ON;
	}
	peer_ask(fd, delay_ms);
	before = truth_clocks();
	request->failed = peer_answer(fd) <= 0;
	truth_waited(&request->truth, WAIT_IO, &before);
	peer_give(fd, !request->failed);
	return GO_ON;
}

enum progress blocking_hold_lock(struct request *request, uint64_t ns)
{
	take_lock(request);
	blocking_sleep(request, ns);
	pthread_mutex_unlock(&shared_lock);
	return GO_ON;
}

void blocking_use_lock(struct request *request)
{
	take_lock(request);
	tally();
	pthread_mutex_unlock(&shared_lock);
}
