#include "format/quant.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "base/mem.h"

enum { NAME_MAX_LEN = 192, MAX_GROUP = 1 << 20 };

static const char *const method_name[] = {
    [QUANT_NONE] = "",
    [QUANT_AWQ] = "awq",
    [QUANT_BITSANDBYTES] = "bitsandbytes",
    [QUANT_COMPRESSED] = "compressed-tensors",
    [QUANT_FBGEMM_FP8] = "fbgemm_fp8",
    [QUANT_FP8] = "fp8",
    [QUANT_GPTQ] = "gptq",
};

const char *quant_method_name(enum quant_method m)
{
    return method_name[m];
}

/* ---- the configuration ---- */

/* An integer under either of two spellings. */
static int get_int2(const json_t *j, const char *key, const char *old, int64_t min, int64_t max,
                    int64_t *out, const char *what, struct err *e)
{
    const int rc = json_get_int(j, key, min, max, out, what, e);

    return rc ? rc : json_get_int(j, old, min, max, out, what, e);
}

static int read_groups(struct quant *q, const json_t *j, const char *method, const char *what,
                       struct err *e)
{
    if (get_int2(j, "bits", "w_bit", 1, 64, &q->bits, what, e) < 0 ||
        get_int2(j, "group_size", "q_group_size", -1, MAX_GROUP, &q->group, what, e) < 0)
        return -1;
    if (q->bits == 0 || q->group == 0)
        return err_set(e, ERR_FORMAT, "%s: %s needs \"bits\" and \"group_size\"", what, method);
    return 0;
}

static int read_awq(struct quant *q, const json_t *j, const char *what, struct err *e)
{
    const char *version = "gemm";

    if (read_groups(q, j, "awq", what, e) ||
        json_get_str(j, "version", &version, NULL, what, e) < 0)
        return -1;
    if (q->bits != 4)
        return err_set(e, ERR_FORMAT, "%s: awq of %lld bits is not supported (4 are)", what,
                       (long long)q->bits);
    if (strcasecmp(version, "gemm"))
        return err_set(e, ERR_FORMAT, "%s: awq version \"%s\" is not supported (gemm is)", what,
                       version);
    return 0;
}

static int read_gptq(struct quant *q, const json_t *j, const char *what, struct err *e)
{
    const char *format = "gptq", *pack = "int32";
    json_t *modules = NULL;
    bool marlin = false;

    if (read_groups(q, j, "gptq", what, e) ||
        json_get_str(j, "format", &format, NULL, what, e) < 0 ||
        json_get_str(j, "checkpoint_format", &format, NULL, what, e) < 0 ||
        json_get_str(j, "pack_dtype", &pack, NULL, what, e) < 0 ||
        json_get_obj(j, "dynamic", &modules, what, e) < 0 ||
        json_get_bool(j, "is_marlin_format", &marlin, what, e) < 0)
        return -1;
    if (marlin)
        format = "marlin";
    if (q->bits != 4 && q->bits != 8)
        return err_set(e, ERR_FORMAT, "%s: gptq of %lld bits is not supported (4 and 8 are)", what,
                       (long long)q->bits);
    if (strcmp(format, "gptq") && strcmp(format, "gptq_v2"))
        return err_set(e, ERR_FORMAT,
                       "%s: gptq format \"%s\" is not supported (gptq and gptq_v2 are)", what,
                       format);
    if (strcmp(pack, "int32"))
        return err_set(e, ERR_FORMAT, "%s: pack_dtype \"%s\" is not supported (int32 is)", what,
                       pack);
    q->v2 = !strcmp(format, "gptq_v2");
    q->per_module = modules && json_object_size(modules) > 0;
    return 0;
}

/* What a group does to its inputs; KEEP without "input_activations". */
static int read_inputs(enum act *out, const json_t *group, bool is_float, const char *what,
                       struct err *e)
{
    const char *type = is_float ? "float" : "int";
    json_t *act = NULL;
    bool symmetric = true;
    int64_t bits = 8;

    *out = ACT_KEEP;
    if (json_get_obj(group, "input_activations", &act, what, e) < 0)
        return -1;
    if (!act)
        return 0;
    if (json_get_int(act, "num_bits", 1, 64, &bits, what, e) < 0 ||
        json_get_str(act, "type", &type, NULL, what, e) < 0 ||
        json_get_bool(act, "symmetric", &symmetric, what, e) < 0)
        return -1;
    if (bits != 8)
        return err_set(e, ERR_FORMAT, "%s: inputs of %lld bits are not supported (8 are)", what,
                       (long long)bits);
    if (!symmetric)
        return err_set(e, ERR_FORMAT,
                       "%s: inputs with zero points are not supported (symmetric ones are)", what);
    *out = !strcmp(type, "float") ? ACT_F8 : ACT_I8;
    return 0;
}

