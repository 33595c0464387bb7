#include "base/team.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpus.h"
#include "base/fault.h"
#include "base/mem.h"
#include "base/thread.h"

enum {
    SPIN_NS = 40000, /* longer than the gap between two operations of one token */
    MAX_THREADS = 1024,
};

/* A word that threads wait on to change. Waiters spin, then sleep in the kernel. */
struct gate {
    _Alignas(64) atomic_uint word;
    atomic_int sleepers;
};

struct member {
    struct team *team;
    pthread_t thread;
    int me;
};

struct team {
    struct gate start;            /* word: number of runs begun */
    struct gate done;             /* word: number of runs finished */
    struct gate turn;             /* word: number of barriers passed */
    _Alignas(64) atomic_int left; /* workers still in the run */
    _Alignas(64) atomic_int arrived;
    team_fn *fn;
    void *arg;
    bool quit;
    bool crowded; /* more threads than CPUs: spinning would only be in the way */
    int n, started;
    struct member *member; /* [n]; 0 is the caller */
    enum pin pin;          /* none, nodes or cores */
    cpu_set_t *set;        /* [n]: where each thread is kept; NULL with PIN_NONE */
    int *claim;            /* [n]: open files of its cores; NULL but with PIN_CORES */
    unsigned id;           /* unlike that of any team there was; 0 is none */
};

static enum pin pin_wanted = PIN_AUTO;

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static bool gate_changed(struct gate *g, unsigned old)
{
    return atomic_load_explicit(&g->word, memory_order_acquire) != old;
}

static void gate_wait(struct gate *g, unsigned old, bool crowded)
{
    for (int i = 0; i < 64; i++) {
        if (gate_changed(g, old))
            return;
        relax();
    }
    if (!crowded) {
        const int64_t end = clock_ns() + SPIN_NS;

        do {
            for (int i = 0; i < 16; i++) {
                if (gate_changed(g, old))
                    return;
                relax();
            }
        } while (clock_ns() < end);
    }
    /* The order "announce, then look" pairs with "change, then ask for sleepers" in
     * gate_open: one of the two sees the other. */
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->word) == old)
        syscall(SYS_futex, &g->word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&g->sleepers, 1);
}

static void gate_open(struct gate *g)
{
    atomic_fetch_add(&g->word, 1);
    if (atomic_load(&g->sleepers) > 0)
        syscall(SYS_futex, &g->word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void *worker(void *arg)
{
    const struct member *m = arg;
    struct team *t = m->team;

    if (t->set)
        thread_keep(&t->set[m->me], t->id);
    for (unsigned run = 0;; run++) {
        gate_wait(&t->start, run, t->crowded);
        if (t->quit)
            return NULL;
        t->fn(t->arg, m->me, t->n);
        if (atomic_fetch_sub(&t->left, 1) == 1)
            gate_open(&t->done);
    }
}

void team_pin(enum pin how)
{
    pin_wanted = how;
}

/* Where the threads are kept. What cannot be is left out: it costs speed only. */
static void find_places(struct team *t)
{
    static atomic_uint teams;
    const struct cpus *c = cpus_here();
    enum pin pin = c->real ? cpus_pin(c, pin_wanted, t->n) : PIN_NONE;

    t->id = atomic_fetch_add(&teams, 1) + 1;
    if (pin == PIN_NONE)
        return;
    t->set = xcalloc((size_t)t->n, sizeof(*t->set));
    if (pin == PIN_CORES) {
        t->claim = xcalloc((size_t)t->n, sizeof(*t->claim));
        if (!cpus_claim(t->n, t->set, t->claim)) {
            free(t->claim);
            t->claim = NULL;
            pin = cpus_pin(c, PIN_AUTO, t->n);
        }
    }
    if (pin == PIN_NODES)
        cpus_spread(c, pin, t->n, t->set);
    if (pin == PIN_NONE) {
        free(t->set);
        t->set = NULL;
    }
    t->pin = pin;
}

int team_new(struct team **out, int threads, struct err *e)
{
    const int cpus = team_default_size(), n = threads ? threads : cpus;
    struct team *t;

    if (n < 1 || n > MAX_THREADS)
        return err_set(e, ERR_USAGE, "%d threads: between 1 and %d are possible", n, MAX_THREADS);
    t = aligned_alloc(64, sizeof(*t));
    if (!t || fault_hit()) {
        free(t);
        return err_set(e, ERR_MEMORY, "no memory for a team of %d threads", n);
    }
    memset(t, 0, sizeof(*t));
    t->n = n;
    t->crowded = n > cpus;
    t->member = xcalloc((size_t)n, sizeof(*t->member));
    t->pin = PIN_NONE;
    find_places(t);
    for (t->started = 1; t->started < n; t->started++) {
        struct member *m = &t->member[t->started];

        *m = (struct member){ .team = t, .me = t->started };
        if (fault_hit() || thread_start(&m->thread, worker, m)) {
            err_set(e, ERR_MEMORY, "cannot start thread %d of %d", t->started + 1, n);
            team_free(t);
            return -1;
        }
    }
    *out = t;
    return 0;
}

void team_free(struct team *t)
{
    if (!t)
        return;
    t->quit = true;
    gate_open(&t->start);
    for (int i = 1; i < t->started; i++)
        pthread_join(t->member[i].thread, NULL);
    if (t->set && thread_kept() == t->id)
        thread_let_go();
    for (int i = 0; t->claim && i < t->n; i++)
        close(t->claim[i]);
    free(t->claim);
    free(t->set);
    free(t->member);
    free(t);
}

enum pin team_pinned(const struct team *t)
{
    return t->pin;
}

int team_size(const struct team *t)
{
    return t->n;
}

void team_run(struct team *t, team_fn *fn, void *arg)
{
    if (t->set && thread_kept() != t->id)
        thread_keep(&t->set[0], t->id);
    if (t->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    const unsigned before = atomic_load(&t->done.word);

    t->fn = fn;
    t->arg = arg;
    atomic_store(&t->left, t->n - 1);
    gate_open(&t->start);
    fn(arg, 0, t->n);
    gate_wait(&t->done, before, t->crowded);
}

void team_barrier(struct team *t, int me)
{
    (void)me;
    if (t->n == 1)
        return;
    const unsigned before = atomic_load(&t->turn.word);

    if (atomic_fetch_add(&t->arrived, 1) == t->n - 1) {
        atomic_store(&t->arrived, 0);
        gate_open(&t->turn);
    } else {
        gate_wait(&t->turn, before, t->crowded);
    }
}

int team_default_size(void)
{
    const struct cpus *c = cpus_here();
    const int n = c->limit && c->limit < c->cores ? c->limit : c->cores;

    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n;
}
