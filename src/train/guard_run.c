#include "train/guard_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "format/st_write.h"
#include "train/batch.h"
#include "train/guard_data.h"
#include "train/guard_head.h"
#include "train/log.h"
#include "train/report.h"
#include "train/save.h"

struct guard_run {
    const struct guard_train_cfg *cfg;
    struct ctx *c;
    const struct train_ops *op;
    struct deberta *model;
    struct unigram *tok;
    struct st *st; /* the model's tensors */
    struct guard_data train, held;
    struct guard_head *head;
    struct plan plan;
    struct progress at;
    size_t warmup, most; /* most: rows of a batch */
    double weight[DEBERTA_LABELS];
    struct log log;
    float *feature; /* [most, D] of a batch, and what belongs to its rows */
    int32_t *label;
    float *coef, *nll, *logits;
    void *mem;
    size_t done; /* texts encoded */
};

/* ---- measures ---- */

void guard_measures_derive(struct guard_measures *m, size_t labels)
{
    size_t right = 0, classes = 0;

    m->macro_f1 = 0;
    for (size_t i = 0; i < labels; i++) {
        size_t is = 0, said = 0;

        for (size_t k = 0; k < labels; k++) {
            is += m->confusion[i][k];
            said += m->confusion[k][i];
        }
        const double hit = (double)m->confusion[i][i];

        right += m->confusion[i][i];
        m->precision[i] = said ? hit / (double)said : 0;
        m->recall[i] = is ? hit / (double)is : 0;
        m->f1[i] = is + said ? 2 * hit / (double)(is + said) : 0;
        m->macro_f1 += is ? m->f1[i] : 0;
        classes += is > 0;
    }
    m->accuracy = m->n ? (double)right / (double)m->n : 0;
    m->macro_f1 /= classes ? (double)classes : 1;
}

/* Rows of a batch side by side; NULL list = rows from .. from + n. */
static void gather(struct guard_run *r, const struct guard_data *d, const size_t *list, size_t from,
                   size_t n)
{
    const size_t D = deberta_dim(r->model);

    for (size_t i = 0; i < n; i++) {
        const size_t row = list ? list[i] : from + i;

        memcpy(r->feature + i * D, d->feature + row * D, D * sizeof(float));
        r->label[i] = d->label[row];
    }
}

static void measure(struct guard_run *r, const struct guard_data *d, struct guard_measures *m)
{
    const size_t C = deberta_labels(r->model);
    double sum = 0;

    *m = (struct guard_measures){ .n = d->rows.n };
    for (size_t from = 0; from < d->rows.n; from += r->most) {
        const size_t n = d->rows.n - from < r->most ? d->rows.n - from : r->most;

        gather(r, d, NULL, from, n);
        guard_head_loss(r->head, r->feature, r->label, n, NULL, 0, 0, r->nll, r->logits);
        for (size_t i = 0; i < n; i++) {
            size_t said = 0;

            for (size_t k = 1; k < C; k++)
                if (r->logits[i * C + k] > r->logits[i * C + said])
                    said = k;
            m->confusion[r->label[i]][said]++;
            sum += (double)r->nll[i];
        }
    }
    m->loss = sum / (double)(m->n ? m->n : 1);
    guard_measures_derive(m, C);
}

/* ---- rows ---- */

static void encoded(void *arg)
{
    struct guard_run *r = arg;

    r->done++;
    if (r->cfg->on_text)
        r->cfg->on_text(r->cfg->run.arg, r->done, r->train.rows.n + r->held.rows.n);
}

static int read_rows(struct guard_run *r, struct err *e)
{
    const struct train_cfg *t = &r->cfg->run;
    const struct guard_data_cfg d = { .model = r->model,
                                      .tok = r->tok,
                                      .text_field = t->text_field,
                                      .label_field = r->cfg->label_field };
    const size_t C = deberta_labels(r->model);

    if (guard_data_read(&r->train, t->train_file, &d, e))
        return -1;
    if (t->eval_file && guard_data_read(&r->held, t->eval_file, &d, e))
        return -1;
    if (r->train.rows.cut + r->held.rows.cut)
        train_note(t, "%zu texts were cut at %zu tokens", r->train.rows.cut + r->held.rows.cut,
                   deberta_positions(r->model));
    if (!t->eval_file && r->cfg->eval_split > 0)
        guard_data_split(&r->train, &r->held, r->cfg->eval_split, t->seed);
    if ((t->patience || t->keep_best) && !r->held.rows.n)
        return err_set(e, ERR_USAGE,
                       "--early-stopping-patience and --load-best-model-at-end need rows held out, "
                       "and there are none: --eval-file, or a larger --eval-split");
    train_note(t, "%zu texts to train on, %zu held out, %zu tokens", r->train.rows.n,
               r->held.rows.n, r->train.rows.tokens + r->held.rows.tokens);
    for (size_t i = 0; i < C; i++) {
        r->weight[i] = r->cfg->balance && r->train.count[i]
                           ? (double)r->train.rows.n / (double)r->train.count[i]
                           : 1;
        if (!r->train.count[i])
            train_note(t, "no text is %s: what is trained will not say so either",
                       deberta_label(r->model, i));
    }
    return 0;
}

