/* SPDX-License-Identifier: MIT
 *
 * The ledger: whatever happens to a request between its arrival and its end, its states add up to its latency; and the
 * plain stories come out as the words of the design say. Time is an argument, so nothing here sleeps.
 */
#include <stdlib.h>
#include <string.h>

#include "agent/hook/ended.h"
#include "agent/hook/owned.h"
#include "agent/hook/request.h"
#include "tests/unit/unit.h"

/* What hook/thread.c defines in the agent; it interposes libc and so is not linked here. */
__thread struct thread_local_state tls;
struct shared *shared;

enum {
	REQUESTS = 300,
	MS = 1000000
};

static struct shared memory;
static struct request requests[REQUESTS];
static struct told told[2];
static struct thread threads[3];

static int fresh(void **state)
{
	(void)state;
	memset(&memory, 0, sizeof memory);
	memset(requests, 0, sizeof requests);
	memset(threads, 0, sizeof threads);
	shared = &memory;
	memory.runq.tokens_at_ns = UINT64_MAX / 2; /* no reading of schedstat: time is made up */
	pool_init(&memory.requests, requests, REQUESTS, sizeof *requests);
	pool_init(&memory.told, told, 2, sizeof *told);
	pool_init(&memory.threads, threads, 3, sizeof *threads);
	for (uint32_t i = 0; i < 3; i++) {
		threads[i].index = i + 1;
		threads[i].tid = (pid_t)(100 + i);
	}
	return 0;
}

static const struct request *slot(request_id id)
{
	return &requests[(uint32_t)id - 1];
}

static unsigned active(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < REQUESTS; i++)
		n += requests[i].life == REQUEST_ACTIVE;
	return n;
}

static uint64_t sum(const struct request *r)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < STATES; i++)
		total += r->ledger_ns[i];
	return total;
}

static void assert_closed(const struct request *r)
{
	assert_int_equal(r->life, REQUEST_DONE);
	assert_int_equal(sum(r), r->end_ns - r->arrival_ns);
}

/* The thread waits for events from @from to @to. */
static void events(struct thread *t, uint64_t from, uint64_t to)
{
	request_park(t, from);
	t->busy_ns += t->event_exit_ns ? from - t->event_exit_ns : 0;
	t->event_exit_ns = to;
	slice_begin(t, from, to);
}

static void a_request_that_lay_in_the_kernel_was_queued(void **state)
{
	struct thread *t = &threads[0];
	request_id id = request_open(t, 100 * MS);

	(void)state;
	request_start(t, id, 130 * MS);
	assert_int_equal(t->current, id);
	request_end(t, id, 140 * MS, 200, false);
	assert_closed(slot(id));
	assert_int_equal(slot(id)->ledger_ns[QUEUE], 30 * MS);
	assert_int_equal(t->current, 0);
	assert_int_equal(slot(id)->status, 200);
}

static void waits_inside_the_slice_are_the_requests_own(void **state)
{
	struct thread *t = &threads[0];
	request_id id = request_open(t, 100 * MS);

	(void)state;
	request_start(t, id, 100 * MS);
	slice_wait(t, SLEEP, 50 * MS);
	slice_wait(t, LOCK, 20 * MS);
	slice_wait(t, IO, 10 * MS);
	request_end(t, id, 200 * MS, 200, false);
	assert_closed(slot(id));
	assert_int_equal(slot(id)->ledger_ns[SLEEP], 50 * MS);
	assert_int_equal(slot(id)->ledger_ns[LOCK], 20 * MS);
	assert_int_equal(slot(id)->ledger_ns[IO], 10 * MS);
}

static void waits_longer_than_the_slice_give_way(void **state)
{
	struct thread *t = &threads[0];
	request_id id = request_open(t, 100 * MS);

	(void)state;
	request_start(t, id, 100 * MS);
	slice_wait(t, SLEEP, 8 * MS);
	slice_wait(t, IO, 500 * MS);
	request_end(t, id, 110 * MS, 200, false);
	assert_closed(slot(id));
	assert_true(slot(id)->ledger_ns[SLEEP] == 8 * MS); /* io gives way first */
}

