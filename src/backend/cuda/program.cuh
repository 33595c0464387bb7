/* program.cuh - programs: products of few rows (stream.cuh) and the attention between them, one after
 * the other in one kernel that has a block on each multiprocessor. Blocks wait for one another
 * between phases; the weights of what comes next are on their way meanwhile. */
#pragma once

#include "backend/cuda/attn_program.cuh"
#include "backend/cuda/fed_codes.cuh"
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/stream.cuh"

enum { THREADS = STREAM_WARPS * WARP, WORDS = sizeof(dev_phase) / sizeof(uint4) };

static_assert(sizeof(dev_phase) % sizeof(uint4) == 0 && WORDS <= THREADS, "copied by 16 bytes");
static_assert(sizeof(stream_feed) % sizeof(uint4) == 0, "phases lie after feeds");

/* The block has done its phase. */
__device__ static inline void arrive(unsigned *gate)
{
    named_sync(WORKERS, THREADS);
    if (threadIdx.x == 0)
        gate_arrive(gate);
}

/* The last block to leave makes everything ready for the next program. */
__device__ static inline void leave(const program_args &a)
{
    __shared__ bool last;

    if (threadIdx.x == 0)
        last = atomicAdd(&a.gate[1], 1) == gridDim.x - 1;
    named_sync(WORKERS, THREADS);
    if (!last)
        return;
    for (int k = 0; k < PASSES; k++)
        for (int i = threadIdx.x; i < a.n_words[k]; i += THREADS)
            a.words[k * PASS_WORDS + i] = __uint_as_float(ABSENT);
    if (threadIdx.x)
        return;
    a.gate[0] = a.gate[1] = 0;
    *a.tags += (unsigned)a.n;
    for (int i = 0; a.claims && i < a.n_feeds; i++)
        a.claims[i] = 0;
}

__device__ static __forceinline__ bool attn_of(const attn_phase &p, const attn_row *row,
                                               attn_known &known, uint8_t *scratch,
                                               const float2 *turns, const gate_stop &stop,
                                               const phase_tag &tag)
{
    if (p.enc == DEV_ENC_F16)
        return attn_items<DEV_ENC_F16>(p, row, known, scratch, turns, stop, tag);
    if (p.enc == DEV_ENC_BF16)
        return attn_items<DEV_ENC_BF16>(p, row, known, scratch, turns, stop, tag);
    return attn_items<DEV_ENC_F8_E4M3>(p, row, known, scratch, turns, stop, tag);
}

/* form: as in dev_phase. NT: tiles of 8 rows of x; 0: one row, with codes of four bits in whole
 * numbers. */
template <int CLASS, int NT>
__device__ static __forceinline__ void product_of(program &p, const stream_args &s, int form)
{
#define FORM(kind, fine, pair)                                                                     \
    case kind * 4 + fine * 2 + pair:                                                               \
        stream_phase<CLASS, kind, fine, pair, kind == DEV_U4 || NT ? NT : 1>(p, s);                \
        break
    if constexpr (CLASS == CLASS_W16) {
        switch (form) {
            FORM(DEV_B16, 0, 0);
            FORM(DEV_H16, 0, 0);
        }
    } else if constexpr (CLASS == CLASS_F8) {
        stream_phase<CLASS, DEV_F8, false, false, NT>(p, s);
    } else if constexpr (CLASS == CLASS_N4) {
        stream_phase<CLASS, DEV_N4, true, false, NT>(p, s);
    } else {
        switch (form) {
            FORM(DEV_U8, 0, 0);
            FORM(DEV_U8, 1, 0);
            FORM(DEV_U8, 1, 1);
            FORM(DEV_U4, 0, 0);
            FORM(DEV_U4, 1, 0);
            FORM(DEV_U4, 1, 1);
        default:
            if constexpr (CLASS == CLASS_U6)
                stream_phase<CLASS, DEV_U6, true, false, NT ? NT : 1>(p, s);
        }
    }
#undef FORM
}