static int encode_rows(struct guard_run *r, struct err *e)
{
    return guard_data_encode(&r->train, r->model, encoded, r, e) ||
                   guard_data_encode(&r->held, r->model, encoded, r, e)
               ? -1
               : 0;
}

/* ---- what is written ---- */

static const struct param *param_of(const struct guard_run *r, const char *name)
{
    const struct param_list *l = guard_head_params(r->head);

    for (size_t i = 0; i < l->n; i++)
        if (!strcmp(l->p[i]->name, name))
            return l->p[i];
    return NULL;
}

/* The model's tensors as they are, the head's as they have become, in float32. */
static int write_model(const struct guard_run *r, const char *dir, struct err *e)
{
    const size_t n = st_tensors(r->st);
    struct tensor_view *t = xcalloc(n + 1, sizeof(*t));
    char *path = path_join(dir, "model.safetensors");
    struct st_writer w;
    int rc;

    for (size_t i = 0; i < n; i++) {
        t[i] = *st_tensor(r->st, i);
        if (param_of(r, t[i].name)) {
            t[i].enc = ENC_F32;
            t[i].data = (const void *)param_of(r, t[i].name)->w;
            t[i].nbytes = param_of(r, t[i].name)->rows * param_of(r, t[i].name)->cols * 4;
        }
    }
    rc = st_write_open(&w, path, t, n, "pt", e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = st_write_data(&w, t[i].data, t[i].nbytes, e);
    if (rc == 0)
        rc = st_write_close(&w, e);
    free(t);
    free(path);
    return rc;
}

static int write_result(const struct guard_run *r, const char *dir, struct err *e)
{
    static const char *const kept[] = { "config.json",           "tokenizer.json",
                                        "tokenizer_config.json", "special_tokens_map.json",
                                        "added_tokens.json",     "spm.model" };
    int rc = write_model(r, dir, e);

    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(kept); i++)
        rc = save_copy(r->cfg->run.model, dir, kept[i], e);
    return rc;
}

static json_t *identity(const struct guard_run *r)
{
    const struct train_cfg *c = &r->cfg->run;

    return json_pack("{s:s, s:s, s:s, s:s, s:f, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:s, "
                     "s:I, s:I, s:b, s:b, s:f}",
                     "task", "guard", "base", c->base_name, "data_sha256", r->train.rows.digest,
                     "eval_sha256", r->held.rows.digest, "eval_split", r->cfg->eval_split, "batch",
                     (json_int_t)c->batch, "accumulate", (json_int_t)c->accumulate, "steps",
                     (json_int_t)r->at.steps, "learning_rate", c->lr, "weight_decay",
                     c->weight_decay, "beta1", c->beta1, "beta2", c->beta2, "epsilon", c->eps,
                     "max_grad_norm", c->max_grad_norm, "schedule", train_schedules[c->schedule],
                     "warmup", (json_int_t)r->warmup, "seed", (json_int_t)c->seed, "shuffle",
                     c->shuffle, "balance", r->cfg->balance, "dropout", c->net.dropout);
}

static int checkpoint(struct guard_run *r, struct err *e)
{
    const struct train_cfg *t = &r->cfg->run;
    const struct saver s = { .output_dir = t->output_dir, .params = guard_head_params(r->head) };
    json_t *state = save_state(t, &r->at, r->log.rows, identity(r));
    const int rc = save_checkpoint(&s, r->at.step, state, e);

    json_decref(state);
    if (rc == 0)
        save_rotate(t->output_dir, t->save_limit, r->at.best_step);
    return rc;
}

/* ---- steps ---- */

