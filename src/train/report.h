/* report.h - a run as one HTML page: curves of what was logged, as SVG, and a table; nothing is
 * fetched. */
#ifndef PUNA_TRAIN_REPORT_H
#define PUNA_TRAIN_REPORT_H

#include <jansson.h>

#include "base/err.h"

/* DIR/report.html from trainer_state.json's object. */
int report_write(const char *dir, const json_t *state, struct err *e) MUST_USE;

#endif
