#include "planes.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "support.h"

const struct plane_kind plane_kinds[] = {
    { .name = "awq", .enc = ENC_AWQ, .scale_enc = ENC_F16, .group = 128 },
    { .name = "awq g32 bf16", .enc = ENC_AWQ, .scale_enc = ENC_BF16, .group = 32 },
    { .name = "awq g16", .enc = ENC_AWQ, .scale_enc = ENC_F16, .group = 16 },
    { .name = "gptq4 v1", .enc = ENC_GPTQ4, .scale_enc = ENC_F16, .group = 128, .minus_one = true },
    { .name = "gptq4 v2", .enc = ENC_GPTQ4, .scale_enc = ENC_F32, .group = 64 },
    { .name = "gptq4 column", .enc = ENC_GPTQ4, .scale_enc = ENC_F16, .minus_one = true },
    { .name = "gptq4 act-order",
      .enc = ENC_GPTQ4,
      .scale_enc = ENC_F16,
      .group = 32,
      .minus_one = true,
      .act_order = true },
    { .name = "gptq8", .enc = ENC_GPTQ8, .scale_enc = ENC_F16, .group = 128, .minus_one = true },
    { .name = "gptq8 act-order",
      .enc = ENC_GPTQ8,
      .scale_enc = ENC_BF16,
      .group = 64,
      .act_order = true },
    { .name = "packed4", .enc = ENC_PACKED4, .scale_enc = ENC_BF16, .group = 128, .zeros = true },
    { .name = "packed4 symmetric", .enc = ENC_PACKED4, .scale_enc = ENC_F32 },
    { .name = "packed4 act-order",
      .enc = ENC_PACKED4,
      .scale_enc = ENC_F16,
      .group = 64,
      .act_order = true },
    { .name = "packed4 g24", .enc = ENC_PACKED4, .scale_enc = ENC_F16, .group = 24, .zeros = true },
    { .name = "packed8", .enc = ENC_PACKED8, .scale_enc = ENC_BF16, .group = 32, .zeros = true },
    { .name = "fp8 rows",
      .enc = ENC_F8,
      .scale_enc = ENC_F32,
      .row_group = 1,
      .act = ACT_F8,
      .bound = 0.9f },
    { .name = "fp8 tensor", .enc = ENC_F8, .scale_enc = ENC_BF16, .act = ACT_F8_STATIC },
    { .name = "fp8 blocks",
      .enc = ENC_F8,
      .scale_enc = ENC_F32,
      .group = 128,
      .row_group = 128,
      .act = ACT_F8,
      .bound = 1e30f,
      .act_group = 128 },
    { .name = "fp8 weights", .enc = ENC_F8, .scale_enc = ENC_F32, .row_group = 1 },
    { .name = "int8",
      .enc = ENC_INT8,
      .scale_enc = ENC_F32,
      .row_group = 1,
      .act = ACT_BNB8,
      .bound = 0.9f },
    { .name = "int8 rows", .enc = ENC_INT8, .scale_enc = ENC_BF16, .row_group = 1, .act = ACT_I8 },
    { .name = "int8 tensor", .enc = ENC_INT8, .scale_enc = ENC_F32, .act = ACT_I8_STATIC },
    { .name = "nf4", .enc = ENC_NF4, .scale_enc = ENC_F32, .group = 64 },
    { .name = "nf4 f16", .enc = ENC_NF4, .scale_enc = ENC_F32, .group = 64, .round = ENC_F16 },
    { .name = "nf4 f32", .enc = ENC_NF4, .scale_enc = ENC_F32, .group = 64, .round = ENC_F32 },
    { .name = "nf4 g128", .enc = ENC_NF4, .scale_enc = ENC_F32, .group = 128 },
    { .name = "nf4 double", .enc = ENC_NF4, .scale_enc = ENC_U8, .group = 64, .nested = true },
    { .name = "nf4 double g128",
      .enc = ENC_NF4,
      .scale_enc = ENC_U8,
      .group = 128,
      .nested = true },
    { .name = "fp4", .enc = ENC_FP4, .scale_enc = ENC_F32, .group = 64 },
};
const size_t plane_kinds_n = ARRAY_LEN(plane_kinds);

static uint8_t *bytes(size_t n, uint64_t seed)
{
    uint8_t *p = xmalloc(n + 2);

    for (size_t i = 0; i < n + 2; i++)
        p[i] = (uint8_t)(rng_uniform(seed, i) * 256);
    return p;
}

/* Positive numbers of about 0.01 in enc. */
static uint8_t *scales(enum enc enc, size_t n, uint64_t seed)
{
    uint8_t *p = xmalloc(4 * n + 1);

    for (size_t i = 0; i < n; i++) {
        const float f = 0.005f + 0.01f * (float)rng_uniform(seed, i);

        enc_table[enc].encode(p + 1 + i * enc_table[enc].bytes, &f, 1);
    }
    return p;
}

/* Groups of k->group inputs in a random order, and the order that sorts them. */
static void shuffle(struct planes_owned *o, size_t cols, size_t group)
{
    size_t *at = xcalloc(cols, sizeof(*at)), n = 0;

    o->group_of = xmalloc(4 * cols + 1);
    o->order = xcalloc(cols, sizeof(*o->order));
    for (size_t i = 0; i < cols; i++)
        at[i] = i;
    for (size_t i = cols - 1; i > 0; i--) {
        const size_t k = (size_t)(rng_uniform(5, i) * (double)(i + 1)), t = at[i];

        at[i] = at[k];
        at[k] = t;
    }
    for (size_t i = 0; i < cols; i++) {
        const uint32_t g = (uint32_t)(at[i] / group);

        memcpy(o->group_of + 1 + 4 * i, &g, 4);
    }
    for (size_t g = 0; g * group < cols; g++)
        for (size_t i = 0; i < cols; i++)
            if (at[i] / group == g)
                o->order[n++] = (int32_t)i;
    free(at);
}

