/* net.h - a model in training: which of its matrices learn and how, the forward pass that keeps
 * what the backward pass needs, and the backward pass, written by hand under it.
 *
 * Everything that learns is float32, and so are activations but where the context has them in bf16;
 * what is multiplied is rounded as the context says (ops/train.h). Frozen matrices stay in the
 * encoding of their file. */
#ifndef PUNA_TRAIN_NET_H
#define PUNA_TRAIN_NET_H

#include "model/lora.h"
#include "ops/train.h"
#include "train/param.h"

/* A matrix: frozen, learning itself (own), or with a pair beside it: y = x W^T + scale x A^T B^T.
 * An embedding's: y = row of W + scale B (column of A), A [rank, V], B [D, rank]. */
struct net_mat {
    struct weight w, base; /* base: as the checkpoint has it */
    struct param *own, *a, *b;
    uint64_t number; /* among all: what dropout is drawn from */
    /* DoRA: y = gain * that; gain = mag / |row of W + scale B A|, taken as a constant. With dropout
     * y = x W^T + (gain - 1) * d W^T + gain * scale d A^T B^T, d what dropout leaves of x */
    struct param *mag;       /* [out] */
    float *gain, *gain_less; /* [out] gain, gain - 1 */
    float *length, *squares; /* [out] length: gain / mag; squares: |row of W|^2; all four owned as
                                one block at gain, where ops read them */
    bool mag_is_gain;        /* mag holds an adapter's gains, not yet magnitudes */
    bool adopted, placed;    /* on a device: w, base have something to give back there */
};

struct net_layer {
    struct net_mat q, k, v, o, gate, up, down;
    const float *attn_norm, *ffn_norm; /* [D] */
    struct param *own_attn_norm, *own_ffn_norm;
};

enum { NET_MATS = 7 };
enum { NET_EMBED = 1 << NET_MATS, NET_HEAD = 2 << NET_MATS, NET_TARGETS = NET_MATS + 2 };
/* What a pair can be beside: "q_proj" … in the order of struct net_layer, "embed_tokens", "lm_head"
 */
extern const char *const net_target_names[NET_TARGETS];

enum { NET_SAVES = 5 };
extern const char
    *const net_save_names[NET_SAVES]; /* "embed_tokens" … as modules_to_save has them */

enum { NET_ALL = 1 << 30 };
struct net_cfg {
    bool full;        /* everything learns; else pairs beside `targets` */
    unsigned targets; /* bit i: net_target_names[i] */
    size_t rank;
    double alpha;
    bool rslora; /* scale alpha / sqrt(rank) */
    bool dora;
    double dropout;   /* of what a pair sees */
    double smoothing; /* share of a label that goes to all tokens alike; in learning alone */
    bool dft;         /* a token counts by its probability, taken as a constant */
    double neftune;   /* noise of embeddings: uniform in +-neftune / sqrt(tokens * D); 0 = none */
    unsigned save;    /* bit i: net_save_names[i] learns whole beside the pairs */
    bool reference;   /* passes with net_adapters off are asked for */
    enum optim optim;
    bool stochastic;     /* full: matrices in bf16 alone, rounded at random */
    bool half_gradients; /* and gradients of the layers' matrices, on a device: each comes once */
    bool decay_norms;    /* weight decay reaches norms too */
    const char *init;    /* adapter to go on with; NULL = A random, B zero */
    uint64_t seed;
    size_t recompute; /* so many of the first layers keep their input alone, and compute the rest
                         again; NET_ALL = each */
};

/* Sequences laid end to end. target[t] is what row t should predict, -1 = not asked. */
struct net_batch {
    size_t T, n_seq;
    int32_t *ids, *pos, *back, *target; /* [T]; back = -pos */
    int32_t *cu;                        /* [n_seq + 1] */
};

struct net;
int net_new(struct net **out, struct model *m, struct ctx *c, const struct train_ops *op,
            const struct net_cfg *cfg, struct err *e) MUST_USE;
void net_free(struct net *n);

const struct param_list *net_params(const struct net *n);
float net_scale(const struct net *n);
/* As given, with what an adapter to go on with decided. */
const struct net_cfg *net_config(const struct net *n);
/* Whether what was learnt counts; off = the model as it was, for a forward pass alone. */
void net_adapters(struct net *n, bool on);
/* Which of all batches comes next: what dropout and noise are drawn from. */
void net_draw(struct net *n, uint64_t batch);
/* Parameters have changed: DoRA's gains follow. */
void net_changed(struct net *n);
/* Room for batches of up to T rows. */
int net_reserve(struct net *n, size_t T, struct err *e) MUST_USE;
/* Bytes of everything a run allocates for batches of up to T rows: activations, what learns with
 * its gradients and moments, the scratch of the operations, and, where c is a device, the weights.
 */
size_t net_bytes_for(const struct model *m, const struct ctx *c, const struct train_ops *op,
                     const struct net_cfg *cfg, size_t T);

/* keep: a backward pass follows. Passes fail only where a device does. */
int net_forward(struct net *n, const struct net_batch *b, bool keep, struct err *e) MUST_USE;
/* After net_forward: nll[t] of every row that has a target, 0 elsewhere. With coef the gradient of
 * sum(coef[t] * nll[t]) starts on its way down, and nll is as net_cfg's smoothing and dft make it.
 * The logits exist for a few rows at a time. */
int net_loss(struct net *n, const struct net_batch *b, const float *coef, float *nll,
             struct err *e) MUST_USE;
/* After net_loss with coef: adds to every param's g. */
void net_backward(struct net *n, const struct net_batch *b);

#endif
