/* stream.cu - y = x W^T for at most 16 rows of x: packed weights (dev.h) read once, at the memory's
 * speed, onto the tensor cores, and whatever elementwise work comes before and after.
 *
 * A block has a run of tiles of 16 rows of W, which are the tensor cores' A; rows of x are B, and
 * those beyond T are zeros and cost nothing that counts. The warps of a block share a tile by columns:
 * each takes every WARPS-th stage (a record, or 128 bytes of 16 rows) into a ring of its own in
 * shared memory, `depth` stages deep, that runs on from tile to tile, so that reading never stops.
 * Codes are widened to f16 in registers, exactly; scales meet the sums, in float32, at the end of a
 * group. The second of a pair meets the sum of x, which is a product with ones. Columns are summed in
 * an order that depends on nothing but the shape of W and the device, so a row's result is the same
 * in any batch.
 *
 * The first stages, and `ahead` bytes into the second-level cache, are asked for before the kernels
 * that come before this one have ended: weights do not depend on them. */
#include "backend/cuda/codes.cuh"

template <int KIND, bool PAIR> struct ring {
    static constexpr bool rows = kind_of<KIND>::rows;
    static constexpr int slabs = rows ? 2 : 1; /* 16 rows by 64 bytes, in a stage */
    static constexpr int bytes = rows             ? 2048
                                 : KIND == DEV_U6 ? 1792
                                 : PAIR           ? 1280
                                                  : 1216;
    /* a little under 100 KiB for 16 warps, so that the next kernel's blocks fit beside */
    static constexpr int depth = rows || KIND == DEV_U6 || KIND == DEV_N4 ? 3 : PAIR ? 4 : 5;
    static constexpr int cols = slabs * kind_of<KIND>::blocks * 32; /* of a stage */
};

/* Where a warp is in its run: stage s of tile `item`; p is this lane's first byte of it. */
struct cursor {
    const uint8_t *p;
    int item, s;
    int row[4]; /* of the tile's rows that this lane copies, in bytes from p */
};

__device__ static inline const dev_out &out_of(const stream_args &a, int item, int *tile)
{
    const int o = a.swiglu                            ? item % 2
                  : a.n > 2 && item >= a.out[2].tile0 ? 2
                  : a.n > 1 && item >= a.out[1].tile0 ? 1
                                                      : 0;

    *tile = a.swiglu ? item / 2 : item - a.out[o].tile0;
    return a.out[o];
}

template <int KIND> __device__ static inline size_t row_stride(const dev_weight &w)
{
    return KIND == DEV_F8 ? w.kp : 2 * (size_t)w.kp;
}

/* To stage s of the cursor's tile, or of the next one that has stages for this warp. */
template <int KIND, bool PAIR>
__device__ static void enter_tile(cursor &c, const stream_args &a, int stages, int last)
{
    const int lane = threadIdx.x % WARP;
    int tile;

    while (c.s >= stages && c.item < last) {
        c.item++;
        c.s = threadIdx.x / WARP;
    }
    if (c.item >= last)
        return;
    const dev_weight &w = out_of(a, c.item, &tile).w;

    if constexpr (ring<KIND, PAIR>::rows) {
        const int stride = (int)row_stride<KIND>(w);

        c.p = w.q + (size_t)tile * DEV_TILE * stride + (size_t)c.s * 128 + lane % 8 * 16;
#pragma unroll
        for (int i = 0; i < 4; i++)
            c.row[i] = min(lane / 8 + 4 * i, w.rows - 1 - tile * DEV_TILE) * stride;
    } else {
        c.p = w.q + ((size_t)tile * stages + c.s) * w.rec + lane * 16;
    }
}

/* Asks for the cursor's stage and moves on; an empty group at the end keeps the count. */
template <int KIND, bool PAIR>
__device__ static inline void fetch(cursor &c, uint32_t to, const stream_args &a, int warps,
                                    int stages, int last)
{
    typedef ring<KIND, PAIR> R;
    const int lane = threadIdx.x % WARP;

    if (c.item < last) {
        if constexpr (R::rows) {
            const int slab = lane % 8 / 4;

            to += slab * 1024 + ((lane / 8 * 4 + lane % 4) ^ slab << 2) * 16;
#pragma unroll
            for (int i = 0; i < 4; i++)
                copy_async(to + i * 256, c.p + c.row[i]);
            c.p += warps * 128;
        } else {
            const int rec = a.out[0].w.rec, codes = kind_of<KIND>::codes;

            to += lane * 16;
#pragma unroll
            for (int i = 0; i < codes; i += WARP * 16)
                copy_async(to + i, c.p + i);
            if (lane * 16 < rec - codes)
                copy_async(to + codes, c.p + codes);
            c.p += warps * rec;
        }
        c.s += warps;
        if (c.s >= stages)
            enter_tile<KIND, PAIR>(c, a, stages, last);
    }
    copy_commit();
}

