/* SPDX-License-Identifier: MIT
 *
 * Waits for another thread. A lock that is free costs a branch: the try version first, and only its "busy" answer is
 * timed. Any other answer of the try version (a robust mutex whose owner died, a deadlock found) is the answer. Nothing
 * is recorded while the host holds the lock it waited for, except that the wait has ended.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "agent/hook/children.h"
#include "agent/hook/exports.h"
#include "agent/hook/guard.h"
#include "agent/hook/request.h"
#include "agent/hook/thread.h"
#include "agent/hook/wait.h"

#define TIMED(t, object, call)                                                                     \
  do {                                                                                             \
    struct wait w;                                                                                 \
                                                                                                   \
    WAIT_BEGIN(&w, t, LOCK, WAIT_LONG, -1, object);                                                \
    r = call;                                                                                      \
    wait_end(&w);                                                                                  \
  } while (0)

/* @try answers at once; only when it says busy, @call, which blocks, is timed. */
#define TRY_FIRST(object, try, call)                                                               \
  struct thread *t = hook_enter();                                                                 \
  int r;                                                                                           \
                                                                                                   \
  if (!t || !thread_setup.locks)                                                                   \
    return call;                                                                                   \
  r = try;                                                                                         \
  if (likely(r != EBUSY))                                                                          \
    return r;                                                                                      \
  TIMED(t, object, call);                                                                          \
  return r

EXPORT int pthread_mutex_lock(pthread_mutex_t *m)
{
	TRY_FIRST(m, REAL(pthread_mutex_trylock)(m), REAL(pthread_mutex_lock)(m));
}
EXPORT_ALIAS(pthread_mutex_lock, __pthread_mutex_lock);

EXPORT int pthread_mutex_timedlock(pthread_mutex_t *m, const struct timespec *until)
{
	TRY_FIRST(m, REAL(pthread_mutex_trylock)(m), REAL(pthread_mutex_timedlock)(m, until));
}

EXPORT int pthread_mutex_clocklock(pthread_mutex_t *m, clockid_t clock,
				   const struct timespec *until)
{
	if (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC) /* refused even when it is free */
		return REAL(pthread_mutex_clocklock)(m, clock, until);
	TRY_FIRST(m, REAL(pthread_mutex_trylock)(m),
		  REAL(pthread_mutex_clocklock)(m, clock, until));
}

/*
 * The read-write locks are not tried first (but wrlock): tryrdlock succeeds where rdlock of a writer-preferring lock must wait, and its
 * EAGAIN (too many readers) would be new to the host; timed ones check their time even when the lock is free. Two clock reads are little beside what such a lock costs itself.
 */
#define TIMED_ALWAYS(object, call)                                                                 \
  struct thread *t = hook_enter();                                                                 \
  int r;                                                                                           \
                                                                                                   \
  if (!t || !thread_setup.locks)                                                                   \
    return call;                                                                                   \
  TIMED(t, object, call);                                                                          \
  return r

EXPORT int pthread_rwlock_rdlock(pthread_rwlock_t *l)
{
	TIMED_ALWAYS(l, REAL(pthread_rwlock_rdlock)(l));
}
EXPORT_ALIAS(pthread_rwlock_rdlock, __pthread_rwlock_rdlock);

EXPORT int pthread_rwlock_timedrdlock(pthread_rwlock_t *l, const struct timespec *until)
{
	TIMED_ALWAYS(l, REAL(pthread_rwlock_timedrdlock)(l, until));
}

EXPORT int pthread_rwlock_clockrdlock(pthread_rwlock_t *l, clockid_t clock,
				      const struct timespec *until)
{
	TIMED_ALWAYS(l, REAL(pthread_rwlock_clockrdlock)(l, clock, until));
}

EXPORT int pthread_rwlock_wrlock(pthread_rwlock_t *l)
{
	TRY_FIRST(l, REAL(pthread_rwlock_trywrlock)(l), REAL(pthread_rwlock_wrlock)(l));
}
EXPORT_ALIAS(pthread_rwlock_wrlock, __pthread_rwlock_wrlock);

EXPORT int pthread_rwlock_timedwrlock(pthread_rwlock_t *l, const struct timespec *until)
{
	TIMED_ALWAYS(l, REAL(pthread_rwlock_timedwrlock)(l, until));
}

EXPORT int pthread_rwlock_clockwrlock(pthread_rwlock_t *l, clockid_t clock,
				      const struct timespec *until)
{
	TIMED_ALWAYS(l, REAL(pthread_rwlock_clockwrlock)(l, clock, until));
}

static void lock_end(struct wait *w)
{
	if (thread_current(w->t) || w->nested) {
		wait_end(w);
	} else {
		int saved = errno;
		uint64_t now = wait_end_idle(w);

		slice_begin(w->t, w->start_ns, now);
		errno = saved;
	}
}

/*
 * Conditions, semaphores and joins block as a rule. Inside a request that is a wait for another thread; outside, it is how
 * a pool's thread waits for work, and a piece of work begins when it returns.
 */