/* One entry of "config_groups". Which matrices it is for is told by how they are stored: groups
 * of the same encoding must agree on what happens to inputs. */
static int read_group(struct quant *q, unsigned *seen, const json_t *group, const char *format,
                      const char *what, struct err *e)
{
    json_t *w = NULL;
    int64_t bits = 8;
    const char *type = "int";
    enum act act;

    if (json_get_obj(group, "weights", &w, what, e) < 0 ||
        json_get_str(group, "format", &format, NULL, what, e) < 0 ||
        (w && json_get_int(w, "num_bits", 1, 64, &bits, what, e) < 0) ||
        (w && json_get_str(w, "type", &type, NULL, what, e) < 0))
        return -1;
    const bool packed = !strcmp(format, "pack-quantized");

    if (!packed && strcmp(format, "float-quantized") && strcmp(format, "int-quantized") &&
        strcmp(format, "naive-quantized"))
        return err_set(e, ERR_FORMAT,
                       "%s: compressed-tensors format \"%s\" is not supported (float-quantized, "
                       "int-quantized and pack-quantized are)",
                       what, format);
    if (bits != 8 && !(packed && bits == 4))
        return err_set(e, ERR_FORMAT, "%s: %lld bits in format \"%s\" are not supported (8 are%s)",
                       what, (long long)bits, format, packed ? ", and 4" : "");
    const enum quant_kind kind = packed && bits == 4      ? QUANT_PACKED4
                                 : packed                 ? QUANT_PACKED8
                                 : !strcmp(type, "float") ? QUANT_F8
                                                          : QUANT_INT8;

    if (read_inputs(&act, group, kind == QUANT_F8, what, e))
        return -1;
    if (*seen >> kind & 1 && q->inputs[kind] != act)
        return err_set(e, ERR_FORMAT,
                       "%s: another group stores its matrices alike and treats inputs otherwise: "
                       "that is not supported",
                       what);
    *seen |= 1u << kind;
    q->inputs[kind] = act;
    return 0;
}

static int read_compressed(struct quant *q, const json_t *j, const char *what, struct err *e)
{
    const char *format = "float-quantized", *key;
    json_t *groups = NULL, *group;
    char where[160];
    unsigned seen = 0;

    if (json_get_str(j, "format", &format, NULL, what, e) < 0 ||
        json_get_obj(j, "config_groups", &groups, what, e) < 0)
        return -1;
    json_object_foreach(groups, key, group)
    {
        snprintf(where, sizeof(where), "%.80s: %.64s", what, key);
        if (json_get_obj(groups, key, &group, what, e) < 0 ||
            read_group(q, &seen, group, format, where, e))
            return -1;
    }
    return 0;
}

static int read_method(struct quant *q, const json_t *j, const char *what, struct err *e)
{
    double bound = (double)q->act_bound, threshold = (double)q->threshold;

    switch (q->method) {
    case QUANT_NONE:
        return 0;
    case QUANT_AWQ:
        return read_awq(q, j, what, e);
    case QUANT_GPTQ:
        return read_gptq(q, j, what, e);
    case QUANT_COMPRESSED:
        return read_compressed(q, j, what, e);
    case QUANT_FP8:
        q->inputs[QUANT_F8] = ACT_F8;
        return 0;
    case QUANT_FBGEMM_FP8:
        q->inputs[QUANT_F8] = ACT_F8;
        if (json_get_num(j, "activation_scale_ub", 1e-6, 1e30, &bound, what, e) < 0)
            return -1;
        q->act_bound = (float)bound;
        return 0;
    case QUANT_BITSANDBYTES:
        if (json_get_num(j, "llm_int8_threshold", 0, 1e30, &threshold, what, e) < 0)
            return -1;
        q->threshold = threshold > 0 ? (float)threshold : FLT_MAX; /* 0: no outliers */
        return 0;
    }
    return 0;
}

int quant_read(struct quant *out, const json_t *j, const char *what, struct err *e)
{
    struct quant q = { .act_bound = FLT_MAX, .threshold = 6 };
    const char *method = NULL;

    if (json_get_str(j, "quant_method", &method, NULL, what, e) < 0)
        return -1;
    if (!method) /* the side files of the first tools */
        method = json_object_get(j, "w_bit")           ? "awq"
                 : json_object_get(j, "config_groups") ? "compressed-tensors"
                 : json_object_get(j, "bits")          ? "gptq"
                                                       : "";
    for (size_t i = 1; i < ARRAY_LEN(method_name); i++)
        if (!strcmp(method, method_name[i]))
            q.method = (enum quant_method)i;
    if (q.method == QUANT_NONE)
        return err_set(e, ERR_FORMAT,
                       "%s: quantization method \"%.64s\" is not supported (awq, bitsandbytes, "
                       "compressed-tensors, fbgemm_fp8, fp8 and gptq are)",
                       what, *method ? method : "unnamed");
    if (read_method(&q, j, what, e))
        return -1;
    *out = q;
    return 0;
}

