/* SPDX-License-Identifier: MIT
 *
 * The agent thread's data path with every allocation failing in turn: nothing crashes, nothing leaks, and once there is memory
 * again it goes on.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/aggregate.h"
#include "agent/core/config.h"
#include "agent/core/dict.h"
#include "agent/core/identity.h"
#include "agent/core/transport.h"
#include "tests/unit/unit.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* The sanitizers bring their own allocator, which cannot be replaced; there the other tests look for leaks. */
int main(void)
{
	printf("1..0 # skipped under a sanitizer\nok 1 - skipped\n");
	return 0;
}
#else

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
extern void __libc_free(void *old);

static bool armed;
static long countdown, live; /* the allocation that fails; allocated while armed and not freed */

static bool fails(void)
{
	if (!armed)
		return false;
	if (--countdown == 0) {
		errno = ENOMEM;
		return true;
	}
	live++;
	return false;
}

void *malloc(size_t bytes)
{
	return fails() ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
	return fails() ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
	if (fails())
		return NULL;
	if (old && armed)
		live--;
	return __libc_realloc(old, bytes);
}

void free(void *old)
{
	if (old && armed)
		live--;
	__libc_free(old);
}

struct subject {
	struct aggregate *a;
	struct dict *d;
	struct transport *t;
	uint64_t seq, request;
};

static bool create(struct subject *s, const struct config *c, const struct identity *self)
{
	memset(s, 0, sizeof(*s));
	s->a = aggregate_create(c);
	s->d = dict_create();
	s->t = transport_create(c, self);
	return s->a && s->d && s->t;
}

static void destroy(struct subject *s)
{
	aggregate_destroy(s->a);
	dict_destroy(s->d);
	transport_destroy(s->t);
}

/* One window of everything. */
static void work(struct subject *s)
{
	struct aggregate_window window = { .seq = ++s->seq };
	const struct self_drop drops[] = { { "a", 1 } };
	const struct self_report self = { .drops = drops, .drop_count = 1 };
	struct encode_buffer b = { 0 }, event = { 0 };
	struct dict_module module = { .id = (uint32_t)s->seq, .path = "/bin/x" };

	dict_module(s->d, &module);
	dict_route(s->d, (uint32_t)s->seq, "GET /", "http");
	for (uint32_t i = 0; i < 200; i++) {
		struct dict_frame frames[] = { { 1, i }, { 1, s->seq } };
		struct sample sample = { .request = ++s->request, .state = 1, .ns = 1, .count = 1 };
		struct done done = { .route = 1 + i % 70, .status = 200, .latency_ns = i * i * i };

		sample.stack = dict_stack(s->d, frames, 2);
		sample.thread = dict_thread(s->d, i, "t");
		sample.object = dict_object(s->d, SONDE__OBJECT__KIND__LOCK, "lock");
		aggregate_sample(s->a, &sample);
		done.request = s->request;
		if (i % 2)
			aggregate_done(s->a, &done);
		else
			aggregate_forget(s->a, s->request);
	}
	if (encode_event(&event, "mark", 1) == 0)
		transport_queue(s->t, event.bytes, event.used, 0);
	else
		encode_buffer_fini(&event);
	if (aggregate_window_encode(s->a, &window, &self, &b) == 0)
		transport_queue(s->t, b.bytes, b.used, window.seq);
	else
		encode_buffer_fini(&b);
	b = (struct encode_buffer){ 0 };
	while (dict_encode_new(s->d, &b) > 0)
		b.used = 0;
	encode_buffer_fini(&b);
	transport_step(s->t, s->d, s->seq * 10000000000u);
}

static void agent_data_path_survives_each_allocation_failing(void **state)
{
	struct identity self;
	struct subject s;
	struct config c;
	char error[10];
	long step = 1;

	(void)state;
	config_load(&c, NULL, error, sizeof(error));
	snprintf(c.output, sizeof(c.output), "/dev/null"); /* no plain file: refused, retried */
	identity_fill(&self, &c);
	for (long n = 1; n < 100000; n += step) {
		bool made;

		armed = true;
		countdown = n;
		live = 0;
		made = create(&s, &c, &self);
		if (made) {
			work(&s);
			work(&s);
		}
		destroy(&s);
		armed = false;
		if (live != 0)
			fail_msg("%ld allocations leaked when number %ld failed", live, n);
		if (countdown > 0)
			return; /* it got through without failing: all were tried */
	}
	fail_msg("never got through");
}

static void agent_data_path_goes_on_once_there_is_memory_again(void **state)
{
	struct aggregate_window window = { .seq = 9 };
	struct encode_buffer b = { 0 };
	struct done done = { .request = 1, .route = 1, .latency_ns = 5 };
	struct identity self;
	struct subject s;
	struct config c;
	Sonde__Frame *f;
	char error[10];

	(void)state;
	config_load(&c, NULL, error, sizeof(error));
	identity_fill(&self, &c);
	assert_true(create(&s, &c, &self));
	for (long n = 1; n < 400; n++) {
		armed = true;
		countdown = n;
		work(&s);
		armed = false;
	}
	aggregate_done(s.a, &done);
	assert_int_equal(aggregate_window_encode(s.a, &window, NULL, &b), 0);
	f = sonde__frame__unpack(NULL, b.used - 4, b.bytes + 4);
	assert_non_null(f);
	assert_int_equal(f->window->n_routes, 1);
	assert_int_equal(f->window->routes[0]->count, 1);
	sonde__frame__free_unpacked(f, NULL);
	encode_buffer_fini(&b);
	destroy(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(agent_data_path_survives_each_allocation_failing),
		cmocka_unit_test(agent_data_path_goes_on_once_there_is_memory_again),
	};

	return RUN(tests);
}
#endif
