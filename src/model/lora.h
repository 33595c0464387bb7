/* lora.h - LoRA adapters, applied unmerged: y = x W^T + scale * (x A^T) B^T, whatever the encoding
 * of W. Several may be loaded; every sequence of a batch names its own (struct batch). */
#ifndef PUNA_MODEL_LORA_H
#define PUNA_MODEL_LORA_H

#include "format/peft.h"
#include "model/llama.h"

/* One module: y = gain * (x W^T + scale * (x A^T) B^T + bias). */
struct lora_pair {
    struct weight whole; /* W in place of the model's; data NULL = the model's */
    struct weight a, b;  /* [rank, in], [out, rank]; a.data NULL = not adapted */
    float scale;
    const float *bias,
        *gain; /* [out] NULL = 0, 1; gain is DoRA's magnitude / |row of W + scale B A| */
};

/* The seven matrices of a layer, as in struct layer, and norms in place of its own (NULL). */
struct lora_layer {
    struct lora_pair q, k, v, o, gate, up, down;
    const float *attn_norm, *ffn_norm; /* [D] */
};

struct lora {
    uint64_t id;              /* no other adapter of this process has had it; not 0 */
    struct peft *peft;        /* owned */
    struct lora_layer *layer; /* [L] */
    size_t layers;
    struct ctx *on; /* where the matrices lie; NULL = the file; outlives it */
    struct lora_pair head;
    struct lora_pair embed;        /* a [rank, V], b [D, rank] */
    struct weight embed_w, head_w; /* in place of the model's; data NULL = the model's */
    const float *norm;             /* [D] likewise */
    const int32_t *token;          /* [n_token] ids whose rows of the embedding are replaced, */
    const float *token_row;        /* [n_token, D] by these; of a tied head too */
    size_t n_token;
    bool tied;    /* token_row counts for the head */
    size_t dim;   /* D */
    size_t vocab; /* rows of embedding and head: the model's V, or more (lora_open_longer) */
    size_t max_rank;
    void **own; /* [n_own] memory of what is not in the adapter's file as it is needed */
    size_t n_own;
};

/* Opens an adapter for m and checks every shape against it. Where m holds the rows of q and k in
 * another order than an adapter's (GGUF, Meta), the adapter's are put in m's. */
int lora_open(struct lora **out, const struct model *m, const char *dir, struct err *e) MUST_USE;
/* The same, and the embedding and head of the adapter may have rows for tokens that m lacks: to be
 * merged, not to be applied. */
int lora_open_longer(struct lora **out, const struct model *m, const char *dir,
                     struct err *e) MUST_USE;
void lora_close(struct lora *l);

/* Scratch of lora_apply, for n rows. */
struct lora_scratch {
    float *low; /* [n, max_rank] */
    size_t max_rank;
    float *y0, *y1; /* [n, out] each, for lora_apply_add alone */
};
/* Rows t .. t+n of y[., out], which is x W^T for x[., in]: becomes what p makes of it. Nothing
 * where p is not adapted. */
void lora_apply(struct ctx *c, const struct lora_pair *p, const struct lora_scratch *s, float *y,
                const float *x, size_t t, size_t n);
/* The same where y is something else plus x W^T. */
void lora_apply_add(struct ctx *c, const struct lora_pair *p, const struct weight *w,
                    const struct lora_scratch *s, float *y, const float *x, size_t t, size_t n);
/* Rows t .. t+n of x[., D], the model's embedding of `token`: becomes the adapter's. */
void lora_embed(struct ctx *c, const struct lora *l, const struct lora_scratch *s, float *x,
                const int32_t *token, size_t t, size_t n);
/* Row i of logits[., V], the model's for row i of x[., D]: becomes the adapter's. */
void lora_head(struct ctx *c, const struct lora *l, const struct lora_scratch *s, float *logits,
               const float *x, size_t V, size_t i);

/* ---- merging ---- */

/* The pair of the matrix of this Hugging Face name ("model.layers.0.mlp.up_proj.weight"), or NULL.
 */
const struct lora_pair *lora_find(const struct lora *l, const char *name);
/* Row `row` of W, x[in], becomes that of the merged matrix; a[rank, in] is p->a in float32, b[rank]
 * scratch. */
void lora_merge_row(const struct lora_pair *p, const float *a, float *b, size_t row, float *x);
/* The embedding's row of a token, x[D]; b[2 * rank] is scratch. */
void lora_merge_embed_row(const struct lora *l, float *b, size_t token, float *x);
/* The same as far as rows are replaced. */
void lora_merge_token_row(const struct lora *l, size_t token, float *x);
/* The tensor of this name that the adapter has in place of the model's: false = none. */
bool lora_whole(const struct lora *l, const char *name, struct weight *out);
/* Whether a tied embedding and head become two matrices. */
bool lora_unties(const struct lora *l);
/* Why it cannot be merged, or NULL. */
const char *lora_unmergeable(const struct lora *l);

#endif
