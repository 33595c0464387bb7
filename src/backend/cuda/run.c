/* run.c - what ops.c noted, launched: which kernel, on which grid, and which neighbours share one.
 *
 * With few rows all layers are one kernel (program.c), each of five phases: q k v; attention with
 * the rotation and the cache; o, which adds to the residual and writes the next norm's input; gate
 * and up with the gated product; down, which does as o does. A norm's own factor comes out of the
 * sums of squares that o and down leave behind, and is applied to what the product makes of the
 * unnormalised row. */
#include <math.h>
#include <string.h>

#include "backend/cuda/run_int.h"

enum { THREADS = 256, CHUNK = DEV_CHUNK };

const struct dev_weight *cuda_placed(const struct weight *w)
{
    if (!w->placed)
        BUG("%s is not on the device", w->name);
    return &((struct placed *)w->placed)->w;
}

/* ---- neighbours in one kernel ---- */

static bool streams(const struct cuda *b, const struct op *o)
{
    for (size_t i = 0; i < o->n; i++)
        if (route_of(b, o->out[i].w, o->T) != ROUTE_STREAM)
            return false;
    return o->kind == OP_LINEAR && o->T > 0 && o->T <= DEV_STREAM_ROWS;
}

/* By wide_wgmma.cu. */
static bool is_wide(const struct cuda *b, const struct op *o)
{
    if (!b->wgmma || o->kind != OP_LINEAR || o->T == 0)
        return false;
    for (size_t i = 0; i < o->n; i++)
        if (route_of(b, o->out[i].w, o->T) != ROUTE_WIDE)
            return false;
    return true;
}

/* gate and up, swiglu, and a product of that: the gated values in 16 bits alone. */
static bool gated(struct cuda *b, size_t i)
{
    const struct op *o = &b->op[i], *s = &b->op[i + 1];
    const bool wide = is_wide(b, o);
    struct inputs made;

    if (i + 2 >= b->n_op || o->n != 2 || o->add || (!wide && !streams(b, o)) ||
        s->kind != OP_SWIGLU || s->x != o->out[0].y || s->u != o->out[1].y || s->T != o->T)
        return false;
    const struct weight *g = o->out[0].w, *u = o->out[1].w;
    const struct inputs in = inputs_of(b, g, o->T);
    const struct op *next = op_consumer(b, i + 1, s->y, s->T, s->D);
    const size_t n = s->T * s->D;

    if (!next || !inputs_made(b, next, s->D, &made) || g->rows != u->rows ||
        !product_same_stream(cuda_placed(g), cuda_placed(u)) || !inputs_same(b, g, u, o->T) ||
        !op_dead(b, i + 3, s->y, n) || (s->y != s->x && !op_dead(b, i + 2, s->x, n)) ||
        !op_dead(b, i + 2, s->u, n) || !input_prepare(b, &in, g, o->x, o->T) ||
        !input_room_made(b, &made, s->T, s->D))
        return false;
    struct stream_args a = product_stream(b, o->out, 2, o->T, false);

    a.swiglu = 1;
    input_make(b, &made, s->D, &a);
    if (wide)
        product_gated_wide(b, &a, made.image, o + 2);
    else
        program_stream(b, &a);
    input_have_made(b, &made, s->y, s->T, s->D, false);
    return true;
}

static bool is_library(const struct cuda *b, const struct op *o)
{
    for (size_t i = 0; i < o->n; i++)
        if (route_of(b, o->out[i].w, o->T) != ROUTE_LIBRARY)
            return false;
    return o->kind == OP_LINEAR && o->n > 0 && o->T > 0;
}

/* Whether the input of all products of o is there as they take it, and nothing but they remain. */
static bool input_ready(struct cuda *b, const struct op *o)
{
    for (size_t i = 0; i < o->n; i++) {
        const struct inputs in = inputs_of(b, o->out[i].w, o->T);
        const int kind = cuda_placed(o->out[i].w)->kind;

        if (product_takes_f8(b, o->out[i].w, &in)) {
            if (b->have8.x != o->x || b->have8.T != o->T ||
                !weight_same_act(b->have8.w, o->out[i].w) || !product_all_f8(b, o))
                return false;
        } else if ((kind != DEV_B16 && kind != DEV_H16) || !inputs_plain(&in) ||
                   b->have.x != o->x || b->have.T != o->T || b->have.kp != (int)in.kp ||
                   b->have.mode != in.mode || b->have.image != in.image) {
            return false;
        }
    }
    return true;
}

