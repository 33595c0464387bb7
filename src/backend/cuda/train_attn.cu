/* train_attn.cu - attention of training on the tensor cores: values in bf16, heads of 64 or 128 values,
 * sequences that lie end to end, float32 scores and sums.
 *
 * A warp owns 16 rows of a block's 64: queries in the forward pass and for dq, keys for dk and dv. What
 * they meet passes through shared memory 64 rows at a time, the next ones on their way while these are
 * used. A key's gradient is summed by one warp over the query heads of its group, one after the other,
 * and their tiles in order: no atomics, the same bits each time. The price is that scores are made
 * twice in the backward pass. */
#include "backend/cuda/mma.cuh"
#include "backend/cuda/train_attn.cuh"
#include "backend/cuda/unit.cuh"

enum { WARPS = TRAIN_ATTN_THREADS / WARP, ROWS = TRAIN_ATTN_ROWS, STEP = TRAIN_ATTN_STEP };

/* Rows r .. r + N of a sequence of len, head h, to shared memory; those past its end repeat the last. */
template <int SIZE, int N>
__device__ static inline void fetch(uint32_t to, const void *from, int t0, int len, int r, int heads,
                                    int h)
{
    const uint16_t *p = (const uint16_t *)from;

#pragma unroll
    for (int i = threadIdx.x; i < N * SIZE / 8; i += WARPS * WARP) {
        const int row = i / (SIZE / 8), chunk = i % (SIZE / 8);
        const size_t t = t0 + min(r + row, len - 1);

        copy_async(to + place<SIZE>(row, chunk), p + (t * heads + h) * SIZE + chunk * 8);
    }
}

/* Two rows of a warp's 16, g and g + 8, as the left factor of products; zeros past the tile's end. */
template <int SIZE>
__device__ static inline void left_of(uint32_t f[SIZE / 16][4], const void *from, const tile &t,
                                      int heads, int h)
{
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;

#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int m = threadIdx.x / WARP * 16 + i * 8 + g;
        const size_t row = (size_t)(t.t0 + t.at + m) * heads + h;
        const uint16_t *p = (const uint16_t *)from + row * SIZE + 2 * c;

#pragma unroll
        for (int k = 0; k < SIZE / 16; k++)
#pragma unroll
            for (int up = 0; up < 2; up++)
                f[k][i + 2 * up] = m < t.n ? *(const uint32_t *)(p + 16 * k + 8 * up) : 0;
    }
}

/* STEP rows from `from` on of x and, behind them, of y, as one group of copies. */
template <int SIZE>
__device__ static inline void fetch_two(uint32_t to, const void *x, const void *y, const tile &t,
                                        int from, int heads, int h)
{
    fetch<SIZE, STEP>(to, x, t.t0, t.len, from, heads, h);
    fetch<SIZE, STEP>(to + STEP * SIZE * 2, y, t.t0, t.len, from, heads, h);
    copy_commit();
}

