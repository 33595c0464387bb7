/* linear.cu - y = x W^T. Two ways:
 *
 * product: float32 throughout, any encoding, any shape; a warp has a row of W. For --dtype f32 and for
 * what has no packed layout.
 *
 * tile: packed weights (dev.h), at most 64 rows of x, on the tensor cores. A block of 8 warps has 16
 * rows of W, which are the tensor cores' A; each warp takes every eighth chunk of 128 columns, reads
 * its weights once, 16 bytes a lane, straight into registers, widens the codes there to f16 (exactly)
 * and multiplies. Scales are applied to the sums, in float32, at the end of a group. Columns are
 * summed in an order that depends on nothing but the shape of W, so a row's result is the same in
 * any batch. x is W's B: rows of x beyond T are zeros and cost nothing that counts. */
#include "backend/cuda/unit.cuh"

enum { WARP = 32, WARPS = 8, FMA_ROWS = 4 };

/* grid: (rows / 8, ceil(T / 4)), 256 threads */
extern "C" __global__ void product(float *y, dev_weight w, const float *x, int T, int add)
{
    const int lane = threadIdx.x % WARP, t0 = blockIdx.y * FMA_ROWS;
    const size_t r = (size_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    float sum[FMA_ROWS] = { 0 };

    if (r >= w.rows)
        return;
    for (int u = lane; u * UNIT < w.cols; u += WARP) {
        float v[UNIT];

        unit_decode(v, w, r, u);
        const int n = min(UNIT, w.cols - u * UNIT);

        for (int k = 0; k < n; k++) {
            const int i = w.order ? w.order[u * UNIT + k] : u * UNIT + k;

#pragma unroll
            for (int t = 0; t < FMA_ROWS; t++)
                if (t0 + t < T)
                    sum[t] = fmaf(v[k], x[(size_t)(t0 + t) * w.cols + i], sum[t]);
        }
    }
#pragma unroll
    for (int t = 0; t < FMA_ROWS; t++) {
        for (int d = WARP / 2; d; d /= 2)
            sum[t] += __shfl_xor_sync(~0u, sum[t], d);
        if (lane == 0 && t0 + t < T) {
            float *to = y + (size_t)(t0 + t) * w.rows + r;

            *to = sum[t] + (add ? *to : 0);
        }
    }
}

/* ---- tile ---- */

template <int KIND, int NT> struct layout {
    /* 16-byte loads of a lane for one row and chunk */
    static constexpr int loads = KIND == DEV_U4 ? 1 : KIND == DEV_U8 || KIND == DEV_F8 ? 2 : 4;
    /* chunks in flight: 8 loads over both rows; with many rows of x there is enough to do */
    static constexpr int depth = NT == 8 ? 1 : 4 / loads;
    static constexpr bool scaled = KIND != DEV_B16 && KIND != DEV_H16;
};

__device__ static inline uint32_t h2_sub(uint32_t a, uint32_t b)
{
    const __half2 r = __hsub2(*(const __half2 *)&a, *(const __half2 *)&b);

    return *(const uint32_t *)&r;
}

/* The lane's 8 columns of block j of a chunk as four pairs of 16 bits; zero: 1024 + z, twice. */
template <int KIND>
__device__ static inline void widen(uint32_t p[4], const uint4 *raw, int j, uint32_t zero)
{
    if constexpr (KIND == DEV_B16 || KIND == DEV_H16) {
        p[0] = raw[j].x, p[1] = raw[j].y, p[2] = raw[j].z, p[3] = raw[j].w;
    } else if constexpr (KIND == DEV_U4) {
        /* 0x6400 is 1024 in f16, whose last bit is worth 1 */
        const uint32_t q = j == 0 ? raw[0].x : j == 1 ? raw[0].y : j == 2 ? raw[0].z : raw[0].w;

#pragma unroll
        for (int i = 0; i < 4; i++)
            p[i] = h2_sub((q >> 4 * i & 0x000F000F) | 0x64006400, zero);
    } else {
        const uint4 v = raw[j / 2];
        const uint32_t half[2] = { j % 2 ? v.z : v.x, j % 2 ? v.w : v.y };

#pragma unroll
        for (int i = 0; i < 4; i++) {
            if constexpr (KIND == DEV_U8) {
                p[i] = h2_sub(__byte_perm(half[i / 2], 0x64646464, i % 2 ? 0x4342 : 0x4140), zero);
            } else {
                /* E4M3 in f16: the same bits one to the right of the sign, 2^-8 times the value */
                const uint32_t b = __byte_perm(half[i / 2], 0, i % 2 ? 0x3424 : 0x1404);

                p[i] = (b & 0x80008000) | (b >> 1 & 0x3F803F80);
            }
        }
    }
}

template <int KIND>
__device__ static inline void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    if (KIND == DEV_B16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ static inline uint32_t zero_pair(const dev_weight &w, size_t r, int g)
{
    const uint32_t z = 0x6400 | (w.pair   ? 0
                                 : w.zero ? w.zero[r * w.n_groups + g]
                                          : (uint32_t)w.zero_const);

    return z | z << 16;
}

__device__ static inline float2 scale_pair(const dev_weight &w, size_t r, int g)
{
    const size_t i = r / (size_t)w.row_group * w.n_groups + g;

    return w.pair ? make_float2(scale_at(w, 2 * i), scale_at(w, 2 * i + 1))
                  : make_float2(scale_at(w, i), 0);
}

/* The sums of a group, or of the part of it that is in this chunk, at k. */
template <bool PAIR, int NT>
__device__ static inline void flush(float acc[NT][4], float tmp[NT][4], const float2 s[2],
                                    const tile_args &a, const dev_weight &w, int k)
{
    const int c = threadIdx.x % 4;

#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            acc[n][i] = fmaf(s[i / 2].x, tmp[n][i], acc[n][i]);
            tmp[n][i] = 0;
        }
    if constexpr (PAIR) {
        if (!w.pair)
            return;
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int t = n * 8 + 2 * c + i % 2;

                if (t < a.T)
                    acc[n][i] =
                        fmaf(s[i / 2].y, a.xsum[(size_t)t * (w.kp / 32) + k / 32], acc[n][i]);
            }
    }
}

