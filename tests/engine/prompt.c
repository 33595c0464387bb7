/* What can be asked about a prompt: its tokens' log probabilities, and an embedding of it. */
#include <math.h>
#include <pthread.h>

#include "support.h"
#include "support_model.h"

#include "engine/sched.h"

enum { N = 150, TOP = 3, JOBS = 6 };

struct got {
    struct score score[N];
    struct top_logprob top[N * TOP];
    float *embedding;
    size_t dim, tokens, cached;
    bool done;
};

static void on_event(void *arg, const struct sched_event *ev)
{
    struct got *g = arg;

    if (ev->kind == SCHED_PROMPT && ev->score) {
        memcpy(g->score, ev->score, (ev->n_prompt - 1) * sizeof(*g->score));
        if (ev->score_top)
            memcpy(g->top, ev->score_top, (ev->n_prompt - 1) * TOP * sizeof(*g->top));
    }
    if (ev->kind == SCHED_PROMPT)
        g->cached = ev->cached;
    g->tokens += ev->kind == SCHED_TOKEN;
    if (ev->kind == SCHED_DONE && ev->embedding) {
        g->embedding = malloc(g->dim * sizeof(float));
        memcpy(g->embedding, ev->embedding, g->dim * sizeof(float));
    }
    g->done |= ev->kind == SCHED_DONE;
}

static struct engine *engine(size_t chunk)
{
    const struct engine_opts o = { .threads = 2, .isa = -1, .chunk = chunk };
    struct engine *g;
    struct err e;

    OK(engine_open(&g, data_path("tiny-llama31"), &o, &e), e);
    return g;
}

static void make_prompt(int32_t ids[N], size_t which)
{
    for (size_t i = 0; i < N; i++)
        ids[i] = (int32_t)((i < 70 ? 7 * i : (which + 3) * i * i + which) % 900 + 20);
}

static void submit(struct sched *s, const int32_t *ids, size_t n, struct sched_request r,
                   struct got *g)
{
    uint64_t ticket;
    struct err e;

    sampling_init(&r.gen.sampling);
    r.gen.prompt = ids;
    r.gen.n_prompt = n;
    r.on_event = on_event;
    r.arg = g;
    OK(sched_submit(s, &r, &ticket, &e), e);
}

static void same_scores(const struct got *a, const struct got *b)
{
    assert_memory_equal(a->score, b->score, (N - 1) * sizeof(*a->score));
    assert_memory_equal(a->top, b->top, (N - 1) * TOP * sizeof(*a->top));
}

/* Beside the logits of a session; again in company, after a prefix that is cached, and where there
 * is no room for all: a job that steps back has its scores once. */
static void scores_are_the_models_own(void **state)
{
    struct engine *g = engine(64);
    struct session *one = session_for(g, 512);
    static struct got want[JOBS], got[JOBS];
    const size_t vocab = (size_t)g->model->hp->vocab;
    struct sampler *sampler;
    float *logits = malloc(N * vocab * sizeof(float));
    struct sched *s;
    struct err e;

    (void)state;
    OK(sampler_new(&sampler, vocab, &e), e);
    for (size_t i = 0; i < JOBS; i++) {
        int32_t ids[N];

        make_prompt(ids, i);
        session_cut(one, 0);
        OK(session_eval_rows(one, ids, N, NULL, 0, logits, &e), e);
        for (size_t k = 0; k + 1 < N; k++) {
            const float *row = logits + k * vocab;
            int32_t better = 0;

            for (size_t v = 0; v < vocab; v++)
                better += row[v] > row[ids[k + 1]];
            want[i].score[k].logprob = sampler_logprob(sampler, row, ids[k + 1]);
            want[i].score[k].rank = better + 1;
            sampler_top(sampler, row, TOP, want[i].top + k * TOP);
        }
    }
    for (size_t kv = 320; kv <= 4096; kv += 4096 - 320) {
        const struct sched_opts so = { .kv_tokens = kv, .max_active = 4 };

        OK(sched_new(&s, g, &so, &e), e);
        memset(got, 0, sizeof(got));
        for (size_t i = 0; i < JOBS; i++) {
            int32_t ids[N];

            make_prompt(ids, i);
            submit(s, ids, N,
                   (struct sched_request){ .gen = { .max_new_tokens = 60 + i },
                                           .score = true,
                                           .score_top = TOP,
                                           .prompt_only = i == 2 },
                   &got[i]);
        }
        sched_settle(s);
        for (size_t i = 0; i < JOBS; i++) {
            assert_true(got[i].done);
            assert_int_equal(got[i].tokens, i == 2 ? 0 : 60 + i);
            same_scores(&got[i], &want[i]);
        }
        sched_free(s);
    }
    free(logits);
    sampler_free(sampler);
    session_free(one);
    engine_close(g);
}

/* The last token's state is what the head makes logits of; the mean is that of every prefix's. */
static void embeddings_are_hidden_states(void **state)
{
    struct engine *g = engine(64);
    struct session *one = session_for(g, 512);
    const size_t vocab = (size_t)g->model->hp->vocab, D = (size_t)g->model->hp->dim, n = 80;
    const struct sched_opts so = { .kv_tokens = 4096, .max_active = 8 };
    struct got last = { .dim = D }, mean = { .dim = D };
    float *logits = malloc(vocab * sizeof(float));
    double *sum = calloc(D, sizeof(*sum));
    const float *truth;
    struct sched *s;
    int32_t ids[N];
    struct err e;

    (void)state;
    make_prompt(ids, 1);
    OK(session_eval(one, ids, n, &truth, NULL, NULL, NULL, &e), e);
    OK(sched_new(&s, g, &so, &e), e);
    submit(s, ids, n, (struct sched_request){ .prompt_only = true, .pool = POOL_LAST }, &last);
    sched_settle(s);
    const struct linear_out head = { logits, &g->model->head };

    g->ctx->op->linear(g->ctx, &head, 1, last.embedding, 1);
    assert_memory_equal(logits, truth, vocab * sizeof(float));
    for (size_t k = 1; k <= n; k++) {
        struct got part = { .dim = D };

        submit(s, ids, k, (struct sched_request){ .prompt_only = true, .pool = POOL_LAST }, &part);
        sched_settle(s);
        for (size_t i = 0; i < D; i++)
            sum[i] += (double)part.embedding[i];
        free(part.embedding);
    }
    submit(s, ids, n, (struct sched_request){ .prompt_only = true, .pool = POOL_MEAN }, &mean);
    sched_settle(s);
    assert_int_equal(mean.cached, 0);
    for (size_t i = 0; i < D; i++)
        assert_true(mean.embedding[i] == (float)(sum[i] / (double)n));
    free(last.embedding);
    free(mean.embedding);
    free(logits);
    free(sum);
    sched_free(s);
    session_free(one);
    engine_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_the_models_own),
        cmocka_unit_test(embeddings_are_hidden_states),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
