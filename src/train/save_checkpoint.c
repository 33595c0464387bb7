/* save_checkpoint.c - the state to go on from, and the small files that every result has. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "format/safetensors.h"
#include "format/st_write.h"
#include "train/save.h"

/* ---- files beside them ---- */

int save_json(const char *dir, const char *name, const json_t *j, struct err *e)
{
    char *path = path_join(dir, name);
    struct out_file o;
    int rc = -1;

    if (out_open(&o, path, e) == 0) {
        if (json_dumpf(j, o.f, JSON_INDENT(2)) || fputc('\n', o.f) == EOF) {
            err_set(e, ERR_FAIL, "%s: %s", path, strerror(errno));
            out_abort(&o);
        } else {
            rc = out_commit(&o, e);
        }
    }
    free(path);
    return rc;
}

int save_copy(const char *from_dir, const char *to_dir, const char *name, struct err *e)
{
    char *from = path_join(from_dir, name), *to = path_join(to_dir, name), *text = NULL;
    struct out_file o;
    size_t n;
    int rc = 0;

    if (file_exists(from)) {
        rc = file_read(&text, &n, from, (size_t)1 << 30, e);
        if (rc == 0)
            rc = out_open(&o, to, e);
        if (rc == 0 && fwrite(text, 1, n, o.f) != n) {
            rc = err_set(e, ERR_FAIL, "%s: %s", to, strerror(errno));
            out_abort(&o);
        } else if (rc == 0) {
            rc = out_commit(&o, e);
        }
    }
    free(text);
    free(from);
    free(to);
    return rc;
}

int save_trainer_state(const char *dir, const json_t *state, struct err *e)
{
    return save_json(dir, "trainer_state.json", state, e);
}

/* ---- how far a run is ---- */

void progress_evaluated(struct progress *p, const struct train_cfg *cfg, size_t step, double loss)
{
    p->worse = loss < p->best - cfg->better ? 0 : p->worse + 1;
    if (loss < p->best) {
        p->best = loss;
        p->best_step = step;
    }
}

json_t *save_state(const struct train_cfg *cfg, const struct progress *p, json_t *log,
                   json_t *identity)
{
    char *best =
        isinf(p->best) ? NULL : xasprintf("%s/checkpoint-%zu", cfg->output_dir, p->best_step);
    json_t *metric = isinf(p->best) ? json_null() : json_real(p->best);
    json_t *j = json_pack(
        "{s:o, s:I, s:s?, s:f, s:I, s:I, s:b, s:b, s:b, s:O, s:I, s:I, s:I, s:f, s:I, "
        "s:{s:{s:{s:I}}}, s:f, "
        "s:I, s:n, s:n, s:o}",
        "best_metric", metric, "best_global_step", (json_int_t)p->best_step,
        "best_model_checkpoint", best, "epoch", (double)p->step / (double)p->steps_per_epoch,
        "eval_steps", (json_int_t)cfg->eval_steps, "global_step", (json_int_t)p->step,
        "is_hyper_param_search", 0, "is_local_process_zero", 1, "is_world_process_zero", 1,
        "log_history", log, "logging_steps", (json_int_t)cfg->logging_steps, "max_steps",
        (json_int_t)p->steps, "num_input_tokens_seen", (json_int_t)p->tokens, "num_train_epochs",
        cfg->epochs, "save_steps", (json_int_t)cfg->save_steps, "stateful_callbacks",
        "EarlyStoppingCallback", "attributes", "early_stopping_patience_counter",
        (json_int_t)p->worse, "total_flos", 0.0, "train_batch_size", (json_int_t)cfg->batch,
        "trial_name", "trial_params", "puna", identity);

    free(best);
    return j;
}

/* ---- checkpoints ---- */

/* A thing that is kept of a parameter. */
struct kept {
    char *name; /* owned */
    void *p;
    size_t n;
    enum enc enc;
};

/* Values and what the optimiser keeps, of all parameters; *k is malloc'd. */
static size_t all_kept(const struct param_list *l, struct kept **k)
{
    size_t m = 0;

    *k = xcalloc(l->n * (1 + OPTIM_PARTS) + 1, sizeof(**k));
    for (size_t i = 0; i < l->n; i++) {
        struct param *p = l->p[i];

        (*k)[m++] = (struct kept){ .name = xasprintf("%s.value", p->name),
                                   .p = p->half ? (void *)p->half : (void *)p->w,
                                   .n = p->rows * p->cols,
                                   .enc = p->half ? ENC_BF16 : ENC_F32 };
        for (size_t x = 0; x < p->n_part; x++)
            (*k)[m++] = (struct kept){ .name = xasprintf("%s.%s", p->name, p->part[x].name),
                                       .p = p->part[x].p,
                                       .n = p->part[x].n,
                                       .enc = p->part[x].enc };
    }
    return m;
}

