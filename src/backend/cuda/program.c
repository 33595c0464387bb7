/* program.c - what run.c wants of a pass of few rows, gathered into programs (program.cuh): each is
 * one kernel, and ends where something else has to be launched. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_int.h"
#include "base/mem.h"
#include "format/enc/act.h"

/* Whether wgmma takes weights and inputs as they are: both E4M3, a scale for each of their rows. */
static bool both_f8(const struct cuda *b, const struct stream_args *a)
{
    const struct load_args *l = &a->load;

    return b->wgmma && a->out[0].w.kind == DEV_F8 && a->out[0].w.n_groups == 1 && l->x &&
           l->group >= l->cols && (l->act == ACT_F8 || l->act == ACT_F8_STATIC);
}

/* Whether codes in records go by a ring that one warp fills. */
static bool fed_codes(const struct cuda *b, const struct stream_args *a)
{
    return cuda_feeds_codes(b, &a->out[0].w) && !a->load.x;
}

/* The same of N4 by one row. With more, whose products look pairs of values up in shared memory,
 * rings of each warp are as fast: on an H200 8B in NF4 makes 865 tok/s in batches of 2, 1717 of 4
 * and 3118 of 8 by them, 874 to 899, 1626 and 2601 to 2620 by one that is fed. */
static bool fed_n4(const struct cuda *b, const struct stream_args *a)
{
    return b->big && a->out[0].w.kind == DEV_N4 && a->T == 1 &&
           !(b->tries & CUDA_TRY_DETERMINISTIC);
}

static enum dev_class class_of(const struct cuda *b, const struct stream_args *a)
{
    const struct dev_weight *w = &a->out[0].w;

    return both_f8(b, a)                            ? CLASS_FED8
           : fed_codes(b, a)                        ? CLASS_FED_CODES
           : fed_n4(b, a)                           ? CLASS_FED_N4
           : w->kind == DEV_F8                      ? CLASS_F8
           : w->kind == DEV_U6                      ? CLASS_U6
           : w->kind == DEV_N4                      ? CLASS_N4
           : w->kind == DEV_U8 || w->kind == DEV_U4 ? CLASS_U48
           : b->big                                 ? CLASS_FED
                                                    : CLASS_W16;
}

static bool of_records(enum dev_class class)
{
    return class == CLASS_FED_CODES || class == CLASS_FED_N4;
}

static enum kernel kernel_of(enum dev_class class, size_t T)
{
    return (enum kernel)((int)KERN_program_w16_1 + 2 * (int)class + (T > 8));
}

/* The kernel of a program. */
static enum kernel program_kernel(const struct program *p)
{
    return !p->whole                  ? kernel_of(p->class, p->T)
           : p->class == CLASS_U6     ? KERN_program_u6_0
           : p->class == CLASS_U48    ? KERN_program_u48_0
           : p->class == CLASS_FED_N4 ? KERN_program_fed_n4_0
                                      : KERN_program_fed_codes_0;
}

/* Whether warps have two tiles at a time; whole: as in struct program. */
static bool goes_two(enum dev_class class, bool whole)
{
    return class == CLASS_FED_CODES && !whole;
}

/* Bytes of 2^buffers of sums in shared memory. */
static size_t sums_of(const struct cuda *b, enum dev_class class, size_t T, bool whole,
                      size_t buffers)
{
    const size_t each = class == CLASS_FED8      ? T * FED8_SUMS
                        : goes_two(class, whole) ? 2 * (T + T % 2) * RING_WARPS(1)
                                                 : T * (size_t)RING_WARPS(b->big);

    return (each << buffers) * DEV_TILE * sizeof(float);
}

/* Of the scratch, in which attention shares the sums' place or has its own; or it shares the
 * inputs' place, of which FED8 has much. */
static size_t scratch_of(enum dev_class class, size_t sums, size_t attn, bool apart)
{
    const bool shares = class != CLASS_FED8 && attn > sums;

    return (apart ? sums + attn : shares ? attn : sums) / 16 * 16 + 16;
}

/* Bytes of a group of a ring that is fed, whose records are of `rec` bytes at most. */
static size_t group_of(enum dev_class class, size_t rec)
{
    return class == CLASS_FED    ? (size_t)FED_GROUP
           : class == CLASS_FED8 ? (size_t)FED8_GROUP
                                 : (size_t)FED_RECORDS * RING_WARPS(1) * rec;
}

static size_t ring_of(const struct cuda *b, enum dev_class class, size_t groups, size_t rec)
{
    return class >= CLASS_FED ? groups * group_of(class, rec) : (size_t)RING_BYTES(class, b->big);
}

