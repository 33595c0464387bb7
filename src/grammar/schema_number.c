/* schema_number.c - numbers between bounds, digit by digit, so that bounds are exact.
 *
 * A bound is a text of digits before the point and one behind it. What lies between two of them is
 * said by the first digit in which a number differs from each: below it anything may follow. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/schema_int.h"
#include "text/pyjson.h"

enum { DIGITS_MAX = 24, MORE_ZEROS = 4 };

static const char zeros[] = "000000000000000000000000", nines[] = "999999999999999999999999";

/* At or above zero. */
struct bound {
    char whole[DIGITS_MAX + 1], part[DIGITS_MAX + 1]; /* part: without zeros at its end */
    bool open;                                        /* the bound itself does not count */
};

static uint32_t digits(struct exprs *x, int32_t min, int32_t max)
{
    return ex_repeat(x, ex_byte(x, '0', '9'), min, max);
}

/* Any of the digits lo..hi, then `next`; nothing when there is no such digit. */
static uint32_t digit(struct exprs *x, int lo, int hi, uint32_t next)
{
    return lo > hi ? EX_NONE : ex_seq(x, ex_byte(x, (uint8_t)lo, (uint8_t)hi), next);
}

/* Numbers of n digits from a to b. */
static uint32_t same_length(struct exprs *x, const char *a, const char *b, size_t n)
{
    uint32_t all;

    if (strncmp(a, zeros, n) == 0 && strncmp(b, nines, n) == 0)
        return digits(x, (int32_t)n, (int32_t)n);
    if (*a == *b)
        return digit(x, *a, *a, same_length(x, a + 1, b + 1, n - 1));
    all = digit(x, *a, *a, same_length(x, a + 1, nines, n - 1));
    all = ex_alt(x, all, digit(x, *a + 1, *b - 1, digits(x, (int32_t)n - 1, (int32_t)n - 1)));
    return ex_alt(x, all, digit(x, *b, *b, same_length(x, zeros, b + 1, n - 1)));
}

/* Whole numbers from a to b, without zeros in front; nothing when a is above b. */
static uint32_t whole_between(struct exprs *x, const char *a, const char *b)
{
    uint32_t all = EX_NONE;

    for (size_t n = strlen(a); n <= strlen(b); n++) {
        char lo[DIGITS_MAX + 1] = "1";
        const char *hi = n == strlen(b) ? b : nines;

        memcpy(lo + 1, zeros, n);
        if (n == strlen(a))
            memcpy(lo, a, n);
        if (strncmp(lo, hi, n) <= 0)
            all = ex_alt(x, all, same_length(x, lo, hi, n));
    }
    return all;
}

/* a + d, for d = 1 or -1; below zero it is the text "". */
static void add_one(char *out, const char *a, int d)
{
    const unsigned long long n = strtoull(a, NULL, 10);

    if (d < 0 && n == 0)
        *out = 0;
    else
        snprintf(out, DIGITS_MAX + 1, "%llu", d < 0 ? n - 1 : n + 1);
}

/* ---- behind the point ---- */

static uint32_t not_zero(struct exprs *x)
{
    const uint32_t zero = ex_byte(x, '0', '0');

    return ex_seq(x, ex_repeat(x, zero, 0, MORE_ZEROS),
                  digit(x, '1', '9', digits(x, 0, JSON_DIGITS - MORE_ZEROS - 1)));
}

/* Further digits of a number that is not below one with the digits f there; first: there must be
 * one, as the point was written. */
static uint32_t at_least(struct exprs *x, const char *f, bool open, bool first)
{
    if (*f == 0)
        return open ? not_zero(x) : digits(x, first, JSON_DIGITS);
    return ex_alt(x, digit(x, *f + 1, '9', digits(x, 0, JSON_DIGITS)),
                  digit(x, *f, *f, at_least(x, f + 1, open, false)));
}

