/* SPDX-License-Identifier: MIT
 *
 * See real.h. Condition variables exist in two versions on x86_64; dlsym gives the default one, GLIBC_2.3.2, which is
 * what every program built since 2003 calls; dlvsym the other.
 */
#include "agent/hook/real.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

struct real real;

/* What glibc before 2.35 lacks and no program built for it calls; whoever finds our name for it by dlsym is told so. */
static const char *const newer[] = { "close_range", "closefrom", "epoll_pwait2", "execveat" };

static int absent(void)
{
	errno = ENOSYS;
	return -1;
}

static void *resolve(const char *name)
{
	void *address = dlsym(RTLD_NEXT, name);

	for (size_t i = 0; !address && i < sizeof newer / sizeof *newer; i++)
		if (strcmp(name, newer[i]) == 0)
			address = (void *)absent;
	return address;
}

const char *real_start(void)
{
	static const struct {
		const char *name;
		void *slot;
	} functions[] = {
#define X(result, name, parameters) { #name, &real.name },
		REAL_FUNCTIONS(X)
#undef X
			{ "_exit", &real.exit_now },
	};

	for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
		void *address = resolve(functions[i].name);

		if (!address)
			return functions[i].name;
		memcpy(functions[i].slot, &address, sizeof address);
	}
#if defined(__x86_64__)
	for (unsigned i = 0; i < 2; i++) {
		static const char *const names[] = { "pthread_cond_wait",
						     "pthread_cond_timedwait" };
		void *slots[] = { &real.old_cond_wait, &real.old_cond_timedwait };
		void *address = dlvsym(RTLD_NEXT, names[i], "GLIBC_2.2.5");

		if (!address)
			return names[i];
		memcpy(slots[i], &address, sizeof address);
	}
#endif
	return NULL;
}