/* ---- the tensors ---- */

enum { M_AWQ = 1, M_GPTQ = 2, M_F8 = 4, M_INT8 = 8, M_BNB4 = 16, M_PACKED = 32, M_ANY = 63 };

static unsigned mask_of(enum enc enc)
{
    switch (enc) {
    case ENC_AWQ:
        return M_AWQ;
    case ENC_GPTQ4:
    case ENC_GPTQ8:
        return M_GPTQ;
    case ENC_F8:
        return M_F8;
    case ENC_INT8:
        return M_INT8;
    case ENC_PACKED4:
    case ENC_PACKED8:
        return M_PACKED;
    case ENC_FP4:
    case ENC_NF4:
        return M_BNB4;
    default:
        return 0;
    }
}

static const struct {
    const char *tail;
    unsigned used_by;
} plane[] = {
    { ".SCB", M_INT8 },
    { ".bias", M_ANY },
    { ".g_idx", M_GPTQ },
    { ".input_scale", M_F8 | M_INT8 },
    { ".qweight", M_AWQ | M_GPTQ },
    { ".qzeros", M_AWQ | M_GPTQ },
    { ".scales", M_AWQ | M_GPTQ },
    { ".weight.absmax", M_BNB4 },
    { ".weight.nested_absmax", M_BNB4 },
    { ".weight.nested_quant_map", M_BNB4 },
    { ".weight.quant_map", M_BNB4 },
    { ".weight.quant_state.bitsandbytes__fp4", M_BNB4 },
    { ".weight.quant_state.bitsandbytes__nf4", M_BNB4 },
    { ".weight_format", M_INT8 },
    { ".weight_g_idx", M_PACKED },
    { ".weight_packed", M_PACKED },
    { ".weight_scale", M_F8 | M_INT8 | M_PACKED },
    { ".weight_scale_inv", M_F8 },
    { ".weight_shape", M_PACKED },
    { ".weight_zero_point", M_PACKED },
};

static int plane_at(const char *name, size_t *stem)
{
    const size_t n = strlen(name);

    for (size_t i = 0; i < ARRAY_LEN(plane); i++) {
        const size_t t = strlen(plane[i].tail);

        if (n > t && !strcmp(name + n - t, plane[i].tail)) {
            *stem = n - t;
            return (int)i;
        }
    }
    return -1;
}

bool quant_plane_stem(const char *name, size_t *stem)
{
    return plane_at(name, stem) >= 0;
}

bool quant_plane_used(const char *name, const struct weight *w)
{
    size_t stem;
    const int i = plane_at(name, &stem);

    return i >= 0 && (plane[i].used_by & mask_of(w->enc));
}

/* One matrix on its way from names to pointers. */
struct finder {
    const struct quant *q;
    const struct quant_src *src;
    const char *stem;
    struct err *e;
};

static const struct tensor_view *look(const struct finder *f, const char *tail)
{
    char name[NAME_MAX_LEN];

    snprintf(name, sizeof(name), "%s%s", f->stem, tail);
    return f->src->find(f->src->arg, name);
}

static int need(const struct finder *f, const char *tail, const struct tensor_view **t)
{
    *t = look(f, tail);
    if (!*t)
        return err_set(f->e, ERR_FORMAT, "%s: tensor %s%s is missing", f->src->path, f->stem, tail);
    return 0;
}

static bool is_float(enum enc enc)
{
    return enc == ENC_F32 || enc == ENC_F16 || enc == ENC_BF16;
}

/* Whether t is [a] or [a, b] (ndim 1 or 2). */
static int shape(const struct finder *f, const struct tensor_view *t, int ndim, uint64_t a,
                 uint64_t b)
{
    if (t->ndim == ndim && t->shape[0] == a && (ndim == 1 || t->shape[1] == b))
        return 0;
    char have[64], want[64];

    tensor_shape_text(have, t->ndim, t->shape);
    tensor_shape_text(want, ndim, (const uint64_t[]){ a, b });
    return err_set(f->e, ERR_FORMAT, "%s: tensor %s is %s, %s is needed",
                   f->src->file(f->src->arg, t), t->name, have, want);
}

static int type(const struct finder *f, const struct tensor_view *t, bool ok, const char *want)
{
    if (ok)
        return 0;
    return err_set(f->e, ERR_FORMAT, "%s: tensor %s is stored as %s, %s is needed",
                   f->src->file(f->src->arg, t), t->name, enc_table[t->enc].name, want);
}

static size_t ceil_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

