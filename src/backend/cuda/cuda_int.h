/* cuda_int.h - private to the CUDA backend; empty where there is no nvcc. */
#ifndef PUNA_BACKEND_CUDA_CUDA_INT_H
#define PUNA_BACKEND_CUDA_CUDA_INT_H

#ifdef PUNA_CUDA

#include <cuda.h>

#include "backend/cuda/cuda.h"
#include "backend/cuda/dev.h"

/* The driver, opened at run time. cuda.h's macros give every name its version. */
#define CUDA_FUNCTIONS(F)                                                                          \
    F(cuInit)                                                                                      \
    F(cuDeviceGetCount)                                                                            \
    F(cuDeviceGet)                                                                                 \
    F(cuDeviceGetName)                                                                             \
    F(cuDeviceTotalMem)                                                                            \
    F(cuDeviceGetAttribute)                                                                        \
    F(cuDevicePrimaryCtxRetain)                                                                    \
    F(cuDevicePrimaryCtxRelease)                                                                   \
    F(cuCtxSetCurrent)                                                                             \
    F(cuGetErrorString)                                                                            \
    F(cuMemGetInfo)                                                                                \
    F(cuMemAlloc)                                                                                  \
    F(cuMemFree)                                                                                   \
    F(cuMemAllocHost)                                                                              \
    F(cuMemFreeHost)                                                                               \
    F(cuMemcpyHtoDAsync)                                                                           \
    F(cuMemcpyDtoHAsync)                                                                           \
    F(cuMemsetD8Async)                                                                             \
    F(cuStreamCreate)                                                                              \
    F(cuStreamDestroy)                                                                             \
    F(cuStreamSynchronize)                                                                         \
    F(cuStreamBeginCapture)                                                                        \
    F(cuStreamEndCapture)                                                                          \
    F(cuGraphInstantiateWithFlags)                                                                 \
    F(cuGraphLaunch)                                                                               \
    F(cuGraphDestroy)                                                                              \
    F(cuGraphExecDestroy)                                                                          \
    F(cuEventCreate)                                                                               \
    F(cuEventDestroy)                                                                              \
    F(cuEventRecord)                                                                               \
    F(cuEventSynchronize)                                                                          \
    F(cuEventElapsedTime)                                                                          \
    F(cuModuleLoadData)                                                                            \
    F(cuModuleUnload)                                                                              \
    F(cuModuleGetFunction)                                                                         \
    F(cuLaunchKernel)

struct driver {
#define F(name) __typeof__(name) *name;
    CUDA_FUNCTIONS(F)
#undef F
};

