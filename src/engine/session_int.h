/* session_int.h - what generate() and a session share: guesses and their check. */
#ifndef PUNA_ENGINE_SESSION_INT_H
#define PUNA_ENGINE_SESSION_INT_H

#include "engine/session.h"

/* What may follow `all`, of which the cache holds all but the last token: ids in out [MAX_GUESS];
 * returns how many. 0 without a drafter. */
size_t session_guess(struct session *s, const struct ids *all, const struct gen_request *r,
                     int32_t *out);
/* Evaluates `last` and the n guesses behind it. *logits: [n + 1][V] of each, owned by the session
 * until its next call; NULL: those of `last` stay on a device, which is to be asked about them and
 * may still compute them. The cache then holds the guesses: session_cut what proves wrong. */
int session_check(struct session *s, int32_t last, const int32_t *guess, size_t n,
                  const float **logits, struct err *e) MUST_USE;
/* What session_check left on a device, [V], to the host. */
int session_fetch(struct session *s, const float **logits, struct err *e) MUST_USE;
/* How many of them were right. */
void session_noted(struct session *s, size_t guessed, size_t right);

#endif
