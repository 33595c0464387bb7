#include "engine/draft.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

enum {
    FIRST_ROWS = 64, /* read at a time before it is known how long that takes */
    LEAST_ROWS = 16,
    REST = 16, /* passes between two attempts where guesses are mostly wrong */
};

struct draft {
    struct engine *g; /* borrowed */
    struct kv_cache kv;
    struct kvpool *pool;
    struct sampler *sampler;
    size_t sequences;
    int32_t *token, *pos, *slot, *seq; /* [chunk] */
    int32_t *want, *prompt;            /* [sequences] */
    const int32_t **table;             /* [sequences] */
    float *logits;                     /* [sequences][V] */
    size_t most_rows, most_tokens;     /* of a pass, and of the cache, so far */
    double row_s;                      /* of a text that is read */
    double pass_s;                     /* of a pass with a row for each answer */
};

static int new_ints(int32_t **p, size_t n, struct err *e)
{
    void *q;

    if (mem_new(&q, n, sizeof(int32_t), "draft rows", e))
        return -1;
    *p = q;
    return 0;
}

int draft_new(struct draft **out, struct engine *g, size_t blocks, size_t sequences, struct err *e)
{
    const struct hparams *hp = g->model->hp;
    struct draft *d = xcalloc(1, sizeof(*d));
    void *table, *logits;

    d->g = g;
    d->sequences = sequences < g->chunk ? sequences : g->chunk;
    if (kvpool_new(&d->pool, blocks, e) || kv_new(&d->kv, g->ctx, hp, g->kv, blocks, e) ||
        sampler_new(&d->sampler, (size_t)hp->vocab, e) || new_ints(&d->token, g->chunk, e) ||
        new_ints(&d->pos, g->chunk, e) || new_ints(&d->slot, g->chunk, e) ||
        new_ints(&d->seq, g->chunk, e) || new_ints(&d->want, d->sequences, e) ||
        new_ints(&d->prompt, d->sequences, e) ||
        mem_new(&table, d->sequences, sizeof(*d->table), "draft rows", e))
        goto fail;
    d->table = table;
    if (mem_new(&logits, d->sequences * (size_t)hp->vocab, sizeof(float), "draft logits", e))
        goto fail;
    d->logits = logits;
    *out = d;
    return 0;
fail:
    draft_free(d);
    return -1;
}

void draft_free(struct draft *d)
{
    if (!d)
        return;
    if (d->kv.layer)
        kv_release(&d->kv);
    kvpool_free(d->pool);
    sampler_free(d->sampler);
    free(d->token);
    free(d->pos);
    free(d->slot);
    free(d->seq);
    free(d->want);
    free(d->prompt);
    free(d->table);
    free(d->logits);
    free(d);
}

void draft_leave(struct draft *d, struct draft_seq *s)
{
    if (d)
        kvpool_release(d->pool, &s->kv);
    s->ids.n = 0;
}

void draft_seq_release(struct draft *d, struct draft_seq *s)
{
    draft_leave(d, s);
    ids_release(&s->ids);
}

void draft_audit(const struct draft *d)
{
    kvpool_audit(d->pool, 0);
}

void draft_tell_peak(const struct draft *d)
{
    d->g->peak.rows = d->most_rows;
    d->g->peak.tokens = d->most_tokens;
}

double draft_pass_s(const struct draft *d)
{
    return d->pass_s;
}

/* ---- how good they are ---- */

/* The share of guesses that proves right; before anything is known one that is worth a try. */
static double hit_rate(const struct draft_seq *s)
{
    return (s->right + 1.5) / (s->tries + 2);
}

void draft_note(struct draft_seq *s, size_t guessed, size_t right)
{
    const double keep = 0.9;

    if (guessed == 0)
        return;
    s->right = keep * s->right + (double)right;
    s->tries = keep * s->tries + (double)right + (right < guessed);
}