/* Of all but inputs. groups, rec: of a ring that is fed; whole: of one row in whole numbers */
static size_t shared_of(const struct cuda *b, enum dev_class class, size_t groups, size_t rec,
                        size_t feeds, size_t scratch, bool whole)
{
    const bool table = class == CLASS_N4 || (class == CLASS_FED_N4 && !whole);
    /* 2048: what is swizzled begins at multiples of 1024 */
    const size_t known = class == CLASS_FED8 ? 2048
                         : of_records(class) ? 0
                                             : feeds * sizeof(struct stream_feed);

    return ring_of(b, class, groups, rec) + (table ? LUT_N4 : 0) + scratch + known +
           PHASES_KEPT * sizeof(struct dev_phase);
}

/* Room for inputs that a program has to have. */
static size_t least_inputs(enum dev_class class, size_t T, size_t attn)
{
    const size_t far = (size_t)FED8_FAR((int)T);

    return class != CLASS_FED8 ? 0 : attn > far ? attn : far;
}

/* attn, turns: bytes of theirs, of phases of attention */
static bool fits(const struct cuda *b, enum dev_class class, size_t T, size_t rec, size_t feeds,
                 size_t attn, size_t turns)
{
    const size_t scratch = scratch_of(class, sums_of(b, class, T, false, 0), attn, false);

    return shared_of(b, class, FED_LEAST, rec, feeds, scratch + turns, false) +
               least_inputs(class, T, attn) <=
           b->dynamic[kernel_of(class, T)];
}

/* What attention needs of the scratch: queries in twice 16 bits, a key and a value of each row in
 * 16; and of each 32 slots that a block sees at a time what is found of heads, and their sums. */
static size_t attn_scratch(const struct cuda *b, size_t hd, size_t rows, size_t heads)
{
    const size_t teams = 8 * (size_t)RING_WARPS(b->big) / 32;

    return heads * (4 * ATTN_HEAD + 16) + rows * 4 * hd +
           teams * (2 * PROGRAM_HEADS + ATTN_HEAD * heads) * sizeof(float);
}

/* Room on the device for n bytes of a program, and where they are written meanwhile. */
static bool image_room(struct cuda *b, size_t n, CUdeviceptr *at, uint8_t **host)
{
    struct program *p = &b->prog;

    n = over(n, 256) * 256;
    if (b->recording) {
        struct recording *r = b->recording;

        if (!r->image) { /* all of a pass: no phase comes from nothing */
            r->image_bytes = 2 * b->n_op *
                             (sizeof(struct dev_phase) + sizeof(struct stream_feed) +
                              DEV_OUTS * sizeof(struct dev_map) + 256);
            r->image = xcalloc(1, r->image_bytes);
            if (!cuda_ok(b, b->d.cuMemAlloc(&r->programs, r->image_bytes), "a recorded pass"))
                return false;
        }
        if (n > r->image_bytes - r->image_used)
            return cuda_ok(b, CUDA_ERROR_NOT_SUPPORTED, "a recorded pass of so many layers");
        *host = r->image + r->image_used;
        *at = r->programs + r->image_used;
        r->image_used += n;
        return true;
    }
    BUG_ON(n > PIN_BYTES);
    if (p->at + n > PIN_BYTES) {
        cuda_ok(b, b->d.cuStreamSynchronize(b->stream), "programs");
        p->at = 0;
    }
    if (!p->room && (!cuda_ok(b, b->d.cuMemAlloc(&p->room, PIN_BYTES), "programs") ||
                     !cuda_ok(b, b->d.cuMemAllocHost(&p->pin, PIN_BYTES), "programs")))
        return false;
    *host = (uint8_t *)p->pin + p->at;
    *at = p->room + p->at;
    p->at += n;
    return true;
}

/* Whether a product's inputs are rounded by a phase of their own. */
static bool loaded_apart(const struct dev_phase *ph)
{
    return ph->kind == PHASE_PRODUCT && ph->u.s.load.x && ph->u.s.kept == 0;
}

/* Whether blocks have the same items in two phases of attention, and find out the same about
 * them: all but where things are. */
static bool same_items(const struct attn_phase *x, const struct attn_phase *y)
{
    const struct attn_args *a = &x->a, *b = &y->a;

    return a->H == b->H && a->K == b->K && a->hd == b->hd && a->splits == b->splits &&
           x->heads == y->heads && x->parts == y->parts && x->rows == y->rows && x->enc == y->enc &&
           !x->r.q == !y->r.q;
}

