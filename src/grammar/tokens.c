#include "grammar/tokens.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum {
    TOKEN_BYTES_MAX = 2048, /* longer tokens are left out; the longest known has 1024 */
    COST_MAX = 1 << 25,     /* ways followed for one mask: a tenth of a second or so */
};

static int by_bytes(const void *a, const void *b, void *tok)
{
    size_t n = 0, m = 0;
    const char *x = tok_bytes(tok, *(const int32_t *)a, &n);
    const char *y = tok_bytes(tok, *(const int32_t *)b, &m);
    const int c = memcmp(x, y, n < m ? n : m);

    if (c)
        return c;
    if (n != m)
        return n < m ? -1 : 1;
    return *(const int32_t *)a < *(const int32_t *)b ? -1 : 1;
}

void tokens_init(struct tokens *t, const struct tok *tok, size_t vocab)
{
    uint32_t open[TOKEN_BYTES_MAX]; /* the node of each byte of the token before */
    size_t n_open = 0, cap = 1024, n_last = 0;
    const char *last = NULL;

    *t = (struct tokens){ .tok = tok, .vocab = vocab };
    t->id = xmalloc((size_t)tok_size(tok) * sizeof(*t->id) + 1);
    for (int32_t i = 0; i < tok_size(tok) && (size_t)i < vocab; i++) {
        size_t n = 0;

        if (!tok_is_special(tok, i) && tok_bytes(tok, i, &n) && n > 0 && n <= TOKEN_BYTES_MAX)
            t->id[t->n_ids++] = i;
    }
    qsort_r(t->id, t->n_ids, sizeof(*t->id), by_bytes, (void *)(uintptr_t)tok);
    t->node = xmalloc(cap * sizeof(*t->node));
    for (size_t i = 0; i < t->n_ids; i++) {
        size_t n = 0, same = 0;
        const char *s = tok_bytes(tok, t->id[i], &n);

        while (same < n && same < n_last && s[same] == last[same])
            same++;
        while (n_open > same)
            t->node[open[--n_open]].end = (uint32_t)t->n;
        if (t->n + n + 1 > cap)
            t->node = xrealloc(t->node, (cap = 2 * (t->n + n + 1)) * sizeof(*t->node));
        for (; n_open < n; n_open++) {
            open[n_open] = (uint32_t)t->n;
            t->node[t->n++] = (struct token_node){ .byte = (uint8_t)s[n_open],
                                                   .depth = (uint16_t)(n_open + 1),
                                                   .first = (uint32_t)i };
        }
        last = s;
        n_last = n;
    }
    while (n_open)
        t->node[open[--n_open]].end = (uint32_t)t->n;
    t->node[t->n] = (struct token_node){ .first = (uint32_t)t->n_ids };
}

void tokens_release(struct tokens *t)
{
    free(t->node);
    free(t->id);
    *t = (struct tokens){ 0 };
}

size_t tokens_words(const struct tokens *t)
{
    return (t->vocab + 63) / 64;
}

bool tokens_find(const struct tokens *t, struct states *s, uint32_t state, uint64_t *mask)
{
    uint32_t at[TOKEN_BYTES_MAX + 1]; /* the state after each byte of the way */
    size_t cost = 0;

    at[0] = state;
    for (size_t i = 0; i < t->n;) {
        const struct token_node *node = &t->node[i];
        const uint32_t to = states_step(s, at[node->depth - 1], node->byte);

        if (to == STATE_DEAD) {
            i = node->end;
            continue;
        }
        cost += states_width(s, to);
        if (cost > COST_MAX)
            return false;
        at[node->depth] = to;
        i++;
        for (uint32_t k = node->first; k < node[1].first; k++)
            mask[t->id[k] / 64] |= 1ull << (t->id[k] % 64);
    }
    return true;
}
