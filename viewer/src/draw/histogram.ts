// SPDX-License-Identifier: MIT
// The latency histogram: log time across, requests up, percentiles as marks, the brush as a band.

import { bins, groupSize, position, span, ticks, type Bin } from "../model/hist.js";
import type { LatencyHistogram } from "../model/api.js";
import { time, timeShort } from "../model/units.js";
import { fit } from "./canvas.js";
import type { Ink } from "./palette.js";
import { fitterFor } from "./text.js";

const FONT = "11px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
const TOP = 34; // two rows of percentile labels
const BOTTOM = 20;
const SIDE = 10;

/** How fine bucket positions map to CSS pixels: views use it to read the pointer. */
export interface Scale {
	first: number;
	last: number;
	left: number;
	width: number;
	bins: Bin[];
}

export function scaleOf(data: LatencyHistogram, width: number): Scale {
	const { first, last } = span(data.buckets);
	const inner = Math.max(1, width - 2 * SIDE);
	return { first, last, left: SIDE, width: inner, bins: bins(data.buckets, first, last, groupSize(first, last, inner)) };
}

export function toX(scale: Scale, at: number): number {
	return scale.left + ((at - scale.first) / (scale.last - scale.first)) * scale.width;
}

export function fromX(scale: Scale, x: number): number {
	const at = scale.first + ((x - scale.left) / scale.width) * (scale.last - scale.first);
	return Math.min(scale.last, Math.max(scale.first, at));
}

export interface HistogramPicture {
	data: LatencyHistogram;
	scale: Scale;
	brush: { min: number; max: number } | null;
	hover: number; // index of a bin, -1
	width: number;
	height: number;
	ink: Ink;
}

export function paintHistogram(canvas: HTMLCanvasElement, picture: HistogramPicture): void {
	const surface = fit(canvas, picture.width, picture.height);
	if (!surface) return;
	const { context } = surface;
	const { scale, brush, ink } = picture;
	const floor = picture.height - BOTTOM;
	const room = floor - TOP;
	const text = fitterFor(context, FONT);
	const most = scale.bins.reduce((max, bin) => Math.max(max, bin.count), 0);
	context.font = FONT;

	// axis
	context.textBaseline = "alphabetic";
	context.textAlign = "center";
	const labelled: [number, number][] = [];
	// The rounder the number, the earlier it gets its place; a label without room is left out, its line is not.
	for (const tick of ticks(scale.first, scale.last, scale.width).sort((a, b) => a.rank - b.rank)) {
		const x = Math.round(toX(scale, position(tick.ns))) + 0.5;
		context.strokeStyle = ink.faint;
		context.lineWidth = 1;
		context.beginPath();
		context.moveTo(x, TOP);
		context.lineTo(x, floor + 4);
		context.stroke();
		const label = timeShort(tick.ns);
		const half = text.width(label) / 2;
		const middle = Math.min(picture.width - half - 2, Math.max(half + 2, x));
		if (labelled.some(([from, to]) => middle + half + 8 > from && middle - half - 8 < to)) continue;
		labelled.push([middle - half, middle + half]);
		context.fillStyle = ink.muted;
		context.fillText(label, middle, picture.height - 4);
	}

	if (brush) {
		const x0 = toX(scale, position(brush.min - 1));
		const x1 = toX(scale, position(brush.max));
		context.fillStyle = ink.brush;
		context.fillRect(x0, TOP - 4, x1 - x0, room + 4);
	}

	const inside = (bin: Bin): boolean => !brush || (bin.lower >= brush.min - 1.5 && bin.upper <= brush.max + 1.5);
	scale.bins.forEach((bin, i) => {
		if (bin.count === 0) return;
		const x0 = toX(scale, bin.first);
		const x1 = toX(scale, bin.first + (scale.last - scale.first) / scale.bins.length);
		// One slow request among a million is what people look for: it stays two pixels high.
		const height = Math.max(2, (room * bin.count) / most);
		context.fillStyle = !inside(bin) ? ink.faint : i === picture.hover ? ink.ink : brush ? ink.accent : ink.bar;
		context.fillRect(x0 + 0.5, floor - height, Math.max(1, x1 - x0 - 1), height);
	});
	context.fillStyle = ink.muted;
	context.fillRect(scale.left, floor, scale.width, 1);

	if (brush) {
		context.fillStyle = ink.accent;
		for (const ns of [brush.min - 1, brush.max]) context.fillRect(Math.round(toX(scale, position(ns))) - 1, TOP - 4, 2, room + 4);
	}

	paintMarks(context, picture, floor);
}

/** Percentiles: a dashed line each; marks on the same spot share a label ("p99–max"); labels take the row with room. */
function paintMarks(context: CanvasRenderingContext2D, picture: HistogramPicture, floor: number): void {
	const { data, scale, ink } = picture;
	const text = fitterFor(context, FONT);
	const marks: { from: string; to: string; x: number; ns: number }[] = [];
	for (const [name, ns] of [["p50", data.percentiles.p50], ["p90", data.percentiles.p90], ["p99", data.percentiles.p99], ["p99.9", data.percentiles.p999], ["max", data.max]] as const) {
		if (!(ns > 0)) continue;
		const x = Math.min(scale.left + scale.width, Math.max(scale.left, toX(scale, position(ns))));
		const before = marks[marks.length - 1];
		if (before && x - before.x < 3) Object.assign(before, { to: name, ns });
		else marks.push({ from: name, to: name, x, ns });
	}
	const rows = [10, 24];
	const free = [picture.width + 1, picture.width + 1];
	// From the right, where the slow ones crowd and matter. A label may slide left of its line, but must touch it.
	const placed = marks.reverse().map((mark) => {
		const label = `${mark.from === mark.to ? mark.from : `${mark.from}–${mark.to}`} ${time(mark.ns)}`;
		const width = text.width(label);
		for (const row of [1, 0]) {
			const left = Math.max(0, Math.min(mark.x - 3, free[row]! - width - 8));
			if (left + width < mark.x - 2) continue;
			free[row] = left;
			return { x: mark.x, label, width, left, row };
		}
		return { x: mark.x, label: "", width: 0, left: 0, row: -1 };
	});
	context.strokeStyle = ink.ink;
	context.globalAlpha = 0.5;
	context.setLineDash([3, 3]);
	context.beginPath();
	for (const { x, row } of placed) {
		context.moveTo(Math.round(x) + 0.5, row < 0 ? TOP - 6 : rows[row]! + 4);
		context.lineTo(Math.round(x) + 0.5, floor);
	}
	context.stroke();
	context.setLineDash([]);
	context.globalAlpha = 1;
	context.textAlign = "left";
	for (const { label, width, left, row } of placed) {
		if (row < 0) continue;
		context.fillStyle = ink.paper;
		context.fillRect(left - 2, rows[row]! - 10, width + 4, 13);
		context.fillStyle = ink.ink;
		context.fillText(label, left, rows[row]!);
	}
}

/** The bin under x, or -1. */
export function binAt(scale: Scale, x: number): number {
	if (x < scale.left || x > scale.left + scale.width) return -1;
	const i = Math.floor(((x - scale.left) / scale.width) * scale.bins.length);
	return Math.min(scale.bins.length - 1, Math.max(0, i));
}

