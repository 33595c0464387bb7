/* qlora.h - a frozen base in few bits: matrices of layers that a file holds in 16 or 32 bits are
 * quantised as bitsandbytes does on load. Embedding, head and norms stay as they are, and so does
 * what is quantised already. */
#ifndef PUNA_TRAIN_QLORA_H
#define PUNA_TRAIN_QLORA_H

#include "model/llama.h"

enum qlora_kind {
    QLORA_NF4,
    QLORA_FP4,
    QLORA_INT8, /* LLM.int8's rows; inputs are not rounded */
};

struct qlora_cfg {
    enum qlora_kind kind;
    bool nested; /* 4 bits: scales in 8 bits, too */
};

struct qlora;
/* Changes m's matrices in place; the pages of the file that they were in are given back. Free it
 * after m's last use. *n = how many were quantised. Takes c's threads. */
int qlora_new(struct qlora **out, size_t *n, struct model *m, const struct qlora_cfg *cfg,
              struct ctx *c, struct err *e) MUST_USE;
void qlora_free(struct qlora *q);
/* Bytes of all that was quantised. */
size_t qlora_bytes(const struct qlora *q);

#endif
