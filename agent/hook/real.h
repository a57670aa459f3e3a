/* SPDX-License-Identifier: MIT
 *
 * The next definition of every function we interpose, and of those the agent calls itself. All are resolved once, at
 * start, from names known to exist: a failing dlsym allocates. Context: any, constant after real_start().
 */
#ifndef AGENT_REAL_H
#define AGENT_REAL_H

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

/* result, name, parameters */
#define REAL_FUNCTIONS(X)                                                                          \
  X(ssize_t, read, (int, void *, size_t))                                                          \
  X(ssize_t, pread, (int, void *, size_t, off_t))                                                  \
  X(ssize_t, readv, (int, const struct iovec *, int))                                              \
  X(ssize_t, recv, (int, void *, size_t, int))                                                     \
  X(ssize_t, recvfrom, (int, void *, size_t, int, struct sockaddr *, socklen_t *))                 \
  X(ssize_t, recvmsg, (int, struct msghdr *, int))                                                 \
  X(ssize_t, write, (int, const void *, size_t))                                                   \
  X(ssize_t, pwrite, (int, const void *, size_t, off_t))                                           \
  X(ssize_t, writev, (int, const struct iovec *, int))                                             \
  X(ssize_t, send, (int, const void *, size_t, int))                                               \
  X(ssize_t, sendto, (int, const void *, size_t, int, const struct sockaddr *, socklen_t))         \
  X(ssize_t, sendmsg, (int, const struct msghdr *, int))                                           \
  X(ssize_t, sendfile, (int, int, off_t *, size_t))                                                \
  X(ssize_t, preadv, (int, const struct iovec *, int, off_t))                                      \
  X(ssize_t, pwritev, (int, const struct iovec *, int, off_t))                                     \
  X(ssize_t, preadv2, (int, const struct iovec *, int, off_t, int))                                \
  X(ssize_t, pwritev2, (int, const struct iovec *, int, off_t, int))                               \
  X(int, recvmmsg, (int, struct mmsghdr *, unsigned, int, struct timespec *))                      \
  X(int, sendmmsg, (int, struct mmsghdr *, unsigned, int))                                         \
  X(ssize_t, splice, (int, off64_t *, int, off64_t *, size_t, unsigned))                           \
  X(int, fsync, (int))                                                                             \
  X(int, fdatasync, (int))                                                                         \
  X(int, accept, (int, struct sockaddr *, socklen_t *))                                            \
  X(int, accept4, (int, struct sockaddr *, socklen_t *, int))                                      \
  X(int, connect, (int, const struct sockaddr *, socklen_t))                                       \
  X(int, socket, (int, int, int))                                                                  \
  X(int, listen, (int, int))                                                                       \
  X(int, shutdown, (int, int))                                                                     \
  X(int, close, (int))                                                                             \
  X(int, close_range, (unsigned, unsigned, int))                                                   \
  X(void, closefrom, (int))                                                                        \
  X(int, socketpair, (int, int, int, int *))                                                       \
  X(int, fcntl, (int, int, ...))                                                                   \
  X(int, dup, (int))                                                                               \
  X(int, dup2, (int, int))                                                                         \
  X(int, dup3, (int, int, int))                                                                    \
  X(int, setsockopt, (int, int, int, const void *, socklen_t))                                     \
  X(int, getsockopt, (int, int, int, void *, socklen_t *))                                         \
  X(int, poll, (struct pollfd *, nfds_t, int))                                                     \
  X(int, ppoll, (struct pollfd *, nfds_t, const struct timespec *, const sigset_t *))              \
  X(int, select, (int, fd_set *, fd_set *, fd_set *, struct timeval *))                            \
  X(int, pselect, (int, fd_set *, fd_set *, fd_set *, const struct timespec *, const sigset_t *))  \
  X(int, epoll_wait, (int, struct epoll_event *, int, int))                                        \
  X(int, epoll_pwait, (int, struct epoll_event *, int, int, const sigset_t *))                     \
  X(int, epoll_pwait2,                                                                             \
    (int, struct epoll_event *, int, const struct timespec *, const sigset_t *))                   \
  X(int, nanosleep, (const struct timespec *, struct timespec *))                                  \
  X(int, clock_nanosleep, (clockid_t, int, const struct timespec *, struct timespec *))            \
  X(int, usleep, (useconds_t))                                                                     \
  X(unsigned, sleep, (unsigned))                                                                   \
  X(int, pthread_create, (pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))         \
  X(int, pthread_join, (pthread_t, void **))                                                       \
  X(int, pthread_timedjoin_np, (pthread_t, void **, const struct timespec *))                      \
  X(int, pthread_clockjoin_np, (pthread_t, void **, clockid_t, const struct timespec *))           \
  X(int, pthread_mutex_lock, (pthread_mutex_t *))                                                  \
  X(int, pthread_mutex_trylock, (pthread_mutex_t *))                                               \
  X(int, pthread_mutex_timedlock, (pthread_mutex_t *, const struct timespec *))                    \
  X(int, pthread_mutex_clocklock, (pthread_mutex_t *, clockid_t, const struct timespec *))         \
  X(int, pthread_rwlock_rdlock, (pthread_rwlock_t *))                                              \
  X(int, pthread_rwlock_tryrdlock, (pthread_rwlock_t *))                                           \
  X(int, pthread_rwlock_timedrdlock, (pthread_rwlock_t *, const struct timespec *))                \
  X(int, pthread_rwlock_clockrdlock, (pthread_rwlock_t *, clockid_t, const struct timespec *))     \
  X(int, pthread_rwlock_wrlock, (pthread_rwlock_t *))                                              \
  X(int, pthread_rwlock_trywrlock, (pthread_rwlock_t *))                                           \
  X(int, pthread_rwlock_timedwrlock, (pthread_rwlock_t *, const struct timespec *))                \
  X(int, pthread_rwlock_clockwrlock, (pthread_rwlock_t *, clockid_t, const struct timespec *))     \
  X(int, pthread_cond_wait, (pthread_cond_t *, pthread_mutex_t *))                                 \
  X(int, pthread_cond_timedwait, (pthread_cond_t *, pthread_mutex_t *, const struct timespec *))   \
  X(int, pthread_cond_clockwait,                                                                   \
    (pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *))                     \
  X(pid_t, wait, (int *))                                                                          \
  X(pid_t, wait3, (int *, int, struct rusage *))                                                   \
  X(pid_t, wait4, (pid_t, int *, int, struct rusage *))                                            \
  X(pid_t, waitpid, (pid_t, int *, int))                                                           \
  X(int, waitid, (idtype_t, id_t, siginfo_t *, int))                                               \
  X(int, system, (const char *))                                                                   \
  X(int, chroot, (const char *))                                                                   \
  X(int, prctl, (int, ...))                                                                        \
  X(FILE *, popen, (const char *, const char *))                                                   \
  X(int, posix_spawn,                                                                              \
    (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,         \
     char *const *, char *const *))                                                                \
  X(int, posix_spawnp,                                                                             \
    (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,         \
     char *const *, char *const *))                                                                \
  X(int, pclose, (FILE *))                                                                         \
  X(int, getaddrinfo, (const char *, const char *, const struct addrinfo *, struct addrinfo **))   \
  X(int, getnameinfo,                                                                              \
    (const struct sockaddr *, socklen_t, char *, socklen_t, char *, socklen_t, int))               \
  X(int, sem_wait, (sem_t *))                                                                      \
  X(int, sem_trywait, (sem_t *))                                                                   \
  X(int, sem_timedwait, (sem_t *, const struct timespec *))                                        \
  X(int, sem_clockwait, (sem_t *, clockid_t, const struct timespec *))                             \
  X(int, pthread_sigmask, (int, const sigset_t *, sigset_t *))                                     \
  X(int, sigprocmask, (int, const sigset_t *, sigset_t *))                                         \
  X(int, sigaction, (int, const struct sigaction *, struct sigaction *))                           \
  X(int, sigwait, (const sigset_t *, int *))                                                       \
  X(int, sigwaitinfo, (const sigset_t *, siginfo_t *))                                             \
  X(int, sigtimedwait, (const sigset_t *, siginfo_t *, const struct timespec *))                   \
  X(int, sigaltstack, (const stack_t *, stack_t *))                                                \
  X(int, signalfd, (int, const sigset_t *, int))                                                   \
  X(sighandler_t, signal, (int, sighandler_t))                                                     \
  X(sighandler_t, __sysv_signal, (int, sighandler_t))                                              \
  X(void, longjmp, (struct __jmp_buf_tag *, int))                                                  \
  X(void, siglongjmp, (struct __jmp_buf_tag *, int))                                               \
  X(void, __longjmp_chk, (struct __jmp_buf_tag *, int))                                            \
  X(void, quick_exit, (int))                                                                       \
  X(int, execveat, (int, const char *, char *const *, char *const *, int))                         \
  X(pid_t, fork, (void))                                                                           \
  X(int, execve, (const char *, char *const *, char *const *))                                     \
  X(int, execvpe, (const char *, char *const *, char *const *))                                    \
  X(int, fexecve, (int, char *const *, char *const *))

struct real {
#define X(result, name, parameters) result(*name) parameters;
	REAL_FUNCTIONS(X)
#undef X
	int (*old_cond_wait)(pthread_cond_t *, pthread_mutex_t *); /* GLIBC_2.2.5 */
	int (*old_cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
	__attribute__((noreturn)) void (*exit_now)(int); /* _exit */
};

extern struct real real;

/** Resolve everything. Context: agent start. Returns the name of a function that libc does not have, or NULL. */
const char *real_start(void);

#endif
