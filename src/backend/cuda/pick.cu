/* pick.cu - what is told of rows of logits (ops/pick.h).
 *
 * 32 neighbouring ids are a segment; segments of the same number modulo 32 are a column. The columns
 * of a row are dealt to 1 to 32 blocks. Each tells of its own: the largest of the ids of each
 * column's lane, of each segment, and sums of segments' weights as if the column's largest were the
 * row's. The last block that comes puts that together. The 257th of the lanes' largest is not larger
 * than the 257th of all, and not far below it: segments that reach it are read again, what is as
 * large is gathered, and sorted. A draw finds the segment by the sums, and the id in that alone.
 * Values and ids are ordered as one number, so that the order is whole. What is told does not depend
 * on how many blocks there are.
 *
 * Flat rows, whose draw takes more ids than a list has, are looked at again: sums of weights by
 * buckets of logits say in which bucket the ids end that count, and then in which the draw ends. Ids
 * of those two are gathered, and sorted. */
#include "backend/cuda/block.cuh"

enum { THREADS = PICK_THREADS, COLUMNS = THREADS / WARP, ROOM = THREADS };
static_assert(COLUMNS == WARP, "a warp's lanes have the columns");

/* Larger logits are larger, of equal ones lower ids; 0 = minus infinity or no number. */
__device__ static inline uint64_t order_of(float x, int i)
{
    const uint32_t bits = x == 0 ? 0 : __float_as_uint(x); /* -0 is 0 */

    if (!(x > -INFINITY))
        return 0;
    return (uint64_t)(bits & 0x80000000 ? ~bits : bits | 0x80000000) << 32 | (uint32_t)~i;
}

__device__ static inline float logit_of(uint64_t order)
{
    const uint32_t key = order >> 32;

    return __uint_as_float(key & 0x80000000 ? key ^ 0x80000000 : ~key);
}

__device__ static inline int id_of(uint64_t order)
{
    return (int)~(uint32_t)order;
}

/* A lane's value, of 8 bytes. */
template <class T> __device__ static inline T from_lane(T v, int lane)
{
    uint32_t half[2];

    static_assert(sizeof(v) == sizeof(half), "two words");
    memcpy(half, &v, sizeof(v));
    for (int i = 0; i < 2; i++)
        half[i] = __shfl_sync(~0u, half[i], lane);
    memcpy(&v, half, sizeof(v));
    return v;
}

__device__ static inline uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

__device__ static inline uint64_t warp_largest(uint64_t mine)
{
    const uint32_t high = __reduce_max_sync(~0u, (uint32_t)(mine >> 32));
    const uint32_t low = __reduce_max_sync(~0u, mine >> 32 == high ? (uint32_t)mine : 0);

    return (uint64_t)high << 32 | low;
}

template <class T> __device__ static inline T warp_total(T mine)
{
    for (int d = WARP / 2; d; d /= 2)
        mine += from_lane(mine, threadIdx.x % WARP ^ d);
    return mine;
}

/* The sum up to each lane's. */
template <class T> __device__ static inline T warp_scan(T mine)
{
    const int lane = threadIdx.x % WARP;

    for (int d = 1; d < WARP; d *= 2) {
        const T before = from_lane(mine, max(lane - d, 0));

        mine += lane >= d ? before : 0;
    }
    return mine;
}

/* The sums up to each thread's, to all of them. */
template <class T> __device__ static inline void scan(T *up_to, T mine)
{
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    __shared__ T part[THREADS / WARP];

    mine = warp_scan(mine);
    if (lane == WARP - 1)
        part[warp] = mine;
    __syncthreads();
    const T before = from_lane(warp_scan(part[lane]), max(warp - 1, 0));

    up_to[threadIdx.x] = warp ? before + mine : mine;
    __syncthreads();
}

/* Of all threads' values that of thread k is the k-th largest then. Loops stay loops, here and below:
 * instructions that run once take longer to come than to run. */
__device__ static __noinline__ uint64_t sorted(uint64_t *room, uint64_t mine)
{
#pragma unroll 1
    for (int k = 2; k <= THREADS; k *= 2)
#pragma unroll 1
        for (int j = k / 2; j > 0; j /= 2) {
            const int at = threadIdx.x;
            uint64_t other;

            if (j < WARP) {
                other = from_lane(mine, at % WARP ^ j);
            } else {
                __syncthreads();
                room[at] = mine;
                __syncthreads();
                other = room[at ^ j];
            }
            if (!(at & j) == !(at & k) ? other > mine : other < mine)
                mine = other;
        }
    return mine;
}

