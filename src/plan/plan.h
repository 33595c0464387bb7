/* plan.h - memory by arithmetic: what a model, a cache, a batch or a training step will take,
 * before any of it is allocated. Pure functions over sizes; nothing here touches a file or a
 * device. What loads, serves and trains asks these functions, so a plan and a run cannot drift
 * apart.
 *
 * Sizes are bytes. A sum that cannot be addressed is SIZE_MAX: it fits nowhere. docs/plan.md has
 * the formulas and how far to trust each. */
#ifndef PUNA_PLAN_PLAN_H
#define PUNA_PLAN_PLAN_H

#include "backend/cpu/cpu.h"
#include "model/llama.h"

/* ---- tables ---- */

struct plan_model {
    const char *key, *name;
    struct hparams hp; /* sizes only */
};

struct plan_device {
    char key[32]; /* "h100x8"; "cpu" */
    char name[64];
    bool cpu;
    int count;
    size_t memory;    /* of one */
    double bandwidth; /* bytes per second of one; 0 = unknown */
};

enum scheme {
#define SCHEME(id, name, alias, what) SCHEME_##id,
#include "plan/schemes.def"
#undef SCHEME
    SCHEME_COUNT
};

struct scheme_info {
    const char *name, *alias, *what;
};
extern const struct scheme_info scheme_table[SCHEME_COUNT];

const struct plan_model *plan_models(size_t *n);
const struct plan_model *plan_model_find(const char *key); /* any case; NULL = none */
/* "l4", "h100x8" (at most 65536 of them); an unknown one is ERR_USAGE and names those there are. */
int plan_device_find(struct plan_device *out, const char *key, struct err *e) MUST_USE;
int scheme_from_name(const char *name); /* or -1 */

/* ---- weights ---- */

enum plan_input { INPUT_DIM, INPUT_HEADS, INPUT_FFN, INPUT_LAST, PLAN_INPUTS };

struct plan_weights {
    int64_t layers;
    size_t layer[HPARAMS_MAX_LAYERS]; /* matrices of each layer */
    size_t norms;                     /* norm vectors of one layer; the last norm is half of it */
    size_t embed, head;               /* head 0 = tied: the embedding is read as the head */
    /* of a scheme: encodings (1 << enum enc) of the matrices that multiply D, H*hd and F wide rows,
     * and of the head; they decide the CPU's scratch */
    uint64_t encs[PLAN_INPUTS];
    uint64_t params;
};

/* A published scheme of this model. */
void plan_weights_scheme(struct plan_weights *w, const struct hparams *hp, enum scheme s);
/* The tensors of a model, scales and zeros included. */
void plan_weights_model(struct plan_weights *w, const struct model *m);
size_t plan_weights_total(const struct plan_weights *w);

/* ---- inference ---- */

/* What to plan: `sequences` of `ctx` tokens each, prompts in passes of `chunk` rows, layers cut
 * into pp stages and every matrix into tp parts. */
struct plan_query {
    const struct hparams *hp;
    const struct plan_weights *w;
    const struct model *model; /* that w was made from; NULL = a scheme */
    enum enc kv;
    size_t ctx, sequences, chunk;
    size_t want; /* rows of logits at a time; 0 = one a sequence */
    int tp, pp;
    int64_t away; /* layers whose matrices wait in host memory; with one device */
    bool cpu;     /* the engine of this program; else a GPU of devices.def */
    int threads;
    unsigned flags; /* of the CPU */
    enum compute compute;
    int64_t tokenizer; /* entries of a vocabulary that is loaded too; 0 = none (CPU) */
};

/* Bytes on the device that holds most. */
struct plan_use {
    size_t weights, kv_cache, activations, scratch, logits, runtime;
    size_t total;
};

/* tp must divide heads and ffn, pp be at most the layers. */
int plan_query_check(const struct plan_query *q, struct err *e) MUST_USE;
void plan_infer(struct plan_use *u, const struct plan_query *q);
/* What of q is touched when no more than `tokens` of a sequence and `rows` of a pass were used:
 * pages count whole, and of an embedding table that is not the head those of `lookups` rows. */
