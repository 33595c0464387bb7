#include "train/run.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "ops/backend.h"
#include "train/log.h"
#include "train/report.h"
#include "train/save.h"
#include "train/step.h"

struct run {
    const struct train_cfg *cfg;
    struct ctx *c;
    const struct train_ops *op;
    struct model *m;
    struct qlora *qlora; /* NULL = the base as it lies */
    struct tok *tok;
    struct data data, eval;
    struct plan plan;
    struct net *net;
    struct stepper step;
    double *eval_ref; /* the reference's log-probabilities of eval */
    struct progress at;
    size_t warmup;
    size_t planned; /* bytes of activations and of what learns; on a device of weights too */
    size_t had;     /* bytes that a device had before */
    struct log log;
    double mean, square; /* of the losses so far, the newer ones weigh more */
    size_t losses;
};

void train_note(const struct train_cfg *cfg, const char *fmt, ...)
{
    char line[400];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    if (cfg->on_note)
        cfg->on_note(cfg->arg, line);
}

/* ---- data ---- */

static int read_data(struct run *r, struct err *e)
{
    const struct train_cfg *cfg = r->cfg;
    static const enum data_kind kinds[] = { DATA_SFT, DATA_PAIRS, DATA_UNPAIRED };
    struct data_cfg d = { .kind = kinds[cfg->task],
                          .text_field = cfg->text_field,
                          .max_length = cfg->max_length,
                          .assistant_only = cfg->assistant_only,
                          .completion_only = cfg->completion_only };
    struct err why = { 0 };

    if (tok_open(&r->tok, cfg->model, &why))
        train_note(r->cfg, "no tokenizer (%s): rows of input_ids alone", why.msg);
    d.tok = r->tok;
    if (cfg->chat_format) {
        d.chat = chat_by_name(cfg->chat_format);
        if (!d.chat)
            return err_set(e, ERR_USAGE, "--chat-template %s: there is %s", cfg->chat_format,
                           chat_names());
    } else if (r->tok && chat_detect(&d.chat, r->tok, &why)) {
        d.chat = NULL;
    }
    if (data_read(&r->data, cfg->train_file, &d, e) ||
        (cfg->eval_file && data_read(&r->eval, cfg->eval_file, &d, e)))
        return -1;
    for (size_t i = 0; i < r->data.n; i++)
        for (size_t t = 0; t < r->data.p[i].n; t++)
            if (r->data.p[i].ids[t] >= r->m->hp->vocab)
                return err_set(e, ERR_FORMAT, "%s: token %d, the model has %lld", cfg->train_file,
                               r->data.p[i].ids[t], (long long)r->m->hp->vocab);
    if (!cfg->eval_file && cfg->eval_split > 0) {
        data_split(&r->data, &r->eval, cfg->task == TASK_DPO ? 2 : 1, cfg->eval_split, cfg->seed);
        train_note(cfg, "%zu examples are held out", r->eval.n);
    }
    train_note(r->cfg, "%zu examples, %zu tokens, %.1f %% of them trained", r->data.n,
               r->data.tokens, 100 * (double)r->data.asked / (double)r->data.tokens);
    if (r->data.cut)
        train_note(r->cfg, "%zu were cut at --max-length %zu", r->data.cut, cfg->max_length);
    if (r->data.chatml)
        train_note(
            r->cfg,
            "%zu texts have ChatML's <|im_start|>, which is no token of this model: it is trained "
            "letter by letter; rows of messages go through the model's own template",
            r->data.chatml);
    if (r->data.dropped)
        train_note(r->cfg, "%zu rows ask for no token and were left out", r->data.dropped);
    return 0;
}

/* ---- room ---- */

