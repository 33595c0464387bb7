/* guard_head.h - the head of a DeBERTa classifier in training, over features of a frozen encoder:
 *
 *   logits = W2 drop(gelu(W1 x + b1)) + b2
 *
 * x [D] is the last hidden state of the first token; W1 is transformers' pooler.dense, W2 its
 * classifier. Everything is float32. */
#ifndef PUNA_TRAIN_GUARD_HEAD_H
#define PUNA_TRAIN_GUARD_HEAD_H

#include "format/safetensors.h"
#include "train/param.h"

struct guard_head;

/* From the tensors of a checkpoint, for batches of up to `most` rows; c and op are borrowed. */
int guard_head_new(struct guard_head **out, struct ctx *c, const struct train_ops *op,
                   const struct st *from, size_t labels, size_t dim, size_t most,
                   struct err *e) MUST_USE;
void guard_head_free(struct guard_head *h);
const struct param_list *guard_head_params(const struct guard_head *h);
/* nll[i] of feature[n, D] with label[n]. With coef (NULL = nothing is learnt) the gradient of
 * sum(coef[i] * nll[i]) is added to the parameters', and a share `dropout` of what the classifier
 * reads is left out, by the bits of seed. logits (may be NULL) gets [n, labels]. */
void guard_head_loss(struct guard_head *h, const float *feature, const int32_t *label, size_t n,
                     const float *coef, double dropout, uint64_t seed, float *nll, float *logits);

#endif
