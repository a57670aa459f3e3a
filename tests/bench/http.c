/* SPDX-License-Identifier: MIT
 *
 * What reading HTTP costs a host, in ns per head and per route: best of several runs, because the machine is shared.
 */
#include "agent/hook/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "agent/core/route.h"

static const char curl[] =
	"GET /fib/35 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/7.88.1\r\n"
	"Accept: */*\r\n\r\n";

static const char proxied[] =
	"GET /api/v1/users/4711/orders?page=2&sort=created HTTP/1.1\r\nHost: shop.example.org\r\n"
	"X-Forwarded-For: 10.1.2.3\r\nX-Real-IP: 10.1.2.3\r\nConnection: keep-alive\r\n"
	"Accept: application/json\r\nAccept-Encoding: gzip\r\n\r\n";

static const char browser[] =
	"GET /assets/app.3f2a9c1b.js HTTP/1.1\r\nHost: shop.example.org\r\nConnection: "
	"keep-alive\r\n"
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
	"Chrome/120.0.0.0 Safari/537.36\r\nAccept: */*\r\nSec-Fetch-Site: same-origin\r\n"
	"Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: script\r\nReferer: "
	"https://shop.example.org/\r\n"
	"Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9\r\n"
	"Cookie: session=eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9; theme=dark\r\n\r\n";

static const char answer[] =
	"HTTP/1.1 200 OK\r\nDate: Fri, 20 Nov 2026 06:40:24 GMT\r\nServer: nginx/1.22.1\r\n"
	"Content-Type: application/json\r\nContent-Length: 17\r\nConnection: keep-alive\r\n\r\n"
	"{\"answer\":   42}\n";

enum {
	RUNS = 15,
	ROUNDS = 20000
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static size_t requests(const char *text, size_t len)
{
	struct http_request_parser p;
	struct http_head head;
	enum http_event event;
	size_t events = 0;

	http_request_init(&p);
	for (int i = 0; i < ROUNDS; i++) {
		size_t at = 0;

		do {
			at += http_request_feed(&p, &head, text + at, len - at, &event);
			events += event == HTTP_REQUEST_END;
		} while (http_more(event));
	}
	return events;
}

static size_t responses(const char *text, size_t len)
{
	struct http_response_parser p;
	enum http_event event;
	size_t events = 0;

	http_response_init(&p);
	for (int i = 0; i < ROUNDS; i++) {
		size_t at = 0;

		do {
			at += http_response_feed(&p, text + at, len - at, &event);
			events += event == HTTP_RESPONSE_END;
		} while (http_more(event));
	}
	return events;
}

static struct route_table *table;

static size_t routes(const char *path, size_t len)
{
	size_t good = 0;

	(void)len;
	for (int i = 0; i < ROUNDS; i++)
		good += route_from_http(table, "GET", path, 200) != 0;
	return good;
}

static void measure(const char *what, size_t (*run)(const char *, size_t), const char *text)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < RUNS; i++) {
		uint64_t start = now_ns(), ns;

		if (run(text, strlen(text)) != ROUNDS) {
			fprintf(stderr, "%s: not every message was understood\n", what);
			exit(1);
		}
		ns = now_ns() - start;
		best = ns < best ? ns : best;
	}
	printf("%-36s %4zu bytes %7.1f ns\n", what, strlen(text), (double)best / ROUNDS);
}

int main(void)
{
	table = route_table_create(ROUTE_CAP);
	if (!table)
		return 1;
	measure("request head, curl", requests, curl);
	measure("request head, behind a proxy", requests, proxied);
	measure("request head, browser", requests, browser);
	measure("response head and body, nginx", responses, answer);
	measure("route of a known path, short", routes, "/fib/35");
	measure("route of a known path, long", routes, "/api/v1/users/4711/orders/6d0f2c1a/items");
	route_table_destroy(table);
	return 0;
}
