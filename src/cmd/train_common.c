/* train_common.c - from options to a run, and what a run prints. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/ceiling.h"
#include "backend/cpu/cpu.h"
#include "backend/cuda/cuda.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/team.h"
#include "cmd/train_int.h"
#include "hub/datasets.h"
#include "hub/models.h"
#include "train/log.h"

/* ---- what a run prints ---- */

static void on_note(void *arg, const char *line)
{
    (void)arg;
    fprintf(stderr, "%s\n", line);
}

static void on_step(void *arg, const struct train_step *s)
{
    const struct train_cfg *c = arg;
    const double left = (double)(s->steps - s->step) * s->seconds;
    const bool line = s->step == s->steps || s->has_eval || s->step == 1 ||
                      (c->logging_steps && s->step % c->logging_steps == 0);
    char what[120];

    snprintf(what, sizeof(what), "loss %.4f norm %.3f %.0f tokens/s %.0f s left", s->loss,
             s->grad_norm, s->tokens_per_s, left);
    if (!line) {
        progress_show(what, s->step, s->steps);
        return;
    }
    progress_end();
    fprintf(stderr, "step %zu/%zu  loss %.6g  grad norm %.6g  lr %.3g  %.0f tokens/s  %.0f s left",
            s->step, s->steps, s->loss, s->grad_norm, s->lr, s->tokens_per_s, left);
    if (s->mfu > 0)
        fprintf(stderr, "  MFU %.0f %% (%.0f with attention)", 100 * s->mfu,
                100 * s->mfu_attention);
    if (s->has_rewards)
        fprintf(stderr, "  rewards %.4g %.4g", s->chosen, s->rejected);
    if (s->has_eval)
        fprintf(stderr, "  eval loss %.6g", s->eval_loss);
    fputc('\n', stderr);
}

/* ---- options ---- */

static int set_targets(unsigned *out, const struct opt_list *l, struct err *e)
{
    *out = 0;
    for (size_t i = 0; i < l->n; i++) {
        size_t k = 0;

        if (!strcmp(l->p[i], "all-linear")) {
            *out |= (1u << NET_MATS) - 1; /* not the head: as in PEFT */
            continue;
        }
        while (k < NET_TARGETS && strcmp(l->p[i], net_target_names[k]) != 0)
            k++;
        if (k == NET_TARGETS)
            return err_set(
                e, ERR_USAGE,
                "--lora-target-modules %s: q_proj, k_proj, v_proj, o_proj, gate_proj, "
                "up_proj, down_proj, embed_tokens, lm_head and all-linear can be adapted",
                l->p[i]);
        *out |= 1u << k;
    }
    if (l->n == 0)
        *out = 1u | 4u; /* q_proj and v_proj: PEFT's choice for Llama */
    return 0;
}

static int set_saved(unsigned *out, const struct opt_list *l, struct err *e)
{
    *out = 0;
    for (size_t i = 0; i < l->n; i++) {
        size_t k = 0;

        while (k < NET_SAVES && strcmp(l->p[i], net_save_names[k]) != 0)
            k++;
        if (k == NET_SAVES)
            return err_set(e, ERR_USAGE,
                           "--lora-modules-to-save %s: embed_tokens, lm_head, norm, "
                           "input_layernorm and post_attention_layernorm can learn whole",
                           l->p[i]);
        /* "norm" is the end of every norm's name: PEFT takes them all */
        *out |= strcmp(l->p[i], "norm") ? 1u << k : 4u | 8u | 16u;
    }
    return 0;
}

int train_named(const char *option, const char *value, const char *const *list, size_t n,
                size_t *out, struct err *e)
{
    char all[300] = "";

    for (*out = 0; *out < n; ++*out) {
        const size_t at = strlen(all);

        if (!strcmp(value, list[*out]))
            return 0;
        snprintf(all + at, sizeof(all) - at, "%s%s", at ? ", " : "", list[*out]);
    }
    return err_set(e, ERR_USAGE, "%s %s: there is %s", option, value, all);
}

