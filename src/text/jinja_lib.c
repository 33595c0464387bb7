/* jinja_lib.c - filters, tests, methods and functions that chat templates use. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_int.h"
#include "text/pyjson.h"

static const struct jv none = { .type = J_NONE };

static struct jv boolean(bool on)
{
    return (struct jv){ .type = J_BOOL, .on = on };
}

static struct jv integer(int64_t i)
{
    return (struct jv){ .type = J_INT, .i = i };
}

static struct jv text_of(const char *p)
{
    return (struct jv){ .type = J_STR, .s = { p, NULL, strlen(p) } };
}

/* The argument called `key`, or the positional one at i; NULL = not given. */
static const struct jv *arg(const struct jv *args, const char **keys, size_t n, size_t i,
                            const char *key)
{
    for (size_t k = 0; k < n; k++)
        if (keys && keys[k] ? strcmp(keys[k], key) == 0 : k == i)
            return &args[k];
    return NULL;
}

static int want_string(struct run *r, const struct jv *v, const char *what)
{
    return v && v->type == J_STR
               ? 0
               : jfail(r, "%s: a string is needed, not %s", what, v ? jtype_name(*v) : "nothing");
}

/* ---- strings ---- */

static struct jv part(struct jv v, size_t from, size_t n)
{
    v.s.p += from;
    v.s.m += from;
    v.s.n = n;
    return v;
}

/* White space as Python's str.strip sees it. */
static bool is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

static bool strips(const struct jv *chars, const char *p, size_t n, int32_t cp)
{
    if (!chars)
        return is_space(cp);
    return memmem(chars->s.p, chars->s.n, p, n) != NULL;
}

static struct jv strip(struct jv v, const struct jv *chars, bool left, bool right)
{
    size_t from = 0, to = v.s.n;
    int32_t cp;

    while (left && from < to) {
        const size_t n = utf8_next(v.s.p + from, to - from, &cp);

        if (!strips(chars, v.s.p + from, n, cp))
            break;
        from += n;
    }
    while (right && to > from) {
        size_t at = to - 1;

        while (at > from && ((uint8_t)v.s.p[at] & 0xC0) == 0x80)
            at--;
        utf8_next(v.s.p + at, to - at, &cp);
        if (!strips(chars, v.s.p + at, to - at, cp))
            break;
        to = at;
    }
    return part(v, from, to - from);
}

static const char *find(const char *p, size_t n, struct jv what)
{
    return what.s.n == 0 ? p : memmem(p, n, what.s.p, what.s.n);
}

static int replace(struct run *r, struct jv *out, struct jv v, struct jv from, struct jv to,
                   int64_t max)
{
    struct jtext s = jtext(r);
    size_t at = 0;

    while (at <= v.s.n && max != 0 && !s.p.full) {
        const char *hit = find(v.s.p + at, v.s.n - at, from);

        if (!hit)
            break;
        const size_t k = (size_t)(hit - v.s.p);

        jtext_add(&s, part(v, at, k - at));
        jtext_add(&s, to);
        at = k + from.s.n;
        max--;
        if (from.s.n == 0) { /* between all characters */
            int32_t cp;

            if (at == v.s.n) {
                at++;
                break;
            }
            const size_t n = utf8_next(v.s.p + at, v.s.n - at, &cp);

            jtext_add(&s, part(v, at, n));
            at += n;
        }
    }
    if (at < v.s.n)
        jtext_add(&s, part(v, at, v.s.n - at));
    return jtext_done(&s, out, 0);
}

static int split(struct run *r, struct jv *out, struct jv v, const struct jv *sep, int64_t max)
{
    size_t at = 0;

    if (jlist_new(r, out))
        return -1;
    if (sep && sep->type == J_STR) {
        if (sep->s.n == 0)
            return jfail(r, "split: an empty separator");
        for (;; max--) {
            const char *hit = max == 0 ? NULL : find(v.s.p + at, v.s.n - at, *sep);
            const size_t k = hit ? (size_t)(hit - v.s.p) : v.s.n;

            if (jstep(r) || jlist_add(r, out->list, part(v, at, k - at)))
                return -1;
            if (!hit)
                return 0;
            at = k + sep->s.n;
        }
    }
    for (;; max--) {
        size_t k;

        v = strip(v, NULL, true, max == 0);
        if (v.s.n == 0)
            return 0;
        for (k = 0; k < v.s.n && max != 0;) {
            int32_t cp;
            const size_t n = utf8_next(v.s.p + k, v.s.n - k, &cp);

            if (is_space(cp))
                break;
            k += n;
        }
        if (max == 0)
            k = v.s.n;
        if (jstep(r) || jlist_add(r, out->list, part(v, 0, k)))
            return -1;
        v = part(v, k, v.s.n - k);
    }
}

/* One character in the other case; -1 = this needs a table. Rules for Latin, Greek and
 * Cyrillic; other letters have no case, but for the ranges that are refused. */
