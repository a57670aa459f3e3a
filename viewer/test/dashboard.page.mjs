// SPDX-License-Identifier: MIT
// The live page in a real Chromium, against the fixture.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { startFixture, shop } from "../dev/fixture.mjs";
import { colours, launch, open, shot } from "./browser.mjs";

let browser;
let fixture;

before(async () => {
	browser = await launch();
	fixture = await startFixture();
});
after(async () => {
	await browser?.close();
	await fixture?.close();
});

const plain = (text) => text.replace(/\u202f/g, " ");
const GRAPH = ".flame-scroll canvas";
const graphDrawn = (page) => page.waitForFunction(() => Number(document.querySelector(".flame-scroll canvas")?.dataset.boxes) > 3);
const asked = (path, from = 0) => fixture.asked.slice(from).filter((url) => url.startsWith(`/api/v1/${path}?`)).map((url) => new URLSearchParams(url.split("?")[1]));
const until = async (what, check, say = async () => "", ms = 15000) => {
	const end = Date.now() + ms;
	while (!(await check())) {
		if (Date.now() > end) assert.fail(`${what}: not within ${ms} ms ${await say()}`);
		await new Promise((done) => setTimeout(done, 50));
	}
};
const row = (page, name) => page.locator("table.routes:not(.functions) tbody tr", { has: page.locator("button.route", { hasText: new RegExp(`^${name.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")}$`) }) });
const choose = async (page, name) => {
	await row(page, name).locator("button.route").click();
	await page.waitForFunction((n) => document.title.startsWith(n) && !document.querySelector(".flame.stale") && document.querySelector(".flame-box .message").hidden && !document.querySelector("#flame").hidden, name);
	await graphDrawn(page);
};

/** A page for one test: closed and checked for script errors at its end. */
async function withPage(work, options = {}) {
	const { page, errors, context } = await open(browser, fixture.url + (options.hash ?? ""), options);
	try {
		await work(page, errors);
		assert.deepEqual(errors, []);
	} finally {
		await context.close();
	}
}

test("table_shows_what_the_collector_says", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await page.click("#pause");
		const cells = await row(page, "GET /fib/{n}").locator("th, td").allTextContents();
		const { route } = shop(300).find((e) => e.route.route === "GET /fib/{n}");
		const text = plain(cells.join("|"));
		assert.match(text, /^GET \/fib\/\{n\}\|/);
		assert.match(text, /1\.2\d ms/);
		assert.match(text, /8\d\.\d \/s/);
		const label = plain(await row(page, "GET /fib/{n}").locator(".bar").getAttribute("aria-label"));
		assert.match(label, /^GET \/fib\/\{n\}: CPU 1\.1\d ms 9\d %, run queue/);
		assert.ok(route.count > 1000);
		const names = await page.locator("table.routes:not(.functions) button.route").allTextContents();
		assert.equal(names.length, 9);
		assert.equal(names.at(-1), "(no request)");
		assert.match(await page.textContent("#losses"), /2 lost windows, 20 drops: ring full 17/);
		assert.ok(await page.locator("#losses.warn").count());
		assert.match(plain(await page.textContent("#overhead")), /agents 0\.71 % of a core/);
	}));

test("table_is_sorted_by_time_lost_and_by_any_column", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		const first = async () => (await page.locator("table.routes:not(.functions) button.route").allTextContents())[0];
		assert.equal(await page.getAttribute('th[data-column="total"]', "aria-sort"), "descending");
		assert.match(await first(), /GET \/(report|orders)/);
		await page.click('th[data-column="rate"] button');
		await until("sorted by rate", async () => (await first()) === "GET /fast");
		await page.click('th[data-column="rate"] button');
		await until("turned round", async () => (await first()) !== "GET /fast");
		assert.match(page.url(), /sort=rate/);
		await page.fill("#filter", "lock|fib");
		await until("filtered", async () => (await page.locator("table.routes:not(.functions) button.route").count()) === 3);
		await page.fill("#filter", "nothing like it");
		await page.waitForSelector("text=No route matches");
	}));