static int quantise(struct run *r, struct err *e)
{
    static const char *const name[] = {
        [QLORA_NF4] = "NF4", [QLORA_FP4] = "FP4", [QLORA_INT8] = "8-bit rows"
    };
    const struct qlora_cfg *q = &r->cfg->qlora;
    size_t n;

    if (!r->cfg->quantise)
        return 0;
    if (qlora_new(&r->qlora, &n, r->m, q, r->c, e))
        return -1;
    if (n)
        train_note(r->cfg, "%zu matrices quantised to %s%s: %zu MiB", n, name[q->kind],
                   q->nested ? " with 8-bit scales" : "", qlora_bytes(r->qlora) >> 20);
    else
        train_note(r->cfg, "the matrices are %s already and stay so",
                   enc_table[r->m->layer[0].up.enc].name);
    return 0;
}

/* KTO has every prompt with another completion beside. */
static size_t longest_rows(const struct run *r)
{
    return r->plan.longest * (r->cfg->task == TASK_KTO ? 2 : 1);
}

/* Whether batches of `batch` rows fit, activations computed again. */
static bool batch_fits(const struct run *r, const struct net_cfg *cfg, size_t batch, size_t have)
{
    struct train_cfg smaller = *r->cfg;
    struct run as = { .cfg = &smaller };
    size_t rows;

    smaller.batch = batch;
    plan_init(&as.plan, &r->data, &smaller);
    rows = longest_rows(&as);
    plan_release(&as.plan);
    return net_bytes_for(r->m, r->c, r->op, cfg, rows) <= have;
}

/* The nearest run that fits, as options. */
static void nearest_fit(const struct run *r, const struct net_cfg *asked, size_t have, char *out,
                        size_t size)
{
    const struct train_cfg *t = r->cfg;
    const size_t least = t->task == TASK_KTO ? 2 : 1;
    struct net_cfg cfg = *asked;
    size_t low = 0, high = t->batch; /* low fits (0: not known to), high does not */

    cfg.recompute = NET_ALL;
    while (high - low > 1) {
        const size_t mid = low + (high - low) / 2;

        *(batch_fits(r, &cfg, mid, have) ? &low : &high) = mid;
    }
    if (low >= least) {
        snprintf(out, size,
                 "--per-device-train-batch-size %zu --gradient-accumulation-steps %zu fits%s", low,
                 (t->batch * t->accumulate + low - 1) / low,
                 t->task == TASK_KTO ? "" : " and has steps of as many rows");
        return;
    }
    const size_t each = (t->task == TASK_KTO ? 4 : t->task == TASK_DPO ? 2 : 1); /* of a row */

    for (low = 0, high = r->plan.longest; high - low > 1;) {
        const size_t mid = low + (high - low) / 2;

        *(net_bytes_for(r->m, r->c, r->op, &cfg, mid * each) <= have ? &low : &high) = mid;
    }
    if (low)
        snprintf(out, size, "--per-device-train-batch-size %zu --max-length %zu fits", least, low);
    else
        snprintf(out, size,
                 "what learns takes %zu MiB alone: a smaller --lora-r, --optim adamw_8bit or "
                 "another base is what is left",
                 net_bytes_for(r->m, r->c, r->op, &cfg, 1) >> 20);
}

/* Chooses how many layers are computed again where not all activations fit, as few as possible, and
 * refuses what fits in no way. */
