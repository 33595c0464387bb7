/* Sessions: the same bits whatever the threads, chunks and cached prefix; text, stops and limits.
 */
#include "support.h"
#include "support_model.h"

#define TINY data_path("tiny-llama31")

enum { V = 1024, N = 150 };

static void fill(int32_t *ids, size_t n, int32_t seed)
{
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * 7919 + (size_t)seed * 104729 + 11) % 1000);
}

/* Logits of all N rows with the given threads, chunk and instruction set. */
static float *logits_with(enum compute compute, int threads, int isa, size_t chunk)
{
    struct engine *g = engine_for(TINY, compute, threads, isa, chunk);
    struct session *s = session_for(g, 256);
    float *out = calloc((size_t)N * V, sizeof(*out));
    int32_t ids[N];
    struct err e;

    fill(ids, N, 1);
    OK(session_eval_rows(s, ids, N, NULL, 0, out, &e), e);
    session_free(s);
    engine_close(g);
    return out;
}

static void same_bits_at_any_cut(void **state)
{
    static const struct {
        int threads;
        size_t chunk;
    } cases[] = { { 1, 1 }, { 1, 7 }, { 2, 64 }, { 3, 65 }, { 5, 512 }, { 2, 1 } };

    (void)state;
    for (enum compute c = COMPUTE_AUTO; c <= COMPUTE_BF16; c++) {
        float *want = logits_with(c, 1, -1, 512);

        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
            float *got = logits_with(c, cases[i].threads, -1, cases[i].chunk);

            if (memcmp(got, want, (size_t)N * V * sizeof(*got)))
                fail_msg("compute %d, %d threads, chunks of %zu: other bits", (int)c,
                         cases[i].threads, cases[i].chunk);
            free(got);
        }
        free(want);
    }
}

static void prefix_is_reused_with_the_same_bits(void **state)
{
    struct engine *g = engine_for(TINY, COMPUTE_AUTO, 2, -1, 0);
    struct session *s = session_for(g, 256), *fresh = session_for(g, 256);
    int32_t a[N], b[N];
    const float *x, *y;
    struct err e;

    (void)state;
    fill(a, N, 1);
    memcpy(b, a, sizeof(b));
    fill(b + 70, N - 70, 2); /* the first 70 tokens are common */
    OK(session_eval(s, a, N, &x, NULL, NULL, NULL, &e), e);
    OK(session_eval(s, b, N, &x, NULL, NULL, NULL, &e), e);
    OK(session_eval(fresh, b, N, &y, NULL, NULL, NULL, &e), e);
    assert_memory_equal(x, y, V * sizeof(*x));
    OK(session_eval(s, b, N, &x, NULL, NULL, NULL, &e), e); /* everything cached */
    assert_memory_equal(x, y, V * sizeof(*x));
    OK(session_eval(s, b, 40, &x, NULL, NULL, NULL, &e), e); /* shorter */
    assert_int_equal(session_len(s), 40);
    session_free(s);
    session_free(fresh);
    engine_close(g);
}

static void limits_are_refused_with_numbers(void **state)
{
    struct engine *g = engine_for(TINY, COMPUTE_AUTO, 1, -1, 0);
    struct session *s = NULL;
    int32_t ids[N];
    const float *x;
    struct err e;

    (void)state;
    fill(ids, N, 1);
    assert_int_equal(session_new(&s, g, 131073, &e), -1);
    assert_non_null(strstr(e.msg, "131073"));
    assert_non_null(strstr(e.msg, "131072"));
    s = session_for(g, 100);
    assert_int_equal(session_eval(s, ids, N, &x, NULL, NULL, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "150"));
    assert_non_null(strstr(e.msg, "100"));
    ids[3] = V;
    assert_int_equal(session_eval(s, ids, 10, &x, NULL, NULL, NULL, &e), -1);
    ids[3] = -1;
    assert_int_equal(session_eval(s, ids, 10, &x, NULL, NULL, NULL, &e), -1);
    assert_int_equal(session_eval(s, ids, 0, &x, NULL, NULL, NULL, &e), -1);
    struct gen_request r = { .prompt = ids, .n_prompt = 100 };
    struct gen_result out;

    sampling_init(&r.sampling);
    assert_int_equal(generate(s, &r, &out, &e), -1);
    session_free(s);
    engine_close(g);
}

