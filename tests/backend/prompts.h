/* prompts.h - rows of prompts, which an instruction set may multiply in another arithmetic. */
#ifndef PUNA_TESTS_BACKEND_PROMPTS_H
#define PUNA_TESTS_BACKEND_PROMPTS_H

#include "base/mem.h"
#include "ops/ops.h"
#include "support.h"

/* Rows of two sequences, prompts up to a point and answers from there: every row has the bits that
 * it has alone, an answer's those that it has without prompts, a prompt's at least an accuracy of
 * bf16; w placed or not. */
static inline void check_prompts(struct ctx *c, const struct weight *w, size_t T)
{
    const size_t n = T * w->rows;
    float *x = random_floats(T * w->cols, T), *want = xcalloc(n, sizeof(*want));
    float *got = xcalloc(n, sizeof(*got)), *row = xcalloc(w->rows, sizeof(*row));
    float *plain = xcalloc(n, sizeof(*plain));
    int32_t *slot = xcalloc(2 * T, sizeof(*slot)), *seq = slot + T;
    const int32_t prompt[] = { (int32_t)(T + 3) / 4, (int32_t)T };
    const struct batch b = { .T = T, .slot = slot, .seq = seq, .n_seq = 2, .prompt = prompt };
    struct ctx ref = { .op = &ops_ref, .compute = COMPUTE_F32 };
    struct linear_out out = { want, w };

    for (size_t t = 0; t < T; t++) { /* half of the first is an answer */
        seq[t] = t >= T / 2;
        slot[t] = (int32_t)(t >= T / 2 ? t - T / 2 : t);
    }
    ops_ref.linear(&ref, &out, 1, x, T);
    out.y = plain;
    c->op->linear(c, &out, 1, x, T);
    c->pass = &b;
    out.y = got;
    c->op->linear(c, &out, 1, x, T);
    for (size_t t = 0; t < T; t++) {
        const float *y = got + t * w->rows;

        if (slot[t] >= prompt[seq[t]])
            assert_memory_equal(y, plain + t * w->rows, w->rows * sizeof(*y));
        out.y = row;
        c->first_row = t;
        c->op->linear(c, &out, 1, x + t * w->cols, 1);
        assert_memory_equal(row, y, w->rows * sizeof(*y));
        c->first_row = 0;
    }
    if (rel_error(got, want, n) > (n < 33 ? 4e-2 : 2e-2))
        fail_msg("%s, %zu x %zu, T %zu: relative error %g", w->name, w->rows, w->cols, T,
                 rel_error(got, want, n));
    c->op->linear_add(c, got, w, x, T);
    c->pass = NULL;
    for (size_t i = 0; i < n; i++)
        want[i] *= 2;
    assert_true(rel_error(got, want, n) < 4e-2);
    free(x);
    free(want);
    free(got);
    free(row);
    free(plain);
    free(slot);
}

#endif
