/* SPDX-License-Identifier: MIT
 *
 * The time off the processor's counter is CLOCK_MONOTONIC, and where the counter cannot be trusted it is the kernel's own.
 * Every reading is held between two of the kernel's, so a machine that stops in between cannot make it wrong.
 */
#include <string.h>
#include <unistd.h>

#include "agent/clock.h"
#include "tests/unit/unit.h"

enum {
	DOUBT_NS = 3000, /* of the line, a second after it was drawn */
	MS = 1000000
};

static bool on_a_line(void)
{
	return !(atomic_load(&clock_line.seq) & 1);
}

static void assert_right(void)
{
	for (int i = 0; i < 1000; i++) {
		uint64_t before = clock_read(CLOCK_MONOTONIC), now = clock_ns(),
			 after = clock_read(CLOCK_MONOTONIC);

		assert_true(now + DOUBT_NS >= before);
		assert_true(now <= after + DOUBT_NS);
	}
}

static void wait_ms(unsigned ms)
{
	uint64_t until = clock_read(CLOCK_MONOTONIC) + (uint64_t)ms * MS;

	while (clock_read(CLOCK_MONOTONIC) < until)
		usleep(1000);
}

/* As the agent's loop does, for @ms. */
static void renew(unsigned ms)
{
	for (unsigned i = 0; i < ms; i += 5) {
		wait_ms(5);
		clock_renew();
	}
}

static void the_line_is_the_kernels_clock(void **state)
{
	(void)state;
	assert_false(on_a_line());
	assert_right();
	clock_start();
	renew(30);
	if (!on_a_line()) { /* the kernel does not count on its counter here: then neither do we, and that is right, too */
		print_message("no line: the kernel's clock source is not the counter\n");
		assert_right();
		skip();
	}
	assert_right();
	wait_ms(900);
	assert_right(); /* drawn over 10 ms, it holds for a second */
	renew(1200);
	assert_true(on_a_line());
	assert_right();
	wait_ms(900);
	assert_right();
}

static void a_counter_that_changes_its_pace_is_left_alone(void **state)
{
	(void)state;
	if (!on_a_line())
		skip();
	/* what it would look like after the machine slept: the pace of the last second is not the one before */
	atomic_store(&clock_line.slope, atomic_load(&clock_line.slope) * 2);
	for (int i = 0; i < 500 && on_a_line(); i++)
		renew(5);
	assert_false(on_a_line());
	assert_right();
	for (int i = 0; i < 500 && !on_a_line(); i++)
		renew(5);
	assert_true(on_a_line());
	assert_right();
}

static void the_wall_clock_is_a_constant_away(void **state)
{
	int64_t before, after, said;

	(void)state;
	before = (int64_t)(clock_read(CLOCK_REALTIME) - clock_read(CLOCK_MONOTONIC));
	said = clock_wall_ns();
	after = (int64_t)(clock_read(CLOCK_REALTIME) - clock_read(CLOCK_MONOTONIC));
	/* a machine that stops between two readings makes them differ, so only what is beyond both is wrong */
	assert_true(said <= (before > after ? before : after) + MS);
	assert_true(said >= (before < after ? before : after) - MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_line_is_the_kernels_clock),
		cmocka_unit_test(a_counter_that_changes_its_pace_is_left_alone),
		cmocka_unit_test(the_wall_clock_is_a_constant_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
