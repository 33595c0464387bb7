/* gguf.h - GGUF v2/v3 (github.com/ggml-org/ggml, docs/gguf.md), single file or
 * split set. Mapped, validated whole before anything is handed out. */
#ifndef PUNA_FORMAT_GGUF_H
#define PUNA_FORMAT_GGUF_H

#include "format/tensor.h"

struct gguf;

/* Any file of a split set (NAME-00001-of-00003.gguf) opens the whole set. */
int gguf_open(struct gguf **out, const char *path, struct err *e) MUST_USE;
/* The same for one file in memory, which is borrowed; `what` names it in messages. */
int gguf_open_mem(struct gguf **out, const void *p, size_t n, const char *what,
                  struct err *e) MUST_USE;
void gguf_close(struct gguf *g);
/* NAME-00002-of-00005.gguf: the length of NAME and both numbers. false = not one of a set. */
bool gguf_split_name(const char *path, size_t *stem, unsigned *no, unsigned *count);
const char *gguf_path(const struct gguf *g);
uint32_t gguf_version(const struct gguf *g);

size_t gguf_tensors(const struct gguf *g);
const struct tensor_view *gguf_tensor(const struct gguf *g, size_t i);
const struct tensor_view *gguf_find(const struct gguf *g, const char *name); /* NULL = absent */

/* Metadata. 1 = found, 0 = absent (*out untouched), -1 = another type. Integers of
 * any width are accepted where they fit; floats of both widths. */
int gguf_get_int(const struct gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                 struct err *e) MUST_USE;
int gguf_get_num(const struct gguf *g, const char *key, double *out, struct err *e) MUST_USE;
int gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err *e) MUST_USE;
/* A view into the mapping; not NUL-terminated. */
struct gguf_str {
    const char *p;
    size_t n;
};
int gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out,
                 struct err *e) MUST_USE;
/* Arrays: of strings (walk with gguf_strs_next), of i32/u32, of f32. */
struct gguf_strs {
    size_t n;          /* strings that are left */
    const uint8_t *at; /* private cursor */
};
int gguf_get_strs(const struct gguf *g, const char *key, struct gguf_strs *out,
                  struct err *e) MUST_USE;
struct gguf_str gguf_strs_next(struct gguf_strs *s);
/* values may be unaligned: read with memcpy. */
int gguf_get_i32s(const struct gguf *g, const char *key, const void **out, size_t *n,
                  struct err *e) MUST_USE;
int gguf_get_f32s(const struct gguf *g, const char *key, const void **out, size_t *n,
                  struct err *e) MUST_USE;

/* True when a key begins with prefix. */
bool gguf_has_prefix(const struct gguf *g, const char *prefix);
/* Walk over all metadata, in file order, for `puna inspect`: calls fn with the key, the GGUF type
 * (9 = array) and a one-line rendering of the value. */
void gguf_each_meta(const struct gguf *g,
                    void (*fn)(void *arg, struct gguf_str key, uint32_t type, const char *value),
                    void *arg);

#endif
