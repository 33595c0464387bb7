#include "model/deberta.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "ops/backend.h"

/* A matrix with its bias, and a layer norm. Vectors lie where the context computes. */
struct dense {
    struct weight w;
    const float *bias; /* [w.rows] */
};
struct norm {
    const float *weight, *bias; /* [D] */
};

struct encoder_layer {
    struct dense q, k, v, o, up, down;
    struct norm attn_norm, norm;
    float *rel_q, *rel_k; /* [span, D] */
};

/* Memory of the backend. */
struct piece {
    void *p;
    size_t n;
};

/* Of one forward pass. */
struct scratch {
    float *x, *y, *q, *k, *v, *ffn; /* [positions, D], ffn [positions, F] */
};

struct deberta {
    struct ctx *c;
    struct st *st;
    json_t *labels; /* id2label, or NULL */
    size_t vocab, dim, layers, heads, ffn, positions, n_labels;
    int buckets; /* to each side; relative positions up to half of it have one of their own */
    float eps;
    struct weight embed;
    struct norm embed_norm;
    struct encoder_layer *layer;
    struct dense pooler, classifier;
    const int32_t
        *bucket; /* [2 * positions - 1] row of the relative table, of i - j + positions - 1 */
    int32_t *no_blocks; /* a pass wants a table of cache blocks, which nobody reads */
    struct scratch s;
    struct piece *piece;
    size_t n_piece;
};

/* ---- opening ---- */

int deberta_bucket(int relative, int mid, int most)
{
    const int r = abs(relative);

    if (r <= mid)
        return relative;
    const double part = log((double)r / mid) / log((double)(most - 1) / mid);
    const int b = (int)ceil(part * (mid - 1)) + mid;

    return relative < 0 ? -b : b;
}

static int find(const struct tensor_view **out, const struct deberta *m, const char *name, int ndim,
                size_t rows, size_t cols, struct err *e)
{
    const struct tensor_view *t = st_find(m->st, name);
    char shape[64];

    if (!t)
        return err_set(e, ERR_FORMAT, "%s: no tensor %s", st_path(m->st), name);
    if (!enc_table[t->enc].decode || (t->enc != ENC_F32 && t->enc != ENC_F16 && t->enc != ENC_BF16))
        return err_set(e, ERR_FORMAT, "%s: %s is not in floats", st_path(m->st), name);
    if (t->ndim != ndim || t->shape[0] != rows || (ndim == 2 && t->shape[1] != cols)) {
        tensor_shape_text(shape, t->ndim, t->shape);
        return err_set(e, ERR_FORMAT, "%s: %s is %s, the configuration makes it [%zu%s%.0zu]",
                       st_path(m->st), name, shape, rows, ndim == 2 ? ", " : "",
                       ndim == 2 ? cols : 0);
    }
    *out = t;
    return 0;
}

/* n bytes of the backend, zeroed or a copy of `from`; freed with the model. */
static int piece_new(struct deberta *m, void *out, const void *from, size_t n, const char *what,
                     struct err *e)
{
    void *p;

    if (m->c->be->alloc(m->c, &p, n, what, e))
        return -1;
    m->piece = xrealloc(m->piece, (m->n_piece + 1) * sizeof(*m->piece));
    m->piece[m->n_piece++] = (struct piece){ p, n };
    if (from && ctx_on_host(m->c))
        memcpy(p, from, n);
    else if (from && m->c->be->upload(m->c, p, from, n, e))
        return -1;
    memcpy(out, &p, sizeof(p));
    return 0;
}

static int bind_matrix(struct weight *w, const struct deberta *m, const char *name, size_t rows,
                       size_t cols, struct err *e)
{
    const struct tensor_view *t;

    if (find(&t, m, name, 2, rows, cols, e))
        return -1;
    *w = (struct weight){ .enc = t->enc,
                          .rows = rows,
                          .cols = cols,
                          .data = t->data,
                          .row_bytes = t->nbytes / rows,
                          .name = t->name };
    return 0;
}

static int bind_vector(const float **out, struct deberta *m, const char *name, size_t n,
                       struct err *e)
{
    const struct tensor_view *t;
    void *p;
    int rc;

    if (find(&t, m, name, 1, n, 0, e) || mem_new(&p, n, sizeof(float), name, e))
        return -1;
    enc_table[t->enc].decode(p, t->data, n);
    rc = piece_new(m, out, p, n * sizeof(float), name, e);
    free(p);
    return rc;
}

