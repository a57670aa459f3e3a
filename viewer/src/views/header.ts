// SPDX-License-Identifier: MIT
// The top line: whose data, of which time, how dear the agent is, what was lost, and whether it is live.

import type { Process } from "../model/api.js";
import { WINDOWS, type Selection, type Theme, type Window } from "../model/selection.js";
import { bytes, clock, count, dateTime, ofACore, plural, share } from "../model/units.js";
import { fill, h, setAttr, setText, show } from "./dom.js";

export type Connection = "connecting" | "live" | "paused" | "down" | "report";

export interface HeaderProps {
	sel: Selection;
	services: readonly string[];
	processes: readonly Process[];
	connection: Connection;
	/** Unix seconds of the newest data, 0 for none. */
	fresh: number;
	/** Seconds until the next try, when down. */
	retry: number;
	/** Of a report: when, of what and by which version. */
	made: string;
}

export interface HeaderHandlers {
	service(name: string): void;
	process(id: string): void;
	window(window: Window): void;
	pause(): void;
	theme(theme: Theme): void;
	help(): void;
}

/** Sum over processes of what the agents could not keep, by cause. */
export function drops(processes: readonly Process[]): { lost: number; dropped: number; bad: boolean; causes: [string, number][] } {
	const causes = new Map<string, number>();
	let lost = 0;
	let dropped = 0;
	for (const process of processes) {
		lost += process.lost_windows;
		for (const drop of process.drops) {
			if (drop.count <= 0) continue;
			dropped += drop.count;
			causes.set(drop.cause, (causes.get(drop.cause) ?? 0) + drop.count);
		}
	}
	return { lost, dropped, bad: lost > 0 || dropped > 0, causes: [...causes].sort((a, b) => b[1] - a[1]) };
}

/** What the agents of all live processes take: processors, and the share of those processes' CPU time. */
export function overheadOf(processes: readonly Process[]): { cores: number; share: number } {
	let cores = 0;
	let agents = 0;
	let all = 0;
	for (const { state, overhead } of processes) {
		if (state !== "live") continue;
		cores += overhead.cores;
		// By time: an idle process, where any share is of next to nothing, weighs little.
		if (!(overhead.cpu_share > 0)) continue;
		const own = overhead.agent_cpu_ns + overhead.handler_ns + (overhead.signal_ns ?? 0) + (overhead.hooks_ns ?? 0);
		agents += own;
		all += own / overhead.cpu_share;
	}
	return { cores, share: all > 0 ? agents / all : 0 };
}

/** Where the agent's CPU time goes and what its governor does about it, line by line. */
export function overheadText({ overhead, hz }: Process): string {
	const cpu = overhead.agent_cpu_ns + overhead.handler_ns + (overhead.signal_ns ?? 0) + (overhead.hooks_ns ?? 0);
	const process = overhead.cpu_share > 0 ? cpu / overhead.cpu_share : 0;
	const part = (ns: number) => (process > 0 ? share(ns / process) : "0 %");
	const lines = [`${share(overhead.cpu_share)} of the CPU time of the process:`];
	if (overhead.hooks_ns !== undefined) lines.push(`${part(overhead.hooks_ns)} in wrapped calls`);
	lines.push(`${part(overhead.handler_ns + (overhead.signal_ns ?? 0))} in sampling signals, ${hz} a second on a CPU`);
	lines.push(`${part(overhead.agent_cpu_ns)} in the agent's own thread`);
	if (overhead.step) lines.push(`Rates are down to 1/${2 ** overhead.step} to keep the budget (SONDE_BUDGET, ${overhead.budget_permille ?? 0} permille).`);
	if (overBudget({ overhead, hz })) lines.push("Wrapped calls alone take more than the budget; no lower rate changes that.");
	return lines.join("\n");
}

