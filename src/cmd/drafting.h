/* drafting.h - the options --draft-model and --speculate of `puna run` and `puna serve`. */
#ifndef PUNA_CMD_DRAFTING_H
#define PUNA_CMD_DRAFTING_H

#include "cmd/opt.h"
#include "engine/session.h"

/* In the struct of a command's options. */
#define DRAFTING_FIELDS                                                                            \
    const char *draft_model;                                                                       \
    int64_t speculate, draft_min

struct drafting {
    DRAFTING_FIELDS;
};
#define DRAFTING(c) ((struct drafting){ (c)->draft_model, (c)->speculate, (c)->draft_min })

/* Their rows in its table; `alone`: what --speculate does without a draft model. */
#define DRAFTING_OPTS(strukt, alone)                                                               \
    OPT(STR, strukt, draft_model, "-md,--model-draft,--speculative-model", "MODEL", NULL,          \
        "smaller model of the same vocabulary that guesses ahead; answers stay the same"),         \
        OPT_RANGE(INT, strukt, speculate,                                                          \
                  "--draft-max,--draft,--draft-n,--num-speculative-tokens", "N", "0", 0, 8,        \
                  "tokens guessed ahead and checked at once" alone "; with --draft-model 0 is 4"), \
        OPT_RANGE(INT, strukt, draft_min, "--draft-n-min", "N", "0", 0, 8,                         \
                  "guess at least so many, also where it does not pay", .rare = true)

/* The draft model beside g, for so many answers at a time; *out stays NULL when there is none.
 * *most: tokens to guess at a time. */
int drafting_open(struct engine **out, const struct drafting *c, struct engine *g, size_t answers,
                  size_t *most, struct err *e) MUST_USE;

#endif
