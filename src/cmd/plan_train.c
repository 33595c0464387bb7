/* plan_train.c - `puna plan --train` and `--post`. */
#include <stdio.h>
#include <string.h>

#include "cmd/plan_int.h"

static const char *const methods[] = { "full", "lora", "qlora" };
static const char *const optims[] = { "adamw", "adamw8", "adamw-bf16", "lean" };

static int index_of(const char *const *list, size_t n, const char *s)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(list[i], s))
            return (int)i;
    return -1;
}

struct part {
    const char *name;
    size_t n;
};
enum { PARTS = 11 };

static void parts_of(struct part p[PARTS], const struct plan_train_use *u)
{
    const struct part all[PARTS] = {
        { "weights", u->weights },         { "adapters", u->adapters },
        { "gradients", u->gradients },     { "master_weights", u->master },
        { "moments", u->moments },         { "checkpoints", u->checkpoints },
        { "activations", u->activations }, { "logits", u->logits },
        { "scratch", u->scratch },         { "gathered", u->gathered },
        { "runtime", u->runtime },
    };

    memcpy(p, all, sizeof(all));
}

static void train_json(json_t *out, const struct plan_cfg *c, const struct plan_train_query *q,
                       const struct plan_train_use *u, size_t longest, size_t most, bool fits)
{
    struct part p[PARTS];

    parts_of(p, u);
    for (size_t i = 0; i < PARTS; i++)
        json_object_set_new(out, p[i].name, json_integer((json_int_t)p[i].n));
    json_object_set_new(out, "total", json_integer((json_int_t)u->total));
    json_object_set_new(out, "fits", json_boolean(fits));
    json_object_set_new(out, "longest_ctx", json_integer((json_int_t)longest));
    json_object_set_new(out, "most_sequences", json_integer((json_int_t)most));
    json_object_update_new(
        out, json_pack("{s:s, s:s, s:I, s:I, s:i, s:i, s:b, s:b, s:I}", "train", methods[q->method],
                       "optim", c->optim, "ctx", (json_int_t)q->seq, "batch", (json_int_t)q->batch,
                       "zero", q->zero, "devices", q->devices, "recompute", q->recompute,
                       "whole_logits", q->whole_logits, "params", (json_int_t)q->w->params));
    if (q->method != TRAIN_FULL)
        json_object_update_new(
            out, json_pack("{s:I, s:s, s:I}", "rank", (json_int_t)q->rank, "targets", c->targets,
                           "adapter_params",
                           (json_int_t)plan_lora_params(q->hp, q->rank, q->attention_only)));
}

static void train_print(const char *name, const struct plan_train_query *q,
                        const struct plan_train_use *u, size_t longest, size_t most, bool fits,
                        const struct plan_device *d)
{
    struct part p[PARTS];

    printf("%s: %.2f billion parameters, %s training on %s", name, (double)q->w->params / 1e9,
           methods[q->method], d->name);
    if (q->devices > 1)
        printf(", ZeRO stage %d", q->zero);
    printf("\n%zu sequence%s of %zu tokens on each device", q->batch, q->batch == 1 ? "" : "s",
           q->seq);
    if (q->method != TRAIN_FULL)
        printf(", rank %zu: %.1f million parameters", q->rank,
               (double)plan_lora_params(q->hp, q->rank, q->attention_only) / 1e6);
    printf("\n\n");
    parts_of(p, u);
    for (size_t i = 0; i < PARTS; i++) {
        if (!p[i].n)
            continue;
        printf("  %-14s %12s\n", p[i].name, size_text(p[i].n).s);
    }
    printf("  %-14s %12s   of %s%s: %s\n\n", "total", size_text(u->total).s, size_text(d->memory).s,
           d->count > 1 ? " on each device" : "", fits ? "fits" : "does not fit");
    printf("  longest sequences %zu tokens, %zu at a time\n", longest, q->batch);
    printf("  most sequences    %zu of %zu tokens\n", most, q->seq);
}

