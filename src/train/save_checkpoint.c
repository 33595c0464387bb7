/* save_checkpoint.c - the state to go on from, and the small files that every result has. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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
static int save_state(const struct param_list *l, const char *dir, struct err *e)
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

int save_checkpoint(const struct saver *s, size_t step, const json_t *state, struct err *e)
{
    char *dir = xasprintf("%s/checkpoint-%zu", s->output_dir, step);
    char *tmp = xasprintf("%s.partial", dir);
    int rc = -1;

    remove_folder(tmp);
    if (s->result(s->arg, tmp, e) || save_state(s->params, tmp, e) ||
        save_trainer_state(tmp, state, e))
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

char *save_newest(const char *output_dir)
{
    size_t *steps, best = 0;
    const size_t n = list_checkpoints(output_dir, &steps);

    for (size_t i = 0; i < n; i++)
        best = steps[i] > best ? steps[i] : best;
    free(steps);
    return n ? xasprintf("%s/checkpoint-%zu", output_dir, best) : NULL;
}

int save_load(const struct param_list *l, const char *dir, json_t **state, struct err *e)
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
        memcpy(k[i].p, t->data, bytes);
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

int save_same(json_t *want, const json_t *was, const char *dir, struct err *e)
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