/* All phases as the kernel takes them. */
static void write_phases(struct dev_phase *to, const struct program *p, size_t blocks)
{
    const struct dev_phase *const first = to;
    const struct attn_phase *before = NULL; /* of attention */

    for (size_t i = 0; i < p->n; i++) {
        *to = p->phase[i];
        to->number = (int)(to - first);
        to->more = i + 1 < p->n;
        if (to->kind == PHASE_ATTN) {
            struct attn_phase *const a = &to->u.a;
            const size_t items = (size_t)(a->rows * a->a.K * a->parts * a->a.splits);

            a->known = before && items <= blocks && same_items(before, a);
            before = &p->phase[i].u.a;
        }
        if (loaded_apart(to)) {
            to[1] = to[0];
            to[1].number++;
            to->more = 1;
            to->gives = 0;
            to++->kind = PHASE_LOAD;
            to->u.s.load.x = NULL;
            to->u.s.ss = NULL;
        }
        to++;
    }
}

/* How a block's shared memory is divided. */
struct division {
    size_t groups, buffers, scratch, shared; /* shared: bytes of all but inputs */
    size_t attn;                             /* as in struct program_args */
};

/* Whether all blocks round a phase's rows, each for itself; else a phase before does it, a row a
 * block, and blocks bring the image as they need it. That takes a gate more and is faster as soon
 * as a thread would have more than it keeps in registers: of 8B 4, 8 and 16 rows make 1478, 2522
 * and 3970 tok/s so on an H200, and 1360, 2377 and 3300 where all that finds room is rounded by
 * all. */
static bool rounds_itself(size_t kp, size_t T)
{
    return FED8_STAGES(kp) * T <= (size_t)(T == 1 ? FED8_KEPT : FED8_ROUNDED);
}

/* Whether one row in whole numbers can meet w. */
static bool meets_whole(const struct dev_weight *w)
{
    return w->kind == DEV_U4 || w->kind == DEV_N4;
}

static size_t whole_record(const struct dev_weight *w)
{
    return w->kind == DEV_N4 ? N4_RECORD : WHOLE_RECORD;
}

/* Bytes of a phase's inputs in shared memory; 0: there is no room for them. */
static size_t kept_inputs(const struct cuda *b, const struct program *p, const struct division *d,
                          size_t i)
{
    const struct dev_weight *w = &p->phase[i].u.s.out[0].w;
    const size_t kp = (size_t)w->kp;
    const bool no =
        p->phase[i].kind == PHASE_ATTN || (p->class == CLASS_FED8 && !rounds_itself(kp, p->T));
    const size_t n = no                           ? 0
                     : p->class == CLASS_FED8     ? (size_t)FED8_NEAR((int)kp, (int)p->T)
                     : p->whole && meets_whole(w) ? kp / DEV_CHUNK * whole_record(w)
                                                  : p->T * (2 * kp + 64); /* 64: banks */

    return d->shared + n > b->dynamic[program_kernel(p)] ? 0 : n;
}

/* The division that keeps the inputs of the most phases; among them the longest ring, then the most
 * buffers, then one where attention has a place of its own: those that are fed go there while sums
 * of their last tiles are still read. Where codes go two tiles at a time, first of all one in which
 * neither attention nor the next tiles wait for sums to be read: gate and up of 4 rows of Q4_0 take
 * 30 us with one buffer, 23 with more, and 2 rows of 8B make 1110 and 1143 tok/s on an H200. */
static struct division divide(const struct cuda *b, const struct program *p)
{
    const bool fed = p->class >= CLASS_FED, two = goes_two(p->class, p->whole);
    struct division best = { 0 };
    size_t most = 0;

    for (size_t groups = FED_GROUPS; groups >= FED_LEAST; groups = fed ? groups - 1 : 0)
        for (size_t i = 2 * (SUM_BUFFERS + 1); i-- > 0;) {
            const size_t buffers = i / 2, sums = sums_of(b, p->class, p->T, p->whole, buffers);
            const bool apart = i % 2 && fed && p->attn;
            const size_t scratch = scratch_of(p->class, sums, p->attn, apart);
            const struct division d = { groups, buffers, scratch,
                                        shared_of(b, p->class, groups, p->rec, p->n_feeds,
                                                  scratch + p->turns, p->whole),
                                        apart ? sums : 0 };
            const bool waits = two && (buffers == 0 || (p->attn && !apart));
            size_t kept = waits ? 1 : 2;

            if (d.shared + least_inputs(p->class, p->T, p->attn) > b->dynamic[program_kernel(p)])
                continue;
            for (size_t k = 0; k < p->n; k++)
                kept += kept_inputs(b, p, &d, k) > 0 ? 2 : 0;
            if (kept > most) {
                most = kept;
                best = d;
            }
            if (!fed)
                break;
        }
    return best; /* of 0 bytes: there is none */
}

/* N4's table in whole numbers (fed_n4.cuh); step 0 where its values are too far from a line. Steps
 * are the largest value by LEAST and more: the one whose integers are nearest to what they stand
 * for. */
