/* kvpool.h - the blocks of a paged KV cache: who uses them, and which are worth keeping.
 *
 * A block holds KV_BLOCK positions of one sequence in every layer. A full block hangs in a tree:
 * the path from its root spells the tokens before it, so sequences with a common prefix share
 * blocks, and a block that nobody uses any more waits there for the next prompt that begins the
 * same way. When room is needed the least recently used leaf goes. `salt` chooses the root: what
 * one adapter or tenant computed is never seen by another.
 *
 * Sharing is exact: a block's values depend on its tokens and those before it alone
 * (docs/reproducibility.md). One thread uses a pool. */
#ifndef PUNA_ENGINE_KVPOOL_H
#define PUNA_ENGINE_KVPOOL_H

#include "base/err.h"

struct kvpool;

/* The blocks of one sequence. Zeroed = none. */
struct kvseq {
    int32_t *table; /* owned: block of positions i * KV_BLOCK ...; the batch's block table */
    size_t n, cap;  /* blocks */
    size_t shared;  /* the first of them, which hang in the tree */
    uint64_t salt;
};

int kvpool_new(struct kvpool **out, size_t blocks, struct err *e) MUST_USE;
void kvpool_free(struct kvpool *p);
size_t kvpool_size(const struct kvpool *p);      /* blocks in all */
size_t kvpool_available(const struct kvpool *p); /* free ones, and those that could be given up */
size_t kvpool_cached(const struct kvpool *p);    /* those that could be given up */

/* Gives the empty s the blocks that hold a prefix of ids[0..n), the longest that is in whole blocks
 * and leaves at least one token to evaluate. Returns its tokens. */
size_t kvpool_match(struct kvpool *p, struct kvseq *s, const int32_t *ids, size_t n);
/* Blocks for positions [0, tokens). False: too few are available, and nothing was taken. */
bool kvpool_reserve(struct kvpool *p, struct kvseq *s, size_t tokens);
/* ids[0..n) of s have been evaluated: the blocks they fill join the tree. */
void kvpool_commit(struct kvpool *p, struct kvseq *s, const int32_t *ids, size_t n);
/* Gives every block of s back; the table's memory too. */
void kvpool_release(struct kvpool *p, struct kvseq *s);
/* Forgets all blocks that nobody uses. */
void kvpool_clear(struct kvpool *p);
/* BUG when the books do not balance: for tests and after a drain. `in_use` = blocks that sequences
 * hold, each counted once. */
void kvpool_audit(const struct kvpool *p, size_t in_use);

#endif
