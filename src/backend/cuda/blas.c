/* blas.c - products of many rows through cuBLASLt, opened at run time. Where it is not to be had
 * programs do them, a few rows at a time. */
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>

#include "backend/cuda/cuda_int.h"
#include "base/mem.h"

#define BLAS_FUNCTIONS(F)                                                                          \
    F(cublasLtCreate)                                                                              \
    F(cublasLtDestroy)                                                                             \
    F(cublasLtMatmulDescCreate)                                                                    \
    F(cublasLtMatmulDescDestroy)                                                                   \
    F(cublasLtMatmulDescSetAttribute)                                                              \
    F(cublasLtMatrixLayoutCreate)                                                                  \
    F(cublasLtMatrixLayoutDestroy)                                                                 \
    F(cublasLtMatmulPreferenceCreate)                                                              \
    F(cublasLtMatmulPreferenceDestroy)                                                             \
    F(cublasLtMatmulPreferenceSetAttribute)                                                        \
    F(cublasLtMatmulAlgoGetHeuristic)                                                              \
    F(cublasLtMatmul)

enum { PLANS = 256, WORKSPACE = 32 << 20, ALIGN = 256 };
/* One shape of product, ready to run. */
struct plan {
    size_t rows, T, kp, ldy, ldw, ldx, align;
    enum blas_type type;
    bool w_across, x_across, half_y;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algo;
};

struct blas {
    void *lib;
#define F(name) __typeof__(name) *name;
    BLAS_FUNCTIONS(F)
#undef F
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc[BLAS_TYPES];
    cublasLtMatmulDesc_t across[4]; /* w_across + 2 x_across; 0 is desc */
    bool f8;                        /* with a factor for each row of both */
    CUdeviceptr workspace;          /* WORKSPACE bytes for each lane */
    struct plan plan[PLANS];
    size_t n, next;
};

static void plan_release(const struct blas *l, struct plan *p)
{
    if (p->w)
        l->cublasLtMatrixLayoutDestroy(p->w);
    if (p->x)
        l->cublasLtMatrixLayoutDestroy(p->x);
    if (p->y)
        l->cublasLtMatrixLayoutDestroy(p->y);
    *p = (struct plan){ 0 };
}

void blas_close(struct cuda *b)
{
    struct blas *l = b->blas;

    if (!l)
        return;
    for (size_t i = 0; i < l->n; i++)
        plan_release(l, &l->plan[i]);
    for (size_t i = 0; i < BLAS_TYPES; i++)
        if (l->desc[i])
            l->cublasLtMatmulDescDestroy(l->desc[i]);
    for (size_t i = 1; i < ARRAY_LEN(l->across); i++)
        if (l->across[i])
            l->cublasLtMatmulDescDestroy(l->across[i]);
    if (l->handle)
        l->cublasLtDestroy(l->handle);
    if (l->workspace)
        b->d.cuMemFree(l->workspace);
    free(l);
    b->blas = NULL;
}

