/* pass.c - a forward pass: the batch to the device, the logits back, and recordings of passes (CUDA
 * graphs). A pass of few rows without adapters runs once as it comes, is recorded the second time
 * and is then only started again: what changes from step to step lies in the batch's arrays. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_int.h"
#include "base/mem.h"

/* HEAD: bytes before a batch's arrays (struct batch_copy); MOST_HEADS: of rows at a time, which
 * take PICK_PART bytes each */
enum { LEAST_SLOTS = 128, MOST_ROWS = 65535, HEAD = 16, MOST_HEADS = 256 };

void cuda_forget(struct cuda *b)
{
    for (size_t i = 0; i < b->n_rec; i++) {
        struct recording *r = &b->rec[i];

        if (r->exec)
            b->d.cuGraphExecDestroy(r->exec);
        if (r->programs)
            b->d.cuMemFree(r->programs);
        free(r->image);
    }
    b->n_rec = 0;
}

/* Where the arrays of a batch lie in one block of memory: token, pos, slot, seq [T], want [n_want],
 * runs and lone rows, pos, slot and seq of wanted rows, the sequences' tables and pointers to them.
 */
struct layout {
    size_t runs, lone, wanted, ints, pointers, tables, bytes;
};

static size_t most_slots(const struct batch *b)
{
    size_t most = 0;

    for (size_t t = 0; t < b->T; t++)
        most = (size_t)b->slot[t] + 1 > most ? (size_t)b->slot[t] + 1 : most;
    return most;
}

/* The array of pointers stands where T and n_want alone decide, for recordings. */
static struct layout lay_out(const struct cuda *c, const struct pass *p, size_t slots)
{
    const struct batch *b = p->b;
    const size_t blocks = (slots + KV_BLOCK - 1) / KV_BLOCK;
    struct layout l = { .runs = 4 * b->T + b->n_want };

    l.lone = l.runs + 2 * c->n_runs;
    l.wanted = l.lone + c->n_lone;
    l.ints = l.wanted + 3 * p->wanted.T;

    l.pointers = (l.ints * sizeof(int32_t) + 7) / 8 * 8;
    l.tables = l.pointers + b->n_seq * sizeof(CUdeviceptr);
    l.bytes = l.tables + b->n_seq * blocks * sizeof(int32_t);
    return l;
}

/* Blocks of each sequence that this batch reads or writes, [n_seq]; the caller frees them. */
static int32_t *count_blocks(const struct batch *b)
{
    int32_t *n = xcalloc(b->n_seq + 1, sizeof(*n));

    for (size_t t = 0; t < b->T; t++)
        if (b->slot[t] / KV_BLOCK + 1 > n[b->seq[t]])
            n[b->seq[t]] = b->slot[t] / KV_BLOCK + 1;
    return n;
}

/* Of b's rows row[0..n). */
static struct reach reach_of(const struct cuda *c, const struct batch *b, const int32_t *row,
                             size_t n)
{
    size_t all = 0, most = 0;

    for (size_t i = 0; i < n; i++) {
        const size_t slots = (size_t)b->slot[row[i]] + 1;

        most = slots > most ? slots : most;
        all += slots;
    }
    return n ? (struct reach){ most, all / n } : (struct reach){ c->slots, c->slots };
}

/* Neighbouring rows of one sequence, where they are enough for the tensor cores. Passes that may be
 * recorded have none: the next one that is like them may be cut differently. */
static void find_runs(struct cuda *c, const struct batch *b)
{
    enum { SHORTEST = 16 };

    c->rows = b->T;
    c->n_runs = c->n_lone = 0;
    c->lone_reach = c->wanted_reach = (struct reach){ c->slots, c->slots };
    if (b->T <= RECORD_ROWS)
        return;
    free(c->runs);
    free(c->lone);
    c->runs = xcalloc(2 * (b->T / SHORTEST), sizeof(*c->runs));
    c->lone = xcalloc(b->T, sizeof(*c->lone));
    for (size_t t = 0, n; t < b->T; t += n) {
        for (n = 1; t + n < b->T && b->seq[t + n] == b->seq[t];)
            n++;
        if (n >= SHORTEST) {
            c->runs[2 * c->n_runs] = (int32_t)t;
            c->runs[2 * c->n_runs++ + 1] = (int32_t)n;
        }
        for (size_t k = 0; n < SHORTEST && k < n; k++)
            c->lone[c->n_lone++] = (int32_t)(t + k);
    }
    c->lone_reach = reach_of(c, b, c->lone, c->n_lone);
    c->wanted_reach = reach_of(c, b, b->want, b->n_want);
}

