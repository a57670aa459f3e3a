// SPDX-License-Identifier: MIT
// Regular expression over function names, and how much of the time lies under a match.

import type { Tree } from "./flame.js";

export interface Search {
	text: string;
	/** What is wrong with the expression, in the engine's words; "" when it is fine. */
	error: string;
	/** Per function: 1 when its name matches. null when nothing is searched for. */
	matches: Uint8Array | null;
}

/** Upper and lower case are the same unless the expression has an upper-case letter. */
export function compile(text: string): RegExp | string {
	try {
		return new RegExp(text, /[A-Z]/.test(text.replace(/\\./g, "")) ? "" : "i");
	} catch (error) {
		return error instanceof Error ? error.message.replace(/^Invalid regular expression: /, "") : String(error);
	}
}

export function search(names: readonly string[], text: string): Search {
	if (text === "") return { text, error: "", matches: null };
	const expression = compile(text);
	if (typeof expression === "string") return { text, error: expression, matches: null };
	const matches = new Uint8Array(names.length);
	for (let i = 0; i < names.length; i++) if (expression.test(names[i]!)) matches[i] = 1;
	return { text, error: "", matches };
}

/** Time under a matching box in the subtree of `from`; a match inside a match is not counted twice. */
export function matched(tree: Tree, weight: Float64Array, matches: Uint8Array, from = 0): { ns: number; boxes: number } {
	let ns = 0;
	let boxes = 0;
	const stop = tree.end[from] ?? 0;
	for (let i = from; i < stop; ) {
		const end = tree.end[i]!;
		const width = weight[end]! - weight[i]!;
		if (width <= 0) i = end;
		else if (matches[tree.fn[i]!]) {
			ns += width;
			boxes++;
			i = end;
		} else i++;
	}
	return { ns, boxes };
}
