// SPDX-License-Identifier: MIT
// What the reader looks at. It lives in the URL's fragment, so that a link, a reload and the back button all mean it.

import { STATES, type State } from "./api.js";

export type Window = "10s" | "1m" | "5m" | "15m" | "1h" | "all";
export const WINDOWS: readonly Window[] = ["1m", "5m", "15m", "1h", "all"];
export type Tab = "flame" | "functions";
export type Theme = "auto" | "light" | "dark";
export type Direction = "icicle" | "flame";

export interface Selection {
	/** Only this service and process; "": all. */
	service: string;
	process: string;
	window: Window;
	/** Paused: the window ends here (unix seconds). 0: it ends now. */
	at: number;
	/** null: not chosen yet; "": work outside any request. */
	route: string | null;
	/** The service of the chosen route: two services may both have "GET /". "": any. */
	owner: string;
	states: readonly State[];
	/** Only requests of this latency, ns, both ends included. */
	latency: { min: number; max: number } | null;
	/** Names of functions from below the root to the zoomed box. */
	zoom: readonly string[];
	search: string;
	tab: Tab;
	direction: Direction;
	theme: Theme;
	sort: string;
	filter: string;
}

export const INITIAL: Selection = {
	service: "",
	process: "",
	window: "5m",
	at: 0,
	route: null,
	owner: "",
	states: STATES,
	latency: null,
	zoom: [],
	search: "",
	tab: "flame",
	direction: "icicle",
	theme: "auto",
	sort: "-total",
	filter: "",
};

const ESCAPED: Record<string, string> = { "\\": "\\\\", ";": "\\;" };

function joinPath(names: readonly string[]): string {
	return names.map((name) => name.replace(/[\\;]/g, (c) => ESCAPED[c] as string)).join(";");
}

function splitPath(text: string): string[] {
	const names: string[] = [];
	let name = "";
	for (let i = 0; i < text.length; i++) {
		if (text[i] === "\\" && i + 1 < text.length) name += text[++i];
		else if (text[i] === ";") {
			names.push(name);
			name = "";
		} else name += text[i];
	}
	if (text !== "") names.push(name);
	return names;
}

/** The fragment without "#"; what is as at first is left out. */
export function toFragment(sel: Selection): string {
	const out = new URLSearchParams();
	const text = (name: "service" | "process" | "owner" | "search" | "filter" | "sort" | "tab" | "theme" | "window") => {
		if (sel[name] !== INITIAL[name]) out.set(name, sel[name]);
	};
	text("service");
	text("process");
	text("window");
	if (sel.at) out.set("at", String(sel.at));
	if (sel.route !== null) out.set("route", sel.route);
	text("owner");
	if (sel.latency) out.set("latency", `${sel.latency.min}-${sel.latency.max}`);
	if (sel.states.length !== STATES.length) out.set("states", sel.states.join(","));
	if (sel.direction !== INITIAL.direction) out.set("view", sel.direction);
	if (sel.zoom.length) out.set("zoom", joinPath(sel.zoom));
	text("search");
	text("tab");
	text("sort");
	text("filter");
	text("theme");
	return out.toString();
}

function oneOf<T extends string>(value: string | null, all: readonly T[], otherwise: T): T {
	return all.find((one) => one === value) ?? otherwise;
}

/** Reads a fragment; whatever does not make sense counts as absent: links grow old and people type. */
export function fromFragment(fragment: string): Selection {
	const given = new URLSearchParams(fragment.replace(/^#/, ""));
	const range = /^(\d+)-(\d+)$/.exec(given.get("latency") ?? "");
	const min = Number(range?.[1]);
	const max = Number(range?.[2]);
	const wanted = given.get("states")?.split(",");
	const at = Number(given.get("at"));
	return {
		service: given.get("service") ?? "",
		process: given.get("process") ?? "",
		window: oneOf<Window>(given.get("window"), ["10s", ...WINDOWS], INITIAL.window),
		at: Number.isFinite(at) && at > 0 ? at : 0,
		route: given.get("route"),
		owner: given.get("owner") ?? "",
		states: wanted ? STATES.filter((state) => wanted.includes(state)) : STATES,
		latency: range && min <= max ? { min, max } : null,
		zoom: splitPath(given.get("zoom") ?? ""),
		search: given.get("search") ?? "",
		tab: oneOf<Tab>(given.get("tab"), ["flame", "functions"], INITIAL.tab),
		direction: oneOf<Direction>(given.get("view"), ["icicle", "flame"], INITIAL.direction),
		theme: oneOf<Theme>(given.get("theme"), ["auto", "light", "dark"], INITIAL.theme),
		sort: given.get("sort") ?? INITIAL.sort,
		filter: given.get("filter") ?? "",
	};
}

const SECONDS: Record<Window, number> = { "10s": 10, "1m": 60, "5m": 300, "15m": 900, "1h": 3600, all: 0 };

/** The API's from= and to=. A paused window is absolute: asking again must give the same answer. */
export function timeParams(sel: Pick<Selection, "window" | "at">): { from: string; to?: string } {
	if (sel.window === "all") return sel.at ? { from: "0", to: String(sel.at) } : { from: "0" };
	if (!sel.at) return { from: `-${sel.window}` };
	return { from: String(sel.at - SECONDS[sel.window]), to: String(sel.at) };
}

export function windowWords(window: Window): string {
	const words: Record<Window, string> = {
		"10s": "the last 10 seconds",
		"1m": "the last minute",
		"5m": "the last 5 minutes",
		"15m": "the last 15 minutes",
		"1h": "the last hour",
		all: "all stored time",
	};
	return words[window];
}
