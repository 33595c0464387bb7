/* matcher.h - how far a text has come in a grammar.
 *
 * The automaton is run as a set of stacks at once; sets are numbered states, their steps are
 * remembered, so that a byte that was seen before costs one look-up. What is remembered is bounded
 * and shared by all matchers of a grammar; it never changes a result. */
#ifndef PUNA_GRAMMAR_MATCHER_H
#define PUNA_GRAMMAR_MATCHER_H

#include "grammar/automaton.h"

struct states; /* of one automaton; not thread-safe */

enum {
    STATE_DEAD = 0,          /* nothing matches any more */
    STACK_DEPTH_MAX = 1024,  /* calls within each other; what nests deeper does not match */
    STATE_WIDTH_MAX = 32768, /* ways to read a text at once, and steps to find them */
};

/* The automaton is taken. room: bytes that states, and masks kept with them, may use before those
 * that no matcher is in are dropped. */
struct states *states_new(struct automaton *a, size_t room);
void states_free(struct states *s);
/* The state after one more byte. A text that can be read in more than STATE_WIDTH_MAX ways at once
 * is given up: dead. A state lives until states_trim. */
uint32_t states_step(struct states *s, uint32_t state, uint8_t byte);
/* The text may end here. */
bool states_accepts(const struct states *s, uint32_t state);
/* The only byte that may follow, or -1: none may, or more, or the text may also end. */
int states_forced(struct states *s, uint32_t state);
/* Whether a step was cut short at one of the limits above: then what was dead may have been so
 * because of that alone. */
bool states_cut(const struct states *s);
/* How many ways to go on it keeps: what a step from it may cost. */
size_t states_width(const struct states *s, uint32_t state);
/* Nothing may follow. */
bool states_final(const struct states *s, uint32_t state);

/* A place that survives states_trim. */
struct matcher {
    uint32_t state;
    struct matcher *next, **link; /* among those of the same states */
};
void matcher_begin(struct matcher *m, struct states *s);
void matcher_end(struct matcher *m); /* legal on a zeroed struct */

/* The mask kept with a state: n words, zeroed when it is new (*found false). */
uint64_t *states_mask(struct states *s, uint32_t state, size_t n, bool *found);
/* Whether there is one. */
bool states_has_mask(const struct states *s, uint32_t state);
/* When more than `room` is used, drops the states that no matcher is in. To be called when no other
 * state numbers are held. */
void states_trim(struct states *s);

#endif
