#include "train/qlora.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/team.h"
#include "format/enc/bnb_encode.h"

/* bitsandbytes' own sizes */
enum { BLOCK = 64, NESTED = 256 };

struct qlora {
    void *mem; /* everything, of all matrices */
    size_t bytes;
    float map4[16];
    struct bnb_map map8;
};

/* A matrix on its way: where its parts go. */
struct part {
    struct weight *w;
    uint8_t *codes, *scale; /* scale: bytes where nested, else floats */
    float *nested;
};

struct job {
    const struct qlora *q;
    const struct qlora_cfg *cfg;
    struct part *part;
    size_t n;
    atomic_size_t next;
};

static size_t ceil_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

/* Bytes from *at on, at multiples of 64; base NULL only counts. */
static void *take(void *base, size_t *at, size_t bytes)
{
    void *p = base ? (uint8_t *)base + *at : NULL;

    *at += (bytes + 63) / 64 * 64;
    return p;
}

static void lay_out(struct part *p, const struct qlora_cfg *cfg, void *base, size_t *at)
{
    const size_t values = p->w->rows * p->w->cols, blocks = ceil_div(values, BLOCK);

    if (cfg->kind == QLORA_INT8) {
        p->codes = take(base, at, values);
        p->scale = take(base, at, p->w->rows * sizeof(float));
        return;
    }
    p->codes = take(base, at, (values + 1) / 2);
    p->scale = take(base, at, blocks * (cfg->nested ? 1 : sizeof(float)));
    p->nested = take(base, at, cfg->nested ? ceil_div(blocks, NESTED) * sizeof(float) : 0);
}

/* ---- one matrix ---- */

static void rows_int8(struct part *p)
{
    const struct weight *w = p->w;
    float *x = xmalloc((w->cols + 1) * sizeof(*x)), *scale = (float *)(void *)p->scale;

    for (size_t r = 0; r < w->rows; r++) {
        int8_t *q = (int8_t *)p->codes + r * w->cols;

        weight_decode_row(x, w, r);
        scale[r] = 0;
        for (size_t i = 0; i < w->cols; i++)
            scale[r] = fabsf(x[i]) > scale[r] ? fabsf(x[i]) : scale[r];
        for (size_t i = 0; i < w->cols; i++)
            q[i] = (int8_t)(scale[r] > 0 ? lrintf(x[i] * (127 / scale[r])) : 0);
    }
    free(x);
}

/* Blocks run over the ends of rows: what a row leaves waits for the next. */
static void blocks_4bit(const struct part *p, const float map[16], float *absmax)
{
    const struct weight *w = p->w;
    float *x = xmalloc((w->cols + BLOCK) * sizeof(*x));
    size_t have = 0, block = 0;

    for (size_t r = 0; r < w->rows; r++) {
        size_t used = 0;

        weight_decode_row(x + have, w, r);
        have += w->cols;
        for (; have - used >= BLOCK; used += BLOCK, block++)
            absmax[block] = bnb_encode4(p->codes + block * BLOCK / 2, map, x + used, BLOCK);
        have -= used;
        memmove(x, x + used, have * sizeof(*x));
    }
    if (have)
        absmax[block] = bnb_encode4(p->codes + block * BLOCK / 2, map, x, have);
    free(x);
}

/* absmax as bytes around its mean; returns the mean. */
static float nest(const struct part *p, const struct bnb_map *map, float *absmax, size_t blocks)
{
    double sum = 0;

    for (size_t i = 0; i < blocks; i++)
        sum += (double)absmax[i];
    const float mean = (float)(sum / (double)blocks);

    for (size_t i = 0; i < blocks; i++)
        absmax[i] -= mean;
    for (size_t i = 0; i < blocks; i += NESTED) {
        const size_t n = blocks - i < NESTED ? blocks - i : NESTED;

        p->nested[i / NESTED] = bnb_encode8(p->scale + i, map, absmax + i, n);
    }
    return mean;
}

