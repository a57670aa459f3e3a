/* SPDX-License-Identifier: MIT
 *
 * See budget.h.
 */
#include "agent/core/budget.h"

static uint64_t allowance(uint32_t permille, const struct budget_window *w)
{
	uint64_t of_ns = w->process_cpu_ns > w->wall_ns ? w->process_cpu_ns : w->wall_ns;

	return of_ns / 1000 * permille;
}

bool budget_close(struct budget *b, const struct budget_window *w)
{
	unsigned before = b->step;

	b->cost_ns = b->cost_ns / 2 + w->cost_ns;
	b->allowance_ns = b->allowance_ns / 2 + allowance(b->permille, w);
	while (b->cost_ns > b->allowance_ns && b->step < BUDGET_STEPS) {
		b->step++;
		b->cost_ns /= 2;
	}
	b->calm = b->step == before && b->cost_ns < b->allowance_ns / 8 * 3 ? b->calm + 1 : 0;
	if (b->calm >= BUDGET_CALM_WINDOWS && b->step > 0) {
		b->step--;
		b->calm = 0;
		b->cost_ns *= 2;
	}
	return b->step != before;
}
