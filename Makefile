# sonde: a sampling profiler and APM agent that rides inside a server.
#
#   make demo      everything from nothing: install, build, run the demo under load, open the page it prints
#   make test      install, build and run every test
#   make help      the rest
#
# Variants: SAN=address,undefined | SAN=thread | COV=1 | DEBUG=1     Also: WERROR=1 V=1 CC=clang PREFIX=/usr
# Each variant builds in its own build/<variant>/, so they never mix.

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:

CC         = cc
CXX        = c++
PKG_CONFIG ?= pkg-config
PREFIX     ?= /usr/local
CFLAGS     ?= -g
VERSION    := 0.1.0

comma   := ,
VARIANT := $(if $(SAN),san-$(subst $(comma),-,$(SAN)),$(if $(COV),cov,$(if $(DEBUG),debug,release)))
B       := build/$(VARIANT)

# ---- Flags: ours first, the user's CFLAGS and LDFLAGS last so that they win ----

WARN := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla \
        -Wundef -Wformat=2 -Wwrite-strings -Wcast-qual -Wimplicit-fallthrough $(if $(WERROR),-Werror)
MODE := $(if $(SAN),-O1 -fsanitize=$(SAN) -fno-sanitize-recover=all,$(if $(COV),-O0 --coverage,$(if $(DEBUG),-Og -DSONDE_DEBUG,-O2)))

CPPFLAGS_ALL = -D_GNU_SOURCE -DSONDE_VERSION='"$(VERSION)"' -Iinclude -I. -isystem build/gen -MMD -MP $(CPPFLAGS_MORE) $(CPPFLAGS)
CFLAGS_ALL   = -std=gnu11 -pthread $(MODE) $(WARN) $(CFLAGS_MORE) $(CFLAGS)
LDFLAGS_ALL  = -pthread $(MODE) $(LDFLAGS)

# The agent lives in other people's processes: hide every symbol that is not exported on purpose, use the TLS model whose
# accesses never allocate, and keep unwind tables so that cancellation and C++ exceptions pass through our wrappers.
AGENT_CFLAGS  := -fPIC -fvisibility=hidden -ftls-model=initial-exec -fexceptions -fasynchronous-unwind-tables \
                 -fno-optimize-sibling-calls
AGENT_LDFLAGS := -Wl,-z,defs,-z,now,-z,relro,-z,nodelete,-z,initfirst,--exclude-libs,ALL,--version-script=agent/versions.map \
                 -static-libgcc
AGENT_LIBS    := -l:libprotobuf-c.a

# Lazy: a fresh machine has none of these before `make deps` ran.
SERVER_LIBS = $(shell $(PKG_CONFIG) --libs libmicrohttpd sqlite3 libprotobuf-c libdw libelf libzstd zlib jansson libcurl) -l:libiberty.a -lm
DEMO_LIBS   = $(shell $(PKG_CONFIG) --libs libmicrohttpd) -lm
TEST_LIBS   = $(shell $(PKG_CONFIG) --libs cmocka libunwind) -ldl

# ---- What is made of what ----

