/* driver.c - libcuda opened at run time, the device, its memory, and the kernels that the program
 * carries. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/cuda/cuda_int.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"

/* One fat binary for each .cu file. */
#define EMBED(name)                                                                                \
    __asm__(".section .rodata\n.balign 16\ncuda_" #name ":\n.incbin \"" PUNA_CUDA "/" #name        \
            ".fatbin\"\n.byte 0\n.previous\n");                                                    \
    extern const unsigned char cuda_##name[] __attribute__((visibility("hidden")));
CUDA_FILES(EMBED)

enum {
#define F(name) FILE_##name,
    CUDA_FILES(F)
#undef F
};

static const struct {
    int file;
    const char *name;
} kernels[] = {
#define F(file, name) { FILE_##file, #name },
    CUDA_KERNELS(F)
#undef F
};

/* ---- failures ---- */

int cuda_fail(struct cuda *b, CUresult rc, const char *what, struct err *e)
{
    const char *why = NULL;

    if (!b->d.cuGetErrorString || b->d.cuGetErrorString(rc, &why) || !why)
        why = "unknown error";
    return err_set(e, rc == CUDA_ERROR_OUT_OF_MEMORY ? ERR_MEMORY : ERR_HARDWARE,
                   "GPU: %s: %s (CUDA error %d)", what, why, (int)rc);
}

bool cuda_ok(struct cuda *b, CUresult rc, const char *what)
{
    if (rc == CUDA_SUCCESS)
        return true;
    if (!b->failed)
        cuda_fail(b, rc, what, &b->fault);
    b->failed = true;
    return false;
}

/* ---- memory ---- */

static struct cuda *of(struct ctx *c)
{
    return c->backend;
}

/* Bytes that memory behind addresses comes and goes by: each takes some
 * 50 us to come, and to go. */
enum { ARENA_CHUNK = 16 << 20 };

static void unmap_chunks(void *arg, size_t first, size_t count)
{
    struct cuda *b = arg;

    for (size_t i = first; i < first + count; i++)
        b->d.cuMemUnmap(b->base + i * ARENA_CHUNK, ARENA_CHUNK);
}

static bool map_chunks(void *arg, size_t first, size_t count)
{
    struct cuda *b = arg;
    const CUmemAllocationProp prop = { .type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                       .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE,
                                                     .id = b->device } };
    const CUmemAccessDesc access = { .location = prop.location,
                                     .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
    size_t n = 0;

    for (; n < count; n++) {
        CUmemGenericAllocationHandle memory;

        if (b->d.cuMemCreate(&memory, ARENA_CHUNK, &prop, 0))
            break;
        const CUresult rc =
            b->d.cuMemMap(b->base + (first + n) * ARENA_CHUNK, ARENA_CHUNK, 0, memory, 0);

        b->d.cuMemRelease(memory); /* when it is unmapped */
        if (rc)
            break;
    }
    if (n == count &&
        !b->d.cuMemSetAccess(b->base + first * ARENA_CHUNK, count * ARENA_CHUNK, &access, 1))
        return true;
    unmap_chunks(b, first, n);
    return false;
}

/* Addresses for twice the device's memory, so that there are some without gaps. */
static void open_arena(struct cuda *b, size_t total)
{
    struct arena *a = &b->arena;
    int can = 0;

    if (b->tries & CUDA_TRY_APART ||
        b->d.cuDeviceGetAttribute(&can, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                                  b->device) ||
        !can)
        return;
    *a = (struct arena){ .chunk = ARENA_CHUNK,
                         .n_chunks = 2 * (total / ARENA_CHUNK),
                         .map = map_chunks,
                         .unmap = unmap_chunks,
                         .arg = b };
    if (b->d.cuMemAddressReserve(&b->base, a->chunk * a->n_chunks, 0, 0, 0)) {
        b->base = 0;
        return;
    }
    arena_init(a);
}

static void close_arena(struct cuda *b)
{
    if (!b->base)
        return;
    arena_release(&b->arena);
    b->d.cuMemAddressFree(b->base, b->arena.chunk * b->arena.n_chunks);
}

