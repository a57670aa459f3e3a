/* SPDX-License-Identifier: MIT
 *
 * Looks at waits: each stands for the time since the one before, and a wait is counted in whole however seldom anything of it
 * is touched. Time is an argument, nothing here sleeps. The stacks are of addresses that nobody knows.
 */
#include <stdlib.h>
#include <string.h>

#include "agent/core/life.h"
#include "tests/unit/unit.h"

/* What hook/thread.c defines in the agent; it interposes libc and so is not linked here. */
__thread struct thread_local_state tls;
struct shared *shared;

enum {
	THREADS = 3,
	MS = 1000000
};

static struct shared memory;
static struct thread *threads;
static struct config config;
static struct life *l;
static char ring[THREADS][4096];

static int setup(void **state)
{
	(void)state;
	memset(&memory, 0, sizeof memory);
	shared = &memory;
	threads = aligned_alloc(64, THREADS * sizeof *threads);
	l = calloc(1, sizeof *l);
	assert_non_null(threads);
	assert_non_null(l);
	memset(threads, 0, THREADS * sizeof *threads);
	pool_init(&memory.threads, threads, THREADS, sizeof *threads);
	for (uint32_t i = 0; i < THREADS; i++) {
		struct thread *t = &threads[pool_take(&memory.threads) - 1];

		t->index = i + 1;
		t->tid = (pid_t)(100 + i);
		t->life = THREAD_LIVE;
		t->ring.bytes = ring[i];
		t->ring.size = sizeof ring[i];
	}
	assert_int_equal(config_load(&config, (char *[]){ NULL }, (char[64]){ 0 }, 64), 0);
	l->config = &config;
	l->pidfd = -1;
	l->own_files = true;
	l->dict = dict_create();
	l->aggregate = aggregate_create(&config);
	l->modules = modules_create();
	return l->dict && l->aggregate && l->modules ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	dict_destroy(l->dict);
	aggregate_destroy(l->aggregate);
	modules_destroy(l->modules);
	free(l);
	free(threads);
	return 0;
}

static void wait_begins(struct thread *t, request_id request, uint8_t state)
{
	t->wait.state = state;
	t->wait.fd = -1;
	t->wait.request = request;
	t->wait.pc = 0x1000;
	t->wait.seq++;
}

static void wait_ends(struct thread *t)
{
	t->wait.seq++;
}

struct sum {
	uint64_t rows, count, ns;
};

/* All sampled rows of the window, which closes; in @state. */
static struct sum close_window(uint32_t state)
{
	struct aggregate_window window = { .seq = 1, .end_ns = 1, .end_unix_ns = 1 };
	struct encode_buffer buffer = { 0 };
	struct sum sum = { 0 };
	Sonde__Frame *frame;

	peek_settle(l);
	assert_int_equal(aggregate_window_encode(l->aggregate, &window, NULL, &buffer), 0);
	frame = sonde__frame__unpack(NULL, buffer.used - ENCODE_PREFIX_BYTES,
				     buffer.bytes + ENCODE_PREFIX_BYTES);
	assert_non_null(frame);
	for (size_t i = 0; i < frame->window->rows->n_stack; i++) {
		if (!frame->window->rows->stack[i] || frame->window->rows->state[i] != state)
			continue;
		sum.rows++;
		sum.count += frame->window->rows->count[i];
		sum.ns += frame->window->rows->ns[i];
	}
	sonde__frame__free_unpacked(frame, NULL);
	encode_buffer_fini(&buffer);
	return sum;
}

static void assert_sum(struct sum got, uint64_t count, uint64_t ns)
{
	assert_int_equal(got.count, count);
	assert_int_equal(got.ns, ns);
}

static void a_wait_counts_the_time_of_its_looks(void **state)
{
	(void)state;
	peek(l, 100 * MS);
	wait_begins(&threads[0], 0, LOCK);
	peek(l, 120 * MS); /* 20 */
	peek(l, 135 * MS); /* 15 */
	peek(l, 0);        /* no look: nothing is counted */
	peek(l, 160 * MS); /* 25 */
	wait_ends(&threads[0]);
	peek(l, 185 * MS);
	assert_sum(close_window(LOCK), 3, 60 * MS);
	peek(l, 200 * MS);
	assert_sum(close_window(LOCK), 0, 0);
}

