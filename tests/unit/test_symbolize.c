/* SPDX-License-Identifier: MIT
 *
 * Names, lines and inlined frames of programs whose answers are known: tests/subjects/inline.c, copies of it that were
 * stripped, compressed or damaged by binutils, the C library, and the vDSO.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <gelf.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/demangle.h"
#include "server/elfsyms.h"
#include "server/symbolize.h"
#include "tests/unit/unit.h"

static char subject[512], scratch[] = "/tmp/sonde-symbolize-XXXXXX";

/* ---- What is true, from the source and the symbol table ---- */

static uint32_t line_of(const char *mark)
{
	FILE *source = fopen("tests/subjects/inline.c", "r");
	char line[512], wanted[64];
	uint32_t number = 0, found = 0;

	assert_non_null(source);
	snprintf(wanted, sizeof(wanted), "/* line: %s */", mark);
	while (!found && fgets(line, sizeof(line), source)) {
		number++;
		if (strstr(line, wanted))
			found = number;
	}
	fclose(source);
	assert_int_not_equal(found, 0);
	return found;
}

/* The address of a symbol of any type in the subject. */
static uint64_t address_of(const char *name)
{
	struct elfsyms_file file;
	GElf_Shdr header;
	Elf_Scn *section;
	uint64_t found = 0;
	Elf_Data *data;
	GElf_Sym sym;

	assert_int_equal(elfsyms_open(&file, subject), 0);
	section = elfsyms_section(&file, ".symtab");
	assert_non_null(section);
	gelf_getshdr(section, &header);
	data = elf_getdata(section, NULL);
	for (int i = 0; gelf_getsym(data, i, &sym); i++)
		if (strcmp(elf_strptr(file.elf, header.sh_link, sym.st_name), name) == 0)
			found = sym.st_value;
	elfsyms_close(&file);
	assert_int_not_equal(found, 0);
	return found;
}

static void build_id_of(const char *path, char id[2 * ELFSYMS_BUILD_ID_MAX + 1])
{
	struct elfsyms_file file;

	assert_int_equal(elfsyms_open(&file, path), 0);
	strcpy(id, file.build_id);
	assert_true(strlen(id) >= 16);
	elfsyms_close(&file);
}

static bool ends_with(const char *string, const char *end)
{
	size_t length = strlen(string), wanted = strlen(end);

	return length >= wanted && strcmp(string + length - wanted, end) == 0;
}

/* A file in the scratch directory, made by the shell @command in which %s is the subject. */
static const char *made(const char *name, const char *command)
{
	static char path[600];
	char full[2048];
	int length;

	snprintf(path, sizeof(path), "%s/%s", scratch, name);
	length = snprintf(full, sizeof(full), "cd %s && S=%s && ", scratch, subject);
	snprintf(full + length, sizeof(full) - (size_t)length, "%s", command);
	assert_int_equal(system(full), 0);
	assert_int_equal(access(path, R_OK), 0);
	return path;
}

/* The three frames that lie at here_innermost. */
static void assert_inlined(const char *path, const char *build_id)
{
	struct symbolizer *s = symbolizer_create();
	const struct symbol *at;

	assert_int_equal(symbolizer_lookup(s, path, build_id, 0, address_of("here_innermost"), &at),
			 3);
	assert_string_equal(at[0].name, "innermost");
	assert_string_equal(at[1].name, "middle");
	assert_string_equal(at[2].name, "outer");
	assert_int_equal(at[0].line, line_of("innermost"));
	assert_int_equal(at[1].line, line_of("middle"));
	assert_int_equal(at[2].line, line_of("outer"));
	assert_true(at[0].inlined && at[1].inlined && !at[2].inlined);
	for (int i = 0; i < 3; i++)
		assert_true(ends_with(at[i].file, "tests/subjects/inline.c"));
	symbolizer_destroy(s);
}

/* ---- Tests ---- */

static void symbolizer_shows_inlined_frames_innermost_first(void **state)
{
	(void)state;
	assert_inlined(subject, "");
}

