/* cublas.c - blas.c's interface over plain loops, for the emulated device (device.h). */
#include <math.h>
#include <stdlib.h>

#include "backend/cuda/cuda_int.h"
#include "base/mem.h"
#include "base/num.h"
#include "format/enc/f8.h"

struct blas {
    CUfunction call;
};

struct blas *blas_open(struct cuda *b)
{
    struct blas *l = xcalloc(1, sizeof(*l));

    BUG_ON(b->d.cuModuleGetFunction(&l->call, NULL, "host_function"));
    return l;
}

void blas_close(struct cuda *b)
{
    free(b->blas);
    b->blas = NULL;
}

bool blas_has_f8(const struct cuda *b)
{
    return b->hopper;
}

bool blas_can(struct cuda *b, const struct blas_product *p)
{
    return p->type != BLAS_F8 || b->hopper;
}

static float value(enum blas_type type, CUdeviceptr p, size_t i)
{
    const void *at = (const void *)(uintptr_t)p;

    return type == BLAS_F32    ? ((const float *)at)[i]
           : type == BLAS_BF16 ? bf16_to_f32(((const bf16 *)at)[i])
           : type == BLAS_F16  ? f16_to_f32(((const f16 *)at)[i])
                               : f8_e4m3_to_f32(((const uint8_t *)at)[i]);
}

/* Row r of an operand of n rows, as float32. */
static void row(float *to, enum blas_type type, CUdeviceptr p, size_t r, size_t kp, size_t ld,
                bool across)
{
    for (size_t k = 0; k < kp; k++)
        to[k] = value(type, p, across ? k * ld + r : r * ld + k);
}

static float factor(CUdeviceptr scale, size_t i)
{
    return scale ? ((const float *)(uintptr_t)scale)[i] : 1;
}

union argument {
    struct {
        struct blas_product p;
        float by;
    } of;
    host_argument raw;
};

static void product(const host_argument *raw)
{
    const struct blas_product *p = &((const union argument *)raw)->of.p;
    const float by = ((const union argument *)raw)->of.by;
    const size_t ldw = p->ldw ? p->ldw : p->kp;
    const size_t ldx = p->ldx ? p->ldx : p->kp;
    float *w = xmalloc((p->T + 1) * p->kp * sizeof(*w)), *x = w + p->kp;

    for (size_t t = 0; t < p->T; t++)
        row(x + t * p->kp, p->type, p->x, t, p->kp, ldx, p->x_across);
    for (size_t r = 0; r < p->rows; r++) {
        row(w, p->type, p->w, r, p->kp, ldw, p->w_across);
        for (size_t t = 0; t < p->T; t++) {
            const size_t at = t * p->ldy + r;
            const void *const to = p->to ? p->to : p->add ? p->y : NULL;
            float s = 0;

            for (size_t k = 0; k < p->kp; k++)
                s += w[k] * x[t * p->kp + k];
            s *= factor(p->w_scale, r) * factor(p->x_scale, t) * by;
            if (p->half_y)
                ((bf16 *)p->y)[at] =
                    f32_to_bf16(s + (to ? bf16_to_f32(((const bf16 *)to)[at]) : 0));
            else
                ((float *)p->y)[at] = s + (to ? ((const float *)to)[at] : 0);
        }
    }
    free(w);
}

bool blas_run(struct cuda *b, const struct blas_product *p)
{
    union argument a = { .of = { *p, p->by ? *p->by : 1 } };
    void (*f)(const host_argument *) = product;

    return cuda_ok(b,
                   b->d.cuLaunchKernel(b->blas->call, 1, 1, 1, 1, 1, 1, 0, b->stream,
                                       (void *[]){ &f, &a.raw }, NULL),
                   "product");
}
