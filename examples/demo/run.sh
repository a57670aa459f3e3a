#!/usr/bin/env bash
# `make demo`: the collector, sonde-demo under the agent, load on it, a live table, and in the end the answer.
# DEMO_SECONDS=20 ends by itself, else Ctrl-C does; DEMO_MODE=loop shows the event loop. Everything started here is
# stopped here, by its pid, however this ends.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${B:=build/release}" "${DEMO_SECONDS:=0}" "${DEMO_MODE:=threads}"

# Ctrl-C goes to every process of the terminal's foreground group. make must not be in it, or it fails with
# "Interrupt" after we ended well: job control gives a second copy of this script a group of its own.
if [ -t 0 ] && [ -z "${DEMO_IN_OWN_GROUP:-}" ]; then
	set -m
	DEMO_IN_OWN_GROUP=1 "$0" "$@" && exit 0
	exit $?
fi

scratch=$(mktemp -d -t sonde-demo.XXXXXX)
out=build/demo
pids=() load_pids=()
stopping=

# start COMMAND...: in the background, out of reach of Ctrl-C; its pid becomes $!
start() {
	setsid "$@" </dev/null >>"$scratch/$(basename "$1").log" 2>&1 &
}

# stop PID...: the last started first, each waited for
stop() {
	local i pid
	for ((i = $#; i > 0; i--)); do
		pid=${!i}
		kill "$pid" 2>/dev/null || continue
		wait "$pid" 2>/dev/null || true
	done
}

clean_up() {
	trap '' INT TERM
	stop "${load_pids[@]}"
	stop "${pids[@]}"
	rm -rf "$scratch"
}
trap clean_up EXIT
trap 'stopping=1' INT TERM

die() {
	echo "demo: $1" >&2
	[ ! -s "$scratch/$2.log" ] || sed "s/^/  $2: /" "$scratch/$2.log" >&2
	exit 1
}

# free_port PORT: PORT, or the next one nobody listens on
free_port() {
	local port=$1
	while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
		port=$((port + 1))
	done
	[ "$port" = "$1" ] || echo "Port $1 is busy, using $port." >&2
	echo "$port"
}

# until_ready NAME PID URL: wait for the URL to answer
until_ready() {
	local tries
	for ((tries = 0; tries < 100; tries++)); do
		curl -sf -o /dev/null "$3" && return
		kill -0 "$2" 2>/dev/null || break
		sleep 0.1
	done
	die "$1 does not run" "$1"
}

# load CLIENTS RATE PATH...: each client asks for the paths in turn, RATE times a second
load() {
	local clients=$1 rate=$2 list
	shift 2
	list=$(mktemp -p "$scratch")
	printf '%s\n' "$@" >"$list"
	start h2load --h1 -t 1 -c "$clients" --rps "$rate" -D 86400 -B "$demo" -i "$list"
	load_pids+=($!)
}

# table ARGUMENT...: what the collector knows of the demo
table() {
	"$B/sonde" top --http "$http" --once --plain "$@"
}

http_port=$(free_port 7070)
http=127.0.0.1:$http_port
agents=tcp:127.0.0.1:$(free_port $((http_port + 1)))
demo=http://127.0.0.1:$(free_port 8080)

start "$B/sonde" serve --http "$http" --listen "$agents" --data "$scratch/data"
pids+=($!)
until_ready sonde $! "http://$http/api/v1/processes"
start "$B/sonde" run --service demo --collector "$agents" -- "$B/sonde-demo" --listen "${demo#http://}" --mode "$DEMO_MODE"
pids+=($!)
until_ready sonde $! "$demo/"

load 2 40 /fast /fast /fast /file /error
load 2 20 /fib/27 /fib/30 /fib/32
load 3 10 /sleep/20 /io /fibo_sleep/28
# 17 and 10 have no common divisor: whenever each began, /lock meets every moment of /hog. At 15 and 10 it could miss it for good.
load 2 17 /lock
load 1 10 /hog

hint="Ctrl-C ends it"
[ "$DEMO_SECONDS" = 0 ] || hint="for $DEMO_SECONDS s"
echo "Dashboard:  http://$http/"
echo "Demo:       $demo/   (mode $DEMO_MODE, under load, $hint)"
echo

lines=0
end=$((SECONDS + DEMO_SECONDS))
while [ -z "$stopping" ] && { [ "$DEMO_SECONDS" = 0 ] || [ $SECONDS -lt $end ]; }; do
	sleep 1 || true
	[ -n "$stopping" ] || kill -0 "${pids[@]}" 2>/dev/null || die "the collector or the demo ended" sonde
	if ! text=$(table); then
		[ -n "$stopping" ] || die "the collector does not answer" sonde
		break # Ctrl-C hit the table, too
	fi
	[ ! -t 1 ] || [ $lines = 0 ] || printf '\033[%dA\033[J' $lines
	printf '%s\n\n' "$text"
	mapfile -t rows <<<"$text" # no process here that Ctrl-C could hit
	lines=$((${#rows[@]} + 1))
done
trap '' INT TERM

stop "${load_pids[@]}"
load_pids=()
sleep 2 # the agent reports once a second

mkdir -p "$out"
echo "In the end:"
echo
table --explain
echo
"$B/sonde" export --http "$http" --service demo --format pprof -o "$out/profile.pb.gz"
"$B/sonde" export --http "$http" --service demo --format html -o "$out/report.html"
echo "Profile:  $out/profile.pb.gz    go tool pprof -top -tagfocus=route='GET /fib/{n}' $out/profile.pb.gz"
echo "Report:   $out/report.html      open it in any browser, it needs no network"
