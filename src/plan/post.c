/* post.c - the release post's memory tables beside the rule that gives its figures and beside what
 * the same thing takes. */
#include <stdlib.h>
#include <string.h>

#include "plan/plan.h"

static const char ends[] = "embedding and head stay in 16 bits";
static const char ends_and_scales[] = "embedding, head and scales are not in half a byte";
static const char heads_16[] = "16 key/value heads of the first upload; the model has 8";
static const char no_master[] = "8 bytes a parameter: no float32 master copy, no activations";

/* Hugging Face, "Llama 3.1 - 405B, 70B & 8B with multilinguality and long context", 23 July 2024.
 * Why a row is off; NULL where it is not. */
static const struct post_row rows[] = {
    { POST_WEIGHTS, "8b", "fp16", 16, NULL },
    { POST_WEIGHTS, "8b", "fp8", 8, ends },
    { POST_WEIGHTS, "8b", "int4", 4, ends_and_scales },
    { POST_WEIGHTS, "70b", "fp16", 140, NULL },
    { POST_WEIGHTS, "70b", "fp8", 70, ends },
    { POST_WEIGHTS, "70b", "int4", 35, ends_and_scales },
    { POST_WEIGHTS, "405b", "fp16", 810, NULL },
    { POST_WEIGHTS, "405b", "fp8", 405, "Meta's file has attention and two layers in 16 bits" },
    { POST_WEIGHTS, "405b", "int4", 203, ends_and_scales },
    { POST_CACHE, "8b", "1k", 0.125, NULL },
    { POST_CACHE, "8b", "16k", 1.95, NULL },
    { POST_CACHE, "8b", "128k", 15.62, NULL },
    { POST_CACHE, "70b", "1k", 0.313, NULL },
    { POST_CACHE, "70b", "16k", 4.88, NULL },
    { POST_CACHE, "70b", "128k", 39.06, NULL },
    { POST_CACHE, "405b", "1k", 0.984, heads_16 },
    { POST_CACHE, "405b", "16k", 15.38, heads_16 },
    { POST_CACHE, "405b", "128k", 123.05, heads_16 },
    { POST_TRAINING, "8b", "full", 60, no_master },
    { POST_TRAINING, "8b", "lora", 16, "the weights alone; no activations" },
    { POST_TRAINING, "8b", "qlora", 6, "the weights alone; no activations" },
    { POST_TRAINING, "70b", "full", 500,
      "by its own rule 526 GiB; no master copy, no activations" },
    { POST_TRAINING, "70b", "lora", 160, "leaves 18 GB for activations" },
    { POST_TRAINING, "70b", "qlora", 48, "leaves 4 GB for activations" },
    { POST_TRAINING, "405b", "full", 3250, no_master },
    { POST_TRAINING, "405b", "lora", 950, "leaves 135 GB for activations" },
    { POST_TRAINING, "405b", "qlora", 250, "leaves 12 GB for activations" },
};

const struct post_row *plan_post(size_t *n)
{
    *n = ARRAY_LEN(rows);
    return rows;
}

static void weights_row(const struct post_row *r, double *rule, double *takes)
{
    const bool fp8 = !strcmp(r->column, "fp8"), fp16 = !strcmp(r->column, "fp16");
    const struct hparams *hp = &plan_model_find(r->model)->hp;
    struct plan_weights w;

    *rule = strtod(r->model, NULL) * (fp16 ? 2 : fp8 ? 1 : 0.5);
    plan_weights_scheme(&w, hp,
                        fp16                        ? SCHEME_BF16
                        : !fp8                      ? SCHEME_INT4
                        : !strcmp(r->model, "405b") ? SCHEME_FP8_META
                                                    : SCHEME_FP8);
    *takes = (double)plan_weights_total(&w) / 1e9;
}

/* GiB; its 1k is 1024 tokens, its 16k and 128k are thousands */
static void cache_row(const struct post_row *r, double *rule, double *takes)
{
    const double tokens = strcmp(r->column, "1k") ? 1000 * strtod(r->column, NULL) : 1024;
    struct plan_query q = { .hp = &plan_model_find(r->model)->hp, .kv = ENC_BF16 };

    *takes = (double)plan_kv_per_token(&q) * tokens / (1 << 30);
    if (!strcmp(r->model, "405b"))
        q.hp = &plan_model_find("405b-16kv")->hp;
    *rule = (double)plan_kv_per_token(&q) * tokens / (1 << 30);
}

/* Its rule: full 8 bytes a parameter (the 8B and 70B in GiB), LoRA and QLoRA base weights and the
 * states of rank 16 in attention. What it takes: one sequence of 1024 tokens, as its command has
 * them, activations recomputed. */
static void training_row(const struct post_row *r, double *rule, double *takes)
{
    const bool full = !strcmp(r->column, "full"), qlora = !strcmp(r->column, "qlora");
    const struct hparams *hp = &plan_model_find(r->model)->hp;
    struct plan_weights w;
    struct plan_train_use u;
    const struct plan_train_query q = { .hp = hp,
                                        .w = &w,
                                        .method = full    ? TRAIN_FULL
                                                  : qlora ? TRAIN_QLORA
                                                          : TRAIN_LORA,
                                        .optim = OPTIM_ADAMW,
                                        .rank = 16,
                                        .attention_only = true,
                                        .seq = 1024,
                                        .batch = 1,
                                        .devices = 1,
                                        .recompute = true };

    plan_weights_scheme(&w, hp, qlora ? SCHEME_NF4 : SCHEME_BF16);
    plan_train(&u, &q);
    *takes = (double)(u.total - u.runtime) / 1e9;
    if (full)
        *rule = 8 * (double)w.params / (strcmp(r->model, "405b") ? 1 << 30 : 1e9);
    else
        *rule =
            ((double)plan_weights_total(&w) + 16 * (double)plan_lora_params(hp, 16, true)) / 1e9;
}

void plan_post_row(const struct post_row *r, double *rule, double *takes)
{
    switch (r->table) {
    case POST_WEIGHTS:
        weights_row(r, rule, takes);
        break;
    case POST_CACHE:
        cache_row(r, rule, takes);
        break;
    case POST_TRAINING:
        training_row(r, rule, takes);
        break;
    }
}
