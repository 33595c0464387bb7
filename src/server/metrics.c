#include "server/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/kvpool.h"

enum { STEPS = 100 };

struct histogram {
    size_t n;
    double le[STEPS];
    uint64_t count[STEPS + 1], total;
    double sum;
};

struct metrics {
    struct histogram h[M_COUNT];
    uint64_t failed[F_COUNT];
    uint64_t ended[FINISH_CANCELLED + 1];
};

/* The buckets are those of the servers that the names come from. */
static const double first_s[] = { .001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                  1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560 };
static const double between_s[] = { .01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                    .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80 };
static const double request_s[] = { .3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                    30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680 };

#define LIST(l) l, ARRAY_LEN(l)
static const struct {
    const char *name;
    const double *le; /* NULL: TGI's buckets */
    size_t n;
} defs[M_COUNT] = {
    [M_DURATION] = { "tgi_request_duration", NULL, 0 },
    [M_VALIDATION] = { "tgi_request_validation_duration", NULL, 0 },
    [M_QUEUE] = { "tgi_request_queue_duration", NULL, 0 },
    [M_INFERENCE] = { "tgi_request_inference_duration", NULL, 0 },
    [M_PER_TOKEN] = { "tgi_request_mean_time_per_token_duration", NULL, 0 },
    [M_GENERATED] = { "tgi_request_generated_tokens", NULL, 0 },
    [M_INPUT] = { "tgi_request_input_length", NULL, 0 },
    [M_MAX_NEW] = { "tgi_request_max_new_tokens", NULL, 0 },
    [M_FIRST] = { "vllm:time_to_first_token_seconds", LIST(first_s) },
    [M_BETWEEN] = { "vllm:inter_token_latency_seconds", LIST(between_s) },
    [M_V_PER_TOKEN] = { "vllm:request_time_per_output_token_seconds", LIST(between_s) },
    [M_V_DURATION] = { "vllm:e2e_request_latency_seconds", LIST(request_s) },
    [M_V_QUEUE] = { "vllm:request_queue_time_seconds", LIST(request_s) },
    [M_V_INFERENCE] = { "vllm:request_inference_time_seconds", LIST(request_s) },
    [M_V_PREFILL] = { "vllm:request_prefill_time_seconds", LIST(request_s) },
    [M_V_DECODE] = { "vllm:request_decode_time_seconds", LIST(request_s) },
    [M_V_INPUT] = { "vllm:request_prompt_tokens", NULL, 0 },
    [M_V_GENERATED] = { "vllm:request_generation_tokens", NULL, 0 },
    [M_V_MAX] = { "vllm:request_params_max_tokens", NULL, 0 },
};
static const char *const failures[F_COUNT] = { "validation", "generation", "overloaded",
                                               "dropped" };

static void buckets(struct histogram *h, enum metric i, size_t max_tokens)
{
    static const double digits[] = { 1, 2, 5 };

    if (defs[i].le) {
        h->n = defs[i].n;
        memcpy(h->le, defs[i].le, h->n * sizeof(*h->le));
    } else if (i >= M_V_INPUT) { /* 1, 2, 5, 10, ... */
        for (double scale = 1; scale <= (double)max_tokens; scale *= 10)
            for (size_t k = 0; k < 3 && digits[k] * scale <= (double)max_tokens; k++)
                h->le[h->n++] = digits[k] * scale;
    } else {
        h->n = i < M_GENERATED ? SCHED_PASS_TIMES : STEPS;
        for (size_t k = 0; k < h->n; k++)
            h->le[k] = i < M_GENERATED ? 1e-4 * pow(1.5, (double)(k + 1))
                                       : (double)max_tokens * (double)(k + 1) / STEPS;
    }
}

struct metrics *metrics_new(size_t max_tokens)
{
    struct metrics *m = xcalloc(1, sizeof(*m));

    for (int i = 0; i < M_COUNT; i++)
        buckets(&m->h[i], (enum metric)i, max_tokens);
    return m;
}

void metrics_free(struct metrics *m)
{
    free(m);
}