test("bar_tells_each_state_on_hover_and_focus", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await row(page, "GET /lock").locator(".part.s-lock").hover();
		const tip = plain(await page.textContent(".tooltip"));
		for (const word of ["GET /lock", "queue", "CPU", "run queue", "IO", "lock", "sleep", "loop", "other", "per request"]) assert.ok(tip.includes(word), word);
		assert.match(plain(await page.textContent(".tooltip tr.strong")), /lock1\d\.\d ms9\d %/);
		await page.mouse.move(5, 5);
		await page.waitForSelector(".tooltip", { state: "hidden" });
		await row(page, "GET /lock").locator("button.route").focus();
		await page.keyboard.press("Tab");
		await page.waitForSelector(".tooltip", { state: "visible" });
	}));

test("click_on_a_route_draws_its_histogram_graph_and_sentence", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await choose(page, "GET /lock");
		await until("histogram", async () => (await colours(page, "#histogram")) > 3);
		assert.ok((await colours(page, GRAPH)) > 5);
		await until("sentence", async () => /^GET \/lock takes 1\d\.\d ms on average: 9\d % waiting for a lock, \d(\.\d)? % CPU/.test(plain(await page.textContent("#sentence"))));
		assert.ok(asked("latency").some((q) => q.get("route") === "GET /lock"));
		assert.ok(asked("flame").some((q) => q.get("route") === "GET /lock" && q.get("from") === "-5m" && !q.has("latency_min")));
		assert.equal(await row(page, "GET /lock").getAttribute("aria-current"), "true");
	}));

test("background_is_a_row_of_its_own", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await page.locator("button.route", { hasText: "(no request)" }).click();
		await until("asked for it", () => asked("flame").some((q) => q.get("route") === ""));
		await graphDrawn(page);
		await until("sentence", async () => /^Outside any request 8\.20 s were spent: 70 % CPU/.test(plain(await page.textContent("#sentence"))));
		assert.match(await page.textContent(".histogram .message"), /no latency/);
		assert.match(page.url(), /route=(&|$)/);
	}));

test("states_switch_on_and_off", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await choose(page, "GET /lock");
		const facts = async () => plain(await page.textContent("#facts"));
		const all = parseFloat(await facts());
		await page.click('.chip[data-state="lock"]');
		await until("less time", async () => parseFloat(await facts()) < all / 5 || /µs/.test(await facts()));
		assert.equal(await page.getAttribute('.chip[data-state="lock"]', "aria-pressed"), "false");
		assert.match(decodeURIComponent(page.url()), /states=queue,cpu,runq,io,sleep,loop,other/);
		await page.click("#all-states");
		await until("all again", async () => Math.abs(parseFloat(await facts()) - all) < all / 4, async () => `(${all} before; ${await facts()}; ${page.url()})`);
		await page.click('.chip[data-state="cpu"]', { modifiers: ["Shift"] });
		assert.match(decodeURIComponent(page.url()), /states=cpu(&|$)/);
		await page.click('.chip[data-state="cpu"]');
		await page.waitForSelector("text=All states are off");
	}));

test("states_clicked_faster_than_drawn_are_all_kept", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await page.evaluate(() => ["lock", "io", "cpu"].forEach((state) => document.querySelector(`.chip[data-state="${state}"]`).click()));
		assert.match(decodeURIComponent(page.url()), /states=queue,runq,sleep,loop,other(&|$)/);
	}));

test("states_all_off_stay_off_when_the_graph_changes", () =>
	withPage(async (page, errors) => {
		await graphDrawn(page);
		await page.evaluate(() => document.querySelectorAll(".chip").forEach((chip) => chip.click()));
		await page.waitForSelector("text=All states are off");
		await row(page, "GET /fib/{n}").locator("button.route").click();
		await page.waitForFunction(() => document.title.startsWith("GET /fib"));
		await page.waitForSelector("text=All states are off");
		await page.click("#all-states");
		await graphDrawn(page);
		assert.deepEqual(errors, []);
	}));

