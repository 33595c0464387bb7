/* Any bytes as an adapter: adapter_config.json up to the first NUL, then adapter_model.safetensors.
 * seeds: tests/data/adapters/final/adapter_config.json */
#include <string.h>

#include "format/peft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    const size_t n = nul ? (size_t)(nul - data) : size;
    struct err e = { 0 };
    struct peft *p;

    if (peft_open_mem(&p, data, n, nul ? nul + 1 : data + size, nul ? size - n - 1 : 0, "fuzz", &e))
        return 0;
    for (size_t i = 0; i < peft_modules(p); i++) {
        const struct peft_module *m = peft_module(p, i);

        if (!m->a != !m->b || (!m->a && !m->weight && !m->tokens) ||
            (m->a && (m->a->shape[0] != m->b->shape[1] || !enc_table[m->a->enc].decode)) ||
            (m->magnitude && m->magnitude->shape[0] != m->b->shape[0]) ||
            (m->tokens && !m->token))
            __builtin_trap();
    }
    peft_close(p);
    return 0;
}
