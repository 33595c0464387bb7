/* bind.c - from a checkpoint's tensors to the structs of llama.h. Matrices stay where
 * the file maps them; the few norm vectors are decoded to float32. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/llama.h"

/* The order of the inputs is kept by m; matrices that read the same inputs mostly share one. */
static int bind_matrix(struct weight *w, struct model *m, const char *name, struct err *e)
{
    if (checkpoint_weight(m->ckpt, name, w, e))
        return -1;
    int32_t *order = quant_order(w);

    if (!order)
        return 0;
    for (size_t i = m->n_orders; i > 0 && m->n_orders - i < 3; i--) {
        if (m->order[i - 1].n == w->cols &&
            memcmp(m->order[i - 1].p, order, w->cols * sizeof(*order)) == 0) {
            free(order);
            w->p.order = m->order[i - 1].p;
            return 0;
        }
    }
    m->order = xrealloc(m->order, (m->n_orders + 1) * sizeof(*m->order));
    m->order[m->n_orders++] = (struct input_order){ order, w->cols };
    w->p.order = order;
    return 0;
}

/* Decodes a vector of n values; *out is malloc'd. */
static int bind_vector(float **out, const struct checkpoint *ck, const char *name, size_t n,
                       struct err *e)
{
    const struct tensor_view *t = checkpoint_find(ck, name);
    void *p;

    if (!t || t->ndim != 1 || t->shape[0] != n || !enc_table[t->enc].decode)
        return err_set(e, ERR_FORMAT, "%s: vector %s of %zu values is missing", checkpoint_path(ck),
                       name, n);
    if (mem_new(&p, n, sizeof(float), name, e))
        return -1;
    enc_table[t->enc].decode(p, t->data, n);
    *out = p;
    return 0;
}

/* For where a backend puts them: they are the outputs of one `linear`. */
static void read_together(struct weight *const *w, size_t n)
{
    size_t rows = 0;

    for (size_t i = 0; i < n; rows += w[i++]->rows)
        w[i]->with.before = rows;
    for (size_t i = 0; i < n; i++)
        w[i]->with.rows = rows;
}

static int bind_layer(struct layer *w, struct model *m, int64_t l, struct err *e)
{
    const struct {
        struct weight *w;
        const char *name;
    } matrix[] = {
        { &w->q, "self_attn.q_proj" }, { &w->k, "self_attn.k_proj" }, { &w->v, "self_attn.v_proj" },
        { &w->o, "self_attn.o_proj" }, { &w->gate, "mlp.gate_proj" }, { &w->up, "mlp.up_proj" },
        { &w->down, "mlp.down_proj" },
    };
    const struct {
        float **p;
        const char *name;
    } norm[] = {
        { &w->attn_norm, "input_layernorm" },
        { &w->ffn_norm, "post_attention_layernorm" },
    };
    char name[96];

    for (size_t i = 0; i < ARRAY_LEN(matrix); i++) {
        snprintf(name, sizeof(name), "model.layers.%lld.%s.weight", (long long)l, matrix[i].name);
        if (bind_matrix(matrix[i].w, m, name, e))
            return -1;
    }
    read_together((struct weight *const[]){ &w->q, &w->k, &w->v }, 3);
    read_together((struct weight *const[]){ &w->gate, &w->up }, 2);
    for (size_t i = 0; i < ARRAY_LEN(norm); i++) {
        snprintf(name, sizeof(name), "model.layers.%lld.%s.weight", (long long)l, norm[i].name);
        if (bind_vector(norm[i].p, m->ckpt, name, (size_t)m->hp->dim, e))
            return -1;
    }
    return 0;
}