static void quantise(const struct job *j, struct part *p)
{
    const struct qlora *q = j->q;
    const struct weight was = *p->w;
    const size_t blocks = ceil_div(was.rows * was.cols, BLOCK);
    struct weight w = { .rows = was.rows, .cols = was.cols, .data = p->codes, .name = was.name };

    if (j->cfg->kind == QLORA_INT8) {
        rows_int8(p);
        w.enc = ENC_INT8;
        w.row_bytes = was.cols;
        w.p = (struct planes){ .scale = p->scale,
                               .scale_enc = ENC_F32,
                               .scale_by = 1.0f / 127,
                               .group = was.cols,
                               .row_group = 1,
                               .act = ACT_KEEP };
    } else {
        float *absmax =
            j->cfg->nested ? xmalloc((blocks + 1) * sizeof(*absmax)) : (float *)(void *)p->scale;

        blocks_4bit(p, q->map4, absmax);
        w.enc = j->cfg->kind == QLORA_FP4 ? ENC_FP4 : ENC_NF4;
        w.p = (struct planes){ .scale = p->scale,
                               .scale_enc = j->cfg->nested ? ENC_U8 : ENC_F32,
                               .scale_by = 1,
                               .group = BLOCK,
                               .map = (const uint8_t *)q->map4,
                               .round = was.enc };
        if (j->cfg->nested) {
            w.p.nested_offset = nest(p, &q->map8, absmax, blocks);
            w.p.nested_map = (const uint8_t *)q->map8.map;
            w.p.nested_absmax = (const uint8_t *)p->nested;
            w.p.nested_group = NESTED;
            free(absmax);
        }
    }
    mem_forget(was.data, was.rows * was.row_bytes);
    *p->w = w;
}

static void run(void *arg, int me, int n)
{
    struct job *j = arg;

    (void)me;
    (void)n;
    for (size_t i; (i = atomic_fetch_add(&j->next, 1)) < j->n;)
        quantise(j, &j->part[i]);
}

/* ---- all of them ---- */

static bool plain(const struct weight *w)
{
    return w->enc == ENC_BF16 || w->enc == ENC_F16 || w->enc == ENC_F32;
}

int qlora_new(struct qlora **out, size_t *n, struct model *m, const struct qlora_cfg *cfg,
              struct ctx *c, struct err *e)
{
    struct part *part = xcalloc((size_t)m->hp->layers * 7 + 1, sizeof(*part));
    struct qlora *q = xcalloc(1, sizeof(*q));
    struct job j = { q, cfg, part, 0, 0 };
    const size_t have = mem_available();
    size_t at = 0;
    int rc = -1;

    memcpy(q->map4, cfg->kind == QLORA_FP4 ? bnb_fp4 : bnb_nf4, sizeof(q->map4));
    bnb_map_init(&q->map8, true);
    for (int64_t l = 0; l < m->hp->layers; l++) {
        struct layer *w = &m->layer[l];
        struct weight *const all[] = { &w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down };

        for (size_t i = 0; i < ARRAY_LEN(all); i++)
            if (plain(all[i]))
                part[j.n++].w = all[i];
    }
    for (size_t i = 0; i < j.n; i++)
        lay_out(&part[i], cfg, NULL, &q->bytes);
    if (have && q->bytes > have) {
        err_set(e, ERR_MEMORY, "the quantised base takes %zu MiB, %zu are free", q->bytes >> 20,
                have >> 20);
        goto done;
    }
    if (mem_map(&q->mem, q->bytes, "quantised base", e))
        goto done;
    for (size_t i = 0; i < j.n; i++)
        lay_out(&part[i], cfg, q->mem, &at);
    team_run(c->team, run, &j);
    *n = j.n;
    *out = q;
    q = NULL;
    rc = 0;
done:
    free(part);
    qlora_free(q);
    return rc;
}

void qlora_free(struct qlora *q)
{
    if (!q)
        return;
    mem_unmap(q->mem, q->bytes);
    free(q);
}

size_t qlora_bytes(const struct qlora *q)
{
    return q->bytes;
}
