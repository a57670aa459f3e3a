// SPDX-License-Identifier: MIT
// What the page says when there is nothing to show, and what to do then.

import { fill, h, show } from "./dom.js";

export interface Notice {
	title: string;
	lines: readonly string[];
	/** Commands to copy. */
	commands: readonly string[];
}

function command(text: string): HTMLElement {
	const button = h("button", { type: "button", class: "link" }, "copy");
	button.addEventListener("click", () => {
		navigator.clipboard?.writeText(text).then(
			() => (button.textContent = "copied"),
			() => (button.textContent = "press Ctrl+C"),
		);
	});
	return h("div", { class: "command" }, h("code", {}, text), button);
}

/** A large one in place of the panels. */
export function createNotice() {
	const root = h("section", { class: "notice", role: "status", hidden: true });
	let shown = "";
	return {
		root,
		update(notice: Notice | null) {
			show(root, notice !== null);
			const key = JSON.stringify(notice);
			if (!notice || key === shown) return;
			shown = key;
			fill(root, h("h2", {}, notice.title), ...notice.commands.map(command), ...notice.lines.map((line) => h("p", {}, line)));
		},
	};
}

/** One line above the panels. */
export function createBanner() {
	const root = h("p", { class: "banner", role: "alert", hidden: true });
	return {
		root,
		update(text: string) {
			show(root, text !== "");
			if (root.textContent !== text) root.textContent = text;
		},
	};
}