static void a_parked_request_waits_for_its_loop_while_that_works_for_others(void **state)
{
	struct thread *t = &threads[0];
	request_id slow = request_open(t, 10 * MS), other;

	(void)state;
	t->event_exit_ns = 10 * MS;
	request_start(t, slow, 10 * MS);
	events(t, 11 * MS, 31 * MS); /* 20 ms waiting */
	other = request_open(t, 31 * MS);
	request_start(t, other, 31 * MS);
	request_end(t, other, 61 * MS, 200, false); /* 30 ms of the loop's time */
	events(t, 61 * MS, 71 * MS);                /* 10 ms waiting */
	request_resume(t, slow, 72 * MS, RESUME_IO);
	request_end(t, slow, 73 * MS, 200, false);
	assert_closed(slot(slow));
	assert_closed(slot(other));
	assert_int_equal(slot(slow)->ledger_ns[LOOP], 30 * MS);
	assert_int_equal(slot(slow)->ledger_ns[IO], 30 * MS);
}

static void a_slice_that_ends_in_the_answer_was_the_requests(void **state)
{
	struct thread *t = &threads[0];
	request_id id = request_open(t, 10 * MS);

	(void)state;
	t->event_exit_ns = 10 * MS;
	request_start(t, id, 10 * MS);
	events(t, 11 * MS, 61 * MS);
	slice_wait(t, LOCK, 5 * MS); /* nobody's yet */
	request_end(t, id, 70 * MS, 200, false);
	assert_closed(slot(id));
	assert_int_equal(slot(id)->ledger_ns[SLEEP], 50 * MS); /* no descriptor woke it: a timer */
	assert_int_equal(slot(id)->ledger_ns[LOCK], 5 * MS);
}

static void handing_over_to_another_thread_is_waiting_for_it(void **state)
{
	struct thread *a = &threads[0], *b = &threads[1];
	request_id id = request_open(a, 10 * MS);

	(void)state;
	request_start(a, id, 10 * MS);
	request_park(a, 12 * MS);
	requests[(uint32_t)id - 1].detached = true;
	slice_begin(b, 40 * MS, 40 * MS);
	request_resume(b, id, 40 * MS, RESUME_HANDOVER);
	request_end(b, id, 50 * MS, 200, false);
	assert_closed(slot(id));
	assert_int_equal(slot(id)->ledger_ns[LOCK], 28 * MS);
}

static void a_pipelined_request_waits_for_its_turn(void **state)
{
	struct thread *t = &threads[0];
	request_id first = request_open(t, 10 * MS), second = request_open(t, 10 * MS);

	(void)state;
	request_start(t, first, 11 * MS);
	requests[(uint32_t)second - 1].pipelined = true;
	request_end(t, first, 31 * MS, 200, false);
	request_start(t, second, 31 * MS);
	request_end(t, second, 32 * MS, 200, false);
	assert_closed(slot(second));
	assert_int_equal(slot(second)->ledger_ns[QUEUE], 21 * MS);
}

static void a_request_outlives_the_thread_it_parked_on(void **state)
{
	struct thread *t = &threads[0];
	request_id id = request_open(t, 10 * MS);

	(void)state;
	t->event_runq_ns = 500 * MS;
	request_start(t, id, 10 * MS);
	events(t, 12 * MS, 20 * MS);
	memset(t, 0, sizeof *t); /* the record's next user */
	t->index = 1;
	t->tid = 200;
	slice_begin(t, 40 * MS, 40 * MS);
	request_resume(t, id, 41 * MS, RESUME_TIMER);
	request_end(t, id, 42 * MS, 200, false);
	assert_closed(slot(id));
	assert_int_equal(slot(id)->ledger_ns[LOCK],
			 28 * MS);                        /* handed over, not queued for a CPU */
	assert_true(slot(id)->ledger_ns[RUNQ] <= 4 * MS); /* slices that did not work */
}

