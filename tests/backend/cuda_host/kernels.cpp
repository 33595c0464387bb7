/* kernels.cpp - SOURCE, a .cu file of src/backend/cuda, as host code, and KERNELS, which the
 * Makefile makes, its kernels by name. */
#include "device.h"

/* PTX of these is replaced; nothing in the headers that define them uses them. */
#define copy_async     ptx_copy_async
#define copy_async8    ptx_copy_async8
#define copy_commit    ptx_copy_commit
#define copy_wait      ptx_copy_wait
#define load_matrices  ptx_load_matrices
#define mma            ptx_mma
#define mma_bytes      ptx_mma_bytes
#define transposed     ptx_transposed
#define bar_init       ptx_bar_init
#define bar_fence_init ptx_bar_fence_init
#define bar_arrive     ptx_bar_arrive
#define bar_expect     ptx_bar_expect
#define elected        ptx_elected
#define bar_wait       ptx_bar_wait
#define bar_wait_warp  ptx_bar_wait_warp
#define bar_test       ptx_bar_test
#define bar_spin       ptx_bar_spin
#define gate_arrive    ptx_gate_arrive
#define gate_wait      ptx_gate_wait
#define tagged_store   ptx_tagged_store
#define tagged_load    ptx_tagged_load
#define tagged_wait    ptx_tagged_wait
#define load_shared    ptx_load_shared
#define store_shared   ptx_store_shared
#define is_absent      ptx_is_absent
#define shared_store   ptx_shared_store
#define named_sync     ptx_named_sync
#define named_arrive   ptx_named_arrive
#define tile_copy      ptx_tile_copy
#define fence_map      ptx_fence_map
#define box_copy_once  ptx_box_copy_once
#define bulk_copy      ptx_bulk_copy
#define bulk_copy_once ptx_bulk_copy_once
#define l2_prefetch    ptx_l2_prefetch
#define reciprocal     ptx_reciprocal
#define wgmma_f8       ptx_wgmma_f8
#define fence_async    ptx_fence_async
#define fence_async_all ptx_fence_async_all
#define registers_less ptx_registers_less
#define registers_more ptx_registers_more
#define exp2_fast      ptx_exp2_fast
#define tanh_fast      ptx_tanh_fast
#define pair_of_f8     ptx_pair_of_f8
#define wgmma_fence    ptx_wgmma_fence
#define wgmma_commit   ptx_wgmma_commit
#define wgmma_wait     ptx_wgmma_wait
#define wgmma_ss       ptx_wgmma_ss
#define wgmma_rk       ptx_wgmma_rk
#define wgmma_rs       ptx_wgmma_rs
#define hold           ptx_hold
#define __CUDA_ARCH_FEAT_SM90_ALL
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/mma.cuh"
#include "backend/cuda/unit.cuh"
#undef copy_async
#undef copy_async8
#undef copy_commit
#undef copy_wait
#undef load_matrices
#undef mma
#undef mma_bytes
#undef transposed
#undef bar_init
#undef bar_fence_init
#undef bar_arrive
#undef bar_expect
#undef elected
#undef bar_wait
#undef bar_wait_warp
#undef bar_test
#undef bar_spin
#undef gate_arrive
#undef gate_wait
#undef tagged_store
#undef tagged_load
#undef tagged_wait
#undef load_shared
#undef store_shared
#undef is_absent
#undef shared_store
#undef named_sync
#undef named_arrive
#undef tile_copy
#undef fence_map
#undef box_copy_once
#undef bulk_copy
#undef bulk_copy_once
#undef l2_prefetch
#undef reciprocal
#undef wgmma_f8
#undef fence_async
#undef fence_async_all
#undef registers_less
#undef registers_more
#undef exp2_fast
#undef tanh_fast
#undef pair_of_f8
#undef wgmma_fence
#undef wgmma_commit
#undef wgmma_wait
#undef wgmma_ss
#undef wgmma_rk
#undef wgmma_rs
#undef hold
#include "hopper.h"

static inline void copy_async(uint32_t to, const void *from)
{
    copy_begin(to, from, 16);
}

static inline void copy_async8(uint32_t to, const void *from)
{
    copy_begin(to, from, 8);
}

template <int N> static inline void copy_wait()
{
    copy_wait_for(N);
}

static inline void tagged_store(uint64_t *to, uint32_t data, unsigned tag)
{
    *to = data | (uint64_t)tag << 32;
}

static inline void tagged_load(uint64_t v[2], const uint64_t *from)
{
    v[0] = from[0], v[1] = from[1];
}

template <int N>
static inline void tagged_wait(uint2 *data, const uint64_t *from, int step, int n, unsigned tag)
{
    for (int i = 0; i < n; i++, from += step) {
        for (int k = 0; k < 2; k++)
            gate_wait((unsigned *)(from + k) + 1, tag);
        data[i] = make_uint2((uint32_t)from[0], (uint32_t)from[1]);
    }
}

