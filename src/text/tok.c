#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_int.h"

struct tok *tok_new(const char *kind)
{
    struct tok *t = xcalloc(1, sizeof(*t));

    t->kind = kind;
    t->bos = t->eos = -1;
    return t;
}

void tok_free(struct tok *t)
{
    if (!t)
        return;
    vocab_release(&t->vocab);
    bpe_release(&t->bpe);
    splitter_free(t->split);
    trie_release(&t->names);
    trie_release(&t->meta_names);
    free(t->chat_template);
    free(t);
}

void tok_set_chat_template(struct tok *t, const char *text)
{
    free(t->chat_template);
    t->chat_template = text ? xstrdup(text) : NULL;
}

enum token_class token_class_of(const char *text, size_t n, bool special)
{
    const bool looks = n > 4 && memcmp(text, "<|", 2) == 0 && memcmp(text + n - 2, "|>", 2) == 0;

    return special || looks ? TOKEN_SPECIAL : TOKEN_ADDED;
}

int tok_add_named(struct tok *t, int32_t id, const char *text, size_t n, bool special,
                  struct err *e)
{
    const enum token_class cls = token_class_of(text, n, special);
    char bytes[TOKEN_MAX];
    size_t len;

    if (trie_put(&t->names, text, n, id, cls == TOKEN_SPECIAL, e))
        return -1;
    if (letters_decode(bytes, &len, text, n) == 0) {
        const int32_t same = vocab_find(&t->vocab, bytes, len);

        if (same >= 0 && same != id)
            return err_set(e, ERR_FORMAT, "tokens %d and %d have the same text", (int)same,
                           (int)id);
    }
    if (id >= 0 && id < t->vocab.n && t->vocab.cls[id] == TOKEN_NORMAL)
        return 0; /* an ordinary token that is also matched ahead of splitting */
    return vocab_put(&t->vocab, id, cls, text, n, e);
}

/* ---- encoding ---- */

struct encoding {
    const struct tok *t;
    struct bpe_work work;
    struct ids *out;
};

static int on_piece(void *arg, const char *p, size_t n, struct err *e)
{
    struct encoding *c = arg;

    return bpe_piece(&c->t->bpe, &c->t->vocab, &c->work, p, n, c->out, e);
}

/* One stretch of text: added tokens are cut out, what lies between is split and merged. */
static int encode_part(struct encoding *c, const struct trie *names, bool special, const char *text,
                       size_t n, struct err *e)
{
    const bool look = special || names->any_added;
    size_t plain = 0; /* start of the text not yet encoded */

    for (size_t i = 0; look && i < n;) {
        size_t len;
        const int32_t id =
            names->root[(uint8_t)text[i]] ? trie_match(names, text + i, n - i, special, &len) : -1;
        if (id < 0) {
            i++;
            continue;
        }
        if (split_run(c->t->split, text + plain, i - plain, on_piece, c, e))
            return -1;
        ids_add(c->out, id);
        i += len;
        plain = i;
    }
    return split_run(c->t->split, text + plain, n - plain, on_piece, c, e);
}

/* What Python's str.isspace says: white space and the four separators U+001C-001F. */
static bool py_space(int32_t cp)
{
    return uc_is_space(cp) || (cp >= 0x1C && cp <= 0x1F);
}

/* Length of the next chunk of Meta's Tokenizer.encode: the text is cut every 400,000
 * characters, and where a run of white space or of anything else passes 25,000. `*left` is
 * what remains of the current 400,000. */
static size_t meta_chunk(const char *p, size_t n, size_t *left)
{
    enum { CHUNK = 400000, RUN = 25000 };
    size_t run = 0;
    bool space = false;

    if (*left == 0)
        *left = CHUNK;
    for (size_t i = 0, k; i < n; i += k) {
        int32_t cp;

        k = utf8_next(p + i, n - i, &cp);
        if (*left == 0)
            return i;
        const bool now = py_space(cp);
        run = i > 0 && now == space ? run + 1 : 1;
        space = now;
        if (run > RUN)
            return i;
        --*left;
    }
    return n;
}

