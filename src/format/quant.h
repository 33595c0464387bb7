/* quant.h - quantised Hugging Face checkpoints: what quantization_config says, and which tensors
 * make up one matrix. How a matrix is stored is decided by the tensors that are there; the
 * config gives what no tensor says (the version of GPTQ's zero points, the rule for activations).
 *
 * Sources: the code of transformers, AutoAWQ, AutoGPTQ and GPTQModel, bitsandbytes and
 * compressed-tensors; docs/formats.md lists the layouts. */
#ifndef PUNA_FORMAT_QUANT_H
#define PUNA_FORMAT_QUANT_H

#include <jansson.h>

#include "format/enc/weight.h"
#include "format/tensor.h"

enum quant_method {
    QUANT_NONE,
    QUANT_AWQ,
    QUANT_BITSANDBYTES,
    QUANT_COMPRESSED,
    QUANT_FBGEMM_FP8,
    QUANT_FP8,
    QUANT_GPTQ,
};

/* How a matrix of compressed-tensors is stored. */
enum quant_kind { QUANT_F8, QUANT_INT8, QUANT_PACKED4, QUANT_PACKED8, QUANT_KINDS };

struct quant {
    enum quant_method method;
    int64_t bits;    /* AWQ, GPTQ */
    int64_t group;   /* AWQ, GPTQ: group_size; -1 = all inputs */
    bool per_module; /* GPTQModel's "dynamic": bits and groups follow from the tensors */
    bool v2;         /* GPTQ: zero points as they are, not minus one */
    enum act inputs[QUANT_KINDS]; /* without a scale in the file; LLM.int8 has a rule of its own */
    float act_bound;              /* FBGEMM: of the largest input */
    float threshold;              /* LLM.int8: inputs from here on stay floats */
};

/* As users write it: "gptq"; "" for none. */
const char *quant_method_name(enum quant_method m);

/* quantization_config, compression_config, or a whole quantize_config.json or quant_config.json.
 * `what` prefixes messages. Refuses methods and variants by name. */
int quant_read(struct quant *q, const json_t *config, const char *what, struct err *e) MUST_USE;

/* The tensors to look in. `file` says where one lies, for messages. */
struct quant_src {
    const void *arg;
    const struct tensor_view *(*find)(const void *arg, const char *name);
    const char *(*file)(const void *arg, const struct tensor_view *t);
    const char *path;
};

/* The matrix STEM (a name without ".weight") of rows x cols. Every shape is checked. w borrows
 * from src, w->name too; w->p.order is left NULL. */
int quant_weight(struct weight *w, const struct quant *q, const struct quant_src *src,
                 const char *stem, size_t rows, size_t cols, struct err *e) MUST_USE;

/* If name ends like a plane of a quantised matrix: true, and the length of its stem. */
bool quant_plane_stem(const char *name, size_t *stem);
/* Whether the plane `name` belongs to a matrix that is stored as w. */
bool quant_plane_used(const char *name, const struct weight *w);

/* The inputs of w sorted by scale group (planes.order), malloc'd; NULL when w needs none. */
int32_t *quant_order(const struct weight *w);

/* "groups of 128, act-order" and the like; "" for encodings of one plane. */
void quant_detail(char out[96], const struct weight *w);

/* quant_state.bitsandbytes__*: JSON in a tensor of bytes. */
struct bnb_state {
    bool fp4;
    int64_t block, nested_block; /* nested_block 0: no double quantisation */
    double nested_offset;
    enum enc dtype;
    int64_t rows, cols;
};
int bnb_state_read(struct bnb_state *s, const void *p, size_t n, const char *what,
                   struct err *e) MUST_USE;

#endif
