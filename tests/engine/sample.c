/* Sampling against direct, unclever restatements of each rule. */
#include "support.h"

#include <math.h>

#include "base/rng.h"
#include "engine/sample.h"

enum { V = 1000 };

static float *logits(uint64_t seed)
{
    float *x = random_floats(V, seed);

    for (size_t i = 0; i < V; i++)
        x[i] *= 8;
    return x;
}

static struct sampler *sampler(void)
{
    struct sampler *s;
    struct err e;

    OK(sampler_new(&s, V, &e), e);
    return s;
}

static void greedy_takes_the_lowest_of_equals(void **state)
{
    struct sampler *s = sampler();
    struct sampling p;
    float x[V] = { 0 };

    (void)state;
    sampling_init(&p);
    p.temperature = 0;
    x[7] = x[3] = x[900] = 5;
    assert_int_equal(sampler_pick(s, &p, x, NULL, 0, 0), 3);
    x[0] = NAN;
    assert_int_equal(sampler_pick(s, &p, x, NULL, 0, 0), -1);
    x[0] = INFINITY;
    assert_int_equal(sampler_pick(s, &p, x, NULL, 0, 0), -1);
    sampler_free(s);
}

/* Which ids the limits allow, by sorting everything. */
static void allowed(bool *ok, const float *x, const struct sampling *p)
{
    double w[V], sum = 0, mass = 0;
    size_t order[V];
    float max = -INFINITY;

    for (size_t i = 0; i < V; i++) {
        max = fmaxf(max, x[i]);
        order[i] = i;
        ok[i] = false;
    }
    for (size_t i = 1; i < V; i++) /* insertion sort: likeliest first */
        for (size_t j = i; j > 0 && x[order[j]] > x[order[j - 1]]; j--) {
            const size_t t = order[j];

            order[j] = order[j - 1];
            order[j - 1] = t;
        }
    const size_t k = p->top_k ? (size_t)p->top_k : V;

    for (size_t i = 0; i < k; i++)
        sum += w[i] = exp(((double)x[order[i]] - max) / p->temperature);
    for (size_t i = 0; i < k; i++) {
        if (w[i] >= p->min_p)
            ok[order[i]] = true;
        mass += w[i];
        if (p->top_p < 1 && mass >= p->top_p * sum)
            break;
    }
}

static void limits_keep_what_they_should(void **state)
{
    static const struct sampling cases[] = {
        { .temperature = 1, .top_p = 1, .top_k = 1, .repetition_penalty = 1 },
        { .temperature = 1, .top_p = 1, .top_k = 40, .repetition_penalty = 1 },
        { .temperature = 0.6, .top_p = 0.9, .repetition_penalty = 1 },
        { .temperature = 30, .top_p = 0.95, .repetition_penalty = 1 },
        { .temperature = 2, .top_p = 0.7, .top_k = 300, .repetition_penalty = 1 },
        { .temperature = 1.5, .top_p = 1, .min_p = 0.1, .repetition_penalty = 1 },
        { .temperature = 5, .top_p = 0.8, .top_k = 500, .min_p = 0.2, .repetition_penalty = 1 },
    };
    struct sampler *s = sampler();

    (void)state;
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        float *x = logits(c + 1);
        bool ok[V], seen[V] = { false };
        size_t n_ok = 0, n_seen = 0;

        allowed(ok, x, &cases[c]);
        for (uint64_t seed = 0; seed < 4000; seed++) {
            struct sampling p = cases[c];

            p.seed = seed;
            const int32_t id = sampler_pick(s, &p, x, NULL, 0, 0);

            assert_in_range(id, 0, V - 1);
            if (!ok[id])
                fail_msg("case %zu drew %d, which the limits exclude", c, id);
            seen[id] = true;
        }
        for (size_t i = 0; i < V; i++) {
            n_ok += ok[i];
            n_seen += seen[i];
        }
        if (n_ok <= 40)
            assert_true(n_seen * 2 >= n_ok); /* the tail is drawn too */
        free(x);
    }
    sampler_free(s);
}

