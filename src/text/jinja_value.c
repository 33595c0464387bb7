/* jinja_value.c - values of templates: memory, strings with marks, JSON, printing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/jinja_int.h"
#include "text/pyjson.h"

struct chunk {
    struct chunk *prev;
    size_t used, cap;
    _Alignas(16) char p[];
};

void *pool_get(struct pool *p, size_t n)
{
    n = n > JINJA_MEMORY ? n : (n + 15) / 16 * 16;
    if (n > JINJA_MEMORY - p->used)
        return NULL;
    if (!p->last || p->last->cap - p->last->used < n) {
        const size_t cap = n > 1 << 16 ? n : 1 << 16;
        struct chunk *c = xcalloc(1, sizeof(*c) + cap);

        c->prev = p->last;
        c->cap = cap;
        p->last = c;
    }
    void *out = p->last->p + p->last->used;

    p->last->used += n;
    p->used += n;
    return out;
}

void pool_release(struct pool *p)
{
    while (p->last) {
        struct chunk *prev = p->last->prev;

        free(p->last);
        p->last = prev;
    }
}

int jfail(struct run *r, const char *fmt, ...)
{
    char msg[400];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    return err_set(r->e, ERR_FORMAT, "chat template, line %d: %s", r->line, msg);
}

int jstep(struct run *r)
{
    return ++r->steps > JINJA_STEPS ? jfail(r, "more than %d steps", JINJA_STEPS) : 0;
}

static void *get(struct run *r, size_t n)
{
    void *p = pool_get(&r->pool, n);

    if (!p)
        jfail(r, "more than %zu bytes of values", JINJA_MEMORY);
    return p;
}

int jstr(struct run *r, struct jv *out, const char *p, const uint8_t *m, size_t n)
{
    char *c = get(r, n + 1);
    uint8_t *k = c ? get(r, n + 1) : NULL;

    if (!k)
        return -1;
    memcpy(c, p, n);
    memcpy(k, m, n);
    *out = (struct jv){ .type = J_STR, .s = { c, k, n } };
    return 0;
}

int jlit(struct run *r, struct jv *out, const char *p, size_t n, uint8_t mark)
{
    char *c = get(r, n + 1);
    uint8_t *k = c ? get(r, n + 1) : NULL;

    if (!k)
        return -1;
    memcpy(c, p, n);
    memset(k, mark, n);
    *out = (struct jv){ .type = J_STR, .s = { c, k, n } };
    return 0;
}

int jlist_new(struct run *r, struct jv *out)
{
    struct jlist *l = get(r, sizeof(*l));

    *out = (struct jv){ .type = J_LIST, .list = l };
    return l ? 0 : -1;
}

int jdict_new(struct run *r, struct jv *out)
{
    struct jdict *d = get(r, sizeof(*d));

    *out = (struct jv){ .type = J_DICT, .dict = d };
    return d ? 0 : -1;
}

static int grow(struct run *r, struct jv **v, size_t n, size_t cap)
{
    struct jv *p = get(r, cap * sizeof(*p));

    if (!p)
        return -1;
    if (n)
        memcpy(p, *v, n * sizeof(*p));
    *v = p;
    return 0;
}

int jlist_add(struct run *r, struct jlist *l, struct jv v)
{
    if (l->n == l->cap) {
        const size_t cap = l->cap ? l->cap * 2 : 4;

        if (grow(r, &l->v, l->n, cap))
            return -1;
        l->cap = cap;
    }
    l->v[l->n++] = v;
    return 0;
}

int jdict_set(struct run *r, struct jdict *d, struct jv k, struct jv v)
{
    struct jv *at = jdict_get(d, k);

    if (at) {
        *at = v;
        return 0;
    }
    if (d->n == d->cap) {
        const size_t cap = d->cap ? d->cap * 2 : 4;

        if (grow(r, &d->k, d->n, cap) || grow(r, &d->v, d->n, cap))
            return -1;
        d->cap = cap;
    }
    d->k[d->n] = k;
    d->v[d->n++] = v;
    return 0;
}

struct jv *jdict_get(const struct jdict *d, struct jv k)
{
    for (size_t i = 0; i < d->n; i++)
        if (jequal(d->k[i], k))
            return &d->v[i];
    return NULL;
}

struct jv *jdict_name(const struct jdict *d, const char *name)
{
    return jdict_get(d, (struct jv){ .type = J_STR, .s = { name, NULL, strlen(name) } });
}

int jfrom_json(struct run *r, struct jv *out, const json_t *j)
{
    if (jstep(r))
        return -1;
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        if (jdict_new(r, out))
            return -1;
        for (void *it = json_object_iter((json_t *)(uintptr_t)j); it;
             it = json_object_iter_next((json_t *)(uintptr_t)j, it)) {
            struct jv k, v;

            /* keys are unique: no search */
            if (jlit(r, &k, json_object_iter_key(it), json_object_iter_key_len(it), 1) ||
                jfrom_json(r, &v, json_object_iter_value(it)))
                return -1;
            struct jdict one = *out->dict;

            if (one.n == one.cap) {
                const size_t cap = one.cap ? one.cap * 2 : 4;

                if (grow(r, &one.k, one.n, cap) || grow(r, &one.v, one.n, cap))
                    return -1;
                one.cap = cap;
            }
            one.k[one.n] = k;
            one.v[one.n++] = v;
            *out->dict = one;
        }
        return 0;
    case JSON_ARRAY:
        if (jlist_new(r, out))
            return -1;
        for (size_t i = 0; i < json_array_size(j); i++) {
            struct jv v;

            if (jfrom_json(r, &v, json_array_get(j, i)) || jlist_add(r, out->list, v))
                return -1;
        }
        return 0;
    case JSON_STRING: {
        const char *s = json_string_value(j);
        const size_t kept = (uint8_t)*s == 0xFF; /* pyjson.h: a number that has no type */

        return jlit(r, out, s + kept, json_string_length(j) - kept, 1);
    }
    case JSON_INTEGER:
        *out = (struct jv){ .type = J_INT, .i = json_integer_value(j) };
        return 0;
    case JSON_REAL:
        *out = (struct jv){ .type = J_FLOAT, .f = json_real_value(j) };
        return 0;
    case JSON_NULL:
        *out = (struct jv){ .type = J_NONE };
        return 0;
    default:
        *out = (struct jv){ .type = J_BOOL, .on = json_is_true(j) };
        return 0;
    }
}

