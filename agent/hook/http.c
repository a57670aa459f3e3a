/* SPDX-License-Identifier: MIT
 *
 * HTTP/1.x off a byte stream: one state per place that a cut can fall on. States are in the order of the message:
 *
 *	START > METHOD > TARGET ... > VERSION > LINE_END ┐                 ┌ LENGTH ──────────────────────┐
 *	START > PROTOCOL > STATUS > SKIP ────────────────┴ LINE > NAME ... ┼ CHUNK_SIZE > CHUNK > ... LINE ┼ END
 *	                                                                   └ CLOSE                         ┘
 *
 * A header line is told by its first letters and skipped, sixteen bytes at a time, unless it is one of five. Nothing is kept of
 * it but the token at hand. What nearly every message says, byte for byte, is taken at once where it lies whole in the
 * bytes at hand (`at_once`); everything else goes the way of one state per byte, to the same end. Lenient where servers are (bare LF, folded lines, space around names), strict where a wrong guess would
 * make later bytes look like requests. Runs inside the host's calls, on any thread.
 */
#include "agent/hook/http.h"

#if defined(__SSE2__)
#  include <emmintrin.h>
#endif

enum state {
	/* counted against HTTP_HEAD_MAX: */
	START,
	METHOD,
	TARGET,
	SCHEME,
	AUTHORITY,
	PATH,
	QUERY,
	WHOLE, /* a target kept as it is: "*" or CONNECT's */
	VERSION,
	LINE_END,
	PROTOCOL,
	STATUS,
	LINE, /* at the start of a header line */
	NAME,
	VALUE,
	PARAMETER, /* behind the ';' of a list's element */
	SKIP,
	LAST_LF, /* behind the CR of the empty line */
	CHUNK_SIZE,
	CHUNK_EXTENSION,
	CHUNK_SIZE_LF,
	CHUNK_CR, /* behind a chunk's data */
	CHUNK_LF,
	/* not counted: */
	LENGTH,
	CHUNK,
	CLOSE,
	END, /* the event is due, no byte is needed */
	UPGRADED,
	NOT_HTTP,
};

enum field {
	OTHER,
	CONNECTION,
	TRANSFER_ENCODING,
	UPGRADE,
	EXPECT,
	CONTENT_LENGTH
};

enum flags {
	CODED = 1 << 0,   /* Transfer-Encoding: anything */
	CHUNKED = 1 << 1, /* ... and chunked came last */
	SIZED = 1 << 2,   /* Content-Length */
	SAID_CLOSE = 1 << 3,
	SAID_KEEP_ALIVE = 1 << 4,
	SAID_UPGRADE = 1 << 5,
	SAID_CONTINUE = 1 << 6,
	OLD = 1 << 7, /* HTTP/1.0 */
	TRAILERS = 1 << 8,
	BODY_SEEN = 1 << 9,
	UPGRADES = 1 << 10, /* END is the last event */
	WAS_HTTP = 1 << 11, /* one head was good; outlives the message */
};

static const char *const names[] = {
	[CONNECTION] = "connection",
	[TRANSFER_ENCODING] = "transfer-encoding",
	[UPGRADE] = "upgrade",
	[EXPECT] = "expect",
	[OTHER] = "",
	[CONTENT_LENGTH] = "content-length",
};

static const char protocol[] = "HTTP/1.";

struct span {
	const char *at;
	const char *end;
};

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

static void fail(struct http_framing *f)
{
	f->state = NOT_HTTP;
}

static void framing_init(struct http_framing *f)
{
	memset(f, 0, sizeof(*f));
	f->state = START;
}

/* Between two messages of a connection. */
static void message_reset(struct http_framing *f)
{
	f->left = 0;
	f->lined = 0;
	f->flags &= WAS_HTTP;
	f->state = START;
	f->field = OTHER;
	f->position = 0;
	f->token_len = 0;
}