static void a_thread_that_vanishes_leaves_no_gap(void **state)
{
	struct thread *t = &threads[0];
	request_id id = request_open(t, 10 * MS);

	(void)state;
	request_start(t, id, 10 * MS);
	slice_begin(t, 30 * MS, 30 * MS); /* its slice was never charged */
	request_resume(t, id, 31 * MS, RESUME_IO);
	request_end(t, id, 32 * MS, 200, false);
	assert_closed(slot(id));
	assert_int_equal(slot(id)->ledger_ns[OTHER], 20 * MS);
}

static void whoever_takes_a_request_up_unparks_it_where_it_was(void **state)
{
	struct thread *a = &threads[0], *b = &threads[1];
	request_id first = request_open(a, 10 * MS), second = request_open(a, 10 * MS);

	(void)state;
	request_start(a, first, 10 * MS);
	events(a, 11 * MS, 12 * MS);
	request_start(a, second, 12 * MS);
	events(a, 13 * MS, 14 * MS);
	assert_int_equal(a->parked, 2);
	slice_begin(b, 20 * MS, 20 * MS);
	request_end(b, first, 21 * MS, 200, false);
	assert_int_equal(a->parked, 1);
	request_cancel(b, second, 22 * MS);
	assert_int_equal(a->parked, 0);
}

static void ending_twice_or_resuming_the_dead_does_nothing(void **state)
{
	struct thread *t = &threads[0];
	request_id id = request_open(t, 10 * MS);

	(void)state;
	request_start(t, id, 10 * MS);
	request_end(t, id, 20 * MS, 200, false);
	request_end(t, id, 30 * MS, 500, true);
	request_resume(t, id, 40 * MS, RESUME_IO);
	assert_int_equal(t->slice.owner, 0);
	assert_int_equal(slot(id)->status, 200);
	assert_int_equal(slot(id)->end_ns, 20 * MS);
	assert_int_equal(active(), 0);
}

static void a_request_without_a_slot_is_counted(void **state)
{
	struct thread *t = &threads[0];

	(void)state;
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_int_not_equal(request_open(t, 1), 0);
	assert_int_equal(request_open(t, 1), 0);
	assert_int_equal(memory.drops[DROP_REQUESTS], 1);
}

static _Alignas(64) char ring_bytes[4096];

/* A thread as in the agent, with a ring for what it ended. */
static struct thread *with_ring(void)
{
	struct thread *t = &threads[0];

	t->ended.bytes = ring_bytes;
	t->ended.size = sizeof ring_bytes;
	return t;
}

static void an_ended_request_crosses_over_whole(void **state)
{
	struct thread *t = with_ring();
	request_id id = request_open(t, 10 * MS), again;
	struct request *r = &requests[(uint32_t)id - 1];
	const struct ended_record *record;
	struct ended e;
	uint32_t len;

	(void)state;
	request_start(t, id, 12 * MS);
	memcpy(r->head.method, "GET", 4);
	memcpy(r->head.path, "/users/7", 9);
	strcpy(request_tell(r)->label_key[0], "tenant");
	strcpy(request_tell(r)->label_value[0], "acme");
	r->labels = 1;
	slice_wait(t, SLEEP, 3 * MS);
	request_end(t, id, 20 * MS, 404, true);
	record = ring_peek(&t->ended, &len);
	assert_non_null(record);
	ended_read(record, &e);
	assert_int_equal(e.id, id);
	assert_int_equal(e.end_ns, 20 * MS);
	assert_int_equal(e.latency_ns, 10 * MS);
	assert_int_equal(e.ledger_ns[QUEUE], 2 * MS);
	assert_int_equal(e.ledger_ns[SLEEP], 3 * MS);
	assert_int_equal(e.ledger_ns[IO], 0);
	assert_int_equal(e.status, 404);
	assert_true(e.failed);
	assert_false(e.named);
	assert_string_equal(e.method, "GET");
	assert_string_equal(e.path, "/users/7");
	assert_int_equal(e.labels, 1);
	assert_string_equal(e.label_key[0], "tenant");
	assert_string_equal(e.label_value[0], "acme");
	ring_pop(&t->ended, len);
	assert_null(ring_peek(&t->ended, &len));
	assert_int_equal(r->told, 0);

	/* the slot is the thread's own for its next one, under another name */
	again = request_open(t, 21 * MS);
	assert_int_equal((uint32_t)again, (uint32_t)id);
	assert_int_not_equal(again, id);
	assert_null(request_get(id));
}