/* Each group of w->p.group inputs must be named as often as it is large. */
static int check_g_idx(const struct finder *f, const struct tensor_view *t, struct weight *w)
{
    const size_t G = ceil_div(w->cols, w->p.group);
    size_t *count = xcalloc(G, sizeof(*count));
    bool sorted = true;
    int rc = -1;

    for (size_t i = 0; i < w->cols; i++) {
        const uint32_t g = enc_load32(t->data + 4 * i);

        if (g >= G) {
            err_set(f->e, ERR_FORMAT, "%s: tensor %s: input %zu is in group %d, there are %zu",
                    f->src->file(f->src->arg, t), t->name, i, (int)g, G);
            goto done;
        }
        count[g]++;
        sorted &= g == i / w->p.group;
    }
    for (size_t g = 0; g < G; g++) {
        const size_t left = w->cols - g * w->p.group, want = left < w->p.group ? left : w->p.group;

        if (count[g] != want) {
            err_set(f->e, ERR_FORMAT, "%s: tensor %s: group %zu has %zu inputs, its size is %zu",
                    f->src->file(f->src->arg, t), t->name, g, count[g], want);
            goto done;
        }
    }
    if (!sorted)
        w->p.group_of = t->data;
    rc = 0;
done:
    free(count);
    return rc;
}

/* Inputs per scale, from the config or, where modules differ, from the shape of the scales. */
static int group_size(const struct finder *f, const struct tensor_view *scales, size_t cols,
                      size_t *group)
{
    const struct quant *q = f->q;

    *group = q->group < 0 || (uint64_t)q->group > cols ? cols : (size_t)q->group;
    if (q->per_module && scales->ndim == 2 && scales->shape[0] > 0 && scales->shape[0] <= cols &&
        ceil_div(cols, *group) != scales->shape[0])
        *group = ceil_div(cols, (size_t)scales->shape[0]);
    return 0;
}

static int bind_gptq(const struct finder *f, struct weight *w, const struct tensor_view *codes,
                     const struct tensor_view *zeros, const struct tensor_view *scales)
{
    const struct tensor_view *g_idx = look(f, ".g_idx");
    size_t bits = (size_t)f->q->bits;

    if (f->q->per_module && codes->ndim == 2 && codes->shape[0] * 32 == w->cols * (12 - bits))
        bits = 12 - bits; /* 4 for 8, 8 for 4 */
    const size_t per = 32 / bits, G = ceil_div(w->cols, w->p.group);

    if (w->cols % per || w->rows % per)
        return err_set(f->e, ERR_FORMAT, "%s: %s: [%zu, %zu] cannot be packed %zu to a word",
                       f->src->path, f->stem, w->rows, w->cols, per);
    if (shape(f, codes, 2, w->cols / per, w->rows) || shape(f, zeros, 2, G, w->rows / per) ||
        shape(f, scales, 2, G, w->rows))
        return -1;
    w->enc = bits == 4 ? ENC_GPTQ4 : ENC_GPTQ8;
    w->p.zero_minus_one = !f->q->v2;
    if (!g_idx)
        return 0;
    return type(f, g_idx, g_idx->enc == ENC_I32, "i32") || shape(f, g_idx, 1, w->cols, 0) ||
                   check_g_idx(f, g_idx, w)
               ? -1
               : 0;
}

static int bind_awq(const struct finder *f, struct weight *w, const struct tensor_view *codes,
                    const struct tensor_view *zeros, const struct tensor_view *scales)
{
    if (w->rows % 8 || w->cols % w->p.group)
        return err_set(f->e, ERR_FORMAT,
                       "%s: %s: [%zu, %zu] does not divide into groups of %zu inputs and words of "
                       "8 outputs",
                       f->src->path, f->stem, w->rows, w->cols, w->p.group);
    w->enc = ENC_AWQ;
    return shape(f, codes, 2, w->cols, w->rows / 8) ||
                   shape(f, zeros, 2, w->cols / w->p.group, w->rows / 8) ||
                   shape(f, scales, 2, w->cols / w->p.group, w->rows)
               ? -1
               : 0;
}

static int bind_packed(const struct finder *f, struct weight *w, const struct tensor_view *codes)
{
    const struct tensor_view *zeros, *scales;

    if (f->q->method != QUANT_AWQ && f->q->method != QUANT_GPTQ)
        return err_set(f->e, ERR_FORMAT,
                       "%s: tensor %s is quantised, but no quantization_config says how (awq or "
                       "gptq)",
                       f->src->file(f->src->arg, codes), codes->name);
    if (need(f, ".qzeros", &zeros) || need(f, ".scales", &scales) ||
        type(f, codes, codes->enc == ENC_I32, "i32") ||
        type(f, zeros, zeros->enc == ENC_I32, "i32") ||
        type(f, scales, is_float(scales->enc), "f16, bf16 or f32") ||
        group_size(f, scales, w->cols, &w->p.group))
        return -1;
    w->data = codes->data;
    w->name = codes->name;
    w->p.zero = zeros->data;
    w->p.scale = scales->data;
    w->p.scale_enc = scales->enc;
    w->p.scale_by = 1;
    return f->q->method == QUANT_AWQ ? bind_awq(f, w, codes, zeros, scales)
                                     : bind_gptq(f, w, codes, zeros, scales);
}