static struct whole_values whole_table(const uint16_t table[16])
{
    enum { LEAST = 768, MOST = 1280, LINE = 192, LOW = -128, HIGH = 126 /* a sign may add one */ };
    struct whole_values to = { 0 };
    float v[16], top = 0, near = 1.f / 2048;

    for (size_t q = 0; q < 16; q++) {
        v[q] = f16_to_f32(table[q]);
        top = fmaxf(top, fabsf(v[q]));
    }
    for (int n = LEAST; top > 0 && top <= 65504 && n < MOST; n++) {
        int k[16];
        float off = 0;

        for (size_t q = 0; q < 16; q++) {
            const float x = v[q] / top * (float)n;

            k[q] = (int)lrintf(x);
            off = fmaxf(off, fabsf(x - (float)k[q]) / (float)n);
        }
        for (int line = 0; off < near && line < LINE; line++) {
            int low = INT32_MAX, high = INT32_MIN, rest[16];

            for (int q = 0; q < 16; q++) {
                rest[q] = k[q] - line * q;
                low = rest[q] < low ? rest[q] : low;
                high = rest[q] > high ? rest[q] : high;
            }
            if (high - low > HIGH - LOW)
                continue;
            near = off;
            to.step = top / (float)n;
            to.line = line;
            to.zero = LOW - low;
            for (size_t q = 0; q < 8; q++) {
                const int a = rest[q] + to.zero, b = rest[q + 8] + to.zero;
                /* what is below zero adds -1 to the other one */
                const int low_a = a < 0 && !(a == -1 && b < 0), low_b = b + low_a < 0;

                to.rest[0][q] = (int8_t)(a + low_b);
                to.rest[1][7 - q] = (int8_t)(b + low_a);
            }
        }
    }
    return to;
}

/* Whether a program's codes of four bits, or N4's, are to meet its row in whole numbers, which have
 * to be in shared memory. On an H200 8B in Q4_0 decodes at 750 tok/s so, at 600 to the bits that
 * the row has in a batch; in NF4 at 538 and, by rings of each warp, at 447. */
static bool can_be_whole(const struct cuda *b, struct program *p)
{
    const bool fed = of_records(p->class) && !(b->tries & CUDA_TRY_DETERMINISTIC);
    const bool codes = p->class == CLASS_U48 || p->class == CLASS_U6;
    bool any = false, all = p->class != CLASS_FED_N4 || p->values.step > 0;

    if (p->T > 1 || !(fed || (codes && b->tries & CUDA_TRY_WHOLE)))
        return false;
    p->whole = true;
    const struct division d = divide(b, p);

    for (size_t i = 0; i < p->n; i++)
        if (p->phase[i].kind == PHASE_PRODUCT && meets_whole(&p->phase[i].u.s.out[0].w)) {
            any = true;
            all = all && !p->phase[i].u.s.load.x && kept_inputs(b, p, &d, i) > 0;
        }
    return any && all && d.shared > 0;
}

/* Whether what phase i makes is the next one's input, which has a place in shared memory. */
static bool leads_on(const struct program *p, size_t i)
{
    const struct dev_phase *ph = &p->phase[i];

    if ((p->class != CLASS_FED && !of_records(p->class)) || i + 1 >= p->n ||
        ph[1].kind != PHASE_PRODUCT)
        return false;
    const struct stream_args *s = &ph->u.s, *next = &ph[1].u.s;
    const struct attn_args *a = &ph->u.a.a;
    const bool attn = ph->kind == PHASE_ATTN;
    const uint16_t *x = attn ? a->y16 : s->y16;
    const int kp = attn ? a->kp16 : s->kp16, cols = attn ? a->H * a->hd : s->out[0].w.rows;

    return x && next->x == x && next->kept && !(attn ? a->place : s->place) && kp == cols &&
           kp == next->out[0].w.kp && kp <= PASS_COLS && (!attn || (size_t)ph->u.a.rows == p->T);
}

/* Whether phase i makes queries, keys and values, and attention of them follows. */
static bool leads_to_attn(const struct program *p, size_t i)
{
    const struct dev_phase *ph = &p->phase[i];

    if (p->class < CLASS_FED || i + 1 >= p->n || ph->kind != PHASE_PRODUCT ||
        ph[1].kind != PHASE_ATTN)
        return false;
    const struct stream_args *s = &ph->u.s;
    const struct rope_args *r = &ph[1].u.a.r;
    const int heads[] = { r->H, r->K, r->K };
    const float *const y[] = { r->q, r->k, r->v };

    if (s->n != 3 || s->norm || s->add || s->swiglu || (size_t)ph[1].u.a.rows != p->T ||
        p->T * (size_t)s->tiles * DEV_TILE > PASS_SS / sizeof(*s->give_x))
        return false;
    for (int k = 0; k < 3; k++)
        if (s->out[k].y != y[k] || s->out[k].w.rows != heads[k] * r->hd ||
            s->out[k].w.rows % DEV_TILE)
            return false;
    return true;
}

