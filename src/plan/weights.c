/* weights.c - bytes of a model's weights, by published scheme or by the tensors of a file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan/plan.h"

enum matrix { MAT_Q, MAT_K, MAT_V, MAT_O, MAT_GATE, MAT_UP, MAT_DOWN, MATRICES };

static const enum plan_input input_of[MATRICES] = {
    [MAT_Q] = INPUT_DIM,    [MAT_K] = INPUT_DIM,  [MAT_V] = INPUT_DIM,    [MAT_O] = INPUT_HEADS,
    [MAT_GATE] = INPUT_DIM, [MAT_UP] = INPUT_DIM, [MAT_DOWN] = INPUT_FFN,
};

static void matrix_shape(size_t *rows, size_t *cols, const struct hparams *hp, enum matrix m)
{
    const size_t D = (size_t)hp->dim, F = (size_t)hp->ffn;
    const size_t Q = (size_t)(hp->heads * hp->head_dim), KV = (size_t)(hp->kv_heads * hp->head_dim);
    const size_t shape[MATRICES][2] = { { Q, D }, { KV, D }, { KV, D }, { D, Q },
                                        { F, D }, { F, D },  { D, F } };

    *rows = shape[m][0];
    *cols = shape[m][1];
}

static bool is_gguf(enum scheme s)
{
    return s == SCHEME_Q4_0 || s == SCHEME_Q4_K_M || s == SCHEME_Q8_0;
}

/* What llama.cpp stores where the row is no multiple of the block. */
static enum enc fitting(enum enc enc, size_t cols)
{
    if (enc_table[enc].block == 256 && cols % 256)
        enc = enc == ENC_Q4_K ? ENC_Q5_0 : ENC_Q8_0;
    return cols % enc_table[enc].block ? ENC_F16 : enc;
}

/* llama.cpp's mixture: attn_v and ffn_down have six bits in the first and the last eighth of the
 * layers and in every third between. */
static bool more_bits(int64_t l, int64_t layers)
{
    return l < layers / 8 || l >= 7 * layers / 8 || (l - layers / 8) % 3 == 2;
}

static enum enc gguf_enc(enum scheme s, enum matrix m, int64_t l, int64_t layers)
{
    if (s == SCHEME_Q4_K_M)
        return (m == MAT_V || m == MAT_DOWN) && more_bits(l, layers) ? ENC_Q6_K : ENC_Q4_K;
    return s == SCHEME_Q4_0 ? ENC_Q4_0 : ENC_Q8_0;
}

static size_t enc_bytes(enum enc enc, size_t rows, size_t cols)
{
    return rows * (cols / enc_table[enc].block * enc_table[enc].bytes);
}

static size_t matrix_bytes(enum scheme s, enum matrix m, int64_t l, int64_t layers, size_t rows,
                           size_t cols, enum enc *enc)
{
    const size_t n = rows * cols;
    const bool inner = m >= MAT_GATE && l > 0 && l < layers - 1;

    *enc = ENC_Q8_0; /* stands for whatever meets rows in 8 bits */
    switch (s) {
    case SCHEME_FP8:
    case SCHEME_INT8:
        return n + 4 * rows;
    case SCHEME_FP8_META:
        *enc = inner ? ENC_Q8_0 : ENC_BF16;
        return inner ? n + 4 * rows : 2 * n;
    case SCHEME_INT4: /* codes, and per group of 128 a 16-bit scale and a 4-bit zero */
        return n / 2 + n / 128 * 5 / 2;
    case SCHEME_NF4:
        return n / 2 + n / 64 * 4;
    case SCHEME_NF4_DQ: /* scales in 8 bits, in blocks of 256 under a float32 */
        return n / 2 + n / 64 + n / 16384 * 4;
    case SCHEME_Q4_0:
    case SCHEME_Q4_K_M:
    case SCHEME_Q8_0:
        *enc = fitting(gguf_enc(s, m, l, layers), cols);
        return enc_bytes(*enc, rows, cols);
    case SCHEME_F32:
        *enc = ENC_F32;
        return 4 * n;
    default:
        *enc = ENC_BF16;
        return 2 * n;
    }
}

