/* The scheduler: every answer is the one its request gets alone, whatever runs beside it. */
#include <pthread.h>
#include <unistd.h>

#include "support.h"
#include "support_model.h"

#include "base/mem.h"
#include "base/turn.h"
#include "engine/sched.h"

enum { LONGEST = 400, V = 1000 };

/* What a request got, filled by events on the engine's thread. */
struct got {
    pthread_mutex_t lock;
    struct ids ids;
    struct buf text;
    float logprob[LONGEST];
    size_t prompts, ends, cached;
    enum finish finish;
    bool failed;
    struct err err;
};

static void got_init(struct got *g)
{
    memset(g, 0, sizeof(*g));
    pthread_mutex_init(&g->lock, NULL);
    buf_init(&g->text, 1 << 20);
}

static void got_release(struct got *g)
{
    ids_release(&g->ids);
    buf_release(&g->text);
    pthread_mutex_destroy(&g->lock);
}

static void on_event(void *arg, const struct sched_event *ev)
{
    struct got *g = arg;

    pthread_mutex_lock(&g->lock);
    if (ev->n_text)
        buf_add(&g->text, ev->text, ev->n_text);
    switch (ev->kind) {
    case SCHED_PROMPT:
        g->prompts++;
        g->cached = ev->cached;
        break;
    case SCHED_TOKEN:
        if (g->ids.n < LONGEST)
            g->logprob[g->ids.n] = ev->logprob;
        ids_add(&g->ids, ev->id);
        break;
    case SCHED_DONE:
        g->ends++;
        g->finish = ev->finish;
        break;
    case SCHED_FAILED:
        g->ends++;
        g->failed = true;
        g->err = *ev->err;
        break;
    }
    pthread_mutex_unlock(&g->lock);
}

static struct engine *engine(size_t chunk)
{
    const struct engine_opts o = { .threads = 2, .isa = -1, .chunk = chunk };
    struct engine *g;
    struct err e;

    OK(engine_open(&g, data_path("tiny-llama31"), &o, &e), e);
    return g;
}

static struct sched *sched(struct engine *g, const struct sched_opts *o)
{
    struct sched *s;
    struct err e;

    OK(sched_new(&s, g, o, &e), e);
    return s;
}

static unsigned rnd(unsigned *r)
{
    *r = *r * 1664525u + 1013904223u;
    return *r >> 8;
}

/* Request i: some greedy, some sampled; prompts that share beginnings of one or two blocks. */
static struct gen_request request(unsigned i, int32_t *prompt)
{
    static const int32_t eos[] = { 1009 };
    unsigned r = i * 2654435761u + 1;
    struct gen_request g = { .prompt = prompt, .eos = eos, .n_eos = 1, .logprobs = true };
    const size_t shared = rnd(&r) % 3 * 70;

    sampling_init(&g.sampling);
    g.sampling.temperature = rnd(&r) % 3 ? 0.9 : 0;
    g.sampling.top_p = rnd(&r) % 2 ? 0.9 : 1;
    g.sampling.repetition_penalty = rnd(&r) % 4 ? 1 : 1.2;
    g.sampling.seed = i;
    g.n_prompt = shared + 1 + rnd(&r) % 60;
    g.max_new_tokens = 1 + rnd(&r) % 60;
    for (size_t k = 0; k < g.n_prompt; k++)
        prompt[k] = k < shared ? (int32_t)(3 * k % 200 + 10) : (int32_t)(rnd(&r) % V);
    return g;
}

/* The truth: each request alone in a session of its own. */
static void alone(struct engine *g, unsigned n, const struct lora *odd, struct got *want)
{
    for (unsigned i = 0; i < n; i++) {
        int32_t prompt[LONGEST];
        const struct gen_request r = request(i, prompt);
        struct session *s = session_for(g, 512);
        struct gen_result out;
        struct err e;

        session_set_adapter(s, i % 2 ? odd : NULL);
        OK(generate(s, &r, &out, &e), e);
        got_init(&want[i]);
        ids_append(&want[i].ids, out.ids.p, out.ids.n);
        buf_add(&want[i].text, out.text.p, out.text.len);
        memcpy(want[i].logprob, out.logprob, out.ids.n * sizeof(float));
        want[i].finish = out.finish;
        gen_result_release(&out);
        session_free(s);
    }
}

