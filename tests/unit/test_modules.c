/* SPDX-License-Identifier: MIT
 *
 * What modules.h finds in this very process, held against the loader's own list, while libraries come and go.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/core/maps.h"
#include "agent/core/modules.h"
#include "agent/sig/unwind.h"
#include "unit.h"

/* Nothing here is linked with it, and libc6 always brings it. It wants symbols of a debugger, but only when called. */
#define LIBRARY "libthread_db.so.1"
#define SYMBOL  "td_ta_new"

static struct modules *modules;

static int setup(void **state)
{
	(void)state;
	modules = modules_create();
	return modules && modules_refresh(modules) == 1 ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	modules_destroy(modules);
	return 0;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* ---- What is there ---- */

static int check_loaded(struct dl_phdr_info *info, size_t size, void *count)
{
	const struct module *m;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t code = info->dlpi_addr + p->p_vaddr;

		if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
			continue;
		m = modules_find(modules, code + 1);
		assert_non_null(m);
		assert_ptr_equal(m, modules_get(modules, m->id));
		assert_true(m->mapped && m->start <= code && code + p->p_memsz <= m->end);
		assert_int_equal(m->bias, info->dlpi_addr);
		assert_in_range(m->build_id_len, 8, MODULES_BUILD_ID_MAX);
		assert_non_null(m->rows);
		if (code <= getauxval(AT_SYSINFO_EHDR) && getauxval(AT_SYSINFO_EHDR) < m->end)
			assert_string_equal(m->path, "[vdso]");
		else if (*info->dlpi_name)
			assert_string_equal(base_name(m->path)[0] == 'l' ? "lib" : "", "lib");
		(*(unsigned *)count)++;
	}
	return 0;
}

static void every_loaded_object_is_found(void **state)
{
	unsigned loaded = 0;

	(void)state;
	dl_iterate_phdr(check_loaded, &loaded);
	assert_true(loaded >= 4);
	assert_int_equal(modules_stats(modules)->mapped, loaded);
	assert_int_equal(modules_count(modules), loaded);
	assert_int_equal(modules_stats(modules)->malformed, 0);
	assert_int_equal(modules_stats(modules)->unreadable, 0);
	assert_in_range(modules_memory_bytes(modules), 100000, 32 << 20);
	assert_null(modules_find(modules, 0));
	assert_null(modules_find(modules, (uintptr_t)&loaded));
	assert_null(modules_get(modules, 0));
	assert_null(modules_get(modules, loaded + 1));
}

static void the_vdso_has_a_name_and_rows(void **state)
{
	const struct module *m = modules_find(modules, getauxval(AT_SYSINFO_EHDR) + 64);

	(void)state;
	assert_non_null(m);
	assert_string_equal(m->path, "[vdso]");
	assert_non_null(m->rows);
}

static void nothing_new_changes_nothing(void **state)
{
	uint32_t count = modules_count(modules);
	size_t memory = modules_memory_bytes(modules);
	void *data =
		mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	for (int i = 0; i < 5; i++)
		assert_int_equal(modules_refresh(modules), 0);
	assert_int_equal(modules_count(modules), count);
	assert_int_equal(modules_memory_bytes(modules), memory);
	munmap(data, 1 << 20);
}

static unsigned open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* ---- Coming and going ---- */

static void a_library_is_seen_and_remembered(void **state)
{
	unsigned descriptors = open_descriptors();
	const struct module *m;
	uint32_t id, count;
	uintptr_t pc;
	void *handle;

	(void)state;
	handle = dlopen(LIBRARY, RTLD_LAZY);
	assert_non_null(handle);
	pc = (uintptr_t)dlsym(handle, SYMBOL);
	assert_null(modules_find(modules, pc));
	assert_int_equal(modules_refresh(modules), 1);
	m = modules_find(modules, pc);
	assert_non_null(m);
	assert_true(m->mapped && m->rows && m->build_id_len == 20);
	assert_string_equal(base_name(m->path), LIBRARY);
	id = m->id;
	count = modules_count(modules);

	dlclose(handle);
	assert_int_equal(modules_refresh(modules), 1);
	m = modules_find(modules, pc);
	assert_non_null(m);
	assert_int_equal(m->id, id);
	assert_false(m->mapped);
	assert_null(m->rows);
	assert_ptr_equal(modules_get(modules, id), m);

	/* back again: the same module if it is at the same place, else a new one */
	handle = dlopen(LIBRARY, RTLD_LAZY);
	assert_int_equal(modules_refresh(modules), 1);
	m = modules_find(modules, (uintptr_t)dlsym(handle, SYMBOL));
	assert_non_null(m);
	assert_true(m->mapped && m->rows);
	if ((uintptr_t)dlsym(handle, SYMBOL) == pc)
		assert_int_equal(m->id, id);
	else
		assert_int_equal(m->id, count + 1);
	dlclose(handle);
	assert_int_equal(modules_refresh(modules), 1);
	assert_int_equal(modules_refresh(modules), 0);
	assert_int_equal(open_descriptors(), descriptors);
}

