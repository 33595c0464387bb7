/* net_build.c - what learns: every matrix itself, or LoRA pairs beside chosen ones. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "ops/backend.h"
#include "train/net_int.h"

static const struct {
    const char *module;       /* in a layer */
    size_t mat, weight, pair; /* offsets in struct net_layer, layer, lora_layer */
    bool rotated;             /* its rows follow the order of rope */
} place[NET_MATS] = {
#define PLACE(module, field, rotated)                                                              \
    {                                                                                              \
        module, offsetof(struct net_layer, field), offsetof(struct layer, field),                  \
            offsetof(struct lora_layer, field), rotated                                            \
    }
    PLACE("self_attn.q_proj", q, true),  PLACE("self_attn.k_proj", k, true),
    PLACE("self_attn.v_proj", v, false), PLACE("self_attn.o_proj", o, false),
    PLACE("mlp.gate_proj", gate, false), PLACE("mlp.up_proj", up, false),
    PLACE("mlp.down_proj", down, false),
#undef PLACE
};

const char *const net_target_names[NET_TARGETS] = { "q_proj",    "k_proj",       "v_proj",
                                                    "o_proj",    "gate_proj",    "up_proj",
                                                    "down_proj", "embed_tokens", "lm_head" };

const struct net_group net_groups[NET_GROUPS] = { { 0, 3 }, { 4, 2 } };

const struct net_group *net_group_of(const struct net *n, size_t i)
{
    for (size_t k = 0; k < NET_GROUPS; k++)
        if (n->joined[k] && i >= net_groups[k].first &&
            i - net_groups[k].first < net_groups[k].count)
            return &net_groups[k];
    return NULL;
}

struct net_mat *net_layer_mat(struct net_layer *l, size_t i)
{
    return (struct net_mat *)((char *)l + place[i].mat);
}

const char *const net_save_names[NET_SAVES] = { "embed_tokens", "lm_head", "norm",
                                                "input_layernorm", "post_attention_layernorm" };
enum { SAVE_EMBED = 1, SAVE_HEAD = 2, SAVE_NORM = 4, SAVE_ATTN_NORM = 8, SAVE_FFN_NORM = 16 };

/* Takes name. */
static int learn(struct param **out, struct net *n, char *name, size_t rows, size_t cols,
                 enum param_kind kind, struct err *e)
{
    const unsigned half = (n->cfg.stochastic ? PARAM_HALF_VALUES : 0u) |
                          (n->cfg.half_gradients ? PARAM_HALF_GRADIENT : 0u);

    if (param_new(&n->params, out, name, rows, cols, kind, n->cfg.optim, half, e))
        return -1;
    (*out)->decay |= n->cfg.decay_norms;
    return 0;
}

static size_t turn_of(const struct net *n, size_t i)
{
    return place[i].rotated && n->m->hp->rope.interleaved ? (size_t)n->m->hp->head_dim : 0;
}

enum { OWN_ROWS = 64 }; /* rows of a matrix that are copied together */

/* The matrix learns: a copy of it in float32, or in bf16 with rounding at random. Takes name. */
static int own_matrix(struct net_mat *to, struct net *n, const struct weight *w, char *name,
                      enum param_kind kind, struct err *e)
{
    if (learn(&to->own, n, name, w->rows, w->cols, kind, e))
        return -1;
    struct param *p = to->own;
    const enum enc enc = p->half ? ENC_BF16 : ENC_F32;
    const size_t bytes = w->cols * enc_table[enc].bytes;
    float *row;
    uint8_t *code;
    int rc = 0;

