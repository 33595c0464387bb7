/* memory.c - the planner's questions, asked for a loaded engine. */
#include "engine/memory.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

/* *w is filled too: the query refers to it. */
static struct plan_query query(struct plan_weights *w, const struct engine *g, size_t tokens,
                               size_t want)
{
    plan_weights_model(w, g->model);
    return (struct plan_query){ .hp = g->model->hp,
                                .w = w,
                                .model = g->model,
                                .kv = g->kv,
                                .ctx = tokens,
                                .sequences = 1,
                                .want = want,
                                .chunk = g->chunk,
                                .tp = 1,
                                .pp = 1,
                                .away = g->away,
                                .cpu = ctx_on_host(g->ctx),
                                .threads = team_size(g->ctx->team),
                                .flags = g->isa,
                                .compute = g->ctx->compute,
                                .tokenizer = g->tok ? tok_size(g->tok) : 0 };
}

/* What a drafter takes comes on top: weights, a cache of as many tokens, work. The scratch of
 * matrix products is the context's, which they share. */
static void add(struct plan_use *u, const struct plan_use *more)
{
    u->weights += more->weights;
    u->kv_cache += more->kv_cache;
    u->activations += more->activations;
    u->scratch = u->scratch > more->scratch ? u->scratch : more->scratch;
    u->logits += more->logits;
    u->total = u->weights + u->kv_cache + u->activations + u->scratch + u->logits + u->runtime;
}

void engine_plan(struct plan_use *u, const struct engine *g, size_t tokens, size_t want)
{
    struct plan_weights w;
    const struct plan_query q = query(&w, g, tokens, want);
    struct plan_use more;

    plan_infer(u, &q);
    if (!g->drafter.g)
        return;
    engine_plan(&more, g->drafter.g, tokens, g->drafter.sequences);
    add(u, &more);
}

static void touched(struct plan_use *u, const struct engine *g, const struct plan_query *q,
                    size_t used, size_t rows, size_t lookups)
{
    const struct engine *d = g->drafter.g;
    struct plan_use more;

    plan_touched(u, q, used, rows, lookups);
    if (!d)
        return;
    engine_plan_touched(&more, d, q->ctx, g->drafter.sequences);
    add(u, &more);
}

void engine_plan_touched(struct plan_use *u, const struct engine *g, size_t tokens, size_t want)
{
    struct plan_weights w;
    const struct plan_query q = query(&w, g, tokens, want);

    touched(u, g, &q, g->peak.tokens, g->peak.rows, g->peak.tokens);
}

void engine_plan_run(struct plan_use *u, const struct engine *g, size_t tokens, size_t sequences,
                     size_t rows, size_t lookups)
{
    struct plan_weights w;
    struct plan_query q = query(&w, g, tokens, sequences);

    q.sequences = sequences;
    plan_touched(u, &q, tokens, rows, lookups);
}

void engine_plan_cache(struct plan_use *u, const struct engine *g, size_t tokens, size_t used,
                       size_t rows, size_t want, size_t lookups)
{
    struct plan_weights w;
    const struct plan_query q = query(&w, g, tokens, want);

    touched(u, g, &q, used, rows, lookups);
}

size_t engine_available(const struct engine *g)
{
    const size_t have = g->ctx->be->available(g->ctx);

    return have > g->promised ? have - g->promised : have != 0; /* 0 = unknown */
}

/* The same weights in the layouts that they have on a device. */
static void as_placed(struct plan_weights *w, const struct engine *g)
{
    const struct model *m = g->model;
    const struct ctx *c = g->ctx;

    if (!c->be->placed_size)
        return;
    for (int64_t l = 0; l < w->layers; l++) {
        const struct layer *y = &m->layer[l];
        const struct weight *const all[] = {
            &y->q, &y->k, &y->v, &y->o, &y->gate, &y->up, &y->down
        };

        w->layer[l] = 0;
        for (size_t i = 0; i < ARRAY_LEN(all); i++)
            w->layer[l] += c->be->placed_size(c, all[i]);
    }
    w->embed = c->be->placed_size(c, &m->embed);
    w->head = m->hp->tied ? 0 : c->be->placed_size(c, &m->head);
}

