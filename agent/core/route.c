/* SPDX-License-Identifier: MIT
 *
 * From method and path to a bounded set of routes; the header tells the rules. Three tables, all of fixed size:
 *
 *	routes      id -> name; slots[] finds a name by its hash. Grows to ROUTE_IDS_MAX, never shrinks.
 *	nodes       the tree of all prefixes, as a set of hashes with a count of children: where to say {*}.
 *	candidates  what falls into (other), as Space-Saving counts it: a newcomer takes the place of the coldest and inherits its
 *	            count as its possible error, so what is above the error is sure.
 *
 * Agent's thread only.
 */
#include "agent/core/route.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "agent/hook/http.h"

enum {
	SLOTS = 2 * ROUTE_IDS_MAX,
	NODES_MIN = 4096,
	NODES_PER_ROUTE = 16,                          /* its segments, and those of candidates */
	TEMPLATE_MAX = ROUTE_NAME_MAX - sizeof("/**"), /* leaves room for more segments' stand-in */
	HEAT = 16, /* of one request; a tick takes a sixteenth */
};

struct route {
	char *name;
	uint64_t hash;
	uint64_t heat;
	bool live;
	bool api;
};

struct node {
	uint64_t key; /* 0: free */
	uint64_t children;
};

/* A string in the making. */
struct text {
	size_t len;
	char at[ROUTE_NAME_MAX];
};

struct candidate {
	uint64_t hash; /* 0: free */
	uint64_t heat;
	uint64_t error;
	struct text name;
};

/* Which route a request line was the last time: most servers are asked for the same paths over and over. */
enum {
	SEEN = 128,
	SEEN_BYTES = 60
};
struct seen_line {
	uint16_t id; /* 0: free */
	uint8_t method_len, path_len;
	char text[SEEN_BYTES];
};

struct route_table {
	unsigned cap;
	unsigned live;
	unsigned count;
	uint64_t refused;
	uint64_t coldest; /* no live route is colder; 0 when not known */
	unsigned nodes_used;
	unsigned nodes_room; /* a power of two */
	bool nodes_refused;
	struct route routes[ROUTE_IDS_MAX]; /* id - 1 */
	uint32_t slots[SLOTS];              /* id, 0: free */
	struct candidate candidates[ROUTE_CANDIDATES];
	struct seen_line seen[SEEN];
	struct node nodes[]; /* nodes_room */
};

/* ---- Text ---- */

/* Append, or leave as it is and return false. */
static bool append(struct text *t, const char *data, size_t len)
{
	if (len > sizeof(t->at) - 1 - t->len)
		return false;
	memcpy(t->at + t->len, data, len);
	t->len += len;
	t->at[t->len] = '\0';
	return true;
}

static bool append_string(struct text *t, const char *string)
{
	return append(t, string, strlen(string));
}

/* The length of the UTF-8 sequence at @p, 0 when it is none or would not show: controls, and what turns text around. */
static size_t visible_sequence(const unsigned char *p, size_t len)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	uint32_t c = n == 1 ? p[0] : n == 2 ? p[0] & 0x1fu : n == 3 ? p[0] & 0xfu : p[0] & 7u;

	if (n == 0 || n > len || p[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3fu);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return 0;
	if (c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x2028 && c <= 0x202e) ||
	    (c >= 0x200b && c <= 0x200f) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff)
		return 0;
	return n;
}

/* Append what can be shown, the rest percent-encoded, and @also with it. False when it did not fit whole. */
static bool append_visible(struct text *t, const char *data, size_t len, const char *also)
{
	static const char hex[] = "0123456789ABCDEF";

	for (size_t i = 0; i < len;) {
		unsigned char c = (unsigned char)data[i];
		size_t n = strchr(also, c)
				   ? 0
				   : visible_sequence((const unsigned char *)data + i, len - i);
		const char escaped[3] = { '%', hex[c >> 4], hex[c & 15] };

		if (!(n ? append(t, data + i, n) : append(t, escaped, 3)))
			return false;
		i += n ? n : 1;
	}
	return true;
}

/* ---- Templates ---- */

enum class {
	DIGIT = 1 << 0,
	HEX = 1 << 1,    /* a letter */
	LETTER = 1 << 2, /* another */
	DASH = 1 << 3,   /* may stand in numbers and tokens */
	LIST = 1 << 4,   /* may stand between numbers */
	DOT = 1 << 5,
	TOKEN = 1 << 6, /* may stand in tokens */
	PLAIN = 1 << 7,
	HIDDEN = 1 << 8, /* must not stand in a name as it is */
};

