// SPDX-License-Identifier: MIT
// The states' colours stay apart for every kind of sight. ΔE76 of CIELAB, simulated by Machado, Oliveira and Fernandes
// (2009) at full severity. `node test/palette.test.mjs` prints the distances.

import assert from "node:assert/strict";
import { test } from "node:test";
import { modules } from "./modules.mjs";

const { STATE_COLOURS, STATES, BOX_TEXT, HATCHED, contrast, parse } = modules;

const SIGHT = {
	normal: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
	protan: [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
	deutan: [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
	tritan: [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
};

const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);

function lab(hex, matrix) {
	const rgb = parse(hex).map(linear);
	const [r, g, b] = matrix.map((row) => Math.min(1, Math.max(0, row[0] * rgb[0] + row[1] * rgb[1] + row[2] * rgb[2])));
	const f = (t) => (t > 216 / 24389 ? Math.cbrt(t) : ((24389 / 27) * t + 16) / 116);
	const x = f((0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047);
	const y = f(0.2126729 * r + 0.7151522 * g + 0.072175 * b);
	const z = f((0.0193339 * r + 0.119192 * g + 0.9503041 * b) / 1.08883);
	return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

/** The closest pair of states: {distance, pair, sight}. */
function closest(mode, states) {
	let best = { distance: Infinity };
	for (const [sight, matrix] of Object.entries(SIGHT)) {
		const colours = states.map((state) => lab(STATE_COLOURS[mode][state], matrix));
		for (let i = 0; i < states.length; i++)
			for (let j = 0; j < i; j++) {
				const distance = Math.hypot(...colours[i].map((v, k) => v - colours[j][k]));
				if (distance < best.distance) best = { distance, pair: `${states[j]} and ${states[i]}`, sight };
			}
	}
	return best;
}

for (const [mode, all, core] of [["light", 22, 36], ["dark", 19, 30]]) {
	test(`palette_${mode}_keeps_all_states_apart_for_every_sight`, (t) => {
		const found = closest(mode, STATES);
		t.diagnostic(`${mode}: closest are ${found.pair} (${found.sight}), ΔE ${found.distance.toFixed(1)}`);
		assert.ok(found.distance >= all, `${found.pair}: ΔE ${found.distance} for ${found.sight} sight`);
	});
	test(`palette_${mode}_keeps_cpu_io_lock_other_far_apart`, (t) => {
		const found = closest(mode, ["cpu", "io", "lock", "other"]);
		t.diagnostic(`${mode}: closest are ${found.pair} (${found.sight}), ΔE ${found.distance.toFixed(1)}`);
		assert.ok(found.distance >= core, `${found.pair}: ΔE ${found.distance} for ${found.sight} sight`);
	});
	test(`palette_${mode}_text_is_readable_on_every_state`, () => {
		for (const state of STATES) {
			const ratio = contrast(STATE_COLOURS[mode][state], BOX_TEXT);
			assert.ok(ratio >= 4, `${state}: ${ratio.toFixed(2)}`);
		}
	});
}

test("palette_hatches_lock_and_queue", () => assert.deepEqual([...HATCHED].sort(), ["lock", "queue"]));