int engine_offload(int64_t *away, const struct engine *g, const struct engine_opts *o, size_t have,
                   size_t host, struct err *e)
{
    enum { TOKENS = 8192 };
    const double gib = 1 << 30;
    const struct hparams *hp = g->model->hp;
    const size_t most = (size_t)hp->ctx < TOKENS ? (size_t)hp->ctx : TOKENS;
    const char *path = checkpoint_path(g->model->ckpt);
    struct plan_weights w;
    struct plan_offload plan;
    char hint[128] = "";
    const struct plan_query q = query(&w, g, o->offload_tokens ? o->offload_tokens : most, 1);

    as_placed(&w, g);
    const size_t need = plan_weights_total(&w) + acts_bytes(hp, g->chunk);

    *away = 0;
    if (need <= have)
        return 0;
    const bool fits = plan_offload(&plan, &q, have), held = !host || plan.host <= host;

    if (o->offload && fits && held) {
        *away = plan.away;
        return 0;
    }
    if (o->offload && fits)
        return err_set(e, ERR_MEMORY,
                       "%s: %lld of %lld layers (--offload), %.2f GiB, need host memory, of which "
                       "%.2f GiB are free: a smaller encoding, or a shorter context",
                       path, (long long)plan.away, (long long)hp->layers, (double)plan.host / gib,
                       (double)host / gib);
    if (o->offload)
        return err_set(e, ERR_MEMORY,
                       "%s: with all layers in host memory (--offload) the GPU needs %.2f GiB and "
                       "has %.2f GiB free: a smaller encoding, a shorter context, or --device cpu",
                       path, (double)plan.device / gib, (double)have / gib);
    if (fits && held)
        snprintf(hint, sizeof(hint), ", --offload (%lld of %lld layers in host memory, %.2f GiB)",
                 (long long)plan.away, (long long)hp->layers, (double)plan.host / gib);
    return err_set(e, ERR_MEMORY,
                   "%s: weights and work need %.2f GiB, the GPU has %.2f GiB free: a smaller "
                   "encoding%s, or --device cpu",
                   path, (double)need / gib, (double)have / gib, hint);
}

/* What is in place already: the program, its tokenizer and copies of weights; on a device weights
 * and work too. */
static size_t had(const struct engine *g, const struct plan_use *u)
{
    return ctx_on_host(g->ctx) ? u->runtime + model_placed_bytes(g->model)
                               : u->total - u->kv_cache - u->logits;
}

static size_t needed(const struct engine *g, size_t tokens, size_t want)
{
    struct plan_use u;

    engine_plan(&u, g, tokens, want);
    return u.total - had(g, &u);
}

bool engine_fits(const struct engine *g, size_t tokens, size_t want)
{
    const size_t have = engine_available(g);

    return !have || needed(g, tokens, want) <= have;
}

/* The most tokens, in whole blocks, of which the drafter's cache fits too. */
static size_t with_drafter(const struct engine *g, size_t tokens, size_t want, size_t have)
{
    size_t fits = 0, most = tokens / KV_BLOCK + 1;

    if (!g->drafter.g)
        return tokens;
    while (most - fits > 1) {
        const size_t mid = fits + (most - fits) / 2;

        *(needed(g, mid * KV_BLOCK, want) <= have ? &fits : &most) = mid;
    }
    return fits * KV_BLOCK;
}

/* What to do instead: a shorter context, or weights of a smaller encoding that this program reads.
 */
static void suggest(char hint[128], const struct engine *g, size_t tokens, size_t want, size_t have)
{
    static const enum scheme smaller[] = { SCHEME_Q8_0, SCHEME_Q4_K_M, SCHEME_Q4_0 };
    struct plan_weights w;
    struct plan_query q = query(&w, g, tokens, want);
    struct plan_use u;

    plan_infer(&u, &q);
    const size_t now = u.total, room = have + had(g, &u);
    const size_t longest = with_drafter(g, plan_longest_ctx(&q, room), want, have);

    if (longest) {
        snprintf(hint, 128, "%zu tokens fit", longest);
        return;
    }
    q.model = NULL;
    for (size_t i = 0; i < ARRAY_LEN(smaller); i++) {
        plan_weights_scheme(&w, q.hp, smaller[i]);
        plan_infer(&u, &q);
        if (u.total <= room && u.total < now) {
            snprintf(hint, 128, "the model in %s would fit", scheme_table[smaller[i]].name);
            return;
        }
    }
    snprintf(hint, 128, "a smaller model is needed");
}

int engine_admit(const struct engine *g, size_t tokens, size_t want, struct err *e)
{
    const size_t have = engine_available(g);
    const double gib = 1 << 30;
    struct plan_use u;
    char hint[128];

    if (!have || needed(g, tokens, want) <= have)
        return 0;
    engine_plan(&u, g, tokens, want);
    suggest(hint, g, tokens, want, have);
    return err_set(
        e, ERR_MEMORY,
        "%zu tokens of context need %.2f GiB%s (weights %.2f, KV cache %.2f, work %.2f), "
        "%.2f GiB are available: %s",
        tokens, (double)(u.total - u.runtime) / gib, g->drafter.g ? " with the draft model" : "",
        (double)u.weights / gib, (double)u.kv_cache / gib,
        (double)(u.activations + u.scratch + u.logits) / gib, (double)have / gib, hint);
}
