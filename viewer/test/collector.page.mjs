// SPDX-License-Identifier: MIT
// The page as the real collector serves it, with data of a pretended agent (tests/e2e/agentsim.py) and the real report.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { colours, launch, open, shot } from "./browser.mjs";

const top = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const sonde = resolve(top, process.env.B ?? "build/release", "sonde");
// By hand, without a collector built, there is nothing to test; under tests/run its absence is a failure.
const skip = !process.env.B && !existsSync(sonde) ? "build/release/sonde is not built" : false;

const children = [];
let browser;
let folder;
let url;

async function freePort() {
	const server = createServer();
	await new Promise((done) => server.listen(0, "127.0.0.1", done));
	const { port } = server.address();
	await new Promise((done) => server.close(done));
	return port;
}

function run(command, args) {
	const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], cwd: folder });
	child.said = "";
	for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (child.said += data));
	children.push(child);
	return child;
}

before(async () => {
	if (skip) return;
	folder = mkdtempSync(join(tmpdir(), "sonde-page-"));
	const [http, tcp] = [await freePort(), await freePort()];
	url = `http://127.0.0.1:${http}/`;
	const server = run(sonde, ["serve", "--http", `127.0.0.1:${http}`, "--listen", `tcp:127.0.0.1:${tcp}`, "--data", join(folder, "data")]);
	for (let i = 0; ; i++) {
		if (await fetch(`${url}api/v1/processes`).then((answer) => answer.ok, () => false)) break;
		assert.ok(i < 100 && server.exitCode === null, `sonde serve does not answer: ${server.said}`);
		await new Promise((done) => setTimeout(done, 50));
	}
	run("/usr/bin/python3", [join(top, "tests/e2e/agentsim.py"), `tcp:127.0.0.1:${tcp}`, "--seconds", "60", "--live"]);
	browser = await launch();
});
after(async () => {
	await browser?.close();
	for (const child of children) {
		child.kill("SIGTERM");
		await new Promise((done) => (child.exitCode === null && child.signalCode === null ? child.once("exit", done) : done()));
	}
	if (folder) rmSync(folder, { recursive: true, force: true });
});

test("collector_page_shows_what_its_api_says", { skip }, async () => {
	const { page, errors, context } = await open(browser, url);
	await page.waitForFunction(() => Number(document.querySelector(".flame-scroll canvas")?.dataset.boxes) > 3, null, { timeout: 15000 });
	const routes = await (await fetch(`${url}api/v1/routes`)).json();
	const names = await page.locator("table.routes:not(.functions) button.route").allTextContents();
	for (const { route } of routes.routes) assert.ok(names.includes(route), `${route} is not in the table: ${names}`);
	await page.waitForFunction(() => document.querySelector("#connection").textContent === "live");
	assert.ok((await colours(page, ".flame-scroll canvas")) > 5);
	for (const { route } of routes.routes.slice(0, 4)) {
		await page.locator("button.route", { hasText: route }).first().click();
		await page.waitForFunction((name) => document.querySelector("#sentence").textContent.startsWith(`${name} takes `), route);
		assert.ok((await colours(page, "#histogram")) > 3, route);
	}
	const before = await page.textContent("table.routes:not(.functions)");
	await page.waitForFunction((text) => document.querySelector("table.routes:not(.functions)").textContent !== text, before);
	await shot(page, "collector");
	assert.deepEqual(errors, []);
	await context.close();
});

test("collector_takes_every_question_of_the_page", { skip }, async () => {
	const { page, errors, context } = await open(browser, url);
	const refused = [];
	page.on("response", (response) => response.status() >= 400 && refused.push(`${response.status()} ${response.url()}`));
	await page.waitForFunction(() => Number(document.querySelector(".flame-scroll canvas")?.dataset.boxes) > 3, null, { timeout: 15000 });
	for (const window of ["1m", "1h", "all", "5m"]) {
		await page.click(`[data-window="${window}"]`);
		await page.waitForTimeout(150);
	}
	await page.focus("#histogram");
	await page.keyboard.press("ArrowLeft");
	await page.waitForSelector("#range", { state: "visible" });
	await page.waitForFunction(() => / requests of | no measured time /.test(document.querySelector("#sentence").textContent));
	await page.keyboard.press("Escape");
	await page.click("#pause");
	await page.click('[data-window="15m"]');
	await page.waitForTimeout(300);
	assert.equal(await page.locator(".banner").isVisible(), false, await page.textContent(".banner"));
	assert.deepEqual(refused, []);
	assert.deepEqual(errors, []);
	await context.close();
});

test("collector_fills_the_report_and_it_opens_from_disk", { skip }, async () => {
	const file = join(folder, "report.html");
	const exported = spawnSync(sonde, ["export", "--format", "html", "--http", new URL(url).host, "-o", file], { encoding: "utf8", timeout: 20000 });
	assert.equal(exported.status, 0, exported.stderr);
	assert.doesNotMatch(readFileSync(file, "utf8"), /id="sonde-data">null</);
	const { page, errors, context } = await open(browser, pathToFileURL(file).href);
	const requests = [];
	page.on("request", (request) => requests.push(request.url()));
	await page.reload();
	await page.waitForFunction(() => Number(document.querySelector(".flame-scroll canvas")?.dataset.boxes) > 3);
	assert.ok((await page.locator("table.routes:not(.functions) tbody tr").count()) >= 2);
	assert.deepEqual(requests, [pathToFileURL(file).href]);
	await shot(page, "collector-report");
	assert.deepEqual(errors, []);
	await context.close();
});
