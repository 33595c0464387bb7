/* planes.h - weights with planes of their own, for tests of any backend: one kind for everything
 * that struct planes can say. */
#ifndef PUNA_TESTS_PLANES_H
#define PUNA_TESTS_PLANES_H

#include "format/enc/weight.h"

/* One layout to test: everything that struct planes can say. */
struct plane_kind {
    const char *name;
    enum enc enc, scale_enc;
    size_t group;     /* 0 = all inputs */
    size_t row_group; /* F8 and INT8; 0 = all rows */
    bool minus_one, act_order, nested, zeros;
    enum act act;
    float bound;
    size_t act_group;
    enum enc round; /* of NF4 and FP4; 0 = bf16 */
};

extern const struct plane_kind plane_kinds[];
extern const size_t plane_kinds_n;

/* The planes of one weight, at odd addresses. */
struct planes_owned {
    uint8_t *codes, *scale, *zero, *group_of, *map, *nested_map, *nested_absmax;
    int32_t *order;
};

/* A weight of random codes and scales at odd addresses. */
struct weight planes_new(const struct plane_kind *k, size_t rows, size_t cols,
                         struct planes_owned *o);
void planes_release(struct planes_owned *o);

/* A weight whose rows are blocks, of random values or codes. */
struct weight plain(enum enc enc, size_t rows, size_t cols, void **owned);
/* Of E4M3 with a scale for each row, whose inputs are rounded, of NF4 in float32, or of plain(). */
struct weight weight_of(enum enc enc, size_t rows, size_t cols, struct planes_owned *o);

#endif
