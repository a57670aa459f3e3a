/* SPDX-License-Identifier: MIT
 *
 * The governor: keeps what sampling costs inside SONDE_BUDGET, a share of the process's CPU time.
 *
 *	cost      = the handler, the kernel's part of each signal, the agent's time over samples and waits
 *	allowance = budget * CPU time of the process, or of one core when the process takes less: the share of a process that
 *	            hardly runs would allow nothing, while the demo server at a fifth of a core, 99 Hz and 50 looks takes 0.2 %
 *
 * Both as sums that forget: a window counts half in the next one. Over the allowance: up as many steps as it takes; under
 * three eighths of it (at twice the rate it would still fit) for BUDGET_CALM_WINDOWS: one step down. Every step halves the
 * rate of CPU samples and the rate of looks at waits. A sample weighs its period and a look the time since the one
 * before, so sums stay right and only their resolution suffers.
 *
 * What no rate changes is not in the cost: hooks run with every call, ended requests must be counted, windows sent. It is
 * measured and shown beside it, and when it alone is more than the budget, the page and `sonde doctor` say so.
 *
 * Pure. Context: agent.
 */
#ifndef AGENT_CORE_BUDGET_H
#define AGENT_CORE_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

enum {
	BUDGET_STEPS = 4, /* at most so many: a sixteenth of the rates asked for */
	BUDGET_CALM_WINDOWS = 3,
	/*
	 * What the kernel takes to interrupt a thread and to resume it, which no clock of the handler sees: measured as 1.6 us
	 * (a signal to oneself with an empty handler, less the call that sends it).
	 */
	BUDGET_SIGNAL_NS = 1600
};

struct budget {
	uint32_t permille;
	unsigned step;
	unsigned calm; /* windows in a row that would bear the next lower step */
	uint64_t cost_ns, allowance_ns;
};

struct budget_window {
	uint64_t cost_ns, process_cpu_ns, wall_ns;
};

/** A window is over. Returns whether budget->step has changed. */
bool budget_close(struct budget *budget, const struct budget_window *window);

#endif
