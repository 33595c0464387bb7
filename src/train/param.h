/* param.h - what learns: values, a gradient, and what the optimiser keeps. */
#ifndef PUNA_TRAIN_PARAM_H
#define PUNA_TRAIN_PARAM_H

#include "train/optim.h"

/* Something that learns. w, half, g and the parts are in the list's memory: where that is not the
 * process's own, ops may follow them, others go through param_read and param_write. */
struct param {
    char *name;     /* the tensor's name in what is written; owned */
    float *w;       /* [rows, cols] NULL where `half` */
    uint16_t *half; /* the same in bf16 (net_cfg.stochastic) */
    float *g;       /* gradient; with half_g bf16 behind it */
    size_t rows, cols;
    struct optim_part part[OPTIM_PARTS]; /* what the optimiser keeps */
    size_t n_part;
    void *mem; /* all of it; owned; NULL where that of one before holds it */
    size_t bytes;
    /* g of such a one is not cleared after a step: what comes first next overwrites it. That this
     * is still to come, fresh says. */
    bool overwritten, fresh;
    bool half_g;
    bool decay;  /* weight decay applies */
    size_t turn; /* head size where the model has the rows in another order than Hugging Face (the
                    order of GGUF and Meta, MODEL.md); 0 = the same */
};

struct param_list {
    struct param **p; /* owned, each and all */
    size_t n;
    struct ctx *on; /* whose memory; NULL = the process's own */
    double *norm;   /* there, of all gradients; NULL = the same */
};

/* PARAM_HEAD: a matrix whose gradient comes in parts. */
enum param_kind { PARAM_SMALL, PARAM_MATRIX, PARAM_HEAD, PARAM_EMBEDDING };
enum param_half { PARAM_HALF_VALUES = 1, PARAM_HALF_GRADIENT = 2 }; /* in bf16 alone */

/* A parameter with room for its gradient and what the optimiser keeps, at the list's end; all of it
 * is zero. Matrices decay. half: of enum param_half; what is small stays float32, and but for a
 * PARAM_MATRIX its gradient. Takes name. */
int param_new(struct param_list *l, struct param **out, char *name, size_t rows, size_t cols,
              enum param_kind kind, enum optim optim, unsigned half, struct err *e) MUST_USE;
/* `count` of them, all PARAM_SMALL of one shape, whose values lie one after the other, and whose
 * gradients do: out[0]'s are those of one of count * rows rows. rows * cols: a multiple of 4. Takes
 * the names. */
int param_new_together(struct param_list *l, struct param **out, char *const *name, size_t count,
                       size_t rows, size_t cols, enum optim optim, struct err *e) MUST_USE;
void param_list_release(struct param_list *l);
size_t param_count(const struct param_list *l); /* values of all */
size_t param_gradient_bytes(const struct param *p);
/* Bytes between the list's memory and the process's own. */
int param_read(const struct param_list *l, void *to, const void *from, size_t bytes,
               struct err *e) MUST_USE;
int param_write(const struct param_list *l, void *to, const void *from, size_t bytes,
                struct err *e) MUST_USE;
/* *at: the same values in the process's own memory: from itself, or a copy in *owned, free() it. */
int param_view(const struct param_list *l, const void **at, void **owned, const void *from,
               size_t bytes, struct err *e) MUST_USE;
/* Norm of all gradients as one vector. Fails where a device failed since it was last asked. */
int param_norm(const struct param_list *l, struct ctx *c, const struct train_ops *op, double *norm,
               struct err *e) MUST_USE;
/* One step of the optimiser; gradients count as zero after it. a->decay holds for what decays. */
void param_step(const struct param_list *l, struct ctx *c, const struct train_ops *op,
                enum optim optim, const struct adamw *a, uint64_t seed);

#endif
