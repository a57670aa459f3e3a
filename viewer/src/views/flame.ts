// SPDX-License-Identifier: MIT
// The flame graph: pointer, keyboard and words around draw/flame.ts. Zoom, search and states belong to the selection;
// what the pointer is over and where the keyboard stands belong to this view.

import type { State } from "../model/api.js";
import { firstChild, lines, nameOf, nextSibling, nodeAt, pathOf, previousSibling, self, split, total, type Tree } from "../model/flame.js";
import { LABEL } from "../model/explain.js";
import { share, time } from "../model/units.js";
import { boxOf, hit, layout, type Boxes } from "../draw/layout.js";
import { dominant, paintFlame, ROW, rowAt, rowTop } from "../draw/flame.js";
import type { Ink } from "../draw/palette.js";
import { STATES } from "../model/api.js";
import { h, setText, show } from "./dom.js";
import { splitTable } from "./ledger.js";
import type { Tooltip } from "./tooltip.js";

export interface FlameProps {
	tree: Tree | null;
	weight: Float64Array | null;
	states: readonly State[];
	zoom: number;
	matches: Uint8Array | null;
	icicle: boolean;
	/** Requests to divide by; 0: show totals. */
	requests: number;
	message: string;
	ink: Ink;
}

export interface FlameHandlers {
	zoom(node: number): void;
}

