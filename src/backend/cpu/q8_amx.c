/* q8_amx.c - the 8-bit products of kern.h on tiles, two panels of 16 weight rows at a time.
 *
 * A tile multiplies 64 bytes of a row, but sums must end with the group: tile A is 32 bytes of each
 * of 12 tokens as they lie, tile B the eight lines of a group's codes. The half that is idle costs
 * nothing: every 16 sums, a token and a panel, take the tile unit a cycle and the vector units, to
 * convert, multiply and multiply-add them, 1.5 on their two ports (2 with offsets). Twelve tokens
 * by two panels is what registers hold of float sums; that way a token's scale is fetched once for
 * two, and fetches (2 a cycle) are fewer than with whole tiles of 16 tokens for one panel.
 *
 * Sums reach the vector units through memory, half a hundred cycles after they were asked for. So
 * tiles are multiplied LEAD steps before they are scaled, across the ends of token tiles. */
#include <immintrin.h>

#include "backend/cpu/kern.h"

enum {
    TOKENS = 12, /* of a tile */
    LEAD = 3,    /* steps from a product to its use */
    RING = LEAD + 1,
    LINES = 8, /* of codes in a group */
    /* tokens below which vectors alone are faster: whole steps of 32 take 1.1 times as long with
     * tiles, of 48 0.9 */
    MANY = 40,
};

/* The layout that ldtilecfg reads. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
};

/* What a step multiplied: a group, or half of one where halves have scales of their own. */
struct step {
    int32_t sum[PANELS][TOKENS][LANES];
    float d[LANES], s[LANES]; /* of the tokens */
};

struct work {
    _Alignas(64) struct step ring[RING];
    int8_t code[PANELS][CHUNK][LINES][64]; /* told from the centre, hence signed */
    int8_t left[RING][TOKENS][GROUP];
};

/* Sums in tiles 0 and 1, tokens in 4, panels in 6 and 7. */
static void configure(size_t rows, const bool halves)
{
    _Alignas(64) struct tile_config c = { .palette = 1 };

    c.colsb[0] = c.colsb[1] = c.colsb[6] = c.colsb[7] = 64;
    c.rows[0] = c.rows[1] = c.rows[4] = (uint8_t)rows;
    c.colsb[4] = halves ? GROUP / 2 : GROUP;
    c.rows[6] = c.rows[7] = halves ? LINES / 2 : LINES;
    /* GCC's intrinsics do not say what memory they read and write */
    __asm__ volatile("" : : "r"(&c) : "memory");
    _tile_loadconfig(&c);
}

static void centre(struct work *k, const struct group *p, size_t P, size_t ng,
                   const enum codes kind)
{
    const __m512i of = _mm512_set1_epi8((char)code_centre(kind));

    for (size_t i = 0; i < P; i++)
        for (size_t g = 0; g < ng; g++)
            for (size_t c = 0; c < LINES; c++)
                _mm512_store_si512(
                    k->code[i][g][c],
                    _mm512_sub_epi8(_mm512_loadu_si512(p[i * CHUNK + g].code[c]), of));
}

/* rows of q, `apart` bytes from one another, times codes */
INLINE void multiply(struct step *to, const int8_t *q, size_t apart, const int8_t *code,
                     const int P)
{
    __asm__ volatile("" : : : "memory");
    _tile_loadd(4, q, apart);
    _tile_zero(0);
    _tile_loadd(6, code, 64);
    _tile_dpbssd(0, 4, 6);
    _tile_stored(0, to->sum[0], 64);
    if (P == 2) {
        _tile_zero(1);
        _tile_loadd(7, code + CHUNK * LINES * 64, 64);
        _tile_dpbssd(1, 4, 7);
        _tile_stored(1, to->sum[1], 64);
    }
    __asm__ volatile("" : : : "memory");
}

/* What all steps of a dot have in common. */
struct job {
    const struct group *p;
    const struct q8 *x;
    size_t g0, t0, T, rows, steps;
};

/* The step that is multiplied next. */
struct cursor {
    size_t token, left; /* of its tile; steps left there */
    const int8_t *q, *code;
    const float *d, *s;
    struct step *to;
};

/* The first token of the tile that begins with token t: the last tile is a whole one too, and has
 * some tokens of the one before once more. */
static inline size_t tile_at(const struct job *j, size_t t)
{
    return t + j->rows <= j->T ? t : j->T - j->rows;
}

static inline void point(struct cursor *c, const struct work *k, const struct job *j)
{
    const size_t t = j->t0 + tile_at(j, c->token), at = j->g0 * j->x->T + t;

    c->left = j->steps;
    c->q = j->x->q + t * j->x->K + j->g0 * GROUP;
    c->code = k->code[0][0][0];
    c->d = j->x->d + at;
    c->s = j->x->s + at;
}

