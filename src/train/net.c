/* net.c - forward and backward of a model in training (MODEL.md, "Forward"). */
#include "train/net.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "ops/backend.h"
#include "train/net_int.h"

/* ---- room ---- */

struct sizes {
    size_t T, D, F, Q, KV, H, L, V, r;
};

static struct sizes sizes_of(const struct net *n, size_t T)
{
    const struct hparams *hp = n->m->hp;

    return (struct sizes){ .T = T,
                           .D = (size_t)hp->dim,
                           .F = (size_t)hp->ffn,
                           .Q = (size_t)(hp->heads * hp->head_dim),
                           .KV = (size_t)(hp->kv_heads * hp->head_dim),
                           .H = (size_t)hp->heads,
                           .L = (size_t)hp->layers,
                           .V = (size_t)hp->vocab,
                           .r = n->cfg.full ? 0 : n->cfg.rank };
}

/* The next `count` values of `each` bytes, at a multiple of 64; base NULL only counts. */
static void *take(char *base, size_t *at, size_t count, size_t each)
{
    char *p = base ? base + *at : NULL;

    *at += (count * each + 63) / 64 * 64;
    return p;
}

/* i activations on. */
static float *beside(const struct net *n, float *p, size_t i)
{
    return p ? (float *)(void *)((char *)p + i * act_bytes(n->c)) : NULL;
}

static void take_layer(struct net_saved *s, const struct net *n, const struct sizes *z, char *base,
                       size_t *at)
{
    const size_t each = act_bytes(n->c);

    s->q = take(base, at, z->T * z->Q, each);
    s->k = take(base, at, z->T * z->KV, each);
    s->v = take(base, at, z->T * z->KV, each);
    s->o = take(base, at, z->T * z->Q, each);
    s->lse = take(base, at, z->T * z->H, sizeof(float));
    s->x2 = take(base, at, z->T * z->D, each);
    s->g = take(base, at, z->T * z->F, each);
    s->u = take(base, at, z->T * z->F, each);
    for (size_t i = 0; i < NET_MATS; i++) {
        const struct net_group *g = net_group_of(n, i);

        if (g && i > g->first)
            s->low[i] = beside(n, s->low[g->first], (i - g->first) * z->r);
        else
            s->low[i] = n->cfg.targets >> i & 1
                            ? take(base, at, z->T * z->r * (g ? g->count : 1), each)
                            : NULL;
    }
}

/* On a device whole tiles of a product, and enough of them to fill it. */
static size_t loss_rows(const struct net *n, size_t V)
{
    const bool host = ctx_on_host(n->c);
    const size_t bytes = host ? LOSS_BYTES : LOSS_BYTES_DEVICE;
    const size_t fit = bytes / act_bytes(n->c) / V, most = fit < LOSS_ROWS ? fit : LOSS_ROWS;

    if (!host && most > LOSS_TILE)
        return most / LOSS_TILE * LOSS_TILE;
    return most < 1 ? 1 : most;
}

/* Lays everything out; base NULL only counts. Returns bytes. */
static size_t lay_out(struct net *n, size_t T, char *base)
{
    const struct sizes z = sizes_of(n, T);
    const size_t each = act_bytes(n->c);
    const size_t wide = z.F > z.Q ? z.F : z.Q, widest = wide > z.D ? wide : z.D;
    struct net_saved shared = { 0 }, none;
    size_t at = 0, most = 1; /* of a joined group */

    for (size_t k = 0; k < NET_GROUPS; k++)
        most = n->joined[k] && net_groups[k].count > most ? net_groups[k].count : most;

    if (n->cfg.recompute)
        take_layer(&shared, n, &z, base, &at);
    for (size_t l = 0; l < z.L; l++) {
        struct net_saved *s = base ? &n->saved[l] : &none;

        *s = shared;
        s->x = take(base, &at, T * z.D, each);
        if (l >= n->cfg.recompute)
            take_layer(s, n, &z, base, &at);
    }
    const struct {
        float **to;
        size_t values;
    } common[] = { { &n->x, z.D },   { &n->n, z.D },          { &n->dx, z.D }, { &n->dn, z.D },
                   { &n->h, z.F },   { &n->dh, widest },      { &n->dq, z.Q }, { &n->dk, z.KV },
                   { &n->dv, z.KV }, { &n->dlow, z.r * most } };

    for (size_t i = 0; i < ARRAY_LEN(common); i++)
        *common[i].to = take(base, &at, T * common[i].values, each);
    n->loss_rows = loss_rows(n, z.V);
    const size_t live = T < n->loss_rows ? T : n->loss_rows;

    const bool head = n->cfg.targets & NET_HEAD;
    const size_t most_out = head && live * z.V > T * widest ? live * z.V : T * widest;

    n->drop = n->cfg.dropout > 0 ? take(base, &at, T * widest, each) : NULL;
    n->whole = n->cfg.dora ? take(base, &at, most_out, each) : NULL;
    n->dwhole = n->cfg.dora ? take(base, &at, most_out, each) : NULL;
    n->embed_low = n->cfg.targets & NET_EMBED ? take(base, &at, T * z.r, each) : NULL;
    n->head_low = head ? take(base, &at, live * z.r, each) : NULL;
    n->logits = take(base, &at, live * z.V, each);
    n->rows = take(base, &at, live * z.D, each);
    n->drows = take(base, &at, live * z.D, each);
    return at;
}

