/* checkpoint_slots.c - the tensors of the architecture: their names in the three kinds of file, and
 * which axes they span (MODEL.md). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/checkpoint_int.h"

static const char *const layer_prefix[NAMES_COUNT] = { "model.layers.", "blk.", "layers." };

const struct slot slots_global[SLOTS_GLOBAL] = {
    { { "model.embed_tokens", "token_embd", "tok_embeddings" }, AX_VOCAB, AX_DIM },
    { { "model.norm", "output_norm", "norm" }, AX_DIM, AX_NONE },
    { { "lm_head", "output", "output" }, AX_VOCAB, AX_DIM }, /* absent when tied */
};

const struct slot slots_layer[SLOTS_LAYER] = {
    { { "self_attn.q_proj", "attn_q", "attention.wq" }, AX_Q, AX_DIM },
    { { "self_attn.k_proj", "attn_k", "attention.wk" }, AX_KV, AX_DIM },
    { { "self_attn.v_proj", "attn_v", "attention.wv" }, AX_KV, AX_DIM },
    { { "self_attn.o_proj", "attn_output", "attention.wo" }, AX_DIM, AX_Q },
    { { "mlp.gate_proj", "ffn_gate", "feed_forward.w1" }, AX_FFN, AX_DIM },
    { { "mlp.up_proj", "ffn_up", "feed_forward.w3" }, AX_FFN, AX_DIM },
    { { "mlp.down_proj", "ffn_down", "feed_forward.w2" }, AX_DIM, AX_FFN },
    { { "input_layernorm", "attn_norm", "attention_norm" }, AX_DIM, AX_NONE },
    { { "post_attention_layernorm", "ffn_norm", "ffn_norm" }, AX_DIM, AX_NONE },
};

uint64_t axis_size(const struct hparams *h, enum axis a)
{
    switch (a) {
    case AX_DIM:
        return (uint64_t)h->dim;
    case AX_FFN:
        return (uint64_t)h->ffn;
    case AX_VOCAB:
        return (uint64_t)h->vocab;
    case AX_Q:
        return (uint64_t)(h->heads * h->head_dim);
    case AX_KV:
        return (uint64_t)(h->kv_heads * h->head_dim);
    case AX_NONE:
        break;
    }
    return 1;
}

/* Splits PREFIX<layer>.REST: returns REST and the layer, or NULL. */
static const char *split_layer(const char *name, const char *prefix, int64_t *layer)
{
    const size_t n = strlen(prefix);
    const char *p = name + n;

    if (strncmp(name, prefix, n))
        return NULL;
    *layer = 0;
    if (p[0] == '0' && p[1] != '.')
        return NULL;
    while (*p >= '0' && *p <= '9' && *layer < INT32_MAX)
        *layer = *layer * 10 + (*p++ - '0');
    return p > name + n && *p == '.' ? p + 1 : NULL;
}

static bool is_weight(const char *name, const char *stem)
{
    const size_t n = strlen(stem);

    return !strncmp(name, stem, n) && !strcmp(name + n, ".weight");
}

/* The slot of a name in one spelling, and its layer (-1 = slots_global); NULL = unknown. */
const struct slot *slot_find(const char *name, enum tensor_names names, int64_t *layer)
{
    const char *rest = split_layer(name, layer_prefix[names], layer);
    const struct slot *s = rest ? slots_layer : slots_global;
    const size_t n = rest ? SLOTS_LAYER : SLOTS_GLOBAL;

    if (!rest) {
        *layer = -1;
        rest = name;
    }
    for (size_t i = 0; i < n; i++)
        if (is_weight(rest, s[i].name[names]))
            return &s[i];
    return NULL;
}

void slot_name(char *out, size_t size, const struct slot *s, int64_t layer, enum tensor_names names)
{
    if (layer < 0)
        snprintf(out, size, "%s.weight", s->name[names]);
    else
        snprintf(out, size, "%s%lld.%s.weight", layer_prefix[names], (long long)layer,
                 s->name[names]);
}

/* How this checkpoint's tensors are named. */
enum tensor_names checkpoint_names(const struct checkpoint *c)
{
    return c->gguf ? NAMES_GGUF : c->meta ? NAMES_META : NAMES_HF;
}

/* Tensors that older converters add and that hold what the config says already, and the scales of
 * an FP8 key-value cache, which is kept as floats here. */
bool slot_may_ignore(const char *name)
{
    static const char *const tail[] = { ".rotary_emb.inv_freq", ".attn_rot_embd.weight",
                                        ".attn_rot_embd",       ".self_attn.k_scale",
                                        ".self_attn.v_scale",   ".k_proj.output_scale",
                                        ".v_proj.output_scale" };
    const size_t n = strlen(name);

    for (size_t i = 0; i < ARRAY_LEN(tail); i++)
        if (n > strlen(tail[i]) && !strcmp(name + n - strlen(tail[i]), tail[i]))
            return true;
    return !strcmp(name, "rope.freqs"); /* Meta's */
}
