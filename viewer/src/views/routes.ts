// SPDX-License-Identifier: MIT
// The table of routes. Rows are kept and only changed texts are written: once a second must cost nothing.

import { perState, STATES, sumStates, type PerState, type Route, type Routes, type State } from "../model/api.js";
import { LABEL, MEANING } from "../model/explain.js";
import { windowWords, type Selection } from "../model/selection.js";
import { COLUMNS, errorShare, filterRoutes, nextSort, parseSort, sortRoutes, totalTime, type Column } from "../model/table.js";
import { count, plural, rate, share, time } from "../model/units.js";
import { fill, h, setAttr, setText, show } from "./dom.js";
import { createBar, splitTable, swatch, type Bar } from "./ledger.js";
import type { Tooltip } from "./tooltip.js";

export interface RoutesProps {
	sel: Selection;
	data: Routes | null;
	/** In flight now, by "service\nroute", from the newest tick. */
	inFlight: ReadonlyMap<string, number>;
	stale: boolean;
}

export interface RoutesHandlers {
	choose(route: string, service: string): void;
	sort(sort: string): void;
	filter(text: string): void;
}

const MOST_ROWS = 200; // more are a matter for the filter

const HEAD: Record<Column, [label: string, title: string]> = {
	route: ["Route", "Method and path template"],
	mean: ["Mean", "Mean latency: from the arrival of the first byte to the send of the last"],
	p50: ["p50", "Half of the requests were faster"],
	p90: ["p90", "One request in ten was slower"],
	p99: ["p99", "One request in a hundred was slower"],
	max: ["Max", "The slowest request"],
	rate: ["Rate", "Requests per second"],
	errors: ["Errors", "Answers with status 500 and above, and broken connections"],
	in_flight: ["In flight", "Requests begun and not ended, now"],
	total: ["Time lost", "Count times mean latency: all the time that users of this route waited, and its share of all routes"],
};

interface Row {
	route: string;
	service: string;
	root: HTMLTableRowElement;
	button: HTMLButtonElement;
	owner: HTMLElement;
	bar: Bar;
	cells: Record<Exclude<Column, "route">, HTMLTableCellElement>;
	share: HTMLElement;
	lost: HTMLElement;
	values: PerState;
}

export function routeKey(route: Pick<Route, "service" | "route">): string {
	return `${route.service}\n${route.route}`;
}

