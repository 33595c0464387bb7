/* fed_codes.cuh - products of codes in records (dev.h) in programs on Hopper, by a ring that one warp
 * fills (fed.cuh). A group of it is FED_RECORDS records for each of a block's warps, as they lie in
 * memory: of a tile, or half of them of another one or, of a gated product, of the one that the first
 * gates. Warps share a tile's records in turns, and sum those of their own in order. */
#pragma once

#include <type_traits>

#include "backend/cuda/fed.cuh"

/* How tiles that are not gated go two at a time: the first so many pairs of them, so that all blocks
 * have something, then those that are left. */
__device__ static __forceinline__ int fed_pairs(int tiles)
{
    const int each = (tiles + gridDim.x - 1) / gridDim.x;

    return max(0, tiles - (int)gridDim.x * ((each + 1) / 2));
}

/* feed_ring() of records. TILES: as for fed_codes_phase. */
template <int TILES> __device__ static __forceinline__ void feed_records(const program &p, fed_ring r)
{
    const int groups = p.a->groups;
    fed_window asked = {};

#pragma unroll 1
    for (int i = 0; i < p.a->n_feeds; i++) {
        const stream_feed f = p.feeds[i];
        const bool gated = f.swiglu;
        /* each: records from one matrix */
        const int rec = f.stride, each = fed_team(TILES || gated) * FED_RECORDS;
        const int pairs = TILES && !gated ? fed_pairs(f.tiles) : 0;

        fed_tiles<false>(p, i, f.tiles - pairs, (f.stages + each - 1) / each, [&](int unit, bool last) {
            const int two = unit < pairs ? FED_TWO : 0, tile = two ? 2 * unit : unit + pairs;
            const bool both = gated || two;
            const feed_tile in = gated ? feed_tile{ f.q[0], tile } : feed_at(f, tile);
            const feed_tile next = gated ? feed_tile{ f.q[1], tile } : feed_at(f, tile + 1);
            const uint8_t *from = in.q + (size_t)in.tile * f.stages * rec,
                          *other = next.q + (size_t)next.tile * f.stages * rec; /* if there are both */

#pragma unroll 1
            for (int left = f.stages; left > 0; left -= each) {
                const int n = min(each, left) * rec;
                const uint32_t to = r.to + slot_of(r.now.place) * p.a->group,
                               bar = r.landed + slot_of(r.now.place) * 8;

                fed_room(r, asked, i, groups);
                if (elected()) {
                    r.tile[slot_of(r.now.place)] = (last ? tile | FED_LAST : tile) | two;
                    bar_expect(bar, both ? 2 * n : n);
                    bulk_copy_once(to, from, n, bar);
                    if (both)
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
    /* A lane's words of the groups from k on, as they are when they are asked for: take() asks again
     * for those that are not there. */
    struct words {
        uint64_t v[4];
    };
    __device__ static __forceinline__ words ask(const stream_args &a, const fed_share &mine, int k)
    {
        const int at = k + mine.at + mine.lane / LANES * mine.cols + mine.lane % LANES * 8;
        words w = {};

        if (at < a.out[0].w.kp) {
            tagged_load(w.v, a.take_x + at / 2);
            tagged_load(w.v + 2, a.take_x + at / 2 + 2);
        }
        return w;
    }
    __device__ static __forceinline__ void take(const stream_args &a, uint16_t *to,
                                                const fed_share &mine, int k, unsigned tag,
                                                const words &w)
    {
        put(a, to, mine, k, [&](int at, bool there) {
            uint2 x[2] = { { (uint32_t)w.v[0], (uint32_t)w.v[1] },
                           { (uint32_t)w.v[2], (uint32_t)w.v[3] } };

            if (there && !tagged<4>(w.v, tag))
                tagged_wait<2>(x, a.take_x + at / 2, 2, 2, tag);
            return make_uint4(x[0].x, x[0].y, x[1].x, x[1].y);
        });
        __syncwarp();
    }
    __device__ static __forceinline__ void take(const stream_args &a, uint16_t *to,
                                                const fed_share &mine, int k, unsigned tag)
    {
        take(a, to, mine, k, tag, ask(a, mine, k));
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

/* A warp's way through a ring, group by group. */
struct fed_walk {
    uint32_t landed, freed; /* as in fed_ring */
    int groups, slot, round;

    /* Until the group is there. */
    __device__ __forceinline__ void wait() const
    {
        bar_wait(landed + slot * 8, round);
    }
    /* The warp is through with it. */
    __device__ __forceinline__ void next(int lane)
    {
        __syncwarp();
        if (lane == 0)
            bar_arrive(freed + slot * 8);
        if (++slot == groups)
            slot = 0, round ^= 1;
    }
    /* As in fed_place. */
    __device__ __forceinline__ int place() const
    {
        return slot | round * FED_ROUND;
    }
};

__device__ static __forceinline__ fed_walk fed_walk_of(const fed_ring &r, int groups)
{
    fed_walk w;

    w.landed = held(r.landed), w.freed = held(r.freed);
    w.groups = groups;
    w.slot = held(slot_of(r.now.place)), w.round = held(round_of(r.now.place));
    return w;
}

/* A block of 32 columns of a record's rows g and g + 8 times x. */
template <int KIND, bool PAIR, int NT>
__device__ static __forceinline__ void two_block(float acc[NT][4], const uint4 v[2], const uint4 &hi,
                                                 int j, const uint32_t z[2], const uint8_t *scales,
                                                 int gi, const uint4 *x, int g)
{
    float tmp[NT][4] = {}, ones[NT][4] = {};
    uint32_t q[2][4];

    code_pairs<KIND>(q[0], v[0], make_uint2(hi.x, hi.y), j, z[0], NULL);
    code_pairs<KIND>(q[1], v[1], make_uint2(hi.z, hi.w), j, z[1], NULL);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t a[4] = { q[0][2 * h], q[1][2 * h], q[0][2 * h + 1], q[1][2 * h + 1] };
        const uint32_t one[4] = { 0x3C003C00, 0x3C003C00, 0x3C003C00, 0x3C003C00 };

#pragma unroll
        for (int n = 0; n < NT; n++) {
            const uint4 &u = x[j * NT + n];

            mma<false>(tmp[n], a, h ? u.z : u.x, h ? u.w : u.y);
            if (PAIR)
                mma<false>(ones[n], one, h ? u.z : u.x, h ? u.w : u.y);
        }
        if (KIND == DEV_U6)
            flush<NT>(acc, tmp, record_scales(scales, 2 * j + h, 32, g));
    }
    if (KIND != DEV_U6)
        flush<NT>(acc, tmp, record_scales(scales, gi, PAIR ? 64 : 32, g));
    if (PAIR)
        flush<NT>(acc, ones, record_scales(scales + 32, gi, 64, g));
}

/* Two records, `apart` bytes, times the same columns of x, block by block in turns: neither waits for
 * what the other has under way. As stage_product. */
template <int KIND, bool PAIR, bool ZEROS, int NT>
__device__ static __forceinline__ void two_records(float acc[2][NT][4], const uint8_t *p, int apart,
                                                   const shared_form &w, const uint4 *x, int lane)
{
    typedef kind_of<KIND> K;
    const int g = lane / 4;
    uint4 v[2][2], hi[2];

#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint4 *const at = (const uint4 *)(p + i * apart) + lane;

        v[i][0] = at[0], v[i][1] = at[WARP];
        hi[i] = KIND == DEV_U6 ? at[2 * WARP] : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int j = 0; j < K::blocks; j++) {
        const int gi = w.one ? 0 : j;

#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint8_t *const scales = p + i * apart + K::codes;
            uint32_t z[2] = { w.zero, w.zero };

            if (ZEROS)
                record_zeros(z, scales + w.gs * 32, gi, g);
            two_block<KIND, PAIR, NT>(acc[i], v[i], hi[i], j, z, scales, gi, x, g);
        }
    }
}

/* This warp's sums of a tile and of the next one, or of the one that it gates, to those of others. */
template <int NT>
__device__ static __forceinline__ void two_give(const program &p, int turn, int T,
                                                const float (*acc)[NT][4])
{
    const int thread = thread_now(), warp = thread / WARP, lane = thread % WARP;
    const int g = lane / 4, c = lane % 4;
    const int k = turn & ((1 << p.a->buffers) - 1), use = turn >> p.a->buffers;
    float *const sum = p.scratch + (k * 2 * STREAM_WARPS + warp) * two_part(T);

    if (use > 0)
        bar_wait(p.empty + k * 8, (use - 1) & 1);
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (n * 8 + 2 * c + i % 2 < T) {
                float *const to = sum + two_at(n * 8 + 2 * c + i % 2, g + i / 2 * 8);

                to[0] = acc[0][n][i];
                to[STREAM_WARPS * two_part(T)] = acc[1][n][i];
            }
    __syncwarp();
    if (lane == 0)
        bar_arrive(p.full + k * 8);
}

/* fed_phase() of records, 8 NT rows of x at most: every warp has its records of two tiles, or of one
 * and of the one that it gates, so that columns of x are read once for both. Of a tile that is the
 * only one the second is what the ring held before, whose sums nobody takes. */
template <int KIND, bool PAIR, int NT>
__device__ static __forceinline__ void fed_two_phase(const program &p, fed_ring &r,
                                                     const stream_args &a, const int &phase,
                                                     const int &more)
{
    enum { BLOCKS = kind_of<KIND>::blocks, COLS = BLOCKS * 32, EACH = STREAM_WARPS * COLS };
    typedef fed_rows<COLS> X;
    const int thread = thread_now(), warp = held(thread / WARP), lane = held(thread % WARP);
    const int kp = held(a.out[0].w.kp), T = held(a.T), groups = p.a->groups, rec = a.out[0].w.rec;
    const int stride = held(a.kept / 2), g = held(lane / 4), mine = held(warp * rec);
    const bool near = a.kept > 0;
    const int apart = held(STREAM_WARPS * rec); /* the second tile's records, after the first's */
    const fed_share share = { EACH, warp * COLS, stride, lane };
    const shared_form form = form_of(a.out[0].w, a.out[0].w.gs == 1);
    /* this lane's row of x, if it is kept, from its columns on */
    const uint32_t kept =
        held((uint32_t)((uint8_t *)p.inputs - r.at) +
             (g * stride + share.at + lane % 4 * (KIND == DEV_U6 ? 4 : 8)) * 2);
    fed_walk walk = fed_walk_of(r, groups);
    int turn = held(r.now.turn);
    uint4 x[BLOCKS * NT] = {}; /* rows beyond T stay zeros */
    int ready = fed_open<X, NT>(p, r, a, share, kp, near, thread, phase);

#pragma unroll 1
    for (bool last = false; !last;) {
        walk.wait();
        const int begun = r.tile[walk.slot];

        if (begun < 0) {
            walk.next(lane);
            break;
        }
        last = begun & FED_LAST;
        fed_begin(p, r, turn, { begun & ~FED_LAST, phase });
        float acc[2][NT][4] = {};
#pragma unroll 1
        for (int k = 0;;) {
            const uint8_t *const at = r.at + mine + walk.slot * p.a->group;

            if (NT == 1 && k >= ready) { /* of the first tile */
                X::take(a, p.inputs, share, k, p.tag + phase);
                ready += X::GROUPS * EACH;
            }
            if (k + share.at < kp) {
                if (near)
                    load_kept<KIND, NT, BLOCKS>(x, r.at + kept + k * 2, stride, T, g);
                else
                    load_inputs<KIND, NT, BLOCKS>(x, a.x + share.at + k, kp, T);
                if (!PAIR && KIND != DEV_U6 && form.zeros)
                    two_records<KIND, PAIR, true, NT>(acc, at, apart, form, x, lane);
                else
                    two_records<KIND, PAIR, false, NT>(acc, at, apart, form, x, lane);
            }
            k += EACH;
            if (k >= kp) {
                walk.next(lane);
                break;
            }
            walk.next(lane);
            walk.wait();
        }
        two_give<NT>(p, turn++, T, acc);
    }
    fed_close<X, NT>(p, r, a, share, kp, ready, phase, more, turn);
    r.now.place = walk.place(), r.now.turn = turn;
}

/* The same of one row; WHOLE: which codes of four bits and N4's meet in whole numbers. All are FINE in
 * stage_product's terms: with less code besides, attention has more registers. */
template <int KIND, bool PAIR, bool WHOLE>
__device__ static __forceinline__ void fed_one_phase(const program &p, fed_ring &r,
                                                     const stream_args &a, const int &phase,
                                                     const int &more)
{
    enum { BLOCKS = kind_of<KIND>::blocks, COLS = BLOCKS * 32, NT = 1, T = 1 };
    constexpr bool table = KIND == DEV_N4, whole = WHOLE && (KIND == DEV_U4 || table);
    typedef typename whole_way<KIND>::type W;
    typedef typename std::conditional<whole, fed_whole<W>, fed_rows<COLS>>::type X;
    const int thread = thread_now(), warp = held(thread / WARP), lane = held(thread % WARP);
    const int kp = held(a.out[0].w.kp);
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
    fed_walk walk = fed_walk_of(r, groups);
    int turn = held(r.now.turn);
    uint4 x[BLOCKS * NT] = {}; /* rows beyond T stay zeros */
    const uint32_t *const lut = table ? p.lut : NULL;
    typename W::own own = {};

    static_assert((int)X::GROUPS >= FED_RECORDS, "a group's columns are taken at once");
    int ready = fed_open<X, NT>(p, r, a, share, kp, near, thread, phase);
    typename fed_whole<W>::words asked = {}; /* of the columns from `ready` on */
    const auto ask_next = [&] {
        if constexpr (whole)
            if (ready < kp)
                asked = X::ask(a, share, ready);
    };

    ask_next();
#pragma unroll 1
    for (bool last = false; !last;) {
        walk.wait();
        const int begun = r.tile[walk.slot];

        if (begun < 0) {
            walk.next(lane);
            break;
        }
        last = begun & FED_LAST;
        fed_begin(p, r, turn, { more ? begun : begun & ~FED_LAST, phase });
        float acc[1][NT][4] = {}, part[2] = {}; /* part: in whole numbers */
        uint32_t x_at = kept;

#pragma unroll 1
        for (int k = 0;;) {
            const uint8_t *at = r.at + mine + walk.slot * p.a->group;

            if (k >= ready) { /* of the first tile */
                if constexpr (whole)
                    X::take(a, p.inputs, share, k, p.tag + phase, asked);
                else
                    X::take(a, p.inputs, share, k, p.tag + phase);
                ready += X::GROUPS * share.cols;
                ask_next();
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
                walk.next(lane);
                break;
            }
            walk.next(lane);
            walk.wait();
        }
        if (whole && table)
            part[0] *= p.a->values.step, part[1] *= p.a->values.step;
        if (whole)
            fed_whole_give(p, turn++, part);
        else
            fed_give<NT, 1>(p, turn++, T, acc);
    }
    fed_close<X, NT>(p, r, a, share, kp, ready, phase, more, turn, turn != r.now.turn);
    r.now.place = walk.place(), r.now.turn = turn;
}

/* TILES: of 8 rows of x; 0: one row, as above. Programs of N4 have one row only, with TILES 1 in 16
 * bits. */
template <int KIND, bool PAIR, int TILES>
__device__ static __forceinline__ void fed_codes_phase(const program &p, fed_ring &r,
                                                       const stream_args &a, const int &phase,
                                                       const int &more)
{
    if constexpr (TILES > 0 && KIND != DEV_N4)
        fed_two_phase<KIND, PAIR, TILES>(p, r, a, phase, more);
    else
        fed_one_phase<KIND, PAIR, TILES == 0>(p, r, a, phase, more);
}
