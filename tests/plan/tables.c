/* Published sizes: parameters, weight files, caches. */
#include "support.h"

#include "plan/plan.h"

static const struct hparams *hp_of(const char *key)
{
    const struct plan_model *m = plan_model_find(key);

    assert_non_null(m);
    return &m->hp;
}

static double gb(const char *key, const char *scheme)
{
    static struct plan_weights w;
    const int s = scheme_from_name(scheme);

    assert_true(s >= 0);
    plan_weights_scheme(&w, hp_of(key), (enum scheme)s);
    return (double)plan_weights_total(&w) / 1e9;
}

/* the counts that the repositories' safetensors headers add up to */
static void parameters(void **state)
{
    static const struct {
        const char *key;
        uint64_t n;
    } want[] = {
        { "1b", 1235814400 },          { "3b", 3212749824 },
        { "8b", 8030261248 },          { "70b", 70553706496 },
        { "405b", 405853388800 },      { "guard-8b", 8030261248 },
        { "guard-1b", 1235814400 },    { "smollm2-135m", 134515008 },
        { "smollm2-360m", 361821120 }, { "smollm2-1.7b", 1711376384 },
    };
    static struct plan_weights w;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        plan_weights_scheme(&w, hp_of(want[i].key), SCHEME_BF16);
        assert_int_equal(w.params, want[i].n);
        assert_int_equal(plan_weights_total(&w), 2 * want[i].n);
    }
    /* the first upload of the 405B held each key/value head twice */
    plan_weights_scheme(&w, hp_of("405b-16kv"), SCHEME_BF16);
    assert_int_equal(w.params - 405853388800, 2 * (uint64_t)126 * 1024 * 16384);
}

