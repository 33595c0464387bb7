/* attn.cuh - attention over the paged cache, one row at a time and float32 throughout: for
 * decoding, where it is bound by reading the cache, and for whatever else there is.
 *
 * An item is one row, one kv head with GH of the query heads that share it, and a span of slots; a
 * block does it. A slot's key (and value) is read by LANES lanes, 8 elements each; every such group
 * of lanes keeps its own maximum, sum and weighted values for the slots that it sees, SLOTS at a
 * time. They are merged at the end: groups of a warp, warps of a block, and by the block that ends
 * last the spans of a row. */
#pragma once

#include "backend/cuda/block.cuh"
#include "backend/cuda/cache.cuh"
#include "backend/cuda/image.cuh"

enum { PER = 8 };

template <int ENC> struct packet; /* 8 elements of the cache; what they are to be multiplied by */
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
    static constexpr float by = 1;
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
    static constexpr float by = 1;
};
template <> struct packet<DEV_ENC_F16> : packet16<DEV_ENC_F16> {
};
template <> struct packet<DEV_ENC_BF16> : packet16<DEV_ENC_BF16> {
};
template <> struct packet<DEV_ENC_F8_E4M3> {
    uint2 v;
    __device__ void load(const uint8_t *p)
    {
        v = *(const uint2 *)p;
    }
    __device__ void get(float f[PER]) const
    {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t w = f8_pair(i < 2 ? v.x : v.y, i % 2);
            const float2 p = __half22float2(*(const __half2 *)&w);

            f[2 * i] = p.x, f[2 * i + 1] = p.y;
        }
    }
    static constexpr int bytes = 8;
    static constexpr float by = F8_BY;
};

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
        a.y16[input_at(a.image, a.kp16, t, a.place ? a.place[h * a.hd + i] : h * a.hd + i)] =
            to16(v, a.mode16);
}

/* The splits of a row in their order, whichever ended last. by: shared memory, [n_heads][splits];
 * out(h, e, v): where values e and e + 1 of head h go */
template <int WARPS, class OUT>
__device__ static inline void merge_splits(const attn_args &a, int t, int h0, int n_heads,
                                           int splits, float *by, const OUT &out)
{
    const int thread = thread_now(), lane = thread % WARP, stride = a.hd + 2;
    const float *part = a.part + ((size_t)t * a.H + h0) * a.splits * stride;

    /* not unrolled: seldom there is more than one turn, and code has to be fetched */
#pragma unroll 1
    for (int h = thread / WARP; h < n_heads; h += WARPS) {
        const float *p = part + (size_t)h * a.splits * stride + a.hd;
        float max = -INFINITY, sum = 0;

#pragma unroll 1
        for (int s = lane; s < splits; s += WARP)
            max = fmaxf(max, p[s * stride]);
        for (int d = WARP / 2; d; d /= 2)
            max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
#pragma unroll 1
        for (int s = lane; s < splits; s += WARP) {
            by[h * splits + s] = exp2f(p[s * stride] - max);
            sum += p[s * stride + 1] * by[h * splits + s];
        }
        for (int d = WARP / 2; d; d /= 2)
            sum += __shfl_xor_sync(~0u, sum, d);
#pragma unroll 1
        for (int s = lane; s < splits; s += WARP)
            by[h * splits + s] /= sum;
    }
    named_sync(WORKERS, WARPS * WARP);
#pragma unroll 1
    for (int i = 2 * thread; i < n_heads * a.hd; i += 2 * WARPS * WARP) {
        const int h = i / a.hd, k = i % a.hd;
        const float *p = part + (size_t)h * a.splits * stride + k;
        float2 v = make_float2(0, 0);

#pragma unroll 4
        for (int s = 0; s < splits; s++) {
            const float2 x = *(const float2 *)(p + s * stride);

            v = make_float2(fmaf(x.x, by[h * splits + s], v.x), fmaf(x.y, by[h * splits + s], v.y));
        }
        out(h0 + h, k, v);
    }
}