static size_t slab_bytes(const struct net *n, size_t T)
{
    struct net count = *n;

    return lay_out(&count, T, NULL);
}

static size_t param_bytes(const struct net_cfg *cfg, size_t rows, size_t cols, enum param_kind kind)
{
    struct optim_part part[OPTIM_PARTS];
    const size_t k = optim_parts(cfg->optim, rows, cols, kind == PARAM_EMBEDDING, part);
    const size_t value = kind != PARAM_SMALL && cfg->stochastic ? sizeof(uint16_t) : sizeof(float);
    const size_t gradient =
        kind == PARAM_MATRIX && cfg->half_gradients ? sizeof(uint16_t) : sizeof(float);
    size_t bytes = rows * cols * (gradient + value);

    for (size_t i = 0; i < k; i++)
        bytes += part[i].n * enc_table[part[i].enc].bytes;
    return bytes;
}

static size_t pair_values(const struct net *n)
{
    size_t values = 0;

    for (int64_t l = 0; l < n->m->hp->layers; l++) {
        const struct layer *w = &n->m->layer[l];
        const struct weight *const all[] = {
            &w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down
        };

        for (size_t i = 0; i < ARRAY_LEN(all); i++)
            values += n->cfg.targets >> i & 1 ? n->cfg.rank * (all[i]->rows + all[i]->cols) : 0;
    }
    return values;
}

static size_t scratch_bytes(const struct net *n, const struct ctx *c, const struct train_ops *op,
                            size_t T)
{
    const struct sizes z = sizes_of(n, T);
    const enum enc enc = n->m->layer[0].up.enc, head = n->m->head.enc;
    const bool learns = n->cfg.full || n->cfg.save & 2 || n->cfg.targets & NET_HEAD; /* the head */
    const size_t a = z.D > z.F ? z.D : z.F, wide = a > z.Q ? a : z.Q;
    const struct train_need need = { .T = T,
                                     .wide = wide,
                                     .rows = learns ? loss_rows(n, z.V) : 0,
                                     .cols = learns ? z.V : 0,
                                     .hd = (size_t)n->m->hp->head_dim,
                                     .pairs = pair_values(n),
                                     .f8 = enc == ENC_F8,
                                     .adafactor = n->cfg.optim == OPTIMISER_ADAFACTOR,
                                     .encoded = (enc != ENC_BF16 && enc != ENC_F32) ||
                                                (head != ENC_BF16 && head != ENC_F32) };

    return op->scratch(c, &need);
}

/* Weights on a device that do not learn. */
static size_t device_bytes(const struct net *n, const struct ctx *c)
{
    const struct model *m = n->m;
    size_t bytes = 0;

    for (int64_t l = 0; l < m->hp->layers; l++) {
        const struct layer *w = &m->layer[l];
        const struct weight *const all[] = {
            &w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down
        };

        for (size_t i = 0; i < ARRAY_LEN(all) && (!n->cfg.full || n->cfg.reference); i++)
            bytes += c->be->placed_size(c, all[i]);
    }
    if (!n->cfg.full || n->cfg.reference)
        bytes += c->be->placed_size(c, m->hp->tied ? &m->embed : &m->head);
    return bytes;
}

