// SPDX-License-Identifier: MIT
// Where answers come from: the collector's API, or the report that the page carries in itself.

import type { FlameColumns, LatencyHistogram, Processes, Report, Route, Routes } from "../model/api.js";
import { timeParams, type Selection } from "../model/selection.js";

export interface Source {
	readonly live: boolean;
	processes(signal: AbortSignal): Promise<Processes>;
	routes(sel: Selection, signal: AbortSignal): Promise<Routes>;
	latency(sel: Selection, signal: AbortSignal): Promise<LatencyHistogram | null>;
	flame(sel: Selection, signal: AbortSignal): Promise<FlameColumns | null>;
}

/** An answer that says no. `status` 0: no answer at all. */
export class ApiError extends Error {
	constructor(
		readonly status: number,
		message: string,
	) {
		super(message);
	}
}

async function get<T>(path: string, params: Record<string, string | undefined>, signal: AbortSignal): Promise<T> {
	const query = new URLSearchParams();
	for (const [name, value] of Object.entries(params)) if (value !== undefined) query.set(name, value);
	const text = query.toString();
	let response: Response;
	try {
		response = await fetch(`api/v1/${path}${text ? `?${text}` : ""}`, { signal, cache: "no-store" });
	} catch (error) {
		if (signal.aborted) throw error;
		throw new ApiError(0, "The collector does not answer");
	}
	if (!response.ok) {
		const body = (await response.json().catch(() => null)) as { error?: unknown } | null;
		throw new ApiError(response.status, typeof body?.error === "string" ? body.error : `The collector answered with status ${response.status}`);
	}
	return (await response.json()) as T;
}

/** What names the selection in the API; "" means all, except for a route, where it means work outside requests. */
export function scope(sel: Selection): Record<string, string | undefined> {
	return { service: sel.service || undefined, process: sel.process || undefined, ...timeParams(sel) };
}

function routeScope(sel: Selection): Record<string, string | undefined> {
	return { ...scope(sel), service: sel.service || sel.owner || undefined, route: sel.route ?? undefined };
}

export const collector: Source = {
	live: true,
	processes: (signal) => get("processes", {}, signal),
	routes: (sel, signal) => get("routes", scope(sel), signal),
	latency: (sel, signal) => get("latency", routeScope(sel), signal),
	flame: (sel, signal) =>
		get("flame", { ...routeScope(sel), format: "lines", latency_min: sel.latency ? String(sel.latency.min) : undefined, latency_max: sel.latency ? String(sel.latency.max) : undefined }, signal),
};

export function reportSource(report: Report): Source {
	const own = <T>(table: Record<string, T>, key: string): T | null => (Object.hasOwn(table, key) ? (table[key] ?? null) : null);
	return {
		live: false,
		processes: async () => report.processes,
		routes: async (sel) => ({ ...report.routes, routes: report.routes.routes.filter((route: Route) => sel.service === "" || route.service === sel.service) }),
		latency: async (sel) => own(report.latency, sel.route ?? ""),
		flame: async (sel) => own(report.flames, sel.route ?? ""),
	};
}
