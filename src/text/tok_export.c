#include "text/tok_export.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/tok_int.h"

/* ---- merges ---- */

struct pair {
    int32_t left, right;
    uint32_t rank;
};

static int by_rank(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;

    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* Within one token as transformers' converter: by the ranks of the parts. */
static int by_token(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;

    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    return x->right < y->right ? -1 : x->right > y->right;
}

/* Every way to make an ordinary token out of two; with out NULL only counts. */
static size_t token_splits(const struct vocab *v, struct pair *out)
{
    size_t n = 0;

    for (int32_t id = 0; id < v->n; id++) {
        const char *p = v->bytes + v->item[id].off;

        for (uint32_t k = 1; v->cls[id] == TOKEN_NORMAL && k < v->item[id].len; k++) {
            const int32_t l = vocab_find(v, p, k), r = vocab_find(v, p + k, v->item[id].len - k);

            if (l < 0 || r < 0)
                continue;
            if (out)
                out[n] = (struct pair){ l, r, (uint32_t)id };
            n++;
        }
    }
    return n;
}

/* All merges in order; free() *out. */
static int merge_list(const struct tok *t, struct pair **out, size_t *n, struct err *e)
{
    const struct bpe *b = &t->bpe;
    void *p;

    *n = b->slot ? b->n : token_splits(&t->vocab, NULL);
    if (mem_new(&p, *n + 1, sizeof(**out), "merges", e))
        return -1;
    *out = p;
    if (!b->slot) {
        token_splits(&t->vocab, *out);
        qsort(*out, *n, sizeof(**out), by_token);
        return 0;
    }
    for (size_t i = 0, k = 0; i <= b->mask; i++)
        if (b->slot[i].left >= 0)
            (*out)[k++] = (struct pair){ b->slot[i].left, b->slot[i].right, b->slot[i].rank };
    qsort(*out, *n, sizeof(**out), by_rank);
    return 0;
}

/* ---- tokens ---- */

static const char *text_of(const struct tok *t, int32_t id, size_t *n)
{
    const struct vocab_item *x = &t->vocab.item[id];

    *n = x->len;
    return t->vocab.bytes + x->off;
}

/* How a token's text stands in a file: ordinary ones in byte letters, others as they are. */
static void file_text(const struct tok *t, int32_t id, struct buf *out)
{
    size_t n;
    const char *p = text_of(t, id, &n);

    buf_clear(out);
    if (t->vocab.cls[id] == TOKEN_NORMAL)
        letters_encode(out, p, n);
    else
        buf_add(out, p, n);
}

/* Matched by its text before splitting; *special: only where control tokens are allowed. */
static bool is_named(const struct tok *t, int32_t id, bool *special)
{
    struct buf text;
    size_t len;
    bool yes;

    *special = t->vocab.cls[id] == TOKEN_SPECIAL;
    if (*special || t->vocab.cls[id] == TOKEN_ADDED)
        return true;
    if (t->vocab.cls[id] != TOKEN_NORMAL || !t->names.any_added)
        return false;
    buf_init(&text, 2 * TOKEN_MAX);
    file_text(t, id, &text);
    yes = trie_match(&t->names, text.p, text.len, false, &len) == id && len == text.len;
    buf_release(&text);
    return yes;
}

/* ---- tokenizer.json ---- */

static void add_string(struct buf *out, const char *p, size_t n)
{
    buf_addc(out, '"');
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)p[i];

        if (c == '"' || c == '\\') {
            buf_addc(out, '\\');
            buf_addc(out, (char)c);
        } else if (c < 0x20) {
            static const char esc[] = "btn?fr"; /* 8 to 13 */

            if (c >= 8 && c <= 13 && c != 11)
                buf_addf(out, "\\%c", esc[c - 8]);
            else
                buf_addf(out, "\\u%04x", c);
        } else {
            buf_addc(out, (char)c);
        }
    }
    buf_addc(out, '"');
}

static void add_added(const struct tok *t, struct buf *out)
{
    bool first = true, special;

    buf_adds(out, "  \"added_tokens\": [");
    for (int32_t id = 0; id < t->vocab.n; id++) {
        struct buf text;

        if (!is_named(t, id, &special))
            continue;
        buf_init(&text, 2 * TOKEN_MAX);
        file_text(t, id, &text);
        buf_addf(out,
                 "%s\n    {\n      \"id\": %" PRId32 ",\n      \"content\": ", first ? "" : ",",
                 id);
        add_string(out, text.p, text.len);
        buf_addf(out,
                 ",\n      \"single_word\": false,\n      \"lstrip\": false,\n"
                 "      \"rstrip\": false,\n      \"normalized\": false,\n"
                 "      \"special\": %s\n    }",
                 special ? "true" : "false");
        buf_release(&text);
        first = false;
    }
    buf_adds(out, first ? "],\n" : "\n  ],\n");
}