static void kept_free(struct kept *k, size_t m)
{
    for (size_t i = 0; i < m; i++)
        free(k[i].name);
    free(k);
}

/* Everything as it is, in the model's own order: what is read back is what was. */
static int save_values(const struct param_list *l, const char *dir, struct err *e)
{
    struct kept *k;
    const size_t m = all_kept(l, &k);
    struct tensor_view *t = xcalloc(m + 1, sizeof(*t));
    char *path = path_join(dir, "optimizer.safetensors");
    struct st_writer w;
    int rc;

    for (size_t i = 0; i < m; i++) {
        t[i] = (struct tensor_view){ .name = k[i].name, .enc = k[i].enc, .ndim = 1 };
        t[i].shape[0] = k[i].n;
    }
    rc = st_write_open(&w, path, t, m, NULL, e);
    for (size_t i = 0; rc == 0 && i < m; i++) {
        const size_t bytes = k[i].n * enc_table[k[i].enc].bytes;
        const void *at;
        void *owned;

        rc = param_view(l, &at, &owned, k[i].p, bytes, e);
        if (rc == 0)
            rc = st_write_data(&w, at, bytes, e);
        free(owned);
    }
    if (rc == 0)
        rc = st_write_close(&w, e);
    kept_free(k, m);
    free(t);
    free(path);
    return rc;
}

/* A folder of plain files; errors are left for who makes it again. */
static void remove_folder(const char *dir)
{
    DIR *d = opendir(dir);

    for (const struct dirent *f; d && (f = readdir(d));) {
        char *path = path_join(dir, f->d_name);

        if (f->d_name[0] != '.')
            (void)unlink(path);
        free(path);
    }
    if (d)
        closedir(d);
    (void)rmdir(dir);
}

/* A checkpoint goes at once: what is left of it when the process dies has another name. */
static void remove_checkpoint(const char *output_dir, const char *dir)
{
    char *gone = path_join(output_dir, "removed.partial");

    remove_folder(gone);
    if (rename(dir, gone) == 0)
        remove_folder(gone);
    free(gone);
}

/* tmp gets the name dir, and what had it the name tmp, at once. */
static int swap_in(const char *tmp, const char *dir, struct err *e)
{
    const int rc = file_is_dir(dir) ? renameat2(AT_FDCWD, tmp, AT_FDCWD, dir, RENAME_EXCHANGE)
                                    : rename(tmp, dir);

    return rc ? err_set(e, ERR_FAIL, "%s: %s", dir, strerror(errno)) : 0;
}

int save_checkpoint(const struct saver *s, size_t step, const json_t *state, struct err *e)
{
    char *dir = xasprintf("%s/checkpoint-%zu", s->output_dir, step);
    char *tmp = xasprintf("%s.partial", dir);
    int rc = -1;

    remove_folder(tmp);
    if ((s->result ? s->result(s->arg, tmp, e) : dir_make(tmp, e)) ||
        save_values(s->params, tmp, e) || save_trainer_state(tmp, state, e))
        goto done;
    rc = swap_in(tmp, dir, e);
done:
    remove_folder(tmp);
    free(dir);
    free(tmp);
    return rc;
}

/* Steps of the checkpoints there; returns how many, *steps is malloc'd. */
static size_t list_checkpoints(const char *dir, size_t **steps)
{
    DIR *d = opendir(dir);
    size_t n = 0;

    *steps = NULL;
    for (const struct dirent *f; d && (f = readdir(d));) {
        size_t step;
        int end = 0;

        if (sscanf(f->d_name, "checkpoint-%zu%n", &step, &end) != 1 || f->d_name[end])
            continue;
        *steps = xrealloc(*steps, (n + 1) * sizeof(**steps));
        (*steps)[n++] = step;
    }
    if (d)
        closedir(d);
    return n;
}

static int newest_first(const void *a, const void *b)
{
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;

    return (x < y) - (x > y);
}

void save_rotate(const char *output_dir, size_t keep, size_t best)
{
    size_t *steps;
    const size_t n = list_checkpoints(output_dir, &steps);

    if (n)
        qsort(steps, n, sizeof(*steps), newest_first);
    for (size_t i = keep; keep && i < n; i++) {
        char *dir = xasprintf("%s/checkpoint-%zu", output_dir, steps[i]);

        if (steps[i] != best)
            remove_checkpoint(output_dir, dir);
        free(dir);
    }
    free(steps);
}

