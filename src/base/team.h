/* team.h - a persistent team of threads that run one function together.
 *
 * team_run(t, fn, arg) calls fn(arg, me, n) on n threads, the caller being
 * thread 0, and returns when all have. Between runs workers spin for a short
 * time and then sleep. One team is driven by one thread at a time. */
#ifndef PUNA_BASE_TEAM_H
#define PUNA_BASE_TEAM_H

#include "base/cpus.h"
#include "base/err.h"

struct team;
typedef void team_fn(void *arg, int me, int n);

/* threads >= 1; 0 = the CPUs this process may use (cores, affinity and
 * control-group limits respected). */
int team_new(struct team **out, int threads, struct err *e) MUST_USE;
void team_free(struct team *t);
int team_size(const struct team *t);
void team_run(struct team *t, team_fn *fn, void *arg);
/* Inside fn: waits until all n threads have arrived. */
void team_barrier(struct team *t, int me);
/* Where the threads of teams made from now on are kept (cpus.h); PIN_AUTO when never called. The
 * thread that calls team_run is kept too, from its first call until team_free or thread_let_go.
 * PIN_CORES claims the cores: where other teams have them, it is as PIN_AUTO. */
void team_pin(enum pin how);
/* What came of it. */
enum pin team_pinned(const struct team *t);
/* The CPUs that team_new(0) would use. */
int team_default_size(void);

/* Part `me` of n over [0, total), cut at multiples of `grain`: the split depends
 * on n, so only results that do not depend on the split may be built on it. */
static inline void team_part(size_t total, size_t grain, int me, int n, size_t *lo, size_t *hi)
{
    const size_t units = (total + grain - 1) / grain;
    const size_t a = units * (size_t)me / (size_t)n * grain;
    const size_t b = units * ((size_t)me + 1) / (size_t)n * grain;

    *lo = a < total ? a : total;
    *hi = b < total ? b : total;
}

#endif
