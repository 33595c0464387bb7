/* place.c - weights on the device: the file's planes as they are, then, where the tensor cores can
 * use it, the packed layout of dev.h in their stead. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_int.h"
#include "base/file.h"
#include "base/mem.h"

_Static_assert((int)DEV_ENC_U8 == (int)ENC_U8 && (int)DEV_ENC_AWQ == (int)ENC_AWQ, "one numbering");

enum { MOST = 65535 }; /* the second axis of a grid */

static bool is_flat(enum enc e)
{
    return e == ENC_NF4 || e == ENC_FP4;
}

static unsigned bits_of(enum enc e)
{
    return e == ENC_GPTQ8 || e == ENC_PACKED8 ? 8 : 4;
}

static size_t groups_of(const struct weight *w)
{
    return w->p.group ? over(w->cols, w->p.group) : 0;
}

/* Bytes of each plane, in the order of planes_at. */
enum {
    PLANE_DATA,
    PLANE_SCALE,
    PLANE_ZERO,
    PLANE_GROUP_OF,
    PLANE_MAP,
    PLANE_NESTED_MAP,
    PLANE_NESTED_ABSMAX,
    PLANES
};

static void plane_sizes(size_t n[PLANES], const struct weight *w)
{
    const struct planes *p = &w->p;
    const size_t G = groups_of(w), bits = bits_of(w->enc);
    const size_t each = p->scale_enc == ENC_U8 ? 1 : enc_table[p->scale_enc].bytes;
    const size_t blocks = is_flat(w->enc) ? over(w->rows * w->cols, p->group) : 0;

    memset(n, 0, PLANES * sizeof(*n));
    n[PLANE_DATA] = w->rows * w->row_bytes;
    n[PLANE_GROUP_OF] = 4 * w->cols;
    switch (w->enc) {
    case ENC_F8:
    case ENC_INT8:
        n[PLANE_SCALE] = over(w->rows, p->row_group) * G * each;
        break;
    case ENC_AWQ:
    case ENC_GPTQ4:
    case ENC_GPTQ8:
        n[PLANE_DATA] = w->cols * w->rows * bits / 8;
        n[PLANE_SCALE] = G * w->rows * each;
        n[PLANE_ZERO] = G * w->rows * bits / 8;
        break;
    case ENC_PACKED4:
    case ENC_PACKED8:
        n[PLANE_SCALE] = w->rows * G * each;
        n[PLANE_ZERO] = over(w->rows * bits, 32) * G * 4;
        break;
    case ENC_NF4:
    case ENC_FP4:
        n[PLANE_DATA] = over(w->rows * w->cols, 2);
        n[PLANE_SCALE] = blocks * each;
        n[PLANE_MAP] = 16 * 4;
        n[PLANE_NESTED_MAP] = 256 * 4;
        n[PLANE_NESTED_ABSMAX] = p->nested_group ? over(blocks, p->nested_group) * 4 : 0;
        break;
    default:
        break;
    }
}

static void drop(struct ctx *c, struct placed *d)
{
    for (size_t i = 0; i < d->n_mem; i++)
        cuda_release(c, (void *)(uintptr_t)d->mem[i], 0);
    d->n_mem = 0;
    if (d->host) {
        struct cuda *b = c->backend;

        b->d.cuCtxSetCurrent(b->context);
        b->d.cuStreamSynchronize(b->stream);
        b->d.cuMemFreeHost(d->host);
        d->host = NULL;
    }
}

static int keep(struct ctx *c, struct placed *d, const uint8_t **at, size_t n, const char *what,
                struct err *e)
{
    void *p;

    if (cuda_alloc(c, &p, n, what, e))
        return -1;
    d->bytes[d->n_mem] = n;
    d->mem[d->n_mem++] = (CUdeviceptr)(uintptr_t)p;
    *at = p;
    return 0;
}

/* n bytes of a file to the device, a piece at a time: the next ones are on their way from the disk
 * while a piece is copied into pinned memory and the one before it travels; what has been copied
 * leaves this process's memory, so that a model is never whole in it. */
