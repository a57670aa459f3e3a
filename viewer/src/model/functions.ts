// SPDX-License-Identifier: MIT
// The same tree as a table: per function its own time and the time of all below it.

import { STATES, type PerState } from "./api.js";
import type { Tree } from "./flame.js";

export interface FunctionRow {
	name: string;
	module: string;
	file: string;
	line: number;
	self: number;
	total: number;
	/** Own time by state. */
	split: PerState;
}

/** Rows of all functions with time in the subtree of `from`. A recursive function's total counts its outermost call. */
export function functionTable(tree: Tree, weight: Float64Array, from = 0): FunctionRow[] {
	const { name, module, file, line } = tree.functions;
	// Lines and inlining make several entries of one function; a reader means the function.
	const byName = new Map<string, number>();
	const group = new Uint32Array(name.length);
	const rows: FunctionRow[] = [];
	for (let f = 0; f < name.length; f++) {
		const key = `${name[f]}\n${module[f]}`;
		let at = byName.get(key);
		if (at === undefined) {
			at = rows.length;
			byName.set(key, at);
			rows.push({
				name: name[f]!,
				module: module[f] ?? "",
				file: file[f] ?? "",
				line: line[f] ?? 0,
				self: 0,
				total: 0,
				split: { queue: 0, cpu: 0, runq: 0, io: 0, lock: 0, sleep: 0, loop: 0, other: 0 },
			});
		}
		group[f] = at;
	}
	const inside = new Uint32Array(rows.length); // until which node the function is already counted
	const stop = tree.end[from] ?? 0;
	for (let i = from; i < stop; ) {
		const end = tree.end[i]!;
		const width = weight[end]! - weight[i]!;
		if (width <= 0) {
			i = end;
			continue;
		}
		const at = group[tree.fn[i]!]!;
		const row = rows[at]!;
		const own = weight[i + 1]! - weight[i]!;
		row.self += own;
		if (own > 0) {
			for (const state of STATES) {
				const sum = tree.sums[state];
				if (sum) row.split[state] += sum[i + 1]! - sum[i]!;
			}
		}
		if (inside[at]! <= i) {
			row.total += width;
			inside[at] = end;
		}
		i++;
	}
	return rows.filter((row) => row.total > 0 && row.name !== "all");
}
