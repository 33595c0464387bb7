#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

/* A token of the piece as merged so far, in a doubly linked list. */
struct sym {
    uint32_t at, len;    /* its bytes */
    uint32_t prev, next; /* symbol indexes, NONE at the ends */
    int32_t id;
    uint32_t rank;       /* of the pair (this, next); NONE = no such merge, or this one is gone */
    int32_t merged;      /* what that pair becomes */
};

/* An entry of the heap; stale when the symbol's rank has changed since. */
struct bpe_cand {
    uint32_t rank, sym;
};

static const uint32_t NONE = UINT32_MAX;

/* Up to this many symbols a scan for the lowest rank beats the heap. */
enum { SCAN_MAX = 40 };

static size_t pair_hash(const struct bpe *b, int32_t left, int32_t right)
{
    const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    const unsigned __int128 m = (unsigned __int128)(key ^ b->seed) * 0x9E3779B97F4A7C15u;

    return (size_t)((uint64_t)m ^ (uint64_t)(m >> 64));
}

/* The slot of a pair, or the free one where it belongs. */
static struct merge_slot *pair_probe(const struct bpe *b, int32_t left, int32_t right)
{
    for (size_t i = pair_hash(b, left, right) & b->mask;; i = (i + 1) & b->mask) {
        struct merge_slot *s = &b->slot[i];

        if (s->left < 0 || (s->left == left && s->right == right))
            return s;
    }
}

int bpe_init(struct bpe *b, size_t n, struct err *e)
{
    size_t slots = 64;
    void *p;

    *b = (struct bpe){ .seed = rng_fresh_seed() };
    if (n >= NONE / 2)
        return err_set(e, ERR_FORMAT, "%zu merges are too many", n);
    while (slots < n * 2)
        slots *= 2;
    if (mem_new(&p, slots, sizeof(*b->slot), "merges", e))
        return -1;
    b->slot = p;
    b->mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        b->slot[i].left = -1;
    return 0;
}

void bpe_release(struct bpe *b)
{
    free(b->slot);
    *b = (struct bpe){ 0 };
}

int bpe_add(struct bpe *b, const struct vocab *v, const char *left, size_t nl, const char *right,
            size_t nr, struct err *e)
{
    char both[2 * TOKEN_MAX];
    struct merge_slot *s;
    int32_t l, r, id;

    if (nl > TOKEN_MAX || nr > TOKEN_MAX)
        return err_set(e, ERR_FORMAT, "merge %zu: a token of more than %d bytes", b->n,
                       (int)TOKEN_MAX);
    l = vocab_find(v, left, nl);
    r = vocab_find(v, right, nr);
    memcpy(both, left, nl);
    memcpy(both + nl, right, nr);
    id = vocab_find(v, both, nl + nr);
    if (l < 0 || r < 0 || id < 0)
        return err_set(e, ERR_FORMAT, "merge %zu: %s is not an ordinary token of the vocabulary",
                       b->n, l < 0 ? "its first part" : r < 0 ? "its second part" : "its result");
    BUG_ON(b->n * 2 > b->mask);
    s = pair_probe(b, l, r);
    if (s->left >= 0)
        return err_set(e, ERR_FORMAT, "merges %u and %zu are the same", (unsigned)s->rank, b->n);
    *s = (struct merge_slot){ .left = l, .right = r, .rank = (uint32_t)b->n, .id = id };
    b->n++;
    return 0;
}

int bpe_add_joined(struct bpe *b, const struct vocab *v, const char *p, size_t n, struct err *e)
{
    const char *sp = n ? memchr(p, ' ', n) : NULL;
    char l[TOKEN_MAX], r[TOKEN_MAX];
    size_t nl, nr;

    if (!sp || letters_decode(l, &nl, p, (size_t)(sp - p)) ||
        letters_decode(r, &nr, sp + 1, n - (size_t)(sp + 1 - p)))
        return err_set(e, ERR_FORMAT, "merge %zu is not two tokens with a space between", b->n);
    return bpe_add(b, v, l, nl, r, nr, e);
}

void bpe_work_release(struct bpe_work *w)
{
    free(w->sym);
    free(w->heap);
    *w = (struct bpe_work){ 0 };
}

/* Fills rank and merged of the pair (s, next). */
static void rank_pair(const struct bpe *b, const struct vocab *v, const char *p, struct sym *s,
                      const struct sym *next)
{
    s->rank = NONE;
    if (b->slot) {
        const struct merge_slot *m = pair_probe(b, s->id, next->id);

        if (m->left >= 0) {
            s->rank = m->rank;
            s->merged = m->id;
        }
    } else {
        /* without a merge list no byte is left out: the two are neighbours in the text */
        const int32_t id = vocab_find(v, p + s->at, s->len + next->len);

        if (id >= 0) {
            s->rank = (uint32_t)id;
            s->merged = id;
        }
    }
}

