/* bench_products.c - the matrix products of a model's layers alone, without what is between them:
 * what an encoding gains over another at few rows is told by these. */
#include "cmd/bench_products.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cmd/samples.h"
#include "ops/backend.h"

enum kind { QKV, O, GATE_UP, DOWN, KINDS };

/* What products read and write, in the memory of the model's context. */
struct room {
    float *x, *y; /* [T, most columns], [T, most rows of one kind] */
    size_t x_bytes, y_bytes;
};

static size_t kind_of_layer(const struct layer *l, enum kind kind, struct linear_out out[3],
                            float *y, size_t T)
{
    const struct weight *const all[KINDS][3] = { [QKV] = { &l->q, &l->k, &l->v },
                                                 [O] = { &l->o },
                                                 [GATE_UP] = { &l->gate, &l->up },
                                                 [DOWN] = { &l->down } };
    size_t n = 0;

    for (; n < 3 && all[kind][n]; n++) {
        out[n] = (struct linear_out){ y, all[kind][n] };
        y += T * all[kind][n]->rows;
    }
    return n;
}

static size_t bytes_of(const struct ctx *c, const struct weight *w)
{
    return c->be->placed_size ? c->be->placed_size(c, w) : weight_bytes(w);
}

/* Floats of x and y for one row; the bytes of a layer's weights. */
static size_t survey(const struct engine *g, size_t *x, size_t *y)
{
    size_t bytes = 0;

    *x = *y = 0;
    for (enum kind k = 0; k < KINDS; k++) {
        struct linear_out out[3];
        const size_t n = kind_of_layer(g->model->layer, k, out, NULL, 0);
        size_t rows = 0;

        for (size_t i = 0; i < n; i++) {
            rows += out[i].w->rows;
            *x = out[i].w->cols > *x ? out[i].w->cols : *x;
            bytes += bytes_of(g->ctx, out[i].w);
        }
        *y = rows > *y ? rows : *y;
    }
    return bytes;
}

static void room_release(struct ctx *c, struct room *r)
{
    c->be->release(c, r->x, r->x_bytes);
    c->be->release(c, r->y, r->y_bytes);
}

static int room_fill(struct ctx *c, struct room *r, struct err *e)
{
    const size_t n = r->x_bytes / sizeof(float);
    float *const v = ctx_on_host(c) ? r->x : xmalloc(r->x_bytes);
    int rc = 0;

    for (size_t i = 0; i < n; i++)
        v[i] = (float)(rng_uniform(2, i) - 0.5);
    if (v != r->x) {
        rc = c->be->upload(c, r->x, v, r->x_bytes, e);
        free(v);
    }
    return rc;
}

static int room_new(struct room *r, struct ctx *c, size_t x, size_t y, struct err *e)
{
    void *p;

    *r = (struct room){ .x_bytes = x * sizeof(float), .y_bytes = y * sizeof(float) };
    if (c->be->alloc(c, &p, r->x_bytes, "rows of products", e))
        return -1;
    r->x = p;
    if (c->be->alloc(c, &p, r->y_bytes, "products", e) == 0) {
        r->y = p;
        if (room_fill(c, r, e) == 0)
            return 0;
    }
    room_release(c, r);
    return -1;
}

/* One kind's products of all layers, as a pass of their own, so that a device may record it. */
static int run_kind(struct engine *g, enum kind kind, const struct room *r, const struct batch *b,
                    struct err *e)
{
    static const char keys[KINDS];
    struct ctx *const c = g->ctx;
    const struct model *m = g->model;
    struct pass p = {
        .b = b, .V = (size_t)m->hp->vocab, .D = (size_t)m->hp->dim, .key = { m, r->x, &keys[kind] }
    };
    int rc = c->be->enter(c, &p, e);

    if (rc < 0)
        return -1;
    for (size_t l = 0; rc == 0 && l < (size_t)m->hp->layers; l++) {
        struct linear_out out[3];
        const size_t n = kind_of_layer(&m->layer[l], kind, out, r->y, b->T);

        c->op->linear(c, out, n, r->x, b->T);
    }
    return c->be->leave(c, &p, e);
}

/* Microseconds of a layer's products of that kind: the median. */
static int time_kind(struct engine *g, enum kind kind, const struct room *r, const struct batch *b,
                     size_t reps, double *us, struct err *e)
{
    enum { WARM = 2 }; /* the first runs as it comes, the second may be recorded */
    double *const s = xcalloc(reps, sizeof(*s));
    int rc = 0;

    for (size_t i = 0; i < WARM + reps && rc == 0; i++) {
        const double start = clock_seconds();

        rc = run_kind(g, kind, r, b, e);
        if (i >= WARM)
            s[i - WARM] = clock_seconds() - start;
    }
    samples_sort(s, reps);
    *us = s[reps / 2] * 1e6 / (double)g->model->hp->layers;
    free(s);
    return rc;
}

int bench_products(struct engine *g, size_t T, size_t reps, json_t *list, struct err *e)
{
    size_t x, y;
    const size_t bytes = survey(g, &x, &y);
    int32_t *const zeros = xcalloc(T, sizeof(*zeros));
    const int32_t *const table = zeros;
    const struct batch b = { .T = T,
                             .token = zeros,
                             .pos = zeros,
                             .slot = zeros,
                             .seq = zeros,
                             .n_seq = 1,
                             .block_table = &table };
    double us[KINDS] = { 0 }, all = 0;
    struct room r;
    int rc = room_new(&r, g->ctx, T * x, T * y, e);

    for (enum kind k = 0; k < KINDS && rc == 0; k++) {
        rc = time_kind(g, k, &r, &b, reps, &us[k], e);
        all += us[k];
    }
    if (rc == 0)
        json_array_append_new(list, json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:I}", "rows",
                                              (json_int_t)T, "layer_us", all, "qkv_us", us[QKV],
                                              "o_us", us[O], "gate_up_us", us[GATE_UP], "down_us",
                                              us[DOWN], "bytes", (json_int_t)bytes));
    if (r.x && r.y)
        room_release(g->ctx, &r);
    free(zeros);
    return rc;
}