static uint32_t at_most(struct exprs *x, const char *g, bool open, bool first)
{
    uint32_t all;

    if (*g == 0)
        return open ? EX_NONE : ex_repeat(x, ex_byte(x, '0', '0'), first, MORE_ZEROS);
    all = ex_alt(x, digit(x, '0', *g - 1, digits(x, 0, JSON_DIGITS)),
                 digit(x, *g, *g, at_most(x, g + 1, open, false)));
    return first ? all : ex_alt(x, all, EX_EMPTY); /* no more digits: below */
}

/* Digits of a number between two that were the same up to here. */
static uint32_t part_between(struct exprs *x, const char *f, const char *g, bool open_f,
                             bool open_g, bool first)
{
    const int lo = *f ? *f : '0';
    const char *f1 = *f ? f + 1 : f;
    uint32_t all;

    if (*g == 0)
        return *f || open_f || open_g ? EX_NONE
                                      : ex_repeat(x, ex_byte(x, '0', '0'), first, MORE_ZEROS);
    if (lo > *g)
        return EX_NONE;
    if (lo == *g) {
        all = digit(x, lo, lo, part_between(x, f1, g + 1, open_f, open_g, false));
    } else {
        all = digit(x, lo, lo, at_least(x, f1, open_f, false));
        all = ex_alt(x, all, digit(x, lo + 1, *g - 1, digits(x, 0, JSON_DIGITS)));
        all = ex_alt(x, all, digit(x, *g, *g, at_most(x, g + 1, open_g, false)));
    }
    return *f || open_f || first ? all : ex_alt(x, all, EX_EMPTY);
}

/* A point with the digits `more` behind it. They may all be missing, with the point, if the number
 * is right without. */
static uint32_t point(struct exprs *x, uint32_t more, bool without)
{
    uint32_t e = EX_NONE;

    if (more != EX_NONE && more != EX_EMPTY)
        e = ex_seq(x, ex_byte(x, '.', '.'), more);
    return without ? ex_alt(x, e, EX_EMPTY) : e;
}

/* ---- numbers ---- */

/* Numbers at or above zero, from lo to hi. */
static uint32_t between(struct exprs *x, const struct bound *lo, const struct bound *hi)
{
    const uint32_t any = point(x, digits(x, 1, JSON_DIGITS), true);
    char from[DIGITS_MAX + 1], to[DIGITS_MAX + 1];
    uint32_t all, e;

    if (strcmp(lo->whole, hi->whole) == 0) {
        e = part_between(x, lo->part, hi->part, lo->open, hi->open, true);
        return ex_seq(x, ex_text(x, lo->whole),
                      point(x, e, *lo->part == 0 && !lo->open && (*hi->part || !hi->open)));
    }
    add_one(from, lo->whole, 1);
    add_one(to, hi->whole, -1);
    e = point(x, at_least(x, lo->part, lo->open, true), *lo->part == 0 && !lo->open);
    all = ex_seq(x, ex_text(x, lo->whole), e);
    if (*to)
        all = ex_alt(x, all, ex_seq(x, whole_between(x, from, to), any));
    e = point(x, at_most(x, hi->part, hi->open, true), *hi->part || !hi->open);
    return ex_alt(x, all, ex_seq(x, ex_text(x, hi->whole), e));
}

/* |v| as a bound; false = it has no plain decimals. */
static bool bound_of(struct bound *b, double v, bool open)
{
    struct buf text;
    bool ok;

    *b = (struct bound){ .open = open };
    buf_init(&text, 64);
    pyjson_float(&text, fabs(v));
    ok = strspn(text.p, "0123456789.") == text.len && text.len <= DIGITS_MAX;
    if (ok) {
        const size_t n = strcspn(text.p, ".");

        memcpy(b->whole, text.p, n);
        memcpy(b->part, text.p + n + (n < text.len), text.len - n - (n < text.len));
        for (size_t k = strlen(b->part); k && b->part[k - 1] == '0';)
            b->part[--k] = 0;
    }
    buf_release(&text);
    return ok;
}

