/* pick.cu - what is told of rows of logits (ops/pick.h). A block has a row. The 256th of the threads' largest
 * values is no larger than the 256th of all, and not far below it: what is as large is gathered, and
 * sorted. Values and ids are ordered as one number, so that the order is whole. */
#include "backend/cuda/unit.cuh"

enum { THREADS = 1024, ROOM = THREADS };

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

/* Largest first. */
__device__ static inline void sort(uint64_t *p)
{
    for (int k = 2; k <= THREADS; k *= 2)
        for (int j = k / 2; j > 0; j /= 2) {
            const int a = threadIdx.x, b = a ^ j;

            __syncthreads();
            if (b > a && (a & k ? p[a] > p[b] : p[a] < p[b])) {
                const uint64_t t = p[a];

                p[a] = p[b];
                p[b] = t;
            }
        }
    __syncthreads();
}

/* The sums up to each thread's, in shared memory. */
__device__ static inline void scan(double *part, double mine)
{
    __syncthreads();
    part[threadIdx.x] = mine;
    for (int d = 1; d < THREADS; d *= 2) {
        __syncthreads();
        const double before = threadIdx.x >= d ? part[threadIdx.x - d] : 0;

        __syncthreads();
        part[threadIdx.x] += before;
    }
    __syncthreads();
}

/* Where the sum of weights by ids passes u of all, in *at: `part` has their sums up to each warp's
 * last thread, warps having `span` ids each; the span in which that is gets summed again, a few ids
 * by each thread. -1 where an id ends too near to it. */
template <class F>
__device__ static inline void draw(int *at, double *part, int V, int span, double u, F weight)
{
    const double sum = part[THREADS - 1], aim = u * sum, doubt = PICK_DRAW_SLACK * sum;
    const int each = span / WARP, warp = threadIdx.x;
    __shared__ double base;
    __shared__ int first;

    if (warp == 0)
        first = *at = -1;
    __syncthreads();
    if (warp < THREADS / WARP) {
        const double before = warp ? part[warp * WARP - 1] : 0;

        if (before <= aim && aim < part[warp * WARP + WARP - 1]) {
            base = before;
            first = warp * span;
        }
    }
    __syncthreads();
    if (first < 0)
        return; /* infinite, or none counts */
    const int begin = first + each * threadIdx.x, end = min(min(begin + each, first + span), V);
    double mine = 0;

    for (int i = begin; i < end; i++)
        mine += weight(i);
    scan(part, mine);
    double to = base + (threadIdx.x ? part[threadIdx.x - 1] : 0);

    if (to <= aim && aim < base + part[threadIdx.x])
        for (int i = begin; i < end; i++) {
            const double from = to;

            to += weight(i);
            if (aim < to) {
                if ((from == 0 || aim - from > doubt) && to - aim > doubt)
                    *at = i;
                break;
            }
        }
    __syncthreads();
}

__device__ static inline uint64_t warp_largest(uint64_t mine)
{
    for (int d = WARP / 2; d; d /= 2) {
        const uint64_t high = __shfl_xor_sync(~0u, (uint32_t)(mine >> 32), d);
        const uint64_t other = high << 32 | __shfl_xor_sync(~0u, (uint32_t)mine, d);

        mine = other > mine ? other : mine;
    }
    return mine;
}

/* The largest, to all threads. */
__device__ static inline uint64_t largest(uint64_t mine)
{
    __shared__ uint64_t part[THREADS / WARP];

    mine = warp_largest(mine);
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = mine;
    __syncthreads();
    return warp_largest(part[threadIdx.x % WARP]);
}

/* The largest of a thread's part of a row, a multiple of four logits, many of them asked for at a
 * time; *nan: there is one that is no number. */
__device__ static inline uint64_t likeliest(const float *x, int V, bool *nan)
{
    enum { BESIDE = 8 };
    const float4 *const from = (const float4 *)x;
    float max = -INFINITY;
    int at = 0;
    bool bad = false;

    for (int i = threadIdx.x; i < V / 4; i += BESIDE * THREADS) {
        float4 v[BESIDE];

#pragma unroll
        for (int k = 0; k < BESIDE; k++)
            if (i + k * THREADS < V / 4)
                v[k] = from[i + k * THREADS];
            else
                v[k] = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
#pragma unroll
        for (int k = 0; k < BESIDE; k++) {
            const float four[4] = { v[k].x, v[k].y, v[k].z, v[k].w };

#pragma unroll
            for (int j = 0; j < 4; j++) {
                bad = bad || four[j] != four[j];
                if (four[j] > max)
                    max = four[j], at = 4 * (i + k * THREADS) + j;
            }
        }
    }
    *nan = bad;
    return order_of(max, at);
}