INLINE struct step *after(struct work *k, struct step *s)
{
    return s == k->ring + RING - 1 ? k->ring : s + 1;
}

INLINE void issue(struct work *k, struct cursor *c, const struct job *j, const bool halves,
                  const bool offset, const int P)
{
    const __mmask16 m = (__mmask16)((1u << j->rows) - 1);
    const bool group_ends = !halves || c->left % 2;

    if (c->token >= j->T)
        return;
    multiply(c->to, c->q, j->x->K, c->code, P);
    _mm512_store_ps(c->to->d, _mm512_maskz_loadu_ps(m, c->d));
    if (offset)
        _mm512_store_ps(c->to->s, _mm512_maskz_loadu_ps(m, c->s));
    c->to = after(k, c->to);
    c->q += halves ? GROUP / 2 : GROUP;
    c->code += halves ? LINES / 2 * 64 : LINES * 64;
    if (group_ends) {
        c->d += j->x->T;
        c->s += j->x->T;
    }
    if (--c->left == 0) {
        c->token += j->rows;
        if (c->token < j->T)
            point(c, k, j);
    }
}

/* S >= rows tokens, S known to the compiler; acc as in dot_fn */
INLINE void tokens(float *acc, struct work *k, const struct job *j, const bool halves,
                   const bool offset, const int P, const int S)
{
    struct cursor next = { .to = k->ring };
    struct step *of = k->ring;

    point(&next, k, j);
    for (int i = 0; i < LEAD; i++)
        issue(k, &next, j, halves, offset, P);
    for (size_t token = 0; token < j->T; token += j->rows) {
        const size_t from = tile_at(j, token), again = token - from;
        float *at = acc + from * LANES;
        __m512 a[PANELS][TOKENS];

#pragma GCC unroll 12
        for (int t = 0; t < S; t++)
#pragma GCC unroll 2
            for (int i = 0; i < P; i++)
                a[i][t] = (size_t)t < j->rows
                              ? _mm512_loadu_ps(at + ((size_t)i * j->T + (size_t)t) * LANES)
                              : _mm512_setzero_ps();
        for (size_t step = 0; step < j->steps; step++) {
            const struct group *p = j->p + (halves ? step / 2 : step);
            const size_t h = halves ? step % 2 : 0;
            __m512 dw[PANELS], mw[PANELS];

            issue(k, &next, j, halves, offset, P);
#pragma GCC unroll 2
            for (int i = 0; i < P; i++) {
                dw[i] = _mm512_loadu_ps(p[i * CHUNK].d[h]);
                if (offset)
                    mw[i] = _mm512_loadu_ps(p[i * CHUNK].m[h]);
            }
#pragma GCC unroll 12
            for (int t = 0; t < S; t++) {
                const __m512 d = _mm512_set1_ps(of->d[t]);

#pragma GCC unroll 2
                for (int i = 0; i < P; i++) {
                    const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(of->sum[i][t]));

                    a[i][t] = _mm512_fmadd_ps(sum, _mm512_mul_ps(dw[i], d), a[i][t]);
                }
                if (offset) {
                    const __m512 s = _mm512_set1_ps(of->s[t]);

#pragma GCC unroll 2
                    for (int i = 0; i < P; i++)
                        a[i][t] = _mm512_fmadd_ps(mw[i], s, a[i][t]);
                }
            }
            of = after(k, of);
        }
#pragma GCC unroll 12
        for (int t = 0; t < S; t++)
#pragma GCC unroll 2
            for (int i = 0; i < P; i++)
                if ((size_t)t >= again && (size_t)t < j->rows)
                    _mm512_storeu_ps(at + ((size_t)i * j->T + (size_t)t) * LANES, a[i][t]);
    }
}

/* Remainders of a group, of tokens that lie anywhere. */
struct left {
    size_t g, n, token[TOKENS];
};

/* Batch b of remainders; it is scaled after the next was multiplied. */
INLINE void multiply_left(struct work *k, size_t b, const struct left *l, const struct job *j,
                          const bool halves, const int P)
{
    int8_t(*row)[GROUP] = k->left[b % 2];

    for (size_t n = 0; n < l->n; n++)
        memcpy(row[n], j->x->r + (j->t0 + l->token[n]) * j->x->K + (j->g0 + l->g) * GROUP, GROUP);
    multiply(&k->ring[2 * (b % 2)], row[0], GROUP, k->code[0][l->g][0], P);
    if (halves)
        multiply(&k->ring[2 * (b % 2) + 1], row[0] + GROUP / 2, GROUP, k->code[0][l->g][LINES / 2],
                 P);
}

