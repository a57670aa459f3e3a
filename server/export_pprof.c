/* SPDX-License-Identifier: MIT
 *
 * pprof's profile.proto, written by hand: the message is a list of small records that point at one another by number, and
 * no tree of it needs to stand in memory. Strings, functions, mappings and locations are made unique first, samples
 * are streamed, the tables follow them; readers accept any order.
 *
 * A location is an address with all that was inlined there, innermost first. In our tree every inlined function is a node
 * of its own below its caller; so an inlined node continues its parent's location, and a stack is made of the
 * locations of its innermost nodes. Addresses are those in the ELF file, mappings begin at 0. Context: server, any thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "server/export.h"

/* Field numbers of profile.proto. */
enum {
	PROFILE_SAMPLE_TYPE = 1,
	PROFILE_SAMPLE = 2,
	PROFILE_MAPPING = 3,
	PROFILE_LOCATION = 4,
	PROFILE_FUNCTION = 5,
	PROFILE_STRING = 6,
	PROFILE_TIME = 9,
	PROFILE_DURATION = 10,
	PROFILE_PERIOD_TYPE = 11,
	PROFILE_PERIOD = 12,
	PROFILE_COMMENT = 13,
	PROFILE_DEFAULT_TYPE = 14,
	VALUE_TYPE = 1,
	VALUE_UNIT = 2,
	SAMPLE_LOCATION = 1,
	SAMPLE_VALUE = 2,
	SAMPLE_LABEL = 3,
	LABEL_KEY = 1,
	LABEL_STRING = 2,
	MAPPING_ID = 1,
	MAPPING_LIMIT = 3,
	MAPPING_FILE = 5,
	MAPPING_BUILD_ID = 6,
	MAPPING_HAS_FUNCTIONS = 7,
	MAPPING_HAS_FILES = 8,
	MAPPING_HAS_LINES = 9,
	MAPPING_HAS_INLINED = 10,
	LOCATION_ID = 1,
	LOCATION_MAPPING = 2,
	LOCATION_ADDRESS = 3,
	LOCATION_LINE = 4,
	LINE_FUNCTION = 1,
	LINE_LINE = 2,
	FUNCTION_ID = 1,
	FUNCTION_NAME = 2,
	FUNCTION_SYSTEM_NAME = 3,
	FUNCTION_FILE = 4,
};

/* Order of the values of a sample. */
enum {
	VALUE_SAMPLES,
	VALUE_STATES,
	VALUE_WALL = VALUE_STATES + STATE_COUNT,
	VALUE_COUNT
};

/*
 * Records of one size, each once, compared as bytes (they have no padding) or, when they are pointers to strings, by what
 * they point to. Others name them by their index.
 */
struct unique {
	size_t bytes; /* of one record; 0: strings */
	char *records;
	uint32_t count, capacity;
	uint32_t *slots; /* open addressing, index + 1, at most half full */
	uint32_t slot_count;
};

struct function {
	uint32_t name, system_name, file; /* strings */
};

struct mapping {
	uint32_t file, build_id; /* strings */
};

struct location {
	uint32_t outer; /* location + 1 that this one is inlined into, 0 none */
	uint32_t function, line;
	uint32_t mapping; /* + 1, 0 none */
	uint64_t address;
};

struct pprof {
	struct buffer out;
	struct buffer message, list; /* a record being written, and a packed list inside it */
	struct unique strings, functions, mappings, locations;
	uint64_t *limits; /* of each mapping: its highest address */
	uint32_t *ids;    /* of each location: what samples call it, 0 when none does */
	uint32_t *here;   /* of each node of the tree being written: its location */
	uint32_t ids_given;
	uint64_t cpu_ns, cpu_samples;
	uint32_t main_mapping;
	int err; /* the first failure; what comes after it does nothing */
};

/* ---- Unique records ---- */

static size_t record_bytes(const struct unique *u)
{
	return u->bytes ? u->bytes : sizeof(const char *);
}

