/* backend.h - where a context computes: beside the op table (ops.h), the memory that ops read and
 * write, and the way into it and out of it. On the CPU that is the process's own memory and most of
 * this does nothing. Pointers that alloc and place give out are for ops alone: nobody else may
 * follow them. One thread drives a context. */
#ifndef PUNA_OPS_BACKEND_H
#define PUNA_OPS_BACKEND_H

#include "ops/ops.h"
#include "ops/pick.h"

/* One forward pass, from enter to leave. */
struct pass {
    const struct batch *b; /* as the caller made it */
    struct batch wanted;   /* pos, slot and seq of b's rows that want logits; T 0: of no use here */
    struct batch at, at_wanted; /* their arrays where ops read and write them; lora stays as in b */
    float *logits;              /* where ops write them; NULL when no row is wanted */
    float *out;                 /* [n_want, V], the caller's */
    size_t V, D;                /* columns of the logits, of b->hidden */
    const void *key[3]; /* model, activations, cache: equal passes over equal keys do the same */
};

struct backend {
    const char *name; /* "cpu", "cuda" */
    /* n bytes, zeroed; `what` names them in the message. release takes NULL. */
    int (*alloc)(struct ctx *c, void **out, size_t n, const char *what, struct err *e) MUST_USE;
    void (*release)(struct ctx *c, void *p, size_t n);
    int (*upload)(struct ctx *c, void *to, const void *from, size_t n, struct err *e) MUST_USE;
    int (*download)(struct ctx *c, void *to, const void *from, size_t n, struct err *e) MUST_USE;
    /* Copies a weight to where ops read it, in a layout of the backend's own: w->placed. On the CPU
     * those that gain from it; the rest, and who else reads w, use w->data as before. */
    int (*place)(struct ctx *c, struct weight *w, struct err *e) MUST_USE;
    /* The same of n matrices that multiply one input, which may become one product. The first is
     * unplaced first. NULL: one by one. */
    int (*place_beside)(struct ctx *c, struct weight *const *w, size_t n, struct err *e) MUST_USE;
    void (*unplace)(struct ctx *c, struct weight *w);
    /* Bytes that place would take; NULL = those of the file. */
    size_t (*placed_size)(const struct ctx *c, const struct weight *w);
    /* The same for a weight of which ops look up rows and no more: it may stay in memory of the
     * host that the device can read. NULL where the host's memory is the device's. */
    int (*place_rows)(struct ctx *c, struct weight *w, struct err *e) MUST_USE;
    /* The n matrices of a layer, in the order in which passes use them, to memory of the host, from
     * where they pass through the device while what comes before them computes. Layers are used in
     * the order of the calls. NULL where the host's memory is the device's. */
    int (*place_away)(struct ctx *c, struct weight *const *w, size_t n, struct err *e) MUST_USE;
    /* Where memory is not the process's own: w->data [rows, cols], float32 or bf16 and such memory,
     * is where ops read w from now on; w->placed, for unplace, which leaves the values. */
    void (*adopt)(struct ctx *c, struct weight *w);
    /* What went wrong in ops since the last pass or the last time this was asked; waits for them.
     * NULL where nothing can. */
    int (*settle)(struct ctx *c, struct err *e) MUST_USE;
    /* p->b, wanted, out, V, D and key are set; gives p->at, at_wanted and logits. 1: the pass is
     * under way already (a recorded one was started again); leave is all that is left to do. -1:
     * error. */
    int (*enter)(struct ctx *c, struct pass *p, struct err *e) MUST_USE;
    /* The logits are in p->out, the hidden states in b->hidden; or what went wrong on the way. */
    int (*leave)(struct ctx *c, struct pass *p, struct err *e) MUST_USE;
    /* NULL where all rows of logits come to p->out. Elsewhere p->out may be NULL: rows [V] then
     * stay until the next pass, of which these are the heads, and a whole one. */
    int (*pick)(struct ctx *c, const struct pick_ask *ask, size_t n, size_t V,
                struct pick_list *out, struct err *e) MUST_USE;
    int (*row)(struct ctx *c, size_t row, size_t V, float *out, struct err *e) MUST_USE;
    /* Bytes that could be allocated now; 0 = unknown. */
    size_t (*available)(struct ctx *c);
    void (*free)(struct ctx *c);
};

static inline bool ctx_on_host(const struct ctx *c)
{
    return c->be->upload == NULL;
}

#endif
