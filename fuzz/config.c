/* Any bytes as config.json, params.json and generation_config.json: what is accepted gives finite
 * frequencies, and sizes whose products fit.
 * seeds: tests/data/tiny-llama31/config.json tests/data/tiny-llama31/generation_config.json */
#include <float.h>

#include "base/json.h"
#include "base/mem.h"
#include "format/hparams.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct hparams *h)
{
    float inv_freq[2048];
    size_t n;

    if (h->head_dim > 4096 || h->heads % h->kv_heads || h->n_eos > HPARAMS_MAX_EOS ||
        !mul_ok(&n, (size_t)(h->vocab * h->dim), 8) ||
        !mul_ok(&n, (size_t)(h->ffn * h->dim), 8 * 512) ||
        !mul_ok(&n, (size_t)(h->heads * h->head_dim), (size_t)h->dim * 8 * 512))
        __builtin_trap();
    rope_inv_freq(inv_freq, h, NULL);
    for (int64_t i = 0; i < h->head_dim / 2; i++)
        if (!(inv_freq[i] >= 0 && inv_freq[i] <= FLT_MAX))
            __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = { 0 };
    struct gen_defaults d;
    struct hparams h;
    json_t *j;

    if (json_parse(&j, (const char *)data, size, "fuzz", &e))
        return 0;
    if (hparams_from_config(&h, j, "fuzz", &e) == 0)
        use(&h);
    if (hparams_from_params(&h, j, "fuzz", &e) == 0)
        use(&h);
    if (gen_defaults_read(&d, j, "fuzz", &e) == 0 && (d.temperature < 0 || d.top_p > 1))
        __builtin_trap();
    json_decref(j);
    return 0;
}