/* One scale for the tensor, one for each row, or one for each block of 128 x 128. */
static int scale_shape(const struct finder *f, struct weight *w, const struct tensor_view *s)
{
    enum { BLOCK = 128 };
    const uint64_t a = s->ndim > 0 ? s->shape[0] : 1, b = s->ndim > 1 ? s->shape[1] : 1;

    w->p.group = w->cols;
    w->p.row_group = w->rows;
    if (s->ndim <= 2 && a == 1 && b == 1)
        return 0;
    w->p.row_group = 1;
    if (s->ndim <= 2 && a == w->rows && b == 1)
        return 0;
    if (w->enc == ENC_F8 && s->ndim == 2 && a == ceil_div(w->rows, BLOCK) &&
        b == ceil_div(w->cols, BLOCK)) {
        w->p.group = w->p.row_group = BLOCK;
        return 0;
    }
    return shape(f, s, 2, w->rows, 1);
}

static int static_scale(const struct finder *f, struct weight *w, const struct tensor_view *t)
{
    uint64_t n = 1;

    for (int i = 0; i < t->ndim; i++)
        n *= t->shape[i] <= 1 ? t->shape[i] : 2;
    if (n != 1)
        return shape(f, t, 1, 1, 0);
    if (type(f, t, is_float(t->enc), "f32, bf16 or f16"))
        return -1;
    enc_table[t->enc].decode(&w->p.act_scale, t->data, 1);
    if (!(w->p.act_scale > 0 && w->p.act_scale <= FLT_MAX))
        return err_set(f->e, ERR_FORMAT, "%s: tensor %s is %g, a scale is above zero",
                       f->src->file(f->src->arg, t), t->name, (double)w->p.act_scale);
    w->p.act = w->enc == ENC_F8 ? ACT_F8_STATIC : ACT_I8_STATIC;
    return 0;
}

static int bind_f8(const struct finder *f, struct weight *w, const struct tensor_view *codes)
{
    const struct tensor_view *s = look(f, ".weight_scale"), *in = look(f, ".input_scale");

    if (!s)
        s = look(f, ".weight_scale_inv");
    if (!s)
        return err_set(
            f->e, ERR_FORMAT, "%s: tensor %s is stored as %s, and %s.weight_scale is missing",
            f->src->file(f->src->arg, codes), codes->name, enc_table[codes->enc].name, f->stem);
    w->enc = ENC_F8;
    w->data = codes->data;
    w->name = codes->name;
    w->row_bytes = w->cols;
    w->p.scale = s->data;
    w->p.scale_enc = s->enc;
    w->p.scale_by = 1;
    if (shape(f, codes, 2, w->rows, w->cols) || scale_shape(f, w, s) ||
        type(f, s, is_float(s->enc), "f32, bf16 or f16"))
        return -1;
    if (in)
        return static_scale(f, w, in);
    w->p.act = f->q->inputs[QUANT_F8];
    w->p.act_bound = f->q->act_bound;
    w->p.act_group = w->p.group;
    return 0;
}

static int bind_int8(const struct finder *f, struct weight *w, const struct tensor_view *codes)
{
    const struct tensor_view *s = look(f, ".SCB"), *format = look(f, ".weight_format");
    const struct tensor_view *in = look(f, ".input_scale");
    const bool bnb = s != NULL;

    if (!s)
        s = look(f, ".weight_scale");
    if (!s)
        return err_set(f->e, ERR_FORMAT,
                       "%s: tensor %s is stored as i8, and neither %s.SCB nor %s.weight_scale is "
                       "there",
                       f->src->file(f->src->arg, codes), codes->name, f->stem, f->stem);
    if (format && (format->nbytes != 1 || format->data[0] != 0))
        return err_set(f->e, ERR_FORMAT, "%s: tensor %s: only format 0 (rows) is supported",
                       f->src->file(f->src->arg, format), format->name);
    w->enc = ENC_INT8;
    w->data = codes->data;
    w->name = codes->name;
    w->row_bytes = w->cols;
    w->p.scale = s->data;
    w->p.scale_enc = s->enc;
    w->p.scale_by = bnb ? 1.0f / 127 : 1;
    w->p.act = bnb ? ACT_BNB8 : f->q->inputs[QUANT_INT8];
    w->p.act_bound = bnb ? f->q->threshold : FLT_MAX;
    if (shape(f, codes, 2, w->rows, w->cols) || type(f, s, is_float(s->enc), "f32, bf16 or f16"))
        return -1;
    w->p.group = w->cols;
    w->p.row_group = 1;
    if (bnb ? shape(f, s, 1, w->rows, 0) : scale_shape(f, w, s))
        return -1;
    return in && !bnb ? static_scale(f, w, in) : 0;
}

