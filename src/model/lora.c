#include "model/lora.h"

#include <math.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ops/backend.h"

static atomic_uint_fast64_t next_id = 1;

static const struct {
    const char *name;
    size_t pair, weight; /* offsets in struct lora_layer and struct layer */
} place[] = {
#define PLACE(name, field)                                                                         \
    {                                                                                              \
        name, offsetof(struct lora_layer, field), offsetof(struct layer, field)                    \
    }
    PLACE("self_attn.q_proj", q), PLACE("self_attn.k_proj", k), PLACE("self_attn.v_proj", v),
    PLACE("self_attn.o_proj", o), PLACE("mlp.gate_proj", gate), PLACE("mlp.up_proj", up),
    PLACE("mlp.down_proj", down),
#undef PLACE
};

/* ---- where a module belongs ---- */

/* The pair of module `name` ("lm_head", "model.layers.0.self_attn.q_proj"), and the matrix that it
 * adapts; NULL = there is no such module. */
static struct lora_pair *find(const struct lora *l, const struct model *m, size_t layers,
                              const char *name, const struct weight **w)
{
    unsigned n;
    int at = 0;

    if (!strcmp(name, "lm_head")) {
        *w = m ? &m->head : NULL;
        return (struct lora_pair *)(uintptr_t)&l->head;
    }
    if (sscanf(name, "model.layers.%5u.%n", &n, &at) != 1 || at == 0 || n >= layers)
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(place); i++) {
        if (strcmp(name + at, place[i].name))
            continue;
        if (m)
            *w = (const struct weight *)((const char *)&m->layer[n] + place[i].weight);
        return (struct lora_pair *)((char *)&l->layer[n] + place[i].pair);
    }
    return NULL;
}

/* The norm of this name. */
static const float **find_norm(struct lora *l, size_t layers, const char *name)
{
    unsigned n;
    int at = 0;

    if (!strcmp(name, "model.norm"))
        return &l->norm;
    if (sscanf(name, "model.layers.%5u.%n", &n, &at) != 1 || at == 0 || n >= layers)
        return NULL;
    return !strcmp(name + at, "input_layernorm")            ? &l->layer[n].attn_norm
           : !strcmp(name + at, "post_attention_layernorm") ? &l->layer[n].ffn_norm
                                                            : NULL;
}

static struct weight matrix(const struct tensor_view *t)
{
    struct weight w = { .enc = t->enc,
                        .rows = (size_t)t->shape[0],
                        .cols = (size_t)t->shape[1],
                        .data = t->data,
                        .name = t->name };

    w.row_bytes = w.cols / enc_table[w.enc].block * enc_table[w.enc].bytes;
    return w;
}

/* ---- opening ---- */

static int own(void **out, struct lora *l, size_t n, size_t size, struct err *e)
{
    void *p;

    if (mem_new(&p, n, size, peft_path(l->peft), e))
        return -1;
    l->own = xrealloc(l->own, (l->n_own + 1) * sizeof(*l->own));
    l->own[l->n_own++] = *out = p;
    return 0;
}

/* The adapter's row for row r of the model's matrix: GGUF and Meta have those of q and k in another
 * order (MODEL.md). hd = 0: the same. */
static size_t adapter_row(size_t r, size_t hd)
{
    return hd ? r / hd * hd + r % 2 * (hd / 2) + r % hd / 2 : r;
}

/* Values of a vector or a matrix as float32, rows in the model's order, times `scale`. */
static int floats(const float **out, struct lora *l, const struct tensor_view *t, size_t hd,
                  float scale, struct err *e)
{
    const size_t rows = (size_t)t->shape[0], cols = t->ndim == 2 ? (size_t)t->shape[1] : 1;
    const size_t bytes = cols * enc_table[t->enc].bytes;
    void *p;
    float *x;

    if (own(&p, l, rows * cols, sizeof(float), e))
        return -1;
    x = p;
    for (size_t r = 0; r < rows; r++)
        enc_table[t->enc].decode(x + r * cols,
                                 (const uint8_t *)t->data + adapter_row(r, hd) * bytes, cols);
    for (size_t i = 0; i < rows * cols; i++)
        x[i] *= scale;
    *out = x;
    return 0;
}

