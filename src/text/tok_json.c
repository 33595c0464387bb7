/* Hugging Face's tokenizer.json (github.com/huggingface/tokenizers): byte-level BPE as the
 * Llama 3 and GPT-2 families write it. What this file does not know how to do exactly it
 * refuses by name; a tokenizer that is nearly right is worse than none. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/jscan.h"
#include "text/tok_int.h"

/* A string of byte letters takes at most two bytes a byte. */
enum { RAW_MAX = 2 * TOKEN_MAX };

struct added {
    int32_t id;
    const char *text; /* borrowed from the parsed JSON */
    size_t n;
    bool special;
};

struct added_list {
    struct added *p; /* owned, sorted by id */
    size_t n;
    json_t *json; /* owned */
};

static int by_id(const void *a, const void *b)
{
    const struct added *x = a, *y = b;

    return (x->id > y->id) - (x->id < y->id);
}

/* {"type": ...} of a part; "" when it has none. */
static const char *type_of(const json_t *part)
{
    const char *s = json_string_value(json_object_get(part, "type"));

    return s ? s : "";
}

static int unsupported(const char *part, const char *type, struct err *e)
{
    return err_set(e, ERR_FORMAT, "%s \"%s\" is not supported", part, type);
}

/* ---- added_tokens ---- */

static int read_added_one(struct added *a, const json_t *item, struct err *e)
{
    static const char *const flags[] = { "single_word", "lstrip", "rstrip" };
    const char *what = "added_tokens";
    int64_t id;
    bool on = false;
    const int has_id = json_get_int(item, "id", 0, TOKEN_IDS_MAX - 1, &id, what, e);
    const int has_text = has_id < 0 ? -1 : json_get_str(item, "content", &a->text, &a->n, what, e);

    if (has_id < 0 || has_text < 0 || json_get_bool(item, "special", &a->special, what, e) < 0)
        return -1;
    if (!has_id || !has_text)
        return err_set(e, ERR_FORMAT, "added_tokens: an entry without \"%s\"",
                       has_id ? "content" : "id");
    a->id = (int32_t)id;
    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        if (json_get_bool(item, flags[i], &on, what, e) < 0)
            return -1;
        if (on)
            return err_set(e, ERR_FORMAT, "added token %d: \"%s\" is not supported", (int)a->id,
                           flags[i]);
    }
    return 0;
}

static int read_added(struct added_list *list, struct jslice text, struct err *e)
{
    const json_t *item;
    size_t i;
    void *p;

    if (!text.p)
        return 0;
    if (json_parse(&list->json, text.p, text.n, "added_tokens", e))
        return -1;
    if (!json_is_array(list->json))
        return err_set(e, ERR_FORMAT, "added_tokens must be a list");
    if (mem_new(&p, json_array_size(list->json), sizeof(*list->p), "added tokens", e))
        return -1;
    list->p = p;
    json_array_foreach(list->json, i, item)
    {
        if (read_added_one(&list->p[list->n], item, e))
            return -1;
        list->n++;
    }
    if (list->n)
        qsort(list->p, list->n, sizeof(*list->p), by_id);
    for (i = 1; i < list->n; i++)
        if (list->p[i].id == list->p[i - 1].id)
            return err_set(e, ERR_FORMAT, "added_tokens: id %d is used twice", (int)list->p[i].id);
    return 0;
}

static const struct added *added_find(const struct added_list *list, int32_t id)
{
    const struct added key = { .id = id };

    return list->n ? bsearch(&key, list->p, list->n, sizeof(key), by_id) : NULL;
}

/* ---- model ---- */

/* One entry of the vocabulary: a token in byte letters, or an added token as it is. */
static int put_entry(struct tok *t, const struct added_list *list, const char *raw, size_t n,
                     int32_t id, struct err *e)
{
    const struct added *a = added_find(list, id);
    char bytes[TOKEN_MAX];
    size_t len;

    if (a && (a->n != n || memcmp(a->text, raw, n) != 0))
        return err_set(e, ERR_FORMAT, "added token \"%.40s\" has the id %d of another token",
                       a->text, (int)id);
    if (a && token_class_of(raw, n, a->special) == TOKEN_SPECIAL)
        return 0; /* goes in with the added tokens */
    if (letters_decode(bytes, &len, raw, n)) {
        if (a)
            return 0;
        return err_set(e, ERR_FORMAT,
                       "token %d: not in the byte-level alphabet, or of more than %d "
                       "bytes",
                       (int)id, (int)TOKEN_MAX);
    }
    return vocab_put(&t->vocab, id, TOKEN_NORMAL, bytes, len, e);
}