/* compressed-tensors, "pack-quantized": everything follows from the tensors. */
static int bind_pack_quantized(const struct finder *f, struct weight *w,
                               const struct tensor_view *codes)
{
    const struct tensor_view *s, *dims, *zero = look(f, ".weight_zero_point");
    const struct tensor_view *g_idx = look(f, ".weight_g_idx");
    int64_t n[2];

    if (need(f, ".weight_scale", &s) || need(f, ".weight_shape", &dims) ||
        type(f, codes, codes->enc == ENC_I32, "i32") ||
        type(f, dims, dims->enc == ENC_I64, "i64") ||
        type(f, s, is_float(s->enc), "f32, bf16 or f16") || shape(f, dims, 1, 2, 0))
        return -1;
    memcpy(n, dims->data, sizeof(n));
    if (n[0] != (int64_t)w->rows || n[1] != (int64_t)w->cols)
        return err_set(f->e, ERR_FORMAT,
                       "%s: tensor %s is [%lld, %lld], the configuration asks for [%zu, %zu]",
                       f->src->file(f->src->arg, dims), dims->name, (long long)n[0],
                       (long long)n[1], w->rows, w->cols);
    const bool wide = codes->ndim == 2 && codes->shape[1] == ceil_div(w->cols, 4);
    const size_t per = wide ? 4 : 8;
    const bool divides =
        s->ndim == 2 && s->shape[1] > 0 && s->shape[1] <= w->cols && w->cols % s->shape[1] == 0;
    const size_t G = divides ? (size_t)s->shape[1] : 1;

    *w = (struct weight){ .enc = wide ? ENC_PACKED8 : ENC_PACKED4,
                          .rows = w->rows,
                          .cols = w->cols,
                          .data = codes->data,
                          .row_bytes = 4 * ceil_div(w->cols, per),
                          .name = codes->name,
                          .p = { .scale = s->data,
                                 .scale_enc = s->enc,
                                 .scale_by = 1,
                                 .group = w->cols / G,
                                 .zero = zero ? zero->data : NULL,
                                 .act = f->q->inputs[wide ? QUANT_PACKED8 : QUANT_PACKED4],
                                 .act_bound = FLT_MAX,
                                 .act_group = w->cols } };
    if (shape(f, codes, 2, w->rows, ceil_div(w->cols, per)) || shape(f, s, 2, w->rows, G) ||
        (zero && (type(f, zero, zero->enc == ENC_I32, "i32") ||
                  shape(f, zero, 2, ceil_div(w->rows, per), G))))
        return -1;
    return g_idx && (type(f, g_idx, g_idx->enc == ENC_I32, "i32") ||
                     shape(f, g_idx, 1, w->cols, 0) || check_g_idx(f, g_idx, w))
               ? -1
               : 0;
}

static int dtype_of(enum enc *out, const char *name, const char *what, struct err *e)
{
    if (!strcmp(name, "bfloat16"))
        *out = ENC_BF16;
    else if (!strcmp(name, "float16"))
        *out = ENC_F16;
    else if (!strcmp(name, "float32"))
        *out = ENC_F32;
    else
        return err_set(e, ERR_FORMAT, "%s: dtype \"%.32s\" is not supported", what, name);
    return 0;
}

static int state_fields(struct bnb_state *s, const json_t *j, const char *what, struct err *e)
{
    const char *kind = NULL, *dtype = "float16", *nested = "float32";
    json_t *dims = NULL;

    if (json_get_str(j, "quant_type", &kind, NULL, what, e) < 0 ||
        json_get_int(j, "blocksize", 1, MAX_GROUP, &s->block, what, e) < 0 ||
        json_get_str(j, "dtype", &dtype, NULL, what, e) < 0 ||
        json_get_arr(j, "shape", &dims, what, e) < 0 ||
        json_get_int(j, "nested_blocksize", 1, MAX_GROUP, &s->nested_block, what, e) < 0 ||
        json_get_num(j, "nested_offset", -1e30, 1e30, &s->nested_offset, what, e) < 0 ||
        json_get_str(j, "nested_dtype", &nested, NULL, what, e) < 0 ||
        dtype_of(&s->dtype, dtype, what, e))
        return -1;
    if (!kind || (strcmp(kind, "nf4") && strcmp(kind, "fp4")))
        return err_set(e, ERR_FORMAT, "%s: quant_type \"%.32s\" is not supported (nf4 and fp4 are)",
                       what, kind ? kind : "");
    if (s->block == 0 || json_array_size(dims) != 2 || !json_is_integer(json_array_get(dims, 0)) ||
        !json_is_integer(json_array_get(dims, 1)))
        return err_set(e, ERR_FORMAT, "%s: \"blocksize\" and a \"shape\" of two numbers are needed",
                       what);
    if (strcmp(nested, "float32"))
        return err_set(e, ERR_FORMAT, "%s: nested_dtype \"%.32s\" is not supported (float32 is)",
                       what, nested);
    s->fp4 = !strcmp(kind, "fp4");
    s->rows = json_integer_value(json_array_get(dims, 0));
    s->cols = json_integer_value(json_array_get(dims, 1));
    return 0;
}

