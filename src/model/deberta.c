#include "model/deberta.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/team.h"

/* A matrix with its bias, and a layer norm. */
struct dense {
    struct weight w;
    float *bias; /* [w.rows] */
};
struct norm {
    float *weight, *bias; /* [D] */
};

struct encoder_layer {
    struct dense q, k, v, o, up, down;
    struct norm attn_norm, norm;
    float *rel_q, *rel_k; /* [span, D] */
};

struct deberta {
    struct ctx *c;
    struct st *st;
    json_t *labels; /* id2label, or NULL */
    size_t vocab, dim, layers, heads, ffn, positions, n_labels;
    int buckets; /* to each side; relative positions up to half of it have one of their own */
    float eps;
    struct weight embed;
    struct norm embed_norm, rel_norm;
    struct encoder_layer *layer;
    struct dense pooler, classifier;
    int16_t *bucket; /* [2 * positions - 1] row of the relative table, of i - j + positions - 1 */
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

static int bind_vector(float **out, const struct deberta *m, const char *name, size_t n,
                       struct err *e)
{
    const struct tensor_view *t;
    void *p;

    if (find(&t, m, name, 1, n, 0, e) || mem_new(&p, n, sizeof(float), name, e))
        return -1;
    enc_table[t->enc].decode(p, t->data, n);
    *out = p;
    return 0;
}

static int bind_dense(struct dense *d, const struct deberta *m, const char *stem, size_t rows,
                      size_t cols, struct err *e)
{
    char name[160];

    snprintf(name, sizeof(name), "%s.weight", stem);
    if (bind_matrix(&d->w, m, name, rows, cols, e))
        return -1;
    snprintf(name, sizeof(name), "%s.bias", stem);
    return bind_vector(&d->bias, m, name, rows, e);
}

static int bind_norm(struct norm *n, const struct deberta *m, const char *stem, struct err *e)
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

static void layer_norm(float *y, const float *x, const struct norm *w, size_t n, size_t D,
                       float eps)
{
    for (size_t i = 0; i < n; i++, x += D, y += D) {
        double sum = 0, square = 0;

        for (size_t k = 0; k < D; k++)
            sum += (double)x[k];
        const double mean = sum / (double)D;

        for (size_t k = 0; k < D; k++)
            square += ((double)x[k] - mean) * ((double)x[k] - mean);
        const double by = 1 / sqrt(square / (double)D + (double)eps);

        for (size_t k = 0; k < D; k++)
            y[k] = (float)(((double)x[k] - mean) * by) * w->weight[k] + w->bias[k];
    }
}

static void dense(struct deberta *m, float *y, const struct dense *d, const float *x, size_t n)
{
    m->c->op->linear(m->c, &(struct linear_out){ y, &d->w }, 1, x, n);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < d->w.rows; k++)
            y[i * d->w.rows + k] += d->bias[k];
}

/* Kr and Qr of every layer: they are the same for every input. */
static int project_positions(struct deberta *m, struct err *e)
{
    const size_t span = 2 * (size_t)m->buckets, D = m->dim;
    struct weight table;
    void *rows, *p;
    int rc = -1;

    if (bind_matrix(&table, m, "deberta.encoder.rel_embeddings.weight", span, D, e) ||
        bind_norm(&m->rel_norm, m, "deberta.encoder.LayerNorm", e) ||
        mem_new(&rows, span * D, sizeof(float), "relative positions", e))
        return -1;
    for (size_t r = 0; r < span; r++)
        weight_decode_row((float *)rows + r * D, &table, r);
    layer_norm(rows, rows, &m->rel_norm, span, D, m->eps);
    for (size_t l = 0; l < m->layers; l++) {
        struct encoder_layer *y = &m->layer[l];

        if (mem_new(&p, span * D, sizeof(float), "relative positions", e))
            goto done;
        y->rel_q = p;
        if (mem_new(&p, span * D, sizeof(float), "relative positions", e))
            goto done;
        y->rel_k = p;
        dense(m, y->rel_q, &y->q, rows, span);
        dense(m, y->rel_k, &y->k, rows, span);
    }
    rc = 0;
done:
    free(rows);
    return rc;
}

