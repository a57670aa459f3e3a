/* SPDX-License-Identifier: MIT
 *
 * Ticks for those who watch; see live.h.
 *
 * Threads: the live thread makes ticks; each client's own thread of the daemon waits for them in client_read(). `lock`
 * protects the list of clients and everything in them but `tick` and `offset`, which belong to the client's thread.
 */
#include "server/live.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/api.h"
#include "server/counters.h"
#include "server/log.h"

/* One second of one service, shared by its listeners. */
struct tick {
	_Atomic unsigned users; /* release on drop, acquire by the one who frees */
	size_t len;
	char bytes[];
};

struct client {
	struct live *live;
	char *service; /* NULL: all */
	/* its own thread */
	struct tick *tick;
	size_t offset;
	/* under lock */
	struct tick *next_tick;
	struct client *next, *prev;
};

struct live {
	struct store *store; /* constant after start */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* clients or stop: for the live thread */
	pthread_cond_t ticked;  /* next_tick or stop: for the clients */
	/* under lock */
	struct client *clients;
	unsigned count;
	bool stop;
};

static void tick_drop(struct tick *tick)
{
	if (tick && atomic_fetch_sub_explicit(&tick->users, 1, memory_order_acq_rel) == 1)
		free(tick);
}

static struct tick *tick_make(struct live *live, const char *service)
{
	struct buffer out = { 0 };
	struct timespec now;
	struct tick *tick = NULL;
	int err;

	clock_gettime(CLOCK_REALTIME, &now);
	buffer_text(&out, "event: tick\ndata: ");
	err = api_live_tick(live->store, service,
			    (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec, &out);
	if (err) {
		/* A comment keeps the connection and the client's patience alive. */
		buffer_fini(&out);
		buffer_text(&out, ": no data");
	}
	buffer_text(&out, "\n\n");
	if (!out.failed)
		tick = malloc(sizeof(*tick) + out.len);
	if (tick) {
		tick->users = 1;
		tick->len = out.len;
		memcpy(tick->bytes, out.bytes, out.len);
	}
	buffer_fini(&out);
	return tick;
}

/* ---- The clients' threads ---- */

static ssize_t client_read(void *context, uint64_t position, char *to, size_t max)
{
	struct client *c = context;
	size_t n;

	(void)position;
	if (c->tick && c->offset == c->tick->len) {
		tick_drop(c->tick);
		c->tick = NULL;
	}
	if (!c->tick) {
		pthread_mutex_lock(&c->live->lock);
		while (!c->next_tick && !c->live->stop)
			pthread_cond_wait(&c->live->ticked, &c->live->lock);
		c->tick = c->next_tick;
		c->next_tick = NULL;
		c->offset = 0;
		pthread_mutex_unlock(&c->live->lock);
	}
	if (!c->tick)
		return MHD_CONTENT_READER_END_OF_STREAM;
	n = c->tick->len - c->offset;
	if (n > max)
		n = max;
	memcpy(to, c->tick->bytes + c->offset, n);
	c->offset += n;
	return (ssize_t)n;
}

static void client_free(void *context)
{
	struct client *c = context;
	struct live *live = c->live;

	pthread_mutex_lock(&live->lock);
	if (c->prev)
		c->prev->next = c->next;
	else
		live->clients = c->next;
	if (c->next)
		c->next->prev = c->prev;
	live->count--;
	pthread_mutex_unlock(&live->lock);
	count_sub(live_clients, 1);
	tick_drop(c->tick);
	tick_drop(c->next_tick);
	free(c->service);
	free(c);
}

struct MHD_Response *live_response(struct live *live, struct MHD_Connection *connection,
				   const char *service)
{
	struct client *c = calloc(1, sizeof(*c));
	struct MHD_Response *response;
	bool full;

	if (!c)
		return NULL;
	*c = (struct client){ .live = live, .service = service ? strdup(service) : NULL };
	pthread_mutex_lock(&live->lock);
	full = live->count >= LIVE_CLIENTS_MAX || live->stop || (service && !c->service);
	if (!full) {
		live->count++;
		c->next = live->clients;
		if (c->next)
			c->next->prev = c;
		live->clients = c;
		pthread_cond_signal(&live->changed);
	}
	pthread_mutex_unlock(&live->lock);
	if (full) {
		count_add(live_refused_total, 1);
		free(c->service);
		free(c);
		return NULL;
	}
	count_add(live_clients, 1);
	response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 << 10, client_read, c,
						     client_free);
	if (!response)
		client_free(c);
	else
		MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT,
					  (unsigned)LIVE_PATIENCE_SECONDS);
	return response;
}