/** Whether wrapped calls, which no lower rate makes cheaper, take more than the budget: by more than a few samples' word. */
export function overBudget({ overhead, hz }: Pick<Process, "overhead" | "hz">): boolean {
	const { hooks_ns: hooks = 0, wall_ns: wall = 0, process_cpu_ns: process = 0, budget_permille: budget = 0 } = overhead;
	return budget > 0 && (hooks * hz) / 1e9 >= 20 && hooks * 1000 > Math.max(wall, process) * budget;
}

function processTable(props: HeaderProps, handlers: HeaderHandlers): HTMLElement {
	const head = ["service", "pid", "host", "command", "state", "agent, of a core", "agent memory", "samples", "lost", "drops", ""];
	return h(
		"table",
		{ class: "grid" },
		h("thead", {}, h("tr", {}, ...head.map((name, i) => h("th", { scope: "col", class: i === 1 || (i > 4 && i < 10) ? "n" : "" }, name)))),
		h(
			"tbody",
			{},
			...props.processes.map((process) => {
				const lost = drops([process]);
				const only = props.sel.process === process.id;
				return h(
					"tr",
					{ class: only ? "chosen" : "" },
					h("td", {}, process.service),
					h("td", { class: "n" }, String(process.pid)),
					h("td", {}, process.host),
					h("td", { class: "cut", title: process.command }, process.command),
					h("td", { class: process.state === "lost" ? "warn" : "", title: `last seen ${dateTime(process.last_seen)}` }, process.state),
					h("td", { class: "n", title: overheadText(process) }, `${ofACore(process.overhead.cores)}${process.overhead.step ? ` · rate 1/${2 ** process.overhead.step}` : overBudget(process) ? " · over budget" : ""}`),
					h("td", { class: "n" }, bytes(process.overhead.memory_bytes)),
					h("td", { class: "n" }, count(process.samples)),
					h("td", { class: process.lost_windows ? "n warn" : "n" }, count(process.lost_windows)),
					h("td", { class: lost.bad && lost.dropped ? "n warn" : "n", title: lost.causes.map(([c, n]) => `${c}: ${n}`).join("\n") }, count(lost.dropped)),
					h(
						"td",
						{},
						props.connection !== "report" &&
							h("button", { type: "button", class: "link", on: { click: () => handlers.process(only ? "" : process.id) } }, only ? "show all" : "only this"),
					),
				);
			}),
		),
	);
}

const WORD: Record<Connection, string> = { connecting: "connecting…", live: "live", paused: "paused", down: "not answering", report: "report" };
const THEMES: readonly Theme[] = ["auto", "light", "dark"];

