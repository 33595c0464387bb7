/* fed_codes.cuh - products of codes in records (dev.h) in programs on Hopper, by a ring that one warp
 * fills (fed.cuh). A group of it is FED_RECORDS records for each of a block's warps, as they lie in
 * memory: a bulk copy or, of a gated product, one of the gate's and one of the other's. Warps share a
 * tile's records in turns, and sum those of their own in order. */
#pragma once

#include <type_traits>

#include "backend/cuda/fed.cuh"

/* feed_ring() of records. */
__device__ static __forceinline__ void feed_records(const program &p, fed_ring r)
{
    const int groups = p.a->groups;
    fed_window asked = {};

#pragma unroll 1
    for (int i = 0; i < p.a->n_feeds; i++) {
        const stream_feed f = p.feeds[i];
        const bool gated = f.swiglu;
        const int rec = f.stride, each = fed_team(gated) * FED_RECORDS; /* from one matrix */

        fed_tiles(p, i, f.tiles, (f.stages + each - 1) / each, [&](int tile, bool last) {
            const feed_tile in = gated ? feed_tile{ f.q[0], tile } : feed_at(f, tile);
            const size_t first = (size_t)in.tile * f.stages * rec;
            const uint8_t *from = in.q + first, *other = f.q[1] + first; /* other: if it is gated */

#pragma unroll 1
            for (int left = f.stages; left > 0; left -= each) {
                const int n = min(each, left) * rec;
                const uint32_t to = r.to + slot_of(r.now.place) * p.a->group,
                               bar = r.landed + slot_of(r.now.place) * 8;

                fed_room(r, asked, i, groups);
                if (elected()) {
                    r.tile[slot_of(r.now.place)] = last ? tile | FED_LAST : tile;
                    bar_expect(bar, gated ? 2 * n : n);
                    bulk_copy_once(to, from, n, bar);
                    if (gated)
                        bulk_copy_once(to + each * rec, other, n, bar);
                }
                __syncwarp();
                from += n;
                other += n;
                r.now.place = fed_next(r.now.place, groups);
            }
        });
        if ((int)blockIdx.x >= f.tiles)
            feed_nothing(r, asked, i, groups);
    }
}

/* fed_rows of one row in whole numbers (whole.cuh): a record's columns 8 a lane. */
struct fed_whole {
    enum { LANES = DEV_CHUNK / 8, GROUPS = WARP / LANES };

    /* The columns of two groups from k on that are the warp's: f(the lane's first, whether it is
     * there) has the values. */
    template <class F>
    __device__ static __forceinline__ void put(const stream_args &a, uint16_t *to,
                                               const fed_share &mine, int k, const F &f)
    {
        const int lane = mine.lane % LANES, first = k + mine.at + mine.lane / LANES * mine.cols;
        const bool there = first < a.out[0].w.kp;
        const uint4 v = f(first + lane * 8, there);

        whole_put((uint8_t *)to + first / DEV_CHUNK * WHOLE_RECORD, v, lane / 4, lane % 4, there);
    }
    __device__ static __forceinline__ void copy(const stream_args &a, uint16_t *to,
                                                const fed_share &mine)
    {
#pragma unroll 1
        for (int k = 0; k < a.out[0].w.kp; k += GROUPS * mine.cols)
            put(a, to, mine, k, [&](int at, bool there) {
                return there ? *(const uint4 *)(a.x + at) : make_uint4(0, 0, 0, 0);
            });
    }
    __device__ static __forceinline__ void take(const stream_args &a, uint16_t *to,
                                                const fed_share &mine, int k, unsigned tag)
    {
        put(a, to, mine, k, [&](int at, bool there) {
            uint2 w[2];

            tagged_wait<2>(w, a.take_x + at / 2, 2, there ? 2 : 0, tag);
            return make_uint4(w[0].x, w[0].y, w[1].x, w[1].y);
        });
        __syncwarp();
    }
};

/* A warp's records of a group, `apart` bytes, times x from its column `at` on. All are loaded before
 * any is used, those that are not there too; of x then another one. */
template <bool PAIR, bool ZEROS>
__device__ static __forceinline__ void fed_whole_group(float acc[2], const uint8_t *records,
                                                       int apart, const uint8_t *x, unsigned at,
                                                       unsigned kp, const shared_form &form, int gi,
                                                       int zero, const fed_share &share)
{
    whole_record w[FED_RECORDS];
    whole_share v[FED_RECORDS];

#pragma unroll
    for (int i = 0; i < FED_RECORDS; i++) {
        const unsigned from = at + i * share.cols;

        v[i] = whole_load(x + (from < kp ? from : 0) / DEV_CHUNK * WHOLE_RECORD, share.lane);
        w[i] = whole_read<PAIR, ZEROS>(records + i * apart, form.gs, gi, share.lane);
    }
#pragma unroll
    for (int i = 0; i < FED_RECORDS; i++)
        whole_add<PAIR, ZEROS>(acc, w[i], zero, v[i], share.lane, at + i * share.cols < kp);
}