/* A row that is being looked at. */
struct looked {
    pick_row row;
    float *x; /* [V] */
    const uint64_t *mask;
    int V;

    /* 0 = it does not count */
    __device__ uint64_t order(float v, int i) const
    {
        return i < V && (!mask || mask[i / 64] >> i % 64 & 1) ? order_of(v, i) : 0;
    }

    __device__ double weight(float v, int i, float max) const
    {
        if (!order(v, i))
            return 0;
        if (row.inverse > 0)
            return exp(((double)v - (double)max) * row.inverse);
        return (double)exp2f((v - max) * row.by);
    }

    __device__ bool weighs() const
    {
        return row.inverse > 0 || row.by > 0;
    }
};

/* The block's row; `row` is shared, and ask may lie in host memory. */
__device__ static inline looked look_at(pick_row *row, float *logits, const pick_row *ask,
                                        const uint64_t *masks, int V)
{
    static_assert(sizeof(*row) % 4 == 0, "copied by 4 bytes");
    if (threadIdx.x < sizeof(*row) / 4)
        ((uint32_t *)row)[threadIdx.x] = ((const uint32_t *)(ask + blockIdx.y))[threadIdx.x];
    __syncthreads();
    return { *row, logits + (size_t)row->row * V,
             row->mask < 0 ? NULL : masks + (size_t)row->mask * ((V + 63) / 64), V };
}

/* Where a warp's segments begin in its block's columns, those of its number modulo the number of
 * blocks, and how far apart they are; several warps have a column. */
struct segments {
    int shift, first, step;

    __device__ segments()
    {
        const int warp = threadIdx.x / WARP, blocks = gridDim.x;

        shift = __ffs(blocks) - 1;
        first = blockIdx.x + (warp >> shift) * blocks + (warp & (blocks - 1)) * COLUMNS;
        step = blocks * COLUMNS;
    }
};

/* Changes the ids of the block's columns. */
__device__ static inline void change(const looked &l, pick_change *changes)
{
    for (int i = threadIdx.x; i < l.row.n; i += THREADS) {
        pick_change *c = changes + i;

        if (c->id / WARP % gridDim.x == blockIdx.x) {
            const float was = l.x[c->id];

            l.x[c->id] = pick_changed(was, c);
            c->add = was;
        }
    }
    __syncthreads();
}

/* All of them are as they were. */
__device__ static inline void restore(const looked &l, const pick_change *changes)
{
    for (int i = threadIdx.x; i < l.row.n; i += THREADS)
        l.x[changes[i].id] = __ldcg(&changes[i].add);
}

/* What a block has to say of its columns. */
__device__ static inline void tell(const looked &l, pick_part *to, uint64_t *most, double *sum,
                                   pick_change *changes)
{
    enum { BESIDE = 8 }; /* segments that are asked for at a time */
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = gridDim.x;
    const segments at;
    __shared__ uint64_t lanes[THREADS], largest[COLUMNS];
    uint64_t best = 0;
    bool nan = false;

    if (threadIdx.x == 0 && l.row.at / WARP % warps == blockIdx.x)
        to->at = l.x[l.row.at];
    __syncthreads();
    change(l, changes);
#pragma unroll 1
    for (int s = at.first; s * WARP < l.V; s += BESIDE * at.step) {
        float v[BESIDE];

#pragma unroll
        for (int k = 0; k < BESIDE; k++) {
            const int i = (s + k * at.step) * WARP + lane;

            v[k] = i < l.V ? l.x[i] : -INFINITY;
        }
#pragma unroll
        for (int k = 0; k < BESIDE; k++) {
            const uint64_t o = l.order(v[k], (s + k * at.step) * WARP + lane);

            nan = nan || v[k] != v[k];
            best = larger(best, o);
            if (!l.row.bare && (s + k * at.step) * WARP < l.V) {
                const uint64_t m = warp_largest(o);

                if (lane == 0)
                    most[s + k * at.step] = m;
            }
        }
    }
    lanes[threadIdx.x] = best;
    nan = __syncthreads_or(nan);
    if (threadIdx.x == 0)
        to->bad[blockIdx.x] = nan;
    if (warp < COLUMNS >> at.shift) {
        best = 0;
        for (int k = 0; k < warps; k++)
            best = larger(best, lanes[(warp * warps + k) * WARP + lane]);
        to->lane[(blockIdx.x + warp * warps) * WARP + lane] = best;
        best = warp_largest(best);
        if (lane == 0)
            largest[warp] = best;
    }
    __syncthreads();
    if (!l.weighs())
        return;
    const float max = logit_of(largest[warp >> at.shift]);

#pragma unroll 1
    for (int s = at.first; s * WARP < l.V; s += at.step) {
        const int i = s * WARP + lane;
        const double w = warp_total(l.weight(i < l.V ? l.x[i] : -INFINITY, i, max));

        if (lane == 0)
            sum[s] = w;
    }
}

