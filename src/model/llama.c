/* llama.c - the forward pass (MODEL.md, "Forward"). */
#include "model/llama.h"

#include <stddef.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/lora.h"

struct acts {
    float *x;             /* [T, D] residual stream */
    float *n;             /* [T, D] normalised input of a block */
    float *q, *k, *v, *y; /* [T, H*hd] [T, K*hd] [T, K*hd] [T, H*hd] */
    float *g, *u;         /* [T, F] gate, then its product with up; up */
    float *last;          /* [T, D] rows that want logits */
    size_t max_rows;
    int32_t *wanted; /* [3 * max_rows] pos, slot and seq of those rows; owned */
    float *low;      /* [T, max_rank] inputs of an adapter's B */
    size_t max_rank;
    struct ctx *on; /* whose memory it is */
    void *slab;
    size_t slab_bytes;
};

size_t acts_bytes(const struct hparams *hp, size_t max_rows)
{
    const size_t D = (size_t)hp->dim, F = (size_t)hp->ffn;
    const size_t Q = (size_t)(hp->heads * hp->head_dim), KV = (size_t)(hp->kv_heads * hp->head_dim);
    size_t n;

    return mul_ok(&n, (3 * D + 2 * Q + 2 * KV + 2 * F) * sizeof(float), max_rows) ? n : SIZE_MAX;
}

int acts_new(struct acts **out, const struct model *m, struct ctx *c, size_t max_rows,
             struct err *e)
{
    const struct hparams *hp = m->hp;
    const size_t D = (size_t)hp->dim, F = (size_t)hp->ffn;
    const size_t Q = (size_t)(hp->heads * hp->head_dim), KV = (size_t)(hp->kv_heads * hp->head_dim);
    struct acts *a = xcalloc(1, sizeof(*a));

    a->slab_bytes = acts_bytes(hp, max_rows);
    a->on = c;
    if (c->be->alloc(c, &a->slab, a->slab_bytes, "activations", e)) {
        free(a);
        return -1;
    }
    float *p = a->slab;

    a->max_rows = max_rows;
    a->wanted = xcalloc(3 * max_rows + 1, sizeof(*a->wanted));
    a->x = p, p += D * max_rows;
    a->n = p, p += D * max_rows;
    a->last = p, p += D * max_rows;
    a->q = p, p += Q * max_rows;
    a->y = p, p += Q * max_rows;
    a->k = p, p += KV * max_rows;
    a->v = p, p += KV * max_rows;
    a->g = p, p += F * max_rows;
    a->u = p;
    *out = a;
    return 0;
}

void acts_free(struct acts *a)
{
    if (!a)
        return;
    a->on->be->release(a->on, a->slab, a->slab_bytes);
    a->on->be->release(a->on, a->low, a->max_rank * a->max_rows * sizeof(float));
    free(a->wanted);
    free(a);
}

int acts_reserve(struct acts *a, size_t rank, struct err *e)
{
    size_t n;
    void *p;

    if (rank <= a->max_rank)
        return 0;
    if (!mul_ok(&n, rank, a->max_rows * sizeof(float)))
        return err_set(e, ERR_MEMORY, "adapter of rank %zu: %zu rows cannot be addressed", rank,
                       a->max_rows);
    if (a->on->be->alloc(a->on, &p, n, "adapter", e))
        return -1;
    a->on->be->release(a->on, a->low, a->max_rank * a->max_rows * sizeof(float));
    a->low = p;
    a->max_rank = rank;
    return 0;
}

/* The adapter of row t, and how many rows from there on have it. */
static const struct lora *run_of(const struct batch *b, size_t t, size_t *n)
{
    const struct lora *lora = b->lora[b->seq[t]];

    for (*n = 1; t + *n < b->T && b->lora[b->seq[t + *n]] == lora;)
        ++*n;
    return lora;
}

static const struct lora_pair *pair_of(const struct lora *lora, size_t l, size_t pair)
{
    return (const struct lora_pair *)((const char *)&lora->layer[l] + pair);
}

/* y += scale * (x A^T) B^T for the rows of each sequence that has an adapter; `pair` is where in
 * struct lora_layer its matrices are. Rows of a sequence follow one another, and no row's result
 * depends on its neighbours, so they are taken as they lie. */
static void adapt(struct ctx *c, struct acts *a, const struct batch *b, size_t l, size_t pair,
                  float *y, const float *x)
{
    const struct lora_scratch s = { a->low, a->max_rank, NULL, NULL };

    for (size_t t = 0, n; b->lora && t < b->T; t += n) {
        const struct lora *lora = run_of(b, t, &n);

        if (lora)
            lora_apply(c, pair_of(lora, l, pair), &s, y, x, t, n);
    }
}

/* The same where y had the product added to it; a->n and a->last are free then. */
static void adapt_add(struct ctx *c, struct acts *a, const struct batch *b, size_t l, size_t pair,
                      const struct weight *w, float *y, const float *x)
{
    const struct lora_scratch s = { a->low, a->max_rank, a->n, a->last };

    for (size_t t = 0, n; b->lora && t < b->T; t += n) {
        const struct lora *lora = run_of(b, t, &n);

        if (lora)
            lora_apply_add(c, pair_of(lora, l, pair), w, &s, y, x, t, n);
    }
}

