/* Layout (all little-endian):
 *
 *   "GGUF" | u32 version | u64 tensors | u64 pairs
 *   pairs:    string key | u32 type | value          string = u64 length | bytes
 *   tensors:  string name | u32 dims | u64 dim[]... | u32 type | u64 offset
 *   padding to general.alignment, then the data
 *
 * The file is walked once. Lengths and counts are compared with the bytes that are left, by
 * subtraction, before anything is allocated or skipped; after gguf_open every stored pointer
 * is known to lie within the mapping with all that follows from its type. */
#include "format/gguf_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"

enum {
    GGUF_MAX_DIMS = 4,
    GGUF_MAX_KEY = 65535,
    GGUF_MAX_ALIGN = 1 << 16,
    GGUF_MAX_FILES = 4096, /* of a split set */
    /* The shortest possible pair (key of one byte, u8) and tensor (no name, no dimension). */
    GGUF_MIN_PAIR = 8 + 1 + 4 + 1,
    GGUF_MIN_TENSOR = 8 + 4 + 4 + 8,
};

const struct gguf_type_info gguf_types[T_COUNT] = {
    [T_U8] = { "u8", 1 },     [T_I8] = { "i8", 1 },     [T_U16] = { "u16", 2 },
    [T_I16] = { "i16", 2 },   [T_U32] = { "u32", 4 },   [T_I32] = { "i32", 4 },
    [T_F32] = { "f32", 4 },   [T_BOOL] = { "bool", 1 }, [T_STR] = { "string", 0 },
    [T_ARR] = { "array", 0 }, [T_U64] = { "u64", 8 },   [T_I64] = { "i64", 8 },
    [T_F64] = { "f64", 8 },
};

/* ggml's tensor types that puna does not read, for the message. */
static const struct {
    uint32_t type;
    const char *name;
} unread[] = {
    { 9, "Q8_1" },     { 10, "Q2_K" },   { 11, "Q3_K" },    { 15, "Q8_K" },
    { 16, "IQ2_XXS" }, { 17, "IQ2_XS" }, { 18, "IQ3_XXS" }, { 19, "IQ1_S" },
    { 20, "IQ4_NL" },  { 21, "IQ3_S" },  { 22, "IQ2_S" },   { 23, "IQ4_XS" },
    { 29, "IQ1_M" },   { 34, "TQ1_0" },  { 35, "TQ2_0" },   { 39, "MXFP4" },
};

/* ---- reading ---- */

static bool take(struct cursor *c, void *out, size_t n)
{
    if (n > c->left)
        return false;
    memcpy(out, c->p, n);
    c->p += n;
    c->left -= n;
    return true;
}

static int cut(const struct part *f, const char *what, struct err *e)
{
    return err_set(e, ERR_FORMAT,
                   "%s: the file ends inside %s (%zu bytes; an interrupted download?)", f->path,
                   what, f->len);
}

/* A string's bytes, as a view. */
static bool take_str(struct cursor *c, struct gguf_str *s)
{
    uint64_t n;

    if (!take(c, &n, 8) || n > c->left)
        return false;
    *s = (struct gguf_str){ .p = (const char *)c->p, .n = (size_t)n };
    c->p += n;
    c->left -= (size_t)n;
    return true;
}

static bool bools_ok(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] > 1)
            return false;
    return true;
}

/* The value of kv->type at the cursor. */
static int read_value(struct part *f, struct cursor *c, struct pair *kv, struct err *e)
{
    enum gguf_type type = kv->type;
    size_t n = 1;

    if (type == T_ARR) {
        uint32_t elem;
        uint64_t count;

        if (!take(c, &elem, 4) || !take(c, &count, 8))
            return cut(f, "the metadata", e);
        if (elem >= T_COUNT || elem == T_ARR)
            return err_set(e, ERR_FORMAT, "%s: %.*s is an array of %s %u", f->path, (int)kv->key.n,
                           kv->key.p, elem == T_ARR ? "arrays, type" : "unknown type", elem);
        kv->elem = type = (enum gguf_type)elem;
        if (count > c->left / (type == T_STR ? 8 : gguf_types[type].size))
            return err_set(e, ERR_FORMAT,
                           "%s: array %.*s has %" PRIu64 " elements, but only %zu bytes follow",
                           f->path, (int)kv->key.n, kv->key.p, count, c->left);
        kv->n = n = (size_t)count;
    }
    kv->at = c->p;
    if (type == T_STR) {
        for (size_t i = 0; i < n; i++) {
            struct gguf_str s;

            if (!take_str(c, &s))
                return cut(f, "a metadata string", e);
            if (kv->type == T_STR) {
                kv->at = (const uint8_t *)s.p;
                kv->n = s.n;
            }
        }
        return 0;
    }
    const size_t bytes = n * gguf_types[type].size; /* fits: n was bounded by the bytes left */

    if (bytes > c->left)
        return cut(f, "the metadata", e);
    if (type == T_BOOL && !bools_ok(c->p, n))
        return err_set(e, ERR_FORMAT, "%s: %.*s: a bool is neither 0 nor 1", f->path,
                       (int)kv->key.n, kv->key.p);
    c->p += bytes;
    c->left -= bytes;
    return 0;
}

