/* memory.h - what an engine takes, by the planner: asked before a cache is made, and after a run to
 * set the plan beside what was measured. */
#ifndef PUNA_ENGINE_MEMORY_H
#define PUNA_ENGINE_MEMORY_H

#include "engine/session.h"
#include "plan/plan.h"

/* g with a cache for `tokens` tokens in all and `want` rows of logits. */
void engine_plan(struct plan_use *u, const struct engine *g, size_t tokens, size_t want);
/* What of that has been touched so far (g->peak). */
void engine_plan_touched(struct plan_use *u, const struct engine *g, size_t tokens, size_t want);
/* The same for a run of `sequences` sequences of `tokens` each, passes of at most `rows` rows and
 * `lookups` tokens in all. */
void engine_plan_run(struct plan_use *u, const struct engine *g, size_t tokens, size_t sequences,
                     size_t rows, size_t lookups);
/* What of a cache for `tokens` tokens has been touched when `used` of them were, with passes of at
 * most `rows` rows and `want` rows of logits, and `lookups` tokens in all. */
void engine_plan_cache(struct plan_use *u, const struct engine *g, size_t tokens, size_t used,
                       size_t rows, size_t want, size_t lookups);
/* How many layers of g, whose context is a GPU's and whose cache has a type, wait in host memory
 * when the GPU has `have` bytes free and the host `host` (0 = unknown), as o asks for: 0 = all
 * weights fit. ERR_MEMORY with the numbers and what would help. */
int engine_offload(int64_t *away, const struct engine *g, const struct engine_opts *o, size_t have,
                   size_t host, struct err *e) MUST_USE;
/* Bytes that could still be had where g computes; 0 = unknown. */
size_t engine_available(const struct engine *g);
/* Whether the machine has room for it now. */
bool engine_fits(const struct engine *g, size_t tokens, size_t want);
/* Refuses what does not fit: ERR_MEMORY with the numbers and the nearest setting that does. */
int engine_admit(const struct engine *g, size_t tokens, size_t want, struct err *e) MUST_USE;

#endif
