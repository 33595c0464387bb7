#include "base/cpus.h"

#include <fcntl.h>
#include <hwloc.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"

/* ---- the control group ---- */

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

        n = granted < 1 ? 1 : granted > CPUS_MAX ? CPUS_MAX : (int)granted;
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

/* ---- the machine ---- */

static int by_place(const void *x, const void *y)
{
    const struct cpu_at *a = x, *b = y;

    if (a->node != b->node)
        return a->node - b->node;
    if (a->rank != b->rank)
        return a->rank - b->rank;
    return a->core != b->core ? a->core - b->core : a->id - b->id;
}

static bool usable(const struct cpus *c, int id, const cpu_set_t *mine)
{
    return id < CPUS_MAX && c->n < CPUS_MAX && (!mine || CPU_ISSET((size_t)id, mine));
}

/* CPUs come in the order of nodes and cores. mine NULL = all of them. */
static void take(struct cpus *c, hwloc_topology_t topo, const cpu_set_t *mine)
{
    hwloc_obj_t pu = NULL, core_before = NULL;
    int rank = 0;

    while ((pu = hwloc_get_next_obj_by_type(topo, HWLOC_OBJ_PU, pu))) {
        hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topo, HWLOC_OBJ_CORE, pu);
        const int id = (int)pu->os_index;
        /* a node of memory alone, or a second kind of memory, comes after that of the CPUs */
        const int node_id = pu->nodeset ? hwloc_bitmap_first(pu->nodeset) : 0;
        int node = 0;

        if (!usable(c, id, mine))
            continue;
        rank = core && core == core_before ? rank + 1 : 0;
        core_before = core;
        c->cores += rank == 0;
        while (node < c->n && c->at[node].node_id != node_id)
            node++;
        node = node < c->n ? c->at[node].node : c->nodes++;
        c->at[c->n++] = (struct cpu_at){
            .id = id, .core = c->cores - 1, .node = node, .node_id = node_id, .rank = rank
        };
    }
    qsort(c->at, (size_t)c->n, sizeof(*c->at), by_place);
}

/* synthetic NULL = this machine. */
static int read_topology(struct cpus *c, const char *synthetic)
{
    hwloc_topology_t topo;
    cpu_set_t mine;
    int rc = -1;

    /* where /sys is not mounted hwloc says so, and the affinity mask serves as well */
    setenv("HWLOC_HIDE_ERRORS", "2", 0);
    if (hwloc_topology_init(&topo))
        return -1;
    hwloc_topology_set_all_types_filter(topo, HWLOC_TYPE_FILTER_KEEP_NONE);
    hwloc_topology_set_type_filter(topo, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
    /* without what nodes hang from, every node would seem as near to every CPU */
    hwloc_topology_set_type_filter(topo, HWLOC_OBJ_PACKAGE, HWLOC_TYPE_FILTER_KEEP_STRUCTURE);
    hwloc_topology_set_type_filter(topo, HWLOC_OBJ_GROUP, HWLOC_TYPE_FILTER_KEEP_STRUCTURE);
    if ((!synthetic || hwloc_topology_set_synthetic(topo, synthetic) == 0) &&
        hwloc_topology_load(topo) == 0) {
        c->real =
            hwloc_topology_is_thissystem(topo) && sched_getaffinity(0, sizeof(mine), &mine) == 0;
        take(c, topo, c->real ? &mine : NULL);
        rc = c->n > 0 ? 0 : -1;
    }
    hwloc_topology_destroy(topo);
    return rc;
}

int cpus_describe(struct cpus *out, const char *synthetic)
{
    struct cpus c = { .at = xcalloc(CPUS_MAX, sizeof(*c.at)) };

    if (read_topology(&c, synthetic)) {
        cpus_release(&c);
        return -1;
    }
    *out = c;
    return 0;
}

void cpus_release(struct cpus *c)
{
    free(c->at);
    *c = (struct cpus){ 0 };
}

static struct cpu_at here_at[CPUS_MAX];
static struct cpus here = { .at = here_at };

static void read_here(void)
{
    cpu_set_t mine;

    here.limit = group_limit();
    if (read_topology(&here, NULL) == 0)
        return;
    here = (struct cpus){ .at = here_at, .limit = here.limit };
    here.cores = sched_getaffinity(0, sizeof(mine), &mine) == 0 ? CPU_COUNT(&mine) : 1;
    here.nodes = 1;
}

const struct cpus *cpus_here(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, read_here);
    return &here;
}

