// SPDX-License-Identifier: MIT
// One floating box for the whole page. It never takes the pointer and keeps clear of it.

import { fill, h } from "./dom.js";

export interface Tooltip {
	root: HTMLElement;
	/** Beside the point (viewport pixels). */
	at(x: number, y: number, ...content: Node[]): void;
	/** Below or above an element. */
	by(element: Element, ...content: Node[]): void;
	hide(): void;
}

export function createTooltip(): Tooltip {
	const root = h("div", { class: "tooltip", role: "tooltip", hidden: true });
	const place = (x: number, y: number, above: number): void => {
		const box = root.getBoundingClientRect();
		const { innerWidth, innerHeight } = window;
		const left = x + box.width > innerWidth - 8 ? Math.max(8, innerWidth - box.width - 8) : x;
		const top = y + box.height > innerHeight - 8 ? Math.max(8, above - box.height) : y;
		root.style.left = `${Math.round(left)}px`;
		root.style.top = `${Math.round(top)}px`;
	};
	return {
		root,
		at(x, y, ...content) {
			fill(root, ...content);
			root.hidden = false;
			const wide = root.getBoundingClientRect().width;
			// Left of the pointer when there is no room on its right: never under it.
			place(x + 16 + wide > window.innerWidth - 8 ? Math.max(8, x - 14 - wide) : x + 16, y + 18, y - 14);
		},
		by(element, ...content) {
			fill(root, ...content);
			root.hidden = false;
			const box = element.getBoundingClientRect();
			place(box.left, box.bottom + 6, box.top - 6);
		},
		hide() {
			root.hidden = true;
		},
	};
}
