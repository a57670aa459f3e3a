/* SPDX-License-Identifier: MIT
 *
 * Every stream here is read whole, byte by byte and in random pieces; each way must tell the same story.
 */
#include <stdio.h>
#include <stdlib.h>

#include "agent/hook/http.h"
#include "tests/unit/unit.h"

enum {
	STORY_MAX = 1 << 14,
	RANDOM_CUTS = 20
};

/* How a stream is cut: pieces of a fixed size, or of a random one when it is 0. */
struct cut {
	size_t piece;
	unsigned seed;
};

/* What was told: events, as words. */
struct story {
	size_t len;
	char text[STORY_MAX];
};

static void __attribute__((format(printf, 2, 3))) tell(struct story *s, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	s->len += (size_t)vsnprintf(s->text + s->len, STORY_MAX - s->len, format, arguments);
	va_end(arguments);
	assert_true(s->len < STORY_MAX - 1);
}

static size_t next_piece(struct cut *cut, size_t left)
{
	size_t piece = cut->piece ? cut->piece : 1 + (size_t)rand_r(&cut->seed) % 40;

	return piece < left ? piece : left;
}

static void tell_head(struct story *s, const struct http_head *head)
{
	assert_int_equal(head->path_len, strlen(head->path));
	tell(s, "%s %s%s%s%s%s%s. ", head->method, head->path, head->truncated ? "..." : "",
	     head->keep_alive ? "" : " close", head->upgrade ? " upgrade" : "",
	     head->expect_continue ? " expect" : "", head->has_body ? " body" : "");
}

static void read_requests(struct story *s, const char *data, size_t len, struct cut cut)
{
	struct http_request_parser p;
	struct http_head head;
	enum http_event event = HTTP_NONE;
	bool begun = false;

	memset(&head, 'x', sizeof(head));
	s->len = 0;
	s->text[0] = '\0';
	http_request_init(&p);
	for (size_t at = 0; at < len && event != HTTP_NOT_HTTP;) {
		size_t piece = next_piece(&cut, len - at);

		do {
			size_t used = http_request_feed(&p, &head, data + at, piece, &event);

			assert_true(used <= piece);
			if (event == HTTP_REQUEST_BEGIN)
				begun = true;
			if (begun)
				assert_int_equal(strnlen(head.path, HTTP_PATH_MAX), head.path_len);
			at += used;
			piece -= used;
			if (event == HTTP_REQUEST_BEGIN)
				tell(s, "begin ");
			else if (event == HTTP_REQUEST_HEAD)
				tell_head(s, &head);
			else if (event == HTTP_REQUEST_END)
				tell(s, "end ");
			else if (event == HTTP_NOT_HTTP)
				tell(s, http_request_lost(&p) ? "lost " : "not http ");
		} while (http_more(event));
		assert_int_equal(piece, 0);
	}
}

/* @asked: a letter per response, what it answers: G(ET) H(EAD) C(ONNECT); the rest are GETs. */
static void read_responses(struct story *s, const char *data, size_t len, struct cut cut,
			   const char *asked)
{
	static const char *const closes[] = { "idle", "end", "cut", "gone" };
	struct http_response_parser p;
	enum http_event event = HTTP_NONE;

	s->len = 0;
	s->text[0] = '\0';
	http_response_init(&p);
	for (size_t at = 0; at < len && event != HTTP_NOT_HTTP && event != HTTP_UPGRADED;) {
		size_t piece = next_piece(&cut, len - at);

		do {
			size_t used = http_response_feed(&p, data + at, piece, &event);

			assert_true(used <= piece);
			at += used;
			piece -= used;
			if (event == HTTP_RESPONSE_BEGIN) {
				http_response_expect(&p, *asked == 'H', *asked == 'C');
				tell(s, "begin ");
			} else if (event == HTTP_RESPONSE_INTERIM) {
				tell(s, "interim %u ", p.status);
			} else if (event == HTTP_RESPONSE_HEAD) {
				asked += *asked != '\0';
				tell(s, "%u%s ", p.status, p.keep_alive ? "" : " close");
			} else if (event == HTTP_RESPONSE_END) {
				tell(s, "end ");
			} else if (event == HTTP_UPGRADED) {
				tell(s, "upgraded ");
			} else if (event == HTTP_NOT_HTTP) {
				tell(s, http_response_lost(&p) ? "lost " : "not http ");
			}
		} while (http_more(event));
		assert_int_equal(piece, 0);
	}
	tell(s, "| %s", closes[http_response_close(&p)]);
}

static struct cut cut_of(unsigned number)
{
	static const size_t pieces[] = { SIZE_MAX, 1, 2, 3, 7 };