/* The sums of a row of W in four lanes that have columns each, as those that one has. */
__device__ static __forceinline__ void fed_whole_sums(float acc[4], const float part[2], int lane)
{
    const bool odd = lane % 2;
    float v = odd ? part[1] : part[0];

    v += __shfl_xor_sync(~0u, odd ? part[0] : part[1], 1);
    v += __shfl_xor_sync(~0u, v, 2);
    acc[0] = v;
    acc[2] = __shfl_xor_sync(~0u, v, 1);
}

/* fed_phase() of records. All are FINE in stage_product's terms: with less code besides, attention has
 * more registers. TILES: of 8 rows of x; 0: one row, which codes of four bits meet in whole numbers. */
template <int KIND, bool PAIR, int TILES>
__device__ static __forceinline__ void fed_codes_phase(const program &p, fed_ring &r,
                                                       const stream_args &a, const int &phase,
                                                       bool more)
{
    enum { BLOCKS = kind_of<KIND>::blocks, COLS = BLOCKS * 32, NT = TILES ? TILES : 1 };
    constexpr bool whole = TILES == 0 && KIND == DEV_U4;
    typedef typename std::conditional<whole, fed_whole, fed_rows<COLS>>::type X;
    const int thread = thread_now(), warp = held(thread / WARP), lane = held(thread % WARP);
    const int kp = held(a.out[0].w.kp), T = held(a.T), groups = p.a->groups, rec = a.out[0].w.rec;
    const int team = fed_team(a.swiglu), place = warp & (team - 1);
    const int stride = held(a.kept ? a.kept / 2 : kp), g = held(lane / 4);
    const fed_share share = { team * COLS, place * COLS, stride, lane };
    const bool near = a.kept > 0;
    const shared_form form = form_of(a.out[0].w, a.out[0].w.gs == 1);
    const int gi = held(form.one ? 0 : lane % 4), zero = a.out[0].w.zero_const;
    /* in a group, this warp's records */
    const uint32_t mine = held((uint32_t)((warp - place) * FED_RECORDS + place) * rec);
    const int apart = held(team * rec);
    /* this lane's row of x, if it is kept, from its columns on */
    const uint32_t kept =
        held((uint32_t)((uint8_t *)p.inputs - r.at) +
             (whole ? 0 : (g * stride + share.at + lane % 4 * (KIND == DEV_U6 ? 4 : 8)) * 2));
    const uint32_t landed = held(r.landed), freed = held(r.freed);
    int slot = held(slot_of(r.now.place)), round = held(round_of(r.now.place));
    int turn = held(r.now.turn);
    uint4 x[BLOCKS * NT] = {}; /* rows beyond T stay zeros */

    static_assert((int)X::GROUPS >= FED_RECORDS, "a group's columns are taken at once");
    int ready = fed_open<X, NT>(p, r, a, share, kp, near, thread, phase);
    const auto next = [&] {
        __syncwarp();
        if (lane == 0)
            bar_arrive(freed + slot * 8);
        if (++slot == groups)
            slot = 0, round ^= 1;
    };
#pragma unroll 1
    for (bool last = false; !last;) {
        bar_wait(landed + slot * 8, round);
        const int begun = r.tile[slot];

        if (begun < 0) {
            next();
            break;
        }
        fed_begin(p, r, turn, { begun & ~FED_LAST, phase });
        float acc[1][NT][4] = {}, part[2] = {}; /* part: in whole numbers */
#pragma unroll 1
        for (int k = 0;;) {
            const uint8_t *at = r.at + mine + slot * p.a->group;

            if (NT == 1 && k >= ready) { /* of the first tile */
                X::take(a, p.inputs, share, k, p.tag + phase);
                ready += X::GROUPS * share.cols;
            }
            if constexpr (whole) {
                if (!PAIR && form.zeros)
                    fed_whole_group<PAIR, true>(part, at, apart, r.at + kept, k + share.at, kp, form,
                                                gi, zero, share);
                else
                    fed_whole_group<PAIR, false>(part, at, apart, r.at + kept, k + share.at, kp,
                                                 form, gi, zero, share);
            }
#pragma unroll
            for (int i = 0; i < (whole ? 0 : FED_RECORDS); i++, at += apart) {
                const int from = k + i * share.cols;

                if (from + share.at >= kp)
                    break;
                if (near)
                    load_kept<KIND, NT, BLOCKS>(x, r.at + kept + from * 2, stride, T, g);
                else
                    load_inputs<KIND, NT, BLOCKS>(x, a.x + share.at + from, stride, T);
                if (!PAIR && KIND != DEV_U6 && form.zeros)
                    stage_product<KIND, true, PAIR, true, NT>(acc[0], at, form, x, NULL, lane);
                else
                    stage_product<KIND, true, PAIR, false, NT>(acc[0], at, form, x, NULL, lane);
            }
            k += FED_RECORDS * share.cols;
            if (k >= kp) {
                last = r.tile[slot] & FED_LAST;
                next();
                break;
            }
            next();
            bar_wait(landed + slot * 8, round);
        }
        if (whole)
            fed_whole_sums(acc[0][0], part, lane);
        fed_give<NT, 1>(p, turn++, T, acc);
    }
    fed_close<X, NT>(p, r, a, share, kp, ready, phase, more, turn);
    r.now.place = slot | round * FED_ROUND, r.now.turn = turn;
}
