#include "format/pth.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "format/zip.h"

enum {
    PICKLE_MAX = 4 << 20, /* 405B: 1138 tensors, under 1 MB */
    STACK_MAX = 1 << 14,  /* pickle writes dicts in batches of 1000 pairs */
    ITEMS_MAX = 1 << 20,  /* memo, items of tuples, pairs of dicts */
    CRC_MAX = 1 << 20,    /* members up to here are verified */
    NAME_MAX_BYTES = 4096,
    GATHER_MAX = 16 << 20,
};

/* ---- values ---- */

enum kind {
    V_NONE,
    V_BOOL,
    V_INT,
    V_STR,
    V_TUPLE,   /* items[i .. i + n) */
    V_DICT,    /* i: its number */
    V_ORDERED, /* an OrderedDict, the same */
    V_GLOBAL,  /* i: its place in globals[] */
    V_STORAGE, /* i: its place in storages */
    V_TENSOR,  /* i: its place in tensors */
    V_MARK,
};

static const char *const kind_name[] = {
    "None",           "a boolean", "an integer", "a text",   "a tuple", "a dict",
    "an OrderedDict", "a name",    "a storage",  "a tensor", "a mark",
};

struct val {
    enum kind kind;
    int64_t i;
    const char *p; /* V_STR: borrowed from the pickle */
    size_t n;
};

/* Every name that may stand in the pickle; nothing is called by name. */
static const struct global {
    const char *module, *name;
    int enc; /* of a storage type; -1 = one of the callables */
} globals[] = {
    { "collections", "OrderedDict", -1 },
    { "torch._utils", "_rebuild_parameter", -1 },
    { "torch._utils", "_rebuild_tensor_v2", -1 },
    { "torch", "BFloat16Storage", ENC_BF16 },
    { "torch", "BoolStorage", ENC_BOOL },
    { "torch", "ByteStorage", ENC_U8 },
    { "torch", "CharStorage", ENC_I8 },
    { "torch", "DoubleStorage", ENC_F64 },
    { "torch", "FloatStorage", ENC_F32 },
    { "torch", "HalfStorage", ENC_F16 },
    { "torch", "IntStorage", ENC_I32 },
    { "torch", "LongStorage", ENC_I64 },
    { "torch", "ShortStorage", ENC_I16 },
};
enum { G_ORDERED, G_PARAMETER, G_TENSOR };

struct storage {
    const uint8_t *data;
    size_t values;
    enum enc enc;
};

struct tensor {
    struct storage s;
    size_t offset; /* in values */
    int ndim;
    uint64_t size[TENSOR_MAX_DIMS], stride[TENSOR_MAX_DIMS];
};

struct pair {
    int64_t dict;
    struct val key, value;
};

/* A growing array of one element type. */
struct list {
    void *p; /* owned */
    size_t n, cap;
};

struct pth {
    char *path;
    struct map map;
    struct zip zip;
    struct tensor_view *view; /* owned; sorted by name */
    size_t n;
    struct list gathered; /* void *: tensors that were copied */
};

/* The machine that reads the pickle. */
struct reader {
    struct pth *f;
    const uint8_t *p, *end;
    const char *top; /* "archive/": the folder in the zip; borrowed */
    size_t top_len;
    struct list stack, memo, items; /* struct val */
    struct list storages, tensors, pairs;
    int64_t dicts;
};

static int list_add(struct list *l, const void *x, size_t size, size_t max, const char *what,
                    struct err *e)
{
    if (l->n == max)
        return err_set(e, ERR_FORMAT, "more than %zu %s in its pickle", max, what);
    if (l->n == l->cap) {
        const size_t cap = l->cap ? l->cap * 2 : 64;
        void *p;

        if (mem_new(&p, cap, size, what, e))
            return -1;
        if (l->n)
            memcpy(p, l->p, l->n * size);
        free(l->p);
        l->p = p;
        l->cap = cap;
    }
    memcpy((char *)l->p + l->n++ * size, x, size);
    return 0;
}

