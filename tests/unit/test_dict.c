/* SPDX-License-Identifier: MIT
 *
 * The dictionary: ids are stable, sent once per connection, bounded; and the table below it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/dict.h"
#include "agent/core/table.h"
#include "tests/unit/unit.h"

/* What a collector would know: filled from the frames. */
struct known {
	unsigned frames, modules, functions, routes, objects, threads, stacks;
	size_t largest;
	uint32_t parent[DICT_STACKS + 1], module[DICT_STACKS + 1];
	uint64_t address[DICT_STACKS + 1];
	bool has_module[100];
	bool function_seen[DICT_FUNCTIONS + 1];
	char last_route[300], last_object[300], last_function[300];
};

static void learn_stacks(struct known *k, const Sonde__Stacks *s)
{
	assert_int_equal(s->n_id, s->n_parent);
	assert_int_equal(s->n_id, s->n_module);
	assert_int_equal(s->n_id, s->n_address);
	for (size_t i = 0; i < s->n_id; i++) {
		uint32_t id = s->id[i], parent = s->parent[i];

		assert_in_range(id, 1, DICT_STACKS);
		if (parent && !k->address[parent])
			fail_msg("stack %u came before its parent %u", id, parent);
		if (s->module[i] == 0 && !k->function_seen[s->address[i]])
			fail_msg("stack %u came before its function", id);
		if (s->module[i] && s->module[i] < 100 && !k->has_module[s->module[i]])
			fail_msg("stack %u came before its module", id);
		k->parent[id] = parent;
		k->module[id] = s->module[i];
		k->address[id] = s->address[i];
		k->stacks++;
	}
}

static void learn(struct known *k, const Sonde__Dict *d)
{
	k->modules += (unsigned)d->n_modules;
	k->functions += (unsigned)d->n_functions;
	k->routes += (unsigned)d->n_routes;
	k->objects += (unsigned)d->n_objects;
	k->threads += (unsigned)d->n_threads;
	for (size_t i = 0; i < d->n_modules; i++)
		if (d->modules[i]->id < 100)
			k->has_module[d->modules[i]->id] = true;
	for (size_t i = 0; i < d->n_functions; i++) {
		k->function_seen[d->functions[i]->id] = true;
		snprintf(k->last_function, sizeof(k->last_function), "%s", d->functions[i]->name);
	}
	if (d->n_routes)
		snprintf(k->last_route, sizeof(k->last_route), "%s",
			 d->routes[d->n_routes - 1]->name);
	if (d->n_objects)
		snprintf(k->last_object, sizeof(k->last_object), "%s",
			 d->objects[d->n_objects - 1]->name);
	if (d->stacks)
		learn_stacks(k, d->stacks);
}

/* Everything that is new, as one connection would get it. */
static struct known *receive(struct dict *d, struct known *k)
{
	struct encode_buffer b = { 0 };
	int more;

	if (!k)
		k = calloc(1, sizeof(*k));
	assert_non_null(k);
	while ((more = dict_encode_new(d, &b)) > 0) {
		Sonde__Frame *f = sonde__frame__unpack(NULL, b.used - 4, b.bytes + 4);

		assert_non_null(f);
		assert_int_equal(f->body_case, SONDE__FRAME__BODY_DICT);
		learn(k, f->dict);
		k->frames++;
		if (b.used > k->largest)
			k->largest = b.used;
		sonde__frame__free_unpacked(f, NULL);
		b.used = 0;
	}
	assert_int_equal(more, 0);
	encode_buffer_fini(&b);
	return k;
}

static uint64_t drop(const struct dict *d, const char *cause)
{
	struct self_drop drops[DICT_DROPS];

	assert_int_equal(dict_drops(d, drops), DICT_DROPS);
	for (unsigned i = 0; i < DICT_DROPS; i++)
		if (strcmp(drops[i].cause, cause) == 0)
			return drops[i].count;
	fail_msg("no drop called %s", cause);
	return 0;
}

