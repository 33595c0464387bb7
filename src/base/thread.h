/* thread.h - threads that no signal is delivered to. Handlers run on the thread that started the
 * program, one at a time: libraries that keep state in theirs (libedit) count on it. */
#ifndef PUNA_BASE_THREAD_H
#define PUNA_BASE_THREAD_H

#include <pthread.h>
#include <sched.h>

/* As pthread_create with default attributes: 0, or an error number. Signals that a fault raises
 * still reach the thread that made it. It may run wherever the process may, also when its maker is
 * kept on some CPUs. */
int thread_start(pthread_t *out, void *(*fn)(void *arg), void *arg);

/* Keeps the calling thread on these CPUs, for `who` (not 0). The system may refuse. */
void thread_keep(const cpu_set_t *set, unsigned who);
/* For whom the calling thread is kept; 0 = it is not. */
unsigned thread_kept(void);
/* The calling thread may run again where it could before it was first kept; to be called before a
 * process is started, which inherits that. */
void thread_let_go(void);

/* For a thread that does little and is waited for, beside others that compute on every CPU: asks
 * the system to run the calling thread as soon as it wakes. A system that does not know how, or
 * does not allow it, leaves it as it was. */
void thread_prompt(void);

#endif