/* Joins symbol i with the one after it and ranks the two pairs it now stands in. */
static void merge_at(const struct bpe *b, const struct vocab *v, const char *p, struct sym *sym,
                     uint32_t i)
{
    struct sym *s = &sym[i], *gone = &sym[s->next];

    s->id = s->merged;
    s->len += gone->len;
    s->next = gone->next;
    gone->rank = NONE;
    s->rank = NONE;
    if (s->next != NONE) {
        sym[s->next].prev = i;
        rank_pair(b, v, p, s, &sym[s->next]);
    }
    if (s->prev != NONE)
        rank_pair(b, v, p, &sym[s->prev], s);
}

static void sift_down(struct bpe_cand *h, size_t n, size_t i)
{
    const struct bpe_cand x = h[i];

    for (size_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && (h[c + 1].rank < h[c].rank ||
                          (h[c + 1].rank == h[c].rank && h[c + 1].sym < h[c].sym)))
            c++;
        if (x.rank < h[c].rank || (x.rank == h[c].rank && x.sym <= h[c].sym))
            break;
        h[i] = h[c];
    }
    h[i] = x;
}

static void heap_push(struct bpe_cand *h, size_t *n, uint32_t rank, uint32_t sym)
{
    size_t i = (*n)++;

    for (; i > 0; i = (i - 1) / 2) {
        const struct bpe_cand *up = &h[(i - 1) / 2];

        if (up->rank < rank || (up->rank == rank && up->sym <= sym))
            break;
        h[i] = *up;
    }
    h[i] = (struct bpe_cand){ .rank = rank, .sym = sym };
}

static void merge_scan(const struct bpe *b, const struct vocab *v, const char *p, struct sym *sym)
{
    for (;;) {
        uint32_t best = NONE, at = NONE;

        for (uint32_t i = 0; i != NONE; i = sym[i].next)
            if (sym[i].rank < best) {
                best = sym[i].rank;
                at = i;
            }
        if (at == NONE)
            return;
        merge_at(b, v, p, sym, at);
    }
}

/* O(n log n): each merge pushes at most two candidates, so 3n entries are enough. */
static int merge_heap(const struct bpe *b, const struct vocab *v, struct bpe_work *w, const char *p,
                      size_t count, struct err *e)
{
    struct sym *sym = w->sym;
    size_t n = 0;

    if (w->heap_cap < 3 * count) {
        void *q;

        if (mem_new(&q, 3 * count, sizeof(*w->heap), "merge queue", e))
            return -1;
        free(w->heap);
        w->heap = q;
        w->heap_cap = 3 * count;
    }
    for (uint32_t i = 0; i != NONE; i = sym[i].next)
        if (sym[i].rank != NONE)
            w->heap[n++] = (struct bpe_cand){ .rank = sym[i].rank, .sym = i };
    for (size_t i = n / 2; i-- > 0;)
        sift_down(w->heap, n, i);
    while (n > 0) {
        const struct bpe_cand c = w->heap[0];

        w->heap[0] = w->heap[--n];
        if (n > 0)
            sift_down(w->heap, n, 0);
        if (sym[c.sym].rank != c.rank)
            continue;
        merge_at(b, v, p, sym, c.sym);
        if (sym[c.sym].rank != NONE)
            heap_push(w->heap, &n, sym[c.sym].rank, c.sym);
        if (sym[c.sym].prev != NONE && sym[sym[c.sym].prev].rank != NONE)
            heap_push(w->heap, &n, sym[sym[c.sym].prev].rank, sym[c.sym].prev);
    }
    return 0;
}

int bpe_piece(const struct bpe *b, const struct vocab *v, struct bpe_work *w, const char *p,
              size_t n, struct ids *out, struct err *e)
{
    uint32_t count = 0;

    if (b->whole || n == 1) {
        const int32_t id = vocab_find(v, p, n);

        if (id >= 0) {
            ids_add(out, id);
            return 0;
        }
    }
    if (n > w->cap) {
        const size_t cap = n < 256 ? 256 : n;
        void *q;

        if (mem_new(&q, cap, sizeof(*w->sym), "merge list", e))
            return -1;
        free(w->sym);
        w->sym = q;
        w->cap = cap;
    }
    for (size_t i = 0; i < n; i++) {
        const int32_t id = v->byte_id[(uint8_t)p[i]];

        if (id < 0)
            continue;
        w->sym[count] = (struct sym){ .at = (uint32_t)i, .len = 1, .prev = count - 1,
                                      .next = count + 1, .id = id, .rank = NONE };
        count++;
    }
    if (count == 0)
        return 0;
    w->sym[count - 1].next = NONE;
    for (uint32_t i = 0; i + 1 < count; i++)
        rank_pair(b, v, p, &w->sym[i], &w->sym[i + 1]);
    if (count <= SCAN_MAX)
        merge_scan(b, v, p, w->sym);
    else if (merge_heap(b, v, w, p, count, e))
        return -1;
    for (uint32_t i = 0; i != NONE; i = w->sym[i].next)
        ids_add(out, w->sym[i].id);
    return 0;
}
