/* SPDX-License-Identifier: MIT
 *
 * How the agent exports a name: everything else in libsonde.so is hidden. tests/exports.expected lists them all.
 */
#ifndef AGENT_EXPORTS_H
#define AGENT_EXPORTS_H

#define EXPORT __attribute__((visibility("default")))

/* The same function under a second name of libc's. */
#define EXPORT_ALIAS(function, second)                                                             \
  extern __typeof__(function) second                                                               \
	  __attribute__((alias(#function), copy(function), visibility("default")))

#endif