static int push(struct reader *r, struct val v, struct err *e)
{
    return list_add(&r->stack, &v, sizeof(v), STACK_MAX, "values on the stack", e);
}

/* The value k places below the top; NULL when there is none above the last mark. */
static struct val *peek(const struct reader *r, size_t k)
{
    struct val *v = r->stack.p;

    for (size_t i = 0; i <= k; i++)
        if (i >= r->stack.n || v[r->stack.n - 1 - i].kind == V_MARK)
            return NULL;
    return &v[r->stack.n - 1 - k];
}

static int underflow(struct err *e)
{
    return err_set(e, ERR_FORMAT, "its pickle takes a value that is not there");
}

static int wrong(const struct val *v, const char *want, struct err *e)
{
    return err_set(e, ERR_FORMAT, "its pickle has %s where %s belongs", kind_name[v->kind], want);
}

static const struct val *item(const struct reader *r, const struct val *tuple, size_t i)
{
    return (const struct val *)r->items.p + tuple->i + i;
}

static bool is_text(const struct val *v, const char *text)
{
    return v->kind == V_STR && v->n == strlen(text) && !memcmp(v->p, text, v->n);
}

/* ---- the bytes of the pickle ---- */

/* n bytes of the pickle, or NULL with a message. */
static const uint8_t *take(struct reader *r, size_t n, struct err *e)
{
    const uint8_t *p = r->p;

    if (n > (size_t)(r->end - r->p)) {
        err_set(e, ERR_FORMAT, "its pickle is cut: %zu bytes wanted, %zu left", n,
                (size_t)(r->end - r->p));
        return NULL;
    }
    r->p += n;
    return p;
}

static int take_num(struct reader *r, int bytes, uint64_t *v, struct err *e)
{
    const uint8_t *p = take(r, (size_t)bytes, e);

    if (!p)
        return -1;
    *v = 0;
    for (int i = 0; i < bytes; i++)
        *v |= (uint64_t)p[i] << 8 * i;
    return 0;
}

/* Up to a newline, which is taken too. */
static int take_line(struct reader *r, const char **p, size_t *n, struct err *e)
{
    const uint8_t *nl = memchr(r->p, '\n', (size_t)(r->end - r->p));

    if (!nl)
        return err_set(e, ERR_FORMAT, "its pickle is cut inside a name");
    *p = (const char *)r->p;
    *n = (size_t)(nl - r->p);
    r->p = nl + 1;
    return 0;
}

/* ---- building values ---- */

static int make_tuple(struct reader *r, size_t n, struct err *e)
{
    struct val t = { .kind = V_TUPLE, .i = (int64_t)r->items.n, .n = n };

    if (n && !peek(r, n - 1))
        return underflow(e);
    for (size_t i = n; i-- > 0;)
        if (list_add(&r->items, peek(r, i), sizeof(t), ITEMS_MAX, "items of tuples", e))
            return -1;
    r->stack.n -= n;
    return push(r, t, e);
}

/* How many values lie above the last mark; the mark stays. */
static int above_mark(const struct reader *r, size_t *n, struct err *e)
{
    const struct val *v = r->stack.p;

    for (*n = 0; *n < r->stack.n; ++*n)
        if (v[r->stack.n - 1 - *n].kind == V_MARK)
            return 0;
    return err_set(e, ERR_FORMAT, "its pickle misses a mark");
}

static int tuple_to_mark(struct reader *r, struct err *e)
{
    struct val t;
    size_t n;

    if (above_mark(r, &n, e) || make_tuple(r, n, e))
        return -1;
    t = *peek(r, 0);
    r->stack.n -= 2; /* the tuple and the mark */
    return push(r, t, e);
}

