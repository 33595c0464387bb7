/* fed_codes.cuh - products of codes in records (dev.h) in programs on Hopper, by a ring that one warp
 * fills (fed.cuh). A group of it is FED_RECORDS records for each of a block's warps, as they lie in
 * memory: a bulk copy or, of a gated product, one of the gate's and one of the other's. Warps share a
 * tile's records in turns, and sum those of their own in order. */
#pragma once

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

        fed_tiles(p, i, f.tiles, [&](int tile, bool last) {
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

/* fed_phase() of records. All are FINE in stage_product's terms: with less code besides, attention has
 * more registers. */
template <int KIND, bool PAIR, int NT>
__device__ static __forceinline__ void fed_codes_phase(const program &p, fed_ring &r,
                                                       const stream_args &a, const int &phase,
                                                       bool more)
{
    enum { BLOCKS = kind_of<KIND>::blocks, COLS = BLOCKS * 32 };
    const int thread = thread_now(), warp = held(thread / WARP), lane = held(thread % WARP);
    const int kp = held(a.out[0].w.kp), T = held(a.T), groups = p.a->groups, rec = a.out[0].w.rec;
    const int team = fed_team(a.swiglu), place = warp & (team - 1);
    const int stride = held(a.kept ? a.kept / 2 : kp), g = held(lane / 4);
    const fed_share share = { team * COLS, place * COLS, stride, lane };
    const bool near = a.kept > 0;
    const shared_form form = form_of(a.out[0].w, a.out[0].w.gs == 1);
    /* in a group, this warp's records */
    const uint32_t mine = held((uint32_t)((warp - place) * FED_RECORDS + place) * rec);
    const int apart = held(team * rec);
    /* this lane's row of x, if it is kept, from its columns on */
    const uint32_t kept = held((uint32_t)((uint8_t *)p.inputs - r.at) +
                               (g * stride + share.at + lane % 4 * (KIND == DEV_U6 ? 4 : 8)) * 2);
    const uint32_t landed = held(r.landed), freed = held(r.freed);
    int slot = held(slot_of(r.now.place)), round = held(round_of(r.now.place));
    int turn = held(r.now.turn);
    uint4 x[BLOCKS * NT] = {}; /* rows beyond T stay zeros */

    static_assert(fed_taken_groups<COLS>() >= FED_RECORDS, "a group's columns are taken at once");
    int ready = fed_open<COLS, NT>(p, r, a, share, kp, near, thread, phase);
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
        float acc[1][NT][4] = {};
#pragma unroll 1
        for (int k = 0;;) {
            const uint8_t *at = r.at + mine + slot * p.a->group;

            if (NT == 1 && k >= ready) { /* of the first tile */
                fed_take<COLS>(a, p.inputs, share, k, p.tag + phase);
                ready += fed_taken_groups<COLS>() * share.cols;
            }
#pragma unroll
            for (int i = 0; i < FED_RECORDS; i++, at += apart) {
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
        fed_give<NT, 1>(p, turn++, T, acc);
    }
    fed_close<COLS, NT>(p, r, a, share, kp, ready, phase, more, turn);
    r.now.place = slot | round * FED_ROUND, r.now.turn = turn;
}
