/* SPDX-License-Identifier: MIT
 *
 * LD_PRELOAD and programs that take it or do not (server/preload.c).
 */
#include <elf.h>
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/preload.h"
#include "tests/unit/unit.h"

static char directory[] = "/tmp/sonde-preload.XXXXXX";

static int enter(void **state)
{
	(void)state;
	return mkdtemp(directory) && chdir(directory) == 0 ? 0 : -1;
}

static int leave(void **state)
{
	char command[sizeof(directory) + 16];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", directory);
	return chdir("/") < 0 || system(command) != 0;
}

static void write_file(const char *name, const void *data, size_t size, mode_t mode)
{
	FILE *f = fopen(name, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, size, f), size);
	fclose(f);
	assert_int_equal(chmod(name, mode), 0);
}

/* A program that is nothing but headers: @loader "" for a static one. */
static void write_elf(const char *name, unsigned char class, const char *loader, mode_t mode)
{
	struct {
		ElfW(Ehdr) head;
		ElfW(Phdr) segments[2];
		char loader[64];
	} elf = { 0 };

	memcpy(elf.head.e_ident, ELFMAG, SELFMAG);
	elf.head.e_ident[EI_CLASS] = class;
	elf.head.e_machine = EM_X86_64;
	elf.head.e_phoff = (ElfW(Off))((char *)elf.segments - (char *)&elf);
	elf.head.e_phentsize = sizeof(elf.segments[0]);
	elf.head.e_phnum = *loader ? 2 : 1;
	elf.segments[0].p_type = PT_LOAD;
	elf.segments[1].p_type = PT_INTERP;
	elf.segments[1].p_offset = (ElfW(Off))((char *)elf.loader - (char *)&elf);
	strcpy(elf.loader, loader);
	write_file(name, &elf, sizeof(elf), mode);
}

static void assert_joined(const char *already, const char *expected)
{
	char *joined = preload_join(already, "/a/libsonde.so");

	assert_string_equal(joined, expected);
	free(joined);
}

static void the_users_preloads_stay_in_front(void **state)
{
	(void)state;
	assert_joined(NULL, "/a/libsonde.so");
	assert_joined("", "/a/libsonde.so");
	assert_joined("libx.so", "libx.so:/a/libsonde.so");
	assert_joined("libx.so liby.so", "libx.so liby.so:/a/libsonde.so");
}

static void the_agent_is_never_there_twice(void **state)
{
	(void)state;
	assert_joined("/a/libsonde.so", "/a/libsonde.so");
	assert_joined("libx.so:/a/libsonde.so liby.so", "libx.so:/a/libsonde.so liby.so");
	assert_joined("/a/libsonde.so.1", "/a/libsonde.so.1:/a/libsonde.so");
}

static void programs_are_judged_by_their_headers(void **state)
{
	(void)state;
	write_elf("dynamic", ELFCLASS64, "/lib64/ld-linux-x86-64.so.2", 0755);
	write_elf("static", ELFCLASS64, "", 0755);
	write_elf("musl", ELFCLASS64, "/lib/ld-musl-x86_64.so.1", 0755);
	write_elf("narrow", ELFCLASS32, "/lib/ld-linux.so.2", 0755);
	write_file("text", "hello, world\n", 13, 0755);
	assert_int_equal(preload_inspect("dynamic"), PRELOAD_FITS);
	assert_int_equal(preload_inspect("static"), PRELOAD_STATIC);
	assert_int_equal(preload_inspect("musl"), PRELOAD_OTHER_LIBC);
	assert_int_equal(preload_inspect("narrow"), PRELOAD_OTHER_CLASS);
	assert_int_equal(preload_inspect("text"), PRELOAD_UNKNOWN);
	assert_int_equal(preload_inspect("absent"), PRELOAD_UNKNOWN);
	assert_int_equal(preload_inspect("."), PRELOAD_UNKNOWN);
	assert_int_equal(preload_inspect("/proc/self/exe"), PRELOAD_FITS);
}

