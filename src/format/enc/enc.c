#include "format/enc/enc.h"

#include <strings.h>

#include "base/mem.h"
#include "format/enc/floats.h"
#include "format/enc/q4_0.h"
#include "format/enc/q4_1.h"
#include "format/enc/q4_k.h"
#include "format/enc/q5_0.h"
#include "format/enc/q5_1.h"
#include "format/enc/q5_k.h"
#include "format/enc/q6_k.h"
#include "format/enc/q8_0.h"

const struct enc_info enc_table[ENC_COUNT] = {
#define ENC(id, name, block, bytes, gguf, decode, encode) \
    [ENC_##id] = { name, block, bytes, gguf, decode, encode },
#include "format/enc/enc.def"
#undef ENC
};

bool enc_size(enum enc enc, uint64_t n, uint64_t cols, size_t *bytes)
{
    const struct enc_info *info = &enc_table[enc];

    if (cols % info->block || n % info->block)
        return false;
    return mul_ok(bytes, (size_t)(n / info->block), info->bytes);
}

int enc_from_gguf(uint32_t type)
{
    for (int i = 0; i < ENC_COUNT; i++)
        if (enc_table[i].gguf >= 0 && (uint32_t)enc_table[i].gguf == type)
            return i;
    return -1;
}

int enc_from_name(const char *name)
{
    for (int i = 0; i < ENC_COUNT; i++)
        if (!strcasecmp(enc_table[i].name, name))
            return i;
    return -1;
}
