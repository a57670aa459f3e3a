// SPDX-License-Identifier: MIT
// The page: the only holder of state. The selection (URL) and the answers (slots) go in, every panel is told what to
// show. One way: a click changes the selection, the selection asks and redraws.

import { NO_STATES, perState, STATES, sumStates, type FlameColumns, type LatencyHistogram, type PerState, type Process, type Report, type Routes, type Tick } from "../model/api.js";
import { explainBackground, explainRange, explainRoute, LABEL } from "../model/explain.js";
import { decode, nameOf, nodeAt, pathOf, total, weigh, type Tree } from "../model/flame.js";
import { functionTable, type FunctionRow } from "../model/functions.js";
import { compile, matched, search, type Search } from "../model/search.js";
import { fromFragment, INITIAL, toFragment, windowWords, type Selection } from "../model/selection.js";
import { sortRoutes } from "../model/table.js";
import { clock, count, dateTime, plural, share, time } from "../model/units.js";
import { createDetail } from "../views/detail.js";
import { fill, h, setAttr, setText, show } from "../views/dom.js";
import { createFlame } from "../views/flame.js";
import { createFunctions } from "../views/functions.js";
import { createHeader, type Connection } from "../views/header.js";
import { createHelp } from "../views/help.js";
import { createHistogram, rangeWords } from "../views/histogram.js";
import { createMarks } from "../views/marks.js";
import { createBanner, createNotice, type Notice } from "../views/notice.js";
import { createRoutes, routeKey } from "../views/routes.js";
import { createTooltip } from "../views/tooltip.js";
import { createLive } from "./live.js";
import { Slot } from "./slot.js";
import { ApiError, type Source } from "./source.js";
import { applyTheme, onSystemTheme } from "./theme.js";

// Route, histogram and graph are asked for again this often at most; a graph that is dear to fetch, seldomer still.
const REFRESH_MS = 2000;
// With fewer samples the shape of a graph is chance to a good part; its sums are still exact.
const FEW_SAMPLES = 30;

/** An answer of /flame as the page keeps it: without the columns, which are as large as the tree again. */
interface Flame {
	/** What was asked for: the page never shows one route's graph under another's name. */
	route: string;
	/** The answer had columns at all: a report may lack some. */
	given: boolean;
	requests: number;
	samples: number;
	total: Partial<PerState>;
	tree: Tree | null;
	error: string;
}

function decodeAnswer(route: string, answer: FlameColumns | null): Flame {
	const { requests = 0, samples = 0, total = {} } = answer ?? {};
	const flame: Flame = { route, given: answer !== null, requests, samples, total, tree: null, error: "" };
	try {
		if (answer) flame.tree = decode(answer);
	} catch (error) {
		flame.error = error instanceof Error ? error.message : String(error);
	}
	return flame;
}

