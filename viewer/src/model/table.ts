// SPDX-License-Identifier: MIT
// Order and filter of the routes table.

import type { Route } from "./api.js";
import { compile } from "./search.js";

export const COLUMNS = ["route", "mean", "p50", "p90", "p99", "max", "rate", "errors", "in_flight", "total"] as const;
export type Column = (typeof COLUMNS)[number];

/** All time that requests of this route took: what its users waited for in sum. */
export function totalTime(route: Route): number {
	return route.latency.mean * route.count;
}

export function errorShare(route: Route): number {
	return route.count ? route.errors / route.count : 0;
}

function key(route: Route, column: Column): number | string {
	switch (column) {
		case "route":
			return route.route;
		case "rate":
			return route.rate;
		case "errors":
			return route.errors;
		case "in_flight":
			return route.in_flight;
		case "total":
			return totalTime(route);
		default:
			return route.latency[column];
	}
}

/** "-total" is largest first. An unknown column sorts as "-total". */
export function parseSort(text: string): { column: Column; descending: boolean } {
	const descending = text.startsWith("-");
	const column = COLUMNS.find((one) => one === text.replace(/^-/, ""));
	return column ? { column, descending } : { column: "total", descending: true };
}

export function sortRoutes(routes: readonly Route[], sort: string): Route[] {
	const { column, descending } = parseSort(sort);
	const sign = descending ? -1 : 1;
	return [...routes].sort((a, b) => {
		const x = key(a, column);
		const y = key(b, column);
		const order = typeof x === "string" ? x.localeCompare(y as string, "en") : x - (y as number);
		return sign * order || a.route.localeCompare(b.route, "en") || a.service.localeCompare(b.service, "en");
	});
}

/** Clicking a heading: numbers start with the largest, names with A; a second click turns it round. */
export function nextSort(sort: string, column: Column): string {
	const now = parseSort(sort);
	if (now.column !== column) return column === "route" ? column : `-${column}`;
	return now.descending ? column : `-${column}`;
}

/** Routes that match an expression; an expression that is none counts as plain text. */
export function filterRoutes(routes: readonly Route[], text: string): readonly Route[] {
	if (text === "") return routes;
	const expression = compile(text);
	const plain = text.toLowerCase();
	const hit = (name: string) => (typeof expression === "string" ? name.toLowerCase().includes(plain) : expression.test(name));
	return routes.filter((route) => hit(route.route) || hit(route.service));
}
