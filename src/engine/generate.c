/* generate.c - the loop: logits, token, text, stop. */
#include <stdlib.h>

#include "base/clock.h"
#include "engine/answer.h"
#include "engine/draft.h"
#include "engine/session_int.h"

const char *finish_name(enum finish f)
{
    switch (f) {
    case FINISH_STOP:
        return "stop";
    case FINISH_LENGTH:
        return "length";
    case FINISH_FILTER:
        return "content_filter";
    case FINISH_CANCELLED:
        return "cancelled";
    }
    return "stop";
}

/* Hands over the text that a has let go since `from`, and the last token. */
static size_t show(const struct answer *a, size_t from)
{
    if (a->r->on_text && a->shown > from)
        a->r->on_text(a->r->arg, a->out->text.p + from, a->shown - from);
    if (a->r->on_token)
        a->r->on_token(a->r->arg, a->out->ids.p[a->out->ids.n - 1]);
    return a->shown;
}

/* Tokens out of the logits of a's last token and of n guesses behind it: one, and one more for each
 * guess that is right. As answer_take. */
static int take(struct answer *a, struct session *s, struct sampler *sampler, const float *logits,
                const int32_t *guess, size_t n, size_t *shown, struct err *e)
{
    const size_t V = (size_t)session_engine(s)->model->hp->vocab, before = a->all.n;
    size_t right = 0;
    int rc;

    while ((rc = answer_take(a, sampler, logits + right * V, e)) > 0) {
        *shown = show(a, *shown);
        if (right == n || a->all.p[a->all.n - 1] != guess[right])
            break;
        right++;
    }
    /* the last token is not in the cache yet, nor a guess that was not reached */
    session_cut(s, before + right < a->all.n ? before + right : a->all.n - 1);
    session_noted(s, n, right);
    a->out->guessed += n;
    a->out->guessed_right += right;
    return rc;
}

static int loop(struct answer *a, struct session *s, struct sampler *sampler, struct err *e)
{
    const struct gen_request *r = a->r;
    const double start = clock_seconds();
    int32_t guess[MAX_GUESS];
    const float *logits;
    size_t shown = 0, n = 0;
    int rc;

    while (a->out->cached < session_len(s) && a->out->cached + 1 < r->n_prompt &&
           session_ids(s)[a->out->cached] == r->prompt[a->out->cached])
        a->out->cached++;
    rc = session_eval(s, r->prompt, r->n_prompt, &logits, r->cancel, r->on_progress, r->arg, e);
    if (rc < 0)
        return -1;
    a->out->prompt_s = clock_seconds() - start;
    if (rc > 0) {
        a->out->finish = FINISH_CANCELLED;
        return 0;
    }
    while ((rc = take(a, s, sampler, logits, guess, n, &shown, e)) > 0) {
        n = session_guess(s, &a->all, r, guess);
        if (session_check(s, a->all.p[a->all.n - 1], guess, n, &logits, e))
            return -1;
    }
    a->out->decode_s = clock_seconds() - start - a->out->prompt_s;
    if (rc == 0) {
        answer_end(a);
        show(a, shown);
    }
    return rc;
}

int generate(struct session *s, const struct gen_request *r, struct gen_result *out, struct err *e)
{
    struct engine *eng = session_engine(s);
    struct sampler *sampler = NULL;
    struct answer a;
    int rc = -1;

    if (answer_init(&a, r, eng->tok, session_ctx(s), (size_t)eng->model->hp->ctx, out, e) == 0 &&
        sampler_new(&sampler, (size_t)eng->model->hp->vocab, e) == 0)
        rc = loop(&a, s, sampler, e);
    sampler_free(sampler);
    answer_release(&a);
    if (rc)
        gen_result_release(out);
    return rc;
}

void gen_result_release(struct gen_result *r)
{
    ids_release(&r->ids);
    buf_release(&r->text);
    free(r->logprob);
    free(r->top);
    free(r->watched);
    *r = (struct gen_result){ 0 };
}
