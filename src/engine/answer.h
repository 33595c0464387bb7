/* answer.h - one answer in the making: from logits to token, text and stop. generate() and the
 * scheduler share it. */
#ifndef PUNA_ENGINE_ANSWER_H
#define PUNA_ENGINE_ANSWER_H

#include "engine/session.h"

struct answer {
    const struct gen_request *r; /* borrowed; its callbacks are the caller's matter */
    struct gen_result *out;      /* borrowed */
    const struct tok *tok;       /* borrowed; NULL = no text */
    size_t ctx;                  /* tokens of prompt and answer that end it */
    struct tok_stream stream;
    struct ids all;     /* owned: prompt + answer */
    struct guide guide; /* owned: the place in r->grammar */
    uint64_t *mask;     /* owned: the ids that may come next; NULL without a grammar */
    struct logit_bias
        *no_end;  /* owned: the request's biases, and none of its eos; NULL = may end */
    size_t shown; /* bytes of out->text that cannot become part of a stop string */
};

/* Checks r and begins; *out is initialised in any case (gen_result_release). model_ctx: for the
 * message when nothing is left for an answer. */
int answer_init(struct answer *a, const struct gen_request *r, const struct tok *tok, size_t ctx,
                size_t model_ctx, struct gen_result *out, struct err *e) MUST_USE;
/* The next token out of logits [V] of the last one. 1 = go on, 0 = the answer is over
 * (a->out->finish says why), -1 = error. s is scratch. */
int answer_take(struct answer *a, struct sampler *s, const float *logits, struct err *e) MUST_USE;
/* The same where the token is known. chances: if a->r->logprobs, as pick_logprob takes them, at
 * least top_logprobs; nothing may be watched. */
int answer_take_id(struct answer *a, int32_t id, const struct pick_list *chances) MUST_USE;
/* How the next token is picked; allowed and biases are a's and the request's. */
int answer_how(struct answer *a, struct sampling *how, struct err *e) MUST_USE;
/* What is asked of the next token's logits where they are (ops/pick.h); false: it takes all of
 * them. ask->row is the caller's; how: as answer_how; changes: what ask->change lies in, kept from
 * call to call, the caller's to free. */
bool answer_ask(struct answer *a, struct sampler *s, size_t vocab, struct sampling *how,
                struct pick_changes *changes, struct pick_ask *ask);
/* What is asked of row `row`, in which nothing is changed or forbidden, for the chances of a token
 * that was picked. */
struct pick_ask answer_ask_chances(size_t row, int32_t id);
/* Whether the list that comes of it has all the request wants to know. */
bool answer_has_chances(const struct answer *a, const struct pick_list *list);
/* Tokens that the grammar leaves no choice about, as the tokenizer spells them: a guess at what
 * comes next. At most `most`; returns how many. */
size_t answer_forced(struct answer *a, int32_t *out, size_t most);
/* After the last token: what the text still held back. */
void answer_end(struct answer *a);
void answer_release(struct answer *a); /* legal on a zeroed struct */

#endif
