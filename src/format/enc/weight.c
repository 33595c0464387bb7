#include "format/enc/weight.h"

#include "format/enc/awq.h"
#include "format/enc/bnb4.h"
#include "format/enc/gptq.h"
#include "format/enc/packed.h"

bool enc_has_planes(enum enc enc)
{
    switch (enc) {
    case ENC_AWQ:
    case ENC_F8:
    case ENC_FP4:
    case ENC_GPTQ4:
    case ENC_GPTQ8:
    case ENC_INT8:
    case ENC_NF4:
    case ENC_PACKED4:
    case ENC_PACKED8:
        return true;
    default:
        return false;
    }
}

unsigned planes_bits(enum enc enc)
{
    switch (enc) {
    case ENC_AWQ:
    case ENC_GPTQ4:
    case ENC_PACKED4:
        return 4;
    case ENC_GPTQ8:
    case ENC_PACKED8:
        return 8;
    default:
        return 0;
    }
}

static size_t groups(const struct weight *w)
{
    return (w->cols + w->p.group - 1) / w->p.group;
}

unsigned planes_zero(const struct weight *w, size_t g, size_t r)
{
    const struct planes *p = &w->p;
    const unsigned bits = planes_bits(w->enc);

    switch (w->enc) {
    case ENC_AWQ:
        return awq_code(p->zero, w->rows, g, r);
    case ENC_GPTQ4:
    case ENC_GPTQ8:
        return gptq_zero(p->zero, bits, w->rows, g, r, p->zero_minus_one);
    case ENC_PACKED4:
    case ENC_PACKED8:
        return packed_zero(p->zero, bits, groups(w), r, g);
    default:
        BUG("no zero points");
    }
}

size_t planes_scale_at(const struct weight *w, size_t g, size_t r)
{
    const bool by_row = w->enc == ENC_PACKED4 || w->enc == ENC_PACKED8;

    return by_row ? r * groups(w) + g : g * w->rows + r;
}

size_t weight_bytes(const struct weight *w)
{
    const size_t bits = planes_bits(w->enc);

    if (w->enc == ENC_NF4 || w->enc == ENC_FP4)
        return w->rows * w->cols / 2;
    if (!bits)
        return w->rows * w->row_bytes;
    const size_t each = 8 * enc_table[w->p.scale_enc].bytes + (w->p.zero ? bits : 0);

    return w->rows * (w->cols * bits + groups(w) * each) / 8;
}

static void scaled_row(float *y, const struct weight *w, size_t r)
{
    const struct planes *p = &w->p;
    const uint8_t *q = (const uint8_t *)w->data + r * w->row_bytes;
    const size_t per_row = (w->cols + p->group - 1) / p->group;

    for (size_t g = 0; g < per_row; g++) {
        const float s = planes_scale(p, r / p->row_group * per_row + g);
        const size_t end = (g + 1) * p->group < w->cols ? (g + 1) * p->group : w->cols;

        for (size_t i = g * p->group; i < end; i++)
            y[i] = (w->enc == ENC_F8 ? f8_e4m3_to_f32(q[i]) : (float)(int8_t)q[i]) * s;
    }
}

static void awq_row(float *y, const struct weight *w, size_t r)
{
    const struct planes *p = &w->p;

    for (size_t i = 0; i < w->cols; i++) {
        const size_t g = i / p->group;
        const int q = (int)awq_code(w->data, w->rows, i, r) - (int)awq_code(p->zero, w->rows, g, r);

        y[i] = (float)q * planes_scale(p, g * w->rows + r);
    }
}

static void gptq_row(float *y, const struct weight *w, size_t r)
{
    const struct planes *p = &w->p;
    const unsigned bits = planes_bits(w->enc);

    for (size_t i = 0; i < w->cols; i++) {
        const size_t g = p->group_of ? enc_load32(p->group_of + 4 * i) : i / p->group;
        const int q = (int)gptq_code(w->data, bits, w->rows, i, r) -
                      (int)gptq_zero(p->zero, bits, w->rows, g, r, p->zero_minus_one);

        y[i] = (float)q * planes_scale(p, g * w->rows + r);
    }
}

static void packed_row(float *y, const struct weight *w, size_t r)
{
    const struct planes *p = &w->p;
    const unsigned bits = planes_bits(w->enc);
    const uint8_t *row = (const uint8_t *)w->data + r * w->row_bytes;
    const size_t G = groups(w);

    for (size_t i = 0; i < w->cols; i++) {
        const size_t g = p->group_of ? enc_load32(p->group_of + 4 * i) : i / p->group;
        const int q = (int)packed_code(row, bits, i) - (int)packed_zero(p->zero, bits, G, r, g);

        y[i] = (float)q * planes_scale(p, r * G + g);
    }
}

static float round_to(enum enc enc, float f)
{
    return enc == ENC_BF16  ? bf16_to_f32(f32_to_bf16(f))
           : enc == ENC_F16 ? f16_to_f32(f32_to_f16(f))
                            : f;
}

static void bnb4_row(float *y, const struct weight *w, size_t r)
{
    const struct planes *p = &w->p;

    for (size_t i = 0; i < w->cols; i++) {
        const size_t k = r * w->cols + i, block = k / p->group;
        const float absmax = p->scale_enc == ENC_U8
                                 ? bnb4_nested(p->scale, p->nested_map, p->nested_absmax,
                                               p->nested_group, p->nested_offset, block)
                                 : planes_scale(p, block);

        y[i] = round_to(p->round, enc_loadf(p->map + 4 * bnb4_code(w->data, k)) * absmax);
    }
}

void weight_decode_row(float *y, const struct weight *w, size_t r)
{
    switch (w->enc) {
    case ENC_AWQ:
        awq_row(y, w, r);
        break;
    case ENC_F8:
    case ENC_INT8:
        scaled_row(y, w, r);
        break;
    case ENC_GPTQ4:
    case ENC_GPTQ8:
        gptq_row(y, w, r);
        break;
    case ENC_PACKED4:
    case ENC_PACKED8:
        packed_row(y, w, r);
        break;
    case ENC_FP4:
    case ENC_NF4:
        bnb4_row(y, w, r);
        break;
    default:
        enc_table[w->enc].decode(y, (const uint8_t *)w->data + r * w->row_bytes, w->cols);
    }
}

void weight_act(float *y, const struct weight *w, const float *x)
{
    const struct planes *p = &w->p;
    const size_t group = p->act == ACT_F8 ? p->act_group : w->cols;

    for (size_t at = 0; at < w->cols; at += group) {
        const size_t end = at + group < w->cols ? at + group : w->cols;
        float max = 0;

        for (size_t i = at; i < end; i++) {
            const float a = act_magnitude(p->act, p->act_bound, x[i]);

            max = a > max ? a : max;
        }
        const float s = act_scale(p->act, p->act_bound, p->act_scale, max);

        for (size_t i = at; i < end; i++)
            y[i] = act_round(p->act, p->act_bound, s, x[i]);
    }
}

bool weight_same_act(const struct weight *a, const struct weight *b)
{
    const struct planes *p = &a->p, *q = &b->p;

    return p->act == q->act && p->act_bound == q->act_bound && p->act_scale == q->act_scale &&
           p->act_group == q->act_group;
}
