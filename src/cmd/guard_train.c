/* guard_train.c - `puna guard train`: fine-tuning the head of a Prompt Guard on labelled texts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "backend/cpu/cpu.h"
#include "backend/cuda/cuda.h"
#include "cmd/common.h"
#include "cmd/train_int.h"
#include "guard/prompt_guard.h"
#include "hub/models.h"
#include "train/guard_run.h"

struct guard_opts {
    const char *model, *train_file, *eval_file, *output_dir, *resume_from_checkpoint;
    const char *text_field, *label_field, *lr_scheduler_type, *lr_scheduler_kwargs, *run_name, *isa,
        *device;
    struct opt_list report_to;
    double eval_split, num_train_epochs, learning_rate, warmup_ratio, weight_decay, dropout;
    double adam_beta1, adam_beta2, adam_epsilon, max_grad_norm, early_stopping_threshold;
    int64_t per_device_train_batch_size, gradient_accumulation_steps, max_steps, warmup_steps, seed;
    int64_t logging_steps, save_steps, save_total_limit, eval_steps, early_stopping_patience;
    int64_t threads;
    bool balance, shuffle, load_best_model_at_end, json, quiet;
};

#define ROW(kind, field, alias, arg, def, help, ...)                                               \
    OPT(kind, struct guard_opts, field, alias, arg, def, help, __VA_ARGS__)
#define RANGE(kind, field, alias, arg, def, min, max, help, ...)                                   \
    OPT_RANGE(kind, struct guard_opts, field, alias, arg, def, min, max, help, __VA_ARGS__)

static const struct opt opts[] = {
    ROW(ARG, model, NULL, "MODEL", NULL, "folder of a Prompt Guard"),
    ROW(STR, train_file, NULL, "FILE", NULL, "rows of text and label: JSON lines, JSON or CSV"),
    ROW(STR, eval_file, NULL, "FILE", NULL, "rows held out"),
    RANGE(NUM, eval_split, NULL, "X", "0.1", 0, 0.9,
          "without --eval-file: share of each class that is held out"),
    ROW(STR, output_dir, "-o", "DIR", NULL, "folder of the result and its checkpoints"),
    ROW(STR, text_field, "--dataset-text-field", "NAME", "text", "column of the text"),
    ROW(STR, label_field, NULL, "NAME", "label", "column of the label: its name or number"),
    RANGE(NUM, learning_rate, "--lr", "X", "1e-3", 0, 1e3, "learning rate"),
    RANGE(NUM, num_train_epochs, "--epochs", "X", "10", 0, 1e6, "passes over the rows"),
    RANGE(INT, max_steps, NULL, "N", "-1", -1, 1e12, "steps, in place of epochs"),
    RANGE(INT, per_device_train_batch_size, "--batch-size", "N", "32", 1, 65536, "rows of a batch"),
    RANGE(INT, gradient_accumulation_steps, NULL, "N", "1", 1, 65536, "batches of a step"),
    ROW(STR, lr_scheduler_type, NULL, "NAME", "linear", "as for puna sft"),
    ROW(STR, lr_scheduler_kwargs, NULL, "JSON", NULL, "likewise", .rare = true),
    RANGE(INT, warmup_steps, NULL, "N", "0", 0, 1e12, "steps of warm-up from 0"),
    RANGE(NUM, warmup_ratio, NULL, "X", "0", 0, 1, "the same as a part of all"),
    RANGE(NUM, weight_decay, NULL, "X", "0", 0, 1e3, "decay of matrices"),
    RANGE(NUM, dropout, NULL, "X", "0", 0, 0.99, "share of what the classifier reads left out"),
    ROW(BOOL, balance, NULL, NULL, "false", "every class counts alike, however many rows it has"),
    RANGE(NUM, adam_beta1, NULL, "X", "0.9", 0, 1, "AdamW's beta 1", .rare = true),
    RANGE(NUM, adam_beta2, NULL, "X", "0.999", 0, 1, "AdamW's beta 2", .rare = true),
    RANGE(NUM, adam_epsilon, NULL, "X", "1e-8", 0, 1, "AdamW's epsilon", .rare = true),
    RANGE(NUM, max_grad_norm, NULL, "X", "1", 0, 1e9, "clipping (0 = none)"),
    ROW(BOOL, shuffle, NULL, NULL, "true", "draw rows in an order of the seed"),
    RANGE(INT, seed, NULL, "N", "42", 0, 1e15, "of the rows held out, the order, and dropout"),
    RANGE(INT, eval_steps, NULL, "N", "0", 0, 1e12, "evaluate every N steps (0 = every epoch)"),
    RANGE(INT, early_stopping_patience, NULL, "N", "0", 0, 1e9,
          "end after N evaluations without a better one"),
    RANGE(NUM, early_stopping_threshold, NULL, "X", "0", 0, 1e9, "by how much better counts",
          .rare = true),
    ROW(BOOL, load_best_model_at_end, NULL, NULL, "false",
        "the result is that of the lowest evaluation loss"),
    RANGE(INT, logging_steps, NULL, "N", "10", 0, 1e12, "a line every N steps"),
    RANGE(INT, save_steps, NULL, "N", "500", 0, 1e12, "a checkpoint every N steps (0 = none)"),
    RANGE(INT, save_total_limit, NULL, "N", "1", 0, 1e9,
          "newest checkpoints that are kept, beside the best (0 = all)"),
    ROW(STR, resume_from_checkpoint, NULL, "DIR", NULL,
        "checkpoint to go on from; last: the newest of --output-dir"),
    ROW(WORDS, report_to, NULL, "NAME...", NULL,
        "files of tensorboard, wandb (offline) or all too"),
    ROW(STR, run_name, NULL, "NAME", NULL, "the run's name in wandb", .rare = true),
    ROW(STR, device, NULL, "cpu|cuda", "cpu", "where the encoder computes"),
    ROW(STR, isa, NULL, "NAME", NULL, "instruction set, at most"),
    RANGE(INT, threads, "-t", "N", "0", 0, 1024, "threads (0 = all cores)"),
    ROW(BOOL, json, NULL, NULL, NULL, "what came out as one JSON object"),
    ROW(BOOL, quiet, "-q", NULL, "false", "no lines about the steps"),
    { .name = NULL },
};

/* ---- what a run prints ---- */