void metrics_note(struct metrics *m, enum metric which, double x)
{
    struct histogram *h = &m->h[which];
    size_t k = 0;

    while (k < h->n && x > h->le[k])
        k++;
    h->count[k]++;
    h->total++;
    h->sum += x;
}

void metrics_failed(struct metrics *m, enum failure why)
{
    m->failed[why]++;
}

void metrics_ended(struct metrics *m, const struct gen *g)
{
    const double now = clock_seconds(), total = now - g->call->began;
    const double checked = g->began - g->call->began, inference = now - g->began - g->queued_s;
    const double first = g->first_s - g->queued_s, later = inference - first;

    m->ended[g->finish]++;
    if (g->finish == FINISH_CANCELLED) {
        metrics_failed(m, F_DROPPED);
        return;
    }
    metrics_note(m, M_DURATION, total);
    metrics_note(m, M_VALIDATION, checked);
    metrics_note(m, M_QUEUE, g->queued_s);
    metrics_note(m, M_INFERENCE, inference);
    metrics_note(m, M_PER_TOKEN, inference / (double)(g->n_tokens ? g->n_tokens : 1));
    metrics_note(m, M_GENERATED, (double)g->n_tokens);
    metrics_note(m, M_INPUT, (double)g->n_prompt);
    metrics_note(m, M_MAX_NEW, (double)g->max_new);
    metrics_note(m, M_V_DURATION, total);
    metrics_note(m, M_V_QUEUE, g->queued_s);
    metrics_note(m, M_V_INFERENCE, inference);
    metrics_note(m, M_V_INPUT, (double)g->n_prompt);
    metrics_note(m, M_V_GENERATED, (double)g->n_tokens);
    metrics_note(m, M_V_MAX, (double)g->max_new);
    if (g->n_tokens) {
        metrics_note(m, M_V_PREFILL, first);
        metrics_note(m, M_V_DECODE, later);
    }
    if (g->n_tokens > 1)
        metrics_note(m, M_V_PER_TOKEN, later / (double)(g->n_tokens - 1));
}

static void write_histogram(struct buf *out, const char *name, const char *labels, size_t n,
                            const double *le, const uint64_t *count, double total_s)
{
    const char *comma = *labels ? "," : "";
    uint64_t sum = 0;

    for (size_t k = 0; k < n; k++)
        buf_addf(out, "%s_bucket{%s%sle=\"%.10g\"} %llu\n", name, labels, comma, le[k],
                 (unsigned long long)(sum += count[k]));
    sum += count[n];
    buf_addf(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma,
             (unsigned long long)sum);
    if (*labels)
        buf_addf(out, "%s_sum{%s} %.9g\n%s_count{%s} %llu\n", name, labels, total_s, name, labels,
                 (unsigned long long)sum);
    else
        buf_addf(out, "%s_sum %.9g\n%s_count %llu\n", name, total_s, name, (unsigned long long)sum);
}

/* TGI's view of the passes. It has one that is prompts only and one that is decoding only; here a
 * pass with a prompt in it counts as "prefill". */
static void write_passes(struct buf *out, const struct sched_stats *st, const double *le)
{
    static const char *const names[] = { "tgi_batch_forward_duration",
                                         "tgi_batch_inference_duration" };
    static const char *const counts[] = { "tgi_batch_inference_count",
                                          "tgi_batch_inference_success" };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        buf_addf(out, "# TYPE %s histogram\n", names[i]);
        write_histogram(out, names[i], "method=\"prefill\"", SCHED_PASS_TIMES, le,
                        st->prompts.count, st->prompts.sum_s);
        write_histogram(out, names[i], "method=\"decode\"", SCHED_PASS_TIMES, le, st->decodes.count,
                        st->decodes.sum_s);
    }
    for (size_t i = 0; i < ARRAY_LEN(counts); i++)
        buf_addf(out,
                 "# TYPE %s counter\n%s{method=\"prefill\"} %llu\n%s{method=\"decode\"} %llu\n",
                 counts[i], counts[i], (unsigned long long)st->prompts.total, counts[i],
                 (unsigned long long)st->decodes.total);
}

