/* SPDX-License-Identifier: MIT
 *
 * The page and the offline report's template, as the viewer's build made them. Terminated by 0, which the size leaves out.
 */
#ifndef SERVER_ASSETS_H
#define SERVER_ASSETS_H

#include <stddef.h>

extern const char assets_dashboard_html[];
extern const size_t assets_dashboard_html_bytes;
extern const char assets_report_html[];
extern const size_t assets_report_html_bytes;

#endif