/* grid: rows asked for, 1024 threads. A changed row is as it was behind it. pitch: bytes from one
 * row's list to the next; where all are bare, the lists' beginnings alone. */
extern "C" __global__ void __launch_bounds__(THREADS)
    pick(uint8_t *out, int pitch, float *logits, const pick_row *ask, pick_change *changes,
         const uint64_t *masks, int V)
{
    __shared__ uint64_t head[ROOM];
    __shared__ double part[THREADS];
    __shared__ int found, finite, bad, drawn;
    __shared__ pick_row asked;

    /* it may lie in host memory */
    static_assert(sizeof(asked) % 4 == 0, "copied by 4 bytes");
    if (threadIdx.x < sizeof(asked) / 4)
        ((uint32_t *)&asked)[threadIdx.x] = ((const uint32_t *)(ask + blockIdx.x))[threadIdx.x];
    __syncthreads();
    const pick_row row = asked;
    float *x = logits + (size_t)row.row * V;
    const uint64_t *mask = row.mask < 0 ? NULL : masks + (size_t)row.mask * ((V + 63) / 64);
    const int span = (V + THREADS - 1) / THREADS * WARP, begin = threadIdx.x / WARP * span;
    const int lane = threadIdx.x % WARP, end = min(begin + span, V);
    const bool first = row.bare && row.inverse == 0; /* is all that is wanted */
    uint64_t mine = 0;
    int n = 0;
    bool nan = false;

    const auto order = [&](int i) {
        return !mask || mask[i / 64] >> i % 64 & 1 ? order_of(x[i], i) : 0;
    };

    if (threadIdx.x == 0)
        found = finite = bad = 0, drawn = -1;
    const float at = x[row.at];

    __syncthreads();
    for (int i = threadIdx.x; i < row.n; i += THREADS) {
        pick_change *c = changes + row.change + i;
        const float was = x[c->id];

        x[c->id] = pick_changed(was, c);
        c->add = was;
    }
    __syncthreads();
    if (first && !mask && V % 4 == 0)
        mine = likeliest(x, V, &nan);
    else
        for (int i = begin + lane; i < end; i += WARP) {
            const uint64_t o = order(i);

            nan = nan || x[i] != x[i];
            n += o != 0;
            mine = o > mine ? o : mine;
        }
    if (n && !row.bare)
        atomicAdd(&finite, n);
    if (nan)
        bad = 1;
    if (!row.bare) {
        head[threadIdx.x] = mine;
        sort(head);
    }
    const uint64_t top = row.bare ? largest(mine) : head[0];
    const uint64_t least = row.bare ? UINT64_MAX : head[PICK_MOST - 1] ? head[PICK_MOST - 1] : 1;
    const float max = logit_of(top);
    double sum = 0;

    const auto weight = [&](int i) {
        return order(i) ? exp(((double)x[i] - (double)max) * row.inverse) : 0;
    };

    __syncthreads();
    head[threadIdx.x] = 0;
    __syncthreads();
    for (int i = begin + lane; i < end && !first; i += WARP) {
        const uint64_t o = order(i);

        if (o >= least) {
            const int to = atomicAdd(&found, 1);

            if (to < ROOM)
                head[to] = o;
        }
        if (row.inverse > 0)
            sum += weight(i);
        else if (o && row.by > 0)
            sum += exp2f((x[i] - max) * row.by);
    }
    if (!first)
        scan(part, sum);
    sum = first ? 0 : part[THREADS - 1];
    if (row.inverse > 0)
        draw(&drawn, part, V, span, row.u, weight);
    if (!row.bare)
        sort(head);
    const int most = found > ROOM ? 0 : found < PICK_MOST ? found : PICK_MOST;
    pick_list *to = (pick_list *)(out + (size_t)blockIdx.x * pitch);

    if (threadIdx.x == 0) {
        to->n = most;
        to->complete = most > 0 && finite == most;
        to->bad = bad;
        to->drawn = first && top && max < INFINITY ? (int32_t) ~(uint32_t)top : drawn;
        to->at = at;
        to->sum = sum;
    }
    if (threadIdx.x < most) {
        to->id[threadIdx.x] = (int32_t) ~(uint32_t)head[threadIdx.x];
        to->logit[threadIdx.x] = logit_of(head[threadIdx.x]);
    }
    for (int i = threadIdx.x; i < row.n; i += THREADS)
        x[changes[row.change + i].id] = changes[row.change + i].add;
}
