/* SPDX-License-Identifier: MIT
 *
 * The HTTP parser and the route table. An input's first byte says what the rest is, the second how it is cut:
 *
 *	q  requests     r  responses     h  responses, the first to HEAD     c  ... to CONNECT     t  lines: what, path
 *
 * A stream is read whole and in pieces: both must tell the same events at the same places. Then some pieces pass unseen, and
 * nothing may break.
 */
#include "agent/core/route.h"
#include "agent/hook/http.h"
#include "tests/fuzz/replay.h"

enum {
	EVENTS_MAX = 4096
};

struct told {
	enum http_event event;
	size_t at;
	unsigned status; /* or a request's head, added up */
};

struct run {
	char what;
	uint32_t seed; /* 0: whole */
	bool blind;    /* some pieces are not shown */
	size_t count;
	struct told told[EVENTS_MAX];
};

static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 16;
}

static unsigned sum_of(const struct http_head *head)
{
	const uint8_t *path = (const uint8_t *)head->path;
	unsigned sum = head->path_len;

	FUZZ_CHECK(head->path_len < HTTP_PATH_MAX && strlen(head->path) == head->path_len);
	FUZZ_CHECK(strlen(head->method) >= 3 && strlen(head->method) <= HTTP_METHOD_MAX);
	FUZZ_CHECK(head->path_len > 0);
	for (unsigned i = 0; i < head->path_len; i++) {
		FUZZ_CHECK(path[i] > ' ' && path[i] != 0x7f);
		FUZZ_CHECK(head->is_connect || path[i] != '?');
		sum = sum * 31 + path[i];
	}
	return sum * 32 + head->truncated + 2u * head->keep_alive + 4u * head->upgrade +
	       8u * head->expect_continue + 16u * head->has_body;
}

static void note(struct run *run, enum http_event event, size_t at, unsigned status)
{
	if (event == HTTP_NONE || run->count == EVENTS_MAX)
		return;
	/* that it is not HTTP is known at the same byte, but the whole piece is consumed */
	run->told[run->count++] = (struct told){ event, http_more(event) ? at : 0, status };
}

static void read_stream(struct run *run, const char *data, size_t len)
{
	struct http_request_parser q;
	struct http_response_parser r;
	struct http_head head;
	enum http_event event = HTTP_NONE;
	uint32_t seed = run->seed;

	http_request_init(&q);
	http_response_init(&r);
	http_response_expect(&r, run->what == 'h', run->what == 'c');
	run->count = 0;
	for (size_t at = 0; at < len && (event == HTTP_NONE || http_more(event));) {
		size_t piece = seed ? 1 + next_random(&seed) % (run->seed & 1 ? 4 : 64) : len;
		bool blind = run->blind && next_random(&seed) % 2;
		unsigned idle = 0;

		if (piece > len - at)
			piece = len - at;
		do {
			const char *shown = blind ? NULL : data + at;
			size_t used = run->what == 'q'
					      ? http_request_feed(&q, &head, shown, piece, &event)
					      : http_response_feed(&r, shown, piece, &event);

			FUZZ_CHECK(used <= piece);
			FUZZ_CHECK(http_more(event) || used == piece);
			idle = used ? 0 : idle + 1;
			FUZZ_CHECK(idle < 3);
			at += used;
			piece -= used;
			note(run, event, at,
			     run->what != 'q'             ? r.status
			     : event == HTTP_REQUEST_HEAD ? sum_of(&head)
							  : 0);
		} while (http_more(event));
	}
	if (run->what != 'q') {
		enum http_close how = http_response_close(&r);

		FUZZ_CHECK((how == HTTP_CLOSE_GONE) ==
			   (event == HTTP_NOT_HTTP || event == HTTP_UPGRADED));
		note(run, HTTP_RESPONSE_END, how, 0);
	}
}

/* Events come in the only order that makes sense. */
static void check_order(const struct run *run)
{
	enum http_event last = HTTP_REQUEST_END;

	if (run->what != 'q')
		return;
	for (size_t i = 0; i < run->count; i++) {
		enum http_event event = run->told[i].event;

		if (event == HTTP_REQUEST_BEGIN)
			FUZZ_CHECK(last == HTTP_REQUEST_END);
		else if (event != HTTP_NOT_HTTP)
			FUZZ_CHECK(event == last + 1);
		FUZZ_CHECK(event != HTTP_UPGRADED);
		last = event;
	}
}

static void compare_runs(char what, uint8_t cut, const char *data, size_t len)
{
	static struct run whole, pieces;

	whole = (struct run){ .what = what };
	read_stream(&whole, data, len);
	check_order(&whole);
	for (uint32_t i = 0; i < 3; i++) {
		pieces = (struct run){ .what = what, .seed = cut * 4u + 1 + i };
		read_stream(&pieces, data, len);
		FUZZ_CHECK(pieces.count == whole.count);
		for (size_t j = 0; j < whole.count; j++) {
			FUZZ_CHECK(pieces.told[j].event == whole.told[j].event);
			FUZZ_CHECK(pieces.told[j].at == whole.told[j].at);
			FUZZ_CHECK(pieces.told[j].status == whole.told[j].status);
		}
	}
	pieces.blind = true;
	read_stream(&pieces, data, len);
	check_order(&pieces);
	http_sniff(data, len);
}

static void check_name(const struct route_table *t, uint32_t id)
{
	const char *name = route_name(t, id);

	FUZZ_CHECK(id >= 1 && id <= route_count(t) && name && name[0]);
	FUZZ_CHECK(strlen(name) < ROUTE_NAME_MAX);
	for (; *name; name++)
		FUZZ_CHECK((unsigned char)*name >= ' ' && *name != 0x7f);
}

static void ask_routes(uint8_t cut, const char *data, size_t len)
{
	struct route_table *t = route_table_create(cut % 16);
	char path[HTTP_PATH_MAX];

	FUZZ_CHECK(t);
	for (const char *at = data, *end = data + len; at < end;) {
		const char *lf = memchr(at, '\n', (size_t)(end - at));
		size_t n = (size_t)((lf ? lf : end) - at);
		unsigned status = n && *at == '4' ? 404 : 200;
		size_t used = n < sizeof(path) - 1 ? n : sizeof(path) - 1;
		const char *method = n && *at == 'p' ? "POST" : "GET";
		const char *asked = n ? path + 1 : path;
		uint32_t id;

		memcpy(path, at, used);
		path[used] = '\0';
		if (n && *at == 'a')
			id = route_from_name(t, asked);
		else
			id = route_from_http(t, method, asked, status);
		check_name(t, id);
		if (n && *at == 'w')
			route_table_tick(t);
		else if (id > ROUTE_UNMATCHED &&
			 *at != 'a') /* a route by now, whatever the answer */
			FUZZ_CHECK(route_from_http(t, method, asked, 404) == id);
		at += n + 1;
	}
	FUZZ_CHECK(route_count(t) <= ROUTE_IDS_MAX);
	route_table_destroy(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	if (len < 2 || !strchr("qrhct", data[0]) || !data[0])
		return 0;
	if (data[0] == 't')
		ask_routes(data[1], (const char *)data + 2, len - 2);
	else
		compare_runs((char)data[0], data[1], (const char *)data + 2, len - 2);
	return 0;
}
