/* cpu.c - the op table of the CPU: rows are shared out over the team where that pays. */
#include "backend/cpu/cpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_int.h"
#include "base/mem.h"
#include "ops/backend.h"

/* Values per call below which the caller works alone: waking the team costs about 2 us. */
enum { ALONE = 1 << 14 };
/* Bytes from which memory is spread over NUMA nodes: threads read it from wherever they are. */
enum { SPREAD = 2 << 20 };

static void room_new(struct room *r, size_t n)
{
    const size_t bytes = (n + 63) / 64 * 64;

    free(r->p);
    r->p = aligned_alloc(64, bytes);
    if (!r->p)
        BUG("no memory for %zu bytes of scratch", bytes);
    r->n = bytes;
}

void *room_get(struct room *r, size_t n)
{
    if (n > r->n)
        room_new(r, n + n / 4);
    return r->p;
}

void cpu_share(struct ctx *c, team_fn *fn, void *arg, size_t values)
{
    if (values < ALONE)
        fn(arg, 0, 1);
    else
        team_run(c->team, fn, arg);
}

static const struct cpu_kern *kern(const struct ctx *c)
{
    return &((const struct cpu *)c->backend)->k;
}

struct embed_job {
    const struct cpu_kern *k;
    float *y;
    const struct weight *w;
    const int32_t *ids;
    size_t T;
};

static void embed_part(void *arg, int me, int n)
{
    const struct embed_job *j = arg;
    const struct placed_kern *order = &j->k->placed[j->w->enc];
    struct weight w = *j->w;
    size_t lo, hi;

    /* the file's pages would come back for a few rows */
    if (!order->pack && !order->pack_planes && !j->k->exact[EXACT_FLOAT][w.enc].pack)
        w.data = weight_copy(&w);
    team_part(j->T, 1, me, n, &lo, &hi);
    for (size_t t = lo; t < hi; t++) {
        if (w.placed && order->unpack_row)
            placed_row(j->k, j->y + t * w.cols, &w, (size_t)j->ids[t]);
        else
            weight_decode_row(j->y + t * w.cols, &w, (size_t)j->ids[t]);
    }
}

static void embed_cpu(struct ctx *c, float *y, const struct weight *w, const int32_t *ids, size_t T)
{
    struct embed_job j = { kern(c), y, w, ids, T };

    cpu_share(c, embed_part, &j, T * w->cols);
}

/* As many rows as want logits, and the inner products of adapters: too few to share. */
static void gather_cpu(struct ctx *c, float *y, const float *x, const int32_t *rows, size_t n,
                       size_t D)
{
    (void)c;
    for (size_t i = 0; i < n; i++)
        memcpy(y + i * D, x + (size_t)rows[i] * D, D * sizeof(*y));
}

static void scale_cpu(struct ctx *c, float *x, size_t n, float by)
{
    (void)c;
    for (size_t i = 0; i < n; i++)
        x[i] *= by;
}

struct kv_job {
    const float *k, *v;
    const struct kv_cache *kv;
    size_t layer;
    const struct batch *b;
};

static void kv_part(void *arg, int me, int n)
{
    const struct kv_job *j = arg;
    const size_t hd = j->kv->head_dim, K = j->kv->kv_heads;
    const size_t bytes = kv_row_bytes(j->kv->enc, hd);
    const struct kv_layer *l = &j->kv->layer[j->layer];
    size_t lo, hi;

    team_part(j->b->T, 1, me, n, &lo, &hi);
    for (size_t t = lo; t < hi; t++) {
        const size_t slot = (size_t)j->b->slot[t];
        const size_t block = (size_t)j->b->block_table[j->b->seq[t]][slot / KV_BLOCK];

        for (size_t h = 0; h < K; h++) {
            const size_t at = ((block * K + h) * KV_BLOCK + slot % KV_BLOCK) * bytes;

            enc_table[j->kv->enc].encode((uint8_t *)l->k + at, j->k + (t * K + h) * hd, hd);
            enc_table[j->kv->enc].encode((uint8_t *)l->v + at, j->v + (t * K + h) * hd, hd);
        }
    }
}