static void same(const struct got *a, const struct got *b, unsigned i)
{
    if (a->failed)
        fail_msg("request %u failed: %s", i, a->err.msg);
    assert_int_equal(a->ends, 1);
    assert_int_equal(a->prompts, 1);
    assert_int_equal(a->ids.n, b->ids.n);
    assert_memory_equal(a->ids.p, b->ids.p, a->ids.n * sizeof(int32_t));
    assert_memory_equal(a->logprob, b->logprob, a->ids.n * sizeof(float));
    assert_int_equal(a->text.len, b->text.len);
    assert_memory_equal(a->text.p, b->text.p, a->text.len);
    assert_int_equal(a->finish, b->finish);
}

static void answers_do_not_depend_on_company(void **state)
{
    enum { N = SANITIZED ? 16 : 30 };
    static struct got want[N], got[N];
    /* plenty; a cache so small that answers step back; guesses; no prefix cache; one at a time */
    const struct {
        struct sched_opts o;
        size_t chunk;
        bool tight;
    } run[] = {
        { { .kv_tokens = 1 << 16 }, 256, false },
        { { .kv_tokens = 8 * 64, .max_active = 16 }, 64, true },
        { { .kv_tokens = 1 << 14, .speculate = 4, .max_active = 2 }, 64, false },
        { { .kv_tokens = 10 * 64, .max_active = 16, .no_prefix_cache = true }, 32, true },
        { { .kv_tokens = 1 << 14, .max_active = 1, .step_s = 1e-6 }, 512, false },
    };
    struct engine *g = engine(128);

    (void)state;
    alone(g, N, NULL, want);
    engine_close(g);
    for (size_t k = 0; k < ARRAY_LEN(run); k++) {
        struct sched_stats st;

        g = engine(run[k].chunk);
        struct sched *s = sched(g, &run[k].o);

        turn_take(g->turn); /* the first half comes at once, */
        for (unsigned i = 0; i < N; i++) {
            int32_t prompt[LONGEST];
            const struct sched_request r = { .gen = request(i, prompt),
                                             .on_event = on_event,
                                             .arg = &got[i],
                                             .priority = (int)(i % 3),
                                             .tenant = i % 5 };
            uint64_t ticket;
            struct err e;

            got_init(&got[i]);
            OK(sched_submit(s, &r, &ticket, &e), e);
            if (i == N / 2) {
                turn_give(g->turn); /* and the rest meets a running batch */
                usleep(20000);
            }
        }
        sched_settle(s);
        sched_stats(s, &st);
        for (unsigned i = 0; i < N; i++) {
            same(&got[i], &want[i], i);
            got_release(&got[i]);
        }
        assert_int_equal(st.finished, N);
        if (run[k].tight)
            assert_true(st.preempted > 0);
        if (run[k].o.no_prefix_cache)
            assert_int_equal(st.cached_tokens, 0);
        else if (run[k].o.max_active != 1)
            assert_true(st.cached_tokens > 0);
        sched_free(s);
        engine_close(g);
    }
    for (unsigned i = 0; i < N; i++)
        got_release(&want[i]);
}

/* A backend that keeps rows of logits, as a device does. */
static struct {
    const struct backend *cpu;
    float *logits;
    size_t picks, rows;
} keeper;

static int enter_kept(struct ctx *c, struct pass *p, struct err *e)
{
    if (!p->out) {
        keeper.logits = xrealloc(keeper.logits, (p->b->n_want + 1) * p->V * sizeof(float));
        p->out = keeper.logits;
    }
    return keeper.cpu->enter(c, p, e);
}

static int pick_kept(struct ctx *c, const struct pick_ask *ask, size_t n, size_t vocab,
                     struct pick_list *out, struct err *e)
{
    (void)c;
    (void)e;
    for (size_t i = 0; i < n; i++)
        pick_list_ref(&out[i], keeper.logits + ask[i].row * vocab, vocab, &ask[i]);
    keeper.picks += n;
    return 0;
}