static int send(struct ctx *c, const uint8_t *to, const uint8_t *from, size_t n, struct err *e)
{
    enum { AHEAD = 4 * PIN_BYTES };

    map_ahead(from, AHEAD);
    for (size_t at = 0; at < n; at += PIN_BYTES) {
        const size_t k = n - at < PIN_BYTES ? n - at : PIN_BYTES;

        map_ahead(from + at + AHEAD, PIN_BYTES); /* what follows in the file is mostly next */
        if (cuda_send(c, (void *)(uintptr_t)(to + at), from + at, k, true, e))
            return -1;
    }
    return 0;
}

static struct dev_weight raw_form(const struct weight *w)
{
    const struct planes *p = &w->p;
    const bool by_rows = w->enc == ENC_F8 || w->enc == ENC_INT8;

    return (struct dev_weight){ .kind = DEV_RAW,
                                .enc = (int)w->enc,
                                .rows = (int)w->rows,
                                .cols = (int)w->cols,
                                .kp = (int)(over(w->cols, DEV_CHUNK) * DEV_CHUNK),
                                .group = (int)p->group,
                                .row_group = by_rows && p->row_group ? (int)p->row_group : 1,
                                .n_groups = (int)groups_of(w),
                                .scale_enc = (int)p->scale_enc,
                                .round = (int)p->round,
                                .nested_group = (int)p->nested_group,
                                .minus_one = p->zero_minus_one,
                                .scale_by = p->scale_by,
                                .nested_offset = p->nested_offset,
                                .row_bytes = w->row_bytes };
}

static int place_raw(struct ctx *c, struct placed *d, const struct weight *w, struct err *e)
{
    const struct planes *p = &w->p;
    const void *from[PLANES] = { w->data, p->scale,      p->zero,         p->group_of,
                                 p->map,  p->nested_map, p->nested_absmax };
    const uint8_t **const to[PLANES] = {
        &d->w.q,   &d->w.scale,      &d->w.zero,         &d->w.group_of,
        &d->w.map, &d->w.nested_map, &d->w.nested_absmax
    };
    size_t n[PLANES];

    plane_sizes(n, w);
    d->w = raw_form(w);
    for (size_t i = 0; i < PLANES; i++)
        if (from[i] && n[i] &&
            (keep(c, d, to[i], n[i], w->name, e) || send(c, *to[i], from[i], n[i], e)))
            return -1;
    return 0;
}

/* Encodings of GGUF: codes of their blocks in records. */
static bool block_form(struct dev_weight *to, enum enc enc)
{
    static const struct {
        enum enc enc;
        int kind, gs, pair, zero;
    } forms[] = {
        { ENC_Q4_0, DEV_U4, 4, 0, 8 },   { ENC_Q4_1, DEV_U4, 4, 1, 0 },
        { ENC_Q4_K, DEV_U4, 4, 1, 0 }, /* a sub-block's scale and minimum become two f16 */
        { ENC_Q5_0, DEV_U6, 8, 0, 16 },  { ENC_Q5_1, DEV_U8, 2, 1, 0 },
        { ENC_Q5_K, DEV_U8, 2, 1, 0 },   { ENC_Q6_K, DEV_U6, 8, 0, 32 },
        { ENC_Q8_0, DEV_U8, 2, 0, 128 },
    };

    for (size_t i = 0; i < ARRAY_LEN(forms); i++)
        if (forms[i].enc == enc) {
            to->kind = forms[i].kind;
            to->gs = forms[i].gs;
            to->pair = forms[i].pair;
            to->zero_const = forms[i].zero;
            to->group = 32;
            return true;
        }
    return false;
}

/* Groups of columns in records; false where they do not fit. */
static bool group_form(struct dev_weight *to, int kind, size_t group)
{
    const size_t cols = kind == DEV_U8 ? 64 : 128;

    if (group % 32 || (group < cols && cols % group) || (group > cols && group % cols))
        return false;
    to->kind = kind;
    /* FINE in stream.cuh has a scale for each block; N4 is always that */
    to->gs = group < cols || kind == DEV_N4 ? (int)(cols / 32) : 1;
    return true;
}

