#include "backend/cpu/kern.h"

struct lanes {
    float f[16];
};
#define v16 struct lanes

#define LANEWISE(expr)                                                                             \
    v16 o;                                                                                         \
    for (int i = 0; i < 16; i++)                                                                   \
        o.f[i] = (expr);                                                                           \
    return o

static inline v16 v_set1(float a)
{
    LANEWISE(a);
}
static inline v16 v_load(const float *p)
{
    LANEWISE(p[i]);
}
static inline v16 v_add(v16 a, v16 b)
{
    LANEWISE(a.f[i] + b.f[i]);
}
static inline v16 v_sub(v16 a, v16 b)
{
    LANEWISE(a.f[i] - b.f[i]);
}
static inline v16 v_mul(v16 a, v16 b)
{
    LANEWISE(a.f[i] * b.f[i]);
}
static inline v16 v_div(v16 a, v16 b)
{
    LANEWISE(a.f[i] / b.f[i]);
}
static inline v16 v_max(v16 a, v16 b)
{
    LANEWISE(a.f[i] > b.f[i] ? a.f[i] : b.f[i]);
}
static inline v16 v_min(v16 a, v16 b)
{
    LANEWISE(a.f[i] < b.f[i] ? a.f[i] : b.f[i]);
}
/* no fused multiply-add here: the C library would emulate it, slowly */
static inline v16 v_fma(v16 a, v16 b, v16 c)
{
    LANEWISE(a.f[i] * b.f[i] + c.f[i]);
}
static inline v16 v_abs(v16 a)
{
    LANEWISE(__builtin_fabsf(a.f[i]));
}
static inline v16 v_round(v16 a)
{
    LANEWISE(__builtin_rintf(a.f[i]));
}

static inline v16 v_ldexp(v16 a, v16 n)
{
    LANEWISE(a.f[i] * f32_from_bits((uint32_t)((int)n.f[i] + 127) << 23));
}

static inline void v_store(float *p, v16 a)
{
    memcpy(p, a.f, sizeof(a.f));
}

static inline v16 v_load_f16(const uint8_t *p)
{
    f16 h[16];

    memcpy(h, p, sizeof(h));
    LANEWISE(f16_to_f32(h[i]));
}

static inline v16 v_load_bf16(const uint8_t *p)
{
    bf16 h[16];

    memcpy(h, p, sizeof(h));
    LANEWISE(bf16_to_f32(h[i]));
}

static inline v16 v_load_i8(const int8_t *p)
{
    LANEWISE((float)p[i]);
}

static inline float v_one_f16(const uint8_t p[2]) { return f16_to_f32((f16)(p[0] | p[1] << 8)); }

static inline float v_sum(v16 a)
{
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++)
            a.f[i] += a.f[i + n];
    return a.f[0];
}