static int read_pair(struct part *f, struct cursor *c, struct pair *kv, struct err *e)
{
    uint64_t n;
    uint32_t type;

    if (!take(c, &n, 8))
        return cut(f, "the metadata", e);
    if (n == 0 || n > GGUF_MAX_KEY)
        return err_set(e, ERR_FORMAT,
                       "%s: a metadata key of %" PRIu64 " bytes (1 to %d are allowed)", f->path, n,
                       GGUF_MAX_KEY);
    if (n > c->left)
        return cut(f, "a metadata key", e);
    kv->key = (struct gguf_str){ .p = (const char *)c->p, .n = (size_t)n };
    c->p += n;
    c->left -= (size_t)n;
    for (size_t i = 0; i < kv->key.n; i++)
        if (kv->key.p[i] <= ' ' || kv->key.p[i] > '~')
            return err_set(e, ERR_FORMAT, "%s: a metadata key holds byte 0x%02x (keys are ASCII)",
                           f->path, (unsigned char)kv->key.p[i]);
    if (!take(c, &type, 4))
        return cut(f, "the metadata", e);
    if (type >= T_COUNT)
        return err_set(e, ERR_FORMAT, "%s: %.*s has unknown value type %u", f->path, (int)kv->key.n,
                       kv->key.p, type);
    kv->type = (enum gguf_type)type;
    return read_value(f, c, kv, e);
}

int gguf_str_cmp(const char *a, size_t na, const char *b, size_t nb)
{
    const int r = memcmp(a, b, na < nb ? na : nb);

    return r ? r : (na > nb) - (na < nb);
}

static int pair_cmp(const void *a, const void *b)
{
    const struct gguf_str *x = &(*(struct pair *const *)a)->key,
                          *y = &(*(struct pair *const *)b)->key;

    return gguf_str_cmp(x->p, x->n, y->p, y->n);
}

static int read_pairs(struct part *f, struct cursor *c, uint64_t n, struct err *e)
{
    void *p;

    if (n > c->left / GGUF_MIN_PAIR)
        return err_set(e, ERR_FORMAT, "%s: %" PRIu64 " metadata pairs in a file of %zu bytes",
                       f->path, n, f->len);
    if (mem_new(&p, (size_t)n, sizeof(*f->pair), f->path, e))
        return -1;
    f->pair = p;
    if (mem_new(&p, (size_t)n, sizeof(*f->by_key), f->path, e))
        return -1;
    f->by_key = p;
    for (size_t i = 0; i < n; i++) {
        if (read_pair(f, c, &f->pair[i], e))
            return -1;
        f->by_key[i] = &f->pair[i];
    }
    f->n_pairs = (size_t)n;
    qsort(f->by_key, f->n_pairs, sizeof(*f->by_key), pair_cmp);
    for (size_t i = 1; i < f->n_pairs; i++)
        if (!pair_cmp(&f->by_key[i - 1], &f->by_key[i]))
            return err_set(e, ERR_FORMAT, "%s: metadata key %.*s is there twice", f->path,
                           (int)f->by_key[i]->key.n, f->by_key[i]->key.p);
    return 0;
}

