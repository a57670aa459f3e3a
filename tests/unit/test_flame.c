/* SPDX-License-Identifier: MIT
 *
 * The merged call tree: what goes in comes out exactly, in the order that the page and the exports rely on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/flame.h"
#include "tests/unit/unit.h"

static uint32_t function(struct flame *flame, const char *name)
{
	struct flame_function f = { .name = name, .module = "m", .file = "f.c", .line = 1 };
	int64_t index = flame_function(flame, &f);

	assert_true(index >= 0);
	return (uint32_t)index;
}

static uint32_t child(struct flame *flame, uint32_t parent, const char *name)
{
	int64_t index = flame_child(flame, parent, function(flame, name));

	assert_true(index >= 0);
	return (uint32_t)index;
}

static const char *name_of(const struct flame *flame, uint32_t node)
{
	return flame->functions[flame->nodes[node].function].name;
}

static void flame_of_nothing_is_a_root(void **state)
{
	struct flame *flame = flame_create();

	(void)state;
	assert_non_null(flame);
	assert_int_equal(flame_finish(flame), 0);
	assert_int_equal(flame->node_count, 1);
	assert_string_equal(name_of(flame, 0), "all");
	assert_int_equal(flame->nodes[0].total_ns, 0);
	assert_int_equal(flame->nodes[0].parent, 0);
	flame_destroy(flame);
	flame_destroy(NULL);
}

static void flame_finish_orders_depth_first_largest_child_first(void **state)
{
	static const char *const names[] = { "all", "main", "big", "leaf", "small", "idle" };
	static const uint32_t parents[] = { 0, 0, 1, 2, 1, 0 }, depths[] = { 0, 1, 2, 3, 2, 1 };
	static const uint64_t totals[] = { 162, 112, 107, 7, 5, 50 };
	struct flame *flame = flame_create();
	uint32_t idle = child(flame, 0, "idle"), main_ = child(flame, 0, "main");
	uint32_t small = child(flame, main_, "small"), big = child(flame, main_, "big");

	(void)state;
	flame_add(flame, small, STATE_CPU, 5, 1);
	flame_add(flame, big, STATE_CPU, 60, 2);
	flame_add(flame, big, STATE_LOCK, 40, 2);
	flame_add(flame, idle, STATE_SLEEP, 50, 1);
	flame_add(flame, child(flame, big, "leaf"), STATE_IO, 7, 1);
	assert_int_equal(flame_finish(flame), 0);
	assert_int_equal(flame->node_count, 6);
	for (uint32_t i = 0; i < 6; i++) {
		assert_string_equal(name_of(flame, i), names[i]);
		assert_int_equal(flame->nodes[i].parent, parents[i]);
		assert_int_equal(flame->nodes[i].depth, depths[i]);
		assert_int_equal(flame->nodes[i].total_ns, totals[i]);
	}
	assert_int_equal(flame->nodes[2].self_ns[STATE_CPU], 60);
	assert_int_equal(flame->nodes[2].self_ns[STATE_LOCK], 40);
	assert_int_equal(flame->total_ns[STATE_CPU], 65);
	assert_int_equal(flame->samples, 7);
	flame_destroy(flame);
}

static void flame_function_tells_apart_what_it_must_and_nothing_else(void **state)
{
	struct flame *flame = flame_create();
	struct flame_function f = { .name = "f", .module = "m", .file = "f.c", .line = 3 }, g = f;
	char name[] = "f";
	int64_t first = flame_function(flame, &f);

	(void)state;
	g.name = name;
	g.address = 0x1234; /* where in the function does not matter */
	assert_int_equal(flame_function(flame, &g), first);
	name[0] = 'x'; /* strings were copied */
	assert_string_equal(flame->functions[first].name, "f");
	assert_string_equal(flame->functions[first].system_name, "f");
	assert_string_equal(flame->functions[first].build_id, "");
	g = f;
	g.line = 4;
	assert_int_not_equal(flame_function(flame, &g), first);
	g = f;
	g.inlined = true;
	assert_int_not_equal(flame_function(flame, &g), first);
	g = f;
	g.module = "n";
	assert_int_not_equal(flame_function(flame, &g), first);
	g = f;
	g.file = NULL;
	assert_int_not_equal(flame_function(flame, &g), first);
	assert_int_equal(flame->function_count, 6);
	flame_destroy(flame);
}

static uint32_t at_line(struct flame *flame, uint32_t parent, const char *name, uint32_t line)
{
	struct flame_function f = { .name = name, .module = "m", .file = "f.c", .line = line };
	int64_t function = flame_function(flame, &f), node;

	assert_true(function >= 0);
	node = flame_child(flame, parent, (uint32_t)function);
	assert_true(node >= 0);
	return (uint32_t)node;
}