/* Row t, part y of the query heads (parts of each kv head follow one another), span `split`.
 * scratch: shared memory of `room` floats, at least WARPS * (hd + 2). */
/* long: the state of a lane lives through it */
template <int ENC, int GH, int WARPS, int SLOTS>
__device__ static void attn_item(const attn_args &a, int t, int y, int split, int *done,
                                 float *scratch, int room)
{
    const int group = a.H / a.K, parts = (group + GH - 1) / GH, kh = y / parts;
    const int h0 = kh * group + y % parts * GH, n_heads = min(GH, kh * group + group - h0);
    const int warp = threadIdx.x / WARP, in_warp = threadIdx.x % WARP;
    const int slots = a.slot[t] + 1, from = split * a.span, to = min(slots, from + a.span);
    const int32_t *table = a.table[a.seq[t]];
    const int splits = (slots + a.span - 1) / a.span; /* that this row has: at most a.splits */
    int lanes = 1;

    while (lanes * PER < a.hd)
        lanes *= 2;
    const int lane = threadIdx.x % lanes, mine = (warp * WARP + in_warp) / lanes;
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
            q[h][i] = !live || h >= n_heads
                          ? 0
                          : a.q[((size_t)t * a.H + h0 + h) * a.hd + lane * PER + i] * a.scale;
            if constexpr (packet<ENC>::by != 1)
                q[h][i] *= packet<ENC>::by; /* of the keys */
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
    if constexpr (packet<ENC>::by != 1) /* of the values */
#pragma unroll
        for (int h = 0; h < GH; h++)
#pragma unroll
            for (int i = 0; i < PER; i++)
                st[h].acc[i] *= packet<ENC>::by;
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
    const int stride_m = a.hd + 2;
    const int at_once = GH == 1 ? 1 : max(1, room / (WARPS * stride_m)); /* heads */

#pragma unroll 1
    for (int first = 0; first < n_heads; first += at_once) {
#pragma unroll
        for (int h = 0; h < GH; h++) {
            float *const mine_m = scratch + (warp * at_once + h - first) * stride_m;

            if (h < first || h >= min(first + at_once, n_heads) || in_warp >= lanes || !live)
                continue;
            if (lane == 0)
                mine_m[a.hd] = st[h].m, mine_m[a.hd + 1] = st[h].l;
#pragma unroll
            for (int i = 0; i < PER; i++)
                mine_m[lane * PER + i] = st[h].acc[i];
        }
        named_sync(WORKERS, WARPS * WARP);
#pragma unroll 1
        for (int i = threadIdx.x; i < min(at_once, n_heads - first) * a.hd; i += WARPS * WARP) {
            const int in = i / a.hd, k = i - in * a.hd, h = h0 + first + in;
            const float *p = scratch + in * stride_m;
            const int next = at_once * stride_m;
            float max = -INFINITY, l = 0, v = 0;

#pragma unroll
            for (int o = 0; o < WARPS; o++)
                max = fmaxf(max, p[o * next + a.hd]);
#pragma unroll
            for (int o = 0; o < WARPS; o++) {
                const float by = exp2f(p[o * next + a.hd] - max);

                l = fmaf(p[o * next + a.hd + 1], by, l);
                v = fmaf(p[o * next + k], by, v);
            }
            if (splits == 1) {
                put(a, t, h, k, v / l);
                continue;
            }
            float *part = a.part + (((size_t)t * a.H + h) * a.splits + split) * stride_m;

            part[k] = v;
            if (k == 0)
                part[a.hd] = max, part[a.hd + 1] = l;
        }
        named_sync(WORKERS, WARPS * WARP);
    }
    if (splits > 1 && last_of(done, splits, WARPS * WARP)) {
        __shared__ float by[GH * ATTN_SPLITS];

        merge_splits<WARPS>(a, t, h0, n_heads, splits, by, [&](int h, int e, float2 v) {
            put(a, t, h, e, v.x);
            put(a, t, h, e + 1, v.y);
        });
    }
}
