/* Encodings with planes on every instruction set of this machine: against the scalar truth on
 * awkward shapes, and against themselves, bit for bit, for any batch and number of threads. */
#include <math.h>

#include "backend/cpu/cpu.h"
#include "backend/prompts.h"
#include "base/mem.h"
#include "ops/backend.h"
#include "planes.h"
#include "support.h"

static const char *const isa[] = { "generic", "avx2", "avx512", "avx512_bf16", "amx" };
static const size_t some_rows[] = { 8, 40 }, some_cols[] = { 24, 128, 288, 640 };
static const size_t some_T[] = { 1, 3, 9 };

static struct ctx *context(int threads, unsigned flags, enum compute compute)
{
    struct ctx *c = NULL;
    struct err e;

    OK(cpu_ctx_new(&c, threads, flags, compute, &e), e);
    return c;
}

/* Whether w is computed as nf4.h says. */
static bool in_tables(const struct weight *w)
{
    return (w->enc == ENC_NF4 || w->enc == ENC_FP4) && w->cols % 64 == 0 && w->p.group % 64 == 0 &&
           w->cols % w->p.group == 0;
}

/* Each of `threads` against the truth, alone and in company, row by row. */
static void check(unsigned flags, enum compute compute, const struct weight *w, size_t T)
{
    const size_t n = T * w->rows;
    const bool codes = compute == COMPUTE_AUTO && planes_bits(w->enc);
    const bool table = compute == COMPUTE_AUTO && in_tables(w);
    /* nf4.h: weights there are not rounded to 16 bits, and are to 14 bits of the largest */
    const double rounded = w->p.round == ENC_BF16 ? 8e-3 : w->p.round == ENC_F16 ? 1e-3 : 3e-4;
    const double limit = codes ? 2e-2 : table ? rounded : compute == COMPUTE_BF16 ? 1e-4 : 1e-5;
    struct ctx ref = { .op = &ops_ref, .compute = compute };
    float *x = random_floats(T * w->cols, T), *want = xcalloc(n, sizeof(*want));
    float *got = xcalloc(n, sizeof(*got)), *first = xcalloc(n, sizeof(*first));
    const struct linear_out truth = { want, w };

    ops_ref.linear(&ref, &truth, 1, x, T);
    for (int threads = 1; threads <= 3; threads++) {
        struct ctx *c = context(threads, flags, compute);
        const struct linear_out out = { got, w }, both[] = { { got, w }, { first, w } };

        c->op->linear(c, threads == 1 ? both : &out, threads == 1 ? 2 : 1, x, T);
        assert_memory_equal(got, first, n * sizeof(*got));
        for (size_t t = 0; t < T && threads != 2; t++) {
            const struct linear_out row = { got + t * w->rows, w };

            c->op->linear(c, &row, 1, x + t * w->cols, 1);
        }
        assert_memory_equal(got, first, n * sizeof(*got));
        c->op->linear_add(c, got, w, x, T);
        for (size_t k = 0; k < n; k++)
            assert_true(got[k] == first[k] + first[k]);
        if (codes)
            check_prompts(c, w, T);
        cpu_ctx_free(c);
    }
    if (rel_error(first, want, n) > limit * (n < 33 ? 8 : 1))
        fail_msg("%s, flags %u, compute %d, %zu x %zu, T %zu: relative error %g", w->name, flags,
                 (int)compute, w->rows, w->cols, T, rel_error(first, want, n));
    if (table ||
        (codes && w->p.group % 32 == 0 && w->cols % 32 == 0)) { /* integers: plain C agrees */
        struct ctx *c = context(1, 0, compute);
        const struct linear_out out = { got, w };

        c->op->linear(c, &out, 1, x, T);
        assert_memory_equal(got, first, n * sizeof(*got));
        cpu_ctx_free(c);
    }
    free(x);
    free(want);
    free(got);
    free(first);
}

