/* pick.cu - the head of rows of logits (ops/pick.h). A block has a row. The 256th of the threads' largest
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

/* grid: rows asked for, 1024 threads */
extern "C" __global__ void __launch_bounds__(THREADS)
    pick(pick_list *out, const float *logits, const pick_row *ask, const uint64_t *masks, int V)
{
    __shared__ uint64_t head[ROOM];
    __shared__ double part[THREADS];
    __shared__ int found, finite, bad;
    const pick_row row = ask[blockIdx.x];
    const float *x = logits + (size_t)row.row * V;
    const uint64_t *mask = row.mask < 0 ? NULL : masks + (size_t)row.mask * ((V + 63) / 64);
    uint64_t mine = 0;
    int n = 0;
    bool nan = false;

    if (threadIdx.x == 0)
        found = finite = bad = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < V; i += THREADS) {
        const uint64_t o = !mask || mask[i / 64] >> i % 64 & 1 ? order_of(x[i], i) : 0;

        nan = nan || x[i] != x[i];
        n += o != 0;
        mine = o > mine ? o : mine;
    }
    head[threadIdx.x] = mine;
    if (n)
        atomicAdd(&finite, n);
    if (nan)
        bad = 1;
    sort(head);
    const float max = logit_of(head[0]);
    const uint64_t least = head[PICK_MOST - 1] ? head[PICK_MOST - 1] : 1;
    double sum = 0;

    __syncthreads();
    head[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < V; i += THREADS) {
        const uint64_t o = !mask || mask[i / 64] >> i % 64 & 1 ? order_of(x[i], i) : 0;

        if (o >= least) {
            const int at = atomicAdd(&found, 1);

            if (at < ROOM)
                head[at] = o;
        }
        if (o && row.by > 0)
            sum += exp2f((x[i] - max) * row.by);
    }
    part[threadIdx.x] = sum;
    for (int d = THREADS / 2; d; d /= 2) {
        __syncthreads();
        if (threadIdx.x < d)
            part[threadIdx.x] += part[threadIdx.x + d];
    }
    sort(head);
    const int most = found > ROOM ? 0 : found < PICK_MOST ? found : PICK_MOST;
    pick_list *to = out + blockIdx.x;

    if (threadIdx.x == 0) {
        to->n = most;
        to->complete = most > 0 && finite == most;
        to->bad = bad;
        to->sum = part[0];
    }
    if (threadIdx.x < most) {
        to->id[threadIdx.x] = (int32_t) ~(uint32_t)head[threadIdx.x];
        to->logit[threadIdx.x] = logit_of(head[threadIdx.x]);
    }
}