int bnb_state_read(struct bnb_state *out, const void *p, size_t n, const char *what, struct err *e)
{
    struct bnb_state s = { 0 };
    json_t *j;

    if (json_parse(&j, p, n, what, e))
        return -1;
    const int rc = json_is_object(j) ? state_fields(&s, j, what, e)
                                     : err_set(e, ERR_FORMAT, "%s: not a JSON object", what);

    json_decref(j);
    if (!rc)
        *out = s;
    return rc;
}

/* absmax as bytes, with the tensors that say what they stand for. */
static int bind_nested(const struct finder *f, struct weight *w, const struct bnb_state *s,
                       size_t blocks)
{
    const struct tensor_view *map, *absmax;

    if (need(f, ".weight.nested_quant_map", &map) || need(f, ".weight.nested_absmax", &absmax))
        return -1;
    if (!s->nested_block)
        return err_set(f->e, ERR_FORMAT, "%s: %s: quant_state has no \"nested_blocksize\"",
                       f->src->path, f->stem);
    w->p.nested_map = map->data;
    w->p.nested_absmax = absmax->data;
    w->p.nested_group = (size_t)s->nested_block;
    w->p.nested_offset = (float)s->nested_offset;
    return type(f, map, map->enc == ENC_F32, "f32") || shape(f, map, 1, 256, 0) ||
                   type(f, absmax, absmax->enc == ENC_F32, "f32") ||
                   shape(f, absmax, 1, ceil_div(blocks, w->p.nested_group), 0)
               ? -1
               : 0;
}

static int bind_bnb4(const struct finder *f, struct weight *w, const struct tensor_view *codes,
                     const struct tensor_view *absmax)
{
    const struct tensor_view *state = look(f, ".weight.quant_state.bitsandbytes__nf4"), *map;
    const bool fp4 = !state;
    const size_t values = w->rows * w->cols;
    char what[2 * NAME_MAX_LEN];
    struct bnb_state s;

    if ((fp4 && need(f, ".weight.quant_state.bitsandbytes__fp4", &state)) ||
        need(f, ".weight.quant_map", &map))
        return -1;
    snprintf(what, sizeof(what), "%s: %s", f->src->file(f->src->arg, state), state->name);
    if (type(f, state, state->enc == ENC_U8, "u8") ||
        bnb_state_read(&s, state->data, state->nbytes, what, f->e))
        return -1;
    if (s.fp4 != fp4)
        return err_set(f->e, ERR_FORMAT, "%s: quant_type is %s", what, s.fp4 ? "fp4" : "nf4");
    if (s.rows != (int64_t)w->rows || s.cols != (int64_t)w->cols)
        return err_set(f->e, ERR_FORMAT,
                       "%s: shape is [%lld, %lld], the configuration asks for [%zu, %zu]", what,
                       (long long)s.rows, (long long)s.cols, w->rows, w->cols);
    /* whatever type the bytes are declared as */
    if (codes->nbytes != (values + 1) / 2)
        return err_set(
            f->e, ERR_FORMAT, "%s: tensor %s has %zu bytes, %zu values of 4 bits take %zu",
            f->src->file(f->src->arg, codes), codes->name, codes->nbytes, values, (values + 1) / 2);
    const size_t blocks = ceil_div(values, (size_t)s.block);

    w->enc = fp4 ? ENC_FP4 : ENC_NF4;
    w->data = codes->data;
    w->name = codes->name;
    w->p = (struct planes){ .scale = absmax->data,
                            .scale_enc = absmax->enc,
                            .group = (size_t)s.block,
                            .scale_by = 1,
                            .map = map->data,
                            .round = s.dtype };
    if (type(f, map, map->enc == ENC_F32, "f32") || shape(f, map, 1, 16, 0) ||
        type(f, absmax, absmax->enc == ENC_F32 || absmax->enc == ENC_U8, "f32 or u8") ||
        shape(f, absmax, 1, blocks, 0))
        return -1;
    return absmax->enc == ENC_U8 ? bind_nested(f, w, &s, blocks) : 0;
}