/* Go to just behind the next LF; false when there is none. */
static bool skip_line(struct span *in)
{
	const char *lf = memchr(in->at, '\n', (size_t)(in->end - in->at));

	in->at = lf ? lf + 1 : in->end;
	return lf != NULL;
}

/* Whether the next bytes are @text; then they are consumed. */
static bool take(struct span *in, const char *text, size_t len)
{
	if ((size_t)(in->end - in->at) < len || memcmp(in->at, text, len) != 0)
		return false;
	in->at += len;
	return true;
}

#define TAKE(in, text) take((in), (text), sizeof(text) - 1)

/* What begins a header line that may be one of ours, a folded one, or the end of the head. */
static bool begins_something(char c)
{
	static const uint64_t bits[2] = {
		1ull << ' ' | 1ull << '\t' | 1ull << '\r' | 1ull << '\n',
		1ull << ('C' - 64) | 1ull << ('E' - 64) | 1ull << ('T' - 64) | 1ull << ('U' - 64) |
			1ull << ('c' - 64) | 1ull << ('e' - 64) | 1ull << ('t' - 64) |
			1ull << ('u' - 64),
	};
	unsigned char u = (unsigned char)c;

	return u < 128 && (bits[u >> 6] >> (u & 63) & 1);
}

/* Skip this line and all that are nothing to us. False when the bytes end within a line. */
static bool skip_lines(struct span *in)
{
#if defined(__SSE2__)
	while (in->end - in->at > 16) {
		__m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)in->at);
		unsigned found =
			(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('\n')));

		for (; found; found &= found - 1) {
			const char *next = in->at + __builtin_ctz(found) + 1;

			if (begins_something(*next)) {
				in->at = next;
				return true;
			}
		}
		in->at += 16;
	}
#endif
	while (skip_line(in))
		if (in->at == in->end || begins_something(*in->at))
			return true;
	return false;
}

/* ---- Header fields ---- */

static void content_length(struct http_framing *f)
{
	uint64_t value = 0;

	/* 19 digits cannot overflow; a body of more than 2^63 bytes is no body */
	for (unsigned i = 0; i < f->token_len; i++) {
		if (i >= 19 || f->token[i] < '0' || f->token[i] > '9')
			return fail(f);
		value = value * 10 + (uint64_t)(f->token[i] - '0');
	}
	if ((f->flags & SIZED) && value != f->left)
		return fail(f);
	f->flags |= SIZED;
	f->left = value;
}

static bool token_is(const struct http_framing *f, const char *word, size_t len)
{
	return f->token_len == len && memcmp(f->token, word, len) == 0;
}

#define TOKEN_IS(f, word) token_is((f), (word), sizeof(word) - 1)

/* One element of a field's value is complete in ->token. */
static void token_end(struct http_framing *f)
{
	if (f->token_len == 0)
		return;
	switch (f->field) {
	case CONTENT_LENGTH:
		content_length(f);
		break;
	case TRANSFER_ENCODING:
		if (TOKEN_IS(f, "chunked"))
			f->flags |= CODED | CHUNKED;
		else if (!TOKEN_IS(f, "identity"))
			f->flags = (uint16_t)((f->flags | CODED) & ~CHUNKED);
		break;
	case CONNECTION:
		if (TOKEN_IS(f, "close"))
			f->flags |= SAID_CLOSE;
		else if (TOKEN_IS(f, "keep-alive"))
			f->flags |= SAID_KEEP_ALIVE;
		break;
	case UPGRADE:
		f->flags |= SAID_UPGRADE;
		break;
	case EXPECT:
		if (TOKEN_IS(f, "100-continue"))
			f->flags |= SAID_CONTINUE;
		break;
	default:
		break;
	}
	f->token_len = 0;
}