/* Whether it goes there by tagged words. They are twice the bytes and more: for norms they always
 * pay, about attention with FEW rows, and what gate and up make with FEWER. Not where the next one
 * adds to what this one writes: a gate must lie between. */
static bool gives(const struct program *p, size_t i)
{
    enum { FEW = 8, FEWER = 2 };
    const struct stream_args *s = &p->phase[i].u.s, *next = &p->phase[i + 1].u.s;

    if (leads_to_attn(p, i))
        return p->T <= FEW;
    if (!leads_on(p, i))
        return false;
    if (p->phase[i].kind == PHASE_ATTN)
        return p->T <= FEW && !next->ss;
    if (s->swiglu)
        return p->T <= FEWER && !next->ss;
    return s->n == 1 && s->norm && !next->add && next->ss == s->ss_out && next->n_ss == s->tiles &&
           s->tiles % 2 == 0;
}

/* Whether phase i of one row of FED8 makes the next one's inputs as float32. */
static bool gives_floats(const struct program *p, size_t i)
{
    const struct dev_phase *ph = &p->phase[i];

    if (p->T > 1 || i + 1 >= p->n || ph[1].kind != PHASE_PRODUCT)
        return false;
    const struct stream_args *s = &ph->u.s, *next = &ph[1].u.s;
    const struct attn_args *a = &ph->u.a.a;
    const float *const x = ph->kind == PHASE_ATTN ? a->y : s->y32;
    const int cols = ph->kind == PHASE_ATTN ? a->H * a->hd : s->out[0].w.rows;

    if (!x || next->load.x != x || !next->kept || next->load.cols != cols ||
        cols + (next->ss ? next->n_ss : 0) > PASS_WORDS)
        return false;
    return ph->kind == PHASE_ATTN || s->swiglu
               ? !next->ss
               : s->n == 1 && s->norm && !next->add && next->ss == s->ss_out &&
                     next->n_ss == s->tiles;
}

/* Links phases of one row of FED8. Places go round; one is cleared two phases after it was written,
 * when all blocks have given what they made of it, or three, where that is attention, in which not
 * all do. That was another two phases before it is written again, in which blocks have heard of one
 * another: all of them have tiles of each product. */
static void link_floats(struct program *p, struct program_args *to)
{
    for (size_t i = 0; i < p->n; i++) {
        struct dev_phase *const ph = &p->phase[i];

        if (!gives_floats(p, i))
            continue;
        struct stream_args *const next = &ph[1].u.s;
        const size_t k = i % PASSES, after = i + 2 + (i + 2 < p->n && ph[2].kind == PHASE_ATTN);
        float *const x = to->words + k * PASS_WORDS, *const ss = x + next->load.cols;
        const int n = next->load.cols + (next->ss ? next->n_ss : 0);

        ph->gives = ph[1].takes = 1;
        if (ph->kind == PHASE_ATTN)
            ph->u.a.given = x;
        else
            ph->u.s.given = x, ph->u.s.given_ss = ss;
        next->load.x = x;
        next->ss = next->ss ? ss : NULL;
        if (after < p->n) {
            p->phase[after].u.s.spent = x;
            p->phase[after].u.s.n_spent = n;
        }
        to->n_words[k] = n > to->n_words[k] ? n : to->n_words[k];
    }
}

/* Links phases that such words lead to. Each has a place of its own, as many as there are phases in
 * a layer: where all blocks have tiles of each product none is that late; else they have to meet at
 * a gate before a place is used again. */
static void link_phases(struct cuda *b, struct program *p, struct program_args *to)
{
    size_t used = 0;
    bool busy = true;

    for (size_t i = 0; i < p->n_feeds; i++)
        busy = busy && (size_t)p->feed[i].tiles >= b->sms;
    if (p->class == CLASS_FED8 && (p->T > 1 || !busy))
        return;
    if (p->class == CLASS_FED8)
        link_floats(p, to);
    for (size_t i = 0; i < p->n; i++) {
        struct dev_phase *const ph = &p->phase[i];

        if (used == PASSES && busy)
            used = 0;
        if (used == PASSES || !gives(p, i)) {
            used = 0;
            continue;
        }
        ph->gives = ph[1].takes = 1;
        const CUdeviceptr at = b->gate + PASS_AT + used++ * PASS_BYTES;
        uint64_t *const x = (uint64_t *)(uintptr_t)at, *ss = (uint64_t *)(uintptr_t)(at + PASS_SS);

        if (ph[1].kind == PHASE_ATTN) {
            ph[1].u.a.take_x = x;
        } else {
            ph[1].u.s.take_x = x;
            ph[1].u.s.take_ss = ss;
        }
        if (ph->kind == PHASE_ATTN) {
            ph->u.a.give_x = x;
        } else {
            ph->u.s.give_x = x;
            ph->u.s.give_ss = ss;
        }
    }
}

