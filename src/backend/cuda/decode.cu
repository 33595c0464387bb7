/* decode.cu - attention of many rows, each of a sequence of its own or nearly so, on the tensor cores:
 * decoding of large batches, which is bound by reading the cache. Heads of 64 or 128 values, at most
 * 8 query heads to a kv head; bf16, f16 or E4M3 cache.
 *
 * A block has a row, a kv head with all its query heads, and a span of slots (attn.cuh); a warp has
 * every fourth tile of them. Keys go from memory to the registers of the product's 16 x 16 operand as
 * they lie, 16 bytes a lane, for the order of summands is free: scores [slot][head] = K q. Values are
 * read so that a lane has neighbouring slots of its elements, and pairs of them are the transposed
 * operand of out [element][head] += V^T p. Scores, maxima and sums are float32; queries and
 * probabilities are rounded to the cache's type, or to f16 beside E4M3. */
#include "backend/cuda/attn.cuh"
#include "backend/cuda/mma.cuh"

enum { WARPS = 4, HEADS = 8 };

template <int WORDS> __device__ static inline void load_words(uint32_t *to, const uint8_t *p)
{
    if constexpr (WORDS == 2) {
        const uint2 v = __ldcs((const uint2 *)p);

        to[0] = v.x, to[1] = v.y;
    } else {
        const uint4 v = __ldcs((const uint4 *)p);

        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    }
}

/* Lane 4 g + c of a warp has, of a tile of TILE slots in parts of 16: of keys g and g + 8 of a part
 * the pieces of 16 bytes c, c + 4 and so on; of values 2 c, 2 c + 1, 2 c + 8 and 2 c + 9 the piece g
 * (and g + 8): element i is number at(g, i) of the head, and tile e of the product has i = e in its
 * row g and e + OUTS in row g + 8. */
template <int SIZE, bool F8> struct tile {
    enum {
        ROW = SIZE * (F8 ? 1 : 2),           /* bytes */
        PARTS = (F8 ? 2 : 1) * (128 / SIZE), /* 8 KiB of keys and values */
        SLOTS = 16 * PARTS,
        KEY = ROW / 16, /* words of a key in a lane */
        VALUE = ROW / 32,
        STEPS = SIZE / 16,
        OUTS = SIZE / 16
    };

    /* row: of slot s0; to: slots beyond are not there */
    __device__ static inline void keys(uint32_t k[PARTS][2][KEY], const uint8_t *row, int last)
    {
        const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;

#pragma unroll
        for (int p = 0; p < PARTS; p++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint8_t *from = row + min(16 * p + 8 * h + g, last) * ROW + c * 16;

#pragma unroll
                for (int j = 0; j < KEY / 4; j++)
                    load_words<4>(k[p][h] + 4 * j, from + j * 64);
            }
    }
    __device__ static inline void values(uint32_t v[PARTS][4][VALUE], const uint8_t *row, int last)
    {
        const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
        constexpr int piece = VALUE < 4 ? VALUE : 4;

#pragma unroll
        for (int p = 0; p < PARTS; p++)
#pragma unroll
            for (int h = 0; h < 4; h++) {
                const int s = 16 * p + 8 * (h / 2) + 2 * c + h % 2;
                const uint8_t *from = row + min(s, last) * ROW + g * piece * 4;

#pragma unroll
                for (int j = 0; j < VALUE / piece; j++)
                    load_words<piece>(v[p][h] + piece * j, from + j * 128);
            }
    }
    __device__ static inline int at(int g, int i)
    {
        constexpr int piece = F8 ? SIZE / 8 : 8;

        return i / piece * 64 + g * piece + i % piece;
    }
    /* Step `step` of keys in the order of `at_key`, as the product's left operand. */
    __device__ static inline void key_operand(uint32_t a[4], const uint32_t k[2][KEY], int step)
    {
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                a[2 * i + h] = F8 ? half_pair(k[h][step], i) : k[h][2 * step + i];
    }
    /* Element 2 i of the four values that a lane has for a step's column i. */
    __device__ static inline int at_key(int c, int step, int i)
    {
        return F8 ? step / 4 * 64 + c * 16 + step % 4 * 4 + 2 * i
                  : step / 2 * 32 + c * 8 + step % 2 * 4 + 2 * i;
    }
    /* Elements e and e + 1 of two neighbouring slots, as pairs of slots. */
    __device__ static inline void value_pairs(uint32_t pair[2], const uint32_t lo[VALUE],
                                              const uint32_t hi[VALUE], int e)
    {
        if constexpr (F8) {
            const uint32_t both = __byte_perm(lo[e / 4], hi[e / 4], e % 4 ? 0x7362 : 0x5140);

            pair[0] = half_pair(both, 0), pair[1] = half_pair(both, 1);
        } else {
            pair[0] = __byte_perm(lo[e / 2], hi[e / 2], 0x5410);
            pair[1] = __byte_perm(lo[e / 2], hi[e / 2], 0x7632);
        }
    }
};