/* s [16, 64] = f [16, SIZE] times the 64 rows at `at`, transposed. */
template <int SIZE>
__device__ static inline void by_rows(float s[STEP / 8][4], const uint32_t f[SIZE / 16][4], uint32_t at)
{
    const int lane = threadIdx.x % WARP;

#pragma unroll
    for (int k = 0; k < SIZE / 16; k++)
#pragma unroll
        for (int j = 0; j < STEP / 8; j += 2) {
            uint32_t r[4];

            load_matrices<false>(
                r, at + place<SIZE>(j * 8 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
            mma<true>(s[j], f[k], r[0], r[1]);
            mma<true>(s[j + 1], f[k], r[2], r[3]);
        }
}

/* The same with the left factor in shared memory too: rows 16 warp .. of those at `left`. */
template <int SIZE>
__device__ static inline void rows_by_rows(float s[STEP / 8][4], uint32_t left, uint32_t at)
{
    const int lane = threadIdx.x % WARP, row = threadIdx.x / WARP * 16 + lane % 16;

#pragma unroll
    for (int k = 0; k < SIZE / 16; k++) {
        uint32_t f[4];

        load_matrices<false>(f, left + place<SIZE>(row, 2 * k + lane / 16));
#pragma unroll
        for (int j = 0; j < STEP / 8; j += 2) {
            uint32_t r[4];

            load_matrices<false>(
                r, at + place<SIZE>(j * 8 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
            mma<true>(s[j], f, r[0], r[1]);
            mma<true>(s[j + 1], f, r[2], r[3]);
        }
    }
}

/* o [16, SIZE] += s [16, 64], rounded, times the 64 rows at `at`. */
template <int SIZE>
__device__ static inline void add_rows(float o[SIZE / 8][4], const float s[STEP / 8][4], uint32_t at)
{
    const int lane = threadIdx.x % WARP;

#pragma unroll
    for (int k = 0; k < STEP / 16; k++) {
        const uint32_t p[4] = { pair16<true>(s[2 * k][0], s[2 * k][1]),
                                pair16<true>(s[2 * k][2], s[2 * k][3]),
                                pair16<true>(s[2 * k + 1][0], s[2 * k + 1][1]),
                                pair16<true>(s[2 * k + 1][2], s[2 * k + 1][3]) };

#pragma unroll
        for (int j = 0; j < SIZE / 8; j += 2) {
            uint32_t r[4];

            load_matrices<true>(r, at + place<SIZE>(16 * k + lane % 16, j + lane / 16));
            mma<true>(o[j], p, r[0], r[1]);
            mma<true>(o[j + 1], p, r[2], r[3]);
        }
    }
}

/* A warp's 16 rows of o, times by[row], to memory. */
template <int SIZE>
__device__ static inline void store_rows(void *to, const float o[SIZE / 8][4], const tile &t, int heads,
                                         int h, const float by[2])
{
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;

#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int m = threadIdx.x / WARP * 16 + i * 8 + g;

        if (m >= t.n)
            continue;
        uint16_t *p = (uint16_t *)to + ((size_t)(t.t0 + t.at + m) * heads + h) * SIZE + 2 * c;

#pragma unroll
        for (int j = 0; j < SIZE / 8; j++)
            *(uint32_t *)(p + 8 * j) = pair16<true>(o[j][2 * i] * by[i], o[j][2 * i + 1] * by[i]);
    }
}

/* ---- forward ---- */

template <int SIZE> __device__ static inline void forward(const train_attn_args &a)
{
    enum { BYTES = STEP * SIZE * 2 };
    extern __shared__ __align__(128) uint8_t shared[];
    const uint32_t room = (uint32_t)__cvta_generic_to_shared(shared);
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
    const int h = blockIdx.y, kh = h / (a.H / a.K);
    /* last tiles, which see most, first */
    const tile t = find_tile<ROWS>(a, gridDim.x - 1 - blockIdx.x);
    const int first = t.at + threadIdx.x / WARP * 16; /* of the warp */
    uint32_t q[SIZE / 16][4];
    float o[SIZE / 8][4] = {}, max[2] = { -INFINITY, -INFINITY }, sum[2] = {};

    if (t.n == 0)
        return;
    const int blocks = (t.at + t.n + STEP - 1) / STEP;
    const float scale = a.scale * LOG2E;

    fetch_two<SIZE>(room, a.k, a.v, t, 0, a.K, kh);
    left_of<SIZE>(q, a.q, t, a.H, h);
    for (int b = 0; b < blocks; b++) {
        const uint32_t at = room + b % 2 * 2 * BYTES;
        float s[STEP / 8][4] = {};

        copy_wait<0>();
        __syncthreads();
        if (b + 1 < blocks) {
            const uint32_t to = room + (b + 1) % 2 * 2 * BYTES;

            fetch_two<SIZE>(to, a.k, a.v, t, (b + 1) * STEP, a.K, kh);
        }
        if (b * STEP > first + 15) /* none of the warp's rows sees these keys */
            continue;
        by_rows<SIZE>(s, q, at);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = first + i * 8 + g;
            const bool whole = (b + 1) * STEP <= first + 1; /* all of them are seen by all */
            float m = max[i], part = 0;

#pragma unroll
            for (int j = 0; j < STEP / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float &x = s[j][2 * i + e];

                    if (!whole && b * STEP + j * 8 + 2 * c + e > row)
                        x = -INFINITY;
                    m = fmaxf(m, x);
                }
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
            const float by = exp2f((max[i] - m) * scale); /* the first key is seen by all */

            max[i] = m;
#pragma unroll
            for (int j = 0; j < STEP / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    s[j][2 * i + e] = exp2f(fmaf(s[j][2 * i + e], scale, -m * scale));
                    part += s[j][2 * i + e];
                }
            sum[i] = sum[i] * by + part;
#pragma unroll
            for (int j = 0; j < SIZE / 8; j++)
                o[j][2 * i] *= by, o[j][2 * i + 1] *= by;
        }
        add_rows<SIZE>(o, s, at + BYTES);
    }
    float by[2];

#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int m = threadIdx.x / WARP * 16 + i * 8 + g;
        float l = sum[i];

        l += __shfl_xor_sync(~0u, l, 1);
        l += __shfl_xor_sync(~0u, l, 2);
        by[i] = 1 / l;
        if (c == 0 && m < t.n)
            a.lse[(size_t)(t.t0 + t.at + m) * a.H + h] = max[i] * a.scale + logf(l);
    }
    store_rows<SIZE>(a.o, o, t, a.H, h, by);
}

/* ---- backward ---- */

/* dq, and dots: what each row's dy and o have in common. */
template <int SIZE> __device__ static inline void backward_q(const train_attn_args &a)
{
    enum { BYTES = STEP * SIZE * 2 };
    extern __shared__ __align__(128) uint8_t shared[];
    const uint32_t room = (uint32_t)__cvta_generic_to_shared(shared);
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
    const int h = blockIdx.y, kh = h / (a.H / a.K);
    const tile t = find_tile<ROWS>(a, gridDim.x - 1 - blockIdx.x);
    const int first = t.at + threadIdx.x / WARP * 16;
    uint32_t q[SIZE / 16][4], dy[SIZE / 16][4];
    float dq[SIZE / 8][4] = {}, lse[2], dot[2] = {};

    if (t.n == 0)
        return;
    const int blocks = (t.at + t.n + STEP - 1) / STEP;
    const float scale = a.scale * LOG2E;

    fetch_two<SIZE>(room, a.k, a.v, t, 0, a.K, kh);
    left_of<SIZE>(q, a.o, t, a.H, h);
    left_of<SIZE>(dy, a.dy, t, a.H, h);
#pragma unroll
    for (int k = 0; k < SIZE / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int up = 0; up < 2; up++)
                dot[i % 2] = fmaf(bf16_to_f32(q[k][i] >> 16 * up), bf16_to_f32(dy[k][i] >> 16 * up),
                                  dot[i % 2]);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int m = threadIdx.x / WARP * 16 + i * 8 + g;
        const size_t row = (size_t)(t.t0 + t.at + m) * a.H + h;

        dot[i] += __shfl_xor_sync(~0u, dot[i], 1);
        dot[i] += __shfl_xor_sync(~0u, dot[i], 2);
        lse[i] = m < t.n ? a.lse[row] * LOG2E : 0;
        if (c == 0 && m < t.n)
            a.dots[row] = dot[i];
    }
    left_of<SIZE>(q, a.q, t, a.H, h);
    for (int b = 0; b < blocks; b++) {
        const uint32_t at = room + b % 2 * 2 * BYTES;
        float s[STEP / 8][4] = {}, dp[STEP / 8][4] = {};

        copy_wait<0>();
        __syncthreads();
        if (b + 1 < blocks) {
            const uint32_t to = room + (b + 1) % 2 * 2 * BYTES;

            fetch_two<SIZE>(to, a.k, a.v, t, (b + 1) * STEP, a.K, kh);
        }
        if (b * STEP > first + 15)
            continue;
        by_rows<SIZE>(s, q, at);
        by_rows<SIZE>(dp, dy, at + BYTES);
        const bool whole = (b + 1) * STEP <= first + 1;

#pragma unroll
        for (int j = 0; j < STEP / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const bool live = whole || b * STEP + j * 8 + 2 * c + e % 2 <= first + e / 2 * 8 + g;
                const float p = live ? exp2f(fmaf(s[j][e], scale, -lse[e / 2])) : 0;

                dp[j][e] = p * (dp[j][e] - dot[e / 2]);
            }
        add_rows<SIZE>(dq, dp, at);
    }
    const float by[2] = { a.scale, a.scale };

    store_rows<SIZE>(a.dq, dq, t, a.H, h, by);
}