static bool may_record(const struct cuda *c, const struct batch *b)
{
    return b->T <= RECORD_ROWS && !b->lora && !b->hidden && !c->away.live;
}

/* Arrays of a pass that may be recorded are left to its first kernel: a copy takes longer to begin
 * than that. */
static bool send_batch(struct cuda *c, struct pass *p, size_t slots)
{
    const struct batch *b = p->b;
    const struct layout l = lay_out(c, p, slots);
    uint8_t *const pin = c->pin[0], *const to = pin + HEAD;
    size_t at = l.tables;

    if (HEAD + l.bytes + HEAD > PIN_BYTES) {
        err_set(&c->fault, ERR_MEMORY,
                "a batch of %zu rows and %zu sequences: its tables take %zu "
                "bytes, at most %d",
                b->T, b->n_seq, l.bytes, (int)PIN_BYTES);
        c->failed = true;
        return false;
    }
    if (!cuda_room(c, &c->batch, HEAD + l.bytes + HEAD) ||
        !cuda_ok(c, c->d.cuEventSynchronize(c->pin_free[0]), "copy to the device"))
        return false;
    const int32_t *const from[] = { b->token, b->pos, b->slot, b->seq };

    for (size_t i = 0; i < ARRAY_LEN(from); i++)
        memcpy(to + i * b->T * sizeof(int32_t), from[i], b->T * sizeof(int32_t));
    if (b->n_want)
        memcpy(to + 4 * b->T * sizeof(int32_t), b->want, b->n_want * sizeof(int32_t));
    if (c->n_runs)
        memcpy(to + l.runs * sizeof(int32_t), c->runs, 2 * c->n_runs * sizeof(int32_t));
    if (c->n_lone)
        memcpy(to + l.lone * sizeof(int32_t), c->lone, c->n_lone * sizeof(int32_t));
    const size_t n = p->wanted.T;
    const int32_t *const wanted[] = { p->wanted.pos, p->wanted.slot, p->wanted.seq };

    for (size_t i = 0; n && i < ARRAY_LEN(wanted); i++)
        memcpy(to + (l.wanted + i * n) * sizeof(int32_t), wanted[i], n * sizeof(int32_t));
    const CUdeviceptr base = c->batch.p + HEAD;
    int32_t *const blocks = count_blocks(b);

    for (size_t s = 0; s < b->n_seq; s++) {
        const size_t bytes = (size_t)blocks[s] * sizeof(int32_t);
        const CUdeviceptr table = base + at;

        memcpy(to + l.pointers + s * sizeof(table), &table, sizeof(table));
        memcpy(to + at, b->block_table[s], bytes);
        at += bytes;
    }
    free(blocks);
    const int32_t *dev = (const int32_t *)(uintptr_t)base;

    c->runs_at = dev + l.runs;
    c->lone_at = dev + l.lone;
    p->at = *b;
    p->at.token = dev;
    p->at.pos = dev + b->T;
    p->at.slot = dev + 2 * b->T;
    p->at.seq = dev + 3 * b->T;
    p->at.want = dev + 4 * b->T;
    p->at.block_table = (const int32_t *const *)(uintptr_t)(base + l.pointers);
    p->at_wanted = p->at;
    p->at_wanted.T = n;
    p->at_wanted.token = NULL;
    p->at_wanted.pos = dev + l.wanted;
    p->at_wanted.slot = dev + l.wanted + n;
    p->at_wanted.seq = dev + l.wanted + 2 * n;
    c->bring = may_record(c, b);
    if (c->bring) {
        *(int32_t *)(void *)pin = (int32_t)over(HEAD + at, 16);
        return true;
    }
    return cuda_ok(c, c->d.cuMemcpyHtoDAsync(base, to, at, c->stream), "batch") &&
           cuda_ok(c, c->d.cuEventRecord(c->pin_free[0], c->stream), "batch");
}

/* The recording of this pass, or a new empty entry; NULL where none is worth it. */
static struct recording *find(struct cuda *c, const struct pass *p, bool *fresh)
{
    const struct batch *b = p->b;
    struct recording *r;