/* n key-value pairs on top of the stack go into the dict below (`gap` values further down). */
static int set_items(struct reader *r, size_t n, size_t gap, struct err *e)
{
    const struct val *v = r->stack.p;
    const size_t top = r->stack.n;

    if (n % 2)
        return err_set(e, ERR_FORMAT, "its pickle has a key without a value");
    if (top < n + gap + 1)
        return underflow(e);
    const struct val *dict = &v[top - n - gap - 1];

    if (dict->kind != V_DICT && dict->kind != V_ORDERED)
        return wrong(dict, "a dict", e);
    for (size_t i = 0; i < n; i += 2) {
        const struct pair p = { dict->i, v[top - n + i], v[top - n + i + 1] };

        if (p.key.kind != V_STR)
            return wrong(&p.key, "the name of a tensor", e);
        if (list_add(&r->pairs, &p, sizeof(p), ITEMS_MAX, "entries", e))
            return -1;
    }
    r->stack.n -= n + gap;
    return 0;
}

static int push_global(struct reader *r, const char *module, size_t nm, const char *name, size_t nn,
                       struct err *e)
{
    for (size_t i = 0; i < ARRAY_LEN(globals); i++)
        if (strlen(globals[i].module) == nm && !memcmp(globals[i].module, module, nm) &&
            strlen(globals[i].name) == nn && !memcmp(globals[i].name, name, nn))
            return push(r, (struct val){ .kind = V_GLOBAL, .i = (int64_t)i }, e);
    return err_set(e, ERR_FORMAT,
                   "its pickle names %.*s.%.*s, which no file of tensors needs: nothing of it was "
                   "run",
                   (int)(nm < 80 ? nm : 80), module, (int)(nn < 80 ? nn : 80), name);
}

static bool is_number(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] < '0' || p[i] > '9')
            return false;
    return n > 0 && n <= 20;
}

/* ('storage', torch.XStorage, key, location, values) */
static int push_storage(struct reader *r, struct err *e)
{
    const struct val *t = peek(r, 0), *kind, *key, *values;
    const struct zip_member *m;
    struct storage s;
    char name[256];

    if (!t)
        return underflow(e);
    if (t->kind != V_TUPLE || t->n != 5 || !is_text(item(r, t, 0), "storage"))
        return wrong(t, "the description of a storage", e);
    kind = item(r, t, 1);
    key = item(r, t, 2);
    values = item(r, t, 4);
    if (kind->kind != V_GLOBAL || globals[kind->i].enc < 0)
        return wrong(kind, "the type of a storage", e);
    if (key->kind != V_STR || !is_number(key->p, key->n) || values->kind != V_INT || values->i < 0)
        return err_set(e, ERR_FORMAT, "its pickle has a storage without number or size");
    const int n =
        snprintf(name, sizeof(name), "%.*sdata/%.*s", (int)r->top_len, r->top, (int)key->n, key->p);

    m = zip_find(&r->f->zip, name, (size_t)n);
    if (!m)
        return err_set(e, ERR_FORMAT, "member %s is missing", name);
    s = (struct storage){ m->data, (size_t)values->i, (enum enc)globals[kind->i].enc };
    size_t bytes;

    if (!mul_ok(&bytes, s.values, enc_table[s.enc].bytes) || bytes != m->n)
        return err_set(e, ERR_FORMAT, "member %s: %zu bytes, but %zu values of %s", name, m->n,
                       s.values, enc_table[s.enc].name);
    r->stack.n--;
    const struct val v = { .kind = V_STORAGE, .i = (int64_t)r->storages.n };

    return list_add(&r->storages, &s, sizeof(s), ITEMS_MAX, "storages", e) || push(r, v, e) ? -1
                                                                                            : 0;
}

