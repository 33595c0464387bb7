/* The CUDA backend: products and the attention that follows them, in kernels of many rows (gemm.cu)
 * and in programs of few, against the scalar truth; what it tells of logits, and answers whose
 * tokens it picks. Skipped, and counted as skipped, where there is no GPU. */
#include <math.h>

#include "backend/cuda/dev.h"
#include "base/mem.h"
#include "base/rng.h"
#include "format/enc/f8.h"
#include "planes.h"
#include "support_gpu.h"

static void cached(float *y, enum enc enc, const void *from, size_t n)
{
    if (enc_table[enc].decode)
        enc_table[enc].decode(y, from, n);
    for (size_t i = 0; i < n && enc == ENC_F8_E4M3; i++)
        y[i] = f8_e4m3_to_f32(((const uint8_t *)from)[i]);
}

/* Heads of queries, or none, and of keys and values of one prompt of T rows, from [T, 256];
 * rotated, in the cache, and what attention makes of them. */
static void check_heads(struct ctx *c, enum enc enc, enum enc cache, size_t H, size_t T)
{
    enum { IN = 256, K = 2, HEAD = 128 };
    const size_t rows[] = { H * HEAD, K * HEAD, K * HEAD };
    const size_t blocks = (T + KV_BLOCK - 1) / KV_BLOCK, first = H ? 0 : 1;
    const size_t bytes = blocks * K * KV_BLOCK * HEAD * enc_table[cache].bytes;
    struct ctx ref = { .op = &ops_ref, .compute = c->compute };
    struct planes_owned o[3] = { 0 };
    struct weight w[3], *const all[] = { &w[0], &w[1], &w[2] };
    float *x = random_floats(T * IN, T), *inv = random_floats(HEAD / 2, 5), *y[4], *dy[4];
    int32_t *slot = xcalloc(2 * T + blocks, sizeof(*slot)), *zero = slot + T, *order = zero + T;
    const int32_t *const table[] = { order };
    struct kv_layer host = { xcalloc(1, bytes), xcalloc(1, bytes) };
    struct kv_layer there = { to_gpu(c, host.k, bytes), to_gpu(c, host.v, bytes) };
    struct kv_cache kv = {
        .enc = cache, .kv_heads = K, .head_dim = HEAD, .blocks = blocks, .layers = 1, .layer = &host
    };
    struct kv_cache dkv = kv;
    struct linear_out out[3], dout[3];
    struct err e;

    dkv.layer = &there;
    for (size_t i = 0; i < blocks; i++)
        order[i] = (int32_t)(blocks - 1 - i);
    for (size_t t = 0; t < T; t++)
        slot[t] = (int32_t)t;
    const struct batch b = { .T = T,
                             .token = zero,
                             .pos = slot,
                             .slot = slot,
                             .seq = zero,
                             .n_seq = 1,
                             .block_table = table };
    struct pass p = { .b = &b, .V = 1, .D = 1, .key = { c, &kv, x } };

    for (size_t i = 0; i < 4; i++) {
        const size_t n = i < 3 ? rows[i] : rows[0];

        y[i] = xcalloc(T * n, sizeof(*y[i]));
        dy[i] = to_gpu(c, y[i], T * n * sizeof(*y[i]));
        if (i == 3)
            continue;
        w[i] = weight_of(enc, n, IN, &o[i]);
        out[i] = (struct linear_out){ y[i], &w[i] };
        dout[i] = (struct linear_out){ dy[i], &w[i] };
    }
    ops_ref.linear(&ref, out + first, 3 - first, x, T);
    ops_ref.rope(NULL, y[0], H, HEAD, slot, inv, 0, T);
    ops_ref.rope(NULL, y[1], K, HEAD, slot, inv, 0, T);
    ops_ref.kv_write(NULL, y[1], y[2], &kv, 0, &b);
    if (H)
        ops_ref.attn(NULL, y[3], y[0], H, &kv, 0, &b);
    float *dx = to_gpu(c, x, T * IN * sizeof(*x)), *dinv = to_gpu(c, inv, HEAD / 2 * sizeof(*inv));

    OK(c->be->place_beside(c, all + first, 3 - first, &e), e);
    assert_true(c->be->enter(c, &p, &e) >= 0);
    c->op->linear(c, dout + first, 3 - first, dx, T);
    if (H)
        c->op->rope(c, dy[0], H, HEAD, p.at.pos, dinv, 0, T);
    c->op->rope(c, dy[1], K, HEAD, p.at.pos, dinv, 0, T);
    c->op->kv_write(c, dy[1], dy[2], &dkv, 0, &p.at);
    if (H)
        c->op->attn(c, dy[3], dy[0], H, &dkv, 0, &p.at);
    OK(c->be->leave(c, &p, &e), e);
    const size_t n = blocks * K * KV_BLOCK * HEAD;
    float *want = xcalloc(n, sizeof(*want)), *got = xcalloc(n, sizeof(*got));
    uint8_t *back = xmalloc(bytes);

    for (int v = 0; v < 2; v++) {
        from_gpu(c, back, v ? there.v : there.k, bytes);
        cached(want, cache, v ? host.v : host.k, n);
        cached(got, cache, back, n);
        if (!(rel_error(got, want, n) <= (cache == ENC_F8_E4M3 ? 3e-2 : 2e-2)))
            MISS("%s in a cache of %s, %zu heads, T %zu: relative error %g\n",
                 v ? "values" : "keys", enc_table[cache].name, H, T, rel_error(got, want, n));
    }
    if (H) {
        float *attended = xcalloc(T * rows[0], sizeof(*attended));

        from_gpu(c, attended, dy[3], T * rows[0] * sizeof(*attended));
        if (!(rel_error(attended, y[3], T * rows[0]) <= (cache == ENC_F8_E4M3 ? 1e-1 : 3e-2)))
            MISS("attention of heads from %s in %s, T %zu: relative error %g\n", w[0].name,
                 enc_table[cache].name, T, rel_error(attended, y[3], T * rows[0]));
        free(attended);
    }
    for (size_t i = 0; i < 4; i++) {
        if (i >= first && i < 3)
            c->be->unplace(c, &w[i]);
        if (i < 3)
            planes_release(&o[i]);
        c->be->release(c, dy[i], 0);
        free(y[i]);
    }
    void *const gpu[] = { there.k, there.v, dx, dinv };
    void *const mem[] = { host.k, host.v, x, inv, slot, want, got, back };

    for (size_t i = 0; i < ARRAY_LEN(gpu); i++)
        c->be->release(c, gpu[i], 0);
    for (size_t i = 0; i < ARRAY_LEN(mem); i++)
        free(mem[i]);
}