/* ---- threads to CPUs ---- */

static const char *const pin_names[] = {
    [PIN_AUTO] = "auto", [PIN_NONE] = "none", [PIN_NODES] = "nodes", [PIN_CORES] = "cores"
};

enum pin pin_from_name(const char *name)
{
    size_t i = ARRAY_LEN(pin_names);

    while (--i > 0 && strcmp(name, pin_names[i]) != 0)
        ;
    return (enum pin)i;
}

const char *pin_name(enum pin how)
{
    return pin_names[how];
}

enum pin cpus_pin(const struct cpus *c, enum pin how, int n)
{
    if (n > c->n || (c->limit && n > c->limit))
        return PIN_NONE;
    if (how == PIN_AUTO)
        return c->nodes > 1 && n >= c->nodes ? PIN_NODES : PIN_NONE;
    return how;
}

/* CPU i of the node whose first is `at`, which alone or with its core is where thread i is kept. */
static void one_core(const struct cpus *c, int at, bool whole, cpu_set_t *set)
{
    CPU_ZERO(set);
    for (int i = 0; i < c->n; i++)
        if (i == at || (whole && c->at[i].core == c->at[at].core))
            CPU_SET((size_t)c->at[i].id, set);
}

void cpus_spread(const struct cpus *c, enum pin how, int n, cpu_set_t *set)
{
    const bool whole = n <= c->cores; /* a core for each */
    const int all = whole ? c->cores : c->n;

    for (int lo = 0, hi, before = 0, has, first; lo < c->n; lo = hi, before += has) {
        for (hi = lo, has = 0; hi < c->n && c->at[hi].node == c->at[lo].node; hi++)
            has += !whole || c->at[hi].rank == 0;
        /* threads whose share of the cores begins in this node: at most one a core */
        first = (before * n + all - 1) / all;
        for (int t = first; t < n && t * all < (before + has) * n; t++) {
            if (how == PIN_CORES) {
                one_core(c, lo + t - first, whole, &set[t]);
                continue;
            }
            CPU_ZERO(&set[t]);
            for (int i = lo; i < hi; i++)
                CPU_SET((size_t)c->at[i].id, &set[t]);
        }
    }
}

bool cpus_interleave(const struct cpus *c, void *p, size_t n)
{
    enum { BITS = 8 * sizeof(unsigned long) };
    unsigned long mask[CPUS_MAX / BITS] = { 0 };

    if (!c->real || c->nodes < 2)
        return false;
    for (int i = 0; i < c->n; i++)
        if (c->at[i].node_id < CPUS_MAX)
            mask[c->at[i].node_id / BITS] |= 1ul << c->at[i].node_id % BITS;
    return syscall(SYS_mbind, p, n, MPOL_INTERLEAVE, mask, (unsigned long)CPUS_MAX, 0u) == 0;
}

/* ---- claims ---- */

/* The file of a CPU, locked; -1: somebody else has locked it, or it cannot be. The lock ends with
 * the process, whatever ends it. */
static int claim_cpu(int id)
{
    char path[64];

    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d", id);
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Leaves out the core of this CPU, or the CPU alone. */
static void leave_out(struct cpus *c, int id)
{
    int core = -1, n = 0;

    for (int i = 0; i < c->n; i++)
        core = c->at[i].id == id ? c->at[i].core : core;
    for (int i = 0; i < c->n; i++)
        if (c->at[i].core != core)
            c->at[n++] = c->at[i];
    c->n = n;
    c->cores--;
}

static int first_of(const cpu_set_t *set)
{
    size_t id = 0;

    while (!CPU_ISSET(id, set))
        id++;
    return (int)id;
}

bool cpus_claim(int n, cpu_set_t *set, int *claim)
{
    struct cpus c = *cpus_here();
    const bool whole = n <= c.cores;
    int got = 0;

    c.at = xcalloc((size_t)c.n + 1, sizeof(*c.at));
    memcpy(c.at, here.at, (size_t)c.n * sizeof(*c.at));
    while (c.real && (!whole || n <= c.cores) && cpus_pin(&c, PIN_CORES, n) == PIN_CORES) {
        cpus_spread(&c, PIN_CORES, n, set);
        while (got < n && (claim[got] = claim_cpu(first_of(&set[got]))) >= 0)
            got++;
        if (got == n)
            break;
        leave_out(&c, first_of(&set[got]));
        while (got > 0)
            close(claim[--got]);
    }
    free(c.at);
    return got == n;
}