/* A tuple of numbers from 0 up into out. */
static int read_axes(const struct reader *r, const struct val *t, uint64_t out[TENSOR_MAX_DIMS],
                     const char *what, struct err *e)
{
    if (t->kind != V_TUPLE)
        return wrong(t, what, e);
    if (t->n > TENSOR_MAX_DIMS)
        return err_set(e, ERR_FORMAT, "a tensor of %zu axes, at most %d are supported", t->n,
                       (int)TENSOR_MAX_DIMS);
    for (size_t i = 0; i < t->n; i++) {
        const struct val *v = item(r, t, i);

        if (v->kind != V_INT || v->i < 0)
            return err_set(e, ERR_FORMAT, "a tensor's %s is no number from 0 up", what);
        out[i] = (uint64_t)v->i;
    }
    return 0;
}

/* Every value it reaches lies in its storage. */
static int check_reach(const struct tensor *t, struct err *e)
{
    size_t last = t->offset;

    for (int i = 0; i < t->ndim; i++) {
        size_t step;

        if (t->size[i] == 0)
            return err_set(e, ERR_FORMAT, "a tensor without values");
        if (!mul_ok(&step, t->size[i] - 1, t->stride[i]) || !add_ok(&last, last, step))
            last = SIZE_MAX;
    }
    if (last >= t->s.values)
        return err_set(e, ERR_FORMAT, "a tensor reaches value %zu of a storage of %zu values", last,
                       t->s.values);
    return 0;
}

/* (storage, offset, size, stride, requires_grad, hooks[, metadata]) */
static int push_tensor(struct reader *r, const struct val *args, struct err *e)
{
    const struct val *s, *offset;
    struct tensor t;

    if (args->n != 6 && args->n != 7)
        return err_set(e, ERR_FORMAT, "its pickle builds a tensor from %zu values", args->n);
    s = item(r, args, 0);
    offset = item(r, args, 1);
    if (s->kind != V_STORAGE)
        return wrong(s, "a storage", e);
    if (offset->kind != V_INT || offset->i < 0)
        return err_set(e, ERR_FORMAT, "a tensor's offset is no number from 0 up");
    t = (struct tensor){ .s = ((struct storage *)r->storages.p)[s->i],
                         .offset = (size_t)offset->i,
                         .ndim = (int)item(r, args, 2)->n };
    if (read_axes(r, item(r, args, 2), t.size, "size", e) ||
        read_axes(r, item(r, args, 3), t.stride, "stride", e))
        return -1;
    if (item(r, args, 3)->n != item(r, args, 2)->n)
        return err_set(e, ERR_FORMAT, "a tensor of %zu axes with %zu strides", item(r, args, 2)->n,
                       item(r, args, 3)->n);
    if (check_reach(&t, e))
        return -1;
    const struct val v = { .kind = V_TENSOR, .i = (int64_t)r->tensors.n };

    return list_add(&r->tensors, &t, sizeof(t), ITEMS_MAX, "tensors", e) || push(r, v, e) ? -1 : 0;
}

/* The three callables that are known, by what they would build. */
static int reduce(struct reader *r, struct err *e)
{
    const struct val *a = peek(r, 0), *f = peek(r, 1);

    if (!a || !f)
        return underflow(e);
    const struct val args = *a, fn = *f;

    if (args.kind != V_TUPLE)
        return wrong(&args, "a tuple of arguments", e);
    if (fn.kind != V_GLOBAL || globals[fn.i].enc >= 0)
        return wrong(&fn, "something to call", e);
    r->stack.n -= 2;
    switch (fn.i) {
    case G_ORDERED:
        if (args.n)
            return err_set(e, ERR_FORMAT, "its pickle fills an OrderedDict from %zu values",
                           args.n);
        return push(r, (struct val){ .kind = V_ORDERED, .i = r->dicts++ }, e);
    case G_PARAMETER: /* (tensor, requires_grad, hooks) */
        if (args.n != 3 || item(r, &args, 0)->kind != V_TENSOR)
            return err_set(e, ERR_FORMAT, "its pickle makes a parameter of something else");
        return push(r, *item(r, &args, 0), e);
    default:
        return push_tensor(r, &args, e);
    }
}