static void what_was_told_has_few_places_and_they_come_back(void **state)
{
	struct thread *t = with_ring();
	request_id id[3];

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		id[i] = request_open(t, 10 * MS);
		request_start(t, id[i], 10 * MS);
	}
	assert_non_null(request_tell(request_get(id[0])));
	assert_ptr_equal(request_tell(request_get(id[0])), request_told(request_get(id[0])));
	assert_non_null(request_tell(request_get(id[1])));
	assert_null(request_tell(request_get(id[2])));
	assert_int_equal(memory.drops[DROP_MARKS], 1);
	request_end(t, id[0], 20 * MS, 200, false);
	assert_non_null(request_tell(request_get(id[2])));
	request_cancel(t, id[1], 21 * MS);
	request_cancel(t, id[2], 21 * MS);
	assert_int_not_equal(pool_take(&memory.told), POOL_NONE);
	assert_int_not_equal(pool_take(&memory.told), POOL_NONE);
}

/* A slot whose number called the agent at every use cost a server of 60,000 requests a second a tenth of a processor. */
static void many_slots_in_use_wake_the_agent_once(void **state)
{
	struct thread *t = with_ring();
	request_id id[256];
	uint32_t len;

	(void)state;
	for (unsigned i = 0; i < 256; i++)
		id[i] = request_open(t, 10 * MS);
	assert_int_equal(memory.wake, 1);
	for (unsigned i = 0; i < 10; i++) { /* the last one, over and over */
		request_end(t, id[255], 20 * MS, 200, false);
		for (; ring_peek(&t->ended, &len);)
			ring_pop(&t->ended, len);
		id[255] = request_open(t, 10 * MS);
		assert_int_equal((uint32_t)id[255], 256);
	}
	assert_int_equal(memory.wake, 1);
}

static void a_full_ring_loses_no_request(void **state)
{
	struct thread *t = with_ring();
	unsigned records = 0, slots = 0;
	uint32_t len;

	(void)state;
	for (unsigned i = 0; i < REQUESTS; i++) {
		request_id id = request_open(t, 10 * MS);
		struct request *r = &requests[(uint32_t)id - 1];

		memset(r->head.path, 'x', HTTP_PATH_MAX - 1);
		request_start(t, id, 10 * MS);
		request_end(t, id, 20 * MS, 200, false);
	}
	for (; ring_peek(&t->ended, &len); records++)
		ring_pop(&t->ended, len);
	for (uint32_t i = pool_take_all(&t->done); i; i = requests[i - 1].link.next)
		slots++;
	assert_true(records > 0);
	assert_true(slots > 0);
	assert_int_equal(records + slots, REQUESTS);
}

static void a_handler_in_the_middle_of_a_record_takes_the_other_way(void **state)
{
	struct thread *t = with_ring();
	request_id id = request_open(t, 10 * MS);
	uint32_t len;

	(void)state;
	t->telling = true;
	request_end(t, id, 20 * MS, 200, false);
	assert_null(ring_peek(&t->ended, &len));
	assert_int_equal(pool_take_all(&t->done), (uint32_t)id);
}

/* Take what has ended, as the agent does, checking each. */
static unsigned collect(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < 3; i++) {
		uint32_t index = pool_take_all(&threads[i].done);

		while (index != POOL_NONE) {
			struct request *r = &requests[index - 1];
			uint32_t next = r->link.next;

			assert_closed(r);
			r->life = REQUEST_FREE;
			pool_give(&memory.requests, index);
			index = next;
			n++;
		}
	}
	return n;
}

