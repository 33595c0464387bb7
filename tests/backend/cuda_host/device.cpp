/* device.cpp - the emulated device and its driver, libcuda.so.1 of tests/backend/cuda_host.sh. What
 * is wrong ends the process with a line that says what. */
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

#include "cuda.h"
#include "device.h"

dim3_at threadIdx, blockIdx, blockDim, gridDim;

enum { MOST_THREADS = 1024, WARP = 32, STACK = 128 << 10, PAGE = 4096 };

static std::string running = "no kernel";

[[noreturn]] __attribute__((format(printf, 1, 2))) static void die(const char *what, ...)
{
    va_list args;

    va_start(args, what);
    fprintf(stderr, "emulated device: %s, block (%u, %u, %u), thread %u: ", running.c_str(),
            blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x);
    vfprintf(stderr, what, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

static uint32_t chance()
{
    static uint64_t state = 1;

    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

/* ---- threads as fibers ---- */

enum wait { READY, AT_BARRIER, AT_WARP, AT_BAR, AT_NAMED, ENDED };

struct copy {
    uint8_t *to;
    const void *from;
    int n;
};

struct fiber {
    void *here[5]; /* __builtin_setjmp's */
    ucontext_t first;
    bool begun;
    wait at;
    int turn; /* meetings of the warp so far, modulo 2 */
    lane_words brought[2];
    std::vector<copy> open;
    std::deque<std::vector<copy>> committed;
    std::vector<wgmma_product> products; /* begun, not committed */
    std::deque<std::vector<wgmma_product>> in_flight;
    uint32_t bar, parity; /* waited for */
    int named;
};

static fiber fibers[MOST_THREADS];
static void *scheduler[5];
static fiber *current;
static const emulated_call *body;
static int any, any_before; /* of __syncthreads_or */

static void land(const std::vector<copy> &copies)
{
    for (const copy &c : copies)
        memcpy(c.to, c.from, (size_t)c.n);
}

/* From stack to stack without a system call, which swapcontext has. A function of its own: gcc
 * takes the place after setjmp for unreachable where no call may lead there. */
[[noreturn]] __attribute__((noinline)) static void go_on(void **at)
{
    __builtin_longjmp(at, 1);
}

__attribute__((noinline)) static void leave(wait why)
{
    current->at = why;
    if (__builtin_setjmp(current->here) == 0)
        go_on(scheduler);
}

static void live()
{
    for (;;) {
        (*body)();
        copy_commit();
        copy_wait_for(0);
        if (!current->products.empty() || !current->in_flight.empty())
            die("ends before its products");
        leave(ENDED);
    }
}

__attribute__((noinline)) static void enter(fiber &f)
{
    current = &f;
    threadIdx = { (unsigned)(&f - fibers), 0, 0 };
    if (__builtin_setjmp(scheduler))
        return;
    if (f.begun)
        go_on(f.here);
    f.begun = true;
    getcontext(&f.first);
    f.first.uc_stack.ss_size = STACK;
    f.first.uc_stack.ss_sp = mmap(NULL, STACK + PAGE, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(f.first.uc_stack.ss_sp, PAGE, PROT_NONE);
    makecontext(&f.first, live, 0);
    setcontext(&f.first);
}

void __syncthreads()
{
    leave(AT_BARRIER);
}

int __syncthreads_or(int v)
{
    any |= v;
    leave(AT_BARRIER);
    return any_before;
}

const lane_words *warp_meet(const uint32_t *mine, int n)
{
    fiber *f = current;
    static lane_words all[2][MOST_THREADS];
    const int turn = f->turn ^= 1, i = (int)(f - fibers);

    memcpy(all[turn][i], mine, (size_t)n * sizeof(*mine));
    leave(AT_WARP);
    return &all[turn][i / WARP * WARP];
}

/* Shared memory whose size the launch says, and the names that kernels have for it. */
alignas(1024) thread_local uint8_t shared[227 << 10];
extern thread_local uint8_t unaligned[] __attribute__((alias("shared")));
extern thread_local float room[] __attribute__((alias("shared")));
extern thread_local float2 turn[] __attribute__((alias("shared")));
static size_t shared_size;

size_t __cvta_generic_to_shared(const void *p)
{
    return (size_t)((const uint8_t *)p - shared);
}

const void *shared_at(uint32_t at)
{
    if (at % 16 || at + 16 > shared_size)
        die("reads 16 bytes at %u of %zu of shared memory", at, shared_size);
    return shared + at;
}

void copy_begin(uint32_t to, const void *from, int n)
{
    if (to % (unsigned)n || (uintptr_t)from % (unsigned)n || to + (size_t)n > shared_size)
        die("copies %d bytes from %p to %u of shared memory", n, from, to);
    const copy c = { shared + to, from, n };

    if (chance() % 2)
        land({ c });
    else
        current->open.push_back(c);
}

void copy_commit()
{
    current->committed.push_back(std::move(current->open));
    current->open.clear();
}

void copy_wait_for(int pending)
{
    for (; (int)current->committed.size() > pending; current->committed.pop_front())
        land(current->committed.front());
}

/* ---- of Hopper ---- */

/* A barrier as it lies in shared memory; `bytes` are awaited still. */
struct barrier {
    uint16_t phase : 1, arrivals : 15;
    int16_t pending;
    int32_t bytes;
};

static barrier *barrier_at(uint32_t bar)
{
    if (bar % 8 || bar + 8 > shared_size)
        die("a barrier at %u of %zu of shared memory", bar, shared_size);
    return (barrier *)(shared + bar);
}

static void barrier_turn(barrier *b)
{
    if (b->pending < 0)
        die("more than %d arrive at a barrier", b->arrivals);
    if (b->pending == 0 && b->bytes == 0) {
        b->phase ^= 1;
        b->pending = (int16_t)b->arrivals;
    }
}

void barrier_init(uint32_t bar, uint32_t arrivals)
{
    *barrier_at(bar) = { 0, (uint16_t)arrivals, (int16_t)arrivals, 0 };
}

void barrier_arrive(uint32_t bar, uint32_t expected)
{
    barrier *b = barrier_at(bar);

    b->bytes += (int32_t)expected;
    b->pending--;
    barrier_turn(b);
}

static bool barrier_passed(const fiber &f)
{
    return barrier_at(f.bar)->phase != f.parity;
}

void barrier_wait(uint32_t bar, uint32_t parity)
{
    current->bar = bar;
    current->parity = parity;
    leave(barrier_passed(*current) ? READY : AT_BAR);
}

static int named_there[16]; /* threads that came */

void named_barrier(int id, int threads, bool wait)
{
    if (id < 1 || id > 15 || threads % WARP)
        die("barrier %d of %d threads", id, threads);
    const bool last = ++named_there[id] == threads;

    if (last) {
        named_there[id] = 0;
        for (fiber &f : fibers)
            if (f.at == AT_NAMED && f.named == id)
                f.at = READY;
    }
    if (!wait)
        return;
    current->named = id;
    leave(last ? READY : AT_NAMED);
}

/* Rows of a tensor: what cuTensorMapEncodeTiled makes of its arguments, boxes of 128 bytes a row.
 */
struct tensor_map {
    const uint8_t *p;
    cuuint64_t cols, rows, apart;
    cuuint32_t box_cols, box_rows;
};

struct bulk {
    uint32_t to, bytes, bar;
    const void *from; /* NULL = of a map */
    tensor_map map;
    int c, r;
};
static std::vector<bulk> bulks; /* on their way */

static void arrive_bulk(const bulk &k)
{
    const tensor_map &m = k.map;
    barrier *b = barrier_at(k.bar);

    if (k.from)
        memcpy(shared + k.to, k.from, k.bytes);
    for (uint32_t i = 0; !k.from && i < m.box_rows; i++)
        for (uint32_t j = 0; j < m.box_cols; j++) {
            const int64_t r = (int64_t)k.r + i, c = (int64_t)k.c + j;
            const bool in = r >= 0 && r < (int64_t)m.rows && c >= 0 && c < (int64_t)m.cols;
            uint32_t at = k.to + i * 128 + j * 2;

            at ^= (at >> 7 & 7) << 4;
            *(uint16_t *)(shared + at) =
                in ? ((const uint16_t *)(m.p + (cuuint64_t)r * m.apart))[c] : 0;
        }
    b->bytes -= (int32_t)k.bytes;
    barrier_turn(b);
}

static void begin_bulk(const bulk &k)
{
    if (k.to + k.bytes > shared_size || k.bytes % 16 || k.to % 16)
        die("copies %u bytes to %u of %zu of shared memory", k.bytes, k.to, shared_size);
    bulks.push_back(k);
}

void bulk_begin(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    if ((uintptr_t)from % 16)
        die("copies from %p", from);
    begin_bulk({ to, bytes, bar, from, {}, 0, 0 });
}

void tile_begin(uint32_t to, const void *map, int c, int r, uint32_t bar)
{
    tensor_map m;

    memcpy(&m, map, sizeof(m));
    if (to % 1024)
        die("a swizzled tile at %u", to);
    begin_bulk({ to, m.box_cols * m.box_rows * 2, bar, NULL, m, c, r });
}

/* One of those that are on their way; `must`: there is nothing else to wait for. */
static bool land_bulk(bool must)
{
    if (bulks.empty() || (!must && chance() % 2))
        return false;
    const size_t i = chance() % bulks.size();
    const bulk k = bulks[i];

    bulks.erase(bulks.begin() + (long)i);
    arrive_bulk(k);
    return true;
}

/* Line i of a swizzled operand, its 16 values of the sum. Lines lie 8 in stride; across, values do,
 * and lines 64 in lead. */
static void operand_line(float to[16], const wgmma_product &p, uint64_t d, bool across, uint32_t i)
{
    const uint32_t lead = (uint32_t)(d >> 16 & 0x3FFF) << 4, stride = (uint32_t)(d >> 32 & 0x3FFF)
                                                                      << 4;
    const uint32_t from = ((uint32_t)(d & 0x3FFF) << 4) +
                          (across ? i / 64 * lead + i % 64 * 2 : i / 8 * stride + i % 8 * 128);

    for (uint32_t k = 0; k < 16; k++) {
        uint32_t at = from + (across ? k / 8 * stride + k % 8 * 128 : k * 2);

        at ^= (at >> 7 & 7) << 4;
        if (at + 2 > shared_size)
            die("an operand's value at %u of %zu of shared memory", at, shared_size);
        const uint16_t h = *(const uint16_t *)(shared + at);

        to[k] = p.bf16 ? bf16_to_f32(h) : f16_to_f32(h);
    }
}

/* The share of thread i of a warpgroup (PTX ISA, wgmma.mma_async.m64nNk16): lane 4 g + q of warp w
 * has rows 16 w + g and 8 more, columns 8 j + 2 q and the next. */
static void multiply(const wgmma_product &p, int i)
{
    const uint32_t w = (uint32_t)i / WARP, g = (uint32_t)i % WARP / 4, q = (uint32_t)i % 4;
    float a[2][16], b[16];

    if ((p.b_at >> 62) != 1 || (!p.registers && (p.a_at >> 62) != 1))
        die("an operand that is not swizzled by 128 bytes");
    for (uint32_t r = 0; r < 2; r++) {
        if (!p.registers)
            operand_line(a[r], p, p.a_at, false, 16 * w + g + 8 * r);
        for (uint32_t k = 0; p.registers && k < 16; k++) {
            const uint32_t pair = p.a[k % 8 / 2][r + k / 8 * 2];
            const uint16_t h = (uint16_t)(k % 2 ? pair >> 16 : pair);

            a[r][k] = p.bf16 ? bf16_to_f32(h) : f16_to_f32(h);
        }
    }
    for (int c = 0; c < p.n / 4; c++) {
        operand_line(b, p, p.b_at, p.across, (uint32_t)c / 2 * 8 + 2 * q + (uint32_t)c % 2);
        for (int r = 0; r < 2; r++) {
            float *to = &p.d[c / 2 * 4 + 2 * r + c % 2];
            double s = p.add ? *to : 0;

            for (int k = 0; k < 16; k++)
                s += (double)a[r][k] * b[k];
            *to = (float)s;
        }
    }
}

static void finish_products(size_t pending)
{
    for (; current->in_flight.size() > pending; current->in_flight.pop_front())
        for (const wgmma_product &p : current->in_flight.front())
            multiply(p, (int)(threadIdx.x % 128));
}

void product_begin(const wgmma_product &p)
{
    current->products.push_back(p);
}

void products_commit()
{
    current->in_flight.push_back(std::move(current->products));
    current->products.clear();
    if (chance() % 2)
        finish_products(0);
}

void products_wait(int pending)
{
    if (!current->products.empty())
        die("waits for products that were not committed");
    finish_products((size_t)pending);
}

/* ---- blocks ---- */

/* Lets a warp go on whose lanes have all come to its meeting. */
static void end_meetings(int threads)
{
    for (int w = 0; w < threads; w += WARP) {
        int n = 0, waiting = 0, gone = 0;

        for (; n < WARP && w + n < threads; n++) {
            waiting += fibers[w + n].at == AT_WARP;
            gone += fibers[w + n].at == AT_BARRIER || fibers[w + n].at == ENDED;
        }
        if (waiting && gone)
            die("%d lanes of warp %d wait for the others, which ended or wait at a barrier",
                waiting, w / WARP);
        for (int i = w; waiting == n && i < w + n; i++)
            fibers[i].at = READY;
    }
}

/* Lets go on whose barrier turned; none: something has to land first. */
static void end_waits(int threads)
{
    for (bool must = false;; must = true) {
        int ready = 0, waiting = 0;

        for (int i = 0; i < threads; i++) {
            if (fibers[i].at == AT_BAR && barrier_passed(fibers[i]))
                fibers[i].at = READY;
            ready += fibers[i].at == READY;
            waiting += fibers[i].at == AT_BAR || fibers[i].at == AT_NAMED;
        }
        if (ready || !waiting) {
            land_bulk(false);
            return;
        }
        if (!land_bulk(must) && must)
            die("%d threads wait for what will not come", waiting);
    }
}

static void run_block(int threads)
{
    for (int i = 0; i < threads; i++)
        fibers[i].at = READY;
    memset(shared, 0xFF, shared_size); /* NaN */
    memset(named_there, 0, sizeof(named_there));
    for (;;) {
        const int from = (int)(chance() % (unsigned)threads);
        int at_barrier = 0, ended = 0;

        for (int k = 0; k < threads; k++)
            if (fibers[(from + k) % threads].at == READY)
                enter(fibers[(from + k) % threads]);
        end_meetings(threads);
        end_waits(threads);
        for (int i = 0; i < threads; i++) {
            at_barrier += fibers[i].at == AT_BARRIER;
            ended += fibers[i].at == ENDED;
        }
        if (ended == threads && !bulks.empty())
            die("ends before its copies have landed");
        if (ended == threads)
            return;
        if (at_barrier && at_barrier + ended == threads) {
            if (ended)
                die("%d threads wait at a barrier, %d have ended", at_barrier, ended);
            any_before = any;
            any = 0;
            for (int i = 0; i < threads; i++)
                fibers[i].at = READY;
        }
    }
}

/* ---- kernels ---- */

struct CUfunc_st {
    std::string name;
    emulated_call (*bind)(void **args); /* NULL: not emulated */
};

static std::map<std::string, CUfunc_st> &kernels()
{
    static std::map<std::string, CUfunc_st> all;

    return all;
}

kernel_listed::kernel_listed(const char *name, emulated_call (*bind)(void **args))
{
    kernels()[name] = { name, bind };
}

/* What a stream does is done at once, or recorded. */
struct CUgraph_st {
    std::vector<emulated_call> calls;
};
static CUgraph recording;

static CUresult stream_do(const emulated_call &call)
{
    if (recording)
        recording->calls.push_back(call);
    else
        call();
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                        unsigned by, unsigned bz, unsigned bytes, CUstream, void **args, void **)
{
    running = f->name;
    if (!f->bind)
        die("is not emulated (tests/backend/cuda_host/device.h)");
    if (bx == 0 || bx > MOST_THREADS || by != 1 || bz != 1 || gx == 0 || gy == 0 || gz == 0 ||
        gy > 65535 || gz > 65535)
        die("a grid of %u x %u x %u blocks of %u threads", gx, gy, gz, bx);
    if (bytes > sizeof(shared))
        die("%u bytes of shared memory, of %zu", bytes, sizeof(shared));
    const emulated_call call = f->bind(args);

    return stream_do([=] {
        running = f->name;
        body = &call;
        shared_size = bytes;
        blockDim = { bx, 1, 1 };
        gridDim = { gx, gy, gz };
        for (size_t i = 0; i < (size_t)gx * gy * gz; i++) {
            blockIdx = { (unsigned)(i % gx), (unsigned)(i / gx % gy), (unsigned)(i / gx / gy) };
            run_block((int)bx);
        }
        running = "no kernel";
    });
}

CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned, unsigned, unsigned, unsigned, unsigned,
                                   unsigned, unsigned, CUstream, void **)
{
    running = f->name;
    die("programs are not emulated (tests/backend/cuda_host/device.h)");
}

/* cublas.c's products, in their place among what the stream does. */
static void host_function(void (*f)(const host_argument *), host_argument arg)
{
    if (threadIdx.x == 0)
        f(&arg);
}

static const kernel_listed listed("host_function",
                                  [](void **args) { return kernel_bind(host_function, args); });

CUresult cuModuleLoadData(CUmodule *m, const void *)
{
    *m = NULL;
    return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule)
{
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *f, CUmodule, const char *name)
{
    CUfunc_st &k = kernels()[name];

    k.name = name;
    *f = &k;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int)
{
    return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int *v, CUfunction_attribute, CUfunction)
{
    *v = MOST_THREADS;
    return CUDA_SUCCESS;
}

/* Two axes of 16-bit values. */
CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType, cuuint32_t rank, void *p,
                                const cuuint64_t *size, const cuuint64_t *apart,
                                const cuuint32_t *box, const cuuint32_t *step,
                                CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill)
{
    const tensor_map m = { (const uint8_t *)p, size[0], size[1], apart[0], box[0], box[1] };

    if (rank != 2 || (uintptr_t)p % 16 || apart[0] % 16 || box[0] * 2 != 128 || box[1] > 256 ||
        step[0] != 1 || step[1] != 1)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(map, &m, sizeof(m));
    return CUDA_SUCCESS;
}

/* ---- the device ---- */

CUresult cuInit(unsigned)
{
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *n)
{
    *n = 1;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *d, int)
{
    *d = 0;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int n, CUdevice)
{
    snprintf(name, (size_t)n, "emulated device");
    return CUDA_SUCCESS;
}

enum : size_t { DEVICE_MEMORY = (size_t)8 << 30 };

CUresult cuDeviceTotalMem(size_t *n, CUdevice)
{
    *n = DEVICE_MEMORY;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice)
{
    *v = a == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR   ? 9
         : a == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? 0
         : a == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT     ? 132
                                                             : 227 << 10;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice)
{
    *c = (CUcontext)&fibers; /* any but NULL */
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice)
{
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext)
{
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult, const char **text)
{
    *text = "emulated failure";
    return CUDA_SUCCESS;
}

/* ---- memory: NaN at first; a page after it cannot be touched, what is left before that is looked
 * at ---- */

struct block {
    uint8_t *map;
    size_t mapped, n;
};
static std::map<CUdeviceptr, block> blocks;
static size_t held;
enum { BEYOND = 0xAB, ALIGNED = 256 };

static void check_end(CUdeviceptr p, const block &b)
{
    for (const uint8_t *q = (uint8_t *)p + b.n; q < b.map + b.mapped - PAGE; q++)
        if (*q != BEYOND)
            die("byte %zu of a block of %zu was written", (size_t)(q - (uint8_t *)p), b.n);
}

CUresult cuMemGetInfo(size_t *available, size_t *total)
{
    *total = DEVICE_MEMORY;
    *available = DEVICE_MEMORY - held;
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr *p, size_t n)
{
    const size_t room = (n + ALIGNED - 1) / ALIGNED * ALIGNED;
    block b = { NULL, (room + PAGE - 1) / PAGE * PAGE + PAGE, n };

    if (n > DEVICE_MEMORY - held)
        return CUDA_ERROR_OUT_OF_MEMORY;
    b.map = (uint8_t *)mmap(NULL, b.mapped, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b.map == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    uint8_t *at = b.map + b.mapped - PAGE - room;

    mprotect(b.map + b.mapped - PAGE, PAGE, PROT_NONE);
    memset(at, 0xFF, n);
    memset(at + n, BEYOND, room - n);
    *p = (CUdeviceptr)at;
    blocks[*p] = b;
    held += n;
    return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr p)
{
    const auto i = blocks.find(p);

    if (i == blocks.end())
        die("what is freed was not allocated");
    check_end(p, i->second);
    held -= i->second.n;
    munmap(i->second.map, i->second.mapped);
    blocks.erase(i);
    return CUDA_SUCCESS;
}

CUresult cuMemAllocHost(void **p, size_t n)
{
    *p = malloc(n);
    return *p ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFreeHost(void *p)
{
    free(p);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t n, CUstream)
{
    return stream_do([=] { memcpy((void *)to, from, n); });
}

CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t n, CUstream)
{
    return stream_do([=] { memcpy(to, (const void *)from, n); });
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream)
{
    return stream_do([=] { memcpy((void *)to, (const void *)from, n); });
}

CUresult cuMemsetD8Async(CUdeviceptr p, unsigned char v, size_t n, CUstream)
{
    return stream_do([=] { memset((void *)p, v, n); });
}

/* ---- streams, events, recordings ---- */

CUresult cuStreamCreate(CUstream *s, unsigned)
{
    *s = (CUstream)&fibers;
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream)
{
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream)
{
    for (const auto &b : blocks)
        check_end(b.first, b.second);
    return CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned)
{
    return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture(CUstream, CUstreamCaptureMode)
{
    recording = new CUgraph_st;
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream, CUgraph *g)
{
    *g = recording;
    recording = NULL;
    return CUDA_SUCCESS;
}

struct CUgraphExec_st : CUgraph_st {
};

CUresult cuGraphInstantiateWithFlags(CUgraphExec *e, CUgraph g, unsigned long long)
{
    *e = new CUgraphExec_st{ *g };
    return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec e, CUstream)
{
    for (const emulated_call &call : e->calls)
        call();
    return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph g)
{
    delete g;
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec e)
{
    delete e;
    return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent *e, unsigned)
{
    *e = (CUevent)&fibers;
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent)
{
    return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent, CUstream)
{
    return CUDA_SUCCESS;
}

CUresult cuEventSynchronize(CUevent)
{
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float *ms, CUevent, CUevent)
{
    *ms = 1;
    return CUDA_SUCCESS;
}