static void dict_stack_gives_equal_stacks_one_id(void **state)
{
	const struct dict_frame a[] = { { 1, 30 }, { 1, 20 }, { 1, 10 } };
	const struct dict_frame b[] = { { 1, 31 }, { 1, 20 }, { 1, 10 } };
	const struct dict_frame c[] = { { 2, 30 }, { 1, 20 }, { 1, 10 } };
	struct dict_module module = { .id = 1, .path = "/bin/x" };
	struct dict *d = dict_create();
	struct known *k;
	uint32_t ia, ib, ic;

	(void)state;
	assert_non_null(d);
	assert_int_equal(dict_module(d, &module), 0);
	module.id = 2;
	assert_int_equal(dict_module(d, &module), 0);
	ia = dict_stack(d, a, 3);
	ib = dict_stack(d, b, 3);
	ic = dict_stack(d, c, 3);
	assert_true(ia && ib && ic && ia != ib && ia != ic && ib != ic);
	assert_int_equal(dict_stack(d, a, 3), ia);
	assert_int_equal(dict_stack(d, a, 0), 0);
	k = receive(d, NULL);
	assert_int_equal(k->stacks, 1 + 5); /* the marker, two shared frames, three leaves */
	assert_int_equal(k->address[ia], 30);
	assert_int_equal(k->address[k->parent[ia]], 20);
	assert_int_equal(k->address[k->parent[k->parent[ia]]], 10);
	assert_int_equal(k->parent[k->parent[k->parent[ia]]], 0);
	assert_int_equal(k->parent[ib], k->parent[ia]);
	assert_int_equal(k->module[ic], 2);
	free(k);
	dict_destroy(d);
}

static void dict_encode_new_sends_each_entry_once_per_connection(void **state)
{
	struct dict *d = dict_create();
	const struct dict_frame frame = { 0, 1 };
	const uint8_t build_id[] = { 1, 2, 3 };
	struct dict_module module = { .id = 5, .path = "/bin/x", .build_id = build_id };
	struct known *k;

	(void)state;
	module.build_id_bytes = sizeof(build_id);
	assert_int_equal(dict_module(d, &module), 0);
	assert_int_equal(dict_module(d, &module), 0);
	assert_int_equal(dict_route(d, 1, "GET /a", "http"), 0);
	assert_int_equal(dict_route(d, 1, "GET /a", "http"), 0);
	assert_true(dict_object(d, SONDE__OBJECT__KIND__PEER, "127.0.0.1:5432") > 0);
	assert_true(dict_thread(d, 10, "worker") > 0);
	assert_true(dict_stack(d, &frame, 1) > 0);
	k = receive(d, NULL);
	assert_int_equal(k->modules, 1);
	assert_int_equal(k->routes, 1);
	assert_int_equal(k->objects, 1);
	assert_int_equal(k->threads, 1);
	receive(d, k);
	assert_int_equal(k->frames, 1);
	assert_int_equal(dict_route(d, 2, "GET /b", "http"), 0);
	receive(d, k);
	assert_int_equal(k->frames, 2);
	assert_int_equal(k->routes, 2);
	free(k);

	dict_forget_sent(d);
	k = receive(d, NULL);
	assert_int_equal(k->modules + k->routes + k->objects + k->threads, 1 + 2 + 1 + 1);
	free(k);
	dict_destroy(d);
}

static void dict_route_that_changes_is_sent_again(void **state)
{
	struct dict *d = dict_create();
	struct known *k;

	(void)state;
	dict_route(d, 7, "GET /x", "http");
	k = receive(d, NULL);
	assert_string_equal(k->last_route, "GET /x");
	dict_route(d, 7, "show x", "api");
	receive(d, k);
	assert_string_equal(k->last_route, "show x");
	assert_int_equal(k->routes, 2);
	free(k);
	dict_destroy(d);
}

