/* SPDX-License-Identifier: MIT
 *
 * Call trees of a selection; see query.h. In four passes:
 *
 *	1. over the windows: samples are added up in cells (stack, group, state), and beside them, for every group and
 *	   state, what the ledgers say exactly and what the samples estimate
 *	2. every cell is scaled by exact / estimated of its own group and state; the remainder of the rounding goes to the
 *	   largest, so that the cells add up to the ledger to the nanosecond
 *	3. every stack used is looked up once, each of its frames once
 *	4. cells become nodes
 *
 * A group is (service, route). Scaling by group makes the tree of all routes the sum of the routes' trees: one route's
 * samples never stand for another's time.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "server/query.h"
#include "server/scan.h"
#include "server/symbolize.h"
#include "sonde_hist.h"

enum {
	CELLS_MAX = 8 << 20,
	STACKS_MAX = 8 << 20,
};

struct cell {
	uint32_t stack, group; /* stack: index into stacks */
	unsigned state;
	uint64_t ns, count;
};

struct stack {
	uint32_t instance, id;
	uint32_t parent; /* index into stacks, MAP_NONE: none; valid when `read` */
	uint32_t module;
	uint64_t address;
	bool read, missing;
	uint32_t node, node_of; /* its node in tree number node_of */
};

/* Modules and functions of one instance, by id. */
struct names {
	bool loaded;
	uint32_t pid; /* for symbolize: 0 unless it runs here, now */
	struct map modules, functions, threads;
	struct name {
		char *name, *file, *build_id;
		uint32_t line;
	} * list;
	uint32_t count, cap;
};

struct sums {
	uint64_t exact_ns[STATE_COUNT], sampled_ns[STATE_COUNT];
	uint64_t requests;
};

struct flame_query {
	struct scan *scan;
	const struct selection *sel;
	uint32_t coarse_min, coarse_max;
	bool scaled;
	struct cell *cells;
	uint32_t cell_count, cell_cap;
	struct map cell_of;
	struct stack *stacks;
	uint32_t stack_count, stack_cap;
	struct map stack_of;
	struct sums *sums; /* by group */
	uint32_t sums_count, sums_cap;
	struct names *names; /* by instance */
	uint32_t tree;       /* number of the tree being built, from 1 */
};

/* One cache of symbols for all questions; it lives as long as the process. */
static struct symbolizer *symbols;
static char boot_id[64];
static pthread_once_t symbols_once = PTHREAD_ONCE_INIT;

static void symbols_start(void)
{
	FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");

	symbols = symbolizer_create();
	if (!file)
		return;
	if (fscanf(file, "%63s", boot_id) != 1)
		boot_id[0] = 0;
	fclose(file);
}

uint64_t query_symbols_refused(void)
{
	pthread_once(&symbols_once, symbols_start);
	return symbols ? symbolizer_refused(symbols) : 0;
}

/* ---- 1. Windows to cells ---- */

static struct sums *sums_of(struct flame_query *q, uint32_t group)
{
	while (q->sums_count <= group) {
		if (!scan_room((void **)&q->sums, q->sums_count, &q->sums_cap, sizeof(*q->sums)))
			return NULL;
		q->sums[q->sums_count++] = (struct sums){ 0 };
	}
	return &q->sums[group];
}

static int64_t stack_index(struct flame_query *q, uint32_t instance, uint32_t id)
{
	uint64_t key = (uint64_t)instance << 32 | id;
	uint32_t index = map_get(&q->stack_of, key);

	if (index != MAP_NONE)
		return index;
	if (q->stack_count == STACKS_MAX)
		return -E2BIG;
	if (!scan_room((void **)&q->stacks, q->stack_count, &q->stack_cap, sizeof(*q->stacks)) ||
	    !map_set(&q->stack_of, key, q->stack_count))
		return -ENOMEM;
	q->stacks[q->stack_count] = (struct stack){ .instance = instance, .id = id };
	return q->stack_count++;
}