/* A state dict carries the versions of its modules as an attribute, which is dropped; any other
 * attribute is refused. */
static int build(struct reader *r, struct err *e)
{
    const struct val *state = peek(r, 0), *object = peek(r, 1);
    const struct pair *pair = r->pairs.p;

    if (!state || !object)
        return underflow(e);
    if (object->kind != V_ORDERED || state->kind != V_DICT)
        return wrong(object, "a state dict", e);
    for (size_t i = 0; i < r->pairs.n; i++)
        if (pair[i].dict == state->i && !is_text(&pair[i].key, "_metadata"))
            return err_set(e, ERR_FORMAT, "its pickle sets the attribute %.*s",
                           (int)(pair[i].key.n < 80 ? pair[i].key.n : 80), pair[i].key.p);
    r->stack.n--;
    return 0;
}

/* ---- opcodes ---- */

static int memo_put(struct reader *r, uint64_t i, struct err *e)
{
    const struct val *v = peek(r, 0);

    if (!v)
        return underflow(e);
    if (i > r->memo.n)
        return err_set(e, ERR_FORMAT, "its pickle keeps value %llu after %zu",
                       (unsigned long long)i, r->memo.n);
    if (i < r->memo.n) {
        ((struct val *)r->memo.p)[i] = *v;
        return 0;
    }
    return list_add(&r->memo, v, sizeof(*v), ITEMS_MAX, "kept values", e);
}

static int memo_get(struct reader *r, uint64_t i, struct err *e)
{
    if (i >= r->memo.n)
        return err_set(e, ERR_FORMAT, "its pickle recalls value %llu of %zu", (unsigned long long)i,
                       r->memo.n);
    return push(r, ((struct val *)r->memo.p)[i], e);
}

static int push_text(struct reader *r, int bytes, struct err *e)
{
    uint64_t n;
    const uint8_t *p;

    if (take_num(r, bytes, &n, e) || !(p = take(r, n, e)))
        return -1;
    return push(r, (struct val){ .kind = V_STR, .p = (const char *)p, .n = n }, e);
}

static int push_int(struct reader *r, int bytes, bool sign, struct err *e)
{
    uint64_t v;

    if (take_num(r, bytes, &v, e))
        return -1;
    if (sign && bytes > 0 && bytes < 8 && v >> (8 * bytes - 1))
        v |= ~UINT64_C(0) << 8 * bytes;
    return push(r, (struct val){ .kind = V_INT, .i = (int64_t)v }, e);
}

static int push_long(struct reader *r, struct err *e)
{
    uint64_t n;

    if (take_num(r, 1, &n, e))
        return -1;
    if (n > 8)
        return err_set(e, ERR_FORMAT, "its pickle has a number of %llu bytes",
                       (unsigned long long)n);
    return push_int(r, (int)n, true, e);
}

static int global(struct reader *r, struct err *e)
{
    const char *module = NULL, *name = NULL;
    size_t nm = 0, nn = 0;

    if (take_line(r, &module, &nm, e) || take_line(r, &name, &nn, e))
        return -1;
    return push_global(r, module, nm, name, nn, e);
}

static int stack_global(struct reader *r, struct err *e)
{
    const struct val *name = peek(r, 0), *module = peek(r, 1);

    if (!name || !module)
        return underflow(e);
    if (name->kind != V_STR || module->kind != V_STR)
        return wrong(name->kind != V_STR ? name : module, "a name", e);
    const struct val m = *module, n = *name;

    r->stack.n -= 2;
    return push_global(r, m.p, m.n, n.p, n.n, e);
}

static int set_to_mark(struct reader *r, struct err *e)
{
    size_t n;

    return above_mark(r, &n, e) || set_items(r, n, 1, e) ? -1 : 0;
}

static int set_one(struct reader *r, struct err *e)
{
    return peek(r, 2) ? set_items(r, 2, 0, e) : underflow(e);
}

