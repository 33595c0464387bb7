/* st_write.h - writes a safetensors file (github.com/huggingface/safetensors): header first, data
 * streamed, beside and renamed. */
#ifndef PUNA_FORMAT_ST_WRITE_H
#define PUNA_FORMAT_ST_WRITE_H

#include "base/file.h"
#include "format/tensor.h"

struct st_writer {
    struct out_file out;
    size_t left; /* data bytes still to come */
};

/* Appends the head of a file with these tensors (name, enc, ndim, shape; data unused): up to where
 * the first tensor's data begin, *data bytes of them, tensors one after another. format: the
 * "format" of __metadata__ ("pt" is what transformers asks for), or NULL. */
int st_write_head(struct buf *out, size_t *data, const struct tensor_view *t, size_t n,
                  const char *format, struct err *e) MUST_USE;

/* The header for n tensors, as above. */
int st_write_open(struct st_writer *w, const char *path, const struct tensor_view *t, size_t n,
                  const char *format, struct err *e) MUST_USE;
/* The next n bytes of data, tensors one after another. */
int st_write_data(struct st_writer *w, const void *p, size_t n, struct err *e) MUST_USE;
/* Commits; all data must have come. */
int st_write_close(struct st_writer *w, struct err *e) MUST_USE;
void st_write_abort(struct st_writer *w);

#endif
