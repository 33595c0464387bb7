#include "format/meta.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "format/pth.h"

enum { SHARDS_MAX = 64 };

struct meta {
    struct pth *shard[SHARDS_MAX];
    size_t n_shards;
    struct joined *joined; /* owned; of several shards */
    size_t n;              /* tensors */
    size_t copies;
};

static bool ends_with(const char *s, const char *tail)
{
    const size_t n = strlen(s), t = strlen(tail);

    return n >= t && !strcmp(s + n - t, tail);
}

static int open_shards(struct meta *m, const char *dir, struct err *e)
{
    for (;; m->n_shards++) {
        char name[64];

        snprintf(name, sizeof(name), "consolidated.%02zu.pth", m->n_shards);
        char *path = path_join(dir, name);
        const bool here = file_exists(path);
        int rc = 0;

        if (here && m->n_shards == SHARDS_MAX)
            rc = err_set(e, ERR_FORMAT, "%s: more than %d shards", path, (int)SHARDS_MAX);
        else if (here)
            rc = pth_open(&m->shard[m->n_shards], path, e);
        free(path);
        if (rc || !here)
            return rc;
    }
}

/* Every key or value head `times` over, in neighbouring shards: keeps the first of each. */
static int drop_copies(struct tensor_view *piece, size_t *n, size_t times, const char *name,
                       struct err *e)
{
    size_t kept = 0;

    for (size_t i = 0; i < *n; i += times) {
        for (size_t k = 1; k < times; k++)
            if (piece[i + k].nbytes != piece[i].nbytes ||
                memcmp(piece[i + k].data, piece[i].data, piece[i].nbytes))
                return err_set(
                    e, ERR_FORMAT,
                    "tensor %.200s: shards %zu and %zu should hold the same heads and do "
                    "not: the number of shards does not fit params.json",
                    name, i, i + k);
        piece[kept++] = piece[i];
    }
    *n = kept;
    return 0;
}

/* Norms are in every shard, and the same. */
static int check_replicas(const struct tensor_view *piece, size_t n, struct err *e)
{
    for (size_t i = 1; i < n; i++)
        if (piece[i].nbytes != piece[0].nbytes ||
            memcmp(piece[i].data, piece[0].data, piece[0].nbytes))
            return err_set(e, ERR_FORMAT, "tensor %.200s differs between shards 0 and %zu",
                           piece[0].name, i);
    return 0;
}

/* The rows that the whole matrix has; 0 = not known, cut along rows. */
static uint64_t whole_rows(const struct hparams *h, const char *name)
{
    if (ends_with(name, "wo.weight") || ends_with(name, "w2.weight"))
        return (uint64_t)h->dim;
    if (ends_with(name, "tok_embeddings.weight") || !strcmp(name, "output.weight"))
        return (uint64_t)h->vocab;
    return 0;
}

static int join(struct meta *m, size_t i, const struct hparams *h, struct err *e)
{
    const struct tensor_view *first = pth_tensor(m->shard[0], i);
    const uint64_t kv = (uint64_t)(h->kv_heads * h->head_dim);
    struct tensor_view piece[SHARDS_MAX];
    size_t n = m->n_shards;

    for (size_t s = 0; s < n; s++) {
        const struct tensor_view *t = pth_find(m->shard[s], first->name);

        if (!t)
            return err_set(e, ERR_FORMAT, "%s: tensor %.200s is missing", pth_path(m->shard[s]),
                           first->name);
        piece[s] = *t;
    }
    if (first->ndim == 0)
        return err_set(e, ERR_FORMAT, "tensor %.200s is a single number", first->name);
    if (first->ndim == 1) {
        if (check_replicas(piece, n, e))
            return -1;
        n = 1;
    } else if (ends_with(first->name, "wk.weight") || ends_with(first->name, "wv.weight")) {
        const uint64_t have = first->shape[0] * n; /* at most 64 times a size that is mapped */

        if (have > kv && have % kv == 0 && n % (have / kv) == 0) {
            m->copies = (size_t)(have / kv);
            if (drop_copies(piece, &n, m->copies, first->name, e))
                return -1;
        }
    }
    if (join_init(&m->joined[m->n], first->name, piece, n, -1, whole_rows(h, first->name), e))
        return -1;
    if (n == 1) /* one piece is what it is */
        m->joined[m->n].view.data = piece[0].data;
    m->n++;
    return 0;
}

static int join_all(struct meta *m, const struct hparams *h, struct err *e)
{
    const size_t n = pth_tensors(m->shard[0]);
    void *p;

    for (size_t s = 1; s < m->n_shards; s++)
        if (pth_tensors(m->shard[s]) != n)
            return err_set(e, ERR_FORMAT, "%s: %zu tensors, the first shard has %zu",
                           pth_path(m->shard[s]), pth_tensors(m->shard[s]), n);
    if (mem_new(&p, n + 1, sizeof(*m->joined), "tensors", e))
        return -1;
    m->joined = p;
    for (size_t i = 0; i < n; i++)
        if (join(m, i, h, e))
            return -1;
    return 0;
}

int meta_open(struct meta **out, const char *dir, const struct hparams *hp, struct err *e)
{
    struct meta *m = xcalloc(1, sizeof(*m));
    int rc;

    m->copies = 1;
    rc = open_shards(m, dir, e);
    if (rc == 0 && m->n_shards > 1) {
        rc = join_all(m, hp, e);
        if (rc)
            err_wrap(e, "%s", dir);
    } else if (rc == 0) {
        m->n = m->n_shards ? pth_tensors(m->shard[0]) : 0;
        if (m->n_shards == 0)
            rc = err_set(e, ERR_NOT_FOUND, "%s: no consolidated.00.pth", dir);
    }
    if (rc) {
        meta_close(m);
        return -1;
    }
    *out = m;
    return 0;
}

void meta_close(struct meta *m)
{
    if (!m)
        return;
    for (size_t i = 0; m->joined && i < m->n; i++)
        join_release(&m->joined[i]);
    free(m->joined);
    for (size_t s = 0; s < m->n_shards; s++)
        pth_close(m->shard[s]);
    free(m);
}

size_t meta_shards(const struct meta *m)
{
    return m->n_shards;
}

size_t meta_copies(const struct meta *m)
{
    return m->copies;
}

size_t meta_tensors(const struct meta *m)
{
    return m->n;
}

const struct tensor_view *meta_tensor(const struct meta *m, size_t i)
{
    return m->joined ? &m->joined[i].view : pth_tensor(m->shard[0], i);
}

const char *meta_file(const struct meta *m)
{
    return pth_path(m->shard[0]);
}

struct joined *meta_joined(const struct meta *m, const struct tensor_view *t)
{
    struct joined *j = m->joined ? (struct joined *)(uintptr_t)t : NULL;

    return j && j->n > 1 ? j : NULL;
}