static void symbolizer_demangles_and_keeps_the_linker_name(void **state)
{
	struct symbolizer *s = symbolizer_create();
	const struct symbol *at;

	(void)state;
	assert_int_equal(symbolizer_lookup(s, subject, "", 0, address_of("here_plain"), &at), 1);
	assert_string_equal(at->name,
			    "shop::Order::total(std::vector<int, std::allocator<int> > const&)");
	assert_string_equal(at->system_name, "_ZN4shop5Order5totalERKSt6vectorIiSaIiEE");
	assert_int_equal(at->line, line_of("plain"));
	assert_false(at->inlined);
	symbolizer_destroy(s);
}

static void symbolizer_prefers_the_alias_without_underscores(void **state)
{
	struct symbolizer *s = symbolizer_create();
	const struct symbol *at;

	(void)state;
	assert_int_equal(symbolizer_lookup(s, subject, "", 0, address_of("here_counter"), &at), 1);
	assert_string_equal(at->name, "counter");
	symbolizer_destroy(s);
}

static void symbolizer_answers_from_its_cache(void **state)
{
	struct symbolizer *s = symbolizer_create();
	uint64_t address = address_of("here_innermost");
	const struct symbol *first, *second;

	(void)state;
	symbolizer_lookup(s, subject, "", 0, address, &first);
	for (uint64_t a = 0; a < 5000; a++)
		symbolizer_lookup(s, subject, "", 0, a, &second);
	assert_int_equal(symbolizer_lookup(s, subject, "", 0, address, &second), 3);
	assert_ptr_equal(first, second);
	assert_int_equal(symbolizer_refused(s), 0);
	symbolizer_destroy(s);
}

static void symbolizer_checks_the_build_id(void **state)
{
	struct symbolizer *s = symbolizer_create();
	char id[2 * ELFSYMS_BUILD_ID_MAX + 1], expected[64];
	uint64_t address = address_of("here_plain");
	const struct symbol *at;

	(void)state;
	build_id_of(subject, id);
	assert_inlined(subject, id);
	id[0] = id[0] == '0' ? '1' : '0';
	assert_int_equal(symbolizer_lookup(s, subject, id, 0, address, &at), 1);
	snprintf(expected, sizeof(expected), "inline+0x%llx", (unsigned long long)address);
	assert_string_equal(at->name, expected);
	assert_string_equal(at->system_name, expected);
	assert_string_equal(at->file, "");
	symbolizer_destroy(s);
}

static void symbolizer_names_what_it_cannot_open(void **state)
{
	static const char *const paths[] = {
		"/nowhere/libgone.so.1", "",      "/",      "/dev/zero",
		"/proc/self/mem",        "/tmp",  "[heap]", "relative.so",
		"/proc/self/cmdline",    "//anon"
	};
	struct symbolizer *s = symbolizer_create();
	const struct symbol *at;
	const char *fifo = made("fifo", "rm -f fifo && mkfifo fifo");

	(void)state;
	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
		assert_int_equal(symbolizer_lookup(s, paths[i], "", 1, 0x1234, &at), 1);
		assert_true(ends_with(at->name, "+0x1234"));
	}
	assert_int_equal(symbolizer_lookup(s, paths[0], "", 0, 0x99, &at), 1);
	assert_string_equal(at->name, "libgone.so.1+0x99");
	assert_int_equal(symbolizer_lookup(s, "", "", 0, 0x99, &at), 1);
	assert_string_equal(at->name, "[unknown]+0x99");
	assert_int_equal(symbolizer_lookup(s, fifo, "", 0, 0x99, &at), 1); /* and does not wait */
	assert_string_equal(at->name, "fifo+0x99");
	symbolizer_destroy(s);
}