static int bind_dense(struct dense *d, struct deberta *m, const char *stem, size_t rows,
                      size_t cols, struct err *e)
{
    char name[160];

    snprintf(name, sizeof(name), "%s.weight", stem);
    if (bind_matrix(&d->w, m, name, rows, cols, e) || m->c->be->place(m->c, &d->w, e))
        return -1;
    snprintf(name, sizeof(name), "%s.bias", stem);
    return bind_vector(&d->bias, m, name, rows, e);
}

static int bind_norm(struct norm *n, struct deberta *m, const char *stem, struct err *e)
{
    static const char *const names[2][2] = { { "weight", "bias" }, { "gamma", "beta" } };
    char name[160];
    int old;

    snprintf(name, sizeof(name), "%s.gamma", stem);
    old = st_find(m->st, name) != NULL; /* files before 2020 */
    snprintf(name, sizeof(name), "%s.%s", stem, names[old][0]);
    if (bind_vector(&n->weight, m, name, m->dim, e))
        return -1;
    snprintf(name, sizeof(name), "%s.%s", stem, names[old][1]);
    return bind_vector(&n->bias, m, name, m->dim, e);
}

static int bind_layer(struct deberta *m, size_t l, struct err *e)
{
    struct encoder_layer *y = &m->layer[l];
    const struct {
        struct dense *d;
        const char *name;
        size_t rows, cols;
    } dense[] = {
        { &y->q, "attention.self.query_proj", m->dim, m->dim },
        { &y->k, "attention.self.key_proj", m->dim, m->dim },
        { &y->v, "attention.self.value_proj", m->dim, m->dim },
        { &y->o, "attention.output.dense", m->dim, m->dim },
        { &y->up, "intermediate.dense", m->ffn, m->dim },
        { &y->down, "output.dense", m->dim, m->ffn },
    };
    char stem[128];

    for (size_t i = 0; i < ARRAY_LEN(dense); i++) {
        snprintf(stem, sizeof(stem), "deberta.encoder.layer.%zu.%s", l, dense[i].name);
        if (bind_dense(dense[i].d, m, stem, dense[i].rows, dense[i].cols, e))
            return -1;
    }
    snprintf(stem, sizeof(stem), "deberta.encoder.layer.%zu.attention.output.LayerNorm", l);
    if (bind_norm(&y->attn_norm, m, stem, e))
        return -1;
    snprintf(stem, sizeof(stem), "deberta.encoder.layer.%zu.output.LayerNorm", l);
    return bind_norm(&y->norm, m, stem, e);
}

static int want(const json_t *config, const char *key, json_t *value, const char *path,
                struct err *e)
{
    const json_t *v = json_object_get(config, key);
    const bool ok = v && json_equal(v, value);
    char *text = v ? json_dumps(v, JSON_ENCODE_ANY) : NULL;

    if (!ok)
        err_set(e, ERR_FORMAT, "%s: %s is %.60s, which puna does not compute", path, key,
                text ? text : "absent");
    free(text);
    json_decref(value);
    return ok ? 0 : -1;
}

static int read_size(const json_t *config, const char *key, int64_t most, size_t *out,
                     const char *path, struct err *e)
{
    int64_t v = 0;
    const int got = json_get_int(config, key, 1, most, &v, path, e);

    if (got == 0)
        err_set(e, ERR_FORMAT, "%s: no %s", path, key);
    *out = (size_t)v;
    return got == 1 ? 0 : -1;
}

static bool has_pair(const json_t *list)
{
    const char *text = json_string_value(list); /* "p2c|c2p" or a list of both */
    size_t c2p = 0, p2c = 0, i;
    json_t *v;

    if (text)
        return !strcmp(text, "p2c|c2p") || !strcmp(text, "c2p|p2c");
    json_array_foreach((json_t *)(uintptr_t)list, i, v)
    {
        c2p += json_is_string(v) && !strcmp(json_string_value(v), "c2p");
        p2c += json_is_string(v) && !strcmp(json_string_value(v), "p2c");
    }
    return c2p == 1 && p2c == 1 && json_array_size(list) == 2;
}

