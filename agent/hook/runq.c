/* SPDX-License-Identifier: MIT
 *
 * See runq.h.
 */
#include "agent/hook/runq.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/hook/borrow.h"

/* 400 a second at 5 us each is 0.2 % of one processor. */
enum {
	READS_PER_S = 400,
	READS_BURST = 40
};

/* What was learned weighs as much as this many new waits. */
enum {
	LEARN_OVER = 8
};

/* A token bucket kept as the moment at which it would be full again. */
static bool take_tokens(uint64_t now_ns, unsigned tokens)
{
	const uint64_t token_ns = 1000000000u / READS_PER_S;
	uint64_t at = atomic_load_explicit(&shared->runq.tokens_at_ns, memory_order_relaxed);
	uint64_t from = at < now_ns ? now_ns : at;

	return from - now_ns <= READS_BURST * token_ns &&
	       atomic_compare_exchange_strong_explicit(&shared->runq.tokens_at_ns, &at,
						       from + tokens * token_ns,
						       memory_order_relaxed, memory_order_relaxed);
}

static bool read_schedstat(struct thread *t, uint64_t now_ns, uint64_t *runq_ns)
{
	struct borrow b;
	int saved = errno, fd;
	uint64_t value = 0;
	ssize_t len = -1;
	char text[64];
	const char *p;

	if (!borrow_begin(&b, false))
		return false;
	fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/thread-self/schedstat",
			  O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		len = syscall(SYS_read, fd, text, sizeof text - 1);
		syscall(SYS_close, fd);
	}
	borrow_end(&b);
	errno = saved;
	if (len <= 0)
		return false;
	text[len] = '\0';
	p = memchr(text, ' ', (size_t)len); /* "cpu-ns run-queue-ns slices" */
	if (!p)
		return false;
	for (p++; *p >= '0' && *p <= '9'; p++)
		value = value * 10 + (uint64_t)(*p - '0');
	t->sched_last_ns = value;
	t->sched_read_ns = now_ns;
	*runq_ns = value;
	return true;
}

bool runq_read(struct thread *t, uint64_t now_ns, uint64_t *runq_ns)
{
	return thread_live(t) && take_tokens(now_ns, 1) && read_schedstat(t, now_ns, runq_ns);
}

void runq_before(struct thread *t, uint64_t now_ns, struct runq *r)
{
	/* a reading so near has not become old: the tokens reach for twice as many waits */
	bool fresh = t->sched_last_ns && now_ns - t->sched_read_ns < RUNQ_MIN_NS;

	r->before_ns = t->sched_last_ns;
	r->known = thread_live(t) && take_tokens(now_ns, fresh ? 1 : 2) &&
		   (fresh || read_schedstat(t, now_ns, &r->before_ns));
}

/* Share of waits of this kind and octave of length that is delay, in 1/65536, plus 1; 0: not known. */
static _Atomic uint32_t *share_of(enum runq_wait kind, uint64_t waited_ns)
{
	unsigned octave = 63u - (unsigned)__builtin_clzll(waited_ns | RUNQ_MIN_NS) - 16;

	return &shared->runq.share[kind][octave < RUNQ_OCTAVES ? octave : RUNQ_OCTAVES - 1];
}

static void learn(_Atomic uint32_t *share, uint64_t delay_ns, uint64_t waited_ns)
{
	int64_t was = atomic_load_explicit(share, memory_order_relaxed);
	int64_t is = (int64_t)((delay_ns << 16) / waited_ns) + 1;

	atomic_store_explicit(share, (uint32_t)(was ? was + (is - was) / LEARN_OVER : is),
			      memory_order_relaxed);
}

uint64_t runq_within(struct thread *t, const struct runq *r, enum runq_wait kind,
		     uint64_t waited_ns, uint64_t now_ns)
{
	_Atomic uint32_t *share;
	uint64_t after, delay;

	if (waited_ns < RUNQ_MIN_NS)
		return 0;
	share = share_of(kind, waited_ns);
	if (r->known && thread_live(t) && read_schedstat(t, now_ns, &after)) {
		delay = after - r->before_ns;
		if (delay > waited_ns)
			delay = waited_ns;
		if (waited_ns < 1ull << 40)
			learn(share, delay, waited_ns);
		return delay;
	}
	delay = atomic_load_explicit(share, memory_order_relaxed);
	return delay && waited_ns < 1ull << 40 ? waited_ns * (delay - 1) >> 16 : 0;
}
