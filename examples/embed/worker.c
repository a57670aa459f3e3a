/* SPDX-License-Identifier: MIT
 *
 * A job queue that is no HTTP server, under sonde: each job becomes a request. It links against nothing and prints the
 * same without the agent; with it (`sonde run -- worker 500`) the route "JOB resize" shows where the jobs' time goes.
 *
 * Threads: main makes jobs, workers do them. A job waits in the queue, detached, until a worker attaches it.
 */
#include <pthread.h>
#include <sonde.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
	WORKERS = 2,
	JOBS_MAX = 100000
};

struct job {
	sonde_request request;
	unsigned number;
	struct job *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* protects the queue and done */
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static struct job *queue, **queue_end = &queue;
static unsigned done;
static int closed;

static void put(struct job *job)
{
	sonde_begin("JOB resize");      /* 1: a request begins ... */
	sonde_label("kind", "example"); /* (said about the request in hand) */
	job->request = sonde_detach();  /* 2: ... is put down by this thread ... */

	pthread_mutex_lock(&lock);
	*queue_end = job;
	queue_end = &job->next;
	pthread_cond_signal(&work);
	pthread_mutex_unlock(&lock);
}

static struct job *take(void)
{
	struct job *job;

	pthread_mutex_lock(&lock);
	while (!queue && !closed)
		pthread_cond_wait(&work, &lock);
	job = queue;
	if (job)
		queue = job->next;
	if (!queue)
		queue_end = &queue;
	pthread_mutex_unlock(&lock);
	return job;
}

static void resize(void)
{
	const struct timespec disk = { .tv_nsec = 2000000 };
	volatile unsigned pixels = 0;

	while (pixels < 200000)
		pixels++;
	nanosleep(&disk, NULL);
}

static void *worker(void *nothing)
{
	struct job *job;

	while ((job = take()) != NULL) {
		sonde_attach(job->request); /* 3: ... taken up by another ... */
		resize();
		sonde_end(job->request,
			  job->number % 10 == 9); /* 4: ... and ends; every tenth fails */

		pthread_mutex_lock(&lock);
		done++;
		pthread_mutex_unlock(&lock);
		free(job);
	}
	return nothing;
}

int main(int argc, char **argv)
{
	unsigned long jobs = argc > 1 ? strtoul(argv[1], NULL, 10) : 20;
	const struct timespec pause = { .tv_nsec = 1500000 };
	pthread_t threads[WORKERS];
	int started = 0;

	if (jobs == 0 || jobs > JOBS_MAX) {
		fprintf(stderr, "usage: worker [JOBS], 1 to %d\n", JOBS_MAX);
		return 2;
	}
	while (started < WORKERS && pthread_create(&threads[started], NULL, worker, NULL) == 0)
		started++;
	sonde_mark("jobs begin"); /* 5: a line in the charts */
	for (unsigned number = 0; started > 0 && number < jobs; number++) {
		struct job *job = calloc(1, sizeof(*job));

		if (!job)
			break;
		job->number = number;
		put(job);
		nanosleep(&pause, NULL);
	}
	pthread_mutex_lock(&lock);
	closed = 1;
	pthread_cond_broadcast(&work);
	pthread_mutex_unlock(&lock);
	while (started > 0)
		pthread_join(threads[--started], NULL);
	printf("%u jobs done\n", done);
	return done == jobs ? 0 : 1;
}