static void linear(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(isa); i++) {
        unsigned flags;

        if (!isa_here(isa[i], &flags))
            continue;
        for (size_t k = 0; k < plane_kinds_n; k++)
            for (size_t r = 0; r < ARRAY_LEN(some_rows); r++)
                for (size_t m = 0; m < ARRAY_LEN(some_cols); m++) {
                    struct planes_owned o;
                    const struct weight w =
                        planes_new(&plane_kinds[k], some_rows[r], some_cols[m], &o);

                    for (size_t t = 0; t < ARRAY_LEN(some_T); t++)
                        for (enum compute c = COMPUTE_AUTO; c <= COMPUTE_BF16; c++)
                            check(flags, c, &w, some_T[t]);
                    planes_release(&o);
                }
    }
}

/* The kernels for a single row on 8-bit inputs, wherever words lie in a line of memory: more
 * outputs than are swept together, alone and as several shares, with groups of inputs that have a
 * remainder, of which one is among the last that fill no register. */
static void one_row(void **state)
{
    enum { ROWS = 4400, COLS = 224 };
    static const size_t at[] = { 1, 4, 56 };
    float *x = random_floats(COLS, 1), *want = xcalloc(ROWS, sizeof(*want));
    float *got = xcalloc(ROWS, sizeof(*got));
    uint8_t *room = aligned_alloc(64, ROWS * COLS + 64);
    unsigned flags[ARRAY_LEN(isa)], sets = 0;

    (void)state;
    assert_non_null(room);
    x[40] = x[200] = 300;
    for (size_t i = 0; i < ARRAY_LEN(isa); i++)
        sets += isa_here(isa[i], &flags[sets]);
    for (size_t k = 0; k < plane_kinds_n; k++) {
        const enum enc enc = plane_kinds[k].enc;
        const bool whole = enc == ENC_GPTQ8 || enc == ENC_PACKED8; /* bytes */

        if (!planes_bits(enc) || plane_kinds[k].act_order || plane_kinds[k].group % 32)
            continue;
        for (size_t i = 0; i < ARRAY_LEN(at); i++) {
            struct planes_owned o;
            struct weight w = planes_new(&plane_kinds[k], ROWS - 8 * i, COLS, &o);

            memcpy(room + at[i], w.data, w.rows * COLS / (whole ? 1u : 2u));
            w.data = room + at[i];
            for (size_t s = 0; s < sets; s++)
                for (int threads = 1; threads <= 3; threads += 2) {
                    struct ctx *c = context(threads, flags[s], COMPUTE_AUTO);
                    const struct linear_out out = { s ? got : want, &w };

                    c->op->linear(c, &out, 1, x, 1);
                    if (s)
                        assert_memory_equal(got, want, w.rows * sizeof(*got));
                    cpu_ctx_free(c);
                }
            planes_release(&o);
        }
    }
    free(room);
    free(x);
    free(want);
    free(got);
}

/* A weight in the kernels' own order gives the bits of the file's, and rows of an embedding are
 * those of the file. */
static void check_placed(struct ctx *c, const struct weight *w, size_t T)
{
    const size_t n = T * w->rows, room = n + w->cols;
    const int32_t last = (int32_t)w->rows - 1;
    struct weight p = *w;
    float *x = random_floats(T * w->cols, T), *want = xcalloc(room, sizeof(*want));
    float *got = xcalloc(room, sizeof(*got));
    const struct linear_out out[] = { { want, w }, { got, &p } };
    struct err e;

    x[w->cols / 2] = 300;
    OK(c->be->place(c, &p, &e), e);
    assert_non_null(p.placed);
    for (size_t i = 0; i < ARRAY_LEN(out); i++) {
        c->op->linear(c, out + i, 1, x, T);
        c->op->linear_add(c, out[i].y, out[i].w, x, T);
        c->op->embed(c, out[i].y + n, out[i].w, &last, 1);
    }
    if (memcmp(got, want, room * sizeof(*got)))
        fail_msg("%s, %zu x %zu, T %zu: other bits when placed", w->name, w->rows, w->cols, T);
    c->be->unplace(c, &p);
    assert_null(p.placed);
    free(x);
    free(want);
    free(got);
}

