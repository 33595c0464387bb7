/* attn.cu - attention over the paged cache, one row at a time and float32 throughout: for decoding,
 * where it is bound by reading the cache, and for whatever else there is.
 *
 * A block has one row, one kv head with GH of the query heads that share it, and a span of slots. A
 * slot's key (and value) is read by LANES lanes, 8 elements each; every such group of lanes keeps its
 * own maximum, sum and weighted values for the slots that it sees, four at a time. They are merged at
 * the end: groups of a warp, warps of a block, and by the block that ends last the spans of a row. */
#include "backend/cuda/unit.cuh"

enum { KV_BLOCK = 64, WARP = 32, WARPS = 4, PER = 8, SLOTS = 4 };

template <int ENC> struct packet; /* 8 elements of the cache */
template <> struct packet<DEV_ENC_F32> {
    float4 v[2];
    __device__ void load(const uint8_t *p)
    {
        v[0] = ((const float4 *)p)[0], v[1] = ((const float4 *)p)[1];
    }
    __device__ void get(float f[PER]) const
    {
        f[0] = v[0].x, f[1] = v[0].y, f[2] = v[0].z, f[3] = v[0].w;
        f[4] = v[1].x, f[5] = v[1].y, f[6] = v[1].z, f[7] = v[1].w;
    }
    static constexpr int bytes = 32;
};
template <int ENC> struct packet16 {
    uint4 v;
    __device__ void load(const uint8_t *p)
    {
        v = *(const uint4 *)p;
    }
    __device__ void get(float f[PER]) const
    {
        const uint32_t w[4] = { v.x, v.y, v.z, v.w };

#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (ENC == DEV_ENC_BF16) {
                f[2 * i] = __uint_as_float(w[i] << 16);
                f[2 * i + 1] = __uint_as_float(w[i] & 0xFFFF0000);
            } else {
                const float2 p = __half22float2(*(const __half2 *)&w[i]);

                f[2 * i] = p.x, f[2 * i + 1] = p.y;
            }
        }
    }
    static constexpr int bytes = 16;
};
template <> struct packet<DEV_ENC_F16> : packet16<DEV_ENC_F16> {};
template <> struct packet<DEV_ENC_BF16> : packet16<DEV_ENC_BF16> {};

/* State of one head in a group of lanes: maximum of the scores (base 2), sum, values. */
struct state {
    float m, l, acc[PER];
};

__device__ static inline void merge(state &a, float m, float l, const float *acc)
{
    const float max = fmaxf(a.m, m);
    const float by = a.m == max ? 1 : exp2f(a.m - max), other = m == max ? 1 : exp2f(m - max);

    a.m = max;
    a.l = a.l * by + l * other;
#pragma unroll
    for (int i = 0; i < PER; i++)
        a.acc[i] = a.acc[i] * by + acc[i] * other;
}

__device__ static inline void put(const attn_args &a, int t, int h, int i, float v)
{
    if (a.y)
        a.y[((size_t)t * a.H + h) * a.hd + i] = v;
    if (a.y16)
        a.y16[(size_t)t * a.kp16 + h * a.hd + i] = to16(v, a.mode16);
}