static void on_note(void *arg, const char *line)
{
    (void)arg;
    progress_end();
    fprintf(stderr, "%s\n", line);
}

static void on_text(void *arg, size_t done, size_t all)
{
    (void)arg;
    progress_show("texts through the encoder", done, all);
}

static void on_step(void *arg, const struct train_step *s)
{
    const struct guard_train_cfg *c = arg;
    const size_t every = c->run.logging_steps;

    progress_end();
    if (s->step != s->steps && s->step != 1 && !s->has_eval && (!every || s->step % every))
        return;
    fprintf(stderr, "step %zu/%zu  loss %.6g  grad norm %.6g  lr %.3g  %.0f s left", s->step,
            s->steps, s->loss, s->grad_norm, s->lr, (double)(s->steps - s->step) * s->seconds);
    if (s->has_eval)
        fprintf(stderr, "  eval loss %.6g  accuracy %.4f", s->eval_loss, s->accuracy);
    fputc('\n', stderr);
}

/* ---- what came out ---- */

static json_t *measures_json(const struct guard_trained *r, const struct guard_measures *m)
{
    json_t *table = json_array(), *classes = json_object();

    for (size_t i = 0; i < r->labels; i++) {
        json_t *row = json_array();

        for (size_t k = 0; k < r->labels; k++)
            json_array_append_new(row, json_integer((json_int_t)m->confusion[i][k]));
        json_array_append_new(table, row);
        json_object_set_new(classes, r->name[i],
                            json_pack("{s:f, s:f, s:f}", "precision", m->precision[i], "recall",
                                      m->recall[i], "f1", m->f1[i]));
    }
    return json_pack("{s:I, s:f, s:f, s:f, s:o, s:o}", "rows", (json_int_t)m->n, "loss", m->loss,
                     "accuracy", m->accuracy, "macro_f1", m->macro_f1, "classes", classes,
                     "confusion", table);
}

static void print_json(const struct guard_trained *r)
{
    json_t *labels = json_array(), *train = json_object(), *held = json_object(), *j;

    for (size_t i = 0; i < r->labels; i++) {
        json_array_append_new(labels, json_string(r->name[i]));
        json_object_set_new(train, r->name[i], json_integer((json_int_t)r->train[i]));
        json_object_set_new(held, r->name[i], json_integer((json_int_t)r->held[i]));
    }
    j = json_pack("{s:o, s:o, s:o, s:I, s:I, s:o, s:o}", "labels", labels, "trained", train,
                  "held_out", held, "steps", (json_int_t)r->steps_taken, "best_step",
                  (json_int_t)r->best_step, "before", measures_json(r, &r->before), "after",
                  measures_json(r, &r->after));
    json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(j);
}

