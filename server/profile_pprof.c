/* SPDX-License-Identifier: MIT
 *
 * Reads pprof's profile.proto, unpacked: see profile.h. By hand, not by generated code: a stream of fields needs no tree in
 * memory, and a hostile file meets nothing but this page.
 *
 * Two passes, since a sample may come before the strings, locations and functions it names.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/profile_build.h"

/* A piece of the message. */
struct pb {
	const uint8_t *at, *end;
};

struct pb_field {
	uint32_t number, type; /* type 0: value; 1 and 5: fixed, not looked at; 2: bytes */
	uint64_t value;
	struct pb bytes;
};

enum {
	PROFILE_TYPE = 1,
	PROFILE_SAMPLE = 2,
	PROFILE_LOCATION = 4,
	PROFILE_FUNCTION = 5,
	PROFILE_STRING = 6,
	PROFILE_DURATION = 10,
	PROFILE_COMMENT = 13
};
enum {
	PPROF_TYPES_MAX = 64,
	PPROF_LABELS_MAX = 256
};

/* What a value of a sample counts. */
struct pprof_type {
	uint64_t name, unit; /* strings */
	int state;           /* -1: not taken */
	uint64_t scale;      /* to ns */
};

struct pprof {
	struct profile_reader *r;
	struct pb *strings;
	size_t string_count, string_capacity;
	struct pb *locations; /* their messages */
	size_t location_count, location_capacity;
	struct map location_of; /* id -> index in locations */
	struct map function_of; /* id -> string index of its name, later of our function */
	struct pprof_type types[PPROF_TYPES_MAX];
	size_t type_count;
};

static int pb_varint(struct pb *pb, uint64_t *value)
{
	*value = 0;
	for (unsigned shift = 0; shift < 64 && pb->at < pb->end; shift += 7) {
		uint8_t byte = *pb->at++;

		*value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return 0;
	}
	return -EINVAL;
}

static int pb_skip(struct pb *pb, uint64_t bytes)
{
	if (bytes > (uint64_t)(pb->end - pb->at))
		return -EINVAL;
	pb->at += bytes;
	return 0;
}

/* The next field: 1, 0 at the end, or -EINVAL. */
static int pb_next(struct pb *pb, struct pb_field *field)
{
	uint64_t key, length;

	if (pb->at == pb->end)
		return 0;
	if (pb_varint(pb, &key) < 0 || key >> 3 == 0 || key >> 3 > UINT32_MAX)
		return -EINVAL;
	*field = (struct pb_field){ .number = (uint32_t)(key >> 3), .type = key & 7 };
	switch (field->type) {
	case 0:
		return pb_varint(pb, &field->value) < 0 ? -EINVAL : 1;
	case 1:
		return pb_skip(pb, 8) < 0 ? -EINVAL : 1;
	case 2:
		if (pb_varint(pb, &length) < 0)
			return -EINVAL;
		field->bytes.at = pb->at;
		if (pb_skip(pb, length) < 0)
			return -EINVAL;
		field->bytes.end = pb->at;
		return 1;
	case 5:
		return pb_skip(pb, 4) < 0 ? -EINVAL : 1;
	default:
		return -EINVAL;
	}
}

/* The next value of a repeated integer that may come packed: @field is its current field. As pb_next(). */
static int pb_repeated(struct pb_field *field, uint64_t *value)
{
	if (field->type == 0) {
		field->type = 1; /* taken */
		*value = field->value;
		return 1;
	}
	if (field->type != 2 || field->bytes.at == field->bytes.end)
		return 0;
	return pb_varint(&field->bytes, value) < 0 ? -EINVAL : 1;
}

static int pprof_damaged(struct pprof *p)
{
	return profile_fail(
		p->r, -EINVAL,
		"it is no profile that sonde knows: not pprof, folded stacks or a report");
}

static int pprof_append(struct pprof *p, struct pb **array, size_t *count, size_t *capacity,
			struct pb piece)
{
	if (*count == *capacity) {
		size_t wanted = *capacity ? 2 * *capacity : 256;
		struct pb *larger = reallocarray(*array, wanted, sizeof(*larger));

		if (!larger)
			return profile_fail(p->r, -ENOMEM, "out of memory");
		*array = larger;
		*capacity = wanted;
	}
	(*array)[(*count)++] = piece;
	return 0;
}

static struct pb pprof_string(const struct pprof *p, uint64_t index)
{
	static const uint8_t nothing[1];

	return index < p->string_count ? p->strings[index] : (struct pb){ nothing, nothing };
}

static bool pprof_string_is(const struct pprof *p, uint64_t index, const char *text)
{
	struct pb s = pprof_string(p, index);
	size_t length = (size_t)(s.end - s.at);

	return strlen(text) == length && memcmp(s.at, text, length) == 0;
}

