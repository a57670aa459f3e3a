// SPDX-License-Identifier: MIT
// Paints the boxes. Fills go into a pixel buffer and to the canvas at once: 70,000 boxes cost 0.5 ms that way and 40 ms
// by fillRect. Names are drawn over them with fillText, only where they fit.

import { STATES, type State } from "../model/api.js";
import type { Tree } from "../model/flame.js";
import { fit } from "./canvas.js";
import type { Boxes } from "./layout.js";
import { BOX_TEXT, contrast, HATCHED, mix, pixel, STATE_COLOURS, type Ink } from "./palette.js";
import { fitterFor } from "./text.js";

export const ROW = 20;
const STRIP = 4; // the strip below a box's name that shows how its time splits over the states
const FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";

export interface FlamePicture {
	tree: Tree;
	boxes: Boxes;
	states: readonly State[];
	matches: Uint8Array | null;
	/** Boxes to frame, -1 for none. */
	hover: number;
	focus: number;
	icicle: boolean;
	/** CSS pixels: the viewport over rows * ROW of content. */
	width: number;
	height: number;
	scroll: number;
	ink: Ink;
}

interface Shades {
	/** By state, purity and tone (see shadeOf); the same, dimmed; and both a little darker, for hatches. */
	plain: Uint32Array;
	dim: Uint32Array;
	line: Uint32Array;
	lineDim: Uint32Array;
	/** Colour of a name on it. */
	text: string[];
	hatch: boolean[];
}

// A box has the colour of the state with most of its time, paler the more it shares with others: pure boxes, where the
// time is really spent, stand out from their mixed callers. Close tones keep equal neighbours apart.
const PURITIES = 5;
const TONES = 3;

function shadeOf(state: number, purity: number, tone: number): number {
	return (state * PURITIES + purity) * TONES + tone;
}

const shades = new Map<string, Shades>();

function shadesOf(ink: Ink): Shades {
	const known = shades.get(ink.mode + ink.paper);
	if (known) return known;
	const size = STATES.length * PURITIES * TONES;
	const made: Shades = {
		plain: new Uint32Array(size),
		dim: new Uint32Array(size),
		line: new Uint32Array(size),
		lineDim: new Uint32Array(size),
		text: [],
		hatch: STATES.map((state) => HATCHED.includes(state)),
	};
	const pale = ink.mode === "dark" ? "#272c35" : "#ffffff";
	STATES.forEach((state, s) => {
		for (let purity = 0; purity < PURITIES; purity++) {
			for (let tone = 0; tone < TONES; tone++) {
				const colour = mix(mix(STATE_COLOURS[ink.mode][state], pale, 0.17 * (PURITIES - 1 - purity)), pale, (ink.mode === "dark" ? 0.05 : 0.08) * tone);
				const line = mix(colour, "#000000", 0.16);
				const i = shadeOf(s, purity, tone);
				made.plain[i] = pixel(colour);
				made.text[i] = contrast(colour, BOX_TEXT) >= 4 ? BOX_TEXT : "#ffffff";
				made.dim[i] = pixel(mix(colour, ink.paper, 0.8));
				made.line[i] = pixel(line);
				made.lineDim[i] = pixel(mix(line, ink.paper, 0.8));
			}
		}
	});
	shades.set(ink.mode + ink.paper, made);
	return made;
}

/** The state with most of the box's time, as its index in STATES, and its share of the box. */
export function dominant(tree: Tree, states: readonly State[], from: number, to: number): { state: number; share: number } {
	let state = STATES.length - 1;
	let most = 0;
	let whole = 0;
	for (const one of states) {
		const sum = tree.sums[one];
		const ns = sum ? sum[to]! - sum[from]! : 0;
		whole += ns;
		if (ns > most) {
			most = ns;
			state = STATES.indexOf(one);
		}
	}
	return { state, share: whole > 0 ? most / whole : 1 };
}

/** Which row lies at y (CSS pixels from the top of the content), and back. */
export function rowAt(y: number, rows: number, icicle: boolean): number {
	const row = Math.floor(y / ROW);
	return icicle ? row : rows - 1 - row;
}

export function rowTop(row: number, rows: number, icicle: boolean): number {
	return (icicle ? row : rows - 1 - row) * ROW;
}

/** How many boxes and names were painted: what the tests and the budget look at. */
export interface Painted {
	boxes: number;
	names: number;
}