/* y = rmsnorm(x), with an adapter's own weights for its rows; `norm` is where in struct lora_layer,
 * the last norm's where l is the number of layers. */
static void norm_fwd(struct ctx *c, const struct model *m, const struct batch *b, float *y,
                     const float *x, size_t T, const float *w, size_t l, size_t norm)
{
    const size_t D = (size_t)m->hp->dim;
    const float eps = (float)m->hp->eps;

    c->op->rmsnorm(c, y, x, w, T, D, eps);
    for (size_t t = 0, n; b->lora && t < b->T; t += n) {
        const struct lora *lora = run_of(b, t, &n);
        const float *own = !lora ? NULL
                           : l == lora->layers
                               ? lora->norm
                               : *(const float *const *)((const char *)&lora->layer[l] + norm);

        if (own)
            c->op->rmsnorm(c, y + t * D, x + t * D, own, n, D, eps);
    }
}

/* y = attention(rope(q), rope(k), v), q k v from rmsnorm(x). */
static void attn_fwd(struct ctx *c, const struct model *m, const struct layer *w, struct acts *a,
                     const struct kv_cache *kv, size_t l, const struct pass *p)
{
    const struct hparams *hp = m->hp;
    const size_t H = (size_t)hp->heads, K = (size_t)hp->kv_heads, hd = (size_t)hp->head_dim;
    const size_t T = p->at.T;
    const struct linear_out qkv[] = { { a->q, &w->q }, { a->k, &w->k }, { a->v, &w->v } };

    norm_fwd(c, m, p->b, a->n, a->x, T, w->attn_norm, l, offsetof(struct lora_layer, attn_norm));
    c->op->linear(c, qkv, ARRAY_LEN(qkv), a->n, T);
    adapt(c, a, p->b, l, offsetof(struct lora_layer, q), a->q, a->n);
    adapt(c, a, p->b, l, offsetof(struct lora_layer, k), a->k, a->n);
    adapt(c, a, p->b, l, offsetof(struct lora_layer, v), a->v, a->n);
    c->op->rope(c, a->q, H, hd, p->at.pos, m->inv_freq, hp->rope.interleaved, T);
    c->op->rope(c, a->k, K, hd, p->at.pos, m->inv_freq, hp->rope.interleaved, T);
    c->op->kv_write(c, a->k, a->v, kv, l, &p->at);
    c->op->attn(c, a->y, a->q, H, kv, l, &p->at);
}

/* x += o(y), x += down(silu(gate(n)) * up(n)), n = rmsnorm(x): T rows, all or, where there is no
 * adapter, any */
static void ffn_fwd(struct ctx *c, const struct model *m, const struct layer *w, struct acts *a,
                    size_t l, const struct pass *p, float *x, const float *y, size_t T)
{
    const struct hparams *hp = m->hp;
    const struct linear_out gate_up[] = { { a->g, &w->gate }, { a->u, &w->up } };

    c->op->linear_add(c, x, &w->o, y, T);
    adapt_add(c, a, p->b, l, offsetof(struct lora_layer, o), &w->o, x, y);
    norm_fwd(c, m, p->b, a->n, x, T, w->ffn_norm, l, offsetof(struct lora_layer, ffn_norm));
    c->op->linear(c, gate_up, ARRAY_LEN(gate_up), a->n, T);
    adapt(c, a, p->b, l, offsetof(struct lora_layer, gate), a->g, a->n);
    adapt(c, a, p->b, l, offsetof(struct lora_layer, up), a->u, a->n);
    c->op->swiglu(c, a->g, a->g, a->u, T, (size_t)hp->ffn);
    c->op->linear_add(c, x, &w->down, a->g, T);
    adapt_add(c, a, p->b, l, offsetof(struct lora_layer, down), &w->down, x, a->g);
}

/* logits of the wanted rows only, which are in a->last: the head is as large as a layer */
static void head_fwd(struct ctx *c, const struct model *m, struct acts *a, const struct pass *p)
{
    const size_t D = (size_t)m->hp->dim, n = p->at.n_want;
    const struct batch *b = p->b;
    const struct linear_out head = { p->logits, &m->head };
    const struct lora_scratch s = { a->low, a->max_rank, NULL, NULL };

    c->op->rmsnorm(c, a->n, a->last, m->norm, n, D, (float)m->hp->eps);
    c->op->linear(c, &head, 1, a->n, n);
    for (size_t i = 0; b->lora && i < n; i++) {
        const struct lora *lora = b->lora[b->seq[b->want[i]]];

        if (lora && lora->norm)
            c->op->rmsnorm(c, a->n + i * D, a->last + i * D, lora->norm, 1, D, (float)m->hp->eps);
        if (lora)
            lora_head(c, lora, &s, p->logits, a->n, p->V, i);
    }
}

