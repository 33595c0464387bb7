/* health.c - GET /health, /livez, /ping, /readyz and /metrics. */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "engine/kvpool.h"
#include "server/http.h"
#include "server/metrics.h"

/* A pass of the largest model takes seconds; one that takes a minute does not come back. */
enum { HUNG_S = 60 };

/* Ready: the engine moves, and new requests are taken. */
void health(struct call *c)
{
    struct sched_stats st;

    served_stats(c->s->models, &st);
    if (server_draining(c->s) || st.last_step_s > HUNG_S)
        reply_status(c, 503, "healthcheck", NULL, "unhealthy");
    else
        reply_text(c, 200, NULL, NULL, 0);
}

/* Alive: the engine moves. */
void livez(struct call *c)
{
    struct sched_stats st;

    served_stats(c->s->models, &st);
    if (st.last_step_s > HUNG_S)
        reply_status(c, 503, "healthcheck", NULL, "the engine has not moved for a minute");
    else
        reply_text(c, 200, NULL, NULL, 0);
}

static void metric(struct buf *b, const char *name, const char *kind, const char *help, double v)
{
    buf_addf(b, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", name, help, name, kind, name, v);
}

/* A label's value: quotes, backslashes and newlines escaped. */
static void add_label(struct buf *b, const char *s)
{
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            buf_addc(b, '\\');
        if (*s == '\n')
            buf_adds(b, "\\n");
        else
            buf_addc(b, *s);
    }
}

static void write_models(const struct call *c, const struct sched_stats *all, struct buf *out)
{
    struct model_stats *of;
    struct buf labels;
    size_t n = 0, i = 0;

    for (const struct served *m = c->s->models; m; m = m->next)
        n++;
    of = xcalloc(n, sizeof(*of));
    for (const struct served *m = c->s->models; m; m = m->next, i++) {
        buf_init(&labels, 1 << 16);
        buf_addf(&labels, "engine=\"%zu\",model_name=\"", i);
        add_label(&labels, m->name);
        buf_adds(&labels, "\"");
        of[i].labels = xstrdup(labels.p);
        sched_stats(m->sched, &of[i].st);
        buf_release(&labels);
    }
    metrics_write(c->s->metrics, all, of, n, out);
    for (i = 0; i < n; i++)
        free((void *)(uintptr_t)of[i].labels);
    free(of);
}

void metrics(struct call *c)
{
    struct sched_stats st;
    struct http_counts n;
    struct buf b;

    served_stats(c->s->models, &st);
    server_counts(c->s, &n);
    buf_init(&b, 1 << 20);
    metric(&b, "tgi_request_count", "counter", "requests taken", (double)st.submitted);
    metric(&b, "tgi_request_success", "counter", "requests answered", (double)st.finished);
    metric(&b, "tgi_queue_size", "gauge", "requests that wait", (double)st.waiting);
    metric(&b, "tgi_batch_current_size", "gauge", "answers in the batch", (double)st.active);
    metric(&b, "tgi_batch_current_max_tokens", "gauge", "tokens that the batch holds",
           (double)((st.kv_blocks - st.kv_free - st.kv_cached) * KV_BLOCK));
    metric(&b, "tgi_batch_total_tokens", "gauge", "tokens that the KV cache holds at most",
           (double)(st.kv_blocks * KV_BLOCK));
    metric(&b, "puna_requests_cancelled", "counter", "requests whose client left",
           (double)st.cancelled);
    metric(&b, "puna_requests_failed", "counter", "requests that failed", (double)st.failed);
    metric(&b, "puna_preemptions", "counter", "answers that stepped back for memory",
           (double)st.preempted);
    metric(&b, "puna_prompt_tokens", "counter", "tokens of prompts taken",
           (double)st.prompt_tokens);
    metric(&b, "puna_prompt_tokens_cached", "counter", "of these, found in the prefix cache",
           (double)st.cached_tokens);
    metric(&b, "puna_prompt_tokens_computed", "counter", "prompt rows computed",
           (double)st.computed_tokens);
    metric(&b, "puna_answer_tokens", "counter", "tokens generated", (double)st.answer_tokens);
    metric(&b, "puna_guessed_tokens", "counter", "tokens guessed ahead and checked",
           (double)st.guessed);
    metric(&b, "puna_guessed_tokens_right", "counter", "of these, right", (double)st.guessed_right);
    metric(&b, "puna_draft_failures", "counter", "passes of the draft model that failed",
           (double)st.draft_failures);
    metric(&b, "puna_steps", "counter", "forward passes", (double)st.steps);
    metric(&b, "puna_busy_seconds", "counter", "time in forward passes", st.busy_s);
    metric(&b, "puna_expected_wait_seconds", "gauge", "to the first token of a request now",
           st.wait_s);
    metric(&b, "puna_kv_blocks", "gauge", "blocks of the KV cache", (double)st.kv_blocks);
    metric(&b, "puna_kv_blocks_free", "gauge", "blocks that hold nothing", (double)st.kv_free);
    metric(&b, "puna_kv_blocks_cached", "gauge", "blocks kept for prompts to come",
           (double)st.kv_cached);
    metric(&b, "puna_http_requests", "counter", "HTTP requests", (double)n.requests);
    metric(&b, "puna_http_calls", "gauge", "HTTP requests being answered", (double)n.calls);
    write_models(c, &st, &b);
    reply_text(c, 200, "text/plain; version=0.0.4; charset=utf-8", b.p, b.len);
    buf_release(&b);
}
