#include "train/batch.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

/* ---- units ---- */

static int longer(const void *a, const void *b, void *arg)
{
    const struct data *d = arg;
    const size_t i = *(const size_t *)a, j = *(const size_t *)b;

    if (d->p[i].n != d->p[j].n)
        return d->p[i].n < d->p[j].n ? 1 : -1;
    return (i > j) - (i < j);
}

/* Best fit, longest first: each example goes to the fullest pack that still has room. Packs are
 * kept by room left, so that the search is one step. */
static void pack(struct plan *p, const struct data *d, size_t room)
{
    size_t *sorted = xmalloc((d->n + 1) * sizeof(*sorted));
    size_t *next = xmalloc((d->n + 1) * sizeof(*next)); /* next pack with the same room left */
    size_t *head = xmalloc((room + 1) * sizeof(*head)); /* by room left */
    size_t *of = xmalloc((d->n + 1) * sizeof(*of)), *count = xcalloc(d->n + 1, sizeof(*count));

    for (size_t i = 0; i < d->n; i++)
        sorted[i] = i;
    for (size_t r = 0; r <= room; r++)
        head[r] = SIZE_MAX;
    qsort_r(sorted, d->n, sizeof(*sorted), longer, (void *)(uintptr_t)d);
    p->n = 0;
    for (size_t i = 0; i < d->n; i++) {
        const size_t len = d->p[sorted[i]].n < room ? d->p[sorted[i]].n : room;
        size_t left = len, bin;

        while (left < room && head[left] == SIZE_MAX)
            left++;
        if (left < room && head[left] != SIZE_MAX) {
            bin = head[left];
            head[left] = next[bin];
        } else {
            bin = p->n++;
            left = room;
        }
        next[bin] = head[left - len];
        head[left - len] = bin;
        of[i] = bin;
        count[bin]++;
    }
    p->unit = xcalloc(p->n + 1, sizeof(*p->unit));
    for (size_t b = 0, at = 0; b < p->n; b++) {
        p->unit[b].first = at;
        at += count[b];
    }
    for (size_t i = 0; i < d->n; i++) {
        struct unit *u = &p->unit[of[i]];

        p->order[u->first + u->n++] = sorted[i];
    }
    free(sorted);
    free(next);
    free(head);
    free(of);
    free(count);
}

static size_t unit_rows(const struct plan *p, const struct data *d, size_t u)
{
    size_t rows = 0;

    for (size_t i = 0; i < p->unit[u].n; i++)
        rows += d->p[p->order[p->unit[u].first + i]].n;
    return rows;
}

static int more(const void *a, const void *b)
{
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;

    return (x < y) - (x > y);
}

void plan_init(struct plan *p, const struct data *d, const struct train_cfg *cfg)
{
    const size_t each = cfg->task == TASK_DPO ? 2 : 1;

    *p = (struct plan){ .epoch = SIZE_MAX };
    p->order = xmalloc((d->n + 1) * sizeof(*p->order));
    if (cfg->packing && cfg->task == TASK_SFT) {
        pack(p, d, cfg->max_length);
    } else {
        p->n = d->n / each;
        p->unit = xcalloc(p->n + 1, sizeof(*p->unit));
        for (size_t i = 0; i < p->n; i++)
            p->unit[i] = (struct unit){ i * each, each };
        for (size_t i = 0; i < d->n; i++)
            p->order[i] = i;
    }
    p->draw = xmalloc((p->n + 1) * sizeof(*p->draw));
    p->batches = (p->n + cfg->batch - 1) / cfg->batch;
    p->steps_per_epoch = (p->batches + cfg->accumulate - 1) / cfg->accumulate;

    size_t *rows = xmalloc((p->n + 1) * sizeof(*rows));

    for (size_t u = 0; u < p->n; u++)
        rows[u] = unit_rows(p, d, u);
    qsort(rows, p->n, sizeof(*rows), more);
    for (size_t u = 0; u < p->n && u < cfg->batch; u++)
        p->longest += rows[u];
    free(rows);
}

void plan_release(struct plan *p)
{
    free(p->order);
    free(p->unit);
    free(p->draw);
    *p = (struct plan){ 0 };
}

/* Fisher and Yates, with numbers of the seed and the epoch. */
static void shuffle(struct plan *p, const struct train_cfg *cfg, size_t epoch)
{
    if (p->epoch == epoch)
        return;
    p->epoch = epoch;
    for (size_t i = 0; i < p->n; i++)
        p->draw[i] = i;
    for (size_t i = p->n; cfg->shuffle && i > 1; i--) {
        const size_t j = (size_t)(rng_u64(cfg->seed, (uint64_t)epoch << 32 | i) % i);
        const size_t was = p->draw[j];

        p->draw[j] = p->draw[i - 1];
        p->draw[i - 1] = was;
    }
}

size_t *plan_examples(struct plan *p, const struct train_cfg *cfg, size_t step, size_t part,
                      size_t *n)
{
    const size_t epoch = step / p->steps_per_epoch;
    const size_t batch = step % p->steps_per_epoch * cfg->accumulate + part;

    if (batch >= p->batches)
        return NULL;
    shuffle(p, cfg, epoch);
    size_t *list = NULL;

    *n = 0;
    for (size_t i = batch * cfg->batch; i < (batch + 1) * cfg->batch && i < p->n; i++) {
        const struct unit *u = &p->unit[p->draw[i]];

        list = xrealloc(list, (*n + u->n) * sizeof(*list));
        memcpy(list + *n, p->order + u->first, u->n * sizeof(*list));
        *n += u->n;
    }
    return list;
}

/* ---- batches ---- */

void batch_fill(struct net_batch *b, const struct data *d, const size_t *example, size_t n)
{
    size_t T = 0;

    for (size_t i = 0; i < n; i++)
        T += d->p[example[i]].n;
    int32_t *p = xmalloc((4 * T + n + 1) * sizeof(*p));

    *b = (struct net_batch){ .T = T,
                             .n_seq = n,
                             .ids = p,
                             .pos = p + T,
                             .back = p + 2 * T,
                             .target = p + 3 * T,
                             .cu = p + 4 * T };
    b->cu[0] = 0;
    for (size_t i = 0, t = 0; i < n; i++) {
        const struct example *x = &d->p[example[i]];

        for (size_t k = 0; k < x->n; k++, t++) {
            b->ids[t] = x->ids[k];
            b->pos[t] = (int32_t)k;
            b->back[t] = -(int32_t)k;
            b->target[t] = k + 1 < x->n ? x->label[k + 1] : -1;
        }
        b->cu[i + 1] = (int32_t)t;
    }
}

void batch_release(struct net_batch *b)
{
    free(b->ids);
    *b = (struct net_batch){ 0 };
}
