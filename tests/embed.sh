#!/usr/bin/env bash
# The public header and its examples, without the agent: they build against include/ alone, as C and as C++, link against
# nothing, and run.
# shellcheck disable=SC2317 # check calls the functions
set -uo pipefail
cd "$(dirname "$0")/.." || exit
: "${B:=build/release}" "${CC:=cc}"
scratch=$(mktemp -d -t sonde-embed.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
number=0 failed=0

# check NAME COMMAND...: one TAP line; a failure shows what the command said
check() {
	local name=$1
	shift
	number=$((number + 1))
	if "$@" >"$scratch/said" 2>&1; then
		echo "ok $number - $name"
	else
		echo "not ok $number - $name"
		sed 's/^/  /' "$scratch/said"
		failed=1
	fi
}

strict=(-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Werror -Iinclude)

header_is_c11() { echo '#include <sonde.h>' | "$CC" "${strict[@]}" -std=c11 -fsyntax-only -xc -; }
header_is_cxx() {
	local cxx
	cxx=$(command -v ${CXX:+"$CXX"} g++ clang++ | head -n 1)
	printf '#include <sonde.h>\nint main() { sonde_request r = sonde_begin("x"); sonde_end(r, 0); return 0; }\n' |
		"$cxx" -Wall -Wextra -Wpedantic -Werror -Iinclude -xc++ -fsyntax-only -
}
builds_alone() { "$CC" "${strict[@]}" -O2 -pthread -o "$scratch/worker" examples/embed/worker.c; }
needs_only_libc() {
	local needs
	needs=$(readelf -d "$scratch/worker" | awk '/NEEDED/ {print $NF}' | tr -d '[]' | grep -vE '^(libc|libpthread|ld-linux.*)\.so')
	[ -z "$needs" ] || { echo "needs $needs"; return 1; }
}
calls_are_weak() {
	local strong
	strong=$(nm "$scratch/worker" | grep sonde_agent_ | grep -v ' w ')
	nm "$scratch/worker" | grep -q ' w sonde_agent_begin' || { echo "does not call the agent at all"; return 1; }
	[ -z "$strong" ] || { echo "$strong"; return 1; }
}
says() {
	local said
	said=$("$@") || return
	[ "$said" = "20 jobs done" ] || { echo "said: $said"; return 1; }
}
refuses() {
	"$@"
	[ $? -eq 2 ]
}

check "sonde.h is strict C11" header_is_c11
check "sonde.h is C++" header_is_cxx
check "worker.c builds against include alone" builds_alone
check "worker needs no library but libc" needs_only_libc
check "the agent's functions are weak" calls_are_weak
check "worker runs without the agent" says "$scratch/worker" 20
check "worker refuses bad usage" refuses "$scratch/worker" none
check "the worker that make built runs" says "$B/examples/embed/worker" 20
echo "1..$number"
exit $failed