static int plan_memory(struct run *r, struct net_cfg *cfg, struct err *e)
{
    const size_t have = r->c->be->available(r->c), MiB = 1 << 20;
    const size_t rows = longest_rows(r);
    char hint[200];
    size_t all, less;

    r->had = have;
    all = net_bytes_for(r->m, r->c, r->op, cfg, rows);
    cfg->recompute = NET_ALL;
    less = net_bytes_for(r->m, r->c, r->op, cfg, rows);
    cfg->recompute = r->cfg->force_recompute ? NET_ALL : 0;
    r->planned = cfg->recompute ? less : all;
    if (!have)
        return 0;
    if (!cfg->recompute && all > have && less <= have) {
        const size_t layers = (size_t)r->m->hp->layers;
        size_t low = 0, high = layers; /* low do not fit, high do */

        while (high - low > 1) {
            const size_t mid = low + (high - low) / 2;

            cfg->recompute = mid;
            *(net_bytes_for(r->m, r->c, r->op, cfg, rows) <= have ? &high : &low) = mid;
        }
        cfg->recompute = high;
        r->planned = net_bytes_for(r->m, r->c, r->op, cfg, rows);
        train_note(
            r->cfg,
            "activations of %zu of %zu layers are computed again (--gradient-checkpointing: of "
            "all): %zu MiB in place of %zu",
            high, layers, r->planned / MiB, all / MiB);
    }
    if (r->planned <= have)
        return 0;
    nearest_fit(r, cfg, have, hint, sizeof(hint));
    return err_set(e, ERR_MEMORY,
                   "batches of up to %zu tokens need %zu MiB (%zu with --gradient-checkpointing), "
                   "%zu are free; %s",
                   rows, all / MiB, less / MiB, have / MiB, hint);
}

/* ---- state ---- */

/* What must be the same when a run goes on. */
static json_t *identity(const struct run *r)
{
    const struct train_cfg *c = r->cfg;

    return json_pack(
        "{s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:s, s:I, "
        "s:I, s:b, s:b, "
        "s:b, s:b, s:i, s:f, s:f, s:i, s:s, s:b, s:f, s:f, s:f, s:b}",
        "task", (int)c->task, "base", c->base_name, "data_sha256", r->data.digest, "batch",
        (json_int_t)c->batch, "accumulate", (json_int_t)c->accumulate, "steps",
        (json_int_t)r->at.steps, "max_length", (json_int_t)c->max_length, "learning_rate", c->lr,
        "weight_decay", c->weight_decay, "beta1", c->beta1, "beta2", c->beta2, "epsilon", c->eps,
        "max_grad_norm", c->max_grad_norm, "schedule", train_schedules[c->schedule], "warmup",
        (json_int_t)r->warmup, "seed", (json_int_t)c->seed, "shuffle", c->shuffle, "packing",
        c->packing, "bf16", c->bf16, "full", c->net.full, "loss",
        c->net.dft ? 1 : (int)c->loss.kind, "beta", c->loss.beta, "smoothing", c->loss.smoothing,
        "quantised", !c->quantise ? 0 : 1 + 2 * (int)c->qlora.kind + c->qlora.nested, "optim",
        optim_names[c->net.optim], "stochastic", c->net.stochastic, "dropout", c->net.dropout,
        "eval_split", c->eval_split, "neftune", c->net.neftune, "dora", c->net.dora);
}

static json_t *state_of(const struct run *r)
{
    return save_state(r->cfg, &r->at, r->log.rows, identity(r));
}

static int resume(struct run *r, struct err *e)
{
    const int rc = save_resume(r->cfg, net_params(r->net), identity(r), &r->at, &r->log.rows, e);

    r->step.tokens = r->at.tokens;
    if (rc > 0)
        net_changed(r->net);
    return rc < 0 ? -1 : 0;
}

/* ---- logs ---- */

static int log_step(struct run *r, const struct train_step *s, struct err *e)
{
    json_t *row =
        json_pack("{s:I, s:f, s:f, s:f, s:f, s:I, s:f}", "step", (json_int_t)s->step, "epoch",
                  s->epoch, "loss", s->loss, "grad_norm", s->grad_norm, "learning_rate", s->lr,
                  "num_tokens", (json_int_t)s->tokens, "tokens_per_s", s->tokens_per_s);

    if (s->has_rewards)
        json_object_update_new(row,
                               json_pack("{s:f, s:f, s:f, s:f, s:f}", "rewards/chosen", s->chosen,
                                         "rewards/rejected", s->rejected, "rewards/margins",
                                         s->chosen - s->rejected, "logps/chosen", s->logp_chosen,
                                         "logps/rejected", s->logp_rejected));
    if (s->has_rewards && !s->has_kl)
        json_object_set_new(row, "rewards/accuracies", json_real(s->accuracy));
    if (s->has_kl)
        json_object_set_new(row, "kl", json_real(s->kl));
    if (s->has_eval)
        json_object_set_new(row, "eval_loss", json_real(s->eval_loss));
    if (s->has_eval && s->has_rewards)
        json_object_set_new(row, "eval_rewards/margins", json_real(s->eval_margin));
    if (s->has_eval && s->has_rewards && !s->has_kl)
        json_object_set_new(row, "eval_rewards/accuracies", json_real(s->eval_accuracy));
    return log_row(&r->log, row, e);
}

