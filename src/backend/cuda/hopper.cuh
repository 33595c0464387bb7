/* hopper.cuh - what compute capability 9.0 alone has: products of a warpgroup (wgmma), copies of
 * tiles (TMA), registers that warpgroups hand to one another.
 *
 * A tile in shared memory is a column of rows of 128 bytes, row r at 128 r; 16 bytes number c of it
 * lie at (c ^ r % 8) * 16 (the 128-byte swizzle), and it begins at a multiple of 1024. */
#pragma once

#include "backend/cuda/barrier.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER 1
#else
#define HOPPER                                                                                     \
    0 /* the kernels are empty and a block of theirs has one warp: nobody launches them */
#endif

enum { WARPGROUP = 128, SWIZZLE_ROW = 128, SWIZZLE_ATOM = 1024 };

/* Where 16 bytes number c of row r lie in a tile. */
__device__ static inline uint32_t swizzled(uint32_t r, uint32_t c)
{
    return r * SWIZZLE_ROW + ((c ^ (r & 7)) << 4);
}

/* ---- registers; templates, which nothing but its kernels makes ---- */

template <int N> __device__ static inline void registers_less(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> __device__ static inline void registers_more(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

#if HOPPER
/* ---- copies ---- */

/* A box of the map from column c, row r on; what lies outside is zero. */
__device__ static inline void tile_copy(uint32_t to, const void *map, int c, int r, uint32_t bar)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(c), "r"(r), "r"(bar)
                 : "memory");
}

/* The same of three axes, and as bulk_copy_once. */
__device__ static inline void box_copy_once(uint32_t to, const void *map, int c, int r, int n,
                                            uint32_t bar)
{
    uint64_t once;

    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(once));
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
                 "l"(map), "r"(c), "r"(r), "r"(n), "r"(bar), "l"(once)
                 : "memory");
}

/* A map in memory that was written before the kernel is as it is there; by one thread of a block
 * before others use it. */
__device__ static inline void fence_map(const void *map)
{
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
}

/* Ordinary writes to shared memory are seen by wgmma and by copies. */
__device__ static inline void fence_async(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Ordinary writes to any memory, others' that were seen before too, are seen by copies. */
__device__ static inline void fence_async_all(void)
{
    asm volatile("fence.proxy.async;" ::: "memory");
}

/* A word to shared memory, by its address there. */
__device__ static inline void shared_store(uint32_t to, uint32_t v)
{
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(v) : "memory");
}

/* ---- arithmetic ---- */

/* 1 / x, to a few units in the last place; 0 where that would be too small. */
__device__ static inline float reciprocal(float x)
{
    float y;

    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* To 2^-11 of 1. */
__device__ static inline float tanh_fast(float x)
{
    float y;

    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Two values in E4M3 as f16, the lower byte in the lower half. */
__device__ static inline uint32_t pair_of_f8(uint16_t two)
{
    uint32_t r;

    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r) : "h"(two));
    return r;
}

/* ---- products ---- */

/* A swizzled operand at `at`. K-major (a row is a row or column of the product, 64 values of the
 * sum): stride is from 8 rows to the next 8; lead means nothing. MN-major (a row is one value of
 * the sum, 64 columns): stride from 8 rows to the next 8, lead from 64 columns to the next 64. */
__device__ static inline uint64_t operand(uint32_t at, uint32_t lead, uint32_t stride)
{
    return (uint64_t)(at >> 4) | (uint64_t)(lead >> 4) << 16 | (uint64_t)(stride >> 4) << 32 |
           (uint64_t)1 << 62;
}

__device__ static inline void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ static inline void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int N> __device__ static inline void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

#define REGS4  "{%0,%1,%2,%3}"
#define REGS8  "{%0,%1,%2,%3,%4,%5,%6,%7}"
#define REGS16 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}"
#define REGS32                                                                                     \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"  \
    "%25,%26,%27,%28,%29,%30,%31}"
#define REGS64                                                                                     \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"  \
    "%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"
#define REGS128                                                                                    \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"  \
    "%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70," \
    "%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93," \
    "%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,"    \
    "%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}"
#define OUT4(d, i)  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define OUT8(d)     OUT4(d, 0), OUT4(d, 4)
#define OUT16(d, i) OUT4(d, i), OUT4(d, i + 4), OUT4(d, i + 8), OUT4(d, i + 12)
#define OUT32(d)    OUT16(d, 0), OUT16(d, 16)
#define OUT64(d)    OUT16(d, 0), OUT16(d, 16), OUT16(d, 32), OUT16(d, 48)
#define OUT128(d)   OUT64(d), OUT16(d, 64), OUT16(d, 80), OUT16(d, 96), OUT16(d, 112)

/* What is computed with these registers stays before or after this: the compiler does not know when
 * products that are under way write them. */
__device__ static inline void hold(float (&d)[128])
{
    asm volatile("" : OUT128(d)::"memory");
}
__device__ static inline void hold(float (&d)[64])
{
    asm volatile("" : OUT64(d)::"memory");
}
__device__ static inline void hold(float (&d)[32])
{
    asm volatile("" : OUT32(d)::"memory");
}
__device__ static inline void hold(float (&d)[16])
{
    asm volatile("" : OUT16(d, 0)::"memory");
}
__device__ static inline void hold(float (&d)[8])
{
    asm volatile("" : OUT8(d)::"memory");
}
__device__ static inline void hold(float (&d)[4])
{
    asm volatile("" : OUT4(d, 0)::"memory");
}

/* d [64][N] (+)= a b, both K-major, 16 values of the sum. A lane's share of d: that of mma.cuh, 16
 * rows a warp. */