static int row_kept(struct ctx *c, size_t row, size_t vocab, float *out, struct err *e)
{
    (void)c;
    (void)e;
    memcpy(out, keeper.logits + row * vocab, vocab * sizeof(*out));
    keeper.rows++;
    return 0;
}

/* Where logits stay on a device, tokens are told by their heads where those do: answers are the
 * same. */
static void heads_of_logits_change_nothing(void **state)
{
    enum { N = SANITIZED ? 16 : 24 };
    static const int32_t watch[] = { 5 };
    static struct got want[N], got[N];
    struct engine *g = engine(128);
    struct backend be;

    (void)state;
    keeper.picks = keeper.rows = 0;
    alone(g, N, NULL, want);
    keeper.cpu = g->ctx->be;
    be = *keeper.cpu;
    be.enter = enter_kept;
    be.pick = pick_kept;
    be.row = row_kept;
    g->ctx->be = &be;
    struct sched *s = sched(g, &(struct sched_opts){ .kv_tokens = 1 << 14, .speculate = 2 });

    for (unsigned i = 0; i < N; i++) {
        int32_t prompt[LONGEST];
        struct sched_request r = { .gen = request(i, prompt),
                                   .on_event = on_event,
                                   .arg = &got[i] };
        uint64_t ticket;
        struct err e;

        r.gen.logprobs = i % 4 != 0;
        r.gen.watch = watch; /* takes whole rows */
        r.gen.n_watch = i % 4 == 1;
        got_init(&got[i]);
        OK(sched_submit(s, &r, &ticket, &e), e);
    }
    sched_settle(s);
    for (unsigned i = 0; i < N; i++) {
        if (i % 4 == 0) /* they were not asked for */
            memcpy(got[i].logprob, want[i].logprob, sizeof(want[i].logprob));
        same(&got[i], &want[i], i);
        got_release(&got[i]);
        got_release(&want[i]);
    }
    assert_true(keeper.picks > 100 && keeper.rows > 100);
    sched_free(s);
    g->ctx->be = keeper.cpu;
    engine_close(g);
    free(keeper.logits);
    keeper.logits = NULL;
}

/* g with a drafter beside it: the model of that folder. */
static struct engine *drafter(struct engine *g, const char *path, size_t chunk)
{
    struct engine *d;
    struct err e;

    OK(engine_open(&d, path, &(struct engine_opts){ .chunk = chunk, .beside = g }, &e), e);
    OK(engine_set_drafter(g, d, 16, &e), e);
    return d;
}

/* Whatever a drafter guesses, the answers are those without: of a model that is its own drafter,
 * whose guesses are all right but where an answer ends, and of one that knows nothing. */
static void a_drafter_changes_nothing(void **state)
{
    enum { N = SANITIZED ? 12 : 20 };
    static struct got want[N], got[N];
    char *micro = micro_new();
    /* tight, so that answers step back; plenty; only where it pays; small passes, one at a time */
    const struct {
        struct sched_opts o;
        size_t chunk;
        bool own, tight;
    } run[] = {
        { { .kv_tokens = 8 * 64, .max_active = 16, .speculate = 3, .least = 3 }, 96, true, true },
        { { .kv_tokens = 1 << 16, .speculate = 4, .least = 4 }, 256, false, false },
        { { .kv_tokens = 1 << 16, .speculate = 8 }, 256, false, false },
        { { .kv_tokens = 1 << 14, .max_active = 1, .speculate = 5, .least = 5 }, 32, true, false },
    };
    struct engine *g = engine(128);

    (void)state;
    alone(g, N, NULL, want);
    engine_close(g);
    for (size_t k = 0; k < ARRAY_LEN(run); k++) {
        const struct sched_opts *o = &run[k].o;
        struct sched_stats st;

        g = engine(run[k].chunk);
        struct engine *d = drafter(g, run[k].own ? data_path("tiny-llama31") : micro, run[k].chunk);
        struct sched *s = sched(g, o);

        for (unsigned i = 0; i < N; i++) {
            int32_t prompt[LONGEST];
            const struct sched_request r = { .gen = request(i, prompt),
                                             .on_event = on_event,
                                             .arg = &got[i],
                                             .priority = (int)(i % 3),
                                             .salt = i % 2 };
            uint64_t ticket;
            struct err e;

            got_init(&got[i]);
            OK(sched_submit(s, &r, &ticket, &e), e);
        }
        sched_settle(s); /* with an audit of both caches */
        sched_stats(s, &st);
        for (unsigned i = 0; i < N; i++) {
            same(&got[i], &want[i], i);
            got_release(&got[i]);
        }
        assert_int_equal(st.draft_failures, 0);
        if (run[k].tight)
            assert_true(st.preempted > 0);
        if (!o->least) /* wrong ones are soon left alone */
            assert_true(st.guessed < 4 * st.answer_tokens);
        else if (run[k].own) /* what is wrong is behind an answer's end */
            assert_true(st.guessed > 100 && st.guessed_right * 4 > st.guessed * 3);
        else
            assert_true(st.guessed > 100 && st.guessed_right * 4 < st.guessed);
        sched_free(s);
        engine_close(d);
        engine_close(g);
    }
    for (unsigned i = 0; i < N; i++)
        got_release(&want[i]);
    quantised_free(micro);
}