/* Queries, keys and values of many rows, side by side: those of keys and values do not fill the
 * device. half: as for library, of each. How many of o's outputs are there. */
static size_t side_by_side(struct cuda *b, const struct op *o, void *const *half)
{
    size_t n = 0;

    if (o->n != 1 + BLAS_SIDES || !is_library(b, o) || !input_ready(b, o) || b->failed)
        return 0;
    program_flush(b);
    cuda_ok(b, b->d.cuEventRecord(b->fork, b->stream), "products");
    for (size_t i = 0; i < o->n; i++) {
        const struct inputs in = inputs_of(b, o->out[i].w, o->T);

        if (i)
            cuda_ok(b, b->d.cuStreamWaitEvent(b->side[i - 1], b->fork, 0), "products");
        b->lane = i;
        n += n == i && product_library(b, &o->out[i], o->x, o->T, o->add, &in, half[i]);
        b->lane = 0;
        if (i) {
            cuda_ok(b, b->d.cuEventRecord(b->joined[i - 1], b->side[i - 1]), "products");
            cuda_ok(b, b->d.cuStreamWaitEvent(b->stream, b->joined[i - 1], 0), "products");
        }
    }
    return n;
}

/* Where the gated values go for the product o: in E4M3 or 16 bits; false: as they are. */
static bool gated_for(struct cuda *b, const struct op *o, struct gated_args *a)
{
    const struct weight *w = o->out[0].w;
    const struct inputs in = inputs_of(b, w, o->T);
    struct act_args f = input_act(&in, w, o->x, o->T);

    a->kp = (int)in.kp;
    a->mode16 = in.mode;
    a->act = f.act;
    a->bound = f.bound;
    a->scale = f.scale;
    if (in.kp > GATED_MOST || o->n != 1)
        return false;
    if (product_takes_f8(b, w, &in)) {
        if (!product_all_f8(b, o) || !input_room_f8(b, &f))
            return false;
        a->y8 = f.y8;
        a->scales = f.scales;
        return true;
    }
    if (!inputs_plain(&in) || !cuda_room(b, input_next16(b), o->T * in.kp * sizeof(uint16_t)))
        return false;
    a->y16 = (uint16_t *)(uintptr_t)input_next16(b)->p;
    return true;
}

/* Where the product o reads inputs in bf16 and no more; NULL: it does not. */
static uint16_t *gated_there(struct cuda *b, const struct op *o)
{
    const struct inputs in = inputs_of(b, o->out[0].w, o->T);

    return o->n == 1 && inputs_plain(&in) && in.mode == PREP_BF16 && in.kp == o->D &&
                   cuda_room(b, input_next16(b), o->T * in.kp * sizeof(uint16_t))
               ? (uint16_t *)(uintptr_t)input_next16(b)->p
               : NULL;
}

/* The gated values of o in bf16 by one kernel of ours: where they are, as `next` takes them if
 * *there; NULL: there is no such kernel. */
static uint16_t *gated_at_once(struct cuda *b, const struct op *o, const struct op *next,
                               bool *there)
{
    const struct inputs in = inputs_of(b, o->out[0].w, o->T);
    const bool f8 = product_takes_f8(b, o->out[0].w, &in);
    struct blas_product p[2];

    if (f8 ? !product_all_f8(b, o) || !input_prepare_f8(b, &in, o->out[0].w, o->x, o->T)
           : !inputs_same(b, o->out[0].w, o->out[1].w, o->T) ||
                 !input_prepare(b, &in, o->out[0].w, o->x, o->T))
        return NULL;
    uint16_t *y = gated_there(b, next);

    *there = y != NULL;
    if (!y && cuda_room(b, &b->gate_up, o->T * next->D * sizeof(*y)))
        y = (uint16_t *)(uintptr_t)b->gate_up.p;
    for (size_t i = 0; i < 2; i++) {
        if (!y || (!f8 && cuda_placed(o->out[i].w)->kind != DEV_B16))
            return NULL;
        p[i] = f8 ? product_f8(b, &o->out[i], o->T, false, y)
                  : product16(b, &o->out[i], o->T, false, y);
    }
    return gemm_gated(b, p, y) ? y : NULL;
}

/* The same of many rows: gate and up, or what comes of them, are in bf16 between, as reference
 * libraries have them. */
