/* blas.c - bf16 products of many rows through cuBLASLt, opened at run time. Where it is not to be
 * had the tile kernel does them, slower. */
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

enum { PLANS = 64, WORKSPACE = 32 << 20 };

/* One shape of product, ready to run. */
struct plan {
    size_t rows, T, kp, ldy;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algo;
};

struct blas {
    void *lib;
#define F(name) __typeof__(name) *name;
    BLAS_FUNCTIONS(F)
#undef F
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    CUdeviceptr workspace;
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
    if (l->desc)
        l->cublasLtMatmulDescDestroy(l->desc);
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

struct blas *blas_open(struct cuda *b)
{
    static const char *const names[] = { "libcublasLt.so.13", "libcublasLt.so.12" };
    const cublasOperation_t transposed = CUBLAS_OP_T;
    struct blas *l = xcalloc(1, sizeof(*l));

    for (size_t i = 0; i < ARRAY_LEN(names) && !l->lib; i++)
        l->lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    b->blas = l;
    if (l->lib && symbols(l) && l->cublasLtCreate(&l->handle) == CUBLAS_STATUS_SUCCESS &&
        l->cublasLtMatmulDescCreate(&l->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) ==
            CUBLAS_STATUS_SUCCESS &&
        l->cublasLtMatmulDescSetAttribute(l->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                          sizeof(transposed)) == CUBLAS_STATUS_SUCCESS &&
        b->d.cuMemAlloc(&l->workspace, WORKSPACE) == CUDA_SUCCESS)
        return l;
    if (l->lib && l->cublasLtDestroy && l->cublasLtMatmulDescDestroy)
        blas_close(b);
    else
        free(l);
    b->blas = NULL;
    return NULL;
}

/* Column-major to cuBLAS: y^T [rows, T] = W [rows, kp] x^T [kp, T]. */
static bool plan_make(const struct blas *l, struct plan *p)
{
    const size_t most = WORKSPACE;
    cublasLtMatmulPreference_t pref = NULL;
    cublasLtMatmulHeuristicResult_t found;
    int n = 0;
    const bool ok =
        l->cublasLtMatrixLayoutCreate(&p->w, CUDA_R_16BF, p->kp, p->rows, (int64_t)p->kp) == 0 &&
        l->cublasLtMatrixLayoutCreate(&p->x, CUDA_R_16BF, p->kp, p->T, (int64_t)p->kp) == 0 &&
        l->cublasLtMatrixLayoutCreate(&p->y, CUDA_R_32F, p->rows, p->T, (int64_t)p->ldy) == 0 &&
        l->cublasLtMatmulPreferenceCreate(&pref) == 0 &&
        l->cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                &most, sizeof(most)) == 0 &&
        l->cublasLtMatmulAlgoGetHeuristic(l->handle, l->desc, p->w, p->x, p->y, p->y, pref, 1,
                                          &found, &n) == 0 &&
        n == 1;

    if (pref)
        l->cublasLtMatmulPreferenceDestroy(pref);
    if (ok)
        p->algo = found.algo;
    return ok;
}

static struct plan *plan_for(struct blas *l, size_t ldy, size_t rows, size_t T, size_t kp)
{
    for (size_t i = 0; i < l->n; i++) {
        struct plan *p = &l->plan[i];

        if (p->rows == rows && p->T == T && p->kp == kp && p->ldy == ldy)
            return p;
    }
    struct plan *p = &l->plan[l->next];

    if (l->n < PLANS)
        l->n++;
    l->next = (l->next + 1) % PLANS;
    plan_release(l, p);
    *p = (struct plan){ .rows = rows, .T = T, .kp = kp, .ldy = ldy };
    if (plan_make(l, p))
        return p;
    plan_release(l, p);
    return NULL;
}

bool blas_product(struct cuda *b, float *y, size_t ldy, CUdeviceptr w, size_t rows, const void *x,
                  size_t T, size_t kp, bool add)
{
    struct blas *l = b->blas;
    const float one = 1, beta = add ? 1 : 0;
    struct plan *p = plan_for(l, ldy, rows, T, kp);

    if (!p || b->failed)
        return false;
    const cublasStatus_t rc = l->cublasLtMatmul(
        l->handle, l->desc, &one, (const void *)(uintptr_t)w, p->w, x, p->x, &beta, y, p->y, y,
        p->y, &p->algo, (void *)(uintptr_t)l->workspace, WORKSPACE, b->stream);

    return cuda_ok(b, rc == CUBLAS_STATUS_SUCCESS ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN,
                   "cuBLASLt product");
}
