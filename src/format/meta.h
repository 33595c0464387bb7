/* meta.h - Meta's own files (github.com/meta-llama/llama-models): consolidated.00.pth and on, one
 * for each rank of a model-parallel run, which hold a part of every matrix.
 *
 * One file: its tensors are views. Several: struct joined, filled when asked. */
#ifndef PUNA_FORMAT_META_H
#define PUNA_FORMAT_META_H

#include "format/hparams.h"
#include "format/join.h"

struct meta;

/* DIR/consolidated.00.pth ... consolidated.<n-1>.pth. The sizes of hp say along which axis matrices
 * are cut. Where shards hold copies of the key and value heads (the 405B in 16 parts has 8 heads),
 * the copies are compared and left out. */
int meta_open(struct meta **out, const char *dir, const struct hparams *hp, struct err *e) MUST_USE;
void meta_close(struct meta *m);
size_t meta_shards(const struct meta *m);
/* How often each key and value head was stored; 1 = once. */
size_t meta_copies(const struct meta *m);
size_t meta_tensors(const struct meta *m);
const struct tensor_view *meta_tensor(const struct meta *m, size_t i);
/* The path of the file with (the first piece of) tensor i. */
const char *meta_file(const struct meta *m);
/* The joined tensor behind a view, or NULL when it is mapped. */
struct joined *meta_joined(const struct meta *m, const struct tensor_view *t);

#endif
