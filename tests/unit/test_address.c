/* SPDX-License-Identifier: MIT
 *
 * Addresses as people write them, and as they should not.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/address.h"
#include "tests/unit/unit.h"

static void address_reads_what_it_prints(void **state)
{
	static const char *const good[][2] = {
		{ "tcp:127.0.0.1:7071", "tcp:127.0.0.1:7071" },
		{ "127.0.0.1:7070", "tcp:127.0.0.1:7070" },
		{ "localhost:1", "tcp:127.0.0.1:1" },
		{ "tcp:[::1]:65535", "tcp:[::1]:65535" },
		{ "unix:/run/sonde.sock", "unix:/run/sonde.sock" },
		{ "unix:relative", "unix:relative" },
	};
	struct address address;
	char text[160];

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(address_parse(good[i][0], &address), 0);
		assert_string_equal(address_format(&address, false, text, sizeof(text)),
				    good[i][1]);
		assert_true(address_is_local(&address));
	}
	assert_int_equal(address_parse("127.0.0.1:7070", &address), 0);
	assert_string_equal(address_format(&address, true, text, sizeof(text)), "127.0.0.1:7070");
}

static void address_refuses_the_rest(void **state)
{
	static const char *const bad[] = {
		"",
		"7070",
		":7070",
		"127.0.0.1",
		"127.0.0.1:",
		"1.2.3.4:x",
		"1.2.3.4:-1",
		"1.2.3.4:65536",
		"1.2.3.4: 80",
		"host.example:80",
		"unix:",
		"tcp:",
		"::1:80",
		"[::1]80",
		"[1.2.3.4:80",
		"1.2.3.4:8 ",
		"udp:1.2.3.4:80",
		"1.2.3.4.5:80",
		"1.2.3.4:99999999999999999999",
	};
	struct address address;
	char path[300] = "unix:";

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (address_parse(bad[i], &address) != -EINVAL)
			fail_msg("accepted '%s'", bad[i]);
	}
	memset(path + 5, 'x', 200);
	assert_int_equal(address_parse(path, &address), -ENAMETOOLONG);
}

static void address_knows_what_others_can_reach(void **state)
{
	static const char *const open[] = { "0.0.0.0:1", "10.0.0.1:1", "128.0.0.1:1", "[::]:1",
					    "[fe80::1]:1" };
	struct address address;

	(void)state;
	for (size_t i = 0; i < sizeof(open) / sizeof(open[0]); i++) {
		assert_int_equal(address_parse(open[i], &address), 0);
		assert_false(address_is_local(&address));
	}
}

static void address_falls_back_when_the_runtime_directory_is_missing(void **state)
{
	char text[160], wanted[64];

	(void)state;
	snprintf(wanted, sizeof(wanted), "unix:/tmp/sonde-%u/sonde.sock", (unsigned)getuid());
	setenv("XDG_RUNTIME_DIR", "/nowhere/at/all", 1);
	assert_string_equal(address_default_unix(text, sizeof(text)), wanted);
	unsetenv("XDG_RUNTIME_DIR");
	assert_string_equal(address_default_unix(text, sizeof(text)), wanted);
	setenv("XDG_RUNTIME_DIR", "/tmp", 1);
	assert_string_equal(address_default_unix(text, sizeof(text)), "unix:/tmp/sonde.sock");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(address_reads_what_it_prints),
		cmocka_unit_test(address_refuses_the_rest),
		cmocka_unit_test(address_knows_what_others_can_reach),
		cmocka_unit_test(address_falls_back_when_the_runtime_directory_is_missing),
	};

	return RUN(tests);
}