static void symbolizer_tries_again_through_another_process(void **state)
{
	struct symbolizer *s = symbolizer_create();
	uint64_t address = address_of("here_plain");
	const struct symbol *at, *before;
	char path[600];

	(void)state;
	snprintf(path, sizeof(path), "%s/later", scratch);
	assert_int_equal(symbolizer_lookup(s, path, "", 0, address, &before), 1);
	assert_true(strncmp(before->name, "later+0x", 8) == 0);
	made("later", "cp $S later");
	symbolizer_lookup(s, path, "", 0, address, &at);
	assert_ptr_equal(at, before); /* an absent file is not looked for again and again */
	symbolizer_lookup(s, path, "", (uint32_t)getpid(), address, &at);
	assert_string_equal(at->system_name, "_ZN4shop5Order5totalERKSt6vectorIiSaIiEE");
	assert_true(strncmp(before->name, "later+0x", 8) == 0); /* old answers stay valid */
	symbolizer_destroy(s);
}

/* A process that sees the scratch directory as its root, where the file is "/inside". */
static void symbolizer_looks_through_the_root_of_the_process(void **state)
{
	struct symbolizer *s = symbolizer_create();
	int ready[2], status, here = 0;
	const struct symbol *at;
	pid_t child;
	char byte;

	(void)state;
	made("inside", "cp $S inside");
	assert_int_equal(pipe(ready), 0);
	child = fork();
	if (child == 0) {
		close(ready[0]);
		if (chroot(scratch) && (unshare(CLONE_NEWUSER) || chroot(scratch)))
			_exit(2);
		if (write(ready[1], "x", 1) == 1)
			sleep(30);
		_exit(0);
	}
	close(ready[1]);
	here = read(ready[0], &byte, 1) == 1;
	close(ready[0]);
	if (here)
		symbolizer_lookup(s, "/inside", "", (uint32_t)child, address_of("here_plain"), &at);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &status, 0), child);
	if (!here) { /* no right to change the root */
		symbolizer_destroy(s);
		skip();
	}
	assert_int_equal(at->line, line_of("plain"));
	symbolizer_destroy(s);
}

static void symbolizer_knows_deleted_files_by_their_build_id(void **state)
{
	struct symbolizer *s = symbolizer_create();
	char id[2 * ELFSYMS_BUILD_ID_MAX + 1], path[600];
	const struct symbol *at;

	(void)state;
	build_id_of(subject, id);
	snprintf(path, sizeof(path), "%s (deleted)", subject);
	assert_int_equal(symbolizer_lookup(s, path, id, 0, address_of("here_plain"), &at), 1);
	assert_int_equal(at->line, line_of("plain"));
	assert_int_equal(symbolizer_lookup(s, path, "", 0, address_of("here_plain"), &at), 1);
	assert_int_equal(at->line, 0);
	symbolizer_destroy(s);
}

static void symbolizer_follows_debug_links(void **state)
{
	(void)state;
	assert_inlined(made("stripped", "objcopy --only-keep-debug $S stripped.debug && "
					"objcopy --strip-all --add-gnu-debuglink=stripped.debug "
					"$S stripped"),
		       "");
	assert_inlined(made("hidden", "mkdir -p .debug && cd .debug && "
				      "objcopy --only-keep-debug $S hidden.debug && "
				      "objcopy --strip-all --add-gnu-debuglink=hidden.debug "
				      "$S ../hidden"),
		       "");
}

static void symbolizer_refuses_the_debug_file_of_another_build(void **state)
{
	struct symbolizer *s = symbolizer_create();
	const struct symbol *at;
	char path[600];

	(void)state;
	strcpy(path,
	       made("noid", "objcopy --remove-section=.note.gnu.build-id $S noid.full && "
			    "objcopy --only-keep-debug noid.full noid.debug 2>/dev/null && "
			    "objcopy --strip-all --add-gnu-debuglink=noid.debug noid.full noid"));
	assert_inlined(path, ""); /* by its checksum */
	made("noid.debug", "printf x >> noid.debug");
	assert_int_equal(symbolizer_lookup(s, path, "", 0, address_of("here_plain"), &at), 1);
	assert_true(strncmp(at->name, "noid+0x", 7) == 0);
	symbolizer_destroy(s);
}

