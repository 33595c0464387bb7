/* sample.h - from logits to a token. Order (as transformers applies it): logit bias,
 * repetition / frequency / presence penalty, temperature, top-k, top-p, min-p, draw.
 * Ids that are not allowed count as impossible in all of it.
 * Deterministic: the draw is rng_uniform(seed, tokens answered so far); ties go to the lower id. */
#ifndef PUNA_ENGINE_SAMPLE_H
#define PUNA_ENGINE_SAMPLE_H

#include "base/err.h"
#include "ops/pick.h"

struct logit_bias {
    int32_t id;
    float bias; /* added to the logit; -100..100 */
};

struct sampling {
    double temperature;        /* 0 = greedy */
    double top_p;              /* 1 = off */
    int64_t top_k;             /* 0 = off */
    double min_p;              /* 0 = off */
    double repetition_penalty; /* 1 = off; over prompt and answer (CTRL, as transformers) */
    double frequency_penalty;  /* 0 = off; over the answer (OpenAI) */
    double presence_penalty;   /* 0 = off; over the answer (OpenAI) */
    uint64_t seed;
    const struct logit_bias *bias; /* borrowed */
    size_t n_bias;
    const uint64_t *allowed; /* bit id % 64 of word id / 64: the only ids that may come, at least
                                one; NULL = all; borrowed */
};

/* Temperature 1, everything else off. */
void sampling_init(struct sampling *s);
/* Ranges: temperature 0..100, top_p (0, 1], top_k >= 0, min_p 0..1, penalties as OpenAI. */
int sampling_check(const struct sampling *s, struct err *e) MUST_USE;

struct top_logprob {
    int32_t id;
    float logprob;
};

struct sampler; /* scratch of one sequence */
int sampler_new(struct sampler **out, size_t vocab, struct err *e) MUST_USE;
void sampler_free(struct sampler *s);
/* Picks from logits[vocab] (left unchanged). ids[0..n_prompt) is the prompt, ids[n_prompt..n) the
 * answer so far; the draw uses counter n - n_prompt. -1: the logits are not finite. */
int32_t sampler_pick(struct sampler *s, const struct sampling *p, const float *logits,
                     const int32_t *ids, size_t n_prompt, size_t n);
/* What penalties and biases change, as sampler_pick does: one change of each id. c is made larger
 * where that takes it. */
struct pick_changes {
    struct pick_change *p; /* owned: free it */
    size_t n, cap;
};
void sampler_changes(struct sampler *s, const struct sampling *p, const int32_t *ids,
                     size_t n_prompt, size_t n, struct pick_changes *c);
/* What to ask of a row where it lies (ops/pick.h) to pick from it, but for the row, its changes and
 * `at`; with `answered` tokens of the answer so far. False: all of the row is needed. */
bool sampling_ask(const struct sampling *p, size_t vocab, size_t answered, struct pick_ask *ask);
/* What sampler_pick gives, out of what sampling_ask asked for; -1: not to be told from it, all of
 * the row is needed. */
int32_t sampler_pick_list(const struct sampling *p, const struct pick_list *l, size_t vocab,
                          size_t answered);
/* Of a list of all ids, unchanged, with the sum at temperature 1: log softmax at ask.at; and the k
 * most likely, at most l->n. */
float pick_logprob(const struct pick_list *l);
void pick_top(const struct pick_list *l, size_t k, struct top_logprob *out);
/* log softmax of the raw logits at id. */
float sampler_logprob(const struct sampler *s, const float *logits, int32_t id);
/* How many tokens are likelier than id, and one. */
int32_t sampler_rank(const struct sampler *s, const float *logits, int32_t id);
/* The k most likely tokens by raw logits, most likely first. */
void sampler_top(struct sampler *s, const float *logits, size_t k, struct top_logprob *out);

#endif
