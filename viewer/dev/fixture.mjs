// SPDX-License-Identifier: MIT
// A collector that is none: serves the built page and answers the API of server/README.md out of a small made-up shop.
// `node dev/fixture.mjs [--port 7070] [--mode normal|empty|broken|big]` for looking at the page; the page tests start it too.

import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
export const BUILT = resolve(here, "../../build/viewer");
export const STATES = ["queue", "cpu", "runq", "io", "lock", "sleep", "loop", "other"];

export function random(seed) {
	return () => {
		seed = (seed + 0x6d2b79f5) | 0;
		let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
		t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
		return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
	};
}

// ---- The shop ----

const LOOP = ["main", "std::thread::_State_impl<…>::_M_run()", "shop::Worker::loop()", "shop::Worker::serve(Connection&)"];
const at = (tail, parts) => ({ stack: [...LOOP, ...tail], parts });
const READ = ["shop::http::Parser::feed(char const*, size_t)", "__libc_recv"];
const SEND = ["shop::http::Response::send()", "__libc_send"];

/** Per route: mean latency, spread, errors, and shares of the mean by stack and state. */
const ROUTES = [
	{
		name: "GET /orders/{id}", rate: 41.2, mean: 18.4e6, spread: 0.55, slow: 0.02, errors: 0.004, flying: 3,
		stacks: [
			at(["shop::orders::Get::handle()", "shop::db::Pool::acquire()", "std::condition_variable::wait(std::unique_lock<std::mutex>&)", "pthread_cond_wait"], { lock: 0.31 }),
			at(["shop::orders::Get::handle()", "shop::db::Connection::query(std::string_view)", "PQexec", "pqReadData", "__poll"], { io: 0.38 }),
			at(["shop::orders::Get::handle()", "shop::db::Connection::query(std::string_view)", "PQexec", "PQsendQuery", "__libc_send"], { io: 0.02 }),
			at(["shop::orders::Get::handle()", "shop::orders::render(Order const&)", "nlohmann::json::dump[abi:v3](int, char, bool)", "nlohmann::detail::serializer::dump_float(double)"], { cpu: 0.09 }),
			at(["shop::orders::Get::handle()", "shop::orders::render(Order const&)", "nlohmann::json::dump[abi:v3](int, char, bool)", "nlohmann::detail::serializer::dump_escaped(std::string const&)"], { cpu: 0.06 }),
			at(["shop::orders::Get::handle()", "shop::orders::render(Order const&)", "operator new(unsigned long)", "malloc", "_int_malloc"], { cpu: 0.03 }),
			at(["shop::orders::Get::handle()", "shop::auth::check(Token const&)", "HMAC", "SHA256_Update", "sha256_block_data_order_avx2"], { cpu: 0.04 }),
			at(READ, { io: 0.01, cpu: 0.005 }), at(SEND, { io: 0.005, cpu: 0.01 }),
		],
		marks: { queue: 0.024, runq: 0.012, other: 0.004 },
	},
	{
		name: "POST /checkout", rate: 6.3, mean: 84.1e6, spread: 0.4, slow: 0.03, errors: 0.021, flying: 2,
		stacks: [
			at(["shop::checkout::Post::handle()", "shop::checkout::charge(Cart const&)", "curl_easy_perform", "Curl_multi_wait", "__poll"], { io: 0.71 }),
			at(["shop::checkout::Post::handle()", "shop::db::Transaction::commit()", "PQexec", "pqReadData", "__poll"], { io: 0.09 }),
			at(["shop::checkout::Post::handle()", "shop::audit::Log::append(Event const&)", "pthread_mutex_lock", "__lll_lock_wait"], { lock: 0.08 }),
			at(["shop::checkout::Post::handle()", "shop::audit::Log::append(Event const&)", "fdatasync"], { io: 0.03 }),
			at(["shop::checkout::Post::handle()", "shop::checkout::charge(Cart const&)", "tls_process_record", "aesni_gcm_encrypt"], { cpu: 0.04 }),
			at(READ, { cpu: 0.01 }), at(SEND, { cpu: 0.01 }),
		],
		marks: { queue: 0.01, runq: 0.01, other: 0.01 },
	},
	{
		name: "GET /fib/{n}", rate: 83.4, mean: 1.21e6, spread: 0.12, slow: 0.002, errors: 0, flying: 1,
		stacks: [
			at(["demo::fib_route(Request&)", "fib", "fib", "fib", "fib", "fib"], { cpu: 0.55 }),
			at(["demo::fib_route(Request&)", "fib", "fib", "fib"], { cpu: 0.26 }),
			at(["demo::fib_route(Request&)", "fib"], { cpu: 0.13 }),
			at(SEND, { cpu: 0.02, io: 0.003 }),
		],
		marks: { queue: 0.012, runq: 0.02, other: 0.005 },
	},
	{
		name: "GET /lock", rate: 22.8, mean: 12.4e6, spread: 0.7, slow: 0.01, errors: 0, flying: 4,
		stacks: [
			at(["demo::lock_route(Request&)", "Registry::update(int)", "pthread_mutex_lock", "__lll_lock_wait"], { lock: 0.91 }),
			at(["demo::lock_route(Request&)", "Registry::update(int)", "std::map<int, Entry>::operator[](int const&)"], { cpu: 0.06 }),
		],
		marks: { queue: 0.01, runq: 0.015, other: 0.005 },
	},
	{
		name: "GET /report/{month}", rate: 0.7, mean: 910e6, spread: 0.25, slow: 0.05, errors: 0.03, flying: 1,
		stacks: [
			at(["demo::report_route(Request&)", "Scheduler::backoff(int)", "nanosleep"], { sleep: 0.34 }),
			at(["demo::report_route(Request&)", "Report::gather()", "pread64"], { io: 0.22 }),
			at(["demo::report_route(Request&)", "Report::sort()", "std::__introsort_loop<Row*, long>(Row*, Row*, long)", "Row::operator<(Row const&) const"], { cpu: 0.3 }),
			at(["demo::report_route(Request&)", "Report::sort()", "std::__insertion_sort<Row*>(Row*, Row*)"], { cpu: 0.06 }),
		],
		marks: { queue: 0.02, runq: 0.05, other: 0.01 },
	},
	{
		name: "GET /fast", rate: 310.5, mean: 184e3, spread: 0.9, slow: 0.004, errors: 0, flying: 0,
		stacks: [at(["demo::fast_route(Request&)"], { cpu: 0.09 }), at(SEND, { cpu: 0.08, io: 0.01 }), at(READ, { cpu: 0.05 })],
		marks: { queue: 0.36, loop: 0.33, runq: 0.06, other: 0.02 },
	},
	{
		name: "GET /static/{file}", rate: 122.1, mean: 96e3, spread: 0.6, slow: 0.001, errors: 0.0006, flying: 0,
		stacks: [at(["shop::files::Get::handle()", "sendfile64"], { io: 0.52, cpu: 0.2 }), at(["shop::files::Get::handle()", "openat64"], { cpu: 0.11 })],
		marks: { queue: 0.1, runq: 0.05, other: 0.02 },
	},
	{
		name: "<img src=x onerror=alert(1)>", rate: 0.2, mean: 3.1e6, spread: 0.3, slow: 0, errors: 1, flying: 0,
		stacks: [
			at(["<script>window.hacked = 1</script>", "\"><svg onload=alert(1)>"], { cpu: 0.8 }),
			at(["<b>bold</b>&amp;", "operator<< <char>(std::ostream&)"], { io: 0.18 }),
		],
		marks: { other: 0.02 },
	},
];