test("marks_are_a_line_of_text", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		assert.ok(await page.locator("#marks").isHidden());
		const time = new Date(2026, 0, 2, 3, 4, 5).getTime() / 1000;
		fixture.marks = ["<b>deploy</b>", "b", "c", "d"].map((name, i) => ({ time: time - i, service: "shop", process: "a1b2c3d4e5f60718", name }));
		try {
			await page.waitForSelector("#marks", { state: "visible" });
			assert.equal(await page.textContent("#marks"), "⚑ 03:04:05 shop: <b>deploy</b>   ⚑ 03:04:04 shop: b   ⚑ 03:04:03 shop: c   … 1 more");
			assert.match(await page.getAttribute("#marks", "title"), /2026-01-02 03:04:02 shop: d$/);
		} finally {
			fixture.marks = [];
		}
		await page.waitForSelector("#marks", { state: "hidden" });
	}));

test("brush_asks_for_exactly_those_requests_and_esc_clears_it", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await choose(page, "GET /lock");
		await until("histogram", async () => (await colours(page, "#histogram")) > 3);
		const box = await page.locator("#histogram").boundingBox();
		const mark = fixture.asked.length;
		await page.mouse.move(box.x + box.width * 0.55, box.y + 60);
		await page.mouse.down();
		await page.mouse.move(box.x + box.width * 0.7, box.y + 70, { steps: 4 });
		await page.mouse.move(box.x + box.width * 0.8, box.y + 70, { steps: 4 });
		assert.equal(asked("flame", mark).filter((q) => q.has("latency_min")).length, 0, "asked before the drag ended");
		await page.mouse.up();
		await until("asked with a range", () => asked("flame", mark).some((q) => q.has("latency_min")));
		const [query] = asked("flame", mark).filter((q) => q.has("latency_min"));
		const [min, max] = [Number(query.get("latency_min")), Number(query.get("latency_max"))];
		assert.ok(min > 1e6 && max > min, `${min}-${max}`);
		for (const edge of [min - 1, max]) assert.ok(Math.abs(Math.log2(edge) * 2 - Math.round(Math.log2(edge) * 2)) < 1e-4, `${edge} is on no half octave`);
		await page.waitForFunction(() => /latency=\d+-\d+/.test(location.hash));
		await until("sentence", async () => /^GET \/lock requests of /.test(await page.textContent("#sentence")));
		const chip = plain(await page.textContent("#range"));
		assert.match(chip, / – .* · [\d ]+ requests?/);
		await page.keyboard.press("Escape");
		await page.waitForSelector("#range", { state: "hidden" });
		await page.waitForFunction(() => !/latency=/.test(location.hash));
		await page.goBack();
		await page.waitForSelector("#range", { state: "visible" });
		await page.click("#range");
		await page.waitForSelector("#range", { state: "hidden" });
	}));

test("brush_works_by_keyboard", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await choose(page, "GET /lock");
		await page.focus("#histogram");
		await page.keyboard.press("ArrowLeft");
		await page.waitForSelector("#range", { state: "visible" });
		const one = /latency=(\d+)-(\d+)/.exec(page.url());
		await page.keyboard.press("ArrowLeft");
		await until("moved", () => Number(/latency=(\d+)-/.exec(page.url())[1]) < Number(one[1]));
		await page.keyboard.press("Shift+ArrowRight");
		await until("widened", () => Number(/latency=\d+-(\d+)/.exec(page.url())[1]) >= Number(one[2]));
	}));

test("search_shows_the_matched_share_and_invalid_expressions", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await choose(page, "GET /lock");
		await page.keyboard.press("/");
		await page.keyboard.type("pthread_mutex");
		await until("share", async () => /^9\d % matched$/.test(plain(await page.textContent("#match"))));
		await page.fill("#search", "nothing_has_this_name");
		await until("none", async () => (await page.textContent("#match")) === "no match");
		await page.fill("#search", "pthread(");
		await until("error", async () => /group/i.test(await page.textContent("#match")));
		assert.equal(await page.getAttribute("#search", "aria-invalid"), "true");
		assert.ok((await colours(page, GRAPH)) > 3, "the graph is still there");
		await page.keyboard.press("Escape");
		await until("cleared", async () => (await page.inputValue("#search")) === "");
	}));