/* Kernels, by the .cu file that has them. */
#define CUDA_TILES(F, kind)                                                                        \
    F(linear, tile_##kind##_1) F(linear, tile_##kind##_2) F(linear, tile_##kind##_8)
#define CUDA_ATTNS(F, enc) F(attn, attn_##enc##_1) F(attn, attn_##enc##_4) F(attn, attn_##enc##_8)
#define CUDA_KERNELS(F)                                                                            \
    F(small, embed)                                                                                \
    F(small, gather)                                                                               \
    F(small, scale)                                                                                \
    F(small, rmsnorm)                                                                              \
    F(small, swiglu)                                                                               \
    F(small, rope)                                                                                 \
    F(small, kv_write)                                                                             \
    F(small, act)                                                                                  \
    F(small, prep)                                                                                 \
    F(small, dequant)                                                                              \
    F(small, pack_codes)                                                                           \
    F(small, pack_scales)                                                                          \
    F(small, pack_pad)                                                                             \
    F(small, read_all)                                                                             \
    F(linear, product)                                                                             \
    CUDA_TILES(F, b16)                                                                             \
    CUDA_TILES(F, h16)                                                                             \
    CUDA_TILES(F, f8)                                                                              \
    CUDA_TILES(F, u8)                                                                              \
    CUDA_TILES(F, u8_fine)                                                                         \
    CUDA_TILES(F, u4)                                                                              \
    CUDA_TILES(F, u4_fine)                                                                         \
    CUDA_ATTNS(F, f32)                                                                             \
    CUDA_ATTNS(F, f16)                                                                             \
    CUDA_ATTNS(F, bf16)                                                                            \
    F(attn, attn_merge)

enum kernel {
#define F(file, name) KERN_##name,
    CUDA_KERNELS(F)
#undef F
        KERN_COUNT
};

/* Device memory that only grows, and never during a recording. */
struct gpu_room {
    CUdeviceptr p;
    size_t n;
};

/* A recorded forward pass. */
struct recording {
    const void *key[3];
    size_t T, n_want, slots;
    CUgraphExec exec; /* NULL: it ran once, the next time it is recorded */
};

enum { RECORDINGS = 64, RECORD_ROWS = 64, PIN_BYTES = 16 << 20 };

struct blas; /* blas.c */

struct cuda {
    struct ctx ctx;
    struct driver d;
    void *lib;
    CUdevice device;
    CUcontext context;
    CUstream stream;
    CUmodule module[3];
    CUfunction kern[KERN_COUNT];
    int sms;
    bool retained;
    char name[160];
    struct blas *blas; /* NULL = not to be had */

    bool failed; /* a call failed since the last leave */
    struct err fault;

    void *pin[2]; /* PIN_BYTES each */
    CUevent pin_free[2];
    struct gpu_room batch, logits, hidden, x16, xsum, rounded, part, dequant;

    size_t slots; /* of this pass: no row sees more; a power of two */
    size_t splits, span;
    const void *slot, *seq, *table; /* of this pass, on the device */
    struct recording rec[RECORDINGS];
    size_t n_rec;
    struct recording *recording; /* under way */

    /* the last input that was written in 16 bits too: x16 holds it */
    struct {
        const float *x;
        size_t T;
        int kp, mode;
        bool sums;
    } have;
    int hint; /* enum prep_mode that products asked for last, or -1 */
};

/* A weight on the device. */
struct placed {
    struct dev_weight w;
    CUdeviceptr mem[8];
    size_t n_mem;
};

/* Notes the first failure of a pass; false when rc is one. */
bool cuda_ok(struct cuda *b, CUresult rc, const char *what);
int cuda_fail(struct cuda *b, CUresult rc, const char *what, struct err *e);
bool cuda_room(struct cuda *b, struct gpu_room *r, size_t n);
void cuda_launch(struct cuda *b, enum kernel k, size_t gx, size_t gy, size_t gz, int threads,
                 void **args);
int cuda_alloc(struct ctx *c, void **out, size_t n, const char *what, struct err *e) MUST_USE;
void cuda_release(struct ctx *c, void *p, size_t n);
int cuda_upload(struct ctx *c, void *to, const void *from, size_t n, struct err *e) MUST_USE;
int cuda_download(struct ctx *c, void *to, const void *from, size_t n, struct err *e) MUST_USE;
int cuda_place(struct ctx *c, struct weight *w, struct err *e) MUST_USE;
void cuda_unplace(struct ctx *c, struct weight *w);
int cuda_enter(struct ctx *c, struct pass *p, struct err *e) MUST_USE;
int cuda_leave(struct ctx *c, struct pass *p, struct err *e) MUST_USE;
void cuda_forget(struct cuda *b); /* every recording */

extern const struct ops ops_cuda;

/* y [T][rows] (+)= x [T][k] w [rows][k]^T, both bf16, strides ldx and ldw; y float32, stride ldy.
 * false: cuBLASLt cannot. */
struct blas *blas_open(struct cuda *b);
void blas_close(struct cuda *b);
bool blas_product(struct cuda *b, float *y, size_t ldy, CUdeviceptr w, size_t rows, const void *x,
                  size_t T, size_t kp, bool add);

#endif
#endif
