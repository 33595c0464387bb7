/* session.c - one sequence and its cache. */
#include "engine/session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/draft.h"
#include "engine/memory.h"
#include "engine/session_int.h"

enum { DEFAULT_CTX = 8192, LEAST_CTX = 256 };

struct session {
    struct engine *g;
    const struct lora *adapter; /* borrowed; NULL = none */
    struct kv_cache kv;
    int32_t *table; /* [blocks] the cache is this sequence's alone: block i is i */
    size_t ctx;     /* tokens allowed */
    struct ids ids; /* tokens evaluated */
    int32_t first;  /* RoPE position of ids[0] */
    float *logits;  /* [V] of the last token */
    int32_t *row_pos, *row_slot, *row_seq, *row_want; /* [chunk] */
    struct draft *draft;                              /* owned; NULL = no guesses */
    struct draft_seq drafts;                          /* what it knows of this sequence */
    size_t least, most;                               /* guesses at a time */
    float *checked; /* [most + 1][V]: logits of the rows that check guesses */
    double pass_s;  /* seconds of such a pass: a fading mean */
};

static size_t blocks_for(size_t ctx)
{
    return (ctx + KV_BLOCK - 1) / KV_BLOCK;
}

static int choose_ctx(size_t *ctx, const struct engine *g, struct err *e)
{
    const size_t most = (size_t)g->model->hp->ctx;

    if (*ctx > most)
        return err_set(e, ERR_USAGE, "a context of %zu tokens is more than the model's %zu", *ctx,
                       most);
    if (*ctx == 0) {
        *ctx = most < DEFAULT_CTX ? most : DEFAULT_CTX;
        while (*ctx > LEAST_CTX && !engine_fits(g, *ctx, 1))
            *ctx /= 2;
    }
    return engine_admit(g, *ctx, 1, e);
}

static int new_rows(int32_t **p, size_t n, struct err *e)
{
    void *q;

    if (mem_new(&q, n, sizeof(int32_t), "batch rows", e))
        return -1;
    *p = q;
    return 0;
}

int session_new(struct session **out, struct engine *g, size_t ctx, struct err *e)
{
    const struct hparams *hp = g->model->hp;
    struct session *s = xcalloc(1, sizeof(*s));
    void *logits;

    s->g = g;
    s->adapter = g->adapter;
    s->ctx = ctx;
    if (choose_ctx(&s->ctx, g, e) || kv_new(&s->kv, g->ctx, hp, g->kv, blocks_for(s->ctx), e) ||
        mem_new(&logits, (size_t)hp->vocab, sizeof(float), "logits", e))
        goto fail;
    s->logits = logits;
    if (new_rows(&s->table, blocks_for(s->ctx), e) || new_rows(&s->row_pos, g->chunk, e) ||
        new_rows(&s->row_slot, g->chunk, e) || new_rows(&s->row_seq, g->chunk, e) ||
        new_rows(&s->row_want, g->chunk, e))
        goto fail;
    for (size_t i = 0; i < blocks_for(s->ctx); i++)
        s->table[i] = (int32_t)i;
    *out = s;
    return 0;
fail:
    session_free(s);
    return -1;
}

void session_free(struct session *s)
{
    if (!s)
        return;
    if (s->kv.layer)
        kv_release(&s->kv);
    draft_seq_release(s->draft, &s->drafts);
    draft_free(s->draft);
    ids_release(&s->ids);
    free(s->checked);
    free(s->table);
    free(s->logits);
    free(s->row_pos);
    free(s->row_slot);
    free(s->row_seq);
    free(s->row_want);
    free(s);
}

struct engine *session_engine(const struct session *s)
{
    return s->g;
}

size_t session_ctx(const struct session *s)
{
    return s->ctx;
}

size_t session_len(const struct session *s)
{
    return s->ids.n;
}

const int32_t *session_ids(const struct session *s)
{
    return s->ids.p;
}

void session_set_position(struct session *s, int32_t first)
{
    BUG_ON(s->ids.n > 0);
    s->first = first;
}

void session_set_adapter(struct session *s, const struct lora *adapter)
{
    if (s->adapter != adapter)
        session_cut(s, 0);
    s->adapter = adapter;
}

int session_draft(struct session *s, size_t least, size_t most, struct err *e)
{
    const size_t V = (size_t)s->g->model->hp->vocab;
    void *checked;

    BUG_ON(s->draft || !s->g->drafter.g || most == 0 || most > MAX_GUESS);
    if (draft_new(&s->draft, s->g->drafter.g, blocks_for(s->ctx), 1, e) ||
        mem_new(&checked, (most + 1) * V, sizeof(float), "logits", e))
        return -1;
    s->checked = checked;
    s->least = least;
    s->most = most;
    return 0;
}

void session_cut(struct session *s, size_t n)
{
    if (n < s->ids.n)
        s->ids.n = n;
}

/* Evaluates n <= chunk tokens after those in the cache, of a prompt or an answer; logits of the
 * n_want rows in row_want. */
