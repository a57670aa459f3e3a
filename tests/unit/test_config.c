/* SPDX-License-Identifier: MIT
 *
 * The configuration: the table's defaults, what is refused and how it is said; and the identity made from it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/core/config.h"
#include "agent/core/encode.h"
#include "agent/core/identity.h"
#include "agent/hook/children.h"
#include "tests/unit/unit.h"

static char error[1024];

static int load_all(struct config *c, char *const *envp)
{
	int status = config_load(c, envp, error, sizeof(error));

	config_name_service(c);
	return status;
}

static int load(struct config *c, const char *a, const char *b)
{
	char first[512], second[512];
	char *envp[] = { first, second, NULL };

	snprintf(first, sizeof(first), "%s", a ? a : "PATH=/bin");
	snprintf(second, sizeof(second), "%s", b ? b : "HOME=/");
	return load_all(c, envp);
}

static void config_load_of_nothing_gives_the_defaults(void **state)
{
	struct config c;

	(void)state;
	assert_int_equal(load_all(&c, NULL), 0);
	assert_string_equal(error, "");
	assert_string_equal(c.collector, "tcp:127.0.0.1:7071");
	assert_string_equal(c.service, "test_config");
	assert_string_equal(c.output, "");
	assert_int_equal(c.hz, 99);
	assert_int_equal(c.window_ms, 1000);
	assert_int_equal(c.look_hz, 50);
	assert_int_equal(c.stack_depth, 128);
	assert_int_equal(c.spool_kib, 1024);
	assert_int_equal(c.ring_kib, 32);
	assert_int_equal(c.requests, 4096);
	assert_int_equal(c.connections, 16384);
	assert_int_equal(c.routes, 200);
	assert_int_equal(c.children, CHILDREN_SAME);
	assert_true(c.http && c.locks && c.timestamps);
	assert_false(c.disable || c.log || c.help);
}

static void config_load_takes_values(void **state)
{
	struct config c;

	(void)state;
	assert_int_equal(load(&c, "SONDE_HZ=250", "SONDE_HTTP=0"), 0);
	assert_int_equal(c.hz, 250);
	assert_false(c.http);
	assert_int_equal(load(&c, "SONDE_SERVICE=shop", "SONDE_COLLECTOR=unix:/run/sonde.sock"), 0);
	assert_string_equal(c.service, "shop");
	assert_string_equal(c.collector, "unix:/run/sonde.sock");
	assert_int_equal(load(&c, "SONDE_LOG=on", "SONDE_OUTPUT=/tmp/x.sonde"), 0);
	assert_true(c.log);
	assert_string_equal(c.output, "/tmp/x.sonde");
	assert_int_equal(load(&c, "SONDE_AGENT=/usr/lib/libsonde.so", NULL), 0);
}

static void config_load_takes_the_first_of_two_as_getenv_does(void **state)
{
	struct config c;

	(void)state;
	assert_int_equal(load(&c, "SONDE_HZ=250", "SONDE_HZ=500"), 0);
	assert_int_equal(c.hz, 250);
}

static void config_load_takes_an_empty_value_as_the_default(void **state)
{
	struct config c;

	(void)state;
	assert_int_equal(load(&c, "SONDE_HZ=", "SONDE_SERVICE="), 0);
	assert_int_equal(c.hz, 99);
	assert_string_equal(c.service, "test_config");
}

static void config_load_names_variable_value_and_range(void **state)
{
	static const char *const bad[] = { "SONDE_HZ=0",
					   "SONDE_HZ=1001",
					   "SONDE_HZ=-1",
					   "SONDE_HZ=ninety",
					   "SONDE_HZ=9 ",
					   "SONDE_HZ=0x10",
					   "SONDE_HZ=99999999999999999999" };
	struct config c;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(load(&c, bad[i], NULL), -EINVAL);
		assert_int_equal(c.hz, 99);
		assert_non_null(strstr(error, bad[i]));
		assert_non_null(strstr(error, "from 1 to 1000"));
		assert_non_null(strstr(error, "using 99"));
	}
	assert_int_equal(load(&c, "SONDE_LOCKS=maybe", "SONDE_LOOK_HZ=5000"), -EINVAL);
	assert_true(c.locks);
	assert_non_null(strstr(error, "SONDE_LOCKS=maybe is not 0 or 1"));
	assert_non_null(strstr(error, "; SONDE_LOOK_HZ=5000"));
	assert_int_equal(load(&c, "SONDE_CHILDREN=none", NULL), 0);
	assert_int_equal(c.children, CHILDREN_NONE);
	assert_int_equal(load(&c, "SONDE_CHILDREN=al", NULL), -EINVAL);
	assert_int_equal(c.children, CHILDREN_SAME);
	assert_non_null(
		strstr(error, "SONDE_CHILDREN=al is not one of same, all, none: using same"));
	assert_int_equal(load(&c, "SONDE_COLLECTOR=collector.example:7071", NULL), -EINVAL);
	assert_string_equal(c.collector, "tcp:127.0.0.1:7071");
	assert_non_null(strstr(error, "collector.example"));
}

static void config_load_refuses_what_is_too_long(void **state)
{
	struct config c;
	char service[200], output[400] = "SONDE_OUTPUT=/";

	(void)state;
	snprintf(service, sizeof(service), "SONDE_SERVICE=%0100d", 1);
	memset(output + strlen(output), 'x', 300);
	assert_int_equal(load(&c, service, output), -EINVAL);
	assert_string_equal(c.service, "test_config");
	assert_string_equal(c.output, "");
	assert_non_null(strstr(error, "SONDE_SERVICE is longer than 63 bytes"));
	assert_non_null(strstr(error, "SONDE_OUTPUT is longer than 255 bytes"));
}

static void config_load_helps_with_a_typing_error(void **state)
{
	struct config c;

	(void)state;
	assert_int_equal(load(&c, "SONDE_SERVISE=shop", NULL), -EINVAL);
	assert_string_equal(error, "SONDE_SERVISE is not known: did you mean SONDE_SERVICE?");
	assert_int_equal(load(&c, "SONDE_COLECTOR=x", NULL), -EINVAL);
	assert_non_null(strstr(error, "SONDE_COLLECTOR?"));
	assert_int_equal(load(&c, "SONDE_FLUX_CAPACITOR=1", NULL), -EINVAL);
	assert_non_null(strstr(error, "SONDE_HELP=1"));
}

static void config_load_survives_any_error_buffer(void **state)
{
	struct config c;
	char *envp[] = { (char[]){ "SONDE_HZ=x" }, (char[]){ "SONDE_NOTHING=1" },
			 (char[]){ "SONDE_ROUTES=0" }, NULL };

	(void)state;
	for (size_t room = 0; room < 200; room++) {
		memset(error, '#', sizeof(error));
		assert_int_equal(config_load(&c, envp, error, room), -EINVAL);
		assert_int_equal(error[room], '#');
		if (room > 0)
			assert_true(strlen(error) < room);
	}
}

static void config_load_cleans_the_service_name(void **state)
{
	struct config c;

	(void)state;
	assert_int_equal(load(&c, "SONDE_SERVICE=sh\xff\x01op caf\xc3\xa9", NULL), 0);
	assert_string_equal(c.service, "sh??op caf\xc3\xa9");
}

static void config_address_reads_numbers_only(void **state)
{
	struct sockaddr_storage address;
	struct sockaddr_in *v4 = (struct sockaddr_in *)&address;
	struct sockaddr_un *local = (struct sockaddr_un *)&address;
	static const char *const bad[] = { "",
					   "tcp:",
					   "tcp:7071",
					   "tcp:127.0.0.1",
					   "tcp:127.0.0.1:",
					   "tcp:127.0.0.1:0",
					   "tcp:127.0.0.1:65536",
					   "tcp:example.org:80",
					   "tcp:::1:80",
					   "tcp:[::1]80",
					   "tcp:]:80",
					   "udp:127.0.0.1:1",
					   "unix:",
					   "127.0.0.1:7071" };
	char path[200] = "unix:/";
	socklen_t bytes;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (config_address(bad[i], &address, &bytes) != -EINVAL)
			fail_msg("%s was accepted", bad[i]);
	assert_int_equal(config_address("tcp:localhost:7071", &address, &bytes), 0);
	assert_int_equal(v4->sin_family, AF_INET);
	assert_int_equal(ntohl(v4->sin_addr.s_addr), INADDR_LOOPBACK);
	assert_int_equal(ntohs(v4->sin_port), 7071);
	assert_int_equal(config_address("tcp:[::1]:80", &address, &bytes), 0);
	assert_int_equal(address.ss_family, AF_INET6);
	assert_int_equal(bytes, sizeof(struct sockaddr_in6));
	assert_int_equal(config_address("unix:/run/s", &address, &bytes), 0);
	assert_string_equal(local->sun_path, "/run/s");
	assert_int_equal(config_address("unix:@sonde", &address, &bytes), 0);
	assert_int_equal(local->sun_path[0], 0);
	assert_int_equal(bytes, offsetof(struct sockaddr_un, sun_path) + 6);
	memset(path + 6, 'x', 120);
	assert_int_equal(config_address(path, &address, &bytes), -EINVAL);
}

static void config_print_shows_every_variable(void **state)
{
	static const char *const names[] = { "COLLECTOR", "SERVICE",     "HZ",        "WINDOW_MS",
					     "LOOK_HZ",   "STACK_DEPTH", "SPOOL_KIB", "RING_KIB",
					     "REQUESTS",  "CONNECTIONS", "ROUTES",    "HTTP",
					     "LOCKS",     "TIMESTAMPS",  "OUTPUT",    "DISABLE",
					     "LOG",       "HELP" };
	char text[16384] = "", name[64];
	int ends[2];
	ssize_t n;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	config_print(ends[1]);
	close(ends[1]);
	n = read(ends[0], text, sizeof(text) - 1);
	close(ends[0]);
	assert_true(n > 1000);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(name, sizeof(name), "  SONDE_%s ", names[i]);
		if (!strstr(text, name))
			fail_msg("%s is not in\n%s", name, text);
	}
}

static void config_write_to_a_broken_pipe_raises_no_signal(void **state)
{
	int ends[2], status = 0;
	pid_t child;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	close(ends[0]);
	child = fork();
	if (child == 0) {
		sigset_t pending;

		signal(SIGPIPE, SIG_DFL);
		config_write(ends[1], "nobody reads this\n");
		sigpending(&pending);
		_exit(sigismember(&pending, SIGPIPE) ? 2 : 0);
	}
	waitpid(child, &status, 0);
	close(ends[1]);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void config_write_to_a_full_pipe_does_not_block_for_good(void **state)
{
	char page[4096];
	int ends[2];

	(void)state;
	assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
	memset(page, 'x', sizeof(page));
	while (write(ends[1], page, sizeof(page)) > 0)
		;
	assert_int_equal(fcntl(ends[1], F_SETFL, 0), 0);
	alarm(5); /* the failure is to hang */
	config_write(ends[1], "no room\n");
	alarm(0);
	close(ends[0]);
	close(ends[1]);
}

