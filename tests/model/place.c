/* Weights that move into the kernels' own order while a sequence goes on: no bit changes. */
#include "base/mem.h"
#include "support.h"
#include "support_model.h"

enum { STEPS = 12 };

static void requantise(struct weight *w, enum enc enc, void **owned)
{
    const struct enc_info *to = &enc_table[enc];
    const size_t bytes = w->cols / to->block * to->bytes;
    float *row = xcalloc(w->cols, sizeof(*row));
    uint8_t *p = xmalloc(w->rows * bytes);

    for (size_t r = 0; r < w->rows; r++) {
        weight_decode_row(row, w, r);
        to->encode(p + r * bytes, row, w->cols);
    }
    free(row);
    w->enc = enc;
    w->data = *owned = p;
    w->row_bytes = bytes;
}

/* Logits of STEPS tokens, one after the other, of the tiny model in 8 and 4 bits. */
static float *logits(bool place)
{
    struct engine *g = engine_for(data_path("tiny-llama31"), COMPUTE_AUTO, 2, -1, 0);
    struct model *m = g->model;
    const size_t V = (size_t)m->hp->vocab, L = (size_t)m->hp->layers;
    void **owned = xcalloc(7 * L + 1, sizeof(*owned));
    size_t n = 0, before = 0;
    struct session *s;
    struct err e;

    for (size_t l = 0; l < L; l++) {
        struct layer *y = &m->layer[l];
        struct weight *const w[] = { &y->q, &y->k, &y->v, &y->o, &y->gate, &y->up, &y->down };

        for (size_t i = 0; i < ARRAY_LEN(w); i++)
            requantise(w[i], l % 2 ? ENC_Q8_0 : ENC_Q4_0, &owned[n++]);
    }
    requantise(&m->head, ENC_Q4_1, &owned[n++]);
    if (m->hp->tied)
        m->embed = m->head;
    if (place)
        model_place_later(m, g->ctx);
    s = session_for(g, 64);
    float *out = xcalloc(STEPS * V, sizeof(*out));

    for (size_t i = 0; i < STEPS; i++) {
        const int32_t id = (int32_t)(7 * i + 3);

        OK(session_eval_rows(s, &id, 1, NULL, 0, out + i * V, &e), e);
        const size_t now = model_placed_bytes(m);

        if (!place || i == 0 || !(g->isa & CPU_AVX512))
            assert_int_equal(now, 0);
        else if (i <= L + 1)
            assert_true(now > before);
        before = now;
    }
    assert_false(model_place_next(m));
    session_free(s);
    engine_close(g);
    for (size_t i = 0; i < n; i++)
        free(owned[i]);
    free(owned);
    return out;
}

static void moves_without_a_trace(void **state)
{
    float *want = logits(false), *got = logits(true);

    (void)state;
    assert_memory_equal(got, want, STEPS * 1024 * sizeof(*got));
    free(want);
    free(got);
}

TEST_MAIN(cmocka_unit_test(moves_without_a_trace))
