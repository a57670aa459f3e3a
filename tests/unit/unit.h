/* SPDX-License-Identifier: MIT
 *
 * Included by every unit test: cmocka with the headers it needs first, and its output set to TAP by tests/run.
 */
#ifndef TESTS_UNIT_H
#define TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka after what it needs */
#include <cmocka.h>

#define RUN(tests) cmocka_run_group_tests_name(__FILE__, tests, NULL, NULL)

#endif