/* Embedding and head: 16 bits unless GGUF quantises them; the head keeps six bits there. */
static void ends(struct plan_weights *w, const struct hparams *hp, enum scheme s)
{
    const size_t V = (size_t)hp->vocab, D = (size_t)hp->dim;
    enum enc embed = s == SCHEME_F32 ? ENC_F32 : ENC_BF16, head = embed;

    if (is_gguf(s)) {
        head = fitting(s == SCHEME_Q8_0 ? ENC_Q8_0 : ENC_Q6_K, D);
        embed = hp->tied ? head : fitting(gguf_enc(s, MAT_Q, 0, hp->layers), D);
    }
    w->embed = enc_bytes(embed, V, D);
    w->head = hp->tied ? 0 : enc_bytes(head, V, D);
    w->encs[INPUT_LAST] = (uint64_t)1 << head;
}

static uint64_t count_params(const struct hparams *hp)
{
    uint64_t n = 0;
    size_t rows, cols;

    for (int m = 0; m < MATRICES; m++) {
        matrix_shape(&rows, &cols, hp, (enum matrix)m);
        n += (uint64_t)rows * cols;
    }
    return (n + 2 * (uint64_t)hp->dim) * (uint64_t)hp->layers + (uint64_t)hp->dim +
           (hp->tied ? 1 : 2) * (uint64_t)hp->vocab * (uint64_t)hp->dim;
}

void plan_weights_scheme(struct plan_weights *w, const struct hparams *hp, enum scheme s)
{
    size_t rows, cols;
    enum enc enc;

    *w = (struct plan_weights){ .layers = hp->layers, .params = count_params(hp) };
    for (int64_t l = 0; l < hp->layers; l++) {
        for (int m = 0; m < MATRICES; m++) {
            matrix_shape(&rows, &cols, hp, (enum matrix)m);
            w->layer[l] += matrix_bytes(s, (enum matrix)m, l, hp->layers, rows, cols, &enc);
            w->encs[input_of[m]] |= (uint64_t)1 << enc;
        }
    }
    w->norms = 2 * (size_t)hp->dim * (is_gguf(s) || s == SCHEME_F32 ? 4 : 2);
    ends(w, hp, s);
}

/* The layer that a tensor belongs to, by the file's own name, or -1. */
static int64_t layer_of(const char *name)
{
    static const char *const prefix[] = { "model.layers.", "layers.", "blk." };
    char *end;

    for (size_t i = 0; i < ARRAY_LEN(prefix); i++) {
        const size_t n = strlen(prefix[i]);

        if (!strncmp(name, prefix[i], n)) {
            const long long l = strtoll(name + n, &end, 10);

            return *end == '.' && l >= 0 && l < HPARAMS_MAX_LAYERS ? l : -1;
        }
    }
    return -1;
}

static size_t tensor_bytes(const struct checkpoint *c, const char *hf_name)
{
    const struct tensor_view *t = checkpoint_find(c, hf_name);

    return t ? t->nbytes : 0;
}

void plan_weights_model(struct plan_weights *w, const struct model *m)
{
    const struct checkpoint *c = m->ckpt;
    char name[96];

    *w = (struct plan_weights){ .layers = m->hp->layers, .params = count_params(m->hp) };
    for (size_t i = 0; i < checkpoint_tensors(c); i++) {
        const struct tensor_view *t = checkpoint_tensor(c, i);
        const int64_t l = layer_of(t->name);

        if (l >= 0)
            w->layer[l] += t->nbytes;
    }
    w->norms = 2 * tensor_bytes(c, "model.norm.weight");
    for (int64_t l = 0; l < m->hp->layers; l++) { /* apart: no device is spared them */
        snprintf(name, sizeof(name), "model.layers.%lld.input_layernorm.weight", (long long)l);
        w->layer[l] -= tensor_bytes(c, name);
        snprintf(name, sizeof(name), "model.layers.%lld.post_attention_layernorm.weight",
                 (long long)l);
        w->layer[l] -= tensor_bytes(c, name);
    }
    w->embed = tensor_bytes(c, "model.embed_tokens.weight");
    w->head = m->hp->tied ? 0 : tensor_bytes(c, "lm_head.weight");
}

size_t plan_weights_total(const struct plan_weights *w)
{
    size_t n = w->embed + w->head + w->norms * (size_t)w->layers + w->norms / 2;

    for (int64_t l = 0; l < w->layers; l++)
        n += w->layer[l];
    return n;
}
