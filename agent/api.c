/* SPDX-License-Identifier: MIT
 *
 * The functions of sonde.h: thin, and nothing in them can fail in the host's eyes. Context: hook.
 */
#include <errno.h>
#include <string.h>

#include "agent/hook/exports.h"
#include "agent/hook/guard.h"
#include "agent/hook/request.h"
#include "include/sonde.h"

/* Bounded copy, always ended. */
static void copy_text(char *to, const char *from, size_t room)
{
	size_t len = from ? strnlen(from, room - 1) : 0;

	memcpy(to, from ? from : "", len);
	to[len] = '\0';
}

EXPORT sonde_request sonde_agent_begin(const char *route, uint64_t arrival_ns)
{
	struct thread *t = hook_enter();
	int saved = errno;
	uint64_t now;
	request_id id;

	if (!t)
		return 0;
	now = clock_ns();
	id = request_open(t, arrival_ns && arrival_ns < now ? arrival_ns : now);
	if (id) {
		struct request *r = request_get(id);

		copy_text(r->head.path, route, sizeof r->head.path);
		r->named = NAMED_IN_HEAD;
		request_start(t, id, now);
	}
	errno = saved;
	return id;
}

EXPORT void sonde_agent_end(sonde_request request, int failed)
{
	struct thread *t = hook_enter();
	int saved = errno;

	if (t && request_get(request))
		request_end(t, request, clock_ns(), 0, failed != 0);
	errno = saved;
}

EXPORT sonde_request sonde_agent_detach(void)
{
	struct thread *t = hook_enter();
	int saved = errno;
	struct request *r;
	request_id id;

	if (!t)
		return 0;
	id = request_park(t, clock_ns());
	r = request_get(id);
	if (r)
		r->detached = true;
	errno = saved;
	return id;
}

EXPORT void sonde_agent_attach(sonde_request request)
{
	struct thread *t = hook_enter();
	int saved = errno;

	if (t && request_get(request) && t->slice.owner != request) {
		uint64_t now = clock_ns();

		if (t->slice.owner)
			request_park(t, now);
		slice_begin(t, now, now);
		request_resume(t, request, now, RESUME_HANDOVER);
	}
	errno = saved;
}

EXPORT sonde_request sonde_agent_current(void)
{
	struct thread *t = hook_entered();

	return t ? thread_current(t) : 0;
}

EXPORT void sonde_agent_route(const char *route)
{
	struct thread *t = hook_entered();
	struct request *r = t ? request_get(thread_current(t)) : NULL;

	struct told *told;

	if (!r || !route)
		return;
	if (r->named == NAMED_IN_HEAD) {
		copy_text(r->head.path, route, sizeof r->head.path);
	} else if ((told = request_tell(r)) != NULL) {
		copy_text(told->name, route, sizeof told->name);
		r->named = NAMED_APART;
	}
}

EXPORT void sonde_agent_label(const char *key, const char *value)
{
	struct thread *t = hook_entered();
	struct request *r = t ? request_get(thread_current(t)) : NULL;
	struct told *told;
	uint8_t n;

	if (!r || !key)
		return;
	n = atomic_load_explicit(&r->labels, memory_order_relaxed);
	if (n == REQUEST_LABELS) {
		drop(DROP_MARKS);
		return;
	}
	told = request_tell(r);
	if (!told)
		return;
	copy_text(told->label_key[n], key, LABEL_KEY_BYTES);
	copy_text(told->label_value[n], value, LABEL_VALUE_BYTES);
	atomic_store_explicit(&r->labels, (uint8_t)(n + 1), memory_order_release);
}

EXPORT void sonde_agent_mark(const char *name)
{
	if (!hook_enter() || !name)
		return;
	for (unsigned i = 0; i < MARKS; i++) {
		struct mark *m = &shared->marks[i];
		uint32_t expected = 0;

		if (!atomic_compare_exchange_strong_explicit(
			    &m->ready, &expected, 1, memory_order_acquire, memory_order_relaxed))
			continue;
		m->mono_ns = clock_ns();
		copy_text(m->name, name, sizeof m->name);
		atomic_store_explicit(&m->ready, 2, memory_order_release);
		return;
	}
	drop(DROP_MARKS);
}