static int mem_get(struct cuda *b, CUdeviceptr *p, size_t n, bool together, const char *what,
                   struct err *e)
{
    size_t have = 0, total = 0, at;

    b->d.cuCtxSetCurrent(b->context);
    if (!fault_hit()) {
        if (together && b->base && arena_take(&b->arena, &at, n)) {
            *p = b->base + at;
            return 0;
        }
        const CUresult rc = b->d.cuMemAlloc(p, n ? n : 1);

        if (rc == CUDA_SUCCESS)
            return 0;
        if (rc != CUDA_ERROR_OUT_OF_MEMORY) /* a kernel before it failed, say */
            return cuda_fail(b, rc, what, e);
    }
    b->d.cuMemGetInfo(&have, &total);
    return err_set(e, ERR_MEMORY, "%s: %zu bytes do not fit on the GPU, which has %zu free of %zu",
                   what, n, have, total);
}

int cuda_alloc(struct ctx *c, void **out, size_t n, const char *what, struct err *e)
{
    struct cuda *b = of(c);
    CUdeviceptr p;

    if (mem_get(b, &p, n, true, what, e))
        return -1;
    const CUresult rc = b->d.cuMemsetD8Async(p, 0, n, b->stream);

    if (rc) {
        cuda_free(b, p);
        return cuda_fail(b, rc, what, e);
    }
    *out = (void *)(uintptr_t)p;
    return 0;
}

void cuda_free(struct cuda *b, CUdeviceptr p)
{
    const size_t bytes = b->base ? b->arena.chunk * b->arena.n_chunks : 0;

    if (p >= b->base && p - b->base < bytes)
        arena_give(&b->arena, p - b->base);
    else
        b->d.cuMemFree(p);
}

void cuda_release(struct ctx *c, void *p, size_t n)
{
    struct cuda *b = of(c);

    (void)n;
    if (!p)
        return;
    b->d.cuCtxSetCurrent(b->context);
    cuda_run(b, false);
    cuda_forget(b); /* a recording may use it */
    cuda_train_forget(b, NULL, 0);
    b->d.cuStreamSynchronize(b->stream);
    cuda_free(b, (CUdeviceptr)(uintptr_t)p);
}

bool cuda_room(struct cuda *b, struct gpu_room *r, size_t n)
{
    struct err e;

    if (n <= r->n)
        return !b->failed;
    program_end(b); /* phases may have the old one */
    if (b->recording)
        BUG("%zu bytes of scratch are missing in a recording", n);
    cuda_forget(b);
    b->d.cuStreamSynchronize(b->stream);
    if (r->p)
        b->d.cuMemFree(r->p);
    *r = (struct gpu_room){ 0 };
    if (mem_get(b, &r->p, n + n / 4, false, "scratch", &e)) {
        if (!b->failed)
            b->fault = e;
        b->failed = true;
        return false;
    }
    r->n = n + n / 4;
    return cuda_ok(b, b->d.cuMemsetD8Async(r->p, 0, r->n, b->stream), "scratch");
}

/* What is copied into pinned memory. One thread would spend most of its time on the page faults of
 * a mapped file. */
struct piece {
    uint8_t *to;
    const uint8_t *from;
    size_t n;
    bool forget;
};

static void copy_part(void *arg, int me, int n)
{
    const struct piece *p = arg;
    size_t lo, hi;

    team_part(p->n, 4096, me, n, &lo, &hi);
    memcpy(p->to + lo, p->from + lo, hi - lo);
    if (p->forget)
        map_forget(p->from + lo, hi - lo);
}

static void copy_piece(struct cuda *b, struct piece *p)
{
    enum { THREADS = 8, LEAST = 1 << 20 /* bytes that are worth waking them */ };
    const int n = team_default_size() < THREADS ? team_default_size() : THREADS;
    struct err e;

    if (p->n >= LEAST && !b->loaders && team_new(&b->loaders, n, &e))
        b->loaders = NULL;
    if (p->n >= LEAST && b->loaders)
        team_run(b->loaders, copy_part, p);
    else
        copy_part(p, 0, 1);
}

