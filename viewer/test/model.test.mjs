// SPDX-License-Identifier: MIT
// The pure parts of the page: units, selection and URL, tree, search, layout, histogram, sentences, table.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { bigTree, random } from "../dev/fixture.mjs";
import { modules as m } from "./modules.mjs";

const plain = (text) => text.replace(/\u202f/g, " ");

// ---- units ----

test("time_has_three_digits_and_a_unit", () => {
	const cases = [
		[0, "0"], [1, "1 ns"], [740, "740 ns"], [999.4, "999 ns"], [999.6, "1.00 µs"], [1234, "1.23 µs"], [9994, "9.99 µs"], [9996, "10.0 µs"],
		[99_940, "99.9 µs"], [99_960, "100 µs"], [999_499, "999 µs"], [999_600, "1.00 ms"], [12_400_000, "12.4 ms"], [1.5e9, "1.50 s"], [59.9e9, "59.9 s"],
		[59.96e9, "1 min"], [60e9, "1 min"], [125e9, "2 min 5 s"], [3600e9, "1 h"], [11_520e9, "3 h 12 min"], [86400e9 * 3, "3.00 d"], [0.4, "< 1 ns"], [-1500, "−1.50 µs"], [NaN, "–"],
	];
	for (const [ns, text] of cases) assert.equal(plain(m.time(ns)), text, String(ns));
});

test("time_short_drops_zeros", () => {
	for (const [ns, text] of [[1e6, "1 ms"], [1.5e6, "1.5 ms"], [2e4, "20 µs"], [5e9, "5 s"], [1e8, "100 ms"]]) assert.equal(plain(m.timeShort(ns)), text);
});

test("of_a_core_keeps_two_digits_below_one_percent", () => {
	const cases = [[0, "0 %"], [0.00001, "< 0.01 %"], [0.0012, "0.12 %"], [0.00994, "0.99 %"], [0.00996, "1 %"], [0.062, "6.2 %"], [1.5, "150 %"], [NaN, "–"]];
	for (const [cores, text] of cases) assert.equal(plain(m.ofACore(cores)), text, String(cores));
});

test("share_and_count_and_rate", () => {
	assert.equal(plain(m.share(0.912)), "91 %");
	assert.equal(plain(m.share(1, 16)), "6.3 %");
	assert.equal(plain(m.share(0.0004)), "< 0.1 %");
	assert.equal(plain(m.share(0)), "0 %");
	assert.equal(plain(m.share(1, 0)), "–");
	assert.equal(plain(m.count(12345)), "12 345");
	assert.equal(plain(m.count(1_234_567)), "1.23 M");
	assert.equal(plain(m.count(123_456)), "123 k");
	assert.equal(plain(m.rate(83.42)), "83.4 /s");
	assert.equal(plain(m.rate(0.001)), "<0.01 /s");
	assert.equal(plain(m.plural(1, "request")), "1 request");
	assert.equal(plain(m.plural(2, "process", "processes")), "2 processes");
});

// ---- selection ----

test("selection_survives_the_url", () => {
	const full = {
		...m.INITIAL, service: "shop & co", process: "a1b2", window: "15m", at: 1763600000.5, route: "GET /a/{id}?x=#1", owner: "mailer", states: ["cpu", "lock"],
		latency: { min: 1234, max: 56789 }, zoom: ["main", "a;b\\c", "<img src=x onerror=alert(1)>", ""], search: "^std::.*<int>$", tab: "functions", direction: "flame", theme: "dark", sort: "p99", filter: "GET",
	};
	assert.deepEqual(m.fromFragment(`#${m.toFragment(full)}`), full);
	assert.deepEqual(m.fromFragment(""), m.INITIAL);
	assert.equal(m.toFragment(m.INITIAL), "");
});

test("selection_tells_no_route_from_the_empty_route", () => {
	assert.equal(m.fromFragment("").route, null);
	assert.equal(m.fromFragment("route=").route, "");
	assert.match(m.toFragment({ ...m.INITIAL, route: "" }), /route=/);
});

test("selection_ignores_nonsense", () => {
	const sel = m.fromFragment("#window=2y&latency=9-1&states=cpu,magic&tab=x&at=-3&theme=pink&view=&latency=abc");
	assert.deepEqual(sel, { ...m.INITIAL, states: ["cpu"] });
	assert.deepEqual(m.fromFragment("states=").states, []);
});