static int add_cell(struct flame_query *q, uint32_t stack, uint32_t group, unsigned state,
		    uint64_t ns, uint64_t count)
{
	uint64_t key = (uint64_t)stack << 32 | (uint64_t)group << 3 | state;
	uint32_t index = map_get(&q->cell_of, key);

	if (index == MAP_NONE) {
		if (q->cell_count == CELLS_MAX)
			return -E2BIG;
		if (!scan_room((void **)&q->cells, q->cell_count, &q->cell_cap,
			       sizeof(*q->cells)) ||
		    !map_set(&q->cell_of, key, q->cell_count))
			return -ENOMEM;
		index = q->cell_count++;
		q->cells[index] = (struct cell){ .stack = stack, .group = group, .state = state };
	}
	q->cells[index].ns += ns;
	q->cells[index].count += count;
	return 0;
}

struct thread_context {
	const char *wanted;
	struct map *threads;
};

static int add_thread(void *context, const struct store_entry *entry)
{
	struct thread_context *c = context;

	if (strcmp(entry->name, c->wanted) != 0)
		return 0;
	return map_set(c->threads, entry->id, 1) ? 0 : -ENOMEM;
}

static int load_threads(struct flame_query *q, uint32_t instance)
{
	struct thread_context c = { q->sel->thread, &q->names[instance].threads };

	if (!c.wanted || c.threads->size)
		return 0;
	if (!map_set(c.threads, 0, 0)) /* loaded, even when none matches */
		return -ENOMEM;
	return store_read_dict(q->scan->read, STORE_THREADS, q->scan->instances[instance].info.id,
			       add_thread, &c);
}

static int flame_row(struct flame_query *q, uint32_t instance, const Sonde__Rows *rows, size_t i)
{
	unsigned state = rows->state[i];
	struct sums *sums;
	int64_t group, stack;

	if (state >= STATE_COUNT || !(q->sel->states & 1u << state) ||
	    rows->latency[i] < q->coarse_min || rows->latency[i] > q->coarse_max)
		return 0;
	group = scan_group(q->scan, instance, rows->route[i]);
	if (group < 0 || group == MAP_NONE)
		return group < 0 ? (int)group : 0;
	sums = sums_of(q, (uint32_t)group);
	if (!sums)
		return -ENOMEM;
	if (rows->stack[i] == 0) {
		sums->exact_ns[state] += rows->ns[i];
		return 0;
	}
	if (q->sel->thread && map_get(&q->names[instance].threads, rows->thread[i]) != 1)
		return 0;
	sums->sampled_ns[state] += rows->ns[i];
	stack = stack_index(q, instance, rows->stack[i]);
	if (stack < 0)
		return (int)stack;
	return add_cell(q, (uint32_t)stack, (uint32_t)group, state, rows->ns[i], rows->count[i]);
}

/* Requests of @stats whose latency lies in the range asked for. */
static uint64_t requests_of(const struct flame_query *q, const Sonde__RouteStats *stats)
{
	const uint32_t fine = HIST_PER_OCTAVE / HIST_COARSE_PER_OCTAVE;
	const Sonde__Histogram *h = stats->latency;
	uint64_t index = 0, count = 0;

	for (size_t i = 0; h && i < h->n_delta && i < h->n_count; i++) {
		index += h->delta[i];
		if (index / fine >= q->coarse_min && index / fine <= q->coarse_max)
			count += h->count[i];
	}
	return count;
}

static int flame_window(void *context, uint32_t instance, const struct store_window *w)
{
	struct flame_query *q = context;
	int err = load_threads(q, instance);

	for (size_t i = 0; !err && i < w->rows->n_route; i++)
		err = flame_row(q, instance, w->rows, i);
	for (size_t i = 0; !err && i < w->route_count; i++) {
		int64_t group = w->routes[i]->route
					? scan_group(q->scan, instance, w->routes[i]->route)
					: (int64_t)MAP_NONE;
		struct sums *sums;

		if (group < 0)
			return (int)group;
		if (group == MAP_NONE)
			continue;
		sums = sums_of(q, (uint32_t)group);
		if (!sums)
			return -ENOMEM;
		sums->requests += requests_of(q, w->routes[i]);
	}
	return err;
}

/* ---- 2. Scaling ---- */

