// SPDX-License-Identifier: MIT
// Paints the boxes. Fills go into a pixel buffer and to the canvas at once: 70,000 boxes cost 0.5 ms that way and 40 ms
// by fillRect. Names are drawn over them with fillText, only where they fit.

import { STATES, type State } from "../model/api.js";
import type { Tree } from "../model/flame.js";
import { fit } from "./canvas.js";
import type { Boxes } from "./layout.js";
import { BOX_TEXT, HATCHED, mix, pixel, STATE_COLOURS, type Ink } from "./palette.js";
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
	/** Three close tones per state, so that equal neighbours can be told apart; and the same, dimmed. */
	plain: Uint32Array;
	dim: Uint32Array;
	line: Uint32Array;
	lineDim: Uint32Array;
	hatch: boolean[];
}

const shades = new Map<string, Shades>();

function shadesOf(ink: Ink): Shades {
	const known = shades.get(ink.mode + ink.paper);
	if (known) return known;
	const made: Shades = {
		plain: new Uint32Array(STATES.length * 3),
		dim: new Uint32Array(STATES.length * 3),
		line: new Uint32Array(STATES.length * 3),
		lineDim: new Uint32Array(STATES.length * 3),
		hatch: STATES.map((state) => HATCHED.includes(state)),
	};
	STATES.forEach((state, s) => {
		const colour = STATE_COLOURS[ink.mode][state];
		for (let tone = 0; tone < 3; tone++) {
			const toned = mix(colour, "#ffffff", [0, 0.1, 0.2][tone]!);
			made.plain[s * 3 + tone] = pixel(toned);
			made.dim[s * 3 + tone] = pixel(mix(toned, ink.paper, 0.78));
			made.line[s * 3 + tone] = pixel(mix(toned, "#000000", 0.16));
			made.lineDim[s * 3 + tone] = pixel(mix(mix(toned, "#000000", 0.16), ink.paper, 0.78));
		}
	});
	shades.set(ink.mode + ink.paper, made);
	return made;
}

/** The state with most of the box's time; its index in STATES. */
export function dominant(tree: Tree, states: readonly State[], from: number, to: number): number {
	let best = STATES.length - 1;
	let most = 0;
	for (const state of states) {
		const sum = tree.sums[state];
		const ns = sum ? sum[to]! - sum[from]! : 0;
		if (ns > most) {
			most = ns;
			best = STATES.indexOf(state);
		}
	}
	return best;
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
		for (let y = y0; y < y1; y++) out.fill(colour, y * w + x0, y * w + x1);
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
		if (y1 <= y0 || parts.some((part) => part >= 0.985 * whole)) return;
		let ns = 0;
		let at = x0;
		parts.forEach((part, k) => {
			ns += part;
			const next = Math.min(x1, x0 + Math.round(((x1 - x0) * ns) / whole));
			if (next > at) fill(at, next, y0, y1, (dim ? shade.dim : shade.plain)[STATES.indexOf(live[k]!) * 3]!);
			at = Math.max(at, next);
		});
		if (y0 >= gap) fill(x0, x1, y0 - gap, y0, line);
	};

	const names: number[] = [];
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
		const state = dominant(tree, live, node, to);
		const tone = state * 3 + (merged ? 2 : f % 3);
		// Matches keep their colour, which means a state; everything else fades. Ancestors of the zoom fade a little.
		const dim = matches !== null && (merged !== 0 || !matches[f]);
		fill(x0, inner, y0, y1, (dim ? shade.dim : shade.plain)[tone]!);
		const line = (dim ? shade.lineDim : shade.line)[tone]!;
		if (shade.hatch[state] && inner - x0 > 2 * gap) hatch(x0, inner, y0, y1, line);
		if (!merged && inner - x0 >= 24 * ratio && live.length > 1) {
			const stripTop = Math.max(0, Math.round(top + (ROW - STRIP) * ratio));
			paintStrip(node, to, x0, inner, stripTop, y1, dim, line);
		}
		painted.boxes++;
		if (inner - x0 >= 18 * ratio && y1 - y0 > 8 * ratio) names.push(i);
	}
	context.putImageData(image, 0, 0);

	const text = fitterFor(context, FONT);
	context.font = FONT;
	context.textBaseline = "middle";
	for (const i of names) {
		const node = boxes.node[i]!;
		if (boxes.mergedTo[i]) continue;
		const left = boxes.x0[i]! / ratio + 5;
		const right = boxes.x1[i]! / ratio - 4;
		const name = text.fit(tree.functions.name[tree.fn[node]!] ?? "", right - left);
		if (name === "") continue;
		const dim = matches !== null && !matches[tree.fn[node]!];
		context.fillStyle = dim ? ink.muted : BOX_TEXT;
		context.fillText(name, left, rowTop(boxes.row[i]!, boxes.rows, icicle) - scroll + ROW / 2 - 0.5);
		painted.names++;
	}

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
