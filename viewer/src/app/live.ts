// SPDX-License-Identifier: MIT
// The stream of ticks. EventSource gives up for good on an HTTP error and says nothing of a stream that went silent:
// we reconnect ourselves, and call five seconds without a tick a dead stream.

import { tickOf, type Tick } from "../model/api.js";

export interface LiveHandlers {
	open(): void;
	tick(tick: Tick): void;
	/** `retry`: seconds until the next try, 0 while trying. */
	down(retry: number): void;
}

const SILENCE_MS = 5000;
const WAITS_S = [1, 2, 3, 5];

export function createLive(url: () => string, handlers: LiveHandlers) {
	let stream: EventSource | null = null;
	let watch = 0;
	let timer = 0;
	let tries = 0;

	const stop = (): void => {
		stream?.close();
		stream = null;
		clearTimeout(watch);
		clearInterval(timer);
	};
	const fail = (): void => {
		stop();
		let left = WAITS_S[Math.min(tries++, WAITS_S.length - 1)]!;
		handlers.down(left);
		timer = window.setInterval(() => {
			left--;
			if (left > 0) return handlers.down(left);
			handlers.down(0);
			start();
		}, 1000);
	};
	const guard = (): void => {
		clearTimeout(watch);
		watch = window.setTimeout(fail, SILENCE_MS);
	};
	const start = (): void => {
		stop();
		stream = new EventSource(url());
		guard();
		stream.addEventListener("open", () => handlers.open());
		stream.addEventListener("error", fail);
		stream.addEventListener("tick", (event) => {
			let tick: Tick;
			try {
				tick = tickOf(JSON.parse((event as MessageEvent<string>).data));
			} catch {
				return; // half a tick: the silence guard decides
			}
			tries = 0;
			guard();
			handlers.tick(tick);
		});
	};
	return { start, stop };
}
