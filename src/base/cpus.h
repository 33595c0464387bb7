/* cpus.h - the CPUs that this process may use, by NUMA node and core, and which of them each
 * thread of a team keeps to. Known to hwloc; affinity mask and control group are respected. */
#ifndef PUNA_BASE_CPUS_H
#define PUNA_BASE_CPUS_H

#include <sched.h>

#include "base/err.h"

enum { CPUS_MAX = CPU_SETSIZE };

/* What threads are kept on. */
enum pin {
    PIN_AUTO,  /* their node where there are several and a thread for each; else as PIN_NONE */
    PIN_NONE,  /* nothing: the system moves them */
    PIN_NODES, /* the CPUs of their node, which several processes may share */
    PIN_CORES, /* a core each; a CPU each where there are more threads than cores */
};

struct cpus {
    /* by node; in a node the first CPU of every core before the second of any */
    struct cpu_at {
        int id, core, node; /* the system's number; cores and nodes that may be used count from 0 */
        int node_id;        /* the system's number of the node */
        int rank;           /* 0 = the first CPU of its core */
    } * at;
    int n, cores, nodes;
    int limit; /* CPUs' worth of time that the control group grants, rounded up; 0 = all */
    bool real; /* not a description: threads can be kept there */
};

/* This machine, read once: that takes milliseconds. */
const struct cpus *cpus_here(void);
/* A machine as hwloc describes it ("node:2 core:4 pu:2"), all of it usable. -1: not understood. */
int cpus_describe(struct cpus *out, const char *synthetic) MUST_USE;
void cpus_release(struct cpus *c);
/* "auto", "none", "nodes", "cores"; another name is PIN_AUTO. */
enum pin pin_from_name(const char *name);
const char *pin_name(enum pin how);
/* What `how` comes to with n threads: PIN_NONE, PIN_NODES or PIN_CORES. More threads than CPUs, or
 * than the control group grants, are not kept anywhere. */
enum pin cpus_pin(const struct cpus *c, enum pin how, int n);
/* set[n]: where each thread is kept, how = PIN_NODES or PIN_CORES. Nodes have threads as they have
 * cores, threads that follow one another share a node, cores come before their second CPUs. */
void cpus_spread(const struct cpus *c, enum pin how, int n, cpu_set_t *set);

/* The pages of p .. p+n, a mapping that nobody has written yet, go to c's nodes in turn, where no
 * thread is the one that reads most of them. false: one node, or the system does not allow it (some
 * containers): then the first to write a page decides. */
bool cpus_interleave(const struct cpus *c, void *p, size_t n);

/* n cores of this machine that no other team, of any process, has claimed: claim[n] are open files,
 * to be closed to give them back. false: there are not so many free. */
bool cpus_claim(int n, cpu_set_t *set, int *claim);

#endif