static int pop(struct reader *r, struct err *e)
{
    if (!peek(r, 0))
        return underflow(e);
    r->stack.n--;
    return 0;
}

/* One opcode (pickletools.py has them all); 1 = STOP. */
static int step(struct reader *r, struct err *e)
{
    const uint8_t *op = take(r, 1, e);
    uint64_t v;

    if (!op)
        return -1;
    switch (*op) {
    case '.':  return 1;
    case 0x80: /* PROTO */
        if (take_num(r, 1, &v, e))
            return -1;
        return v >= 2 && v <= 5
                   ? 0
                   : err_set(e, ERR_FORMAT, "pickle protocol %llu is not read (2 to 5 are)",
                             (unsigned long long)v);
    case 0x95: /* FRAME: how many bytes may be read at once */
        if (take_num(r, 8, &v, e))
            return -1;
        return v <= (size_t)(r->end - r->p)
                   ? 0
                   : err_set(e, ERR_FORMAT, "its pickle has a frame of %llu bytes, %zu are left",
                             (unsigned long long)v, (size_t)(r->end - r->p));
    case '(':  return push(r, (struct val){ .kind = V_MARK }, e);
    case ')':  return make_tuple(r, 0, e);
    case '}':  return push(r, (struct val){ .kind = V_DICT, .i = r->dicts++ }, e);
    case 't':  return tuple_to_mark(r, e);
    case 0x85: return make_tuple(r, 1, e);
    case 0x86: return make_tuple(r, 2, e);
    case 0x87: return make_tuple(r, 3, e);
    case 'X':  return push_text(r, 4, e);
    case 0x8C: return push_text(r, 1, e);
    case 'K':  return push_int(r, 1, false, e);
    case 'M':  return push_int(r, 2, false, e);
    case 'J':  return push_int(r, 4, true, e);
    case 0x8A: return push_long(r, e);
    case 0x88: return push(r, (struct val){ .kind = V_BOOL, .i = 1 }, e);
    case 0x89: return push(r, (struct val){ .kind = V_BOOL }, e);
    case 'N':  return push(r, (struct val){ .kind = V_NONE }, e);
    case 'q':  return take_num(r, 1, &v, e) ? -1 : memo_put(r, v, e);
    case 'r':  return take_num(r, 4, &v, e) ? -1 : memo_put(r, v, e);
    case 0x94: return memo_put(r, r->memo.n, e);
    case 'h':  return take_num(r, 1, &v, e) ? -1 : memo_get(r, v, e);
    case 'j':  return take_num(r, 4, &v, e) ? -1 : memo_get(r, v, e);
    case '0':  return pop(r, e);
    case 's':  return set_one(r, e);
    case 'u':  return set_to_mark(r, e);
    case 'c':  return global(r, e);
    case 0x93: return stack_global(r, e);
    case 'Q':  return push_storage(r, e);
    case 'R':  return reduce(r, e);
    case 'b':  return build(r, e);
    default:
        return err_set(
            e, ERR_FORMAT,
            "its pickle has opcode 0x%02X, which no file of tensors needs: nothing of it "
            "was run",
            *op);
    }
}

/* ---- tensors ---- */

static bool rows_in_order(const struct tensor *t)
{
    uint64_t want = 1;

    for (int i = t->ndim; i-- > 0; want *= t->size[i]) /* within the storage, if it is so */
        if (t->size[i] != 1 && t->stride[i] != want)
            return false;
    return true;
}

/* Copies value after value; n of them. */
static void gather(uint8_t *to, const struct tensor *t, size_t n)
{
    const size_t bytes = enc_table[t->s.enc].bytes;

    for (size_t i = 0; i < n; i++) {
        size_t at = t->offset, rest = i;

        for (int d = t->ndim; d-- > 0; rest /= t->size[d])
            at += rest % t->size[d] * t->stride[d];
        memcpy(to + i * bytes, t->s.data + at * bytes, bytes);
    }
}