/* FINE: groups of 32, 64 or 96 columns, so that scales change within a chunk. NT: tiles of 8 rows of
 * x. */
template <int KIND, bool FINE, int NT>
__device__ static inline void tile_body(const tile_args &a)
{
    typedef layout<KIND, NT> L;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    const int o = a.n > 2 && (int)blockIdx.x >= a.out[2].tile0   ? 2
                  : a.n > 1 && (int)blockIdx.x >= a.out[1].tile0 ? 1
                                                                 : 0;
    const dev_weight &w = a.out[o].w;
    const int r0 = ((int)blockIdx.x - a.out[o].tile0) * DEV_TILE, kp = w.kp;
    const size_t row[2] = { (size_t)min(r0 + g, w.rows - 1), (size_t)min(r0 + g + 8, w.rows - 1) };
    const size_t stride = KIND == DEV_U4 ? kp / 2 : KIND == DEV_U8 || KIND == DEV_F8 ? kp : 2 * kp;
    float acc[NT][4] = { 0 }, tmp[NT][4] = { 0 };

    for (int first = warp; first < kp / DEV_CHUNK; first += WARPS * L::depth) {
        uint4 raw[L::depth][2][L::loads];

#pragma unroll
        for (int d = 0; d < L::depth; d++) {
            const int ch = first + d * WARPS;

            if (ch >= kp / DEV_CHUNK)
                break;
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int l = 0; l < L::loads; l++)
                    raw[d][i][l] = __ldcs((const uint4 *)(w.q + row[i] * stride +
                                                          (size_t)ch * (L::loads * 64)) +
                                          4 * l + c);
        }
#pragma unroll
        for (int d = 0; d < L::depth; d++) {
            const int ch = first + d * WARPS;

            if (ch >= kp / DEV_CHUNK)
                break;
            uint32_t z[2] = { 0, 0 };
            float2 s[2];

#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int k = ch * DEV_CHUNK + j * 32;

                if constexpr (L::scaled) {
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        if (!FINE && j > 0)
                            continue;
                        s[i] = scale_pair(w, row[i], k / w.group);
                        if (KIND != DEV_F8)
                            z[i] = zero_pair(w, row[i], k / w.group);
                    }
                }
                uint32_t p[2][4];

                widen<KIND>(p[0], raw[d][0], j, z[0]);
                widen<KIND>(p[1], raw[d][1], j, z[1]);
                const uint32_t a0[4] = { p[0][0], p[1][0], p[0][1], p[1][1] };
                const uint32_t a1[4] = { p[0][2], p[1][2], p[0][3], p[1][3] };

#pragma unroll
                for (int n = 0; n < NT; n++) {
                    uint4 x = make_uint4(0, 0, 0, 0);

                    if (n * 8 + g < a.T)
                        x = __ldg((const uint4 *)(a.x + (size_t)(n * 8 + g) * kp + k) + c);
                    mma<KIND>(L::scaled ? tmp[n] : acc[n], a0, x.x, x.y);
                    mma<KIND>(L::scaled ? tmp[n] : acc[n], a1, x.z, x.w);
                }
                if constexpr (L::scaled)
                    if (FINE || j == 3)
                        flush<FINE && KIND == DEV_U4, NT>(acc, tmp, s, a, w, k);
            }
        }
    }
    __shared__ float sum[WARPS][NT * 8][DEV_TILE];

#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum[warp][n * 8 + 2 * c + i % 2][g + i / 2 * 8] = acc[n][i];
    __syncthreads();
    for (int i = threadIdx.x; i < NT * 8 * DEV_TILE; i += WARPS * WARP) {
        const int t = i / DEV_TILE, r = i % DEV_TILE;
        float v = 0;

        if (t >= a.T || r0 + r >= w.rows)
            continue;
        for (int k = 0; k < WARPS; k++)
            v += sum[k][t][r];
        if (KIND == DEV_F8)
            v *= 256;
        float *y = a.out[o].y + (size_t)t * w.rows + r0 + r;

        *y = v + (a.add ? *y : 0);
    }
}

#define TILE(name, kind, fine, nt)                                                              \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP, nt == 8 ? 1 : nt == 2 ? 2 : 3)                  \
        tile_##name##_##nt(const __grid_constant__ tile_args a)                                 \
    {                                                                                           \
        tile_body<kind, fine, nt>(a);                                                           \
    }
#define TILES(name, kind, fine)                                                                 \
    TILE(name, kind, fine, 1)                                                                   \
    TILE(name, kind, fine, 2)                                                                   \
    TILE(name, kind, fine, 8)

TILES(b16, DEV_B16, false)
TILES(h16, DEV_H16, false)
TILES(f8, DEV_F8, false)
TILES(u8, DEV_U8, false)
TILES(u8_fine, DEV_U8, true)
TILES(u4, DEV_U4, false)
TILES(u4_fine, DEV_U4, true)
