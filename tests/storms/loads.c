/* SPDX-License-Identifier: MIT
 *
 * Libraries come and go while their code runs, is sampled, and is being walked over: two threads load, use and unload, others
 * compute in what is loaded. Every load brings other addresses; the answers stay the same.
 */
#include <dlfcn.h>
#include <link.h>

#include "include/sonde.h"
#include "tests/storms/storm.h"

static struct tally loaded = TALLY("a library loads, answers and goes"),
		    absent = TALLY("what is not there fails as ever"),
		    listed = TALLY("the list of objects can be walked"),
		    nested = TALLY("libraries within libraries");

/* What every machine that builds this has. */
static const char *const names[] = { "libz.so.1", "libzstd.so.1", "libsqlite3.so.0",
				     "libjansson.so.4" };

static bool use_zlib(void *library)
{
	unsigned long (*crc)(unsigned long, const void *, unsigned) =
		(unsigned long (*)(unsigned long, const void *, unsigned))dlsym(library, "crc32");
	int (*compress)(void *, unsigned long *, const void *, unsigned long) =
		(int (*)(void *, unsigned long *, const void *, unsigned long))dlsym(library,
										     "compress");
	unsigned char from[4096], to[5000];
	unsigned long len = sizeof to;

	for (unsigned i = 0; i < sizeof from; i++)
		from[i] = (unsigned char)(i * i >> 3);
	return crc && compress && crc(0, "123456789", 9) == 0xcbf43926 &&
	       compress(to, &len, from, sizeof from) == 0 && len < sizeof from;
}

static bool use_zstd(void *library)
{
	size_t (*compress)(void *, size_t, const void *, size_t, int) =
		(size_t(*)(void *, size_t, const void *, size_t, int))dlsym(library,
									    "ZSTD_compress");
	size_t (*decompress)(void *, size_t, const void *, size_t) =
		(size_t(*)(void *, size_t, const void *, size_t))dlsym(library, "ZSTD_decompress");
	unsigned char from[4096] = "zeros", to[5000], back[4096];
	size_t n = compress ? compress(to, sizeof to, from, sizeof from, 3) : 0;

	return decompress && n > 0 && n < 100 && decompress(back, sizeof back, to, n) == 4096 &&
	       memcmp(from, back, sizeof back) == 0;
}

static bool use_sqlite(void *library)
{
	int (*number)(void) = (int (*)(void))dlsym(library, "sqlite3_libversion_number");
	int (*complete)(const char *) = (int (*)(const char *))dlsym(library, "sqlite3_complete");

	return number && complete && number() > 3000000 && complete("select 1;") == 1;
}

static bool use_jansson(void *library)
{
	const char *(*version)(void) = (const char *(*)(void))dlsym(library, "jansson_version_str");

	return version && version()[0] == '2';
}

static bool (*const uses[])(void *) = { use_zlib, use_zstd, use_sqlite, use_jansson };

static void *loads(void *seed)
{
	uint32_t random = (uint32_t)(uintptr_t)seed;

	while (storm_on()) {
		sonde_request request = sonde_begin("load");
		unsigned which = storm_random(&random) % 4, other = storm_random(&random) % 4;
		void *library =
			dlopen(names[which], storm_random(&random) % 2 ? RTLD_NOW : RTLD_LAZY);
		void *second;

		tally(&loaded, library && uses[which](library), "%s: %s", names[which], dlerror());
		second = dlopen(names[other], RTLD_NOW | RTLD_LOCAL);
		tally(&nested, second && uses[other](second), "%s: %s", names[other], dlerror());
		if (!library || !second)
			break;
		dlerror();
		tally(&absent, dlsym(library, "no_such_symbol") == NULL && dlerror() != NULL,
		      "a symbol that is not there");
		tally(&absent, dlopen("libno-such.so", RTLD_NOW) == NULL && dlerror() != NULL,
		      "a library that is not there");
		tally(&loaded, dlclose(library) == 0, "dlclose: %s", dlerror());
		tally(&nested, uses[other](second) && dlclose(second) == 0, "%s", names[other]);
		sonde_end(request, 0);
	}
	return NULL;
}

static int count(struct dl_phdr_info *info, size_t size, void *counted)
{
	(void)size;
	*(unsigned *)counted += info->dlpi_phnum > 0;
	return 0;
}

static void *lists(void *unused)
{
	(void)unused;
	while (storm_on()) {
		unsigned objects = 0;

		tally(&listed, dl_iterate_phdr(count, &objects) == 0 && objects >= 3, "%u objects",
		      objects);
		storm_burn(100);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	void *(*work[])(void *) = { loads, loads, lists, storm_burner };
	enum {
		COUNT = sizeof work / sizeof *work
	};
	pthread_t threads[COUNT];

	storm_begin(argc, argv);
	tally_list(&loaded);
	tally_list(&nested);
	tally_list(&absent);
	tally_list(&listed);
	for (uintptr_t i = 0; i < COUNT; i++)
		MUST_0(pthread_create(&threads[i], NULL, work[i], (void *)(i + 1)));
	for (unsigned i = 0; i < COUNT; i++)
		MUST_0(pthread_join(threads[i], NULL));
	return storm_end();
}