static void any_history_adds_up(void **state)
{
	request_id live[8] = { 0 };
	uint64_t now = 1000 * MS;
	unsigned ended = 0, asked = 0;

	(void)state;
	srand(7);
	for (unsigned step = 0; step < 200000; step++) {
		struct thread *t = &threads[rand() % 3];
		request_id *id = &live[rand() % 8];

		now += (uint64_t)(rand() % 100000);
		switch (rand() % 8) {
		case 0:
		case 1:
			if (!*id) {
				*id = request_open(t, now - (uint64_t)(rand() % 50000));
				request_start(t, *id, now);
			}
			break;
		case 2:
			slice_wait(t, (enum state[]){ IO, LOCK, SLEEP }[rand() % 3],
				   (uint64_t)(rand() % 200000));
			break;
		case 3:
			events(t, now, now + 1000);
			now += 1000;
			break;
		case 4:
			request_resume(t, *id, now, (enum resume)(rand() % 3));
			break;
		case 5:
			request_park(t, now);
			break;
		case 6:
			if (*id) {
				request_end(t, *id, now, 200, false);
				asked++;
			}
			*id = 0;
			break;
		default:
			ended += collect();
		}
	}
	ended += collect();
	assert_int_equal(ended, asked);
	assert_true(ended > 10000);
}

/* A host's signal handler jumps out of the call that had it locked: tests/storms/jumps.c does it for real. */
static void what_a_jump_left_locked_is_free_again(void **state)
{
	struct thread *t = &threads[0], *other = &threads[1];
	request_id id = request_open(t, 100 * MS);
	struct request *r = request_get(id);

	(void)state;
	tls.self = t;
	assert_true(owned_try(&r->lock));
	t->telling = true;
	tls.self = other;
	assert_false(owned_try(&r->lock));
	assert_int_equal(other->locks, 0);
	assert_int_equal(t->locks, 1);
	request_abandon(other); /* not its own */
	assert_false(owned_try(&r->lock));
	request_abandon(t);
	assert_true(owned_try(&r->lock));
	owned_unlock(&r->lock, memory_order_release);
	assert_int_equal(other->locks, 0);
	assert_false(t->telling);
	tls.self = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_request_that_lay_in_the_kernel_was_queued, fresh),
		cmocka_unit_test_setup(waits_inside_the_slice_are_the_requests_own, fresh),
		cmocka_unit_test_setup(waits_longer_than_the_slice_give_way, fresh),
		cmocka_unit_test_setup(
			a_parked_request_waits_for_its_loop_while_that_works_for_others, fresh),
		cmocka_unit_test_setup(a_slice_that_ends_in_the_answer_was_the_requests, fresh),
		cmocka_unit_test_setup(handing_over_to_another_thread_is_waiting_for_it, fresh),
		cmocka_unit_test_setup(a_pipelined_request_waits_for_its_turn, fresh),
		cmocka_unit_test_setup(a_request_outlives_the_thread_it_parked_on, fresh),
		cmocka_unit_test_setup(a_thread_that_vanishes_leaves_no_gap, fresh),
		cmocka_unit_test_setup(whoever_takes_a_request_up_unparks_it_where_it_was, fresh),
		cmocka_unit_test_setup(ending_twice_or_resuming_the_dead_does_nothing, fresh),
		cmocka_unit_test_setup(a_request_without_a_slot_is_counted, fresh),
		cmocka_unit_test_setup(an_ended_request_crosses_over_whole, fresh),
		cmocka_unit_test_setup(what_was_told_has_few_places_and_they_come_back, fresh),
		cmocka_unit_test_setup(many_slots_in_use_wake_the_agent_once, fresh),
		cmocka_unit_test_setup(a_full_ring_loses_no_request, fresh),
		cmocka_unit_test_setup(a_handler_in_the_middle_of_a_record_takes_the_other_way,
				       fresh),
		cmocka_unit_test_setup(what_a_jump_left_locked_is_free_again, fresh),
		cmocka_unit_test_setup(any_history_adds_up, fresh),
	};

	return RUN(tests);
}
