/* SPDX-License-Identifier: MIT
 *
 * See dict.h. Every part is a table whose entry numbers count up, so that "sent up to number n" is all a connection
 * needs. Functions, objects and threads use that number as id; routes and modules bring their own.
 */
#include "agent/core/dict.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/table.h"

enum {
	PATH_BYTES = 4096,
	NAME_BYTES = DICT_NAME_MAX + 4,   /* looked at, so that the cut falls between characters */
	CHUNK_BYTES = DICT_FRAME_MAX / 2, /* where a frame is closed: one more entry always fits */
	CHUNK_STACKS = 8192,              /* at most 25 bytes each */
	ENTRY_BYTES = 48,                 /* of an entry on the wire, without its texts, at most */
};

struct node {
	uint64_t address;
	uint32_t parent, module;
};

struct named {
	char *name;
	char *extra;     /* a function's file, a route's source */
	uint32_t id;     /* on the wire */
	uint32_t number; /* a function's line, an object's kind, a thread's tid */
};

struct module {
	uint32_t id;
	uint8_t build_id_bytes;
	uint8_t build_id[DICT_BUILD_ID_MAX];
	char *path;
	uint64_t start, end, bias;
};

struct part {
	struct table table;
	uint32_t sent; /* entries 1..sent are known to this connection */
	uint64_t refused;
	size_t text_bytes;
};

struct dict {
	struct part stacks, functions, modules, routes, objects, threads;
	uint32_t stack_full, function_full, module_full; /* ids of what stands for the refused */
};

static uint64_t hash_text(uint64_t hash, const char *text, size_t length)
{
	uint64_t word;

	for (; length >= sizeof(word); text += sizeof(word), length -= sizeof(word)) {
		memcpy(&word, text, sizeof(word));
		hash = table_mix(hash, word);
	}
	word = length;
	for (size_t i = 0; i < length; i++)
		word = word << 8 | (uint8_t)text[i];
	return table_mix(hash, word);
}

static char *clean_copy(const char *text, size_t room)
{
	size_t length = strnlen(text, room - 1);
	char *copy = malloc(length + 1);

	if (copy)
		encode_text(copy, length + 1, text, length);
	return copy;
}

/* The entry with @id in a part whose entries bring their own ids, @id_offset into the entry. */
static uint32_t find_id(const struct part *part, uint32_t id, size_t id_offset)
{
	const struct table *t = &part->table;
	uint32_t found;

	for (uint32_t i = table_first(t, (uint32_t)table_mix(0, id)); i; i = table_next(t, i)) {
		memcpy(&found, (const uint8_t *)table_entry(t, i) + id_offset, sizeof(found));
		if (found == id)
			return i;
	}
	return 0;
}

/* Whether the collector will know the frame: it refuses a stack that it cannot explain, and us with it. */
static bool frame_known(const struct dict *d, const struct dict_frame *frame)
{
	if (frame->module)
		return find_id(&d->modules, frame->module, offsetof(struct module, id)) > 0;
	return frame->address > 0 && frame->address <= d->functions.table.used;
}

static uint32_t child(struct dict *d, uint32_t parent, const struct dict_frame *frame)
{
	struct table *t = &d->stacks.table;
	uint64_t key = (uint64_t)parent << 32 | frame->module;
	uint32_t hash = (uint32_t)table_mix(table_mix(0, key), frame->address);
	uint32_t number;
	struct node *node;

	for (number = table_first(t, hash); number; number = table_next(t, number)) {
		node = table_entry(t, number);
		if (node->address == frame->address && node->parent == parent &&
		    node->module == frame->module)
			return number;
	}
	if (!frame_known(d, frame)) {
		const struct dict_frame unknown = { .address = d->module_full };

		return child(d, parent, &unknown);
	}
	number = table_add(t, hash);
	if (!number)
		return 0;
	node = table_entry(t, number);
	*node = (struct node){ .address = frame->address,
			       .parent = parent,
			       .module = frame->module };
	return number;
}