static const char *string_at(const struct unique *strings, uint32_t index)
{
	const char *string;

	memcpy(&string, strings->records + index * sizeof(string), sizeof(string));
	return string;
}

static uint64_t record_hash(const struct unique *u, const void *record)
{
	const unsigned char *at = record;
	size_t bytes = u->bytes;
	uint64_t h = 0xcbf29ce484222325u;

	if (!bytes) {
		const char *string;

		memcpy(&string, record, sizeof(string));
		at = (const unsigned char *)string;
		bytes = strlen(string);
	}
	for (size_t i = 0; i < bytes; i++)
		h = (h ^ at[i]) * 0x100000001b3u;
	return (h ^ h >> 32) * 0x9e3779b97f4a7c15u >> 20;
}

static bool record_equal(const struct unique *u, uint32_t index, const void *record)
{
	const char *string;

	if (u->bytes)
		return memcmp(u->records + index * u->bytes, record, u->bytes) == 0;
	memcpy(&string, record, sizeof(string));
	return strcmp(string_at(u, index), string) == 0;
}

static int unique_grow(struct unique *u)
{
	uint32_t capacity = u->capacity ? u->capacity * 2 : 64;
	uint32_t *slots = calloc((size_t)capacity * 2, sizeof(*slots));
	char *records = slots ? reallocarray(u->records, capacity, record_bytes(u)) : NULL;

	if (!records) {
		free(slots);
		return -ENOMEM;
	}
	u->records = records;
	u->capacity = capacity;
	free(u->slots);
	u->slots = slots;
	u->slot_count = capacity * 2;
	for (uint32_t i = 0; i < u->count; i++) {
		uint64_t at = record_hash(u, records + i * record_bytes(u));

		while (slots[at & (u->slot_count - 1)])
			at++;
		slots[at & (u->slot_count - 1)] = i + 1;
	}
	return 0;
}

/* The index of @record, added when new. 0 after a failure. */
static uint32_t unique_add(struct pprof *p, struct unique *u, const void *record)
{
	uint32_t *slot;

	if (!p->err && u->count == u->capacity)
		p->err = unique_grow(u);
	if (p->err)
		return 0;
	for (uint64_t at = record_hash(u, record);; at++) {
		slot = &u->slots[at & (u->slot_count - 1)];
		if (!*slot)
			break;
		if (record_equal(u, *slot - 1, record))
			return *slot - 1;
	}
	memcpy(u->records + u->count * record_bytes(u), record, record_bytes(u));
	*slot = ++u->count;
	return u->count - 1;
}

static void unique_fini(struct unique *u)
{
	free(u->records);
	free(u->slots);
}

static uint32_t string(struct pprof *p, const char *text)
{
	return unique_add(p, &p->strings, &text);
}

/* ---- Protobuf ---- */

static void put_varint(struct buffer *out, uint64_t value)
{
	unsigned char bytes[10];
	size_t n = 0;

	for (; value > 0x7f; value >>= 7)
		bytes[n++] = (unsigned char)(value | 0x80);
	bytes[n++] = (unsigned char)value;
	buffer_add(out, bytes, n);
}

/* A field with a value; 0 is what readers assume. Readers take values as signed. */
static void put_value(struct buffer *out, uint32_t field, uint64_t value)
{
	if (value == 0)
		return;
	put_varint(out, field << 3);
	put_varint(out, value > INT64_MAX ? INT64_MAX : value);
}

/* A field with bytes: a string, a message or a packed list. */
static void put_bytes(struct buffer *out, uint32_t field, const void *bytes, size_t length)
{
	put_varint(out, field << 3 | 2);
	put_varint(out, length);
	buffer_add(out, bytes, length);
}

/* Write what stands in @from as a field of @out, and empty it. */
static void put_message(struct buffer *out, uint32_t field, struct buffer *from)
{
	if (from->failed)
		out->failed = true;
	put_bytes(out, field, from->bytes, from->len);
	from->len = 0;
}