static inline void v_sum4(float *out, const v16 x[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = v_sum(x[i]);
}

static inline float v_hmax(v16 a)
{
    for (int i = 1; i < 16; i++)
        a.f[0] = a.f[i] > a.f[0] ? a.f[i] : a.f[0];
    return a.f[0];
}

/* rounds to nearest even, stores 16 bytes, returns their sum; |a| <= 127 unless a is no number */
static inline int v_to_i8(int8_t *p, v16 a)
{
    int sum = 0;

    for (int i = 0; i < 16; i++) {
        const float r = __builtin_rintf(a.f[i]);

        p[i] = r >= -128 && r <= 127 ? (int8_t)r : (int8_t)-128;
        sum += p[i];
    }
    return sum;
}

/* rows and tokens whose sums fit the registers */
enum { DOT_R = 4, DOT_S = 4 };
/* attention: vectors of four slots, slots and vectors of a value whose sums do */
enum { ATTN_QUADS = 1, ATTN_SLOTS = 2, ATTN_VECTORS = 1 };

/* The four-lanes of four vectors as columns: lane r of x[d] is what lane d of x[r] was. */
static inline void v_turn4(v16 x[4])
{
    v16 t[4];

    for (int d = 0; d < 4; d++)
        for (int i = 0; i < 16; i++)
            t[d].f[i] = x[i / 4].f[4 * d + i % 4];
    memcpy(x, t, sizeof(t));
}
/* The same of four rows of the cache, `apart` bytes from one another; of bytes, times d. */
static inline void v_turn4_f16(v16 x[4], const uint8_t *p, size_t apart)
{
    for (size_t r = 0; r < 4; r++)
        x[r] = v_load_f16(p + r * apart);
    v_turn4(x);
}
static inline void v_turn4_bf16(v16 x[4], const uint8_t *p, size_t apart)
{
    for (size_t r = 0; r < 4; r++)
        x[r] = v_load_bf16(p + r * apart);
    v_turn4(x);
}
static inline void v_turn4_i8(v16 x[4], const int8_t *p, size_t apart, const float d[4])
{
    for (size_t r = 0; r < 4; r++)
        x[r] = v_mul(v_load_i8(p + r * apart), v_set1(d[r]));
    v_turn4(x);
}
static inline v16 v_held(v16 x) { return x; }
/* four-lanes 2 3 0 1, and 1 0 3 2 */
static inline v16 v_far(v16 a)
{
    LANEWISE(a.f[i ^ 8]);
}
static inline v16 v_near(v16 a)
{
    LANEWISE(a.f[i ^ 4]);
}
/* element a of four-lane r is the sum of lane r of x[a], (0 + 2) + (1 + 3) */
static inline v16 v_quad_sum(const v16 x[4])
{
    LANEWISE((x[i % 4].f[i / 4 * 4] + x[i % 4].f[i / 4 * 4 + 2]) +
             (x[i % 4].f[i / 4 * 4 + 1] + x[i % 4].f[i / 4 * 4 + 3]));
}

#include "backend/cpu/kern.inc"

#include "backend/cpu/scalar_lanes.inc"

enum { GEMM_R = 4, GEMM_FEW = 2 };

#include "backend/cpu/train.inc"

#include "backend/cpu/encoder.inc"

/* Sums of (code - centre) * q of row r, by halves. */
static void sums(int sum[2], const struct group *p, int r, const int8_t *q, int centre)
{
    sum[0] = sum[1] = 0;
    for (int c = 0; c < 8; c++)
        for (int i = 0; i < 4; i++)
            sum[c / 4] += (p->code[c][4 * r + i] - centre) * q[4 * c + i];
}

/* The chains of kern.h, value by value. */
static void dot_any(float *acc, float *rest, const struct group *p, size_t ng, const struct q8 *x,
                    size_t g0, size_t t0, size_t T, const enum codes kind)
{
    for (size_t t = 0; t < T; t++, acc += LANES, rest += LANES) {
        for (size_t g = 0; g < ng; g++) {
            const size_t at = (g0 + g) * x->T + t0 + t, from = (t0 + t) * x->K + (g0 + g) * GROUP;

            for (int r = 0; r < LANES; r++) {
                int q[2], left[2] = { 0, 0 };

                sums(q, p + g, r, x->q + from, code_centre(kind));
                if (x->e[at] != 0)
                    sums(left, p + g, r, x->r + from, code_centre(kind));
                if (kind != CODES_HALVES) {
                    acc[r] = fmaf((float)(q[0] + q[1]), p[g].d[0][r] * x->d[at], acc[r]);
                    acc[r] = fmaf(p[g].m[0][r], x->s[at], acc[r]);
                    rest[r] = fmaf((float)(left[0] + left[1]), p[g].d[0][r] * x->e[at], rest[r]);
                }
                for (size_t i = 0; kind == CODES_HALVES && i < 2; i++) {
                    acc[r] = fmaf((float)q[i], p[g].d[i][r] * x->d[at], acc[r]);
                    rest[r] = fmaf((float)left[i], p[g].d[i][r] * x->e[at], rest[r]);
                }
            }
        }
    }
}

#define DOT(name, kind)                                                                            \
    static void name(float *acc, float *rest, const struct group *p, size_t P, size_t ng,          \
                     const struct q8 *x, size_t g0, size_t t0, size_t T)                           \
    {                                                                                              \
        for (size_t i = 0; i < P; i++)                                                             \
            dot_any(acc + i * T * LANES, rest + i * T * LANES, p + i * CHUNK, ng, x, g0, t0, T,    \
                    kind);                                                                         \
    }
DOT(dot_8, CODES_8)
DOT(dot_5, CODES_5)
DOT(dot_4, CODES_4)
DOT(dot_halves, CODES_HALVES)

void cpu_kern_generic(struct cpu_kern *k)
{
    *k = (struct cpu_kern){
        .dot = { { dot_8, dot_8 }, { dot_5, dot_5 }, { dot_4, dot_4 }, { dot_halves, dot_halves } },
        .panels = 1,
        .many = SIZE_MAX,
    };
    cpu_kern_unpack(k);
    cpu_kern_planes(k);
    cpu_kern_nf4(k);
    fill_floats(k);
    fill_train(k);
    fill_encoder(k);
}
