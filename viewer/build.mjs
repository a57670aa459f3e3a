// SPDX-License-Identifier: MIT
// Builds the page: `node build.mjs --out DIR` checks the types and writes dashboard.html and report.html, each one file
// that asks the network for nothing but the API. A type error fails the build.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));

/** Where the collector puts the data of a report. */
export const DATA = '<script type="application/json" id="sonde-data">null</script>';

const bundle = async (entry, options = {}) => {
	const result = await build({
		absWorkingDir: here,
		entryPoints: [entry],
		bundle: true,
		write: false,
		target: "es2022",
		legalComments: "none",
		logLevel: "warning",
		...options,
	});
	return result.outputFiles[0].text;
};

const hash = (text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

/** The custom properties of the states, from the same table that the canvases use. */
async function colours() {
	const code = await bundle("src/draw/palette.ts", { format: "esm" });
	const { STATE_COLOURS } = await import(`data:text/javascript;base64,${Buffer.from(code).toString("base64")}`);
	const block = (mode) => Object.entries(STATE_COLOURS[mode]).map(([state, hex]) => `--${state}:${hex};`).join("");
	return `:root{${block("light")}}:root[data-theme="dark"]{${block("dark")}}`;
}

/** One page; its security policy lets only its own script and style in, by their hashes. */
async function page(entry, style, connect, data) {
	const script = (await bundle(entry, { minify: true, format: "iife" })).trimEnd();
	const policy = `default-src 'none'; script-src ${hash(script)}; style-src ${hash(style)}; img-src data:; connect-src ${connect}; base-uri 'none'; form-action 'none'`;
	const parts = { CSP: policy, STYLE: style, DATA: data ? `${data}\n` : "", SCRIPT: script };
	const html = readFileSync(join(here, "src/page.html"), "utf8").replace(/@(CSP|STYLE|DATA|SCRIPT)@/g, (_, name) => parts[name]);
	if (data && html.split(data).length !== 2) throw new Error("the place for the report's data must be there exactly once");
	return html;
}

/** Both pages as text, by file name. */
export async function pages() {
	const css = await bundle("src/page.css", { minify: true, loader: { ".css": "css" } });
	const style = (await colours()) + css.trimEnd();
	return {
		"dashboard.html": await page("src/app/dashboard.ts", style, "'self'", ""),
		"report.html": await page("src/app/report.ts", style, "'none'", DATA),
	};
}

async function main() {
	const at = process.argv.indexOf("--out");
	if (at < 0 || !process.argv[at + 1]) {
		console.error("usage: node build.mjs --out DIR");
		process.exit(2);
	}
	const out = resolve(process.argv[at + 1]);
	const check = spawnSync(process.execPath, [join(here, "node_modules/typescript/bin/tsc"), "--noEmit", "-p", here], { stdio: "inherit" });
	if (check.status !== 0) {
		console.error("build.mjs: the types do not fit (or tsc is missing: run `npm ci` in viewer/)");
		process.exit(1);
	}
	mkdirSync(out, { recursive: true });
	for (const [name, html] of Object.entries(await pages())) {
		// Whole or not at all: another process may be reading.
		writeFileSync(join(out, `.${name}.new`), html);
		renameSync(join(out, `.${name}.new`), join(out, name));
	}
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) await main();