static void the_context_ends_an_answer(void **state)
{
    struct engine *g = engine_for(TINY, COMPUTE_AUTO, 1, -1, 0);
    struct session *s = session_for(g, 40);
    int32_t ids[N];
    struct gen_request r = { .prompt = ids, .n_prompt = 20, .logprobs = true, .top_logprobs = 3 };
    struct gen_result out;
    struct err e;

    (void)state;
    fill(ids, N, 1);
    sampling_init(&r.sampling);
    r.sampling.temperature = 0;
    OK(generate(s, &r, &out, &e), e);
    assert_int_equal(out.finish, FINISH_LENGTH);
    assert_int_equal(out.ids.n, 20);
    for (size_t i = 0; i < out.ids.n; i++) { /* greedy: the token is the likeliest */
        assert_int_equal(out.top[i * 3].id, out.ids.p[i]);
        assert_true(out.top[i * 3].logprob == out.logprob[i] && out.logprob[i] < 0);
        assert_true(out.top[i * 3 + 1].logprob <= out.top[i * 3].logprob);
    }
    gen_result_release(&out);
    session_free(s);
    engine_close(g);
}

/* ---- with text: the real small model ---- */

struct heard {
    struct buf text;
    size_t calls;
};

static void hear(void *arg, const char *p, size_t n)
{
    struct heard *h = arg;

    buf_add(&h->text, p, n);
    h->calls++;
}

static struct engine *smollm2(void)
{
    const struct engine_opts o = { .isa = -1 };
    struct engine *g;
    struct err e;

    OK(engine_open(&g, smollm2_path(), &o, &e), e);
    return g;
}

static struct gen_result answer(struct engine *g, const char *text, size_t max,
                                const char *const *stop, size_t n_stop, struct heard *h,
                                const volatile sig_atomic_t *cancel)
{
    struct session *s = session_for(g, 512);
    struct ids ids = { 0 };
    struct gen_result out;
    struct err e;

    OK(tok_encode(g->tok, text, strlen(text), TOK_PLAIN, &ids, &e), e);
    struct gen_request r = { .prompt = ids.p,
                             .n_prompt = ids.n,
                             .max_new_tokens = max,
                             .stop = stop,
                             .n_stop = n_stop,
                             .on_text = hear,
                             .arg = h,
                             .cancel = cancel };

    sampling_init(&r.sampling);
    r.sampling.temperature = 0;
    buf_init(&h->text, 1 << 20);
    OK(generate(s, &r, &out, &e), e);
    ids_release(&ids);
    session_free(s);
    return out;
}

static void stop_strings_cut_across_tokens(void **state)
{
    struct engine *g = smollm2();
    struct heard all = { 0 }, h = { 0 };
    struct gen_result full = answer(g, "The capital of France is", 40, NULL, 0, &all, NULL);

    (void)state;
    assert_int_equal(full.text.len, all.text.len); /* the stream and the result agree */
    assert_memory_equal(full.text.p, all.text.p, full.text.len);
    assert_true(full.text.len > 20);
    /* every 5-byte piece of the answer, most of which straddle tokens, as a stop string */
    for (size_t at = 3; at + 5 < full.text.len && at < 24; at += 3) {
        char *stop = strndup(full.text.p + at, 5);
        const char *stops[] = { "never said", stop, "" };
        const char *first = strstr(full.text.p, stop);
        struct gen_result r = answer(g, "The capital of France is", 40, stops, 3, &h, NULL);

        assert_int_equal(r.finish, FINISH_STOP);
        assert_int_equal(r.text.len, (size_t)(first - full.text.p));
        assert_memory_equal(r.text.p, full.text.p, r.text.len);
        assert_int_equal(h.text.len, r.text.len); /* nothing of it was shown */
        gen_result_release(&r);
        buf_release(&h.text);
        free(stop);
    }
    gen_result_release(&full);
    buf_release(&all.text);
    engine_close(g);
}

static void cancelling_keeps_what_was_said(void **state)
{
    struct engine *g = smollm2();
    struct heard h = { 0 };
    const volatile sig_atomic_t now = 1;
    struct gen_result r = answer(g, "Once upon a time", 40, NULL, 0, &h, &now);

    (void)state;
    assert_int_equal(r.finish, FINISH_CANCELLED);
    assert_true(r.ids.n <= 1);
    gen_result_release(&r);
    buf_release(&h.text);
    engine_close(g);
}

TEST_MAIN(cmocka_unit_test(same_bits_at_any_cut),
          cmocka_unit_test(prefix_is_reused_with_the_same_bits),
          cmocka_unit_test(limits_are_refused_with_numbers),
          cmocka_unit_test(the_context_ends_an_answer),
          cmocka_unit_test(stop_strings_cut_across_tokens),
          cmocka_unit_test(cancelling_keeps_what_was_said))
