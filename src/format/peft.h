/* peft.h - a LoRA adapter as PEFT saves it: a folder with adapter_config.json and
 * adapter_model.safetensors, or adapter_model.bin of older versions (pth.h). The weight of a module
 * becomes W + scale * B A; with DoRA each of its rows is then scaled to the length in `magnitude`.
 * Whole modules and rows of the embedding may be replaced.
 *
 * What would change the result and is not implemented is refused by name. Unknown keys of the
 * configuration are listed in one warning. */
#ifndef PUNA_FORMAT_PEFT_H
#define PUNA_FORMAT_PEFT_H

#include "format/tensor.h"

struct peft_module {
    char *name;                          /* "model.layers.0.self_attn.q_proj" */
    const struct tensor_view *a;         /* [rank, in]; of an embedding [rank, V]; NULL = no LoRA */
    const struct tensor_view *b;         /* [out, rank]; of an embedding [D, rank] */
    const struct tensor_view *bias;      /* [out] added to B's output; NULL = none */
    const struct tensor_view *magnitude; /* [out] DoRA; NULL = none */
    const struct tensor_view *weight;    /* in place of the base's, whole; NULL = the base's */
    const struct tensor_view *tokens;    /* [n, D] in place of rows of the base's; NULL = none */
    const int32_t *token;                /* [n] which rows; owned by the adapter */
    bool embedding;                      /* a, b are lora_embedding_A, lora_embedding_B */
    float scale;                         /* alpha / rank, or alpha / sqrt(rank) with rsLoRA */
};

struct peft;

int peft_open(struct peft **out, const char *dir, struct err *e) MUST_USE;
/* The same from memory, which is borrowed; `what` names it in messages. */
int peft_open_mem(struct peft **out, const void *config, size_t n_config, const void *tensors,
                  size_t n_tensors, const char *what, struct err *e) MUST_USE;
void peft_close(struct peft *p);

const char *peft_path(const struct peft *p);
const char *peft_base(const struct peft *p);    /* base_model_name_or_path; "" = not said */
const char *peft_warning(const struct peft *p); /* NULL = none */
size_t peft_modules(const struct peft *p);      /* sorted by name */
const struct peft_module *peft_module(const struct peft *p, size_t i);
/* Whether a tied head follows what the adapter does to the embedding (ensure_weight_tying). */
bool peft_keeps_tied(const struct peft *p);

#endif
