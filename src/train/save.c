#include "train/save.h"

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

enum { CONFIG_MAX = 1 << 24 };

/* ---- tensors ---- */

/* The model's row for row h of what is written (struct param, turn). */
static size_t model_row(size_t h, size_t hd)
{
    return hd ? h / hd * hd + h % (hd / 2) * 2 + h % hd / (hd / 2) : h;
}

static struct tensor_view view_of(const struct param *p, const char *name, enum enc enc)
{
    struct tensor_view t = { .name = name, .enc = enc, .ndim = p->rows == 1 ? 1 : 2 };

    t.shape[0] = p->rows == 1 ? p->cols : p->rows;
    t.shape[1] = p->cols;
    return t;
}

/* One parameter's values, or gradients, rows (of a vector: values) in the order of Hugging Face. */
static int write_rows(struct st_writer *w, const struct param *p, bool gradients, enum enc enc,
                      struct err *e)
{
    const size_t n = p->rows == 1 ? p->cols : p->rows, cols = p->rows == 1 ? 1 : p->cols;
    const size_t bytes = cols * enc_table[enc].bytes;
    float *x = xmalloc((cols + 1) * sizeof(*x));
    uint8_t *row = xmalloc(bytes);
    int rc = 0;

    for (size_t h = 0; rc == 0 && h < n; h++) {
        const size_t at = model_row(h, p->turn) * cols;

        if (p->half && !gradients)
            bf16_decode_row(x, p->half + at, cols);
        else
            memcpy(x, (gradients ? p->g : p->w) + at, cols * sizeof(*x));
        enc_table[enc].encode(row, x, cols);
        rc = st_write_data(w, row, bytes, e);
    }
    free(x);
    free(row);
    return rc;
}

static int write_params(const struct net *n, const char *path, enum enc enc, bool gradients,
                        struct err *e)
{
    struct param **list;
    const size_t count = net_params(n, &list);
    struct tensor_view *t = xcalloc(count, sizeof(*t));
    struct st_writer w;
    int rc;

    for (size_t i = 0; i < count; i++)
        t[i] = view_of(list[i], list[i]->name, enc);
    rc = st_write_open(&w, path, t, count, "pt", e);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = write_rows(&w, list[i], gradients, enc, e);
    if (rc == 0)
        rc = st_write_close(&w, e);
    free(t);
    return rc;
}

int save_gradients(const struct net *n, const char *path, struct err *e)
{
    return write_params(n, path, ENC_F32, true, e);
}

/* ---- files beside them ---- */

static int write_json(const char *dir, const char *name, const json_t *j, struct err *e)
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

/* Absent in the source = not copied. */
static int copy_file(const char *from_dir, const char *to_dir, const char *name, struct err *e)
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

static int save_adapter(const struct net *n, const struct train_cfg *cfg, const char *dir,
                        struct err *e)
{
    const struct net_cfg *c = net_config(n);
    char *path = path_join(dir, "adapter_model.safetensors");
    json_t *targets = json_array(), *saved = json_array(), *j;
    int rc;

    for (size_t i = 0; i < NET_MATS; i++)
        if (c->targets >> i & 1)
            json_array_append_new(targets, json_string(net_mat_names[i]));
    for (size_t i = 0; i < NET_SAVES; i++)
        if (c->save >> i & 1)
            json_array_append_new(saved, json_string(net_save_names[i]));
    /* alpha as a whole number where it is one: PEFT's own type */
    json_t *alpha =
        c->alpha == floor(c->alpha) ? json_integer((json_int_t)c->alpha) : json_real(c->alpha);

    j = json_pack("{s:s, s:s, s:s, s:b, s:I, s:o, s:f, s:s, s:o, s:b, s:b, s:b, s:o}", "peft_type",
                  "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", cfg->base_name,
                  "inference_mode", 1, "r", (json_int_t)c->rank, "lora_alpha", alpha,
                  "lora_dropout", c->dropout, "bias", "none", "target_modules", targets,
                  "use_rslora", c->rslora, "use_dora", c->dora, "fan_in_fan_out", 0,
                  "modules_to_save", c->save ? json_incref(saved) : json_null());
    json_decref(saved);
    rc = write_params(n, path, ENC_F32, false, e);
    if (rc == 0)
        rc = write_json(dir, "adapter_config.json", j, e);
    json_decref(j);
    free(path);
    return rc;
}

