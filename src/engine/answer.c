#include "engine/answer.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Where the first stop string in text at or after `from` begins (keep_stop: ends); SIZE_MAX = none.
 */
static size_t find_stop(const struct gen_request *r, const struct buf *text, size_t from)
{
    size_t best = SIZE_MAX, cut = SIZE_MAX;

    for (size_t i = 0; i < r->n_stop; i++) {
        const size_t n = strlen(r->stop[i]);

        if (n == 0)
            continue;
        const char *p = memmem(text->p + from, text->len - from, r->stop[i], n);

        if (p && (size_t)(p - text->p) < best) {
            best = (size_t)(p - text->p);
            cut = best + (r->keep_stop ? n : 0);
        }
    }
    return cut;
}

/* Bytes at the end of text that could be the beginning of a stop string. */
static size_t held_back(const struct gen_request *r, const struct buf *text, size_t from)
{
    size_t most = 0;

    for (size_t i = 0; i < r->n_stop; i++) {
        size_t k = strlen(r->stop[i]);

        if (k == 0)
            continue;
        for (k--; k > most; k--)
            if (k <= text->len - from && !memcmp(text->p + text->len - k, r->stop[i], k))
                break;
        if (k > most)
            most = k;
    }
    return most;
}

/* Adds one token's text; true when a stop string ended the answer. */
static bool take_text(struct answer *a, int32_t id)
{
    if (!a->tok)
        return false;
    tok_stream_add(&a->stream, a->tok, id, !a->r->keep_special, &a->out->text);
    const size_t at = find_stop(a->r, &a->out->text, a->shown);

    if (at != SIZE_MAX) {
        buf_cut(&a->out->text, at);
        a->shown = at;
        return true;
    }
    a->shown = a->out->text.len - held_back(a->r, &a->out->text, a->shown);
    return false;
}

/* Room for what is told of the next token's chances. */
static void more_logprobs(struct answer *a)
{
    const size_t n = a->out->ids.n + 1, k = a->r->top_logprobs, w = a->r->n_watch;

    a->out->logprob = xrealloc(a->out->logprob, n * sizeof(float));
    if (w)
        a->out->watched = xrealloc(a->out->watched, n * w * sizeof(float));
    if (k)
        a->out->top = xrealloc(a->out->top, n * k * sizeof(*a->out->top));
}

static void take_logprobs(struct answer *a, struct sampler *s, const float *logits, int32_t id)
{
    const size_t n = a->out->ids.n, k = a->r->top_logprobs, w = a->r->n_watch;

    if (!a->r->logprobs)
        return;
    more_logprobs(a);
    a->out->logprob[n] = sampler_logprob(s, logits, id);
    for (size_t i = 0; i < w; i++)
        a->out->watched[n * w + i] = sampler_logprob(s, logits, a->r->watch[i]);
    if (k)
        sampler_top(s, logits, k, a->out->top + n * k);
}

static bool is_eos(const struct gen_request *r, int32_t id)
{
    for (size_t i = 0; i < r->n_eos; i++)
        if (r->eos[i] == id)
            return true;
    return false;
}

int answer_init(struct answer *a, const struct gen_request *r, const struct tok *tok, size_t ctx,
                size_t model_ctx, struct gen_result *out, struct err *e)
{
    *a = (struct answer){ .r = r, .out = out, .tok = tok, .ctx = ctx };
    *out = (struct gen_result){ .stop_id = -1 };
    buf_init(&out->text, SIZE_MAX / 2); /* bounded by the context */
    if (sampling_check(&r->sampling, e))
        return -1;
    if (r->n_prompt >= ctx)
        return err_set(e, ERR_USAGE,
                       "the prompt has %zu tokens and the context is %zu: nothing is left for an "
                       "answer; raise --ctx (the model allows %zu)",
                       r->n_prompt, ctx, model_ctx);
    ids_append(&a->all, r->prompt, r->n_prompt);
    if (r->min_new_tokens) {
        const size_t n = r->sampling.n_bias;

        a->no_end = xcalloc(n + r->n_eos + 1, sizeof(*a->no_end));
        for (size_t i = 0; i < n; i++)
            a->no_end[i] = r->sampling.bias[i];
        for (size_t i = 0; i < r->n_eos; i++)
            a->no_end[n + i] = (struct logit_bias){ r->eos[i], -1e30f };
    }
    if (r->grammar) {
        guide_begin(&a->guide, r->grammar);
        a->mask = xcalloc(guide_words(&a->guide), sizeof(*a->mask));
    }
    return 0;
}

