// SPDX-License-Identifier: MIT
// Entry point of the live page.

import { startPage } from "./shell.js";
import { collector } from "./source.js";

startPage(document.getElementById("app") as HTMLElement, collector, null);
