// SPDX-License-Identifier: MIT
// The offline report from disk: one file, no request.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { BUILT, fillReport, report } from "../dev/fixture.mjs";
import { colours, launch, open, shot } from "./browser.mjs";

let browser;
let folder;
const template = readFileSync(join(BUILT, "report.html"), "utf8");

before(async () => {
	browser = await launch();
	folder = mkdtempSync(join(tmpdir(), "sonde-report-"));
});
after(async () => {
	await browser?.close();
	rmSync(folder, { recursive: true, force: true });
});

async function fromDisk(html, work) {
	const file = join(folder, "report.html");
	writeFileSync(file, html);
	const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
	const requests = [];
	context.on("request", (request) => !request.url().startsWith("data:") && requests.push(request.url()));
	await context.close();
	const opened = await open(browser, pathToFileURL(file).href);
	opened.page.on("request", (request) => requests.push(request.url()));
	try {
		await opened.page.reload();
		await work(opened.page);
		assert.deepEqual(requests, [pathToFileURL(file).href], "asks for nothing but itself");
		assert.deepEqual(opened.errors, []);
	} finally {
		await opened.context.close();
	}
}

test("template_has_the_place_for_its_data_once", () => {
	assert.equal(template.split('<script type="application/json" id="sonde-data">null</script>').length, 2);
	assert.doesNotMatch(template, /(src|href)="(?!data:)/);
});

test("template_alone_says_that_it_is_one", () => fromDisk(template, (page) => page.waitForSelector("text=This is a template without data")));

test("report_opens_from_disk_without_a_request", () =>
	fromDisk(fillReport(template, report()), async (page) => {
		await page.waitForFunction(() => Number(document.querySelector(".flame-scroll canvas")?.dataset.boxes) > 3);
		assert.equal(await page.locator("table.routes:not(.functions) tbody tr").count(), 9);
		assert.ok((await colours(page, "#histogram")) > 3);
		assert.ok((await colours(page, ".flame-scroll canvas")) > 5);
		assert.match(await page.textContent("#made"), /report of .* sonde 0\.1\.0/);
		assert.match(await page.textContent("#losses"), /2 lost windows/);
		assert.ok(await page.locator("#pause").isHidden());
		await page.locator("button.route", { hasText: "GET /lock" }).click();
		await page.waitForFunction(() => /waiting for a lock/.test(document.querySelector("#sentence").textContent));
		assert.match(await page.textContent(".hint"), /report/);
		const box = await page.locator("#histogram").boundingBox();
		await page.mouse.move(box.x + 200, box.y + 60);
		await page.mouse.down();
		await page.mouse.move(box.x + 400, box.y + 60, { steps: 3 });
		await page.mouse.up();
		assert.ok(await page.locator("#range").isHidden(), "a report has no range to choose");
		await page.locator("button.route", { hasText: "(no request)" }).click();
		await page.waitForFunction(() => /^Outside any request/.test(document.querySelector("#sentence").textContent));
		await page.fill("#search", "sweep");
		await page.waitForFunction(() => /matched/.test(document.querySelector("#match").textContent));
		await shot(page, "report");
	}));

test("report_with_markup_in_its_names_stays_text", () =>
	fromDisk(fillReport(template, report()), async (page) => {
		await page.locator("button.route", { hasText: "<img src=x" }).click();
		await page.waitForFunction(() => document.title.startsWith("<img"));
		assert.equal(await page.evaluate(() => document.querySelectorAll("img").length + (window.hacked ?? 0)), 0);
	}));

test("damaged_report_says_so", () => fromDisk(template.replace(">null</script>", () => '>{"report": 1,</script>'), (page) => page.waitForSelector("text=This report is damaged")));