test("zoom_by_click_keeps_ancestors_and_breadcrumb_and_esc_leaves", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await choose(page, "GET /orders/{id}");
		const box = await page.locator("#flame").boundingBox();
		await page.mouse.click(box.x + 120, box.y + 20 * 5 + 10); // shop::orders::Get::handle()
		await page.waitForFunction(() => /zoom=/.test(location.hash));
		const crumbs = await page.textContent(".crumbs");
		assert.match(crumbs, /all›main›.*Get::handle\(\)/);
		assert.match(decodeURIComponent(page.url()), /zoom=main;std::thread/);
		await page.mouse.move(box.x + 120, box.y + 20 * 5 + 10);
		await until("tooltip", async () => /of the zoom/.test(await page.textContent(".tooltip")));
		assert.match(plain(await page.textContent(".tooltip")), /of the zoom100 %/);
		await page.keyboard.press("Escape");
		await page.waitForFunction(() => !/zoom=/.test(location.hash));
		await page.goBack();
		await page.waitForFunction(() => /zoom=/.test(location.hash));
		await until("zoomed again", async () => /Get::handle/.test(await page.textContent(".crumbs")));
	}));

test("keyboard_walks_the_graph_and_says_where_it_is", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await choose(page, "GET /orders/{id}");
		await page.focus("#flame");
		const said = async () => plain(await page.textContent("#spoken"));
		await page.keyboard.press("ArrowDown");
		await until("main", async () => /^main, 1\d\.\d ms|^main, 2\d\.\d ms/.test(await said()));
		assert.match(await said(), / per request, 9\d %, mostly (IO|CPU|lock)/);
		await page.keyboard.press("ArrowRight");
		await until("sibling", async () => !/^main,/.test(await said()));
		await page.keyboard.press("ArrowLeft");
		for (let i = 0; i < 4; i++) await page.keyboard.press("ArrowDown");
		await until("deeper", async () => /Get::handle/.test(await said()));
		assert.ok(await page.locator(".tooltip").isVisible());
		await page.keyboard.press("Enter");
		await page.waitForFunction(() => /zoom=/.test(location.hash));
		await page.keyboard.press("ArrowUp");
		await until("parent", async () => /serve/.test(await said()));
		await page.keyboard.press("f");
		await until("turned over", async () => /flame/.test(await page.textContent("#direction")));
	}));

test("functions_tab_has_the_same_as_a_table", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await choose(page, "GET /fib/{n}");
		await page.click("#tab-functions");
		await page.waitForSelector("table.functions tbody tr");
		const first = plain((await page.locator("table.functions tbody tr").first().locator("td, th").allTextContents()).join("|"));
		assert.match(first, /^1\.\d\d ms\|9\d %\|1\.\d\d ms\|9\d %\|\|fib\|shop/);
		await page.locator("table.functions button", { hasText: /^Total$/ }).click();
		assert.match(await page.locator("table.functions tbody tr").first().textContent(), /main/);
		await page.locator("table.functions tbody button.route", { hasText: /^fib$/ }).click();
		await until("found in the graph", async () => (await page.inputValue("#search")) === "^fib$" && (await page.getAttribute("#tab-flame", "aria-selected")) === "true");
	}));

