#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

void arena_init(struct arena *a)
{
    a->live = xcalloc(a->n_chunks + 1, sizeof(*a->live));
    a->span = NULL;
    a->n = 0;
}

/* Chunks from `first` to before `end` that nothing uses, in runs: mapped, or unmapped; returns the
 * chunk before which that failed, or `end`. */
static size_t each_run(struct arena *a, size_t first, size_t end, bool map)
{
    for (size_t i = first; i < end;) {
        size_t k = i;

        while (k < end && !a->live[k])
            k++;
        if (k > i && map && !a->map(a->arg, i, k - i))
            return i;
        if (k > i && !map)
            a->unmap(a->arg, i, k - i);
        i = k > i ? k : i + 1;
    }
    return end;
}

void arena_release(struct arena *a)
{
    while (a->n)
        arena_give(a, a->span[a->n - 1].at);
    free(a->span);
    free(a->live);
    a->span = NULL;
    a->live = NULL;
}

/* Where the lowest gap of n bytes begins, and before which span it is. */
static bool find_gap(const struct arena *a, size_t n, size_t *at, size_t *before)
{
    size_t from = 0;

    for (size_t i = 0; i <= a->n; i++) {
        const size_t to = i < a->n ? a->span[i].at : a->chunk * a->n_chunks;

        if (to - from >= n) {
            *at = from;
            *before = i;
            return true;
        }
        from = i < a->n ? a->span[i].at + a->span[i].n : from;
    }
    return false;
}

bool arena_take(struct arena *a, size_t *at, size_t n)
{
    size_t before;

    if (n > a->chunk * a->n_chunks)
        return false;
    n = n ? (n + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN : ARENA_ALIGN;
    if (!find_gap(a, n, at, &before))
        return false;
    const size_t first = *at / a->chunk, end = (*at + n - 1) / a->chunk + 1;
    const size_t failed = each_run(a, first, end, true);

    if (failed < end) {
        each_run(a, first, failed, false);
        return false;
    }
    for (size_t i = first; i < end; i++)
        a->live[i]++;
    a->span = xrealloc(a->span, (a->n + 1) * sizeof(*a->span));
    memmove(a->span + before + 1, a->span + before, (a->n - before) * sizeof(*a->span));
    a->span[before] = (struct arena_span){ *at, n };
    a->n++;
    return true;
}

void arena_give(struct arena *a, size_t at)
{
    size_t lo = 0, hi = a->n;

    while (lo < hi) {
        const size_t mid = (lo + hi) / 2;

        if (a->span[mid].at < at)
            lo = mid + 1;
        else
            hi = mid;
    }
    BUG_ON(lo == a->n || a->span[lo].at != at);
    const size_t first = at / a->chunk, end = (at + a->span[lo].n - 1) / a->chunk + 1;

    for (size_t i = first; i < end; i++)
        a->live[i]--;
    each_run(a, first, end, false);
    a->n--;
    memmove(a->span + lo, a->span + lo + 1, (a->n - lo) * sizeof(*a->span));
}