static void value_bytes(struct http_framing *f, struct span *in)
{
	if (f->field == CONNECTION && f->token_len == 0 && TAKE(in, " keep-alive\r\n")) {
		f->flags |= SAID_KEEP_ALIVE;
		f->state = LINE;
	}
	while (in->at < in->end && f->state == VALUE) {
		char c = *in->at++;

		switch (c) {
		case '\n':
			f->state = LINE;
			token_end(f);
			break;
		case ',':
		case ' ':
		case '\t':
		case '\r':
			token_end(f);
			break;
		case ';':
			f->state = PARAMETER;
			token_end(f);
			break;
		default:
			if (f->token_len < sizeof(f->token)) /* no word we know is that long */
				f->token[f->token_len++] = lower(c);
		}
	}
}

static void parameter_bytes(struct http_framing *f, struct span *in)
{
	while (in->at < in->end && f->state == PARAMETER) {
		char c = *in->at++;

		if (c == ',')
			f->state = VALUE;
		else if (c == '\n')
			f->state = LINE;
	}
}

static uint64_t eight(const char *at)
{
	uint64_t bytes;

	memcpy(&bytes, at, sizeof(bytes));
	return bytes;
}

/* Eight bytes, those in lower case for which @letters has a blank: only letters become letters by that. */
static bool is_eight(const char *at, const char *letters, const char *name)
{
	return (eight(at) | eight(letters)) == eight(name);
}

/* The name of a line that begins with a c; false when the bytes at hand do not tell. */
static bool c_name_at_once(struct http_framing *f, struct span *in)
{
	const char *line = in->at - 1;

	if (in->end - line < 16)
		return false;
	if (is_eight(line, "       \0", "content-")) {
		if (is_eight(line + 7, "\0      \0", "-length:")) {
			f->field = CONTENT_LENGTH;
			f->state = VALUE;
			in->at = line + 15;
			return true;
		}
		if (lower(line[8]) == 'l')
			return false;
	} else if (is_eight(line, "        ", "connecti")) {
		if (!is_eight(line + 3, "       \0", "nection:"))
			return false;
		f->state = VALUE;
		in->at = line + 11;
		return true;
	}
	f->field = OTHER;
	f->state = SKIP;
	return true;
}

/* The first byte of a header line decides: one of ours, a folded line, the end, or nothing to us. */
static void line_start(struct http_framing *f, struct span *in)
{
	char c = *in->at++;

	if (c == ' ' || c == '\t') {
		f->state = f->field == OTHER ? SKIP : VALUE;
		return;
	}
	f->field = OTHER;
	f->position = 1;
	f->state = NAME;
	switch (c) {
	case 'c':
	case 'C':
		f->field = CONNECTION; /* or Content-Length: the fourth letter tells */
		break;
	case 't':
	case 'T':
		f->field = TRANSFER_ENCODING;
		break;
	case 'u':
	case 'U':
		f->field = UPGRADE;
		break;
	case 'e':
	case 'E':
		f->field = EXPECT;
		break;
	case '\r':
		f->state = LAST_LF;
		break;
	case '\n':
		f->state = END;
		break;
	default:
		f->state = SKIP;
	}
	if (f->state == NAME && (f->flags & TRAILERS)) {
		f->field = OTHER;
		f->state = SKIP;
	}
	if (f->state == NAME && f->field == CONNECTION)
		c_name_at_once(f, in);
}

static void name_bytes(struct http_framing *f, struct span *in)
{
	for (; in->at < in->end; in->at++) {
		char c = lower(*in->at), want = names[f->field][f->position];

		if (c == want && c != '\0') {
			f->position++;
		} else if (c == 't' && f->field == CONNECTION && f->position == 3) {
			f->field = CONTENT_LENGTH;
			f->position++;
		} else if (want == '\0' && c == ':') {
			in->at++;
			f->state = VALUE;
			return;
		} else if (want != '\0' || (c != ' ' && c != '\t')) {
			f->field = OTHER;
			f->state = SKIP;
			return;
		}
	}
}

