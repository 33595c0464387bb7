#include "text/unigram_int.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"

enum { UNKNOWN_PENALTY = 10, NORMALIZED_MAX = 256 << 20 };

static const char space[] = "\xE2\x96\x81";

/* ---- pieces ---- */

void unigram_add(struct unigram *u, const struct piece *piece)
{
    if ((u->n & (u->n + 1)) == 0 || !u->piece) /* doubles at powers of two less one */
        u->piece = xrealloc(u->piece, 2 * (u->n + 1) * sizeof(*u->piece));
    u->piece[u->n++] = *piece;
}

static uint64_t hash_more(uint64_t h, char c)
{
    return (h ^ (unsigned char)c) * 0x100000001b3ULL;
}

enum { HASH_START = 0x7ee3623b };

static int32_t *slot_of(const struct unigram *u, uint64_t h, const char *p, size_t n)
{
    for (size_t i = (size_t)(h ^ h >> 29);; i++) {
        int32_t *s = &u->table[i & (u->table_size - 1)];

        if (!*s || (u->piece[*s - 1].len == n && !memcmp(u->piece[*s - 1].text, p, n)))
            return s;
    }
}

static int finish(struct unigram *u, const char *path, struct err *e)
{
    float least = 0;
    bool any = false;
    void *table;

    u->table_size = 16;
    while (u->table_size < 2 * u->n)
        u->table_size *= 2;
    if (mem_new(&table, u->table_size, sizeof(*u->table), "vocabulary", e))
        return -1;
    u->table = table;
    for (size_t i = 0; i < u->n; i++) {
        const struct piece *p = &u->piece[i];
        uint64_t h = HASH_START;

        if (p->type == PIECE_NORMAL) {
            least = any && least < p->score ? least : p->score;
            any = true;
        }
        if (strcmp(p->text, "[CLS]") == 0)
            u->cls = (int32_t)i;
        if (strcmp(p->text, "[SEP]") == 0)
            u->sep = (int32_t)i;
        if ((p->type != PIECE_NORMAL && p->type != PIECE_USER) || p->len == 0)
            continue;
        for (uint32_t k = 0; k < p->len; k++)
            h = hash_more(h, p->text[k]);
        int32_t *s = slot_of(u, h, p->text, p->len);

        if (!*s) /* of two the first counts */
            *s = (int32_t)i + 1;
        u->longest = p->len > u->longest ? p->len : u->longest;
    }
    u->unknown_score = least - UNKNOWN_PENALTY;
    if (u->unk < 0 || u->cls < 0 || u->sep < 0)
        return err_set(
            e, ERR_FORMAT,
            "%s: a Unigram tokenizer of %zu pieces without an unknown one, [CLS] or [SEP]", path,
            u->n);
    return 0;
}

int unigram_open_mem(struct unigram **out, const void *data, size_t n, bool json, const char *what,
                     struct err *e)
{
    struct unigram *u = xcalloc(1, sizeof(*u));
    int rc;

    u->unk = u->cls = u->sep = -1;
    rc = json ? unigram_read_json(u, data, n, what, e) : unigram_read_spm(u, data, n, what, e);
    if (rc == 0)
        rc = finish(u, what, e);
    if (rc) {
        unigram_close(u);
        return -1;
    }
    *out = u;
    return 0;
}

int unigram_open(struct unigram **out, const char *path, struct err *e)
{
    char *file = xstrdup(path);
    struct map m = { 0 };
    const char *dot;
    int rc = -1;

    if (file_is_dir(path)) {
        free(file);
        file = path_join(path, "tokenizer.json");
        if (!file_exists(file)) {
            free(file);
            file = path_join(path, "spm.model");
        }
    }
    dot = strrchr(file, '.');
    if (map_open(&m, file, e) == 0)
        rc = unigram_open_mem(out, m.p ? (const void *)m.p : "", m.len,
                              dot && !strcmp(dot, ".json"), file, e);
    map_close(&m);
    free(file);
    return rc;
}

