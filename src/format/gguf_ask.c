/* gguf_ask.c - what an opened GGUF file says: tensors by name, metadata by key and type. */
#include "format/gguf_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

const char *gguf_path(const struct gguf *g)
{
    return g->part[0].path;
}

uint32_t gguf_version(const struct gguf *g)
{
    return g->version;
}

size_t gguf_tensors(const struct gguf *g)
{
    return g->n_entries;
}

const struct tensor_view *gguf_tensor(const struct gguf *g, size_t i)
{
    return &g->entry[i].view;
}

static int name_cmp(const void *key, const void *member)
{
    return strcmp(key, (*(struct entry *const *)member)->name);
}

const struct tensor_view *gguf_find(const struct gguf *g, const char *name)
{
    struct entry **t = g->n_entries
                           ? bsearch(name, g->by_name, g->n_entries, sizeof(*g->by_name), name_cmp)
                           : NULL;

    return t ? &(*t)->view : NULL;
}

static int key_cmp(const void *key, const void *member)
{
    const struct gguf_str *k = &(*(struct pair *const *)member)->key;

    return gguf_str_cmp(key, strlen(key), k->p, k->n);
}

static const struct pair *find_pair(const struct gguf *g, const char *key)
{
    const struct part *f = &g->part[0];
    struct pair **kv =
        f->n_pairs ? bsearch(key, f->by_key, f->n_pairs, sizeof(*f->by_key), key_cmp) : NULL;

    return kv ? *kv : NULL;
}

static int wrong_type(const struct gguf *g, const struct pair *kv, const char *want, struct err *e)
{
    const bool array = kv->type == T_ARR;

    return err_set(e, ERR_FORMAT, "%s: %.*s is %s%s, not %s", gguf_path(g), (int)kv->key.n,
                   kv->key.p, array ? "an array of " : "of type ",
                   gguf_types[array ? kv->elem : kv->type].name, want);
}

/* An integer value of any width; false: another type, or above INT64_MAX. */
static bool pair_int(const struct pair *kv, int64_t *out)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } v = { 0 };

    memcpy(&v, kv->at, gguf_types[kv->type].size);
    switch (kv->type) {
    case T_U8:
        *out = v.u8;
        return true;
    case T_I8:
        *out = v.i8;
        return true;
    case T_U16:
        *out = v.u16;
        return true;
    case T_I16:
        *out = v.i16;
        return true;
    case T_U32:
        *out = v.u32;
        return true;
    case T_I32:
        *out = v.i32;
        return true;
    case T_I64:
        *out = v.i64;
        return true;
    case T_U64:
        *out = (int64_t)v.u64;
        return v.u64 <= INT64_MAX;
    default:
        return false;
    }
}

static double pair_num(const struct pair *kv)
{
    float f;
    double d;

    if (kv->type == T_F32) {
        memcpy(&f, kv->at, 4);
        return (double)f;
    }
    memcpy(&d, kv->at, 8);
    return d;
}

int gguf_get_int(const struct gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                 struct err *e)
{
    const struct pair *kv = find_pair(g, key);
    int64_t v;

    if (!kv)
        return 0;
    if (!pair_int(kv, &v))
        return wrong_type(g, kv, "an integer that fits 63 bits", e);
    if (v < min || v > max)
        return err_set(e, ERR_FORMAT, "%s: %s is %lld, outside %lld..%lld", gguf_path(g), key,
                       (long long)v, (long long)min, (long long)max);
    *out = v;
    return 1;
}

int gguf_get_num(const struct gguf *g, const char *key, double *out, struct err *e)
{
    const struct pair *kv = find_pair(g, key);

    if (!kv)
        return 0;
    if (kv->type != T_F32 && kv->type != T_F64)
        return wrong_type(g, kv, "a float", e);
    *out = pair_num(kv);
    return 1;
}

int gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err *e)
{
    const struct pair *kv = find_pair(g, key);

    if (!kv)
        return 0;
    if (kv->type != T_BOOL)
        return wrong_type(g, kv, "a bool", e);
    *out = *kv->at != 0;
    return 1;
}

int gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out, struct err *e)
{
    const struct pair *kv = find_pair(g, key);

    if (!kv)
        return 0;
    if (kv->type != T_STR)
        return wrong_type(g, kv, "a string", e);
    *out = (struct gguf_str){ .p = (const char *)kv->at, .n = kv->n };
    return 1;
}

