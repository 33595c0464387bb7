/* decode.cu - attention of many rows, each of a sequence of its own or nearly so, on the tensor cores:
 * decoding of large batches and of long contexts, which is bound by reading the cache. Heads of 64 or
 * 128 values, at most 8 query heads to a kv head; bf16, f16 or E4M3 cache.
 *
 * A block has a row, a kv head with all its query heads, and a span of its slots; a warp has
 * every fourth tile of them, which come through a ring of its own in shared memory: what is on its way
 * takes no registers, and nobody waits for other warps. Scores [slot][head] = K q; the transposed
 * loads make keys' and values' rows the left operand of that and of out [element][head] += V^T p.
 * Scores, maxima and sums are float32; queries and probabilities are rounded to the cache's type, or to
 * f16 beside E4M3. */
#include "backend/cuda/attn.cuh"
#include "backend/cuda/mma.cuh"

enum { WARPS = DECODE_WARPS, HEADS = 8, STAGES = DECODE_STAGES, EACH = DECODE_TILE };

/* A tile of keys or values, EACH bytes as rows of slots. 16 bytes number `chunk` of a row lie where no
 * eight that are read together, the same of neighbouring rows, are in the same banks.
 *
 * E4M3: an element of the 16-bit matrices that are loaded is two values. Lane 4 g + c gets of 16 bytes
 * of a key the four values 4 c on: its columns 2 c and 2 c + 8 of the product. Of values it gets number
 * 2 g and 2 g + 1 of two slots: rows g and g + 8 of the product. */
template <int SIZE, bool F8> struct tile {
    enum {
        ROW = SIZE * (F8 ? 1 : 2), /* bytes */
        CHUNKS = ROW / 16,
        SLOTS = EACH / ROW,
        PARTS = SLOTS / 16,
        STEPS = SIZE / 16,
        OUTS = SIZE / 16
    };

    /* `chunk` of a row: in other banks than its neighbours' */
    __device__ static inline uint32_t place(int row, int chunk)
    {
        return row * ROW + ((chunk ^ (CHUNKS < 8 ? row / 2 % CHUNKS : row % 8)) * 16);
    }
    /* The same 2^n rows further on, at most 8, which have to be 0 in `row`: place() ^ this, and ROW for
     * each row. */
    __device__ static constexpr uint32_t turn(int rows)
    {
        return CHUNKS < 8 ? rows / 2 % CHUNKS * 16 : rows % 8 * 16;
    }
    /* from: where the lane's 16 bytes of a tile are */
    __device__ static inline void fetch(uint32_t to, const uint8_t *from)
    {
        const int lane = threadIdx.x % WARP;
        const uint32_t mine = place(lane / CHUNKS, lane % CHUNKS);

#pragma unroll
        for (int i = 0; i < EACH / 512; i++)
            copy_async(to + (mine ^ turn(i * (512 / ROW))) + i * 512, from + i * 512);
    }
    /* What lies after slot `last` was never written, and a probability of 0 does not make it 0. */
    __device__ static inline void clear(uint8_t *tile, int last)
    {
        for (int i = threadIdx.x % WARP; i < EACH / 16; i += WARP)
            if (i / CHUNKS > last)
                *(uint4 *)(tile + place(i / CHUNKS, i % CHUNKS)) = make_uint4(0, 0, 0, 0);
        __syncwarp();
    }
    /* scores += 16 keys, rows of part p, times q */
    template <bool BF16>
    __device__ static inline void scores(float s[4], uint32_t at, int p, const uint32_t q[STEPS][2])
    {
        const int lane = threadIdx.x % WARP;
        const uint32_t mine = place(lane % 16, lane / 16);

#pragma unroll
        for (int j = 0; j < CHUNKS; j += 2) {
            uint32_t r[4];

            load_matrices<false>(r, at + (mine ^ j * 16) + p * 16 * ROW);
            if constexpr (F8) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const uint32_t left[4] = { half_pair(r[2 * i], 0), half_pair(r[2 * i + 1], 0),
                                               half_pair(r[2 * i], 1), half_pair(r[2 * i + 1], 1) };

                    mma<BF16>(s, left, q[j + i][0], q[j + i][1]);
                }
            } else {
                mma<BF16>(s, r, q[j / 2][0], q[j / 2][1]);
            }
        }
    }
    /* The two elements from which on a lane has queries for step `step`: i of 2. */
    __device__ static inline int at_key(int c, int step, int i)
    {
        return step * 16 + (F8 ? 4 * c + 2 * i : 2 * c + 8 * i);
    }
    /* out += 16 values, rows of part p, times the probabilities p0 and p1 */
    template <bool BF16>
    __device__ static inline void weigh(float out[OUTS][4], uint32_t at, int p, uint32_t p0,
                                        uint32_t p1)
    {
        const int lane = threadIdx.x % WARP;
        const uint32_t mine = F8 ? place(lane % 16, lane / 16)
                                 : place(lane / 16 * 8 + lane % 8, lane / 8 % 2);

#pragma unroll
        for (int j = 0; j < CHUNKS; j += 2) {
            uint32_t r[4];

            load_matrices<true>(r, at + (mine ^ j * 16) + p * 16 * ROW);
            if constexpr (F8) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const uint32_t lo = __byte_perm(r[2 * i], 0, 0x3120);
                    const uint32_t hi = __byte_perm(r[2 * i + 1], 0, 0x3120);
                    const uint32_t left[4] = { half_pair(lo, 0), half_pair(lo, 1), half_pair(hi, 0),
                                               half_pair(hi, 1) };

                    mma<BF16>(out[j + i], left, p0, p1);
                }
            } else {
                mma<BF16>(out[j / 2], r, p0, p1);
            }
        }
    }
    /* The element that row g or (i = 1) g + 8 of product e is. */
    __device__ static inline int at(int g, int e, int i)
    {
        return e * 16 + (F8 ? 2 * g + i : g + 8 * i);
    }
};

