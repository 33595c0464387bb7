#include "format/hparams.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

/* Far above every model there is (405B: 16384 wide, 53248 inside, 128256 tokens), and low enough
 * that no product of them leaves 63 bits. */
enum {
    MAX_VOCAB = 1 << 24,
    MAX_DIM = 1 << 20,
    MAX_FFN = 1 << 22,
    MAX_HEADS = 1 << 14,
    MAX_HEAD_DIM = 1 << 12,
    MAX_CTX = 1 << 30,
};

static const double max_theta = 1e15, max_factor = 1e6, max_eps = 1;

/* ---- what holds for every source ---- */

static int rope_check(const struct rope_params *r, const char *what, struct err *e)
{
    if (!(r->theta >= 1 && r->theta <= max_theta))
        return err_set(e, ERR_FORMAT, "%s: rotary base (rope_theta) is %g, outside 1..%g", what,
                       r->theta, max_theta);
    if (r->type != ROPE_PLAIN && !(r->factor >= 1 && r->factor <= max_factor))
        return err_set(e, ERR_FORMAT, "%s: rope scaling factor is %g, outside 1..%g", what,
                       r->factor, max_factor);
    if (r->type != ROPE_LLAMA3)
        return 0;
    if (!(r->low_freq_factor > 0 && r->high_freq_factor > r->low_freq_factor &&
          r->high_freq_factor <= max_factor))
        return err_set(e, ERR_FORMAT,
                       "%s: low_freq_factor %g and high_freq_factor %g: 0 < low < high is needed",
                       what, r->low_freq_factor, r->high_freq_factor);
    if (r->original_ctx < 1 || r->original_ctx > MAX_CTX)
        return err_set(e, ERR_FORMAT, "%s: original_max_position_embeddings is %lld, outside 1..%d",
                       what, (long long)r->original_ctx, MAX_CTX);
    return 0;
}

static int range(const char *name, int64_t v, int64_t max, const char *what, struct err *e)
{
    if (v >= 1 && v <= max)
        return 0;
    return err_set(e, ERR_FORMAT, "%s: %s is %lld, outside 1..%lld", what, name, (long long)v,
                   (long long)max);
}

/* The last word on every struct hparams. */
static int check(const struct hparams *h, const char *what, struct err *e)
{
    if (range("the vocabulary", h->vocab, MAX_VOCAB, what, e) ||
        range("the hidden size", h->dim, MAX_DIM, what, e) ||
        range("the intermediate size", h->ffn, MAX_FFN, what, e) ||
        range("the number of layers", h->layers, HPARAMS_MAX_LAYERS, what, e) ||
        range("the number of attention heads", h->heads, MAX_HEADS, what, e) ||
        range("the number of key-value heads", h->kv_heads, MAX_HEADS, what, e) ||
        range("the size of a head", h->head_dim, MAX_HEAD_DIM, what, e) ||
        range("the context length", h->ctx, MAX_CTX, what, e))
        return -1;
    if (h->heads % h->kv_heads)
        return err_set(e, ERR_FORMAT,
                       "%s: %lld attention heads are no multiple of %lld key-value heads", what,
                       (long long)h->heads, (long long)h->kv_heads);
    if (h->head_dim % 2)
        return err_set(e, ERR_FORMAT, "%s: heads of %lld values cannot be rotated in pairs", what,
                       (long long)h->head_dim);
    if (!(h->eps > 0 && h->eps <= max_eps))
        return err_set(e, ERR_FORMAT, "%s: the norm's epsilon is %g, outside 0..%g", what, h->eps,
                       max_eps);
    if (h->bos < -1 || h->bos >= h->vocab)
        return err_set(e, ERR_FORMAT, "%s: bos token %lld is outside the vocabulary of %lld", what,
                       (long long)h->bos, (long long)h->vocab);
    for (int i = 0; i < h->n_eos; i++)
        if (h->eos[i] < 0 || h->eos[i] >= h->vocab)
            return err_set(e, ERR_FORMAT, "%s: eos token %lld is outside the vocabulary of %lld",
                           what, (long long)h->eos[i], (long long)h->vocab);
    return rope_check(&h->rope, what, e);
}