/* The likeliest, one by each of the first n threads; 0: there is no room for what is as likely as
 * the last. *complete: no others count. mine: the largest of the thread's lane. */
__device__ static inline int head(const looked &l, const uint64_t *most, uint64_t *mine,
                                  bool *complete)
{
    enum { BESIDE = 8 };
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    __shared__ uint64_t room[ROOM], least;
    __shared__ int segment[ROOM], listed, found;

    if (threadIdx.x == 0)
        listed = found = 0;
    *mine = sorted(room, *mine);
    if (threadIdx.x == PICK_MOST)
        least = larger(*mine, 1);
    __syncthreads();
    room[threadIdx.x] = 0;
    for (int s = threadIdx.x; s * WARP < l.V; s += THREADS)
        if (__ldcg(most + s) >= least) {
            const int to = atomicAdd(&listed, 1);

            if (to < ROOM)
                segment[to] = s;
        }
    __syncthreads();
    for (int s = warp; s < min(listed, ROOM); s += BESIDE * COLUMNS) {
        float v[BESIDE];
        int i[BESIDE];

#pragma unroll
        for (int k = 0; k < BESIDE; k++) {
            const int at = s + k * COLUMNS;

            i[k] = at < min(listed, ROOM) ? segment[at] * WARP + lane : l.V;
            v[k] = i[k] < l.V ? __ldcg(l.x + i[k]) : -INFINITY;
        }
#pragma unroll
        for (int k = 0; k < BESIDE; k++) {
            const uint64_t o = l.order(v[k], i[k]);

            if (o >= least) {
                const int to = atomicAdd(&found, 1);

                if (to < ROOM)
                    room[to] = o;
            }
        }
    }
    __syncthreads();
    *mine = sorted(room, room[threadIdx.x]);
    *complete = least == 1 && found <= PICK_MOST;
    return listed > ROOM || found > ROOM ? 0 : min(found, PICK_MOST);
}

/* Where the sum of weights by ids passes u of all, which is *all then; -1: an id ends too near to
 * it, or none was asked for. column: the largest of the warp's; max: of all. */
__device__ static inline int draw(const looked &l, const double *sum, uint64_t column, float max,
                                  double *all)
{
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int segments = (l.V + WARP - 1) / WARP, each = (segments + THREADS - 1) / THREADS;
    const int begin = each * threadIdx.x, end = min(begin + each, segments);
    __shared__ double factor[COLUMNS], up_to[THREADS], base;
    __shared__ int thread, segment, drawn;
    double mine = 0;

    if (lane == 0)
        factor[warp] = column ? l.weight(logit_of(column), id_of(column), max) : 0;
    if (threadIdx.x == 0)
        thread = segment = drawn = -1;
    __syncthreads();
#pragma unroll 4
    for (int s = begin; s < end; s++)
        mine += __ldcg(sum + s) * factor[s % COLUMNS];
    scan(up_to, mine);
    *all = up_to[THREADS - 1];
    const double aim = l.row.u * *all, doubt = PICK_DRAW_SLACK * *all;
    double to = threadIdx.x ? up_to[threadIdx.x - 1] : 0;

    if (l.row.inverse > 0 && to <= aim && aim < up_to[threadIdx.x])
        thread = threadIdx.x; /* rounding may let two be here: one of them */
    __syncthreads();
#pragma unroll 1
    for (int s = begin; s < end && thread == threadIdx.x && to <= aim; s++) {
        base = to;
        segment = s;
        to += __ldcg(sum + s) * factor[s % COLUMNS];
    }
    __syncthreads();
    if (warp == 0 && segment >= 0) {
        const int i = segment * WARP + lane;
        const float v = i < l.V ? __ldcg(l.x + i) : -INFINITY;
        const double end = base + warp_scan(l.weight(v, i, max));
        const double before = from_lane(end, lane ? lane - 1 : 0), from = lane ? before : base;

        if (from <= aim && aim < end && (from == 0 || aim - from > doubt) && end - aim > doubt)
            drawn = i;
    }
    __syncthreads();
    return drawn;
}