static int misfit(const struct lora *l, const char *what, uint64_t rows, uint64_t cols, size_t r,
                  size_t k, struct err *e)
{
    return err_set(e, ERR_FORMAT,
                   "%s: %s is for a matrix of [%llu, %llu], the model has [%zu, %zu]: the adapter "
                   "belongs to another model%s%s",
                   peft_path(l->peft), what, (unsigned long long)rows, (unsigned long long)cols, r,
                   k, *peft_base(l->peft) ? ", " : "", peft_base(l->peft));
}

/* magnitude / |W + scale B A| of every row: what DoRA multiplies the row by. */
static int dora_gain(struct lora *l, struct lora_pair *p, const struct weight *w,
                     const struct tensor_view *magnitude, size_t hd, struct err *e)
{
    const size_t rank = p->a.rows;
    const float *m;
    float *gain, *x, *b, *a;
    void *mem, *out;

    if (floats(&m, l, magnitude, hd, 1, e) || own(&out, l, w->rows, sizeof(float), e) ||
        mem_new(&mem, w->cols * (rank + 1) + rank, sizeof(float), magnitude->name, e))
        return -1;
    gain = out;
    x = mem;
    b = x + w->cols;
    a = b + rank;
    for (size_t k = 0; k < rank; k++)
        weight_decode_row(a + k * w->cols, &p->a, k);
    for (size_t r = 0; r < w->rows; r++) {
        double sum = 0;

        weight_decode_row(x, w, r);
        lora_merge_row(p, a, b, r, x);
        for (size_t i = 0; i < w->cols; i++)
            sum += (double)x[i] * (double)x[i];
        gain[r] = sum > 0 ? (float)(m[r] / sqrt(sum)) : 0;
    }
    free(mem);
    p->gain = gain;
    return 0;
}

/* The head size where m has the rows of this module in another order than an adapter; else 0. */
static size_t turned(const struct model *m, const struct peft_module *from)
{
    return m->hp->rope.interleaved && (strstr(from->name, "self_attn.q_proj") ||
                                       strstr(from->name, "self_attn.k_proj"))
               ? (size_t)m->hp->head_dim
               : 0;
}

/* The matrix of t with its rows in the model's order. */
static int in_order(struct weight *out, struct lora *l, const struct tensor_view *t, size_t hd,
                    struct err *e)
{
    const float *x;

    *out = matrix(t);
    if (!hd)
        return 0;
    if (floats(&x, l, t, hd, 1, e))
        return -1;
    out->enc = ENC_F32;
    out->data = x;
    out->row_bytes = out->cols * sizeof(float);
    return 0;
}

static int bind_pair(struct lora *l, const struct model *m, const struct peft_module *from,
                     struct lora_pair *p, const struct weight *w, struct err *e)
{
    const size_t hd = turned(m, from);

    if (from->a->shape[1] != w->cols || from->b->shape[0] != w->rows)
        return misfit(l, from->name, from->b->shape[0], from->a->shape[1], w->rows, w->cols, e);
    p->a = matrix(from->a);
    p->scale = from->scale;
    if (p->a.rows > l->max_rank)
        l->max_rank = p->a.rows;
    if (in_order(&p->b, l, from->b, hd, e) ||
        (from->magnitude && dora_gain(l, p, w, from->magnitude, hd, e)) ||
        (from->bias && floats(&p->bias, l, from->bias, hd, p->scale, e)))
        return -1;
    return 0;
}

static int bind_embed(struct lora *l, const struct model *m, const struct peft_module *from,
                      struct err *e)
{
    const size_t V = m->embed.rows, D = m->embed.cols;

