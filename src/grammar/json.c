#include "grammar/json.h"

#include <string.h>

#include "text/pyjson.h"

enum { INDENT = 20 };

static uint32_t seq3(struct exprs *x, uint32_t a, uint32_t b, uint32_t c)
{
    return ex_seq(x, ex_seq(x, a, b), c);
}

/* A call of *rule, which is made at the first. True: its body is to be set. */
static bool is_new(struct exprs *x, uint32_t *rule, const char *name)
{
    if (*rule)
        return false;
    *rule = ex_new_rule(x, name, strlen(name));
    return *rule != 0;
}

uint32_t json_space(struct json_rules *j)
{
    struct exprs *x = j->x;

    if (is_new(x, &j->space, "(space)")) {
        const uint32_t blank = ex_byte(x, ' ', ' ');
        const uint32_t line = ex_seq(x, ex_byte(x, '\n', '\n'), ex_repeat(x, blank, 0, INDENT));

        x->rule[j->space].body = ex_opt(x, ex_alt(x, blank, line));
    }
    return ex_rule(x, j->space);
}

uint32_t json_colon(struct json_rules *j)
{
    return ex_seq(j->x, ex_text(j->x, ":"), ex_opt(j->x, ex_byte(j->x, ' ', ' ')));
}

uint32_t json_comma(struct json_rules *j)
{
    return ex_seq(j->x, ex_text(j->x, ","), json_space(j));
}

/* ---- strings ---- */

static uint32_t one_of(struct exprs *x, const char *bytes)
{
    struct charset s = { 0 };
    uint32_t e;

    for (; *bytes; bytes++)
        charset_add(&s, *bytes, *bytes);
    charset_tidy(&s, false);
    e = ex_charset(x, &s);
    charset_release(&s);
    return e;
}

uint32_t json_char(struct json_rules *j)
{
    struct exprs *x = j->x;

    if (is_new(x, &j->ch, "(character)")) {
        struct charset plain = { 0 };
        const uint32_t hex = one_of(x, "0123456789abcdefABCDEF");
        const uint32_t hex2 = ex_repeat(x, hex, 2, 2), hex3 = ex_repeat(x, hex, 3, 3);
        const uint32_t low = ex_seq(x, one_of(x, "dD"), ex_seq(x, one_of(x, "01234567"), hex2));
        const uint32_t pair = seq3(
            x, ex_seq(x, one_of(x, "dD"), ex_seq(x, one_of(x, "89abAB"), hex2)), ex_text(x, "\\u"),
            ex_seq(x, one_of(x, "dD"), ex_seq(x, one_of(x, "cdefCDEF"), hex2)));
        uint32_t code = ex_seq(x, one_of(x, "0123456789abcefABCEF"), hex3);

        code = ex_alt(x, ex_alt(x, code, low), pair);
        charset_add(&plain, 0x20, '"' - 1);
        charset_add(&plain, '"' + 1, '\\' - 1);
        charset_add(&plain, '\\' + 1, 0x10FFFF);
        charset_tidy(&plain, false);
        x->rule[j->ch].body =
            ex_alt(x, ex_charset(x, &plain),
                   ex_seq(x, ex_text(x, "\\"),
                          ex_alt(x, one_of(x, "\"\\/bfnrt"), ex_seq(x, ex_text(x, "u"), code))));
        charset_release(&plain);
    }
    return ex_rule(x, j->ch);
}

uint32_t json_any_string(struct json_rules *j)
{
    struct exprs *x = j->x;

    if (is_new(x, &j->string, "(string)")) {
        const uint32_t quote = ex_byte(x, '"', '"');

        x->rule[j->string].body = seq3(x, quote, ex_repeat(x, json_char(j), 0, -1), quote);
    }
    return ex_rule(x, j->string);
}

uint32_t json_charset(struct json_rules *j, struct charset *set)
{
    static const struct {
        char c;
        const char *escape;
    } known[] = { { '"', "\\\"" }, { '\\', "\\\\" }, { '\b', "\\b" }, { '\f', "\\f" },
                  { '\n', "\\n" }, { '\r', "\\r" },  { '\t', "\\t" } };
    struct exprs *x = j->x;
    uint32_t all = EX_NONE;

    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        for (size_t k = 0; k < set->n; k++)
            if (known[i].c >= set->r[k].lo && known[i].c <= set->r[k].hi)
                all = ex_alt(x, all, ex_text(x, known[i].escape));
    charset_cut(set, 0, 0x1F); /* other controls are left out, as few models write them */
    charset_cut(set, '"', '"');
    charset_cut(set, '\\', '\\');
    all = ex_alt(x, all, ex_charset(x, set));
    charset_release(set);
    return all;
}

