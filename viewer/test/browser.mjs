// SPDX-License-Identifier: MIT
// One headless Chromium per test file, and small helpers.

import { mkdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
export const SCREENS = resolve(here, "../../build/screens");

export async function launch() {
	return chromium.launch({
		executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
		args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
	});
}

/** A page that fails the test on any script error or dialog; `errors` lists what went wrong. */
export async function open(browser, url, options = {}) {
	const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
	const page = await context.newPage();
	const errors = [];
	page.on("pageerror", (error) => errors.push(`page error: ${error.message}`));
	page.on("dialog", (dialog) => {
		errors.push(`dialog: ${dialog.message()}`);
		dialog.dismiss();
	});
	page.on("console", (message) => {
		if (message.type() === "error" && !/Failed to load resource|net::ERR/.test(message.text())) errors.push(`console: ${message.text()}`);
	});
	page.setDefaultTimeout(20000);
	await page.goto(url);
	return { page, errors, context };
}

export async function shot(page, name) {
	mkdirSync(SCREENS, { recursive: true });
	await page.screenshot({ path: join(SCREENS, `${name}.png`) });
}

/** How many different colours a canvas shows: a blank one has one. */
export function colours(page, selector) {
	return page.$eval(selector, (canvas) => {
		const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
		const seen = new Set();
		const words = new Uint32Array(data.buffer);
		for (let i = 0; i < words.length; i += 7) seen.add(words[i]);
		return seen.size;
	});
}
