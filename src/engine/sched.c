#include "engine/sched.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "base/turn.h"
#include "engine/memory.h"
#include "engine/sched_int.h"

enum { MAX_ACTIVE = 64, MAX_QUEUE = 1024, SCORE_ROWS = 64 };
/* On a device: as many answers as the cache has room for, each with a request of usual length, for
 * a step of many costs less of each (8B in FP8 on an H200, 1000 tokens in and out: 17.5 to 17.9
 * thousand tok/s with 768 at a time, 18.4 and 18.5 with 1024). */
enum { GPU_LEAST = 256, GPU_MOST = 1024, USUAL_TOKENS = 1536 };

/* ---- jobs ---- */

static void *copy(const void *p, size_t n, size_t size)
{
    void *q = xmalloc(n * size + 1);

    if (n)
        memcpy(q, p, n * size);
    return q;
}

static struct job *job_new(const struct sched_request *r)
{
    struct job *j = xcalloc(1, sizeof(*j));
    const struct gen_request *g = &r->gen;

    j->r = *r;
    j->gen = *g;
    j->gen.prompt = j->prompt = copy(g->prompt, g->n_prompt, sizeof(*g->prompt));
    j->gen.eos = j->eos = copy(g->eos, g->n_eos, sizeof(*g->eos));
    j->gen.sampling.bias = j->bias =
        copy(g->sampling.bias, g->sampling.n_bias, sizeof(*g->sampling.bias));
    j->gen.watch = j->watch = copy(g->watch, g->n_watch, sizeof(*g->watch));
    j->stop = xcalloc(g->n_stop + 1, sizeof(*j->stop));
    for (size_t i = 0; i < g->n_stop; i++)
        j->stop[i] = xstrdup(g->stop[i]);
    j->gen.stop = (const char *const *)j->stop;
    if (g->grammar)
        grammar_ref(g->grammar);
    j->gen.cancel = NULL;
    j->gen.on_text = NULL;
    j->gen.on_token = NULL;
    j->gen.on_progress = NULL;
    /* an address would do until the adapter is unloaded and another one gets it */
    j->kv.salt = r->salt ^ (r->adapter ? r->adapter->id : 0) * 0x9E3779B97F4A7C15u;
    j->drafts.kv.salt = r->salt; /* a drafter has no adapters */
    if (r->deadline > 0)
        j->expires = clock_seconds() + r->deadline;
    return j;
}

void job_free(struct job *j)
{
    if (!j)
        return;
    for (size_t i = 0; i < j->gen.n_stop; i++)
        free(j->stop[i]);
    free(j->stop);
    free(j->prompt);
    free(j->eos);
    free(j->watch);
    free(j->bias);
    free(j->score);
    free(j->score_top);
    free(j->pooled);
    free(j->embedding);
    draft_seq_release(NULL, &j->drafts); /* its blocks are back already */
    answer_release(&j->answer);
    gen_result_release(&j->result);
    grammar_unref(j->gen.grammar);
    free(j);
}

/* ---- the thread ---- */

/* Rows of a prompt that are still to be computed. */
static size_t prompt_rows_left(const struct job *j)
{
    const size_t left = j->answer.all.n - j->done;

    return left > 1 ? left : 0;
}

static void sweep(struct sched *s)
{
    size_t n = 0, freed = 0, rows = 0;

    for (size_t i = 0; i < s->n_waiting; i++) {
        if (!s->waiting[i]->over) {
            rows += prompt_rows_left(s->waiting[i]);
            s->waiting[n++] = s->waiting[i];
            continue;
        }
        job_free(s->waiting[i]);
        freed++;
    }
    s->n_waiting = n;
    n = 0;
    for (size_t i = 0; i < s->n_active; i++) {
        if (!s->active[i]->over) {
            rows += prompt_rows_left(s->active[i]);
            s->active[n++] = s->active[i];
            continue;
        }
        job_free(s->active[i]);
        freed++;
    }
    s->n_active = n;
    const double row_s = sched_row_s(s);

    pthread_mutex_lock(&s->lock);
    s->line.rows = rows;
    s->line.row_s = row_s;
    s->line.end_s = s->ended > 0 ? s->ending_s / s->ended : 0;
    s->n_jobs -= freed;
    s->stats.active = s->n_active;
    s->stats.waiting = s->n_waiting;
    s->stats.kv_free = kvpool_available(s->pool) - kvpool_cached(s->pool);
    s->stats.kv_cached = kvpool_cached(s->pool);
    s->last_step = clock_seconds();
    pthread_mutex_unlock(&s->lock);
}

