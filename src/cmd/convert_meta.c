/* convert_meta.c - sizes, constants and tokenizer in the words of GGUF and of Hugging Face. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "cmd/convert_int.h"
#include "text/tok_export.h"

static const size_t SIDE_MAX = (size_t)512 << 20;

/* ---- rotary frequencies ---- */

/* GGUF readers divide the plain frequency; among the neighbours of the quotient the one whose
 * division gives the scaled frequency back to the last bit is taken, where there is one. */
void conv_rope_divisors(float *out, const struct hparams *hp)
{
    const size_t n = (size_t)hp->head_dim / 2;
    float *want = xcalloc(n, sizeof(*want)), *plain = xcalloc(n, sizeof(*plain));
    struct hparams p = *hp;

    rope_inv_freq(want, hp, NULL);
    p.rope.type = ROPE_PLAIN;
    rope_inv_freq(plain, &p, NULL);
    for (size_t i = 0; i < n; i++) {
        const float d = plain[i] / want[i];
        const float near[] = { d, nextafterf(d, 0), nextafterf(d, INFINITY) };

        out[i] = d;
        for (size_t k = 0; k < ARRAY_LEN(near); k++) {
            if (plain[i] / near[k] == want[i]) {
                out[i] = near[k];
                break;
            }
        }
    }
    free(want);
    free(plain);
}

int conv_rope_from_divisors(struct hparams *hp, const struct tensor_view *t, struct err *e)
{
    static const double factors[] = { 8, 32 }; /* Llama 3.1, 3.2 */
    const size_t n = (size_t)hp->head_dim / 2;
    float *d = xcalloc(n, sizeof(*d));

    for (size_t k = 0; k < ARRAY_LEN(factors); k++) {
        struct hparams h = *hp;
        size_t same = 0;

        h.rope.type = ROPE_LLAMA3;
        h.rope.factor = factors[k];
        h.rope.low_freq_factor = 1;
        h.rope.high_freq_factor = 4;
        h.rope.original_ctx = 8192;
        conv_rope_divisors(d, &h);
        for (size_t i = 0; i < n; i++) {
            float v;

            memcpy(&v, t->data + i * sizeof(v), sizeof(v));
            same += fabsf(v - d[i]) <= 1e-5f * d[i];
        }
        if (same == n) {
            hp->rope = h.rope;
            free(d);
            return 0;
        }
    }
    free(d);
    return err_set(
        e, ERR_FORMAT,
        "%s: its %zu divisors are those of neither Llama 3.1 nor 3.2: config.json has no "
        "words for them",
        t->name, n);
}

/* ---- GGUF ---- */

static uint32_t file_type(const struct conv *v)
{
    static const struct {
        enum enc enc;
        uint32_t type;
    } of[] = {
        { ENC_F32, 0 },   { ENC_F16, 1 },   { ENC_Q4_0, 2 },  { ENC_Q4_1, 3 },
        { ENC_Q8_0, 7 },  { ENC_Q5_0, 8 },  { ENC_Q5_1, 9 },  { ENC_Q4_K, 15 },
        { ENC_Q5_K, 17 }, { ENC_Q6_K, 18 }, { ENC_BF16, 32 },
    };
    size_t bytes[ENC_COUNT] = { 0 };
    enum enc most = ENC_F32;

    for (size_t i = 0; i < v->n; i++) /* by weight of the matrices */
        if (v->t[i].out.ndim == 2)
            bytes[v->t[i].out.enc] += v->t[i].out.nbytes;
    for (int i = 0; i < ENC_COUNT; i++)
        if (bytes[i] > bytes[most])
            most = (enum enc)i;
    for (size_t i = 0; i < ARRAY_LEN(of); i++)
        if (of[i].enc == most)
            return of[i].type;
    return 1024; /* llama.cpp's "guessed": it shows the name only */
}

static bool quantised(const struct conv *v)
{
    for (size_t i = 0; i < v->n; i++)
        if (enc_table[v->t[i].out.enc].block > 1)
            return true;
    return false;
}

/* The name of the source: its last part that says something. */
static char *model_name(const struct conv *v)
{
    char *path = realpath(v->src, NULL), *s = path ? path : xstrdup(v->src);
    char *slash = strrchr(s, '/');

    if (slash && !strcmp(slash, "/original")) {
        *slash = 0;
        slash = strrchr(s, '/');
    }
    char *name = xstrdup(slash ? slash + 1 : s);
    const size_t n = strlen(name);

    if (n > 5 && !strcmp(name + n - 5, ".gguf"))
        name[n - 5] = 0;
    free(s);
    return name;
}