/* Header lines up to the end of the head or of the trailers: then the state is END. */
static void line_bytes(struct http_framing *f, struct span *in)
{
	while (in->at < in->end) {
		switch (f->state) {
		case LINE:
			line_start(f, in);
			break;
		case NAME:
			name_bytes(f, in);
			break;
		case VALUE:
			value_bytes(f, in);
			break;
		case PARAMETER:
			parameter_bytes(f, in);
			break;
		case SKIP:
			if (skip_lines(in))
				f->state = LINE;
			break;
		case LAST_LF:
			f->state = *in->at++ == '\n' ? END : NOT_HTTP;
			break;
		default:
			return;
		}
	}
}

/* ---- Bodies ---- */

static void chunk_size(struct http_framing *f, char c)
{
	unsigned digit = 16;

	if (c >= '0' && c <= '9')
		digit = (unsigned)(c - '0');
	else if (lower(c) >= 'a' && lower(c) <= 'f')
		digit = (unsigned)(lower(c) - 'a') + 10;
	if (digit < 16) {
		if (f->left >> 59) /* no chunk has 2^63 bytes */
			return fail(f);
		f->left = f->left << 4 | digit;
		f->position = 1;
	} else if (f->position && (c == '\n' || c == '\r')) {
		f->state = c == '\n' ? CHUNK : CHUNK_SIZE_LF;
	} else if (f->position && (c == ';' || c == ' ' || c == '\t')) {
		f->state = CHUNK_EXTENSION;
	} else {
		fail(f);
	}
}

/* A chunk's size is known: its data follows, or the trailers. */
static void chunk_begin(struct http_framing *f)
{
	f->position = 0;
	if (f->left == 0) {
		f->flags |= TRAILERS;
		f->field = OTHER;
		f->state = LINE;
	}
}

static void chunk_size_next(struct http_framing *f)
{
	f->position = 0;
	f->left = 0;
	f->state = CHUNK_SIZE;
}

/* What stands around the chunks. */
static void chunk_line_bytes(struct http_framing *f, struct span *in)
{
	while (in->at < in->end) {
		switch (f->state) {
		case CHUNK_SIZE:
			chunk_size(f, *in->at++);
			break;
		case CHUNK_EXTENSION:
			if (skip_line(in))
				f->state = CHUNK;
			break;
		case CHUNK_SIZE_LF:
			f->state = *in->at++ == '\n' ? CHUNK : NOT_HTTP;
			break;
		case CHUNK_CR:
		case CHUNK_LF:
			if (*in->at == '\n')
				chunk_size_next(f);
			else if (f->state == CHUNK_CR && *in->at == '\r')
				f->state = CHUNK_LF;
			else
				fail(f);
			in->at++;
			break;
		default:
			return;
		}
		if (f->state == CHUNK)
			return chunk_begin(f);
	}
}

/* Pass over @len bytes of body, seen or not; returns how many belonged to it. */
static size_t body_skip(struct http_framing *f, size_t len)
{
	if (f->state == CLOSE)
		return len;
	if (len > f->left)
		len = (size_t)f->left;
	f->left -= len;
	if (f->left == 0)
		f->state = f->state == LENGTH ? END : CHUNK_CR;
	return len;
}

/* Bytes that passed unseen. */
static size_t unseen(struct http_framing *f, size_t len)
{
	if (len == 0)
		return 0;
	if (f->state == LENGTH || f->state == CHUNK || f->state == CLOSE) {
		f->flags |= BODY_SEEN;
		return body_skip(f, len);
	}
	if (f->state != UPGRADED)
		fail(f);
	return len;
}

/* One step of the part that both directions share. */
static void framing_step(struct http_framing *f, struct span *in)
{
	if (f->state <= LAST_LF) {
		line_bytes(f, in);
		return;
	}
	f->flags |= BODY_SEEN;
	if (f->state < LENGTH)
		chunk_line_bytes(f, in);
	else
		in->at += body_skip(f, (size_t)(in->end - in->at));
}

/* What is neither start line nor head: how the body ends, told by the head alone. */
static void body_begin(struct http_framing *f, bool until_close)
{
	uint64_t length = f->left;

	f->position = 0;
	f->field = OTHER;
	f->left = 0;
	if (f->flags & CHUNKED) {
		f->state = CHUNK_SIZE;
	} else if ((f->flags & (SIZED | CODED)) == SIZED) {
		f->left = length;
		f->state = length ? LENGTH : END;
	} else {
		f->state = until_close ? CLOSE : END;
	}
}