/* The nearest settings that fit. */
static void train_hint(char hint[160], const struct plan_train_query *q,
                       const struct plan_device *d, size_t longest, size_t most)
{
    struct plan_train_query at = *q;
    struct plan_weights base;
    struct plan_train_use u;

    if (longest || most) {
        size_t n = 0;

        if (longest)
            n = (size_t)snprintf(hint, 160, "--ctx %zu fits", longest);
        if (most)
            snprintf(hint + n, 160 - n, "%s--batch %zu fits", n ? "; " : "", most);
        return;
    }
    size_t n = 0;

    at.recompute = true;
    at.zero = 3;
    for (at.devices = q->devices > 1 ? q->devices : 2; !n && at.devices <= 4096; at.devices *= 2) {
        plan_train(&u, &at);
        if (u.total <= d->memory)
            n = (size_t)snprintf(hint, 160, "%d such devices with --zero 3 hold it", at.devices);
    }
    at = *q;
    at.w = &base;
    at.method = TRAIN_QLORA;
    at.recompute = true;
    plan_weights_scheme(&base, q->hp, SCHEME_NF4);
    plan_train(&u, &at);
    if (q->method != TRAIN_QLORA && u.total <= d->memory)
        snprintf(hint + n, 160 - n, "%s--train qlora fits", n ? "; " : "");
}

int plan_training(const struct plan_cfg *c, const char *name, const struct hparams *hp,
                  struct plan_weights *w, bool own, const struct plan_device *d, json_t *out,
                  struct err *e)
{
    struct plan_train_query q = { .hp = hp,
                                  .w = w,
                                  .rank = (size_t)c->rank,
                                  .seq = opt_given(c, "ctx") ? (size_t)c->ctx : 1024,
                                  .batch = (size_t)c->batch,
                                  .recompute = c->recompute,
                                  .whole_logits = c->whole_logits,
                                  .zero = (int)c->zero,
                                  .devices = d->count };
    struct plan_train_use u;

    q.method = (enum train_method)index_of(methods, ARRAY_LEN(methods), c->train);
    q.optim = (enum train_optim)index_of(optims, ARRAY_LEN(optims), c->optim);
    q.attention_only = !strcmp(c->targets, "attention");
    if (q.seq > (size_t)hp->ctx)
        return err_set(e, ERR_USAGE, "sequences of %zu tokens are longer than the model's %lld",
                       q.seq, (long long)hp->ctx);
    if (q.method == TRAIN_FULL && c->enc)
        return err_set(e, ERR_USAGE, "--enc %s: full training is planned in bf16", c->enc);
    if (q.method == TRAIN_FULL || (q.method == TRAIN_LORA && !own))
        plan_weights_scheme(w, hp, SCHEME_BF16);
    else if (q.method == TRAIN_QLORA && !own)
        plan_weights_scheme(w, hp, SCHEME_NF4);
    plan_train(&u, &q);
    const bool fits = u.total <= d->memory;
    const size_t longest = plan_train_longest(&q, d->memory), most = plan_train_most(&q, d->memory);

    if (c->json)
        train_json(out, c, &q, &u, longest, most, fits);
    else
        train_print(name, &q, &u, longest, most, fits, d);
    if (fits)
        return 0;
    char hint[160] = "no change of these settings makes it fit";

    train_hint(hint, &q, d, longest, most);
    return err_set(e, ERR_MEMORY, "%s training of %s needs %s%s, %s has %s; %s", c->train, name,
                   size_text(u.total).s, d->count > 1 ? " on each device" : "", d->name,
                   size_text(d->memory).s, hint);
}

void plan_post_tables(const struct plan_cfg *c, json_t *out)
{
    static const char *const title[] = { "weights, GB", "KV cache of one sequence, GiB",
                                         "training, GB" };
    json_t *list = json_array();
    size_t n;
    const struct post_row *r = plan_post(&n);

    json_object_set_new(out, "post", list);
    for (size_t i = 0; i < n; i++) {
        double rule, takes;

        plan_post_row(&r[i], &rule, &takes);
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:s?}", "table",
                                              title[r[i].table], "model", r[i].model, "column",
                                              r[i].column, "published", r[i].published, "rule",
                                              rule, "takes", takes, "why", r[i].why));
        if (c->json)
            continue;
        if (i == 0 || r[i].table != r[i - 1].table)
            printf("%s%s\n  %-5s %-6s %10s %10s %10s\n", i ? "\n" : "", title[r[i].table], "MODEL",
                   "", "PUBLISHED", "BY RULE", "TAKES");
        printf("  %-5s %-6s %10.5g %10.5g %10.5g  %s\n", r[i].model, r[i].column, r[i].published,
               rule, takes, r[i].why ? r[i].why : "");
    }
}