/* eos, eot and eom: GGUF has three places for the ids that end an answer. */
static int put_ends(const struct conv *v, struct gguf_meta *m, struct err *e)
{
    static const char *const key[] = { "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id" };
    const struct hparams *h = &v->hp;
    int64_t at[3] = { -1, -1, -1 };
    const int32_t eot = tok_id(v->tok, "<|eot_id|>"), eom = tok_id(v->tok, "<|eom_id|>");

    for (int i = 0; i < h->n_eos; i++) {
        int k = h->eos[i] == eot && i > 0 ? 1 : h->eos[i] == eom && i > 0 ? 2 : 0;

        while (k < 3 && at[k] >= 0)
            k++;
        if (k == 3)
            return err_set(e, ERR_FORMAT, "%s: %d tokens end an answer, GGUF has places for three",
                           v->src, h->n_eos);
        at[k] = h->eos[i];
    }
    if (h->n_eos == 0 && tok_eos(v->tok) >= 0)
        at[0] = tok_eos(v->tok);
    for (int k = 0; k < 3; k++)
        if (at[k] >= 0)
            gguf_put_u32(m, key[k], (uint32_t)at[k]);
    return 0;
}

int conv_gguf_meta(const struct conv *v, struct gguf_meta *m, struct err *e)
{
    const struct hparams *h = &v->hp;
    char *name = model_name(v);

    gguf_put_str(m, "general.architecture", "llama", 5);
    gguf_put_str(m, "general.type", "model", 5);
    gguf_put_str(m, "general.name", name, strlen(name));
    free(name);
    gguf_put_u32(m, "general.file_type", file_type(v));
    if (quantised(v))
        gguf_put_u32(m, "general.quantization_version", 2);
    gguf_put_u32(m, "llama.vocab_size", (uint32_t)h->vocab);
    gguf_put_u32(m, "llama.context_length", (uint32_t)h->ctx);
    gguf_put_u32(m, "llama.embedding_length", (uint32_t)h->dim);
    gguf_put_u32(m, "llama.block_count", (uint32_t)h->layers);
    gguf_put_u32(m, "llama.feed_forward_length", (uint32_t)h->ffn);
    gguf_put_u32(m, "llama.attention.head_count", (uint32_t)h->heads);
    gguf_put_u32(m, "llama.attention.head_count_kv", (uint32_t)h->kv_heads);
    gguf_put_u32(m, "llama.attention.key_length", (uint32_t)h->head_dim);
    gguf_put_u32(m, "llama.attention.value_length", (uint32_t)h->head_dim);
    gguf_put_f32(m, "llama.attention.layer_norm_rms_epsilon", (float)h->eps);
    gguf_put_u32(m, "llama.rope.dimension_count", (uint32_t)h->head_dim);
    gguf_put_f32(m, "llama.rope.freq_base", (float)h->rope.theta);
    if (h->rope.type == ROPE_LINEAR) {
        gguf_put_str(m, "llama.rope.scaling.type", "linear", 6);
        gguf_put_f32(m, "llama.rope.scaling.factor", (float)h->rope.factor);
    }
    return tok_to_gguf(v->tok, h->vocab, m, e) || put_ends(v, m, e) ? -1 : 0;
}

/* ---- Hugging Face ---- */

/* The shortest decimal that is the same float32: 1e-05, not 9.99999974e-06. */
static json_t *real(double x)
{
    char text[32];

    for (int digits = 6; digits < 10; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, x);
        if ((float)strtod(text, NULL) == (float)x)
            break;
    }
    return json_real(strtod(text, NULL));
}

static json_t *eos_of(const int64_t *eos, int n)
{
    json_t *list;

    if (n == 0)
        return json_null();
    if (n == 1)
        return json_integer((json_int_t)eos[0]);
    list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_integer((json_int_t)eos[i]));
    return list;
}

static const char *dtype_name(enum enc enc)
{
    return enc == ENC_F32 ? "float32" : enc == ENC_F16 ? "float16" : "bfloat16";
}

static json_t *rope_scaling(const struct rope_params *r)
{
    json_t *j;

    if (r->type == ROPE_PLAIN)
        return json_null();
    j = json_object();
    json_object_set_new(j, "factor", real(r->factor));
    if (r->type == ROPE_LLAMA3) {
        json_object_set_new(j, "low_freq_factor", real(r->low_freq_factor));
        json_object_set_new(j, "high_freq_factor", real(r->high_freq_factor));
        json_object_set_new(j, "original_max_position_embeddings",
                            json_integer((json_int_t)r->original_ctx));
    }
    json_object_set_new(j, "rope_type", json_string(r->type == ROPE_LLAMA3 ? "llama3" : "linear"));
    return j;
}

