/* optim.h - optimisers: what each keeps of a parameter, and its step.
 *
 * adamw_8bit is bitsandbytes': moments as codes of dynamic maps in blocks of 256, of parameters of
 * 4096 values and more that are no embedding. adafactor is transformers' without relative steps: of
 * a matrix the squares of gradients by row and by column. */
#ifndef PUNA_TRAIN_OPTIM_H
#define PUNA_TRAIN_OPTIM_H

#include "format/enc/enc.h"
#include "ops/train.h"

enum optim { OPTIMISER_ADAMW, OPTIMISER_ADAMW8, OPTIMISER_ADAFACTOR, OPTIMISER_COUNT };
extern const char *const optim_names[OPTIMISER_COUNT];
/* The optimiser of a name, or of one of TRL's names for the same; OPTIMISER_COUNT = none. */
enum optim optim_by_name(const char *name);

/* One of the things that are kept; zero at the start. */
struct optim_part {
    const char *name;
    enum enc enc; /* F32 or U8 */
    size_t n;
    void *p;
};
enum { OPTIM_PARTS = 4 };

struct optim_param {
    float *w;       /* [rows, cols]; NULL where `half` */
    uint16_t *half; /* the same in bf16, rounded at random so that small steps count on average */
    const float *g; /* or bf16 behind it: half_g */
    size_t rows, cols;
    struct optim_part part[OPTIM_PARTS];
    size_t n_part;
    bool decays; /* adamw.decay holds for it */
    bool half_g; /* on a device, beside `half` */
};

/* Which parts there are of a parameter, p NULL; returns how many. */
size_t optim_parts(enum optim kind, size_t rows, size_t cols, bool embedding,
                   struct optim_part part[OPTIM_PARTS]);
/* One step of each of `count`; rounding of parameter i is drawn from rng_u64(seed, i). The bits do
 * not depend on the threads. */
void optim_step(struct ctx *c, const struct train_ops *op, enum optim kind, const struct adamw *a,
                struct optim_param *p, size_t count, uint64_t seed);

#endif
