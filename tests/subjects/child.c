/* SPDX-License-Identifier: MIT
 *
 * Says whether the agent is in it, and what LD_PRELOAD it was given: test_children.py
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	const char *preload = getenv("LD_PRELOAD");
	char line[4096];
	int loaded = 0;

	while (maps && fgets(line, sizeof line, maps))
		loaded |= strstr(line, "/libsonde.so") != NULL;
	if (maps)
		fclose(maps);
	printf("%s %s\n", loaded ? "loaded" : "free", preload ? preload : "");
	return 0;
}