/* product_of() of those that are fed. */
template <int CLASS, int NT>
__device__ static __forceinline__ void fed_product_of(const program &p, fed_ring &r,
                                                      const dev_phase &now, const int &phase,
                                                      const int &more)
{
    if constexpr (CLASS == CLASS_FED8) {
        fed8<NT>::product(p, r, now, phase, more);
    } else if constexpr (CLASS == CLASS_FED_N4) {
        fed_codes_phase<DEV_N4, false, NT>(p, r, now.u.s, phase, more);
    } else if constexpr (CLASS == CLASS_FED) {
        if (now.form == DEV_B16 * 4)
            fed_phase<DEV_B16, NT>(p, r, now.u.s, phase, more);
        else
            fed_phase<DEV_H16, NT>(p, r, now.u.s, phase, more);
    } else {
        const stream_args &a = now.u.s;
        const dev_weight &w = a.out[0].w;

        if (w.kind == DEV_U6)
            fed_codes_phase<DEV_U6, false, NT>(p, r, a, phase, more);
        else if (w.kind == DEV_U4 && w.pair)
            fed_codes_phase<DEV_U4, true, NT>(p, r, a, phase, more);
        else if (w.kind == DEV_U4)
            fed_codes_phase<DEV_U4, false, NT>(p, r, a, phase, more);
        else if (w.pair)
            fed_codes_phase<DEV_U8, true, NT>(p, r, a, phase, more);
        else
            fed_codes_phase<DEV_U8, false, NT>(p, r, a, phase, more);
    }
}

/* The first multiple of SWIZZLE_ATOM from p on, in shared memory. */
__device__ static __forceinline__ uint8_t *swizzle_aligned(uint8_t *p)
{
    return p + (0u - (uint32_t)__cvta_generic_to_shared(p)) % SWIZZLE_ATOM;
}

/* Where things lie in shared memory (program_args). */
struct division {
    uint8_t *lut;
    float *scratch;
    float2 *turns;
    stream_feed *feeds;
    uint4 *phases;
    uint16_t *inputs;
};

/* Whether blocks have feeds in shared memory; others leave them where they are. */
template <int CLASS> __device__ static constexpr bool brings_feeds()
{
    return CLASS != CLASS_FED8 && !fed_records<CLASS>();
}

/* Whether N4's pairs of values are in shared memory. */
template <int CLASS, int NT> __device__ static constexpr bool has_table()
{
    return CLASS == CLASS_N4 || (CLASS == CLASS_FED_N4 && NT);
}

template <int CLASS, int NT>
__device__ static __forceinline__ division divide(const program_args &a, uint8_t *shared)
{
    constexpr bool is8 = CLASS == CLASS_FED8;
    division d;

    d.lut = shared + a.ring;
    d.scratch = (float *)(d.lut + (has_table<CLASS, NT>() ? LUT_N4 : 0));
    d.turns = (float2 *)((uint8_t *)d.scratch + a.scratch);
    d.feeds = (stream_feed *)(d.turns + a.n_rows * a.half);
    d.phases = (uint4 *)(d.feeds + (brings_feeds<CLASS>() ? a.n_feeds : 0));
    d.inputs = (uint16_t *)(d.phases + PHASES_KEPT * WORDS);
    if (is8)
        d.inputs = (uint16_t *)swizzle_aligned((uint8_t *)d.inputs);
    return d;
}