test("url_restores_everything_after_reload", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await choose(page, "GET /orders/{id}");
		await page.click('[data-window="15m"]');
		await page.click('.chip[data-state="queue"]');
		await page.fill("#search", "json");
		await page.click("#tab-functions");
		await page.click("#theme");
		const before = page.url();
		await page.reload();
		await page.waitForSelector("table.functions tbody tr");
		assert.equal(page.url(), before);
		assert.equal(await page.inputValue("#search"), "json");
		assert.equal(await page.getAttribute('[data-window="15m"]', "aria-pressed"), "true");
		assert.equal(await page.getAttribute('.chip[data-state="queue"]', "aria-pressed"), "false");
		assert.equal(await page.getAttribute("html", "data-theme"), "dark");
		assert.equal(await row(page, "GET /orders/{id}").getAttribute("aria-current"), "true");
		await page.goBack();
		await graphDrawn(page);
		assert.equal(await page.getAttribute("#tab-flame", "aria-selected"), "true");
	}));

test("live_ticks_change_the_table_and_pause_stops_them", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		const table = () => page.textContent("table.routes:not(.functions)");
		const one = await table();
		await until("a tick shows", async () => (await table()) !== one);
		assert.equal(await page.textContent("#connection"), "live");
		await until("details asked for again", () => asked("flame").length > 1);
		await page.click("#pause");
		await until("paused", async () => /^paused at/.test(await page.textContent("#connection")));
		await page.waitForTimeout(400);
		const mark = fixture.asked.length;
		const two = await table();
		await page.waitForTimeout(2500);
		assert.equal(await table(), two, "the table moves while paused");
		assert.deepEqual(fixture.asked.slice(mark), [], "asks while paused");
		await choose(page, "GET /lock");
		const frozen = asked("flame", mark).at(-1);
		assert.ok(Math.abs(Number(frozen.get("to")) - Number(frozen.get("from")) - 300) < 0.001, "a paused question is absolute");
		await page.click("#pause");
		await until("live again", async () => (await page.textContent("#connection")) === "live");
	}));

test("details_are_not_asked_for_more_than_every_two_seconds", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		const mark = fixture.asked.length;
		await page.waitForTimeout(5000);
		const n = asked("flame", mark).length;
		assert.ok(n >= 1 && n <= 3, `${n} times in 5 s`);
	}));

test("keyboard_keeps_its_place_when_the_data_moves_on", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await choose(page, "GET /orders/{id}");
		await page.focus("#flame");
		for (let i = 0; i < 5; i++) await page.keyboard.press("ArrowDown");
		await until("there", async () => /Get::handle/.test(await page.textContent("#spoken")));
		const mark = fixture.asked.length;
		await until("asked again", () => asked("flame", mark).length >= 2);
		await page.waitForTimeout(200);
		await page.keyboard.press("ArrowUp");
		await until("one up from there", async () => /serve\(Connection&\)/.test(await page.textContent("#spoken")));
	}));

test("another_route_never_shows_the_graph_of_the_last", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await page.route("**/api/v1/flame*", async (route) => {
			await new Promise((done) => setTimeout(done, 1200));
			await route.continue().catch(() => {});
		});
		await page.locator("button.route", { hasText: "GET /lock" }).click();
		await page.waitForFunction(() => document.querySelector(".flame-box .message").textContent === "Loading…" && document.querySelector("#flame").hidden);
		await graphDrawn(page);
		await page.waitForFunction(() => !document.querySelector("#flame").hidden);
	}));

test("names_from_strangers_stay_text", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await choose(page, "<img src=x onerror=alert(1)>");
		await page.click("summary");
		await page.waitForSelector(".popover table");
		assert.match(await page.textContent(".popover"), /<script>alert\(1\)<\/script>/);
		await page.keyboard.press("Escape");
		const box = await page.locator("#flame").boundingBox();
		for (let y = 10; y < 130; y += 20) {
			await page.mouse.move(box.x + 60, box.y + y);
			await page.waitForTimeout(30);
		}
		await page.click("#tab-functions");
		await page.waitForSelector("table.functions tbody tr");
		assert.match(await page.textContent("table.functions"), /<script>window\.hacked = 1<\/script>/);
		assert.match(await page.textContent("#sentence"), /^<img src=x/);
		assert.equal(await page.evaluate(() => window.hacked), undefined);
		assert.equal(await page.evaluate(() => document.querySelectorAll("img, svg, script:not(:last-of-type), b").length), 0);
	}));