/* The rows that want logits, to a->last. */
static void gather_last(struct ctx *c, const struct model *m, struct acts *a, const struct pass *p)
{
    if (p->at.n_want) {
        c->op->gather(c, a->last, a->x, p->at.want, p->at.n_want, (size_t)m->hp->dim);
        c->row = p->b->want;
    }
}

/* All that the last layer owes to rows that nobody wants is its keys and values: of a prompt's work
 * that is most of a layer. */
static void last_layer_fwd(struct ctx *c, const struct model *m, struct acts *a,
                           const struct kv_cache *kv, const struct pass *p)
{
    const struct hparams *hp = m->hp;
    const size_t H = (size_t)hp->heads, K = (size_t)hp->kv_heads, hd = (size_t)hp->head_dim;
    const size_t D = (size_t)hp->dim, T = p->at.T, n = p->at.n_want, l = (size_t)hp->layers - 1;
    const struct layer *w = &m->layer[l];
    const struct linear_out kv_out[] = { { a->k, &w->k }, { a->v, &w->v } }, q = { a->q, &w->q };

    c->op->rmsnorm(c, a->n, a->x, w->attn_norm, T, D, (float)hp->eps);
    c->op->linear(c, kv_out, ARRAY_LEN(kv_out), a->n, T);
    c->op->rope(c, a->k, K, hd, p->at.pos, m->inv_freq, hp->rope.interleaved, T);
    c->op->kv_write(c, a->k, a->v, kv, l, &p->at);
    gather_last(c, m, a, p);
    if (n == 0)
        return;
    c->op->rmsnorm(c, a->n, a->last, w->attn_norm, n, D, (float)hp->eps);
    c->op->linear(c, &q, 1, a->n, n);
    c->op->rope(c, a->q, H, hd, p->at_wanted.pos, m->inv_freq, hp->rope.interleaved, n);
    c->op->attn(c, a->y, a->q, H, kv, l, &p->at_wanted);
    ffn_fwd(c, m, w, a, l, p, a->last, a->y, n);
}

static void layers_fwd(struct ctx *c, const struct model *m, struct acts *a,
                       const struct kv_cache *kv, const struct pass *p, bool narrow)
{
    for (size_t l = 0; l + narrow < (size_t)m->hp->layers; l++) {
        attn_fwd(c, m, &m->layer[l], a, kv, l, p);
        ffn_fwd(c, m, &m->layer[l], a, l, p, a->x, a->y, p->at.T);
    }
    if (narrow)
        last_layer_fwd(c, m, a, kv, p);
    else
        gather_last(c, m, a, p);
}

/* Whether the last layer is for wanted rows alone. Devices are given passes of few rows whole, as
 * one launch, and so are adapters, whose runs of rows are those of the batch. */
static bool is_narrow(const struct ctx *c, const struct batch *b)
{
    enum { FEW = 64 };

    return (ctx_on_host(c) || b->T > FEW) && !b->hidden && !b->lora && b->n_want < b->T;
}

static struct batch wanted_of(const struct acts *a, const struct batch *b)
{
    const size_t n = b->n_want;
    int32_t *const pos = a->wanted, *const slot = pos + n, *const seq = slot + n;
    struct batch w = *b;

    for (size_t i = 0; i < n; i++) {
        pos[i] = b->pos[b->want[i]];
        slot[i] = b->slot[b->want[i]];
        seq[i] = b->seq[b->want[i]];
    }
    w.T = n;
    w.token = NULL;
    w.pos = pos;
    w.slot = slot;
    w.seq = seq;
    return w;
}

int llama_forward(struct ctx *c, const struct model *m, struct acts *a, const struct kv_cache *kv,
                  const struct batch *b, float *logits, struct err *e)
{
    struct pass p = { .b = b,
                      .out = logits,
                      .V = (size_t)m->hp->vocab,
                      .D = (size_t)m->hp->dim,
                      .key = { m, a, kv->layer } };
    const struct lora_scratch s = { a->low, a->max_rank, NULL, NULL };
    const bool narrow = is_narrow(c, b);

    BUG_ON(b->T > a->max_rows || b->n_want > b->T);
    if (narrow)
        p.wanted = wanted_of(a, b);
    model_place_next(m);
    const int rc = c->be->enter(c, &p, e);

    if (rc < 0)
        return -1;
    c->pass = b->prompt ? b : NULL;
    if (rc == 0) {
        c->op->embed(c, a->x, &m->embed, p.at.token, b->T);
        for (size_t t = 0, n; b->lora && t < b->T; t += n) {
            const struct lora *lora = run_of(b, t, &n);

            if (lora)
                lora_embed(c, lora, &s, a->x, b->token, t, n);
        }
        layers_fwd(c, m, a, kv, &p, narrow);
        if (b->hidden)
            norm_fwd(c, m, b, p.at.hidden, a->x, b->T, m->norm, (size_t)m->hp->layers, 0);
        if (b->n_want)
            head_fwd(c, m, a, &p);
    }
    c->pass = NULL;
    c->row = NULL;
    return c->be->leave(c, &p, e);
}