    to->w = (struct weight){ .enc = enc,
                             .rows = w->rows,
                             .cols = w->cols,
                             .data = p->half ? (void *)p->half : (void *)p->w,
                             .row_bytes = bytes,
                             .name = w->name };
    p->overwritten = kind != PARAM_EMBEDDING; /* an embedding's rows are added to */
    if (w->enc == enc && w->row_bytes == bytes)
        return param_write(&n->params, (void *)(uintptr_t)to->w.data, w->data, w->rows * bytes, e);
    row = xmalloc((w->cols + 1) * sizeof(*row));
    code = xmalloc(OWN_ROWS * bytes + 1);
    for (size_t r = 0; rc == 0 && r < w->rows; r += OWN_ROWS) {
        const size_t m = w->rows - r < OWN_ROWS ? w->rows - r : OWN_ROWS;

        for (size_t i = 0; i < m; i++) {
            weight_decode_row(row, w, r + i);
            enc_table[enc].encode(code + i * bytes, row, w->cols);
        }
        rc = param_write(&n->params, (uint8_t *)(uintptr_t)to->w.data + r * bytes, code, m * bytes,
                         e);
    }
    free(row);
    free(code);
    return rc;
}

/* A parameter's values to fill, and where they go when they are there. */
static float *values_begin(const struct net *n, const struct param *p)
{
    return ctx_on_host(n->c) ? p->w : xmalloc((p->rows * p->cols + 1) * sizeof(float));
}

static int values_end(const struct net *n, const struct param *p, float *values, struct err *e)
{
    int rc = 0;

    if (values != p->w) {
        rc = param_write(&n->params, p->w, values, p->rows * p->cols * sizeof(float), e);
        free(values);
    }
    return rc;
}

static int own_norm(struct param **own, const float **norm, struct net *n, char *name,
                    struct err *e)
{
    const size_t D = (size_t)n->m->hp->dim;

    if (learn(own, n, name, 1, D, PARAM_SMALL, e))
        return -1;
    n->op->copy(n->c, (*own)->w, *norm, D * sizeof(float));
    *norm = (*own)->w;
    return 0;
}

static int build_full(struct net *n, struct err *e)
{
    const struct model *m = n->m;

    if (own_matrix(&n->embed, n, &m->embed, xstrdup("model.embed_tokens.weight"), PARAM_EMBEDDING,
                   e))
        return -1;
    for (int64_t l = 0; l < m->hp->layers; l++) {
        struct net_layer *to = &n->layer[l];

        for (size_t i = 0; i < NET_MATS; i++) {
            struct net_mat *mat = net_layer_mat(to, i);
            const struct weight w = mat->w;

            if (own_matrix(mat, n, &w,
                           xasprintf("model.layers.%lld.%s.weight", (long long)l, place[i].module),
                           PARAM_MATRIX, e))
                return -1;
            mat->own->turn = turn_of(n, i);
        }
        if (own_norm(&to->own_attn_norm, &to->attn_norm, n,
                     xasprintf("model.layers.%lld.input_layernorm.weight", (long long)l), e) ||
            own_norm(&to->own_ffn_norm, &to->ffn_norm, n,
                     xasprintf("model.layers.%lld.post_attention_layernorm.weight", (long long)l),
                     e))
            return -1;
    }
    if (own_norm(&n->own_norm, &n->norm, n, xstrdup("model.norm.weight"), e))
        return -1;
    if (m->hp->tied) {
        n->head = n->embed;
        return 0;
    }
    return own_matrix(&n->head, n, &m->head, xstrdup("lm_head.weight"), PARAM_HEAD, e);
}

/* ---- pairs ---- */

/* A as PEFT starts it (Kaiming, uniform in +-1 / sqrt(in)), B zero: the model is as it was. */
static void pair_random(float *w, const struct param *a, uint64_t seed, uint64_t *counter)
{
    const double bound = 1 / sqrt((double)a->cols);

    for (size_t i = 0; i < a->rows * a->cols; i++)
        w[i] = (float)((2 * rng_uniform(seed, (*counter)++) - 1) * bound);
}

/* B as PEFT starts an embedding's (normal), A zero. Two numbers make two normal ones (Box and
 * Muller). */
static void normal_random(float *w, const struct param *b, uint64_t seed, uint64_t *counter)
{
    const size_t n = b->rows * b->cols;

    for (size_t i = 0; i < n; i += 2, *counter += 2) {
        const double r = sqrt(-2 * log(1 - rng_uniform(seed, *counter)));
        const double angle = 2 * M_PI * rng_uniform(seed, *counter + 1);

        w[i] = (float)(r * cos(angle));
        if (i + 1 < n)
            w[i + 1] = (float)(r * sin(angle));
    }
}

