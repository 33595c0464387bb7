/* bpe.h - the merge loop of byte-level BPE. Private to src/text.
 *
 * A piece starts as single bytes; the adjacent pair of the lowest rank is merged
 * (leftmost on ties) until no pair has a rank. Where ranks come from:
 *   - a merge list (tokenizer.json, GGUF): the pair's place in the list;
 *   - no list (tiktoken): the id of the token that the two make together.
 * With `whole`, a piece that is a token itself is that token without any merging
 * (Hugging Face's ignore_merges): 588 of Llama 3's tokens cannot be reached by merges. */
#ifndef PUNA_TEXT_BPE_H
#define PUNA_TEXT_BPE_H

#include "text/tokenizer.h"
#include "text/vocab.h"

struct bpe {
    struct merge_slot {
        int32_t left, right; /* left = -1: free */
        uint32_t rank;
        int32_t id;          /* what they become */
    } *slot;                 /* owned: open addressing; NULL = ranks are ids */
    size_t mask, n;
    uint64_t seed;
    bool whole;
};

/* Room for n merges. */
int bpe_init(struct bpe *b, size_t n, struct err *e) MUST_USE;
void bpe_release(struct bpe *b); /* legal on a zeroed struct */
/* The next merge of the list: tokens a and b, given by their bytes, become one. Refuses
 * tokens that are not in the vocabulary and a pair listed twice. */
int bpe_add(struct bpe *b, const struct vocab *v, const char *left, size_t nl, const char *right,
            size_t nr, struct err *e) MUST_USE;
/* The same from "a b" as files write it: two tokens in byte letters, in which a space cannot
 * occur. */
int bpe_add_joined(struct bpe *b, const struct vocab *v, const char *p, size_t n,
                   struct err *e) MUST_USE;

/* Scratch memory of one encoding, kept from piece to piece. */
struct bpe_work {
    struct sym *sym;      /* owned */
    struct bpe_cand *heap; /* owned */
    size_t cap, heap_cap;
};
void bpe_work_release(struct bpe_work *w);

/* Appends the ids of one piece, n < 2^31. Bytes without a token are left out, as in Hugging
 * Face's library: vocabularies that lack some exist (vocab_check_bytes). */
int bpe_piece(const struct bpe *b, const struct vocab *v, struct bpe_work *w, const char *p,
              size_t n, struct ids *out, struct err *e) MUST_USE;

#endif