static int bind_all(struct deberta *m, struct err *e)
{
    const struct tensor_view *head = st_find(m->st, "classifier.bias");
    const int most = (int)m->positions;
    void *p;

    if (!head || head->ndim != 1 || head->shape[0] < 1 || head->shape[0] > DEBERTA_LABELS)
        return err_set(e, ERR_FORMAT, "%s: no classifier.bias of up to %d labels", st_path(m->st),
                       DEBERTA_LABELS);
    m->n_labels = (size_t)head->shape[0];
    if (mem_new(&p, m->layers, sizeof(*m->layer), "layers", e))
        return -1;
    m->layer = p;
    if (mem_new(&p, 2 * m->positions, sizeof(*m->bucket), "buckets", e))
        return -1;
    m->bucket = p;
    for (int r = 1 - most; r < most; r++) {
        const int b = deberta_bucket(r, m->buckets / 2, most) + m->buckets,
                  last = 2 * m->buckets - 1;

        m->bucket[r + most - 1] = (int16_t)(b < 0 ? 0 : b > last ? last : b);
    }
    for (size_t l = 0; l < m->layers; l++)
        if (bind_layer(m, l, e))
            return -1;
    if (bind_matrix(&m->embed, m, "deberta.embeddings.word_embeddings.weight", m->vocab, m->dim,
                    e) ||
        bind_norm(&m->embed_norm, m, "deberta.embeddings.LayerNorm", e) ||
        bind_dense(&m->pooler, m, "pooler.dense", m->dim, m->dim, e) ||
        bind_dense(&m->classifier, m, "classifier", m->n_labels, m->dim, e))
        return -1;
    return project_positions(m, e);
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

static void norm_free(struct norm *n)
{
    free(n->weight);
    free(n->bias);
}

void deberta_close(struct deberta *m)
{
    if (!m)
        return;
    for (size_t l = 0; m->layer && l < m->layers; l++) {
        struct encoder_layer *y = &m->layer[l];

        for (size_t i = 0; i < 6; i++)
            free((&y->q)[i].bias);
        norm_free(&y->attn_norm);
        norm_free(&y->norm);
        free(y->rel_q);
        free(y->rel_k);
    }
    norm_free(&m->embed_norm);
    norm_free(&m->rel_norm);
    free(m->pooler.bias);
    free(m->classifier.bias);
    free(m->layer);
    free(m->bucket);
    json_decref(m->labels);
    st_close(m->st);
    free(m);
}

size_t deberta_labels(const struct deberta *m)
{
    return m->n_labels;
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

/* Of one forward pass. */
struct scratch {
    float *x, *y, *q, *k, *v, *ffn;             /* [n, D], ffn [n, F] */
    float *hq, *hk, *hv, *hy;                   /* one head: [n, hd], hv transposed */
    float *hrq, *hrk;                           /* [span, hd] */
    float *score, *content, *position, *memory; /* [n, n] [n, span] [n, span]; all of it */
};

static int scratch_new(struct scratch *s, const struct deberta *m, size_t n, struct err *e)
{
    const size_t D = m->dim, hd = D / m->heads, span = 2 * (size_t)m->buckets;
    const struct {
        float **p;
        size_t n;
    } part[] = {
        { &s->x, n * D },     { &s->y, n * D },          { &s->q, n * D },
        { &s->k, n * D },     { &s->v, n * D },          { &s->ffn, n * m->ffn },
        { &s->hq, n * hd },   { &s->hk, n * hd },        { &s->hv, n * hd },
        { &s->hy, n * hd },   { &s->hrq, span * hd },    { &s->hrk, span * hd },
        { &s->score, n * n }, { &s->content, n * span }, { &s->position, n * span },
    };
    size_t sum = 0;
    void *all;

    for (size_t i = 0; i < ARRAY_LEN(part); i++)
        sum += part[i].n;
    if (mem_new(&all, sum, sizeof(float), "activations", e))
        return -1;
    s->memory = all;
    sum = 0;
    for (size_t i = 0; i < ARRAY_LEN(part); i++) {
        *part[i].p = s->memory + sum;
        sum += part[i].n;
    }
    return 0;
}

/* Head h of rows [n, D], contiguous. */
static void take_head(float *out, const float *rows, size_t n, size_t D, size_t hd, size_t h)
{
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * hd, rows + i * D + h * hd, hd * sizeof(*out));
}

struct softmax_job {
    const struct deberta *m;
    struct scratch *s;
    size_t n;
};

/* Scores with their relative parts, to probabilities: rows of this thread. */
static void softmax_rows(void *arg, int me, int threads)
{
    const struct softmax_job *j = arg;
    const size_t n = j->n, span = 2 * (size_t)j->m->buckets;
    const float scale = 1 / sqrtf(3 * (float)(j->m->dim / j->m->heads));
    size_t lo, hi;

    team_part(n, 1, me, threads, &lo, &hi);
    for (size_t i = lo; i < hi; i++) {
        float *row = j->s->score + i * n, max = -INFINITY;
        const int16_t *bucket = j->m->bucket + i + j->m->positions - 1; /* of i - 0 */
        double sum = 0;

        for (size_t k = 0; k < n; k++) {
            const size_t b = (size_t)bucket[-(ptrdiff_t)k];

            row[k] = (row[k] + j->s->content[i * span + b] + j->s->position[k * span + b]) * scale;
            max = row[k] > max ? row[k] : max;
        }
        for (size_t k = 0; k < n; k++) {
            row[k] = expf(row[k] - max);
            sum += (double)row[k];
        }
        for (size_t k = 0; k < n; k++)
            row[k] = (float)((double)row[k] / sum);
    }
}

static void product(struct deberta *m, float *y, const float *x, size_t n, const float *rows,
                    size_t r, size_t cols)
{
    const struct weight w = { .enc = ENC_F32,
                              .rows = r,
                              .cols = cols,
                              .data = rows,
                              .row_bytes = cols * sizeof(float),
                              .name = "activations" };

    m->c->op->linear(m->c, &(struct linear_out){ y, &w }, 1, x, n);
}

/* s->y = attention of s->q, s->k, s->v. */
static void attention(struct deberta *m, const struct encoder_layer *w, struct scratch *s, size_t n)
{
    const size_t D = m->dim, hd = D / m->heads, span = 2 * (size_t)m->buckets;
    struct softmax_job job = { m, s, n };

    for (size_t h = 0; h < m->heads; h++) {
        take_head(s->hq, s->q, n, D, hd, h);
        take_head(s->hk, s->k, n, D, hd, h);
        take_head(s->hrq, w->rel_q, span, D, hd, h);
        take_head(s->hrk, w->rel_k, span, D, hd, h);
        for (size_t i = 0; i < n; i++)
            for (size_t d = 0; d < hd; d++)
                s->hv[d * n + i] = s->v[i * D + h * hd + d];
        product(m, s->score, s->hq, n, s->hk, n, hd);
        product(m, s->content, s->hq, n, s->hrk, span, hd);
        product(m, s->position, s->hk, n, s->hrq, span, hd);
        team_run(m->c->team, softmax_rows, &job);
        product(m, s->hy, s->score, n, s->hv, hd, n);
        for (size_t i = 0; i < n; i++)
            memcpy(s->y + i * D + h * hd, s->hy + i * hd, hd * sizeof(*s->y));
    }
}

static void gelu(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = 0.5F * x[i] * (1 + erff(x[i] * 0.70710678F));
}

static void add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

static void run_layer(struct deberta *m, const struct encoder_layer *w, struct scratch *s, size_t n)
{
    const size_t D = m->dim;

    dense(m, s->q, &w->q, s->x, n);
    dense(m, s->k, &w->k, s->x, n);
    dense(m, s->v, &w->v, s->x, n);
    attention(m, w, s, n);
    dense(m, s->q, &w->o, s->y, n);
    add(s->x, s->q, n * D);
    layer_norm(s->x, s->x, &w->attn_norm, n, D, m->eps);
    dense(m, s->ffn, &w->up, s->x, n);
    gelu(s->ffn, n * m->ffn);
    dense(m, s->q, &w->down, s->ffn, n);
    add(s->x, s->q, n * D);
    layer_norm(s->x, s->x, &w->norm, n, D, m->eps);
}

int deberta_forward(struct deberta *m, const int32_t *ids, size_t n, float *logits, float *hidden,
                    struct err *e)
{
    const size_t D = m->dim;
    struct scratch s;

    BUG_ON(n < 1 || n > m->positions);
    if (scratch_new(&s, m, n, e))
        return -1;
    for (size_t i = 0; i < n; i++)
        weight_decode_row(s.x + i * D, &m->embed, (size_t)ids[i]);
    layer_norm(s.x, s.x, &m->embed_norm, n, D, m->eps);
    for (size_t l = 0;; l++) {
        if (hidden)
            memcpy(hidden + l * n * D, s.x, n * D * sizeof(*hidden));
        if (l == m->layers)
            break;
        run_layer(m, &m->layer[l], &s, n);
    }
    dense(m, s.q, &m->pooler, s.x, 1);
    gelu(s.q, D);
    dense(m, logits, &m->classifier, s.q, 1);
    free(s.memory);
    return 0;
}
