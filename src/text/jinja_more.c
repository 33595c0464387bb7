/* jinja_more.c - filters and methods that chat templates use seldom. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_int.h"

static struct jv integer(int64_t i)
{
    return (struct jv){ .type = J_INT, .i = i };
}

static const struct jv *arg(const struct jv *args, const char **keys, size_t n, size_t i,
                            const char *key)
{
    for (size_t k = 0; k < n; k++)
        if (keys && keys[k] ? strcmp(keys[k], key) == 0 : k == i)
            return &args[k];
    return NULL;
}

static struct jv part(struct jv v, size_t from, size_t n)
{
    v.s.p += from;
    v.s.m += from;
    v.s.n = n;
    return v;
}

static size_t characters(struct jv v)
{
    size_t n = 0;

    for (size_t i = 0; i < v.s.n; i++)
        n += ((uint8_t)v.s.p[i] & 0xC0) != 0x80;
    return n;
}

/* ---- text that is built ---- */

static void add(struct jtext *s, const char *p, size_t n, const uint8_t *marks, uint8_t mark)
{
    if (!marks) {
        jtext_put(s, p, n, mark);
        return;
    }
    buf_add(&s->p, p, n);
    buf_add(&s->m, marks, n);
}

static void fill(struct jtext *s, int64_t n, char c)
{
    for (; n > 0 && !s->p.full; n--)
        add(s, &c, 1, NULL, 0);
}

/* v between `left` and `right` fill characters */
static int pad(struct run *r, struct jv *out, struct jv v, int64_t left, int64_t right, char c)
{
    struct jtext s = jtext(r);

    fill(&s, left, c);
    jtext_add(&s, v);
    fill(&s, right, c);
    return jtext_done(&s, out, 0);
}

static int escape(struct run *r, struct jv *out, struct jv v)
{
    static const struct {
        char c;
        const char *to;
    } odd[] = {
        { '&', "&amp;" }, { '<', "&lt;" }, { '>', "&gt;" }, { '\'', "&#39;" }, { '"', "&#34;" }
    };
    struct jtext s = jtext(r);

    for (size_t i = 0; i < v.s.n; i++) {
        const char *to = NULL;

        for (size_t k = 0; k < ARRAY_LEN(odd); k++)
            to = v.s.p[i] == odd[k].c ? odd[k].to : to;
        add(&s, to ? to : v.s.p + i, to ? strlen(to) : 1, NULL, v.s.m[i]);
    }
    return jtext_done(&s, out, 0);
}