static int32_t recased(int32_t c, bool up)
{
    static const int32_t cased[][2] = {
        { 0x180, 0x2AF },     { 0x345, 0x345 },     { 0x370, 0x3FF },     { 0x531, 0x587 },
        { 0x10A0, 0x10FF },   { 0x13A0, 0x13FF },   { 0x1C80, 0x1CBF },   { 0x1D79, 0x1D8E },
        { 0x1E00, 0x1FFF },   { 0x2126, 0x2188 },   { 0x24B6, 0x24E9 },   { 0x2C00, 0x2D2D },
        { 0xA640, 0xA7FF },   { 0xAB53, 0xABBF },   { 0xFB00, 0xFB17 },   { 0xFF21, 0xFF5A },
        { 0x10400, 0x104FF }, { 0x10570, 0x105BC }, { 0x10C80, 0x10D85 }, { 0x118A0, 0x118DF },
        { 0x16E40, 0x16EBF }, { 0x1E900, 0x1E943 },
    };
    /* upper case from, to; what lower case adds */
    static const int32_t shifts[][3] = {
        { 'A', 'Z', 32 },       { 0xC0, 0xD6, 32 },     { 0xD8, 0xDE, 32 },
        { 0x386, 0x386, 0x26 }, { 0x388, 0x38A, 0x25 }, { 0x38C, 0x38C, 0x40 },
        { 0x38E, 0x38F, 0x3F }, { 0x391, 0x3A1, 32 },   { 0x3A4, 0x3AB, 32 },
        { 0x400, 0x40F, 0x50 }, { 0x410, 0x42F, 32 },   { 0x4C0, 0x4C0, 0xF },
    };
    /* pairs of upper and lower case: from, to */
    static const int32_t pairs[][2] = {
        { 0x100, 0x12F }, { 0x132, 0x137 },   { 0x139, 0x148 },   { 0x14A, 0x177 },
        { 0x179, 0x17E }, { 0x460, 0x481 },   { 0x48A, 0x4BF },   { 0x4C1, 0x4CE },
        { 0x4D0, 0x52F }, { 0x1E00, 0x1E95 }, { 0x1EA0, 0x1EFF },
    };
    /* lower case of another letter's upper */
    static const int32_t odd[][2] = { { 0xB5, 0x39C }, { 0xFF, 0x178 },  { 0x131, 'I' },
                                      { 0x17F, 'S' },  { 0x3C2, 0x3A3 }, { 0x3C3, 0x3A3 } };

    for (size_t i = 0; i < ARRAY_LEN(shifts); i++) {
        const int32_t by = shifts[i][2], from = shifts[i][0] + (up ? by : 0);

        if (c >= from && c <= from + shifts[i][1] - shifts[i][0])
            return up ? c - by : c + by;
    }
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
        if (c >= pairs[i][0] && c <= pairs[i][1])
            return pairs[i][0] + ((c - pairs[i][0]) / 2) * 2 + !up;
    for (size_t i = 0; i < ARRAY_LEN(odd); i++)
        if (c == odd[i][0])
            return up ? odd[i][1] : c;
    if (c == 0x178)
        return up ? c : 0xFF;
    if ((c >= 0x384 && c <= 0x3CE && (c != 0x3A3 || up) && c != 0x390 && c != 0x3B0) || c == 0x37E)
        return c;
    if (c == 0x130 || c == 0x149)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(cased); i++)
        if (c >= cased[i][0] && c <= cased[i][1])
            return -1;
    return c;
}

/* What starts a word: behind these for the filter `title`, behind what is no letter for the
 * method. */
static bool starts_word(int32_t c, bool filter)
{
    if (filter)
        return is_space(c) || (c < 0x80 && strchr("-({[<", (int)c));
    return recased(c, true) == c && recased(c, false) == c && c != 0xDF;
}

/* how: upper, lower, capitalize, title, or Title for the filter of that name */
static int recase(struct run *r, struct jv *out, struct jv v, const char *how)
{
    const bool title = how[0] == 't' || how[0] == 'T';
    struct jtext s = jtext(r);
    bool start = true;
    int rc = 0;

    for (size_t at = 0, n; at < v.s.n && rc == 0 && !s.p.full; at += n) {
        const bool up = how[0] == 'u' || (start && how[0] != 'l');
        char text[4];
        int32_t c;

        n = utf8_next(v.s.p + at, v.s.n - at, &c);
        const bool valid = n > 1 || (uint8_t)v.s.p[at] < 0x80;
        const int32_t to = !valid ? c : recased(c, up);

        start = title && valid && starts_word(c, how[0] == 'T');
        if (to < 0)
            rc = jfail(r, "%s: the case of U+%04X is not known here", how, (unsigned)c);
        else if (c == 0xDF && up)
            buf_adds(&s.p, how[0] == 'u' || how[0] == 'T' ? "SS" : "Ss");
        else if (to == c)
            buf_add(&s.p, v.s.p + at, n);
        else
            buf_add(&s.p, text, utf8_put(text, to));
        while (s.m.len < s.p.len)
            buf_addc(&s.m, (char)(v.s.m ? v.s.m[at] : 0));
    }
    return jtext_done(&s, out, rc);
}

static size_t characters(struct jv v)
{
    size_t n = 0;

    for (size_t i = 0; i < v.s.n; i++)
        n += ((uint8_t)v.s.p[i] & 0xC0) != 0x80;
    return n;
}

/* The byte where character i starts. */
static size_t byte_of(struct jv v, size_t i)
{
    size_t at = 0;

    for (; at < v.s.n; at++)
        if (((uint8_t)v.s.p[at] & 0xC0) != 0x80 && i-- == 0)
            break;
    return at;
}

static int join(struct run *r, struct jv *out, struct jv v, struct jv sep, const char *attribute)
{
    struct jtext s = jtext(r);
    struct jv items, one;
    int rc = jiterate(r, &items, v);

    for (size_t i = 0; rc == 0 && i < items.list->n && !s.p.full; i++) {
        one = items.list->v[i];
        rc = jstep(r);
        if (rc == 0 && attribute)
            rc = jattr(r, &one, one, attribute);
        if (rc == 0)
            rc = jprint(r, &one, one, false);
        if (rc)
            break;
        if (i)
            jtext_add(&s, sep);
        jtext_add(&s, one);
    }
    return jtext_done(&s, out, rc);
}

