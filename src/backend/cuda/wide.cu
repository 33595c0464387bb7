/* wide.cu - y = x W^T for 17 to 64 rows of x and codes in records (dev.h), which are widened in registers
 * as for fewer rows (stream.cuh), not in memory first.
 *
 * A block has WIDE_WARPS tiles of 16 rows of W, a warp each, and a part of the columns. It goes through
 * them record by record: a record for each warp and those columns of x, for all warps, come to shared
 * memory some steps ahead. x lies there as its lanes read it: 16 bytes for each lane of the warp, block
 * of 32 columns and tile of 8 rows. Parts of the columns are added up, in their order, by the block that
 * ends last. How columns are cut depends on W alone, and so does the order of every sum: a row's result
 * is the same beside any others. */
#include "backend/cuda/block.cuh"
#include "backend/cuda/stream.cuh"

enum { THREADS = WIDE_WARPS * WARP };

/* Sum v of row t of x and row `row` of out. */
__device__ static inline void end_sum(const stream_args &a, const dev_out &out, int t, int row, float v)
{
    float *y = out.y + (size_t)t * out.w.rows + row;

    if (out.w.gs == 0)
        v *= scale_at(out.w, row / out.w.row_group);
    *y = a.add ? *y + v : v;
}

/* Where the sums of part `split` for row t of x are. */
__device__ static inline float *part_at(const wide_args &a, int split, int t)
{
    return a.part + ((size_t)split * a.s.T + t) * a.s.tiles * DEV_TILE;
}

/* The parts of the columns of tiles item .. item + n, by the threads of the block that is last. */
__device__ static inline void add_parts(const wide_args &a, int item, int n, int threads)
{
    for (int i = threadIdx.x; i < n * DEV_TILE * a.s.T; i += threads) {
        const int t = i / (n * DEV_TILE), r = item * DEV_TILE + i % (n * DEV_TILE);
        float v = 0;
        int tile;
        const dev_out &out = out_of(a.s, r / DEV_TILE, &tile);
        const int row = tile * DEV_TILE + r % DEV_TILE;

        if (row >= out.w.rows)
            continue;
#pragma unroll 4
        for (int s = 0; s < a.splits; s++)
            v += part_at(a, s, t)[r];
        end_sum(a.s, out, t, row, v);
    }
}

/* Columns of record s of x, rows beyond T as the last one, to shared memory. */
template <int KIND, int NT>
__device__ static inline void fetch_inputs(uint32_t to, const stream_args &a, int s)
{
    constexpr int blocks = kind_of<KIND>::blocks, cols = blocks * 32;
    const size_t kp = a.out[0].w.kp;

#pragma unroll
    for (int i = threadIdx.x; i < NT * blocks * WARP; i += THREADS) {
        const int lane = i % WARP, n = i / WARP % NT, j = i / WARP / NT, c = lane % 4;
        const int row = min(n * 8 + lane / 4, a.T - 1);
        const uint16_t *from = a.x + row * kp + (size_t)s * cols + 32 * j;

        if constexpr (KIND == DEV_U6) { /* as in inputs_at */
            copy_async8(to + i * 16, from + 4 * c);
            copy_async8(to + i * 16 + 8, from + 16 + 4 * c);
        } else {
            copy_async(to + i * 16, from + 8 * c);
        }
    }
}

/* A record to shared memory. */
__device__ static inline void fetch_record(uint32_t to, const uint8_t *from, int rec)
{
    for (int i = threadIdx.x % WARP * 16; i < rec; i += WARP * 16)
        copy_async(to + i, from + i);
}