	if (number < sizeof(pieces) / sizeof(pieces[0]))
		return (struct cut){ pieces[number], 0 };
	return (struct cut){ 0, number };
}

static void requests(const char *data, size_t len, const char *expected)
{
	static struct story s;

	for (unsigned i = 0; i < RANDOM_CUTS; i++) {
		read_requests(&s, data, len, cut_of(i));
		assert_string_equal(s.text, expected);
	}
}

static void responses(const char *data, size_t len, const char *asked, const char *expected)
{
	static struct story s;

	for (unsigned i = 0; i < RANDOM_CUTS; i++) {
		read_responses(&s, data, len, cut_of(i), asked);
		assert_string_equal(s.text, expected);
	}
}

#define REQUESTS(data, expected)         requests((data), sizeof(data) - 1, (expected))
#define RESPONSES(data, asked, expected) responses((data), sizeof(data) - 1, (asked), (expected))

/* ---- Requests ---- */

static void a_request_without_a_body_ends_with_its_head(void **state)
{
	(void)state;
	REQUESTS("GET /fib/35 HTTP/1.1\r\nHost: a\r\n\r\n", "begin GET /fib/35. end ");
}

static void requests_may_be_pipelined(void **state)
{
	(void)state;
	REQUESTS("GET /a HTTP/1.1\r\n\r\nPOST /b HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
		 "GET /c HTTP/1.1\r\n\r\nGET /d",
		 "begin GET /a. end begin POST /b body. end begin GET /c. end begin ");
}

static void a_body_that_looks_like_a_request_is_a_body(void **state)
{
	(void)state;
	REQUESTS("POST /a HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET /b HTTP/1.1\r\n\r"
		 "GET /c HTTP/1.1\r\n\r\n",
		 "begin POST /a body. end begin GET /c. end ");
}

static void query_and_fragment_are_cut_off(void **state)
{
	(void)state;
	REQUESTS("GET /a/b?x=1&y=/c#d HTTP/1.1\r\n\r\nGET /c#d?e HTTP/1.1\r\n\r\nGET /? "
		 "HTTP/1.1\r\n\r\n",
		 "begin GET /a/b. end begin GET /c. end begin GET /. end ");
}

static void absolute_form_is_reduced_to_its_path(void **state)
{
	(void)state;
	REQUESTS("GET http://a.example:80/b/c?d HTTP/1.1\r\n\r\nGET HTTPS://a HTTP/1.1\r\n\r\n"
		 "GET http://a?b HTTP/1.1\r\n\r\nGET http://a/ HTTP/1.1\r\n\r\n",
		 "begin GET /b/c. end begin GET /. end begin GET /. end begin GET /. end ");
	REQUESTS("GET httpx://a/b HTTP/1.1\r\n\r\n", "begin not http ");
	REQUESTS("GET hello HTTP/1.1\r\n\r\n", "begin not http ");
}

static void asterisk_and_authority_are_kept(void **state)
{
	(void)state;
	REQUESTS("OPTIONS * HTTP/1.1\r\n\r\nCONNECT db.example:443 HTTP/1.1\r\n\r\n",
		 "begin OPTIONS *. end begin CONNECT db.example:443. end ");
	REQUESTS("OPTIONS *x HTTP/1.1\r\n\r\n", "begin not http ");
}

static void a_long_path_is_truncated_and_flagged(void **state)
{
	char data[512], expected[512], path[301];

	(void)state;
	for (int len = 1; len <= 300; len++) {
		bool fits = len < HTTP_PATH_MAX;

		memset(path, 'a', sizeof(path));
		path[0] = '/';
		path[len] = '\0';
		snprintf(data, sizeof(data), "GET %s HTTP/1.1\r\n\r\n", path);
		snprintf(expected, sizeof(expected), "begin GET %.*s%s. end ",
			 fits ? len : HTTP_PATH_MAX - 1, path, fits ? "" : "...");
		requests(data, strlen(data), expected);
	}
}

static void extension_methods_are_methods(void **state)
{
	(void)state;
	REQUESTS("PROPFIND /a HTTP/1.1\r\n\r\nM-SEARCH * HTTP/1.1\r\n\r\n"
		 "BASELINE-CONTROL / HTTP/1.1\r\n\r\nPRINT / HTTP/1.1\r\n\r\n",
		 "begin PROPFIND /a. end begin M-SEARCH *. end begin BASELINE-CONTROL /. end "
		 "begin PRINT /. end ");
}

static void bare_lf_and_leading_empty_lines_are_tolerated(void **state)
{
	(void)state;
	REQUESTS("\r\n\nPOST /a HTTP/1.1\nContent-Length: 1\n\nx\r\nGET /b HTTP/1.1\n\n\n\r\n",
		 "begin POST /a body. end begin GET /b. end ");
}