/* Through two pinned buffers: one is filled while the other travels. */
int cuda_send(struct ctx *c, void *to, const void *from, size_t n, bool forget, struct err *e)
{
    struct cuda *b = of(c);
    CUresult rc = b->d.cuCtxSetCurrent(b->context);

    cuda_run(b, false);
    b->have.x = NULL;
    cuda_train_forget(b, to, n);
    for (size_t at = 0; at < n && rc == 0; at += PIN_BYTES) {
        const size_t k = n - at < PIN_BYTES ? n - at : PIN_BYTES, i = b->pin_next;

        b->pin_next ^= 1;

        rc = b->d.cuEventSynchronize(b->pin_free[i]);
        copy_piece(b, &(struct piece){ b->pin[i], (const uint8_t *)from + at, k, forget });
        if (rc == 0)
            rc = b->d.cuMemcpyHtoDAsync((CUdeviceptr)(uintptr_t)to + at, b->pin[i], k, b->stream);
        if (rc == 0)
            rc = b->d.cuEventRecord(b->pin_free[i], b->stream);
    }
    return rc || fault_hit() ? cuda_fail(b, rc, "copy to the device", e) : 0;
}

int cuda_upload(struct ctx *c, void *to, const void *from, size_t n, struct err *e)
{
    return cuda_send(c, to, from, n, false, e);
}

int cuda_download(struct ctx *c, void *to, const void *from, size_t n, struct err *e)
{
    struct cuda *b = of(c);
    const CUdeviceptr p = (CUdeviceptr)(uintptr_t)from;
    CUresult rc = b->d.cuCtxSetCurrent(b->context);

    cuda_run(b, false);
    for (size_t at = 0; at < n && rc == 0; at += PIN_BYTES) {
        const size_t k = n - at < PIN_BYTES ? n - at : PIN_BYTES;

        rc = b->d.cuMemcpyDtoHAsync(b->pin[0], p + at, k, b->stream);
        if (rc == 0)
            rc = b->d.cuStreamSynchronize(b->stream);
        if (rc == 0)
            memcpy((uint8_t *)to + at, b->pin[0], k);
    }
    return rc || fault_hit() ? cuda_fail(b, rc, "copy from the device", e) : 0;
}

static size_t available_cuda(struct ctx *c)
{
    size_t have = 0, total = 0;

    of(c)->d.cuCtxSetCurrent(of(c)->context);
    of(c)->d.cuMemGetInfo(&have, &total);
    return have;
}

static void launch(struct cuda *b, enum kernel k, const CUlaunchConfig *c, void **args)
{
    program_flush(b);
    if (b->failed || c->gridDimX == 0 || c->gridDimY == 0 || c->gridDimZ == 0)
        return;
    BUG_ON(c->gridDimX > INT32_MAX || c->gridDimY > 65535 || c->gridDimZ > 65535);
    cuda_ok(b, b->d.cuLaunchKernelEx(c, b->kern[k], args, NULL), kernels[k].name);
}

static CUlaunchConfig config(const struct cuda *b, size_t gx, size_t gy, size_t gz, int threads,
                             size_t shared)
{
    return (CUlaunchConfig){ .gridDimX = (unsigned)gx,
                             .gridDimY = (unsigned)gy,
                             .gridDimZ = (unsigned)gz,
                             .blockDimX = (unsigned)threads,
                             .blockDimY = 1,
                             .blockDimZ = 1,
                             .sharedMemBytes = (unsigned)shared,
                             .hStream = b->stream };
}

void cuda_launch_with(struct cuda *b, enum kernel k, size_t gx, size_t gy, size_t gz, int threads,
                      size_t shared, void **args)
{
    const CUlaunchConfig c = config(b, gx, gy, gz, threads, shared);

    /* not as dependent launches (griddepcontrol): on an H200 a token of 8B in bf16 took 6.1 ms with
     * them and 5.0 ms without */
    launch(b, k, &c, args);
}

void cuda_launch_early(struct cuda *b, enum kernel k, size_t gx, size_t gy, int threads,
                       size_t shared, void **args)
{
    CUlaunchAttribute early = { .id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                                .value.programmaticStreamSerializationAllowed = 1 };
    CUlaunchConfig c = config(b, gx, gy, 1, threads, shared);

    c.attrs = &early;
    c.numAttrs = 1;
    launch(b, k, &c, args);
}