/* Percent signs as urllib.parse.quote writes them; `/` stays. */
static int urlencode(struct run *r, struct jv *out, struct jv v)
{
    static const char safe[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~/";
    struct jtext s = jtext(r);
    char hex[4];

    for (size_t i = 0; i < v.s.n; i++) {
        const bool plain = v.s.p[i] && strchr(safe, v.s.p[i]);

        snprintf(hex, sizeof(hex), "%%%02X", (unsigned)(uint8_t)v.s.p[i]);
        add(&s, plain ? v.s.p + i : hex, plain ? 1 : 3, NULL, v.s.m[i]);
    }
    return jtext_done(&s, out, 0);
}

static bool is_word(const char *p, size_t left, size_t *n)
{
    int32_t c;

    *n = utf8_next(p, left, &c);
    return c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
           (c >= 'A' && c <= 'Z') || c == '_';
}

static int64_t words(struct jv v)
{
    int64_t count = 0;
    bool in = false;

    for (size_t at = 0, n; at < v.s.n; at += n) {
        const bool word = is_word(v.s.p + at, v.s.n - at, &n);

        count += word && !in;
        in = word;
    }
    return count;
}

/* Python's %, for %s, %d, %i, %r and %%. */
int jformat(struct run *r, struct jv *out, struct jv v, const struct jv *args, size_t n)
{
    struct jtext s = jtext(r);
    size_t used = 0;
    int rc = 0;

    for (size_t i = 0; i < v.s.n && rc == 0; i++) {
        const char c = i + 1 < v.s.n ? v.s.p[i + 1] : 0;
        struct jv one;

        if (v.s.p[i] != '%' || c == '%') {
            jtext_add(&s, part(v, i, 1));
            i += v.s.p[i] == '%';
            continue;
        }
        if (!c || !strchr("sdir", c)) {
            rc = jfail(r, "%%: %%%c is not known here", c ? c : ' ');
        } else if (used == n) {
            rc = jfail(r, "%%: more than the %zu values that are there are asked for", n);
        } else {
            one = args[used++];
            if ((c == 'd' || c == 'i') && one.type == J_FLOAT)
                one = integer((int64_t)one.f);
            if ((c == 'd' || c == 'i') && one.type == J_BOOL)
                one = integer(one.on);
            rc = (c == 'd' || c == 'i') && one.type != J_INT
                     ? jfail(r, "%%d: %s is no number", jtype_name(one))
                     : jprint(r, &one, one, c == 'r');
            if (rc == 0)
                jtext_add(&s, one);
            i++;
        }
    }
    if (rc == 0 && used < n && args[0].type != J_LIST && args[0].type != J_DICT)
        rc = jfail(r, "%%: %zu values, %zu are used", n, used);
    return jtext_done(&s, out, rc);
}

/* ---- lists ---- */

static int sum(struct run *r, struct jv *out, struct jv v, const char *by, const struct jv *start)
{
    struct jv items;

    *out = start ? *start : integer(0);
    if (jiterate(r, &items, v))
        return -1;
    for (size_t i = 0; i < items.list->n; i++) {
        struct jv one = items.list->v[i];

        if (jstep(r) || (by && jattr(r, &one, one, by)) || jplus(r, out, *out, one))
            return -1;
    }
    return 0;
}

/* Lists of n; or n lists, the first of them longer where it does not come out even. */
static int cut(struct run *r, struct jv *out, struct jv v, int64_t n, const struct jv *filler,
               bool batch)
{
    struct jv items, one;
    size_t at = 0;

    if (n < 1 || n > JINJA_STEPS)
        return jfail(r, "%s: %lld lists", batch ? "batch" : "slice", (long long)n);
    if (jiterate(r, &items, v) || jlist_new(r, out))
        return -1;
    const size_t all = items.list->n, each = (size_t)n;

    for (size_t i = 0; batch ? at < all : i < each; i++) {
        const size_t long_ones = all % each;
        size_t want = batch ? each : all / each + (i < long_ones);

        if (jstep(r) || jlist_new(r, &one))
            return -1;
        for (; want > 0 && at < all; want--)
            if (jlist_add(r, one.list, items.list->v[at++]))
                return -1;
        if (filler && !batch)
            want = i >= long_ones && long_ones;
        for (; filler && filler->type != J_NONE && want > 0; want--)
            if (jlist_add(r, one.list, *filler))
                return -1;
        if (jlist_add(r, out->list, one))
            return -1;
    }
    return 0;
}

/* (value, [elements that have it]), in the order of values; v is sorted by them. */
static int groups(struct run *r, struct jv *out, struct jv v, const char *by)
{
    struct jv group = { .type = J_NONE };

    if (jlist_new(r, out))
        return -1;
    for (size_t i = 0; i < v.list->n; i++) {
        struct jv key, pair;

        if (jstep(r) || jattr(r, &key, v.list->v[i], by))
            return -1;
        if (i == 0 || !jequal(key, out->list->v[out->list->n - 1].list->v[0])) {
            if (jlist_new(r, &group) || jlist_new(r, &pair) || jlist_add(r, pair.list, key) ||
                jlist_add(r, pair.list, group))
                return -1;
            pair.tuple = true;
            if (jlist_add(r, out->list, pair))
                return -1;
        }
        if (jlist_add(r, group.list, v.list->v[i]))
            return -1;
    }
    return 0;
}

int jfilter_more(struct run *r, struct jv *out, const char *name, struct jv v, struct jv *args,
                 const char **keys, size_t n)
{
    static const char *const text[] = { "escape",    "e",      "forceescape", "urlencode",
                                        "wordcount", "center", "format" };
    const struct jv *first = n && !keys[0] ? args : NULL;
    const struct jv *by = arg(args, keys, n, 0, "attribute");

    if (strcmp(name, "sum") == 0)
        return sum(r, out, v, by && by->type == J_STR ? by->s.p : NULL,
                   arg(args, keys, n, 1, "start"));
    if (strcmp(name, "batch") == 0 || strcmp(name, "slice") == 0)
        return cut(r, out, v, first && first->type == J_INT ? first->i : 0,
                   arg(args, keys, n, 1, "fill_with"), name[0] == 'b');
    if (strcmp(name, "groupby") == 0) {
        struct jv sorted;
        const char *const named[] = { "attribute" };

        if (!by || by->type != J_STR)
            return jfail(r, "groupby: the name of an attribute is needed");
        struct jv attribute = *by;

        return jfilter(r, &sorted, "sort", v, &attribute, (const char **)(uintptr_t)named, 1) ||
                       groups(r, out, sorted, by->s.p)
                   ? -1
                   : 0;
    }
    if (strcmp(name, "attr") ==
        0) { /* of an object: dictionaries have none that a template may see */
        *out = (struct jv){ .type = J_UNDEF, .name = "an attribute" };
        return v.type == J_UNDEF ? jfail(r, "%s is not defined", v.name ? v.name : "a value") : 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(text); i++) {
        if (strcmp(name, text[i]) != 0)
            continue;
        if (i == 3 && (v.type == J_LIST || v.type == J_DICT))
            return jfail(r, "urlencode: %s is not supported", jtype_name(v));
        if (jprint(r, &v, v, false))
            return -1;
        if (i < 3)
            return escape(r, out, v);
        if (i == 3)
            return urlencode(r, out, v);
        if (i == 4) {
            *out = integer(words(v));
            return 0;
        }
        if (i == 6)
            return jformat(r, out, v, args, n);
        const struct jv *width = arg(args, keys, n, 0, "width");
        const int64_t gap =
            (width && width->type == J_INT ? width->i : 80) - (int64_t)characters(v);
        const int64_t left = gap > 0 ? gap / 2 + (gap & (gap + (int64_t)characters(v)) & 1) : 0;

        return pad(r, out, v, left, gap - left, ' ');
    }
    return 1;
}

/* ---- methods of strings ---- */

static const char *find(struct jv v, size_t from, struct jv what, bool last)
{
    const char *hit = NULL, *p = v.s.p + from, *end = v.s.p + v.s.n;

    if (what.s.n == 0)
        return last ? end : p;
    while ((p = memmem(p, (size_t)(end - p), what.s.p, what.s.n))) {
        hit = p++;
        if (!last)
            break;
    }
    return hit;
}

/* a, the separator, b; a text without it is the first, or the last. */
static int partition(struct run *r, struct jv *out, struct jv v, struct jv sep, bool last)
{
    const char *hit = sep.s.n ? find(v, 0, sep, last) : NULL;
    const size_t at = hit ? (size_t)(hit - v.s.p) : last ? 0 : v.s.n;
    const size_t behind = hit ? at + sep.s.n : at;

    if (sep.s.n == 0)
        return jfail(r, "partition: an empty separator");
    if (jlist_new(r, out) || jlist_add(r, out->list, part(v, 0, at)) ||
        jlist_add(r, out->list, part(v, at, behind - at)) ||
        jlist_add(r, out->list, part(v, behind, v.s.n - behind)))
        return -1;
    out->tuple = true;
    return 0;
}

static int rsplit(struct run *r, struct jv *out, struct jv v, struct jv sep, int64_t max)
{
    struct jv back;
    size_t end = v.s.n;

    if (sep.s.n == 0)
        return jfail(r, "rsplit: an empty separator");
    if (jlist_new(r, &back) || jlist_new(r, out))
        return -1;
    for (;; max--) {
        const char *hit = max == 0 ? NULL : find(part(v, 0, end), 0, sep, true);
        const size_t from = hit ? (size_t)(hit - v.s.p) + sep.s.n : 0;

        if (jstep(r) || jlist_add(r, back.list, part(v, from, end - from)))
            return -1;
        if (!hit)
            break;
        end = from - sep.s.n;
    }
    for (size_t i = back.list->n; i-- > 0;)
        if (jlist_add(r, out->list, back.list->v[i]))
            return -1;
    return 0;
}

/* Lines end with \n, \r, \r\n and the like. */
static int splitlines(struct run *r, struct jv *out, struct jv v, bool keep)
{
    size_t from = 0;

    if (jlist_new(r, out))
        return -1;
    for (size_t at = 0, n; at < v.s.n; at += n) {
        int32_t c;

        n = utf8_next(v.s.p + at, v.s.n - at, &c);
        if (!((c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 ||
              c == 0x2029))
            continue;
        n += c == '\r' && at + 1 < v.s.n && v.s.p[at + 1] == '\n';
        if (jstep(r) || jlist_add(r, out->list, part(v, from, (keep ? at + n : at) - from)))
            return -1;
        from = at + n;
    }
    return from < v.s.n ? jlist_add(r, out->list, part(v, from, v.s.n - from)) : 0;
}

/* isdigit and the like, for ASCII; other letters would need a table. */
static int is_kind(struct run *r, struct jv *out, struct jv v, const char *name)
{
    bool all = v.s.n > 0, cased = false;

    for (size_t i = 0; i < v.s.n; i++) {
        const unsigned char c = (unsigned char)v.s.p[i];
        const bool up = c >= 'A' && c <= 'Z', low = c >= 'a' && c <= 'z',
                   digit = c >= '0' && c <= '9';

        if (c >= 0x80)
            return jfail(r, "%s: what U+0080 and above is, is not known here", name);
        cased |= up || low;
        all &= strcmp(name, "isalpha") == 0   ? up || low
               : strcmp(name, "isalnum") == 0 ? up || low || digit
               : strcmp(name, "isspace") == 0 ? (c >= 9 && c <= 13) || (c >= 28 && c <= 32)
               : strcmp(name, "isupper") == 0 ? !low
               : strcmp(name, "islower") == 0 ? !up
                                              : digit;
    }
    if (strcmp(name, "isupper") == 0 || strcmp(name, "islower") == 0)
        all &= cased;
    *out = (struct jv){ .type = J_BOOL, .on = all };
    return 0;
}

static int zfill(struct run *r, struct jv *out, struct jv v, int64_t gap)
{
    const size_t sign = v.s.n && (v.s.p[0] == '-' || v.s.p[0] == '+');
    struct jtext s = jtext(r);

    jtext_add(&s, part(v, 0, sign));
    fill(&s, gap, '0');
    jtext_add(&s, part(v, sign, v.s.n - sign));
    return jtext_done(&s, out, 0);
}

int jstring_more(struct run *r, struct jv *out, struct jv v, const char *name, struct jv *args,
                 const char **keys, size_t n)
{
    static const char *const kinds[] = { "isdigit", "isdecimal", "isnumeric", "isalpha",
                                         "isalnum", "isspace",   "isupper",   "islower" };
    const struct jv *first = n && !keys[0] ? args : NULL;
    const struct jv *max = arg(args, keys, n, 1, "maxsplit");
    const bool text = first && first->type == J_STR, right = name[0] == 'r';

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (n == 0 && strcmp(name, kinds[i]) == 0)
            return is_kind(r, out, v, name);
    if (strcmp(name, "splitlines") == 0) {
        const struct jv *keep = arg(args, keys, n, 0, "keepends");

        return splitlines(r, out, v, keep && jtrue(*keep));
    }
    if (text && strcmp(name, "rsplit") == 0)
        return rsplit(r, out, v, *first, max && max->type == J_INT ? max->i : -1);
    if (text && (strcmp(name, "partition") == 0 || strcmp(name, "rpartition") == 0))
        return partition(r, out, v, *first, right);
    if (text && strcmp(name, "removeprefix") == 0) {
        const bool has = first->s.n <= v.s.n && !memcmp(v.s.p, first->s.p, first->s.n);

        *out = has ? part(v, first->s.n, v.s.n - first->s.n) : v;
        return 0;
    }
    if (text && strcmp(name, "removesuffix") == 0) {
        const size_t k = first->s.n;

        *out = k && k <= v.s.n && !memcmp(v.s.p + v.s.n - k, first->s.p, k) ? part(v, 0, v.s.n - k)
                                                                            : v;
        return 0;
    }
    if (text && n == 1 &&
        (strcmp(name, "rfind") == 0 || strcmp(name, "index") == 0 || strcmp(name, "rindex") == 0)) {
        const char *hit = find(v, 0, *first, right);

        if (!hit && strcmp(name, "rfind") != 0)
            return jfail(r, "%s: the text is not there", name);
        *out = integer(hit ? (int64_t)characters(part(v, 0, (size_t)(hit - v.s.p))) : -1);
        return 0;
    }
    if (first && n == 1 && first->type == J_INT) {
        const int64_t gap = first->i - (int64_t)characters(v);
        const int64_t left = gap > 0 ? gap / 2 + (gap & first->i & 1) : 0;

        if (strcmp(name, "ljust") == 0)
            return pad(r, out, v, 0, gap, ' ');
        if (strcmp(name, "rjust") == 0)
            return pad(r, out, v, gap, 0, ' ');
        if (strcmp(name, "center") == 0)
            return pad(r, out, v, left, gap - left, ' ');
        if (strcmp(name, "zfill") == 0)
            return zfill(r, out, v, gap);
    }
    return 1;
}

/* list.index, list.count */
int jlist_method(struct run *r, struct jv *out, struct jv v, const char *name,
                 const struct jv *args, size_t n)
{
    const bool count = strcmp(name, "count") == 0;
    int64_t found = 0;

    if (n != 1 || (!count && strcmp(name, "index") != 0))
        return 1;
    for (size_t i = 0; i < v.list->n; i++) {
        if (jstep(r))
            return -1;
        if (!jequal(v.list->v[i], args[0]))
            continue;
        found++;
        if (!count) {
            *out = integer((int64_t)i);
            return 0;
        }
    }
    *out = integer(found);
    return count ? 0 : jfail(r, "index: the value is not there");
}