static int make_view(struct pth *f, struct tensor_view *v, const struct tensor *t, size_t *gathered,
                     struct err *e)
{
    size_t n = 1;
    void *p;

    v->enc = t->s.enc;
    v->ndim = t->ndim;
    for (int i = 0; i < t->ndim; i++) {
        v->shape[i] = t->size[i];
        if (!mul_ok(&n, n, t->size[i]))
            n = SIZE_MAX;
    }
    if (rows_in_order(t)) {
        v->nbytes = n * enc_table[v->enc].bytes; /* check_reach: it lies in the storage */
        v->data = t->s.data + t->offset * enc_table[v->enc].bytes;
        return 0;
    }
    if (!mul_ok(&v->nbytes, n, enc_table[v->enc].bytes) || v->nbytes > GATHER_MAX - *gathered)
        return err_set(e, ERR_FORMAT,
                       "tensor %.200s does not lie row after row, and is too large to be gathered "
                       "in memory: save a contiguous copy",
                       v->name);
    if (mem_new(&p, v->nbytes, 1, "a tensor", e))
        return -1;
    if (list_add(&f->gathered, &p, sizeof(p), ITEMS_MAX, "tensors", e)) {
        free(p);
        return -1;
    }
    *gathered += v->nbytes;
    gather(p, t, n);
    v->data = p;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor_view *)a)->name, ((const struct tensor_view *)b)->name);
}

/* The entries of the dict that the pickle ends with. */
static int collect(struct reader *r, const struct val *dict, struct err *e)
{
    struct pth *f = r->f;
    const struct pair *pair = r->pairs.p;
    size_t gathered = 0;
    void *p;

    if (mem_new(&p, r->pairs.n + 1, sizeof(*f->view), "tensors", e))
        return -1;
    f->view = p;
    for (size_t i = 0; i < r->pairs.n; i++) {
        const struct val *key = &pair[i].key, *value = &pair[i].value;

        if (pair[i].dict != dict->i)
            continue;
        if (key->n == 0 || key->n > NAME_MAX_BYTES || memchr(key->p, 0, key->n) ||
            !utf8_valid(key->p, key->n))
            return err_set(e, ERR_FORMAT, "the name of a tensor is empty, no text or too long");
        if (value->kind != V_TENSOR)
            return err_set(e, ERR_FORMAT, "entry %.*s is %s, not a tensor",
                           (int)(key->n < 200 ? key->n : 200), key->p, kind_name[value->kind]);
        struct tensor_view *v = &f->view[f->n++];

        v->name = xmemdup0(key->p, key->n);
        if (make_view(f, v, (const struct tensor *)r->tensors.p + value->i, &gathered, e))
            return -1;
    }
    qsort(f->view, f->n, sizeof(*f->view), by_name);
    for (size_t i = 1; i < f->n; i++)
        if (!by_name(&f->view[i - 1], &f->view[i]))
            return err_set(e, ERR_FORMAT, "tensor %.200s is there twice", f->view[i].name);
    return 0;
}

static void reader_release(struct reader *r)
{
    free(r->stack.p);
    free(r->memo.p);
    free(r->items.p);
    free(r->storages.p);
    free(r->tensors.p);
    free(r->pairs.p);
}

static int read_pickle(struct reader *r, struct err *e)
{
    const struct val *top;
    int rc;

    do
        rc = step(r, e);
    while (rc == 0);
    if (rc < 0)
        return -1;
    top = peek(r, 0);
    if (!top || r->stack.n != 1 || (top->kind != V_DICT && top->kind != V_ORDERED))
        return err_set(e, ERR_FORMAT, "its pickle is no dict of tensors");
    return collect(r, top, e);
}

/* ---- the archive ---- */