test("services_and_processes_narrow_the_question", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await page.selectOption("header select", "mailer");
		await until("asked for the service", () => asked("routes").some((q) => q.get("service") === "mailer"));
		await page.selectOption("header select", "shop");
		await graphDrawn(page);
		await page.click("summary");
		await page.locator(".popover button", { hasText: "only this" }).first().click();
		await until("asked for the process", () => asked("flame").some((q) => q.get("process") === "a1b2c3d4e5f60718"));
		assert.match(page.url(), /process=a1b2c3d4e5f60718/);
	}));

test("empty_page_says_how_to_start", async () => {
	fixture.mode = "empty";
	try {
		await withPage(async (page) => {
			await page.waitForSelector("text=No process reports yet");
			assert.equal(await page.textContent(".command code"), "sonde run -- ./server");
			await shot(page, "empty");
			fixture.mode = "normal";
			await graphDrawn(page);
		});
	} finally {
		fixture.mode = "normal";
	}
});

test("refusals_show_what_the_collector_says", async () => {
	fixture.mode = "broken";
	try {
		await withPage(async (page) => {
			await page.waitForSelector("text=the store cannot be read: disk I/O error");
		});
	} finally {
		fixture.mode = "normal";
	}
});

test("collector_that_dies_is_said_and_come_back_to", async () => {
	const mortal = await startFixture();
	const { page, errors, context } = await open(browser, mortal.url);
	await graphDrawn(page);
	await until("live", async () => (await page.textContent("#connection")) === "live");
	await mortal.close();
	await until("said in the header", async () => /not answering – (retrying in \d s|trying again)/.test(await page.textContent("#connection")));
	assert.match(await page.textContent(".banner"), /The collector is not answering – .*sonde serve/);
	assert.ok((await page.locator("table.routes:not(.functions) tbody tr").count()) > 3, "the last data stays");
	await shot(page, "down");
	const again = await startFixture({ port: mortal.port });
	await until("live again", async () => (await page.textContent("#connection")) === "live");
	await page.waitForSelector(".banner", { state: "hidden" });
	await context.close();
	await again.close();
	assert.deepEqual(errors, []);
});

test("light_and_dark_and_small_look_as_they_should", async () => {
	const lightness = (page, selector) => page.$eval(selector, (e) => getComputedStyle(e).backgroundColor.match(/\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 3);
	for (const [name, width, height, colorScheme] of [["light", 1440, 900, "light"], ["dark", 1440, 900, "dark"], ["small-light", 900, 700, "light"], ["small-dark", 900, 700, "dark"]]) {
		await withPage(
			async (page) => {
				await graphDrawn(page);
				await choose(page, "GET /orders/{id}");
				await until("live", async () => (await page.textContent("#connection")) === "live");
				await page.waitForTimeout(300);
				const level = await lightness(page, ".panel");
				assert.ok(colorScheme === "dark" ? level < 60 : level > 200, `${name}: ${level}`);
				const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
				assert.ok(overflow <= 0, `${name} is ${overflow} px too wide`);
				const cut = await page.$eval(".routes-panel .scroll", (e) => e.scrollWidth - e.clientWidth);
				assert.ok(cut <= 0, `${name}: the table is ${cut} px too wide`);
				await shot(page, name);
			},
			{ viewport: { width, height }, colorScheme },
		);
	}
});

test("motion_stops_when_asked_to", () =>
	withPage(
		async (page) => {
			await graphDrawn(page);
			assert.equal(await page.$eval(".dot", (e) => getComputedStyle(e).animationName), "none");
		},
		{ reducedMotion: "reduce" },
	));

test("help_lists_the_keys", () =>
	withPage(async (page) => {
		await graphDrawn(page);
		await page.keyboard.press("?");
		await page.waitForSelector("dialog[open]");
		await shot(page, "help");
		await page.keyboard.press("Escape");
		await page.waitForSelector("dialog[open]", { state: "detached" });
	}));