/* ---- what is noticed ---- */

/* The rows of the file that a step trains on, the first of them. */
static void rows_of_step(const struct run *r, size_t step, char *out, size_t size)
{
    size_t at = 0, n;

    *out = 0;
    for (size_t part = 0; part < r->cfg->accumulate; part++) {
        size_t *list = plan_examples((struct plan *)(uintptr_t)&r->plan, r->cfg, step, part, &n);

        for (size_t i = 0; list && i < n && at + 24 < size; i++)
            at +=
                (size_t)snprintf(out + at, size - at, at ? ", %zu" : "%zu", r->data.p[list[i]].row);
        free(list);
    }
}

/* A loss six deviations above what the last ten or so steps had. */
static void watch_loss(struct run *r, size_t step, const struct train_step *s)
{
    const double keep = 0.9, dev = sqrt(fmax(0, r->square - r->mean * r->mean));
    char rows[120];

    if (r->losses++ < 10) { /* at first it only falls */
        r->mean = s->loss;
        r->square = s->loss * s->loss;
        return;
    }
    if (r->losses > 20 && s->loss > r->mean + 6 * fmax(dev, 0.02 * fabs(r->mean))) {
        rows_of_step(r, step, rows, sizeof(rows));
        train_note(r->cfg, "step %zu: loss %.4g, %.4g is usual; its rows of %s: %s", s->step,
                   s->loss, r->mean, r->cfg->train_file, rows);
    }
    r->mean = keep * r->mean + (1 - keep) * s->loss;
    r->square = keep * r->square + (1 - keep) * s->loss * s->loss;
}

/* Operations of attention where tokens meet so many: two products in the forward pass, four in the
 * backward pass. */
static double attention_operations(const struct run *r, double met)
{
    const struct hparams *hp = r->m->hp;

    return 12 * met * (double)(hp->layers * hp->heads * hp->head_dim);
}

/* Operations of a step that trains `tokens` rows: two for each weight in the forward pass, two for
 * the gradient below, two for a weight that learns. Attention and what is computed again do not
 * count. */
static double operations(const struct run *r, size_t tokens)
{
    double weights = (double)(r->m->head.rows * r->m->head.cols);
    const double learn = (double)param_count(net_params(r->net));

    for (int64_t l = 0; l < r->m->hp->layers; l++) {
        const struct layer *w = &r->m->layer[l];
        const struct weight *const all[] = {
            &w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down
        };

        for (size_t i = 0; i < ARRAY_LEN(all); i++)
            weights += (double)(all[i]->rows * all[i]->cols);
    }
    return (r->cfg->net.full ? 6 * weights : 4 * weights + 6 * learn) * (double)tokens;
}

/* ---- steps ---- */

