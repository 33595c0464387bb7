/* gemm.c - C = A B for training. B is brought into panels of 32 columns, GEMM_K values of k at a
 * time, which a thread packs and uses at once; A is read where it lies, or from one copy in bf16.
 * Units of a panel and a block of rows go to whichever thread is free: a value of C is one chain
 * over k, so the bits do not depend on who computes it. */
#include "backend/cpu/gemm.h"

#include <stdatomic.h>

enum form {
    FORM_F32,
    FORM_ROUNDED, /* bf16 values in float32 arithmetic, where there is no instruction for pairs */
    FORM_PAIRS,   /* two bf16 of neighbouring k in a word */
};

struct work {
    const struct cpu_kern *k;
    const struct gemm_call *g;
    enum form form;
    bool tiles;       /* FORM_PAIRS: gemm_bf16 is as gemm_tiles says */
    const uint8_t *a; /* float32 or words, as form says */
    size_t ars, acs;  /* in floats or words */
    size_t rows;      /* of a unit */
    size_t units, blocks;
    uint8_t *copy; /* room for the copy of A */
    float *thread; /* GEMM_ROOM for each */
    struct team *team;
    atomic_size_t next;
};

/* values of k that are rounded together before they turn to words: GEMM_COLS times as many are room
 * for a row in float32 */
enum { ACROSS = 2 * GEMM_K / GEMM_COLS };

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static const uint8_t *at(const struct operand *o, size_t i, size_t j)
{
    return (const uint8_t *)o->p + (i * o->rs + j * o->cs) * (o->half ? 2u : 4u);
}

/* n neighbouring values as bf16, where they lie or at t, room for them. */
static const bf16 *halves(const struct work *w, const struct operand *o, const uint8_t *from,
                          size_t n, bf16 *t)
{
    if (o->half && (uintptr_t)from % sizeof(*t) == 0)
        return (const bf16 *)(const void *)from;
    if (o->half)
        memcpy(t, from, n * sizeof(*t));
    else
        w->k->to_bf16(t, (const float *)(const void *)from, n);
    return t;
}

static void floats(const struct work *w, const struct operand *o, const uint8_t *from, size_t n,
                   float *y)
{
    if (o->half)
        w->k->decode_bf16(y, from, n);
    else
        memcpy(y, from, n * sizeof(*y));
    for (size_t i = 0; w->form == FORM_ROUNDED && !o->half && i < n; i++)
        y[i] = bf16_to_f32(f32_to_bf16(y[i]));
}

/* Columns n0 .. n0+n of B, k0 .. k0+K, to [K][32] floats. */
static void panel_floats(const struct work *w, float *to, size_t n0, size_t n, size_t k0, size_t K,
                         float *row)
{
    const struct operand *b = &w->g->b;

    if (n < GEMM_COLS)
        memset(to, 0, K * GEMM_COLS * sizeof(*to));
    for (size_t k = 0; b->cs == 1 && k < K; k++)
        floats(w, b, at(b, k0 + k, n0), n, to + k * GEMM_COLS);
    if (b->cs != 1 && !b->half && w->form == FORM_F32) {
        const void *from = at(b, k0, n0);

        w->k->transpose(to, GEMM_COLS, from, b->cs, n, K);
        return;
    }
    for (size_t j = 0; b->cs != 1 && j < n; j++) {
        floats(w, b, at(b, k0, n0 + j), K, row);
        for (size_t k = 0; k < K; k++)
            to[k * GEMM_COLS + j] = row[k];
    }
}

/* Words of two k to [K][32] from columns of which each lies in one piece, `apart` words from the
 * next. */
static void pairs_across(const struct work *w, uint32_t *to, const void *from, size_t apart,
                         size_t n, size_t K)
{
    w->k->transpose((float *)(void *)to, GEMM_COLS, from, apart, n, K);
}