static bool keeps_alive(const struct http_framing *f)
{
	if (f->flags & SAID_CLOSE)
		return false;
	return !(f->flags & OLD) || (f->flags & SAID_KEEP_ALIVE);
}

/*
 * The bytes that a step may look at: in heads and lines no more than HTTP_HEAD_MAX allows, so that the limit strikes at the same
 * byte however the stream is cut.
 */
static struct span span_of(const struct http_framing *f, const char *data, size_t len)
{
	if (f->state < LENGTH && len > HTTP_HEAD_MAX - f->lined)
		len = HTTP_HEAD_MAX - f->lined;
	return (struct span){ data, data + len };
}

static void count_lined(struct http_framing *f, size_t used)
{
	if (f->state >= LENGTH) {
		f->lined = 0;
		return;
	}
	f->lined += (uint32_t)used;
	if (f->lined >= HTTP_HEAD_MAX)
		fail(f);
}

/* ---- Requests ---- */

static void path_append(struct http_head *head, const char *data, size_t len)
{
	size_t room = HTTP_PATH_MAX - 1u - head->path_len;

	if (len > room) {
		head->truncated = true;
		len = room;
	}
	/* the NUL first: the agent's thread may look at a request in progress */
	head->path[head->path_len + len] = '\0';
	memcpy(head->path + head->path_len, data, len);
	head->path_len = (uint16_t)(head->path_len + len);
}

static void request_begin(struct http_framing *f, struct http_head *head, char c)
{
	if (c < 'A' || c > 'Z')
		return fail(f);
	http_head_begun(head, c);
	f->position = 1;
	f->state = METHOD;
}

/* What most requests begin with. */
static bool method_at_once(struct http_framing *f, struct http_head *head, struct span *in)
{
	if (f->position != 1 || head->method[0] != 'G' || !TAKE(in, "ET "))
		return false;
	memcpy(head->method, "GET", 3);
	f->position = 0;
	f->state = TARGET;
	return true;
}

static bool version_at_once(struct http_framing *f, struct http_head *head, struct span *in)
{
	if (f->position != 0 || !TAKE(in, "HTTP/1.1\r\n"))
		return false;
	head->minor = 1;
	f->state = LINE;
	return true;
}

static void method_byte(struct http_framing *f, struct http_head *head, char c)
{
	if ((c >= 'A' && c <= 'Z') || c == '-') {
		if (f->position >= HTTP_METHOD_MAX)
			return fail(f);
		head->method[f->position++] = c;
		return;
	}
	/* "PRI" opens HTTP/2 */
	if (c != ' ' || f->position < 3 || memcmp(head->method, "PRI", 4) == 0)
		return fail(f);
	head->is_head = memcmp(head->method, "HEAD", 5) == 0;
	head->is_connect = memcmp(head->method, "CONNECT", 8) == 0;
	f->position = 0;
	f->state = TARGET;
}

/* Neither a space nor a control character: may stand in a target. */
static bool is_visible(char c)
{
	return (unsigned char)c > ' ' && c != 0x7f;
}

static void target_begin(struct http_framing *f, struct http_head *head, char c)
{
	if (c == '/')
		f->state = PATH;
	else if (c == '*' || (head->is_connect && is_visible(c)))
		f->state = WHOLE;
	else if (lower(c) == 'h')
		f->state = SCHEME;
	else
		return fail(f);
	if (f->state == SCHEME)
		f->position = 1;
	else
		path_append(head, &c, 1);
}

/* http:// or https:// */
static void scheme_byte(struct http_framing *f, char c)
{
	static const char https[] = "https://";

	if (f->position == 4 && c == ':')
		f->position = 5;
	if (lower(c) != https[f->position])
		return fail(f);
	if (++f->position == sizeof(https) - 1)
		f->state = AUTHORITY;
}

