/* SPDX-License-Identifier: MIT
 *
 * A growing buffer, and JSON written straight into it: no tree, so a large flame graph costs its text only. Commas are put
 * by themselves. Running out of memory is remembered in buffer.failed and checked once, at the end.
 * Context: server, one thread at a time.
 */
#ifndef SERVER_JSON_H
#define SERVER_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer {
	char *bytes;
	size_t len, cap;
	bool failed; /* out of memory: the content is not complete */
};

void buffer_add(struct buffer *b, const void *bytes, size_t len);
void buffer_text(struct buffer *b, const char *text);
__attribute__((format(printf, 2, 3))) void buffer_print(struct buffer *b, const char *format, ...);
void buffer_fini(struct buffer *b);

/** Whether @bytes are valid UTF-8 without NUL. Context: any. */
bool utf8_valid(const char *bytes, size_t len);

struct json {
	struct buffer out;
	bool comma; /* the next value needs one before it */
};

/* Every function takes the member's name, or NULL inside an array and at the top. */
void json_object_begin(struct json *j, const char *key);
void json_object_end(struct json *j);
void json_array_begin(struct json *j, const char *key);
void json_array_end(struct json *j);
void json_u64(struct json *j, const char *key, uint64_t value);
void json_bool(struct json *j, const char *key, bool value);

/** @text is escaped; what is not UTF-8 becomes U+FFFD; NULL becomes null. */
void json_text(struct json *j, const char *key, const char *text);

/** @value with @digits after the point; not a number becomes 0. */
void json_double(struct json *j, const char *key, double value, int digits);

/** Unix ns as seconds with milliseconds. */
void json_seconds(struct json *j, const char *key, uint64_t unix_ns);

#endif
