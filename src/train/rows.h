/* rows.h - the rows of a data file as JSON objects. */
#ifndef PUNA_TRAIN_ROWS_H
#define PUNA_TRAIN_ROWS_H

#include <jansson.h>

#include "base/err.h"

/* JSON lines, a JSON array of objects, or CSV with a header (by the name's end: .csv); at most
 * 4 GiB. An array of objects, json_decref it. Line numbers are in messages. */
int rows_read(json_t **out, const char *path, char digest[65], struct err *e) MUST_USE;

#endif