size_t net_bytes_for(const struct model *m, const struct ctx *c, const struct train_ops *op,
                     const struct net_cfg *cfg, size_t T)
{
    struct net n = { .m = (struct model *)(uintptr_t)m,
                     .c = (struct ctx *)(uintptr_t)c,
                     .cfg = *cfg };
    size_t learn = 0;

    if (cfg->full)
        n.cfg.targets = 0;
    net_choose_joined(&n, NULL);
    const size_t D = (size_t)m->hp->dim, V = (size_t)m->hp->vocab;
    const size_t embedding = param_bytes(cfg, V, D, PARAM_EMBEDDING);
    const size_t head = param_bytes(cfg, V, D, PARAM_HEAD);

    for (int64_t l = 0; l < m->hp->layers; l++) {
        const struct layer *w = &m->layer[l];
        const struct weight *const all[] = {
            &w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down
        };

        for (size_t i = 0; i < ARRAY_LEN(all); i++)
            learn +=
                cfg->full ? param_bytes(cfg, all[i]->rows, all[i]->cols, PARAM_MATRIX)
                : cfg->targets >> i & 1
                    ? param_bytes(cfg, cfg->rank, all[i]->cols, PARAM_SMALL) +
                          param_bytes(cfg, all[i]->rows, cfg->rank + 4 * cfg->dora, PARAM_SMALL)
                    : 0;
    }
    if (cfg->full)
        learn += embedding + (m->hp->tied ? 0 : head);
    else
        learn += (cfg->save & 1 ? embedding : 0) + (cfg->save & 2 ? head : 0);
    for (unsigned at = NET_EMBED; at <= NET_HEAD && !cfg->full; at <<= 1)
        if (cfg->targets & at)
            learn +=
                param_bytes(cfg, cfg->rank, at == NET_EMBED ? V : D, PARAM_SMALL) +
                param_bytes(cfg, at == NET_EMBED ? D : V, cfg->rank + 4 * cfg->dora, PARAM_SMALL);
    return slab_bytes(&n, T) + learn + scratch_bytes(&n, c, op, T) +
           (ctx_on_host(c) ? 0 : device_bytes(&n, c));
}

/* A device's copies of a batch's arrays, and of what its loss reads and writes. */
static int reserve_arrays(struct net *n, size_t T, struct err *e)
{
    const size_t words = (4 * T + 1) + 4 * T;
    void *p;

    n->c->be->release(n->c, n->ints, 0);
    n->ints = NULL;
    if (n->c->be->alloc(n->c, &p, words * sizeof(int32_t), "a batch", e))
        return -1;
    n->ints = p;
    return 0;
}

int net_reserve(struct net *n, size_t T, struct err *e)
{
    void *p;

    if (T <= n->max_T)
        return 0;
    const size_t bytes = slab_bytes(n, T);

    if (!ctx_on_host(n->c) && T > NET_DEVICE_ROWS)
        return err_set(e, ERR_USAGE, "a batch of %zu tokens: the GPU takes at most %d", T,
                       (int)NET_DEVICE_ROWS);
    n->c->be->release(n->c, n->slab, n->slab_bytes);
    n->slab = NULL;
    n->max_T = 0;
    if ((!ctx_on_host(n->c) && reserve_arrays(n, T, e)) ||
        n->c->be->alloc(n->c, &p, bytes, "activations of training", e))
        return -1;
    n->slab = p;
    n->slab_bytes = bytes;
    n->max_T = T;
    lay_out(n, T, p);
    return 0;
}

/* ---- matrices ---- */

/* Activations, and parameters, as operands. */
static struct mat rows(const float *p, size_t ld)
{
    return (struct mat){ .p = p, .rs = ld, .cs = 1, .act = true };
}

static struct mat cols(const float *p, size_t ld)
{
    return (struct mat){ .p = p, .rs = 1, .cs = ld, .act = true };
}

static struct mat own_rows(const float *p, size_t ld)
{
    return (struct mat){ .p = p, .rs = ld, .cs = 1 };
}

static struct mat own_cols(const float *p, size_t ld)
{
    return (struct mat){ .p = p, .rs = 1, .cs = ld };
}

/* Activations c. */
static void product(struct net *n, float *c, size_t M, size_t N, size_t K, struct mat a,
                    struct mat b, float by, bool add)
{
    const struct product p = { c, M, N, K, a, b, by, add, true, N };

    n->op->product(n->c, &p);
}

/* A parameter's gradient [M, N] += by a b, or = where nothing came yet. */
static void gradient(struct net *n, struct param *of, size_t M, size_t N, size_t K, struct mat a,
                     struct mat b, float by)
{
    const struct product p = { of->g, M, N, K, a, b, by, !of->fresh, of->half_g, N };

    of->fresh = false;
    n->op->product(n->c, &p);
}

/* Of the values that m's pair sees in this batch: which stay. */
static uint64_t drawn(const struct net *n, const struct net_mat *m)
{
    return rng_u64(n->cfg.seed ^ 0x64726f70, n->batch << 20 | m->number);
}