__device__ static inline float power2(float x)
{
#ifdef __CUDA_ARCH__
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); /* denormal results are zero */
    return y;
#else
    return exp2f(x);
#endif
}

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
        by[h] = power2(st.max[h] - m); /* a tile has a slot at least: m is finite */
        st.max[h] = m;
        st.sum[h] *= by[h];
#pragma unroll
        for (int p = 0; p < PARTS; p++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                s[p][2 * i + h] = power2(s[p][2 * i + h] - m);
                st.sum[h] += s[p][2 * i + h];
            }
    }
    if (__any_sync(~0u, by[0] != 1 || by[1] != 1)) /* seldom, after the first tiles */
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

/* All spans of row t, in their order, whichever ended last. A warp has a head; loads do not wait for
 * one another: with few rows it is their time that counts. */
template <int SIZE>
__device__ static inline void merge_spans(const attn_args &a, int t, int kh, int splits)
{
    enum { EACH_LANE = SIZE / (2 * WARP) }; /* pairs */
    const int group = a.H / a.K, lane = threadIdx.x % WARP;

    for (int h = kh * group + threadIdx.x / WARP; h < (kh + 1) * group; h += WARPS) {
        const float *p = a.part + ((size_t)t * a.H + h) * a.splits * (SIZE + 2);
        float max = -INFINITY, sum = 0;
        float2 v[EACH_LANE] = {};

        for (int s = lane; s < splits; s += WARP)
            max = fmaxf(max, p[s * (SIZE + 2) + SIZE]);
#pragma unroll
        for (int d = 1; d < WARP; d *= 2)
            max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
#pragma unroll 8
        for (int s = 0; s < splits; s++) {
            const float2 *q = (const float2 *)(p + s * (SIZE + 2));
            const float2 own = q[SIZE / 2];
            const float by = power2(own.x - max);

            sum = fmaf(own.y, by, sum);
#pragma unroll
            for (int i = 0; i < EACH_LANE; i++) {
                const float2 f = q[i * WARP + lane];

                v[i].x = fmaf(f.x, by, v[i].x);
                v[i].y = fmaf(f.y, by, v[i].y);
            }
        }
#pragma unroll
        for (int i = 0; i < EACH_LANE; i++) {
            put(a, t, h, 2 * (i * WARP + lane), v[i].x / sum);
            put(a, t, h, 2 * (i * WARP + lane) + 1, v[i].y / sum);
        }
    }
}

