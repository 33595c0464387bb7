/* train_int.h - what `puna sft`, `puna dpo` and `puna kto` share: options under TRL's names, and
 * the run. */
#ifndef PUNA_CMD_TRAIN_INT_H
#define PUNA_CMD_TRAIN_INT_H

#include "cmd/common.h"
#include "cmd/opt.h"
#include "train/run.h"

struct train_opts {
    const char *model, *model_name_or_path;
    const char *train_file, *eval_file, *output_dir, *resume_from_checkpoint, *adapter_init;
    const char *dataset_text_field, *chat_format, *lr_scheduler_type, *lr_scheduler_kwargs, *dtype,
        *device, *isa, *pin;
    const char *run_name, *optim, *loss_type, *fp8_products, *dump_gradients, *dataset_name;
    const char *bnb_4bit_quant_type;
    const char *attn_implementation, *bnb_4bit_quant_storage, *bnb_4bit_compute_dtype;
    const char *dataset_train_split, *dataset_num_proc, *dataloader_num_workers, *ddp_timeout;
    struct opt_list lora_target_modules, lora_modules_to_save, report_to;
    bool use_dora, stochastic_rounding;
    double neftune_noise_alpha, early_stopping_threshold;
    bool load_best_model_at_end;
    int64_t early_stopping_patience;
    bool use_peft, load_in_4bit, load_in_8bit, use_bnb_nested_quant, use_rslora, decay_norms;
    bool gradient_checkpointing, shuffle, packing, overwrite_output_dir, do_train;
    bool trust_remote_code, tf32, torch_compile, group_by_length, save_safetensors;
    bool assistant_only_loss, completion_only_loss, bf16, quiet;
    int64_t lora_r, per_device_train_batch_size, per_device_eval_batch_size;
    int64_t gradient_accumulation_steps, max_steps, max_length, warmup_steps, logging_steps;
    int64_t save_steps, save_total_limit, eval_steps, seed, threads;
    double lora_alpha, lora_dropout, learning_rate, weight_decay, adam_beta1, adam_beta2;
    double eval_split, adam_epsilon, max_grad_norm, num_train_epochs, warmup_ratio;
    double beta, label_smoothing, label_smoothing_factor, simpo_gamma, desirable_weight,
        undesirable_weight;
};

#define TRAIN_OPT(kind, field, alias, arg, def, help, ...)                                         \
    OPT(kind, struct train_opts, field, alias, arg, def, help, __VA_ARGS__)
#define TRAIN_RANGE(kind, field, alias, arg, def, min, max, help, ...)                             \
    OPT_RANGE(kind, struct train_opts, field, alias, arg, def, min, max, help, __VA_ARGS__)
/* Accepted without effect; train_common.c says why. */
#define TRAIN_IDLE(kind, field, arg)                                                               \
    TRAIN_OPT(kind, field, NULL, arg, NULL, "accepted, has no effect here", .rare = true)

