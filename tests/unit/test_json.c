/* SPDX-License-Identifier: MIT
 *
 * JSON is well formed whatever is put in.
 */
#include <math.h>
#include <string.h>

#include "server/json.h"
#include "tests/unit/unit.h"

static void expect(struct json *j, const char *text)
{
	buffer_add(&j->out, "", 1);
	assert_false(j->out.failed);
	assert_string_equal(j->out.bytes, text);
	buffer_fini(&j->out);
	j->comma = false;
}

static void json_puts_commas_between_values_only(void **state)
{
	struct json j = { 0 };

	(void)state;
	json_object_begin(&j, NULL);
	json_array_begin(&j, "a");
	json_u64(&j, NULL, 1);
	json_u64(&j, NULL, 2);
	json_object_begin(&j, NULL);
	json_object_end(&j);
	json_array_end(&j);
	json_bool(&j, "b", true);
	json_object_end(&j);
	expect(&j, "{\"a\":[1,2,{}],\"b\":true}");
}

static void json_escapes_what_could_end_a_string_or_a_script(void **state)
{
	struct json j = { 0 };

	(void)state;
	json_text(&j, NULL, "a\"b\\c\n</script>\x7f");
	expect(&j, "\"a\\u0022b\\u005cc\\u000a\\u003c/script>\\u007f\"");
}

static void json_replaces_bytes_that_are_not_utf8(void **state)
{
	struct json j = { 0 };

	(void)state;
	json_text(&j, NULL, "\xc3\xa4\xff\xc3");
	expect(&j, "\"\xc3\xa4\\ufffd\\ufffd\"");
}

static void json_numbers_are_exact(void **state)
{
	struct json j = { 0 };

	(void)state;
	json_array_begin(&j, NULL);
	json_u64(&j, NULL, UINT64_MAX);
	json_seconds(&j, NULL, 1763600000123456789u);
	json_double(&j, NULL, 0.5, 3);
	json_double(&j, NULL, (double)NAN, 1);
	json_text(&j, NULL, NULL);
	json_array_end(&j);
	expect(&j, "[9223372036854775807,1763600000.123,0.500,0.0,null]");
}

static void utf8_refuses_overlong_surrogates_and_nul(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		bool valid;
	} cases[] = {
		{ "plain", 5, true },
		{ "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 9, true },
		{ "\xc0\x80", 2, false },         /* overlong NUL */
		{ "\xe0\x80\xaf", 3, false },     /* overlong */
		{ "\xed\xa0\x80", 3, false },     /* surrogate */
		{ "\xf4\x90\x80\x80", 4, false }, /* past U+10FFFF */
		{ "\xe2\x82", 2, false },         /* cut */
		{ "a\0b", 3, false },
		{ "\x80", 1, false },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (utf8_valid(cases[i].bytes, cases[i].len) != cases[i].valid)
			fail_msg("case %zu should be %d", i, cases[i].valid);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(json_puts_commas_between_values_only),
		cmocka_unit_test(json_escapes_what_could_end_a_string_or_a_script),
		cmocka_unit_test(json_replaces_bytes_that_are_not_utf8),
		cmocka_unit_test(json_numbers_are_exact),
		cmocka_unit_test(utf8_refuses_overlong_surrogates_and_nul),
	};

	return RUN(tests);
}
