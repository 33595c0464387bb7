/* llama.h - the network (MODEL.md), forward, on a ragged batch, over the op table. */
#ifndef PUNA_MODEL_LLAMA_H
#define PUNA_MODEL_LLAMA_H

#include "format/checkpoint.h"
#include "ops/backend.h"

struct layer {
    struct weight q, k, v, o;     /* [H*hd, D] [K*hd, D] [K*hd, D] [D, H*hd] */
    struct weight gate, up, down; /* [F, D] [F, D] [D, F] */
    float *attn_norm, *ffn_norm;  /* [D], owned */
};

struct input_order {
    int32_t *p; /* [n] planes.order of one weight or more, owned */
    size_t n;
};

struct model {
    struct checkpoint *ckpt;   /* owned */
    const struct hparams *hp;  /* borrowed from ckpt */
    struct weight embed;       /* [V, D] */
    struct weight head;        /* [V, D]; the embedding when tied */
    struct layer *layer;       /* [L] */
    float *norm;               /* [D] */
    float *inv_freq;           /* [hd/2] */
    struct input_order *order; /* [n_orders] GPTQ with act-order */
    size_t n_orders;
    struct ctx *on; /* a device on which its weights lie (model_place); NULL = the mapping */
    struct placing *placing; /* copies of them on the CPU; NULL = none are made; owned */
};

/* Opens, checks (checkpoint_check) and binds; weights stay in the mapping. */
int model_open(struct model **out, const char *path, struct err *e) MUST_USE;
void model_close(struct model *m);
/* Whether the matrices of layer l are elsewhere than the device when those of `away` layers are:
 * spread evenly, since a copy takes longer than a layer, and goes on behind all that stay. */
static inline bool layer_away(int64_t layers, int64_t away, int64_t l)
{
    return (l + 1) * away / layers > l * away / layers;
}

/* Takes weights, norms and frequencies to where c computes, a device; c must outlive m. The
 * matrices of `away` layers (layer_away) wait in host memory and pass through the device as they
 * are needed. After a failure m can only be closed. progress may be NULL. */
int model_place(struct model *m, struct ctx *c, int64_t away,
                void (*progress)(void *arg, size_t done, size_t total), void *arg,
                struct err *e) MUST_USE;

/* On the CPU: copies matrices, layer by layer, into the kernels' own order where they have one
 * (ops/backend.h), and lets go of the mapping's memory. Forward passes of m copy a layer each from
 * the second on, so that the first token does not wait, and give the same bits before, between and
 * after. What there is no memory for stays in the mapping. c must outlive m. */
void model_place_later(struct model *m, struct ctx *c);
/* A step of it; false = all is done, or nothing was asked for. */
bool model_place_next(const struct model *m);
/* Bytes of the copies so far. */
size_t model_placed_bytes(const struct model *m);

/* Activations of one forward pass in c's memory: reused for every layer, sized for max_rows. */
struct acts;
int acts_new(struct acts **out, const struct model *m, struct ctx *c, size_t max_rows,
             struct err *e) MUST_USE;
void acts_free(struct acts *a);
/* Room for adapters of up to `rank`; a batch may name one only after this. */
int acts_reserve(struct acts *a, size_t rank, struct err *e) MUST_USE;
/* Bytes of it; SIZE_MAX when they cannot be addressed. */
size_t acts_bytes(const struct hparams *hp, size_t max_rows);

/* Runs b (b->T <= max_rows) through the model: writes its K and V into kv and the
 * logits of the rows in b->want to logits [n_want, V] (NULL: they stay where c keeps them, if it
 * can: ops/backend.h); what the head sees, of every row, to b->hidden. Fails only where a device
 * does. */
int llama_forward(struct ctx *c, const struct model *m, struct acts *a, const struct kv_cache *kv,
                  const struct batch *b, float *logits, struct err *e) MUST_USE;

/* The cache's type by the name that users give it: "f32", "f16", "bf16", "q8_0", "fp8"; or -1. */
int kv_from_name(const char *name);
/* KV cache of `blocks` blocks of KV_BLOCK positions for every layer, in c's memory. */
int kv_new(struct kv_cache *kv, struct ctx *c, const struct hparams *hp, enum enc enc,
           size_t blocks, struct err *e) MUST_USE;
void kv_release(struct kv_cache *kv);
/* Bytes of it; SIZE_MAX when they cannot be addressed. */
size_t kv_bytes(const struct hparams *hp, enum enc enc, size_t blocks);

#endif
