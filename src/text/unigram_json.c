/* unigram_json.c - a Hugging Face tokenizer.json whose model is Unigram, and its way of
 * normalising: the steps that the file lists, and Metaspace. What it asks for beyond them is
 * refused by name. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/unigram_int.h"

enum { FILE_MAX_BYTES = 512 << 20, WHOLE_GRAPHEME = 6 };

static const char space[] = "\xE2\x96\x81";

static bool is_type(const json_t *j, const char *type)
{
    const char *s = json_string_value(json_object_get(j, "type"));

    return s && !strcmp(s, type);
}

static int unsupported(const char *path, const char *what, const json_t *j, struct err *e)
{
    const char *type = json_string_value(json_object_get(j, "type"));

    return err_set(e, ERR_FORMAT, "%s: %s '%.40s' is not supported", path, what,
                   type ? type : "(none)");
}

/* ---- reading ---- */

static int read_vocab(struct unigram *u, const json_t *model, const char *path, struct err *e)
{
    const json_t *vocab = json_object_get(model, "vocab");
    const json_t *unk = json_object_get(model, "unk_id");
    json_t *v;
    size_t i;

    json_array_foreach((json_t *)(uintptr_t)vocab, i, v)
    {
        const json_t *text = json_array_get(v, 0), *score = json_array_get(v, 1);

        if (!json_is_string(text) || !json_is_number(score) || json_string_length(text) > PIECE_MAX)
            return err_set(e, ERR_FORMAT, "%s: vocab[%zu] is not [piece of up to %d bytes, score]",
                           path, i, PIECE_MAX);
        unigram_add(
            u, &(struct piece){ .text = xmemdup0(json_string_value(text), json_string_length(text)),
                                .len = (uint32_t)json_string_length(text),
                                .score = (float)json_number_value(score),
                                .type = PIECE_NORMAL });
    }
    if (!json_is_integer(unk) || json_integer_value(unk) < 0 ||
        json_integer_value(unk) >= (json_int_t)u->n)
        return err_set(e, ERR_FORMAT, "%s: unk_id is no piece", path);
    u->unk = (int32_t)json_integer_value(unk);
    u->piece[u->unk].type = PIECE_UNKNOWN;
    return 0;
}

/* Special tokens never match text; those beyond the vocabulary have ids of their own. */
static int read_added(struct unigram *u, const json_t *list, const char *path, struct err *e)
{
    json_t *v;
    size_t i;

    json_array_foreach((json_t *)(uintptr_t)list, i, v)
    {
        const json_t *text = json_object_get(v, "content"), *id = json_object_get(v, "id");

        if (!json_is_string(text) || !json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > (json_int_t)u->n)
            return err_set(e, ERR_FORMAT, "%s: added_tokens[%zu] does not follow the vocabulary",
                           path, i);
        if (json_integer_value(id) == (json_int_t)u->n)
            unigram_add(u, &(struct piece){
                               .text = xmemdup0(json_string_value(text), json_string_length(text)),
                               .len = (uint32_t)json_string_length(text),
                               .type = PIECE_CONTROL });
        else if (json_integer_value(id) != u->unk)
            u->piece[json_integer_value(id)].type = PIECE_CONTROL;
    }
    return 0;
}

static int read_charsmap(struct charsmap *m, const json_t *text, const char *path, struct err *e)
{
    const size_t n = json_string_length(text);
    unsigned char *blob = xmalloc(n / 4 * 3 + 4);
    int got = json_is_string(text) && n < INT32_MAX
                  ? EVP_DecodeBlock(blob, (const unsigned char *)json_string_value(text), (int)n)
                  : -1;
    int rc = -1;

    if (got < 0) {
        err_set(e, ERR_FORMAT, "%s: precompiled_charsmap is no base64", path);
    } else {
        for (size_t i = n; i > 0 && json_string_value(text)[i - 1] == '='; i--)
            got--;
        rc = charsmap_read(m, blob, (size_t)got, e) ? err_wrap(e, "%s", path) : 0;
    }
    free(blob);
    return rc;
}

