/* net_build.c - what learns: every matrix itself, or LoRA pairs beside chosen ones. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
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

const char *const net_mat_names[NET_MATS] = { "q_proj",    "k_proj",  "v_proj",   "o_proj",
                                              "gate_proj", "up_proj", "down_proj" };

struct net_mat *net_layer_mat(struct net_layer *l, size_t i)
{
    return (struct net_mat *)((char *)l + place[i].mat);
}

/* A parameter with room for its gradient and moments; its values are zero. Takes name. */
static int param_new(struct param **out, struct net *n, char *name, size_t rows, size_t cols,
                     struct err *e)
{
    struct param *p = xcalloc(1, sizeof(*p));
    void *mem;

    p->name = name;
    p->rows = rows;
    p->cols = cols;
    p->decay = rows > 1 || n->cfg.decay_norms;
    if (mem_map(&mem, 4 * rows * cols * sizeof(float), name, e)) {
        free(p->name);
        free(p);
        return -1;
    }
    p->w = mem;
    p->g = p->w + rows * cols;
    p->m = p->g + rows * cols;
    p->v = p->m + rows * cols;
    n->param = xrealloc(n->param, (n->n_param + 1) * sizeof(struct param *));
    n->param[n->n_param++] = *out = p;
    return 0;
}

static size_t turn_of(const struct net *n, size_t i)
{
    return place[i].rotated && n->m->hp->rope.interleaved ? (size_t)n->m->hp->head_dim : 0;
}

/* The matrix learns: a float32 copy of it. Takes name. */
static int own_matrix(struct net_mat *to, struct net *n, const struct weight *w, char *name,
                      struct err *e)
{
    if (param_new(&to->own, n, name, w->rows, w->cols, e))
        return -1;
    for (size_t r = 0; r < w->rows; r++)
        weight_decode_row(to->own->w + r * w->cols, w, r);
    to->w = (struct weight){ .enc = ENC_F32,
                             .rows = w->rows,
                             .cols = w->cols,
                             .data = to->own->w,
                             .row_bytes = w->cols * sizeof(float),
                             .name = w->name };
    return 0;
}

static int own_norm(struct param **own, const float **norm, struct net *n, char *name,
                    struct err *e)
{
    const size_t D = (size_t)n->m->hp->dim;

    if (param_new(own, n, name, 1, D, e))
        return -1;
    memcpy((*own)->w, *norm, D * sizeof(float));
    *norm = (*own)->w;
    return 0;
}

