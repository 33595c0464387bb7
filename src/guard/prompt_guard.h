/* prompt_guard.h - Prompt Guard: how likely a text is an attack on the model that reads it.
 *
 * Long text is read in windows of 510 tokens that overlap by 126, and the worst of them counts.
 * Text whose spaces were set to hide what it says is also scored as its tokens spell it without
 * them (meta-llama/llama-models#50), and the worse counts. */
#ifndef PUNA_GUARD_PROMPT_GUARD_H
#define PUNA_GUARD_PROMPT_GUARD_H

#include "base/buf.h"
#include "base/turn.h"
#include "model/deberta.h"

struct prompt_guard;

struct prompt_scores {
    double p[DEBERTA_LABELS]; /* of the window that is likeliest an attack */
    double jailbreak;         /* of a user's text: the last label */
    double injection;         /* of a third party's, as of tools: every label but the first */
    size_t windows;
};

/* Whether the folder holds such a model, by its config.json. */
bool prompt_guard_is(const char *dir);
/* ctx is borrowed, and so is turn: where others compute on ctx too, it is taken for every window;
 * NULL = nobody does. */
int prompt_guard_open(struct prompt_guard **out, struct ctx *c, struct turn *turn, const char *dir,
                      struct err *e) MUST_USE;
void prompt_guard_close(struct prompt_guard *g);
const struct deberta *prompt_guard_model(const struct prompt_guard *g);
/* The probabilities are the softmax of the logits over temperature. */
int prompt_guard_score(struct prompt_guard *g, const char *text, size_t n, double temperature,
                       struct prompt_scores *out, struct err *e) MUST_USE;
/* text without the spaces that its tokens do not need, appended; false = it stays as it is. */
bool prompt_guard_unspace(const struct prompt_guard *g, const char *text, size_t n,
                          struct buf *out);

#endif