static void dict_ids_tell_kinds_names_and_tids_apart(void **state)
{
	struct dict *d = dict_create();

	(void)state;
	assert_int_equal(dict_object(d, SONDE__OBJECT__KIND__PEER, "a"),
			 dict_object(d, SONDE__OBJECT__KIND__PEER, "a"));
	assert_int_not_equal(dict_object(d, SONDE__OBJECT__KIND__PEER, "a"),
			     dict_object(d, SONDE__OBJECT__KIND__LOCK, "a"));
	assert_int_not_equal(dict_thread(d, 1, "a"), dict_thread(d, 2, "a"));
	assert_int_not_equal(dict_thread(d, 1, "a"), dict_thread(d, 1, "b"));
	assert_int_not_equal(dict_function(d, "f", "a.py", 1), dict_function(d, "f", "a.py", 2));
	assert_int_not_equal(dict_function(d, "f", "a.py", 1), dict_function(d, "f", "b.py", 1));
	assert_int_not_equal(dict_function(d, "fa", "b", 0), dict_function(d, "f", "ab", 0));
	assert_int_equal(dict_function(d, "f", NULL, 0), dict_function(d, "f", "", 0));
	dict_destroy(d);
}

static void dict_cuts_and_cleans_names(void **state)
{
	struct dict *d = dict_create();
	char name[1000];
	struct known *k;

	(void)state;
	memset(name, 'x', sizeof(name));
	memcpy(name + 253, "\xe2\x82\xac", 3);
	name[999] = 0;
	assert_true(dict_object(d, SONDE__OBJECT__KIND__FILE, name) > 0);
	assert_true(dict_function(d, "\xff\x1b[31m", NULL, 0) > 0);
	k = receive(d, NULL);
	assert_int_equal(strlen(k->last_object), 253);
	assert_string_equal(k->last_function, "??[31m");
	free(k);
	dict_destroy(d);
}

static void dict_stack_past_the_cap_is_the_marker(void **state)
{
	struct dict *d = dict_create();
	const struct dict_frame old = { 1, 1 };
	struct dict_module module = { .id = 1, .path = "/bin/x" };
	uint32_t first, full = 0;
	struct known *k;

	(void)state;
	dict_module(d, &module);
	first = dict_stack(d, &old, 1);
	for (uint64_t i = 2; i < DICT_STACKS + 100; i++) {
		struct dict_frame frame = { 1, i };

		full = dict_stack(d, &frame, 1);
	}
	assert_int_equal(dict_stack(d, &old, 1), first);
	k = receive(d, NULL);
	assert_int_equal(k->stacks, DICT_STACKS);
	assert_int_equal(k->module[full], 0);
	assert_int_equal(drop(d, "stack table full"), 100);
	assert_true(k->frames >= 8);
	assert_true(k->largest <= DICT_FRAME_MAX);
	free(k);
	dict_destroy(d);
}

static void dict_stack_never_names_what_was_not_told(void **state)
{
	const struct dict_frame unknown_module[] = { { 9, 1 } }, other[] = { { 8, 77 } };
	const struct dict_frame unknown_function[] = { { 0, 5000 } }, none[] = { { 0, 0 } };
	struct dict_module module = { .id = 9, .path = "/bin/x" };
	struct dict *d = dict_create();
	uint32_t stack = dict_stack(d, unknown_module, 1);
	struct known *k;

	(void)state;
	assert_int_equal(dict_stack(d, other, 1), stack);
	assert_int_equal(dict_stack(d, unknown_function, 1), stack);
	assert_int_equal(dict_stack(d, none, 1), stack);
	k = receive(d, NULL); /* looks at every frame */
	assert_int_equal(k->module[stack], 0);
	free(k);
	assert_int_equal(dict_module(d, &module), 0);
	assert_int_not_equal(dict_stack(d, unknown_module, 1), stack);
	module.id = DICT_MODULE_ID_MAX + 1;
	assert_int_equal(dict_module(d, &module), -ENOSPC);
	assert_int_equal(dict_route(d, DICT_ROUTE_ID_MAX + 1, "x", "api"), -ENOSPC);
	assert_int_equal(dict_route(d, 1, "", "api"), 0);
	k = receive(d, NULL);
	assert_string_equal(k->last_route, "(unnamed)");
	free(k);
	dict_destroy(d);
}