template <class T> static inline T load_shared(const T *from)
{
    return *from;
}

static inline void store_shared(float *to, float v)
{
    *to = v;
}

static inline void shared_store(uint32_t to, uint32_t v)
{
    memcpy((uint8_t *)shared_at(to & ~15u) + to % 16, &v, sizeof(v));
}

static inline bool is_absent(float v)
{
    const bool absent = __float_as_uint(v) == ABSENT;

    if (absent)
        look_again();
    return absent;
}

static inline bool is_absent(const float4 &v)
{
    return is_absent(v.x) || is_absent(v.y) || is_absent(v.z) || is_absent(v.w);
}

/* c += a b, 16 x 16 by 16 x 8 (PTX ISA, mma.m16n8k16): lane 4 g + q has of a rows g and g + 8,
 * columns 2 q and 2 q + 8 as pairs; of b those rows of column g; of c rows g and g + 8, columns 2 q
 * and 2 q + 1. */
template <bool BF16>
static inline void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    const uint32_t pairs[] = { a[0], a[1], a[2], a[3], b0, b1 };
    uint32_t mine[WARP_WORDS]; /* as float32 */

    for (int i = 0; i < WARP_WORDS; i++) {
        const uint16_t h = (uint16_t)(pairs[i / 2] >> i % 2 * 16);

        mine[i] = f32_bits(BF16 ? bf16_to_f32(h) : f16_to_f32(h));
    }
    const lane_words *all = warp_meet(mine, WARP_WORDS);
    const int lane = (int)(threadIdx.x % 32), g = lane / 4, q = lane % 4;

    for (int i = 0; i < 4; i++) {
        double s = c[i];

        for (int k = 0; k < 16; k++) {
            const uint32_t *row = all[g * 4 + k % 8 / 2],
                           *col = all[(2 * q + i % 2) * 4 + k % 8 / 2];

            s += (double)f32_from_bits(row[(i / 2 + k / 8 * 2) * 2 + k % 2]) *
                 f32_from_bits(col[8 + k / 8 * 2 + k % 2]);
        }
        c[i] = (float)s;
    }
}

/* d = a b + c, 16 x 32 unsigned bytes by 32 x 8 signed ones (PTX ISA, mma.m16n8k32): lane 4 g + q has
 * of a rows g and g + 8, columns 4 q and 16 + 4 q on; of b those rows of column g. */
static inline void mma_bytes(int d[4], const uint32_t a[4], const uint2 &b, const int c[4])
{
    const uint32_t mine[] = { a[0], a[1], a[2], a[3], b.x, b.y };
    const lane_words *all = warp_meet(mine, 6);
    const int lane = (int)(threadIdx.x % 32), g = lane / 4, q = lane % 4;

    for (int i = 0; i < 4; i++) {
        uint32_t s = (uint32_t)c[i];

        for (int k = 0; k < 32; k++) {
            const uint32_t row = all[g * 4 + k % 16 / 4][i / 2 + k / 16 * 2];
            const uint32_t col = all[(2 * q + i % 2) * 4 + k % 16 / 4][4 + k / 16];

            s += (uint32_t)((int)(row >> k % 4 * 8 & 255) * (int8_t)(col >> k % 4 * 8));
        }
        d[i] = (int)s;
    }
}

/* ldmatrix.x4: matrix m has its rows where lanes 8 m .. 8 m + 7 say; lane 4 g + q gets columns 2 q
 * and 2 q + 1 of row g of each, or of its transpose. */
template <bool TRANS> static inline void load_matrices(uint32_t r[4], uint32_t at)
{
    const lane_words *all = warp_meet(&at, 1);
    const int lane = (int)(threadIdx.x % 32), g = lane / 4, q = lane % 4;

    for (int m = 0; m < 4; m++) {
        uint16_t two[2];

        for (int e = 0; e < 2; e++)
            two[e] = ((const uint16_t *)shared_at(
                all[8 * m + (TRANS ? 2 * q + e : g)][0]))[TRANS ? g : 2 * q + e];
        r[m] = two[0] | (uint32_t)two[1] << 16;
    }
    __syncwarp(); /* nobody writes there before all have read */
}

/* movmatrix: lane 4 g + q has columns 2 q and 2 q + 1 of row g, and gets them of the transpose. */
static inline uint32_t transposed(uint32_t v)
{
    const lane_words *all = warp_meet(&v, 1);
    const int lane = (int)(threadIdx.x % 32), g = lane / 4, q = lane % 4;
    const auto at = [&](int row) { return all[4 * row + g / 2][0] >> g % 2 * 16 & 0xFFFF; };
    const uint32_t r = at(2 * q) | at(2 * q + 1) << 16;

    __syncwarp(); /* as for ldmatrix */
    return r;
}

#include SOURCE

#define LIST(name)                                                                                 \
    static const kernel_listed listed_##name(#name,                                                \
                                             [](void **args) { return kernel_bind(name, args); });
#include KERNELS
