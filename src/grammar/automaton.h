/* automaton.h - a compiled grammar: a pushdown automaton over bytes.
 *
 * A node either takes a byte of a range and goes on to `next`, or goes on to two places at once, or
 * calls a rule and goes on to `next` when that has ended. Node 0 ends a rule. Calls in the last
 * place push nothing, so lists written as recursion need no depth. */
#ifndef PUNA_GRAMMAR_AUTOMATON_H
#define PUNA_GRAMMAR_AUTOMATON_H

#include "grammar/expr.h"

enum node_kind { NODE_END, NODE_BYTE, NODE_FORK, NODE_CALL };

enum { NODES_MAX = 1 << 18 };

struct node {
    uint8_t kind, lo, hi;
    bool ends;            /* some text leads from here to the end of the rule */
    uint32_t next, other; /* FORK: the other branch; CALL: the first node of the rule */
};

struct automaton {
    struct node *node; /* owned; [0] is NODE_END */
    size_t n;
    uint32_t start;
    uint8_t class_of[256]; /* bytes that no node tells apart share a class */
    uint8_t a_byte[256];   /* of each class, its first byte */
    size_t n_classes;
};

/* Compiles x, whose rule 0 is the root. Refuses what is too large, rules without an end, rules that
 * call themselves before they take a byte, and a root that matches nothing. */
int automaton_new(struct automaton *out, const struct exprs *x, struct err *e) MUST_USE;
void automaton_release(struct automaton *a); /* legal on a zeroed struct */

#endif
