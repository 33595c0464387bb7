/* schedule.c - learning rates, as transformers computes them. */
#include <math.h>

#include "train/run.h"

const char *const train_schedules[SCHED_COUNT] = {
    [SCHED_LINEAR] = "linear",
    [SCHED_COSINE] = "cosine",
    [SCHED_CONSTANT] = "constant",
    [SCHED_CONSTANT_WARMUP] = "constant_with_warmup",
    [SCHED_INVERSE_SQRT] = "inverse_sqrt",
    [SCHED_WSD] = "warmup_stable_decay",
    [SCHED_POLYNOMIAL] = "polynomial",
    [SCHED_COSINE_RESTARTS] = "cosine_with_restarts",
    [SCHED_COSINE_MIN] = "cosine_with_min_lr",
};

const struct schedule_args train_schedule_plain = { .num_cycles = 1, .power = 1 };

static double half_cosine(double done)
{
    return fmax(0, 0.5 * (1 + cos(M_PI * done)));
}

double train_schedule_at(enum train_schedule s, const struct schedule_args *a, size_t i, size_t n,
                         size_t warmup)
{
    const double at = (double)i, w = (double)(warmup ? warmup : 1), total = (double)n;
    const double left = total > (double)warmup ? total - (double)warmup : 1;
    const double done = (at - (double)warmup) / left, decay = ceil(total / 10);

    if (s == SCHED_CONSTANT)
        return 1;
    if (i < warmup)
        return at / w;
    switch (s) {
    case SCHED_LINEAR:
        return done < 1 ? 1 - done : 0;
    case SCHED_COSINE:
        return half_cosine(done);
    case SCHED_COSINE_MIN:
        return half_cosine(done) * (1 - a->floor) + a->floor;
    case SCHED_COSINE_RESTARTS:
        return done < 1 ? half_cosine(fmod(a->num_cycles * done, 1)) : 0;
    case SCHED_POLYNOMIAL:
        return done < 1 ? (1 - a->end) * pow(1 - done, a->power) + a->end : a->end;
    case SCHED_INVERSE_SQRT:
        /* timescale: the warm-up, or 10,000 steps without one */
        return 1 / sqrt((at - (double)warmup + (warmup ? w : 10000)) / (warmup ? w : 10000));
    case SCHED_WSD:
        return at < total - decay ? 1 : fmax(0, (total - at) / decay);
    default:
        return 1;
    }
}