uint32_t dict_stack(struct dict *d, const struct dict_frame *frames_leaf_first, unsigned depth)
{
	uint32_t stack = 0;

	while (depth-- > 0) {
		stack = child(d, stack, &frames_leaf_first[depth]);
		if (!stack) {
			d->stacks.refused++;
			return d->stack_full;
		}
	}
	return stack;
}

struct dict *dict_create(void)
{
	struct dict *d = calloc(1, sizeof(*d));
	struct dict_frame marker = { 0 };

	if (!d)
		return NULL;
	table_init(&d->stacks.table, sizeof(struct node), DICT_STACKS);
	table_init(&d->functions.table, sizeof(struct named), DICT_FUNCTIONS);
	table_init(&d->modules.table, sizeof(struct module), DICT_MODULES);
	table_init(&d->routes.table, sizeof(struct named), DICT_ROUTES);
	table_init(&d->objects.table, sizeof(struct named), DICT_OBJECTS);
	table_init(&d->threads.table, sizeof(struct named), DICT_THREADS);
	/* While there surely is room. */
	d->function_full = dict_function(d, DICT_FUNCTION_FULL, NULL, 0);
	d->module_full = dict_function(d, DICT_MODULE_UNKNOWN, NULL, 0);
	marker.address = dict_function(d, DICT_STACK_FULL, NULL, 0);
	d->stack_full = marker.address ? dict_stack(d, &marker, 1) : 0;
	if (!d->function_full || !d->module_full || !d->stack_full) {
		dict_destroy(d);
		return NULL;
	}
	return d;
}

static void free_named(struct part *part)
{
	for (uint32_t i = 1; i <= part->table.used; i++) {
		struct named *entry = table_entry(&part->table, i);

		free(entry->name);
		free(entry->extra);
	}
	table_fini(&part->table);
}

void dict_destroy(struct dict *d)
{
	if (!d)
		return;
	for (uint32_t i = 1; i <= d->modules.table.used; i++)
		free(((struct module *)table_entry(&d->modules.table, i))->path);
	table_fini(&d->modules.table);
	table_fini(&d->stacks.table);
	free_named(&d->functions);
	free_named(&d->routes);
	free_named(&d->objects);
	free_named(&d->threads);
	free(d);
}

/* @name and @extra are compared as they will be sent: cut and cleaned. */
static uint32_t intern(struct part *part, uint32_t number, const char *name, const char *extra)
{
	char clean[DICT_NAME_MAX + 1], clean_extra[DICT_NAME_MAX + 1];
	size_t bytes = encode_text(clean, sizeof(clean), name, strnlen(name, NAME_BYTES));
	size_t extra_bytes =
		encode_text(clean_extra, sizeof(clean_extra), extra, strnlen(extra, NAME_BYTES));
	uint32_t hash =
		(uint32_t)hash_text(hash_text(number, clean, bytes), clean_extra, extra_bytes);
	struct table *t = &part->table;
	struct named made = { .number = number }, *entry;

	for (uint32_t i = table_first(t, hash); i; i = table_next(t, i)) {
		entry = table_entry(t, i);
		if (entry->number == number && strcmp(entry->name, clean) == 0 &&
		    strcmp(entry->extra, clean_extra) == 0)
			return i;
	}
	made.name = strdup(clean);
	made.extra = strdup(clean_extra);
	if (made.name && made.extra)
		made.id = table_add(t, hash);
	if (!made.id) {
		free(made.name);
		free(made.extra);
		part->refused++;
		return 0;
	}
	part->text_bytes += bytes + extra_bytes + 2;
	entry = table_entry(t, made.id);
	*entry = made;
	return made.id;
}

uint32_t dict_function(struct dict *d, const char *name, const char *file, uint32_t line)
{
	uint32_t id = intern(&d->functions, line, name, file ? file : "");

	return id ? id : d->function_full;
}