/* Walks {"token": id, ...}. Without t it only finds the highest id and the number of entries. */
static int walk_vocab(struct tok *t, const struct added_list *list, struct jslice text,
                      int32_t *top, size_t *count, struct err *e)
{
    struct jscan s = { text.p, text.p + text.n, text.p };

    *top = -1;
    *count = 0;
    if (js_expect(&s, '{', e))
        return -1;
    if (js_peek(&s) == '}')
        return err_set(e, ERR_FORMAT, "no tokens");
    for (int more = 1; more;) {
        char raw[RAW_MAX];
        size_t n;
        int32_t id;

        if (js_string(&s, raw, sizeof(raw), &n, e) || js_expect(&s, ':', e) ||
            js_int(&s, TOKEN_IDS_MAX - 1, &id, e))
            return -1;
        if (t && put_entry(t, list, raw, n, id, e))
            return -1;
        if (id > *top)
            *top = id;
        ++*count;
        more = js_more(&s, '}', e);
        if (more < 0)
            return -1;
    }
    return 0;
}

static int read_vocab(struct tok *t, const struct added_list *list, struct jslice text,
                      struct err *e)
{
    size_t bytes = text.n, count;
    int32_t top;

    if (!text.p)
        return err_set(e, ERR_FORMAT, "missing");
    if (walk_vocab(NULL, NULL, text, &top, &count, e))
        return -1;
    for (size_t i = 0; i < list->n; i++) {
        if (list->p[i].id > top)
            top = list->p[i].id;
        bytes += list->p[i].n;
    }
    if (vocab_init(&t->vocab, top + 1, bytes, e) || walk_vocab(t, list, text, &top, &count, e))
        return -1;
    return vocab_check_bytes(&t->vocab, false, e);
}

/* ["a", "b"] */
static int add_pair(struct tok *t, struct jscan *s, struct err *e)
{
    char raw[RAW_MAX], part[2][TOKEN_MAX];
    size_t n, len[2] = { 0 };

    for (int i = 0; i < 2; i++) {
        if (js_expect(s, i ? ',' : '[', e) || js_string(s, raw, sizeof(raw), &n, e))
            return -1;
        if (letters_decode(part[i], &len[i], raw, n))
            return err_set(e, ERR_FORMAT, "merge %zu: not in the byte-level alphabet", t->bpe.n);
    }
    if (js_expect(s, ']', e))
        return err_set(e, ERR_FORMAT, "merge %zu is not a pair", t->bpe.n);
    return bpe_add(&t->bpe, &t->vocab, part[0], len[0], part[1], len[1], e);
}

/* Walks ["a b", ...] or [["a", "b"], ...]. Without t it only counts. */
static int walk_merges(struct tok *t, struct jslice text, size_t *count, struct err *e)
{
    struct jscan s = { text.p, text.p + text.n, text.p };
    char raw[2 * RAW_MAX + 1];

    *count = 0;
    if (js_expect(&s, '[', e))
        return -1;
    if (js_peek(&s) == ']')
        return 0;
    for (int more = 1; more; ++*count) {
        struct jslice skipped;
        size_t n;

        if (!t) {
            if (js_skip(&s, &skipped, e))
                return -1;
        } else if (js_peek(&s) == '[') {
            if (add_pair(t, &s, e))
                return -1;
        } else if (js_string(&s, raw, sizeof(raw), &n, e) ||
                   bpe_add_joined(&t->bpe, &t->vocab, raw, n, e)) {
            return -1;
        }
        more = js_more(&s, ']', e);
        if (more < 0)
            return -1;
    }
    return 0;
}

static int read_merges(struct tok *t, struct jslice text, struct err *e)
{
    size_t n;

    if (!text.p)
        return err_set(e, ERR_FORMAT, "missing");
    if (walk_merges(NULL, text, &n, e) || bpe_init(&t->bpe, n, e))
        return -1;
    return walk_merges(t, text, &n, e);
}

/* The small fields of "model": only what changes no result may be set. */
static int check_model(struct tok *t, const struct jfield *f, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        json_t *v = NULL;
        bool ok = true;

        if (f[i].value.p && json_parse(&v, f[i].value.p, f[i].value.n, f[i].name, e))
            return -1;
        if (strcmp(f[i].name, "type") == 0)
            ok = !v || (json_is_string(v) && strcmp(json_string_value(v), "BPE") == 0);
        else if (strcmp(f[i].name, "ignore_merges") == 0)
            ok = !v || json_is_boolean(v);
        else if (strcmp(f[i].name, "byte_fallback") == 0)
            ok = !v || json_is_false(v);
        else if (strcmp(f[i].name, "dropout") == 0)
            ok = !v || json_is_null(v) || (json_is_number(v) && json_number_value(v) == 0);
        else /* continuing_subword_prefix, end_of_word_suffix */
            ok = !v || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0);
        if (strcmp(f[i].name, "ignore_merges") == 0)
            t->bpe.whole = json_is_true(v);
        json_decref(v);
        if (!ok)
            return err_set(e, ERR_FORMAT, "model: \"%s\" is %.*s: not supported", f[i].name,
                           (int)(f[i].value.n < 60 ? f[i].value.n : 60), f[i].value.p);
    }
    return 0;
}

