/* SPDX-License-Identifier: MIT
 *
 * To be stepped through: frames of every shape that C makes, libc's hand-written assembly, callbacks out of libc,
 * signals, threads, jumps, other stacks, the loader. It checks its own results: a stepper must not change them.
 */
#include <alloca.h>
#include <dlfcn.h>
#include <locale.h>
#include <pthread.h>
#include <regex.h>
#include <search.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define NOINLINE  __attribute__((noinline))
#define BARRIER() __asm__ volatile("" ::: "memory")

static volatile unsigned long sink;
static volatile sig_atomic_t signals, urgent;

/* ---- Frames ---- */

NOINLINE static unsigned long work(unsigned long n)
{
	for (unsigned i = 0; i < 3; i++)
		n = n * 31 + sink;
	sink = n;
	return n;
}

NOINLINE static unsigned long tail(unsigned long n)
{
	sink += n;
	return n & 1 ? work(n / 2) : work(n);
}

NOINLINE static unsigned long tail_through_pointer(unsigned long n)
{
	static unsigned long (*volatile const to)(unsigned long) = tail;

	return to(n + 1);
}

NOINLINE static unsigned long with_alloca(unsigned long n)
{
	unsigned long *p = alloca((n % 7 + 1) * 40);

	p[0] = n;
	BARRIER();
	work(n);
	return p[0] + work((unsigned long)p & 7);
}

NOINLINE static unsigned long with_array_of_any_length(unsigned long n)
{
	volatile char array[n % 60 + 1];

	array[n % (n % 60 + 1)] = (char)n;
	return work(n) + (unsigned long)array[n % (n % 60 + 1)];
}

NOINLINE static unsigned long over_aligned(unsigned long n)
{
	_Alignas(64) volatile unsigned long array[16];

	array[n % 16] = n;
	work(n);
	return array[n % 16] + work((unsigned long)array % 64);
}

/* gcc keeps the address of the arguments in a register of its choice (DRAP). */
NOINLINE static unsigned long over_aligned_with_alloca(unsigned long n, ...)
{
	_Alignas(32) volatile unsigned long array[8];
	unsigned long *p = alloca((n % 5 + 1) * 16);
	va_list list;

	va_start(list, n);
	p[0] = n;
	array[n % 8] = va_arg(list, unsigned long);
	va_end(list);
	work(n);
	return array[n % 8] + p[0] + work(n);
}

NOINLINE static unsigned long over_aligned_with_many(unsigned long a, unsigned long b,
						     unsigned long c, unsigned long d,
						     unsigned long e, unsigned long f,
						     unsigned long g, unsigned long h)
{
	_Alignas(128) volatile unsigned long array[4];

	array[a % 4] = b + c + d + e + f + g + h;
	return work(a) + work(b) + work(c) + work(d) + work(e) + work(f) + work(g) + work(h) +
	       array[a % 4];
}

NOINLINE static unsigned long large_frame(unsigned long n)
{
	volatile char large[20000];

	large[n % sizeof(large)] = 1;
	return work(n) + (unsigned long)large[n % sizeof(large)];
}

NOINLINE static unsigned long early_return(unsigned long n)
{
	if (n % 3)
		return n;
	work(n);
	if (n % 2)
		return work(n + 1) + over_aligned(n);
	return with_alloca(n) + tail(n);
}

NOINLINE static unsigned long deep(unsigned long n, unsigned depth)
{
	unsigned long r;

	if (!depth)
		return early_return(n) + tail_through_pointer(n);
	r = deep(n * 31 + depth, depth - 1);
	BARRIER();
	return r + work(n);
}

static int frames(void)
{
	for (unsigned long n = 0; n < 6; n++) {
		sink += tail(n) + tail_through_pointer(n) + with_alloca(n) +
			with_array_of_any_length(n * 13) + over_aligned(n) +
			over_aligned_with_alloca(n, n + 1) +
			over_aligned_with_many(n, 1, 2, 3, 4, 5, 6, 7) + early_return(n);
	}
	sink += large_frame(7) + deep(6, 40);
	return 0;
}

/* ---- libc ---- */

static int by_value(const void *a, const void *b)
{
	unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;

	return (x > y) - (x < y);
}

