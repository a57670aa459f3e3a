// SPDX-License-Identifier: MIT
// Light or dark, and the canvas's colours, read from the style sheet's custom properties so that each is defined once.

import type { Ink } from "../draw/palette.js";
import type { Theme } from "../model/selection.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

export function applyTheme(theme: Theme): Ink {
	const mode = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
	const root = document.documentElement;
	root.dataset["theme"] = mode;
	const style = getComputedStyle(root);
	const read = (name: string): string => style.getPropertyValue(`--${name}`).trim();
	return {
		mode,
		paper: read("paper"),
		ink: read("ink"),
		muted: read("muted"),
		faint: read("faint"),
		bar: read("bar"),
		accent: read("accent"),
		brush: read("brush"),
		warn: read("warn"),
	};
}

export function onSystemTheme(changed: () => void): void {
	dark.addEventListener("change", changed);
}
