/* SPDX-License-Identifier: MIT
 *
 * Fuzzes the readers of exported files (server/profile*.c) and, on what they read, the comparison.
 */
#include "server/diff.h"
#include "server/profile.h"
#include "tests/fuzz/replay.h"

/* A profile against itself changes nowhere; whatever the file says, this must hold. */
static void compare_with_itself(const struct profile *p)
{
	struct diff *diff = NULL;

	if (diff_compare(p, p, &diff) < 0)
		return;
	for (size_t i = 0; i < diff->route_count; i++)
		FUZZ_CHECK(diff_change(diff->routes[i].total) == 0);
	for (size_t i = 0; i < diff->function_count; i++) {
		FUZZ_CHECK(diff_change(diff->functions[i].self) == 0);
		FUZZ_CHECK(diff->functions[i].self.a <= diff->functions[i].total.a);
	}
	diff_destroy(diff);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char error[PROFILE_ERROR_MAX];
	struct profile *p = NULL;

	if (profile_read(data, size, NULL, &p, error) == 0) {
		compare_with_itself(p);
		profile_destroy(p);
	} else {
		FUZZ_CHECK(error[0]);
	}
	return 0;
}
