/* expr.h - what a grammar is before it is compiled: named rules whose bodies are expressions over
 * bytes. Every notation (regular expression, JSON schema, GBNF, ...) is read into this.
 *
 * Expressions are numbers. Building cannot fail: what passes the limits sets `full`, and compiling
 * then refuses. Long sequences and alternatives are built from the left,
 *     all = ex_seq(x, all, next);
 * so that whoever walks them recurses no deeper than the text was nested. */
#ifndef PUNA_GRAMMAR_EXPR_H
#define PUNA_GRAMMAR_EXPR_H

#include "base/buf.h"

enum {
    EXPR_MAX = 1 << 18,  /* expressions of a grammar */
    RULES_MAX = 1 << 16, /* and rules */
    DEPTH_MAX = 64,      /* nesting that a parser goes along with */
    EX_NONE = 0,         /* matches nothing */
    EX_EMPTY = 1,        /* matches the empty text */
};

enum expr_kind { X_NONE, X_EMPTY, X_BYTES, X_CHARS, X_TEXT, X_SEQ, X_ALT, X_REPEAT, X_RULE };

struct expr {
    enum expr_kind kind;
    uint32_t a, b;    /* SEQ, ALT: both sides; BYTES: first and last byte; CHARS: first of range[]
                         and count; TEXT: offset in text and length; REPEAT, RULE: a = what */
    int32_t min, max; /* REPEAT; max -1 = no end */
};

struct chars {
    int32_t lo, hi; /* code points, both included */
};

struct rule {
    char *name;    /* owned; NULL = of our own making */
    uint32_t body; /* EX_NONE until it is set */
};

struct exprs {
    struct expr *expr;
    size_t n, cap;
    struct chars *range;
    size_t n_range, cap_range;
    struct rule *rule; /* 0 is the root */
    size_t n_rules, cap_rules;
    struct buf text;
    bool full;
};

void exprs_init(struct exprs *x);
void exprs_release(struct exprs *x); /* legal on a zeroed struct */

uint32_t ex_byte(struct exprs *x, uint8_t lo, uint8_t hi);
uint32_t ex_text(struct exprs *x, const char *s);
uint32_t ex_textn(struct exprs *x, const char *s, size_t n);
/* One character of a set, as UTF-8. Ranges are sorted, disjoint and free of surrogates
 * (charset_tidy sees to all that). */
uint32_t ex_chars(struct exprs *x, const struct chars *set, size_t n);
uint32_t ex_seq(struct exprs *x, uint32_t a, uint32_t b);
uint32_t ex_alt(struct exprs *x, uint32_t a, uint32_t b);
uint32_t ex_repeat(struct exprs *x, uint32_t a, int32_t min, int32_t max);
uint32_t ex_opt(struct exprs *x, uint32_t a);
/* A new rule without a body yet; name may be NULL. */
uint32_t ex_new_rule(struct exprs *x, const char *name, size_t n);
uint32_t ex_rule(struct exprs *x, uint32_t rule);

/* A set of characters in the making. */
struct charset {
    struct chars *r; /* owned */
    size_t n, cap;
};
void charset_add(struct charset *s, int32_t lo, int32_t hi);
/* Sorted, merged, without surrogates; with `not` the complement. */
void charset_tidy(struct charset *s, bool not );
/* Takes the characters lo..hi out of a tidy set. */
void charset_cut(struct charset *s, int32_t lo, int32_t hi);
void charset_release(struct charset *s);
uint32_t ex_charset(struct exprs *x, const struct charset *s);

#endif
