/* ahead.h - a thread that makes masks while the model computes: the place that a token leads to is
 * known before the pass whose logits the mask is for. It changes when they are made, not what they
 * are. */
#ifndef PUNA_ENGINE_AHEAD_H
#define PUNA_ENGINE_AHEAD_H

#include "grammar/grammar.h"

struct ahead;

/* The thread is started for the first mask. most: guides at a time. */
struct ahead *ahead_new(size_t most);
void ahead_free(struct ahead *a); /* legal on NULL; waits */
/* Makes p's next mask ready; p stays as it is until ahead_wait. */
void ahead_add(struct ahead *a, struct guide *p);
/* Nothing is being made any more. */
void ahead_wait(struct ahead *a);

#endif