static void weight_floats(float *to, const struct weight *w)
{
    for (size_t r = 0; r < w->rows; r++)
        weight_decode_row(to + r * w->cols, w, r);
}

/* p's values = those of the adapter's w. */
static int take_values(const struct net *n, const struct param *p, const struct weight *w,
                       struct err *e)
{
    float *values = values_begin(n, p);

    weight_floats(values, w);
    return values_end(n, p, values, e);
}

static const struct lora_pair *pair_of(const struct lora *l, size_t layer, size_t i)
{
    return (const struct lora_pair *)((const char *)&l->layer[layer] + place[i].pair);
}

static int check_pair(struct net *n, const struct lora_pair *p, const char *name, unsigned target,
                      struct err *e)
{
    const char *dir = n->cfg.init;

    if (p->whole.data)
        return err_set(e, ERR_FORMAT, "%s: replaces %s whole, which is not trained", dir, name);
    if (!p->a.data)
        return 0;
    if (p->bias)
        return err_set(e, ERR_FORMAT, "%s: has a bias, which is not trained", dir);
    n->cfg.dora = n->cfg.dora || p->gain;
    if (n->cfg.rank && (p->a.rows != n->cfg.rank || p->scale != n->scale))
        return err_set(e, ERR_FORMAT, "%s: modules of different rank or alpha", dir);
    n->cfg.rank = p->a.rows;
    n->scale = p->scale;
    n->cfg.targets |= target;
    return 0;
}

/* What of the adapter to go on with cannot be trained, or a rank of its own. */
static int check_init(struct net *n, const struct lora *from, struct err *e)
{
    const char *dir = n->cfg.init;

    if (from->n_token)
        return err_set(e, ERR_FORMAT, "%s: adapts single tokens, which is not trained", dir);
    n->cfg.targets = 0;
    n->cfg.rank = 0;
    n->scale = 0;
    if (check_pair(n, &from->embed, "model.embed_tokens", NET_EMBED, e) ||
        check_pair(n, &from->head, "lm_head", NET_HEAD, e))
        return -1;
    n->cfg.save = (from->embed_w.data ? SAVE_EMBED : 0u) | (from->head_w.data ? SAVE_HEAD : 0u) |
                  (from->norm ? SAVE_NORM : 0u);
    for (size_t l = 0; l < from->layers; l++) {
        n->cfg.save |= (from->layer[l].attn_norm ? SAVE_ATTN_NORM : 0u) |
                       (from->layer[l].ffn_norm ? SAVE_FFN_NORM : 0u);
        for (size_t i = 0; i < NET_MATS; i++)
            if (check_pair(n, pair_of(from, l, i), place[i].module, 1u << i, e))
                return -1;
    }
    if (!n->cfg.rank)
        return err_set(e, ERR_FORMAT, "%s: adapts no matrix", dir);
    n->cfg.alpha =
        (double)n->scale * (n->cfg.rslora ? sqrt((double)n->cfg.rank) : (double)n->cfg.rank);
    return 0;
}

/* Magnitudes: the lengths of W's rows, or what the adapter to go on with has. */
static int build_dora(struct net *n, struct net_mat *m, const char *module, size_t turn,
                      const struct lora_pair *from, struct err *e)
{
    const size_t out = m->w.rows, in = m->w.cols;
    const bool given = from && from->gain;
    float *row, *squares, *mag;
    void *p;
    int rc;

    if (learn(&m->mag, n, xasprintf("base_model.model.%s.lora_magnitude_vector", module), 1, out,
              PARAM_SMALL, e))
        return -1;
    m->mag->decay = n->cfg.decay_norms;
    m->mag->turn = turn;
    if (n->c->be->alloc(n->c, &p, 4 * out * sizeof(float), "gains", e))
        return -1;
    m->gain = p;
    m->gain_less = m->gain + out;
    m->length = m->gain + 2 * out;
    m->squares = m->gain + 3 * out;
    row = xmalloc((in + 2 * out + 1) * sizeof(*row));
    squares = row + in;
    mag = squares + out;
    for (size_t r = 0; r < out; r++) {
        double s = 0;

        weight_decode_row(row, &m->w, r);
        for (size_t k = 0; k < in; k++)
            s += (double)row[k] * (double)row[k];
        squares[r] = (float)s;
        mag[r] = given ? from->gain[r] : (float)sqrt(s);
    }
    m->mag_is_gain = given;
    rc = param_write(&n->params, m->squares, squares, out * sizeof(float), e) ||
                 param_write(&n->params, m->mag->w, mag, out * sizeof(float), e)
             ? -1
             : 0;
    free(row);
    return rc;
}

