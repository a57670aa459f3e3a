// SPDX-License-Identifier: MIT
// One question to the collector and its newest answer. A new question cancels the old; an answer that comes late for
// another question is dropped.

export class Slot<T> {
	value: T | null = null;
	/** The question that `value` answers, "" for none. */
	answered = "";
	error: unknown = null;
	/** How long the newest answer took, ms. */
	took = 0;
	private asked = "";
	private controller: AbortController | null = null;

	constructor(private readonly changed: () => void) {}

	get busy(): boolean {
		return this.controller !== null;
	}

	/** Asks when the question is new, or again when `again`. */
	ask(key: string, fetcher: (signal: AbortSignal) => Promise<T>, again = false): void {
		if (key === this.asked && (this.controller || !again)) return;
		this.controller?.abort();
		const controller = new AbortController();
		this.controller = controller;
		this.asked = key;
		const began = performance.now();
		fetcher(controller.signal).then(
			(value) => {
				if (this.controller !== controller) return;
				this.controller = null;
				this.value = value;
				this.took = performance.now() - began;
				this.answered = key;
				this.error = null;
				this.changed();
			},
			(error: unknown) => {
				if (this.controller !== controller) return;
				this.controller = null;
				this.error = error;
				this.changed();
			},
		);
	}

	/** Whether the value is of the newest question. */
	get current(): boolean {
		return this.answered === this.asked && this.asked !== "";
	}

	forget(): void {
		this.controller?.abort();
		this.controller = null;
		this.asked = this.answered = "";
		this.value = null;
		this.error = null;
	}
}