/* grid: (splits, kv heads, rows), 32 * WARPS threads */
template <int SIZE, bool BF16, bool F8>
__device__ static inline void decode_body(const attn_args &a)
{
    typedef tile<SIZE, F8> L;
    enum { PAIR = 2 * EACH, RING = STAGES * PAIR, STEP = WARPS * L::SLOTS };
    extern __shared__ __align__(128) uint8_t shared[]; /* rings, and the warps' sums after them */
    const int t = a.rows ? a.rows[blockIdx.z] : blockIdx.z, kh = blockIdx.y, split = blockIdx.x;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    const int group = a.H / a.K, slots = a.slot[t] + 1;
    /* as many spans as of a.span at most, of about the same length */
    const int parts = (slots + a.span - 1) / a.span;
    const int span = ((slots + parts - 1) / parts + KV_BLOCK - 1) / KV_BLOCK * KV_BLOCK;
    const int splits = (slots + span - 1) / span, from = split * span, to = min(slots, from + span);
    const int32_t *table = a.table[a.seq[t]];
    const size_t head = (size_t)KV_BLOCK * L::ROW;
    uint8_t *const ring = shared + warp * RING;
    const uint32_t ring_at = (uint32_t)__cvta_generic_to_shared(ring);
    uint32_t q[L::STEPS][2];
    sums<L::OUTS> st = { { -INFINITY, -INFINITY }, {}, {} };

    if (from >= slots)
        return;
    /* of the tile that is fetched next: its slot, and where it lies */
    int next = from + warp * L::SLOTS, block = next < to ? table[next / KV_BLOCK] : 0;
    const uint8_t *const k_from = a.k + kh * head + lane * 16, *const v_from = a.v + kh * head + lane * 16;

#pragma unroll
    for (int i = 0; i < STAGES; i++) {
        const size_t at = (size_t)block * a.K * head + next % KV_BLOCK * L::ROW;

        if (next < to)
            L::fetch(ring_at + i * PAIR, k_from + at);
        copy_commit();
        if (next < to)
            L::fetch(ring_at + i * PAIR + EACH, v_from + at);
        copy_commit();
        next += STEP;
        block = next < to ? table[next / KV_BLOCK] : 0;
    }
#pragma unroll
    for (int s = 0; s < L::STEPS; s++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const size_t x = ((size_t)t * a.H + kh * group + g) * SIZE + L::at_key(c, s, i);

            if (a.q16) {
                q[s][i] = g < group ? *(const uint32_t *)(a.q16 + x) : 0;
            } else {
                const float2 f = g < group ? *(const float2 *)(a.q + x) : make_float2(0, 0);

                q[s][i] = pair16<BF16>(f.x * a.scale, f.y * a.scale);
            }
        }
    int stage = 0;

    for (int s0 = from + warp * L::SLOTS; s0 < to; s0 += STEP) {
        const uint32_t keys = ring_at + stage, values = keys + EACH;
        const size_t at = (size_t)block * a.K * head + next % KV_BLOCK * L::ROW;
        const int last = to - 1 - s0;
        float s[L::PARTS][4] = {};

        copy_wait<2 * STAGES - 1>(); /* the keys are there */
        __syncwarp();
#pragma unroll
        for (int p = 0; p < L::PARTS; p++)
            L::template scores<BF16>(s[p], keys, p, q);
        __syncwarp();
        if (next < to)
            L::fetch(keys, k_from + at);
        copy_commit();
        if (F8 && HALF_BY != 1)
#pragma unroll
            for (int i = 0; i < 4 * L::PARTS; i++)
                s[i / 4][i % 4] *= HALF_BY;
        if (last < L::SLOTS - 1)
#pragma unroll
            for (int i = 0; i < 4 * L::PARTS; i++)
                if (16 * (i / 4) + 8 * (i % 4 / 2) + g > last)
                    s[i / 4][i % 4] = -INFINITY;
        soften<L::PARTS>(s, st);
        copy_wait<2 * STAGES - 1>(); /* the values are there */
        __syncwarp();
        if (last < L::SLOTS - 1)
            L::clear(ring + stage + EACH, last);
#pragma unroll
        for (int p = 0; p < L::PARTS; p++)
            L::template weigh<BF16>(st.out, values, p, transposed(pair16<BF16>(s[p][0], s[p][1])),
                                    transposed(pair16<BF16>(s[p][2], s[p][3])));
        __syncwarp();
        if (next < to)
            L::fetch(values, v_from + at);
        copy_commit();
        next += STEP;
        block = next < to ? table[next / KV_BLOCK] : 0;
        stage = stage + PAIR == RING ? 0 : stage + PAIR;
    }
    copy_wait<0>();
    __syncthreads();
    float(*const all)[HEADS][SIZE + 2] = (float(*)[HEADS][SIZE + 2])shared;

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
                all[warp][2 * c + h][L::at(g, e, i)] = st.out[e][2 * i + h] * (F8 ? HALF_BY : 1);
    }
    __syncthreads();
    merge_warps<SIZE>(a, t, kh, split, splits, all);
    if (splits > 1 && last_of(a.done + blockIdx.z * gridDim.y + kh, splits, WARPS * WARP))
        merge_spans<SIZE>(a, t, kh, splits);
}

#define DECODE(name, hd, bf16, f8)                                                                 \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP, 3)                                   \
        decode_##name##_##hd(const __grid_constant__ attn_args a)                                  \
    {                                                                                              \
        next_may_begin();                                                                          \
        decode_body<hd, bf16, f8>(a);                                                              \
    }

DECODE(bf16, 64, true, false)
DECODE(bf16, 128, true, false)
DECODE(f16, 64, false, false)
DECODE(f16, 128, false, false)
DECODE(f8, 64, false, true)
DECODE(f8, 128, false, true)
