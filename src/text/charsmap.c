/* charsmap.c - SentencePiece's precompiled normalisation (normalizer.cc, "precompiled_charsmap"):
 * u32 bytes of the trie | the trie, a Darts-clone double array of u32 | replacements. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/unigram_int.h"

/* Fields of a unit of Darts-clone. */
static bool has_leaf(uint32_t u)
{
    return u >> 8 & 1;
}

static uint32_t value(uint32_t u)
{
    return u & 0x7fffffff;
}

static uint32_t label(uint32_t u)
{
    return u & 0x800000ff;
}

static uint32_t offset(uint32_t u)
{
    return u >> 10 << ((u & 0x200) >> 6);
}

int charsmap_read(struct charsmap *m, const void *blob, size_t n, struct err *e)
{
    const uint8_t *p = blob;
    uint32_t bytes = 0;

    *m = (struct charsmap){ 0 };
    if (n == 0)
        return 0;
    if (n >= 4)
        memcpy(&bytes, p, 4);
    if (n < 4 || bytes > n - 4 || bytes % 4 || bytes == 0 || n == 4 + bytes || p[n - 1])
        return err_set(e, ERR_FORMAT,
                       "normalisation rules of %zu bytes hold a trie of %u: cut off, or no rules",
                       n, bytes);
    m->n = bytes / 4;
    m->unit = (void *)xmemdup0(p + 4, bytes);
    m->text_len = n - 4 - bytes;
    m->text = xmemdup0(p + 4 + bytes, m->text_len);
    return 0;
}

void charsmap_release(struct charsmap *m)
{
    free(m->unit);
    free(m->text);
    *m = (struct charsmap){ 0 };
}

const char *charsmap_find(const struct charsmap *m, const char *p, size_t n, bool longest,
                          size_t *matched)
{
    const char *found = NULL;
    size_t at;

    if (!m->n)
        return NULL;
    at = offset(m->unit[0]);
    for (size_t i = 0; i < n; i++) {
        const uint32_t c = (unsigned char)p[i];

        at ^= c;
        if (at >= m->n || label(m->unit[at]) != c)
            break;
        const uint32_t u = m->unit[at];

        at ^= offset(u);
        if (at >= m->n)
            break;
        if (has_leaf(u) && value(m->unit[at]) < m->text_len) {
            found = m->text + value(m->unit[at]);
            *matched = i + 1;
            if (!longest)
                break;
        }
    }
    return found;
}