bool jtrue(struct jv v)
{
    switch (v.type) {
    case J_UNDEF:
    case J_NONE:
        return false;
    case J_BOOL:
        return v.on;
    case J_INT:
        return v.i != 0;
    case J_FLOAT:
        return v.f != 0;
    case J_STR:
        return v.s.n > 0;
    case J_LIST:
        return v.list->n > 0;
    case J_DICT:
        return v.mutable || v.dict->n > 0;
    default:
        return true;
    }
}

static bool is_number(struct jv v)
{
    return v.type == J_INT || v.type == J_FLOAT || v.type == J_BOOL;
}

static double number(struct jv v)
{
    return v.type == J_INT ? (double)v.i : v.type == J_FLOAT ? v.f : (double)v.on;
}

static bool equal_at(struct jv a, struct jv b, int depth)
{
    if (is_number(a) && is_number(b))
        return a.type == J_INT && b.type == J_INT ? a.i == b.i : number(a) == number(b);
    if (a.type != b.type || depth > JINJA_DEPTH)
        return false;
    if (a.type == J_STR)
        return a.s.n == b.s.n && memcmp(a.s.p, b.s.p, a.s.n) == 0;
    if (a.type == J_LIST) {
        bool same = a.list->n == b.list->n && a.tuple == b.tuple;

        for (size_t i = 0; i < a.list->n && same; i++)
            same = equal_at(a.list->v[i], b.list->v[i], depth + 1);
        return same;
    }
    if (a.type == J_DICT) {
        bool same = a.dict->n == b.dict->n;

        for (size_t i = 0; i < a.dict->n && same; i++) {
            const struct jv *v = jdict_get(b.dict, a.dict->k[i]);

            same = v && equal_at(a.dict->v[i], *v, depth + 1);
        }
        return same;
    }
    return a.type == J_UNDEF || a.type == J_NONE;
}

bool jequal(struct jv a, struct jv b)
{
    return equal_at(a, b, 0);
}

int jcompare(struct run *r, struct jv a, struct jv b, int *c)
{
    if (is_number(a) && is_number(b)) {
        *c = (number(a) > number(b)) - (number(a) < number(b));
        return 0;
    }
    if (a.type == J_STR && b.type == J_STR) {
        const int k = memcmp(a.s.p, b.s.p, a.s.n < b.s.n ? a.s.n : b.s.n);

        *c = k ? k : (a.s.n > b.s.n) - (a.s.n < b.s.n);
        return 0;
    }
    return jfail(r, "cannot compare %s with %s", jtype_name(a), jtype_name(b));
}