/* Where the adapter to go on with gave gains: the magnitudes that they stand for. */
static int dora_magnitude(struct net *n, struct net_mat *m, struct err *e)
{
    const size_t out = m->w.rows, bytes = out * sizeof(float);
    float *mag = xmalloc((2 * out + 1) * sizeof(*mag)), *length = mag + out;
    int rc = -1;

    net_dora_gain(n, m);
    if ((!ctx_on_host(n->c) && n->c->be->settle(n->c, e)) ||
        param_read(&n->params, mag, m->mag->w, bytes, e) ||
        param_read(&n->params, length, m->length, bytes, e))
        goto done;
    for (size_t r = 0; r < out; r++)
        mag[r] = length[r] > 0 ? mag[r] / length[r] : 0;
    rc = param_write(&n->params, m->mag->w, mag, bytes, e);
done:
    free(mag);
    return rc;
}

/* What gains are made in, and magnitudes from given ones: matrices are where ops find them. */
static int start_dora(struct net *n, struct err *e)
{
    const struct hparams *hp = n->m->hp;
    const size_t Q = (size_t)(hp->heads * hp->head_dim), F = (size_t)hp->ffn, D = (size_t)hp->dim;
    const size_t head = n->cfg.targets & NET_HEAD ? (size_t)hp->vocab : 0;
    const size_t a = F > Q ? F : Q, c = D > head ? D : head, widest = a > c ? a : c;
    const size_t r = n->cfg.rank;
    void *p;

    n->dora_bytes = r * (widest + r) * sizeof(float);
    if (n->c->be->alloc(n->c, &p, n->dora_bytes, "lengths of rows", e))
        return -1;
    n->dora = p;
    for (int64_t l = 0; l < hp->layers; l++)
        for (size_t i = 0; i < NET_MATS; i++) {
            struct net_mat *m = net_layer_mat(&n->layer[l], i);

            if (m->mag && m->mag_is_gain && dora_magnitude(n, m, e))
                return -1;
        }
    return n->head.mag && n->head.mag_is_gain ? dora_magnitude(n, &n->head, e) : 0;
}

/* Dropout and DoRA's lengths are each pair's own, and an adapter to go on with may lack some; ranks
 * that are no multiple of 8 would begin where products are slow. */
void net_choose_joined(struct net *n, const struct lora *from)
{
    for (size_t k = 0; k < NET_GROUPS; k++) {
        const struct net_group *g = &net_groups[k];
        const unsigned all = ((1u << g->count) - 1) << g->first;
        bool fits = (n->cfg.targets & all) == all && !n->cfg.dora && n->cfg.dropout <= 0 &&
                    n->cfg.rank % 8 == 0;

        for (size_t l = 0; from && l < from->layers; l++)
            for (size_t i = g->first; i < g->first + g->count; i++)
                fits &= pair_of(from, l, i)->a.data != NULL;
        n->joined[k] = fits;
    }
}

static const char *const pair_form = "base_model.model.%s.lora_%c.weight";

/* A of all that matrix i of a layer, the first of its joined group, shares it with. */
static int learn_together(struct net *n, size_t l, const struct net_group *g, struct err *e)
{
    struct param *a[NET_MATS];
    char *name[NET_MATS], module[96];

    for (size_t i = 0; i < g->count; i++) {
        snprintf(module, sizeof(module), "model.layers.%zu.%s", l, place[g->first + i].module);
        name[i] = xasprintf(pair_form, module, 'A');
    }
    if (param_new_together(&n->params, a, name, g->count, n->cfg.rank,
                           net_layer_mat(&n->layer[l], g->first)->w.cols, n->cfg.optim, e))
        return -1;
    for (size_t i = 0; i < g->count; i++) {
        a[i]->decay |= n->cfg.decay_norms;
        net_layer_mat(&n->layer[l], g->first + i)->a = a[i];
    }
    return 0;
}