static void visit(const void *node, VISIT which, int depth)
{
	(void)node, (void)which;
	sink += (unsigned long)depth;
}

static int in_libc(void)
{
	static const size_t sizes[] = { 0,  1,  3,  7,   8,   15,  16,  17,  31,
					33, 63, 65, 127, 129, 255, 257, 900, 4097 };
	static char from[8192], to[8192];
	unsigned long array[9] = { 5, 3, 8, 1, 9, 2, 7, 4, 6 }, key = 7;
	void *root = NULL;
	regex_t regex;
	char text[200], *end;
	time_t now = 1000000000;
	struct tm tm;
	int bad = 0;

	qsort(array, 9, sizeof(array[0]), by_value);
	bad += !bsearch(&key, array, 9, sizeof(array[0]), by_value) || array[0] != 1;
	for (unsigned i = 0; i < 9; i++)
		tsearch(&array[i], &root, by_value);
	twalk(root, visit);
	while (root)
		tdelete(*(void **)root, &root, by_value);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t n = sizes[i];

		memset(from, 'a' + (int)(i % 20), n);
		from[n] = 0;
		memcpy(to, from, n + 1);
		memmove(to + 1, to, n + 1);
		bad += strlen(from) != n || memcmp(from, to + 1, n) || strcmp(from, to + 1) ||
		       (n && strchr(from, from[0]) != from) || strrchr(from, 'z') ||
		       memchr(from, 0, n) || strncmp(from, to + 1, n) || strnlen(from, n) != n ||
		       strspn(from, "xyz") || strstr(from, "no") || strcasecmp(from, from);
		sink += (unsigned long)(strcpy(to, from) == to);
	}
	snprintf(text, sizeof(text), "%s %ld %#x %-9s| %.17g %Lg %a", "text", -5l, 255, "left",
		 1.0 / 3, 2.5L, 0.1);
	bad += strncmp(text, "text -5 0xff left     | 0.3333333333333333", 41);
	bad += strtod("12.5e-3", &end) != 0.0125 || *end ||
	       sscanf("7 eight 9.5", "%lu %9s %*f", &key, text) != 2;
	bad += regcomp(&regex, "^(a|b)*c+$", REG_EXTENDED) ||
	       regexec(&regex, "abababcc", 0, NULL, 0);
	regfree(&regex);
	bad += !gmtime_r(&now, &tm) || !strftime(text, sizeof(text), "%F %T", &tm) ||
	       strcmp(text, "2001-09-09 01:46:40");
	end = realloc(malloc(100), 100000);
	bad += !end;
	free(end);
	bad += setenv("STEPPED", "yes", 1) || strcmp(getenv("STEPPED"), "yes");
	bad += !fputs("# \n", stdout) || fflush(stdout);
	bad += !setlocale(LC_ALL, "C");
	return bad;
}

static int in_vdso(void)
{
	struct timespec time[3];
	struct timeval tv;
	int bad = 0;

	bad += clock_gettime(CLOCK_MONOTONIC, &time[0]) ||
	       clock_gettime(CLOCK_REALTIME_COARSE, &time[1]) ||
	       clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time[2]) || gettimeofday(&tv, NULL) ||
	       clock_getres(CLOCK_MONOTONIC, &time[1]) || !tv.tv_sec;
	return bad;
}

/* ---- Jumps and signals ---- */

static jmp_buf jump;
static sigjmp_buf signal_jump;

NOINLINE static void jump_from(unsigned depth)
{
	if (!depth)
		longjmp(jump, 1);
	sink = depth;
	if (sink == depth)
		jump_from(depth - 1);
	BARRIER();
}

static int jumps(void)
{
	volatile int landed = 0;

	if (!setjmp(jump))
		jump_from(5);
	else
		landed++;
	if (!sigsetjmp(signal_jump, 1))
		raise(SIGUSR2);
	else
		landed++;
	return landed != 2;
}

static void on_signal(int sig)
{
	(void)sig;
	signals++;
	work(1);
}

static void on_urgent(int sig)
{
	(void)sig;
	urgent++;
	over_aligned(3);
}

