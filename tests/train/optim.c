/* Optimisers against what bitsandbytes and transformers record (tests/record/train_parts.py);
 * rounding at random; learning rates. */
#include <math.h>

#include "backend/cpu/cpu.h"
#include "base/mem.h"
#include "format/enc/floats.h"
#include "format/safetensors.h"
#include "support.h"
#include "train/optim.h"
#include "train/run.h"

static struct st *golden;

static const struct tensor_view *find(const char *of, const char *what)
{
    char name[64];

    snprintf(name, sizeof(name), "%s.%s", of, what);
    const struct tensor_view *t = st_find(golden, name);

    if (!t)
        fail_msg("%s is not there", name);
    return t;
}

static void decode(float *y, const struct tensor_view *t, size_t n)
{
    assert_int_equal(t->nbytes, n * 2);
    bf16_decode_row(y, t->data, n);
}

static struct ctx *context(int threads)
{
    struct ctx *c = NULL;
    struct err e;

    OK(cpu_ctx_new(&c, threads, cpu_flags(), COMPUTE_F32, &e), e);
    return c;
}

/* Room for values, gradients and what is kept. */
static void start(struct optim_param *p, enum optim kind, size_t rows, size_t cols)
{
    const size_t n = rows * cols;

    *p = (struct optim_param){ .w = xcalloc(n, sizeof(float)),
                               .g = xcalloc(n, sizeof(float)),
                               .rows = rows,
                               .cols = cols,
                               .decays = true };
    p->n_part = optim_parts(kind, rows, cols, false, p->part);
    for (size_t i = 0; i < p->n_part; i++)
        p->part[i].p = xcalloc(p->part[i].n, sizeof(float));
}

static void release(struct optim_param *p)
{
    for (size_t i = 0; i < p->n_part; i++)
        free(p->part[i].p);
    free(p->w);
    free(p->half);
    free((void *)(uintptr_t)p->g);
}

static void follow(struct optim_param *p, const char *name, enum optim kind, int threads, int steps)
{
    const size_t n = p->rows * p->cols;
    struct ctx *c = context(threads);
    struct adamw a = { 0.01f, 0.9f, 0.999f, 1e-8f, 0.1f, 1, 0 };

    decode(p->w, find(name, "start"), n);
    for (int i = 0; i < steps; i++) {
        char g[16];

        snprintf(g, sizeof(g), "g%d", i);
        decode((float *)(uintptr_t)p->g, find(name, g), n);
        a.step = i + 1;
        optim_step(c, &train_ops_cpu, kind, &a, p, 1, 1);
    }
    const double far = rel_error(p->w, (const float *)(const void *)find(name, "end")->data, n);

    if (far > 2e-7)
        fail_msg("%s is off by %g", name, far);
    cpu_ctx_free(c);
}

static void test_goldens(void **state)
{
    struct err e;

    (void)state;
    OK(st_open(&golden, data_path("train/parts.safetensors"), &e), e);
    for (int threads = 1; threads < 4; threads += 2) {
        struct optim_param p;
        size_t other = 0;

        start(&p, OPTIMISER_ADAMW8, 30, 137);
        follow(&p, "adam8", OPTIMISER_ADAMW8, threads, 3);
        for (size_t k = 0; k < 2; k++) {
            const uint8_t *want = find("adam8", k ? "v" : "m")->data, *got = p.part[k].p;

            for (size_t i = 0; i < p.part[k].n; i++)
                other += got[i] != want[i];
        }
        /* a last bit before a bound between two codes */
        assert_in_range(other, 0, 8);
        release(&p);
        start(&p, OPTIMISER_ADAFACTOR, 12, 20);
        follow(&p, "factor2", OPTIMISER_ADAFACTOR, threads, 4);
        release(&p);
        start(&p, OPTIMISER_ADAFACTOR, 1, 33);
        follow(&p, "factor1", OPTIMISER_ADAFACTOR, threads, 4);
        release(&p);
    }
    st_close(golden);
}

/* Steps far below the spacing of bf16 move values on average by their sum, and the same at any
 * number of threads; rounded to nearest they would not move at all. */
static void test_stochastic(void **state)
{
    enum { N = 40000, STEPS = 64 };
    uint16_t *first = NULL;

    (void)state;
    for (int threads = 1; threads < 4; threads += 2) {
        struct ctx *c = context(threads);
        struct optim_param p;
        double mean = 0;

        start(&p, OPTIMISER_ADAMW, 2, N / 2);
        p.half = xmalloc(N * sizeof(*p.half));
        for (size_t i = 0; i < N; i++) {
            p.half[i] = f32_to_bf16(1.5f);
            ((float *)(uintptr_t)p.g)[i] = 1;
        }
        for (int s = 0; s < STEPS; s++) {
            const struct adamw a = { 1e-4f, 0.9f, 0.999f, 1e-8f, 0, 1, s + 1 };

            optim_step(c, &train_ops_cpu, OPTIMISER_ADAMW, &a, &p, 1, 9);
        }
        for (size_t i = 0; i < N; i++)
            mean += (double)bf16_to_f32(p.half[i]) / N;
        assert_true(fabs(1.5 - mean - STEPS * 1e-4) < 2e-4);
        if (first)
            assert_memory_equal(first, p.half, N * sizeof(*first));
        else
            first = (uint16_t *)(void *)xmemdup0(p.half, N * sizeof(*first));
        release(&p);
        cpu_ctx_free(c);
    }
    free(first);
}

/* transformers 5.24: get_scheduler(name, num_warmup_steps=3, num_training_steps=20) at steps 0, 2,
 * 3, 11, 19. */
static void test_schedules(void **state)
{
    static const size_t at[] = { 0, 2, 3, 11, 19 };
    static const struct schedule_args args = {
        .num_cycles = 2, .power = 2, .end = 0.01, .floor = 0.1
    };
    static const struct {
        enum train_schedule kind;
        double want[5];
    } all[] = {
        { SCHED_LINEAR, { 0, 2. / 3, 1, 9. / 17, 1. / 17 } },
        { SCHED_COSINE, { 0, 2. / 3, 1, 0.5461341797, 0.0085134502 } },
        { SCHED_CONSTANT_WARMUP, { 0, 2. / 3, 1, 1, 1 } },
        { SCHED_CONSTANT, { 1, 1, 1, 1, 1 } },
        { SCHED_INVERSE_SQRT, { 0, 2. / 3, 1, 0.5222329679, 0.3973597071 } },
        { SCHED_WSD, { 0, 2. / 3, 1, 1, 0.5 } }, /* the last two steps go down */
        { SCHED_POLYNOMIAL,
          { 0.0000000000, 0.6666666667, 1.0000000000, 0.2874740484, 0.0134256055 } },
        { SCHED_COSINE_RESTARTS,
          { 0.0000000000, 0.6666666667, 1.0000000000, 0.0085134502, 0.0337638853 } },
        { SCHED_COSINE_MIN,
          { 0.0000000000, 0.6666666667, 1.0000000000, 0.5915207618, 0.1076621051 } },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        for (size_t k = 0; k < ARRAY_LEN(at); k++) {
            const double got = train_schedule_at(all[i].kind, &args, at[k], 20, 3);

            if (fabs(got - all[i].want[k]) > 1e-9)
                fail_msg("%s at %zu is %.10f", train_schedules[all[i].kind], at[k], got);
        }
}

TEST_MAIN(cmocka_unit_test(test_goldens), cmocka_unit_test(test_stochastic),
          cmocka_unit_test(test_schedules))