/* How many guesses to ask for: none while the drafter rests. */
static size_t guesses(struct draft_ask *a)
{
    struct draft_seq *s = a->seq;
    const double rate = hit_rate(s);
    double chance = rate;
    size_t n = 0;

    if (rate < a->worth && a->least == 0) {
        if (s->rest) {
            s->rest--;
            return 0;
        }
        s->rest = REST;
        return a->most ? 1 : 0;
    }
    for (; n < a->most && (n < a->least || chance >= a->worth); n++)
        chance *= rate;
    return n;
}

/* ---- what the cache holds ---- */

/* Of the cache what holds for the text: guesses that proved wrong go, and a text that is not the
 * one of before begins with what the pool has of it. */
static void bring(struct draft *d, const struct draft_ask *a)
{
    struct draft_seq *s = a->seq;
    const size_t last = a->all->n - 1, most = s->ids.n < last ? s->ids.n : last;
    size_t same = 0;

    while (same < most && s->ids.p[same] == a->all->p[same])
        same++;
    s->ids.n = same;
    /* nothing but shared blocks: others may have read more of the same text meanwhile */
    if (same < s->kv.shared * KV_BLOCK ||
        (same == s->kv.shared * KV_BLOCK && last - same > KV_BLOCK)) {
        kvpool_release(d->pool, &s->kv);
        s->ids.n = 0;
        ids_append(&s->ids, a->all->p, kvpool_match(d->pool, &s->kv, a->all->p, a->all->n));
    }
}

/* ---- passes ---- */

struct rows {
    size_t rows, seqs, wants;
};

/* Adds tokens[0..n) of a; want: the logits of the last one. */
static void add_rows(struct draft *d, struct rows *p, struct draft_ask *a, const int32_t *tokens,
                     size_t n, bool want)
{
    struct draft_seq *s = a->seq;

    d->table[p->seqs] = s->kv.table;
    d->prompt[p->seqs] = (int32_t)a->n_prompt;
    for (size_t i = 0; i < n; i++, p->rows++) {
        d->token[p->rows] = tokens[i];
        d->pos[p->rows] = d->slot[p->rows] = (int32_t)(s->ids.n + i);
        d->seq[p->rows] = (int32_t)p->seqs;
    }
    p->seqs++;
    a->row = SIZE_MAX;
    if (want) {
        a->row = p->wants;
        d->want[p->wants++] = (int32_t)p->rows - 1;
    }
    ids_append(&s->ids, tokens, n);
}

static int forward(struct draft *d, const struct rows *p, struct err *e)
{
    const struct batch b = { .T = p->rows,
                             .token = d->token,
                             .pos = d->pos,
                             .slot = d->slot,
                             .seq = d->seq,
                             .n_seq = p->seqs,
                             .prompt = d->prompt,
                             .block_table = d->table,
                             .want = d->want,
                             .n_want = p->wants };
    struct engine *g = d->g;
    const size_t used =
        (kvpool_size(d->pool) - kvpool_available(d->pool) + kvpool_cached(d->pool)) * KV_BLOCK;

    d->most_rows = p->rows > d->most_rows ? p->rows : d->most_rows;
    d->most_tokens = used > d->most_tokens ? used : d->most_tokens;
    return llama_forward(g->ctx, g->model, g->acts, &d->kv, &b, d->logits, e);
}

static double fade(double old, double x)
{
    return old > 0 ? 0.9 * old + 0.1 * x : x;
}

/* One more guess out of a's logits, unless it is none of the large model's tokens. */
static void pick(struct draft *d, struct draft_ask *a)
{
    const float *logits = d->logits + a->row * (size_t)d->g->model->hp->vocab;
    struct ids *ids = &a->seq->ids;
    const int32_t id = sampler_pick(d->sampler, a->how, logits, ids->p, a->n_prompt, ids->n);

    if (id < 0 || id >= tok_size(d->g->tok)) {
        a->most = a->n;
        return;
    }
    a->out[a->n++] = id;
    /* a greedy model's own opinion tells more than how the others went */
    a->chance *= a->how->temperature > 0 ? hit_rate(a->seq)
                                         : exp((double)sampler_logprob(d->sampler, logits, id));
    if (a->n >= a->least && a->chance < a->worth)
        a->most = a->n;
}

