/* checkpoint_int.h - an opened checkpoint from the inside. Private to checkpoint*.c. */
#ifndef PUNA_FORMAT_CHECKPOINT_INT_H
#define PUNA_FORMAT_CHECKPOINT_INT_H

#include "format/checkpoint.h"

/* A tensor and the file that holds it. */
struct placed {
    const struct tensor_view *view;
    const char *file;      /* path, borrowed */
    struct joined *joined; /* where view is one that join_fill has to make; else NULL */
};

struct checkpoint {
    char *path;
    char *warning; /* NULL = none */
    struct hparams hp;
    struct gen_defaults gen;
    struct gguf *gguf; /* a GGUF file, or ... */
    struct meta *meta; /* ... Meta's files, or ... */
    struct st **shard; /* ... safetensors */
    size_t n_shards;
    struct placed *tensor; /* of the shards, sorted by name */
    size_t n;
    struct joined *halved; /* owned: k and v without their copies (drop_kv_copies) */
    size_t n_halved;
};

/* ---- checkpoint_slots.c ---- */

enum axis { AX_NONE, AX_DIM, AX_FFN, AX_VOCAB, AX_Q, AX_KV };

/* Names without ".weight"; in a layer without what layer_prefix says and the number. */
struct slot {
    const char *name[NAMES_COUNT];
    enum axis rows, cols; /* cols AX_NONE: a vector */
};

enum { SLOTS_GLOBAL = 3, SLOTS_LAYER = 9, SLOT_HEAD = SLOTS_GLOBAL - 1 };
extern const struct slot slots_global[SLOTS_GLOBAL], slots_layer[SLOTS_LAYER];

uint64_t axis_size(const struct hparams *h, enum axis a);
/* The slot that a tensor of this name fills, and its layer (-1 = none); NULL = no slot. */
const struct slot *slot_find(const char *name, enum tensor_names names, int64_t *layer);
void slot_name(char *out, size_t size, const struct slot *s, int64_t layer,
               enum tensor_names names);
/* Whether a tensor that fills no slot may be left alone. */
bool slot_may_ignore(const char *name);
/* Whose names this checkpoint's tensors have. */
enum tensor_names checkpoint_names(const struct checkpoint *c);

/* ---- checkpoint.c ---- */

/* By the name in the file: of a shard; of whatever the checkpoint is (a struct checkpoint). */
const struct placed *checkpoint_placed(const struct checkpoint *c, const char *name);
const struct tensor_view *checkpoint_find_own(const void *c, const char *name);

#endif