/* TOP/data.pkl: one folder holds everything, under any name. */
static const struct zip_member *find_pickle(struct reader *r, struct err *e)
{
    static const char name[] = "/data.pkl";
    const struct zip_member *found = NULL;

    for (size_t i = 0; i < r->f->zip.n; i++) {
        const struct zip_member *m = &r->f->zip.member[i];
        const char *slash = memchr(m->name, '/', m->name_len);

        if (slash && m->name_len - (size_t)(slash - m->name) == sizeof(name) - 1 &&
            !memcmp(slash, name, sizeof(name) - 1) && slash - m->name < 200 && !found) {
            found = m;
            r->top = m->name;
            r->top_len = (size_t)(slash + 1 - m->name);
        }
    }
    if (!found)
        err_set(e, ERR_FORMAT, "no data.pkl in the archive: not a file of torch.save");
    else if (found->n > PICKLE_MAX) {
        err_set(e, ERR_FORMAT, "a pickle of %zu bytes, more than the limit of %d", found->n,
                (int)PICKLE_MAX);
        found = NULL;
    }
    return found;
}

static int check_byteorder(const struct reader *r, struct err *e)
{
    char name[256];
    const int n = snprintf(name, sizeof(name), "%.*sbyteorder", (int)r->top_len, r->top);
    const struct zip_member *m = zip_find(&r->f->zip, name, (size_t)n);

    if (!m || (m->n == 6 && !memcmp(m->data, "little", 6)))
        return 0;
    return err_set(e, ERR_FORMAT, "byte order \"%.*s\" is not read (little is)",
                   (int)(m->n < 20 ? m->n : 20), (const char *)m->data);
}

static int read_all(struct pth *f, const void *p, size_t n, struct err *e)
{
    struct reader r = { .f = f };
    const struct zip_member *m;
    int rc = -1;

    if (n >= 2 && !memcmp(p, "\x80\x02", 2))
        return err_set(e, ERR_FORMAT,
                       "%s: a bare pickle (torch.save before 1.6, or no model at all): not read",
                       f->path);
    if (zip_open(&f->zip, p, n, CRC_MAX, f->path, e))
        return -1;
    m = find_pickle(&r, e);
    if (m && check_byteorder(&r, e) == 0) {
        r.p = m->data;
        r.end = m->data + m->n;
        rc = read_pickle(&r, e);
    }
    reader_release(&r);
    return rc ? err_wrap(e, "%s", f->path) : 0;
}

int pth_open_mem(struct pth **out, const void *p, size_t n, const char *what, struct err *e)
{
    struct pth *f = xcalloc(1, sizeof(*f));

    f->path = xstrdup(what);
    if (read_all(f, p, n, e)) {
        pth_close(f);
        return -1;
    }
    *out = f;
    return 0;
}

int pth_open(struct pth **out, const char *path, struct err *e)
{
    struct map m;

    if (map_open(&m, path, e))
        return -1;
    if (pth_open_mem(out, m.p ? (const void *)m.p : "", m.len, path, e)) {
        map_close(&m);
        return -1;
    }
    (*out)->map = m;
    return 0;
}

void pth_close(struct pth *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->n; i++)
        free((char *)(uintptr_t)f->view[i].name);
    for (size_t i = 0; i < f->gathered.n; i++)
        free(((void **)f->gathered.p)[i]);
    free(f->gathered.p);
    free(f->view);
    zip_close(&f->zip);
    map_close(&f->map);
    free(f->path);
    free(f);
}

const char *pth_path(const struct pth *f)
{
    return f->path;
}

size_t pth_tensors(const struct pth *f)
{
    return f->n;
}

const struct tensor_view *pth_tensor(const struct pth *f, size_t i)
{
    return &f->view[i];
}

const struct tensor_view *pth_find(const struct pth *f, const char *name)
{
    const struct tensor_view key = { .name = name };

    return f->n ? bsearch(&key, f->view, f->n, sizeof(key), by_name) : NULL;
}