static void target_end(struct http_framing *f, struct http_head *head, char c)
{
	if (f->state == WHOLE && !head->is_connect && head->path_len > 1)
		return fail(f); /* "*" stands alone */
	if (c == '?' || c == '#') {
		f->state = QUERY;
	} else if (c == ' ') {
		f->position = 0;
		f->state = VERSION;
	} else {
		return fail(f);
	}
	if (head->path_len == 0)
		path_append(head, "/", 1);
}

static void path_bytes(struct http_framing *f, struct http_head *head, struct span *in)
{
	const char *start = in->at;
	bool whole = f->state == WHOLE;
	char c = 0;

	while (in->at < in->end) {
		c = *in->at;
		if (!is_visible(c) || (!whole && (c == '?' || c == '#')))
			break;
		in->at++;
	}
	path_append(head, start, (size_t)(in->at - start));
	if (in->at < in->end) {
		in->at++;
		target_end(f, head, c);
	}
}

static void authority_byte(struct http_framing *f, struct http_head *head, char c)
{
	if (c == '/') {
		f->state = PATH;
		path_append(head, &c, 1);
	} else if (!is_visible(c) || c == '?' || c == '#') {
		target_end(f, head, c);
	}
}

static void query_bytes(struct http_framing *f, struct span *in)
{
	size_t len = (size_t)(in->end - in->at);
	const char *space = memchr(in->at, ' ', len);

	if (memchr(in->at, '\n', space ? (size_t)(space - in->at) : len))
		return fail(f);
	in->at = space ? space + 1 : in->end;
	if (space) {
		f->position = 0;
		f->state = VERSION;
	}
}

/* "HTTP/1." and a digit, in both directions; true when the digit was read. */
static bool version_byte(struct http_framing *f, char c)
{
	if (f->position < sizeof(protocol) - 1) {
		if (c != protocol[f->position++])
			fail(f);
		return false;
	}
	if (c < '0' || c > '9') {
		fail(f);
		return false;
	}
	if (c == '0')
		f->flags |= OLD;
	f->position = 0;
	return true;
}

static void line_end(struct http_framing *f, char c)
{
	if (c == '\n')
		f->state = LINE;
	else if (c == '\r' && f->position == 0)
		f->position = 1;
	else if (c != ' ' || f->position != 0)
		fail(f);
}

/* The request line, up to BEGIN or to its end. */
static void request_line(struct http_framing *f, struct http_head *head, struct span *in,
			 enum http_event *event)
{
	while (in->at < in->end) {
		switch (f->state) {
		case START:
			if (*in->at != '\r' && *in->at != '\n') {
				request_begin(f, head, *in->at++);
				*event = HTTP_REQUEST_BEGIN;
				return;
			}
			in->at++;
			break;
		case METHOD:
			if (!method_at_once(f, head, in))
				method_byte(f, head, *in->at++);
			break;
		case TARGET:
			target_begin(f, head, *in->at++);
			break;
		case SCHEME:
			scheme_byte(f, *in->at++);
			break;
		case AUTHORITY:
			authority_byte(f, head, *in->at++);
			break;
		case PATH:
		case WHOLE:
			path_bytes(f, head, in);
			break;
		case QUERY:
			query_bytes(f, in);
			break;
		case VERSION:
			if (version_at_once(f, head, in))
				break;
			if (version_byte(f, *in->at)) {
				head->minor = (uint8_t)(*in->at - '0');
				f->state = LINE_END;
			}
			in->at++;
			break;
		case LINE_END:
			line_end(f, *in->at++);
			break;
		default:
			return;
		}
	}
}

static enum http_event request_head(struct http_framing *f, struct http_head *head)
{
	/* a request cannot end with the connection, so this one's end cannot be known */
	if ((f->flags & (CODED | CHUNKED)) == CODED) {
		fail(f);
		return HTTP_NOT_HTTP;
	}
	head->keep_alive = keeps_alive(f);
	head->upgrade = (f->flags & SAID_UPGRADE) != 0;
	head->expect_continue = (f->flags & SAID_CONTINUE) != 0;
	body_begin(f, false);
	head->has_body = f->state != END;
	f->flags |= WAS_HTTP;
	return HTTP_REQUEST_HEAD;
}