void plan_touched(struct plan_use *u, const struct plan_query *q, size_t tokens, size_t rows,
                  size_t lookups);
size_t plan_kv_per_token(const struct plan_query *q); /* over all layers and devices */
/* The longest context (whole cache blocks, or the model's own) for which the rest of q fits in
 * `room` bytes per device; 0 = none. */
size_t plan_longest_ctx(const struct plan_query *q, size_t room);
/* The most sequences of q->ctx tokens that fit; 0 = none. */
size_t plan_most_sequences(const struct plan_query *q, size_t room);
/* Tokens per second over all sequences when reading weights and cache were all that took time: a
 * bound from `bandwidth` bytes per second of each device, with `filled` cached tokens each, and
 * from an assumed 25 GB/s between host and device for layers that are away. */
double plan_decode_rate(const struct plan_query *q, double bandwidth, size_t filled);

/* ---- offload ---- */

/* Bytes of the matrices of `away` layers (layer_away), and of the largest such layer. */
size_t plan_away_bytes(const struct plan_weights *w, int64_t away, size_t *largest);
/* The fewest layers of q in host memory with which the rest, and two buffers that the others pass
 * through, take at most `room` bytes of the device; false: not even all are enough, and *o is what
 * that would take. */
struct plan_offload {
    int64_t away;
    size_t device, host; /* bytes in all; of layers that are away */
};
bool plan_offload(struct plan_offload *o, const struct plan_query *q, size_t room);

/* ---- training ---- */

enum train_method { TRAIN_FULL, TRAIN_LORA, TRAIN_QLORA };
enum train_optim {
    OPTIM_ADAMW,      /* bf16 weights and gradients; float32 master copy and moments: 16 P */
    OPTIM_ADAMW8,     /* moments in 8 bits: 10.03 P */
    OPTIM_ADAMW_BF16, /* moments in bf16, no master copy: 8 P */
    OPTIM_LEAN,       /* 8-bit moments, no master copy, one layer's gradient at a time: 4.03 P */
};

struct plan_train_query {
    const struct hparams *hp;
    const struct plan_weights *w; /* the base: bf16, or what an adapter sits on */
    enum train_method method;
    enum train_optim optim;
    size_t rank;         /* of the adapter */
    bool attention_only; /* adapters on q k v o; else on all seven matrices */
    size_t seq, batch;   /* tokens of a sequence; sequences per device and pass */
    bool recompute;      /* keep each layer's input alone */
    bool whole_logits;   /* else the loss is taken in pieces of 256 rows */
    int zero;            /* 1 = share out optimizer states, 2 = gradients too, 3 = weights too */
    int devices;
};

/* Bytes on one device. */
struct plan_train_use {
    size_t weights, adapters, gradients, master, moments;
    size_t checkpoints; /* inputs of the layers, when the rest is recomputed */
    size_t activations, logits;
    size_t scratch;  /* a quantised matrix, decoded */
    size_t gathered; /* what sharing out brings together for a moment */
    size_t runtime;
    size_t total;
};

void plan_train(struct plan_train_use *u, const struct plan_train_query *q);
size_t plan_lora_params(const struct hparams *hp, size_t rank, bool attention_only);
/* The longest sequences, and the most of them, that fit in room bytes per device; 0 = none. */
size_t plan_train_longest(const struct plan_train_query *q, size_t room);
size_t plan_train_most(const struct plan_train_query *q, size_t room);

/* ---- the release post ---- */

enum post_table { POST_WEIGHTS, POST_CACHE, POST_TRAINING };

struct post_row {
    enum post_table table;
    const char *model, *column;
    double published; /* GB; the cache, and full training of the 8B and 70B, GiB */
    const char *why;  /* it differs from what is needed; NULL = it does not */
};

const struct post_row *plan_post(size_t *n);
/* *rule: what the post's own rule gives; *takes: what is needed. In the unit of `published`, but
 * training in GB throughout. */
void plan_post_row(const struct post_row *r, double *rule, double *takes);

#endif