    *fresh = false;
    if (!may_record(c, b))
        return NULL;
    for (size_t i = 0; i < c->n_rec; i++) {
        r = &c->rec[i];
        if (r->T == b->T && r->n_want == b->n_want && r->slots == c->slots &&
            memcmp(r->key, p->key, sizeof(r->key)) == 0)
            return r;
    }
    if (c->n_rec == RECORDINGS)
        cuda_forget(c);
    r = &c->rec[c->n_rec++];
    *r = (struct recording){ .T = b->T, .n_want = b->n_want, .slots = c->slots };
    memcpy(r->key, p->key, sizeof(r->key));
    *fresh = true;
    return r;
}

static int give_up(struct cuda *c, struct err *e)
{
    c->failed = false;
    return err_set(e, c->fault.code, "%s", c->fault.msg);
}

int cuda_enter(struct ctx *ctx, struct pass *p, struct err *e)
{
    struct cuda *c = ctx->backend;
    const size_t slots = most_slots(p->b);
    bool fresh;

    c->d.cuCtxSetCurrent(c->context);
    team_free(c->loaders);
    c->loaders = NULL;
    cuda_run(c, false);
    if (p->b->T > MOST_ROWS)
        return err_set(e, ERR_USAGE, "a pass of %zu rows: the GPU takes at most %d", p->b->T,
                       (int)MOST_ROWS);
    c->have.x = NULL;
    c->cur = 0; /* the same rooms for the same pass: a recording cannot make them larger */
    for (c->slots = LEAST_SLOTS; c->slots < slots;)
        c->slots *= 2;
    find_runs(c, p->b);
    if (!send_batch(c, p, slots) ||
        !cuda_room(c, &c->logits, p->b->n_want * p->V * sizeof(float)) ||
        (p->b->hidden && !cuda_room(c, &c->hidden, p->b->T * p->D * sizeof(float))))
        return give_up(c, e);
    p->logits = p->b->n_want ? (float *)(uintptr_t)c->logits.p : NULL;
    p->at.hidden = p->b->hidden ? (float *)(uintptr_t)c->hidden.p : NULL;
    struct recording *r = find(c, p, &fresh);

    if (r && r->exec) {
        if (!cuda_ok(c, c->d.cuGraphLaunch(r->exec, c->stream), "a recorded pass"))
            return give_up(c, e);
        c->bring = false;
        return 1;
    }
    if (r && !fresh) {
        if (!cuda_ok(c, c->d.cuStreamBeginCapture(c->stream, CU_STREAM_CAPTURE_MODE_RELAXED),
                     "recording"))
            return give_up(c, e);
        c->recording = r;
    }
    return 0;
}

static void end_recording(struct cuda *c)
{
    struct recording *r = c->recording;
    CUgraph g = NULL;
    const CUresult rc = c->d.cuStreamEndCapture(c->stream, &g);

    c->recording = NULL;
    if (!cuda_ok(c, rc, "recording"))
        return;
    if (!c->failed && r->image)
        cuda_ok(c, c->d.cuMemcpyHtoDAsync(r->programs, r->image, r->image_used, c->stream),
                "recording");
    if (!c->failed && cuda_ok(c, c->d.cuGraphInstantiateWithFlags(&r->exec, g, 0), "recording"))
        cuda_ok(c, c->d.cuGraphLaunch(r->exec, c->stream), "a recorded pass");
    c->d.cuGraphDestroy(g);
}

static bool fetch(struct cuda *c, float *to, const struct gpu_room *from, size_t n)
{
    struct err e;

    if (n == 0 ||
        cuda_download(&c->ctx, to, (void *)(uintptr_t)from->p, n * sizeof(float), &e) == 0)
        return true;
    if (!c->failed)
        c->fault = e;
    c->failed = true;
    return false;
}