static void identity_fill_says_who_we_are(void **state)
{
	struct identity a, b;
	struct config c;

	(void)state;
	load_all(&c, NULL);
	identity_fill(&a, &c);
	identity_fill(&b, &c);
	assert_true(a.instance != 0 && a.instance != b.instance);
	assert_int_equal(a.pid, getpid());
	assert_int_equal(a.parent_pid, getppid());
	assert_true(a.start_ns > 0 && a.start_ns == b.start_ns);
	assert_int_equal(strlen(a.boot_id), 36);
	assert_non_null(strstr(a.exe, "/test_config"));
	assert_non_null(strstr(a.command, "test_config"));
	assert_string_equal(a.service, "test_config");
	assert_true(strlen(a.host) > 0);
	assert_int_equal(a.hz, 99);
}

static void identity_clocks_belong_to_one_instant(void **state)
{
	uint64_t mono = 0, unix_ns = 0, mono2 = 0, unix2 = 0;
	int64_t apart;

	(void)state;
	identity_clocks(&mono, &unix_ns);
	identity_clocks(&mono2, &unix2);
	assert_true(mono > 0 && mono2 >= mono);
	apart = (int64_t)(unix2 - unix_ns) - (int64_t)(mono2 - mono);
	assert_in_range(apart + 1000000, 0, 2000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(config_load_of_nothing_gives_the_defaults),
		cmocka_unit_test(config_load_takes_values),
		cmocka_unit_test(config_load_takes_the_first_of_two_as_getenv_does),
		cmocka_unit_test(config_load_takes_an_empty_value_as_the_default),
		cmocka_unit_test(config_load_names_variable_value_and_range),
		cmocka_unit_test(config_load_refuses_what_is_too_long),
		cmocka_unit_test(config_load_helps_with_a_typing_error),
		cmocka_unit_test(config_load_survives_any_error_buffer),
		cmocka_unit_test(config_load_cleans_the_service_name),
		cmocka_unit_test(config_address_reads_numbers_only),
		cmocka_unit_test(config_print_shows_every_variable),
		cmocka_unit_test(config_write_to_a_broken_pipe_raises_no_signal),
		cmocka_unit_test(config_write_to_a_full_pipe_does_not_block_for_good),
		cmocka_unit_test(identity_fill_says_who_we_are),
		cmocka_unit_test(identity_clocks_belong_to_one_instant),
	};

	return RUN(tests);
}