const char *jtype_name(struct jv v)
{
    static const char *const names[] = {
        "an undefined value", "none",   "a boolean",    "a number", "a number",
        "a string",           "a list", "a dictionary", "a macro",  "a function"
    };

    return names[v.type];
}

/* ---- text that is built ---- */

struct jtext jtext(struct run *r)
{
    struct jtext s = { .r = r };

    buf_init(&s.p, JINJA_MEMORY / 4);
    buf_init(&s.m, JINJA_MEMORY / 4);
    return s;
}

void jtext_put(struct jtext *s, const char *p, size_t n, uint8_t mark)
{
    buf_add(&s->p, p, n);
    for (size_t i = 0; i < n; i++)
        buf_addc(&s->m, (char)mark);
}

void jtext_add(struct jtext *s, struct jv v)
{
    if (v.s.m) {
        buf_add(&s->p, v.s.p, v.s.n);
        buf_add(&s->m, v.s.m, v.s.n);
    } else {
        jtext_put(s, v.s.p, v.s.n, 0);
    }
}

int jtext_done(struct jtext *s, struct jv *out, int rc)
{
    if (rc == 0 && s->p.full)
        rc = jfail(s->r, "a text of more than %zu bytes", s->p.max);
    if (rc == 0)
        rc = jstr(s->r, out, s->p.p, (const uint8_t *)s->m.p, s->p.len);
    buf_release(&s->p);
    buf_release(&s->m);
    return rc;
}

/* ---- printing ---- */

static void puts_plain(struct jtext *s, const char *p)
{
    jtext_put(s, p, strlen(p), 0);
}

/* A string between quotes: its marks go to the whole of each escape. */
static uint8_t any_mark(struct jv v)
{
    for (size_t i = 0; i < v.s.n; i++)
        if (v.s.m && v.s.m[i])
            return 1;
    return 0;
}

