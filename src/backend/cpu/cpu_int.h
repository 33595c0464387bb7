/* cpu_int.h - private to the CPU backend. */
#ifndef PUNA_BACKEND_CPU_CPU_INT_H
#define PUNA_BACKEND_CPU_CPU_INT_H

#include "backend/cpu/cpu.h"
#include "backend/cpu/kern.h"

/* Memory that only grows, and only between kernels. */
struct room {
    void *p;
    size_t n;
};

struct cpu {
    struct ctx ctx;
    struct cpu_kern k;
    struct room x8, xb, xf; /* activations of a linear: 8-bit, bf16, rounded float32 */
    struct room thread;     /* per thread: panel and sums, or decoded rows */
    struct room angle;      /* cosines and sines of rope, [T][hd/2] each */
    struct room angle_key;  /* the positions and frequencies that they belong to */
    size_t angle_T, angle_half;
    struct room score;            /* of attention with relative positions */
    struct room split;            /* states of attention whose slots are shared out */
    struct room train_a, train_w; /* training: inputs in bf16, decoded rows of a weight */
    struct room train_thread;     /* training, per thread: panels, scores */
    struct slab *slabs;           /* of placed weights; gone with the last of them */
};

/* Sums of attention whose slots are shared out: of a row of 8B's shape, 227 thousand slots. Touched
 * as far as it is used. */
enum { SPLIT_BYTES = 4 << 20 };

/* Runs fn on the team, or alone when `values` are too few for that to pay. */
void cpu_share(struct ctx *c, team_fn *fn, void *arg, size_t values);
/* What a thread needs for attention. */
size_t attn_room_bytes(size_t hd);
void attn_cpu(struct ctx *c, float *y, const float *q, size_t H, const struct kv_cache *kv,
              size_t layer, const struct batch *b);

/* n bytes at a multiple of 64; the process ends when the system has no memory left. */
void *room_get(struct room *r, size_t n);

/* Whether the 8-bit path takes w: planes must change their scale at the ends of groups alone. */
bool linear_unpacks(const struct cpu_kern *k, const struct weight *w);
/* The exact kernel that does, or NULL. */
const struct exact_kern *linear_exact(const struct cpu_kern *k, enum compute compute,
                                      const struct weight *w);
/* Rows r0 .. r0+R of w, R <= 16, those `ahead` further on to be fetched. */
struct rows16 rows_at(const struct weight *w, size_t r0, size_t R, size_t ahead);

int place_cpu(struct ctx *c, struct weight *w, struct err *e) MUST_USE;
void unplace_cpu(struct ctx *c, struct weight *w);
/* Row r of a placed weight, decoded. */
void placed_row(const struct cpu_kern *k, float *y, const struct weight *w, size_t r);

void linear_cpu(struct ctx *c, const struct linear_out *out, size_t n, const float *x, size_t T);
void affine_cpu(struct ctx *c, float *y, const struct weight *w, const float *b, const float *x,
                size_t T, bool add);
void attn_rel_cpu(struct ctx *c, float *y, const struct rel_attn *a);
void gelu_cpu(struct ctx *c, float *x, size_t T, size_t D);
void layernorm_cpu(struct ctx *c, float *y, const float *x, const float *w, const float *b,
                   size_t T, size_t D, float eps);
void linear_add_cpu(struct ctx *c, float *y, const struct weight *w, const float *x, size_t T);

#endif