/* The same for one conversation after the other in a session, whose cache goes from one to the
 * next. */
static void a_session_with_a_drafter(void **state)
{
    enum { N = 6 };
    static struct got want[N];
    char *micro = micro_new();
    struct engine *g = engine(64);
    struct err e;

    alone(g, N, NULL, want);
    for (int k = 0; k < 2; k++) {
        struct engine *d = drafter(g, k ? micro : data_path("tiny-llama31"), 64);
        struct session *s = session_for(g, 512);
        size_t guessed = 0, right = 0;

        OK(session_draft(s, 4, 4, &e), e);
        for (unsigned i = 0; i < N; i++) {
            int32_t prompt[LONGEST];
            const struct gen_request r = request(i, prompt);
            struct gen_result out;

            OK(generate(s, &r, &out, &e), e);
            assert_int_equal(out.ids.n, want[i].ids.n);
            assert_memory_equal(out.ids.p, want[i].ids.p, out.ids.n * sizeof(int32_t));
            assert_memory_equal(out.logprob, want[i].logprob, out.ids.n * sizeof(float));
            assert_int_equal(out.finish, want[i].finish);
            guessed += out.guessed;
            right += out.guessed_right;
            gen_result_release(&out);
        }
        assert_true(guessed > 50);
        assert_true(k ? right * 4 < guessed : right * 4 > guessed * 3);
        session_free(s);
        engine_close(d);
    }
    for (unsigned i = 0; i < N; i++)
        got_release(&want[i]);
    engine_close(g);
    quantised_free(micro);
    (void)state;
}

/* Other tokens than the model's, or other numbers of them, would be nonsense. */
static void a_drafter_has_the_same_vocabulary(void **state)
{
    struct engine *g, *d;
    struct err e;

    (void)state;
    OK(engine_open(&g, smollm2_path(), &(struct engine_opts){ .threads = 1, .isa = -1 }, &e), e);
    OK(engine_open(&d, data_path("tiny-llama31"), &(struct engine_opts){ .beside = g }, &e), e);
    assert_int_equal(engine_set_drafter(g, d, 1, &e), -1);
    assert_int_equal(e.code, ERR_USAGE);
    assert_non_null(strstr(e.msg, "has 1024 tokens where"));
    assert_non_null(strstr(e.msg, " has 49152: "));
    assert_null(g->drafter.g);
    engine_close(d);
    engine_close(g);
}

/* Requests with and without an adapter, in one batch; equal prompts do not share what they
 * computed. */
