/* SPDX-License-Identifier: MIT
 *
 * Folded stacks: see export.h. Lines and modules of functions are left out, as readers of this format expect, so the
 * trees are merged once more by name only; each line then occurs once. Context: server, any thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/export.h"

/* @from with functions that differ in their name only. NULL when out of memory. */
static struct flame *merge_by_name(const struct flame *from)
{
	uint32_t *functions = calloc(from->function_count, sizeof(*functions));
	uint32_t *nodes = calloc(from->node_count, sizeof(*nodes));
	struct flame *to = flame_create();
	int64_t index = functions && nodes && to ? 0 : -ENOMEM;

	for (uint32_t i = 1; i < from->function_count && index >= 0; i++) {
		struct flame_function f = { .name = from->functions[i].name };

		index = flame_function(to, &f);
		functions[i] = (uint32_t)index;
	}
	for (uint32_t i = 0; i < from->node_count && index >= 0; i++) {
		const struct flame_node *node = &from->nodes[i];

		if (i > 0) {
			index = flame_child(to, nodes[node->parent], functions[node->function]);
			if (index < 0)
				break;
			nodes[i] = (uint32_t)index;
		}
		for (unsigned s = 0; s < STATE_COUNT; s++)
			if (node->self_ns[s])
				flame_add(to, nodes[i], s, node->self_ns[s], 0);
	}
	if (index >= 0)
		index = flame_finish(to);
	free(functions);
	free(nodes);
	if (index >= 0)
		return to;
	flame_destroy(to);
	return NULL;
}

/* The frames of the current node, each with a ';' before it, and how much of them belongs to each depth. */
struct frames {
	struct buffer text;
	size_t *ends;
	size_t capacity;
};

static int frames_set(struct frames *frames, uint32_t depth, const char *name)
{
	if (depth >= frames->capacity) {
		size_t wanted = 2 * (size_t)depth + 64;
		size_t *bigger = reallocarray(frames->ends, wanted, sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		frames->ends = bigger;
		frames->capacity = wanted;
	}
	if (depth == 0) { /* the root is left out */
		frames->ends[0] = 0;
		return 0;
	}
	frames->text.len = frames->ends[depth - 1];
	buffer_add(&frames->text, ";", 1);
	export_text(&frames->text, *name ? name : "[unknown]", ';');
	frames->ends[depth] = frames->text.len;
	return frames->text.failed ? -ENOMEM : 0;
}

static void write_line(struct buffer *out, const char *route, unsigned state,
		       const struct frames *frames, uint64_t ns)
{
	uint64_t us = ns / 1000 + (ns % 1000 >= 500);

	export_text(out, route, ';');
	buffer_print(out, ";[%s]", state_names[state]);
	buffer_add(out, frames->text.bytes, frames->text.len);
	buffer_print(out, " %llu\n", (unsigned long long)(us ? us : 1));
}

static int write_route(const char *route, const struct flame *flame, struct buffer *out)
{
	struct flame *merged = merge_by_name(flame);
	struct frames frames = { 0 };
	int err = merged ? 0 : -ENOMEM;

	for (uint32_t i = 0; !err && i < merged->node_count; i++) {
		const struct flame_node *node = &merged->nodes[i];

		err = frames_set(&frames, node->depth, merged->functions[node->function].name);
		for (unsigned s = 0; !err && s < STATE_COUNT; s++)
			if (node->self_ns[s])
				write_line(out, route, s, &frames, node->self_ns[s]);
		if (!err && out->len > EXPORT_BYTES_MAX)
			err = -EFBIG;
	}
	buffer_fini(&frames.text);
	free(frames.ends);
	flame_destroy(merged);
	return err;
}

int export_folded_flames(const struct route_flame *flames, size_t count, struct buffer *out)
{
	int err = 0;

	buffer_add(out, "", 0);
	for (size_t i = 0; i < count && !err; i++)
		err = write_route(export_route(flames[i].route), flames[i].flame, out);
	return err ? err : out->failed ? -ENOMEM : 0;
}

static int write_flames(const struct route_flame *flames, size_t count, const struct selection *sel,
			struct buffer *out)
{
	(void)sel;
	return export_folded_flames(flames, count, out);
}

static int write_folded(struct store *store, const struct selection *sel, char **bytes, size_t *len)
{
	return export_trees(store, sel, write_flames, bytes, len);
}

const struct export_format export_folded = {
	.name = "folded",
	.content_type = "text/plain; charset=utf-8",
	.suffix = ".folded",
	.write = write_folded,
};