int train_schedule_set(struct train_cfg *t, const char *name, const char *kwargs, struct err *e)
{
    const char *const what = "--lr-scheduler-kwargs";
    static const char *const known[] = { "num_cycles", "power", "lr_end", "min_lr", "min_lr_rate" };
    struct schedule_args *a = &t->schedule_args;
    double end = 1e-7, least = -1;
    json_t *j = NULL, *v;
    const char *key;
    size_t i;
    int rc = -1;

    if (train_named("--lr-scheduler-type", name, train_schedules, SCHED_COUNT, &i, e))
        return -1;
    t->schedule = (enum train_schedule)i;
    *a = train_schedule_plain;
    a->floor = -1;
    if (kwargs && json_parse(&j, kwargs, strlen(kwargs), what, e))
        return -1;
    json_object_foreach(j, key, v)
    {
        if (train_named(what, key, known, ARRAY_LEN(known), &i, e))
            goto done;
    }
    if ((kwargs && !json_is_object(j) && err_set(e, ERR_USAGE, "%s: not an object", what)) ||
        json_get_num(j, "num_cycles", 0.5, 1e6, &a->num_cycles, what, e) < 0 ||
        json_get_num(j, "power", 0.01, 100, &a->power, what, e) < 0 ||
        json_get_num(j, "lr_end", 0, 1e3, &end, what, e) < 0 ||
        json_get_num(j, "min_lr", 0, 1e3, &least, what, e) < 0 ||
        json_get_num(j, "min_lr_rate", 0, 1, &a->floor, what, e) < 0)
        goto done;
    a->end = t->lr > 0 ? end / t->lr : 0;
    if (least >= 0 && t->lr > 0)
        a->floor = least / t->lr;
    if (t->schedule == SCHED_COSINE_MIN && a->floor < 0)
        err_set(e, ERR_USAGE, "cosine_with_min_lr needs %s '{\"min_lr_rate\": 0.1}', or min_lr",
                what);
    else
        rc = 0;
done:
    json_decref(j);
    return rc;
}

int train_reports(unsigned *out, const struct opt_list *names, struct err *e)
{
    static const struct {
        const char *name;
        unsigned what;
    } list[] = { { "none", 0 },
                 { "tensorboard", REPORT_TENSORBOARD },
                 { "wandb", REPORT_WANDB },
                 { "all", REPORT_TENSORBOARD | REPORT_WANDB } };

    *out = 0;
    for (size_t i = 0; i < names->n; i++) {
        size_t k = 0;

        while (k < ARRAY_LEN(list) && strcmp(names->p[i], list[k].name) != 0)
            k++;
        if (k == ARRAY_LEN(list))
            return err_set(e, ERR_USAGE, "--report-to %s: there is none, tensorboard, wandb, all",
                           names->p[i]);
        *out |= list[k].what;
    }
    return 0;
}

/* Options of TRL that are accepted without effect, and why. */
static const struct idle_opt idle[] = {
    { "attn_implementation", "attention is always computed in blocks, without the score matrix" },
    { "per_device_eval_batch_size", "evaluation goes row by row" },
    { "bnb_4bit_quant_storage", "4 bits are stored as bytes" },
    { "bnb_4bit_compute_dtype", "--dtype says what products are computed in" },
    { "dataset_train_split", "a file is one split" },
    { "dataset_num_proc", "rows are read at once" },
    { "dataloader_num_workers", "rows are read at once" },
    { "ddp_timeout", "there is one process" },
    { "overwrite_output_dir", "files of the output folder are always replaced" },
    { "do_train", "this is what the command does" },
    { "trust_remote_code", "a model is data; no code of it runs" },
    { "tf32", "--dtype says what products are computed in" },
    { "torch_compile", "there is nothing to compile" },
    { "group_by_length", "batches have no padding; --packing evens them out" },
    { "save_safetensors", "weights are always saved so" },
};

/* Where a command line that was written for TRL 0.9.6 (the release's) gives something else here:
 * docs/sft.md says why. */
