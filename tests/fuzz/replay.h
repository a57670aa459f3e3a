/* SPDX-License-Identifier: MIT
 *
 * Included by every tests/fuzz/fuzz_NAME.c, which defines LLVMFuzzerTestOneInput(). The compiler of a plain build has no
 * libFuzzer, so this gives the program a main() that replays files and directories; it is weak, and libFuzzer's own
 * main() takes its place in a build with CC=clang SAN=fuzzer,address.
 *
 * The inputs that stay lie in tests/fuzz/corpus/NAME/. An input fails by crashing: check with FUZZ_CHECK().
 */
#ifndef TESTS_REPLAY_H
#define TESTS_REPLAY_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int main(int argc, char **argv);

#define FUZZ_CHECK(condition)                                                                      \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                              \
      abort();                                                                                     \
    }                                                                                              \
  } while (0)

/* Run one file. Its bytes lie in a block of exactly their size, so that ASan sees a read past them. */
static unsigned replay_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data = NULL;
	long size = -1;

	if (file && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0) {
		rewind(file);
		data = malloc(size ? (size_t)size : 1);
	}
	if (!data || fread(data, 1, (size_t)size, file) != (size_t)size) {
		fprintf(stderr, "%s: cannot be read\n", path);
		exit(1);
	}
	fclose(file);
	LLVMFuzzerTestOneInput(data, (size_t)size);
	free(data);
	return 1;
}

static unsigned replay_path(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	unsigned count = 0;
	char name[4096];

	if (!dir)
		return replay_file(path);
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		count += replay_path(name);
	}
	closedir(dir);
	return count;
}

__attribute__((weak)) int main(int argc, char **argv)
{
	unsigned count = 0;

	for (int i = 1; i < argc; i++)
		count += replay_path(argv[i]);
	printf("replayed %u inputs\n", count);
	return 0;
}

#endif
