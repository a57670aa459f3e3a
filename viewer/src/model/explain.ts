// SPDX-License-Identifier: MIT
// One plain sentence: where a route's time goes.

import { STATES, perState, sumStates, type PerState, type Route, type State } from "./api.js";
import { share, time } from "./units.js";

/** Name on chips and in tables. */
export const LABEL: Record<State, string> = {
	queue: "queue",
	cpu: "CPU",
	runq: "run queue",
	io: "IO",
	lock: "lock",
	sleep: "sleep",
	loop: "loop",
	other: "other",
};

/** What the state is, for titles and help. */
export const MEANING: Record<State, string> = {
	queue: "the request lay in the kernel and the server had not read it yet",
	cpu: "running on a processor",
	runq: "ready to run, but no processor was free",
	io: "waiting for a file, a peer or another descriptor",
	lock: "waiting for another thread: mutex, condition, semaphore, join",
	sleep: "waiting for a timer",
	loop: "parked while its event loop ran other work",
	other: "time that no measurement explains",
};

const DOING: Record<State, string> = {
	queue: "waiting to be read by the server",
	cpu: "CPU",
	runq: "waiting for a processor",
	io: "waiting for IO",
	lock: "waiting for a lock",
	sleep: "sleeping",
	loop: "waiting behind other work of its event loop",
	other: "unexplained",
};

/** The parts worth a word: at least 1 %, largest first, at most three. */
function parts(ledger: PerState, whole: number): string[] {
	return STATES.filter((state) => ledger[state] >= 0.01 * whole)
		.sort((a, b) => ledger[b] - ledger[a])
		.slice(0, 3)
		.map((state) => `${share(ledger[state], whole)} ${DOING[state]}`);
}

/** "GET /lock takes 12.4 ms on average: 91 % waiting for a lock, 6 % CPU." */
export function explainRoute(route: Pick<Route, "route" | "count" | "latency" | "ledger">): string {
	if (route.count === 0) return `${route.route} has answered no request in this time.`;
	const words = parts(route.ledger, sumStates(route.ledger));
	const takes = `${route.route} takes ${time(route.latency.mean)} on average`;
	return words.length ? `${takes}: ${words.join(", ")}.` : `${takes}.`;
}

/** The same for the requests of a brushed latency range, from their flame graph's totals. */
export function explainRange(name: string, range: string, requests: number, totals: Partial<PerState>): string {
	const ledger = perState(totals);
	const whole = sumStates(ledger);
	if (whole === 0 || requests === 0) return `${name} has no measured time between ${range}.`;
	const words = parts(ledger, whole);
	return `${name} requests of ${range} take ${time(whole / requests)} on average: ${words.join(", ")}.`;
}

export function explainBackground(background: Partial<PerState> | undefined): string {
	const ledger = perState(background);
	const whole = sumStates(ledger);
	if (whole === 0) return "No work outside requests was seen in this time.";
	return `Outside any request ${time(whole)} were spent: ${parts(ledger, whole).join(", ")}.`;
}