static int indent(struct run *r, struct jv *out, struct jv v, const struct jv *width, bool first,
                  bool blank)
{
    struct jtext s = jtext(r);
    char spaces[128];
    const int64_t n = width && width->type == J_INT ? width->i : 4;
    struct jv pad = { .type = J_STR, .s = { spaces, NULL, (size_t)n } };
    size_t at = 0;

    if (width && width->type == J_STR)
        pad = *width;
    else if (n < 0 || n > (int64_t)sizeof(spaces))
        return jtext_done(&s, out,
                          jfail(r, "indent: %lld, at most %zu", (long long)n, sizeof(spaces)));
    memset(spaces, ' ', sizeof(spaces));
    while (at < v.s.n) {
        const char *nl = memchr(v.s.p + at, '\n', v.s.n - at);
        const size_t end = nl ? (size_t)(nl - v.s.p) + 1 : v.s.n;

        if ((at ? blank || v.s.p[at] != '\n' : first))
            jtext_add(&s, pad);
        jtext_add(&s, part(v, at, end - at));
        at = end;
    }
    return jtext_done(&s, out, 0);
}

/* ---- access ---- */

int jiterate(struct run *r, struct jv *out, struct jv v)
{
    if (v.type == J_LIST) {
        *out = v;
        return 0;
    }
    if (jlist_new(r, out))
        return -1;
    if (v.type == J_UNDEF)
        return 0;
    if (v.type == J_DICT && !v.mutable) {
        for (size_t i = 0; i < v.dict->n; i++)
            if (jstep(r) || jlist_add(r, out->list, v.dict->k[i]))
                return -1;
        return 0;
    }
    if (v.type != J_STR)
        return jfail(r, "%s cannot be looped over", jtype_name(v));
    for (size_t at = 0, n; at < v.s.n; at += n) {
        int32_t cp;

        n = utf8_next(v.s.p + at, v.s.n - at, &cp);
        if (jstep(r) || jlist_add(r, out->list, part(v, at, n)))
            return -1;
    }
    return 0;
}

int jattr(struct run *r, struct jv *out, struct jv v, const char *name)
{
    const struct jv *at = v.type == J_DICT ? jdict_name(v.dict, name) : NULL;

    if (v.type == J_UNDEF)
        return jfail(r, "%s is not defined, so it has no %s", v.name ? v.name : "a value", name);
    *out = at ? *at : (struct jv){ .type = J_UNDEF, .name = name };
    return 0;
}

int jitem(struct run *r, struct jv *out, struct jv v, struct jv key)
{
    *out = (struct jv){ .type = J_UNDEF };
    if (v.type == J_UNDEF)
        return jfail(r, "%s is not defined, so it has no elements", v.name ? v.name : "a value");
    if (v.type == J_DICT) {
        const struct jv *at = jdict_get(v.dict, key);

        if (at)
            *out = *at;
    } else if (key.type == J_INT && (v.type == J_LIST || v.type == J_STR)) {
        const int64_t n = (int64_t)(v.type == J_LIST ? v.list->n : characters(v));
        const int64_t i = key.i < 0 ? key.i + n : key.i;

        if (i < 0 || i >= n)
            return 0;
        if (v.type == J_LIST) {
            *out = v.list->v[i];
        } else {
            const size_t from = byte_of(v, (size_t)i);

            *out = part(v, from, byte_of(v, (size_t)i + 1) - from);
        }
    }
    return 0;
}

int jslice(struct run *r, struct jv *out, struct jv v, struct jv from, struct jv to, struct jv by)
{
    const struct jv *const given[] = { &from, &to, &by };

    for (size_t i = 0; i < 3; i++)
        if (given[i]->type != J_INT && given[i]->type != J_NONE)
            return jfail(r, "a slice by %s", jtype_name(*given[i]));
    if (v.type == J_UNDEF)
        return jfail(r, "%s is not defined, so it has no slices", v.name ? v.name : "a value");
    if (v.type != J_LIST && v.type != J_STR)
        return jfail(r, "%s has no slices", jtype_name(v));
    const int64_t n = (int64_t)(v.type == J_LIST ? v.list->n : characters(v));
    const int64_t step = by.type == J_INT ? by.i : 1;
    const int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    int64_t a = from.type == J_INT ? from.i : step < 0 ? high : low;
    int64_t b = to.type == J_INT ? to.i : step < 0 ? low : high;

    if (step == 0)
        return jfail(r, "a slice by 0");
    if (from.type == J_INT)
        a = a < 0 ? a + n < low ? low : a + n : a > high ? high : a;
    if (to.type == J_INT)
        b = b < 0 ? b + n < low ? low : b + n : b > high ? high : b;
    if (v.type == J_STR && step == 1) {
        const size_t at = byte_of(v, (size_t)a), end = b > a ? byte_of(v, (size_t)b) : at;

        *out = part(v, at, end - at);
        return 0;
    }
    struct jv items, list;

    if (jiterate(r, &items, v) || jlist_new(r, &list))
        return -1;
    for (; step > 0 ? a < b : a > b; a += step) {
        if (jstep(r) || jlist_add(r, list.list, items.list->v[a]))
            return -1;
        if (step > n || step < -n)
            break;
    }
    list.tuple = v.type == J_LIST && v.tuple;
    *out = list;
    return v.type == J_STR ? join(r, out, list, text_of(""), NULL) : 0;
}