uint32_t dict_object(struct dict *d, Sonde__Object__Kind kind, const char *name)
{
	return intern(&d->objects, (uint32_t)kind, name, "");
}

uint32_t dict_thread(struct dict *d, uint32_t tid, const char *name)
{
	return intern(&d->threads, tid, name, "");
}

/* Entry @i changed: send it again. What comes after it goes out twice, which changes nothing and is rare. */
static void send_again(struct part *part, uint32_t i)
{
	if (part->sent >= i)
		part->sent = i - 1;
}

int dict_route(struct dict *d, uint32_t id, const char *name, const char *source)
{
	struct part *part = &d->routes;
	uint32_t i = find_id(part, id, offsetof(struct named, id));
	char clean[DICT_NAME_MAX + 1], *copy, *source_copy;
	struct named *entry;

	if (id == 0 || id > DICT_ROUTE_ID_MAX) {
		part->refused++;
		return -ENOSPC;
	}
	if (encode_text(clean, sizeof(clean), name, strnlen(name, NAME_BYTES)) == 0)
		memcpy(clean, "(unnamed)", 10); /* collectors refuse a route without a name */
	if (i) {
		entry = table_entry(&part->table, i);
		if (strcmp(entry->name, clean) == 0 && strcmp(entry->extra, source) == 0)
			return 0;
	}
	copy = strdup(clean);
	source_copy = clean_copy(source, DICT_NAME_MAX);
	if (!copy || !source_copy) {
		free(copy);
		free(source_copy);
		return -ENOMEM;
	}
	if (!i)
		i = table_add(&part->table, (uint32_t)table_mix(0, id));
	if (!i) {
		free(copy);
		free(source_copy);
		part->refused++;
		return -ENOSPC;
	}
	entry = table_entry(&part->table, i);
	free(entry->name);
	free(entry->extra);
	*entry = (struct named){ .id = id, .name = copy, .extra = source_copy };
	part->text_bytes += strlen(copy) + strlen(source_copy) + 2;
	send_again(part, i);
	return 0;
}

static bool same_module(const struct module *m, const struct dict_module *other, size_t build_id)
{
	return m->start == other->start && m->end == other->end && m->bias == other->bias &&
	       m->build_id_bytes == build_id &&
	       (build_id == 0 || memcmp(m->build_id, other->build_id, build_id) == 0);
}

int dict_module(struct dict *d, const struct dict_module *module)
{
	struct part *part = &d->modules;
	size_t build_id = module->build_id_bytes;
	uint32_t i = find_id(part, module->id, offsetof(struct module, id));
	struct module *entry;
	char *path;

	if (module->id == 0 || module->id > DICT_MODULE_ID_MAX) {
		part->refused++;
		return -ENOSPC;
	}
	if (!module->build_id || build_id > DICT_BUILD_ID_MAX)
		build_id = 0;
	/* A module that is another one gets another id from modules.h; compare what is cheap. */
	if (i && same_module(table_entry(&part->table, i), module, build_id))
		return 0;
	path = clean_copy(module->path, PATH_BYTES);
	if (!path)
		return -ENOMEM;
	if (!i)
		i = table_add(&part->table, (uint32_t)table_mix(0, module->id));
	if (!i) {
		free(path);
		part->refused++;
		return -ENOSPC;
	}
	entry = table_entry(&part->table, i);
	free(entry->path);
	*entry = (struct module){ .id = module->id,
				  .build_id_bytes = (uint8_t)build_id,
				  .path = path,
				  .start = module->start,
				  .end = module->end,
				  .bias = module->bias };
	if (build_id)
		memcpy(entry->build_id, module->build_id, build_id);
	part->text_bytes += strlen(path) + 1;
	send_again(part, i);
	return 0;
}

void dict_forget_sent(struct dict *d)
{
	d->stacks.sent = d->functions.sent = d->modules.sent = 0;
	d->routes.sent = d->objects.sent = d->threads.sent = 0;
}