export function createRoutes(handlers: RoutesHandlers, tooltip: Tooltip) {
	const filter = h("input", {
		type: "search",
		id: "filter",
		placeholder: "Filter routes",
		"aria-label": "Filter routes by regular expression",
		spellcheck: "false",
		on: { input: () => handlers.filter(filter.value) },
	});
	const legend = h(
		"ul",
		{ class: "legend", "aria-label": "Colours of the states" },
		...STATES.map((state) => h("li", { title: MEANING[state] }, swatch(state), LABEL[state])),
	);
	const counted = h("span", { class: "muted", id: "route-count" });
	const heads = {} as Record<Column, HTMLTableCellElement>;
	const heading = (column: Column): HTMLTableCellElement => {
		const [label, title] = HEAD[column];
		const sort = h("button", { type: "button", title, on: { click: () => handlers.sort(nextSort(current, column)) } }, label);
		return (heads[column] = h("th", { scope: "col", class: column === "route" ? "name" : "n", "data-column": column }, sort));
	};
	let current = "-total";
	let arranged = "";
	const body = h("tbody");
	const table = h(
		"table",
		{ class: "routes", "aria-label": "Routes" },
		h(
			"thead",
			{},
			h("tr", {}, heading("route"), h("th", { scope: "col", class: "where" }, "Where time goes"), ...COLUMNS.filter((c) => c !== "route").map(heading)),
		),
		body,
	);
	const more = h("p", { class: "muted more" });
	const scroller = h("div", { class: "scroll", tabindex: "-1" }, table, more);
	const root = h(
		"section",
		{ class: "panel routes-panel", "aria-label": "Routes" },
		h("div", { class: "tools" }, h("h2", {}, "Routes"), counted, h("span", { class: "spring" }), legend, filter),
		scroller,
	);
	const rows = new Map<string, Row>();
	const reveal = (): void => {
		const row = body.querySelector<HTMLElement>('[aria-current="true"]');
		if (!row) return;
		const head = table.tHead?.offsetHeight ?? 0;
		if (row.offsetTop - head < scroller.scrollTop) scroller.scrollTop = row.offsetTop - head;
		else if (row.offsetTop + row.offsetHeight > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = row.offsetTop + row.offsetHeight - scroller.clientHeight;
	};
	// The graph below may take height from the table.
	new ResizeObserver(() => !root.matches(":hover") && reveal()).observe(scroller);

	const tell = (row: Row, target: EventTarget | null, point: MouseEvent | null): void => {
		const state = target instanceof HTMLElement ? ((target.dataset["state"] as State | undefined) ?? null) : null;
		const title = h("strong", {}, row.button.textContent ?? "");
		const whole = h("div", { class: "muted" }, `${time(sumStates(row.values))} ${row.root.classList.contains("background") ? "in total" : "per request"}`);
		const content = [title, whole, splitTable(row.values, { strong: state, all: true })];
		if (point) tooltip.at(point.clientX, point.clientY, ...content);
		else tooltip.by(row.bar.root, ...content);
	};

	const make = (route: string, service: string): Row => {
		const bar = createBar();
		const button = h("button", { type: "button", class: "route" });
		const owner = h("span", { class: "owner" });
		const cell = (): HTMLTableCellElement => h("td", { class: "n" });
		const cells = {} as Row["cells"];
		for (const column of COLUMNS) if (column !== "route") cells[column] = cell();
		const lost = h("span");
		const part = h("span", { class: "muted portion" });
		cells.total.append(lost, part);
		const tr = h(
			"tr",
			{ on: { click: () => handlers.choose(route, service) } },
			h("th", { scope: "row", class: "name" }, h("div", { class: "name-box" }, button, owner)),
			h("td", { class: "where" }, bar.root),
			...COLUMNS.filter((c): c is Exclude<Column, "route"> => c !== "route").map((c) => cells[c]),
		);
		const row: Row = { route, service, root: tr, button, owner, bar, cells, share: part, lost, values: perState({}) };
		bar.root.addEventListener("mousemove", (event) => tell(row, event.target, event));
		bar.root.addEventListener("mouseleave", () => tooltip.hide());
		bar.root.addEventListener("focus", () => bar.root.matches(":focus-visible") && tell(row, null, null));
		bar.root.addEventListener("blur", () => tooltip.hide());
		bar.root.addEventListener("keydown", (event) => event.key === "Enter" && handlers.choose(route, service));
		return row;
	};

	const paint = (row: Row, route: Route, props: RoutesProps, all: number, owners: boolean): void => {
		row.values = route.ledger;
		row.bar.update(route.ledger, route.route);
		setText(row.button, route.route);
		setAttr(row.button, "title", route.route);
		setText(row.owner, owners ? route.service : "");
		const { cells } = row;
		for (const column of ["mean", "p50", "p90", "p99", "max"] as const) setText(cells[column], route.count ? time(route.latency[column]) : "–");
		setText(cells.rate, rate(route.rate));
		setAttr(cells.rate, "title", plural(route.count, "request"));
		setText(cells.errors, route.errors ? `${count(route.errors)} · ${share(errorShare(route))}` : "0");
		setAttr(cells.errors, "title", Object.entries(route.statuses ?? {}).map(([status, n]) => `${status}: ${n}`).join("\n"));
		cells.errors.classList.toggle("warn", route.errors > 0);
		cells.errors.classList.toggle("nil", route.errors === 0);
		const flying = props.inFlight.get(routeKey(route)) ?? route.in_flight;
		setText(cells.in_flight, count(flying));
		cells.in_flight.classList.toggle("nil", flying === 0);
		setText(row.lost, time(totalTime(route)));
		setText(row.share, share(totalTime(route), all));
	};

	const background = (row: Row, values: PerState): void => {
		row.root.classList.add("background");
		row.values = values;
		row.bar.update(values, "work outside any request");
		setText(row.button, "(no request)");
		setAttr(row.button, "title", "Work of the server outside any request: start-up, timers, loggers, idle loops");
		for (const column of COLUMNS) if (column !== "route" && column !== "total") setText(row.cells[column], "");
		setText(row.lost, time(sumStates(values)));
		setText(row.share, "");
	};

	return {
		root,
		update(props: RoutesProps) {
			const { sel, data } = props;
			current = sel.sort;
			const sort = parseSort(sel.sort);
			for (const column of COLUMNS) setAttr(heads[column], "aria-sort", column === sort.column ? (sort.descending ? "descending" : "ascending") : null);
			if (filter.value !== sel.filter && document.activeElement !== filter) filter.value = sel.filter;
			root.classList.toggle("stale", props.stale);
			if (!data) {
				show(more, false);
				return;
			}
			const hits = filterRoutes(sortRoutes(data.routes, sel.sort), sel.filter);
			const shown = hits.slice(0, MOST_ROWS);
			const owners = new Set(data.routes.map((route) => route.service)).size > 1;
			const all = data.routes.reduce((sum, route) => sum + totalTime(route), 0);
			const order: HTMLElement[] = [];
			const used = new Set<string>();
			const row = (key: string, name: string, service: string): Row => {
				let found = rows.get(key);
				if (!found) rows.set(key, (found = make(name, service)));
				used.add(key);
				order.push(found.root);
				return found;
			};
			for (const route of shown) {
				const one = row(routeKey(route), route.route, route.service);
				paint(one, route, props, all, owners);
				setAttr(one.root, "aria-current", sel.route === route.route && (sel.owner === "" || sel.owner === route.service) ? "true" : null);
			}
			const spent = perState(data.background);
			if (sumStates(spent) > 0 || sel.route === "") {
				const last = row("\n", "", "");
				background(last, spent);
				setAttr(last.root, "aria-current", sel.route === "" ? "true" : null);
			}
			for (const [key, old] of rows) {
				if (used.has(key)) continue;
				old.root.remove();
				rows.delete(key);
			}
			// Rows that change places under the pointer make people click the wrong route: they wait until it is gone.
			const settled = sel.sort + sel.filter;
			const hold = body.matches(":hover") && settled === arranged && order.length === body.children.length && order.every((element) => element.parentNode === body);
			arranged = settled;
			if (!hold) order.forEach((element, i) => {
				if (body.children[i] !== element) body.insertBefore(element, body.children[i] ?? null);
			});
			root.style.setProperty("--rows", String(order.length));
			const requests = data.routes.reduce((sum, route) => sum + route.count, 0);
			setText(counted, `${sel.filter ? `${count(hits.length)} of ` : ""}${plural(data.routes.length, "route")}, ${plural(requests, "request")}`);
			show(more, hits.length > shown.length || hits.length === 0);
			if (hits.length > shown.length) fill(more, `${count(hits.length - shown.length)} more: type into the filter to find them.`);
			else if (hits.length === 0) fill(more, data.routes.length ? `No route matches “${sel.filter}”.` : `No request ended in ${windowWords(sel.window)}.`);
		},
		/** The shown routes in order, for walking with the keyboard. */
		order(): { route: string; service: string }[] {
			const byElement = new Map<Element, Row>(Array.from(rows.values(), (row) => [row.root, row]));
			return Array.from(body.children).flatMap((element) => byElement.get(element) ?? []);
		},
		/** Scrolls the table, never the page, until the chosen row is in sight. */
		reveal,
	};
}
