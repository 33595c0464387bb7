/* cpus: which threads are kept where, on machines that hwloc describes, and on this one. */
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cpus.h"
#include "base/mem.h"
#include "base/team.h"
#include "base/thread.h"
#include "support.h"

enum { MOST = 64 };

static void describe(struct cpus *c, const char *text, int nodes, int cores, int n)
{
    assert_int_equal(cpus_describe(c, text), 0);
    assert_int_equal(c->nodes, nodes);
    assert_int_equal(c->cores, cores);
    assert_int_equal(c->n, n);
    assert_false(c->real);
}

static int node_of(const struct cpus *c, const cpu_set_t *set)
{
    int node = -1;

    for (int i = 0; i < c->n; i++) {
        if (!CPU_ISSET((size_t)c->at[i].id, set))
            continue;
        assert_true(node < 0 || node == c->at[i].node); /* all of one */
        node = c->at[i].node;
    }
    assert_in_range(node, 0, c->nodes - 1);
    return node;
}

/* What holds on every machine, for every number of threads. */
static void laws(const char *text, int nodes, int cores, int n)
{
    cpu_set_t set[MOST], both;
    struct cpus c;

    describe(&c, text, nodes, cores, n);
    for (int t = 1; t <= n; t++) {
        int on[MOST] = { 0 };

        cpus_spread(&c, PIN_NODES, t, set);
        for (int i = 0; i < t; i++) {
            assert_int_equal(CPU_COUNT(&set[i]), n / nodes);
            on[node_of(&c, &set[i])]++;
            assert_true(i == 0 || node_of(&c, &set[i]) >= node_of(&c, &set[i - 1]));
        }
        for (int k = 0; k < nodes; k++) /* even, and none has more than it has cores */
            assert_in_range(on[k], t / nodes, (t + nodes - 1) / nodes);
        cpus_spread(&c, PIN_CORES, t, set);
        for (int i = 0; i < t; i++) {
            assert_int_equal(CPU_COUNT(&set[i]), t <= cores ? n / cores : 1);
            on[node_of(&c, &set[i])]--;
            for (int k = 0; k < i; k++) {
                CPU_AND(&both, &set[i], &set[k]);
                assert_int_equal(CPU_COUNT(&both), 0);
            }
        }
        for (int k = 0; k < nodes; k++)
            assert_int_equal(on[k], 0);
    }
    cpus_release(&c);
}

static void machines(void **state)
{
    (void)state;
    laws("core:1 pu:1", 1, 1, 1);
    laws("core:4 pu:1", 1, 4, 4);
    laws("core:4 pu:2", 1, 4, 8);
    laws("package:2 [numa] core:4 pu:1", 2, 8, 8);
    laws("node:2 core:6 pu:2", 2, 12, 24);
    laws("package:2 node:2 core:4 pu:1", 4, 16, 16);
    laws("package:2 node:2 core:4 pu:2", 4, 16, 32);
}

static void shares(void **state)
{
    cpu_set_t set[MOST];
    struct cpus c;

    (void)state;
    describe(&c, "node:2 core:2 pu:2", 2, 4, 8);
    cpus_spread(&c, PIN_CORES, 6, set); /* three a node: two cores' first CPUs, then a second */
    const int ids[] = { 0, 2, 1, 4, 6, 5 };

    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        assert_int_equal(CPU_COUNT(&set[i]), 1);
        assert_true(CPU_ISSET((size_t)ids[i], &set[i]));
    }
    assert_int_equal(cpus_pin(&c, PIN_AUTO, 1), PIN_NONE);
    assert_int_equal(cpus_pin(&c, PIN_AUTO, 2), PIN_NODES);
    assert_int_equal(cpus_pin(&c, PIN_AUTO, 8), PIN_NODES);
    assert_int_equal(cpus_pin(&c, PIN_NONE, 4), PIN_NONE);
    assert_int_equal(cpus_pin(&c, PIN_CORES, 8), PIN_CORES);
    assert_int_equal(cpus_pin(&c, PIN_CORES, 9), PIN_NONE); /* more than CPUs */
    c.limit = 3;
    assert_int_equal(cpus_pin(&c, PIN_AUTO, 3), PIN_NODES);
    assert_int_equal(cpus_pin(&c, PIN_CORES, 4), PIN_NONE); /* more than the group grants */
    cpus_release(&c);
    describe(&c, "core:4 pu:2", 1, 4, 8);
    assert_int_equal(cpus_pin(&c, PIN_AUTO, 4), PIN_NONE);
    cpus_release(&c);
    assert_int_equal(cpus_describe(&c, "nonsense"), -1);
}

