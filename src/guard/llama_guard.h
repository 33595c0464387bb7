/* llama_guard.h - Llama Guard 3 as a judge of one turn: the verdict it writes, and how likely it
 * was. (Meta's model card: the probability of the first token is the score; PurpleLlama.) */
#ifndef PUNA_GUARD_LLAMA_GUARD_H
#define PUNA_GUARD_LLAMA_GUARD_H

#include <jansson.h>

#include "engine/sched.h"

struct llama_guard;

struct guard_verdict {
    bool unsafe;
    double p;        /* of "unsafe" among all first tokens */
    double share;    /* of "unsafe" among "safe" and "unsafe" */
    char codes[128]; /* what it violates, as the guard wrote it: "S1,S10"; "" = it named none */
    size_t n_prompt; /* tokens */
    size_t n_cached; /* of them, that were in the guard's cache already */
};

/* threshold: unsafe when p is at least this; below 0 = when the guard's own words say so. ctx:
 * tokens of the cache, over all verdicts in the making; 0 = the model's context up to 8192. Refuses
 * a tokenizer that does not write "safe" and "unsafe" as one token each. The engine is borrowed; it
 * may compute beside another (engine_opts.beside). */
int llama_guard_open(struct llama_guard **out, struct engine *g, size_t ctx, double threshold,
                     struct err *e) MUST_USE;
void llama_guard_close(struct llama_guard *j);
struct sched *llama_guard_sched(const struct llama_guard *j);

/* v, or e when there is none: an answer that is neither "safe" nor "unsafe" is an error, never a
 * verdict. Called once, on the guard's thread, which it must not hold up. */
typedef void guard_verdict_fn(void *arg, const struct guard_verdict *v, const struct err *e);
/* Asks about the last of request's "messages" (chat format llama-guard3, docs/prompt.md). Any
 * thread; many at a time share the guard's cache: of a text that has grown only what is new is
 * computed. On failure fn is not called. */
int llama_guard_ask(struct llama_guard *j, const json_t *request, guard_verdict_fn *fn, void *arg,
                    struct err *e) MUST_USE;
/* The same, waiting. */
int llama_guard_judge(struct llama_guard *j, const json_t *request, struct guard_verdict *out,
                      struct err *e) MUST_USE;

/* Reads what a guard wrote: 1 = unsafe, its codes in *v; 0 = safe; -1 = neither. */
int llama_guard_parse(const char *text, struct guard_verdict *v);

#endif
