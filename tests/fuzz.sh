#!/usr/bin/env bash
# tests/fuzz.sh [NAME...]: replay each fuzzer's corpus, TAP on stdout. $B/tests/fuzz/fuzz_NAME gets tests/fuzz/corpus/NAME.
# Programs built with libFuzzer (make fuzz CC=clang SAN=fuzzer,address,undefined) then go on and search for FUZZ_SECONDS (60);
# what they find lies in $B/fuzz/NAME, an input that crashes in $B/fuzz/.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
: "${B:=build/release}" "${FUZZ_SECONDS:=60}"
number=0 failed=0

# result STATUS NAME: one TAP line
result() {
	number=$((number + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $number - $2"
	else
		failed=1
		echo "not ok $number - $2"
	fi
}

[ $# -gt 0 ] || for program in "$B"/tests/fuzz/fuzz_*; do
	[ -x "$program" ] && set -- "$@" "${program##*/fuzz_}"
done
for name in "$@"; do
	program=$B/tests/fuzz/fuzz_$name corpus=tests/fuzz/corpus/$name
	inputs=$(find "$corpus" -type f ! -name '.*' 2>/dev/null | wc -l)
	if [ "$inputs" -eq 0 ]; then
		echo "# $corpus is empty"
		result 1 "fuzz_$name has a corpus"
	elif [[ $("$program" -help=1 2>&1) == *libFuzzer* ]]; then
		mkdir -p "$B/fuzz/$name"
		"$program" -runs=0 "$corpus"
		result $? "fuzz_$name replays $inputs inputs"
		"$program" -max_total_time="$FUZZ_SECONDS" -timeout=10 -artifact_prefix="$B/fuzz/" -print_final_stats=1 \
			"$B/fuzz/$name" "$corpus"
		result $? "fuzz_$name finds nothing in $FUZZ_SECONDS s"
	else
		output=$("$program" "$corpus" 2>&1)
		status=$?
		if [ $status -ne 0 ] || [ "$output" != "replayed $inputs inputs" ]; then
			echo "$output"
			status=1
		fi
		result $status "fuzz_$name replays $inputs inputs"
	fi
done
[ $number -gt 0 ] || result 1 "there are fuzzers"
echo "1..$number"
exit $failed