/* main calls fib at 10, which calls itself at 3 and at 4. */
static void flame_without_lines_has_one_node_per_function(void **state)
{
	static const char *const names[] = { "all", "main", "fib", "fib", "other" };
	static const uint64_t totals[] = { 111, 111, 107, 7, 4 };
	static const uint32_t lines[] = { 0, 10, 3, 3, 20 };
	struct flame *flame = flame_create(), *merged;
	uint32_t main10 = at_line(flame, 0, "main", 10), main11 = at_line(flame, 0, "main", 11);
	uint32_t fib3 = at_line(flame, main10, "fib", 3), fib4 = at_line(flame, main10, "fib", 4);

	(void)state;
	flame_add(flame, fib3, STATE_CPU, 60, 6);
	flame_add(flame, fib4, STATE_CPU, 40, 4);
	flame_add(flame, at_line(flame, fib3, "fib", 4), STATE_IO, 5, 1);
	flame_add(flame, at_line(flame, fib4, "fib", 4), STATE_CPU, 2, 1);
	flame_add(flame, at_line(flame, main11, "other", 20), STATE_LOCK, 4, 2);
	flame->requests = 9;
	assert_int_equal(flame_finish(flame), 0);
	merged = flame_without_lines(flame);
	assert_non_null(merged);
	assert_int_equal(merged->node_count, 5);
	for (uint32_t i = 0; i < 5; i++) {
		assert_string_equal(name_of(merged, i), names[i]);
		assert_int_equal(merged->nodes[i].total_ns, totals[i]);
		assert_int_equal(merged->functions[merged->nodes[i].function].line, lines[i]);
	}
	assert_int_equal(merged->nodes[2].self_ns[STATE_CPU], 100);
	assert_int_equal(merged->nodes[2].samples, 10);
	assert_int_equal(merged->nodes[3].self_ns[STATE_IO], 5);
	assert_int_equal(merged->requests, 9);
	assert_int_equal(merged->samples, flame->samples);
	for (unsigned s = 0; s < STATE_COUNT; s++)
		assert_int_equal(merged->total_ns[s], flame->total_ns[s]);
	flame_destroy(merged);
	flame_destroy(flame);
}

/* 200,000 additions down random paths: sums exact, every node found again, the order right everywhere. */
static void flame_keeps_exact_sums_of_many_random_paths(void **state)
{
	struct flame *flame = flame_create();
	uint64_t sums[STATE_COUNT] = { 0 }, all = 0, seen = 0;
	uint32_t random = 12345, *end;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		uint32_t node = 0;
		unsigned s;

		do {
			char name[16];

			random = random * 1664525u + 1013904223u;
			snprintf(name, sizeof(name), "f%u", random >> 27);
			node = child(flame, node, name);
		} while (random >> 8 & 7);
		s = random >> 16 & 7;
		flame_add(flame, node, s, random, 1);
		sums[s] += random;
		all += random;
	}
	assert_int_equal(flame_finish(flame), 0);
	assert_int_equal(flame->nodes[0].total_ns, all);
	assert_int_equal(flame->samples, 200000);
	end = calloc(flame->node_count, sizeof(*end));
	assert_non_null(end);
	for (uint32_t i = flame->node_count; i-- > 0;) { /* a subtree is one stretch */
		end[i] = end[i] > i ? end[i] : i + 1;
		if (i && end[flame->nodes[i].parent] < end[i])
			end[flame->nodes[i].parent] = end[i];
	}
	for (uint32_t i = 0; i < flame->node_count; i++) {
		const struct flame_node *node = &flame->nodes[i];
		uint64_t total = 0, last = UINT64_MAX;

		for (unsigned s = 0; s < STATE_COUNT; s++) {
			total += node->self_ns[s];
			seen += node->self_ns[s];
		}
		for (uint32_t c = i + 1; c < end[i]; c = end[c]) {
			assert_int_equal(flame->nodes[c].parent, i);
			assert_int_equal(flame->nodes[c].depth, node->depth + 1);
			assert_true(flame->nodes[c].total_ns <= last);
			last = flame->nodes[c].total_ns;
			total += last;
		}
		assert_int_equal(total, node->total_ns);
	}
	assert_int_equal(seen, all);
	for (unsigned s = 0; s < STATE_COUNT; s++)
		assert_int_equal(flame->total_ns[s], sums[s]);
	free(end);
	flame_destroy(flame);
}

static void flame_survives_a_very_deep_stack(void **state)
{
	struct flame *flame = flame_create();
	uint32_t recursion = function(flame, "again"), node = 0;

	(void)state;
	for (int i = 0; i < 1000000; i++)
		node = (uint32_t)flame_child(flame, node, recursion);
	flame_add(flame, node, STATE_CPU, 1, 1);
	assert_int_equal(flame_finish(flame), 0);
	assert_int_equal(flame->nodes[1000000].depth, 1000000);
	assert_int_equal(flame->nodes[1].total_ns, 1);
	flame_destroy(flame);
}

static void flame_sums_stop_at_the_largest_number(void **state)
{
	struct flame *flame = flame_create();

	(void)state;
	flame_add(flame, child(flame, 0, "a"), STATE_CPU, UINT64_MAX - 1, 1);
	flame_add(flame, child(flame, 0, "b"), STATE_CPU, 5, 1);
	assert_int_equal(flame_finish(flame), 0);
	assert_true(flame->nodes[0].total_ns == UINT64_MAX);
	assert_string_equal(name_of(flame, 1), "a");
	flame_destroy(flame);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(flame_of_nothing_is_a_root),
		cmocka_unit_test(flame_finish_orders_depth_first_largest_child_first),
		cmocka_unit_test(flame_function_tells_apart_what_it_must_and_nothing_else),
		cmocka_unit_test(flame_without_lines_has_one_node_per_function),
		cmocka_unit_test(flame_keeps_exact_sums_of_many_random_paths),
		cmocka_unit_test(flame_survives_a_very_deep_stack),
		cmocka_unit_test(flame_sums_stop_at_the_largest_number),
	};

	return RUN(tests);
}