    if (from->a && (!from->embedding || from->a->shape[1] != V || from->b->shape[0] != D))
        return misfit(l, from->name, from->a->shape[1], from->b->shape[0], V, D, e);
    if (from->a && m->hp->tied && peft_keeps_tied(l->peft))
        return err_set(e, ERR_FORMAT,
                       "%s: LoRA of an embedding with ensure_weight_tying is not supported where "
                       "the embedding is the head too",
                       peft_path(l->peft));
    if (from->a) {
        l->embed =
            (struct lora_pair){ .a = matrix(from->a), .b = matrix(from->b), .scale = from->scale };
        if (l->embed.a.rows > l->max_rank)
            l->max_rank = l->embed.a.rows;
    }
    if (!from->tokens)
        return 0;
    if (from->tokens->shape[1] != D)
        return misfit(l, from->tokens->name, V, from->tokens->shape[1], V, D, e);
    l->n_token = (size_t)from->tokens->shape[0];
    l->token = from->token;
    l->tied = m->hp->tied;
    for (size_t i = 0; i < l->n_token; i++)
        if ((size_t)l->token[i] >= V)
            return err_set(e, ERR_FORMAT, "%s: replaces token %d, the model has %zu",
                           peft_path(l->peft), l->token[i], V);
    return floats(&l->token_row, l, from->tokens, 0, 1, e);
}

static int bind_whole_linear(struct lora *l, const struct model *m, const struct peft_module *from,
                             struct err *e)
{
    const struct tensor_view *t = from->weight;
    const struct weight *w = NULL;
    struct lora_pair *p = find(l, m, (size_t)m->hp->layers, from->name, &w);

    if (!p)
        return err_set(e, ERR_FORMAT, "%s: replaces %.200s, which this model does not have",
                       peft_path(l->peft), from->name);
    if (t->ndim != 2 || t->shape[0] != w->rows || t->shape[1] != w->cols)
        return misfit(l, t->name, t->shape[0], t->shape[t->ndim - 1], w->rows, w->cols, e);
    return in_order(&p->whole, l, t, turned(m, from), e);
}

/* A module that is replaced as a whole. */
static int bind_whole(struct lora *l, const struct model *m, const struct peft_module *from,
                      struct err *e)
{
    const struct tensor_view *t = from->weight;
    const float **norm = find_norm(l, (size_t)m->hp->layers, from->name);
    const bool embed = !strcmp(from->name, "model.embed_tokens");
    const struct weight *w = embed ? &m->embed : &m->head;

    if (norm) {
        if (t->ndim != 1 || t->shape[0] != (uint64_t)m->hp->dim)
            return misfit(l, t->name, 1, t->shape[t->ndim - 1], 1, (size_t)m->hp->dim, e);
        return floats(norm, l, t, 0, 1, e);
    }
    if (!embed && strcmp(from->name, "lm_head"))
        return bind_whole_linear(l, m, from, e);
    if (t->ndim != 2 || t->shape[0] < w->rows || t->shape[1] != w->cols)
        return misfit(l, t->name, t->shape[0], t->shape[t->ndim - 1], w->rows, w->cols, e);
    *(embed ? &l->embed_w : &l->head_w) = matrix(t);
    if (t->shape[0] > l->vocab)
        l->vocab = (size_t)t->shape[0];
    return 0;
}

static int bind(struct lora *l, const struct model *m, const struct peft_module *from,
                struct err *e)
{
    const struct weight *w = NULL;
    struct lora_pair *p;

    if (from->weight && bind_whole(l, m, from, e))
        return -1;
    if (!strcmp(from->name, "model.embed_tokens"))
        return bind_embed(l, m, from, e);
    if (!from->a && !from->tokens)
        return 0;
    p = find(l, m, (size_t)m->hp->layers, from->name, &w);
    if (!p || from->embedding || from->tokens)
        return err_set(e, ERR_FORMAT, "%s: %.200s is no %s of this model", peft_path(l->peft),
                       from->name, p ? "embedding" : "linear layer");
    if (p == &l->head && l->head_w.data)
        w = &l->head_w;
    if (p->whole.data)
        w = &p->whole;
    return bind_pair(l, m, from, p, w, e);
}

