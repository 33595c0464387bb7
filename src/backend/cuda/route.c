/* route.c - which way a product goes, what it wants of its inputs, and who reads what later. */
#include <string.h>

#include "backend/cuda/run_int.h"

/* ---- what is read and written later ---- */

static bool meets(const float *p, size_t n, const float *lo, const float *hi)
{
    return p && p < hi && p + n > lo;
}

static bool is_product(const struct op *o)
{
    return o->kind == OP_LINEAR || o->kind == OP_AFFINE;
}

static bool reads(const struct cuda *b, const struct op *o, const float *lo, const float *hi)
{
    const size_t n = o->T * o->D;

    /* gather reads any row of the pass */
    if (meets(o->x, o->kind == OP_GATHER ? (b->rows + o->T) * o->D : n, lo, hi) ||
        meets(o->u, n, lo, hi))
        return true;
    return is_product(o) && o->add && meets(o->out[0].y, o->T * o->out[0].w->rows, lo, hi);
}

/* How far o writes all anew from lo on; lo: it does not. */
static const float *overwritten(const struct op *o, const float *lo)
{
    const float *to = lo;

    for (size_t i = 0; is_product(o) && i < o->n; i++)
        if (o->out[i].y <= lo && o->out[i].y + o->T * o->out[i].w->rows > to)
            to = o->out[i].y + o->T * o->out[i].w->rows;
    if (!is_product(o) && o->y && o->y <= lo && o->y + o->T * o->D > to)
        to = o->y + o->T * o->D;
    return to;
}

bool op_dead(const struct cuda *b, size_t i, const float *y, size_t n)
{
    const float *const end = y + n;

    for (; i < b->n_op && y < end; i++) {
        if (reads(b, &b->op[i], y, end))
            return false;
        y = overwritten(&b->op[i], y);
    }
    return y >= end || b->ending;
}

/* ---- products: which way, and what they want of their inputs ---- */

size_t record_cols(const struct dev_weight *d)
{
    return d->kind == DEV_U8 ? 64 : 128;
}

/* Tiles of 8 rows that wide.cu has a kernel for. */
static size_t wide_tiles(size_t T)
{
    return T <= 32 ? 4 : 8;
}

size_t wide_lines(size_t T)
{
    return T <= 16 ? 16 : T <= 32 ? 32 : WIDE_ROWS;
}

size_t wide_shared(const struct dev_weight *d, size_t T)
{
    return (size_t)WIDE_SHARED(d->kind, d->rec, (int)record_cols(d), (int)wide_tiles(T));
}

enum kernel wide_kernel(const struct dev_weight *d, size_t T)
{
    const enum kernel k = d->kind == DEV_U8   ? (d->pair ? KERN_wide_u8_pair_4 : KERN_wide_u8_4)
                          : d->kind == DEV_U4 ? (d->pair ? KERN_wide_u4_pair_4 : KERN_wide_u4_4)
                          : d->kind == DEV_U6 ? KERN_wide_u6_4
                                              : KERN_wide_n4_4;

    return (enum kernel)((int)k + (wide_tiles(T) == 8));
}

bool cuda_feeds_codes(const struct cuda *b, const struct dev_weight *d)
{
    return b->big && d->gs > 0 && (d->kind == DEV_U8 || d->kind == DEV_U4 || d->kind == DEV_U6);
}

/* Rows from which on wide.cu is for codes. On an H200 8B in NF4 makes 5114 tok/s by it in batches
 * of 16, 4344 in programs; of 12 3969, 3680; of 9 3010, 2898. In Q4_0 16 are 6514, 3909. */
static size_t wide_from(const struct cuda *b, const struct dev_weight *d)
{
    const bool codes = cuda_feeds_codes(b, d) || d->kind == DEV_N4;
    const bool early = b->wgmma && codes && !(b->tries & CUDA_TRY_DETERMINISTIC);

    return early ? 9 : DEV_STREAM_ROWS + 1;
}

static bool is_wide(const struct cuda *b, const struct dev_weight *d, size_t T)
{
    const bool codes =
        d->kind == DEV_U8 || d->kind == DEV_U4 || d->kind == DEV_U6 || d->kind == DEV_N4;

    /* On an H200 8B in Q4_0 makes 3619 tok/s by wide.cu in batches of 32, 2370 widened; of 64 3380,
     * 3960. By wide_wgmma.cu it is 11880 where wide.cu had come to 4988; of 64 18586 for 5804. */
    return codes && T >= wide_from(b, d) &&
           T <= (b->wgmma || b->tries & CUDA_TRY_WIDE ? WIDE_ROWS : WIDE_PAYS) &&
           wide_shared(d, T) <= b->dynamic[wide_kernel(d, T)];
}