static void symbolizer_reads_compressed_sections(void **state)
{
	(void)state;
	assert_inlined(made("zlib", "objcopy --compress-debug-sections=zlib $S zlib"), "");
	assert_inlined(made("gnuz", "objcopy --compress-debug-sections=zlib-gnu $S gnuz"), "");
}

static void symbolizer_uses_exported_names_of_stripped_libraries(void **state)
{
	struct symbolizer *s = symbolizer_create();
	const struct symbol *at;
	struct link_map *map;
	Dl_info info;

	(void)state;
	assert_int_not_equal(dladdr1(dlsym(RTLD_DEFAULT, "pthread_mutex_lock"), &info,
				     (void **)&map, RTLD_DL_LINKMAP),
			     0);
	assert_true(symbolizer_lookup(s, info.dli_fname, "", 0,
				      (uint64_t)((uintptr_t)info.dli_saddr - map->l_addr) + 1,
				      &at) >= 1);
	assert_string_equal(at->name, "pthread_mutex_lock");
	symbolizer_destroy(s);
}

static void symbolizer_names_nameless_functions_after_their_beginning(void **state)
{
	struct symbolizer *s = symbolizer_create();
	const char *path = made("bare", "objcopy --strip-all $S bare");
	uint64_t address = address_of("outer");
	const struct symbol *first, *later;
	char expected[64];

	(void)state;
	snprintf(expected, sizeof(expected), "bare+0x%llx", (unsigned long long)address);
	assert_int_equal(symbolizer_lookup(s, path, "", 0, address, &first), 1);
	assert_int_equal(symbolizer_lookup(s, path, "", 0, address_of("here_innermost"), &later),
			 1);
	assert_string_equal(first->name, expected);
	assert_string_equal(later->name, expected);
	assert_string_equal(first->system_name, expected);
	symbolizer_destroy(s);
}

static void symbolizer_names_linkage_table_entries(void **state)
{
	struct symbolizer *s = symbolizer_create();
	struct elfsyms_file file;
	struct elfsyms table = { 0 };
	const struct symbol *at;
	uint64_t address = 0;

	(void)state;
	assert_int_equal(elfsyms_open(&file, subject), 0);
	assert_true(elfsyms_load_plt(&table, &file) > 0);
	for (size_t i = 0; i < table.count; i++)
		if (strncmp(table.symbols[i].name, "printf", 6) == 0 ||
		    strncmp(table.symbols[i].name, "__printf", 8) == 0)
			address = table.symbols[i].address;
	elfsyms_fini(&table);
	elfsyms_close(&file);
	assert_int_not_equal(address, 0);
	assert_int_equal(symbolizer_lookup(s, subject, "", 0, address + 4, &at), 1);
	assert_true(ends_with(at->name, "@plt"));
	assert_non_null(strstr(at->name, "printf"));
	symbolizer_destroy(s);
}

static void symbolizer_reads_our_own_vdso(void **state)
{
	struct symbolizer *s = symbolizer_create();
	const struct symbol *at;
	bool found = false;

	(void)state;
	if (!getauxval(AT_SYSINFO_EHDR)) {
		symbolizer_destroy(s);
		skip();
	}
	for (uint64_t a = 0; a < 0x2000 && !found; a += 16)
		if (symbolizer_lookup(s, "[vdso]", "", 0, a, &at))
			found = strstr(at->name, "clock_gettime") != NULL;
	assert_true(found);
	assert_int_equal(symbolizer_lookup(s, "[vdso]", "0123456789", 0, 0x123, &at), 1);
	assert_string_equal(at->name, "[vdso]+0x123");
	symbolizer_destroy(s);
}

static unsigned open_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	unsigned count = 0;

	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