static void dict_parts_past_their_caps_refuse_and_count(void **state)
{
	struct dict *d = dict_create();
	uint32_t id = 1;
	char name[300];
	struct known *k;

	(void)state;
	for (unsigned i = 0; i < DICT_OBJECTS + 10; i++) {
		snprintf(name, sizeof(name), "%0250u", i);
		id = dict_object(d, SONDE__OBJECT__KIND__LOCK, name);
	}
	assert_int_equal(id, 0);
	assert_int_equal(drop(d, "object table full"), 10);
	for (unsigned i = 0; i < DICT_THREADS + 10; i++)
		id = dict_thread(d, i, "t");
	assert_int_equal(id, 0);
	assert_int_equal(drop(d, "thread table full"), 10);
	for (unsigned i = 0; i < DICT_MODULES + 10; i++) {
		struct dict_module module = { .id = i + 1, .path = name };

		assert_int_equal(dict_module(d, &module), i < DICT_MODULES ? 0 : -ENOSPC);
	}
	for (unsigned i = 0; i < DICT_ROUTES + 10; i++)
		assert_int_equal(dict_route(d, i + 1, "r", "api"), i < DICT_ROUTES ? 0 : -ENOSPC);
	for (unsigned i = 0; i < DICT_FUNCTIONS + 10; i++)
		id = dict_function(d, "f", NULL, i);
	assert_int_equal(id, dict_function(d, DICT_FUNCTION_FULL, NULL, 0));
	k = receive(d, NULL);
	assert_int_equal(k->objects, DICT_OBJECTS);
	assert_int_equal(k->threads, DICT_THREADS);
	assert_int_equal(k->modules, DICT_MODULES);
	assert_int_equal(k->routes, DICT_ROUTES);
	assert_int_equal(k->functions, DICT_FUNCTIONS);
	assert_true(k->largest <= DICT_FRAME_MAX);
	free(k);
	dict_destroy(d);
}

static void table_finds_what_was_added_and_not_what_was_removed(void **state)
{
	enum {
		KEYS = 500,
		STEPS = 20000
	};
	uint32_t number[KEYS] = { 0 }, live = 0;
	struct table t;

	(void)state;
	table_init(&t, sizeof(uint32_t), 300);
	srand(1);
	for (unsigned step = 0; step < STEPS; step++) {
		uint32_t key = (uint32_t)rand() % KEYS, hash = key % 37, i;

		for (i = table_first(&t, hash); i; i = table_next(&t, i))
			if (*(uint32_t *)table_entry(&t, i) == key)
				break;
		assert_int_equal(i, number[key]);
		if (i) {
			table_remove(&t, i);
			number[key] = 0;
			live--;
		} else {
			i = table_add(&t, hash);
			assert_true(i != 0 || live == 300);
			if (i) {
				*(uint32_t *)table_entry(&t, i) = key;
				number[key] = i;
				live++;
			}
		}
		assert_int_equal(t.live, live);
		if (step == STEPS / 2) {
			table_clear(&t);
			memset(number, 0, sizeof(number));
			live = 0;
		}
	}
	table_fini(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dict_stack_gives_equal_stacks_one_id),
		cmocka_unit_test(dict_encode_new_sends_each_entry_once_per_connection),
		cmocka_unit_test(dict_route_that_changes_is_sent_again),
		cmocka_unit_test(dict_ids_tell_kinds_names_and_tids_apart),
		cmocka_unit_test(dict_cuts_and_cleans_names),
		cmocka_unit_test(dict_stack_past_the_cap_is_the_marker),
		cmocka_unit_test(dict_stack_never_names_what_was_not_told),
		cmocka_unit_test(dict_parts_past_their_caps_refuse_and_count),
		cmocka_unit_test(table_finds_what_was_added_and_not_what_was_removed),
	};

	return RUN(tests);
}
