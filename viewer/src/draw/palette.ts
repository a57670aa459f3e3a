// SPDX-License-Identifier: MIT
// The colours of the states. CPU, IO, lock and other were searched for (research: ΔE76 37 over normal, protan, deutan
// and tritan sight); the other four were searched to stay apart from those and from each other. test/palette.test.mjs
// holds the distances. Lock and queue are hatched as well, so that colour is not all that tells them.

import type { State } from "../model/api.js";

export type Mode = "light" | "dark";

export const STATE_COLOURS: Record<Mode, Record<State, string>> = {
	light: {
		queue: "#E8D068",
		cpu: "#F17F0F",
		runq: "#D04020",
		io: "#2083F9",
		lock: "#A9689E",
		sleep: "#28C8F0",
		loop: "#708868",
		other: "#DCDDE0",
	},
	dark: {
		queue: "#DCC55F",
		cpu: "#EA7E16",
		runq: "#CC4426",
		io: "#2F86F0",
		lock: "#A6669B",
		sleep: "#2FBFE4",
		loop: "#71896A",
		other: "#CFD0D5",
	},
};

export const HATCHED: readonly State[] = ["lock", "queue"];

/** Text on a box of any state. */
export const BOX_TEXT = "#0b0d10";

/** Colours of everything that is not a state; the style sheet has the same names as custom properties. */
export interface Ink {
	mode: Mode;
	paper: string;
	ink: string;
	muted: string;
	faint: string;
	bar: string;
	accent: string;
	brush: string;
	warn: string;
}

export function parse(hex: string): [number, number, number] {
	return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)) as [number, number, number];
}

/** `a` with `share` of `b` in it. */
export function mix(a: string, b: string, share: number): string {
	const from = parse(a);
	const to = parse(b);
	return "#" + from.map((v, i) => Math.round(v + (to[i]! - v) * share).toString(16).padStart(2, "0")).join("");
}

/** As a little-endian pixel of an ImageData. */
export function pixel(hex: string): number {
	const [r, g, b] = parse(hex);
	return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

/** WCAG contrast ratio, 1 to 21. */
export function contrast(a: string, b: string): number {
	const light = (hex: string): number => {
		const [r, g, bl] = parse(hex).map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
		return 0.2126 * r! + 0.7152 * g! + 0.0722 * bl! + 0.05;
	};
	const [x, y] = [light(a), light(b)];
	return x > y ? x / y : y / x;
}