static bool gated_many(struct cuda *b, size_t i)
{
    const struct op *o = &b->op[i], *s = &b->op[i + 1];

    if (i + 2 >= b->n_op || o->n != 2 || o->add || !is_library(b, o) || s->kind != OP_SWIGLU ||
        s->x != o->out[0].y || s->u != o->out[1].y || s->T != o->T || s->D % 8)
        return false;
    const struct weight *w[] = { o->out[0].w, o->out[1].w };
    const struct op *next = op_consumer(b, i + 1, s->y, s->T, s->D);
    const size_t n = s->T * s->D;
    struct gated_args a = { .F = (int)s->D };

    if (!next || !is_library(b, next) || w[0]->rows != s->D || w[1]->rows != s->D ||
        cuda_placed(w[0])->kind == DEV_H16 || cuda_placed(w[1])->kind == DEV_H16 ||
        !op_dead(b, i + 3, s->y, n) || (s->y != s->x && !op_dead(b, i + 2, s->x, n)) ||
        !op_dead(b, i + 2, s->u, n))
        return false;
    bool there = false;
    uint16_t *half = gated_at_once(b, o, next, &there);
    const bool once = half != NULL;

    if (!once && cuda_room(b, &b->gate_up, 2 * n * sizeof(*half)))
        half = (uint16_t *)(uintptr_t)b->gate_up.p;
    if (!half)
        return false;
    for (size_t k = 0; k < 2 && !once; k++) {
        const struct inputs in = inputs_of(b, w[k], o->T);

        if (!product_library(b, &o->out[k], o->x, o->T, false, &in, half + k * n))
            return false;
    }
    if (!gated_for(b, next, &a))
        return false;
    a.g = half;
    a.u = once ? NULL : half + n;
    if (!there || !once)
        input_gated_rows(b, &a, s->T);
    if (a.y8)
        input_have_f8(b, s->y, s->T, next->out[0].w);
    else
        input_have(b, s->y, s->T, a.kp, a.mode16, false);
    return true;
}

/* A norm whose product takes E4M3. */
static bool norm_f8(struct cuda *b, size_t i)
{
    const struct op *o = &b->op[i];
    const struct op *next = o->kind == OP_RMSNORM ? op_consumer(b, i, o->y, o->T, o->D) : NULL;

    if (!next || !is_library(b, next))
        return false;
    const struct weight *w = next->out[0].w;
    const struct inputs in = inputs_of(b, w, o->T);
    struct act_args a = input_act(&in, w, o->x, o->T);

    if (!product_all_f8(b, next) || !input_whole_rows(&a) || !input_room_f8(b, &a))
        return false;
    a.y = op_dead(b, i + 2, o->y, o->T * o->D) ? NULL : o->y;
    input_norm_rows(b, &a, o->u, o->by);
    input_have_f8(b, o->y, o->T, w);
    b->have.x = NULL;
    return true;
}

/* Of what op i + 1 on is made for, the rows that the gather g wants: T of them. */
static void take_rows(struct cuda *b, const struct op *g, const struct inputs *made, const float *y)
{
    struct gpu_room *const x = input_next16(b), *const ss = &b->ss[1 - b->cur];
    const bool half = made->mode != PREP_F32;
    int d = (int)(half ? g->D / 2 : g->D), n_ss = b->have.n_ss; /* of 32 bits */
    const int32_t *rows = g->ids;

    if (!input_room_made(b, made, g->T, g->D) ||
        !cuda_room(b, ss, g->T * (size_t)n_ss * sizeof(float)))
        return;
    cuda_launch(b, KERN_gather, over((size_t)d, THREADS), g->T, 1, THREADS,
                (void *[]){ &x->p, &b->x16[b->cur].p, &rows, &d });
    cuda_launch(b, KERN_gather, over((size_t)n_ss, THREADS), g->T, 1, THREADS,
                (void *[]){ &ss->p, &b->ss[b->cur].p, &rows, &n_ss });
    input_have_made(b, made, y, g->T, g->D, true);
}

/* A product added to the residual, the norm of its rows or of those that are gathered, and a
 * product of that: how many ops before that one; 0 = not that. */