static int read_model(struct tok *t, const struct added_list *list, struct jslice text,
                      struct err *e)
{
    enum { VOCAB, MERGES, REST };
    struct jfield f[] = {
        [VOCAB] = { .name = "vocab" },
        [MERGES] = { .name = "merges" },
        [REST] = { .name = "type" },
        { .name = "ignore_merges" },
        { .name = "byte_fallback" },
        { .name = "dropout" },
        { .name = "continuing_subword_prefix" },
        { .name = "end_of_word_suffix" },
    };
    if (!text.p)
        return err_set(e, ERR_FORMAT, "\"model\" is missing");
    struct jscan s = { text.p, text.p + text.n, text.p };

    if (js_fields(&s, f, ARRAY_LEN(f), e))
        return err_wrap(e, "model");
    if (read_vocab(t, list, f[VOCAB].value, e))
        return err_wrap(e, "model.vocab");
    if (read_merges(t, f[MERGES].value, e))
        return err_wrap(e, "model.merges");
    return check_model(t, f + REST, ARRAY_LEN(f) - REST, e);
}

/* ---- pre_tokenizer ---- */

static int add_split(struct tok *t, const json_t *part, struct err *e)
{
    const json_t *regex = json_object_get(json_object_get(part, "pattern"), "Regex");
    const char *behavior = json_string_value(json_object_get(part, "behavior"));
    const bool invert = json_is_true(json_object_get(part, "invert"));
    enum split_kind kind;

    if (!json_is_string(regex) ||
        !split_by_regex(&kind, json_string_value(regex), json_string_length(regex)))
        return err_set(e, ERR_FORMAT,
                       "pre_tokenizer: the Split expression \"%.60s\" is not one of "
                       "those known (Llama 3, GPT-2, Qwen 2)",
                       json_is_string(regex) ? json_string_value(regex) : "(none)");
    /* the expressions match everything, so what is between matches can be kept or removed */
    if (!behavior || !((!invert && strcmp(behavior, "Isolated") == 0) ||
                       (invert && strcmp(behavior, "Removed") == 0)))
        return unsupported("pre_tokenizer: Split behavior", behavior ? behavior : "(none)", e);
    return splitter_add(t->split, kind, e);
}

static int add_byte_level(struct tok *t, const json_t *part, struct err *e)
{
    /* both are true where the file does not say */
    if (!json_is_false(json_object_get(part, "add_prefix_space")))
        return err_set(e, ERR_FORMAT,
                       "pre_tokenizer: ByteLevel with add_prefix_space is not supported");
    if (json_is_false(json_object_get(part, "use_regex")))
        return 0;
    return splitter_add(t->split, SPLIT_GPT2, e);
}

static int add_step(struct tok *t, const json_t *part, bool last, struct err *e)
{
    const char *type = type_of(part);

    if (strcmp(type, "ByteLevel") == 0) {
        if (!last)
            return err_set(e, ERR_FORMAT, "pre_tokenizer: ByteLevel must be the last step");
        return add_byte_level(t, part, e);
    }
    if (last)
        return err_set(e, ERR_FORMAT, "pre_tokenizer \"%s\": the last step must be ByteLevel",
                       type);
    if (strcmp(type, "Split") == 0)
        return add_split(t, part, e);
    if (strcmp(type, "Digits") == 0)
        return splitter_add(t->split,
                            json_is_true(json_object_get(part, "individual_digits"))
                                ? SPLIT_DIGIT
                                : SPLIT_DIGIT_RUNS,
                            e);
    return unsupported("pre_tokenizer", type, e);
}

static int read_pre_tokenizer(struct tok *t, const json_t *pre, struct err *e)
{
    const json_t *list = json_object_get(pre, "pretokenizers");
    const size_t n = json_array_size(list);

    if (splitter_new(&t->split, e))
        return -1;
    if (strcmp(type_of(pre), "Sequence") != 0) {
        if (add_step(t, pre, true, e))
            return -1;
    } else {
        for (size_t i = 0; i < n; i++)
            if (add_step(t, json_array_get(list, i), i + 1 == n, e))
                return -1;
    }
    if (!splitter_steps(t->split))
        return err_set(e, ERR_FORMAT, "pre_tokenizer: no step that splits text");
    return 0;
}

/* ---- the parts around it ---- */

static int read_normalizer(const json_t *v, struct err *e)
{
    if (json_is_null(v) || !v)
        return 0;
    if (strcmp(type_of(v), "Sequence") == 0 && json_is_array(json_object_get(v, "normalizers")) &&
        json_array_size(json_object_get(v, "normalizers")) == 0)
        return 0;
    return unsupported("normalizer", type_of(v), e);
}