enum route route_of(const struct cuda *b, const struct weight *w, size_t T)
{
    enum { FEWEST = 8 }; /* rows from which widening all of a weight pays */
    const struct dev_weight *d = cuda_placed(w);

    if (b->ctx.compute == COMPUTE_F32 || d->enc == DEV_ENC_F32)
        return ROUTE_PLAIN;
    if (d->kind == DEV_RAW)
        return b->blas && T >= FEWEST ? ROUTE_LIBRARY : ROUTE_PLAIN;
    if (is_wide(b, d, T))
        return ROUTE_WIDE;
    return b->blas && T > DEV_STREAM_ROWS ? ROUTE_LIBRARY : ROUTE_STREAM;
}

/* Whether a phase of a program rounds inputs by w's rule as it loads them. */
static bool can_load(const struct cuda *b, const struct weight *w, size_t T)
{
    const struct dev_weight *d = cuda_placed(w);
    const bool groups = w->p.act == ACT_F8 && w->p.act_group < w->cols;

    /* On an H200 8 layers of 8B decode in FP8 at 725 tok/s so, at 562 with kernels that round
     * before; in LLM.int8 at 559 and 554, and four rows at 1724 and 2145. */
    return T <= DEV_STREAM_ROWS && d->kind == DEV_F8 && !d->order && w->cols % 4 == 0 &&
           (!groups || w->p.act_group == DEV_CHUNK) && route_of(b, w, T) == ROUTE_STREAM;
}

struct inputs inputs_of(const struct cuda *b, const struct weight *w, size_t T)
{
    const struct dev_weight *d = cuda_placed(w);
    const bool library = route_of(b, w, T) == ROUTE_LIBRARY;
    const bool half = d->kind == DEV_B16 || (library && d->kind != DEV_H16);
    const bool act = b->ctx.compute == COMPUTE_AUTO && w->p.act != ACT_KEEP;
    const int lines = !b->wgmma || route_of(b, w, T) != ROUTE_WIDE ? 0 : (int)wide_lines(T);

    return (struct inputs){ .act = act,
                            .bf16 = b->ctx.compute == COMPUTE_BF16 && d->kind != DEV_B16,
                            .mode = act && can_load(b, w, T) ? PREP_F32
                                    : half                   ? PREP_BF16
                                                             : PREP_F16,
                            .image = d->kind == DEV_U6 ? -lines : lines,
                            .order = d->order ? w->p.order : NULL,
                            .dev_order = d->order,
                            .place = d->place,
                            .kp = (size_t)d->kp };
}

bool inputs_same_order(const int32_t *a, const int32_t *b, size_t n)
{
    return a == b || (a && b && memcmp(a, b, n * sizeof(*a)) == 0);
}

bool inputs_only16(const struct inputs *in)
{
    return !in->act && !in->bf16;
}

bool inputs_plain(const struct inputs *in)
{
    return inputs_only16(in) && !in->order;
}

bool inputs_same(const struct cuda *b, const struct weight *a, const struct weight *w, size_t T)
{
    const struct inputs p = inputs_of(b, a, T), q = inputs_of(b, w, T);

    return p.act == q.act && p.bf16 == q.bf16 && p.mode == q.mode && p.image == q.image &&
           p.kp == q.kp && inputs_same_order(p.order, q.order, a->cols) &&
           (!p.act || weight_same_act(a, w));
}

bool inputs_one(const struct cuda *b, const struct op *o, struct inputs *in)
{
    for (size_t i = 0; i < o->n; i++)
        if (route_of(b, o->out[i].w, o->T) == ROUTE_PLAIN ||
            !inputs_same(b, o->out[0].w, o->out[i].w, o->T))
            return false;
    if (o->n)
        *in = inputs_of(b, o->out[0].w, o->T);
    return o->n > 0;
}

bool inputs_take16(const struct cuda *b, const struct op *o, const struct inputs *in)
{
    return inputs_plain(in) || (inputs_only16(in) && o->T <= DEV_STREAM_ROWS &&
                                route_of(b, o->out[0].w, o->T) == ROUTE_STREAM && !b->away.live);
}

bool inputs_made(const struct cuda *b, const struct op *o, size_t D, struct inputs *in)
{
    return inputs_one(b, o, in) &&
           (in->mode == PREP_F32 || (in->kp == D && inputs_take16(b, o, in)));
}

const struct op *op_consumer(const struct cuda *b, size_t i, const float *y, size_t T, size_t D)
{
    const struct op *o = i + 1 < b->n_op ? &b->op[i + 1] : NULL;

    return o && o->kind == OP_LINEAR && o->x == y && o->T == T && o->D == D ? o : NULL;
}