static size_t normed(struct cuda *b, size_t i)
{
    const struct op *o = &b->op[i], *g = i + 1 < b->n_op && o[1].kind == OP_GATHER ? o + 1 : NULL;
    const size_t at = i + (g ? 2 : 1);
    const struct op *s = &b->op[at];
    struct inputs made;

    if (at + 1 >= b->n_op || o->n != 1 || !o->add || !streams(b, o) || s->kind != OP_RMSNORM ||
        s->D != o->out[0].w->rows)
        return 0;
    if (g ? g->x != o->out[0].y || g->D != s->D || o->T != b->rows || s->x != g->y ||
                s->T != g->T || !op_dead(b, at + 1, g->y, g->T * g->D)
          : s->x != o->out[0].y || s->T != o->T)
        return 0;
    const struct weight *w = o->out[0].w;
    const struct inputs in = inputs_of(b, w, o->T);
    const struct op *next = op_consumer(b, at, s->y, s->T, s->D);
    const size_t tiles = over(w->rows, DEV_TILE);

    if (!next || !streams(b, next) || !inputs_made(b, next, s->D, &made) ||
        !op_dead(b, at + 2, s->y, s->T * s->D) || !input_prepare(b, &in, w, o->x, o->T) ||
        !input_room_made(b, &made, o->T, s->D) ||
        !cuda_room(b, &b->ss[1 - b->cur], o->T * tiles * sizeof(float)))
        return 0;
    struct stream_args a = product_stream(b, o->out, 1, o->T, true);

    a.norm = s->u;
    a.ss_out = (float *)(uintptr_t)b->ss[1 - b->cur].p;
    input_make(b, &made, s->D, &a);
    program_stream(b, &a);
    input_have_made(b, &made, s->y, o->T, s->D, true);
    b->have.n_ss = (int)tiles;
    b->have.eps = s->by;
    if (g && g->T < o->T) /* else all, for they are in order */
        take_rows(b, g, &made, s->y);
    return at + 1 - i;
}

/* Of attention's scores, for exponents in base 2. */
static float attn_scale(size_t hd)
{
    return (float)(1 / sqrt((double)hd) * M_LOG2E);
}

/* Whether k and the next op are the rotation of keys, and the cache. */
static bool is_key_rotation(const struct op *k)
{
    const struct op *w = k + 1;

    return k->kind == OP_ROPE && w->kind == OP_KV_WRITE && w->x == k->y && w->T == k->T &&
           w->kv->head_dim == k->hd && w->kv->kv_heads == k->H;
}

/* Whether q and the next two ops are the rotation of queries and keys, and the cache. */
static bool is_rotation(const struct op *q)
{
    const struct op *k = q + 1;

    return q->kind == OP_ROPE && is_key_rotation(k) && k->hd == q->hd && k->u == q->u &&
           k->ids == q->ids && k->T == q->T && k->interleaved == q->interleaved;
}

/* It, as kernels take it; q NULL: of keys alone. */
static struct rope_args rope_of(const struct op *q, const struct op *k)
{
    const struct op *w = k + 1;

    return (struct rope_args){ .q = q ? q->y : NULL,
                               .k = k->y,
                               .v = w->u,
                               .inv_freq = k->u,
                               .pos = k->ids,
                               .slot = w->at->slot,
                               .seq = w->at->seq,
                               .table = w->at->block_table,
                               .kc = w->kv->layer[w->layer].k,
                               .vc = w->kv->layer[w->layer].v,
                               .H = q ? (int)q->H : 0,
                               .K = (int)k->H,
                               .hd = (int)k->hd,
                               .enc = (int)w->kv->enc,
                               .interleaved = k->interleaved };
}

/* The rotation of queries and keys, and the cache: how many ops from i on that is; 0 = not that. */
static size_t rotated(struct cuda *b, size_t i)
{
    const struct op *q = &b->op[i], *k = q + 1, *w = q + 2;

    if (i + 2 >= b->n_op || !is_rotation(q))
        return 0;
    struct rope_args a = rope_of(q, k);

    const struct op *y = i + 3 < b->n_op ? &b->op[i + 3] : NULL;

    /* attention that follows at once does it too */
    if (y && attn_in_program(b, y) && y->x == q->y && y->kv == w->kv && y->layer == w->layer &&
        y->T == q->T && op_dead(b, i + 4, q->y, q->T * q->D) &&
        op_dead(b, i + 3, k->y, k->T * k->D))
        program_rope(b, &a, q->T);
    else
        cuda_rope_kv(b, &a, q->T);
    return 3;
}

/* Queries, keys and values in bf16 by cuBLASLt, as one product p or NULL or each to where `to`
 * says, and what a makes of them. */