/* What a lane knows of its two heads, 2 c and 2 c + 1. */
template <int OUTS> struct sums {
    float max[2], sum[2], out[OUTS][4];
};

/* Scores to probabilities; what was summed before is brought to the new maxima. */
template <int PARTS, int OUTS>
__device__ static inline void soften(float s[PARTS][4], sums<OUTS> &st)
{
    float by[2];

#pragma unroll
    for (int h = 0; h < 2; h++) {
        float m = st.max[h];

#pragma unroll
        for (int p = 0; p < PARTS; p++)
            m = fmaxf(m, fmaxf(s[p][h], s[p][2 + h]));
#pragma unroll
        for (int d = 4; d < WARP; d *= 2)
            m = fmaxf(m, __shfl_xor_sync(~0u, m, d));
        by[h] = exp2f(st.max[h] - m); /* a tile has a slot at least: m is finite */
        st.max[h] = m;
        st.sum[h] *= by[h];
#pragma unroll
        for (int p = 0; p < PARTS; p++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                s[p][2 * i + h] = exp2f(s[p][2 * i + h] - m);
                st.sum[h] += s[p][2 * i + h];
            }
    }
#pragma unroll
    for (int e = 0; e < OUTS; e++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            st.out[e][i] *= by[i % 2];
}

/* The warps' sums, merged: the block's part of row t, or its result. */
template <int SIZE>
__device__ static inline void merge_warps(const attn_args &a, int t, int kh, int split, int splits,
                                          const float (*all)[HEADS][SIZE + 2])
{
    const int group = a.H / a.K;

    for (int i = threadIdx.x; i < group * SIZE; i += WARPS * WARP) {
        const int h = i / SIZE, d = i % SIZE;
        float max = -INFINITY, sum = 0, v = 0;

#pragma unroll
        for (int w = 0; w < WARPS; w++)
            max = fmaxf(max, all[w][h][SIZE]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float by = exp2f(all[w][h][SIZE] - max);

            sum = fmaf(all[w][h][SIZE + 1], by, sum);
            v = fmaf(all[w][h][d], by, v);
        }
        if (splits == 1) {
            put(a, t, kh * group + h, d, v / sum);
            continue;
        }
        float *part = a.part + (((size_t)t * a.H + kh * group + h) * a.splits + split) * (SIZE + 2);

        part[d] = v;
        if (d == 0)
            part[SIZE] = max, part[SIZE + 1] = sum;
    }
}

/* grid: (splits, kv heads, rows), 128 threads */
template <int SIZE, bool BF16, bool F8>
__device__ static inline void decode_body(const attn_args &a)
{
    typedef tile<SIZE, F8> L;
    __shared__ float all[WARPS][HEADS][SIZE + 2];
    const int t = a.rows ? a.rows[blockIdx.z] : blockIdx.z, kh = blockIdx.y, split = blockIdx.x;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    const int group = a.H / a.K, slots = a.slot[t] + 1, from = split * a.span;
    const int to = min(slots, from + a.span), splits = (slots + a.span - 1) / a.span;
    const int32_t *table = a.table[a.seq[t]];
    const size_t head = (size_t)KV_BLOCK * L::ROW;
    uint32_t q[L::STEPS][2], k[L::PARTS][2][L::KEY], v[L::PARTS][4][L::VALUE];
    sums<L::OUTS> st = { { -INFINITY, -INFINITY }, {}, {} };

    if (from >= slots)
        return;
#pragma unroll
    for (int s = 0; s < L::STEPS; s++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float *x = a.q + ((size_t)t * a.H + kh * group + g) * SIZE + L::at_key(c, s, i);
            const float2 f = g < group ? *(const float2 *)x : make_float2(0, 0);

            q[s][i] = pair16<BF16>(f.x * a.scale, f.y * a.scale);
        }
    int s0 = from + warp * L::SLOTS;
    size_t at = s0 < to ? ((size_t)table[s0 / KV_BLOCK] * a.K + kh) * head +
                              s0 % KV_BLOCK * L::ROW
                        : 0;

    if (s0 < to) {
        L::keys(k, a.k + at, to - 1 - s0);
        L::values(v, a.v + at, to - 1 - s0);
    }
    while (s0 < to) {
        const int last = to - 1 - s0, next = s0 + WARPS * L::SLOTS;
        float s[L::PARTS][4] = {};

        at = next < to ? ((size_t)table[next / KV_BLOCK] * a.K + kh) * head +
                             next % KV_BLOCK * L::ROW
                       : 0;
#pragma unroll
        for (int p = 0; p < L::PARTS; p++)
#pragma unroll
            for (int i = 0; i < L::STEPS; i++) {
                uint32_t left[4];

                L::key_operand(left, k[p], i);
                mma<BF16>(s[p], left, q[i][0], q[i][1]);
            }
        if (next < to)
            L::keys(k, a.k + at, to - 1 - next);
#pragma unroll
        for (int p = 0; p < L::PARTS; p++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[p][i] = 16 * p + 8 * (i / 2) + g > last ? -INFINITY : F8 ? s[p][i] * HALF_BY : s[p][i];
        soften<L::PARTS>(s, st);
#pragma unroll
        for (int p = 0; p < L::PARTS; p++) {
            const uint32_t p0 = transposed(pair16<BF16>(s[p][0], s[p][1]));
            const uint32_t p1 = transposed(pair16<BF16>(s[p][2], s[p][3]));

#pragma unroll
            for (int e = 0; e < L::OUTS; e += 2) {
                uint32_t left[2][4]; /* of elements e and e + 1 */

#pragma unroll
                for (int i = 0; i < 4; i++) {
                    uint32_t pair[2];

                    L::value_pairs(pair, v[p][i / 2 * 2], v[p][i / 2 * 2 + 1],
                                   e + i % 2 * L::OUTS);
                    left[0][i] = pair[0], left[1][i] = pair[1];
                }
                mma<BF16>(st.out[e], left[0], p0, p1);
                mma<BF16>(st.out[e + 1], left[1], p0, p1);
            }
        }
        if (next < to)
            L::values(v, a.v + at, to - 1 - next);
        s0 = next;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float l = st.sum[h];

#pragma unroll
        for (int d = 4; d < WARP; d *= 2)
            l += __shfl_xor_sync(~0u, l, d);
        if (g == 0)
            all[warp][2 * c + h][SIZE] = st.max[h], all[warp][2 * c + h][SIZE + 1] = l;
#pragma unroll
        for (int e = 0; e < L::OUTS; e++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                all[warp][2 * c + h][L::at(g, e + i * L::OUTS)] =
                    st.out[e][2 * i + h] * (F8 ? HALF_BY : 1);
    }
    __syncthreads();
    merge_warps<SIZE>(a, t, kh, split, splits, all);
    if (splits > 1 && last_of(a.done + blockIdx.z * gridDim.y + kh, splits, WARPS * WARP))
        merge_splits<HEADS, WARPS>(a, t, kh * group, group, splits);
}

#define DECODE(name, hd, bf16, f8)                                                                 \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP, 4)                                   \
        decode_##name##_##hd(const __grid_constant__ attn_args a)                                  \
    {                                                                                              \
        decode_body<hd, bf16, f8>(a);                                                              \
    }

DECODE(bf16, 64, true, false)
DECODE(bf16, 128, true, false)
DECODE(f16, 64, false, false)
DECODE(f16, 128, false, false)
DECODE(f8, 64, false, true)
DECODE(f8, 128, false, true)
