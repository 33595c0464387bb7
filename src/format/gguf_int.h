/* gguf_int.h - an opened GGUF file from the inside: gguf.c reads it, gguf_ask.c answers. Private to
 * src/format. */
#ifndef PUNA_FORMAT_GGUF_INT_H
#define PUNA_FORMAT_GGUF_INT_H

#include "base/file.h"
#include "format/gguf.h"

enum { GGUF_MAX_NAME = 63 };

enum gguf_type {
    T_U8,
    T_I8,
    T_U16,
    T_I16,
    T_U32,
    T_I32,
    T_F32,
    T_BOOL,
    T_STR,
    T_ARR,
    T_U64,
    T_I64,
    T_F64,
    T_COUNT
};

struct pair {
    struct gguf_str key;
    enum gguf_type type;
    enum gguf_type elem; /* arrays */
    size_t n;            /* arrays: elements; strings: bytes */
    const uint8_t *at;   /* the value, an array's first element, a string's first byte */
};

struct entry {
    struct tensor_view view;
    char name[GGUF_MAX_NAME + 1];
};

/* One file while it is parsed: where the walk stands. */
struct cursor {
    const uint8_t *p;
    size_t left;
};

struct part {
    char *path;
    struct map map; /* empty when the bytes are borrowed */
    const uint8_t *p;
    size_t len;
    struct pair *pair; /* in file order */
    struct pair **by_key;
    size_t n_pairs;
    size_t n_tensors;
    struct cursor infos; /* where the tensor infos begin */
};

struct gguf {
    uint32_t version;
    struct part *part; /* the first one's metadata speak for the set */
    size_t n_parts;
    struct entry *entry; /* of all parts */
    struct entry **by_name;
    size_t n_entries;
};

/* Of each type its name, and the bytes of a value; 0 = not of fixed size. */
struct gguf_type_info {
    const char *name;
    size_t size;
};
extern const struct gguf_type_info gguf_types[T_COUNT];

/* As strcmp, of strings with lengths. */
int gguf_str_cmp(const char *a, size_t na, const char *b, size_t nb);

#endif
