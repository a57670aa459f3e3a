// SPDX-License-Identifier: MIT
// A line of what happened: the newest marks of programs and complaints of their agents.

import type { Mark } from "../model/api.js";
import { clock, dateTime } from "../model/units.js";
import { h, setAttr, setText, show } from "./dom.js";

const SHOWN = 3;
const TOLD = 20;

export function createMarks() {
	const text = h("p", { class: "panel marks", id: "marks" });
	return {
		root: text,
		update(marks: readonly Mark[]) {
			show(text, marks.length > 0);
			const more = marks.length > SHOWN ? `   … ${marks.length - SHOWN} more` : "";
			setText(text, marks.slice(0, SHOWN).map((mark) => `⚑ ${clock(mark.time)} ${mark.service}: ${mark.name}`).join("   ") + more);
			setAttr(text, "title", marks.slice(0, TOLD).map((mark) => `${dateTime(mark.time)} ${mark.service}: ${mark.name}`).join("\n"));
		},
	};
}