static int compare_cells(const void *a, const void *b)
{
	const struct cell *x = a, *y = b;

	if (x->group != y->group)
		return x->group < y->group ? -1 : 1;
	if (x->state != y->state)
		return x->state < y->state ? -1 : 1;
	if (x->ns != y->ns)
		return x->ns > y->ns ? -1 : 1;
	return x->stack < y->stack ? -1 : x->stack > y->stack;
}

/* @cells: all of one group and state, the largest first. */
static void scale_run(struct cell *cells, uint32_t count, uint64_t exact, uint64_t sampled)
{
	uint64_t given = 0;

	if (sampled == 0)
		return;
	for (uint32_t i = 0; i < count; i++) {
		cells[i].ns = (uint64_t)((unsigned __int128)cells[i].ns * exact / sampled);
		given += cells[i].ns;
	}
	cells[0].ns += exact - given;
}

static void scale(struct flame_query *q)
{
	uint32_t end;

	if (q->cell_count == 0)
		return;
	qsort(q->cells, q->cell_count, sizeof(*q->cells), compare_cells);
	for (uint32_t i = 0; q->scaled && i < q->cell_count; i = end) {
		const struct cell *first = &q->cells[i];
		const struct sums *sums = &q->sums[first->group];

		for (end = i; end < q->cell_count && q->cells[end].group == first->group &&
			      q->cells[end].state == first->state;)
			end++;
		scale_run(&q->cells[i], end - i, sums->exact_ns[first->state],
			  sums->sampled_ns[first->state]);
	}
}

/* ---- 3. Stacks to names ---- */

struct names_context {
	struct names *names;
	struct map *map;
};

static int add_name(void *context, const struct store_entry *entry)
{
	struct names_context *c = context;
	struct names *names = c->names;
	struct name *name;

	if (!scan_room((void **)&names->list, names->count, &names->cap, sizeof(*names->list)))
		return -ENOMEM;
	name = &names->list[names->count];
	*name = (struct name){ strdup(entry->name), strdup(entry->file), strdup(entry->build_id),
			       entry->line };
	names->count++;
	if (!name->name || !name->file || !name->build_id)
		return -ENOMEM;
	return map_set(c->map, entry->id, names->count - 1) ? 0 : -ENOMEM;
}

static int load_names(struct flame_query *q, uint32_t instance)
{
	struct names *names = &q->names[instance];
	const struct store_instance *info = &q->scan->instances[instance].info;
	struct names_context modules = { names, &names->modules };
	struct names_context functions = { names, &names->functions };
	int err;

	if (names->loaded)
		return 0;
	names->loaded = true;
	names->pid = info->connected && strcmp(info->boot_id, boot_id) == 0 ? info->pid : 0;
	err = store_read_dict(q->scan->read, STORE_MODULES, info->id, add_name, &modules);
	if (!err)
		err = store_read_dict(q->scan->read, STORE_FUNCTIONS, info->id, add_name,
				      &functions);
	return err;
}