static void adapters_meet_in_a_batch(void **state)
{
    enum { N = 16 };
    static struct got want[N], got[N];
    struct engine *g = engine(64);
    struct lora *l;
    struct err e;

    (void)state;
    OK(engine_adapter(&l, g, "tests/data/adapters/final", &e), e);
    alone(g, N, l, want);
    struct sched *s = sched(g, &(struct sched_opts){ .kv_tokens = 1 << 14, .max_active = 8 });

    for (unsigned i = 0; i < N; i++) {
        int32_t prompt[LONGEST];
        const struct sched_request r = { .gen = request(i, prompt),
                                         .on_event = on_event,
                                         .arg = &got[i],
                                         .adapter = i % 2 ? l : NULL };
        uint64_t ticket;

        got_init(&got[i]);
        OK(sched_submit(s, &r, &ticket, &e), e);
    }
    sched_settle(s);
    for (unsigned i = 0; i < N; i++) {
        same(&got[i], &want[i], i);
        got_release(&got[i]);
        got_release(&want[i]);
    }
    sched_free(s);
    lora_close(l);
    engine_close(g);
}

/* Text that a grammar leaves no choice about comes several tokens a pass, and is what it would be
 * one by one, beside answers without a grammar and sampled ones too. */
static void forced_text_comes_in_few_passes(void **state)
{
    enum { N = 6 };
    const char *regex = "(The quick brown fox jumps over the lazy dog, and then|nothing else)";
    static struct got want[N], got[N];
    struct engine *g = engine(64);
    struct grammar *form;
    struct sched_stats st;
    struct err e;

    (void)state;
    OK(grammars_get(g->grammars, GRAMMAR_REGEX, regex, strlen(regex), &form, &e), e);
    for (int round = 0; round < 2; round++) {
        struct sched *s = sched(g, &(struct sched_opts){ .kv_tokens = 1 << 14, .max_active = N });

        for (unsigned i = 0; i < N; i++) {
            int32_t prompt[LONGEST];
            struct got *to = round ? &got[i] : &want[i];
            struct sched_request r = { .gen = request(i, prompt), .on_event = on_event, .arg = to };
            uint64_t ticket;

            r.gen.grammar = i == N - 1 ? NULL : form;
            r.gen.max_new_tokens = 60;
            got_init(to);
            OK(sched_submit(s, &r, &ticket, &e), e);
            if (round == 0)
                sched_settle(s); /* alone */
        }
        sched_settle(s);
        sched_stats(s, &st);
        sched_free(s);
    }
    for (unsigned i = 0; i < N; i++) {
        same(&got[i], &want[i], i);
        if (i < N - 1)
            assert_true(memcmp(got[i].text.p, "The quick", 9) == 0 ||
                        memcmp(got[i].text.p, "nothing else", 12) == 0);
        got_release(&got[i]);
        got_release(&want[i]);
    }
    assert_true(st.guessed_right > 10);
    grammar_unref(form);
    engine_close(g);
}

/* A prompt that many ask at once is computed once. */
static void a_shared_prompt_is_computed_once(void **state)
{
    enum { N = 16, LONG = 321 };
    struct engine *g = engine(64);
    struct sched *s = sched(g, &(struct sched_opts){ .kv_tokens = 1 << 14 });
    struct got got[N];
    int32_t prompt[LONG];
    struct sched_stats st;
    struct err e;

    (void)state;
    for (size_t k = 0; k < LONG; k++)
        prompt[k] = (int32_t)(k * 7 % V);
    for (int i = 0; i < N; i++) {
        struct sched_request r = {
            .gen = { .prompt = prompt, .n_prompt = LONG, .max_new_tokens = 4 },
            .on_event = on_event,
            .arg = &got[i]
        };
        uint64_t ticket;

        sampling_init(&r.gen.sampling);
        r.gen.sampling.seed = (uint64_t)i;
        got_init(&got[i]);
        OK(sched_submit(s, &r, &ticket, &e), e);
    }
    sched_settle(s);
    sched_stats(s, &st);
    assert_int_equal(st.cached_tokens, (N - 1) * (LONG / 64 * 64));
    for (int i = 0; i < N; i++)
        got_release(&got[i]);
    sched_free(s);
    engine_close(g);
}

/* What a prompt of its own length has to wait for: the ends of three requests, as they came. */
struct race {
    struct sched *s;
    int32_t prompt[8000];
    int ends[3], n;
};

struct runner {
    struct race *race;
    int me;
};

