// SPDX-License-Identifier: MIT
//
// To be stepped through: what C++ adds. Exceptions thrown, caught, thrown again, out of constructors and through frames of
// libstdc++; virtual calls and their thunks; streams, sorting, threads.

#include <algorithm>
#include <exception>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <typeinfo>
#include <vector>

#define NOINLINE __attribute__((noinline))

static volatile unsigned long sink;
static int alive;
static unsigned depth = 1;

struct Counted {
	Counted()
	{
		alive++;
	}
	Counted(const Counted &)
	{
		alive++;
	}
	~Counted()
	{
		alive--;
		sink = sink * 31 + 1;
	}
};

NOINLINE static unsigned long thrower(unsigned depth, int what)
{
	Counted here;
	alignas(64) volatile unsigned long array[4];

	array[depth % 4] = depth;
	if (depth)
		return thrower(depth - 1, what) + array[depth % 4];
	switch (what) {
	case 0:
		throw 5;
	case 1:
		throw std::runtime_error("text");
	case 2:
		return std::vector<unsigned long>(3).at(7);
	case 3:
		return static_cast<unsigned long>(std::stoi("no number"));
	case 4:
		return std::string("abc").substr(5).size();
	default:
		return 1;
	}
}

NOINLINE static int catcher(int what)
{
	try {
		try {
			return static_cast<int>(thrower(depth, what));
		} catch (const std::out_of_range &) {
			Counted other;
			throw;
		} catch (const std::invalid_argument &e) {
			std::throw_with_nested(std::logic_error(e.what()));
		}
	} catch (int n) {
		return n;
	} catch (const std::exception &e) {
		try {
			std::rethrow_if_nested(e);
		} catch (...) {
			return 8;
		}
		return 7;
	}
	return 6;
}

struct Member {
	Counted counted;
	explicit Member(bool bad)
	{
		if (bad)
			throw std::bad_alloc();
	}
};

struct Holder {
	Member good{ false }, bad;
	Holder()
	try : bad(true) {
	} catch (const std::bad_alloc &) {
		sink = sink + 1;
	}
};

struct Left {
	virtual ~Left() = default;
	virtual int left() = 0;
};
struct Right {
	virtual ~Right() = default;
	virtual int right() = 0;
};
struct Both : Left, virtual Right {
	int left() override
	{
		return 1;
	}
	int right() override
	{
		sink = sink + 1;
		return 2;
	}
};

NOINLINE static int virtual_calls()
{
	std::unique_ptr<Right> right(new Both);
	auto *left = dynamic_cast<Left *>(right.get());
	const Right &who = *right;

	return right->right() + (left ? left->left() : 0) + (typeid(who) == typeid(Both)) - 4;
}

NOINLINE static int containers()
{
	std::map<std::string, int> words;
	std::ostringstream out;
	std::vector<int> order;
	std::istringstream in("the quick brown fox jumps over the lazy dog");
	std::string word;

	while (in >> word)
		words[word]++;
	for (const auto &w : words)
		order.push_back(static_cast<int>(w.first.size()) * 10 + w.second);
	std::sort(order.begin(), order.end(), std::greater<>());
	for (int i : order)
		out << i << ' ' << static_cast<double>(i) / 3 << '\n';
	std::function<int(int)> f = [&](int n) { return n ? f(n - 1) + 1 : 0; };
	return out.str().size() < 20 || f(5) != 5;
}

NOINLINE static int in_threads()
{
	auto bad = std::async(std::launch::async, [] { return thrower(2, 1); });
	int caught = 0;

	try {
		bad.get();
	} catch (const std::runtime_error &) {
		caught++;
	}
	std::thread([&] { caught += catcher(2) == 7; }).join();
	return caught != 2;
}

static struct AtStart {
	AtStart()
	{
		sink = static_cast<unsigned long>(catcher(0));
	}
	~AtStart()
	{
		sink = static_cast<unsigned long>(catcher(0));
	}
} at_start;

// "few": a few exceptions are enough.
int main(int argc, char **)
{
	static const int expected[] = { 5, 7, 7, 8, 7 };
	int bad = 0;

	if (argc == 1)
		depth = 4;
	for (int what = argc > 1 ? 4 : 0; what < 5; what++)
		bad += catcher(what) != expected[what];
	try {
		Holder holder;
		bad++;
	} catch (const std::bad_alloc &) {
		depth = 1;
	}
	bad += virtual_calls();
	if (argc == 1)
		bad += containers() + in_threads();
	return bad + alive;
}
