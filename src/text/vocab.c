#include "text/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/utf8.h"

/* ---- bytes to id ---- */

static uint64_t load64(const char *p)
{
    uint64_t v;

    memcpy(&v, p, 8);
    return v;
}

static uint64_t load32(const char *p)
{
    uint32_t v;

    memcpy(&v, p, 4);
    return v;
}

/* Both halves of a 128-bit product folded together: two of its bits mix every input bit. */
static uint64_t fold(uint64_t a, uint64_t b)
{
    const unsigned __int128 m = (unsigned __int128)a * b;

    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static uint32_t hash(const char *p, size_t n, uint64_t seed)
{
    const uint64_t k = 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio */
    uint64_t h = seed ^ n, last;

    for (; n > 8; p += 8, n -= 8)
        h = fold(h ^ load64(p), k ^ seed);
    if (n >= 4)
        last = load32(p) << 32 | load32(p + n - 4);
    else
        last = (uint64_t)(uint8_t)p[0] << 16 | (uint64_t)(uint8_t)p[n / 2] << 8 | (uint8_t)p[n - 1];
    h = fold(h ^ last, k ^ seed);
    return (uint32_t)(h ^ h >> 32);
}

int vocab_init(struct vocab *v, int32_t n, size_t bytes, struct err *e)
{
    size_t slots = 64;
    void *p;

    *v = (struct vocab){ .seed = rng_fresh_seed() | 1 };
    memset(v->byte_id, -1, sizeof(v->byte_id));
    if (n < 1 || n > TOKEN_IDS_MAX)
        return err_set(e, ERR_FORMAT, "%d tokens, want 1 to %d", (int)n, (int)TOKEN_IDS_MAX);
    if (bytes > UINT32_MAX)
        return err_set(e, ERR_FORMAT, "%zu bytes of tokens are too many", bytes);
    while (slots < (size_t)n * 2)
        slots *= 2;
    if (mem_new(&p, bytes, 1, "vocabulary", e))
        return -1;
    v->bytes = p;
    v->room = bytes;
    if (mem_new(&p, (size_t)n, sizeof(*v->item), "vocabulary", e))
        goto fail;
    v->item = p;
    if (mem_new(&p, (size_t)n, 1, "vocabulary", e))
        goto fail;
    v->cls = p;
    if (mem_new(&p, slots, sizeof(*v->slot), "vocabulary", e))
        goto fail;
    v->slot = p;
    v->mask = slots - 1;
    v->n = n;
    return 0;
fail:
    vocab_release(v);
    return -1;
}

void vocab_release(struct vocab *v)
{
    free(v->bytes);
    free(v->item);
    free(v->cls);
    free(v->slot);
    *v = (struct vocab){ 0 };
}

/* The slot that holds p[0..len), or the free one where it belongs. */
static struct vocab_slot *probe(const struct vocab *v, const char *p, size_t len, uint32_t h)
{
    for (size_t i = h & v->mask;; i = (i + 1) & v->mask) {
        struct vocab_slot *s = &v->slot[i];

        if (s->id1 == 0)
            return s;
        if (s->hash == h) {
            const struct vocab_item *it = &v->item[s->id1 - 1];

            if (it->len == len && memcmp(v->bytes + it->off, p, len) == 0)
                return s;
        }
    }
}

int32_t vocab_find(const struct vocab *v, const char *p, size_t len)
{
    if (len == 0 || len > v->longest)
        return -1;
    return probe(v, p, len, hash(p, len, v->seed))->id1 - 1;
}

int vocab_put(struct vocab *v, int32_t id, enum token_class cls, const char *p, size_t len,
              struct err *e)
{
    if (id < 0 || id >= v->n)
        return err_set(e, ERR_FORMAT, "token id %d is outside 0..%d", (int)id, (int)v->n - 1);
    if (v->cls[id] != TOKEN_NONE)
        return err_set(e, ERR_FORMAT, "token id %d is used twice", (int)id);
    if (len == 0)
        return err_set(e, ERR_FORMAT, "token %d is empty", (int)id);
    if (len > TOKEN_MAX)
        return err_set(e, ERR_FORMAT, "token %d has %zu bytes, more than the limit of %d", (int)id,
                       len, (int)TOKEN_MAX);
    BUG_ON(len > v->room - v->used);
    if (cls == TOKEN_NORMAL) {
        const uint32_t h = hash(p, len, v->seed);
        struct vocab_slot *s = probe(v, p, len, h);

        if (s->id1)
            return err_set(e, ERR_FORMAT, "tokens %d and %d have the same text", (int)s->id1 - 1,
                           (int)id);
        *s = (struct vocab_slot){ .hash = h, .id1 = id + 1 };
        if (len > v->longest)
            v->longest = len;
        if (len == 1)
            v->byte_id[(uint8_t)p[0]] = id;
    }
    memcpy(v->bytes + v->used, p, len);
    v->item[id] = (struct vocab_item){ .off = (uint32_t)v->used, .len = (uint32_t)len };
    v->cls[id] = (uint8_t)cls;
    v->used += len;
    return 0;
}

int vocab_check_bytes(const struct vocab *v, bool all, struct err *e)
{
    for (int b = 0; b < 256; b++) {
        const bool readable = (b >= 0x20 && b < 0x7F) || b == '\n' || b == '\t';

        if (v->byte_id[b] < 0 && (all || readable))
            return err_set(e, ERR_FORMAT,
                           "byte 0x%02X has no token: not every text could be encoded",
                           (unsigned)b);
    }
    return 0;
}

/* ---- GPT-2's byte letters ---- */

/* Bytes 33-126, 161-172 and 174-255 stand for themselves; the other 68, in order, are
 * U+0100 onwards. -1 = not a letter of the alphabet. */
static int letter_byte(int32_t cp)
{
    if ((cp >= 33 && cp <= 126) || (cp >= 161 && cp <= 172) || (cp >= 174 && cp <= 255))
        return cp;
    if (cp < 256 || cp >= 256 + 68)
        return -1;
    const int k = cp - 256; /* 0-32 and 127-160 and 173 */
    return k < 33 ? k : k < 67 ? k - 33 + 127 : 173;
}

int letters_decode(char *out, size_t *len, const char *p, size_t n)
{
    size_t k = 0;

    for (size_t i = 0; i < n;) {
        int32_t cp = (uint8_t)p[i];

        if (cp < 0x80)
            i++;
        else
            i += utf8_next(p + i, n - i, &cp);
        const int b = letter_byte(cp);
        if (b < 0 || k == TOKEN_MAX)
            return -1;
        out[k++] = (char)b;
    }
    *len = k;
    return 0;
}

void letters_encode(struct buf *out, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const int b = (uint8_t)p[i];
        int cp = b;

        if (letter_byte(b) != b)
            cp = 256 + (b < 33 ? b : b < 161 ? b - 127 + 33 : 67);
        if (cp < 0x80) {
            buf_addc(out, (char)cp);
        } else {
            buf_addc(out, (char)(0xC0 | cp >> 6));
            buf_addc(out, (char)(0x80 | (cp & 0x3F)));
        }
    }
}

