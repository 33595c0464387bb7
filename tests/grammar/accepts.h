/* accepts.h - does a grammar match a text? For tests of notations. */
#ifndef PUNA_TESTS_GRAMMAR_ACCEPTS_H
#define PUNA_TESTS_GRAMMAR_ACCEPTS_H

#include "support.h"

#include "grammar/matcher.h"

/* Releases *x. */
static inline struct states *states_of(struct exprs *x)
{
    struct automaton a;
    struct err e;

    OK(automaton_new(&a, x, &e), e);
    exprs_release(x);
    return states_new(&a, 1 << 20);
}

/* 1 = matches, 0 = the beginning of one that does, -1 = neither. */
static inline int matches(struct states *s, const char *text)
{
    struct matcher m;
    uint32_t at;

    matcher_begin(&m, s);
    at = m.state;
    for (; *text; text++)
        at = states_step(s, at, (uint8_t)*text);
    matcher_end(&m);
    return at == STATE_DEAD ? -1 : states_accepts(s, at);
}

#endif