static void symbolizer_closes_what_it_opened(void **state)
{
	unsigned before = open_descriptors(), most;
	struct symbolizer *s = symbolizer_create();
	uint64_t address = address_of("here_plain");
	const struct symbol *at;
	char path[600];

	(void)state;
	made("many0", "for i in $(seq 0 149); do cp $S many$i; done");
	for (int round = 0; round < 2; round++)
		for (int i = 0; i < 150; i++) {
			snprintf(path, sizeof(path), "%s/many%d", scratch, i);
			symbolizer_lookup(s, path, "", 0, address + (unsigned)round, &at);
			assert_true(strncmp(at->system_name, "_ZN4shop", 8) == 0);
		}
	most = open_descriptors();
	assert_true(most >= before + 100 && most <= before + SYMBOLIZE_OPEN_MAX);
	symbolizer_destroy(s);
	assert_int_equal(open_descriptors(), before);
	made("many0", "rm many[1-9]*");
}

static void symbolizer_refuses_modules_past_the_cap(void **state)
{
	struct symbolizer *s = symbolizer_create();
	const struct symbol *at;
	char path[64];

	(void)state;
	for (int i = 0; i < SYMBOLIZE_MODULES_MAX + 10; i++) {
		snprintf(path, sizeof(path), "/nowhere/lib%d.so", i);
		assert_int_equal(symbolizer_lookup(s, path, "", 0, 1, &at), 1);
	}
	assert_string_equal(at->name, "[no room]");
	assert_int_equal(symbolizer_refused(s), 10);
	symbolizer_destroy(s);
}

static void *look_up_many(void *context)
{
	uint64_t address = address_of("outer");
	const struct symbol *at;

	for (uint64_t i = 0; i < 200; i++)
		if (symbolizer_lookup(context, subject, "", 0, address + i % 24, &at) == 0)
			return context;
	return NULL;
}

static void symbolizer_serves_several_threads(void **state)
{
	struct symbolizer *s = symbolizer_create();
	pthread_t threads[4];
	void *bad;

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, look_up_many, s), 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], &bad);
		assert_null(bad);
	}
	symbolizer_destroy(s);
}

/* Every cut of the file, and every byte of its head in turn: any answer will do, as long as there is one. */
static void symbolizer_survives_damaged_files(void **state)
{
	const struct symbol *at;
	uint64_t address = address_of("here_innermost");
	struct stat st;
	char *bytes, path[600];
	int fd = open(subject, O_RDONLY), out;

	(void)state;
	assert_int_equal(fstat(fd, &st), 0);
	bytes = malloc((size_t)st.st_size);
	assert_int_equal(read(fd, bytes, (size_t)st.st_size), st.st_size);
	close(fd);
	snprintf(path, sizeof(path), "%s/damaged", scratch);
	for (int round = 0; round < 400; round++) {
		struct symbolizer *s = symbolizer_create();
		size_t length = (size_t)st.st_size, at_byte = (size_t)round * 37 % length;

		if (round % 2)
			length = length * (size_t)round / 400;
		else
			bytes[at_byte] = (char)~bytes[at_byte];
		out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		assert_int_equal(write(out, bytes, length), length);
		close(out);
		if (round % 2 == 0)
			bytes[at_byte] = (char)~bytes[at_byte];
		assert_true(symbolizer_lookup(s, path, "", 0, address, &at) >= 1);
		assert_true(*at->name);
		symbolizer_destroy(s);
	}
	free(bytes);
}

static void demangle_says_what_the_author_wrote(void **state)
{
	static const char *const names[][2] = {
		{ "main", "main" },
		{ "_ZN3foo3barEv", "foo::bar()" },
		{ "_ZN3foo3barEv.isra.0", "foo::bar()" },
		{ "_ZN3foo3barEv.part.1.cold", "foo::bar()" },
		{ "fib.constprop.0", "fib" },
		{ "fib.constprop.0.isra.12", "fib" },
		{ "parse.cold", "parse" },
		{ "clock_gettime@@GLIBC_2.17", "clock_gettime" },
		{ "memcpy@GLIBC_2.2.5", "memcpy" },
		{ "static_in_function.0", "static_in_function.0" },
		{ "outer.cold.12", "outer" },
		{ "bytes.part", "bytes.part" },
		{ "main.(*T).cold.func1", "main.(*T).cold.func1" },
		{ ".cold", ".cold" },
		{ ".part.0", ".part.0" },
		{ "x.", "x." },
		{ ".", "." },
		{ "@", "@" },
		{ "a.0", "a.0" },
		{ "x.coldish", "x.coldish" },
		{ "_ZN5alloc3vec12Vec$LT$T$GT$3len17h0123456789abcdefE",
		  "alloc::vec::Vec<T>::len" },
		{ "_ZN4core3ptr13drop_in_place17h0123456789abcdefE.llvm.123",
		  "core::ptr::drop_in_place" },
		{ "_RNvCs1234_7mycrate3foo", "mycrate::foo" },
		{ "_Zgarbage", "_Zgarbage" },
		{ "_R", "_R" },
	};
	char out[256];

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		demangle(names[i][0], out, sizeof(out));
		assert_string_equal(out, names[i][1]);
	}
	demangle("", out, sizeof(out));
	assert_string_equal(out, "");
}