void cuda_launch(struct cuda *b, enum kernel k, size_t gx, size_t gy, size_t gz, int threads,
                 void **args)
{
    cuda_launch_with(b, k, gx, gy, gz, threads, 0, args);
}

/* ---- the context ---- */

static void free_cuda(struct ctx *c)
{
    struct cuda *b = of(c);
    struct gpu_room *const rooms[] = { &b->batch,   &b->logits,  &b->hidden,  &b->x16[0],
                                       &b->x16[1],  &b->ss[0],   &b->ss[1],   &b->x8,
                                       &b->rounded, &b->part,    &b->done,    &b->dequant,
                                       &b->picks,   &b->gate_up, &b->ordered, &b->sums,
                                       &b->loaded,  &b->copies,  &b->qkv,     &b->turns.room,
                                       &b->met,     &b->spans };

    if (b->context) {
        b->d.cuCtxSetCurrent(b->context);
        if (b->stream)
            b->d.cuStreamSynchronize(b->stream);
        cuda_forget(b);
        blas_close(b);
        program_close(b);
        away_close(b);
        for (size_t i = 0; i < ARRAY_LEN(rooms); i++)
            if (rooms[i]->p)
                b->d.cuMemFree(rooms[i]->p);
        for (size_t i = 0; i < TRAIN_HALVES; i++)
            if (b->half[i].room.p)
                b->d.cuMemFree(b->half[i].room.p);
        for (size_t i = 0; i < 2; i++) {
            if (b->pin[i])
                b->d.cuMemFreeHost(b->pin[i]);
            if (b->pin_free[i])
                b->d.cuEventDestroy(b->pin_free[i]);
        }
        for (size_t i = 0; i < MODULES; i++)
            if (b->module[i])
                b->d.cuModuleUnload(b->module[i]);
        for (size_t i = 0; i < BLAS_SIDES; i++) {
            if (b->side[i])
                b->d.cuStreamDestroy(b->side[i]);
            if (b->joined[i])
                b->d.cuEventDestroy(b->joined[i]);
        }
        if (b->fork)
            b->d.cuEventDestroy(b->fork);
        if (b->stream)
            b->d.cuStreamDestroy(b->stream);
        close_arena(b);
        b->d.cuDevicePrimaryCtxRelease(b->device);
    }
    team_free(b->loaders);
    team_free(b->ctx.team);
    free(b->runs);
    free(b->copy);
    free(b->lone);
    /* the library stays: it has threads of its own */
    free(b);
}

static const struct backend backend_cuda = {
    .name = "cuda",
    .alloc = cuda_alloc,
    .release = cuda_release,
    .upload = cuda_upload,
    .download = cuda_download,
    .place = cuda_place,
    .place_beside = cuda_place_beside,
    .unplace = cuda_unplace,
    .placed_size = cuda_placed_size,
    .place_rows = cuda_place_rows,
    .place_away = cuda_place_away,
    .adopt = cuda_adopt,
    .settle = cuda_settle,
    .enter = cuda_enter,
    .leave = cuda_leave,
    .pick = cuda_heads,
    .row = cuda_row,
    .available = available_cuda,
    .free = free_cuda,
};

static int open_driver(struct cuda *b, struct err *e)
{
    b->lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!b->lib)
        return err_set(e, ERR_HARDWARE, "no GPU: there is no NVIDIA driver (libcuda.so.1)");
#define STR2(x) #x
#define STR(x)  STR2(x)
#define F(name)                                                                                    \
    *(void **)&b->d.name = dlsym(b->lib, STR(name));                                               \
    if (!b->d.name)                                                                                \
        return err_set(e, ERR_HARDWARE, "no GPU: the NVIDIA driver is too old, it has no %s",      \
                       STR(name));
    CUDA_FUNCTIONS(F)
#undef F
    return 0;
}

