/* metrics.h - histograms of the requests, under the names of text-generation-inference and of vLLM.
 */
#ifndef PUNA_SERVER_METRICS_H
#define PUNA_SERVER_METRICS_H

#include "server/gen.h"

enum metric {
    /* text-generation-inference's: seconds, then tokens */
    M_DURATION, /* from the request to its end */
    M_VALIDATION,
    M_QUEUE,
    M_INFERENCE,
    M_PER_TOKEN,
    M_GENERATED,
    M_INPUT,
    M_MAX_NEW,
    /* vLLM's */
    M_FIRST, /* seconds from the request to its first token */
    M_BETWEEN,
    M_V_PER_TOKEN,
    M_V_DURATION,
    M_V_QUEUE,
    M_V_INFERENCE,
    M_V_PREFILL,
    M_V_DECODE,
    M_V_INPUT,
    M_V_GENERATED,
    M_V_MAX,
    M_COUNT
};
enum failure { F_VALIDATION, F_GENERATION, F_OVERLOADED, F_DROPPED, F_COUNT };

struct metrics;

/* max_tokens: the end of the histograms of tokens. */
struct metrics *metrics_new(size_t max_tokens);
void metrics_free(struct metrics *m);
void metrics_note(struct metrics *m, enum metric which, double x);
void metrics_failed(struct metrics *m, enum failure why);
/* An answer that ended: all of its figures. */
void metrics_ended(struct metrics *m, const struct gen *g);
/* A model's scheduler; labels of vLLM's lines: "name=\"value\",...". */
struct model_stats {
    const char *labels;
    struct sched_stats st;
};
/* Prometheus text: of all models together, and vLLM's lines of each of the n; its histograms and
 * ends are those of all, under the first one's labels. */
void metrics_write(const struct metrics *m, const struct sched_stats *all,
                   const struct model_stats *of, size_t n, struct buf *out);

#endif
