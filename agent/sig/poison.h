/* SPDX-License-Identifier: MIT
 *
 * Included last by every file of sig/: names that must never be reached from a signal handler become compile errors.
 */
#ifndef AGENT_POISON_H
#define AGENT_POISON_H

#pragma GCC poison malloc calloc realloc free mmap munmap printf fprintf snprintf sprintf puts     \
	abort exit
#pragma GCC poison pthread_mutex_lock pthread_mutex_unlock pthread_cond_wait pthread_getspecific   \
	pthread_setspecific
#pragma GCC poison dlsym dlopen dl_iterate_phdr backtrace unw_backtrace unw_step strerror getenv   \
	setenv time localtime

#endif