static void a_script_is_judged_by_its_interpreter(void **state)
{
	char line[PATH_MAX + 16];

	(void)state;
	write_elf("engine", ELFCLASS64, "", 0755);
	snprintf(line, sizeof(line), "#! %s/engine -x\n", directory);
	write_file("script", line, strlen(line), 0755);
	assert_int_equal(preload_inspect("script"), PRELOAD_STATIC);
	snprintf(line, sizeof(line), "#!%s/itself\n", directory);
	write_file("itself", line, strlen(line), 0755);
	assert_int_equal(preload_inspect("itself"), PRELOAD_UNKNOWN);
}

static void setuid_of_another_user_is_privileged(void **state)
{
	(void)state;
	write_elf("raised", ELFCLASS64, "/lib64/ld-linux-x86-64.so.2", 0755);
	if (chown("raised", 12345, 12345) < 0)
		skip(); /* not root: cannot make one */
	assert_int_equal(chmod("raised", 04755), 0);
	assert_int_equal(preload_inspect("raised"), PRELOAD_PRIVILEGED);
	assert_int_equal(chmod("raised", 02755), 0);
	assert_int_equal(preload_inspect("raised"), PRELOAD_PRIVILEGED);
	assert_int_equal(chmod("raised", 0755), 0);
	assert_int_equal(preload_inspect("raised"), PRELOAD_FITS);
}

static void which_finds_what_exec_would_run(void **state)
{
	char *before = strdup(getenv("PATH")), *found = NULL, path[PATH_MAX];

	(void)state;
	assert_int_equal(mkdir("one", 0755), 0);
	assert_int_equal(mkdir("two", 0755), 0);
	write_file("one/tool", "x", 1, 0644);
	write_file("two/tool", "x", 1, 0755);
	write_file("one/broken", "x", 1, 0000);
	snprintf(path, sizeof(path), "%s/one:%s/two", directory, directory);
	setenv("PATH", path, 1);
	assert_int_equal(preload_which("tool", &found), 0);
	assert_non_null(strstr(found, "/two/tool"));
	free(found);
	assert_int_equal(preload_which("two/tool", &found), 0);
	assert_string_equal(found, "two/tool");
	free(found);
	assert_int_equal(preload_which("one/tool", &found), -EACCES);
	assert_int_equal(preload_which("broken", &found), -EACCES);
	assert_int_equal(preload_which("absent", &found), -ENOENT);
	assert_int_equal(preload_which("", &found), -ENOENT);
	setenv("PATH", before, 1);
	free(before);
}

static void the_agent_is_sought_where_it_is_said_to_be(void **state)
{
	char looked[2 * PATH_MAX + 32], *agent = NULL;

	(void)state;
	write_file("libagent.so", "x", 1, 0644);
	assert_int_equal(preload_find_agent("libagent.so", &agent, looked, sizeof(looked)), 0);
	assert_int_equal(agent[0], '/');
	free(agent);
	setenv("SONDE_AGENT", "libagent.so", 1);
	assert_int_equal(preload_find_agent(NULL, &agent, looked, sizeof(looked)), 0);
	free(agent);
	assert_int_equal(preload_find_agent("absent.so", &agent, looked, sizeof(looked)), -ENOENT);
	assert_string_equal(looked, "absent.so");
	unsetenv("SONDE_AGENT");
	assert_false(preload_can_carry("/a b/libsonde.so"));
	assert_false(preload_can_carry("/a:b/libsonde.so"));
	assert_true(preload_can_carry("/a/libsonde.so"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_users_preloads_stay_in_front),
		cmocka_unit_test(the_agent_is_never_there_twice),
		cmocka_unit_test(programs_are_judged_by_their_headers),
		cmocka_unit_test(a_script_is_judged_by_its_interpreter),
		cmocka_unit_test(setuid_of_another_user_is_privileged),
		cmocka_unit_test(which_finds_what_exec_would_run),
		cmocka_unit_test(the_agent_is_sought_where_it_is_said_to_be),
	};

	return cmocka_run_group_tests_name(__FILE__, tests, enter, leave);
}