static void kv_write_cpu(struct ctx *c, const float *k, const float *v, const struct kv_cache *kv,
                         size_t layer, const struct batch *b)
{
    struct kv_job j = { k, v, kv, layer, b };

    cpu_share(c, kv_part, &j, b->T * kv->kv_heads * kv->head_dim);
}

struct norm_job {
    const struct cpu_kern *k;
    float *y;
    const float *x, *w;
    size_t T, D;
    float eps;
};

static void norm_part(void *arg, int me, int n)
{
    const struct norm_job *j = arg;
    size_t lo, hi;

    team_part(j->T, 1, me, n, &lo, &hi);
    for (size_t t = lo; t < hi; t++)
        j->k->rmsnorm(j->y + t * j->D, j->x + t * j->D, j->w, j->D, j->eps);
}

static void rmsnorm_cpu(struct ctx *c, float *y, const float *x, const float *w, size_t T, size_t D,
                        float eps)
{
    struct norm_job j = { kern(c), y, x, w, T, D, eps };

    cpu_share(c, norm_part, &j, T * D / 4);
}

struct rope_job {
    float *x;
    const float *cs, *sn; /* [T][half] */
    size_t heads, half, T;
    bool interleaved;
};

static void rope_part(void *arg, int me, int n)
{
    const struct rope_job *j = arg;
    const size_t half = j->half, step = j->interleaved ? 2 : 1, apart = j->interleaved ? 1 : half;
    size_t lo, hi;

    team_part(j->T, 1, me, n, &lo, &hi);
    for (size_t t = lo; t < hi; t++) {
        const float *cs = j->cs + t * half, *sn = j->sn + t * half;

        for (size_t h = 0; h < j->heads; h++) {
            float *v = j->x + (t * j->heads + h) * 2 * half;

            for (size_t i = 0; i < half; i++) {
                const float a = v[step * i], b = v[step * i + apart];

                v[step * i] = a * cs[i] - b * sn[i];
                v[step * i + apart] = b * cs[i] + a * sn[i];
            }
        }
    }
}

/* Every layer rotates by the same angles, so they are computed once a batch; the positions and
 * frequencies they were computed from are the key. */
static const float *angles(struct cpu *b, const int32_t *pos, const float *inv_freq, size_t T,
                           size_t half)
{
    const size_t bytes = T * sizeof(*pos), freqs = half * sizeof(*inv_freq);
    uint8_t *key = b->angle_key.p;

    if (key && b->angle_T == T && b->angle_half == half && memcmp(key, pos, bytes) == 0 &&
        memcmp(key + bytes, inv_freq, freqs) == 0)
        return b->angle.p;
    key = room_get(&b->angle_key, bytes + freqs);
    memcpy(key, pos, bytes);
    memcpy(key + bytes, inv_freq, freqs);
    b->angle_T = T;
    b->angle_half = half;
    float *cs = room_get(&b->angle, 2 * T * half * sizeof(float)), *sn = cs + T * half;

    for (size_t t = 0; t < T; t++) {
        for (size_t i = 0; i < half; i++) {
            /* the product is rounded to float32 first, as the reference does */
            const float a = (float)pos[t] * inv_freq[i];
            double s, co;

            sincos((double)a, &s, &co);
            cs[t * half + i] = (float)co;
            sn[t * half + i] = (float)s;
        }
    }
    return cs;
}

void cpu_need_rope(struct cpu_need *need, size_t hd, size_t T)
{
    const size_t half = hd / 2;

    const size_t attn = attn_room_bytes(hd);

    need->thread = need->thread > attn ? need->thread : attn;
    need->angle = 2 * T * half * sizeof(float) + T * sizeof(int32_t) + half * sizeof(float);
}

size_t cpu_need_bytes(const struct cpu_need *n, int threads)
{
    return n->x8 + n->xb + n->xf + n->angle + n->thread * (size_t)threads + SPLIT_BYTES;
}