enum { PAIRS = offsetof(struct lora_layer, attn_norm) / sizeof(struct lora_pair) };

/* Pair i of all, the head's last; NULL after that. */
static struct lora_pair *pair_at(struct lora *l, size_t i)
{
    if (i < PAIRS * l->layers)
        return (struct lora_pair *)(void *)&l->layer[i / PAIRS] + i % PAIRS;
    return i == PAIRS * l->layers ? &l->head : NULL;
}

/* On a device there are pairs of A and B only. */
static int check_device(struct lora *l, const struct ctx *c, struct err *e)
{
    bool more = l->embed_w.data || l->head_w.data || l->embed.a.data || l->norm || l->n_token;
    const struct lora_pair *p;

    for (size_t i = 0; (p = pair_at(l, i)); i++)
        more |= p->bias || p->gain || p->whole.data;
    for (size_t i = 0; i < l->layers; i++)
        more |= l->layer[i].attn_norm || l->layer[i].ffn_norm;
    return more ? err_set(
                      e, ERR_FORMAT,
                      "%s: DoRA, biases, embeddings, and modules or tokens that are replaced, are "
                      "computed on the CPU only: --device cpu, or puna merge, not %s",
                      peft_path(l->peft), c->be->name)
                : 0;
}

/* The matrices to where the model's are. */
static int place_all(struct lora *l, struct ctx *c, struct err *e)
{
    struct lora_pair *p;

    l->on = c;
    for (size_t i = 0; (p = pair_at(l, i)); i++)
        if (p->a.data && (c->be->place(c, &p->a, e) || c->be->place(c, &p->b, e)))
            return -1;
    return 0;
}

/* Where the adapter has rows for more tokens than the model, both ends must. */
static int check_vocab(const struct lora *l, const struct model *m, bool longer, struct err *e)
{
    const size_t V = m->embed.rows, embed = l->embed_w.data ? l->embed_w.rows : V,
                 head = l->head_w.data ? l->head_w.rows : V;

    if (l->vocab == V)
        return 0;
    if (embed != head || l->embed.a.data)
        return err_set(e, ERR_FORMAT,
                       "%s: the embedding is for %zu tokens%s and the head for %zu, the model has "
                       "%zu",
                       peft_path(l->peft), embed, l->embed.a.data ? " with a LoRA for fewer" : "",
                       head, V);
    if (!longer)
        return err_set(e, ERR_FORMAT,
                       "%s: has %zu tokens, the model %zu: puna merge writes the model that has "
                       "them all",
                       peft_path(l->peft), l->vocab, V);
    return 0;
}

static int open_adapter(struct lora **out, const struct model *m, const char *dir, bool longer,
                        struct err *e)
{
    struct lora *l = xcalloc(1, sizeof(*l));
    void *p;

    l->id = atomic_fetch_add(&next_id, 1);
    l->dim = (size_t)m->hp->dim;
    l->vocab = m->embed.rows;
    if (peft_open(&l->peft, dir, e) ||
        mem_new(&p, (size_t)m->hp->layers, sizeof(*l->layer), "adapter", e))
        goto fail;
    l->layer = p;
    l->layers = (size_t)m->hp->layers;
    for (size_t i = 0; i < peft_modules(l->peft); i++)
        if (bind(l, m, peft_module(l->peft, i), e))
            goto fail;
    if (m->hp->tied && peft_keeps_tied(l->peft) && l->embed_w.data && !l->head_w.data)
        l->head_w = l->embed_w;
    if (check_vocab(l, m, longer, e))
        goto fail;
    if (m->on && (check_device(l, m->on, e) || place_all(l, m->on, e)))
        goto fail;
    *out = l;
    return 0;
fail:
    lora_close(l);
    return -1;
}

int lora_open(struct lora **out, const struct model *m, const char *dir, struct err *e)
{
    return open_adapter(out, m, dir, false, e);
}

int lora_open_longer(struct lora **out, const struct model *m, const char *dir, struct err *e)
{
    return open_adapter(out, m, dir, true, e);
}