/* Header and metadata of one file. */
static int part_header(struct part *f, uint32_t *version, struct err *e)
{
    struct cursor c = { f->p, f->len };
    char magic[4];
    uint64_t tensors, pairs;

    if (!take(&c, magic, 4))
        return err_set(e, ERR_FORMAT, "%s: %zu bytes are no GGUF file", f->path, f->len);
    if (!memcmp(magic, "tjgg", 4) || !memcmp(magic, "lmgg", 4) || !memcmp(magic, "fmgg", 4))
        return err_set(e, ERR_FORMAT,
                       "%s: a GGML file from before GGUF (2023), too old: convert the model again",
                       f->path);
    if (memcmp(magic, "GGUF", 4))
        return err_set(e, ERR_FORMAT, "%s: not a GGUF file", f->path);
    if (!take(&c, version, 4))
        return cut(f, "the header", e);
    if (*version == 0x02000000 || *version == 0x03000000)
        return err_set(e, ERR_FORMAT, "%s: a big-endian GGUF file, which is not supported",
                       f->path);
    if (*version != 2 && *version != 3)
        return err_set(e, ERR_FORMAT, "%s: GGUF version %u is not supported (2 and 3 are)", f->path,
                       *version);
    if (!take(&c, &tensors, 8) || !take(&c, &pairs, 8))
        return cut(f, "the header", e);
    if (read_pairs(f, &c, pairs, e))
        return -1;
    if (tensors > c.left / GGUF_MIN_TENSOR)
        return err_set(e, ERR_FORMAT,
                       "%s: %" PRIu64 " tensors, but only %zu bytes follow the metadata", f->path,
                       tensors, c.left);
    f->n_tensors = (size_t)tensors;
    f->infos = c;
    return 0;
}

/* ---- tensors ---- */

static int read_shape(const struct part *f, struct cursor *c, struct entry *t, struct err *e)
{
    uint32_t dims, type;
    uint64_t dim[GGUF_MAX_DIMS], count = 1;

    if (!take(c, &dims, 4))
        return cut(f, "the tensor list", e);
    if (dims > GGUF_MAX_DIMS)
        return err_set(e, ERR_FORMAT, "%s: tensor %s has %u dimensions (at most %d)", f->path,
                       t->name, dims, GGUF_MAX_DIMS);
    for (uint32_t i = 0; i < dims; i++) {
        if (!take(c, &dim[i], 8))
            return cut(f, "the tensor list", e);
        if (dim[i] == 0 || dim[i] > INT64_MAX || __builtin_mul_overflow(count, dim[i], &count) ||
            count > INT64_MAX)
            return err_set(e, ERR_FORMAT,
                           "%s: tensor %s: dimension %u of %" PRIu64 " is not possible", f->path,
                           t->name, i, dim[i]);
    }
    if (!take(c, &type, 4))
        return cut(f, "the tensor list", e);
    const int enc = enc_from_gguf(type);

    if (enc < 0) {
        const char *name = "unknown";

        for (size_t i = 0; i < ARRAY_LEN(unread); i++)
            if (unread[i].type == type)
                name = unread[i].name;
        return err_set(e, ERR_FORMAT, "%s: tensor %s has type %u (%s), which is not supported",
                       f->path, t->name, type, name);
    }
    t->view.enc = (enum enc)enc;
    t->view.ndim = (int)dims;
    for (uint32_t i = 0; i < dims; i++)
        t->view.shape[dims - 1 - i] = dim[i]; /* the file's first dimension is the fastest */
    if (!enc_size(t->view.enc, count, dims ? dim[0] : 1, &t->view.nbytes))
        return err_set(e, ERR_FORMAT,
                       "%s: tensor %s: rows of %" PRIu64 " values are no whole blocks of %u (%s)",
                       f->path, t->name, dims ? dim[0] : 1, enc_table[enc].block,
                       enc_table[enc].name);
    return 0;
}

/* Name, shape and type; the file's offset goes to *offset. */
static int read_entry(const struct part *f, struct cursor *c, struct entry *t, uint64_t *offset,
                      struct err *e)
{
    struct gguf_str name;

    if (!take_str(c, &name))
        return cut(f, "the tensor list", e);
    if (name.n == 0 || name.n > GGUF_MAX_NAME || memchr(name.p, '\0', name.n))
        return err_set(e, ERR_FORMAT,
                       "%s: a tensor name of %zu bytes, or with a NUL (1 to %d bytes are allowed)",
                       f->path, name.n, GGUF_MAX_NAME);
    memcpy(t->name, name.p, name.n);
    t->view.name = t->name;
    if (read_shape(f, c, t, e))
        return -1;
    if (!take(c, offset, 8))
        return cut(f, "the tensor list", e);
    return 0;
}

