/* judge.h - the guards of a server: threads of their own ask them, so that nothing waits. */
#ifndef PUNA_SERVER_JUDGE_H
#define PUNA_SERVER_JUDGE_H

#include "guard/guards.h"
#include "server/http.h"

struct gen;
struct judge;
struct judge *judge_new(struct server *s);
void judge_free(struct judge *j); /* legal on NULL; what is left is not asked any more */

/* Runs work(arg) on one of the guards' threads, then done(c, arg) on the server's. The call lives
 * until then; nobody may be listening any more. */
void judge_ask(struct call *c, void (*work)(void *arg), void (*done)(struct call *c, void *arg),
               void *arg);
/* Before the route's handler: true = the call's input is being judged and the handler follows, with
 * c->refusal when it is no good. Keeps what guards of answers read besides in c->talk. */
bool judge_input(struct call *c);

/* Notes in a choice of OpenAI's form that a guard has cut it, as Azure's API does:
 * content_filter_results = {"llama_guard": {"filtered", "stage", "categories", "probability"}}.
 * Nothing when none has. */
void judge_note(const struct gen *g, json_t *choice);
/* The same as an error. False: nothing was cut. */
bool judge_error(const struct gen *g, struct err *e) MUST_USE;

#endif