static void name_differences(enum train_task task, const struct train_opts *o)
{
    const bool sft = task == TASK_SFT, lora = o->use_peft;
    const struct {
        bool holds;
        const char *here;
    } list[] = {
        { !opt_given(o, "learning_rate"),
          sft ? "learning rate 2e-5, there 5e-5" : "learning rate 1e-6, there 5e-5" },
        { sft, "the token that ends a text is appended and trained, there it is not" },
        { sft, "of a prompt with a completion the completion alone is trained, there both" },
        { true, "rows are laid end to end, there padded with the token that ends a text" },
        { o->gradient_accumulation_steps > 1,
          "accumulated batches are averaged over their tokens, there over batches" },
        { lora && !opt_given(o, "lora_dropout"), "no LoRA dropout, there 0.05" },
        { !o->bf16 && !opt_given(o, "dtype"), "products in bf16, there float32" },
        { !opt_given(o, "logging_steps"), "a line every 10 steps, there 500" },
    };

    for (size_t i = 0; i < ARRAY_LEN(list); i++)
        if (list[i].holds)
            fprintf(stderr, "unlike TRL 0.9: %s\n", list[i].here);
}

/* What is accepted by name and asks for something that is not made. */
static int refuse(const struct train_opts *o, struct err *e)
{
    if (!o->train_file && !o->dataset_name)
        return err_set(e, ERR_USAGE, "--train-file FILE is needed, or --dataset-name");
    if (o->train_file && o->dataset_name)
        return err_set(e, ERR_USAGE, "two data sets: %s and %s", o->train_file, o->dataset_name);
    if (o->load_in_4bit && o->load_in_8bit)
        return err_set(e, ERR_USAGE, "--load-in-4bit and --load-in-8bit say different things");
    if (!o->output_dir)
        return err_set(e, ERR_USAGE, "--output-dir DIR is needed");
    if (optim_by_name(o->optim) == OPTIMISER_COUNT)
        return err_set(e, ERR_USAGE,
                       "--optim %s: there is adamw_torch, adamw_8bit, adafactor, and "
                       "adamw_torch_fused, adamw_bnb_8bit, paged_adamw_8bit, paged_adamw_32bit",
                       o->optim);
    if (o->stochastic_rounding && (o->use_peft || o->adapter_init || o->dtype[0] == 'f'))
        return err_set(e, ERR_USAGE,
                       "--stochastic-rounding is for a whole model in bf16: adapters are float32");
    if (o->bf16 && o->dtype[0] == 'f')
        return err_set(e, ERR_USAGE, "--bf16 and --dtype %s say different things", o->dtype);
    if ((o->load_in_4bit || o->load_in_8bit) && !o->use_peft && !o->adapter_init)
        return err_set(e, ERR_USAGE,
                       "--load-in-%dbit goes with --use-peft: what is quantised is "
                       "frozen",
                       o->load_in_4bit ? 4 : 8);
    if (o->adapter_init && (opt_given(o, "lora_r") || opt_given(o, "lora_alpha") ||
                            opt_given(o, "lora_target_modules") || opt_given(o, "use_dora") ||
                            opt_given(o, "lora_modules_to_save")))
        return err_set(e, ERR_USAGE,
                       "--adapter-init: rank, alpha, DoRA and modules are those of the adapter");
    return 0;
}

/* A whole model is trained where its weights can be written back. */
static int check_base(const struct train_opts *o, const char *path, struct err *e)
{
    struct checkpoint *c;
    int rc = 0;

    if (checkpoint_open(&c, path, e))
        return -1;
    const bool full = !o->use_peft && !o->adapter_init;
    struct weight w;

    if (checkpoint_weight(c, "model.layers.0.mlp.up_proj.weight", &w, e))
        rc = -1;
    else if (full && strcmp(checkpoint_container(c), "safetensors"))
        rc = err_set(e, ERR_USAGE,
                     "%s: a whole model is trained from a Hugging Face folder; puna convert makes "
                     "one, or --use-peft trains an adapter on this file",
                     path);
    else if (full && w.enc != ENC_BF16 && w.enc != ENC_F16 && w.enc != ENC_F32)
        rc = err_set(e, ERR_USAGE,
                     "%s: its matrices are %s; a quantised model is trained with --use-peft", path,
                     enc_table[w.enc].name);
    checkpoint_close(c);
    return rc;
}