int tok_encode(const struct tok *t, const char *text, size_t n, unsigned flags, struct ids *out,
               struct err *e)
{
    const struct trie *names =
        flags & TOK_META_NAMES && t->meta_names.n ? &t->meta_names : &t->names;
    const bool special = flags & TOK_ALLOW_SPECIAL;
    struct encoding c = { .t = t, .out = out };
    const size_t before = out->n;
    struct buf clean = { 0 };
    int rc = -1;

    if (!utf8_valid(text, n)) {
        buf_init(&clean, SIZE_MAX / 4);
        utf8_sanitize(&clean, text, n);
        text = clean.p;
        n = clean.len;
    }
    if (n >= INT32_MAX) {
        err_set(e, ERR_USAGE, "a text of %zu bytes is too long, the limit is %d", n, INT32_MAX - 1);
        goto done;
    }
    if (flags & TOK_META_CHUNKS) {
        for (size_t at = 0, left = 0, k; at < n; at += k) {
            k = meta_chunk(text + at, n - at, &left);
            if (encode_part(&c, names, special, text + at, k, e))
                goto done;
        }
    } else if (encode_part(&c, names, special, text, n, e)) {
        goto done;
    }
    rc = 0;
done:
    if (rc)
        out->n = before;
    bpe_work_release(&c.work);
    buf_release(&clean);
    return rc;
}

/* ---- decoding and facts ---- */

const char *tok_bytes(const struct tok *t, int32_t id, size_t *n)
{
    if (id < 0 || id >= t->vocab.n || t->vocab.cls[id] == TOKEN_NONE)
        return NULL;
    *n = t->vocab.item[id].len;
    return t->vocab.bytes + t->vocab.item[id].off;
}

void tok_decode(const struct tok *t, const int32_t *ids, size_t n, bool skip_special,
                struct buf *out)
{
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *p = tok_bytes(t, ids[i], &len);

        if (p && !(skip_special && tok_is_special(t, ids[i])))
            buf_add(out, p, len);
    }
}

void tok_stream_add(struct tok_stream *s, const struct tok *t, int32_t id, bool skip_special,
                    struct buf *out)
{
    char text[sizeof(s->tail) + TOKEN_MAX];
    size_t n;
    const char *p = tok_bytes(t, id, &n);

    if (!p || (skip_special && tok_is_special(t, id)))
        return;
    memcpy(text, s->tail, s->n);
    memcpy(text + s->n, p, n);
    n += s->n;
    const size_t whole = utf8_complete(text, n);
    utf8_sanitize(out, text, whole);
    s->n = n - whole;
    memcpy(s->tail, text + whole, s->n);
}

void tok_stream_end(struct tok_stream *s, struct buf *out)
{
    utf8_sanitize(out, s->tail, s->n);
    s->n = 0;
}

int32_t tok_size(const struct tok *t)
{
    return t->vocab.n;
}

int32_t tok_id(const struct tok *t, const char *name)
{
    const size_t n = strlen(name);
    size_t len = 0;
    const int32_t id = trie_match(&t->names, name, n, true, &len);

    return id >= 0 && len == n && tok_is_special(t, id) ? id : -1;
}

bool tok_is_special(const struct tok *t, int32_t id)
{
    return id >= 0 && id < t->vocab.n && t->vocab.cls[id] == TOKEN_SPECIAL;
}

int32_t tok_bos(const struct tok *t)
{
    return t->bos;
}

int32_t tok_eos(const struct tok *t)
{
    return t->eos;
}

bool tok_adds_bos(const struct tok *t)
{
    return t->adds_bos;
}

const char *tok_chat_template(const struct tok *t)
{
    return t->chat_template;
}

const char *tok_kind(const struct tok *t)
{
    return t->kind;
}