/* The pair of a linear layer, from the adapter's where p is not NULL; A may be there already. */
static int build_pair(struct net *n, struct net_mat *m, const char *module, size_t turn,
                      const struct lora_pair *p, uint64_t *counter, struct err *e)
{
    if (p && !p->a.data)
        return 0;
    if ((!m->a && learn(&m->a, n, xasprintf(pair_form, module, 'A'), n->cfg.rank, m->w.cols,
                        PARAM_SMALL, e)) ||
        learn(&m->b, n, xasprintf(pair_form, module, 'B'), m->w.rows, n->cfg.rank, PARAM_SMALL, e))
        return -1;
    m->b->turn = turn;
    m->a->overwritten = m->b->overwritten = true;
    if (p) {
        if (take_values(n, m->a, &p->a, e) || take_values(n, m->b, &p->b, e))
            return -1;
    } else {
        float *a = values_begin(n, m->a);

        pair_random(a, m->a, n->cfg.seed, counter);
        if (values_end(n, m->a, a, e))
            return -1;
    }
    return n->cfg.dora ? build_dora(n, m, module, turn, p, e) : 0;
}

static int build_embed_pair(struct net *n, const struct lora_pair *p, uint64_t *counter,
                            struct err *e)
{
    struct net_mat *m = &n->embed;
    const char *const form = "base_model.model.model.embed_tokens.lora_embedding_%c";

    if (learn(&m->a, n, xasprintf(form, 'A'), n->cfg.rank, m->w.rows, PARAM_SMALL, e) ||
        learn(&m->b, n, xasprintf(form, 'B'), m->w.cols, n->cfg.rank, PARAM_SMALL, e))
        return -1;
    if (p)
        return take_values(n, m->b, &p->b, e) || take_values(n, m->a, &p->a, e) ? -1 : 0;
    float *b = values_begin(n, m->b);

    normal_random(b, m->b, n->cfg.seed, counter);
    return values_end(n, m->b, b, e);
}

/* A norm that learns, from the adapter's values where it has some. */
static int saved_norm(struct param **own, const float **norm, const float *from, struct net *n,
                      char *name, struct err *e)
{
    if (own_norm(own, norm, n, name, e))
        return -1;
    return from ? param_write(&n->params, (*own)->w, from, (*own)->cols * sizeof(float), e) : 0;
}

/* What learns whole beside the pairs, under the names of PEFT's modules_to_save. */
static int build_saved(struct net *n, const struct lora *from, struct err *e)
{
    const struct model *m = n->m;
    const unsigned save = n->cfg.save;
    const struct lora none = { 0 }, *f = from ? from : &none;
    const char *const head = "base_model.model.";

    if (save & SAVE_EMBED &&
        own_matrix(&n->embed, n, f->embed_w.data ? &f->embed_w : &m->embed,
                   xasprintf("%smodel.embed_tokens.weight", head), PARAM_EMBEDDING, e))
        return -1;
    if (save & SAVE_HEAD && own_matrix(&n->head, n, f->head_w.data ? &f->head_w : &m->head,
                                       xasprintf("%slm_head.weight", head), PARAM_HEAD, e))
        return -1;
    if (save & SAVE_NORM &&
        saved_norm(&n->own_norm, &n->norm, f->norm, n, xasprintf("%smodel.norm.weight", head), e))
        return -1;
    for (size_t l = 0; l < (size_t)m->hp->layers; l++) {
        struct net_layer *to = &n->layer[l];
        const struct lora_layer *fl = from ? &from->layer[l] : NULL;

        if ((save & SAVE_ATTN_NORM &&
             saved_norm(&to->own_attn_norm, &to->attn_norm, fl ? fl->attn_norm : NULL, n,
                        xasprintf("%smodel.layers.%zu.input_layernorm.weight", head, l), e)) ||
            (save & SAVE_FFN_NORM &&
             saved_norm(&to->own_ffn_norm, &to->ffn_norm, fl ? fl->ffn_norm : NULL, n,
                        xasprintf("%smodel.layers.%zu.post_attention_layernorm.weight", head, l),
                        e)))
            return -1;
    }
    return 0;
}