static struct job *by_ticket(struct sched *s, uint64_t ticket)
{
    for (size_t i = 0; i < s->n_waiting; i++)
        if (s->waiting[i]->ticket == ticket)
            return s->waiting[i];
    for (size_t i = 0; i < s->n_active; i++)
        if (s->active[i]->ticket == ticket)
            return s->active[i];
    return NULL;
}

/* Room for what a job asks beside its answer. */
static int make_extras(struct sched *s, struct job *j, struct err *e)
{
    const size_t D = (size_t)s->g->model->hp->dim, n = j->gen.n_prompt;
    void *p;

    if (j->r.score) {
        if (mem_new(&p, n, sizeof(*j->score), "scores of a prompt", e))
            return -1;
        j->score = p;
        if (mem_new(&p, n, (j->r.score_top + 1) * sizeof(*j->score_top), "scores of a prompt", e))
            return -1;
        j->score_top = p;
    }
    if (j->r.pool != POOL_NONE) {
        if (mem_new(&p, D, sizeof(*j->pooled), "an embedding", e))
            return -1;
        j->pooled = p;
        if (mem_new(&p, D, sizeof(*j->embedding), "an embedding", e))
            return -1;
        j->embedding = p;
        if (!s->hidden) {
            if (mem_new(&p, s->g->chunk * D, sizeof(float), "hidden states", e))
                return -1;
            s->hidden = p;
        }
    }
    return 0;
}

static void take_job(struct sched *s, struct job *j)
{
    struct err e;

    job_wait(s, j);
    if ((j->r.adapter && acts_reserve(s->g->acts, j->r.adapter->max_rank, &e)) ||
        make_extras(s, j, &e) ||
        answer_init(&j->answer, &j->gen, s->g->tok, s->ctx, (size_t)s->g->model->hp->ctx,
                    &j->result, &e))
        job_fail(s, j, &e);
}

/* Empties the inbox; waits for something to do. False: it is time to go. */
static bool take_orders(struct sched *s)
{
    uint64_t *cancel;
    size_t n_cancel;
    struct job *inbox;
    bool quit;

    pthread_mutex_lock(&s->lock);
    while (!s->inbox && !s->n_cancel && !s->quit && s->n_active + s->n_waiting == 0) {
        s->busy = false;
        s->last_step = clock_seconds();
        pthread_cond_broadcast(&s->idle);
        pthread_cond_wait(&s->wake, &s->lock);
    }
    s->busy = true;
    inbox = s->inbox;
    s->inbox = NULL;
    s->inbox_end = &s->inbox;
    s->line.rows += s->line.new_rows;
    s->line.new_rows = 0;
    cancel = s->cancel;
    n_cancel = s->n_cancel;
    s->cancel = NULL;
    s->n_cancel = s->cap_cancel = 0;
    quit = s->quit;
    pthread_mutex_unlock(&s->lock);

    while (inbox) {
        struct job *j = inbox;

        inbox = j->next;
        take_job(s, j);
    }
    for (size_t i = 0; i < n_cancel; i++) {
        struct job *j = by_ticket(s, cancel[i]);

        if (j && !j->over)
            job_finish(s, j, FINISH_CANCELLED);
    }
    free(cancel);
    if (quit) {
        for (size_t i = 0; i < s->n_waiting; i++)
            if (!s->waiting[i]->over)
                job_finish(s, s->waiting[i], FINISH_CANCELLED);
        for (size_t i = 0; i < s->n_active; i++)
            if (!s->active[i]->over)
                job_finish(s, s->active[i], FINISH_CANCELLED);
    }
    sweep(s);
    return !quit;
}