/* The same of few rows. With 16 of them and many heads attention has the most of a block's memory
 * that it ever has. */
static void heads_few(void **state)
{
    static const enum enc encs[] = { ENC_F8, ENC_BF16, ENC_Q4_0 };
    static const size_t rows[] = { 16, 11, 3, 1 };

    (void)state;
    gpu_for_programs();
    struct ctx *c = gpu_context(COMPUTE_AUTO);

    for (size_t i = 0; i < ARRAY_LEN(encs); i++)
        for (size_t k = 0; k < ARRAY_LEN(rows); k++)
            if (!gpu_emulated() || i == 0 || k == 0)
                check_heads(c, encs[i], k % 2 ? ENC_F8_E4M3 : ENC_BF16, 32, rows[k]);
    c->be->free(c);
    gpu_settle();
}

/* Queries, keys and values of many rows, with what follows them. */
static void heads(void **state)
{
    static const enum enc encs[] = { ENC_BF16, ENC_F8 };
    static const enum enc caches[] = { ENC_BF16, ENC_F16, ENC_F8_E4M3 };
    struct ctx *c = gpu_context(COMPUTE_AUTO);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(encs); i++)
        for (size_t k = 0; k < ARRAY_LEN(caches); k++)
            if (!gpu_emulated() || i == 1 || k == 0)
                check_heads(c, encs[i], caches[k], 4, 1030);
    check_heads(c, ENC_F8, ENC_BF16, 0, 1030);
    check_heads(c, ENC_BF16, ENC_F8_E4M3, 0, 1030);
    check_heads(c, ENC_BF16, ENC_F8_E4M3, 4, 200);
    c->be->free(c);
    gpu_settle();
}

