/* kv.c - memory of the key-value cache. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/llama.h"

/* bytes of K (or of V) of one layer; false on overflow */
static bool plane_bytes(const struct hparams *hp, enum enc enc, size_t blocks, size_t *out)
{
    const size_t row = kv_row_bytes(enc, (size_t)hp->head_dim);

    return mul_ok(out, (size_t)hp->kv_heads * KV_BLOCK * row, blocks);
}

int kv_from_name(const char *name)
{
    static const enum enc types[] = { ENC_F32, ENC_F16, ENC_BF16, ENC_Q8_0 };

    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (!strcmp(name, enc_table[types[i]].name))
            return (int)types[i];
    return strcmp(name, "fp8") ? -1 : (int)ENC_F8_E4M3;
}

size_t kv_bytes(const struct hparams *hp, enum enc enc, size_t blocks)
{
    size_t n;

    if (!plane_bytes(hp, enc, blocks, &n) || !mul_ok(&n, n, 2 * (size_t)hp->layers))
        return SIZE_MAX;
    return n;
}

int kv_new(struct kv_cache *kv, struct ctx *c, const struct hparams *hp, enum enc enc,
           size_t blocks, struct err *e)
{
    size_t bytes;
    void *p;

    if (!plane_bytes(hp, enc, blocks, &bytes))
        return err_set(e, ERR_MEMORY, "KV cache of %zu blocks cannot be addressed", blocks);
    struct kv_cache k = { .enc = enc,
                          .kv_heads = (size_t)hp->kv_heads,
                          .head_dim = (size_t)hp->head_dim,
                          .blocks = blocks,
                          .layers = (size_t)hp->layers,
                          .on = c };

    if (mem_new(&p, k.layers, sizeof(*k.layer), "KV cache", e))
        return -1;
    k.layer = p;
    for (size_t l = 0; l < k.layers; l++) {
        if (c->be->alloc(c, &k.layer[l].k, bytes, "KV cache", e) ||
            c->be->alloc(c, &k.layer[l].v, bytes, "KV cache", e)) {
            kv_release(&k);
            return -1;
        }
    }
    *kv = k;
    return 0;
}

void kv_release(struct kv_cache *kv)
{
    const size_t bytes = kv->kv_heads * KV_BLOCK * kv_row_bytes(kv->enc, kv->head_dim) * kv->blocks;

    for (size_t l = 0; kv->layer && l < kv->layers; l++) {
        kv->on->be->release(kv->on, kv->layer[l].k, bytes);
        kv->on->be->release(kv->on, kv->layer[l].v, bytes);
    }
    free(kv->layer);
    *kv = (struct kv_cache){ 0 };
}