/* dk and dv of a kv head. Scores lie across: a row is a key. */
template <int SIZE> __device__ static inline void backward_kv(const train_attn_args &a)
{
    enum { BYTES = STEP * SIZE * 2, OWN = ROWS * SIZE * 2 };
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float sums[2][2][STEP]; /* log-sums and dots of the queries */
    const uint32_t keys = (uint32_t)__cvta_generic_to_shared(shared), values = keys + OWN;
    const uint32_t room = values + OWN;
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
    const int kh = blockIdx.y, group = a.H / a.K;
    const tile t = find_tile<ROWS>(a, blockIdx.x); /* first tiles are seen by most */
    const int first = t.at + threadIdx.x / WARP * 16;
    float dk[SIZE / 8][4] = {}, dv[SIZE / 8][4] = {};

    if (t.n == 0)
        return;
    const int per = (t.len - t.at + STEP - 1) / STEP, blocks = per * group;
    const float scale = a.scale * LOG2E;

    /* log-sum or dot of a query for block b, to be put into `sums` later: a query past the end has no
     * probability */
    const auto sum_of = [&](int b) {
        const int i = threadIdx.x % STEP, r = t.at + b % per * STEP + i;
        const bool dots = threadIdx.x >= STEP;
        const size_t row = (size_t)(t.t0 + min(r, t.len - 1)) * a.H + kh * group + b / per;

        return dots ? a.dots[row] : r < t.len ? a.lse[row] * LOG2E : INFINITY;
    };
    const auto fetch_block = [&](int b) {
        const uint32_t to = room + b % 2 * 2 * BYTES;
        const int r = t.at + b % per * STEP, h = kh * group + b / per;

        fetch_two<SIZE>(to, a.q, a.dy, t, r, a.H, h);
    };

    fetch<SIZE, ROWS>(keys, a.k, t.t0, t.len, t.at, a.K, kh);
    fetch<SIZE, ROWS>(values, a.v, t.t0, t.len, t.at, a.K, kh);
    fetch_block(0);
    if (threadIdx.x < 2 * STEP)
        sums[0][threadIdx.x / STEP][threadIdx.x % STEP] = sum_of(0);
    for (int b = 0; b < blocks; b++) {
        const uint32_t at = room + b % 2 * 2 * BYTES;
        const int r = t.at + b % per * STEP; /* the first query */
        float next = 0;

        copy_wait<0>();
        __syncthreads();
        if (b + 1 < blocks) {
            fetch_block(b + 1);
            if (threadIdx.x < 2 * STEP)
                next = sum_of(b + 1);
        }
        if (r + STEP > first) { /* some query sees some key of the warp */
            const bool whole = r >= first + 15;
            float s[STEP / 8][4] = {}, dp[STEP / 8][4] = {};

            rows_by_rows<SIZE>(s, keys, at);
#pragma unroll
            for (int j = 0; j < STEP / 8; j++) {
                const float2 lse = *(const float2 *)&sums[b % 2][0][j * 8 + 2 * c];

#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const bool live = whole || r + j * 8 + 2 * c + e % 2 >= first + e / 2 * 8 + g;
                    const float x = fmaf(s[j][e], scale, e % 2 ? -lse.y : -lse.x);

                    s[j][e] = live ? exp2f(x) : 0;
                }
            }
            add_rows<SIZE>(dv, s, at + BYTES);
            rows_by_rows<SIZE>(dp, values, at + BYTES);
#pragma unroll
            for (int j = 0; j < STEP / 8; j++) {
                const float2 dot = *(const float2 *)&sums[b % 2][1][j * 8 + 2 * c];

#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[j][e] *= dp[j][e] - (e % 2 ? dot.y : dot.x);
            }
            add_rows<SIZE>(dk, s, at);
        }
        if (b + 1 < blocks && threadIdx.x < 2 * STEP)
            sums[(b + 1) % 2][threadIdx.x / STEP][threadIdx.x % STEP] = next;
    }
    const float by[2] = { a.scale, a.scale }, one[2] = { 1, 1 };

    store_rows<SIZE>(a.dk, dk, t, a.K, kh, by);
    store_rows<SIZE>(a.dv, dv, t, a.K, kh, one);
}

/* grids: (tiles of all sequences, query heads), for dk and dv (tiles, kv heads); TRAIN_ATTN_THREADS. Shared
 * memory: TRAIN_ATTN_SHARED, for dk and dv TRAIN_ATTN_SHARED_KV. */
#define ATTN(name, body, hd)                                                                       \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP, 2)                                   \
        train_attn_##name##_##hd(const __grid_constant__ train_attn_args a)                        \
    {                                                                                              \
        body<hd>(a);                                                                               \
    }

ATTN(fwd, forward, 64)
ATTN(fwd, forward, 128)
ATTN(bwd_q, backward_q, 64)
ATTN(bwd_q, backward_q, 128)
ATTN(bwd_kv, backward_kv, 64)
ATTN(bwd_kv, backward_kv, 128)