/* The packed form that w could take; kind stays DEV_RAW where there is none. */
static struct dev_weight packed_form(const struct ctx *c, const struct weight *w,
                                     const struct dev_weight *raw)
{
    const bool whole = groups_of(w) == 1;
    const size_t group = whole ? (size_t)raw->kp : w->p.group;
    struct dev_weight to = *raw;

    to.scale = to.zero = to.group_of = to.map = to.nested_map = to.nested_absmax = NULL;
    to.zero_const = 0;
    /* padding costs memory: not where it is most of the row */
    if (c->compute == COMPUTE_F32 || (size_t)raw->kp > w->cols + w->cols / 4)
        return to;
    switch (w->enc) {
    case ENC_BF16:
        to.kind = DEV_B16;
        return to;
    case ENC_F16:
        to.kind = DEV_H16;
        return to;
    case ENC_F8:
        to.kind = group % DEV_CHUNK == 0 ? DEV_F8 : DEV_RAW;
        break;
    case ENC_INT8:
        to.kind = whole ? DEV_U8 : DEV_RAW;
        to.zero_const = 128;
        break;
    case ENC_AWQ:
    case ENC_GPTQ4:
    case ENC_PACKED4:
        group_form(&to, DEV_U4, group);
        to.zero_const = 8;
        break;
    case ENC_GPTQ8:
    case ENC_PACKED8:
        group_form(&to, DEV_U8, group);
        to.zero_const = 128;
        break;
    case ENC_NF4:
    case ENC_FP4: /* blocks run over the end of rows that are not whole blocks */
        if (w->cols % w->p.group == 0 && w->p.group >= 32)
            group_form(&to, DEV_N4, w->p.group);
        for (size_t i = 0; i < 16; i++)
            to.table[i] = f32_to_f16(enc_loadf(w->p.map + 4 * i));
        break;
    default:
        block_form(&to, w->enc);
        break;
    }
    if (to.kind == DEV_RAW)
        return to;
    to.zeros = raw->zero != NULL;
    if (whole)
        to.group = to.kp;
    to.n_groups = (int)over((size_t)to.kp, (size_t)to.group);
    if (to.kind != DEV_F8)
        to.rec = (to.kind == DEV_U6 ? 1536 : 1024) + to.gs * (to.pair ? 64 : 32) +
                 (to.zeros ? to.gs * 16 : 0);
    return to;
}

static size_t scale_bytes(const struct dev_weight *to, size_t rows)
{
    return to->n_groups > 1 ? over(rows, (size_t)to->row_group) * (size_t)to->n_groups *
                                  (to->scale_enc == DEV_ENC_F32 ? 4 : 2)
                            : rows * sizeof(float);
}

/* One scale for each row in float32, or the scales as they are. There is room for them where
 * to->scale is, if it is not NULL. */
static int pack_scales(struct ctx *c, struct placed *d, const struct weight *w,
                       const struct dev_weight *raw, struct err *e)
{
    struct cuda *b = c->backend;
    struct dev_weight *to = &d->w, from = *raw;
    const size_t n = scale_bytes(to, w->rows);

    if (!to->scale && keep(c, d, &to->scale, n, w->name, e))
        return -1;
    if (to->n_groups > 1)
        return cuda_upload(c, (void *)(uintptr_t)to->scale, w->p.scale, n, e);
    from.n_groups = 1;
    cuda_launch(b, KERN_pack_row_scales, over(w->rows, 128), 1, 1, 128,
                (void *[]){ &to->scale, &from });
    to->scale_enc = DEV_ENC_F32;
    to->scale_by = 1;
    to->row_group = 1;
    return 0;
}

static size_t record_bytes(const struct dev_weight *to)
{
    return over((size_t)to->rows, DEV_TILE) * ((size_t)to->kp / (to->kind == DEV_U8 ? 64 : 128)) *
           (size_t)to->rec;
}