/* Whether all other splits of this row and these heads are there already. */
__device__ static inline bool last_of(const attn_args &a, int splits)
{
    __shared__ bool last;
    int *const done = a.done + blockIdx.z * gridDim.y + blockIdx.y;

    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(done, 1) == splits - 1;
        if (last)
            *done = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

/* The splits of a row in their order, whichever ended last. */
template <int GH>
__device__ static inline void merge_splits(const attn_args &a, int t, int h0, int n_heads,
                                           int splits)
{
    __shared__ float by[GH][ATTN_SPLITS];
    const int lane = threadIdx.x % WARP, stride = a.hd + 2;
    const float *part = a.part + ((size_t)t * a.H + h0) * a.splits * stride;

    for (int h = threadIdx.x / WARP; h < n_heads; h += WARPS) {
        const float *p = part + (size_t)h * a.splits * stride + a.hd;
        float max = -INFINITY, sum = 0;

        for (int s = lane; s < splits; s += WARP)
            max = fmaxf(max, p[s * stride]);
        for (int d = WARP / 2; d; d /= 2)
            max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
        for (int s = lane; s < splits; s += WARP) {
            by[h][s] = exp2f(p[s * stride] - max);
            sum += p[s * stride + 1] * by[h][s];
        }
        for (int d = WARP / 2; d; d /= 2)
            sum += __shfl_xor_sync(~0u, sum, d);
        for (int s = lane; s < splits; s += WARP)
            by[h][s] /= sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n_heads * a.hd; i += blockDim.x) {
        const int h = i / a.hd, k = i % a.hd;
        const float *p = part + (size_t)h * a.splits * stride + k;
        float v = 0;

#pragma unroll 4
        for (int s = 0; s < splits; s++)
            v = fmaf(p[s * stride], by[h][s], v);
        put(a, t, h0 + h, k, v);
    }
}

/* grid: (splits, kv heads * parts of their query heads, rows); 128 threads */
template <int ENC, int GH> __device__ static inline void attn_body(const attn_args &a)
{
    dep_launch();
    const int group = a.H / a.K, parts = (group + GH - 1) / GH, kh = blockIdx.y / parts;
    const int h0 = kh * group + blockIdx.y % parts * GH, n_heads = min(GH, kh * group + group - h0);
    const int t = a.rows ? a.rows[blockIdx.z] : blockIdx.z, slots = a.slot[t] + 1, from = blockIdx.x * a.span;
    const int to = min(slots, from + a.span);
    const int32_t *table = a.table[a.seq[t]];
    const int splits = (slots + a.span - 1) / a.span; /* that this row has: at most a.splits */
    int lanes = 1;

    dep_wait();
    if (from >= slots)
        return;

    while (lanes * PER < a.hd)
        lanes *= 2;
    const int lane = threadIdx.x % lanes, mine = threadIdx.x / lanes;
    const int stride = WARPS * WARP / lanes;
    const bool live = lane * PER < a.hd;
    float q[GH][PER];
    state st[GH];

#pragma unroll
    for (int h = 0; h < GH; h++) {
        st[h].m = -INFINITY, st[h].l = 0;
#pragma unroll
        for (int i = 0; i < PER; i++) {
            st[h].acc[i] = 0;
            q[h][i] = live && h < n_heads
                          ? a.q[((size_t)t * a.H + h0 + h) * a.hd + lane * PER + i] * a.scale
                          : 0;
        }
    }
    /* every lane of the warp goes round as often: shuffles need them all */
    for (int s0 = from; s0 < to; s0 += stride * SLOTS) {
        packet<ENC> k[SLOTS], v[SLOTS];
        float score[SLOTS][GH];

#pragma unroll
        for (int j = 0; j < SLOTS; j++) {
            const int s = min(s0 + j * stride + mine, to - 1);
            const size_t at =
                ((((size_t)table[s / KV_BLOCK] * a.K + kh) * KV_BLOCK + s % KV_BLOCK) * a.hd +
                 (live ? lane * PER : 0)) *
                (packet<ENC>::bytes / PER);

            k[j].load(a.k + at);
            v[j].load(a.v + at);
        }
#pragma unroll
        for (int j = 0; j < SLOTS; j++) {
            float f[PER];

            k[j].get(f);
#pragma unroll
            for (int h = 0; h < GH; h++) {
                float sum = 0;

#pragma unroll
                for (int i = 0; i < PER; i++)
                    sum = fmaf(q[h][i], f[i], sum);
                score[j][h] = sum;
            }
        }
        for (int d = lanes / 2; d; d /= 2)
#pragma unroll
            for (int j = 0; j < SLOTS; j++)
#pragma unroll
                for (int h = 0; h < GH; h++)
                    score[j][h] += __shfl_xor_sync(~0u, score[j][h], d);
#pragma unroll
        for (int h = 0; h < GH; h++) {
            float max = st[h].m;

#pragma unroll
            for (int j = 0; j < SLOTS; j++) {
                if (s0 + j * stride + mine >= to)
                    score[j][h] = -INFINITY;
                max = fmaxf(max, score[j][h]);
            }
            if (max == -INFINITY) { /* nothing seen yet */
#pragma unroll
                for (int j = 0; j < SLOTS; j++)
                    score[j][h] = 0;
                continue;
            }
            const float by = exp2f(st[h].m - max);

            st[h].m = max;
            st[h].l *= by;
#pragma unroll
            for (int i = 0; i < PER; i++)
                st[h].acc[i] *= by;
#pragma unroll
            for (int j = 0; j < SLOTS; j++) {
                score[j][h] = exp2f(score[j][h] - max);
                st[h].l += score[j][h];
            }
        }
#pragma unroll
        for (int j = 0; j < SLOTS; j++) {
            float f[PER];

            v[j].get(f);
#pragma unroll
            for (int h = 0; h < GH; h++)
#pragma unroll
                for (int i = 0; i < PER; i++)
                    st[h].acc[i] = fmaf(score[j][h], f[i], st[h].acc[i]);
        }
    }
    /* groups of a warp */
    for (int d = lanes; d < WARP; d *= 2)
#pragma unroll
        for (int h = 0; h < GH; h++) {
            const float m = __shfl_xor_sync(~0u, st[h].m, d), l = __shfl_xor_sync(~0u, st[h].l, d);
            float acc[PER];

#pragma unroll
            for (int i = 0; i < PER; i++)
                acc[i] = __shfl_xor_sync(~0u, st[h].acc[i], d);
            merge(st[h], m, l, acc);
        }
    __shared__ float other[WARPS][GH][PER + 2][WARP];
    const int warp = threadIdx.x / WARP, in_warp = threadIdx.x % WARP;

#pragma unroll
    for (int h = 0; h < GH; h++) {
        other[warp][h][PER][in_warp] = st[h].m;
        other[warp][h][PER + 1][in_warp] = st[h].l;
#pragma unroll
        for (int i = 0; i < PER; i++)
            other[warp][h][i][in_warp] = st[h].acc[i];
    }
    __syncthreads();
    const bool ends = warp == 0 && in_warp < lanes && live;

#pragma unroll
    for (int h = 0; h < GH; h++) {
        if (!ends || h >= n_heads)
            continue;
        for (int o = 1; o < WARPS; o++) {
            float acc[PER];

#pragma unroll
            for (int i = 0; i < PER; i++)
                acc[i] = other[o][h][i][in_warp];
            merge(st[h], other[o][h][PER][in_warp], other[o][h][PER + 1][in_warp], acc);
        }
        if (splits == 1) {
            for (int i = 0; i < PER; i++)
                put(a, t, h0 + h, lane * PER + i, st[h].acc[i] / st[h].l);
            continue;
        }
        float *part = a.part + (((size_t)t * a.H + h0 + h) * a.splits + blockIdx.x) * (a.hd + 2);

        for (int i = 0; i < PER; i++)
            part[lane * PER + i] = st[h].acc[i];
        if (lane == 0) {
            part[a.hd] = st[h].m;
            part[a.hd + 1] = st[h].l;
        }
    }
    if (splits > 1 && last_of(a, splits))
        merge_splits<GH>(a, t, h0, n_heads, splits);
}

#define ATTN(name, enc, gh)                                                                     \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP)                                   \
        attn_##name##_##gh(const __grid_constant__ attn_args a)                                 \
    {                                                                                           \
        attn_body<enc, gh>(a);                                                                  \
    }
#define ATTNS(name, enc)                                                                        \
    ATTN(name, enc, 1)                                                                          \
    ATTN(name, enc, 4)                                                                          \
    ATTN(name, enc, 8)

ATTNS(f32, DEV_ENC_F32)
ATTNS(f16, DEV_ENC_F16)
ATTNS(bf16, DEV_ENC_BF16)