static void placed(void **state)
{
    static const size_t cols[] = { 32, 288, 1024 }, many[] = { 1, 2, 5, 8, 9, 70 };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(isa); i++) {
        unsigned flags;

        if (!isa_here(isa[i], &flags))
            continue;
        struct ctx *c = context(3, flags, COMPUTE_AUTO), *f = context(1, flags, COMPUTE_F32);

        for (size_t k = 0; k < plane_kinds_n; k++) {
            for (size_t m = 0; m < ARRAY_LEN(cols); m++) {
                struct planes_owned o, p;
                struct weight w = planes_new(&plane_kinds[k], 288, cols[m], &o);
                struct weight odd = planes_new(&plane_kinds[k], 40, cols[m], &p);
                const bool int8 = w.enc == ENC_INT8;
                const bool f8 = flags & CPU_AVX512_BF16 && w.enc == ENC_F8 && w.cols % 64 == 0 &&
                                w.p.group % 64 == 0;
                const bool whole =
                    int8 || f8 || in_tables(&w) || (planes_bits(w.enc) && w.p.group % 32 == 0);

                OK(c->be->place(c, &odd, &e), e);
                assert_null(odd.placed); /* not whole units */
                OK(f->be->place(f, &w, &e), e);
                assert_null(w.placed); /* arithmetic that reads the file's order */
                for (size_t t = 0; flags & CPU_AVX2 && whole && t < ARRAY_LEN(many); t++)
                    check_placed(c, &w, many[t]);
                planes_release(&o);
                planes_release(&p);
            }
        }
        cpu_ctx_free(c);
        cpu_ctx_free(f);
    }
}

/* A code of E4M3 that is no number spoils its row, and that alone; a scale may be large. */
static void nan_code(void **state)
{
    enum { ROWS = 8, COLS = 128 };
    static const struct plane_kind kind = {
        .name = "fp8", .enc = ENC_F8, .scale_enc = ENC_F32, .row_group = 1
    };
    struct planes_owned o;
    const struct weight w = planes_new(&kind, ROWS, COLS, &o);
    const float large = 1000;
    struct ctx ref = { .op = &ops_ref };
    float *x = random_floats(COLS, 1), y[ROWS], want[ROWS];
    const struct linear_out truth = { want, &w };
    unsigned flags;

    (void)state;
    memcpy(o.scale + 1 + 5 * sizeof(large), &large, sizeof(large));
    ops_ref.linear(&ref, &truth, 1, x, 1);
    o.codes[1 + 3 * COLS + 77] = 0x7F;
    o.codes[1 + 6 * COLS + 127] = 0xFF;
    for (size_t i = 0; i < ARRAY_LEN(isa); i++) {
        if (!isa_here(isa[i], &flags))
            continue;
        struct ctx *c = context(1, flags, COMPUTE_AUTO);
        const struct linear_out out = { y, &w };

        c->op->linear(c, &out, 1, x, 1);
        for (size_t r = 0; r < ROWS; r++)
            assert_int_equal(y[r] != y[r], r == 3 || r == 6);
        assert_true(rel_error(y + 5, want + 5, 1) < 1e-4);
        cpu_ctx_free(c);
    }
    planes_release(&o);
    free(x);
}

/* An input that is no number spoils its token, and that alone. */
static void nan_input(void **state)
{
    enum { ROWS = 16, COLS = 128, T = 3 };
    float *x = random_floats(T * COLS, 1), y[T * ROWS];
    unsigned flags;

    (void)state;
    x[COLS + 70] = NAN;
    for (size_t i = 0; i < ARRAY_LEN(isa); i++) {
        if (!isa_here(isa[i], &flags))
            continue;
        struct ctx *c = context(1, flags, COMPUTE_AUTO);

        for (size_t k = 0; k < plane_kinds_n; k++) {
            struct planes_owned o;
            const struct weight w = planes_new(&plane_kinds[k], ROWS, COLS, &o);
            const struct linear_out out = { y, &w };

            if (w.enc == ENC_F8 || w.enc == ENC_INT8 || w.enc == ENC_NF4) {
                c->op->linear(c, &out, 1, x, T);
                for (size_t n = 0; n < T * ROWS; n++)
                    assert_int_equal(y[n] != y[n], n / ROWS == 1);
            }
            planes_release(&o);
        }
        cpu_ctx_free(c);
    }
    free(x);
}

TEST_MAIN(cmocka_unit_test(linear), cmocka_unit_test(one_row), cmocka_unit_test(placed),
          cmocka_unit_test(nan_code), cmocka_unit_test(nan_input))