static int build_pairs(struct net *n, struct err *e)
{
    struct lora *from = NULL;
    uint64_t counter = 0;
    char module[96];
    int rc = -1;

    n->scale =
        (float)(n->cfg.alpha / (n->cfg.rslora ? sqrt((double)n->cfg.rank) : (double)n->cfg.rank));
    if (n->cfg.init && (lora_open(&from, n->m, n->cfg.init, e) || check_init(n, from, e)))
        goto done;
    net_choose_joined(n, from);
    for (size_t l = 0; l < (size_t)n->m->hp->layers; l++)
        for (size_t i = 0; i < NET_MATS; i++) {
            struct net_mat *m = net_layer_mat(&n->layer[l], i);

            if (!(n->cfg.targets >> i & 1))
                continue;
            snprintf(module, sizeof(module), "model.layers.%zu.%s", l, place[i].module);
            m->number = l * NET_MATS + i;
            const struct net_group *g = net_group_of(n, i);

            if (g && i == g->first && learn_together(n, l, g, e))
                goto done;
            if (build_pair(n, m, module, turn_of(n, i), from ? pair_of(from, l, i) : NULL, &counter,
                           e))
                goto done;
        }
    if (build_saved(n, from, e) ||
        (n->cfg.targets & NET_EMBED &&
         build_embed_pair(n, from ? &from->embed : NULL, &counter, e)) ||
        (n->cfg.targets & NET_HEAD &&
         build_pair(n, &n->head, "lm_head", 0, from ? &from->head : NULL, &counter, e)))
        goto done;
    rc = 0;
done:
    lora_close(from);
    return rc;
}

/* ---- where ops find the model ---- */

/* Norms and frequencies: the model's own, or copies on the device. */
static int build_vectors(struct net *n, struct err *e)
{
    const struct model *m = n->m;
    const size_t L = (size_t)m->hp->layers, D = (size_t)m->hp->dim;
    const size_t half = (size_t)m->hp->head_dim / 2, each = (D + 63) / 64 * 64;
    void *p;

    n->base_norm = xcalloc(2 * L + 1, sizeof(*n->base_norm));
    for (size_t l = 0; l < L; l++) {
        n->base_norm[2 * l] = m->layer[l].attn_norm;
        n->base_norm[2 * l + 1] = m->layer[l].ffn_norm;
    }
    n->base_norm[2 * L] = m->norm;
    n->inv_freq = m->inv_freq;
    if (ctx_on_host(n->c))
        return 0;
    n->vector_bytes = ((2 * L + 1) * each + half) * sizeof(float);
    if (n->c->be->alloc(n->c, &p, n->vector_bytes, "norms", e))
        return -1;
    n->vectors = p;
    for (size_t i = 0; i < 2 * L + 1; i++) {
        if (param_write(&n->params, n->vectors + i * each, n->base_norm[i], D * sizeof(float), e))
            return -1;
        n->base_norm[i] = n->vectors + i * each;
    }
    n->inv_freq = n->vectors + (2 * L + 1) * each;
    return param_write(&n->params, n->vectors + (2 * L + 1) * each, m->inv_freq,
                       half * sizeof(float), e);
}

/* A matrix on the device: what learns lies there, what is frozen, or the reference's, goes there.
 */
static int place_mat(struct net *n, struct net_mat *m, bool looked_up, struct err *e)
{
    const struct backend *be = n->c->be;

    if (m->own) {
        be->adopt(n->c, &m->w);
        m->adopted = true;
    }
    if (m->own && !n->cfg.reference)
        return 0;
    if (looked_up ? be->place_rows(n->c, &m->base, e) : be->place(n->c, &m->base, e))
        return -1;
    m->placed = true;
    if (!m->own)
        m->w = m->base;
    return 0;
}