#define WGMMA_SS(n, type, regs, out, i0, i1, i2)                                                   \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" i2 ", 0;\n"                                  \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " " regs ", %" i0  \
                 ", %" i1 ", p, 1, 1, 0, 0;\n}"                                                    \
                 : out(d)                                                                          \
                 : "l"(a), "l"(b), "r"((int)add))
template <bool BF16>
__device__ static inline void wgmma_ss(float (&d)[128], uint64_t a, uint64_t b, bool add)
{
    if constexpr (BF16)
        WGMMA_SS("256", "bf16", REGS128, OUT128, "128", "129", "130");
    else
        WGMMA_SS("256", "f16", REGS128, OUT128, "128", "129", "130");
}
template <bool BF16>
__device__ static inline void wgmma_ss(float (&d)[64], uint64_t a, uint64_t b, bool add)
{
    if constexpr (BF16)
        WGMMA_SS("128", "bf16", REGS64, OUT64, "64", "65", "66");
    else
        WGMMA_SS("128", "f16", REGS64, OUT64, "64", "65", "66");
}
template <bool BF16>
__device__ static inline void wgmma_ss(float (&d)[32], uint64_t a, uint64_t b, bool add)
{
    if constexpr (BF16)
        WGMMA_SS("64", "bf16", REGS32, OUT32, "32", "33", "34");
    else
        WGMMA_SS("64", "f16", REGS32, OUT32, "32", "33", "34");
}

/* The same of E4M3, 32 values of the sum. */
#define WGMMA_F8(n, regs, out, i0, i1, i2)                                                         \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" i2 ", 0;\n"                                  \
                 "wgmma.mma_async.sync.aligned.m64n" n "k32.f32.e4m3.e4m3 " regs ", %" i0 ", %" i1 \
                 ", p, 1, 1;\n}"                                                                   \
                 : out                                                                             \
                 : "l"(a), "l"(b), "r"((int)add))
__device__ static inline void wgmma_f8(float (&d)[128], uint64_t a, uint64_t b, bool add)
{
    WGMMA_F8("256", REGS128, OUT128(d), "128", "129", "130");
}
__device__ static inline void wgmma_f8(float (&d)[64], uint64_t a, uint64_t b, bool add)
{
    WGMMA_F8("128", REGS64, OUT64(d), "64", "65", "66");
}
__device__ static inline void wgmma_f8(float (&d)[32], uint64_t a, uint64_t b, bool add)
{
    WGMMA_F8("64", REGS32, OUT32(d), "32", "33", "34");
}
__device__ static inline void wgmma_f8(float (&d)[16], uint64_t a, uint64_t b, bool add)
{
    WGMMA_F8("32", REGS16, OUT16(d, 0), "16", "17", "18");
}
__device__ static inline void wgmma_f8(float (&d)[8], uint64_t a, uint64_t b, bool add)
{
    WGMMA_F8("16", REGS8, OUT8(d), "8", "9", "10");
}
__device__ static inline void wgmma_f8(float (&d)[4], uint64_t a, uint64_t b, bool add)
{
    WGMMA_F8("8", REGS4, OUT4(d, 0), "4", "5", "6");
}

/* d [64][N] (+)= a b; a: the lanes' registers as in mma.cuh, b MN-major. */
#define WGMMA_RS(n, type, regs, out, i0, i1, i2, i3, i4, i5)                                       \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" i5 ", 0;\n"                                  \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " " regs ", {%" i0 \
                 ",%" i1 ",%" i2 ",%" i3 "}, %" i4 ", p, 1, 1, 1;\n}"                              \
                 : out(d)                                                                          \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add))
template <bool BF16>
__device__ static inline void wgmma_rs(float (&d)[64], const uint32_t *a, uint64_t b, bool add)
{
    if constexpr (BF16)
        WGMMA_RS("128", "bf16", REGS64, OUT64, "64", "65", "66", "67", "68", "69");
    else
        WGMMA_RS("128", "f16", REGS64, OUT64, "64", "65", "66", "67", "68", "69");
}
template <bool BF16>
__device__ static inline void wgmma_rs(float (&d)[32], const uint32_t *a, uint64_t b, bool add)
{
    if constexpr (BF16)
        WGMMA_RS("64", "bf16", REGS32, OUT32, "32", "33", "34", "35", "36", "37");
    else
        WGMMA_RS("64", "f16", REGS32, OUT32, "32", "33", "34", "35", "36", "37");
}

/* The same of f16, b K-major. */
#define WGMMA_RK(n, regs, out, i0, i1, i2, i3, i4, i5)                                             \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" i5 ", 0;\n"                                  \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.f16.f16 " regs ", {%" i0 ",%" i1   \
                 ",%" i2 ",%" i3 "}, %" i4 ", p, 1, 1, 0;\n}"                                      \
                 : out                                                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add))
__device__ static inline void wgmma_rk(float (&d)[8], const uint32_t *a, uint64_t b, bool add)
{
    WGMMA_RK("16", REGS8, OUT8(d), "8", "9", "10", "11", "12", "13");
}
__device__ static inline void wgmma_rk(float (&d)[16], const uint32_t *a, uint64_t b, bool add)
{
    WGMMA_RK("32", REGS16, OUT16(d, 0), "16", "17", "18", "19", "20", "21");
}
__device__ static inline void wgmma_rk(float (&d)[32], const uint32_t *a, uint64_t b, bool add)
{
    WGMMA_RK("64", REGS32, OUT32(d), "32", "33", "34", "35", "36", "37");
}
#endif