int jcontains(struct run *r, bool *out, struct jv box, struct jv v)
{
    *out = false;
    if (box.type == J_STR) {
        if (want_string(r, &v, "in"))
            return -1;
        *out = find(box.s.p, box.s.n, v) != NULL;
    } else if (box.type == J_DICT) {
        *out = jdict_get(box.dict, v) != NULL;
    } else if (box.type == J_LIST) {
        for (size_t i = 0; i < box.list->n && !*out; i++) {
            if (jstep(r))
                return -1;
            *out = jequal(box.list->v[i], v);
        }
    } else if (box.type != J_UNDEF) {
        return jfail(r, "in: %s holds nothing", jtype_name(box));
    }
    return 0;
}

/* ---- tests ---- */

int jtest(struct run *r, bool *out, const char *name, struct jv v, struct jv *args, size_t n)
{
    static const struct {
        const char *name;
        unsigned types; /* bits of enum jtype */
    } kinds[] = {
        { "none", 1u << J_NONE },
        { "undefined", 1u << J_UNDEF },
        { "defined", ~(1u << J_UNDEF) },
        { "string", 1u << J_STR },
        { "boolean", 1u << J_BOOL },
        { "integer", 1u << J_INT },
        { "float", 1u << J_FLOAT },
        { "number", 1u << J_INT | 1u << J_FLOAT | 1u << J_BOOL },
        { "mapping", 1u << J_DICT },
        { "iterable", 1u << J_STR | 1u << J_LIST | 1u << J_DICT | 1u << J_UNDEF },
        { "sequence", 1u << J_STR | 1u << J_LIST | 1u << J_DICT | 1u << J_UNDEF },
        { "callable", 1u << J_MACRO | 1u << J_FUNC | 1u << J_UNDEF },
    };
    int c;

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (strcmp(name, kinds[i].name) == 0) {
            *out = kinds[i].types >> v.type & 1;
            return 0;
        }
    if (strcmp(name, "true") == 0 || strcmp(name, "false") == 0) {
        *out = v.type == J_BOOL && v.on == (name[0] == 't');
        return 0;
    }
    if (strcmp(name, "lower") == 0 || strcmp(name, "upper") == 0) {
        struct jv same, text;

        /* str(v).isupper(): letters, and none of the other case */
        if (jprint(r, &text, v, false) || recase(r, &same, text, name) ||
            recase(r, &v, text, name[0] == 'u' ? "lower" : "upper"))
            return -1;
        *out = jequal(same, text) && !jequal(same, v);
        return 0;
    }
    if (strcmp(name, "escaped") == 0) { /* no text is marked as safe here */
        *out = false;
        return 0;
    }
    if (strcmp(name, "even") == 0 || strcmp(name, "odd") == 0) {
        if (v.type == J_BOOL)
            v = integer(v.on);
        if (v.type != J_INT)
            return jfail(r, "%s: %s is no number", name, jtype_name(v));
        *out = (v.i & 1) == (name[0] == 'o');
        return 0;
    }
    if (n == 0)
        return jfail(r, "the test %s is not known, or needs a value", name);
    if (strcmp(name, "in") == 0)
        return jcontains(r, out, args[0], v);
    if (strcmp(name, "divisibleby") == 0) {
        if (v.type == J_BOOL)
            v = integer(v.on);
        if (v.type != J_INT || args[0].type != J_INT || args[0].i == 0)
            return jfail(r, "divisibleby: two whole numbers are needed");
        *out = args[0].i == -1 || v.i % args[0].i == 0;
        return 0;
    }
    static const char *const same[] = { "equalto", "eq", "==", "sameas" };

    for (size_t i = 0; i < ARRAY_LEN(same); i++)
        if (strcmp(name, same[i]) == 0) {
            *out = jequal(v, args[0]) && (i < 3 || v.type == args[0].type);
            return 0;
        }
    if (strcmp(name, "ne") == 0) {
        *out = !jequal(v, args[0]);
        return 0;
    }
    static const char *const orders[] = { "lt", "lessthan", "gt", "greaterthan", "le", "ge" };

    for (size_t i = 0; i < ARRAY_LEN(orders); i++) {
        if (strcmp(name, orders[i]) != 0)
            continue;
        if (jcompare(r, v, args[0], &c))
            return -1;
        *out = i < 2 ? c < 0 : i < 4 ? c > 0 : i == 4 ? c <= 0 : c >= 0;
        return 0;
    }
    return jfail(r, "the test %s is not known here", name);
}

/* ---- filters ---- */

static int length(struct run *r, struct jv *out, struct jv v)
{
    if (v.type != J_STR && v.type != J_LIST && v.type != J_DICT && v.type != J_UNDEF)
        return jfail(r, "%s has no length", jtype_name(v));
    *out = integer((int64_t)(v.type == J_STR    ? characters(v)
                             : v.type == J_LIST ? v.list->n
                             : v.type == J_DICT ? v.dict->n
                                                : 0));
    return 0;
}

static int pairs(struct run *r, struct jv *out, struct jv v)
{
    if (v.type != J_DICT || v.mutable)
        return jfail(r, "items: %s is no dictionary", jtype_name(v));
    if (jlist_new(r, out))
        return -1;
    for (size_t i = 0; i < v.dict->n; i++) {
        struct jv one;

        if (jstep(r) || jlist_new(r, &one) || jlist_add(r, one.list, v.dict->k[i]) ||
            jlist_add(r, one.list, v.dict->v[i]))
            return -1;
        one.tuple = true;
        if (jlist_add(r, out->list, one))
            return -1;
    }
    return 0;
}

/* Insertion sort: lists in templates are short, and steps are counted. by = 0 or 1 of pairs, -1 =
 * the elements themselves. */
