/* safetensors.h - one safetensors file (github.com/huggingface/safetensors): mapped,
 * validated whole before anything is handed out, nothing copied.
 *
 * Stricter than the reference reader where readers disagree: duplicate keys, names over
 * 4 KiB and bytes that belong to no tensor are errors. */
#ifndef PUNA_FORMAT_SAFETENSORS_H
#define PUNA_FORMAT_SAFETENSORS_H

#include <jansson.h>

#include "format/tensor.h"

struct st;

int st_open(struct st **out, const char *path, struct err *e) MUST_USE;
/* The same from memory, which is borrowed; `what` names it in messages. */
int st_open_mem(struct st **out, const void *p, size_t n, const char *what, struct err *e) MUST_USE;
void st_close(struct st *s);

const char *st_path(const struct st *s);
/* Tensors in the order of their data. */
size_t st_tensors(const struct st *s);
const struct tensor_view *st_tensor(const struct st *s, size_t i);
const struct tensor_view *st_find(const struct st *s, const char *name); /* NULL = absent */
/* "__metadata__": an object of strings, borrowed; NULL = absent. */
const json_t *st_metadata(const struct st *s);

#endif