static int read_bound(struct schema *c, const json_t *v, const char *key, const char *exclusive,
                      double sign, double *out, bool *open, bool *given)
{
    const json_t *a = json_object_get(v, key), *b = json_object_get(v, exclusive);

    if ((a && !json_is_number(a)) || (b && !json_is_number(b) && !json_is_boolean(b)))
        return schema_fail(c, "%s or %s is no number", key, exclusive);
    *given = a || json_is_number(b);
    *open = false;
    if (a) {
        *out = json_number_value(a);
        *open = json_is_true(b); /* before 2019 */
    }
    if (json_is_number(b) && (!a || sign * json_number_value(b) >= sign * *out)) {
        *out = json_number_value(b);
        *open = true;
    }
    return 0;
}

/* Whole numbers in [lo, hi]. */
static uint32_t integers(struct exprs *x, int64_t lo, int64_t hi)
{
    char a[DIGITS_MAX + 1], b[DIGITS_MAX + 1];
    uint32_t all = EX_NONE;

    if (lo < 0) {
        snprintf(a, sizeof(a), "%lld", hi < 0 ? -(long long)hi : 1);
        snprintf(b, sizeof(b), "%lld", -(long long)lo);
        all = ex_seq(x, ex_text(x, "-"), whole_between(x, a, b));
    }
    if (hi >= 0) {
        snprintf(a, sizeof(a), "%lld", lo > 0 ? (long long)lo : 0);
        snprintf(b, sizeof(b), "%lld", (long long)hi);
        all = ex_alt(x, all, whole_between(x, a, b));
    }
    return all;
}

static int reals(struct schema *c, double lo, double hi, bool open_lo, bool open_hi, uint32_t *out)
{
    static const struct bound zero = { .whole = "0" };
    struct bound a, b;
    struct exprs *x = c->x;

    if (lo > hi || (lo == hi && (open_lo || open_hi))) {
        *out = EX_NONE;
        return 0;
    }
    if (!bound_of(&a, lo, open_lo) || !bound_of(&b, hi, open_hi))
        return schema_fail(c, "bounds are supported down to 0.0001 and up to 16 digits");
    *out = EX_NONE;
    if (lo < 0) {
        struct bound top = zero;

        if (hi < 0)
            top = b;
        else
            top.open = hi == 0 && open_hi;
        *out = ex_seq(x, ex_text(x, "-"), between(x, &top, &a));
    }
    if (hi > 0 || (hi == 0 && !open_hi))
        *out = ex_alt(x, *out, between(x, lo < 0 ? &zero : &a, &b));
    return 0;
}

int schema_number(struct schema *c, const json_t *v, bool integer, uint32_t *out)
{
    static const double most = 9999999999999999 / 16 * 16; /* of 16 digits, and exact */
    const json_t *step = json_object_get(v, "multipleOf");
    double lo = -most, hi = most;
    bool open_lo, open_hi, has_lo, has_hi;

    if (read_bound(c, v, "minimum", "exclusiveMinimum", 1, &lo, &open_lo, &has_lo) ||
        read_bound(c, v, "maximum", "exclusiveMaximum", -1, &hi, &open_hi, &has_hi))
        return -1;
    if (step && json_number_value(step) != 1)
        return schema_fail(c, "multipleOf other than 1 is not supported");
    integer |= step != NULL;
    if (lo > most || hi < -most)
        return schema_fail(c, "bounds are supported up to 16 digits");
    if (lo < -most)
        lo = -most;
    if (hi > most)
        hi = most;
    if (integer) {
        double a = ceil(lo), b = floor(hi);

        a += open_lo && a == lo;
        b -= open_hi && b == hi;
        *out = a > b ? EX_NONE : integers(c->x, (int64_t)a, (int64_t)b);
        return 0;
    }
    if (!has_lo && !has_hi) {
        *out = json_any_number(&c->j);
        return 0;
    }
    return reals(c, lo, hi, open_lo, open_hi, out);
}
