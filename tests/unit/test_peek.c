/* SPDX-License-Identifier: MIT
 *
 * Looks at waits: each stands for the time since the one before, and a wait is counted in whole however seldom anything of it
 * is touched. Time is an argument, nothing here sleeps. The stacks are of addresses that nobody knows.
 */
#include <stdlib.h>
#include <string.h>

#include "agent/core/life.h"
#include "agent/hook/wait.h"
#include "tests/unit/unit.h"

/* What hook/thread.c defines in the agent; it interposes libc and so is not linked here. */
__thread struct thread_local_state tls;
struct shared *shared;

enum {
	THREADS = 3,
	MS = 1000000,
	CODE_BYTES = 256
};

#define CODE 0x100000001000u

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
	t->wait.pc = CODE;
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

	peek(l, 0); /* as the agent's loop does */
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

/* ---- Places: the thread adds up its waits itself ---- */

static uintptr_t stack[16], other_stack[16];

static void keep(struct unwind_table *table)
{
	(void)table;
}

/* At CODE the return address is where sp points: so that the place of a wait can be told. */
static int setup_places(void **state)
{
	static const struct unwind_row row = { .rule = UNWIND_SP | 1u << UNWIND_CFA_SHIFT };
	static const uint32_t page[(CODE_BYTES >> UNWIND_PAGE_SHIFT) + 2];
	static struct unwind_table *table;

	if (setup(state))
		return -1;
	table = aligned_alloc(64, (sizeof *table + sizeof table->span[0] + 63) / 64 * 64);
	if (!table)
		return -1;
	memset(table, 0, sizeof *table);
	table->release = keep;
	table->n_spans = 1;
	table->span[0] = (struct unwind_span){
		.low = CODE, .high = CODE + CODE_BYTES, .row = &row, .page = page, .n_rows = 1
	};
	threads[0].stack_low = (uintptr_t)stack;
	threads[0].stack_high = (uintptr_t)(stack + 16);
	*state = table;
	return unwind_publish(table);
}

static int teardown_places(void **state)
{
	unwind_publish(NULL);
	free(*state);
	*state = NULL;
	return teardown(state);
}

static void wait_begins_at(unsigned word, uintptr_t caller, request_id request, uint8_t state)
{
	stack[word] = caller;
	threads[0].wait.sp = (uintptr_t)&stack[word];
	wait_begins(&threads[0], request, state);
}

/* As the wrapper does, who knows how long it was. */
static void add_to_place(uint64_t ns)
{
	const struct wait_slot *w = &threads[0].wait;
	const struct wait_place like = { .caller = *(const uintptr_t *)w->sp,
					 .sp = (uint32_t)w->sp,
					 .state = w->state,
					 .request = w->request != 0 };
	struct wait_place *p = wait_place(&threads[0], &like, true);

	assert_non_null(p);
	p->ns += ns;
	p->last = w->request;
}

static void wait_ends_after(uint64_t ns)
{
	add_to_place(ns);
	wait_ends(&threads[0]);
}

static void places_differ_by_caller_depth_state_and_request(void **state)
{
	struct wait_place like = { .caller = 0x5000, .sp = 0x100, .state = LOCK };
	struct wait_place *first = wait_place(&threads[0], &like, true);

	(void)state;
	assert_non_null(first);
	assert_ptr_equal(wait_place(&threads[0], &like, true), first);
	like.request = true;
	assert_null(wait_place(&threads[0], &like, false));
	assert_ptr_not_equal(wait_place(&threads[0], &like, true), first);
	like = (struct wait_place){ .caller = 0x5000, .sp = 0x108, .state = LOCK };
	assert_null(wait_place(&threads[0], &like, false));
	like = (struct wait_place){ .caller = 0x5008, .sp = 0x100, .state = LOCK };
	assert_null(wait_place(&threads[0], &like, false));
	like = (struct wait_place){ .caller = 0x5000, .sp = 0x100, .state = IO };
	assert_null(wait_place(&threads[0], &like, false));
}

static void there_is_room_for_so_many_places(void **state)
{
	unsigned made = 0;

	(void)state;
	for (uintptr_t i = 0; i < 1000; i++) {
		struct wait_place like = { .caller = 0x5000 + 16 * i, .state = IO };

		made += wait_place(&threads[0], &like, true) != NULL;
	}
	assert_int_equal(made, WAIT_PLACES);
}

static void a_look_stands_for_all_of_its_place(void **state)
{
	(void)state;
	peek(l, 100 * MS);
	for (unsigned i = 0; i < 50; i++) { /* no look sees these */
		wait_begins_at(2, 0x5001, 0, LOCK);
		wait_ends_after(MS / 10);
	}
	wait_begins_at(2, 0x5001, 0, LOCK);
	peek(l, 120 * MS);
	wait_ends_after(MS / 10);
	peek(l, 140 * MS);
	assert_sum(close_window(LOCK), 1, 51 * MS / 10);
	wait_begins_at(2, 0x5001, 0, LOCK); /* nor this one: the window's end has it */
	wait_ends_after(3 * MS);
	assert_sum(close_window(LOCK), 0, 3 * MS);
	assert_sum(close_window(LOCK), 0, 0);
}

