/* hparams.h - the sizes and constants of one Llama-family model, read from
 * config.json (both spellings) or GGUF metadata. Every field is checked: after a
 * successful read no product of these sizes overflows and no division is by zero. */
#ifndef PUNA_FORMAT_HPARAMS_H
#define PUNA_FORMAT_HPARAMS_H

#include <jansson.h>

#include "format/enc/enc.h"
#include "format/gguf.h"
#include "format/quant.h"

enum rope_type { ROPE_PLAIN, ROPE_LLAMA3, ROPE_LINEAR };

struct rope_params {
    enum rope_type type;
    double theta;
    double factor;          /* llama3, linear */
    double low_freq_factor, high_freq_factor; /* llama3 */
    int64_t original_ctx;   /* llama3 */
    bool interleaved; /* pairs (2i, 2i + 1), as in GGUF and Meta's files; else (i, i + hd/2) */
};

enum { HPARAMS_MAX_EOS = 8, HPARAMS_MAX_LAYERS = 512 };

struct hparams {
    int64_t vocab;    /* V */
    int64_t dim;      /* D, hidden_size */
    int64_t ffn;      /* F, intermediate_size */
    int64_t layers;   /* L */
    int64_t heads;    /* H */
    int64_t kv_heads; /* K */
    int64_t head_dim; /* hd; heads * head_dim need not be dim */
    int64_t ctx;      /* max_position_embeddings */
    double eps;       /* rms_norm_eps */
    struct rope_params rope;
    bool tied;        /* tie_word_embeddings: the head is the embedding table */
    enum enc dtype;   /* ENC_BF16, ENC_F16 or ENC_F32: declared dtype of weights and KV cache; bf16
                         where a config is silent; GGUF: f16 unless the matrices are bf16 or f32 */
    int64_t bos;      /* -1 = none */
    int64_t eos[HPARAMS_MAX_EOS];
    int n_eos;
    char arch[32];    /* "llama" */
    struct quant quant; /* quantization_config */
};

/* generation_config.json; n_* / has_* say what was there. */
struct gen_defaults {
    bool has_sample, sample;        /* do_sample */
    bool has_temperature, has_top_p, has_top_k, has_min_p, has_repetition;
    double temperature, top_p, min_p, repetition;
    int64_t top_k;
    int64_t max_new_tokens;         /* 0 = not given */
    int64_t eos[HPARAMS_MAX_EOS];
    int n_eos;                      /* wins over hparams.eos when > 0 */
};

/* `what` (a path) prefixes messages. */
int hparams_from_config(struct hparams *h, const json_t *config, const char *what,
                        struct err *e) MUST_USE;
/* Meta's params.json (original/ of a release; keys may be nested under "model"). */
int hparams_from_params(struct hparams *h, const json_t *params, const char *what,
                        struct err *e) MUST_USE;
int hparams_from_gguf(struct hparams *h, const struct gguf *g, struct err *e) MUST_USE;
int gen_defaults_read(struct gen_defaults *d, const json_t *config, const char *what,
                      struct err *e) MUST_USE;

/* inv_freq[hd/2] in float32 as transformers computes it, scaling applied
 * (formats.md 2). GGUF's rope_freqs divisors, when given (hd/2 floats), replace the
 * llama3 formula. */
void rope_inv_freq(float *inv_freq, const struct hparams *h, const float *divisors);

#endif