/* What m's pair sees of x[T, cols]: x, or some of it. */
static const float *seen(struct net *n, const struct net_mat *m, const float *x, size_t T)
{
    if (!n->learning || n->cfg.dropout <= 0)
        return x;
    n->op->dropout(n->c, n->drop, x, T * m->w.cols, (float)n->cfg.dropout, drawn(n, m), false);
    return n->drop;
}

/* low[T, r] = x A^T */
static void pair_low(struct net *n, const struct net_mat *m, const float *x, float *low, size_t T)
{
    const size_t in = m->w.cols;

    product(n, low, T, m->a->rows, in, rows(seen(n, m, x, T), in), own_cols(m->a->w, in), 1, false);
}

/* y[T, rows] = to + x W^T + scale low B^T; `to` as linear_fwd has it; low: rows ld apart. The large
 * product adds to the small one, which costs less than another pass over y. */
static void pair_out(struct net *n, const struct net_mat *m, float *y, const float *x,
                     const float *low, size_t ld, size_t T, const float *to)
{
    const size_t r = m->a->rows;

    if (to)
        n->op->linear_fwd(n->c, y, &m->w, x, T, to);
    product(n, y, T, m->w.rows, r, rows(low, ld), own_cols(m->b->w, r), n->scale, to);
    if (!to)
        n->op->linear_fwd(n->c, y, &m->w, x, T, y);
}

/* y = to + W x + (gain - 1) W d + gain scale B A d; d is in n->drop, A d in low */
static void dora_drop_fwd(struct net *n, const struct net_mat *m, float *y, const float *x,
                          const float *low, size_t T, const float *to)
{
    const size_t r = m->a->rows, out = m->w.rows;

    n->op->linear_fwd(n->c, y, &m->w, x, T, to);
    n->op->linear_fwd(n->c, n->whole, &m->w, n->drop, T, NULL);
    n->op->col_scale(n->c, y, n->whole, m->gain_less, T, out, true);
    product(n, n->whole, T, out, r, rows(low, r), own_cols(m->b->w, r), n->scale, false);
    n->op->col_scale(n->c, y, n->whole, m->gain, T, out, true);
}

/* y[T, rows] = to + what m makes of x[T, cols] */
static void mat_fwd(struct net *n, const struct net_mat *m, float *y, const float *x, float *low,
                    size_t T, const float *to)
{
    if (!m->a || !n->adapters) {
        n->op->linear_fwd(n->c, y, n->adapters ? &m->w : &m->base, x, T, to);
        return;
    }
    pair_low(n, m, x, low, T);
    if (m->mag && n->learning && n->cfg.dropout > 0) {
        dora_drop_fwd(n, m, y, x, low, T, to);
        return;
    }
    if (!m->mag) {
        pair_out(n, m, y, x, low, m->a->rows, T, to);
        return;
    }
    pair_out(n, m, to ? n->whole : y, x, low, m->a->rows, T, NULL);
    if (to && to != y)
        n->op->copy(n->c, y, to, T * m->w.rows * act_bytes(n->c));
    n->op->col_scale(n->c, y, to ? n->whole : y, m->gain, T, m->w.rows, to);
}

/* Gradients of m's parameters, and dx = or += that of x; dx NULL = nothing below learns. */
static void mat_bwd(struct net *n, const struct net_mat *m, float *dx, const float *dy,
                    const float *x, const float *low, size_t T, bool add)
{
    const size_t in = m->w.cols, out = m->w.rows;
    const bool drop = n->cfg.dropout > 0;
    const float *below = dy; /* of what dropout does not reach */

    if (m->own)
        gradient(n, m->own, out, in, T, cols(dy, out), rows(x, in), 1);
    if (m->mag) {
        pair_out(n, m, n->whole, seen(n, m, x, T), low, m->a->rows, T, NULL);
        n->op->col_dot(n->c, m->mag->g, dy, n->whole, m->length, T, out);
        n->op->col_scale(n->c, n->dwhole, dy, m->gain, T, out, false);
        if (drop)
            n->op->col_scale(n->c, n->whole, dy, m->gain_less, T, out, false);
        dy = n->dwhole;
        below = drop ? below : dy;
    }
    if (dx && (drop || !m->a))
        n->op->linear_dx(n->c, dx, &m->w, below, T, add);
    if (!m->a)
        return;
    const size_t r = m->a->rows;

    product(n, n->dlow, T, r, out, rows(dy, out), own_rows(m->b->w, r), n->scale, false);
    gradient(n, m->b, out, r, T, cols(dy, out), rows(low, r), n->scale);
    gradient(n, m->a, r, in, T, cols(n->dlow, r), rows(seen(n, m, x, T), in), 1);
    if (!dx)
        return;
    product(n, drop ? n->drop : dx, T, in, r, rows(n->dlow, r), own_rows(m->a->w, in), 1,
            !drop && add);
    if (!drop) /* the large product last: pair_out */
        n->op->linear_dx(n->c, dx, &m->w, below, T, true);
    if (drop && m->mag)
        n->op->linear_dx(n->c, n->drop, &m->w, n->whole, T, true);
    if (drop)
        n->op->dropout(n->c, dx, n->drop, T * in, (float)n->cfg.dropout, drawn(n, m), true);
}

