#include "engine/kvpool.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ops/ops.h"

/* A block is in one of three places: on the free list (users 0, not in the tree), in use
 * (users > 0), or idle (users 0, in the tree) on the list of the least recently used.
 *
 * A sequence that uses a block uses all blocks before it, and gives them back last to first. So
 * a parent is never idle for longer than its children, and the head of the list is a leaf. */
struct block {
    uint32_t users;
    bool hangs;     /* in the tree */
    int32_t parent; /* -1 = none: first of its sequence */
    uint64_t salt;
    int32_t tokens[KV_BLOCK];
    int32_t chain;        /* next in its bucket; on the free list: next free */
    int32_t older, newer; /* neighbours while idle */
};

struct kvpool {
    struct block *block;  /* [size] */
    int32_t *bucket;      /* [buckets], heads of chains */
    size_t size, buckets; /* buckets: a power of two */
    int32_t free, oldest, newest;
    size_t n_free, n_idle;
};

int kvpool_new(struct kvpool **out, size_t blocks, struct err *e)
{
    struct kvpool *p = xcalloc(1, sizeof(*p));
    void *block = NULL, *bucket = NULL;

    p->buckets = 16;
    while (p->buckets < blocks)
        p->buckets *= 2;
    if (blocks == 0 || blocks > INT32_MAX) {
        err_set(e, ERR_USAGE, "a KV cache of %zu blocks: between 1 and %d are possible", blocks,
                INT32_MAX);
        goto fail;
    }
    if (mem_new(&block, blocks, sizeof(*p->block), "KV block table", e) ||
        mem_new(&bucket, p->buckets, sizeof(*p->bucket), "KV block table", e))
        goto fail;
    p->block = block;
    p->bucket = bucket;
    p->size = p->n_free = blocks;
    p->oldest = p->newest = -1;
    for (size_t i = 0; i < p->buckets; i++)
        p->bucket[i] = -1;
    for (size_t i = 0; i < blocks; i++)
        p->block[i].chain = i + 1 < blocks ? (int32_t)i + 1 : -1;
    *out = p;
    return 0;
fail:
    free(block);
    free(p);
    return -1;
}

void kvpool_free(struct kvpool *p)
{
    if (!p)
        return;
    free(p->block);
    free(p->bucket);
    free(p);
}

size_t kvpool_size(const struct kvpool *p)
{
    return p->size;
}

size_t kvpool_available(const struct kvpool *p)
{
    return p->n_free + p->n_idle;
}

size_t kvpool_cached(const struct kvpool *p)
{
    return p->n_idle;
}

/* ---- the tree: children are found by hashing parent and tokens ---- */

static int32_t *bucket_of(const struct kvpool *p, int32_t parent, uint64_t salt,
                          const int32_t *tokens)
{
    uint64_t h = (salt ^ (uint64_t)(uint32_t)parent) * 0x9E3779B97F4A7C15u;

    for (int i = 0; i < KV_BLOCK; i++) {
        h = (h ^ (uint32_t)tokens[i]) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    return &p->bucket[h & (p->buckets - 1)];
}

static int32_t find(const struct kvpool *p, int32_t parent, uint64_t salt, const int32_t *tokens)
{
    int32_t i = *bucket_of(p, parent, salt, tokens);

    for (; i >= 0; i = p->block[i].chain) {
        const struct block *b = &p->block[i];

        if (b->parent == parent && b->salt == salt && !memcmp(b->tokens, tokens, sizeof(b->tokens)))
            break;
    }
    return i;
}

static void hang(struct kvpool *p, int32_t i, int32_t parent, uint64_t salt, const int32_t *tokens)
{
    struct block *b = &p->block[i];
    int32_t *head = bucket_of(p, parent, salt, tokens);

    b->hangs = true;
    b->parent = parent;
    b->salt = salt;
    memcpy(b->tokens, tokens, sizeof(b->tokens));
    b->chain = *head;
    *head = i;
}

static void unhang(struct kvpool *p, int32_t i)
{
    struct block *b = &p->block[i];
    int32_t *at = bucket_of(p, b->parent, b->salt, b->tokens);

    while (*at != i)
        at = &p->block[*at].chain;
    *at = b->chain;
    b->hangs = false;
}

/* ---- places ---- */

static void leave_idle(struct kvpool *p, int32_t i)
{
    const struct block *b = &p->block[i];

    *(b->older < 0 ? &p->oldest : &p->block[b->older].newer) = b->newer;
    *(b->newer < 0 ? &p->newest : &p->block[b->newer].older) = b->older;
    p->n_idle--;
}

static void make_free(struct kvpool *p, int32_t i)
{
    p->block[i].chain = p->free;
    p->free = i;
    p->n_free++;
}

static void forget_oldest(struct kvpool *p)
{
    const int32_t i = p->oldest;

    leave_idle(p, i);
    unhang(p, i);
    make_free(p, i);
}

static void use(struct kvpool *p, int32_t i)
{
    if (p->block[i].users++ == 0)
        leave_idle(p, i);
}

static void unuse(struct kvpool *p, int32_t i)
{
    struct block *b = &p->block[i];

    BUG_ON(b->users == 0);
    if (--b->users > 0)
        return;
    if (!b->hangs) {
        make_free(p, i);
        return;
    }
    b->older = p->newest;
    b->newer = -1;
    *(p->newest < 0 ? &p->oldest : &p->block[p->newest].newer) = i;
    p->newest = i;
    p->n_idle++;
}

static int32_t take_free(struct kvpool *p)
{
    if (p->n_free == 0)
        forget_oldest(p);
    const int32_t i = p->free;

    p->free = p->block[i].chain;
    p->n_free--;
    p->block[i].users = 1;
    return i;
}

static void append(struct kvseq *s, int32_t block)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 8;
        s->table = xrealloc(s->table, s->cap * sizeof(*s->table));
    }
    s->table[s->n++] = block;
}

