// SPDX-License-Identifier: MIT
// What the collector answers (server/README.md, "API"), typed once for the page, the report and the tests.
// Every time is in ns unless its name says otherwise; from, to and *_seen are unix seconds.

/** The states of a request's time, in the order in which a bar shows them: a request's own way through the server. */
export const STATES = ["queue", "cpu", "runq", "io", "lock", "sleep", "loop", "other"] as const;
export type State = (typeof STATES)[number];
export type PerState = Record<State, number>;

export interface Count {
	cause: string;
	count: number;
}

export interface Process {
	id: string;
	service: string;
	host: string;
	pid: number;
	exe: string;
	command: string;
	version: string;
	state: "live" | "ended" | "lost";
	first_seen: number;
	last_seen: number;
	hz: number;
	threads: number;
	overhead: {
		cores: number;
		cpu_share: number;
		handler_ns: number;
		agent_cpu_ns: number;
		memory_bytes: number;
		// Absent in reports of older collectors.
		signal_ns?: number;
		hooks_ns?: number;
		wall_ns?: number;
		process_cpu_ns?: number;
		wire_bytes?: number;
		budget_permille?: number;
		step?: number;
	};
	samples: number;
	lost_windows: number;
	drops: Count[];
	stack_ends?: { how: string; count: number }[];
}

export interface Processes {
	processes: Process[];
}

export interface Latency {
	mean: number;
	p50: number;
	p90: number;
	p99: number;
	p999: number;
	max: number;
}

export interface Route {
	service: string;
	route: string;
	count: number;
	errors: number;
	rate: number;
	in_flight: number;
	latency: Latency;
	ledger: PerState;
	statuses?: Record<string, number>;
}

/** Something a program told, or its agent had to say. */
export interface Mark {
	time: number;
	service: string;
	process: string;
	name: string;
}

export interface Routes {
	from: number;
	to: number;
	routes: Route[];
	background?: Partial<PerState>;
	/** The newest first. */
	marks?: Mark[];
}

export interface Bucket {
	index: number;
	lower: number;
	upper: number;
	count: number;
}

export interface LatencyHistogram {
	from: number;
	to: number;
	route: string;
	what: string;
	scale: number;
	count: number;
	sum: number;
	max: number;
	percentiles: { p50: number; p90: number; p99: number; p999: number };
	buckets: Bucket[];
}

export interface FlameColumns {
	from: number;
	to: number;
	route: string;
	requests: number;
	samples: number;
	total: Partial<PerState>;
	functions: {
		name: string[];
		module: string[];
		file: string[];
		line: number[];
		inlined: number[];
	};
	nodes: {
		function: number[];
		depth: number[];
		self: Partial<Record<State, number[]>>;
	};
}

export interface Tick {
	time: number;
	processes: Process[];
	routes: Routes;
}

/** What `sonde export --format html` puts into the report's #sonde-data. The key of work outside requests is "". */
export interface Report {
	report: number;
	generated: number;
	version: string;
	selection: Record<string, unknown>;
	processes: Processes;
	routes: Routes;
	latency: Record<string, LatencyHistogram>;
	flames: Record<string, FlameColumns>;
}

/**
 * A tick's fields, whether the collector nests whole answers ({"processes": {"processes": []}}) or their lists.
 * The contract reads both ways, and a page that guesses wrong would stand still without a word.
 */
export function tickOf(data: unknown): Tick {
	const tick = data as { time?: number; processes?: unknown; routes?: unknown };
	const processes = Array.isArray(tick.processes)
		? (tick.processes as Process[])
		: ((tick.processes as Processes | undefined)?.processes ?? []);
	const routes: Routes = Array.isArray(tick.routes)
		? { from: 0, to: tick.time ?? 0, routes: tick.routes as Route[] }
		: ((tick.routes as Routes | undefined) ?? { from: 0, to: 0, routes: [] });
	return { time: tick.time ?? routes.to, processes, routes };
}

export const NO_STATES: PerState = { queue: 0, cpu: 0, runq: 0, io: 0, lock: 0, sleep: 0, loop: 0, other: 0 };

export function perState(partial: Partial<PerState> | undefined): PerState {
	return { ...NO_STATES, ...partial };
}

export function sumStates(values: Partial<PerState>): number {
	let sum = 0;
	for (const state of STATES) sum += values[state] ?? 0;
	return sum;
}