/* ---- added tokens ---- */

static uint32_t node_new(struct trie *t, uint8_t byte)
{
    if (t->n >= t->cap) {
        t->cap = t->cap ? t->cap * 2 : 256;
        t->node = xrealloc(t->node, t->cap * sizeof(*t->node));
        if (t->n == 0)
            t->n = 1;
    }
    t->node[t->n] = (struct trie_node){ .byte = byte, .id = -1 };
    return (uint32_t)t->n++;
}

int trie_put(struct trie *t, const char *p, size_t n, int32_t id, bool special, struct err *e)
{
    uint32_t at;

    if (n == 0 || n > TOKEN_MAX)
        return err_set(e, ERR_FORMAT, "added token %d has %zu bytes, want 1 to %d", (int)id, n,
                       (int)TOKEN_MAX);
    at = t->root[(uint8_t)p[0]];
    if (!at)
        t->root[(uint8_t)p[0]] = at = node_new(t, (uint8_t)p[0]);
    for (size_t i = 1; i < n; i++) {
        const uint8_t b = (uint8_t)p[i];
        uint32_t c = t->node[at].child;

        while (c && t->node[c].byte != b)
            c = t->node[c].next;
        if (!c) {
            c = node_new(t, b);
            t->node[c].next = t->node[at].child;
            t->node[at].child = c;
        }
        at = c;
    }
    if (t->node[at].id >= 0)
        return err_set(e, ERR_FORMAT, "added tokens %d and %d have the same text",
                       (int)t->node[at].id, (int)id);
    t->node[at].id = id;
    t->node[at].special = special;
    t->any_added |= !special;
    return 0;
}

void trie_release(struct trie *t)
{
    free(t->node);
    *t = (struct trie){ 0 };
}

int32_t trie_match(const struct trie *t, const char *p, size_t n, bool special, size_t *len)
{
    int32_t id = -1;
    uint32_t at = n ? t->root[(uint8_t)p[0]] : 0;

    for (size_t i = 1; at; i++) {
        const struct trie_node *d = &t->node[at];

        if (d->id >= 0 && (special || !d->special)) {
            id = d->id;
            *len = i;
        }
        if (i == n)
            break;
        at = d->child;
        while (at && t->node[at].byte != (uint8_t)p[i])
            at = t->node[at].next;
    }
    return id;
}