static void demangle_cuts_what_is_too_long(void **state)
{
	char name[10000], out[64];

	(void)state;
	/* A pair of pairs of pairs ...: 30 levels in 200 bytes, 2^30 names when written out. */
	strcpy(name, "_Z1fISt4pairIiiE");
	for (int i = 0; i < 30; i++)
		strcat(name, i == 0 ? "S_IS0_S0_E" : "S_IS1_S1_E");
	demangle("_Z1fSt4pairIS_IS_IiiES0_ES1_ES_IS2_S2_ES_IS3_S3_ES_IS4_S4_E", out, sizeof(out));
	assert_int_equal(strlen(out), 63);
	assert_string_equal(out + 60, "...");
	demangle(name, out, sizeof(out));
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	demangle(name, out, sizeof(out));
	assert_int_equal(strlen(out), 63);
	assert_string_equal(out + 60, "...");
}

static int begin(void **state)
{
	const char *build = getenv("B");
	char relative[512], *full;

	(void)state;
	snprintf(relative, sizeof(relative), "%s/tests/subjects/inline",
		 build ? build : "build/release");
	full = realpath(relative, NULL);
	if (!full) {
		print_error("no %s: run me from the top of the repository, with B set\n", relative);
		return -1;
	}
	snprintf(subject, sizeof(subject), "%s", full);
	free(full);
	return mkdtemp(scratch) ? 0 : -1;
}

static int end(void **state)
{
	char command[64];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", scratch);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(symbolizer_shows_inlined_frames_innermost_first),
		cmocka_unit_test(symbolizer_demangles_and_keeps_the_linker_name),
		cmocka_unit_test(symbolizer_prefers_the_alias_without_underscores),
		cmocka_unit_test(symbolizer_answers_from_its_cache),
		cmocka_unit_test(symbolizer_checks_the_build_id),
		cmocka_unit_test(symbolizer_names_what_it_cannot_open),
		cmocka_unit_test(symbolizer_tries_again_through_another_process),
		cmocka_unit_test(symbolizer_looks_through_the_root_of_the_process),
		cmocka_unit_test(symbolizer_knows_deleted_files_by_their_build_id),
		cmocka_unit_test(symbolizer_follows_debug_links),
		cmocka_unit_test(symbolizer_refuses_the_debug_file_of_another_build),
		cmocka_unit_test(symbolizer_reads_compressed_sections),
		cmocka_unit_test(symbolizer_uses_exported_names_of_stripped_libraries),
		cmocka_unit_test(symbolizer_names_nameless_functions_after_their_beginning),
		cmocka_unit_test(symbolizer_names_linkage_table_entries),
		cmocka_unit_test(symbolizer_reads_our_own_vdso),
		cmocka_unit_test(symbolizer_closes_what_it_opened),
		cmocka_unit_test(symbolizer_refuses_modules_past_the_cap),
		cmocka_unit_test(symbolizer_serves_several_threads),
		cmocka_unit_test(symbolizer_survives_damaged_files),
		cmocka_unit_test(demangle_says_what_the_author_wrote),
		cmocka_unit_test(demangle_cuts_what_is_too_long),
	};

	return cmocka_run_group_tests_name(__FILE__, tests, begin, end);
}
