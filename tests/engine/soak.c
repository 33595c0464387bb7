/* The scheduler under random load, for long: one answer per request, and nothing left behind.
 * PUNA_SOAK=1 for the full hundred thousand requests. */
#include <dirent.h>
#include <pthread.h>

#include "support.h"
#include "support_model.h"

#include "engine/kvpool.h"
#include "engine/sched.h"

enum { V = 1000, LONGEST = 300, KINDS = 25, RUNS = 1000, FLYING = 64 };

static char *micro;

static struct engine *engine(size_t chunk, int threads)
{
    const struct engine_opts o = { .threads = threads, .isa = -1, .chunk = chunk };
    struct engine *g;
    struct err e;

    OK(engine_open(&g, micro, &o, &e), e);
    return g;
}

static unsigned rnd(unsigned *r)
{
    *r = *r * 1664525u + 1013904223u;
    return *r >> 8;
}

/* Kind i: greedy or sampled; prompts share beginnings of none, one or two blocks. */
static struct gen_request request(unsigned i, int32_t *prompt)
{
    static const int32_t eos[] = { 1009 };
    static const struct logit_bias rut = { .id = 7, .bias = 100 }; /* what guesses find right */
    unsigned r = i * 2654435761u + 1;
    struct gen_request g = { .prompt = prompt, .eos = eos, .n_eos = 1, .logprobs = true };
    const size_t shared = rnd(&r) % 3 * 70;

    sampling_init(&g.sampling);
    g.sampling.temperature = rnd(&r) % 3 ? 0.9 : 0;
    g.sampling.top_p = rnd(&r) % 2 ? 0.9 : 1;
    g.sampling.seed = i;
    g.sampling.bias = &rut;
    g.sampling.n_bias = i % 5 == 0;
    g.n_prompt = shared + 1 + rnd(&r) % 60;
    g.max_new_tokens = 1 + rnd(&r) % 40;
    for (size_t k = 0; k < g.n_prompt; k++)
        prompt[k] = k < shared ? (int32_t)(3 * k % 200 + 10) : (int32_t)(rnd(&r) % V);
    return g;
}

/* ---- those in the air ---- */

struct air {
    pthread_mutex_t lock;
    pthread_cond_t landed;
    size_t flying, ends;
};

static void air_init(struct air *a)
{
    *a = (struct air){ .flying = 0 };
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->landed, NULL);
}

static void air_release(struct air *a)
{
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->landed);
}

