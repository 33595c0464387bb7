/* pick.h - what is told of a row of logits where it lies, so that the row need not travel: the head
 * of it, the sum of its weights, an id that is drawn. Read the same by the C compiler and nvcc. */
#ifndef PUNA_OPS_PICK_H
#define PUNA_OPS_PICK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/num.h"

enum { PICK_MOST = 256 };

/* What penalties and biases make of one logit. */
struct pick_change {
    int32_t id;
    float add, by, less; /* x + add; that divided by `by` if above 0, else times it; minus less */
};

/* Nothing of it can be contracted, so that a device has the same bits: the difference of two floats
 * as double, rounded, is theirs. */
HD static inline float pick_changed(float x, const struct pick_change *c)
{
    x += c->add;
    x = x > 0 ? x / c->by : x * c->by;
    return (float)((double)x - (double)c->less);
}

/* What is wanted of row `row` of the last pass's logits. A weight is exp((logit - the largest) /
 * temperature). */
struct pick_ask {
    size_t row;
    const uint64_t *allowed; /* bit id % 64 of word id / 64: the ids that count; NULL = all */
    const struct pick_change *change; /* [n_change] of different ids, for this answer alone */
    size_t n_change;
    double temperature; /* 0 = no sum is wanted */
    bool draw;          /* an id is: that at which the sum, by ids, passes u times all */
    double u;           /* 0 <= u < 1 */
    /* Above 0: an id is, where the list ends before it is known. Of the likeliest ids that hold
     * this part of the sum those count that weigh `least` or more; it is that at which their sum,
     * likeliest first, passes u times theirs. Without `draw` and `bare`. */
    double part, least;
    int32_t at; /* an id whose logit is wanted */
    bool bare;  /* no list is: `drawn` is all, without a draw the likeliest if it is finite */
};

/* Of a row of logits, or of the ids that a mask allows. */
struct pick_list {
    int32_t n;        /* the likeliest: at most PICK_MOST, likeliest first, equal ones by id; 0 = it
                       * could not be told, or a bare one was asked for */
    int32_t complete; /* there are no others, but for those at minus infinity */
    int32_t bad;      /* the row has a NaN, allowed or not */
    int32_t drawn; /* -1 = none was asked for, two ids are too near to u, or the list is enough */
    float at;      /* the logit of ask.at, changed or not, allowed or not */
    double sum;    /* of the weights, within PICK_SLACK; where an id is drawn, PICK_DRAW_SLACK */
    int32_t id[PICK_MOST];
    float logit[PICK_MOST];
};

/* Relative error of `sum`. Differences, the factor and their product are float32: 2.4e-7 of an
 * exponent in base 2, which below -64 adds up to nothing, is 1.1e-5 of a term; exp2f adds 2.4e-7.
 */
#define PICK_SLACK 2e-5
/* The same in double: 2^-53 for each of V sums, three times (all of them, those up to an id, those
 * that u leaves), which 131072 ids make 4.4e-11; exponents add 2e-13. */
#define PICK_DRAW_SLACK 1e-10

#endif