static void spaces_after_the_version_are_tolerated(void **state)
{
	(void)state;
	REQUESTS("GET /a HTTP/1.1 \r\n\r\n", "begin GET /a. end ");
	REQUESTS("GET /a HTTP/1.1 x\r\n\r\n", "begin not http ");
	REQUESTS("GET /a HTTP/1.1\rx\n\r\n", "begin not http ");
}

static void chunks_extensions_and_trailers_belong_to_the_body(void **state)
{
	(void)state;
	REQUESTS("POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
		 "5\r\nhello\r\nA;name=\"v\"\r\n0123456789\r\n1 \r\n\n\r\n0\r\n"
		 "Content-Length: 77\r\nX: y\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
		 "begin POST /a body. end begin GET /b. end ");
	REQUESTS("POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n00000;x\n\nGET /b "
		 "HTTP/1.1\r\n\r\n",
		 "begin POST /a body. end begin GET /b. end ");
}

static void broken_chunks_lose_the_place(void **state)
{
	static const char *const chunks[] = {
		"\r\n",      "x\r\n",  ";a\r\n", "1\r\nab\r\n",          "1\rx",
		"1\r\na\rx", "-1\r\n", "1_\r\n", "ffffffffffffffff\r\n", "8000000000000000\r\n"
	};
	char data[256];

	(void)state;
	for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
		snprintf(data, sizeof(data),
			 "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%s", chunks[i]);
		requests(data, strlen(data), "begin POST /a body. lost ");
	}
}

static void transfer_encoding_beats_content_length(void **state)
{
	(void)state;
	REQUESTS("POST /a HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n"
		 "6\r\nabcdef\r\n0\r\n\r\n",
		 "begin POST /a body. end ");
	REQUESTS("POST /a HTTP/1.1\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: "
		 "chunked;q=\"1\"\r\n"
		 "Content-Length: 3\r\n\r\n0\r\n\r\n",
		 "begin POST /a body. end ");
}

static void a_request_whose_last_coding_is_not_chunked_is_refused(void **state)
{
	(void)state;
	REQUESTS("POST /a HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", "begin not http ");
	REQUESTS("POST /a HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", "begin not http ");
}

static void equal_lengths_are_one_and_different_ones_are_refused(void **state)
{
	(void)state;
	REQUESTS("POST /a HTTP/1.1\r\nContent-Length: 2\r\ncontent-length: 02, 2\r\n\r\nxy",
		 "begin POST /a body. end ");
	REQUESTS("POST /a HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
		 "begin not http ");
	REQUESTS("POST /a HTTP/1.1\r\nContent-Length: 2,3\r\n\r\n", "begin not http ");
}

