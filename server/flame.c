/* SPDX-License-Identifier: MIT
 *
 * The merged call tree. While it grows, two hash tables find functions by what they say and nodes by (parent,
 * function); a node's children always have larger indices than the node, so sums run backwards and layouts forwards in
 * one pass each, without recursion: the depth of a tree is the client's choice, our stack's is not.
 *
 * Time is in integers and never scaled here: what goes in comes out. Context: server, one thread at a time.
 */
#include "server/flame.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *const state_names[STATE_COUNT] = {
	[STATE_QUEUE] = "queue", [STATE_CPU] = "cpu",     [STATE_RUNQ] = "runq",
	[STATE_IO] = "io",       [STATE_LOCK] = "lock",   [STATE_SLEEP] = "sleep",
	[STATE_LOOP] = "loop",   [STATE_OTHER] = "other",
};

/* Open addressing, linear probing, at most half full; a slot holds an index + 1, 0 is free. */
struct table {
	uint32_t *slots;
	uint32_t size; /* a power of two, or 0 */
	uint32_t used;
};

struct flame_index {
	struct table functions, nodes;
	uint32_t function_capacity, node_capacity;
};

static uint64_t mix(uint64_t h)
{
	h ^= h >> 32;
	h *= 0x9e3779b97f4a7c15u;
	return h ^ (h >> 29);
}

static uint64_t hash_string(uint64_t h, const char *s)
{
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3u;
	return mix(h);
}

static uint64_t function_hash(const struct flame_function *f)
{
	uint64_t h = hash_string(0xcbf29ce484222325u, f->name);

	h = hash_string(h, f->module);
	h = hash_string(h, f->file);
	return mix(h ^ ((uint64_t)f->line << 1) ^ f->inlined);
}

static bool function_equal(const struct flame_function *a, const struct flame_function *b)
{
	return a->line == b->line && a->inlined == b->inlined && strcmp(a->name, b->name) == 0 &&
	       strcmp(a->module, b->module) == 0 && strcmp(a->file, b->file) == 0;
}

static uint64_t node_hash(uint32_t parent, uint32_t function)
{
	return mix((uint64_t)parent << 32 | function);
}

/* Put @index where @hash belongs; there is room. */
static void table_place(struct table *table, uint64_t hash, uint32_t index)
{
	uint32_t at = (uint32_t)hash & (table->size - 1);

	while (table->slots[at])
		at = (at + 1) & (table->size - 1);
	table->slots[at] = index + 1;
	table->used++;
}