/* The phases, by a block's warps. */
template <int CLASS, int NT>
__device__ static __forceinline__ void run_phases(program &p, const division &d,
                                                  const attn_row *row)
{
    const program_args &a = *p.a;
    constexpr bool loads = CLASS != CLASS_W16 && CLASS != CLASS_N4; /* weights with rules for x */
    __shared__ attn_known known;

#pragma unroll 1
    for (int i = 0; i < a.n; i++) {
        const dev_phase &now = *(const dev_phase *)(d.phases + i % PHASES_KEPT * WORDS);
        const gate_stop stop = { a.gate, i * gridDim.x };

        if (i + 1 < a.n && threadIdx.x < WORDS)
            d.phases[(i + 1) % PHASES_KEPT * WORDS + threadIdx.x] =
                ((const uint4 *)(a.phase + i + 1))[threadIdx.x];
        if (now.kind == PHASE_ATTN) {
            attn_of(now.u.a, row, known, (uint8_t *)d.scratch, d.turns, stop,
                    { &p.tag, &now.number });
        } else {
            stop_at(stop, THREADS);
            if (loads && now.kind == PHASE_LOAD) {
                load_apart(now.u.s);
            } else {
                if (loads && now.u.s.load.x)
                    load_rows(now.u.s, 0, now.u.s.T, p.inputs, now.u.s.kept / 2, p.factor);
                product_of<CLASS, NT>(p, now.u.s, now.form);
            }
        }
        if (i + 1 < a.n)
            arrive(a.gate);
    }
}

/* Where a warp of those that are fed is in a program. */
struct fed_at {
    fed_place now;
    int phase, gates; /* gates: before the phase */
    int met;          /* the block's warps have, in an item of the attention before */
};

/* The same of those that are fed. What a phase takes to know is found anew in each, lest it is kept
 * in local memory through attention: a round trip to the second-level cache. */
template <int CLASS, int NT, class STATE>
__device__ static __forceinline__ void run_fed(const program_args &a, uint8_t *shared,
                                               const attn_row *row, const STATE &state,
                                               const fed_ring &all, const unsigned &tag)
{
    constexpr bool is8 = CLASS == CLASS_FED8;
    __shared__ attn_known known;
    __shared__ fed_at kept[STREAM_WARPS];

    if (threadIdx.x % WARP == 0)
        kept[threadIdx.x / WARP] = {};
    __syncwarp();
#pragma unroll 1
    for (;;) {
        const division d = divide<CLASS, NT>(a, shared + held(0));
        const unsigned thread = thread_now(), i = kept[thread / WARP].phase;
        /* in place of the one three before: of two before another warp may still be in one, for a
         * block without items of attention does not stop there */
        dev_phase *const phases = (dev_phase *)d.phases;
        const dev_phase &now = phases[i % PHASES_KEPT];

        if (i == (unsigned)a.n)
            break;
        /* by the last warp, for the first has most to do */
        if (thread == THREADS - WARP && i + 1 < (unsigned)a.n) {
            const unsigned to = (i + 1) % PHASES_KEPT;

            bar_expect(all.brought + to * 8, sizeof(dev_phase));
            bulk_copy((uint32_t)__cvta_generic_to_shared(phases + to), a.phase + i + 1,
                      sizeof(dev_phase), all.brought + to * 8);
        }
        fed_wait_brought(all.brought, i);
        const gate_stop stop = { a.gate, now.takes ? 0 : kept[thread / WARP].gates * gridDim.x };
        bool met = false;

        if (now.kind == PHASE_ATTN) {
            /* where attention has a place of its own others may leave while its sums are read */
            uint8_t *const place = is8 && !a.attn ? (uint8_t *)d.inputs
                                                  : (uint8_t *)d.scratch + a.attn;

            met = attn_of(now.u.a, row, known, place, d.turns, stop,
                          { &tag, &now.number }) &&
                  now.u.a.take_x && a.attn;
            /* the phase after the next comes where one is that those who end tiles may still
             * read */
            if (const int turn = kept[(unsigned)thread_now() / WARP].now.turn; a.attn && turn > 0)
                fed_wait_read(state(d), turn - 1);
            if (!now.gives && now.more)
                arrive(a.gate);
        } else {
            const program p = state(d);
            fed_ring ring = all;

            ring.at = shared + held(0);
            ring.now = kept[thread / WARP].now;
            if (is8 || !now.takes || !kept[thread / WARP].met)
                stop_at(stop, THREADS);
            fed_product_of<CLASS, NT>(p, ring, now, now.number, now.more);
            /* of the product those arrive that end its tiles */
            if (is8 && now.kind == PHASE_LOAD)
                arrive(a.gate);
            if (fed_place &at = kept[(unsigned)thread_now() / WARP].now;
                thread_now() % WARP == 0) {
                at.place = ring.now.place, at.turn = ring.now.turn;
                if (is8)
                    at.x_turn = ring.now.x_turn;
            }
        }
        if (fed_at *const at = kept + (unsigned)thread_now() / WARP; thread_now() % WARP == 0) {
            at->phase++;
            at->gates += !now.gives;
            at->met = met;
        }
        __syncwarp();
    }
    fed_mark<NT ? NT : 1>(state(divide<CLASS, NT>(a, shared)), all,
                          kept[threadIdx.x / WARP].now.turn, a.T, { LAST, 0 });
}

