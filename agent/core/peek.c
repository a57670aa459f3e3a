/* SPDX-License-Identifier: MIT
 *
 * Looks at waits in progress without touching the threads that wait: their published slots, and their stacks through
 * process_vm_readv on ourselves, which cannot fault. The same wait seen again costs the read of its number: it is counted
 * in one go when it is over, or when the window closes.
 *
 * How much does a look count for? A wait is seen with a chance proportional to its length, so each look could stand for the
 * time since the one before, and the sums would be right on average: with the scatter of so many throws of a coin, 5 to 40 %
 * for places that take a third to a hundredth of a thread's time, over 20 s. But the thread itself adds up exactly how long
 * it waited at each place (struct wait_place). So a look only says which stack and whose request it is, and stands for all
 * the time of that place since the place was counted last; what is left goes to the last one seen when a window closes.
 * Only where the thread has no sum, looks stand for the time between them.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/core/life.h"
#include "agent/core/table.h"
#include "agent/hook/real.h"
#include "agent/hook/wait.h"

enum {
	STACK_FIRST_BYTES = 4 << 10,
	STACK_COPY_BYTES = 32 << 10,
	PREFETCH_THREADS = 8,
	DEBT_NS = 200000000
};

/* A consistent copy of @t's slot and, when @stack, of its stack. False when the wait is over, or changed meanwhile. */
static bool read_slot(struct thread *t, struct wait_slot *slot)
{
	uint32_t seq = atomic_load_explicit(&t->wait.seq, memory_order_acquire);

	if (!(seq & 1))
		return false;
	slot->state = t->wait.state;
	slot->fd = t->wait.fd;
	slot->object = t->wait.object;
	slot->request = t->wait.request;
	slot->pc = t->wait.pc;
	slot->sp = t->wait.sp;
	slot->fp = t->wait.fp;
	atomic_thread_fence(memory_order_acquire);
	atomic_store_explicit(&slot->seq, seq, memory_order_relaxed);
	return atomic_load_explicit(&t->wait.seq, memory_order_relaxed) == seq;
}

static uint32_t peer_name(struct life *l, int fd)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof a;
	char host[INET6_ADDRSTRLEN] = "", name[160];

	if (real.getsockopt(fd, SOL_SOCKET, SO_TYPE, &(int){ 0 }, &(socklen_t){ sizeof(int) }) ||
	    getpeername(fd, (struct sockaddr *)&a, &len))
		return 0;
	if (a.ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)&a;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
		snprintf(name, sizeof name, "%s:%u", host, ntohs(in->sin_port));
	} else if (a.ss_family == AF_INET6) {
		const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)&a;

		inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host);
		snprintf(name, sizeof name, "[%s]:%u", host, ntohs(in->sin6_port));
	} else if (a.ss_family == AF_UNIX) {
		snprintf(name, sizeof name, "unix:%.107s",
			 ((const struct sockaddr_un *)&a)->sun_path);
	} else {
		return 0;
	}
	return dict_object(l->dict, SONDE__OBJECT__KIND__PEER, name);
}

/* The host's descriptor, for a moment in our table. */
static uint32_t peer_object(struct life *l, int fd)
{
	uint32_t object;
	int copy;

	if (!l->own_files)
		return peer_name(l, fd);
	copy = (int)syscall(SYS_pidfd_getfd, l->pidfd, fd, 0);
	if (copy < 0)
		return 0;
	object = peer_name(l, copy);
	close(copy);
	return object;
}

static uint32_t object_of(struct life *l, const struct wait_slot *slot)
{
	char name[32];

	if (slot->state == IO && slot->fd >= 0)
		return peer_object(l, slot->fd);
	if (slot->state == LOCK && slot->object) {
		snprintf(name, sizeof name, "lock 0x%lx", (unsigned long)slot->object);
		return dict_object(l->dict, SONDE__OBJECT__KIND__LOCK, name);
	}
	return 0;
}

/*
 * Copy @bytes of @t's stack from where it waits, walk them. The depth, 0: the wait ended meanwhile; *@cut: the copy was too
 * short, and there is more.
 */
static unsigned walk_copy(struct life *l, struct thread *t, const struct wait_slot *slot,
			  size_t bytes, uintptr_t *pcs, enum unwind_end *end, bool *cut)
{
	static _Alignas(
		16) char copy[STACK_COPY_BYTES]; /* the agent's thread is the only one here */
	struct unwind_regs regs = { .pc = slot->pc, .sp = slot->sp, .fp = slot->fp };
	struct unwind_stack stack = {
		.low = atomic_load_explicit(&t->stack_low, memory_order_relaxed),
		.high = atomic_load_explicit(&t->stack_high, memory_order_relaxed),
		.copy = copy,
		.copy_low = slot->sp
	};
	struct iovec to = { .iov_base = copy, .iov_len = bytes };
	struct iovec from = { .iov_base = (void *)slot->sp, .iov_len = bytes };
	unsigned depth;
	ssize_t n = 0;

	if (slot->sp < stack.low || slot->sp >= stack.high)
		stack.copy = NULL;
	else if (stack.high - slot->sp < bytes)
		from.iov_len = stack.high - slot->sp;
	if (stack.copy)
		n = process_vm_readv(getpid(), &to, 1, &from, 1, 0);
	if (n <= 0) { /* not allowed here, or another stack: the leaf alone */
		stack.high = stack.low = 0;
		n = 0;
	}
	/* Over by now: as if we had looked a moment later. Nothing is lost, the wait is measured all the same. */
	if (atomic_load_explicit(&t->wait.seq, memory_order_acquire) != slot->seq)
		return 0;
	stack.copy_bytes = (size_t)n;
	depth = unwind_walk(&regs, &stack, pcs, l->config->stack_depth, end);
	*cut = *end == UNWIND_TRUNCATED && depth < l->config->stack_depth && (size_t)n == bytes;
	return depth;
}

