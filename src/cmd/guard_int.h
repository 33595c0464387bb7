/* guard_int.h - what the files of `puna guard` share. */
#ifndef PUNA_CMD_GUARD_INT_H
#define PUNA_CMD_GUARD_INT_H

#include <jansson.h>

#include "base/buf.h"
#include "cmd/opt.h"
#include "engine/session.h"

enum { GUARD_UNSAFE = 3, GUARD_TEXT_MAX = 64 << 20 };

struct guard_cfg {
    const char *model, *text, *answer;
    const char *categories, *exclude;
    double threshold, temperature;
    int64_t ctx, threads;
    const char *dtype, *isa, *device;
    bool json, third_party;
};

/* The answer to one request, or NULL with the error. */
typedef json_t *guard_answer(void *arg, json_t *request, struct err *e);
/* Every line of standard input is answered by one line: 0, 1 when one was an error, -1. */
int guard_lines(guard_answer *answer, void *arg, struct err *e) MUST_USE;
/* Standard input as a text; one line end at its end is dropped. */
int guard_stdin(struct buf *out, struct err *e) MUST_USE;

/* guard_prompt.c: Prompt Guard in the folder dir. */
int guard_prompt(const struct guard_cfg *c, const char *dir, const struct engine_opts *o,
                 struct err *e) MUST_USE;

#endif