/* Rows of 16-bit floats that need no padding are packed as they come. */
static bool as_is(const struct dev_weight *to, const struct weight *w)
{
    return (to->kind == DEV_B16 || to->kind == DEV_H16) && (size_t)to->kp == w->cols;
}

size_t cuda_placed_size(const struct ctx *c, const struct weight *w)
{
    const struct planes *p = &w->p;
    const void *from[PLANES] = { w->data, p->scale,      p->zero,         p->group_of,
                                 p->map,  p->nested_map, p->nested_absmax };
    struct dev_weight raw = raw_form(w);
    size_t n[PLANES], sum = 0;

    plane_sizes(n, w);
    raw.zero = n[PLANE_ZERO] ? p->zero : NULL; /* whether there are some */
    const struct dev_weight to = packed_form(c, w, &raw);

    if (to.kind == DEV_RAW || as_is(&to, w)) {
        for (size_t i = 0; i < PLANES; i++)
            sum += from[i] ? n[i] : 0;
        return sum;
    }
    if (to.kind == DEV_B16 || to.kind == DEV_H16)
        return w->rows * (size_t)to.kp * 2;
    if (to.kind == DEV_F8)
        return w->rows * (size_t)to.kp + scale_bytes(&to, w->rows);
    return record_bytes(&to) + (to.gs ? 0 : scale_bytes(&to, w->rows)) +
           (p->group_of ? 2 * 4 * w->cols : 0);
}

/* Bytes of rows that are packed as rows. */
static size_t row_bytes(const struct dev_weight *to, size_t rows)
{
    return rows * (size_t)to->kp * (to->kind == DEV_F8 ? 1 : 2);
}

/* at: where there is room for them; NULL = nowhere yet */
static int pack_rows(struct ctx *c, struct placed *d, const struct weight *w,
                     const struct dev_weight *raw, const uint8_t *at, struct err *e)
{
    struct dev_weight *to = &d->w, from = *raw;
    const size_t kp = (size_t)to->kp;
    int kp_int = to->kp;

    to->q = at;
    if ((!at && keep(c, d, &to->q, row_bytes(to, w->rows), w->name, e)) ||
        (to->kind == DEV_F8 && pack_scales(c, d, w, raw, e)))
        return -1;
    cuda_launch(c->backend, KERN_pack_pad, over(kp, 128), w->rows < MOST ? w->rows : MOST, 1, 128,
                (void *[]){ &to->q, &from, &kp_int });
    return 0;
}

/* The order of w's inputs, and where each of them goes. */
static int place_order(struct ctx *c, struct placed *d, const struct weight *w, struct err *e)
{
    const size_t n = w->cols, bytes = n * sizeof(int32_t);
    const int32_t *order = w->p.order;
    const uint8_t *at[2] = { 0 };
    int32_t *place;
    int rc = -1;

    if (!order)
        return err_set(e, ERR_FORMAT, "%s: the order of its inputs is missing", w->name);
    place = xcalloc(n, sizeof(*place));
    for (size_t i = 0; i < n; i++)
        place[order[i]] = (int32_t)i;
    if (keep(c, d, &at[0], bytes, w->name, e) || keep(c, d, &at[1], bytes, w->name, e) ||
        cuda_upload(c, (void *)(uintptr_t)at[0], order, bytes, e) ||
        cuda_upload(c, (void *)(uintptr_t)at[1], place, bytes, e))
        goto done;
    d->w.order = (const int32_t *)(const void *)at[0];
    d->w.place = (const int32_t *)(const void *)at[1];
    rc = 0;
done:
    free(place);
    return rc;
}

static int pack_records(struct ctx *c, struct placed *d, const struct weight *w,
                        const struct dev_weight *raw, struct err *e)
{
    struct cuda *b = c->backend;
    struct dev_weight *to = &d->w, from = *raw;
    const size_t n_rec = (size_t)to->kp / (to->kind == DEV_U8 ? 64 : 128);
    const size_t tiles = over(w->rows, DEV_TILE), gy = tiles < MOST ? tiles : MOST;

    if (keep(c, d, &to->q, record_bytes(to), w->name, e) ||
        (to->gs == 0 && pack_scales(c, d, w, raw, e)))
        return -1;
    if (from.group_of && place_order(c, d, w, e))
        return -1;
    cuda_launch(b, KERN_pack_codes, over(n_rec * 32, 128), gy, 1, 128,
                (void *[]){ &to->q, &from, to });
    if (to->gs)
        cuda_launch(b, KERN_pack_scales, over(n_rec * (size_t)to->gs * 16, 128), gy, 1, 128,
                    (void *[]){ &to->q, &from, to });
    return 0;
}