static void a_length_that_is_no_number_is_refused(void **state)
{
	(void)state;
	REQUESTS("POST /a HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "begin not http ");
	REQUESTS("POST /a HTTP/1.1\r\nContent-Length: 0x10\r\n\r\n", "begin not http ");
	REQUESTS("POST /a HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
		 "begin not http ");
	REQUESTS("POST /a HTTP/1.1\r\nContent-Length: 0000000000000000000000001\r\n\r\n",
		 "begin not http ");
	REQUESTS("POST /a HTTP/1.1\r\nContent-Length: 9999999999999999999\r\n\r\nabc",
		 "begin POST /a body. ");
}

static void names_are_matched_whole_and_in_any_case(void **state)
{
	(void)state;
	REQUESTS("POST /a HTTP/1.1\r\nContent-Length-X: 9\r\nContent-Lengt: 9\r\nX-Content-Length: "
		 "9\r\n"
		 "Content-Type: 9\r\nCo: 9\r\nC\r\nContent-Length\r\nCONTENT-LENGTH:1\r\n\r\nx"
		 "GET /b HTTP/1.1\r\n\r\n",
		 "begin POST /a body. end begin GET /b. end ");
	REQUESTS("POST /a HTTP/1.1\r\nContent-Length \t: 1 \r\n\r\nxGET /b HTTP/1.1\r\n\r\n",
		 "begin POST /a body. end begin GET /b. end ");
}

static void a_folded_line_goes_on_with_its_field(void **state)
{
	(void)state;
	REQUESTS("POST /a HTTP/1.1\r\nTransfer-Encoding:\r\n  gzip,\r\n\tchunked\r\nX: y\r\n z: "
		 "1\r\n"
		 "\r\n0\r\n\r\n",
		 "begin POST /a body. end ");
	REQUESTS("POST /a HTTP/1.1\r\nX: y\r\n Content-Length: 5\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
		 "begin POST /a. end begin GET /b. end ");
	REQUESTS("GET /a HTTP/1.1\r\n Content-Length: 5\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
		 "begin GET /a. end begin GET /b. end ");
}

static void connection_and_version_say_whether_another_may_follow(void **state)
{
	(void)state;
	REQUESTS("GET /a HTTP/1.1\r\nConnection: close\r\n\r\n", "begin GET /a close. end ");
	REQUESTS("GET /a HTTP/1.1\r\nConnection: foo, Close\r\n\r\n", "begin GET /a close. end ");
	REQUESTS("GET /a HTTP/1.0\r\n\r\n", "begin GET /a close. end ");
	REQUESTS("GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "begin GET /a. end ");
	REQUESTS("GET /a HTTP/1.1\r\nConnection: closed\r\n\r\n", "begin GET /a. end ");
}

static void upgrade_and_expect_are_noted(void **state)
{
	(void)state;
	REQUESTS("GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
		 "begin GET /ws upgrade. end ");
	REQUESTS("PUT /a HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\nx",
		 "begin PUT /a expect body. end ");
	REQUESTS("GET /a HTTP/1.1\r\nUpgrade:\r\nExpect: 100-contin\r\n\r\n", "begin GET /a. end ");
}

static void other_protocols_are_not_http(void **state)
{
	(void)state;
	REQUESTS("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "not http ");
	REQUESTS("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "begin not http ");
	REQUESTS("*1\r\n$4\r\nPING\r\n", "not http ");
	REQUESTS("PING\r\n", "begin not http ");
	REQUESTS("GET key\r\n", "begin not http ");
	REQUESTS("SET /a b\r\n", "begin not http ");
	REQUESTS("\x00\x00\x00\x08\x04\xd2\x16\x2f", "not http ");
	REQUESTS("get /a HTTP/1.1\r\n\r\n", "not http ");
	REQUESTS("EHLO host.example\r\n", "begin not http ");
	REQUESTS("OPTIONS * RTSP/1.0\r\n", "begin not http ");
	REQUESTS("INVITE sip:a@b SIP/2.0\r\n", "begin not http ");
	REQUESTS("GET /a\r\n", "begin not http ");
	REQUESTS("GET /a HTTP/2.0\r\n", "begin not http ");
	REQUESTS("GET  /a HTTP/1.1\r\n", "begin not http ");
	REQUESTS("GET /a b HTTP/1.1\r\n", "begin not http ");
	REQUESTS("GET /a\x01 HTTP/1.1\r\n", "begin not http ");
	REQUESTS("GET /a?b\nc HTTP/1.1\r\n", "begin not http ");
	REQUESTS("GE /a HTTP/1.1\r\n", "begin not http ");
	REQUESTS("ABCDEFGHIJKLMNOPQ / HTTP/1.1\r\n", "begin not http ");
	REQUESTS("HTTP/1.1 200 OK\r\n\r\n", "begin not http ");
}

static void not_http_is_known_at_the_first_byte_that_tells(void **state)
{
	static const char *const streams[] = { "\x16",  "*",        "PRI ",          "PING\r",
					       "GET k", "GET /a\r", "GET /a HTTP/2", "GET /a b" };

	(void)state;
	for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++) {
		struct http_request_parser p;
		struct http_head head;
		enum http_event event = HTTP_NONE;
		size_t len = strlen(streams[i]);

		http_request_init(&p);
		for (size_t at = 0; at < len; at++) {
			assert_int_not_equal(event, HTTP_NOT_HTTP);
			do
				http_request_feed(&p, &head, streams[i] + at,
						  event == HTTP_REQUEST_BEGIN ? 0 : 1, &event);
			while (http_more(event));
		}
		assert_int_equal(event, HTTP_NOT_HTTP);
	}
}

static void not_http_stays_not_http(void **state)
{
	static const char good[] = "GET /a HTTP/1.1\r\n\r\n";
	struct http_request_parser p;
	struct http_head head;
	enum http_event event;

	(void)state;
	http_request_init(&p);
	http_request_feed(&p, &head, "?", 1, &event);
	assert_int_equal(http_request_feed(&p, &head, good, sizeof(good) - 1, &event),
			 sizeof(good) - 1);
	assert_int_equal(event, HTTP_NOT_HTTP);
}

static void a_head_may_have_64_kib_and_not_more(void **state)
{
	static char data[HTTP_HEAD_MAX + 64];
	static const char start[] = "GET /a HTTP/1.1\r\nX: ", end[] = "\r\n\r\n";

	(void)state;
	for (int more = -1; more <= 1; more++) {
		size_t len = (size_t)(HTTP_HEAD_MAX + more);

		memset(data, 'x', sizeof(data));
		memcpy(data, start, sizeof(start) - 1);
		memcpy(data + len - 4, end, 4);
		memcpy(data + len, "GET /b", 6);
		requests(data, len + 6, more <= 0 ? "begin GET /a. end begin " : "begin not http ");
	}
}

static void trailers_and_size_lines_may_not_go_on_for_ever(void **state)
{
	static const char start[] = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
	static char data[HTTP_HEAD_MAX + 256];
	const char *const begins[] = { "0\r\nX: ", "1;x=" };

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		memset(data, 'x', sizeof(data));
		memcpy(data, start, sizeof(start) - 1);
		memcpy(data + sizeof(start) - 1, begins[i], strlen(begins[i]));
		requests(data, sizeof(data), "begin POST /a body. lost ");
	}
}

static void unseen_bytes_of_a_body_are_counted(void **state)
{
	static const char start[] = "POST /a HTTP/1.1\r\nContent-Length: 1000000000000\r\n\r\nabc";
	struct http_request_parser p;
	struct http_head head;
	enum http_event event;
	size_t at = 0;

	(void)state;
	http_request_init(&p);
	do
		at += http_request_feed(&p, &head, start + at, sizeof(start) - 1 - at, &event);
	while (http_more(event));
	assert_int_equal(http_request_feed(&p, &head, NULL, 999999999990, &event), 999999999990);
	assert_int_equal(event, HTTP_NONE);
	assert_int_equal(http_request_feed(&p, &head, NULL, 10, &event), 7);
	assert_int_equal(event, HTTP_REQUEST_END);
	assert_int_equal(http_request_feed(&p, &head, NULL, 0, &event), 0);
	assert_int_equal(event, HTTP_NONE);
	http_request_feed(&p, &head, NULL, 3, &event);
	assert_int_equal(event, HTTP_NOT_HTTP);
	assert_true(http_request_lost(&p));
}

static void an_upgraded_request_stream_is_left_alone(void **state)
{
	struct http_request_parser p;
	struct http_head head;
	enum http_event event;

	(void)state;
	http_request_init(&p);
	http_request_upgrade(&p);
	assert_int_equal(http_request_feed(&p, &head, "\x81\x05hello", 7, &event), 7);
	assert_int_equal(event, HTTP_UPGRADED);
	assert_int_equal(http_request_feed(&p, &head, NULL, 7, &event), 7);
	assert_int_equal(event, HTTP_UPGRADED);
	assert_false(http_request_lost(&p));
}

static void a_refused_expectation_makes_room_for_the_next_request(void **state)
{
	static const char first[] =
		"PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
	static const char second[] = "GET /b HTTP/1.1\r\n\r\n";
	static const char plain[] = "PUT /a HTTP/1.1\r\nContent-Length: 9\r\n\r\n";
	struct http_request_parser p;
	struct http_head head;
	enum http_event event;
	size_t at = 0;

	(void)state;
	http_request_init(&p);
	assert_false(http_request_abandon(&p));
	do
		at += http_request_feed(&p, &head, first + at, sizeof(first) - 1 - at, &event);
	while (http_more(event));
	assert_true(http_request_abandon(&p));
	http_request_feed(&p, &head, second, sizeof(second) - 1, &event);
	assert_int_equal(event, HTTP_REQUEST_BEGIN);

	http_request_init(&p);
	at = 0;
	do
		at += http_request_feed(&p, &head, first + at, sizeof(first) - 1 - at, &event);
	while (http_more(event));
	http_request_feed(&p, &head, "x", 1, &event);
	assert_false(http_request_abandon(&p));

	/* nobody held this one's body back: it will come, read or not */
	http_request_init(&p);
	at = 0;
	do
		at += http_request_feed(&p, &head, plain + at, sizeof(plain) - 1 - at, &event);
	while (http_more(event));
	assert_false(http_request_abandon(&p));
}

/* ---- Responses ---- */

static void feed_all(struct http_response_parser *p, const char *data, enum http_event *event)
{
	size_t len = strlen(data), at = 0;

	do
		at += http_response_feed(p, data + at, len - at, event);
	while (http_more(*event) && at < len);
}

static void responses_end_by_their_length(void **state)
{
	(void)state;
	RESPONSES("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
		  "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
		  "", "begin 200 end begin 404 end | idle");
}

static void responses_end_by_their_last_chunk(void **state)
{
	(void)state;
	RESPONSES(
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"
		"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
		"", "begin 200 end begin 200 end | idle");
}

static void a_response_without_a_length_lasts_until_the_close(void **state)
{
	(void)state;
	RESPONSES("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "", "begin 200 close | end");
	RESPONSES("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\nabc", "",
		  "begin 200 close | end");
}

static void a_close_before_the_end_cuts_the_response(void **state)
{
	(void)state;
	RESPONSES("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", "", "begin 200 | cut");
	RESPONSES("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", "",
		  "begin 200 | cut");
	RESPONSES("HTTP/1.1 200 OK\r\nCont", "", "begin | cut");
	RESPONSES("", "", "| idle");
}

static void responses_to_head_have_no_body(void **state)
{
	(void)state;
	RESPONSES("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\n"
		  "Transfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
		  "HHG", "begin 200 end begin 200 end begin 200 end | idle");
}

static void an_expectation_holds_for_one_response(void **state)
{
	struct http_response_parser p;
	enum http_event event;

	(void)state;
	http_response_init(&p);
	http_response_expect(&p, true, false);
	feed_all(&p, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", &event);
	assert_int_equal(event, HTTP_RESPONSE_HEAD);
	http_response_feed(&p, "", 0, &event);
	assert_int_equal(event, HTTP_RESPONSE_END);
	feed_all(&p, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", &event);
	assert_int_equal(event, HTTP_RESPONSE_END);
}

static void no_content_and_not_modified_have_no_body(void **state)
{
	(void)state;
	RESPONSES("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"
		  "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"
		  "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
		  "", "begin 204 end begin 304 end begin 205 end | idle");
}

static void interim_responses_do_not_answer(void **state)
{
	(void)state;
	RESPONSES("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n"
		  "Content-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
		  "H", "begin interim 100 begin interim 103 begin 200 end | idle");
}

static void a_switch_of_protocols_ends_http(void **state)
{
	(void)state;
	RESPONSES("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x05hello", "",
		  "begin 101 end upgraded | gone");
	RESPONSES("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x16\x03\x01", "C",
		  "begin 200 end upgraded | gone");
	RESPONSES("HTTP/1.1 407 No\r\nContent-Length: 3\r\n\r\nabc", "C", "begin 407 end | idle");
}

static void old_responses_close_unless_they_say_so(void **state)
{
	(void)state;
	RESPONSES("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", "",
		  "begin 200 close end | idle");
	RESPONSES("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", "",
		  "begin 200 end | idle");
	RESPONSES("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", "",
		  "begin 200 close end | idle");
}

static void status_lines_are_read_strictly(void **state)
{
	(void)state;
	RESPONSES("HTTP/1.1 200\r\n\r\n", "", "begin 200 close | end");
	RESPONSES("HTTP/1.1 200 \n\n", "", "begin 200 close | end");
	RESPONSES("HTTP/1.1 200\n\n", "", "begin 200 close | end");
	RESPONSES("HTTP/1.1 2000 OK\r\n", "", "begin not http | gone");
	RESPONSES("HTTP/1.1 20 OK\r\n", "", "begin not http | gone");
	RESPONSES("HTTP/1.1 020 OK\r\n", "", "begin not http | gone");
	RESPONSES("HTTP/2 200 OK\r\n", "", "begin not http | gone");
	RESPONSES("ICY 200 OK\r\n", "", "not http | gone");
	RESPONSES("GET / HTTP/1.1\r\n", "", "not http | gone");
}

static void bytes_after_the_last_response_lose_the_place(void **state)
{
	(void)state;
	RESPONSES("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy", "",
		  "begin 200 end lost | gone");
}

static void a_file_sent_unseen_ends_its_response(void **state)
{
	struct http_response_parser p;
	enum http_event event;

	(void)state;
	http_response_init(&p);
	feed_all(&p, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", &event);
	assert_int_equal(event, HTTP_RESPONSE_HEAD);
	assert_int_equal(http_response_feed(&p, NULL, 60, &event), 60);
	assert_int_equal(event, HTTP_NONE);
	assert_int_equal(http_response_feed(&p, NULL, 40, &event), 40);
	assert_int_equal(event, HTTP_RESPONSE_END);

	feed_all(&p, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n", &event);
	assert_int_equal(http_response_feed(&p, NULL, 100, &event), 100);
	assert_int_equal(event, HTTP_NONE);
	feed_all(&p, "\r\n0\r\n\r\n", &event);
	assert_int_equal(event, HTTP_RESPONSE_END);

	feed_all(&p, "HTTP/1.1 200 OK\r\n\r\n", &event);
	assert_int_equal(http_response_feed(&p, NULL, 100, &event), 100);
	assert_int_equal(event, HTTP_NONE);
	assert_int_equal(http_response_close(&p), HTTP_CLOSE_END);
}

static void unseen_bytes_outside_a_body_lose_the_place(void **state)
{
	struct http_response_parser p;
	enum http_event event;

	(void)state;
	http_response_init(&p);
	feed_all(&p, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", &event);
	assert_int_equal(http_response_feed(&p, NULL, 6, &event), 4);
	assert_int_equal(event, HTTP_RESPONSE_END);
	assert_int_equal(http_response_feed(&p, NULL, 2, &event), 2);
	assert_int_equal(event, HTTP_NOT_HTTP);
	assert_true(http_response_lost(&p));

	http_response_init(&p);
	feed_all(&p, "HTTP/1.1 200 OK\r\nCont", &event);
	http_response_feed(&p, NULL, 2, &event);
	assert_int_equal(event, HTTP_NOT_HTTP);
	assert_false(http_response_lost(&p));
}

/* ---- Guesses ---- */

static void first_bytes_are_told_apart(void **state)
{
	static const struct {
		const char *text;
		enum http_sniff is;
	} cases[] = {
		{ "", HTTP_SNIFF_MORE },
		{ "G", HTTP_SNIFF_MORE },
		{ "GET ", HTTP_SNIFF_MORE },
		{ "GET /", HTTP_SNIFF_REQUEST },
		{ "HEAD /", HTTP_SNIFF_REQUEST },
		{ "H", HTTP_SNIFF_MORE },
		{ "HTTP", HTTP_SNIFF_MORE },
		{ "HTTP/1.", HTTP_SNIFF_RESPONSE },
		{ "HTTP/2", HTTP_SNIFF_NO },
		{ "\r\nGET /", HTTP_SNIFF_REQUEST },
		{ "\r\n", HTTP_SNIFF_MORE },
		{ "GET h", HTTP_SNIFF_REQUEST },
		{ "GET k", HTTP_SNIFF_NO },
		{ "CONNECT d", HTTP_SNIFF_REQUEST },
		{ "OPTIONS *", HTTP_SNIFF_REQUEST },
		{ "PRI *", HTTP_SNIFF_NO },
		{ "PRINT /", HTTP_SNIFF_REQUEST },
		{ "PRI", HTTP_SNIFF_MORE },
		{ "PING\r", HTTP_SNIFF_NO },
		{ "\x16\x03", HTTP_SNIFF_NO },
		{ "*1\r\n", HTTP_SNIFF_NO },
		{ "get /", HTTP_SNIFF_NO },
		{ "GE /", HTTP_SNIFF_NO },
		{ "ABCDEFGHIJKLMNOP", HTTP_SNIFF_MORE },
		{ "ABCDEFGHIJKLMNOPQ", HTTP_SNIFF_NO },
		{ "BASELINE-CONTROL /", HTTP_SNIFF_REQUEST },
		{ "-GET /", HTTP_SNIFF_NO },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (http_sniff(cases[i].text, strlen(cases[i].text)) != cases[i].is)
			fail_msg("\"%s\"", cases[i].text);
}

static void parsers_are_small(void **state)
{
	(void)state;
	assert_true(sizeof(struct http_request_parser) <= 48);
	assert_true(sizeof(struct http_response_parser) <= 48);
}

/* ---- At random ---- */

/* Streams stuck together from what matters, most of them wrong somewhere: every cut must tell the same. */
static size_t random_stream(char *data, size_t max, unsigned *seed)
{
	static const char *const pieces[] = {
		"GET /a HTTP/1.1\r\n",
		"POST /b?c HTTP/1.0\n",
		"HTTP/1.1 200 OK\r\n",
		"HTTP/1.1 100 Continue\r\n\r\n",
		"HTTP/1.1 304 x\r\n",
		"HEAD http://x/y HTTP/1.1\r\n",
		"CONNECT a:1 HTTP/1.1\r\n",
		"HTTP/1.1 101 x\r\n",
		"Content-Length: 5\r\n",
		"Content-Length: 0\r\n",
		"Transfer-Encoding: chunked\r\n",
		"transfer-encoding: gzip\r\n",
		"Connection: close\r\n",
		"Connection: a, keep-alive\r\n",
		"Expect: 100-continue\r\n",
		"Upgrade: h2c\r\n",
		" folded, chunked\r\n",
		"\r\n",
		"\n",
		"\r",
		" ",
		"hello",
		"5\r\nhello\r\n",
		"3;x=y\r\nabc\r\n",
		"0\r\n",
		"0\r\nX: y\r\n\r\n",
		"GET /a HTTP/1.1\r\n\r\n",
		"HTTP/1.1 204 No\r\n\r\n",
		"Host: a.example\r\n",
		"Content-Type: text/html\r\n",
		"\0",
		"C:",
	};
	size_t len = 0;
	int count = 1 + rand_r(seed) % 12;

	for (int i = 0; i < count; i++) {
		/* most begin with a start line: they are the first pieces */
		size_t among = i == 0 && rand_r(seed) % 8 ? 8 : sizeof(pieces) / sizeof(pieces[0]);
		const char *piece = pieces[(size_t)rand_r(seed) % among];
		size_t n = *piece ? strlen(piece) : 1;

		assert_true(len + n <= max);
		memcpy(data + len, piece, n);
		len += n;
	}
	if (rand_r(seed) % 4 == 0)
		data[(size_t)rand_r(seed) % len] = (char)rand_r(seed);
	return len;
}

static void the_story_does_not_depend_on_the_cuts(void **state)
{
	static struct story whole, cut;
	static const char *const asked[] = { "", "H", "C", "GHGC" };
	unsigned seed = 1, told = 0;
	char data[1024];

	(void)state;
	for (unsigned round = 0; round < 20000; round++) {
		size_t len = random_stream(data, sizeof(data), &seed);
		const char *asks = asked[round % 4];

		read_requests(&whole, data, len, cut_of(0));
		told += strstr(whole.text, "end") != NULL;
		for (unsigned i = 1; i < 8; i++) {
			read_requests(&cut, data, len, cut_of(i + round % 8));
			assert_string_equal(cut.text, whole.text);
		}
		read_responses(&whole, data, len, cut_of(0), asks);
		told += strstr(whole.text, "end") != NULL;
		for (unsigned i = 1; i < 8; i++) {
			read_responses(&cut, data, len, cut_of(i + round % 8), asks);
			assert_string_equal(cut.text, whole.text);
		}
	}
	assert_true(told > 1000); /* the pieces do make messages */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_request_without_a_body_ends_with_its_head),
		cmocka_unit_test(requests_may_be_pipelined),
		cmocka_unit_test(a_body_that_looks_like_a_request_is_a_body),
		cmocka_unit_test(query_and_fragment_are_cut_off),
		cmocka_unit_test(absolute_form_is_reduced_to_its_path),
		cmocka_unit_test(asterisk_and_authority_are_kept),
		cmocka_unit_test(a_long_path_is_truncated_and_flagged),
		cmocka_unit_test(extension_methods_are_methods),
		cmocka_unit_test(bare_lf_and_leading_empty_lines_are_tolerated),
		cmocka_unit_test(spaces_after_the_version_are_tolerated),
		cmocka_unit_test(chunks_extensions_and_trailers_belong_to_the_body),
		cmocka_unit_test(broken_chunks_lose_the_place),
		cmocka_unit_test(transfer_encoding_beats_content_length),
		cmocka_unit_test(a_request_whose_last_coding_is_not_chunked_is_refused),
		cmocka_unit_test(equal_lengths_are_one_and_different_ones_are_refused),
		cmocka_unit_test(a_length_that_is_no_number_is_refused),
		cmocka_unit_test(names_are_matched_whole_and_in_any_case),
		cmocka_unit_test(a_folded_line_goes_on_with_its_field),
		cmocka_unit_test(connection_and_version_say_whether_another_may_follow),
		cmocka_unit_test(upgrade_and_expect_are_noted),
		cmocka_unit_test(other_protocols_are_not_http),
		cmocka_unit_test(not_http_is_known_at_the_first_byte_that_tells),
		cmocka_unit_test(not_http_stays_not_http),
		cmocka_unit_test(a_head_may_have_64_kib_and_not_more),
		cmocka_unit_test(trailers_and_size_lines_may_not_go_on_for_ever),
		cmocka_unit_test(unseen_bytes_of_a_body_are_counted),
		cmocka_unit_test(an_upgraded_request_stream_is_left_alone),
		cmocka_unit_test(a_refused_expectation_makes_room_for_the_next_request),
		cmocka_unit_test(responses_end_by_their_length),
		cmocka_unit_test(responses_end_by_their_last_chunk),
		cmocka_unit_test(a_response_without_a_length_lasts_until_the_close),
		cmocka_unit_test(a_close_before_the_end_cuts_the_response),
		cmocka_unit_test(responses_to_head_have_no_body),
		cmocka_unit_test(an_expectation_holds_for_one_response),
		cmocka_unit_test(no_content_and_not_modified_have_no_body),
		cmocka_unit_test(interim_responses_do_not_answer),
		cmocka_unit_test(a_switch_of_protocols_ends_http),
		cmocka_unit_test(old_responses_close_unless_they_say_so),
		cmocka_unit_test(status_lines_are_read_strictly),
		cmocka_unit_test(bytes_after_the_last_response_lose_the_place),
		cmocka_unit_test(a_file_sent_unseen_ends_its_response),
		cmocka_unit_test(unseen_bytes_outside_a_body_lose_the_place),
		cmocka_unit_test(first_bytes_are_told_apart),
		cmocka_unit_test(parsers_are_small),
		cmocka_unit_test(the_story_does_not_depend_on_the_cuts),
	};

	return RUN(tests);
}