/* lr: the default learning rate */
#define TRAIN_OPTS(lr)                                                                             \
    TRAIN_OPT(ARG, model, NULL, "MODEL", "", "model folder, GGUF file or short name"),             \
        TRAIN_OPT(STR, model_name_or_path, "--model-name,--model", "MODEL", NULL,                  \
                  "the model, as TRL writes it"),                                                  \
        TRAIN_OPT(STR, train_file, NULL, "FILE", NULL,                                             \
                  "rows to train on: JSON lines, a JSON array or CSV"),                            \
        TRAIN_OPT(STR, dataset_name, NULL, "NAME", NULL,                                           \
                  "the same by name: a file, or a folder with train.jsonl, here or in the cache"), \
        TRAIN_OPT(STR, eval_file, NULL, "FILE", NULL, "rows held out"),                            \
        TRAIN_RANGE(NUM, eval_split, NULL, "X", "0", 0, 0.9,                                       \
                    "in place of --eval-file: share of the rows"),                                 \
        TRAIN_RANGE(INT, eval_steps, NULL, "N", "0", 0, 1e12,                                      \
                    "evaluate every N steps (0 = at the end)"),                                    \
        TRAIN_OPT(STR, output_dir, "-o", "DIR", NULL, "folder of the result and its checkpoints"), \
        TRAIN_OPT(STR, adapter_init, NULL, "DIR", NULL, "LoRA adapter to go on with"),             \
        TRAIN_OPT(BOOL, use_peft, NULL, NULL, "false", "train a LoRA adapter, not the model"),     \
        TRAIN_RANGE(INT, lora_r, NULL, "N", "16", 1, 65536, "rank of the adapter"),                \
        TRAIN_RANGE(NUM, lora_alpha, NULL, "X", "32", 0, 1e6, "scale of the adapter, over rank"),  \
        TRAIN_RANGE(NUM, lora_dropout, NULL, "X", "0", 0, 0.99,                                    \
                    "share of what a pair sees that is left out"),                                 \
        TRAIN_OPT(BOOL, use_dora, NULL, NULL, "false",                                             \
                  "learn the length of each row apart (DoRA)"),                                    \
        TRAIN_OPT(WORDS, lora_modules_to_save, NULL, "NAME...", NULL,                              \
                  "what learns whole beside: embed_tokens, lm_head, norm ..."),                    \
        TRAIN_RANGE(NUM, neftune_noise_alpha, NULL, "X", "0", 0, 1e6,                              \
                    "noise on embeddings (5 is usual)", .rare = true),                             \
        TRAIN_OPT(                                                                                 \
            WORDS, lora_target_modules, NULL, "NAME...", NULL,                                     \
            "what has a pair: q_proj ..., embed_tokens, lm_head, all-linear (q_proj v_proj)"),     \
        TRAIN_OPT(BOOL, use_rslora, NULL, NULL, "false", "scale alpha / sqrt(rank)"),              \
        TRAIN_OPT(BOOL, load_in_4bit, NULL, NULL, "false",                                         \
                  "QLoRA: a base of 16 bits is quantised on load"),                                \
        TRAIN_OPT(BOOL, load_in_8bit, NULL, NULL, "false", "the same in rows of 8 bits"),          \
        TRAIN_OPT(STR, bnb_4bit_quant_type, NULL, "nf4|fp4", "nf4", "which 4 bits", .rare = true), \
        TRAIN_OPT(BOOL, use_bnb_nested_quant, NULL, NULL, "false",                                 \
                  "scales of the 4 bits in 8 bits too (double quantisation)"),                     \
        TRAIN_OPT(BOOL, gradient_checkpointing, NULL, NULL, "false",                               \
                  "compute activations again in the backward pass (by itself when memory asks)"),  \
        TRAIN_OPT(STR, dtype, "--torch-dtype", "bf16|f32|bfloat16|float32", "bf16",                \
                  "what products are computed in"),                                                \
        TRAIN_OPT(BOOL, bf16, NULL, NULL, "false", "the same as --dtype bf16"),                    \
        TRAIN_RANGE(INT, per_device_train_batch_size, "--batch-size", "N", "8", 1, 65536,          \
                    "rows of a batch"),                                                            \
        TRAIN_RANGE(INT, gradient_accumulation_steps, NULL, "N", "1", 1, 65536,                    \
                    "batches of a step; their mean is over tokens"),                               \
        TRAIN_RANGE(NUM, num_train_epochs, "--epochs", "X", "3", 0, 1e6, "passes over the rows"),  \
        TRAIN_RANGE(INT, max_steps, NULL, "N", "-1", -1, 1e12, "steps, in place of epochs"),       \
        TRAIN_RANGE(INT, max_length, "--max-seq-length", "N", "1024", 0, 1e9,                      \
                    "longer rows are cut (0 = never)"),                                            \
        TRAIN_RANGE(NUM, learning_rate, "--lr", "X", lr, 0, 1e3, "learning rate"),                 \
        TRAIN_OPT(STR, lr_scheduler_type, NULL, "NAME", "linear",                                  \
                  "linear, cosine, constant, constant_with_warmup, inverse_sqrt, "                 \
                  "warmup_stable_decay ..."),                                                      \
        TRAIN_OPT(STR, lr_scheduler_kwargs, NULL, "JSON", NULL,                                    \
                  "of polynomial, cosine_with_restarts, cosine_with_min_lr", .rare = true),        \
        TRAIN_RANGE(INT, warmup_steps, NULL, "N", "0", 0, 1e12, "steps of warm-up from 0"),        \
        TRAIN_RANGE(NUM, warmup_ratio, NULL, "X", "0", 0, 1, "the same as a part of all"),         \
        TRAIN_OPT(STR, optim, NULL, "NAME", "adamw_torch",                                         \
                  "adamw_torch, adamw_8bit or adafactor"),                                         \
        TRAIN_OPT(STR, fp8_products, NULL, "none|forward|both", "both",                            \
                  "a base of FP8 on Hopper: passes that multiply in it", .rare = true),            \
        TRAIN_OPT(BOOL, stochastic_rounding, NULL, NULL, "false",                                  \
                  "whole model: weights in bf16 alone, rounded at random", .rare = true),          \
        TRAIN_RANGE(NUM, weight_decay, NULL, "X", "0", 0, 1e3, "decay of matrices"),               \
        TRAIN_OPT(BOOL, decay_norms, NULL, NULL, "false", "decay of norms too"),                   \
        TRAIN_RANGE(NUM, adam_beta1, NULL, "X", "0.9", 0, 1, "AdamW's beta 1"),                    \
        TRAIN_RANGE(NUM, adam_beta2, NULL, "X", "0.999", 0, 1, "AdamW's beta 2"),                  \
        TRAIN_RANGE(NUM, adam_epsilon, NULL, "X", "1e-8", 0, 1, "AdamW's epsilon"),                \
        TRAIN_RANGE(NUM, max_grad_norm, NULL, "X", "1", 0, 1e9, "clipping (0 = none)"),            \
        TRAIN_OPT(BOOL, shuffle, NULL, NULL, "true", "draw rows in an order of the seed"),         \
        TRAIN_RANGE(INT, seed, NULL, "N", "42", 0, 1e15, "of the order and of new adapters"),      \
        TRAIN_OPT(STR, chat_format, "--chat-template", "NAME", NULL,                               \
                  "chat format in place of the model's"),                                          \
        TRAIN_RANGE(INT, logging_steps, NULL, "N", "10", 0, 1e12, "a line every N steps"),         \
        TRAIN_RANGE(INT, save_steps, NULL, "N", "500", 0, 1e12,                                    \
                    "a checkpoint every N steps (0 = none)"),                                      \
        TRAIN_RANGE(INT, save_total_limit, NULL, "N", "0", 0, 1e9,                                 \
                    "newest checkpoints that are kept, beside the best (0 = all)"),                \
        TRAIN_OPT(STR, resume_from_checkpoint, NULL, "DIR", NULL,                                  \
                  "checkpoint to go on from; last: the newest of --output-dir"),                   \
        TRAIN_RANGE(INT, early_stopping_patience, NULL, "N", "0", 0, 1e9,                          \
                    "end after N evaluations without a better one", .rare = true),                 \
        TRAIN_RANGE(NUM, early_stopping_threshold, NULL, "X", "0", 0, 1e9,                         \
                    "by how much better counts", .rare = true),                                    \
        TRAIN_OPT(BOOL, load_best_model_at_end, NULL, NULL, "false",                               \
                  "the result is that of the lowest evaluation loss", .rare = true),               \
        TRAIN_OPT(WORDS, report_to, NULL, "NAME...", NULL,                                         \
                  "files of tensorboard, wandb (offline) or all too; nothing is sent"),            \
        TRAIN_OPT(STR, run_name, NULL, "NAME", NULL, "the run's name in wandb", .rare = true),     \
        TRAIN_OPT(STR, device, NULL, "cpu|cuda", "cpu", "where to compute"),                       \
        TRAIN_OPT(STR, isa, NULL, "NAME", NULL, "instruction set, at most"),                       \
        TRAIN_RANGE(INT, threads, "-t", "N", "0", 0, 4096, "threads (0 = all cores)"),             \
        TRAIN_OPT(STR, pin, NULL, PIN_HOW, "auto",                                                 \
                  "threads: kept on their NUMA node, or a core each", .rare = true),               \
        TRAIN_OPT(STR, dump_gradients, NULL, "FILE", NULL,                                         \
                  "gradients of step 1 as safetensors, to compare"),                               \
        TRAIN_IDLE(STR, attn_implementation, "NAME"),                                              \
        TRAIN_RANGE(INT, per_device_eval_batch_size, NULL, "N", "8", 1, 65536,                     \
                    "accepted, has no effect here", .rare = true),                                 \
        TRAIN_IDLE(STR, bnb_4bit_quant_storage, "TYPE"),                                           \
        TRAIN_IDLE(STR, bnb_4bit_compute_dtype, "TYPE"),                                           \
        TRAIN_IDLE(STR, dataset_train_split, "NAME"), TRAIN_IDLE(STR, dataset_num_proc, "N"),      \
        TRAIN_IDLE(STR, dataloader_num_workers, "N"), TRAIN_IDLE(STR, ddp_timeout, "N"),           \
        TRAIN_IDLE(BOOL, overwrite_output_dir, NULL), TRAIN_IDLE(BOOL, do_train, NULL),            \
        TRAIN_IDLE(BOOL, trust_remote_code, NULL), TRAIN_IDLE(BOOL, tf32, NULL),                   \
        TRAIN_IDLE(BOOL, torch_compile, NULL), TRAIN_IDLE(BOOL, group_by_length, NULL),            \
        TRAIN_IDLE(BOOL, save_safetensors, NULL),                                                  \
        TRAIN_OPT(BOOL, quiet, "-q", NULL, "false", "no lines about the steps")

