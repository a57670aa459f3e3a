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
	/** null when no two siblings were one function. */
	merged: Merged | null;
}

/** Where merged nodes came from: node i stands for the answer's nodes origins[from[i] .. from[i + 1]). */
export interface Merged {
	from: Uint32Array;
	origins: Uint32Array;
	/** Time of all states below each node of the answer, and the line it stands on. */
	totals: Float64Array;
	line: Uint32Array;
}

export class BadFlame extends Error {}

/**
 * Checks and decodes an answer of /api/v1/flame. Throws BadFlame when the columns do not make a tree.
 * The answer keeps call sites apart: a function called from three lines is three nodes. A reader means one box, or a
 * recursion of two call sites becomes 2^depth of them; so siblings of one function merge, and lines() tells them apart.
 */
export function decode(columns: FlameColumns): Tree {
	const tree = decodeNodes(columns);
	const same = canonical(tree.functions);
	return same && tree.count ? mergeSiblings(tree, same) : tree;
}

function decodeNodes(columns: FlameColumns): Tree {
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
		if (i === 0 ? d !== 0 : !(d >= 1 && d <= path.length)) throw new BadFlame(`node ${i} has depth ${d} below ${path.length}`);
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
	return { count, requests: columns.requests, samples: columns.samples, functions: columns.functions, fn, depth, end, parent, sums, merged: null };
}

/** Each function's first entry of the same name and module; null when every entry is its own. */
function canonical(functions: Functions): Uint32Array | null {
	const { name, module } = functions;
	const first = new Map<string, number>();
	const same = new Uint32Array(name.length);
	for (let f = 0; f < name.length; f++) {
		const key = `${name[f]}\n${module[f]}`;
		const known = first.get(key);
		if (known === undefined) first.set(key, f);
		same[f] = known ?? f;
	}
	return first.size === name.length ? null : same;
}

function mergeSiblings(tree: Tree, same: Uint32Array): Tree {
	const { count, end, fn } = tree;
	const states = STATES.filter((state) => tree.sums[state]);
	const weight = weigh(tree, states);
	const totals = new Float64Array(count);
	for (let i = 0; i < count; i++) totals[i] = weight[end[i]!]! - weight[i]!;

	// Breadth first: each merged node has a chain of the nodes it stands for, and all their children are sorted by
	// function into its own children, which so get neighbouring numbers. `seen` needs no hash: one entry per function,
	// valid while `seenBy` says that this parent wrote it.
	const up = new Uint32Array(count);
	const head = new Uint32Array(count);
	const tail = new Uint32Array(count);
	const next = new Int32Array(count).fill(-1);
	const time = new Float64Array(count);
	const firstOf = new Uint32Array(count + 1);
	const seen = new Uint32Array(same.length);
	const seenBy = new Int32Array(same.length).fill(-1);
	let m = 1;
	for (let node = 0; node < m; node++) {
		firstOf[node] = m;
		for (let origin = head[node]!; origin >= 0; origin = next[origin]!) {
			time[node]! += totals[origin]!;
			for (let child = origin + 1; child < end[origin]!; child = end[child]!) {
				const f = same[fn[child]!]!;
				if (seenBy[f] === node) {
					const known = seen[f]!;
					next[tail[known]!] = child;
					tail[known] = child;
				} else {
					seenBy[f] = node;
					seen[f] = m;
					up[m] = node;
					head[m] = tail[m] = child;
					m++;
				}
			}
		}
	}
	firstOf[m] = m;

	// Then in depth-first order, children by time, largest first.
	const out: Tree = { ...tree, count: m, fn: new Uint32Array(m), depth: new Uint16Array(m), end: new Uint32Array(m), parent: new Uint32Array(m), sums: {} };
	const place = new Uint32Array(m);
	const into = new Uint32Array(count);
	const from = new Uint32Array(m + 1);
	const origins = new Uint32Array(count);
	let put = 0;
	let at = 0;
	const todo = [0];
	while (todo.length) {
		const node = todo.pop()!;
		place[node] = at;
		out.fn[at] = same[fn[head[node]!]!]!;
		out.parent[at] = place[up[node]!]!;
		out.depth[at] = at === 0 ? 0 : out.depth[out.parent[at]!]! + 1;
		for (let origin = head[node]!; origin >= 0; origin = next[origin]!) {
			into[origin] = at;
			origins[put++] = origin;
		}
		from[++at] = put;
		const below: number[] = [];
		for (let child = firstOf[node]!; child < firstOf[node + 1]!; child++) below.push(child);
		if (below.length > 1) below.sort((a, b) => time[a]! - time[b]! || b - a);
		for (const child of below) todo.push(child);
	}
	for (let i = m - 1; i >= 0; i--) {
		if (out.end[i]! <= i) out.end[i] = i + 1;
		const parent = out.parent[i]!;
		if (i > 0 && out.end[parent]! < out.end[i]!) out.end[parent] = out.end[i]!;
	}
	for (const state of states) {
		const old = tree.sums[state]!;
		const sum = new Float64Array(m + 1);
		for (let i = 0; i < count; i++) sum[into[i]! + 1]! += old[i + 1]! - old[i]!;
		for (let i = 0; i < m; i++) sum[i + 1]! += sum[i]!;
		out.sums[state] = sum;
	}
	const line = new Uint32Array(count);
	for (let i = 0; i < count; i++) line[i] = tree.functions.line[fn[i]!] ?? 0;
	out.merged = { from, origins, totals, line };
	return out;
}

/** The lines of a node's function at which its time passes, by time, as shares of one. */
export function lines(tree: Tree, node: number): { line: number; share: number }[] {
	const { merged } = tree;
	if (!merged) {
		const line = tree.functions.line[tree.fn[node]!] ?? 0;
		return line ? [{ line, share: 1 }] : [];
	}
	const by = new Map<number, number>();
	let whole = 0;
	for (let k = merged.from[node]!; k < merged.from[node + 1]!; k++) {
		const i = merged.origins[k]!;
		const line = merged.line[i]!;
		whole += merged.totals[i]!;
		if (line) by.set(line, (by.get(line) ?? 0) + merged.totals[i]!);
	}
	return [...by].map(([line, ns]) => ({ line, share: whole > 0 ? ns / whole : 0 })).sort((a, b) => b.share - a.share);
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