static void on_race(void *arg, const struct sched_event *ev)
{
    static struct runner next[2];
    struct runner *me = arg;
    struct race *race = me->race;

    if (ev->kind != SCHED_DONE)
        return;
    race->ends[race->n++] = me->me;
    if (me->me != 0)
        return;
    for (int i = 0; i < 2; i++) { /* from here both are there before the next pass */
        struct sched_request r = { .gen = { .prompt = race->prompt,
                                            .n_prompt = i ? 5 : ARRAY_LEN(race->prompt),
                                            .max_new_tokens = 2 },
                                   .on_event = on_race,
                                   .arg = &next[i] };
        uint64_t ticket;
        struct err e;

        next[i] = (struct runner){ race, i + 1 };
        sampling_init(&r.gen.sampling);
        OK(sched_submit(race->s, &r, &ticket, &e), e);
    }
}

static void a_short_prompt_does_not_wait_for_a_long_one(void **state)
{
    static struct race race;
    struct engine *g = engine(64);
    struct sched *s = sched(g, &(struct sched_opts){ .kv_tokens = 1 << 14 });
    struct runner first = { &race, 0 };
    struct sched_request r = { .gen = { .prompt = race.prompt, .n_prompt = 9, .max_new_tokens = 2 },
                               .on_event = on_race,
                               .arg = &first };
    uint64_t ticket;
    struct err e;

    (void)state;
    race.s = s;
    sampling_init(&r.gen.sampling);
    OK(sched_submit(s, &r, &ticket, &e), e);
    sched_settle(s);
    assert_int_equal(race.n, 3);
    assert_int_equal(race.ends[1], 2);
    assert_int_equal(race.ends[2], 1);
    sched_free(s);
    engine_close(g);
}

static void what_cannot_fit_is_refused_with_numbers(void **state)
{
    struct engine *g = engine(64);
    struct sched *s =
        sched(g, &(struct sched_opts){ .kv_tokens = 128, .max_active = 1, .max_queue = 1 });
    int32_t prompt[200] = { 0 };
    struct got got[3];
    struct sched_request r = { .gen = { .prompt = prompt, .n_prompt = 100, .max_new_tokens = 29 },
                               .on_event = on_event };
    uint64_t ticket;
    struct err e;

    (void)state;
    sampling_init(&r.gen.sampling);
    assert_int_equal(sched_submit(s, &r, &ticket, &e), -1);
    assert_non_null(strstr(e.msg, "128 tokens, and 129 were asked for (100 in the prompt, 29"));
    r.gen.n_prompt = 128;
    assert_int_equal(sched_submit(s, &r, &ticket, &e), -1);
    prompt[3] = 1 << 20;
    r.gen.n_prompt = 10;
    assert_int_equal(sched_submit(s, &r, &ticket, &e), -1);
    assert_non_null(strstr(e.msg, "1048576 at 3"));
    prompt[3] = 0;
    r.gen.max_new_tokens = 100;
    turn_take(g->turn); /* none ends before the last is asked for */
    for (int i = 0; i < 3; i++) {
        got_init(&got[i]);
        r.arg = &got[i];
        if (i < 2)
            OK(sched_submit(s, &r, &ticket, &e), e);
        else
            assert_int_equal(sched_submit(s, &r, &ticket, &e), -1);
    }
    assert_int_equal(e.code, ERR_TIMEOUT);
    sched_drain(s);
    assert_int_equal(sched_submit(s, &r, &ticket, &e), -1);
    turn_give(g->turn);
    sched_settle(s);
    for (int i = 0; i < 2; i++)
        assert_int_equal(got[i].ids.n, 100);
    for (int i = 0; i < 3; i++)
        got_release(&got[i]);
    sched_free(s);
    engine_close(g);
}