/* grid: 1, 2, 4 .. 32 blocks a row, rows asked for. A changed row is as it was behind it. pitch:
 * bytes from one row's list to the next; where all are bare, the lists' beginnings alone. parts:
 * PICK_PART(V) bytes a row; done: zero before and after. */
extern "C" __global__ void __launch_bounds__(THREADS)
    pick(uint8_t *out, int pitch, float *logits, const pick_row *ask, pick_change *changes,
         const uint64_t *masks, int V, uint8_t *parts, int *done)
{
    __shared__ pick_row row;
    __shared__ uint64_t largest[COLUMNS];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;

    const looked l = look_at(&row, logits, ask, masks, V);
    pick_part *const all = (pick_part *)(parts + blockIdx.y * PICK_PART(V));
    uint64_t *const most = (uint64_t *)(all + 1);
    double *const sums = (double *)(most + (V + WARP - 1) / WARP);

    tell(l, all, most, sums, changes + row.change);
    if (!last_of(done + blockIdx.y, gridDim.x, THREADS))
        return;
    uint64_t mine = __ldcg(all->lane + threadIdx.x);
    const uint64_t column = warp_largest(mine);
    const bool bad = __syncthreads_or(threadIdx.x < gridDim.x && __ldcg(all->bad + threadIdx.x));

    if (lane == 0)
        largest[warp] = column;
    __syncthreads();
    const uint64_t top = warp_largest(largest[lane]);
    const float max = logit_of(top);
    pick_list *const to = (pick_list *)(out + (size_t)blockIdx.y * pitch);
    bool complete = false;
    double sum = 0;
    int drawn = -1, n = 0;

    if (l.weighs())
        drawn = draw(l, sums, column, max, &sum);
    if (row.bare && row.inverse == 0 && top && max < INFINITY)
        drawn = id_of(top);
    if (!row.bare) {
        n = head(l, most, &mine, &complete);
        if (threadIdx.x < n) {
            to->id[threadIdx.x] = id_of(mine);
            to->logit[threadIdx.x] = logit_of(mine);
        }
    }
    if (threadIdx.x == 0) {
        to->n = n;
        to->complete = n > 0 && complete;
        to->bad = bad;
        to->drawn = drawn;
        to->at = __ldcg(&all->at);
        to->sum = sum;
    }
    restore(l, changes + row.change);
}

/* ---- flat rows: ids by likelihood, more than a list has ---- */

/* Larger logits have lower numbers. */
__device__ static inline int bucket_of(const looked &l, float v)
{
    const float by = (float)(PICK_BUCKETS / 32 * l.row.inverse); /* below exp(-31) all is zero */

    return (int)fminf((l.row.max - v) * by, PICK_BUCKETS - 1);
}

/* What an id adds to sums; near: it may count or not. */
__device__ static inline uint64_t units_of(const looked &l, float v, int i, bool *counts,
                                           bool *near)
{
    const double w = l.weight(v, i, l.row.max);

    *counts = w >= l.row.least;
    *near = *near || fabs(w - l.row.least) < 1e-12 * l.row.least;
    return (uint64_t)(w * PICK_UNIT + 0.5);
}

/* The id at which the sum passes `aim`, and *end: the sum with it. The bucket at whose beginning it
 * is `begin`. -1: an id ends nearer than `doubt` to aim, or there is no room for the bucket. */