void lora_close(struct lora *l)
{
    struct lora_pair *p;

    if (!l)
        return;
    for (size_t i = 0; l->on && (p = pair_at(l, i)); i++) {
        l->on->be->unplace(l->on, &p->a);
        l->on->be->unplace(l->on, &p->b);
    }
    for (size_t i = 0; i < l->n_own; i++)
        free(l->own[i]);
    free(l->own);
    free(l->layer);
    peft_close(l->peft);
    free(l);
}

/* ---- applying ---- */

void lora_apply(struct ctx *c, const struct lora_pair *p, const struct lora_scratch *s, float *y,
                const float *x, size_t t, size_t n)
{
    const size_t out = p->whole.data ? p->whole.rows : p->b.rows;
    const struct linear_out down = { s->low, &p->a }, whole = { y + t * out, &p->whole };

    if (p->whole.data)
        c->op->linear(c, &whole, 1, x + t * p->whole.cols, n);
    if (!p->a.data)
        return;
    BUG_ON(p->a.rows > s->max_rank);
    y += t * out;
    c->op->linear(c, &down, 1, x + t * p->a.cols, n);
    c->op->scale(c, s->low, n * p->a.rows, p->scale);
    c->op->linear_add(c, y, &p->b, s->low, n);
    for (size_t r = 0; (p->bias || p->gain) && r < n; r++, y += out)
        for (size_t i = 0; i < out; i++)
            y[i] = (y[i] + (p->bias ? p->bias[i] : 0)) * (p->gain ? p->gain[i] : 1);
}

void lora_apply_add(struct ctx *c, const struct lora_pair *p, const struct weight *w,
                    const struct lora_scratch *s, float *y, const float *x, size_t t, size_t n)
{
    const struct linear_out product = { s->y0, w };
    const size_t values = n * w->rows;

    if (!p->gain && !p->whole.data) { /* what is added does not depend on what is there */
        lora_apply(c, p, s, y, x, t, n);
        return;
    }
    x += t * w->cols;
    y += t * w->rows;
    c->first_row = t;
    c->op->linear(c, &product, 1, x, n);
    c->first_row = 0;
    memcpy(s->y1, s->y0, values * sizeof(float));
    lora_apply(c, p, s, s->y1, x, 0, n);
    for (size_t i = 0; i < values; i++)
        y[i] += s->y1[i] - s->y0[i];
}

/* Column `token` of A, times scale. */
static void embed_low(const struct lora_pair *p, float *low, size_t token)
{
    const struct enc_info *enc = &enc_table[p->a.enc];

    for (size_t k = 0; k < p->a.rows; k++) {
        enc->decode(low + k, (const uint8_t *)p->a.data + k * p->a.row_bytes + token * enc->bytes,
                    1);
        low[k] *= p->scale;
    }
}

void lora_embed(struct ctx *c, const struct lora *l, const struct lora_scratch *s, float *x,
                const int32_t *token, size_t t, size_t n)
{
    const struct lora_pair *p = &l->embed;

    token += t;
    x += t * l->dim;
    if (l->embed_w.data)
        c->op->embed(c, x, &l->embed_w, token, n);
    for (size_t i = 0; l->n_token && i < n; i++)
        lora_merge_token_row(l, (size_t)token[i], x + i * l->dim);
    if (!p->a.data)
        return;
    for (size_t i = 0; i < n; i++)
        embed_low(p, s->low + i * p->a.rows, (size_t)token[i]);
    c->op->linear_add(c, x, &p->b, s->low, n);
}

void lora_head(struct ctx *c, const struct lora *l, const struct lora_scratch *s, float *logits,
               const float *x, size_t V, size_t i)
{
    const struct linear_out head = { logits + i * V, &l->head_w };

    if (l->head_w.data)
        c->op->linear(c, &head, 1, x + i * l->dim, 1);
    for (size_t k = 0; l->tied && !l->head_w.data && k < l->n_token; k++) {
        const float *row = l->token_row + k * l->dim, *xi = x + i * l->dim;
        double sum = 0;

        for (size_t d = 0; d < l->dim; d++)
            sum += (double)row[d] * (double)xi[d];
        logits[i * V + (size_t)l->token[k]] = (float)sum;
    }
    lora_apply(c, &l->head, s, logits, x, i, 1);
}