int cuda_leave(struct ctx *ctx, struct pass *p, struct err *e)
{
    struct cuda *c = ctx->backend;

    cuda_run(c, true);
    c->rows = 0;
    c->bring = false;
    if (c->recording)
        end_recording(c);
    if (!c->failed && may_record(c, p->b))
        cuda_ok(c, c->d.cuEventRecord(c->pin_free[0], c->stream), "batch");
    if (p->b->meanwhile)
        p->b->meanwhile(p->b->arg);
    if (!c->failed && p->out)
        fetch(c, p->out, &c->logits, p->b->n_want * p->V);
    if (!c->failed && p->b->hidden)
        fetch(c, p->b->hidden, &c->hidden, p->b->T * p->D);
    /* logits that stay here are looked at next, behind the pass: nobody need come back for that */
    if (c->failed || !p->b->n_want || p->out || p->b->hidden)
        cuda_ok(c, c->d.cuStreamSynchronize(c->stream), "forward pass");
    return c->failed ? give_up(c, e) : 0;
}

int cuda_settle(struct ctx *ctx, struct err *e)
{
    struct cuda *c = ctx->backend;

    cuda_run(c, false);
    cuda_ok(c, c->d.cuStreamSynchronize(c->stream), "training");
    return c->failed ? give_up(c, e) : 0;
}

/* ---- heads of rows of logits ---- */

/* Where what is asked lies in a pinned buffer: rows, changes, masks; and then the lists. */
struct asked {
    size_t n, changes, masks, at_changes, at_masks, bytes;
};

/* Of ask[0..n) as many as there is room for; none: the first alone is too much. */
static struct asked lay_out_asks(const struct pick_ask *ask, size_t n, size_t words)
{
    struct asked a = { 0 };

    while (a.n < n && a.n < MOST_HEADS) {
        struct asked more = a;

        more.changes += ask[a.n].n_change;
        more.masks += ask[a.n].allowed != NULL;
        more.n++;
        more.at_changes = more.n * sizeof(struct pick_row);
        more.at_masks = (more.at_changes + more.changes * sizeof(struct pick_change) + 7) / 8 * 8;
        more.bytes = more.at_masks + more.masks * words * sizeof(uint64_t);
        if (more.bytes + more.n * sizeof(struct pick_list) > PIN_BYTES)
            break;
        a = more;
    }
    return a;
}

/* max: of rows; NULL = it is not known. */
static void fill_asks(uint8_t *to, const struct asked *a, const struct pick_ask *ask,
                      const float *max, size_t words)
{
    struct pick_row *row = (struct pick_row *)to;
    struct pick_change *change = (struct pick_change *)(to + a->at_changes);
    uint64_t *mask = (uint64_t *)(to + a->at_masks);
    size_t changes = 0, masks = 0;

    for (size_t i = 0; i < a->n; i++, ask++) {
        const double inverse = ask->temperature > 0 ? 1 / ask->temperature : 0;

        row[i] = (struct pick_row){ .row = (int)ask->row,
                                    .mask = ask->allowed ? (int)masks : -1,
                                    .change = (int)changes,
                                    .n = (int)ask->n_change,
                                    .by = (float)(M_LOG2E * inverse),
                                    .at = ask->at,
                                    .bare = ask->bare,
                                    .u = ask->u,
                                    .inverse = ask->draw ? inverse : 0,
                                    .part = ask->part,
                                    .least = ask->least,
                                    .max = max ? max[i] : 0 };
        if (ask->n_change)
            memcpy(change + changes, ask->change, ask->n_change * sizeof(*change));
        changes += ask->n_change;
        if (ask->allowed)
            memcpy(mask + masks++ * words, ask->allowed, words * sizeof(*mask));
    }
}

