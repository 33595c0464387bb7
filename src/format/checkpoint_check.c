/* checkpoint_check.c - whether the tensors are those of the architecture, each in the shape that
 * the configuration makes it; and whether their values can be computed with. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "format/checkpoint_int.h"
#include "format/join.h"

static const char *file_of(const void *c, const struct tensor_view *t)
{
    const struct checkpoint *k = c;
    const struct placed *p = k->gguf ? NULL : checkpoint_placed(k, t->name);

    return p ? p->file : k->path;
}

/* A matrix as it is stored. */
static int slot_weight(const struct checkpoint *c, const struct slot *s, int64_t layer,
                       struct weight *w, struct err *e)
{
    const struct quant_src src = { c, checkpoint_find_own, file_of, c->path };
    char stem[128];

    slot_name(stem, sizeof(stem), s, layer, checkpoint_names(c));
    stem[strlen(stem) - strlen(".weight")] = '\0';
    return quant_weight(w, &c->hp.quant, &src, stem, (size_t)axis_size(&c->hp, s->rows),
                        (size_t)axis_size(&c->hp, s->cols), e);
}

int checkpoint_weight(const struct checkpoint *c, const char *hf_name, struct weight *w,
                      struct err *e)
{
    int64_t layer;
    const struct slot *s = slot_find(hf_name, NAMES_HF, &layer);

    if (!s || s->cols == AX_NONE)
        return err_set(e, ERR_FORMAT, "%s: %s is no matrix of a llama model", c->path, hf_name);
    return slot_weight(c, s, layer, w, e);
}

/* The matrix that t is a plane of. */
static const struct slot *plane_slot(const struct checkpoint *c, const struct tensor_view *t,
                                     int64_t *layer)
{
    char name[256];
    size_t stem;

    if (!quant_plane_stem(t->name, &stem) || stem > sizeof(name) - sizeof(".weight"))
        return NULL;
    snprintf(name, sizeof(name), "%.*s.weight", (int)stem, t->name);
    const struct slot *s = slot_find(name, checkpoint_names(c), layer);

    return s && s->cols != AX_NONE ? s : NULL;
}

int checkpoint_weight_of(const struct checkpoint *c, const struct tensor_view *t, struct weight *w)
{
    int64_t layer;
    const struct slot *s = slot_find(t->name, checkpoint_names(c), &layer);

    if (!s)
        s = plane_slot(c, t, &layer);
    return s && s->cols != AX_NONE && layer < c->hp.layers && !slot_weight(c, s, layer, w, NULL);
}

uint64_t checkpoint_values(const struct checkpoint *c, const struct tensor_view *t, enum enc *enc)
{
    struct weight w;
    uint64_t n = 1;

    if (checkpoint_weight_of(c, t, &w) && enc_has_planes(w.enc)) {
        *enc = w.enc;
        return w.data == t->data ? (uint64_t)w.rows * w.cols : 0;
    }
    for (int i = 0; i < t->ndim; i++)
        n *= t->shape[i]; /* checked when the file was opened */
    *enc = t->enc;
    return n;
}

static int check_slot(const struct checkpoint *c, const struct slot *s, int64_t layer,
                      struct err *e)
{
    const uint64_t n = axis_size(&c->hp, s->rows);
    const struct tensor_view *t;
    struct weight w;
    char name[128];

    if (s->cols != AX_NONE)
        return slot_weight(c, s, layer, &w, e);
    slot_name(name, sizeof(name), s, layer, checkpoint_names(c));
    t = checkpoint_find_own(c, name);
    if (!t)
        return err_set(e, ERR_FORMAT, "%s: tensor %s is missing", c->path, name);
    if (t->ndim != 1 || t->shape[0] != n) {
        char have[64], want[64];

        tensor_shape_text(have, t->ndim, t->shape);
        tensor_shape_text(want, 1, &n);
        return err_set(e, ERR_FORMAT, "%s: tensor %s is %s, the configuration asks for %s", c->path,
                       name, have, want);
    }
    if (!enc_table[t->enc].decode)
        return err_set(e, ERR_FORMAT, "%s: tensor %s is stored as %s, which holds no weights",
                       c->path, name, enc_table[t->enc].name);
    return 0;
}

/* A plane of a quantised matrix must be one that the matrix is made of. */
static int check_plane(const struct checkpoint *c, const struct tensor_view *t,
                       const struct slot *s, int64_t layer, struct err *e)
{
    struct weight w;

    if (slot_weight(c, s, layer, &w, e))
        return -1;
    if (!quant_plane_used(t->name, &w))
        return err_set(e, ERR_FORMAT, "%s: tensor %s has no place: its matrix is stored as %s",
                       file_of(c, t), t->name, enc_table[w.enc].name);
    return 0;
}

/* rope_freqs.weight: divisors, so finite and above zero. */
static int check_rope_freqs(const struct checkpoint *c, const struct tensor_view *t, struct err *e)
{
    if (t->ndim != 1 || t->shape[0] != (uint64_t)c->hp.head_dim / 2 || t->enc != ENC_F32)
        return err_set(e, ERR_FORMAT, "%s: %s must hold %lld values of f32", c->path, t->name,
                       (long long)c->hp.head_dim / 2);
    for (size_t i = 0; i < t->shape[0]; i++) {
        float v;

        memcpy(&v, t->data + i * sizeof(v), sizeof(v));
        if (!(v > 0 && v <= FLT_MAX))
            return err_set(e, ERR_FORMAT, "%s: %s: value %zu is %g", c->path, t->name, i,
                           (double)v);
    }
    return 0;
}