/* The first two numbers of a small message: fields @a and @b. */
static int pprof_pair(struct pb pb, uint32_t a, uint64_t *first, uint32_t b, uint64_t *second)
{
	struct pb_field field;
	int status;

	*first = *second = 0;
	while ((status = pb_next(&pb, &field)) > 0) {
		if (field.type == 0 && field.number == a)
			*first = field.value;
		if (field.type == 0 && field.number == b)
			*second = field.value;
	}
	return status;
}

/* First pass: remember strings and locations, map functions to the strings of their names. */
static int pprof_collect(struct pprof *p, const struct pb_field *field)
{
	uint64_t id, name, ignored;

	switch (field->number) {
	case PROFILE_TYPE:
		if (p->type_count == PPROF_TYPES_MAX)
			return profile_fail(p->r, -E2BIG, "it has more than %d sample types",
					    PPROF_TYPES_MAX);
		if (pprof_pair(field->bytes, 1, &p->types[p->type_count].name, 2,
			       &p->types[p->type_count].unit) < 0)
			return pprof_damaged(p);
		p->type_count++;
		return 0;
	case PROFILE_STRING:
		return pprof_append(p, &p->strings, &p->string_count, &p->string_capacity,
				    field->bytes);
	case PROFILE_LOCATION:
		if (pprof_pair(field->bytes, 1, &id, 0, &ignored) < 0)
			return pprof_damaged(p);
		if (!map_set(&p->location_of, id, (uint32_t)p->location_count))
			return profile_fail(p->r, -ENOMEM, "out of memory");
		return pprof_append(p, &p->locations, &p->location_count, &p->location_capacity,
				    field->bytes);
	case PROFILE_FUNCTION:
		if (pprof_pair(field->bytes, 1, &id, 2, &name) < 0 || name >= UINT32_MAX)
			return pprof_damaged(p);
		if (!map_set(&p->function_of, id, (uint32_t)name))
			return profile_fail(p->r, -ENOMEM, "out of memory");
		return 0;
	default:
		return 0;
	}
}

static uint64_t pprof_scale(const struct pprof *p, uint64_t unit)
{
	return pprof_string_is(p, unit, "nanoseconds")    ? 1
	       : pprof_string_is(p, unit, "microseconds") ? 1000
	       : pprof_string_is(p, unit, "milliseconds") ? 1000000
	       : pprof_string_is(p, unit, "seconds")      ? 1000000000
							  : 0;
}

/* Which values to take: our states when they are there, otherwise the last one that is a time. */
static int pprof_choose_types(struct pprof *p)
{
	size_t last = SIZE_MAX;

	for (size_t i = 0; i < p->type_count; i++) {
		struct pprof_type *type = &p->types[i];
		struct pb name = pprof_string(p, type->name);

		type->state = -1;
		type->scale = pprof_scale(p, type->unit);
		if (type->scale == 0)
			continue;
		last = i;
		type->state = profile_state((const char *)name.at, (size_t)(name.end - name.at));
		/* Go's own CPU profiles call their only time "cpu". */
		if (type->state >= 0 && type->state != STATE_CPU)
			p->r->profile->has_states = true;
	}
	if (last == SIZE_MAX)
		return profile_fail(p->r, -EINVAL, "it counts no time, only samples or bytes");
	for (size_t i = 0; i < p->type_count; i++)
		if (p->types[i].state >= 0)
			return 0;
	p->types[last].state = STATE_OTHER;
	return 0;
}

/* Push the functions of location @id, innermost first. */
static int pprof_push_location(struct pprof *p, uint64_t id)
{
	uint32_t index = map_get(&p->location_of, id);
	struct pb_field field;
	bool any = false;
	struct pb pb;
	int status;

	if (index == MAP_NONE)
		return pprof_damaged(p);
	pb = p->locations[index];
	while ((status = pb_next(&pb, &field)) > 0) {
		uint64_t function, ignored;
		uint32_t known;

		if (field.number != 4 || field.type != 2)
			continue;
		if (pprof_pair(field.bytes, 1, &function, 0, &ignored) < 0)
			return pprof_damaged(p);
		known = map_get(&p->function_of, function);
		if (known == MAP_NONE)
			return pprof_damaged(p);
		status = profile_stack_push(p->r, known);
		if (status < 0)
			return status;
		any = true;
	}
	if (status < 0)
		return pprof_damaged(p);
	if (!any) { /* an address without a symbol */
		int64_t function = profile_function(p->r, "?", 1);

		status =
			function < 0 ? (int)function : profile_stack_push(p->r, (uint32_t)function);
	}
	return status;
}

/* Replace the strings of function names by our functions' indices. */
static int pprof_intern_functions(struct pprof *p)
{
	for (size_t i = 0; i < p->function_of.size; i++) {
		struct pb name;
		int64_t function;

		if (p->function_of.entries[i].value == MAP_NONE)
			continue;
		name = pprof_string(p, p->function_of.entries[i].value);
		function = profile_function(p->r, name.at == name.end ? "?" : (const char *)name.at,
					    name.at == name.end ? 1 : (size_t)(name.end - name.at));
		if (function < 0)
			return (int)function;
		p->function_of.entries[i].value = (uint32_t)function;
	}
	return 0;
}

