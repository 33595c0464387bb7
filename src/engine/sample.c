#include "engine/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"

struct cand {
    float logit;
    int32_t id;
};

struct sampler {
    size_t vocab;
    float *work;        /* [V] logits after bias and penalties */
    uint32_t *count;    /* [V] scratch, zero between calls */
    struct cand *cand;  /* [V] */
    struct cand *other; /* [vocab], for sort_all; made when it is needed */
    struct pick_changes changes;
};

void sampling_init(struct sampling *s)
{
    *s = (struct sampling){ .temperature = 1, .top_p = 1, .repetition_penalty = 1 };
}

static int out_of_range(struct err *e, const char *name, double x, const char *range)
{
    return err_set(e, ERR_USAGE, "%s is %g; it must be %s", name, x, range);
}

int sampling_check(const struct sampling *s, struct err *e)
{
    if (!(s->temperature >= 0 && s->temperature <= 100))
        return out_of_range(e, "temperature", s->temperature, "0 (greedy) to 100");
    if (!(s->top_p > 0 && s->top_p <= 1))
        return out_of_range(e, "top_p", s->top_p, "above 0 and at most 1");
    if (s->top_k < 0)
        return out_of_range(e, "top_k", (double)s->top_k, "0 (off) or more");
    if (!(s->min_p >= 0 && s->min_p <= 1))
        return out_of_range(e, "min_p", s->min_p, "0 to 1");
    if (!(s->repetition_penalty > 0 && s->repetition_penalty <= 100))
        return out_of_range(e, "repetition_penalty", s->repetition_penalty, "above 0, at most 100");
    if (!(fabs(s->frequency_penalty) <= 2))
        return out_of_range(e, "frequency_penalty", s->frequency_penalty, "-2 to 2");
    if (!(fabs(s->presence_penalty) <= 2))
        return out_of_range(e, "presence_penalty", s->presence_penalty, "-2 to 2");
    for (size_t i = 0; i < s->n_bias; i++)
        if (!(fabsf(s->bias[i].bias) <= 100))
            return out_of_range(e, "logit_bias", (double)s->bias[i].bias, "-100 to 100");
    return 0;
}

int sampler_new(struct sampler **out, size_t vocab, struct err *e)
{
    struct sampler *s = xcalloc(1, sizeof(*s));
    void *work = NULL, *count = NULL, *cand = NULL;

    if (mem_new(&work, vocab, sizeof(float), "sampler", e) ||
        mem_new(&count, vocab, sizeof(uint32_t), "sampler", e) ||
        mem_new(&cand, vocab, sizeof(struct cand), "sampler", e)) {
        free(work);
        free(count);
        free(s);
        return -1;
    }
    *s = (struct sampler){ .vocab = vocab, .work = work, .count = count, .cand = cand };
    *out = s;
    return 0;
}

void sampler_free(struct sampler *s)
{
    if (!s)
        return;
    free(s->work);
    free(s->count);
    free(s->cand);
    free(s->other);
    free(s->changes.p);
    free(s);
}

static int32_t argmax(const float *x, size_t n)
{
    size_t best = 0;

    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return (int32_t)best;
}

static bool has_changes(const struct sampling *p)
{
    return p->n_bias > 0 || p->repetition_penalty != 1 || p->frequency_penalty != 0 ||
           p->presence_penalty != 0;
}

/* The change of an id, a new one where there is none. */
static struct pick_change *change_of(struct sampler *s, struct pick_changes *c, int32_t id)
{
    if (s->count[id] == 0) {
        if (c->n == c->cap) {
            c->cap = c->cap ? 2 * c->cap : 64;
            c->p = xrealloc(c->p, c->cap * sizeof(*c->p));
        }
        c->p[c->n++] = (struct pick_change){ .id = id, .by = 1 };
        s->count[id] = (uint32_t)c->n;
    }
    return &c->p[s->count[id] - 1];
}

