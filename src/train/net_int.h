/* net_int.h - private to the network in training. */
#ifndef PUNA_TRAIN_NET_INT_H
#define PUNA_TRAIN_NET_INT_H

#include "train/net.h"

/* Matrices of a layer that see one input: their pairs' A are one matrix of so many times the rank,
 * where nothing keeps them apart (net.joined). */
struct net_group {
    size_t first, count; /* of NET_MATS */
};
enum { NET_GROUPS = 2 };
extern const struct net_group net_groups[NET_GROUPS]; /* q k v, gate up */

/* What one layer keeps of a batch; low: inputs of the B of each pair, of a joined group side by
 * side.
 */
struct net_saved {
    float *x, *q, *k, *v, *o, *lse, *x2, *g, *u;
    float *low[NET_MATS];
};

struct net {
    struct model *m; /* borrowed */
    struct ctx *c;
    const struct train_ops *op;
    struct net_cfg cfg;
    struct net_layer *layer; /* [L] */
    struct net_mat embed, head;
    const float *norm;
    struct param *own_norm;
    bool joined[NET_GROUPS];
    struct param_list params;
    /* norms [2 L + 1, D] and frequencies, those of the model, where ops read them; owned on a
     * device */
    const float **base_norm, *inv_freq;
    float *vectors;
    size_t vector_bytes;
    bool adapters, learning; /* learning: a pass whose gradients are wanted */
    uint64_t batch;
    float scale;
    float *dora; /* with DoRA: [rank, longest side + rank], A W^T and A A^T of a matrix at a time */
    size_t dora_bytes;
    /* room for max_T rows */
    struct net_saved *saved; /* [L] */
    float *slab;
    size_t slab_bytes, max_T;
    struct net_batch at; /* the batch's arrays where ops read them; target is the caller's */
    int32_t *ints;       /* on a device: [4 max_T + 1], what `at` points to there, and [4 max_T] of
                            the loss */
    float *x, *n, *h, *dx, *dn, *dh, *dq, *dk, *dv, *dlow; /* x: what the last norm sees */
    float *drop, *whole, *dwhole;                          /* [T, widest] with dropout; with DoRA */
    float *embed_low, *head_low;  /* [T, rank], [loss_rows, rank]: inputs of the B of those pairs */
    float *logits, *rows, *drows; /* [loss_rows, V], [loss_rows, D] twice */
    size_t loss_rows;             /* whose logits exist at a time */
};

/* Logits that exist at a time take 128 MiB at most, on a device 256: an encoded head is decoded for
 * each part, and the head's own gradient is read and written. The number of rows follows from V
 * and where it runs alone, and so do the bits. */
enum { LOSS_BYTES = 1 << 27, LOSS_BYTES_DEVICE = 1 << 28, LOSS_ROWS = 1024, LOSS_TILE = 128 };

enum { NET_DEVICE_ROWS = 65535 }; /* of a batch: the second axis of a grid */

/* gain and length of a matrix with DoRA, from its parameters. */
void net_dora_gain(struct net *n, struct net_mat *m);
struct net_mat *net_layer_mat(struct net_layer *l, size_t i);
/* Which groups' A are one, as n->cfg and the adapter to go on with say; `from` NULL = none. */
void net_choose_joined(struct net *n, const struct lora *from);
/* Of which joined group matrix i of a layer is; NULL = none. */
const struct net_group *net_group_of(const struct net *n, size_t i);
/* Fills layer, embed, head, norm and param. */
int net_build(struct net *n, struct err *e) MUST_USE;

#endif