/* hidden_size / heads, for files that do not spell the head size out. */
static int derive_head_dim(struct hparams *h, const char *what, struct err *e)
{
    if (range("the number of attention heads", h->heads, MAX_HEADS, what, e))
        return -1;
    if (h->head_dim)
        return 0;
    if (h->dim % h->heads)
        return err_set(e, ERR_FORMAT,
                       "%s: the hidden size %lld is no multiple of %lld attention heads", what,
                       (long long)h->dim, (long long)h->heads);
    h->head_dim = h->dim / h->heads;
    return 0;
}

/* ---- config.json ---- */

static int need_int(const json_t *j, const char *key, int64_t max, int64_t *out, const char *what,
                    struct err *e)
{
    const int rc = json_get_int(j, key, 1, max, out, what, e);

    if (rc == 0)
        return err_set(e, ERR_FORMAT, "%s: \"%s\" is missing", what, key);
    return rc < 0 ? -1 : 0;
}

static int need_num(const json_t *j, const char *key, double max, double *out, const char *what,
                    struct err *e)
{
    const int rc = json_get_num(j, key, 0, max, out, what, e);

    if (rc == 0)
        return err_set(e, ERR_FORMAT, "%s: \"%s\" is missing", what, key);
    return rc < 0 ? -1 : 0;
}

/* An integer or a list of integers, as eos_token_id may be. */
static int read_eos(const json_t *j, int64_t eos[HPARAMS_MAX_EOS], int *n, int64_t vocab,
                    const char *what, struct err *e)
{
    const json_t *v = json_object_get(j, "eos_token_id");
    const bool list = json_is_array(v);
    const size_t count = list ? json_array_size(v) : 1;

    if (!v || json_is_null(v))
        return 0;
    if (count > HPARAMS_MAX_EOS)
        return err_set(e, ERR_FORMAT, "%s: %zu values of eos_token_id, at most %d are supported",
                       what, count, HPARAMS_MAX_EOS);
    for (size_t i = 0; i < count; i++) {
        const json_t *id = list ? json_array_get(v, i) : v;

        if (!json_is_integer(id))
            return err_set(e, ERR_FORMAT,
                           "%s: eos_token_id must be an integer or a list of integers", what);
        if (json_integer_value(id) < 0 || json_integer_value(id) >= vocab)
            return err_set(e, ERR_FORMAT, "%s: eos_token_id %lld is outside the vocabulary of %lld",
                           what, (long long)json_integer_value(id), (long long)vocab);
        eos[i] = json_integer_value(id);
    }
    *n = (int)count;
    return 0;
}

/* r holds theta already; s is rope_scaling, or transformers 5's rope_parameters. */
static int read_rope_scaling(struct rope_params *r, const json_t *s, const char *what,
                             struct err *e)
{
    const char *type = "default";

    if (json_get_str(s, "type", &type, NULL, what, e) < 0 ||
        json_get_str(s, "rope_type", &type, NULL, what, e) < 0)
        return -1;
    if (!strcmp(type, "default"))
        return 0;
    if (!strcmp(type, "linear"))
        r->type = ROPE_LINEAR;
    else if (!strcmp(type, "llama3"))
        r->type = ROPE_LLAMA3;
    else
        return err_set(e, ERR_FORMAT,
                       "%s: rope_type \"%s\" is not supported (default, linear and llama3 are)",
                       what, type);
    if (need_num(s, "factor", max_factor, &r->factor, what, e))
        return -1;
    if (r->type == ROPE_LINEAR)
        return 0;
    return need_num(s, "low_freq_factor", max_factor, &r->low_freq_factor, what, e) ||
                   need_num(s, "high_freq_factor", max_factor, &r->high_freq_factor, what, e) ||
                   need_int(s, "original_max_position_embeddings", MAX_CTX, &r->original_ctx, what,
                            e)
               ? -1
               : 0;
}

static int read_rope(struct rope_params *r, const json_t *j, const char *what, struct err *e)
{
    json_t *scaling = NULL;

    *r = (struct rope_params){ .type = ROPE_PLAIN, .theta = 10000 };
    if (json_get_num(j, "rope_theta", 0, max_theta, &r->theta, what, e) < 0 ||
        json_get_obj(j, "rope_scaling", &scaling, what, e) < 0 ||
        json_get_obj(j, "rope_parameters", &scaling, what, e) < 0)
        return -1;
    if (!scaling)
        return 0;
    if (json_get_num(scaling, "rope_theta", 0, max_theta, &r->theta, what, e) < 0)
        return -1;
    return read_rope_scaling(r, scaling, what, e);
}