/* Where value is in the list; else an error of the option that names them all. */
int train_named(const char *option, const char *value, const char *const *list, size_t n,
                size_t *out, struct err *e) MUST_USE;
/* Schedule and its arguments from --lr-scheduler-type and --lr-scheduler-kwargs (NULL = none), for
 * t->lr. */
int train_schedule_set(struct train_cfg *t, const char *name, const char *kwargs,
                       struct err *e) MUST_USE;
/* REPORT_... of train/log.h from --report-to. */
int train_reports(unsigned *out, const struct opt_list *names, struct err *e) MUST_USE;
int train_command(enum train_task task, const struct train_opts *o, struct err *e) MUST_USE;

/* What struct train_cfg has of the options that every training command names alike. */
#define TRAIN_CFG_OF(o)                                                                            \
    .output_dir = (o)->output_dir, .eval_file = (o)->eval_file,                                    \
    .resume = (o)->resume_from_checkpoint, .batch = (size_t)(o)->per_device_train_batch_size,      \
    .accumulate = (size_t)(o)->gradient_accumulation_steps, .epochs = (o)->num_train_epochs,       \
    .max_steps = (o)->max_steps > 0 ? (size_t)(o)->max_steps : 0, .shuffle = (o)->shuffle,         \
    .lr = (o)->learning_rate, .weight_decay = (o)->weight_decay, .beta1 = (o)->adam_beta1,         \
    .beta2 = (o)->adam_beta2, .eps = (o)->adam_epsilon, .max_grad_norm = (o)->max_grad_norm,       \
    .warmup_steps = (size_t)(o)->warmup_steps, .warmup_ratio = (o)->warmup_ratio,                  \
    .seed = (uint64_t)(o)->seed, .logging_steps = (size_t)(o)->logging_steps,                      \
    .save_steps = (size_t)(o)->save_steps, .save_limit = (size_t)(o)->save_total_limit,            \
    .eval_steps = (size_t)(o)->eval_steps, .patience = (size_t)(o)->early_stopping_patience,       \
    .better = (o)->early_stopping_threshold, .keep_best = (o)->load_best_model_at_end,             \
    .run_name = (o)->run_name

#endif