/* ---- matrices that see one input x, with their pairs where these are joined ---- */

/* y[i][T, rows] of each. */
static void group_fwd(struct net *n, struct net_layer *w, size_t k, float *const *y, const float *x,
                      float *const *low, size_t T)
{
    const struct net_group *g = &net_groups[k];
    const bool joined = n->joined[k] && n->adapters;
    const struct net_mat *first = net_layer_mat(w, g->first);

    if (joined) {
        const size_t in = first->w.cols, all = g->count * first->a->rows;

        product(n, low[g->first], T, all, in, rows(x, in), own_cols(first->a->w, in), 1, false);
    }
    for (size_t i = 0; i < g->count; i++) {
        const struct net_mat *m = net_layer_mat(w, g->first + i);

        if (joined)
            pair_out(n, m, y[i], x, low[g->first + i], g->count * m->a->rows, T, NULL);
        else
            mat_fwd(n, m, y[i], x, low[g->first + i], T, NULL);
    }
}

/* From dy of each; dx = that of x, or NULL. */
static void group_bwd(struct net *n, struct net_layer *w, size_t k, float *dx, float *const *dy,
                      const float *x, float *const *low, size_t T)
{
    const struct net_group *g = &net_groups[k];
    const struct net_mat *m[NET_MATS] = { NULL };

    for (size_t i = 0; i < g->count; i++)
        m[i] = net_layer_mat(w, g->first + i);
    if (!n->joined[k]) {
        for (size_t i = 0; i < g->count; i++)
            mat_bwd(n, m[i], dx, dy[i], x, low[g->first + i], T, i > 0);
        return;
    }
    const size_t in = m[0]->w.cols, r = m[0]->a->rows, all = g->count * r;

    for (size_t i = 0; i < g->count; i++) {
        const size_t out = m[i]->w.rows;
        const struct product p = { .c = beside(n, n->dlow, i * r),
                                   .M = T,
                                   .N = r,
                                   .K = out,
                                   .a = rows(dy[i], out),
                                   .b = own_rows(m[i]->b->w, r),
                                   .by = n->scale,
                                   .act = true,
                                   .ldc = all };

        n->op->product(n->c, &p);
        gradient(n, m[i]->b, out, r, T, cols(dy[i], out), rows(low[g->first + i], all), n->scale);
    }
    gradient(n, m[0]->a, all, in, T, cols(n->dlow, all), rows(x, in), 1);
    for (size_t i = 1; i < g->count; i++)
        m[i]->a->fresh = false;
    if (!dx)
        return;
    product(n, dx, T, in, all, rows(n->dlow, all), own_rows(m[0]->a->w, in), 1, false);
    for (size_t i = 0; i < g->count; i++)
        n->op->linear_dx(n->c, dx, &m[i]->w, dy[i], T, true);
}

void net_dora_gain(struct net *n, struct net_mat *m)
{
    const size_t r = m->a->rows, in = m->w.cols, out = m->w.rows;
    float *const aw = n->dora, *const aa = aw + r * out;
    const enum compute compute = n->c->compute;
    const bool half = n->c->half;
    const struct mat rows_of_a = own_rows(m->a->w, in), cols_of_a = own_cols(m->a->w, in);
    const struct product square = {
        .c = aa, .M = r, .N = r, .K = in, .a = rows_of_a, .b = cols_of_a, .by = 1
    };
    const struct dora d = { .mag = m->mag->w,
                            .b = m->b->w,
                            .squares = m->squares,
                            .aw = aw,
                            .aa = aa,
                            .gain = m->gain,
                            .gain_less = m->gain_less,
                            .length = m->length,
                            .out = out,
                            .r = r,
                            .scale = n->scale };

    /* a length is wanted to the last bits, whatever products are in */
    n->c->compute = COMPUTE_F32;
    n->c->half = false;
    n->op->linear_fwd(n->c, aw, &m->w, m->a->w, r, NULL);
    n->op->product(n->c, &square);
    n->op->dora_gain(n->c, &d);
    n->c->compute = compute;
    n->c->half = half;
}

