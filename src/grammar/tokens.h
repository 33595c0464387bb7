/* tokens.h - a vocabulary as a trie over bytes, in which an automaton finds the tokens it takes. */
#ifndef PUNA_GRAMMAR_TOKENS_H
#define PUNA_GRAMMAR_TOKENS_H

#include "grammar/matcher.h"
#include "text/tokenizer.h"

/* Immutable; may be shared. */
struct tokens {
    const struct tok *tok; /* borrowed */
    size_t vocab;          /* of the logits */
    struct token_node {
        uint32_t end;   /* the first node behind this one and all below it */
        uint32_t first; /* its tokens: id[first..] up to the next node's first */
        uint16_t depth; /* bytes from the root, which is no node: 1.. */
        uint8_t byte;
    } * node; /* owned; parents before children; one more than n */
    size_t n;
    int32_t *id; /* owned; ordinary tokens, by their bytes */
    size_t n_ids;
};

/* Control tokens are left out, as are ids from vocab on. */
void tokens_init(struct tokens *t, const struct tok *tok, size_t vocab);
void tokens_release(struct tokens *t); /* legal on a zeroed struct */

/* Words of a mask: bit id % 64 of word id / 64. */
size_t tokens_words(const struct tokens *t);
/* Sets the bits of the tokens that s takes in `state`. False: it was given up, as too many ways to
 * read the text had to be followed. */
bool tokens_find(const struct tokens *t, struct states *s, uint32_t state, uint64_t *mask);

#endif
