/* SPDX-License-Identifier: MIT
 *
 * The helper: one queue in, one list out, an eventfd to say so. A request is handed over with sonde_detach() and
 * sonde_attach(), or the profile could not know whom the helper works for.
 */
#include "examples/demo/helper.h"

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "examples/demo/blocking.h"

static struct {
	pthread_t thread;
	int done_fd;
	pthread_mutex_t lock; /* protects what follows; no other lock is taken under it */
	pthread_cond_t wake;
	struct request *todo, **todo_end;
	struct request *done;
	bool stopping;
} helper = { .done_fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER };

static struct request *next_request(void)
{
	struct request *request;

	pthread_mutex_lock(&helper.lock);
	while (!helper.todo && !helper.stopping)
		pthread_cond_wait(&helper.wake, &helper.lock);
	request = helper.todo;
	if (request)
		helper.todo = request->next;
	if (!helper.todo)
		helper.todo_end = &helper.todo;
	pthread_mutex_unlock(&helper.lock);
	return request;
}

static void *helper_main(void *nothing)
{
	struct request *request;

	while ((request = next_request()) != NULL) {
		sonde_attach(request->handed);
		truth_handed_over(&request->truth, request->truth.left_ns);
		truth_resume(&request->truth);
		blocking_hold_lock(request, request->hold_ns);
		request->truth.left_ns = truth_pause(&request->truth);
		request->handed = sonde_detach();

		pthread_mutex_lock(&helper.lock);
		request->next = helper.done;
		helper.done = request;
		pthread_mutex_unlock(&helper.lock);
		eventfd_write(helper.done_fd, 1);
	}
	return nothing;
}

int helper_start(void)
{
	int error;

	helper.todo_end = &helper.todo;
	helper.done_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (helper.done_fd < 0)
		return -errno;
	error = pthread_create(&helper.thread, NULL, helper_main, NULL);
	if (error == 0)
		return helper.done_fd;
	close(helper.done_fd);
	helper.done_fd = -1;
	return -error;
}

void helper_stop(void)
{
	if (helper.done_fd < 0)
		return;
	pthread_mutex_lock(&helper.lock);
	helper.stopping = true;
	pthread_cond_signal(&helper.wake);
	pthread_mutex_unlock(&helper.lock);
	pthread_join(helper.thread, NULL);
	close(helper.done_fd);
	helper.done_fd = -1;
}

void helper_submit(struct request *request)
{
	request->handed = sonde_detach();
	request->next = NULL;
	pthread_mutex_lock(&helper.lock);
	*helper.todo_end = request;
	helper.todo_end = &request->next;
	pthread_cond_signal(&helper.wake);
	pthread_mutex_unlock(&helper.lock);
}

struct request *helper_take_done(void)
{
	struct request *done;
	eventfd_t count;

	eventfd_read(helper.done_fd, &count);
	pthread_mutex_lock(&helper.lock);
	done = helper.done;
	helper.done = NULL;
	pthread_mutex_unlock(&helper.lock);
	return done;
}
