/* SPDX-License-Identifier: MIT
 *
 * Writes JSON; see json.h. Escapes '<' as well, so that an answer pasted into a page by anyone stays text.
 */
#include "server/json.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool buffer_room(struct buffer *b, size_t more)
{
	size_t cap = b->cap ? b->cap : 1024;
	char *bytes;

	if (b->failed)
		return false;
	if (more <= b->cap - b->len)
		return true;
	while (cap - b->len < more)
		cap *= 2;
	bytes = realloc(b->bytes, cap);
	if (!bytes) {
		b->failed = true;
		return false;
	}
	b->bytes = bytes;
	b->cap = cap;
	return true;
}

void buffer_add(struct buffer *b, const void *bytes, size_t len)
{
	if (len && buffer_room(b, len)) {
		memcpy(b->bytes + b->len, bytes, len);
		b->len += len;
	}
}

void buffer_text(struct buffer *b, const char *text)
{
	buffer_add(b, text, strlen(text));
}

void buffer_print(struct buffer *b, const char *format, ...)
{
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(NULL, 0, format, args);
	va_end(args);
	if (len < 0 || !buffer_room(b, (size_t)len + 1))
		return;
	va_start(args, format);
	vsnprintf(b->bytes + b->len, (size_t)len + 1, format, args);
	va_end(args);
	b->len += (size_t)len;
}

void buffer_fini(struct buffer *b)
{
	free(b->bytes);
	*b = (struct buffer){ 0 };
}

/* Length of the UTF-8 sequence at @s of at most @len bytes, 0 when it is none: no overlong forms, no surrogates. */
static size_t utf8_sequence(const unsigned char *s, size_t len)
{
	unsigned char c = s[0], low = 0x80, high = 0xbf;
	size_t n = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;

	if (n <= 1 || n > len)
		return n <= len ? n : 0;
	if (c == 0xe0)
		low = 0xa0;
	else if (c == 0xed)
		high = 0x9f;
	else if (c == 0xf0)
		low = 0x90;
	else if (c == 0xf4)
		high = 0x8f;
	if (s[1] < low || s[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	return n;
}

bool utf8_valid(const char *bytes, size_t len)
{
	const unsigned char *s = (const unsigned char *)bytes;

	for (size_t i = 0, n; i < len; i += n) {
		n = utf8_sequence(s + i, len - i);
		if (n == 0 || s[i] == 0)
			return false;
	}
	return true;
}

static void escape(struct buffer *b, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t len = strlen(text), plain = 0, i = 0;

	while (i < len) {
		size_t n = utf8_sequence(s + i, len - i);

		if (n && s[i] >= 0x20 && s[i] != '"' && s[i] != '\\' && s[i] != '<' &&
		    s[i] != 0x7f) {
			i += n;
			continue;
		}
		buffer_add(b, text + plain, i - plain);
		if (n == 0)
			buffer_text(b, "\\ufffd");
		else
			buffer_print(b, "\\u%04x", s[i]);
		plain = ++i;
	}
	buffer_add(b, text + plain, len - plain);
}

static void key_and_comma(struct json *j, const char *key)
{
	if (j->comma)
		buffer_add(&j->out, ",", 1);
	j->comma = true;
	if (key) {
		buffer_add(&j->out, "\"", 1);
		escape(&j->out, key);
		buffer_add(&j->out, "\":", 2);
	}
}

static void open_level(struct json *j, const char *key, const char *bracket)
{
	key_and_comma(j, key);
	buffer_add(&j->out, bracket, 1);
	j->comma = false;
}

static void close_level(struct json *j, const char *bracket)
{
	buffer_add(&j->out, bracket, 1);
	j->comma = true;
}

void json_object_begin(struct json *j, const char *key)
{
	open_level(j, key, "{");
}

void json_object_end(struct json *j)
{
	close_level(j, "}");
}

void json_array_begin(struct json *j, const char *key)
{
	open_level(j, key, "[");
}

void json_array_end(struct json *j)
{
	close_level(j, "]");
}

void json_u64(struct json *j, const char *key, uint64_t value)
{
	char digits[20];
	size_t i = sizeof(digits);

	if (value > INT64_MAX) /* readers know no more, and would refuse the whole answer */
		value = INT64_MAX;
	key_and_comma(j, key);
	do {
		digits[--i] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	buffer_add(&j->out, digits + i, sizeof(digits) - i);
}

void json_bool(struct json *j, const char *key, bool value)
{
	key_and_comma(j, key);
	buffer_text(&j->out, value ? "true" : "false");
}

void json_text(struct json *j, const char *key, const char *text)
{
	key_and_comma(j, key);
	if (!text) {
		buffer_text(&j->out, "null");
		return;
	}
	buffer_add(&j->out, "\"", 1);
	escape(&j->out, text);
	buffer_add(&j->out, "\"", 1);
}

void json_double(struct json *j, const char *key, double value, int digits)
{
	key_and_comma(j, key);
	buffer_print(&j->out, "%.*f", digits, isfinite(value) ? value : 0.0);
}

void json_seconds(struct json *j, const char *key, uint64_t unix_ns)
{
	uint64_t ms = unix_ns / 1000000;

	key_and_comma(j, key);
	buffer_print(&j->out, "%llu.%03llu", (unsigned long long)(ms / 1000),
		     (unsigned long long)(ms % 1000));
}
