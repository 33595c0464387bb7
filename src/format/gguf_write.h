/* gguf_write.h - the head of a GGUF v3 file (github.com/ggml-org/ggml, docs/gguf.md): metadata and
 * the list of tensors. Data follow it, each tensor at a multiple of GGUF_ALIGN; who writes them
 * streams them. */
#ifndef PUNA_FORMAT_GGUF_WRITE_H
#define PUNA_FORMAT_GGUF_WRITE_H

#include "base/buf.h"
#include "format/tensor.h"

enum { GGUF_ALIGN = 32 };

/* Metadata as they are added, in order. */
struct gguf_meta {
    struct buf b; /* owned: key, type, value; one after the other */
    uint64_t n;
};

void gguf_meta_init(struct gguf_meta *m);
void gguf_meta_release(struct gguf_meta *m); /* legal on a zeroed struct */
void gguf_put_u32(struct gguf_meta *m, const char *key, uint32_t v);
void gguf_put_f32(struct gguf_meta *m, const char *key, float v);
void gguf_put_bool(struct gguf_meta *m, const char *key, bool v);
void gguf_put_str(struct gguf_meta *m, const char *key, const char *p, size_t n);
/* An array of n strings: followed by n calls of gguf_put_item. */
void gguf_put_strs(struct gguf_meta *m, const char *key, uint64_t n);
void gguf_put_item(struct gguf_meta *m, const char *p, size_t n);
void gguf_put_i32s(struct gguf_meta *m, const char *key, const int32_t *p, size_t n);

/* Appends the head of a file with these tensors (name, enc, ndim, shape, nbytes; data unused), up
 * to where the first tensor's data begin. Tensors lie in order. -1 when an encoding has no GGUF
 * type or the metadata were too long. */
int gguf_write_head(struct buf *out, const struct gguf_meta *m, const struct tensor_view *t,
                    size_t n, struct err *e) MUST_USE;
/* n up to the next multiple of GGUF_ALIGN. */
size_t gguf_align(size_t n);

#endif