test("paused_window_is_absolute", () => {
	assert.deepEqual(m.timeParams({ window: "5m", at: 0 }), { from: "-5m" });
	assert.deepEqual(m.timeParams({ window: "5m", at: 1000 }), { from: "700", to: "1000" });
	assert.deepEqual(m.timeParams({ window: "all", at: 0 }), { from: "0" });
});

// ---- tree ----

/** all(main(a(c,d) b) [queue]), all of it by hand. */
const SMALL = {
	from: 0, to: 1, route: "GET /x", requests: 10, samples: 5, total: { cpu: 100, io: 40, queue: 10 },
	functions: { name: ["all", "main", "a", "b", "c", "d", "[queue]"], module: ["", "x", "x", "x", "x", "x", ""], file: ["", "m.c", "a.c", "", "", "", ""], line: [0, 1, 2, 0, 0, 0, 0], inlined: [0, 0, 0, 0, 0, 0, 0] },
	nodes: { function: [0, 1, 2, 4, 5, 3, 6], depth: [0, 1, 2, 3, 3, 2, 1], self: { cpu: [0, 10, 20, 40, 0, 30, 0], io: [0, 0, 0, 0, 40, 0, 0], queue: [0, 0, 0, 0, 0, 0, 10] } },
};

test("decode_finds_ends_parents_and_totals", () => {
	const tree = m.decode(SMALL);
	assert.deepEqual([...tree.end], [7, 6, 5, 4, 5, 6, 7]);
	assert.deepEqual([...tree.parent], [0, 0, 1, 2, 2, 1, 0]);
	const all = m.weigh(tree, m.STATES);
	assert.deepEqual([0, 1, 2, 3, 4, 5, 6].map((i) => m.total(tree, all, i)), [150, 140, 100, 40, 40, 30, 10]);
	assert.deepEqual([0, 1, 2, 3].map((i) => m.self(all, i)), [0, 10, 20, 40]);
	const cpu = m.weigh(tree, ["cpu"]);
	assert.deepEqual([0, 1, 4, 6].map((i) => m.total(tree, cpu, i)), [100, 100, 0, 0]);
	assert.deepEqual(m.split(tree, 2), { ...m.NO_STATES, cpu: 60, io: 40 });
	assert.equal(tree.sums.lock, undefined);
});

test("decode_refuses_columns_that_make_no_tree", () => {
	const bad = (change) => assert.throws(() => m.decode({ ...SMALL, nodes: { ...SMALL.nodes, ...change } }), m.BadFlame);
	bad({ depth: [0, 2, 2, 3, 3, 2, 1] });
	bad({ depth: [0, 1, 0, 1, 1, 1, 1] });
	bad({ depth: [0, 1] });
	bad({ function: [0, 1, 2, 4, 5, 3, 99] });
	bad({ self: { cpu: [1] } });
});

test("decode_merges_siblings_of_one_function_and_keeps_its_lines", () => {
	const tree = m.decode({
		...SMALL,
		functions: { name: ["all", "fib", "fib", "add", "fib"], module: ["", "x", "x", "x", "y"], file: ["", "w.c", "w.c", "w.c", ""], line: [0, 16, 18, 3, 0], inlined: [0, 0, 0, 0, 0] },
		// all( fib:16( fib:16, fib:18(add) ), fib:18( add ), y's fib )
		nodes: { function: [0, 1, 1, 2, 3, 2, 3, 4], depth: [0, 1, 2, 2, 3, 1, 2, 1], self: { cpu: [0, 1, 2, 4, 8, 16, 32, 64], io: [1, 0, 0, 0, 0, 0, 0, 0] } },
	});
	const all = m.weigh(tree, m.STATES);
	const shape = Array.from({ length: tree.count }, (_, i) => `${tree.depth[i]} ${m.nameOf(tree, i)} ${tree.functions.module[tree.fn[i]]} ${m.total(tree, all, i)} ${m.self(all, i)} ^${tree.parent[i]} <${tree.end[i]}`);
	assert.deepEqual(shape, ["0 all  128 1 ^0 <6", "1 fib y 64 64 ^0 <2", "1 fib x 63 17 ^0 <6", "2 add x 32 32 ^2 <4", "2 fib x 14 6 ^2 <6", "3 add x 8 8 ^4 <6"]);
	assert.deepEqual(m.lines(tree, 2), [{ line: 18, share: 48 / 63 }, { line: 16, share: 15 / 63 }]);
	assert.deepEqual(m.lines(tree, 3), [{ line: 3, share: 1 }]);
	assert.deepEqual(m.lines(tree, 1), []);
	assert.equal(m.matched(tree, all, m.search(tree.functions.name, "add").matches).ns, 40);
});

