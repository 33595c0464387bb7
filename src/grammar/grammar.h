/* grammar.h - what an answer must look like, compiled, and an answer's place in it.
 *
 * A grammar says which bytes may follow, whatever the tokens are: a token may come when all of its
 * bytes may, and an end when the text is whole. Results depend on grammar and text alone; masks are
 * remembered with the places they belong to. */
#ifndef PUNA_GRAMMAR_GRAMMAR_H
#define PUNA_GRAMMAR_GRAMMAR_H

#include "grammar/tokens.h"

struct grammar; /* counted references; any thread */

/* Compiles x over t, which is borrowed for ever. `what` names it in messages. Refused: what
 * automaton_new refuses, and what is too ambiguous to be followed. */
int grammar_new(struct grammar **out, const struct exprs *x, const struct tokens *t,
                const char *what, struct err *e) MUST_USE;
struct grammar *grammar_ref(struct grammar *g);
void grammar_unref(struct grammar *g); /* legal on NULL */

/* One answer's place. Not for two threads at once, but guide_prepare may run beside anything. */
struct guide {
    struct grammar *g; /* NULL = none */
    struct matcher at;
};

void guide_begin(struct guide *p, struct grammar *g); /* takes a reference */
void guide_end(struct guide *p);                      /* legal on a zeroed struct */
size_t guide_words(const struct guide *p);            /* of its masks */
/* Bits of the ids that may come next: the ends where the text is
 * whole. -1: none may, or the place is too ambiguous. */
int guide_mask(struct guide *p, const int32_t *eos, size_t n_eos, uint64_t *mask,
               struct err *e) MUST_USE;
/* Goes on behind a token; false = it may not come, and nothing has changed. */
bool guide_take(struct guide *p, int32_t id);
/* The same for bytes. */
bool guide_take_bytes(struct guide *p, const char *s, size_t n);
bool guide_accepts(const struct guide *p); /* the text may end here */
bool guide_final(const struct guide *p);   /* it must */
/* Text that must come next, whatever the tokens: at most n bytes; returns how many. */
size_t guide_forced(struct guide *p, char *out, size_t n);
/* Makes the next guide_mask quick; whether it is already. */
void guide_prepare(struct guide *p);
bool guide_ready(const struct guide *p);

#endif