size_t cpu_ctx_scratch(const struct ctx *c)
{
    const struct cpu *b = c->backend;

    return b->x8.n + b->xb.n + b->xf.n + b->thread.n + b->angle.n + b->angle_key.n + b->split.n +
           b->train_a.n + b->train_w.n + b->train_thread.n + b->score.n;
}

static void rope_cpu(struct ctx *c, float *x, size_t heads, size_t hd, const int32_t *pos,
                     const float *inv_freq, bool interleaved, size_t T)
{
    const float *cs = angles(c->backend, pos, inv_freq, T, hd / 2);
    struct rope_job j = { x, cs, cs + T * (hd / 2), heads, hd / 2, T, interleaved };

    cpu_share(c, rope_part, &j, T * heads * hd / 2);
}

struct swiglu_job {
    const struct cpu_kern *k;
    float *h;
    const float *g, *u;
    size_t n;
};

static void swiglu_part(void *arg, int me, int n)
{
    const struct swiglu_job *j = arg;
    size_t lo, hi;

    team_part(j->n, 64, me, n, &lo, &hi);
    j->k->swiglu(j->h + lo, j->g + lo, j->u + lo, hi - lo);
}

static void swiglu_cpu(struct ctx *c, float *h, const float *g, const float *u, size_t T, size_t F)
{
    struct swiglu_job j = { kern(c), h, g, u, T * F };

    cpu_share(c, swiglu_part, &j, T * F);
}

static const struct ops ops_cpu = {
#define OP(ret, name, args) .name = name##_cpu,
#include "ops/ops.def"
#undef OP
};

static int alloc_cpu(struct ctx *c, void **out, size_t n, const char *what, struct err *e)
{
    (void)c;
    if (mem_map(out, n, what, e))
        return -1;
    if (n >= SPREAD)
        (void)cpus_interleave(cpus_here(), *out, n);
    return 0;
}

static void release_cpu(struct ctx *c, void *p, size_t n)
{
    (void)c;
    mem_unmap(p, n);
}

static int enter_cpu(struct ctx *c, struct pass *p, struct err *e)
{
    (void)c;
    (void)e;
    p->at = *p->b;
    p->at_wanted = p->wanted;
    p->logits = p->out;
    return 0;
}

static int leave_cpu(struct ctx *c, struct pass *p, struct err *e)
{
    (void)c;
    (void)p;
    (void)e;
    return 0;
}

static size_t available_cpu(struct ctx *c)
{
    (void)c;
    return mem_available();
}

static const struct backend backend_cpu = { .name = "cpu",
                                            .alloc = alloc_cpu,
                                            .release = release_cpu,
                                            .place = place_cpu,
                                            .unplace = unplace_cpu,
                                            .enter = enter_cpu,
                                            .leave = leave_cpu,
                                            .available = available_cpu,
                                            .free = cpu_ctx_free };

int cpu_ctx_new(struct ctx **out, int threads, unsigned flags, enum compute compute, struct err *e)
{
    struct cpu *b = xcalloc(1, sizeof(*b));

    if (team_new(&b->ctx.team, threads, e)) {
        free(b);
        return -1;
    }
    cpu_kern_init(&b->k, flags);
    room_new(&b->split, SPLIT_BYTES);
    b->ctx.op = &ops_cpu;
    b->ctx.be = &backend_cpu;
    b->ctx.compute = compute;
    b->ctx.backend = b;
    *out = &b->ctx;
    return 0;
}

void cpu_ctx_free(struct ctx *c)
{
    if (!c)
        return;
    struct cpu *b = c->backend;
    struct room *const rooms[] = { &b->x8,      &b->xb,           &b->xf,    &b->thread,
                                   &b->angle,   &b->angle_key,    &b->split, &b->train_a,
                                   &b->train_w, &b->train_thread, &b->score };

    for (size_t i = 0; i < ARRAY_LEN(rooms); i++)
        free(rooms[i]->p);
    team_free(c->team);
    free(b);
}