static int read_dtype(enum enc *out, const json_t *j, const char *what, struct err *e)
{
    const char *name = "bfloat16";

    if (json_get_str(j, "torch_dtype", &name, NULL, what, e) < 0 ||
        json_get_str(j, "dtype", &name, NULL, what, e) < 0)
        return -1;
    if (!strcmp(name, "bfloat16"))
        *out = ENC_BF16;
    else if (!strcmp(name, "float16"))
        *out = ENC_F16;
    else if (!strcmp(name, "float32"))
        *out = ENC_F32;
    else
        return err_set(e, ERR_FORMAT,
                       "%s: dtype \"%s\" is not supported (bfloat16, float16 and float32 are)",
                       what, name);
    return 0;
}

/* Refuses by name what would change the result and is not implemented. */
static int check_kind(const json_t *j, struct quant *quant, const char *what, struct err *e)
{
    static const char *const keys[] = { "quantization_config", "compression_config" };
    static const char *const bias[] = { "attention_bias", "mlp_bias" };
    const char *type = NULL, *act = "silu";
    json_t *list = NULL;

    if (json_get_str(j, "model_type", &type, NULL, what, e) < 0)
        return -1;
    if (!type)
        return err_set(e, ERR_FORMAT, "%s: \"model_type\" is missing", what);
    if (strcmp(type, "llama"))
        return err_set(e, ERR_FORMAT, "%s: model type \"%s\" is not supported (llama is)", what,
                       type);
    if (json_get_arr(j, "architectures", &list, what, e) < 0)
        return -1;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));

        if (!name || strcmp(name, "LlamaForCausalLM"))
            return err_set(e, ERR_FORMAT,
                           "%s: architecture \"%s\" is not supported (LlamaForCausalLM is)", what,
                           name ? name : "?");
    }
    if (json_get_str(j, "hidden_act", &act, NULL, what, e) < 0)
        return -1;
    if (strcmp(act, "silu"))
        return err_set(e, ERR_FORMAT, "%s: hidden_act \"%s\" is not supported (silu is)", what,
                       act);
    for (size_t i = 0; i < ARRAY_LEN(bias); i++) {
        bool on = false;

        if (json_get_bool(j, bias[i], &on, what, e) < 0)
            return -1;
        if (on)
            return err_set(e, ERR_FORMAT, "%s: \"%s\" is true: biases are not supported", what,
                           bias[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        json_t *q = NULL;

        if (json_get_obj(j, keys[i], &q, what, e) < 0 || (q && quant_read(quant, q, what, e)))
            return -1;
    }
    return 0;
}

int hparams_from_config(struct hparams *out, const json_t *config, const char *what, struct err *e)
{
    struct hparams h = { .bos = -1, .eps = 1e-6, .arch = "llama" };

    if (!json_is_object(config))
        return err_set(e, ERR_FORMAT, "%s: not a JSON object", what);
    if (check_kind(config, &h.quant, what, e) ||
        need_int(config, "hidden_size", MAX_DIM, &h.dim, what, e) ||
        need_int(config, "intermediate_size", MAX_FFN, &h.ffn, what, e) ||
        need_int(config, "num_hidden_layers", HPARAMS_MAX_LAYERS, &h.layers, what, e) ||
        need_int(config, "num_attention_heads", MAX_HEADS, &h.heads, what, e) ||
        need_int(config, "vocab_size", MAX_VOCAB, &h.vocab, what, e) ||
        need_int(config, "max_position_embeddings", MAX_CTX, &h.ctx, what, e))
        return -1;
    h.kv_heads = h.heads;
    if (json_get_int(config, "num_key_value_heads", 1, MAX_HEADS, &h.kv_heads, what, e) < 0 ||
        json_get_int(config, "head_dim", 1, MAX_HEAD_DIM, &h.head_dim, what, e) < 0 ||
        json_get_num(config, "rms_norm_eps", 0, max_eps, &h.eps, what, e) < 0 ||
        json_get_bool(config, "tie_word_embeddings", &h.tied, what, e) < 0 ||
        json_get_int(config, "bos_token_id", 0, h.vocab - 1, &h.bos, what, e) < 0 ||
        read_eos(config, h.eos, &h.n_eos, h.vocab, what, e) ||
        read_rope(&h.rope, config, what, e) || read_dtype(&h.dtype, config, what, e) ||
        derive_head_dim(&h, what, e) || check(&h, what, e))
        return -1;
    *out = h;
    return 0;
}

/* ---- Meta's params.json ---- */

/* multiple_of * ceil(int(mult * int(8 dim / 3)) / multiple_of), as in Meta's model.py. */
static int params_ffn(struct hparams *h, const json_t *j, const char *what, struct err *e)
{
    double mult = 1;
    int64_t multiple = 256;

    if (json_get_num(j, "ffn_dim_multiplier", 0, 64, &mult, what, e) < 0 ||
        json_get_int(j, "multiple_of", 1, MAX_FFN, &multiple, what, e) < 0)
        return -1;
    const int64_t n = (int64_t)(mult * (double)(8 * h->dim / 3)); /* < 64 * 2^22 */

    h->ffn = (n + multiple - 1) / multiple * multiple;
    return 0;
}

int hparams_from_params(struct hparams *out, const json_t *params, const char *what, struct err *e)
{
    struct hparams h = { .bos = -1, .eps = 1e-5, .arch = "llama", .dtype = ENC_BF16 };
    json_t *nested = NULL;
    bool scaled = false;

    if (!json_is_object(params))
        return err_set(e, ERR_FORMAT, "%s: not a JSON object", what);
    if (json_get_obj(params, "model", &nested, what, e) < 0)
        return -1;
    if (nested)
        params = nested;
    h.rope = (struct rope_params){ .theta = 10000,
                                   .factor = 8,
                                   .low_freq_factor = 1,
                                   .high_freq_factor = 4,
                                   .original_ctx = 8192,
                                   .interleaved = true };
    if (need_int(params, "dim", MAX_DIM, &h.dim, what, e) ||
        need_int(params, "n_layers", HPARAMS_MAX_LAYERS, &h.layers, what, e) ||
        need_int(params, "n_heads", MAX_HEADS, &h.heads, what, e) ||
        need_int(params, "vocab_size", MAX_VOCAB, &h.vocab, what, e) ||
        params_ffn(&h, params, what, e))
        return -1;
    h.kv_heads = h.heads;
    if (json_get_int(params, "n_kv_heads", 1, MAX_HEADS, &h.kv_heads, what, e) < 0 ||
        json_get_int(params, "head_dim", 1, MAX_HEAD_DIM, &h.head_dim, what, e) < 0 ||
        json_get_num(params, "norm_eps", 0, max_eps, &h.eps, what, e) < 0 ||
        json_get_num(params, "rope_theta", 0, max_theta, &h.rope.theta, what, e) < 0 ||
        json_get_bool(params, "use_scaled_rope", &scaled, what, e) < 0)
        return -1;
    /* The file does not say how far it was trained: 8192 tokens, times the 3.1 extension. */
    h.rope.type = scaled ? ROPE_LLAMA3 : ROPE_PLAIN;
    h.ctx = scaled ? 131072 : 8192;
    if (derive_head_dim(&h, what, e) || check(&h, what, e))
        return -1;
    *out = h;
    return 0;
}

/* ---- GGUF ---- */

static int gguf_need(const struct gguf *g, const char *key, int64_t *out, struct err *e)
{
    const int rc = gguf_get_int(g, key, 1, INT32_MAX, out, e);

    if (rc == 0)
        return err_set(e, ERR_FORMAT, "%s: %s is missing", gguf_path(g), key);
    return rc < 0 ? -1 : 0;
}

static int gguf_arch(struct hparams *h, const struct gguf *g, struct err *e)
{
    struct gguf_str s = { "", 0 };
    int64_t experts = 0;

    if (gguf_get_str(g, "general.architecture", &s, e) < 0)
        return -1;
    if (s.n != 5 || memcmp(s.p, "llama", 5))
        return err_set(e, ERR_FORMAT, "%s: architecture \"%.*s\" is not supported (llama is)",
                       gguf_path(g), (int)(s.n < 64 ? s.n : 64), s.p);
    snprintf(h->arch, sizeof(h->arch), "llama");
    if (gguf_get_int(g, "llama.expert_count", 0, INT32_MAX, &experts, e) < 0)
        return -1;
    if (experts)
        return err_set(e, ERR_FORMAT, "%s: a mixture of %lld experts is not supported",
                       gguf_path(g), (long long)experts);
    return 0;
}

/* llama.rope.*; a rope_freqs.weight tensor replaces the llama3 formula later. */
static int gguf_rope(struct rope_params *r, const struct gguf *g, int64_t head_dim, struct err *e)
{
    struct gguf_str type = { "none", 4 };
    int64_t dims = head_dim;

    *r = (struct rope_params){ .type = ROPE_PLAIN, .theta = 10000, .interleaved = true };
    if (gguf_get_num(g, "llama.rope.freq_base", &r->theta, e) < 0 ||
        gguf_get_num(g, "llama.rope.scale_linear", &r->factor, e) < 0 ||
        gguf_get_int(g, "llama.rope.dimension_count", 1, INT32_MAX, &dims, e) < 0 ||
        gguf_get_str(g, "llama.rope.scaling.type", &type, e) < 0)
        return -1;
    if (dims != head_dim)
        return err_set(e, ERR_FORMAT,
                       "%s: llama.rope.dimension_count is %lld, but heads have %lld values",
                       gguf_path(g), (long long)dims, (long long)head_dim);
    if (r->factor != 0)
        r->type = ROPE_LINEAR;
    if (type.n == 6 && !memcmp(type.p, "linear", 6)) {
        r->type = ROPE_LINEAR;
        if (gguf_get_num(g, "llama.rope.scaling.factor", &r->factor, e) < 0)
            return -1;
    } else if (type.n != 4 || memcmp(type.p, "none", 4)) {
        return err_set(e, ERR_FORMAT,
                       "%s: rope scaling \"%.*s\" is not supported (none and linear are)",
                       gguf_path(g), (int)(type.n < 64 ? type.n : 64), type.p);
    }
    return 0;
}

static int gguf_vocab(struct hparams *h, const struct gguf *g, struct err *e)
{
    struct gguf_strs tokens = { 0 };

    if (gguf_get_strs(g, "tokenizer.ggml.tokens", &tokens, e) < 0)
        return -1;
    if (tokens.n == 0)
        return err_set(e, ERR_FORMAT,
                       "%s: tokenizer.ggml.tokens is missing: the file has no vocabulary",
                       gguf_path(g));
    if (tokens.n > MAX_VOCAB)
        return err_set(e, ERR_FORMAT, "%s: %zu tokens, more than %d", gguf_path(g), tokens.n,
                       MAX_VOCAB);
    h->vocab = (int64_t)tokens.n;
    if (gguf_get_int(g, "llama.vocab_size", 1, MAX_VOCAB, &h->vocab, e) < 0)
        return -1;
    if ((int64_t)tokens.n > h->vocab)
        return err_set(e, ERR_FORMAT, "%s: %zu tokens, but llama.vocab_size is %lld", gguf_path(g),
                       tokens.n, (long long)h->vocab);
    return 0;
}

static int gguf_ends(struct hparams *h, const struct gguf *g, struct err *e)
{
    static const char *const key[] = { "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id" };

    if (gguf_get_int(g, "tokenizer.ggml.bos_token_id", 0, h->vocab - 1, &h->bos, e) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(key); i++) {
        int64_t id = -1;
        int k = 0;

        if (gguf_get_int(g, key[i], 0, h->vocab - 1, &id, e) < 0)
            return -1;
        while (k < h->n_eos && h->eos[k] != id)
            k++;
        if (id >= 0 && k == h->n_eos)
            h->eos[h->n_eos++] = id;
    }
    return 0;
}

int hparams_from_gguf(struct hparams *out, const struct gguf *g, struct err *e)
{
    struct hparams h = { .bos = -1, .dtype = ENC_F16 };
    const struct tensor_view *q;
    int rc;

    if (gguf_arch(&h, g, e) || gguf_need(g, "llama.embedding_length", &h.dim, e) ||
        gguf_need(g, "llama.feed_forward_length", &h.ffn, e) ||
        gguf_need(g, "llama.block_count", &h.layers, e) ||
        gguf_need(g, "llama.attention.head_count", &h.heads, e) ||
        gguf_need(g, "llama.context_length", &h.ctx, e))
        return -1;
    h.kv_heads = h.heads;
    rc = gguf_get_num(g, "llama.attention.layer_norm_rms_epsilon", &h.eps, e);
    if (rc == 0)
        err_set(e, ERR_FORMAT, "%s: llama.attention.layer_norm_rms_epsilon is missing",
                gguf_path(g));
    if (rc <= 0)
        return -1;
    if (gguf_get_int(g, "llama.attention.head_count_kv", 1, MAX_HEADS, &h.kv_heads, e) < 0 ||
        gguf_get_int(g, "llama.attention.key_length", 1, MAX_HEAD_DIM, &h.head_dim, e) < 0 ||
        derive_head_dim(&h, gguf_path(g), e))
        return -1;
    int64_t value_dim = h.head_dim;

    if (gguf_get_int(g, "llama.attention.value_length", 1, MAX_HEAD_DIM, &value_dim, e) < 0)
        return -1;
    if (value_dim != h.head_dim)
        return err_set(e, ERR_FORMAT,
                       "%s: keys of %lld values and values of %lld are not supported", gguf_path(g),
                       (long long)h.head_dim, (long long)value_dim);
    if (gguf_rope(&h.rope, g, h.head_dim, e) || gguf_vocab(&h, g, e) || gguf_ends(&h, g, e) ||
        check(&h, gguf_path(g), e))
        return -1;
    h.tied = !gguf_find(g, "output.weight");
    q = gguf_find(g, "blk.0.attn_q.weight");
    if (q && (q->enc == ENC_BF16 || q->enc == ENC_F32))
        h.dtype = q->enc;
    *out = h;
    return 0;
}

/* ---- generation_config.json ---- */

int gen_defaults_read(struct gen_defaults *out, const json_t *j, const char *what, struct err *e)
{
    struct gen_defaults d = { 0 };
    int64_t length;
    int rc[6];

    if (!json_is_object(j))
        return err_set(e, ERR_FORMAT, "%s: not a JSON object", what);
    rc[0] = json_get_bool(j, "do_sample", &d.sample, what, e);
    if (rc[0] < 0)
        return -1;
    rc[1] = json_get_num(j, "temperature", 0, 100, &d.temperature, what, e);
    if (rc[1] < 0)
        return -1;
    rc[2] = json_get_num(j, "top_p", 0, 1, &d.top_p, what, e);
    if (rc[2] < 0)
        return -1;
    rc[3] = json_get_int(j, "top_k", 0, MAX_VOCAB, &d.top_k, what, e);
    if (rc[3] < 0)
        return -1;
    rc[4] = json_get_num(j, "min_p", 0, 1, &d.min_p, what, e);
    if (rc[4] < 0)
        return -1;
    rc[5] = json_get_num(j, "repetition_penalty", 1e-3, 1e3, &d.repetition, what, e);
    if (rc[5] < 0)
        return -1;
    d.has_sample = rc[0] > 0;
    d.has_temperature = rc[1] > 0;
    d.has_top_p = rc[2] > 0;
    d.has_top_k = rc[3] > 0;
    d.has_min_p = rc[4] > 0;
    d.has_repetition = rc[5] > 0;
    /* max_length counts the prompt too and is what transformers' own default says; it is checked
     * and has no effect. */
    if (json_get_int(j, "max_length", 1, MAX_CTX, &length, what, e) < 0 ||
        json_get_int(j, "max_new_tokens", 1, MAX_CTX, &d.max_new_tokens, what, e) < 0 ||
        read_eos(j, d.eos, &d.n_eos, MAX_VOCAB, what, e))
        return -1;
    *out = d;
    return 0;
}

/* ---- rotary frequencies ---- */

/* In float32 where transformers is in float32 (modeling_rope_utils.py), so that the tables are the
 * same to the last bit: at position 100,000 the last bit of a frequency near 1 is a third of a
 * degree. */
void rope_inv_freq(float *inv_freq, const struct hparams *h, const float *divisors)
{
    const struct rope_params *r = &h->rope;
    const float factor = (float)r->factor, two_pi = (float)(2 * M_PI);
    const float low = (float)r->low_freq_factor, high = (float)r->high_freq_factor;
    const float ctx = (float)r->original_ctx;

    for (int64_t i = 0; i < h->head_dim / 2; i++) {
        const float exponent = (float)(2 * i) / (float)h->head_dim;
        const float f = 1 / (float)pow((double)(float)r->theta, (double)exponent);
        const float wavelength = two_pi / f;

        if (divisors) {
            inv_freq[i] = f / divisors[i];
        } else if (r->type == ROPE_PLAIN) {
            inv_freq[i] = f;
        } else if (r->type == ROPE_LINEAR || wavelength > ctx / low) {
            inv_freq[i] = f / factor;
        } else if (wavelength < ctx / high) {
            inv_freq[i] = f;
        } else {
            const float s = (ctx / wavelength - low) / (high - low);

            inv_freq[i] = (1 - s) * f / factor + s * f;
        }
    }
}