/* A tensor that the architecture has no place for would be a silent change of the model. */
static int check_known(const struct checkpoint *c, const struct tensor_view *t, struct err *e)
{
    int64_t layer;
    const struct slot *s = slot_find(t->name, checkpoint_names(c), &layer), *whole = NULL;

    if (!s)
        s = whole = plane_slot(c, t, &layer);
    if (s && layer >= c->hp.layers)
        return err_set(e, ERR_FORMAT,
                       "%s: tensor %s belongs to layer %lld, but the config has %lld", c->path,
                       t->name, (long long)layer, (long long)c->hp.layers);
    if (whole)
        return check_plane(c, t, whole, layer, e);
    if (s || slot_may_ignore(t->name))
        return 0;
    if (c->gguf && !strcmp(t->name, "rope_freqs.weight"))
        return check_rope_freqs(c, t, e);
    return err_set(e, ERR_FORMAT, "%s: tensor %.200s has no place in a llama model", c->path,
                   t->name);
}

int checkpoint_check(const struct checkpoint *c, struct err *e)
{
    for (size_t i = 0; i < SLOTS_GLOBAL; i++)
        if (!(c->hp.tied && i == SLOT_HEAD) && check_slot(c, &slots_global[i], -1, e))
            return -1;
    for (int64_t l = 0; l < c->hp.layers; l++)
        for (size_t i = 0; i < SLOTS_LAYER; i++)
            if (check_slot(c, &slots_layer[i], l, e))
                return -1;
    for (size_t i = 0; i < checkpoint_tensors(c); i++)
        if (check_known(c, checkpoint_tensor(c, i), e))
            return -1;
    return 0;
}

enum { VALUES_AT_ONCE = 2048 }; /* a multiple of every block */

/* Values at .. at+n of a row of `cols`; sums their squares. */
static int check_some(const float *x, size_t n, size_t at, double *sum, const char *name,
                      const char *path, struct err *e)
{
    bool finite = true;

    for (size_t i = 0; i < n; i++) {
        finite &= fabsf(x[i]) <= FLT_MAX;
        *sum += (double)x[i] * (double)x[i];
    }
    for (size_t i = 0; !finite && i < n; i++)
        if (!isfinite(x[i]))
            return err_set(e, ERR_FORMAT, "%s: tensor %.200s: value %zu is %s", path, name, at + i,
                           isnan(x[i]) ? "not a number" : "infinite");
    return 0;
}

/* An input normalised to unit mean square has norm sqrt(cols); along the row it gives
 * |row| * sqrt(cols). */
static int check_norm(double sum, size_t row, size_t cols, const char *name, const char *path,
                      struct err *e)
{
    if (sqrt(sum) * sqrt((double)cols) > (double)FLT_MAX)
        return err_set(e, ERR_FORMAT,
                       "%s: tensor %.200s: row %zu has norm %.3g: its products overflow float32",
                       path, name, row, sqrt(sum));
    return 0;
}

int tensor_check_values(const struct tensor_view *t, const char *path, struct err *e)
{
    const struct enc_info *info = &enc_table[t->enc];
    const size_t values = t->nbytes / info->bytes * info->block;
    const size_t cols = t->ndim > 0 ? (size_t)t->shape[t->ndim - 1] : 1;
    float x[VALUES_AT_ONCE];

    if (!info->decode)
        return 0;
    for (size_t at = 0; at < values; at += cols) {
        double sum = 0; /* of squares, of the row */

        for (size_t in_row = 0; in_row < cols; in_row += VALUES_AT_ONCE) {
            const size_t n = cols - in_row < VALUES_AT_ONCE ? cols - in_row : VALUES_AT_ONCE;

            info->decode(x, t->data + (at + in_row) / info->block * info->bytes, n);
            if (check_some(x, n, at + in_row, &sum, t->name, path, e))
                return -1;
        }
        if (t->ndim == 2 && check_norm(sum, at / cols, cols, t->name, path, e))
            return -1;
    }
    return 0;
}

/* The matrices whose values no single tensor holds. */
static int check_weight_values(const struct checkpoint *c, const struct weight *w, struct err *e)
{
    float *row;
    void *p;
    int rc = 0;

    if (mem_new(&p, w->cols, sizeof(float), w->name, e))
        return -1;
    row = p;
    for (size_t r = 0; !rc && r < w->rows; r++) {
        double sum = 0;

        weight_decode_row(row, w, r);
        rc = check_some(row, w->cols, r * w->cols, &sum, w->name, c->path, e) ||
             check_norm(sum, r, w->cols, w->name, c->path, e);
    }
    free(row);
    return rc ? -1 : 0;
}

int checkpoint_check_values(const struct checkpoint *c, struct err *e)
{
    for (size_t i = 0; i < checkpoint_tensors(c); i++) {
        const struct tensor_view *t = checkpoint_tensor(c, i);
        struct weight w;

        const struct joined *j = c->gguf ? NULL : c->tensor[i].joined;

        for (size_t k = 0; j && k < j->n; k++)
            if (tensor_check_values(&j->piece[k], c->path, e))
                return -1;
        if (j)
            continue;
        /* codes may be declared as any type, bf16 among them */
        const bool codes =
            checkpoint_weight_of(c, t, &w) && enc_has_planes(w.enc) && w.data == t->data;

        if (codes ? check_weight_values(c, &w, e) : tensor_check_values(t, c->path, e))
            return -1;
    }
    return 0;
}