/* The same to [(K + 1) / 2][32] words. */
static void panel_pairs(const struct work *w, uint32_t *to, size_t n0, size_t n, size_t k0,
                        size_t K, float *room)
{
    const struct operand *b = &w->g->b;
    bf16 *t = (bf16 *)(void *)room;

    if (n < GEMM_COLS)
        memset(to, 0, (K + 1) / 2 * GEMM_COLS * sizeof(*to));
    if (b->cs == 1 && !b->half)
        w->k->pair_floats(to, GEMM_COLS, (const float *)(const void *)at(b, k0, n0), b->rs, n, K);
    for (size_t k = 0; b->cs == 1 && b->half && k < K; k += 2) {
        const bf16 *x = halves(w, b, at(b, k0 + k, n0), n, t), *y = t + GEMM_COLS;

        if (k + 1 < K)
            y = halves(w, b, at(b, k0 + k + 1, n0), n, t + GEMM_COLS);
        else
            memset(t + GEMM_COLS, 0, GEMM_COLS * sizeof(*t));
        w->k->pair(to + k / 2 * GEMM_COLS, x, y, n);
    }
    if (b->cs == 1)
        return;
    if (b->half && b->cs % 2 == 0 && K % 2 == 0 && (uintptr_t)at(b, k0, n0) % 4 == 0) {
        pairs_across(w, to, at(b, k0, n0), b->cs / 2, n, K / 2);
        return;
    }
    for (size_t k = 0; k < K; k += ACROSS) {
        const size_t m = smaller(K - k, ACROSS);

        for (size_t j = 0; j < n; j++) {
            bf16 *line = t + j * ACROSS;
            const bf16 *x = halves(w, b, at(b, k0 + k, n0 + j), m, line);

            if (x != line)
                memcpy(line, x, m * sizeof(*x));
            if (m % 2)
                line[m] = 0;
        }
        pairs_across(w, to + k / 2 * GEMM_COLS, t, ACROSS / 2, n, (m + 1) / 2);
    }
}

/* n words, and zeros up to a multiple of PAIR_K */
static void pad_words(uint32_t *to, size_t n)
{
    memset(to + n, 0, (PAIR_K - n % PAIR_K) % PAIR_K * sizeof(*to));
}

/* rows of c, columns n0 .. n0+n, start from the bias */
static void begin(const struct gemm_call *g, float *c, size_t rows, size_t n0, size_t n)
{
    const float *bias = g->bias + n0;

    for (size_t r = 0; r < rows; r++, c += g->ldc) {
        if (!g->add)
            memcpy(c, bias, n * sizeof(*c));
        for (size_t j = 0; g->add && j < n; j++)
            c[j] += bias[j];
    }
}

/* Rows m0 .. m1 of the panel of columns n0 .. n0+n. */
static void unit(const struct work *w, size_t m0, size_t m1, size_t n0, size_t n, float *room)
{
    const struct gemm_call *g = w->g;
    const bool pairs = w->form == FORM_PAIRS;
    float *tile = room + GEMM_COLS * GEMM_K, *row = tile + PAIR_ROWS * GEMM_COLS;

    for (size_t k0 = 0; k0 < g->K; k0 += GEMM_K) {
        const size_t K = smaller(g->K - k0, GEMM_K), R = w->k->gemm_rows, few = w->k->gemm_few;
        struct gemm t = { .b = room,
                          .ldc = g->ldc,
                          .ars = w->ars,
                          .acs = w->acs,
                          .K = K,
                          .by = g->by,
                          .add = g->add || g->bias || k0 > 0 };

        if (pairs) {
            t.K = (K + 1) / 2;
            panel_pairs(w, (uint32_t *)(void *)room, n0, n, k0, K, row);
            memset(room + t.K * GEMM_COLS, 0,
                   w->tiles ? (PAIR_K - t.K % PAIR_K) % PAIR_K * GEMM_COLS * sizeof(float) : 0);
        } else {
            panel_floats(w, room, n0, n, k0, K, row);
        }
        for (size_t m = m0; m < m1; m += t.rows) {
            float *c = g->c + m * g->ldc + n0;

            if (w->tiles)
                t.rows = n < GEMM_COLS ? smaller(m1 - m, PAIR_ROWS) : m1 - m;
            else
                t.rows = m1 - m >= R ? R : m1 - m >= few ? few : 1;
            t.a = w->a + (m * w->ars + (pairs ? k0 / 2 : k0) * w->acs) * 4;
            t.c = c;
            t.ldc = g->ldc;
            if (g->bias && k0 == 0)
                begin(g, c, t.rows, n0, n);
            if (n < GEMM_COLS) {
                for (size_t r = 0; t.add && r < t.rows; r++)
                    memcpy(tile + r * GEMM_COLS, c + r * g->ldc, n * sizeof(*c));
                t.c = tile;
                t.ldc = GEMM_COLS;
            }
            (pairs ? w->k->gemm_bf16 : w->k->gemm_f32)(&t);
            for (size_t r = 0; n < GEMM_COLS && r < t.rows; r++)
                memcpy(c + r * g->ldc, tile + r * GEMM_COLS, n * sizeof(*c));
        }
    }
}

