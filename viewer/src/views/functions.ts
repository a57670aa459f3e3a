// SPDX-License-Identifier: MIT
// The flame graph as a table, for sorting and for readers who do not see it: functions with own and total time.

import { perState } from "../model/api.js";
import type { FunctionRow } from "../model/functions.js";
import { count, share, time } from "../model/units.js";
import { fill, h, setAttr, show } from "./dom.js";
import { createBar } from "./ledger.js";

export interface FunctionsProps {
	rows: readonly FunctionRow[];
	/** Time of the whole selection, and what to divide by (0: totals). */
	whole: number;
	requests: number;
	/** Only functions whose name passes; null: all. */
	passes: RegExp | null;
}

export interface FunctionsHandlers {
	/** Show a function in the graph. */
	find(name: string): void;
}

const MOST_ROWS = 300;
type Key = "self" | "total" | "name";

export function createFunctions(handlers: FunctionsHandlers) {
	let sort: Key = "self";
	let props: FunctionsProps | null = null;
	const body = h("tbody");
	const more = h("p", { class: "muted more" });
	const head = (key: Key, label: string, title: string) => {
		const cell = h(
			"th",
			{ scope: "col", class: key === "name" ? "name" : "n" },
			h("button", { type: "button", title, on: { click: () => ((sort = key), draw()) } }, label),
		);
		return { key, cell };
	};
	const heads = [
		head("self", "Self", "Time in the function itself"),
		head("total", "Total", "Time in the function and all it calls; recursion counted once"),
		head("name", "Function", "Click a name to find it in the flame graph"),
	];
	const table = h(
		"table",
		{ class: "routes functions", "aria-label": "Functions by time" },
		h(
			"thead",
			{},
			h(
				"tr",
				{},
				heads[0]!.cell,
				h("th", { scope: "col", class: "n" }, "%"),
				heads[1]!.cell,
				h("th", { scope: "col", class: "n" }, "%"),
				h("th", { scope: "col", class: "where narrow" }, "Own time by state"),
				heads[2]!.cell,
				h("th", { scope: "col", class: "place" }, "Where"),
			),
		),
		body,
	);
	const root = h("div", { class: "scroll functions-box", tabindex: "0" }, table, more);

	let pressed = false;
	body.addEventListener("pointerdown", () => (pressed = true));
	addEventListener("pointerup", () => setTimeout(() => (pressed = false)));
	const draw = (): void => {
		if (!props) return;
		const { whole, requests, passes } = props;
		const per = (ns: number): string => time(requests > 0 ? ns / requests : ns);
		for (const { key, cell } of heads) setAttr(cell, "aria-sort", key === sort ? (key === "name" ? "ascending" : "descending") : null);
		const rows = props.rows
			.filter((row) => passes === null || passes.test(row.name))
			.sort((a, b) => (sort === "name" ? a.name.localeCompare(b.name, "en") : b[sort] - a[sort] || b.total - a.total));
		fill(
			body,
			...rows.slice(0, MOST_ROWS).map((row) => {
				const bar = createBar();
				bar.root.removeAttribute("tabindex");
				bar.update(perState(row.split), row.name);
				return h(
					"tr",
					{},
					h("td", { class: row.self ? "n" : "n nil" }, per(row.self)),
					h("td", { class: "n muted" }, share(row.self, whole)),
					h("td", { class: "n" }, per(row.total)),
					h("td", { class: "n muted" }, share(row.total, whole)),
					h("td", { class: "where narrow" }, row.self > 0 ? bar.root : null),
					h("th", { scope: "row", class: "name" }, h("button", { type: "button", class: "route", title: row.name, on: { click: () => handlers.find(row.name) } }, row.name)),
					h("td", { class: "place muted", title: row.file }, [row.module, row.file && row.line ? `${row.file}:${row.line}` : row.file].filter(Boolean).join(" · ")),
				);
			}),
		);
		show(more, rows.length > MOST_ROWS || rows.length === 0);
		fill(more, rows.length === 0 ? "No function matches." : `${count(rows.length - MOST_ROWS)} more: search to find them.`);
	};
	return {
		root,
		update(next: FunctionsProps) {
			const same = props && props.rows === next.rows && props.requests === next.requests && String(props.passes) === String(next.passes);
			props = next;
			// Rows replaced between press and release would swallow the click.
			if (!same && !pressed) draw();
		},
	};
}
