/* The vocabulary inside a GGUF file: tokenizer.ggml.* (github.com/ggml-org/ggml, docs/gguf.md),
 * byte-level BPE ("gpt2") only. */
#include <string.h>

#include "base/mem.h"
#include "text/tok_int.h"

/* tokenizer.ggml.token_type */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

/* tokenizer.ggml.pre names how text is split; the file does not hold the expression. "default"
 * is what the converter writes for a tokenizer that it did not recognise, so it says nothing. */
static const struct pre {
    const char *name;
    enum split_kind step[2];
    size_t steps;
    bool whole;    /* a piece that is a token is not merged */
    bool adds_bos; /* where tokenizer.ggml.add_bos_token does not say */
} pres[] = {
    { "gpt-2", { SPLIT_GPT2 }, 1, false, false },
    { "gpt2", { SPLIT_GPT2 }, 1, false, false },
    { "llama-bpe", { SPLIT_LLAMA3 }, 1, true, true },
    { "llama-v3", { SPLIT_LLAMA3 }, 1, true, true },
    { "llama3", { SPLIT_LLAMA3 }, 1, true, true },
    { "qwen2", { SPLIT_QWEN2 }, 1, false, false },
    { "smollm", { SPLIT_DIGIT, SPLIT_GPT2 }, 2, false, false },
};

const char *tok_gguf_pre(const struct tok *t)
{
    for (size_t i = 0; i < ARRAY_LEN(pres); i++) {
        bool same = pres[i].steps == splitter_steps(t->split) && pres[i].whole == t->bpe.whole;

        for (size_t k = 0; same && k < pres[i].steps; k++)
            same = pres[i].step[k] == splitter_step(t->split, k);
        if (same)
            return pres[i].name;
    }
    return NULL;
}

/* A string that must be there. */
static int need_str(const struct gguf *g, const char *key, struct gguf_str *s, struct err *e)
{
    const int rc = gguf_get_str(g, key, s, e);

    if (rc < 0)
        return -1;
    return rc ? 0 : err_set(e, ERR_FORMAT, "%s is missing", key);
}

static bool same(struct gguf_str s, const char *name)
{
    return strlen(name) == s.n && memcmp(s.p, name, s.n) == 0;
}

static int read_pre(struct tok *t, const struct gguf *g, struct err *e)
{
    const struct pre *p = NULL;
    struct gguf_str model, pre;

    if (need_str(g, "tokenizer.ggml.model", &model, e))
        return -1;
    if (!same(model, "gpt2"))
        return err_set(e, ERR_FORMAT,
                       "tokenizer.ggml.model \"%.*s\" is not supported, only \"gpt2\" "
                       "(byte-level BPE)",
                       (int)(model.n < 40 ? model.n : 40), model.p);
    if (need_str(g, "tokenizer.ggml.pre", &pre, e))
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(pres); i++)
        if (same(pre, pres[i].name))
            p = &pres[i];
    if (!p)
        return err_set(e, ERR_FORMAT,
                       "tokenizer.ggml.pre \"%.*s\" is not supported (known: gpt-2, "
                       "llama-bpe, qwen2, smollm)",
                       (int)(pre.n < 40 ? pre.n : 40), pre.p);
    t->bpe.whole = p->whole;
    t->adds_bos = p->adds_bos;
    if (splitter_new(&t->split, e))
        return -1;
    for (size_t i = 0; i < p->steps; i++)
        if (splitter_add(t->split, p->step[i], e))
            return -1;
    return 0;
}

/* Sets bos and eos; they must be among the n tokens. */
static int read_ids(struct tok *t, const struct gguf *g, size_t n, struct err *e)
{
    int64_t bos = -1, eos = -1;

    if (gguf_get_int(g, "tokenizer.ggml.bos_token_id", 0, (int64_t)n - 1, &bos, e) < 0 ||
        gguf_get_int(g, "tokenizer.ggml.eos_token_id", 0, (int64_t)n - 1, &eos, e) < 0)
        return -1;
    t->bos = (int32_t)bos;
    t->eos = (int32_t)eos;
    const int said = gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &t->adds_bos, e);
    if (said < 0)
        return -1;
    if (said && t->adds_bos && t->bos < 0)
        return err_set(e, ERR_FORMAT,
                       "tokenizer.ggml.add_bos_token is true, but there is no "
                       "tokenizer.ggml.bos_token_id");
    t->adds_bos &= t->bos >= 0;
    return 0;
}

/* First pass: the ordinary tokens. Second pass (named): those that are matched by their text. */
static int put_tokens(struct tok *t, struct gguf_strs list, const uint8_t *types, bool named,
                      struct err *e)
{
    const size_t n = list.n;

