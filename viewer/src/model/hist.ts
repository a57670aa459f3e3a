// SPDX-License-Identifier: MIT
// Latency histograms: bucket i holds 2^(i/32) < v <= 2^((i+1)/32) ns (include/sonde_hist.h). The page draws groups of
// them, and brushes in the coarse buckets that samples carry, two to the octave, so that a brush selects exact requests.

import type { Bucket } from "./api.js";

export const PER_OCTAVE = 32;
export const COARSE = 16; // fine buckets in a coarse one

/** Lower edge of fine bucket `index`, in ns. */
export function edge(index: number): number {
	return 2 ** (index / PER_OCTAVE);
}

export interface Bin {
	first: number; // fine index of its lower edge
	lower: number;
	upper: number;
	count: number;
}

/** Fine indices [first, last) that a chart should span: whole coarse buckets, at least `least` of them. */
export function span(buckets: readonly Bucket[], least = 4): { first: number; last: number } {
	let low = Infinity;
	let high = -Infinity;
	for (const bucket of buckets) {
		if (bucket.count <= 0) continue;
		low = Math.min(low, bucket.index);
		high = Math.max(high, bucket.index + 1);
	}
	if (low > high) return { first: 0, last: least * COARSE };
	let first = Math.floor(low / COARSE);
	let last = Math.ceil(high / COARSE);
	while (last - first < least) {
		last++;
		if (last - first < least && first > 0) first--;
	}
	return { first: first * COARSE, last: last * COARSE };
}

/** The buckets in groups of `size` fine ones (a power of two up to COARSE, so that groups never straddle a brush edge). */
export function bins(buckets: readonly Bucket[], first: number, last: number, size: number): Bin[] {
	const out: Bin[] = [];
	for (let i = first; i < last; i += size) out.push({ first: i, lower: edge(i), upper: edge(i + size), count: 0 });
	for (const bucket of buckets) {
		const bin = out[Math.floor((bucket.index - first) / size)];
		if (bin) bin.count += bucket.count;
	}
	return out;
}

/** The largest group count whose bars are at least `least` pixels wide. */
export function groupSize(first: number, last: number, pixels: number, least = 3): number {
	let size = 1;
	while (size < COARSE && (pixels * size) / (last - first) < least) size *= 2;
	return size;
}

/** The coarse buckets that a drag over fine positions [a, b] touches, as whole ns that lie inside them. */
export function brush(a: number, b: number): { min: number; max: number } {
	const low = Math.floor(Math.min(a, b) / COARSE) * COARSE;
	const high = Math.max(low + COARSE, Math.ceil(Math.max(a, b) / COARSE) * COARSE);
	return { min: Math.floor(edge(low)) + 1, max: Math.floor(edge(high)) };
}

/** Where a ns value lies, in fine buckets: the inverse of edge(). */
export function position(ns: number): number {
	return ns <= 1 ? 0 : Math.log2(ns) * PER_OCTAVE;
}

/** Requests inside a brush. Buckets lie in it whole or not at all, as the brush has their edges. */
export function countBetween(buckets: readonly Bucket[], min: number, max: number): number {
	let sum = 0;
	for (const bucket of buckets) {
		const middle = edge(bucket.index + 0.5);
		if (middle > min - 1 && middle <= max + 1) sum += bucket.count;
	}
	return sum;
}

/** Round ticks of a log axis, 1-2-5 or only decades when they would crowd, as {ns, rank}: the lower the rank, the rounder the number. */
export function ticks(first: number, last: number, pixels: number): { ns: number; rank: number }[] {
	const low = edge(first);
	const high = edge(last);
	const perDecade = pixels / Math.log10(high / low);
	const steps = perDecade > 520 ? [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9] : perDecade > 150 ? [1, 2, 5] : perDecade > 90 ? [1, 3] : [1];
	const out: { ns: number; rank: number }[] = [];
	for (let decade = Math.floor(Math.log10(low)); 10 ** decade <= high; decade++) {
		for (const step of steps) {
			const ns = step * 10 ** decade;
			if (ns >= low && ns <= high) out.push({ ns, rank: step === 1 ? 0 : step === 5 || step === 3 ? 1 : step === 2 ? 2 : 3 });
		}
	}
	return out;
}