static void put_float(struct jtext *s, double f)
{
    struct buf b;

    buf_init(&b, 64);
    if (isfinite(f))
        pyjson_float(&b, f);
    else
        buf_adds(&b, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
    puts_plain(s, b.p);
    buf_release(&b);
}

static void put_repr(struct jtext *s, struct jv v)
{
    const bool single = memchr(v.s.p, '\'', v.s.n) != NULL, dbl = memchr(v.s.p, '"', v.s.n) != NULL;
    const char quote = single && !dbl ? '"' : '\'';
    const uint8_t mark = any_mark(v);

    jtext_put(s, &quote, 1, mark);
    for (size_t i = 0; i < v.s.n; i++) {
        const char c = v.s.p[i];
        char e[8] = { '\\', c };
        size_t n = 2;

        if (c == '\n' || c == '\r' || c == '\t')
            e[1] = c == '\n' ? 'n' : c == '\r' ? 'r' : 't';
        else if ((uint8_t)c < 0x20 || c == 0x7F)
            n = (size_t)snprintf(e, sizeof(e), "\\x%02x", (uint8_t)c);
        else if (c != '\\' && c != quote)
            e[0] = c, n = 1;
        jtext_put(s, e, n, mark);
    }
    jtext_put(s, &quote, 1, mark);
}

static int print(struct jtext *s, struct jv v, bool repr)
{
    char num[32];

    if (jstep(s->r))
        return -1;
    switch (v.type) {
    case J_UNDEF:
        if (repr)
            puts_plain(s, "Undefined");
        return 0;
    case J_NONE:
        puts_plain(s, "None");
        return 0;
    case J_BOOL:
        puts_plain(s, v.on ? "True" : "False");
        return 0;
    case J_INT:
        snprintf(num, sizeof(num), "%lld", (long long)v.i);
        puts_plain(s, num);
        return 0;
    case J_FLOAT:
        put_float(s, v.f);
        return 0;
    case J_STR:
        if (repr) {
            put_repr(s, v);
        } else {
            buf_add(&s->p, v.s.p, v.s.n);
            buf_add(&s->m, v.s.m, v.s.n);
        }
        return 0;
    case J_LIST:
    case J_DICT:
        break;
    default:
        return jfail(s->r, "%s cannot be printed", jtype_name(v));
    }
    if (v.mutable || ++s->depth > JINJA_DEPTH)
        return jfail(s->r, v.mutable ? "a namespace cannot be printed" : "nested too deeply");
    const bool dict = v.type == J_DICT;
    const size_t n = dict ? v.dict->n : v.list->n;

    puts_plain(s, dict ? "{" : v.tuple ? "(" : "[");
    for (size_t i = 0; i < n; i++) {
        if (i)
            puts_plain(s, ", ");
        if (dict) {
            if (print(s, v.dict->k[i], true))
                return -1;
            puts_plain(s, ": ");
        }
        if (print(s, dict ? v.dict->v[i] : v.list->v[i], true))
            return -1;
    }
    puts_plain(s, dict ? "}" : v.tuple ? n == 1 ? ",)" : ")" : "]");
    s->depth--;
    return 0;
}

int jprint(struct run *r, struct jv *out, struct jv v, bool repr)
{
    if (v.type == J_STR && !repr) {
        *out = v;
        return 0;
    }
    struct jtext s = jtext(r);

    return jtext_done(&s, out, print(&s, v, repr));
}

struct dump {
    struct jtext s;
    bool ascii, sort;
    int indent;
    const char *item, *key;
};

static void dump_line(struct dump *d)
{
    if (d->indent < 0)
        return;
    puts_plain(&d->s, "\n");
    for (int i = 0; i < d->indent * d->s.depth; i++)
        puts_plain(&d->s, " ");
}

static void dump_string(struct dump *d, struct jv v)
{
    struct buf b;

    buf_init(&b, SIZE_MAX);
    pyjson_string(&b, v.s.p, v.s.n, d->ascii ? PYJSON_ASCII : 0);
    jtext_put(&d->s, b.p, b.len, any_mark(v));
    buf_release(&b);
}

static int by_key(const void *a, const void *b)
{
    const struct jv *x = *(struct jv *const *)a, *y = *(struct jv *const *)b;
    const int k = memcmp(x->s.p, y->s.p, x->s.n < y->s.n ? x->s.n : y->s.n);

    return k ? k : (x->s.n > y->s.n) - (x->s.n < y->s.n);
}

static int dump(struct dump *d, struct jv v);

static int dump_members(struct dump *d, const struct jdict *dict)
{
    struct jv **k = xcalloc(dict->n + 1, sizeof(*k));
    int rc = 0;

    for (size_t i = 0; i < dict->n; i++) {
        k[i] = &dict->k[i];
        if (k[i]->type != J_STR)
            rc = jfail(d->s.r, "tojson: a key that is no string");
    }
    if (d->sort && rc == 0)
        qsort(k, dict->n, sizeof(*k), by_key);
    for (size_t i = 0; i < dict->n && rc == 0; i++) {
        if (i)
            puts_plain(&d->s, d->item);
        dump_line(d);
        dump_string(d, *k[i]);
        puts_plain(&d->s, d->key);
        rc = dump(d, dict->v[k[i] - dict->k]);
    }
    free(k);
    return rc;
}

static int dump(struct dump *d, struct jv v)
{
    if (jstep(d->s.r))
        return -1;
    if (v.type == J_STR) {
        dump_string(d, v);
        return 0;
    }
    if (v.type == J_NONE || v.type == J_BOOL) {
        puts_plain(&d->s, v.type == J_NONE ? "null" : v.on ? "true" : "false");
        return 0;
    }
    if (v.type == J_INT || v.type == J_FLOAT)
        return print(&d->s, v, false);
    if ((v.type != J_LIST && v.type != J_DICT) || v.mutable)
        return jfail(d->s.r, "tojson: %s is not JSON", jtype_name(v));
    if (++d->s.depth > JINJA_DEPTH)
        return jfail(d->s.r, "tojson: nested too deeply");
    const bool dict = v.type == J_DICT;
    const size_t n = dict ? v.dict->n : v.list->n;
    int rc = 0;

    puts_plain(&d->s, dict ? "{" : "[");
    if (dict)
        rc = dump_members(d, v.dict);
    for (size_t i = 0; !dict && i < n && rc == 0; i++) {
        if (i)
            puts_plain(&d->s, d->item);
        dump_line(d);
        rc = dump(d, v.list->v[i]);
    }
    d->s.depth--;
    if (n)
        dump_line(d);
    puts_plain(&d->s, dict ? "}" : "]");
    return rc;
}

int jdump(struct run *r, struct jv *out, struct jv v, bool ascii, int indent, const char *item,
          const char *key, bool sort)
{
    struct dump d = { jtext(r), ascii, sort, indent, item, key };

    return jtext_done(&d.s, out, dump(&d, v));
}
