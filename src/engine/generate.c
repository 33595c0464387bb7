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

/* An answer in the making. */
struct making {
    struct answer a;
    struct session *s;
    struct sampler *sampler;
    struct pick_changes changes;
    size_t shown; /* bytes of text */
    bool untold;  /* the last token is to be shown while a device computes the next one */
};

static void tell(struct making *m)
{
    m->shown = show(&m->a, m->shown);
    m->untold = false;
}

/* The next token out of the only row of logits on a device, as answer_take. */
static int take_there(struct making *m, struct err *e)
{
    struct ctx *const c = session_engine(m->s)->ctx;
    const size_t V = (size_t)session_engine(m->s)->model->hp->vocab;
    const struct gen_request *const r = m->a.r;
    struct pick_ask ask = { .row = 0 };
    struct pick_list list;
    struct sampling how;
    const float *logits;

    if (answer_ask(&m->a, m->sampler, V, &how, &m->changes, &ask)) {
        if (c->be->pick(c, &ask, 1, V, &list, e))
            return -1;
        const int32_t id = sampler_pick_list(&how, &list, V, m->a.all.n - r->n_prompt);

        ask = answer_ask_chances(0, id);
        if (id >= 0 && r->logprobs && c->be->pick(c, &ask, 1, V, &list, e))
            return -1;
        if (id >= 0 && (!r->logprobs || answer_has_chances(&m->a, &list)))
            return answer_take_id(&m->a, id, &list);
    }
    return session_fetch(m->s, &logits, e) ? -1 : answer_take(&m->a, m->sampler, logits, e);
}

/* Tokens out of the logits of the last token and of n guesses behind it: one, and one more for each
 * guess that is right. logits: as session_check has them. As answer_take. */
static int take(struct making *m, const float *logits, const int32_t *guess, size_t n,
                struct err *e)
{
    struct answer *const a = &m->a;
    const size_t V = (size_t)session_engine(m->s)->model->hp->vocab, before = a->all.n;
    size_t right = 0;
    int rc;

    if (m->untold)
        tell(m);
    if (!logits) {
        rc = take_there(m, e);
        m->untold = rc > 0;
    } else {
        while ((rc = answer_take(a, m->sampler, logits + right * V, e)) > 0) {
            tell(m);
            if (right == n || a->all.p[a->all.n - 1] != guess[right])
                break;
            right++;
        }
    }
    /* the last token is not in the cache yet, nor a guess that was not reached */
    session_cut(m->s, before + right < a->all.n ? before + right : a->all.n - 1);
    session_noted(m->s, n, right);
    a->out->guessed += n;
    a->out->guessed_right += right;
    return rc;
}

static int loop(struct making *m, struct err *e)
{
    struct answer *const a = &m->a;
    struct session *const s = m->s;
    const struct gen_request *r = a->r;
    const double start = clock_seconds();
    int32_t guess[MAX_GUESS];
    const float *logits;
    size_t n = 0;
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
    while ((rc = take(m, logits, guess, n, e)) > 0) {
        n = session_guess(s, &a->all, r, guess);
        if (session_check(s, a->all.p[a->all.n - 1], guess, n, &logits, e)) {
            rc = -1;
            break;
        }
    }
    if (m->untold)
        tell(m);
    a->out->decode_s = clock_seconds() - start - a->out->prompt_s;
    if (rc == 0) {
        answer_end(a);
        tell(m);
    }
    return rc;
}

int generate(struct session *s, const struct gen_request *r, struct gen_result *out, struct err *e)
{
    struct engine *eng = session_engine(s);
    struct making m = { .s = s };
    int rc = -1;

    if (answer_init(&m.a, r, eng->tok, session_ctx(s), (size_t)eng->model->hp->ctx, out, e) == 0 &&
        sampler_new(&m.sampler, (size_t)eng->model->hp->vocab, e) == 0)
        rc = loop(&m, e);
    sampler_free(m.sampler);
    answer_release(&m.a);
    free(m.changes.p);
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
