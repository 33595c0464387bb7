/* pick.h - the head of a row of logits, made where the row lies, so that the row need not travel:
 * read the same by the C compiler and nvcc. */
#ifndef PUNA_OPS_PICK_H
#define PUNA_OPS_PICK_H

#include <stdint.h>

enum { PICK_MOST = 256 };

/* Of a row of logits, or of the ids that a mask allows. */
struct pick_list {
    int32_t n;        /* the likeliest: at most PICK_MOST, likeliest first, equal ones by id; 0 = it
                       * could not be told */
    int32_t complete; /* there are no others, but for those at minus infinity */
    int32_t bad;      /* the row has a NaN, allowed or not */
    int32_t id[PICK_MOST];
    float logit[PICK_MOST];
    double sum; /* of exp((logit - the largest) / temperature) over all, within PICK_SLACK */
};

/* Relative error of `sum`. Differences, the factor and their product are float32: 2.4e-7 of an
 * exponent in base 2, which below -64 adds up to nothing, is 1.1e-5 of a term; exp2f adds 2.4e-7.
 */
#define PICK_SLACK 2e-5

#endif