static int bind_rope(struct model *m, struct err *e)
{
    const size_t half = (size_t)m->hp->head_dim / 2;
    float *divisors = NULL;
    void *p;

    if (checkpoint_find(m->ckpt, "rope_freqs.weight") &&
        bind_vector(&divisors, m->ckpt, "rope_freqs.weight", half, e))
        return -1;
    if (mem_new(&p, half, sizeof(float), "rotary frequencies", e)) {
        free(divisors);
        return -1;
    }
    m->inv_freq = p;
    rope_inv_freq(m->inv_freq, m->hp, divisors);
    free(divisors);
    return 0;
}

static int bind_all(struct model *m, struct err *e)
{
    const char *head = m->hp->tied ? "model.embed_tokens.weight" : "lm_head.weight";
    void *p;

    if (checkpoint_check(m->ckpt, e) || checkpoint_join_all(m->ckpt, e) ||
        bind_matrix(&m->embed, m, "model.embed_tokens.weight", e) ||
        bind_matrix(&m->head, m, head, e) ||
        bind_vector(&m->norm, m->ckpt, "model.norm.weight", (size_t)m->hp->dim, e) ||
        bind_rope(m, e))
        return -1;
    if (mem_new(&p, (size_t)m->hp->layers, sizeof(*m->layer), "layers", e))
        return -1;
    m->layer = p;
    for (int64_t l = 0; l < m->hp->layers; l++)
        if (bind_layer(&m->layer[l], m, l, e))
            return -1;
    return 0;
}

int model_open(struct model **out, const char *path, struct err *e)
{
    struct model *m = xcalloc(1, sizeof(*m));

    if (checkpoint_open(&m->ckpt, path, e)) {
        free(m);
        return -1;
    }
    m->hp = checkpoint_hparams(m->ckpt);
    if (bind_all(m, e)) {
        model_close(m);
        return -1;
    }
    *out = m;
    return 0;
}

/* One vector to c's memory; the host's copy goes. */
static int place_vector(struct ctx *c, float **v, size_t n, struct err *e)
{
    void *p;

    if (c->be->alloc(c, &p, n * sizeof(float), "vector", e))
        return -1;
    const int rc = c->be->upload(c, p, *v, n * sizeof(float), e);

    free(*v);
    *v = p;
    return rc;
}

/* The matrices and vectors of m, one after the other. */
struct part {
    struct weight *w;
    float **v;
    size_t n;
};

static bool part_at(struct model *m, size_t i, struct part *p)
{
    const size_t D = (size_t)m->hp->dim, L = m->layer ? (size_t)m->hp->layers : 0;

    *p = (struct part){ 0 };
    if (i < 9 * L) {
        struct layer *l = &m->layer[i / 9];
        struct weight *const w[] = { &l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down };
        float **const v[] = { &l->attn_norm, &l->ffn_norm };

        if (i % 9 < 7)
            p->w = w[i % 9];
        else
            p->v = v[i % 9 - 7], p->n = D;
        return true;
    }
    switch (i - 9 * L) {
    case 0:
        p->w = &m->embed;
        return true;
    case 1:
        p->w = m->hp->tied ? NULL : &m->head;
        return true;
    case 2:
        p->v = &m->norm, p->n = D;
        return true;
    case 3:
        p->v = &m->inv_freq, p->n = (size_t)m->hp->head_dim / 2;
        return true;
    default:
        return false;
    }
}

/* The matrices of layers that are away, first of all: on their way they need room on the device. */
static int place_away(struct model *m, struct ctx *c, int64_t away, struct err *e)
{
    for (int64_t l = 0; l < m->hp->layers; l++) {
        struct layer *y = &m->layer[l];
        struct weight *const w[] = { &y->q, &y->k, &y->v, &y->o, &y->gate, &y->up, &y->down };

        if (layer_away(m->hp->layers, away, l) && c->be->place_away(c, w, ARRAY_LEN(w), e))
            return -1;
    }
    return 0;
}