/* ---- sequences ---- */

size_t kvpool_match(struct kvpool *p, struct kvseq *s, const int32_t *ids, size_t n)
{
    BUG_ON(s->n > 0);
    while ((s->n + 1) * KV_BLOCK < n) {
        const int32_t parent = s->n ? s->table[s->n - 1] : -1;
        const int32_t i = find(p, parent, s->salt, ids + s->n * KV_BLOCK);

        if (i < 0)
            break;
        use(p, i);
        append(s, i);
    }
    s->shared = s->n;
    return s->n * KV_BLOCK;
}

bool kvpool_reserve(struct kvpool *p, struct kvseq *s, size_t tokens)
{
    const size_t want = (tokens + KV_BLOCK - 1) / KV_BLOCK;

    if (want > s->n && want - s->n > kvpool_available(p))
        return false;
    while (s->n < want)
        append(s, take_free(p));
    return true;
}

void kvpool_commit(struct kvpool *p, struct kvseq *s, const int32_t *ids, size_t n)
{
    for (; (s->shared + 1) * KV_BLOCK <= n; s->shared++) {
        const size_t at = s->shared;
        const int32_t parent = at ? s->table[at - 1] : -1, mine = s->table[at];
        const int32_t twin = find(p, parent, s->salt, ids + at * KV_BLOCK);

        if (twin < 0) {
            hang(p, mine, parent, s->salt, ids + at * KV_BLOCK);
        } else { /* somebody computed the same meanwhile: one copy is enough */
            use(p, twin);
            s->table[at] = twin;
            unuse(p, mine);
        }
    }
}

void kvpool_release(struct kvpool *p, struct kvseq *s)
{
    for (size_t i = s->n; i-- > 0;)
        unuse(p, s->table[i]);
    free(s->table);
    *s = (struct kvseq){ .salt = s->salt };
}

void kvpool_clear(struct kvpool *p)
{
    while (p->oldest >= 0)
        forget_oldest(p);
}

void kvpool_audit(const struct kvpool *p, size_t in_use)
{
    size_t n_free = 0, n_idle = 0, n_hang = 0, used = 0, hanging = 0;

    for (int32_t i = p->free; i >= 0; i = p->block[i].chain, n_free++)
        BUG_ON(p->block[i].users || p->block[i].hangs);
    for (int32_t i = p->oldest; i >= 0; i = p->block[i].newer, n_idle++)
        BUG_ON(p->block[i].users || !p->block[i].hangs);
    for (size_t b = 0; b < p->buckets; b++)
        for (int32_t i = p->bucket[b]; i >= 0; i = p->block[i].chain, n_hang++)
            BUG_ON(!p->block[i].hangs ||
                   (p->block[i].parent >= 0 && !p->block[p->block[i].parent].hangs));
    for (size_t i = 0; i < p->size; i++) {
        used += p->block[i].users > 0;
        hanging += p->block[i].hangs;
    }
    BUG_ON(n_free != p->n_free || n_idle != p->n_idle || n_hang != hanging);
    BUG_ON(n_free + n_idle + used != p->size);
    if (used != in_use)
        BUG("%zu KV blocks are in use, %zu were expected", used, in_use);
}