static int sort(struct run *r, struct jv *out, struct jv v, int by, const char *attribute,
                bool reverse)
{
    struct jv items;

    if (jiterate(r, &items, v) || jlist_new(r, out))
        return -1;
    for (size_t i = 0; i < items.list->n; i++) {
        size_t k = i;

        if (jlist_add(r, out->list, items.list->v[i]))
            return -1;
        for (; k > 0; k--) {
            struct jv *l = out->list->v, a = l[k - 1], b = l[k];
            int c;

            if (by >= 0) {
                a = a.list->v[by];
                b = b.list->v[by];
            } else if (attribute && (jattr(r, &a, a, attribute) || jattr(r, &b, b, attribute))) {
                return -1;
            }
            if (jstep(r))
                return -1;
            if (a.type == J_STR && b.type == J_STR) { /* case_sensitive is off */
                if (recase(r, &a, a, "l") || recase(r, &b, b, "l"))
                    return -1;
            }
            if (jcompare(r, a, b, &c))
                return -1;
            if (reverse ? c >= 0 : c <= 0)
                break;
            const struct jv t = l[k - 1];

            l[k - 1] = l[k];
            l[k] = t;
        }
    }
    return 0;
}

/* select, reject, selectattr, rejectattr */
static int choose(struct run *r, struct jv *out, const char *name, struct jv v, struct jv *args,
                  size_t n)
{
    const bool by_attr = strstr(name, "attr") != NULL, want = name[0] == 's';
    struct jv items;

    if (by_attr && (n == 0 || args[0].type != J_STR))
        return jfail(r, "%s: the name of an attribute is needed", name);
    const char *attribute = by_attr ? args[0].s.p : NULL;

    args += by_attr;
    n -= by_attr;
    if (n && args[0].type != J_STR)
        return jfail(r, "%s: the name of a test is needed", name);
    if (!jtrue(v)) /* jinja2 loops over nothing then, whatever it is */
        return jlist_new(r, out);
    if (jiterate(r, &items, v) || jlist_new(r, out))
        return -1;
    for (size_t i = 0; i < items.list->n; i++) {
        struct jv one = items.list->v[i];
        bool yes;

        if (jstep(r) || (attribute && jattr(r, &one, one, attribute)))
            return -1;
        yes = jtrue(one);
        if (n && jtest(r, &yes, args[0].s.p, one, args + 1, n - 1))
            return -1;
        if (yes == want && jlist_add(r, out->list, items.list->v[i]))
            return -1;
    }
    return 0;
}

static int map(struct run *r, struct jv *out, struct jv v, struct jv *args, const char **keys,
               size_t n)
{
    const struct jv *attribute = NULL, *fallback = NULL;
    struct jv items;

    for (size_t i = 0; i < n; i++) {
        if (keys[i] && strcmp(keys[i], "attribute") == 0)
            attribute = &args[i];
        else if (keys[i] && strcmp(keys[i], "default") == 0)
            fallback = &args[i];
    }
    if (attribute ? attribute->type != J_STR : n == 0 || args[0].type != J_STR)
        return jfail(r, "map: an attribute or the name of a filter is needed");
    if (!jtrue(v))
        return jlist_new(r, out);
    if (jiterate(r, &items, v) || jlist_new(r, out))
        return -1;
    for (size_t i = 0; i < items.list->n; i++) {
        struct jv one = items.list->v[i];

        if (jstep(r) || (attribute ? jattr(r, &one, one, attribute->s.p)
                                   : jfilter(r, &one, args[0].s.p, one, args + 1, keys + 1, n - 1)))
            return -1;
        if (one.type == J_UNDEF && fallback)
            one = *fallback;
        if (jlist_add(r, out->list, one))
            return -1;
    }
    return 0;
}

/* What sort, unique, min and max go by: case_sensitive is off. */
static int sort_key(struct run *r, struct jv *out, struct jv v, const char *attribute)
{
    if (attribute ? jattr(r, out, v, attribute) : (*out = v, 0))
        return -1;
    return out->type == J_STR ? recase(r, out, *out, "l") : 0;
}

static int unique(struct run *r, struct jv *out, struct jv v, const char *attribute)
{
    struct jv items, keys, key;
    bool seen;

    if (jiterate(r, &items, v) || jlist_new(r, out) || jlist_new(r, &keys))
        return -1;
    for (size_t i = 0; i < items.list->n; i++)
        if (sort_key(r, &key, items.list->v[i], attribute) || jcontains(r, &seen, keys, key) ||
            (!seen && (jlist_add(r, keys.list, key) || jlist_add(r, out->list, items.list->v[i]))))
            return -1;
    return 0;
}

static int tojson(struct run *r, struct jv *out, struct jv v, const struct jv *args,
                  const char **keys, size_t n)
{
    const struct jv *ascii = arg(args, keys, n, 0, "ensure_ascii"),
                    *width = arg(args, keys, n, 1, "indent"),
                    *between = arg(args, keys, n, 2, "separators"),
                    *sorted = arg(args, keys, n, 3, "sort_keys");
    const int64_t by = width && width->type == J_INT ? width->i : -1;
    const char *item = by >= 0 ? "," : ", ", *key = ": ";

    if (by > 64)
        return jfail(r, "tojson: an indent of %lld, at most 64", (long long)by);
    if (between && between->type == J_LIST && between->list->n == 2 &&
        between->list->v[0].type == J_STR && between->list->v[1].type == J_STR) {
        item = between->list->v[0].s.p;
        key = between->list->v[1].s.p;
    }
    return jdump(r, out, v, ascii && jtrue(*ascii), (int)by, item, key, sorted && jtrue(*sorted));
}