/* The next pass over what is new of the texts: at most *left rows of one long text, so that equal
 * ones are read once, and all of the short ones. */
static void lay_out(struct draft *d, struct draft_ask *ask, size_t n, size_t *left, struct rows *p)
{
    bool one = *left == 0;

    *p = (struct rows){ 0 };
    for (size_t i = 0; i < n; i++) {
        struct draft_ask *a = &ask[i];
        const size_t at = a->seq->ids.n, news = a->all->n - at, room = d->g->chunk - p->rows;
        const bool many = news > KV_BLOCK;
        size_t rows = news < room ? news : room;

        a->row = SIZE_MAX;
        a->reads = false;
        if (a->most == 0 || rows == 0 || p->seqs == d->sequences || (many && one))
            continue;
        if (!kvpool_reserve(d->pool, &a->seq->kv, a->all->n + a->most)) {
            draft_leave(d, a->seq);
            a->most = 0;
            continue;
        }
        if (many) {
            rows = rows < *left ? rows : *left;
            *left -= rows;
            one = true;
        }
        add_rows(d, p, a, a->all->p + at, rows, rows == news);
        a->reads = true;
    }
}

static int catch_up(struct draft *d, struct draft_ask *ask, size_t n, size_t left, struct err *e)
{
    struct rows p;

    for (lay_out(d, ask, n, &left, &p); p.rows; lay_out(d, ask, n, &left, &p)) {
        const double began = clock_seconds();

        if (forward(d, &p, e))
            return -1;
        if (p.rows >= LEAST_ROWS)
            d->row_s = fade(d->row_s, (clock_seconds() - began) / (double)p.rows);
        for (size_t i = 0; i < n; i++) {
            struct draft_ask *a = &ask[i];

            if (a->reads)
                kvpool_commit(d->pool, &a->seq->kv, a->all->p, a->seq->ids.n);
            if (a->row != SIZE_MAX)
                pick(d, a);
        }
    }
    return 0;
}

static int go_on(struct draft *d, struct draft_ask *ask, size_t n, struct err *e)
{
    for (;;) {
        const double began = clock_seconds();
        struct rows p = { 0 };

        for (size_t i = 0; i < n; i++) {
            ask[i].row = SIZE_MAX;
            if (ask[i].n && ask[i].n < ask[i].most)
                add_rows(d, &p, &ask[i], ask[i].out + ask[i].n - 1, 1, true);
        }
        if (p.rows == 0)
            return 0;
        if (forward(d, &p, e))
            return -1;
        d->pass_s = fade(d->pass_s, clock_seconds() - began);
        for (size_t i = 0; i < n; i++)
            if (ask[i].row != SIZE_MAX)
                pick(d, &ask[i]);
    }
}

int draft_guess(struct draft *d, struct draft_ask *ask, size_t n, double spend, struct err *e)
{
    const size_t ctx = (size_t)d->g->model->hp->ctx;
    size_t left = SIZE_MAX;

    if (isfinite(spend))
        left = d->row_s > 0 ? (size_t)fmin(spend / d->row_s, 1e6) : FIRST_ROWS;
    if (left < LEAST_ROWS)
        left = LEAST_ROWS;
    for (size_t i = 0; i < n; i++) {
        struct draft_ask *a = &ask[i];

        a->n = 0;
        a->chance = 1;
        a->most = a->all->n + a->most <= ctx ? guesses(a) : 0;
        if (a->most)
            bring(d, a);
    }
    if (catch_up(d, ask, n, left, e) == 0 && go_on(d, ask, n, e) == 0)
        return 0;
    for (size_t i = 0; i < n; i++) {
        draft_leave(d, ask[i].seq);
        ask[i].n = 0;
    }
    return -1;
}