static void put_value_type(struct pprof *p, uint32_t field, const char *type, const char *unit)
{
	put_value(&p->message, VALUE_TYPE, string(p, type));
	put_value(&p->message, VALUE_UNIT, string(p, unit));
	put_message(&p->out, field, &p->message);
}

static void put_label(struct pprof *p, const char *key, const char *value)
{
	put_value(&p->list, LABEL_KEY, string(p, key));
	put_value(&p->list, LABEL_STRING, string(p, value));
	put_message(&p->message, SAMPLE_LABEL, &p->list);
}

/* ---- Mappings: before all else, since the program itself must come first ---- */

static uint32_t mapping_of(struct pprof *p, const struct flame_function *f)
{
	struct mapping mapping = { 0 };

	if (!*f->module && !*f->module_path)
		return 0;
	mapping.file = string(p, *f->module_path ? f->module_path : f->module);
	mapping.build_id = string(p, f->build_id);
	return unique_add(p, &p->mappings, &mapping) + 1;
}

/* Readers take the first mapping for the program: of those that are no libraries, the one with most time below it. */
static void find_mappings(struct pprof *p, const struct route_flame *flames, size_t count)
{
	uint64_t *time = NULL, most = 0;

	for (size_t i = 0; i < count; i++)
		for (uint32_t f = 0; f < flames[i].flame->function_count; f++)
			mapping_of(p, &flames[i].flame->functions[f]);
	time = calloc((size_t)p->mappings.count + 1, sizeof(*time));
	p->limits = calloc((size_t)p->mappings.count + 1, sizeof(*p->limits));
	if (!time || !p->limits)
		p->err = -ENOMEM;
	for (size_t i = 0; i < count && !p->err; i++)
		for (uint32_t n = 0; n < flames[i].flame->node_count; n++) {
			const struct flame_node *node = &flames[i].flame->nodes[n];
			const struct flame_function *f =
				&flames[i].flame->functions[node->function];
			uint32_t mapping = mapping_of(p, f);

			if (!mapping)
				continue;
			if (f->address > p->limits[mapping - 1])
				p->limits[mapping - 1] = f->address;
			if (strstr(f->module, ".so") || f->module[0] == '[')
				continue;
			time[mapping] += node->total_ns / 1024; /* may turn over: only a guess */
			if (time[mapping] > most) {
				most = time[mapping];
				p->main_mapping = mapping - 1;
			}
		}
	free(time);
}

/* Ids begin at 1, and with the program itself. @index is a mapping + 1, 0 none. */
static uint32_t mapping_id(const struct pprof *p, uint32_t index)
{
	if (index == 0 || index - 1 > p->main_mapping)
		return index;
	return index - 1 == p->main_mapping ? 1 : index + 1;
}

/* The reader complains of a profile without any program, as of an interpreter alone: then it is the service. */
static void put_no_mapping(struct pprof *p, const char *service)
{
	put_value(&p->message, MAPPING_ID, 1);
	put_value(&p->message, MAPPING_FILE, string(p, service && *service ? service : "unknown"));
	for (uint32_t has = MAPPING_HAS_FUNCTIONS; has <= MAPPING_HAS_INLINED; has++)
		put_value(&p->message, has, 1);
	put_message(&p->out, PROFILE_MAPPING, &p->message);
}

static void put_mapping(struct pprof *p, uint32_t index)
{
	struct mapping mapping;

	memcpy(&mapping, p->mappings.records + index * sizeof(mapping), sizeof(mapping));
	put_value(&p->message, MAPPING_ID, mapping_id(p, index + 1));
	put_value(&p->message, MAPPING_LIMIT, (p->limits[index] | 4095) + 1);
	put_value(&p->message, MAPPING_FILE, mapping.file);
	put_value(&p->message, MAPPING_BUILD_ID, mapping.build_id);
	/* All true: there is nothing left for the reader to look up. */
	for (uint32_t has = MAPPING_HAS_FUNCTIONS; has <= MAPPING_HAS_INLINED; has++)
		put_value(&p->message, has, 1);
	put_message(&p->out, PROFILE_MAPPING, &p->message);
}