/* What comes after the ring, into the second-level cache. */
template <int KIND, bool PAIR>
__device__ static inline void look_ahead(const stream_args &a, int first, int last)
{
#if __CUDA_ARCH__ >= 900
    enum { PIECE = 4096 };
    int left = a.ahead;

    for (int item = first; item < last && left > 0; item++) {
        int tile;
        const dev_weight &w = out_of(a, item, &tile).w;
        const size_t each = ring<KIND, PAIR>::rows
                                ? DEV_TILE * row_stride<KIND>(w)
                                : (size_t)(w.kp / ring<KIND, PAIR>::cols) * w.rec;
        const size_t rows = min(DEV_TILE, w.rows - tile * DEV_TILE);
        const int n = ring<KIND, PAIR>::rows ? each / DEV_TILE * rows : each;

        for (int i = threadIdx.x * PIECE; i < min(n, left); i += WARP * PIECE)
            asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(w.q + tile * each + i),
                         "r"(min(PIECE, n - i))
                         : "memory");
        left -= n;
    }
#endif
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

/* Eight columns of a row of x that go with the lane's of block j of slab b. */
template <int KIND>
__device__ static inline uint4 inputs_at(const uint16_t *x, int b, int j, int c)
{
    if constexpr (KIND == DEV_U6) {
        const uint2 lo = *(const uint2 *)(x + 32 * j + 4 * c);
        const uint2 hi = *(const uint2 *)(x + 32 * j + 16 + 4 * c);

        return make_uint4(lo.x, lo.y, hi.x, hi.y);
    } else if constexpr (KIND == DEV_F8) {
        return *(const uint4 *)(x + 64 * b + 16 * c + 8 * j);
    } else {
        return *(const uint4 *)(x + 32 * (kind_of<KIND>::blocks * b + j) + 8 * c);
    }
}

template <int NT> __device__ static inline void flush(float acc[NT][4], float tmp[NT][4], float2 s)
{
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            acc[n][i] = fmaf(i < 2 ? s.x : s.y, tmp[n][i], acc[n][i]);
            tmp[n][i] = 0;
        }
}

/* What the weights of one launch have in common, in registers. */
struct shared_form {
    int gs, zeros;
    uint32_t zero; /* 1024 + zero_const, twice */
};

/* One stage in shared memory times its columns of x. */
template <int KIND, bool FINE, bool PAIR, int NT>
__device__ static inline void stage_product(float acc[NT][4], const uint8_t *p, const shared_form &w,
                                            const uint4 *x, const uint32_t *lut)
{
    typedef kind_of<KIND> K;
    constexpr bool plain = KIND == DEV_B16 || KIND == DEV_H16;
    const int lane = threadIdx.x % WARP, g = lane / 4;
    const uint8_t *scales = p + K::codes;
    float tmp[NT][4] = {}, ones[NT][4] = {};
    uint32_t z[2] = { w.zero, w.zero };

    if (!FINE && !K::rows && !PAIR && w.zeros)
        record_zeros(z, scales + w.gs * 32, 0, g);
#pragma unroll
    for (int b = 0; b < ring<KIND, PAIR>::slabs; b++) {
        const uint4 *at = (const uint4 *)(p + b * 1024) + (lane ^ b << 2);
        const uint4 v[2] = { at[0], at[WARP] };
        uint4 hi = make_uint4(0, 0, 0, 0);

        if constexpr (KIND == DEV_U6)
            hi = ((const uint4 *)(p + 1024))[lane];
#pragma unroll
        for (int j = 0; j < K::blocks; j++) {
            const int gi = j; /* FINE: a group for each block */
            uint32_t q[2][4];

            if (FINE && !PAIR && KIND != DEV_U6 && w.zeros)
                record_zeros(z, scales + w.gs * 32, gi, g);
            code_pairs<KIND>(q[0], v[0], make_uint2(hi.x, hi.y), j, z[0], lut);
            code_pairs<KIND>(q[1], v[1], make_uint2(hi.z, hi.w), j, z[1], lut);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint32_t a[4] = { q[0][2 * h], q[1][2 * h], q[0][2 * h + 1], q[1][2 * h + 1] };
                const uint32_t one[4] = { 0x3C003C00, 0x3C003C00, 0x3C003C00, 0x3C003C00 };

#pragma unroll
                for (int n = 0; n < NT; n++) {
                    const uint4 &u = x[(b * K::blocks + j) * NT + n];

                    mma<KIND>(plain ? acc[n] : tmp[n], a, h ? u.z : u.x, h ? u.w : u.y);
                    if (PAIR)
                        mma<KIND>(ones[n], one, h ? u.z : u.x, h ? u.w : u.y);
                }
                if (KIND == DEV_U6)
                    flush<NT>(acc, tmp, record_scales(scales, 2 * j + h, 32, g));
            }
            if (FINE && KIND != DEV_U6)
                flush<NT>(acc, tmp, record_scales(scales, gi, PAIR ? 64 : 32, g));
            if (PAIR)
                flush<NT>(acc, ones, record_scales(scales + 32, gi, 64, g));
        }
    }
    if (!FINE && !plain && !K::rows)
        flush<NT>(acc, tmp, w.gs ? record_scales(scales, 0, 32, g) : make_float2(1, 1));
    if (KIND == DEV_F8) {
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                acc[n][i] = tmp[n][i];
    }
}

