/* Layout: u64 n (little-endian) | n bytes of JSON, padded with spaces | data. Entries of the JSON
 * give dtype, shape and a byte range of the data. Names live in the parsed JSON, which is kept. */
#include "format/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

enum { ST_MAX_HEADER = 100 * 1000 * 1000, ST_MAX_NAME = 4096 };

static const struct {
    const char *name;
    enum enc enc;
} dtype[] = {
    { "BF16", ENC_BF16 },       { "BOOL", ENC_BOOL },       { "F16", ENC_F16 }, { "F32", ENC_F32 },
    { "F64", ENC_F64 },         { "F8_E4M3", ENC_F8_E4M3 }, { "I16", ENC_I16 }, { "I32", ENC_I32 },
    { "F8_E5M2", ENC_F8_E5M2 }, { "I64", ENC_I64 },         { "I8", ENC_I8 },   { "U8", ENC_U8 },
};

struct st {
    char *path;
    struct map map;    /* empty when the bytes are borrowed */
    json_t *header;    /* owns the names */
    struct tensor_view *tensor; /* in the order of the data */
    size_t n;
};

static int read_dtype(struct tensor_view *t, const json_t *entry, const char *path, struct err *e)
{
    const char *name = json_string_value(json_object_get(entry, "dtype"));

    for (size_t i = 0; name && i < ARRAY_LEN(dtype); i++) {
        if (!strcmp(name, dtype[i].name)) {
            t->enc = dtype[i].enc;
            return 0;
        }
    }
    return err_set(e, ERR_FORMAT, "%s: tensor %.200s: dtype %.40s is missing or not supported",
                   path, t->name, name ? name : "?");
}

/* Sets shape and nbytes. */
static int read_shape(struct tensor_view *t, const json_t *entry, const char *path, struct err *e)
{
    const json_t *shape = json_object_get(entry, "shape");
    uint64_t count = 1;

    if (!json_is_array(shape))
        return err_set(e, ERR_FORMAT, "%s: tensor %.200s: \"shape\" must be a list", path, t->name);
    if (json_array_size(shape) > TENSOR_MAX_DIMS)
        return err_set(e, ERR_FORMAT, "%s: tensor %.200s has %zu dimensions (at most %d)", path,
                       t->name, json_array_size(shape), TENSOR_MAX_DIMS);
    t->ndim = (int)json_array_size(shape);
    for (int i = 0; i < t->ndim; i++) {
        const json_t *dim = json_array_get(shape, (size_t)i);

        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return err_set(e, ERR_FORMAT, "%s: tensor %.200s: dimension %d is no count", path,
                           t->name, i);
        t->shape[i] = (uint64_t)json_integer_value(dim);
        if (__builtin_mul_overflow(count, t->shape[i], &count))
            return err_set(e, ERR_FORMAT, "%s: tensor %.200s: the product of its shape overflows",
                           path, t->name);
    }
    if (!enc_size(t->enc, count, 1, &t->nbytes))
        return err_set(e, ERR_FORMAT, "%s: tensor %.200s: its size in bytes overflows", path,
                       t->name);
    return 0;
}

static int read_entry(struct tensor_view *t, const char *name, const json_t *entry,
                      const uint8_t *data, size_t len, const char *path, struct err *e)
{
    t->name = name;
    if (!json_is_object(entry))
        return err_set(e, ERR_FORMAT, "%s: tensor %.200s: its entry must be an object", path, name);
    if (read_dtype(t, entry, path, e) || read_shape(t, entry, path, e))
        return -1;

    const json_t *range = json_object_get(entry, "data_offsets");
    const json_t *b = json_array_get(range, 0), *f = json_array_get(range, 1);

    if (json_array_size(range) != 2 || !json_is_integer(b) || !json_is_integer(f))
        return err_set(e, ERR_FORMAT, "%s: tensor %.200s: \"data_offsets\" must be two integers",
                       path, name);
    const int64_t begin = json_integer_value(b), end = json_integer_value(f);

    if (begin < 0 || end < begin || (uint64_t)end > len)
        return err_set(e, ERR_FORMAT,
                       "%s: tensor %.200s: data_offsets %" PRId64 "..%" PRId64
                       " lie outside the %zu bytes of data (an interrupted download?)",
                       path, name, begin, end, len);
    if ((uint64_t)(end - begin) != t->nbytes)
        return err_set(e, ERR_FORMAT,
                       "%s: tensor %.200s: data_offsets span %" PRId64
                       " bytes, its shape needs %zu",
                       path, name, end - begin, t->nbytes);
    t->data = data + begin;
    return 0;
}

static int by_data(const void *a, const void *b)
{
    const struct tensor_view *x = a, *y = b;

    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    if (x->nbytes != y->nbytes)
        return x->nbytes < y->nbytes ? -1 : 1;
    return strcmp(x->name, y->name); /* empty tensors: any fixed order */
}