/* GB of the files that are published (Hugging Face listings) */
static void files(void **state)
{
    static const struct {
        const char *key, *scheme;
        double gb;
    } want[] = {
        { "8b", "bf16", 16.06 },        { "8b", "fp8", 9.08 },
        { "8b", "awq", 5.73 },          { "8b", "nf4", 6.03 },
        { "8b", "nf4-dq", 5.70 },       { "8b", "q4_k_m", 4.913 },
        { "8b", "q4_0", 4.653 },        { "70b", "bf16", 141.1 },
        { "70b", "fp8", 72.66 },        { "70b", "int4", 39.77 },
        { "70b", "nf4", 42.7 },         { "70b", "nf4-dq", 39.5 },
        { "405b", "bf16", 811.7 },      { "405b", "fp8", 410.1 },
        { "405b", "fp8-meta", 487.2 },  { "405b", "gptq", 217.1 },
        { "405b", "nf4", 234.3 },       { "405b", "nf4-dq", 215.6 },
        { "405b-16kv", "bf16", 820.2 }, { "405b-16kv", "fp8-meta", 495.6 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        const double x = gb(want[i].key, want[i].scheme);

        if (x < want[i].gb * 0.999 || x > want[i].gb * 1.001)
            fail_msg("%s %s: %.3f GB, published %.3f", want[i].key, want[i].scheme, x, want[i].gb);
    }
}

static struct plan_query query(const char *key, const struct plan_weights *w)
{
    return (struct plan_query){ .hp = hp_of(key),
                                .w = w,
                                .kv = ENC_BF16,
                                .ctx = 8192,
                                .sequences = 1,
                                .chunk = 512,
                                .tp = 1,
                                .pp = 1 };
}

static void cache_per_token(void **state)
{
    static const struct {
        const char *key;
        size_t bytes;
    } want[] = {
        { "8b", 131072 }, { "70b", 327680 }, { "405b", 516096 }, { "405b-16kv", 1032192 }
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        struct plan_query q = query(want[i].key, NULL);

        assert_int_equal(plan_kv_per_token(&q), want[i].bytes);
        q.kv = ENC_F8_E4M3;
        assert_int_equal(plan_kv_per_token(&q), want[i].bytes / 2);
    }
}

/* Layers in host memory: the fewest, spread out, and what is left on the device adds up. */
static void offload(void **state)
{
    static struct plan_weights w;
    struct plan_query q = query("70b", &w);
    struct plan_use all, use;
    struct plan_offload o;
    size_t largest;

    (void)state;
    plan_weights_scheme(&w, q.hp, SCHEME_BF16);
    plan_infer(&all, &q);
    assert_true(plan_offload(&o, &q, all.total));
    assert_true(o.away == 0 && o.host == 0 && o.device == all.total);
    for (int64_t n = 3; n <= 80; n += 11) {
        int64_t found = 0, first = -1, last = -1;

        for (int64_t l = 0; l < 80; l++) {
            if (!layer_away(80, n, l))
                continue;
            /* neighbours are as far apart as can be */
            assert_true(last < 0 || l - last == 80 / n || l - last == (80 + n - 1) / n);
            first = first < 0 ? l : first;
            last = l;
            found++;
        }
        assert_int_equal(found, n);
        assert_int_equal(plan_away_bytes(&w, n, &largest), (size_t)n * w.layer[0]);
        assert_int_equal(largest, w.layer[0]);
        q.away = n;
        plan_infer(&use, &q);
        assert_int_equal(use.total, all.total - (size_t)(n - 2) * w.layer[0]);
        q.away = 0;
        assert_true(plan_offload(&o, &q, use.total));
        assert_true(o.away == n && o.device == use.total && o.host == (size_t)n * w.layer[0]);
        assert_true(plan_offload(&o, &q, use.total - 1) == (n < 80));
        assert_int_equal(o.away, n < 80 ? n + 1 : 80);
    }
    /* what passes through is bound by the way, not by the device */
    const double before = plan_decode_rate(&q, 1e12, 0);

    q.away = 80;
    assert_true(plan_decode_rate(&q, 1e12, 0) < before / 30);
}

/* What devices hold adds up to the whole, whatever the cut. */
static void splits(void **state)
{
    static struct plan_weights w;
    struct plan_query q = query("70b", &w);
    struct plan_use one, cut;
    struct err e;

    (void)state;
    plan_weights_scheme(&w, q.hp, SCHEME_BF16);
    plan_infer(&one, &q);
    assert_int_equal(one.weights, plan_weights_total(&w));
    assert_int_equal(one.kv_cache, (size_t)8192 * 327680);
    q.tp = 8;
    plan_infer(&cut, &q);
    assert_int_equal(cut.kv_cache, one.kv_cache / 8);
    /* norms are on every device */
    assert_int_equal(cut.weights - one.weights / 8, (80 * 2 + 1) * 8192 * 2 * 7 / 8);
    q.tp = 16; /* 8 key/value heads on 16 devices: each has one */
    plan_infer(&cut, &q);
    assert_int_equal(cut.kv_cache, one.kv_cache / 8);
    q.tp = 1;
    q.pp = 4;
    plan_infer(&cut, &q);
    assert_int_equal(cut.kv_cache, one.kv_cache / 4);
    assert_true(cut.weights > one.weights / 4 && cut.weights < one.weights / 4 + w.embed);
    q.pp = 1;
    q.tp = 3;
    assert_int_equal(plan_query_check(&q, &e), -1);
    assert_non_null(strstr(e.msg, "do not divide 64 heads"));
    q.tp = 1;
    q.pp = 81;
    assert_int_equal(plan_query_check(&q, &e), -1);
    q.pp = 1;
    q.ctx = 131073;
    assert_int_equal(plan_query_check(&q, &e), -1);
    q.ctx = 131072;
    assert_int_equal(plan_query_check(&q, &e), 0);
}

/* One block or one sequence more than the answer does not fit. */
static void limits(void **state)
{
    static struct plan_weights w;
    struct plan_query q = query("8b", &w), more;
    struct plan_device d;
    struct plan_use u;
    struct err e;

    (void)state;
    plan_weights_scheme(&w, q.hp, SCHEME_BF16);
    OK(plan_device_find(&d, "rtx4090", &e), e);
    const size_t ctx = plan_longest_ctx(&q, d.memory), n = plan_most_sequences(&q, d.memory);

    assert_true(ctx > 32768 && ctx < 131072 && ctx % KV_BLOCK == 0 && n >= 1);
    more = q;
    more.ctx = ctx;
    plan_infer(&u, &more);
    assert_true(u.total <= d.memory);
    more.ctx = ctx + 1;
    plan_infer(&u, &more);
    assert_true(u.total > d.memory);
    more = q;
    more.sequences = n;
    plan_infer(&u, &more);
    assert_true(u.total <= d.memory);
    more.sequences = n + 1;
    plan_infer(&u, &more);
    assert_true(u.total > d.memory);
    assert_int_equal(plan_longest_ctx(&q, 1), 0);
    assert_int_equal(plan_most_sequences(&q, 1), 0);
    assert_int_equal(plan_longest_ctx(&q, SIZE_MAX / 2), 131072);
    /* beyond the address space: fits nowhere instead of wrapping round */
    q.ctx = 131072;
    q.sequences = SIZE_MAX / 64;
    plan_infer(&u, &q);
    assert_true(u.total == SIZE_MAX);
}

static void devices(void **state)
{
    struct plan_device d;
    struct err e;

    (void)state;
    OK(plan_device_find(&d, "a100-40x8", &e), e);
    assert_int_equal(d.count, 8);
    assert_int_equal(d.memory, (size_t)40960 << 20);
    OK(plan_device_find(&d, "L40S", &e), e);
    assert_int_equal(d.count, 1);
    for (const char **p = (const char *[]){ "", "h100x", "h100x0", "h100x-1", "h100x8x", "h1",
                                            "h100x99999999999", "a100-8", NULL };
         *p; p++)
        assert_int_equal(plan_device_find(&d, *p, &e), -1);
    assert_non_null(strstr(e.msg, "a100-40"));
    assert_int_equal(scheme_from_name("AWQ"), SCHEME_INT4);
    assert_int_equal(scheme_from_name("gptq"), SCHEME_INT4);
    assert_int_equal(scheme_from_name("aw"), -1);
    assert_int_equal(scheme_from_name(""), -1);
}

/* A bound: weights and cache read once a step. */
static void decode(void **state)
{
    static struct plan_weights w;
    struct plan_query q = query("8b", &w);

    (void)state;
    plan_weights_scheme(&w, q.hp, SCHEME_BF16);
    const double read = (double)(plan_weights_total(&w) - w.embed),
                 one = plan_decode_rate(&q, read, 0);

    assert_true(one > 0.9999 && one < 1.0001);
    q.sequences = 4;
    assert_true(plan_decode_rate(&q, read, 0) > 3.9999 * one);
    assert_true(plan_decode_rate(&q, read, 8192) < 4 * one);
    q.sequences = 1;
    q.pp = 4; /* stages follow one another */
    assert_true(plan_decode_rate(&q, read, 0) < 1.0001 * one);
    q.pp = 1;
    q.tp = 8; /* parts are read at the same time */
    assert_true(plan_decode_rate(&q, read, 0) > 7.9 * one);
}

TEST_MAIN(cmocka_unit_test(parameters), cmocka_unit_test(files), cmocka_unit_test(cache_per_token),
          cmocka_unit_test(offload), cmocka_unit_test(splits), cmocka_unit_test(limits),
          cmocka_unit_test(devices), cmocka_unit_test(decode))
