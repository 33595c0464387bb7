/* log.h - what a run logs: log_history of trainer_state.json, metrics.jsonl, TensorBoard's files.
 */
#ifndef PUNA_TRAIN_LOG_H
#define PUNA_TRAIN_LOG_H

#include <jansson.h>
#include <stdio.h>

#include "base/err.h"

struct log {
    json_t *rows; /* log_history; owned. A run that goes on sets it before log_open */
    FILE *metrics;
    struct events *events; /* NULL = none */
    const char *dir;       /* borrowed */
};

/* DIR/metrics.jsonl says what `rows` says: lines of steps that are taken again go. */
int log_open(struct log *l, const char *dir, bool events, struct err *e) MUST_USE;
/* A row with "step", taken; it is in the files when this returns. Names that begin with eval_ are
 * curves of evaluation. */
int log_row(struct log *l, json_t *row, struct err *e) MUST_USE;
int log_close(struct log *l, struct err *e) MUST_USE; /* legal on a zeroed struct */

#endif