static json_t *new_config(const struct hparams *h)
{
    json_t *j = json_pack("{s:[s],s:b,s:f,s:s,s:f,s:b,s:s,s:i,s:b}", "architectures",
                          "LlamaForCausalLM", "attention_bias", 0, "attention_dropout", 0.0,
                          "hidden_act", "silu", "initializer_range", 0.02, "mlp_bias", 0,
                          "model_type", "llama", "pretraining_tp", 1, "use_cache", 1);
    const struct {
        const char *key;
        int64_t v;
    } size[] = {
        { "head_dim", h->head_dim },
        { "hidden_size", h->dim },
        { "intermediate_size", h->ffn },
        { "max_position_embeddings", h->ctx },
        { "num_attention_heads", h->heads },
        { "num_hidden_layers", h->layers },
        { "num_key_value_heads", h->kv_heads },
        { "vocab_size", h->vocab },
    };

    for (size_t i = 0; i < ARRAY_LEN(size); i++)
        json_object_set_new(j, size[i].key, json_integer((json_int_t)size[i].v));
    json_object_set_new(j, "bos_token_id",
                        h->bos < 0 ? json_null() : json_integer((json_int_t)h->bos));
    json_object_set_new(j, "eos_token_id", eos_of(h->eos, h->n_eos));
    json_object_set_new(j, "rms_norm_eps", real(h->eps));
    json_object_set_new(j, "rope_theta", real(h->rope.theta));
    json_object_set_new(j, "rope_scaling", rope_scaling(&h->rope));
    json_object_set_new(j, "tie_word_embeddings", json_boolean(h->tied));
    json_object_set_new(j, "torch_dtype", json_string(dtype_name(h->dtype)));
    return j;
}

static json_t *new_generation_config(const struct conv *v)
{
    const struct gen_defaults *g = checkpoint_gen_defaults(v->c);
    const struct hparams *h = &v->hp;
    json_t *j = json_object();

    if (h->bos >= 0)
        json_object_set_new(j, "bos_token_id", json_integer((json_int_t)h->bos));
    if (h->n_eos)
        json_object_set_new(j, "eos_token_id", eos_of(h->eos, h->n_eos));
    if (!strcmp(checkpoint_container(v->c), "consolidated") && !g->has_sample) {
        /* what transformers' converter writes for Llama 3 and on; Meta's own defaults */
        json_object_set_new(j, "do_sample", json_true());
        json_object_set_new(j, "temperature", json_real(0.6));
        json_object_set_new(j, "top_p", json_real(0.9));
    }
    if (g->has_sample)
        json_object_set_new(j, "do_sample", json_boolean(g->sample));
    if (g->has_temperature)
        json_object_set_new(j, "temperature", real(g->temperature));
    if (g->has_top_p)
        json_object_set_new(j, "top_p", real(g->top_p));
    return j;
}

/* A token's text, or null. */
static json_t *token_text(const struct tok *t, int64_t id)
{
    size_t n;
    const char *p = id < 0 || id >= tok_size(t) ? NULL : tok_bytes(t, (int32_t)id, &n);
    json_t *s = p ? json_stringn(p, n) : NULL;

    return s ? s : json_null();
}

/* The token that ends a turn where there is a chat template, else that ends a text. */
static int64_t main_eos(const struct conv *v)
{
    const int32_t eot = tok_id(v->tok, "<|eot_id|>");

    for (int i = 0; i < v->hp.n_eos; i++)
        if (tok_chat_template(v->tok) && v->hp.eos[i] == eot)
            return eot;
    return v->hp.n_eos ? v->hp.eos[0] : tok_eos(v->tok);
}

static json_t *new_special_tokens(const struct conv *v)
{
    json_t *j = json_object();

    json_object_set_new(j, "bos_token", token_text(v->tok, v->hp.bos));
    json_object_set_new(j, "eos_token", token_text(v->tok, main_eos(v)));
    return j;
}