static int place_all(struct net *n, struct err *e)
{
    struct net_mat *embed = &n->embed, *head = &n->head;
    const bool shared = head->own && head->own == embed->own;

    for (int64_t l = 0; l < n->m->hp->layers; l++)
        for (size_t i = 0; i < NET_MATS; i++)
            if (place_mat(n, net_layer_mat(&n->layer[l], i), false, e))
                return -1;
    if (place_mat(n, embed, !n->m->hp->tied, e))
        return -1;
    if (shared) {
        *head = *embed;
        head->adopted = head->placed = false;
        return 0;
    }
    if (!n->m->hp->tied || head->own || !embed->placed)
        return place_mat(n, head, false, e);
    head->w = head->base = embed->base;
    return 0;
}

static void unplace(struct net *n, struct net_mat *m)
{
    if (m->adopted)
        n->c->be->unplace(n->c, &m->w);
    if (m->placed)
        n->c->be->unplace(n->c, &m->base);
}

int net_build(struct net *n, struct err *e)
{
    const struct model *m = n->m;

    if (build_vectors(n, e))
        return -1;
    n->layer = xcalloc((size_t)m->hp->layers, sizeof(*n->layer));
    n->saved = xcalloc((size_t)m->hp->layers, sizeof(*n->saved));
    n->embed.w = m->embed;
    n->head.w = m->head;
    n->norm = n->base_norm[2 * m->hp->layers];
    for (int64_t l = 0; l < m->hp->layers; l++) {
        for (size_t i = 0; i < NET_MATS; i++)
            net_layer_mat(&n->layer[l], i)->w =
                *(const struct weight *)((const char *)&m->layer[l] + place[i].weight);
        n->layer[l].attn_norm = n->base_norm[2 * l];
        n->layer[l].ffn_norm = n->base_norm[2 * l + 1];
    }
    n->embed.base = n->embed.w;
    n->head.base = n->head.w;
    for (int64_t l = 0; l < m->hp->layers; l++)
        for (size_t i = 0; i < NET_MATS; i++)
            net_layer_mat(&n->layer[l], i)->base = net_layer_mat(&n->layer[l], i)->w;
    if (n->cfg.full ? build_full(n, e) : build_pairs(n, e))
        return -1;
    return ctx_on_host(n->c) ? 0 : place_all(n, e);
}

int net_new(struct net **out, struct model *m, struct ctx *c, const struct train_ops *op,
            const struct net_cfg *cfg, struct err *e)
{
    struct net *n = xcalloc(1, sizeof(*n));

    n->m = m;
    n->c = c;
    n->op = op;
    n->cfg = *cfg;
    n->params.on = c;
    n->adapters = true;
    if (cfg->full)
        n->cfg.targets = 0;
    if (net_build(n, e) || (n->cfg.dora && start_dora(n, e))) {
        net_free(n);
        return -1;
    }
    net_changed(n);
    *out = n;
    return 0;
}

static void release_gain(struct net *n, struct net_mat *m)
{
    n->c->be->release(n->c, m->gain, 4 * m->w.rows * sizeof(float));
}

void net_free(struct net *n)
{
    if (!n)
        return;
    for (int64_t l = 0; n->layer && l < n->m->hp->layers; l++)
        for (size_t i = 0; i < NET_MATS; i++) {
            unplace(n, net_layer_mat(&n->layer[l], i));
            release_gain(n, net_layer_mat(&n->layer[l], i));
        }
    unplace(n, &n->embed);
    unplace(n, &n->head);
    release_gain(n, &n->head);
    n->c->be->release(n->c, n->dora, n->dora_bytes);
    param_list_release(&n->params);
    free(n->layer);
    free(n->saved);
    free(n->base_norm);
    n->c->be->release(n->c, n->slab, n->slab_bytes);
    n->c->be->release(n->c, n->vectors, n->vector_bytes);
    n->c->be->release(n->c, n->ints, 0);
    free(n);
}

const struct param_list *net_params(const struct net *n)
{
    return &n->params;
}

float net_scale(const struct net *n)
{
    return n->scale;
}

const struct net_cfg *net_config(const struct net *n)
{
    return &n->cfg;
}

void net_adapters(struct net *n, bool on)
{
    n->adapters = on;
}