static void on_signal_info(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)info, (void)context;
	signals++;
	sink += over_aligned(2);
	if (signals < 4)
		raise(SIGUSR1); /* one in the other */
}

static void on_signal_jump(int sig)
{
	(void)sig;
	siglongjmp(signal_jump, 1);
}

static void handle(int sig, int flags, void (*handler)(int),
		   void (*action)(int, siginfo_t *, void *))
{
	struct sigaction sa = { .sa_flags = flags };

	if (action)
		sa.sa_sigaction = action;
	else
		sa.sa_handler = handler;
	if (sigaction(sig, &sa, NULL))
		exit(9);
}

#define STACK 65536

static void *new_stack(void)
{
	return mmap(NULL, STACK, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0);
}

static int in_signals(void)
{
	const stack_t stack = { .ss_sp = new_stack(), .ss_size = STACK };
	const struct itimerval timer = { { 0, 0 }, { 0, 1000 } };
	int before = signals, raised;

	handle(SIGUSR1, SA_SIGINFO | SA_NODEFER, NULL, on_signal_info);
	raise(SIGUSR1);
	raised = signals - before;
	handle(SIGALRM, 0, on_signal, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	while (signals == before + raised)
		work(3);
	if (sigaltstack(&stack, NULL))
		return 1;
	handle(SIGHUP, SA_ONSTACK, on_signal, NULL);
	raise(SIGHUP);
	raise(SIGHUP);
	return raised < 1 || signals != before + raised + 3;
}

/* ---- Other stacks ---- */

static ucontext_t main_context, coroutine_context;
static int rounds;

static void coroutine(void)
{
	while (rounds < 6) {
		rounds++;
		sink += deep(3, 4);
		swapcontext(&coroutine_context, &main_context);
	}
}

static int on_other_stack(void)
{
	getcontext(&coroutine_context);
	coroutine_context.uc_stack.ss_sp = new_stack();
	coroutine_context.uc_stack.ss_size = STACK;
	coroutine_context.uc_link = &main_context;
	makecontext(&coroutine_context, coroutine, 0);
	for (int i = 0; i < 7; i++) /* the last one runs off its end */
		swapcontext(&main_context, &coroutine_context);
	return rounds != 6;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int whose, cleaned;

static void first(void)
{
	sink += work(9);
}

static void clean(void *arg)
{
	cleaned += arg != NULL;
	work(4);
}

static void *thread(void *arg)
{
	int me = arg != NULL;
	pthread_key_t key;

	pthread_once(&once, first);
	pthread_key_create(&key, clean);
	pthread_setspecific(key, &lock);
	for (int i = 0; i < 3; i++) {
		pthread_mutex_lock(&lock);
		while (whose != me)
			pthread_cond_wait(&turn, &lock);
		whose = !me;
		pthread_cond_broadcast(&turn);
		pthread_mutex_unlock(&lock);
		sink += deep(5, 10);
	}
	if (me)
		pthread_exit(&lock);
	return &lock;
}

static void *to_be_cancelled(void *arg)
{
	pthread_cleanup_push(clean, arg);
	for (;;)
		pause();
	pthread_cleanup_pop(1);
	return NULL;
}

static int in_threads(void)
{
	pthread_t t[3];
	void *result[3];

	if (pthread_create(&t[0], NULL, thread, NULL) ||
	    pthread_create(&t[1], NULL, thread, &lock) ||
	    pthread_create(&t[2], NULL, to_be_cancelled, &lock))
		return 1;
	pthread_cancel(t[2]);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], &result[i]);
	return cleaned != 3 || result[0] != &lock || result[1] != &lock ||
	       result[2] != PTHREAD_CANCELED;
}

/* ---- Loader and processes ---- */

static int in_loader(void)
{
	void *m = dlopen("libm.so.6", RTLD_LAZY | RTLD_LOCAL);
	double (*cube_root)(double) = m ? (double (*)(double))dlsym(m, "cbrt") : NULL;
	Dl_info info;
	int bad = !cube_root || cube_root(27) < 2.99 || dlsym(m, "there_is_none") ||
		  !dladdr((void *)in_loader, &info);

	if (m)
		dlclose(m);
	return bad;
}

