#include "server/gen.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "server/adapters.h"
#include "server/metrics.h"
#include "server/watch.h"

enum { TEXT_MAX = 64 << 20 };

void letter_free(struct letter *l)
{
    free(l->top);
    free(l->score);
    free(l->score_top);
    free(l->embedding);
    free(l->text);
    free(l);
}

void gen_arrive(struct letter *l)
{
    struct gen *g = l->gen;
    struct sched_event *ev = &l->ev;
    struct call *c = g->call;

    if (ev->n_text)
        buf_add(&g->text, ev->text, ev->n_text);
    if (ev->kind == SCHED_PROMPT) {
        g->n_prompt = ev->n_prompt;
        g->cached = ev->cached;
        g->queued_s = ev->queued_s;
    } else if (ev->kind == SCHED_TOKEN) {
        const double now = clock_seconds();
        struct metrics *m = c->s->metrics;

        if (g->n_tokens++ == 0) {
            g->first_s = now - g->began;
            metrics_note(m, M_FIRST, now - c->began);
        } else {
            metrics_note(m, M_BETWEEN, now - g->token_at);
        }
        g->token_at = now;
    } else {
        g->ended = true;
        g->failed = ev->kind == SCHED_FAILED;
        g->finish = ev->finish;
        g->stop_id = ev->stop_id;
        if (g->failed) {
            g->err = l->err;
            metrics_failed(c->s->metrics, F_GENERATION);
        } else {
            metrics_ended(c->s->metrics, g);
        }
    }
    const bool ended = g->ended;

    g->on_event(g, ev);
    letter_free(l);
    if (ended) {
        adapters_leave(c->m->adapters, g->adapter);
        call_gen_ended(c);
    }
}

static void deliver(void *arg)
{
    struct letter *l = arg;

    if (l->gen->watch)
        watch_add(l->gen->watch, l);
    else
        gen_arrive(l);
}

/* The answer to an input that a guard refused: none. */
static void refuse(struct gen *g)
{
    struct letter *l = xcalloc(1, sizeof(*l));

    g->found = g->call->refusal;
    l->gen = g;
    l->ev = (struct sched_event){ .kind = SCHED_DONE, .finish = FINISH_FILTER, .stop_id = -1 };
    server_post(g->call->s, deliver, l);
}

static void *copy(const void *p, size_t n)
{
    return memcpy(xmalloc(n + 1), p, n);
}

/* On the engine's thread. */
static void on_event(void *arg, const struct sched_event *ev)
{
    struct gen *g = arg;
    struct letter *l = xcalloc(1, sizeof(*l));

    l->gen = g;
    l->ev = *ev;
    if (ev->n_text)
        l->ev.text = l->text = xmemdup0(ev->text, ev->n_text);
    if (ev->top)
        l->ev.top = l->top = copy(ev->top, g->top * sizeof(*l->top));
    if (ev->score)
        l->ev.score = l->score = copy(ev->score, (ev->n_prompt - 1) * sizeof(*l->score));
    if (ev->score_top)
        l->ev.score_top = l->score_top =
            copy(ev->score_top, (ev->n_prompt - 1) * g->score_top * sizeof(*l->score_top));
    if (ev->embedding)
        l->ev.embedding = l->embedding =
            copy(ev->embedding, (size_t)g->call->m->engine->model->hp->dim * sizeof(float));
    if (ev->err) {
        l->err = *ev->err;
        l->ev.err = &l->err;
    }
    server_post(g->call->s, deliver, l);
}

static void gen_free(struct gen *g)
{
    if (g->state_free)
        g->state_free(g->state);
    buf_release(&g->text);
    json_decref(g->logprobs);
    watch_free(g->watch);
    free(g->prompt);
    free(g);
}

/* The operator's limits; the scheduler checks the context itself. */
static int limit(const struct call *c, struct gen_request *r, struct err *e)
{
    const size_t ctx = server_ctx(c->s, c->m), most = c->s->o.max_input_tokens;

    if ((most && r->n_prompt > most) || r->n_prompt >= ctx || r->max_new_tokens > ctx - r->n_prompt)
        return err_set(e, ERR_USAGE,
                       "this model's maximum context length is %zu tokens, %zu of them for the "
                       "prompt, and %zu were asked for (%zu in the prompt, %zu for the answer)",
                       ctx, most ? most : ctx - 1, r->n_prompt + r->max_new_tokens, r->n_prompt,
                       r->max_new_tokens);
    if (r->max_new_tokens == 0)
        r->max_new_tokens = ctx - r->n_prompt;
    return 0;
}

int gen_start(struct call *c, const struct sched_request *r, size_t index,
              void (*fn)(struct gen *g, const struct sched_event *ev), struct gen **out,
              struct err *e)
{
    struct gen *g;
    struct sched_request q = *r;

    if (limit(c, &q.gen, e) || (!c->admitted && call_admit(c, e)))
        return -1;
    g = xcalloc(1, sizeof(*g));
    g->call = c;
    g->index = index;
    g->on_event = fn;
    g->top = r->gen.top_logprobs;
    g->score_top = r->score_top;
    g->stop_id = -1;
    if (r->score)
        g->prompt = copy(r->gen.prompt, r->gen.n_prompt * sizeof(*g->prompt));
    g->began = clock_seconds();
    buf_init(&g->text, TEXT_MAX);
    g->max_new = q.gen.max_new_tokens;
    g->seed = r->gen.sampling.seed;
    /* keys share the machine evenly, and no cached prefix */
    q.tenant = c->key;
    if (c->key)
        q.salt = rng_u64(q.salt, c->key);
    q.on_event = on_event;
    q.arg = g;
    /* its events are delivered on this thread: none can come before the list knows it */
    if (c->refusal.bad)
        refuse(g);
    else if (sched_submit(c->m->sched, &q, &g->ticket, e)) {
        gen_free(g);
        return -1;
    }
    if (!c->refusal.bad)
        g->watch = watch_new(g);
    g->next = c->gens;
    c->gens = g;
    c->n_gens++;
    c->n_running++;
    g->adapter = r->adapter;
    adapters_use(c->m->adapters, r->adapter);
    if (out)
        *out = g;
    return 0;
}

void gen_cancel_all(struct call *c)
{
    for (struct gen *g = c->gens; g; g = g->next)
        if (!g->ended)
            sched_cancel(c->m->sched, g->ticket);
}

void gen_free_all(struct call *c)
{
    while (c->gens) {
        struct gen *g = c->gens;

        c->gens = g->next;
        gen_free(g);
    }
}