test("walk_skips_what_has_no_time", () => {
	const tree = m.decode(SMALL);
	const io = m.weigh(tree, ["io"]);
	assert.equal(m.firstChild(tree, io, 2), 4);
	assert.equal(m.nextSibling(tree, io, 2), -1);
	const all = m.weigh(tree, m.STATES);
	assert.equal(m.nextSibling(tree, all, 3), 4);
	assert.equal(m.previousSibling(tree, all, 4), 3);
	assert.equal(m.nextSibling(tree, all, 1), 6);
	assert.equal(m.firstChild(tree, all, 6), -1);
});

test("path_leads_back_to_the_node_or_as_near_as_it_can", () => {
	const tree = m.decode(SMALL);
	assert.deepEqual(m.pathOf(tree, 4), ["main", "a", "d"]);
	assert.equal(m.nodeAt(tree, ["main", "a", "d"]), 4);
	assert.equal(m.nodeAt(tree, ["main", "gone", "d"]), 1);
	assert.equal(m.nodeAt(tree, []), 0);
});

// ---- search ----

test("search_counts_time_under_outermost_matches_once", () => {
	const tree = m.decode(SMALL);
	const all = m.weigh(tree, m.STATES);
	const found = m.search(tree.functions.name, "^[acd]$");
	assert.deepEqual(m.matched(tree, all, found.matches), { ns: 100, boxes: 1 });
	assert.deepEqual(m.matched(tree, all, found.matches, 3), { ns: 40, boxes: 1 });
	assert.deepEqual(m.matched(tree, all, m.search(tree.functions.name, "queue|b").matches), { ns: 40, boxes: 2 });
});

test("search_shows_an_invalid_expression_instead_of_throwing", () => {
	const found = m.search(["a"], "a(");
	assert.equal(found.matches, null);
	assert.match(found.error, /unterminated group/i);
});

test("search_minds_case_only_when_asked", () => {
	assert.deepEqual([...m.search(["Main", "main"], "main").matches], [1, 1]);
	assert.deepEqual([...m.search(["Main", "main"], "Main").matches], [1, 0]);
	assert.deepEqual([...m.search(["m1", "M2"], "m\\D?").matches], [1, 1]);
});

// ---- functions ----

test("function_table_counts_recursion_once", () => {
	const tree = m.decode({
		...SMALL,
		functions: { name: ["all", "f", "g", "f"], module: ["", "x", "x", "x"], file: ["", "", "", ""], line: [0, 1, 2, 9], inlined: [0, 0, 0, 0] },
		nodes: { function: [0, 1, 2, 3], depth: [0, 1, 2, 3], self: { cpu: [0, 1, 2, 4] } },
	});
	const rows = m.functionTable(tree, m.weigh(tree, m.STATES));
	const f = rows.find((row) => row.name === "f");
	assert.deepEqual([f.self, f.total, f.split.cpu], [5, 7, 5]);
	assert.equal(rows.find((row) => row.name === "g").total, 6);
	assert.equal(rows.length, 2);
});

// ---- layout ----

const rowsOf = (tree, boxes) => Array.from({ length: boxes.count }, (_, i) => [boxes.mergedTo[i] ? "+" : m.nameOf(tree, boxes.node[i]), boxes.row[i], boxes.x0[i], boxes.x1[i]]);

test("layout_golden", () => {
	const tree = m.decode(SMALL);
	const all = m.weigh(tree, m.STATES);
	assert.deepEqual(rowsOf(tree, m.layout(tree, all, 0, 1500)), [
		["all", 0, 0, 1500], ["main", 1, 0, 1400], ["a", 2, 0, 1000], ["c", 3, 0, 400], ["d", 3, 400, 800], ["b", 2, 1000, 1300], ["[queue]", 1, 1400, 1500],
	]);
	assert.deepEqual(rowsOf(tree, m.layout(tree, all, 2, 1000)), [["all", 0, 0, 1000], ["main", 1, 0, 1000], ["a", 2, 0, 1000], ["c", 3, 0, 400], ["d", 3, 400, 800]]);
	assert.deepEqual(rowsOf(tree, m.layout(tree, m.weigh(tree, ["io"]), 0, 100)), [["all", 0, 0, 100], ["main", 1, 0, 100], ["a", 2, 0, 100], ["d", 3, 0, 100]]);
	assert.equal(m.layout(tree, m.weigh(tree, ["lock"]), 0, 100).count, 0);
});