/* One Dict frame in the making. */
struct chunk {
	struct encode_arena arena;
	Sonde__Dict dict;
	size_t bytes;
};

/* How many named entries after @part->sent still fit; their bytes are taken. */
static uint32_t fitting(struct chunk *chunk, const struct part *part)
{
	uint32_t count = 0;

	while (part->sent + count < part->table.used && chunk->bytes < CHUNK_BYTES) {
		const struct named *entry = table_entry(&part->table, part->sent + ++count);

		chunk->bytes += ENTRY_BYTES + strlen(entry->name) + strlen(entry->extra);
	}
	return count;
}

/* What a named entry is as a message. */
static void function_message(void *message, const struct named *entry)
{
	Sonde__Function *function = message;

	sonde__function__init(function);
	function->id = entry->id;
	function->name = entry->name;
	function->file = entry->extra;
	function->line = entry->number;
}

static void route_message(void *message, const struct named *entry)
{
	Sonde__Route *route = message;

	sonde__route__init(route);
	route->id = entry->id;
	route->name = entry->name;
	route->source = entry->extra;
}

static void object_message(void *message, const struct named *entry)
{
	Sonde__Object *object = message;

	sonde__object__init(object);
	object->id = entry->id;
	object->kind = (Sonde__Object__Kind)entry->number;
	object->name = entry->name;
}

static void thread_message(void *message, const struct named *entry)
{
	Sonde__Thread *thread = message;

	sonde__thread__init(thread);
	thread->id = entry->id;
	thread->tid = entry->number;
	thread->name = entry->name;
}

/* The messages of what fits of @part, marked as sent. NULL with *@count 0 is nothing to send. Returns 0 or -ENOMEM. */
static int add_named(struct chunk *chunk, struct part *part, size_t message_bytes,
		     void (*fill)(void *, const struct named *), size_t *count, void ***out)
{
	*count = fitting(chunk, part);
	if (*count == 0)
		return 0;
	*out = encode_alloc_messages(&chunk->arena, *count, message_bytes);
	if (!*out)
		return -ENOMEM;
	for (size_t i = 0; i < *count; i++)
		fill((*out)[i], table_entry(&part->table, ++part->sent));
	return 0;
}

static int add_modules(struct chunk *chunk, struct part *part)
{
	Sonde__Module **messages;
	uint32_t count = 0;

	while (part->sent + count < part->table.used && chunk->bytes < CHUNK_BYTES) {
		const struct module *m = table_entry(&part->table, part->sent + ++count);

		chunk->bytes += ENTRY_BYTES + m->build_id_bytes + strlen(m->path);
	}
	messages = encode_alloc_messages(&chunk->arena, count, sizeof(**messages));
	if (!messages)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		struct module *m = table_entry(&part->table, ++part->sent);

		sonde__module__init(messages[i]);
		messages[i]->id = m->id;
		messages[i]->path = m->path;
		messages[i]->build_id.data = m->build_id;
		messages[i]->build_id.len = m->build_id_bytes;
		messages[i]->start = m->start;
		messages[i]->end = m->end;
		messages[i]->bias = m->bias;
	}
	chunk->dict.n_modules = count;
	chunk->dict.modules = messages;
	return 0;
}

static int add_stacks(struct chunk *chunk, struct part *part)
{
	uint32_t count = part->table.used - part->sent;
	Sonde__Stacks *stacks;

	/* Only beside a nearly empty frame, so that no estimate is needed, and after all that it refers to. */
	if (count == 0 || chunk->bytes >= CHUNK_BYTES / 4)
		return 0;
	if (count > CHUNK_STACKS)
		count = CHUNK_STACKS;
	stacks = encode_alloc(&chunk->arena, 1, sizeof(*stacks));
	if (!stacks)
		return -ENOMEM;
	sonde__stacks__init(stacks);
	stacks->n_id = stacks->n_parent = stacks->n_module = stacks->n_address = count;
	stacks->id = encode_alloc(&chunk->arena, count, sizeof(uint32_t));
	stacks->parent = encode_alloc(&chunk->arena, count, sizeof(uint32_t));
	stacks->module = encode_alloc(&chunk->arena, count, sizeof(uint32_t));
	stacks->address = encode_alloc(&chunk->arena, count, sizeof(uint64_t));
	if (!stacks->id || !stacks->parent || !stacks->module || !stacks->address)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		const struct node *node = table_entry(&part->table, ++part->sent);

		stacks->id[i] = part->sent;
		stacks->parent[i] = node->parent;
		stacks->module[i] = node->module;
		stacks->address[i] = node->address;
	}
	chunk->bytes += count;
	chunk->dict.stacks = stacks;
	return 0;
}