/* clang-format off */
static const uint16_t class_of[256] = {
	[0 ... 0x20] = HIDDEN,
	['!'] = PLAIN, ['"'] = PLAIN, ['#'] = PLAIN, ['$'] = PLAIN, ['&'] = PLAIN, ['\''] = PLAIN,
	['('] = PLAIN, [')'] = PLAIN, ['*'] = PLAIN, ['/'] = PLAIN, ['<'] = PLAIN, ['>'] = PLAIN,
	['?'] = PLAIN, ['@'] = PLAIN, ['['] = PLAIN, ['\\'] = PLAIN, [']'] = PLAIN, ['^'] = PLAIN,
	['`'] = PLAIN, ['|'] = PLAIN,
	['%'] = TOKEN, ['_'] = TOKEN, ['='] = TOKEN, ['~'] = TOKEN,
	['-'] = DASH, ['+'] = DASH, ['.'] = DOT, [','] = LIST, [':'] = LIST, [';'] = LIST,
	['0' ... '9'] = DIGIT,
	['a' ... 'f'] = HEX, ['A' ... 'F'] = HEX,
	['g' ... 'z'] = LETTER, ['G' ... 'Z'] = LETTER,
	['{'] = HIDDEN, ['}'] = HIDDEN,
	[0x7f ... 0xff] = HIDDEN,
};
/* clang-format on */

struct segment {
	const char *at;
	size_t len;
	unsigned seen; /* the classes of its bytes */
};

static struct segment segment_of(const char *at, size_t len)
{
	struct segment s = { at, len, 0 };