/* Whether the id that row's draw gives is the same for all u within the slack. */
static bool is_certain(const float *row, size_t vocab, const struct pick_ask *ask, int32_t drawn)
{
    bool same = true;

    for (int k = -1; k <= 1; k += 2) {
        struct pick_ask near = *ask;
        struct pick_list l;

        near.u = fmax(0, ask->u + 2 * k * PICK_DRAW_SLACK);
        pick_list_ref(&l, row, vocab, &near);
        same = same && near.u < 1 && l.drawn == drawn;
    }
    return same;
}

/* Whether some logits are so near to one another that there may be no room for them all. */
static bool is_crowded(const float *row, size_t vocab, const struct pick_ask *ask, float max)
{
    enum { ROOM = 1000 };
    size_t *in = xcalloc(PICK_BUCKETS, sizeof(*in)), most = 0;

    for (size_t i = 0; i < vocab; i++) {
        const double at = ((double)max - (double)row[i]) * PICK_BUCKETS / 32 / ask->temperature;

        if (at >= 0 && at < PICK_BUCKETS && ++in[(size_t)at] > most)
            most = in[(size_t)at];
    }
    free(in);
    return most > ROOM;
}

/* What was told of rows of x, against the truth; and those rows, which are as they were. */
static void compare_picks(struct ctx *c, const float *x, size_t vocab, const struct pick_ask *ask,
                          const struct pick_list *list, size_t n)
{
    float *got = xcalloc(vocab, sizeof(*got));
    struct pick_list truth;
    struct err e;

    for (size_t i = 0; i < n; i++) {
        const struct pick_list *l = &list[i];
        const float *row = x + ask[i].row * vocab;
        const double slack = ask[i].draw ? PICK_DRAW_SLACK : PICK_SLACK;

        pick_list_ref(&truth, row, vocab, &ask[i]);
        const size_t k = (size_t)truth.n;

        if (l->n != truth.n || !l->bad != !truth.bad ||
            (l->drawn != truth.drawn &&
             (l->drawn != -1 ||
              (is_certain(row, vocab, &ask[i], truth.drawn) &&
               !(ask[i].part > 0 && is_crowded(row, vocab, &ask[i], truth.logit[0]))))) ||
            l->complete != (k > 0 && truth.complete) || memcmp(&l->at, &truth.at, sizeof(l->at)) ||
            memcmp(l->id, truth.id, k * sizeof(*l->id)) ||
            (k && (l->logit[0] != truth.logit[0] || l->logit[k - 1] != truth.logit[k - 1])) ||
            isnan(l->sum) != isnan(truth.sum) || fabs(l->sum - truth.sum) > slack * truth.sum)
            MISS("row %zu of %zu logits: %d of %d, sum %.12g of %.12g, drawn %d, %d is right\n",
                 ask[i].row, vocab, (int)l->n, (int)truth.n, l->sum, truth.sum, (int)l->drawn,
                 (int)truth.drawn);
        OK(c->be->row(c, ask[i].row, vocab, got, &e), e);
        if (memcmp(got, row, vocab * sizeof(*row)) != 0)
            MISS("row %zu of %zu logits differs\n", ask[i].row, vocab);
    }
    free(got);
}