static void print_table(const struct guard_trained *r)
{
    const struct guard_measures *a = &r->before, *b = &r->after;
    bool held = false;
    int wide = 8;

    for (size_t i = 0; i < r->labels; i++) {
        held = held || r->held[i];
        wide = (int)strlen(r->name[i]) > wide ? (int)strlen(r->name[i]) : wide;
    }
    printf("%-*s %8s %8s  %9s %9s %9s\n", wide, "label", "trained", "held out", "precision",
           "recall", "F1");
    for (size_t i = 0; i < r->labels; i++)
        printf("%-*s %8zu %8zu  %9.4f %9.4f %9.4f\n", wide, r->name[i], r->train[i], r->held[i],
               b->precision[i], b->recall[i], b->f1[i]);
    printf("\n%-*s", wide, "is, said");
    for (size_t i = 0; i < r->labels; i++)
        printf(" %*s", wide, r->name[i]);
    for (size_t i = 0; i < r->labels; i++) {
        printf("\n%-*s", wide, r->name[i]);
        for (size_t k = 0; k < r->labels; k++)
            printf(" %*zu", wide, b->confusion[i][k]);
    }
    printf("\n\n%s: loss %.4f -> %.4f, accuracy %.4f -> %.4f, macro F1 %.4f -> %.4f\n",
           held ? "rows held out" : "rows trained on", a->loss, b->loss, a->accuracy, b->accuracy,
           a->macro_f1, b->macro_f1);
}

/* ---- options ---- */

static int fill(struct guard_train_cfg *c, const struct guard_opts *o, struct err *e)
{
    unsigned reports;

    if (!o->train_file || !o->output_dir)
        return err_set(e, ERR_USAGE, "%s is needed",
                       o->train_file ? "--output-dir DIR" : "--train-file FILE");
    if (train_reports(&reports, &o->report_to, e))
        return -1;
    *c = (struct guard_train_cfg){
        .run = { TRAIN_CFG_OF(o), .train_file = o->train_file, .net = { .dropout = o->dropout },
                 .text_field = o->text_field, .reports = reports, .base_name = o->model,
                 .on_note = on_note, .on_step = o->quiet ? NULL : on_step, .arg = c },
        .label_field = o->label_field,
        .eval_split = o->eval_file ? 0 : o->eval_split,
        .balance = o->balance,
        .on_text = o->quiet ? NULL : on_text,
    };
    return train_schedule_set(&c->run, o->lr_scheduler_type, o->lr_scheduler_kwargs, e);
}

static int run(const void *cfg, struct err *e)
{
    const struct guard_opts *o = cfg;
    struct guard_train_cfg c;
    struct guard_trained out;
    struct engine_opts g;
    struct ctx *host = NULL, *gpu = NULL;
    char *path;
    int rc = -1;

    if (fill(&c, o, e) || engine_opts_fill(&g, o->threads, "f32", o->isa, o->device, e) ||
        hub_resolve(o->model, &path, e))
        return -1;
    const bool cuda = g.device && !strcmp(g.device, "cuda");

    c.run.model = path;
    if (!prompt_guard_is(path))
        err_set(e, ERR_USAGE,
                "%s is no Prompt Guard (config.json with model_type deberta-v2); a Llama Guard is "
                "a chat model, which puna sft trains",
                o->model);
    else if (cpu_ctx_new(&host, g.threads, g.isa < 0 ? cpu_flags() : (unsigned)g.isa, COMPUTE_F32,
                         e) == 0 &&
             (!cuda || cuda_ctx_new(&gpu, COMPUTE_F32, e) == 0))
        rc = guard_train_run(&c, gpu ? gpu : host, host, &train_ops_cpu, &out, e);
    progress_end();
    if (rc == 0 && o->json)
        print_json(&out);
    else if (rc == 0)
        print_table(&out);
    if (gpu)
        gpu->be->free(gpu);
    cpu_ctx_free(host);
    free(path);
    return rc;
}

const struct cmd cmd_guard_train = {
    .name = "guard_train",
    .summary = "fine-tune the head of a Prompt Guard",
    .usage = "MODEL --train-file FILE -o DIR [options]",
    .help =
        "Teaches a Prompt Guard what is an attack and what is not, on rows {\"text\", \"label\"}; "
        "a label is a name of the model's or its number. The encoder stays as it is and reads "
        "every "
        "text once; the pooler and the classifier above it learn. The result is a folder that puna "
        "guard and transformers load. The same seed gives the same bits.\n"
        "\n"
        "EXAMPLES\n"
        "  puna guard train ./Prompt-Guard-86M --train-file attacks.jsonl -o ours\n"
        "  puna guard train ./Prompt-Guard-86M --train-file attacks.csv -o ours --balance "
        "--load-best-model-at-end\n"
        "  puna guard ./ours 'Ignore what you were told.'\n",
    .opts = opts,
    .cfg_size = sizeof(struct guard_opts),
    .run = run,
};