void net_changed(struct net *n)
{
    for (int64_t l = 0; n->cfg.dora && l < n->m->hp->layers; l++)
        for (size_t i = 0; i < NET_MATS; i++) {
            struct net_mat *m = net_layer_mat(&n->layer[l], i);

            if (m->mag)
                net_dora_gain(n, m);
        }
    if (n->head.mag)
        net_dora_gain(n, &n->head);
}

/* ---- a layer ---- */

static struct attn_shape shape_of(const struct net *n, const struct net_batch *b)
{
    const struct hparams *hp = n->m->hp;
    size_t longest = 0;

    for (size_t i = 0; i < b->n_seq; i++) {
        const size_t len = (size_t)(b->cu[i + 1] - b->cu[i]);

        longest = len > longest ? len : longest;
    }
    return (struct attn_shape){ .H = (size_t)hp->heads,
                                .K = (size_t)hp->kv_heads,
                                .hd = (size_t)hp->head_dim,
                                .cu = n->at.cu,
                                .n_seq = b->n_seq,
                                .T = b->T,
                                .longest = longest };
}

static void norm_fwd(struct net *n, float *y, const float *x, const float *w, size_t T)
{
    n->c->op->rmsnorm(n->c, y, x, w, T, (size_t)n->m->hp->dim, (float)n->m->hp->eps);
}

/* s->x is there; the rest of s follows, and the layer's output to y. y NULL: what the backward pass
 * needs is computed again, no more. */
static void layer_fwd(struct net *n, const struct net_batch *b, size_t l, struct net_saved *s,
                      float *y)
{
    struct net_layer *w = &n->layer[l];
    const struct hparams *hp = n->m->hp;
    const struct attn_shape shape = shape_of(n, b);
    const size_t T = b->T;
    const bool turned = hp->rope.interleaved;

    norm_fwd(n, n->n, s->x, n->adapters ? w->attn_norm : n->base_norm[2 * l], T);
    group_fwd(n, w, 0, (float *[]){ s->q, s->k, s->v }, n->n, s->low, T);
    n->c->op->rope(n->c, s->q, shape.H, shape.hd, n->at.pos, n->inv_freq, turned, T);
    n->c->op->rope(n->c, s->k, shape.K, shape.hd, n->at.pos, n->inv_freq, turned, T);
    n->op->attn(n->c, s->o, s->lse, &shape, s->q, s->k, s->v);
    mat_fwd(n, &w->o, s->x2, s->o, s->low[3], T, s->x);
    norm_fwd(n, n->n, s->x2, n->adapters ? w->ffn_norm : n->base_norm[2 * l + 1], T);
    group_fwd(n, w, 1, (float *[]){ s->g, s->u }, n->n, s->low, T);
    if (!y && !s->low[6])
        return;
    n->c->op->swiglu(n->c, n->h, s->g, s->u, T, (size_t)hp->ffn);
    if (!y) {
        pair_low(n, &w->down, n->h, s->low[6], T);
        return;
    }
    mat_fwd(n, &w->down, y, n->h, s->low[6], T, s->x2);
}

/* Whether a backward pass through m asks for its input. */
static bool learns(const struct net_mat *m)
{
    return m->own || m->a;
}

/* n->dx: gradient of the layer's output, becomes that of its input. below: whether it is wanted. */
static void layer_bwd(struct net *n, const struct net_batch *b, size_t l, const struct net_saved *s,
                      bool below)
{
    struct net_layer *w = &n->layer[l];
    const struct hparams *hp = n->m->hp;
    const struct attn_shape shape = shape_of(n, b);
    const size_t T = b->T, D = (size_t)hp->dim, F = (size_t)hp->ffn;
    const float eps = (float)hp->eps;
    const bool turned = hp->rope.interleaved;

    if (learns(&w->down))
        n->c->op->swiglu(n->c, n->h, s->g, s->u, T, F);
    mat_bwd(n, &w->down, n->dh, n->dx, n->h, s->low[6], T, false);
    n->op->swiglu_bwd(n->c, s->g, s->u, n->dh, s->g, s->u, T, F);
    if (learns(&w->gate) || learns(&w->up))
        norm_fwd(n, n->n, s->x2, w->ffn_norm, T);
    group_bwd(n, w, 1, n->dn, (float *[]){ s->g, s->u }, n->n, s->low, T);
    n->op->rmsnorm_bwd(n->c, n->dx, w->own_ffn_norm ? w->own_ffn_norm->g : NULL, n->dn, s->x2,
                       w->ffn_norm, T, D, eps);

    float *dy = n->dh; /* [T, Q] fits, or lay_out makes it */

    mat_bwd(n, &w->o, dy, n->dx, s->o, s->low[3], T, false);
    n->op->attn_bwd(n->c, n->dq, n->dk, n->dv, dy, &shape, s->q, s->k, s->v, s->o, s->lse);
    n->c->op->rope(n->c, n->dq, shape.H, shape.hd, n->at.back, n->inv_freq, turned, T);
    n->c->op->rope(n->c, n->dk, shape.K, shape.hd, n->at.back, n->inv_freq, turned, T);
    if (learns(&w->q) || learns(&w->k) || learns(&w->v))
        norm_fwd(n, n->n, s->x, w->attn_norm, T);
    group_bwd(n, w, 0, below ? n->dn : NULL, (float *[]){ n->dq, n->dk, n->dv }, n->n, s->low, T);
    if (below)
        n->op->rmsnorm_bwd(n->c, n->dx, w->own_attn_norm ? w->own_attn_norm->g : NULL, n->dn, s->x,
                           w->attn_norm, T, D, eps);
}