/* Make room for one more. @hash_of says where each index already there belongs. */
static int table_reserve(struct table *table, const struct flame *flame,
			 uint64_t (*hash_of)(const struct flame *flame, uint32_t index))
{
	struct table bigger = { .size = table->size ? table->size * 2 : 64 };

	if (table->used < table->size / 2)
		return 0;
	bigger.slots = calloc(bigger.size, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	for (uint32_t i = 0; i < table->size; i++)
		if (table->slots[i])
			table_place(&bigger, hash_of(flame, table->slots[i] - 1),
				    table->slots[i] - 1);
	free(table->slots);
	*table = bigger;
	return 0;
}

static uint64_t hash_of_function(const struct flame *flame, uint32_t index)
{
	return function_hash(&flame->functions[index]);
}

static uint64_t hash_of_node(const struct flame *flame, uint32_t index)
{
	return node_hash(flame->nodes[index].parent, flame->nodes[index].function);
}

/* @array with room for one more element than @count, or NULL: then @array is as before. */
static void *grow(void *array, uint32_t count, uint32_t *capacity, size_t element_bytes)
{
	uint32_t wanted = *capacity ? *capacity * 2 : 64;
	void *bigger;

	if (count < *capacity)
		return array;
	bigger = wanted > *capacity ? reallocarray(array, wanted, element_bytes) : NULL;
	if (bigger)
		*capacity = wanted;
	return bigger;
}

/* Copy @from with its strings into *@to. They lie in one block, which begins at the name. */
static int function_copy(struct flame_function *to, const struct flame_function *from)
{
	const char *strings[] = { from->name,        from->system_name, from->module,
				  from->module_path, from->build_id,    from->file };
	const char **fields[] = { &to->name,        &to->system_name, &to->module,
				  &to->module_path, &to->build_id,    &to->file };
	size_t bytes = 0;
	char *at;

	for (size_t i = 0; i < 6; i++)
		bytes += strlen(strings[i]) + 1;
	at = malloc(bytes);
	if (!at)
		return -ENOMEM;
	*to = *from;
	for (size_t i = 0; i < 6; i++) {
		size_t length = strlen(strings[i]) + 1;

		*fields[i] = memcpy(at, strings[i], length);
		at += length;
	}
	return 0;
}

/* Callers may leave what they do not know NULL. */
static struct flame_function function_complete(const struct flame_function *f)
{
	struct flame_function full = *f;

	full.name = f->name ? f->name : "[unknown]";
	full.system_name = f->system_name ? f->system_name : full.name;
	full.module = f->module ? f->module : "";
	full.module_path = f->module_path ? f->module_path : "";
	full.build_id = f->build_id ? f->build_id : "";
	full.file = f->file ? f->file : "";
	return full;
}

int64_t flame_function(struct flame *flame, const struct flame_function *f)
{
	struct flame_index *index = flame->index;
	struct flame_function full = function_complete(f);
	struct flame_function *functions;
	uint64_t hash = function_hash(&full);
	uint32_t at;
	int err;

	assert(index); /* not finished */
	err = table_reserve(&index->functions, flame, hash_of_function);
	if (err)
		return err;
	for (at = (uint32_t)hash & (index->functions.size - 1); index->functions.slots[at];
	     at = (at + 1) & (index->functions.size - 1))
		if (function_equal(&flame->functions[index->functions.slots[at] - 1], &full))
			return index->functions.slots[at] - 1;
	functions = grow(flame->functions, flame->function_count, &index->function_capacity,
			 sizeof(*functions));
	if (!functions)
		return -ENOMEM;
	flame->functions = functions;
	err = function_copy(&functions[flame->function_count], &full);
	if (err)
		return err;
	table_place(&index->functions, hash, flame->function_count);
	return flame->function_count++;
}

/* Append a node; @parent is UINT32_MAX for the root. */
static int64_t node_append(struct flame *flame, uint32_t parent, uint32_t function)
{
	struct flame_index *index = flame->index;
	uint32_t at = flame->node_count;
	struct flame_node *nodes;
	int err = table_reserve(&index->nodes, flame, hash_of_node);

	if (err)
		return err;
	nodes = grow(flame->nodes, at, &index->node_capacity, sizeof(*nodes));
	if (!nodes)
		return -ENOMEM;
	flame->nodes = nodes;
	flame->nodes[at] = (struct flame_node){ .function = function };
	if (parent != UINT32_MAX) {
		flame->nodes[at].parent = parent;
		flame->nodes[at].depth = flame->nodes[parent].depth + 1;
		table_place(&index->nodes, node_hash(parent, function), at);
	}
	flame->node_count++;
	return at;
}

int64_t flame_child(struct flame *flame, uint32_t parent, uint32_t function)
{
	struct table *nodes;
	uint32_t at;

	assert(flame->index && parent < flame->node_count && function < flame->function_count);
	nodes = &flame->index->nodes;
	if (nodes->size)
		for (at = (uint32_t)node_hash(parent, function) & (nodes->size - 1);
		     nodes->slots[at]; at = (at + 1) & (nodes->size - 1)) {
			const struct flame_node *node = &flame->nodes[nodes->slots[at] - 1];

			if (node->parent == parent && node->function == function)
				return nodes->slots[at] - 1;
		}
	if (flame->node_count >= FLAME_NODES_MAX) {
		flame->refused++;
		return parent;
	}
	return node_append(flame, parent, function);
}

static void add(uint64_t *sum, uint64_t more)
{
	if (__builtin_add_overflow(*sum, more, sum))
		*sum = UINT64_MAX;
}

void flame_add(struct flame *flame, uint32_t node, unsigned state, uint64_t ns, uint64_t samples)
{
	assert(node < flame->node_count && state < STATE_COUNT);
	add(&flame->nodes[node].self_ns[state], ns);
	add(&flame->nodes[node].samples, samples);
	add(&flame->total_ns[state], ns);
	add(&flame->samples, samples);
}

struct flame *flame_create(void)
{
	static const struct flame_function all = { .name = "all" };
	struct flame *flame = calloc(1, sizeof(*flame));

	if (!flame)
		return NULL;
	flame->index = calloc(1, sizeof(*flame->index));
	if (!flame->index || flame_function(flame, &all) < 0 ||
	    node_append(flame, UINT32_MAX, 0) < 0) {
		flame_destroy(flame);
		return NULL;
	}
	return flame;
}

static void index_destroy(struct flame_index *index)
{
	if (!index)
		return;
	free(index->functions.slots);
	free(index->nodes.slots);
	free(index);
}

void flame_destroy(struct flame *flame)
{
	if (!flame)
		return;
	for (uint32_t i = 0; i < flame->function_count; i++) {
		union {
			const char *constant;
			char *block;
		} strings = { .constant = flame->functions[i].name };

		free(strings.block);
	}
	index_destroy(flame->index);
	free(flame->functions);
	free(flame->nodes);
	free(flame);
}

/* The order of siblings: by total, largest first; ties by name, so that one profile always looks the same. */
static int compare_siblings(const void *a, const void *b, void *context)
{
	const struct flame *flame = context;
	const struct flame_node *x = &flame->nodes[*(const uint32_t *)a];
	const struct flame_node *y = &flame->nodes[*(const uint32_t *)b];
	int names;

	if (x->total_ns != y->total_ns)
		return x->total_ns < y->total_ns ? 1 : -1;
	names = strcmp(flame->functions[x->function].name, flame->functions[y->function].name);
	if (names)
		return names;
	return (x->function > y->function) - (x->function < y->function);
}

/* Totals of every subtree into its nodes, its number of nodes into @size, and children counted in @first[parent + 1]. */
static void sum_up(struct flame *flame, uint32_t *size, uint32_t *first)
{
	for (uint32_t i = 0; i < flame->node_count; i++) {
		size[i] = 1;
		flame->nodes[i].total_ns = 0;
		for (unsigned s = 0; s < STATE_COUNT; s++)
			add(&flame->nodes[i].total_ns, flame->nodes[i].self_ns[s]);
	}
	for (uint32_t i = flame->node_count - 1; i > 0; i--) {
		uint32_t parent = flame->nodes[i].parent;

		add(&flame->nodes[parent].total_ns, flame->nodes[i].total_ns);
		size[parent] += size[i];
		first[parent + 1]++;
	}
}

/* Where each node goes in depth-first pre-order: behind its parent and the subtrees of the siblings before it. */
static void lay_out(const struct flame *flame, const uint32_t *size, const uint32_t *first,
		    const uint32_t *children, uint32_t *place)
{
	place[0] = 0;
	for (uint32_t i = 0; i < flame->node_count; i++) {
		uint32_t next = place[i] + 1;

		for (uint32_t c = first[i]; c < first[i + 1]; c++) {
			place[children[c]] = next;
			next += size[children[c]];
		}
	}
}

int flame_finish(struct flame *flame)
{
	uint32_t count = flame->node_count;
	/* subtree sizes; first child, by counting sort; children; where filling stands; new places */
	uint32_t *size = calloc(count, sizeof(*size));
	uint32_t *first = calloc((size_t)count + 2, sizeof(*first));
	uint32_t *children = calloc(count, sizeof(*children));
	uint32_t *place = calloc(count, sizeof(*place));
	struct flame_node *sorted = calloc(count, sizeof(*sorted));
	int err = -ENOMEM;

	if (!size || !first || !children || !place || !sorted)
		goto out;
	sum_up(flame, size, first);
	for (uint32_t i = 0; i < count; i++)
		first[i + 1] += first[i];
	for (uint32_t i = 1; i < count; i++) { /* place[] counts what is filled, until lay_out() */
		uint32_t parent = flame->nodes[i].parent;

		children[first[parent] + place[parent]++] = i;
	}
	for (uint32_t i = 0; i < count; i++)
		if (first[i + 1] - first[i] > 1)
			qsort_r(&children[first[i]], first[i + 1] - first[i], sizeof(*children),
				compare_siblings, flame);
	lay_out(flame, size, first, children, place);
	for (uint32_t i = 0; i < count; i++) {
		sorted[place[i]] = flame->nodes[i];
		sorted[place[i]].parent = place[flame->nodes[i].parent];
	}
	free(flame->nodes);
	flame->nodes = sorted;
	sorted = NULL;
	index_destroy(flame->index);
	flame->index = NULL;
	err = 0;
out:
	free(size);
	free(first);
	free(children);
	free(place);
	free(sorted);
	return err;
}

/* How flame_without_lines() goes: where nodes of the old tree went, and the heaviest line of each new function. */
struct merge {
	const struct flame *from;
	struct flame *to;
	uint32_t *place, *line;
	uint64_t *most_ns;
};

static int merge_node(struct merge *m, uint32_t i)
{
	const struct flame_node *node = &m->from->nodes[i];
	struct flame_function f = m->from->functions[node->function];
	int64_t function, at = 0;

	f.line = 0;
	function = flame_function(m->to, &f);
	if (function >= 0 && i > 0) /* a parent stands before its children */
		at = flame_child(m->to, m->place[node->parent], (uint32_t)function);
	if (function < 0 || at < 0)
		return -ENOMEM;
	m->place[i] = (uint32_t)at;
	if (node->total_ns >= m->most_ns[function]) {
		m->most_ns[function] = node->total_ns;
		m->line[function] = m->from->functions[node->function].line;
	}
	for (unsigned s = 0; s < STATE_COUNT; s++)
		flame_add(m->to, m->place[i], s, node->self_ns[s], s ? 0 : node->samples);
	return 0;
}

struct flame *flame_without_lines(const struct flame *flame)
{
	struct merge m = {
		.from = flame,
		.to = flame_create(),
		.place = calloc(flame->node_count, sizeof(*m.place)),
		.line = calloc(flame->function_count, sizeof(*m.line)),
		.most_ns = calloc(flame->function_count, sizeof(*m.most_ns)),
	};
	int err = m.to && m.place && m.line && m.most_ns ? 0 : -ENOMEM;

	for (uint32_t i = 0; !err && i < flame->node_count; i++)
		err = merge_node(&m, i);
	if (!err) {
		m.to->requests = flame->requests;
		m.to->refused = flame->refused;
		err = flame_finish(m.to);
	}
	for (uint32_t i = 0; !err && i < m.to->function_count; i++)
		m.to->functions[i].line = m.line[i];
	if (err) {
		flame_destroy(m.to);
		m.to = NULL;
	}
	free(m.place);
	free(m.line);
	free(m.most_ns);
	return m.to;
}