/* By kernel k: pick, or of flat rows, whose maxima are given, pick_flat. */
static int look(struct cuda *c, enum kernel k, const struct pick_ask *ask, const float *max,
                size_t n, size_t V, struct pick_list *out, struct err *e)
{
    const size_t words = (V + 63) / 64;
    int v = (int)V;

    for (size_t done = 0; done < n;) {
        const struct asked a = lay_out_asks(ask + done, n - done, words);
        bool bare = true;

        if (a.n == 0)
            return err_set(e, ERR_MEMORY,
                           "%zu changes and a mask of %zu logits take more than %d bytes",
                           ask[done].n_change, V, (int)PIN_BYTES);
        for (size_t i = 0; i < a.n; i++)
            bare = bare && ask[done + i].bare;
        int pitch = (int)(bare ? offsetof(struct pick_list, id) : sizeof(*out));
        /* pin[0] may be the pass's still */
        uint8_t *const pin = c->pin[1], *const told = pin + a.bytes;

        if (!cuda_ok(c, c->d.cuEventSynchronize(c->pin_free[1]), "heads of logits"))
            return give_up(c, e);
        fill_asks(pin, &a, ask + done, max ? max + done : NULL, words);
        /* the GPU reads rows where they are and writes lists here: copies would take longer than it
         * does. What it reads more than once is copied. */
        CUdeviceptr rows = (CUdeviceptr)(uintptr_t)pin, lists = (CUdeviceptr)(uintptr_t)told;

        if (a.changes || a.masks) {
            if (!cuda_room(c, &c->picks, a.bytes) ||
                !cuda_ok(c, c->d.cuMemcpyHtoDAsync(c->picks.p, pin, a.bytes, c->stream),
                         "heads of logits"))
                return give_up(c, e);
            rows = c->picks.p;
        }
        CUdeviceptr changes = rows + a.at_changes, masks = rows + a.at_masks;
        const size_t flat = k == KERN_pick_flat ? a.n * sizeof(struct pick_sums) : 0;
        size_t blocks = PICK_BLOCKS; /* of a row; a multiprocessor has one */

        while (blocks > 1 && blocks * a.n > c->sms)
            blocks /= 2;
        if (!cuda_room(c, &c->part, a.n * PICK_PART(V)) ||
            !cuda_room(c, &c->done, flat + a.n * sizeof(int)))
            return give_up(c, e);
        CUdeviceptr parts = flat ? c->done.p : c->part.p, turns = c->done.p + flat;

        cuda_launch(c, k, blocks, a.n, 1, PICK_THREADS,
                    (void *[]){ &lists, &pitch, &c->logits.p, &rows, &changes, &masks, &v, &parts,
                                &turns });
        if (!c->failed)
            cuda_ok(c, c->d.cuStreamSynchronize(c->stream), "heads of logits");
        if (c->failed)
            return give_up(c, e);
        for (size_t i = 0; i < a.n; i++)
            memcpy(&out[done + i], told + i * (size_t)pitch, (size_t)pitch);
        done += a.n;
    }
    return 0;
}

/* Whether a list ends before the id that was asked for is known. */
static bool is_flat(const struct pick_ask *ask, const struct pick_list *l)
{
    double mass = 0;

    if (!(ask->part > 0) || l->n < PICK_MOST || l->complete || l->bad || !isfinite(l->logit[0]))
        return false;
    for (int32_t i = 0; i < l->n; i++) {
        const double w = exp(((double)l->logit[i] - (double)l->logit[0]) / ask->temperature);

        mass += w;
        if (w < ask->least || (ask->part < 1 && !(mass < ask->part * l->sum)))
            return false;
    }
    return true;
}

int cuda_heads(struct ctx *ctx, const struct pick_ask *ask, size_t n, size_t V,
               struct pick_list *out, struct err *e)
{
    struct cuda *c = ctx->backend;
    struct flat {
        struct pick_ask *ask;
        float *max;
        struct pick_list *told, **of;
        size_t n;
    } f = { 0 };

    c->d.cuCtxSetCurrent(c->context);
    int rc = look(c, KERN_pick, ask, NULL, n, V, out, e);

    for (size_t i = 0; i < n && rc == 0; i++) {
        if (V > PICK_FLAT_MOST || !is_flat(&ask[i], &out[i]))
            continue;
        if (f.n == 0)
            f = (struct flat){ xcalloc(n, sizeof(*f.ask)), xcalloc(n, sizeof(*f.max)),
                               xcalloc(n, sizeof(*f.told)), xcalloc(n, sizeof(struct pick_list *)),
                               0 };
        f.ask[f.n] = ask[i];
        f.ask[f.n].draw = f.ask[f.n].bare = true;
        f.max[f.n] = out[i].logit[0];
        f.of[f.n++] = &out[i];
    }
    if (f.n)
        rc = look(c, KERN_pick_flat, f.ask, f.max, f.n, V, f.told, e);
    for (size_t i = 0; i < f.n && rc == 0; i++)
        f.of[i]->drawn = f.told[i].drawn;
    free(f.ask);
    free(f.max);
    free(f.told);
    free(f.of);
    return rc;
}

int cuda_row(struct ctx *ctx, size_t row, size_t V, float *out, struct err *e)
{
    const struct cuda *c = ctx->backend;

    return cuda_download(ctx, out, (const float *)(uintptr_t)c->logits.p + row * V,
                         V * sizeof(*out), e);
}