/* ---- numbers ---- */

uint32_t json_any_number(struct json_rules *j)
{
    struct exprs *x = j->x;

    if (is_new(x, &j->number, "(number)")) {
        const uint32_t digit = ex_byte(x, '0', '9');
        const uint32_t whole =
            ex_alt(x, ex_byte(x, '0', '0'),
                   ex_seq(x, ex_byte(x, '1', '9'), ex_repeat(x, digit, 0, JSON_DIGITS - 1)));
        const uint32_t fraction =
            ex_seq(x, ex_byte(x, '.', '.'), ex_repeat(x, digit, 1, JSON_DIGITS));
        const uint32_t exponent =
            seq3(x, one_of(x, "eE"), ex_opt(x, one_of(x, "+-")), ex_repeat(x, digit, 1, 2));

        x->rule[j->number].body =
            ex_seq(x, seq3(x, ex_opt(x, ex_text(x, "-")), whole, ex_opt(x, fraction)),
                   ex_opt(x, exponent));
    }
    return ex_rule(x, j->number);
}

/* ---- lists, objects, all of it ---- */

uint32_t json_list(struct json_rules *j, const char *open, uint32_t item, const char *close,
                   int32_t min, int32_t max)
{
    struct exprs *x = j->x;
    const uint32_t more = ex_seq(x, json_comma(j), item);
    uint32_t inside;

    if (max == 0 || item == EX_NONE)
        return min > 0 ? EX_NONE : seq3(x, ex_text(x, open), json_space(j), ex_text(x, close));
    inside = ex_seq(x, item, ex_repeat(x, more, min > 1 ? min - 1 : 0, max < 0 ? -1 : max - 1));
    inside = ex_seq(x, inside, json_space(j));
    if (min <= 0)
        inside = ex_opt(x, inside);
    return seq3(x, ex_seq(x, ex_text(x, open), json_space(j)), inside, ex_text(x, close));
}

uint32_t json_any_array(struct json_rules *j)
{
    if (is_new(j->x, &j->array, "(array)")) {
        const uint32_t body = json_list(j, "[", json_any(j), "]", 0, -1);

        j->x->rule[j->array].body = body;
    }
    return ex_rule(j->x, j->array);
}

uint32_t json_any_object(struct json_rules *j)
{
    struct exprs *x = j->x;

    if (is_new(x, &j->object, "(object)")) {
        const uint32_t member = seq3(x, json_any_string(j), json_colon(j), json_any(j));
        const uint32_t body = json_list(j, "{", member, "}", 0, -1);

        x->rule[j->object].body = body;
    }
    return ex_rule(x, j->object);
}

uint32_t json_any(struct json_rules *j)
{
    struct exprs *x = j->x;

    if (is_new(x, &j->value, "(value)")) {
        uint32_t all = json_any_string(j);

        all = ex_alt(x, all, json_any_number(j));
        all = ex_alt(x, all, json_any_object(j));
        all = ex_alt(x, all, json_any_array(j));
        all = ex_alt(x, all, ex_text(x, "true"));
        all = ex_alt(x, all, ex_text(x, "false"));
        all = ex_alt(x, all, ex_text(x, "null"));
        x->rule[j->value].body = all;
    }
    return ex_rule(x, j->value);
}

uint32_t json_literal(struct json_rules *j, const json_t *v)
{
    struct exprs *x = j->x;
    uint32_t all = EX_EMPTY;
    const char *key;
    json_t *kid;
    struct buf b;
    size_t i = 0;

    if (json_is_object(v)) {
        all = ex_text(x, "{");
        json_object_foreach((json_t *)(uintptr_t)v, key, kid)
        {
            json_t *name = json_string(key);

            if (i++)
                all = ex_seq(x, all, json_comma(j));
            all = ex_seq(x, all, json_literal(j, name));
            all = ex_seq(x, all, json_colon(j));
            all = ex_seq(x, all, json_literal(j, kid));
            json_decref(name);
        }
        return ex_seq(x, all, ex_text(x, "}"));
    }
    if (json_is_array(v)) {
        all = ex_text(x, "[");
        for (; i < json_array_size(v); i++) {
            if (i)
                all = ex_seq(x, all, json_comma(j));
            all = ex_seq(x, all, json_literal(j, json_array_get(v, i)));
        }
        return ex_seq(x, all, ex_text(x, "]"));
    }
    buf_init(&b, 1 << 20);
    pyjson_write(&b, v, 0, 0);
    all = b.full ? EX_NONE : ex_textn(x, b.p, b.len);
    buf_release(&b);
    return all;
}
