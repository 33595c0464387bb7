/* The books of the KV block pool under random use, and what it promises. */
#include <stdlib.h>

#include "support.h"

#include "engine/kvpool.h"
#include "ops/ops.h"

static struct kvpool *pool(size_t blocks)
{
    struct kvpool *p;
    struct err e;

    OK(kvpool_new(&p, blocks, &e), e);
    return p;
}

static void fill(int32_t *ids, size_t n, int32_t first)
{
    for (size_t i = 0; i < n; i++)
        ids[i] = first + (int32_t)i;
}

static void a_prefix_is_found_again(void **state)
{
    struct kvpool *p = pool(16);
    struct kvseq a = { 0 }, b = { 0 }, c = { .salt = 1 };
    int32_t ids[4 * KV_BLOCK];

    (void)state;
    fill(ids, ARRAY_LEN(ids), 7);
    assert_int_equal(kvpool_match(p, &a, ids, ARRAY_LEN(ids)), 0);
    assert_true(kvpool_reserve(p, &a, ARRAY_LEN(ids)));
    kvpool_commit(p, &a, ids, ARRAY_LEN(ids) - 1); /* the fourth block lacks a token */
    assert_int_equal(a.shared, 3);
    kvpool_audit(p, 4);

    /* while a lives, and a token must be left to evaluate */
    assert_int_equal(kvpool_match(p, &b, ids, 3 * KV_BLOCK), 2 * KV_BLOCK);
    assert_memory_equal(a.table, b.table, 2 * sizeof(*a.table));
    assert_int_equal(kvpool_match(p, &c, ids, ARRAY_LEN(ids)), 0); /* another tenant sees nothing */
    kvpool_release(p, &a);
    kvpool_release(p, &b);
    kvpool_audit(p, 0);
    assert_int_equal(kvpool_cached(p), 3);

    /* after a has gone; a different token ends the match */
    ids[KV_BLOCK + 3]++;
    assert_int_equal(kvpool_match(p, &a, ids, ARRAY_LEN(ids)), KV_BLOCK);
    kvpool_release(p, &a);
    kvpool_release(p, &c);
    kvpool_clear(p);
    assert_int_equal(kvpool_cached(p), 0);
    kvpool_audit(p, 0);
    kvpool_free(p);
}

static void twins_become_one(void **state)
{
    struct kvpool *p = pool(8);
    struct kvseq a = { 0 }, b = { 0 };
    int32_t ids[2 * KV_BLOCK];

    (void)state;
    fill(ids, ARRAY_LEN(ids), 0);
    assert_true(kvpool_reserve(p, &a, ARRAY_LEN(ids)));
    assert_true(kvpool_reserve(p, &b, ARRAY_LEN(ids)));
    kvpool_audit(p, 4);
    kvpool_commit(p, &a, ids, ARRAY_LEN(ids));
    kvpool_commit(p, &b, ids, ARRAY_LEN(ids));
    assert_memory_equal(a.table, b.table, 2 * sizeof(*a.table));
    kvpool_audit(p, 2);
    kvpool_release(p, &b);
    kvpool_release(p, &a);
    kvpool_audit(p, 0);
    kvpool_free(p);
}

static void the_oldest_leaf_goes_first(void **state)
{
    struct kvpool *p = pool(4);
    struct kvseq a = { 0 }, b = { 0 };
    int32_t x[2 * KV_BLOCK + 1], y[2 * KV_BLOCK + 1];

    (void)state;
    fill(x, ARRAY_LEN(x), 0);
    fill(y, ARRAY_LEN(y), 1000);
    for (int i = 0; i < 2; i++) {
        int32_t *ids = i ? y : x;

        assert_true(kvpool_reserve(p, &a, 2 * KV_BLOCK));
        kvpool_commit(p, &a, ids, 2 * KV_BLOCK);
        kvpool_release(p, &a);
    }
    assert_int_equal(kvpool_cached(p), 4);
    assert_true(kvpool_reserve(p, &a, 1)); /* x's second block goes, its first stays */
    assert_int_equal(kvpool_match(p, &b, x, ARRAY_LEN(x)), KV_BLOCK);
    kvpool_release(p, &b);
    assert_int_equal(kvpool_match(p, &b, y, ARRAY_LEN(y)), 2 * KV_BLOCK);
    /* too much is refused whole: the cached block of x is the only one left */
    assert_false(kvpool_reserve(p, &a, 3 * KV_BLOCK));
    assert_int_equal(a.n, 1);
    kvpool_audit(p, 3);
    kvpool_release(p, &a);
    kvpool_release(p, &b);
    kvpool_audit(p, 0);
    kvpool_free(p);
}

/* Many sequences over few tokens, so that prefixes meet; each knows what its blocks must hold. */
static void random_use_keeps_the_books(void **state)
{
    enum { SEQS = 12, BLOCKS = 40, LONGEST = 8 * KV_BLOCK };
    static int32_t ids[SEQS][LONGEST];
    int32_t holds[BLOCKS][KV_BLOCK]; /* written by whoever filled the block */
    struct kvseq seq[SEQS] = { 0 };
    size_t done[SEQS] = { 0 };
    struct kvpool *p = pool(BLOCKS);
    unsigned r = 1;

    (void)state;
    for (int turn = 0; turn < 30000; turn++) {
        r = r * 1664525u + 1013904223u;
        const size_t i = (r >> 8) % SEQS;
        struct kvseq *s = &seq[i];

        if (done[i] == 0) {
            for (size_t k = 0; k < LONGEST; k++)
                ids[i][k] = k % KV_BLOCK ? 5 : (int32_t)((r >> (k / KV_BLOCK + 10)) & 1);
            s->salt = (r >> 9) & 1;
            done[i] = kvpool_match(p, s, ids[i], LONGEST);
            for (size_t k = 0; k < done[i]; k++)
                assert_int_equal(holds[s->table[k / KV_BLOCK]][k % KV_BLOCK],
                                 ids[i][k] + 100 * (int32_t)s->salt);
        }
        size_t more = done[i] + 1 + (r >> 16) % 150;

        if (more > LONGEST || (r >> 28) == 0 || !kvpool_reserve(p, s, more)) {
            kvpool_release(p, s);
            done[i] = 0;
            continue;
        }
        for (size_t k = done[i]; k < more; k++)
            holds[s->table[k / KV_BLOCK]][k % KV_BLOCK] = ids[i][k] + 100 * (int32_t)s->salt;
        done[i] = more;
        kvpool_commit(p, s, ids[i], more);
        if (turn % 64 == 0) {
            bool used[BLOCKS] = { false };
            size_t n = 0;

            for (size_t k = 0; k < SEQS; k++)
                for (size_t b = 0; b < seq[k].n; b++) {
                    n += !used[seq[k].table[b]];
                    used[seq[k].table[b]] = true;
                }
            kvpool_audit(p, n);
        }
    }
    for (size_t i = 0; i < SEQS; i++)
        kvpool_release(p, &seq[i]);
    kvpool_audit(p, 0);
    kvpool_free(p);
}

TEST_MAIN(cmocka_unit_test(a_prefix_is_found_again), cmocka_unit_test(twins_become_one),
          cmocka_unit_test(the_oldest_leaf_goes_first),
          cmocka_unit_test(random_use_keeps_the_books))