struct vllm {
    const struct model_stats *of;
    size_t n;
    struct buf *out;
};

/* One line for each model; value: of what its scheduler counts. */
static void vllm(const struct vllm *v, const char *name, const char *kind,
                 double (*value)(const struct sched_stats *st))
{
    buf_addf(v->out, "# TYPE vllm:%s %s\n", name, kind);
    for (size_t i = 0; i < v->n; i++)
        buf_addf(v->out, "vllm:%s{%s} %.17g\n", name, v->of[i].labels, value(&v->of[i].st));
}

#define VALUE(name, expr)                                                                          \
    static double name(const struct sched_stats *st)                                               \
    {                                                                                              \
        return (double)(expr);                                                                     \
    }
VALUE(active, st->active)
VALUE(waiting, st->waiting)
VALUE(prompt_tokens, st->prompt_tokens)
VALUE(cached_tokens, st->cached_tokens)
VALUE(answer_tokens, st->answer_tokens)
VALUE(preempted, st->preempted)
VALUE(guessed, st->guessed)
VALUE(guessed_right, st->guessed_right)
#undef VALUE

static double kv_used(const struct sched_stats *st)
{
    const size_t taken = st->kv_blocks - st->kv_free - st->kv_cached;

    return st->kv_blocks ? (double)taken / (double)st->kv_blocks : 0;
}

static void write_vllm(struct buf *out, const struct metrics *m, const struct model_stats *of,
                       size_t n)
{
    static const char *const ends[] = { "stop", "length", "content_filter", "abort" };
    const struct vllm v = { of, n, out };

    vllm(&v, "num_requests_running", "gauge", active);
    vllm(&v, "num_requests_waiting", "gauge", waiting);
    vllm(&v, "kv_cache_usage_perc", "gauge", kv_used);
    vllm(&v, "gpu_cache_usage_perc", "gauge", kv_used); /* its older name */
    vllm(&v, "prefix_cache_queries_total", "counter", prompt_tokens);
    vllm(&v, "prefix_cache_hits_total", "counter", cached_tokens);
    vllm(&v, "num_preemptions_total", "counter", preempted);
    vllm(&v, "prompt_tokens_total", "counter", prompt_tokens);
    vllm(&v, "generation_tokens_total", "counter", answer_tokens);
    vllm(&v, "spec_decode_num_draft_tokens_total", "counter", guessed);
    vllm(&v, "spec_decode_num_accepted_tokens_total", "counter", guessed_right);
    buf_adds(out, "# TYPE vllm:cache_config_info gauge\n");
    for (size_t i = 0; i < n; i++)
        buf_addf(out, "vllm:cache_config_info{%s,block_size=\"%d\",num_gpu_blocks=\"%zu\"} 1\n",
                 of[i].labels, KV_BLOCK, of[i].st.kv_blocks);
    buf_adds(out, "# TYPE vllm:request_success_total counter\n");
    for (int i = 0; i <= FINISH_CANCELLED; i++)
        buf_addf(out, "vllm:request_success_total{%s,finished_reason=\"%s\"} %llu\n", of->labels,
                 ends[i], (unsigned long long)m->ended[i]);
}

void metrics_write(const struct metrics *m, const struct sched_stats *all,
                   const struct model_stats *of, size_t n, struct buf *out)
{
    buf_adds(out, "# TYPE tgi_request_failure counter\n");
    for (int i = 0; i < F_COUNT; i++)
        buf_addf(out, "tgi_request_failure{err=\"%s\"} %llu\n", failures[i],
                 (unsigned long long)m->failed[i]);
    write_passes(out, all, m->h[M_DURATION].le);
    write_vllm(out, m, of, n);
    for (int i = 0; i < M_COUNT; i++) {
        const struct histogram *h = &m->h[i];

        buf_addf(out, "# TYPE %s histogram\n", defs[i].name);
        write_histogram(out, defs[i].name, i < M_FIRST ? "" : of->labels, h->n, h->le, h->count,
                        h->sum);
    }
}