/* Queries, keys and values of a layer come as its first matrix does. */
static int place_part(struct model *m, struct ctx *c, size_t i, struct weight *w, struct err *e)
{
    const size_t l = i / 9;

    if (l < (size_t)m->hp->layers && w == &m->layer[l].q && c->be->place_beside)
        return c->be->place_beside(c, (struct weight *[]){ w, &m->layer[l].k, &m->layer[l].v }, 3,
                                   e);
    return c->be->place(c, w, e);
}

int model_place(struct model *m, struct ctx *c, int64_t away,
                void (*progress)(void *arg, size_t done, size_t total), void *arg, struct err *e)
{
    struct part p;
    size_t total = 0;
    int rc;

    m->on = c;
    while (part_at(m, total, &p))
        total++;
    rc = place_away(m, c, away, e);
    for (size_t i = 0; part_at(m, i, &p); i++) {
        if (p.w && !p.w->placed && rc == 0)
            rc = place_part(m, c, i, p.w, e);
        if (p.v && rc == 0) {
            rc = place_vector(c, p.v, p.n, e);
        } else if (p.v) {
            free(*p.v);
            *p.v = NULL;
        }
        if (progress)
            progress(arg, i + 1, total);
    }
    if (m->hp->tied)
        m->head = m->embed;
    return rc;
}

/* ---- on the CPU ---- */

struct placing {
    struct ctx *on;
    struct model *m;
    int64_t next; /* layer; hp->layers = the head; -1 = before the first pass */
    size_t bytes;
};

void model_place_later(struct model *m, struct ctx *c)
{
    BUG_ON(m->placing || !ctx_on_host(c));
    m->placing = xcalloc(1, sizeof(*m->placing));
    *m->placing = (struct placing){ .on = c, .m = m, .next = -1 };
}

/* false: there is no memory for it. */
static bool place_one(struct placing *p, struct weight *w)
{
    const size_t reserve = (size_t)256 << 20, n = weight_bytes(w);
    struct err e;

    const size_t have = p->on->be->available(p->on);

    if ((have && have < n + reserve) || p->on->be->place(p->on, w, &e))
        return false;
    p->bytes += w->placed ? n : 0;
    return true;
}

bool model_place_next(const struct model *m)
{
    struct placing *p = m->placing;

    if (!p || p->next > m->hp->layers)
        return false;
    const int64_t l = p->next++;

    if (l < 0)
        return true;
    if (l == m->hp->layers) {
        const bool rc = place_one(p, &p->m->head);

        if (m->hp->tied) /* one copy serves both; its owner is the head */
            p->m->embed.placed = m->head.placed;
        return rc;
    }
    struct layer *y = &p->m->layer[l];
    struct weight *const w[] = { &y->q, &y->k, &y->v, &y->o, &y->gate, &y->up, &y->down };

    for (size_t i = 0; i < ARRAY_LEN(w); i++) {
        if (!place_one(p, w[i])) {
            p->next = m->hp->layers + 1;
            return false;
        }
    }
    return true;
}

size_t model_placed_bytes(const struct model *m)
{
    return m->placing ? m->placing->bytes : 0;
}

static void unplace(struct model *m)
{
    struct part p;

    m->embed.placed = NULL;
    for (size_t i = 0; part_at(m, i, &p); i++)
        if (p.w && p.w != &m->head)
            m->placing->on->be->unplace(m->placing->on, p.w);
    m->placing->on->be->unplace(m->placing->on, &m->head);
    free(m->placing);
}

void model_close(struct model *m)
{
    if (!m)
        return;
    struct part p;

    if (m->placing)
        unplace(m);

    for (size_t i = 0; m->hp && part_at(m, i, &p); i++) {
        if (m->on && p.w)
            m->on->be->unplace(m->on, p.w);
        if (m->on && p.v)
            m->on->be->release(m->on, *p.v, p.n * sizeof(float));
        else if (p.v)
            free(*p.v);
    }
    for (size_t i = 0; i < m->n_orders; i++)
        free(m->order[i].p);
    free(m->order);
    free(m->layer);
    checkpoint_close(m->ckpt);
    free(m);
}