/* What the tile's threads do with the sum v of row t of x and row r of W. gate: of swiglu, from the
 * tile before. */
__device__ static inline void finish(const stream_args &a, const dev_out &out, int item, int tile,
                                     int t, int r, bool there, float v, float old, float &gate)
{
    const int row = tile * DEV_TILE + r;

    if (a.swiglu) {
        if (item % 2 == 0)
            gate = v;
        else if (there)
            a.y16[(size_t)t * a.kp16 + row] = to16(gate / (1 + expf(-gate)) * v, a.mode16);
        return;
    }
    v += old;
    if (there)
        out.y[(size_t)t * out.w.rows + row] = v;
    if (!a.norm)
        return;
    float s = there ? v * v : 0;

    if (there)
        a.y16[(size_t)t * a.kp16 + row] = to16(v * a.norm[row], a.mode16);
    for (int d = DEV_TILE / 2; d; d /= 2)
        s += __shfl_xor_sync(~0u, s, d);
    if (r == 0 && t < a.T)
        a.ss_out[(size_t)t * a.tiles + tile] = s;
}

/* FINE: scales change within a record. NT: tiles of 8 rows of x. grid: any, blocks share the tiles;
 * shared memory: as stream_shared in run.c has it */
/* long: the ring, the tiles and their ends are one loop */
template <int KIND, bool FINE, bool PAIR, int NT>
__device__ static inline void stream_body(const stream_args &a)
{
    typedef ring<KIND, PAIR> R;
    constexpr int n_x = R::slabs * kind_of<KIND>::blocks;
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float factor[DEV_STREAM_ROWS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const int g = lane / 4, c = lane % 4, kp = a.out[0].w.kp, stages = kp / R::cols;
    const int unit = a.swiglu ? 2 : 1, units = a.tiles / unit;
    const int first = (int)((long long)blockIdx.x * units / gridDim.x) * unit;
    const int last = (int)((long long)(blockIdx.x + 1) * units / gridDim.x) * unit;
    float *const sums = (float *)(shared + warps * R::depth * R::bytes); /* [2][warps][8 NT][16] */
    const uint32_t *lut = NULL;
    uint8_t *const mine = shared + warp * R::depth * R::bytes;
    const uint32_t mine_at = (uint32_t)__cvta_generic_to_shared(mine);
    cursor ask = { NULL, first, warp };

    dep_launch();
    enter_tile<KIND, PAIR>(ask, a, stages, last);
#pragma unroll
    for (int i = 0; i < R::depth - 1; i++)
        fetch<KIND, PAIR>(ask, mine_at + i * R::bytes, a, warps, stages, last);
    if (warp == 0)
        look_ahead<KIND, PAIR>(a, first, last);
    if constexpr (KIND == DEV_N4) {
        uint32_t *t = (uint32_t *)(sums + 2 * warps * 8 * NT * DEV_TILE);
        const uint16_t *map = a.out[0].w.table;

        for (int i = threadIdx.x; i < 256 * WARP; i += blockDim.x)
            t[i] = map[i / WARP & 15] | (uint32_t)map[i / WARP >> 4] << 16;
        lut = t;
    }
    dep_wait();
    if (a.ss)
        for (int t = warp; t < a.T; t += warps) {
            float s = 0;

            for (int i = lane; i < a.n_ss; i += WARP)
                s += a.ss[(size_t)t * a.n_ss + i];
            for (int d = WARP / 2; d; d /= 2)
                s += __shfl_xor_sync(~0u, s, d);
            if (lane == 0)
                factor[t] = 1 / sqrtf(s / (float)a.D + a.eps);
        }
    if (KIND == DEV_N4)
        __syncthreads();
    int slot = 0;
    float gate = 0;
    const shared_form form = { a.out[0].w.gs, a.out[0].w.zeros,
                               0x64006400 | (uint32_t)a.out[0].w.zero_const * 0x00010001 };
    uint4 x[n_x * NT] = {}; /* rows beyond T stay zeros */

    for (int item = first; item < last; item++) {
        int tile;
        const dev_out &out = out_of(a, item, &tile);
        const dev_weight &w = out.w;
        /* another warp for each tile's end */
        const int turn = item / unit * ((a.T + 1) / 2) * WARP;
        const int i = (threadIdx.x - turn) & (blockDim.x - 1), t = i / DEV_TILE, r = i % DEV_TILE;
        const bool there = t < a.T && tile * DEV_TILE + r < w.rows;
        float acc[NT][4] = {}, old = 0;

        for (int s = warp; s < stages; s += warps) {
#pragma unroll
            for (int n = 0; n < NT; n++)
                if (n * 8 + g < a.T) {
                    const uint16_t *from = a.x + (size_t)(n * 8 + g) * kp + s * R::cols;

#pragma unroll
                    for (int b = 0; b < n_x; b++)
                        x[b * NT + n] = inputs_at<KIND>(from, b / kind_of<KIND>::blocks,
                                                        b % kind_of<KIND>::blocks, c);
                }
            copy_wait<R::depth - 2>();
            __syncwarp();
            /* the slot of the stage before is free again */
            fetch<KIND, PAIR>(ask, mine_at + (slot ? slot - 1 : R::depth - 1) * R::bytes, a, warps,
                              stages, last);
            if constexpr (KIND == DEV_F8) {
                float part[NT][4];
                float2 by = make_float2(1, 1);

                if (w.n_groups > 1) {
                    const int r0 = tile * DEV_TILE + g, k = s * R::cols / w.group;
                    const size_t at0 = min(r0, w.rows - 1) / w.row_group;
                    const size_t at8 = min(r0 + 8, w.rows - 1) / w.row_group;

                    by = make_float2(scale_at(w, at0 * w.n_groups + k),
                                     scale_at(w, at8 * w.n_groups + k));
                }
                stage_product<KIND, FINE, PAIR, NT>(part, mine + slot * R::bytes, form, x, lut);
                flush<NT>(acc, part, by);
            } else {
                stage_product<KIND, FINE, PAIR, NT>(acc, mine + slot * R::bytes, form, x, lut);
            }
            slot = slot + 1 == R::depth ? 0 : slot + 1;
        }
        if (a.add && there)
            old = out.y[(size_t)t * w.rows + tile * DEV_TILE + r];
        float *const sum = sums + item % 2 * (warps * 8 * NT * DEV_TILE);

#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                sum[(warp * 8 * NT + n * 8 + 2 * c + k % 2) * DEV_TILE + g + k / 2 * 8] = acc[n][k];
        __syncthreads();
        if (i / WARP * WARP >= a.T * DEV_TILE)
            continue;
        float v = 0;

        for (int k = 0; there && k < warps; k++)
            v += sum[(k * 8 * NT + t) * DEV_TILE + r];
        if (KIND == DEV_F8)
            v *= F8_BY;
        if ((KIND == DEV_F8 && w.n_groups == 1) || (KIND == DEV_U8 && w.gs == 0))
            v *= there ? scale_at(w, (size_t)(tile * DEV_TILE + r) / w.row_group) : 0;
        if (a.ss && there)
            v *= factor[t];
        finish(a, out, item, tile, t, r, there, v, old, gate);
    }
}

/* One row of x leaves room for two blocks: this kernel's and the next one's. */
#define STREAM(name, kind, fine, pair, nt)                                                         \
    extern "C" __global__ void __launch_bounds__(512, nt == 1 ? 2 : 1)                             \
        stream_##name##_##nt(const __grid_constant__ stream_args a)                                \
    {                                                                                              \
        stream_body<kind, fine, pair, nt>(a);                                                      \
    }
#define STREAMS(name, kind, fine, pair)                                                            \
    STREAM(name, kind, fine, pair, 1)                                                              \
    STREAM(name, kind, fine, pair, 2)

STREAMS(b16, DEV_B16, false, false)
STREAMS(h16, DEV_H16, false, false)
STREAMS(f8, DEV_F8, false, false)
STREAMS(u8, DEV_U8, false, false)
STREAMS(u8_fine, DEV_U8, true, false)
STREAMS(u8_pair, DEV_U8, true, true)
STREAMS(u4, DEV_U4, false, false)
STREAMS(u4_fine, DEV_U4, true, false)
STREAMS(u4_pair, DEV_U4, true, true)
STREAMS(u6, DEV_U6, true, false)
STREAMS(n4, DEV_N4, true, false)
