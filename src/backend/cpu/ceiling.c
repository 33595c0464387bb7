#include "backend/cpu/ceiling.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/cpu/cpu.h"
#include "base/clock.h"
#include "base/mem.h"

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
    size_t n, ahead;
    uint64_t (*fn)(const uint8_t *p, size_t n, size_t ahead);
    _Atomic uint64_t sink;
};

static uint64_t read_generic(const uint8_t *p, size_t n, size_t ahead)
{
    uint64_t s[8] = { 0 };

    for (size_t i = 0; i < n; i += 64) {
        uint64_t v[8];

        __builtin_prefetch(p + i + ahead);
        memcpy(v, p + i, 64);
        for (int k = 0; k < 8; k++)
            s[k] += v[k];
    }
    return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

/* Each thread reads one long stream. */
static void read_part(void *arg, int me, int n)
{
    struct read_job *j = arg;
    size_t lo, hi;

    team_part(j->n, 4096, me, n, &lo, &hi);
    atomic_fetch_add(&j->sink, j->fn(j->p + lo, (hi - lo) / 256 * 256, j->ahead));
}

static void touch_part(void *arg, int me, int n)
{
    struct read_job *j = arg;
    size_t lo, hi;

    team_part(j->n, 4096, me, n, &lo, &hi);
    for (size_t i = lo; i < hi; i += 4096)
        ((uint8_t *)(uintptr_t)j->p)[i] = (uint8_t)i;
}

/* The fastest of `reps` passes with software prefetch and as many without. */
static int read_rate(double *out, struct team *t, size_t bytes, int reps, int advice, struct err *e)
{
    struct ceiling_kern k = { .read = read_generic };
    struct read_job j = { .n = bytes };
    void *p;

    if (cpu_flags() & CPU_AVX2)
        ceiling_kern_avx2(&k);
    j.fn = k.read;

    if (mem_map(&p, bytes, "bandwidth buffer", e))
        return -1;
    (void)madvise(p, bytes, advice);
    j.p = p;
    team_run(t, touch_part, &j);
    *out = 0;
    for (int r = 0; r < 2 * reps; r++) {
        j.ahead = r % 2 ? 2048 : 0;
        const double start = clock_seconds();

        team_run(t, read_part, &j);
        const double rate = (double)bytes / (clock_seconds() - start);

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
        const double start = clock_seconds();

        team_run(t, peak_part, &j);
        const double took = clock_seconds() - start;

        for (int i = 0; i < team_size(t) && (size_t)i < ARRAY_LEN(j.ops); i++)
            ops += j.ops[i];
        best = ops / took > best ? ops / took : best;
    }
    return best;
}

static struct ceiling_kern kern_of(unsigned flags)
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
    return k;
}

int ceiling_measure(struct ceilings *out, struct team *t, unsigned flags, size_t bytes, int reps,
                    struct err *e)
{
    const struct ceiling_kern k = kern_of(flags);

    if (read_rate(&out->read_4k, t, bytes, reps, MADV_NOHUGEPAGE, e) ||
        read_rate(&out->read_2m, t, bytes, reps, MADV_HUGEPAGE, e))
        return -1;
    out->fp32 = peak(t, k.fp32, reps);
    out->bf16 = peak(t, k.bf16, reps);
    out->int8 = peak(t, k.int8, reps);
    return 0;
}

double ceiling_products(struct team *t, unsigned flags, bool halves, int reps)
{
    const struct ceiling_kern k = kern_of(flags);

    return peak(t, halves && k.bf16 ? k.bf16 : k.fp32, reps);
}