export function paintFlame(canvas: HTMLCanvasElement, picture: FlamePicture): Painted {
	const painted: Painted = { boxes: 0, names: 0 };
	const surface = fit(canvas, picture.width, picture.height);
	if (!surface) return painted;
	const { context, ratio } = surface;
	const { tree, boxes, states, matches, icicle, scroll, ink } = picture;
	const w = canvas.width;
	const h = canvas.height;
	if (w < 2 || h < 2) return painted;
	const image = context.createImageData(w, h);
	const out = new Uint32Array(image.data.buffer);
	const shade = shadesOf(ink);
	const gap = Math.max(1, Math.round(ratio));
	const rowHeight = ROW * ratio;
	const hatchStep = Math.round(6 * ratio);
	const hatchWidth = Math.max(1, Math.round(1.5 * ratio));
	const live = states.filter((state) => tree.sums[state]);

	const fill = (x0: number, x1: number, y0: number, y1: number, colour: number): void => {
		// TypedArray.fill costs more to call than a narrow box costs to write.
		if (x1 - x0 > 24) for (let y = y0; y < y1; y++) out.fill(colour, y * w + x0, y * w + x1);
		else for (let y = y0; y < y1; y++) for (let at = y * w + x0, stop = y * w + x1; at < stop; at++) out[at] = colour;
	};
	const hatch = (x0: number, x1: number, y0: number, y1: number, colour: number): void => {
		for (let y = y0; y < y1; y++) {
			for (let k = 0; k < hatchWidth; k++) {
				let x = x0 + ((((k - x0 - y) % hatchStep) + hatchStep) % hatchStep);
				for (; x < x1; x += hatchStep) out[y * w + x] = colour;
			}
		}
	};

	const paintStrip = (from: number, to: number, x0: number, x1: number, y0: number, y1: number, dim: boolean, line: number): void => {
		const parts = live.map((one) => tree.sums[one]![to]! - tree.sums[one]![from]!);
		const whole = parts.reduce((sum, part) => sum + part, 0);
		// Nearly pure: the strip would say nothing. Scrolled half out of sight: it has no place.
		if (y1 <= y0 || whole <= 0 || parts.some((part) => part >= 0.985 * whole)) return;
		let ns = 0;
		let at = x0;
		parts.forEach((part, k) => {
			ns += part;
			const next = Math.min(x1, x0 + Math.round(((x1 - x0) * ns) / whole));
			if (next > at) fill(at, next, y0, y1, (dim ? shade.dim : shade.plain)[shadeOf(STATES.indexOf(live[k]!), PURITIES - 1, 0)]!);
			at = Math.max(at, next);
		});
		if (y0 >= gap) fill(x0, x1, y0 - gap, y0, line);
	};

	const names: number[] = [];
	const tones: number[] = [];
	for (let i = 0; i < boxes.count; i++) {
		const row = boxes.row[i]!;
		const top = Math.round((rowTop(row, boxes.rows, icicle) - scroll) * ratio);
		const y0 = Math.max(0, top);
		const y1 = Math.min(h, Math.round(top + rowHeight) - gap);
		if (y1 <= y0) continue;
		const node = boxes.node[i]!;
		const merged = boxes.mergedTo[i]!;
		const to = merged || tree.end[node]!;
		const x0 = boxes.x0[i]!;
		const x1 = Math.min(w, boxes.x1[i]!);
		const inner = x1 - x0 >= 4 * gap ? x1 - gap : x1;
		const f = tree.fn[node]!;
		const { state, share } = dominant(tree, live, node, to);
		const tone = shadeOf(state, Math.min(PURITIES - 1, Math.floor(share * share * PURITIES)), merged ? 0 : f % TONES);
		// Matches keep their colour, which means a state; everything else fades.
		const dim = matches !== null && (merged !== 0 || !matches[f]);
		fill(x0, inner, y0, y1, (dim ? shade.dim : shade.plain)[tone]!);
		const line = (dim ? shade.lineDim : shade.line)[tone]!;
		if (shade.hatch[state] && inner - x0 > 2 * gap) hatch(x0, inner, y0, y1, line);
		if (!merged && inner - x0 >= 24 * ratio && live.length > 1) {
			const stripTop = Math.max(0, Math.round(top + (ROW - STRIP) * ratio));
			paintStrip(node, to, x0, inner, stripTop, y1, dim, line);
		}
		painted.boxes++;
		if (inner - x0 >= 18 * ratio && y1 - y0 > 8 * ratio && !merged) {
			names.push(i);
			tones.push(tone);
		}
	}
	context.putImageData(image, 0, 0);

	const text = fitterFor(context, FONT);
	context.font = FONT;
	context.textBaseline = "middle";
	names.forEach((i, k) => {
		const node = boxes.node[i]!;
		const left = boxes.x0[i]! / ratio + 5;
		const right = boxes.x1[i]! / ratio - 4;
		const name = text.fit(tree.functions.name[tree.fn[node]!] ?? "", right - left);
		if (name === "") return;
		const dim = matches !== null && !matches[tree.fn[node]!];
		context.fillStyle = dim ? ink.muted : shade.text[tones[k]!]!;
		context.fillText(name, left, rowTop(boxes.row[i]!, boxes.rows, icicle) - scroll + ROW / 2 - 0.5);
		painted.names++;
	});

	const frame = (i: number, colour: string, width: number): void => {
		if (i < 0 || i >= boxes.count) return;
		const x = boxes.x0[i]! / ratio;
		const y = rowTop(boxes.row[i]!, boxes.rows, icicle) - scroll;
		const half = width / 2;
		context.strokeStyle = colour;
		context.lineWidth = width;
		context.strokeRect(x + half, y + half, Math.max(1, (boxes.x1[i]! - boxes.x0[i]!) / ratio - 1 - width), ROW - 1 - width);
	};
	frame(picture.hover, ink.ink, 1.5);
	frame(picture.focus, ink.ink, 2.5);
	return painted;
}