static int read_config(struct deberta *m, const json_t *config, const char *path, struct err *e)
{
    double eps = 1e-7;
    size_t buckets = 0;

    if (want(config, "model_type", json_string("deberta-v2"), path, e) ||
        want(config, "hidden_act", json_string("gelu"), path, e) ||
        want(config, "relative_attention", json_true(), path, e) ||
        want(config, "share_att_key", json_true(), path, e) ||
        want(config, "norm_rel_ebd", json_string("layer_norm"), path, e) ||
        want(config, "position_biased_input", json_false(), path, e) ||
        want(config, "type_vocab_size", json_integer(0), path, e) ||
        read_size(config, "vocab_size", 1 << 24, &m->vocab, path, e) ||
        read_size(config, "hidden_size", 1 << 16, &m->dim, path, e) ||
        read_size(config, "num_hidden_layers", 1024, &m->layers, path, e) ||
        read_size(config, "num_attention_heads", 1024, &m->heads, path, e) ||
        read_size(config, "intermediate_size", 1 << 18, &m->ffn, path, e) ||
        read_size(config, "max_position_embeddings", DEBERTA_MAX_POS, &m->positions, path, e) ||
        read_size(config, "position_buckets", DEBERTA_MAX_POS, &buckets, path, e) ||
        json_get_num(config, "layer_norm_eps", 0, 1, &eps, path, e) < 0)
        return -1;
    if (!has_pair(json_object_get(config, "pos_att_type")))
        return err_set(e, ERR_FORMAT, "%s: pos_att_type is not c2p and p2c", path);
    if (m->dim % m->heads)
        return err_set(e, ERR_FORMAT, "%s: hidden_size %zu is no multiple of %zu heads", path,
                       m->dim, m->heads);
    if (buckets < 2 || buckets / 2 + 1 >= m->positions)
        return err_set(e, ERR_FORMAT, "%s: position_buckets %zu, with %zu positions", path, buckets,
                       m->positions);
    m->buckets = (int)buckets;
    m->eps = (float)eps;
    m->labels = json_incref(json_object_get(config, "id2label"));
    return 0;
}

static void affine(struct deberta *m, float *y, const struct dense *d, const float *x, size_t n)
{
    m->c->op->affine(m->c, y, &d->w, d->bias, x, n, false);
}

static void normalise(struct deberta *m, float *y, const struct norm *w, size_t n)
{
    m->c->op->layernorm(m->c, y, y, w->weight, w->bias, n, m->dim, m->eps);
}

/* Kr and Qr of every layer: they are the same for every input. */
static int project_positions(struct deberta *m, struct err *e)
{
    const size_t span = 2 * (size_t)m->buckets, D = m->dim, n = span * D * sizeof(float);
    struct weight table;
    struct norm norm;
    float *rows;
    void *p;
    int rc;

    if (bind_matrix(&table, m, "deberta.encoder.rel_embeddings.weight", span, D, e) ||
        bind_norm(&norm, m, "deberta.encoder.LayerNorm", e) ||
        mem_new(&p, span * D, sizeof(float), "relative positions", e))
        return -1;
    for (size_t r = 0; r < span; r++)
        weight_decode_row((float *)p + r * D, &table, r);
    rc = piece_new(m, &rows, p, n, "relative positions", e);
    free(p);
    if (rc)
        return -1;
    normalise(m, rows, &norm, span);
    for (size_t l = 0; l < m->layers; l++) {
        struct encoder_layer *y = &m->layer[l];

        if (piece_new(m, &y->rel_q, NULL, n, "relative positions", e) ||
            piece_new(m, &y->rel_k, NULL, n, "relative positions", e))
            return -1;
        affine(m, y->rel_q, &y->q, rows, span);
        affine(m, y->rel_k, &y->k, rows, span);
    }
    return 0;
}

static int make_buckets(struct deberta *m, struct err *e)
{
    const int most = (int)m->positions, last = 2 * m->buckets - 1;
    void *p;
    int rc;

    if (mem_new(&p, 2 * m->positions, sizeof(int32_t), "buckets", e))
        return -1;
    for (int r = 1 - most; r < most; r++) {
        const int b = deberta_bucket(r, m->buckets / 2, most) + m->buckets;

        ((int32_t *)p)[r + most - 1] = b < 0 ? 0 : b > last ? last : b;
    }
    rc = piece_new(m, &m->bucket, p, (2 * m->positions - 1) * sizeof(int32_t), "buckets", e);
    free(p);
    return rc;
}

static int make_scratch(struct deberta *m, struct err *e)
{
    float **const part[] = { &m->s.x, &m->s.y, &m->s.q, &m->s.k, &m->s.v, &m->s.ffn };

    for (size_t i = 0; i < ARRAY_LEN(part); i++) {
        const size_t width = part[i] == &m->s.ffn ? m->ffn : m->dim;

        if (piece_new(m, part[i], NULL, m->positions * width * sizeof(float), "activations", e))
            return -1;
    }
    return 0;
}