/* Once passes have been timed, whoever would wait too long for a first token is told so. */
static void who_would_wait_too_long_is_refused(void **state)
{
    enum { MANY = 300 };
    struct engine *g = engine(64);
    struct sched *s =
        sched(g, &(struct sched_opts){ .kv_tokens = 4096, .max_active = 2, .max_wait_s = 1e-9 });
    struct got got;
    int32_t prompt[MANY] = { 0 };
    struct sched_request r = { .gen = { .prompt = prompt, .n_prompt = MANY, .max_new_tokens = 20 },
                               .on_event = on_event,
                               .arg = &got };
    struct sched_stats st;
    uint64_t ticket;
    struct err e;

    (void)state;
    got_init(&got);
    sampling_init(&r.gen.sampling);
    OK(sched_submit(s, &r, &ticket, &e), e);
    sched_settle(s);
    sched_stats(s, &st);
    assert_true(st.wait_s == 0);
    turn_take(g->turn);                      /* nothing is computed while we look */
    OK(sched_submit(s, &r, &ticket, &e), e); /* nobody is before it */
    assert_int_equal(sched_submit(s, &r, &ticket, &e), -1);
    assert_int_equal(e.code, ERR_TIMEOUT);
    assert_non_null(strstr(e.msg, "a first token would come in some "));
    sched_stats(s, &st);
    assert_true(st.wait_s > 0);
    turn_give(g->turn);
    sched_settle(s);
    assert_int_equal(got.ends, 2);
    got_release(&got);
    sched_free(s);
    engine_close(g);
}

static void a_deadline_passes(void **state)
{
    struct engine *g = engine(64);
    struct sched *s = sched(g, &(struct sched_opts){ .kv_tokens = 1 << 13 });
    int32_t prompt[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    struct got got;
    struct sched_request r = { .gen = { .prompt = prompt, .n_prompt = 8, .max_new_tokens = 8000 },
                               .on_event = on_event,
                               .arg = &got,
                               .deadline = 0.05 };
    uint64_t ticket;
    struct err e;

    (void)state;
    sampling_init(&r.gen.sampling);
    got_init(&got);
    OK(sched_submit(s, &r, &ticket, &e), e);
    sched_settle(s);
    assert_true(got.failed);
    assert_int_equal(got.err.code, ERR_TIMEOUT);
    got_release(&got);
    sched_free(s);
    engine_close(g);
}

/* Cancellations at random points, tight memory: everything ends once and no block is lost. */
static void random_cancellations_leave_nothing(void **state)
{
    enum { N = 200 };
    static struct got got[N];
    uint64_t ticket[N];
    char *micro = micro_new();
    struct engine *g = engine(64), *d = drafter(g, micro, 64);
    struct sched *s = sched(
        g,
        &(struct sched_opts){ .kv_tokens = 12 * 64, .max_active = 8, .speculate = 2, .least = 1 });
    struct sched_stats st;
    unsigned rng = 5;
    struct err e;

    (void)state;
    turn_take(g->turn); /* the first cancellations meet requests that wait, however slow we are */
    for (unsigned i = 0; i < N; i++) {
        int32_t prompt[LONGEST];
        const struct sched_request r = {
            .gen = request(i, prompt), .on_event = on_event, .arg = &got[i], .salt = i % 2
        };

        if (i == N / 4)
            turn_give(g->turn);

        got_init(&got[i]);
        OK(sched_submit(s, &r, &ticket[i], &e), e);
        if (rnd(&rng) % 3 == 0)
            usleep(rnd(&rng) % 2000);
        if (rnd(&rng) % 4)
            sched_cancel(s, ticket[rnd(&rng) % (i + 1)]);
    }
    sched_settle(s);
    sched_stats(s, &st);
    assert_int_equal(st.finished + st.cancelled, N);
    assert_true(st.cancelled > 10 && st.finished > 10);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(got[i].ends, 1);
        got_release(&got[i]);
    }
    sched_free(s);
    engine_close(d);
    engine_close(g);
    quantised_free(micro);
}