void sampler_changes(struct sampler *s, const struct sampling *p, const int32_t *ids,
                     size_t n_prompt, size_t n, struct pick_changes *c)
{
    c->n = 0;
    for (size_t i = 0; i < p->n_bias; i++)
        if (p->bias[i].id >= 0 && (size_t)p->bias[i].id < s->vocab)
            change_of(s, c, p->bias[i].id)->add += p->bias[i].bias;
    for (size_t i = 0; i < n && p->repetition_penalty != 1; i++)
        change_of(s, c, ids[i])->by = (float)p->repetition_penalty; /* however often it came */
    if (p->frequency_penalty != 0 || p->presence_penalty != 0)
        for (size_t i = n_prompt; i < n; i++)
            change_of(s, c, ids[i])->less++;
    for (size_t i = 0; i < c->n; i++) {
        struct pick_change *k = &c->p[i];

        if (k->less > 0)
            k->less = (float)(p->frequency_penalty * (double)k->less + p->presence_penalty);
        s->count[k->id] = 0;
    }
}

static int by_logit(const void *a, const void *b)
{
    const struct cand *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static bool before(struct cand a, struct cand b)
{
    return by_logit(&a, &b) < 0;
}

/* Puts the k best of x[0..n) into c, best first: a heap of k whose root is the worst kept. */
static void select_best(struct cand *c, const float *x, size_t n, size_t k)
{
    for (size_t i = 0; i < n; i++) {
        const struct cand new = { x[i], (int32_t)i };
        size_t at;

        if (i < k) { /* grow: sift up */
            at = i;
            for (; at > 0 && before(c[(at - 1) / 2], new); at = (at - 1) / 2)
                c[at] = c[(at - 1) / 2];
        } else if (x[i] > c[0].logit) { /* an equal one has the higher id: not better */
            at = 0;                     /* replace the root: sift down */
            for (size_t kid; (kid = 2 * at + 1) < k; at = kid) {
                if (kid + 1 < k && before(c[kid], c[kid + 1]))
                    kid++;
                if (!before(new, c[kid]))
                    break;
                c[at] = c[kid];
            }
        } else {
            continue;
        }
        c[at] = new;
    }
    qsort(c, k < n ? k : n, sizeof(*c), by_logit);
}

/* Smaller for larger logits, the same for both zeros. */
static uint32_t key_of(float x)
{
    const uint32_t bits = x == 0 ? 0 : f32_bits(x);

    return bits & 0x80000000 ? bits : ~bits & 0x7FFFFFFF;
}

/* All of x into s->cand, best first, by digits of their keys: of 128256 flat logits a draw
 * takes 4.2 ms so, with a heap 23.6. */
static void sort_all(struct sampler *s, const float *x)
{
    enum { BITS = 11, DIGITS = 1 << BITS };
    const size_t V = s->vocab;
    struct cand *from = s->cand;

    if (!s->other)
        s->other = xcalloc(V, sizeof(*s->other));
    for (size_t i = 0; i < V; i++)
        from[i] = (struct cand){ x[i], (int32_t)i };
    for (int shift = 0; shift < 32; shift += BITS) {
        struct cand *const to = from == s->cand ? s->other : s->cand;
        uint32_t at[DIGITS] = { 0 }, sum = 0;

        for (size_t i = 0; i < V; i++)
            at[key_of(from[i].logit) >> shift & (DIGITS - 1)]++;
        for (size_t d = 0; d < DIGITS; d++) {
            const uint32_t n = at[d];

            at[d] = sum;
            sum += n;
        }
        for (size_t i = 0; i < V; i++)
            to[at[key_of(from[i].logit) >> shift & (DIGITS - 1)]++] = from[i];
        from = to;
    }
    s->other = from == s->cand ? s->other : s->cand;
    s->cand = from;
}

static double weight_of(const struct sampling *p, float logit, float max)
{
    return exp(((double)logit - (double)max) / p->temperature);
}

/* The candidates that top-k and top-p leave, likeliest first, in s->cand; returns how many. */
static size_t shortlist(struct sampler *s, const struct sampling *p, const float *x)
{
    enum { FIRST = 256 };
    const size_t V = s->vocab;
    const bool top_k = p->top_k > 0 && (size_t)p->top_k < V;
    size_t k = top_k ? (size_t)p->top_k : FIRST < V ? FIRST : V;
    const float max = x[argmax(x, V)];
    double sum = 0;

    select_best(s->cand, x, V, k);
    if (top_k)
        for (size_t i = 0; i < k; i++)
            sum += weight_of(p, s->cand[i].logit, max);
    else
        for (size_t i = 0; i < V; i++)
            sum += x[i] > -INFINITY ? weight_of(p, x[i], max) : 0;
    for (;;) {
        double mass = 0;

        for (size_t i = 0; i < k && p->top_p < 1; i++) {
            mass += weight_of(p, s->cand[i].logit, max);
            if (mass >= p->top_p * sum)
                return i + 1;
        }
        if (top_k || k == V || weight_of(p, s->cand[k - 1].logit, max) < p->min_p)
            return k;
        k = k == FIRST && 8 * FIRST < V ? 8 * FIRST : V; /* a flat distribution: look further */
        if (k < V)
            select_best(s->cand, x, V, k);
        else
            sort_all(s, x);
    }
}

/* One of n candidates, of which those that min-p leaves are moved to the front; max is the largest
 * logit of all. */
static int32_t choose(struct cand *c, size_t n, const struct sampling *p, float max, double u)
{
    size_t kept = 0;
    double sum = 0;

    for (size_t i = 0; i < n; i++) {
        const double w = weight_of(p, c[i].logit, max);

        if (w < p->min_p || w == 0)
            continue;
        sum += w;
        c[kept++] = c[i];
    }
    double left = u * sum;

    for (size_t i = 0; i < kept; i++) {
        left -= weight_of(p, c[i].logit, max);
        if (left < 0)
            return c[i].id;
    }
    return c[kept - 1].id; /* rounding left a crumb */
}

/* Neither top-k nor top-p nor min-p. */
static bool draws_from_all(const struct sampling *p)
{
    return p->temperature > 0 && p->top_k == 0 && p->top_p == 1 && p->min_p == 0;
}

static int32_t draw(struct sampler *s, const struct sampling *p, const float *x, double u)
{
    size_t n = 0;

    if (!draws_from_all(p)) {
        n = shortlist(s, p, x);
    } else {
        for (size_t i = 0; i < s->vocab; i++)
            if (x[i] > -INFINITY)
                s->cand[n++] = (struct cand){ x[i], (int32_t)i };
    }
    return choose(s->cand, n, p, x[argmax(x, s->vocab)], u);
}

/* Makes impossible what is not allowed. */
static void forbid(struct sampler *s, const uint64_t *allowed)
{
    for (size_t i = 0; i < s->vocab; i += 64) {
        const size_t n = s->vocab - i < 64 ? s->vocab - i : 64;
        const uint64_t bits = allowed[i / 64];

        for (size_t k = 0; k < n && bits != UINT64_MAX; k++)
            s->work[i + k] = bits >> k & 1 ? s->work[i + k] : -INFINITY;
    }
}

int32_t sampler_pick(struct sampler *s, const struct sampling *p, const float *logits,
                     const int32_t *ids, size_t n_prompt, size_t n)
{
    const float *x = logits;

    if (has_changes(p) || p->allowed) {
        memcpy(s->work, logits, s->vocab * sizeof(*logits));
        sampler_changes(s, p, ids, n_prompt, n, &s->changes);
        for (size_t i = 0; i < s->changes.n; i++)
            s->work[s->changes.p[i].id] =
                pick_changed(s->work[s->changes.p[i].id], &s->changes.p[i]);
        if (p->allowed)
            forbid(s, p->allowed);
        x = s->work;
    }
    const int32_t best = argmax(x, s->vocab);

    for (size_t i = 0; i < s->vocab; i++)
        if (isnan(logits[i]))
            return -1;
    if (!isfinite(x[best]))
        return -1;
    if (p->temperature == 0)
        return best;
    return draw(s, p, x, rng_uniform(p->seed, n - n_prompt));
}

/* ---- from the head of a row ---- */

static bool cuts_k(const struct sampling *p, size_t vocab)
{
    return p->top_k > 0 && (size_t)p->top_k < vocab;
}

bool sampling_ask(const struct sampling *p, size_t vocab, size_t answered, struct pick_ask *ask)
{
    ask->allowed = p->allowed;
    ask->draw = draws_from_all(p);
    ask->u = p->temperature > 0 ? rng_uniform(p->seed, answered) : 0;
    ask->bare = ask->draw || p->temperature == 0;
    ask->part = ask->bare || cuts_k(p, vocab) ? 0 : p->top_p;
    ask->least = p->min_p;
    ask->temperature = ask->draw || ask->part > 0 ? p->temperature : 0;
    return p->temperature == 0 || ask->draw || (p->top_k > 0 && p->top_k <= PICK_MOST) ||
           p->top_p < 1 || p->min_p > 0;
}

/* What shortlist() does, of the n first candidates: how many are left, or 0: not to be told. */
static size_t cut_list(const struct sampling *p, const struct pick_list *l, const struct cand *c,
                       size_t n, size_t vocab)
{
    const bool top_k = cuts_k(p, vocab);
    size_t k = top_k ? (size_t)p->top_k : PICK_MOST < vocab ? PICK_MOST : vocab;
    double sum = 0, mass = 0;

    if (k > n && !l->complete)
        return 0;
    k = k < n ? k : n; /* those that are not there weigh nothing */
    for (size_t i = 0; i < k && top_k; i++)
        sum += weight_of(p, c[i].logit, c[0].logit);
    if (!top_k && p->top_p < 1) {
        sum = l->sum;
        if (!(sum > 0.5)) /* the largest alone is 1 */
            return 0;
    }
    const double doubt = top_k ? 0 : 1.1 * PICK_SLACK * p->top_p * sum;

    for (size_t i = 0; i < k && p->top_p < 1; i++) {
        mass += weight_of(p, c[i].logit, c[0].logit);
        if (doubt > 0 && fabs(mass - p->top_p * sum) <= doubt)
            return 0;
        if (mass >= p->top_p * sum)
            return i + 1;
    }
    if (top_k || l->complete || k == vocab || weight_of(p, c[k - 1].logit, c[0].logit) < p->min_p)
        return k;
    return 0; /* a flat distribution */
}

int32_t sampler_pick_list(const struct sampling *p, const struct pick_list *l, size_t vocab,
                          size_t answered)
{
    struct cand c[PICK_MOST];
    const size_t n = (size_t)l->n;

    if (l->bad)
        return -1;
    if (p->temperature == 0 || draws_from_all(p))
        return l->drawn;
    if (n == 0 || !isfinite(l->logit[0]))
        return -1;
    for (size_t i = 0; i < n; i++)
        c[i] = (struct cand){ l->logit[i], l->id[i] };
    const size_t k = cut_list(p, l, c, n, vocab);

    return k ? choose(c, k, p, c[0].logit, rng_uniform(p->seed, answered)) : l->drawn;
}

static double log_sum_exp(const float *x, size_t n)
{
    const double max = (double)x[argmax(x, n)];
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - max);
    return max + log(sum);
}

float pick_logprob(const struct pick_list *l)
{
    return (float)((double)l->at - ((double)l->logit[0] + log(l->sum)));
}

void pick_top(const struct pick_list *l, size_t k, struct top_logprob *out)
{
    const double lse = (double)l->logit[0] + log(l->sum);

    for (size_t i = 0; i < k; i++)
        out[i] = (struct top_logprob){ l->id[i], (float)((double)l->logit[i] - lse) };
}

float sampler_logprob(const struct sampler *s, const float *logits, int32_t id)
{
    return (float)((double)logits[id] - log_sum_exp(logits, s->vocab));
}

int32_t sampler_rank(const struct sampler *s, const float *logits, int32_t id)
{
    int32_t n = 1;

    for (size_t i = 0; i < s->vocab; i++)
        n += logits[i] > logits[id];
    return n;
}

void sampler_top(struct sampler *s, const float *logits, size_t k, struct top_logprob *out)
{
    const double lse = log_sum_exp(logits, s->vocab);

    if (k > s->vocab)
        k = s->vocab;
    select_best(s->cand, logits, s->vocab, k);
    for (size_t i = 0; i < k; i++)
        out[i] = (struct top_logprob){ s->cand[i].id, (float)((double)s->cand[i].logit - lse) };
}
