/* SPDX-License-Identifier: MIT
 *
 * Fuzzes the symbolizer with whole files: ELF and DWARF, damaged in every way. Any name will do, but there must be one, in
 * bounded time. Asks for the entry point, for places in functions that the file itself names, and for some it does not.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/elfsyms.h"
#include "server/symbolize.h"
#include "tests/fuzz/replay.h"

enum {
	FILE_MAX_BYTES = 1 << 20,
	FUNCTIONS_MAX = 12
};

static void look_up(struct symbolizer *s, const char *path, uint64_t address)
{
	const struct symbol *at = NULL;
	size_t count = symbolizer_lookup(s, path, "", 0, address, &at);

	FUZZ_CHECK(count >= 1);
	for (size_t i = 0; i < count; i++) {
		FUZZ_CHECK(at[i].name && *at[i].name && at[i].system_name && at[i].file);
		FUZZ_CHECK(strlen(at[i].name) < SYMBOLIZE_NAME_MAX);
		FUZZ_CHECK(at[i].inlined == (i + 1 < count));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct elfsyms_file file;
	struct elfsyms table = { 0 };
	struct symbolizer *s;
	char path[64];
	int fd;

	if (size > FILE_MAX_BYTES)
		return 0;
	fd = memfd_create("fuzz", MFD_CLOEXEC);
	s = symbolizer_create();
	FUZZ_CHECK(fd >= 0 && s && write(fd, data, size) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (elfsyms_open(&file, path) == 0) {
		FUZZ_CHECK(elfsyms_load(&table, &file, 2) >= 0); /* SHT_SYMTAB */
		FUZZ_CHECK(elfsyms_load_plt(&table, &file) >= 0);
		elfsyms_sort(&table);
		for (size_t i = 0; i < table.count && i < FUNCTIONS_MAX; i++) {
			look_up(s, path, table.symbols[i].address);
			look_up(s, path, table.symbols[i].address + table.symbols[i].size / 2);
			look_up(s, path, table.symbols[i].address + table.symbols[i].size - 1);
		}
		elfsyms_fini(&table);
		elfsyms_close(&file);
	}
	look_up(s, path, 0);
	look_up(s, path, 0x1000);
	look_up(s, path, UINT64_MAX);
	symbolizer_destroy(s);
	close(fd);
	return 0;
}