static int bind_all(struct deberta *m, struct err *e)
{
    const struct tensor_view *head = st_find(m->st, "classifier.bias");
    void *p;

    if (!head || head->ndim != 1 || head->shape[0] < 1 || head->shape[0] > DEBERTA_LABELS)
        return err_set(e, ERR_FORMAT, "%s: no classifier.bias of up to %d labels", st_path(m->st),
                       DEBERTA_LABELS);
    m->n_labels = (size_t)head->shape[0];
    if (mem_new(&p, m->layers, sizeof(*m->layer), "layers", e))
        return -1;
    m->layer = p;
    if (mem_new(&p, m->positions / KV_BLOCK + 1, sizeof(*m->no_blocks), "blocks", e))
        return -1;
    m->no_blocks = p;
    for (size_t l = 0; l < m->layers; l++)
        if (bind_layer(m, l, e))
            return -1;
    if (bind_matrix(&m->embed, m, "deberta.embeddings.word_embeddings.weight", m->vocab, m->dim,
                    e) ||
        m->c->be->place(m->c, &m->embed, e) ||
        bind_norm(&m->embed_norm, m, "deberta.embeddings.LayerNorm", e) ||
        bind_dense(&m->pooler, m, "pooler.dense", m->dim, m->dim, e) ||
        bind_dense(&m->classifier, m, "classifier", m->n_labels, m->dim, e))
        return -1;
    return make_buckets(m, e) || make_scratch(m, e) || project_positions(m, e) ? -1 : 0;
}

int deberta_open(struct deberta **out, struct ctx *c, const char *dir, struct err *e)
{
    struct deberta *m = xcalloc(1, sizeof(*m));
    char *config = path_join(dir, "config.json"), *weights = path_join(dir, "model.safetensors");
    json_t *j = NULL;
    int rc = -1;

    m->c = c;
    if (json_parse_file(&j, config, 1 << 20, e) == 0 && read_config(m, j, config, e) == 0 &&
        st_open(&m->st, weights, e) == 0)
        rc = bind_all(m, e);
    json_decref(j);
    free(config);
    free(weights);
    if (rc) {
        deberta_close(m);
        return -1;
    }
    *out = m;
    return 0;
}

void deberta_close(struct deberta *m)
{
    if (!m)
        return;
    for (size_t l = 0; m->layer && l < m->layers; l++)
        for (size_t i = 0; i < 6; i++)
            m->c->be->unplace(m->c, &(&m->layer[l].q)[i].w);
    m->c->be->unplace(m->c, &m->embed);
    m->c->be->unplace(m->c, &m->pooler.w);
    m->c->be->unplace(m->c, &m->classifier.w);
    for (size_t i = 0; i < m->n_piece; i++)
        m->c->be->release(m->c, m->piece[i].p, m->piece[i].n);
    free(m->piece);
    free(m->layer);
    free(m->no_blocks);
    json_decref(m->labels);
    st_close(m->st);
    free(m);
}

size_t deberta_labels(const struct deberta *m)
{
    return m->n_labels;
}

size_t deberta_dim(const struct deberta *m)
{
    return m->dim;
}

size_t deberta_positions(const struct deberta *m)
{
    return m->positions;
}

size_t deberta_vocab(const struct deberta *m)
{
    return m->vocab;
}

const char *deberta_label(const struct deberta *m, size_t i)
{
    static const char *const plain[DEBERTA_LABELS] = {
        "LABEL_0", "LABEL_1", "LABEL_2",  "LABEL_3",  "LABEL_4",  "LABEL_5",  "LABEL_6",  "LABEL_7",
        "LABEL_8", "LABEL_9", "LABEL_10", "LABEL_11", "LABEL_12", "LABEL_13", "LABEL_14", "LABEL_15"
    };
    char key[8];

    snprintf(key, sizeof(key), "%zu", i);
    const char *name = json_string_value(json_object_get(m->labels, key));

    return name ? name : plain[i];
}

/* ---- forward ---- */