/* Waits until w is packed: what it was made of goes then. */
static int end_packing(struct ctx *c, const struct weight *w, struct err *e)
{
    struct cuda *b = c->backend;

    cuda_ok(b, b->d.cuStreamSynchronize(b->stream), "packing");
    if (!b->failed)
        return 0;
    b->failed = false;
    return err_set(e, b->fault.code, "%s: %s", w->name, b->fault.msg);
}

int cuda_place(struct ctx *c, struct weight *w, struct err *e)
{
    struct placed *d = xcalloc(1, sizeof(*d)), raw = { 0 };
    int rc = -1;

    if (w->rows > INT32_MAX / 2 || w->cols > INT32_MAX / 2) {
        err_set(e, ERR_MEMORY, "%s: [%zu, %zu] is too large for the GPU's kernels", w->name,
                w->rows, w->cols);
        goto done;
    }
    if (place_raw(c, &raw, w, e))
        goto done;
    d->w = packed_form(c, w, &raw.w);
    if (d->w.kind == DEV_RAW || as_is(&d->w, w)) {
        const int kind = d->w.kind;

        *d = raw;
        d->w.kind = kind;
        raw.n_mem = 0;
    } else {
        if (d->w.kind == DEV_B16 || d->w.kind == DEV_H16 || d->w.kind == DEV_F8
                ? pack_rows(c, d, w, &raw.w, NULL, e)
                : pack_records(c, d, w, &raw.w, e))
            goto done;
        if (end_packing(c, w, e))
            goto done;
    }
    w->placed = d;
    d = NULL;
    rc = 0;
done:
    drop(c, &raw);
    if (d)
        drop(c, d);
    free(d);
    return rc;
}

/* ---- matrices that multiply one input ---- */

/* Whether w, whose forms they are, lie as rows of one kind, and may lie end to end. */
static bool can_join(const struct weight *const *w, const struct dev_weight *form, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((form[i].kind != DEV_F8 && form[i].kind != DEV_B16) || form[i].kind != form[0].kind ||
            form[i].kp != form[0].kp || form[i].n_groups > 1 || w[i]->rows % 64 ||
            w[i]->rows > INT32_MAX / 2 || w[i]->cols > INT32_MAX / 2 || w[i]->cols != w[0]->cols)
            return false;
    return true;
}

/* w to its place in memory that another owns. */
static int place_at(struct ctx *c, struct weight *w, const struct dev_weight *form,
                    const uint8_t *at, const uint8_t *scale, struct err *e)
{
    struct placed *d = xcalloc(1, sizeof(*d)), raw = { 0 };

    d->w = *form;
    d->w.scale = scale;
    const int rc =
        place_raw(c, &raw, w, e) || pack_rows(c, d, w, &raw.w, at, e) || end_packing(c, w, e) ? -1
                                                                                              : 0;

    drop(c, &raw);
    if (rc)
        free(d);
    else
        w->placed = d;
    return rc;
}