static json_t *new_tokenizer_config(const struct conv *v)
{
    json_t *j = new_special_tokens(v);
    const char *tpl = tok_chat_template(v->tok);

    json_object_set_new(j, "clean_up_tokenization_spaces", json_false());
    json_object_set_new(j, "model_input_names", json_pack("[s,s]", "input_ids", "attention_mask"));
    json_object_set_new(j, "model_max_length", json_integer((json_int_t)v->hp.ctx));
    json_object_set_new(j, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    if (tpl)
        json_object_set_new(j, "chat_template", json_string(tpl));
    return j;
}

static int put_json(struct work *w, const char *name, json_t *take, struct err *e)
{
    char *text = take ? json_dumps(take, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) : NULL;
    int rc;

    json_decref(take);
    if (!text)
        return err_set(e, ERR_FORMAT, "%s: a text that is not UTF-8", name);
    rc = work_put(w, name, text, strlen(text), e);
    free(text);
    return rc;
}

/* Copies a file of the source folder when there is one: 1, 0 or -1. */
static int copy_from(const char *dir, struct work *w, const char *name, struct err *e)
{
    char *path = path_join(dir, name), *text;
    size_t n;
    int rc = 0;

    if (file_exists(path)) {
        rc = file_read(&text, &n, path, SIDE_MAX, e);
        if (rc == 0) {
            rc = work_put(w, name, text, n, e) ? -1 : 1;
            free(text);
        }
    }
    free(path);
    return rc;
}

static int copy(const struct conv *v, struct work *w, const char *name, struct err *e)
{
    return checkpoint_gguf(v->c) ? 0 : copy_from(v->src, w, name, e);
}

/* An adapter with more tokens brings the tokenizer that knows them: 1, or 0 = it does not. */
static int copy_longer(const struct conv *v, struct work *w, const char *const *more, size_t n,
                       struct err *e)
{
    int rc = 0;

    if (!v->lora || (int64_t)v->lora->vocab == checkpoint_hparams(v->c)->vocab)
        return 0;
    if ((rc = copy_from(v->adapter, w, "tokenizer.json", e)) <= 0)
        return rc;
    for (size_t i = 0; i < n && rc >= 0; i++)
        rc = copy_from(v->adapter, w, more[i], e);
    return rc < 0 ? -1 : 1;
}

/* The source's own config.json with what the conversion changed. */
static json_t *patched_config(const struct conv *v, struct err *e)
{
    char *path = path_join(v->src, "config.json");
    json_t *j = NULL;

    if (json_parse_file(&j, path, SIDE_MAX, e) == 0) {
        if (json_object_get(j, "dtype"))
            json_object_set_new(j, "dtype", json_string(dtype_name(v->hp.dtype)));
        if (json_object_get(j, "torch_dtype") || !json_object_get(j, "dtype"))
            json_object_set_new(j, "torch_dtype", json_string(dtype_name(v->hp.dtype)));
        json_object_del(j, "quantization_config"); /* the weights are plain now */
        json_object_del(j, "compression_config");
        json_object_set_new(j, "num_key_value_heads", json_integer((json_int_t)v->hp.kv_heads));
        json_object_set_new(j, "vocab_size", json_integer((json_int_t)v->hp.vocab));
        if (v->hp.tied != checkpoint_hparams(v->c)->tied)
            json_object_set_new(j, "tie_word_embeddings", json_boolean(v->hp.tied));
    }
    free(path);
    return j;
}

static int put_tokenizer(const struct conv *v, struct work *w, struct err *e)
{
    struct buf b;
    int rc;

    buf_init(&b, SIDE_MAX);
    rc = tok_to_json(v->tok, &b, e) || work_put(w, "tokenizer.json", b.p, b.len, e) ||
                 put_json(w, "tokenizer_config.json", new_tokenizer_config(v), e) ||
                 put_json(w, "special_tokens_map.json", new_special_tokens(v), e)
             ? -1
             : 0;
    buf_release(&b);
    return rc;
}

static int put_index(const struct conv *v, struct work *w, struct err *e)
{
    json_t *map = json_object();
    size_t total = 0;

    for (size_t f = 0; f < v->n_files; f++) {
        for (size_t i = v->first[f]; i < v->first[f + 1]; i++) {
            json_object_set_new(map, v->t[i].name, json_string(v->file[f].name));
            total += v->t[i].out.nbytes;
        }
    }
    return put_json(
        w, "model.safetensors.index.json",
        json_pack("{s:{s:I},s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map),
        e);
}

int conv_hf_files(const struct conv *v, struct work *w, struct err *e)
{
    static const char *const kept[] = { "tokenizer_config.json", "special_tokens_map.json",
                                        "chat_template.jinja" };
    char *path = path_join(v->src, "config.json");
    const char *tpl = tok_chat_template(v->tok);
    const bool has_config = !checkpoint_gguf(v->c) && file_exists(path);
    int rc;

    free(path);
    rc = put_json(w, "config.json", has_config ? patched_config(v, e) : new_config(&v->hp), e);
    if (rc == 0 && v->n_files > 1)
        rc = put_index(v, w, e);
    if (rc == 0)
        rc = copy(v, w, "generation_config.json", e);
    if (rc == 0)
        rc = put_json(w, "generation_config.json", new_generation_config(v), e);
    if (rc >= 0)
        rc = copy_longer(v, w, kept, ARRAY_LEN(kept), e);
    if (rc)
        return rc < 0 ? -1 : 0;
    rc = copy(v, w, "tokenizer.json", e);
    if (rc == 0)
        return put_tokenizer(v, w, e);
    for (size_t i = 0; i < ARRAY_LEN(kept) && rc >= 0; i++)
        rc = copy(v, w, kept[i], e);
    if (rc >= 0 && v->new_template) /* it wins over the copied ones */
        rc = work_put(w, "chat_template.jinja", tpl, strlen(tpl), e);
    return rc < 0 ? -1 : 0;
}