/* Fill in what the dictionary says of a stack. */
static int read_stack(struct flame_query *q, uint32_t index)
{
	struct stack *s = &q->stacks[index];
	struct store_stack found;
	int64_t parent = MAP_NONE;
	int err;

	if (s->read)
		return 0;
	err = store_read_stack(q->scan->read, q->scan->instances[s->instance].info.id, s->id,
			       &found);
	if (err && err != -ENOENT)
		return err;
	if (!err && found.parent) {
		parent = stack_index(q, s->instance, found.parent);
		if (parent < 0)
			return (int)parent;
		s = &q->stacks[index]; /* they may have moved */
	}
	s->read = true;
	s->missing = err != 0;
	s->parent = (uint32_t)parent;
	if (!err) {
		s->module = found.module;
		s->address = found.address;
	}
	return 0;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* The child of @node that shows @f. */
static int64_t step(struct flame *flame, int64_t node, const struct flame_function *f)
{
	int64_t function = flame_function(flame, f);

	return function < 0 ? function : flame_child(flame, (uint32_t)node, (uint32_t)function);
}

static int64_t marker(struct flame *flame, int64_t node, const char *name)
{
	struct flame_function f = { .name = name,
				    .system_name = name,
				    .module = "",
				    .module_path = "",
				    .build_id = "",
				    .file = "" };

	return step(flame, node, &f);
}

/* A frame the agent named itself. */
static int64_t named_frame(const struct names *names, struct flame *flame, int64_t node,
			   uint64_t id)
{
	uint32_t index = id <= UINT32_MAX ? map_get(&names->functions, id) : (uint32_t)MAP_NONE;
	struct flame_function f = { .module = "", .module_path = "", .build_id = "" };

	if (index == MAP_NONE)
		return marker(flame, node, "[unknown]");
	f.name = f.system_name = names->list[index].name;
	f.file = names->list[index].file;
	f.line = names->list[index].line;
	return step(flame, node, &f);
}

/* From @node down through what @s stands for: one function, or more with inlined ones. */
static int64_t frame(struct flame_query *q, struct flame *flame, int64_t node,
		     const struct stack *s)
{
	const struct names *names = &q->names[s->instance];
	const struct symbol *symbol;
	const struct name *module;
	uint32_t index;
	size_t count;

	if (s->missing)
		return marker(flame, node, "[unknown]");
	if (s->module == 0)
		return named_frame(names, flame, node, s->address);
	index = map_get(&names->modules, s->module);
	if (index == MAP_NONE || !symbols)
		return marker(flame, node, "[unknown]");
	module = &names->list[index];
	count = symbolizer_lookup(symbols, module->name, module->build_id, names->pid, s->address,
				  &symbol);
	for (size_t i = count; i-- > 0 && node >= 0;) {
		struct flame_function f = {
			.name = symbol[i].name,
			.system_name = symbol[i].system_name,
			.module = base_name(module->name),
			.module_path = module->name,
			.build_id = module->build_id,
			.file = symbol[i].file,
			.line = symbol[i].line,
			.inlined = symbol[i].inlined,
			.address = s->address,
		};

		node = step(flame, node, &f);
	}
	return node;
}

/* The node of stack @index in @flame. */
static int64_t stack_node(struct flame_query *q, struct flame *flame, uint32_t index)
{
	static const uint32_t none = MAP_NONE;
	uint32_t chain[QUERY_DEPTH_MAX], depth = 0, at = index;
	int64_t node = 0;
	int err;

	while (at != none && q->stacks[at].node_of != q->tree && depth < QUERY_DEPTH_MAX) {
		err = load_names(q, q->stacks[at].instance);
		if (!err)
			err = read_stack(q, at);
		if (err)
			return err;
		chain[depth++] = at;
		at = q->stacks[at].parent;
	}
	if (depth && flame->node_count >= QUERY_NODES_MAX)
		return marker(flame, 0, "[more]");
	if (at != none && q->stacks[at].node_of == q->tree)
		node = q->stacks[at].node;
	for (; depth > 0 && node >= 0; depth--) {
		struct stack *s = &q->stacks[chain[depth - 1]];

		node = frame(q, flame, node, s);
		s->node = (uint32_t)node;
		s->node_of = q->tree;
	}
	return node;
}

/* ---- 4. Cells to nodes ---- */

static int add_unsampled(const struct flame_query *q, struct flame *flame, const struct sums *sums)
{
	static const char *const names[STATE_COUNT] = {
		[STATE_QUEUE] = "[queue]",
		[STATE_RUNQ] = "[run queue]",
		[STATE_LOOP] = "[loop]",
		[STATE_OTHER] = "[other]",
	};

	for (unsigned state = 0; q->scaled && state < STATE_COUNT; state++) {
		int64_t node;

		if (sums->sampled_ns[state] || !sums->exact_ns[state])
			continue;
		node = marker(flame, 0, names[state] ? names[state] : "[not sampled]");
		if (node < 0)
			return (int)node;
		flame_add(flame, (uint32_t)node, state, sums->exact_ns[state], 0);
	}
	return 0;
}

/* Add the cells from *@next on that belong to @group. */
static int add_group(struct flame_query *q, struct flame *flame, uint32_t group, uint32_t *next)
{
	int err = 0;

	for (; *next < q->cell_count && q->cells[*next].group == group; ++*next) {
		const struct cell *cell = &q->cells[*next];
		int64_t node;

		if (cell->ns == 0)
			continue;
		node = stack_node(q, flame, cell->stack);
		if (node < 0)
			return (int)node;
		flame_add(flame, (uint32_t)node, cell->state, cell->ns, cell->count);
	}
	if (group < q->sums_count) {
		err = add_unsampled(q, flame, &q->sums[group]);
		flame->requests += q->sums[group].requests;
	}
	return err;
}

static int flame_begin(struct flame_query *q, struct scan *scan, struct store *store,
		       const struct selection *sel)
{
	int err;

	pthread_once(&symbols_once, symbols_start);
	*q = (struct flame_query){
		.scan = scan,
		.sel = sel,
		.coarse_min = hist_coarse(sel->latency_min_ns),
		.coarse_max = hist_coarse(sel->latency_max_ns),
		.scaled = !sel->thread && !(sel->route && !sel->route[0]),
	};
	err = scan_begin(scan, store, sel);
	if (err)
		return err;
	q->names = calloc(scan->instance_count + 1, sizeof(*q->names));
	if (!q->names)
		return -ENOMEM;
	err = scan_windows(scan, STORE_ROWS | STORE_ROUTES, flame_window, q);
	if (!err)
		scale(q);
	q->tree = 0;
	return err;
}

static void names_fini(struct names *names)
{
	for (uint32_t i = 0; i < names->count; i++) {
		free(names->list[i].name);
		free(names->list[i].file);
		free(names->list[i].build_id);
	}
	free(names->list);
	map_fini(&names->modules);
	map_fini(&names->functions);
	map_fini(&names->threads);
}

static void flame_end(struct flame_query *q)
{
	for (uint32_t i = 0; q->names && i < q->scan->instance_count; i++)
		names_fini(&q->names[i]);
	free(q->names);
	free(q->cells);
	free(q->stacks);
	free(q->sums);
	map_fini(&q->cell_of);
	map_fini(&q->stack_of);
	scan_end(q->scan);
}

int query_flame(struct store *store, const struct selection *sel, struct flame **out)
{
	struct flame *flame = flame_create();
	struct scan scan;
	struct flame_query q;
	uint32_t next = 0;
	int err = flame_begin(&q, &scan, store, sel);

	if (!err && !flame)
		err = -ENOMEM;
	q.tree = 1;
	for (uint32_t group = 0; !err && group < scan.group_count; group++)
		err = add_group(&q, flame, group, &next);
	if (!err)
		err = flame_finish(flame);
	flame_end(&q);
	if (err) {
		flame_destroy(flame);
		flame = NULL;
	}
	*out = flame;
	return err;
}

static int one_flame(struct flame_query *q, uint32_t group, uint32_t *next, struct route_flame *out)
{
	const struct scan_group *g = &q->scan->groups[group];
	int err;

	q->tree++;
	*out = (struct route_flame){ .service = strdup(g->service),
				     .route = strdup(g->route),
				     .flame = flame_create() };
	if (!out->service || !out->route || !out->flame)
		return -ENOMEM;
	err = add_group(q, out->flame, group, next);
	out->requests = out->flame->requests;
	return err ? err : flame_finish(out->flame);
}

static void route_flame_fini(struct route_flame *one)
{
	free(one->service);
	free(one->route);
	flame_destroy(one->flame);
}

int query_flames(struct store *store, const struct selection *sel, struct route_flame **out,
		 size_t *count)
{
	struct scan scan;
	struct flame_query q;
	uint32_t next = 0;
	int err = flame_begin(&q, &scan, store, sel);

	*out = NULL;
	*count = 0;
	if (!err) {
		*out = calloc(scan.group_count + 1, sizeof(**out));
		err = *out ? 0 : -ENOMEM;
	}
	for (uint32_t group = 0; !err && group < scan.group_count; group++) {
		struct route_flame *one = &(*out)[*count];

		++*count;
		err = one_flame(&q, group, &next, one);
		if (!err && one->flame->node_count <= 1 && !one->requests) {
			route_flame_fini(one);
			--*count;
		}
	}
	flame_end(&q);
	if (err) {
		route_flames_free(*out, *count);
		*out = NULL;
		*count = 0;
	}
	return err;
}

void route_flames_free(struct route_flame *flames, size_t count)
{
	for (size_t i = 0; i < count; i++)
		route_flame_fini(&flames[i]);
	free(flames);
}