/* ---- merging ---- */

const struct lora_pair *lora_find(const struct lora *l, const char *name)
{
    for (size_t i = 0; i < peft_modules(l->peft); i++) {
        const struct peft_module *m = peft_module(l->peft, i);
        const size_t n = strlen(m->name);
        const struct weight *w;

        if (m->a && !m->embedding && !strncmp(m->name, name, n) && !strcmp(name + n, ".weight"))
            return find(l, NULL, SIZE_MAX, m->name, &w);
    }
    return NULL;
}

void lora_merge_row(const struct lora_pair *p, const float *a, float *b, size_t row, float *x)
{
    weight_decode_row(b, &p->b, row);
    for (size_t k = 0; k < p->a.rows; k++) {
        const float f = p->scale * b[k], *ak = a + k * p->a.cols;

        for (size_t i = 0; i < p->a.cols; i++)
            x[i] += f * ak[i];
    }
    for (size_t i = 0; p->gain && i < p->a.cols; i++)
        x[i] *= p->gain[row];
}

void lora_merge_token_row(const struct lora *l, size_t token, float *x)
{
    for (size_t i = 0; i < l->n_token; i++)
        if ((size_t)l->token[i] == token)
            memcpy(x, l->token_row + i * l->dim, l->dim * sizeof(*x));
}

void lora_merge_embed_row(const struct lora *l, float *b, size_t token, float *x)
{
    const struct lora_pair *p = &l->embed;

    lora_merge_token_row(l, token, x);
    if (!p->a.data)
        return;
    embed_low(p, b, token);
    for (size_t d = 0; d < l->dim; d++) {
        float *row = b + p->a.rows;

        weight_decode_row(row, &p->b, d);
        for (size_t k = 0; k < p->a.rows; k++)
            x[d] += b[k] * row[k];
    }
}

bool lora_whole(const struct lora *l, const char *name, struct weight *out)
{
    const struct lora_layer *layer = l->layer;
    const float *norm = NULL;
    const struct weight *w;
    const struct lora_pair *p;
    unsigned n;

    if (!strcmp(name, "model.embed_tokens.weight") || !strcmp(name, "lm_head.weight")) {
        w = name[0] == 'm' ? &l->embed_w : &l->head_w;
        if (w->data)
            *out = *w;
        return w->data != NULL;
    }
    const size_t len = strlen(name), tail = strlen(".weight");
    char *module = xmemdup0(name, len > tail ? len - tail : 0);

    p = find(l, NULL, l->layers, module, &w);
    free(module);
    if (p && p->whole.data) {
        *out = p->whole;
        return true;
    }
    if (!strcmp(name, "model.norm.weight"))
        norm = l->norm;
    else if (sscanf(name, "model.layers.%5u.", &n) == 1)
        norm = strstr(name, ".input_layernorm.")            ? layer[n].attn_norm
               : strstr(name, ".post_attention_layernorm.") ? layer[n].ffn_norm
                                                            : NULL;
    if (norm)
        *out = (struct weight){ .enc = ENC_F32,
                                .rows = 1,
                                .cols = l->dim,
                                .data = norm,
                                .row_bytes = l->dim * sizeof(float),
                                .name = "norm of the adapter" };
    return norm != NULL;
}

const char *lora_unmergeable(const struct lora *l)
{
    for (size_t i = 0; i < peft_modules(l->peft); i++)
        if (peft_module(l->peft, i)->bias)
            return "lora_bias: the network has no biases that it could become";
    return NULL;
}

bool lora_unties(const struct lora *l)
{
    return l->embed_w.data != l->head_w.data || l->embed.a.data || l->head.a.data;
}
