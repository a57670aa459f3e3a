// SPDX-License-Identifier: MIT
// Entry point of the offline report: the data stands in the page itself.

import type { Report } from "../model/api.js";
import { createNotice } from "../views/notice.js";
import { startPage } from "./shell.js";
import { reportSource } from "./source.js";

const root = document.getElementById("app") as HTMLElement;

function refuse(title: string, ...lines: string[]): void {
	const notice = createNotice();
	root.replaceChildren(notice.root);
	notice.update({ title, commands: ["sonde export --format html -o report.html"], lines });
}

let report: Report | null = null;
let broken = "";
try {
	report = JSON.parse(document.getElementById("sonde-data")?.textContent ?? "null") as Report | null;
} catch (error) {
	broken = error instanceof Error ? error.message : String(error);
}
if (broken) refuse("This report is damaged.", broken, "Make it again with the command above.");
else if (report === null) refuse("This is a template without data.", "The command above fills it: it asks a running collector and writes one file that opens anywhere.");
else if (report.report !== 1) refuse("This report is of another version.", "Make it again with the command above.");
else startPage(root, reportSource(report), report);