    for (size_t i = 0; i < n; i++) {
        const struct gguf_str s = gguf_strs_next(&list);
        const int32_t id = (int32_t)i;
        char bytes[TOKEN_MAX];
        size_t len;
        int32_t type;

        memcpy(&type, types + 4 * i, 4);
        switch (type) {
        case TYPE_NORMAL:
            if (named)
                break;
            if (letters_decode(bytes, &len, s.p, s.n))
                return err_set(e, ERR_FORMAT,
                               "token %d: not in the byte-level alphabet, or of more "
                               "than %d bytes",
                               (int)id, (int)TOKEN_MAX);
            if (vocab_put(&t->vocab, id, TOKEN_NORMAL, bytes, len, e))
                return -1;
            break;
        case TYPE_UNKNOWN:
        case TYPE_CONTROL:
        case TYPE_USER:
            if (named && tok_add_named(t, id, s.p, s.n,
                                       type != TYPE_USER || id == t->bos || id == t->eos, e))
                return -1;
            break;
        case TYPE_UNUSED:
            if (!named && vocab_put(&t->vocab, id, TOKEN_UNUSED, s.p, s.n, e))
                return -1;
            break;
        case TYPE_BYTE:
            return err_set(e, ERR_FORMAT,
                           "token %d is of type byte, which byte-level BPE does not "
                           "have",
                           (int)id);
        default:
            return err_set(e, ERR_FORMAT, "token %d has the unknown type %d", (int)id, (int)type);
        }
    }
    return 0;
}

static int read_tokens(struct tok *t, const struct gguf *g, struct err *e)
{
    const char *const key = "tokenizer.ggml.tokens", *const key2 = "tokenizer.ggml.token_type";
    struct gguf_strs list, walk;
    const void *types;
    size_t n_types, bytes = 0;
    const int has = gguf_get_strs(g, key, &list, e);
    const int typed = has < 0 ? -1 : gguf_get_i32s(g, key2, &types, &n_types, e);

    if (typed < 0)
        return -1;
    if (!has || !typed)
        return err_set(e, ERR_FORMAT, "%s is missing", has ? key2 : key);
    if (n_types != list.n)
        return err_set(e, ERR_FORMAT, "%s has %zu entries for %zu tokens", key2, n_types, list.n);
    if (list.n == 0 || list.n > TOKEN_IDS_MAX)
        return err_set(e, ERR_FORMAT, "%zu tokens, want 1 to %d", list.n, (int)TOKEN_IDS_MAX);
    walk = list;
    for (size_t i = 0; i < list.n; i++)
        bytes += gguf_strs_next(&walk).n;
    if (read_ids(t, g, list.n, e) || vocab_init(&t->vocab, (int32_t)list.n, bytes, e) ||
        put_tokens(t, list, types, false, e) || vocab_check_bytes(&t->vocab, false, e))
        return -1;
    return put_tokens(t, list, types, true, e);
}

/* "a b": two tokens in byte letters, in which a space cannot occur. */
static int read_merges(struct tok *t, const struct gguf *g, struct err *e)
{
    struct gguf_strs list;
    const int has = gguf_get_strs(g, "tokenizer.ggml.merges", &list, e);

    if (has < 0)
        return -1;
    if (!has)
        return err_set(e, ERR_FORMAT, "tokenizer.ggml.merges is missing");
    const size_t n = list.n;
    const bool whole = t->bpe.whole;
    if (bpe_init(&t->bpe, n, e))
        return -1;
    t->bpe.whole = whole;
    for (size_t i = 0; i < n; i++) {
        const struct gguf_str s = gguf_strs_next(&list);

        if (bpe_add_joined(&t->bpe, &t->vocab, s.p, s.n, e))
            return -1;
    }
    return 0;
}

static int build(struct tok *t, const struct gguf *g, struct err *e)
{
    struct gguf_str tpl = { 0 };

    if (read_pre(t, g, e) || read_tokens(t, g, e) || read_merges(t, g, e))
        return -1;
    const int has = gguf_get_str(g, "tokenizer.chat_template", &tpl, e);
    if (has < 0)
        return -1;
    if (has)
        t->chat_template = xmemdup0(tpl.p, tpl.n);
    return 0;
}

int tok_from_gguf(struct tok **out, const struct gguf *g, struct err *e)
{
    struct tok *t = tok_new("gguf");

    if (build(t, g, e)) {
        tok_free(t);
        return err_wrap(e, "%s", gguf_path(g));
    }
    *out = t;
    return 0;
}
