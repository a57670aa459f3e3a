// SPDX-License-Identifier: MIT
// The sheet of keys and words.

import { STATES } from "../model/api.js";
import { LABEL, MEANING } from "../model/explain.js";
import { h } from "./dom.js";
import { swatch } from "./ledger.js";

const KEYS: [string, string][] = [
	["/", "search functions; Enter goes to the graph"],
	["j  k", "next, previous route"],
	["↑ ↓ ← →", "walk the flame graph; in the histogram: choose a latency range"],
	["Enter", "zoom into the box"],
	["Esc", "leave the zoom, then the latency range, then the search"],
	["f", "icicle or flame"],
	["p", "pause, live"],
	["t", "light or dark"],
	["?", "this sheet"],
];

export function createHelp() {
	const close = h("button", { type: "button", class: "icon", "aria-label": "Close", on: { click: () => root.close() } }, "✕");
	const root = h(
		"dialog",
		{ class: "help", "aria-label": "Keys and words" },
		h("div", { class: "tools" }, h("h2", {}, "Keys"), h("span", { class: "spring" }), close),
		h("dl", {}, ...KEYS.flatMap(([key, what]) => [h("dt", {}, ...key.split(/\s+/).map((one) => h("kbd", {}, one))), h("dd", {}, what)])),
		h("h2", {}, "States"),
		h("p", { class: "muted" }, "A request's latency is the sum of these eight, to the nanosecond."),
		h("dl", {}, ...STATES.flatMap((state) => [h("dt", {}, swatch(state), LABEL[state]), h("dd", {}, MEANING[state])])),
	);
	root.addEventListener("click", (event) => event.target === root && root.close());
	return { root, toggle: () => (root.open ? root.close() : root.showModal()) };
}
