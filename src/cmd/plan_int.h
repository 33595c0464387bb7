/* plan_int.h - the parts of `puna plan`. */
#ifndef PUNA_CMD_PLAN_INT_H
#define PUNA_CMD_PLAN_INT_H

#include <jansson.h>

#include "cmd/opt.h"
#include "plan/plan.h"

struct plan_cfg {
    const char *model, *device, *enc, *kv_dtype, *dtype, *train, *optim, *targets;
    int64_t ctx, batch, tp, pp, chunk, threads, rank, zero;
    double bandwidth, memory;
    bool recompute, whole_logits, post, offload, json;
};

struct size_text {
    char s[24];
};
struct size_text size_text(size_t n); /* "14.96 GiB" */

/* Fills w as the method's base has it and reports into out or on stdout. */
int plan_training(const struct plan_cfg *c, const char *name, const struct hparams *hp,
                  struct plan_weights *w, bool own, const struct plan_device *d, json_t *out,
                  struct err *e) MUST_USE;
/* The release post's tables. */
void plan_post_tables(const struct plan_cfg *c, json_t *out);

#endif
