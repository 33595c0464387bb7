#include "backend/cpu/ceiling.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "backend/cpu/cpu.h"
#include "base/mem.h"

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double fp32_generic(size_t n)
{
    float a[16];

    for (int i = 0; i < 16; i++)
        a[i] = 1 + (float)i * 1e-3f;
    for (size_t r = 0; r < n; r++)
        for (int i = 0; i < 16; i++)
            a[i] = a[i] * 0.999f + 1e-3f;
    volatile float sink = a[0] + a[15];

    (void)sink;
    return (double)n * 16 * 2;
}

struct read_job {
    const uint8_t *p;
    size_t n;
    _Atomic uint64_t sink;
};

/* Each thread reads one long stream: 64 bytes at a time, four sums, so that nothing but memory
 * limits. */
static void read_part(void *arg, int me, int n)
{
    struct read_job *j = arg;
    size_t lo, hi;
    uint64_t s[8] = { 0 };

    team_part(j->n, 4096, me, n, &lo, &hi);
    for (size_t i = lo; i + 64 <= hi; i += 64) {
        uint64_t v[8];

        __builtin_prefetch(j->p + i + 2048);
        memcpy(v, j->p + i, 64);
        for (int k = 0; k < 8; k++)
            s[k] += v[k];
    }
    for (int k = 1; k < 8; k++)
        s[0] += s[k];
    atomic_fetch_add(&j->sink, s[0]);
}

static void touch_part(void *arg, int me, int n)
{
    struct read_job *j = arg;
    size_t lo, hi;

    team_part(j->n, 4096, me, n, &lo, &hi);
    for (size_t i = lo; i < hi; i += 4096)
        ((uint8_t *)(uintptr_t)j->p)[i] = (uint8_t)i;
}

static int read_rate(double *out, struct team *t, size_t bytes, int reps, int advice, struct err *e)
{
    struct read_job j = { .n = bytes };
    void *p;

    if (mem_map(&p, bytes, "bandwidth buffer", e))
        return -1;
    (void)madvise(p, bytes, advice);
    j.p = p;
    team_run(t, touch_part, &j);
    *out = 0;
    for (int r = 0; r < reps; r++) {
        const double start = now();

        team_run(t, read_part, &j);
        const double rate = (double)bytes / (now() - start);

        *out = rate > *out ? rate : *out;
    }
    mem_unmap(p, bytes);
    return 0;
}

int ceiling_read(double *out, struct team *t, size_t bytes, int reps, struct err *e)
{
    double a, b;

    if (read_rate(&a, t, bytes, reps, MADV_NOHUGEPAGE, e) ||
        read_rate(&b, t, bytes, reps, MADV_HUGEPAGE, e))
        return -1;
    *out = a > b ? a : b;
    return 0;
}

struct peak_job {
    double (*fn)(size_t n);
    size_t n;
    double ops[256];
};

static void peak_part(void *arg, int me, int n)
{
    struct peak_job *j = arg;

    (void)n;
    if ((size_t)me < ARRAY_LEN(j->ops))
        j->ops[me] = j->fn(j->n);
}

static double peak(struct team *t, double (*fn)(size_t), int reps)
{
    struct peak_job j = { .fn = fn, .n = 2000000 };
    double best = 0;

    for (int r = 0; fn && r < reps; r++) {
        double ops = 0;
        const double start = now();

        team_run(t, peak_part, &j);
        const double took = now() - start;

        for (int i = 0; i < team_size(t) && (size_t)i < ARRAY_LEN(j.ops); i++)
            ops += j.ops[i];
        best = ops / took > best ? ops / took : best;
    }
    return best;
}

int ceiling_measure(struct ceilings *out, struct team *t, unsigned flags, size_t bytes, int reps,
                    struct err *e)
{
    struct ceiling_kern k = { .fp32 = fp32_generic };

    if (flags & CPU_AVX2)
        ceiling_kern_avx2(&k);
    if (flags & CPU_AVX512)
        ceiling_kern_avx512(&k);
    if (flags & CPU_AVX512_BF16)
        ceiling_kern_avx512_bf16(&k);
    if (flags & CPU_AMX)
        ceiling_kern_amx(&k);
    if (read_rate(&out->read_4k, t, bytes, reps, MADV_NOHUGEPAGE, e) ||
        read_rate(&out->read_2m, t, bytes, reps, MADV_HUGEPAGE, e))
        return -1;
    out->fp32 = peak(t, k.fp32, reps);
    out->bf16 = peak(t, k.bf16, reps);
    out->int8 = peak(t, k.int8, reps);
    return 0;
}
