/* schema_object.c - objects and lists.
 *
 * Members come in the order in which they are declared. With O_k for what may follow once a member
 * was written, and M_k for member k, behind the opening brace comes
 *     M_0 O_1 | M_1 O_2 | ... up to the first that is required, and O_k = (, M_k)? O_k+1
 * so the grammar grows with the number of members, whichever are optional. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "grammar/schema_int.h"

enum { KEY_DEPTH = 64 };

static uint32_t seq3(struct exprs *x, uint32_t a, uint32_t b, uint32_t c)
{
    return ex_seq(x, ex_seq(x, a, b), c);
}

static bool is_required(const json_t *v, const char *key)
{
    const json_t *list = json_object_get(v, "required");

    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_is_string(json_array_get(list, i)) &&
            strcmp(json_string_value(json_array_get(list, i)), key) == 0)
            return true;
    return false;
}

/* ---- keys that are not declared ---- */

struct name {
    const char *s; /* borrowed; what is left of it */
    size_t n;
};

static void plain_chars(struct charset *s)
{
    charset_add(s, 0x20, '"' - 1);
    charset_add(s, '"' + 1, '\\' - 1);
    charset_add(s, '\\' + 1, 0x10FFFF);
    charset_tidy(s, false);
}

/* The rest of a string, with its quote, that is none of names (which it reorders). */
static uint32_t other_than(struct exprs *x, struct name *names, size_t n, uint32_t any, int depth)
{
    uint32_t all = EX_NONE;
    struct charset other = { 0 };
    bool ends = false;

    if (n == 0)
        return any;
    if (depth == KEY_DEPTH)
        return EX_NONE;
    plain_chars(&other);
    for (size_t i = 0; i < n;) {
        size_t group = i, len;
        int32_t first, cp;

        if (names[i].n == 0) {
            ends = true;
            i++;
            continue;
        }
        len = utf8_next(names[i].s, names[i].n, &first);
        for (size_t k = i; k < n; k++) { /* those that begin alike, together */
            const struct name at = names[k];

            if (at.n == 0 || (utf8_next(at.s, at.n, &cp), cp) != first)
                continue;
            names[k] = names[group];
            names[group++] = (struct name){ at.s + len, at.n - len };
        }
        if (first >= 0) {
            const struct chars one = { first, first };
            const uint32_t rest = other_than(x, names + i, group - i, any, depth + 1);

            charset_cut(&other, first, first);
            all = ex_alt(x, all, ex_seq(x, ex_chars(x, &one, 1), rest));
        }
        i = group;
    }
    if (!ends)
        all = ex_alt(x, all, ex_byte(x, '"', '"'));
    all = ex_alt(x, all, ex_seq(x, ex_charset(x, &other), any));
    charset_release(&other);
    return all;
}

/* A string that is none of the members' names. It has no escapes, so no name can hide in it. */
static uint32_t other_key(struct schema *c, const json_t *members)
{
    struct exprs *x = c->x;
    struct name *names;
    struct charset plain = { 0 };
    uint32_t any, e;
    const char *key;
    size_t n = 0;
    json_t *v;

    if (json_object_size(members) == 0)
        return json_any_string(&c->j);
    plain_chars(&plain);
    any = ex_seq(x, ex_repeat(x, ex_charset(x, &plain), 0, -1), ex_byte(x, '"', '"'));
    charset_release(&plain);
    names = xcalloc(json_object_size(members), sizeof(*names));
    json_object_foreach((json_t *)(uintptr_t)members, key, v) names[n++] =
        (struct name){ key, strlen(key) };
    e = ex_seq(x, ex_byte(x, '"', '"'), other_than(x, names, n, any, 0));
    free(names);
    return e;
}

/* ---- objects ---- */

static uint32_t as_rule(struct exprs *x, uint32_t body)
{
    const uint32_t rule = ex_new_rule(x, NULL, 0);

    if (!x->full)
        x->rule[rule].body = body;
    return rule;
}