static atomic_int stop;
static atomic_uint walks, loads;
static __thread struct unwind_stack stack;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	struct unwind_regs regs;
	uintptr_t pcs[128];
	enum unwind_end end;

	(void)sig, (void)info;
	unwind_regs_from(&regs, context);
	if (stack.high && unwind_walk(&regs, &stack, pcs, 128, &end))
		walks++;
}

static void *loading_thread(void *arg)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF };
	const struct itimerspec when = { { 0, 100000 }, { 0, 100000 } };
	pthread_attr_t attr;
	size_t size;
	void *low;
	timer_t timer;

	(void)arg;
	pthread_getattr_np(pthread_self(), &attr);
	pthread_attr_getstack(&attr, &low, &size);
	pthread_attr_destroy(&attr);
	stack = (struct unwind_stack){ .low = (uintptr_t)low, .high = (uintptr_t)low + size };
	event._sigev_un._tid = (int)syscall(SYS_gettid);
	timer_create(CLOCK_MONOTONIC, &event, &timer);
	timer_settime(timer, 0, &when, NULL);
	while (!stop) {
		void *handle = dlopen(LIBRARY, RTLD_LAZY);

		if (handle)
			dlclose(handle);
		loads += handle != NULL;
	}
	timer_delete(timer);
	return NULL;
}

static void a_storm_of_loading_is_survived(void **state)
{
	struct sigaction action = { .sa_sigaction = on_signal,
				    .sa_flags = SA_SIGINFO | SA_RESTART };
	struct timespec start, now;
	unsigned changes = 0, loaded = 0;
	pthread_t thread;

	(void)state;
	sigfillset(&action.sa_mask);
	assert_int_equal(sigaction(SIGPROF, &action, NULL), 0);
	stop = 0;
	assert_int_equal(pthread_create(&thread, NULL, loading_thread, NULL), 0);
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		int changed = modules_refresh(modules);

		assert_true(changed >= 0 || changed == -EBUSY);
		changes += changed == 1;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - start.tv_sec < 2);
	stop = 1;
	pthread_join(thread, NULL);
	signal(SIGPROF, SIG_IGN);
	assert_true(changes > 2 && loads > 100 && walks > 100);
	/* and when it is over, everything is as it is */
	for (int i = 0; i < 6; i++)
		assert_true(modules_refresh(modules) >= 0);
	dl_iterate_phdr(check_loaded, &loaded);
	assert_int_equal(modules_stats(modules)->mapped, loaded);
	assert_int_equal(modules_stats(modules)->malformed, 0);
	assert_int_equal(modules_stats(modules)->unreadable, 0);
}

/* ---- Bounds ---- */

/* A file of one page that is an ELF object, with one segment of code and nothing else. */
static int tiny_object(void)
{
	struct {
		ElfW(Ehdr) ehdr;
		ElfW(Phdr) phdr;
	} object = {
		.ehdr = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			  .e_type = ET_DYN,
			  .e_machine = EM_X86_64,
			  .e_phoff = sizeof(ElfW(Ehdr)),
			  .e_phentsize = sizeof(ElfW(Phdr)),
			  .e_phnum = 1 },
		.phdr = { .p_type = PT_LOAD,
			  .p_flags = PF_R | PF_X,
			  .p_filesz = 4096,
			  .p_memsz = 4096 },
	};
	int fd = memfd_create("tiny", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_int_equal(pwrite(fd, &object, sizeof(object), 0), sizeof(object));
	return fd;
}