static int update(struct run *r, size_t step, struct train_step *s, struct err *e)
{
    const struct train_cfg *cfg = r->cfg;
    const struct param_list *params = net_params(r->net);

    if (param_norm(params, r->c, r->op, &s->grad_norm, e))
        return -1;
    if (!isfinite(s->grad_norm) || !isfinite(s->loss)) {
        char bad[120];

        rows_of_step(r, step, bad, sizeof(bad));
        return err_set(e, ERR_FAIL,
                       "step %zu: the loss is %g and the gradient's norm %g; the checkpoint before "
                       "it is whole. A lower --learning-rate, more --warmup-steps or the step's "
                       "rows (%s) are what to look at",
                       step + 1, s->loss, s->grad_norm, bad);
    }
    s->lr = cfg->lr *
            train_schedule_at(cfg->schedule, &cfg->schedule_args, step, r->at.steps, r->warmup);
    const double clip = cfg->max_grad_norm > 0 ? cfg->max_grad_norm / (s->grad_norm + 1e-6) : 1;

    const struct adamw a = { .lr = (float)s->lr,
                             .beta1 = (float)cfg->beta1,
                             .beta2 = (float)cfg->beta2,
                             .eps = (float)cfg->eps,
                             .decay = (float)cfg->weight_decay,
                             .clip = clip < 1 ? (float)clip : 1,
                             .step = (int64_t)step + 1 };

    param_step(params, r->c, r->op, cfg->net.optim, &a, cfg->seed ^ 0x726f756e);
    net_changed(r->net);
    return 0;
}

static int evaluate(struct run *r, struct train_step *s, struct err *e)
{
    if (step_evaluate(&r->step, &r->eval, r->eval_ref, s, e))
        return -1;
    progress_evaluated(&r->at, r->cfg, s->step, s->eval_loss);
    return 0;
}

static int result(const void *arg, const char *dir, struct err *e)
{
    const struct run *r = arg;

    return save_result(r->net, r->cfg, dir, e);
}

static int checkpoint(struct run *r, struct err *e)
{
    const struct saver s = {
        .output_dir = r->cfg->output_dir, .params = net_params(r->net), .result = result, .arg = r
    };
    json_t *state = state_of(r);
    int rc = save_checkpoint(&s, r->at.step, state, e);

    if (rc == 0)
        rc = report_write(r->cfg->output_dir, state, e);
    json_decref(state);
    if (rc == 0)
        save_rotate(r->cfg->output_dir, r->cfg->save_limit, r->at.best_step);
    return rc;
}

/* 1: the run ends before its last step. */
static int one_step(struct run *r, size_t step, struct err *e)
{
    const struct train_cfg *cfg = r->cfg;
    struct train_step s = { .step = step + 1, .steps = r->at.steps };
    const double from = clock_seconds();
    const size_t before = r->step.tokens;
    const double met = r->step.met;
    const bool last = step + 1 == r->at.steps;

    if (step_gradients(&r->step, step, &s, e))
        return -1;
    if (step == 0 && cfg->dump_gradients && save_gradients(r->net, cfg->dump_gradients, e))
        return -1;
    if (update(r, step, &s, e))
        return -1;
    r->at.step = s.step;
    r->at.tokens = r->step.tokens;
    s.epoch = (double)(step + 1) / (double)r->plan.steps_per_epoch;
    s.seconds = clock_seconds() - from;
    s.tokens_per_s = (double)(r->step.tokens - before) / s.seconds;
    if (cfg->peak > 0) {
        s.mfu = operations(r, r->step.tokens - before) / s.seconds / cfg->peak;
        s.mfu_attention =
            s.mfu + attention_operations(r, r->step.met - met) / s.seconds / cfg->peak;
    }
    watch_loss(r, step, &s);
    if (r->eval.n && (last || (cfg->eval_steps && s.step % cfg->eval_steps == 0)) &&
        evaluate(r, &s, e))
        return -1;
    if ((last || s.has_eval || s.step == 1 ||
         (cfg->logging_steps && s.step % cfg->logging_steps == 0)) &&
        log_step(r, &s, e))
        return -1;
    if (cfg->on_step)
        cfg->on_step(cfg->arg, &s);
    if (((cfg->save_steps && s.step % cfg->save_steps == 0) ||
         (cfg->keep_best && s.has_eval && r->at.best_step == s.step)) &&
        checkpoint(r, e))
        return -1;
    if (!cfg->patience || !s.has_eval || r->at.worse < cfg->patience || last)
        return 0;
    train_note(r->cfg, "stopped at step %zu: no better evaluation than %.6g of step %zu", s.step,
               r->at.best, r->at.best_step);
    return 1;
}

