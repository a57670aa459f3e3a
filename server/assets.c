/* SPDX-License-Identifier: MIT
 *
 * Embeds the viewer's two files. Paths are relative to the top of the tree, where the Makefile compiles.
 */
#include "server/assets.h"

/* clang-format off */
#define EMBED(name, path)                                                                          \
	__asm__(".pushsection .rodata\n"                                                           \
		".global " #name "\n.type " #name ", @object\n" #name ":\n"                        \
		".incbin \"" path "\"\n"                                                           \
		"1: .byte 0\n"                                                                     \
		".size " #name ", . - " #name "\n"                                                 \
		".balign 8\n"                                                                      \
		".global " #name "_bytes\n.type " #name "_bytes, @object\n" #name "_bytes:\n"      \
		".quad 1b - " #name "\n"                                                           \
		".size " #name "_bytes, 8\n"                                                       \
		".popsection")
/* clang-format on */

EMBED(assets_dashboard_html, "build/viewer/dashboard.html");
EMBED(assets_report_html, "build/viewer/report.html");
