/* SPDX-License-Identifier: MIT
 *
 * libmicrohttpd glue; see http.h.
 *
 * Context: one thread per connection, so that a long question holds up nobody else's.
 * A pool of threads was tried: a connection belongs to one thread of it for life, and the page's live stream stood still
 * while that thread drew another's graph.
 */
#include "server/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "server/api.h"
#include "server/assets.h"
#include "server/counters.h"
#include "server/live.h"
#include "server/log.h"

enum {
	GZIP_MIN_BYTES = 1024,
	GZIP_LEVEL = 1
};

struct http {
	/* constant after start */
	struct MHD_Daemon *daemon;
	struct store *store;
	struct live *live;
	struct buffer page_gzip; /* empty when it could not be made */

	pthread_mutex_t lock;
	pthread_cond_t less; /* heavy has become less */
	unsigned heavy;      /* under lock: answers in the making for which api_heavy() */
};

/* The page is one file with its script and style inside, and talks to nobody but us. */
static const char page_policy[] =
	"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
	"img-src 'self' data: blob:; font-src data:; connect-src 'self'; base-uri 'none'; "
	"form-action 'none'; frame-ancestors 'none'";

/* ---- Who may ask ---- */

/* Whether @host, as in a Host header, names this machine's loopback. */
static bool host_is_local(const char *host)
{
	char name[64];
	const char *colon = strrchr(host, ':');
	size_t len = strlen(host);
	struct in_addr in;
	struct in6_addr in6;

	if (host[0] == '[') {
		host++;
		len = strcspn(host, "]");
	} else if (colon) {
		len = (size_t)(colon - host);
	}
	if (len == 0 || len >= sizeof(name))
		return false;
	memcpy(name, host, len);
	name[len] = 0;
	if (strcasecmp(name, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, name, &in) == 1)
		return ntohl(in.s_addr) >> 24 == 127;
	return inet_pton(AF_INET6, name, &in6) == 1 && IN6_IS_ADDR_LOOPBACK(&in6);
}

/* ---- How answers travel ---- */

/* Whether the client takes gzip: it names it and does not give it the weight 0. */
static bool wants_gzip(struct MHD_Connection *connection)
{
	const char *accept = MHD_lookup_connection_value(connection, MHD_HEADER_KIND,
							 MHD_HTTP_HEADER_ACCEPT_ENCODING);
	const char *found = accept ? strcasestr(accept, "gzip") : NULL;
	const char *weight;

	if (!found)
		return false;
	weight = found + 4;
	weight += strspn(weight, " ");
	if (*weight != ';')
		return *weight == ',' || *weight == 0;
	weight += 1 + strspn(weight + 1, " ");
	return !((weight[0] == 'q' || weight[0] == 'Q') && weight[1] == '=' &&
		 strtod(weight + 2, NULL) <= 0);
}

/* @from compressed, empty on failure. */
static struct buffer gzip(const char *from, size_t len, int level)
{
	struct buffer out = { 0 };
	z_stream z = { 0 };
	uLong bound;

	if (len > UINT32_MAX / 2 ||
	    deflateInit2(&z, level, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		return out;
	bound = deflateBound(&z, (uLong)len);
	out.bytes = malloc(bound);
	z.next_in = (Bytef *)(uintptr_t)from;
	z.avail_in = (uInt)len;
	z.next_out = (Bytef *)out.bytes;
	z.avail_out = (uInt)bound;
	if (out.bytes && deflate(&z, Z_FINISH) == Z_STREAM_END) {
		out.cap = bound;
		out.len = z.total_out;
	} else {
		buffer_fini(&out);
	}
	deflateEnd(&z);
	return out;
}

static enum MHD_Result queue(struct MHD_Connection *connection, unsigned status,
			     struct MHD_Response *response, const char *content_type)
{
	enum MHD_Result result;

	if (!response)
		return MHD_NO; /* out of memory: the connection is closed */
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
	MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
	MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
	MHD_add_response_header(response, "Cross-Origin-Resource-Policy", "same-origin");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

/* Send @reply, and give up what it holds. */
static enum MHD_Result send_reply(struct MHD_Connection *connection, struct api_reply *reply)
{
	struct MHD_Response *response;
	bool packed = false;

	if (reply->body.len > GZIP_MIN_BYTES &&
	    strncmp(reply->content_type, "application/gzip", 16) && wants_gzip(connection)) {
		struct buffer small = gzip(reply->body.bytes, reply->body.len, GZIP_LEVEL);

		if (small.len) {
			buffer_fini(&reply->body);
			reply->body = small;
			packed = true;
		}
	}
	response = MHD_create_response_from_buffer(reply->body.len, reply->body.bytes,
						   MHD_RESPMEM_MUST_FREE);
	if (!response) {
		buffer_fini(&reply->body);
		return MHD_NO;
	}
	if (packed)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_ENCODING, "gzip");
	MHD_add_response_header(response, MHD_HTTP_HEADER_VARY, "Accept-Encoding");
	if (reply->file_name[0]) {
		char disposition[192];

		snprintf(disposition, sizeof(disposition), "attachment; filename=\"%s\"",
			 reply->file_name);
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_DISPOSITION, disposition);
	}
	return queue(connection, reply->status, response, reply->content_type);
}

static enum MHD_Result send_page(struct http *http, struct MHD_Connection *connection)
{
	struct MHD_Response *response;
	bool packed = http->page_gzip.len && wants_gzip(connection);
	char *bytes = packed ? http->page_gzip.bytes : (char *)(uintptr_t)assets_dashboard_html;