static bool rotated_between(struct cuda *b, const struct op *o, const struct blas_product *p,
                            void *const *to, struct rope16_args *a)
{
    const size_t queries = o->n == 3, D = queries ? o->out[0].w->rows : 0;
    const size_t K = o->out[queries].w->rows;
    const bool joined = p && blas_can(b, p) && blas_run(b, p);
    const uint16_t *const all = joined ? p->y : NULL;

    for (size_t j = joined ? o->n : side_by_side(b, o, to); j < o->n; j++) {
        const struct inputs in = inputs_of(b, o->out[j].w, o->T);

        if (!product_library(b, &o->out[j], o->x, o->T, false, &in, to[j]))
            return false;
    }
    a->q = !queries ? NULL : joined ? all : to[0];
    a->k = joined ? all + D : to[queries];
    a->v = joined ? all + D + K : to[queries + 1];
    a->ld_q = (int)(joined ? p->rows : D);
    a->ld_kv = (int)(joined ? p->rows : K);
    cuda_launch(b, KERN_rope16, over(o->T, ROPE_ROWS), 1, 1, ROPE_THREADS, (void *[]){ a });
    return true;
}

/* Queries, keys and values in bf16, as reference libraries have them, and what rotated() does, or
 * of keys and values alone: how many ops from i on that is; 0 = not that. */
static size_t rotated_many(struct cuda *b, size_t i)
{
    const struct op *o = &b->op[i];
    const size_t queries = o->n == 3, past = i + 3 + queries;
    const struct op *q = queries ? o + 1 : NULL, *k = o + 1 + queries, *w = k + 1, *y = w + 1;

    if (past > b->n_op || o->n < 2 || o->add || b->ctx.half || !is_library(b, o) ||
        !(q ? is_rotation(q) && q->y == o->out[0].y : is_key_rotation(k)) ||
        k->y != o->out[queries].y || w->u != o->out[queries + 1].y || k->T != o->T || k->hd % 16 ||
        k->hd > 256 || w->kv->enc == ENC_F32 || !op_dead(b, past, k->y, k->T * k->D) ||
        !op_dead(b, past, w->u, w->T * w->D))
        return 0;
    const size_t n[] = { q ? q->T * q->D : k->T * k->D, k->T * k->D, w->T * w->D };
    int mode = PREP_BF16;

    for (size_t j = 0; j < o->n; j++)
        if (cuda_placed(o->out[j].w)->kind == DEV_H16 || o->out[j].w->rows * o->T != n[j])
            return 0;
    /* queries as attention takes them, and what is rotated */
    if (!cuda_room(b, &b->qkv, (2 * n[0] + n[1] + n[2]) * sizeof(uint16_t)))
        return 0;
    uint16_t *const half = (uint16_t *)(uintptr_t)b->qkv.p, *const raw = half + n[0];
    void *const to[] = { half, raw, raw + n[1] };
    const bool attends = q && past < b->n_op && y->kind == OP_ATTN && y->x == q->y && y->T == q->T;
    const bool takes16 = attends && attn_takes16(b, y, &mode);
    struct rope16_args a = { .q16 = takes16 ? half : NULL,
                             .scale = attn_scale(k->hd),
                             .mode16 = mode,
                             .T = (int)k->T,
                             .to = rope_of(q, k) };
    struct blas_product p;

    a.to.k = NULL;
    a.to.v = NULL;
    if (takes16 && op_dead(b, past + 1, q->y, n[0]))
        a.to.q = NULL;
    const bool joined = product_joined(b, o, raw, &p);

    if (!(joined && gemm_heads(b, &p, &a)) && !rotated_between(b, o, joined ? &p : NULL, to, &a))
        return 0;
    for (size_t j = 0; j < o->n; j++)
        if (b->have.x == o->out[j].y)
            b->have.x = NULL;
    b->q16 = takes16 ? q->y : NULL;
    return past - i;
}

/* ---- attention ---- */

/* The product after attention i, if it takes E4M3 and is all that reads it: made of bf16 in next16,
 * as a says; or NULL. */
static const struct op *rounded_next(struct cuda *b, size_t i, struct gated_args *a)
{
    const struct op *o = &b->op[i], *next = op_consumer(b, i, o->y, o->T, o->D);

    return next && is_library(b, next) && o->D % 8 == 0 && op_dead(b, i + 2, o->y, o->T * o->D) &&
                   gated_for(b, next, a) && a->y8 &&
                   cuda_room(b, input_next16(b), o->T * o->D * sizeof(uint16_t))
               ? next
               : NULL;
}