__device__ static inline int in_bucket(const looked &l, int bucket, uint64_t begin, double aim,
                                       double doubt, uint64_t *end)
{
    enum { BESIDE = 8 };
    __shared__ uint64_t room[ROOM], up_to[THREADS], ends;
    __shared__ int found, id;
    bool counts, near = false;

    __syncthreads();
    if (threadIdx.x == 0)
        found = 0, id = -1, ends = 0;
    room[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll 1
    for (int first = threadIdx.x; first < l.V; first += BESIDE * THREADS) {
        float v[BESIDE];

#pragma unroll
        for (int k = 0; k < BESIDE; k++) {
            const int i = first + k * THREADS;

            v[k] = i < l.V ? __ldcg(l.x + i) : -INFINITY;
        }
#pragma unroll
        for (int k = 0; k < BESIDE; k++) {
            const uint64_t o = l.order(v[k], first + k * THREADS);

            if (o && bucket_of(l, v[k]) == bucket) {
                const int to = atomicAdd(&found, 1);

                if (to < ROOM)
                    room[to] = o;
            }
        }
    }
    __syncthreads();
    const uint64_t o = sorted(room, room[threadIdx.x]);
    const uint64_t units = o ? units_of(l, logit_of(o), id_of(o), &counts, &near) : 0;

    scan(up_to, o && counts ? units : 0);
    const double to = (double)(begin + up_to[threadIdx.x]);
    const double from = (double)(begin + (threadIdx.x ? up_to[threadIdx.x - 1] : 0));

    if (found <= ROOM && from <= aim && aim < to && (from == 0 || aim - from > doubt) &&
        to - aim > doubt) {
        id = id_of(o);
        ends = begin + up_to[threadIdx.x];
    }
    __syncthreads();
    *end = ends;
    return id;
}

/* grid and arguments as pick's; rows ask for `part` and nothing else, and have their maxima. flat:
 * one a row, zero before and after. Weights are whole numbers of PICK_UNIT, so that sums do not
 * depend on their order: each is half a unit off, at most. */
extern "C" __global__ void __launch_bounds__(THREADS)
    pick_flat(uint8_t *out, int pitch, float *logits, const pick_row *ask, pick_change *changes,
              const uint64_t *masks, int V, pick_sums *flat, int *done)
{
    enum { EACH = PICK_BUCKETS / THREADS };
    __shared__ pick_row row;
    __shared__ uint64_t up_to[THREADS], begin;
    __shared__ int bucket;
    const looked l = look_at(&row, logits, ask, masks, V);
    const segments at;
    pick_sums *const all = flat + blockIdx.y;
    uint64_t less = 0;
    bool near = false;

    change(l, changes + row.change);
#pragma unroll 1
    for (int s = at.first; s * WARP < V; s += at.step) {
        const int i = s * WARP + threadIdx.x % WARP;
        const float v = i < V ? l.x[i] : -INFINITY;
        bool counts;
        const uint64_t units = units_of(l, v, i, &counts, &near);

        if (units && counts)
            atomicAdd((unsigned long long *)&all->sum[bucket_of(l, v)], units);
        less += counts ? 0 : units;
    }
    less = warp_total(less);
    if (less && threadIdx.x % WARP == 0)
        atomicAdd((unsigned long long *)&all->less, less);
    if (near)
        atomicAdd((unsigned long long *)&all->near, 1);
    if (!last_of(done + blockIdx.y, gridDim.x, THREADS))
        return;
    uint64_t *const sum = all->sum + EACH * threadIdx.x, mine = 0;

    for (int k = 0; k < EACH; k++)
        mine += __ldcg(sum + k);
    scan(up_to, mine);
    uint64_t total = up_to[THREADS - 1];
    const double counted = (double)total, everything = counted + (double)__ldcg(&all->less);
    const double doubt = V + PICK_DRAW_SLACK * everything;
    bool told = !__ldcg(&all->near);
    int id = -1;

#pragma unroll 1
    for (int turn = row.part == 1; turn < 2; turn++) { /* where `part` ends, and the draw */
        const double aim = turn ? row.u * (double)total : row.part * everything;

        if (turn == 0 && aim >= counted) { /* nowhere */
            told = told && aim - counted > doubt;
            continue;
        }
        uint64_t from = threadIdx.x ? up_to[threadIdx.x - 1] : 0;

        if (threadIdx.x == 0)
            bucket = -1;
        __syncthreads();
        for (int k = 0; k < EACH && (double)from <= aim && aim < (double)up_to[threadIdx.x]; k++) {
            bucket = EACH * threadIdx.x + k;
            begin = from;
            from += __ldcg(sum + k);
        }
        __syncthreads();
        id = in_bucket(l, bucket, begin, aim, doubt, &total);
        told = told && id >= 0;
    }
    for (int k = 0; k < EACH; k++)
        sum[k] = 0;
    if (threadIdx.x == 0) {
        all->less = all->near = 0;
        ((pick_list *)(out + (size_t)blockIdx.y * pitch))->drawn = told ? id : -1;
    }
    restore(l, changes + row.change);
}