	response = MHD_create_response_from_buffer(packed ? http->page_gzip.len
							  : assets_dashboard_html_bytes,
						   bytes, MHD_RESPMEM_PERSISTENT);
	if (!response)
		return MHD_NO;
	if (packed)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_ENCODING, "gzip");
	MHD_add_response_header(response, MHD_HTTP_HEADER_VARY, "Accept-Encoding");
	MHD_add_response_header(response, "Content-Security-Policy", page_policy);
	return queue(connection, MHD_HTTP_OK, response, "text/html; charset=utf-8");
}

static enum MHD_Result send_live(struct http *http, struct MHD_Connection *connection,
				 const struct api_request *request)
{
	struct MHD_Response *response;
	struct api_reply reply = { 0 };
	const char *service;

	if (api_live_parameters(request, &service, &reply))
		return send_reply(connection, &reply);
	response = live_response(http->live, connection, service);
	if (!response) {
		api_error(&reply, 503, "%d clients are watching already: close one of them",
			  LIVE_CLIENTS_MAX);
		return send_reply(connection, &reply);
	}
	return queue(connection, MHD_HTTP_OK, response, "text/event-stream");
}

/* ---- Requests ---- */

struct parameters_context {
	struct api_request *request;
	const char *why;
};

static enum MHD_Result take_parameter(void *context, enum MHD_ValueKind kind, const char *name,
				      size_t name_len, const char *value, size_t value_len)
{
	struct parameters_context *c = context;
	struct api_request *r = c->request;

	(void)kind;
	if (!value)
		value = "";
	if (r->parameter_count == API_PARAMETERS_MAX)
		c->why = "too many parameters";
	else if (!utf8_valid(name, name_len) || !utf8_valid(value, value_len))
		c->why = "a parameter that is not UTF-8";
	else
		r->parameters[r->parameter_count++] = (struct api_parameter){ name, value };
	return c->why ? MHD_NO : MHD_YES;
}

static void answer_in_turn(struct http *http, const struct api_request *request,
			   struct api_reply *reply)
{
	bool heavy = api_heavy(request->path);

	if (heavy) {
		pthread_mutex_lock(&http->lock);
		while (http->heavy == HTTP_HEAVY_MAX)
			pthread_cond_wait(&http->less, &http->lock);
		http->heavy++;
		pthread_mutex_unlock(&http->lock);
	}
	api_answer(request, reply);
	if (heavy) {
		pthread_mutex_lock(&http->lock);
		http->heavy--;
		pthread_cond_signal(&http->less);
		pthread_mutex_unlock(&http->lock);
	}
}

static enum MHD_Result answer(struct http *http, struct MHD_Connection *connection,
			      const char *path, const char *method)
{
	const char *host =
		MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST);
	struct api_request request = { .store = http->store, .path = path };
	struct parameters_context c = { .request = &request };
	struct api_reply reply = { 0 };
	struct timespec now;

	count_add(http_requests_total, 1);
	if (host && !host_is_local(host)) {
		api_error(&reply, 403, "this collector answers only as localhost, not as '%.64s'",
			  host);
		return send_reply(connection, &reply);
	}
	if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
		api_error(&reply, 405, "only GET and HEAD");
		return send_reply(connection, &reply);
	}
	if (!utf8_valid(path, strlen(path))) {
		api_error(&reply, 404, "a path that is not UTF-8");
		return send_reply(connection, &reply);
	}
	MHD_get_connection_values_n(connection, MHD_GET_ARGUMENT_KIND, take_parameter, &c);
	if (c.why) {
		api_error(&reply, 400, "%s", c.why);
		return send_reply(connection, &reply);
	}
	clock_gettime(CLOCK_REALTIME, &now);
	request.now_unix_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	if (strcmp(path, "/") == 0)
		return send_page(http, connection);
	if (strcmp(path, "/api/v1/live") == 0 && strcmp(method, "GET") == 0)
		return send_live(http, connection, &request);
	answer_in_turn(http, &request, &reply);
	return send_reply(connection, &reply);
}