/* general.alignment, from the file's own metadata. */
static int part_align(const struct part *f, size_t *align, struct err *e)
{
    static const char key[] = "general.alignment";

    *align = 32;
    for (size_t i = 0; i < f->n_pairs; i++) {
        const struct pair *kv = &f->pair[i];
        uint32_t v;

        if (gguf_str_cmp(kv->key.p, kv->key.n, key, sizeof(key) - 1))
            continue;
        if (kv->type != T_U32)
            return err_set(e, ERR_FORMAT, "%s: %s is of type %s, not u32", f->path, key,
                           gguf_types[kv->type].name);
        memcpy(&v, kv->at, 4);
        if (v < 8 || v > GGUF_MAX_ALIGN || (v & (v - 1)))
            return err_set(e, ERR_FORMAT, "%s: %s is %u (a power of two from 8 to %d is needed)",
                           f->path, key, v, GGUF_MAX_ALIGN);
        *align = v;
    }
    return 0;
}

/* Reads the infos of one file into t[0..n_tensors) and points them at the data. Tensors follow one
 * another in the order of the infos, each padded to the alignment: nothing overlaps, nothing hides
 * between them. */
static int part_tensors(const struct part *f, struct entry *t, struct err *e)
{
    struct cursor c = f->infos;
    size_t align, at = 0;
    void *p;
    uint64_t *offset;
    int rc = -1;

    if (f->n_tensors == 0)
        return 0;
    if (part_align(f, &align, e) || mem_new(&p, f->n_tensors, sizeof(*offset), f->path, e))
        return -1;
    offset = p;
    for (size_t i = 0; i < f->n_tensors; i++)
        if (read_entry(f, &c, &t[i], &offset[i], e))
            goto done;
    const size_t pad = (align - (f->len - c.left) % align) % align;

    if (pad > c.left) {
        cut(f, "the padding before the data", e);
        goto done;
    }
    const uint8_t *const data = c.p + pad;
    const size_t len = c.left - pad;

    for (size_t i = 0; i < f->n_tensors; i++) {
        if (offset[i] != at) {
            err_set(e, ERR_FORMAT, "%s: tensor %s begins at %" PRIu64 " of the data, expected %zu",
                    f->path, t[i].name, offset[i], at);
            goto done;
        }
        if (at > len || t[i].view.nbytes > len - at) {
            err_set(e, ERR_FORMAT,
                    "%s: tensor %s needs %zu bytes at %zu, but the data has %zu (an interrupted "
                    "download?)",
                    f->path, t[i].name, t[i].view.nbytes, at, len);
            goto done;
        }
        t[i].view.data = data + at;
        at += t[i].view.nbytes;             /* <= len */
        at += (align - at % align) % align; /* a file's length is far below SIZE_MAX */
    }
    rc = 0;
done:
    free(offset);
    return rc;
}

static int entry_cmp(const void *a, const void *b)
{
    return strcmp((*(struct entry *const *)a)->name, (*(struct entry *const *)b)->name);
}

static int read_tensors(struct gguf *g, struct err *e)
{
    size_t n = 0;
    void *p;

    for (size_t i = 0; i < g->n_parts; i++)
        n += g->part[i].n_tensors; /* each is below its file's length */
    if (mem_new(&p, n, sizeof(*g->entry), gguf_path(g), e))
        return -1;
    g->entry = p;
    if (mem_new(&p, n, sizeof(*g->by_name), gguf_path(g), e))
        return -1;
    g->by_name = p;
    for (size_t i = 0, at = 0; i < g->n_parts; at += g->part[i++].n_tensors)
        if (part_tensors(&g->part[i], g->entry + at, e))
            return -1;
    for (size_t i = 0; i < n; i++)
        g->by_name[i] = &g->entry[i];
    g->n_entries = n;
    qsort(g->by_name, n, sizeof(*g->by_name), entry_cmp);
    for (size_t i = 1; i < n; i++)
        if (!entry_cmp(&g->by_name[i - 1], &g->by_name[i]))
            return err_set(e, ERR_FORMAT, "%s: tensor %s is there twice", gguf_path(g),
                           g->by_name[i]->name);
    return 0;
}

/* ---- opening ---- */

static int part_open(struct part *f, const char *path, uint32_t *version, struct err *e)
{
    f->path = xstrdup(path);
    if (map_open(&f->map, path, e))
        return -1;
    f->p = f->map.p;
    f->len = f->map.len;
    return part_header(f, version, e);
}

