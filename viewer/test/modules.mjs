// SPDX-License-Identifier: MIT
// The pure modules as the page has them: bundled on the fly, so that the tests need no build step of their own.

import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const FILES = ["model/api", "model/units", "model/selection", "model/flame", "model/search", "model/functions", "model/hist", "model/explain", "model/table", "draw/palette", "draw/layout", "draw/text"];

const result = await build({
	absWorkingDir: root,
	stdin: { contents: FILES.map((file) => `export * from "./src/${file}.ts";`).join("\n"), resolveDir: root },
	bundle: true,
	write: false,
	format: "esm",
});
export const modules = await import(`data:text/javascript;base64,${Buffer.from(result.outputFiles[0].text).toString("base64")}`);