/* The tensors must tile the data: no overlap, no hole, nothing after the last. */
static int check_tiling(const struct st *s, const uint8_t *data, size_t len, struct err *e)
{
    size_t at = 0;

    for (size_t i = 0; i < s->n; i++) {
        const struct tensor_view *t = &s->tensor[i];
        const size_t begin = (size_t)(t->data - data);

        if (begin != at)
            return err_set(e, ERR_FORMAT,
                           "%s: tensor %.200s begins at byte %zu of the data, %s %zu", s->path,
                           t->name, begin,
                           begin < at ? "overlapping what ends at" : "leaving a hole after", at);
        at += t->nbytes;
    }
    if (at != len)
        return err_set(e, ERR_FORMAT, "%s: %zu bytes after the last tensor", s->path, len - at);
    return 0;
}

static int check_metadata(const struct st *s, struct err *e)
{
    json_t *meta = json_object_get(s->header, "__metadata__");
    const char *key;
    json_t *value;

    if (!meta)
        return 0;
    if (!json_is_object(meta))
        return err_set(e, ERR_FORMAT, "%s: __metadata__ must be an object", s->path);
    json_object_foreach(meta, key, value) if (!json_is_string(value)) return err_set(
        e, ERR_FORMAT, "%s: __metadata__: \"%.200s\" must be a string", s->path, key);
    return 0;
}

static int parse(struct st *s, const uint8_t *p, size_t n, struct err *e)
{
    uint64_t len = 0;
    void *mem;

    if (n >= 8)
        memcpy(&len, p, 8);
    if (len == 0 || len > n - 8)
        return err_set(e, ERR_FORMAT,
                       "%s: not a safetensors file, or cut off: a header of %" PRIu64
                       " bytes in a file of %zu",
                       s->path, len, n);
    if (len > ST_MAX_HEADER)
        return err_set(e, ERR_FORMAT, "%s: a header of %" PRIu64 " bytes, the limit is %d", s->path,
                       len, ST_MAX_HEADER);
    size_t text = (size_t)len;

    while (text > 0 && p[8 + text - 1] == ' ')
        text--;
    if (p[8] != '{' || p[8 + text - 1] != '}')
        return err_set(e, ERR_FORMAT, "%s: the header is not a JSON object padded with spaces",
                       s->path);
    if (json_parse(&s->header, (const char *)p + 8, text, s->path, e))
        return -1;
    if (!json_is_object(s->header)) /* cannot be after '{'; the walk below relies on it */
        return err_set(e, ERR_FORMAT, "%s: the header is not a JSON object", s->path);
    if (check_metadata(s, e) ||
        mem_new(&mem, json_object_size(s->header), sizeof(*s->tensor), s->path, e))
        return -1;
    s->tensor = mem;

    const uint8_t *const data = p + 8 + len;
    const size_t data_len = n - 8 - (size_t)len;
    const char *name;
    json_t *entry;

    json_object_foreach(s->header, name, entry)
    {
        if (!strcmp(name, "__metadata__"))
            continue;
        if (strlen(name) > ST_MAX_NAME || !*name)
            return err_set(e, ERR_FORMAT, "%s: a tensor name of %zu bytes (1 to %d are allowed)",
                           s->path, strlen(name), ST_MAX_NAME);
        if (read_entry(&s->tensor[s->n], name, entry, data, data_len, s->path, e))
            return -1;
        s->n++;
    }
    qsort(s->tensor, s->n, sizeof(*s->tensor), by_data);
    return check_tiling(s, data, data_len, e);
}

int st_open_mem(struct st **out, const void *p, size_t n, const char *what, struct err *e)
{
    struct st *s = xcalloc(1, sizeof(*s));

    s->path = xstrdup(what);
    if (parse(s, p, n, e)) {
        st_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

int st_open(struct st **out, const char *path, struct err *e)
{
    struct st *s = xcalloc(1, sizeof(*s));

    s->path = xstrdup(path);
    if (map_open(&s->map, path, e) || parse(s, s->map.p, s->map.len, e)) {
        st_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

void st_close(struct st *s)
{
    if (!s)
        return;
    map_close(&s->map);
    json_decref(s->header);
    free(s->tensor);
    free(s->path);
    free(s);
}

const char *st_path(const struct st *s)
{
    return s->path;
}

size_t st_tensors(const struct st *s)
{
    return s->n;
}

const struct tensor_view *st_tensor(const struct st *s, size_t i)
{
    return &s->tensor[i];
}

const struct tensor_view *st_find(const struct st *s, const char *name)
{
    for (size_t i = 0; i < s->n; i++)
        if (!strcmp(s->tensor[i].name, name))
            return &s->tensor[i];
    return NULL;
}

const json_t *st_metadata(const struct st *s)
{
    return json_object_get(s->header, "__metadata__");
}
