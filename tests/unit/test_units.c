/* SPDX-License-Identifier: MIT
 *
 * The terminal's numbers and names (server/units.c).
 */
#include <stdlib.h>
#include <string.h>

#include "server/units.h"
#include "tests/unit/unit.h"

static void ns_have_three_digits_and_a_unit(void **state)
{
	(void)state;
	assert_string_equal(units_ns(0).text, "0 ns");
	assert_string_equal(units_ns(7).text, "7 ns");
	assert_string_equal(units_ns(999).text, "999 ns");
	assert_string_equal(units_ns(1000).text, "1.00 µs");
	assert_string_equal(units_ns(1210344).text, "1.21 ms");
	assert_string_equal(units_ns(12400000).text, "12.4 ms");
	assert_string_equal(units_ns(124000000).text, "124 ms");
	assert_string_equal(units_ns(60000000000).text, "60.0 s");
	assert_string_equal(units_ns(1242000000000).text, "20.7 min");
	assert_string_equal(units_ns(10980000000000).text, "3.05 h");
	assert_string_equal(units_ns(UINT64_MAX).text, "5124096 h");
}

static void ns_never_round_up_to_a_thousand(void **state)
{
	(void)state;
	assert_string_equal(units_ns(999499).text, "999 µs");
	assert_string_equal(units_ns(999500).text, "1.00 ms");
	assert_string_equal(units_ns(9994000).text, "9.99 ms");
	assert_string_equal(units_ns(9995000).text, "10.0 ms");
	assert_string_equal(units_ns(9996000).text, "10.0 ms");
	assert_string_equal(units_ns(99960000).text, "100 ms");
	assert_string_equal(units_ns(999700000000).text, "16.7 min");
}

static void differences_carry_their_sign(void **state)
{
	(void)state;
	assert_string_equal(units_ns_signed(0).text, "0 ns");
	assert_string_equal(units_ns_signed(1500).text, "+1.50 µs");
	assert_string_equal(units_ns_signed(-1500).text, "-1.50 µs");
	assert_string_equal(units_ns_signed(INT64_MIN).text, "-2562048 h");
	assert_string_equal(units_percent_signed(0).text, "0 %");
	assert_string_equal(units_percent_signed(-0.00001).text, "<0.01 %");
	assert_string_equal(units_percent_signed(0.5).text, "+50 %");
	assert_string_equal(units_percent_signed(-0.021).text, "-2.1 %");
	assert_string_equal(units_percent_signed(11).text, "x 12");
}

static void counts_are_exact_below_a_million(void **state)
{
	(void)state;
	assert_string_equal(units_count(0).text, "0");
	assert_string_equal(units_count(999).text, "999");
	assert_string_equal(units_count(5001).text, "5,001");
	assert_string_equal(units_count(999999).text, "999,999");
	assert_string_equal(units_count(1234567).text, "1.23 M");
	assert_string_equal(units_count(4560000000).text, "4.56 G");
}

static void rates_and_percents_keep_small_values_visible(void **state)
{
	(void)state;
	assert_string_equal(units_rate(0).text, "0/s");
	assert_string_equal(units_rate(0.004).text, "<0.01/s");
	assert_string_equal(units_rate(83.42).text, "83.4/s");
	assert_string_equal(units_rate(12345.2).text, "12,345/s");
	assert_string_equal(units_rate(-1).text, "0/s");
	assert_string_equal(units_percent(0).text, "0 %");
	assert_string_equal(units_percent(0.00001).text, "<0.01 %");
	assert_string_equal(units_percent(0.0021).text, "0.21 %");
	assert_string_equal(units_percent(0.0623).text, "6.2 %");
	assert_string_equal(units_percent(0.906).text, "91 %");
	assert_string_equal(units_percent(1).text, "100 %");
	assert_string_equal(units_bytes(12).text, "12 B");
	assert_string_equal(units_bytes(1210).text, "1.21 kB");
	assert_string_equal(units_bytes(34000000).text, "34.0 MB");
}

static void assert_text(const char *text, size_t columns, bool pad, const char *expected)
{
	char out[256];

	units_text(out, sizeof(out), text, columns, pad);
	assert_string_equal(out, expected);
}

static void text_is_cut_and_padded_by_columns(void **state)
{
	(void)state;
	assert_text("GET /a", 8, true, "GET /a  ");
	assert_text("GET /a", 8, false, "GET /a");
	assert_text("GET /users", 6, true, "GET /…");
	assert_text("GET /naïve", 10, true, "GET /naïve");
	assert_text("日本語", 6, true, "日本語");
	assert_text("日本語", 5, true, "日本…");
	assert_text("日本語", 4, true, "日… ");
	assert_text("abc", 0, true, "");
	assert_int_equal(units_width("12.4 µs"), 7);
	assert_int_equal(units_width("日本"), 4);
}

static void text_lets_nothing_through_that_moves_the_cursor(void **state)
{
	(void)state;
	assert_text("a\033[2Jb\r\n", 20, false, "a?[2Jb??");
	assert_text("a\xc2\x9b"
		    "31mb", /* CSI in one character */
		    20, false, "a?31mb");
	assert_text("x\xe2\x80\xaey", 20, false, "x?y");         /* right-to-left override */
	assert_text("\xff\xc0\xaf\xe2\x82", 20, false, "?????"); /* invalid, overlong, cut short */
}

static void text_never_writes_past_its_buffer(void **state)
{
	char *out = malloc(5);

	(void)state;
	assert_non_null(out);
	units_text(out, 5, "日本語", 6, true);
	assert_string_equal(out, "日 ");
	units_text(out, 5, "abcdef", 20, true);
	assert_string_equal(out, "abcd");
	free(out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ns_have_three_digits_and_a_unit),
		cmocka_unit_test(ns_never_round_up_to_a_thousand),
		cmocka_unit_test(differences_carry_their_sign),
		cmocka_unit_test(counts_are_exact_below_a_million),
		cmocka_unit_test(rates_and_percents_keep_small_values_visible),
		cmocka_unit_test(text_is_cut_and_padded_by_columns),
		cmocka_unit_test(text_lets_nothing_through_that_moves_the_cursor),
		cmocka_unit_test(text_never_writes_past_its_buffer),
	};

	return RUN(tests);
}
