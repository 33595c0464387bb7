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

/* What one row in whole numbers is for codes of four bits; for N4: fed_n4.cuh, in the one file that
 * has some. */
struct whole_u4 {
    enum { RECORD = WHOLE_RECORD };
    struct own {}; /* what a lane has from record to record */

    __device__ static __forceinline__ void put(uint8_t *to, const uint4 &v, int block, int c,
                                               bool there)
    {
        whole_put(to, v, block, c, there);
    }
    __device__ static __forceinline__ int planes_at(int lane)
    {
        return whole_planes_at(lane);
    }
    __device__ static __forceinline__ int word_at(int lane)
    {
        return whole_word_at(lane);
    }
};
template <int KIND> struct whole_way {
    typedef whole_u4 type;
};

/* fed_rows of one row in whole numbers (whole.cuh): a record's columns 8 a lane. */
template <class W> struct fed_whole {
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

        W::put((uint8_t *)to + first / DEV_CHUNK * W::RECORD, v, lane / 4, lane % 4, there);
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

/* A warp's records of a group, `apart` bytes, times x: the first by what lies at planes and word, the
 * next by what is `step` bytes further on. left: the columns that there are from the first's on. All
 * are loaded before any is used, those that are not there too; of x then another one. */
template <bool PAIR, bool ZEROS>
__device__ static __forceinline__ void fed_whole_group(float acc[2], const uint8_t *records,
                                                       int apart, const uint8_t *planes,
                                                       const uint8_t *word, int step, int left,
                                                       const shared_form &form, int gi, int zero,
                                                       const fed_share &share)
{
    whole_record w[FED_RECORDS];
    whole_share v[FED_RECORDS];

#pragma unroll
    for (int i = 0; i < FED_RECORDS; i++) {
        const int to = i * share.cols < left ? i * step : 0;

        v[i] = whole_load(planes + to, word + to, share.lane);
        w[i] = whole_read<PAIR, ZEROS>(records + i * apart, form.gs, gi, share.lane);
    }
#pragma unroll
    for (int i = 0; i < FED_RECORDS; i++)
        whole_add<PAIR, ZEROS>(acc, w[i], zero, v[i], share.lane, i * share.cols < left);
}

/* fed_give() of one row, whose sums of rows g and g + 8 of W are in four lanes' parts. */
__device__ static __forceinline__ void fed_whole_give(const program &p, int turn,
                                                      const float part[2])
{
    const int thread = thread_now(), warp = thread / WARP, lane = thread % WARP;
    const bool odd = lane % 2;
    float v = odd ? part[1] : part[0];

    v += __shfl_xor_sync(~0u, odd ? part[0] : part[1], 1);
    v += __shfl_xor_sync(~0u, v, 2);
    const int k = turn & ((1 << p.a->buffers) - 1), use = turn >> p.a->buffers;

    if (use > 0)
        bar_wait(p.empty + k * 8, (use - 1) & 1);
    if (lane % 4 < 2)
        p.scratch[(k * STREAM_WARPS + warp) * DEV_TILE + lane / 4 + odd * 8] = v;
    __syncwarp();
    if (lane == 0)
        bar_arrive(p.full + k * 8);
}

/* fed_phase() of records. All are FINE in stage_product's terms: with less code besides, attention has
 * more registers. TILES: of 8 rows of x; 0: one row, which codes of four bits and N4's meet in whole
 * numbers. */
template <int KIND, bool PAIR, int TILES>
__device__ static __forceinline__ void fed_codes_phase(const program &p, fed_ring &r,
                                                       const stream_args &a, const int &phase,
                                                       const int &more)
{
    enum { BLOCKS = kind_of<KIND>::blocks, COLS = BLOCKS * 32, NT = TILES ? TILES : 1 };
    constexpr bool table = KIND == DEV_N4, whole = TILES == 0 && (KIND == DEV_U4 || table);
    typedef typename whole_way<KIND>::type W;
    typedef typename std::conditional<whole, fed_whole<W>, fed_rows<COLS>>::type X;
    const int thread = thread_now(), warp = held(thread / WARP), lane = held(thread % WARP);
    const int kp = held(a.out[0].w.kp), T = TILES ? held(a.T) : 1;
    const int groups = p.a->groups, rec = a.out[0].w.rec;
    const int team = fed_team(a.swiglu), place = warp & (team - 1);
    const int stride = held(a.kept ? a.kept / 2 : kp), g = held(lane / 4);
    const fed_share share = { team * COLS, place * COLS, stride, lane };
    const bool near = a.kept > 0;
    const shared_form form = form_of(a.out[0].w, a.out[0].w.gs == 1);
    const int gi = held(form.one ? 0 : lane % 4), zero = a.out[0].w.zero_const;
    /* in a group, this warp's records */
    const uint32_t mine = held((uint32_t)((warp - place) * FED_RECORDS + place) * rec);
    const int apart = held(team * rec);
    /* this lane's row of x, if it is kept, from its columns on; in whole numbers, planes and words */
    const uint32_t kept = held(
        (uint32_t)((uint8_t *)p.inputs - r.at) +
        (whole ? (share.at < kp ? share.at / DEV_CHUNK * W::RECORD : 0) + W::planes_at(lane)
               : (g * stride + share.at + lane % 4 * (KIND == DEV_U6 ? 4 : 8)) * 2));
    const int words = held(W::word_at(lane) - W::planes_at(lane));
    const int step = team * W::RECORD;
    const uint32_t landed = held(r.landed), freed = held(r.freed);
    int slot = held(slot_of(r.now.place)), round = held(round_of(r.now.place));
    int turn = held(r.now.turn);
    uint4 x[BLOCKS * NT] = {}; /* rows beyond T stay zeros */
    const uint32_t *const lut = table ? p.lut : NULL;
    typename W::own own = {};

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
        last = begun & FED_LAST;
        fed_begin(p, r, turn, { TILES == 0 && more ? begun : begun & ~FED_LAST, phase });
        float acc[1][NT][4] = {}, part[2] = {}; /* part: in whole numbers */
        uint32_t x_at = kept;

#pragma unroll 1
        for (int k = 0;;) {
            const uint8_t *at = r.at + mine + slot * p.a->group;

            if (NT == 1 && k >= ready) { /* of the first tile */
                X::take(a, p.inputs, share, k, p.tag + phase);
                ready += X::GROUPS * share.cols;
            }
            if constexpr (whole) {
                const int left = kp - k - share.at;
                const uint8_t *const x_now = r.at + (left > 0 ? x_at : kept);

                if constexpr (table)
                    W::group(part, own, at, apart, x_now, x_now + words, step, left, share,
                             p.a->values);
                else if (!PAIR && form.zeros)
                    fed_whole_group<PAIR, true>(part, at, apart, x_now, x_now + words, step, left,
                                                form, gi, zero, share);
                else
                    fed_whole_group<PAIR, false>(part, at, apart, x_now, x_now + words, step, left,
                                                 form, gi, zero, share);
                x_at += FED_RECORDS * step;
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
                if (!PAIR && KIND != DEV_U6 && !table && form.zeros)
                    stage_product<KIND, true, PAIR, true, NT>(acc[0], at, form, x, lut, lane);
                else
                    stage_product<KIND, true, PAIR, false, NT>(acc[0], at, form, x, lut, lane);
            }
            k += FED_RECORDS * share.cols;
            if (k >= kp) {
                next();
                break;
            }
            next();
            bar_wait(landed + slot * 8, round);
        }
        if (whole && table)
            part[0] *= p.a->values.step, part[1] *= p.a->values.step;
        if (whole)
            fed_whole_give(p, turn++, part);
        else
            fed_give<NT, 1>(p, turn++, T, acc);
    }
    fed_close<X, NT>(p, r, a, share, kp, ready, phase, more, turn,
                     TILES == 0 && turn != r.now.turn);
    r.now.place = slot | round * FED_ROUND, r.now.turn = turn;
}