static void attention(struct cuda *b, size_t i)
{
    const struct op *o = &b->op[i];
    const size_t hd = o->kv->head_dim;
    const int32_t *place = NULL;
    float *y = o->y;
    struct gated_args f = { .F = (int)o->D };
    const struct op *const next = rounded_next(b, i, &f);
    /* nobody would write the zeros of padding */
    const struct copy16 copy =
        next ? (struct copy16){ input_next16(b)->p, PREP_BF16, f.F, 0 }
        : o->D % CHUNK
            ? (struct copy16){ 0 }
            : input_copy_for(b, i, &y, o->T, o->D, attn_in_program(b, o) ? &place : NULL);
    struct attn_args a = { .y = next ? NULL : y,
                           .q = o->x,
                           .k = o->kv->layer[o->layer].k,
                           .v = o->kv->layer[o->layer].v,
                           .slot = o->at->slot,
                           .seq = o->at->seq,
                           .table = o->at->block_table,
                           .H = (int)o->H,
                           .K = (int)o->kv->kv_heads,
                           .hd = (int)hd,
                           .scale = attn_scale(hd),
                           .y16 = (uint16_t *)(uintptr_t)copy.p,
                           .mode16 = copy.mode,
                           .kp16 = copy.kp,
                           .image = copy.image,
                           .place = place };

    if (o->D % CHUNK || next)
        b->have.x = NULL;
    cuda_attention(b, &a, o);
    if (next) {
        f.g = a.y16;
        input_gated_rows(b, &f, o->T);
        input_have_f8(b, o->y, o->T, next->out[0].w);
    }
}

/* ---- one op ---- */

/* Whether norm_rows has room for a row, and what it is to do with them. */
static bool norm_keeps(const struct op *o)
{
    return o->D % 4 == 0 && over(o->D, CHUNK) * CHUNK <= ROWS_MOST;
}

static struct act_args norm_args(const struct op *o, float *y, const struct copy16 *copy)
{
    return (struct act_args){ .y = y,
                              .y16 = (uint16_t *)(uintptr_t)copy->p,
                              .x = o->x,
                              .cols = (int)o->D,
                              .kp = copy->kp,
                              .mode16 = copy->mode,
                              .image = copy->image,
                              .T = (int)o->T };
}

/* The batch's arrays, if they are not on the device: the next kernel brings them. */
static struct batch_copy batch_copy_of(struct cuda *b)
{
    const bool there = !b->bring;

    b->bring = false;
    return there ? (struct batch_copy){ 0 }
                 : (struct batch_copy){ b->pin[0], (void *)(uintptr_t)b->batch.p };
}

/* Embeddings of few rows and their norm, in one kernel. */
static bool embedded(struct cuda *b, size_t i)
{
    const struct op *o = &b->op[i], *s = o + 1;

    if (i + 1 >= b->n_op || o->kind != OP_EMBED || o->T > RECORD_ROWS || s->kind != OP_RMSNORM ||
        s->x != o->y || s->T != o->T || s->D != o->D || !norm_keeps(s) || b->ctx.half)
        return false;
    float *y = s->y, *x = o->y, eps = s->by;
    const float *norm = s->u;
    const int32_t *ids = o->ids;
    const struct copy16 copy = input_copy_for(b, i + 1, &y, s->T, s->D, NULL);
    struct act_args a = norm_args(s, y, &copy);
    struct batch_copy c = batch_copy_of(b);

    cuda_launch(b, KERN_embed_norm, c.from ? 2 * o->T : o->T, 1, 1, NORM_THREADS,
                (void *[]){ &a, &norm, &eps, &x, (void *)(uintptr_t)cuda_placed(o->out[0].w), &ids,
                            &c });
    return true;
}