static const char byte_level[] = "\"type\": \"ByteLevel\",\n"
                                 "        \"add_prefix_space\": false,\n"
                                 "        \"trim_offsets\": true,\n"
                                 "        \"use_regex\": ";

static void add_pre_tokenizer(const struct tok *t, struct buf *out)
{
    bool gpt2 = false;

    buf_adds(out, "  \"pre_tokenizer\": {\n    \"type\": \"Sequence\",\n"
                  "    \"pretokenizers\": [\n");
    for (size_t i = 0; i < splitter_steps(t->split); i++) {
        const enum split_kind kind = splitter_step(t->split, i);

        /* ByteLevel's own expression when it is the last step */
        gpt2 = kind == SPLIT_GPT2 && i + 1 == splitter_steps(t->split);
        if (gpt2)
            break;
        if (kind == SPLIT_DIGIT || kind == SPLIT_DIGIT_RUNS) {
            buf_addf(out,
                     "      {\n        \"type\": \"Digits\",\n"
                     "        \"individual_digits\": %s\n      },\n",
                     kind == SPLIT_DIGIT ? "true" : "false");
            continue;
        }
        const char *regex = split_regex(kind);

        buf_adds(out, "      {\n        \"type\": \"Split\",\n        \"pattern\": {\n"
                      "          \"Regex\": ");
        add_string(out, regex, strlen(regex));
        buf_adds(out, "\n        },\n        \"behavior\": \"Isolated\",\n"
                      "        \"invert\": false\n      },\n");
    }
    buf_addf(out, "      {\n        %s%s\n      }\n    ]\n  },\n", byte_level,
             gpt2 ? "true" : "false");
}

static void add_post(const struct tok *t, struct buf *out)
{
    struct buf bos;
    size_t n;

    buf_adds(out, "  \"post_processor\": {\n    \"type\": ");
    if (!t->adds_bos) {
        buf_adds(out, "\"ByteLevel\",\n    \"add_prefix_space\": true,\n"
                      "    \"trim_offsets\": false,\n    \"use_regex\": true\n  },\n");
        return;
    }
    buf_init(&bos, 8 * TOKEN_MAX);
    const char *p = text_of(t, t->bos, &n);

    add_string(&bos, p, n);
    buf_addf(out,
             "\"Sequence\",\n    \"processors\": [\n      {\n        %strue\n      },\n"
             "      {\n        \"type\": \"TemplateProcessing\",\n",
             byte_level);
    for (int pair = 0; pair < 2; pair++) {
        buf_addf(out, "        \"%s\": [\n", pair ? "pair" : "single");
        for (int seq = 0; seq <= pair; seq++)
            buf_addf(out,
                     "          {\n            \"SpecialToken\": {\n              \"id\": %s,\n"
                     "              \"type_id\": %d\n            }\n          },\n"
                     "          {\n            \"Sequence\": {\n              \"id\": \"%c\",\n"
                     "              \"type_id\": %d\n            }\n          }%s\n",
                     bos.p, seq, "AB"[seq], seq, seq == pair ? "" : ",");
        buf_adds(out, "        ],\n");
    }
    buf_addf(out,
             "        \"special_tokens\": {\n          %s: {\n            \"id\": %s,\n"
             "            \"ids\": [\n              %" PRId32 "\n            ],\n"
             "            \"tokens\": [\n              %s\n            ]\n          }\n"
             "        }\n      }\n    ]\n  },\n",
             bos.p, bos.p, t->bos, bos.p);
    buf_release(&bos);
}

static int add_model(const struct tok *t, struct buf *out, struct err *e)
{
    struct pair *merge;
    struct buf text;
    bool first = true;
    size_t n;

    if (merge_list(t, &merge, &n, e))
        return -1;
    buf_init(&text, 4 * TOKEN_MAX);
    buf_addf(out,
             "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n"
             "    \"unk_token\": null,\n    \"continuing_subword_prefix\": null,\n"
             "    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
             "    \"byte_fallback\": false,\n    \"ignore_merges\": %s,\n    \"vocab\": {",
             t->bpe.whole ? "true" : "false");
    for (int32_t id = 0; id < t->vocab.n; id++) {
        if (t->vocab.cls[id] != TOKEN_NORMAL)
            continue;
        file_text(t, id, &text);
        buf_adds(out, first ? "\n      " : ",\n      ");
        add_string(out, text.p, text.len);
        buf_addf(out, ": %" PRId32, id);
        first = false;
    }
    buf_adds(out, "\n    },\n    \"merges\": [");
    for (size_t i = 0; i < n; i++) {
        buf_adds(out, i ? ",\n      [\n        " : "\n      [\n        ");
        file_text(t, merge[i].left, &text);
        add_string(out, text.p, text.len);
        buf_adds(out, ",\n        ");
        file_text(t, merge[i].right, &text);
        add_string(out, text.p, text.len);
        buf_adds(out, "\n      ]");
    }
    buf_adds(out, n ? "\n    ]\n  }\n}" : "]\n  }\n}");
    buf_release(&text);
    free(merge);
    return 0;
}