/* Members beyond the declared ones; EX_NONE = there are none. */
static int extra_member(struct schema *c, const json_t *v, const json_t *members, uint32_t *out)
{
    const json_t *more = json_object_get(v, "additionalProperties");
    json_t *patterns = json_object_get(v, "patternProperties"), *kid;
    const json_t *names = json_object_get(v, "propertyNames");
    const char *pattern;
    uint32_t key, e;

    *out = EX_NONE;
    json_object_foreach(patterns, pattern, kid)
    {
        const uint32_t quote = ex_byte(c->x, '"', '"');

        if (json_object_size(members))
            return schema_fail(c, "patternProperties beside properties");
        if (regex_expr(c->x, pattern, strlen(pattern), &c->j, true, &key, c->e))
            return err_wrap(c->e, "at #%.200s/patternProperties", c->path.p);
        if (schema_expr(c, "patternProperties", -1, kid, &e))
            return -1;
        *out = ex_alt(c->x, *out, seq3(c->x, seq3(c->x, quote, key, quote), json_colon(&c->j), e));
    }
    if (patterns && more && !json_is_false(more))
        return schema_fail(c, "additionalProperties beside patternProperties");
    if (!more && json_object_size(members) == 0 && !patterns)
        e = json_any(&c->j);
    else if (!more || json_is_false(more))
        return 0;
    else if (schema_expr(c, "additionalProperties", -1, more, &e))
        return -1;
    key = other_key(c, members);
    if (names && !json_is_true(names)) {
        static const char text[] = "string";
        const json_t *of = NULL;
        json_t *string = json_pack("{s:s}", "type", text);

        json_array_append_new(c->made, string);
        if (json_object_size(members))
            return schema_fail(c, "propertyNames beside properties");
        if (schema_merge(c, string, names, &of) || schema_expr(c, "propertyNames", -1, of, &key))
            return -1;
    }
    *out = seq3(c->x, key, json_colon(&c->j), e);
    return 0;
}

/* properties, and what is required without being among them. */
static int all_members(struct schema *c, const json_t *v, const json_t **out)
{
    json_t *given = json_object_get(v, "properties"), *all;
    const json_t *required = json_object_get(v, "required");

    if ((given && !json_is_object(given)) || (required && !json_is_array(required)))
        return schema_fail(c, "properties is no object, or required no list");
    all = given ? json_copy(given) : json_object();
    json_array_append_new(c->made, all);
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *key = json_string_value(json_array_get(required, i));
        const json_t *more = json_object_get(v, "additionalProperties");

        if (!key)
            return schema_fail(c, "required[%zu] is no name", i);
        if (json_object_get(all, key))
            continue;
        if (json_is_false(more))
            return schema_fail(c, "'%.40s' is required and not among the properties", key);
        if (more)
            json_object_set(all, key, (json_t *)(uintptr_t)more);
        else
            json_object_set_new(all, key, json_true());
    }
    *out = all;
    return 0;
}

static int check_counts(struct schema *c, const json_t *v, const json_t *members, int32_t *min,
                        int32_t *max)
{
    const int32_t n = (int32_t)json_object_size(members);
    const int32_t needed = (int32_t)json_array_size(json_object_get(v, "required"));
    const bool open = json_object_get(v, "additionalProperties") &&
                      !json_is_false(json_object_get(v, "additionalProperties"));

    if (schema_count(c, v, "minProperties", min) || schema_count(c, v, "maxProperties", max))
        return -1;
    if (n && (*min > needed || (*max >= 0 && (*max < n || open))))
        return schema_fail(c, "minProperties or maxProperties beside properties");
    return 0;
}