/* Whether a phase's inputs are as well read where they are: no words bring them, and of two tiles
 * at a time a block has so few that they are read about as often as they would be copied, for which
 * all warps wait. On an H200 q k v and o of 8 rows of Q4_0 take 11.2 and 8.1 us so, else 12.3
 * and 9.6. */
static bool reads_far(const struct cuda *b, const struct program *p, size_t i)
{
    enum { FEW = 2 };
    const struct stream_args *s = &p->phase[i].u.s;

    return goes_two(p->class, p->whole) && p->phase[i].kind == PHASE_PRODUCT && !s->take_x &&
           (size_t)s->tiles / 2 <= FEW * b->sms;
}

/* FED8: tensor maps of all weights, which feeds point to from then on. */
static bool write_maps(struct cuda *b, struct program *p, CUdeviceptr at, uint8_t *host)
{
    for (size_t i = 0; i < p->n_feeds; i++)
        for (size_t o = 0; o < DEV_OUTS; o++) {
            struct stream_feed *const f = &p->feed[i];
            const size_t n = (i * DEV_OUTS + o) * sizeof(struct dev_map);

            if (!f->q[o])
                continue;
            if (!cuda_map_pieces(b, (struct dev_map *)(void *)(host + n), f->q[o],
                                 (size_t)f->rows[o], (size_t)f->stride))
                return false;
            f->q[o] = (const uint8_t *)(uintptr_t)(at + n);
        }
    return true;
}

static void launch(struct cuda *b, struct program *p)
{
    const size_t feeds = p->n_feeds * sizeof(*p->feed);
    const bool fed8 = p->class == CLASS_FED8;
    const size_t maps = fed8 ? p->n_feeds * DEV_OUTS * sizeof(struct dev_map) : 0;

    p->whole = can_be_whole(b, p);
    const struct division d = divide(b, p);

    BUG_ON(d.shared == 0);
    size_t phases = p->n, kept = least_inputs(p->class, p->T, p->attn);
    struct program_args a = { .n_feeds = (int)p->n_feeds, .T = (int)p->T };
    CUdeviceptr at = 0;
    uint8_t *host = NULL;

    for (size_t i = 0; i < p->n; i++) {
        const size_t n = kept_inputs(b, p, &d, i);

        if (n == 0)
            continue;
        p->phase[i].u.s.kept = (int)(n / p->T);
        kept = n > kept ? n : kept;
    }
    a.words = (float *)(uintptr_t)(b->gate + WORDS_AT);
    link_phases(b, p, &a);
    for (size_t i = 0; i < p->n; i++) {
        if (reads_far(b, p, i))
            p->phase[i].u.s.kept = 0;
        phases += loaded_apart(&p->phase[i]);
    }
    a.n = (int)phases;
    phases *= sizeof(*p->phase);
    const size_t bytes = maps + phases + feeds;

    if (b->failed || !image_room(b, bytes, &at, &host) || (fed8 && !write_maps(b, p, at, host)))
        return;
    write_phases((struct dev_phase *)(void *)(host + maps), p, b->sms);
    memcpy(host + maps + phases, p->feed, feeds);
    if (!b->recording &&
        !cuda_ok(b, b->d.cuMemcpyHtoDAsync(at, host, bytes, b->stream), "programs"))
        return;
    a.phase = (const struct dev_phase *)(uintptr_t)(at + maps);
    a.feed = (const struct stream_feed *)(uintptr_t)(at + maps + phases);
    a.scratch = (int)d.scratch;
    a.buffers = (int)d.buffers;
    a.attn = (int)d.attn;
    a.ring = (int)ring_of(b, p->class, d.groups, p->rec);
    a.groups = (int)d.groups;
    a.group = (int)group_of(p->class, p->rec);
    a.slot = p->at_rows.slot;
    a.seq = p->at_rows.seq;
    a.blocks = p->at_rows.table;
    a.pos = p->pos;
    a.n_rows = (int)p->n_rows;
    a.inv_freq = p->inv_freq;
    a.half = (int)p->half;
    a.gate = (unsigned *)(uintptr_t)b->gate;
    a.claims = p->class >= CLASS_FED ? a.gate + 2 : NULL;
    a.tags = (unsigned *)(uintptr_t)(b->gate + TAG_AT);
    memcpy(a.table, p->table, sizeof(a.table));
    a.values = p->values;
    cuda_ok(b,
            b->d.cuLaunchCooperativeKernel(b->kern[program_kernel(p)], (unsigned)b->sms, 1, 1,
                                           (unsigned)RING_THREADS(p->class, b->big), 1, 1,
                                           (unsigned)(d.shared + kept), b->stream,
                                           (void *[]){ &a }),
            "program");
}