static void put_mappings(struct pprof *p)
{
	put_mapping(p, p->main_mapping);
	for (uint32_t i = 0; i < p->mappings.count; i++)
		if (i != p->main_mapping)
			put_mapping(p, i);
}

/* ---- Samples ---- */

static uint32_t location_of(struct pprof *p, const struct flame *flame, uint32_t node)
{
	const struct flame_function *f = &flame->functions[flame->nodes[node].function];
	struct function function = { .name = string(p, f->name),
				     .system_name = string(p, f->system_name),
				     .file = string(p, f->file) };
	struct location location = { .function = unique_add(p, &p->functions, &function),
				     .line = f->line,
				     .mapping = mapping_of(p, f),
				     .address = f->address };

	if (f->inlined && flame->nodes[node].parent != 0)
		location.outer = p->here[flame->nodes[node].parent] + 1;
	return unique_add(p, &p->locations, &location);
}

static void list_location(struct pprof *p, uint32_t node)
{
	uint32_t *id = &p->ids[p->here[node]];

	if (!*id)
		*id = ++p->ids_given;
	put_varint(&p->list, *id);
}

/* Put the locations of the stack that ends in @node into the list, innermost first; the root alone is left out. */
static void list_stack(struct pprof *p, const struct flame *flame, uint32_t node)
{
	if (node == 0)
		list_location(p, 0);
	while (node != 0) {
		list_location(p, node);
		while (flame->functions[flame->nodes[node].function].inlined &&
		       flame->nodes[node].parent != 0)
			node = flame->nodes[node].parent; /* part of the same location */
		node = flame->nodes[node].parent;
	}
}

/* The tree counts samples per node only: share them out by time, what is left over goes to the largest state. */
static void share_samples(const struct flame_node *node, uint64_t shares[STATE_COUNT])
{
	uint64_t left = node->samples;
	unsigned largest = 0;
	double all = 0;

	for (unsigned s = 0; s < STATE_COUNT; s++) {
		all += (double)node->self_ns[s];
		if (node->self_ns[s] > node->self_ns[largest])
			largest = s;
	}
	for (unsigned s = 0; s < STATE_COUNT; s++) {
		double share = all > 0 ? (double)node->self_ns[s] / all : 0;

		shares[s] = (uint64_t)((double)node->samples * share);
		if (shares[s] > left)
			shares[s] = left;
		left -= shares[s];
	}
	shares[largest] += left;
}

static void put_sample(struct pprof *p, const struct route_flame *route, uint32_t node,
		       unsigned state, uint64_t samples)
{
	uint64_t ns = route->flame->nodes[node].self_ns[state];

	if (state == STATE_CPU) {
		p->cpu_ns += ns;
		p->cpu_samples += samples;
	}
	list_stack(p, route->flame, node);
	put_message(&p->message, SAMPLE_LOCATION, &p->list);
	for (unsigned v = 0; v < VALUE_COUNT; v++) {
		bool counts = v == VALUE_STATES + state || v == VALUE_WALL;
		uint64_t value = v == VALUE_SAMPLES ? samples : counts ? ns : 0;

		put_varint(&p->list, value > INT64_MAX ? INT64_MAX : value);
	}
	put_message(&p->message, SAMPLE_VALUE, &p->list);
	put_label(p, "route", export_route(route->route));
	put_label(p, "state", state_names[state]);
	if (route->service && *route->service)
		put_label(p, "service", route->service);
	put_message(&p->out, PROFILE_SAMPLE, &p->message);
}

