/* away.c - layers whose weights wait in pinned host memory. They were packed on the device as all
 * are, and taken off it again; what they had there, one after the other, is copied into a buffer of
 * the device before the layer computes. There are two buffers, and so layers are copied, on a
 * stream of their own, while those before them compute: the next one but one as soon as a layer is
 * through. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_int.h"
#include "base/mem.h"

enum { ALIGN = 256 };

static const size_t none = SIZE_MAX;

static size_t aligned(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* ---- where weights point ---- */

/* Every pointer of w to memory from `from` (n bytes) on now points to the same place after `to`. */
static void move(struct dev_weight *w, CUdeviceptr from, size_t n, CUdeviceptr to)
{
    const uint8_t **const plane[] = { &w->q,   &w->scale,      &w->zero,         &w->group_of,
                                      &w->map, &w->nested_map, &w->nested_absmax };
    const int32_t **const order[] = { &w->order, &w->place };

    for (size_t i = 0; i < ARRAY_LEN(plane); i++) {
        const CUdeviceptr p = (CUdeviceptr)(uintptr_t)*plane[i];

        if (p >= from && p - from < n)
            *plane[i] = (const uint8_t *)(uintptr_t)(to + (p - from));
    }
    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        const CUdeviceptr p = (CUdeviceptr)(uintptr_t)*order[i];

        if (p >= from && p - from < n)
            *order[i] = (const int32_t *)(uintptr_t)(to + (p - from));
    }
}

/* Buffers for n bytes; the layers so far move into the larger ones. */
static int make_buffers(struct cuda *b, size_t n, struct err *e)
{
    struct away *a = &b->away;
    CUdeviceptr fresh[2] = { 0 };
    CUresult rc = 0;

    if (n <= a->room)
        return 0;
    for (size_t i = 0; i < 2 && rc == 0; i++)
        rc = b->d.cuMemAlloc(&fresh[i], n);
    if (rc) {
        if (fresh[0])
            b->d.cuMemFree(fresh[0]);
        return cuda_fail(b, rc, "a buffer for weights from host memory", e);
    }
    b->d.cuStreamSynchronize(b->stream);
    b->d.cuStreamSynchronize(a->stream);
    for (size_t k = 0; k < a->n; k++)
        for (size_t i = 0; i < a->layer[k].n; i++)
            move(&a->layer[k].part[i]->w, a->buffer[k % 2], a->room, fresh[k % 2]);
    for (size_t i = 0; i < 2; i++) {
        if (a->buffer[i])
            b->d.cuMemFree(a->buffer[i]);
        a->buffer[i] = fresh[i];
        a->in[i] = none;
    }
    a->room = n;
    return 0;
}

/* ---- placing ---- */

static int open_away(struct cuda *b, struct err *e)
{
    struct away *a = &b->away;
    CUresult rc = 0;

    if (a->stream)
        return 0;
    a->in[0] = a->in[1] = a->at = none;
    rc = b->d.cuStreamCreate(&a->stream, CU_STREAM_NON_BLOCKING);
    for (size_t i = 0; i < 2 && rc == 0; i++) {
        rc = b->d.cuEventCreate(&a->copied[i], CU_EVENT_DISABLE_TIMING);
        if (rc == 0)
            rc = b->d.cuEventCreate(&a->used[i], CU_EVENT_DISABLE_TIMING);
    }
    return rc ? cuda_fail(b, rc, "a stream for weights from host memory", e) : 0;
}

/* What d has on the device to y->host, which has room from y->bytes on, and off the device. Its
 * pointers then say where in a buffer that is. */
static int take_off(struct cuda *b, struct away_layer *y, struct placed *d, CUdeviceptr buffer,
                    struct err *e)
{
    CUresult rc = 0;

    for (size_t i = 0; i < d->n_mem && rc == 0; i++) {
        rc = b->d.cuMemcpyDtoHAsync(y->host + y->bytes, d->mem[i], d->bytes[i], b->stream);
        if (rc == 0)
            rc = b->d.cuStreamSynchronize(b->stream);
        move(&d->w, d->mem[i], d->bytes[i] ? d->bytes[i] : 1, buffer + y->bytes);
        y->bytes += aligned(d->bytes[i]);
    }
    for (size_t i = 0; i < d->n_mem; i++)
        cuda_free(b, d->mem[i]);
    d->n_mem = 0;
    return rc ? cuda_fail(b, rc, "weights to host memory", e) : 0;
}