/* ---- The live thread ---- */

static bool same_service(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

/* The services somebody listens to, as copies: NULL in @services is "all". Returns how many. Under lock. */
static size_t services_wanted(struct live *live, char **services)
{
	size_t count = 0;

	for (struct client *c = live->clients; c; c = c->next) {
		size_t i = 0;

		while (i < count && !same_service(services[i], c->service))
			i++;
		if (i < count || count == LIVE_SERVICES_MAX)
			continue;
		services[count] = c->service ? strdup(c->service) : NULL;
		if (services[count] || !c->service)
			count++;
	}
	return count;
}

/* Hand @tick to everybody who listens to @service. */
static void hand_out(struct live *live, const char *service, struct tick *tick)
{
	pthread_mutex_lock(&live->lock);
	for (struct client *c = live->clients; c; c = c->next) {
		if (!same_service(c->service, service))
			continue;
		tick_drop(c->next_tick); /* it has not taken the last one: it misses that */
		atomic_fetch_add_explicit(&tick->users, 1, memory_order_relaxed);
		c->next_tick = tick;
	}
	pthread_cond_broadcast(&live->ticked);
	pthread_mutex_unlock(&live->lock);
}

static void tick_all(struct live *live)
{
	char *services[LIVE_SERVICES_MAX];
	size_t count;

	pthread_mutex_lock(&live->lock);
	count = services_wanted(live, services);
	pthread_mutex_unlock(&live->lock);
	for (size_t i = 0; i < count; i++) {
		struct tick *tick = tick_make(live, services[i]);

		if (tick)
			hand_out(live, services[i], tick);
		tick_drop(tick);
		free(services[i]);
	}
}

static void *live_main(void *argument)
{
	struct live *live = argument;
	struct timespec next;

	pthread_setname_np(pthread_self(), "live");
	pthread_mutex_lock(&live->lock);
	clock_gettime(CLOCK_MONOTONIC, &next);
	while (!live->stop) {
		if (!live->clients) {
			pthread_cond_wait(&live->changed, &live->lock);
			clock_gettime(CLOCK_MONOTONIC, &next);
			continue; /* the first tick at once */
		}
		pthread_mutex_unlock(&live->lock);
		tick_all(live);
		pthread_mutex_lock(&live->lock);
		next.tv_sec++;
		while (!live->stop && live->clients &&
		       pthread_cond_timedwait(&live->changed, &live->lock, &next) != ETIMEDOUT)
			;
	}
	pthread_mutex_unlock(&live->lock);
	return NULL;
}

struct live *live_create(struct store *store)
{
	struct live *live = calloc(1, sizeof(*live));
	pthread_condattr_t attr;

	if (!live)
		return NULL;
	live->store = store;
	pthread_mutex_init(&live->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&live->changed, &attr);
	pthread_condattr_destroy(&attr);
	pthread_cond_init(&live->ticked, NULL);
	if (pthread_create(&live->thread, NULL, live_main, live)) {
		free(live);
		return NULL;
	}
	return live;
}

void live_stop(struct live *live)
{
	pthread_mutex_lock(&live->lock);
	live->stop = true;
	pthread_cond_signal(&live->changed);
	pthread_cond_broadcast(&live->ticked);
	pthread_mutex_unlock(&live->lock);
	pthread_join(live->thread, NULL);
}

void live_destroy(struct live *live)
{
	if (!live)
		return;
	pthread_cond_destroy(&live->changed);
	pthread_cond_destroy(&live->ticked);
	pthread_mutex_destroy(&live->lock);
	free(live);
}