/* The weighted mean loss of a step's rows, and its gradient. */
static void gradients(struct guard_run *r, struct train_step *s)
{
    const struct train_cfg *t = &r->cfg->run;
    double all = 0, sum = 0;
    size_t *list, n;

    for (size_t part = 0; part < t->accumulate; part++) {
        list = plan_examples(&r->plan, t, r->at.step, part, &n);
        for (size_t i = 0; list && i < n; i++)
            all += r->weight[r->train.label[list[i]]];
        free(list);
    }
    for (size_t part = 0; part < t->accumulate; part++) {
        list = plan_examples(&r->plan, t, r->at.step, part, &n);
        if (!list)
            break;
        gather(r, &r->train, list, 0, n);
        free(list);
        for (size_t i = 0; i < n; i++)
            r->coef[i] = (float)(r->weight[r->label[i]] / all);
        guard_head_loss(r->head, r->feature, r->label, n, r->coef, t->net.dropout,
                        rng_u64(t->seed ^ 0x64726f70, r->at.step * t->accumulate + part), r->nll,
                        NULL);
        for (size_t i = 0; i < n; i++)
            sum += (double)r->coef[i] * (double)r->nll[i];
        r->at.tokens += n;
    }
    s->loss = sum;
}

static int log_step(struct guard_run *r, const struct train_step *s, struct err *e)
{
    json_t *row =
        json_pack("{s:I, s:f, s:f, s:f, s:f, s:I, s:f}", "step", (json_int_t)s->step, "epoch",
                  s->epoch, "loss", s->loss, "grad_norm", s->grad_norm, "learning_rate", s->lr,
                  "num_rows", (json_int_t)s->tokens, "rows_per_s", s->tokens_per_s);

    if (s->has_eval)
        json_object_update_new(
            row, json_pack("{s:f, s:f}", "eval_loss", s->eval_loss, "eval_accuracy", s->accuracy));
    return log_row(&r->log, row, e);
}

/* 1: the run ends before its last step. */
static int one_step(struct guard_run *r, struct err *e)
{
    const struct train_cfg *t = &r->cfg->run;
    const struct param_list *params = guard_head_params(r->head);
    const size_t every = t->eval_steps ? t->eval_steps : r->at.steps_per_epoch;
    struct train_step s = { .step = r->at.step + 1, .steps = r->at.steps };
    const bool last = s.step == s.steps;
    const size_t before = r->at.tokens;
    struct guard_measures m;
    const double from = clock_seconds();

    gradients(r, &s);
    if (param_norm(params, r->c, r->op, &s.grad_norm, e))
        return -1;
    if (!isfinite(s.loss) || !isfinite(s.grad_norm))
        return err_set(e, ERR_FAIL,
                       "step %zu: the loss is %g and the gradient's norm %g; the checkpoint before "
                       "it is whole. A lower --learning-rate is what to look at",
                       s.step, s.loss, s.grad_norm);
    s.lr = t->lr *
           train_schedule_at(t->schedule, &t->schedule_args, r->at.step, r->at.steps, r->warmup);
    const double clip = t->max_grad_norm > 0 ? t->max_grad_norm / (s.grad_norm + 1e-6) : 1;
    const struct adamw a = { .lr = (float)s.lr,
                             .beta1 = (float)t->beta1,
                             .beta2 = (float)t->beta2,
                             .eps = (float)t->eps,
                             .decay = (float)t->weight_decay,
                             .clip = clip < 1 ? (float)clip : 1,
                             .step = (int64_t)s.step };

    param_step(params, r->c, r->op, OPTIMISER_ADAMW, &a, t->seed);
    r->at.step = s.step;
    s.tokens = r->at.tokens;
    s.epoch = (double)s.step / (double)r->at.steps_per_epoch;
    s.seconds = clock_seconds() - from;
    s.tokens_per_s = (double)(r->at.tokens - before) / s.seconds;
    if (r->held.rows.n && (last || s.step % every == 0)) {
        measure(r, &r->held, &m);
        s.has_eval = true;
        s.eval_loss = m.loss;
        s.accuracy = m.accuracy;
        progress_evaluated(&r->at, t, s.step, m.loss);
    }
    if ((last || s.has_eval || s.step == 1 ||
         (t->logging_steps && s.step % t->logging_steps == 0)) &&
        log_step(r, &s, e))
        return -1;
    if (t->on_step)
        t->on_step(t->arg, &s);
    if (((t->save_steps && s.step % t->save_steps == 0) ||
         (t->keep_best && s.has_eval && r->at.best_step == s.step)) &&
        checkpoint(r, e))
        return -1;
    if (!t->patience || !s.has_eval || r->at.worse < t->patience || last)
        return 0;
    train_note(t, "stopped at step %zu: no better evaluation than %.6g of step %zu", s.step,
               r->at.best, r->at.best_step);
    return 1;
}