static int to_number(struct run *r, struct jv *out, struct jv v, const struct jv *other, bool whole)
{
    struct err e;
    json_t *j;

    *out = other ? *other : whole ? integer(0) : (struct jv){ .type = J_FLOAT };
    if (v.type == J_STR) {
        v = strip(v, NULL, true, true);
        if (pyjson_read(&j, v.s.p, v.s.n, PYJSON_LENIENT, "", &e))
            return 0;
        if (json_is_number(j) && jfrom_json(r, &v, j)) {
            json_decref(j);
            return -1;
        }
        json_decref(j);
    }
    if (v.type == J_BOOL)
        v = integer(v.on);
    if (v.type == J_INT)
        *out = whole ? v : (struct jv){ .type = J_FLOAT, .f = (double)v.i };
    else if (v.type == J_FLOAT)
        *out = whole && fabs(v.f) < 9e18 ? integer((int64_t)v.f) : v;
    return 0;
}

static int numeric(struct run *r, struct jv *out, const char *name, struct jv v,
                   const struct jv *args, size_t n)
{
    if (strcmp(name, "int") == 0 || strcmp(name, "float") == 0)
        return to_number(r, out, v, n ? args : NULL, name[0] == 'i');
    if (v.type == J_BOOL)
        v = integer(v.on);
    if (v.type != J_INT && v.type != J_FLOAT)
        return jfail(r, "%s: %s is no number", name, jtype_name(v));
    *out = v;
    if (strcmp(name, "abs") == 0) {
        if (v.type == J_INT && v.i == INT64_MIN)
            return jfail(r, "a number beyond 64 bits");
        out->type == J_INT ? (out->i = v.i < 0 ? -v.i : v.i) : (out->f = fabs(v.f), 0);
    } else {
        const double scale = pow(10, n && args[0].type == J_INT ? (double)args[0].i : 0);
        const double x = v.type == J_INT ? (double)v.i : v.f;

        if (v.type == J_FLOAT)
            out->f = rint(x * scale) / scale;
        else if (scale < 1) /* a whole number stays one */
            *out =
                fabs(x) < 9e15 && scale > 1e-18 ? integer((int64_t)(rint(x * scale) / scale)) : v;
    }
    return 0;
}

static int extreme(struct run *r, struct jv *out, struct jv v, const char *name,
                   const char *attribute)
{
    struct jv items, key, best = { .type = J_UNDEF };

    if (jiterate(r, &items, v))
        return -1;
    *out = best;
    for (size_t i = 0; i < items.list->n; i++) {
        int c = 0;

        if (jstep(r) || sort_key(r, &key, items.list->v[i], attribute) ||
            (i && jcompare(r, key, best, &c)))
            return -1;
        if (i && (name[1] == 'a' ? c <= 0 : c >= 0))
            continue;
        best = key;
        *out = items.list->v[i];
    }
    return 0;
}

static int sequence(struct run *r, struct jv *out, const char *name, struct jv v)
{
    struct jv items;

    if (jiterate(r, &items, v))
        return -1;
    if (strcmp(name, "first") == 0 || strcmp(name, "last") == 0) {
        *out = items.list->n == 0 ? (struct jv){ .type = J_UNDEF }
                                  : items.list->v[name[0] == 'f' ? 0 : items.list->n - 1];
        return 0;
    }
    if (jlist_new(r, out))
        return -1;
    for (size_t i = 0; i < items.list->n; i++) {
        const size_t k = name[0] == 'r' ? items.list->n - 1 - i : i;

        if (jstep(r) || jlist_add(r, out->list, items.list->v[k]))
            return -1;
    }
    return name[0] == 'r' && v.type == J_STR ? join(r, out, *out, text_of(""), NULL) : 0;
}

/* Filters over text. 1 = not one of these. */
static int text_filter(struct run *r, struct jv *out, const char *name, struct jv v,
                       const struct jv *args, const char **keys, size_t n)
{
    static const char *const names[] = { "trim",   "upper",   "lower",  "title", "capitalize",
                                         "string", "replace", "indent", "safe" };
    size_t i = 0;

    while (i < ARRAY_LEN(names) && strcmp(name, names[i]) != 0)
        i++;
    if (i == ARRAY_LEN(names))
        return 1;
    if (jprint(r, &v, v, false))
        return -1;
    *out = v;
    switch (i) {
    case 0:
        if (n && want_string(r, &args[0], name))
            return -1;
        *out = strip(v, n ? args : NULL, true, true);
        return 0;
    case 5:
    case 8:
        return 0;
    case 6:
        if (n < 2 || want_string(r, &args[0], name) || want_string(r, &args[1], name))
            return jfail(r, "replace: two strings are needed");
        return replace(r, out, v, args[0], args[1],
                       n > 2 && args[2].type == J_INT ? args[2].i : -1);
    case 7: {
        const struct jv *first = arg(args, keys, n, 1, "first"),
                        *b = arg(args, keys, n, 2, "blank");

        return indent(r, out, v, arg(args, keys, n, 0, "width"), first && jtrue(*first),
                      b && jtrue(*b));
    }
    default:
        return recase(r, out, v, i == 3 ? "Title" : name);
    }
}