struct pprof_sample {
	uint64_t values[PPROF_TYPES_MAX];
	size_t value_count;
	struct pb route;
	bool wanted;
};

static int pprof_label(struct pprof *p, struct pprof_sample *sample, struct pb label)
{
	const struct profile_filter *filter = p->r->filter;
	uint64_t key, text;
	struct pb value;

	if (pprof_pair(label, 1, &key, 2, &text) < 0)
		return pprof_damaged(p);
	value = pprof_string(p, text);
	if (pprof_string_is(p, key, "route"))
		sample->route = value;
	if (filter && filter->service && pprof_string_is(p, key, "service") &&
	    !pprof_string_is(p, text, filter->service))
		sample->wanted = false;
	return 0;
}

/* Take a sample apart: its stack is pushed, its values and labels go to @sample. */
static int pprof_sample_fields(struct pprof *p, struct pb pb, struct pprof_sample *sample)
{
	struct pb_field field;
	uint64_t value;
	int status, more;

	while ((status = pb_next(&pb, &field)) > 0) {
		if (field.number == 3 && field.type == 2) {
			status = pprof_label(p, sample, field.bytes);
		} else if (field.number == 1 || field.number == 2) {
			while ((more = pb_repeated(&field, &value)) > 0 && status >= 0) {
				if (field.number == 1)
					status = pprof_push_location(p, value);
				else if (sample->value_count < p->type_count)
					sample->values[sample->value_count++] = value;
			}
			if (more < 0)
				return pprof_damaged(p);
		}
		if (status < 0)
			return status;
	}
	return status < 0 ? pprof_damaged(p) : 0;
}

static int pprof_sample(struct pprof *p, struct pb pb)
{
	struct pprof_sample sample = { .route = pprof_string(p, UINT64_MAX), .wanted = true };
	int64_t route;
	int status;

	profile_stack_begin(p->r);
	status = pprof_sample_fields(p, pb, &sample);
	if (status < 0)
		return status;
	if (!sample.wanted || !profile_wants_route(p->r, (const char *)sample.route.at,
						   (size_t)(sample.route.end - sample.route.at)))
		return 0;
	route = profile_route(p->r, (const char *)sample.route.at,
			      (size_t)(sample.route.end - sample.route.at));
	if (route < 0)
		return (int)route;
	for (size_t i = 0; i < sample.value_count; i++) {
		const struct pprof_type *type = &p->types[i];
		uint64_t value = sample.values[i];

		if (type->state < 0 || value == 0 ||
		    !profile_wants_state(p->r, (unsigned)type->state))
			continue;
		if (value > INT64_MAX)
			return profile_fail(p->r, -EINVAL,
					    "it holds negative times: a difference, not a profile");
		value = value > INT64_MAX / type->scale ? INT64_MAX : value * type->scale;
		status = profile_stack_count(p->r, (uint32_t)route, (unsigned)type->state, value);
		if (status < 0)
			return status;
	}
	return 0;
}

/* Second pass, when all names are known. */
static int pprof_take(struct pprof *p, struct pb_field *field)
{
	uint64_t index;
	int status;

	if (field->number == PROFILE_SAMPLE && field->type == 2)
		return pprof_sample(p, field->bytes);
	if (field->number == PROFILE_DURATION && field->type == 0 && field->value <= INT64_MAX)
		p->r->profile->duration_ns = field->value;
	if (field->number != PROFILE_COMMENT)
		return 0;
	while ((status = pb_repeated(field, &index)) > 0) {
		struct pb text = pprof_string(p, index);

		status = profile_comment(p->r, (const char *)text.at, (size_t)(text.end - text.at));
		if (status < 0)
			return status;
	}
	return status < 0 ? pprof_damaged(p) : 0;
}

static int pprof_pass(struct pprof *p, struct pb pb, bool second)
{
	struct pb_field field;
	int status;

	while ((status = pb_next(&pb, &field)) > 0) {
		if (second)
			status = pprof_take(p, &field);
		else if (field.type == 2)
			status = pprof_collect(p, &field);
		if (status < 0)
			return status;
	}
	return status < 0 ? pprof_damaged(p) : 0;
}

int profile_read_pprof(struct profile_reader *r, const uint8_t *data, size_t size)
{
	struct pb pb = { data, data + size };
	struct pprof p = { .r = r };
	int status = pprof_pass(&p, pb, false);

	if (status == 0 && (p.string_count == 0 || p.type_count == 0))
		status = pprof_damaged(&p);
	if (status == 0)
		status = pprof_choose_types(&p);
	if (status == 0)
		status = pprof_intern_functions(&p);
	if (status == 0)
		status = pprof_pass(&p, pb, true);
	free(p.strings);
	free(p.locations);
	map_fini(&p.location_of);
	map_fini(&p.function_of);
	return status;
}