/* ---- Responses ---- */

static void response_begin(struct http_response_parser *p, char c)
{
	p->status = 0;
	p->framing.position = 1;
	p->framing.state = c == protocol[0] ? PROTOCOL : NOT_HTTP;
}

static void status_byte(struct http_response_parser *p, char c)
{
	struct http_framing *f = &p->framing;

	if (f->position == 0 || f->position == 4) {
		/* a space before; a space, or nothing more, behind */
		if (c != ' ' && (f->position == 0 || (c != '\r' && c != '\n')))
			return fail(f);
		if (f->position == 4)
			f->state = c == '\n' ? LINE : SKIP;
	} else {
		if (c < '0' || c > '9' || (f->position == 1 && c == '0'))
			return fail(f);
		p->status = (uint16_t)(p->status * 10 + (c - '0'));
	}
	f->position++;
}

/* The status line, up to BEGIN or to its reason phrase, which is skipped as a header line is. */
static void status_line(struct http_response_parser *p, struct span *in, enum http_event *event)
{
	struct http_framing *f = &p->framing;

	while (in->at < in->end) {
		switch (f->state) {
		case START:
			if (*in->at != '\r' && *in->at != '\n') {
				response_begin(p, *in->at++);
				*event = HTTP_RESPONSE_BEGIN;
				return;
			}
			in->at++;
			break;
		case PROTOCOL:
			if (f->position == 1 && TAKE(in, "TTP/1.1 200 ")) {
				p->status = 200;
				f->position = 5;
				f->state = SKIP;
			} else if (version_byte(f, *in->at++)) {
				f->state = STATUS;
			}
			break;
		case STATUS:
			status_byte(p, *in->at++);
			break;
		default:
			return;
		}
	}
}

static enum http_event response_head(struct http_response_parser *p)
{
	struct http_framing *f = &p->framing;
	unsigned status = p->status;

	f->flags |= WAS_HTTP;
	if (status < 200 && status != 101) {
		message_reset(f);
		return HTTP_RESPONSE_INTERIM;
	}
	p->keep_alive = keeps_alive(f);
	if (status == 101 || (p->to_connect && status < 300)) {
		f->flags |= UPGRADES;
		f->state = END;
	} else if (p->to_head || status == 204 || status == 304) {
		f->state = END;
	} else {
		body_begin(f, true);
		if (f->state == CLOSE)
			p->keep_alive = false;
	}
	p->to_head = p->to_connect = false;
	return HTTP_RESPONSE_HEAD;
}

/* ---- Both ---- */

static void message_end(struct http_framing *f)
{
	bool upgrades = f->flags & UPGRADES;

	message_reset(f);
	if (upgrades)
		f->state = UPGRADED;
}

/* One of @head and @response is given: it tells the direction. */
static size_t feed(struct http_framing *f, struct http_head *head,
		   struct http_response_parser *response, const char *data, size_t len,
		   enum http_event *event)
{
	size_t used = 0;

	*event = HTTP_NONE;
	if (!data && f->state < END)
		used = unseen(f, len);
	while (data && used < len && f->state < END && *event == HTTP_NONE) {
		struct span in = span_of(f, data + used, len - used);
		const char *start = in.at;
		bool in_head = f->state < CHUNK_SIZE && !(f->flags & TRAILERS);

		if (f->state >= LINE)
			framing_step(f, &in);
		else if (head)
			request_line(f, head, &in, event);
		else
			status_line(response, &in, event);
		used += (size_t)(in.at - start);
		count_lined(f, (size_t)(in.at - start));
		if (in_head && f->state == END)
			*event = head ? request_head(f, head) : response_head(response);
	}
	if (f->state == NOT_HTTP || f->state == UPGRADED) {
		*event = f->state == UPGRADED ? HTTP_UPGRADED : HTTP_NOT_HTTP;
		return len;
	}
	if (f->state == END && *event == HTTP_NONE) {
		*event = head ? HTTP_REQUEST_END : HTTP_RESPONSE_END;
		message_end(f);
	}
	return used;
}