test("layout_merges_narrow_siblings_without_their_parents_own_time", () => {
	const n = 100;
	const columns = {
		...SMALL,
		functions: { name: ["all", "big", "tiny"], module: ["", "", ""], file: ["", "", ""], line: [0, 0, 0], inlined: [0, 0, 0] },
		nodes: { function: [0, 1, ...Array(n).fill(2)], depth: [0, 1, ...Array(n).fill(1)], self: { cpu: [400, 500, ...Array(n).fill(1)] } },
	};
	const tree = m.decode(columns);
	const boxes = m.layout(tree, m.weigh(tree, m.STATES), 0, 300);
	assert.deepEqual(rowsOf(tree, boxes), [["all", 0, 0, 300], ["big", 1, 0, 150], ["+", 1, 150, 180]]);
	assert.equal(boxes.mergedTo[2], 2 + n);
	assert.equal(m.boxOf(boxes, tree, 50), 2);
	assert.equal(m.hit(boxes, 170, 1), 2);
	assert.equal(m.hit(boxes, 200, 1), -1);
});

test("layout_keeps_boxes_inside_their_parents_and_apart", () => {
	for (const seed of [1, 2, 3]) {
		const tree = m.decode(bigTree(5000, seed));
		const boxes = m.layout(tree, m.weigh(tree, m.STATES), 0, 1400);
		const rightmost = [];
		const at = new Map();
		for (let i = 0; i < boxes.count; i++) {
			const row = boxes.row[i];
			assert.ok(boxes.x0[i] >= (rightmost[row] ?? 0) - 1, "siblings overlap by more than a rounded pixel");
			rightmost[row] = boxes.x1[i];
			const parent = at.get(tree.parent[boxes.node[i]]);
			if (row > 0) assert.ok(parent && boxes.x0[i] >= parent[0] - 1 && boxes.x1[i] <= parent[1] + 1, "a box leaves its parent");
			if (!boxes.mergedTo[i]) at.set(boxes.node[i], [boxes.x0[i], boxes.x1[i]]);
		}
	}
});

test("layout_cost_follows_the_screen_not_the_tree", (t) => {
	const tree = m.decode(bigTree(1_000_000));
	let from = performance.now();
	const weight = m.weigh(tree, m.STATES);
	const weighed = performance.now() - from;
	from = performance.now();
	const boxes = m.layout(tree, weight, 0, 1400);
	t.diagnostic(`1M nodes: weigh ${weighed.toFixed(1)} ms, layout ${(performance.now() - from).toFixed(1)} ms, ${boxes.count} boxes`);
	assert.ok(boxes.count < 20_000, `${boxes.count} boxes`);
});

test("text_is_shortened_in_the_middle_and_fits", () => {
	const fit = m.fitter(() => 7);
	assert.equal(fit.fit("short", 100), "short");
	const cut = fit.fit("shop::orders::Get::handle(Request const&)", 100);
	assert.match(cut, /^shop::.*….+$/);
	assert.ok(fit.width(cut) <= 100);
	assert.equal(fit.fit("long enough", 20), "");
	assert.equal(fit.fit("ab", 14), "ab");
});

// ---- histogram ----

test("hist_brush_takes_whole_coarse_buckets_and_lies_inside_them", () => {
	const next = random(7);
	for (let i = 0; i < 200; i++) {
		const a = 300 + next() * 600;
		const b = a + next() * 60;
		const { min, max } = m.brush(a, b);
		const coarse = (ns) => Math.floor((Math.ceil(Math.log2(ns) * 32 - 1e-9) - 1) / 16);
		assert.equal(coarse(min), Math.floor(a / 16), `min ${min}`);
		assert.equal(coarse(max), Math.ceil(b / 16) - 1, `max ${max}`);
	}
});

test("hist_bins_keep_every_request", () => {
	const buckets = [{ index: 640, count: 3 }, { index: 641, count: 4 }, { index: 700, count: 5 }];
	const { first, last } = m.span(buckets);
	assert.equal(first % 16, 0);
	assert.equal(last % 16, 0);
	for (const size of [1, 2, 4, 8, 16]) assert.equal(m.bins(buckets, first, last, size).reduce((sum, bin) => sum + bin.count, 0), 12);
	const { min, max } = m.brush(640, 656);
	assert.equal(m.countBetween(buckets, min, max), 7);
});

test("hist_axis_has_round_ticks_that_do_not_crowd", () => {
	const ticks = m.ticks(m.position(1e6), m.position(1e9), 700);
	assert.deepEqual(ticks.map((tick) => tick.ns), [1e6, 2e6, 5e6, 1e7, 2e7, 5e7, 1e8, 2e8, 5e8, 1e9].filter((ns) => ns <= m.edge(m.position(1e9))));
	assert.ok(m.ticks(m.position(1e3), m.position(1e10), 600).length <= 8);
	assert.equal(m.groupSize(0, 64, 640), 1);
	assert.equal(m.groupSize(0, 640, 640), 4);
});

