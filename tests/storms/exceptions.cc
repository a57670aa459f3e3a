/* SPDX-License-Identifier: MIT
 *
 * C++ exceptions: thrown deep and caught far up, rethrown, through qsort and bsearch, out of callbacks of libc, from threads
 * into futures, out of destructors' way; with calls that the agent wraps between throw and catch. Every destructor on the
 * way runs, whatever the sampler interrupts, the unwinder of the language included.
 */
#include <algorithm>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <search.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "include/sonde.h"
#include "tests/storms/storm.h"

static struct tally caught = TALLY("what is thrown is caught"),
		    through = TALLY("exceptions pass through libc's callbacks"),
		    destroyed = TALLY("every destructor runs once"),
		    handed = TALLY("exceptions pass from thread to thread"),
		    cancelled = TALLY("a cancelled thread runs its destructors"),
		    waited = TALLY("waits within destructors are whole");

static thread_local long alive;

struct Guard {
	std::string text;
	int pipe_[2];

	explicit Guard(unsigned n) : text("guard " + std::to_string(n) + std::string(n % 64, 'x'))
	{
		alive++;
		if (pipe(pipe_))
			abort();
	}
	Guard(const Guard &) = delete;
	/* libc calls on the way down, while the exception is in flight */
	~Guard()
	{
		char byte = 0;
		bool ok = write(pipe_[1], "g", 1) == 1 && read(pipe_[0], &byte, 1) == 1 && byte == 'g';

		ok = close(pipe_[0]) == 0 && close(pipe_[1]) == 0 && ok;
		tally(&waited, ok, "%s", strerror(errno));
		alive--;
	}
};

__attribute__((noinline)) static unsigned deep(unsigned depth, unsigned thrown)
{
	Guard guard(depth);

	if (depth == 0) {
		if (thrown % 2)
			throw std::runtime_error("number " + std::to_string(thrown));
		throw thrown;
	}
	if (depth % 5 == 0) {
		try {
			return deep(depth - 1, thrown) + 1;
		} catch (const std::runtime_error &) {
			throw; /* on its way again */
		}
	}
	return deep(depth - 1, thrown) + (unsigned)guard.text.size();
}

static void throws(unsigned turn)
{
	bool ok = false;

	try {
		deep(turn % 12 + 1, turn);
	} catch (const std::runtime_error &e) {
		ok = turn % 2 == 1 && e.what() == "number " + std::to_string(turn);
	} catch (unsigned number) {
		ok = turn % 2 == 0 && number == turn;
	}
	tally(&caught, ok, "turn %u", turn);
	tally(&destroyed, alive == 0, "%ld alive", alive);
}

static thread_local unsigned comparisons;

static int compare(const void *a, const void *b)
{
	const int x = *static_cast<const int *>(a), y = *static_cast<const int *>(b);

	if (comparisons-- == 0)
		deep(3, 7);
	return (x > y) - (x < y);
}

static void throws_through(unsigned turn)
{
	std::vector<int> numbers(300);
	const int key = 5;
	unsigned times = 0;

	for (unsigned i = 0; i < numbers.size(); i++)
		numbers[i] = static_cast<int>(i * 7919 % 1009);
	for (int way = 0; way < 2; way++) {
		comparisons = way ? 3 : turn % 500;
		try {
			if (way)
				(void)bsearch(&key, numbers.data(), numbers.size(), sizeof(int), compare);
			else
				qsort(numbers.data(), numbers.size(), sizeof(int), compare);
		} catch (const std::runtime_error &) {
			times++;
		}
	}
	tally(&through, times == 2, "%u times", times);
	tally(&destroyed, alive == 0, "%ld alive", alive);
}

static void throws_across(unsigned turn)
{
	std::future<unsigned> future = std::async(std::launch::async, [turn] { return deep(5, turn | 1); });
	bool ok = false;

	try {
		future.get();
	} catch (const std::runtime_error &e) {
		ok = e.what() == "number " + std::to_string(turn | 1);
	}
	tally(&handed, ok, "turn %u", turn);
}

static long cancelled_alive;

/* Cancellation is an exception, too: it unwinds, and passes catch (...) only when that rethrows. */
static void *to_be_cancelled(void *)
{
	std::mutex mutex;
	std::condition_variable condition;

	try {
		Guard guard(1);
		std::unique_lock<std::mutex> lock(mutex);

		__atomic_fetch_add(&cancelled_alive, 1, __ATOMIC_RELAXED);
		for (;;)
			condition.wait(lock);
	} catch (...) {
		/* the lock is free again, the guard is gone */
		if (alive == 0 && mutex.try_lock()) {
			mutex.unlock();
			__atomic_fetch_sub(&cancelled_alive, 1, __ATOMIC_RELAXED);
		}
		throw;
	}
}

static void cancels()
{
	pthread_t thread;
	void *value = nullptr;

	MUST_0(pthread_create(&thread, nullptr, to_be_cancelled, nullptr));
	storm_burn(100);
	MUST_0(pthread_cancel(thread));
	MUST_0(pthread_join(thread, &value));
	tally(&cancelled, value == PTHREAD_CANCELED, "%p", value);
}

static void work(unsigned seed)
{
	for (unsigned turn = seed; storm_on(); turn++) {
		sonde_request request = sonde_begin("exceptions");

		throws(turn);
		if (turn % 4 == 0)
			throws_through(turn);
		if (turn % 16 == 0)
			throws_across(turn);
		if (turn % 16 == 8)
			cancels();
		sonde_end(request, 0);
	}
}

int main(int argc, char **argv)
{
	storm_begin(argc, argv);
	tally_list(&caught);
	tally_list(&through);
	tally_list(&handed);
	tally_list(&cancelled);
	tally_list(&destroyed);
	tally_list(&waited);
	{
		std::thread one(work, 1u), two(work, 1000u), burner(storm_burner, nullptr);

		one.join();
		two.join();
		burner.join();
	}
	tally(&destroyed, cancelled_alive == 0, "%ld cancelled and alive", cancelled_alive);
	return storm_end();
}