int schema_object(struct schema *c, const json_t *v, uint32_t *out)
{
    struct exprs *x = c->x;
    const json_t *members;
    int32_t min = 0, max = -1;
    uint32_t extra, follow, inside, later;
    bool may_be_empty = true;
    const size_t was = c->path.len;
    size_t n, i;

    if (all_members(c, v, &members) || extra_member(c, v, members, &extra) ||
        check_counts(c, v, members, &min, &max))
        return -1;
    n = json_object_size(members);
    if (n == 0) {
        *out = json_list(&c->j, "{", extra, "}", min, max);
        return 0;
    }
    const char **key = xcalloc(n, sizeof(*key)), *k;
    uint32_t *member = xcalloc(n, sizeof(*member)); /* EX_NONE = cannot be */
    json_t *kid;
    int rc = -1;

    i = 0;
    json_object_foreach((json_t *)(uintptr_t)members, k, kid)
    {
        json_t *name = json_string(k);
        uint32_t e;

        key[i] = k;
        buf_addf(&c->path, "/properties/%.80s", k);
        if (schema_expr(c, NULL, -1, kid, &e)) {
            json_decref(name);
            goto done;
        }
        buf_cut(&c->path, was);
        if (e != EX_NONE)
            member[i] =
                ex_rule(x, as_rule(x, seq3(x, json_literal(&c->j, name), json_colon(&c->j), e)));
        json_decref(name);
        i++;
    }
    later = extra == EX_NONE ? EX_EMPTY : ex_repeat(x, ex_seq(x, json_comma(&c->j), extra), 0, -1);
    follow = ex_rule(x, as_rule(x, later));
    inside = extra == EX_NONE ? EX_NONE : ex_seq(x, extra, follow);
    for (i = n; i-- > 0;) {
        const bool needed = is_required(v, key[i]);
        const uint32_t first = ex_seq(x, member[i], follow);
        uint32_t next = ex_seq(x, json_comma(&c->j), member[i]);

        if (needed)
            may_be_empty = false;
        inside = needed ? first : ex_alt(x, first, inside);
        if (!needed)
            next = ex_opt(x, next);
        follow = ex_rule(x, as_rule(x, ex_seq(x, next, follow)));
    }
    inside = ex_seq(x, inside, json_space(&c->j));
    if (may_be_empty)
        inside = ex_opt(x, inside);
    *out = seq3(x, ex_seq(x, ex_text(x, "{"), json_space(&c->j)), inside, ex_text(x, "}"));
    rc = 0;
done:
    free(key);
    free(member);
    return rc;
}

/* ---- lists ---- */

int schema_array(struct schema *c, const json_t *v, uint32_t *out)
{
    struct exprs *x = c->x;
    const json_t *items = json_object_get(v, "items");
    const json_t *first = json_object_get(v, "prefixItems");
    int32_t min = 0, max = -1, n;
    uint32_t item = EX_NONE, e, all = EX_EMPTY;

    if (json_is_array(items)) { /* before 2020-12 */
        first = items;
        items = json_object_get(v, "additionalItems");
    }
    if (schema_count(c, v, "minItems", &min) || schema_count(c, v, "maxItems", &max))
        return -1;
    if (first && !json_is_array(first))
        return schema_fail(c, "prefixItems is no list");
    if (max >= 0 && min > max) { /* no list is so */
        *out = EX_NONE;
        return 0;
    }
    if (items ? schema_expr(c, "items", -1, items, &item) : 0)
        return -1;
    n = (int32_t)json_array_size(first);
    if (!items && (!first || min > n))
        item = json_any(&c->j);
    if (n == 0) {
        *out = json_list(&c->j, "[", item, "]", min, max);
        return 0;
    }
    if (max >= 0 && n > max)
        n = max;
    for (int32_t i = 0; i < n; i++) {
        if (schema_expr(c, "prefixItems", i, json_array_get(first, (size_t)i), &e))
            return -1;
        if (i)
            all = ex_seq(x, all, json_comma(&c->j));
        all = ex_seq(x, all, e);
    }
    if (n && (min > n || item != EX_NONE)) {
        const uint32_t more = item == EX_NONE ? item : ex_seq(x, json_comma(&c->j), item);

        all = ex_seq(x, all, ex_repeat(x, more, min > n ? min - n : 0, max < 0 ? -1 : max - n));
    }
    *out = seq3(x, ex_seq(x, ex_text(x, "["), json_space(&c->j)), ex_seq(x, all, json_space(&c->j)),
                ex_text(x, "]"));
    return 0;
}
