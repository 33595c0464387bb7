/* inspect_int.h - the report of `puna inspect`: one JSON object, filled and printed. Private to
 * inspect*.c. */
#ifndef PUNA_CMD_INSPECT_INT_H
#define PUNA_CMD_INSPECT_INT_H

#include <jansson.h>

#include "format/checkpoint.h"

/* Of the tensors of one list. */
struct totals {
    uint64_t values;
    uint64_t bytes;
};

/* ---- inspect_report.c: members of j or top ---- */

void report_put(json_t *j, const char *key, json_t *take_value);
void report_int(json_t *j, const char *key, int64_t v);
/* Text as a file has it, which need not be UTF-8. */
void report_text(json_t *j, const char *key, const char *p);
void report_hparams(json_t *top, const struct hparams *h);
void report_generation(json_t *top, const struct gen_defaults *d);
/* Appends t to list and counts it. */
void report_tensor(json_t *list, const struct tensor_view *t, struct totals *sum);
void report_tensors(json_t *top, json_t *take_list, const struct totals *sum);
void report_encodings(json_t *top, const struct checkpoint *c);
void report_gguf(json_t *top, const struct gguf *g);

/* ---- inspect_print.c ---- */

void report_print(const json_t *top);

#endif