/* Columns lo .. hi of A, k0 .. k0+n of them in each, n <= 2 * PAIR_K, to words of two k: at
 * [word][column] of a copy whose words lie M apart, or behind one another for each column. */
static void copy_columns(const struct work *w, size_t k0, size_t n)
{
    const struct gemm_call *g = w->g;
    const float *a = (const float *)g->a.p + k0 * g->a.cs;
    const size_t words = (n + 1) / 2;

    for (size_t m = 0; m < g->M; m += GEMM_COLS) {
        const size_t cols = smaller(g->M - m, GEMM_COLS);
        uint32_t line[PAIR_K][GEMM_COLS];
        uint32_t *to = w->tiles ? line[0] : (uint32_t *)(void *)w->copy + k0 / 2 * g->M + m;

        w->k->pair_floats(to, w->tiles ? GEMM_COLS : g->M, a + m, g->a.cs, cols, n);
        if (w->tiles)
            w->k->transpose((float *)(void *)w->copy + m * w->ars + k0 / 2, w->ars,
                            (const float *)(const void *)line, GEMM_COLS, words, cols);
    }
}

/* A share of the copy of A: rows as they lie; where k is the slow axis, words of two k. */
static void copy_part(struct work *w, int me, int n)
{
    const struct gemm_call *g = w->g;
    const float *a = g->a.p;
    const bool rows = g->a.cs == 1;
    const size_t slow = rows ? g->M : g->K, fast = rows ? g->K : g->M;
    const size_t ld = rows ? g->a.rs : g->a.cs, step = 2 * PAIR_K;
    size_t lo, hi;

    team_part(slow, w->form == FORM_PAIRS && !rows ? step : 1, me, n, &lo, &hi);
    for (size_t i = lo; w->form == FORM_F32 && i < hi; i++)
        memcpy((float *)(void *)w->copy + i * w->ars, a + i * ld, fast * sizeof(*a));
    for (size_t i = lo; w->form == FORM_ROUNDED && i < hi; i++) {
        float *y = (float *)(void *)w->copy + i * (rows ? w->ars : fast);

        for (size_t j = 0; j < fast; j++)
            y[j] = bf16_to_f32(f32_to_bf16(a[i * ld + j]));
    }
    for (size_t i = lo; w->form == FORM_PAIRS && rows && i < hi; i++) {
        uint32_t *y = (uint32_t *)(void *)w->copy + i * w->ars;
        bf16 *half = (bf16 *)(void *)y;

        half[(fast + 1) / 2 * 2 - 1] = 0;
        w->k->to_bf16(half, a + i * ld, fast);
        pad_words(y, (fast + 1) / 2);
    }
    for (size_t i = lo; w->form == FORM_PAIRS && !rows && i < hi; i += step)
        copy_columns(w, i, smaller(hi - i, step));
    for (size_t m = 0; w->tiles && !rows && lo < hi && hi == g->K && m < g->M; m++)
        pad_words((uint32_t *)(void *)w->copy + m * w->ars, (g->K + 1) / 2);
}

static void part(void *arg, int me, int n)
{
    struct work *w = arg;
    const struct gemm_call *g = w->g;

    if (w->copy) {
        copy_part(w, me, n);
        if (n > 1)
            team_barrier(w->team, me);
    }
    for (size_t u; (u = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed)) < w->units;) {
        const size_t n0 = u / w->blocks * GEMM_COLS, m0 = u % w->blocks * w->rows;

        unit(w, m0, smaller(m0 + w->rows, g->M), n0, smaller(g->N - n0, GEMM_COLS),
             w->thread + (size_t)me * GEMM_ROOM);
    }
}