static void names(void **state)
{
    (void)state;
    for (int how = PIN_AUTO; how <= PIN_CORES; how++)
        assert_int_equal(pin_from_name(pin_name((enum pin)how)), how);
}

/* One node is no reason to spread anything; that it is done is seen with one that counts twice. */
static void interleaved(void **state)
{
    struct cpus c = *cpus_here();
    const size_t n = 1 << 20;
    int mode = -1;
    struct err e;
    void *p;

    (void)state;
    OK(mem_map(&p, n, "memory", &e), e);
    assert_true(c.nodes > 1 || !cpus_interleave(&c, p, n));
    c.nodes = c.nodes > 1 ? c.nodes : 2;
    if (cpus_interleave(&c, p, n) &&
        syscall(SYS_get_mempolicy, &mode, NULL, 0ul, p, (unsigned long)MPOL_F_ADDR) == 0)
        assert_int_equal(mode, MPOL_INTERLEAVE);
    memset(p, 1, n);
    mem_unmap(p, n);
}

struct seen {
    cpu_set_t set[MOST];
    cpu_set_t child;
};

static void *look(void *arg)
{
    struct seen *s = arg;

    sched_getaffinity(0, sizeof(s->child), &s->child);
    return NULL;
}

static void look_all(void *arg, int me, int n)
{
    struct seen *s = arg;

    (void)n;
    sched_getaffinity(0, sizeof(s->set[me]), &s->set[me]);
}

/* The first team has a core for each thread; one beside it has to do without, the caller is let go
 * of, and what it starts meanwhile may run anywhere. */
static void on_this_machine(void **state)
{
    const struct cpus *c = cpus_here();
    cpu_set_t before, now, want[MOST];
    struct team *t, *beside;
    struct seen s;
    pthread_t thread;
    struct err e;
    int claim[MOST];

    (void)state;
    assert_in_range(c->nodes, 1, CPUS_MAX);
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    const int n = team_default_size() < MOST ? team_default_size() : MOST;
    const bool all_free = c->real && cpus_claim(c->cores < MOST ? c->cores : MOST, want, claim);

    for (int i = 0; all_free && i < (c->cores < MOST ? c->cores : MOST); i++)
        close(claim[i]);
    team_pin(PIN_CORES);
    OK(team_new(&t, n, &e), e);
    team_run(t, look_all, &s);
    if (all_free) { /* no other test or program has them */
        cpus_spread(c, PIN_CORES, n, want);
        assert_int_equal(team_pinned(t), PIN_CORES);
        for (int i = 0; i < n; i++)
            assert_true(CPU_EQUAL(&s.set[i], &want[i]));
        OK(team_new(&beside, n, &e), e);
        assert_true(2 * n <= c->cores || team_pinned(beside) != PIN_CORES);
        team_free(beside);
    }
    assert_int_equal(thread_start(&thread, look, &s), 0);
    pthread_join(thread, NULL);
    assert_true(CPU_EQUAL(&s.child, &before));
    team_free(t);
    sched_getaffinity(0, sizeof(now), &now);
    assert_true(CPU_EQUAL(&now, &before));
    team_pin(PIN_NONE);
    OK(team_new(&t, n, &e), e);
    assert_int_equal(team_pinned(t), PIN_NONE);
    team_run(t, look_all, &s);
    for (int i = 0; i < n; i++)
        assert_true(CPU_EQUAL(&s.set[i], &before));
    team_free(t);
    team_pin(PIN_AUTO);
}

TEST_MAIN(cmocka_unit_test(machines), cmocka_unit_test(shares), cmocka_unit_test(names),
          cmocka_unit_test(interleaved), cmocka_unit_test(on_this_machine))