static bool are_same(const struct pick_list *a, const struct pick_list *b)
{
    return a->n == b->n && a->complete == b->complete && a->bad == b->bad && a->drawn == b->drawn &&
           memcmp(&a->at, &b->at, sizeof(a->at)) == 0 &&
           memcmp(&a->sum, &b->sum, sizeof(a->sum)) == 0 &&
           memcmp(a->id, b->id, (size_t)a->n * sizeof(*a->id)) == 0 &&
           memcmp(a->logit, b->logit, (size_t)a->n * sizeof(*a->logit)) == 0;
}

enum { PICK_ROWS = 9, PICK_CHANGES = 1500 };

/* Rows that are hard, or that no model has. */
static void make_rows(float *x, size_t vocab)
{
    for (size_t i = 0; i < PICK_ROWS * vocab; i++) {
        const size_t id = i % vocab;

        x[i] = x[i] * 9;
        switch (i / vocab) {
        case 0: /* ids that are near to one another are the likeliest */
            x[i] += id > vocab / 3 && id < vocab / 3 + 900 ? 20 : 0;
            break;
        case 1: /* many are equal, zeros of both signs among them */
            x[i] = roundf(x[i] / 2);
            break;
        case 2: /* all are equal */
            x[i] = -3;
            break;
        case 3:
            x[i] = id == vocab - 1 ? NAN : id % 7 == 0 ? -INFINITY : x[i];
            break;
        case 4:
            x[i] = id == vocab / 2 ? INFINITY : x[i];
            break;
        case 5: /* one alone, and nothing beside it */
            x[i] = id == vocab * 5 / 7 ? x[i] : -INFINITY;
            break;
        case 6:
            x[i] = -INFINITY;
            break;
        case 7: /* as flat as can be, and far from zero */
            x[i] = 1e4f + x[i] / 64;
            break;
        }
    }
}

/* x, n rows of them, become the logits of the last pass. */
static void put_logits(struct ctx *c, const float *x, size_t n, size_t vocab)
{
    int32_t *zeros = xcalloc(n, sizeof(*zeros)), *want = xcalloc(n, sizeof(*want));
    const int32_t *const table[] = { zeros };
    const struct batch b = { .T = n,
                             .token = zeros,
                             .pos = zeros,
                             .slot = zeros,
                             .seq = zeros,
                             .n_seq = 1,
                             .block_table = table,
                             .want = want,
                             .n_want = n };
    struct pass p = { .b = &b, .V = vocab, .D = 1, .key = { &b, c, x } };
    struct err e;

    for (size_t i = 0; i < n; i++)
        want[i] = (int32_t)i;
    assert_true(c->be->enter(c, &p, &e) >= 0);
    OK(c->be->upload(c, p.logits, x, n * vocab * sizeof(*x), &e), e);
    OK(c->be->leave(c, &p, &e), e);
    free(zeros);
    free(want);
}

/* Of so many logits: lists, sums, draws, of all at once and of each alone, which takes more blocks
 * a row. */