int answer_how(struct answer *a, struct sampling *how, struct err *e)
{
    const struct gen_request *r = a->r;

    if (a->mask && guide_mask(&a->guide, r->eos, r->n_eos, a->mask, e))
        return -1;
    if (a->mask && r->aside && guide_accepts(&a->guide))
        a->mask[r->aside / 64] |= 1ull << (r->aside % 64);
    *how = r->sampling;
    how->allowed = a->mask;
    if (a->out->ids.n < r->min_new_tokens) {
        how->bias = a->no_end;
        how->n_bias += r->n_eos;
    }
    return 0;
}

bool answer_ask(struct answer *a, struct sampler *s, size_t vocab, struct sampling *how,
                struct pick_changes *changes, struct pick_ask *ask)
{
    const struct gen_request *r = a->r;
    struct err none; /* met again when the token is taken */

    if ((r->logprobs && (r->n_watch || r->top_logprobs > PICK_MOST)) || answer_how(a, how, &none) ||
        !sampling_ask(how, vocab, a->all.n - r->n_prompt, ask))
        return false;
    sampler_changes(s, how, a->all.p, r->n_prompt, a->all.n, changes);
    ask->change = changes->p;
    ask->n_change = changes->n;
    return true;
}

struct pick_ask answer_ask_chances(size_t row, int32_t id)
{
    return (struct pick_ask){ .row = row, .temperature = 1, .draw = true, .at = id };
}

bool answer_has_chances(const struct answer *a, const struct pick_list *list)
{
    return list->n > 0 && (size_t)list->n >= a->r->top_logprobs;
}

/* The next id out of its logits, or -1. */
static int32_t pick(struct answer *a, struct sampler *s, const float *logits, struct err *e)
{
    struct sampling how;

    if (answer_how(a, &how, e))
        return -1;
    const int32_t id = sampler_pick(s, &how, logits, a->all.p, a->r->n_prompt, a->all.n);

    if (id < 0)
        err_set(e, ERR_FORMAT,
                "the model's output at position %zu is not finite: its weights overflow", a->all.n);
    return id;
}

/* The answer goes on with id: as answer_take. */
static int take_id(struct answer *a, int32_t id)
{
    const struct gen_request *r = a->r;

    ids_add(&a->out->ids, id);
    ids_add(&a->all, id);
    if (is_eos(r, id)) {
        a->out->finish = FINISH_STOP;
        a->out->stop_id = id;
        return 0;
    }
    if (a->mask && !(r->aside && id == r->aside))
        BUG_ON(!guide_take(&a->guide, id)); /* the mask had it */
    if (take_text(a, id)) {
        a->out->finish = FINISH_STOP;
        return 0;
    }
    if (a->mask && guide_final(&a->guide)) { /* only an end could follow */
        a->out->finish = FINISH_STOP;
        a->out->stop_id = r->n_eos ? r->eos[0] : -1;
        return 0;
    }
    if ((r->max_new_tokens && a->out->ids.n >= r->max_new_tokens) || a->all.n >= a->ctx) {
        a->out->finish = FINISH_LENGTH;
        return 0;
    }
    if (r->cancel && *r->cancel) {
        a->out->finish = FINISH_CANCELLED;
        return 0;
    }
    return 1;
}

int answer_take(struct answer *a, struct sampler *s, const float *logits, struct err *e)
{
    const int32_t id = pick(a, s, logits, e);

    if (id < 0)
        return -1;
    take_logprobs(a, s, logits, id);
    return take_id(a, id);
}

int answer_take_id(struct answer *a, int32_t id, const struct pick_list *chances)
{
    const size_t n = a->out->ids.n, k = a->r->top_logprobs;

    if (a->r->logprobs) {
        more_logprobs(a);
        a->out->logprob[n] = pick_logprob(chances);
        if (k)
            pick_top(chances, k, a->out->top + n * k);
    }
    return take_id(a, id);
}

size_t answer_forced(struct answer *a, int32_t *out, size_t most)
{
    char text[256];
    struct ids ids = { 0 };
    struct err e;
    size_t n = a->mask ? guide_forced(&a->guide, text, sizeof(text)) : 0;

    if (n == 0 || tok_encode(a->tok, text, n, TOK_PLAIN, &ids, &e))
        n = 0;
    else
        n = ids.n < most ? ids.n : most;
    if (n)
        memcpy(out, ids.p, n * sizeof(*out));
    ids_release(&ids);
    return n;
}

void answer_end(struct answer *a)
{
    /* a stop string has cut the text already; otherwise an unfinished character comes out */
    if (a->tok && (a->out->finish != FINISH_STOP || a->out->stop_id >= 0))
        tok_stream_end(&a->stream, &a->out->text);
    a->shown = a->out->text.len;
}

void answer_release(struct answer *a)
{
    ids_release(&a->all);
    guide_end(&a->guide);
    free(a->mask);
    free(a->no_end);
    *a = (struct answer){ 0 };
}