/* ---- the passes ---- */

void net_draw(struct net *n, uint64_t batch)
{
    n->batch = batch;
}

/* Noise on embeddings (NEFTune, Jain et al. 2023), by the length of each sequence. */
static void noise(struct net *n, const struct net_batch *b, float *x)
{
    const size_t D = (size_t)n->m->hp->dim;
    const uint64_t seed = rng_u64(n->cfg.seed ^ 0x6e656674, n->batch);

    for (size_t s = 0; s < b->n_seq; s++) {
        const size_t len = (size_t)(b->cu[s + 1] - b->cu[s]);
        const size_t at = (size_t)b->cu[s] * D;

        float *to = (float *)(void *)((char *)x + at * act_bytes(n->c));

        n->op->noise(n->c, to, len * D, at, n->cfg.neftune / sqrt((double)(len * D)), seed);
    }
}

/* x[T, D] += scale B (columns of A), which are left in embed_low. */
static void embed_pair_fwd(struct net *n, const struct net_batch *b, float *x)
{
    const struct param *a = n->embed.a;
    const size_t r = a->rows, V = a->cols, D = n->embed.b->rows;

    n->op->columns(n->c, n->embed_low, a->w, n->at.ids, b->T, r, V);
    product(n, x, b->T, D, r, rows(n->embed_low, r), own_cols(n->embed.b->w, r), n->scale, true);
}

/* From dx, the gradient of the embedding's rows; embed_low is still there. */
static void embed_pair_bwd(struct net *n, const struct net_batch *b)
{
    struct param *a = n->embed.a;
    const size_t T = b->T, r = a->rows, V = a->cols, D = n->embed.b->rows;

    product(n, n->dlow, T, r, D, rows(n->dx, D), own_rows(n->embed.b->w, r), n->scale, false);
    gradient(n, n->embed.b, D, r, T, cols(n->dx, D), rows(n->embed_low, r), n->scale);
    n->op->embed_bwd(n->c, a->g, 1, V, n->dlow, n->at.ids, T, r);
}

/* The batch's arrays to where ops read them. */
static int take_batch(struct net *n, const struct net_batch *b, struct err *e)
{
    n->at = *b;
    if (ctx_on_host(n->c))
        return 0;
    const int32_t *const from[] = { b->ids, b->pos, b->back, b->cu };
    int32_t **const to[] = { &n->at.ids, &n->at.pos, &n->at.back, &n->at.cu };

    for (size_t i = 0; i < ARRAY_LEN(to); i++) {
        *to[i] = n->ints + i * b->T;
        if (param_write(&n->params, *to[i], from[i],
                        (i < 3 ? b->T : b->n_seq + 1) * sizeof(int32_t), e))
            return -1;
    }
    return 0;
}

int net_forward(struct net *n, const struct net_batch *b, bool keep, struct err *e)
{
    const size_t L = (size_t)n->m->hp->layers;

    BUG_ON(b->T > n->max_T || b->n_seq > b->T);
    if (take_batch(n, b, e))
        return -1;
    n->c->op->embed(n->c, n->saved[0].x, n->adapters ? &n->embed.w : &n->embed.base, n->at.ids,
                    b->T);
    if (n->embed.a && n->adapters)
        embed_pair_fwd(n, b, n->saved[0].x);
    n->learning = keep;
    if (keep && n->cfg.neftune > 0)
        noise(n, b, n->saved[0].x);
    for (size_t l = 0; l < L; l++) {
        struct net_saved s = n->saved[keep ? l : 0];
        float *y = l + 1 == L ? n->x : n->saved[keep ? l + 1 : 0].x;

        s.x = n->saved[keep ? l : 0].x;
        layer_fwd(n, b, l, &s, y);
    }
    return 0;
}