/* One layer; only the first `rows` of its outputs are wanted. */
static void run_layer(struct deberta *m, const struct encoder_layer *w, size_t n, size_t rows)
{
    const struct ops *op = m->c->op;
    const struct scratch *s = &m->s;
    const struct rel_attn a = { .q = s->q,
                                .k = s->k,
                                .v = s->v,
                                .rel_q = w->rel_q,
                                .rel_k = w->rel_k,
                                .bucket = m->bucket + m->positions - n,
                                .rows = rows,
                                .n = n,
                                .H = m->heads,
                                .hd = m->dim / m->heads,
                                .span = 2 * (size_t)m->buckets };

    affine(m, s->q, &w->q, s->x, rows);
    affine(m, s->k, &w->k, s->x, n);
    affine(m, s->v, &w->v, s->x, n);
    op->attn_rel(m->c, s->y, &a);
    op->affine(m->c, s->x, &w->o.w, w->o.bias, s->y, rows, true);
    normalise(m, s->x, &w->attn_norm, rows);
    affine(m, s->ffn, &w->up, s->x, rows);
    op->gelu(m->c, s->ffn, rows, m->ffn);
    op->affine(m->c, s->x, &w->down.w, w->down.bias, s->ffn, rows, true);
    normalise(m, s->x, &w->norm, rows);
}

/* The hidden states as they are now. */
static int keep(struct deberta *m, float *to, size_t n, struct err *e)
{
    const size_t bytes = n * m->dim * sizeof(*to);

    if (!ctx_on_host(m->c))
        return m->c->be->download(m->c, to, m->s.x, bytes, e);
    memcpy(to, m->s.x, bytes);
    return 0;
}

/* What lies between the tokens and the logits of a pass. hidden: all hidden states; NULL = none,
 * or, where the pass asks for hidden states, what the head reads. */
static int run(struct deberta *m, const struct pass *p, size_t n, float *hidden, struct err *e)
{
    m->c->op->embed(m->c, m->s.x, &m->embed, p->at.token, n);
    normalise(m, m->s.x, &m->embed_norm, n);
    for (size_t l = 0; l < m->layers; l++) {
        if (hidden && keep(m, hidden + l * n * m->dim, n, e))
            return -1;
        /* the head reads the first token alone */
        run_layer(m, &m->layer[l], n, l + 1 < m->layers || hidden ? n : 1);
    }
    if (p->at.hidden)
        m->c->op->gather(m->c, p->at.hidden, m->s.x, p->at.pos, hidden ? n : 1, m->dim);
    affine(m, m->s.q, &m->pooler, m->s.x, 1);
    m->c->op->gelu(m->c, m->s.q, 1, m->dim);
    affine(m, p->logits, &m->classifier, m->s.q, 1);
    return 0;
}

/* last: of the last layer, [n, D], or its first row where hidden, all before it, is NULL */
static int pass(struct deberta *m, const int32_t *ids, size_t n, float *logits, float *hidden,
                float *last, struct err *e)
{
    const struct backend *be = m->c->be;
    const int32_t *const table[] = { m->no_blocks };
    int32_t *count, *none;
    void *p;
    int rc;

    BUG_ON(n < 1 || n > m->positions);
    if (mem_new(&p, 2 * n, sizeof(*count), "positions", e))
        return -1;
    count = p;
    none = count + n;
    for (size_t i = 0; i < n; i++)
        count[i] = (int32_t)i;
    const struct batch b = { .T = n,
                             .token = ids,
                             .pos = count,
                             .slot = none,
                             .seq = none,
                             .n_seq = 1,
                             .block_table = table,
                             .want = none,
                             .n_want = 1,
                             .hidden = last };
    struct pass one = {
        .b = &b, .out = logits, .V = m->n_labels, .D = m->dim, .key = { m, m->s.x }
    };

    rc = be->enter(m->c, &one, e);
    if (rc == 0)
        rc = run(m, &one, n, hidden, e);
    if (rc >= 0)
        rc = be->leave(m->c, &one, e);
    free(p);
    return rc;
}

int deberta_forward(struct deberta *m, const int32_t *ids, size_t n, float *logits, float *hidden,
                    struct err *e)
{
    return pass(m, ids, n, logits, hidden, hidden ? hidden + m->layers * n * m->dim : NULL, e);
}

int deberta_feature(struct deberta *m, const int32_t *ids, size_t n, float *out, struct err *e)
{
    float logits[DEBERTA_LABELS];
    void *last; /* of every token, as a backend hands them out */
    int rc;

    if (mem_new(&last, n * m->dim, sizeof(float), "hidden states", e))
        return -1;
    rc = pass(m, ids, n, logits, NULL, last, e);
    memcpy(out, last, m->dim * sizeof(float));
    free(last);
    return rc;
}
