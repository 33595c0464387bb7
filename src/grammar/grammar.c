#include "grammar/grammar.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { ROOM = 24 << 20 }; /* bytes for states and masks of one grammar */

struct grammar {
    pthread_mutex_t lock; /* over all but t */
    size_t refs;
    const struct tokens *t;
    struct states *s;
};

/* The mask of a state. */
static const uint64_t *mask_of(struct grammar *g, uint32_t state)
{
    bool found;
    uint64_t *mask = states_mask(g->s, state, tokens_words(g->t), &found);

    /* a mask that was given up stays empty, and so does the answer to the next who asks */
    if (!found && !tokens_find(g->t, g->s, state, mask))
        memset(mask, 0, tokens_words(g->t) * sizeof(*mask));
    return mask;
}

static bool is_empty(const uint64_t *mask, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (mask[i])
            return false;
    return true;
}

int grammar_new(struct grammar **out, const struct exprs *x, const struct tokens *t,
                const char *what, struct err *e)
{
    struct automaton a;
    struct grammar *g;
    struct guide p = { 0 };
    uint64_t *mask;
    int rc;

    if (automaton_new(&a, x, e))
        return err_wrap(e, "%s", what);
    g = xcalloc(1, sizeof(*g));
    pthread_mutex_init(&g->lock, NULL);
    g->refs = 1;
    g->t = t;
    g->s = states_new(&a, ROOM);
    /* the first mask, which the first token waits for, tells early what cannot work */
    mask = xcalloc(tokens_words(t), sizeof(*mask));
    guide_begin(&p, g);
    if (guide_final(&p))
        rc = err_set(e, ERR_USAGE, "only the empty text matches it: every answer would be empty");
    else
        rc = guide_accepts(&p) ? 0 : guide_mask(&p, NULL, 0, mask, e);
    guide_end(&p);
    free(mask);
    if (rc) {
        grammar_unref(g);
        return err_wrap(e, "%s", what);
    }
    *out = g;
    return 0;
}

struct grammar *grammar_ref(struct grammar *g)
{
    pthread_mutex_lock(&g->lock);
    g->refs++;
    pthread_mutex_unlock(&g->lock);
    return g;
}

void grammar_unref(struct grammar *g)
{
    size_t left;

    if (!g)
        return;
    pthread_mutex_lock(&g->lock);
    left = --g->refs;
    pthread_mutex_unlock(&g->lock);
    if (left)
        return;
    states_free(g->s);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

void guide_begin(struct guide *p, struct grammar *g)
{
    p->g = grammar_ref(g);
    pthread_mutex_lock(&g->lock);
    matcher_begin(&p->at, g->s);
    pthread_mutex_unlock(&g->lock);
}

void guide_end(struct guide *p)
{
    if (!p->g)
        return;
    pthread_mutex_lock(&p->g->lock);
    matcher_end(&p->at);
    pthread_mutex_unlock(&p->g->lock);
    grammar_unref(p->g);
    *p = (struct guide){ 0 };
}

size_t guide_words(const struct guide *p)
{
    return tokens_words(p->g->t);
}

int guide_mask(struct guide *p, const int32_t *eos, size_t n_eos, uint64_t *mask, struct err *e)
{
    struct grammar *g = p->g;
    const size_t n = tokens_words(g->t);
    bool accepts;

    pthread_mutex_lock(&g->lock);
    states_trim(g->s);
    memcpy(mask, mask_of(g, p->at.state), n * sizeof(*mask));
    accepts = states_accepts(g->s, p->at.state);
    pthread_mutex_unlock(&g->lock);
    for (size_t i = 0; i < n_eos; i++) {
        if (eos[i] < 0 || (size_t)eos[i] >= g->t->vocab)
            continue;
        mask[eos[i] / 64] &= ~(1ull << (eos[i] % 64)); /* an ordinary token may be an end */
        mask[eos[i] / 64] |= (uint64_t)accepts << (eos[i] % 64);
    }
    if (is_empty(mask, n))
        return err_set(e, ERR_USAGE,
                       "the grammar leads to a place where no token of this model can follow, or "
                       "where it can be read in too many ways at once");
    return 0;
}

bool guide_take_bytes(struct guide *p, const char *s, size_t n)
{
    struct grammar *g = p->g;
    uint32_t at;

    pthread_mutex_lock(&g->lock);
    states_trim(g->s);
    at = p->at.state;
    for (size_t i = 0; i < n && at != STATE_DEAD; i++)
        at = states_step(g->s, at, (uint8_t)s[i]);
    if (at != STATE_DEAD)
        p->at.state = at;
    pthread_mutex_unlock(&g->lock);
    return at != STATE_DEAD;
}

bool guide_take(struct guide *p, int32_t id)
{
    size_t n = 0;
    const char *s = tok_bytes(p->g->t->tok, id, &n);

    return s && !tok_is_special(p->g->t->tok, id) && guide_take_bytes(p, s, n);
}

bool guide_accepts(const struct guide *p)
{
    bool yes;

    pthread_mutex_lock(&p->g->lock);
    yes = states_accepts(p->g->s, p->at.state);
    pthread_mutex_unlock(&p->g->lock);
    return yes;
}

bool guide_final(const struct guide *p)
{
    bool yes;

    pthread_mutex_lock(&p->g->lock);
    yes = states_final(p->g->s, p->at.state);
    pthread_mutex_unlock(&p->g->lock);
    return yes;
}

size_t guide_forced(struct guide *p, char *out, size_t most)
{
    struct grammar *g = p->g;
    size_t n = 0;
    uint32_t at;
    int byte;

    pthread_mutex_lock(&g->lock);
    states_trim(g->s);
    at = p->at.state;
    while (n < most && (byte = states_forced(g->s, at)) >= 0) {
        out[n++] = (char)byte;
        at = states_step(g->s, at, (uint8_t)byte);
    }
    pthread_mutex_unlock(&g->lock);
    return n;
}

void guide_prepare(struct guide *p)
{
    struct grammar *g = p->g;

    pthread_mutex_lock(&g->lock);
    states_trim(g->s);
    mask_of(g, p->at.state);
    pthread_mutex_unlock(&g->lock);
}

bool guide_ready(const struct guide *p)
{
    bool yes;

    pthread_mutex_lock(&p->g->lock);
    yes = states_has_mask(p->g->s, p->at.state);
    pthread_mutex_unlock(&p->g->lock);
    return yes;
}