static void check_picks(struct ctx *c, size_t vocab)
{
    enum { N = PICK_ROWS };
    static const double us[] = { 0, 1 - 0x1p-53, 0.5, 1e-3, 0.999 };
    static const double parts[] = { 0.9, 1, 0.999, 0.5, 0.99 };
    const size_t words = (vocab + 63) / 64;
    float *x = random_floats(N * vocab, vocab);
    uint64_t *mask = xcalloc(3 * words, sizeof(*mask));
    const size_t most = vocab < PICK_CHANGES ? vocab : PICK_CHANGES;
    struct pick_change *change = xcalloc(most, sizeof(*change));
    struct pick_list list[N], alone;
    struct pick_ask ask[N];
    struct err e;

    make_rows(x, vocab);
    for (size_t i = 0; i < words; i++) /* a quarter; a few neighbours; none */
        mask[i] = rng_u64(vocab, i) & rng_u64(vocab + 9, i);
    mask[words + words / 2] = 0x1F00;
    for (size_t i = 0; i < most; i++) {
        const size_t id = i * vocab / most + rng_u64(i, vocab) % (vocab / most);

        change[i] = (struct pick_change){ (int32_t)id, (float)(i % 40) - 3, i % 2 ? 1 : 1.7f,
                                          0.3f * (float)(i % 3) };
    }
    put_logits(c, x, N, vocab);
    for (size_t m = 0; m < 8; m++) { /* lists; sums; draws; of changed rows; some, all bare; flat */
        if (gpu_emulated() && m % 3 && vocab > 5000)
            continue;
        for (size_t i = 0; i < N; i++) {
            const size_t k = (i + m) % 5; /* masks; without one */

            ask[i] = (struct pick_ask){ .row = N - 1 - i,
                                        .allowed = k < 3 ? mask + k * words : NULL,
                                        .change = change,
                                        .n_change = m < 3       ? 0
                                                    : m < 5     ? most
                                                    : most < 40 ? 1
                                                                : 40,
                                        .bare = m == 5 || (m == 4 && i % 2 == 0),
                                        .temperature = m ? 0.4 * (double)(i * (1 + 9 * m)) : 0,
                                        .draw = m > 1 && m < 6 && i > 0,
                                        .at = (int32_t)(vocab * i / N),
                                        .u = us[(i + m) % ARRAY_LEN(us)] };
            if (m < 6)
                continue;
            ask[i].allowed = i % 3 ? NULL : mask;
            ask[i].u = us[(i + 2 * m) % ARRAY_LEN(us)];
            ask[i].part = parts[(i + m) % ARRAY_LEN(parts)];
            ask[i].least = i % 4 == 1 ? 0.7 : 0;
            ask[i].temperature = ask[i].row == 7 ? 0.02 : 9;
        }
        OK(c->be->pick(c, ask, N, vocab, list, &e), e);
        compare_picks(c, x, vocab, ask, list, N);
        for (size_t i = gpu_emulated() ? m : 0; i < N; i += gpu_emulated() ? N : 1) {
            OK(c->be->pick(c, &ask[i], 1, vocab, &alone, &e), e);
            if (!are_same(&alone, &list[i]))
                MISS("row %zu of %zu logits is told otherwise alone\n", ask[i].row, vocab);
        }
    }
    free(change);
    free(mask);
    free(x);
}

/* Rows of logits that stay on the device. */
static void picks(void **state)
{
    static const size_t vocabs[] = { 1, 70, 257, 1025, 4099, 32000, 128256, 150001 };
    struct ctx *c = gpu_context(COMPUTE_AUTO);

    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(vocabs); k++)
        if (!gpu_emulated() || (vocabs[k] != 70 && vocabs[k] < 50000))
            check_picks(c, vocabs[k]);
    c->be->free(c);
    gpu_settle();
}

/* More rows than are looked at at a time. */
static void picks_many(void **state)
{
    enum { N = 300, V = 70 };
    struct ctx *c = gpu_context(COMPUTE_AUTO);
    float *x = random_floats(N * V, 3);
    struct pick_list *list = xcalloc(N, sizeof(*list));
    struct pick_ask *ask = xcalloc(N, sizeof(*ask));
    struct err e;

    (void)state;
    for (size_t i = 0; i < N; i++)
        ask[i] = (struct pick_ask){
            .row = i, .temperature = 0.3, .draw = true, .u = 0.5, .bare = i % 9 > 0
        };
    put_logits(c, x, N, V);
    for (size_t n = N; n > 0; n /= 8) {
        memset(list, 0, N * sizeof(*list));
        OK(c->be->pick(c, ask, n, V, list, &e), e);
        compare_picks(c, x, V, ask, list, n);
    }
    free(ask);
    free(list);
    free(x);
    c->be->free(c);
    gpu_settle();
}

static void hear(void *arg, int32_t id)
{
    struct ids *all = arg;

    ids_add(all, id);
}

static const struct backend *counted;
static size_t rows_that_came;