static int open_device(struct cuda *b, struct err *e)
{
    char name[96] = "";
    size_t total = 0;
    int n = 0, major = 0, minor = 0, sms = 0, shared = 0;
    CUresult rc = b->d.cuInit(0);

    if (rc)
        return cuda_fail(b, rc, "the driver does not start", e);
    if (b->d.cuDeviceGetCount(&n) || n == 0)
        return err_set(e, ERR_HARDWARE, "no GPU: the NVIDIA driver sees no device");
    if ((rc = b->d.cuDeviceGet(&b->device, 0)) ||
        (rc = b->d.cuDeviceGetName(name, sizeof(name), b->device)) ||
        (rc = b->d.cuDeviceTotalMem(&total, b->device)) ||
        (rc = b->d.cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                                        b->device)) ||
        (rc = b->d.cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                                        b->device)) ||
        (rc = b->d.cuDeviceGetAttribute(
             &shared, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, b->device)) ||
        (rc = b->d.cuDeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, b->device)))
        return cuda_fail(b, rc, "the device does not answer", e);
    if (major < 8)
        return err_set(e, ERR_HARDWARE,
                       "no GPU: %s has compute capability %d.%d, puna's kernels need 8.0 (Ampere)",
                       name, major, minor);
    if ((rc = b->d.cuDevicePrimaryCtxRetain(&b->context, b->device))) {
        b->context = NULL;
        return cuda_fail(b, rc, "no context", e);
    }
    b->d.cuCtxSetCurrent(b->context);
    open_arena(b, total);
    b->sms = (size_t)sms;
    b->shared = (size_t)shared;
    b->hopper = major >= 9;
    snprintf(b->name, sizeof(b->name), "%s, %.1f GiB", name, (double)total / (1 << 30));
    return 0;
}

static int open_kernels(struct cuda *b, struct err *e)
{
    const void *const image[] = {
#define F(name) cuda_##name,
        CUDA_FILES(F)
#undef F
    };
    CUresult rc = b->d.cuCtxSetCurrent(b->context);
    int threads = 0;

    for (size_t i = 0; i < MODULES && rc == 0; i++)
        rc = b->d.cuModuleLoadData(&b->module[i], image[i]);
    for (size_t i = 0; i < KERN_COUNT && rc == 0; i++)
        rc = b->d.cuModuleGetFunction(&b->kern[i], b->module[kernels[i].file], kernels[i].name);
    for (size_t i = 0; i < KERN_COUNT && rc == 0; i++) {
        int own = 0;

        rc = b->d.cuFuncGetAttribute(&own, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, b->kern[i]);
        b->dynamic[i] = b->shared - (size_t)own;
        if (rc == 0)
            rc = b->d.cuFuncSetAttribute(
                b->kern[i], CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)b->dynamic[i]);
    }
    if (rc == 0)
        rc = b->d.cuFuncGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
                                     b->kern[KERN_program_w16_1]);
    b->big = threads >= 32 * RING_WARPS(1);
    if (rc == 0)
        rc = b->d.cuFuncGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
                                     b->kern[KERN_flash_wgmma_bf16_128]);
    b->wgmma = threads >= FLASH_WGMMA_THREADS;
    if (rc)
        return cuda_fail(b, rc, "the kernels do not load", e);
    rc = b->d.cuStreamCreate(&b->stream, CU_STREAM_NON_BLOCKING);
    if (rc == 0)
        rc = b->d.cuEventCreate(&b->fork, CU_EVENT_DISABLE_TIMING);
    for (size_t i = 0; i < BLAS_SIDES && rc == 0; i++) {
        rc = b->d.cuStreamCreate(&b->side[i], CU_STREAM_NON_BLOCKING);
        if (rc == 0)
            rc = b->d.cuEventCreate(&b->joined[i], CU_EVENT_DISABLE_TIMING);
    }
    if (rc == 0)
        rc = b->d.cuMemAlloc(&b->gate, GATE_BYTES);
    if (rc == 0)
        rc = b->d.cuMemsetD8Async(b->gate, 0, WORDS_AT, b->stream);
    if (rc == 0)
        rc = b->d.cuMemsetD8Async(b->gate + WORDS_AT, 0xFF, GATE_BYTES - WORDS_AT, b->stream);
    for (size_t i = 0; i < 2 && rc == 0; i++) {
        rc = b->d.cuMemAllocHost(&b->pin[i], PIN_BYTES);
        if (rc == 0)
            rc = b->d.cuEventCreate(&b->pin_free[i], CU_EVENT_DISABLE_TIMING);
    }
    return rc ? cuda_fail(b, rc, "no memory for copies", e) : 0;
}

