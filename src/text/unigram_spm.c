/* unigram_spm.c - a SentencePiece model (sentencepiece_model.proto): the few fields that count,
 * read from the protocol buffer, and its way of normalising text (normalizer.cc). */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/unigram_int.h"

enum { MODEL_MAX = 256 << 20, TYPE_UNIGRAM = 1 };

static const char space[] = "\xE2\x96\x81"; /* U+2581, what a space is written as */

/* ---- protocol buffers ---- */

struct wire {
    const uint8_t *p;
    size_t n;
};

struct field {
    unsigned no, type;
    uint64_t v;       /* varint and fixed32 */
    struct wire data; /* length-delimited */
};

static bool varint(struct wire *w, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64 && w->n; shift += 7) {
        const uint8_t b = *w->p;

        w->p++;
        w->n--;
        *out |= (uint64_t)(b & 0x7F) << shift;
        if (!(b & 0x80))
            return true;
    }
    return false;
}

static bool skip(struct wire *w, size_t n)
{
    if (n > w->n)
        return false;
    w->p += n;
    w->n -= n;
    return true;
}

/* 1 = a field, 0 = the end, -1 = cut off or of an unknown wire type. */
static int next_field(struct wire *w, struct field *f)
{
    uint64_t key;

    if (w->n == 0)
        return 0;
    if (!varint(w, &key) || key >> 3 > UINT32_MAX)
        return -1;
    f->no = (unsigned)(key >> 3);
    f->type = (unsigned)(key & 7);
    f->data = (struct wire){ NULL, 0 };
    switch (f->type) {
    case 0:
        return varint(w, &f->v) ? 1 : -1;
    case 1:
        return skip(w, 8) ? 1 : -1;
    case 2:
        if (!varint(w, &f->v) || f->v > w->n)
            return -1;
        f->data = (struct wire){ w->p, (size_t)f->v };
        return skip(w, (size_t)f->v) ? 1 : -1;
    case 5:
        if (w->n < 4)
            return -1;
        f->v = (uint64_t)w->p[0] | (uint64_t)w->p[1] << 8 | (uint64_t)w->p[2] << 16 |
               (uint64_t)w->p[3] << 24;
        return skip(w, 4) ? 1 : -1;
    default:
        return -1;
    }
}

/* ---- the model ---- */

static int read_piece(struct unigram *u, struct wire w)
{
    struct piece p = { .type = PIECE_NORMAL };
    struct wire text = { (const uint8_t *)"", 0 };
    struct field f;
    int rc;

    while ((rc = next_field(&w, &f)) > 0) {
        const uint32_t bits = (uint32_t)f.v;

        if (f.no == 1 && f.type == 2)
            text = f.data;
        else if (f.no == 2 && f.type == 5)
            memcpy(&p.score, &bits, 4);
        else if (f.no == 3 && f.type == 0)
            p.type = (enum piece_type)f.v;
    }
    if (rc < 0 || text.n > PIECE_MAX)
        return -1;
    p.text = xmemdup0(text.p, text.n);
    p.len = (uint32_t)text.n;
    if (p.type == PIECE_UNKNOWN)
        u->unk = (int32_t)u->n;
    unigram_add(u, &p);
    return 0;
}

static int read_trainer(struct wire w, uint64_t *type)
{
    struct field f;
    int rc;

    while ((rc = next_field(&w, &f)) > 0)
        if (f.no == 3 && f.type == 0)
            *type = f.v;
    return rc;
}

static int read_normalizer(struct unigram *u, struct wire w, struct err *e)
{
    struct field f;
    int rc;

    while ((rc = next_field(&w, &f)) > 0) {
        if (f.no == 2 && f.type == 2) {
            charsmap_release(&u->map);
            if (charsmap_read(&u->map, f.data.p, f.data.n, e))
                return -1;
        } else if (f.no == 3 && f.type == 0) {
            u->dummy_prefix = f.v != 0;
        } else if (f.no == 4 && f.type == 0) {
            u->trim = f.v != 0;
        } else if (f.no == 5 && f.type == 0) {
            u->escape = f.v != 0;
        }
    }
    return rc < 0 ? err_set(e, ERR_FORMAT, "the normaliser's settings are cut off") : 0;
}

int unigram_read_spm(struct unigram *u, const uint8_t *data, size_t n, const char *path,
                     struct err *e)
{
    struct wire w;
    struct field f;
    uint64_t type = TYPE_UNIGRAM;
    int rc, bad = 0;

    u->spm = u->dummy_prefix = u->trim = u->escape = true;
    w = (struct wire){ data, n };
    while ((rc = next_field(&w, &f)) > 0 && !bad) {
        if (f.no == 1 && f.type == 2)
            bad = read_piece(u, f.data);
        else if (f.no == 2 && f.type == 2)
            bad = read_trainer(f.data, &type);
        else if (f.no == 3 && f.type == 2 && read_normalizer(u, f.data, e))
            return err_wrap(e, "%s", path);
    }
    if (rc < 0 || bad < 0)
        return err_set(e, ERR_FORMAT, "%s: no SentencePiece model, or cut off", path);
    if (type != TYPE_UNIGRAM)
        return err_set(e, ERR_FORMAT, "%s: a SentencePiece model, but not of the Unigram kind",
                       path);
    return 0;
}

/* ---- normalising ---- */

/* What the first characters of p become, and how many bytes they are. */
static void prefix(const struct unigram *u, const char *p, size_t n, const char **out,
                   size_t *out_len, size_t *used)
{
    int32_t cp;

    *out = charsmap_find(&u->map, p, n, true, used);
    if (*out) {
        *out_len = strlen(*out);
        return;
    }
    *used = utf8_next(p, n, &cp);
    *out = p;
    *out_len = *used;
    if (cp < 0) { /* one byte at a time */
        *used = 1;
        *out = "\xEF\xBF\xBD";
        *out_len = 3;
    }
}

int unigram_norm_spm(const struct unigram *u, const char *p, size_t n, struct buf *out,
                     struct err *e)
{
    const char *mark = u->escape ? space : " ", *s;
    const size_t mark_len = strlen(mark), from = out->len;
    bool after_space = u->trim;
    size_t len, used;

    while (u->trim && n) {
        prefix(u, p, n, &s, &len, &used);
        if (len != 1 || *s != ' ')
            break;
        p += used;
        n -= used;
    }
    if (n && u->dummy_prefix)
        buf_add(out, mark, mark_len);
    while (n) {
        prefix(u, p, n, &s, &len, &used);
        while (after_space && len && *s == ' ') {
            s++;
            len--;
        }
        for (size_t i = 0; i < len; i++) {
            if (s[i] == ' ')
                buf_add(out, mark, mark_len);
            else
                buf_addc(out, s[i]);
        }
        if (len)
            after_space = s[len - 1] == ' ';
        if (!u->trim)
            after_space = false;
        p += used;
        n -= used;
    }
    while (u->trim && out->len >= from + mark_len &&
           !memcmp(out->p + out->len - mark_len, mark, mark_len))
        buf_cut(out, out->len - mark_len);
    return buf_check(out, "text", e);
}