obj     = $(patsubst %.c,$(B)/%.o,$(1))
PROTO  := $(B)/gen/sonde.pb-c.o
SIG    := $(call obj,$(wildcard agent/sig/*.c))
AGENT  := $(SIG) $(call obj,$(wildcard agent/*.c agent/hook/*.c agent/core/*.c))
# Files that define names of libc: linked into libsonde.so only, never into a test program.
INTERPOSERS := $(call obj,$(wildcard agent/hook/io.c agent/hook/lock.c agent/hook/signal.c agent/hook/sleep.c agent/hook/thread.c agent/hook/process.c agent/hook/confine.c))
SERVER := $(call obj,$(filter-out server/main.c,$(wildcard server/*.c)))
DEMO   := $(call obj,$(wildcard examples/demo/*.c))
UNIT   := $(patsubst %.c,$(B)/%,$(wildcard tests/unit/test_*.c))
BENCH  := $(patsubst %.c,$(B)/%,$(wildcard tests/bench/*.c))
HOSTS  := $(patsubst %.c,$(B)/%,$(wildcard tests/bench/hosts/*.c))
FUZZ   := $(patsubst %.c,$(B)/%,$(wildcard tests/fuzz/fuzz_*.c))
SUBJECTS := $(patsubst %.c,$(B)/%,$(wildcard tests/subjects/*.c))
STORMS := $(patsubst %,$(B)/%,$(basename $(wildcard tests/storms/*.c tests/storms/*.cc)))
EMBED  := $(patsubst %.c,$(B)/%,$(wildcard examples/embed/*.c))
STEP   := $(call obj,$(addprefix tests/unwind/,step.c target.c shadow.c oracle.c judge.c))
STEPPED := $(foreach v,gcc-O0 gcc-O1 gcc-O2 gcc-O3 clang-O0 clang-O1 clang-O2 clang-O3,$(addprefix $(B)/tests/unwind/$(v)/,calls throws))
OBJS_CC := $(patsubst %.cc,$(B)/%.o,$(wildcard tests/storms/*.cc))
OBJS   := $(AGENT) $(SERVER) $(B)/server/main.o $(DEMO) $(UNIT:=.o) $(BENCH:=.o) $(HOSTS:=.o) $(FUZZ:=.o) $(SUBJECTS:=.o) $(filter-out $(OBJS_CC),$(STORMS:=.o)) $(STEP) $(EMBED:=.o)

all: $(B)/libsonde.so $(B)/sonde $(B)/sonde-demo ## Build the agent, the collector and the demo server

$(AGENT): CFLAGS_MORE = $(AGENT_CFLAGS)
$(SUBJECTS:=.o) $(STORMS:=.o) $(HOSTS:=.o) $(DEMO): CFLAGS_MORE = -fomit-frame-pointer

$(B)/libsonde.so: $(AGENT) $(PROTO) agent/versions.map
	$(call say,LD)$(CC) -shared $(AGENT_LDFLAGS) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^) $(AGENT_LIBS)

$(B)/sonde: $(B)/server/main.o $(SERVER) $(PROTO)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(SERVER_LIBS)

$(B)/sonde-demo: $(DEMO)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(DEMO_LIBS)

# Archives, so that a test program takes just the objects it names.
$(B)/agent.a: $(filter-out $(INTERPOSERS),$(AGENT))
	$(call say,AR)rm -f $@ && ar rcs $@ $^
$(B)/server.a: $(SERVER)
	$(call say,AR)rm -f $@ && ar rcs $@ $^

$(UNIT) $(BENCH) $(FUZZ): %: %.o $(B)/agent.a $(B)/server.a $(PROTO)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) $(if $(findstring fuzz_,$@),$(FUZZ_LDFLAGS)) -o $@ $< $(B)/agent.a $(B)/server.a $(PROTO) $(SERVER_LIBS) $(TEST_LIBS)

$(SUBJECTS) $(HOSTS) $(EMBED): %: %.o
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -o $@ $< -lm -ldl

$(OBJS): $(B)/%.o: %.c Makefile | build/gen/sonde.pb-c.h
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -c -o $@ $<

$(STORMS): %: %.o
	$(call say,LD)$(if $(filter $<,$(OBJS_CC)),$(CXX),$(CC)) $(LDFLAGS_ALL) -o $@ $< -ldl

$(B)/tests/unwind/step: $(STEP) $(B)/agent.a
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -o $@ $(STEP) $(B)/agent.a $(shell $(PKG_CONFIG) --libs libunwind-generic libdw)

# What is stepped: by two compilers, at four levels, bound lazily, whatever the flags of the rest.
STEPPED_FLAGS = $(lastword $(subst -O, -O,$*)) -g -Wall -Wextra -fomit-frame-pointer -pthread -Wl,-z,lazy
$(filter %/calls,$(STEPPED)): $(B)/tests/unwind/%/calls: tests/unwind/calls.c Makefile
	@mkdir -p $(@D)
	$(call say,CC)$(firstword $(subst -, ,$*)) -std=gnu11 -D_GNU_SOURCE $(STEPPED_FLAGS) -o $@ $<
$(filter %/throws,$(STEPPED)): $(B)/tests/unwind/%/throws: tests/unwind/throws.cc Makefile
	@mkdir -p $(@D)
	$(call say,CXX)$(if $(filter gcc%,$*),g++,clang++) -std=c++17 $(STEPPED_FLAGS) -o $@ $<

$(OBJS_CC): $(B)/%.o: %.cc Makefile
	@mkdir -p $(@D)
	$(call say,CXX)$(CXX) $(CPPFLAGS_ALL) -std=gnu++17 -pthread $(MODE) -Wall -Wextra $(CFLAGS_MORE) $(CXXFLAGS) -c -o $@ $<

# The generated code is not held to our warnings.
build/gen/sonde.pb-c.h build/gen/sonde.pb-c.c &: include/sonde.proto
	@mkdir -p $(@D)
	$(call say,GEN)protoc-c --proto_path=include --c_out=build/gen include/sonde.proto
$(PROTO): build/gen/sonde.pb-c.c build/gen/sonde.pb-c.h
	@mkdir -p $(@D)
	$(call say,CC)$(CC) -std=gnu11 $(MODE) -g -fPIC -fvisibility=hidden -Ibuild/gen -c -o $@ $<

# ---- The page: two single files that the collector carries inside ----

VIEWER_SRC := $(shell find viewer/src -type f 2>/dev/null) viewer/build.mjs viewer/package.json
viewer: build/viewer/dashboard.html ## Build the page
build/viewer/dashboard.html build/viewer/report.html &: $(VIEWER_SRC) viewer/node_modules/.installed
	$(call say,ESB)cd viewer && node build.mjs --out ../build/viewer
viewer/node_modules/.installed: viewer/package.json viewer/package-lock.json
	@echo "  NPM   installing the page's modules (see viewer/package.json)"
	@cd viewer && npm ci --no-audit --no-fund --loglevel=error && touch node_modules/.installed
$(B)/server/assets.o: build/viewer/dashboard.html build/viewer/report.html

-include $(OBJS:.o=.d) $(OBJS_CC:.o=.d)

# ---- Another processor: the agent compiles for it, and its unwinder runs under an emulator ----

A64_CC    := aarch64-linux-gnu-gcc
A64       := build/aarch64
A64_AGENT := $(patsubst $(B)/%,$(A64)/%,$(AGENT))
A64_TESTS := $(A64)/tests/unit/test_chain $(A64)/tests/unit/test_chain_signed

.PHONY: aarch64 build-aarch64
aarch64: build-aarch64 ## Compile the agent for aarch64, walk stacks of its under qemu
	@tests/run aarch64
build-aarch64: $(A64_AGENT) $(A64_TESTS)

$(A64_AGENT): CFLAGS_MORE = $(AGENT_CFLAGS)
$(A64)/tests/unit/test_chain.o: CFLAGS_MORE = -fomit-frame-pointer
$(A64)/%.o: %.c Makefile | build/gen/sonde.pb-c.h $(A64)/include/protobuf-c
	@mkdir -p $(@D)
	$(call say,A64)$(A64_CC) $(CPPFLAGS_ALL) -isystem $(A64)/include $(CFLAGS_ALL) -c -o $@ $<
# The same with frame pointers, and return addresses that are signed on the stack.
$(A64)/%_signed.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,A64)$(A64_CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -mbranch-protection=standard -c -o $@ $<
$(A64_TESTS): %: %.o $(A64)/agent/sig/unwind.o $(A64)/agent/core/ehframe.o
	$(call say,A64)$(A64_CC) $(LDFLAGS_ALL) -static -Wl,--eh-frame-hdr -o $@ $^
# This header is the same everywhere, the rest of /usr/include is not.
$(A64)/include/protobuf-c:
	@mkdir -p $(@D)
	@ln -sfn /usr/include/protobuf-c $@

-include $(A64_AGENT:.o=.d) $(A64_TESTS:=.d)

# ---- What a newcomer runs ----

deps: ## Install the Debian packages that are missing
	@.ci/deps test

demo: ## Collector, demo server under the agent, load, and the answer; DEMO_SECONDS=20 stops by itself
	@.ci/deps demo
	@$(MAKE) --no-print-directory all
	@B=$(B) examples/demo/run.sh

test: ## Install, build and run every test; the last line counts them
	@.ci/deps test
	@$(MAKE) --no-print-directory check

check: all lint $(UNIT) $(SUBJECTS) $(HOSTS) $(STORMS) $(EMBED) $(FUZZ) build-unwind build-aarch64
	@B=$(B) tests/run unit asan tsan unwind aarch64 embed fuzz page e2e

unit: build-unit ## Only the unit tests
	@B=$(B) tests/run unit
build-unit: $(UNIT) $(SUBJECTS)
sanitize: ## The unit tests under ASan and UBSan, then under TSan
	@tests/run asan tsan
e2e: all $(SUBJECTS) $(HOSTS) $(STORMS) ## Only the end-to-end tests
	@B=$(B) tests/run e2e
soak: all $(STORMS) ## Storms against the agent, SECONDS=120 each; STORM=fork only those whose names have that
	@B=$(B) STORM_SECONDS=$(or $(SECONDS),120) nice -n 5 /usr/bin/python3 -u tests/e2e/test_storms.py $(STORM)
build-unwind: $(B)/tests/unwind/step $(STEPPED)
unwind: build-unwind ## Walks against the true stack and libunwind's at every instruction, under a minute
	@B=$(B) tests/run unwind
unwind-truth: build-unwind ## The same through everything, ten minutes: tests/unwind/run
	@B=$(B) nice -n 5 tests/unwind/run whole
truth: all $(SUBJECTS) ## CPU shares and wait times against programs that know theirs, over SECONDS=20
	@for t in cpu offcpu; do B=$(B) SONDE_TRUTH_SECONDS=$(or $(SECONDS),20) /usr/bin/python3 -u tests/e2e/test_$${t}_truth.py || exit 1; done
page: all ## Only the tests of the page
	@B=$(B) tests/run page
fuzz: $(FUZZ) ## Replay the fuzzers' corpora; with CC=clang SAN=fuzzer,address it searches
	@B=$(B) tests/run fuzz
bench: ## What it costs, beside our peers; QUICK=1, WHAT=calls,nginx,.. PEERS=perf,.. PAIRS= BENCH_SECONDS= MUTRACE=FILE
	@.ci/deps bench
	@$(MAKE) --no-print-directory all build-bench
	@B=$(B) tests/bench/bench.py $(if $(QUICK),--quick) $(if $(WHAT),--what $(WHAT)) $(if $(PEERS),--peers $(PEERS)) \
	    $(if $(PAIRS),--pairs $(PAIRS)) $(if $(BENCH_SECONDS),--seconds $(BENCH_SECONDS))
build-bench: $(BENCH) $(HOSTS)
bench-calls: all $(HOSTS) ## What the agent adds to a call and to a request; ARGS='--only request --agent OTHER.so'
	@B=$(B) tests/bench/calls.py $(or $(ARGS),--parts)

# ---- Lint ----

C_FILES = $(shell git ls-files --cached --others --exclude-standard '*.c' '*.h')
lint: check-signal-safe check-exports check-tls ## Formats, static analysis, and the agent's own rules
	@clang-format --dry-run -Werror $(C_FILES)
	@cppcheck --quiet --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
	    --suppress=missingIncludeSystem --suppress=normalCheckLevelMaxBranches --suppress=allocaCalled -D__x86_64__ -D__linux__ -D_GNU_SOURCE -Iinclude -I. agent server examples
	@shellcheck .ci/run .ci/deps tests/run tests/unwind/run $(shell git ls-files --cached --others --exclude-standard '*.sh')
	@echo "  LINT  clean"

tidy: ## clang-tidy over agent and server (minutes)
	@clang-tidy --quiet $(filter %.c,$(filter agent/% server/%,$(C_FILES))) -- -D_GNU_SOURCE -DSONDE_VERSION='""' -std=gnu11 -Iinclude -I. -isystem build/gen

format: ## Format every C file
	@clang-format -i $(C_FILES)

check-signal-safe: $(SIG) ## agent/sig may call only what tests/signal_safe.allow lists
	@ld -r -o $(B)/sig.o $^
	@nm -u $(B)/sig.o | awk '{print $$2}' | sort -u > $(B)/sig.calls
	@sed 's/ *#.*//; /^$$/d' tests/signal_safe.allow | sort -u | comm -13 - $(B)/sig.calls | \
	    awk '{print "  not on the allow-list of the signal path: " $$0; bad = 1} END {exit bad}'

check-exports: $(B)/libsonde.so ## The agent exports exactly tests/exports.expected
	@nm -D --defined-only $< | awk '{print $$3}' | sed 's/@.*//' | sort -u | diff -u tests/exports.expected -

check-tls: $(B)/libsonde.so ## The agent's thread-local storage is initial-exec and at most 128 bytes
	@! nm -D $< | grep -q __tls_get_addr || { echo "  libsonde.so uses dynamic TLS"; exit 1; }
	@size=$$(readelf -lW $< | awk '$$1 == "TLS" {print $$6}'); [ $$(($${size:-0})) -le 128 ] || \
	    { echo "  libsonde.so has $$(($$size)) bytes of TLS"; exit 1; }

# ---- Install ----

install: all ## Put sonde, libsonde.so, sonde.h and sonde.pc under PREFIX
	install -Dm755 $(B)/sonde $(DESTDIR)$(PREFIX)/bin/sonde
	install -Dm755 $(B)/libsonde.so $(DESTDIR)$(PREFIX)/lib/libsonde.so
	install -Dm644 include/sonde.h $(DESTDIR)$(PREFIX)/include/sonde.h
	@mkdir -p $(DESTDIR)$(PREFIX)/lib/pkgconfig
	@printf 'prefix=%s\nlibdir=$${prefix}/lib\nincludedir=$${prefix}/include\nagent=$${libdir}/libsonde.so\n\nName: sonde\nDescription: sampling profiler and APM agent; preload $${libdir}/libsonde.so\nVersion: %s\nCflags: -I$${includedir}\n' \
	    '$(PREFIX)' '$(VERSION)' > $(DESTDIR)$(PREFIX)/lib/pkgconfig/sonde.pc

clean: ## Remove every build product
	rm -rf build

help: ## Show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' Makefile

.PHONY: all demo test check unit build-unit build-unwind unwind unwind-truth truth sanitize e2e page fuzz soak bench bench-calls lint tidy format check-signal-safe check-exports check-tls install clean help deps viewer

say = $(if $(V),,@printf '  %-4s  %s\n' $(1) $(@:$(B)/%=%);)