static void a_wait_over_several_windows_is_counted_once(void **state)
{
	(void)state;
	peek(l, 100 * MS);
	wait_begins_at(3, 0x5001, 0, LOCK);
	peek(l, 120 * MS);
	peek(l, 600 * MS);
	assert_sum(close_window(LOCK), 2, 480 * MS); /* in progress: by looks, from the first on */
	peek(l, 1100 * MS);
	assert_sum(close_window(LOCK), 1, 500 * MS);
	wait_ends_after(1010 * MS); /* it had begun at 110 */
	peek(l, 1130 * MS);
	assert_sum(close_window(LOCK), 0, 30 * MS);
}

static void a_wait_that_was_jumped_out_of_takes_nothing_from_the_next(void **state)
{
	(void)state;
	wait_begins_at(3, 0x5001, 0, LOCK);
	wait_ends_after(MS);
	peek(l, 100 * MS);
	wait_begins_at(3, 0x5001, 0, LOCK);
	peek(l, 120 * MS);
	peek(l, 1120 * MS);
	assert_sum(close_window(LOCK), 2, 1000 * MS);
	wait_ends(&threads[0]); /* without a word */
	peek(l, 1140 * MS);
	close_window(LOCK);
	wait_begins_at(3, 0x5001, 0, LOCK);
	wait_ends_after(5 * MS);
	assert_sum(close_window(LOCK), 0, 5 * MS);
}

static void what_is_left_waits_for_a_request_that_is_known(void **state)
{
	struct done done = { .request = 7, .route = 1, .status = 200, .latency_ns = 40 * MS };

	(void)state;
	peek(l, 100 * MS);
	wait_begins_at(3, 0x5001, 7, IO);
	peek(l, 120 * MS);
	wait_ends_after(15 * MS);
	peek(l, 0);
	aggregate_done(l->aggregate, &done);
	wait_begins_at(3, 0x5001, 7, IO); /* again, not seen */
	wait_ends_after(2 * MS);
	assert_sum(close_window(IO), 1, 17 * MS);
	wait_begins_at(3, 0x5001, 9, IO);
	peek(l, 200 * MS);
	wait_ends_after(4 * MS);
	peek(l, 0);
	aggregate_forget(l->aggregate, 9);
	add_to_place(MS);
	assert_sum(close_window(IO), 0, 0); /* 9 is nobody */
	done.request = 10;
	wait_begins_at(3, 0x5001, 10, IO);
	peek(l, 220 * MS);
	wait_ends_after(4 * MS);
	peek(l, 0);
	aggregate_done(l->aggregate, &done);
	assert_sum(close_window(IO), 1, 5 * MS);
}

static void a_place_that_no_look_found_borrows_the_stack_of_another_threads(void **state)
{
	struct done done = { .request = 7, .route = 1, .status = 200, .latency_ns = 40 * MS };

	(void)state;
	peek(l, 100 * MS);
	wait_begins_at(3, 0x5001, 7, IO);
	wait_ends_after(2 * MS);
	aggregate_done(l->aggregate, &done);
	assert_sum(close_window(IO), 0, 0);
	/* the same depth of a stack that lies elsewhere */
	threads[1].stack_low = (uintptr_t)other_stack;
	threads[1].stack_high = (uintptr_t)(other_stack + 16);
	other_stack[3] = 0x5001;
	threads[1].wait.sp = (uintptr_t)&other_stack[3];
	wait_begins(&threads[1], 8, IO);
	peek(l, 120 * MS);
	wait_place(&threads[1],
		   &(struct wait_place){ .caller = 0x5001,
					 .sp = (uint32_t)threads[1].wait.sp,
					 .state = IO,
					 .request = true },
		   true)
		->ns = 3 * MS;
	wait_ends(&threads[1]);
	done.request = 8;
	peek(l, 0);
	aggregate_done(l->aggregate, &done);
	assert_sum(close_window(IO), 1, 5 * MS);
}

static void locks_of_a_short_thread_are_told_though_no_look_saw_them(void **state)
{
	(void)state;
	wait_begins_at(3, 0x5001, 0, LOCK);
	wait_ends_after(4 * MS);
	wait_begins_at(4, 0x5001, 0, SLEEP); /* idle */
	wait_ends_after(4 * MS);
	threads[0].life = THREAD_ENDED;
	peek(l, 0);
	assert_int_equal(threads[0].life, THREAD_FREE);
	assert_sum(close_window(LOCK), 0, 4 * MS);
	assert_sum(close_window(LOCK), 0, 0); /* what lies in a free record is no news */
	assert_sum(close_window(SLEEP), 0, 0);
}

#define PLACES(test) cmocka_unit_test_setup_teardown(test, setup_places, teardown_places)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		PLACES(places_differ_by_caller_depth_state_and_request),
		PLACES(there_is_room_for_so_many_places),
		PLACES(a_look_stands_for_all_of_its_place),
		PLACES(a_wait_over_several_windows_is_counted_once),
		PLACES(a_wait_that_was_jumped_out_of_takes_nothing_from_the_next),
		PLACES(what_is_left_waits_for_a_request_that_is_known),
		PLACES(a_place_that_no_look_found_borrows_the_stack_of_another_threads),
		PLACES(locks_of_a_short_thread_are_told_though_no_look_saw_them),
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
