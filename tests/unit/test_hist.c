/* SPDX-License-Identifier: MIT
 *
 * The histogram of include/sonde_hist.h: its promises are numbers, and these are them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "include/sonde_hist.h"
#include "tests/unit/unit.h"

/* 1.1 %, as the header says */
static const double error_max = 0.011;

static uint64_t random_ns(unsigned *seed)
{
	uint64_t bits = (uint64_t)rand_r(seed) << 31 ^ (uint64_t)rand_r(seed);

	return bits >> (rand_r(seed) % 44) & (((uint64_t)1 << HIST_OCTAVES) - 1);
}

static void assert_near(uint64_t got, uint64_t want)
{
	double error = ((double)got - (double)want) / (double)want;

	if (error > error_max || error < -error_max)
		fail_msg("got %ju, want %ju, %.2f %% off", (uintmax_t)got, (uintmax_t)want,
			 error * 100);
}

static void every_value_lies_between_the_edges_of_its_bucket(void **state)
{
	unsigned seed = 1;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		uint64_t ns = i < 100000 ? (uint64_t)i + 2 : random_ns(&seed);
		uint32_t index = hist_index(ns);

		if (ns < 2)
			continue;
		assert_true(index < HIST_BUCKETS);
		if ((double)ns > hist_upper_ns(index) ||
		    (double)ns <= hist_upper_ns(index) / exp2(1.0 / 32))
			fail_msg("%ju lies not in bucket %u", (uintmax_t)ns, index);
	}
}

static void the_edges_fall_where_the_buckets_meet(void **state)
{
	(void)state;
	/* up to 2^33 the index is exact, to a nanosecond, above 2^7 there is an integer on each side */
	for (uint32_t i = 7 * HIST_PER_OCTAVE; i < 33 * HIST_PER_OCTAVE; i++) {
		uint64_t edge = (uint64_t)floor(hist_upper_ns(i));

		if ((i + 1) % HIST_PER_OCTAVE == 0)
			continue; /* powers of two have a test of their own */
		assert_int_equal(hist_index(edge), i);
		assert_int_equal(hist_index(edge + 1), i + 1);
	}
}

static void powers_of_two_end_their_bucket(void **state)
{
	(void)state;
	for (uint32_t octave = 1; octave < HIST_OCTAVES; octave++) {
		uint64_t ns = (uint64_t)1 << octave;

		assert_int_equal(hist_index(ns), octave * HIST_PER_OCTAVE - 1);
		assert_int_equal(hist_index(ns + 1) / HIST_PER_OCTAVE, octave);
		assert_true(hist_upper_ns(hist_index(ns)) == (double)ns);
	}
}

static void the_ends_of_the_range_hold_what_is_beyond(void **state)
{
	(void)state;
	assert_int_equal(hist_index(0), 0);
	assert_int_equal(hist_index(1), 0);
	assert_int_equal(hist_index((uint64_t)1 << HIST_OCTAVES), HIST_BUCKETS - 1);
	assert_int_equal(hist_index(((uint64_t)1 << HIST_OCTAVES) - 1), HIST_BUCKETS - 1);
	assert_int_equal(hist_index(UINT64_MAX), HIST_BUCKETS - 1);
	assert_int_equal(hist_coarse(UINT64_MAX), HIST_COARSE_BUCKETS - 1);
}

static void the_index_never_falls(void **state)
{
	uint32_t last = 0;

	(void)state;
	for (uint64_t ns = 0; ns < (uint64_t)1 << 46; ns += 1 + ns / 1000) {
		assert_true(hist_index(ns) >= last);
		last = hist_index(ns);
	}
	assert_int_equal(last, HIST_BUCKETS - 1);
}

static void the_middle_of_a_bucket_is_at_most_1_1_percent_off(void **state)
{
	unsigned seed = 2;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		uint64_t ns = random_ns(&seed);
		double error = (hist_middle_ns(hist_index(ns)) - (double)ns) / (double)ns;

		if (ns > 1 && (error > error_max || error < -error_max))
			fail_msg("%ju is %.3f %% off", (uintmax_t)ns, error * 100);
	}
}