/* Everything of one route. */
static void put_route(struct pprof *p, const struct route_flame *route)
{
	const struct flame *flame = route->flame;
	uint32_t before = p->locations.count, *ids;

	free(p->here);
	p->here = calloc(flame->node_count, sizeof(*p->here));
	if (!p->here) {
		p->err = -ENOMEM;
		return;
	}
	for (uint32_t i = 0; i < flame->node_count && !p->err; i++)
		p->here[i] = location_of(p, flame, i);
	ids = reallocarray(p->ids, (size_t)p->locations.count + 1, sizeof(*ids));
	if (!ids) {
		p->err = -ENOMEM;
		return;
	}
	memset(ids + before, 0, (p->locations.count + 1 - before) * sizeof(*ids));
	p->ids = ids;
	for (uint32_t i = 0; i < flame->node_count && !p->err; i++) {
		uint64_t samples[STATE_COUNT];

		share_samples(&flame->nodes[i], samples);
		for (unsigned s = 0; s < STATE_COUNT; s++)
			if (flame->nodes[i].self_ns[s])
				put_sample(p, route, i, s, samples[s]);
		if (p->out.failed)
			p->err = -ENOMEM;
		else if (p->out.len > EXPORT_BYTES_MAX)
			p->err = -EFBIG;
	}
}

/* ---- The tables behind the samples ---- */

static struct location location_at(const struct pprof *p, uint32_t index)
{
	struct location location;

	memcpy(&location, p->locations.records + index * sizeof(location), sizeof(location));
	return location;
}

static void put_location(struct pprof *p, uint32_t index)
{
	struct location location = location_at(p, index);

	put_value(&p->message, LOCATION_ID, p->ids[index]);
	put_value(&p->message, LOCATION_MAPPING, mapping_id(p, location.mapping));
	put_value(&p->message, LOCATION_ADDRESS, location.address);
	for (;;) { /* innermost first */
		put_value(&p->list, LINE_FUNCTION, (uint64_t)location.function + 1);
		put_value(&p->list, LINE_LINE, location.line);
		put_message(&p->message, LOCATION_LINE, &p->list);
		if (!location.outer)
			break;
		location = location_at(p, location.outer - 1);
	}
	put_message(&p->out, PROFILE_LOCATION, &p->message);
}

static void put_tables(struct pprof *p)
{
	struct function function;

	for (uint32_t i = 0; i < p->locations.count; i++)
		if (p->ids && p->ids[i])
			put_location(p, i);
	for (uint32_t i = 0; i < p->functions.count; i++) {
		memcpy(&function, p->functions.records + i * sizeof(function), sizeof(function));
		put_value(&p->message, FUNCTION_ID, (uint64_t)i + 1);
		put_value(&p->message, FUNCTION_NAME, function.name);
		put_value(&p->message, FUNCTION_SYSTEM_NAME, function.system_name);
		put_value(&p->message, FUNCTION_FILE, function.file);
		put_message(&p->out, PROFILE_FUNCTION, &p->message);
	}
	/* The CPU time that one sample stands for, on average. */
	put_value(&p->out, PROFILE_PERIOD, p->cpu_samples ? p->cpu_ns / p->cpu_samples : 0);
	for (uint32_t i = 0; i < p->strings.count; i++) {
		export_text(&p->message, string_at(&p->strings, i), 0);
		put_message(&p->out, PROFILE_STRING, &p->message);
	}
}

/* ---- The whole ---- */

static void put_head(struct pprof *p, const struct selection *sel)
{
	string(p, ""); /* string 0 is empty */
	put_value_type(p, PROFILE_SAMPLE_TYPE, "samples", "count");
	for (unsigned s = 0; s < STATE_COUNT; s++)
		put_value_type(p, PROFILE_SAMPLE_TYPE, state_names[s], "nanoseconds");
	/* Tools show the last type unless told otherwise: what people came to ask is where the time went. */
	put_value_type(p, PROFILE_SAMPLE_TYPE, "wall", "nanoseconds");
	put_value(&p->out, PROFILE_DEFAULT_TYPE, string(p, "wall"));
	put_value(&p->out, PROFILE_TIME, sel->from_unix_ns);
	if (sel->to_unix_ns > sel->from_unix_ns)
		put_value(&p->out, PROFILE_DURATION, sel->to_unix_ns - sel->from_unix_ns);
	put_value_type(p, PROFILE_PERIOD_TYPE, "cpu", "nanoseconds");
}