int tok_to_json(const struct tok *t, struct buf *out, struct err *e)
{
    buf_adds(out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
    add_added(t, out);
    buf_adds(out, "  \"normalizer\": null,\n");
    add_pre_tokenizer(t, out);
    add_post(t, out);
    buf_adds(out, "  \"decoder\": {\n    \"type\": \"ByteLevel\",\n"
                  "    \"add_prefix_space\": true,\n    \"trim_offsets\": true,\n"
                  "    \"use_regex\": true\n  },\n");
    return add_model(t, out, e) || buf_check(out, "tokenizer.json", e) ? -1 : 0;
}

/* ---- GGUF ---- */

static int32_t gguf_type(const struct tok *t, int32_t id)
{
    bool special;

    if (id >= t->vocab.n || t->vocab.cls[id] == TOKEN_NONE || t->vocab.cls[id] == TOKEN_UNUSED)
        return 5;
    if (!is_named(t, id, &special))
        return 1;
    return special ? 3 : 4;
}

static int put_tokens(const struct tok *t, int32_t vocab, struct gguf_meta *m, struct err *e)
{
    struct buf text;
    int32_t *types;
    void *p;

    if (mem_new(&p, (size_t)vocab, sizeof(*types), "token types", e))
        return -1;
    types = p;
    buf_init(&text, 2 * TOKEN_MAX);
    gguf_put_strs(m, "tokenizer.ggml.tokens", (uint64_t)vocab);
    for (int32_t id = 0; id < vocab; id++) {
        types[id] = gguf_type(t, id);
        if (id < t->vocab.n && t->vocab.cls[id] != TOKEN_NONE) {
            file_text(t, id, &text);
        } else {
            buf_clear(&text);
            buf_addf(&text, "[PAD%" PRId32 "]", id);
        }
        gguf_put_item(m, text.p, text.len);
    }
    gguf_put_i32s(m, "tokenizer.ggml.token_type", types, (size_t)vocab);
    buf_release(&text);
    free(types);
    return 0;
}

static int put_merges(const struct tok *t, struct gguf_meta *m, struct err *e)
{
    struct pair *merge;
    struct buf left, right;
    size_t n;

    if (merge_list(t, &merge, &n, e))
        return -1;
    buf_init(&left, 5 * TOKEN_MAX);
    buf_init(&right, 2 * TOKEN_MAX);
    gguf_put_strs(m, "tokenizer.ggml.merges", n);
    for (size_t i = 0; i < n; i++) {
        file_text(t, merge[i].left, &left);
        file_text(t, merge[i].right, &right);
        buf_addc(&left, ' ');
        buf_add(&left, right.p, right.len);
        gguf_put_item(m, left.p, left.len);
    }
    buf_release(&left);
    buf_release(&right);
    free(merge);
    return 0;
}

int tok_to_gguf(const struct tok *t, int64_t vocab, struct gguf_meta *m, struct err *e)
{
    const char *pre = tok_gguf_pre(t);

    if (!pre)
        return err_set(e, ERR_FORMAT, "GGUF has no name for the way this tokenizer splits text");
    if (vocab < t->vocab.n || vocab > TOKEN_IDS_MAX)
        return err_set(e, ERR_FORMAT, "the tokenizer has %d ids, the model %lld", (int)t->vocab.n,
                       (long long)vocab);
    gguf_put_str(m, "tokenizer.ggml.model", "gpt2", 4);
    gguf_put_str(m, "tokenizer.ggml.pre", pre, strlen(pre));
    if (put_tokens(t, (int32_t)vocab, m, e) || put_merges(t, m, e))
        return -1;
    if (t->bos >= 0)
        gguf_put_u32(m, "tokenizer.ggml.bos_token_id", (uint32_t)t->bos);
    gguf_put_bool(m, "tokenizer.ggml.add_bos_token", t->adds_bos);
    if (t->chat_template)
        gguf_put_str(m, "tokenizer.chat_template", t->chat_template, strlen(t->chat_template));
    return 0;
}