static int bind_plain(const struct finder *f, struct weight *w, const struct tensor_view *t)
{
    if (t->ndim != 2 || t->shape[0] != w->rows || t->shape[1] != w->cols) {
        char have[64], want[64];

        tensor_shape_text(have, t->ndim, t->shape);
        tensor_shape_text(want, 2, (const uint64_t[]){ w->rows, w->cols });
        return err_set(f->e, ERR_FORMAT, "%s: tensor %s is %s, the configuration asks for %s",
                       f->src->path, t->name, have, want);
    }
    if (!enc_table[t->enc].decode)
        return err_set(f->e, ERR_FORMAT, "%s: tensor %s is stored as %s, which holds no weights",
                       f->src->path, t->name, enc_table[t->enc].name);
    w->enc = t->enc;
    w->data = t->data;
    w->name = t->name;
    w->row_bytes = w->cols / enc_table[t->enc].block * enc_table[t->enc].bytes;
    return 0;
}

/* Early tools stored a bias of zeros beside every matrix. */
static int check_bias(const struct finder *f)
{
    const struct tensor_view *t = look(f, ".bias");

    for (size_t i = 0; t && i < t->nbytes; i++)
        if (t->data[i])
            return err_set(f->e, ERR_FORMAT, "%s: tensor %s is not zero: biases are not supported",
                           f->src->file(f->src->arg, t), t->name);
    return 0;
}

int quant_weight(struct weight *out, const struct quant *q, const struct quant_src *src,
                 const char *stem, size_t rows, size_t cols, struct err *e)
{
    const struct finder f = { q, src, stem, e };
    const struct tensor_view *plain = look(&f, ".weight"), *packed = look(&f, ".qweight");
    const struct tensor_view *absmax = look(&f, ".weight.absmax");
    const struct tensor_view *pack = look(&f, ".weight_packed");
    struct weight w = { .rows = rows, .cols = cols };
    int rc;

    if ((plain && packed) || (plain && pack) || (packed && pack))
        return err_set(e, ERR_FORMAT, "%s: %s is stored twice, as %s and as %s", src->path, stem,
                       plain ? plain->name : packed->name, pack ? pack->name : packed->name);
    if (packed)
        rc = bind_packed(&f, &w, packed);
    else if (pack)
        rc = bind_pack_quantized(&f, &w, pack);
    else if (need(&f, ".weight", &plain))
        return -1;
    else if (absmax)
        rc = bind_bnb4(&f, &w, plain, absmax);
    else if (plain->enc == ENC_F8_E4M3)
        rc = bind_f8(&f, &w, plain);
    else if (plain->enc == ENC_I8)
        rc = bind_int8(&f, &w, plain);
    else
        rc = bind_plain(&f, &w, plain);
    if (rc || (enc_has_planes(w.enc) && check_bias(&f)))
        return -1;
    *out = w;
    return 0;
}

int32_t *quant_order(const struct weight *w)
{
    const size_t G = w->p.group ? ceil_div(w->cols, w->p.group) : 0;

    if (!w->p.group_of)
        return NULL;
    int32_t *order = xcalloc(w->cols, sizeof(*order));
    size_t *next = xcalloc(G, sizeof(*next));

    for (size_t g = 0; g < G; g++)
        next[g] = g * w->p.group;
    for (size_t i = 0; i < w->cols; i++)
        order[next[enc_load32(w->p.group_of + 4 * i)]++] = (int32_t)i;
    free(next);
    return order;
}

void quant_detail(char out[96], const struct weight *w)
{
    static const char *const act[] = {
        [ACT_KEEP] = "",
        [ACT_F8] = ", inputs fp8",
        [ACT_F8_STATIC] = ", inputs fp8 with a fixed scale",
        [ACT_I8] = ", inputs int8",
        [ACT_I8_STATIC] = ", inputs int8 with a fixed scale",
        [ACT_BNB8] = ", inputs int8",
    };
    const struct planes *p = &w->p;

    out[0] = '\0';
    switch (mask_of(w->enc)) {
    case M_AWQ:
    case M_GPTQ:
        snprintf(out, 96, "groups of %zu%s%s", p->group, p->group_of ? ", act-order" : "",
                 w->enc != ENC_AWQ && !p->zero_minus_one ? ", v2" : "");
        break;
    case M_PACKED:
        snprintf(out, 96, "groups of %zu%s%s%s", p->group, p->zero ? ", zero points" : "",
                 p->group_of ? ", act-order" : "", act[p->act]);
        break;
    case M_F8:
    case M_INT8:
        if (p->group < w->cols)
            snprintf(out, 96, "blocks of %zu x %zu%s", p->row_group, p->group, act[p->act]);
        else
            snprintf(out, 96, "%s%s", p->row_group == 1 ? "rows" : "tensors", act[p->act]);
        break;
    case M_BNB4:
        snprintf(out, 96, "blocks of %zu%s", p->group,
                 p->scale_enc == ENC_U8 ? ", double quantised" : "");
        break;
    }
}
