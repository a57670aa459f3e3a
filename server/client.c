/* SPDX-License-Identifier: MIT
 *
 * A small HTTP client for the collector's API: see client.h.
 */
#include "server/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct client_buffer {
	char *data;
	size_t size, capacity;
	bool too_big, no_memory;
};

__attribute__((format(printf, 3, 4))) static int client_fail(struct client *client, int status,
							     const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(client->error, sizeof(client->error), format, arguments);
	va_end(arguments);
	return status;
}

static size_t client_write(char *data, size_t one, size_t size, void *context)
{
	struct client_buffer *b = context;

	(void)one; /* always 1 */
	if (size > CLIENT_ANSWER_MAX_BYTES - b->size) {
		b->too_big = true;
		return 0;
	}
	if (b->size + size + 1 > b->capacity) {
		size_t capacity = 2 * (b->size + size) + 4096;
		char *larger = realloc(b->data, capacity);

		if (!larger) {
			b->no_memory = true;
			return 0;
		}
		b->data = larger;
		b->capacity = capacity;
	}
	memcpy(b->data + b->size, data, size);
	b->size += size;
	b->data[b->size] = '\0';
	return size;
}

static int client_progress(void *context, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
	const struct client *client = context;

	(void)a, (void)b, (void)c, (void)d;
	return client->cancel && *client->cancel;
}

/* What libcurl's failure means to the user. */
static int client_transport_error(struct client *client, CURLcode code,
				  const struct client_buffer *b)
{
	switch (code) {
	case CURLE_COULDNT_CONNECT:
		return client_fail(client, -ECONNREFUSED,
				   "no collector answers at %s; start one with `sonde serve`",
				   client->address);
	case CURLE_COULDNT_RESOLVE_HOST:
		return client_fail(client, -ECONNREFUSED,
				   "cannot find the host of %s; write HOST:PORT", client->address);
	case CURLE_URL_MALFORMAT:
	case CURLE_UNSUPPORTED_PROTOCOL:
		return client_fail(client, -EINVAL, "%s is no address; write HOST:PORT",
				   client->address);
	case CURLE_OPERATION_TIMEDOUT:
		return client_fail(client, -ETIMEDOUT,
				   "the collector at %s does not answer in time; select less, or "
				   "see whether it is busy",
				   client->address);
	case CURLE_ABORTED_BY_CALLBACK:
		return client_fail(client, -ECANCELED, "interrupted");
	case CURLE_WRITE_ERROR:
		if (b->no_memory)
			return client_fail(client, -ENOMEM, "out of memory");
		return client_fail(client, -EFBIG,
				   "the collector's answer is larger than %zu MB; select less",
				   CLIENT_ANSWER_MAX_BYTES >> 20);
	default:
		return client_fail(client, -EPROTO,
				   "what answers at %s does not speak like a collector (%s)",
				   client->address, curl_easy_strerror(code));
	}
}

/* What a status other than 200 means: the collector says it itself in {"error": "..."}. */
static int client_status_error(struct client *client, long status, const struct client_buffer *b)
{
	json_t *root = json_loadb(b->data, b->size, 0, NULL);
	const char *said = json_string_value(json_object_get(root, "error"));
	int result = status < 500 ? -EINVAL : -EIO;

	if (said)
		client_fail(client, result, "the collector says: %.400s", said);
	else
		result = client_fail(
			client, -EPROTO,
			"what answers at %s is no collector (status %ld without a reason)",
			client->address, status);
	json_decref(root);
	return result;
}

static CURL *client_curl(struct client *client, const char *url, struct client_buffer *buffer)
{
	CURL *curl = curl_easy_init();

	if (!curl)
		return NULL;
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CLIENT_CONNECT_MS);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT,
			 client->timeout_s ? client->timeout_s : (long)CLIENT_TIMEOUT_S);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "sonde/" SONDE_VERSION);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, client_write);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, buffer);
	curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, client_progress);
	curl_easy_setopt(curl, CURLOPT_XFERINFODATA, client);
	curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
	return curl;
}

int client_get(struct client *client, const char *path, const char *query, char **body,
	       size_t *size)
{
	const char *scheme = strstr(client->address, "://") ? "" : "http://";
	size_t length = strlen(client->address);
	struct client_buffer buffer = { .data = calloc(1, 4096), .capacity = 4096 };
	CURL *curl = NULL;
	char *url = NULL;
	CURLcode code;
	long status = 0;
	int result = 0;

	if (!buffer.data)
		return client_fail(client, -ENOMEM, "out of memory");
	while (length > 0 && client->address[length - 1] == '/')
		length--;
	if (asprintf(&url, "%s%.*s%s%s", scheme, (int)length, client->address, path,
		     query ? query : "") < 0)
		url = NULL;
	curl = url ? client_curl(client, url, &buffer) : NULL;
	free(url);
	if (!curl) {
		free(buffer.data);
		return client_fail(client, -ENOMEM, "out of memory");
	}
	code = curl_easy_perform(curl);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_cleanup(curl);
	if (code != CURLE_OK)
		result = client_transport_error(client, code, &buffer);
	else if (status != 200)
		result = client_status_error(client, status, &buffer);
	if (result < 0) {
		free(buffer.data);
		return result;
	}
	*body = buffer.data;
	*size = buffer.size;
	return 0;
}

int client_json(struct client *client, const char *path, const char *query, json_t **out)
{
	char *body;
	size_t size;
	int status = client_get(client, path, query, &body, &size);

	if (status < 0)
		return status;
	*out = json_loadb(body, size, 0, NULL);
	free(body);
	if (json_is_object(*out))
		return 0;
	json_decref(*out);
	return client_fail(client, -EPROTO,
			   "what answers at %s is no collector (its answer is not JSON)",
			   client->address);
}