int cuda_place_away(struct ctx *c, struct weight *const *w, size_t n, struct err *e)
{
    struct cuda *b = c->backend;
    struct away *a = &b->away;
    struct away_layer y = { .n = n };
    size_t bytes = 0;
    void *host;

    BUG_ON(n > AWAY_MATRICES);
    b->d.cuCtxSetCurrent(b->context);
    if (open_away(b, e))
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (cuda_place(c, w[i], e))
            return -1;
        y.part[i] = w[i]->placed;
        for (size_t k = 0; k < y.part[i]->n_mem; k++)
            bytes += aligned(y.part[i]->bytes[k]);
    }
    if (make_buffers(b, bytes, e))
        return -1;
    if (b->d.cuMemAllocHost(&host, bytes))
        return err_set(e, ERR_MEMORY,
                       "%s: %zu bytes of pinned host memory for its layer could not be had",
                       w[0]->name, bytes);
    y.host = host;
    for (size_t i = 0; i < n; i++)
        if (take_off(b, &y, y.part[i], a->buffer[a->n % 2], e)) {
            b->d.cuMemFreeHost(host);
            return -1;
        }
    a->layer = xrealloc(a->layer, (a->n + 1) * sizeof(*a->layer));
    a->layer[a->n++] = y;
    a->live++;
    for (size_t i = 0; i < n; i++)
        y.part[i]->away = a->n;
    return 0;
}

void away_drop(struct cuda *b, struct placed *p)
{
    struct away *a = &b->away;

    if (!p->away)
        return;
    struct away_layer *y = &a->layer[p->away - 1];
    size_t left = 0;

    for (size_t i = 0; i < y->n; i++)
        if (y->part[i] != p)
            y->part[left++] = y->part[i];
    y->n = left;
    if (left)
        return;
    b->d.cuCtxSetCurrent(b->context);
    b->d.cuStreamSynchronize(b->stream);
    b->d.cuStreamSynchronize(a->stream);
    b->d.cuMemFreeHost(y->host);
    y->host = NULL;
    if (--a->live == 0) {
        a->n = 0;
        a->in[0] = a->in[1] = a->at = none;
    }
}

void away_close(struct cuda *b)
{
    struct away *a = &b->away;

    if (a->stream)
        b->d.cuStreamSynchronize(a->stream);
    for (size_t k = 0; k < a->n; k++)
        if (a->layer[k].host)
            b->d.cuMemFreeHost(a->layer[k].host);
    for (size_t i = 0; i < 2; i++) {
        if (a->buffer[i])
            b->d.cuMemFree(a->buffer[i]);
        if (a->copied[i])
            b->d.cuEventDestroy(a->copied[i]);
        if (a->used[i])
            b->d.cuEventDestroy(a->used[i]);
    }
    if (a->stream)
        b->d.cuStreamDestroy(a->stream);
    free(a->layer);
}

/* ---- using ---- */

/* Asks for layer k; what was in its buffer is used up. */
static void fetch(struct cuda *b, size_t k)
{
    struct away *a = &b->away;
    const size_t i = k % 2;

    if (cuda_ok(b, b->d.cuEventRecord(a->used[i], b->stream), "weights from host memory") &&
        cuda_ok(b, b->d.cuStreamWaitEvent(a->stream, a->used[i], 0), "weights from host memory") &&
        cuda_ok(
            b, b->d.cuMemcpyHtoDAsync(a->buffer[i], a->layer[k].host, a->layer[k].bytes, a->stream),
            "weights from host memory") &&
        cuda_ok(b, b->d.cuEventRecord(a->copied[i], a->stream), "weights from host memory"))
        a->in[i] = k;
    else
        a->in[i] = none;
}

static const struct placed *away_of(const struct op *o)
{
    for (size_t i = 0; i < o->n; i++) {
        const struct placed *p = o->out[i].w->placed;

        if (p && p->away)
            return p;
    }
    return NULL;
}

void away_enter(struct cuda *b, const struct op *o)
{
    struct away *a = &b->away;
    const struct placed *p = a->live ? away_of(o) : NULL;

    if (!p || p->away - 1 == a->at)
        return;
    const size_t k = p->away - 1, i = k % 2;

    program_flush(b);
    if (a->in[i] != k)
        fetch(b, k);
    a->at =
        cuda_ok(b, b->d.cuStreamWaitEvent(b->stream, a->copied[i], 0), "weights from host memory")
            ? k
            : none;
    /* the first pass: the other buffer is still empty */
    if (a->in[1 - i] == none && k + 1 < a->n && a->layer[k + 1].n)
        fetch(b, k + 1);
}

void away_leave(struct cuda *b, const struct op *o)
{
    struct away *a = &b->away;
    const struct placed *p = a->live ? away_of(o) : NULL;

    if (!p)
        return;
    const struct away_layer *y = &a->layer[p->away - 1];

    for (size_t i = 0; i < o->n; i++)
        if (o->out[i].w->placed != y->part[y->n - 1])
            return;
    program_flush(b);
    a->at = none;
    /* the next of this buffer; after the last one the first, for the next pass */
    const size_t k = p->away - 1, next = k + 2 < a->n ? k + 2 : k % 2;

    if (next != k && a->layer[next].n)
        fetch(b, next);
}
