/* deberta.h - DeBERTa-v2/v3 with a classification head (He et al. 2021, arXiv:2111.09543; the
 * network of Prompt Guard): attention over content and relative positions, no absolute ones.
 *
 *   score(i, j) = (Q_i K_j + Q_i Kr[b] + K_j Qr[b]) / sqrt(3 hd),   b = bucket(i - j) + buckets
 *
 * Kr and Qr are the same projections of the normalised table of relative positions. */
#ifndef PUNA_MODEL_DEBERTA_H
#define PUNA_MODEL_DEBERTA_H

#include "format/safetensors.h"
#include "ops/ops.h"

enum { DEBERTA_LABELS = 16, DEBERTA_MAX_POS = 4096 };

struct deberta;

/* Opens a folder with config.json (model_type deberta-v2) and model.safetensors. ctx is borrowed,
 * drives nothing else meanwhile, and multiplies in float32 whatever it is set to. */
int deberta_open(struct deberta **out, struct ctx *c, const char *dir, struct err *e) MUST_USE;
void deberta_close(struct deberta *m);
size_t deberta_labels(const struct deberta *m);
size_t deberta_dim(const struct deberta *m); /* width D of the hidden states */
const char *deberta_label(const struct deberta *m,
                          size_t i);               /* of config.json; "LABEL_i" without */
size_t deberta_positions(const struct deberta *m); /* the longest input, in tokens */
size_t deberta_vocab(const struct deberta *m);
/* Logits [labels] of ids[0..n), n from 1 to deberta_positions, every id below deberta_vocab. hidden
 * (may be NULL): the hidden states after the embedding and after each layer, [layers + 1][n][D]. */
int deberta_forward(struct deberta *m, const int32_t *ids, size_t n, float *logits, float *hidden,
                    struct err *e) MUST_USE;
/* What the head reads of ids: the last hidden state of the first token, [D]. */
int deberta_feature(struct deberta *m, const int32_t *ids, size_t n, float *out,
                    struct err *e) MUST_USE;

/* The bucket of a relative position, for `mid` buckets to each side and positions below `most`. */
int deberta_bucket(int relative, int mid, int most);

#endif