bool cuda_map(struct cuda *b, struct dev_map *m, const void *p, enum blas_type type, size_t rows,
              size_t cols, unsigned lines)
{
    static const CUtensorMapDataType types[] = {
        [BLAS_BF16] = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        [BLAS_F16] = CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        [BLAS_F8] = CU_TENSOR_MAP_DATA_TYPE_UINT8,
    };
    const unsigned bytes = type == BLAS_F8 ? 1 : 2;
    const cuuint64_t size[] = { cols, rows }, apart[] = { cols * bytes };
    const cuuint32_t box[] = { 128 / bytes, lines }, step[] = { 1, 1 };
    CUtensorMap map;

    _Static_assert(sizeof(map) == sizeof(*m), "a tensor map");
    if (!cuda_ok(b,
                 b->d.cuTensorMapEncodeTiled(
                     &map, types[type], ARRAY_LEN(size), (void *)(uintptr_t)p, size, apart, box,
                     step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
                 "a tensor map"))
        return false;
    memcpy(m, &map, sizeof(*m));
    return true;
}

bool cuda_map_pieces(struct cuda *b, struct dev_map *m, const void *p, size_t rows, size_t cols)
{
    const cuuint64_t size[] = { 128, rows, cols / 128 }, apart[] = { cols, 128 };
    const cuuint32_t box[] = { 128, 8, FED8_COLS / 128 }, step[] = { 1, 1, 1 };
    CUtensorMap map;

    if (!cuda_ok(b,
                 b->d.cuTensorMapEncodeTiled(
                     &map, CU_TENSOR_MAP_DATA_TYPE_UINT8, ARRAY_LEN(size), (void *)(uintptr_t)p,
                     size, apart, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                     CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                     CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
                 "a tensor map"))
        return false;
    memcpy(m, &map, sizeof(*m));
    return true;
}

/* Names in a list with commas; unknown ones mean nothing. */
static unsigned tries_of(const char *list)
{
    static const struct {
        const char *name;
        unsigned what;
    } tries[] = { { "apart", CUDA_TRY_APART },
                  { "deterministic", CUDA_TRY_DETERMINISTIC },
                  { "mma", CUDA_TRY_MMA },
                  { "whole", CUDA_TRY_WHOLE },
                  { "wide", CUDA_TRY_WIDE } };
    unsigned found = 0;

    for (size_t n; list && *list; list += n + (list[n] == ',')) {
        n = strcspn(list, ",");
        for (size_t i = 0; i < ARRAY_LEN(tries); i++)
            if (strlen(tries[i].name) == n && memcmp(list, tries[i].name, n) == 0)
                found |= tries[i].what;
    }
    return found;
}

int cuda_ctx_new(struct ctx **out, enum compute compute, struct err *e)
{
    struct cuda *b = xcalloc(1, sizeof(*b));

    b->ctx.op = &ops_cuda;
    b->ctx.be = &backend_cuda;
    b->ctx.compute = compute;
    b->ctx.backend = b;
    b->tries = tries_of(getenv("PUNA_CUDA_TRY"));
    if (team_new(&b->ctx.team, 1, e) || open_driver(b, e) || open_device(b, e) ||
        open_kernels(b, e)) {
        free_cuda(&b->ctx);
        return -1;
    }
    b->blas = blas_open(b);
    *out = &b->ctx;
    return 0;
}

void cuda_try(struct ctx *c, unsigned what)
{
    of(c)->tries |= what;
}

const char *cuda_ctx_name(const struct ctx *c)
{
    return ((const struct cuda *)c->backend)->name;
}

bool cuda_present(void)
{
    return access("/dev/nvidia0", F_OK) == 0;
}