void unigram_close(struct unigram *u)
{
    if (!u)
        return;
    for (size_t i = 0; i < u->n; i++)
        free(u->piece[i].text);
    for (size_t i = 0; i < u->n_steps; i++) {
        charsmap_release(&u->step[i].map);
        pcre2_code_free(u->step[i].pattern);
        free(u->step[i].content);
    }
    pcre2_code_free(u->grapheme);
    charsmap_release(&u->map);
    free(u->piece);
    free(u->step);
    free(u->table);
    free(u);
}

size_t unigram_size(const struct unigram *u)
{
    return u->n;
}

int32_t unigram_cls(const struct unigram *u)
{
    return u->cls;
}

int32_t unigram_sep(const struct unigram *u)
{
    return u->sep;
}

const char *unigram_piece(const struct unigram *u, int32_t id, size_t *n)
{
    if (id < 0 || (size_t)id >= u->n)
        return NULL;
    *n = u->piece[id].len;
    return u->piece[id].text;
}

int unigram_normalize(const struct unigram *u, const char *text, size_t n, struct buf *out,
                      struct err *e)
{
    return u->spm ? unigram_norm_spm(u, text, n, out, e) : unigram_norm_json(u, text, n, out, e);
}

/* ---- the best split ---- */

/* The best way to a byte: the score, the piece that ends there, and where that begins. */
struct node {
    float score;
    int32_t id;
    uint32_t from; /* UINT32_MAX = no way yet */
};

static void offer(struct node *to, float score, int32_t id, size_t from)
{
    if (to->from == UINT32_MAX || score > to->score)
        *to = (struct node){ score, id, (uint32_t)from };
}

/* Viterbi, in single precision and with strict comparison as SentencePiece does it. node has n + 1.
 */
static void best_ways(const struct unigram *u, const char *p, size_t n, struct node *node)
{
    size_t step;

    for (size_t i = 0; i <= n; i++)
        node[i].from = UINT32_MAX;
    node[0] = (struct node){ 0, -1, 0 };
    for (size_t at = 0; at < n; at += step) {
        const size_t most = n - at < u->longest ? n - at : u->longest;
        uint64_t h = HASH_START;
        bool single = false;
        int32_t cp;

        step = utf8_next(p + at, n - at, &cp);
        for (size_t k = 1; k <= most; k++) {
            h = hash_more(h, p[at + k - 1]);
            if (at + k < n && ((unsigned char)p[at + k] & 0xC0) == 0x80)
                continue; /* inside a character */
            const int32_t id = *slot_of(u, h, p + at, k) - 1;

            if (id < 0)
                continue;
            offer(&node[at + k], node[at].score + u->piece[id].score, id, at);
            single |= k == step;
        }
        if (!single)
            offer(&node[at + step], node[at].score + u->unknown_score, u->unk, at);
    }
}

static int encode_part(const struct unigram *u, const char *p, size_t n, struct ids *out,
                       struct err *e)
{
    struct ids back = { 0 };
    struct node *node;
    void *mem;

    if (mem_new(&mem, n + 1, sizeof(*node), "tokens", e))
        return -1;
    node = mem;
    best_ways(u, p, n, node);
    for (size_t at = n; at > 0; at = node[at].from)
        ids_add(&back, node[at].id);
    for (size_t i = back.n; i > 0; i--) {
        const int32_t id = back.p[i - 1];

        if (id == u->unk && i < back.n && back.p[i] == u->unk)
            continue; /* unknown ones in a row are one */
        ids_add(out, id);
    }
    ids_release(&back);
    free(mem);
    return 0;
}

int unigram_encode(const struct unigram *u, const char *text, size_t n, struct ids *out,
                   struct err *e)
{
    struct buf b;
    int rc;

    buf_init(&b, NORMALIZED_MAX);
    rc = unigram_normalize(u, text, n, &b, e);
    for (size_t at = 0, end; rc == 0 && at < b.len; at = end) {
        const char *next =
            u->split && b.len - at > 3 ? memmem(b.p + at + 1, b.len - at - 1, space, 3) : NULL;

        end = next ? (size_t)(next - b.p) : b.len;
        rc = encode_part(u, b.p + at, end - at, out, e);
    }
    buf_release(&b);
    return rc;
}