static void *loop(void *arg)
{
    struct sched *s = arg;

    while (take_orders(s)) {
        turn_take(s->g->turn);
        sched_step(s);
        turn_give(s->g->turn);
        sweep(s);
    }
    pthread_mutex_lock(&s->lock);
    s->busy = false;
    pthread_cond_broadcast(&s->idle);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- opening and closing ---- */

/* What stays free of the memory that weights and work leave: half of it; of a device's, which
 * nobody else uses, a sixteenth, but 2 GiB of any for what passes take as they come. */
static size_t kept_free(const struct engine *g, size_t have)
{
    const size_t least = (size_t)2 << 30, half = have / 2, some = have / 16;

    if (ctx_on_host(g->ctx) || half < least)
        return half;
    return some > least ? some : least;
}

/* The most blocks the cache may have: those asked for, or what there is memory for. */
static size_t most_blocks(const struct engine *g, const struct sched_opts *o, size_t want)
{
    const struct engine *d = g->drafter.g;
    const bool host = ctx_on_host(g->ctx);
    const size_t all = engine_available(g), share = o->share ? o->share : 1;
    const size_t each =
        kv_bytes(g->model->hp, g->kv, 1) + (d ? kv_bytes(d->model->hp, d->kv, 1) : 0);
    struct plan_use u;

    if (o->kv_tokens)
        return (o->kv_tokens + KV_BLOCK - 1) / KV_BLOCK;
    engine_plan(&u, g, 0, want);
    const size_t fixed = host ? u.total - u.runtime : u.logits;
    const size_t have = all > fixed ? all - fixed : 0;

    return all ? (have - kept_free(g, have)) / each / share : SIZE_MAX;
}

/* Of those, what answers can make use of: on a device, twice what is usual. */
static size_t choose_blocks(const struct engine *g, const struct sched_opts *o, size_t want)
{
    const size_t most = most_blocks(g, o, want);
    const size_t context = ((size_t)g->model->hp->ctx + KV_BLOCK - 1) / KV_BLOCK;
    const size_t usual = ctx_on_host(g->ctx) ? 0 : o->max_active * (2 * USUAL_TOKENS / KV_BLOCK);
    const size_t blocks = usual > 4 * context ? usual : 4 * context;

    if (o->kv_tokens)
        return most;
    return blocks < most ? blocks : most ? most : 1;
}

static int new_ints(int32_t **p, size_t n, struct err *e)
{
    void *q;

    if (mem_new(&q, n, sizeof(int32_t), "batch rows", e))
        return -1;
    *p = q;
    return 0;
}

static int make_room(struct sched *s, struct err *e)
{
    const struct hparams *hp = s->g->model->hp;
    const enum enc enc = s->g->kv;
    const size_t rows = s->g->chunk;
    void *logits, *table, *lora, *active, *turns, *asks;

    s->max_want = s->o.max_active * (1 + s->o.speculate) + SCORE_ROWS;
    if (s->max_want > rows)
        s->max_want = rows;
    const size_t blocks = choose_blocks(s->g, &s->o, s->max_want);

    if (engine_admit(s->g, blocks * KV_BLOCK, s->max_want, e))
        return -1;
    if (kvpool_new(&s->pool, blocks, e) || kv_new(&s->kv, s->g->ctx, hp, enc, blocks, e) ||
        sampler_new(&s->sampler, (size_t)hp->vocab, e) || new_ints(&s->token, rows, e) ||
        new_ints(&s->pos, rows, e) || new_ints(&s->slot, rows, e) || new_ints(&s->seq, rows, e) ||
        new_ints(&s->want, s->max_want, e) || new_ints(&s->prompt, s->o.max_active, e) ||
        mem_new(&table, s->o.max_active, sizeof(*s->table), "batch rows", e))
        return -1;
    s->table = table;
    if (mem_new(&lora, s->o.max_active, sizeof(*s->lora), "batch rows", e))
        return -1;
    s->lora = lora;
    if (mem_new(&active, s->o.max_active, sizeof(*s->active), "batch rows", e))
        return -1;
    s->active = active;
    if (mem_new(&turns, s->o.max_active, sizeof(*s->turns), "batch rows", e))
        return -1;
    s->turns = turns;
    if (s->g->drafter.g && s->o.speculate) {
        if (draft_new(&s->draft, s->g->drafter.g, blocks, s->o.max_active, e) ||
            mem_new(&asks, s->o.max_active, sizeof(*s->asks), "batch rows", e))
            return -1;
        s->asks = asks;
    }
    if (mem_new(&logits, s->max_want * (size_t)hp->vocab, sizeof(float), "logits", e))
        return -1;
    s->logits = logits;
    if (s->g->ctx->be->pick) {
        s->have = xcalloc(s->max_want, sizeof(*s->have));
        s->heads = xcalloc(s->o.max_active, sizeof(*s->heads));
        s->head_asks = xcalloc(s->o.max_active, sizeof(*s->head_asks));
        s->lists = xcalloc(s->o.max_active, sizeof(*s->lists));
        s->chances = xcalloc(s->o.max_active, sizeof(*s->chances));
    }
    s->ctx = blocks * KV_BLOCK < (size_t)hp->ctx ? blocks * KV_BLOCK : (size_t)hp->ctx;
    s->stats.kv_blocks = s->stats.kv_free = blocks;
    return 0;
}

static size_t gpu_active(const struct engine *g, const struct sched_opts *o)
{
    const size_t n = most_blocks(g, o, GPU_MOST) / (USUAL_TOKENS / KV_BLOCK);

    return n < GPU_LEAST ? GPU_LEAST : n < GPU_MOST ? n : GPU_MOST;
}

size_t sched_active(const struct engine *g, const struct sched_opts *o)
{
    const size_t n = o->max_active         ? o->max_active
                     : ctx_on_host(g->ctx) ? MAX_ACTIVE
                                           : gpu_active(g, o);

    return n < g->chunk ? n : g->chunk;
}

int sched_new(struct sched **out, struct engine *g, const struct sched_opts *o, struct err *e)
{
    struct sched *s = xcalloc(1, sizeof(*s));

    s->g = g;
    s->o = *o;
    s->o.max_active = sched_active(g, o);
    s->o.max_queue = o->max_queue ? o->max_queue : MAX_QUEUE;
    s->o.step_s = o->step_s > 0 ? o->step_s : 0.035;
    if (s->o.speculate > MAX_GUESS)
        s->o.speculate = MAX_GUESS;
    if (s->o.least > s->o.speculate)
        s->o.least = s->o.speculate;
    s->ahead = ahead_new(s->o.max_active);
    s->inbox_end = &s->inbox;
    s->last_step = clock_seconds();
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    pthread_cond_init(&s->idle, NULL);
    if (make_room(s, e))
        goto fail;
    if (thread_start(&s->thread, loop, s)) {
        err_set(e, ERR_MEMORY, "cannot start the engine's thread");
        goto fail;
    }
    s->started = true;
    *out = s;
    return 0;
fail:
    sched_free(s);
    return -1;
}

void sched_free(struct sched *s)
{
    if (!s)
        return;
    if (s->started) {
        pthread_mutex_lock(&s->lock);
        s->quit = s->draining = true;
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->idle);
    if (s->kv.layer)
        kv_release(&s->kv);
    kvpool_free(s->pool);
    draft_free(s->draft);
    sampler_free(s->sampler);
    ahead_free(s->ahead);
    free(s->token);
    free(s->pos);
    free(s->slot);
    free(s->seq);
    free(s->want);
    free(s->prompt);
    free(s->table);
    free(s->lora);
    free(s->active);
    free(s->turns);
    free(s->asks);
    free(s->waiting);
    free(s->logits);
    free(s->have);
    for (size_t i = 0; i < s->o.max_active && s->heads; i++)
        free(s->heads[i].changes.p);
    free(s->heads);
    free(s->head_asks);
    free(s->lists);
    free(s->chances);
    free(s->hidden);
    free(s->cancel);
    free(s);
}

/* ---- the door ---- */

size_t sched_ctx(const struct sched *s)
{
    return s->ctx;
}

static int check(const struct sched *s, const struct sched_request *r, struct err *e)
{
    const struct gen_request *g = &r->gen;
    const int64_t V = s->g->model->hp->vocab;

    if (g->n_prompt == 0)
        return err_set(e, ERR_USAGE, "the prompt is empty");
    for (size_t i = 0; i < g->n_prompt; i++)
        if (g->prompt[i] < 0 || g->prompt[i] >= V)
            return err_set(e, ERR_USAGE, "token id %d at %zu is outside the vocabulary of %lld",
                           g->prompt[i], i, (long long)V);
    if (g->n_prompt >= s->ctx || g->max_new_tokens > s->ctx - g->n_prompt)
        return err_set(e, ERR_USAGE,
                       "this model's maximum context length is %zu tokens, and %zu were asked for "
                       "(%zu in the prompt, %zu for the answer)",
                       s->ctx, g->n_prompt + g->max_new_tokens, g->n_prompt, g->max_new_tokens);
    return sampling_check(&g->sampling, e);
}

/* Seconds to the first token of a prompt of n tokens that came now, by how things have gone: the
 * rows before it, and the answers that must end before it has a place. Under the lock. */
static double expected_wait(const struct sched *s, size_t n)
{
    const size_t all = s->n_jobs + 1, most = s->o.max_active;
    const double rows = s->line.row_s * (double)(s->line.rows + s->line.new_rows + n);
    const double place = all > most ? s->line.end_s * (double)(all - most) : 0;

    return rows > place ? rows : place;
}

int sched_submit(struct sched *s, const struct sched_request *r, uint64_t *ticket, struct err *e)
{
    if (check(s, r, e))
        return -1;
    struct job *j = job_new(r);
    int rc = 0;

    pthread_mutex_lock(&s->lock);
    if (s->draining)
        rc = err_set(e, ERR_TIMEOUT, "the server is shutting down");
    else if (s->n_jobs >= s->o.max_active + s->o.max_queue)
        rc = err_set(e, ERR_TIMEOUT,
                     "the model is overloaded: %zu requests are being answered or wait", s->n_jobs);
    else if (s->o.max_wait_s > 0 && s->n_jobs &&
             expected_wait(s, r->gen.n_prompt) > s->o.max_wait_s)
        rc = err_set(e, ERR_TIMEOUT,
                     "the model is overloaded: a first token would come in some %.2g s, and it may "
                     "take %g (%zu requests are being answered or wait)",
                     expected_wait(s, r->gen.n_prompt), s->o.max_wait_s, s->n_jobs);
    if (rc == 0) {
        *ticket = j->ticket = ++s->next_ticket;
        j->submitted = clock_seconds();
        *s->inbox_end = j;
        s->inbox_end = &j->next;
        s->n_jobs++;
        s->line.new_rows += r->gen.n_prompt;
        s->stats.submitted++;
        s->stats.prompt_tokens += r->gen.n_prompt;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (rc)
        job_free(j);
    return rc;
}

void sched_cancel(struct sched *s, uint64_t ticket)
{
    pthread_mutex_lock(&s->lock);
    if (s->n_cancel == s->cap_cancel) {
        s->cap_cancel = s->cap_cancel ? 2 * s->cap_cancel : 16;
        s->cancel = xrealloc(s->cancel, s->cap_cancel * sizeof(*s->cancel));
    }
    s->cancel[s->n_cancel++] = ticket;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void sched_drain(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    pthread_mutex_unlock(&s->lock);
}

void sched_stats(struct sched *s, struct sched_stats *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    out->waiting = s->n_jobs - (s->stats.active < s->n_jobs ? s->stats.active : s->n_jobs);
    out->wait_s = expected_wait(s, 0);
    out->last_step_s = s->busy ? clock_seconds() - s->last_step : 0;
    pthread_mutex_unlock(&s->lock);
}

void sched_memory(struct sched *s, struct plan_use *all, struct plan_use *used, size_t *tokens)
{
    const size_t cache = kvpool_size(s->pool) * KV_BLOCK;

    pthread_mutex_lock(&s->lock);
    *tokens = s->peak.blocks * KV_BLOCK;
    engine_plan(all, s->g, cache, s->max_want);
    engine_plan_cache(used, s->g, cache, *tokens, s->peak.rows, s->peak.want, s->peak.lookups);
    pthread_mutex_unlock(&s->lock);
}

void sched_settle(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    while (s->busy || s->n_jobs || s->n_cancel)
        pthread_cond_wait(&s->idle, &s->lock);
    kvpool_audit(s->pool, 0); /* the thread sleeps */
    if (s->draft)
        draft_audit(s->draft);
    pthread_mutex_unlock(&s->lock);
}