/* An array whose elements are of type a or b. */
static int get_array(const struct gguf *g, const char *key, enum gguf_type a, enum gguf_type b,
                     const struct pair **out, struct err *e)
{
    const struct pair *kv = find_pair(g, key);

    if (!kv)
        return 0;
    if (kv->type != T_ARR || (kv->elem != a && kv->elem != b))
        return wrong_type(g, kv,
                          a == T_STR   ? "an array of strings"
                          : a == T_F32 ? "an array of f32"
                                       : "an array of i32",
                          e);
    *out = kv;
    return 1;
}

int gguf_get_strs(const struct gguf *g, const char *key, struct gguf_strs *out, struct err *e)
{
    const struct pair *kv = NULL;
    const int rc = get_array(g, key, T_STR, T_STR, &kv, e);

    if (rc > 0)
        *out = (struct gguf_strs){ .n = kv->n, .at = kv->at };
    return rc;
}

struct gguf_str gguf_strs_next(struct gguf_strs *s)
{
    uint64_t n;

    BUG_ON(s->n == 0);
    memcpy(&n, s->at, 8);
    const struct gguf_str str = { .p = (const char *)s->at + 8, .n = (size_t)n };

    s->at += 8 + n;
    s->n--;
    return str;
}

int gguf_get_i32s(const struct gguf *g, const char *key, const void **out, size_t *n, struct err *e)
{
    const struct pair *kv = NULL;
    const int rc = get_array(g, key, T_I32, T_U32, &kv, e);

    if (rc > 0) {
        *out = kv->at;
        *n = kv->n;
    }
    return rc;
}

int gguf_get_f32s(const struct gguf *g, const char *key, const void **out, size_t *n, struct err *e)
{
    const struct pair *kv = NULL;
    const int rc = get_array(g, key, T_F32, T_F32, &kv, e);

    if (rc > 0) {
        *out = kv->at;
        *n = kv->n;
    }
    return rc;
}

bool gguf_has_prefix(const struct gguf *g, const char *prefix)
{
    const struct part *f = &g->part[0];
    const size_t n = strlen(prefix);

    for (size_t i = 0; i < f->n_pairs; i++)
        if (f->pair[i].key.n >= n && !memcmp(f->pair[i].key.p, prefix, n))
            return true;
    return false;
}

/* ---- showing ---- */

enum { SHOW_STRING = 60, SHOW_ELEMENTS = 6 };

static void show_str(struct buf *b, const char *p, size_t n)
{
    buf_addc(b, '"');
    buf_add(b, p, n < SHOW_STRING ? n : SHOW_STRING);
    buf_adds(b, n > SHOW_STRING ? "...\"" : "\"");
}

static void show_scalar(struct buf *b, const struct pair *kv)
{
    int64_t v;

    if (kv->type == T_F32 || kv->type == T_F64)
        buf_addf(b, "%.9g", pair_num(kv));
    else if (kv->type == T_BOOL)
        buf_adds(b, *kv->at ? "true" : "false");
    else if (pair_int(kv, &v))
        buf_addf(b, "%lld", (long long)v);
    else
        buf_addf(b, "%" PRIu64, (uint64_t)v); /* a u64 above INT64_MAX */
}

static void show_array(struct buf *b, const struct pair *kv)
{
    struct gguf_strs strs = { .n = kv->n, .at = kv->at };
    struct pair one = { .type = kv->elem, .at = kv->at };

    buf_addf(b, "%zu x %s [", kv->n, gguf_types[kv->elem].name);
    for (size_t i = 0; i < kv->n && i < SHOW_ELEMENTS; i++) {
        buf_adds(b, i ? ", " : "");
        if (kv->elem == T_STR) {
            const struct gguf_str s = gguf_strs_next(&strs);

            show_str(b, s.p, s.n);
        } else {
            show_scalar(b, &one);
            one.at += gguf_types[kv->elem].size;
        }
    }
    buf_adds(b, kv->n > SHOW_ELEMENTS ? ", ...]" : "]");
}

void gguf_each_meta(const struct gguf *g,
                    void (*fn)(void *arg, struct gguf_str key, uint32_t type, const char *value),
                    void *arg)
{
    const struct part *f = &g->part[0];

    for (size_t i = 0; i < f->n_pairs; i++) {
        const struct pair *kv = &f->pair[i];
        struct buf b;

        buf_init(&b, 4096);
        if (kv->type == T_STR)
            show_str(&b, (const char *)kv->at, kv->n);
        else if (kv->type == T_ARR)
            show_array(&b, kv);
        else
            show_scalar(&b, kv);
        for (size_t c = 0; c < b.len; c++)
            if ((unsigned char)b.p[c] < ' ' || b.p[c] == 0x7F)
                b.p[c] = ' ';
        fn(arg, kv->key, (uint32_t)kv->type, b.p);
        buf_release(&b);
    }
}
