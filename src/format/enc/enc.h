/* enc.h - how bytes mean numbers. One line of enc.def is one encoding.
 *
 * A row of `n` values is n / block blocks of `bytes` bytes, without padding;
 * rows follow one another. Encodings whose scales live in tensors of their own
 * (AWQ, GPTQ, NF4 ...) have no such row: weight.h decodes them. */
#ifndef PUNA_FORMAT_ENC_ENC_H
#define PUNA_FORMAT_ENC_ENC_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/num.h"

enum enc {
#define ENC(id, name, block, bytes, gguf, decode, encode) ENC_##id,
#include "format/enc/enc.def"
#undef ENC
    ENC_COUNT
};

struct enc_info {
    const char *name;   /* as users write it: "q4_0", "bf16" */
    unsigned block;     /* values per block */
    unsigned bytes;     /* bytes per block */
    int gguf;           /* GGUF tensor type, -1 = none */
    /* Decodes / encodes n values (a multiple of block). Sources may be at any
     * address: nothing assumes alignment. decode is NULL for a storage type that
     * holds no weights (i64, bool ...); encode is NULL where puna cannot write it yet. */
    void (*decode)(float *y, const void *blocks, size_t n);
    void (*encode)(void *blocks, const float *x, size_t n);
};

extern const struct enc_info enc_table[ENC_COUNT];

/* Bytes of a row-major tensor of `n` values whose fastest axis has `cols`.
 * false: cols is no multiple of the block, or the size overflows. */
bool enc_size(enum enc enc, uint64_t n, uint64_t cols, size_t *bytes);
/* The encoding of a GGUF type id, or -1. */
int enc_from_gguf(uint32_t type);
/* The encoding by name, case ignored, or -1. */
int enc_from_name(const char *name);

#endif