/* Whether what is fed is records that one row meets. */
template <int CLASS, int NT> __device__ static constexpr bool feeds_one()
{
    return NT == 0 || CLASS == CLASS_FED_N4;
}

/* Registers of a thread: a kernel of 640 threads begins with 96. With one row of records the warps
 * that feed and end tiles need fewer, and the others get those. */
enum { ENDS_REGISTERS = 64, PRODUCT_REGISTERS = 104 };

template <int CLASS, int NT> __device__ static constexpr bool hands_registers()
{
    return HOPPER && feeds_one<CLASS, NT>();
}

/* grid: a block on each multiprocessor, all at once; 512 threads, and four warps more where a ring
 * is fed; shared memory: see program_args */
template <int CLASS, int NT>
__device__ static __forceinline__ void program_body(const program_args &a)
{
    typedef ring_of<CLASS> R;
    constexpr bool is8 = CLASS == CLASS_FED8, fed = CLASS >= CLASS_FED;
    constexpr bool brings = brings_feeds<CLASS>();
    extern __shared__ __align__(128) uint8_t unaligned[];
    uint8_t *const shared = is8 ? swizzle_aligned(unaligned) : unaligned;
    __shared__ uint64_t full[SUM_BARRIERS], empty[SUM_BARRIERS];
    __shared__ uint64_t landed[FED_GROUPS], freed[FED_GROUPS];
    __shared__ int tile[FED_GROUPS];
    __shared__ fed_done done[1 << SUM_BUFFERS];
    __shared__ uint64_t begun[1 << SUM_BUFFERS];
    __shared__ uint64_t x_landed[FED8_BARRIERS];
    __shared__ uint64_t brought[PHASES_KEPT]; /* phases but the first */
    __shared__ int begins;
    __shared__ unsigned tag; /* of what the first phase takes, if it does */
    __shared__ attn_row row[DEV_STREAM_ROWS];
    __shared__ float factor[DEV_STREAM_ROWS];
    const int warp = threadIdx.x / WARP;
    const division d = divide<CLASS, NT>(a, shared);
    const auto state = [&](const division &d) {
        program p = { &a, brings ? d.feeds : a.feed };

        p.full = bar_at(full);
        p.empty = bar_at(empty);
        p.scratch = d.scratch;
        p.inputs = d.inputs;
        p.factor = factor;
        p.lut = (const uint32_t *)d.lut;
        p.tag = tag;
        return p;
    };

    for (int i = threadIdx.x; brings && i < a.n_feeds * (int)(sizeof(*d.feeds) / 8); i += THREADS)
        ((uint64_t *)d.feeds)[i] = ((const uint64_t *)a.feed)[i];
    if (threadIdx.x < WORDS)
        d.phases[threadIdx.x] = ((const uint4 *)a.phase)[threadIdx.x];
    if constexpr (has_table<CLASS, NT>())
        for (int i = threadIdx.x; i < 256 * WARP; i += THREADS)
            ((uint32_t *)d.lut)[i] = a.table[i / WARP & 15] | (uint32_t)a.table[i / WARP >> 4]
                                                                  << 16;
    if (threadIdx.x < a.n_rows) {
        const int seq = a.seq[threadIdx.x];

        row[threadIdx.x] = { a.blocks[seq], a.slot[threadIdx.x], a.pos ? a.pos[threadIdx.x] : 0,
                             seq };
    }
    for (int i = threadIdx.x; i < a.n_rows * a.half; i += THREADS) {
        float sine, cosine;

        sincosf((float)a.pos[i / a.half] * a.inv_freq[i % a.half], &sine, &cosine);
        d.turns[i] = make_float2(cosine, sine);
    }
    if (threadIdx.x < SUM_BARRIERS) {
        const int team = threadIdx.x >> SUM_BUFFERS; /* 1 team, then 2, then 4 */

        bar_init(bar_at(full) + threadIdx.x * 8, team_size(team < 1 ? 0 : team < 3 ? 1 : 2));
        bar_init(bar_at(empty) + threadIdx.x * 8, fed ? FED_ENDS : (a.T + 1) / 2);
    }
    if (threadIdx.x == 0)
        tag = *a.tags;
    if constexpr (is8)
        fed8<NT>::begin(a, bar_at(x_landed));
    if (fed && threadIdx.x == 0) {
        for (int i = 0; i < FED_GROUPS; i++) {
            bar_init(bar_at(landed + i), 1);
            bar_init(bar_at(freed + i), STREAM_WARPS);
        }
        for (int i = 0; i < 1 << SUM_BUFFERS; i++)
            bar_init(bar_at(begun + i), 1);
        for (int i = 0; i < PHASES_KEPT; i++)
            bar_init(bar_at(brought + i), 1);
        begins = 0;
        bar_fence_init();
    }
    __syncthreads();
    program p = state(d);
    const fed_ring ring = { shared,
                            (uint32_t)__cvta_generic_to_shared(shared),
                            bar_at(landed),
                            bar_at(freed),
                            tile,
                            done,
                            bar_at(begun),
                            &begins,
                            {},
                            bar_at(x_landed),
                            bar_at(brought) };

    if constexpr (fed) {
        if (warp >= STREAM_WARPS) {
            if constexpr (hands_registers<CLASS, NT>())
                registers_less<ENDS_REGISTERS>();
            if (warp == STREAM_WARPS) {
                if constexpr (is8)
                    fed8<NT>::feed(p, ring);
                else if constexpr (fed_records<CLASS>())
                    feed_records<feeds_one<CLASS, NT>() ? 0 : NT>(p, ring);
                else
                    feed_ring(p, ring);
                return;
            }
            if constexpr (feeds_one<CLASS, NT>())
                fed_ends_one<CLASS>(p, ring, (const dev_phase *)d.phases);
            else
                fed_ends<CLASS, NT>(p, ring, (const dev_phase *)d.phases);
            return;
        }
        if constexpr (hands_registers<CLASS, NT>())
            registers_more<PRODUCT_REGISTERS>();
        run_fed<CLASS, NT>(a, shared, row, state, ring, tag);
    } else {
        p.ring = shared + warp * R::depth * R::slot;
        p.ring_at = (uint32_t)__cvta_generic_to_shared(p.ring);
        p.ask.feed = -1;
        enter_tile<CLASS>(p);
#pragma unroll 1
        for (int i = 0; i < R::depth - 1; i++)
            fetch<CLASS>(p, i);
        run_phases<CLASS, NT>(p, d, row);
    }
    leave(a);
}

/* What is fed is Hopper's, W16 others': nobody launches what is empty. */
template <int CLASS, int NT>
__device__ static __forceinline__ void program_of(const program_args &a)
{
    if constexpr (CLASS == CLASS_FED8  ? HOPPER
                  : CLASS >= CLASS_FED ? BIG
                                       : CLASS != CLASS_W16 || !BIG)
        program_body<CLASS, NT>(a);
}

#define PROGRAM(name, class, nt)                                                                   \
    extern "C" __global__ void __launch_bounds__(RING_THREADS(class, BIG), 1)                      \
        program_##name##_##nt(const __grid_constant__ program_args a)                              \
    {                                                                                              \
        program_of<class, nt>(a);                                                                  \
    }
#define PROGRAMS(name, class)                                                                      \
    PROGRAM(name, class, 1)                                                                        \
    PROGRAM(name, class, 2)