static bool symbols(struct blas *l)
{
#define F(name)                                                                                    \
    *(void **)&l->name = dlsym(l->lib, #name);                                                     \
    if (!l->name)                                                                                  \
        return false;
    BLAS_FUNCTIONS(F)
#undef F
    return true;
}

static bool set(const struct blas *l, enum blas_type type, cublasLtMatmulDescAttributes_t what,
                const void *value, size_t n)
{
    return l->cublasLtMatmulDescSetAttribute(l->desc[type], what, value, n) == 0;
}

static bool describe(struct blas *l, enum blas_type type)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;

    return l->cublasLtMatmulDescCreate(&l->desc[type], CUBLAS_COMPUTE_32F, CUDA_R_32F) == 0 &&
           set(l, type, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
}

/* Of float32 or 16 bits, one operand or both lying across. */
static bool describe_across(struct blas *l)
{
    for (size_t i = 1; i < ARRAY_LEN(l->across); i++) {
        const cublasOperation_t w = i & 1 ? CUBLAS_OP_N : CUBLAS_OP_T;
        const cublasOperation_t x = i & 2 ? CUBLAS_OP_T : CUBLAS_OP_N;

        if (l->cublasLtMatmulDescCreate(&l->across[i], CUBLAS_COMPUTE_32F, CUDA_R_32F) ||
            l->cublasLtMatmulDescSetAttribute(l->across[i], CUBLASLT_MATMUL_DESC_TRANSA, &w,
                                              sizeof(w)) ||
            l->cublasLtMatmulDescSetAttribute(l->across[i], CUBLASLT_MATMUL_DESC_TRANSB, &x,
                                              sizeof(x)))
            return false;
    }
    return true;
}

/* Rows' own factors came with CUDA 12.9, for Hopper and later. Sums stay on the tensor cores, as
 * FBGEMM's and vLLM's do: 10 to 12 % faster on an H200. */
static bool describe_f8(struct blas *l)
{
#if CUBLAS_VERSION >= 120900
    const cublasLtMatmulMatrixScale_t rows = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const int8_t fast = 1;

    return describe(l, BLAS_F8) &&
           set(l, BLAS_F8, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof(fast)) &&
           set(l, BLAS_F8, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &rows, sizeof(rows)) &&
           set(l, BLAS_F8, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &rows, sizeof(rows));
#else
    (void)l;
    return false;
#endif
}

struct blas *blas_open(struct cuda *b)
{
    static const char *const names[] = { "libcublasLt.so.13", "libcublasLt.so.12" };
    struct blas *l = xcalloc(1, sizeof(*l));

    for (size_t i = 0; i < ARRAY_LEN(names) && !l->lib; i++)
        l->lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    b->blas = l;
    if (l->lib && symbols(l) && l->cublasLtCreate(&l->handle) == CUBLAS_STATUS_SUCCESS &&
        describe(l, BLAS_BF16) && describe(l, BLAS_F16) && describe(l, BLAS_F32) &&
        describe_across(l) &&
        b->d.cuMemAlloc(&l->workspace, (1 + BLAS_SIDES) * WORKSPACE) == CUDA_SUCCESS) {
        l->f8 = b->hopper && describe_f8(l);
        return l;
    }
    if (l->lib && l->cublasLtDestroy && l->cublasLtMatmulDescDestroy)
        blas_close(b);
    else
        free(l);
    b->blas = NULL;
    return NULL;
}

bool blas_has_f8(const struct cuda *b)
{
    return b->blas && b->blas->f8;
}

static cublasLtMatmulDesc_t desc_of(const struct blas *l, const struct plan *p)
{
    const size_t i = (size_t)p->w_across + 2 * (size_t)p->x_across;

    return i ? l->across[i] : l->desc[p->type];
}

/* Where operands begin; a library's own allocations would be at multiples of 256. */
static bool set_align(const struct blas *l, cublasLtMatmulPreference_t pref, size_t align)
{
    static const cublasLtMatmulPreferenceAttributes_t which[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES
    };
    const uint32_t n = (uint32_t)align;

    for (size_t i = 0; align < ALIGN && i < ARRAY_LEN(which); i++)
        if (l->cublasLtMatmulPreferenceSetAttribute(pref, which[i], &n, sizeof(n)))
            return false;
    return true;
}

/* Column-major to cuBLAS: y^T [rows, T] = W [rows, kp] x^T [kp, T]. */
static bool plan_make(const struct blas *l, struct plan *p)
{
    static const cudaDataType_t types[BLAS_TYPES] = { CUDA_R_16BF, CUDA_R_16F, CUDA_R_8F_E4M3,
                                                      CUDA_R_32F };
    const cudaDataType_t type = types[p->type];
    const size_t most = WORKSPACE;
    cublasLtMatmulPreference_t pref = NULL;
    cublasLtMatmulHeuristicResult_t found;
    int n = 0;
    const bool ok =
        l->cublasLtMatrixLayoutCreate(&p->w, type, p->w_across ? p->rows : p->kp,
                                      p->w_across ? p->kp : p->rows, (int64_t)p->ldw) == 0 &&
        l->cublasLtMatrixLayoutCreate(&p->x, type, p->x_across ? p->T : p->kp,
                                      p->x_across ? p->kp : p->T, (int64_t)p->ldx) == 0 &&
        l->cublasLtMatrixLayoutCreate(&p->y, p->half_y ? CUDA_R_16BF : CUDA_R_32F, p->rows, p->T,
                                      (int64_t)p->ldy) == 0 &&
        l->cublasLtMatmulPreferenceCreate(&pref) == 0 &&
        l->cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                &most, sizeof(most)) == 0 &&
        set_align(l, pref, p->align) &&
        l->cublasLtMatmulAlgoGetHeuristic(l->handle, desc_of(l, p), p->w, p->x, p->y, p->y, pref, 1,
                                          &found, &n) == 0 &&
        n >= 1;

    if (pref)
        l->cublasLtMatmulPreferenceDestroy(pref);
    if (ok)
        p->algo = found.algo;
    return ok;
}