struct weight planes_new(const struct plane_kind *k, size_t rows, size_t cols,
                         struct planes_owned *o)
{
    const size_t group = k->group ? k->group : cols, G = (cols + group - 1) / group;
    const size_t row_group = k->row_group ? k->row_group : rows;
    const bool flat = k->enc == ENC_NF4 || k->enc == ENC_FP4;
    const bool packed = k->enc == ENC_PACKED4 || k->enc == ENC_PACKED8;
    const bool rowwise = k->enc == ENC_F8 || k->enc == ENC_INT8;
    const size_t n_scales = flat      ? (rows * cols + group - 1) / group
                            : rowwise ? (rows + row_group - 1) / row_group * G
                                      : G * rows;

    *o = (struct planes_owned){ .codes = bytes(rows * cols, 3), .zero = bytes(G * rows, 4) };
    for (size_t i = 0; rowwise && i < rows * cols + 1; i++)
        o->codes[i] = k->enc == ENC_F8 && (o->codes[i] & 127) == 127 ? 0 : o->codes[i];
    if (k->nested) {
        o->scale = bytes(n_scales, 5);
        o->nested_map = scales(ENC_F32, 256, 6);
        o->nested_absmax = scales(ENC_F32, (n_scales + 255) / 256, 7);
    } else {
        o->scale = scales(k->scale_enc, n_scales, 5);
    }
    if (flat)
        o->map = xmalloc(4 * 16 + 1);
    for (size_t i = 0; flat && i < 16; i++) {
        const float x = (float)i / 7.5f - 1, by = (float)rng_uniform(8, i);
        /* near a line, as NF4's are, or far from it */
        const float f = k->enc == ENC_NF4 ? x * (0.7f + 0.3f * x * x) + 0.01f * by : 2 * by - 1;

        memcpy(o->map + 1 + 4 * i, &f, sizeof(f));
    }
    if (k->act_order)
        shuffle(o, cols, group);
    return (struct weight){ .enc = k->enc,
                            .rows = rows,
                            .cols = cols,
                            .data = o->codes + 1,
                            .name = k->name,
                            .row_bytes = rowwise || k->enc == ENC_PACKED8 ? cols
                                         : packed                         ? cols / 2
                                                                          : 0,
                            .p = { .scale = o->scale + 1,
                                   .zero = packed && !k->zeros ? NULL : o->zero + 1,
                                   .scale_enc = k->scale_enc,
                                   .group = group,
                                   .row_group = row_group,
                                   .scale_by = 0.75f,
                                   .zero_minus_one = k->minus_one,
                                   .order = o->order,
                                   .group_of = o->group_of ? o->group_of + 1 : NULL,
                                   .map = o->map ? o->map + 1 : NULL,
                                   .nested_map = o->nested_map ? o->nested_map + 1 : NULL,
                                   .nested_absmax = o->nested_absmax ? o->nested_absmax + 1 : NULL,
                                   .nested_group = 256,
                                   .nested_offset = 0.01f,
                                   .round = k->round ? k->round : ENC_BF16,
                                   .act = k->act,
                                   .act_bound = k->bound,
                                   .act_scale = 0.01f,
                                   .act_group = k->act_group ? k->act_group : cols } };
}

void planes_release(struct planes_owned *o)
{
    free(o->codes);
    free(o->scale);
    free(o->zero);
    free(o->group_of);
    free(o->map);
    free(o->nested_map);
    free(o->nested_absmax);
    free(o->order);
}

static void put_scale(uint8_t *p, size_t i)
{
    const f16 d = f32_to_f16(0.005f + 0.001f * (float)(i % 11));

    memcpy(p, &d, 2);
}

struct weight plain(enum enc enc, size_t rows, size_t cols, void **owned)
{
    const struct enc_info *info = &enc_table[enc];
    struct weight w = { .enc = enc, .rows = rows, .cols = cols, .name = info->name };

    w.row_bytes = cols / info->block * info->bytes;
    uint8_t *p = xmalloc(rows * w.row_bytes + 1);
    float *x = random_floats(rows * cols, 7 + rows * cols);

    if (info->encode)
        info->encode(p, x, rows * cols);
    else
        for (size_t i = 0; i < rows * w.row_bytes; i++)
            p[i] = (uint8_t)(rng_uniform(3, i) * 256);
    for (size_t i = 0; !info->encode && i < rows * cols / info->block; i++) {
        uint8_t *b = p + i * info->bytes;

        put_scale(enc == ENC_Q6_K ? b + 208 : b, i);
        if (enc != ENC_Q6_K)
            put_scale(b + 2, i + 5);
    }
    free(x);
    w.data = p;
    *owned = p;
    return w;
}

struct weight weight_of(enum enc enc, size_t rows, size_t cols, struct planes_owned *o)
{
    const struct plane_kind *k = plane_kinds;
    const bool planes = enc == ENC_F8 || enc == ENC_NF4;

    while (planes && (k->enc != enc || (enc == ENC_F8 ? k->act != ACT_F8 : k->round != ENC_F32)))
        k++;
    return planes ? planes_new(k, rows, cols, o) : plain(enc, rows, cols, (void *)&o->codes);
}
