#include "grammar/expr.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { TEXT_MAX = 4 << 20, RANGES_MAX = 1 << 20 };

void exprs_init(struct exprs *x)
{
    *x = (struct exprs){ 0 };
    x->cap = 64;
    x->expr = xcalloc(x->cap, sizeof(*x->expr));
    x->expr[EX_EMPTY].kind = X_EMPTY;
    x->n = 2;
    buf_init(&x->text, TEXT_MAX);
}

void exprs_release(struct exprs *x)
{
    for (size_t i = 0; i < x->n_rules; i++)
        free(x->rule[i].name);
    free(x->rule);
    free(x->expr);
    free(x->range);
    buf_release(&x->text);
    *x = (struct exprs){ 0 };
}

static uint32_t add(struct exprs *x, struct expr e)
{
    if (x->n == EXPR_MAX) {
        x->full = true;
        return EX_NONE;
    }
    if (x->n == x->cap)
        x->expr = xrealloc(x->expr, (x->cap *= 2) * sizeof(*x->expr));
    x->expr[x->n] = e;
    return (uint32_t)x->n++;
}

uint32_t ex_byte(struct exprs *x, uint8_t lo, uint8_t hi)
{
    return add(x, (struct expr){ .kind = X_BYTES, .a = lo, .b = hi });
}

uint32_t ex_textn(struct exprs *x, const char *s, size_t n)
{
    const uint32_t at = (uint32_t)x->text.len;

    if (n == 0)
        return EX_EMPTY;
    buf_add(&x->text, s, n);
    x->full |= x->text.full;
    return x->text.full ? EX_NONE
                        : add(x, (struct expr){ .kind = X_TEXT, .a = at, .b = (uint32_t)n });
}

uint32_t ex_text(struct exprs *x, const char *s)
{
    return ex_textn(x, s, strlen(s));
}

uint32_t ex_chars(struct exprs *x, const struct chars *set, size_t n)
{
    const uint32_t at = (uint32_t)x->n_range;

    if (n == 0)
        return EX_NONE;
    if (n > RANGES_MAX - x->n_range) {
        x->full = true;
        return EX_NONE;
    }
    if (x->n_range + n > x->cap_range) {
        x->cap_range = 2 * (x->n_range + n);
        x->range = xrealloc(x->range, x->cap_range * sizeof(*x->range));
    }
    memcpy(x->range + at, set, n * sizeof(*set));
    x->n_range += n;
    return add(x, (struct expr){ .kind = X_CHARS, .a = at, .b = (uint32_t)n });
}

uint32_t ex_seq(struct exprs *x, uint32_t a, uint32_t b)
{
    if (a == EX_NONE || b == EX_NONE)
        return EX_NONE;
    if (a == EX_EMPTY || b == EX_EMPTY)
        return a == EX_EMPTY ? b : a;
    return add(x, (struct expr){ .kind = X_SEQ, .a = a, .b = b });
}

uint32_t ex_alt(struct exprs *x, uint32_t a, uint32_t b)
{
    if (a == EX_NONE || b == EX_NONE || a == b)
        return a == EX_NONE ? b : a;
    return add(x, (struct expr){ .kind = X_ALT, .a = a, .b = b });
}

uint32_t ex_repeat(struct exprs *x, uint32_t a, int32_t min, int32_t max)
{
    if (max == 0 || a == EX_EMPTY || (a == EX_NONE && min == 0))
        return EX_EMPTY;
    if (a == EX_NONE || (min == 1 && max == 1))
        return a;
    return add(x, (struct expr){ .kind = X_REPEAT, .a = a, .min = min, .max = max });
}

uint32_t ex_opt(struct exprs *x, uint32_t a)
{
    return ex_repeat(x, a, 0, 1);
}

uint32_t ex_new_rule(struct exprs *x, const char *name, size_t n)
{
    if (x->n_rules == RULES_MAX) {
        x->full = true;
        return 0;
    }
    if (x->n_rules == x->cap_rules) {
        x->cap_rules = x->cap_rules ? 2 * x->cap_rules : 16;
        x->rule = xrealloc(x->rule, x->cap_rules * sizeof(*x->rule));
    }
    x->rule[x->n_rules] = (struct rule){ .name = name ? xmemdup0(name, n) : NULL };
    return (uint32_t)x->n_rules++;
}

uint32_t ex_rule(struct exprs *x, uint32_t rule)
{
    return add(x, (struct expr){ .kind = X_RULE, .a = rule });
}

/* ---- sets of characters ---- */

enum { FIRST_SURROGATE = 0xD800, LAST_SURROGATE = 0xDFFF, LAST_CHAR = 0x10FFFF };

void charset_add(struct charset *s, int32_t lo, int32_t hi)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 8;
        s->r = xrealloc(s->r, s->cap * sizeof(*s->r));
    }
    s->r[s->n++] = (struct chars){ lo, hi };
}

static int by_lo(const void *a, const void *b)
{
    const struct chars *x = a, *y = b;

    return (x->lo > y->lo) - (x->lo < y->lo);
}

static void merge(struct charset *s)
{
    size_t n = 0;

    if (s->n == 0)
        return;
    qsort(s->r, s->n, sizeof(*s->r), by_lo);
    for (size_t i = 1; i < s->n; i++) {
        if (s->r[i].lo > s->r[n].hi + 1)
            s->r[++n] = s->r[i];
        else if (s->r[i].hi > s->r[n].hi)
            s->r[n].hi = s->r[i].hi;
    }
    s->n = n + 1;
}

void charset_cut(struct charset *s, int32_t lo, int32_t hi)
{
    struct charset out = { 0 };

    for (size_t i = 0; i < s->n; i++) {
        const struct chars r = s->r[i];

        if (r.lo < lo)
            charset_add(&out, r.lo, r.hi < lo ? r.hi : lo - 1);
        if (r.hi > hi)
            charset_add(&out, r.lo > hi ? r.lo : hi + 1, r.hi);
    }
    charset_release(s);
    *s = out;
}

void charset_tidy(struct charset *s, bool not )
{
    merge(s);
    if (not ) {
        struct charset out = { 0 };
        int32_t from = 0;

        for (size_t i = 0; i < s->n; i++) {
            if (s->r[i].lo > from)
                charset_add(&out, from, s->r[i].lo - 1);
            from = s->r[i].hi + 1;
        }
        if (from <= LAST_CHAR)
            charset_add(&out, from, LAST_CHAR);
        charset_release(s);
        *s = out;
    }
    charset_cut(s, FIRST_SURROGATE, LAST_SURROGATE);
}

void charset_release(struct charset *s)
{
    free(s->r);
    *s = (struct charset){ 0 };
}

uint32_t ex_charset(struct exprs *x, const struct charset *s)
{
    return ex_chars(x, s->r, s->n);
}