const BACKGROUND = [
	{ stack: ["main", "shop::metrics::Flusher::run()", "shop::metrics::Flusher::flush()", "write"], parts: { io: 2.1e9 } },
	{ stack: ["main", "shop::cache::Sweeper::run()", "shop::cache::Sweeper::sweep()", "__memmove_avx_unaligned_erms"], parts: { cpu: 5.7e9 } },
	{ stack: ["main", "shop::cache::Sweeper::run()", "pthread_rwlock_wrlock"], parts: { lock: 0.4e9 } },
];

const MODULE = [[/^(PQ|pq)/, "libpq.so.5.15", ""], [/^(curl|Curl|tls_)/, "libcurl.so.4.8.0", ""], [/^(HMAC|SHA|sha|aesni)/, "libcrypto.so.3", ""], [/^(__|malloc|_int_|pthread|sendfile|openat|pread|write|nanosleep|fdatasync)/, "libc.so.6", ""], [/^std::|^operator/, "libstdc++.so.6", ""]];

function place(name) {
	for (const [pattern, module, file] of MODULE) if (pattern.test(name)) return [module, file, 0];
	if (name === "all" || name.startsWith("[")) return ["", "", 0];
	const stem = /(\w+)::\w+[(<]/.exec(name)?.[1]?.toLowerCase() ?? "main";
	return ["shop", `src/${stem}.cc`, 20 + (name.length * 37) % 400];
}

/** Stacks with ns per state to the columns of /flame. */
export function columns(route, requests, stacks, scale, samples) {
	const root = { name: "all", self: {}, total: 0, children: new Map() };
	for (const { stack, parts } of stacks) {
		let node = root;
		const sum = Object.values(parts).reduce((a, b) => a + b, 0) * scale;
		node.total += sum;
		for (const name of stack) {
			if (!node.children.has(name)) node.children.set(name, { name, self: {}, total: 0, children: new Map() });
			node = node.children.get(name);
			node.total += sum;
		}
		for (const [state, share] of Object.entries(parts)) node.self[state] = (node.self[state] ?? 0) + Math.round(share * scale);
	}
	const functions = { name: [], module: [], file: [], line: [], inlined: [] };
	const ids = new Map();
	const nodes = { function: [], depth: [], self: Object.fromEntries(STATES.map((state) => [state, []])) };
	const total = Object.fromEntries(STATES.map((state) => [state, 0]));
	const visit = (node, depth) => {
		if (!ids.has(node.name)) {
			ids.set(node.name, functions.name.length);
			const [module, file, line] = place(node.name);
			functions.name.push(node.name);
			functions.module.push(module);
			functions.file.push(file);
			functions.line.push(line);
			functions.inlined.push(node.name.includes("::operator[]") ? 1 : 0);
		}
		nodes.function.push(ids.get(node.name));
		nodes.depth.push(depth);
		for (const state of STATES) {
			nodes.self[state].push(node.self[state] ?? 0);
			total[state] += node.self[state] ?? 0;
		}
		for (const child of [...node.children.values()].sort((a, b) => b.total - a.total)) visit(child, depth + 1);
	};
	visit(root, 0);
	return { from: 0, to: 0, route, requests, samples, total, functions, nodes };
}

/** A tree of `count` nodes, for looking at speed: random walks over a made-up call graph, two call sites to a function. */
export function bigTree(count, seed = 1) {
	const next = random(seed);
	const names = Array.from({ length: Math.min(20000, Math.max(200, count / 50)) | 0 }, (_, i) => `ns${(i >> 1) % 97}::Class${(i >> 1) % 1013}::method_${i >> 1}(int, char const*)`);
	const functions = { name: ["all", ...names], module: ["", ...names.map((_, i) => `lib${(i >> 1) % 40}.so`)], file: ["", ...names.map((_, i) => `src/file${i % 500}.cc`)], line: [0, ...names.map((_, i) => i % 900)], inlined: [0, ...names.map(() => 0)] };
	const nodes = { function: [0], depth: [0], self: { cpu: [0], io: [0], lock: [0] } };
	const total = { queue: 0, cpu: 0, runq: 0, io: 0, lock: 0, sleep: 0, loop: 0, other: 0 };
	let left = count - 1;
	const add = (depth, budget, ns) => {
		// A budget of nodes and of time, shared among children by a power law, largest first.
		const children = depth >= 110 ? 0 : Math.min(budget, 1 + Math.floor(next() ** 3 * 9));
		let rest = budget - children;
		let time = ns * (children ? 0.97 : 0);
		for (let c = 0; c < children && left > 0; c++) {
			left--;
			const last = c === children - 1;
			const mine = last ? time : time * (0.45 + 0.5 * next());
			const kids = last ? rest : Math.floor(rest * (0.4 + 0.5 * next()));
			time -= mine;
			rest -= kids;
			const i = nodes.function.length;
			nodes.function.push(1 + Math.floor(next() ** 2 * names.length));
			nodes.depth.push(depth);
			for (const state of ["cpu", "io", "lock"]) nodes.self[state].push(0);
			const state = ["cpu", "cpu", "io", "lock"][Math.floor(next() * 4)];
			const own = Math.max(1, Math.round(kids > 0 ? mine * 0.03 : mine));
			nodes.self[state][i] = own;
			total[state] += own;
			if (kids > 0) add(depth + 1, kids, mine);
		}
	};
	while (left > 0) add(1, left, 1e12);
	return { from: 0, to: 0, route: "GET /big", requests: 1000, samples: count, total, functions, nodes };
}

/** Requests of one route as [latency_ns, ...], the same for the same time span. */
function latencies(spec, n, seed) {
	const next = random(seed);
	const gauss = () => Math.sqrt(-2 * Math.log(next() + 1e-12)) * Math.cos(2 * Math.PI * next());
	return Array.from({ length: n }, () => {
		const base = (spec.mean * Math.exp(spec.spread * gauss())) / Math.exp((spec.spread * spec.spread) / 2);
		return Math.max(1000, Math.round(next() < spec.slow ? base * (4 + 10 * next()) : base));
	});
}

export function bucketOf(ns) {
	return ns <= 1 ? 0 : Math.ceil(Math.log2(ns) * 32 - 1e-9) - 1;
}

function histogram(values) {
	const by = new Map();
	for (const ns of values) by.set(bucketOf(ns), (by.get(bucketOf(ns)) ?? 0) + 1);
	return [...by].sort((a, b) => a[0] - b[0]).map(([index, count]) => ({ index, lower: Math.round(2 ** (index / 32)), upper: Math.round(2 ** ((index + 1) / 32)), count }));
}

function quantiles(sorted) {
	const q = (p) => sorted[Math.min(sorted.length - 1, Math.ceil(p * sorted.length) - 1)] ?? 0;
	return { p50: q(0.5), p90: q(0.9), p99: q(0.99), p999: q(0.999) };
}

const sumOf = (values) => values.reduce((a, b) => a + b, 0);

/** Everything the collector would know; `seconds` of data, `wave` moves the numbers from answer to answer. */
export function shop(seconds, wave = 0) {
	return ROUTES.map((spec, i) => {
		const n = Math.max(3, Math.round(spec.rate * Math.min(seconds, 120) * (1 + 0.04 * Math.sin(wave + i))));
		const values = latencies(spec, n, i + 1 + wave * 1000).sort((a, b) => a - b);
		const mean = Math.round(sumOf(values) / n);
		const shares = { ...spec.marks };
		for (const { parts } of spec.stacks) for (const [state, share] of Object.entries(parts)) shares[state] = (shares[state] ?? 0) + share;
		const whole = sumOf(Object.values(shares));
		const ledger = Object.fromEntries(STATES.map((state) => [state, Math.round(((shares[state] ?? 0) / whole) * mean)]));
		const largest = STATES.reduce((a, b) => (ledger[a] >= ledger[b] ? a : b));
		ledger[largest] += mean - sumOf(Object.values(ledger));
		const errors = Math.round(spec.errors * n);
		return {
			spec, values, whole,
			route: {
				service: spec.service ?? "shop", route: spec.name, count: n, errors, rate: Math.round((n / Math.min(seconds, 120)) * 10) / 10,
				in_flight: Math.max(0, spec.flying + Math.round(Math.sin(wave * 2 + i))),
				latency: { mean, ...quantiles(values), max: values[values.length - 1] }, ledger, statuses: { 200: n - errors, ...(errors ? { 500: errors } : {}) },
			},
		};
	});
}

export function flameOf(entry, min = 0, max = Infinity) {
	const chosen = entry.values.filter((ns) => ns >= min && ns <= max);
	const stacks = [...entry.spec.stacks, ...Object.entries(entry.spec.marks).map(([state, share]) => ({ stack: [{ queue: "[queue]", runq: "[run queue]", loop: "[loop]", other: "[other]" }[state]], parts: { [state]: share } }))];
	return columns(entry.route.route, chosen.length, stacks, sumOf(chosen) / entry.whole, chosen.length * 2);
}

export function latencyOf(entry) {
	return { from: 0, to: 0, route: entry.route.route, what: "latency", scale: 5, count: entry.values.length, sum: sumOf(entry.values), max: entry.route.latency.max, percentiles: quantiles(entry.values), buckets: histogram(entry.values) };
}

export function processesOf(now, lost = true) {
	const one = (id, pid, extra) => ({
		id, service: "shop", host: "web1", pid, exe: "/usr/bin/shop", command: "shop --port 80 --workers 8", version: "0.1.0", state: "live", first_seen: now - 3600, last_seen: now, hz: 99, threads: 8,
		overhead: { cores: 0.0012, cpu_share: 0.0021, handler_ns: 1200000, agent_cpu_ns: 5000000, memory_bytes: 1800000 }, samples: 12345, lost_windows: 0, drops: [{ cause: "ring full", count: 0 }], stack_ends: [{ how: "complete", count: 12000 }], ...extra,
	});
	return [
		one("a1b2c3d4e5f60718", 4711, {}),
		one("a1b2c3d4e5f60719", 4712, { overhead: { cores: 0.0047, cpu_share: 0.0034, handler_ns: 1900000, agent_cpu_ns: 8000000, memory_bytes: 2100000 }, ...(lost ? { lost_windows: 2, drops: [{ cause: "ring full", count: 17 }, { cause: "stack table full", count: 3 }] } : {}) }),
		one("b1b2c3d4e5f60720", 911, { service: "mailer", command: "mailer --queue /var/spool/mailer <script>alert(1)</script>", threads: 2 }),
	];
}

export const background = () => Object.fromEntries(["cpu", "io", "lock", "sleep"].map((state) => [state, sumOf(BACKGROUND.map(({ parts }) => parts[state] ?? 0))]));

/** What `sonde export --format html` would put into the template. */
export function report(now = 1763600060) {
	const entries = shop(60);
	return {
		report: 1, generated: now, version: "0.1.0", selection: { from: now - 60, to: now },
		processes: { processes: processesOf(now) },
		routes: { from: now - 60, to: now, routes: entries.map((e) => e.route), background: background() },
		latency: Object.fromEntries(entries.map((e) => [e.route.route, latencyOf(e)])),
		flames: { ...Object.fromEntries(entries.map((e) => [e.route.route, flameOf(e)])), "": columns("", 0, BACKGROUND, 1, 800) },
	};
}

/** The template with data in it, as the collector fills it: nothing in it can end the script element. */
export function fillReport(template, data) {
	const place = '<script type="application/json" id="sonde-data">null</script>';
	const json = JSON.stringify(data).replace(/</g, "\\u003c");
	return template.split(place).join(place.replace("null</script>", () => `${json}</script>`));
}

// ---- The server ----

const KNOWN = {
	"/api/v1/processes": [],
	"/api/v1/routes": ["service", "process", "route", "from", "to"],
	"/api/v1/latency": ["service", "process", "route", "from", "to", "what", "step"],
	"/api/v1/flame": ["service", "process", "route", "from", "to", "state", "latency_min", "latency_max", "thread", "format"],
	"/api/v1/live": ["service"],
};

function seconds(from, to, now) {
	const when = (text, otherwise) => {
		if (text === null) return otherwise;
		const ago = /^-(\d+)([smhd])$/.exec(text);
		if (ago) return now - Number(ago[1]) * { s: 1, m: 60, h: 3600, d: 86400 }[ago[2]];
		if (text === "now") return now;
		if (!/^\d+(\.\d+)?$/.test(text)) throw new Error(`"${text}" is no time: write unix seconds or -5m`);
		return Number(text);
	};
	const [a, b] = [when(from, now - 300), when(to, now)];
	if (a > b) throw new Error("from lies after to");
	return [a, b];
}

/** Starts it on a free port of loopback. `mode` may be changed while it runs; `asked` lists the requests' URLs. */
export async function startFixture({ port = 0, mode = "normal", html = null } = {}) {
	const streams = new Set();
	const fixture = { mode, asked: [], marks: [], wave: 0, url: "", close: null, tickNow: null, big: null };
	const now = () => Date.now() / 1000;
	const routesAnswer = (service, from, to) => {
		const entries = fixture.mode === "empty" ? [] : shop(to - from, fixture.wave).filter((e) => !service || e.route.service === service);
		return { from, to, routes: entries.map((e) => e.route), background: fixture.mode === "empty" ? {} : background(), marks: fixture.marks };
	};
	const processesAnswer = () => ({ processes: fixture.mode === "empty" ? [] : processesOf(now()) });
	const tick = () => {
		fixture.wave++;
		const data = JSON.stringify({ time: now(), processes: processesAnswer(), routes: routesAnswer(null, now() - 10, now()) });
		for (const stream of streams) stream.write(`event: tick\ndata: ${data}\n\n`);
	};
	fixture.tickNow = tick;
	const answer = (url) => {
		const params = url.searchParams;
		const known = KNOWN[url.pathname];
		for (const name of params.keys()) if (!known.includes(name)) throw new Error(`unknown parameter "${name}"`);
		const [from, to] = seconds(params.get("from"), params.get("to"), now());
		const name = params.get("route");
		const entry = () => shop(to - from, fixture.wave).find((e) => e.route.route === name);
		switch (url.pathname) {
			case "/api/v1/processes":
				return processesAnswer();
			case "/api/v1/routes":
				return routesAnswer(params.get("service"), from, to);
			case "/api/v1/latency": {
				const e = entry();
				return e ? { ...latencyOf(e), from, to } : { from, to, route: name, what: "latency", scale: 5, count: 0, sum: 0, max: 0, percentiles: { p50: 0, p90: 0, p99: 0, p999: 0 }, buckets: [] };
			}
			case "/api/v1/flame": {
				if (fixture.mode === "big") return (fixture.big ??= bigTree(fixture.bigNodes ?? 1e6));
				if (name === "") return { ...columns("", 0, BACKGROUND, 1, 800), from, to };
				const e = entry();
				if (!e) return { ...columns(name, 0, [], 1, 0), from, to };
				return { ...flameOf(e, Number(params.get("latency_min") ?? 0), Number(params.get("latency_max") ?? Infinity)), from, to };
			}
		}
		return null;
	};
	const server = createServer((request, response) => {
		const url = new URL(request.url, "http://fixture");
		fixture.asked.push(request.url);
		const json = (status, body) => {
			response.writeHead(status, { "Content-Type": "application/json" });
			response.end(JSON.stringify(body));
		};
		if (url.pathname === "/") {
			response.writeHead(200, { "Content-Type": "text/html; charset=utf-8" });
			response.end(html ?? readFileSync(join(BUILT, "dashboard.html")));
		} else if (!KNOWN[url.pathname]) json(404, { error: "no such page" });
		else if (fixture.mode === "broken") json(500, { error: "the store cannot be read: disk I/O error" });
		else if (url.pathname === "/api/v1/live") {
			response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
			response.write(": hello\n\n");
			streams.add(response);
			request.on("close", () => streams.delete(response));
		} else {
			try {
				json(200, answer(url));
			} catch (error) {
				json(400, { error: error.message });
			}
		}
	});
	const timer = setInterval(tick, 1000);
	fixture.close = () => {
		clearInterval(timer);
		for (const stream of streams) stream.destroy();
		server.closeAllConnections?.();
		return new Promise((done) => server.close(() => done()));
	};
	await new Promise((done, fail) => server.once("error", fail).listen(port, "127.0.0.1", done));
	fixture.port = server.address().port;
	fixture.url = `http://127.0.0.1:${fixture.port}/`;
	return fixture;
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
	const option = (name, otherwise) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : otherwise);
	const fixture = await startFixture({ port: Number(option("--port", "7070")), mode: option("--mode", "normal") });
	console.log(`fixture at ${fixture.url}`);
}