static int start(struct run *r, struct err *e)
{
    const struct train_cfg *cfg = r->cfg;
    struct net_cfg net = cfg->net;

    /* added up they would be rounded each time */
    net.half_gradients = net.full && net.stochastic && r->c->half && cfg->accumulate == 1;
    net.reference =
        cfg->task == TASK_KTO || (cfg->task == TASK_DPO && loss_needs_reference(cfg->loss.kind));
    if (model_open(&r->m, cfg->model, e) || quantise(r, e) || read_data(r, e))
        return -1;
    plan_init(&r->plan, &r->data, cfg);
    r->at.steps_per_epoch = r->plan.steps_per_epoch;
    r->at.steps = cfg->max_steps ? cfg->max_steps
                                 : (size_t)ceil(cfg->epochs * (double)r->plan.steps_per_epoch);
    r->warmup = cfg->warmup_steps ? cfg->warmup_steps
                                  : (size_t)ceil(cfg->warmup_ratio * (double)r->at.steps);
    if (plan_memory(r, &net, e) || net_new(&r->net, r->m, r->c, r->op, &net, e))
        return -1;
    train_note(r->cfg, "%.2f million parameters learn, %zu steps",
               (double)param_count(net_params(r->net)) / 1e6, r->at.steps);
    r->step = (struct stepper){ .cfg = cfg, .net = r->net, .data = &r->data, .plan = &r->plan };
    r->step.ref = xmalloc((r->data.n + 1) * sizeof(double));
    r->eval_ref = xmalloc((r->eval.n + 1) * sizeof(double));
    for (size_t i = 0; i < r->data.n; i++)
        r->step.ref[i] = NAN;
    for (size_t i = 0; i < r->eval.n; i++)
        r->eval_ref[i] = NAN;
    /* room for the longest batch before the first step, not on the way */
    if (net_reserve(r->net, longest_rows(r), e))
        return -1;
    return dir_make(cfg->output_dir, e);
}

int train_run(const struct train_cfg *cfg, struct ctx *c, const struct train_ops *op, struct err *e)
{
    struct run r = { .cfg = cfg, .c = c, .op = op, .at.best = INFINITY };
    int rc = -1, more = 0;

    if (start(&r, e) || resume(&r, e) ||
        log_open(&r.log, cfg->output_dir, cfg->reports, cfg->run_name, identity(&r), e))
        goto done;
    while (more == 0 && r.at.step < r.at.steps)
        if ((more = one_step(&r, r.at.step, e)) < 0)
            goto done;
    json_t *state = state_of(&r);

    rc = save_take_best(cfg, net_params(r.net), &r.at, e);
    if (rc > 0)
        net_changed(r.net);
    if (rc >= 0)
        rc = save_result(r.net, cfg, cfg->output_dir, e);
    if (rc == 0)
        rc = save_trainer_state(cfg->output_dir, state, e);
    if (rc == 0)
        rc = report_write(cfg->output_dir, state, e);
    json_decref(state);
    if (ctx_on_host(c))
        train_note(cfg, "memory: %zu MiB at most with the model; %zu MiB were planned beside it",
                   mem_peak_rss() >> 20, r.planned >> 20);
    else
        train_note(cfg, "memory of the GPU: %zu MiB of the %zu MiB that were planned",
                   (r.had - c->be->available(c)) >> 20, r.planned >> 20);
done:
    if (log_close(&r.log, rc == 0, rc == 0 ? e : NULL) && rc == 0)
        rc = -1;
    free(r.step.ref);
    free(r.eval_ref);
    net_free(r.net);
    qlora_free(r.qlora);
    plan_release(&r.plan);
    data_release(&r.data);
    data_release(&r.eval);
    tok_free(r.tok);
    model_close(r.m);
    return rc;
}