static char *map_tiny(int fd, unsigned copies)
{
	char *area =
		mmap(NULL, (size_t)copies * 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(area != MAP_FAILED);
	for (unsigned i = 0; i < copies; i++)
		assert_true(mmap(area + i * 8192, 4096, PROT_READ | PROT_EXEC,
				 MAP_PRIVATE | MAP_FIXED, fd, 0) != MAP_FAILED);
	return area;
}

static void the_oldest_unmapped_modules_are_forgotten(void **state)
{
	const unsigned copies = 1500;
	uint32_t before = modules_count(modules);
	int fd = tiny_object();
	char *area[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		area[i] = NULL;
	for (int i = 0; i < 4; i++) {
		area[i] = map_tiny(fd, copies);
		assert_int_equal(modules_refresh(modules), 1);
		assert_non_null(modules_find(modules, (uintptr_t)area[i] + 8192 + 5));
		assert_int_equal(modules_find(modules, (uintptr_t)area[i] + 8192)->bias,
				 (uintptr_t)area[i] + 8192);
		/* unmap, but keep the place taken, so that the next ones lie elsewhere */
		mmap(area[i], (size_t)copies * 8192, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		assert_int_equal(modules_refresh(modules), 1);
		assert_false(modules_find(modules, (uintptr_t)area[i] + 8192)->mapped);
	}
	assert_int_equal(modules_count(modules), before + 4 * copies);
	assert_true(modules_stats(modules)->forgotten >= 4 * copies - MODULES_MAX);
	assert_null(modules_get(modules, before + 1));
	assert_non_null(modules_get(modules, modules_count(modules)));
	assert_null(modules_find(modules, (uintptr_t)area[0]));
	assert_non_null(modules_find(modules, (uintptr_t)area[3]));
	for (int i = 0; i < 4; i++)
		munmap(area[i], (size_t)copies * 8192);
	close(fd);
}

static void more_objects_than_the_cap_are_refused_and_counted(void **state)
{
	const unsigned copies = MAPS_OBJECTS_MAX + 50;
	uint64_t before = modules_stats(modules)
				  ->refused; /* a sanitizer's own mappings may go beyond a cap */
	int fd = tiny_object();
	char *area = map_tiny(fd, copies);

	(void)state;
	assert_int_equal(modules_refresh(modules), 1);
	assert_in_range(modules_stats(modules)->refused, 50, 50 + 64 + before);
	assert_int_equal(modules_stats(modules)->mapped, MAPS_OBJECTS_MAX);
	munmap(area, (size_t)copies * 8192);
	close(fd);
	assert_int_equal(modules_refresh(modules), 1);
	assert_int_equal(modules_stats(modules)->refused, before);
}

static void code_that_is_no_object_is_unreadable(void **state)
{
	int fd = memfd_create("jit", MFD_CLOEXEC);
	void *code;

	(void)state;
	assert_int_equal(ftruncate(fd, 8192), 0);
	code = mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	assert_true(code != MAP_FAILED);
	assert_true(modules_refresh(modules) >= 0);
	assert_int_equal(modules_stats(modules)->unreadable, 1);
	assert_null(modules_find(modules, (uintptr_t)code));
	assert_int_equal(modules_refresh(modules), 0);
	munmap(code, 8192);
	close(fd);
	assert_true(modules_refresh(modules) >= 0);
	assert_int_equal(modules_stats(modules)->unreadable, 0);
}

/* ---- Without memory ---- */

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);

static __thread int fail_at; /* the allocation that fails, counted down; 0: none */
static __thread bool failed;

static bool fails(void)
{
	bool now = fail_at && !--fail_at;

	failed |= now;
	return now;
}

void *malloc(size_t size)
{
	return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	return fails() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
	return fails() ? NULL : __libc_realloc(p, size);
}

static void every_failed_allocation_is_survived(void **state)
{
	uint32_t mapped = modules_stats(modules)->mapped;
	int n = 0, in_create = 0, in_refresh = 0;

	(void)state;
	do {
		struct modules *m;
		int err = 0;

		failed = false;
		fail_at = ++n;
		m = modules_create();
		if (m)
			err = modules_refresh(m);
		fail_at = 0;
		in_create += !m;
		in_refresh += err < 0;
		if (m && failed) {
			/* what is missing comes with the next look */
			assert_true(err == 1 || err == -ENOMEM);
			if (err < 0)
				assert_true(modules_refresh(m) >= 0);
			assert_int_equal(modules_stats(m)->mapped, mapped);
		}
		modules_destroy(m);
	} while (failed);
	assert_true(in_create >= 3 && in_refresh > 20);
}
#endif

/* ---- Without process_vm_readv ---- */

static int with_rows(const struct modules *m, uint32_t *n)
{
	*n = 0;
	for (uint32_t id = 1; id <= modules_count(m); id++) {
		const struct module *module = modules_get(m, id);

		*n += module && module->mapped && module->rows;
	}
	return 0;
}

static int refuse_process_vm_readv(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		       ? -1
		       : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int sandboxed_child(uint32_t expected)
{
	struct modules *m;
	uint32_t n;

	if (refuse_process_vm_readv())
		return 77;
	unwind_after_fork();
	m = modules_create();
	if (!m || modules_refresh(m) != 1)
		return 1;
	with_rows(m, &n);
	if (n != expected)
		return 2;
	if (!modules_find(m, getauxval(AT_SYSINFO_EHDR) + 64))
		return 3;
	return modules_find(m, (uintptr_t)&strtoul)->build_id_len == 20 ? 0 : 4;
}

static void a_sandbox_without_process_vm_readv_reads_the_files(void **state)
{
	uint32_t expected;
	int status;
	pid_t pid;

	(void)state;
	assert_true(modules_refresh(modules) >= 0);
	with_rows(modules, &expected);
	assert_true(expected >= 4);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(sandboxed_child(expected));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(status, 0);
}

/* ---- Lines of /proc/self/maps ---- */

static struct maps parsed;

static void parse(const char *text)
{
	char line[8192];

	maps_reset(&parsed);
	while (*text) {
		size_t n = strcspn(text, "\n");

		memcpy(line, text, n);
		line[n] = 0;
		assert_int_equal(maps_line(&parsed, line), 0);
		text += n + (text[n] == '\n');
	}
	maps_end(&parsed);
}

static void mappings_of_one_file_are_one_object(void **state)
{
	const struct maps_object *o;
	uint64_t signature;

	(void)state;
	parse("1000-2000 r--p 00000000 08:01 7    /usr/lib/a.so\n"
	      "2000-4000 r-xp 00001000 08:01 7    /usr/lib/a.so\n"
	      "4000-5000 rw-p 00003000 08:01 7    /usr/lib/a.so\n"
	      "5000-6000 rw-p 00000000 00:00 0 \n"
	      "8000-9000 rw-p 00000000 00:00 0    [heap]\n"
	      "a000-b000 r--p 00000000 08:01 8    /usr/share/data\n"
	      "c000-d000 r-xp 00000000 00:00 0    [vdso]\n"
	      "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]\n");
	assert_int_equal(parsed.n_objects, 2);
	o = &parsed.object[0];
	assert_string_equal(o->path, "/usr/lib/a.so");
	assert_int_equal(o->inode, 7);
	assert_int_equal(o->n_ranges, 4);
	assert_int_equal(maps_range_at(o, 0x2fff)->offset, 0x1000);
	assert_true(maps_range_at(o, 0x2fff)->executable);
	assert_null(maps_range_at(o, 0x6000));
	assert_string_equal(parsed.object[1].path, "[vdso]");
	signature = parsed.signature;
	/* data coming and going does not matter; code does */
	parse("1000-2000 r--p 00000000 08:01 7    /usr/lib/a.so\n"
	      "2000-4000 r-xp 00001000 08:01 7    /usr/lib/a.so\n"
	      "4000-5000 rw-p 00003000 08:01 7    /usr/lib/a.so\n"
	      "c000-d000 r-xp 00000000 00:00 0    [vdso]\n");
	assert_int_equal(parsed.signature, signature);
	parse("1000-2000 r--p 00000000 08:01 9    /usr/lib/a.so\n"
	      "2000-4000 r-xp 00001000 08:01 9    /usr/lib/a.so\n"
	      "c000-d000 r-xp 00000000 00:00 0    [vdso]\n");
	assert_int_not_equal(parsed.signature, signature);
}

static void a_deleted_file_keeps_its_path(void **state)
{
	char line[MAPS_PATH_MAX * 2] = "1000-2000 r-xp 00000000 08:01 7    /usr/lib/",
				  path[MAPS_PATH_MAX];

	(void)state;
	parse("1000-2000 r-xp 00000000 08:01 7    /usr/lib/a b.so (deleted)\n");
	assert_string_equal(parsed.object[0].path, "/usr/lib/a b.so");
	memset(line + strlen(line), 'x', MAPS_PATH_MAX);
	parse(line);
	assert_int_equal(strlen(parsed.object[0].path), MAPS_PATH_MAX - 1);
	memset(path, 'x', sizeof(path));
	assert_memory_equal(parsed.object[0].path + 9, path, MAPS_PATH_MAX - 10);
}

static void a_library_mapped_as_data_is_not_taken_for_the_loaded_one(void **state)
{
	(void)state;
	parse("1000-6000 r--p 00000000 08:01 7    /usr/lib/a.so\n"
	      "6000-7000 r--p 00000000 08:01 7    /usr/lib/a.so\n"
	      "7000-8000 r-xp 00001000 08:01 7    /usr/lib/a.so\n");
	assert_int_equal(parsed.n_objects, 1);
	assert_int_equal(parsed.object[0].range[0].start, 0x6000);
	/* twice, as dlmopen does */
	parse("1000-3000 r--p 00000000 08:01 7    /usr/lib/a.so\n"
	      "3000-4000 r-xp 00001000 08:01 7    /usr/lib/a.so\n"
	      "4000-6000 r--p 00000000 08:01 7    /usr/lib/a.so\n"
	      "6000-7000 r-xp 00001000 08:01 7    /usr/lib/a.so\n");
	assert_int_equal(parsed.n_objects, 2);
}

static void a_tiny_object_maps_its_first_page_more_than_once(void **state)
{
	(void)state;
	parse("1000-2000 r--p 00000000 08:01 7    /usr/lib/a.so\n"
	      "2000-3000 r-xp 00000000 08:01 7    /usr/lib/a.so\n"
	      "3000-4000 rw-p 00000000 08:01 7    /usr/lib/a.so\n");
	assert_int_equal(parsed.n_objects, 1);
	assert_int_equal(parsed.object[0].range[0].start, 0x1000);
	assert_int_equal(parsed.object[0].n_ranges, 3);
}

static void code_moved_to_huge_pages_still_belongs_to_its_file(void **state)
{
	(void)state;
	parse("200000-400000 r--p 00000000 08:01 7    /usr/bin/server\n"
	      "400000-800000 r-xp 00000000 00:00 0 \n"
	      "800000-900000 r--p 00600000 08:01 7    /usr/bin/server\n");
	assert_int_equal(parsed.n_objects, 1);
	assert_true(parsed.object[0].executable);
	assert_int_equal(parsed.object[0].n_ranges, 3);
}

static void strange_lines_are_skipped(void **state)
{
	(void)state;
	parse("\n-\nx\n1000\n1000-\n1000-2000\n1000-2000 \n1000-2000 r-x\n1000-2000 "
	      "r-xp\n1000-2000 r-xp 0 \n"
	      "1000-2000 r-xp 0 08\n1000-2000 r-xp 0 08:01\n2000-1000 r-xp 00000000 08:01 7  /a\n");
	assert_int_equal(parsed.n_objects, 0);
}

static int free_parsed(void **state)
{
	(void)state;
	maps_fini(&parsed);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_loaded_object_is_found, setup, teardown),
		cmocka_unit_test_setup_teardown(the_vdso_has_a_name_and_rows, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_new_changes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(a_library_is_seen_and_remembered, setup, teardown),
		cmocka_unit_test_setup_teardown(a_storm_of_loading_is_survived, setup, teardown),
		cmocka_unit_test_setup_teardown(the_oldest_unmapped_modules_are_forgotten, setup,
						teardown),
		cmocka_unit_test_setup_teardown(more_objects_than_the_cap_are_refused_and_counted,
						setup, teardown),
		cmocka_unit_test_setup_teardown(code_that_is_no_object_is_unreadable, setup,
						teardown),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
		cmocka_unit_test_setup_teardown(every_failed_allocation_is_survived, setup,
						teardown),
#endif
		cmocka_unit_test_setup_teardown(a_sandbox_without_process_vm_readv_reads_the_files,
						setup, teardown),
		cmocka_unit_test_teardown(mappings_of_one_file_are_one_object, free_parsed),
		cmocka_unit_test_teardown(a_deleted_file_keeps_its_path, free_parsed),
		cmocka_unit_test_teardown(a_library_mapped_as_data_is_not_taken_for_the_loaded_one,
					  free_parsed),
		cmocka_unit_test_teardown(a_tiny_object_maps_its_first_page_more_than_once,
					  free_parsed),
		cmocka_unit_test_teardown(code_moved_to_huge_pages_still_belongs_to_its_file,
					  free_parsed),
		cmocka_unit_test_teardown(strange_lines_are_skipped, free_parsed),
	};

	return RUN(tests);
}