static int fill(struct train_cfg *t, enum train_task task, const struct train_opts *o,
                struct err *e)
{
    size_t kind = LOSS_SIGMOID;
    unsigned targets, saved, reports;

    if (refuse(o, e) || train_reports(&reports, &o->report_to, e) ||
        set_saved(&saved, &o->lora_modules_to_save, e) ||
        set_targets(&targets, &o->lora_target_modules, e) ||
        (task == TASK_DPO &&
         train_named("--loss-type", o->loss_type, loss_names, LOSS_COUNT, &kind, e)))
        return -1;
    for (unsigned i = 0; i < 2; i++) /* both lists have these two */
        if (saved >> i & 1 && targets >> (NET_MATS + i) & 1)
            return err_set(e, ERR_USAGE,
                           "%s learns whole (--lora-modules-to-save) or in a pair "
                           "(--lora-target-modules), not both",
                           net_save_names[i]);
    if (o->use_dora && targets & NET_EMBED)
        return err_set(e, ERR_USAGE,
                       "--use-dora: puna has none of an embedding; leave embed_tokens out of "
                       "--lora-target-modules");
    *t = (struct train_cfg){
        .task = task,
        TRAIN_CFG_OF(o),
        .eval_split = o->eval_split,
        .net = { .full = !o->use_peft && !o->adapter_init,
                 .targets = targets,
                 .rank = (size_t)o->lora_r,
                 .alpha = o->lora_alpha,
                 .rslora = o->use_rslora,
                 .dora = o->use_dora,
                 .dropout = o->lora_dropout,
                 .neftune = task == TASK_SFT ? o->neftune_noise_alpha : 0,
                 .smoothing = task == TASK_SFT ? o->label_smoothing_factor : 0,
                 .dft = task == TASK_SFT && !strcmp(o->loss_type, "dft"),
                 .save = saved,
                 .optim = optim_by_name(o->optim),
                 .stochastic = o->stochastic_rounding,
                 .decay_norms = o->decay_norms,
                 .init = o->adapter_init,
                 .seed = (uint64_t)o->seed,
                 .recompute = o->gradient_checkpointing ? NET_ALL : 0 },
        .quantise = o->load_in_4bit || o->load_in_8bit,
        .qlora = { .kind = o->load_in_8bit                    ? QLORA_INT8
                           : o->bnb_4bit_quant_type[0] == 'f' ? QLORA_FP4
                                                              : QLORA_NF4,
                   .nested = o->use_bnb_nested_quant && o->load_in_4bit },
        .loss = { .kind = (enum loss_kind)kind,
                  .beta = o->beta,
                  .smoothing = task == TASK_SFT ? o->label_smoothing_factor : o->label_smoothing,
                  .gamma = o->simpo_gamma,
                  .good = o->desirable_weight,
                  .bad = o->undesirable_weight },
        .bf16 = o->dtype[0] == 'b',
        .max_length = (size_t)o->max_length,
        .packing = o->packing,
        .assistant_only = o->assistant_only_loss,
        .completion_only = o->completion_only_loss,
        .text_field = o->dataset_text_field ? o->dataset_text_field : "text",
        .chat_format = o->chat_format,
        .reports = reports,
        .force_recompute = o->gradient_checkpointing,
        .dump_gradients = o->dump_gradients,
        .on_note = on_note,
        .on_step = o->quiet ? NULL : on_step,
    };
    if (train_schedule_set(t, o->lr_scheduler_type, o->lr_scheduler_kwargs, e))
        return -1;
    if (t->eval_file && t->eval_split > 0)
        return err_set(e, ERR_USAGE, "--eval-file and --eval-split both say what is held out");
    if ((t->patience || t->keep_best) && !t->eval_file && !(t->eval_split > 0))
        return err_set(e, ERR_USAGE,
                       "--early-stopping-patience and --load-best-model-at-end need an --eval-file "
                       "or an --eval-split");
    if (t->net.dft && t->net.smoothing > 0)
        return err_set(e, ERR_USAGE,
                       "--loss-type dft and --label-smoothing-factor do not go together");
    if (t->packing && !t->max_length)
        return err_set(e, ERR_USAGE, "--packing needs a --max-length");
    if (task == TASK_KTO && t->batch < 2)
        return err_set(e, ERR_USAGE,
                       "--per-device-train-batch-size 1: KTO measures its distance between the "
                       "rows of a batch and needs two at least");
    return 0;
}

