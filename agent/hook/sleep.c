/* SPDX-License-Identifier: MIT
 *
 * Waits for the clock. usleep and sleep are wrapped themselves, because libc's own call nanosleep from the inside.
 */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "agent/hook/exports.h"
#include "agent/hook/guard.h"
#include "agent/hook/request.h"
#include "agent/hook/wait.h"

/* Outside a request a sleeping thread is idle; what it does next is a piece of work of its own. */
#define SLEEPING(result, call)                                                                     \
  struct thread *t = hook_enter();                                                                 \
  struct wait w;                                                                                   \
  result r;                                                                                        \
                                                                                                   \
  if (!t)                                                                                          \
    return call;                                                                                   \
  WAIT_BEGIN(&w, t, SLEEP, WAIT_LONG, -1, 0);                                                      \
  r = call;                                                                                        \
  wait_end(&w);                                                                                    \
  return r

EXPORT int nanosleep(const struct timespec *duration, struct timespec *left)
{
	SLEEPING(int, REAL(nanosleep)(duration, left));
}
EXPORT_ALIAS(nanosleep, __nanosleep);

EXPORT int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until,
			   struct timespec *left)
{
	SLEEPING(int, REAL(clock_nanosleep)(clock, flags, until, left));
}

EXPORT int usleep(useconds_t us)
{
	SLEEPING(int, REAL(usleep)(us));
}

EXPORT unsigned sleep(unsigned seconds)
{
	SLEEPING(unsigned, REAL(sleep)(seconds));
}