void cuda_rope_kv(struct cuda *b, const struct rope_args *a, size_t rows)
{
    enum { MANY = 512, THREADS = 256 }; /* MANY: rows that fill the device by themselves */

    if (a->hd > 2 * THREADS) /* attention refuses it */
        return;
    const size_t beside = THREADS / ((size_t)a->hd / 2);
    const size_t heads = ((size_t)(a->H + 2 * a->K) + beside - 1) / beside;

    cuda_launch(b, KERN_rope_kv, rows < MANY ? heads : (heads + 3) / 4, rows, 1, THREADS,
                (void *[]){ (void *)(uintptr_t)a });
}

static void launch_rope(struct cuda *b)
{
    struct rope_args a = b->prog.rope;

    b->prog.rope.q = NULL;
    if (a.q)
        cuda_rope_kv(b, &a, b->prog.rope_rows);
}

void program_end(struct cuda *b)
{
    struct program *p = &b->prog;

    if (p->n) {
        launch(b, p);
        p->n = p->n_feeds = p->n_rows = 0;
        p->attn = p->turns = p->half = 0;
    }
}

void program_flush(struct cuda *b)
{
    program_end(b);
    launch_rope(b);
}

/* Another phase; those before are launched where they cannot be in one program with it, or where
 * the ring would hold fewer of their groups for the sake of its larger records. */
static struct dev_phase *add(struct cuda *b, enum dev_class class, bool feed, size_t T, size_t attn,
                             size_t turns, const struct dev_weight *w)
{
    struct program *p = &b->prog;
    const uint16_t *const table = w && w->kind == DEV_N4 ? w->table : NULL;
    const size_t rec = w ? (size_t)w->rec : 0;
    size_t most = attn > p->attn ? attn : p->attn;
    const bool both = (p->class == CLASS_U48 || p->class == CLASS_U6) &&
                      (class == CLASS_U48 || class == CLASS_U6);
    const enum dev_class own = class;

    if (p->n_feeds && (!feed || (both && p->class > class)))
        class = p->class;
    if (p->n == PROGRAM_PHASES || (p->n && T != p->T) ||
        (feed && p->n_feeds &&
         ((class != p->class && !both) || (of_records(class) && rec > p->rec) ||
          (table && memcmp(table, p->table, sizeof(p->table)) != 0))) ||
        (p->n && !fits(b, class, T, feed && !p->n_feeds ? rec : p->rec, p->n_feeds + feed, most,
                       p->turns + turns))) {
        program_flush(b);
        most = attn;
        class = own;
    }
    if (feed || !p->n_feeds)
        p->class = class;
    if (!p->n_feeds)
        p->rec = rec;
    if (table && memcmp(table, p->table, sizeof(p->table)) != 0) {
        memcpy(p->table, table, sizeof(p->table));
        p->values = whole_table(table);
    }
    p->T = T;
    p->attn = most;
    p->turns = turns > p->turns ? turns : p->turns;
    if (!p->phase) {
        p->phase = xcalloc(PROGRAM_PHASES, sizeof(*p->phase));
        p->feed = xcalloc(PROGRAM_PHASES, sizeof(*p->feed));
    }
    struct dev_phase *ph = &p->phase[p->n++];

    memset(ph, 0, sizeof(*ph));
    return ph;
}

/* Teams of a block, 2^, for so many tiles, in units of 1 or 2. The fewer warps share a tile, the
 * less they wait for one another: on an H200 records of U4 in rows of 4096 pass at 3.0, 3.5 and 4.1
 * TB/s with 1, 2 and 4 teams that all have something to do, which is weighed against what they have
 * not. */
static int teams_of(const struct cuda *b, size_t units)
{
    static const float speed[TEAMS] = { 0.7f, 0.85f, 1 };
    const size_t most = over(units, b->sms); /* of a block */
    float best = 0;
    int teams = 0;

    for (int i = 0; i < TEAMS && RING_WARPS(b->big) >> i >= 4; i++) {
        const float busy = (float)most / (float)(over(most, (size_t)1 << i) << i) * speed[i];

        if (busy > best) {
            best = busy;
            teams = i;
        }
    }
    return teams;
}