/* Where the run computes: *op is its table. */
static int open_device(struct ctx **c, const struct train_ops **op, const struct train_opts *o,
                       unsigned flags, enum compute compute, struct err *e)
{
    *op = &train_ops_cpu;
    static const char *const f8[] = { "none", "forward", "both" }; /* enum f8_products */
    size_t i;

    if (train_named("--fp8-products", o->fp8_products, f8, ARRAY_LEN(f8), &i, e))
        return -1;
    if (strcmp(o->device, "cuda") != 0)
        return cpu_ctx_new(c, (int)o->threads, flags, compute, e);
    if (cuda_ctx_new(c, compute, e))
        return -1;
    /* the CPU's threads quantise a base */
    team_free((*c)->team);
    (*c)->team = NULL;
    if (team_new(&(*c)->team, (int)o->threads, e)) {
        (*c)->be->free(*c);
        return -1;
    }
    fprintf(stderr, "computing on the GPU: %s\n", cuda_ctx_name(*c));
    (*c)->half = compute == COMPUTE_BF16;
    (*c)->f8 = (enum f8_products)i;
    *op = &train_ops_cuda;
    return 0;
}

/* Operations a second of products, measured now; 0 = not to be had. */
static double peak_of(struct ctx *c, unsigned flags, bool half)
{
    struct cuda_ceilings top;
    struct err why;

    if (ctx_on_host(c))
        return ceiling_products(c->team, flags, half, 8);
    return half && cuda_ceiling(c, &top, &why) == 0 ? top.bf16 : 0;
}

int train_command(enum train_task task, const struct train_opts *o, struct err *e)
{
    const char *ref = *o->model ? o->model : o->model_name_or_path;
    struct train_cfg t;
    struct ctx *c = NULL;
    const struct train_ops *op;
    unsigned flags = cpu_flags();
    char *path = NULL, *rows = NULL;
    int rc = -1;

    if (!ref)
        return err_set(e, ERR_USAGE, "MODEL is missing");
    if (*o->model && o->model_name_or_path)
        return err_set(e, ERR_USAGE, "two models: %s and %s", o->model, o->model_name_or_path);
    if (o->isa && cpu_flags_from_name(o->isa, &flags))
        return err_set(e, ERR_USAGE, "--isa %s: not one of generic, avx2, avx512, avx512_bf16",
                       o->isa);
    if (flags & ~cpu_flags())
        return err_set(e, ERR_HARDWARE, "--isa %s: this CPU offers %s", o->isa,
                       cpu_flags_name(cpu_flags()));
    if (fill(&t, task, o, e) || hub_resolve(ref, &path, e))
        return -1;
    if (o->dataset_name && hub_dataset(o->dataset_name, &rows, e)) {
        free(path);
        return -1;
    }
    idle_show(o, idle, ARRAY_LEN(idle));
    if (!strncmp(o->optim, "paged_", 6))
        fprintf(stderr, "--optim %s is %s here: everything is in the host's memory\n", o->optim,
                optim_names[optim_by_name(o->optim)]);
    if (o->model_name_or_path)
        name_differences(task, o);
    t.train_file = rows ? rows : o->train_file;
    t.model = path;
    t.base_name = ref;
    t.arg = &t;
    team_pin(pin_from_name(o->pin));
    if (check_base(o, path, e) == 0 &&
        open_device(&c, &op, o, flags, t.bf16 ? COMPUTE_BF16 : COMPUTE_F32, e) == 0) {
        if (!o->quiet)
            t.peak = peak_of(c, flags, t.bf16);
        rc = train_run(&t, c, op, e);
        c->be->free(c);
    }
    progress_end();
    free(path);
    free(rows);
    return rc;
}