static void a_coarse_bucket_is_16_fine_ones(void **state)
{
	unsigned seed = 3;

	(void)state;
	assert_int_equal(HIST_BUCKETS, 16 * HIST_COARSE_BUCKETS);
	for (int i = 0; i < 100000; i++) {
		uint64_t ns = random_ns(&seed);

		assert_int_equal(hist_coarse(ns), hist_index(ns) / 16);
	}
}

static void recording_keeps_count_sum_and_maximum(void **state)
{
	static struct hist h;

	(void)state;
	memset(&h, 0, sizeof(h));
	hist_record(&h, 1000);
	hist_record(&h, 3000);
	hist_record(&h, 2000);
	assert_int_equal(h.count, 3);
	assert_int_equal(h.sum_ns, 6000);
	assert_int_equal(h.max_ns, 3000);
	assert_int_equal(h.bucket[hist_index(2000)], 1);
}

static void merging_equals_recording_in_one(void **state)
{
	static struct hist all, parts[3], merged;
	unsigned seed = 4;

	(void)state;
	memset(&all, 0, sizeof(all));
	memset(parts, 0, sizeof(parts));
	memset(&merged, 0, sizeof(merged));
	for (int i = 0; i < 10000; i++) {
		uint64_t ns = random_ns(&seed);

		hist_record(&all, ns);
		hist_record(&parts[i % 3], ns);
	}
	for (int i = 0; i < 3; i++)
		hist_merge(&merged, &parts[i]);
	assert_memory_equal(&merged, &all, sizeof(all));
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void quantiles_are_those_of_the_sorted_values(void **state)
{
	static const double quantiles[] = { 0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1 };
	static uint64_t values[20000];
	static struct hist h;
	const size_t count = sizeof(values) / sizeof(values[0]);
	unsigned seed = 5;

	(void)state;
	memset(&h, 0, sizeof(h));
	for (size_t i = 0; i < count; i++) {
		values[i] = 1000 + random_ns(&seed) % 1000000000;
		hist_record(&h, values[i]);
	}
	qsort(values, count, sizeof(values[0]), compare);
	for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
		size_t rank = (size_t)ceil(quantiles[i] * (double)count);

		assert_near(hist_quantile(&h, quantiles[i]), values[rank ? rank - 1 : 0]);
	}
}

static void quantiles_of_few_values_name_the_right_one(void **state)
{
	static struct hist h;

	(void)state;
	memset(&h, 0, sizeof(h));
	assert_int_equal(hist_quantile(&h, 0.5), 0);
	hist_record(&h, 1000000);
	assert_near(hist_quantile(&h, 0), 1000000);
	assert_near(hist_quantile(&h, 0.5), 1000000);
	assert_near(hist_quantile(&h, 1), 1000000);
	hist_record(&h, 2000000);
	assert_near(hist_quantile(&h, 0.5), 1000000);
	assert_near(hist_quantile(&h, 0.51), 2000000);
}

static void no_quantile_is_above_the_maximum(void **state)
{
	static struct hist h;
	unsigned seed = 6;

	(void)state;
	for (int i = 0; i < 2000; i++) {
		memset(&h, 0, sizeof(h));
		hist_record(&h, random_ns(&seed));
		assert_true(hist_quantile(&h, 1) <= h.max_ns);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_value_lies_between_the_edges_of_its_bucket),
		cmocka_unit_test(the_edges_fall_where_the_buckets_meet),
		cmocka_unit_test(powers_of_two_end_their_bucket),
		cmocka_unit_test(the_ends_of_the_range_hold_what_is_beyond),
		cmocka_unit_test(the_index_never_falls),
		cmocka_unit_test(the_middle_of_a_bucket_is_at_most_1_1_percent_off),
		cmocka_unit_test(a_coarse_bucket_is_16_fine_ones),
		cmocka_unit_test(recording_keeps_count_sum_and_maximum),
		cmocka_unit_test(merging_equals_recording_in_one),
		cmocka_unit_test(quantiles_are_those_of_the_sorted_values),
		cmocka_unit_test(quantiles_of_few_values_name_the_right_one),
		cmocka_unit_test(no_quantile_is_above_the_maximum),
	};

	return RUN(tests);
}
