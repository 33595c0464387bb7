#include "train/guard_data.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "train/rows.h"

/* ---- rows ---- */

static int bad_label(const struct deberta *m, const char *what, const json_t *v, struct err *e)
{
    char *got = json_dumps(v, JSON_ENCODE_ANY), all[400] = "";

    for (size_t i = 0; i < deberta_labels(m); i++) {
        const size_t at = strlen(all);

        snprintf(all + at, sizeof(all) - at, "%s%zu %s", i ? ", " : "", i, deberta_label(m, i));
    }
    err_set(e, ERR_FORMAT, "%s: label %.60s; the model has %s", what, got ? got : "?", all);
    free(got);
    return -1;
}

/* A number may come as text: CSV has nothing else. */
static int label_of(int32_t *out, const struct deberta *m, const json_t *v, const char *what,
                    struct err *e)
{
    const size_t n = deberta_labels(m);
    const char *name = json_string_value(v);
    char *end = NULL;
    long long number = json_is_integer(v) ? json_integer_value(v) : -1;

    for (size_t i = 0; name && i < n; i++)
        if (!strcasecmp(name, deberta_label(m, i)))
            number = (long long)i;
    if (name && number < 0) {
        number = strtoll(name, &end, 10);
        if (end == name || *end)
            number = -1;
    }
    if (number < 0 || number >= (long long)n)
        return bad_label(m, what, v, e);
    *out = (int32_t)number;
    return 0;
}

static int add_row(struct guard_data *d, const struct guard_data_cfg *cfg, const json_t *row,
                   const char *what, struct err *e)
{
    const json_t *text = json_object_get(row, cfg->text_field);
    const json_t *label = json_object_get(row, cfg->label_field);
    const size_t most = deberta_positions(cfg->model) - 2;
    struct example *x = &d->rows.p[d->rows.n];
    struct ids body = { 0 }, ids = { 0 };

    if (!json_is_string(text))
        return err_set(e, ERR_FORMAT, "%s: no text '%s'", what, cfg->text_field);
    if (!label)
        return err_set(e, ERR_FORMAT, "%s: no '%s'", what, cfg->label_field);
    if (label_of(&d->label[d->rows.n], cfg->model, label, what, e))
        return -1;
    if (unigram_encode(cfg->tok, json_string_value(text), json_string_length(text), &body, e)) {
        ids_release(&body);
        return err_wrap(e, "%s", what);
    }
    ids_add(&ids, unigram_cls(cfg->tok));
    ids_append(&ids, body.p, body.n < most ? body.n : most);
    ids_add(&ids, unigram_sep(cfg->tok));
    d->rows.cut += body.n > most;
    ids_release(&body);
    *x = (struct example){ .ids = ids.p, .n = ids.n, .row = d->rows.row };
    d->rows.n++;
    d->rows.tokens += ids.n;
    d->count[d->label[d->rows.n - 1]]++;
    return 0;
}

int guard_data_read(struct guard_data *d, const char *path, const struct guard_data_cfg *cfg,
                    struct err *e)
{
    json_t *rows, *row;
    size_t i;
    int rc = 0;

    *d = (struct guard_data){ 0 };
    if (rows_read(&rows, path, d->rows.digest, e))
        return -1;
    d->rows.p = xcalloc(json_array_size(rows), sizeof(*d->rows.p));
    d->label = xcalloc(json_array_size(rows), sizeof(*d->label));
    json_array_foreach(rows, i, row)
    {
        char what[300];

        snprintf(what, sizeof(what), "%.250s row %zu", path, i + 1);
        d->rows.row = i + 1;
        rc = add_row(d, cfg, row, what, e);
        if (rc)
            break;
    }
    json_decref(rows);
    if (rc)
        guard_data_release(d);
    return rc;
}

void guard_data_release(struct guard_data *d)
{
    data_release(&d->rows);
    free(d->label);
    free(d->feature);
    *d = (struct guard_data){ 0 };
}

/* ---- rows held out ---- */

static void move(struct guard_data *to, const struct guard_data *from, size_t row)
{
    to->label[to->rows.n] = from->label[row];
    to->count[from->label[row]]++;
    to->rows.tokens += from->rows.p[row].n;
    to->rows.p[to->rows.n++] = from->rows.p[row];
}

void guard_data_split(struct guard_data *d, struct guard_data *held, double share, uint64_t seed)
{
    const struct guard_data all = *d;
    const size_t n = all.rows.n;
    bool *out = data_draw(n, all.label, share, seed);

    *held = (struct guard_data){ .rows.p = xcalloc(n + 1, sizeof(struct example)),
                                 .label = xcalloc(n + 1, sizeof(int32_t)) };
    memcpy(held->rows.digest, all.rows.digest, sizeof(held->rows.digest));
    d->rows.n = d->rows.tokens = 0;
    memset(d->count, 0, sizeof(d->count));
    for (size_t i = 0; i < n; i++)
        move(out[i] ? held : d, &all, i); /* d's rows only move towards its beginning */
    free(out);
}

/* ---- features ---- */

int guard_data_encode(struct guard_data *d, struct deberta *m, void (*done)(void *arg), void *arg,
                      struct err *e)
{
    const size_t D = deberta_dim(m);
    void *p;

    if (mem_new(&p, d->rows.n + 1, D * sizeof(float), "features", e))
        return -1;
    d->feature = p;
    for (size_t i = 0; i < d->rows.n; i++) {
        if (deberta_feature(m, d->rows.p[i].ids, d->rows.p[i].n, d->feature + i * D, e))
            return -1;
        if (done)
            done(arg);
    }
    return 0;
}
