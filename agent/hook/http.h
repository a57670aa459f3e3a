/* SPDX-License-Identifier: MIT
 *
 * HTTP/1.x read off a byte stream, both directions, as it passes through the host's own calls: where requests and
 * responses begin and end, the method, the path and the status. RFC 9112 as peers speak it, not as it should be.
 *
 * A parser is fed every byte of its direction, from the first, in any pieces; the same bytes give the same events however
 * they are cut. Feed until the event says that there is nothing more:
 *
 *	do {
 *		size_t used = http_request_feed(&conn->in, &conn->head, data, len, &event);
 *		data += used, len -= used;
 *		...
 *	} while (http_more(event));
 *
 * Pure: no allocation, no lock, no libc call but memchr, memcpy and memcmp. Work is bounded by the bytes given, and bodies are
 * skipped by their length. One parser is used by one thread at a time; the caller sees to that.
 */
#ifndef SONDE_HOOK_HTTP_H
#define SONDE_HOOK_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
	HTTP_METHOD_MAX = 16,    /* longest method name taken for one: BASELINE-CONTROL */
	HTTP_PATH_MAX = 128,     /* bytes of path kept, the closing NUL included */
	HTTP_HEAD_MAX = 1 << 16, /* a head, a chunk's size line, the trailers: more is not HTTP */
};

enum http_event {
	/* the loop above ends */
	HTTP_NONE, /* everything is consumed, the next event needs more */
	HTTP_NOT_HTTP, /* for good: this is not HTTP/1.x, or the parser lost its place (http_request_lost()) */
	HTTP_UPGRADED, /* for good: another protocol from here on */
	/* the loop goes on */
	HTTP_REQUEST_BEGIN, /* the first byte of a request, after the empty lines that may stand before it */
	HTTP_REQUEST_HEAD, /* *head is complete */
	HTTP_REQUEST_END,  /* head and body are complete */
	HTTP_RESPONSE_BEGIN,
	HTTP_RESPONSE_INTERIM, /* a 1xx but 101: the answer is still to come, with a BEGIN of its own */
	HTTP_RESPONSE_HEAD, /* ->status is known */
	HTTP_RESPONSE_END,  /* HTTP_UPGRADED follows a 101, and a 2xx to CONNECT */
};

/** Whether to feed again, even with no bytes left. Context: any. */
static inline bool http_more(enum http_event event)
{
	return event > HTTP_UPGRADED;
}

/** A request's head: filled piece by piece from HTTP_REQUEST_BEGIN, whole from HTTP_REQUEST_HEAD on. */
struct http_head {
	uint16_t path_len;
	uint8_t minor;        /* HTTP/1.minor */
	bool truncated;       /* the path was longer */
	bool is_head;         /* for http_response_expect() */
	bool is_connect;      /* likewise */
	bool keep_alive;      /* another request may follow */
	bool upgrade;         /* asks for another protocol, a 101 may answer */
	bool expect_continue; /* holds its body back until a 100: see http_request_abandon() */
	bool has_body;
	char method[HTTP_METHOD_MAX + 1];
	/*
	 * No query, no fragment; "*"; for CONNECT host:port. A string at any time, in memory that was 0 before its first use:
	 * the last byte is never written.
	 */
	char path[HTTP_PATH_MAX];
};

/* What both directions share; private to http.c. */
struct http_framing {
	uint64_t left;  /* bytes of body or chunk to come; in a head, the Content-Length */
	uint32_t lined; /* bytes of this head, size line or trailers so far */
	uint16_t flags;
	uint8_t state;
	uint8_t field;    /* the header field that the parser is in */
	uint8_t position; /* in the literal, name, method or number that the parser is in */
	uint8_t token_len;
	char token[20]; /* of a field's value, in lower case */
};

struct http_request_parser {
	struct http_framing framing;
};

struct http_response_parser {
	struct http_framing framing;
	uint16_t status;
	bool keep_alive; /* from HTTP_RESPONSE_HEAD on */
	bool to_head;
	bool to_connect;
};

/** @head as it is at HTTP_REQUEST_BEGIN, for a caller who knows only then where it is to lie. Context: hook. */
static inline void http_head_begun(struct http_head *head, char first)
{
	memset(head, 0, offsetof(struct http_head, path) + 1);
	head->method[0] = first;
}

/** Make @p ready for the first byte of a stream. Context: any. */
void http_request_init(struct http_request_parser *p);
void http_response_init(struct http_response_parser *p);

/**
 * Read on, up to the next event.
 *
 * @data NULL stands for @len bytes that passed unseen (sendfile, splice): right inside a body or a chunk, else the parser has
 * lost its place. @head must be the same from a request's BEGIN to its HEAD. Context: hook.
 * Returns how many bytes are consumed, at most @len; @event says what comes after them.
 */
size_t http_request_feed(struct http_request_parser *p, struct http_head *head, const char *data,
			 size_t len, enum http_event *event);
size_t http_response_feed(struct http_response_parser *p, const char *data, size_t len,
			  enum http_event *event);

/**
 * Say which request the next response answers: a response to HEAD has no body, a 2xx to CONNECT ends HTTP. Holds for one final
 * response; to be called after the last one's END and before this one's HEAD, at best at its BEGIN. Context: hook.
 */
void http_response_expect(struct http_response_parser *p, bool to_head, bool to_connect);

/** The other direction said so: from here on this stream is another protocol. Context: hook. */
void http_request_upgrade(struct http_request_parser *p);

/**
 * The final answer came though the request's body did not: after `Expect: 100-continue` and no 100, the client keeps the body.
 * The next bytes are a new request; no END comes for this one. Not to be called after a 100. Returns false and does nothing when
 * the body was not held back, or part of it was seen: then it is still to be read. Context: hook.
 */
bool http_request_abandon(struct http_request_parser *p);

enum http_close {
	HTTP_CLOSE_IDLE, /* between responses */
	HTTP_CLOSE_END,  /* it ended a response that was to last until the close */
	HTTP_CLOSE_CUT,  /* in the middle of a response */
	HTTP_CLOSE_GONE, /* no HTTP to end: not HTTP, or upgraded */
};

/** The stream is closed: what that means. The parser takes nothing more. Context: hook. */
enum http_close http_response_close(struct http_response_parser *p);

/** After HTTP_NOT_HTTP: true when it was HTTP before, so that requests are lost, not just not there. Context: any. */
bool http_request_lost(const struct http_request_parser *p);
bool http_response_lost(const struct http_response_parser *p);

enum http_sniff {
	HTTP_SNIFF_NO,
	HTTP_SNIFF_REQUEST,
	HTTP_SNIFF_RESPONSE,
	HTTP_SNIFF_MORE, /* cannot be known yet: at most HTTP_METHOD_MAX + 2 bytes of text are needed */
};

/** Goes on where http_sniff() cannot tell by the first byte. Context: any. */
enum http_sniff http_sniff_text(const char *data, size_t len);

/**
 * Tell by the first bytes of a stream what it may be. A guess: only the parser, fed from the same first byte, knows.
 * Context: any.
 */
static inline enum http_sniff http_sniff(const char *data, size_t len)
{
	if (len == 0)
		return HTTP_SNIFF_MORE;
	if ((data[0] < 'A' || data[0] > 'Z') && data[0] != '\r' && data[0] != '\n')
		return HTTP_SNIFF_NO;
	return http_sniff_text(data, len);
}

#endif