enum {
    ALONE = 1 << 16, /* multiply-adds below which waking the team costs more than it brings */
    /* floats: rows of A so many apart share a set of the first cache, which holds 8 lines or 12, so
     * that they are copied to lie otherwise: 101 to 109 GFLOP/s for K = 3072 on Zen 4 */
    PAGE = 1024,
    LINE = 16
};

static enum form form_of(const struct cpu_kern *k, enum compute compute)
{
    return compute != COMPUTE_BF16 ? FORM_F32 : k->gemm_bf16 ? FORM_PAIRS : FORM_ROUNDED;
}

/* Where a copy of A in bf16 has its elements; returns its floats or words. An odd number of lines
 * lies between rows: those that share a set of the first cache push each other out. */
static size_t lay_copy(struct work *w)
{
    const struct gemm_call *g = w->g;
    const size_t words = w->form == FORM_ROUNDED ? g->K : (g->K + 1) / 2;

    w->tiles = w->form == FORM_PAIRS && w->k->gemm_tiles;

    const bool rows = g->a.cs == 1 || w->tiles;
    const size_t M = w->tiles ? (g->M + PAIR_ROWS - 1) / PAIR_ROWS * PAIR_ROWS : g->M;

    w->ars = rows ? ((words + LINE - 1) / LINE | 1) * LINE : 1;
    w->acs = rows ? 1 : g->M;
    return M * (rows ? w->ars : words);
}

void gemm_run(struct ctx *c, const struct gemm_call *g)
{
    struct cpu *b = c->backend;
    struct work w = { .k = &b->k, .g = g, .team = c->team };
    const size_t threads = (size_t)team_size(c->team), R = b->k.gemm_rows;
    const size_t panels = (g->N + GEMM_COLS - 1) / GEMM_COLS;

    BUG_ON(g->a.half || (g->a.rs != 1 && g->a.cs != 1) || (g->b.rs != 1 && g->b.cs != 1));
    if (!g->M || !g->N || !g->K)
        return;
    w.form = form_of(&b->k, g->exact ? COMPUTE_F32 : c->compute);
    w.a = g->a.p;
    w.ars = g->a.rs;
    w.acs = g->a.cs;
    if (w.form != FORM_F32) {
        const size_t n = lay_copy(&w);

        w.a = w.copy = room_get(&b->train_a, n * 4);
    } else if (g->a.cs == 1 && g->a.rs % PAGE == 0 && g->M >= R && panels > 1) {
        w.ars = g->K + LINE;
        w.a = w.copy = room_get(&b->train_a, g->M * w.ars * 4);
    }
    /* all rows for each panel, or parts of them where panels are too few for the threads to end
     * together; packing a panel costs as much as some 30 rows */
    const size_t many = 16 * threads, most = (g->M + 255) / 256;
    size_t blocks = panels >= many ? 1 : (many + panels - 1) / panels;

    if (blocks > most && panels * most >= 4 * threads)
        blocks = most;
    w.rows = (g->M + blocks - 1) / blocks;
    w.rows = (w.rows + 8 * R - 1) / (8 * R) * (8 * R);
    w.blocks = (g->M + w.rows - 1) / w.rows;
    w.units = panels * w.blocks;
    w.thread = room_get(&b->train_thread, threads * GEMM_ROOM * sizeof(float));
    if (threads == 1 || g->M * g->N * g->K < ALONE)
        part(&w, 0, 1);
    else
        team_run(c->team, part, &w);
}

void gemm_serial(const struct cpu_kern *k, enum compute compute, const struct gemm_call *g,
                 float *room)
{
    struct work w = {
        .k = k, .g = g, .form = form_of(k, compute), .a = g->a.p, .ars = g->a.rs, .acs = g->a.cs
    };

    if (w.form != FORM_F32) {
        lay_copy(&w);
        w.a = w.copy = (uint8_t *)(room + GEMM_ROOM);
        copy_part(&w, 0, 1);
    }
    for (size_t n0 = 0; g->M && g->K && n0 < g->N; n0 += GEMM_COLS)
        unit(&w, 0, g->M, n0, smaller(g->N - n0, GEMM_COLS), room);
}