static void draws_follow_the_probabilities(void **state)
{
    struct sampler *s = sampler();
    struct sampling p;
    float x[V];
    int count[3] = { 0 };
    enum { DRAWS = 20000 };

    (void)state;
    sampling_init(&p);
    for (size_t i = 0; i < V; i++)
        x[i] = -50;
    x[10] = logf(0.5f);
    x[20] = logf(0.3f);
    x[30] = logf(0.2f);
    for (uint64_t i = 0; i < DRAWS; i++) {
        int32_t ids[1] = { 0 };

        p.seed = i;
        const int32_t id = sampler_pick(s, &p, x, ids, 0, 0);

        assert_true(id == 10 || id == 20 || id == 30);
        count[id / 10 - 1]++;
    }
    /* five standard deviations: chance alone fails once in a million */
    assert_true(fabs(count[0] - 0.5 * DRAWS) < 5 * sqrt(DRAWS * 0.25));
    assert_true(fabs(count[1] - 0.3 * DRAWS) < 5 * sqrt(DRAWS * 0.21));
    sampler_free(s);
}

static void same_seed_same_draw(void **state)
{
    struct sampler *a = sampler(), *b = sampler();
    float *x = logits(3), *other = logits(4);
    int32_t ids[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    struct sampling p;
    bool differs = false;

    (void)state;
    sampling_init(&p);
    p.seed = 42;
    for (size_t n = 2; n <= 8; n++) {
        (void)sampler_pick(b, &p, other, ids, 2, n); /* an unrelated draw changes nothing */
        assert_int_equal(sampler_pick(a, &p, x, ids, 2, n), sampler_pick(b, &p, x, ids, 2, n));
        differs |= sampler_pick(a, &p, x, ids, 2, n) != sampler_pick(a, &p, x, ids, 2, 2);
    }
    assert_true(differs); /* and the counter matters */
    free(x);
    free(other);
    sampler_free(a);
    sampler_free(b);
}

static void penalties_and_bias(void **state)
{
    struct sampler *s = sampler();
    struct sampling p;
    const int32_t ids[] = { 5, 5, 6, 7, 7, 7 }; /* prompt 5 5 6, answer 7 7 7 */
    float x[V] = { 0 };

    (void)state;
    sampling_init(&p);
    p.temperature = 0;
    x[5] = 3.0f;
    x[7] = 2.9f;
    x[8] = 1.6f;
    p.repetition_penalty = 1.9; /* 5 -> 1.58, 7 -> 1.53: once each, whatever the count */
    assert_int_equal(sampler_pick(s, &p, x, ids, 3, 6), 8);
    p.repetition_penalty = 1.8; /* 5 -> 1.67 */
    assert_int_equal(sampler_pick(s, &p, x, ids, 3, 6), 5);
    p.repetition_penalty = 1;
    x[7] = 5.0f;
    p.frequency_penalty = 0.6; /* 7 -> 5 - 1.8 = 3.2 */
    assert_int_equal(sampler_pick(s, &p, x, ids, 3, 6), 7);
    p.presence_penalty = 0.3; /* 7 -> 2.9; the prompt's 5 is not touched */
    assert_int_equal(sampler_pick(s, &p, x, ids, 3, 6), 5);
    const struct logit_bias bias[] = { { 999, 4 },
                                       { 5000, 100 } }; /* an id beyond the vocabulary is ignored */

    p.bias = bias;
    p.n_bias = 2;
    assert_int_equal(sampler_pick(s, &p, x, ids, 3, 6), 999);
    assert_true(x[7] == 5.0f); /* the caller's logits stay */
    sampler_free(s);
}

static void top_is_sorted_and_normalised(void **state)
{
    struct sampler *s = sampler();
    float *x = logits(9);
    struct top_logprob top[V];
    double sum = 0;

    (void)state;
    sampler_top(s, x, V, top);
    for (size_t i = 0; i < V; i++) {
        sum += exp((double)top[i].logprob);
        if (i > 0)
            assert_true(top[i].logprob <= top[i - 1].logprob);
    }
    assert_true(fabs(sum - 1) < 1e-4);
    assert_true(fabsf(sampler_logprob(s, x, top[5].id) - top[5].logprob) < 1e-6f);
    free(x);
    sampler_free(s);
}

static void ranges_are_checked(void **state)
{
    struct sampling p;
    struct err e;

    (void)state;
    sampling_init(&p);
    assert_int_equal(sampling_check(&p, &e), 0);
#define BAD(field, value)                                                                          \
    sampling_init(&p);                                                                             \
    p.field = (value);                                                                             \
    assert_int_equal(sampling_check(&p, &e), -1);                                                  \
    assert_non_null(strstr(e.msg, #field))
    BAD(temperature, -1);
    BAD(temperature, NAN);
    BAD(temperature, INFINITY);
    BAD(top_p, 0);
    BAD(top_p, 1.1);
    BAD(top_k, -1);
    BAD(min_p, 2);
    BAD(repetition_penalty, 0);
    BAD(frequency_penalty, 3);
    BAD(presence_penalty, -3);
#undef BAD
}

/* A token out of the head of a row is the one out of all of it, or none. */
static void heads_tell_the_same(void **state)
{
    static const double temperatures[] = { 0, 0.01, 0.7, 1, 3, 40 },
                        top_ps[] = { 1, 0.95, 0.5, 1e-3 };
    static const double min_ps[] = { 0, 0.02, 1e-9 }, offs[] = { 0, PICK_SLACK, -PICK_SLACK };
    static const int64_t top_ks[] = { 0, 1, 40, 256, 300, V };
    struct sampler *s = sampler();
    uint64_t few[(V + 63) / 64] = { 0 }, most[(V + 63) / 64];
    static const struct logit_bias bias[] = { { 3, 5 }, { 999, -3 }, { 3, 0.1f }, { V, 9 } };
    static const int32_t ids[] = { 3, 0, 999, 7, 3, 7, 7, 12, 0, 500, 3 };
    struct pick_changes changes = { 0 };
    size_t told = 0, asked = 0;
    struct pick_list l;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(most); i++)
        most[i] = rng_u64(5, i) | rng_u64(6, i);
    for (size_t i = 0; i < 70; i++)
        few[i * 13 % V / 64] |= 1ull << i * 13 % V % 64;
    const uint64_t *const masks[] = { NULL, few, most };

    for (size_t n = 0; n < 6 * 4 * 3 * 6 * 3; n++) {
        float *x = logits(n % 7);
        struct sampling p;

        if (n % 5 == 0)
            for (size_t i = 0; i < V; i++) /* many that are equal, zeros of both signs among them */
                x[i] = roundf(x[i] / 2);
        x[n % V] = n % 11 == 0 ? NAN : n % 13 == 0 ? -INFINITY : x[n % V];
        sampling_init(&p);
        p.temperature = temperatures[n % 6];
        p.top_p = top_ps[n / 6 % 4];
        p.min_p = min_ps[n / 24 % 3];
        p.top_k = top_ks[n / 72 % 6];
        p.allowed = masks[n / 432];
        p.seed = n;
        p.bias = bias;
        if (n % 9 == 4) { /* of which biases and penalties go over the same ids */
            p.n_bias = ARRAY_LEN(bias);
            p.repetition_penalty = n % 2 ? 1.2 : 0.8;
            p.frequency_penalty = n % 4 ? 0.5 : -1;
            p.presence_penalty = n % 6 ? 0.3 : 0;
        }
        bool lists = false;

        for (size_t k = 0; k < 8; k++) {
            struct pick_ask ask = { 0 };

            lists = sampling_ask(&p, V, k, &ask);
            sampler_changes(s, &p, ids, 3, 3 + k, &changes);
            assert_true(p.n_bias > 0 || changes.n == 0);
            ask.change = changes.p;
            ask.n_change = changes.n;
            if (k == 0 || ask.draw || ask.part > 0 || p.n_bias)
                pick_list_ref(&l, x, V, &ask);
            if (!ask.draw && (k == 0 || ask.part > 0 || p.n_bias))
                l.sum *= 1 + offs[n % 3];
            const int32_t id = sampler_pick_list(&p, &l, V, k);
            const int32_t want = sampler_pick(s, &p, x, ids, 3, 3 + k);

            if (id >= 0 && id != want)
                fail_msg("%zu: %d for %d at temperature %g, top-k %d, top-p %g, min-p %g", n, id,
                         want, p.temperature, (int)p.top_k, p.top_p, p.min_p);
            asked += lists && want >= 0;
            told += id >= 0;
        }
        free(x);
    }
    assert_true(told > asked * 9 / 10); /* not a top-k above 256, nor where two are too near */
    free(changes.p);
    sampler_free(s);
}

TEST_MAIN(cmocka_unit_test(greedy_takes_the_lowest_of_equals),
          cmocka_unit_test(limits_keep_what_they_should),
          cmocka_unit_test(draws_follow_the_probabilities), cmocka_unit_test(same_seed_same_draw),
          cmocka_unit_test(penalties_and_bias), cmocka_unit_test(top_is_sorted_and_normalised),
          cmocka_unit_test(ranges_are_checked), cmocka_unit_test(heads_tell_the_same))
