/* run.h - a training run: data to examples, examples to batches, steps, logs, checkpoints.
 *
 * A run is a function of its files and its configuration: the same seed gives the same bits at any
 * number of threads, and a run that went on from a checkpoint those of one that never stopped. */
#ifndef PUNA_TRAIN_RUN_H
#define PUNA_TRAIN_RUN_H

#include "train/data.h"
#include "train/loss.h"
#include "train/net.h"
#include "train/qlora.h"

enum train_task { TASK_SFT, TASK_DPO, TASK_KTO };

enum train_schedule {
    SCHED_LINEAR,
    SCHED_COSINE,
    SCHED_CONSTANT,
    SCHED_CONSTANT_WARMUP,
    SCHED_INVERSE_SQRT,
    SCHED_WSD, /* warm-up, stable, linear decay over the last tenth */
    SCHED_POLYNOMIAL,
    SCHED_COSINE_RESTARTS,
    SCHED_COSINE_MIN,
    SCHED_COUNT
};
extern const char *const train_schedules[SCHED_COUNT]; /* as TRL names them */

/* What some of them take; transformers' defaults are in train_schedule_plain. */
struct schedule_args {
    double num_cycles; /* of cosine_with_restarts */
    double power;      /* of polynomial */
    double end, floor; /* polynomial's, cosine_with_min_lr's last factor */
};
extern const struct schedule_args train_schedule_plain;

struct train_step; /* below */

struct train_cfg {
    enum train_task task;
    const char *model; /* path */
    const char *output_dir;
    const char *train_file, *eval_file; /* eval_file NULL = none */
    double eval_split;                  /* without: share of the rows that is held out */
    const char *resume;                 /* checkpoint folder, "last", or NULL */
    struct net_cfg net;
    bool quantise; /* the base, as qlora says */
    struct qlora_cfg qlora;
    struct loss_cfg loss;
    bool bf16; /* products of bf16 values; what is saved of a full model too */
    size_t batch, accumulate;
    double epochs;
    size_t max_steps; /* 0 = by epochs */
    size_t max_length;
    bool shuffle, packing, assistant_only, completion_only;
    const char *text_field, *chat_format;                      /* chat_format NULL = the model's */
    double lr, weight_decay, beta1, beta2, eps, max_grad_norm; /* max_grad_norm 0 = no clipping */
    enum train_schedule schedule;
    struct schedule_args schedule_args;
    size_t warmup_steps;
    double warmup_ratio;
    uint64_t seed;
    size_t logging_steps, save_steps, save_limit, eval_steps; /* 0 = never, no limit */
    size_t patience;      /* evaluations without a better one after which a run ends; 0 = none */
    double better;        /* by how much a loss must be lower to count */
    bool keep_best;       /* the result is that of the lowest evaluation loss */
    unsigned reports;     /* which other files (log.h) */
    const char *run_name; /* in those; NULL = none */
    double peak;          /* what this machine can compute, operations a second; 0 = unknown */
    bool force_recompute; /* else where the memory asks for it */
    const char *dump_gradients; /* safetensors file for the gradients of the first step, or NULL */
    const char *base_name;      /* what adapter_config.json calls the base */
    void (*on_note)(void *arg, const char *line);
    void (*on_step)(void *arg, const struct train_step *s);
    void *arg;
};

/* What is logged after a step. */
struct train_step {
    size_t step, steps;
    double epoch, loss, grad_norm, lr, tokens_per_s, seconds;
    /* share of train_cfg.peak: of products with matrices, and with attention's; 0 = unknown */
    double mfu, mfu_attention;
    size_t tokens; /* seen so far */
    bool has_rewards, has_kl;
    double chosen, rejected, accuracy, logp_chosen, logp_rejected, kl;
    bool has_eval;
    double eval_loss, eval_accuracy, eval_margin; /* the last two of rewards */
};

int train_run(const struct train_cfg *cfg, struct ctx *c, const struct train_ops *op,
              struct err *e) MUST_USE;

/* One line to cfg->on_note. */
void train_note(const struct train_cfg *cfg, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The learning rate's factor at step i of n, from 0. */
double train_schedule_at(enum train_schedule s, const struct schedule_args *a, size_t i, size_t n,
                         size_t warmup);

#endif