export function createFlame(handlers: FlameHandlers, tooltip: Tooltip) {
	const canvas = h("canvas", { "aria-hidden": "true" });
	const spacer = h("div", { class: "spacer" });
	const message = h("p", { class: "message" });
	const spoken = h("p", { class: "unseen", "aria-live": "polite", id: "spoken" });
	const scroller = h(
		"div",
		{
			class: "flame-scroll",
			id: "flame",
			tabindex: "0",
			role: "application",
			"aria-roledescription": "flame graph",
			"aria-label": "Flame graph. Arrow keys walk, Enter zooms, Escape leaves the zoom. The Functions tab has the same as a table.",
		},
		spacer,
		canvas,
	);
	const root = h("div", { class: "flame-box" }, scroller, message, spoken);
	let props: FlameProps | null = null;
	let boxes: Boxes | null = null;
	let laid: [Tree, Float64Array, number, number] | null = null;
	let hover = -1;
	let focus = 0;
	let frame = 0;
	let rows = 0;
	let tallest = 0;
	let pointer: { x: number; y: number } | null = null;

	const ratio = (): number => window.devicePixelRatio || 1;

	const draw = (): void => {
		frame = 0;
		const usable = props?.tree && props.weight && props.message === "";
		show(scroller, Boolean(usable));
		if (!usable || !props?.tree || !props.weight) return;
		const width = scroller.clientWidth;
		const height = scroller.clientHeight;
		if (width < 2 || height < 2) return;
		const pixels = Math.round(width * ratio());
		if (!boxes || !laid || laid[0] !== props.tree || laid[1] !== props.weight || laid[2] !== props.zoom || laid[3] !== pixels) {
			boxes = layout(props.tree, props.weight, props.zoom, pixels);
			laid = [props.tree, props.weight, props.zoom, pixels];
			hover = -1;
		}
		if (rows !== boxes.rows) {
			// A flame is looked at from its floor: what stands there stays there when it grows.
			const below = scroller.scrollHeight - scroller.scrollTop;
			rows = boxes.rows;
			spacer.style.height = `${rows * ROW}px`;
			// The panel grows with its graph while that fits the window, so that the leaves are in sight; it never shrinks
			// under the reader's eyes.
			const wanted = Math.min(rows * ROW, Math.round(window.innerHeight * 0.72));
			if (wanted > tallest) root.style.minHeight = `${(tallest = wanted)}px`;
			if (!props.icicle) scroller.scrollTop = scroller.scrollHeight - below;
		}
		const content = Math.max(height, boxes.rows * ROW);
		// A flame grows from the floor: a shallow one stands on the bottom of the box, not at its top.
		const lift = props.icicle ? 0 : content - boxes.rows * ROW;
		const began = performance.now();
		const painted = paintFlame(canvas, {
			tree: props.tree,
			boxes,
			states: props.states,
			matches: props.matches,
			hover,
			focus: document.activeElement === scroller ? boxOf(boxes, props.tree, focus) : -1,
			icicle: props.icicle,
			width,
			height,
			scroll: scroller.scrollTop - lift,
			ink: props.ink,
		});
		canvas.dataset["boxes"] = String(painted.boxes);
		canvas.dataset["names"] = String(painted.names);
		canvas.dataset["ms"] = (performance.now() - began).toFixed(2);
	};
	const redraw = (): void => {
		if (!frame) frame = requestAnimationFrame(draw);
	};
	new ResizeObserver(redraw).observe(scroller);
	scroller.addEventListener("scroll", () => {
		tooltip.hide();
		redraw();
	});

	const boxAt = (event: MouseEvent): number => {
		if (!boxes || !props) return -1;
		const area = scroller.getBoundingClientRect();
		const lift = props.icicle ? 0 : Math.max(0, scroller.clientHeight - boxes.rows * ROW);
		const y = event.clientY - area.top + scroller.scrollTop - lift;
		return hit(boxes, (event.clientX - area.left) * ratio(), rowAt(y, boxes.rows, props.icicle));
	};

	const per = (ns: number): number => (props && props.requests > 0 ? ns / props.requests : ns);
	const unit = (): string => (props && props.requests > 0 ? "per request" : "in total");

	const describe = (i: number): Node[] => {
		if (!props?.tree || !props.weight || !boxes) return [];
		const { tree, weight } = props;
		const node = boxes.node[i]!;
		const to = boxes.mergedTo[i]! || tree.end[node]!;
		const ns = weight[to]! - weight[node]!;
		const parts = split(tree, node, to);
		for (const state of STATES) if (!props.states.includes(state)) parts[state] = 0;
		const fact = (label: string, value: string): HTMLElement => h("tr", {}, h("th", {}, label), h("td", { colspan: "2" }, value));
		const rows: HTMLElement[] = [];
		if (boxes.mergedTo[i]) {
			rows.push(h("strong", {}, "several functions, each too narrow to draw"), h("div", { class: "muted" }, `in ${nameOf(tree, tree.parent[node]!)}; zoom there to see them`));
		} else {
			const f = tree.fn[node]!;
			const module = tree.functions.module[f] ?? "";
			const file = tree.functions.file[f] ?? "";
			const at = lines(tree, node);
			const place = file && at.length ? `${file}:${at[0]!.line}` : file;
			rows.push(h("strong", { class: "name" }, nameOf(tree, node)));
			if (module || file) rows.push(h("div", { class: "muted" }, [module, place, tree.functions.inlined[f] ? "inlined" : ""].filter(Boolean).join(" · ")));
			if (at.length > 1)
				rows.push(
					h("div", { class: "muted" }, `by line: ${at.slice(0, 4).map((one) => `${one.line} ${share(one.share)}`).join(", ")}${at.length > 4 ? `, ${at.length - 4} more` : ""}`),
				);
		}
		const facts = [
			fact(unit(), time(per(ns))),
			fact("of the selection", share(ns, total(tree, weight, 0))),
			props.zoom ? fact("of the zoom", share(ns, total(tree, weight, props.zoom))) : null,
			boxes.mergedTo[i] ? null : fact("itself", `${time(per(self(weight, node)))} · ${share(self(weight, node), total(tree, weight, 0))}`),
		];
		rows.push(h("table", { class: "split facts" }, h("tbody", {}, ...facts.filter((row) => row !== null))));
		rows.push(splitTable(parts, { divide: props.requests || 1 }));
		return rows;
	};

	const follow = (event: MouseEvent): void => {
		const found = boxAt(event);
		if (found !== hover) {
			hover = found;
			redraw();
		}
		scroller.classList.toggle("point", found >= 0);
		if (found < 0) tooltip.hide();
		else tooltip.at(event.clientX, event.clientY, ...describe(found));
	};
	scroller.addEventListener("pointermove", (event) => {
		pointer = { x: event.clientX, y: event.clientY };
		follow(event);
	});
	scroller.addEventListener("pointerleave", () => {
		pointer = null;
		hover = -1;
		tooltip.hide();
		redraw();
	});
	scroller.addEventListener("click", (event) => {
		const found = boxAt(event);
		if (found < 0 || !boxes || !props?.tree) return;
		// Merged functions have no box of their own: their caller is where they become visible.
		const node = boxes.mergedTo[found] ? props.tree.parent[boxes.node[found]!]! : boxes.node[found]!;
		focus = node;
		tooltip.hide();
		handlers.zoom(node);
	});

	const say = (): void => {
		if (!props?.tree || !props.weight) return;
		const { tree, weight } = props;
		const ns = total(tree, weight, focus);
		const state = STATES[dominant(tree, props.states, focus, tree.end[focus]!).state] ?? "other";
		setText(spoken, `${nameOf(tree, focus)}, ${time(per(ns))} ${unit()}, ${share(ns, total(tree, weight, 0))}, mostly ${LABEL[state]}`);
	};

	/** Scrolls so that the keyboard's box is in sight, and shows its words beside it. */
	const reveal = (): void => {
		if (!props?.tree || !boxes) return;
		const top = rowTop(props.tree.depth[focus]!, boxes.rows, props.icicle);
		if (top < scroller.scrollTop) scroller.scrollTop = top;
		else if (top + ROW > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + ROW - scroller.clientHeight;
		draw();
		say();
		const i = boxOf(boxes, props.tree, focus);
		if (i < 0 || pointer) return;
		const area = scroller.getBoundingClientRect();
		const lift = props.icicle ? 0 : Math.max(0, scroller.clientHeight - boxes.rows * ROW);
		tooltip.at(area.left + Math.min(boxes.x0[i]! / ratio() + 24, area.width - 60), area.top + top + lift - scroller.scrollTop + 8, ...describe(i));
	};

	const walk = (key: string): number => {
		if (!props?.tree || !props.weight) return -1;
		const { tree, weight, icicle } = props;
		switch (key) {
			case icicle ? "ArrowDown" : "ArrowUp": {
				// Above the zoom there is one way down: towards it.
				let down = props.zoom;
				if (focus !== props.zoom && focus <= props.zoom && props.zoom < tree.end[focus]!) {
					while (tree.parent[down] !== focus) down = tree.parent[down]!;
					return down;
				}
				return firstChild(tree, weight, focus);
			}
			case icicle ? "ArrowUp" : "ArrowDown":
				return focus > 0 ? tree.parent[focus]! : -1;
			case "ArrowRight":
				return focus === props.zoom ? -1 : nextSibling(tree, weight, focus);
			case "ArrowLeft":
				return focus === props.zoom ? -1 : previousSibling(tree, weight, focus);
			case "Home":
				return props.zoom;
			default:
				return -1;
		}
	};
	scroller.addEventListener("keydown", (event) => {
		if (!props?.tree || event.ctrlKey || event.metaKey || event.altKey) return;
		if (event.key === "Enter" || event.key === " ") {
			event.preventDefault();
			handlers.zoom(focus);
			return;
		}
		const next = walk(event.key);
		if (event.key.startsWith("Arrow") || event.key === "Home") event.preventDefault();
		if (next < 0) return;
		pointer = null;
		focus = next;
		reveal();
	});
	scroller.addEventListener("focus", () => {
		if (scroller.matches(":focus-visible")) reveal();
		else redraw();
	});
	scroller.addEventListener("blur", () => {
		tooltip.hide();
		redraw();
	});

	return {
		root,
		update(next: FlameProps) {
			const before = props;
			props = next;
			setText(message, next.message);
			show(message, next.message !== "");
			if (next.tree && before?.tree !== next.tree) {
				// Another tree: node numbers mean nothing any more, names do.
				focus = before?.tree ? nodeAt(next.tree, pathOf(before.tree, focus)) : next.zoom;
				boxes = null;
			} else if (next.tree && before?.zoom !== next.zoom && !(focus >= next.zoom && focus < next.tree.end[next.zoom]!)) focus = next.zoom;
			if (before && before.icicle !== next.icicle) scroller.scrollTop = next.icicle ? 0 : scroller.scrollHeight;
			redraw();
		},
	};
}