/* ---- a run ---- */

static int start(struct guard_run *r, struct ctx *encoder, struct err *e)
{
    const struct train_cfg *t = &r->cfg->run;
    char *weights = path_join(t->model, "model.safetensors");
    int rc = -1;

    if (deberta_open(&r->model, encoder, t->model, e) || unigram_open(&r->tok, t->model, e) ||
        st_open(&r->st, weights, e))
        goto done;
    if (unigram_size(r->tok) > deberta_vocab(r->model)) {
        err_set(e, ERR_FORMAT, "%s: the tokenizer has %zu pieces, the model a vocabulary of %zu",
                t->model, unigram_size(r->tok), deberta_vocab(r->model));
        goto done;
    }
    if (read_rows(r, e))
        goto done;
    const size_t D = deberta_dim(r->model), C = deberta_labels(r->model);

    r->most = t->batch > 256 ? t->batch : 256;
    if (mem_new(&r->mem, r->most, (D + C + 3) * sizeof(float), "a batch", e) ||
        guard_head_new(&r->head, r->c, r->op, r->st, C, D, r->most, e))
        goto done;
    r->feature = r->mem;
    r->logits = r->feature + r->most * D;
    r->coef = r->logits + r->most * C;
    r->nll = r->coef + r->most;
    r->label = (int32_t *)(void *)(r->nll + r->most);
    plan_init(&r->plan, &r->train.rows, t);
    r->at.steps_per_epoch = r->plan.steps_per_epoch;
    r->at.steps =
        t->max_steps ? t->max_steps : (size_t)ceil(t->epochs * (double)r->at.steps_per_epoch);
    r->warmup =
        t->warmup_steps ? t->warmup_steps : (size_t)ceil(t->warmup_ratio * (double)r->at.steps);
    rc = dir_make(t->output_dir, e);
    if (rc == 0)
        rc = encode_rows(r, e);
done:
    free(weights);
    return rc;
}

static int finish(struct guard_run *r, struct guard_trained *out, struct err *e)
{
    const struct train_cfg *t = &r->cfg->run;
    json_t *state = save_state(t, &r->at, r->log.rows, identity(r));
    int rc = save_take_best(t, guard_head_params(r->head), &r->at, e);

    if (rc >= 0)
        rc = write_result(r, t->output_dir, e);
    if (rc == 0)
        rc = save_trainer_state(t->output_dir, state, e);
    if (rc == 0)
        rc = report_write(t->output_dir, state, e);
    json_decref(state);
    measure(r, r->held.rows.n ? &r->held : &r->train, &out->after);
    out->steps = r->at.steps;
    out->steps_taken = r->at.step;
    out->best_step = r->at.best_step;
    return rc;
}

static void describe(struct guard_run *r, struct guard_trained *out)
{
    *out = (struct guard_trained){ .labels = deberta_labels(r->model) };
    for (size_t i = 0; i < out->labels; i++) {
        snprintf(out->name[i], sizeof(out->name[i]), "%s", deberta_label(r->model, i));
        out->train[i] = r->train.count[i];
        out->held[i] = r->held.count[i];
    }
    measure(r, r->held.rows.n ? &r->held : &r->train, &out->before);
}

int guard_train_run(const struct guard_train_cfg *cfg, struct ctx *encoder, struct ctx *c,
                    const struct train_ops *op, struct guard_trained *out, struct err *e)
{
    struct guard_run r = { .cfg = cfg, .c = c, .op = op, .at.best = INFINITY };
    int rc = -1, more = 0;

    if (start(&r, encoder, e))
        goto done;
    describe(&r, out);
    if (save_resume(&cfg->run, guard_head_params(r.head), identity(&r), &r.at, &r.log.rows, e) <
            0 ||
        log_open(&r.log, cfg->run.output_dir, cfg->run.reports, cfg->run.run_name, identity(&r), e))
        goto done;
    while (more == 0 && r.at.step < r.at.steps)
        if ((more = one_step(&r, e)) < 0)
            goto done;
    rc = finish(&r, out, e);
done:
    if (log_close(&r.log, rc == 0, rc == 0 ? e : NULL) && rc == 0)
        rc = -1;
    plan_release(&r.plan);
    guard_head_free(r.head);
    guard_data_release(&r.train);
    guard_data_release(&r.held);
    st_close(r.st);
    unigram_close(r.tok);
    deberta_close(r.model);
    free(r.mem);
    return rc;
}