static struct plan *plan_for(const struct cuda *b, const struct blas_product *o)
{
    struct blas *l = b->blas;
    const uintptr_t bits = (uintptr_t)o->w | (uintptr_t)o->x | (uintptr_t)o->y | (uintptr_t)o->to;
    const size_t low = (size_t)(bits & (~bits + 1)), align = o->by && low < ALIGN ? low : ALIGN;
    const size_t ldw = o->ldw ? o->ldw : o->kp, ldx = o->ldx ? o->ldx : o->kp;

    for (size_t i = 0; i < l->n; i++) {
        struct plan *p = &l->plan[i];

        if (p->rows == o->rows && p->T == o->T && p->kp == o->kp && p->ldy == o->ldy &&
            p->type == o->type && p->ldw == ldw && p->ldx == ldx && p->align == align &&
            p->w_across == o->w_across && p->x_across == o->x_across && p->half_y == o->half_y)
            return p;
    }
    struct plan *p = &l->plan[l->next];

    if (l->n < PLANS)
        l->n++;
    l->next = (l->next + 1) % PLANS;
    plan_release(l, p);
    *p = (struct plan){ .rows = o->rows,
                        .T = o->T,
                        .kp = o->kp,
                        .ldy = o->ldy,
                        .ldw = ldw,
                        .ldx = ldx,
                        .align = align,
                        .type = o->type,
                        .w_across = o->w_across,
                        .x_across = o->x_across,
                        .half_y = o->half_y };
    if (plan_make(l, p))
        return p;
    plan_release(l, p);
    return NULL;
}

bool blas_can(struct cuda *b, const struct blas_product *o)
{
    return plan_for(b, o) != NULL;
}

static cublasStatus_t multiply(const struct cuda *b, const struct plan *p,
                               const struct blas_product *o)
{
    static const float one = 1;
    const struct blas *l = b->blas;
    const float *const by = o->by ? o->by : &one, beta = o->add || o->to ? 1 : 0;
    const void *const w = (const void *)(uintptr_t)o->w, *const x = (const void *)(uintptr_t)o->x;

    return l->cublasLtMatmul(l->handle, desc_of(l, p), by, w, p->w, x, p->x, &beta,
                             o->to ? o->to : o->y, p->y, o->y, p->y, &p->algo,
                             (void *)(uintptr_t)(l->workspace + b->lane * WORKSPACE), WORKSPACE,
                             b->lane ? b->side[b->lane - 1] : b->stream);
}

bool blas_run(struct cuda *b, const struct blas_product *o)
{
    struct blas *l = b->blas;

    program_flush(b);
    if (b->failed ||
        (o->type == BLAS_F8 &&
         (!set(l, BLAS_F8, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &o->w_scale, sizeof(o->w_scale)) ||
          !set(l, BLAS_F8, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &o->x_scale, sizeof(o->x_scale)))))
        return false;
    struct plan *p = plan_for(b, o);

    if (!p) {
        l->f8 &= o->type != BLAS_F8 || o->half_y; /* it would not the next time either */
        return false;
    }
    return cuda_ok(b,
                   !b->failed && multiply(b, p, o) == CUBLAS_STATUS_SUCCESS ? CUDA_SUCCESS
                                                                            : CUDA_ERROR_UNKNOWN,
                   "cuBLASLt product");
}