static int read_decoder(const json_t *v, struct err *e)
{
    if (strcmp(type_of(v), "ByteLevel") != 0)
        return err_set(e, ERR_FORMAT,
                       "decoder \"%s\" does not fit a byte-level vocabulary: want "
                       "ByteLevel",
                       type_of(v));
    return 0;
}

/* The id of a template's special token, which must be one token of that text. */
static int32_t template_token(const struct tok *t, const json_t *post, const char *name)
{
    const json_t *ids =
        json_object_get(json_object_get(json_object_get(post, "special_tokens"), name), "ids");
    const json_t *id = json_array_get(ids, 0);
    const int32_t want = tok_id(t, name);

    return json_array_size(ids) == 1 && json_is_integer(id) && json_integer_value(id) == want ? want
                                                                                              : -1;
}

/* TemplateProcessing: nothing, or BOS before the text. */
static int read_template(struct tok *t, const json_t *post, struct err *e)
{
    const json_t *single = json_object_get(post, "single"), *item;
    bool seen = false;
    size_t i;

    json_array_foreach(single, i, item)
    {
        const json_t *token = json_object_get(item, "SpecialToken");
        const char *name = json_string_value(json_object_get(token, "id"));

        if (json_object_get(item, "Sequence")) {
            seen = true;
            continue;
        }
        if (!name)
            return err_set(e, ERR_FORMAT,
                           "post_processor: an item that is neither a token nor the text");
        const int32_t id = template_token(t, post, name);
        if (id < 0)
            return err_set(e, ERR_FORMAT, "post_processor: \"%s\" is not a special token", name);
        if (seen || t->adds_bos)
            return err_set(e, ERR_FORMAT,
                           "post_processor: \"%s\" is added where only one token "
                           "before the text is supported",
                           name);
        t->bos = id;
        t->adds_bos = true;
    }
    if (!seen)
        return err_set(e, ERR_FORMAT, "post_processor: the template leaves the text out");
    return 0;
}

static int read_post(struct tok *t, const json_t *post, bool inner, struct err *e)
{
    const char *type = type_of(post);
    const json_t *item;
    size_t i;

    if (!post || json_is_null(post) || strcmp(type, "ByteLevel") == 0)
        return 0;
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(t, post, e);
    if (strcmp(type, "Sequence") != 0 || inner)
        return unsupported("post_processor", type, e);
    json_array_foreach(json_object_get(post, "processors"), i, item)
    {
        if (read_post(t, item, true, e))
            return -1;
    }
    return 0;
}

static int build(struct tok *t, const char *text, size_t n, struct added_list *list,
                 json_t *part[4], struct err *e)
{
    enum { NORMALIZER, PRE, POST, DECODER, PARTS, MODEL = PARTS, ADDED };
    struct jfield f[] = {
        [NORMALIZER] = { .name = "normalizer" }, [PRE] = { .name = "pre_tokenizer" },
        [POST] = { .name = "post_processor" },   [DECODER] = { .name = "decoder" },
        [MODEL] = { .name = "model" },           [ADDED] = { .name = "added_tokens" },
    };
    struct jscan s = { text, text + n, text };

    if (js_fields(&s, f, ARRAY_LEN(f), e))
        return -1;
    if (js_peek(&s) || s.p != s.end)
        return err_set(e, ERR_FORMAT, "not valid JSON: text after the end");
    for (size_t i = 0; i < PARTS; i++)
        if (f[i].value.p && json_parse(&part[i], f[i].value.p, f[i].value.n, f[i].name, e))
            return -1;
    if (read_normalizer(part[NORMALIZER], e) || read_pre_tokenizer(t, part[PRE], e) ||
        read_decoder(part[DECODER], e))
        return -1;
    if (read_added(list, f[ADDED].value, e) || read_model(t, list, f[MODEL].value, e))
        return -1;
    for (size_t i = 0; i < list->n; i++)
        if (tok_add_named(t, list->p[i].id, list->p[i].text, list->p[i].n, list->p[i].special, e))
            return err_wrap(e, "added_tokens");
    return read_post(t, part[POST], false, e);
}

int tok_from_json(struct tok **out, const char *text, size_t n, const char *what, struct err *e)
{
    struct tok *t = tok_new("tokenizer.json");
    struct added_list list = { 0 };
    json_t *part[4] = { NULL };
    const int rc = build(t, text, n, &list, part, e);

    for (size_t i = 0; i < ARRAY_LEN(part); i++)
        json_decref(part[i]);
    json_decref(list.json);
    free(list.p);
    if (rc) {
        tok_free(t);
        return err_wrap(e, "%s", what);
    }
    *out = t;
    return 0;
}