/* What the format has no field for. @texts keeps the comments until the strings are written. */
static void put_comments(struct pprof *p, const struct route_flame *flames, size_t count,
			 struct buffer *texts)
{
	put_varint(&p->list, string(p, "sonde " SONDE_VERSION));
	for (size_t i = 0; i < count; i++) {
		buffer_print(&texts[i], "sonde.requests %llu %s",
			     (unsigned long long)flames[i].requests, export_route(flames[i].route));
		buffer_add(&texts[i], "", 1);
		if (texts[i].failed)
			p->err = -ENOMEM;
		else if (flames[i].requests)
			put_varint(&p->list, string(p, texts[i].bytes));
	}
	put_message(&p->out, PROFILE_COMMENT, &p->list);
}

/* Pack @from into @out as gzip does. */
static int compress_into(struct buffer *out, const struct buffer *from)
{
	z_stream z = { .next_in = (Bytef *)from->bytes, .avail_in = (uInt)from->len };
	unsigned char *piece = malloc(64 << 10);
	int status = Z_STREAM_ERROR;

	if (piece &&
	    deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK) {
		do {
			z.next_out = piece;
			z.avail_out = 64 << 10;
			status = deflate(&z, Z_FINISH);
			buffer_add(out, piece, (64 << 10) - z.avail_out);
		} while (status == Z_OK && !out->failed);
		deflateEnd(&z);
	}
	free(piece);
	return status == Z_STREAM_END && !out->failed ? 0 : -ENOMEM;
}

static void pprof_fini(struct pprof *p)
{
	buffer_fini(&p->out);
	buffer_fini(&p->message);
	buffer_fini(&p->list);
	unique_fini(&p->strings);
	unique_fini(&p->functions);
	unique_fini(&p->mappings);
	unique_fini(&p->locations);
	free(p->limits);
	free(p->ids);
	free(p->here);
}

int export_pprof_flames(const struct route_flame *flames, size_t count, const struct selection *sel,
			struct buffer *out)
{
	struct pprof p = { .functions.bytes = sizeof(struct function),
			   .mappings.bytes = sizeof(struct mapping),
			   .locations.bytes = sizeof(struct location) };
	struct buffer *texts = calloc(count + 1, sizeof(*texts));

	if (!texts)
		return -ENOMEM;
	put_head(&p, sel);
	put_comments(&p, flames, count, texts);
	find_mappings(&p, flames, count);
	if (!p.err && p.mappings.count)
		put_mappings(&p);
	else if (!p.err && count)
		put_no_mapping(&p, flames[0].service);
	for (size_t i = 0; i < count && !p.err; i++)
		put_route(&p, &flames[i]);
	if (!p.err)
		put_tables(&p);
	if (!p.err && (p.out.failed || p.message.failed || p.list.failed))
		p.err = -ENOMEM;
	if (!p.err)
		p.err = compress_into(out, &p.out);
	pprof_fini(&p);
	for (size_t i = 0; i < count; i++)
		buffer_fini(&texts[i]);
	free(texts);
	return p.err;
}

static int write_pprof(struct store *store, const struct selection *sel, char **bytes, size_t *len)
{
	return export_trees(store, sel, export_pprof_flames, bytes, len);
}

const struct export_format export_pprof = {
	.name = "pprof",
	.content_type = "application/octet-stream",
	.suffix = ".pb.gz",
	.write = write_pprof,
};