/* Hand-written assembly that aligns its stack and keeps the old pointer anywhere. It takes LD_PRELOAD=libcrypto.so. */
static int in_libcrypto(void)
{
	static const char *const hash[] = { "SHA1", "SHA256", "SHA512" };
	static unsigned char text[999], sum[64], key[512];
	static unsigned long state[64];
	static const char wide[] = "c0ffee0123456789abcdef0123456789abcdef0123456789abcdef01234567"
				   "89abcdef0123456789abcdef0123456789abcdef0123456789abcdef012345"
				   "6789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123"
				   "456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef01";
	union {
		void *any;
		int (*init)(void *state);
		int (*update)(void *state, const void *text, size_t n);
		int (*final)(void *sum, void *state);
		int (*set_key)(const void *bytes, int bits, void *key);
		void (*encrypt)(const void *from, void *to, size_t n, const void *key, void *iv,
				int enc);
		void *(*create)(void);
		int (*from_hex)(void **number, const char *hex);
		int (*power)(void *r, const void *a, const void *p, const void *m, void *context);
	} f;
	void *number[4] = { NULL }, *context;
	char name[32];

	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "%s_Init", hash[i]);
		f.any = dlsym(RTLD_DEFAULT, name);
		if (!f.any || !f.init(state))
			return 1;
		snprintf(name, sizeof(name), "%s_Update", hash[i]);
		f.any = dlsym(RTLD_DEFAULT, name);
		if (!f.any || !f.update(state, text, sizeof(text)))
			return 1;
		snprintf(name, sizeof(name), "%s_Final", hash[i]);
		f.any = dlsym(RTLD_DEFAULT, name);
		if (!f.any || !f.final(sum, state))
			return 1;
	}
	f.any = dlsym(RTLD_DEFAULT, "AES_set_encrypt_key");
	if (!f.any || f.set_key(text, 256, key))
		return 1;
	f.any = dlsym(RTLD_DEFAULT, "AES_cbc_encrypt");
	if (!f.any)
		return 1;
	f.encrypt(text, text, 160, key, sum, 1);
	f.any = dlsym(RTLD_DEFAULT, "BN_CTX_new");
	context = f.any ? f.create() : NULL;
	f.any = dlsym(RTLD_DEFAULT, "BN_hex2bn");
	for (int i = 0; i < 4; i++)
		if (!f.any || !f.from_hex(&number[i], i == 2 ? "10001" : &wide[2 * i]))
			return 1;
	f.any = dlsym(RTLD_DEFAULT, "BN_mod_exp");
	return !f.any || !context || !f.power(number[0], number[1], number[2], number[3], context);
}

static int processes(void)
{
	static char *const argv[] = { "true", NULL };
	static char *const none[] = { NULL };
	int status, bad = 0;
	pid_t pid = fork();

	if (!pid)
		_exit(3);
	bad += waitpid(pid, &status, 0) != pid || WEXITSTATUS(status) != 3;
	bad += posix_spawn(&pid, "/bin/true", NULL, NULL, argv, none) ||
	       waitpid(pid, &status, 0) != pid || status;
	bad += system("exit 4") != 4 << 8;
	return bad;
}

static void at_exit(void)
{
	sink += deep(1, 3);
}

/* The parts named in the arguments; without any, all but the last. */
int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} part[] = { { "frames", frames },       { "jumps", jumps },
		     { "signals", in_signals },  { "stacks", on_other_stack },
		     { "vdso", in_vdso },        { "threads", in_threads },
		     { "libc", in_libc },        { "loader", in_loader },
		     { "processes", processes }, { "libcrypto", in_libcrypto } };
	const unsigned n = sizeof(part) / sizeof(part[0]);

	handle(SIGUSR2, 0, on_signal_jump, NULL);
	handle(SIGURG, SA_RESTART, on_urgent, NULL);
	atexit(at_exit);
	for (unsigned i = 0; i < n; i++) {
		bool wanted = argc < 2 && i < n - 1;

		for (int k = 1; k < argc; k++)
			wanted |= !strcmp(argv[k], part[i].name);
		if (wanted && part[i].run()) {
			printf("# %s went wrong\n", part[i].name);
			return 1;
		}
	}
	return 0;
}