// ---- words ----

const ledger = (parts) => ({ ...m.NO_STATES, ...parts });

test("explain_says_where_the_time_goes", () => {
	const route = { route: "GET /lock", count: 100, latency: { mean: 12_400_000 }, ledger: ledger({ lock: 11_284_000, cpu: 744_000, queue: 124_000, runq: 124_000, other: 124_000 }) };
	assert.equal(plain(m.explainRoute(route)), "GET /lock takes 12.4 ms on average: 91 % waiting for a lock, 6 % CPU, 1 % waiting to be read by the server.");
	assert.equal(plain(m.explainRoute({ ...route, ledger: ledger({ cpu: 999, io: 1 }) })), "GET /lock takes 12.4 ms on average: 100 % CPU.");
	assert.match(m.explainRoute({ ...route, count: 0 }), /no request/);
	assert.equal(plain(m.explainRange("GET /lock", "1 ms – 2 ms", 4, { lock: 6e6 })), "GET /lock requests of 1 ms – 2 ms take 1.50 ms on average: 100 % waiting for a lock.");
	assert.equal(plain(m.explainBackground({ cpu: 1.5e9, io: 0.5e9 })), "Outside any request 2.00 s were spent: 75 % CPU, 25 % waiting for IO.");
	assert.match(m.explainBackground({}), /No work/);
});

// ---- table ----

const route = (name, more) => ({ service: "s", route: name, count: 1, errors: 0, rate: 1, in_flight: 0, latency: { mean: 1, p50: 1, p90: 1, p99: 1, p999: 1, max: 1 }, ledger: ledger({}), ...more });

test("routes_sort_by_time_lost_first_and_by_any_column", () => {
	const routes = [route("b", { count: 10, errors: 3 }), route("a", { count: 5, rate: 9 }), route("c", { count: 100 })];
	const names = (sort) => m.sortRoutes(routes, sort).map((one) => one.route).join("");
	assert.equal(names("-total"), "cba");
	assert.equal(names("nonsense"), "cba");
	assert.equal(names("route"), "abc");
	assert.equal(names("-errors"), "bac");
	assert.equal(names("-rate"), "abc");
	assert.equal(m.nextSort("-total", "total"), "total");
	assert.equal(m.nextSort("-total", "p99"), "-p99");
	assert.equal(m.nextSort("-total", "route"), "route");
});

test("routes_filter_takes_expressions_and_plain_text", () => {
	const routes = [route("GET /a"), route("POST /b(")];
	assert.equal(m.filterRoutes(routes, "^post").length, 1);
	assert.equal(m.filterRoutes(routes, "b(").length, 1);
	assert.equal(m.filterRoutes(routes, "").length, 2);
});

test("tick_is_read_in_both_shapes", () => {
	const list = { time: 5, processes: [{ id: "a" }], routes: [route("x")] };
	const whole = { time: 5, processes: { processes: [{ id: "a" }] }, routes: { from: 1, to: 5, routes: [route("x")] } };
	for (const shape of [list, whole]) {
		const tick = m.tickOf(shape);
		assert.deepEqual([tick.time, tick.processes[0].id, tick.routes.routes[0].route], [5, "a", "x"]);
	}
});

// ---- the rule of the house ----

test("views_import_draw_and_model_never_the_other_way", () => {
	const src = join(dirname(fileURLToPath(import.meta.url)), "../src");
	const may = { model: ["model"], draw: ["model", "draw"], views: ["model", "draw", "views"], app: ["model", "draw", "views", "app"] };
	for (const folder of Object.keys(may))
		for (const file of readdirSync(join(src, folder))) {
			const text = readFileSync(join(src, folder, file), "utf8");
			for (const [, from] of text.matchAll(/from "(\.[^"]+)"/g)) {
				const target = from.startsWith("./") ? folder : from.split("/")[1];
				assert.ok(may[folder].includes(target), `${folder}/${file} imports ${from}`);
			}
			assert.ok(!/innerHTML|outerHTML|insertAdjacentHTML|document\.write/.test(text), `${folder}/${file} writes HTML`);
			if (folder === "model") assert.ok(!/\bdocument\b|\bwindow\.|HTMLElement/.test(text), `${folder}/${file} knows the page`);
		}
});