INLINE void add_left(float *rest, const struct work *k, size_t b, const struct left *l,
                     const struct job *j, const bool halves, const int P)
{
    for (size_t h = 0; h < (halves ? 2 : 1); h++) {
        const struct step *of = &k->ring[2 * (b % 2) + h];

#pragma GCC unroll 1
        for (size_t n = 0; n < l->n; n++) {
            const size_t t = l->token[n];
            const __m512 e = _mm512_set1_ps(j->x->e[(j->g0 + l->g) * j->x->T + j->t0 + t]);

#pragma GCC unroll 2
            for (int i = 0; i < P; i++) {
                float *y = rest + ((size_t)i * j->T + t) * LANES;
                const __m512 d = _mm512_loadu_ps(j->p[(size_t)i * CHUNK + l->g].d[h]);
                const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(of->sum[i][n]));

                _mm512_storeu_ps(y, _mm512_fmadd_ps(sum, _mm512_mul_ps(d, e), _mm512_loadu_ps(y)));
            }
        }
    }
}

INLINE void left_over(float *rest, struct work *k, const struct job *j, size_t ng,
                      const bool halves, const int P)
{
    struct left l[2];
    size_t b = 0;

    for (size_t g = 0; g < ng; g++) {
        struct more_walk m = more_of(j->x, j->g0 + g, j->t0, j->T);
        size_t t;
        bool any = more_next(&m, &t);

        for (; any; b++) {
            struct left *to = &l[b % 2];

            to->g = g;
            for (to->n = 0; any && to->n < j->rows; any = more_next(&m, &t))
                to->token[to->n++] = t - j->t0;
            multiply_left(k, b, to, j, halves, P);
            if (b)
                add_left(rest, k, b - 1, &l[(b - 1) % 2], j, halves, P);
        }
    }
    if (b)
        add_left(rest, k, b - 1, &l[(b - 1) % 2], j, halves, P);
}

INLINE void dot_any(float *acc, float *rest, const struct group *p, size_t P, size_t ng,
                    const struct q8 *x, size_t g0, size_t t0, size_t T, const enum codes kind,
                    const bool offset)
{
    const bool halves = kind == CODES_HALVES;
    const size_t tiles = (T + TOKENS - 1) / TOKENS;
    const struct job j = { .p = p,
                           .x = x,
                           .g0 = g0,
                           .t0 = t0,
                           .T = T,
                           .rows = (T + tiles - 1) / tiles,
                           .steps = halves ? 2 * ng : ng };
    struct work k;

    centre(&k, p, P, ng, kind);
    configure(j.rows, halves);
    /* what a tile of fewer rows leaves there is scaled too, and dropped */
    if (j.rows % 4)
        memset(k.ring, 0, sizeof(k.ring));
    if (P == 2 && j.rows > 8)
        tokens(acc, &k, &j, halves, offset, 2, 12);
    else if (P == 2 && j.rows > 4)
        tokens(acc, &k, &j, halves, offset, 2, 8);
    else if (P == 2)
        tokens(acc, &k, &j, halves, offset, 2, 4);
    else if (j.rows > 4)
        tokens(acc, &k, &j, halves, offset, 1, 12);
    else
        tokens(acc, &k, &j, halves, offset, 1, 4);
    if (P == 2)
        left_over(rest, &k, &j, ng, halves, 2);
    else
        left_over(rest, &k, &j, ng, halves, 1);
    _tile_release();
}

#define DOT(name, kind, offset)                                                                    \
    static void name(float *acc, float *rest, const struct group *p, size_t P, size_t ng,          \
                     const struct q8 *x, size_t g0, size_t t0, size_t T)                           \
    {                                                                                              \
        dot_any(acc, rest, p, P, ng, x, g0, t0, T, kind, offset);                                  \
    }
DOT(dot_8, CODES_8, false)
DOT(dot_8m, CODES_8, true)
DOT(dot_5, CODES_5, false)
DOT(dot_5m, CODES_5, true)
DOT(dot_4, CODES_4, false)
DOT(dot_4m, CODES_4, true)
DOT(dot_halves, CODES_HALVES, false)

void cpu_kern_q8_amx(struct cpu_kern *k)
{
    k->many = MANY;
    k->dot_many[CODES_8][0] = dot_8;
    k->dot_many[CODES_8][1] = dot_8m;
    k->dot_many[CODES_5][0] = dot_5;
    k->dot_many[CODES_5][1] = dot_5m;
    k->dot_many[CODES_4][0] = dot_4;
    k->dot_many[CODES_4][1] = dot_4m;
    k->dot_many[CODES_HALVES][0] = dot_halves;
    for (int i = 0; i < ENC_COUNT; i++)
        if (k->placed[i].most >= MANY)
            k->placed[i].most = MANY - 1;
}