static void a_wait_in_progress_is_in_every_window(void **state)
{
	(void)state;
	peek(l, 100 * MS);
	wait_begins(&threads[1], 0, LOCK);
	peek(l, 120 * MS);
	peek(l, 140 * MS);
	assert_sum(close_window(LOCK), 2, 40 * MS);
	assert_sum(close_window(LOCK), 0, 0);
	peek(l, 190 * MS);
	wait_ends(&threads[1]);
	peek(l, 0);
	assert_sum(close_window(LOCK), 1, 50 * MS);
}

static void the_next_wait_is_another_one(void **state)
{
	(void)state;
	peek(l, 100 * MS);
	wait_begins(&threads[0], 0, LOCK);
	peek(l, 110 * MS);
	wait_ends(&threads[0]);
	wait_begins(&threads[0], 0, LOCK);
	peek(l, 0); /* notices, but opens nothing: only a look comes at a random moment */
	peek(l, 130 * MS);
	wait_ends(&threads[0]);
	wait_begins(&threads[0], 0, IO); /* idle: of no request */
	peek(l, 170 * MS);
	peek(l, 180 * MS);
	assert_sum(close_window(LOCK), 2, 30 * MS);
	assert_sum(close_window(IO), 0, 0);
}

static void a_waits_request_that_ended_meanwhile_gets_it(void **state)
{
	(void)state;
	struct done done = { .request = 7, .route = 1, .status = 200, .latency_ns = 40 * MS };

	peek(l, 100 * MS);
	wait_begins(&threads[2], 7, SLEEP);
	peek(l, 120 * MS);
	peek(l, 140 * MS);
	wait_ends(&threads[2]);
	peek(l, 0);
	aggregate_done(l->aggregate, &done);
	assert_sum(close_window(SLEEP), 2, 40 * MS);
}

static void an_ended_thread_leaves_its_last_wait_and_its_record(void **state)
{
	(void)state;
	peek(l, 100 * MS);
	wait_begins(&threads[0], 0, LOCK); /* cancelled in it */
	peek(l, 120 * MS);
	threads[0].life = THREAD_ENDED;
	peek(l, 0);
	assert_int_equal(threads[0].life, THREAD_FREE);
	assert_sum(close_window(LOCK), 1, 20 * MS);
	/* the record's next user waits under the same number */
	memset((char *)&threads[0] + sizeof threads[0].link, 0,
	       sizeof threads[0] - sizeof threads[0].link);
	threads[0].index = 1;
	threads[0].tid = 999;
	threads[0].life = THREAD_LIVE;
	wait_begins(&threads[0], 0, LOCK);
	peek(l, 150 * MS);
	wait_ends(&threads[0]);
	assert_sum(close_window(LOCK), 1, 30 * MS);
}

static void new_samples_are_taken_and_old_ones_not_looked_for(void **state)
{
	(void)state;
	struct sample_record *record = ring_reserve(&threads[0].ring, sizeof *record + 8);

	*record = (struct sample_record){ .record.kind = RECORD_SAMPLE,
					  .weight_ns = 10 * MS,
					  .depth = 1 };
	record->pcs[0] = 0x1000;
	ring_commit(&threads[0].ring, sizeof *record + 8);
	peek(l, 0);
	assert_sum(close_window(CPU), 0, 0); /* not told yet */
	threads[0].news++;
	peek(l, 0);
	assert_sum(close_window(CPU), 1, 10 * MS);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_wait_counts_the_time_of_its_looks, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_wait_in_progress_is_in_every_window, setup,
						teardown),
		cmocka_unit_test_setup_teardown(the_next_wait_is_another_one, setup, teardown),
		cmocka_unit_test_setup_teardown(a_waits_request_that_ended_meanwhile_gets_it, setup,
						teardown),
		cmocka_unit_test_setup_teardown(an_ended_thread_leaves_its_last_wait_and_its_record,
						setup, teardown),
		cmocka_unit_test_setup_teardown(new_samples_are_taken_and_old_ones_not_looked_for,
						setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
