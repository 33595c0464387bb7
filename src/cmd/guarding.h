/* guarding.h - the options --guard and --prompt-guard of `puna run` and `puna serve`. */
#ifndef PUNA_CMD_GUARDING_H
#define PUNA_CMD_GUARDING_H

#include "cmd/opt.h"
#include "guard/guards.h"

/* In the struct of a command's options. */
#define GUARDING_FIELDS                                                                            \
    const char *guard, *prompt_guard;                                                              \
    bool guard_input, guard_output;                                                                \
    double guard_threshold, prompt_guard_threshold;                                                \
    int64_t guard_ctx

struct guarding {
    GUARDING_FIELDS;
};
#define GUARDING(c)                                                                                \
    ((struct guarding){ (c)->guard, (c)->prompt_guard, (c)->guard_input, (c)->guard_output,        \
                        (c)->guard_threshold, (c)->prompt_guard_threshold, (c)->guard_ctx })

/* Their rows in its table. */
#define GUARDING_OPTS(strukt)                                                                      \
    OPT(STR, strukt, guard, NULL, "MODEL", NULL,                                                   \
        "Llama Guard that judges turns: inputs before the model sees them, answers as they come"), \
        OPT(BOOL, strukt, guard_input, NULL, NULL, "false",                                        \
            "judge inputs alone; neither this nor --guard-output: both"),                          \
        OPT(BOOL, strukt, guard_output, NULL, NULL, "false", "judge answers alone"),               \
        OPT_RANGE(NUM, strukt, guard_threshold, NULL, "P", "-1", -1, 1,                            \
                  "unsafe from this probability on; below 0: when Llama Guard says so"),           \
        OPT_RANGE(INT, strukt, guard_ctx, NULL, "N", "0", 0, 1e9,                                  \
                  "tokens of Llama Guard's cache; 0 = its context up to 8192"),                    \
        OPT(STR, strukt, prompt_guard, NULL, "MODEL", NULL,                                        \
            "Prompt Guard that reads what users write and what tools bring"),                      \
        OPT_RANGE(NUM, strukt, prompt_guard_threshold, NULL, "P", "0.5", 0, 1,                     \
                  "an attack from this probability on")

/* *out stays NULL when there is no guard. */
int guarding_open(struct guards **out, const struct guarding *c, struct engine *beside,
                  struct err *e) MUST_USE;

#endif