	for (size_t i = 0; i < len; i++)
		s.seen |= class_of[(unsigned char)at[i]];
	return s;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* 'd' a digit, 'x' a hexadecimal one, else itself. */
static bool matches(const char *at, const char *pattern)
{
	for (; *pattern; at++, pattern++) {
		unsigned class = class_of[(unsigned char)*at];
		bool good = *pattern == 'd'   ? class == DIGIT
			    : *pattern == 'x' ? class == DIGIT || class == HEX
					      : *at == *pattern;

		if (!good)
			return false;
	}
	return true;
}

static bool is_number(const struct segment *s)
{
	bool sign = s->seen & DASH && !is_digit(s->at[0]);

	if (s->seen & ~(unsigned)(DIGIT | DASH | LIST | DOT))
		return false;
	return is_digit(s->at[sign]) && is_digit(s->at[s->len - 1]);
}

static bool is_date(const struct segment *s)
{
	int month;

	if (s->len < 7 || !matches(s->at, "dddd-dd") || (s->at[0] != '1' && s->at[0] != '2'))
		return false;
	month = (s->at[5] - '0') * 10 + s->at[6] - '0';
	if (month < 1 || month > 12)
		return false;
	if (s->len == 7)
		return true;
	if (s->len < 10 || !matches(s->at + 7, "-dd") || s->at[8] > '3')
		return false;
	return s->len == 10 || (s->len >= 13 && matches(s->at + 10, "Tdd"));
}

static bool is_hex(const struct segment *s)
{
	if (s->len >= 3 && s->at[0] == '0' && (s->at[1] | 0x20) == 'x') {
		struct segment rest = segment_of(s->at + 2, s->len - 2);

		return !(rest.seen & ~(unsigned)(DIGIT | HEX));
	}
	return s->len >= 8 && !(s->seen & ~(unsigned)(DIGIT | HEX)) && (s->seen & HEX);
}

/* Lower, upper, digit, or none of them: random text changes between them all the time, words and their numbers do not. */
static int kind_of(char c)
{
	return is_digit(c) ? 3 : c >= 'a' && c <= 'z' ? 2 : c >= 'A' && c <= 'Z' ? 1 : 0;
}

static bool is_token(const struct segment *s)
{
	bool jwt = s->len >= 20 && memcmp(s->at, "eyJ", 3) == 0;
	size_t changes = 0, digits = 0, len = 0;
	int last = 0;

	if (s->len < 20 || !(s->seen & (HEX | LETTER)) || (s->seen & (PLAIN | HIDDEN | LIST)) ||
	    ((s->seen & DOT) && !jwt))
		return false;
	for (size_t i = 0; i < s->len; i++, len++) {
		int kind = kind_of(s->at[i]);

		if (s->at[i] == '%') /* its two digits are no part of the word */
			i += 2;
		digits += kind == 3;
		changes += last && kind && last != kind &&
			   !(last == 1 && kind == 2); /* "Aa": a word */
		last = kind;
	}
	return jwt || (len >= 20 && (digits >= 6 || changes * 5 >= len));
}

/* What a whole segment, or the stem of a file's name, stands for; NULL for itself. */
static const char *placeholder(const struct segment *s)
{
	if (!(s->seen & DIGIT))
		return NULL;
	if (is_date(s))
		return "{date}";
	if (is_number(s))
		return "{n}";
	if (s->len == 36 && matches(s->at, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"))
		return "{uuid}";
	if (is_hex(s))
		return "{hex}";
	return is_token(s) ? "{token}" : NULL;
}

/* Where the extension of a file's name begins, with its dot; the segment's end when it has none. */
static size_t stem_len(const struct segment *s)
{
	size_t i = s->len;

	while (i > 0 && s->len - i < 8 &&
	       (class_of[(unsigned char)s->at[i - 1]] & (DIGIT | HEX | LETTER)))
		i--;
	if (i < 2 || i == s->len || s->at[i - 1] != '.' || is_digit(s->at[i]))
		return s->len;
	return i - 1;
}

static bool append_literal(struct text *t, const struct segment *s)
{
	if (s->seen & HIDDEN)
		return append_visible(t, s->at, s->len, "{} ");
	return append(t, s->at, s->len);
}

/* A file's name: 12345.png, or with a fingerprint of what is inside, app.3f2a9c1b.js. */
static bool append_file(struct text *t, const struct segment *s, size_t stem)
{
	struct segment head = segment_of(s->at, stem), print;
	struct segment extension = segment_of(s->at + stem, s->len - stem);
	const char *word = placeholder(&head);
	size_t i = stem;

	if (!word) {
		while (i > 0 && (class_of[(unsigned char)s->at[i - 1]] & (DIGIT | HEX)))
			i--;
		print = segment_of(s->at + i, stem - i);
		if (i < 2 || !(print.seen & DIGIT) || !is_hex(&print) ||
		    !strchr(".-_", s->at[i - 1]))
			return append_literal(t, s);
		head = segment_of(s->at, i);
		word = "{hex}";
		if (!append_literal(t, &head))
			return false;
	}
	return append_string(t, word) && append_literal(t, &extension);
}

static bool append_segment(struct text *t, const char *at, size_t len)
{
	struct segment s = segment_of(at, len);
	const char *word = placeholder(&s);
	size_t stem;

	if (word)
		return append_string(t, word);
	if ((s.seen & (DIGIT | DOT)) == (DIGIT | DOT) && (stem = stem_len(&s)) < len)
		return append_file(t, &s, stem);
	return append_literal(t, &s);
}

static void append_method(struct text *t, const char *method)
{
	size_t start = t->len;

	for (; *method && t->len - start < HTTP_METHOD_MAX; method++) {
		if ((class_of[(unsigned char)*method] & (DIGIT | HEX | LETTER)) ||
		    strchr("!#$%&'*+-.^_`|~", *method))
			append(t, method, 1);
	}
	append_string(t, t->len == start ? "- " : " ");
}

/* Cut @t at @len and let "**" stand for what would follow. It fits: every caller left room for it. */
static void append_rest(struct text *t, size_t len)
{
	t->len = len;
	append_string(t, t->len && t->at[t->len - 1] == '/' ? "**" : "/**");
}

static void template_of(struct text *t, const char *method, const char *path)
{
	size_t len = strlen(path);
	bool cut = len >= HTTP_PATH_MAX - 1;
	const char *at = path, *end = path + (cut ? HTTP_PATH_MAX - 1 : len);

	t->len = 0;
	append_method(t, method);
	if (len == 0)
		append(t, "/", 1);
	for (unsigned depth = 0; at < end; depth++) {
		size_t start = t->len;
		const char *slash;

		if (*at == '/') {
			append(t, "/", 1);
			at++;
		}
		slash = memchr(at, '/', (size_t)(end - at));
		if (!slash)
			slash = end;
		if (depth == ROUTE_SEGMENTS_MAX || (cut && slash == end) ||
		    !append_segment(t, at, (size_t)(slash - at)) || t->len > TEMPLATE_MAX) {
			append_rest(t, start);
			return;
		}
		at = slash;
	}
}

/* ---- The tree of prefixes ---- */

static uint64_t mix(uint64_t h)
{
	h *= 0x9e3779b97f4a7c15u;
	return h ^ h >> 29;
}

static uint64_t hash_of(uint64_t seed, const char *at, size_t len)
{
	uint64_t h = mix(seed + len + 1), word;

	for (; len >= sizeof(word); at += sizeof(word), len -= sizeof(word)) {
		memcpy(&word, at, sizeof(word));
		h = mix(h ^ word);
	}
	word = 0;
	memcpy(&word, at, len);
	h = mix(mix(h ^ word));
	return h ? h : 1;
}

/* The node of @key, or the free place for it. There always is one. */
static struct node *node_find(struct route_table *t, uint64_t key)
{
	size_t i = key % t->nodes_room;

	while (t->nodes[i].key && t->nodes[i].key != key)
		i = (i + 1) % t->nodes_room;
	return &t->nodes[i];
}

/* True when it is there now. */
static bool node_add(struct route_table *t, uint64_t key, uint64_t children)
{
	struct node *node = node_find(t, key);

	if (!node->key) {
		if (t->nodes_used >= t->nodes_room / 4 * 3) {
			t->nodes_refused = true;
			return false;
		}
		node->key = key;
		t->nodes_used++;
	}
	node->children += children;
	return true;
}

/* The segments of a template, one after the other. */
struct walk {
	const char *at; /* the segment */
	size_t len;
	uint64_t parent; /* key of what stands before it */
	uint64_t key;    /* ... and with it */
	unsigned depth;
	const char *next;
	const char *end;
};

static void walk_begin(struct walk *w, const struct text *name)
{
	const char *space = memchr(name->at, ' ', name->len);

	w->end = name->at + name->len;
	w->next = space ? space + 1 : w->end;
	w->depth = 0;
	w->key = hash_of(1, name->at, (size_t)(w->next - name->at));
}

static bool walk_next(struct walk *w)
{
	const char *slash;

	if (w->next >= w->end)
		return false;
	w->at = w->next + (*w->next == '/');
	slash = memchr(w->at, '/', (size_t)(w->end - w->at));
	w->next = slash ? slash : w->end;
	w->len = (size_t)(w->next - w->at);
	w->parent = w->key;
	w->key = hash_of(w->parent, w->at, w->len);
	w->depth++;
	return true;
}

static bool is_wildcard(const char *at, size_t len)
{
	return (len > 0 && at[0] == '{') || (len == 2 && memcmp(at, "**", 2) == 0);
}

static unsigned siblings_max(const struct walk *w)
{
	return w->depth == 1 ? ROUTE_TOP_MAX : ROUTE_SIBLINGS_MAX;
}

/* Let the tree know @name's segments. */
static void plant(struct route_table *t, const struct text *name)
{
	struct walk w;

	walk_begin(&w, name);
	while (walk_next(&w)) {
		uint64_t siblings = is_wildcard(w.at, w.len) ? 0 : 1;

		if (node_find(t, w.key)->key)
			continue;
		/* a parent that has a {*} keeps it, however few names are left */
		if (w.len == 3 && memcmp(w.at, "{*}", 3) == 0)
			siblings = siblings_max(&w);
		if (!node_add(t, w.key, 0) || (siblings && !node_add(t, w.parent, siblings)))
			return;
	}
}

/* Put {*} where a parent has too many names to take another. False when nothing changed. */
static bool collapse(struct route_table *t, const struct text *name, struct text *out)
{
	struct walk w;
	bool changed = false;

	walk_begin(&w, name);
	out->len = 0;
	append(out, name->at, (size_t)(w.next - name->at));
	while (walk_next(&w)) {
		size_t start = out->len;

		if (w.at[-1] == '/')
			append(out, "/", 1);
		if (!is_wildcard(w.at, w.len) && !node_find(t, w.key)->key &&
		    node_find(t, w.parent)->children >= siblings_max(&w)) {
			changed = true;
			w.at = "{*}";
			w.len = 3;
			w.key = hash_of(w.parent, w.at, w.len);
		}
		if (!append(out, w.at, w.len) || out->len > TEMPLATE_MAX) {
			append_rest(out, start);
			break;
		}
	}
	return changed;
}

/* Begin the tree anew with what is a route now: candidates' prefixes have filled it. */
static void replant(struct route_table *t)
{
	memset(t->nodes, 0, t->nodes_room * sizeof(*t->nodes));
	t->nodes_used = 0;
	t->nodes_refused = false;
	for (unsigned i = ROUTE_UNMATCHED; i < t->count; i++) {
		const struct route *route = &t->routes[i];
		struct text name = { .len = 0 };

		if (route->live && !route->api && append_string(&name, route->name))
			plant(t, &name);
	}
}

/* ---- The table ---- */

/* The slot of the route called @name, or the free one for it. */
static uint32_t *slot_find(struct route_table *t, const struct text *name, uint64_t hash)
{
	size_t i = hash % SLOTS;

	while (t->slots[i]) {
		const struct route *route = &t->routes[t->slots[i] - 1];

		if (route->hash == hash && strcmp(route->name, name->at) == 0)
			break;
		i = (i + 1) % SLOTS;
	}
	return &t->slots[i];
}

static uint64_t name_hash(const struct text *name)
{
	return hash_of(0, name->at, name->len);
}

/* Give @name its id, the old one if it had one; 0 when ids or memory ran out. */
static uint32_t admit(struct route_table *t, const struct text *name, uint64_t hash, uint64_t heat,
		      bool api)
{
	uint32_t *slot = slot_find(t, name, hash);
	struct route *route;

	if (!*slot) {
		char *copy = t->count < ROUTE_IDS_MAX ? strdup(name->at) : NULL;

		if (!copy)
			return 0;
		route = &t->routes[t->count++];
		route->name = copy;
		route->hash = hash;
		route->api = api;
		*slot = t->count;
	}
	route = &t->routes[*slot - 1];
	route->heat = heat;
	route->live = true;
	t->live++;
	t->coldest = 0;
	if (!api)
		plant(t, name);
	return *slot;
}

/* The place of @name among the candidates, made if there was none. */
static struct candidate *candidate_of(struct route_table *t, const struct text *name, uint64_t hash,
				      bool api)
{
	struct candidate *coldest = t->candidates;

	for (struct candidate *c = t->candidates; c < t->candidates + ROUTE_CANDIDATES; c++) {
		if (c->hash == hash && strcmp(c->name.at, name->at) == 0)
			return c;
		if (c->heat < coldest->heat)
			coldest = c;
	}
	coldest->hash = hash;
	coldest->error = coldest->heat;
	coldest->name = *name;
	if (!api)
		plant(t, name);
	return coldest;
}

static struct route *coldest_route(struct route_table *t)
{
	struct route *coldest = NULL;

	for (unsigned i = ROUTE_UNMATCHED; i < t->count; i++) {
		struct route *route = &t->routes[i];

		if (route->live && (!coldest || route->heat < coldest->heat))
			coldest = route;
	}
	return coldest;
}

/* The table is full: count @name, and give it a colder route's place when it has earned it. */
static uint32_t contend(struct route_table *t, const struct text *name, uint64_t hash, bool api)
{
	struct candidate *c = candidate_of(t, name, hash, api);
	struct route *coldest;
	uint64_t sure;
	uint32_t id;

	c->heat += HEAT;
	sure = c->heat - c->error;
	if (t->count == ROUTE_IDS_MAX && !*slot_find(t, name, hash))
		return 0;
	if (sure < ROUTE_HOT_MIN * HEAT || sure <= t->coldest || !(coldest = coldest_route(t)))
		return 0;
	t->coldest = coldest->heat;
	if (sure <= coldest->heat || !(id = admit(t, name, hash, sure, api)))
		return 0;
	coldest->live = false;
	t->live--;
	memset(c, 0, sizeof(*c));
	return id;
}

static uint32_t lookup(struct route_table *t, const struct text *name, uint64_t hash)
{
	uint32_t id = *slot_find(t, name, hash);

	if (!id || !t->routes[id - 1].live)
		return 0;
	t->routes[id - 1].heat += HEAT;
	return id;
}

/* @name is not a live route: make it one, or "(other)". */
static uint32_t newcomer(struct route_table *t, const struct text *name, uint64_t hash, bool api)
{
	uint32_t id =
		t->live < t->cap ? admit(t, name, hash, HEAT, api) : contend(t, name, hash, api);

	if (id)
		return id;
	t->refused++;
	return ROUTE_OTHER;
}

/* The place for a request line, NULL when it is too long for one; @same: it is there already. */
static struct seen_line *seen_line(struct route_table *t, const char *method, const char *path,
				   bool *same)
{
	size_t method_len = strlen(method), path_len = strlen(path);
	uint64_t first = 0, last = 0;
	struct seen_line *s;

	if (method_len + path_len > SEEN_BYTES)
		return NULL;
	memcpy(&first, path, path_len < 8 ? path_len : 8);
	if (path_len >= 8)
		memcpy(&last, path + path_len - 8, 8);
	s = &t->seen[mix(first ^ mix(last + path_len + method_len)) % SEEN];
	*same = s->id && s->method_len == method_len && s->path_len == path_len &&
		memcmp(s->text, method, method_len) == 0 &&
		memcmp(s->text + method_len, path, path_len) == 0;
	if (!*same) {
		*s = (struct seen_line){ .method_len = (uint8_t)method_len,
					 .path_len = (uint8_t)path_len };
		memcpy(s->text, method, method_len);
		memcpy(s->text + method_len, path, path_len);
	}
	return s;
}

uint32_t route_from_http(struct route_table *t, const char *method, const char *path,
			 unsigned status)
{
	struct text name, collapsed;
	uint64_t hash;
	uint32_t id;
	bool same;
	struct seen_line *seen = seen_line(t, method, path, &same);

	if (seen && same && t->routes[seen->id - 1].live) {
		t->routes[seen->id - 1].heat += HEAT;
		return seen->id;
	}
	template_of(&name, method, path);
	hash = name_hash(&name);
	id = lookup(t, &name, hash);
	if (id) {
		/* a template is its line's alone, whatever the tree learns: this stays true while the route lives */
		if (seen)
			seen->id = (uint16_t)id;
		return id;
	}
	if (collapse(t, &name, &collapsed)) {
		name = collapsed;
		hash = name_hash(&name);
		id = lookup(t, &name, hash);
		if (id)
			return id;
	}
	if (status == 404 && !*slot_find(t, &name, hash))
		return ROUTE_UNMATCHED;
	return newcomer(t, &name, hash, false);
}

uint32_t route_from_name(struct route_table *t, const char *name)
{
	struct text text = { .len = 0 };
	uint64_t hash;
	uint32_t id;

	append_visible(&text, name, strnlen(name, ROUTE_NAME_MAX - 1), "");
	if (text.len == 0)
		append_string(&text, "(unnamed)");
	hash = name_hash(&text);
	id = lookup(t, &text, hash);
	return id ? id : newcomer(t, &text, hash, true);
}

void route_table_tick(struct route_table *t)
{
	for (unsigned i = 0; i < t->count; i++)
		t->routes[i].heat -= (t->routes[i].heat + HEAT - 1) / HEAT;
	for (unsigned i = 0; i < ROUTE_CANDIDATES; i++) {
		struct candidate *c = &t->candidates[i];

		c->heat -= (c->heat + HEAT - 1) / HEAT;
		c->error -= (c->error + HEAT - 1) / HEAT;
		if (c->heat == 0)
			c->hash = 0;
	}
	t->coldest = 0;
	if (t->nodes_refused)
		replant(t);
}

struct route_table *route_table_create(unsigned cap)
{
	static const char *const given[] = { "(other)", "(unmatched 404)" };
	struct route_table *t;
	unsigned nodes = NODES_MIN;

	if (cap > ROUTE_IDS_MAX - ROUTE_UNMATCHED)
		cap = ROUTE_IDS_MAX - ROUTE_UNMATCHED;
	while (nodes < cap * NODES_PER_ROUTE)
		nodes *= 2;
	t = calloc(1, sizeof(*t) + nodes * sizeof(*t->nodes));
	if (!t)
		return NULL;
	t->cap = cap;
	t->nodes_room = nodes;
	for (unsigned i = 0; i < ROUTE_UNMATCHED; i++) {
		struct text name = { .len = 0 };

		append_string(&name, given[i]);
		if (!admit(t, &name, name_hash(&name), 0, true)) {
			route_table_destroy(t);
			return NULL;
		}
		t->routes[i].api = false;
	}
	t->live = 0; /* these two are outside the cap */
	return t;
}

void route_table_destroy(struct route_table *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < t->count; i++)
		free(t->routes[i].name);
	free(t);
}

const char *route_name(const struct route_table *t, uint32_t id)
{
	return id && id <= t->count ? t->routes[id - 1].name : NULL;
}

const char *route_source(const struct route_table *t, uint32_t id)
{
	if (!id || id > t->count)
		return NULL;
	return t->routes[id - 1].api ? "api" : "http";
}

unsigned route_count(const struct route_table *t)
{
	return t->count;
}

uint64_t route_refused(const struct route_table *t)
{
	return t->refused;
}
