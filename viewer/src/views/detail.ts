// SPDX-License-Identifier: MIT
// The chosen route in words, and its states as chips that switch the flame graph's time on and off.

import { STATES, sumStates, type PerState, type State } from "../model/api.js";
import { LABEL, MEANING } from "../model/explain.js";
import { share, time } from "../model/units.js";
import { h, setAttr, setText } from "./dom.js";
import { swatch } from "./ledger.js";

export interface DetailProps {
	sentence: string;
	/** Time by state of what the flame graph shows: per request, or in total outside requests. */
	values: PerState;
	unit: string;
	on: readonly State[];
	loading: boolean;
}

export interface DetailHandlers {
	/** A change of what is on now, which may be newer than what is drawn. */
	states(change: (on: readonly State[]) => readonly State[]): void;
}

export function createDetail(handlers: DetailHandlers) {
	const sentence = h("p", { class: "sentence", id: "sentence" });
	const toggle = (state: State, only: boolean): void =>
		handlers.states((on) => {
			if (only) return on.length === 1 && on[0] === state ? STATES : [state];
			return STATES.filter((one) => (one === state) !== on.includes(one));
		});
	const chips = STATES.map((state) => {
		const value = h("span", { class: "value" });
		const part = h("span", { class: "muted" });
		const chip = h(
			"button",
			{
				type: "button",
				class: "chip",
				"data-state": state,
				title: `${LABEL[state]}: ${MEANING[state]}. Click: on or off. Double click, or Shift and Enter: only this.`,
				on: {
					click: (event) => toggle(state, event.shiftKey),
					dblclick: () => handlers.states(() => [state]),
				},
			},
			swatch(state),
			h("span", { class: "label" }, LABEL[state]),
			value,
			part,
		);
		return { state, chip, value, part };
	});
	const root = h(
		"section",
		{ class: "panel detail", "aria-label": "Where the time goes" },
		sentence,
		h("div", { class: "chips", role: "group", "aria-label": "States in the flame graph" }, ...chips.map((c) => c.chip)),
	);
	return {
		root,
		update(props: DetailProps) {
			setText(sentence, props.sentence);
			const whole = sumStates(props.values);
			for (const { state, chip, value, part } of chips) {
				const ns = props.values[state];
				setText(value, time(ns));
				setText(part, whole > 0 ? share(ns, whole) : "–");
				setAttr(value, "title", props.unit);
				setAttr(chip, "aria-pressed", String(props.on.includes(state)));
				chip.classList.toggle("zero", ns === 0);
			}
			root.classList.toggle("stale", props.loading);
		},
	};
}