static int compile(pcre2_code **out, const char *pattern, size_t n, uint32_t options,
                   const char *path, struct err *e)
{
    PCRE2_SIZE at;
    int code;

    *out = pcre2_compile((PCRE2_SPTR)pattern, n, options | PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    return *out ? 0
                : err_set(e, ERR_FORMAT, "%s: the pattern '%.60s' cannot be used", path, pattern);
}

static int read_step(struct unigram *u, const json_t *j, const char *path, struct err *e)
{
    struct norm_step s = { 0 };
    int rc = 0;

    if (is_type(j, "Strip")) {
        s.kind = STEP_STRIP;
        s.left = json_is_true(json_object_get(j, "strip_left"));
        s.right = json_is_true(json_object_get(j, "strip_right"));
    } else if (is_type(j, "Precompiled")) {
        s.kind = STEP_CHARSMAP;
        rc = read_charsmap(&s.map, json_object_get(j, "precompiled_charsmap"), path, e);
        if (rc == 0 && !u->grapheme)
            rc = compile(&u->grapheme, "\\X", 2, 0, path, e);
    } else if (is_type(j, "Replace")) {
        const json_t *pattern = json_object_get(j, "pattern");
        const json_t *regex = json_object_get(pattern, "Regex");
        const json_t *plain = json_object_get(pattern, "String");
        const json_t *content = json_object_get(j, "content");
        const json_t *text = regex ? regex : plain;

        if (!json_is_string(text) || !json_is_string(content))
            return err_set(e, ERR_FORMAT, "%s: a Replace without pattern and content", path);
        s.kind = STEP_REPLACE;
        s.content_len = json_string_length(content);
        s.content = xmemdup0(json_string_value(content), s.content_len);
        rc = compile(&s.pattern, json_string_value(text), json_string_length(text),
                     regex ? 0 : PCRE2_LITERAL, path, e);
    } else {
        return unsupported(path, "the normalizer", j, e);
    }
    u->step = xrealloc(u->step, (u->n_steps + 1) * sizeof(*u->step));
    u->step[u->n_steps++] = s;
    return rc;
}

static int read_normalizer(struct unigram *u, const json_t *j, const char *path, struct err *e)
{
    json_t *v;
    size_t i;

    if (!j || json_is_null(j))
        return 0;
    if (!is_type(j, "Sequence"))
        return read_step(u, j, path, e);
    json_array_foreach(json_object_get(j, "normalizers"), i,
                       v) if (read_step(u, v, path, e)) return -1;
    return 0;
}

static int read_metaspace(struct unigram *u, const json_t *j, const char *path, struct err *e)
{
    const char *mark = json_string_value(json_object_get(j, "replacement"));
    const char *scheme = json_string_value(json_object_get(j, "prepend_scheme"));
    const json_t *split = json_object_get(j, "split");

    if (!is_type(j, "Metaspace") || !mark || strcmp(mark, space) != 0)
        return unsupported(path, "the pre-tokenizer", j, e);
    if (scheme && strcmp(scheme, "always") != 0 && strcmp(scheme, "never") != 0 &&
        strcmp(scheme, "first") != 0)
        return err_set(e, ERR_FORMAT, "%s: prepend_scheme '%.40s'", path, scheme);
    u->prepend = scheme ? strcmp(scheme, "never") != 0
                        : !json_is_false(json_object_get(j, "add_prefix_space"));
    u->split = !json_is_false(split);
    return 0;
}

int unigram_read_json(struct unigram *u, const char *text, size_t n, const char *path,
                      struct err *e)
{
    json_t *j;
    int rc = -1;

    if (n > FILE_MAX_BYTES)
        return err_set(e, ERR_FORMAT, "%s: %zu bytes, at most %d are read", path, n,
                       FILE_MAX_BYTES);
    if (json_parse(&j, text, n, path, e))
        return -1;
    const json_t *model = json_object_get(j, "model");

    if (!is_type(model, "Unigram"))
        unsupported(path, "the model", model, e);
    else if (json_is_true(json_object_get(model, "byte_fallback")))
        err_set(e, ERR_FORMAT, "%s: byte_fallback is not supported", path);
    else if (read_vocab(u, model, path, e) == 0 &&
             read_added(u, json_object_get(j, "added_tokens"), path, e) == 0 &&
             read_normalizer(u, json_object_get(j, "normalizer"), path, e) == 0)
        rc = read_metaspace(u, json_object_get(j, "pre_tokenizer"), path, e);
    json_decref(j);
    return rc;
}

/* ---- normalising ---- */

/* Rust's char::is_whitespace, which the tokenizers library strips by. */
static bool is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

static void strip(const struct norm_step *s, struct buf *b)
{
    size_t from = 0, end = 0, k;
    int32_t c;

    while (s->left && from < b->len) {
        k = utf8_next(b->p + from, b->len - from, &c);
        if (!is_space(c))
            break;
        from += k;
    }
    for (size_t i = from; i < b->len; i += k) {
        k = utf8_next(b->p + i, b->len - i, &c);
        if (!s->right || !is_space(c))
            end = i + k;
    }
    buf_cut(b, end > from ? end : from);
    buf_remove(b, 0, from);
}

/* A grapheme of fewer than six bytes as a whole if there is a rule for its beginning, else
 * character by character: as the spm_precompiled crate does. */
static void map_grapheme(const struct charsmap *m, const char *p, size_t n, struct buf *out)
{
    size_t used, k;
    const char *to = n < WHOLE_GRAPHEME ? charsmap_find(m, p, n, false, &used) : NULL;

    if (to) {
        buf_adds(out, to);
        return;
    }
    for (size_t i = 0; i < n; i += k) {
        int32_t c;

        k = utf8_next(p + i, n - i, &c);
        to = charsmap_find(m, p + i, k, false, &used);
        if (to)
            buf_adds(out, to);
        else
            buf_add(out, p + i, k);
    }
}

static void map_text(const struct unigram *u, const struct norm_step *s, const struct buf *in,
                     struct buf *out)
{
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(m);
    size_t pos = 0;

    while (pos < in->len &&
           pcre2_match(u->grapheme, (PCRE2_SPTR)in->p, in->len, pos,
                       PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, m, NULL) > 0 &&
           at[1] > pos) {
        map_grapheme(&s->map, in->p + pos, at[1] - pos, out);
        pos = at[1];
    }
    buf_add(out, in->p + pos, in->len - pos);
    pcre2_match_data_free(m);
}

static void replace(const struct norm_step *s, const struct buf *in, struct buf *out)
{
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(m);
    size_t pos = 0, from = 0;

    while (pos <= in->len && pcre2_match(s->pattern, (PCRE2_SPTR)in->p, in->len, pos,
                                         PCRE2_NO_UTF_CHECK, m, NULL) > 0) {
        if (at[1] == at[0]) { /* nothing is replaced by something nowhere */
            pos = at[1] + 1;
            while (pos < in->len && ((unsigned char)in->p[pos] & 0xC0) == 0x80)
                pos++;
            continue;
        }
        buf_add(out, in->p + from, at[0] - from);
        buf_add(out, s->content, s->content_len);
        pos = from = at[1];
    }
    buf_add(out, in->p + from, in->len - from);
    pcre2_match_data_free(m);
}

int unigram_norm_json(const struct unigram *u, const char *p, size_t n, struct buf *out,
                      struct err *e)
{
    struct buf a, b;
    int rc;

    buf_init(&a, out->max);
    buf_init(&b, out->max);
    utf8_sanitize(&a, p, n);
    for (size_t i = 0; i < u->n_steps; i++) {
        const struct norm_step *s = &u->step[i];

        if (s->kind == STEP_STRIP) {
            strip(s, &a);
            continue;
        }
        buf_clear(&b);
        if (s->kind == STEP_CHARSMAP)
            map_text(u, s, &a, &b);
        else
            replace(s, &a, &b);
        const struct buf swap = a;

        a = b;
        b = swap;
    }
    if (a.len && u->prepend && !(a.len >= 3 && !memcmp(a.p, space, 3)) && a.p[0] != ' ')
        buf_adds(out, space);
    for (size_t i = 0; i < a.len; i++) {
        if (a.p[i] == ' ')
            buf_adds(out, space);
        else
            buf_addc(out, a.p[i]);
    }
    rc = buf_check(&a, "text", e) || buf_check(&b, "text", e) || buf_check(out, "text", e) ? -1 : 0;
    buf_release(&a);
    buf_release(&b);
    return rc;
}
