/* bench_products.h - `puna bench --products`: the matrix products of a model's layers alone. */
#ifndef PUNA_CMD_BENCH_PRODUCTS_H
#define PUNA_CMD_BENCH_PRODUCTS_H

#include <jansson.h>

#include "engine/session.h"

/* The products of all layers with T random rows, kind after kind (q k v; o; gate and up; down),
 * each kind `reps` times after a warm-up: appends to list {"rows", "layer_us", "qkv_us", "o_us",
 * "gate_up_us", "down_us": medians for one layer, "bytes": of a layer's weights as they are read}.
 */
int bench_products(struct engine *g, size_t T, size_t reps, json_t *list, struct err *e) MUST_USE;

#endif