static void closing_cancels_what_is_left(void **state)
{
    struct engine *g = engine(64);
    struct sched *s = sched(g, &(struct sched_opts){ .kv_tokens = 1 << 13 });
    int32_t prompt[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    struct got got;
    struct sched_request r = { .gen = { .prompt = prompt, .n_prompt = 8 },
                               .on_event = on_event,
                               .arg = &got };
    uint64_t ticket;
    struct err e;

    (void)state;
    sampling_init(&r.gen.sampling);
    got_init(&got);
    OK(sched_submit(s, &r, &ticket, &e), e);
    sched_free(s);
    assert_int_equal(got.ends, 1);
    assert_int_equal(got.finish, FINISH_CANCELLED);
    got_release(&got);
    engine_close(g);
}

/* Two models on one device: each answers as if it were alone. */
static void engines_beside_each_other_take_turns(void **state)
{
    enum { N = 12 };
    static struct got want[N], got[2][N];
    struct engine *g[2];
    struct sched *s[2];
    uint64_t ticket;
    struct err e;

    (void)state;
    g[0] = engine(64);
    OK(engine_open(&g[1], data_path("tiny-llama31"),
                   &(struct engine_opts){ .chunk = 64, .beside = g[0] }, &e),
       e);
    assert_ptr_equal(g[0]->ctx, g[1]->ctx);
    alone(g[0], N, NULL, want);
    for (int k = 0; k < 2; k++)
        s[k] = sched(g[k], &(struct sched_opts){ .kv_tokens = 1 << 13 });
    for (unsigned i = 0; i < N; i++)
        for (int k = 0; k < 2; k++) {
            int32_t prompt[LONGEST];
            const struct sched_request r = { .gen = request(i, prompt),
                                             .on_event = on_event,
                                             .arg = &got[k][i] };

            got_init(&got[k][i]);
            OK(sched_submit(s[k], &r, &ticket, &e), e);
        }
    for (int k = 0; k < 2; k++) {
        sched_settle(s[k]);
        for (unsigned i = 0; i < N; i++) {
            same(&got[k][i], &want[i], i);
            got_release(&got[k][i]);
        }
    }
    for (unsigned i = 0; i < N; i++)
        got_release(&want[i]);
    for (int k = 2; k-- > 0;) {
        sched_free(s[k]);
        engine_close(g[k]);
    }
}

struct watched {
    size_t vocab, seen;
};

static void watch_event(void *arg, const struct sched_event *ev)
{
    struct watched *w = arg;
    size_t found = 0;

    if (ev->kind != SCHED_TOKEN)
        return;
    for (size_t k = 0; k < w->vocab; k++)
        if (ev->top[k].id == 7 || ev->top[k].id == 300) {
            if (ev->watched[ev->top[k].id == 300] != ev->top[k].logprob)
                return;
            found++;
        }
    w->seen += found == 2;
}

static void watched_tokens_are_told_of(void **state)
{
    static const int32_t watch[] = { 7, 300 };
    struct engine *g = engine(64);
    struct sched *s = sched(g, &(struct sched_opts){ .kv_tokens = 1 << 13 });
    int32_t prompt[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    struct watched w = { .vocab = (size_t)g->model->hp->vocab };
    struct sched_request r = { .gen = { .prompt = prompt,
                                        .n_prompt = 8,
                                        .max_new_tokens = 5,
                                        .logprobs = true,
                                        .top_logprobs = w.vocab,
                                        .watch = watch,
                                        .n_watch = 2 },
                               .on_event = watch_event,
                               .arg = &w };
    uint64_t ticket;
    struct err e;

    (void)state;
    sampling_init(&r.gen.sampling);
    OK(sched_submit(s, &r, &ticket, &e), e);
    sched_settle(s);
    assert_int_equal(w.seen, 5);
    sched_free(s);
    engine_close(g);
}

TEST_MAIN(cmocka_unit_test(answers_do_not_depend_on_company),
          cmocka_unit_test(heads_of_logits_change_nothing),
          cmocka_unit_test(a_drafter_changes_nothing), cmocka_unit_test(a_session_with_a_drafter),
          cmocka_unit_test(a_drafter_has_the_same_vocabulary),
          cmocka_unit_test(adapters_meet_in_a_batch),
          cmocka_unit_test(forced_text_comes_in_few_passes),
          cmocka_unit_test(a_shared_prompt_is_computed_once),
          cmocka_unit_test(a_short_prompt_does_not_wait_for_a_long_one),
          cmocka_unit_test(what_cannot_fit_is_refused_with_numbers),
          cmocka_unit_test(who_would_wait_too_long_is_refused), cmocka_unit_test(a_deadline_passes),
          cmocka_unit_test(random_cancellations_leave_nothing),
          cmocka_unit_test(closing_cancels_what_is_left),
          cmocka_unit_test(engines_beside_each_other_take_turns),
          cmocka_unit_test(watched_tokens_are_told_of))