/*
 * The stack of a wait, or 0 when it ended while being read. @caller: the wrapper's return address, 0 unknown. Most
 * stacks are short, and each page copied costs half a microsecond: the whole of it only when the first pages do not do.
 */
static uint32_t stack_of(struct life *l, struct thread *t, const struct wait_slot *slot,
			 uintptr_t *caller)
{
	uintptr_t pcs[256];
	enum unwind_end end;
	bool cut;
	unsigned depth = walk_copy(l, t, slot, STACK_FIRST_BYTES, pcs, &end, &cut);

	if (depth && cut)
		depth = walk_copy(l, t, slot, STACK_COPY_BYTES, pcs, &end, &cut);
	if (!depth)
		return 0;
	l->ends[end]++;
	*caller = depth > 1 ? pcs[1] + 1 : 0;
	return life_stack(l, pcs, depth);
}

/* The wait seen so far is counted up to the last look. */
static void settle(struct life *l, struct known *k)
{
	uint64_t looks = l->looks - k->counted_looks;

	if (looks)
		aggregate_sample(l->aggregate, &(struct sample){ .request = k->request,
								 .stack = k->stack,
								 .thread = k->dict,
								 .object = k->object,
								 .state = k->state,
								 .ns = l->looked_ns - k->counted_ns,
								 .count = looks });
	k->counted_before_ns += l->looked_ns - k->counted_ns;
	k->counted_ns = l->looked_ns;
	k->counted_looks = l->looks;
}

/* All that is not counted yet of a place. */
static void count_place(struct life *l, const struct thread *t, struct known *k, unsigned i,
			request_id request, uint64_t looks)
{
	struct seen_place *seen = &k->places[i];
	uint64_t ns = atomic_load_explicit(&t->places[i].ns, memory_order_relaxed);

	if (ns > seen->counted_ns) {
		aggregate_sample(l->aggregate, &(struct sample){ .request = request,
								 .stack = seen->stack,
								 .thread = k->dict,
								 .object = seen->object,
								 .state = t->places[i].state,
								 .ns = ns - seen->counted_ns,
								 .count = looks });
		seen->counted_ns = ns;
	}
}

/* Where the stack of a place is kept for other threads that may wait at the same one. */
static struct place_stack *shared_place(struct life *l, const struct thread *t, uintptr_t caller,
					uint32_t sp, struct place_stack *key)
{
	uintptr_t high = atomic_load_explicit(&t->stack_high, memory_order_relaxed);

	*key = (struct place_stack){ .caller = caller, .depth = (uint32_t)high - sp };
	return &l->place_stacks[table_mix(table_mix(0, caller), key->depth) % LIFE_PLACES];
}

/* The wait seen is over, and now its place's sum has it. */
static void close_wait(struct life *l, struct thread *t, struct known *k)
{
	const struct wait_place like = {
		.caller = k->caller, .sp = k->sp, .state = k->state, .request = k->request != 0
	};
	const struct wait_place *place = k->caller ? wait_place(t, &like, false) : NULL;
	unsigned i = place ? (unsigned)(place - t->places) : 0;
	struct place_stack *common, key;

	k->waits = false;
	l->waiting -= k->request != 0;
	if (!place) {
		k->counted_ns -= k->unsure_ns;
		settle(l, k);
		return;
	}
	k->places_seen |= 1u << i;
	k->places[i].stack = k->stack;
	k->places[i].object = k->object;
	k->places[i].counted_ns += k->counted_before_ns;
	common = shared_place(l, t, k->caller, k->sp, &key);
	key.stack = k->stack;
	*common = key;
	count_place(l, t, k, i, k->request, l->looks - k->counted_looks);
}

/*
 * The stack of a place that no look has found: another thread may have been seen at the same one. 0: not known, or an idle
 * thread's. @last: what is known has to do.
 */
static uint32_t unseen_stack(struct life *l, const struct thread *t, const struct wait_place *p,
			     bool last)
{
	uintptr_t caller = atomic_load_explicit(&p->caller, memory_order_acquire);
	const struct place_stack *common;
	struct place_stack key;

	if (!caller || (!p->request && p->state != LOCK))
		return 0;
	common = shared_place(l, t, caller, p->sp, &key);
	if (common->caller == key.caller && common->depth == key.depth)
		return common->stack;
	return last ? life_unsampled(l, caller - 1) : 0;
}

