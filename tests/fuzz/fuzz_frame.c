/* SPDX-License-Identifier: MIT
 *
 * Whatever bytes an agent sends: cut into messages as ingest does, given to a session over a real store, and then asked
 * about, because what was accepted must be harmless to every question as well. Nothing is kept from one input to the next.
 */
#include <sqlite3.h>
#include <unistd.h>

#include "server/api.h"
#include "server/session.h"
#include "server/store.h"
#include "tests/fuzz/replay.h"

static char dir[] = "/tmp/sonde-fuzz-XXXXXX";
static struct store *store;

static void clean_up(void)
{
	DIR *open_dir = opendir(dir);

	store_close(store);
	for (struct dirent *e; open_dir && (e = readdir(open_dir));)
		unlinkat(dirfd(open_dir), e->d_name, 0);
	if (open_dir)
		closedir(open_dir);
	rmdir(dir);
}

static void ask(const char *path, const char *from)
{
	struct api_request request = { .store = store,
				       .path = path,
				       .parameters = { { "from", from }, { "to", "now" } },
				       .parameter_count = from ? 2 : 0,
				       .now_unix_ns = INT64_MAX };
	struct api_reply reply;

	api_answer(&request, &reply);
	FUZZ_CHECK(reply.status == 200 || reply.status == 400);
	buffer_fini(&reply.body);
}

static void forget(void)
{
	static const char sql[] =
		"BEGIN; DELETE FROM instance; DELETE FROM window; DELETE FROM module;"
		"DELETE FROM function; DELETE FROM stack; DELETE FROM route;"
		"DELETE FROM thread; DELETE FROM object; COMMIT";
	static sqlite3 *db;
	char path[64];

	metrics_reset();
	snprintf(path, sizeof(path), "%s/sonde.db", dir);
	if (!db)
		FUZZ_CHECK(sqlite3_open(path, &db) == SQLITE_OK);
	FUZZ_CHECK(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct session *session;
	struct buffer out = { 0 };
	const char *why = NULL;
	char error[512];
	bool kept = true;

	if (!store) {
		FUZZ_CHECK(mkdtemp(dir) &&
			   store_open(dir, 1ull << 40, &store, error, sizeof(error)) == 0);
		atexit(clean_up);
	}
	session = session_create(store);
	FUZZ_CHECK(session && store_begin(store) == 0);
	while (kept && len >= 4) {
		uint32_t size = (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 |
				(uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;

		if (size > len - 4)
			break;
		kept = session_frame(session, bytes + 4, size, &out, &why) == 0;
		FUZZ_CHECK(kept ||
			   why); /* an agent's bytes never look like a failure of the store */
		bytes += 4 + size;
		len -= 4 + size;
	}
	FUZZ_CHECK(store_commit(store) == 0);
	session_committed(session);
	if (session_instance(session)) {
		ask("/api/v1/processes", "0");
		ask("/api/v1/routes", "0");
		ask("/api/v1/latency", "0");
		ask("/api/v1/flame", "0");
		ask("/metrics", NULL);
		forget();
	}
	session_destroy(session);
	buffer_fini(&out);
	return 0;
}