int jfilter(struct run *r, struct jv *out, const char *name, struct jv v, struct jv *args,
            const char **keys, size_t n)
{
    const struct jv *attribute = arg(args, keys, n, SIZE_MAX, "attribute"),
                    *reversed = arg(args, keys, n, 0, "reverse");
    const char *by = attribute && attribute->type == J_STR ? attribute->s.p : NULL;
    const int rc = text_filter(r, out, name, v, args, keys, n);

    if (rc <= 0)
        return rc;
    if (strcmp(name, "tojson") == 0)
        return tojson(r, out, v, args, keys, n);
    if (strcmp(name, "length") == 0 || strcmp(name, "count") == 0)
        return length(r, out, v);
    if (strcmp(name, "default") == 0 || strcmp(name, "d") == 0) {
        const struct jv *other = arg(args, keys, n, 0, "default_value"),
                        *falsy = arg(args, keys, n, 1, "boolean");
        const bool use = v.type == J_UNDEF || (falsy && jtrue(*falsy) && !jtrue(v));

        *out = !use ? v : other ? *other : (struct jv){ .type = J_STR, .s = { "", NULL, 0 } };
        return use && !other ? jlit(r, out, "", 0, 0) : 0;
    }
    if (strcmp(name, "join") == 0) {
        struct jv between = text_of("");

        return n && !keys[0] && jprint(r, &between, args[0], false) ? -1
                                                                    : join(r, out, v, between, by);
    }
    if (strcmp(name, "first") == 0 || strcmp(name, "last") == 0 || strcmp(name, "list") == 0 ||
        strcmp(name, "reverse") == 0)
        return sequence(r, out, name, v);
    if (strcmp(name, "items") == 0 && v.type == J_UNDEF)
        return jlist_new(r, out);
    if (strcmp(name, "items") == 0)
        return pairs(r, out, v);
    if (strcmp(name, "dictsort") == 0)
        return pairs(r, &v, v) ? -1 : sort(r, out, v, 0, NULL, false);
    if (strcmp(name, "sort") == 0)
        return sort(r, out, v, -1, by, reversed && jtrue(*reversed));
    if (strcmp(name, "map") == 0)
        return map(r, out, v, args, keys, n);
    if (strcmp(name, "select") == 0 || strcmp(name, "reject") == 0 ||
        strcmp(name, "selectattr") == 0 || strcmp(name, "rejectattr") == 0)
        return choose(r, out, name, v, args, n);
    if (strcmp(name, "unique") == 0)
        return unique(r, out, v, by);
    if (strcmp(name, "min") == 0 || strcmp(name, "max") == 0)
        return extreme(r, out, v, name, by);
    if (strcmp(name, "int") == 0 || strcmp(name, "float") == 0 || strcmp(name, "abs") == 0 ||
        strcmp(name, "round") == 0)
        return numeric(r, out, name, v, args, n);
    const int more = jfilter_more(r, out, name, v, args, keys, n);

    return more <= 0 ? more : jfail(r, "the filter %s is not known here", name);
}

/* ---- methods ---- */

static int prefix(struct run *r, struct jv *out, struct jv v, const struct jv *what, bool at_end)
{
    struct jv list;

    *out = boolean(false);
    if (what && what->type == J_LIST) {
        list = *what;
        for (size_t i = 0; i < list.list->n && !out->on; i++)
            if (jstep(r) || prefix(r, out, v, &list.list->v[i], at_end))
                return -1;
        return 0;
    }
    if (want_string(r, what, at_end ? "endswith" : "startswith"))
        return -1;
    *out = boolean(what->s.n <= v.s.n &&
                   memcmp(v.s.p + (at_end ? v.s.n - what->s.n : 0), what->s.p, what->s.n) == 0);
    return 0;
}

static int string_method(struct run *r, struct jv *out, struct jv v, const char *name,
                         struct jv *args, const char **keys, size_t n)
{
    const struct jv *first = n && args[0].type != J_NONE ? args : NULL;
    const struct jv *max = arg(args, keys, n, 1, "maxsplit");

    if (strcmp(name, "strip") == 0 || strcmp(name, "lstrip") == 0 || strcmp(name, "rstrip") == 0) {
        if (first && want_string(r, first, name))
            return -1;
        *out = strip(v, first, name[0] != 'r', name[0] != 'l');
        return 0;
    }
    if (strcmp(name, "startswith") == 0 || strcmp(name, "endswith") == 0)
        return prefix(r, out, v, first, name[0] == 'e');
    if (strcmp(name, "split") == 0) {
        const struct jv *sep = arg(args, keys, n, 0, "sep");

        return split(r, out, v, sep, max && max->type == J_INT ? max->i : -1);
    }
    if (strcmp(name, "upper") == 0 || strcmp(name, "lower") == 0 || strcmp(name, "title") == 0 ||
        strcmp(name, "capitalize") == 0)
        return recase(r, out, v, name);
    if (strcmp(name, "replace") == 0)
        return jfilter(r, out, name, v, args, keys, n);
    if (strcmp(name, "join") == 0 && n)
        return join(r, out, args[0], v, NULL);
    if (strcmp(name, "find") == 0 || strcmp(name, "count") == 0) {
        if (want_string(r, first, name))
            return -1;
        const char *hit = find(v.s.p, v.s.n, *first);
        int64_t k = 0;

        if (name[0] == 'f') {
            *out = integer(hit ? (int64_t)characters(part(v, 0, (size_t)(hit - v.s.p))) : -1);
            return 0;
        }
        for (; hit && first->s.n; k++)
            hit = find(hit + first->s.n, (size_t)(v.s.p + v.s.n - hit) - first->s.n, *first);
        *out = integer(k);
        return 0;
    }
    const int more = jstring_more(r, out, v, name, args, keys, n);

    return more <= 0 ? more : jfail(r, "strings have no method %s here", name);
}

