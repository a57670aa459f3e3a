// SPDX-License-Identifier: MIT
// The walk that decides what to draw: nodes in pre-order to boxes in device pixels. A node narrower than half a pixel
// takes its whole subtree out of the walk, so the cost follows the screen, not the tree: of a million nodes some
// three thousand remain. Narrow neighbours merge into one box without a name, so that no time vanishes from sight.

import type { Tree } from "../model/flame.js";

export interface Boxes {
	count: number;
	/** The node, or the first of several merged siblings. */
	node: Uint32Array;
	/** 0, or one past the last node of merged siblings. */
	mergedTo: Uint32Array;
	row: Uint16Array;
	x0: Int32Array;
	x1: Int32Array;
	rows: number;
	/** The zoomed node, and its row: its ancestors stand above it at full width. */
	zoom: number;
	zoomRow: number;
}

export const NARROW = 0.5;

function room(boxes: Boxes): void {
	if (boxes.count < boxes.node.length) return;
	const grow = <T extends Uint32Array | Uint16Array | Int32Array>(old: T, make: (n: number) => T): T => {
		const next = make(old.length * 2);
		next.set(old);
		return next;
	};
	boxes.node = grow(boxes.node, (n) => new Uint32Array(n));
	boxes.mergedTo = grow(boxes.mergedTo, (n) => new Uint32Array(n));
	boxes.row = grow(boxes.row, (n) => new Uint16Array(n));
	boxes.x0 = grow(boxes.x0, (n) => new Int32Array(n));
	boxes.x1 = grow(boxes.x1, (n) => new Int32Array(n));
}

function put(boxes: Boxes, node: number, mergedTo: number, row: number, x0: number, x1: number): void {
	room(boxes);
	const i = boxes.count++;
	boxes.node[i] = node;
	boxes.mergedTo[i] = mergedTo;
	boxes.row[i] = row;
	boxes.x0[i] = x0;
	boxes.x1[i] = x1;
	if (row >= boxes.rows) boxes.rows = row + 1;
}

/** Boxes of `zoom`'s subtree over `pixels` device pixels, below the chain of its ancestors. */
export function layout(tree: Tree, weight: Float64Array, zoom: number, pixels: number): Boxes {
	const boxes: Boxes = {
		count: 0,
		node: new Uint32Array(1024),
		mergedTo: new Uint32Array(1024),
		row: new Uint16Array(1024),
		x0: new Int32Array(1024),
		x1: new Int32Array(1024),
		rows: 0,
		zoom,
		zoomRow: tree.depth[zoom] ?? 0,
	};
	const stop = tree.end[zoom] ?? 0;
	const whole = stop ? weight[stop]! - weight[zoom]! : 0;
	if (whole <= 0) return boxes;
	const ancestors: number[] = [];
	for (let i = zoom; i > 0; i = tree.parent[i]!) ancestors.push(tree.parent[i]!);
	for (let i = ancestors.length - 1; i >= 0; i--) put(boxes, ancestors[i]!, 0, tree.depth[ancestors[i]!]!, 0, pixels);

	const scale = pixels / whole;
	// Children stand left in their parent, its own time right of them: a node's place is the time before it in
	// pre-order, less the own time of its ancestors, which owned[depth] sums.
	const owned: number[] = [0];
	const base = weight[zoom]!;
	let pendFrom = 0;
	let pendTo = 0;
	let pendDepth = -1;
	let pend0 = 0;
	let pend1 = 0;
	const flush = (): void => {
		if (pendDepth < 0) return;
		const x0 = Math.round(pend0);
		const x1 = Math.round(pend1);
		if (x1 > x0) put(boxes, pendFrom, pendTo, pendDepth, x0, x1);
		pendDepth = -1;
	};
	for (let i = zoom; i < stop; ) {
		const end = tree.end[i]!;
		const depth = tree.depth[i]!;
		const level = depth - boxes.zoomRow;
		const before = weight[i]!;
		const width = (weight[end]! - before) * scale;
		if (width <= 0) {
			i = end;
			continue;
		}
		const left = (before - base - owned[level]!) * scale;
		if (width < NARROW) {
			if (pendDepth !== depth || pend1 < left - 1e-6) {
				flush();
				pendDepth = depth;
				pendFrom = i;
				pend0 = left;
			}
			pendTo = end;
			pend1 = left + width;
			i = end;
			continue;
		}
		flush();
		const x0 = Math.round(left);
		put(boxes, i, 0, depth, x0, Math.max(x0 + 1, Math.round(left + width)));
		owned[level + 1] = owned[level]! + (weight[i + 1]! - before);
		i++;
	}
	flush();
	return boxes;
}

/** The box under a point (device pixels, row), or -1. */
export function hit(boxes: Boxes, x: number, row: number): number {
	for (let i = 0; i < boxes.count; i++)
		if (boxes.row[i] === row && boxes.x0[i]! <= x && x < boxes.x1[i]!) return i;
	return -1;
}

/** The box that shows a node, alone or merged with others; -1 when it is not on the screen. */
export function boxOf(boxes: Boxes, tree: Tree, node: number): number {
	for (let i = 0; i < boxes.count; i++) {
		if (boxes.node[i] === node) return i;
		if (boxes.mergedTo[i] && boxes.row[i] === tree.depth[node] && boxes.node[i]! <= node && node < boxes.mergedTo[i]!)
			return i;
	}
	return -1;
}
