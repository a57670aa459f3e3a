// SPDX-License-Identifier: MIT
// The latency histogram with its brush. The view knows what the pointer is doing; the range itself is the selection's.

import type { LatencyHistogram } from "../model/api.js";
import { brush, COARSE, countBetween, edge, position } from "../model/hist.js";
import { count, plural, share, time } from "../model/units.js";
import { binAt, fromX, paintHistogram, scaleOf, toX, type Scale } from "../draw/histogram.js";
import type { Ink } from "../draw/palette.js";
import { h, setAttr, setText, show } from "./dom.js";
import type { Tooltip } from "./tooltip.js";

export interface HistogramProps {
	data: LatencyHistogram | null;
	range: { min: number; max: number } | null;
	/** Why nothing is drawn, or "". */
	message: string;
	/** Why no range can be chosen, or "". */
	fixed: string;
	loading: boolean;
	ink: Ink;
}

export interface HistogramHandlers {
	range(range: { min: number; max: number } | null): void;
	dragging(on: boolean): void;
}

export function rangeWords(range: { min: number; max: number }): string {
	return `${time(range.min - 1)} – ${time(range.max)}`;
}

export function createHistogram(handlers: HistogramHandlers, tooltip: Tooltip) {
	const canvas = h("canvas", { id: "histogram", tabindex: "0", role: "img" });
	const message = h("p", { class: "message" });
	const box = h("div", { class: "canvas-box" }, canvas, message);
	const chip = h("button", { type: "button", class: "chip range", id: "range", title: "Show all requests again (Esc)", on: { click: () => handlers.range(null) } });
	const hint = h("span", { class: "muted hint" });
	const root = h(
		"section",
		{ class: "panel histogram", "aria-label": "Latency" },
		h("div", { class: "tools" }, h("h2", {}, "Latency"), hint, h("span", { class: "spring" }), chip),
		box,
	);
	let props: HistogramProps | null = null;
	let scale: Scale | null = null;
	let drag: { from: number; to: number; moved: boolean } | null = null;
	let hover = -1;

	const draw = (): void => {
		if (!props) return;
		const width = box.clientWidth;
		const height = box.clientHeight;
		scale = props.data && props.data.count > 0 && width > 40 ? scaleOf(props.data, width) : null;
		show(canvas, scale !== null);
		if (!scale || !props.data) return;
		const range = drag?.moved ? brush(drag.from, drag.to) : props.range;
		paintHistogram(canvas, { data: props.data, scale, brush: range, hover, width, height, ink: props.ink });
	};
	new ResizeObserver(draw).observe(box);

	const at = (event: PointerEvent): number => (scale ? fromX(scale, event.clientX - canvas.getBoundingClientRect().left) : 0);
	canvas.addEventListener("pointerdown", (event) => {
		if (!scale || event.button !== 0 || props?.fixed) return;
		drag = { from: at(event), to: at(event), moved: false };
		canvas.setPointerCapture(event.pointerId);
		handlers.dragging(true);
	});
	canvas.addEventListener("pointermove", (event) => {
		if (!scale || !props?.data) return;
		const x = event.clientX - canvas.getBoundingClientRect().left;
		if (drag) {
			drag.to = at(event);
			if (Math.abs(toX(scale, drag.to) - toX(scale, drag.from)) > 3) drag.moved = true;
			if (drag.moved) {
				const range = brush(drag.from, drag.to);
				const inside = countBetween(props.data.buckets, range.min, range.max);
				tooltip.at(event.clientX, event.clientY, h("strong", {}, rangeWords(range)), h("div", {}, `${plural(inside, "request")}, ${share(inside, props.data.count)}`));
				draw();
			}
			return;
		}
		const found = binAt(scale, x);
		if (found !== hover) {
			hover = found;
			draw();
		}
		const bin = scale.bins[found];
		if (!bin) return tooltip.hide();
		const over = scale.bins.slice(found).reduce((sum, one) => sum + one.count, 0);
		tooltip.at(
			event.clientX,
			event.clientY,
			h("strong", {}, `${time(bin.lower)} – ${time(bin.upper)}`),
			h("div", {}, `${plural(bin.count, "request")}, ${share(bin.count, props.data.count)}`),
			h("div", { class: "muted" }, `${share(over, props.data.count)} took this long or longer`),
		);
	});
	const release = (keep: boolean): void => {
		if (!drag) return;
		const { from, to, moved } = drag;
		drag = null;
		handlers.dragging(false);
		tooltip.hide();
		if (keep && moved) handlers.range(brush(from, to));
		else draw();
	};
	canvas.addEventListener("pointerup", () => release(true));
	canvas.addEventListener("pointercancel", () => release(false));
	canvas.addEventListener("pointerleave", () => {
		if (drag) return;
		hover = -1;
		tooltip.hide();
		draw();
	});
	// The same without a pointer: arrows move the range by a bucket, with Shift its upper end.
	canvas.addEventListener("keydown", (event) => {
		if (event.key === "Escape" && drag) {
			release(false);
			event.stopPropagation();
			return;
		}
		const step = event.key === "ArrowLeft" ? -COARSE : event.key === "ArrowRight" ? COARSE : 0;
		if (!step || !props?.data || !scale || props.fixed) return;
		event.preventDefault();
		let low = scale.last - COARSE;
		let high = scale.last;
		if (props.range) {
			low = Math.round(position(props.range.min - 1) / COARSE) * COARSE;
			high = Math.round(position(props.range.max) / COARSE) * COARSE;
			if (event.shiftKey) high = Math.max(low + COARSE, high + step);
			else [low, high] = [low + step, high + step];
		}
		if (low < scale.first || high > scale.last) return;
		handlers.range({ min: Math.floor(edge(low)) + 1, max: Math.floor(edge(high)) });
	});

	return {
		root,
		update(next: HistogramProps) {
			if (props && (Object.keys(next) as (keyof HistogramProps)[]).every((name) => props?.[name] === next[name])) return;
			props = next;
			const { data, range } = next;
			setText(message, next.message);
			show(message, next.message !== "");
			setText(hint, next.fixed || (data?.count ? "drag to choose requests" : ""));
			setText(chip, range ? `${rangeWords(range)}${data ? ` · ${plural(countBetween(data.buckets, range.min, range.max), "request")}` : ""}  ✕` : "");
			show(chip, range !== null);
			root.classList.toggle("stale", next.loading);
			canvas.classList.toggle("fixed", next.fixed !== "");
			setAttr(
				canvas,
				"aria-label",
				data ? `Latency histogram of ${count(data.count)} requests: p50 ${time(data.percentiles.p50)}, p99 ${time(data.percentiles.p99)}, max ${time(data.max)}. Arrow keys choose a range, Shift with arrows widens it.` : "Latency histogram",
			);
			draw();
		},
	};
}
