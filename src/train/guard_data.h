/* guard_data.h - labelled texts: {"text", "label"} rows of a file, and what a frozen encoder makes
 * of each. */
#ifndef PUNA_TRAIN_GUARD_DATA_H
#define PUNA_TRAIN_GUARD_DATA_H

#include "model/deberta.h"
#include "text/unigram.h"
#include "train/data.h"

struct guard_data {
    struct data rows; /* ids with [CLS] and [SEP], no labels of tokens */
    int32_t *label;   /* [rows.n] owned */
    float *feature;   /* [rows.n, D] owned; NULL before guard_data_encode */
    size_t count[DEBERTA_LABELS];
};

struct guard_data_cfg {
    const struct deberta *model; /* its labels and its longest input */
    const struct unigram *tok;
    const char *text_field, *label_field;
};

/* A label is a name of the model's (in any case of letters) or its number. Texts that are longer
 * than the model reads are cut at the end: rows.cut. */
int guard_data_read(struct guard_data *d, const char *path, const struct guard_data_cfg *cfg,
                    struct err *e) MUST_USE;
void guard_data_release(struct guard_data *d);
/* Moves a share of each class, drawn by the seed, from d to held. */
void guard_data_split(struct guard_data *d, struct guard_data *held, double share, uint64_t seed);
/* Fills feature; done (may be NULL) is called after each text. */
int guard_data_encode(struct guard_data *d, struct deberta *m, void (*done)(void *arg), void *arg,
                      struct err *e) MUST_USE;

#endif