export function startPage(root: HTMLElement, source: Source, report: Report | null): void {
	// A report has one graph per route: a link's latency range, pause or process cannot apply to it.
	const readUrl = (): Selection => (report ? { ...fromFragment(location.hash), latency: null, at: 0, process: "", window: "all" } : fromFragment(location.hash));
	let sel: Selection = readUrl();
	let ink = applyTheme(sel.theme);
	let connection: Connection = report ? "report" : sel.at ? "paused" : "connecting";
	let retry = 0;
	let fresh = 0;
	let tick: Tick | null = null;
	let dragging = false;
	let refreshed = 0;
	let frame = 0;
	let revealed = false;

	const processes = new Slot<{ processes: Process[] }>(() => arrived());
	const routes = new Slot<Routes>(() => arrived());
	const latency = new Slot<{ route: string; data: LatencyHistogram | null }>(() => render());
	const flame = new Slot<Flame>(() => render());

	// What is derived from the flame's answer, and from what it was derived.
	let tree: Tree | null = null;
	let weight: Float64Array | null = null;
	let weightKey: string | null = null;
	let found: Search = { text: "", error: "", matches: null };
	let foundIn: Tree | null = null;
	let table: { tree: Tree; weight: Float64Array; zoom: number; rows: FunctionRow[] } | null = null;

	// ---- Selection and URL ----

	/** A new selection; `push` makes a step that the back button undoes. */
	function navigate(patch: Partial<Selection>, push = true): void {
		const theme = sel.theme;
		sel = { ...sel, ...patch };
		const hash = toFragment(sel);
		if (hash !== location.hash.replace(/^#/, "")) history[push ? "pushState" : "replaceState"](null, "", hash ? `#${hash}` : location.pathname + location.search);
		if (sel.theme !== theme) ink = applyTheme(sel.theme);
		ask();
		render();
	}

	function fromUrl(): void {
		const before = sel;
		sel = readUrl();
		ink = applyTheme(sel.theme);
		if (before.at !== sel.at || before.service !== sel.service) connect();
		ask();
		render();
	}
	addEventListener("popstate", fromUrl);
	addEventListener("hashchange", fromUrl);
	onSystemTheme(() => {
		ink = applyTheme(sel.theme);
		render();
	});

	// ---- Asking ----

	function ask(again = false): void {
		const when = `${sel.service}\n${sel.process}\n${sel.window}\n${sel.at}`;
		const asked = { ...sel };
		processes.ask("processes", (signal) => source.processes(signal), again);
		routes.ask(when, (signal) => source.routes(asked, signal), again);
		if (sel.route === null) return;
		const { route } = sel;
		const what = `${when}\n${sel.owner}\n${route}`;
		if (sel.route === "") latency.forget();
		else latency.ask(what, async (signal) => ({ route, data: await source.latency(asked, signal) }), again);
		const range = sel.latency ? `${sel.latency.min}-${sel.latency.max}` : "";
		flame.ask(`${what}\n${range}`, async (signal) => decodeAnswer(route, await source.flame(asked, signal)), again);
	}

	/** Routes or processes came: the first look chooses the route that loses most time. */
	function arrived(): void {
		const data = routes.value;
		if (sel.route === null && data) {
			const first = sortRoutes(data.routes, INITIAL.sort)[0];
			const background = data.background && sumStates(data.background) > 0;
			if (first) return navigate({ route: first.route, owner: ownerOf(first.service) }, false);
			if (background) return navigate({ route: "" }, false);
		}
		render();
	}

	/** A route's service belongs into the URL only where it is needed to tell two apart. */
	function ownerOf(service: string): string {
		const several = new Set(routes.value?.routes.map((route) => route.service)).size > 1;
		return several && sel.service === "" ? service : "";
	}

	const live = createLive(() => `api/v1/live${sel.service ? `?service=${encodeURIComponent(sel.service)}` : ""}`, {
		open() {
			if (connection === "down") ask(true);
			connection = "live";
			render();
		},
		tick(next) {
			const back = connection === "down";
			tick = next;
			fresh = next.time;
			connection = "live";
			retry = 0;
			processes.value = { processes: next.processes };
			processes.error = null;
			const now = performance.now();
			if (!dragging && !document.hidden && (back || now - refreshed >= Math.max(REFRESH_MS - 100, 10 * flame.took))) {
				refreshed = now;
				ask(true);
			}
			render();
		},
		down(seconds) {
			connection = "down";
			retry = seconds;
			render();
		},
	});

	function connect(): void {
		if (!source.live) return;
		live.stop();
		if (sel.at) {
			connection = "paused";
			return;
		}
		connection = "connecting";
		live.start();
	}

	function pause(): void {
		if (!source.live) return;
		navigate({ at: sel.at ? 0 : Math.round((fresh || Date.now() / 1000) * 10) / 10 });
		connect();
		render();
	}

	// ---- Panels ----

	const tooltip = createTooltip();
	const help = createHelp();
	const header = createHeader({
		service: (service) => {
			navigate({ service, owner: "", route: null, latency: null, zoom: [], process: "" });
			connect();
		},
		process: (process) => navigate({ process }),
		window: (window) => navigate({ window }),
		pause,
		theme: (theme) => navigate({ theme }, false),
		help: help.toggle,
	});
	const banner = createBanner();
	const notice = createNotice();
	const marks = createMarks();
	const routesView = createRoutes(
		{
			choose: (route, service) => navigate({ route, owner: route === "" ? "" : ownerOf(service), latency: null, zoom: [] }),
			sort: (sort) => navigate({ sort }, false),
			filter: (filter) => navigate({ filter }, false),
		},
		tooltip,
	);
	const detail = createDetail({ states: (change) => navigate({ states: change(sel.states) }, false) });
	const histogram = createHistogram(
		{
			range: (range) => navigate({ latency: range, zoom: [] }),
			dragging: (on) => (dragging = on),
		},
		tooltip,
	);
	const flameView = createFlame({ zoom: (node) => tree && navigate({ zoom: pathOf(tree, node) }) }, tooltip);
	const functions = createFunctions({
		find: (name) => navigate({ tab: "flame", search: `^${name.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")}$` }),
	});

	const tabs = (["flame", "functions"] as const).map((tab) =>
		h("button", { type: "button", role: "tab", id: `tab-${tab}`, "aria-controls": "graph", on: { click: () => navigate({ tab }) } }, tab === "flame" ? "Flame graph" : "Functions"),
	);
	const direction = h("button", { type: "button", class: "link", id: "direction", title: "Root on top or at the bottom (f)", on: { click: flip } });
	const searchBox = h("input", {
		type: "search",
		id: "search",
		placeholder: "Search functions  /",
		"aria-label": "Search functions by regular expression",
		"aria-describedby": "match",
		spellcheck: "false",
		on: {
			input: () => navigate({ search: searchBox.value }, false),
			keydown: (event) => event.key === "Enter" && document.getElementById("flame")?.focus(),
		},
	});
	const match = h("span", { class: "match", id: "match", role: "status" });
	const crumbs = h("nav", { class: "crumbs", "aria-label": "Zoom" });
	const allStates = h("button", { type: "button", class: "link", id: "all-states", title: "Show all states again", on: { click: () => navigate({ states: STATES }, false) } });
	const facts = h("span", { class: "muted facts", id: "facts" });
	const graph = h("div", { class: "graph", id: "graph", role: "tabpanel" }, flameView.root, functions.root);
	const flamePanel = h(
		"section",
		{ class: "panel flame", "aria-label": "Flame graph" },
		h("div", { class: "tools" }, h("div", { class: "tabs", role: "tablist" }, ...tabs), h("span", { class: "spring" }), direction, match, searchBox),
		h("div", { class: "tools under" }, crumbs, h("span", { class: "spring" }), allStates, facts),
		graph,
	);
	const panels = h("main", {}, marks.root, routesView.root, h("div", { class: "pair" }, detail.root, histogram.root), flamePanel);
	fill(root, header.root, banner.root, notice.root, panels, help.root, tooltip.root);

	function flip(): void {
		navigate({ direction: sel.direction === "icicle" ? "flame" : "icicle" }, false);
	}

	// ---- Drawing ----

	function render(): void {
		if (!frame) frame = requestAnimationFrame(draw);
	}

	/** Brings tree, weight and matches up to the answer and the selection; each only when its own input changed. */
	function derive(): void {
		const answered = flame.value?.route === sel.route ? flame.value.tree : null;
		if (tree !== answered) {
			tree = answered;
			weightKey = null; // no states at all is a key, too
		}
		const key = sel.states.join();
		if (weightKey !== key) {
			weight = tree ? weigh(tree, sel.states) : null;
			weightKey = key;
		}
		if (foundIn !== tree || found.text !== sel.search) {
			found = search(tree?.functions.name ?? [], sel.search);
			foundIn = tree;
		}
	}

	function drawNotice(): boolean {
		const data = processes.value;
		let now: Notice | null = null;
		const refusal = processes.error instanceof ApiError && processes.error.status > 0 ? processes.error.message : "";
		if (!data && refusal && !routes.value) now = { title: "The collector cannot answer.", commands: [], lines: [refusal, "Its own log may say more. The page tries again by itself."] };
		else if (!data && processes.error && !routes.value)
			now = {
				title: "The collector does not answer.",
				commands: ["sonde serve"],
				lines: ["Start it as above, where this page came from. The page tries again by itself."],
			};
		else if (data && data.processes.length === 0 && (routes.value?.routes.length ?? 0) === 0)
			now = {
				title: "No process reports yet.",
				commands: ["sonde run -- ./server"],
				lines: ["Start your server as above and send it a request. No code change, no root. The page shows it within a second or two."],
			};
		notice.update(now);
		return now !== null;
	}

	function drawBanner(): void {
		let text = "";
		const error = [routes.error, flame.error, latency.error].find((one) => one !== null);
		if (error instanceof ApiError && error.status > 0) text = `The collector refused: ${error.message}`;
		else if (connection === "down") text = `The collector is not answering – ${retry ? `retrying in ${retry} s` : "trying again"}. Is “sonde serve” still running? ` + (fresh ? `What you see is from ${clock(fresh)}.` : "");
		else if (error instanceof ApiError) text = "The collector is not answering. Is “sonde serve” still running?";
		else if (error) text = `An answer could not be read: ${error instanceof Error ? error.message : String(error)}`;
		else if (flame.value?.error) text = `The flame graph's answer makes no tree: ${flame.value.error}. Collector and page may be of different versions.`;
		banner.update(text);
	}

	/** What the chips show: of the flame where it answers the selection, else of the table. */
	function values(): { values: PerState; unit: string } {
		const chosen = routes.value?.routes.find((route) => route.route === sel.route && (sel.owner === "" || route.service === sel.owner));
		if (sel.route === "") return { values: perState(routes.value?.background), unit: "in total, outside any request" };
		if (sel.latency && flame.value && flame.current) {
			const { requests } = flame.value;
			const out = { ...NO_STATES };
			for (const state of STATES) out[state] = (flame.value.total[state] ?? 0) / (requests || 1);
			return { values: out, unit: requests ? "per request of this range" : "in total" };
		}
		return { values: chosen?.ledger ?? NO_STATES, unit: "per request" };
	}

	function sentence(): string {
		const name = sel.route;
		if (name === null) return routes.busy ? "Loading…" : `No request ended in ${windowWords(sel.window)}.`;
		if (name === "") return routes.value ? explainBackground(routes.value.background) : "Loading…";
		if (sel.latency) return flame.current && flame.value ? explainRange(name, rangeWords(sel.latency), flame.value.requests, flame.value.total) : "Loading…";
		const chosen = routes.value?.routes.find((route) => route.route === name && (sel.owner === "" || route.service === sel.owner));
		if (chosen) return explainRoute(chosen);
		return routes.value ? `${name} has ended no request in ${windowWords(sel.window)}.` : "Loading…";
	}

	function drawCrumbs(zoom: number): void {
		if (!tree || !weight) return fill(crumbs);
		const chain: number[] = [];
		for (let i = zoom; i > 0; i = tree.parent[i]!) chain.push(i);
		chain.push(0);
		chain.reverse();
		const parts: Node[] = [];
		const whole = total(tree, weight, 0);
		chain.forEach((node, i) => {
			// The ends say where one is; a long middle folds.
			if (chain.length > 6 && i > 1 && i < chain.length - 3) {
				if (i === 2) parts.push(h("span", { class: "muted" }, "… ›"));
				return;
			}
			const last = i === chain.length - 1;
			const name = node === 0 ? "all" : nameOf(tree!, node);
			parts.push(
				h("button", { type: "button", class: "link crumb", title: name, "aria-current": last ? "location" : undefined, on: { click: () => navigate({ zoom: pathOf(tree!, node) }) } }, name),
			);
			if (!last) parts.push(h("span", { class: "muted", "aria-hidden": "true" }, "›"));
		});
		if (zoom) parts.push(h("span", { class: "muted" }, share(total(tree, weight, zoom), whole)), h("button", { type: "button", class: "link", id: "unzoom", on: { click: () => navigate({ zoom: [] }) } }, "reset"));
		const key = parts.map((part) => part.textContent).join();
		if (crumbs.dataset["key"] !== key || !crumbs.matches(":hover, :focus-within")) {
			crumbs.dataset["key"] = key;
			fill(crumbs, ...parts);
		}
	}

	function flameMessage(): string {
		if (flame.error && flame.value?.route !== sel.route) return "No flame graph: see above.";
		if (sel.route === null) return "Choose a route.";
		if (!flame.value || flame.value.route !== sel.route) return "Loading…";
		if (!flame.current) return "";
		if (!flame.value.given) return report ? "The report was made without a flame graph of this route." : "No data.";
		if (!tree || !weight) return flame.value.error ? "The answer makes no tree." : "No data.";
		if (sumStates(flame.value.total) === 0 || tree.count === 0) return sel.latency ? "No measured time in this latency range. Esc shows all requests." : `No measured time in ${windowWords(sel.window)}.`;
		if (total(tree, weight, 0) <= 0) return sel.states.length ? "No time in the chosen states: switch others on." : "All states are off: switch one on.";
		return "";
	}

	function draw(): void {
		frame = 0;
		derive();
		const list = processes.value?.processes ?? [];
		const services = [...new Set([...list.map((one) => one.service), ...(routes.value?.routes.map((one) => one.service) ?? [])])].sort();
		header.update({ sel, services, processes: list, connection, fresh, retry, made: madeWords(report) });
		document.title = sel.route ? `${sel.route} – sonde` : "sonde";
		const empty = drawNotice();
		show(panels, !empty);
		drawBanner();
		if (empty) return;

		marks.update(routes.value?.marks ?? []);
		const inFlight = new Map<string, number>();
		if (connection === "live" && !sel.at && !sel.process) for (const route of tick?.routes.routes ?? []) inFlight.set(routeKey(route), route.in_flight);
		routesView.update({ sel, data: routes.value, inFlight, stale: connection === "down" || (!routes.current && routes.value !== null) });
		const old = !flame.current && flame.value !== null;
		detail.update({ sentence: sentence(), ...values(), on: sel.states, loading: connection === "down" });
		histogram.update({
			data: sel.route !== "" && latency.value?.route === sel.route ? latency.value.data : null,
			range: sel.latency,
			message: histogramMessage(),
			fixed: report ? "latency ranges need the live page: a report keeps one graph per route" : "",
			loading: connection === "down" || (!latency.current && latency.value !== null && sel.route !== ""),
			ink,
		});

		const zoom = tree ? nodeAt(tree, sel.zoom) : 0;
		const requests = sel.route === "" ? 0 : (flame.value?.requests ?? 0);
		const passes = found.matches ? compile(sel.search) : null;
		for (const tab of tabs) setAttr(tab, "aria-selected", String(tab.id === `tab-${sel.tab}`));
		show(flameView.root, sel.tab === "flame");
		show(functions.root, sel.tab === "functions");
		show(direction, sel.tab === "flame");
		setText(direction, sel.direction === "icicle" ? "▼ icicle" : "▲ flame");
		flamePanel.classList.toggle("stale", old || connection === "down");
		flameView.update({ tree, weight, states: sel.states, zoom, matches: found.matches, icicle: sel.direction === "icicle", requests, message: flameMessage(), ink });
		if (sel.tab === "functions" && tree && weight) {
			if (!table || table.tree !== tree || table.weight !== weight || table.zoom !== zoom) table = { tree, weight, zoom, rows: functionTable(tree, weight, zoom) };
			functions.update({ rows: table.rows, whole: total(tree, weight, zoom), requests, passes: passes instanceof RegExp ? passes : null });
		}
		if (searchBox.value !== sel.search && document.activeElement !== searchBox) searchBox.value = sel.search;
		drawMatch(zoom);
		drawCrumbs(zoom);
		const off = STATES.filter((state) => !sel.states.includes(state));
		setText(allStates, off.length > 4 ? `only ${sel.states.map((state) => LABEL[state]).join(", ") || "nothing"} – show all` : `without ${off.map((state) => LABEL[state]).join(", ")} – show all`);
		show(allStates, off.length > 0);
		setText(facts, factWords(requests));
		// A link may name a route below the table's fold.
		if (!revealed && routes.value && sel.route !== null) {
			revealed = true;
			routesView.reveal();
		}
	}

	function histogramMessage(): string {
		if (sel.route === "") return "Work outside any request has no latency.";
		if (sel.route === null) return "Choose a route.";
		if (latency.error && latency.value?.route !== sel.route) return "No histogram: see above.";
		if (!latency.value || latency.value.route !== sel.route) return "Loading…";
		if (!latency.value.data) return report ? "The report was made without this histogram." : "No data.";
		return latency.value.data.count === 0 ? `No request ended in ${windowWords(sel.window)}.` : "";
	}

	function drawMatch(zoom: number): void {
		match.classList.toggle("warn", found.error !== "");
		setAttr(searchBox, "aria-invalid", found.error ? "true" : null);
		if (found.error) return setText(match, found.error);
		if (!found.matches || !tree || !weight) return setText(match, "");
		const hits = matched(tree, weight, found.matches, zoom);
		setText(match, hits.ns > 0 ? `${share(hits.ns, total(tree, weight, zoom))} matched` : "no match");
		setAttr(match, "title", plural(hits.boxes, "call path"));
	}

	function factWords(requests: number): string {
		if (!flame.value || !tree || !weight) return "";
		const ns = total(tree, weight, 0);
		const words = [sel.route === "" ? `${time(ns)} in total` : requests > 0 ? `${time(ns / requests)} per request` : time(ns)];
		if (sel.route !== "") words.push(plural(requests, "request"));
		words.push(plural(flame.value.samples, "sample") + (flame.value.samples > 0 && flame.value.samples < FEW_SAMPLES ? ": a rough picture" : ""));
		return words.join(" · ");
	}

	// ---- Keys ----

	function step(by: number): void {
		const order = routesView.order();
		const at = order.findIndex((one) => one.route === sel.route && (sel.owner === "" || sel.owner === one.service));
		const next = order[Math.min(order.length - 1, Math.max(0, at + by))];
		if (!next) return;
		navigate({ route: next.route, owner: next.route === "" ? "" : ownerOf(next.service), latency: null, zoom: [] });
		requestAnimationFrame(() => routesView.reveal());
	}

	document.addEventListener("keydown", (event) => {
		if (event.ctrlKey || event.metaKey || event.altKey || help.root.open) return;
		const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
		if (event.key === "Escape") {
			tooltip.hide();
			if (typing) {
				const box = event.target as HTMLInputElement;
				if (box === searchBox && box.value) navigate({ search: (box.value = "") }, false);
				else box.blur();
			} else if (sel.zoom.length && document.activeElement?.id !== "histogram") navigate({ zoom: [] });
			else if (sel.latency) navigate({ latency: null, zoom: [] });
			else if (sel.search) navigate({ search: "" }, false);
			return;
		}
		if (typing) return;
		const keys: Record<string, () => void> = {
			"/": () => (searchBox.focus(), searchBox.select()),
			"?": help.toggle,
			p: pause,
			t: header.toggleTheme,
			f: flip,
			j: () => step(1),
			k: () => step(-1),
		};
		const act = keys[event.key];
		if (!act) return;
		event.preventDefault();
		act();
	});

	// A collector that was never there sends no tick: ask on, so that the page comes alive when it does.
	if (source.live) setInterval(() => (connection === "down" || processes.error) && !sel.at && ask(true), 3000);
	connect();
	ask();
	render();
}

function madeWords(report: Report | null): string {
	if (!report) return "";
	const { from, to } = report.routes;
	const span = from > 0 && to > from ? `${dateTime(from)} to ${clock(to)}` : dateTime(report.generated);
	return `report of ${span}, sonde ${report.version}, ${count(report.routes.routes.reduce((sum, route) => sum + route.count, 0))} requests`;
}