static int build_full(struct net *n, struct err *e)
{
    const struct model *m = n->m;

    if (own_matrix(&n->embed, n, &m->embed, xstrdup("model.embed_tokens.weight"), e))
        return -1;
    for (int64_t l = 0; l < m->hp->layers; l++) {
        struct net_layer *to = &n->layer[l];

        for (size_t i = 0; i < NET_MATS; i++) {
            struct net_mat *mat = net_layer_mat(to, i);
            const struct weight w = mat->w;

            if (own_matrix(mat, n, &w,
                           xasprintf("model.layers.%lld.%s.weight", (long long)l, place[i].module),
                           e))
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
    return own_matrix(&n->head, n, &m->head, xstrdup("lm_head.weight"), e);
}

/* ---- pairs ---- */

/* A as PEFT starts it (Kaiming, uniform in +-1 / sqrt(in)), B zero: the model is as it was. */
static void pair_random(struct param *a, uint64_t seed, uint64_t *counter)
{
    const double bound = 1 / sqrt((double)a->cols);

    for (size_t i = 0; i < a->rows * a->cols; i++)
        a->w[i] = (float)((2 * rng_uniform(seed, (*counter)++) - 1) * bound);
}

static void weight_floats(float *to, const struct weight *w)
{
    for (size_t r = 0; r < w->rows; r++)
        weight_decode_row(to + r * w->cols, w, r);
}

static const struct lora_pair *pair_of(const struct lora *l, size_t layer, size_t i)
{
    return (const struct lora_pair *)((const char *)&l->layer[layer] + place[i].pair);
}

/* What of the adapter to go on with cannot be trained, or a rank of its own. */
static int check_init(struct net *n, const struct lora *from, struct err *e)
{
    const char *dir = n->cfg.init;
    float scale = 0;

    if (from->norm || from->embed.a.data || from->embed_w.data || from->head_w.data ||
        from->n_token || from->head.a.data)
        return err_set(e, ERR_FORMAT,
                       "%s: adapts more than the matrices of layers, which is not trained", dir);
    n->cfg.targets = 0;
    n->cfg.rank = 0;
    for (size_t l = 0; l < from->layers; l++) {
        if (from->layer[l].attn_norm || from->layer[l].ffn_norm)
            return err_set(e, ERR_FORMAT, "%s: replaces norms, which is not trained", dir);
        for (size_t i = 0; i < NET_MATS; i++) {
            const struct lora_pair *p = pair_of(from, l, i);

            if (!p->a.data)
                continue;
            if (p->gain || p->bias)
                return err_set(e, ERR_FORMAT, "%s: DoRA or a bias, which is not trained", dir);
            if ((n->cfg.rank && p->a.rows != n->cfg.rank) || (scale != 0 && p->scale != scale))
                return err_set(e, ERR_FORMAT, "%s: modules of different rank or alpha", dir);
            n->cfg.rank = p->a.rows;
            scale = p->scale;
            n->cfg.targets |= 1u << i;
        }
    }
    if (!n->cfg.rank)
        return err_set(e, ERR_FORMAT, "%s: adapts no matrix", dir);
    n->scale = scale;
    n->cfg.alpha =
        (double)scale * (n->cfg.rslora ? sqrt((double)n->cfg.rank) : (double)n->cfg.rank);
    return 0;
}

static int build_pair(struct net *n, size_t l, size_t i, const struct lora *from, uint64_t *counter,
                      struct err *e)
{
    struct net_mat *m = net_layer_mat(&n->layer[l], i);
    const struct lora_pair *p = from ? pair_of(from, l, i) : NULL;
    const char *const form = "base_model.model.model.layers.%zu.%s.lora_%c.weight";

    if (p && !p->a.data)
        return 0;
    if (param_new(&m->a, n, xasprintf(form, l, place[i].module, 'A'), n->cfg.rank, m->w.cols, e) ||
        param_new(&m->b, n, xasprintf(form, l, place[i].module, 'B'), m->w.rows, n->cfg.rank, e))
        return -1;
    m->b->turn = turn_of(n, i);
    if (p) {
        weight_floats(m->a->w, &p->a);
        weight_floats(m->b->w, &p->b);
    } else {
        pair_random(m->a, n->cfg.seed, counter);
    }
    return 0;
}

static int build_pairs(struct net *n, struct err *e)
{
    struct lora *from = NULL;
    uint64_t counter = 0;
    int rc = -1;

    n->scale =
        (float)(n->cfg.alpha / (n->cfg.rslora ? sqrt((double)n->cfg.rank) : (double)n->cfg.rank));
    if (n->cfg.init && (lora_open(&from, n->m, n->cfg.init, e) || check_init(n, from, e)))
        goto done;
    for (size_t l = 0; l < (size_t)n->m->hp->layers; l++)
        for (size_t i = 0; i < NET_MATS; i++)
            if (n->cfg.targets >> i & 1 && build_pair(n, l, i, from, &counter, e))
                goto done;
    rc = 0;
done:
    lora_close(from);
    return rc;
}

int net_build(struct net *n, struct err *e)
{
    const struct model *m = n->m;

    n->layer = xcalloc((size_t)m->hp->layers, sizeof(*n->layer));
    n->saved = xcalloc((size_t)m->hp->layers, sizeof(*n->saved));
    n->embed.w = m->embed;
    n->head.w = m->head;
    n->norm = m->norm;
    for (int64_t l = 0; l < m->hp->layers; l++) {
        for (size_t i = 0; i < NET_MATS; i++)
            net_layer_mat(&n->layer[l], i)->w =
                *(const struct weight *)((const char *)&m->layer[l] + place[i].weight);
        n->layer[l].attn_norm = m->layer[l].attn_norm;
        n->layer[l].ffn_norm = m->layer[l].ffn_norm;
    }
    n->embed.base = n->embed.w;
    n->head.base = n->head.w;
    for (int64_t l = 0; l < m->hp->layers; l++)
        for (size_t i = 0; i < NET_MATS; i++)
            net_layer_mat(&n->layer[l], i)->base = net_layer_mat(&n->layer[l], i)->w;
    return n->cfg.full ? build_full(n, e) : build_pairs(n, e);
}

int net_new(struct net **out, struct model *m, struct ctx *c, const struct train_ops *op,
            const struct net_cfg *cfg, struct err *e)
{
    struct net *n = xcalloc(1, sizeof(*n));

    n->m = m;
    n->c = c;
    n->op = op;
    n->cfg = *cfg;
    n->adapters = true;
    if (cfg->full)
        n->cfg.targets = 0;
    if (net_build(n, e)) {
        net_free(n);
        return -1;
    }
    *out = n;
    return 0;
}

void net_free(struct net *n)
{
    if (!n)
        return;
    for (size_t i = 0; i < n->n_param; i++) {
        struct param *p = n->param[i];

        mem_unmap(p->w, 4 * p->rows * p->cols * sizeof(float));
        free(p->name);
        free(p);
    }
    free(n->param);
    free(n->layer);
    free(n->saved);
    mem_unmap(n->slab, n->slab_bytes);
    free(n);
}

size_t net_params(const struct net *n, struct param ***list)
{
    *list = n->param;
    return n->n_param;
}

size_t net_param_count(const struct net *n)
{
    size_t count = 0;

    for (size_t i = 0; i < n->n_param; i++)
        count += n->param[i]->rows * n->param[i]->cols;
    return count;
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