/* Rows that have a target: number, label, coefficient, and their loss. */
struct asked {
    size_t m;
    int32_t *rows, *label; /* [m] each */
    float *by, *nll;
};

static struct asked asked_of(int32_t *words, size_t each)
{
    float *const f = (float *)(void *)(words + 2 * each);

    return (struct asked){ .rows = words, .label = words + each, .by = f, .nll = f + each };
}

/* To where ops read and write them. */
static int take_asked(struct net *n, struct asked *at, const struct asked *all, struct err *e)
{
    *at = *all;
    if (ctx_on_host(n->c))
        return 0;
    *at = asked_of(n->ints + 4 * n->max_T + 1, all->m);
    return param_write(&n->params, at->rows, all->rows, 3 * all->m * sizeof(int32_t), e);
}

/* Rows i .. i + m. */
static void part_loss(struct net *n, const struct asked *at, size_t i, size_t m, bool grad)
{
    const size_t D = (size_t)n->m->hp->dim, V = (size_t)n->m->hp->vocab;
    const struct loss_form form = { (float)n->cfg.smoothing, n->cfg.dft };

    n->c->op->gather(n->c, n->n, n->x, at->rows + i, m, D); /* rows of x */
    norm_fwd(n, n->rows, n->n, n->adapters ? n->norm : n->base_norm[2 * n->m->hp->layers], m);
    mat_fwd(n, &n->head, n->logits, n->rows, n->head_low, m, NULL);
    n->op->cross_entropy(n->c, at->nll + i, n->logits, at->label + i, grad ? at->by + i : NULL,
                         form, m, V);
    if (!grad)
        return;
    float *dn = n->drows, *dx = n->dn;

    n->op->zero(n->c, dx, m * D * act_bytes(n->c));
    mat_bwd(n, &n->head, dn, n->logits, n->rows, n->head_low, m, false);
    n->op->rmsnorm_bwd(n->c, dx, n->own_norm ? n->own_norm->g : NULL, dn, n->n, n->norm, m, D,
                       (float)n->m->hp->eps);
    n->op->scatter(n->c, n->dx, dx, at->rows + i, m, D);
}

int net_loss(struct net *n, const struct net_batch *b, const float *coef, float *nll, struct err *e)
{
    const size_t L = (size_t)n->m->hp->layers;
    int32_t *words = xmalloc((4 * b->T + 1) * sizeof(*words));
    size_t m = 0, part = 0;
    int rc = -1;

    memset(nll, 0, b->T * sizeof(*nll));
    for (size_t t = 0; t < b->T; t++)
        m += b->target[t] >= 0;
    struct asked all = asked_of(words, m), at;

    for (size_t t = 0; t < b->T; t++) {
        if (b->target[t] < 0)
            continue;
        all.rows[all.m] = (int32_t)t;
        all.label[all.m] = b->target[t];
        all.by[all.m++] = coef ? coef[t] : 0;
    }
    if (take_asked(n, &at, &all, e))
        goto done;
    if (coef)
        n->op->zero(n->c, n->dx, b->T * (size_t)n->m->hp->dim * act_bytes(n->c));
    for (size_t i = 0; i < m; i += n->loss_rows) {
        n->head.number = L * NET_MATS + part++; /* a part's dropout is its own */
        part_loss(n, &at, i, m - i < n->loss_rows ? m - i : n->loss_rows, coef);
    }
    if (!ctx_on_host(n->c) && (n->c->be->settle(n->c, e) ||
                               param_read(&n->params, all.nll, at.nll, m * sizeof(*all.nll), e)))
        goto done;
    for (size_t i = 0; i < m; i++)
        nll[all.rows[i]] = all.nll[i];
    rc = 0;
done:
    free(words);
    return rc;
}

void net_backward(struct net *n, const struct net_batch *b)
{
    const size_t L = (size_t)n->m->hp->layers, D = (size_t)n->m->hp->dim;
    const bool below = n->embed.own || n->embed.a || n->layer[0].own_attn_norm;

    for (size_t l = L; l-- > 0;) {
        if (l < n->cfg.recompute)
            layer_fwd(n, b, l, &n->saved[l], NULL);
        layer_bwd(n, b, l, &n->saved[l], l > 0 || below);
    }
    if (n->embed.own)
        n->op->embed_bwd(n->c, n->embed.own->g, D, 1, n->dx, n->at.ids, b->T, D);
    if (n->embed.a)
        embed_pair_bwd(n, b);
}