/* The newest checkpoint's folder, free() it; NULL = there is none. */
static char *newest(const char *output_dir)
{
    size_t *steps, best = 0;
    const size_t n = list_checkpoints(output_dir, &steps);

    for (size_t i = 0; i < n; i++)
        best = steps[i] > best ? steps[i] : best;
    free(steps);
    return n ? xasprintf("%s/checkpoint-%zu", output_dir, best) : NULL;
}

/* Parameters and moments, and trainer_state.json, json_decref it. */
static int load(const struct param_list *l, const char *dir, json_t **state, struct err *e)
{
    char *path = path_join(dir, "optimizer.safetensors");
    char *json = path_join(dir, "trainer_state.json");
    struct kept *k = NULL;
    const size_t m = all_kept(l, &k);
    struct st *s = NULL;
    json_t *j = NULL;
    int rc = -1;

    if (json_parse_file(&j, json, (size_t)1 << 30, e) || st_open(&s, path, e))
        goto done;
    for (size_t i = 0; i < m; i++) {
        const struct tensor_view *t = st_find(s, k[i].name);
        const size_t bytes = k[i].n * enc_table[k[i].enc].bytes;

        if (!t || t->enc != k[i].enc || t->nbytes != bytes) {
            err_set(e, ERR_FORMAT,
                    "%s: %s of %zu values (%s) is not there: another model, adapter or optimiser",
                    path, k[i].name, k[i].n, enc_table[k[i].enc].name);
            goto done;
        }
        if (param_write(l, k[i].p, t->data, bytes, e))
            goto done;
    }
    *state = j;
    j = NULL;
    rc = 0;
done:
    json_decref(j);
    st_close(s);
    kept_free(k, m);
    free(path);
    free(json);
    return rc;
}

static int same(json_t *want, const json_t *was, const char *dir, struct err *e)
{
    json_t *v;
    const char *key;
    int rc = 0;

    json_object_foreach(want, key, v)
    {
        const json_t *had = json_object_get(was, key);

        if (rc || (had && json_equal(had, v)))
            continue;
        char *a = had ? json_dumps(had, JSON_ENCODE_ANY) : NULL;
        char *b = json_dumps(v, JSON_ENCODE_ANY);

        rc = err_set(e, ERR_USAGE, "%s was made with %s %.100s, this run has %.100s", dir, key,
                     a ? a : "unknown", b ? b : "");
        free(a);
        free(b);
    }
    json_decref(want);
    return rc;
}

int save_resume(const struct train_cfg *cfg, const struct param_list *l, json_t *identity,
                struct progress *p, json_t **log, struct err *e)
{
    char *dir = !cfg->resume                   ? NULL
                : !strcmp(cfg->resume, "last") ? newest(cfg->output_dir)
                                               : xstrdup(cfg->resume);
    json_t *state = NULL;
    int64_t at = 0, tokens = 0, best = 0;
    int rc = -1;

    if (!dir) {
        json_decref(identity);
        return 0;
    }
    if (load(l, dir, &state, e)) {
        json_decref(identity);
        goto done;
    }
    if (same(identity, json_object_get(state, "puna"), dir, e) ||
        json_get_int(state, "global_step", 1, INT64_MAX, &at, dir, e) < 0 ||
        json_get_int(state, "num_input_tokens_seen", 0, INT64_MAX, &tokens, dir, e) < 0 ||
        json_get_int(state, "best_global_step", 0, INT64_MAX, &best, dir, e) < 0 ||
        json_get_num(state, "best_metric", -1e300, 1e300, &p->best, dir, e) < 0)
        goto done;
    const json_t *stop =
        json_object_get(json_object_get(state, "stateful_callbacks"), "EarlyStoppingCallback");

    p->worse = (size_t)json_integer_value(
        json_object_get(json_object_get(stop, "attributes"), "early_stopping_patience_counter"));
    p->step = (size_t)at;
    p->tokens = (size_t)tokens;
    p->best_step = (size_t)best;
    *log = json_incref(json_object_get(state, "log_history"));
    train_note(cfg, "going on from %s at step %zu of %zu", dir, p->step, p->steps);
    rc = 1;
done:
    json_decref(state);
    free(dir);
    return rc;
}

int save_take_best(const struct train_cfg *cfg, const struct param_list *l,
                   const struct progress *p, struct err *e)
{
    json_t *state = NULL;

    if (!cfg->keep_best || isinf(p->best) || p->best_step == p->step)
        return 0;
    char *dir = xasprintf("%s/checkpoint-%zu", cfg->output_dir, p->best_step);
    const int rc = load(l, dir, &state, e);

    if (rc == 0)
        train_note(cfg, "the result is that of step %zu, evaluation loss %.6g", p->best_step,
                   p->best);
    json_decref(state);
    free(dir);
    return rc ? -1 : 1;
}