static int save_full(const struct net *n, const struct train_cfg *cfg, const char *dir,
                     struct err *e)
{
    static const char *const kept[] = { "generation_config.json", "tokenizer.json",
                                        "tokenizer_config.json",  "special_tokens_map.json",
                                        "chat_template.jinja",    "tokenizer.model" };
    char *path = path_join(dir, "model.safetensors"), *from = path_join(cfg->model, "config.json");
    json_t *config = NULL;
    int rc = write_params(n, path, cfg->bf16 ? ENC_BF16 : ENC_F32, false, e);

    if (rc == 0)
        rc = json_parse_file(&config, from, CONFIG_MAX, e);
    if (rc == 0) {
        json_object_del(config, "dtype");
        json_object_set_new(config, "torch_dtype", json_string(cfg->bf16 ? "bfloat16" : "float32"));
        rc = write_json(dir, "config.json", config, e);
    }
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(kept); i++)
        rc = copy_file(cfg->model, dir, kept[i], e);
    json_decref(config);
    free(path);
    free(from);
    return rc;
}

int save_result(const struct net *n, const struct train_cfg *cfg, const char *dir, struct err *e)
{
    if (dir_make(dir, e))
        return -1;
    return net_config(n)->full ? save_full(n, cfg, dir, e) : save_adapter(n, cfg, dir, e);
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
static size_t all_kept(const struct net *n, struct kept **k)
{
    struct param **list;
    const size_t count = net_params(n, &list);
    size_t m = 0;

    *k = xcalloc(count * (1 + OPTIM_PARTS) + 1, sizeof(**k));
    for (size_t i = 0; i < count; i++) {
        struct param *p = list[i];

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
static int save_state(const struct net *n, const char *dir, struct err *e)
{
    struct kept *k;
    const size_t m = all_kept(n, &k);
    struct tensor_view *t = xcalloc(m + 1, sizeof(*t));
    char *path = path_join(dir, "optimizer.safetensors");
    struct st_writer w;
    int rc;

    for (size_t i = 0; i < m; i++) {
        t[i] = (struct tensor_view){ .name = k[i].name, .enc = k[i].enc, .ndim = 1 };
        t[i].shape[0] = k[i].n;
    }
    rc = st_write_open(&w, path, t, m, NULL, e);
    for (size_t i = 0; rc == 0 && i < m; i++)
        rc = st_write_data(&w, k[i].p, k[i].n * enc_table[k[i].enc].bytes, e);
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

int save_checkpoint(const struct net *n, const struct train_cfg *cfg, size_t step,
                    const json_t *state, struct err *e)
{
    char *dir = xasprintf("%s/checkpoint-%zu", cfg->output_dir, step);
    char *tmp = xasprintf("%s.partial", dir);
    int rc = -1;

    remove_folder(tmp);
    if (save_result(n, cfg, tmp, e) || save_state(n, tmp, e) ||
        write_json(tmp, "trainer_state.json", state, e))
        goto done;
    rc = swap_in(tmp, dir, e);
done:
    remove_folder(tmp);
    free(dir);
    free(tmp);
    return rc;
}

int save_trainer_state(const char *dir, const json_t *state, struct err *e)
{
    return write_json(dir, "trainer_state.json", state, e);
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

void save_rotate(const struct train_cfg *cfg, size_t keep, size_t best)
{
    size_t *steps;
    const size_t n = list_checkpoints(cfg->output_dir, &steps);

    if (n)
        qsort(steps, n, sizeof(*steps), newest_first);
    for (size_t i = keep; keep && i < n; i++) {
        char *dir = xasprintf("%s/checkpoint-%zu", cfg->output_dir, steps[i]);

        if (steps[i] != best)
            remove_checkpoint(cfg->output_dir, dir);
        free(dir);
    }
    free(steps);
}

char *save_newest(const char *output_dir)
{
    size_t *steps, best = 0;
    const size_t n = list_checkpoints(output_dir, &steps);

    for (size_t i = 0; i < n; i++)
        best = steps[i] > best ? steps[i] : best;
    free(steps);
    return n ? xasprintf("%s/checkpoint-%zu", output_dir, best) : NULL;
}

int save_load(struct net *n, const char *dir, json_t **state, struct err *e)
{
    char *path = path_join(dir, "optimizer.safetensors");
    char *json = path_join(dir, "trainer_state.json");
    struct kept *k = NULL;
    const size_t m = all_kept(n, &k);
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
        memcpy(k[i].p, t->data, bytes);
    }
    net_changed(n);
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