/* Waits until at most `most` are left. */
static void air_wait(struct air *a, size_t most)
{
    pthread_mutex_lock(&a->lock);
    while (a->flying > most)
        pthread_cond_wait(&a->landed, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

static void air_add(struct air *a)
{
    pthread_mutex_lock(&a->lock);
    a->flying++;
    pthread_mutex_unlock(&a->lock);
}

static void air_end(struct air *a)
{
    pthread_mutex_lock(&a->lock);
    a->flying--;
    a->ends++;
    pthread_cond_signal(&a->landed);
    pthread_mutex_unlock(&a->lock);
}

/* ---- a thousand runs ---- */

struct got {
    struct air *air;
    struct ids ids;
    struct buf text;
    float logprob[LONGEST];
    size_t ends;
    bool failed;
};

static void on_event(void *arg, const struct sched_event *ev)
{
    struct got *g = arg;

    if (ev->n_text)
        buf_add(&g->text, ev->text, ev->n_text);
    if (ev->kind == SCHED_TOKEN) {
        g->logprob[g->ids.n] = ev->logprob;
        ids_add(&g->ids, ev->id);
    } else if (ev->kind != SCHED_PROMPT) {
        g->ends++;
        g->failed = ev->kind == SCHED_FAILED;
        air_end(g->air);
    }
}

static void got_init(struct got *g, struct air *a)
{
    memset(g, 0, sizeof(*g));
    g->air = a;
    buf_init(&g->text, 1 << 20);
}

static void got_release(struct got *g)
{
    ids_release(&g->ids);
    buf_release(&g->text);
}

/* The truth: each alone, in a session of its own. */
static void alone(struct got *want)
{
    struct engine *g = engine(128, 1);

    for (unsigned i = 0; i < KINDS; i++) {
        int32_t prompt[LONGEST];
        const struct gen_request r = request(i, prompt);
        struct session *s = session_for(g, 512);
        struct gen_result out;
        struct err e;

        OK(generate(s, &r, &out, &e), e);
        got_init(&want[i], NULL);
        ids_append(&want[i].ids, out.ids.p, out.ids.n);
        buf_add(&want[i].text, out.text.p, out.text.len);
        memcpy(want[i].logprob, out.logprob, out.ids.n * sizeof(float));
        gen_result_release(&out);
        session_free(s);
    }
    engine_close(g);
}

static void a_thousand_runs_give_one_answer(void **state)
{
    static struct got want[KINDS], got[RUNS];
    /* batches of up to 64; a cache so small that answers step back; guesses; pieces of 16 rows; no
     * prefix cache */
    static const struct {
        struct sched_opts o;
        size_t chunk;
    } how[] = {
        { { .kv_tokens = 1 << 15, .max_active = 64 }, 512 },
        { { .kv_tokens = 8 * 64, .max_active = 16 }, 64 },
        { { .kv_tokens = 1 << 14, .speculate = 2, .max_active = 2 }, 64 },
        { { .kv_tokens = 1 << 14, .max_active = 16, .step_s = 1e-9 }, 16 },
        { { .kv_tokens = 20 * 64, .max_active = 16, .no_prefix_cache = true }, 96 },
    };
    unsigned rng = 11;
    size_t preempted = 0, cached = 0, right = 0;

    (void)state;
    alone(want);
    for (size_t h = 0; h < ARRAY_LEN(how); h++) {
        const size_t first = h * RUNS / ARRAY_LEN(how), last = (h + 1) * RUNS / ARRAY_LEN(how);
        struct engine *g = engine(how[h].chunk, h ? 1 : 2);
        struct sched_stats st;
        struct sched *s;
        struct air air;
        struct err e;

        air_init(&air);
        OK(sched_new(&s, g, &how[h].o, &e), e);
        for (size_t k = first; k < last; k++) {
            int32_t prompt[LONGEST];
            const struct sched_request r = { .gen = request((unsigned)k % KINDS, prompt),
                                             .on_event = on_event,
                                             .arg = &got[k],
                                             .priority = (int)(rnd(&rng) % 2),
                                             .tenant = rnd(&rng) % 5 };
            uint64_t ticket;

            got_init(&got[k], &air);
            air_wait(&air, rnd(&rng) % FLYING); /* now a crowd, now nobody */
            air_add(&air);
            OK(sched_submit(s, &r, &ticket, &e), e);
        }
        sched_settle(s);
        sched_stats(s, &st);
        preempted += st.preempted;
        cached += st.cached_tokens;
        right += st.guessed_right;
        for (size_t k = first; k < last; k++) {
            const struct got *a = &got[k], *b = &want[k % KINDS];

            assert_false(a->failed);
            assert_int_equal(a->ends, 1);
            assert_int_equal(a->ids.n, b->ids.n);
            assert_memory_equal(a->ids.p, b->ids.p, a->ids.n * sizeof(int32_t));
            assert_memory_equal(a->logprob, b->logprob, a->ids.n * sizeof(float));
            assert_int_equal(a->text.len, b->text.len);
            assert_memory_equal(a->text.p, b->text.p, a->text.len);
            got_release(&got[k]);
        }
        sched_free(s);
        engine_close(g);
        air_release(&air);
    }
    assert_true(preempted > 0 && cached > 0 && right > 0);
    for (unsigned i = 0; i < KINDS; i++)
        got_release(&want[i]);
}

/* ---- cancellations ---- */

/* Cancels itself at its k-th token, on the engine's thread. */
struct flight {
    struct air *air;
    struct sched *s;
    uint64_t ticket; /* 0 = not known yet */
    size_t tokens, cancel_at, ends;
};

static void on_flight(void *arg, const struct sched_event *ev)
{
    struct flight *f = arg;

    if (ev->kind == SCHED_TOKEN) {
        pthread_mutex_lock(&f->air->lock);
        const uint64_t ticket = ++f->tokens == f->cancel_at ? f->ticket : 0;

        pthread_mutex_unlock(&f->air->lock);
        if (ticket)
            sched_cancel(f->s, ticket);
    } else if (ev->kind != SCHED_PROMPT) {
        f->ends++;
        air_end(f->air);
    }
}

static size_t open_files(void)
{
    DIR *d = opendir("/proc/self/fd");
    size_t n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void random_cancellations_leave_nothing(void **state)
{
    const bool full = getenv("PUNA_SOAK") != NULL;
    const size_t N = full ? 100000 : 4000, files = open_files();
    struct flight *f = calloc(N, sizeof(*f));
    struct engine *g = engine(64, 1);
    unsigned rng = 5;
    struct sched_stats st;
    struct sched *s;
    struct air air;
    struct err e;

    (void)state;
    assert_non_null(f);
    air_init(&air);
    OK(sched_new(&s, g,
                 &(struct sched_opts){ .kv_tokens = 12 * 64, .max_active = 8, .speculate = 2 }, &e),
       e);
    for (size_t i = 0; i < N; i++) {
        int32_t prompt[LONGEST];
        const struct sched_request r = { .gen = request(rnd(&rng) % KINDS, prompt),
                                         .on_event = on_flight,
                                         .arg = &f[i],
                                         .salt = rnd(&rng) % 2,
                                         .priority = (int)(rnd(&rng) % 2) };
        uint64_t ticket;

        f[i] = (struct flight){ .air = &air, .s = s, .cancel_at = rnd(&rng) % 60 };
        air_wait(&air, rnd(&rng) % FLYING);
        air_add(&air);
        OK(sched_submit(s, &r, &ticket, &e), e);
        pthread_mutex_lock(&air.lock);
        f[i].ticket = ticket;
        pthread_mutex_unlock(&air.lock);
        if (rnd(&rng) % 3 == 0) { /* one of the latest, wherever it is; it may have ended */
            const size_t back = rnd(&rng) % 8;

            sched_cancel(s, f[i - (back < i ? back : i)].ticket);
        }
    }
    sched_settle(s); /* and audits the books of the pool */
    sched_stats(s, &st);
    assert_int_equal(air.ends, N);
    for (size_t i = 0; i < N; i++)
        assert_int_equal(f[i].ends, 1);
    assert_int_equal(st.finished + st.cancelled, N);
    assert_int_equal(st.failed, 0);
    assert_true(st.cancelled > N / 10 && st.finished > N / 10 && st.preempted > 0);
    assert_int_equal(st.active + st.waiting, 0);
    assert_int_equal(st.kv_free + st.kv_cached, st.kv_blocks);
    assert_int_equal(open_files(), files);
    print_message("%zu requests, %zu cancelled, %zu stepped back\n", N, (size_t)st.cancelled,
                  (size_t)st.preempted);
    sched_free(s);
    engine_close(g);
    air_release(&air);
    free(f);
}

static int setup(void **state)
{
    (void)state;
    micro = micro_new();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    quantised_free(micro);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(a_thousand_runs_give_one_answer),
                                        cmocka_unit_test(random_cancellations_leave_nothing) };

    return cmocka_run_group_tests_name(__FILE__, tests, setup, teardown);
}
