#include "base/team.h"

#include <hwloc.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

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
    struct gate start;             /* word: number of runs begun */
    struct gate done;              /* word: number of runs finished */
    struct gate turn;              /* word: number of barriers passed */
    _Alignas(64) atomic_int left;  /* workers still in the run */
    _Alignas(64) atomic_int arrived;
    team_fn *fn;
    void *arg;
    bool quit;
    bool crowded;                  /* more threads than CPUs: spinning would only be in the way */
    int n, started;
    struct member *member;         /* [n]; 0 is the caller */
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
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
        const int64_t end = now_ns() + SPIN_NS;

        do {
            for (int i = 0; i < 16; i++) {
                if (gate_changed(g, old))
                    return;
                relax();
            }
        } while (now_ns() < end);
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

    for (unsigned run = 0;; run++) {
        gate_wait(&t->start, run, t->crowded);
        if (t->quit)
            return NULL;
        t->fn(t->arg, m->me, t->n);
        if (atomic_fetch_sub(&t->left, 1) == 1)
            gate_open(&t->done);
    }
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
    free(t->member);
    free(t);
}

int team_size(const struct team *t)
{
    return t->n;
}

void team_run(struct team *t, team_fn *fn, void *arg)
{
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

/* CPUs that a cpu.max file grants, rounded up; 0 = no limit there. */
static int quota(const char *dir)
{
    char path[640], limit[32];
    long period;
    int n = 0;

    snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cpu.max", dir);
    FILE *f = fopen(path, "re");

    if (!f)
        return 0;
    if (fscanf(f, "%31s %ld", limit, &period) == 2 && period > 0 && strcmp(limit, "max") != 0) {
        const long granted = (strtol(limit, NULL, 10) + period - 1) / period;

        n = granted < 1 ? 1 : granted > MAX_THREADS ? MAX_THREADS : (int)granted;
    }
    fclose(f);
    return n;
}

/* The tightest limit of this process's control group and those above it; 0 = none. */
static int group_limit(void)
{
    char line[512] = "";
    int best = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");

    while (f && fgets(line, sizeof(line), f))
        if (strncmp(line, "0::", 3) == 0)
            break;
    if (f)
        fclose(f);
    char *dir = strncmp(line, "0::/", 4) == 0 ? line + 3 : NULL;

    if (!dir)
        return 0;
    dir[strcspn(dir, "\n")] = 0;
    for (;;) {
        const int n = quota(strcmp(dir, "/") == 0 ? "" : dir);
        char *up = strrchr(dir, '/');

        best = n && (!best || n < best) ? n : best;
        if (!up || *dir == 0)
            return best;
        *up = 0;
    }
}

/* Cores that the affinity mask touches: two threads of one core share its arithmetic. */
static int cores_allowed(void)
{
    hwloc_topology_t topo;
    int n = 0;

    /* where /sys is not mounted hwloc says so, and the affinity mask serves as well */
    setenv("HWLOC_HIDE_ERRORS", "2", 0);
    if (hwloc_topology_init(&topo))
        return 0;
    hwloc_topology_set_all_types_filter(topo, HWLOC_TYPE_FILTER_KEEP_NONE);
    hwloc_topology_set_type_filter(topo, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
    if (hwloc_topology_load(topo) == 0) {
        hwloc_cpuset_t mine = hwloc_bitmap_alloc();

        if (mine && hwloc_get_cpubind(topo, mine, HWLOC_CPUBIND_PROCESS) == 0) {
            hwloc_obj_t core = NULL;

            while ((core = hwloc_get_next_obj_by_type(topo, HWLOC_OBJ_CORE, core)))
                n += hwloc_bitmap_intersects(core->cpuset, mine);
        }
        hwloc_bitmap_free(mine);
    }
    hwloc_topology_destroy(topo);
    return n;
}

static int default_size;

static void find_default_size(void)
{
    cpu_set_t set;
    int n = cores_allowed();
    const int limit = group_limit();

    if (n < 1)
        n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    if (limit && limit < n)
        n = limit;
    default_size = n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n;
}

/* Asked once: reading the topology takes milliseconds. */
int team_default_size(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, find_default_size);
    return default_size;
}