static void small(struct cuda *b, size_t i)
{
    struct op *o = &b->op[i];
    int d = (int)o->D, h = (int)o->H, hd = (int)o->hd, inter = o->interleaved;
    float *y = o->y;
    struct copy16 copy;

    if (b->ctx.half && cuda_train_op(b, o))
        return;
    switch (o->kind) {
    case OP_AFFINE:
        cuda_affine(b, o);
        break;
    case OP_ATTN_REL:
        cuda_attn_rel(b, o);
        break;
    case OP_GELU:
        cuda_launch(b, KERN_gelu, over(o->D, THREADS), o->T, 1, THREADS, (void *[]){ &y, &d });
        break;
    case OP_LAYERNORM:
        cuda_launch(b, KERN_layernorm, o->T, 1, 1, THREADS,
                    (void *[]){ &y, &o->x, &o->u, &o->bias, &d, &o->by });
        break;
    case OP_EMBED:
        cuda_launch(b, KERN_embed, o->T, 1, 1, 128,
                    (void *[]){ &y, (void *)(uintptr_t)cuda_placed(o->out[0].w), &o->ids });
        break;
    case OP_GATHER:
        cuda_launch(b, KERN_gather, over(o->D, THREADS), o->T, 1, THREADS,
                    (void *[]){ &y, &o->x, &o->ids, &d });
        break;
    case OP_SCALE:
        cuda_launch(b, KERN_scale, over(o->D, THREADS), 1, 1, THREADS,
                    (void *[]){ &y, &o->D, &o->by });
        break;
    case OP_RMSNORM:
        copy = input_copy_for(b, i, &y, o->T, o->D, NULL);
        if (norm_keeps(o)) {
            struct act_args a = norm_args(o, y, &copy);

            input_norm_rows(b, &a, o->u, o->by);
            return;
        }
        cuda_launch(b, KERN_rmsnorm, o->T, 1, 1, o->D > 1024 ? 1024 : THREADS,
                    (void *[]){ &y, &o->x, &o->u, &d, &o->by, &copy });
        return;
    case OP_SWIGLU:
        copy = input_copy_for(b, i, &y, o->T, o->D, NULL);
        cuda_launch(b, KERN_swiglu, over(over(o->D, CHUNK) * CHUNK, THREADS), o->T, 1, THREADS,
                    (void *[]){ &y, &o->x, &o->u, &d, &copy });
        return;
    case OP_ROPE:
        cuda_launch(b, KERN_rope, over(o->D / 2, 128), o->T, 1, 128,
                    (void *[]){ &y, &h, &hd, &o->ids, &o->u, &inter });
        break;
    case OP_KV_WRITE: {
        int enc = (int)o->kv->enc, K = (int)o->kv->kv_heads;

        hd = (int)o->kv->head_dim;
        cuda_launch(b, KERN_kv_write, over(o->D, 128), o->T, 1, 128,
                    (void *[]){ &o->x, &o->u, &o->kv->layer[o->layer].k, &o->kv->layer[o->layer].v,
                                &enc, &K, &hd, (void *)(uintptr_t)&o->at->slot,
                                (void *)(uintptr_t)&o->at->seq,
                                (void *)(uintptr_t)&o->at->block_table });
        return;
    }
    default:
        BUG("op %d", (int)o->kind);
    }
    b->have.x = NULL;
}

void cuda_run(struct cuda *b, bool ending)
{
    size_t i = 0;

    b->ending = ending;
    b->turns.pos = NULL;
    while (i < b->n_op) {
        const struct op *o = &b->op[i];
        size_t n;

        away_enter(b, o);
        b->q16 = o->kind == OP_ATTN ? b->q16 : NULL;
        b->have8.x = i && b->have8.x && o->kind == OP_LINEAR ? b->have8.x : NULL;
        if (embedded(b, i)) {
            i += 2;
            continue;
        }
        if (b->bring) {
            struct batch_copy c = batch_copy_of(b);

            cuda_launch(b, KERN_bring, b->rows, 1, 1, THREADS, (void *[]){ &c });
        }
        if (gated(b, i) || gated_many(b, i)) {
            i += 2;
        } else if ((n = normed(b, i)) > 0) {
            i += n;
        } else if (norm_f8(b, i)) {
            i++;
        } else if ((n = rotated_many(b, i)) > 0 || (n = rotated(b, i)) > 0) {
            i += n;
        } else if (o->kind == OP_LINEAR) {
            for (size_t k = side_by_side(b, o, (void *[DEV_OUTS]){ 0 }); k < o->n;)
                k += product_some(b, o, k);
            for (size_t k = 0; k < o->n; k++)
                if (b->have.x == o->out[k].y)
                    b->have.x = NULL;
            i++;
        } else {
            if (o->kind == OP_ATTN)
                attention(b, i);
            else
                small(b, i);
            i++;
        }
        away_leave(b, o);
    }
    program_flush(b);
    b->n_op = 0;
}
