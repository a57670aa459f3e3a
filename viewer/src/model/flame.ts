// SPDX-License-Identifier: MIT
// The merged call tree as columns. Nodes stand in depth-first pre-order; `end[i]` is the first node after i's subtree.
//
// One running sum per state makes every question about a node two loads: with P[i] the time of the nodes before i,
// total(i) = P[end[i]] - P[i] and self(i) = P[i + 1] - P[i]. Sums of ns stay exact in a double below 2^53 (104 days).

import { STATES, type FlameColumns, type PerState, type State } from "./api.js";

export interface Functions {
	name: readonly string[];
	module: readonly string[];
	file: readonly string[];
	line: readonly number[];
	inlined: readonly number[];
}

export interface Tree {
	count: number;
	requests: number;
	samples: number;
	functions: Functions;
	fn: Uint32Array;
	depth: Uint16Array;
	end: Uint32Array;
	parent: Uint32Array;
	/** Running sums of self time, count + 1 long; a state without any time has none. */
	sums: Partial<Record<State, Float64Array>>;
}

export class BadFlame extends Error {}

/** Checks and decodes an answer of /api/v1/flame. Throws BadFlame when the columns do not make a tree. */
export function decode(columns: FlameColumns): Tree {
	const { function: fns, depth: depths, self } = columns.nodes;
	const count = fns.length;
	const names = columns.functions.name.length;
	if (depths.length !== count) throw new BadFlame(`${count} functions but ${depths.length} depths`);
	const fn = new Uint32Array(count);
	const depth = new Uint16Array(count);
	const end = new Uint32Array(count);
	const parent = new Uint32Array(count);
	const path: number[] = [];
	for (let i = 0; i < count; i++) {
		const d = depths[i]!;
		const f = fns[i]!;
		if (!(f >= 0 && f < names)) throw new BadFlame(`node ${i} names function ${f} of ${names}`);
		if (i === 0 ? d !== 0 : !(d >= 1 && d <= path.length))
			throw new BadFlame(`node ${i} has depth ${d} below ${path.length}`);
		fn[i] = f;
		depth[i] = d;
		while (path.length > d) end[path.pop()!] = i;
		parent[i] = d > 0 ? path[d - 1]! : 0;
		path.push(i);
	}
	while (path.length) end[path.pop()!] = count;
	const sums: Tree["sums"] = {};
	for (const state of STATES) {
		const values = self[state];
		if (!values) continue;
		if (values.length !== count) throw new BadFlame(`${count} nodes but ${values.length} values of ${state}`);
		const sum = new Float64Array(count + 1);
		let at = 0;
		for (let i = 0; i < count; i++) sum[i + 1] = at += values[i]!;
		if (at > 0) sums[state] = sum;
	}
	return { count, requests: columns.requests, samples: columns.samples, functions: columns.functions, fn, depth, end, parent, sums };
}

/** The running sum over several states: what decides the widths of the boxes. */
export function weigh(tree: Tree, states: readonly State[]): Float64Array {
	const out = new Float64Array(tree.count + 1);
	for (const state of states) {
		const sum = tree.sums[state];
		if (!sum) continue;
		for (let i = 0; i <= tree.count; i++) out[i]! += sum[i]!;
	}
	return out;
}

export function total(tree: Tree, weight: Float64Array, node: number): number {
	return tree.count ? weight[tree.end[node]!]! - weight[node]! : 0;
}

export function self(weight: Float64Array, node: number): number {
	return weight[node + 1]! - weight[node]!;
}

/** A node's time by state; `upTo` one past the last node, the node's subtree unless told. */
export function split(tree: Tree, node: number, upTo = tree.end[node] ?? 0): PerState {
	const out = { queue: 0, cpu: 0, runq: 0, io: 0, lock: 0, sleep: 0, loop: 0, other: 0 };
	for (const state of STATES) {
		const sum = tree.sums[state];
		if (sum) out[state] = sum[upTo]! - sum[node]!;
	}
	return out;
}

/** The first child with any weight; -1 when there is none. */
export function firstChild(tree: Tree, weight: Float64Array, node: number): number {
	const child = node + 1;
	if (child >= tree.end[node]!) return -1;
	return total(tree, weight, child) > 0 ? child : nextSibling(tree, weight, child);
}

export function nextSibling(tree: Tree, weight: Float64Array, node: number): number {
	if (node === 0) return -1;
	const stop = tree.end[tree.parent[node]!]!;
	for (let i = tree.end[node]!; i < stop; i = tree.end[i]!) if (total(tree, weight, i) > 0) return i;
	return -1;
}

export function previousSibling(tree: Tree, weight: Float64Array, node: number): number {
	if (node === 0) return -1;
	let before = -1;
	for (let i = tree.parent[node]! + 1; i < node; i = tree.end[i]!) if (total(tree, weight, i) > 0) before = i;
	return before;
}

export function nameOf(tree: Tree, node: number): string {
	return tree.functions.name[tree.fn[node]!] ?? "";
}

/** Names from below the root down to the node: how the URL keeps a node across answers. */
export function pathOf(tree: Tree, node: number): string[] {
	const names: string[] = [];
	for (let i = node; i > 0; i = tree.parent[i]!) names.push(nameOf(tree, i));
	return names.reverse();
}

/** The node at the end of a path, or the deepest that still exists. */
export function nodeAt(tree: Tree, path: readonly string[]): number {
	let node = 0;
	if (!tree.count) return 0;
	for (const name of path) {
		let found = -1;
		for (let i = node + 1; i < tree.end[node]! && found < 0; i = tree.end[i]!) if (nameOf(tree, i) === name) found = i;
		if (found < 0) break;
		node = found;
	}
	return node;
}