void program_stream(struct cuda *b, const struct stream_args *a)
{
    const struct dev_weight *w = &a->out[0].w;
    const enum dev_class class = class_of(b, a);
    const bool fed8 = class == CLASS_FED8, half = class == CLASS_W16 || class == CLASS_FED;
    const bool rows = half || class == CLASS_F8 || fed8;
    const int cols = half ? RING_SLOT(CLASS_W16) / DEV_TILE / 2 : w->kind == DEV_U8 ? 64 : 128;

    const size_t rows_bytes =
        fed8 ? (size_t)FED8_IMAGE(w->kp, a->T) : (size_t)a->T * (size_t)w->kp * sizeof(*a->x);

    /* of those that are fed: tiles of 16 rows; or 8 of both matrices, of records 16 */
    const int each = of_records(class) ? DEV_TILE : 8;
    const int tiles = class >= CLASS_FED && a->swiglu ? (w->rows + each - 1) / each : a->tiles;

    launch_rope(b);
    if (a->load.x && !cuda_room(b, &b->loaded, rows_bytes + (size_t)a->T * sizeof(float)))
        return;
    struct dev_phase *ph = add(b, class, true, (size_t)a->T, 0, 0, w);
    struct stream_feed *f = &b->prog.feed[b->prog.n_feeds++];

    ph->form = w->kind * 4 + (w->gs > 1 && w->kind != DEV_U6 ? 2 : 0) + (w->pair ? 1 : 0);
    ph->u.s = *a;
    ph->u.s.scaled = a->ss || a->load.x;
    if (a->load.x) {
        ph->u.s.x = (uint16_t *)(uintptr_t)b->loaded.p;
        ph->u.s.load.by = (float *)(uintptr_t)(b->loaded.p + rows_bytes);
    }
    ph->u.s.teams =
        half || class >= CLASS_FED ? 0 : teams_of(b, (size_t)(a->swiglu ? a->tiles / 2 : a->tiles));
    *f = (struct stream_feed){ .tiles = tiles,
                               .stages = fed8 ? FED8_STAGES(w->kp) : w->kp / cols,
                               .stride = !rows  ? w->rec
                                         : half ? 2 * w->kp
                                                : w->kp,
                               .swiglu = (short)a->swiglu,
                               .teams = (short)ph->u.s.teams };
    for (int i = 0; i < DEV_OUTS; i++) {
        const bool there = i < a->n;

        f->q[i] = there ? a->out[i].w.q : NULL;
        f->rows[i] = there ? a->out[i].w.rows : 0;
        f->tile0[i] = there ? a->out[i].tile0 : INT32_MAX;
    }
}

void program_rope(struct cuda *b, const struct rope_args *a, size_t rows)
{
    launch_rope(b);
    b->prog.rope = *a;
    b->prog.rope_rows = rows;
}

void program_attn(struct cuda *b, const struct attn_args *a, int enc, size_t rows, size_t heads)
{
    struct rope_args r = b->prog.rope;
    const int group = a->H / a->K;
    const size_t words = rows * (size_t)(a->H * a->splits) * (size_t)(a->hd + 2);

    /* zeros: no tag that is waited for */
    if (a->splits > 1 && !cuda_room(b, &b->spans, words * sizeof(uint64_t)))
        return;

    if (r.q != a->q || r.kc != a->k || b->prog.rope_rows != rows)
        launch_rope(b);
    r = b->prog.rope;
    b->prog.rope.q = NULL;
    const size_t half = r.q ? (size_t)a->hd / 2 : 0;

    if (half && b->prog.half && (b->prog.half != half || b->prog.inv_freq != r.inv_freq))
        program_flush(b);
    struct dev_phase *ph =
        add(b, CLASS_U48, false, b->prog.n ? b->prog.T : rows,
            attn_scratch(b, (size_t)a->hd, rows, heads), rows * half * 2 * sizeof(float), NULL);

    if (half) {
        b->prog.half = half;
        b->prog.inv_freq = r.inv_freq;
    }
    b->prog.at_rows = *a;
    b->prog.pos = r.q ? r.pos : b->prog.n_rows ? b->prog.pos : NULL;
    b->prog.n_rows = rows;
    ph->kind = PHASE_ATTN;
    ph->u.a = (struct attn_phase){ .a = *a,
                                   .r = r,
                                   .enc = enc,
                                   .spans = (uint64_t *)(uintptr_t)b->spans.p,
                                   .heads = (int)heads,
                                   .parts = (group + (int)heads - 1) / (int)heads,
                                   .rows = (int)rows };
}

void program_close(struct cuda *b)
{
    if (b->prog.room)
        b->d.cuMemFree(b->prog.room);
    if (b->prog.pin)
        b->d.cuMemFreeHost(b->prog.pin);
    if (b->gate)
        b->d.cuMemFree(b->gate);
    free(b->prog.phase);
    free(b->prog.feed);
}