/*
 * What no look has counted goes to the stack seen there last, and to the request that was there last. One that is not known
 * (any more, or yet) cannot take it: then it stays for the next time. @last: there is none.
 */
static void count_places(struct life *l, const struct thread *t, struct known *k, bool last)
{
	life_thread(l, t);
	k->waited = false;
	for (unsigned i = 0; i < WAIT_PLACES; i++) {
		const struct wait_place *p = &t->places[i];
		struct seen_place *seen = &k->places[i];
		uint64_t ns = atomic_load_explicit(&p->ns, memory_order_relaxed);
		request_id request = atomic_load_explicit(&p->last, memory_order_relaxed);

		if (!(k->places_seen & 1u << i) && ns)
			seen->stack = unseen_stack(l, t, p, last);
		if (seen->stack && (!request || aggregate_knows(l->aggregate, request)))
			count_place(l, t, k, i, request, 0);
		/* Much more counted than was: the host jumped out of a wait, which then has no part in the sum. */
		if (seen->counted_ns > ns + DEBT_NS)
			seen->counted_ns = ns;
		k->waited |= ns > seen->counted_ns;
	}
}

/* A wait that is new at this look, which l->looked_ns does not know yet. */
static void open_wait(struct life *l, struct thread *t, uint64_t look_ns)
{
	struct known *k = &l->known[t->index];
	struct wait_slot slot;
	uint64_t before;

	if (!read_slot(t, &slot))
		return;
	if (slot.request || slot.state == LOCK) { /* else an idle thread */
		before = clock_cpu_ns();
		life_thread(l, t);
		k->stack = stack_of(l, t, &slot, &k->caller);
		k->object = k->stack ? object_of(l, &slot) : 0;
		l->sampling_ns += clock_cpu_ns() - before;
		if (!k->stack)
			return;
		k->request = slot.request;
		k->state = slot.state;
		k->sp = (uint32_t)slot.sp;
		k->unsure_ns = k->caller ? look_ns - l->looked_ns : 0;
		k->counted_ns = l->looked_ns + k->unsure_ns;
		k->counted_looks = l->looks;
		k->counted_before_ns = 0;
		k->waits = true;
		l->waiting += k->request != 0;
	}
	l->seen[t->index].seq = atomic_load_explicit(&slot.seq, memory_order_relaxed);
}

/* Something is new with @t. The order matters: what is new is taken after the number that tells of it is read. */
static void look_at(struct life *l, struct thread *t, uint64_t look_ns)
{
	struct known *k = &l->known[t->index];
	struct seen *seen = &l->seen[t->index];
	uint32_t life = atomic_load_explicit(&t->life, memory_order_acquire);
	uint32_t news = atomic_load_explicit(&t->news, memory_order_acquire);
	uint32_t seq = atomic_load_explicit(&t->wait.seq, memory_order_acquire);

	if (seq != seen->seq || life != THREAD_LIVE) {
		k->waited |= life != THREAD_FREE;
		if (k->waits)
			close_wait(l, t, k);
		/* A wait is opened at a look only, for a look comes at a random moment; until then it stays news. */
		seen->seq = seq & 1 ? 0 : seq;
		if (look_ns && life == THREAD_LIVE)
			open_wait(l, t, look_ns);
	}
	if (news != seen->news || life == THREAD_ENDED) {
		seen->news = news;
		drain_ring(l, t);
		drain_requests(l, t);
	}
	seen->life = life;
	if (life == THREAD_ENDED) {
		if (k->waited)
			count_places(l, t, k, true);
		drain_free(l, t);
		*seen = (struct seen){ .life = THREAD_FREE };
	}
}

/*
 * Most threads of most programs wait, and at most looks the same wait as before: then one line of the thread's record is
 * read, and nothing else. Tens of thousands of those have left the caches since the last look: the next ones are asked
 * for ahead.
 */
void peek(struct life *l, uint64_t look_ns)
{
	uint32_t threads = atomic_load_explicit(&shared->threads.fresh, memory_order_acquire);

	for (uint32_t i = 1; i <= threads; i++) {
		struct thread *t = pool_at(&shared->threads, i);
		const struct seen *seen = &l->seen[i];

		__builtin_prefetch(&(t + PREFETCH_THREADS)->wait);
		if (atomic_load_explicit(&t->life, memory_order_relaxed) != seen->life ||
		    atomic_load_explicit(&t->news, memory_order_relaxed) != seen->news ||
		    atomic_load_explicit(&t->wait.seq, memory_order_relaxed) != seen->seq)
			look_at(l, t, look_ns);
	}
	if (look_ns) {
		l->looked_ns = look_ns;
		l->looks++;
	}
}

void peek_settle(struct life *l)
{
	uint32_t threads = atomic_load_explicit(&shared->threads.fresh, memory_order_acquire);

	for (uint32_t i = 1; i <= threads; i++) {
		struct known *k = &l->known[i];

		if (k->waits)
			settle(l, k);
		if (k->waited)
			count_places(l, pool_at(&shared->threads, i), k, false);
	}
}
