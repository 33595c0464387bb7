#include "base/thread.h"

#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Thread_local struct {
    unsigned who;
    cpu_set_t before;
} kept;

int thread_start(pthread_t *out, void *(*fn)(void *arg), void *arg)
{
    static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT };
    sigset_t block, before;
    pthread_attr_t attr;
    int rc;

    sigfillset(&block);
    for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++)
        sigdelset(&block, faults[i]);
    pthread_sigmask(SIG_BLOCK, &block, &before); /* a new thread inherits it */
    pthread_attr_init(&attr);
    if (kept.who)
        pthread_attr_setaffinity_np(&attr, sizeof(kept.before), &kept.before);
    rc = pthread_create(out, &attr, fn, arg);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

void thread_keep(const cpu_set_t *set, unsigned who)
{
    if (kept.who == 0 && sched_getaffinity(0, sizeof(kept.before), &kept.before))
        return;
    (void)sched_setaffinity(0, sizeof(*set), set);
    kept.who = who;
}

unsigned thread_kept(void)
{
    return kept.who;
}

void thread_let_go(void)
{
    if (kept.who)
        (void)sched_setaffinity(0, sizeof(kept.before), &kept.before);
    kept.who = 0;
}

void thread_prompt(void)
{
    /* sched_setattr(2); glibc has no name for it yet */
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = { .size = sizeof(attr),
               .policy = SCHED_OTHER,
               .flags = 1 /* SCHED_FLAG_RESET_ON_FORK: not for threads that it starts */ };
    const pid_t me = (pid_t)syscall(SYS_gettid);

    /* Since Linux 6.12 an ordinary thread may ask for a shorter slice, the least being 0.1 ms: when
     * it wakes it goes before what runs on longer ones. Nobody's share of the time changes. */
    attr.nice = getpriority(PRIO_PROCESS, (id_t)me);
    attr.runtime = 100000;
    (void)!syscall(SYS_sched_setattr, 0, &attr, 0);
    if (attr.nice > -5)
        (void)!setpriority(PRIO_PROCESS, (id_t)me, -5); /* where the system allows it */
}