void http_request_init(struct http_request_parser *p)
{
	framing_init(&p->framing);
}

void http_response_init(struct http_response_parser *p)
{
	memset(p, 0, sizeof(*p));
	framing_init(&p->framing);
}

size_t http_request_feed(struct http_request_parser *p, struct http_head *head, const char *data,
			 size_t len, enum http_event *event)
{
	return feed(&p->framing, head, NULL, data, len, event);
}

size_t http_response_feed(struct http_response_parser *p, const char *data, size_t len,
			  enum http_event *event)
{
	return feed(&p->framing, NULL, p, data, len, event);
}

void http_response_expect(struct http_response_parser *p, bool to_head, bool to_connect)
{
	p->to_head = to_head;
	p->to_connect = to_connect;
}

void http_request_upgrade(struct http_request_parser *p)
{
	p->framing.state = UPGRADED;
}

bool http_request_abandon(struct http_request_parser *p)
{
	struct http_framing *f = &p->framing;

	if ((f->flags & (SAID_CONTINUE | BODY_SEEN)) != SAID_CONTINUE ||
	    (f->state != LENGTH && f->state != CHUNK_SIZE))
		return false;
	message_reset(f);
	return true;
}

enum http_close http_response_close(struct http_response_parser *p)
{
	struct http_framing *f = &p->framing;
	enum http_close how = HTTP_CLOSE_CUT;

	if (f->state == NOT_HTTP || f->state == UPGRADED)
		return HTTP_CLOSE_GONE;
	if (f->state == START || f->state == END)
		how = HTTP_CLOSE_IDLE;
	else if (f->state == CLOSE)
		how = HTTP_CLOSE_END;
	f->state = NOT_HTTP;
	f->flags = 0; /* nothing is lost by bytes after the close */
	return how;
}

bool http_request_lost(const struct http_request_parser *p)
{
	return p->framing.state == NOT_HTTP && (p->framing.flags & WAS_HTTP);
}

bool http_response_lost(const struct http_response_parser *p)
{
	return p->framing.state == NOT_HTTP && (p->framing.flags & WAS_HTTP);
}

/* ---- A guess at the first bytes ---- */

static enum http_sniff sniff_target(const char *data, size_t len, size_t method_len)
{
	char c;

	if (method_len < 3 || data[method_len] != ' ' ||
	    (method_len == 3 && memcmp(data, "PRI", 3) == 0))
		return HTTP_SNIFF_NO;
	if (len == method_len + 1)
		return HTTP_SNIFF_MORE;
	c = data[method_len + 1];
	if (c == '/' || c == '*' || lower(c) == 'h')
		return HTTP_SNIFF_REQUEST;
	if (method_len == 7 && memcmp(data, "CONNECT", 7) == 0 && is_visible(c))
		return HTTP_SNIFF_REQUEST;
	return HTTP_SNIFF_NO;
}

enum http_sniff http_sniff_text(const char *data, size_t len)
{
	size_t i = 0;

	while (len > 0 && (*data == '\r' || *data == '\n'))
		data++, len--;
	while (i < len && i < sizeof(protocol) - 1 && data[i] == protocol[i])
		i++;
	if (i == sizeof(protocol) - 1)
		return HTTP_SNIFF_RESPONSE;
	if (i == len)
		return HTTP_SNIFF_MORE;
	for (i = 0; i < len; i++) {
		if (data[i] == '-' ? i == 0 : (data[i] < 'A' || data[i] > 'Z'))
			return sniff_target(data, len, i);
		if (i == HTTP_METHOD_MAX)
			return HTTP_SNIFF_NO;
	}
	return HTTP_SNIFF_MORE;
}