int jmethod(struct run *r, struct jv *out, struct jv self, const char *name, struct jv *args,
            const char **keys, size_t n)
{
    const struct jv *own = self.type == J_DICT ? jdict_name(self.dict, name) : NULL;

    if (own && own->type == J_FUNC && strcmp(own->name, "loop.cycle") == 0) {
        const struct jv *at = jdict_name(self.dict, "index0");

        if (n == 0 || !at || at->type != J_INT)
            return jfail(r, "loop.cycle: values are needed");
        *out = args[(size_t)at->i % n];
        return 0;
    }
    if (own && own->type == J_FUNC && strcmp(own->name, "loop.changed") == 0) {
        const struct jv *last = jdict_name(self.dict, " changed");
        bool same = last && last->type == J_LIST && last->list->n == n;

        if (n == 0 || !last || last->type != J_LIST)
            return jfail(r, "loop.changed: values are needed");
        for (size_t i = 0; i < n && same; i++)
            same = jequal(last->list->v[i], args[i]);
        if (!same)
            last->list->n = 0;
        for (size_t i = 0; i < n && !same; i++)
            if (jlist_add(r, last->list, args[i]))
                return -1;
        *out = boolean(!same);
        return 0;
    }
    if (own && own->type == J_FUNC)
        return jfunction(r, out, own->name, args, keys, n);
    if (self.type == J_STR)
        return string_method(r, out, self, name, args, keys, n);
    if (self.type == J_LIST) {
        const int rc = jlist_method(r, out, self, name, args, n);

        if (rc <= 0)
            return rc;
    }
    if (self.type == J_DICT && !self.mutable) {
        if (strcmp(name, "items") == 0)
            return pairs(r, out, self);
        if (strcmp(name, "get") == 0 && n) {
            const struct jv *v = jdict_get(self.dict, args[0]);

            *out = v ? *v : n > 1 ? args[1] : none;
            return 0;
        }
        if (strcmp(name, "keys") == 0)
            return jiterate(r, out, self);
        if (strcmp(name, "values") == 0) {
            if (jlist_new(r, out))
                return -1;
            for (size_t i = 0; i < self.dict->n; i++)
                if (jstep(r) || jlist_add(r, out->list, self.dict->v[i]))
                    return -1;
            return 0;
        }
    }
    if (self.type == J_UNDEF)
        return jfail(r, "%s is not defined, so it has no method %s",
                     self.name ? self.name : "a value", name);
    return jfail(r, "%s has no method %s here", jtype_name(self), name);
}

/* ---- functions ---- */

bool jfunction_known(const char *name)
{
    static const char *const names[] = { "range", "namespace", "raise_exception", "strftime_now",
                                         "dict" };

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static int range(struct run *r, struct jv *out, const struct jv *args, size_t n)
{
    int64_t v[3] = { 0, 0, 1 };

    if (n == 0 || n > 3)
        return jfail(r, "range: 1 to 3 numbers are needed");
    for (size_t i = 0; i < n; i++) {
        if (args[i].type != J_INT || args[i].i > INT32_MAX || args[i].i < INT32_MIN)
            return jfail(r, "range: a whole number of at most 31 bits is needed");
        v[n == 1 ? 1 : i] = args[i].i;
    }
    if (v[2] == 0)
        return jfail(r, "range: a step of 0");
    if (jlist_new(r, out))
        return -1;
    for (int64_t i = v[0]; v[2] > 0 ? i < v[1] : i > v[1]; i += v[2]) {
        if (out->list->n == 100000) /* jinja2's sandbox has the same limit */
            return jfail(r, "range: more than 100000 numbers");
        if (jstep(r) || jlist_add(r, out->list, integer(i)))
            return -1;
    }
    return 0;
}

static int now(struct run *r, struct jv *out, const struct jv *format)
{
    static const char *const months[] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                          "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
    struct jtext s = jtext(r);
    struct tm tm;

    if (want_string(r, format, "strftime_now"))
        return jtext_done(&s, out, -1);
    gmtime_r(&r->now, &tm);
    for (size_t i = 0; i < format->s.n; i++) {
        char one[3] = { '%', i + 1 < format->s.n ? format->s.p[i + 1] : 0 }, text[64];

        if (format->s.p[i] != '%' || !one[1]) {
            jtext_add(&s, part(*format, i, 1));
            continue;
        }
        i++;
        /* English whatever the locale */
        if (one[1] == 'b' || one[1] == 'h')
            snprintf(text, sizeof(text), "%s", months[tm.tm_mon]);
        else if (strftime(text, sizeof(text), one, &tm) == 0)
            text[0] = 0;
        jtext_add(&s, text_of(text));
    }
    return jtext_done(&s, out, 0);
}

int jfunction(struct run *r, struct jv *out, const char *name, struct jv *args, const char **keys,
              size_t n)
{
    if (strcmp(name, "range") == 0)
        return range(r, out, args, n);
    if (strcmp(name, "strftime_now") == 0)
        return now(r, out, n ? args : NULL);
    if (strcmp(name, "raise_exception") == 0) {
        if (n == 0 || jprint(r, out, args[0], false))
            return jfail(r, "the template refuses the request");
        return err_set(r->e, ERR_USAGE, "chat template: %.*s",
                       (int)(out->s.n < 300 ? out->s.n : 300), out->s.p);
    }
    if (jdict_new(r, out))
        return -1;
    out->mutable = strcmp(name, "namespace") == 0;
    for (size_t i = 0; i < n; i++) {
        struct jv k;

        if (!keys[i])
            return jfail(r, "%s: keyword arguments are needed", name);
        if (jlit(r, &k, keys[i], strlen(keys[i]), 0) || jdict_set(r, out->dict, k, args[i]))
            return -1;
    }
    return 0;
}