int cuda_place_beside(struct ctx *c, struct weight *const *w, size_t n, struct err *e)
{
    enum { MOST_BESIDE = 4 };
    struct dev_weight form[MOST_BESIDE];
    struct placed own = { 0 };
    const uint8_t *at = NULL, *scale = NULL;
    size_t rows = 0;
    int rc = 0;

    BUG_ON(n == 0 || n > MOST_BESIDE);
    for (size_t i = 0; i < n; i++) {
        const struct dev_weight raw = raw_form(w[i]);

        form[i] = packed_form(c, w[i], &raw);
        rows += w[i]->rows;
    }
    if (!can_join((const struct weight *const *)w, form, n)) {
        for (size_t i = 0; i < n && rc == 0; i++)
            rc = cuda_place(c, w[i], e);
        return rc;
    }
    if (keep(c, &own, &at, row_bytes(&form[0], rows), w[0]->name, e) ||
        (form[0].kind == DEV_F8 && keep(c, &own, &scale, rows * sizeof(float), w[0]->name, e)))
        rc = -1;
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = place_at(c, w[i], &form[i], at, scale, e);
        at += row_bytes(&form[i], w[i]->rows);
        scale = scale ? scale + w[i]->rows * sizeof(float) : NULL;
    }
    if (rc == 0) { /* the first owns all of it */
        struct placed *d = w[0]->placed;

        memcpy(d->mem, own.mem, sizeof(own.mem));
        memcpy(d->bytes, own.bytes, sizeof(own.bytes));
        d->n_mem = own.n_mem;
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        cuda_unplace(c, w[i]);
    drop(c, &own);
    return rc;
}

int cuda_place_rows(struct ctx *c, struct weight *w, struct err *e)
{
    struct cuda *b = c->backend;
    struct placed *d;
    size_t n[PLANES];
    void *host = NULL;

    plane_sizes(n, w);
    if (w->p.scale || w->p.zero || w->p.map || w->p.group_of || w->rows > INT32_MAX / 2 ||
        w->cols > INT32_MAX / 2)
        return cuda_place(c, w, e);
    b->d.cuCtxSetCurrent(b->context);
    if (b->d.cuMemAllocHost(&host, n[PLANE_DATA] ? n[PLANE_DATA] : 1))
        return cuda_place(c, w, e); /* so much cannot be pinned */
    for (size_t at = 0; at < n[PLANE_DATA]; at += PIN_BYTES) {
        const size_t k = n[PLANE_DATA] - at < PIN_BYTES ? n[PLANE_DATA] - at : PIN_BYTES;

        memcpy((uint8_t *)host + at, (const uint8_t *)w->data + at, k);
        map_forget((const uint8_t *)w->data + at, k);
    }
    d = xcalloc(1, sizeof(*d));
    d->w = raw_form(w);
    d->w.q = d->host = host;
    w->placed = d;
    return 0;
}

void cuda_unplace(struct ctx *c, struct weight *w)
{
    if (!w->placed)
        return;
    away_drop(c->backend, w->placed);
    drop(c, w->placed);
    free(w->placed);
    w->placed = NULL;
}

void cuda_adopt(struct ctx *c, struct weight *w)
{
    struct placed *d = xcalloc(1, sizeof(*d));

    (void)c;
    d->w = raw_form(w);
    d->w.q = w->data;
    w->placed = d;
}

/* ---- a placed weight as bf16 ---- */

void cuda_widen(struct cuda *b, const struct dev_weight *w, size_t r, size_t n)
{
    const size_t kp = (size_t)w->kp, cols = w->kind == DEV_U8 ? 64 : 128;
    int first = (int)r, tile = (int)(r / DEV_TILE);
    struct dev_weight copy = *w;
    const enum kernel k = w->kind == DEV_U8   ? KERN_widen_u8
                          : w->kind == DEV_U4 ? KERN_widen_u4
                          : w->kind == DEV_U6 ? KERN_widen_u6
                                              : KERN_widen_n4;

    if (w->kind == DEV_F8)
        cuda_launch(b, KERN_widen_f8, (kp / 16 + 127) / 128, n, 1, 128,
                    (void *[]){ &b->dequant.p, &copy, &first });
    else if (w->kind == DEV_RAW || w->kind == DEV_H16)
        cuda_launch(b, KERN_dequant, (kp / 32 + 127) / 128, n, 1, 128,
                    (void *[]){ &b->dequant.p, &copy, &first });
    else
        cuda_launch(b, k, (kp / cols + 7) / 8, (n + DEV_TILE - 1) / DEV_TILE, 1, 256,
                    (void *[]){ &b->dequant.p, &copy, &tile });
}