template <int KIND, bool FINE, bool PAIR, int NT>
__device__ static __forceinline__ void wide_body(const wide_args &a)
{
    typedef kind_of<KIND> K;
    constexpr int inputs = WIDE_INPUTS(K::blocks * 32, NT);
    extern __shared__ __align__(128) uint8_t shared[];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    const dev_weight &w = a.s.out[0].w; /* what all outputs share */
    const int rec = w.rec, n_rec = w.kp / (K::blocks * 32), stage = inputs + WIDE_WARPS * rec;
    const int item = blockIdx.x * WIDE_WARPS + warp, split = blockIdx.y;
    const int first = split * a.per, last = min(n_rec, first + a.per);
    const shared_form form = form_of(w);
    const uint32_t *lut = NULL;
    uint8_t *room = shared;
    float acc[NT][4] = {};
    int tile;

    if constexpr (KIND == DEV_N4) {
        for (int i = threadIdx.x; i < 256 * WARP; i += THREADS)
            ((uint32_t *)shared)[i] = w.table[i / WARP & 15] | (uint32_t)w.table[i / WARP >> 4] << 16;
        lut = (const uint32_t *)shared;
        room += LUT_N4;
    }
    /* a warp without a tile computes the last one too, for nothing */
    const dev_out &out = out_of(a.s, min(item, a.s.tiles - 1), &tile);
    const uint8_t *const from = out.w.q + (size_t)tile * n_rec * rec;
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(room);

#pragma unroll
    for (int i = 0; i < WIDE_STAGES - 1; i++) {
        if (first + i < last) {
            fetch_inputs<KIND, NT>(at + i * stage, a.s, first + i);
            fetch_record(at + i * stage + inputs + warp * rec, from + (size_t)(first + i) * rec, rec);
        }
        copy_commit();
    }
    for (int s = first; s < last; s++) {
        const int next = s + WIDE_STAGES - 1, there = (next - first) % WIDE_STAGES * stage;

        copy_wait<WIDE_STAGES - 2>();
        __syncthreads(); /* of all; and nobody reads the stage before any more */
        if (next < last) {
            fetch_inputs<KIND, NT>(at + there, a.s, next);
            fetch_record(at + there + inputs + warp * rec, from + (size_t)next * rec, rec);
        }
        copy_commit();
        const uint8_t *const here = room + (s - first) % WIDE_STAGES * stage;
        const uint4 *const x = (const uint4 *)here + lane;

        if ((KIND == DEV_U4 || KIND == DEV_U8) && !PAIR && form.zeros)
            stage_product<KIND, FINE, PAIR, true, NT, WARP>(acc, here + inputs + warp * rec, form, x,
                                                            lut);
        else
            stage_product<KIND, FINE, PAIR, false, NT, WARP>(acc, here + inputs + warp * rec, form, x,
                                                             lut);
    }
    if (item < a.s.tiles)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int t = n * 8 + 2 * c + i % 2, r = g + i / 2 * 8, row = tile * DEV_TILE + r;

                if (t >= a.s.T)
                    continue;
                if (a.splits > 1)
                    part_at(a, split, t)[item * DEV_TILE + r] = acc[n][i];
                else if (row < out.w.rows)
                    end_sum(a.s, out, t, row, acc[n][i]);
            }
    if (a.splits > 1 && last_of(a.done + blockIdx.x, a.splits, blockDim.x))
        add_parts(a, item - warp, min((int)WIDE_WARPS, a.s.tiles - (item - warp)), THREADS);
}

/* grid: (tiles / WIDE_WARPS, splits), 256 threads, shared memory: WIDE_SHARED */
#define WIDE(name, nt, ...)                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
        wide_##name##_##nt(const __grid_constant__ wide_args a)                                    \
    {                                                                                              \
        __VA_ARGS__;                                                                               \
    }
/* Kinds of one scale or many in a record; those with pairs, which take more registers, on their own. */
#define CODES(name, nt, kind)                                                                      \
    WIDE(name, nt,                                                                                 \
         if (a.s.out[0].w.gs > 1) wide_body<kind, true, false, nt>(a);                             \
         else wide_body<kind, false, false, nt>(a))                                                \
    WIDE(name##_pair, nt, (wide_body<kind, true, true, nt>(a)))
#define WIDES(nt)                                                                                  \
    CODES(u8, nt, DEV_U8)                                                                          \
    CODES(u4, nt, DEV_U4)                                                                          \
    WIDE(u6, nt, (wide_body<DEV_U6, true, false, nt>(a)))                                          \
    WIDE(n4, nt, (wide_body<DEV_N4, true, false, nt>(a)))

WIDES(4)
WIDES(8)