#define PICK_UP(object, call)                                                                      \
  struct thread *t = hook_enter();                                                                 \
  struct wait w;                                                                                   \
  int r;                                                                                           \
                                                                                                   \
  if (!t || !thread_setup.locks)                                                                   \
    return call;                                                                                   \
  WAIT_BEGIN(&w, t, thread_current(t) ? LOCK : (enum state)EVENT_WAIT, WAIT_LONG, -1, object);     \
  r = call;                                                                                        \
  lock_end(&w);                                                                                    \
  return r

/* Two versions on x86_64, see agent/versions.map. */
#if defined(__x86_64__)
#  define COND_EXPORT(name) cond_##name
int cond_wait(pthread_cond_t *c, pthread_mutex_t *m);
int cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until);
int cond_wait_old(pthread_cond_t *c, pthread_mutex_t *m);
int cond_timedwait_old(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until);
__asm__(".symver cond_wait, pthread_cond_wait@@@GLIBC_2.3.2\n"
	".symver cond_timedwait, pthread_cond_timedwait@@@GLIBC_2.3.2\n"
	".symver cond_wait_old, pthread_cond_wait@GLIBC_2.2.5\n"
	".symver cond_timedwait_old, pthread_cond_timedwait@GLIBC_2.2.5\n");

EXPORT int cond_wait_old(pthread_cond_t *c, pthread_mutex_t *m)
{
	PICK_UP(c, REAL(old_cond_wait)(c, m));
}

EXPORT int cond_timedwait_old(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until)
{
	PICK_UP(c, REAL(old_cond_timedwait)(c, m, until));
}
#else
#  define COND_EXPORT(name) pthread_cond_##name
#endif

EXPORT int COND_EXPORT(wait)(pthread_cond_t *c, pthread_mutex_t *m)
{
	PICK_UP(c, REAL(pthread_cond_wait)(c, m));
}

EXPORT int COND_EXPORT(timedwait)(pthread_cond_t *c, pthread_mutex_t *m,
				  const struct timespec *until)
{
	PICK_UP(c, REAL(pthread_cond_timedwait)(c, m, until));
}

EXPORT int pthread_cond_clockwait(pthread_cond_t *c, pthread_mutex_t *m, clockid_t clock,
				  const struct timespec *until)
{
	PICK_UP(c, REAL(pthread_cond_clockwait)(c, m, clock, until));
}

EXPORT int pthread_join(pthread_t thread, void **value)
{
	PICK_UP(0, REAL(pthread_join)(thread, value));
}

EXPORT int pthread_timedjoin_np(pthread_t thread, void **value, const struct timespec *until)
{
	PICK_UP(0, REAL(pthread_timedjoin_np)(thread, value, until));
}

EXPORT int pthread_clockjoin_np(pthread_t thread, void **value, clockid_t clock,
				const struct timespec *until)
{
	PICK_UP(0, REAL(pthread_clockjoin_np)(thread, value, clock, until));
}

/* Not tried first: they are cancellation points and check their arguments before they look at the count. */
EXPORT int sem_wait(sem_t *s)
{
	PICK_UP(s, REAL(sem_wait)(s));
}

EXPORT int sem_timedwait(sem_t *s, const struct timespec *until)
{
	PICK_UP(s, REAL(sem_timedwait)(s, until));
}

EXPORT int sem_clockwait(sem_t *s, clockid_t clock, const struct timespec *until)
{
	PICK_UP(s, REAL(sem_clockwait)(s, clock, until));
}

/* ---- Other processes: waiting for a child is waiting for another thread, only further away ---- */

#define CHILD(result, options, call)                                                               \
  struct thread *t = hook_entered();                                                               \
  struct wait w;                                                                                   \
  result r;                                                                                        \
                                                                                                   \
  if (!t || !thread_current(t) || (options)&WNOHANG)                                               \
    return call;                                                                                   \
  WAIT_BEGIN(&w, t, LOCK, WAIT_LONG, -1, 0);                                                       \
  r = call;                                                                                        \
  wait_end(&w);                                                                                    \
  return r

EXPORT pid_t wait(int *status)
{
	CHILD(pid_t, 0, REAL(wait)(status));
}
EXPORT_ALIAS(wait, __wait);

EXPORT pid_t wait3(int *status, int options, struct rusage *usage)
{
	CHILD(pid_t, options, REAL(wait3)(status, options, usage));
}

EXPORT pid_t wait4(pid_t pid, int *status, int options, struct rusage *usage)
{
	CHILD(pid_t, options, REAL(wait4)(pid, status, options, usage));
}

EXPORT pid_t waitpid(pid_t pid, int *status, int options)
{
	CHILD(pid_t, options, REAL(waitpid)(pid, status, options));
}
EXPORT_ALIAS(waitpid, __waitpid);

EXPORT int waitid(idtype_t type, id_t id, siginfo_t *info, int options)
{
	CHILD(int, options, REAL(waitid)(type, id, info, options));
}

/* These wait inside libc, out of sight. */
EXPORT int system(const char *command)
{
	children_before_shell();
	CHILD(int, 0, REAL(system)(command));
}

EXPORT int pclose(FILE *stream)
{
	CHILD(int, 0, REAL(pclose)(stream));
}