static int add_all(struct dict *d, struct chunk *chunk)
{
	Sonde__Dict *to = &chunk->dict;
	void **messages = NULL;
	int error;

#define ADD(part, type, fill)                                                                      \
  error = add_named(chunk, &d->part, sizeof(type), fill, &to->n_##part, &messages);                \
  if (error)                                                                                       \
    return error;                                                                                  \
  to->part = to->n_##part ? (type **)messages : NULL;

	ADD(functions, Sonde__Function, function_message)
	ADD(routes, Sonde__Route, route_message)
	ADD(objects, Sonde__Object, object_message)
	ADD(threads, Sonde__Thread, thread_message)
#undef ADD
	error = add_modules(chunk, &d->modules);
	return error ? error : add_stacks(chunk, &d->stacks);
}

int dict_encode_new(struct dict *d, struct encode_buffer *buffer)
{
	struct chunk chunk = { .dict = SONDE__DICT__INIT };
	Sonde__Frame frame = SONDE__FRAME__INIT;
	struct dict before = *d;
	int result = add_all(d, &chunk);

	frame.body_case = SONDE__FRAME__BODY_DICT;
	frame.dict = &chunk.dict;
	if (result == 0 && chunk.bytes > 0) {
		result = encode_frame(buffer, &frame);
		result = result ? result : 1;
	}
	if (result < 0)
		*d = before; /* only the marks of what was sent differ */
	encode_arena_fini(&chunk.arena);
	return result;
}

unsigned dict_drops(const struct dict *d, struct self_drop out[DICT_DROPS])
{
	out[0] = (struct self_drop){ "stack table full", d->stacks.refused };
	out[1] = (struct self_drop){ "function table full", d->functions.refused };
	out[2] = (struct self_drop){ "module table full", d->modules.refused };
	out[3] = (struct self_drop){ "route table full", d->routes.refused };
	out[4] = (struct self_drop){ "object table full", d->objects.refused };
	out[5] = (struct self_drop){ "thread table full", d->threads.refused };
	return DICT_DROPS;
}

/* As table.c rounds them up: entries, links, heads. */
static size_t part_bytes_max(const struct part *part, size_t text_bytes)
{
	return part->table.max * (part->table.entry_bytes + sizeof(struct table_link) +
				  sizeof(uint32_t) + text_bytes);
}

size_t dict_bytes_max(const struct dict *d)
{
	return sizeof(*d) + part_bytes_max(&d->stacks, 0) +
	       part_bytes_max(&d->functions, 2 * DICT_NAME_MAX) +
	       part_bytes_max(&d->modules, DICT_NAME_MAX) +
	       part_bytes_max(&d->routes, DICT_NAME_MAX) +
	       part_bytes_max(&d->objects, DICT_NAME_MAX) +
	       part_bytes_max(&d->threads, DICT_NAME_MAX);
}

static size_t part_bytes(const struct part *part)
{
	return table_bytes(&part->table) + part->text_bytes;
}

size_t dict_bytes(const struct dict *d)
{
	return sizeof(*d) + part_bytes(&d->stacks) + part_bytes(&d->functions) +
	       part_bytes(&d->modules) + part_bytes(&d->routes) + part_bytes(&d->objects) +
	       part_bytes(&d->threads);
}