static enum MHD_Result handle(void *context, struct MHD_Connection *connection, const char *path,
			      const char *method, const char *version, const char *body,
			      size_t *body_bytes, void **state)
{
	(void)version;
	(void)body;
	(void)body_bytes;
	(void)state;
	return answer(context, connection, path, method);
}

__attribute__((format(printf, 2, 0))) static void log_daemon(void *context, const char *format,
							     va_list args)
{
	char line[256];

	(void)context;
	vsnprintf(line, sizeof(line), format, args);
	line[strcspn(line, "\n")] = 0;
	log_limited("http: %s", line);
}

/* Bind by ourselves: libmicrohttpd does not say why it could not. Port 0 of @address becomes the one we got. */
static int bind_address(struct address *address)
{
	int fd = socket(address->sock.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int one = 1, err;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, &address->sock.any, address->len) == 0 && listen(fd, 64) == 0 &&
	    getsockname(fd, &address->sock.any, &address->len) == 0)
		return fd;
	err = -errno;
	close(fd);
	return err;
}

static int check_address(const struct address *address, const char *text, char *error,
			 size_t error_bytes)
{
	if (address->sock.any.sa_family == AF_UNIX) {
		snprintf(error, error_bytes, "--http needs an address like 127.0.0.1:7070, not %s",
			 text);
		return -EINVAL;
	}
	if (!address_is_local(address)) {
		snprintf(error, error_bytes,
			 "refuses to serve HTTP at %s: other machines could reach it and this "
			 "version "
			 "has no token to keep them out; use 127.0.0.1 and an SSH tunnel",
			 text);
		return -EPERM;
	}
	return 0;
}

int http_start(struct store *store, struct address *address, struct http **out, char *error,
	       size_t error_bytes)
{
	struct http *http = calloc(1, sizeof(*http));
	char text[160];
	int fd, err;

	*out = NULL;
	address_format(address, true, text, sizeof(text));
	err = check_address(address, text, error, error_bytes);
	if (err || !http) {
		free(http);
		return err ? err : -ENOMEM;
	}
	fd = bind_address(address);
	if (fd < 0) {
		snprintf(error, error_bytes, "cannot serve HTTP at %s: %s; %s", text, strerror(-fd),
			 fd == -EADDRINUSE ? "stop whoever does (another `sonde serve`?) or choose "
					     "another with --http"
					   : "choose another with --http");
		free(http);
		return fd;
	}
	http->store = store;
	pthread_mutex_init(&http->lock, NULL);
	pthread_cond_init(&http->less, NULL);
	http->page_gzip = gzip(assets_dashboard_html, assets_dashboard_html_bytes, 9);
	http->live = live_create(store);
	if (http->live)
		http->daemon = MHD_start_daemon(
			MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_THREAD_PER_CONNECTION |
				MHD_USE_ERROR_LOG,
			0, NULL, NULL, handle, http, MHD_OPTION_EXTERNAL_LOGGER, log_daemon, NULL,
			MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
			(unsigned)HTTP_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
			(unsigned)HTTP_TIMEOUT_SECONDS, MHD_OPTION_END);
	if (!http->daemon) {
		snprintf(error, error_bytes, "cannot start serving HTTP at %s", text);
		close(fd);
		http_stop(http);
		return -EIO;
	}
	*out = http;
	return 0;
}

void http_stop(struct http *http)
{
	if (!http)
		return;
	if (http->live)
		live_stop(http->live);
	if (http->daemon)
		MHD_stop_daemon(http->daemon); /* closes the listening socket */
	live_destroy(http->live);
	buffer_fini(&http->page_gzip);
	pthread_cond_destroy(&http->less);
	pthread_mutex_destroy(&http->lock);
	free(http);
}
