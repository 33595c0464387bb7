/* draft.h - guesses at what a model says next, by a smaller one of the same vocabulary (Leviathan
 * et al. 2023, arXiv:2211.17192).
 *
 * The large model checks all guesses of an answer in one pass. A guess is right when it is the
 * token that the large model's own logits give with the request's own draw, so answers are the same
 * as without, to the last bit, whatever is guessed. The small model draws with the same random
 * numbers: where the two agree about the distribution they agree about the token.
 *
 * The drafter has a paged cache of its own, with a prefix cache of its own. It is one thread's, the
 * one that drives the large model. */
#ifndef PUNA_ENGINE_DRAFT_H
#define PUNA_ENGINE_DRAFT_H

#include "engine/kvpool.h"
#include "engine/session.h"

enum { MAX_GUESS = 8, DRAFT_GUESSES = 4 }; /* a pass; where nobody said how many */

struct draft;

/* What the drafter knows of one answer. Zeroed but for kv.salt = nothing. */
struct draft_seq {
    struct kvseq kv;
    struct ids ids;      /* owned: tokens in the cache, some of which may have proved wrong */
    double right, tries; /* fading sums: guesses that proved right, and that were checked */
    unsigned rest;       /* passes without guesses still to come */
};

/* Guesses for one answer. */
struct draft_ask {
    struct draft_seq *seq;
    const struct ids *all; /* prompt and answer so far */
    size_t n_prompt;
    const struct sampling *how; /* of the request */
    size_t least, most;         /* guesses: at least so many, if there is room */
    double worth; /* what the chance that a further guess counts must be for it to pay */
    int32_t *out; /* [most] */
    size_t n;     /* set: guesses in out */
    /* inside */
    size_t row;    /* of its logits in this pass; SIZE_MAX = none */
    bool reads;    /* rows of its text are in this pass */
    double chance; /* that all guesses so far are right */
};

/* g: opened beside the large model, of which it is the drafter (engine_set_drafter); borrowed. A
 * cache of `blocks` blocks, and at most `sequences` answers at a time. */
int draft_new(struct draft **out, struct engine *g, size_t blocks, size_t sequences,
              struct err *e) MUST_USE;
void draft_free(struct draft *d); /* legal on NULL */
/* Sets n of every ask. What a drafter has not read of a text yet it reads first, at most as many
 * rows as take about `spend` seconds (INFINITY = all); until then there are no guesses. -1: a pass
 * failed, and there are none at all. */
int draft_guess(struct draft *d, struct draft_ask *ask, size_t n, double spend,
                struct err *e) MUST_USE;
/* Of `guessed` tokens the first `right` were right. */
void draft_note(struct draft_seq *s, size_t guessed, size_t right);
/* Seconds that a pass with one row for each answer takes; 0 = nothing is known yet. */
double draft_pass_s(const struct draft *d);
/* Tells the drafter's engine (peak) what was used so far, for who plans memory. */
void draft_tell_peak(const struct draft *d);
/* Gives the blocks back; what it has learnt of the answer stays. */
void draft_leave(struct draft *d, struct draft_seq *s);
void draft_seq_release(struct draft *d, struct draft_seq *s); /* d NULL: legal on a zeroed one */
/* BUG when blocks are in use (kvpool_audit). */
void draft_audit(const struct draft *d);

#endif
