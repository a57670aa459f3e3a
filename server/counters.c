/* SPDX-License-Identifier: MIT
 *
 * The collector's counters; see counters.h.
 */
#include "server/counters.h"

struct counters counters;
