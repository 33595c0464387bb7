/* weight.h - a matrix as it lies in a file: codes and, for the encodings that AWQ, GPTQ,
 * bitsandbytes and FP8 checkpoints use, up to three planes beside them. Planes stay in the
 * mapping, at any alignment. */
#ifndef PUNA_FORMAT_ENC_WEIGHT_H
#define PUNA_FORMAT_ENC_WEIGHT_H

#include "format/enc/act.h"
#include "format/enc/enc.h"
#include "format/enc/floats.h"

/* clang-format off */
/* encoding    data                           scale                zero
 * F8, INT8    [rows, cols] bytes             [rows/rg, cols/g]    -
 * PACKED4/8   [rows, cols*bits/32] words     [rows, cols/g]       [rows*bits/32, cols/g], or none
 * AWQ         [cols, rows/8] words           [cols/g, rows]       [cols/g, rows/8] words
 * GPTQ4/8     [cols*bits/32, rows] words     [cols/g, rows]       [cols/g, rows*bits/32] words
 * NF4, FP4    flat nibbles                   absmax of every g values; map, nested: bnb4.h
 * g is `group`, rg `row_group`; quotients are rounded up. */
/* clang-format on */
struct planes {
    const uint8_t *scale, *zero;
    enum enc scale_enc;      /* F32, F16 or BF16; U8: double quantisation */
    size_t group;            /* values that share a scale */
    size_t row_group;        /* F8: rows that share one */
    float scale_by;          /* factor of every scale (LLM.int8: 1 / 127) */
    bool zero_minus_one;     /* GPTQ, version 1 */
    const uint8_t *group_of; /* GPTQ with act-order: I32 [cols], the scale group of each input */
    const int32_t *order;    /* inputs sorted by group_of, for kernels; NULL = not prepared */
    const uint8_t *map;      /* NF4, FP4: F32 [16] */
    const uint8_t *nested_map, *nested_absmax; /* F32 [256], F32 [.] */
    size_t nested_group;
    float nested_offset;
    enum enc round; /* NF4, FP4: values are rounded to this */
    enum act act;
    float act_bound, act_scale; /* act.h; the scale of the file for ACT_*_STATIC */
    size_t act_group;           /* ACT_F8: inputs that share a scale */
};

/* y = x W^T, [rows = out, cols = in], or a vector (rows = 1). */
struct weight {
    enum enc enc;
    size_t rows, cols;
    const void *data; /* in the file's layout, at any alignment; NULL = absent */
    size_t row_bytes; /* 0: rows do not follow one another */
    const char *name; /* for messages; borrowed */
    struct planes p;  /* zeroes for encodings of one plane */
    void *placed;     /* a backend's copy (ops/backend.h); NULL = none */
    struct {
        size_t before, rows; /* of the weights that one product reads: rows before this one, in all;
                              * zeroes = it alone */
    } with;
};

/* Whether enc has planes: then enc_table's decode is NULL. */
bool enc_has_planes(enum enc enc);

/* Bits of a code of AWQ, GPTQ and PACKED, 0 for other encodings. */
unsigned planes_bits(enum enc enc);
/* The zero point of scale group g and output r, of the same. */
unsigned planes_zero(const struct weight *w, size_t g, size_t r);
/* Where their scale of that group and output lies in the plane: its number. */
size_t planes_scale_at(const struct weight *w, size_t g, size_t r);
/* Bytes of a matrix's codes; of the same encodings with scales and zero points, without act-order's
 * plane. */
size_t weight_bytes(const struct weight *w);

/* The truth of every encoding: row r, cols values. */
void weight_decode_row(float *y, const struct weight *w, size_t r);
/* One row of cols inputs as w's library sees it (p.act); y may be x. */
void weight_act(float *y, const struct weight *w, const float *x);
/* Whether inputs prepared for a serve b: same rule, same constants. */
bool weight_same_act(const struct weight *a, const struct weight *b);

/* Scale i of w's plane, times scale_by; not for double quantisation. */
static inline float planes_scale(const struct planes *p, size_t i)
{
    const float s = p->scale_enc == ENC_F32   ? f32_from_bits(enc_load32(p->scale + 4 * i))
                    : p->scale_enc == ENC_F16 ? f16_to_f32(enc_load16(p->scale + 2 * i))
                                              : bf16_to_f32(enc_load16(p->scale + 2 * i));

    return s * p->scale_by;
}

#endif
