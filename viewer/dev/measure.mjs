// SPDX-License-Identifier: MIT
// How fast the page is on a large tree: `node dev/measure.mjs [NODES]`. Main-thread milliseconds from the page's own
// clock, so that a busy machine shows as noise, not as our cost; each figure is the median of several.

import { performance } from "node:perf_hooks";
import { bigTree, startFixture } from "./fixture.mjs";
import { launch } from "../test/browser.mjs";

const nodes = Number(process.argv[2] ?? 1e6);
const fixture = await startFixture({ mode: "big" });
fixture.big = bigTree(nodes);
const browser = await launch();
const page = await (await browser.newContext({ viewport: { width: 1440, height: 900 } })).newPage();
await page.addInitScript(() => {
	window.__frames = [];
	const ask = window.requestAnimationFrame.bind(window);
	window.requestAnimationFrame = (work) =>
		ask((time) => {
			const began = performance.now();
			work(time);
			window.__frames.push(performance.now() - began);
		});
});
const began = performance.now();
await page.goto(`${fixture.url}#route=GET+%2Flock&at=${Math.round(Date.now() / 1000)}`);
await page.waitForFunction(() => Number(document.querySelector(".flame-scroll canvas")?.dataset.boxes) > 3, null, { timeout: 60000 });
console.log(`${nodes} nodes, ${(JSON.stringify(fixture.big).length / 1e6).toFixed(1)} MB of JSON`);
console.log(`load to graph drawn    ${(performance.now() - began).toFixed(0)} ms wall; longest frame ${Math.max(...(await page.evaluate(() => window.__frames))).toFixed(0)} ms`);
const box = await page.locator("#flame").boundingBox();
const frames = async (name, times, act) => {
	const all = [];
	for (let i = 0; i < times; i++) {
		await page.evaluate(() => (window.__frames = []));
		await act(i);
		await page.waitForTimeout(60);
		all.push((await page.evaluate(() => window.__frames)).reduce((a, b) => a + b, 0));
	}
	all.sort((a, b) => a - b);
	console.log(`${name.padEnd(22)} ${all[all.length >> 1].toFixed(1)} ms median, ${all[all.length - 1].toFixed(1)} ms worst of ${times}`);
};
await frames("hover", 30, (i) => page.mouse.move(box.x + 20 + i * 40, box.y + 50 + (i % 8) * 20));
await frames("zoom in or out", 12, async (i) => (i % 2 ? page.keyboard.press("Escape") : page.mouse.click(box.x + 100 + i * 60, box.y + 70)));
await frames("states toggle", 6, () => page.click('.chip[data-state="io"]'));
await frames("search", 8, (i) => page.fill("#search", ["method_1", "Class10", "ns9", "int", "x", "method_.*7", "char", ""][i]));
console.log(`painted ${await page.getAttribute(".flame-scroll canvas", "data-boxes")} boxes, ${await page.getAttribute(".flame-scroll canvas", "data-names")} names, in ${await page.getAttribute(".flame-scroll canvas", "data-ms")} ms`);
console.log(`heap ${((await page.evaluate(() => performance.memory.usedJSHeapSize)) / 1e6).toFixed(0)} MB (JavaScript)`);
await browser.close();
await fixture.close();
