// SPDX-License-Identifier: MIT
// A ledger as a stacked bar and as a small table: time by state, with units and shares.

import { STATES, sumStates, type PerState, type State } from "../model/api.js";
import { LABEL } from "../model/explain.js";
import { share, time } from "../model/units.js";
import { h, setAttr } from "./dom.js";

export function swatch(state: State): HTMLElement {
	return h("span", { class: `swatch s-${state}`, "aria-hidden": "true" });
}

export interface Bar {
	root: HTMLElement;
	update(values: PerState, name: string): void;
}

/** The bar's whole width is the whole ledger; what it is worth in time stands beside it. */
export function createBar(): Bar {
	const parts = STATES.map((state) => h("span", { class: `part s-${state}`, "data-state": state }));
	const root = h("div", { class: "bar", role: "img", tabindex: "0" }, ...parts);
	return {
		root,
		update(values, name) {
			const whole = sumStates(values);
			STATES.forEach((state, i) => {
				const part = parts[i]!;
				const width = whole > 0 ? (100 * values[state]) / whole : 0;
				part.style.flexBasis = `${width.toFixed(3)}%`;
				part.hidden = width === 0;
			});
			setAttr(root, "aria-label", `${name}: ${words(values)}`);
		},
	};
}

/** "lock 11.3 ms 91 %, CPU 0.7 ms 6 %": largest first. */
export function words(values: PerState): string {
	const whole = sumStates(values);
	if (whole === 0) return "no time";
	return ordered(values)
		.map((state) => `${LABEL[state]} ${time(values[state])} ${share(values[state], whole)}`)
		.join(", ");
}

function ordered(values: PerState): State[] {
	return STATES.filter((state) => values[state] > 0).sort((a, b) => values[b] - values[a]);
}

/** Rows state, time, share; `divide` makes it per request; `strong` is set off. All states, or only those with time. */
export function splitTable(values: PerState, options: { divide?: number; strong?: State | null; all?: boolean } = {}): HTMLElement {
	const whole = sumStates(values);
	const states = options.all ? STATES : ordered(values);
	return h(
		"table",
		{ class: "split" },
		h(
			"tbody",
			{},
			...states.map((state) =>
				h(
					"tr",
					{ class: state === options.strong ? "strong" : values[state] === 0 ? "zero" : "" },
					h("th", {}, swatch(state), LABEL[state]),
					h("td", {}, time(values[state] / (options.divide ?? 1))),
					h("td", {}, whole > 0 ? share(values[state], whole) : "–"),
				),
			),
		),
	);
}
