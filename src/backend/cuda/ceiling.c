/* ceiling.c - the yardsticks of bench: memory bandwidth by a kernel that only reads, matrix peaks
 * by cuBLASLt's best product. */
#include "backend/cuda/cuda_int.h"

enum { RUNS = 7, N = 8192 };

static const size_t bytes = (size_t)4 << 30;

/* The best of a few timings of one call, in seconds; 0 = it failed. */
static double best(struct cuda *b, bool (*call)(struct cuda *b, const void *arg), const void *arg)
{
    CUevent start = NULL, end = NULL;
    double most = 0;
    bool good = cuda_ok(b, b->d.cuEventCreate(&start, CU_EVENT_DEFAULT), "event") &&
                cuda_ok(b, b->d.cuEventCreate(&end, CU_EVENT_DEFAULT), "event");

    for (int i = 0; i <= RUNS && good; i++) { /* the first is the warm-up */
        float ms = 0;

        good = cuda_ok(b, b->d.cuEventRecord(start, b->stream), "event") && call(b, arg) &&
               cuda_ok(b, b->d.cuEventRecord(end, b->stream), "event") &&
               cuda_ok(b, b->d.cuEventSynchronize(end), "ceiling") &&
               cuda_ok(b, b->d.cuEventElapsedTime(&ms, start, end), "event");
        if (good && i > 0 && (most == 0 || ms / 1e3 < most))
            most = ms / 1e3;
    }
    if (start)
        b->d.cuEventDestroy(start);
    if (end)
        b->d.cuEventDestroy(end);
    return good ? most : 0;
}

static bool read_once(struct cuda *b, const void *p)
{
    size_t n = bytes / 16;
    void *none = NULL;

    cuda_launch(b, KERN_read_all, b->sms * 4, 1, 1, 512,
                (void *[]){ (void *)(uintptr_t)p, &n, &none });
    return !b->failed;
}

static bool multiply(struct cuda *b, const void *p)
{
    return blas_run(b, p);
}

int cuda_ceiling(struct ctx *c, struct cuda_ceilings *out, struct err *e)
{
    struct cuda *b = c->backend;
    void *mem;
    struct cuda_ceilings top = { 0 };

    if (cuda_alloc(c, &mem, bytes, "the yardstick", e))
        return -1;
    const CUdeviceptr p = (CUdeviceptr)(uintptr_t)mem;
    /* what is multiplied: see fill in small.cu; the sum goes where neither factor is */
    struct blas_product o = { .y = (float *)(uintptr_t)(p + ((size_t)1 << 30)),
                              .ldy = N,
                              .rows = N,
                              .T = N,
                              .kp = N,
                              .w = p,
                              .x = p + (size_t)N * N * 2,
                              .w_scale = p + ((size_t)2 << 30),
                              .x_scale = p + ((size_t)2 << 30),
                              .type = BLAS_BF16 };
    size_t words = bytes / 4;
    double s;

    cuda_launch(b, KERN_fill, b->sms * 8, 1, 1, 512, (void *[]){ &mem, &words });
    if ((s = best(b, read_once, &mem)) > 0)
        top.read = (double)bytes / s;
    if (b->blas && (s = best(b, multiply, &o)) > 0)
        top.bf16 = 2.0 * N * N * N / s;
    o.type = BLAS_F8;
    if (blas_has_f8(b) && (s = best(b, multiply, &o)) > 0)
        top.f8 = 2.0 * N * N * N / s;
    const bool failed = b->failed;
    const struct err why = b->fault;

    b->failed = false;
    cuda_release(c, mem, 0);
    if (failed)
        return err_set(e, why.code, "%s", why.msg);
    *out = top;
    return 0;
}