export function createHeader(handlers: HeaderHandlers) {
	const service = h("select", { "aria-label": "Service", on: { change: () => handlers.service(service.value) } });
	const people = h("summary", { title: "Every process: its agent's cost and losses" });
	const list = h("div", { class: "popover" });
	const processes = h("details", { class: "processes" }, people, list);
	const overhead = h("span", { class: "fact", id: "overhead" });
	const losses = h("button", { type: "button", class: "fact losses", id: "losses", on: { click: () => (processes.open = !processes.open) } });
	const windows = WINDOWS.map((window) =>
		h("button", { type: "button", "data-window": window, on: { click: () => handlers.window(window) } }, window === "all" ? "all" : `−${window}`),
	);
	const group = h("div", { class: "segments", role: "group", "aria-label": "Time window" }, ...windows);
	const dot = h("span", { class: "dot", "aria-hidden": "true" });
	const state = h("span", { id: "connection", role: "status" });
	const pause = h("button", { type: "button", id: "pause", class: "solid", title: "Stop and go on (p)", on: { click: () => handlers.pause() } });
	const theme = h("button", { type: "button", class: "icon", id: "theme" }, "◐");
	const help = h("button", { type: "button", class: "icon", title: "Keys and words (?)", "aria-label": "Help", on: { click: () => handlers.help() } }, "?");
	const made = h("span", { class: "fact", id: "made" });
	const root = h(
		"header",
		{ class: "top" },
		h("h1", {}, "sonde"),
		service,
		processes,
		overhead,
		losses,
		made,
		h("span", { class: "spring" }),
		h("span", { class: "connection" }, dot, state),
		group,
		pause,
		theme,
		help,
	);
	let last: HeaderProps | null = null;
	processes.addEventListener("toggle", () => {
		if (processes.open && last) fill(list, processTable(last, handlers));
	});
	document.addEventListener("click", (event) => {
		if (processes.open && event.target instanceof Node && !processes.contains(event.target) && !losses.contains(event.target)) processes.open = false;
	});
	processes.addEventListener("keydown", (event) => {
		if (event.key !== "Escape" || !processes.open) return;
		processes.open = false;
		people.focus();
		event.stopPropagation();
	});
	theme.addEventListener("click", () => {
		const now = last?.sel.theme ?? "auto";
		const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
		// From auto the first click must be visible: go to what the system is not.
		const next = now === "auto" ? (system === "dark" ? "light" : "dark") : now === system ? "auto" : system;
		handlers.theme(THEMES.includes(next) ? next : "auto");
	});
	const options = (props: HeaderProps): void => {
		const names = ["", ...props.services];
		if (service.options.length !== names.length || names.some((name, i) => service.options[i]?.value !== name))
			fill(service, ...names.map((name) => h("option", { value: name }, name === "" ? "all services" : name)));
		service.value = props.sel.service;
		show(service, props.services.length > 1 || props.sel.service !== "");
	};
	return {
		root,
		update(props: HeaderProps) {
			last = props;
			options(props);
			const { sel, connection } = props;
			const counted = sel.process ? props.processes.filter((process) => process.id === sel.process) : props.processes;
			const live = counted.filter((process) => process.state === "live").length;
			setText(people, sel.process ? `process ${counted[0]?.pid ?? sel.process}` : live === counted.length ? plural(live, "process", "processes") : `${count(live)} of ${plural(counted.length, "process", "processes")}`);
			show(processes, props.processes.length > 0);
			if (processes.open && !list.matches(":hover") && !list.contains(document.activeElement)) fill(list, processTable(props, handlers));
			const cost = overheadOf(counted);
			setText(overhead, `agent${live === 1 ? "" : "s"} ${ofACore(cost.cores)} of a core`);
			setAttr(overhead, "title", `The agents' own CPU time over the last minute; it is ${share(cost.share)} of the CPU time of their processes. Each process: see the list beside.`);
			show(overhead, live > 0);
			const lost = drops(counted);
			setText(losses, `${lost.bad ? "⚠ " : ""}${plural(lost.lost, "lost window")}, ${plural(lost.dropped, "drop")}` + (lost.causes.length ? `: ${lost.causes.slice(0, 2).map(([cause, n]) => `${cause} ${count(n)}`).join(", ")}${lost.causes.length > 2 ? " …" : ""}` : ""));
			losses.classList.toggle("warn", lost.bad);
			setAttr(losses, "title", lost.causes.length ? lost.causes.map(([cause, n]) => `${cause}: ${n}`).join("\n") : "Nothing was lost: every window arrived and no cap refused anything");
			show(losses, props.processes.length > 0);
			setText(made, props.made);
			show(made, props.made !== "");
			for (const button of windows) setAttr(button, "aria-pressed", String(button.dataset["window"] === sel.window));
			show(group, connection !== "report");
			show(pause, connection !== "report");
			setText(pause, sel.at ? "▶ Live" : "❚❚ Pause");
			setAttr(pause, "aria-pressed", String(sel.at > 0));
			setText(state, connection === "down" ? `not answering – ${props.retry ? `retrying in ${props.retry} s` : "trying again"}` : connection === "paused" ? `paused at ${clock(sel.at)}` : WORD[connection]);
			dot.className = `dot ${connection}`;
			setAttr(dot, "title", props.fresh ? `newest data ${clock(props.fresh)}` : null);
			show(dot.parentElement as HTMLElement, connection !== "report");
			setAttr(theme, "title", `Colours: ${sel.theme} (t)`);
			setAttr(theme, "aria-label", `Colours: ${sel.theme}`);
		},
		toggleTheme: () => theme.click(),
	};
}