bool gguf_split_name(const char *path, size_t *stem, unsigned *no, unsigned *count)
{
    static const size_t tail = sizeof("-00001-of-00005.gguf") - 1;
    const size_t n = strlen(path);
    int end = 0;

    if (n <= tail)
        return false;
    *stem = n - tail;
    if (sscanf(path + *stem, "-%5u-of-%5u.gguf%n", no, count, &end) != 2)
        return false;
    return end == (int)tail;
}

/* Opens the other files of a split set. split.count is known to be above 1. */
static int open_set(struct gguf *g, const char *path, int64_t count, struct err *e)
{
    unsigned no, of;
    size_t stem, tensors = 0;
    int64_t want = -1;
    void *p;

    if (!gguf_split_name(path, &stem, &no, &of) || of != count)
        return err_set(
            e, ERR_FORMAT,
            "%s: one of %lld files, but its name does not end in -00001-of-%05lld.gguf: give "
            "the files their names back",
            path, (long long)count, (long long)count);
    const struct part first = g->part[0];

    if (mem_new(&p, (size_t)count, sizeof(*g->part), path, e))
        return -1;
    free(g->part);
    g->part = p;
    g->n_parts = 1;
    g->part[0] = first;
    if (no != 1) {
        /* Begin with the first file, whose metadata counts. */
        struct part *f = &g->part[0];
        char *name = xasprintf("%.*s-00001-of-%05u.gguf", (int)stem, path, of);

        free(f->path);
        free(f->pair);
        free(f->by_key);
        map_close(&f->map);
        *f = (struct part){ 0 };
        const int rc = part_open(f, name, &g->version, e);

        free(name);
        if (rc)
            return -1;
    }
    for (unsigned i = 1; i < of; i++) {
        char *name = xasprintf("%.*s-%05u-of-%05u.gguf", (int)stem, path, i + 1, of);
        uint32_t version;
        const int rc = part_open(&g->part[g->n_parts++], name, &version, e);

        free(name);
        if (rc)
            return -1;
    }
    for (size_t i = 0; i < g->n_parts; i++) {
        const struct gguf view = { .part = &g->part[i], .n_parts = 1 };
        int64_t at = -1;

        if (gguf_get_int(&view, "split.no", 0, count - 1, &at, e) < 0)
            return -1;
        if (at != (int64_t)i)
            return err_set(e, ERR_FORMAT,
                           "%s: split.no is %lld, but the name says file %zu of the set",
                           g->part[i].path, (long long)at, i + 1);
        tensors += g->part[i].n_tensors;
    }
    if (gguf_get_int(g, "split.tensors.count", 0, INT64_MAX, &want, e) < 0)
        return -1;
    if (want >= 0 && (uint64_t)want != tensors)
        return err_set(e, ERR_FORMAT, "%s: the set has %zu tensors, split.tensors.count says %lld",
                       gguf_path(g), tensors, (long long)want);
    return 0;
}

static struct gguf *gguf_new(void)
{
    struct gguf *g = xcalloc(1, sizeof(*g));

    g->part = xcalloc(1, sizeof(*g->part));
    g->n_parts = 1;
    return g;
}

int gguf_open(struct gguf **out, const char *path, struct err *e)
{
    struct gguf *g = gguf_new();
    int64_t count = 1;

    if (part_open(&g->part[0], path, &g->version, e) ||
        gguf_get_int(g, "split.count", 0, GGUF_MAX_FILES, &count, e) < 0 ||
        (count > 1 && open_set(g, path, count, e)) || read_tensors(g, e)) {
        gguf_close(g);
        return -1;
    }
    *out = g;
    return 0;
}

int gguf_open_mem(struct gguf **out, const void *p, size_t n, const char *what, struct err *e)
{
    struct gguf *g = gguf_new();
    struct part *f = &g->part[0];

    f->path = xstrdup(what);
    f->p = p;
    f->len = n;
    if (part_header(f, &g->version, e) || read_tensors(g, e)) {
        gguf_close(g);
        return -1;
    }
    *out = g;
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->n_parts; i++) {
        struct part *f = &g->part[i];

        map_close(&f->map);
        free(f->path);
        free(f->pair);
        free(f->by_key);
    }
    free(g->part);
    free(g->entry);
    free(g->by_name);
    free(g);
}