static int count_row(struct ctx *c, size_t row, size_t V, float *out, struct err *e)
{
    rows_that_came++;
    return counted->row(c, row, V, out, e);
}

/* generate() has the same tokens whether the GPU tells them of its logits, as it does here without
 * any that come, or all of those come. */
static void answers(void **state)
{
    enum { PROMPT = 12, TOP = 3 };
    const size_t answer = gpu_emulated() ? 3 : 8;
    static const struct sampling how[] = {
        { .temperature = 0, .top_p = 1, .repetition_penalty = 1 },
        { .temperature = 0, .top_p = 1, .repetition_penalty = 1.5 },
        { .temperature = 0.2, .top_p = 0.9, .repetition_penalty = 1, .seed = 7 },
        { .temperature = 1, .top_p = 1, .repetition_penalty = 1.2, .seed = 8 },
        { .temperature = 1, .top_p = 0.9, .top_k = 20, .repetition_penalty = 1, .seed = 9 },
        { .temperature = 50,
          .top_p = 0.99,
          .repetition_penalty = 1,
          .seed = 10 }, /* no list has these */
        { .temperature = 50, .top_p = 1, .min_p = 0.5, .repetition_penalty = 1, .seed = 11 }
    };
    struct engine *g;
    int32_t prompt[PROMPT];
    struct err e;

    (void)state;
    gpu_for_programs();
    struct session *s = open_on(&g, data_path("tiny-llama31"), COMPUTE_AUTO, "cuda", 64);
    const struct backend *const gpu = g->ctx->be;
    struct backend host = *gpu, there = *gpu;

    counted = gpu;
    rows_that_came = 0;
    there.row = count_row;
    host.pick = NULL;
    host.row = NULL;
    for (int32_t i = 0; i < PROMPT; i++)
        prompt[i] = 3 * i + 1;
    for (size_t i = 0; i < 2 * ARRAY_LEN(how); i += gpu_emulated() ? 5 : 1) {
        struct gen_result got[2];
        struct ids heard[2] = { 0 };

        for (size_t k = 0; k < 2; k++) {
            const struct gen_request r = { .prompt = prompt,
                                           .n_prompt = PROMPT,
                                           .max_new_tokens = answer,
                                           .sampling = how[i / 2],
                                           .logprobs = i % 2,
                                           .top_logprobs = i % 2 ? TOP : 0,
                                           .on_token = hear,
                                           .arg = &heard[k] };

            g->ctx->be = k ? &host : &there;
            session_cut(s, 0);
            OK(generate(s, &r, &got[k], &e), e);
            assert_int_equal(heard[k].n, got[k].ids.n);
            assert_memory_equal(heard[k].p, got[k].ids.p, heard[k].n * sizeof(*heard[k].p));
        }
        assert_int_equal(got[0].ids.n, answer);
        assert_int_equal(got[1].ids.n, answer);
        assert_memory_equal(got[0].ids.p, got[1].ids.p, answer * sizeof(*prompt));
        for (size_t n = 0; n < (i % 2 ? answer : 0); n++) {
            assert_true(fabsf(got[0].logprob[n] - got[1].logprob[n]) < 1e-4f);
            for (size_t t = n * TOP; t < (n + 1) * TOP; t++)
                assert_int_equal(got[0].top[t].id, got[1].top[t].id);
        }
        for (size_t k = 0; k < 2; k++) {
            gen_result_release(&got[k]);
            ids_release(&heard[k]);
        }
    }
    g->ctx->be = gpu;
    assert_int_equal(rows_that_came, 0);
    session_free(s);
    engine_close(g);
    gpu_settle();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(heads), cmocka_unit_test(heads_few),
                                        cmocka_unit_test(picks), cmocka_unit_test(picks_many),
                                        cmocka_unit_test(answers) };

    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL); /* some of them */
    return cmocka_run_group_tests_name(__FILE__, tests, gpu_ask, NULL);
}