static int step(struct session *s, const int32_t *ids, size_t n, bool prompt, size_t n_want,
                float *logits, struct err *e)
{
    const int32_t end = INT32_MAX;
    const int32_t *const tables[] = { s->table };
    const struct lora *const adapters[] = { s->adapter };
    const struct batch b = { .T = n,
                             .token = ids,
                             .pos = s->row_pos,
                             .slot = s->row_slot,
                             .seq = s->row_seq,
                             .n_seq = 1,
                             .prompt = prompt ? &end : NULL,
                             .block_table = tables,
                             .want = s->row_want,
                             .n_want = n_want,
                             .lora = s->adapter ? adapters : NULL };

    for (size_t i = 0; i < n; i++) {
        s->row_slot[i] = (int32_t)(s->ids.n + i);
        s->row_pos[i] = s->first + s->row_slot[i];
        s->row_seq[i] = 0;
    }
    if (llama_forward(s->g->ctx, s->g->model, s->g->acts, &s->kv, &b, logits, e))
        return -1;
    ids_append(&s->ids, ids, n);
    if (n > s->g->peak.rows)
        s->g->peak.rows = n;
    if (s->ids.n > s->g->peak.tokens)
        s->g->peak.tokens = s->ids.n;
    return 0;
}

static int check_ids(const struct session *s, const int32_t *ids, size_t n, size_t total,
                     struct err *e)
{
    if (total > s->ctx)
        return err_set(e, ERR_USAGE,
                       "%zu tokens do not fit the context of %zu: raise --ctx (the "
                       "model allows %lld)",
                       total, s->ctx, (long long)s->g->model->hp->ctx);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->g->model->hp->vocab)
            return err_set(e, ERR_USAGE, "token id %d at %zu is outside the vocabulary of %lld",
                           ids[i], i, (long long)s->g->model->hp->vocab);
    return 0;
}

int session_eval(struct session *s, const int32_t *ids, size_t n, const float **logits,
                 const volatile sig_atomic_t *stop,
                 void (*progress)(void *arg, size_t done, size_t total), void *arg, struct err *e)
{
    size_t same = 0;

    if (n == 0)
        return err_set(e, ERR_USAGE, "nothing to evaluate: the prompt is empty");
    if (check_ids(s, ids, n, n, e))
        return -1;
    while (same < s->ids.n && same < n && s->ids.p[same] == ids[same])
        same++;
    if (same == n)
        same = n - 1; /* its logits are wanted: evaluate the last one again */
    session_cut(s, same);
    for (size_t at = same; at < n;) {
        const size_t k = n - at < s->g->chunk ? n - at : s->g->chunk;

        if (stop && *stop)
            return 1;
        s->row_want[0] = (int32_t)k - 1;
        if (step(s, ids + at, k, true, at + k == n, s->logits, e))
            return -1;
        at += k;
        if (progress)
            progress(arg, at - same, n - same);
    }
    *logits = s->logits;
    return 0;
}

int session_eval_rows(struct session *s, const int32_t *ids, size_t n, const int32_t *rows,
                      size_t n_rows, float *out, struct err *e)
{
    const size_t V = (size_t)s->g->model->hp->vocab;
    size_t next = 0; /* first row not yet given */

    if (check_ids(s, ids, n, s->ids.n + n, e))
        return -1;
    if (!rows)
        n_rows = n;
    for (size_t at = 0; at < n;) {
        const size_t k = n - at < s->g->chunk ? n - at : s->g->chunk, from = next;

        for (; next < n_rows; next++) {
            const size_t row = rows ? (size_t)rows[next] : next;

            if (row >= at + k)
                break;
            s->row_want[next - from] = (int32_t)(row - at);
        }
        if (step(s, ids + at, k, true, next - from, out + from * V, e))
            return -1;
        at += k;
    }
    return 0;
}

/* ---- guesses ---- */

size_t session_guess(struct session *s, const struct ids *all, const struct gen_request *r,
                     int32_t *out)
{
    enum { ROWS = 10 }; /* a tenth of a pass: what a row more costs, with the weights read anyway */
    const size_t left = s->ctx - all->n, room = left < s->g->chunk ? left : s->g->chunk;
    struct draft_ask ask = { .seq = &s->drafts,
                             .all = all,
                             .n_prompt = r->n_prompt,
                             .how = &r->sampling,
                             .least = s->least,
                             .most = room <= s->most ? room - (room > 0) : s->most,
                             .out = out };
    struct err e;

    if (!s->draft)
        return 0;
    ask.worth = 1.0 / ROWS + (s->pass_s > 0 ? draft_pass_s(s->draft) / s->pass_s : 0);
    /* guesses that cannot be had are none */
    const int rc = draft_guess(s->draft, &ask, 1, INFINITY, &e);

    draft_tell_peak(s->draft);
    return rc ? 0 : ask.n;
}

int session_check(struct session *s, int32_t last, const int32_t *guess, size_t n,
                  const float **logits, struct err *e)
{
    int32_t ids[MAX_GUESS + 1] = { last };

    if (n == 0) {
        float *const out = s->g->ctx->be->pick ? NULL : s->logits;

        s->row_want[0] = 0;
        *logits = out;
        return step(s, ids, 1, false, 1, out, e);
    }
    for (size_t i = 0; i <= n; i++)
        s->row_want[i] = (int32_t)i;
    memcpy(ids + 1, guess, n * sizeof(*guess));
    const double from = clock_seconds();

    if (step(s, ids, n + 1, false, n + 1, s->checked, e))
        return -1;
    const double took = clock_seconds() - from;

    s->pass_s = s->pass_s > 0 ? 0.9 * s->pass_s + 0.1 * took : took;
    *logits = s->checked;
    return 0;
}

int session_fetch(struct session *s, const float **logits, struct err *e)
{
    struct ctx *const c = s->g->ctx;

    *logits = s->logits;
    return c->be->row(c, 0, (size_t)s->g->model->hp->vocab, s->logits, e);
}

void session_noted(struct session *s, size_t guessed, size_t right)
{
    draft_note(&s->drafts, guessed, right);
}
